create or replace view grace.expired as
select
  e.target,
  e.row_count,
  e.oldest,
  e.target_name
from (
  select
    p.target,
    sum(c.row_count)::bigint - coalesce((
      select sum(r.row_count)
      from grace_internal.restored r
      where r.protected_id = p.id and r.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to)
    ), 0)::bigint as row_count,
    min(c.deleted_at) as oldest,
    p.target_name
  from grace_internal.protected p
  join grace_internal.capture c
    on c.protected_id = p.id and c.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to)
  group by p.id
) as e
where e.row_count > 0;

comment on view grace.expired is
'Per table: rows that are past their retention and that the next purge removes. They can be neither seen nor restored.';
