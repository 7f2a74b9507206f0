-- Event trigger: what the application's DDL does to a protected table is followed in the same transaction. It must never be
-- what makes that DDL fail or wait: where a lock is not free at once, the next capture or purge does it.
create or replace function grace_internal.follow_ddl()
returns event_trigger
language plpgsql
security definer -- whoever changes a table need have no right on its buffer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_id integer;
begin
  for v_id in
    select distinct p.id
    from pg_event_trigger_ddl_commands() d
    join grace_internal.protected p on p.target = coalesce(pg_partition_root(d.objid), d.objid::regclass)
    where d.classid = 'pg_class'::regclass and p.active
  loop
    begin
      perform grace_internal.follow_table(v_id, repair => false);
    exception when others then -- whatever it is, the application's DDL comes first; the next capture says it again
      raise warning 'the buffer of % could not be brought up to date now; the next capture does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
  end loop;
end
$$;

-- Only a superuser can create event triggers. Without them captures follow added, dropped, renamed and retyped columns all
-- the same; a new partition gets its triggers with the next purge.
do $$
begin
  if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user) then
    drop event trigger if exists grace_follow_ddl;
    create event trigger grace_follow_ddl on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    execute function grace_internal.follow_ddl();
  end if;
end
$$;
