-- BEFORE DELETE, row by row: what is behind the row's large objects is copied while it is still there. The content goes into
-- the table's f partitions in pieces of 256 kB, so memory stays flat at any size.
create or replace function grace_internal.keep_files()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on what is kept
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := tg_argv[0]::integer;
  v_values text;
  v_loid oid;
begin
  select string_agg(format('($1).%I::oid', a.attname), ', ') into v_values
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
  where p.id = v_id and grace_internal.file_kind(a.atttypid) = 'large object';
  if v_values is not null then
    for v_loid in execute format('select distinct v from unnest(array[%s]) v where v is not null', v_values) using old loop
      perform grace_internal.keep_large_object(v_id, v_loid);
    end loop;
  end if;
  return old;
end
$$;

-- Copies one large object into what is kept of this transaction's deletion. One that does not exist leaves nothing to keep;
-- one that has changed since it was copied (for another row) is copied again: the last content counts.
-- Whether whoever deletes could unlink it is noted: the purge unlinks nothing that its deleter could not.
-- Errors: GR020 when its content can't be read.
create or replace function grace_internal.keep_large_object(protected_id integer, loid oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion grace_internal.deletion_ref;
  v_changed text;
  v_descriptor integer;
  v_size bigint;
begin
  if not exists (select from pg_largeobject_metadata m where m.oid = loid) then
    return;
  end if;
  v_deletion := grace_internal.current_deletion();
  v_changed := grace._file_conflict(protected_id, v_deletion.deletion, v_deletion.deleted_at, loid);
  if v_changed = '' then
    return;
  elsif v_changed <> '' then
    execute format(
      'delete from grace_internal.%I f where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3',
      'f' || protected_id
    )
    using v_deletion.deletion, v_deletion.deleted_at, loid;
  end if;
  begin
    v_descriptor := lo_open(loid, 262144); -- INV_READ
    v_size := lo_lseek64(v_descriptor, 0, 2); -- SEEK_END
    perform lo_close(v_descriptor);
    execute format(
      'insert into grace_internal.%I (grace_deletion, grace_deleted_at, loid, page, owner, acl, unlink, data) '
      'select $1, $2, m.oid, n.page, case n.page when 0 then pg_get_userbyid(m.lomowner) end, '
      'case n.page when 0 then m.lomacl::text[] end, '
      'case n.page when 0 then pg_has_role(grace_internal.caller(), m.lomowner, ''usage'') end, lo_get(m.oid, n.page::bigint * 262144, 262144) '
      'from pg_largeobject_metadata m '
      'cross join generate_series(0, greatest(0, ($4 - 1) / 262144)::integer) as n (page) where m.oid = $3',
      'f' || protected_id
    )
    using v_deletion.deletion, v_deletion.deleted_at, loid, v_size;
  exception when insufficient_privilege then
    raise exception 'the content of large object % can''t be kept', loid
      using errcode = 'GR020',
      detail = format('Role %I, which owns pg_grace, may not read it, so the row could not be restored whole.', current_user),
      hint = format('As its owner: grant select on large object %s to %I;', loid, current_user);
  end;
end
$$;

-- TRUNCATE fires no row triggers.
create or replace function grace_internal.keep_all_files(protected_id integer, relation oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the table's checks while planning
as $$
declare
  v_column name;
  v_loid oid;
begin
  for v_column in
    select a.attname
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
    where p.id = protected_id and grace_internal.file_kind(a.atttypid) = 'large object'
  loop
    for v_loid in execute format(
      'select distinct %1$I::oid from only %2$s where %1$I is not null', v_column, grace_internal.qualified_name(relation)
    ) loop
      perform grace_internal.keep_large_object(protected_id, v_loid);
    end loop;
  end loop;
end
$$;
