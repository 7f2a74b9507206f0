create table grace_internal.job (
  name text primary key,
  schedule text not null,
  claimed_at timestamptz,
  changed_at timestamptz not null default pg_catalog.clock_timestamp()
);

comment on table grace_internal.job is 'What runs by itself, whichever scheduler does it.';
comment on column grace_internal.job.claimed_at is 'When a tick last took it.';

-- The buffers' days are those of UTC, and pg_cron's hours are GMT: at midnight a whole day has expired and can be truncated.
insert into grace_internal.job (name, schedule) values ('purge', '0 0 * * *'), ('watch', '*/5 * * * *');

-- A schedule that somebody has given the job of the version before is meant so.
do $$
declare
  v_schedule text;
begin
  if exists (
    select
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'cron' and c.relname = 'job' and pg_catalog.has_schema_privilege(n.oid, 'usage')
  ) then
    execute 'select max(j.schedule) from cron.job j where j.jobname = ''pg_grace: purge'' and j.database = current_database()'
    into v_schedule;
    update grace_internal.job set schedule = v_schedule
    where name = 'purge' and v_schedule <> '5 0 * * *' and v_schedule ~ '^[0-9*,/ -]+$' and v_schedule ~ '^([^ ]+ ){4}[^ ]+$';
  end if;
end
$$;

create table grace_internal.setting (
  name text primary key,
  value text not null
);

comment on table grace_internal.setting is 'What is set for the whole buffer: capacity, in bytes.';

alter table grace_internal.protected add column capacity bigint;
alter table grace_internal.protected add column evicted_to timestamptz;

comment on column grace_internal.protected.capacity is 'How many bytes the buffer may have before its oldest days go early.';
comment on column grace_internal.protected.evicted_to is
'What was deleted up to then has expired early, because the buffer was over its capacity.';

alter table grace_internal.run drop constraint run_kind;
alter table grace_internal.run add constraint run_kind check (
  kind in ('restore', 'purge', 'capacity', 'protect', 'unprotect', 'retention', 'sync', 'files', 'schedule', 'job')
);
alter table grace_internal.run drop constraint run_status;
alter table grace_internal.run add constraint run_status
check (status in ('running', 'done', 'incomplete', 'failed', 'aborted'));
alter table grace_internal.run add column job text;

comment on column grace_internal.run.job is 'The job of grace_internal.job whose work it did.';

create index run_kind_id on grace_internal.run (kind, id);

create table grace_internal.ledger (
  id bigint primary key,
  at timestamptz not null,
  run_id bigint not null,
  action text not null,
  target_name text not null,
  row_count bigint not null,
  deleted_before timestamptz,
  role text not null,
  previous bytea not null,
  hash bytea not null unique
);

comment on table grace_internal.ledger is
'What has gone for good: append-only, each entry with the hash of the one before it. Counts, never content.';

alter table grace_internal.ledger replica identity full;

-- Functions whose parameters or results changed; the repeatable files create them anew.
drop function if exists grace.jobs();
drop function if exists grace.set_retention(regclass, interval);
drop function if exists grace_internal.leaves(integer);
drop function if exists grace_internal.drop_leaf(integer, oid);
drop function if exists grace_internal.leaf_is_expired(integer, oid);
drop function if exists grace_internal.empty_leaf(integer, oid);
drop function if exists grace_internal.delete_expired(integer, oid, integer);
drop function if exists grace_internal.prepare_partition(integer);
drop function if exists grace_internal.create_partition(text, text, date);
