-- Whether more than a day passes between two turns.
create or replace function grace_internal.is_rare(schedule text)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_or(g.gap > interval '25 hours'), false) -- a day on which the clock is set back has as many
  from (
    select t - lag(t) over (order by t) as gap
    from grace.schedule_times(is_rare.schedule, 60) t
  ) as g
$$;

create or replace function grace.set_schedule(job text, schedule text)
returns table (in_words text, zone text, next_times timestamptz [])
language plpgsql
security definer -- the jobs are granted to nobody, and pg_cron's belong to the owner of pg_grace
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from grace_internal.job j where j.name = set_schedule.job) then
    raise exception 'there is no job %', coalesce(quote_ident(job), 'null')
      using errcode = 'GR026',
      detail = 'Jobs: ' || (select string_agg(j.name, ', ' order by j.name) from grace_internal.job j),
      hint = 'select * from grace.jobs();';
  end if;
  if schedule ~* '^[[:space:]]*@(yearly|annually)[[:space:]]*$' then
    schedule := '0 0 1 1 *'; -- pg_cron takes these words and never runs the job
  end if;
  in_words := grace.schedule_in_words(schedule);
  zone := grace_internal.schedule_zone();
  if job = 'purge' and grace_internal.is_rare(schedule) then
    raise warning 'what has expired will stay for longer than a day'
      using detail = 'The purge would run ' || in_words || '.', hint = 'Let it run every day: 0 0 * * *';
  end if;
  next_times := array(select t from grace.schedule_times(schedule, 3) t);
  update grace_internal.job j
  set schedule = set_schedule.schedule, changed_at = clock_timestamp()
  where j.name = set_schedule.job;
  if grace_internal.schedule_obstacle() is null then
    perform grace_internal.ensure_jobs();
  end if;
  insert into grace_internal.run (kind, job, status, finished_at, details, role, login)
  values (
    'schedule', job, 'done', clock_timestamp(), jsonb_build_object('schedule', schedule), grace_internal.caller(), session_user
  );
  return next;
end
$$;
comment on function grace.set_schedule(text, text) is
'When a job (purge, watch) runs, as cron writes it: minute, hour, day of month, month, day of week. Checks it, and returns it in words, the time zone in which its hours are meant (that of pg_cron, else GMT), and the next three times. Where pg_cron works from another database, "pg_grace schedule" carries it there. Errors: GR024, GR026.';
