-- Why pg_cron can't run jobs for this database, in words, and which setting is missing; null when it can.
create or replace function grace_internal.schedule_obstacle()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text;
begin
  begin
    -- Without pg_cron's library it can still be set in postgresql.conf; then it is in no view.
    if current_setting('cron.database_name', true) is not null then
      select s.setting into v_database from pg_settings s where s.name = 'cron.database_name';
    end if;
  exception when insufficient_privilege then
    v_database := '?';
  end;
  if not exists (select from pg_extension where extname = 'pg_cron')
    and not exists (select from pg_available_extensions where name = 'pg_cron')
  then
    return 'pg_cron is not installed on the server, so nothing is purged by itself. Install the package '
      'postgresql-' || current_setting('server_version_num')::integer / 10000 || '-cron, set '
      'shared_preload_libraries = ''pg_cron'' and cron.database_name = ''' || current_database()
      || ''', restart, "create extension pg_cron", then install again. Until then call grace.purge() yourself.';
  end if;
  if v_database is null then
    return 'pg_cron is not preloaded, so nothing is purged by itself. Set shared_preload_libraries = ''pg_cron'' and '
      'cron.database_name = ''' || current_database() || ''' in postgresql.conf, restart, "create extension pg_cron", '
      'then install again. Until then call grace.purge() yourself.';
  end if;
  if v_database not in ('?', current_database()) then
    return format(
      'pg_cron runs in database "%s" (cron.database_name), not here, so nothing is purged by itself. There, run: '
      'select cron.schedule_in_database(%L, ''5 0 * * *'', ''call grace.purge()'', %L); '
      'or set cron.database_name = %L, restart and install again.',
      v_database, 'pg_grace: purge ' || current_database(), current_database(), current_database()
    );
  end if;
  if exists (select from pg_extension where extname = 'pg_cron') then
    return case when not has_schema_privilege('cron', 'usage') then format(
      'role %I may not use pg_cron, so nothing is purged by itself. As superuser: grant usage on schema cron to %I; '
      'then install again. Until then call grace.purge() yourself.', current_user, current_user
    ) end;
  end if;
  if v_database = '?' then
    return format(
      'pg_cron is preloaded, but this role may not read cron.database_name, so nothing is purged by itself. If it is %L, '
      'as superuser: create extension pg_cron; grant usage on schema cron to %I; then install again.',
      current_database(), current_user
    );
  end if;
  return 'pg_cron is preloaded, but its extension is missing in this database, so nothing is purged by itself. '
    'As superuser: create extension pg_cron; then install again.';
end
$$;

-- Creates the pg_cron job that purges every night, or says in words why there is none and which setting is missing.
-- 00:05 in pg_cron's time zone (GMT unless cron.timezone says otherwise): a buffer's day ends at 00:00 UTC, so that
-- almost all that is due can be truncated.
create or replace function grace_internal.ensure_jobs()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
begin
  if v_obstacle is not null then
    return v_obstacle;
  end if;
  -- Before 1.6.3 pg_cron leaves a job of this name where it is, in a database that has been renamed since.
  execute
    'select cron.unschedule(j.jobid) from cron.job j '
    'where j.jobname = $1 and j.username = current_user and j.database <> current_database()'
  using 'pg_grace: purge';
  execute 'select cron.schedule($1, $2, $3)' using 'pg_grace: purge', '5 0 * * *', 'call grace.purge()';
  return 'pg_cron job "pg_grace: purge" runs every night at 00:05';
end
$$;
