do $$
begin
  if to_regtype('grace_internal.left_out') is null then
    create type grace_internal.left_out as (key jsonb, state text, reason text);
  end if;
end
$$;

-- Of the records that a run has picked those that it may not act on: exempt, kept by another rule, not announced where that is wanted. What
-- is held says so itself, by an error.
create or replace function grace_internal.leave_out(rule grace_internal.rule, keys jsonb [])
returns grace_internal.left_out []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_left grace_internal.left_out [];
  v_rest jsonb [];
begin
  v_left := array(
    select row(k.key, 'exempt', null)::grace_internal.left_out
    from unnest(keys) as k (key)
    where exists (
      select
      from grace_internal.exemption e
      where e.rule_id = rule.id and e.key = k.key and e.dropped_at is null and coalesce(e.until > clock_timestamp(), true)
    )
  );
  if rule.notice is not null then
    v_left := v_left || array(
      select row(k.key, 'not announced', null)::grace_internal.left_out
      from unnest(grace_internal.without(keys, v_left)) as k (key)
      where k.key <> all (grace_internal.announced_keys(rule, keys))
    );
  end if;
  v_rest := grace_internal.without(keys, v_left);
  return v_left || array(
    select row(k.key, 'kept', k.reason)::grace_internal.left_out from grace_internal.kept_keys(rule, v_rest) k
  );
end
$$;

create or replace function grace_internal.without(keys jsonb [], left_out grace_internal.left_out [])
returns jsonb []
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select k.key
    from unnest(keys) with ordinality as k (key, position)
    where k.key <> all (array(select l.key from unnest(left_out) l))
    order by k.position
  )
$$;

-- Counts what was left out among the records that a batch has come to; what another rule keeps is named.
create or replace function grace_internal.record_left_out(run bigint, left_out grace_internal.left_out [], keys jsonb [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kept record;
begin
  update grace_internal.run r
  set details = jsonb_set(
    r.details, '{left_out}', coalesce(r.details -> 'left_out', '{}') || (
      select jsonb_object_agg(c.state, c.rows + coalesce((r.details -> 'left_out' ->> c.state)::bigint, 0))
      from (
        select l.state, count(*) as rows from unnest(left_out) l where l.key = any (keys) group by l.state
      ) as c
    )
  )
  where r.id = run and exists (select from unnest(left_out) l where l.key = any (keys));
  for v_kept in select l.key, l.reason from unnest(left_out) l where l.state = 'kept' and l.key = any (keys) loop
    perform grace_internal.record_failure(run, v_kept.key, 'GR033', v_kept.reason);
  end loop;
end
$$;

-- Of all rows that are due those that a run would leave out, each with the first thing that stands in its way.
create or replace function grace_internal.left_out_of(rule grace_internal.rule, due text)
returns setof grace_internal.left_out
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
begin
  perform set_config('timezone', rule.zone, true);
  if rule.notice is null
    and not exists (select from grace_internal.exemption e where e.rule_id = rule.id and e.dropped_at is null)
    and not exists (select from grace_internal.active_hold)
    and not exists (select from grace_internal.keeping_rules(rule))
  then
    return;
  end if;
  return query execute format(
    $q$with due as materialized (
      select k.key from %s
    )
    select distinct on (s.key) s.key, s.state, s.reason
    from (
      select d.key, 1 as rank, 'exempt' as state, e.reason
      from due d
      join grace_internal.exemption e on e.rule_id = ($1).id and e.key = d.key
      where e.dropped_at is null and coalesce(e.until > clock_timestamp(), true)
      union all
      select h.key, 2, 'held', h.reason
      from grace_internal.held_records(($1).target, %2$L) h
      union all
      (
        select distinct on (k.key) k.key, 3, 'kept', k.reason
        from grace_internal.kept_records($1, %2$L) k
        order by k.key, k.until desc, k.reason
      )
      union all
      select d.key, 4, 'not announced', null
      from due d
      where ($1).notice is not null and not exists (
        select
        from grace_internal.notice n
        where n.rule_id = ($1).id and n.key = d.key and n.announced_at <= clock_timestamp() - ($1).notice
      )
    ) as s
    order by s.key, s.rank, s.reason$q$,
    grace_internal.as_role(
      rule.run_as, 'read', format('select %s from %s where %s', v_query.key_object, v_query.source, due), 'key jsonb'
    ),
    grace_internal.as_role(
      rule.run_as, 'read', format('select %s from %s where %s', v_query.keys, v_query.source, due), v_query.key_columns
    )
  )
  using rule;
end
$$;
