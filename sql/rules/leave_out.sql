-- Of the records that a run has picked those that it may act on: not exempt, announced where that is wanted, not kept by another rule. Which
-- others it left out is counted in the run, with the reason where there is one. What is held says so itself, by an error.
create or replace function grace_internal.leave_out(rule grace_internal.rule, run bigint, keys jsonb [])
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_horizon timestamptz := (select (r.details ->> 'due_by')::timestamptz from grace_internal.run r where r.id = run);
  v_wanted jsonb [];
  v_count integer := cardinality(keys);
  v_kept record;
begin
  v_wanted := array(
    select k.key
    from unnest(keys) with ordinality as k (key, position)
    where not exists (
      select
      from grace_internal.exemption e
      where e.rule_id = rule.id and e.key = k.key and e.dropped_at is null and coalesce(e.until > clock_timestamp(), true)
    )
    order by k.position
  );
  perform grace_internal.count_left_out(run, 'exempt', v_count - cardinality(v_wanted));
  if rule.notice is not null then
    v_count := cardinality(v_wanted);
    v_wanted := grace_internal.announced_keys(rule, v_horizon, v_wanted);
    perform grace_internal.count_left_out(run, 'not announced', v_count - cardinality(v_wanted));
  end if;
  for v_kept in select k.key, k.reason from grace_internal.kept_keys(rule, v_wanted) k loop
    perform grace_internal.record_failure(run, v_kept.key, 'GR033', v_kept.reason);
    v_wanted := array_remove(v_wanted, v_kept.key);
  end loop;
  return v_wanted;
end
$$;

create or replace function grace_internal.count_left_out(run bigint, reason text, rows integer)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.run r
  set details = jsonb_set(
    r.details, array['left_out'],
    coalesce(r.details -> 'left_out', '{}') || jsonb_build_object(
      reason, coalesce((r.details -> 'left_out' ->> reason)::bigint, 0) + rows
    )
  )
  where r.id = run and rows > 0
$$;
