-- schema.table, each part quoted where it must be, whatever search_path says; null for a table that is gone.
create or replace function grace_internal.qualified_name(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = relation
$$;
