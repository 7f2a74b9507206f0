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
  r.job,
  r.details ->> 'rule' as rule,
  r.batches
from grace_internal.run r;

comment on view grace.runs is 'Every restore, purge and execution of a rule, every change of what is protected, kept or deleted, and failed jobs: when, by whom, how many rows. Never content.';
comment on column grace.runs.status is
'running; done; incomplete (the next run takes up the rest: a lock was not free, single records could not be deleted, or it was stopped: see details); held (a rule''s run that waits for approval); failed (something is wrong: see details; the rest was done); aborted (its session is gone).';
comment on column grace.runs.row_count is 'Rows restored, purged or deleted by a rule.';
comment on column grace.runs.job is 'The job whose work it did, whoever called it: purge; for kind job, the pg_cron job that failed.';
comment on column grace.runs.rule is 'The rule that it executed, by the name that it had.';
comment on column grace.runs.batches is 'In how many transactions a rule has deleted.';
