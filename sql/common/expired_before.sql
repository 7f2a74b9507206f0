-- What was deleted at or before this moment is expired for a protected table. Used by the row-security policy of
-- every buffer table, so whoever reads a buffer may call it; it gives away nothing but the retention.
create or replace function grace._expired_before(protected_id integer)
returns timestamptz
language sql stable security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select greatest(statement_timestamp() - p.span, p.evicted_to)
  from grace_internal.protected p
  where p.id = $1
$$;
comment on function grace._expired_before(integer) is
'Internal: the moment up to which deletions from a protected table have expired.';
