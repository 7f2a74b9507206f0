-- When a job last had its turn, or came to be. What lies ahead, because the clock was set back since, does not count.
create or replace function grace_internal.last_turn(job grace_internal.job)
returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select max(t.at)
  from (
    select job.changed_at
    union all
    select job.claimed_at where job.claimed_at > clock_timestamp() - interval '10 minutes'
    union all
    select r.started_at from grace_internal.run r where r.job = (job).name and r.kind not in ('job', 'schedule')
  ) as t (at)
  where t.at <= clock_timestamp()
$$;

-- Takes the next job whose time has come, so that of two hosts one does it; null when there is none. Its time has come when it has
-- not run since it should have, whoever ran it: once, however often it was missed. Who has taken it may have died before it began, so
-- that counts for ten minutes only.
create or replace function grace._tick_claim()
returns text
language plpgsql
security definer -- the jobs are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job text;
begin
  select j.name into v_job
  from grace_internal.job j
  where j.name <> 'watch'
    and grace_internal.is_active(j)
    and grace_internal.last_scheduled(
      j.schedule, clock_timestamp(), grace_internal.last_turn(j)
    ) is not null
    and not exists ( -- of one table, too: it would be refused
      select from grace_internal.run r
      where (r.kind = j.name or r.kind = 'rule' and r.rule_id = j.rule_id) and r.status = 'running' and grace._is_running(r.pid, r.started_at)
    )
  order by j.name
  limit 1
  for update of j skip locked;
  update grace_internal.job j set claimed_at = clock_timestamp() where j.name = coalesce(v_job, 'watch'); -- comes last
  return v_job;
end
$$;
comment on function grace._tick_claim() is 'Internal: takes the next job that is due.';

create or replace function grace._rule_of_job(job text)
returns text
language sql stable
security definer -- the jobs are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select r.name from grace_internal.job j join grace_internal.rule r on r.id = j.rule_id where j.name = _rule_of_job.job
$$;
comment on function grace._rule_of_job(text) is 'Internal: which rule a job runs.';

create or replace procedure grace.tick()
language plpgsql
as $$
declare
  v_job text;
begin
  commit; -- inside a transaction block this is the error
  loop
    set transaction isolation level read committed; -- else of two at once one fails with 40001
    v_job := grace._tick_claim();
    commit;
    exit when v_job is null;
    if v_job operator(pg_catalog.=) 'purge' then
      call grace.purge();
    else
      call grace.run(grace._rule_of_job(v_job));
    end if;
  end loop;
  call grace.watch();
end
$$;
comment on procedure grace.tick() is
'Does what is due, once, and returns: for any scheduler, where pg_cron can''t be had, and beside pg_cron as well. Call it at any interval, from as many hosts as you like: each job''s turn is taken by one of them. A turn that was missed is made up for, once. Then does what grace.watch() does. Errors: those of the job, whose turn comes again after ten minutes if it had not begun; 2D000 inside a transaction block.';
