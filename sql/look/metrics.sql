-- The metrics of each table: by the log, which is read once for all of them, and the catalog. Of a buffer no more is read than
-- whether its default partition has a row.
create or replace function grace_internal.uses_default_partition(protected_id integer)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem text;
  v_rows boolean;
begin
  for v_stem in select s.stem from grace_internal.stems(protected_id) s loop
    execute format('select exists (select from grace_internal.%I)', v_stem || '_default') into v_rows;
    if v_rows then
      return true;
    end if;
  end loop;
  return false;
end
$$;

create or replace function grace._table_metrics()
returns table (name text, type text, help text, labels jsonb, value double precision)
language sql stable
security definer -- a view's functions run with the rights of whoever reads the view
set search_path = pg_catalog, pg_temp
as $$
  with log as (
    select
      d.protected_id,
      sum(d.row_count) filter (where not d.is_expired) as buffered_rows,
      min(d.deleted_at) filter (where not d.is_expired) as oldest,
      sum(d.row_count) filter (where d.is_expired and not d.is_kept) as expired_rows,
      min(d.deleted_at) filter (where d.is_expired and not d.is_kept) as oldest_expired
    from (
      select
        c.protected_id, c.deleted_at, c.is_kept, c.row_count - coalesce(r.row_count, 0) as row_count,
        c.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to) as is_expired -- _expired_before(), for all at once
      from (
        select
          k.protected_id, k.deletion, min(k.deleted_at) as deleted_at, sum(k.row_count) as row_count,
          coalesce(bool_or(k.kept), false) as is_kept
        from grace_internal.capture k
        group by k.protected_id, k.deletion
      ) as c
      join grace_internal.protected p on p.id = c.protected_id
      left join (
        select s.protected_id, s.deletion, sum(s.row_count) as row_count
        from grace_internal.restored s
        group by s.protected_id, s.deletion
      ) as r on r.protected_id = c.protected_id and r.deletion = c.deletion
    ) as d
    where d.row_count > 0
    group by d.protected_id
  ),
  protected as (
    select
      p.*, grace_internal.trigger_state(p.id) as state,
      -- A table that was dropped may have the name of one that is there: only the buffer tells them apart.
      jsonb_build_object(
        'datname', current_database(), 'table', coalesce(grace_internal.qualified_name(p.target), p.target_name), 'buffer', p.buffer
      ) as labels
    from grace_internal.protected p
  )
  select m.name, 'gauge', m.help, p.labels, m.value
  from protected p
  left join log l on l.protected_id = p.id
  cross join lateral (
    values
      ('pg_grace_buffered_rows', 'Deleted rows that can be restored.', coalesce(l.buffered_rows, 0)::double precision),
      (
        'pg_grace_buffer_bytes', 'Size of the buffer with TOAST and indexes, expired rows included.',
        grace_internal.buffer_size(p.id)
      ),
      (
        'pg_grace_oldest_deletion_timestamp_seconds', 'Time of the oldest deletion that can be restored.',
        extract(epoch from l.oldest)
      ),
      ('pg_grace_retention_seconds', 'How long a deleted row stays restorable.', extract(epoch from p.span)),
      ('pg_grace_capacity_bytes', 'How big the buffer may become before its oldest days go early.', p.capacity),
      (
        'pg_grace_expired_early', 'Whether rows have expired before their retention was over, because of a capacity.',
        coalesce(p.evicted_to > statement_timestamp() - p.span, false)::integer
      ),
      ('pg_grace_expired_rows', 'Rows that have expired and wait for the purge, without held ones.', coalesce(l.expired_rows, 0)),
      (
        'pg_grace_purge_overdue_seconds', 'For how long the oldest expired row has been past its retention.',
        coalesce(greatest(extract(epoch from statement_timestamp() - p.span - l.oldest_expired), 0), 0)
      ),
      ('pg_grace_capturing', 'Whether deletes are captured.', (p.state = 'capturing')::integer),
      (
        'pg_grace_drift', 'Whether the columns of the table have changed since its buffer was brought up to date.',
        coalesce(p.active and grace_internal.columns_changed(p.id), false)::integer
      ),
      (
        'pg_grace_default_partition_in_use', 'Whether deletes went to the default partition, for want of one for their day.',
        grace_internal.uses_default_partition(p.id)::integer
      )
  ) as m (name, help, value)
  where m.value is not null
  union all
  select
    'pg_grace_table_status', 'gauge', '1 for the state of the table, 0 for the others.',
    p.labels || jsonb_build_object('state', s.state), (p.state = s.state)::integer
  from protected p
  cross join unnest(array['capturing', 'disabled', 'missing', 'unprotected', 'table dropped']) as s (state)
