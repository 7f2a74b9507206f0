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
  r.login
from grace_internal.run r;

comment on view grace.runs is 'Every restore, purge and change of protection: when, by whom, how many rows. Never content.';
comment on column grace.runs.status is
'running, done, incomplete (locks were not free, or a piece failed: see details; the next run takes up the rest) or aborted (its session is gone).';
comment on column grace.runs.row_count is 'Rows restored or purged.';
