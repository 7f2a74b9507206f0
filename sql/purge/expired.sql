create or replace view grace.expired as
select
  p.target,
  e.row_count,
  c.oldest,
  p.target_name
from grace_internal.protected p
cross join lateral (
  select
    sum(k.row_count) as row_count,
    min(k.deleted_at) as oldest
  from grace_internal.capture k
  where
      k.protected_id = p.id
      and k.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to)
      and k.kept is not true
) as c
cross join lateral (
  select (c.row_count - coalesce(sum(r.row_count), 0))::bigint as row_count
  from grace_internal.restored r
  where r.protected_id = p.id and r.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to)
) as e
where e.row_count > 0;

comment on view grace.expired is
'Per table: rows that are past their retention and that the next purge removes. They can be neither seen nor restored. Without those that the last purge has kept because they are held.';
