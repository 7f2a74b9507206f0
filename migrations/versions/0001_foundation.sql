create sequence grace_internal.deletion_id;

comment on sequence grace_internal.deletion_id is
'Ids of deletions. A sequence of our own, because transaction ids start again in a restored cluster.';

-- The key that signs the setting in which a transaction remembers its deletion: a sequence and not a table,
-- so that reading it is no SQL statement and leaves no predicate lock in a serializable transaction.
create sequence grace_internal.signing_key
as bigint minvalue -9223372036854775808 maxvalue 9223372036854775807 no cycle;

do $$
begin
  perform pg_catalog.setval(
    'grace_internal.signing_key',
    ('x' || pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 1, 12)
      || pg_catalog.right(pg_catalog.gen_random_uuid()::text, 4))::bit (64)::bigint
  );
end
$$;

create table grace_internal.protected (
  id integer generated always as identity primary key,
  target regclass not null unique,
  relation oid not null,
  target_name text not null,
  buffer name not null unique,
  retention interval not null,
  -- The retention as a fixed number of seconds (a day is 24 hours, a month 30 days), so that what is expired depends
  -- neither on the session's time zone nor on daylight saving.
  span interval not null
  generated always as (pg_catalog.make_interval(secs => extract(epoch from retention)::double precision)) stored,
  excluded smallint [] not null default '{}',
  excluded_names name [] not null default '{}',
  active boolean not null default true,
  protected_at timestamptz not null default pg_catalog.now(),
  protected_by name not null,
  constraint retention_is_positive check (extract(epoch from retention) >= 1)
);

comment on table grace_internal.protected is
'One row per protected table, or per whole partition tree. target_name is what the table was called when last seen; relation is its OID, which pg_dump keeps as a number, so that it no longer equals target where a dump was loaded.';

create table grace_internal.protected_column (
  protected_id integer not null references grace_internal.protected on delete cascade,
  buffer_column name not null,
  attnum smallint not null,
  attname name not null,
  type regtype not null,
  ended_at timestamptz,
  primary key (protected_id, buffer_column)
);

create unique index protected_column_attnum
on grace_internal.protected_column (protected_id, attnum) where ended_at is null;

comment on table grace_internal.protected_column is
'Which buffer column holds which column of the table. A column that was dropped or changed its type has ended_at set; its values stay in the buffer.';

-- Written by every capture, so it has no foreign keys and no more indexes than reading it needs.
create table grace_internal.capture (
  deletion bigint not null,
  deleted_at timestamptz not null,
  protected_id integer not null,
  row_count bigint not null,
  operation text not null,
  role name not null,
  login name not null,
  application_name text,
  client_addr inet,
  reason text
);

create index capture_deletion on grace_internal.capture (deletion);
create index capture_deleted_at on grace_internal.capture using brin (deleted_at) with (autosummarize = on);

comment on table grace_internal.capture is
'One row per statement that removed rows from a protected table; all statements of one transaction have the same deletion and the same time.';

create table grace_internal.run (
  id bigint generated always as identity primary key,
  kind text not null,
  target regclass,
  started_at timestamptz not null default pg_catalog.clock_timestamp(),
  finished_at timestamptz,
  status text not null default 'running',
  row_count bigint not null default 0,
  details jsonb not null default '{}',
  role name not null,
  login name not null,
  pid integer not null default pg_catalog.pg_backend_pid(),
  constraint run_kind check (kind in ('restore', 'purge', 'protect', 'unprotect', 'retention')),
  constraint run_status check (status in ('running', 'done', 'incomplete', 'aborted'))
);

comment on table grace_internal.run is 'One row per restore, purge or change of what is protected: counts, never content.';

create table grace_internal.restored (
  run_id bigint not null references grace_internal.run,
  deletion bigint not null,
  deleted_at timestamptz not null,
  protected_id integer not null,
  row_count bigint not null
);

create index restored_deletion on grace_internal.restored (deletion);

comment on table grace_internal.restored is 'How many rows of a deletion and table have left the buffer by being restored.';

create sequence grace_internal.progress;

comment on sequence grace_internal.progress is
'Counts the rows that restores have inserted, visible to other sessions while the restore is still open: what a progress bar polls.';

create type grace._row_ref as (protected_id integer, deleted_at timestamptz, leaf oid, tid tid);

comment on type grace._row_ref is 'Where one buffered row stands; valid within one transaction.';

create type grace._restore_plan as (
  target regclass,
  deletions bigint [],
  protected_ids integer [],
  targets regclass [],
  selected bigint [],
  picks grace._row_ref [],
  statement text,
  check_statement text,
  constraints text
);

comment on type grace._restore_plan is 'What one restore selects, and the statements that insert and check it.';
