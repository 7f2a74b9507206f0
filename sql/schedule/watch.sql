create or replace function grace_internal.report_run(run bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select pg_notify('grace', jsonb_build_object(
    'run', r.id, 'kind', r.kind, 'job', r.job, 'status', r.status, 'table', coalesce(
      (select p.target_name from grace_internal.protected p where p.target = r.target), r.details ->> 'table'
    ), 'rows', r.row_count, 'started_at', r.started_at, 'finished_at', r.finished_at
  )::text)
  from grace_internal.run r
  where r.id = report_run.run
$$;

-- Runs whose session is gone. What a purge had removed by then goes into the ledger.
create or replace function grace_internal.note_aborted_runs()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
begin
  for v_run in
    update grace_internal.run r
    set status = 'aborted', finished_at = clock_timestamp()
    where r.status = 'running' and r.kind in ('purge', 'rule') and not grace._is_running(r.pid, r.started_at)
    returning r.id
  loop
    perform grace_internal.record_purge(v_run); -- a rule's run has removed nothing for good
    perform grace_internal.report_run(v_run);
  end loop;
end
$$;

-- What pg_cron could not even start, or what ended with an error, leaves no run of its own.
create or replace function grace_internal.note_failed_jobs()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
begin
  if not grace_internal.has_cron() then
    return;
  end if;
  for v_run in execute
    $q$insert into grace_internal.run (kind, job, status, started_at, finished_at, details, role, login)
    select
      'job', substr(j.jobname, length('pg_grace: ') + 1), 'failed', coalesce(d.start_time, d.end_time, clock_timestamp()),
      coalesce(d.end_time, d.start_time, clock_timestamp()), jsonb_build_object('pg_cron_run', d.runid), d.username, d.username
    from cron.job j
    join cron.job_run_details d on d.jobid = j.jobid and d.status = 'failed'
    where j.jobname ^@ 'pg_grace: ' and j.database = current_database()
      and coalesce(d.end_time, d.start_time, clock_timestamp()) > clock_timestamp() - interval '2 days'
      and not exists (
        select from grace_internal.run r where r.kind = 'job' and r.details ->> 'pg_cron_run' = d.runid::text
      )
    returning id$q$
  loop
    perform grace_internal.report_run(v_run);
  end loop;
end
$$;

-- Where pg_cron's log is in another database, or there is none, a turn that nobody took within a quarter of an hour says the same.
create or replace function grace_internal.note_missed_turns()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_missed record;
  v_run bigint;
begin
  if grace_internal.has_cron() then
    return;
  end if;
  for v_missed in
    select j.name, t.turn
    from grace_internal.job j
    cross join lateral (
      select grace_internal.last_scheduled(
        j.schedule, clock_timestamp() - interval '15 minutes',
        greatest(grace_internal.last_turn(j), (
          select max(r.started_at) from grace_internal.run r where r.kind = 'job' and r.job = j.name and r.details ? 'missed'
        ))
      ) as turn
    ) as t
    where j.name <> 'watch' and t.turn is not null and grace_internal.is_active(j)
  loop
    insert into grace_internal.run (kind, job, status, started_at, finished_at, details, role, login)
    values (
      'job', v_missed.name, 'failed', v_missed.turn, clock_timestamp(), jsonb_build_object('missed', v_missed.turn),
      grace_internal.caller(), session_user
    )
    returning id into v_run;
    perform grace_internal.report_run(v_run);
  end loop;
end
$$;

-- pg_cron keeps a row for each time that a job ran, for ever; those of our jobs go after a month.
create or replace function grace_internal.trim_cron_log()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.has_cron() then
    execute
      $q$delete from cron.job_run_details d
      where d.end_time < clock_timestamp() - interval '30 days' and d.jobid in (
        select j.jobid from cron.job j where j.jobname ^@ 'pg_grace: ' and j.database = current_database()
      )$q$;
  end if;
end
$$;

create or replace function grace._watch()
returns boolean
language plpgsql
security definer -- other roles' sessions and jobs
set search_path = pg_catalog, pg_temp
as $$
declare
  v_last grace_internal.run;
begin
  lock table grace_internal.run in share update exclusive mode; -- one at a time, or a run is reported twice
  perform grace_internal.note_aborted_runs();
  perform grace_internal.note_failed_jobs();
  perform grace_internal.note_missed_turns();
  perform grace_internal.announce_all();
  perform grace_internal.forget_ended_holds();
  select r.* into v_last from grace_internal.run r where r.kind = 'purge' and r.job is not null order by r.id desc limit 1;
  if not coalesce(
    v_last.status in ('incomplete', 'aborted')
    and greatest(v_last.finished_at, (v_last.details ->> 'tried_again_at')::timestamptz) < clock_timestamp() - interval '10 minutes',
    false
  ) or exists (select from grace_internal.run r where r.kind = 'purge' and r.status = 'running') then
    return false;
  end if;
  -- Of several that watch one tries.
  update grace_internal.run r
  set details = r.details || jsonb_build_object('tried_again_at', clock_timestamp())
  where r.id = v_last.id;
  return true;
end
$$;
comment on function grace._watch() is
'Internal: marks and reports runs that were aborted and jobs that failed; returns whether a purge is to be tried again.';

create or replace procedure grace.watch()
language plpgsql
as $$
declare
  v_again boolean;
begin
  commit; -- inside a transaction block this is the error
  set transaction isolation level read committed; -- else of two at once one fails with 40001
  v_again := grace._watch();
  commit;
  if v_again then
    call grace.purge();
  end if;
end
$$;
comment on procedure grace.watch() is
'Notices runs that were aborted, pg_cron jobs that failed, and, where pg_cron''s log is in another database, turns that nobody took within a quarter of an hour, and sends each as JSON on channel grace (LISTEN grace); tries a purge again, after ten minutes, that found a lock taken or was aborted. What pg_cron calls every five minutes; grace.tick() does the same. Errors: 2D000 inside a transaction block.';
