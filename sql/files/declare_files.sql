-- From now on these columns of a protected table, too, are known to refer to files. Large objects need a table for their content
-- and a trigger that comes before one that unlinks them (lo_manage).
create or replace function grace_internal.declare_files(protected_id integer, files name [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass;
  v_stem text := 'f' || protected_id;
begin
  update grace_internal.protected p
  set
    files = array(
      select unnest(p.files)
      union
      select a.attnum from pg_attribute a
      where a.attrelid = p.target and a.attname = any (declare_files.files) and not a.attisdropped
      order by 1
    ),
    file_names = array(
      select a.attname from pg_attribute a
      where a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
        and (a.attnum = any (p.files) or a.attname = any (declare_files.files))
      order by a.attnum
    )
  where p.id = protected_id
  returning p.target into v_target;

  if exists (select from grace_internal.file_columns(protected_id, 'large object'))
    and to_regclass(format('grace_internal.%I', v_stem)) is null
  then
    execute format(
      'create table grace_internal.%I ('
      'grace_deletion bigint not null, grace_deleted_at timestamptz not null, loid oid not null, page integer not null, '
      'owner name, acl text [], unlink boolean, data bytea not null) partition by range (grace_deleted_at)', v_stem
    );
    execute format('create index on grace_internal.%I (grace_deletion, loid)', v_stem);
    execute format(
      'comment on table grace_internal.%I is %L', v_stem, 'pg_grace: large objects of rows deleted from ' || v_target
    );
    perform grace_internal.create_partitions(v_stem, format('grace_internal.%I', v_stem));
  end if;
end
$$;

-- Triggers fire in the order of their names, and a space sorts before every letter, digit and sign. With the number, so that the
-- table can become a partition of another one that has such a trigger.
create or replace function grace_internal.file_trigger(protected_id integer)
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select (' grace_files_' || protected_id)::name
$$;

-- The trigger, on the table itself (on a partitioned one PostgreSQL makes it on every partition, also on those to come).
create or replace function grace_internal.create_file_trigger(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation text;
begin
  select grace_internal.qualified_name(p.target) into v_relation
  from grace_internal.protected p
  where p.id = protected_id and p.active
    and exists (select from grace_internal.file_columns(p.id, 'large object'))
    and exists (
      select from grace_internal.partition_tree(p.target) as t (relation)
      where not grace_internal.has_file_trigger(t.relation, p.id)
    )
    and (repair or not exists (
      select from pg_trigger t where t.tgrelid = p.target and t.tgname = grace_internal.file_trigger(p.id)
    ));
  if found then
    execute format(
      'create or replace trigger %I before delete on %s for each row '
      'execute function grace_internal.keep_files(%s)', grace_internal.file_trigger(protected_id), v_relation, protected_id
    );
    execute format(
      'alter table %s enable always trigger %I', v_relation, grace_internal.file_trigger(protected_id)
    );
  end if;
end
$$;

create or replace function grace_internal.has_file_trigger(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_trigger t
    where t.tgrelid = relation
      and t.tgname = grace_internal.file_trigger(protected_id)
      and t.tgenabled = 'A'
      and t.tgfoid = 'grace_internal.keep_files'::regproc
      and t.tgargs = convert_to(protected_id::text, 'UTF8') || e'\\x00'::bytea
  )
$$;
