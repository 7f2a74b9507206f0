-- What a purge has removed of each table, also where it did not come to its end.
create or replace function grace_internal.record_purge(run bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.record(
    r.id, 'purged', t.key, t.value::bigint,
    (
      select greatest(r.started_at - p.span, p.evicted_to)
      from grace_internal.protected p
      where p.target_name = t.key
      limit 1
    )
  )
  from grace_internal.run r
  cross join lateral jsonb_each_text(r.details -> 'tables') t
  where r.id = record_purge.run
  order by t.key
$$;