$$;
comment on function grace._table_metrics() is 'Internal: what grace.metrics says of tables.';

-- A purge that failed in part is a success to pg_cron, so a job's own run counts where it is newer than what the scheduler knows.
create or replace function grace._job_metrics()
returns table (name text, type text, help text, labels jsonb, value double precision)
language sql stable
security definer -- reads the runs
set search_path = pg_catalog, pg_temp
as $$
  with run as (
    select r.job, r.id, r.started_at, r.finished_at, r.status
    from grace.runs r
    where r.job = r.kind
  ),
  own as (
    select
      r.job,
      max(r.started_at) as started_at,
      (array_agg(r.finished_at - r.started_at order by r.id desc))[1] as duration,
      (array_agg(r.status order by r.id desc))[1] as status,
      max(r.finished_at) filter (where r.status = 'done') as succeeded_at,
      count(*) filter (where r.status in ('failed', 'aborted') and r.id > coalesce(
        (select max(s.id) from run s where s.job = r.job and s.status in ('done', 'incomplete')), 0
      )) as failures
    from run r
    group by r.job
  ),
  job as (
    select
      j.job, j.next_start, j.active,
      -- A tick does the work of all jobs, though there are some whose turn it does not take.
      coalesce(j.scheduler, max(j.scheduler) filter (where j.scheduler = 'tick') over ()) as scheduler,
      l.started_at, l.duration,
      case
        when l.status = 'succeeded' then 'done'
        when l.status in ('starting', 'connecting', 'sending') then 'running'
        else l.status
      end as status,
      case
        when o.job is not null then o.succeeded_at
        when j.last_status = 'succeeded' then j.last_start + j.last_duration
      end as succeeded_at,
      greatest(j.failures, o.failures) as failures
    from grace.jobs() j
    left join own o on o.job = j.job
    cross join lateral (
      select o.started_at, o.duration, o.status where o.started_at > coalesce(j.last_start, '-infinity')
      union all
      select j.last_start, j.last_duration, j.last_status where (o.started_at > coalesce(j.last_start, '-infinity')) is not true
    ) as l
  )
  select m.name, 'gauge', m.help, jsonb_build_object('datname', current_database(), 'job_name', j.job) || m.more_labels, m.value
  from job j
  cross join lateral (
    values
      (
        'pg_grace_job_scheduled', 'Whether a scheduler runs the job; scheduler: pg_cron, tick, pg_cron elsewhere, none.',
        jsonb_build_object('scheduler', coalesce(j.scheduler, 'none')),
        (j.scheduler is not null and j.active is not false)::integer::double precision
      ),
      ('pg_grace_job_next_start_timestamp_seconds', 'When the job is to start next.', '{}', extract(epoch from j.next_start)),
      ('pg_grace_job_last_start_timestamp_seconds', 'When the job last started.', '{}', extract(epoch from j.started_at)),
      (
        'pg_grace_job_last_success_timestamp_seconds', 'When the job last ended with all its work done.', '{}',
        extract(epoch from j.succeeded_at)
      ),
      ('pg_grace_job_last_duration_seconds', 'How long the last run took, once it has ended.', '{}', extract(epoch from j.duration)),
      (
        'pg_grace_job_failures_in_a_row', 'How often the job has failed or was aborted since it last ended otherwise.', '{}',
        j.failures
      )
  ) as m (name, help, more_labels, value)
  where m.value is not null
  union all
  select
    'pg_grace_job_last_outcome', 'gauge', '1 for the status of the last run, 0 for the others.',
    jsonb_build_object('datname', current_database(), 'job_name', j.job, 'status', s.status),
    coalesce(j.status = s.status, false)::integer
  from job j
  cross join unnest(array['running', 'done', 'incomplete', 'failed', 'aborted']) as s (status)
$$;
comment on function grace._job_metrics() is 'Internal: what grace.metrics says of jobs.';

