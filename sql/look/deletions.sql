create or replace view grace.deletions as
select
  c.deletion as id,
  min(c.deleted_at) as deleted_at,
  p.target,
  sum(c.row_count)::bigint as row_count,
  coalesce(r.row_count, 0)::bigint as restored_count,
  string_agg(distinct c.operation, ', ') as operation,
  (array_agg(c.role))[1] as deleted_by,
  (array_agg(c.login))[1] as login,
  (array_agg(c.application_name))[1] as application_name,
  (array_agg(c.client_addr))[1] as client_addr,
  (array_agg(c.reason) filter (where c.reason is not null))[1] as reason,
  min(c.deleted_at) + p.span as expires_at,
  p.target_name,
  r.runs
from grace_internal.capture c
join grace_internal.protected p on p.id = c.protected_id
left join lateral (
  select
    sum(r.row_count) as row_count,
    array_agg(distinct r.run_id order by r.run_id) as runs
  from grace_internal.restored r
  where r.deletion = c.deletion and r.protected_id = c.protected_id
) as r on true
where c.deleted_at > greatest(statement_timestamp() - p.span, p.evicted_to)
group by c.deletion, p.id, r.row_count, r.runs;

comment on view grace.deletions is
'One row per deletion (all that one transaction removed) and table, until it expires.';
comment on column grace.deletions.id is 'The deletion; what restore takes.';
comment on column grace.deletions.deleted_at is 'When the transaction deleted its first row from a protected table.';
comment on column grace.deletions.target is 'The table the rows were deleted from; null when it was dropped.';
comment on column grace.deletions.row_count is 'Rows captured.';
comment on column grace.deletions.restored_count is 'How many of them have been restored since.';
comment on column grace.deletions.operation is 'DELETE (a MERGE or cascade is one, too), TRUNCATE, or REPLACE for what a restore has overwritten.';
comment on column grace.deletions.deleted_by is 'The role in effect (SET ROLE), else the login.';
comment on column grace.deletions.login is 'The role that logged in.';
comment on column grace.deletions.application_name is 'application_name of the session.';
comment on column grace.deletions.client_addr is 'Where the session came from; null for a local socket.';
comment on column grace.deletions.reason is 'What the session had said with SET grace.reason = ''…''.';
comment on column grace.deletions.target_name is 'What it is called, or was when it was dropped.';
comment on column grace.deletions.expires_at is 'From this moment on it can no longer be restored.';
comment on column grace.deletions.runs is 'The restores that have taken rows of it, as in grace.runs.';
