-- Takes pg_grace out of the database: triggers, jobs, schemas, and the roles if no other database has use for them.
-- The deletes that are under way are waited for before it looks whether anything is left in the buffer.
-- Errors: GR006 when a table is too busy, GR013 when rows can still be restored and grace.discard_buffer is not "on", GR029 when
-- records are held.
do $$
declare
  v_left text;
  v_role name;
begin
  perform pg_catalog.set_config('client_min_messages', 'warning', true);
  perform grace_internal.drop_triggers(null, interval '60 seconds');
  if to_regproc('grace_internal.require_no_holds') is not null then -- older versions have no holds
    perform grace_internal.require_no_holds(null, 'pg_grace was not uninstalled');
  end if;

  select string_agg(format('%s: %s', p.target_name, p.buffered_rows), ', ' order by p.target_name) into v_left
  from grace.protected p
  where p.buffered_rows > 0;
  select concat_ws(', ', v_left, nullif(format('files to be deleted: %s', count(*)), 'files to be deleted: 0')) into v_left
  from grace.file_outbox;
  if v_left <> '' and coalesce(current_setting('grace.discard_buffer', true), '') <> 'on' then
    raise exception 'pg_grace was not uninstalled: deleted rows can still be restored'
      using errcode = 'GR013',
      detail = 'Rows in the buffer: ' || v_left,
      hint = 'Restore them, or run pg_grace uninstall with --export DIR or --discard-buffer (in psql: set grace.discard_buffer = on).';
  end if;

  -- Even to ask for pg_cron's table by name takes USAGE on its schema.
  if exists (
    select
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'cron'
    where c.relname = 'job' and pg_catalog.has_schema_privilege(n.oid, 'usage')
  ) then
    execute 'select cron.unschedule(j.jobid) from cron.job j
      where j.jobname like ''pg_grace: %'' and j.database = current_database()';
  end if;

  if exists (select from pg_catalog.pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
    execute 'drop event trigger grace_refuse_drop';
  end if;
  execute 'drop schema grace_buffer cascade';
  execute 'drop schema grace_internal cascade';
  execute 'drop schema grace cascade';

  foreach v_role in array array ['grace_admin', 'grace_operator', 'grace_auditor'] loop
    if pg_catalog.shobj_description((select r.oid from pg_catalog.pg_roles r where r.rolname = v_role), 'pg_authid')
      like 'pg_grace: %'
    then
      begin
        execute format('drop role %I', v_role);
      exception when dependent_objects_still_exist or insufficient_privilege then
        raise warning 'role % stays: %', v_role, sqlerrm;
      end;
    end if;
  end loop;
end
$$;
