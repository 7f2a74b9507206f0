-- FROM and WHERE of the buffered rows (alias b) of one table that a restore selects: all that is left of the deletions,
-- or, when only some rows are picked, those in $1. Behind DELETE the picks are joined with "using".
create or replace function grace_internal.restore_source(
  protected_id integer, deletions bigint [], picked boolean, joined_with text default ','
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_buffer text := (
    select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = protected_id
  );
  v_first timestamptz;
  v_last timestamptz;
begin
  if picked then
    return format(
      'from %s b %s pg_catalog.unnest($1) n where b.tableoid operator(pg_catalog.=) n.leaf '
      'and b.ctid operator(pg_catalog.=) n.tid and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at '
      'and n.protected_id operator(pg_catalog.=) %s',
      v_buffer, joined_with, protected_id
    );
  end if;
  select min(c.deleted_at), max(c.deleted_at) into v_first, v_last
  from grace_internal.capture c
  where c.deletion = any (deletions) and c.protected_id = restore_source.protected_id;
  return format(
    'from %s b where b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[]) '
    'and b.grace_deleted_at operator(pg_catalog.>=) %L and b.grace_deleted_at operator(pg_catalog.<=) %L '
    'and b.grace_deleted_at operator(pg_catalog.>) %L',
    v_buffer, deletions, v_first, v_last, grace._expired_before(protected_id)
  );
end
$$;
