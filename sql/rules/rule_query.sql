do $$
begin
  if to_regtype('grace_internal.rule_query') is null then
    create type grace_internal.rule_query as (
      source text, keys text, key_object text, key_columns text, key_list text, start text, due text, condition text, record text
    );
  end if;
end
$$;

-- The pieces of a rule's statements, which are executed as its role and in its time zone: the FROM item, the primary key's columns, the key
-- as jsonb, the same columns of a recordset k, the start of the period, the moment that a row is due (-infinity where what the rule applies
-- to is due at once), the condition, and what users know a record by. They are kept with the rule.
create or replace function grace_internal.make_query(rule grace_internal.rule)
returns grace_internal.rule_query
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    grace_internal.source_of(rule.target),
    string_agg(format('%I.%I', t.relname, a.attname), ', ' order by k.position),
    grace_internal.key_json(
      array_agg(format('%I.%I', t.relname, a.attname) order by k.position), array_agg(a.attname order by k.position),
      array_agg(a.atttypid order by k.position)
    ),
    string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by k.position),
    string_agg(format('k.%I', a.attname), ', ' order by k.position),
    format('(%s)::timestamptz', coalesce(rule.start_expression, 'null')),
    case when rule.start_expression is null then '''-infinity''::timestamptz'
      else format('((%s)::timestamptz + interval %L)', rule.start_expression, rule.period) end,
    format('(%s)', rule.condition),
    grace_internal.record_object(rule.target, rule.columns)
  )::grace_internal.rule_query
  from pg_class t
  cross join lateral unnest(grace_internal.primary_key(t.oid)) with ordinality as k (attnum, position)
  join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
  where t.oid = rule.target
  group by t.oid, t.relname
$$;

-- Where a rule counts from activities, those that other rules have deleted since count, too. Of many records it is asked first whether
-- there are any.
create or replace function grace_internal.rule_query(rule grace_internal.rule, of_one boolean default false)
returns grace_internal.rule_query
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query grace_internal.rule_query := jsonb_populate_record(null::grace_internal.rule_query, rule.query);
begin
  if rule.sources <> '[]' and rule.id is not null then
    v_query.start := format(
      'greatest(%s, case when %s then (select m.at from grace._remembered m where m.rule_id = %s and m.key = %s) end)', v_query.start,
      case when of_one then 'true' else format('exists (select from grace._remembered m where m.rule_id = %s)', rule.id) end,
      rule.id, v_query.key_object
    );
    v_query.due := format('(%s + interval %L)', v_query.start, rule.period);
  end if;
  return v_query;
end
$$;

-- How long before its due date a rule acts: with final_by_due so long that what it deletes has left the buffers by then, a day for the
-- purge included.
create or replace function grace_internal.ahead(rule grace_internal.rule)
returns interval
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when rule.final_by_due then interval '24 hours' + coalesce((
      select max(p.span)
      from grace_internal.protected p
      where p.target in (select grace_internal.cascade_tree(rule.target, true))
    ), '0')
    else interval '0'
  end;
end
$$;

create or replace function grace_internal.next_turn(rule grace_internal.rule, since timestamptz)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select min(t)
    from grace_internal.job j
    cross join lateral grace.schedule_times(j.schedule, 1, since) t
    where j.rule_id = rule.id
  );
end
$$;

-- Up to which due date a run at that moment acts. With final_by_due it can't wait for the turn after, but no period is over before it
-- begins.
create or replace function grace_internal.horizon(rule grace_internal.rule, as_of timestamptz)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
begin
  return case
    when rule.final_by_due then
      least(coalesce(grace_internal.next_turn(rule, as_of), as_of) + grace_internal.ahead(rule), as_of + rule.period)
    else as_of
  end;
end
$$;

-- A moment as text that means the same under every DateStyle and in every time zone.
create or replace function grace_internal.instant(moment timestamptz)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when isfinite(moment) then to_char(timezone('UTC', moment), 'YYYY-MM-DD HH24:MI:SS.US') || '+00' else moment::text
  end;
end
$$;

-- The condition that a row is acted on in a run at that moment.
create or replace function grace_internal.is_due(query grace_internal.rule_query, horizon timestamptz)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when query.due like '''-infinity''%' then query.condition
    else format('%s and %s <= %L::timestamptz', query.condition, query.due, grace_internal.instant(horizon)) end;
end
$$;

-- Why a rule can't act now; null when it can. What must be kept comes first: where that can't be told, nothing goes.
create or replace function grace_internal.rule_problem(rule grace_internal.rule)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := grace_internal.problem_of(rule.depends, rule.home);
begin
  if v_problem is not null then
    return v_problem;
  elsif not exists (select from pg_roles r where r.oid = rule.run_as) then
    return format('the role that it runs as is gone');
  elsif not exists (
    select from grace_internal.runner r where r.role = rule.run_as and grace_internal.runner_stands(r)
  ) then
    return format('the functions that run as role %s are gone', rule.run_as);
  elsif rule.action = 'delete' and not exists (
    select
    from grace_internal.protected p
    where p.target = coalesce(pg_partition_root(rule.target), rule.target) and p.active
  ) then
    return format('%s is not protected any more', rule.target);
  elsif rule.period <= grace_internal.ahead(rule) and rule.final_by_due then
    return format(
      'what it deletes is in the buffer for %s, purge included, and its period is %s', justify_interval(grace_internal.ahead(rule)), rule.period
    );
  end if;
  return null;
end
$$;
