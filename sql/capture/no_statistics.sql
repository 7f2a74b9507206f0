-- ANALYZE, autovacuum's too, computes statistics with the rights of a table's owner, and for a range type calls a function that
-- whoever made the type has chosen. So buffers have none on columns of the application's types.
create or replace function grace_internal.no_statistics(relation text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns text;
begin
  select string_agg(format('alter column %I set statistics 0', a.attname), ', ') into v_columns
  from pg_attribute a
  where a.attrelid = relation::regclass and a.attnum > 0 and not a.attisdropped
    and grace_internal.belongs_to_application(a.atttypid)
    and a.attstattarget is distinct from 0;
  if v_columns is not null then
    execute format('alter table %s %s', relation, v_columns);
  end if;
end
$$;

-- A type, or array of a type, that is not PostgreSQL's own.
create or replace function grace_internal.belongs_to_application(type_oid oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.typnamespace <> 'pg_catalog'::regnamespace
  from pg_type t
  where t.oid = type_oid
$$;
