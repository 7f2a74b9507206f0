-- Which of these large objects something still refers to: any column of type oid or lo of any table, buffers included, as
-- vacuumlo looks at it. A table that can't be read as a whole is an error, and then nothing is unlinked.
create or replace function grace_internal.referenced_large_objects(loids oid [])
returns oid []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_column record;
  v_found oid [];
  v_result oid [] := array[]::oid [];
begin
  for v_column in
    select c.oid, grace_internal.qualified_name(c.oid) as relation, a.attname
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'm')
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and (n.nspname <> 'grace_internal' or c.relname ~ '^b[0-9]+_')
      and grace_internal.base_type(a.atttypid) = 'oid'::regtype
      and pg_relation_size(c.oid) > 0 -- most leaves of most buffers are empty
  loop
    perform grace_internal.require_trusted_code(
      v_column.oid, 'Let a superuser own the function; until then no large object is unlinked.'
    );
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
-- The first page stands for the object: it goes when that is done. An object whose rows a lock has kept in the buffer waits.
create or replace function grace_internal.unlink_expired(protected_id integer, leaf oid, max_objects integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz := grace._expired_before(protected_id);
  v_leaf text := grace_internal.qualified_name(leaf);
  v_tids tid [];
  v_unlinkable oid [];
begin
  execute format(
    'select array_agg(f.ctid), array_agg(distinct f.loid) filter (where f.unlink and exists ('
    -- A row that an UPDATE moved to another partition was copied for nothing: its deletion has no log.
    'select from grace_internal.capture c where c.deletion = f.grace_deletion and c.protected_id = $3)) from ('
    'select f.ctid, f.loid, f.unlink, f.grace_deletion from %s f where f.page = 0 and f.grace_deleted_at <= $1 and not exists ('
    'select from grace_buffer.%I b where b.grace_deletion = f.grace_deletion and b.grace_deleted_at = f.grace_deleted_at '
    'and b.grace_deleted_at <= $1 and f.loid = any (%s)) limit $2) f',
    v_leaf,
    (select p.buffer from grace_internal.protected p where p.id = protected_id),
    coalesce(grace_internal.file_values(protected_id, 'large object'), 'array[]::oid[]')
  )
  into v_tids, v_unlinkable using v_before, max_objects, protected_id;
  if v_tids is null then
    return false;
  end if;
  perform grace_internal.unlink_unreferenced(v_unlinkable);
  execute format('update %s f set page = -1 where f.ctid = any ($1)', v_leaf) using v_tids; -- goes with the other pages
  return true;
end
$$;

-- Those that are there, that nothing refers to, and that the owner of pg_grace may unlink; it warns of the others.
create or replace function grace_internal.unlink_unreferenced(loids oid [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_loids oid [];
  v_referenced oid [];
  v_owners text;
begin
  select array_agg(m.oid) into v_loids from pg_largeobject_metadata m where m.oid = any (loids);
  if v_loids is null then
    return;
  end if;
  begin
    v_referenced := grace_internal.referenced_large_objects(v_loids);
  exception when insufficient_privilege or sqlstate 'GR010' then
    raise warning 'large objects of purged rows stay: it can''t be seen whether something still refers to them'
      using detail = sqlerrm, hint = 'Unlink them with vacuumlo.';
    return;
  end;

  perform lo_unlink(m.oid)
  from pg_largeobject_metadata m
  where m.oid = any (v_loids) and m.oid <> all (v_referenced) and pg_has_role(m.lomowner, 'usage');

  select string_agg(distinct pg_get_userbyid(m.lomowner), ', ') into v_owners
  from pg_largeobject_metadata m
  where m.oid = any (v_loids) and m.oid <> all (v_referenced);
  if v_owners is not null then
    raise warning 'large objects to which nothing refers any more stay'
      using detail = format('Role %I, which owns pg_grace, may not unlink those of %s.', current_user, v_owners),
      hint = format('Unlink them with vacuumlo. For those to come: grant … to %I;', current_user);
  end if;
end
$$;

-- Files outside the database whose rows are about to be removed for good go into the outbox, each once. "rows" is the FROM and
-- WHERE of these rows, with alias b.
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
      ') f where p.id = $1 and not exists ('
      'select from grace_internal.outbox o where o.protected_id = $1 and o.column_name = $2 and o.file = f.file) '
      'order by f.deleted_at, f.file',
      v_column.buffer_column, rows
    )
    using protected_id, v_column.attname;
  end loop;
end
$$;
