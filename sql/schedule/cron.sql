-- The database that pg_cron works from; null when pg_cron is not preloaded, empty when that can't be read.
create or replace function grace_internal.cron_database()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text;
begin
  -- Without pg_cron's library it can still be set in postgresql.conf; then it is in no view.
  if current_setting('cron.database_name', true) is not null then
    select s.setting into v_database from pg_settings s where s.name = 'cron.database_name';
  end if;
  return v_database;
exception when insufficient_privilege then
  return '';
end
$$;

-- Whether pg_cron's tables are here, and for the owner of pg_grace to use: even to ask for them by name takes USAGE on their schema.
create or replace function grace_internal.has_cron()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'cron'
    where c.relname = 'job_run_details' and has_schema_privilege(n.oid, 'usage')
  )
$$;

-- pg_cron's jobs are those of a whole cluster, so their names say the database, but for the one that pg_cron is in.
create or replace function grace_internal.cron_name(job text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'pg_grace: ' || job || case
    when grace_internal.cron_database() not in ('', current_database()) then ' (' || current_database() || ')' else ''
  end
$$;

-- A job runs as the owner of schema grace, never as a superuser who happens to install or mend: procedures that commit run with the
-- rights of whoever calls them.
create or replace function grace_internal.job_owner()
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = 'grace'
$$;

-- Rules that are disabled have no turns.
create or replace function grace_internal.is_active(job grace_internal.job)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((select r.enabled from grace_internal.rule r where r.id = (job).rule_id), true)
$$;

-- What a job calls: the procedure of its name, or the rule that it is for.
create or replace function grace_internal.job_command(job grace_internal.job)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select format('call grace.run(%L)', r.name) from grace_internal.rule r where r.id = (job).rule_id),
    'call grace.' || (job).name || '()'
  )
$$;

-- The statements that make pg_cron's jobs what they should be, to be run in the database that pg_cron is in. Jobs of a database that
-- is gone, or has been renamed, go, and those of rules that have no schedule any more.
create or replace function grace_internal.cron_statements()
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select cron.unschedule(j.jobid) from cron.job j '
    'where j.jobname ^@ ''pg_grace: rule-'' and j.database = %L and j.jobname <> all (%L)',
    current_database(), array(select grace_internal.cron_name(j.name) from grace_internal.job j where grace_internal.is_active(j))
  )
  union all
  (select s.statement
  from grace_internal.job j
  cross join lateral (
    select
      grace_internal.cron_name(j.name), grace_internal.job_command(j), grace_internal.job_owner(),
      grace_internal.cron_database() in ('', current_database())
  ) as c (name, command, owner, is_here)
  cross join lateral (
    select format('from cron.job j where j.jobname = %L and j.database = %L and', c.name, current_database())
  ) as q (ours)
  cross join lateral (
    values
      (
        1, 'select cron.unschedule(j.jobid) from cron.job j where j.jobname ^@ ''pg_grace: '' '
        'and not exists (select from pg_catalog.pg_database d where d.datname = j.database)'
      ),
      (1, format('select cron.unschedule(j.jobid) %s j.username <> %L', q.ours, c.owner)),
      (2, format(
        'select %s where not exists (select %s j.schedule = %L and j.command = %L and j.username = %L)',
        case
          when c.owner <> current_user then format(
            'cron.schedule_in_database(%L, %L, %L, %L, %L)', c.name, j.schedule, c.command, current_database(), c.owner
          )
          when c.is_here then format('cron.schedule(%L, %L, %L)', c.name, j.schedule, c.command)
          else format('cron.schedule_in_database(%L, %L, %L, %L)', c.name, j.schedule, c.command, current_database())
        end,
        q.ours, j.schedule, c.command, c.owner
      ))
  ) as s (step, statement)
  where grace_internal.is_active(j)
  order by j.name, s.step)
$$;

-- Reads how pg_cron's jobs for a database have run, in the database that pg_cron is in.
create or replace function grace_internal.cron_query()
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $q$select
      substring(j.jobname from '^pg_grace: ([^ ]+)') as job, j.jobname as cron_job, j.schedule, j.command, j.username::text as login, j.active,
      coalesce((select r.rolcanlogin from pg_catalog.pg_roles r where r.rolname = j.username), false) as may_login,
      d.start_time as last_start, d.status as last_status, d.end_time - d.start_time as last_duration,
      d.return_message as last_message,
      (
        select count(*)
        from cron.job_run_details f
        where f.jobid = j.jobid and f.status = 'failed' and f.runid > coalesce((
          select max(s.runid) from cron.job_run_details s where s.jobid = j.jobid and s.status = 'succeeded'
        ), 0)
      ) as failures
    from cron.job j
    left join lateral (
      select r.start_time, r.end_time, r.status, r.return_message
      from cron.job_run_details r
      where r.jobid = j.jobid
      order by r.runid desc
      limit 1
    ) as d on true
    where j.jobname ^@ 'pg_grace: ' and j.database = %L
    order by j.jobname$q$,
    current_database()
  )
$$;

-- Where pg_cron works from another database: its name, and the jobs that should be there. No row otherwise. Data, not statements:
-- whoever runs something there must not take it from here.
create or replace function grace._cron_elsewhere()
returns table (database text, job text, cron_job text, schedule text, command text)
language sql stable
security definer -- reads the jobs
set search_path = pg_catalog, pg_temp
as $$
  select d.name, j.name, grace_internal.cron_name(j.name), j.schedule, grace_internal.job_command(j)
  from (select grace_internal.cron_database() as name) as d
  cross join grace_internal.job j
  where d.name not in ('', current_database()) and grace_internal.is_active(j)
  order by j.name
$$;
comment on function grace._cron_elsewhere() is
'Internal: the database that pg_cron works from, where that is another one, and the jobs that should be there.';

-- Why pg_cron can't run jobs for this database, in words, and which setting is missing; null when it can.
create or replace function grace_internal.schedule_obstacle()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text := grace_internal.cron_database();
  v_otherwise text := 'Or let any scheduler call "pg_grace tick".';
begin
  if not exists (select from pg_extension where extname = 'pg_cron')
    and not exists (select from pg_available_extensions where name = 'pg_cron')
  then
    return 'pg_cron is not installed on the server, so nothing is purged by itself. Install the package '
      'postgresql-' || current_setting('server_version_num')::integer / 10000 || '-cron, set '
      'shared_preload_libraries = ''pg_cron'' and cron.database_name = ''' || current_database()
      || ''', restart, "create extension pg_cron", then install again. ' || v_otherwise;
  end if;
  if v_database is null then
    return 'pg_cron is not preloaded, so nothing is purged by itself. Set shared_preload_libraries = ''pg_cron'' and '
      'cron.database_name = ''' || current_database() || ''' in postgresql.conf, restart, "create extension pg_cron", '
      'then install again. ' || v_otherwise;
  end if;
  if v_database not in ('', current_database()) then
    return format(
      'pg_cron works from database "%s" (cron.database_name). "pg_grace install" makes the jobs there; in psql, run there: %s',
      v_database, (
        select string_agg(regexp_replace(s, ' where not exists .*$', ';'), ' ')
        from grace_internal.cron_statements() s
        where s ~ '^select cron.schedule'
      )
    );
  end if;
  if exists (select from pg_extension where extname = 'pg_cron') then
    return case when not has_schema_privilege('cron', 'usage') then format(
      'role %I may not use pg_cron, so nothing is purged by itself. As superuser: grant usage on schema cron to %I; '
      'then install again. %s', current_user, current_user, v_otherwise
    ) end;
  end if;
  if v_database = '' then
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
