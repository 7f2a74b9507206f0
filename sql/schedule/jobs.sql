-- The pg_cron jobs of pg_grace; none where pg_cron is not in this database.
create or replace function grace.jobs()
returns table (
  job text, schedule text, login name, active boolean,
  last_start timestamptz, last_status text, last_message text
)
language plpgsql stable
security definer -- row security in pg_cron shows each role its own jobs only
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('cron.job') is not null then
    return query execute
      'select j.jobname::text, j.schedule, j.username::name, j.active, d.start_time, d.status, d.return_message
      from cron.job j
      left join lateral (
        select r.start_time, r.status, r.return_message from cron.job_run_details r
        where r.jobid = j.jobid order by r.runid desc limit 1
      ) as d on true
      where j.jobname like ''pg_grace: %'' and j.database = current_database()
      order by j.jobname';
  end if;
end
$$;
comment on function grace.jobs() is 'The pg_cron jobs of pg_grace in this database, with how they last ran.';
