-- Where there are no event triggers, a partition that is made or attached has no capture trigger until the next grace.sync() or
-- purge. A row trigger on the root, which PostgreSQL itself puts on every new partition, captures what is deleted
-- from it meanwhile, row by row. On partitions that have their own capture trigger it is disabled.
create or replace function grace_internal.guard_leaves(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name := 'zz_grace_leaf_' || protected_id; -- a root can become a partition of another one that has such a trigger
  v_root text := (
    select grace_internal.qualified_name(p.target)
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relkind = 'p'
    where p.id = protected_id and p.active
  );
  v_guarded boolean := exists (
    select from pg_trigger t where t.tgrelid = v_root::regclass and t.tgname = v_name
  );
  v_leaf text;
begin
  if v_root is null then
    return;
  end if;
  if grace_internal.has_event_triggers() or grace_internal.owner_is_superuser() then
    if v_guarded then
      execute format('drop trigger %I on %s', v_name, v_root);
    end if;
    return;
  end if;
  if not v_guarded then
    execute format(
      'create trigger %I after delete on %s for each row execute function grace_internal.capture_leaf(%s)',
      v_name, v_root, protected_id
    );
    execute format('alter table %s enable always trigger %I', v_root, v_name);
  end if;
  for v_leaf in
    select grace_internal.qualified_name(l)
    from grace_internal.guarded_leaves(protected_id) l
    where grace_internal.has_capture_triggers(l, protected_id)
  loop
    execute format('alter table only %s disable trigger %I', v_leaf, v_name);
    -- Sessions that know the root with a guarded leaf ask anew.
    execute format('alter table only %s enable always trigger zz_grace_delete', v_root);
  end loop;
end
$$;

-- The leaves from which rows are captured one by one, as of now: VOLATILE, for a snapshot of its own.
create or replace function grace_internal.guarded_leaves(protected_id integer)
returns setof oid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.tgrelid
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid and c.relkind = 'r'
    where t.tgfoid = 'grace_internal.capture_leaf'::regproc and t.tgenabled <> 'D'
      and t.tgargs = convert_to(protected_id::text, 'UTF8') || e'\\x00'::bytea;
end
$$;

-- What tells rows of guarded leaves from the others in a statement on their root, as a condition; null where there are none. It is
-- made of the application's partition keys, which may call functions of its own: that must not happen with a superuser's rights,
-- who has event triggers instead.
create or replace function grace_internal.not_from_guarded_leaves(protected_id integer)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result text;
begin
  select string_agg(format('not coalesce(%s, false)', pg_get_partition_constraintdef(l)), ' and ') into v_result
  from grace_internal.guarded_leaves(protected_id) l;
  if v_result is not null then
    perform grace_internal.require_trusted_code(
      (select p.target from grace_internal.protected p where p.id = protected_id), 'Run pg_grace sync, or: select * from grace.sync();'
    );
  end if;
  return v_result;
end
$$;

create or replace function grace_internal.owner_is_superuser()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.rolsuper
  from pg_namespace n
  join pg_roles r on r.oid = n.nspowner
  where n.nspname = 'grace_internal'
$$;

create or replace function grace_internal.capture_leaf()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on the buffer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := tg_argv[0]::integer;
  v_deletion grace_internal.deletion_ref := grace_internal.current_deletion();
begin
  execute grace_internal.capture_statement(v_id, tg_relid, tg_op, true)
  using v_deletion.deletion, v_deletion.deleted_at, old;
  perform grace_internal.require_unheld_row(v_id, old);
  insert into grace_internal.capture (
    deletion, deleted_at, protected_id, row_count, operation,
    role, login, application_name, client_addr, reason
  )
  values (
    v_deletion.deletion, v_deletion.deleted_at, v_id, 1, tg_op,
    grace_internal.deleting_role(), session_user,
    current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
  );
  return null;
end
$$;
