-- The pieces of the statements that find, for rows of an activity's table, the latest of each record that they belong to.
create or replace function grace_internal.activity_sources(target regclass, activities jsonb, path text, role regrole)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'source', a.source::oid,
    'moment', format('%I.%I', grace_internal.alias_of(a.source), a.moment),
    'from', format('%s cross join %s', grace_internal.source_of(a.source), grace_internal.source_of(target)),
    'condition', format(
      '%s and (%s)', l.condition,
      (grace_internal.read_expression(a.source, coalesce(a.condition, 'true'), path, role)).text
    ),
    'keys', k.keys, 'list', k.list, 'columns', k.columns
  )), '[]')
  from jsonb_array_elements_text(activities) t (activity)
  cross join lateral grace_internal.read_activity(target, t.activity, path) a
  cross join lateral grace_internal.link_between(a.source, target, array_to_string(array(select quote_ident(n) from unnest(a.link) n), ', ')) l
  cross join lateral (
    select
      string_agg(format('%I.%I', grace_internal.alias_of(a.source), n.attname), ', ' order by p.position) as keys,
      string_agg(format('k.%I', n.attname), ', ' order by p.position) as list,
      string_agg(format('%I %s', n.attname, format_type(n.atttypid, n.atttypmod)), ', ' order by p.position) as columns
    from unnest(grace_internal.primary_key(a.source)) with ordinality as p (attnum, position)
    join pg_attribute n on n.attrelid = a.source and n.attnum = p.attnum
  ) as k
  where k.keys is not null
$$;

-- What the pieces above refer to beside what the start of the period does: the keys of the activities' tables.
create or replace function grace_internal.sources_depend(sources jsonb, role regrole)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(d.dependency), '[]')
  from jsonb_to_recordset(sources) as s (source oid, keys text)
  cross join lateral grace_internal.read_expression(s.source, format('(%s) is null', s.keys), 'pg_catalog', role) as e
  cross join lateral jsonb_array_elements(e.depends) as d (dependency)
$$;

