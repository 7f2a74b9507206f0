do $$
begin
  if to_regtype('grace.preview_result') is null then
    create type grace.preview_result as (
      target regclass, action text, condition text, run_as text, row_count bigint, token text, cost double precision, takes interval,
      would_be_held text, deletes bigint, exempt bigint, held bigint, kept bigint, not_announced bigint, sample jsonb, cascades jsonb, blocked jsonb
    );
    comment on type grace.preview_result is 'What a run now would do; grace.preview() says what each attribute is.';
  end if;
end
$$;

-- What would go along and what stands in the way, for rows that a FROM item names by their keys.
create or replace function grace_internal.preview_closure(
  target regclass, source text, max_blocked integer, out cascades jsonb, out blocked jsonb, out rows bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  select
    jsonb_agg(
      jsonb_build_object(
        'table', grace_internal.qualified_name(c.relation), 'rows', c.row_count, 'effect', c.effect, 'protected', c.is_protected,
        'at_least', c.at_least, 'reason', c.reason, 'through', c.through
      ) order by c.effect, c.row_count desc nulls last, c.relation::text
    ),
    sum(c.row_count)
  into cascades, rows
  from grace_internal.closure_counts(target, source) c
  where c.row_count > 0 or c.row_count is null or c.at_least;
  select jsonb_agg(jsonb_build_object('key', b.key, 'reason', b.reason)) into blocked
  from grace_internal.closure_blockers(target, source, max_blocked, together => true) b;
end
$$;

create or replace function grace._preview_keys(target regclass, keys jsonb, max_blocked integer)
returns table (cascades jsonb, blocked jsonb)
language sql
security definer -- a cascade needs no right on the tables that it reaches
set search_path = pg_catalog, pg_temp
as $$
  select c.cascades, c.blocked
  from grace_internal.preview_closure(target, grace_internal.key_rows(target, keys), max_blocked) c
$$;
comment on function grace._preview_keys(regclass, jsonb, integer) is 'Internal: what goes along with records and what stands in the way.';

-- How long it takes to delete so many rows, what goes along included: as fast as the last runs on the table, or 30 µs each where there
-- were none.
create or replace function grace_internal.estimated_duration(target regclass, rows bigint)
returns interval
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select make_interval(secs => rows * coalesce((
    select sum(extract(epoch from r.finished_at - r.started_at)) / nullif(sum(r.row_count), 0)
    from (
      select u.* from grace_internal.run u
      where u.kind = 'rule' and u.target = estimated_duration.target and u.row_count >= 1000
      order by u.id desc limit 5
    ) as r
  ), 0.00003)::double precision)
$$;

-- The keys of the rows that are due, but for those that are left out, as a FROM item.
create or replace function grace_internal.rows_but(rule grace_internal.rule, due text, left_out grace_internal.left_out [])
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
begin
  if cardinality(left_out) = 0 then
    return grace_internal.as_role(
      rule.run_as, 'read', format('select %s from %s where %s', v_query.keys, v_query.source, due), v_query.key_columns
    );
  end if;
  return format(
    '(select %s from %s where k.grace_key <> all (%L::jsonb[])) as k', v_query.key_list,
    grace_internal.as_role(
      rule.run_as, 'read', format('select %s, %s from %s where %s', v_query.keys, v_query.key_object, v_query.source, due),
      v_query.key_columns || ', grace_key jsonb'
    ),
    array(select l.key from unnest(left_out) l)
  );
end
$$;

create or replace function grace._preview_rule(rule text, sample integer, details boolean)
returns grace.preview_result
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_query grace_internal.rule_query;
  v_result grace.preview_result;
  v_horizon timestamptz;
  v_due text;
  v_plan jsonb;
  v_rows bigint;
  v_left_out grace_internal.left_out [];
begin
  perform grace_internal.require_valid('rule', v_rule.name, v_rule.depends, v_rule.home);
  v_query := grace_internal.rule_query(v_rule);
  v_result.target := v_rule.target;
  v_result.run_as := grace_internal.role_name(v_rule.run_as);
  perform set_config('timezone', v_rule.zone, true);
  v_horizon := grace_internal.horizon(v_rule, clock_timestamp());
  details := details and v_rule.action <> 'keep'; -- which has nothing to run
  v_due := case
    when v_rule.action = 'keep' then format('%s and coalesce(%s > now(), true)', v_query.condition, v_query.due)
    else grace_internal.is_due(v_query, v_horizon)
  end;
  v_result.action := v_rule.action;
  v_result.condition := v_due;
  select c.rows, c.token into v_result.row_count, v_result.token from grace_internal.count_due(v_rule, v_due, details) c;
  execute 'select k.plan from ' || grace_internal.as_role(
    v_rule.run_as, 'read', format('explain (format json) select 1 from %s where %s', v_query.source, v_due), 'plan json'
  ) into v_plan;
  v_result.cost := (v_plan #>> '{0,Plan,Total Cost}')::double precision;
  if sample > 0 then
    execute 'select jsonb_agg(k.record) from ' || grace_internal.as_role(
      v_rule.run_as, 'read',
      format(
        'select jsonb_build_object(''key'', %s, ''due'', %s, ''record'', %s) from %s where %s order by %s limit %s',
        v_query.key_object, case when v_rule.start_expression is null then 'null' else v_query.due end,
        v_query.record, v_query.source, v_due,
        case when v_rule.start_expression is null then v_query.keys else v_query.due end, greatest(sample, 0)
      ),
      'record jsonb'
    ) into v_result.sample;
  end if;
  if details then
    v_left_out := array(select l from grace_internal.left_out_of(v_rule, v_due) l);
    select
      v_result.row_count - count(*),
      count(*) filter (where l.state = 'exempt'), count(*) filter (where l.state = 'held'),
      count(*) filter (where l.state = 'kept'), count(*) filter (where l.state = 'not announced')
    into v_result.deletes, v_result.exempt, v_result.held, v_result.kept, v_result.not_announced
    from unnest(v_left_out) l;
    select c.cascades, c.blocked, c.rows into v_result.cascades, v_result.blocked, v_rows
    from grace_internal.preview_closure(v_rule.target, grace_internal.rows_but(v_rule, v_due, v_left_out), 100) c;
    select coalesce(jsonb_agg(jsonb_build_object('key', k.key, 'reason', k.reason)), '[]') || coalesce(v_result.blocked, '[]')
    into v_result.blocked
    from (
      select l.key, l.reason from unnest(v_left_out) l where l.state in ('kept', 'held') limit 100
    ) as k
    having count(*) > 0 or v_result.blocked is not null;
    v_result.takes := grace_internal.estimated_duration(v_rule.target, coalesce(v_rows, 0));
  end if;
  if v_rule.action <> 'keep' then
    v_result.would_be_held := (grace_internal.limit_passed(v_rule, coalesce(v_result.deletes, v_result.row_count))).reason;
  end if;
  return v_result;
end
$$;
comment on function grace._preview_rule(text, integer, boolean) is 'Internal: what a run of a rule would do.';

-- A filter with the rights of whoever calls.
create or replace function grace._preview_filter(filter text, sample integer, details boolean)
returns grace.preview_result
language plpgsql
set standard_conforming_strings = on
as $$
declare
  v_result grace.preview_result;
  v_parts record;
  v_plan json;
  v_keys jsonb;
begin
  select s.target, s.condition, s.statement, s.key_object, s.keys, s.record into v_parts from grace._filter_statement(filter) s;
  v_result.target := v_parts.target;
  v_result.action := 'delete';
  v_result.condition := v_parts.condition;
  v_result.run_as := pg_catalog.current_user();
  execute pg_catalog.format('select pg_catalog.count(*) %s', v_parts.statement) into v_result.row_count;
  execute pg_catalog.format('explain (format json) select 1 %s', v_parts.statement) into v_plan;
  v_result.cost := (v_plan operator(pg_catalog.#>>) '{0,Plan,Total Cost}')::pg_catalog.float8;
  execute pg_catalog.format(
    'select pg_catalog.jsonb_agg(s.record) from (select pg_catalog.jsonb_build_object(''key'', %s, ''record'', %s) as record %s '
    'order by %s limit %s) as s',
    v_parts.key_object, v_parts.record, v_parts.statement, v_parts.keys, greatest(sample, 0)
  ) into v_result.sample;
  if details and v_result.row_count operator(pg_catalog.<=) 100000 then
    execute pg_catalog.format('select pg_catalog.jsonb_agg(%s) %s', v_parts.key_object, v_parts.statement) into v_keys;
    select c.cascades, c.blocked into v_result.cascades, v_result.blocked from grace._preview_keys(v_parts.target, v_keys, 100) c;
  end if;
  return v_result;
end
$$;
comment on function grace._preview_filter(text, integer, boolean) is 'Internal: what deleting what a filter matches would do.';

create or replace function grace.preview(
  rule text default null, filter text default null, sample integer default 10, details boolean default true
)
returns grace.preview_result
language plpgsql
as $$
begin
  if (rule is null) operator(pg_catalog.=) (filter is null) then
    raise exception 'a preview is of one rule or one filter'
      using errcode = 'GR031', detail = 'Give one name.', hint = 'select * from grace.preview(rule => …);';
  end if;
  if rule is not null then
    return grace._preview_rule(rule, sample, details);
  end if;
  return grace._preview_filter(filter, sample, details);
end
$$;
comment on function grace.preview(text, text, integer, boolean) is
'What a run of a rule now would do, or what deleting all that a filter matches would: nothing is changed, and nothing but reading is allowed to functions. A rule is looked at as its role and up to its due date, a filter with the caller''s rights. action: delete, or keep of a rule that keeps, whose rows are those that it keeps now; row_count: how many rows; token: of a rule, to be given to grace.run, which then refuses another set; cost: PostgreSQL''s estimate for finding them; takes: how long a run would take, by the last ones; would_be_held: the limit that it would pass; deletes: how many of them a run would delete, if no foreign key or trigger keeps them; exempt, held, kept, not_announced: how many would be left out; sample: the first ones, each with key, due and record, which is what users know it by; cascades: per table how many rows go along (deleted) or lose a link (link cut); blocked: records that a hold, another rule or a foreign key keeps, with the reason, the first hundred of each. details => false leaves out all from token on but the sample and would_be_held, which then counts all that is due. Of a filter that matches over 100,000 rows cascades are not counted. Errors: GR027, GR028, GR031, 42501.';
