create or replace view grace.runs as
select
  r.id,
  r.kind,
  r.target,
  r.started_at,
  r.finished_at,
  r.finished_at - r.started_at as duration,
  case
    when r.status = 'running' and not grace._is_running(r.pid, r.started_at) then 'aborted'
    else r.status
  end as status,
  r.row_count,
  r.details,
  r.role,
  r.login,
  r.job
from grace_internal.run r;

comment on view grace.runs is 'Every restore, purge, change of protection and failed job: when, by whom, how many rows. Never content.';
comment on column grace.runs.status is
'running, done, incomplete (a lock was not free; the next run takes up the rest), failed (something is wrong: see details; the rest was done) or aborted (its session is gone).';
comment on column grace.runs.row_count is 'Rows restored or purged.';
comment on column grace.runs.job is 'The job whose work it did, whoever called it: purge; for kind job, the pg_cron job that failed.';