-- What of other rules' activities goes when a rule deletes rows: by itself, or by a cascade. What goes with the very record that it counts
-- for is left out.
create or replace function grace_internal.counted_from(rule grace_internal.rule)
returns table (counting grace_internal.rule, source regclass, pieces jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_root constant regclass := coalesce(pg_partition_root(rule.target), rule.target);
  v_tree regclass [];
begin
  if not exists (select from grace_internal.rule k where k.sources <> '[]') then
    return;
  end if;
  v_tree := array(
    select coalesce(pg_partition_root(t.relation), t.relation) from grace_internal.cascade_tree(rule.target, true) as t (relation)
  );
  return query
    select k, r.root, s.pieces
    from grace_internal.rule k
    cross join lateral jsonb_array_elements(k.sources) as s (pieces)
    cross join lateral (select (s.pieces ->> 'source')::oid::regclass as source) as o
    cross join lateral (select coalesce(pg_partition_root(o.source), o.source) as root) as r
    where r.root = any (v_tree) and (r.root = v_root or coalesce(pg_partition_root(k.target), k.target) <> v_root)
    order by k.id;
end
$$;

-- The statement that says the latest of each record among rows of an activity's table.
create or replace function grace_internal.latest_of(counting grace_internal.rule, pieces jsonb, keys jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(counting);
begin
  return grace_internal.as_role(
    counting.run_as, 'read',
    format(
      'select %s, max((%s)::timestamptz) from %s where %s and (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) group by %s',
      v_query.key_object, pieces ->> 'moment', pieces ->> 'from', pieces ->> 'condition', pieces ->> 'keys', pieces ->> 'list', keys,
      pieces ->> 'columns', v_query.keys
    ),
    'key jsonb, at timestamptz'
  );
end
$$;

-- When a rule is saved: whether its role may read what it takes to remember. Errors: 42501.
create or replace function grace_internal.check_sources(rule grace_internal.rule)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_pieces jsonb;
begin
  for v_pieces in select * from jsonb_array_elements(rule.sources) loop
    execute 'select count(*) from ' || grace_internal.latest_of(rule, v_pieces, '[]');
  end loop;
exception when insufficient_privilege then
  raise exception 'role % may not read the keys of %', rule.run_as, (v_pieces ->> 'source')::oid::regclass
    using errcode = 'insufficient_privilege', detail = sqlerrm || '.',
    hint = 'Grant it SELECT on them: of activities that another rule deletes it has to be remembered whose they were.';
end
$$;

-- Notes the latest of each record among rows of an activity's table that are about to be deleted, unless something later is known. Errors:
-- GR028 when it can't be told.
create or replace function grace_internal.remember(counting grace_internal.rule, pieces jsonb, keys jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
begin
  perform set_config('timezone', counting.zone, true);
  execute format(
    $q$insert into grace_internal.last_activity as m (rule_id, key, at)
    select $1, k.key, k.at
    from %s
    where k.at is not null and not exists (
      select from grace_internal.last_activity o where o.rule_id = $1 and o.key = k.key and o.at >= k.at
    )
    order by k.key
    on conflict (rule_id, key) do update set at = greatest(m.at, excluded.at)$q$,
    grace_internal.latest_of(counting, pieces, keys)
  ) using counting.id;
exception when insufficient_privilege or undefined_column or undefined_table then
  raise exception 'what rule % counts from can''t be told', quote_literal(counting.name)
    using errcode = 'GR028', detail = format('As role %s: %s.', counting.run_as, sqlerrm),
    hint = 'Nothing that it counts from goes until it is mended or dropped. Its role needs SELECT on the keys of its activities, too.';
end
$$;

-- Before a rule deletes rows from which another one counts, the latest of them is remembered for each record that they belong to: else its
-- period would start earlier, and the record go before its time.
create or replace function grace_internal.remember_activities(rule grace_internal.rule, keys jsonb [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_counted record;
  v_rows text;
  v_keys jsonb;
begin
  if cardinality(keys) = 0 then
    return;
  end if;
  for v_counted in select c.* from grace_internal.counted_from(rule) c loop
    if grace_internal.rule_problem(v_counted.counting) is not null then
      continue when not (v_counted.counting).enabled;
      raise exception 'what rule % counts from can''t be told', quote_literal((v_counted.counting).name)
        using errcode = 'GR028', detail = grace_internal.rule_problem(v_counted.counting) || '.',
        hint = 'Nothing that it counts from goes until it is mended, disabled or dropped.';
    end if;
    v_keys := to_jsonb(keys);
    if v_counted.source <> coalesce(pg_partition_root(rule.target), rule.target) then
      v_rows := grace_internal.closure_rows(
        rule.target, grace_internal.key_rows(rule.target, to_jsonb(keys)), v_counted.source
      );
      if v_rows is null then
        raise exception 'what rule % counts from can''t be told', quote_literal((v_counted.counting).name)
          using errcode = 'GR028', detail = format('%s can''t be read.', v_counted.source),
          hint = 'Nothing that it counts from goes until that is mended.';
      end if;
      execute format('select coalesce(jsonb_agg(c.key), ''[]'') from (%s) c', v_rows) into v_keys;
    end if;
    perform grace_internal.remember(v_counted.counting, v_counted.pieces, v_keys);
  end loop;
end
$$;

-- What was remembered of records that are no longer there. Where row security hides records from a rule's role, that can't be told, and it
-- stays.
create or replace function grace_internal.forget_activities()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
  v_query grace_internal.rule_query;
begin
  for v_rule in
    select r.*
    from grace_internal.rule r
    where exists (select from grace_internal.last_activity m where m.rule_id = r.id) and grace_internal.rule_problem(r) is null
  loop
    begin
      continue when grace_internal.is_hidden_from(v_rule.run_as, v_rule.target);
      v_query := grace_internal.rule_query(v_rule);
      execute format(
        'delete from grace_internal.last_activity m where m.rule_id = $1 and m.key not in (select k.key from %s)',
        grace_internal.as_role(
          v_rule.run_as, 'read',
          format(
            'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s))',
            v_query.key_object, v_query.source, v_query.keys, v_query.key_list,
            (select jsonb_agg(m.key) from grace_internal.last_activity m where m.rule_id = v_rule.id), v_query.key_columns
          ),
          'key jsonb'
        )
      ) using v_rule.id;
    exception when others then -- it is another rule's run that ends here
      raise warning 'what was remembered for rule % could not be gone through', quote_literal(v_rule.name)
        using errcode = sqlstate, detail = sqlerrm, hint = 'It stays; nothing goes too early by that.';
    end;
  end loop;
end
$$;

-- What the role of a rule sees of what was remembered: its own rules'. It is in schema grace because that role has to name it.
create or replace view grace._remembered as
select
  m.rule_id,
  m.key,
  m.at
from grace_internal.last_activity m
join grace_internal.rule r on r.id = m.rule_id
where r.run_as = quote_ident(current_user)::regrole;

comment on view grace._remembered is
'Internal: the latest activity of records of which a rule has deleted the row that says so, for the role of the rule that counts from it.';
