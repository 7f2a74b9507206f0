-- Which of these large objects something still refers to: any column of type oid or lo of any table, buffers included, as
-- vacuumlo looks at it. A table that can't be read as a whole is an error, so that nothing is unlinked by mistake.
create or replace function grace_internal.referenced_large_objects(loids oid [])
returns oid []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
  v_column record;
  v_found oid [];
  v_result oid [] := array[]::oid [];
begin
  for v_column in
    select grace_internal.qualified_name(c.oid) as relation, a.attname
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'm')
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and (n.nspname <> 'grace_internal' or c.relname ~ '^b\d+_')
      and grace_internal.base_type(a.atttypid) = 'oid'::regtype
  loop
    execute format(
      'select array_agg(distinct t.%1$I::oid) from only %2$s t where t.%1$I::oid = any ($1)',
      v_column.attname, v_column.relation
    )
    into v_found using loids;
    v_result := v_result || coalesce(v_found, '{}');
  end loop;
  return v_result;
end
$$;

-- Unlinks the large objects of expired rows where the application has left that to us; returns whether there may be more.
-- The first page stands for the object: it goes when that is done.
create or replace function grace_internal.unlink_expired(protected_id integer, leaf oid, max_objects integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz := grace._expired_before(protected_id);
  v_leaf text := grace_internal.qualified_name(leaf);
  v_loids oid [];
  v_unlinkable oid [];
begin
  execute format(
    'select array_agg(distinct f.loid), array_agg(distinct f.loid) filter (where f.unlink) from ('
    'select f.loid, f.unlink from %s f where f.page = 0 and f.grace_deleted_at <= $1 limit $2) f',
    v_leaf
  )
  into v_loids, v_unlinkable using v_before, max_objects;
  if v_loids is null then
    return false;
  end if;
  perform grace_internal.unlink_unreferenced(v_unlinkable);
  execute format('delete from %s f where f.page = 0 and f.loid = any ($1) and f.grace_deleted_at <= $2', v_leaf)
  using v_loids, v_before;
  return true;
end
$$;

create or replace function grace_internal.unlink_unreferenced(loids oid [])
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select lo_unlink(m.oid)
  from pg_largeobject_metadata m
  where m.oid = any (loids) and not m.oid = any (grace_internal.referenced_large_objects(loids))
$$;

-- Files outside the database whose rows are about to be removed for good go into the outbox. "rows" is the FROM and WHERE of
-- these rows, with alias b.
create or replace function grace_internal.post_files(protected_id integer, rows text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
begin
  for v_column in select c.attname, c.buffer_column from grace_internal.file_columns(protected_id, 'path') c loop
    execute format(
      'insert into grace_internal.outbox (protected_id, target_name, column_name, file, deleted_at) '
      'select $1, p.target_name, $2, f.file, f.deleted_at from grace_internal.protected p, ('
      'select b.%1$I::text as file, max(b.grace_deleted_at) as deleted_at %2$s and b.%1$I::text <> '''' group by b.%1$I::text'
      ') f where p.id = $1', v_column.buffer_column, rows
    )
    using protected_id, v_column.attname;
  end loop;
end
$$;