create or replace function grace._database_metrics()
returns table (name text, type text, help text, labels jsonb, value double precision)
language sql stable
security definer -- reads the runs and the outbox
set search_path = pg_catalog, pg_temp
as $$
  with run as (
    select r.kind, r.status, count(*) as run_count, sum(r.row_count) as row_count
    from grace.runs r
    group by r.kind, r.status
    union all
    -- Counters begin with 0, so that the first failure is an increase, too.
    select z.kind, z.status, 0, 0
    from (
      values
        ('purge', 'done'), ('purge', 'incomplete'), ('purge', 'failed'), ('purge', 'aborted'), ('purge', 'running'),
        ('restore', 'done'), ('capacity', 'done'), ('job', 'failed')
    ) as z (kind, status)
  )
  select m.name, m.type, m.help, jsonb_build_object('datname', current_database()) || m.more_labels, m.value
  from (
    select
      'pg_grace_up' as name, 'gauge' as type, 'Whether the metrics of the database could be read.' as help,
      '{}'::jsonb as more_labels, 1::double precision as value
    union all
    select
      'pg_grace_revision_info', 'gauge', 'Always 1; revision: that of pg_grace in the database.',
      jsonb_build_object('revision', v.version_num), 1
    from grace.alembic_version v
    union all
    select
      'pg_grace_runs_total', 'counter', 'Runs that have ended: restores, purges, changes of protection, failed jobs.',
      jsonb_build_object('kind', r.kind, 'status', r.status), sum(r.run_count)
    from run r
    where r.status <> 'running'
    group by r.kind, r.status
    union all
    select
      'pg_grace_run_rows_total', 'counter', 'Rows that were restored, purged, or expired early because of a capacity.',
      jsonb_build_object('kind', r.kind), sum(r.row_count)
    from run r
    where r.kind in ('restore', 'purge', 'capacity')
    group by r.kind
    union all
    select 'pg_grace_purges_running', 'gauge', 'Purges that are running now.', '{}', sum(r.run_count)
    from run r
    where r.kind = 'purge' and r.status = 'running'
    union all
    select
      'pg_grace_total_capacity_bytes', 'gauge', 'How big all buffers together may become before their oldest days go early.', '{}',
      c.capacity
    from (select grace_internal.total_capacity() as capacity) as c
    where c.capacity is not null
    union all
    select
      'pg_grace_ledger_entries', 'gauge', 'Number of the last entry of the ledger: it never becomes less.', '{}',
      coalesce(max(l.id), 0)
    from grace_internal.ledger l
    union all
    select
      'pg_grace_outbox_files', 'gauge', 'Files outside the database whose rows have been purged and that can be deleted.', '{}',
      count(*)
    from grace_internal.outbox o
    union all
    select
      'pg_grace_outbox_failed_files', 'gauge', 'Those of them that could not be deleted the last time.', '{}',
      count(*) filter (where o.error is not null)
    from grace_internal.outbox o
  ) as m
$$;
comment on function grace._database_metrics() is 'Internal: what grace.metrics says of the database as a whole.';

create or replace view grace.metrics as
select
  'table' as subject,
  t.name,
  t.type,
  t.help,
  t.labels,
  t.value
from grace._table_metrics() t
union all
select
  'job' as subject,
  j.name,
  j.type,
  j.help,
  j.labels,
  j.value
from grace._job_metrics() j
union all
select
  'database' as subject,
  d.name,
  d.type,
  d.help,
  d.labels,
  d.value
from grace._database_metrics() d;

comment on view grace.metrics is
'How pg_grace is doing, one row per sample, named as Prometheus names things; what "pg_grace metrics" prints. Reads the log and the catalog. Sizes are in bytes, durations in seconds, times in seconds since 1970, answers 0 or 1.';
comment on column grace.metrics.subject is 'What it is about: table, job, database. Who asks for one only is spared reading the others.';
comment on column grace.metrics.name is 'The metric: pg_grace_buffered_rows.';
comment on column grace.metrics.type is 'gauge, or counter for what only grows.';
comment on column grace.metrics.help is 'What it says, in a sentence.';
comment on column grace.metrics.labels is
'Of what: always datname, the database; table and buffer, job_name (Prometheus has a label job of its own), kind, state, status, scheduler, revision where they apply.';
comment on column grace.metrics.value is 'The value. What there is none of, such as the oldest deletion of an empty buffer, has no row.';
