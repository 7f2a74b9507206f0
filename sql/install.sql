-- pg_grace 0.1.0, revision 0006: psql -f install.sql
-- Generated from sql/ and migrations/ by "pg_grace install --sql"; change those.
\set ON_ERROR_STOP on

begin;

do $$ begin perform pg_catalog.pg_advisory_xact_lock(4708281990); end $$;

set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;

do $$
begin
  if pg_catalog.current_setting('server_version_num')::integer < 150000 then
    raise exception 'PostgreSQL % is too old', pg_catalog.current_setting('server_version')
      using errcode = 'GR017', detail = 'pg_grace needs PostgreSQL 15 or later.',
      hint = 'Upgrade the server with pg_upgrade.';
  end if;
end
$$;

do $$
begin
  if pg_catalog.to_regclass('grace.alembic_version') is not null then
    raise exception 'pg_grace is installed in this database already'
      using errcode = 'GR018', detail = 'This script makes a new installation.',
      hint = 'To bring it up to date: pg_grace upgrade';
  end if;
end
$$;

-- The three group roles that pg_grace grants to. They belong to the cluster, not to one database,
-- so one that is there already (another database uses pg_grace) is left as it is. An administrator is an operator and an
-- auditor as well.
do $$
declare
  wanted record;
begin
  for wanted in
    select *
    from (values
      ('grace_admin', 'pg_grace: protects tables, sets retention, purges'),
      ('grace_operator', 'pg_grace: sees the buffer and restores'),
      ('grace_auditor', 'pg_grace: sees deletions, runs and status, no content')
    ) as r (name, comment)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
      begin
        execute format('create role %I nologin', wanted.name);
        execute format('comment on role %I is %L', wanted.name, wanted.comment);
      exception when duplicate_object or unique_violation then
        null; -- another database was quicker
      end;
    end if;
  end loop;
  -- Asked first: granting again would take ADMIN OPTION, which the role that installs into a second database lacks.
  if not pg_catalog.pg_has_role('grace_admin', 'grace_operator', 'member') then
    grant grace_operator to grace_admin;
  end if;
  if not pg_catalog.pg_has_role('grace_admin', 'grace_auditor', 'member') then
    grant grace_auditor to grace_admin;
  end if;
end
$$;

-- What users call and look at, what was deleted, and what is nobody's business.
create schema if not exists grace;
create schema if not exists grace_buffer;
create schema if not exists grace_internal;

comment on schema grace is 'pg_grace: functions and views to protect, look, restore and purge';
comment on schema grace_buffer is 'pg_grace: deleted rows, one table per protected table';
comment on schema grace_internal is 'pg_grace: internals, granted to nobody';

CREATE TABLE grace.alembic_version (
    version_num VARCHAR(32) NOT NULL, 
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

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


INSERT INTO grace.alembic_version (version_num) VALUES ('0001') RETURNING grace.alembic_version.version_num;

-- Running upgrade 0001 -> 0002

alter table grace_internal.protected
add column row_wise boolean not null default false,
add column follows_cascades boolean not null default true,
add column uncovered regclass [] not null default '{}',
add column files smallint [] not null default '{}',
add column file_names name [] not null default '{}';

-- What was so in the version before is meant so: cascades into tables that are not protected.
update grace_internal.protected p
set uncovered = array(
  select distinct coalesce(pg_catalog.pg_partition_root(c.conrelid), c.conrelid::pg_catalog.regclass)
  from pg_catalog.pg_constraint c
  where c.contype = 'f' and c.confdeltype = 'c'
    and coalesce(pg_catalog.pg_partition_root(c.confrelid), c.confrelid::pg_catalog.regclass) = p.target
    and not exists (
      select
      from grace_internal.protected o
      where o.active
        and o.target = coalesce(pg_catalog.pg_partition_root(c.conrelid), c.conrelid::pg_catalog.regclass)
    )
);

alter table grace_internal.protected add column home text;
update grace_internal.protected p
set home = pg_catalog.format('%s/%s', s.system_identifier, d.oid)
from pg_catalog.pg_control_system() s, pg_catalog.pg_database d
where d.datname = pg_catalog.current_database();

-- A dump writes the target of a table that is gone as a number, and another table may have that number where it is loaded.
alter table grace_internal.protected alter column target drop not null;
update grace_internal.protected p
set target = null, active = false
where not exists (
  select
  from pg_catalog.pg_class c
  where c.oid = p.target
);

comment on column grace_internal.protected.target is 'Null when the table was dropped.';
comment on column grace_internal.protected.home is
'The cluster and database in which relation and the numbers of columns mean something.';
comment on column grace_internal.protected.row_wise is
'Captured row by row, because the table is part of an inheritance tree.';
comment on column grace_internal.protected.follows_cascades is
'Whether tables that deleting from it cascades into are to be protected with it.';
comment on column grace_internal.protected.uncovered is
'Tables that deleting from it cascades into and that are known not to be captured: refused by protect, or unprotected since.';
comment on column grace_internal.protected.files is
'Columns that refer to files: a large object''s OID, or a path or URL outside the database.';

-- Where a publication takes in all tables, rows without an identity could not be deleted: not by a restore, not by a purge.
alter table grace_internal.capture replica identity full;
alter table grace_internal.restored replica identity full;

alter table grace_internal.run drop constraint run_kind;
alter table grace_internal.run add constraint run_kind
check (kind in ('restore', 'purge', 'protect', 'unprotect', 'retention', 'sync', 'files'));

create table grace_internal.outbox (
  id bigint generated always as identity primary key,
  protected_id integer not null,
  target_name text not null,
  column_name name not null,
  file text not null,
  deleted_at timestamptz not null,
  purged_at timestamptz not null default pg_catalog.clock_timestamp(),
  claimed_until timestamptz,
  attempts integer not null default 0,
  error text
);

comment on table grace_internal.outbox is
'Files outside the database whose rows have been purged: to be deleted by the application or by pg_grace files sweep.';

-- Former buffers get the identity that new ones are created with.
do $$
declare
  v_relation record;
begin
  for v_relation in
    select c.oid::pg_catalog.regclass as name
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p')
      and (
        c.relnamespace = 'grace_buffer'::pg_catalog.regnamespace
        or (c.relnamespace = 'grace_internal'::pg_catalog.regnamespace and c.relispartition)
      )
  loop
    execute pg_catalog.format('alter table %s replica identity full', v_relation.name);
  end loop;
end
$$;

-- Functions whose parameters changed; the repeatable files create them anew.
drop function if exists grace.protect(regclass, interval, boolean, name [], interval);
drop function if exists grace_internal.capture_statement(integer, oid, text);
drop function if exists grace_internal.insert_statement(integer, text, text, text);
drop function if exists grace_internal.cascade_tree(regclass);
drop function if exists grace_internal.create_buffer(regclass, interval, smallint []);
drop function if exists grace_internal.create_triggers(integer, boolean);
drop function if exists grace_internal.leaf_name(integer, date);
drop function if exists grace_internal.create_partition(integer, date);
drop function if exists grace_internal.missing_partitions(integer, integer);
drop function if exists grace_internal.leaves(integer);
drop function if exists grace_internal.check_protectable(regclass, name []);

alter table grace_internal.protected add column unmarked_to bigint not null default 0;

comment on column grace_internal.protected.unmarked_to is
'Rows of deletions up to this one were loaded or rewritten since, so that their xmin no longer is that of their log row.';


UPDATE grace.alembic_version SET version_num='0002' WHERE grace.alembic_version.version_num = '0001';

-- Running upgrade 0002 -> 0003

create table grace_internal.link (
  id integer generated always as identity primary key,
  protected_id integer not null,
  child regclass,
  child_oid oid not null,
  home text not null,
  child_name text not null,
  key_columns smallint [] not null,
  key_names name [] not null,
  columns smallint [] not null,
  column_names name [] not null,
  set_columns smallint [] not null,
  set_names name [] not null,
  parent_columns smallint [] not null,
  parent_names name [] not null,
  active boolean not null default true
);

create index link_protected_id on grace_internal.link (protected_id);

comment on table grace_internal.link is
'Foreign keys with ON DELETE SET NULL or SET DEFAULT on protected tables. What a row describes never changes but for names: a foreign key that is defined anew, or a new primary key, makes a new row, so that what was cut before stays readable.';
comment on column grace_internal.link.protected_id is 'The table that is referenced.';
comment on column grace_internal.link.child is 'The table that references it; null when it was dropped.';
comment on column grace_internal.link.child_oid is
'Its OID, which pg_dump keeps as a number, so that it no longer equals child where a dump was loaded; there the numbers of columns mean nothing, and their names count.';
comment on column grace_internal.link.home is 'The cluster and database in which numbers mean something.';
comment on column grace_internal.link.key_columns is 'The child''s primary key.';
comment on column grace_internal.link.columns is 'The referencing columns, in the order of the foreign key.';
comment on column grace_internal.link.set_columns is 'Those of them that the deletion sets.';
comment on column grace_internal.link.parent_columns is 'The referenced columns of the protected table, in the same order.';
comment on column grace_internal.link.active is 'Whether the child''s trigger zz_grace_link_<id> belongs there.';

-- Written for every link that is cut, so it has no foreign keys and no more indexes than reading it needs.
create table grace_internal.cut (
  link integer not null,
  deletion bigint not null,
  deleted_at timestamptz not null,
  child_key text [] not null,
  former text [] not null,
  replaced_by text [] not null
);

create index cut_deletion on grace_internal.cut (link, deletion);
alter table grace_internal.link replica identity full;
alter table grace_internal.cut replica identity full;

comment on table grace_internal.cut is
'One row per link that a deletion cut. Values are what the types'' output functions give, with ISO dates and full precision.';
comment on column grace_internal.cut.child_key is 'The child''s primary key, as it is after the cut.';
comment on column grace_internal.cut.former is 'The referencing columns before the cut.';
comment on column grace_internal.cut.replaced_by is 'The same columns right after the cut.';


UPDATE grace.alembic_version SET version_num='0003' WHERE grace.alembic_version.version_num = '0002';

-- Running upgrade 0003 -> 0004

-- What the repeatable files make anew with other parameters, columns or attributes.
drop function if exists grace.restore(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean);
drop function if exists grace.buffered(regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint);
drop function if exists grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name);
drop function if exists grace._buffer_links();
drop function if exists grace._restore_select(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean);
drop function if exists grace._refuse_restore(jsonb);
drop function if exists grace_internal.buffer_columns(integer, oid, smallint []);
drop function if exists grace_internal.restore_columns(integer);
drop function if exists grace_internal.insert_select(integer, text);
drop function if exists grace_internal.conflict_queries(integer, integer []);
drop function if exists grace_internal.key_expression(regclass);
drop function if exists grace_internal.unique_rule(oid);
drop function if exists grace_internal.check_statement(integer [], text []);
drop function if exists grace_internal.restore_source(integer, bigint [], boolean, text);
drop function if exists grace_internal.matching_deletions(integer, bigint, timestamptz, timestamptz, name, boolean);
drop function if exists grace_internal.pick_statement(integer, bigint [], jsonb);
drop function if exists grace_internal.restore_files(integer, text, grace._row_ref []);
drop type grace._restore_plan cascade; -- the functions that take it are made anew, too

create type grace._restore_plan as (
  target regclass,
  into_table regclass,
  on_conflict text,
  relinks boolean,
  fires boolean,
  locks boolean,
  given jsonb,
  set_values jsonb,
  predicate text,
  filter_source text,
  deletions bigint [],
  picks grace._row_ref [],
  left_out grace._row_ref [],
  skipped grace._row_ref [],
  replaced grace._row_ref [],
  live_leaves oid [],
  live_tids tid [],
  protected_ids integer [],
  targets regclass [],
  has_lost boolean,
  statement text,
  counts text,
  left_behind text,
  value_test text,
  versions text [],
  overwrites text [],
  link_ids integer [],
  link_children regclass [],
  link_counts text [],
  link_updates text [],
  constraints text
);

comment on type grace._restore_plan is 'What one restore selects, how it is to be done, and the statements that do it.';

create type grace._restore_result as (
  run bigint,
  restored bigint [],
  replaced bigint [],
  relinked bigint [],
  left_behind jsonb []
);

comment on type grace._restore_result is 'What a restore did, table by table in the order of its plan.';

create type grace._conflict as (
  protected_id integer,
  ref grace._row_ref,
  key jsonb,
  constraint_name text,
  reason text
);

comment on type grace._conflict is 'Why one selected row can''t be restored.';


UPDATE grace.alembic_version SET version_num='0004' WHERE grace.alembic_version.version_num = '0003';

-- Running upgrade 0004 -> 0005

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


UPDATE grace.alembic_version SET version_num='0005' WHERE grace.alembic_version.version_num = '0004';

-- Running upgrade 0005 -> 0006

create table grace_internal.filter (
  id integer generated always as identity primary key,
  name text not null unique,
  target regclass not null,
  predicate text not null,
  condition text not null,
  columns name [] not null,
  depends jsonb not null,
  home text not null,
  reported text,
  created_at timestamptz not null default pg_catalog.clock_timestamp(),
  created_by name not null,
  created_login name not null,
  constraint filter_has_a_name check (name <> '')
);

comment on table grace_internal.filter is 'Saved criteria on one table.';
comment on column grace_internal.filter.predicate is 'As it was given.';
comment on column grace_internal.filter.condition is 'As PostgreSQL reads it, with every name qualified, so that it means the same under any search_path.';
comment on column grace_internal.filter.columns is 'What a user knows the records by; empty: the primary key.';
comment on column grace_internal.filter.depends is
'What it refers to, with the names and types that this had: when one has another now, the filter no longer says what was meant.';
comment on column grace_internal.filter.reported is 'The problem that was last reported.';
comment on column grace_internal.filter.home is 'The database in which the object ids of depends are valid.';

create table grace_internal.rule (
  id integer generated always as identity primary key,
  name text not null unique,
  filter_id integer references grace_internal.filter,
  target regclass not null,
  action text not null,
  predicate text,
  condition text not null,
  starts text,
  start_expression text,
  activities jsonb not null default '[]',
  related_to jsonb,
  period interval not null default '0',
  zone text not null,
  final_by_due boolean not null default false,
  notice interval,
  run_as regrole not null,
  columns name [] not null,
  max_rows bigint,
  max_fraction numeric not null,
  batch_size integer not null,
  pause interval not null,
  max_duration interval,
  four_eyes boolean not null,
  basis text,
  depends jsonb not null,
  home text not null,
  path text not null,
  query jsonb not null,
  sources jsonb not null default '[]',
  reported text,
  enabled boolean not null default true,
  announced_at timestamptz,
  created_at timestamptz not null default pg_catalog.clock_timestamp(),
  created_by name not null,
  created_login name not null,
  changed_at timestamptz not null default pg_catalog.clock_timestamp(),
  changed_by name not null,
  changed_login name not null,
  constraint rule_has_a_name check (name <> ''),
  constraint rule_action check (action in ('delete', 'anonymize', 'keep')),
  constraint rule_limits check (max_rows >= 0 and max_fraction between 0 and 1 and batch_size > 0)
);

comment on table grace_internal.rule is 'What happens to which records of one table, and when.';
comment on column grace_internal.rule.condition is
'The filter''s condition and the rule''s own, as PostgreSQL reads them; the filter can''t change while a rule uses it.';
comment on column grace_internal.rule.start_expression is
'From when the period counts, as PostgreSQL reads it, activities included; null: what the rule applies to is due at once.';
comment on column grace_internal.rule.zone is 'The time zone in which dates begin and months are counted.';
comment on column grace_internal.rule.path is 'The search_path under which the names in its texts are read.';
comment on column grace_internal.rule.query is 'The pieces of its statements.';
comment on column grace_internal.rule.sources is 'The pieces of the statements that find the latest activity in rows that are about to be deleted.';
comment on column grace_internal.rule.announced_at is 'When notices were last given.';

create table grace_internal.runner (
  id integer generated always as identity primary key,
  role regrole not null unique,
  settings text [] not null,
  granted boolean not null default false
);

comment on table grace_internal.runner is
'Three functions for each role that a rule runs as, owned by that role: what is executed in them has that role''s rights and row security.';
comment on column grace_internal.runner.granted is 'It was given USAGE on schema grace for that, which is taken back with the functions.';

create table grace_internal.exemption (
  id bigint generated always as identity primary key,
  rule_id integer not null references grace_internal.rule on delete cascade,
  key jsonb not null,
  reason text not null,
  until timestamptz,
  created_at timestamptz not null default pg_catalog.clock_timestamp(),
  created_by name not null,
  created_login name not null,
  dropped_at timestamptz,
  dropped_by name,
  dropped_login name,
  constraint exemption_has_a_reason check (reason <> '')
);

create index exemption_rule on grace_internal.exemption (rule_id, key) where dropped_at is null;

comment on table grace_internal.exemption is 'Not this record, for this rule: who says so and why, also of those that were dropped.';

create table grace_internal.notice (
  rule_id integer not null references grace_internal.rule on delete cascade,
  key jsonb not null,
  due timestamptz not null,
  announced_at timestamptz not null,
  primary key (rule_id, key)
);

comment on table grace_internal.notice is 'What was announced: when which rule would act on which record.';

create table grace_internal.last_activity (
  rule_id integer not null references grace_internal.rule on delete cascade,
  key jsonb not null,
  at timestamptz not null,
  primary key (rule_id, key)
);

comment on table grace_internal.last_activity is
'The latest activity of records of which a rule has deleted the row that says so: the key and the time, so that the period does not start earlier for want of the row.';

create table grace_internal.hold (
  id bigint generated always as identity primary key,
  protected_id integer references grace_internal.protected on delete set null,
  target_name text not null,
  key jsonb not null,
  columns smallint [] not null,
  names name [] not null,
  types regtype [] not null,
  key_values text [] not null,
  is_live boolean not null,
  reason text not null,
  case_number text,
  until timestamptz,
  held_at timestamptz not null default pg_catalog.clock_timestamp(),
  held_by name not null,
  held_login name not null,
  released_at timestamptz,
  released_by name,
  released_login name,
  release_reason text,
  constraint hold_has_a_reason check (reason <> '')
);

create index hold_protected on grace_internal.hold (protected_id, key_values) where released_at is null;

comment on table grace_internal.hold is 'Not this record, on any path, until released: who says so and why, also of those that were released.';
comment on column grace_internal.hold.key is 'As it is shown; what is compared are key_values.';
comment on column grace_internal.hold.columns is 'The primary key as it was then, by number; names and types (under their domains) are theirs.';
comment on column grace_internal.hold.key_values is 'The key''s values as text by the types'' output functions, with settings that are always the same.';
comment on column grace_internal.hold.is_live is 'The record was in the table when it was held, so it has to be there still.';

alter table grace_internal.capture add column kept boolean;

comment on column grace_internal.capture.kept is
'True: past the retention, and only there because of a hold; false: of a hold that was released. Rows and log no longer bear one mark then.';

create table grace_internal.run_failure (
  run_id bigint not null references grace_internal.run on delete cascade,
  key jsonb not null,
  sqlstate text not null,
  reason text not null
);

create index run_failure_run on grace_internal.run_failure (run_id);

comment on table grace_internal.run_failure is 'Records that a run could not act on, and why.';

alter table grace_internal.run drop constraint run_kind;
alter table grace_internal.run add constraint run_kind check (
  kind in (
    'restore', 'purge', 'capacity', 'protect', 'unprotect', 'retention', 'sync', 'files', 'schedule', 'job', 'rule', 'change', 'hold'
  )
);
alter table grace_internal.run drop constraint run_status;
alter table grace_internal.run add constraint run_status
check (status in ('running', 'done', 'incomplete', 'failed', 'aborted', 'held'));
alter table grace_internal.run add column rule_id integer;
alter table grace_internal.run add column batches bigint not null default 0;

comment on column grace_internal.run.rule_id is 'The rule that it executed.';
comment on column grace_internal.run.batches is 'How many transactions it has deleted in.';

create index run_rule on grace_internal.run (rule_id, id) where rule_id is not null;

alter table grace_internal.job add column rule_id integer unique references grace_internal.rule on delete cascade;

comment on column grace_internal.job.rule_id is 'The rule that this job runs.';

-- Functions whose results changed; the repeatable files create them anew.
drop function if exists grace.jobs();
-- Functions whose parameters changed; the repeatable files create them anew.
drop function if exists grace_internal.file_values(integer, text);


UPDATE grace.alembic_version SET version_num='0006' WHERE grace.alembic_version.version_num = '0005';

-- common/caller.sql
-- Who is really calling: inside SECURITY DEFINER current_user is the owner, and in a cascaded trigger of
-- PostgreSQL 18 it is the child table's owner, so the role setting and the login are what counts.
create or replace function grace_internal.caller()
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('role'), 'none'), session_user)::name
$$;

-- common/qualified_name.sql
-- schema.table, each part quoted where it must be, whatever search_path says; null for a table that is gone.
create or replace function grace_internal.qualified_name(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = relation
$$;

-- common/qualified_operator.sql
-- operator(schema.=), to be used in generated statements that run under somebody else's search_path.
create or replace function grace_internal.qualified_operator(operator_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('operator(%I.%s)', n.nspname, o.oprname)
  from pg_operator o
  join pg_namespace n on n.oid = o.oprnamespace
  where o.oid = operator_oid
$$;

-- common/base_type.sql
-- The type under a domain. Buffer columns have no domains: a constraint added to one later would be checked
-- against what was deleted long before, and would stop the application's ALTER DOMAIN.
create or replace function grace_internal.base_type(type_oid oid)
returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := type_oid;
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return v_type;
end
$$;

-- common/column_names.sql
-- Columns of an index or constraint as they are named in the table, in the key's order. In PL/pgSQL, which keeps its plan.
create or replace function grace_internal.column_names(relation oid, attnums smallint [])
returns name []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(a.attname order by k.position)
    from unnest(attnums) with ordinality as k (attnum, position)
    join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
  );
end
$$;

-- common/has_index_on.sql
-- Whether the columns, in any order, are the first ones of an index that can look up single values.
create or replace function grace_internal.has_index_on(relation oid, columns name [])
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_am m on m.oid = c.relam and m.amname in ('btree', 'hash')
    where i.indrelid = relation and i.indisvalid
      and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', columns[1]))
      and grace_internal.column_names(relation, (i.indkey::smallint [])[0:cardinality(columns) - 1]) @> columns
  )
$$;

-- common/equality.sql
-- The operator by which a unique index tells its nth column's values apart.
create or replace function grace_internal.equality(index_relation oid, column_number integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.qualified_operator(o.amopopr)
  from pg_index i
  join pg_opclass c on c.oid = i.indclass[column_number - 1]
  join pg_amop o
    on o.amopfamily = c.opcfamily
    and o.amoplefttype = c.opcintype
    and o.amoprighttype = c.opcintype
    and o.amopstrategy = 3
  where i.indexrelid = index_relation
$$;

-- common/home.sql
-- Which database of which cluster this is. The numbers of tables and columns that the registry holds mean something only there: a
-- dump that is loaded elsewhere brings them along (regclass by name, the rest as they were). In PL/pgSQL, which keeps its plan: a restore
-- asks this some hundred times.
create or replace function grace_internal.home()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return format('%s/%s', s.system_identifier, d.oid)
  from pg_database d
  cross join pg_control_system() s
  where d.datname = current_database();
end
$$;

create or replace function grace_internal.has_moved(protected grace_internal.protected)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return protected.relation <> protected.target or protected.home is distinct from grace_internal.home();
end
$$;

-- The registry's columns with the numbers that they have here: after a move they are found again by their names. A former column
-- of a column that was dropped has number 0 then, which no column has.
create or replace view grace_internal.column_map as
select
  c.protected_id,
  c.buffer_column,
  case
    when not m.has_moved then c.attnum
    else coalesce(a.attnum, case when c.ended_at is null then c.attnum else 0::smallint end)
  end as attnum,
  c.attname,
  c.type,
  c.ended_at
from grace_internal.protected_column c
join grace_internal.protected p on p.id = c.protected_id
cross join lateral grace_internal.has_moved(p.*) as m (has_moved)
left join pg_catalog.pg_attribute a
  on m.has_moved and a.attrelid = p.target and a.attname = c.attname and not a.attisdropped;

comment on view grace_internal.column_map is 'Which buffer column holds which column of the table, here and now.';

-- common/expired_before.sql
-- What was deleted at or before this moment is expired for a protected table. Used by the row-security policy of
-- every buffer table, so whoever reads a buffer may call it; it gives away nothing but the retention.
create or replace function grace._expired_before(protected_id integer)
returns timestamptz
language sql stable security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select greatest(statement_timestamp() - p.span, p.evicted_to)
  from grace_internal.protected p
  where p.id = $1
$$;
comment on function grace._expired_before(integer) is
'Internal: the moment up to which deletions from a protected table have expired.';

-- common/protected_id.sql
-- The registry's id of a table, or of the partition tree it belongs to. Errors: GR001 when it is not protected.
create or replace function grace_internal.protected_id(target regclass)
returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_root regclass := coalesce(pg_partition_root(target), target);
  v_id integer;
begin
  select p.id into v_id from grace_internal.protected p where p.target = v_root;
  if not found then
    raise exception 'table % is not protected', target
      using errcode = 'GR001',
      detail = 'No buffer exists for it, so there is nothing of it to look at, restore or purge.',
      hint = format('Protect it with: select * from grace.protect(%L);', target);
  end if;
  return v_id;
end
$$;

-- common/require_table_right.sql
-- Changing how a table is protected takes the same right on it as protecting it.
create or replace function grace_internal.require_table_right(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pg_class c where c.oid = target)
    and not has_table_privilege(grace_internal.caller(), target, 'TRIGGER')
  then
    raise exception 'permission denied for table %', target
      using errcode = 'insufficient_privilege',
      detail = format('Role %s does not own the table and has no TRIGGER privilege on it.', grace_internal.caller()),
      hint = format('As its owner: grant trigger on %s to %I;', target, grace_internal.caller());
  end if;
end
$$;

-- What capturing takes on the side of pg_grace: only the owner of a table may make its triggers fire always.
create or replace function grace_internal.require_ownership(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner name := (
    select r.rolname
    from pg_class c
    join pg_roles r on r.oid = c.relowner
    where c.oid = target
  );
begin
  if not pg_has_role(v_owner, 'usage') then
    raise exception 'pg_grace has no rights on table %', target
      using errcode = 'insufficient_privilege',
      detail = format('Role %I, which owns pg_grace, is no member of %I, which owns the table.', current_user, v_owner),
      hint = format('grant %I to %I;', v_owner, current_user);
  end if;
end
$$;

-- capture/live_columns.sql
-- The columns of a table that a buffer mirrors, with the names they have there: all but dropped ones and virtual generated
-- ones, which hold no value.
create or replace function grace_internal.live_columns(relation oid)
returns table (attnum smallint, attname name, buffer_column name, type oid, type_name text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum,
    a.attname,
    case when a.attname in ('grace_deletion', 'grace_deleted_at') then a.attname || '_column' else a.attname end,
    b.type,
    format_type(b.type, -1)
  from pg_attribute a
  cross join lateral grace_internal.base_type(a.atttypid) as b (type)
  where a.attrelid = relation
    and a.attnum > 0
    and not a.attisdropped
    and a.attgenerated <> 'v'
  order by a.attnum
$$;

-- capture/partition_tree.sql
-- A table and, when it is partitioned, all its partitions on every level. Not by pg_partition_tree(), which locks each of them: a
-- delete straight from one would wait for a change that has locked another, and the other way round.
create or replace function grace_internal.partition_tree(root oid)
returns setof oid
language plpgsql stable -- whose plan is kept
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  with recursive tree (relation) as (
    select root
    union all
    select i.inhrelid
    from tree t
    join pg_inherits i on i.inhparent = t.relation
    join pg_class c on c.oid = i.inhrelid and c.relispartition
  )
  select t.relation from tree t;
end
$$;

-- common/untrusted_code.sql
-- Code that planning a query on a table would run with the rights of whoever plans: the planner evaluates calls of functions that
-- are labelled IMMUTABLE in index expressions and predicates, in extended statistics and in partition keys, and the label may be
-- false. Functions of superusers and of the current role are trusted. Returns the first one that is not, as text, else null.
create or replace function grace_internal.untrusted_code(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.relation from grace_internal.partition_tree(relation) as t (relation)
  ),
  objects (class_id, id) as (
    select 'pg_class'::regclass, t.relation from tables t
    union all
    select 'pg_class'::regclass, i.indexrelid from tables t join pg_index i on i.indrelid = t.relation
    union all
    select 'pg_statistic_ext'::regclass, s.oid from tables t join pg_statistic_ext s on s.stxrelid = t.relation
  )
  select min(format('function %s of role %I', f.oid::regprocedure, r.rolname))
  from objects o
  join pg_depend d on d.classid = o.class_id and d.objid = o.id and d.objsubid = 0
  left join pg_operator p on d.refclassid = 'pg_operator'::regclass and p.oid = d.refobjid
  join pg_proc f on f.oid = case d.refclassid when 'pg_proc'::regclass then d.refobjid else p.oprcode end
  join pg_roles r on r.oid = f.proowner
  where not r.rolsuper and r.rolname <> current_user
$$;

-- Errors: GR010 when a table can't be read without running such code.
create or replace function grace_internal.require_trusted_code(relation oid, instead text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text := grace_internal.untrusted_code(relation);
begin
  if v_code is not null then
    raise exception '% can''t be read by pg_grace', grace_internal.qualified_name(relation)
      using errcode = 'GR010',
      detail = format('Its indexes, statistics or partition keys use %s, which would run with the rights of %I.', v_code, current_user),
      hint = instead;
  end if;
end
$$;

-- capture/remembered_deletion.sql
do $$
begin
  if to_regtype('grace_internal.deletion_ref') is null then
    create type grace_internal.deletion_ref as (deletion bigint, deleted_at timestamptz);
  end if;
end
$$;

-- The deletion of the current transaction: all its captures, in every table, share one id and one time. The first capture
-- remembers them in the transaction-local setting grace.deletion, which a rollback to savepoint takes back together with
-- what was captured since. The setting is signed, and bound to the transaction, because any user can write a setting: for
-- a forged one the answer is null, so nobody joins another transaction's deletion or changes its time. No table is read,
-- which would make serializable transactions that have nothing to do with each other fail.
-- The setting is "id time signature", the time as PostgreSQL sends it, in hexadecimal digits. Pinned by its caller's callers, as a
-- SET clause would cost more than half of what it does.
create or replace function grace_internal.remembered_deletion(setting text)
returns grace_internal.deletion_ref
language plpgsql
as $$
declare
  v_result grace_internal.deletion_ref;
begin
  if right(setting, 32) = grace_internal.signature(left(setting, -33)) then
    v_result.deletion := split_part(setting, ' ', 1)::bigint;
    v_result.deleted_at := timestamptz '2000-01-01 00:00+00'
      + ('x' || split_part(setting, ' ', 2))::bit (64)::bigint * interval '1 microsecond';
  end if;
  return v_result;
end
$$;

-- Null without the key, which then matches nothing. Inlined into its callers, which pin their search_path.
create or replace function grace_internal.signature(claim text)
returns text
language sql
as $$
  select md5(
    pg_sequence_last_value('grace_internal.signing_key')::text || claim || ' ' || pg_current_xact_id()::text
    || pg_sequence_last_value('grace_internal.signing_key')::text
  )
$$;

-- capture/deleting_role.sql
-- Who deletes: the caller, or the role that a rule runs as, which the session's role does not say. It is signed, as any user can write a
-- setting.
create or replace function grace_internal.deleting_role()
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting text := current_setting('grace.acting_as', true);
begin
  return case
    when right(v_setting, 32) = grace_internal.signature('as ' || left(v_setting, -33)) then left(v_setting, -33)::name
    else grace_internal.caller()
  end;
end
$$;

-- capture/current_deletion.sql
-- The deletion that this transaction's captures belong to; the first one begins it. Inlined into nothing and pinned by its
-- callers: a SET clause would cost more than all it does.
create or replace function grace_internal.current_deletion()
returns grace_internal.deletion_ref
language plpgsql
as $$
declare
  v_setting text := current_setting('grace.deletion', true);
  v_result grace_internal.deletion_ref;
begin
  if v_setting <> '' then
    v_result := grace_internal.remembered_deletion(v_setting);
  end if;
  if v_result.deletion is null then
    v_result.deletion := nextval('grace_internal.deletion_id');
    v_result.deleted_at := clock_timestamp();
    v_setting := concat(v_result.deletion, ' ', encode(timestamptz_send(v_result.deleted_at), 'hex'));
    v_setting := set_config('grace.deletion', v_setting || ' ' || grace_internal.signature(v_setting), true);
  end if;
  return v_result;
end
$$;

-- capture/deleted_with.sql
-- The tables (roots of their partition trees) that lose rows when rows are deleted from one: those that reference it by a
-- foreign key with ON DELETE CASCADE, and those that inherit from it.
create or replace function grace_internal.cascade_children(target oid)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct coalesce(pg_partition_root(c.conrelid), c.conrelid::regclass)
  from grace_internal.partition_tree(target) as t (relation)
  join pg_constraint c on c.confrelid = t.relation
  where c.contype = 'f' and c.confdeltype = 'c'
    and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and coalesce(pg_partition_root(c.conrelid), c.conrelid::regclass) <> target
$$;

create or replace function grace_internal.inheritors(target oid)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select i.inhrelid::regclass
  from pg_inherits i
  join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
  where i.inhparent = target
$$;

create or replace function grace_internal.in_inheritance_tree(target oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_inherits i
    join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
    where target in (i.inhparent, i.inhrelid)
  )
$$;

-- capture/cascade_tree.sql
-- A table, all that inherit from it, and, with foreign_keys, every table that deleting from these cascades into.
create or replace function grace_internal.cascade_tree(target regclass, foreign_keys boolean)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive tree (relation) as (
    select target
    union
    select n.relation
    from tree t
    cross join lateral (
      select * from grace_internal.inheritors(t.relation)
      union
      select * from grace_internal.cascade_children(t.relation) where foreign_keys
    ) as n (relation)
  )
  select t.relation from tree t
$$;

-- capture/has_capture_triggers.sql
-- Whether a relation has all its triggers, always firing, and of the kind that its table needs.
create or replace function grace_internal.has_capture_triggers(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = case when bool_or(p.row_wise) then 3 else 2 end
  from pg_trigger t
  join pg_proc f on f.oid = t.tgfoid
  join pg_namespace n on n.oid = f.pronamespace
  join grace_internal.protected p on p.id = has_capture_triggers.protected_id
  where t.tgrelid = has_capture_triggers.relation
    and t.tgname in ('zz_grace_delete', 'zz_grace_truncate', 'zz_grace_cover')
    and t.tgenabled = 'A'
    and n.nspname = 'grace_internal'
    and f.proname = 'capture_' || p.id
    and (p.row_wise or t.tgname <> 'zz_grace_cover')
    and (t.tgtype & 1 = 1) = (p.row_wise and t.tgname = 'zz_grace_delete')
$$;

-- capture/uncovered_tables.sql
-- Tables that lose rows when rows are deleted from a protected table, and whose rows would not be captured, or not whole.
-- Those that are known and accepted (registry column uncovered) are left out.
create or replace function grace_internal.uncovered_tables(protected_id integer)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select u.relation
  from grace_internal.protected p
  cross join lateral (
    select c, false from grace_internal.cascade_children(p.target) c where p.follows_cascades
    union all
    select i, true from grace_internal.cascade_tree(p.target, false) i where i <> p.target
    union all
    select p.target, true where grace_internal.in_inheritance_tree(p.target)
  ) as u (relation, row_wise)
  where p.id = uncovered_tables.protected_id
    and not u.relation = any (p.uncovered)
    and not exists (
      select
      from grace_internal.protected o
      where o.target = u.relation and o.active
        and (not u.row_wise or (o.row_wise and grace_internal.has_capture_triggers(o.target, o.id)))
    )
$$;

-- Errors: GR019 when there is one. As of now: VOLATILE, so that it reads with a snapshot of its own and not with that of the
-- statement that deletes.
create or replace function grace_internal.require_covered(protected_id integer)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text := (
    select min(grace_internal.qualified_name(u)) from grace_internal.uncovered_tables(protected_id) u
  );
begin
  if v_uncovered is not null then
    raise exception 'rows deleted from % could not all be captured',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'GR019',
      detail = format('%s has come to lose rows with it, or to inherit from it, and is not captured with it.', v_uncovered),
      hint = 'Run pg_grace sync, or: select * from grace.sync();';
  end if;
end
$$;

-- The same for a partition tree, together with whether its leaves are all captured by statement. The plan of the capture function's
-- first statement depends on the relation deleted from only, so where there are no event triggers this is asked for every statement.
create or replace function grace_internal.tree_is_covered(protected_id integer)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.require_covered(protected_id);
  return not exists (select from grace_internal.guarded_leaves(protected_id));
end
$$;

-- capture/columns_differ.sql
create or replace function grace_internal.columns_changed(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from (
      select l.attnum, l.buffer_column, l.type
      from grace_internal.protected p
      cross join lateral grace_internal.live_columns(p.target) l
      where p.id = columns_changed.protected_id
        and case
          when grace_internal.has_moved(p.*) then not l.attname = any (p.excluded_names)
          else not l.attnum = any (p.excluded)
        end
    ) as l
    full join (
      select c.attnum, c.buffer_column, c.type
      from grace_internal.column_map c
      where c.protected_id = columns_changed.protected_id and c.ended_at is null
    ) as c on c.attnum = l.attnum
    where l.buffer_column is distinct from c.buffer_column or l.type is distinct from c.type
  )
$$;

-- Whether a table's columns are no longer those that its buffer and its capture function know, or the numbers by which they are
-- known mean nothing here.
create or replace function grace_internal.columns_differ(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    where p.id = columns_differ.protected_id and grace_internal.has_moved(p.*)
  ) or grace_internal.columns_changed(protected_id)
$$;

-- capture/columns_unchanged.sql
-- Labelled IMMUTABLE so that the planner evaluates it when it plans the capture function's first statement. That statement
-- reads the transition table, so its plan depends on the table itself: any DDL on the table makes every session plan, and so
-- evaluate, anew (of a partition tree: any on the relation that is deleted from; its columns can change only together). Between two
-- changes of the table the answer costs nothing. The planner reads the catalog with the outer
-- statement's snapshot, which may be older than the table's last change: then the answer is false, and the statement is
-- made anew; in an isolation level above READ COMMITTED, where nothing can be read as it is now, it is error 40001.
create or replace function grace_internal.columns_unchanged(protected_id integer)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.require_covered(protected_id);
  if grace_internal.snapshot_is_old(protected_id) then
    if current_setting('transaction_isolation') = 'read committed' then
      return false;
    end if;
    raise exception 'could not serialize access: table % was changed after this transaction began',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'serialization_failure',
      detail = 'What this transaction sees of the catalog no longer matches the table, so a deleted row could not be captured whole.',
      hint = 'Run the transaction again.';
  end if;
  return not grace_internal.columns_differ(protected_id)
    and not exists (select from grace_internal.guarded_leaves(protected_id));
end
$$;

-- What is read with the statement's snapshot is compared to what PostgreSQL's caches say, which are always up to date.
-- STABLE: a volatile function would read with a new snapshot.
create or replace function grace_internal.snapshot_is_old(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    join pg_class c on c.oid = t.relation
    where p.id = protected_id
      and (
        has_column_privilege(c.oid, (c.relnatts + 1)::smallint, 'select') is not null
        or pg_relation_filenode(c.oid) is distinct from nullif(c.relfilenode, 0)
        or exists (
          select
          from pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            and (pg_identify_object('pg_class'::regclass, c.oid, a.attnum)).identity
              is distinct from format('%s.%I', grace_internal.qualified_name(c.oid), a.attname)
        )
      )
  )
$$;

-- capture/insert_statement.sql
-- "row" is what the columns are columns of: an alias of source, or a record (then source is null).
create or replace function grace_internal.insert_statement(
  protected_id integer, "row" text, source text, deletion text, deleted_at text
)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    e'insert into grace_buffer.%I (\n      %s,\n      grace_deletion, grace_deleted_at\n    )\n'
    '    select\n      %s,\n      %s, %s%s',
    p.buffer,
    string_agg(format('%I', c.buffer_column), ', ' order by c.attnum),
    string_agg(format('%s.%I', "row", a.attname), ', ' order by c.attnum),
    deletion, deleted_at, e'\n    from ' || source
  )
  from grace_internal.protected p
  join grace_internal.protected_column c on c.protected_id = p.id and c.ended_at is null
  join pg_attribute a on a.attrelid = p.target and a.attnum = c.attnum
  where p.id = insert_statement.protected_id
  group by p.buffer
$$;

-- capture/generate_capture.sql
-- Writes the trigger function of one protected table: static and typed, so that capturing costs no planning. Where the table
-- is no longer what it was when the function was written, the statement is made anew from the catalog, so that no column's
-- value is ever left out. The body is quoted as a literal: it holds names that somebody else chose.
-- Row by row (inheritance trees), the table's OID as a regclass constant is what makes every session ask anew after any change of
-- the table.
create or replace function grace_internal.generate_capture(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_protected grace_internal.protected;
  v_body text;
  v_kind "char";
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  select c.relkind into v_kind from pg_class c where c.oid = v_protected.target;
  v_body := format(
    $body$
<<grace>> -- qualifies the variables: a column may be called like one
declare
  v_unchanged boolean;
  v_deletion grace_internal.deletion_ref;
  v_rows bigint;
begin
  if tg_op = 'DELETE' then
    %2$s;
    if v_unchanged is null then
      return null;
    end if;%6$s
  end if;

  v_deletion := grace_internal.current_deletion();
  if v_unchanged then
    %3$s;
  else
    execute grace_internal.capture_statement(%1$s, tg_relid, tg_op, %5$L)
    using v_deletion.deletion, v_deletion.deleted_at%4$s;
  end if;
  get diagnostics v_rows = row_count;
%7$s
  if v_rows > 0 then
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation,
      role, login, application_name, client_addr, reason
    )
    values (
      v_deletion.deletion, v_deletion.deleted_at, %1$s, v_rows, tg_op,
      case when current_setting('grace.acting_as', true) <> '' then grace_internal.deleting_role()
        else coalesce(nullif(current_setting('role'), 'none'), session_user) end, session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end if;
  return null;
end
$body$,
    protected_id,
    case when v_protected.row_wise then format(
      'v_unchanged := grace_internal.columns_unchanged(%s) and %L::regclass is not null', protected_id, v_protected.target::oid
    ) else format(
      'select grace_internal.columns_unchanged(%s) into v_unchanged from grace_gone limit 1', protected_id
    ) end,
    grace_internal.insert_statement(
      protected_id,
      case when v_protected.row_wise then 'old' else 'g' end,
      case when not v_protected.row_wise then 'grace_gone as g' end,
      'grace.v_deletion.deletion', 'grace.v_deletion.deleted_at'
    ),
    case when v_protected.row_wise then ', old' else '' end,
    v_protected.row_wise,
    case
      when v_protected.row_wise then format(
        e'\n    if tg_level = ''STATEMENT'' then\n      perform grace_internal.require_covered(%s);\n      return null;\n    end if;',
        protected_id
      )
      when v_kind = 'p' then concat(
        e'\n    v_unchanged := ',
        case when not grace_internal.has_event_triggers() then
          format('grace_internal.tree_is_covered(%s) and ', protected_id)
        end,
        format(
          'v_unchanged and pg_partition_root(tg_relid) is not distinct from %s::regclass;', v_protected.target::oid
        )
      )
    end,
    grace_internal.hold_check(protected_id, v_protected.row_wise)
  );
  execute format(
    'create or replace function grace_internal.%1$I() returns trigger language plpgsql '
    'security definer ' -- the role that deletes needs no right on the buffer
    'set search_path = pg_catalog, pg_temp%3$s as %2$L',
    'capture_' || protected_id, v_body, grace_internal.hold_settings(protected_id)
  );
  execute format('revoke all on function grace_internal.%I() from public', 'capture_' || protected_id);
  execute format(
    'comment on function grace_internal.%I() is %L',
    'capture_' || protected_id, 'pg_grace: captures what is deleted from ' || v_protected.target_name
  );
end
$generate$;

-- capture/free_column_name.sql
-- A name for a buffer column that makes room: amount -> amount_former1.
create or replace function grace_internal.free_column_name(protected_id integer, wanted name)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_suffix text;
begin
  for n in 1 .. 1600 loop
    v_suffix := '_former' || n;
    v_name := grace_internal.cut_name(wanted::text, 63 - octet_length(v_suffix)) || v_suffix;
    if not exists (
      select from grace_internal.protected_column c
      where c.protected_id = free_column_name.protected_id and c.buffer_column = v_name
    ) then
      return v_name;
    end if;
  end loop;
  raise exception 'no free name left for a former version of buffer column %', wanted
    using errcode = 'GR003',
    detail = 'The buffer holds 1600 former versions of it.',
    hint = 'Purge the buffer, then unprotect and protect the table.';
end
$$;

-- capture/rename_buffer_column.sql
create or replace function grace_internal.rename_buffer_column(protected_id integer, old_name name, new_name name)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'alter table grace_buffer.%I rename column %I to %I',
    (select p.buffer from grace_internal.protected p where p.id = protected_id), old_name, new_name
  );
  update grace_internal.protected_column c
  set buffer_column = new_name
  where c.protected_id = rename_buffer_column.protected_id and c.buffer_column = old_name;
end
$$;

-- capture/make_room.sql
-- Renames whatever buffer column stands where a column of the table is to go (a former one, or one of two that
-- swapped their names).
create or replace function grace_internal.make_room(protected_id integer, wanted name)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from grace_internal.protected_column c
    where c.protected_id = make_room.protected_id and c.buffer_column = wanted
  ) then
    perform grace_internal.rename_buffer_column(
      protected_id, wanted, grace_internal.free_column_name(protected_id, wanted)
    );
  end if;
end
$$;

-- capture/missing_value.sql
-- What a column that was added with a default has in rows from before, which PostgreSQL did not rewrite for it. The same
-- goes for rows that had been deleted by then. Only for PostgreSQL's own types and arrays of them: reading a value of
-- another type can run code of the application's (a domain's check), which must not happen with our rights.
create or replace function grace_internal.missing_value(relation oid, column_number smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (a.attmissingval::text::text [])[1]
  from pg_attribute r
  cross join lateral grace_internal.partition_tree(r.attrelid) as t (relation)
  join pg_attribute a on a.attrelid = t.relation and a.attname = r.attname
  join pg_type y on y.oid = a.atttypid
  left join pg_type e on e.oid = y.typelem and y.typcategory = 'A'
  where r.attrelid = missing_value.relation and r.attnum = column_number and a.atthasmissing
    and 'pg_catalog'::regnamespace in (y.typnamespace, e.typnamespace)
  limit 1
$$;

-- capture/renumber_columns.sql
-- A dump that was loaded elsewhere leaves out dropped columns, so the others have new numbers there: they are found again by
-- name. A former column whose namesake is gone gets number 0, which no column has.
create or replace function grace_internal.renumber_columns(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  update grace_internal.protected_column c
  set attnum = -c.attnum
  where c.protected_id = renumber_columns.protected_id;

  update grace_internal.protected_column c
  set attnum = coalesce((
    select a.attnum
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attname = c.attname and not a.attisdropped
    where p.id = c.protected_id
  ), case when c.ended_at is null then c.attnum else 0 end)
  where c.protected_id = renumber_columns.protected_id;

  perform grace_internal.rename_holds(protected_id, moved => true);

  update grace_internal.protected p
  set
    relation = p.target,
    home = grace_internal.home(),
    unmarked_to = coalesce((select max(c.deletion) from grace_internal.capture c where c.protected_id = p.id), 0),
    excluded = coalesce((
      select array_agg(a.attnum)
      from pg_attribute a
      where a.attrelid = p.target and a.attname = any (p.excluded_names) and not a.attisdropped
    ), '{}'),
    files = grace_internal.file_numbers(p.*)
  where p.id = renumber_columns.protected_id;
end
$$;

-- capture/sync_columns.sql
-- Makes the buffer table follow the columns of its table; returns whether it had to change. Added columns are added,
-- renamed ones renamed. A column that was dropped or changed its type keeps its values in the buffer; one that has to
-- make room for a namesake is renamed to name_former1. Nothing is rewritten, so it is quick at any size. What rows from before
-- a column was added have in it they also have in the buffer; a new type adds no values, for theirs are in the former column.
create or replace function grace_internal.sync_columns(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_buffer text;
  v_column record;
  v_changed boolean := false;
  v_changed_numbers boolean := false;
begin
  select p.* into strict v_protected
  from grace_internal.protected p
  where p.id = protected_id
  for update;
  v_buffer := format('grace_buffer.%I', v_protected.buffer);
  if grace_internal.has_moved(v_protected) then
    perform grace_internal.renumber_columns(v_protected.id);
    select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
    v_changed_numbers := true;
  end if;

  -- DROP TYPE … CASCADE takes columns out of the buffer as well.
  delete from grace_internal.protected_column c
  where c.protected_id = v_protected.id
    and not exists (
      select
      from pg_attribute a
      where a.attrelid = v_buffer::regclass and a.attname = c.buffer_column and not a.attisdropped
    );

  with ended as (
    update grace_internal.protected_column c
    set ended_at = clock_timestamp()
    where c.protected_id = v_protected.id
      and c.ended_at is null
      and not exists (
        select from grace_internal.live_columns(v_protected.target) l
        where l.attnum = c.attnum and l.type = c.type
      )
    returning 1
  )
  select exists (select from ended) into v_changed;

  for v_column in
    select
      l.buffer_column as wanted, l.attname, l.attnum, l.type, l.type_name, c.buffer_column,
      not exists (
        select
        from grace_internal.protected_column f
        where f.protected_id = v_protected.id and f.attnum = l.attnum
      ) as is_new
    from grace_internal.live_columns(v_protected.target) l
    left join grace_internal.protected_column c
      on c.protected_id = v_protected.id and c.attnum = l.attnum and c.ended_at is null
    where not l.attnum = any (v_protected.excluded)
      and c.buffer_column is distinct from l.buffer_column
    order by l.attnum
  loop
    v_changed := true;
    perform grace_internal.make_room(v_protected.id, v_column.wanted);
    if v_column.buffer_column is null then
      execute format(
        'alter table %s add column %I %s default %L', v_buffer, v_column.wanted, v_column.type_name,
        case when v_column.is_new then grace_internal.missing_value(v_protected.target, v_column.attnum) end
      );
      execute format('alter table %s alter column %I drop default', v_buffer, v_column.wanted);
      insert into grace_internal.protected_column (protected_id, buffer_column, attnum, attname, type)
      values (v_protected.id, v_column.wanted, v_column.attnum, v_column.attname, v_column.type);
    else
      perform grace_internal.rename_buffer_column(
        v_protected.id,
        (select c.buffer_column from grace_internal.protected_column c
         where c.protected_id = v_protected.id and c.attnum = v_column.attnum and c.ended_at is null),
        v_column.wanted
      );
    end if;
  end loop;

  perform grace_internal.no_statistics(v_buffer); -- reaches the partitions as well

  -- Former ones as well, by which they are found after a move; a dropped one has the name PostgreSQL has given it since, so that
  -- it is not taken for a namesake.
  update grace_internal.protected_column c
  set attname = a.attname
  from pg_attribute a
  where c.protected_id = v_protected.id
    and a.attrelid = v_protected.target and a.attnum = c.attnum and a.attname <> c.attname;
  perform grace_internal.rename_holds(v_protected.id, moved => false);
  update grace_internal.protected p
  set
    target_name = grace_internal.qualified_name(p.target),
    excluded_names = coalesce(grace_internal.column_names(p.target, p.excluded), '{}'),
    file_names = coalesce(grace_internal.column_names(p.target, p.files), '{}')
  where p.id = v_protected.id;

  return v_changed or v_changed_numbers;
end
$$;

-- capture/capture_statement.sql
-- The statement that captures from one relation as its columns are now: $1 is the deletion, $2 its time, $3, row by row, the
-- deleted row (of an inheritance tree, or of a leaf that has no capture trigger yet). The capture
-- function runs it where its own static statement can't serve: for TRUNCATE, and when the table may have changed since
-- the function was generated; then buffer and function are brought up to date first, within the same statement.
create or replace function grace_internal.capture_statement(
  protected_id integer, relation oid, operation text, row_wise boolean
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text;
  v_later text;
begin
  if not exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = protected_id and t.relation = capture_statement.relation
  ) then
    raise exception '% no longer belongs to the table whose capture triggers it has', relation::regclass
      using errcode = 'GR010',
      detail = 'It was detached, so its rows could not be restored from where they would be captured.',
      hint = format('Protect it: select * from grace.protect(%L); or drop its triggers zz_grace_delete and zz_grace_truncate.',
        grace_internal.qualified_name(relation));
  end if;
  if operation = 'TRUNCATE' then
    perform grace_internal.require_trusted_code(
      relation, 'Use DELETE instead of TRUNCATE, or let a superuser own the function: alter function … owner to …;'
    );
    v_later := grace_internal.later_truncate_trigger(relation);
    if v_later is not null then
      raise exception 'TRUNCATE of protected table % could remove rows that are not captured',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = format('BEFORE TRUNCATE %s fires after the capture and may still write rows.', v_later),
        hint = 'Make it an AFTER TRUNCATE trigger, or use DELETE.';
    end if;
    if row_security_active(relation) then
      raise exception 'TRUNCATE of protected table % could remove rows that are not captured',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = 'It has FORCE ROW LEVEL SECURITY, which hides rows from the owner of pg_grace.',
        hint = format('Give role %I BYPASSRLS, or use DELETE.', current_user);
    end if;
    -- Not MVCC-safe: a snapshot taken before the lock does not see every row that TRUNCATE removes.
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'TRUNCATE of protected table % needs isolation level READ COMMITTED',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = format(
          'In a %s transaction rows that others committed meanwhile would be removed without being captured.',
          upper(current_setting('transaction_isolation'))
        ),
        hint = 'Run the TRUNCATE in a READ COMMITTED transaction, or use DELETE.';
    end if;
    select string_agg(grace_internal.qualified_name(t.relation), ', ') into v_uncovered
    from grace_internal.partition_tree(relation) as t (relation)
    where not grace_internal.has_capture_triggers(t.relation, protected_id);
    if v_uncovered is not null then
      raise exception 'TRUNCATE would remove rows that are not captured'
        using errcode = 'GR010',
        detail = format('Without capture triggers: %s', v_uncovered),
        hint = format('Run: select * from grace.protect(%L);', (
          select p.target_name from grace_internal.protected p where p.id = protected_id
        ));
    end if;
    perform grace_internal.keep_all_files(protected_id, relation);
  end if;

  if grace_internal.columns_differ(protected_id) then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;

  return grace_internal.insert_statement(
    protected_id,
    case when row_wise and operation = 'DELETE' then '($3)' else 'g' end,
    case
      when operation = 'TRUNCATE' then format('only %s as g', grace_internal.qualified_name(relation))
      when not row_wise then 'grace_gone as g' || coalesce(
        e'\n    where ' || grace_internal.not_from_guarded_leaves(protected_id), ''
      )
    end,
    '$1', '$2'
  );
end
$$;

-- capture/no_statistics.sql
-- ANALYZE, autovacuum's too, computes statistics with the rights of a table's owner, and for a range type calls a function that
-- whoever made the type has chosen. So buffers have none on columns of the application's types.
create or replace function grace_internal.no_statistics(relation text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns text;
begin
  select string_agg(format('alter column %I set statistics 0', a.attname), ', ') into v_columns
  from pg_attribute a
  where a.attrelid = relation::regclass and a.attnum > 0 and not a.attisdropped
    and grace_internal.belongs_to_application(a.atttypid)
    and a.attstattarget is distinct from 0;
  if v_columns is not null then
    execute format('alter table %s %s', relation, v_columns);
  end if;
end
$$;

-- A type, or array of a type, that is not PostgreSQL's own.
create or replace function grace_internal.belongs_to_application(type_oid oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.typnamespace <> 'pg_catalog'::regnamespace
  from pg_type t
  where t.oid = type_oid
$$;

-- capture/partitions.sql
-- A buffer's partitions are called after its stem: b5_20261121 for a day, b5_20261221_20270118 for several, b5_default; f5_…
-- for what its files hold. Every day of the next two weeks has a leaf of its own, and the twelve weeks after it two longer
-- ones: while no purge runs, what is deleted goes there, not to the default partition, where it would stand in the way of
-- each new leaf. A longer leaf is cut into days as they come near, unless its time has begun; then it stays what it is.

-- Their names say which days they hold. To ask PostgreSQL for the bounds would take a lock on each leaf.
create or replace function grace_internal.stem_leaves(stem text)
returns table (leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz)
language plpgsql stable -- whose plan is kept
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  select
    c.oid, c.relname, to_date(d.days[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
    coalesce(to_date(d.days[2], 'YYYYMMDD'), to_date(d.days[1], 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'
  from pg_class c
  cross join lateral (select regexp_match(c.relname, '_([0-9]{8})(?:_([0-9]{8}))?$')) as d (days)
  where c.relnamespace = 'grace_internal'::regnamespace
    and c.relkind = 'r'
    and c.relispartition
    and c.relname >= stem || '_' and c.relname < stem || '`'; -- all that begin so, by the index
end
$$;

create or replace function grace_internal.create_default(stem text, parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('create table grace_internal.%I partition of %s default', stem || '_default', parent);
  execute format('alter table grace_internal.%I replica identity full', stem || '_default');
  perform grace_internal.no_statistics(format('grace_internal.%I', stem || '_default'));
end
$$;

-- The default partition, and leaves for the time ahead. Rows have no identity but themselves; without one, a publication that
-- takes in all tables would make it an error to delete them.
create or replace function grace_internal.create_partitions(stem text, parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('alter table %s replica identity full', parent);
  perform grace_internal.no_statistics(parent);
  perform grace_internal.create_default(stem, parent);
  while grace_internal.prepare_leaf(stem, parent) loop
    null; -- one at a time, until none is missing
  end loop;
end
$$;

-- Makes the leaf for one day (UTC), or for days from the first up to, not including, the last. It is attached, not created as a partition:
-- that takes only SHARE UPDATE EXCLUSIVE on the buffer, so captures go on meanwhile.
create or replace function grace_internal.create_leaf(stem text, parent text, first date, until date default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_until date := coalesce(until, first + 1);
  v_leaf name := grace_internal.leaf_name(stem, first, v_until);
  v_from timestamptz := first::timestamp at time zone 'UTC';
  v_to timestamptz := v_until::timestamp at time zone 'UTC';
  v_before text := coalesce(current_setting('grace.following', true), '');
begin
  perform set_config('grace.following', grace_internal.signature('following'), true); -- the event triggers have nothing to do
  execute format(
    'create table grace_internal.%I (like %s including indexes including storage, '
    'constraint day check (grace_deleted_at >= %L and grace_deleted_at < %L))',
    v_leaf, parent, v_from, v_to
  );
  execute format('alter table grace_internal.%I replica identity full', v_leaf);
  perform grace_internal.no_statistics(format('grace_internal.%I', v_leaf));
  execute format(
    'alter table %s attach partition grace_internal.%I for values from (%L) to (%L)', parent, v_leaf, v_from, v_to
  );
  execute format('alter table grace_internal.%I drop constraint day', v_leaf);
  perform set_config('grace.following', v_before, true);
end
$$;

create or replace function grace_internal.leaf_name(stem text, first date, until date)
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (stem || to_char(first, '_YYYYMMDD') || case when until > first + 1 then to_char(until, '_YYYYMMDD') else '' end)::name
$$;

-- A longer leaf that is empty and whose time has not come.
create or replace function grace_internal.reserve_leaves(stem text)
returns table (leaf oid, first date, until date)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select l.leaf, (l.lower_bound at time zone 'UTC')::date, (l.upper_bound at time zone 'UTC')::date
  from grace_internal.stem_leaves(stem) l
  where l.lower_bound > clock_timestamp()
    and l.upper_bound - l.lower_bound > interval '24 hours'
    and pg_relation_size(l.leaf) = 0
$$;

-- Days (UTC) from today on that have no leaf of their own and lie in none that is in use. A day of which the default partition
-- holds rows, because no leaf was there in time, can't have one until they are settled.
create or replace function grace_internal.missing_partitions(stem text, days_ahead integer default 14)
returns setof date
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_today date := (clock_timestamp() at time zone 'UTC')::date;
  v_in_default date [];
begin
  execute format(
    $q$select array_agg(distinct (b.grace_deleted_at at time zone 'UTC')::date)
    from grace_internal.%I b where b.grace_deleted_at >= $1 $q$, stem || '_default'
  )
  into v_in_default using v_today::timestamp at time zone 'UTC';
  return query
    select v_today + n
    from generate_series(0, days_ahead) n
    where not v_today + n = any (coalesce(v_in_default, '{}'))
      and not exists (
        select
        from grace_internal.stem_leaves(stem) l
        where l.lower_bound < (v_today + n + 1)::timestamp at time zone 'UTC'
          and l.upper_bound > (v_today + n)::timestamp at time zone 'UTC'
          and l.leaf not in (select r.leaf from grace_internal.reserve_leaves(stem) r)
      );
end
$$;

-- The stems of a protected table, each with the partitioned table that it belongs to.
create or replace function grace_internal.stems(protected_id integer)
returns table (stem text, parent text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'b' || p.id, format('grace_buffer.%I', p.buffer)
  from grace_internal.protected p
  where p.id = protected_id and to_regclass(format('grace_internal.%I', 'b' || p.id || '_default')) is not null
  union all
  select 'f' || protected_id, format('grace_internal.%I', 'f' || protected_id)
  where to_regclass(format('grace_internal.%I', 'f' || protected_id)) is not null
$$;

-- Makes one leaf that is missing for the time ahead; returns whether it did. To cut up a longer leaf takes the lock that
-- dropping takes, for a moment, with an empty leaf, every two weeks.
create or replace function grace_internal.prepare_leaf(stem text, parent text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_today date := (clock_timestamp() at time zone 'UTC')::date;
  v_day date;
  v_until date;
  v_reserve record;
begin
  -- All days up to the first longer leaf, or else there would be a gap before it. One that is further ahead was made while the
  -- clock was wrong.
  select r.* into v_reserve from grace_internal.reserve_leaves(stem) r where r.first <= v_today + 60 order by r.first limit 1;
  select min(m) into v_day
  from grace_internal.missing_partitions(stem, greatest(14, v_reserve.first - v_today - 1)) m;
  if v_day is not null and v_day >= v_reserve.first then
    perform grace_internal.drop_leaf(parent, v_reserve.leaf);
    if v_reserve.until > v_reserve.first + 14 then
      perform grace_internal.create_leaf(stem, parent, v_reserve.first + 14, v_reserve.until);
    end if;
    return true;
  end if;
  if v_day is not null then
    perform grace_internal.create_leaf(stem, parent, v_day);
    return true;
  end if;

  select greatest(max((l.upper_bound at time zone 'UTC')::date), v_today + 15) into v_until
  from grace_internal.stem_leaves(stem) l
  where l.lower_bound < (v_today + 15 + 84)::timestamp at time zone 'UTC';
  if v_until < v_today + 15 + 84 then
    perform grace_internal.create_leaf(
      stem, parent, v_until, least(v_until + case when v_until < v_today + 43 then 28 else 56 end, (
        select min((l.lower_bound at time zone 'UTC')::date)
        from grace_internal.stem_leaves(stem) l
        where l.lower_bound >= v_until::timestamp at time zone 'UTC'
      ))
    );
    return true;
  end if;
  return false;
end
$$;

-- Locks a whole buffer. Captures wait from then on, so nothing more is waited for: each wait would be added to theirs. Who
-- captures or reads has the lock on the buffer first; one on the default partition alone is VACUUM's, for example.
create or replace function grace_internal.lock_buffer(parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('lock table only %s in access exclusive mode', parent);
  execute (
    select format('lock table %s in access exclusive mode nowait', grace_internal.qualified_name(t.partdefid))
    from pg_partitioned_table t
    where t.partrelid = parent::regclass
  );
end
$$;

-- Drops an empty leaf: locks the whole buffer for the moment that it takes.
create or replace function grace_internal.drop_leaf(parent text, leaf oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('lock table %s in access exclusive mode', grace_internal.qualified_name(leaf));
  perform grace_internal.lock_buffer(parent);
  if pg_relation_size(leaf) = 0 then
    perform set_config('grace.following', grace_internal.signature('following'), true);
    execute format('drop table %s', grace_internal.qualified_name(leaf));
    perform set_config('grace.following', '', true);
  end if;
end
$$;

-- Does one step towards a buffer whose default partition is empty and whose leaves reach far enough; returns whether there may
-- be another.
create or replace function grace_internal.prepare_partitions(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
begin
  for v_stem in select s.stem, s.parent from grace_internal.stems(protected_id) s loop
    if grace_internal.settle_default(v_stem.stem, v_stem.parent) or grace_internal.prepare_leaf(v_stem.stem, v_stem.parent) then
      return true;
    end if;
  end loop;
  return false;
end
$$;

-- capture/settle_default.sql
-- What the default partition holds stands in the way of every new leaf: attaching one reads all of it, under a lock for which
-- captures wait. So it becomes a leaf itself, for the days that it holds and all up to the next leaf, and an empty one takes its
-- place. PostgreSQL believes that its rows are in those days if a constraint says so, which it checks without locking anybody out.
-- Each call does one step and returns whether there is another.
create or replace function grace_internal.settle_default(stem text, parent text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_default text := format('grace_internal.%I', stem || '_default');
  v_wanted date [] := grace_internal.days_to_settle(stem);
  v_days date [];
  v_constraint record;
begin
  select k.conname, k.convalidated, regexp_match(k.conname, '^days_([0-9]{8})_([0-9]{8})$') as days into v_constraint
  from pg_constraint k
  where k.conrelid = v_default::regclass and k.conname ~ '^days_';

  if v_constraint.conname is null then
    if v_wanted is null then
      return false;
    end if;
    if pg_relation_size(v_default::regclass) <= 2 * 1024 * 1024 then
      perform grace_internal.swap_default(stem, parent, v_wanted); -- PostgreSQL reads it in milliseconds
      return true;
    end if;
    execute format(
      'alter table %s add constraint %I check (grace_deleted_at >= %L and grace_deleted_at < %L) not valid',
      v_default, to_char(v_wanted[1], '"days_"YYYYMMDD') || to_char(v_wanted[2], '_YYYYMMDD'),
      v_wanted[1]::timestamp at time zone 'UTC', v_wanted[2]::timestamp at time zone 'UTC'
    );
    return true;
  end if;

  v_days := array[to_date(v_constraint.days[1], 'YYYYMMDD'), to_date(v_constraint.days[2], 'YYYYMMDD')];
  -- One that a purge left behind could come to refuse captures where no leaf follows; there is a week before that.
  if v_days is distinct from v_wanted and v_days[2] < current_date + 7 then
    execute format('alter table %s drop constraint %I', v_default, v_constraint.conname);
    return true;
  end if;
  if not v_constraint.convalidated then
    execute format('alter table %s validate constraint %I', v_default, v_constraint.conname);
    return true;
  end if;
  perform grace_internal.swap_default(stem, parent, v_days);
  execute format(
    'alter table grace_internal.%I drop constraint %I',
    grace_internal.leaf_name(stem, v_days[1], v_days[2]), v_constraint.conname
  );
  return true;
end
$$;

-- The default partition becomes the leaf of these days, and an empty one, made before the lock, takes its place.
create or replace function grace_internal.swap_default(stem text, parent text, days date [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_default name := stem || '_default';
  v_empty name := stem || '_empty';
  v_leaf name := grace_internal.leaf_name(stem, days[1], days[2]);
begin
  execute format('create table grace_internal.%I (like %s including indexes including storage)', v_empty, parent);
  execute format('alter table grace_internal.%I replica identity full', v_empty);
  perform grace_internal.no_statistics(format('grace_internal.%I', v_empty));
  perform grace_internal.lock_buffer(parent);
  execute format('alter table %s detach partition grace_internal.%I', parent, v_default);
  execute format('alter table grace_internal.%I rename to %I', v_default, v_leaf);
  execute format(
    'alter table %s attach partition grace_internal.%I for values from (%L) to (%L)',
    parent, v_leaf, days[1]::timestamp at time zone 'UTC', days[2]::timestamp at time zone 'UTC'
  );
  execute format('alter table grace_internal.%I rename to %I', v_empty, v_default);
  execute format('alter table %s attach partition grace_internal.%I default', parent, v_default);
end
$$;

-- The days that the default partition can become a leaf for: from the leaf before its rows up to the one after them; where none
-- follows, two weeks from today. Null where it is empty, or where its rows lie on both sides of a leaf or further ahead (the
-- clock was wrong): those expire where they are.
create or replace function grace_internal.days_to_settle(stem text)
returns date []
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_first timestamptz;
  v_last timestamptz;
  v_from timestamptz;
  v_until timestamptz;
begin
  execute format(
    'select min(d.grace_deleted_at), max(d.grace_deleted_at) from grace_internal.%I d', stem || '_default'
  )
  into v_first, v_last;
  select
    coalesce(max(l.upper_bound) filter (where l.upper_bound <= v_first), date_trunc('day', v_first) - interval '31 days'),
    coalesce(
      min(l.lower_bound) filter (where l.lower_bound > v_first), date_trunc('day', clock_timestamp()) + interval '15 days'
    )
  into v_from, v_until
  from grace_internal.stem_leaves(stem) l;
  return case when v_first is not null and v_last < v_until then array[v_from::date, v_until::date] end;
end
$$;

-- capture/free_buffer_name.sql
-- The table's own name if no other buffer has it, else schema_name, else with a number; cut to 63 bytes.
create or replace function grace_internal.free_buffer_name(target regclass)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schema text;
  v_table text;
  v_name name;
begin
  select n.nspname, c.relname into strict v_schema, v_table
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = target;

  for n in 0 .. 100000 loop
    v_name := case n
      when 0 then v_table::name
      when 1 then grace_internal.cut_name(v_schema || '_' || v_table, 63)
      else grace_internal.cut_name(v_schema || '_' || v_table, 56) || '_' || n
    end;
    if not exists (select from grace_internal.protected p where p.buffer = v_name)
      and to_regclass(format('grace_buffer.%I', v_name)) is null
    then
      return v_name;
    end if;
  end loop;
  raise exception 'no free buffer name for %', target
    using errcode = 'GR003',
    detail = 'Every name made from the table''s name is taken in schema grace_buffer.',
    hint = 'Unprotect tables of the same name that are no longer needed.';
end
$$;

-- Cuts a name to a number of bytes without splitting a character.
create or replace function grace_internal.cut_name(wanted text, max_bytes integer)
returns name
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := wanted;
begin
  while octet_length(v_name) > max_bytes loop
    v_name := left(v_name, -1);
  end loop;
  return v_name::name;
end
$$;

-- capture/create_buffer.sql
-- Registers a table and creates its buffer, with leaves for today and the days ahead.
create or replace function grace_internal.create_buffer(
  target regclass, retention interval, excluded smallint [], follows_cascades boolean
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
  v_buffer name := grace_internal.free_buffer_name(target);
begin
  insert into grace_internal.protected (
    target, relation, target_name, buffer, retention, excluded, excluded_names, follows_cascades, row_wise, home, protected_by
  )
  values (
    target, target, grace_internal.qualified_name(target), v_buffer, retention, excluded,
    coalesce(grace_internal.column_names(target, excluded), '{}'), follows_cascades,
    grace_internal.in_inheritance_tree(target), grace_internal.home(), grace_internal.caller()
  )
  returning id into v_id;

  insert into grace_internal.protected_column (protected_id, buffer_column, attnum, attname, type)
  select v_id, l.buffer_column, l.attnum, l.attname, l.type
  from grace_internal.live_columns(target) l
  where not l.attnum = any (excluded);

  execute format(
    'create table grace_buffer.%I (%s grace_deletion bigint not null, grace_deleted_at timestamptz not null) '
    'partition by range (grace_deleted_at)',
    v_buffer,
    (
      select string_agg(format('%I %s, ', l.buffer_column, l.type_name), '' order by l.attnum)
      from grace_internal.live_columns(target) l
      where not l.attnum = any (excluded)
    )
  );
  perform grace_internal.create_partitions('b' || v_id, format('grace_buffer.%I', v_buffer));

  execute format('alter table grace_buffer.%I enable row level security', v_buffer);
  execute format(
    'create policy grace_unexpired on grace_buffer.%I for select using (grace_deleted_at > (select grace._expired_before(%s)))',
    v_buffer, v_id
  );
  execute format('grant select on grace_buffer.%I to grace_operator', v_buffer);
  execute format(
    'comment on table grace_buffer.%I is %L',
    v_buffer, 'pg_grace: what was deleted from ' || grace_internal.qualified_name(target)
  );
  return v_id;
end
$$;

-- files/check_files.sql
-- What kind of file a column's values refer to: 'large object' (oid, lo), 'path' (text: a path or URL outside the database),
-- null for anything else.
create or replace function grace_internal.file_kind(type_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when t.oid = 'oid'::regtype then 'large object'
    when t.typcategory = 'S' then 'path'
  end
  from pg_type t
  where t.oid = grace_internal.base_type(type_oid)
$$;

-- Errors: GR020 for a column that can't refer to a file.
create or replace function grace_internal.check_files(target regclass, files name [], exclude_columns name [])
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_why text;
begin
  foreach v_name in array coalesce(files, '{}') loop
    select case
      when a.attnum is null then 'It does not exist.'
      when v_name = any (exclude_columns) then 'It is excluded from the capture, so nobody would know which file it is.'
      when grace_internal.file_kind(a.atttypid) is null then format('Its type is %s.', format_type(a.atttypid, a.atttypmod))
    end into v_why
    from (select) as one
    left join pg_attribute a on a.attrelid = target and a.attname = v_name and a.attnum > 0 and not a.attisdropped;
    if v_why is not null then
      raise exception 'column % of % refers to no file', quote_ident(v_name), target
        using errcode = 'GR020', detail = v_why,
        hint = 'Name a captured column of type oid or lo (large objects), or of a text type (paths or URLs).';
    end if;
  end loop;
end
$$;

-- files/file_columns.sql
-- The columns of a protected table that refer to files: as the table calls them, and where the buffer keeps their values, one
-- row for each buffer column (a column that has changed its type has several).
create or replace function grace_internal.file_columns(protected_id integer, wanted_kind text)
returns table (attnum smallint, attname name, buffer_column name)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.attnum, c.attname, c.buffer_column
  from grace_internal.protected p
  join grace_internal.column_map c
    on c.protected_id = p.id
    and case when grace_internal.has_moved(p.*) then c.attname = any (p.file_names) else c.attnum = any (p.files) end
  where p.id = file_columns.protected_id and grace_internal.file_kind(c.type) = wanted_kind
  order by c.attnum, c.buffer_column
$$;

-- Their numbers in the table as it is here.
create or replace function grace_internal.file_numbers(protected grace_internal.protected)
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not grace_internal.has_moved(protected) then protected.files
    else array(
      select a.attnum from pg_attribute a
      where a.attrelid = protected.target and a.attname = any (protected.file_names) and not a.attisdropped
    )
  end
$$;

-- All values of a buffered row in such columns, as an expression of type oid[] or text[]; null without such columns.
create or replace function grace_internal.file_values(protected_id integer, wanted_kind text, alias text default 'b')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'array[%s]::%s[]', string_agg(format('%s.%I', alias, c.buffer_column), ', '),
    case wanted_kind when 'path' then 'pg_catalog.text' else 'pg_catalog.oid' end
  )
  from grace_internal.file_columns(protected_id, wanted_kind) c
  having count(*) > 0
$$;

-- files/keep_files.sql
-- BEFORE DELETE, row by row: what is behind the row's large objects is copied while it is still there. The content goes into
-- the table's f partitions in pieces of 256 kB, so memory stays flat at any size.
create or replace function grace_internal.keep_files()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on what is kept
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := tg_argv[0]::integer;
  v_values text;
  v_loid oid;
begin
  select string_agg(format('($1).%I::oid', a.attname), ', ') into v_values
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
  where p.id = v_id and grace_internal.file_kind(a.atttypid) = 'large object';
  if v_values is not null then
    for v_loid in execute format('select distinct v from unnest(array[%s]) v where v is not null', v_values) using old loop
      perform grace_internal.keep_large_object(v_id, v_loid);
    end loop;
  end if;
  return old;
end
$$;

-- Copies one large object into what is kept of this transaction's deletion. One that does not exist leaves nothing to keep;
-- one that has changed since it was copied (for another row) is copied again: the last content counts.
-- Whether whoever deletes could unlink it is noted: the purge unlinks nothing that its deleter could not.
-- Errors: GR020 when its content can't be read.
create or replace function grace_internal.keep_large_object(protected_id integer, loid oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion grace_internal.deletion_ref;
  v_changed text;
  v_descriptor integer;
  v_size bigint;
begin
  if not exists (select from pg_largeobject_metadata m where m.oid = loid) then
    return;
  end if;
  v_deletion := grace_internal.current_deletion();
  v_changed := grace._file_conflict(protected_id, v_deletion.deletion, v_deletion.deleted_at, loid);
  if v_changed = '' then
    return;
  elsif v_changed <> '' then
    execute format(
      'delete from grace_internal.%I f where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3',
      'f' || protected_id
    )
    using v_deletion.deletion, v_deletion.deleted_at, loid;
  end if;
  begin
    v_descriptor := lo_open(loid, 262144); -- INV_READ
    v_size := lo_lseek64(v_descriptor, 0, 2); -- SEEK_END
    perform lo_close(v_descriptor);
    execute format(
      'insert into grace_internal.%I (grace_deletion, grace_deleted_at, loid, page, owner, acl, unlink, data) '
      'select $1, $2, m.oid, n.page, case n.page when 0 then pg_get_userbyid(m.lomowner) end, '
      'case n.page when 0 then m.lomacl::text[] end, '
      'case n.page when 0 then pg_has_role(grace_internal.caller(), m.lomowner, ''usage'') end, lo_get(m.oid, n.page::bigint * 262144, 262144) '
      'from pg_largeobject_metadata m '
      'cross join generate_series(0, greatest(0, ($4 - 1) / 262144)::integer) as n (page) where m.oid = $3',
      'f' || protected_id
    )
    using v_deletion.deletion, v_deletion.deleted_at, loid, v_size;
  exception when insufficient_privilege then
    raise exception 'the content of large object % can''t be kept', loid
      using errcode = 'GR020',
      detail = format('Role %I, which owns pg_grace, may not read it, so the row could not be restored whole.', current_user),
      hint = format('As its owner: grant select on large object %s to %I;', loid, current_user);
  end;
end
$$;

-- TRUNCATE fires no row triggers.
create or replace function grace_internal.keep_all_files(protected_id integer, relation oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the table's checks while planning
as $$
declare
  v_column name;
  v_loid oid;
begin
  for v_column in
    select a.attname
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
    where p.id = protected_id and grace_internal.file_kind(a.atttypid) = 'large object'
  loop
    for v_loid in execute format(
      'select distinct %1$I::oid from only %2$s where %1$I is not null', v_column, grace_internal.qualified_name(relation)
    ) loop
      perform grace_internal.keep_large_object(protected_id, v_loid);
    end loop;
  end loop;
end
$$;

-- files/declare_files.sql
-- From now on these columns of a protected table, too, are known to refer to files. Large objects need a table for their content
-- and a trigger that comes before one that unlinks them (lo_manage).
create or replace function grace_internal.declare_files(protected_id integer, files name [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass;
  v_stem text := 'f' || protected_id;
begin
  update grace_internal.protected p
  set
    files = array(
      select unnest(p.files)
      union
      select a.attnum from pg_attribute a
      where a.attrelid = p.target and a.attname = any (declare_files.files) and not a.attisdropped
      order by 1
    ),
    file_names = array(
      select a.attname from pg_attribute a
      where a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
        and (a.attnum = any (p.files) or a.attname = any (declare_files.files))
      order by a.attnum
    )
  where p.id = protected_id
  returning p.target into v_target;

  if exists (select from grace_internal.file_columns(protected_id, 'large object'))
    and to_regclass(format('grace_internal.%I', v_stem)) is null
  then
    execute format(
      'create table grace_internal.%I ('
      'grace_deletion bigint not null, grace_deleted_at timestamptz not null, loid oid not null, page integer not null, '
      'owner name, acl text [], unlink boolean, data bytea not null) partition by range (grace_deleted_at)', v_stem
    );
    execute format('create index on grace_internal.%I (grace_deletion, loid)', v_stem);
    execute format(
      'comment on table grace_internal.%I is %L', v_stem, 'pg_grace: large objects of rows deleted from ' || v_target
    );
    perform grace_internal.create_partitions(v_stem, format('grace_internal.%I', v_stem));
  end if;
end
$$;

-- Triggers fire in the order of their names, and a space sorts before every letter, digit and sign. With the number, so that the
-- table can become a partition of another one that has such a trigger.
create or replace function grace_internal.file_trigger(protected_id integer)
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select (' grace_files_' || protected_id)::name
$$;

-- The trigger, on the table itself (on a partitioned one PostgreSQL makes it on every partition, also on those to come).
create or replace function grace_internal.create_file_trigger(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation text;
begin
  select grace_internal.qualified_name(p.target) into v_relation
  from grace_internal.protected p
  where p.id = protected_id and p.active
    and exists (select from grace_internal.file_columns(p.id, 'large object'))
    and exists (
      select from grace_internal.partition_tree(p.target) as t (relation)
      where not grace_internal.has_file_trigger(t.relation, p.id)
    )
    and (repair or not exists (
      select from pg_trigger t where t.tgrelid = p.target and t.tgname = grace_internal.file_trigger(p.id)
    ));
  if found then
    execute format(
      'create or replace trigger %I before delete on %s for each row '
      'execute function grace_internal.keep_files(%s)', grace_internal.file_trigger(protected_id), v_relation, protected_id
    );
    execute format(
      'alter table %s enable always trigger %I', v_relation, grace_internal.file_trigger(protected_id)
    );
  end if;
end
$$;

create or replace function grace_internal.has_file_trigger(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_trigger t
    where t.tgrelid = relation
      and t.tgname = grace_internal.file_trigger(protected_id)
      and t.tgenabled = 'A'
      and t.tgfoid = 'grace_internal.keep_files'::regproc
      and t.tgargs = convert_to(protected_id::text, 'UTF8') || e'\\x00'::bytea
  )
$$;

-- files/purge_files.sql
-- Which of these large objects something still refers to: any column of type oid or lo of any table, buffers included, as
-- vacuumlo looks at it. A table that can't be read as a whole is an error, and then nothing is unlinked.
create or replace function grace_internal.referenced_large_objects(loids oid [])
returns oid []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_column record;
  v_found oid [];
  v_result oid [] := array[]::oid [];
begin
  for v_column in
    select c.oid, grace_internal.qualified_name(c.oid) as relation, a.attname
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'm')
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and (n.nspname <> 'grace_internal' or c.relname ~ '^b[0-9]+_')
      and grace_internal.base_type(a.atttypid) = 'oid'::regtype
      and pg_relation_size(c.oid) > 0 -- most leaves of most buffers are empty
  loop
    perform grace_internal.require_trusted_code(
      v_column.oid, 'Let a superuser own the function; until then no large object is unlinked.'
    );
    execute format(
      'select array_agg(distinct t.%1$I::oid) from only %2$s t where t.%1$I::oid = any ($1)',
      v_column.attname, v_column.relation
    )
    into v_found using loids;
    v_result := v_result || coalesce(v_found, '{}');
  end loop;
  return v_result;
end
$$;

-- Unlinks the large objects of expired rows where the application has left that to us; returns whether there may be more.
-- The first page stands for the object: it goes when that is done. An object whose rows a lock has kept in the buffer waits.
create or replace function grace_internal.unlink_expired(protected_id integer, leaf oid, max_objects integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz := grace._expired_before(protected_id);
  v_leaf text := grace_internal.qualified_name(leaf);
  v_tids tid [];
  v_unlinkable oid [];
begin
  execute format(
    'select array_agg(f.ctid), array_agg(distinct f.loid) filter (where f.unlink and exists ('
    -- A row that an UPDATE moved to another partition was copied for nothing: its deletion has no log.
    'select from grace_internal.capture c where c.deletion = f.grace_deletion and c.protected_id = $3)) from ('
    'select f.ctid, f.loid, f.unlink, f.grace_deletion from %s f where f.page = 0 and f.grace_deleted_at <= $1 and not exists ('
    'select from grace_buffer.%I b where b.grace_deletion = f.grace_deletion and b.grace_deleted_at = f.grace_deleted_at '
    'and b.grace_deleted_at <= $1 and f.loid = any (%s)) limit $2) f',
    v_leaf,
    (select p.buffer from grace_internal.protected p where p.id = protected_id),
    coalesce(grace_internal.file_values(protected_id, 'large object'), 'array[]::oid[]')
  )
  into v_tids, v_unlinkable using v_before, max_objects, protected_id;
  if v_tids is null then
    return false;
  end if;
  perform grace_internal.unlink_unreferenced(v_unlinkable);
  execute format('update %s f set page = -1 where f.ctid = any ($1)', v_leaf) using v_tids; -- goes with the other pages
  return true;
end
$$;

-- Those that are there, that nothing refers to, and that the owner of pg_grace may unlink; it warns of the others.
create or replace function grace_internal.unlink_unreferenced(loids oid [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_loids oid [];
  v_referenced oid [];
  v_owners text;
begin
  select array_agg(m.oid) into v_loids from pg_largeobject_metadata m where m.oid = any (loids);
  if v_loids is null then
    return;
  end if;
  begin
    v_referenced := grace_internal.referenced_large_objects(v_loids);
  exception when insufficient_privilege or sqlstate 'GR010' then
    raise warning 'large objects of purged rows stay: it can''t be seen whether something still refers to them'
      using detail = sqlerrm, hint = 'Unlink them with vacuumlo.';
    return;
  end;

  perform lo_unlink(m.oid)
  from pg_largeobject_metadata m
  where m.oid = any (v_loids) and m.oid <> all (v_referenced) and pg_has_role(m.lomowner, 'usage');

  select string_agg(distinct pg_get_userbyid(m.lomowner), ', ') into v_owners
  from pg_largeobject_metadata m
  where m.oid = any (v_loids) and m.oid <> all (v_referenced);
  if v_owners is not null then
    raise warning 'large objects to which nothing refers any more stay'
      using detail = format('Role %I, which owns pg_grace, may not unlink those of %s.', current_user, v_owners),
      hint = format('Unlink them with vacuumlo. For those to come: grant … to %I;', current_user);
  end if;
end
$$;

-- Files outside the database whose rows are about to be removed for good go into the outbox, each once. "rows" is the FROM and
-- WHERE of these rows, with alias b.
create or replace function grace_internal.post_files(protected_id integer, rows text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
begin
  for v_column in select c.attname, c.buffer_column from grace_internal.file_columns(protected_id, 'path') c loop
    execute format(
      'insert into grace_internal.outbox (protected_id, target_name, column_name, file, deleted_at) '
      'select $1, p.target_name, $2, f.file, f.deleted_at from grace_internal.protected p, ('
      'select b.%1$I::text as file, max(b.grace_deleted_at) as deleted_at %2$s and b.%1$I::text <> '''' group by b.%1$I::text'
      ') f where p.id = $1 and not exists ('
      'select from grace_internal.outbox o where o.protected_id = $1 and o.column_name = $2 and o.file = f.file) '
      'order by f.deleted_at, f.file',
      v_column.buffer_column, rows
    )
    using protected_id, v_column.attname;
  end loop;
end
$$;

-- capture/check_excluded.sql
-- The attribute numbers of the columns that are not to be captured. Errors: GR004 when a restore could not do without.
create or replace function grace_internal.check_excluded(target regclass, exclude_columns name [])
returns smallint []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_column pg_attribute;
  v_result smallint [] := array[]::smallint [];
begin
  foreach v_name in array coalesce(exclude_columns, '{}') loop
    select a.* into v_column
    from pg_attribute a
    where a.attrelid = target and a.attname = v_name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'column % of % does not exist', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It is named in exclude_columns.',
        hint = format('The table''s columns: %s', (
          select string_agg(quote_ident(l.attname), ', ') from grace_internal.live_columns(target) l
        ));
    end if;
    if exists (
      select from pg_index i where i.indrelid = target and i.indisprimary and v_column.attnum = any (i.indkey)
    ) then
      raise exception 'column % of % can''t be excluded', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It belongs to the primary key, by which restored rows are known.',
        hint = 'Exclude other columns.';
    end if;
    if v_column.attnotnull and not v_column.atthasdef and v_column.attidentity = '' then
      raise exception 'column % of % can''t be excluded', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It is NOT NULL without a default, so no row could be restored without its value.',
        hint = 'Give the column a default, or capture it.';
    end if;
    v_result := v_result || v_column.attnum;
  end loop;
  return v_result;
end
$$;

-- capture/check_retention.sql
-- Errors: GR005 for a retention that is not between one second and 100 years.
create or replace function grace_internal.check_retention(retention interval)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if retention is null
    or extract(epoch from retention) < 1
    or extract(epoch from retention) > extract(epoch from interval '100 years')
  then
    raise exception 'retention % is not possible', coalesce(quote_literal(retention), 'null')
      using errcode = 'GR005',
      detail = 'It says for how long a deleted row can be restored: at least one second, at most 100 years.',
      hint = 'Give it as an interval, for example ''30 days''.';
  end if;
end
$$;

-- capture/check_protectable.sql
-- Refuses what can't be captured completely, before anything has changed. Errors: GR002 kind of relation, GR003 column
-- names, GR004 excluded columns, GR020 columns with files, 42501 rights.
create or replace function grace_internal.check_protectable(
  target regclass, exclude_columns name [], files name []
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_class pg_class;
  v_schema name;
  v_why text;
  v_hint text;
  v_column text;
begin
  select c.* into v_class from pg_class c where c.oid = target;
  if not found then
    raise exception 'relation with OID % does not exist', target::oid
      using errcode = 'undefined_table',
      detail = 'It was given as a number, and no relation has it.',
      hint = 'Give the table''s name.';
  end if;
  select n.nspname into v_schema from pg_namespace n where n.oid = v_class.relnamespace;

  case
    when v_schema in ('grace', 'grace_buffer', 'grace_internal') then
      v_why := 'It belongs to pg_grace itself.';
      v_hint := 'Name a table of your application.';
    when v_schema in ('pg_catalog', 'information_schema', 'pg_toast') then
      v_why := 'It is a system catalog, on which PostgreSQL allows no triggers.';
      v_hint := 'Name a table of your application.';
    when v_class.relpersistence = 't' then
      v_why := 'It is a temporary table and ends with its session.';
      v_hint := 'Name a permanent table.';
    when v_class.relkind in ('v', 'm') then
      v_why := 'It is a view; what is deleted through a view is deleted from its tables.';
      v_hint := 'Protect the tables that the view reads.';
    when v_class.relkind = 'f' then
      v_why := 'It is a foreign table; its rows are in another server.';
      v_hint := 'Install pg_grace on the server that holds the table and protect it there.';
    when v_class.relispartition then
      v_why := format('It is a partition of %s.', grace_internal.qualified_name(pg_partition_root(target)));
      v_hint := format(
        'Protect the whole: select * from grace.protect(%L);', grace_internal.qualified_name(pg_partition_root(target))
      );
    when v_class.relkind not in ('r', 'p') then
      v_why := 'It is not a table.';
      v_hint := 'Name a table of your application.';
    when exists (
      select from pg_partition_tree(target) t join pg_class c on c.oid = t.relid where c.relkind = 'f'
    ) then
      v_why := 'One of its partitions is a foreign table, from which PostgreSQL can''t collect deleted rows.';
      v_hint := 'Detach the foreign partition.';
    else
      v_why := null;
  end case;
  if v_why is not null then
    raise exception '% can''t be protected', target using errcode = 'GR002', detail = v_why, hint = v_hint;
  end if;

  select string_agg(quote_ident(a.attname), ', ') into v_column
  from pg_attribute a
  where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attname ~ '^grace[_ ]';
  if v_column is not null then
    raise exception '% can''t be protected', target
      using errcode = 'GR003',
      detail = format('Column names that begin with grace_ or "grace " are kept for pg_grace''s own: %s', v_column),
      hint = format('Rename the column: alter table %s rename …', target);
  end if;

  perform grace_internal.require_table_right(target);
  perform grace_internal.require_ownership(target);
  perform grace_internal.check_excluded(target, exclude_columns);
  perform grace_internal.check_files(target, files, exclude_columns);
end
$$;

-- capture/lock_for_ddl.sql
-- Locks all of the tables against writers, or none of them: each attempt waits at most 100 ms for a lock, so that
-- nobody queues behind us for longer, and gives back what it has got before it rests. Says about once a second what it
-- waits for. Errors: GR006 when max_wait has passed.
create or replace function grace_internal.lock_for_ddl(tables oid [], mode text, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := clock_timestamp() + coalesce(max_wait, interval '60 seconds');
  v_next_notice timestamptz := clock_timestamp();
  v_before text := current_setting('lock_timeout');
  v_statement text;
  v_holders text;
begin
  select format('lock table %s in %s mode', string_agg(grace_internal.qualified_name(t), ', ' order by t), mode)
  into v_statement
  from unnest(tables) t;

  loop
    begin
      perform set_config('lock_timeout', '100ms', true);
      execute v_statement;
      perform set_config('lock_timeout', v_before, true);
      return;
    exception when lock_not_available then
      v_holders := grace_internal.lock_holders(tables);
    end;
    if clock_timestamp() >= v_until then
      raise exception 'no lock to be had on % within %',
        (select string_agg(grace_internal.qualified_name(t), ', ' order by t) from unnest(tables) t), max_wait
        using errcode = 'GR006',
        detail = coalesce('Held by ' || v_holders, 'The holder was gone at the last look.'),
        hint = 'Nothing has changed. Try again when these transactions have ended, or wait longer.';
    end if;
    if clock_timestamp() >= v_next_notice then
      raise notice 'waiting for a lock%', coalesce(', held by ' || v_holders, '');
      v_next_notice := clock_timestamp() + interval '1 second';
    end if;
    perform pg_sleep(0.1 + random() * 0.2);
  end loop;
end
$$;

create or replace function grace_internal.lock_holders(tables oid [])
returns text
language sql
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      'process %s (%s) on %s', l.pid,
      concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
        'transaction of ' || date_trunc('second', clock_timestamp() - a.xact_start)),
      grace_internal.qualified_name(l.relation)
    ), '; ' order by l.pid
  )
  from (
    select distinct on (l.pid) l.pid, l.relation
    from pg_locks l
    where l.locktype = 'relation'
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation = any (tables)
      and l.granted
      and l.pid <> pg_backend_pid()
      and l.mode not in ('AccessShareLock', 'RowShareLock')
  ) as l
  left join pg_stat_activity a on a.pid = l.pid
$$;

-- capture/create_triggers.sql
-- The triggers on every relation of the tree that lacks them; with repair also where they are disabled. ENABLE ALWAYS: a session with
-- session_replication_role = replica deletes for good otherwise. Named to fire last, so that what other
-- BEFORE TRUNCATE triggers still write is captured as well. Of an inheritance tree a third one asks, before any row goes, whether
-- each table that inherits is captured: a statement on the parent fires no statement trigger of theirs.
create or replace function grace_internal.create_triggers(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation record;
  v_name text;
  v_names text [];
begin
  for v_relation in
    select grace_internal.qualified_name(t.relation) as name, p.row_wise
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = protected_id
      and not grace_internal.has_capture_triggers(t.relation, p.id)
      and (
        repair
        or not exists (
          select
          from pg_trigger g
          where g.tgrelid = t.relation and g.tgfoid in (select grace_internal.capture_functions(p.id))
        )
      )
  loop
    execute format(
      'create or replace trigger zz_grace_delete after delete on %s %s execute function grace_internal.%I()',
      v_relation.name,
      case when v_relation.row_wise then 'for each row' else 'referencing old table as grace_gone for each statement' end,
      'capture_' || protected_id
    );
    execute format(
      'create or replace trigger zz_grace_truncate before truncate on %s '
      'for each statement execute function grace_internal.%I()',
      v_relation.name, 'capture_' || protected_id
    );
    v_names := array['zz_grace_delete', 'zz_grace_truncate'];
    if v_relation.row_wise then
      execute format(
        'create or replace trigger zz_grace_cover before delete on %s '
        'for each statement execute function grace_internal.%I()',
        v_relation.name, 'capture_' || protected_id
      );
      v_names := v_names || array['zz_grace_cover'];
    elsif exists (
      select from pg_trigger t where t.tgrelid = v_relation.name::regclass and t.tgname = 'zz_grace_cover'
    ) then
      execute format('drop trigger zz_grace_cover on %s', v_relation.name);
    end if;
    foreach v_name in array v_names loop
      execute format('alter table only %s enable always trigger %I', v_relation.name, v_name);
    end loop;
  end loop;
end
$$;

-- links/wanted_links.sql
create or replace function grace_internal.primary_key(relation oid)
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(k.attnum order by k.position)
  from pg_index i
  cross join lateral unnest(i.indkey::smallint []) with ordinality as k (attnum, position)
  where i.indrelid = relation and i.indisprimary and k.position <= i.indnkeyatts
$$;

-- The foreign keys that deleting from a protected table cuts; of partition trees the one that was declared, not those that PostgreSQL
-- has made of it. key_columns is null where the child has no primary key. As of now: VOLATILE, so that it reads with a snapshot of
-- its own and not with that of the statement that deletes.
create or replace function grace_internal.wanted_links(protected_id integer)
returns table (
  child oid, key_columns smallint [], columns smallint [], set_columns smallint [], parent_columns smallint []
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select distinct
      f.conrelid,
      grace_internal.primary_key(f.conrelid),
      f.conkey,
      coalesce(nullif(f.confdelsetcols, '{}'), f.conkey),
      (
        select array_agg(r.attnum order by k.position)
        from unnest(f.confkey) with ordinality as k (attnum, position)
        join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum
        join pg_attribute r on r.attrelid = p.target and r.attname = a.attname
      )
    from grace_internal.protected p
    join pg_constraint f on f.confrelid in (select grace_internal.partition_tree(p.target))
    where p.id = wanted_links.protected_id and p.active
      and f.contype = 'f' and f.confdeltype in ('n', 'd') and f.conparentid = 0
      and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true);
end
$$;

-- Only the owner of a table may make its triggers fire always.
create or replace function grace_internal.can_have_link(child oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(c.relowner, 'usage') from pg_class c where c.oid = child
$$;

-- Which links of a protected table can't be remembered, and why; null when all can.
create or replace function grace_internal.link_warning(protected_id integer)
returns text
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select 'Links that a deletion cuts are not remembered: ' || string_agg(distinct format(
    '%s %s', grace_internal.qualified_name(w.child),
    case
      when w.key_columns is null then 'has no primary key'
      else format('belongs to a role of which %I is no member', current_user)
    end
  ), ', ')
  from grace_internal.wanted_links(protected_id) w
  where w.key_columns is null or not grace_internal.can_have_link(w.child)
$$;

-- links/link_map.sql
create or replace function grace_internal.link_has_moved(link grace_internal.link)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select link.child::oid is distinct from link.child_oid or link.home <> grace_internal.home()
$$;

-- The names that columns have now, found by number, or, after a move, by name; null when one of them is gone.
create or replace function grace_internal.names_now(relation oid, attnums smallint [], names name [], by_name boolean)
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(*) = cardinality(attnums) then array_agg(a.attname order by k.position) end
  from unnest(attnums, names) with ordinality as k (attnum, name, position)
  join pg_attribute a
    on a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and case when by_name then a.attname = k.name else a.attnum = k.attnum end
$$;

create or replace function grace_internal.numbers_of(relation oid, names name [])
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(a.attnum order by k.position)
  from unnest(names) with ordinality as k (name, position)
  join pg_attribute a on a.attrelid = relation and a.attname = k.name and a.attnum > 0 and not a.attisdropped
$$;

create or replace view grace_internal.link_map as
select m.*
from (
  select
    l.id as link,
    l.protected_id,
    l.child,
    grace_internal.names_now(l.child, l.key_columns, l.key_names, h.has_moved) as key_names,
    grace_internal.names_now(l.child, l.columns, l.column_names, h.has_moved) as column_names,
    grace_internal.names_now(l.child, l.set_columns, l.set_names, h.has_moved) as set_names,
    grace_internal.names_now(
      p.target, l.parent_columns, l.parent_names, h.has_moved or grace_internal.has_moved(p.*)
    ) as parent_names
  from grace_internal.link l
  join grace_internal.protected p on p.id = l.protected_id
  cross join lateral grace_internal.link_has_moved(l.*) as h (has_moved)
) as m
where m.key_names is not null and m.column_names is not null and m.set_names is not null and m.parent_names is not null;

comment on view grace_internal.link_map is
'Links with the names that their columns have here and now, where all of them are still there; former links as well.';

-- links/cut_statement.sql
-- A column's value as text, by its type's output function: a cast of the application's type could run its code. null stays null; a
-- composite value is null only when it is so itself.
create or replace function grace_internal.as_text("column" text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('case when num_nulls(%1$s) = 0 then format(''%%s'', %1$s) end', "column")
$$;

create or replace function grace_internal.as_text_array("row" text, names name [])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'array[' || string_agg(grace_internal.as_text(format('%s.%I', "row", k.name)), ', ' order by k.position) || ']'
  from unnest(names) with ordinality as k (name, position)
$$;

-- The link was complete, and one of the columns that a deletion sets has changed.
create or replace function grace_internal.cut_condition(old text, new text, names name [], set_names name [])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'num_nulls(%s) = 0 and (%s)',
    (select string_agg(format('%s.%I', old, n), ', ') from unnest(names) n),
    (
      select string_agg(format('num_nulls(%1$s.%3$I) > 0 or format(''%%s'', %1$s.%3$I) <> format(''%%s'', %2$s.%3$I)', new, old, n), ' or ')
      from unnest(set_names) n
    )
  )
$$;

create or replace function grace_internal.cut_insert(
  link text, old text, new text, deletion text, deleted_at text, key_names name [], names name []
)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    e'insert into grace_internal.cut (link, deletion, deleted_at, child_key, former, replaced_by)\n'
    '    select\n      %s, %s, %s,\n      %s,\n      %s,\n      %s',
    link, deletion, deleted_at,
    grace_internal.as_text_array(new, key_names),
    grace_internal.as_text_array(old, names),
    grace_internal.as_text_array(new, names)
  )
$$;

-- The number of a link with this description; a new one where there is none.
create or replace function grace_internal.registered_link(
  protected_id integer, child oid, key_columns smallint [], columns smallint [], set_columns smallint [], parent_columns smallint []
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := (
    select min(l.id)
    from grace_internal.link l
    where l.protected_id = registered_link.protected_id
      and l.child = registered_link.child
      and not grace_internal.link_has_moved(l.*)
      and l.key_columns = registered_link.key_columns
      and l.columns = registered_link.columns
      and l.set_columns = registered_link.set_columns
      and l.parent_columns = registered_link.parent_columns
  );
begin
  if v_id is null then
    insert into grace_internal.link (
      protected_id, child, child_oid, home, child_name,
      key_columns, key_names, columns, column_names, set_columns, set_names, parent_columns, parent_names
    )
    select
      p.id, registered_link.child, registered_link.child, grace_internal.home(),
      grace_internal.qualified_name(registered_link.child),
      registered_link.key_columns, grace_internal.column_names(registered_link.child, registered_link.key_columns),
      registered_link.columns, grace_internal.column_names(registered_link.child, registered_link.columns),
      registered_link.set_columns, grace_internal.column_names(registered_link.child, registered_link.set_columns),
      registered_link.parent_columns, grace_internal.column_names(p.target, registered_link.parent_columns)
    from grace_internal.protected p
    where p.id = registered_link.protected_id
    returning id into v_id;
  end if;
  return v_id;
end
$$;

-- What the function of a link runs when its static statement can't serve, because the child has changed since: $1 is the row before,
-- $2 after, $3 the deletion, $4 its time. Empty when the foreign key is gone, or the primary key.
create or replace function grace_internal.cut_statement(link_id integer)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_link grace_internal.link;
  v_wanted record;
  v_arguments text;
begin
  select l.* into strict v_link from grace_internal.link l where l.id = link_id;
  select w.* into v_wanted
  from grace_internal.wanted_links(v_link.protected_id) w
  where w.child = v_link.child and w.key_columns is not null
    and w.columns = case
      when grace_internal.link_has_moved(v_link) then grace_internal.numbers_of(v_link.child, v_link.column_names)
      else v_link.columns
    end
  order by w.set_columns = v_link.set_columns desc
  limit 1;
  if not found then
    return '';
  end if;
  v_arguments := format(
    '%s, %s, %L, %L, %L, %L', v_link.protected_id, v_wanted.child, v_wanted.key_columns, v_wanted.columns, v_wanted.set_columns,
    v_wanted.parent_columns
  );
  return concat_ws(
    e'\n',
    grace_internal.cut_insert(
      -- A transaction that is rolled back takes a new link along, but not the plan that has its number.
      format(
        'coalesce((select l.id from grace_internal.link l where l.id = %s), grace_internal.registered_link(%s))',
        grace_internal.registered_link(
          v_link.protected_id, v_wanted.child, v_wanted.key_columns, v_wanted.columns, v_wanted.set_columns,
          v_wanted.parent_columns
        ),
        v_arguments
      ),
      '($1)', '($2)', '$3', '$4',
      grace_internal.column_names(v_wanted.child, v_wanted.key_columns),
      grace_internal.column_names(v_wanted.child, v_wanted.columns)
    ),
    'where ' || grace_internal.cut_condition(
      '($1)', '($2)', grace_internal.column_names(v_wanted.child, v_wanted.columns),
      grace_internal.column_names(v_wanted.child, v_wanted.set_columns)
    )
  );
end
$$;

-- The same, made once after each change of the child: labelled IMMUTABLE like link_unchanged. null where a dump was loaded, as nothing
-- there says when to make it anew.
create or replace function grace_internal.planned_cut_statement(link_id integer, child regclass)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from grace_internal.link l
    where l.id = link_id and not grace_internal.link_has_moved(l.*) and l.child = planned_cut_statement.child
  ) then
    return grace_internal.cut_statement(link_id);
  end if;
  return null;
end
$$;

-- links/generate_link.sql
-- A row of a partition may be moved to another one by the very update that cuts its link; then no AFTER UPDATE trigger fires.
create or replace function grace_internal.fires_before(child oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.relkind = 'p' or c.relispartition from pg_class c where c.oid = child
$$;

-- All that the function of a link is made of, as of now; null when it is no longer so in the catalog.
create or replace function grace_internal.link_definition(link_id integer)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select concat_ws(
      ' ', l.home, l.child_oid, case when grace_internal.fires_before(l.child) then 'before' else 'after' end,
      cardinality(l.key_columns), (
        select string_agg(format('%I:%s', a.attname, a.atttypid), ' ' order by k.position)
        from unnest(l.key_columns || l.columns || l.set_columns) with ordinality as k (attnum, position)
        join pg_attribute a on a.attrelid = l.child and a.attnum = k.attnum
      )
    )
    from grace_internal.link l
    where l.id = link_id and not grace_internal.link_has_moved(l.*)
      and exists (
        select
        from grace_internal.wanted_links(l.protected_id) w
        where w.child = l.child and w.key_columns = l.key_columns and w.columns = l.columns
          and w.set_columns = l.set_columns and w.parent_columns = l.parent_columns
      )
  );
end
$$;

-- Labelled IMMUTABLE so that the planner evaluates it, again after any change of the child: see columns_unchanged. In an isolation level
-- above READ COMMITTED a column that was renamed after the transaction began can't be read by its new name: error 40001, as there.
create or replace function grace_internal.link_unchanged(link_id integer, definition text)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_link grace_internal.link;
  v_unchanged boolean := definition is not distinct from grace_internal.link_definition(link_id);
begin
  select l.* into v_link from grace_internal.link l where l.id = link_id;
  if current_setting('transaction_isolation') <> 'read committed' and exists (
    select
    from pg_attribute a
    where a.attrelid = v_link.child and not a.attisdropped and a.attnum = any (v_link.key_columns || v_link.columns)
      and (pg_identify_object('pg_class'::regclass, a.attrelid, a.attnum)).identity
        is distinct from format('%s.%I', grace_internal.qualified_name(a.attrelid), a.attname)
  ) then
    raise exception 'could not serialize access: table % was changed after this transaction began', v_link.child_name
      using errcode = 'serialization_failure',
      detail = 'What this transaction sees of the catalog no longer matches the table, so the link that is cut could not be remembered.',
      hint = 'Run the transaction again.';
  end if;
  if not v_unchanged and exists (
    select
    from grace_internal.wanted_links(v_link.protected_id) w
    where w.child = v_link.child and w.key_columns is null
  ) then
    raise warning 'links from % that are cut are not remembered', grace_internal.qualified_name(v_link.child)
      using detail = 'It has no primary key any more.';
  end if;
  return v_unchanged;
end
$$;

-- Settings under which the values of some types would be written in a way that reads as another value elsewhere.
create or replace function grace_internal.output_settings(relation oid, attnums smallint [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when exists (
    select
    from pg_attribute a
    join pg_type t on t.oid = grace_internal.base_type(a.atttypid)
    where a.attrelid = relation and a.attnum = any (attnums)
      and not t.typcategory in ('S', 'B', 'E', 'I')
      and not t.oid = any ('{int2,int4,int8,numeric,oid,uuid}'::regtype [])
  ) then ' set datestyle = ''ISO'' set intervalstyle = ''postgres'' set extra_float_digits = 1 set bytea_output = ''hex''' else '' end
$$;

-- Writes the trigger function of one link: static and typed. The deletion is begun here where it is not yet: in a tree that
-- cascades into itself PostgreSQL fires the capture trigger, which comes at the end of all that, after this one. What
-- the function is called for (see create_link_trigger) are changes that a trigger makes, by a foreign key or of the application's own;
-- a cut of the latter belongs to no deletion that anything was captured of, and goes with the rest when it expires.
create or replace function grace_internal.generate_link(link_id integer, anew boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_link grace_internal.link;
  v_definition text := grace_internal.link_definition(link_id);
  v_function name := 'link_' || link_id;
begin
  select l.* into strict v_link from grace_internal.link l where l.id = link_id;
  if v_definition is null or (not anew and exists (
    select
    from pg_proc f
    where f.pronamespace = 'grace_internal'::regnamespace and f.proname = v_function
      and strpos(f.prosrc, quote_literal(v_definition)) > 0
  )) then
    return;
  end if;
  execute format(
    'create or replace function grace_internal.%I() returns trigger language plpgsql '
    'security definer ' -- whoever deletes needs no right on what is remembered
    'set search_path = pg_catalog, pg_temp%s as %L',
    v_function,
    grace_internal.output_settings(v_link.child, v_link.key_columns || v_link.columns),
    format(
      $body$
declare
  v_deletion grace_internal.deletion_ref;
  v_statement text;
begin
  if grace_internal.link_unchanged(%1$s, %2$L) and %3$L::regclass is not null then
    if %4$s then
      v_deletion := grace_internal.current_deletion();
      %5$s;
    end if;
  else
    v_statement := grace_internal.planned_cut_statement(%1$s, %3$L::regclass);
    if v_statement is null then
      v_statement := grace_internal.cut_statement(%1$s);
    end if;
    if v_statement <> '' then
      v_deletion := grace_internal.current_deletion();
      execute v_statement using old, new, v_deletion.deletion, v_deletion.deleted_at;
    end if;
  end if;
  return %6$s;
end
$body$,
      link_id, v_definition, v_link.child::oid,
      grace_internal.cut_condition(
        'old', 'new', grace_internal.column_names(v_link.child, v_link.columns),
        grace_internal.column_names(v_link.child, v_link.set_columns)
      ),
      grace_internal.cut_insert(
        link_id::text, 'old', 'new', 'v_deletion.deletion', 'v_deletion.deleted_at',
        grace_internal.column_names(v_link.child, v_link.key_columns),
        grace_internal.column_names(v_link.child, v_link.columns)
      ),
      case when grace_internal.fires_before(v_link.child) then 'new' else 'null' end
    )
  );
  execute format('revoke all on function grace_internal.%I() from public', v_function);
  execute format(
    'comment on function grace_internal.%I() is %L', v_function, 'pg_grace: remembers links from ' || v_link.child_name || ' that are cut'
  );
  perform grace_internal.grant_links();
end
$generate$;

-- PostgreSQL clones triggers to partitions in the name of whoever makes the partition.
create or replace function grace_internal.grant_links()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.oid
    from pg_proc f
    join grace_internal.link l on 'link_' || l.id = f.proname
    where f.pronamespace = 'grace_internal'::regnamespace
      and grace_internal.fires_before(l.child)
      and not has_function_privilege('public', f.oid, 'execute')
  loop
    execute format('grant execute on function %s to public', v_function);
  end loop;
end
$$;

-- holds/hold_keys.sql
-- A record is known by its primary key, as text: comparing it, or reading it from text, as the values that it is made of could run code of
-- the application's (a domain's check, a cast) with the rights of the owner of pg_grace.

create or replace view grace_internal.active_hold as
select
  h.id,
  h.protected_id,
  h.key,
  h.columns,
  h.names,
  h.types,
  h.key_values,
  h.is_live
from grace_internal.hold h
where h.released_at is null and coalesce(h.until > statement_timestamp(), true);

comment on view grace_internal.active_hold is 'Holds that hold: neither released nor past their time.';

-- Under which numbers holds on records of a table may stand: its own, those of partitions that were protected before they became its, and,
-- for the buffer that is left of such a partition, that of the whole.
create or replace function grace_internal.held_under(protected_id integer)
returns integer []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(o.id order by o.id)
  from grace_internal.protected p
  join grace_internal.protected o
    on o.id = p.id or pg_partition_root(o.target) = p.target or pg_partition_root(p.target) = o.target
  where p.id = protected_id
$$;

-- A key column's value as text, by the type's output function. Of a number without zeroes at its end and of a char(n) without blanks, which
-- a new precision or length would add.
create or replace function grace_internal.key_text("column" text, type oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case grace_internal.base_type(type)
    when 'numeric'::regtype then format('trim_scale(%s)::text', "column")
    when 'bpchar'::regtype then format('%s::text', "column")
    else grace_internal.as_text("column")
  end
$$;

-- The SET clauses under which the same value is always written alike.
create or replace function grace_internal.key_settings()
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select ' set datestyle = ''ISO'' set intervalstyle = ''postgres'' set extra_float_digits = 1 set bytea_output = ''hex'''
    ' set timezone = ''UTC'' set lc_monetary = ''C'''
$$;

-- Whether text can be read as a value of this type without running anything but PostgreSQL's own and superusers' code.
create or replace function grace_internal.is_safe_to_read(type oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.typtype = 'e' or (t.typtype = 'b' and (t.typcategory <> 'A' or t.typnamespace = 'pg_catalog'::regnamespace))
  from pg_type t
  where t.oid = grace_internal.base_type(type)
$$;

-- Whether values are written alike after one type has become the other.
create or replace function grace_internal.reads_alike(former oid, type oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select former = type
    or (former = any (n.numbers) and type = any (n.numbers))
    or (former = any (n.texts) and type = any (n.texts))
  from (select '{int2,int4,int8,numeric}'::regtype [] as numbers, '{text,varchar}'::regtype [] as texts) as n
$$;

-- A hold's columns as the table calls them now; null when its record can no longer be told from others: a column is gone, or has another
-- type, or what the key says is no longer one of an enum's values.
create or replace function grace_internal.hold_names(hold grace_internal.active_hold)
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select n.names
  from grace_internal.protected p
  cross join lateral (
    select grace_internal.names_now(p.target, hold.columns, hold.names, grace_internal.has_moved(p.*)) as names
  ) as n
  where p.id = hold.protected_id and not exists (
    select
    from unnest(n.names, hold.types, hold.key_values) as k (name, type, value)
    join pg_attribute a on a.attrelid = p.target and a.attname = k.name
    join pg_type t on t.oid = grace_internal.base_type(a.atttypid)
    where not grace_internal.reads_alike(k.type, t.oid)
      or (t.typtype = 'e' and not exists (select from pg_enum e where e.enumtypid = t.oid and e.enumlabel = k.value))
  )
$$;

-- The key of a row of the table (an alias, or a record in parentheses) as it is compared with a hold's key_values.
create or replace function grace_internal.live_key("row" text, target regclass, names name [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'array[%s]', string_agg(grace_internal.key_text(format('%s.%I', "row", a.attname), a.atttypid), ', ' order by k.position)
  )
  from unnest(names) with ordinality as k (name, position)
  join pg_attribute a on a.attrelid = target and a.attname = k.name
$$;

-- The key of a row of the buffer, in whichever columns it has been; null when one of them is in none.
create or replace function grace_internal.buffered_key_text(protected_id integer, columns smallint [], alias text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(v.expression) = cardinality(columns) then
    format('array[%s]', string_agg(v.expression, ', ' order by k.position))
  end
  from unnest(columns) with ordinality as k (attnum, position)
  cross join lateral (
    select 'coalesce(' || string_agg(
      grace_internal.key_text(format('%s.%I', alias, c.buffer_column), c.type), ', ' order by c.ended_at desc nulls first
    ) || ')' as expression
    from grace_internal.protected_column c
    where c.protected_id = buffered_key_text.protected_id and c.attnum = k.attnum
  ) as v
$$;

-- A key as it is shown: numbers as numbers.
create or replace function grace_internal.shown_key(names name [], types regtype [], key_values text [])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_object_agg(
    k.name,
    case
      when k.type = any ('{int2,int4,int8,numeric,oid}'::regtype []) and k.value ~ '^-?[0-9]+([.][0-9]+)?$' then k.value::jsonb
      else to_jsonb(k.value)
    end
  )
  from unnest(names, types, key_values) as k (name, type, value)
$$;

-- What holds call the columns of a table after those were renamed, or have other numbers because a dump was loaded.
create or replace function grace_internal.rename_holds(protected_id integer, moved boolean)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.hold h
  set columns = n.columns, names = n.names, key = grace_internal.shown_key(n.names, h.types, h.key_values)
  from grace_internal.protected p
  cross join lateral (select h0.* from grace_internal.hold h0 where h0.protected_id = p.id and h0.released_at is null) as o
  cross join lateral (
    select
      array_agg(case when moved then coalesce(a.attnum, -1::smallint) else k.attnum end order by k.position) as columns,
      array_agg(coalesce(a.attname, k.name) order by k.position) as names
    from unnest(o.columns, o.names) with ordinality as k (attnum, name, position)
    left join pg_attribute a
      on a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
      and case when moved then a.attname = k.name else a.attnum = k.attnum end
  ) as n
  where p.id = rename_holds.protected_id and h.id = o.id and (n.columns <> h.columns or n.names <> h.names)
$$;

-- holds/held.sql
-- What finds held rows of a table among those that go, which is what the capture function is given while there are holds: FROM and WHERE;
-- k is the key. "row" is an alias in source, or a record (then source is null). For few rows each is looked for by the index, for many the
-- holds are hashed: "offset 0" and "is true" leave no choice to PostgreSQL, which has no statistics on either side.
create or replace function grace_internal.held_among(protected_id integer, "row" text, source text, is_bulk boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    case
      when is_bulk then 'from %s where ((k.key, k.columns) in (select h.key_values, h.columns '
        'from grace_internal.active_hold h where h.protected_id = any (%L::integer[]))) is true'
      else 'from %s where exists (select from grace_internal.active_hold h '
        'where h.protected_id = any (%L::integer[]) and h.key_values = k.key and h.columns = k.columns offset 0)'
    end,
    concat_ws(' cross join lateral ', source, format(
      '(values %s) as k (key, columns)',
      string_agg(format('(%s, %L::smallint[])', grace_internal.live_key("row", p.target, k.names), k.columns), ', ')
    )),
    grace_internal.held_under(p.id)
  )
  from grace_internal.protected p
  cross join lateral (
    select distinct h.columns, grace_internal.hold_names(h.*) as names
    from grace_internal.active_hold h
    where h.protected_id = any (grace_internal.held_under(p.id))
  ) as k
  where p.id = held_among.protected_id
  group by p.id
$$;

-- The first hold of those on what was found, and on how many records there are any; "of" is what held_among() says.
create or replace function grace_internal.first_held(protected_id integer, into_variables text, of text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select min((select min(h.id) from grace_internal.active_hold h '
    'where h.protected_id = any (%L::integer[]) and h.key_values = k.key)), count(distinct k.key)%s %s',
    grace_internal.held_under(first_held.protected_id), ' into ' || into_variables, of
  )
$$;

-- The same where the table may have changed since the capture function was written: for a statement (the leaf's rows when it is
-- TRUNCATE) or, row by row, for $1. Errors: GR029 when a hold's record can no longer be told from others, for it may be any of them.
create or replace function grace_internal.held_query(protected_id integer, relation oid, operation text, row_wise boolean)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold record;
begin
  select h.id, p.target_name into v_hold
  from grace_internal.active_hold h
  join grace_internal.protected p on p.id = h.protected_id
  where h.protected_id = any (grace_internal.held_under(held_query.protected_id)) and grace_internal.hold_names(h.*) is null
  order by h.id
  limit 1;
  if found then
    raise exception 'nothing can be deleted from %: hold % can''t be matched with its rows any more', v_hold.target_name, v_hold.id
      using errcode = 'GR029',
      detail = 'A column of the primary key that it names was dropped or has changed its type, or an enum lacks the value.',
      hint = format(
        'Hold the record again as it is now: select grace.hold(…); then: select grace.release(%s, ''reason'');', v_hold.id
      );
  end if;
  return coalesce(
    grace_internal.first_held(protected_id, null, grace_internal.held_among(
      protected_id,
      case when row_wise and operation = 'DELETE' then '($1)' else 'g' end,
      case
        when operation = 'TRUNCATE' then format('only %s as g', grace_internal.qualified_name(relation))
        when not row_wise then 'grace_gone as g'
      end,
      operation = 'TRUNCATE' or not row_wise
    )),
    'select null::bigint, 0::bigint'
  );
end
$$;

-- The newest hold that a table's capture function knows of: a function is always called as it is now, whatever the snapshot.
create or replace function grace_internal.newest_hold(protected_id integer)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (regexp_match(
    pg_get_functiondef(to_regproc(format('grace_internal.%I', 'capture_' || protected_id))), 'require_current_holds[(]([0-9]+)[)]'
  ))[1]::bigint
$$;

-- Above READ COMMITTED a hold that was placed after the transaction began can't be seen.
create or replace function grace_internal.require_current_holds(newest_hold bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed'
    and not exists (select from grace_internal.hold h where h.id = newest_hold)
  then
    raise exception 'could not serialize access: hold % was placed after this transaction began', newest_hold
      using errcode = 'serialization_failure',
      detail = 'Whether what is deleted is held can''t be told from what this transaction sees.',
      hint = 'Run the transaction again.';
  end if;
end
$$;

-- Errors: GR029, always.
create or replace function grace_internal.refuse_held(hold_id bigint, records bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold grace_internal.hold;
begin
  select h.* into strict v_hold from grace_internal.hold h where h.id = hold_id;
  raise exception '% % %: % (hold %)',
    coalesce((select p.target_name from grace_internal.protected p where p.id = v_hold.protected_id), v_hold.target_name), v_hold.key,
    case when records > 1 then format('and %s more are held', records - 1) else 'is held' end, v_hold.reason,
    concat_ws(', case ', v_hold.id, v_hold.case_number)
    using errcode = 'GR029',
    detail = format(
      'Held by %s since %s, until %s.', v_hold.held_by, to_char(v_hold.held_at, 'YYYY-MM-DD HH24:MI TZ'),
      coalesce(to_char(v_hold.until, 'YYYY-MM-DD HH24:MI TZ'), 'it is released')
    ),
    hint = format('Leave it out. Or, as a member of grace_admin: select grace.release(%s, ''reason'');', v_hold.id);
end
$$;

-- What the capture function of a table with holds does besides, once it has captured something; empty without any. It looks at the holds
-- themselves, so that nothing has to be written anew when one ends. Where many rows go, or a value of an enum may have been renamed, the
-- statement is made each time.
create or replace function grace_internal.hold_check(protected_id integer, row_wise boolean)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_newest bigint := grace_internal.newest_hold(protected_id);
  v_is_static boolean;
begin
  if v_newest is not null then
    perform grace_internal.require_current_holds(v_newest);
  end if;
  select
    max(h.id),
    bool_and(
      grace_internal.hold_names(h.*) is not null
      and not exists (select from unnest(h.types) t join pg_type e on e.oid = t and e.typtype = 'e')
    )
  into v_newest, v_is_static
  from grace_internal.active_hold h
  where h.protected_id = any (grace_internal.held_under(hold_check.protected_id));
  if v_newest is null then
    return '';
  end if;
  return format(
    $body$
  if v_rows > 0 then
    declare
      v_hold bigint;
      v_records bigint;
    begin
      perform grace_internal.require_current_holds(%1$s);
      if %2$s then
        %3$s;
      else
        execute grace_internal.held_query(%4$s, tg_relid, tg_op, %5$L) into v_hold, v_records%6$s;
      end if;
      if v_records > 0 then
        perform grace_internal.refuse_held(v_hold, v_records);
      end if;
    end;
  end if;
$body$,
    v_newest,
    case when v_is_static then 'v_unchanged and v_rows < 100' else 'false' end,
    case
      when v_is_static then grace_internal.first_held(protected_id, 'v_hold, v_records', grace_internal.held_among(
        protected_id, case when row_wise then 'old' else 'g' end, case when not row_wise then 'grace_gone as g' end, false
      ))
      else 'null'
    end,
    protected_id, row_wise, case when row_wise then ' using old' else '' end
  );
end
$generate$;

-- SET clauses that the capture function of a table with holds needs.
create or replace function grace_internal.hold_settings(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select grace_internal.key_settings()
    from grace_internal.active_hold h
    join grace_internal.protected p on p.id = hold_settings.protected_id
    where h.protected_id = any (grace_internal.held_under(p.id))
      and grace_internal.output_settings(
        p.target, grace_internal.numbers_of(p.target, coalesce(grace_internal.hold_names(h.*), h.names))
      ) <> ''
    limit 1
  ), '')
$$;

-- Rows that go otherwise than by a statement that the capture function sees whole. Errors: GR029.
create or replace function grace_internal.require_unheld_row(protected_id integer, "row" record)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_newest bigint := grace_internal.newest_hold(protected_id);
  v_hold bigint;
  v_records bigint;
begin
  if v_newest is not null then
    perform grace_internal.require_current_holds(v_newest);
    execute grace_internal.held_query(protected_id, null, 'DELETE', true) into v_hold, v_records using "row";
    if v_records > 0 then
      perform grace_internal.refuse_held(v_hold, v_records);
    end if;
  end if;
end
$$;

create or replace function grace_internal.require_unheld_rows(protected_id integer, leaf oid, tids tid [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_newest bigint := grace_internal.newest_hold(protected_id);
  v_hold bigint;
  v_records bigint;
begin
  if v_newest is not null then
    perform grace_internal.require_current_holds(v_newest);
    execute grace_internal.held_query(protected_id, leaf, 'TRUNCATE', false) || ' and g.ctid = any ($1)' into v_hold, v_records using tids;
    if v_records > 0 then
      perform grace_internal.refuse_held(v_hold, v_records);
    end if;
  end if;
end
$$;

-- Capture functions that look for holds although none is left: those of a hold's time that has passed. Whoever changes such a function has
-- the table's row in the registry first.
create or replace function grace_internal.forget_ended_holds()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  for v_id in
    select p.id
    from grace_internal.protected p
    join pg_proc f on f.pronamespace = 'grace_internal'::regnamespace and f.proname = 'capture_' || p.id
    join pg_class c on c.oid = p.target
    where f.prosrc like '%require_current_holds%'
      and not exists (select from grace_internal.active_hold h where h.protected_id = any (grace_internal.held_under(p.id)))
  loop
    perform from grace_internal.protected p where p.id = v_id for no key update skip locked;
    if found and not exists (
      select from grace_internal.active_hold h where h.protected_id = any (grace_internal.held_under(v_id))
    ) then
      perform grace_internal.generate_capture(v_id);
      update grace_internal.capture c set kept = false where c.protected_id = v_id and c.kept;
    end if;
  end loop;
end
$$;

-- links/follow_links.sql
create or replace function grace_internal.has_link_trigger(link_id integer, relation oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_trigger t
    join pg_proc f on f.oid = t.tgfoid and f.pronamespace = 'grace_internal'::regnamespace
    where t.tgrelid = relation
      and t.tgname = 'zz_grace_link_' || link_id
      and t.tgenabled = 'A'
      and f.proname = 'link_' || link_id
      and (t.tgtype & 2 = 2) = grace_internal.fires_before(relation)
  )
$$;

-- Tables whose links are to be remembered and that have no trigger for it yet, or one that does not always fire. Where a dump
-- was loaded the columns are compared by name.
create or replace function grace_internal.unlinked(protected_id integer)
returns setof oid
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select distinct w.child
  from grace_internal.wanted_links(protected_id) w
  where w.key_columns is not null and grace_internal.can_have_link(w.child)
    and not exists (
      select
      from grace_internal.link l
      where l.protected_id = unlinked.protected_id and l.active and l.child = w.child
        and l.key_names = grace_internal.column_names(w.child, w.key_columns)
        and l.column_names = grace_internal.column_names(w.child, w.columns)
        and l.set_names = grace_internal.column_names(w.child, w.set_columns)
        and not exists (
          select
          from grace_internal.partition_tree(w.child) as t (relation)
          where not grace_internal.has_link_trigger(l.id, t.relation)
        )
    )
$$;

-- The functions of a protected table's links, or (null) of all.
create or replace function grace_internal.link_functions(only_id integer, also_active boolean)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select f.oid
  from pg_proc f
  left join grace_internal.link l on 'link_' || l.id = f.proname
  where f.pronamespace = 'grace_internal'::regnamespace
    and f.prorettype = 'trigger'::regtype
    and f.proname ~ '^link_[0-9]+$'
    and (only_id is null or l.protected_id = only_id)
    and (also_active or l.active is not true)
$$;

-- Their triggers; not those that PostgreSQL has cloned to partitions.
create or replace function grace_internal.link_triggers(only_id integer, also_active boolean)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.oid
  from pg_trigger t
  where t.tgfoid in (select grace_internal.link_functions(only_id, also_active)) and t.tgparentid = 0
    and grace_internal.can_have_link(t.tgrelid)
$$;

-- Brings the registry of a protected table's links up to date. Where a dump was loaded, numbers are found again by name.
create or replace function grace_internal.register_links(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids integer [];
begin
  update grace_internal.link l
  set child = null, active = false
  where l.protected_id = register_links.protected_id and l.child is not null
    and not exists (select from pg_class c where c.oid = l.child);

  update grace_internal.link l
  set
    child_oid = l.child,
    home = grace_internal.home(),
    key_columns = grace_internal.numbers_of(l.child, m.key_names),
    columns = grace_internal.numbers_of(l.child, m.column_names),
    set_columns = grace_internal.numbers_of(l.child, m.set_names),
    parent_columns = grace_internal.numbers_of(p.target, m.parent_names)
  from grace_internal.link_map m, grace_internal.protected p
  where m.link = l.id and p.id = l.protected_id
    and l.protected_id = register_links.protected_id and grace_internal.link_has_moved(l.*);

  select array_agg(grace_internal.registered_link(
    protected_id, w.child, w.key_columns, w.columns, w.set_columns, w.parent_columns
  ))
  into v_ids
  from grace_internal.wanted_links(protected_id) w
  where w.key_columns is not null and grace_internal.can_have_link(w.child);

  update grace_internal.link l
  set active = l.id = any (coalesce(v_ids, '{}'))
  where l.protected_id = register_links.protected_id
    and l.active <> (l.id = any (coalesce(v_ids, '{}')));

  update grace_internal.link l
  set
    child_name = grace_internal.qualified_name(l.child),
    key_names = m.key_names,
    column_names = m.column_names,
    set_names = m.set_names,
    parent_names = m.parent_names
  from grace_internal.link_map m
  where m.link = l.id and l.protected_id = register_links.protected_id
    and (l.child_name, l.key_names, l.column_names, l.set_names, l.parent_names)
      is distinct from (grace_internal.qualified_name(l.child), m.key_names, m.column_names, m.set_names, m.parent_names);
end
$$;

-- The trigger of one link. It names no column, for PostgreSQL would refuse to drop or retype a column that a trigger names. Its
-- condition is true for what foreign keys and triggers change, and costs an application's own UPDATE next to nothing.
create or replace function grace_internal.create_link_trigger(link_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name := 'zz_grace_link_' || link_id;
  v_child regclass := (select l.child from grace_internal.link l where l.id = link_id);
  v_table text := grace_internal.qualified_name(v_child);
begin
  if not exists (
    select
    from grace_internal.partition_tree(v_child) as t (relation)
    where not grace_internal.has_link_trigger(link_id, t.relation)
  ) or (not repair and exists (
    select from pg_trigger t
    where t.tgrelid = v_child and t.tgname = v_name and (t.tgtype & 2 = 2) = grace_internal.fires_before(v_child)
  )) then
    return;
  end if;
  execute format(
    'create or replace trigger %I %s update on %s for each row when (pg_catalog.pg_trigger_depth() > 0) '
    'execute function grace_internal.%I()',
    v_name, case when grace_internal.fires_before(v_child) then 'before' else 'after' end, v_table, 'link_' || link_id
  );
  execute format('alter table %s enable always trigger %I', v_table, v_name);
end
$$;

-- Brings a protected table's links, their functions and triggers up to date. Without repair nothing is waited for longer than
-- lock_timeout: a table that is locked is left to the next time.
create or replace function grace_internal.follow_links(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before text := coalesce(current_setting('grace.following', true), '');
  v_trigger record;
  v_id integer;
  v_function regprocedure;
begin
  perform set_config('grace.following', grace_internal.signature('following'), true);
  perform grace_internal.register_links(protected_id);
  begin
    for v_trigger in
      select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
      from pg_trigger t
      where t.oid in (select grace_internal.link_triggers(protected_id, false))
    loop
      execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
    end loop;
    for v_function in
      select f
      from grace_internal.link_functions(protected_id, false) f
      where not exists (select from pg_trigger t where t.tgfoid = f)
    loop
      execute format('drop function %s', v_function);
    end loop;
    for v_id in
      select l.id from grace_internal.link l where l.protected_id = follow_links.protected_id and l.active order by l.id
    loop
      perform grace_internal.generate_link(v_id, anew => false);
      perform grace_internal.create_link_trigger(v_id, repair);
    end loop;
  exception when lock_not_available then
    if repair then
      raise;
    end if;
  end;
  perform set_config('grace.following', v_before, true);
end
$$;

-- capture/guard_leaves.sql
-- Where there are no event triggers, a partition that is made or attached has no capture trigger until the next grace.sync() or
-- purge. A row trigger on the root, which PostgreSQL itself puts on every new partition, captures what is deleted
-- from it meanwhile, row by row. On partitions that have their own capture trigger it is disabled.
create or replace function grace_internal.guard_leaves(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name := 'zz_grace_leaf_' || protected_id; -- a root can become a partition of another one that has such a trigger
  v_root text := (
    select grace_internal.qualified_name(p.target)
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relkind = 'p'
    where p.id = protected_id and p.active
  );
  v_guarded boolean := exists (
    select from pg_trigger t where t.tgrelid = v_root::regclass and t.tgname = v_name
  );
  v_leaf text;
begin
  if v_root is null then
    return;
  end if;
  if grace_internal.has_event_triggers() or grace_internal.owner_is_superuser() then
    if v_guarded then
      execute format('drop trigger %I on %s', v_name, v_root);
    end if;
    return;
  end if;
  if not v_guarded then
    execute format(
      'create trigger %I after delete on %s for each row execute function grace_internal.capture_leaf(%s)',
      v_name, v_root, protected_id
    );
    execute format('alter table %s enable always trigger %I', v_root, v_name);
  end if;
  for v_leaf in
    select grace_internal.qualified_name(l)
    from grace_internal.guarded_leaves(protected_id) l
    where grace_internal.has_capture_triggers(l, protected_id)
  loop
    execute format('alter table only %s disable trigger %I', v_leaf, v_name);
    -- Sessions that know the root with a guarded leaf ask anew.
    execute format('alter table only %s enable always trigger zz_grace_delete', v_root);
  end loop;
end
$$;

-- The leaves from which rows are captured one by one, as of now: VOLATILE, for a snapshot of its own.
create or replace function grace_internal.guarded_leaves(protected_id integer)
returns setof oid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.tgrelid
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid and c.relkind = 'r'
    where t.tgfoid = 'grace_internal.capture_leaf'::regproc and t.tgenabled <> 'D'
      and t.tgargs = convert_to(protected_id::text, 'UTF8') || e'\\x00'::bytea;
end
$$;

-- What tells rows of guarded leaves from the others in a statement on their root, as a condition; null where there are none. It is
-- made of the application's partition keys, which may call functions of its own: that must not happen with a superuser's rights,
-- who has event triggers instead.
create or replace function grace_internal.not_from_guarded_leaves(protected_id integer)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result text;
begin
  select string_agg(format('not coalesce(%s, false)', pg_get_partition_constraintdef(l)), ' and ') into v_result
  from grace_internal.guarded_leaves(protected_id) l;
  if v_result is not null then
    perform grace_internal.require_trusted_code(
      (select p.target from grace_internal.protected p where p.id = protected_id), 'Run pg_grace sync, or: select * from grace.sync();'
    );
  end if;
  return v_result;
end
$$;

create or replace function grace_internal.owner_is_superuser()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.rolsuper
  from pg_namespace n
  join pg_roles r on r.oid = n.nspowner
  where n.nspname = 'grace_internal'
$$;

create or replace function grace_internal.capture_leaf()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on the buffer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := tg_argv[0]::integer;
  v_deletion grace_internal.deletion_ref := grace_internal.current_deletion();
begin
  execute grace_internal.capture_statement(v_id, tg_relid, tg_op, true)
  using v_deletion.deletion, v_deletion.deleted_at, old;
  perform grace_internal.require_unheld_row(v_id, old);
  insert into grace_internal.capture (
    deletion, deleted_at, protected_id, row_count, operation,
    role, login, application_name, client_addr, reason
  )
  values (
    v_deletion.deletion, v_deletion.deleted_at, v_id, 1, tg_op,
    grace_internal.deleting_role(), session_user,
    current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
  );
  return null;
end
$$;

-- capture/drop_triggers.sql
-- Stops capturing, on one protected table or (null) on all. Waits for the deletes that are under way.
create or replace function grace_internal.drop_triggers(only_id integer, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relations oid [];
  v_trigger record;
begin
  select array_agg(distinct t.tgrelid) into v_relations
  from pg_trigger t
  where t.oid in (select grace_internal.all_triggers(only_id));
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'access exclusive', max_wait);
    for v_trigger in
      select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
      from pg_trigger t
      where t.oid in (select grace_internal.all_triggers(only_id))
    loop
      execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
    end loop;
  end if;
end
$$;

create or replace function grace_internal.capture_functions(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select f.oid
  from pg_proc f
  where f.pronamespace = 'grace_internal'::regnamespace
    and f.prorettype = 'trigger'::regtype
    and case when only_id is null then f.proname ~ '^capture_[0-9]+$' else f.proname = 'capture_' || only_id end
$$;

-- Triggers that a protected table (or, null, all) has from us; not those that PostgreSQL has cloned to partitions.
create or replace function grace_internal.capture_triggers(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.oid
  from pg_trigger t
  where t.tgfoid in (select grace_internal.capture_functions(only_id))
  union all
  select t.oid
  from pg_trigger t
  where t.tgfoid in ('grace_internal.keep_files'::regproc, 'grace_internal.capture_leaf'::regproc) and t.tgparentid = 0
    and (only_id is null or t.tgargs = convert_to(only_id::text, 'UTF8') || e'\\x00'::bytea)
$$;

-- Together with those of the links that its deletes cut.
create or replace function grace_internal.all_triggers(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.capture_triggers(only_id)
  union all
  select grace_internal.link_triggers(only_id, true)
$$;

-- capture/later_truncate_trigger.sql
-- A BEFORE TRUNCATE trigger that fires after ours in the same statement: of the same table by its name, or of another table that
-- is being truncated with it (all of them are locked by then, and which comes first is not known).
create or replace function grace_internal.later_truncate_trigger(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select min(format('trigger %I on %s', t.tgname, grace_internal.qualified_name(t.tgrelid)))
  from pg_trigger t
  where not t.tgisinternal and t.tgenabled <> 'D'
    and t.tgtype & 34 = 34 -- BEFORE TRUNCATE
    and not t.tgfoid in (select grace_internal.capture_functions(null))
    and case
      when t.tgrelid = later_truncate_trigger.relation then t.tgname::text collate "C" > 'zz_grace_truncate'
      else exists (
        select
        from pg_locks l
        where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
          and l.relation = t.tgrelid
      )
    end
$$;

-- capture/absorb_partition.sql
-- A protected table has become a partition: from now on its whole tree is protected, with its retention, and what is deleted goes into
-- the tree's buffer. Its own buffer stays until what is in it expires; it comes back into the same table.
create or replace function grace_internal.absorb_partition(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_partition grace_internal.protected;
  v_root regclass;
  v_root_id integer;
  v_trigger record;
begin
  select p.* into strict v_partition from grace_internal.protected p where p.id = protected_id;
  v_root := pg_partition_root(v_partition.target);
  for v_trigger in
    select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
    from pg_trigger t
    where t.oid in (select grace_internal.capture_triggers(v_partition.id))
  loop
    execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
  end loop;
  perform grace_internal.drop_guard(v_partition.id);
  update grace_internal.protected p set active = false where p.id = v_partition.id;
  perform grace_internal.follow_links(v_partition.id, repair => false);

  select p.id into v_root_id from grace_internal.protected p where p.target = v_root and p.active;
  if v_root_id is null then
    select t.protected_id into v_root_id
    from grace_internal.protect_table(
      v_root, v_partition.retention, '{}', v_partition.file_names, v_partition.follows_cascades
    ) t;
  end if;
  perform grace_internal.follow_table(v_root_id, repair => true);
  perform grace_internal.generate_capture(v_root_id); -- what was held stays held
end
$$;

-- capture/follow_table.sql
-- Brings buffer, capture function and triggers up to date with a table; takes the triggers off partitions that have left.
-- A trigger that somebody has disabled is only enabled again with repair.
create or replace function grace_internal.follow_table(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before text := coalesce(current_setting('grace.following', true), '');
  v_relation text;
  v_other_kind boolean;
begin
  -- Signed and for this transaction only, as nobody else may keep DDL from being followed.
  perform set_config('grace.following', grace_internal.signature('following'), true);
  if exists (
    select
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relispartition
    where p.id = protected_id
  ) then
    perform grace_internal.absorb_partition(protected_id);
    perform set_config('grace.following', v_before, true);
    return;
  end if;
  for v_relation in
    select grace_internal.qualified_name(t.tgrelid)
    from pg_trigger t
    where t.tgname = 'zz_grace_delete'
      and t.tgfoid in (select grace_internal.capture_functions(follow_table.protected_id))
      and not t.tgrelid in (
        select grace_internal.partition_tree(p.target)
        from grace_internal.protected p
        where p.id = follow_table.protected_id
      )
  loop
    execute format('drop trigger zz_grace_delete on %s', v_relation);
    execute format('drop trigger if exists zz_grace_truncate on %s', v_relation);
  end loop;
  update grace_internal.protected p
  set row_wise = not p.row_wise
  where p.id = protected_id and p.row_wise <> grace_internal.in_inheritance_tree(p.target);
  v_other_kind := found;
  if v_other_kind
    or grace_internal.columns_differ(protected_id)
    or not exists (select from grace_internal.capture_functions(protected_id))
  then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  perform grace_internal.create_triggers(protected_id, repair or v_other_kind);
  perform grace_internal.guard_leaves(protected_id);
  perform grace_internal.create_file_trigger(protected_id, repair);
  perform grace_internal.guard_against_drop(protected_id);
  perform grace_internal.follow_links(protected_id, repair);
  update grace_internal.protected p
  set target_name = grace_internal.qualified_name(p.target)
  where p.id = protected_id and p.target_name <> grace_internal.qualified_name(p.target);
  perform set_config('grace.following', v_before, true);
end
$$;

-- capture/protect_table.sql
-- Registers one table and makes its buffer and function, or takes up again what is there; the triggers come later, under a
-- lock. Returns its id and what has become of it. Errors: those of check_protectable.
create or replace function grace_internal.protect_table(
  target regclass, retention interval, exclude_columns name [], files name [], follows_cascades boolean,
  out protected_id integer, out status text, out warning text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
begin
  perform grace_internal.check_protectable(target, exclude_columns, files);
  select p.* into v_protected from grace_internal.protected p where p.target = protect_table.target;
  protected_id := v_protected.id;
  if protected_id is null then
    protected_id := grace_internal.create_buffer(
      target, retention, grace_internal.check_excluded(target, exclude_columns), follows_cascades
    );
    status := 'protected';
  elsif v_protected.active then
    status := 'already protected';
    if cardinality(exclude_columns) > 0 then
      warning := 'What is captured of it stays as it is; to exclude columns, unprotect it with buffer => discard first.';
    elsif retention <> v_protected.retention then
      warning := format(
        'Its retention stays %s; to change it: select grace.set_retention(%L, %L);',
        v_protected.retention, target, retention
      );
    end if;
  else
    update grace_internal.protected p
    set active = true, retention = protect_table.retention, follows_cascades = protect_table.follows_cascades
    where p.id = protected_id;
    status := 'protected';
  end if;
  if status = 'protected' then
    update grace_internal.protected p
    set uncovered = array_remove(p.uncovered, protect_table.target)
    where protect_table.target = any (p.uncovered);
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  if cardinality(files) > 0 then
    perform grace_internal.declare_files(protected_id, files);
  end if;
end
$$;

-- capture/cover.sql
-- Protects the tables that a protected table has come to take rows from: by a new foreign key with ON DELETE CASCADE, or
-- a new inheritance. They get its retention. A cascade into one that can't be protected is noted in the registry, so that
-- deletes go on; a table that inherits and can't be protected makes them fail, for its columns would be lost.
create or replace function grace_internal.cover(protected_id integer)
returns table (protected_table regclass, status text, warning text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_done regclass [] := array[]::regclass [];
  v_id integer;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  loop
    select u into protected_table
    from grace_internal.protected p
    cross join lateral grace_internal.uncovered_tables(p.id) u
    where p.active and not u = any (v_done)
      and not exists (select from grace_internal.protected o where o.target = u and o.active)
      and (p.id = cover.protected_id or p.target = any (v_done))
    order by u::text
    limit 1;
    exit when not found;
    v_done := v_done || protected_table;
    begin
      select t.protected_id, t.status, null into v_id, status, warning
      from grace_internal.protect_table(
        protected_table, v_protected.retention, '{}',
        coalesce((
          select p.file_names
          from grace_internal.protected p
          where p.active and protected_table in (select grace_internal.inheritors(p.target))
          limit 1
        ), '{}'), true
      ) t;
      perform grace_internal.follow_table(v_id, repair => true);
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      get stacked diagnostics warning = pg_exception_detail;
      status := 'not protected';
      if sqlstate <> '42501' then
        perform grace_internal.accept_uncovered(protected_table);
      end if;
      warning := case
        when exists (
          select from grace_internal.protected p where protected_table = any (p.uncovered)
        ) then format('Deleting from %s cascades into it, and those rows will be lost: %s', v_protected.target, warning)
        else format('Deleting from %s fails until it can be protected: %s', v_protected.target, warning)
      end;
    end;
    return next;
  end loop;
end
$$;

-- From now on it is known that what cascades into this table is not captured.
create or replace function grace_internal.accept_uncovered(relation regclass)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.protected p
  set uncovered = p.uncovered || accept_uncovered.relation
  where not accept_uncovered.relation = any (p.uncovered)
    and accept_uncovered.relation in (select grace_internal.cascade_children(p.target))
$$;

-- capture/follow_ddl.sql
-- Event trigger: what the application's DDL does to a protected table is followed in the same transaction. It must never be
-- what makes that DDL fail or wait: where a lock is not free at once, the next capture or purge does it.
create or replace function grace_internal.follow_ddl()
returns event_trigger
language plpgsql
security definer -- whoever changes a table need have no right on its buffer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_id integer;
  v_followed integer [] := array[]::integer [];
  v_covered record;
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  for v_id in
    select distinct p.id
    from pg_event_trigger_ddl_commands() d
    cross join lateral (
      select coalesce(pg_partition_root(d.objid), d.objid::regclass)
      union
      select t::regclass from grace_internal.partition_tree(d.objid) t
      union
      select f.confrelid::regclass from pg_constraint f
      where f.conrelid = d.objid and f.contype = 'f' and f.confdeltype = 'c'
      union
      select i.inhparent::regclass from pg_inherits i where i.inhrelid = d.objid
    ) as t (relation)
    join grace_internal.protected p on p.target in (t.relation, pg_partition_root(t.relation))
    where d.classid = 'pg_class'::regclass and p.active
  loop
    begin
      perform grace_internal.follow_table(v_id, repair => false);
      perform grace_internal.free_former_columns(v_id);
      for v_covered in select * from grace_internal.cover(v_id) c where c.warning is not null loop
        raise warning '% is not protected', v_covered.protected_table using detail = v_covered.warning;
      end loop;
    exception when others then -- whatever it is, the application's DDL comes first; the next capture says it again
      raise warning 'the buffer of % could not be brought up to date now; the next capture does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
    v_followed := v_followed || v_id;
  end loop;

  -- The tables that deletes cut links of: new foreign keys, and those that are known.
  for v_id in
    select p.id
    from pg_event_trigger_ddl_commands() d
    join pg_constraint f on f.conrelid = d.objid and f.contype = 'f' and f.confdeltype in ('n', 'd')
    join grace_internal.protected p on p.target in (f.confrelid, pg_partition_root(f.confrelid))
    where d.classid = 'pg_class'::regclass and p.active
    union
    select l.protected_id
    from pg_event_trigger_ddl_commands() d
    join grace_internal.link l on l.child in (d.objid, pg_partition_root(d.objid)) and l.active
    where d.classid = 'pg_class'::regclass
    except
    select unnest(v_followed)
  loop
    begin
      perform grace_internal.follow_links(v_id, repair => false);
    exception when others then
      raise warning 'links to % could not be followed now; pg_grace sync does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
  end loop;
end
$$;

-- capture/refuse_drop.sql
-- The registry forgets the numbers of tables that are gone, for another table may get them. What is buffered stays.
create or replace function grace_internal.forget_dropped()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.protected p
  set target = null, active = false
  where p.target is not null and not exists (select from pg_class c where c.oid = p.target);

  update grace_internal.protected p
  set uncovered = array(select u from unnest(p.uncovered) u join pg_class c on c.oid = u)
  where exists (select from unnest(p.uncovered) u where not exists (select from pg_class c where c.oid = u));

  update grace_internal.link l
  set child = null, active = false
  where l.child is not null and not exists (select from pg_class c where c.oid = l.child);
$$;

-- What is held is not dropped even so. Errors: GR029.
create or replace function grace_internal.refuse_drop_of_held()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_hold record;
begin
  for v_hold in
    select
      h.id, h.protected_id, h.key_values, grace_internal.hold_names(h.*) as names,
      bool_or(d.objid = p.target or (d.schema_name = 'grace_buffer' and d.object_name = p.buffer)) as is_whole,
      h.is_live and c.relkind = 'p' as may_be_gone
    from pg_event_trigger_dropped_objects() d
    cross join grace_internal.active_hold h
    join grace_internal.protected p on p.id = h.protected_id
    left join pg_class c on c.oid = p.target
    where d.object_type = 'table'
    group by h.id, h.protected_id, h.key_values, h.is_live, c.relkind, grace_internal.hold_names(h.*)
  loop
    if v_hold.is_whole or (
      v_hold.may_be_gone and v_hold.names is not null
      and grace_internal.find_live(v_hold.protected_id, v_hold.names, v_hold.key_values) is null
    ) then
      perform grace_internal.refuse_held(v_hold.id, 1);
    end if;
  end loop;
end
$$;

-- Event trigger: a protected table, or a partition of one, is not dropped by mistake, for nothing captures the rows that go
-- with it; nor is a buffer, nor does DROP TYPE … CASCADE take columns out of one. Errors: GR021, unless a member of grace_admin has set
-- grace.allow_drop.
create or replace function grace_internal.refuse_drop()
returns event_trigger
language plpgsql
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table record;
  v_allowed text := current_setting('grace.allow_drop', true);
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  select t.identity, t.kind into v_table
  from (
    select d.object_identity, 'table'
    from pg_event_trigger_dropped_objects() d
    join grace_internal.protected p on p.target = d.objid and p.active
    where d.classid = 'pg_class'::regclass and d.objsubid = 0
    union all
    select d.object_identity, 'partition'
    from pg_event_trigger_dropped_objects() d
    join pg_event_trigger_dropped_objects() t on t.address_names = d.address_names || 'zz_grace_delete'::text
    where d.object_type = 'table' and t.object_type = 'trigger'
    union all
    select d.object_identity, 'column'
    from pg_event_trigger_dropped_objects() d
    join grace_internal.protected p on p.buffer = d.address_names[2]
    join grace_internal.protected_column c on c.protected_id = p.id and c.buffer_column = d.address_names[3]
    where d.object_type = 'table column' and d.schema_name = 'grace_buffer' and not d.original
    union all
    select d.object_identity, 'buffer'
    from pg_event_trigger_dropped_objects() d
    where d.object_type = 'table' and (
      (d.schema_name = 'grace_buffer' and exists (
        select from grace_internal.protected p where p.buffer = d.address_names[2]
      ))
      or (d.schema_name = 'grace_internal' and d.address_names[2] ~ '^[bf][0-9]+_default$')
    )
  ) as t (identity, kind)
  order by t.kind desc, t.identity
  limit 1;
  if not found or (
    v_allowed in ('on', 'true', 'yes', '1') and pg_has_role(grace_internal.caller(), 'grace_admin', 'member')
  ) then
    perform grace_internal.refuse_drop_of_held();
    perform grace_internal.forget_dropped();
    return;
  end if;
  if v_table.kind = 'buffer' then
    raise exception '% holds deleted rows and was not dropped', v_table.identity
      using errcode = 'GR021',
      detail = 'Deletes of its table would fail without it.',
      hint = 'select grace.unprotect(…, ''discard''); or, as a member of grace_admin: set grace.allow_drop = on;';
  end if;
  if v_table.kind = 'column' then
    raise exception '% was not dropped with its type', v_table.identity
      using errcode = 'GR021',
      detail = 'What is buffered in it would be lost.',
      hint = 'Drop the table''s column first, then the type; or, as a member of grace_admin: set grace.allow_drop = on;';
  end if;
  raise exception '% is protected and was not dropped', v_table.identity
    using errcode = 'GR021',
    detail = concat(
      'DROP captures no rows: what is in the table would be lost.',
      case when v_allowed <> '' then ' grace.allow_drop counts only for a member of grace_admin, and set to on.' end
    ),
    hint = case
      when v_table.kind = 'partition' then 'Detach the partition first. Or, as a member of grace_admin: set grace.allow_drop = on;'
      else format('As a member of grace_admin: select grace.unprotect(%L); then drop it. Or: set grace.allow_drop = on;',
        v_table.identity)
    end;
end
$$;

-- capture/free_former_columns.sql
-- A former column of a type of the application's keeps its values as text, so that it does not hold the type fast. It is done within
-- the DDL that ended the column, and only if nobody has written to the buffer by hand, for rewritten rows can no longer tell.
-- By the types' output functions, not by casts, which may be the application's own.
create or replace function grace_internal.free_former_columns(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_changes text;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  select string_agg(format(
    'alter column %1$I type text using case when num_nulls(%1$I) = 0 then format(''%%s'', %1$I) end', c.buffer_column
  ), ', ') into v_changes
  from grace_internal.protected_column c
  where c.protected_id = free_former_columns.protected_id
    and c.ended_at is not null and grace_internal.belongs_to_application(c.type);
  if v_changes is null then
    return;
  end if;
  if exists (select from grace.verify_buffer(v_protected.target)) then
    raise warning 'former columns of buffer % keep their types', v_protected.buffer
      using detail = 'Somebody has written to the buffer by hand, and rewriting it would hide that.',
      hint = 'Look at it: select * from grace.verify_buffer();';
    return;
  end if;
  execute format('alter table grace_buffer.%I %s', v_protected.buffer, v_changes);
  update grace_internal.protected_column c
  set type = 'text'::regtype
  where c.protected_id = free_former_columns.protected_id
    and c.ended_at is not null and grace_internal.belongs_to_application(c.type);
  update grace_internal.protected p
  set unmarked_to = coalesce(pg_sequence_last_value('grace_internal.deletion_id'), 0)
  where p.id = protected_id;
end
$$;

-- capture/drop_guard.sql
-- Where there are no event triggers (only a superuser can create them) a function that depends on the table's row type makes
-- DROP TABLE fail as long as it says no CASCADE; PostgreSQL's error shows the function's name, which says what to do.
create or replace function grace_internal.guard_against_drop(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type regtype := (
    select c.reltype::regtype
    from grace_internal.protected p
    join pg_class c on c.oid = p.target
    where p.id = protected_id and p.active
  );
  v_guarded boolean := exists (
    select from pg_proc f
    where f.proname = grace_internal.guard_name() and f.pronamespace = 'grace_internal'::regnamespace
      and f.proargtypes[0] = v_type
  );
begin
  if not v_guarded and not exists (select from pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
    execute format(
      'create function grace_internal.%I(%s) returns void language sql as ''''',
      grace_internal.guard_name(), grace_internal.qualified_type(v_type)
    );
    execute format(
      'revoke all on function grace_internal.%I(%s) from public',
      grace_internal.guard_name(), grace_internal.qualified_type(v_type)
    );
  end if;
end
$$;

create or replace function grace_internal.guard_name()
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'protected by pg_grace: first select grace.unprotect(…)'::name
$$;

create or replace function grace_internal.qualified_type(type_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, t.typname)
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
  where t.oid = type_oid
$$;

create or replace function grace_internal.drop_guard(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.oid
    from pg_proc f
    join grace_internal.protected p on p.id = protected_id
    join pg_class c on c.oid = p.target and c.reltype = f.proargtypes[0]
    where f.proname = grace_internal.guard_name() and f.pronamespace = 'grace_internal'::regnamespace
  loop
    execute format('drop function %s', v_function);
  end loop;
end
$$;

-- rules/check_rules.sql
-- Reports, once each, filters and rules that no longer say what was meant, as a warning to whoever has just changed what they refer to, and
-- on channel grace.
create or replace function grace_internal.report_broken()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_broken record;
begin
  for v_broken in
    select *
    from (
      select 'filter' as kind, f.id, f.name, f.target, f.reported, grace_internal.problem_of(f.depends, f.home) as problem
      from grace_internal.filter f
      union all
      select 'rule', r.id, r.name, r.target, r.reported, grace_internal.problem_of(r.depends, r.home)
      from grace_internal.rule r
    ) as p
    where p.problem is distinct from p.reported
    order by p.kind, p.name
  loop
    if v_broken.kind = 'filter' then
      update grace_internal.filter f set reported = v_broken.problem where f.id = v_broken.id;
    else
      update grace_internal.rule r set reported = v_broken.problem where r.id = v_broken.id;
    end if;
    if v_broken.problem is not null then
      raise warning '% % no longer says what was meant', v_broken.kind, quote_literal(v_broken.name)
        using errcode = 'GR028', detail = v_broken.problem || '.',
        hint = case v_broken.kind when 'rule' then 'It stands still until it is defined anew (grace.alter_rule).' else 'Its rules stand still.' end;
      perform pg_notify('grace', jsonb_build_object('kind', v_broken.kind, 'name', v_broken.name, 'problem', v_broken.problem)::text);
    end if;
  end loop;
end
$$;

-- Event trigger. It must never be what makes the application's DDL fail or wait: whatever it is, grace.doctor() says it again.
create or replace function grace_internal.check_rules()
returns event_trigger
language plpgsql
security definer -- whoever changes a table need have no right on the rules
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  if exists (select from grace_internal.filter) or exists (select from grace_internal.rule) then
    perform grace_internal.report_broken();
  end if;
exception when others then
  raise warning 'whether filters and rules still say what was meant could not be told'
    using errcode = sqlstate, detail = sqlerrm, hint = 'select * from grace.doctor();';
end
$$;

-- capture/event_triggers.sql
-- Only a superuser can create event triggers. Without them captures follow added, dropped, renamed and retyped columns all the
-- same; a new partition gets its triggers with the next purge or grace.sync(), and DROP TABLE … CASCADE can't be refused.
create or replace function grace_internal.ensure_event_triggers()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.rolsuper from pg_roles r where r.rolname = current_user) then
    if exists (select from pg_event_trigger e where e.evtname = 'grace_follow_ddl') then
      drop event trigger grace_follow_ddl;
    end if;
    create event trigger grace_follow_ddl on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    execute function grace_internal.follow_ddl();
    if exists (select from pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
      drop event trigger grace_refuse_drop;
    end if;
    create event trigger grace_refuse_drop on sql_drop execute function grace_internal.refuse_drop();
    if exists (select from pg_event_trigger e where e.evtname = 'grace_check_rules') then
      drop event trigger grace_check_rules;
    end if;
    create event trigger grace_check_rules on ddl_command_end
    when tag in (
      'ALTER TABLE', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER FUNCTION',
      'ALTER AGGREGATE', 'ALTER ROUTINE', 'ALTER OPERATOR', 'ALTER COLLATION', 'ALTER SCHEMA', 'ALTER EXTENSION',
      'DROP TABLE', 'DROP VIEW', 'DROP MATERIALIZED VIEW', 'DROP FOREIGN TABLE', 'DROP TYPE', 'DROP DOMAIN', 'DROP FUNCTION',
      'DROP AGGREGATE', 'DROP ROUTINE', 'DROP OPERATOR', 'DROP COLLATION', 'DROP SCHEMA', 'DROP EXTENSION', 'DROP OWNED'
    )
    execute function grace_internal.check_rules();
  end if;
end
$$;

create or replace function grace_internal.has_event_triggers()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = 3
  from pg_event_trigger e
  where e.evtname in ('grace_follow_ddl', 'grace_refuse_drop', 'grace_check_rules') and e.evtenabled in ('O', 'A')
$$;

do $$ begin perform grace_internal.ensure_event_triggers(); end $$;

-- capture/protect.sql
-- Everything that takes time (checking, buffers, functions) comes before the lock; under the lock only the triggers
-- are created.
create or replace function grace.protect(
  target regclass,
  retention interval default '30 days',
  "cascade" boolean default true,
  exclude_columns name [] default '{}',
  wait interval default '60 seconds',
  files name [] default '{}'
)
returns table (protected_table regclass, buffer regclass, status text, warning text)
language plpgsql
security definer -- makes tables and functions in schemas that are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table regclass;
  v_ids integer [] := array[]::integer [];
  v_id integer;
  v_changed boolean;
begin
  if target is null then
    raise exception 'no table given'
      using errcode = 'null_value_not_allowed', detail = 'target is null.', hint = 'Give the table''s name.';
  end if;
  perform grace_internal.check_retention(retention);
  perform grace_internal.check_protectable(target, exclude_columns, files);

  for v_table in
    select t from grace_internal.cascade_tree(target, "cascade") t order by t <> target, t::text
  loop
    protected_table := v_table;
    begin
      select t.protected_id, t.status, t.warning into v_id, status, warning
      from grace_internal.protect_table(
        v_table, retention,
        case v_table when target then coalesce(exclude_columns, '{}') else '{}' end,
        case
          when v_table in (select grace_internal.cascade_tree(target, false)) then coalesce(files, '{}')
          else '{}'
        end,
        v_table <> target or "cascade"
      ) t;
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      if v_table in (select grace_internal.cascade_tree(target, false)) then
        raise;
      end if;
      get stacked diagnostics warning = pg_exception_detail;
      buffer := null;
      status := 'not protected';
      warning := format('Deleting from %s cascades into it, and those rows will be lost: %s', target, warning);
      perform grace_internal.accept_uncovered(v_table);
      return next;
      continue;
    end;
    if v_table <> target then
      warning := null;
    end if;
    warning := nullif(concat_ws(' ', warning, grace_internal.link_warning(v_id)), '');
    select format('grace_buffer.%I', p.buffer)::regclass into buffer
    from grace_internal.protected p
    where p.id = v_id;
    v_ids := v_ids || v_id;
    return next;
  end loop;
  if not "cascade" then
    update grace_internal.protected p set follows_cascades = false where p.target = protect.target;
  end if;

  v_changed := grace_internal.follow_tables(v_ids, wait);
  if v_changed then
    insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
    values (
      'protect', target, 'done', clock_timestamp(), jsonb_build_object('retention', retention),
      grace_internal.caller(), session_user
    );
  end if;
end
$$;
comment on function grace.protect(regclass, interval, boolean, name [], interval, name []) is
'Starts capturing what is deleted from a table, from all that inherit from it and, with cascade, from every table that its deletion cascades into, now or later. Idempotent. retention: how long a deleted row can be restored. exclude_columns: columns of the table itself that are not captured; a restore gives them their default. wait: how long to try for the lock before giving up; no attempt holds up others for more than 100 ms. files: columns of the table itself that refer to files: a large object (oid or lo), whose content is kept with the row, or a path or URL (text), which enters grace.file_outbox when the row is purged. Returns one row per table, with a warning for each cascade it could not follow. Errors: GR002, GR003, GR004, GR005, GR006, 42501.';

-- Brings tables up to date, triggers included, after one wait for the locks on all that lack triggers; returns whether any
-- did.
create or replace function grace_internal.follow_tables(ids integer [], wait interval)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relations oid [];
  v_former oid [];
  v_id integer;
begin
  foreach v_id in array ids loop
    perform grace_internal.register_links(v_id);
  end loop;
  select array_agg(t.relation) into v_relations
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = any (ids)
    and (
      not grace_internal.has_capture_triggers(t.relation, p.id)
      or (
        exists (select from grace_internal.file_columns(p.id, 'large object'))
        and not grace_internal.has_file_trigger(t.relation, p.id)
      )
      or p.row_wise <> grace_internal.in_inheritance_tree(p.target)
    );
  select array_agg(distinct r.relation) into v_relations
  from (
    select unnest(v_relations)
    union all
    select t.relation
    from unnest(ids) as p (id)
    cross join lateral grace_internal.unlinked(p.id) as u (child)
    cross join lateral grace_internal.partition_tree(u.child) as t (relation)
  ) as r (relation);
  select array_agg(distinct t.tgrelid) into v_former
  from unnest(ids) as p (id)
  cross join lateral grace_internal.link_triggers(p.id, false) as l (trigger_oid)
  join pg_trigger t on t.oid = l.trigger_oid;
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'share row exclusive', wait);
  end if;
  if v_former is not null then
    perform grace_internal.lock_for_ddl(v_former, 'access exclusive', wait);
  end if;
  foreach v_id in array ids loop
    perform grace_internal.follow_table(v_id, repair => true);
  end loop;
  return v_relations is not null or v_former is not null;
end
$$;

-- capture/sync.sql
create or replace function grace._sync_server()
returns void
language plpgsql
security definer -- event triggers and jobs belong to the owner
set search_path = pg_catalog, pg_temp
as $$
begin
  if not grace_internal.has_event_triggers() then
    perform grace_internal.ensure_event_triggers();
  end if;
  perform grace_internal.ensure_jobs();
end
$$;
comment on function grace._sync_server() is 'Internal: what grace.sync() does besides the tables.';

create or replace function grace.sync(target regclass default null, wait interval default '60 seconds')
returns table (protected_table regclass, status text, warning text)
language plpgsql
security definer -- creates triggers and changes buffers, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_only integer := case when target is not null then grace_internal.protected_id(target) end;
  v_ids integer [];
  v_id integer;
begin
  perform grace_internal.forget_dropped();
  select coalesce(array_agg(p.id order by p.id), '{}') into v_ids
  from grace_internal.protected p
  where p.active and (v_only is null or p.id = v_only)
    and exists (select from pg_class c where c.oid = p.target);

  for protected_table, status, warning in
    select p.target,
      case
        when s.state <> 'capturing' then 'capturing again, it was ' || s.state
        when s.drift then 'columns followed'
        when exists (select from grace_internal.unlinked(p.id)) then 'links followed'
        when p.row_wise <> grace_internal.in_inheritance_tree(p.target) then 'inheritance followed'
        else 'up to date'
      end,
      null
    from grace_internal.protected p
    cross join lateral grace._protected_state(p.id) s
    where p.id = any (v_ids)
    order by p.id
  loop
    return next;
  end loop;
  if grace_internal.follow_tables(v_ids, wait) then
    insert into grace_internal.run (kind, target, status, finished_at, role, login)
    values ('sync', target, 'done', clock_timestamp(), grace_internal.caller(), session_user);
  end if;
  foreach v_id in array v_ids loop
    return query select * from grace_internal.cover(v_id);
    while grace_internal.prepare_partitions(v_id) loop
      null; -- one at a time, until none is missing
    end loop;
  end loop;
  if v_only is null then
    perform grace._sync_server();
  end if;
end
$$;
comment on function grace.sync(regclass, interval) is
'Brings one protected table, or all, up to date with what has become of it: capture triggers that are missing or disabled, changed columns, new partitions, tables that have come to lose rows with it, and the buffer''s partitions for the days ahead; without a table also the event triggers and the pg_cron job. What event triggers do at once where a superuser has installed pg_grace. wait: how long to try for the locks. Returns one row per table, and a warning for what could not be protected. Errors: GR001, GR006.';

-- capture/set_retention.sql
create or replace function grace.set_retention(
  target regclass, retention interval, dry_run boolean default false, cascade boolean default false
)
returns bigint
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_root regclass := coalesce(pg_partition_root(target), target); -- the retention is that of the whole tree
  v_span interval;
  v_longer text;
  v_table grace_internal.protected;
  v_expires bigint;
  v_total bigint := 0;
begin
  perform grace_internal.check_retention(retention);
  v_span := make_interval(secs => extract(epoch from retention)::double precision);
  select string_agg(p.target_name, ', ' order by p.target_name) into v_longer
  from grace_internal.protected p
  where p.id <> v_id and p.span > v_span and p.target in (select grace_internal.cascade_tree(v_root, true));
  if v_longer is not null and not cascade then
    raise notice 'these lose rows with it, can''t be restored without them, and keep a longer retention: %', v_longer
      using hint = 'cascade => true (pg_grace retention --cascade) sets it for them as well.';
  end if;

  for v_table in
    select p.*
    from grace_internal.protected p
    where p.id = v_id or (cascade and p.target in (select grace_internal.cascade_tree(v_root, true)))
    order by p.id
    for update
  loop
    perform grace_internal.require_table_right(v_table.target);
    v_expires := grace_internal.logged_rows(
      v_table.id, grace._expired_before(v_table.id) + interval '1 microsecond',
      statement_timestamp() - v_span + interval '1 microsecond'
    );
    v_total := v_total + v_expires;
    if not dry_run then
      update grace_internal.protected p set retention = set_retention.retention where p.id = v_table.id;
      insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
      values (
        'retention', v_table.target, 'done', clock_timestamp(), v_expires,
        jsonb_build_object('before', v_table.retention, 'after', retention), grace_internal.caller(), session_user
      );
    end if;
  end loop;
  return v_total;
end
$$;
comment on function grace.set_retention(regclass, interval, boolean, boolean) is
'Changes how long rows deleted from a protected table can be restored, with cascade also for all protected tables that lose rows with it. Applies at once to what is in the buffer already: a shorter retention expires rows, which the next purge removes, a longer one gives those that are not yet purged more time. Returns how many rows expire by it; with dry_run only that. Errors: GR001, GR005, 42501.';

-- capture/unprotect.sql
create or replace function grace.unprotect(
  target regclass, buffer text default 'keep', wait interval default '60 seconds'
)
returns void
language plpgsql
security definer -- drops triggers, tables and functions that belong to pg_grace
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_root regclass;
  v_parent text;
begin
  if buffer is null or buffer not in ('keep', 'discard') then
    raise exception 'buffer can''t be %', coalesce(quote_literal(buffer), 'null')
      using errcode = 'invalid_parameter_value',
      detail = 'It says what becomes of the rows that can still be restored.',
      hint = 'Give ''keep'' (they stay until they expire) or ''discard'' (they are gone at once).';
  end if;
  if exists (select from pg_class c where c.oid = target and c.relispartition) then
    raise exception '% can''t be unprotected', target
      using errcode = 'GR002',
      detail = format('It is a partition of %s, which is protected as a whole.', pg_partition_root(target)),
      hint = format('Unprotect the whole: select grace.unprotect(%L);', pg_partition_root(target)::text);
  end if;
  perform grace_internal.require_table_right(target);
  select p.target into v_root from grace_internal.protected p where p.id = v_id for update;

  select min(grace_internal.qualified_name(p.target)) into v_parent
  from grace_internal.protected p
  where p.active and v_root in (select grace_internal.inheritors(p.target));
  if v_parent is not null then
    raise exception '% can''t be unprotected', target
      using errcode = 'GR002',
      detail = format('It inherits from %s, which is protected; what is deleted through that would lose its columns.', v_parent),
      hint = format('Unprotect that first: select grace.unprotect(%L);', v_parent);
  end if;

  perform grace_internal.require_no_holds(v_id, target || ' can''t be unprotected');
  perform grace_internal.drop_triggers(v_id, wait);
  perform grace_internal.drop_guard(v_id);
  update grace_internal.protected p set active = false where p.id = v_id;
  perform grace_internal.follow_links(v_id, repair => true);
  perform grace_internal.accept_uncovered(v_root);
  if buffer = 'discard' then
    perform grace_internal.drop_buffer(v_id);
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'unprotect', v_root, 'done', clock_timestamp(), jsonb_build_object('buffer', buffer),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.unprotect(regclass, text, interval) is
'Stops capturing what is deleted from a table. buffer: ''keep'' leaves what was deleted restorable until it expires, ''discard'' removes it at once and for good. wait: how long to try for the lock. Errors: GR001, GR006, GR029 while records of it are held, 22023, 42501.';

create or replace function grace_internal.drop_buffer(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_buffer text;
  v_loids oid [];
  v_files text [];
begin
  select format('grace_buffer.%I', p.buffer) into v_buffer from grace_internal.protected p where p.id = protected_id;
  if to_regclass(v_buffer) is not null then
    perform grace_internal.post_files(protected_id, format('from %s b where true', v_buffer));
  end if;
  perform set_config('grace.following', grace_internal.signature('following'), true);
  execute format('drop table if exists %s', v_buffer);
  if to_regclass(format('grace_internal.%I', 'f' || protected_id)) is not null then
    execute format('select array_agg(distinct f.loid) from grace_internal.%I f where f.unlink', 'f' || protected_id)
    into v_loids;
    execute format('drop table grace_internal.%I', 'f' || protected_id);
    perform grace_internal.unlink_unreferenced(v_loids);
  end if;
  -- Files that the table still refers to are none of the outbox's: once the registry has forgotten the table nobody would look there.
  delete from grace_internal.protected_column c where c.protected_id = drop_buffer.protected_id;
  select array_agg(o.file) into v_files from grace_internal.outbox o where o.protected_id = drop_buffer.protected_id;
  if v_files is not null then
    delete from grace_internal.outbox o
    where o.protected_id = drop_buffer.protected_id and o.file = any (grace_internal.referenced_files(v_files));
  end if;
  perform set_config('grace.following', '', true);
  execute format('drop function if exists grace_internal.%I()', 'capture_' || protected_id);
  perform grace_internal.drop_links(protected_id);
  delete from grace_internal.restored r where r.protected_id = drop_buffer.protected_id;
  delete from grace_internal.capture c where c.protected_id = drop_buffer.protected_id;
  delete from grace_internal.protected p where p.id = drop_buffer.protected_id;
end
$$;

-- capture/table_named.sql
-- The tables that may be meant by a name that no table has: those called so in any schema, however it is written.
create or replace function grace._tables_like(name text)
returns text
language sql stable security definer -- calls an internal helper
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(s.name, ', ' order by s.name)
  from (
    select grace_internal.qualified_name(c.oid) as name
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname not in ('grace', 'grace_internal', 'grace_buffer')
      and lower(c.relname) = lower(reverse(split_part(reverse(replace(_tables_like.name, '"', '')), '.', 1)))
    order by 1
    limit 5
  ) as s
$$;
comment on function grace._tables_like(text) is 'Internal: the tables that may be meant by a name.';

-- Invoker's rights and search_path: the name is meant as the caller would write it in a query.
create or replace function grace.table_named(name text)
returns regclass
language plpgsql stable
as $$
declare
  v_found pg_catalog.regclass := null;
begin
  begin
    v_found := pg_catalog.to_regclass(name);
  exception when syntax_error or invalid_name then
    v_found := null;
  end;
  if v_found is null and pg_catalog.octet_length(name) operator(pg_catalog.<=) 63 then
    v_found := pg_catalog.to_regclass(pg_catalog.quote_ident(name));
  end if;
  if v_found is null then
    raise exception 'table "%" does not exist', name
      using errcode = 'undefined_table',
      detail = pg_catalog.format('The search path is %s.', pg_catalog.current_setting('search_path')),
      hint = coalesce(
        'Did you mean ' operator(pg_catalog.||) grace._tables_like(name) operator(pg_catalog.||) '?',
        'Give it as schema.table; quote capitals: "Schema"."Table".'
      );
  end if;
  return v_found;
end
$$;
comment on function grace.table_named(text) is
'Finds a table by its name as SQL reads it, or, where that finds none, by the name exactly as given (capitals, spaces). Errors: 42P01 with the tables it might have meant.';

-- look/is_running.sql
-- Whether the call that began a run is still going on: the same statement of the same session. Where pg_stat_activity hides
-- that from the owner of pg_grace, the session's process has to do.
create or replace function grace._is_running(server_process integer, since timestamptz)
returns boolean
language sql stable security definer -- other roles' sessions
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_stat_activity a
    where a.pid = server_process
      and a.datname = current_database()
      and coalesce(a.state <> 'idle' and a.query_start <= since, true)
  )
$$;
comment on function grace._is_running(integer, timestamptz) is
'Internal: whether the call that began a run is still going on.';

-- look/protected_state.sql
-- What the log says is left in a buffer: no scan of the buffer itself.
create or replace function grace_internal.buffered_rows(protected_id integer)
returns table (row_count bigint, oldest timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(d.row_count), 0)::bigint, min(d.deleted_at)
  from (
    select c.deleted_at, c.row_count - coalesce(r.row_count, 0) as row_count
    from (
      select k.deletion, min(k.deleted_at) as deleted_at, sum(k.row_count) as row_count
      from grace_internal.capture k
      where k.protected_id = buffered_rows.protected_id
        and k.deleted_at > (select grace._expired_before(buffered_rows.protected_id)) -- asked once, not for every row
      group by k.deletion
    ) as c
    left join (
      select s.deletion, sum(s.row_count) as row_count
      from grace_internal.restored s
      where s.protected_id = buffered_rows.protected_id
      group by s.deletion
    ) as r on r.deletion = c.deletion
  ) as d
  where d.row_count > 0
$$;

create or replace function grace_internal.buffer_size(protected_id integer)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint
  from grace_internal.stems(protected_id) s
  cross join lateral pg_partition_tree(s.parent::regclass) t
$$;

create or replace function grace_internal.trigger_state(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not exists (select from pg_class c where c.oid = p.target) then 'table dropped'
    when not p.active then 'unprotected'
    when bool_and(grace_internal.has_capture_triggers(t.relation, p.id)) then 'capturing'
    when bool_or(exists (
      select from pg_trigger g
      where g.tgrelid = t.relation and g.tgname in ('zz_grace_delete', 'zz_grace_truncate', 'zz_grace_cover') and g.tgenabled <> 'A'
    )) then 'disabled'
    else 'missing'
  end
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = protected_id
  group by p.id
$$;

-- SECURITY DEFINER, for a view's functions run with the rights of whoever reads the view.
create or replace function grace._protected_state(
  protected_id integer,
  out state text, out drift boolean, out buffered_rows bigint, out buffer_bytes bigint, out oldest timestamptz
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select
    grace_internal.trigger_state(p.id),
    p.active and grace_internal.columns_changed(p.id),
    b.row_count,
    grace_internal.buffer_size(p.id),
    b.oldest
  from grace_internal.protected p
  cross join lateral grace_internal.buffered_rows(p.id) b
  where p.id = protected_id
$$;
comment on function grace._protected_state(integer) is 'Internal: the live state behind one row of grace.protected.';

-- look/deletions.sql
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

-- look/protected.sql
create or replace view grace.protected as
select
  p.target,
  to_regclass(format('grace_buffer.%I', p.buffer)) as buffer,
  p.retention,
  s.state,
  s.drift,
  s.buffered_rows,
  s.buffer_bytes,
  s.oldest,
  s.oldest + p.span as next_expiry,
  p.protected_at,
  p.protected_by,
  p.target_name,
  p.capacity,
  p.evicted_to as expired_early_to
from grace_internal.protected p
cross join lateral grace._protected_state(p.id) s;

comment on view grace.protected is 'One row per protected table.';
comment on column grace.protected.state is
'capturing; disabled (a capture trigger does not fire always); missing (a table or partition has no capture trigger); unprotected (what is buffered stays until it expires); table dropped.';
comment on column grace.protected.target is 'The table; null when it was dropped.';
comment on column grace.protected.target_name is 'What it is called, or was when it was dropped.';
comment on column grace.protected.drift is
'The table''s columns have changed since the last capture; the next one follows them.';
comment on column grace.protected.buffered_rows is 'Rows that can be restored now.';
comment on column grace.protected.buffer_bytes is 'Size of the buffer with TOAST, indexes and what is kept of files, expired rows included, in bytes.';
comment on column grace.protected.oldest is 'Time of the oldest deletion that can be restored.';
comment on column grace.protected.next_expiry is 'When that deletion expires; the next purge after it removes it.';
comment on column grace.protected.capacity is 'How big the buffer may become before its oldest days go early, in bytes; null: as big as it gets.';
comment on column grace.protected.expired_early_to is 'What was deleted up to then has expired before its time, because of a capacity.';

-- look/runs.sql
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

-- files/file_outbox.sql
create or replace view grace.file_outbox as
select
  o.id,
  coalesce(t.name, o.target_name) as target,
  o.column_name,
  o.file,
  o.deleted_at,
  o.purged_at,
  o.claimed_until,
  o.attempts,
  o.error
from grace_internal.outbox o
left join lateral (
  select p.target::text as name
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  where p.id = o.protected_id
) as t on true;

comment on view grace.file_outbox is
'Files outside the database whose rows have been purged: they can be deleted now. Work on it with grace.claim_files and grace.file_deleted, or with pg_grace files sweep.';
comment on column grace.file_outbox.target is 'The table that the row was in.';
comment on column grace.file_outbox.column_name is 'The column that referred to the file.';
comment on column grace.file_outbox.file is 'The path or URL, as it stood in the column.';
comment on column grace.file_outbox.claimed_until is 'Somebody is deleting it; from this moment on another one may.';
comment on column grace.file_outbox.attempts is 'How often it has been claimed.';
comment on column grace.file_outbox.error is 'Why it could not be deleted the last time.';

-- Which of these files a row of any protected table still refers to, live, restorable or held.
create or replace function grace_internal.referenced_files(files text [])
returns text []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_source record;
  v_found text [];
  v_result text [] := array[]::text [];
begin
  for v_source in
    select 'only ' || grace_internal.qualified_name(c.oid) as relation, a.attname as column_name, null::timestamptz as since, c.oid,
      null as held
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    join pg_class c on c.oid = t.relation and c.relkind = 'r'
    join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
    where grace_internal.file_kind(a.atttypid) = 'path'
    union all
    select format('grace_buffer.%I', p.buffer), c.buffer_column, grace._expired_before(p.id), null, h.held
    from grace_internal.protected p
    cross join lateral grace_internal.file_columns(p.id, 'path') c
    cross join lateral (select grace_internal.held_in_leaf(p.id, false, 't') as held) as h
  loop
    if v_source.oid is not null then
      perform grace_internal.require_trusted_code(
        v_source.oid, 'Let a superuser own the function; until then no file is handed out.'
      );
    end if;
    execute format(
      'select array_agg(distinct t.%1$I::text) from %2$s t where t.%1$I::text = any ($1)%3$s',
      v_source.column_name, v_source.relation,
      case
        when v_source.since is not null then format(' and (t.grace_deleted_at > $2 or %s)', coalesce(v_source.held, 'false'))
        else ''
      end
    )
    into v_found using files, v_source.since;
    v_result := v_result || coalesce(v_found, '{}');
  end loop;
  return v_result;
end
$$;

create or replace function grace.claim_files(max_files integer default 100, lease interval default '10 minutes')
returns table (id bigint, target text, column_name name, file text)
language plpgsql
security definer -- the outbox is granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_ids bigint [];
  v_files text [];
  v_dropped integer;
begin
  if coalesce(max_files < 1 or lease <= interval '0', true) then
    raise exception 'nothing would be claimed'
      using errcode = 'invalid_parameter_value', detail = format('max_files is %s, lease is %s.', coalesce(max_files::text, 'null'), coalesce(lease::text, 'null')),
      hint = 'Give positive values.';
  end if;
  loop
    with claimed as (
      update grace_internal.outbox o
      set claimed_until = clock_timestamp() + lease, attempts = o.attempts + 1
      where o.id = any (array(
        select c.id from grace_internal.outbox c
        where coalesce(c.claimed_until <= clock_timestamp(), true)
        order by c.attempts, c.id limit max_files for update skip locked
      ))
      returning o.id, o.file
    )
    select array_agg(c.id), array_agg(c.file) into v_ids, v_files from claimed c;
    exit when v_ids is null;
    -- Another row has it, too: it comes here again when that one is purged.
    v_files := grace_internal.referenced_files(v_files);
    delete from grace_internal.outbox o where o.id = any (v_ids) and o.file = any (v_files);
    get diagnostics v_dropped = row_count;
    exit when v_dropped < cardinality(v_ids); -- or the answer would be that there is none
  end loop;
  return query
    select f.id, f.target, f.column_name, f.file
    from grace.file_outbox f
    where f.id = any (v_ids)
    order by f.id;
end
$$;
comment on function grace.claim_files(integer, interval) is
'Takes files out of grace.file_outbox to be deleted by the caller, those that were tried least first; nobody else gets them before the lease is over. A file that a row still refers to, live, restorable or held, is taken off the list instead. Report each with grace.file_deleted. Errors: 22023.';

create or replace function grace.file_deleted(id bigint, error text default null)
returns void
language plpgsql
security definer -- the outbox is granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
begin
  if error is null then
    delete from grace_internal.outbox o where o.id = file_deleted.id;
  else
    update grace_internal.outbox o
    set claimed_until = null, error = file_deleted.error
    where o.id = file_deleted.id;
  end if;
  if not found then
    raise exception 'file % is not in the outbox', id
      using errcode = 'GR020', detail = 'It was deleted already, or never entered.',
      hint = 'Look at what there is: select * from grace.file_outbox;';
  end if;
end
$$;
comment on function grace.file_deleted(bigint, text) is
'Says that a claimed file is deleted (or was not there any more), which takes it off grace.file_outbox; or, with error, why it could not be deleted, which leaves it there for the next attempt. Errors: GR020.';

-- common/predicate.sql
create or replace function grace._not_a_condition(predicate text, problem text)
returns void
language plpgsql
as $$
begin
  raise exception 'not a condition: %', predicate
    using errcode = 'GR022',
    detail = problem,
    hint = 'Give one condition on the columns of the table, as behind WHERE: amount > 100 and company ilike ''%GmbH%''.';
end
$$;
comment on function grace._not_a_condition(text, text) is 'Internal: refuses a text.';

-- One boolean expression over the columns of a FROM item, and nothing else: it has to fit twice where only an expression fits. Run with
-- the caller's rights and search_path. The text never stands beside a condition of ours, for it may hold an OR.
create or replace function grace._check_predicate(source text, predicate text)
returns void
language plpgsql
as $$
declare
  v_cursor pg_catalog.refcursor;
  v_perhaps text;
begin
  open v_cursor no scroll for execute pg_catalog.format(
    e'explain select 1 from %s where (%s\n)', source, predicate
  );
  close v_cursor;
  open v_cursor no scroll for execute pg_catalog.format(
    e'explain select case when (%s\n) then 1 end from %s where false', predicate, source
  );
  close v_cursor;
exception when syntax_error_or_access_rule_violation or invalid_cursor_definition or data_exception or feature_not_supported then
  if sqlstate operator(pg_catalog.=) '42501' then
    raise;
  end if;
  get stacked diagnostics v_perhaps = pg_exception_hint;
  perform grace._not_a_condition(predicate, pg_catalog.concat_ws(
    '. ', sqlerrm, case when v_perhaps operator(pg_catalog.<>) '' then v_perhaps end
  ));
end
$$;
comment on function grace._check_predicate(text, text) is 'Internal: refuses what is not one condition.';

-- restore/buffer_value.sql
-- Can a value of one type be cast to the other at all? By a cast, through text, or element by element.
create or replace function grace_internal.can_cast(source oid, target oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select s.oid = t.oid
    or 'S' in (s.typcategory, t.typcategory)
    or exists (select from pg_cast c where c.castsource = s.oid and c.casttarget = t.oid)
    or (
      s.typcategory = 'A' and t.typcategory = 'A'
      and grace_internal.can_cast(grace_internal.base_type(s.typelem), grace_internal.base_type(t.typelem))
    )
  from pg_type s, pg_type t
  where s.oid = can_cast.source and t.oid = can_cast.target
$$;

-- Where a buffer holds the values of one column of its table: the column of now first, then former ones (whose type was another),
-- newest first. In PL/pgSQL, which keeps its plan: a restore asks for each column many times.
create or replace function grace_internal.value_columns(protected_id integer, attnum smallint)
returns table (buffer_column name, type oid, type_name text, is_cast boolean, castable boolean, place bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select
      c.buffer_column,
      t.type,
      format_type(t.type, -1),
      c.type <> t.type,
      c.type = t.type or grace_internal.can_cast(c.type, t.type),
      row_number() over (order by c.ended_at desc nulls first)
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attnum = value_columns.attnum and not a.attisdropped
    cross join lateral grace_internal.base_type(a.atttypid) as t (type)
    join grace_internal.column_map c on c.protected_id = p.id and c.attnum = a.attnum
    where p.id = value_columns.protected_id;
end
$$;

-- The value of a table's column in a buffered row, as an expression of the column's type (without typmod, without domain); null when
-- it is not captured.
create or replace function grace_internal.buffer_value(protected_id integer, attnum smallint, alias text default 'b')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(*) = 1 then min(v.expression) else format('coalesce(%s)', string_agg(v.expression, ', ' order by v.place)) end
  from (
    select
      format('%s.%I%s', alias, c.buffer_column, case when c.is_cast then '::' || c.type_name else '' end) as expression,
      c.place
    from grace_internal.value_columns(protected_id, attnum) c
    where c.castable
  ) as v
  having count(*) > 0
$$;

-- The values of these columns of a table (or of one of its partitions, whose numbers may differ); null when one of them is not captured.
create or replace function grace_internal.buffer_values(protected_id integer, relation oid, attnums smallint [], alias text)
returns text []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(v.expression) = cardinality(attnums) then array_agg(v.expression order by k.position)
  end
  from unnest(attnums) with ordinality as k (attnum, position)
  join grace_internal.protected p on p.id = buffer_values.protected_id
  join pg_attribute a on a.attrelid = buffer_values.relation and a.attnum = k.attnum
  join pg_attribute r on r.attrelid = p.target and r.attname = a.attname
  cross join lateral (select grace_internal.buffer_value(p.id, r.attnum, alias)) as v (expression)
$$;

-- The primary key of a table in a buffered row b, as expressions; null without one.
create or replace function grace_internal.key_values(protected_id integer)
returns text []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.buffer_values(p.id, p.target, i.indkey::smallint [], 'b')
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  where p.id = key_values.protected_id
$$;

-- The primary key of a buffered row b as jsonb; null without one.
create or replace function grace_internal.buffered_key(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(*) > 0 then format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, %s', a.attname, v.expression), ', '))
    else 'null::pg_catalog.jsonb'
  end
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint [], grace_internal.key_values(p.id)) as v (attnum, expression)
  join pg_attribute a on a.attrelid = p.target and a.attnum = v.attnum
  where p.id = buffered_key.protected_id
$$;

-- restore/keys.sql
-- Primary keys given as jsonb ({"id": 7}, 7, or an array of either) as an array of objects. Errors: GR008 for what is
-- no key of this table, GR009 for a table without a primary key.
create or replace function grace_internal.keys_of(target regclass, keys jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_names name [];
  v_key jsonb;
  v_result jsonb := jsonb_build_array();
begin
  select grace_internal.column_names(i.indrelid, i.indkey::smallint []) into v_names
  from pg_index i
  where i.indrelid = target and i.indisprimary;
  if not found then
    raise exception 'table % has no primary key', target
      using errcode = 'GR009',
      detail = 'Its rows can''t be told apart by a key.',
      hint = 'Select them by deletion, time or role instead.';
  end if;

  for v_key in
    select k from jsonb_array_elements(case jsonb_typeof(keys) when 'array' then keys else jsonb_build_array(keys) end) k
  loop
    if jsonb_typeof(v_key) in ('number', 'string', 'boolean') and cardinality(v_names) = 1 then
      v_key := jsonb_build_object(v_names[1], v_key);
    end if;
    if jsonb_typeof(v_key) <> 'object'
      or (select array_agg(k order by k) from jsonb_object_keys(v_key) k)
        is distinct from (select array_agg(n::text order by n::text) from unnest(v_names) n)
    then
      raise exception '% is not a key of %', v_key, target
        using errcode = 'GR008',
        detail = format('The primary key is (%s).', (select string_agg(quote_ident(n), ', ') from unnest(v_names) n)),
        hint = format('Give it as %s.', (
          select '{' || string_agg(format('"%s": …', n), ', ') || '}' from unnest(v_names) n
        ));
    end if;
    v_result := v_result || v_key;
  end loop;
  if v_result = '[]' then
    raise exception 'no key given'
      using errcode = 'GR008', detail = 'keys is an empty array.', hint = 'Give at least one key, or leave keys out.';
  end if;
  return v_result;
end
$$;

create or replace function grace_internal.normal_keys(protected_id integer, keys jsonb)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.keys_of((select p.target from grace_internal.protected p where p.id = protected_id), keys)
$$;

-- FROM item "k" with the keys as typed columns. It is text, to be run with the caller's rights: reading a value can run code
-- of the application's, a domain's check for example.
create or replace function grace_internal.keys_source(protected_id integer, keys jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'pg_catalog.jsonb_to_recordset(%L) as k (%s)',
    grace_internal.normal_keys(p.id, keys),
    string_agg(format('%I %s', l.attname, l.type_name), ', ')
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral grace_internal.live_columns(p.target) l
  where p.id = protected_id and l.attnum = any (i.indkey)
  group by p.id
$$;

-- b (a buffered row) has the key k.
create or replace function grace_internal.keys_condition(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      '%s %s k.%I',
      (grace_internal.key_values(p.id))[u.position], grace_internal.equality(i.indexrelid, u.position::integer), a.attname
    ),
    ' and '
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
  join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
  where p.id = keys_condition.protected_id
$$;

-- A live row (one alias) has the primary key of a selected one (the other, columns "grace 1", "grace 2", …).
create or replace function grace_internal.key_match(protected_id integer, live text, selected text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format('%s.%I %s %s."grace %s"', live, a.attname, grace_internal.equality(i.indexrelid, u.position::integer), selected, u.position),
    ' and '
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
  join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
  where p.id = key_match.protected_id
$$;

-- restore/restore_source.sql
-- FROM and WHERE of the buffered rows (alias b) of one table that a restore is about: all that is left of the deletions, or, when only
-- some rows are picked, those in $1; without those in $2, which are left out. Part: all; inserted (without those in $3); replaced (those
-- in $3, which overwrite a row that is there). A DELETE takes the buffer itself.
-- It is written so that PostgreSQL expects many rows: a leaf that was written just now has no statistics yet, and for equalities or a
-- range without any it expects hardly a row, and joins what comes of it in nested loops. A picked row is read where it stands, in a
-- subquery of its own, of which at least one row is expected; <= any (array[…]) is no range to the planner, but prunes as well.
create or replace function grace_internal.restore_source(
  protected_id integer, plan grace._restore_plan, part text default 'all', is_delete boolean default false
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_buffer text := (
    select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = protected_id
  );
  v_source text;
  v_first timestamptz;
  v_last timestamptz;
begin
  select min(c.deleted_at), max(c.deleted_at) into v_first, v_last
  from grace_internal.capture c
  where c.deletion = any (plan.deletions) and c.protected_id = restore_source.protected_id;
  if plan.picks is not null or part = 'replaced' then
    v_source := case
      when is_delete then
        'from %1$s b using pg_catalog.unnest(%2$s) n where b.tableoid operator(pg_catalog.=) n.leaf '
        'and b.ctid operator(pg_catalog.=) n.tid and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at '
        'and coalesce(n.protected_id operator(pg_catalog.=) %3$s, false) '
        'and b.grace_deleted_at operator(pg_catalog.>=) %4$L '
        'and b.grace_deleted_at operator(pg_catalog.<=) any (array[%5$L::pg_catalog.timestamptz])'
      else
        'from pg_catalog.unnest(%2$s) n cross join lateral (select b.*, b.tableoid, b.ctid, b.cmin, b.xmax from %1$s b '
        'where b.tableoid operator(pg_catalog.=) n.leaf and b.ctid operator(pg_catalog.=) n.tid '
        'and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at '
        'and b.grace_deleted_at operator(pg_catalog.>=) %4$L and b.grace_deleted_at operator(pg_catalog.<=) %5$L offset 0) b '
        'where coalesce(n.protected_id operator(pg_catalog.=) %3$s, false)'
    end;
    v_source := format(
      v_source, v_buffer, case part when 'replaced' then '$3' else '$1' end, protected_id, v_first, v_last
    );
  else
    v_source := format(
      'from %s b where coalesce(b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[]), false) '
      'and b.grace_deleted_at operator(pg_catalog.>=) %L '
      'and b.grace_deleted_at operator(pg_catalog.<=) any (array[%L::pg_catalog.timestamptz]) '
      'and b.grace_deleted_at operator(pg_catalog.>) %L',
      v_buffer, plan.deletions, v_first, v_last, grace._expired_before(protected_id)
    );
  end if;
  if cardinality(plan.left_out) > 0 and part <> 'replaced' then
    v_source := v_source || grace_internal.not_among('$2');
  end if;
  if cardinality(plan.replaced) > 0 and part = 'inserted' then
    v_source := v_source || grace_internal.not_among('$3');
  end if;
  return v_source;
end
$$;

-- How many rows of one table there are at most in whole deletions, as a LIMIT that cuts nothing: PostgreSQL plans with it.
create or replace function grace_internal.source_limit(protected_id integer, plan grace._restore_plan)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(' limit %s', 2 * sum(c.row_count) + 100)
  from grace_internal.capture c
  where c.deletion = any (plan.deletions) and c.protected_id = source_limit.protected_id and plan.picks is null
  having count(*) > 0
$$;

create or replace function grace_internal.not_among(refs text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    ' and not exists (select from pg_catalog.unnest(%s) x where x.leaf operator(pg_catalog.=) b.tableoid '
    'and x.tid operator(pg_catalog.=) b.ctid and x.deleted_at operator(pg_catalog.=) b.grace_deleted_at)', refs
  )
$$;

-- Where a buffered row b stands.
create or replace function grace_internal.ref_expression(protected_id integer)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('row(%s, b.grace_deleted_at, b.tableoid, b.ctid)::grace._row_ref', protected_id)
$$;

-- restore/named_rows.sql
-- Buffered rows as a FROM item that is called like the table, with the columns of the table as they are called now, former columns, and
-- grace_deletion and grace_deleted_at: what a condition is read on. Of a partition only the rows that belong into it.
create or replace function grace_internal.named_rows(protected_id integer, source text, of_partition regclass default null)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    '(select * from (select %s, b.grace_deletion, b.grace_deleted_at, %s as "grace ref" %s offset 0) r where %s offset 0) as %I',
    (
      select string_agg(format('%s as %I', v.expression, v.name), ', ')
      from (
        select
          coalesce(grace_internal.buffer_value(p.id, a.attnum), format('null::%s', format_type(a.atttypid, a.atttypmod)))
            as expression,
          a.attname as name
        from pg_attribute a
        where a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
        union all
        select format('b.%I', m.buffer_column), m.buffer_column
        from grace_internal.column_map m
        where m.protected_id = p.id and m.ended_at is not null
          and not exists (
            select from pg_attribute a
            where a.attrelid = p.target and a.attname = m.buffer_column and not a.attisdropped
          )
      ) as v
    ),
    grace_internal.ref_expression(p.id), source,
    coalesce(pg_get_partition_constraintdef(nullif(of_partition, p.target)), 'true'), c.relname
  )
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  where p.id = protected_id
$$;

-- look/buffered.sql
-- Where a buffer is and which of its rows are meant; the reading itself is done with the caller's rights.
create or replace function grace._buffer_condition(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name, application text, reason text,
  out source text, out named text, out retention interval
)
language plpgsql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_id integer := grace_internal.protected_id(target);
begin
  select
    format('from grace_buffer.%I b where b.grace_deleted_at operator(pg_catalog.>) %L', p.buffer, grace._expired_before(p.id)),
    p.span
  into source, retention
  from grace_internal.protected p
  where p.id = v_id;
  if deletion is not null then
    source := source || format(' and b.grace_deletion operator(pg_catalog.=) %L::pg_catalog.int8', deletion);
  end if;
  if deleted_from is not null then
    source := source || format(' and b.grace_deleted_at operator(pg_catalog.>=) %L', deleted_from);
  end if;
  if deleted_to is not null then
    source := source || format(' and b.grace_deleted_at operator(pg_catalog.<) %L', deleted_to);
  end if;
  if num_nonnulls(deleted_by, application, reason) > 0 then
    source := source || format(
      ' and b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[])',
      coalesce(
        grace_internal.logged_deletions(v_id, deletion, deleted_from, deleted_to, deleted_by, application, reason), '{}'
      )
    );
  end if;
  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
    source := source || format(
      ' and exists (select from %s where %s)',
      grace_internal.keys_source(v_id, keys), grace_internal.keys_condition(v_id)
    );
  end if;
  named := grace_internal.named_rows(v_id, source, target);
end
$$;
comment on function grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name, text, text) is
'Internal: the buffer of a table and the condition that selects rows in it.';

create or replace function grace.buffered(
  target regclass,
  deletion bigint default null,
  keys jsonb default null,
  deleted_from timestamptz default null,
  deleted_to timestamptz default null,
  deleted_by name default null,
  max_rows bigint default null,
  predicate text default null,
  application text default null,
  reason text default null
)
returns table (deletion_id bigint, deleted_at timestamptz, expires_at timestamptz, record jsonb)
language plpgsql stable
as $$
declare
  v_where record;
begin
  select w.* into v_where
  from grace._buffer_condition(target, deletion, keys, deleted_from, deleted_to, deleted_by, application, reason) w;
  if predicate is not null then
    perform grace._check_predicate(v_where.named, predicate);
  end if;
  begin
    return query execute pg_catalog.format(
      'select b.grace_deletion, b.grace_deleted_at, b.grace_deleted_at operator(pg_catalog.+) %L::pg_catalog.interval, '
      'pg_catalog.to_jsonb(b.*) operator(pg_catalog.-) ''grace_deletion''::pg_catalog.text '
      'operator(pg_catalog.-) ''grace_deleted_at''::pg_catalog.text '
      '%s%s order by b.grace_deleted_at desc, b.grace_deletion desc limit %L::pg_catalog.int8',
      v_where.retention, v_where.source,
      case when predicate is not null or (select c.relispartition from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) target)
        then pg_catalog.format(
          e' and (b.tableoid, b.ctid) in (select ("grace ref").leaf, ("grace ref").tid from %s where (%s\n))',
          v_where.named, coalesce(predicate, 'true')
        )
        else ''
      end,
      max_rows
    );
  exception when data_exception then
    raise exception 'a selected row or key can''t be read'
      using errcode = 'GR008',
      detail = sqlerrm,
      hint = 'Give each key''s value as the column''s type reads it.';
  end;
end
$$;
comment on function grace.buffered(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint, text, text, text
) is
'The rows of a table (or of one partition) that can be restored, newest first, each as one jsonb record. deletion: of this deletion only. keys: a primary key or an array of them, {"id": 7} or, for a one-column key, 7. deleted_from, deleted_to: from the first moment on, before the second. deleted_by: role or login. max_rows: no more than these. predicate: for which this condition on the table''s columns holds. application, reason: contained in what the deletion''s session had set. Errors: GR001, GR008, GR009, GR022, 42501.';

-- restore/buffer_links.sql
-- Foreign keys between protected tables, as join conditions over their buffers: c the referencing row, p the referenced one; live_match
-- finds the row that c refers to in the table itself.
create or replace function grace._buffer_links()
returns table (
  child_id integer, child_buffer name, parent_id integer, parent_buffer name, condition text, live_match text, parent_key text
)
language sql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select
    child.id, child.buffer, parent.id, parent.buffer, j.condition,
    format('%s%s l where %s', case k.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(k.oid), j.live),
    j.parent_key
  from pg_constraint f
  join grace_internal.protected child on child.target = coalesce(pg_partition_root(f.conrelid), f.conrelid::regclass)
  join grace_internal.protected parent on parent.target = coalesce(pg_partition_root(f.confrelid), f.confrelid::regclass)
  join pg_class k on k.oid = f.confrelid
  cross join lateral (
    select
      string_agg(format('%s %s %s', v.parent, o.operator, v.child), ' and ') as condition,
      string_agg(format('l.%I %s %s', v.parent_name, o.operator, v.child), ' and ') as live,
      string_agg(v.parent, ', ') as parent_key
    from unnest(
      grace_internal.buffer_values(parent.id, f.confrelid, f.confkey, 'p'),
      grace_internal.buffer_values(child.id, f.conrelid, f.conkey, 'c'),
      grace_internal.column_names(f.confrelid, f.confkey),
      f.conpfeqop
    ) as v (parent, child, parent_name, operator_oid)
    cross join lateral (select grace_internal.qualified_operator(v.operator_oid)) as o (operator)
  ) as j
  where f.contype = 'f'
    and f.conparentid = 0
    and grace_internal.buffer_values(parent.id, f.confrelid, f.confkey, 'p') is not null
    and grace_internal.buffer_values(child.id, f.conrelid, f.conkey, 'c') is not null
    and not coalesce((to_jsonb(f) ->> 'conperiod')::boolean, false)
$$;
comment on function grace._buffer_links() is 'Internal: foreign keys between protected tables, as join conditions.';

-- restore/add_related.sql
-- Adds to the picked rows what went with them in the same deletion: everything that hangs on them through foreign
-- keys, and then every row that these need above them. The siblings of a picked row are left alone. Runs with the caller's
-- rights, for comparing keys can run casts and operators of the application's.
create or replace function grace._add_related(picks grace._row_ref [])
returns grace._row_ref []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_all grace._row_ref [] := picks;
  v_new grace._row_ref [];
  v_found grace._row_ref [];
  v_links jsonb := (select coalesce(jsonb_agg(to_jsonb(l)), '[]') from grace._buffer_links() l);
  v_link record;
  v_direction text;
  v_first timestamptz;
  v_last timestamptz;
begin
  select min(n.deleted_at), max(n.deleted_at) into v_first, v_last from unnest(picks) n;
  foreach v_direction in array array ['down', 'up'] loop
    v_new := v_all;
    while cardinality(v_new) > 0 loop
      v_found := '{}';
      for v_link in
        select
          l.condition,
          d.known, d.known_id, d.known_buffer,
          d.sought, d.sought_id, d.sought_buffer
        from jsonb_to_recordset(v_links) as l (
          child_id integer, child_buffer name, parent_id integer, parent_buffer name, condition text
        )
        cross join lateral (
          select 'p', l.parent_id, l.parent_buffer, 'c', l.child_id, l.child_buffer where v_direction = 'down'
          union all
          select 'c', l.child_id, l.child_buffer, 'p', l.parent_id, l.parent_buffer where v_direction = 'up'
        ) as d (known, known_id, known_buffer, sought, sought_id, sought_buffer)
        where exists (select from unnest(v_new) n where n.protected_id = d.known_id)
      loop
        execute format(
          $q$
            select $2 || coalesce(array_agg(row(f.*)::grace._row_ref), '{}')
            from (
              select %3$s, %4$s.grace_deleted_at, %4$s.tableoid, %4$s.ctid
              from unnest($1) n
              cross join lateral (
                select k.*
                from grace_buffer.%1$I k
                where k.tableoid = n.leaf and k.ctid = n.tid and k.grace_deleted_at = n.deleted_at
                  and k.grace_deleted_at between $4 and $5
                offset 0 -- one row is expected of each then, and not hardly any of all, and the other buffer is hashed
              ) as %2$s
              join grace_buffer.%5$I %4$s
                on %4$s.grace_deletion = %2$s.grace_deletion and %4$s.grace_deleted_at = %2$s.grace_deleted_at
                and %6$s
              where coalesce(n.protected_id = %7$s, false) and %4$s.grace_deleted_at between $4 and $5
                and %4$s.grace_deleted_at > (select grace._expired_before(%3$s))
              except
              select a.* from unnest($3 || $2) a
            ) as f
          $q$,
          v_link.known_buffer, v_link.known, v_link.sought_id, v_link.sought, v_link.sought_buffer,
          v_link.condition, v_link.known_id
        )
        into v_found using v_new, v_found, v_all, v_first, v_last;
      end loop;
      v_all := v_all || v_found;
      v_new := v_found;
    end loop;
  end loop;
  return v_all;
end
$$;
comment on function grace._add_related(grace._row_ref []) is
'Internal: adds to the picked rows what went with them and hangs on them.';

-- restore/add_parents.sql
-- Adds to what is selected the rows that it needs above it and that went in another deletion, each in its newest version, as far as they
-- are not there now; then those that these need. Runs with the caller's rights, as add_related does.
create or replace function grace._add_parents(plan grace._restore_plan)
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_nestloop = on -- until it ends: it changes meanwhile
as $$
declare
  v_new grace._row_ref [] := plan.picks;
  v_orphans grace._row_ref [];
  v_found grace._row_ref [];
  v_link record;
begin
  while cardinality(v_new) > 0 loop
    v_found := '{}';
    for v_link in
      select l.*
      from grace._buffer_links() l
      where exists (select from unnest(v_new) n where n.protected_id = l.child_id)
    loop
      perform set_config('enable_nestloop', 'on', true);
      execute format(
        $q$
          select array_agg(row(n.*)::grace._row_ref)
          from unnest($1) n
          cross join lateral (
            select k.*
            from grace_buffer.%1$I k
            where k.tableoid = n.leaf and k.ctid = n.tid and k.grace_deleted_at = n.deleted_at
            offset 0
          ) as c
          where coalesce(n.protected_id = %2$s, false) and not exists (select from %3$s)
        $q$,
        v_link.child_buffer, v_link.child_id, v_link.live_match
      )
      into v_orphans using v_new;
      continue when v_orphans is null;

      -- A buffer has no index, so that it is read once at best, and once for each row in a nested loop.
      perform set_config('enable_nestloop', 'off', true);
      execute format(
        $q$
          select $2 || coalesce(array_agg(f.ref), '{}')
          from (
            select distinct on (%1$s) row(%2$s, p.grace_deleted_at, p.tableoid, p.ctid)::grace._row_ref as ref
            from unnest($1) n
            cross join lateral (
              select k.*
              from grace_buffer.%3$I k
              where k.tableoid = n.leaf and k.ctid = n.tid and k.grace_deleted_at = n.deleted_at
              offset 0
            ) as c
            join grace_buffer.%4$I p on %5$s
            where p.grace_deleted_at > (select grace._expired_before(%2$s))
              and not exists (
                select
                from unnest($3 || $2) a
                cross join lateral (
                  select k.*
                  from grace_buffer.%4$I k
                  where k.tableoid = a.leaf and k.ctid = a.tid and k.grace_deleted_at = a.deleted_at
                  offset 0
                ) as p
                where coalesce(a.protected_id = %2$s, false) and %5$s
              )
            order by %1$s, p.grace_deleted_at desc, p.grace_deletion desc, p.ctid desc
          ) f
        $q$,
        v_link.parent_key, v_link.parent_id, v_link.child_buffer, v_link.parent_buffer, v_link.condition
      )
      into v_found using v_orphans, v_found, plan.picks;
    end loop;
    plan.picks := plan.picks || v_found;
    v_new := v_found;
  end loop;
  return plan;
end
$$;
comment on function grace._add_parents(grace._restore_plan) is
'Internal: adds the parents that went in another deletion.';

-- The deletions that picked rows come from, held against other restores. The rows themselves say which deletion they belong to.
create or replace function grace._hold_deletions(plan grace._restore_plan, lock boolean)
returns grace._restore_plan
language plpgsql
security definer -- the log is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_buffer record;
  v_deletions bigint [];
begin
  for v_buffer in
    select p.id, p.buffer
    from grace_internal.protected p
    where exists (select from unnest(plan.picks) n where n.protected_id = p.id)
  loop
    execute format(
      'select array_agg(distinct b.grace_deletion) from unnest($1) n join grace_buffer.%I b '
      'on b.tableoid = n.leaf and b.ctid = n.tid and b.grace_deleted_at = n.deleted_at '
      'where n.protected_id = %s and b.grace_deletion <> all ($2)', v_buffer.buffer, v_buffer.id
    ) into v_deletions using plan.picks, plan.deletions;
    plan.deletions := plan.deletions || coalesce(v_deletions, '{}');
  end loop;
  if lock then
    perform grace_internal.lock_deletions(plan.deletions);
  end if;
  return plan;
end
$$;
comment on function grace._hold_deletions(grace._restore_plan, boolean) is
'Internal: the deletions of picked rows, locked.';

-- restore/versions.sql
-- Rows of a source with their keys ("grace 1", "grace 2", …) and how many newer versions of the same key are among them, plus one.
-- Within one deletion the order is that in which the commands captured them, as long as no restore has touched one of them (its command
-- number would be lost), else that in which they stand.
create or replace function grace_internal.ranked_versions(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select u.*, pg_catalog.row_number() over (partition by %1$s order by u.grace_deleted_at desc, u.grace_deletion desc, '
    'case when u."grace untouched" then u."grace command" end desc, u."grace tid" desc) as "grace version" '
    'from (select t.*, pg_catalog.bool_and(t."grace xmax" operator(pg_catalog.=) ''0'') '
    'over (partition by %1$s, t.grace_deletion) as "grace untouched" '
    'from (select %2$s, %3$s as "grace ref", b.grace_deleted_at, b.grace_deletion, b.ctid as "grace tid", '
    'b.cmin::pg_catalog.text::pg_catalog.int8 as "grace command", b.xmax::pg_catalog.text as "grace xmax" %4$s) t) u',
    string_agg(format('"grace %s"', k.position), ', ' order by k.position),
    string_agg(format('%s as "grace %s"', k.expression, k.position), ', ' order by k.position),
    grace_internal.ref_expression(protected_id),
    source
  )
  from unnest(grace_internal.key_values(protected_id)) with ordinality as k (expression, position)
  having count(*) > 0
$$;

-- For each table of which a restore may select several versions of a key: the query for all but the newest.
create or replace function grace_internal.older_versions(plan grace._restore_plan)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('select v."grace ref" from (%s) v where v."grace version" operator(pg_catalog.>) 1', q.query)
  from unnest(plan.protected_ids) i
  cross join lateral grace_internal.ranked_versions(i, grace_internal.restore_source(i, plan)) as q (query)
  where q.query is not null
    and (
      select count(*) > 1
      from grace_internal.capture c
      where c.deletion = any (plan.deletions) and c.protected_id = i
    )
$$;

-- restore/restore_select.sql
-- Deletions that have something left to restore. Errors: GR007 when there is none.
create or replace function grace_internal.matching_deletions(
  only_id integer, deletion bigint, deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  application text, reason text, wanted text, lock boolean
)
returns bigint []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletions bigint [] := grace_internal.logged_deletions(
    only_id, deletion, deleted_from, deleted_to, deleted_by, application, reason
  );
  v_left bigint [];
  v_is_there boolean;
begin
  if v_deletions is null then
    v_is_there := deletion is not null
      and grace_internal.logged_deletions(only_id, deletion, null, null, null, null, null) is not null;
    raise exception '%', case
        when deletion is null then 'no deletion matches'
        when v_is_there then format('deletion %s does not match', deletion)
        else format('there is no deletion %s', deletion)
      end
      using errcode = 'GR007',
      detail = case
        when v_is_there then 'It is in the log of deletions, but not with all that is asked for.'
        else 'It is not in the log of deletions'
          || case when only_id is not null then ' of this table' else '' end
          || ', or its retention has expired.'
      end,
      hint = 'Look at what there is: select * from grace.deletions order by id desc;';
  end if;
  if lock then
    perform grace_internal.lock_deletions(v_deletions);
  end if;

  select array_agg(d.deletion order by d.deletion) into v_left
  from (
    select c.deletion
    from grace_internal.capture c
    where c.deletion = any (v_deletions) and (only_id is null or c.protected_id = only_id)
    group by c.deletion
    having sum(c.row_count) > coalesce((
      select sum(r.row_count)
      from grace_internal.restored r
      where r.deletion = c.deletion and (only_id is null or r.protected_id = only_id)
    ), 0)
  ) as d;
  if v_left is null then
    raise exception 'nothing is left to restore%',
      coalesce(' of ' || wanted, ' of deletion ' || array_to_string(v_deletions [:20], ', '))
      using errcode = 'GR007',
      detail = (
        select 'Restored ' || string_agg(
          distinct format('by %s at %s', u.role, to_char(u.started_at, 'YYYY-MM-DD HH24:MI:SS TZ')), '; '
        )
        from grace_internal.restored r
        join grace_internal.run u on u.id = r.run_id
        where r.deletion = any (v_deletions [:20])
      ),
      hint = 'Each deleted row can be restored once. Look for the rows in their tables.';
  end if;
  return v_left;
end
$$;

-- The log's deletions, as far as they have not expired. application and reason need only be contained, in any case.
create or replace function grace_internal.logged_deletions(
  only_id integer, deletion bigint, deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  application text, reason text
)
returns bigint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(distinct c.deletion order by c.deletion)
  from grace_internal.capture c
  where (only_id is null or c.protected_id = only_id)
    and (logged_deletions.deletion is null or c.deletion = logged_deletions.deletion)
    and (deleted_from is null or c.deleted_at >= deleted_from)
    and (deleted_to is null or c.deleted_at < deleted_to)
    and (deleted_by is null or deleted_by in (c.role, c.login))
    and (application is null or strpos(lower(c.application_name), lower(application)) > 0)
    and (logged_deletions.reason is null or strpos(lower(c.reason), lower(logged_deletions.reason)) > 0)
    and c.deleted_at > grace._expired_before(c.protected_id)
$$;

-- Holds deletions against every other restore and purge until the transaction ends.
create or replace function grace_internal.lock_deletions(deletions bigint [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from grace_internal.capture c where c.deletion = any (deletions) order by c.deletion, c.ctid for update;
end
$$;

-- Finds what a restore selects; changes nothing. With lock what it found stays as it is until the transaction ends.
-- Where not whole deletions are selected, or with row_by_row, it leaves queries for the rows, to be run with the caller's rights. Errors:
-- GR001, GR007, GR008, GR009, GR016.
create or replace function grace._restore_select(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  application text, reason text, predicate text,
  related boolean, row_by_row boolean, lock boolean
)
returns grace._restore_plan
language plpgsql
security definer -- reads the log and the registry, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan grace._restore_plan;
  v_id integer;
begin
  if num_nonnulls(deletion, keys, deleted_from, deleted_to, deleted_by, application, reason, predicate) = 0 then
    raise exception 'nothing is selected'
      using errcode = 'GR016',
      detail = 'A restore needs a deletion, keys, a time, a role or a condition to go by.',
      hint = 'Look at grace.deletions and give the id: select * from grace.restore(deletion => …);';
  end if;
  if target is null and (keys is not null or predicate is not null) then
    raise exception '% without a table', case when keys is not null then 'keys' else 'a condition' end
      using errcode = 'GR016',
      detail = 'A key or a condition means something only in a table.',
      hint = 'Give the table as target.';
  end if;
  v_plan.locks := lock;
  if target is not null then
    v_id := grace_internal.protected_id(target);
    v_plan.target := coalesce(pg_partition_root(target), target);
  end if;

  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
  end if;
  v_plan.deletions := grace_internal.matching_deletions(
    v_id, deletion, deleted_from, deleted_to, deleted_by, application, reason,
    case when keys is not null then format('%s %s', target, keys) end, lock
  );

  if predicate is not null or target <> v_plan.target then
    v_plan.filter_source := grace_internal.named_rows(v_id, grace_internal.restore_source(v_id, v_plan), target);
    v_plan.predicate := coalesce(predicate, 'true');
    v_plan.picks := '{}';
  end if;
  if keys is not null then
    v_plan.statement := grace_internal.pick_keys(v_id, v_plan, keys);
  elsif v_plan.picks is null then
    select array_agg(c.protected_id order by c.protected_id) into v_plan.protected_ids
    from (
      select distinct c.protected_id
      from grace_internal.capture c
      where c.deletion = any (v_plan.deletions) and (v_id is null or c.protected_id = v_id)
    ) as c;
    if row_by_row or (
      v_id is not null and related and exists (
        select from grace_internal.capture c where c.deletion = any (v_plan.deletions) and c.protected_id <> v_id
      )
    ) then
      select format('select array_agg(x.ref), null::text from (%s) x', string_agg(
        format('select %s as ref %s', grace_internal.ref_expression(i), grace_internal.restore_source(i, v_plan)), ' union all '
      )) into v_plan.statement
      from unnest(v_plan.protected_ids) i;
      v_plan.protected_ids := null;
    end if;
  end if;
  return v_plan;
end
$$;
comment on function grace._restore_select(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, text, text, text, boolean, boolean, boolean
) is
'Internal: which deletions a restore selects, and the queries for the rows.';

-- The query for where the rows of these keys stand: the newest version of each, and the keys of which there is none.
create or replace function grace_internal.pick_keys(protected_id integer, plan grace._restore_plan, keys jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys text := grace_internal.keys_source(protected_id, keys);
  v_versions text := grace_internal.ranked_versions(
    protected_id,
    format(
      '%s and exists (select from %s where %s)',
      grace_internal.restore_source(protected_id, plan), v_keys, grace_internal.keys_condition(protected_id)
    )
  );
begin
  return format(
    'select array_agg(v."grace ref") filter (where v."grace ref" is not null), '
    'string_agg(to_jsonb(k)::text, '', '') filter (where v."grace ref" is null) '
    'from (select distinct k.* from %s) k left join (%s) v on v."grace version" = 1 and %s',
    v_keys, v_versions,
    (
      select string_agg(
        format('v."grace %s" %s k.%I', u.position, grace_internal.equality(i.indexrelid, u.position::integer), a.attname),
        ' and '
      )
      from grace_internal.protected p
      join pg_index i on i.indrelid = p.target and i.indisprimary
      cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
      join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
      where p.id = protected_id
    )
  );
end
$$;

-- restore/pick_rows.sql
-- The rows for which a condition holds, with the caller's rights and search_path.
create or replace function grace._filter_rows(plan grace._restore_plan)
returns grace._row_ref []
language plpgsql
as $$
declare
  v_picks grace._row_ref [];
begin
  perform grace._check_predicate(plan.filter_source, plan.predicate);
  execute pg_catalog.format(
    e'select pg_catalog.array_agg("grace ref") from %s where (%s\n)', plan.filter_source, plan.predicate
  ) into v_picks using plan.picks;
  return coalesce(v_picks, '{}'); -- null would be every row
end
$$;
comment on function grace._filter_rows(grace._restore_plan) is 'Internal: where the rows stand that meet a condition.';

-- Runs the query of a restore for its rows, among those that met a condition, if there was one. Errors: GR007 for keys that are not in
-- the buffer or a condition that no row meets, GR008 for a value of the wrong type.
create or replace function grace._pick_rows(plan grace._restore_plan, related boolean)
returns grace._row_ref []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_picks grace._row_ref [] := plan.picks;
  v_missing text;
begin
  if plan.statement is not null then
    begin
      execute plan.statement into v_picks, v_missing using plan.picks;
    exception when data_exception then
      raise exception 'not a key of %', plan.target
        using errcode = 'GR008',
        detail = format('A value does not fit its column: %s', sqlerrm),
        hint = 'Give each value as the column''s type reads it.';
    end;
  end if;
  if v_missing is not null or coalesce(cardinality(v_picks), 0) = 0 then
    raise exception 'not in the buffer: %', coalesce(v_missing, 'any such row')
      using errcode = 'GR007',
      detail = 'No such row can be restored: it was not deleted, not as selected, is restored already, or has expired.',
      hint = format('Look at what there is: select * from grace.buffered(%L);', plan.target);
  end if;
  if related then
    v_picks := grace._add_related(v_picks);
  end if;
  return v_picks;
end
$$;
comment on function grace._pick_rows(grace._restore_plan, boolean) is
'Internal: where the rows stand that a restore selects.';

-- restore/restore_columns.sql
-- Could a cast to this type cut a value that an assignment refuses? Arrays and domains of types with a length; plain columns of them are
-- looked at by row_checks.
create or replace function grace_internal.cuts_values(type oid, typmod integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when t.typtype = 'd' then t.typtypmod >= 0 or grace_internal.cuts_values(t.typbasetype, -1)
    when t.typcategory = 'A' and t.typelem <> 0 then typmod >= 0 or grace_internal.cuts_values(t.typelem, -1)
    else false
  end
  from pg_type t
  where t.oid = cuts_values.type
$$;

-- The columns of the table that a restore writes to, and what a buffered row b gives each: value (null where it gives nothing), the
-- literal that the caller has given instead included. lost is the condition for a value of a former type that can't be cast at all;
-- error, for columns whose value may fail to be one of their type (a cast, a domain), an expression that says why or is null; cut the same
-- for columns where a cast could cut what INSERT refuses, for values that the cast does change.
create or replace function grace_internal.restore_columns(protected_id integer, plan grace._restore_plan)
returns table (
  attnum smallint, attname name, type_name text, type oid, typmod integer, value text, insertable boolean, not_null boolean,
  default_value text, identity text, lost text, lost_reason text, error text, cut text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod,
    case
      when g.given is not null
        then format('%L::%s', g.given #>> '{}', format_type(a.atttypid, -1))
      when plan.into_table is null or s.attnum is not null then grace_internal.buffer_value(p.id, s.attnum)
      else (
        select format('b.%I', m.buffer_column)
        from grace_internal.column_map m
        where m.protected_id = p.id and m.ended_at is not null and m.buffer_column = a.attname
      )
    end,
    a.attgenerated = '',
    a.attnotnull,
    case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
    a.attidentity::text,
    case when g.given is null then f.lost end,
    f.lost_reason,
    case when g.given is null then f.error end,
    case when g.given is null then f.cut end
  from grace_internal.protected p
  join pg_attribute a
    on a.attrelid = coalesce(plan.into_table, p.target) and a.attnum > 0 and not a.attisdropped
  left join pg_attribute s
    on s.attrelid = p.target and s.attname = a.attname and not s.attisdropped
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (
    select plan.set_values -> p.id::text -> a.attname::text where plan.set_values -> p.id::text ? a.attname::text
  ) as g (given) on true
  left join lateral (
    select
      string_agg(format('b.%I is not null', c.buffer_column), ' or ') filter (where not c.castable) as lost,
      min(format('a value of its former type can''t be cast to %s', c.type_name)) filter (where not c.castable) as lost_reason,
      case when bool_or(c.is_cast) or y.typtype = 'd' or x.cuts then format(
        'case %s%s end',
        string_agg(
          format(
            'when b.%1$I is not null then grace._cast_error(b.%1$I, %2$L, %3$L)',
            c.buffer_column, format_type(a.atttypid, a.atttypmod), x.cuts
          ), ' ' order by c.place
        ) filter (where c.castable),
        case when y.typtype = 'd' then format(' else grace._cast_error(null::text, %L, false)', format_type(a.atttypid, -1)) end
      ) end as error,
      case when x.cuts then format(
        'case %s end',
        string_agg(
          format(
            'when b.%1$I::text operator(pg_catalog.<>) b.%1$I::%2$s::text then grace._cast_error(b.%1$I, %2$L, true)',
            c.buffer_column, format_type(a.atttypid, a.atttypmod)
          ), ' ' order by c.place
        ) filter (where c.castable)
      ) end as cut
    from grace_internal.value_columns(p.id, s.attnum) c
    join pg_type y on y.oid = a.atttypid
    cross join lateral grace_internal.cuts_values(a.atttypid, a.atttypmod) as x (cuts)
    group by y.typtype, x.cuts
  ) as f on true
  where p.id = restore_columns.protected_id
  order by a.attnum
$$;

-- Why a value can't be cast to a type, or assigned to a column of it, or null. With the caller's rights: casts and domains may be the
-- application's.
create or replace function grace._cast_error(value anyelement, type_name text, assigned boolean)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('select $1::%s', type_name) using value;
  if assigned then -- the types' input functions refuse what an explicit cast would cut
    execute format('select x.v from jsonb_to_record(jsonb_build_object(''v'', $1)) as x (v %s)', type_name) using value;
  end if;
  return null;
exception when data_exception or integrity_constraint_violation then
  return sqlerrm;
end
$$;
comment on function grace._cast_error(anyelement, text, boolean) is 'Internal: why a value can''t be cast to a type, or null.';

-- Is a default a plain constant, so that evaluating it changes nothing?
create or replace function grace_internal.is_constant(default_value text)
returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select default_value ~ '^[(]?(-?[0-9.]+|true|false|''([^'']|'''')*'')[)]?(::("[^"]*"|[][a-z0-9_ .(),])+)?$'
$$;

-- The statement that inserts one table's selected rows. A NOT NULL column that was added with a volatile default is null in
-- what was captured before: it takes the default.
create or replace function grace_internal.insert_select(protected_id integer, plan grace._restore_plan, progress text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'insert into %s (%s) overriding system value select %s %s%s',
    grace_internal.qualified_name(coalesce(plan.into_table, p.target)),
    string_agg(format('%I', c.attname), ', ' order by c.attnum),
    string_agg(
      case
        when c.not_null and c.default_value is not null then format('coalesce(%s, (%s)::%s)', c.value, c.default_value, c.type_name)
        else c.value
      end, ', ' order by c.attnum
    ),
    grace_internal.restore_source(p.id, plan, 'inserted'), progress
  )
  from grace_internal.protected p
  cross join lateral grace_internal.restore_columns(p.id, plan) c
  where p.id = insert_select.protected_id and c.insertable and c.value is not null
  group by p.id
$$;

-- The statement that overwrites the live rows that have the primary keys of selected ones and gives one row each; where no column but
-- the key is captured there is nothing to overwrite.
create or replace function grace_internal.update_from(protected_id integer, plan grace._restore_plan, progress text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(max(u.statement), format('select 1 %s', grace_internal.restore_source(protected_id, plan, 'replaced')))
  from (
    select format(
      'update %s%s as t set %s from (select %s, %s %s%s) as b where %s returning 1',
      case k.relkind when 'p' then '' else 'only ' end,
      grace_internal.qualified_name(p.target),
      string_agg(
        case
          when c.not_null then format('%1$I = coalesce(b.%1$I, t.%1$I)', c.attname)
          else format('%1$I = b.%1$I', c.attname)
        end, ', ' order by c.attnum
      ),
      string_agg(format('%s as %I', c.value, c.attname), ', ' order by c.attnum),
      (
        select string_agg(format('%s as "grace %s"', v.expression, v.position), ', ')
        from unnest(grace_internal.key_values(p.id)) with ordinality as v (expression, position)
      ),
      grace_internal.restore_source(p.id, plan, 'replaced'), progress,
      grace_internal.key_match(p.id, 't', 'b')
    )
    from grace_internal.protected p
    join pg_class k on k.oid = p.target
    join pg_index i on i.indrelid = p.target and i.indisprimary
    cross join lateral grace_internal.restore_columns(p.id, plan) c
    where p.id = update_from.protected_id and c.insertable and c.value is not null
      and not c.attnum = any (i.indkey) and c.identity <> 'a'
    group by p.id, k.relkind
  ) as u (statement)
$$;

-- restore/conflict_queries.sql
-- The queries that find why selected rows can't be inserted. Each reads the CTE s_<id> of its table (columns as the table that is written
-- to names them, and "grace ref"), and those of the others for parents that come back in the same restore; each gives the id, the row,
-- its key, the constraint and the reason. They evaluate the application's own expressions, so they are run with the caller's rights.
-- kind: parent, the only ones that can find more when rows are left out, or other.
create or replace function grace_internal.conflict_queries(protected_id integer, plan grace._restore_plan, careful boolean)
returns table (kind text, query text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (
    select coalesce(plan.into_table, p.target) from grace_internal.protected p where p.id = protected_id
  );
  v_head text := format('select %s, s."grace ref", %s, ', protected_id, grace_internal.key_expression(v_target));
  v_checks text;
  v_any_bad text;
  v_skipped text; -- a row has a parent that is left out for a conflict of its own, even if another row has taken its key since
  v_row record;
begin
  kind := 'other';
  select
    string_agg(format('(coalesce(%s, false), %L, %s)', c.bad, c.constraint_name, c.reason), ', '),
    string_agg(format('coalesce(%s, false)', c.bad), ' or ')
  into v_checks, v_any_bad
  from grace_internal.row_checks(protected_id, v_target, plan, careful) c;
  if v_checks is not null then
    query := format(
      '%s v.name, v.reason from (select s.* from s_%s s where %s) s '
      'cross join lateral (values %s) as v (bad, name, reason) where v.bad',
      v_head, protected_id, v_any_bad, v_checks
    );
    return next;
  end if;

  for v_row in
    select u.*, i.indisprimary and i.indrelid = v_target as is_key, a.applies as fits
    from grace_internal.partition_tree(v_target) as t (relation)
    join pg_index i on i.indrelid = t.relation and (i.indisunique or i.indisexclusion) and i.indisvalid
    cross join lateral (
      select case when i.indrelid <> v_target then coalesce(pg_get_partition_constraintdef(i.indrelid), 'true') end
    ) as a (applies)
    cross join lateral grace_internal.unique_rule(i.indexrelid) u
    where (i.indrelid = v_target or not exists (select from pg_inherits h where h.inhrelid = i.indexrelid))
      and not coalesce(concat(i.indexprs, i.indpred) ~ ':varattno 0 ', false)
  loop
    if v_row.is_key and plan.on_conflict = 'replace' then
      return query -- an UPDATE can't write them
        select
          kind,
          format(
            '%s %L, pg_catalog.concat(%L, s.%I) from s_%s s where exists (select from %s and l.%I is distinct from s.%I)',
            v_head, 'identity',
            format('the row that is there now has another value in column %I, GENERATED ALWAYS AS IDENTITY, than ', c.attname),
            c.attname, protected_id, v_row.live_match, c.attname, c.attname
          )
        from grace_internal.restore_columns(protected_id, plan) c
        where c.identity = 'a' and c.value is not null
          and not exists (
            select from pg_index i where i.indrelid = v_target and i.indisprimary and c.attnum = any (i.indkey)
          );
    else
      query := format(
        '%s %L, pg_catalog.concat(%L, %s, %L) from s_%s s where %s%s and exists (select from %s%s)',
        v_head, v_row.name,
        format('key (%s)=(', v_row.column_names), v_row.key_values,
        case when v_row.excludes then ') conflicts with a row that is there now' else ') is taken by a row that is there now' end,
        protected_id, v_row.applies, coalesce(' and (' || v_row.fits || ')', ''), v_row.live_match,
        case when plan.on_conflict = 'replace' then coalesce(
          (
            select format(' and not (%s)', string_agg(format('l.%1$I is not distinct from s.%1$I', k), ' and '))
            from pg_index i
            cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) k
            where i.indrelid = v_target and i.indisprimary
            having count(*) > 0
          ), ''
        ) else '' end
      );
      return next;
    end if;
    if not v_row.excludes then
      query := format(
        '%s %L, pg_catalog.concat(%L, %s, %L) from ('
        'select s.*, pg_catalog.count(*) over (partition by %s) as "grace count" from s_%s s where %s%s'
        ') s where s."grace count" operator(pg_catalog.>) 1',
        v_head, v_row.name,
        format('key (%s)=(', v_row.column_names), v_row.key_values, ') is selected more than once',
        v_row.key_columns, protected_id, v_row.applies, coalesce(' and (' || v_row.fits || ')', '')
      );
      return next;
    elsif 1 < (
      select count(*)
      from grace_internal.capture c
      where c.deletion = any (plan.deletions) and c.protected_id = conflict_queries.protected_id
    ) then
      query := format(
        '%s %L, pg_catalog.concat(%L, %s, %L) from s_%s s where %s%s and exists (select from %s '
        'and l."grace ref" operator(pg_catalog.<>) s."grace ref")',
        v_head, v_row.name,
        format('key (%s)=(', v_row.column_names), v_row.key_values, ') conflicts with another selected row',
        protected_id, v_row.applies, coalesce(' and (' || v_row.fits || ')', ''),
        format(v_row.selected_match, 's_' || protected_id)
      );
      return next;
    end if;
  end loop;

  for v_row in
    select
      f.conname, r.relname,
      format('%s%s', case r.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(f.conrelid)) as child,
      grace_internal.qualified_name(f.conrelid) as child_name,
      format('%s%s', case t.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(v_target)) as live,
      k.*,
      (
        select string_agg(format('l.%1$I %2$s s.%1$I', a.attname, grace_internal.equality(i.indexrelid, u.n::integer)), ' and ')
        from pg_index i
        cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, n)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum
        where i.indrelid = v_target and i.indisprimary
      ) as same_key
    from pg_constraint f
    join pg_class r on r.oid = f.conrelid
    join pg_class t on t.oid = v_target
    cross join lateral (
      select
        string_agg(format('l.%1$I is distinct from s.%1$I', u.parent), ' or ') as changes,
        string_agg(format('l.%I %s c.%I', u.parent, grace_internal.qualified_operator(u.operator_oid), u.child), ' and ') as refers,
        string_agg(quote_ident(u.parent), ', ') as names,
        string_agg(format('l.%I', u.parent), ', ') as values
      from unnest(
        grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey), f.conpfeqop
      ) as u (parent, child, operator_oid)
    ) as k
    where f.confrelid = v_target and f.contype = 'f' and f.conparentid = 0 and f.confupdtype <> 'c'
      and plan.on_conflict = 'replace'
      and not exists (
        select from pg_index i where i.indrelid = v_target and i.indisprimary and f.confkey <@ i.indkey::smallint []
      )
  loop
    query := format(
      '%s %L, pg_catalog.concat(%L, l.keys, %L) from s_%s s cross join lateral (select pg_catalog.concat_ws('', '', %s) as keys '
      'from %s l where %s and (%s) and exists (select from %s c where %s)) l',
      v_head, v_row.conname, format('%s refers to (%s)=(', v_row.child_name, v_row.names), '), which would change',
      protected_id, v_row.values, v_row.live, v_row.same_key, v_row.changes, v_row.child, v_row.refers
    );
    return next;
  end loop;

  kind := 'parent';
  for v_row in
    select
      f.conname, f.confrelid, case k.relkind when 'p' then '' else 'only ' end as only_text,
      parent.id as parent_id, parent.id = any (plan.protected_ids) and plan.into_table is null as is_selected,
      case when f.conrelid <> v_target then pg_get_partition_constraintdef(f.conrelid) end as fits,
      j.*,
      grace_internal.buffer_values(parent.id, f.confrelid, f.confkey, 'b') as buffered
    from grace_internal.partition_tree(v_target) as t (relation)
    join pg_constraint f on f.conrelid = t.relation and f.contype = 'f'
    join pg_class k on k.oid = f.confrelid
    left join grace_internal.protected parent
      on parent.target = coalesce(pg_partition_root(f.confrelid), f.confrelid::regclass)
    cross join lateral (
      select
        string_agg(format('s.%I is not null', k.child), ' and ') as complete,
        string_agg(format('p.%I %s s.%I', k.parent, grace_internal.qualified_operator(k.operator_oid), k.child), ' and ')
          as matches,
        string_agg(format('p."grace %s" %s s.%I', k.n, grace_internal.qualified_operator(k.operator_oid), k.child), ' and ')
          as buffer_matches,
        string_agg(quote_ident(k.child), ', ') as names,
        string_agg(format('s.%I', k.child), ', ') as values
      from unnest(
        grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey),
        f.conpfeqop
      ) with ordinality as k (parent, child, operator_oid, n)
    ) as j
    where coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
      and not coalesce((to_jsonb(f) ->> 'conperiod')::boolean, false)
      and case
        when f.conrelid = v_target then not exists (
          select from pg_constraint up where up.oid = f.conparentid and up.conrelid = f.conrelid
        )
        else f.conparentid = 0
      end
  loop
    query := format(
      '%s %L, pg_catalog.concat(%L, pg_catalog.concat_ws('', '', %s), %L%s) from (select s.* from s_%s s where %s%s%s offset 0) s%s '
      'where not exists (select from %s%s p where %s)',
      v_head, v_row.conname,
      format('parent (%s)=(', v_row.names), v_row.values,
      format(') is missing in %s', grace_internal.qualified_name(v_row.confrelid)),
      case when v_row.buffered is not null then
        format(
          ', case when p."grace deletion" is not null then pg_catalog.concat(%L, p."grace deletion", %L) end',
          '; it went in deletion ', ' and can be brought along'
        )
      else '' end,
      protected_id, v_row.complete, coalesce(' and (' || v_row.fits || ')', ''),
      -- First and by itself: how many parents the table itself is believed to have must not decide how this is looked for.
      case when v_row.is_selected then
        format(' and not exists (select from s_%s p where %s)', v_row.parent_id, v_row.matches)
      else '' end,
      case when v_row.buffered is not null then format(
        ' left join (select %s, pg_catalog.max(b.grace_deletion) as "grace deletion" from grace_buffer.%I b '
        'where b.grace_deleted_at operator(pg_catalog.>) grace._expired_before(%s) group by %s) p on %s',
        (select string_agg(format('%s as "grace %s"', v, n), ', ') from unnest(v_row.buffered) with ordinality as u (v, n)),
        (select p.buffer from grace_internal.protected p where p.id = v_row.parent_id), v_row.parent_id,
        array_to_string(v_row.buffered, ', '), v_row.buffer_matches
      ) else '' end,
      v_row.only_text, grace_internal.qualified_name(v_row.confrelid), v_row.matches
    );
    if plan.on_conflict = 'skip' and v_row.is_selected and v_row.buffered is not null then
      v_skipped := format(
        'exists (select from (select %s from pg_catalog.unnest($4) n cross join lateral (select b.* from grace_buffer.%I b '
        'where b.tableoid operator(pg_catalog.=) n.leaf and b.ctid operator(pg_catalog.=) n.tid '
        'and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at offset 0) b '
        'where coalesce(n.protected_id operator(pg_catalog.=) %s, false)) p where %s)',
        (select string_agg(format('%s as "grace %s"', v, n), ', ') from unnest(v_row.buffered) with ordinality as u (v, n)),
        (select p.buffer from grace_internal.protected p where p.id = v_row.parent_id), v_row.parent_id, v_row.buffer_matches
      );
      query := format('%s and not %s', query, v_skipped);
      return next;
      query := format(
        '%s %L, pg_catalog.concat(%L, pg_catalog.concat_ws('', '', %s), '') is skipped'') from s_%s s where %s%s and %s',
        v_head, v_row.conname, format('parent (%s)=(', v_row.names), v_row.values, protected_id, v_row.complete,
        coalesce(' and (' || v_row.fits || ')', ''), v_skipped
      );
    end if;
    return next;
  end loop;
end
$$;

-- What row-level security demands of rows s that the caller inserts, as a condition; null where it demands nothing.
create or replace function grace_internal.insert_policies(target regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'coalesce(%s, false)%s',
    coalesce(string_agg(x.condition, ' or ') filter (where x.polpermissive), 'false'),
    string_agg(format(' and coalesce(%s, false)', x.condition), '') filter (where not x.polpermissive)
  )
  from pg_class c
  join pg_roles r on r.rolname = grace_internal.caller()
  left join lateral (
    select
      p.polpermissive,
      format('(select (%s) from (select s.*) as %I)', pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid), c.relname)
        as condition
    from pg_policy p
    where p.polrelid = c.oid and p.polcmd in ('*', 'a')
      and exists (select from unnest(p.polroles) m where m = 0 or pg_has_role(r.oid, m, 'usage'))
  ) as x on true
  where c.oid = target and c.relrowsecurity
    and not r.rolsuper and not r.rolbypassrls
    and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'usage'))
  group by c.oid
$$;

-- What can be said of a selected row s by itself: which condition would stop it, and why.
create or replace function grace_internal.row_checks(
  protected_id integer, target regclass, plan grace._restore_plan, careful boolean
)
returns table (bad text, constraint_name text, reason text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with relations as (
    select
      t.relation, r.relkind,
      case when t.relation <> target then coalesce(pg_get_partition_constraintdef(t.relation), 'true') end as fits
    from grace_internal.partition_tree(target) as t (relation)
    join pg_class r on r.oid = t.relation
  ),
  columns as (
    select * from grace_internal.restore_columns(protected_id, plan)
  )
  -- A column that gets no value, or null.
  select
    concat('(' || r.fits || ') and ', format('s.%I is null', a.attname)),
    'not null',
    quote_literal(format('column %s is NOT NULL and there is no value for it', quote_ident(a.attname)))
  from relations r
  join pg_attribute a on a.attrelid = r.relation and a.attnum > 0 and a.attnotnull and not a.attisdropped
  join columns c on c.attname = a.attname and c.insertable and c.default_value is null and c.identity = ''
  where r.relation = target or not c.not_null
  union all
  select
    concat('(' || r.fits || ') and ', format('not (%s)', pg_get_expr(c.conbin, c.conrelid))),
    c.conname,
    quote_literal('violates check ' || pg_get_expr(c.conbin, c.conrelid))
  from relations r
  join pg_constraint c on c.conrelid = r.relation and c.contype = 'c'
  where coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and (r.relation = target or c.coninhcount = 0)
    and c.conbin::text !~ ':varattno 0 '
  union all
  -- Where INSERT refuses a value that an explicit cast would cut.
  select
    case
      when t.typname in ('varchar', 'bpchar') then format(
        'pg_catalog.char_length(pg_catalog.rtrim(s.%I::pg_catalog.text, '' '')) operator(pg_catalog.>) %s', c.attname, c.typmod - 4
      )
      when t.typname = 'bit' then format('pg_catalog.length(s.%I) operator(pg_catalog.<>) %s', c.attname, c.typmod)
      when t.typname = 'varbit' then format('pg_catalog.length(s.%I) operator(pg_catalog.>) %s', c.attname, c.typmod)
      else format(
        's.%1$I operator(pg_catalog.<>) ''NaN'' and pg_catalog.abs(pg_catalog.round(s.%1$I, %2$s)) operator(pg_catalog.>=) '
        '(10::pg_catalog.numeric operator(pg_catalog.^) %3$s)',
        c.attname, ((c.typmod - 4) & 2047 # 1024) - 1024, ((c.typmod - 4) >> 16) - (((c.typmod - 4) & 2047 # 1024) - 1024)
      )
    end,
    'type',
    format('pg_catalog.concat(%L, s.%I)', format('does not fit column %s %s: ', quote_ident(c.attname), c.type_name), c.attname)
  from columns c
  join pg_type t on t.oid = c.type and t.typnamespace = 'pg_catalog'::regnamespace
  where c.typmod >= 0 and c.insertable and t.typname in ('varchar', 'bpchar', 'bit', 'varbit', 'numeric')
  union all
  select format('s."grace lost %s"', c.attnum), 'type', quote_literal(format('column %s: %s', quote_ident(c.attname), c.lost_reason))
  from columns c
  where c.lost is not null and c.value is distinct from 'null'
  union all
  select
    format('s."grace error %s" is not null', c.attnum), 'type',
    format('pg_catalog.concat(%L, s."grace error %s")', format('column %s: ', quote_ident(c.attname)), c.attnum)
  from columns c
  where careful and c.error is not null or c.cut is not null
  union all
  select
    format(
      'pg_catalog.num_nulls(%1$s) operator(pg_catalog.>) 0 and pg_catalog.num_nulls(%1$s) operator(pg_catalog.<) %2$s',
      string_agg(format('s.%I', k), ', '), cardinality(f.conkey)
    ),
    f.conname,
    quote_literal('the foreign key is MATCH FULL, and only some of its columns are null')
  from pg_constraint f
  cross join lateral unnest(grace_internal.column_names(f.conrelid, f.conkey)) k
  where f.conrelid = target and f.contype = 'f' and f.confmatchtype = 'f' and cardinality(f.conkey) > 1
  group by f.conname, f.conkey
  union all
  select
    format('not (%s)', string_agg(format('(%s)', r.fits), ' or ')),
    'partition',
    quote_literal(format('%s has no partition for the row', grace_internal.qualified_name(target)))
  from relations r
  where r.relkind <> 'p'
  having count(*) filter (where r.relation <> target) > 0
  union all
  select
    format('not (%s)', pg_get_partition_constraintdef(target)),
    'partition',
    quote_literal(format('the row does not belong into partition %s', grace_internal.qualified_name(target)))
  where pg_get_partition_constraintdef(target) is not null
  union all
  select format('not (%s)', p.allowed), 'row security', quote_literal(format('a policy does not let %I insert it', grace_internal.caller()))
  from grace_internal.insert_policies(target) as p (allowed)
  where p.allowed is not null
  union all
  select 'true', 'partition', quote_literal(format('%s has no partitions', grace_internal.qualified_name(target)))
  from pg_class r
  where r.oid = target and r.relkind = 'p' and not exists (select from pg_inherits i where i.inhparent = target)
$$;

-- A row's primary key as jsonb, or the whole row where there is none.
create or replace function grace_internal.key_expression(target regclass, alias text default 's')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, %s.%I', k, alias, k), ', '))
      from pg_index i
      cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) k
      where i.indrelid = target and i.indisprimary
      having count(*) > 0
    ),
    format(
      'pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(%s))',
      (
        select string_agg(format('%L, %s.%I', a.attname, alias, a.attname), ', ' order by a.attnum)
        from pg_attribute a
        where a.attrelid = target and a.attnum between 1 and 50 and not a.attisdropped
      )
    )
  )
$$;

-- What one unique index or exclusion constraint demands of rows s: which rows it applies to, and how a live row, or another selected
-- one (from %s, to be filled in), in conflict with it is found. An index may be partial or on expressions; those are evaluated over one
-- row source at a time, so that the column names in them can mean nothing else.
create or replace function grace_internal.unique_rule(
  index_relation oid,
  out name text, out excludes boolean, out column_names text, out key_columns text, out key_values text, out applies text,
  out live_match text, out selected_match text
)
returns setof record
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.relname,
    i.operators is not null,
    string_agg(k.definition, ', ' order by k.n),
    string_agg(k.value, ', ' order by k.n),
    format('pg_catalog.concat_ws('', '', %s)', string_agg(
      format('case when pg_catalog.num_nulls(%1$s) operator(pg_catalog.>) 0 then ''null'' else pg_catalog.concat(%1$s) end', k.value),
      ', ' order by k.n
    )),
    concat(
      case n.nulls
        when 'none' then string_agg(k.value || ' is not null', ' and ' order by k.n)
        when 'some' then format('(%s)', string_agg(k.value || ' is null', ' or ' order by k.n))
      end,
      ' and (select ' || i.predicate || ' from (select s.*) as "grace row")'
    ),
    format(
      '(select %s, r.* from %s%s r where %s) l where %s',
      string_agg(format('%s as "grace %s"', k.definition, k.n), ', ' order by k.n),
      case t.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(i.indrelid),
      coalesce(i.predicate, 'true'), string_agg(e.equal, ' and ' order by k.n)
    ),
    format(
      '(select %s, r.* from %%s r where %s) l where %s',
      replace(string_agg(format('%s as "grace %s"', k.definition, k.n), ', ' order by k.n), '%', '%%'),
      replace(coalesce(i.predicate, 'true'), '%', '%%'),
      replace(string_agg(e.equal, ' and ' order by k.n), '%', '%%')
    )
  from (
    select
      x.indexrelid, x.indrelid, x.indnkeyatts, x.indkey, pg_get_expr(x.indpred, x.indrelid) as predicate,
      x.indnullsnotdistinct,
      (select o.conexclop from pg_constraint o where o.conindid = x.indexrelid and o.conexclop is not null limit 1) as operators
    from pg_index x
    where x.indexrelid = index_relation
  ) as i
  join pg_class c on c.oid = i.indexrelid
  join pg_class t on t.oid = i.indrelid
  cross join lateral (values ('none'), ('some')) as n (nulls)
  cross join lateral (
    select
      n,
      coalesce(quote_ident(a.attname), d.expression) as definition,
      case
        when a.attname is not null then format('s.%I', a.attname)
        else format('(select %s from (select s.*) as "grace row")', d.expression)
      end as value,
      coalesce(grace_internal.qualified_operator(i.operators[n]), grace_internal.equality(i.indexrelid, n)) as equals
    from generate_series(1, i.indnkeyatts) n
    cross join lateral (select pg_get_indexdef(i.indexrelid, n, false)) as d (expression)
    left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[n - 1] and a.attnum > 0
  ) as k
  cross join lateral (
    select case n.nulls
      when 'none' then format('l."grace %s" %s %s', k.n, k.equals, k.value)
      else format('(l."grace %1$s" %2$s %3$s or pg_catalog.num_nulls(l."grace %1$s", %3$s) operator(pg_catalog.=) 2)', k.n, k.equals, k.value)
    end
  ) as e (equal)
  where n.nulls = 'none' or i.indnullsnotdistinct
  group by c.relname, i.operators, i.indrelid, i.predicate, n.nulls, t.relkind
$$;

-- restore/overwrite.sql
-- The query for the live rows that have the primary keys of selected ones: which selected ones, and where the live ones stand. They are
-- locked when the restore is meant.
create or replace function grace_internal.overwritten_rows(protected_id integer, plan grace._restore_plan)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select pg_catalog.array_agg(x.ref), pg_catalog.array_agg(x.leaf), pg_catalog.array_agg(x.tid) from ('
    'select s.ref, t.tableoid as leaf, t.ctid as tid from %s%s t join (select %s as ref, %s %s) s on %s%s) x',
    case c.relkind when 'p' then '' else 'only ' end,
    grace_internal.qualified_name(p.target),
    grace_internal.ref_expression(p.id),
    string_agg(format('%s as "grace %s"', k.expression, k.position), ', '),
    grace_internal.restore_source(p.id, plan),
    grace_internal.key_match(p.id, 't', 's'),
    case when plan.locks then ' for update of t' else '' end
  )
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  cross join lateral unnest(grace_internal.key_values(p.id)) with ordinality as k (expression, position)
  where p.id = overwritten_rows.protected_id
  group by p.id, c.relkind
$$;

-- May the caller have these rows overwritten? Capturing them reads the table as the owner of pg_grace, so it demands what reading and
-- overwriting by hand would; what is held nobody may. Errors: GR010, GR029, 42501.
create or replace function grace._check_overwriting(plan grace._restore_plan)
returns void
language plpgsql stable
security definer -- asks what the owner of pg_grace may do, too
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller name := grace_internal.caller();
  v_live record;
begin
  for v_live in
    select distinct
      l.leaf, l.leaf::regclass as relation, t.root,
      c.relrowsecurity and not r.rolsuper and not r.rolbypassrls as is_filtered
    from unnest(plan.live_leaves) as l (leaf)
    cross join lateral (select coalesce(pg_partition_root(l.leaf), l.leaf::regclass)) as t (root)
    join pg_class c on c.oid = t.root
    join pg_roles r on r.rolname = v_caller
  loop
    if not has_table_privilege(v_caller, v_live.root, 'SELECT')
      or not has_table_privilege(v_caller, v_live.root, 'UPDATE')
    then
      raise exception 'permission denied for table %', v_live.relation
        using errcode = 'insufficient_privilege',
        detail = 'Overwriting rows takes SELECT and UPDATE on the whole table.',
        hint = format('grant select, update on %s to %I;', grace_internal.qualified_name(v_live.leaf), v_caller);
    end if;
    if v_live.is_filtered or row_security_active(v_live.leaf) then
      raise exception 'rows of % can''t be overwritten', v_live.relation
        using errcode = 'GR010',
        detail = 'It has row-level security, which hides rows from the role that restores or from the owner of pg_grace.',
        hint = 'Let a role with BYPASSRLS restore, or delete the rows that stand in the way first.';
    end if;
    perform grace_internal.require_trusted_code(
      v_live.leaf, 'Delete the rows that stand in the way first; that is captured as any delete.'
    );
    perform grace_internal.require_unheld_rows(grace_internal.protected_id(v_live.root), v_live.leaf, array(
      select l.tid from unnest(plan.live_leaves, plan.live_tids) as l (leaf, tid) where l.leaf = v_live.leaf
    ));
  end loop;
end
$$;
comment on function grace._check_overwriting(grace._restore_plan) is
'Internal: refuses what the caller may not overwrite.';

-- Finds the rows that a restore would overwrite.
create or replace function grace._find_overwritten(plan grace._restore_plan)
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query text;
  v_refs grace._row_ref [];
  v_leaves oid [];
  v_tids tid [];
begin
  plan.replaced := '{}';
  plan.live_leaves := '{}';
  plan.live_tids := '{}';
  foreach v_query in array plan.overwrites loop
    continue when v_query is null;
    execute v_query into v_refs, v_leaves, v_tids using plan.picks, plan.left_out;
    continue when v_refs is null;
    plan.replaced := plan.replaced || v_refs;
    plan.live_leaves := plan.live_leaves || v_leaves;
    plan.live_tids := plan.live_tids || v_tids;
  end loop;
  perform grace._check_overwriting(plan);
  return plan;
end
$$;
comment on function grace._find_overwritten(grace._restore_plan) is 'Internal: the live rows that a restore would overwrite.';

-- Captures the live rows that a restore is about to overwrite, as if they were deleted, so that this can be undone, too.
-- Errors: GR010, GR029, 42501.
create or replace function grace._keep_overwritten(plan grace._restore_plan)
returns bigint
language plpgsql
security definer -- writes to buffers, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller name := grace_internal.caller();
  v_deletion grace_internal.deletion_ref;
  v_live record;
  v_rows bigint;
begin
  perform grace._check_overwriting(plan);
  for v_live in
    select
      grace_internal.protected_id(l.leaf::regclass) as id, l.leaf, l.leaf::regclass as relation, array_agg(l.tid) as tids
    from unnest(plan.live_leaves, plan.live_tids) as l (leaf, tid)
    group by l.leaf
  loop
    if grace_internal.columns_differ(v_live.id) then
      perform grace_internal.sync_columns(v_live.id);
      perform grace_internal.generate_capture(v_live.id);
    end if;
    v_deletion := grace_internal.current_deletion();
    execute grace_internal.insert_statement(
      v_live.id, 'g', format('only %s as g where g.ctid = any ($3)', grace_internal.qualified_name(v_live.leaf)), '$1', '$2'
    ) using v_deletion.deletion, v_deletion.deleted_at, v_live.tids;
    get diagnostics v_rows = row_count;
    if v_rows <> cardinality(v_live.tids) then
      raise exception 'rows of % have changed meanwhile', v_live.relation
        using errcode = 'serialization_failure',
        detail = 'They are no longer where they were when they were locked.',
        hint = 'Run the restore again.';
    end if;
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation, role, login, application_name, client_addr, reason
    )
    values (
      v_deletion.deletion, v_deletion.deleted_at, v_live.id, v_rows, 'REPLACE', v_caller, session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end loop;
  return v_deletion.deletion;
end
$$;
comment on function grace._keep_overwritten(grace._restore_plan) is
'Internal: captures the rows that a restore overwrites; returns the deletion they are in.';

-- restore/relink.sql
-- Links that the deletions had cut (ON DELETE SET NULL or SET DEFAULT) and that lead to rows that are selected, from rows that still have
-- what they were set to: for each foreign key the query that counts them, and the statement that ties them again and counts those that
-- do not come back themselves. Of several cuts of one row the last one counts. A foreign key that is gone has none. A row that was
-- cut and then deleted, too, and comes back without what it referred to is tied to that if it is there again.
create or replace function grace_internal.relink_statements(plan grace._restore_plan)
returns table (protected_id integer, child regclass, counting text, tying text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_link record;
  v_key record;
  v_columns record;
  v_relation text;
  v_cuts text;
  v_matches text;
  v_own text; -- the rows of the referencing table that come back themselves
begin
  for v_link in
    select l.*, c.relkind, i.indexrelid, f.conpfeqop, own.id as own, w.by_child, p.target as parent, t.relkind as parent_kind
    from grace_internal.link_map l
    join pg_class c on c.oid = l.child
    join pg_index i
      on i.indrelid = l.child and i.indisprimary
      and grace_internal.column_names(i.indrelid, i.indkey::smallint []) = l.key_names
    join lateral (
      select f.conpfeqop
      from pg_constraint f
      where f.contype = 'f' and f.conrelid = l.child
        and grace_internal.column_names(f.conrelid, f.conkey) = l.column_names
        and grace_internal.column_names(f.confrelid, f.confkey) = l.parent_names
      limit 1
    ) as f on true
    join grace_internal.protected p on p.id = l.protected_id
    join pg_class t on t.oid = p.target
    left join grace_internal.protected own on own.target = l.child and own.id = any (plan.protected_ids)
    cross join (values (false), (true)) as w (by_child)
    where case when w.by_child then own.id is not null else l.protected_id = any (plan.protected_ids) end
      and exists (select from grace_internal.cut u where u.link = l.link and u.deletion = any (plan.deletions))
  loop
    select
      string_agg(format('y.child_key[%s]::%s', u.n, t.type_name), ', ' order by u.n) as values,
      string_agg(format('y.child_key[%s]::%s as "grace key %1$s"', u.n, t.type_name), ', ' order by u.n) as named,
      string_agg(
        format('c.%I %s x."grace key %s"', u.name, grace_internal.equality(v_link.indexrelid, u.n::integer), u.n), ' and '
      ) as matches,
      string_agg(
        format(
          's."grace %1$s" %2$s y.child_key[%1$s]::%3$s', u.n, grace_internal.equality(v_link.indexrelid, u.n::integer), t.type_name
        ), ' and '
      ) as selected,
      string_agg(format('c.%I', u.name), ', ') as columns
    into v_key
    from unnest(v_link.key_names) with ordinality as u (name, n)
    join pg_attribute a on a.attrelid = v_link.child and a.attname = u.name
    cross join lateral (select format_type(a.atttypid, a.atttypmod)) as t (type_name);

    select
      string_agg(
        format('y.former[%1$s]::%2$s as "grace former %1$s", y.replaced_by[%1$s]::%2$s as "grace now %1$s"', u.n, t.type_name), ', '
      ) as named,
      string_agg(format('c.%I is not distinct from x."grace now %s"', u.name, u.n), ' and ') as unchanged,
      string_agg(format('%I = x."grace former %s"', u.name, u.n), ', ') filter (where u.name = any (v_link.set_names)) as assignments,
      string_agg(format('p."grace %s" %s y.former[%1$s]::%3$s', u.n, o.operator, t.type_name), ' and ') as leads_to,
      string_agg(format('%s as "grace %s"', u.expression, u.n), ', ') as parent,
      string_agg(format('p.%I as "grace %s"', u.parent_name, u.n), ', ') as live
    into v_columns
    from unnest(
      v_link.column_names, v_link.parent_names, v_link.conpfeqop,
      grace_internal.buffer_values(
        v_link.protected_id, (select p.target from grace_internal.protected p where p.id = v_link.protected_id),
        array(
          select a.attnum
          from grace_internal.protected p
          cross join lateral unnest(v_link.parent_names) with ordinality as n (name, n)
          join pg_attribute a on a.attrelid = p.target and a.attname = n.name
          where p.id = v_link.protected_id
          order by n.n
        ), 'b'
      )
    ) with ordinality as u (name, parent_name, operator_oid, expression, n)
    join pg_attribute a on a.attrelid = v_link.child and a.attname = u.name
    cross join lateral (select format_type(a.atttypid, a.atttypmod)) as t (type_name)
    cross join lateral (select grace_internal.qualified_operator(u.operator_oid)) as o (operator);

    if v_link.own is not null then
      v_own := format(
        '(select %s %s) s',
        (
          select string_agg(format('%s as "grace %s"', k.expression, k.n), ', ')
          from unnest(grace_internal.key_values(v_link.own)) with ordinality as k (expression, n)
        ),
        grace_internal.restore_source(v_link.own, plan)
      );
    end if;
    v_cuts := format(
      '(select distinct on (%1$s) %2$s, %3$s from grace._cut_links(%4$s, %5$L::pg_catalog.int8[]) y '
      'where exists (select from (select %6$s) p where %7$s)%8$s order by %1$s, y.deletion desc, y.place desc) x',
      v_key.values, v_key.named, v_columns.named, v_link.link, plan.deletions,
      case
        when v_link.by_child then format(
          '%s from %s%s p', v_columns.live, case v_link.parent_kind when 'p' then '' else 'only ' end,
          grace_internal.qualified_name(v_link.parent)
        )
        else concat(v_columns.parent, ' ', grace_internal.restore_source(v_link.protected_id, plan))
      end,
      v_columns.leads_to,
      case when v_link.by_child then format(' and exists (select from %s where %s)', v_own, v_key.selected) end
    );
    v_matches := v_key.matches || ' and ' || v_columns.unchanged;
    v_relation := case v_link.relkind when 'p' then '' else 'only ' end || grace_internal.qualified_name(v_link.child);

    protected_id := case when v_link.by_child then v_link.own else v_link.protected_id end;
    child := v_link.child;
    counting := case
      when v_link.by_child then 'select 0'
      else format('select pg_catalog.count(*) from %s c join %s on %s', v_relation, v_cuts, v_matches)
    end;
    tying := format(
      'with u as (update %s c set %s from %s where %s returning %s) select pg_catalog.count(*) from u%s',
      v_relation, v_columns.assignments, v_cuts, v_matches, v_key.columns,
      case when v_link.own is not null then
        format(' where not exists (select from %s where %s)', v_own, grace_internal.key_match(v_link.own, 'u', 's'))
      end
    );
    return next;
  end loop;
end
$$;

-- files/restore_files.sql
-- Large objects that rows of the buffer refer to, each with the deletion that kept it last and why it could not come back ('' if
-- it can): text of a query. "source" is the FROM and WHERE of these rows, with alias b; null where the table has none.
create or replace function grace_internal.kept_files(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select distinct on (f.loid) f.grace_deletion, f.grace_deleted_at, f.loid, w.why from ('
    'select distinct b.grace_deletion, b.grace_deleted_at, v.loid from (select b.* %s) b '
    'cross join lateral pg_catalog.unnest(%s) as v (loid) where v.loid is not null) as f '
    'cross join lateral grace._file_conflict(%s, f.grace_deletion, f.grace_deleted_at, f.loid) as w (why) '
    'where w.why is not null order by f.loid, f.grace_deleted_at desc, f.grace_deletion desc',
    source, v, protected_id
  )
  from grace_internal.file_values(protected_id, 'large object') v
  where v is not null
$$;

-- Why a large object could not come back, '' where it can, null where nothing is kept of it. Read only.
create or replace function grace._file_conflict(
  protected_id integer, deletion bigint, deleted_at timestamptz, loid oid
)
returns text
language plpgsql stable
security definer -- what is kept is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_last_page integer;
  v_differs boolean;
begin
  execute format(
    'select max(f.page) from grace_internal.%I f '
    'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3', 'f' || protected_id
  )
  into v_last_page using deletion, deleted_at, loid;
  if v_last_page is null then
    return null;
  elsif not exists (select from pg_largeobject_metadata m where m.oid = loid) then
    return '';
  end if;
  begin
    execute format(
      'select bool_or(f.data <> lo_get(f.loid, f.page::bigint * 262144, 262144)) '
      'or lo_get($3, ($4 + 1)::bigint * 262144, 1) <> ''''::bytea from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3', 'f' || protected_id
    )
    into v_differs using deletion, deleted_at, loid, v_last_page;
  exception when insufficient_privilege then
    return format('large object %s is there now, and role %I, which owns pg_grace, may not read it', loid, current_user);
  end;
  return case when v_differs then format('large object %s is there now with another content', loid) else '' end;
end
$$;
comment on function grace._file_conflict(integer, bigint, timestamptz, oid) is
'Internal: why a kept large object can''t come back.';

create or replace function grace_internal.file_conflict_query(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select %s, x.ref, x.key, ''large object''::pg_catalog.text, f.why from (select %s as ref, %s as key, %s as loids %s) x '
    'cross join lateral pg_catalog.unnest(x.loids) as v (loid) join (%s) f on f.loid operator(pg_catalog.=) v.loid '
    'where f.why operator(pg_catalog.<>) ''''',
    protected_id, grace_internal.ref_expression(protected_id), grace_internal.buffered_key(protected_id),
    grace_internal.file_values(protected_id, 'large object'), source, q
  )
  from grace_internal.kept_files(protected_id, source) q
  where q is not null
$$;

-- Puts the large objects of rows that are being restored back under their numbers, with owner and rights. One that is still
-- there is left alone. Errors: 23000 when another has taken the number, GR020 when it can't be given to its owner.
create or replace function grace_internal.restore_files(protected_id integer, plan grace._restore_plan)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion bigint;
  v_deleted_at timestamptz;
  v_loid oid;
  v_page integer;
  v_owner name;
  v_acl text [];
  v_data bytea;
  v_why text;
begin
  for v_deletion, v_deleted_at, v_loid, v_why in
    execute grace_internal.kept_files(protected_id, grace_internal.restore_source(protected_id, plan)) using plan.picks, plan.left_out
  loop
    if v_why <> '' then
      raise exception 'nothing was restored: %', v_why -- the caller lists all conflicts
        using errcode = 'integrity_constraint_violation',
        detail = 'A restored row refers to it by its number.',
        hint = 'Move what is there: lo_from_bytea(0, lo_get(…)), then lo_unlink(…).';
    end if;
    continue when exists (select from pg_largeobject_metadata m where m.oid = v_loid);
    perform lo_create(v_loid);
    for v_page, v_data in execute format(
      'select f.page, f.data from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3 order by f.page', 'f' || protected_id
    ) using v_deletion, v_deleted_at, v_loid
    loop
      perform lo_put(v_loid, v_page::bigint * 262144, v_data);
    end loop;
    execute format(
      'select f.owner, f.acl from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3 and f.page = 0', 'f' || protected_id
    ) into v_owner, v_acl using v_deletion, v_deleted_at, v_loid;
    perform grace_internal.give_large_object(v_loid, v_owner, v_acl);
  end loop;
end
$$;

-- Owner and rights as they were, as far as the roles still exist. A right of the owner's is given to whoever owns the object
-- now, and passes with it to the new one; so one of the role that owns pg_grace comes last, as it would pass, too.
create or replace function grace_internal.give_large_object(loid oid, owner name, acl text [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_gone boolean := not exists (select from pg_roles r where r.rolname = owner);
begin
  if acl is not null and not v_is_gone then
    execute format('revoke all on large object %s from %I', loid, current_user);
  end if;
  perform grace_internal.grant_large_object(loid, owner, acl, false);
  if v_is_gone then
    raise warning 'large object % belongs to % now: its owner % is gone', loid, current_user, owner;
  elsif owner <> current_user then
    begin
      execute format('alter large object %s owner to %I', loid, owner);
    exception when insufficient_privilege then
      raise exception 'nothing was restored: large object % can''t be given back to its owner %', loid, quote_ident(owner)
        using errcode = 'GR020',
        detail = format('Role %I, which owns pg_grace, is no member of it.', current_user),
        hint = format('grant %I to %I;', owner, current_user);
    end;
    perform grace_internal.grant_large_object(loid, owner, acl, true);
  end if;
end
$$;

-- The rights of the role that owns pg_grace, if it was not the object's owner, or those of all others.
create or replace function grace_internal.grant_large_object(loid oid, owner name, acl text [], to_self boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_item text;
  v_grant record;
begin
  foreach v_item in array coalesce(acl, '{}') loop
    begin
      for v_grant in
        select
          case when r.rolname = owner then quote_ident(current_user) else coalesce(quote_ident(r.rolname), 'public') end
            as grantee,
          a.privilege_type,
          a.is_grantable and r.rolname <> owner as is_grantable
        -- Whoever granted it may be gone: it is granted anew.
        from aclexplode(array[regexp_replace(v_item, '/("([^"]|"")*"|[^/"]+)$', '/' || quote_ident(current_user))::aclitem]) a
        left join pg_roles r on r.oid = a.grantee
        where (r.rolname is not distinct from current_user and owner <> current_user) = to_self
      loop
        execute format(
          'grant %s on large object %s to %s%s', v_grant.privilege_type, loid, v_grant.grantee,
          case when v_grant.is_grantable then ' with grant option' else '' end
        );
      end loop;
    exception when undefined_object then
      raise warning 'a right on large object % is not given back: its role is gone', loid using detail = v_item;
    end;
  end loop;
end
$$;

-- Takes what is kept of large objects away when no row is left in the buffer that refers to it.
create or replace function grace_internal.drop_kept_files(protected_id integer, deletions bigint [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'delete from grace_internal.%I f where f.grace_deletion = any ($1) and not exists ('
    'select from grace_buffer.%I b where b.grace_deletion = f.grace_deletion and b.grace_deleted_at = f.grace_deleted_at '
    'and f.loid = any (%s))',
    'f' || protected_id,
    (select p.buffer from grace_internal.protected p where p.id = protected_id),
    grace_internal.file_values(protected_id, 'large object')
  )
  using deletions;
end
$$;

-- restore/restore_plan.sql
-- Writes the statements that insert what is selected. It is called again whenever rows are left out or
-- are to overwrite others. Errors: GR015, GR016, GR023.
create or replace function grace._restore_plan(selected grace._restore_plan)
returns grace._restore_plan
language plpgsql
security definer -- reads the log and the registry, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan grace._restore_plan := selected;
  v_names text;
  v_progress text := '';
begin
  if v_plan.protected_ids is null then
    select array_agg(distinct n.protected_id order by n.protected_id) into v_plan.protected_ids
    from unnest(v_plan.picks) n;
  end if;
  if v_plan.into_table is not null and cardinality(v_plan.protected_ids) > 1 then
    raise exception 'rows of several tables can''t be written into one'
      using errcode = 'GR016',
      detail = 'More than one table has rows in what is selected.',
      hint = 'Give the table whose rows are meant as target.';
  end if;

  select
    array_agg(coalesce(v_plan.into_table, p.target) order by p.id),
    string_agg(p.target_name, ', ') filter (where c.oid is null)
  into v_plan.targets, v_names
  from grace_internal.protected p
  left join pg_class c on c.oid = p.target
  where p.id = any (v_plan.protected_ids);
  if v_names is not null then
    raise exception 'table % no longer exists', v_names
      using errcode = 'GR015',
      detail = 'Rows of it are selected, and there is no table to put them into.',
      hint = 'Copy them from its table in schema grace_buffer while they last.';
  end if;
  if v_plan.given is not null then
    v_plan.set_values := grace_internal.given_values(v_plan);
    v_plan.given := null;
  end if;

  if current_setting('grace.progress', true) = 'on' then
    v_progress := format(
      ' and pg_catalog.nextval(%s::pg_catalog.oid::pg_catalog.regclass) operator(pg_catalog.>) 0',
      'grace_internal.progress'::regclass::oid
    );
  end if;
  select
    format(
      'with %s select array[%s], array[%s]',
      string_agg(
        format('i_%s as (%s returning 1)', i, grace_internal.insert_select(i, v_plan, v_progress))
        || case when u.statement is null then '' else format(', u_%s as (%s)', i, u.statement) end, ', '
      ),
      string_agg(format('(select pg_catalog.count(*) from i_%s)', i), ', '),
      string_agg(case when u.statement is null then '0' else format('(select pg_catalog.count(*) from u_%s)', i) end, ', ')
    ),
    format('select array[%s]', string_agg(format('(select pg_catalog.count(*) %s)', grace_internal.restore_source(i, v_plan)), ', ')),
    format('select array[%s]', string_agg(coalesce(grace_internal.left_behind(i, v_plan), 'null::pg_catalog.jsonb'), ', '))
  into v_plan.statement, v_plan.counts, v_plan.left_behind
  from unnest(v_plan.protected_ids) i
  cross join lateral (
    select grace_internal.update_from(i, v_plan, v_progress)
    where exists (select from unnest(v_plan.replaced) n where n.protected_id = i)
    union all
    select null
    limit 1
  ) as u (statement);

  v_plan.versions := array(select * from grace_internal.older_versions(v_plan));
  v_plan.overwrites := array(
    select grace_internal.overwritten_rows(i, v_plan) from unnest(v_plan.protected_ids) i where v_plan.on_conflict = 'replace'
  );
  v_plan.has_lost := exists (
    select
    from unnest(v_plan.protected_ids) i
    cross join lateral grace_internal.restore_columns(i, v_plan) c
    where c.lost is not null
  );
  select
    -- Read by way of json, for an explicit cast would cut what is too long.
    'select * from ' || string_agg(
      case
        when a.atttypid in ('json'::regtype, 'jsonb'::regtype)
          then format('(select %L::jsonb) as x_%s_%s', v.value #>> '{}', p.id, a.attnum)
        else format(
          'jsonb_to_record(jsonb_build_object(''v'', %L::text)) as x_%s_%s (v %s)',
          v.value #>> '{}', p.id, a.attnum, format_type(a.atttypid, a.atttypmod)
        )
      end, ', '
    )
  into v_plan.value_test
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = coalesce(v_plan.into_table, p.target)
  cross join lateral (select v_plan.set_values -> p.id::text -> a.attname::text) as v (value)
  where p.id = any (v_plan.protected_ids) and v.value is not null;
  select
    coalesce(array_agg(l.protected_id), '{}'), coalesce(array_agg(l.child), '{}'),
    coalesce(array_agg(l.counting), '{}'), coalesce(array_agg(l.tying), '{}')
  into v_plan.link_ids, v_plan.link_children, v_plan.link_counts, v_plan.link_updates
  from grace_internal.relink_statements(v_plan) l
  where v_plan.relinks;
  v_plan.constraints := grace_internal.deferred_constraints(v_plan.targets || v_plan.link_children);
  return v_plan;
end
$$;
comment on function grace._restore_plan(grace._restore_plan) is
'Internal: the statements of a restore.';

-- Deferred constraints of these tables, as SET CONSTRAINTS knows them: by schema and name only.
create or replace function grace_internal.deferred_constraints(targets regclass [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct format('%I.%I', n.nspname, c.conname), ', ')
  from pg_constraint c
  join pg_namespace n on n.oid = c.connamespace
  where c.conrelid = any (targets)
    and c.condeferred
    and not exists (
      select
      from pg_constraint x
      where x.connamespace = c.connamespace and x.conname = c.conname and not x.condeferrable
    )
$$;

-- The columns that exist no longer, with the number of rows that have a value there and the first ten of them: text of an expression. A
-- value of a former type that a cast to the type of now does not keep is left behind as well.
create or replace function grace_internal.left_behind(protected_id integer, plan grace._restore_plan)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with columns as (
    select c.buffer_column, c.ended_at, format('b.%I is not null', c.buffer_column) as condition
    from grace_internal.protected p
    join grace_internal.column_map c on c.protected_id = p.id
    where p.id = left_behind.protected_id
      and case
        when plan.into_table is null then not exists (
          select from pg_attribute a where a.attrelid = p.target and a.attnum = c.attnum and not a.attisdropped
        )
        else not exists (
          select from pg_attribute a where a.attrelid = plan.into_table and a.attname = c.buffer_column and not a.attisdropped
        )
      end
    union all
    select
      c.buffer_column, c.ended_at,
      format(
        'b.%1$I is not null%2$s and case when grace._cast_error(b.%1$I, %3$L, false) is null '
        'then b.%1$I::%3$s::%4$s::pg_catalog.text operator(pg_catalog.<>) b.%1$I::pg_catalog.text end',
        c.buffer_column,
        (
          select string_agg(format(' and b.%I is null', n.buffer_column), '')
          from grace_internal.value_columns(c.protected_id, c.attnum) n
          where n.place < v.place
        ),
        v.type_name, format_type(c.type, -1)
      )
    from grace_internal.column_map c
    join grace_internal.value_columns(c.protected_id, c.attnum) v
      on v.buffer_column = c.buffer_column and v.is_cast and v.castable and grace_internal.can_cast(v.type, c.type)
    where c.protected_id = left_behind.protected_id and plan.into_table is null
  )
  select format(
    '(select pg_catalog.jsonb_agg(l.item) from (%s) l (item) where l.item is not null)',
    string_agg(
      format(
        'select pg_catalog.jsonb_build_object(''column'', %1$L::pg_catalog.text, ''rows'', x.rows, ''values'', (select pg_catalog.jsonb_agg('
        'pg_catalog.jsonb_build_object(''key'', v.key, ''value'', v.value)) from (select %2$s as key, pg_catalog.to_jsonb(b.%3$I) as value '
        '%4$s and %5$s limit 10) v)) from (select pg_catalog.count(*) as rows %4$s and %5$s) x '
        'where x.rows operator(pg_catalog.>) 0',
        c.buffer_column, grace_internal.buffered_key(protected_id), c.buffer_column,
        grace_internal.restore_source(protected_id, plan), c.condition
      ), ' union all ' order by c.ended_at desc, c.buffer_column
    )
  )
  from columns c
  having count(*) > 0
$$;

-- What the caller gives in place of captured values, by table and column, as text. Errors: GR023 for a column that there is not.
create or replace function grace_internal.given_values(plan grace._restore_plan)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result jsonb := jsonb_build_object();
  v_key text;
  v_value jsonb;
  v_parts text [];
  v_id integer;
  v_column pg_attribute;
  v_why text;
begin
  if jsonb_typeof(plan.given) <> 'object' then
    raise exception 'set_values is no object'
      using errcode = 'GR023', detail = 'It is a jsonb value of another kind.', hint = 'Give it as {"column": value}.';
  end if;
  for v_key, v_value in select * from jsonb_each(plan.given) loop
    v_why := null;
    v_column := null;
    v_id := null;
    begin
      v_parts := parse_ident(v_key);
    exception when invalid_parameter_value then
      v_parts := array[v_key];
    end;
    if cardinality(v_parts) = 1 then
      select p.id into v_id
      from grace_internal.protected p
      where p.id = any (plan.protected_ids) and (p.target = plan.target or cardinality(plan.protected_ids) = 1);
      v_why := 'Rows of several tables are selected, and it does not say which table it is of.';
    else
      select p.id into v_id
      from grace_internal.protected p
      join pg_class c on c.oid = p.target
      where p.id = any (plan.protected_ids)
        and c.relname = v_parts[cardinality(v_parts) - 1]
        and (cardinality(v_parts) = 2 or c.relnamespace::regnamespace::text = quote_ident(v_parts[cardinality(v_parts) - 2]));
      v_why := 'No rows of such a table are selected.';
    end if;
    if v_id is not null then
      select a.* into v_column
      from grace_internal.protected p
      join pg_attribute a on a.attrelid = coalesce(plan.into_table, p.target)
      where p.id = v_id and a.attname = v_parts[cardinality(v_parts)] and a.attnum > 0 and not a.attisdropped;
      v_why := case
        when v_column is null then 'The table has no such column.'
        when v_column.attgenerated <> '' then 'It is a generated column.'
        when plan.on_conflict = 'replace' and exists (
          select from pg_index i where i.indrelid = v_column.attrelid and i.indisprimary and v_column.attnum = any (i.indkey)
        )
          then 'It is in the primary key, by which on_conflict => ''replace'' finds the row to overwrite.'
        when jsonb_typeof(v_value) in ('object', 'array') and v_column.atttypid not in ('json'::regtype, 'jsonb'::regtype)
          then 'Its value is an object or array, and the column is not of type json; give it as a string.'
      end;
    end if;
    if v_why is not null then
      raise exception 'column % can''t be set', v_key
        using errcode = 'GR023', detail = v_why, hint = 'Give a column of the table, or table.column.';
    end if;
    v_result := v_result || jsonb_build_object(
      v_id::text,
      coalesce(v_result -> v_id::text, '{}') || jsonb_build_object(
        v_column.attname,
        case
          when jsonb_typeof(v_value) not in ('string', 'null') and v_column.atttypid in ('json'::regtype, 'jsonb'::regtype)
            then v_value::text
          else v_value #>> '{}'
        end
      )
    );
  end loop;
  return v_result;
end
$$;

-- Every conflict of what is selected: one row (id, row, key, constraint, reason) each. careful: with values that can't be what their
-- columns are looked at one by one, where the query without it fails. Without every only parents that are missing.
create or replace function grace._check_statement(plan grace._restore_plan, careful boolean, every boolean)
returns text
language sql stable
security definer -- reads the registry, which is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.id, grace_internal.restore_source(t.id, plan) as source, c.*
    from unnest(plan.protected_ids) as t (id)
    cross join lateral (
      select
        string_agg(
          format(
            '%s as %I',
            case
              when careful and c.error is not null
                then format('case when %s is null then (%s)::%s end', c.error, v.value, format_type(c.type, -1))
              else format('(%s)::%s', coalesce(v.value, 'null'), format_type(c.type, -1))
            end,
            c.attname
          ), ', ' order by c.attnum
        ) filter (where c.insertable)
        || coalesce(string_agg(format(', (%s) as "grace lost %s"', c.lost, c.attnum), '') filter (where c.lost is not null), '')
        || coalesce(
          string_agg(format(', %s as "grace error %s"', case when careful then c.error else c.cut end, c.attnum), '')
          filter (where careful and c.error is not null or c.cut is not null), ''
        ) as columns,
        string_agg(
          format(', (%s)::%s as %I', pg_get_expr(d.adbin, d.adrelid), c.type_name, c.attname), '' order by c.attnum
        ) filter (where not c.insertable) as generated
      from grace_internal.restore_columns(t.id, plan) c
      join grace_internal.protected p on p.id = t.id
      left join pg_attrdef d on d.adrelid = coalesce(plan.into_table, p.target) and d.adnum = c.attnum and not c.insertable
      cross join lateral (
        select case
          when not coalesce(grace_internal.is_constant(c.default_value), false) then c.value
          when c.value is null then c.default_value
          when c.not_null then format('coalesce(%s, %s)', c.value, c.default_value)
          else c.value
        end
      ) as v (value)
    ) as c
  )
  select format(
    'with %s select c.* from (%s) as c (protected_id, ref, key, constraint_name, reason)',
    string_agg(
      format(
        's_%s as (select r.*%s from (select %s, %s as "grace ref" %s%s) as r)',
        t.id, t.generated, t.columns, grace_internal.ref_expression(t.id), t.source, grace_internal.source_limit(t.id, plan)
      ), ', '
    ),
    coalesce(
      (
        select string_agg(q.query, ' union all ')
        from (
          select c.query
          from unnest(plan.protected_ids) i
          cross join lateral grace_internal.conflict_queries(i, plan, careful) c
          where every or c.kind = 'parent'
          union all
          select grace_internal.file_conflict_query(t.id, t.source) from tables t where every and plan.into_table is null
        ) as q (query)
      ),
      'select null::pg_catalog.int4, null::grace._row_ref, null::pg_catalog.jsonb, null, null where false'
    )
  )
  from tables t
$$;
comment on function grace._check_statement(grace._restore_plan, boolean, boolean) is
'Internal: the query for the conflicts of what is selected.';

create or replace function grace._written_columns(plan grace._restore_plan)
returns table (target regclass, attnum smallint)
language sql stable
security definer -- reads the registry, which is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(plan.into_table, p.target), c.attnum
  from grace_internal.protected p
  cross join lateral grace_internal.restore_columns(p.id, plan) c
  where p.id = any (plan.protected_ids) and c.insertable and c.value is not null
$$;
comment on function grace._written_columns(grace._restore_plan) is 'Internal: the columns that a restore inserts.';

-- restore/without_triggers.sql
-- Disables the application's triggers on rows that are inserted into these tables or updated, until the statements that it returns are
-- run, in the same transaction: nobody else ever sees them disabled. Takes SHARE ROW EXCLUSIVE on the tables. With the caller's rights.
-- Errors: 42501 for whoever does not own the tables.
create or replace function grace._disable_triggers(targets regclass [])
returns text []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trigger record;
  v_enable text [] := array[]::text [];
begin
  for v_trigger in
    select format('%I.%I', n.nspname, c.relname) as relation, t.tgname, t.tgenabled
    from unnest(targets) as u (target)
    cross join lateral (
      select u.target as relid
      union
      select p.relid from pg_partition_tree(u.target) p
    ) as r
    join pg_class c on c.oid = r.relid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & (4 | 16) <> 0
    join pg_proc f on f.oid = t.tgfoid and f.pronamespace <> 'grace_internal'::regnamespace
    order by 1, 2
  loop
    execute format('alter table only %s disable trigger %I', v_trigger.relation, v_trigger.tgname);
    v_enable := v_enable || format(
      'alter table only %s enable %s trigger %I', v_trigger.relation,
      case v_trigger.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, v_trigger.tgname
    );
  end loop;
  return v_enable;
end
$$;
comment on function grace._disable_triggers(regclass []) is
'Internal: disables the application''s triggers within the transaction; returns what enables them again.';

-- restore/restore.sql
-- Runs with the caller's rights: a restore does nothing that the caller could not do by hand, and the application's
-- triggers run as they do on any INSERT of the caller's. So it has no search_path of its own, and every name in it is
-- written out. All rows of all tables go in with one statement, at whose end PostgreSQL checks the foreign keys: their
-- order and cycles among them don't matter.
create or replace function grace.restore(
  target regclass default null,
  deletion bigint default null,
  keys jsonb default null,
  deleted_from timestamptz default null,
  deleted_to timestamptz default null,
  deleted_by name default null,
  related boolean default true,
  on_conflict text default 'error',
  set_values jsonb default null,
  into_table regclass default null,
  dry_run boolean default false,
  predicate text default null,
  with_parents boolean default false,
  relink boolean default true,
  triggers boolean default true,
  application text default null,
  reason text default null
)
returns table (
  run bigint, restored_table regclass, restored bigint, replaced bigint, skipped bigint, older bigint, relinked bigint,
  left_behind jsonb, conflicts jsonb
)
language plpgsql
set jit = off -- compiling takes longer than what it would speed up
as $$
#variable_conflict use_variable
declare
  v_plan grace._restore_plan;
  v_again grace._restore_plan;
  v_older grace._row_ref [];
  v_found grace._conflict [];
  v_conflicts grace._conflict [] := array[]::grace._conflict [];
  v_done grace._restore_result;
  v_attempts integer := 0;
begin
  v_plan := grace._restore_select(
    target, deletion, keys, deleted_from, deleted_to, deleted_by, application, reason, predicate,
    related and into_table is null, coalesce(with_parents, false), not dry_run and into_table is null
  );
  v_plan := grace._restore_options(v_plan, on_conflict, set_values, into_table, relink, triggers);
  if v_plan.filter_source is not null then
    v_plan.picks := grace._filter_rows(v_plan);
  end if;
  if v_plan.statement is not null or v_plan.picks is not null then
    v_plan.picks := grace._pick_rows(v_plan, related and into_table is null);
  end if;
  if with_parents then
    v_plan := grace._hold_deletions(grace._add_parents(v_plan), v_plan.locks);
  end if;
  v_plan := grace._restore_plan(v_plan);
  perform grace._check_values(v_plan);

  v_older := grace._find_older(v_plan);
  if pg_catalog.cardinality(v_older) operator(pg_catalog.>) 0 then
    v_plan.left_out := v_older;
    v_plan := grace._restore_plan(v_plan);
  end if;
  if v_plan.on_conflict operator(pg_catalog.=) 'replace' then
    v_plan := grace._restore_plan(grace._find_overwritten(v_plan));
  end if;

  loop
    v_attempts := v_attempts operator(pg_catalog.+) 1;
    if dry_run or v_plan.has_lost or v_plan.on_conflict operator(pg_catalog.<>) 'error' then
      v_found := grace._find_conflicts(v_plan, true);
      if v_plan.on_conflict operator(pg_catalog.=) 'skip' then
        while pg_catalog.cardinality(v_found) operator(pg_catalog.>) 0 loop
          v_conflicts := v_conflicts operator(pg_catalog.||) v_found;
          v_plan := grace._leave_out(v_plan, v_found);
          v_found := grace._find_conflicts(v_plan, false);
        end loop;
      elsif dry_run then
        v_conflicts := v_found;
      else
        perform grace._refuse_restore(v_plan, v_found);
      end if;
    end if;

    if dry_run then
      v_done := grace._restore_counts(v_plan);
      exit;
    end if;

    begin
      v_done := grace._restore_write(v_plan);
      exit;
    exception when integrity_constraint_violation or data_exception or insufficient_privilege then -- a policy's is the last
      v_found := grace._find_conflicts(v_plan, true);
      if v_plan.on_conflict operator(pg_catalog.<>) 'skip' then
        perform grace._refuse_restore(v_plan, v_found);
      end if;
      if v_plan.on_conflict operator(pg_catalog.=) 'replace' then
        v_again := grace._find_overwritten(v_plan); -- another session may have inserted a key meanwhile
      end if;
      if v_attempts operator(pg_catalog.=) 3 or pg_catalog.cardinality(v_found) operator(pg_catalog.=) 0 and (
        v_again.replaced is null
        or pg_catalog.cardinality(v_again.replaced) operator(pg_catalog.=) pg_catalog.cardinality(v_plan.replaced)
      ) then
        perform grace._check_snapshot(sqlstate, sqlerrm);
        raise; -- a trigger's, or one that nothing here foresees
      end if;
      if v_again.replaced is not null then
        v_plan := grace._restore_plan(v_again);
      end if;
    end;
  end loop;

  return query
    select
      v_done.run, t.target, v_done.restored[t.n], v_done.replaced[t.n],
      (
        select pg_catalog.count(distinct c.ref)
        from pg_catalog.unnest(v_conflicts) c
        where v_plan.on_conflict operator(pg_catalog.=) 'skip' and c.protected_id operator(pg_catalog.=) t.id
      ),
      (select pg_catalog.count(*) from pg_catalog.unnest(v_older) o where o.protected_id operator(pg_catalog.=) t.id),
      v_done.relinked[t.n],
      coalesce(v_done.left_behind[t.n], '[]'),
      grace._conflicts_json(v_conflicts, t.id)
    from rows from (pg_catalog.unnest(v_plan.protected_ids), pg_catalog.unnest(v_plan.targets)) with ordinality as t (id, target, n);
end
$$;
comment on function grace.restore(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, text, jsonb, regclass, boolean, text, boolean, boolean, boolean,
  text, text
) is
'Puts deleted rows back into their tables, all of what is selected or nothing. deletion: all that one transaction deleted. target: rows of this table. keys: these primary keys, {"id": 7} or an array of them. deleted_from, deleted_to: deletions from the first moment on, before the second. deleted_by: role or login. application, reason: contained in what the deletion''s session had set. predicate: rows for which this condition on the table''s columns holds. Of several versions of a primary key the newest one selected comes back. related: also what went in the same deletion and hangs on the rows through foreign keys, and the parents they need; with_parents: also parents that went in another deletion. on_conflict: error (nothing is restored, all conflicts are listed), skip (what is in conflict, and what depends on it, stays in the buffer) or replace (a live row with the same primary key is overwritten; its former version goes to the buffer as a deletion of this transaction). set_values: {"column": value} or {"table.column": value} in place of what was captured. into_table: writes a copy into this table, columns by name, and leaves the buffer as it is. relink: rows whose reference was set to null or default by the deletion, and still is, refer to the restored rows again. triggers: false disables the application''s triggers meanwhile, which takes the tables'' owner. dry_run: changes nothing and lists what would be restored and every conflict. Returns one row per table: the run, the table, rows restored, how many of these overwrote a live row, rows skipped, older versions left in the buffer, references tied again, values of dropped columns that are left behind as [{"column", "rows", "values"}], conflicts as [{"key", "constraint", "reason"}]. Needs grace_operator and INSERT on the tables (UPDATE for replace and relink); SELECT on them to list conflicts. Errors: GR001, GR007, GR008, GR009, GR010, GR011 (conflicts, listed in DETAIL), GR012, GR015, GR016, GR020, GR022, GR023, 22023.';

-- Errors: 22023, GR016 for options that can't go together, 42501 for a table that the caller may not write to.
create or replace function grace._restore_options(
  plan grace._restore_plan, on_conflict text, set_values jsonb, into_table regclass, relink boolean, triggers boolean
)
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if on_conflict is null or on_conflict not in ('error', 'skip', 'replace') then
    raise exception 'on_conflict can''t be %', coalesce(quote_literal(on_conflict), 'null')
      using errcode = 'invalid_parameter_value',
      detail = 'It says what becomes of rows that can''t be inserted.',
      hint = 'Give ''error'', ''skip'' or ''replace''.';
  end if;
  if into_table is not null and on_conflict = 'replace' then
    raise exception 'a copy can''t replace rows'
      using errcode = 'GR016',
      detail = 'What it overwrote in another table could not be kept.',
      hint = 'Use skip, or remove the rows that stand in the way.';
  end if;
  if into_table is not null and exists (
    select from pg_class c where c.oid = into_table and (c.relkind not in ('r', 'p', 'f', 'v') or c.relnamespace = 'grace_buffer'::regnamespace)
  ) then
    raise exception '% is no table to copy into', into_table
      using errcode = 'wrong_object_type', detail = 'It is not a table of the application''s.', hint = 'Name one.';
  end if;
  plan.on_conflict := on_conflict;
  plan.given := set_values;
  plan.into_table := into_table;
  plan.relinks := relink and into_table is null;
  plan.fires := triggers;
  return plan;
end
$$;
comment on function grace._restore_options(grace._restore_plan, text, jsonb, regclass, boolean, boolean) is
'Internal: how a restore is to be done.';

-- Errors: GR023 for a value that its column can't hold, 42501 for a table that the caller may not insert into.
create or replace function grace._check_values(plan grace._restore_plan)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (
    select min(c.target::oid)
    from grace._written_columns(plan) c
    where not has_column_privilege(c.target, c.attnum, 'INSERT')
  );
begin
  if v_target is not null then
    raise exception 'permission denied for table %', v_target
      using errcode = 'insufficient_privilege',
      detail = 'A restore does nothing that its caller could not do by hand.',
      hint = format('grant insert on %s to %I;', v_target, current_user);
  end if;
  if plan.value_test is not null then
    execute plan.value_test;
  end if;
exception when data_exception or integrity_constraint_violation then
  raise exception 'a value that is to be set does not fit its column'
    using errcode = 'GR023', detail = sqlerrm, hint = 'Give it as the column''s type reads it.';
end
$$;
comment on function grace._check_values(grace._restore_plan) is 'Internal: refuses values that no column could hold.';

create or replace function grace._find_older(plan grace._restore_plan)
returns grace._row_ref []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query text;
  v_refs grace._row_ref [];
  v_all grace._row_ref [] := array[]::grace._row_ref [];
begin
  foreach v_query in array plan.versions loop
    execute format('select array_agg(o."grace ref") from (%s) o', v_query) into v_refs using plan.picks, plan.left_out;
    v_all := v_all || coalesce(v_refs, '{}');
  end loop;
  return v_all;
end
$$;
comment on function grace._find_older(grace._restore_plan) is
'Internal: selected rows of which a newer version is selected, too.';

-- All conflicts, or those of missing parents only; with the caller's rights and search_path, as the application's checks run.
create or replace function grace._find_conflicts(plan grace._restore_plan, every boolean)
returns grace._conflict []
language plpgsql
as $$
declare
  v_found grace._conflict [];
  v_query text :=
    'select pg_catalog.array_agg(row(q.protected_id, q.ref, q.key, q.constraint_name, q.reason)::grace._conflict) from (%s) q';
begin
  begin
    execute pg_catalog.format(v_query, grace._check_statement(plan, false, every))
    into v_found using plan.picks, plan.left_out, plan.replaced, plan.skipped;
  exception when data_exception or integrity_constraint_violation then
    execute pg_catalog.format(v_query, grace._check_statement(plan, true, true))
    into v_found using plan.picks, plan.left_out, plan.replaced, plan.skipped;
  end;
  return coalesce(v_found, '{}');
end
$$;
comment on function grace._find_conflicts(grace._restore_plan, boolean) is 'Internal: why selected rows can''t be inserted.';

create or replace function grace._leave_out(plan grace._restore_plan, conflicts grace._conflict [])
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_refs grace._row_ref [] := array(select distinct c.ref from unnest(conflicts) c);
  v_is_first boolean := coalesce(cardinality(plan.left_out), 0) = 0; -- the statements are the same for any rows that are left out
begin
  plan.left_out := plan.left_out || v_refs;
  plan.skipped := plan.skipped || v_refs;
  return case when v_is_first then grace._restore_plan(plan) else plan end;
end
$$;
comment on function grace._leave_out(grace._restore_plan, grace._conflict []) is 'Internal: the plan without rows in conflict.';

create or replace function grace._conflicts_json(conflicts grace._conflict [], protected_id integer)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object('key', c.key, 'constraint', c.constraint_name, 'reason', c.reason)
      order by c.constraint_name, c.key, c.reason
    ), '[]'
  )
  from unnest(conflicts) c
  where c.protected_id = _conflicts_json.protected_id
$$;
comment on function grace._conflicts_json(grace._conflict [], integer) is 'Internal: the conflicts of one table.';

-- Errors: GR011 with the conflicts in DETAIL, up to a thousand; returns when there is none.
create or replace function grace._refuse_restore(plan grace._restore_plan, conflicts grace._conflict [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := cardinality(conflicts);
  v_lines text;
begin
  if v_count = 0 then
    return;
  end if;
  select string_agg(format('%s %s: %s (%s)', s.target, s.key, s.reason, s.constraint_name), e'\n' order by s.target, s.constraint_name, s.key)
  into v_lines
  from (
    select plan.targets[array_position(plan.protected_ids, c.protected_id)]::text as target, c.key, c.constraint_name, c.reason
    from unnest(conflicts) c
    limit 1000
  ) as s;
  raise exception 'nothing was restored: % %', v_count, case v_count when 1 then 'conflict' else 'conflicts' end
    using errcode = 'GR011',
    detail = v_lines || case when v_count > 1000 then format(e'\nand %s more', v_count - 1000) else '' end,
    hint = 'Remove what stands in the way, select less, or say on_conflict => ''skip'' or ''replace''. With dry_run => true conflicts are listed as rows.';
end
$$;
comment on function grace._refuse_restore(grace._restore_plan, grace._conflict []) is
'Internal: turns the conflicts found into an error.';

-- A row that stands in the way and that no query here sees was written after the transaction's snapshot. Errors: 40001.
create or replace function grace._check_snapshot(state text, message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') and state in ('23503', '23505', '23P01') then
    raise exception 'rows have changed since the transaction began'
      using errcode = 'serialization_failure', detail = message, hint = 'Run the transaction again.';
  end if;
end
$$;
comment on function grace._check_snapshot(text, text) is 'Internal: tells a conflict with what the snapshot does not show.';

-- What a restore would do, in numbers.
create or replace function grace._restore_counts(plan grace._restore_plan)
returns grace._restore_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result grace._restore_result;
  v_count bigint;
begin
  execute plan.counts into v_result.restored using plan.picks, plan.left_out;
  execute plan.left_behind into v_result.left_behind using plan.picks, plan.left_out;
  for i in 1 .. cardinality(plan.protected_ids) loop
    v_result.replaced[i] := (select count(*) from unnest(plan.replaced) r where r.protected_id = plan.protected_ids[i]);
    v_result.relinked[i] := 0;
  end loop;
  for i in 1 .. cardinality(plan.link_counts) loop
    execute plan.link_counts[i] into v_count using plan.picks, plan.left_out;
    if v_count > 0 and not has_any_column_privilege(plan.link_children[i], 'UPDATE') then
      raise exception 'permission denied for table %', plan.link_children[i]
        using errcode = 'insufficient_privilege',
        detail = 'Its rows refer to what is restored, and the deletion had cut that.',
        hint = format('grant update on %s to %I; or leave the references as they are: relink => false.', plan.link_children[i], current_user);
    end if;
    v_result.relinked[array_position(plan.protected_ids, plan.link_ids[i])] :=
      v_result.relinked[array_position(plan.protected_ids, plan.link_ids[i])] + v_count;
  end loop;
  return v_result;
end
$$;
comment on function grace._restore_counts(grace._restore_plan) is 'Internal: what a restore would do, in numbers.';

-- Writes, with the caller's rights and search_path. Errors: whatever the tables say, GR012.
create or replace function grace._restore_write(plan grace._restore_plan)
returns grace._restore_result
language plpgsql
as $$
declare
  v_result grace._restore_result;
  v_inserted bigint [];
  v_overwritten bigint;
  v_enable text [] := array[]::text [];
  v_statement text;
  v_count bigint;
  v_at integer;
begin
  if not plan.fires then
    v_enable := grace._disable_triggers(plan.targets operator(pg_catalog.||) plan.link_children);
  end if;
  execute plan.left_behind into v_result.left_behind using plan.picks, plan.left_out;
  if plan.into_table is null then
    perform grace._restore_files(plan); -- first, for the application's triggers may look at them
    if pg_catalog.cardinality(plan.replaced) operator(pg_catalog.>) 0 then
      v_overwritten := grace._keep_overwritten(plan);
    end if;
  end if;
  execute plan.statement into v_inserted, v_result.replaced using plan.picks, plan.left_out, plan.replaced;

  for i in 1 .. pg_catalog.cardinality(plan.protected_ids) loop
    v_result.restored[i] := v_inserted[i] operator(pg_catalog.+) v_result.replaced[i];
    v_result.relinked[i] := 0;
  end loop;
  for i in 1 .. pg_catalog.cardinality(plan.link_updates) loop
    execute plan.link_updates[i] into v_count using plan.picks, plan.left_out;
    v_at := pg_catalog.array_position(plan.protected_ids, plan.link_ids[i]);
    v_result.relinked[v_at] := v_result.relinked[v_at] operator(pg_catalog.+) v_count;
  end loop;
  if plan.constraints is not null then
    execute 'set constraints ' operator(pg_catalog.||) plan.constraints operator(pg_catalog.||) ' immediate';
    execute 'set constraints ' operator(pg_catalog.||) plan.constraints operator(pg_catalog.||) ' deferred';
  end if;
  foreach v_statement in array v_enable loop
    execute v_statement;
  end loop;
  v_result.run := grace._restore_done(plan, v_result.restored, v_overwritten);
  return v_result;
end
$$;
comment on function grace._restore_write(grace._restore_plan) is 'Internal: inserts, overwrites, ties links again.';

create or replace function grace._restore_files(plan grace._restore_plan)
returns void
language plpgsql
security definer -- what is kept is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  foreach v_id in array plan.protected_ids loop
    if grace_internal.file_values(v_id, 'large object') is not null then
      perform grace_internal.restore_files(v_id, plan);
    end if;
  end loop;
end
$$;
comment on function grace._restore_files(grace._restore_plan) is
'Internal: brings the large objects of the selected rows back.';

-- Takes the rows that were written out of the buffer and keeps the account; returns the run. It trusts nothing in the plan but which
-- rows are meant; whoever calls it by hand is on record in grace.runs. Errors: GR012 when a table took fewer rows.
create or replace function grace._restore_done(plan grace._restore_plan, restored bigint [], overwritten bigint)
returns bigint
language plpgsql
security definer -- the buffer and the log are granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
  v_id integer;
  v_source text;
  v_taken bigint;
  v_total bigint := 0;
begin
  perform grace_internal.require_same_tables(plan);
  insert into grace_internal.run (kind, target, role, login)
  values ('restore', coalesce(plan.into_table, plan.target), grace_internal.caller(), session_user)
  returning id into v_run;

  for i in 1 .. cardinality(plan.protected_ids) loop
    v_id := plan.protected_ids[i];
    v_source := grace_internal.restore_source(v_id, plan, is_delete => true);
    if plan.into_table is not null then
      v_taken := restored[i];
    elsif plan.picks is null and cardinality(plan.deletions) = 1 then
      execute 'delete ' || v_source using plan.picks, plan.left_out;
      get diagnostics v_taken = row_count;
      insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count)
      select v_run, c.deletion, c.deleted_at, v_id, v_taken
      from grace_internal.capture c
      where c.deletion = plan.deletions[1] and v_taken > 0
      limit 1;
    else
      execute format(
        'with taken as (delete %s returning b.grace_deletion, b.grace_deleted_at), '
        'noted as (insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count) '
        'select $3, t.grace_deletion, min(t.grace_deleted_at), $4, count(*) from taken t group by t.grace_deletion '
        'returning row_count) select coalesce(sum(n.row_count), 0) from noted n', v_source
      )
      into v_taken using plan.picks, plan.left_out, v_run, v_id;
    end if;
    if v_taken is distinct from restored[i] then
      raise exception 'nothing was restored: % took % of % rows', plan.targets[i], restored[i], v_taken
        using errcode = 'GR012',
        detail = 'A trigger or rule on the table suppressed rows, and they would have been lost.',
        hint = 'Disable the trigger for the restore (triggers => false), or restore the rows by hand from grace_buffer.';
    end if;
    if plan.into_table is null then
      if grace_internal.file_values(v_id, 'large object') is not null then
        perform grace_internal.drop_kept_files(v_id, plan.deletions);
      end if;
      perform grace_internal.drop_cuts(v_id, plan.deletions);
    end if;
    v_total := v_total + v_taken;
  end loop;

  update grace_internal.run u
  set
    status = 'done',
    finished_at = clock_timestamp(),
    row_count = v_total,
    details = jsonb_strip_nulls(jsonb_build_object(
      'deletions', (select jsonb_agg(distinct r.deletion) from grace_internal.restored r where r.run_id = v_run),
      'overwritten', overwritten,
      'copied', case when plan.into_table is not null then to_jsonb(plan.deletions) end
    ))
  where u.id = v_run;
  return v_run;
end
$$;
comment on function grace._restore_done(grace._restore_plan, bigint [], bigint) is
'Internal: takes restored rows out of the buffer and records the restore.';

-- The plan is made of names before the statements lock tables and buffers. A change of a table that was open then, or that the
-- transaction's snapshot does not show, gives the names another meaning: values would be missing, without an error. Errors: 40001.
create or replace function grace_internal.require_same_tables(plan grace._restore_plan)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_again grace._restore_plan;
  v_changed text;
begin
  if current_setting('transaction_isolation') = 'read committed' then
    v_again := grace._restore_plan(plan);
    if (v_again.statement, v_again.left_behind) is not distinct from (plan.statement, plan.left_behind) then
      return;
    end if;
    v_changed := array_to_string(plan.targets, ', ');
  else
    select string_agg(p.target_name, ', ') into v_changed
    from grace_internal.protected p
    join pg_class b on b.oid = format('grace_buffer.%I', p.buffer)::regclass
    where p.id = any (plan.protected_ids)
      and (
        grace_internal.snapshot_is_old(p.id)
        or has_column_privilege(b.oid, (b.relnatts + 1)::smallint, 'select') is not null
      );
  end if;
  if v_changed is not null then
    raise exception 'could not serialize access: table % was changed while rows of it were restored', v_changed
      using errcode = 'serialization_failure',
      detail = 'Its columns are not those that the restore was planned for.',
      hint = 'Run the transaction again.';
  end if;
end
$$;

-- restore/restore_progress.sql
-- How many rows restores have inserted so far, those of open transactions included.
create or replace function grace._restore_progress()
returns bigint
language sql
security definer -- the sequence is granted to nobody for reading
set search_path = pg_catalog, pg_temp
as $$
  select last_value from grace_internal.progress
$$;
comment on function grace._restore_progress() is 'Internal: what a progress bar polls.';

-- links/cut_links.sql
create or replace function grace._cut_links(link integer, deletions bigint [])
returns table (child_key text [], former text [], replaced_by text [], deletion bigint, place bigint)
language sql stable
security definer -- what was cut is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select c.child_key, c.former, c.replaced_by, c.deletion, row_number() over (order by c.ctid)
  from grace_internal.link l
  join grace_internal.cut c on c.link = l.id
  where l.id = _cut_links.link and c.deletion = any (_cut_links.deletions)
    and c.deleted_at > grace._expired_before(l.protected_id)
$$;
comment on function grace._cut_links(integer, bigint []) is
'Internal: the links that deletions have cut, as text by the types'' output functions with ISO dates and full precision.';

-- Whether equal values of a foreign key and of what it references are written alike.
create or replace function grace_internal.is_written_alike(link_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(
    case
      when y.type = any ('{int2,int4,int8}'::regtype []) then z.type = any ('{int2,int4,int8}'::regtype [])
      when y.type = any ('{text,varchar}'::regtype []) then z.type = any ('{text,varchar}'::regtype []) and coalesce((
        select o.collisdeterministic from pg_collation o where o.oid = a.attcollation
      ), true)
      when y.type = any ('{uuid,oid,bool,date}'::regtype []) then z.type = y.type
      else false
    end
  ), false)
  from grace_internal.link_map m
  join grace_internal.protected p on p.id = m.protected_id
  cross join lateral unnest(m.column_names, m.parent_names) as k (child_column, parent_column)
  join pg_attribute a on a.attrelid = p.target and a.attname = k.parent_column
  join pg_attribute b on b.attrelid = m.child and b.attname = k.child_column
  cross join lateral grace_internal.base_type(a.atttypid) as y (type)
  cross join lateral grace_internal.base_type(b.atttypid) as z (type)
  where m.link = link_id
$$;

-- Forgets what these deletions have cut, as far as no row that was referenced is left in the buffer, nor any of the referencing table that
-- went in the same deletion. Where equal values may be written in two ways (1.0 and 1.00) a cut stays as long as any row of the deletion
-- does.
create or replace function grace_internal.drop_cuts(protected_id integer, deletions bigint [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_link record;
begin
  for v_link in
    select l.id, p.buffer, child.buffer as child_buffer, case when grace_internal.is_written_alike(l.id) then v.values end as values
    from grace_internal.link l
    join grace_internal.protected p on p.id = l.protected_id
    left join grace_internal.protected child on child.target = l.child
    left join grace_internal.link_map m on m.link = l.id
    cross join lateral (
      select string_agg(grace_internal.as_text(u.value), ', ' order by u.position)
      from unnest(grace_internal.buffer_values(p.id, p.target, grace_internal.numbers_of(p.target, m.parent_names), 'b'))
        with ordinality as u (value, position)
      where not exists ( -- a cast may be the application's code
        select
        from unnest(grace_internal.numbers_of(p.target, m.parent_names)) n
        cross join lateral grace_internal.value_columns(p.id, n) c
        where c.is_cast
      )
    ) as v (values)
    where l.protected_id = drop_cuts.protected_id
      and exists (select from grace_internal.cut c where c.link = l.id and c.deletion = any (drop_cuts.deletions))
  loop
    execute format(
      'delete from grace_internal.cut c where c.link = $1 and c.deletion = any ($2) and not exists ('
      'select from grace_buffer.%I b where b.grace_deletion = c.deletion and b.grace_deleted_at = c.deleted_at%s)%s',
      v_link.buffer, ' and c.former = array[' || v_link.values || ']',
      case when v_link.child_buffer is not null then format(
        ' and not exists (select from grace_buffer.%I b where b.grace_deletion = c.deletion and b.grace_deleted_at = c.deleted_at)',
        v_link.child_buffer
      ) end
    )
    using v_link.id, deletions;
  end loop;
end
$$;

-- Cuts and links of a protected table go for good.
create or replace function grace_internal.drop_links(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from grace_internal.cut c
  where c.link in (select l.id from grace_internal.link l where l.protected_id = drop_links.protected_id);
  delete from grace_internal.link l where l.protected_id = drop_links.protected_id;
end
$$;

-- What had been cut by deletions that are expired; returns whether there is more.
create or replace function grace_internal.trim_cuts(protected_id integer, before timestamptz, max_rows integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  delete from grace_internal.cut c
  where c.ctid = any (array(
    select e.ctid
    from grace_internal.cut e
    where e.link in (select l.id from grace_internal.link l where l.protected_id = trim_cuts.protected_id)
      and e.deleted_at <= before
    limit max_rows
    for update skip locked
  ));
  get diagnostics v_rows = row_count;
  if v_rows < max_rows then
    delete from grace_internal.link l
    where l.protected_id = trim_cuts.protected_id and not l.active
      and not exists (select from grace_internal.cut c where c.link = l.id)
      and not exists (select from grace_internal.link_functions(l.protected_id, false) f where f = to_regproc(format('grace_internal.%I', 'link_' || l.id)));
  end if;
  return v_rows = max_rows;
end
$$;

-- filters/types_in.sql
-- A type and the types that its values are made of: of a domain what it is over, of arrays, ranges and composites what is in them.
create or replace function grace_internal.types_in(type oid)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive inside (type) as (
    values (types_in.type)
    union
    select c.type
    from inside i
    join pg_type t on t.oid = i.type
    left join pg_range r on t.oid in (r.rngtypid, r.rngmultitypid)
    cross join lateral (
      select t.typbasetype where t.typtype = 'd'
      union all
      select r.rngsubtype where r.rngsubtype is not null
      union all
      select t.typelem where t.typcategory = 'A' and t.typelem <> 0
      union all
      select a.atttypid from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) as c (type)
  )
  select i.type from inside i
$$;

-- filters/trusted_comparison.sql
-- A condition by one operator, given by number. Arguments of another type than the operator's are cast, as foreign keys do it: where
-- they are not, PostgreSQL may find a better fitting operator of that name in its schema, which may be anybody's.
create or replace function grace_internal.comparison(
  operator_oid oid, "left" text, left_type oid, "right" text, right_type oid
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      case
        when a.type = a.input or t.typtype = 'p' then a.expression
        else format('(%s)::%s', a.expression, format_type(a.input, -1))
      end,
      format(' %s ', grace_internal.qualified_operator(o.oid)) order by a.n
    )
    from pg_operator o
    cross join lateral (
      values (1, "left", left_type, o.oprleft), (2, "right", right_type, o.oprright)
    ) as a (n, expression, type, input)
    join pg_type t on t.oid = a.input
    where o.oid = operator_oid
  );
end
$$;

-- Code that comparing values of these types by these operators would run with the rights of whoever compares: the operators, what their
-- families have for hashing and sorting, casts to their arguments' types, and the comparison of what is inside arrays, composites and
-- ranges. What PostgreSQL brings along is trusted, and functions of superusers and of the current role, as in untrusted_code. Returns
-- the first one that is not, else null.
create or replace function grace_internal.untrusted_comparison(operators oid [], left_types oid [], right_types oid [])
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if 16384 > all (operators || left_types || right_types) then -- numbers of what initdb makes
    return null;
  end if;
  return (
    with arguments (type, input) as (
      select grace_internal.base_type(a.type), a.input
      from unnest(operators, left_types, right_types) as u (operator_oid, left_type, right_type)
      join pg_operator o on o.oid = u.operator_oid
      cross join lateral (values (u.left_type, o.oprleft), (u.right_type, o.oprright)) as a (type, input)
    ),
    functions (id) as (
      select o.oprcode::oid from pg_operator o where o.oid = any (operators)
      union
      select o.oprcode::oid
      from pg_amop m
      join pg_amop s on s.amopfamily = m.amopfamily
      join pg_operator o on o.oid = s.amopopr
      where m.amopopr = any (operators)
      union
      select s.amproc::oid
      from pg_amop m
      join pg_amproc s on s.amprocfamily = m.amopfamily
      where m.amopopr = any (operators)
      union
      select c.castfunc
      from arguments a
      join pg_cast c on c.castsource = a.type and c.casttarget = a.input
      where a.type <> a.input
    )
    select min(u.code)
    from (
      select format('function %s of role %I', p.oid::regprocedure, r.rolname)
      from functions f
      join pg_proc p on p.oid = f.id
      join pg_roles r on r.oid = p.proowner
      where not r.rolsuper and r.rolname <> current_user
      union all
      select format('type %s', format_type(t.oid, null))
      from arguments a
      cross join lateral grace_internal.types_in(a.type) i (type)
      join pg_type t on t.oid = i.type
      where i.type <> a.type and t.typtype = 'b' and t.typcategory <> 'A' and t.typnamespace <> 'pg_catalog'::regnamespace
    ) as u (code)
  );
end
$$;

-- filters/foreign_key_match.sql
-- Which rows a foreign key ties together, as a condition on the values of the referenced and of the referencing columns: by the foreign
-- key's own operators and, where the collations differ, by the referenced column's, as PostgreSQL itself looks for them.
create or replace function grace_internal.foreign_key_match(constraint_id oid, parent text [], child text [])
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      grace_internal.comparison(
        k.operator_oid,
        k.parent || case when a.attcollation <> b.attcollation then (
          select format(' collate %I.%I', n.nspname, o.collname)
          from pg_collation o
          join pg_namespace n on n.oid = o.collnamespace
          where o.oid = a.attcollation
        ) else '' end,
        a.atttypid, k.child, b.atttypid
      ),
      ' and ' order by k.n
    )
    from pg_constraint f
    cross join lateral unnest(f.conpfeqop, f.confkey, f.conkey, parent, child)
      with ordinality as k (operator_oid, parent_attnum, child_attnum, parent, child, n)
    join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.parent_attnum
    join pg_attribute b on b.attrelid = f.conrelid and b.attnum = k.child_attnum
    where f.oid = constraint_id
  );
end
$$;

-- Columns as expressions.
create or replace function grace_internal.columns_of(alias text, names name [])
returns text []
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(format('%s.%I', alias, u.name) order by u.n) from unnest(names) with ordinality as u (name, n)
$$;

create or replace function grace_internal.untrusted_foreign_key(constraint_id oid)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select grace_internal.untrusted_comparison(
      f.conpfeqop,
      (
        select array_agg(a.atttypid order by k.n)
        from unnest(f.confkey) with ordinality as k (attnum, n)
        join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum
      ),
      (
        select array_agg(a.atttypid order by k.n)
        from unnest(f.conkey) with ordinality as k (attnum, n)
        join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum
      )
    )
    from pg_constraint f
    where f.oid = constraint_id
  );
end
$$;

-- The operator by which a primary key tells the nth column's values apart.
create or replace function grace_internal.key_operators(relation oid)
returns table (attname name, type oid, operator_oid oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select a.attname, a.atttypid, o.amopopr
  from pg_index i
  cross join lateral unnest(i.indkey::smallint [], i.indclass::oid []) with ordinality as k (attnum, class, n)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  join pg_opclass c on c.oid = k.class
  join pg_amop o
    on o.amopfamily = c.opcfamily
    and o.amoplefttype = c.opcintype
    and o.amoprighttype = c.opcintype
    and o.amopstrategy = 3
  where i.indrelid = relation and i.indisprimary and k.n <= i.indnkeyatts
  order by k.n
$$;

-- filters/unreadable_reason.sql
-- Why the owner of pg_grace can't read all rows of a table, or not without running code of others; null when it can.
create or replace function grace_internal.unreadable_reason(relation oid)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(
      case
        when not has_schema_privilege(c.relnamespace, 'usage') then format('%I has no right on its schema', current_user)
        when not has_table_privilege(c.oid, 'select') then format('%I has no right to read it', current_user)
        when row_security_active(c.oid) then format('row-level security hides rows of it from %I', current_user)
        when exists (
          select
          from grace_internal.partition_tree(c.oid) as t (relation)
          join pg_class p on p.oid = t.relation
          where p.relkind = 'f'
        ) then 'it is a foreign table or has one as a partition'
      end,
      'its indexes, statistics or partition keys use ' || grace_internal.untrusted_code(c.oid)
    )
    from pg_class c
    where c.oid = relation
  );
end
$$;

-- filters/key_json.sql
-- One value as jsonb, the same in every session: to_jsonb() runs casts to json that the application has made, and writes a time with
-- time zone in the session's. All but numbers, booleans and times is text by the type's output function.
create or replace function grace_internal.value_json("column" text, type oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when b.type = 'timestamptz'::regtype then format(
      'to_jsonb(concat(to_jsonb(timezone(''UTC'', %1$s)) #>> ''{}'', case when isfinite(%1$s) then ''+00:00'' end))', "column"
    )
    when b.type = any ('{bool,int2,int4,int8,numeric,float4,float8,date,timestamp}'::regtype []) then format('to_jsonb(%s)', "column")
    when b.type = 'bytea'::regtype then format('to_jsonb(''\x'' || encode(%s, ''hex''))', "column")
    else format('to_jsonb(%s)', grace_internal.as_text("column"))
  end
  from grace_internal.base_type(type) as b (type)
$$;

create or replace function grace_internal.key_json(expressions text [], names name [], types oid [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('jsonb_build_object(%s)', string_agg(
    format('%L, %s', u.name, grace_internal.value_json(u.expression, u.type)), ', ' order by u.n
  ))
  from unnest(expressions, names, types) with ordinality as u (expression, name, type, n)
$$;

-- filters/unindexed_size.sql
-- How much PostgreSQL has to read for each row that is deleted from the referenced table, for want of an index that begins with the
-- foreign key's columns.
create or replace function grace_internal.unindexed_size(constraint_id oid)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(pg_relation_size(t.relation)), 0)::bigint
  from pg_constraint f
  cross join lateral grace_internal.partition_tree(f.conrelid) as t (relation)
  where f.oid = constraint_id
    and not grace_internal.has_index_on(t.relation, grace_internal.column_names(f.conrelid, f.conkey))
$$;

-- filters/closure_edges.sql
-- The tables whose rows one DELETE on a table removes itself: the table and what inherits from it.
create or replace function grace_internal.closure_starts(target oid)
returns table (relation oid, root oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.relation, coalesce(pg_partition_root(t.relation), t.relation)
  from grace_internal.cascade_tree(target, false) as t (relation)
$$;

-- The foreign keys that reference any table that a DELETE reaches by ON DELETE CASCADE, as they were declared (not what PostgreSQL
-- makes of them for partitions). parent and child are roots of partition trees, referenced and referencing what the foreign key is
-- declared on; place is in which order PostgreSQL's triggers for them fire for a row; reason is why it can't be followed. A temporal
-- foreign key (PERIOD) can't cascade, and what it refuses is not foreseen.
create or replace function grace_internal.closure_edges(target oid)
returns table (
  id oid, name name, action text, parent oid, child oid, referenced oid, referencing oid,
  parent_names name [], child_names name [], place bigint, deferred boolean, reason text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive foreign_keys as materialized (
    select
      f.*,
      coalesce(pg_partition_root(f.confrelid), f.confrelid)::oid as parent,
      coalesce(pg_partition_root(f.conrelid), f.conrelid)::oid as child
    from pg_constraint f
    where f.contype = 'f' and f.conparentid = 0
      and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
      and not coalesce((to_jsonb(f) ->> 'conperiod')::boolean, false)
  ),
  nodes (relation) as (
    select s.root from grace_internal.closure_starts(target) s
    union
    select f.child
    from nodes n
    join foreign_keys f on f.parent = n.relation and f.confdeltype = 'c'
  ),
  readable as materialized (
    select c.conrelid as relation, grace_internal.unreadable_reason(c.conrelid) as reason
    from (
      select distinct f.conrelid from nodes n join foreign_keys f on f.parent = n.relation
    ) as c
  )
  select
    f.oid, f.conname, f.confdeltype::text, f.parent, f.child, f.confrelid, f.conrelid,
    grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey),
    row_number() over (partition by f.parent order by (
      select min(t.tgname::text collate "C")
      from pg_trigger t
      where t.tgconstraint = f.oid and t.tgrelid = f.confrelid and t.tgtype & 8 <> 0 -- DELETE
    ), f.oid),
    f.condeferred,
    coalesce('it is compared by ' || grace_internal.untrusted_foreign_key(f.oid), r.reason)
  from nodes n
  join foreign_keys f on f.parent = n.relation
  join readable r on r.relation = f.conrelid
$$;

-- filters/closure_nodes.sql
-- The tables that a DELETE reaches by ON DELETE CASCADE (the roots of their partition trees), parents before children; component is the
-- same for tables that are in a cycle of foreign keys, else null. columns are those that a part (see closure_parts) has to have: what
-- foreign keys refer to and, with keys, the primary key. reason says why nothing of a table can be found; incomplete that rows may be
-- missing because another one can't be read.
create or replace function grace_internal.closure_nodes(target oid, edges jsonb, keys boolean)
returns table (relation oid, component oid, place bigint, columns name [], reason text, incomplete boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive e as materialized (
    select *
    from jsonb_to_recordset(edges) as e (
      id oid, action text, parent oid, child oid, parent_names name [], reason text
    )
  ),
  starts as materialized (
    select
      s.root as relation,
      coalesce(
        grace_internal.unreadable_reason(s.relation),
        (
          select 'its key is compared by ' || grace_internal.untrusted_comparison(
            array_agg(k.operator_oid), array_agg(k.type), array_agg(k.type)
          )
          from grace_internal.key_operators(target) k
        )
      ) as reason
    from grace_internal.closure_starts(target) s
  ),
  nodes as materialized (
    select n.relation, coalesce(grace_internal.unreadable_reason(n.relation), min(n.reason)) as reason
    from (
      select s.relation, s.reason from starts s
      union all
      select e.child, null from e where e.action = 'c'
    ) as n (relation, reason)
    group by n.relation
  ),
  links as materialized (
    select distinct e.parent, e.child
    from e
    join nodes p on p.relation = e.parent and p.reason is null
    join nodes c on c.relation = e.child and c.reason is null
    where e.action = 'c' and e.reason is null
  ),
  reach (parent, child) as (
    select l.parent, l.child from links l
    union
    select r.parent, l.child from reach r join links l on l.parent = r.child
  ),
  lacking (relation) as (
    select e.child
    from e
    join nodes p on p.relation = e.parent
    where e.action = 'c' and (e.reason is not null or p.reason is not null)
    union
    select e.child from lacking i join e on e.parent = i.relation and e.action = 'c'
  )
  select
    n.relation,
    (
      select min(a.child)
      from reach a
      join reach b on b.parent = a.child and b.child = a.parent
      where a.parent = n.relation
    ),
    (select count(*) from reach r where r.child = n.relation),
    array(
      select u.name from e cross join lateral unnest(e.parent_names) as u (name) where e.parent = n.relation
      union
      select k.attname from grace_internal.key_operators(n.relation) k where keys
      union
      select k.attname
      from grace_internal.key_operators(target) k
      where keys and n.relation in (select s.relation from starts s)
    ),
    coalesce(
      n.reason,
      case when n.relation not in (
        select s.relation from starts s
        union
        select r.child from reach r where r.parent in (select s.relation from starts s)
      ) then coalesce(
        (select min(e.reason) from e where e.child = n.relation and e.action = 'c'),
        'it is reached only through tables that can''t be read'
      ) end
    ),
    n.relation in (select l.relation from lacking l)
  from nodes n
$$;

-- The foreign keys that tie other rows (t) to rows that go: match is the condition where p is a row of the part of its table,
-- table_match the same where it is a row of the table itself; only those of the partitions that leaves has count. indexed is told of
-- those within a cycle.
create or replace function grace_internal.closure_links(nodes jsonb, edges jsonb)
returns table (
  id oid, name name, action text, parent oid, child oid, component oid, child_component oid, referenced oid, referencing oid,
  parent_names name [], child_names name [], place bigint, deferred boolean, indexed boolean, leaves text, match text, table_match text,
  has_part boolean
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    e.id, e.name, e.action, e.parent, e.child, p.component, c.component, e.referenced, e.referencing,
    e.parent_names, e.child_names, e.place, e.deferred, case when c.component = p.component then grace_internal.unindexed_size(e.id) < 65536 end, v.leaves,
    grace_internal.foreign_key_match(
      e.id,
      array(
        select format('p.c%s', array_position(p.columns, u.name)) from unnest(e.parent_names) with ordinality as u (name, n) order by u.n
      ),
      grace_internal.columns_of('t', e.child_names)
    ) || case when e.referenced = e.parent then '' else format(' and p.leaf in (%s)', v.leaves) end,
    grace_internal.foreign_key_match(
      e.id, grace_internal.columns_of('p', e.parent_names), grace_internal.columns_of('t', e.child_names)
    ),
    c.relation is not null and c.reason is null
  from jsonb_to_recordset(edges) as e (
    id oid, name name, action text, parent oid, child oid, referenced oid, referencing oid,
    parent_names name [], child_names name [], place bigint, deferred boolean, reason text
  )
  join jsonb_to_recordset(nodes) as p (relation oid, component oid, columns name [], reason text)
    on p.relation = e.parent and p.reason is null
  left join jsonb_to_recordset(nodes) as c (relation oid, component oid, reason text) on c.relation = e.child
  cross join lateral (
    select string_agg(t.relation::text, ', ') from grace_internal.partition_tree(e.referenced) as t (relation)
  ) as v (leaves)
  where e.reason is null and (e.action <> 'c' or c.reason is null)
$$;

-- A foreign key refers to rows of this table, not of those that inherit from it.
create or replace function grace_internal.only_name(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select concat(case c.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(c.oid))
  from pg_class c
  where c.oid = relation
$$;

-- Errors: GR009 when a table has no primary key.
create or replace function grace_internal.require_key(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.primary_key(target) is null then
    raise exception 'table % has no primary key', target
      using errcode = 'GR009',
      detail = 'Its rows can''t be told apart by a key.',
      hint = format('Add one: alter table %s add primary key (…);', target);
  end if;
end
$$;

-- filters/closure_json.sql
-- What the functions that make the statement need to know, found once.
create or replace function grace_internal.closure_edges_json(target oid, actions text [])
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(to_jsonb(e)), '[]') from grace_internal.closure_edges(target) e where e.action = any (actions)
$$;

create or replace function grace_internal.closure_nodes_json(target oid, edges jsonb, keys boolean)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(to_jsonb(n)) from grace_internal.closure_nodes(target, edges, keys) n
$$;

create or replace function grace_internal.closure_links_json(nodes jsonb, edges jsonb)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(to_jsonb(l)), '[]') from grace_internal.closure_links(nodes, edges) l
$$;

-- filters/closure_parts.sql
create or replace function grace_internal.part_columns(count integer, keys boolean)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    '(leaf, tid%s%s)',
    case when keys then ', root_leaf, root_tid, path' end,
    (select string_agg(format(', c%s', n), '' order by n) from generate_series(1, count) n)
  )
$$;

-- A step on the way from a row to one that goes with it: by which foreign key (its place in closure_edges), to which row of those that
-- this deletes, one after the other as they are stored.
create or replace function grace_internal.path_step(place text, tid text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    '((%1$s::bigint << 48) + ((%2$s::text::point)[0]::bigint << 16) + (%2$s::text::point)[1]::bigint)', place, tid
  )
$$;

-- The queries that find rows of a table, and of the other tables of its cycle, from outside of the cycle: what is asked for, and what
-- hangs on rows of parts that come before. Columns are those of a part.
create or replace function grace_internal.closure_entries(
  target oid, source text, links jsonb, relation oid, columns text, keys boolean
)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select t.tableoid as leaf, t.ctid as tid%s%s from %s t where exists (select from %s where %s)',
    case when keys then ', t.tableoid as root_leaf, t.ctid as root_tid, array[]::bigint[] as path' end,
    columns, grace_internal.only_name(s.relation), source,
    (
      select string_agg(grace_internal.comparison(
        k.operator_oid, format('t.%I', k.attname), k.type, format('k.%I', k.attname), 0 -- cast, whatever the source says it is
      ), ' and ')
      from grace_internal.key_operators(target) k
    )
  )
  from grace_internal.closure_starts(target) s
  where s.root = closure_entries.relation
  union all
  select format(
    'select t.tableoid, t.ctid%s%s from n_%s p join %s t on %s',
    case
      when keys then format(
        ', p.root_leaf, p.root_tid, case when p.path is not null then p.path || %s end',
        grace_internal.path_step(l.place::text, 't.ctid')
      )
    end,
    columns, l.parent, grace_internal.only_name(l.referencing), l.match
  )
  from jsonb_to_recordset(links) as l (
    action text, parent oid, child oid, component oid, child_component oid, referencing oid, place bigint, match text
  )
  where l.child = closure_entries.relation and l.action = 'c'
    and (l.component is null or l.component is distinct from l.child_component)
$$;

-- What tells the rows of a part apart, and, where one is reached in several ways, which of them counts: the first.
create or replace function grace_internal.part_key(alias text, keys boolean)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('%1$s.leaf, %1$s.tid' || case when keys then ', %1$s.root_leaf, %1$s.root_tid' else '' end, alias)
$$;

create or replace function grace_internal.part_order(alias text, keys boolean)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when keys then format(
    ' order by %1$s, cardinality(%2$s.path), %2$s.path',
    grace_internal.part_key(alias, keys), alias
  ) else '' end
$$;

-- How long a way is followed exactly through a cycle of foreign keys: there may be as many ways of a length as ways to choose from
-- these.
create or replace function grace_internal.known_length(links jsonb)
returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select floor(ln(64) / ln(greatest(2, (
    select max(c.keys)
    from (
      select count(*) as keys
      from jsonb_to_recordset(links) as l (action text, component oid, child_component oid)
      where l.action = 'c' and l.component = l.child_component
      group by l.component
    ) as c
  ))))::integer
$$;

-- The rows of all tables of a cycle by their places: along the indexes of the foreign keys, row by row, or, where one lacks its index or
-- the rows are many, over all pairs of rows that are tied together in the cycle.
create or replace function grace_internal.closure_cycle(entries text [], links jsonb, component oid, keys boolean, many boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    case
      when bool_and(l.indexed) and not many then
        'r_%1$s%6$s as (select * from (%2$s) r union select x.leaf, x.tid%3$s from r_%1$s r cross join lateral (%4$s) x)'
      else
        'e_%1$s as materialized (%5$s), '
        'r_%1$s%6$s as (select * from (%2$s) r union select x.leaf, x.tid%3$s from r_%1$s r '
        'join e_%1$s x on x.parent_leaf = r.leaf and x.parent_tid = r.tid)'
    end,
    closure_cycle.component, array_to_string(entries, ' union all '),
    case when keys then format(
      ', r.root_leaf, r.root_tid, case when cardinality(r.path) < %s then r.path || %s end', grace_internal.known_length(links),
      grace_internal.path_step('x.place', 'x.tid')
    ) end,
    string_agg(
      format(
        'select t.leaf, t.tid, %s as place from ('
        'select %s from %s p where r.leaf in (%s) and p.tableoid = r.leaf and p.ctid = r.tid offset 0) p '
        'cross join lateral (select t.tableoid as leaf, t.ctid as tid from %s t where %s offset 0) t',
        l.place, array_to_string(grace_internal.columns_of('p', l.parent_names), ', '), grace_internal.only_name(l.parent), l.leaves,
        grace_internal.only_name(l.referencing), l.table_match
      ), ' union all '
    ),
    string_agg(
      format(
        'select p.tableoid as parent_leaf, p.ctid as parent_tid, t.tableoid as leaf, t.ctid as tid, %s as place from %s p join %s t on %s '
        'where p.tableoid in (%s)',
        l.place, grace_internal.only_name(l.parent), grace_internal.only_name(l.referencing), l.table_match, l.leaves
      ), ' union all '
    ),
    grace_internal.part_columns(0, keys)
  )
  from jsonb_to_recordset(links) as l (
    action text, parent oid, component oid, child_component oid, referencing oid, parent_names name [], place bigint, indexed boolean,
    leaves text, table_match text
  )
  where l.component = closure_cycle.component and l.child_component = l.component and l.action = 'c'
$$;

-- The parts, as queries of a WITH RECURSIVE, of a statement that finds all that goes with rows of a table: n_<oid> for each of
-- closure_nodes that can be read, with the places of the rows (leaf, tid: they tell rows apart within one snapshot) and their columns
-- (c1, c2, …). With keys also for which row of the target a row goes (root_leaf, root_tid), and path: the way from there, which says
-- when PostgreSQL deletes it: first by length, then step by step; null where a way through a cycle is longer than known_length. The
-- source is read under the name that it gives itself, k. To be run by the owner of pg_grace with search_path = pg_catalog, pg_temp and
-- constraint_exclusion = off, so that nothing of the application's is executed.
create or replace function grace_internal.closure_parts(target oid, source text, nodes jsonb, links jsonb, keys boolean, many boolean)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_node record;
  v_component oid;
  v_entries text [];
  v_columns text;
  v_parts text [] := array[]::text [];
begin
  for v_node in
    select n.*
    from jsonb_to_recordset(nodes) as n (relation oid, component oid, place bigint, columns name [], reason text)
    where n.reason is null
    order by n.place, n.component, n.relation
  loop
    v_columns := coalesce((
      select string_agg(format(', t.%I as c%s', u.name, u.n), '' order by u.n)
      from unnest(v_node.columns) with ordinality as u (name, n)
    ), '');
    if v_node.component is null then
      v_entries := array(
        select grace_internal.closure_entries(target, source, links, v_node.relation, v_columns, keys)
      );
      v_parts := v_parts || format(
        case
          when cardinality(v_entries) = 1 then 'n_%1$s%2$s as (%3$s)'
          else 'n_%1$s%2$s as (select distinct on (%4$s) u.* from (%3$s) u%2$s%5$s)'
        end,
        v_node.relation, grace_internal.part_columns(cardinality(v_node.columns), keys), array_to_string(v_entries, ' union all '),
        grace_internal.part_key('u', keys), grace_internal.part_order('u', keys)
      );
    else
      if v_node.component is distinct from v_component then
        v_component := v_node.component;
        v_parts := v_parts || grace_internal.closure_cycle(
          array(
            select grace_internal.closure_entries(target, source, links, n.relation, '', keys)
            from jsonb_to_recordset(nodes) as n (relation oid, component oid, reason text)
            where n.component = v_component and n.reason is null
          ),
          links, v_component, keys, many
        );
      end if;
      v_parts := v_parts || format(
        'n_%1$s%2$s as (select r.*%3$s from (select %4$s * from r_%5$s u%6$s) r '
        'join %7$s t on t.tableoid = r.leaf and t.ctid = r.tid)',
        v_node.relation, grace_internal.part_columns(cardinality(v_node.columns), keys), v_columns,
        case when keys then format('distinct on (%s)', grace_internal.part_key('u', keys)) end,
        v_component, grace_internal.part_order('u', keys), grace_internal.only_name(v_node.relation)
      );
    end if;
  end loop;
  return array_to_string(v_parts, ', ');
end
$$;

-- The primary key of a table as jsonb, from the columns of a part; null where the table has none.
create or replace function grace_internal.part_key_json(relation oid, alias text, columns name [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(*) > 0 then grace_internal.key_json(
    array_agg(format('%s.c%s', alias, array_position(columns, k.attname))), array_agg(k.attname), array_agg(k.type)
  ) else 'null::jsonb' end
  from grace_internal.key_operators(relation) k
$$;

-- What was asked for, with its keys, as a query on the parts.
create or replace function grace_internal.closure_records(target oid, nodes jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      'select r.leaf, r.tid, %s from n_%s r where r.leaf = r.root_leaf and r.tid = r.root_tid',
      grace_internal.part_key_json(target, 'r', n.columns), n.relation
    ), ' union all '
  )
  from jsonb_to_recordset(nodes) as n (relation oid, columns name [], reason text)
  where n.reason is null and n.relation in (select s.root from grace_internal.closure_starts(target) s)
$$;

-- filters/plan_for_rows.sql
-- A planner that takes a function for a thousand rows looks up the children of a million one by one. For many rows the statement gets
-- as much memory as making an index may take, for all its parts together. The caller sets back what this has
-- set. Returns whether they are many.
create or replace function grace_internal.plan_for_rows(target oid, source text, nodes jsonb)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_many bigint := (
    select greatest(10000, sum(c.reltuples) / 20)
    from grace_internal.partition_tree(target) as t (relation)
    join pg_class c on c.oid = t.relation
  );
  v_is_large boolean;
begin
  execute format('select count(*) > %s from (select from %s limit %s) s', v_many, source, v_many + 1) into v_is_large;
  if v_is_large then
    perform
      set_config('enable_nestloop', 'off', true),
      set_config('work_mem', greatest(w.setting::integer, m.setting::integer / jsonb_array_length(nodes))::text, true)
    from pg_settings w
    cross join pg_settings m
    where w.name = 'work_mem' and m.name = 'maintenance_work_mem';
  end if;
  return v_is_large;
end
$$;

-- filters/closure_counts.sql
-- The rows of closure_counts but for the counts.
create or replace function grace_internal.closure_tables(nodes jsonb, edges jsonb)
returns table (relation oid, effect text, place bigint, through text, at_least boolean, reason text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with e as (
    select e.*, coalesce(e.reason, p.reason) as lacks, p.incomplete
    from jsonb_to_recordset(edges) as e (name name, action text, parent oid, child oid, reason text)
    join jsonb_to_recordset(nodes) as p (relation oid, reason text, incomplete boolean) on p.relation = e.parent
  )
  select
    n.relation, 'deleted', n.place,
    (select string_agg(distinct e.name, ', ') from e where e.child = n.relation and e.action = 'c'),
    n.incomplete and n.reason is null, n.reason
  from jsonb_to_recordset(nodes) as n (relation oid, place bigint, reason text, incomplete boolean)
  union all
  select
    e.child, 'link cut', 0, string_agg(distinct e.name, ', '),
    bool_or(e.incomplete or e.lacks is not null) and not bool_and(e.lacks is not null),
    case when bool_and(e.lacks is not null) then
      coalesce(min(e.reason), 'it is reached only through tables that can''t be read')
    end
  from e
  where e.action in ('n', 'd')
  group by e.child
$$;

-- What deleting rows of a table takes with it: per table how many rows go (deleted), and of how many others a foreign key with ON
-- DELETE SET NULL or SET DEFAULT would cut the link (link cut). source is a FROM item called k with the primary key columns of the
-- rows, named and typed as in the table. Where a table can't be read row_count is null, reason says why, and what might be reached
-- through it is at_least. through are the foreign keys. What the application's triggers would do is not foreseen. Reads only, with
-- ACCESS SHARE. Errors: GR009 when the table has no primary key.
create or replace function grace_internal.closure_counts(target regclass, source text)
returns table (
  relation regclass, effect text, row_count bigint, through text, is_protected boolean, at_least boolean, reason text
)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set jit = off
set enable_nestloop = on -- until it ends: it may change meanwhile
as $$
declare
  v_edges jsonb := grace_internal.closure_edges_json(target, '{c,n,d}');
  v_nodes jsonb := grace_internal.closure_nodes_json(target, v_edges, false);
  v_links jsonb := grace_internal.closure_links_json(v_nodes, v_edges);
  v_parts text;
  v_counts text;
  v_work_mem text := current_setting('work_mem');
begin
  perform grace_internal.require_key(target);
  if exists (select from jsonb_to_recordset(v_nodes) as n (reason text) where n.reason is null) then
    v_parts := grace_internal.closure_parts(
      target, source, v_nodes, v_links, false, grace_internal.plan_for_rows(target, source, v_nodes)
    ) || ',';
  end if;
  select string_agg(format(' union all select %s, %L, count(*) from %s', c.relation, c.effect, c.source), '') into v_counts
  from (
    select n.relation, 'deleted', format('n_%s', n.relation)
    from jsonb_to_recordset(v_nodes) as n (relation oid, reason text)
    where n.reason is null
    union all
    select
      l.child, 'link cut',
      format(
        '(%s) t%s',
        string_agg(
          format(
            'select t.tableoid as leaf, t.ctid as tid from n_%s p join %s t on %s',
            l.parent, grace_internal.only_name(l.referencing), l.match
          ), ' union '
        ),
        case when l.has_part then
          format(' where not exists (select from n_%s d where d.leaf = t.leaf and d.tid = t.tid)', l.child)
        end
      )
    from jsonb_to_recordset(v_links) as l (
      action text, parent oid, child oid, referencing oid, match text, has_part boolean
    )
    where l.action in ('n', 'd')
    group by l.child, l.has_part
  ) as c (relation, effect, source);
  return query execute format(
    $q$
      with recursive %s counts (relation, effect, row_count) as (select 0::oid, '', 0::bigint where false%s)
      select
        d.relation::regclass, d.effect, c.row_count, d.through,
        exists (select from grace_internal.protected p where p.target = d.relation and p.active),
        d.at_least, d.reason
      from grace_internal.closure_tables($1, $2) d
      left join counts c using (relation, effect)
      order by d.effect, d.place, d.relation
    $q$,
    v_parts, v_counts
  )
  using v_nodes, v_edges;
  perform set_config('work_mem', v_work_mem, true);
end
$$;

-- filters/closure_blockers.sql
-- What a column of a row gets by ON DELETE SET DEFAULT, as an expression; null when that is not a plain constant of a type of
-- PostgreSQL's own, for evaluating it could run code of others.
create or replace function grace_internal.constant_default(relation oid, attnum smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when d.oid is null then format('null::%s', format_type(b.type, -1))
    when t.typnamespace = 'pg_catalog'::regnamespace and (
      d.adbin::text ~ '^\{CONST '
      or d.adbin::text ~ '^\{FUNCEXPR [^{]*:funcformat 2 [^{]*:args \(\{CONST [^{]*$' and exists (
        select
        from pg_cast c
        where c.castfunc = substring(d.adbin::text from ':funcid (\d+)')::oid and c.castfunc < 10000
      )
    ) then format('(%s)::%s', pg_get_expr(d.adbin, d.adrelid), format_type(b.type, -1))
  end
  from pg_attribute a
  cross join lateral grace_internal.base_type(a.atttypid) as b (type)
  join pg_type t on t.oid = b.type
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = relation and a.attnum = constant_default.attnum
$$;

-- How the links that a foreign key with ON DELETE SET NULL or SET DEFAULT cuts stand in the way of the deletion: a condition on a row t
-- that refers to one that goes, and why; is_gone is whether the row q goes as well. No row where they don't, or where it can't be said
-- beforehand.
create or replace function grace_internal.cut_blocks(constraint_id oid, is_gone text)
returns table (condition text, reason text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with set_columns as (
    select
      f.oid, k.n, a.attname, s.attnum is not null as is_set, a.attnotnull,
      case
        when s.attnum is null then format('t.%I', a.attname)
        when f.confdeltype = 'n' then 'null'
        else grace_internal.constant_default(f.conrelid, k.attnum)
      end as value
    from pg_constraint f
    cross join lateral unnest(f.conkey) with ordinality as k (attnum, n)
    join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum
    left join unnest(coalesce(nullif(f.confdelsetcols, '{}'), f.conkey)) as s (attnum) on s.attnum = k.attnum
    where f.oid = constraint_id and f.confdeltype in ('n', 'd')
  )
  select 'true', format('its column %I can''t be null', min(s.attname))
  from set_columns s
  where s.is_set and s.attnotnull and s.value ~ '^null(::|$)'
  having count(*) > 0
  union all
  select
    format(
      'num_nulls(%s) = 0 and not exists (select from %s q where %s and not (%s))',
      string_agg(s.value, ', '), grace_internal.only_name(f.confrelid),
      grace_internal.foreign_key_match(
        f.oid, grace_internal.columns_of('q', grace_internal.column_names(f.confrelid, f.confkey)), array_agg(s.value order by s.n)
      ),
      is_gone
    ),
    'what its link would be set to is not there'
  from pg_constraint f
  join set_columns s on s.oid = f.oid
  where f.confdeltype = 'd'
  group by f.oid, f.confrelid, f.confkey
  having bool_and(s.value is not null) and not bool_or(s.is_set and s.attnotnull and s.value ~ '^null(::|$)')
$$;

-- The records (primary keys as jsonb) of those that source yields whose deletion a foreign key would refuse, each with the reasons: a
-- row that goes is referred to, by NO ACTION or RESTRICT, by a row that is there still. PostgreSQL looks for such rows for each deleted
-- row, in the order of its triggers (what cascades from a row, and what must not refer to it, in the order in which the foreign keys
-- were made), before it deletes what cascades from the rows that it has just deleted; NO ACTION that is not INITIALLY DEFERRED is no
-- different from RESTRICT in that. So a referencing row that the cascade reaches later blocks as well. After a long way through a cycle
-- of foreign keys the order is not known: then a row that goes at all does not block. With together all records are deleted at once,
-- and what goes with any of them does not block. A row without a key says what can't be known. What SET NULL and SET DEFAULT would run
-- into is found as well; a default only where it is a constant. See closure_counts for source. Errors: GR009 when the table has no
-- primary key.
create or replace function grace_internal.closure_blockers(
  target regclass, source text, max_rows integer default null, together boolean default false
)
returns table (key jsonb, reason text)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set jit = off
set enable_nestloop = on -- until it ends: it may change meanwhile
set extra_float_digits = 1
set intervalstyle = 'postgres'
as $$
declare
  v_edges jsonb := grace_internal.closure_edges_json(target, '{c,a,r,n,d}');
  v_nodes jsonb := grace_internal.closure_nodes_json(target, v_edges, true);
  v_links jsonb := grace_internal.closure_links_json(v_nodes, v_edges);
  v_blocked text;
  v_work_mem text := current_setting('work_mem');
begin
  perform grace_internal.require_key(target);
  return query
    select
      null::jsonb,
      format('whether rows of %s stand in the way can''t be told: %s', u.relation::regclass, string_agg(distinct u.reason, '; '))
    from (
      select e.child, e.reason from jsonb_to_recordset(v_edges) as e (child oid, reason text)
      union all
      select n.relation, n.reason from jsonb_to_recordset(v_nodes) as n (relation oid, reason text)
    ) as u (relation, reason)
    where u.reason is not null
    group by u.relation;
  select string_agg(
    format(
      'select p.root_leaf, p.root_tid, case when p.leaf = p.root_leaf and p.tid = p.root_tid then %L else %L end '
      'from n_%s p join %s t on %s where %s%s',
      concat_ws(', and ', format('%s refers to it (%I)', r.child, l.name), b.reason),
      concat_ws(', and ', format('its %s is referred to by %s (%I)', r.parent, r.child, l.name), b.reason),
      l.parent, grace_internal.only_name(l.referencing), l.match, b.condition,
      case when l.has_part then format(
        ' and not exists (select from n_%s d where d.leaf = t.tableoid and d.tid = t.ctid%s%s)',
        l.child, r.same_record,
        case when not together and not (l.action = 'a' and l.deferred) then format(
          ' and (p.path is null or d.path is null and cardinality(p.path) >= %s or cardinality(d.path) <= cardinality(p.path) or '
          'cardinality(d.path) = cardinality(p.path) + 1 and d.path < p.path || (%s::bigint << 48))',
          grace_internal.known_length(v_links), l.place
        ) end
      ) end
    ), ' union all '
  )
  into v_blocked
  from jsonb_to_recordset(v_links) as l (
    id oid, name name, action text, parent oid, child oid, referencing oid, place bigint, deferred boolean, match text, has_part boolean
  )
  cross join lateral (
    select
      grace_internal.qualified_name(l.parent) as parent, grace_internal.qualified_name(l.child) as child,
      case when not together then ' and d.root_leaf = p.root_leaf and d.root_tid = p.root_tid' end as same_record
  ) as r
  cross join lateral (
    select 'true' as condition, null as reason where l.action in ('a', 'r')
    union all
    select * from grace_internal.cut_blocks(
      l.id,
      format('exists (select from n_%s d where d.leaf = q.tableoid and d.tid = q.ctid%s)', l.parent, r.same_record)
    )
  ) as b
  where l.action <> 'c';
  if v_blocked is null then
    return;
  end if;
  return query execute format(
    'with recursive %s, records (leaf, tid, key) as (%s), blocked (leaf, tid, reason) as (%s) '
    'select k.key, b.reason from (select b.leaf, b.tid, string_agg(distinct b.reason, ''; '') as reason from blocked b '
    'group by b.leaf, b.tid order by b.leaf, b.tid limit $1) b join records k using (leaf, tid) order by b.leaf, b.tid',
    grace_internal.closure_parts(
      target, source, v_nodes, v_links, true, grace_internal.plan_for_rows(target, source, v_nodes)
    ),
    grace_internal.closure_records(target, v_nodes), v_blocked
  )
  using max_rows;
  perform set_config('work_mem', v_work_mem, true);
end
$$;

-- filters/closure_rows.sql
-- The text of a query of two columns, record and key: the rows of one table (named by the root of its partition tree) that go with each
-- record that source yields, by their primary keys, as jsonb; a null key where the table has no primary key. null when nothing of the
-- table goes, or nothing of it can be read. It is made for the owner of pg_grace: to be run as closure_parts says, and in the same
-- transaction, for it names partitions by their numbers. See closure_counts for source. Errors: GR009.
create or replace function grace_internal.closure_rows(target regclass, source text, relation regclass)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_edges jsonb := grace_internal.closure_edges_json(target, '{c}');
  v_nodes jsonb := grace_internal.closure_nodes_json(target, v_edges, true);
begin
  perform grace_internal.require_key(target);
  return (
    select format(
      'with recursive %s, records (leaf, tid, key) as (%s) '
      'select k.key as record, %s as key from n_%s n join records k on k.leaf = n.root_leaf and k.tid = n.root_tid',
      grace_internal.closure_parts(target, source, v_nodes, grace_internal.closure_links_json(v_nodes, v_edges), true, false),
      grace_internal.closure_records(target, v_nodes),
      grace_internal.part_key_json(n.relation, 'n', n.columns), n.relation
    )
    from jsonb_to_recordset(v_nodes) as n (relation oid, columns name [], reason text)
    where n.relation = closure_rows.relation and n.reason is null
  );
end
$$;

-- holds/find_record.sql
-- A row's key as text, read where the row stands (alias r), under settings that are always the same. STABLE: with the snapshot in which
-- it was found.
create or replace function grace_internal.written_key(relation oid, tid tid, expression text)
returns text []
language plpgsql stable
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the table's checks while planning
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_result text [];
begin
  execute format('select %s from only %s r where r.ctid = $1', expression, grace_internal.qualified_name(relation))
  into v_result using tid;
  return v_result;
end
$$;

-- The live row that has this key, as text: its key as it is written there, or null. What can be read from text safely is looked up as the
-- index does it, the rest as text. Errors: GR010 when the table can't be read.
create or replace function grace_internal.find_live(protected_id integer, names name [], key_values text [])
returns text []
language plpgsql stable
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off
as $$
declare
  v_target regclass;
  v_is_tree boolean;
  v_condition text;
  v_result text [];
begin
  select p.target, c.relkind = 'p' into v_target, v_is_tree
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  where p.id = protected_id;
  if not found then
    return null;
  end if;
  perform grace_internal.require_trusted_code(v_target, 'Let a superuser own the function: alter function … owner to …;');
  if row_security_active(v_target) then
    raise exception 'records of % can''t be looked up', v_target
      using errcode = 'GR010',
      detail = 'It has FORCE ROW LEVEL SECURITY, which hides rows from the owner of pg_grace.',
      hint = format('Give role %I BYPASSRLS.', current_user);
  end if;
  select string_agg(
    case
      when e.operator is not null and grace_internal.is_safe_to_read(a.atttypid) then format(
        't.%I %s %L::%s', a.attname, e.operator, k.value, format_type(grace_internal.base_type(a.atttypid), -1)
      )
      else format('%s = %L', grace_internal.key_text(format('t.%I', a.attname), a.atttypid), k.value)
    end,
    ' and '
  )
  into v_condition
  from unnest(names, key_values) as k (name, value)
  join pg_attribute a on a.attrelid = v_target and a.attname = k.name
  left join lateral (
    select grace_internal.equality(i.indexrelid, u.position::integer) as operator
    from pg_index i
    cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
    where i.indrelid = v_target and i.indisprimary and u.attnum = a.attnum
  ) as e on true;
  execute format(
    'select grace_internal.written_key(t.tableoid, t.ctid, %L) from %s%s t where %s limit 1',
    grace_internal.live_key('r', v_target, names), case when v_is_tree then '' else 'only ' end,
    grace_internal.qualified_name(v_target), v_condition
  )
  into v_result;
  return v_result;
end
$$;

-- The same for the rows of the buffer that can be restored, the newest first.
create or replace function grace_internal.find_buffered(protected_id integer, names name [], key_values text [])
returns text []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns smallint [];
  v_condition text;
  v_result text [];
begin
  select
    array_agg(k.attnum order by k.position),
    string_agg('(' || (
      select string_agg(
        case
          when c.ended_at is null and grace_internal.is_safe_to_read(c.type) then format(
            'b.%I %s %L::%s', c.buffer_column, grace_internal.equality(i.indexrelid, k.position::integer), k.value, format_type(c.type, -1)
          )
          else format('%s = %L', grace_internal.key_text(format('b.%I', c.buffer_column), c.type), k.value)
        end,
        ' or '
      )
      from grace_internal.protected_column c
      cross join lateral grace_internal.base_type(c.type) as y (type)
      where c.protected_id = p.id and c.attname = k.name
    ) || ')', ' and ')
  into v_columns, v_condition
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral (
    select c.attnum, a.attname as name, u.position, (key_values)[array_position(names, a.attname)] as value
    from unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
    join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
    join grace_internal.protected_column c on c.protected_id = p.id and c.attname = a.attname and c.ended_at is null
  ) as k
  where p.id = protected_id;
  execute format(
    'select grace_internal.written_key(b.tableoid, b.ctid, %L) from grace_buffer.%I b '
    'where b.grace_deleted_at > grace._expired_before(%s) and %s order by b.grace_deleted_at desc limit 1',
    grace_internal.buffered_key_text(protected_id, v_columns, 'r'),
    (select p.buffer from grace_internal.protected p where p.id = protected_id), protected_id, v_condition
  )
  into v_result;
  return v_result;
end
$$;

-- holds/hold.sql
create or replace function grace_internal.check_hold(reason text, until timestamptz)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(btrim(reason) = '', true) then
    raise exception 'no reason given'
      using errcode = 'invalid_parameter_value',
      detail = 'Whoever is refused a delete, or asks years later, is told it.',
      hint = 'Give it as reason => ''tax audit 2025''.';
  end if;
  if until <= clock_timestamp() then
    raise exception 'until is in the past'
      using errcode = 'invalid_parameter_value',
      detail = format('It is %s.', to_char(until, 'YYYY-MM-DD HH24:MI:SS TZ')),
      hint = 'Give a moment that is to come, or leave until out: then the hold lasts until it is released.';
  end if;
end
$$;

-- The table against those who write to it, and then how it is protected, for which nobody may be kept waiting long.
create or replace function grace_internal.lock_for_hold(protected_id integer, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (select p.target from grace_internal.protected p where p.id = protected_id);
  v_before text := current_setting('lock_timeout');
begin
  perform grace_internal.lock_for_ddl(array[v_target], 'share row exclusive', max_wait);
  begin
    perform set_config('lock_timeout', '100ms', true);
    perform from grace_internal.protected p where p.id = protected_id for no key update;
    perform set_config('lock_timeout', v_before, true);
  exception when lock_not_available then
    raise exception 'how % is protected is being changed', v_target
      using errcode = 'GR006',
      detail = 'Another transaction that does so has not ended yet.',
      hint = 'Nothing was held. Try again when it has ended.';
  end;
end
$$;

-- Every delete that began before this has ended, and every later one is checked: it waits for the table's writers, as making triggers
-- does. Before that nothing is locked but the holds, against a purge.
create or replace function grace.hold(
  target regclass, key jsonb, reason text, case_number text default null, until timestamptz default null,
  wait interval default '60 seconds'
)
returns setof bigint
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_protected grace_internal.protected;
  v_key jsonb;
  v_names name [];
  v_values text [];
  v_live text [];
  v_found jsonb := jsonb_build_array();
  v_holds bigint [];
  v_others text;
begin
  perform grace_internal.check_hold(reason, until);
  select p.* into v_protected from grace_internal.protected p where p.id = v_id;
  if not v_protected.active then
    raise exception 'table % is not protected', target
      using errcode = 'GR001',
      detail = 'It was unprotected, so nothing stops its deletes.',
      hint = format('Protect it with: select * from grace.protect(%L);', target);
  end if;
  lock table grace_internal.hold in row exclusive mode; -- a purge has what it looks at to itself
  if grace_internal.columns_differ(v_id) then
    perform grace_internal.lock_for_hold(v_id, wait);
    perform grace_internal.sync_columns(v_id);
    perform grace_internal.generate_capture(v_id);
  end if;
  select grace_internal.column_names(i.indrelid, i.indkey::smallint []) into v_names
  from pg_index i
  where i.indrelid = v_protected.target and i.indisprimary;
  for v_key in select k from jsonb_array_elements(grace_internal.normal_keys(v_id, key)) k loop
    select array_agg(v_key ->> n.name order by n.position) into v_values from unnest(v_names) with ordinality as n (name, position);
    begin
      v_live := grace_internal.find_live(v_id, v_names, v_values);
      v_values := coalesce(v_live, grace_internal.find_buffered(v_id, v_names, v_values));
    exception when data_exception then
      raise exception 'key % can''t be read', v_key
        using errcode = 'GR008', detail = sqlerrm, hint = 'Give each value as the column''s type reads it.';
    end;
    if v_values is null then
      raise exception '% % can''t be held', target, v_key
        using errcode = 'GR007',
        detail = 'There is no such record, neither in the table nor, restorable, in its buffer.',
        hint = 'Nothing was held. Rows of tables that inherit from it are held as theirs.';
    end if;
    v_found := v_found || jsonb_build_object('key_values', v_values, 'is_live', v_live is not null);
  end loop;

  perform grace_internal.lock_for_hold(v_id, wait);
  with held as (
    insert into grace_internal.hold (
      protected_id, target_name, key, columns, names, types, key_values, is_live, reason, case_number, until, held_by, held_login
    )
    select
      v_id, grace_internal.qualified_name(v_protected.target), grace_internal.shown_key(v_names, y.types, w.key_values), y.columns,
      v_names, y.types, w.key_values, w.is_live, hold.reason, nullif(hold.case_number, ''), hold.until, grace_internal.caller(), session_user
    from jsonb_to_recordset(v_found) as w (key_values text [], is_live boolean)
    cross join lateral (
      select
        array_agg(a.attnum order by n.position) as columns,
        array_agg(grace_internal.base_type(a.atttypid)::regtype order by n.position) as types
      from unnest(v_names) with ordinality as n (name, position)
      join pg_attribute a on a.attrelid = v_protected.target and a.attname = n.name
    ) as y
    returning id
  )
  select array_agg(h.id order by h.id) into v_holds from held h;
  select string_agg(format('%s by hold %s', o.key, o.id), ', ' order by o.id) into v_others
  from grace_internal.active_hold o
  where o.protected_id = v_id and o.id <> all (v_holds)
    and o.key_values in (select h.key_values from grace_internal.hold h where h.id = any (v_holds));
  if v_others is not null then
    raise notice 'held already: %', v_others;
  end if;
  perform grace_internal.generate_capture(v_id);
  insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
  values (
    'hold', v_protected.target, 'done', clock_timestamp(), cardinality(v_holds),
    jsonb_build_object('action', 'hold', 'holds', v_holds), grace_internal.caller(), session_user
  );
  return query select unnest(v_holds);
end
$$;
comment on function grace.hold(regclass, jsonb, text, text, timestamptz, interval) is
'Holds a record of a protected table: until it is released, or until the time given, nothing deletes it, by whatever statement, nothing overwrites it, TRUNCATE is refused, and what is buffered of it is not purged. key: its primary key, {"id": 7} or, for a one-column key, 7; or an array of keys, for a hold on each: all of them, or none. reason, case_number: what whoever is refused is told. wait: how long to try for the lock that makes sure that no delete is under way; it lasts until the transaction ends. What hangs on the record is held only if it is named, too. Returns the holds'' ids. Errors: GR001, GR006, GR007 when there is no such record, GR008, GR009, GR010, 22023.';

create or replace function grace.release(hold bigint, reason text)
returns void
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold grace_internal.hold;
  v_others text;
begin
  perform grace_internal.check_hold(reason, null);
  select h.* into v_hold from grace_internal.hold h where h.id = hold for update;
  if not found or v_hold.released_at is not null then
    raise exception 'there is no hold % to be released', coalesce(hold::text, 'null')
      using errcode = 'invalid_parameter_value',
      detail = case
        when v_hold.id is null then 'No hold has this number.'
        else format('It was released by %s at %s.', v_hold.released_by, to_char(v_hold.released_at, 'YYYY-MM-DD HH24:MI TZ'))
      end,
      hint = 'Look at what is held: select * from grace.holds where is_active;';
  end if;
  update grace_internal.hold h
  set
    released_at = clock_timestamp(), released_by = grace_internal.caller(), released_login = session_user,
    release_reason = release.reason
  where h.id = v_hold.id;
  perform from grace_internal.protected p where p.id = v_hold.protected_id for no key update;
  -- What is kept and no longer held is due with the next purge.
  update grace_internal.capture c set kept = false where c.protected_id = v_hold.protected_id and c.kept;
  perform grace_internal.forget_ended_holds();
  select string_agg(format('hold %s', o.id), ', ' order by o.id) into v_others
  from grace_internal.active_hold o
  where o.protected_id = v_hold.protected_id and o.key_values = v_hold.key_values and o.columns = v_hold.columns;
  if v_others is not null then
    raise notice 'the record is still held: %', v_others;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
  values (
    'hold', (select p.target from grace_internal.protected p where p.id = v_hold.protected_id), 'done', clock_timestamp(), 1,
    jsonb_build_object('action', 'release', 'holds', array[v_hold.id]), grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.release(bigint, text) is
'Ends a hold. The record can be deleted again, and what is buffered of it and past its retention goes with the next purge, unless another hold is on it. The hold stays on record. Errors: 22023 when there is no such hold, or it has been released, or no reason is given.';

-- Errors: GR029 when a table has active holds (null: any table).
create or replace function grace_internal.require_no_holds(only_id integer, what text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold record;
begin
  select h.id, p.target_name, h.key, count(*) over () as holds into v_hold
  from grace_internal.active_hold h
  join grace_internal.protected p on p.id = h.protected_id
  where only_id is null or h.protected_id = any (grace_internal.held_under(only_id))
  order by h.id
  limit 1;
  if found then
    raise exception '%: records are held', what
      using errcode = 'GR029',
      detail = format(
        'Hold %s is on %s %s%s.', v_hold.id, v_hold.target_name, v_hold.key,
        case when v_hold.holds > 1 then format('; %s more', v_hold.holds - 1) end
      ),
      hint = 'See select * from grace.holds where is_active; and release them: select grace.release(…, ''reason'');';
  end if;
end
$$;

-- holds/holds.sql
create or replace view grace.holds as
select
  h.id,
  p.target,
  h.key,
  h.reason,
  h.case_number,
  h.until,
  h.held_at,
  h.held_by,
  h.released_at,
  h.released_by,
  h.release_reason,
  h.released_at is null and coalesce(h.until > statement_timestamp(), true) as is_active,
  coalesce(p.target_name, h.target_name) as target_name
from grace_internal.hold h
left join grace_internal.protected p on p.id = h.protected_id;

comment on view grace.holds is
'Every hold, also those that were released or whose time has passed: which record, why, by whom, until when.';
comment on column grace.holds.target is 'Null when the table, or its protection, is gone.';
comment on column grace.holds.key is 'The record''s primary key.';
comment on column grace.holds.until is 'From then on it no longer holds; null: until it is released.';
comment on column grace.holds.is_active is 'It holds now.';

create or replace function grace.held_rows(hold bigint)
returns setof jsonb
language plpgsql stable
security definer -- what has expired is shown to nobody otherwise
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_hold grace_internal.active_hold;
  v_key text;
begin
  select h.* into v_hold from grace_internal.active_hold h where h.id = hold;
  if not found then
    raise exception 'no hold % is active', coalesce(hold::text, 'null')
      using errcode = 'invalid_parameter_value',
      detail = 'There is none with this number, or it was released, or its time has passed.',
      hint = 'Look at what is held: select * from grace.holds where is_active;';
  end if;
  v_key := grace_internal.buffered_key_text(v_hold.protected_id, v_hold.columns, 'b');
  if v_key is null then
    return; -- all of the buffer is kept, and which row it is can't be told
  end if;
  -- to_jsonb() of a value of the application's type could run its code.
  return query execute (
    select format(
      'select to_jsonb(r.*) from (select %s from grace_buffer.%I b where %s = $1 order by b.grace_deleted_at desc, b.grace_deletion desc) r',
      string_agg(
        case
          when grace_internal.belongs_to_application(a.atttypid) then
            format('%s as %I', grace_internal.as_text(format('b.%I', c.buffer_column)), c.buffer_column)
          else format('b.%I', c.buffer_column)
        end,
        ', ' order by a.attnum
      ),
      p.buffer, v_key
    )
    from grace_internal.protected p
    join grace_internal.protected_column c on c.protected_id = p.id
    join pg_attribute a on a.attrelid = format('grace_buffer.%I', p.buffer)::regclass and a.attname = c.buffer_column
    where p.id = v_hold.protected_id
    group by p.buffer
  )
  using v_hold.key_values;
end
$$;
comment on function grace.held_rows(bigint) is
'What the buffer holds of a held record, also past its retention, when nothing else shows it any more: each version as jsonb, the newest first. Nothing while the record has never been deleted. Errors: 22023 when the hold is not active.';

-- For what decides by itself which records go: the holds on a table's records, their keys as text and by which columns (as they are called
-- now; null when they are gone or have changed). A row's own is what grace_internal.live_key() says, under grace_internal.key_settings().
create or replace function grace_internal.held_keys(protected_id integer)
returns table (hold_id bigint, key jsonb, names name [], key_values text [])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select h.id, h.key, grace_internal.hold_names(h.*), h.key_values
  from grace_internal.active_hold h
  where h.protected_id = any (grace_internal.held_under(held_keys.protected_id))
$$;

-- purge/leaves.sql
-- The leaves of a buffer, and of what is kept of its files, with the time they cover: both null for a default partition. All or
-- part of that time may be past the retention.
create or replace function grace_internal.leaves(protected_id integer)
returns table (
  leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz, holds_files boolean,
  is_expired boolean, is_partly_expired boolean, is_current boolean
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    l.leaf, l.name, l.lower_bound, l.upper_bound, s.kind = 'f',
    l.upper_bound is not null and l.upper_bound - interval '1 microsecond' <= e.expired_before,
    coalesce(
      l.lower_bound <= e.expired_before and l.upper_bound - interval '1 microsecond' > e.expired_before, true
    ),
    coalesce(l.lower_bound <= clock_timestamp() and l.upper_bound > clock_timestamp(), true)
  from (select grace._expired_before(leaves.protected_id) as expired_before) e
  cross join (values ('b'), ('f')) as s (kind)
  cross join lateral grace_internal.stem_leaves(s.kind || leaves.protected_id) l
$$;

-- holds/keep_held.sql
-- Which rows of a buffer's leaves (an alias) are held, or which pieces of files belong to one, as a condition; null where nothing is. All
-- are, where a hold's record can't be told from others any more. Read under grace_internal.key_settings().
create or replace function grace_internal.held_in_leaf(protected_id integer, holds_files boolean, alias text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows text := case when holds_files then 'r' else alias end;
  v_condition text;
begin
  select case
    when count(k.expression) = count(*) and count(*) > 0 then format(
      'exists (select from grace_internal.active_hold h where (%s))',
      string_agg(
        format('h.protected_id = %s and h.columns = %L::smallint[] and h.key_values = %s', k.protected_id, k.columns, k.expression), ' or '
      )
    )
    when count(*) > 0 then 'true'
  end
  into v_condition
  from (
    select a.protected_id, a.columns, grace_internal.buffered_key_text(p.id, a.here, v_rows) as expression
    from grace_internal.protected p
    cross join lateral (
      select distinct
        h.protected_id, h.columns,
        case
          when h.protected_id = p.id then h.columns
          else coalesce(grace_internal.numbers_of(p.target, grace_internal.hold_names(h.*)), '{-1}')
        end as here
      from grace_internal.active_hold h
      where h.protected_id = any (grace_internal.held_under(p.id))
    ) as a
    where p.id = held_in_leaf.protected_id
  ) as k;
  if holds_files and v_condition is not null then
    v_condition := (
      select format(
        'exists (select from grace_buffer.%1$I r where r.grace_deletion = %2$s.grace_deletion '
        'and r.grace_deleted_at = %2$s.grace_deleted_at and %2$s.loid = any (%3$s) and %4$s)',
        p.buffer, alias, grace_internal.file_values(p.id, 'large object', v_rows), v_condition
      )
      from grace_internal.protected p
      where p.id = held_in_leaf.protected_id and grace_internal.file_values(p.id, 'large object', v_rows) is not null
    );
  end if;
  return v_condition;
end
$$;

-- Of a leaf that has expired all goes but what is held; returns how many rows went, null when nothing of it is held. The leaf is read
-- before it is locked: nothing is written to it any more.
create or replace function grace_internal.keep_held(protected_id integer, leaf oid)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_bounds record;
  v_held text;
  v_kept text := 'grace_internal.kept';
  v_tids tid [];
  v_has_held boolean;
  v_others bigint;
  v_rows bigint;
begin
  select l.* into v_bounds from grace_internal.leaves(protected_id) l where l.leaf = keep_held.leaf and l.is_expired;
  v_held := grace_internal.held_in_leaf(protected_id, v_bounds.holds_files, 'b');
  if v_held is null then
    return null;
  end if;
  execute format(
    'select bool_or(b.held), array_agg(b.ctid) filter (where b.held or b.waits), count(*) filter (where not (b.held or b.waits)) '
    'from (select b.ctid, %s as held, %s as waits from %s b) b',
    v_held,
    case when v_bounds.holds_files then 'b.page = 0' else 'false' end, -- the first page stands for an object that is yet to be unlinked
    v_leaf
  )
  into v_has_held, v_tids, v_others;
  if v_has_held is not true then
    return null;
  end if;
  if v_others = 0 then
    return 0;
  end if;
  execute format('lock table %s in access exclusive mode', v_leaf);
  if not exists (select from grace_internal.leaves(protected_id) l where l.leaf = keep_held.leaf and l.is_expired) then
    return 0; -- the retention was raised meanwhile
  end if;
  execute format('create table %s (like %s including storage)', v_kept, v_leaf);
  execute format('insert into %s select * from %s b where b.ctid = any ($1)', v_kept, v_leaf) using v_tids;
  get diagnostics v_rows = row_count;
  if v_rows <> cardinality(v_tids) then
    execute format('drop table %s', v_kept); -- once more
    return 0;
  end if;
  if not v_bounds.holds_files then
    perform grace_internal.post_files(protected_id, format('from %s b where b.ctid <> all (%L::tid[])', v_leaf, v_tids));
  end if;
  execute format('truncate %s', v_leaf);
  execute format('insert into %s select * from %s', v_leaf, v_kept);
  execute format('drop table %s', v_kept);
  return case when v_bounds.holds_files then 0 else v_others end;
end
$$;

-- What is past its retention and still there when a purge has removed the rest is kept for a hold: then the log says so, and how much it
-- is. Returns these deletions. Looks only where there ever was a hold.
create or replace function grace_internal.settle_kept(protected_id integer, before timestamptz)
returns bigint []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion bigint;
  v_rows bigint;
  v_result bigint [] := array[]::bigint [];
begin
  if not exists (
    select from grace_internal.hold h where h.protected_id = any (grace_internal.held_under(settle_kept.protected_id))
  ) then
    return v_result;
  end if;
  for v_deletion, v_rows in execute format(
    'select b.grace_deletion, count(*) from grace_buffer.%I b where b.grace_deleted_at <= $1 group by 1',
    (select p.buffer from grace_internal.protected p where p.id = settle_kept.protected_id)
  ) using before
  loop
    v_result := v_result || v_deletion;
    if (
      select count(*) filter (where c.kept) = 1 and count(*) = 1 and min(c.row_count) = v_rows
      from grace_internal.capture c
      where c.protected_id = settle_kept.protected_id and c.deletion = v_deletion
    ) then
      continue;
    end if;
    delete from grace_internal.capture c
    where c.protected_id = settle_kept.protected_id and c.deletion = v_deletion and c.ctid > (
      select min(o.ctid)
      from grace_internal.capture o
      where o.protected_id = settle_kept.protected_id and o.deletion = v_deletion
    );
    update grace_internal.capture c
    set row_count = v_rows, kept = true
    where c.protected_id = settle_kept.protected_id and c.deletion = v_deletion;
  end loop;
  return v_result;
end
$$;

-- schedule/watch.sql
create or replace function grace_internal.report_run(run bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select pg_notify('grace', jsonb_build_object(
    'run', r.id, 'kind', r.kind, 'job', r.job, 'status', r.status, 'table', coalesce(
      (select p.target_name from grace_internal.protected p where p.target = r.target), r.details ->> 'table'
    ), 'rows', r.row_count, 'started_at', r.started_at, 'finished_at', r.finished_at
  )::text)
  from grace_internal.run r
  where r.id = report_run.run
$$;

-- Runs whose session is gone. What a purge had removed by then goes into the ledger.
create or replace function grace_internal.note_aborted_runs()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
begin
  for v_run in
    update grace_internal.run r
    set status = 'aborted', finished_at = clock_timestamp()
    where r.status = 'running' and r.kind in ('purge', 'rule') and not grace._is_running(r.pid, r.started_at)
    returning r.id
  loop
    perform grace_internal.record_purge(v_run); -- a rule's run has removed nothing for good
    perform grace_internal.report_run(v_run);
  end loop;
end
$$;

-- What pg_cron could not even start, or what ended with an error, leaves no run of its own.
create or replace function grace_internal.note_failed_jobs()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
begin
  if not grace_internal.has_cron() then
    return;
  end if;
  for v_run in execute
    $q$insert into grace_internal.run (kind, job, status, started_at, finished_at, details, role, login)
    select
      'job', substr(j.jobname, length('pg_grace: ') + 1), 'failed', coalesce(d.start_time, d.end_time, clock_timestamp()),
      coalesce(d.end_time, d.start_time, clock_timestamp()), jsonb_build_object('pg_cron_run', d.runid), d.username, d.username
    from cron.job j
    join cron.job_run_details d on d.jobid = j.jobid and d.status = 'failed'
    where j.jobname ^@ 'pg_grace: ' and j.database = current_database()
      and coalesce(d.end_time, d.start_time, clock_timestamp()) > clock_timestamp() - interval '2 days'
      and not exists (
        select from grace_internal.run r where r.kind = 'job' and r.details ->> 'pg_cron_run' = d.runid::text
      )
    returning id$q$
  loop
    perform grace_internal.report_run(v_run);
  end loop;
end
$$;

-- Where pg_cron's log is in another database, or there is none, a turn that nobody took within a quarter of an hour says the same.
create or replace function grace_internal.note_missed_turns()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_missed record;
  v_run bigint;
begin
  if grace_internal.has_cron() then
    return;
  end if;
  for v_missed in
    select j.name, t.turn
    from grace_internal.job j
    cross join lateral (
      select grace_internal.last_scheduled(
        j.schedule, clock_timestamp() - interval '15 minutes',
        greatest(grace_internal.last_turn(j), (
          select max(r.started_at) from grace_internal.run r where r.kind = 'job' and r.job = j.name and r.details ? 'missed'
        ))
      ) as turn
    ) as t
    where j.name <> 'watch' and t.turn is not null and grace_internal.is_active(j)
  loop
    insert into grace_internal.run (kind, job, status, started_at, finished_at, details, role, login)
    values (
      'job', v_missed.name, 'failed', v_missed.turn, clock_timestamp(), jsonb_build_object('missed', v_missed.turn),
      grace_internal.caller(), session_user
    )
    returning id into v_run;
    perform grace_internal.report_run(v_run);
  end loop;
end
$$;

-- pg_cron keeps a row for each time that a job ran, for ever; those of our jobs go after a month.
create or replace function grace_internal.trim_cron_log()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.has_cron() then
    execute
      $q$delete from cron.job_run_details d
      where d.end_time < clock_timestamp() - interval '30 days' and d.jobid in (
        select j.jobid from cron.job j where j.jobname ^@ 'pg_grace: ' and j.database = current_database()
      )$q$;
  end if;
end
$$;

create or replace function grace._watch()
returns boolean
language plpgsql
security definer -- other roles' sessions and jobs
set search_path = pg_catalog, pg_temp
as $$
declare
  v_last grace_internal.run;
begin
  lock table grace_internal.run in share update exclusive mode; -- one at a time, or a run is reported twice
  perform grace_internal.note_aborted_runs();
  perform grace_internal.note_failed_jobs();
  perform grace_internal.note_missed_turns();
  perform grace_internal.announce_all();
  perform grace_internal.forget_ended_holds();
  select r.* into v_last from grace_internal.run r where r.kind = 'purge' and r.job is not null order by r.id desc limit 1;
  if not coalesce(
    v_last.status in ('incomplete', 'aborted')
    and greatest(v_last.finished_at, (v_last.details ->> 'tried_again_at')::timestamptz) < clock_timestamp() - interval '10 minutes',
    false
  ) or exists (select from grace_internal.run r where r.kind = 'purge' and r.status = 'running') then
    return false;
  end if;
  -- Of several that watch one tries.
  update grace_internal.run r
  set details = r.details || jsonb_build_object('tried_again_at', clock_timestamp())
  where r.id = v_last.id;
  return true;
end
$$;
comment on function grace._watch() is
'Internal: marks and reports runs that were aborted and jobs that failed; returns whether a purge is to be tried again.';

create or replace procedure grace.watch()
language plpgsql
as $$
declare
  v_again boolean;
begin
  commit; -- inside a transaction block this is the error
  set transaction isolation level read committed; -- else of two at once one fails with 40001
  v_again := grace._watch();
  commit;
  if v_again then
    call grace.purge();
  end if;
end
$$;
comment on procedure grace.watch() is
'Notices runs that were aborted, pg_cron jobs that failed, and, where pg_cron''s log is in another database, turns that nobody took within a quarter of an hour, and sends each as JSON on channel grace (LISTEN grace); tries a purge again, after ten minutes, that found a lock taken or was aborted. What pg_cron calls every five minutes; grace.tick() does the same. Errors: 2D000 inside a transaction block.';

-- ledger/ledger.sql
-- Each entry has the hash of itself and of the one before it, so that what is changed, removed or put in later is found. Times
-- are hashed as seconds, which no setting changes.
create or replace function grace_internal.ledger_hash(entry grace_internal.ledger)
returns bytea
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select sha256(entry.previous || convert_to(
    jsonb_build_array(
      entry.id, extract(epoch from entry.at), entry.run_id, entry.action, entry.target_name, entry.row_count,
      extract(epoch from entry.deleted_before), entry.role
    )::text,
    'UTF8'
  ))
$$;

create or replace function grace_internal.record(
  run_id bigint, action text, target_name text, row_count bigint, deleted_before timestamptz
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry grace_internal.ledger;
begin
  lock table grace_internal.ledger in share row exclusive mode; -- one after the other
  select l.id + 1, l.hash into v_entry.id, v_entry.previous
  from grace_internal.ledger l
  order by l.id desc
  limit 1;
  v_entry.id := coalesce(v_entry.id, 1);
  v_entry.previous := coalesce(v_entry.previous, '');
  v_entry.at := clock_timestamp();
  v_entry.run_id := run_id;
  v_entry.action := action;
  v_entry.target_name := target_name;
  v_entry.row_count := row_count;
  v_entry.deleted_before := deleted_before;
  v_entry.role := grace_internal.caller();
  v_entry.hash := grace_internal.ledger_hash(v_entry);
  insert into grace_internal.ledger select v_entry.*;
end
$$;

create or replace view grace.ledger as
select
  l.id,
  l.at,
  l.run_id as run,
  l.action,
  l.target_name,
  l.row_count,
  l.deleted_before,
  l.role,
  encode(l.hash, 'hex') as hash
from grace_internal.ledger l;

comment on view grace.ledger is
'What has gone for good: append-only, hash-chained, counts and never content. grace.verify_ledger() finds what was changed.';
comment on column grace.ledger.action is
'purged; expired early, where a capacity let days go before their time: the purge that removed them is an entry of its own.';
comment on column grace.ledger.row_count is 'How many deleted rows.';
comment on column grace.ledger.deleted_before is 'They had been deleted up to then.';
comment on column grace.ledger.hash is 'SHA-256 over the entry and the hash before it. Kept elsewhere, the last one proves all of them.';

create or replace function grace.verify_ledger()
returns table (id bigint, finding text)
language sql stable
security definer -- the ledger's table is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select c.id, f.finding
  from (
    select
      l.id, l.hash <> grace_internal.ledger_hash(l) as is_changed, l.previous,
      lag(l.hash, 1, '') over (order by l.id) as hash_before, l.id - lag(l.id, 1, 0::bigint) over (order by l.id) as step
    from grace_internal.ledger l
  ) as c
  cross join lateral (
    values
      (c.is_changed, 'changed'),
      (c.step <> 1, 'entries before it are missing'),
      (c.step = 1 and c.previous <> c.hash_before, 'the entry before it is another one')
  ) as f (applies, finding)
  where f.applies
  order by c.id, f.finding
$$;
comment on function grace.verify_ledger() is
'Checks every entry of grace.ledger against its hash and the one before it; returns what was changed, removed or put in by hand, nothing when all is as it was written. That the last entries were cut off can only be seen by a hash that was kept elsewhere.';

-- ledger/record_purge.sql
-- What a purge has removed of each table, also where it did not come to its end.
create or replace function grace_internal.record_purge(run bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.record(
    r.id, 'purged', t.key, t.value::bigint,
    (
      select greatest(r.started_at - p.span, p.evicted_to)
      from grace_internal.protected p
      where p.target_name = t.key
      limit 1
    )
  )
  from grace_internal.run r
  cross join lateral jsonb_each_text(r.details -> 'tables') t
  where r.id = record_purge.run
  order by t.key
$$;

-- purge/purge_actions.sql
-- TRUNCATE locks the leaf alone, so nobody who deletes from the table waits. How many rows go is taken from the log, which
-- is trimmed later: counting them would take longer than all the rest.
create or replace function grace_internal.empty_leaf(protected_id integer, leaf oid)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_bounds record;
  v_files_left boolean := false;
  v_rows bigint;
begin
  if pg_relation_size(leaf) = 0 then
    return 0;
  end if;
  v_rows := grace_internal.keep_held(protected_id, leaf);
  if v_rows is not null then
    return v_rows;
  end if;
  execute format('lock table %s in access exclusive mode', v_leaf); -- what is posted is what goes
  -- Asked again in the slice, and once nobody reads the leaf: the retention may have been raised since.
  select l.* into v_bounds from grace_internal.leaves(protected_id) l where l.leaf = empty_leaf.leaf and l.is_expired;
  if not found then
    return 0;
  end if;
  if v_bounds.holds_files then
    execute format('select exists (select from %s f where f.page = 0)', v_leaf) into v_files_left;
    if not v_files_left then
      execute format('truncate %s', v_leaf);
    end if;
    return 0;
  end if;
  perform grace_internal.post_files(protected_id, format('from %s b where true', v_leaf));
  execute format('truncate %s', v_leaf);
  return grace_internal.logged_rows(protected_id, v_bounds.lower_bound, v_bounds.upper_bound);
end
$$;

-- How many rows of a time are in the buffer, by the log.
create or replace function grace_internal.logged_rows(protected_id integer, since timestamptz, until timestamptz)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select sum(c.row_count)
    from grace_internal.capture c
    where c.protected_id = logged_rows.protected_id and c.deleted_at >= since and c.deleted_at < until
  ), 0)::bigint - coalesce((
    select sum(r.row_count)
    from grace_internal.restored r
    where r.protected_id = logged_rows.protected_id and r.deleted_at >= since and r.deleted_at < until
  ), 0)::bigint
$$;

-- The part of a leaf that has expired. What DELETE takes from a table stays in its file until something is written over it, so
-- where little is left, that is written anew and the old file goes; the rest goes with the leaf, at the latest when all of it has
-- expired. Captures wait for a leaf that is in use, so it may be very small only.
create or replace function grace_internal.clear_leaf(
  protected_id integer, leaf oid, max_rows integer, out row_count bigint, out more boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_before timestamptz := grace._expired_before(protected_id);
  v_bounds record;
  v_expired text := format('b.grace_deleted_at <= %L', v_before);
  v_kept text := 'grace_internal.kept';
  v_after timestamptz := v_before + interval '1 microsecond';
  v_others bigint;
  v_from tid := grace_internal.purged_up_to(leaf);
begin
  row_count := 0;
  more := false;
  select l.* into v_bounds from grace_internal.leaves(protected_id) l where l.leaf = clear_leaf.leaf and l.is_partly_expired;
  if not found then
    return;
  end if;
  if v_bounds.holds_files then
    v_expired := v_expired || ' and b.page <> 0'; -- the first page stands for an object that is yet to be unlinked
  end if;
  v_expired := v_expired || coalesce(' and not ' || grace_internal.held_in_leaf(protected_id, v_bounds.holds_files, 'b'), '');
  if v_from is not null then
    row_count := grace_internal.delete_expired(protected_id, leaf, format('%s and b.ctid > %L', v_expired, v_from), max_rows);
    more := row_count = max_rows;
    return;
  end if;
  execute format('select exists (select from %s b where %s)', v_leaf, v_expired) into more;
  if not more then
    return;
  end if;
  if pg_table_size(leaf) > (case when v_bounds.is_current then 2 else 16 end) * 1024 * 1024
    or (v_bounds.is_current and pg_relation_size(leaf) > 128 * 1024) -- many small rows take longer than their size says
    or (not v_bounds.holds_files and grace_internal.holds_unmarked_rows(protected_id, leaf))
  then
    if v_bounds.upper_bound is not null
      and grace_internal.logged_rows(protected_id, v_after, v_bounds.upper_bound) = 0
    then
      execute format('select count(*) filter (where %2$s), count(*) filter (where (%2$s) is not true) from %1$s b', v_leaf, v_expired)
      into row_count, v_others;
    end if;
    if v_others is distinct from 0 then -- something stays, or may
      row_count := grace_internal.delete_expired(protected_id, leaf, v_expired, max_rows);
      more := row_count = max_rows;
      return;
    end if;
    -- Once captures are locked out, the log says whether one has been quicker. Nobody is kept waiting for anything that takes time:
    -- PostgreSQL removes the file when the lock is released.
    execute format('lock table %s in access exclusive mode', v_leaf);
    if grace._expired_before(protected_id) < v_before then
      row_count := 0; -- the retention was raised meanwhile: once more
      return;
    end if;
    if grace_internal.logged_rows(protected_id, v_after, v_bounds.upper_bound) > 0 then
      row_count := 0;
      more := false;
      return;
    end if;
    if v_bounds.holds_files then
      row_count := 0;
    else
      perform grace_internal.post_files(protected_id, format('from %s b where true', v_leaf));
    end if;
    execute format('truncate %s', v_leaf);
    more := false;
    return;
  end if;

  execute format('lock table %s in access exclusive mode', v_leaf);
  if grace._expired_before(protected_id) < v_before then
    return; -- the retention was raised meanwhile: once more
  end if;
  execute format('create table %s (like %s including storage)', v_kept, v_leaf);
  execute format('insert into %s select * from %s b where (%s) is not true', v_kept, v_leaf, v_expired);
  get diagnostics v_others = row_count;
  if not v_bounds.holds_files then
    perform grace_internal.post_files(protected_id, format('from %s b where %s', v_leaf, v_expired));
  end if;
  execute format('select count(*) from %s b where %s', v_leaf, v_expired) into row_count;
  execute format('truncate %s', v_leaf);
  execute format('insert into %s select * from %s', v_leaf, v_kept);
  if v_others > 0 and not v_bounds.holds_files then
    -- Rows and their log row bear the mark of one transaction (grace.verify_buffer), so they get a new one together.
    execute format(
      'update grace_internal.capture c set row_count = c.row_count '
      'where c.protected_id = $1 and c.deletion in (select k.grace_deletion from %s k)', v_kept
    )
    using protected_id;
  end if;
  execute format('drop table %s', v_kept);
  more := false;
end
$$;

-- Whether a leaf holds rows that were written or changed by hand: to write them anew would cover that up. Where the log has no
-- statistics PostgreSQL believes that it is small enough to be read for every row.
create or replace function grace_internal.holds_unmarked_rows(protected_id integer, leaf oid)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
declare
  v_protected grace_internal.protected;
  v_result boolean;
begin
  select p.* into v_protected from grace_internal.protected p where p.id = protected_id;
  if grace_internal.has_moved(v_protected) then
    return false;
  end if;
  execute format(
    'select exists (select from %s b where b.grace_deletion > $1 and not exists (select from grace_internal.capture c '
    'where c.protected_id = $2 and c.deletion = b.grace_deletion and (c.xmin = b.xmin or c.kept is not null)))', grace_internal.qualified_name(leaf)
  )
  into v_result using v_protected.unmarked_to, protected_id;
  return v_result;
end
$$;

-- Up to where the slice before has deleted from a leaf, so that the next one need not read over it again. Kept by the session: what
-- it can do wrong is to leave rows to the next purge.
create or replace function grace_internal.purged_up_to(leaf oid)
returns tid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (regexp_match(current_setting('grace.purged_up_to', true), format('^%s ([(][0-9]+,[0-9]+[)])$', leaf)))[1]::tid
$$;

create or replace function grace_internal.delete_expired(protected_id integer, leaf oid, expired text, max_rows integer)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set synchronize_seqscans = off -- in the order of the file
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_tids tid [];
begin
  execute format(
    'select array_agg(e.ctid) from (select b.ctid from %s b where %s limit %s for update) e', v_leaf, expired, max_rows
  )
  into v_tids;
  perform set_config(
    'grace.purged_up_to',
    case when cardinality(v_tids) = max_rows then leaf || ' ' || (select max(t) from unnest(v_tids) t) else '' end, false
  );
  if v_leaf ~ '^grace_internal[.]b' then
    perform grace_internal.post_files(protected_id, format('from %s b where b.ctid = any (%L::tid[])', v_leaf, v_tids));
  end if;
  execute format('delete from %s b where b.ctid = any ($1)', v_leaf) using v_tids;
  return coalesce(cardinality(v_tids), 0);
end
$$;

create or replace function grace_internal.drop_expired_leaf(protected_id integer, leaf oid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.drop_leaf(s.parent, l.leaf)
  from grace_internal.leaves(protected_id) l
  join grace_internal.stems(protected_id) s on s.stem ^@ case when l.holds_files then 'f' else 'b' end
  where l.leaf = drop_expired_leaf.leaf and l.is_expired and pg_relation_size(l.leaf) = 0
$$;

-- Rows of the default partition to be settled, a leaf that is missing, or a column that nothing buffered has any more, or
-- triggers on partitions that lack them, one at a time; returns whether there is more to do. A buffer that is unprotected and empty goes.
create or replace function grace_internal.prepare_buffer(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_active boolean;
  v_target regclass;
begin
  select p.active, p.target into v_active, v_target
  from grace_internal.protected p
  where p.id = protected_id
  for update skip locked;
  if not found then
    return false;
  end if;
  if v_target is not null and not exists (select from pg_class c where c.oid = v_target) then
    perform grace_internal.forget_dropped();
    return false;
  end if;
  if not v_active then
    perform grace_internal.follow_links(protected_id, repair => false);
    if not exists (select from grace_internal.capture c where c.protected_id = prepare_buffer.protected_id)
      and not exists (select from grace_internal.active_hold h where h.protected_id = prepare_buffer.protected_id)
    then
      perform grace_internal.drop_buffer(protected_id);
    end if;
    return false;
  end if;

  if grace_internal.prepare_partitions(protected_id) or grace_internal.drop_former_column(protected_id) then
    return true;
  end if;
  perform grace_internal.follow_table(protected_id, repair => false);
  return false;
end
$$;

-- What had expired when the run began and so is out of the buffer by now.
create or replace function grace_internal.trim_log(protected_id integer, as_of timestamptz, max_rows integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz;
  v_kept bigint [];
  v_rows bigint;
begin
  select least(grace._expired_before(p.id), greatest(as_of - p.span, p.evicted_to)) into v_before
  from grace_internal.protected p
  where p.id = protected_id;
  v_kept := grace_internal.settle_kept(protected_id, v_before);
  delete from grace_internal.capture c
  where c.ctid = any (array(
    select e.ctid
    from grace_internal.capture e
    where e.protected_id = trim_log.protected_id
      and e.deleted_at <= v_before
      and e.deletion <> all (v_kept)
    limit max_rows
    for update skip locked
  ));
  get diagnostics v_rows = row_count;
  if v_rows = max_rows then
    return true;
  end if;
  delete from grace_internal.restored r
  where r.protected_id = trim_log.protected_id
    and r.deleted_at <= v_before;
  return grace_internal.trim_cuts(protected_id, v_before, max_rows);
end
$$;

-- A column that the table no longer has goes from the buffer when nothing is left that was captured with it.
create or replace function grace_internal.drop_former_column(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column name;
  v_buffer text := (select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = protected_id);
begin
  select c.buffer_column into v_column
  from grace_internal.protected_column c
  where c.protected_id = drop_former_column.protected_id
    and not exists (
      select from grace_internal.capture k
      where k.protected_id = c.protected_id and k.deleted_at <= c.ended_at
    )
    and c.ended_at < clock_timestamp()
  limit 1;
  if found then
    perform grace_internal.lock_buffer(v_buffer);
    execute format('lock table %s in access exclusive mode nowait', v_buffer); -- its leaves
    execute format('alter table %s drop column %I', v_buffer, v_column);
    delete from grace_internal.protected_column c
    where c.protected_id = drop_former_column.protected_id and c.buffer_column = v_column;
  end if;
  return v_column is not null;
end
$$;

-- purge/capacity.sql
create or replace function grace.set_capacity(capacity text, target regclass default null, dry_run boolean default false)
returns table (target_name text, row_count bigint, deleted_before timestamptz)
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := case when target is not null then grace_internal.protected_id(target) end;
  v_bytes bigint;
  v_before bigint;
begin
  begin
    v_bytes := pg_size_bytes(capacity);
  exception when invalid_parameter_value or numeric_value_out_of_range then
    v_bytes := 0;
  end;
  if v_bytes < 1024 * 1024 then
    raise exception '% is no capacity', quote_literal(capacity)
      using errcode = 'GR025',
      detail = 'It says how big a buffer may become before its oldest days go early: at least 1 MB.',
      hint = 'Give it as pg_size_pretty() does, for example ''20 GB''; null takes it away.';
  end if;
  perform grace_internal.require_table_right(p.target)
  from grace_internal.protected p
  where v_id is null or p.id = v_id;
  return query
    select p.target_name, grace_internal.evicted_rows(p.id, e.upto), e.upto
    from grace_internal.evictions(
      case when v_id is null then v_bytes else grace_internal.total_capacity() end, v_id, v_bytes
    ) e
    join grace_internal.protected p on p.id = e.protected_id
    order by p.id;
  if dry_run then
    return;
  end if;
  if v_id is not null then
    select p.capacity into v_before from grace_internal.protected p where p.id = v_id for update;
    update grace_internal.protected p set capacity = v_bytes where p.id = v_id;
  else
    v_before := grace_internal.total_capacity();
    delete from grace_internal.setting s where s.name = 'capacity';
    insert into grace_internal.setting (name, value) select 'capacity', v_bytes where v_bytes is not null;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'capacity', target, 'done', clock_timestamp(), jsonb_build_object('before', v_before, 'after', v_bytes),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.set_capacity(text, regclass, boolean) is
'How big the buffer of a table, or without one all buffers together, may become (''20 GB''; null: as big as it gets, the default). A purge that finds it bigger lets the oldest days go before their time, first in, first out, the day in progress never. Each time is a run, a notification on channel grace and an entry in the ledger, and grace.doctor() says for which tables the retention isn''t kept. Returns what the next purge would let go: per table, how many rows, deleted up to when; with dry_run only that. Errors: GR001, GR025, 42501.';

create or replace function grace_internal.total_capacity()
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select s.value::bigint from grace_internal.setting s where s.name = 'capacity'
$$;

create or replace function grace.capacity()
returns bigint
language sql stable
security definer -- the settings are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.total_capacity()
$$;
comment on function grace.capacity() is
'How big all buffers together may become before their oldest days go early, in bytes; null: as big as they get.';

-- What counts: leaves that hold something that has not expired. Empty ones have a size, too, but nothing goes by dropping them.
create or replace function grace_internal.filled_leaves(protected_ids integer [])
returns table (upper_bound timestamptz, size bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select l.upper_bound, pg_total_relation_size(l.leaf)
  from unnest(protected_ids) p (id)
  cross join lateral grace_internal.leaves(p.id) l
  where not l.is_expired and pg_relation_size(l.leaf) > 0
$$;

-- Up to which moment the oldest days have to go so that what is left is no bigger than the capacity; null when nothing has to.
-- Never the leaf in use, nor anything in the default partition, nor what lies ahead because the clock was set back: all that is
-- deleted until then would have expired as well.
create or replace function grace_internal.eviction(protected_ids integer [], capacity bigint)
returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with leaf as (
    select l.upper_bound, l.size from grace_internal.filled_leaves(protected_ids) l
  ),
  remaining as (
    select c.upper_bound, (select sum(l.size) from leaf l where l.upper_bound is null or l.upper_bound > c.upper_bound) as size
    from (select distinct f.upper_bound from leaf f where f.upper_bound <= clock_timestamp()) as c
  )
  -- The least that is enough; where nothing is, all that may go.
  select coalesce(
    min(r.upper_bound) filter (where coalesce(r.size, 0) <= eviction.capacity), max(r.upper_bound)
  ) - interval '1 microsecond'
  from remaining r
  where (select sum(l.size) from leaf l) > eviction.capacity
$$;

-- What has to go early, with the capacities as they are, or with another one for a table. All tables together lose the same days,
-- so that what was deleted together goes together.
create or replace function grace_internal.evictions(
  total bigint, changed_id integer default null, changed_capacity bigint default null
)
returns table (protected_id integer, upto timestamptz, capacity bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table record;
  v_total_upto timestamptz;
begin
  if total is not null then
    v_total_upto := grace_internal.eviction(array(select p.id from grace_internal.protected p), total);
  end if;
  for v_table in
    select p.id, case when p.id = changed_id then changed_capacity else p.capacity end as capacity
    from grace_internal.protected p
    order by p.id
  loop
    protected_id := v_table.id;
    upto := greatest(
      v_total_upto,
      case when v_table.capacity is not null then grace_internal.eviction(array[v_table.id], v_table.capacity) end
    );
    capacity := case when upto = v_total_upto then total else v_table.capacity end;
    if upto > grace._expired_before(v_table.id) then
      return next;
    end if;
  end loop;
end
$$;

create or replace function grace_internal.evicted_rows(protected_id integer, upto timestamptz)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.logged_rows(
    protected_id, grace._expired_before(protected_id) + interval '1 microsecond', upto + interval '1 microsecond'
  )
$$;

-- Expires what has to go early; the purge that follows removes it.
create or replace function grace_internal.evict()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
  v_eviction record;
  v_rows bigint;
  v_protected grace_internal.protected;
  v_run bigint;
begin
  for v_eviction in select e.* from grace_internal.evictions(grace_internal.total_capacity()) e loop
    -- Whoever is about to change how the table is protected may take their time; then it goes with the next purge.
    perform from grace_internal.protected p where p.id = v_eviction.protected_id for update skip locked;
    continue when not found;
    v_rows := grace_internal.evicted_rows(v_eviction.protected_id, v_eviction.upto);
    update grace_internal.protected p
    set evicted_to = v_eviction.upto
    where p.id = v_eviction.protected_id
    returning p.* into v_protected;
    if v_rows > 0 then
      insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
      values (
        'capacity', v_protected.target, 'done', clock_timestamp(), v_rows,
        jsonb_build_object(
          'table', v_protected.target_name, 'capacity', v_eviction.capacity, 'expired_early_to', v_eviction.upto
        ),
        grace_internal.caller(), session_user
      )
      returning id into v_run;
      perform grace_internal.record(v_run, 'expired early', v_protected.target_name, v_rows, v_eviction.upto);
      perform grace_internal.report_run(v_run);
    end if;
  end loop;
end
$$;

create or replace function grace.expiring_early()
returns table (target_name text, row_count bigint, deleted_before timestamptz)
language sql stable
security definer -- reads registry and log
set search_path = pg_catalog, pg_temp
as $$
  select p.target_name, grace_internal.evicted_rows(p.id, e.upto), e.upto
  from grace_internal.evictions(grace_internal.total_capacity()) e
  join grace_internal.protected p on p.id = e.protected_id
  where grace_internal.evicted_rows(p.id, e.upto) > 0
  order by p.target_name
$$;
comment on function grace.expiring_early() is
'What the next purge lets go before its time, because buffers are over their capacity: per table, how many rows, deleted up to when.';

-- purge/purge_steps.sql
do $$
begin
  if to_regtype('grace._purge_item') is null then
    create type grace._purge_item as (protected_id integer, leaf oid, action text);
    comment on type grace._purge_item is 'Internal: one piece of a purge.';
  end if;
end
$$;

create or replace function grace._purge_begin(target regclass)
returns bigint
language plpgsql
security definer -- writes the run
set search_path = pg_catalog, pg_temp
as $$
declare
  v_other grace_internal.run;
  v_run bigint;
begin
  if target is not null then
    perform grace_internal.protected_id(target);
  end if;
  lock table grace_internal.run in share update exclusive mode; -- against another purge only
  perform grace_internal.note_aborted_runs();
  select r.* into v_other
  from grace_internal.run r
  where r.kind = 'purge' and r.status = 'running' and r.pid <> pg_backend_pid();
  if found then
    raise exception 'another purge is running'
      using errcode = 'GR014',
      detail = format('Run %s, process %s, since %s.', v_other.id, v_other.pid, v_other.started_at),
      hint = 'It does the same work; wait for it.';
  end if;
  insert into grace_internal.run (kind, job, target, role, login)
  values ('purge', case when target is null then 'purge' end, target, grace_internal.caller(), session_user)
  returning id into v_run;
  perform grace_internal.forget_ended_holds();
  if target is null then
    begin
      perform grace_internal.evict();
    exception when lock_not_available then -- even to ask for the size of a leaf takes a lock on it
      update grace_internal.run r set details = '{"left_for_next_run": ["capacity"]}' where r.id = v_run;
    end;
  end if;
  return v_run;
end
$$;
comment on function grace._purge_begin(regclass) is 'Internal: opens the run of a purge.';

-- Rows go first, then large objects to which none refers any more, then their content; emptying comes before dropping, and all
-- that before the partitions of the days ahead; the log goes last.
create or replace function grace._purge_work(target regclass)
returns grace._purge_item []
language sql stable
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(row(w.id, w.leaf, w.action)::grace._purge_item order by w.step, w.id, w.name), '{}')
  from (
    select p.id, l.leaf, l.name, a.step, a.action
    from grace_internal.protected p
    cross join lateral grace_internal.leaves(p.id) l
    cross join lateral (
      values
        (2, 'unlink', l.holds_files and (l.is_expired or l.is_partly_expired)),
        (case when l.holds_files then 3 else 1 end, 'empty', l.is_expired),
        (case when l.holds_files then 3 else 1 end, 'clear', l.is_partly_expired),
        (4, 'drop', l.is_expired)
    ) as a (step, action, applies)
    where a.applies and (_purge_work.target is null or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target))
    union all
    select p.id, null, null, s.step, s.action
    from grace_internal.protected p
    cross join (values (5, 'prepare'), (6, 'log')) as s (step, action)
    where _purge_work.target is null
      or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target)
  ) as w
$$;
comment on function grace._purge_work(regclass) is 'Internal: the pieces of a purge, in order.';

-- Does one slice; returns whether there is more of the same piece.
create or replace function grace._purge_slice(run bigint, item grace._purge_item)
returns boolean
language plpgsql
security definer -- the buffer and the log are granted to nobody for writing
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
  v_run grace_internal.run;
  v_rows bigint := 0;
  v_more boolean := false;
  v_leaf text := grace_internal.qualified_name(item.leaf);
begin
  select r.* into v_run
  from grace_internal.run r
  where r.id = run and r.kind = 'purge' and r.status = 'running';
  if not found then
    raise exception 'run % is no purge that is running', run
      using errcode = 'GR014', detail = 'Slices are done by grace.purge() only.', hint = 'call grace.purge();';
  end if;
  -- TRUNCATE is not MVCC-safe: a snapshot taken before the lock does not show every row that it removes.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a slice of a purge needs isolation level READ COMMITTED'
      using errcode = 'GR014',
      detail = 'In another one rows captured meanwhile would be removed with those that have expired.',
      hint = 'call grace.purge();';
  end if;
  begin
    if item.action in ('empty', 'clear', 'log') then
      lock table grace_internal.hold in share mode; -- what is held now is all that is held
    end if;
    case item.action
      when 'empty' then v_rows := grace_internal.empty_leaf(item.protected_id, item.leaf);
      when 'drop' then perform grace_internal.drop_expired_leaf(item.protected_id, item.leaf);
      when 'clear' then
        select c.row_count, c.more into v_rows, v_more
        from grace_internal.clear_leaf(item.protected_id, item.leaf, 5000) c;
        if v_leaf ~ '^grace_internal[.]f' then
          v_rows := 0; -- pieces of files are no rows of the table
        end if;
      when 'unlink' then v_more := grace_internal.unlink_expired(item.protected_id, item.leaf, 1000);
      when 'prepare' then v_more := grace_internal.prepare_buffer(item.protected_id);
      when 'log' then
        if not v_run.details ? 'left_for_next_run' then
          v_more := grace_internal.trim_log(item.protected_id, v_run.started_at, 5000);
        end if;
    end case;
  exception when others then
    -- One table's trouble must not keep the others past their retention. What it was is in the run, by its SQLSTATE (a
    -- message could hold values), and in the server's log.
    if sqlstate <> '55P03' then
      raise warning '% of % failed', item.action, coalesce(v_leaf, 'buffer ' || item.protected_id)
        using errcode = sqlstate, detail = sqlerrm;
    end if;
    update grace_internal.run r
    set details = jsonb_set(
      r.details, '{left_for_next_run}',
      coalesce(r.details -> 'left_for_next_run', '[]') || to_jsonb(concat_ws(' ', item.action, v_leaf, 'of', (
        select p.target_name from grace_internal.protected p where p.id = item.protected_id
      ), 'SQLSTATE ' || nullif(sqlstate, '55P03')))
    )
    where r.id = run;
    return false;
  end;
  if v_rows > 0 then
    update grace_internal.run r
    set
      row_count = r.row_count + v_rows,
      details = jsonb_set(r.details, '{tables}', coalesce(r.details -> 'tables', '{}') || (
        select jsonb_build_object(
          p.target_name, coalesce((r.details -> 'tables' ->> p.target_name)::bigint, 0) + v_rows
        )
        from grace_internal.protected p
        where p.id = item.protected_id
      ))
    where r.id = run;
  end if;
  return v_more;
end
$$;
comment on function grace._purge_slice(bigint, grace._purge_item) is 'Internal: one slice of a purge.';

-- Closes the run: done; incomplete where a lock was not free, so that another try may do; failed where something is wrong.
create or replace function grace._purge_end(run bigint)
returns void
language plpgsql
security definer -- writes run and ledger
set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
begin
  update grace_internal.run r
  set
    finished_at = clock_timestamp(),
    status = case
      when not r.details ? 'left_for_next_run' then 'done'
      when exists (
        select from jsonb_array_elements_text(r.details -> 'left_for_next_run') l where l like '%SQLSTATE%'
      ) then 'failed'
      else 'incomplete'
    end
  where r.id = run and r.kind = 'purge' and r.status = 'running' and r.pid = pg_backend_pid()
  returning r.status into v_status;
  if not found then
    return;
  end if;
  perform grace_internal.record_purge(run);
  if v_status = 'failed' then
    perform grace_internal.report_run(run);
  end if;
  perform grace_internal.trim_cron_log();
end
$$;
comment on function grace._purge_end(bigint) is 'Internal: closes the run of a purge.';

-- purge/purge.sql
-- What pg_cron calls every day. It commits between slices, so that no lock is held for longer than one of them takes;
-- each slice waits at most 50 ms for a lock and leaves what it can't get to the next run. A procedure that commits can
-- be neither SECURITY DEFINER nor have a SET clause: the slices are functions that are both. An older snapshot than the lock on a
-- leaf would not show what was captured meanwhile, which TRUNCATE removes: so READ COMMITTED, whatever the default is.
create or replace procedure grace.purge(target regclass default null)
language plpgsql
as $$
declare
  v_run bigint;
  v_work grace._purge_item [];
  v_more boolean;
begin
  commit; -- inside a transaction block this is the error, before anything has changed
  set transaction isolation level read committed;
  v_run := grace._purge_begin(target);
  v_work := grace._purge_work(target);
  commit;
  set transaction isolation level read committed;
  for i in 1 .. pg_catalog.cardinality(v_work) loop
    loop
      v_more := grace._purge_slice(v_run, v_work[i]);
      commit;
      set transaction isolation level read committed;
      exit when not v_more;
    end loop;
  end loop;
  perform grace._purge_end(v_run);
  commit;
end
$$;
comment on procedure grace.purge(regclass) is
'Removes for good what is past its retention, of one table or of all, and makes the partitions of the days ahead. Commits as it goes, so it can''t run inside a transaction block (2D000). Each call is a row in grace.runs, and what has gone one in grace.ledger. Status incomplete means that a lock was not free: pg_grace tries again within a quarter of an hour; failed, that something is wrong: details names it. Errors: GR001, GR014 when another purge is running, 2D000.';

-- purge/expired.sql
create or replace view grace.expired as
select
  p.target,
  e.row_count,
  c.oldest,
  p.target_name
from grace_internal.protected p
cross join lateral (
  select
    sum(k.row_count) as row_count,
    min(k.deleted_at) as oldest
  from grace_internal.capture k
  where
      k.protected_id = p.id
      and k.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to)
      and k.kept is not true
) as c
cross join lateral (
  select (c.row_count - coalesce(sum(r.row_count), 0))::bigint as row_count
  from grace_internal.restored r
  where r.protected_id = p.id and r.deleted_at <= greatest(statement_timestamp() - p.span, p.evicted_to)
) as e
where e.row_count > 0;

comment on view grace.expired is
'Per table: rows that are past their retention and that the next purge removes. They can be neither seen nor restored. Without those that the last purge has kept because they are held.';

-- filters/read_expression.sql
do $$
begin
  if to_regtype('grace_internal.expression') is null then
    create type grace_internal.expression as (source text, text text, type regtype, depends jsonb);
  end if;
end
$$;

-- What a FROM item for the table is in every statement that holds an expression on it: expressions name the table by its own name.
create or replace function grace_internal.source_of(target regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s as %I', grace_internal.qualified_name(c.oid), c.relname) from pg_class c where c.oid = target
$$;

-- The search_path of whoever calls, to read names in his text as he means them; temporary objects have no place in what is saved.
create or replace function grace._caller_path()
returns text
language sql stable
as $$
  select pg_catalog.array_to_string(
    array(select pg_catalog.quote_ident(s) from pg_catalog.unnest(pg_catalog.current_schemas(false)) s), ', '
  )
$$;
comment on function grace._caller_path() is 'Internal: the caller''s search_path.';

-- An expression on a table's columns as PostgreSQL reads it, every name qualified. It is parsed as a view, which runs nothing of it but the
-- checks of domains within constants ('{a}'::domain[]), and the view is taken back. So that those are not run as the owner of pg_grace, nor
-- what else a text may hold, the view is made by a function of the role that it is read for, in a schema that is taken back with it. What
-- superusers say is read as the owner. That it is one expression has to be known already (grace._check_predicate). The view's own
-- dependencies, with the names that they have now, are what it refers to. path: the search_path that it was written under.
create or replace function grace_internal.read_expression(target regclass, expression text, path text, role regrole)
returns grace_internal.expression
language plpgsql
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on -- what was checked under it is read under it, and written so that it is read again
as $$
declare
  v_result grace_internal.expression;
  v_name text := 'expression_' || md5(random()::text);
  v_is_foreign boolean := role <> quote_ident(current_user)::regrole and not (select r.rolsuper from pg_roles r where r.oid = role);
  v_schema name := case when v_is_foreign then 'grace_' || v_name else 'grace_internal' end;
  v_view text := format(
    e'create view %I.%I as select (%s\n) as %2$I from %4$s cross join (values (1)) as "grace 1" ("grace 1") where (%3$s\n) is not null',
    v_schema, v_name, expression, grace_internal.source_of(target)
  );
  v_definition text;
  v_rule oid;
  v_tree text;
begin
  v_result.source := expression;
  begin
    if v_is_foreign then
      perform grace_internal.execute_as(role, v_schema, v_view, path);
    else
      perform set_config('search_path', path, true);
      execute v_view;
    end if;
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform set_config('datestyle', 'ISO', true); -- constants mean the same in every session
    perform set_config('intervalstyle', 'postgres', true);
    perform set_config('extra_float_digits', '1', true);
    select r.oid, r.ev_action::text, pg_get_viewdef(r.ev_class), a.atttypid
    into v_rule, v_tree, v_definition, v_result.type
    from pg_rewrite r
    join pg_attribute a on a.attrelid = r.ev_class and a.attnum = 1
    where r.ev_class = format('%I.%I', v_schema, v_name)::regclass;
    v_result.text := substr(split_part(v_definition, ' AS ' || v_name, 1), length(' SELECT ') + 1);
    v_result.depends := grace_internal.dependencies(v_rule);
    perform grace_internal.refuse_volatile(v_tree, expression);
    raise exception using errcode = 'GR099', message = 'the view is taken back';
  exception
    when sqlstate 'GR099' then
      null;
    when invalid_table_definition then
      raise exception 'not a condition that can be saved: %', expression
        using errcode = 'GR022', detail = 'It refers to what is temporary.',
        hint = 'Use tables that are there whenever the expression is evaluated.';
  end;
  return v_result;
end
$$;

-- Executes a statement that creates something in a new schema, as a role that owns neither that nor anything else here. The caller takes
-- it all back.
create or replace function grace_internal.execute_as(role regrole, schema name, statement text, path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  execute format('create schema %I', schema);
  execute format(
    'create function %I.run(path text) returns void language plpgsql security definer ' -- as the role
    'set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as %L',
    schema, format('begin perform set_config(''search_path'', path, true); execute %L; end', statement)
  );
  execute format('revoke all on function %I.run(text) from public', schema);
  execute format('grant usage, create on schema %I to %s', schema, role);
  begin
    execute format('alter function %I.run(text) owner to %s', schema, role);
  exception when insufficient_privilege then
    raise exception 'what role % says can''t be read', role
      using errcode = 'insufficient_privilege',
      detail = format('Role %I, which owns pg_grace, may not give a function to it: %s.', current_user, sqlerrm),
      hint = format('grant %s to %I;', role, current_user);
  end;
  execute format('grant execute on function %I.run(text) to %I', schema, current_user);
  execute format('select %I.run($1)', schema) using path;
end
$$;

-- What a view's rule depends on, with the names and types that this has now. Of a column the type counts, of a function its arguments.
create or replace function grace_internal.dependencies(rule oid)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'class', d.refclassid, 'object', d.refobjid, 'sub', d.refobjsubid, 'identity', i.identity, 'type', format_type(t.atttypid, null),
      'kind', a.type, 'names', a.object_names, 'args', a.object_args
    ) order by i.identity
  ), '[]')
  from (
    select distinct n.refclassid, n.refobjid, n.refobjsubid
    from pg_depend n
    join pg_rewrite v on v.oid = n.objid
    where n.classid = 'pg_rewrite'::regclass and n.objid = rule and n.refobjid <> v.ev_class
  ) as d
  cross join lateral pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) i
  cross join lateral pg_identify_object_as_address(d.refclassid, d.refobjid, d.refobjsubid) a
  left join pg_attribute t on d.refclassid = 'pg_class'::regclass and t.attrelid = d.refobjid and t.attnum = d.refobjsubid
$$;

-- Functions of a parsed expression and of the views in it. The tree holds the numbers of functions and operators in plain sight, those of
-- PostgreSQL's own too, on which nothing is recorded as depending.
create or replace function grace_internal.functions_in(tree text)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
set jit = off -- takes half a second to compile what takes a millisecond
as $$
  with recursive trees (tree) as (
    select functions_in.tree collate "C"
    union
    select r.ev_action::text
    from trees t
    cross join lateral regexp_matches(t.tree, ':relid ([0-9]+)', 'g') m
    join pg_rewrite r on r.ev_class = m[1]::oid and r.ev_type = '1'
  )
  select distinct coalesce(nullif(o.oprcode, 0::oid), m.number)
  from trees t
  cross join lateral (
    select x[1] as name, x[2]::oid as number
    from regexp_matches(t.tree, ':(funcid|opfuncid|aggfnoid|winfnoid|opno|hashfuncid) ([0-9]+)', 'g') x
    union all
    select 'opno', n::oid
    from regexp_matches(t.tree, ':opnos \(o ([0-9 ]+)\)', 'g') y
    cross join lateral regexp_split_to_table(y[1], ' ') n
  ) as m
  left join pg_operator o on m.name = 'opno' and o.oid = m.number
  where m.number <> 0
$$;

create or replace function grace_internal.refuse_volatile(tree text, expression text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_functions text := (
    select string_agg(distinct f.oid::regprocedure::text, ', ')
    from grace_internal.functions_in(refuse_volatile.tree) as u (id)
    join pg_proc f on f.oid = u.id
    where f.provolatile = 'v'
  );
begin
  if tree like '%:hasForUpdate true%' then
    v_functions := concat_ws(', ', v_functions, 'for update');
  end if;
  if v_functions is not null then
    raise exception 'not a condition that can be saved: %', expression
      using errcode = 'GR022',
      detail = format('In it is what may change the database, lock rows or answer otherwise each time: %s.', v_functions),
      hint = 'Use functions that are IMMUTABLE or STABLE: now() instead of clock_timestamp().';
  end if;
end
$$;

-- Why what depends on all this no longer says what was meant; null when it does. Where the database has moved, object ids mean nothing, and
-- things are found by their names.
create or replace function grace_internal.problem_of(depends jsonb, home text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select
      case
        when n.identity is null then d.identity || ' is gone'
        when n.identity <> d.identity then format('%s is now %s', d.identity, n.identity)
        else format('%s was %s and is now %s', d.identity, d.type, n.type)
      end
    from jsonb_to_recordset(
      case when home = grace_internal.home() then depends else grace_internal.found_by_name(depends) end
    ) as d (class oid, object oid, sub integer, identity text, type text)
    left join pg_attribute a on d.sub > 0 and d.class = 'pg_class'::regclass and a.attrelid = d.object and a.attnum = d.sub
    cross join lateral (
      select
        case when not coalesce(a.attisdropped, false) then (pg_identify_object(d.class, d.object, d.sub)).identity end as identity,
        format_type(a.atttypid, null) as type
    ) as n
    where n.identity is distinct from d.identity or n.type <> d.type
    limit 1
  );
end
$$;

-- The same with the object ids that these names have here; 0 for what is not there.
create or replace function grace_internal.found_by_name(depends jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_part record;
  v_address record;
  v_result jsonb := jsonb_build_array();
begin
  for v_part in
    select d.part, r.kind, r.names, r.args
    from jsonb_array_elements(depends) as d (part)
    cross join lateral jsonb_to_record(d.part) as r (kind text, names text [], args text [])
  loop
    begin
      select a.objid, a.objsubid into v_address from pg_get_object_address(v_part.kind, v_part.names, v_part.args) a;
    exception when syntax_error_or_access_rule_violation or invalid_parameter_value then
      select 0::oid, (v_part.part ->> 'sub')::integer into v_address.objid, v_address.objsubid;
    end;
    v_result := v_result || (v_part.part || jsonb_build_object('object', v_address.objid, 'sub', v_address.objsubid));
  end loop;
  return v_result;
end
$$;

-- Whose code an expression would run with somebody's rights, unless it is a superuser's, his own, or, where he is no superuser, that of the
-- table's owner, who could have it run by row security all the same. Domains run their checks also where they are inside of other types.
-- Returns the first such part, as text, else null.
create or replace function grace_internal.strange_code(target regclass, depends jsonb, role oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with used as (
    select d.class, d.object, d.identity
    from jsonb_to_recordset(depends) as d (class oid, object oid, identity text)
  ),
  domains as (
    select u.identity, t.oid, t.typowner
    from used u
    cross join lateral grace_internal.types_in(u.object) i (type)
    join pg_type t on t.oid = i.type and t.typtype = 'd'
    where u.class = 'pg_type'::regclass
  )
  select min(format('%s of role %I', c.identity, o.rolname))
  from (
    select u.identity, coalesce(f.proowner, v.relowner, q.proowner) as owner
    from used u
    left join pg_proc f on u.class = 'pg_proc'::regclass and f.oid = u.object
    left join pg_class v on u.class = 'pg_class'::regclass and v.oid = u.object and v.relkind = 'v'
    left join pg_operator p on u.class = 'pg_operator'::regclass and p.oid = u.object
    left join pg_proc q on q.oid = p.oprcode
    union all
    select d.identity, d.typowner from domains d
    union all
    select d.identity, f.proowner
    from domains d
    join pg_constraint k on k.contypid = d.oid
    join pg_depend n on n.classid = 'pg_constraint'::regclass and n.objid = k.oid and n.refclassid = 'pg_proc'::regclass
    join pg_proc f on f.oid = n.refobjid
  ) as c
  join pg_roles o on o.oid = c.owner
  join pg_roles r on r.oid = strange_code.role
  where not o.rolsuper and o.oid <> r.oid
    and (r.rolsuper or o.oid is distinct from (select k.relowner from pg_class k where k.oid = target))
$$;

-- filters/filters.sql
create or replace function grace_internal.alias_of(relation regclass)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select c.relname from pg_class c where c.oid = relation
  );
end
$$;

-- The table that a filter or rule is about: one that PostgreSQL can delete from, with a primary key to tell its rows by.
create or replace function grace_internal.check_target(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind "char" := (select c.relkind from pg_class c where c.oid = target and c.relpersistence <> 't');
begin
  if v_kind is null or v_kind not in ('r', 'p') or grace_internal.primary_key(target) is null then
    raise exception '% can''t have filters and rules', coalesce(target::text, 'null')
      using errcode = 'GR031',
      detail = case when v_kind in ('r', 'p') then 'It has no primary key.' else 'It is not there, or not a table that stays.' end,
      hint = 'Give a table with a primary key.';
  end if;
  if grace_internal.alias_of(target) ^@ 'grace ' then
    raise exception '% can''t have filters and rules', target
      using errcode = 'GR031', detail = 'Names that begin with "grace " are kept for pg_grace''s own.', hint = 'Rename the table.';
  end if;
end
$$;

-- Which columns a user knows the records by; the primary key where none were named.
create or replace function grace_internal.check_columns(target regclass, columns name [])
returns name []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_missing text := (
    select string_agg(quote_ident(c), ', ')
    from unnest(columns) c
    where c not in (select l.attname from grace_internal.live_columns(target) l)
  );
begin
  if v_missing is not null then
    raise exception '% has no such column: %', target, v_missing
      using errcode = 'undefined_column',
      detail = 'Its columns: ' || (select string_agg(quote_ident(l.attname), ', ') from grace_internal.live_columns(target) l),
      hint = 'Give the columns by which users know the records.';
  end if;
  return coalesce(columns, '{}');
end
$$;

-- What users know a record by, as an expression on its row.
create or replace function grace_internal.record_object(target regclass, columns name [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when cardinality(columns) = 0 then 'null::pg_catalog.jsonb'
    else (
      select format('pg_catalog.jsonb_build_object(%s)', string_agg(
        format('%L, %I.%I', c.name, grace_internal.alias_of(target), c.name), ', ' order by c.position
      ))
      from unnest(columns) with ordinality as c (name, position)
    )
  end
$$;

create or replace function grace_internal.filter_named(name text)
returns grace_internal.filter
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter;
begin
  select f.* into v_filter from grace_internal.filter f where f.name = filter_named.name;
  if not found then
    raise exception 'there is no filter %', coalesce(quote_literal(name), 'null')
      using errcode = 'GR027',
      detail = coalesce(
        'Filters: ' || (select string_agg(quote_literal(f.name), ', ' order by f.name) from grace_internal.filter f),
        'No filter has been saved.'
      ),
      hint = 'select * from grace.filters;';
  end if;
  return v_filter;
end
$$;

create or replace function grace_internal.check_filter_name(name text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(name, '') = '' then
    raise exception 'a filter needs a name'
      using errcode = 'GR031', detail = 'The name is empty.', hint = 'Give a name, as users would call the selection.';
  end if;
  if exists (select from grace_internal.filter f where f.name = check_filter_name.name) then
    raise exception 'there is a filter % already', quote_literal(name)
      using errcode = 'duplicate_object', detail = 'Names of filters are unique.',
      hint = 'Give another name, or change it: select grace.alter_filter(…);';
  end if;
end
$$;

create or replace function grace._add_filter(name text, target regclass, predicate text, columns name [], path text)
returns integer
language plpgsql
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_expression grace_internal.expression;
  v_id integer;
begin
  perform grace_internal.check_filter_name(name);
  v_expression := grace_internal.read_expression(target, predicate, path, quote_ident(grace_internal.caller())::regrole);
  insert into grace_internal.filter (
    name, target, predicate, condition, columns, depends, home, created_by, created_login
  )
  values (
    name, target, predicate, v_expression.text, grace_internal.check_columns(target, columns), v_expression.depends,
    grace_internal.home(), grace_internal.caller(), session_user
  )
  returning id into v_id;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', target, 'done', clock_timestamp(), jsonb_build_object('filter', name, 'filter_id', v_id, 'condition', v_expression.text),
    grace_internal.caller(), session_user
  );
  return v_id;
end
$$;
comment on function grace._add_filter(text, regclass, text, name [], text) is 'Internal: saves a filter that was checked.';

-- Whether a table can be named in a filter or rule; asked with the owner's rights, before anything of the caller's text is read.
create or replace function grace._check_target(target regclass)
returns text
language plpgsql stable
security definer -- the catalog helpers are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.check_target(target);
  return grace_internal.source_of(target);
end
$$;
comment on function grace._check_target(regclass) is 'Internal: refuses what can''t have filters; returns the FROM item.';

-- With the caller's rights up to where it is saved: the text may refer only to what the caller may read.
create or replace function grace.add_filter(name text, target regclass, predicate text, columns name [] default '{}')
returns table (condition text, row_count bigint, cost double precision)
language plpgsql
set standard_conforming_strings = on
as $$
declare
  v_source text := grace._check_target(target);
begin
  if pg_catalog.btrim(coalesce(predicate, '')) operator(pg_catalog.=) '' then
    raise exception 'a filter needs a condition'
      using errcode = 'GR022', detail = 'The predicate is empty.', hint = 'Give a condition, as behind WHERE; true for all rows.';
  end if;
  perform grace._check_predicate(v_source, predicate);
  perform grace._add_filter(name, target, predicate, columns, grace._caller_path());
  return query select m.condition, m.row_count, m.cost from grace._filter_matches(name) m;
end
$$;
comment on function grace.add_filter(text, regclass, text, name []) is
'Saves criteria on a table under a name. predicate: one condition on its columns, as behind WHERE; names in it are read under the caller''s search_path and kept qualified. columns: what users know the records by, for previews. Returns the condition as PostgreSQL reads it, how many rows match now and the estimated cost of finding them. The caller needs SELECT on what it refers to. Errors: GR022 not one condition, or one that calls a volatile function; GR031; 42501; 42710 a name that is taken.';

-- With the caller's rights and row security. Whose code the condition runs was checked.
create or replace function grace._filter_matches(name text)
returns table (condition text, row_count bigint, cost double precision)
language plpgsql
set standard_conforming_strings = on
as $$
declare
  v_statement text;
  v_plan json;
begin
  select r.condition, r.statement into _filter_matches.condition, v_statement from grace._filter_statement(name) r;
  execute 'select pg_catalog.count(*) ' operator(pg_catalog.||) v_statement into row_count;
  execute 'explain (format json) select 1 ' operator(pg_catalog.||) v_statement into v_plan;
  cost := (v_plan operator(pg_catalog.#>>) '{0,Plan,Total Cost}')::pg_catalog.float8;
  return next;
end
$$;
comment on function grace._filter_matches(text) is 'Internal: how many rows a filter matches, and at what cost.';

-- What may be run with the rights of whoever calls: refused where it has changed its meaning, or would run somebody else's code.
create or replace function grace._filter_statement(name text)
returns table (target regclass, condition text, statement text, keys text, key_object text, record text)
language plpgsql stable
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter := grace_internal.filter_named(name);
  v_code text;
begin
  perform grace_internal.require_valid('filter', v_filter.name, v_filter.depends, v_filter.home);
  v_code := grace_internal.strange_code(v_filter.target, v_filter.depends, quote_ident(grace_internal.caller())::regrole);
  if v_code is not null then
    raise exception 'filter % would run somebody else''s code', quote_literal(name)
      using errcode = 'insufficient_privilege',
      detail = format('%s would run with the rights of role %I.', v_code, grace_internal.caller()),
      hint = 'Preview a rule instead, which runs as a role of its own; or let a superuser own the function.';
  end if;
  return query
    select
      v_filter.target, v_filter.condition,
      format('from %s where (%s)', grace_internal.source_of(v_filter.target), v_filter.condition),
      string_agg(format('%I.%I', t.relname, a.attname), ', ' order by k.position),
      format('pg_catalog.jsonb_build_object(%s)', string_agg(
        format('%L, %I.%I', a.attname, t.relname, a.attname), ', ' order by k.position
      )),
      grace_internal.record_object(v_filter.target, v_filter.columns)
    from pg_class t
    cross join lateral unnest(grace_internal.primary_key(t.oid)) with ordinality as k (attnum, position)
    join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
    where t.oid = v_filter.target
    group by t.oid;
end
$$;
comment on function grace._filter_statement(text) is 'Internal: what to run for a filter.';

create or replace function grace_internal.require_valid(kind text, name text, depends jsonb, home text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := grace_internal.problem_of(depends, home);
begin
  if v_problem is not null then
    raise exception '% % no longer says what was meant', kind, quote_literal(name)
      using errcode = 'GR028', detail = v_problem || '.',
      hint = case kind
        when 'filter' then format('Say anew what is meant: select grace.alter_filter(%L, …);', name)
        else format('Define it anew: select grace.alter_rule(%L, ''{"starts": …, "predicate": …}'');', name)
      end;
  end if;
end
$$;

create or replace function grace._alter_filter(name text, predicate text, columns name [], rename text, path text)
returns void
language plpgsql
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter := grace_internal.filter_named(name);
  v_new grace_internal.filter;
  v_expression grace_internal.expression;
  v_rule grace_internal.rule;
begin
  select f.* into v_filter from grace_internal.filter f where f.id = v_filter.id for update; -- as somebody else has changed it meanwhile
  v_new := v_filter;
  if predicate is null then
    perform grace_internal.require_valid('filter', name, v_filter.depends, v_filter.home);
  end if;
  if rename is not null and rename <> name then
    perform grace_internal.check_filter_name(rename);
    v_new.name := rename;
  end if;
  if predicate is not null then
    v_expression := grace_internal.read_expression(v_filter.target, predicate, path, quote_ident(grace_internal.caller())::regrole);
    v_new.predicate := predicate;
    v_new.condition := v_expression.text;
    v_new.depends := v_expression.depends;
    v_new.home := grace_internal.home();
    v_new.reported := null;
  end if;
  v_new.columns := grace_internal.check_columns(v_filter.target, coalesce(columns, v_filter.columns));
  update grace_internal.filter f
  set
    name = v_new.name, predicate = v_new.predicate, condition = v_new.condition, depends = v_new.depends, columns = v_new.columns,
    home = v_new.home, reported = v_new.reported
  where f.id = v_filter.id;
  if predicate is not null or columns is not null then
    for v_rule in select r.* from grace_internal.rule r where r.filter_id = v_filter.id order by r.id loop
      perform grace._save_rule(
        grace_internal.definition_of(v_rule) || case when v_rule.columns = v_filter.columns then '{"columns": []}' else '{}' end::jsonb,
        v_rule.path, v_rule.name
      );
    end loop;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', v_filter.target, 'done', clock_timestamp(),
    jsonb_build_object('filter', v_new.name, 'filter_id', v_new.id, 'condition', v_new.condition) || case when v_new.name <> name then jsonb_build_object('was', name) else '{}' end,
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace._alter_filter(text, text, name [], text, text) is 'Internal: changes a filter that was checked.';

create or replace function grace._filter_target(name text)
returns regclass
language sql stable
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select (grace_internal.filter_named(name)).target
$$;
comment on function grace._filter_target(text) is 'Internal: the table that a filter is on.';

create or replace function grace.alter_filter(
  name text, predicate text default null, columns name [] default null, rename text default null
)
returns table (condition text, row_count bigint, cost double precision)
language plpgsql
set standard_conforming_strings = on
as $$
begin
  if predicate is not null then
    perform grace._check_predicate(grace._check_target(grace._filter_target(name)), predicate);
  end if;
  perform grace._alter_filter(name, predicate, columns, rename, grace._caller_path());
  return query select m.condition, m.row_count, m.cost from grace._filter_matches(coalesce(rename, name)) m;
end
$$;
comment on function grace.alter_filter(text, text, name [], text) is
'Gives a filter another condition, other columns or another name, and with them every rule that uses it, for which the caller has to be a member of the roles that these run as; null leaves what is there. Returns what grace.add_filter does. Errors: those of grace.add_filter, GR027, GR028 where it is broken and gets no other condition.';

create or replace function grace.drop_filter(name text)
returns void
language plpgsql
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter := grace_internal.filter_named(name);
  v_rules text := (
    select string_agg(quote_literal(r.name), ', ' order by r.name) from grace_internal.rule r where r.filter_id = v_filter.id
  );
begin
  if v_rules is not null then
    raise exception 'filter % is in use', quote_literal(name)
      using errcode = 'dependent_objects_still_exist', detail = 'Rules: ' || v_rules,
      hint = 'Drop these first, or change what the filter says: select grace.alter_filter(…);';
  end if;
  delete from grace_internal.filter f where f.id = v_filter.id;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', v_filter.target, 'done', clock_timestamp(), jsonb_build_object('filter', name, 'dropped', true),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.drop_filter(text) is
'Forgets a filter. Errors: GR027 when there is none of that name, 2BP01 while rules use it.';

create or replace function grace._filter_problem(filter_id integer)
returns text
language sql stable
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.problem_of(f.depends, f.home) from grace_internal.filter f where f.id = filter_id
$$;
comment on function grace._filter_problem(integer) is 'Internal: why a filter no longer says what was meant.';

create or replace view grace.filters as
select
  f.name,
  f.target,
  f.condition,
  f.predicate,
  f.columns,
  array(
    select r.name
    from grace_internal.rule r
    where r.filter_id = f.id
    order by r.name
  ) as rules,
  grace._filter_problem(f.id) as problem,
  f.created_at,
  f.created_by
from grace_internal.filter f;

comment on view grace.filters is 'Saved criteria.';
comment on column grace.filters.condition is 'The condition as PostgreSQL reads it.';
comment on column grace.filters.predicate is 'The condition as it was given.';
comment on column grace.filters.columns is 'What a user knows the records by.';
comment on column grace.filters.problem is
'Why it no longer says what was meant, because what it refers to was renamed, dropped or given another type; its rules stand still. Null: it is as it was saved.';

-- rules/runner.sql
-- The settings that a role has of its own for what its row security may ask: names with a dot, for this database before the others.
create or replace function grace_internal.role_settings(role oid)
returns text []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(s.setting order by s.setting), '{}')
  from (
    select distinct on (split_part(c, '=', 1)) c as setting
    from pg_db_role_setting d
    cross join lateral unnest(d.setconfig) c
    where d.setrole = role and d.setdatabase in (0, (select b.oid from pg_database b where b.datname = current_database()))
      and split_part(c, '=', 1) ~ '^[A-Za-z_][A-Za-z0-9_$]*([.][A-Za-z_][A-Za-z0-9_$]*)+$'
    order by split_part(c, '=', 1), d.setdatabase desc
  ) as s
$$;

-- Three functions owned by a role, as which they execute a statement: the one sandbox that holds. In a SECURITY DEFINER function no SET
-- ROLE and no setting gets out of the role, by whatever way the call came, and row security is that of the role. One finds out whether
-- a text is one condition, by having it fit where nothing but an expression fits; one reads, in a read-only transaction; one writes, and
-- has what was deferred done at once, in that role's name too. What the end of the transaction does is done by whoever began it, so
-- nothing may be left for that: what deferred triggers defer once more shows in the numbers of rows that tables with such triggers have
-- got. A SET that the role's code executes would outlast the function, in spite of its SET clauses, so what reads is done in a
-- subtransaction that is taken back; whoever calls what writes has to set search_path again. Only the owner of pg_grace may call them.
-- Returns the number that they have in their names.
create or replace function grace_internal.ensure_runner(role regrole)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_runner grace_internal.runner;
  v_settings text [] := grace_internal.role_settings(role);
  v_function record;
  -- Values are written and read the same whoever calls.
  v_formats constant text := e'\nset datestyle = \'ISO, MDY\' set intervalstyle = postgres set extra_float_digits = 1';
begin
  select r.* into v_runner from grace_internal.runner r where r.role = ensure_runner.role;
  if found and v_runner.settings = v_settings and grace_internal.runner_stands(v_runner) then
    return v_runner.id;
  end if;
  insert into grace_internal.runner (role, settings) values (role, v_settings)
  on conflict on constraint runner_role_key do update set settings = excluded.settings
  returning * into v_runner;
  for v_function in
    select
      format('grace_internal.%I', w.way || '_as_' || v_runner.id) as name, w.parameters, w.result, w.setting, w.body,
      (select string_agg(p.type, ', ') from regexp_matches(w.parameters, '[a-z]+ ([a-z]+)', 'g') m, lateral (select m[1]) as p (type)) as types
    from (
      values
        (
          'check', 'source text, predicate text, path text', 'void', e'\nset transaction_read_only = on',
          $body$
declare
  v_cursor pg_catalog.refcursor;
  v_statements text [] := array[
    pg_catalog.format(e'explain select 1 from %s where (%s\n)', source, predicate),
    pg_catalog.format(e'explain select case when (%s\n) then 1 end from %s where false', predicate, source)
  ];
  v_done boolean := false;
begin
  begin
    perform pg_catalog.set_config('search_path', path, true);
    for i in 1 .. 2 loop
      open v_cursor no scroll for execute v_statements[i];
      close v_cursor;
    end loop;
    v_done := true;
    raise exception using errcode = 'GR099';
  exception when sqlstate 'GR099' then
    if not v_done then
      raise;
    end if;
  end;
end$body$
        ),
        (
          'read', 'statement text', 'setof record', v_formats || e'\nset transaction_read_only = on',
          $body$
declare
  v_done boolean := false;
begin
  if pg_my_temp_schema() <> 0 and exists (
    select
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid and c.relnamespace = pg_my_temp_schema()
    where t.tgdeferrable and not t.tgisinternal
  ) then
    raise exception 'a temporary table of this session has a deferrable trigger'
      using errcode = 'insufficient_privilege', detail = 'What it does at the end of the transaction would not be done as the role.',
      hint = 'Drop it, or use another session.';
  end if;
  begin
    return query execute statement;
    v_done := true;
    raise exception using errcode = 'GR099';
  exception when sqlstate 'GR099' then
    if not v_done then
      raise;
    end if;
  end;
end$body$
        ),
        (
          'write', 'statement text', 'setof record', v_formats,
          $body$
declare
  v_before text;
  v_after text;
begin
  return query execute statement;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for v_round in 1 .. 10 loop
    v_before := v_after;
    set constraints all immediate;
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    select coalesce(string_agg(concat_ws(
      ' ', t.relation, pg_stat_get_xact_tuples_inserted(t.relation), pg_stat_get_xact_tuples_updated(t.relation),
      pg_stat_get_xact_tuples_deleted(t.relation)
    ), ',' order by t.relation), '') into v_after
    from (select distinct g.tgrelid as relation from pg_trigger g where g.tgdeferrable and not g.tgisinternal) as t;
    exit when v_after = '' or v_after = v_before and current_setting('track_counts')::boolean;
  end loop;
  if v_after <> '' and (v_after is distinct from v_before or not current_setting('track_counts')::boolean) then
    raise exception 'triggers defer to the end of the transaction what they do'
      using errcode = 'insufficient_privilege', detail = 'It would not be done as the role.',
      hint = 'Don''t let deferred triggers say "set constraints … deferred"; track_counts has to be on.';
  end if;
  -- What a cursor WITH HOLD says is run as the transaction ends, by whoever ends it.
  if exists (select from pg_cursors c where c.is_holdable and c.creation_time >= statement_timestamp()) then
    raise exception 'a cursor would outlive what is done as the role'
      using errcode = 'insufficient_privilege', detail = 'It was declared WITH HOLD.', hint = 'Functions and triggers can''t do that here.';
  end if;
end$body$
        )
    ) as w (way, parameters, result, setting, body)
  loop
    if to_regprocedure(format('%s(%s)', v_function.name, v_function.types)) is not null then
      execute format('drop function %s(%s)', v_function.name, v_function.types);
    end if;
    execute format(
      e'create function %s(%s) returns %s language plpgsql security definer -- as the role of a rule\n'
      'set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set row_security = on set jit = off'
      '%s%s as %L',
      v_function.name, v_function.parameters, v_function.result, v_function.setting,
      (
        select string_agg(
          format(
            ' set "%s" = %L', replace(split_part(s, '=', 1), '.', '"."'), substr(s, strpos(s, '=') + 1)
          ), '' order by s
        )
        from unnest(v_settings) s
      ),
      v_function.body
    );
    v_function.name := format('%s(%s)', v_function.name, v_function.types);
    execute format('comment on function %s is %L', v_function.name, 'pg_grace: what rules do as role ' || role::text);
    execute format('revoke all on function %s from public', v_function.name);
    if role <> quote_ident(current_user)::regrole then
      execute format('grant create on schema grace_internal to %s', role);
      execute format('alter function %s owner to %s', v_function.name, role);
      execute format('revoke create on schema grace_internal from %s', role);
      execute format('grant execute on function %s to %I', v_function.name, current_user);
    end if;
  end loop;
  if not has_schema_privilege(role, 'grace', 'usage') then
    execute format('grant usage on schema grace to %s', role);
    update grace_internal.runner r set granted = true where r.id = v_runner.id;
  end if;
  if not has_table_privilege(role, 'grace._remembered', 'select') then
    execute format('grant select on grace._remembered to %s', role);
  end if;
  return v_runner.id;
exception when insufficient_privilege then
  raise exception 'no rule can run as role %', role
    using errcode = 'insufficient_privilege',
    detail = format('Role %I, which owns pg_grace, may not give a function to it: %s.', current_user, sqlerrm),
    hint = format('grant %s to %I;', role, current_user);
end
$$;

-- Roles that no rule runs as any more own nothing here, and can be dropped.
create or replace function grace_internal.drop_idle_runners()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function record;
  v_runner grace_internal.runner;
begin
  for v_runner in
    select r.* from grace_internal.runner r join pg_roles o on o.oid = r.role where r.role not in (select l.run_as from grace_internal.rule l)
  loop
    execute format('revoke select on grace._remembered from %s', v_runner.role);
    if v_runner.granted then
      execute format('revoke usage on schema grace from %s', v_runner.role);
    end if;
  end loop;
  for v_function in
    select p.oid::regprocedure as name
    from grace_internal.runner r
    join pg_proc p on p.pronamespace = 'grace_internal'::regnamespace and p.proname in ('check_as_' || r.id, 'read_as_' || r.id, 'write_as_' || r.id)
    where r.role not in (select l.run_as from grace_internal.rule l)
  loop
    execute format('drop function %s', v_function.name);
  end loop;
  delete from grace_internal.runner r where r.role not in (select l.run_as from grace_internal.rule l);
end
$$;

create or replace function grace_internal.runner_stands(runner grace_internal.runner)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select count(*) = 3
    from pg_proc p
    where p.pronamespace = 'grace_internal'::regnamespace and p.proowner = runner.role and p.prosecdef
      and p.proname in ('check_as_' || runner.id, 'read_as_' || runner.id, 'write_as_' || runner.id)
  )
  and has_schema_privilege(runner.role, 'grace', 'usage') and has_table_privilege(runner.role, 'grace._remembered', 'select');
end
$$;

-- Those of an older version are made anew when a rule runs.
update grace_internal.runner set settings = array['of an older version'];

-- The FROM item of a statement that is executed as a role. columns: what it returns, with types.
create or replace function grace_internal.as_role(role regrole, way text, statement text, columns text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return format(
    'grace_internal.%I(%L) as k (%s)', way || '_as_' || (select r.id from grace_internal.runner r where r.role = as_role.role),
    statement, columns
  );
end
$$;

-- What is checked is a condition; what was given is shown: the condition itself, or what a period starts with. Errors: GR022 when it is not
-- one that the role may evaluate; GR031 for a start; 42501 as PostgreSQL says it.
create or replace function grace_internal.check_as(
  role regrole, source text, predicate text, path text, given text default null, is_start boolean default false
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_perhaps text;
begin
  execute format(
    'select grace_internal.%I($1, $2, $3)', 'check_as_' || (select r.id from grace_internal.runner r where r.role = check_as.role)
  ) using source, predicate, path;
exception when syntax_error_or_access_rule_violation or invalid_cursor_definition or data_exception or feature_not_supported then
  if sqlstate = '42501' then
    raise exception 'role % may not evaluate %', role, coalesce(given, predicate)
      using errcode = 'insufficient_privilege', detail = sqlerrm || '.', hint = 'Grant it what it needs, or run the rule as another role.';
  end if;
  get stacked diagnostics v_perhaps = pg_exception_hint;
  if is_start then
    raise exception 'a period can''t start with %', given
      using errcode = 'GR031', detail = concat_ws('. ', sqlerrm, nullif(v_perhaps, '')),
      hint = 'Give a column or expression of type date or timestamp, or "end of year of COLUMN"; activities as TABLE.COLUMN via COLUMN.';
  end if;
  perform grace._not_a_condition(coalesce(given, predicate), concat_ws('. ', sqlerrm, nullif(v_perhaps, '')));
end
$$;

-- rules/define_rule.sql
-- TABLE.COLUMN via COLUMN [where CONDITION]: names are read under the caller's search_path. The columns named via refer to the rule's
-- table; left out, they are those of the only foreign key there is.
create or replace function grace_internal.read_activity(
  target regclass, activity text, path text, out source regclass, out moment name, out link name [], out expression text, out condition text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_head text := regexp_replace(activity, '\s+where\s.*$', '', 'i');
  v_parts text [] := regexp_match(v_head, '^\s*(.+?)(?:\s+via\s+(.+?))?\s*$', 'i');
  v_names text [];
  v_condition text;
begin
  condition := nullif(regexp_replace(substr(activity, length(v_head) + 1), '^\s+where\s+', '', 'i'), '');
  v_names := parse_ident(v_parts[1]);
  moment := v_names[cardinality(v_names)];
  source := grace_internal.table_under(path, v_names[:cardinality(v_names) - 1]);
  if not exists (
    select
    from pg_attribute a
    where a.attrelid = source and a.attname = moment and a.attnum > 0 and not a.attisdropped
      and grace_internal.is_moment(a.atttypid)
  ) then
    raise exception '% has no column % that says when%', source, quote_ident(moment), (
      select '; these do: ' || string_agg(quote_ident(a.attname), ', ' order by a.attnum)
      from pg_attribute a
      where a.attrelid = source and a.attnum > 0 and not a.attisdropped and grace_internal.is_moment(a.atttypid)
    ) using errcode = 'invalid_parameter_value';
  end if;
  select l.columns, l.condition into link, v_condition
  from grace_internal.link_between(source, target, v_parts[2]) l;
  expression := format(
    '(select max(%I.%I) from %s where %s%s)',
    grace_internal.alias_of(source), moment, grace_internal.source_of(source), v_condition, ' and (' || condition || e'\n)'
  );
exception when invalid_parameter_value then
  raise exception 'not an activity: %', activity
    using errcode = 'GR031', detail = sqlerrm || '.',
    hint = 'Give it as TABLE.COLUMN via COLUMN, for example email.sent_at via lead_id, and where CONDITION, if need be.';
end
$$;

create or replace function grace_internal.table_under(path text, names text [])
returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := (select string_agg(quote_ident(n), '.' order by o) from unnest(names) with ordinality as u (n, o));
  v_table regclass;
begin
  if v_name is null then
    raise exception 'no table is named' using errcode = 'invalid_parameter_value';
  end if;
  perform set_config('search_path', path, true); -- nothing but pg_catalog's own is called under it
  v_table := pg_catalog.to_regclass(v_name);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if v_table is null then
    raise exception 'table % does not exist', v_name
      using errcode = 'undefined_table', detail = format('The search path is %s.', path),
      hint = coalesce('Did you mean ' || grace._tables_like(v_name) || '?', 'Give it as schema.table.');
  end if;
  return v_table;
end
$$;

-- How rows of one table belong to rows of another: by the columns named, or by the only foreign key. Where no foreign key says what they
-- refer to it is the primary key.
create or replace function grace_internal.link_between(source regclass, target regclass, via text, out condition text, out columns name [])
language plpgsql stable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_columns name [] := (
    select array_agg((parse_ident(c))[cardinality(parse_ident(c))]::name order by o)
    from regexp_split_to_table(via, '\s*,\s*') with ordinality as u (c, o)
  );
  v_keys name [];
  v_count integer;
begin
  if grace_internal.alias_of(source) = grace_internal.alias_of(target) then
    raise exception '% and % have the same name', source, target
      using errcode = 'invalid_parameter_value', detail = 'Their columns could not be told apart.', hint = 'Write an expression.';
  end if;
  select
    count(*) over (), grace_internal.column_names(f.conrelid, f.conkey), grace_internal.column_names(f.confrelid, f.confkey)
  into v_count, columns, v_keys
  from pg_constraint f
  where f.contype = 'f' and f.conrelid = source and f.confrelid = target
    and (via is null or grace_internal.column_names(f.conrelid, f.conkey) = v_columns)
  limit 1;
  v_count := coalesce(v_count, 0);
  if v_count = 0 and via is not null then
    columns := v_columns;
    v_keys := grace_internal.column_names(target, grace_internal.primary_key(target));
  elsif v_count <> 1 and via is null then
    raise exception '% has % foreign keys to %', source, v_count, target
      using errcode = 'invalid_parameter_value', detail = 'Which columns belong to it can''t be told.', hint = 'Name them: via COLUMN.';
  end if;
  if cardinality(columns) is distinct from cardinality(v_keys) or exists (
    select from unnest(columns) c where c not in (select l.attname from grace_internal.live_columns(source) l)
  ) then
    raise exception '%.% does not refer to %', source, array_to_string(columns, ', '), target
      using errcode = 'invalid_parameter_value', detail = 'There is no such column, or the key has more of them.', hint = 'Name the columns.';
  end if;
  condition := (
    select string_agg(
      format('%I.%I = %I.%I', grace_internal.alias_of(source), u.c, grace_internal.alias_of(target), u.k), ' and ' order by u.o
    )
    from unnest(columns, v_keys) with ordinality as u (c, k, o)
  );
end
$$;

create or replace function grace_internal.is_moment(type oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.base_type(is_moment.type) in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
$$;

-- What a period starts with, without the words before it; what it is becomes a moment by a cast, and a text would, too.
create or replace function grace_internal.start_without_words(starts text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select regexp_replace(starts, '^\s*end\s+of\s+(?:the\s+)?(?:calendar\s+)?(?:year|quarter|month)\s+of\s+', '', 'i')
$$;

-- From when the period counts, as text: "end of year of COLUMN" in words, else an expression.
create or replace function grace_internal.start_in_words(starts text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
  select coalesce(
    (
      select format(e'(pg_catalog.date_trunc(%L, (%s\n)::timestamp) + interval %L)', lower(m[1]), m[2], 
        case lower(m[1]) when 'quarter' then '3 months' else '1 ' || lower(m[1]) end)
      from regexp_match(starts, '^\s*end\s+of\s+(?:the\s+)?(?:calendar\s+)?(year|quarter|month)\s+of\s+(.+)$', 'i') m
      where m is not null
    ),
    starts
  )
$$;

-- The start of the period from what a rule was given: the latest of a column or expression and of activities. Null: none was given.
create or replace function grace_internal.start_text(target regclass, starts text, activities jsonb, path text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case count(*) when 0 then null when 1 then min(p.part) else 'greatest(' || string_agg(p.part, ', ' order by p.position) || ')' end
  from (
    select 0 as position, format(e'(%s\n)::timestamptz', grace_internal.start_in_words(starts)) as part where starts is not null
    union all
    select a.position, (grace_internal.read_activity(target, a.activity, path)).expression || '::timestamptz'
    from jsonb_array_elements_text(activities) with ordinality as a (activity, position)
  ) as p
$$;

-- The conditions that come to stand beside others, each as a condition of the table's that holds it between brackets of another kind: what
-- would get out of its parentheses, as "true) or (true" does, does not fit there.
create or replace function grace_internal.lone_conditions(target regclass, definition jsonb, path text)
returns table (condition text, given text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(e'true = all (array[%s\n])', definition ->> 'predicate'), definition ->> 'predicate'
  where definition ->> 'predicate' is not null
  union all
  select format(e'exists (select from %s where true = all (array[%s\n]))', grace_internal.source_of(r.source), r.condition), r.condition
  from jsonb_array_elements_text(definition -> 'activities') a (activity)
  cross join lateral grace_internal.read_activity(target, a.activity, path) r
  where r.condition is not null
$$;

-- The expressions of a rule, still as text, to be checked with the caller's rights before they are read and kept.
create or replace function grace._rule_texts(definition jsonb, path text)
returns table (source text, condition text, starts text)
language plpgsql stable
security definer -- the catalog helpers are granted to nobody
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_filter grace_internal.filter;
  v_target regclass := (definition ->> 'target')::oid::regclass;
  v_related text [];
  v_parent regclass;
  v_parent_condition text;
begin
  if definition ->> 'filter' is not null then
    v_filter := grace_internal.filter_named(definition ->> 'filter');
    perform grace_internal.require_valid('filter', v_filter.name, v_filter.depends, v_filter.home);
    if v_target is not null and v_target <> v_filter.target then
      raise exception 'filter % is on %, not on %', quote_literal(v_filter.name), v_filter.target, v_target
        using errcode = 'GR031', detail = 'A rule is about one table.', hint = 'Leave the table out.';
    end if;
    v_target := v_filter.target;
  elsif v_target is null then
    raise exception 'a rule needs a filter or a table'
      using errcode = 'GR031', detail = 'Neither was given.', hint = 'Name a filter, or the table for all its rows.';
  end if;
  perform grace_internal.check_target(v_target);
  source := grace_internal.source_of(v_target);
  if definition ->> 'related_to' is not null then
    v_related := regexp_match(definition ->> 'related_to', '^\s*(.+?)(?:\s+via\s+(.+?))?\s*$', 'i');
    begin
      v_parent := grace_internal.table_under(path, parse_ident(v_related[1]));
      v_parent_condition := (grace_internal.link_between(v_target, v_parent, v_related[2])).condition;
    exception when invalid_parameter_value then
      raise exception 'not a table that % belongs to: %', v_target, definition ->> 'related_to'
        using errcode = 'GR031', detail = sqlerrm || '.', hint = 'Give it as TABLE, or as TABLE via COLUMN.';
    end;
    if v_parent = v_target then
      raise exception '% can''t be related to itself', v_target
        using errcode = 'GR031', detail = 'The tables are the same.', hint = 'Write the condition as predicate.';
    end if;
  end if;
  condition := concat_ws(
    ' and ',
    '(' || v_filter.condition || ')',
    '(' || (definition ->> 'predicate') || e'\n)',
    case when v_parent is not null then
      format('exists (select from %s where %s)', grace_internal.source_of(v_parent), v_parent_condition)
    end
  );
  condition := coalesce(nullif(condition, ''), 'true');
  if jsonb_typeof(definition -> 'activities') not in ('array', 'null') then
    raise exception 'activities are a list'
      using errcode = 'GR031', detail = format('Given was %s.', definition -> 'activities'), hint = 'Give them as ["email.sent_at via lead_id"].';
  end if;
  starts := grace_internal.start_text(v_target, definition ->> 'starts', nullif(definition -> 'activities', 'null'), path);
  return next;
end
$$;
comment on function grace._rule_texts(jsonb, text) is 'Internal: the expressions of a rule, to be checked as the caller.';

-- schedule/read_schedule.sql
-- One field of a schedule: its elements in order, or in words what is wrong with it. A name is its place in the list of names.
create or replace function grace_internal.read_schedule_field(
  field text, lowest integer, highest integer, names text [], out elements integer [], out problem text
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_item text;
  v_parts text [];
  v_word text;
  v_number numeric;
  v_bounds integer [];
begin
  -- What stands in most fields, and is read for each record that is looked up.
  if field = '*' then
    elements := array(select s.n from generate_series(lowest, highest) as s (n));
    return;
  elsif field ~ '^[0-9]{1,2}$' and field::integer between lowest and highest then
    elements := array[field::integer];
    return;
  end if;
  elements := '{}';
  foreach v_item in array string_to_array(field, ',') loop
    -- pg_cron ignores what stands behind something valid (5.5 is 5 to it). That is a mistake, and is refused.
    v_parts := regexp_match(v_item, '^(?:([*])|([0-9a-zA-Z]+)(?:-([0-9a-zA-Z]+))?)(?:/([0-9]+))?$');
    problem := case
      when v_item = '' then 'before and behind a comma there must be something'
      when v_parts is null then format('%L is no number, range or *', v_item)
      when v_parts[2] is not null and v_parts[3] is null and v_parts[4] is not null
        then format('in %L a step follows a single value; it needs a range (%s-%s/%s)', v_item, v_parts[2], highest, v_parts[4])
      when v_parts[4] ~ '^0+$' then format('the step in %L is 0', v_item)
      -- There pg_cron's integers overflow.
      when length(ltrim(v_parts[4], '0')) > 9 then format('the step in %L is too large', v_item)
    end;
    exit when problem is not null;
    v_bounds := case when v_parts[1] is null then '{}' else array[lowest, highest] end;
    foreach v_word in array array_remove(v_parts[2:3], null) loop
      v_number := case
        when v_word ~ '^[0-9]+$' then v_word::numeric
        else array_position(names, lower(v_word collate "C")) + lowest - 1
      end;
      problem := case
        when v_number is null and names is null then format('%L is no number', v_word)
        when v_number is null then format('%L is neither a number nor one of %s', v_word, array_to_string(names, ', '))
        when v_number not between lowest and highest then format('%s is not between %s and %s', v_word, lowest, highest)
      end;
      exit when problem is not null;
      v_bounds := v_bounds || v_number::integer;
    end loop;
    if problem is null and v_bounds[1] > v_bounds[2] then
      problem := format('%L ends before it begins', v_item);
    end if;
    exit when problem is not null;
    elements := elements || array(
      select s.n from generate_series(v_bounds[1], coalesce(v_bounds[2], v_bounds[1]), coalesce(v_parts[4], '1')::integer) as s (n)
    );
  end loop;
  elements := array(select distinct e.n from unnest(elements) as e (n) order by e.n);
end
$$;

-- A schedule as pg_cron reads it, without @reboot and intervals of seconds. weekdays: 0 is Sunday. either_day: day of month or day of
-- week, else both; it is so unless one of the two fields begins with a star, whatever follows the star.
-- Errors: GR024 for what is no schedule, or never comes.
create or replace function grace_internal.read_schedule(
  schedule text,
  out minutes integer [], out hours integer [], out days integer [], out last_day boolean,
  out months integer [], out weekdays integer [], out either_day boolean
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := ltrim(rtrim(schedule, e' \t\n'), e' \t\n');
  v_fields text [] := regexp_split_to_array(
    case v_text
      when '@hourly' then '0 * * * *'
      when '@daily' then '0 0 * * *'
      when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0'
      when '@monthly' then '0 0 1 * *'
      when '@yearly' then '0 0 1 1 *'
      when '@annually' then '0 0 1 1 *'
      else v_text
    end, e'[ \t]+'
  );
  v_names constant text [] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
  v_elements integer [];
  v_problem text;
begin
  v_problem := case
    when schedule is null then 'It is null.'
    when v_text = '' then 'It is empty.'
    when octet_length(schedule) >= 1000 then 'It is longer than 999 bytes, which pg_cron does not take.'
    when v_fields[1] like '@%' then 'Of words there are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.'
    when cardinality(v_fields) <> 5 then format(
      'It has %s field%s and needs five: %s.',
      cardinality(v_fields), case when cardinality(v_fields) > 1 then 's' end, array_to_string(v_names, ', ')
    )
  end;
  last_day := coalesce(v_fields[3] = '$', false);
  either_day := coalesce(v_fields[3] not like '*%' and v_fields[5] not like '*%', false);
  for v_number in 1..5 loop
    exit when v_problem is not null;
    if v_number = 3 and v_fields[3] like '%$%' then
      v_elements := '{}';
      v_problem := case when not last_day then '$, the last day of the month, stands alone' end;
    else
      select f.elements, f.problem into v_elements, v_problem
      from grace_internal.read_schedule_field(
        v_fields[v_number], (array[0, 0, 1, 1, 0])[v_number], (array[59, 23, 31, 12, 7])[v_number],
        case v_number
          when 4 then array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
          when 5 then array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
        end
      ) as f;
    end if;
    v_problem := format('The %s is %L: ', v_names[v_number], v_fields[v_number]) || v_problem || '.';
    case v_number
      when 1 then minutes := v_elements;
      when 2 then hours := v_elements;
      when 3 then days := v_elements;
      when 4 then months := v_elements;
      when 5 then weekdays := array(select distinct e.n % 7 from unnest(v_elements) as e (n) order by 1);
    end case;
  end loop;
  if v_problem is null and not either_day and not last_day
    and days[1] > (select max(case when m.n = 2 then 29 when m.n in (4, 6, 9, 11) then 30 else 31 end) from unnest(months) as m (n))
  then
    v_problem := format('The day of month is %L: it never comes in the month %L.', v_fields[3], v_fields[4]);
  end if;
  if v_problem is not null then
    raise exception 'not a schedule: %', coalesce(quote_literal(schedule), 'null')
      using errcode = 'GR024', detail = v_problem,
      hint = 'Give minute, hour, day of month, month and day of week as pg_cron takes them: ''5 0 * * *'' is every day at 00:05, '
      '''0 3 * * mon'' every Monday at 03:00; or @daily, @weekly, @monthly.';
  end if;
end
$$;

-- schedule/schedule_zone.sql
-- The time zone of pg_cron's schedules: cron.timezone, which only pg_cron 1.5 and later has. What a session has set by that name elsewhere
-- is in no view, nor is it for a role that may not read it.
create or replace function grace_internal.schedule_zone()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('cron.timezone', true) is null then
    return 'GMT'; -- the view takes its time
  end if;
  return coalesce((select s.setting from pg_settings s where s.name = 'cron.timezone' and s.setting <> ''), 'GMT');
end
$$;

-- schedule/scheduled_days.sql
-- The days of a month on which a schedule fires, in order. In PL/pgSQL, which keeps its plan.
create or replace function grace_internal.scheduled_days(
  month date, days integer [], last_day boolean, weekdays integer [], either_day boolean
)
returns date []
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(array_agg(d.day order by d.day), '{}')
    from (
      select
        n.day,
        extract(day from n.day) = any (scheduled_days.days)
        or scheduled_days.last_day and extract(day from n.day + 1) = 1 as by_month,
        extract(dow from n.day) = any (scheduled_days.weekdays) as by_week
      from (select scheduled_days.month + s.n as day from generate_series(0, 30) as s (n)) as n
      where extract(month from n.day) = extract(month from scheduled_days.month)
    ) as d
    where case when scheduled_days.either_day then d.by_month or d.by_week else d.by_month and d.by_week end
  );
end
$$;

-- schedule/scheduled_times.sql
-- The moments at which a clock shows a time: two in the hour that is repeated when it is put back, none in the one that is skipped
-- when it is put forward. skipped: the moment of that jump.
create or replace function grace_internal.moments(
  local_time timestamp, zone text, out moments timestamptz [], out skipped timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  -- PostgreSQL takes the later of two moments, and counts on from before the jump where there is none.
  v_late constant timestamptz := local_time at time zone zone;
  v_day_before constant timestamptz := v_late - interval '24 hours';
  v_early constant timestamptz := v_late - (
    (v_day_before at time zone zone) - (v_day_before at time zone 'UTC') - ((v_late at time zone zone) - (v_late at time zone 'UTC'))
  );
  v_before timestamptz;
  v_between timestamptz;
begin
  if v_late at time zone zone = local_time then
    moments := array(
      select m.moment from (values (v_early), (v_late)) as m (moment)
      where m.moment <= v_late and m.moment at time zone zone = local_time
      group by m.moment
      order by m.moment
    );
    return;
  end if;
  v_before := v_late - ((v_late at time zone zone) - local_time);
  skipped := v_late;
  while skipped - v_before > interval '1 second' loop
    v_between := v_before + make_interval(secs => floor(extract(epoch from skipped - v_before) / 2));
    if (v_between at time zone zone) - (v_between at time zone 'UTC') = (skipped at time zone zone) - (skipped at time zone 'UTC') then
      skipped := v_between;
    else
      v_before := v_between;
    end if;
  end loop;
end
$$;

-- The moments of a day at which a schedule fires, in order. When the clock is changed, what is scheduled for every hour comes in every
-- hour that passes; else a time that comes twice is meant once, the first time, and one that is skipped is the moment of the jump.
create or replace function grace_internal.scheduled_times(day date, minutes integer [], hours integer [], zone text)
returns timestamptz []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_midnights constant timestamptz [] := array[
    (day - 1)::timestamp at time zone zone, day::timestamp at time zone zone,
    (day + 1)::timestamp at time zone zone, (day + 2)::timestamp at time zone zone
  ];
  v_every_hour constant boolean := cardinality(hours) = 24;
begin
  if interval '24 hours' = all (array[
    v_midnights[2] - v_midnights[1], v_midnights[3] - v_midnights[2], v_midnights[4] - v_midnights[3]
  ]) then
    return array(
      select v_midnights[2] + make_interval(hours => h.n, mins => m.n)
      from unnest(hours) as h (n) cross join unnest(minutes) as m (n)
      order by 1
    );
  end if;
  return array(
    select distinct c.moment
    from unnest(hours) as h (n)
    cross join unnest(minutes) as m (n)
    cross join grace_internal.moments(day + make_interval(hours => h.n, mins => m.n), zone) as t
    cross join unnest(
      case when v_every_hour then t.moments else array[coalesce(t.moments[1], t.skipped)] end
    ) as c (moment)
    order by 1
  );
end
$$;

-- schedule/schedule_times.sql
-- Errors: GR024 for what is no schedule, 22023 for times that can't be counted.
create or replace function grace.schedule_times(
  schedule text, count integer default 3, after timestamptz default clock_timestamp(), zone text default null
)
returns setof timestamptz
language plpgsql stable
security definer -- calls what is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule record;
  v_zone constant text := coalesce(zone, grace_internal.schedule_zone());
  v_left integer := count;
  v_last timestamptz := after;
  -- The clock can be put back or forward over midnight.
  v_first_day constant date := (after at time zone v_zone)::date - 1;
  v_month date := date_trunc('month', v_first_day);
  v_day date;
  v_time timestamptz;
begin
  v_schedule := grace_internal.read_schedule(schedule);
  if count is null or count < 0 or after is null or not isfinite(after) then
    raise exception 'these times can''t be counted: % after %', coalesce(count::text, 'null'), coalesce(after::text, 'null')
      using errcode = '22023', detail = 'count must be a number from 0 on, after a moment.',
      hint = 'For the next three times leave both out.';
  end if;
  while v_left > 0 loop
    if extract(month from v_month) = any (v_schedule.months) then
      foreach v_day in array grace_internal.scheduled_days(
        v_month, v_schedule.days, v_schedule.last_day, v_schedule.weekdays, v_schedule.either_day
      ) loop
        continue when v_day < v_first_day;
        foreach v_time in array grace_internal.scheduled_times(v_day, v_schedule.minutes, v_schedule.hours, v_zone) loop
          continue when v_time <= v_last;
          return next v_time;
          v_last := v_time;
          v_left := v_left - 1;
          exit when v_left = 0;
        end loop;
        exit when v_left = 0;
      end loop;
    end if;
    v_month := v_month + interval '1 month';
  end loop;
end
$$;
comment on function grace.schedule_times(text, integer, timestamptz, text) is
'The next times of a schedule (cron syntax, as pg_cron reads it), strictly after a moment, in order. zone: the time zone its hours are meant in, pg_cron''s own '
'unless given. When the clock is changed, a time that is skipped is the moment of the jump, and one that comes twice is meant once, the first time. Errors: GR024, 22023.';

-- schedule/last_scheduled.sql
-- The latest time of a schedule that is after one moment and not after another; null when there is none.
-- Errors: GR024 for what is no schedule.
create or replace function grace_internal.last_scheduled(
  schedule text, before timestamptz, not_before timestamptz, zone text default null
)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule record;
  v_zone constant text := coalesce(zone, grace_internal.schedule_zone());
  -- The clock can be put back or forward over midnight.
  v_last_day constant date := (before at time zone v_zone)::date + 1;
  v_first_day constant date := (not_before at time zone v_zone)::date - 1;
  v_month date := date_trunc('month', v_last_day);
  v_days date [];
  v_time timestamptz;
begin
  v_schedule := grace_internal.read_schedule(schedule);
  if not isfinite(before) then
    raise exception 'before is %, which is no moment', before
      using errcode = '22023', detail = 'There is no latest time before it.', hint = 'Give a moment.';
  end if;
  while v_month >= date_trunc('month', v_first_day) loop
    if extract(month from v_month) = any (v_schedule.months) then
      v_days := grace_internal.scheduled_days(
        v_month, v_schedule.days, v_schedule.last_day, v_schedule.weekdays, v_schedule.either_day
      );
      for v_number in reverse cardinality(v_days)..1 loop
        continue when v_days[v_number] > v_last_day;
        v_time := (
          select max(t.moment)
          from unnest(
            grace_internal.scheduled_times(v_days[v_number], v_schedule.minutes, v_schedule.hours, v_zone)
          ) as t (moment)
          where t.moment <= before
        );
        if v_time is not null then
          return case when v_time > not_before then v_time end;
        end if;
      end loop;
    end if;
    v_month := v_month - interval '1 month';
  end loop;
  return null;
end
$$;

-- schedule/schedule_in_words.sql
create or replace function grace_internal.enumeration(items text [])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(
    ' and ',
    nullif(array_to_string(enumeration.items[:cardinality(enumeration.items) - 1], ', '), ''),
    enumeration.items[cardinality(enumeration.items)]
  )
$$;

-- Numbers that follow each other.
create or replace function grace_internal.runs(elements integer [])
returns table (first integer, last integer)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select min(r.n), max(r.n)
  from (select e.n, e.n - row_number() over (order by e.n) as run from unnest(runs.elements) as e (n)) as r
  group by r.run
  order by 1
$$;

-- 1, 3 and 5 to 7. labels: what to call the numbers from 1 on.
create or replace function grace_internal.numbers_in_words(elements integer [], labels text [] default '{}')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.enumeration(array_agg(i.item order by i.n))
  from grace_internal.runs(numbers_in_words.elements) as r
  cross join lateral (
    select
      s.n,
      coalesce(numbers_in_words.labels[s.n], s.n::text)
      || case when r.last - r.first > 1 then ' to ' || coalesce(numbers_in_words.labels[r.last], r.last::text) else '' end as item
    from generate_series(r.first, case when r.last - r.first > 1 then r.first else r.last end) as s (n)
  ) as i
$$;

-- What a schedule says of the time of day. kind: times of the clock, all the day long, or part of it.
create or replace function grace_internal.hours_in_words(minutes integer [], hours integer [], out words text, out kind text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step constant integer := coalesce(minutes[2], 60) - minutes[1];
  v_every constant text := case
    when minutes <> array(select s.n from generate_series(0, 59, v_step) as s (n)) or 60 % v_step <> 0 or v_step = 60 then null
    when v_step = 1 then 'every minute'
    else format('every %s minutes', v_step)
  end;
  v_at constant text := format(
    'at minute%s %s', case when cardinality(minutes) > 1 then 's' end, grace_internal.numbers_in_words(minutes)
  );
  v_hour_step constant integer := coalesce(hours[2], 24) - hours[1];
begin
  kind := case
    when cardinality(hours) = 24 then 'day'
    when cardinality(hours) * cardinality(minutes) <= 6 then 'clock'
    else 'part'
  end;
  words := case
    when kind = 'day' then coalesce(v_every, v_at || ' of every hour')
    when kind = 'clock' then 'at ' || grace_internal.enumeration(array(
      select to_char(make_time(h.n, m.n, 0), 'HH24:MI')
      from unnest(hours) as h (n) cross join unnest(minutes) as m (n)
      order by 1
    ))
    when v_every is not null then v_every || ' ' || grace_internal.enumeration(array(
      select 'from ' || to_char(make_time(r.first, 0, 0), 'HH24:MI')
        || ' to ' || to_char(make_time(r.last, minutes[cardinality(minutes)], 0), 'HH24:MI')
      from grace_internal.runs(hours) as r
    ))
    when cardinality(minutes) = 1
      and hours = array(select s.n from generate_series(hours[1], hours[cardinality(hours)], v_hour_step) as s (n))
      then format(
        'every %s from %s to %s', case when v_hour_step = 1 then 'hour' else v_hour_step || ' hours' end,
        to_char(make_time(hours[1], minutes[1], 0), 'HH24:MI'), to_char(make_time(hours[cardinality(hours)], minutes[1], 0), 'HH24:MI')
      )
    else format(
      '%s of hour%s %s', v_at, case when cardinality(hours) > 1 then 's' end, grace_internal.numbers_in_words(hours)
    )
  end;
end
$$;

-- What a schedule says of the days; 'every day' where it says nothing.
create or replace function grace_internal.days_in_words(
  days integer [], last_day boolean, months integer [], weekdays integer [], either_day boolean
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_month_names constant text [] := array[
    'January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'
  ];
  -- The week begins on Monday.
  v_weekdays constant integer [] := array(select coalesce(nullif(w.n, 0), 7) from unnest(weekdays) as w (n) order by 1);
  v_weekday_names constant text [] := array['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'];
  v_any_day constant boolean := cardinality(days) = 31;
  v_any_weekday constant boolean := cardinality(weekdays) = 7;
  v_many constant boolean := cardinality(days) > 1;
  v_in text;
  v_on text;
begin
  if cardinality(months) < 12 then
    v_in := case
      when cardinality(months) > 2 and months[cardinality(months)] - months[1] = cardinality(months) - 1
        then format('from %s to %s', v_month_names[months[1]], v_month_names[months[cardinality(months)]])
      else 'in ' || grace_internal.enumeration(array(select v_month_names[m.n] from unnest(months) as m (n) order by m.n))
    end;
  end if;
  if v_any_day and v_any_weekday or either_day and (v_any_day or v_any_weekday) then
    return concat_ws(' ', 'every day', v_in);
  end if;
  if v_any_day then
    return concat_ws(' ', v_in, 'every ' || grace_internal.numbers_in_words(v_weekdays, v_weekday_names));
  end if;
  v_on := case
    when last_day then 'on the last day'
    else format('on day%s %s', case when v_many then 's' end, grace_internal.numbers_in_words(days))
  end || case when v_in is null then ' of every month' else '' end;
  if days[1] > (select min(case when m.n = 2 then 28 when m.n in (4, 6, 9, 11) then 30 else 31 end) from unnest(months) as m (n)) then
    v_on := v_on || case
      when v_many then ' as far as there are such days'
      when v_in is null then ' that has it'
      else ' if there is such a day'
    end;
  end if;
  if either_day then
    v_on := v_on || ' or on any ' || array_to_string(array(select v_weekday_names[w.n] from unnest(v_weekdays) as w (n)), ' or ');
  elsif not v_any_weekday then
    v_on := v_on || ' if it is a ' || array_to_string(array(select v_weekday_names[w.n] from unnest(v_weekdays) as w (n)), ' or ');
  end if;
  return concat_ws(' ', v_in, v_on);
end
$$;

-- Errors: GR024 for what is no schedule.
create or replace function grace.schedule_in_words(schedule text)
returns text
language plpgsql stable
security definer -- calls what is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule record;
  v_time record;
  v_days text;
begin
  v_schedule := grace_internal.read_schedule(schedule);
  v_time := grace_internal.hours_in_words(v_schedule.minutes, v_schedule.hours);
  v_days := grace_internal.days_in_words(
    v_schedule.days, v_schedule.last_day, v_schedule.months, v_schedule.weekdays, v_schedule.either_day
  );
  return case
    when v_time.kind = 'clock' and v_days like 'every day%' then v_days || ' ' || v_time.words
    when v_time.kind = 'clock' then v_time.words || ' ' || v_days
    when v_time.kind = 'day' and v_days = 'every day' then v_time.words
    else v_time.words || ', ' || v_days
  end;
end
$$;
comment on function grace.schedule_in_words(text) is
'A schedule (cron syntax, as pg_cron reads it) in English: "every day at 00:05". Of the time zone it says nothing. Errors: GR024.';

-- schedule/cron.sql
-- The database that pg_cron works from; null when pg_cron is not preloaded, empty when that can't be read.
create or replace function grace_internal.cron_database()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text;
begin
  -- Without pg_cron's library it can still be set in postgresql.conf; then it is in no view.
  if current_setting('cron.database_name', true) is not null then
    select s.setting into v_database from pg_settings s where s.name = 'cron.database_name';
  end if;
  return v_database;
exception when insufficient_privilege then
  return '';
end
$$;

-- Whether pg_cron's tables are here, and for the owner of pg_grace to use: even to ask for them by name takes USAGE on their schema.
create or replace function grace_internal.has_cron()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'cron'
    where c.relname = 'job_run_details' and has_schema_privilege(n.oid, 'usage')
  )
$$;

-- pg_cron's jobs are those of a whole cluster, so their names say the database, but for the one that pg_cron is in.
create or replace function grace_internal.cron_name(job text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'pg_grace: ' || job || case
    when grace_internal.cron_database() not in ('', current_database()) then ' (' || current_database() || ')' else ''
  end
$$;

-- A job runs as the owner of schema grace, never as a superuser who happens to install or mend: procedures that commit run with the
-- rights of whoever calls them.
create or replace function grace_internal.job_owner()
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = 'grace'
$$;

-- Rules that are disabled have no turns.
create or replace function grace_internal.is_active(job grace_internal.job)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((select r.enabled from grace_internal.rule r where r.id = (job).rule_id), true)
$$;

-- What a job calls: the procedure of its name, or the rule that it is for.
create or replace function grace_internal.job_command(job grace_internal.job)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select format('call grace.run(%L)', r.name) from grace_internal.rule r where r.id = (job).rule_id),
    'call grace.' || (job).name || '()'
  )
$$;

-- The statements that make pg_cron's jobs what they should be, to be run in the database that pg_cron is in. Jobs of a database that
-- is gone, or has been renamed, go, and those of rules that have no schedule any more.
create or replace function grace_internal.cron_statements()
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select cron.unschedule(j.jobid) from cron.job j '
    'where j.jobname ^@ ''pg_grace: rule-'' and j.database = %L and j.jobname <> all (%L)',
    current_database(), array(select grace_internal.cron_name(j.name) from grace_internal.job j where grace_internal.is_active(j))
  )
  union all
  (select s.statement
  from grace_internal.job j
  cross join lateral (
    select
      grace_internal.cron_name(j.name), grace_internal.job_command(j), grace_internal.job_owner(),
      grace_internal.cron_database() in ('', current_database())
  ) as c (name, command, owner, is_here)
  cross join lateral (
    select format('from cron.job j where j.jobname = %L and j.database = %L and', c.name, current_database())
  ) as q (ours)
  cross join lateral (
    values
      (
        1, 'select cron.unschedule(j.jobid) from cron.job j where j.jobname ^@ ''pg_grace: '' '
        'and not exists (select from pg_catalog.pg_database d where d.datname = j.database)'
      ),
      (1, format('select cron.unschedule(j.jobid) %s j.username <> %L', q.ours, c.owner)),
      (2, format(
        'select %s where not exists (select %s j.schedule = %L and j.command = %L and j.username = %L)',
        case
          when c.owner <> current_user then format(
            'cron.schedule_in_database(%L, %L, %L, %L, %L)', c.name, j.schedule, c.command, current_database(), c.owner
          )
          when c.is_here then format('cron.schedule(%L, %L, %L)', c.name, j.schedule, c.command)
          else format('cron.schedule_in_database(%L, %L, %L, %L)', c.name, j.schedule, c.command, current_database())
        end,
        q.ours, j.schedule, c.command, c.owner
      ))
  ) as s (step, statement)
  where grace_internal.is_active(j)
  order by j.name, s.step)
$$;

-- Reads how pg_cron's jobs for a database have run, in the database that pg_cron is in.
create or replace function grace_internal.cron_query()
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    $q$select
      substring(j.jobname from '^pg_grace: ([^ ]+)') as job, j.jobname as cron_job, j.schedule, j.command, j.username::text as login, j.active,
      coalesce((select r.rolcanlogin from pg_catalog.pg_roles r where r.rolname = j.username), false) as may_login,
      d.start_time as last_start, d.status as last_status, d.end_time - d.start_time as last_duration,
      d.return_message as last_message,
      (
        select count(*)
        from cron.job_run_details f
        where f.jobid = j.jobid and f.status = 'failed' and f.runid > coalesce((
          select max(s.runid) from cron.job_run_details s where s.jobid = j.jobid and s.status = 'succeeded'
        ), 0)
      ) as failures
    from cron.job j
    left join lateral (
      select r.start_time, r.end_time, r.status, r.return_message
      from cron.job_run_details r
      where r.jobid = j.jobid
      order by r.runid desc
      limit 1
    ) as d on true
    where j.jobname ^@ 'pg_grace: ' and j.database = %L
    order by j.jobname$q$,
    current_database()
  )
$$;

-- Where pg_cron works from another database: its name, and the jobs that should be there. No row otherwise. Data, not statements:
-- whoever runs something there must not take it from here.
create or replace function grace._cron_elsewhere()
returns table (database text, job text, cron_job text, schedule text, command text)
language sql stable
security definer -- reads the jobs
set search_path = pg_catalog, pg_temp
as $$
  select d.name, j.name, grace_internal.cron_name(j.name), j.schedule, grace_internal.job_command(j)
  from (select grace_internal.cron_database() as name) as d
  cross join grace_internal.job j
  where d.name not in ('', current_database()) and grace_internal.is_active(j)
  order by j.name
$$;
comment on function grace._cron_elsewhere() is
'Internal: the database that pg_cron works from, where that is another one, and the jobs that should be there.';

-- Why pg_cron can't run jobs for this database, in words, and which setting is missing; null when it can.
create or replace function grace_internal.schedule_obstacle()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text := grace_internal.cron_database();
  v_otherwise text := 'Or let any scheduler call "pg_grace tick".';
begin
  if not exists (select from pg_extension where extname = 'pg_cron')
    and not exists (select from pg_available_extensions where name = 'pg_cron')
  then
    return 'pg_cron is not installed on the server, so nothing is purged by itself. Install the package '
      'postgresql-' || current_setting('server_version_num')::integer / 10000 || '-cron, set '
      'shared_preload_libraries = ''pg_cron'' and cron.database_name = ''' || current_database()
      || ''', restart, "create extension pg_cron", then install again. ' || v_otherwise;
  end if;
  if v_database is null then
    return 'pg_cron is not preloaded, so nothing is purged by itself. Set shared_preload_libraries = ''pg_cron'' and '
      'cron.database_name = ''' || current_database() || ''' in postgresql.conf, restart, "create extension pg_cron", '
      'then install again. ' || v_otherwise;
  end if;
  if v_database not in ('', current_database()) then
    return format(
      'pg_cron works from database "%s" (cron.database_name). "pg_grace install" makes the jobs there; in psql, run there: %s',
      v_database, (
        select string_agg(regexp_replace(s, ' where not exists .*$', ';'), ' ')
        from grace_internal.cron_statements() s
        where s ~ '^select cron.schedule'
      )
    );
  end if;
  if exists (select from pg_extension where extname = 'pg_cron') then
    return case when not has_schema_privilege('cron', 'usage') then format(
      'role %I may not use pg_cron, so nothing is purged by itself. As superuser: grant usage on schema cron to %I; '
      'then install again. %s', current_user, current_user, v_otherwise
    ) end;
  end if;
  if v_database = '' then
    return format(
      'pg_cron is preloaded, but this role may not read cron.database_name, so nothing is purged by itself. If it is %L, '
      'as superuser: create extension pg_cron; grant usage on schema cron to %I; then install again.',
      current_database(), current_user
    );
  end if;
  return 'pg_cron is preloaded, but its extension is missing in this database, so nothing is purged by itself. '
    'As superuser: create extension pg_cron; then install again.';
end
$$;

-- schedule/ensure_jobs.sql
-- Makes pg_cron's jobs what they should be, or says in words why there are none and which setting is missing.
create or replace function grace_internal.ensure_jobs()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
  v_statement text;
begin
  if v_obstacle is not null then
    return v_obstacle;
  end if;
  -- Before 1.6.3 pg_cron leaves a job of this name where it is, in a database that has been renamed since.
  execute
    'select cron.unschedule(j.jobid) from cron.job j '
    'where j.jobname in (select grace_internal.cron_name(n.name) from grace_internal.job n) '
    'and j.username = current_user and j.database <> current_database()';
  for v_statement in select s from grace_internal.cron_statements() s loop
    execute v_statement;
  end loop;
  if not (select r.rolcanlogin from pg_roles r where r.rolname = current_user) then
    return format(
      'role %I may not log in, so pg_cron can''t run its jobs, and nothing is purged by itself: alter role %I login;',
      current_user, current_user
    );
  end if;
  return (
    select string_agg(
      format('pg_cron job "%s" runs %s (%s)', grace_internal.cron_name(j.name),
        grace.schedule_in_words(j.schedule), grace_internal.schedule_zone()),
      '; ' order by j.name
    )
    from grace_internal.job j
    where j.rule_id is null
  );
end
$$;

-- schedule/set_schedule.sql
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

-- schedule/tick.sql
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

-- schedule/jobs.sql
-- What runs by itself, and how it last went: as pg_cron says it where pg_cron is in this database, else as the runs do.
create or replace function grace.jobs()
returns table (
  job text, schedule text, in_words text, zone text, next_start timestamptz, scheduler text, login text, active boolean,
  last_start timestamptz, last_status text, last_duration interval, last_message text, failures bigint, ticked_at timestamptz, rule text
)
language plpgsql stable
security definer -- row security in pg_cron shows each role its own jobs only
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_cron text := 'select null::text as job, null::text as schedule, null::text as login, null::boolean as active, '
    'null::timestamptz as last_start, null::text as last_status, null::interval as last_duration, null::text as last_message, '
    'null::bigint as failures where false';
  v_elsewhere boolean := coalesce(grace_internal.cron_database() not in ('', current_database()), false);
begin
  if grace_internal.has_cron() and not v_elsewhere then
    v_cron := grace_internal.cron_query();
  end if;
  return query execute format(
    $q$select
      j.name, coalesce(c.schedule, j.schedule),
      case when c.schedule is null or c.schedule = j.schedule then grace.schedule_in_words(j.schedule) end,
      grace_internal.schedule_zone(), case when c.job is null or c.active then t.next_start end,
      case
        when c.job is not null then 'pg_cron'
        when (select max(a.claimed_at) from grace_internal.job a) > clock_timestamp() - interval '2 days' then 'tick'
        when $1 then 'pg_cron elsewhere'
      end,
      c.login, c.active,
      case when c.job is null then coalesce(r.started_at, case j.name when 'watch' then j.claimed_at end) else c.last_start end,
      case when c.job is null then r.status else c.last_status end,
      case when c.job is null then r.finished_at - r.started_at else c.last_duration end,
      c.last_message, coalesce(c.failures, 0), j.claimed_at,
      (select l.name from grace_internal.rule l where l.id = j.rule_id)
    from grace_internal.job j
    left join (%s) as c on c.job = j.name
    left join lateral (
      select u.started_at, u.finished_at, u.status
      from grace.runs u
      where u.job = j.name and u.kind in (j.name, 'rule')
      order by u.id desc
      limit 1
    ) as r on true
    left join lateral (
      select min(n) as next_start from grace.schedule_times(j.schedule, 1) n where c.schedule is null or c.schedule = j.schedule
    ) as t on true
    where grace_internal.is_active(j)
    order by j.name$q$,
    v_cron
  )
  using v_elsewhere;
end
$$;
comment on function grace.jobs() is
'What runs by itself: schedule, in words, next start; which scheduler runs it (pg_cron; tick; pg_cron elsewhere: in another database of the cluster, which pg_grace status looks into; null: none), as whom, how it last went, how often in a row it has failed, when a tick last took it, and the rule that it runs.';

-- rules/rule_query.sql
do $$
begin
  if to_regtype('grace_internal.rule_query') is null then
    create type grace_internal.rule_query as (
      source text, keys text, key_object text, key_columns text, key_list text, start text, due text, condition text, record text
    );
  end if;
end
$$;

-- The pieces of a rule's statements, which are executed as its role and in its time zone: the FROM item, the primary key's columns, the key
-- as jsonb, the same columns of a recordset k, the start of the period, the moment that a row is due (-infinity where what the rule applies
-- to is due at once), the condition, and what users know a record by. They are kept with the rule.
create or replace function grace_internal.make_query(rule grace_internal.rule)
returns grace_internal.rule_query
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    grace_internal.source_of(rule.target),
    string_agg(format('%I.%I', t.relname, a.attname), ', ' order by k.position),
    grace_internal.key_json(
      array_agg(format('%I.%I', t.relname, a.attname) order by k.position), array_agg(a.attname order by k.position),
      array_agg(a.atttypid order by k.position)
    ),
    string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by k.position),
    string_agg(format('k.%I', a.attname), ', ' order by k.position),
    format('(%s)::timestamptz', coalesce(rule.start_expression, 'null')),
    case when rule.start_expression is null then '''-infinity''::timestamptz'
      else format('((%s)::timestamptz + interval %L)', rule.start_expression, rule.period) end,
    format('(%s)', rule.condition),
    grace_internal.record_object(rule.target, rule.columns)
  )::grace_internal.rule_query
  from pg_class t
  cross join lateral unnest(grace_internal.primary_key(t.oid)) with ordinality as k (attnum, position)
  join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
  where t.oid = rule.target
  group by t.oid, t.relname
$$;

-- Where a rule counts from activities, those that other rules have deleted since count, too. Of many records it is asked first whether
-- there are any.
create or replace function grace_internal.rule_query(rule grace_internal.rule, of_one boolean default false)
returns grace_internal.rule_query
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query grace_internal.rule_query := jsonb_populate_record(null::grace_internal.rule_query, rule.query);
begin
  if rule.sources <> '[]' and rule.id is not null then
    v_query.start := format(
      'greatest(%s, case when %s then (select m.at from grace._remembered m where m.rule_id = %s and m.key = %s) end)', v_query.start,
      case when of_one then 'true' else format('exists (select from grace._remembered m where m.rule_id = %s)', rule.id) end,
      rule.id, v_query.key_object
    );
    v_query.due := format('(%s + interval %L)', v_query.start, rule.period);
  end if;
  return v_query;
end
$$;

-- How long before its due date a rule acts: with final_by_due so long that what it deletes has left the buffers by then, a day for the
-- purge included.
create or replace function grace_internal.ahead(rule grace_internal.rule)
returns interval
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when rule.final_by_due then interval '24 hours' + coalesce((
      select max(p.span)
      from grace_internal.protected p
      where p.target in (select grace_internal.cascade_tree(rule.target, true))
    ), '0')
    else interval '0'
  end;
end
$$;

create or replace function grace_internal.next_turn(rule grace_internal.rule, since timestamptz)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select min(t)
    from grace_internal.job j
    cross join lateral grace.schedule_times(j.schedule, 1, since) t
    where j.rule_id = rule.id
  );
end
$$;

-- Up to which due date a run at that moment acts. With final_by_due it can't wait for the turn after, but no period is over before it
-- begins.
create or replace function grace_internal.horizon(rule grace_internal.rule, as_of timestamptz)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
begin
  return case
    when rule.final_by_due then
      least(coalesce(grace_internal.next_turn(rule, as_of), as_of) + grace_internal.ahead(rule), as_of + rule.period)
    else as_of
  end;
end
$$;

-- A moment as text that means the same under every DateStyle and in every time zone.
create or replace function grace_internal.instant(moment timestamptz)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when isfinite(moment) then to_char(timezone('UTC', moment), 'YYYY-MM-DD HH24:MI:SS.US') || '+00' else moment::text
  end;
end
$$;

-- The condition that a row is acted on in a run at that moment.
create or replace function grace_internal.is_due(query grace_internal.rule_query, horizon timestamptz)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when query.due like '''-infinity''%' then query.condition
    else format('%s and %s <= %L::timestamptz', query.condition, query.due, grace_internal.instant(horizon)) end;
end
$$;

-- Why a rule can't act now; null when it can. What must be kept comes first: where that can't be told, nothing goes.
create or replace function grace_internal.rule_problem(rule grace_internal.rule)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := grace_internal.problem_of(rule.depends, rule.home);
begin
  if v_problem is not null then
    return v_problem;
  elsif not exists (select from pg_roles r where r.oid = rule.run_as) then
    return format('the role that it runs as is gone');
  elsif not exists (
    select from grace_internal.runner r where r.role = rule.run_as and grace_internal.runner_stands(r)
  ) then
    return format('the functions that run as role %s are gone', rule.run_as);
  elsif rule.action = 'delete' and not exists (
    select
    from grace_internal.protected p
    where p.target = coalesce(pg_partition_root(rule.target), rule.target) and p.active
  ) then
    return format('%s is not protected any more', rule.target);
  elsif rule.period <= grace_internal.ahead(rule) and rule.final_by_due then
    return format(
      'what it deletes is in the buffer for %s, purge included, and its period is %s', justify_interval(grace_internal.ahead(rule)), rule.period
    );
  end if;
  return null;
end
$$;

-- rules/save_rule.sql
create or replace function grace_internal.rule_named(name text)
returns grace_internal.rule
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
begin
  select r.* into v_rule from grace_internal.rule r where r.name = rule_named.name;
  if not found then
    raise exception 'there is no rule %', coalesce(quote_literal(name), 'null')
      using errcode = 'GR027',
      detail = coalesce(
        'Rules: ' || (select string_agg(quote_literal(r.name), ', ' order by r.name) from grace_internal.rule r),
        'There are no rules.'
      ),
      hint = 'select * from grace.rules;';
  end if;
  return v_rule;
end
$$;

-- Null when it is gone.
create or replace function grace_internal.role_name(role oid)
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.rolname from pg_roles r where r.oid = role
$$;

-- Only who may become a role may have a rule run as that role, or change what such a rule does.
create or replace function grace_internal.require_membership(role name)
returns regrole
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_role oid := (select r.oid from pg_roles r where r.rolname = role);
begin
  if v_role is null then
    raise exception 'there is no role %', coalesce(quote_ident(role), '(none was named)')
      using errcode = 'undefined_object', detail = 'A rule runs as a role of the database.', hint = 'Create it, or name another one.';
  end if;
  if not pg_has_role(grace_internal.caller(), v_role, 'member') then
    raise exception 'a rule of % can''t run as role %', grace_internal.caller(), quote_ident(role)
      using errcode = 'insufficient_privilege',
      detail = format('Role %I is no member of %I.', grace_internal.caller(), role),
      hint = format('As a superuser, or who may grant it: grant %I to %I;', role, grace_internal.caller());
  end if;
  return v_role::regrole;
end
$$;

-- A rule whose role is gone may be mended by anybody who administers.
create or replace function grace_internal.require_membership_of_rule(rule grace_internal.rule)
returns void
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.require_membership(r.rolname) from pg_roles r where r.oid = rule.run_as
$$;

create or replace function grace_internal.refuse_rule(problem text, detail text, hint text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '%', problem using errcode = 'GR031', detail = detail, hint = hint;
end
$$;

-- What can be seen from the definition alone.
create or replace function grace_internal.check_definition(d jsonb, new_rule grace_internal.rule)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_has_start constant boolean := new_rule.start_expression is not null;
begin
  if new_rule.name = '' then
    perform grace_internal.refuse_rule('a rule needs a name', 'The name is empty.', 'Give a name that says what goes.');
  end if;
  if new_rule.action = 'anonymize' then
    raise exception 'rules can''t anonymize yet'
      using errcode = 'feature_not_supported', detail = 'There are no masks that say what becomes of a column.',
      hint = 'Use delete, or keep.';
  end if;
  if new_rule.action not in ('delete', 'keep') or new_rule.action is null then
    perform grace_internal.refuse_rule(
      format('there is no action %s', coalesce(quote_literal(new_rule.action), 'null')), 'Actions: delete, keep.',
      'delete moves records into the buffer; keep says that no rule may delete them before they are due.'
    );
  end if;
  if v_has_start and d ->> 'period' is null then
    perform grace_internal.refuse_rule(
      'a rule that has a start needs a period', 'What the start is for can''t be told.', 'Give a period, for example 12 months; 0 for none.'
    );
  end if;
  if not v_has_start and (d ->> 'period')::interval <> interval '0' then
    perform grace_internal.refuse_rule(
      'a period needs a start', format('From when %s counts is not said.', d ->> 'period'),
      'Give a column or expression as starts, or activities.'
    );
  end if;
  if new_rule.period < interval '0' or new_rule.notice <= interval '0' or new_rule.max_duration <= interval '0'
    or new_rule.pause < interval '0'
  then
    perform grace_internal.refuse_rule(
      'an interval of a rule is negative', 'period, notice, pause and max_duration are lengths of time.', 'Give positive intervals.'
    );
  end if;
  if num_nulls(new_rule.max_fraction, new_rule.batch_size, new_rule.pause, new_rule.four_eyes, new_rule.final_by_due) > 0 then
    perform grace_internal.refuse_rule(
      'something that a rule can''t be without is null', 'max_fraction, batch_size, pause, four_eyes and final_by_due have to be given.',
      'max_fraction 1 means no limit, pause 0 none.'
    );
  end if;
  if new_rule.max_rows < 0 or new_rule.max_fraction not between 0 and 1 or new_rule.batch_size not between 1 and 100000 then
    perform grace_internal.refuse_rule(
      'a limit of the rule is out of range', 'max_rows is at least 0, max_fraction between 0 and 1, batch_size between 1 and 100000.',
      'max_fraction 0.1 means a tenth of the table, 1 no limit.'
    );
  end if;
  if new_rule.action = 'keep' and (not v_has_start or d ->> 'schedule' is not null or new_rule.final_by_due or new_rule.notice is not null) then
    perform grace_internal.refuse_rule(
      'a rule that keeps has a start and a period, and nothing to run', 'It has no schedule, no notice and no final_by_due.',
      'Give starts and period, for example end of year of invoiced_on and 8 years.'
    );
  end if;
  if new_rule.final_by_due and not v_has_start then
    perform grace_internal.refuse_rule(
      'final_by_due needs a start and a period', 'What is due at once can''t be gone by then.', 'Give starts and period.'
    );
  end if;
  if new_rule.final_by_due and new_rule.period <= grace_internal.ahead(new_rule) then
    perform grace_internal.refuse_rule(
      format('the period is too short for final_by_due: %s', new_rule.period),
      format('What is deleted stays in the buffer, with a day for the purge, for %s.', justify_interval(grace_internal.ahead(new_rule))),
      'Shorten the retention (grace.set_retention), or leave final_by_due out.'
    );
  end if;
end
$$;

-- A superuser does not run what others may change.
create or replace function grace_internal.refuse_strange_code(role regrole, target regclass, depends jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text := grace_internal.strange_code(target, depends, role);
begin
  if v_code is not null and (select r.rolsuper from pg_roles r where r.oid = role) then
    raise exception 'the rule would run somebody else''s code as a superuser'
      using errcode = 'insufficient_privilege',
      detail = format('%s would run with the rights of role %s.', v_code, role),
      hint = 'Let it run as a role that is no superuser, or let a superuser own the code.';
  end if;
end
$$;

-- Makes a rule of a definition, or an existing one anew. Names in texts are read under path; what a rule has kept from before under its
-- own.
create or replace function grace._save_rule(definition jsonb, path text, existing text default null)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set timezone = 'UTC'
as $$
declare
  v_old grace_internal.rule;
  v_new grace_internal.rule;
  v_filter grace_internal.filter;
  v_texts record;
  v_condition grace_internal.expression;
  v_bare text;
  v_start grace_internal.expression;
  v_query grace_internal.rule_query;
begin
  if existing is not null then
    v_old := grace_internal.rule_named(existing);
    perform grace_internal.require_membership_of_rule(v_old);
  end if;
  if exists (select from grace_internal.rule r where r.name = definition ->> 'name' and r.id is distinct from v_old.id) then
    raise exception 'there is a rule % already', quote_literal(definition ->> 'name')
      using errcode = 'duplicate_object', detail = 'Names of rules are unique.',
      hint = 'Give another name, change it (grace.alter_rule), or drop it first (grace.drop_rule).';
  end if;
  select t.* into v_texts from grace._rule_texts(definition, path) t;
  if definition ->> 'filter' is not null then
    v_filter := grace_internal.filter_named(definition ->> 'filter');
  end if;

  begin
    v_new.name := coalesce(definition ->> 'name', '');
    v_new.filter_id := v_filter.id;
    v_new.target := coalesce(v_filter.target, (definition ->> 'target')::oid::regclass);
    v_new.action := definition ->> 'action';
    v_new.predicate := definition ->> 'predicate';
    v_new.starts := definition ->> 'starts';
    v_new.activities := coalesce(nullif(definition -> 'activities', 'null'), '[]');
    v_new.related_to := definition -> 'related_to';
    v_new.period := coalesce((definition ->> 'period')::interval, '0');
    v_new.zone := coalesce(v_old.zone, definition ->> 'zone');
    v_new.final_by_due := (definition ->> 'final_by_due')::boolean;
    v_new.notice := (definition ->> 'notice')::interval;
    v_new.run_as := grace_internal.require_membership(definition ->> 'run_as');
    v_new.columns := grace_internal.check_columns(
      v_new.target, coalesce(
        nullif(array(select jsonb_array_elements_text(definition -> 'columns')), '{}')::name [], v_filter.columns, '{}'
      )
    );
    v_new.max_rows := (definition ->> 'max_rows')::bigint;
    v_new.max_fraction := (definition ->> 'max_fraction')::numeric;
    v_new.batch_size := (definition ->> 'batch_size')::integer;
    v_new.pause := (definition ->> 'pause')::interval;
    v_new.max_duration := (definition ->> 'max_duration')::interval;
    v_new.four_eyes := (definition ->> 'four_eyes')::boolean;
    v_new.basis := definition ->> 'basis';
    v_new.path := path;
  exception when data_exception then
    perform grace_internal.refuse_rule(
      'not what a rule can be told', sqlerrm || '.', 'Give intervals as ''6 months'', numbers as numbers, lists as arrays.'
    );
  end;
  perform set_config('timezone', v_new.zone, true);

  if v_filter.id is not null then
    perform grace_internal.refuse_strange_code(v_new.run_as, v_new.target, v_filter.depends); -- before it is read again
  end if;
  perform grace_internal.ensure_runner(v_new.run_as);
  perform grace_internal.check_as(v_new.run_as, v_texts.source, c.condition, path, c.given)
  from grace_internal.lone_conditions(v_new.target, definition, path) c;
  perform grace_internal.check_as(v_new.run_as, v_texts.source, v_texts.condition, path);
  v_condition := grace_internal.read_expression(v_new.target, v_texts.condition, path, v_new.run_as);
  if v_new.starts is not null then
    v_bare := grace_internal.start_without_words(v_new.starts);
    perform grace_internal.check_as(v_new.run_as, v_texts.source, format(e'(%s\n) is null', v_bare), path, v_new.starts, true);
    v_start := grace_internal.read_expression(v_new.target, v_bare, path, v_new.run_as);
    if not grace_internal.is_moment(v_start.type) then
      perform grace_internal.refuse_rule(
        format('a period can''t start with %s', v_new.starts), format('It is of type %s.', v_start.type),
        'Give a column or expression of type date, timestamp or timestamp with time zone.'
      );
    end if;
  end if;
  if v_texts.starts is not null then
    perform grace_internal.check_as(v_new.run_as, v_texts.source, format(e'(%s\n) is null', v_texts.starts), path, (
      select string_agg(t.part, ', ')
      from (select v_new.starts as part union all select jsonb_array_elements_text(v_new.activities)) t
    ), true);
    v_start := grace_internal.read_expression(v_new.target, v_texts.starts, path, v_new.run_as);
  end if;
  v_new.condition := v_condition.text;
  v_new.start_expression := v_start.text;
  perform grace_internal.check_definition(definition, v_new);
  v_query := grace_internal.make_query(v_new);
  v_new.query := to_jsonb(v_query);
  v_new.sources := grace_internal.activity_sources(v_new.target, v_new.activities, path, v_new.run_as);
  perform grace_internal.check_sources(v_new);
  v_new.depends := v_condition.depends || grace_internal.sources_depend(v_new.sources, v_new.run_as) || coalesce(v_start.depends, '[]') || (
    grace_internal.read_expression(
      v_new.target, format('(%s, %s) is null', v_query.keys, coalesce(nullif(v_query.record, ''), 'null')), 'pg_catalog', v_new.run_as
    )
  ).depends;
  v_new.home := grace_internal.home();
  perform grace_internal.refuse_strange_code(v_new.run_as, v_new.target, v_new.depends);
  if v_new.action = 'delete' then
    perform grace_internal.protected_id(v_new.target);
    if not has_table_privilege(v_new.run_as, v_new.target, 'DELETE') then
      raise exception 'role % may not delete from %', v_new.run_as, v_new.target
        using errcode = 'insufficient_privilege',
        detail = 'It has no DELETE privilege on the table.', hint = format('grant delete on %s to %s;', v_new.target, v_new.run_as);
    end if;
  else
    if grace_internal.is_hidden_from(v_new.run_as, v_new.target) then
      raise exception 'role % does not see all of %', v_new.run_as, v_new.target
        using errcode = 'GR031',
        detail = 'Row security hides rows from it, which would not be kept then.',
        hint = 'Let the rule run as a role that sees all rows: the table''s owner, or one with BYPASSRLS.';
    end if;
  end if;

  if v_old.four_eyes and grace_internal.has_written(session_user, v_old.id) and (
    not v_new.four_eyes or coalesce(v_new.max_rows, 'infinity'::numeric) > coalesce(v_old.max_rows, 'infinity'::numeric)
    or v_new.max_fraction > v_old.max_fraction
  ) then
    raise exception 'the limits of rule % have to be loosened by somebody else', quote_literal(v_old.name)
      using errcode = 'GR032', detail = format('%s wrote the rule, which says four_eyes.', session_user),
      hint = 'Let another administrator do it.';
  end if;
  if existing is null then
    insert into grace_internal.rule (
      name, target, action, condition, zone, run_as, columns, max_fraction, batch_size, pause, four_eyes, depends, home, path, query,
      created_by, created_login, changed_by, changed_login
    )
    values (
      v_new.name, v_new.target, v_new.action, v_new.condition, v_new.zone, v_new.run_as, v_new.columns, v_new.max_fraction,
      v_new.batch_size, v_new.pause, v_new.four_eyes, v_new.depends, v_new.home, v_new.path, v_new.query,
      grace_internal.caller(), session_user, grace_internal.caller(), session_user
    )
    returning id into v_new.id;
  else
    v_new.id := v_old.id;
  end if;
  update grace_internal.rule r
  set
    name = v_new.name, filter_id = v_new.filter_id, target = v_new.target, action = v_new.action, predicate = v_new.predicate,
    condition = v_new.condition, starts = v_new.starts, start_expression = v_new.start_expression, activities = v_new.activities,
    related_to = v_new.related_to, period = v_new.period, final_by_due = v_new.final_by_due, notice = v_new.notice,
    run_as = v_new.run_as, columns = v_new.columns, max_rows = v_new.max_rows, max_fraction = v_new.max_fraction,
    batch_size = v_new.batch_size, pause = v_new.pause, max_duration = v_new.max_duration, four_eyes = v_new.four_eyes,
    basis = v_new.basis, depends = v_new.depends, home = v_new.home, path = v_new.path, query = v_new.query, sources = v_new.sources, reported = null,
    changed_at = clock_timestamp(),
    changed_by = grace_internal.caller(), changed_login = session_user
  where r.id = v_new.id;
  if v_new.sources = '[]' then
    delete from grace_internal.last_activity m where m.rule_id = v_new.id;
  end if;
  perform grace_internal.drop_idle_runners();
  perform grace_internal.schedule_rule(v_new.id, definition ->> 'schedule');
  insert into grace_internal.run (kind, rule_id, target, status, finished_at, details, role, login)
  values (
    'change', v_new.id, v_new.target, 'done', clock_timestamp(), jsonb_build_object('rule', v_new.name, 'definition', definition),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace._save_rule(jsonb, text, text) is 'Internal: makes a rule of its definition.';

-- The job of a rule: there while the rule is enabled and has a schedule.
create or replace function grace_internal.schedule_rule(rule_id integer, schedule text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if schedule is null then
    delete from grace_internal.job j where j.rule_id = schedule_rule.rule_id;
  else
    perform grace.schedule_in_words(schedule); -- GR024
    insert into grace_internal.job as j (name, schedule, rule_id)
    values ('rule-' || schedule_rule.rule_id, schedule_rule.schedule, schedule_rule.rule_id)
    on conflict on constraint job_pkey do update
    set schedule = excluded.schedule, changed_at = clock_timestamp()
    where j.schedule <> excluded.schedule;
  end if;
  if grace_internal.schedule_obstacle() is null then
    perform grace_internal.ensure_jobs();
  end if;
end
$$;

create or replace function grace.add_rule(
  name text,
  filter text default null,
  action text default 'delete',
  starts text default null,
  period interval default null,
  schedule text default null,
  run_as name default null,
  max_rows bigint default null,
  max_fraction numeric default 0.1,
  target regclass default null,
  predicate text default null,
  activities text [] default '{}',
  related_to text default null,
  final_by_due boolean default false,
  notice interval default null,
  columns name [] default '{}',
  batch_size integer default 1000,
  pause interval default '0',
  max_duration interval default null,
  four_eyes boolean default false,
  basis text default null
)
returns void
language plpgsql
as $$
begin
  perform grace._save_rule(
    pg_catalog.jsonb_build_object(
      'name', name, 'filter', filter, 'action', action, 'starts', starts, 'period', period, 'schedule', schedule,
      'run_as', coalesce(
        run_as, case when pg_catalog.current_setting('role') operator(pg_catalog.<>) 'none' then pg_catalog.current_setting('role') end,
        session_user
      ),
      'max_rows', max_rows,
      'max_fraction', max_fraction, 'target', target::oid, 'predicate', predicate, 'activities', coalesce(activities, '{}'),
      'related_to', related_to, 'final_by_due', final_by_due, 'notice', notice, 'columns', columns, 'batch_size', batch_size,
      'pause', pause, 'max_duration', max_duration, 'four_eyes', four_eyes, 'basis', basis,
      'zone', pg_catalog.current_setting('TimeZone')
    ),
    grace._caller_path()
  );
end
$$;
comment on function grace.add_rule(
  text, text, text, text, interval, text, name, bigint, numeric, regclass, text, text [], text, boolean, interval, name [], integer,
  interval, interval, boolean, text
) is
'Adds a rule: what happens to the rows that a filter matches (or all of target), once a period has passed since a start. action: delete, into the buffer as any delete; keep, no rule may delete it before it is due. starts: a column or expression of type date or timestamp, or "end of year of COLUMN" (quarter, month); null with no activities: due at once; a row without a start is not due. activities: TABLE.COLUMN via COLUMN [where CONDITION]: the period starts with the latest of them and starts. predicate: a condition beside the filter. related_to: TABLE [via COLUMN]: only rows that belong to a row of it. schedule: as cron writes it; null: only by hand. run_as: the role with whose rights and row security it runs; default: who adds it; only a member of a role may name it. max_rows, max_fraction: a run that would delete more rows (more than the fraction of the table, and more than 100) deletes none, and waits for approval. final_by_due: it acts so early that the buffer has run out by the due date (DIN 66398). notice: it acts only on what was announced that long before. columns: what users know the records by. batch_size: rows per transaction; pause between them; max_duration: then it stops and goes on next time. four_eyes: who approves, or loosens a limit, must not have had a part in what the rule says. basis: the law or contract. Errors: GR001, GR009, GR022, GR024, GR027, GR031, GR032, 42501, 42710, 42P01.';

create or replace function grace_internal.definition_of(rule grace_internal.rule)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'name', rule.name, 'filter', (select f.name from grace_internal.filter f where f.id = rule.filter_id), 'action', rule.action,
    'starts', rule.starts, 'period', case when rule.start_expression is not null then rule.period end,
    'schedule', (select j.schedule from grace_internal.job j where j.rule_id = rule.id), 'run_as', grace_internal.role_name(rule.run_as),
    'max_rows', rule.max_rows, 'max_fraction', rule.max_fraction,
    'target', case when rule.filter_id is null then rule.target::oid end, 'predicate', rule.predicate,
    'activities', rule.activities, 'related_to', rule.related_to #>> '{}', 'final_by_due', rule.final_by_due, 'notice', rule.notice,
    'columns', rule.columns, 'batch_size', rule.batch_size, 'pause', rule.pause, 'max_duration', rule.max_duration,
    'four_eyes', rule.four_eyes, 'basis', rule.basis, 'zone', rule.zone
  )
$$;

create or replace function grace._alter_rule(name text, changes jsonb, path text)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(name);
  v_definition jsonb;
  v_unknown text;
  v_texts constant text [] := array['predicate', 'starts', 'activities', 'related_to'];
begin
  select r.* into v_rule from grace_internal.rule r where r.id = v_rule.id for no key update; -- as somebody else has changed it meanwhile
  v_definition := grace_internal.definition_of(v_rule);
  if jsonb_typeof(changes) is distinct from 'object' then
    raise exception 'changes of a rule are an object'
      using errcode = 'GR031', detail = format('Given was %s.', coalesce(changes::text, 'null')), hint = 'Give them as {"period": "6 months"}.';
  end if;
  v_unknown := (
    select string_agg(k, ', ' order by k) from jsonb_object_keys(changes) k where not v_definition ? k or k in ('target', 'zone')
  );
  if v_unknown is not null then
    raise exception 'a rule has nothing of the name %', v_unknown
      using errcode = 'GR031',
      detail = 'It has: ' || (select string_agg(k, ', ' order by k) from jsonb_object_keys(v_definition) k where k not in ('target', 'zone')),
      hint = 'Give changes as {"period": "6 months"}.';
  end if;
  v_definition := v_definition || changes;
  if v_definition -> 'activities' = 'null' then
    v_definition := v_definition || '{"activities": []}';
  end if;
  if v_definition -> 'columns' = 'null' then
    v_definition := v_definition || '{"columns": []}';
  end if;
  perform grace._save_rule(
    v_definition,
    case
      when not changes ?| v_texts then v_rule.path
      when exists (
        select from jsonb_each(v_definition) d where d.key = any (v_texts) and d.value not in ('null', '[]') and not changes ? d.key
      ) then concat_ws(', ', nullif(v_rule.path, ''), nullif(path, '')) -- the names in what stays mean what they meant
      else path
    end,
    name
  );
end
$$;
comment on function grace._alter_rule(text, jsonb, text) is 'Internal: changes a rule.';

create or replace function grace.alter_rule(name text, changes jsonb)
returns void
language plpgsql
as $$
begin
  perform grace._alter_rule(name, changes, grace._caller_path());
end
$$;
comment on function grace.alter_rule(text, jsonb) is
'Changes what a rule says: an object with the arguments of grace.add_rule to change, {"period": "6 months", "notice": null}; the rest stays. Names in new texts are looked for where those of the texts that stay were, then under the caller''s search_path. Everything is checked as if it were added. The caller has to be a member of the role that it runs as. Errors: those of grace.add_rule, GR027.';

create or replace function grace.drop_rule(name text)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(name);
  v_definition jsonb;
begin
  perform grace_internal.require_membership_of_rule(v_rule);
  v_definition := grace_internal.definition_of(v_rule);
  delete from grace_internal.rule r where r.id = v_rule.id;
  perform grace_internal.drop_idle_runners();
  perform grace_internal.schedule_rule(v_rule.id, null);
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', v_rule.target, 'done', clock_timestamp(),
    jsonb_build_object('rule', name, 'dropped', true, 'definition', v_definition),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.drop_rule(text) is
'Forgets a rule, with its exemptions and notices; what it has done stays in grace.runs. Errors: GR027, 42501 who is no member of its role.';

create or replace function grace.enable_rule(name text, enabled boolean default true)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(name);
begin
  if enabled or v_rule.action = 'keep' then
    perform grace_internal.require_membership_of_rule(v_rule);
  end if;
  update grace_internal.rule r set enabled = enable_rule.enabled where r.id = v_rule.id;
  update grace_internal.job j set changed_at = clock_timestamp() where j.rule_id = v_rule.id; -- turns that passed are not made up for
  if grace_internal.schedule_obstacle() is null then
    perform grace_internal.ensure_jobs();
  end if;
  insert into grace_internal.run (kind, rule_id, target, status, finished_at, details, role, login)
  values (
    'change', v_rule.id, v_rule.target, 'done', clock_timestamp(), jsonb_build_object('rule', name, 'enabled', enabled),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.enable_rule(text, boolean) is
'Lets a rule act, or stops it: a run that is under way ends after its batch. While it is disabled its turns pass. Errors: GR027; 42501 who is no member of its role (to stop one that deletes anybody may who administers).';

-- rules/notices.sql
-- Of records those that were announced long enough ago. A notice for another due date than the one now believed is made anew as a
-- run begins.
create or replace function grace_internal.announced_keys(rule grace_internal.rule, keys jsonb [])
returns jsonb []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select k.key
    from unnest(keys) with ordinality as k (key, position)
    join grace_internal.notice n on n.rule_id = rule.id and n.key = k.key
    where n.announced_at <= clock_timestamp() - rule.notice
    order by k.position
  )
$$;

-- Announces what a rule with notice will act on: what is due within the notice, and half a day, so that the notice has passed when it is
-- due, although this is done every six hours only. What has got another due date, or is not due any more, is
-- no longer announced as it was. Returns how many are new.
create or replace function grace_internal.announce(rule grace_internal.rule)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
  v_now timestamptz := clock_timestamp();
  v_planned text;
  v_new bigint;
begin
  perform set_config('timezone', rule.zone, true);
  v_planned := grace_internal.as_role(
    rule.run_as, 'read',
    format(
      'select %s, %s from %s where %s', v_query.key_object, v_query.due, v_query.source,
      grace_internal.is_due(v_query, grace_internal.horizon(rule, v_now + rule.notice + interval '12 hours'))
    ),
    'key jsonb, due timestamptz'
  );
  execute format(
    $q$with planned as materialized (
      select k.key, k.due from %s
    ), past as (
      delete from grace_internal.notice n
      where n.rule_id = $1 and not exists (select from planned p where p.key = n.key)
    ), announced as (
      insert into grace_internal.notice as n (rule_id, key, due, announced_at)
      select $1, p.key, p.due, $2
      from planned p
      where not exists (
        select
        from grace_internal.exemption e
        where e.rule_id = $1 and e.key = p.key and e.dropped_at is null and coalesce(e.until > $2, true)
      )
      on conflict (rule_id, key) do update set due = excluded.due, announced_at = excluded.announced_at
      where n.due <> excluded.due
      returning 1
    )
    select count(*) from announced$q$,
    v_planned
  )
  into v_new
  using rule.id, v_now;
  update grace_internal.rule r set announced_at = v_now where r.id = rule.id;
  if v_new > 0 then
    perform pg_notify('grace', jsonb_build_object(
      'kind', 'notice', 'rule', rule.name, 'table', grace_internal.qualified_name(rule.target), 'rows', v_new, 'acts_after', v_now + rule.notice
    )::text);
  end if;
  return v_new;
end
$$;

-- Announces for every rule that wants it, once in six hours each; one rule's trouble is not another's.
create or replace function grace_internal.announce_all()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
begin
  for v_rule in
    select r.*
    from grace_internal.rule r
    where r.enabled and r.notice is not null
      and coalesce(r.announced_at < clock_timestamp() - interval '6 hours' or r.announced_at < r.changed_at, true)
    order by r.id
    for update skip locked
  loop
    if grace_internal.rule_problem(v_rule) is null then
      begin
        perform grace_internal.announce(v_rule);
      exception when others then
        raise warning 'what rule % plans could not be announced', quote_literal(v_rule.name)
          using errcode = sqlstate, detail = sqlerrm;
      end;
    end if;
  end loop;
end
$$;

create or replace function grace.announce(rule text)
returns bigint
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_problem text := grace_internal.rule_problem(v_rule);
begin
  if v_problem is not null or v_rule.notice is null then
    raise exception 'rule % announces nothing', quote_literal(rule)
      using errcode = 'GR031', detail = coalesce(v_problem || '.', 'It has no notice.'),
      hint = 'select grace.alter_rule(…, ''{"notice": "14 days"}'');';
  end if;
  return grace_internal.announce(v_rule);
end
$$;
comment on function grace.announce(text) is
'Announces what a rule with notice is going to act on, now; grace.watch() does so by itself every six hours. Each record is a row in grace.notices, and how many are new goes out as JSON on channel grace (LISTEN grace). Returns how many are new. Errors: GR027, GR031.';

create or replace view grace.notices as
select
  r.name as rule,
  r.target,
  n.key,
  n.due,
  n.announced_at,
  n.announced_at + r.notice as acts_after
from grace_internal.notice n
join grace_internal.rule r on r.id = n.rule_id;

comment on view grace.notices is
'What rules with notice have announced: the record, when it is due, and from when on the rule may act on it.';

-- rules/exemptions.sql
-- A record by its key, as its rule sees it: the key as the row has it. Errors: GR008 where there is no such record.
create or replace function grace_internal.record_key(rule grace_internal.rule, key jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
  v_keys jsonb;
begin
  perform set_config('timezone', rule.zone, true);
  begin
    execute format(
      'select jsonb_agg(k.key) from %s',
      grace_internal.as_role(
        rule.run_as, 'read',
        format(
          'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s))',
          v_query.key_object, v_query.source, v_query.keys, v_query.key_list,
          grace_internal.keys_of(rule.target, jsonb_build_array(key)), v_query.key_columns
        ),
        'key jsonb'
      )
    ) into v_keys;
  exception when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or numeric_value_out_of_range then
    raise exception '% is not a key of %', key, rule.target
      using errcode = 'GR008', detail = sqlerrm || '.', hint = 'Give each value as the column''s type reads it.';
  end;
  if v_keys is null then
    raise exception 'there is no record % in %', key, rule.target
      using errcode = 'GR008', detail = format('Role %s sees none with that key.', rule.run_as),
      hint = 'Give the primary key of a row that the rule''s role sees; what it does not see the rule does not delete.';
  end if;
  return v_keys -> 0;
end
$$;

-- Who exempts a record waits for the batch that may be deleting it, and is told if it has.
create or replace function grace_internal.exemption_lock(rule_id integer)
returns bigint
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended('pg_grace: exemptions', exemption_lock.rule_id)
$$;

create or replace function grace.exempt(rule text, key jsonb, reason text, until timestamptz default null)
returns bigint
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_key jsonb;
  v_id bigint;
begin
  if coalesce(btrim(reason), '') = '' then
    raise exception 'an exemption needs a reason'
      using errcode = 'GR031', detail = 'The reason is empty.', hint = 'Say why this record is not to go.';
  end if;
  if until <= clock_timestamp() then
    raise exception 'an exemption that has ended says nothing'
      using errcode = 'GR031', detail = format('until is %s.', until), hint = 'Give a moment that lies ahead, or none.';
  end if;
  perform pg_advisory_xact_lock(grace_internal.exemption_lock(v_rule.id));
  v_key := grace_internal.record_key(v_rule, key);
  perform grace.end_exemption(e.id)
  from grace_internal.exemption e
  where e.rule_id = v_rule.id and e.key = v_key and e.dropped_at is null;
  insert into grace_internal.exemption (rule_id, key, reason, until, created_by, created_login)
  values (v_rule.id, v_key, reason, until, grace_internal.caller(), session_user)
  returning id into v_id;
  return v_id;
end
$$;
comment on function grace.exempt(text, jsonb, text, timestamptz) is
'Takes the planned deletion off a record: this rule does not act on it, for good or until a moment. key: its primary key, as grace.restore takes it. One that was there before is replaced; all of them stay in grace.exemptions. Returns its id. Errors: GR008 no such record, GR027, GR031.';

create or replace function grace.end_exemption(id bigint)
returns void
language plpgsql
security definer -- the exemptions are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
begin
  update grace_internal.exemption e
  set dropped_at = clock_timestamp(), dropped_by = grace_internal.caller(), dropped_login = session_user
  where e.id = end_exemption.id and e.dropped_at is null;
  if not found then
    raise exception 'there is no exemption % to end', coalesce(id::text, 'null')
      using errcode = 'GR027', detail = 'It never was, or was ended.', hint = 'select * from grace.exemptions where is_active;';
  end if;
end
$$;
comment on function grace.end_exemption(bigint) is
'Puts a record back under its rule, which acts on it at its next run if it is due. Who exempted it and why stays in grace.exemptions. Errors: GR027.';

create or replace view grace.exemptions as
select
  e.id,
  r.name as rule,
  r.target,
  e.key,
  e.reason,
  e.until,
  e.dropped_at is null and coalesce(e.until > statement_timestamp(), true) as is_active,
  e.created_at,
  e.created_by,
  e.created_login,
  e.dropped_at,
  e.dropped_by,
  e.dropped_login
from grace_internal.exemption e
join grace_internal.rule r on r.id = e.rule_id;

comment on view grace.exemptions is 'Records that a rule does not act on, now or once: who said so and why.';

-- rules/key_rows.sql
-- Keys as a FROM item with typed columns. Of domains the type below: reading a value runs no check of the application's.
create or replace function grace_internal.key_rows(target regclass, keys jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'jsonb_to_recordset(%L) as k (%s)', coalesce(keys, '[]'),
    string_agg(format('%I %s', a.attname, format_type(grace_internal.base_type(a.atttypid), null)), ', ' order by k.position)
  )
  from unnest(grace_internal.primary_key(target)) with ordinality as k (attnum, position)
  join pg_attribute a on a.attrelid = target and a.attnum = k.attnum
$$;

-- rules/kept.sql
-- The rules that may keep what a rule deletes, or what goes with it.
create or replace function grace_internal.keeping_rules(rule grace_internal.rule)
returns setof grace_internal.rule
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select k.*
  from grace_internal.rule k
  where k.action = 'keep' and k.enabled and exists (
    select
    from grace_internal.cascade_tree(rule.target, true) as t (relation)
    where coalesce(pg_partition_root(t.relation), t.relation) = coalesce(pg_partition_root(k.target), k.target)
      or t.relation in (select grace_internal.cascade_tree(k.target, false)) -- inherits from what is kept
  )
  order by k.id
$$;

-- Whether row security hides rows of a table from a role.
create or replace function grace_internal.is_hidden_from(role regrole, target regclass)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_answer boolean;
begin
  execute 'select * from ' || grace_internal.as_role(role, 'read', format('select row_security_active(%s::oid)', target::oid), 'answer boolean')
  into v_answer;
  return v_answer;
end
$$;

-- Records that a rule may not delete because another one says that they, or what would go with them, must be kept: the later date wins.
-- Where that can't be told, all of them are kept. records: a FROM item that yields their keys. The rows that go along are found with the
-- rights of the owner of pg_grace, whether they are kept is asked as the role of the rule that keeps.
create or replace function grace_internal.kept_records(rule grace_internal.rule, records text)
returns table (key jsonb, reason text, until timestamptz)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set timezone = 'UTC'
as $$
declare
  v_keep grace_internal.rule;
  v_query grace_internal.rule_query;
  v_rows text;
  v_problem text;
  v_pairs jsonb;
begin
  for v_keep in select k.* from grace_internal.keeping_rules(rule) k loop
    v_rows := grace_internal.closure_rows(rule.target, records, coalesce(pg_partition_root(v_keep.target), v_keep.target));
    v_problem := coalesce(
      grace_internal.rule_problem(v_keep),
      case when v_rows is null then format('%s can''t be read', v_keep.target) end
    );
    if v_problem is not null then
      raise exception 'what rule % keeps can''t be told', quote_literal(v_keep.name)
        using errcode = 'GR028', detail = v_problem || '.', hint = 'Nothing goes until that is mended, or the rule is dropped.';
    end if;
    perform set_config('timezone', rule.zone, true);
    execute format(
      'select jsonb_agg(jsonb_build_object(''record'', c.record, ''key'', c.key)) from (%s) c', v_rows
    ) into v_pairs;
    if grace_internal.is_hidden_from(v_keep.run_as, v_keep.target) then
      raise exception 'what rule % keeps can''t be told', quote_literal(v_keep.name)
        using errcode = 'GR028', detail = format('Row security hides rows of %s from role %s.', v_keep.target, v_keep.run_as),
        hint = 'Nothing goes until that is mended, or the rule is dropped.';
    end if;
    v_query := grace_internal.rule_query(v_keep);
    perform set_config('timezone', v_keep.zone, true);
    return query execute format(
      $q$select
        p.record,
        case
          when bool_or(k.until is null) then format('%%s %%s is kept by rule %%s, whose period has not begun', %1$L, k.key, %2$L)
          else format('%%s %%s is kept until %%s by rule %%s', %1$L, k.key, coalesce(nullif(to_char(min(k.until), 'YYYY-MM-DD'), ''), 'infinity'), %2$L)
        end,
        case when not bool_or(k.until is null) then min(k.until) else 'infinity' end
      from jsonb_to_recordset(%3$L) as p (record jsonb, key jsonb)
      join %4$s on k.key = p.key
      group by p.record, k.key$q$,
      v_keep.target, quote_literal(v_keep.name), coalesce(v_pairs, '[]'),
      grace_internal.as_role(
        v_keep.run_as, 'read',
        format(
          'select %s, %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) and %s and coalesce(%s > now(), true)',
          v_query.key_object, v_query.due, v_query.source, v_query.keys, v_query.key_list,
          (select jsonb_agg(p -> 'key') from jsonb_array_elements(v_pairs) p), v_query.key_columns, v_query.condition, v_query.due
        ),
        'key jsonb, until timestamptz'
      )
    );
  end loop;
end
$$;

-- Of these records those that are kept, each with what keeps it longest.
create or replace function grace_internal.kept_keys(rule grace_internal.rule, keys jsonb [])
returns table (key jsonb, reason text, until timestamptz)
language sql
set search_path = pg_catalog, pg_temp
as $$
  select distinct on (k.key) k.key, k.reason, k.until
  from grace_internal.kept_records(rule, grace_internal.key_rows(rule.target, to_jsonb(keys))) k
  where cardinality(keys) > 0
  order by k.key, k.until desc, k.reason
$$;

-- Records that a hold keeps, their own or one on a row that would go with them, in words. A delete asks the holds themselves: this is for
-- what is only shown. records: a FROM item that yields their keys.
create or replace function grace_internal.held_records(target regclass, records text)
returns table (key jsonb, reason text)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_root constant regclass := coalesce(pg_partition_root(held_records.target), held_records.target);
  v_protected record;
  v_rows text;
begin
  for v_protected in
    select p.id, p.target, k.key_json, k.columns
    from grace_internal.protected p
    cross join lateral (
      select
        grace_internal.key_json(array_agg(format('k.%I', a.attname)), array_agg(a.attname), array_agg(a.atttypid)) as key_json,
        string_agg(format('%I %s', a.attname, format_type(grace_internal.base_type(a.atttypid), null)), ', ') as columns
      from unnest(grace_internal.primary_key(p.target)) as u (attnum)
      join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
    ) as k
    where p.target in (
        select coalesce(pg_partition_root(t.relation), t.relation)
        from grace_internal.cascade_tree(held_records.target, true) as t (relation)
      )
      and exists (select from grace_internal.held_keys(p.id))
    order by p.target <> v_root, p.target::text
  loop
    v_rows := grace_internal.closure_rows(held_records.target, records, v_protected.target);
    if v_rows is not null then
      return query execute format(
        $q$with held as materialized (
          select k.hold_id, k.key from grace_internal.held_keys(%s) k where k.names is not null
        )
        select c.record, concat(%L::text || c.key::text || ' is held: ', h.reason, ' (hold ', h.id, ', case ' || h.case_number, ')')
        from held
        cross join lateral (select %s as key from jsonb_to_record(held.key) as k (%s)) as k
        join (%s) c on c.key = k.key
        join grace_internal.hold h on h.id = held.hold_id$q$,
        v_protected.id,
        case when v_protected.target <> v_root then grace_internal.qualified_name(v_protected.target) || ' ' end,
        v_protected.key_json, v_protected.columns, v_rows
      );
    end if;
  end loop;
end
$$;

-- rules/last_activity.sql
-- The pieces of the statements that find, for rows of an activity's table, the latest of each record that they belong to.
create or replace function grace_internal.activity_sources(target regclass, activities jsonb, path text, role regrole)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'source', a.source::oid,
    'moment', format('%I.%I', grace_internal.alias_of(a.source), a.moment),
    'from', format('%s cross join %s', grace_internal.source_of(a.source), grace_internal.source_of(target)),
    'condition', format(
      '%s and (%s)', l.condition,
      (grace_internal.read_expression(a.source, coalesce(a.condition, 'true'), path, role)).text
    ),
    'keys', k.keys, 'list', k.list, 'columns', k.columns
  )), '[]')
  from jsonb_array_elements_text(activities) t (activity)
  cross join lateral grace_internal.read_activity(target, t.activity, path) a
  cross join lateral grace_internal.link_between(a.source, target, array_to_string(array(select quote_ident(n) from unnest(a.link) n), ', ')) l
  cross join lateral (
    select
      string_agg(format('%I.%I', grace_internal.alias_of(a.source), n.attname), ', ' order by p.position) as keys,
      string_agg(format('k.%I', n.attname), ', ' order by p.position) as list,
      string_agg(format('%I %s', n.attname, format_type(n.atttypid, n.atttypmod)), ', ' order by p.position) as columns
    from unnest(grace_internal.primary_key(a.source)) with ordinality as p (attnum, position)
    join pg_attribute n on n.attrelid = a.source and n.attnum = p.attnum
  ) as k
  where k.keys is not null
$$;

-- What the pieces above refer to beside what the start of the period does: the keys of the activities' tables.
create or replace function grace_internal.sources_depend(sources jsonb, role regrole)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(d.dependency), '[]')
  from jsonb_to_recordset(sources) as s (source oid, keys text)
  cross join lateral grace_internal.read_expression(s.source, format('(%s) is null', s.keys), 'pg_catalog', role) as e
  cross join lateral jsonb_array_elements(e.depends) as d (dependency)
$$;

-- What of other rules' activities goes when a rule deletes rows: by itself, or by a cascade. What goes with the very record that it counts
-- for is left out.
create or replace function grace_internal.counted_from(rule grace_internal.rule)
returns table (counting grace_internal.rule, source regclass, pieces jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_root constant regclass := coalesce(pg_partition_root(rule.target), rule.target);
  v_tree regclass [];
begin
  if not exists (select from grace_internal.rule k where k.sources <> '[]') then
    return;
  end if;
  v_tree := array(
    select coalesce(pg_partition_root(t.relation), t.relation) from grace_internal.cascade_tree(rule.target, true) as t (relation)
  );
  return query
    select k, r.root, s.pieces
    from grace_internal.rule k
    cross join lateral jsonb_array_elements(k.sources) as s (pieces)
    cross join lateral (select (s.pieces ->> 'source')::oid::regclass as source) as o
    cross join lateral (select coalesce(pg_partition_root(o.source), o.source) as root) as r
    where r.root = any (v_tree) and (r.root = v_root or coalesce(pg_partition_root(k.target), k.target) <> v_root)
    order by k.id;
end
$$;

-- The statement that says the latest of each record among rows of an activity's table.
create or replace function grace_internal.latest_of(counting grace_internal.rule, pieces jsonb, keys jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(counting);
begin
  return grace_internal.as_role(
    counting.run_as, 'read',
    format(
      'select %s, max((%s)::timestamptz) from %s where %s and (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) group by %s',
      v_query.key_object, pieces ->> 'moment', pieces ->> 'from', pieces ->> 'condition', pieces ->> 'keys', pieces ->> 'list', keys,
      pieces ->> 'columns', v_query.keys
    ),
    'key jsonb, at timestamptz'
  );
end
$$;

-- When a rule is saved: whether its role may read what it takes to remember. Errors: 42501.
create or replace function grace_internal.check_sources(rule grace_internal.rule)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_pieces jsonb;
begin
  for v_pieces in select * from jsonb_array_elements(rule.sources) loop
    execute 'select count(*) from ' || grace_internal.latest_of(rule, v_pieces, '[]');
  end loop;
exception when insufficient_privilege then
  raise exception 'role % may not read the keys of %', rule.run_as, (v_pieces ->> 'source')::oid::regclass
    using errcode = 'insufficient_privilege', detail = sqlerrm || '.',
    hint = 'Grant it SELECT on them: of activities that another rule deletes it has to be remembered whose they were.';
end
$$;

-- Notes the latest of each record among rows of an activity's table that are about to be deleted, unless something later is known. Errors:
-- GR028 when it can't be told.
create or replace function grace_internal.remember(counting grace_internal.rule, pieces jsonb, keys jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
begin
  perform set_config('timezone', counting.zone, true);
  execute format(
    $q$insert into grace_internal.last_activity as m (rule_id, key, at)
    select $1, k.key, k.at
    from %s
    where k.at is not null and not exists (
      select from grace_internal.last_activity o where o.rule_id = $1 and o.key = k.key and o.at >= k.at
    )
    order by k.key
    on conflict (rule_id, key) do update set at = greatest(m.at, excluded.at)$q$,
    grace_internal.latest_of(counting, pieces, keys)
  ) using counting.id;
exception when insufficient_privilege or undefined_column or undefined_table then
  raise exception 'what rule % counts from can''t be told', quote_literal(counting.name)
    using errcode = 'GR028', detail = format('As role %s: %s.', counting.run_as, sqlerrm),
    hint = 'Nothing that it counts from goes until it is mended or dropped. Its role needs SELECT on the keys of its activities, too.';
end
$$;

-- Before a rule deletes rows from which another one counts, the latest of them is remembered for each record that they belong to: else its
-- period would start earlier, and the record go before its time.
create or replace function grace_internal.remember_activities(rule grace_internal.rule, keys jsonb [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_counted record;
  v_rows text;
  v_keys jsonb;
begin
  if cardinality(keys) = 0 then
    return;
  end if;
  for v_counted in select c.* from grace_internal.counted_from(rule) c loop
    if grace_internal.rule_problem(v_counted.counting) is not null then
      continue when not (v_counted.counting).enabled;
      raise exception 'what rule % counts from can''t be told', quote_literal((v_counted.counting).name)
        using errcode = 'GR028', detail = grace_internal.rule_problem(v_counted.counting) || '.',
        hint = 'Nothing that it counts from goes until it is mended, disabled or dropped.';
    end if;
    v_keys := to_jsonb(keys);
    if v_counted.source <> coalesce(pg_partition_root(rule.target), rule.target) then
      v_rows := grace_internal.closure_rows(
        rule.target, grace_internal.key_rows(rule.target, to_jsonb(keys)), v_counted.source
      );
      if v_rows is null then
        raise exception 'what rule % counts from can''t be told', quote_literal((v_counted.counting).name)
          using errcode = 'GR028', detail = format('%s can''t be read.', v_counted.source),
          hint = 'Nothing that it counts from goes until that is mended.';
      end if;
      execute format('select coalesce(jsonb_agg(c.key), ''[]'') from (%s) c', v_rows) into v_keys;
    end if;
    perform grace_internal.remember(v_counted.counting, v_counted.pieces, v_keys);
  end loop;
end
$$;

-- What was remembered of records that are no longer there. Where row security hides records from a rule's role, that can't be told, and it
-- stays.
create or replace function grace_internal.forget_activities()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
  v_query grace_internal.rule_query;
begin
  for v_rule in
    select r.*
    from grace_internal.rule r
    where exists (select from grace_internal.last_activity m where m.rule_id = r.id) and grace_internal.rule_problem(r) is null
  loop
    begin
      continue when grace_internal.is_hidden_from(v_rule.run_as, v_rule.target);
      v_query := grace_internal.rule_query(v_rule);
      execute format(
        'delete from grace_internal.last_activity m where m.rule_id = $1 and m.key not in (select k.key from %s)',
        grace_internal.as_role(
          v_rule.run_as, 'read',
          format(
            'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s))',
            v_query.key_object, v_query.source, v_query.keys, v_query.key_list,
            (select jsonb_agg(m.key) from grace_internal.last_activity m where m.rule_id = v_rule.id), v_query.key_columns
          ),
          'key jsonb'
        )
      ) using v_rule.id;
    exception when others then -- it is another rule's run that ends here
      raise warning 'what was remembered for rule % could not be gone through', quote_literal(v_rule.name)
        using errcode = sqlstate, detail = sqlerrm, hint = 'It stays; nothing goes too early by that.';
    end;
  end loop;
end
$$;

-- What the role of a rule sees of what was remembered: its own rules'. It is in schema grace because that role has to name it.
create or replace view grace._remembered as
select
  m.rule_id,
  m.key,
  m.at
from grace_internal.last_activity m
join grace_internal.rule r on r.id = m.rule_id
where r.run_as = quote_ident(current_user)::regrole;

comment on view grace._remembered is
'Internal: the latest activity of records of which a rule has deleted the row that says so, for the role of the rule that counts from it.';

-- rules/leave_out.sql
do $$
begin
  if to_regtype('grace_internal.left_out') is null then
    create type grace_internal.left_out as (key jsonb, state text, reason text);
  end if;
end
$$;

-- Of the records that a run has picked those that it may not act on: exempt, kept by another rule, not announced where that is wanted. What
-- is held says so itself, by an error.
create or replace function grace_internal.leave_out(rule grace_internal.rule, keys jsonb [])
returns grace_internal.left_out []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_left grace_internal.left_out [];
  v_rest jsonb [];
begin
  v_left := array(
    select row(k.key, 'exempt', null)::grace_internal.left_out
    from unnest(keys) as k (key)
    where exists (
      select
      from grace_internal.exemption e
      where e.rule_id = rule.id and e.key = k.key and e.dropped_at is null and coalesce(e.until > clock_timestamp(), true)
    )
  );
  if rule.notice is not null then
    v_left := v_left || array(
      select row(k.key, 'not announced', null)::grace_internal.left_out
      from unnest(grace_internal.without(keys, v_left)) as k (key)
      where k.key <> all (grace_internal.announced_keys(rule, keys))
    );
  end if;
  v_rest := grace_internal.without(keys, v_left);
  return v_left || array(
    select row(k.key, 'kept', k.reason)::grace_internal.left_out from grace_internal.kept_keys(rule, v_rest) k
  );
end
$$;

create or replace function grace_internal.without(keys jsonb [], left_out grace_internal.left_out [])
returns jsonb []
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select k.key
    from unnest(keys) with ordinality as k (key, position)
    where k.key <> all (array(select l.key from unnest(left_out) l))
    order by k.position
  )
$$;

-- Counts what was left out among the records that a batch has come to; what another rule keeps is named.
create or replace function grace_internal.record_left_out(run bigint, left_out grace_internal.left_out [], keys jsonb [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kept record;
begin
  update grace_internal.run r
  set details = jsonb_set(
    r.details, '{left_out}', coalesce(r.details -> 'left_out', '{}') || (
      select jsonb_object_agg(c.state, c.rows + coalesce((r.details -> 'left_out' ->> c.state)::bigint, 0))
      from (
        select l.state, count(*) as rows from unnest(left_out) l where l.key = any (keys) group by l.state
      ) as c
    )
  )
  where r.id = run and exists (select from unnest(left_out) l where l.key = any (keys));
  for v_kept in select l.key, l.reason from unnest(left_out) l where l.state = 'kept' and l.key = any (keys) loop
    perform grace_internal.record_failure(run, v_kept.key, 'GR033', v_kept.reason);
  end loop;
end
$$;

-- Of all rows that are due those that a run would leave out, each with the first thing that stands in its way.
create or replace function grace_internal.left_out_of(rule grace_internal.rule, due text)
returns setof grace_internal.left_out
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
begin
  perform set_config('timezone', rule.zone, true);
  if rule.notice is null
    and not exists (select from grace_internal.exemption e where e.rule_id = rule.id and e.dropped_at is null)
    and not exists (select from grace_internal.active_hold)
    and not exists (select from grace_internal.keeping_rules(rule))
  then
    return;
  end if;
  return query execute format(
    $q$with due as materialized (
      select k.key from %s
    )
    select distinct on (s.key) s.key, s.state, s.reason
    from (
      select d.key, 1 as rank, 'exempt' as state, e.reason
      from due d
      join grace_internal.exemption e on e.rule_id = ($1).id and e.key = d.key
      where e.dropped_at is null and coalesce(e.until > clock_timestamp(), true)
      union all
      select h.key, 2, 'held', h.reason
      from grace_internal.held_records(($1).target, %2$L) h
      union all
      (
        select distinct on (k.key) k.key, 3, 'kept', k.reason
        from grace_internal.kept_records($1, %2$L) k
        order by k.key, k.until desc, k.reason
      )
      union all
      select d.key, 4, 'not announced', null
      from due d
      where ($1).notice is not null and not exists (
        select
        from grace_internal.notice n
        where n.rule_id = ($1).id and n.key = d.key and n.announced_at <= clock_timestamp() - ($1).notice
      )
    ) as s
    order by s.key, s.rank, s.reason$q$,
    grace_internal.as_role(
      rule.run_as, 'read', format('select %s from %s where %s', v_query.key_object, v_query.source, due), 'key jsonb'
    ),
    grace_internal.as_role(
      rule.run_as, 'read', format('select %s from %s where %s', v_query.keys, v_query.source, due), v_query.key_columns
    )
  )
  using rule;
end
$$;

-- rules/run_steps.sql
-- A run that could not even begin is on record all the same.
create or replace function grace_internal.record_failed_run(rule grace_internal.rule, problem text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
begin
  insert into grace_internal.run (kind, rule_id, job, target, status, finished_at, details, role, login)
  values (
    'rule', rule.id, (select j.name from grace_internal.job j where j.rule_id = rule.id), rule.target, 'failed', clock_timestamp(),
    jsonb_build_object('rule', rule.name, 'problem', problem), grace_internal.caller(), session_user
  )
  returning id into v_run;
  perform grace_internal.report_run(v_run);
  raise warning 'rule % can''t run', quote_literal(rule.name)
    using errcode = 'GR028', detail = problem || '.', hint = 'Nothing was deleted. select * from grace.rules; says what is wrong.';
end
$$;

-- The run that waits for approval: the last one of its rule, if it was held, and the rule still says what it said then.
create or replace function grace_internal.held_run(rule_id integer)
returns grace_internal.run
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.*
  from grace_internal.run r
  where r.id = (select max(l.id) from grace_internal.run l where l.rule_id = held_run.rule_id and l.kind = 'rule')
    and r.status = 'held'
    and r.started_at > (select l.changed_at from grace_internal.rule l where l.id = held_run.rule_id)
$$;

-- Whether a login has had a part in what a rule, or its filter, says, ever.
create or replace function grace_internal.has_written(login name, rule_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.run r
    where r.rule_id = has_written.rule_id and r.kind = 'change' and r.login = has_written.login and r.details ? 'definition'
  ) or exists (
    select
    from grace_internal.rule l
    join grace_internal.run r on r.kind = 'change' and r.details @> jsonb_build_object('filter_id', l.filter_id)
    where l.id = has_written.rule_id and r.login = has_written.login
  )
$$;

create or replace function grace_internal.require_approver(rule grace_internal.rule)
returns grace_internal.run
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_held grace_internal.run := grace_internal.held_run(rule.id);
begin
  if v_held.id is null then
    raise exception 'nothing of rule % waits for approval', quote_literal(rule.name)
      using errcode = 'GR032', detail = 'Its last run was not held, or the rule was changed since.', hint = 'Run it without approval.';
  end if;
  if rule.four_eyes and grace_internal.has_written(session_user, rule.id) then
    raise exception 'a run of rule % has to be approved by somebody else', quote_literal(rule.name)
      using errcode = 'GR032', detail = format('%s wrote the rule, which says four_eyes.', session_user),
      hint = 'Let another administrator approve it.';
  end if;
  return v_held;
end
$$;

-- How many rows of a rule's table meet a condition, and the token that says which: the keys' hashes taken together, in no order.
create or replace function grace_internal.count_due(
  rule grace_internal.rule, due text, with_token boolean, out rows bigint, out token text
)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
begin
  perform set_config('timezone', rule.zone, true);
  execute 'select * from ' || grace_internal.as_role(
    rule.run_as, 'read',
    format(
      'select count(*), %s from %s where %s',
      case when with_token then format('bit_xor(hashtextextended(%s::text, 0))', v_query.key_object) else 'null::bigint' end,
      v_query.source, due
    ),
    'rows bigint, hash bigint'
  ) into rows, token;
  token := case when with_token then format('%s-%s', rows, to_hex(coalesce(token::bigint, 0))) end;
end
$$;

create or replace function grace_internal.count_table(rule grace_internal.rule)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  execute 'select * from ' || grace_internal.as_role(
    rule.run_as, 'read', format('select count(*) from %s', grace_internal.source_of(rule.target)), 'rows bigint'
  ) into v_rows;
  return v_rows;
end
$$;

-- The limit that this many rows pass, in words, null when they pass none; and how many rows a run may delete, null for any number.
create or replace function grace_internal.limit_passed(rule grace_internal.rule, rows bigint, out reason text, out most bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_total bigint;
begin
  if rows > rule.max_rows then
    reason := format('%s rows are more than max_rows, %s', rows, rule.max_rows);
    most := rule.max_rows;
    return;
  end if;
  if rule.max_fraction < 1 then
    if rows > 100 then
      v_total := grace_internal.count_table(rule);
    end if;
    most := greatest(100, floor(rule.max_fraction * v_total));
    if rows > most then
      reason := format(
        '%s of %s rows are more than max_fraction, %s %%', rows, v_total, to_char(100 * rule.max_fraction, 'FM990.###')
      );
    end if;
  end if;
  most := least(rule.max_rows, most);
end
$$;

-- Opens a run; null when there is nothing to go on with, because the rule can't act or its run is held.
create or replace function grace._run_begin(rule text, approve boolean, expect bigint, token text)
returns bigint
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_now timestamptz := clock_timestamp();
  v_horizon timestamptz;
  v_due text;
  v_held grace_internal.run;
  v_other grace_internal.run;
  v_alone boolean;
  v_aborted bigint;
  v_rows bigint;
  v_acting bigint;
  v_token text;
  v_limit text;
  v_most bigint;
  v_problem text;
  v_run bigint;
begin
  if v_rule.action = 'keep' then
    raise exception 'rule % keeps, and has nothing to run', quote_literal(rule)
      using errcode = 'GR031', detail = 'Other rules go by it.', hint = 'select * from grace.planned(…);';
  end if;
  if not v_rule.enabled then
    raise exception 'rule % is disabled', quote_literal(rule)
      using errcode = 'GR031', detail = 'It does nothing.', hint = format('select grace.enable_rule(%L);', rule);
  end if;
  -- Of two runs of a rule one is refused, whether the other has begun or is still counting.
  v_alone := pg_try_advisory_xact_lock(hashtextextended('pg_grace: run', v_rule.id));
  select r.* into v_other
  from grace_internal.run r
  where r.rule_id = v_rule.id and r.kind = 'rule' and r.status = 'running' and r.pid <> pg_backend_pid()
    and grace._is_running(r.pid, r.started_at);
  if found or not v_alone then
    raise exception 'rule % is running', quote_literal(rule)
      using errcode = 'GR014',
      detail = case
        when v_other.id is null then 'It is beginning in another session.'
        else format('Run %s, process %s, since %s.', v_other.id, v_other.pid, v_other.started_at)
      end,
      hint = 'It does the same work; wait for it.';
  end if;
  for v_aborted in
    update grace_internal.run r
    set status = 'aborted', finished_at = clock_timestamp()
    where r.rule_id = v_rule.id and r.kind = 'rule' and r.status = 'running'
    returning r.id
  loop
    perform grace_internal.report_run(v_aborted);
  end loop;
  if approve then
    v_held := grace_internal.require_approver(v_rule);
  end if;
  v_problem := grace_internal.rule_problem(v_rule);
  if v_problem is not null then
    perform grace_internal.record_failed_run(v_rule, v_problem);
    return null;
  end if;
  v_horizon := grace_internal.horizon(v_rule, v_now);
  v_due := grace_internal.is_due(grace_internal.rule_query(v_rule), v_horizon);
  begin
    perform grace_internal.ensure_runner(v_rule.run_as);
    if v_rule.notice is not null then
      perform grace_internal.announce(v_rule);
    end if;
    select c.rows, c.token into v_rows, v_token from grace_internal.count_due(v_rule, v_due, token is not null) c;
    v_acting := v_rows - (select count(*) from grace_internal.left_out_of(v_rule, v_due));
    select l.reason, l.most into v_limit, v_most from grace_internal.limit_passed(v_rule, v_acting) l;
  exception when others then
    perform grace_internal.record_failed_run(v_rule, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
    return null;
  end;
  if v_rows <> expect or v_token <> token then
    raise exception 'rule % matches something else now', quote_literal(rule)
      using errcode = 'GR030',
      detail = concat_ws(
        '; ', format('%s rows are due now', v_rows) || ', ' || expect || ' were expected', 'the preview''s token was ' || token || ', it is ' || v_token
      ) || '.',
      hint = 'Nothing was deleted. Preview it again: select * from grace.preview(…);';
  end if;
  if v_acting <= (v_held.details ->> 'acting')::bigint then
    v_limit := null;
    v_most := greatest(v_most, (v_held.details ->> 'acting')::bigint);
  end if;
  insert into grace_internal.run (kind, rule_id, job, target, status, finished_at, details, role, login)
  values (
    'rule', v_rule.id, (select j.name from grace_internal.job j where j.rule_id = v_rule.id), v_rule.target,
    case when v_limit is null then 'running' else 'held' end, case when v_limit is not null then clock_timestamp() end,
    jsonb_strip_nulls(jsonb_build_object(
      'rule', v_rule.name, 'as', grace_internal.role_name(v_rule.run_as), 'as_of', v_now, 'due_by', v_horizon,
      'matched', v_rows, 'acting', v_acting,
      'condition', v_rule.condition, 'start', v_rule.start_expression, 'period', v_rule.period,
      'plan', grace_internal.run_plan(v_rule, v_horizon), 'held_because', v_limit, 'approves', v_held.id,
      'most', v_most, 'changed_at', v_rule.changed_at
    )),
    grace_internal.caller(), session_user
  )
  returning id into v_run;
  if v_limit is not null then
    perform grace_internal.report_run(v_run);
    raise warning 'rule % waits for approval', quote_literal(rule)
      using errcode = 'GR030', detail = v_limit || '.', hint = format('Nothing was deleted. call grace.run(%L, approve => true);', rule);
    return null;
  end if;
  return v_run;
end
$$;
comment on function grace._run_begin(text, boolean, bigint, text) is 'Internal: opens the run of a rule.';

create or replace function grace_internal.run_plan(rule grace_internal.rule, horizon timestamptz)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
  v_plan jsonb;
begin
  perform set_config('timezone', rule.zone, true);
  execute 'select jsonb_agg(k.line) from ' || grace_internal.as_role(
    rule.run_as, 'read',
    format('explain select %s from %s where %s', v_query.keys, v_query.source, grace_internal.is_due(v_query, horizon)), 'line text'
  ) into v_plan;
  return v_plan;
end
$$;

-- Where other tables, or rules that keep, say whether a row goes, it is locked first, if the role may: who adds a contact or an invoice
-- meanwhile waits, and what was added before is seen by what looks after that.
create or replace function grace_internal.locks_rows(rule grace_internal.rule)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  return (rule.condition || coalesce(rule.start_expression, '') ~* '\mselect\M' or exists (select from grace_internal.keeping_rules(rule)))
    and has_table_privilege(rule.run_as, rule.target, 'UPDATE');
end
$$;

-- The condition that a row comes after the last one of the batch before, in the key's order.
create or replace function grace_internal.comes_after(rule grace_internal.rule, query grace_internal.rule_query, after jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when after is null then 'true' else format('(%s) > (%s)', query.keys, (
    select string_agg(format('%L::%s', after ->> a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by k.position)
    from unnest(grace_internal.primary_key(rule.target)) with ordinality as k (attnum, position)
    join pg_attribute a on a.attrelid = rule.target and a.attnum = k.attnum
  )) end;
end
$$;

-- The next rows of a run, found and deleted by one statement: where nothing but the rule's own condition says which go. The condition
-- stands in both parts: a row that somebody changes meanwhile is looked at again. Returns how many were found and how many are gone.
create or replace function grace_internal.delete_next(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, after jsonb, size integer,
  out picked integer, out deleted integer, out last jsonb
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'select * from %s',
    grace_internal.as_role(
      rule.run_as, 'write',
      format(
        'with pick as materialized (select %1$s from %2$s where %3$s and %4$s order by %1$s limit %5$s), '
        'gone as (delete from %2$s where (%1$s) in (select * from pick) and %3$s returning 1) '
        'select (select count(*) from pick), (select count(*) from gone), '
        '(select %6$s from (select * from pick offset %7$s limit 1) %8$I)',
        query.keys, query.source, grace_internal.is_due(query, horizon), grace_internal.comes_after(rule, query, after), size,
        query.key_object, size - 1, grace_internal.alias_of(rule.target)
      ),
      'picked bigint, deleted bigint, last jsonb'
    )
  ) into picked, deleted, last;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
end
$$;

-- The next rows of a run by their keys, in the key's order.
create or replace function grace_internal.pick_keys(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, after jsonb, size integer
)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [];
begin
  execute format(
    'select array_agg(k.key) from %s',
    grace_internal.as_role(
      rule.run_as, 'read',
      format(
        'select %s from %s where %s and %s order by %s limit %s',
        query.key_object, query.source, grace_internal.is_due(query, horizon), grace_internal.comes_after(rule, query, after), query.keys,
        size
      ),
      'key jsonb'
    )
  ) into v_keys;
  return coalesce(v_keys, '{}');
end
$$;

-- Which of these records still are what the rule is about.
create or replace function grace_internal.still_due(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, keys jsonb []
)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [];
begin
  execute format(
    'select array_agg(k.key) from %s',
    grace_internal.as_role(
      rule.run_as, 'read',
      format(
        'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) and %s',
        query.key_object, query.source, query.keys, query.key_list, to_jsonb(keys), query.key_columns,
        grace_internal.is_due(query, horizon)
      ),
      'key jsonb'
    )
  ) into v_keys;
  return coalesce(v_keys, '{}');
end
$$;

-- Locks records; returns those that nobody else has locked.
create or replace function grace_internal.lock_keys(
  rule grace_internal.rule, query grace_internal.rule_query, keys jsonb []
)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [];
begin
  execute format(
    'select array_agg(k.key) from %s',
    grace_internal.as_role(
      rule.run_as, 'write',
      format(
        'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) for update of %I skip locked',
        query.key_object, query.source, query.keys, query.key_list, to_jsonb(keys), query.key_columns,
        grace_internal.alias_of(rule.target)
      ),
      'key jsonb'
    )
  ) into v_keys;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
  return coalesce(v_keys, '{}');
end
$$;

create or replace function grace_internal.delete_keys(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, keys jsonb []
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  execute format(
    'select * from %s',
    grace_internal.as_role(
      rule.run_as, 'write',
      format(
        'with gone as (delete from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) and %s returning 1) '
        'select count(*) from gone',
        query.source, query.keys, query.key_list, to_jsonb(keys), query.key_columns, grace_internal.is_due(query, horizon)
      ),
      'rows bigint'
    )
  ) into v_rows;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
  return v_rows;
end
$$;

-- What a hold or another rule keeps is named as well, but nothing has failed.
create or replace function grace_internal.record_failure(run bigint, key jsonb, code text, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if code = 'GR029' then
    update grace_internal.run r
    set details = r.details || jsonb_build_object('left_out', coalesce(r.details -> 'left_out', '{}') || jsonb_build_object(
      'held', coalesce((r.details #>> '{left_out,held}')::bigint, 0) + 1
    ))
    where r.id = run;
  elsif code <> 'GR033' then
    update grace_internal.run r
    set details = jsonb_set(r.details, '{failures}', to_jsonb(coalesce((r.details ->> 'failures')::bigint, 0) + 1))
    where r.id = run;
  end if;
  insert into grace_internal.run_failure (run_id, key, sqlstate, reason)
  select record_failure.run, record_failure.key, record_failure.code, record_failure.reason
  where (select count(*) from grace_internal.run_failure f where f.run_id = record_failure.run) < 10000;
end
$$;

-- Whether somebody else has locked a table, or one that deletes from it cascade into, against all deletes.
create or replace function grace_internal.is_locked(target regclass)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_locks l
    where l.granted and l.pid <> pg_backend_pid() and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      and l.locktype = 'relation' and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation in (
        select p.relation
        from grace_internal.cascade_tree(is_locked.target, true) as c (relation)
        cross join lateral grace_internal.partition_tree(c.relation) as p (relation)
      )
  )
$$;

-- Deletes records, all at once where that goes, else in ever smaller parts, until those that can't be deleted stand alone; what each of
-- them says is on record. Stops after a while, for what is deleted stays locked until the batch ends. Returns how many are gone, and the
-- last record that it came to. Errors: 55P03 when a whole table is locked: so would be all the rest.
create or replace function grace_internal.delete_each(
  run bigint, rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, keys jsonb [],
  out deleted bigint, out last jsonb
)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5ms'
as $$
declare
  v_began timestamptz := clock_timestamp();
  v_count integer := cardinality(keys);
  v_next integer := 1;
  v_size integer := cardinality(keys);
  v_part jsonb [];
  v_locks boolean := grace_internal.locks_rows(rule);
  v_free jsonb [];
  v_rows bigint;
  v_left jsonb;
begin
  deleted := 0;
  while v_next <= v_count and (last is null or clock_timestamp() < v_began + interval '60 milliseconds') loop
    v_part := keys[v_next:least(v_next + v_size - 1, v_count)];
    begin
      v_free := case when v_locks then grace_internal.lock_keys(rule, query, v_part) else v_part end;
      perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
      v_rows := grace_internal.delete_keys(rule, query, horizon, v_free);
      perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      if v_rows < cardinality(v_part) then
        foreach v_left in array grace_internal.still_due(rule, query, horizon, v_part) loop
          if v_left = any (v_free) then
            perform grace_internal.record_failure(
              run, v_left, '42501', format('role %s may not delete it: row security or a trigger kept it', rule.run_as)
            );
          else
            perform grace_internal.record_failure(run, v_left, '55P03', 'another session is changing it');
          end if;
        end loop;
      end if;
      deleted := deleted + v_rows;
      v_next := v_next + cardinality(v_part);
      last := keys[v_next - 1];
      v_size := least(v_size * 2, v_count);
    exception when others then
      if cardinality(v_part) > 1 then
        v_size := (cardinality(v_part) + 1) / 2;
      else
        if sqlstate = '55P03' and grace_internal.is_locked(rule.target) then
          raise;
        end if;
        perform grace_internal.record_failure(run, v_part[1], sqlstate, left(sqlerrm, 500));
        last := v_part[1];
        v_next := v_next + 1;
        v_size := 1;
      end if;
    end;
  end loop;
end
$$;

-- Ends a run before its time, with the reason; what is left is for the next one.
create or replace function grace_internal.stop_run(run bigint, status text, reason text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.run r
  set details = r.details || jsonb_build_object('stopped', jsonb_build_object('status', stop_run.status, 'reason', stop_run.reason))
  where r.id = stop_run.run
$$;

-- Whether something beside a rule's condition says which of its rows go: then they are looked at by their keys before they are deleted.
create or replace function grace_internal.needs_care(rule grace_internal.rule)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select
      rule.notice is not null
      or grace_internal.locks_rows(rule)
      or exists (select from grace_internal.exemption e where e.rule_id = rule.id and e.dropped_at is null)
      or exists (select from grace_internal.counted_from(rule))
      or exists (select from grace_internal.rule k where k.action = 'keep' and k.enabled)
      and exists (select from grace_internal.keeping_rules(rule))
  );
end
$$;

-- Of the records that a run could not have because others had locked them the next ones, in the order of their keys; they are no failures
-- any more.
create or replace function grace_internal.take_locked(run bigint, after jsonb, size integer)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [] := array(
    select f.key
    from grace_internal.run_failure f
    where f.run_id = take_locked.run and f.sqlstate = '55P03' and coalesce(f.key > take_locked.after, true)
    order by f.key
    limit take_locked.size
  );
begin
  delete from grace_internal.run_failure f where f.run_id = take_locked.run and f.sqlstate = '55P03' and f.key = any (v_keys);
  update grace_internal.run r
  set details = case
    when (r.details ->> 'failures')::bigint > cardinality(v_keys) then
      jsonb_set(r.details, '{failures}', to_jsonb((r.details ->> 'failures')::bigint - cardinality(v_keys)))
    else r.details - 'failures'
  end
  where r.id = take_locked.run and cardinality(v_keys) > 0;
  return v_keys;
end
$$;

-- One batch after another, each a transaction. position says how far the run is, null to begin; returns where to go on, null at the end.
-- What others have locked is tried again, up to three times: whole batches at once, single records when all the others are done.
-- What one statement can't delete is gone through by keys. A batch is made smaller while deleting its rows takes longer than others
-- should have to wait for them; what it takes to look at what rules keep does not depend on how many rows it has.
create or replace function grace._run_batch(run bigint, "position" jsonb)
returns jsonb
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
set timezone = 'UTC'
as $$
declare
  v_began timestamptz := clock_timestamp();
  v_run grace_internal.run;
  v_rule grace_internal.rule;
  v_query grace_internal.rule_query;
  v_horizon timestamptz;
  v_keys jsonb [];
  v_size integer;
  v_picked integer;
  v_rows bigint;
  v_after jsonb := nullif("position" -> 'after', 'null');
  v_round integer := coalesce(("position" ->> 'round')::integer, 0);
  v_tries integer := coalesce(("position" ->> 'tries')::integer, 0);
  v_last jsonb;
  v_wanted jsonb [];
  v_left_out grace_internal.left_out [];
  v_stopped jsonb;
  v_most bigint;
  v_careful boolean;
  v_role text;
  v_deleting_since timestamptz;
begin
  select r.* into v_run
  from grace_internal.run r
  where r.id = run and r.kind = 'rule' and r.status = 'running' and r.pid = pg_backend_pid();
  if not found then
    raise exception 'run % is no run of a rule in this session', run
      using errcode = 'GR014', detail = 'Batches are done by grace.run() only.', hint = 'call grace.run(…);';
  end if;
  select r.* into v_rule from grace_internal.rule r where r.id = v_run.rule_id;
  if not found or not v_rule.enabled or v_rule.changed_at <> (v_run.details ->> 'changed_at')::timestamptz then
    perform grace_internal.stop_run(run, 'incomplete', 'the rule was changed or disabled meanwhile');
    return null;
  elsif v_rule.max_duration < v_began - v_run.started_at then
    perform grace_internal.stop_run(run, 'incomplete', 'max_duration has passed');
    return null;
  end if;
  v_horizon := (v_run.details ->> 'due_by')::timestamptz;
  v_size := coalesce(("position" ->> 'size')::integer, v_rule.batch_size);
  v_query := grace_internal.rule_query(v_rule);
  v_most := (v_run.details ->> 'most')::bigint - v_run.row_count;
  begin
    perform pg_advisory_xact_lock_shared(grace_internal.exemption_lock(v_rule.id));
    v_careful := grace_internal.needs_care(v_rule);
    perform grace_internal.require_valid('rule', v_rule.name, v_rule.depends, v_rule.home);
    perform set_config('timezone', v_rule.zone, true);
    if v_most <= 0 then
      if cardinality(grace_internal.pick_keys(v_rule, v_query, v_horizon, v_after, 1)) > 0 then
        perform grace_internal.stop_run(run, 'incomplete', 'more rows have come to match than may be deleted at once');
      end if;
      return null;
    end if;
    v_size := least(v_size, v_most);
    v_role := grace_internal.role_name(v_rule.run_as);
    perform set_config('grace.acting_as', v_role || ' ' || grace_internal.signature('as ' || v_role), true);
    perform set_config('grace.reason', format('rule %s, run %s', quote_literal(v_rule.name), run), true);
    v_deleting_since := clock_timestamp();
    v_careful := v_careful or v_round > 0;
    if not v_careful then
      begin
        select d.picked, d.deleted, d.last into v_picked, v_rows, v_last
        from grace_internal.delete_next(v_rule, v_query, v_horizon, v_after, v_size) d;
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
      exception when others then
        v_careful := true;
      end;
    end if;
    if v_careful or v_picked > v_rows then
      v_keys := case
        when v_round > 0 then grace_internal.take_locked(run, v_after, v_size)
        else grace_internal.pick_keys(v_rule, v_query, v_horizon, v_after, v_size)
      end;
      v_picked := cardinality(v_keys);
      v_last := v_keys[v_size];
      if grace_internal.locks_rows(v_rule) then
        perform grace_internal.lock_keys(v_rule, v_query, v_keys);
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      end if;
      v_left_out := grace_internal.leave_out(v_rule, v_keys);
      v_wanted := grace_internal.without(v_keys, v_left_out);
      v_deleting_since := clock_timestamp();
      perform grace_internal.remember_activities(v_rule, v_wanted);
      select coalesce(v_rows, 0) + d.deleted, d.last into v_rows, v_stopped
      from grace_internal.delete_each(run, v_rule, v_query, v_horizon, v_wanted) d;
      perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      if v_stopped <> v_wanted[cardinality(v_wanted)] then
        v_last := v_stopped;
        if v_round > 0 then
          perform grace_internal.record_failure(run, k, '55P03', 'another session is changing it')
          from unnest(v_keys[array_position(v_keys, v_stopped) + 1:]) k;
        end if;
        v_keys := v_keys[:array_position(v_keys, v_stopped)];
      end if;
      perform grace_internal.record_left_out(run, v_left_out, v_keys);
    end if;
  exception when others then
    if sqlstate = '55P03' and v_tries < 3 then
      return jsonb_build_object('after', v_after, 'size', v_size, 'round', v_round, 'tries', v_tries + 1, 'pause', 0.5);
    end if;
    perform grace_internal.stop_run(
      run, case sqlstate when '55P03' then 'incomplete' else 'failed' end, format('%s (SQLSTATE %s)', sqlerrm, sqlstate)
    );
    return null;
  end;
  update grace_internal.run r
  set row_count = r.row_count + v_rows, batches = r.batches + sign(v_picked)
  where r.id = run;
  if v_last is null then
    return (
      select jsonb_build_object('round', v_round + 1, 'pause', greatest(0.5, extract(epoch from v_rule.pause)))
      where v_round < 3 and exists (
        select from grace_internal.run_failure f where f.run_id = run and f.sqlstate = '55P03'
      )
    );
  end if;
  return jsonb_build_object(
    'after', v_last,
    'round', v_round,
    'size', case
      when clock_timestamp() - v_deleting_since > interval '80 milliseconds' then greatest(1, v_size / 2)
      else least(v_rule.batch_size, v_size * 2)
    end,
    'pause', extract(epoch from v_rule.pause)
  );
end
$$;
comment on function grace._run_batch(bigint, jsonb) is 'Internal: one batch of a run.';

create or replace function grace._run_end(run bigint)
returns void
language plpgsql
security definer -- writes the run
set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
  v_rule grace_internal.rule;
begin
  -- What is gone is no longer announced: restored, it has to be announced anew.
  select l.* into v_rule
  from grace_internal.run r
  join grace_internal.rule l on l.id = r.rule_id and l.notice is not null and l.enabled
  where r.id = run and r.row_count > 0 and r.pid = pg_backend_pid() and r.status = 'running';
  if found and grace_internal.rule_problem(v_rule) is null then
    begin
      perform grace_internal.announce(v_rule);
    exception when others then
      raise warning 'what rule % plans could not be announced', quote_literal(v_rule.name) using errcode = sqlstate, detail = sqlerrm;
    end;
  end if;
  update grace_internal.run r
  set
    finished_at = clock_timestamp(),
    status = coalesce(r.details #>> '{stopped,status}', case when r.details ? 'failures' then 'incomplete' else 'done' end)
  where r.id = run and r.kind = 'rule' and r.status = 'running' and r.pid = pg_backend_pid()
  returning r.status into v_status;
  perform grace_internal.forget_activities();
  if v_status <> 'done' then
    perform grace_internal.report_run(run);
  end if;
end
$$;
comment on function grace._run_end(bigint) is 'Internal: closes the run of a rule.';

-- rules/run.sql
-- Commits after each batch, as grace.purge() does after each slice, and for the same reasons READ COMMITTED each time.
create or replace procedure grace.run(
  rule text, approve boolean default false, expect bigint default null, token text default null
)
language plpgsql
as $$
declare
  v_run bigint;
  v_position jsonb;
  v_path text := pg_catalog.current_setting('search_path');
begin
  commit; -- inside a transaction block this is the error, before anything has changed
  set transaction isolation level read committed;
  v_run := grace._run_begin(rule, approve, expect, token);
  commit;
  set transaction isolation level read committed; -- first of all: to look at a variable takes a snapshot
  if v_run is not null then
    loop
      v_position := grace._run_batch(v_run, v_position);
      if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) v_path then
        perform pg_catalog.set_config('search_path', v_path, false); -- what a trigger of the application has set stays no longer
      end if;
      commit;
      set transaction isolation level read committed;
      exit when v_position is null;
      perform pg_catalog.pg_sleep((v_position operator(pg_catalog.->>) 'pause')::pg_catalog.float8);
    end loop;
    perform grace._run_end(v_run);
    commit;
  end if;
end
$$;
comment on procedure grace.run(text, boolean, bigint, text) is
'Executes a rule once, as its role, in batches with a commit after each, so not inside a transaction block (2D000). Each call is a row in grace.runs; records that could not be deleted are in grace.run_failures, and don''t stop the others. approve: goes on with what the last run was held for. expect, token: of a preview; where the rule matches something else now, nothing happens (GR030). A rule that can''t act, or passes a limit, deletes nothing: a warning, and a run of status failed or held. Errors: GR014 when it is running, GR027, GR030, GR031, GR032, 2D000.';

-- rules/planned.sql
-- What a rule plans, one row a record: from the live rows, so that a new contact moves the date by itself. within: how far ahead, null for
-- all; key: of one record only, whatever its date.
create or replace function grace_internal.planned_by(rule grace_internal.rule, key jsonb, within interval)
returns table (record_key jsonb, start timestamptz, due timestamptz, record jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule, of_one => planned_by.key is not null);
  v_until text := grace_internal.instant(case
    when planned_by.key is null then coalesce(grace_internal.horizon(rule, clock_timestamp()) + planned_by.within, 'infinity')
    else 'infinity'
  end);
begin
  perform set_config('timezone', rule.zone, true);
  return query execute 'select * from ' || grace_internal.as_role(
    rule.run_as, 'read',
    format(
      'select %s, "grace 2".start, %s, %s from %s cross join lateral (select %s as start offset 0) as "grace 2" where %s%s',
      v_query.key_object,
      case when rule.start_expression is null then '''-infinity''::timestamptz' else format('"grace 2".start + interval %L', rule.period) end,
      v_query.record, v_query.source, v_query.start, v_query.condition,
      case
        when planned_by.key is not null then format(
          ' and (%s) in (select %s from jsonb_to_recordset(%L) as k (%s) limit 1)', v_query.keys, v_query.key_list,
          grace_internal.keys_of(rule.target, planned_by.key), v_query.key_columns
        )
        when rule.start_expression is null then ''
        else format(' and "grace 2".start + interval %L <= %L::timestamptz', rule.period, v_until)
      end
    ),
    'key jsonb, start timestamptz, due timestamptz, record jsonb'
  );
exception when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or numeric_value_out_of_range then
  if planned_by.key is null then
    raise;
  end if;
  raise exception '% is not a key of %', planned_by.key, rule.target
    using errcode = 'GR008', detail = sqlerrm || '.', hint = 'Give each value as the column''s type reads it.';
end
$$;

-- When the rule will act on something due then: at its first turn from now on that is not before it or, with final_by_due, its last one
-- before the buffer could not run out in time; and not before its notice has passed. Null where it has no schedule.
create or replace function grace_internal.acts_at(rule grace_internal.rule, due timestamptz, key jsonb)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_announced timestamptz;
  v_from timestamptz := greatest(
    case when isfinite(due) then due - grace_internal.ahead(rule) else '-infinity' end - interval '1 microsecond', v_now
  );
  v_turn timestamptz;
begin
  if not isfinite(v_from) then
    return null;
  end if;
  v_turn := grace_internal.next_turn(rule, v_from);
  if rule.final_by_due then
    v_turn := coalesce(
      grace_internal.last_scheduled(
        (select j.schedule from grace_internal.job j where j.rule_id = rule.id), v_from,
        greatest(v_now, due - rule.period - interval '1 microsecond') -- not before the period has begun
      ), v_turn
    );
  end if;
  if rule.notice is not null then
    v_announced := coalesce(
      (select n.announced_at from grace_internal.notice n where n.rule_id = rule.id and n.key = acts_at.key), v_now
    ) + rule.notice;
  end if;
  if v_announced > v_turn then
    v_turn := grace_internal.next_turn(rule, v_announced);
  end if;
  return v_turn;
end
$$;

create or replace function grace.planned(
  target regclass default null, key jsonb default null, within interval default '30 days', rule text default null
)
returns table (
  target_table regclass, record_key jsonb, by_rule text, action text, start timestamptz, due timestamptz, acts_at timestamptz,
  state text, reason text, record jsonb
)
language plpgsql stable
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
begin
  if key is not null and target is null and rule is null then
    raise exception 'a key needs a table' using errcode = 'GR008', detail = 'Which table it is the key of was not said.', hint = 'Give target.';
  end if;
  if rule is not null then
    v_rule := grace_internal.rule_named(rule);
    if grace_internal.rule_problem(v_rule) is not null then
      perform grace_internal.require_valid('rule', v_rule.name, v_rule.depends, v_rule.home);
    end if;
  end if;
  return query
    select distinct on (t.target, t.key)
      t.target, t.key, t.name, t.action, t.start, nullif(t.due, '-infinity'), t.acts_at, t.state, t.reason,
      case when pg_has_role(grace_internal.caller(), 'grace_operator', 'member') then t.record end
    from (
      select
        r.target, p.record_key as key, r.name, r.action, p.start, p.due, p.record, s.state, s.reason,
        case
          when s.state in ('planned', 'not announced') then grace_internal.acts_at(r, p.due, p.record_key)
          when isfinite(s.until) and r.enabled then grace_internal.next_turn(r, greatest(s.until, nullif(p.due, '-infinity') - grace_internal.ahead(r)))
        end as acts_at
      from grace_internal.rule r
      cross join lateral grace_internal.planned_by(r, planned.key, planned.within) p
      cross join lateral grace_internal.planned_state(r, p.record_key, p.due) s
      where coalesce(planned.target = r.target, true) and coalesce(planned.rule = r.name, true)
        and (planned.key is not null or r.action <> 'keep' or coalesce(p.due > statement_timestamp(), true))
        and grace_internal.rule_problem(r) is null
    ) as t
    order by t.target, t.key, t.action = 'keep', t.state not in ('planned', 'not announced'), t.due, t.acts_at, t.name;
end
$$;
comment on function grace.planned(regclass, jsonb, interval, text) is
'When which rule will act on which record, worked out from the rows as they are now: nothing is stored, so a new contact moves the date by itself. One row a record, that of the rule that acts first. within: how far ahead, null for all dates; key: one record, whatever its date. start: from when the period counts; due: when it ends, null for at once; acts_at: the turn at which the rule will act (of what another rule keeps, the first one after that), null where it has no schedule or nothing lets it act. A rule that keeps has its date in due. state: planned, not announced (it waits for its notice), exempt, held, kept, disabled, no start (the period has not begun); reason says why. record: for members of grace_operator. Rows that a rule''s role does not see are not planned by it. Errors: GR008, GR027, GR028.';

-- What stands between a planned deletion and its record.
create or replace function grace_internal.planned_state(
  rule grace_internal.rule, key jsonb, due timestamptz, out state text, out reason text, out until timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if rule.action = 'keep' then
    state := case
      when not rule.enabled then 'disabled' when due <= statement_timestamp() then 'kept until then' else 'kept'
    end;
    reason := rule.basis;
    return;
  elsif due is null then
    state := 'no start';
    return;
  end if;
  select 'exempt', e.reason, e.until into state, reason, until
  from grace_internal.exemption e
  where e.rule_id = rule.id and e.key = planned_state.key and e.dropped_at is null and coalesce(e.until > statement_timestamp(), true);
  if found then
    return;
  end if;
  if exists (select from grace_internal.active_hold) then
    select 'held', h.reason into state, reason
    from grace_internal.held_records(rule.target, grace_internal.key_rows(rule.target, jsonb_build_array(key))) h
    limit 1;
    if found then
      return;
    end if;
  end if;
  if exists (select from grace_internal.rule k where k.action = 'keep' and k.enabled) then
    select 'kept', k.reason, k.until into state, reason, until from grace_internal.kept_keys(rule, array[key]) k;
    if found then
      return;
    end if;
  end if;
  if not rule.enabled then
    state := 'disabled';
  elsif rule.notice is null then
    state := 'planned';
  else
    state := case
      when exists (select from grace_internal.notice n where n.rule_id = rule.id and n.key = planned_state.key) then 'planned'
      else 'not announced'
    end;
  end if;
end
$$;

-- rules/preview.sql
do $$
begin
  if to_regtype('grace.preview_result') is null then
    create type grace.preview_result as (
      target regclass, action text, condition text, run_as text, row_count bigint, token text, cost double precision, takes interval,
      would_be_held text, deletes bigint, exempt bigint, held bigint, kept bigint, not_announced bigint, sample jsonb, cascades jsonb, blocked jsonb
    );
    comment on type grace.preview_result is 'What a run now would do; grace.preview() says what each attribute is.';
  end if;
end
$$;

-- What would go along and what stands in the way, for rows that a FROM item names by their keys.
create or replace function grace_internal.preview_closure(
  target regclass, source text, max_blocked integer, out cascades jsonb, out blocked jsonb, out rows bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  select
    jsonb_agg(
      jsonb_build_object(
        'table', grace_internal.qualified_name(c.relation), 'rows', c.row_count, 'effect', c.effect, 'protected', c.is_protected,
        'at_least', c.at_least, 'reason', c.reason, 'through', c.through
      ) order by c.effect, c.row_count desc nulls last, c.relation::text
    ),
    sum(c.row_count)
  into cascades, rows
  from grace_internal.closure_counts(target, source) c
  where c.row_count > 0 or c.row_count is null or c.at_least;
  select jsonb_agg(jsonb_build_object('key', b.key, 'reason', b.reason)) into blocked
  from grace_internal.closure_blockers(target, source, max_blocked, together => true) b;
end
$$;

create or replace function grace._preview_keys(target regclass, keys jsonb, max_blocked integer)
returns table (cascades jsonb, blocked jsonb)
language sql
security definer -- a cascade needs no right on the tables that it reaches
set search_path = pg_catalog, pg_temp
as $$
  select c.cascades, c.blocked
  from grace_internal.preview_closure(target, grace_internal.key_rows(target, keys), max_blocked) c
$$;
comment on function grace._preview_keys(regclass, jsonb, integer) is 'Internal: what goes along with records and what stands in the way.';

-- How long it takes to delete so many rows, what goes along included: as fast as the last runs on the table, or 30 µs each where there
-- were none.
create or replace function grace_internal.estimated_duration(target regclass, rows bigint)
returns interval
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select make_interval(secs => rows * coalesce((
    select sum(extract(epoch from r.finished_at - r.started_at)) / nullif(sum(r.row_count), 0)
    from (
      select u.* from grace_internal.run u
      where u.kind = 'rule' and u.target = estimated_duration.target and u.row_count >= 1000
      order by u.id desc limit 5
    ) as r
  ), 0.00003)::double precision)
$$;

-- The keys of the rows that are due, but for those that are left out, as a FROM item.
create or replace function grace_internal.rows_but(rule grace_internal.rule, due text, left_out grace_internal.left_out [])
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
begin
  if cardinality(left_out) = 0 then
    return grace_internal.as_role(
      rule.run_as, 'read', format('select %s from %s where %s', v_query.keys, v_query.source, due), v_query.key_columns
    );
  end if;
  return format(
    '(select %s from %s where k.grace_key <> all (%L::jsonb[])) as k', v_query.key_list,
    grace_internal.as_role(
      rule.run_as, 'read', format('select %s, %s from %s where %s', v_query.keys, v_query.key_object, v_query.source, due),
      v_query.key_columns || ', grace_key jsonb'
    ),
    array(select l.key from unnest(left_out) l)
  );
end
$$;

create or replace function grace._preview_rule(rule text, sample integer, details boolean)
returns grace.preview_result
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_query grace_internal.rule_query;
  v_result grace.preview_result;
  v_horizon timestamptz;
  v_due text;
  v_plan jsonb;
  v_rows bigint;
  v_left_out grace_internal.left_out [];
begin
  perform grace_internal.require_valid('rule', v_rule.name, v_rule.depends, v_rule.home);
  v_query := grace_internal.rule_query(v_rule);
  v_result.target := v_rule.target;
  v_result.run_as := grace_internal.role_name(v_rule.run_as);
  perform set_config('timezone', v_rule.zone, true);
  v_horizon := grace_internal.horizon(v_rule, clock_timestamp());
  details := details and v_rule.action <> 'keep'; -- which has nothing to run
  v_due := case
    when v_rule.action = 'keep' then format('%s and coalesce(%s > now(), true)', v_query.condition, v_query.due)
    else grace_internal.is_due(v_query, v_horizon)
  end;
  v_result.action := v_rule.action;
  v_result.condition := v_due;
  select c.rows, c.token into v_result.row_count, v_result.token from grace_internal.count_due(v_rule, v_due, details) c;
  execute 'select k.plan from ' || grace_internal.as_role(
    v_rule.run_as, 'read', format('explain (format json) select 1 from %s where %s', v_query.source, v_due), 'plan json'
  ) into v_plan;
  v_result.cost := (v_plan #>> '{0,Plan,Total Cost}')::double precision;
  if sample > 0 then
    execute 'select jsonb_agg(k.record) from ' || grace_internal.as_role(
      v_rule.run_as, 'read',
      format(
        'select jsonb_build_object(''key'', %s, ''due'', %s, ''record'', %s) from %s where %s order by %s limit %s',
        v_query.key_object, case when v_rule.start_expression is null then 'null' else v_query.due end,
        v_query.record, v_query.source, v_due,
        case when v_rule.start_expression is null then v_query.keys else v_query.due end, greatest(sample, 0)
      ),
      'record jsonb'
    ) into v_result.sample;
  end if;
  if details then
    v_left_out := array(select l from grace_internal.left_out_of(v_rule, v_due) l);
    select
      v_result.row_count - count(*),
      count(*) filter (where l.state = 'exempt'), count(*) filter (where l.state = 'held'),
      count(*) filter (where l.state = 'kept'), count(*) filter (where l.state = 'not announced')
    into v_result.deletes, v_result.exempt, v_result.held, v_result.kept, v_result.not_announced
    from unnest(v_left_out) l;
    select c.cascades, c.blocked, c.rows into v_result.cascades, v_result.blocked, v_rows
    from grace_internal.preview_closure(v_rule.target, grace_internal.rows_but(v_rule, v_due, v_left_out), 100) c;
    select coalesce(jsonb_agg(jsonb_build_object('key', k.key, 'reason', k.reason)), '[]') || coalesce(v_result.blocked, '[]')
    into v_result.blocked
    from (
      select l.key, l.reason from unnest(v_left_out) l where l.state in ('kept', 'held') limit 100
    ) as k
    having count(*) > 0 or v_result.blocked is not null;
    v_result.takes := grace_internal.estimated_duration(v_rule.target, coalesce(v_rows, 0));
  end if;
  if v_rule.action <> 'keep' then
    v_result.would_be_held := (grace_internal.limit_passed(v_rule, coalesce(v_result.deletes, v_result.row_count))).reason;
  end if;
  return v_result;
end
$$;
comment on function grace._preview_rule(text, integer, boolean) is 'Internal: what a run of a rule would do.';

-- A filter with the rights of whoever calls.
create or replace function grace._preview_filter(filter text, sample integer, details boolean)
returns grace.preview_result
language plpgsql
set standard_conforming_strings = on
as $$
declare
  v_result grace.preview_result;
  v_parts record;
  v_plan json;
  v_keys jsonb;
begin
  select s.target, s.condition, s.statement, s.key_object, s.keys, s.record into v_parts from grace._filter_statement(filter) s;
  v_result.target := v_parts.target;
  v_result.action := 'delete';
  v_result.condition := v_parts.condition;
  v_result.run_as := pg_catalog.current_user();
  execute pg_catalog.format('select pg_catalog.count(*) %s', v_parts.statement) into v_result.row_count;
  execute pg_catalog.format('explain (format json) select 1 %s', v_parts.statement) into v_plan;
  v_result.cost := (v_plan operator(pg_catalog.#>>) '{0,Plan,Total Cost}')::pg_catalog.float8;
  execute pg_catalog.format(
    'select pg_catalog.jsonb_agg(s.record) from (select pg_catalog.jsonb_build_object(''key'', %s, ''record'', %s) as record %s '
    'order by %s limit %s) as s',
    v_parts.key_object, v_parts.record, v_parts.statement, v_parts.keys, greatest(sample, 0)
  ) into v_result.sample;
  if details and v_result.row_count operator(pg_catalog.<=) 100000 then
    execute pg_catalog.format('select pg_catalog.jsonb_agg(%s) %s', v_parts.key_object, v_parts.statement) into v_keys;
    select c.cascades, c.blocked into v_result.cascades, v_result.blocked from grace._preview_keys(v_parts.target, v_keys, 100) c;
  end if;
  return v_result;
end
$$;
comment on function grace._preview_filter(text, integer, boolean) is 'Internal: what deleting what a filter matches would do.';

create or replace function grace.preview(
  rule text default null, filter text default null, sample integer default 10, details boolean default true
)
returns grace.preview_result
language plpgsql
as $$
begin
  if (rule is null) operator(pg_catalog.=) (filter is null) then
    raise exception 'a preview is of one rule or one filter'
      using errcode = 'GR031', detail = 'Give one name.', hint = 'select * from grace.preview(rule => …);';
  end if;
  if rule is not null then
    return grace._preview_rule(rule, sample, details);
  end if;
  return grace._preview_filter(filter, sample, details);
end
$$;
comment on function grace.preview(text, text, integer, boolean) is
'What a run of a rule now would do, or what deleting all that a filter matches would: nothing is changed, and nothing but reading is allowed to functions. A rule is looked at as its role and up to its due date, a filter with the caller''s rights. action: delete, or keep of a rule that keeps, whose rows are those that it keeps now; row_count: how many rows; token: of a rule, to be given to grace.run, which then refuses another set; cost: PostgreSQL''s estimate for finding them; takes: how long a run would take, by the last ones; would_be_held: the limit that it would pass; deletes: how many of them a run would delete, if no foreign key or trigger keeps them; exempt, held, kept, not_announced: how many would be left out; sample: the first ones, each with key, due and record, which is what users know it by; cascades: per table how many rows go along (deleted) or lose a link (link cut); blocked: records that a hold, another rule or a foreign key keeps, with the reason, the first hundred of each. details => false leaves out all from token on but the sample and would_be_held, which then counts all that is due. Of a filter that matches over 100,000 rows cascades are not counted. Errors: GR027, GR028, GR031, 42501.';

-- rules/rules.sql
create or replace function grace._rule_problem(rule_id integer)
returns text
language sql stable
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.rule_problem(r) from grace_internal.rule r where r.id = rule_id
$$;
comment on function grace._rule_problem(integer) is 'Internal: why a rule can''t act.';

create or replace view grace.rules as
select
  r.name,
  f.name as filter,
  r.target,
  r.action,
  r.enabled,
  r.condition,
  r.start_expression as starts,
  case when r.start_expression is not null then r.period end as period,
  r.starts as given_starts,
  array(select jsonb_array_elements_text(r.activities)) as activities,
  r.predicate,
  r.related_to #>> '{}' as related_to,
  r.final_by_due,
  r.notice,
  j.schedule,
  r.run_as,
  r.max_rows,
  r.max_fraction,
  r.batch_size,
  r.pause,
  r.max_duration,
  r.four_eyes,
  r.basis,
  r.columns,
  r.zone,
  grace._rule_problem(r.id) as problem,
  l.run as last_run,
  l.status as last_status,
  l.started_at as last_start,
  l.row_count as last_rows,
  r.created_at,
  r.created_by,
  r.changed_at,
  r.changed_by,
  r.id
from grace_internal.rule r
left join grace_internal.filter f on f.id = r.filter_id
left join grace_internal.job j on j.rule_id = r.id
left join lateral (
  select
    u.id as run,
    u.status,
    u.started_at,
    u.row_count
  from grace_internal.run u
  where u.rule_id = r.id and u.kind = 'rule'
  order by u.id desc
  limit 1
) as l on true;

comment on view grace.rules is 'What happens to which records, and when.';
comment on column grace.rules.condition is 'Which rows, as PostgreSQL reads it: the filter''s condition and the rule''s own.';
comment on column grace.rules.starts is 'From when the period counts, as PostgreSQL reads it; null: due at once.';
comment on column grace.rules.given_starts is 'What the period starts with as it was given; beside it activities, the latest of which counts.';
comment on column grace.rules.predicate is 'The condition beside the filter''s as it was given.';
comment on column grace.rules.related_to is 'Only rows that belong to one of this table, as it was given.';
comment on column grace.rules.problem is
'Why the rule can''t act, and does not, until it is mended: what it refers to was renamed, dropped or retyped, its role is gone, or its table is not protected. Null: it can.';
comment on column grace.rules.zone is 'The time zone in which its dates begin and its months are counted.';

create or replace view grace.run_failures as
select
  f.run_id as run,
  r.details ->> 'rule' as rule,
  r.target,
  f.key,
  f.sqlstate,
  f.reason
from grace_internal.run_failure f
join grace_internal.run r on r.id = f.run_id;

comment on view grace.run_failures is
'Records that a run could not act on, by key, each with its reason; the first 10,000 of a run. They did not stop the others, and are taken up by the next run.';

-- look/metrics.sql
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

-- doctor/verify_buffer.sql
-- A capture writes its rows and its log row in one subtransaction, so that all of them carry the same xmin, which PostgreSQL
-- keeps as it is, frozen or not; so do a restore's run and what it notes in the log. A row that was written or changed by hand
-- has another one; one that was removed is missing in the count. It costs a capture nothing. What a dump has loaded, or a
-- change of type rewritten, has lost that mark: there only the counts tell.
create or replace function grace.verify_buffer(target regclass default null)
returns table (buffer_of regclass, deletion bigint, finding text, row_count bigint)
language plpgsql stable
security definer -- reads buffers and log; gives away counts only
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_only integer := case when target is not null then grace_internal.protected_id(target) end;
  v_protected grace_internal.protected;
  v_marked_after bigint;
  v_once_expired timestamptz;
begin
  for v_protected in
    select p.* from grace_internal.protected p where v_only is null or p.id = v_only order by p.id
  loop
    v_marked_after := case
      when grace_internal.has_moved(v_protected) then 9223372036854775807
      else v_protected.unmarked_to
    end;
    -- What a shorter retention had expired a purge may have begun to remove before the retention was raised.
    select max(r.started_at - make_interval(secs => extract(epoch from (r.details ->> 'before')::interval)::double precision))
    into v_once_expired
    from grace_internal.run r
    where r.kind = 'retention' and r.target = v_protected.target;
    return query execute format(
      $q$
        with logged as (
          select c.deletion, c.xmin::text as mark, min(c.deleted_at) as deleted_at, sum(c.row_count) as row_count
          from grace_internal.capture c
          where c.protected_id = %2$s and c.deleted_at > grace._expired_before(%2$s)
          group by c.deletion, c.xmin::text
        ),
        buffered as (
          select b.grace_deletion as deletion, b.xmin::text as mark, count(*) as row_count
          from grace_buffer.%1$I b
          where b.grace_deleted_at > grace._expired_before(%2$s)
          group by b.grace_deletion, b.xmin::text
        ),
        restored as (
          select r.deletion, sum(r.row_count) as row_count, sum(r.row_count) filter (
            where r.deletion > $2 and not exists (
              select from grace_internal.run u where u.id = r.run_id and u.kind = 'restore' and u.xmin = r.xmin
            )
          ) as by_hand
          from grace_internal.restored r
          where r.protected_id = %2$s and r.deleted_at > grace._expired_before(%2$s)
          group by r.deletion
        ),
        counted as (
          select
            l.deletion, l.row_count - coalesce(r.row_count, 0) as expected, coalesce(b.row_count, 0) as found,
            coalesce(l.deleted_at <= $3, false) as was_expired
          from (select l.deletion, min(l.deleted_at) as deleted_at, sum(l.row_count) as row_count from logged l group by 1) as l
          left join restored r on r.deletion = l.deletion
          left join (select b.deletion, sum(b.row_count) as row_count from buffered b group by 1) as b on b.deletion = l.deletion
        )
        select $1, b.deletion, 'written or changed by hand', sum(b.row_count - coalesce(l.row_count, 0))::bigint
        from buffered b
        left join logged l on l.deletion = b.deletion and l.mark = b.mark
        where b.row_count > coalesce(l.row_count, 0)
          and not exists (
            select from grace_internal.capture k
            where k.protected_id = %2$s and k.deletion = b.deletion and k.kept is not null
          )
          and (b.deletion > $2 or not exists (select from logged o where o.deletion = b.deletion))
        group by b.deletion
        union all
        select $1, c.deletion, case when c.expected > c.found then 'removed by hand' else 'added by hand' end,
          abs(c.expected - c.found)::bigint
        from counted c
        where c.expected < c.found or (c.expected > c.found and not c.was_expired)
        union all
        select $1, c.deletion, 'added to the log by hand', count(*)
        from grace_internal.capture c
        where c.protected_id = %2$s and c.row_count < 1
        group by c.deletion
        union all
        select $1, r.deletion, 'noted as restored by hand', r.by_hand::bigint
        from restored r
        where r.by_hand is not null
        union all
        select $1, r.deletion, 'removed from the log by hand', r.row_count::bigint
        from restored r
        where not exists (select from logged l where l.deletion = r.deletion)
        order by 2, 3
      $q$, v_protected.buffer, v_protected.id
    )
    using v_protected.target, v_marked_after, v_once_expired;
  end loop;
end
$$;
comment on function grace.verify_buffer(regclass) is
'Compares every row in the buffer of one table, or of all, with the log: what was added, changed or removed by hand. Reads all that is buffered. Rows that came by a dump, or were rewritten with a type, can be compared by their number only. Errors: GR001.';

-- doctor/finding.sql
do $$
begin
  if to_regtype('grace.finding') is null then
    create type grace.finding as (severity text, subject text, object text, finding text, hint text, fixable boolean);
    comment on type grace.finding is
    'What grace.doctor() has found: severity (problem or note), subject, the object concerned, what is wrong, what to do, and whether grace.sync() does it.';
  end if;
end
$$;

-- doctor/examine_rules.sql
-- An activity as its text reads now; no row where that can't be told, because another foreign key has been added since.
create or replace function grace_internal.activity_now(target regclass, activity text, path text)
returns table (source regclass, moment name, link name [])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select a.source, a.moment, a.link from grace_internal.read_activity(target, activity, path) a;
exception when sqlstate 'GR031' or undefined_table then
  return;
end
$$;

create or replace function grace_internal.examine_rules()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'problem', 'filter', f.name, p.problem, format('select * from grace.alter_filter(%L, …);', f.name), false
  from grace_internal.filter f
  cross join lateral (select grace_internal.problem_of(f.depends, f.home) as problem) as p
  where p.problem is not null
  union all
  select 'problem', 'rule', r.name, f.finding, f.hint, false
  from grace_internal.rule r
  cross join lateral (select grace_internal.rule_problem(r) as problem) as p
  left join grace_internal.run l on l.id = (
    select max(u.id) from grace_internal.run u where u.rule_id = r.id and u.kind = 'rule' and u.status <> 'running'
  )
  cross join lateral (
    values
      (p.problem is not null, 'it stands still: ' || p.problem, format('select grace.alter_rule(%L, …);', r.name)),
      (
        r.action = 'delete' and r.enabled and not has_table_privilege(r.run_as, r.target, 'DELETE'),
        format('role %s may not delete from %s', r.run_as, r.target), format('grant delete on %s to %s;', r.target, r.run_as)
      ),
      (
        l.status = 'held', format('its run %s waits for approval: %s', l.id, l.details ->> 'held_because'),
        format('Look: pg_grace rule preview %L; then: call grace.run(%L, approve => true);', r.name, r.name)
      ),
      (
        l.status = 'failed' and p.problem is null and l.started_at > r.changed_at,
        format('its last run, %s, failed: %s', l.id, coalesce(l.details ->> 'problem', l.details #>> '{stopped,reason}')),
        format('call grace.run(%L);', r.name)
      )
  ) as f (applies, finding, hint)
  where f.applies and r.enabled
  union all
  select
    'note', 'rule', r.name, format('its last run, %s, left over %s records that could not be deleted', l.id, l.details ->> 'failures'),
    format('select * from grace.run_failures where run = %s;', l.id), false
  from grace_internal.rule r
  join grace_internal.run l on l.id = (
    select max(u.id) from grace_internal.run u where u.rule_id = r.id and u.kind = 'rule' and u.status <> 'running'
  )
  where r.enabled and l.details ? 'failures'
  union all
  select
    'problem', 'rule', r.name,
    format('no index of %s begins with (%s), so the latest %s of a record is not found at once', a.source, k.names, a.moment),
    format('create index concurrently on %s (%s);', grace_internal.qualified_name(a.source), k.names), false
  from grace_internal.rule r
  cross join lateral jsonb_array_elements_text(r.activities) t (activity)
  cross join lateral grace_internal.activity_now(r.target, t.activity, r.path) a
  cross join lateral (
    select string_agg(quote_ident(n), ', ' order by o) as names from unnest(a.link || a.moment) with ordinality as u (n, o)
  ) as k
  where r.enabled and grace_internal.rule_problem(r) is null
    and (select sum(pg_relation_size(l.relation)) from grace_internal.partition_tree(a.source) as l (relation)) >= 65536
    and not exists (
      select
      from pg_index i
      cross join lateral (select grace_internal.column_names(a.source, i.indkey::smallint []) as names) as n
      where i.indrelid = a.source and i.indisvalid and i.indpred is null
        and n.names[:cardinality(a.link)] @> a.link and n.names[cardinality(a.link) + 1] = a.moment
    )
  union all
  select
    'note', 'rule', r.name,
    format('role %s may not lock rows of %s: a contact, or what must be kept, that is added in the very moment of the deletion goes with it', r.run_as, r.target),
    format('grant update on %s to %s;', r.target, r.run_as), false
  from grace_internal.rule r
  where r.enabled and r.action = 'delete' and not has_table_privilege(r.run_as, r.target, 'UPDATE')
    and (r.activities <> '[]' or exists (select from grace_internal.keeping_rules(r)))
$$;

-- Rules that keep nothing while they are disabled, and rules that run as a superuser.
create or replace function grace_internal.examine_neighbours()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'note', 'rule', r.name, format('it is disabled, so rules may delete what it would keep of %s', r.target),
    format('select grace.enable_rule(%L);', r.name), false
  from grace_internal.rule r
  where r.action = 'keep' and not r.enabled
  union all
  select
    'note', 'rule', r.name,
    format('it runs as %s, a superuser: triggers on what it deletes run with all rights, and row security does not apply', r.run_as),
    format('select grace.alter_rule(%L, ''{"run_as": "…"}'');', r.name), false
  from grace_internal.rule r
  join pg_roles o on o.oid = r.run_as and o.rolsuper
  where r.action = 'delete' and r.enabled
$$;

-- Rules that want to delete what other rules keep: the one that keeps wins.
create or replace function grace_internal.examine_overlaps()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case when r.target = k.target then 'problem' else 'note' end, 'rule', r.name,
    case
      when r.target = k.target then format('it would delete after %s what rule %L keeps for %s', r.period, k.name, k.period)
      else format('what it deletes takes rows of %s with it, which rule %L keeps for %s', k.target, k.name, k.period)
    end,
    'Rows stay as long as the rule that keeps says; where both mean the same records, mend one of them.', false
  from grace_internal.rule r
  cross join lateral grace_internal.keeping_rules(r) k
  where r.enabled and r.action = 'delete' and k.period > r.period
$$;

-- Columns whose names say that they hold personal data, in English, German, Dutch and French.
create or replace function grace_internal.personal_columns(relation oid)
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(l.attname order by l.attnum)
  from grace_internal.live_columns(personal_columns.relation) l
  where l.attname ~* concat(
    '(^|_)(',
    '(first|last|sur|given|family|middle|full|maiden)_?name|e_?mail|phone|mobile|fax|birth_?(day|date)|date_of_birth|street|passport|gender'
    '|salutation|iban|ssn|ip_?addr(ess)?',
    '|vorname|nachname|familienname|geburts(tag|datum|name)|telefon|handy|mobil(nummer)?|stra(ss|ß)e|anschrift|anrede|geschlecht|ausweis',
    '|voornaam|achternaam|tussenvoegsel|geboortedatum|telefoon|gsm|straat|adres|geslacht|bsn',
    '|pr[eé]nom|nom_de_famille|courriel|t[eé]l[eé]phone|portable|date_de_naissance|rue|adresse|sexe',
    ')(_|$)'
  )
$$;

create or replace function grace_internal.examine_personal_columns()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'note', 'personal data', grace_internal.qualified_name(c.oid),
    'it looks personal and no rule deletes it: ' || array_to_string(p.columns, ', '),
    'Say when it goes: select grace.add_rule(…);', false
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select grace_internal.personal_columns(c.oid) as columns) as p
  where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p' and p.columns is not null
    and n.nspname not in ('pg_catalog', 'information_schema', 'grace', 'grace_internal', 'grace_buffer', 'cron')
    and exists (select from grace_internal.rule)
    and c.oid not in (
      select t.relation
      from grace_internal.rule r
      cross join lateral grace_internal.cascade_tree(r.target, true) as t (relation)
      where r.action <> 'keep' and r.enabled
    )
$$;

-- doctor/doctor.sql
-- One function per kind of trouble, each a query over the catalog; grace.doctor() puts them together. A severity of "note" says
-- what is as it has to be here, and what that means.
-- Whether the only relations of a table without capture triggers are partitions from which rows are captured one by one.
create or replace function grace_internal.is_guarded(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = is_guarded.protected_id
      and not grace_internal.has_capture_triggers(t.relation, p.id)
      and not t.relation in (select grace_internal.guarded_leaves(p.id))
  )
$$;

create or replace function grace_internal.check_tables()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with protected as (
    select
      p.*, -- what it is called now: without event triggers nobody has noticed yet that it was renamed
      coalesce(grace_internal.qualified_name(p.target), p.target_name) as name,
      exists (select from pg_class c where c.oid = p.target) as is_there
    from grace_internal.protected p
    where p.active
  )
  select
    'problem', 'triggers', p.name,
    case
      when s.state = 'disabled' then 'a capture trigger is disabled or does not fire always: deletes are lost'
      when grace_internal.is_guarded(p.id) then
        'a new partition has no capture triggers yet: its deletes are captured row by row, TRUNCATE of it alone is not captured'
      else 'the table, or a partition of it, has no capture trigger: deletes are lost'
    end,
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral (select grace_internal.trigger_state(p.id) as state) s
  where s.state in ('disabled', 'missing')
  union all
  select
    'problem', 'files', p.name, 'the trigger that keeps large objects is missing or disabled: their content is lost',
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  where p.is_there
    and exists (select from grace_internal.file_columns(p.id, 'large object'))
    and exists (
      select
      from grace_internal.partition_tree(p.target) as t (relation)
      where not grace_internal.has_file_trigger(t.relation, p.id)
    )
  union all
  select
    'problem', 'links', grace_internal.qualified_name(u),
    format('the trigger that remembers links to %s is missing or disabled: what a deletion cuts can''t be tied again', p.name),
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral grace_internal.unlinked(p.id) u
  where p.is_there
  union all
  select
    'note', 'links', p.name, grace_internal.link_warning(p.id),
    'Restored rows come back without them. Where a primary key is missing: add one.', false
  from protected p
  where p.is_there and grace_internal.link_warning(p.id) is not null
  union all
  select
    'problem', 'columns', p.name, 'its columns have changed since its buffer was last brought up to date',
    'The next delete follows them. To do it now: pg_grace doctor --fix', true
  from protected p
  where p.is_there and grace_internal.columns_changed(p.id)
  union all
  select
    'problem', 'cascade', grace_internal.qualified_name(u),
    format('it has come to lose rows with %s, or to inherit from it: deletes from there fail with GR019', p.name),
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral grace_internal.uncovered_tables(p.id) u
  union all
  select
    'problem', 'cascade', grace_internal.qualified_name(u),
    format('deleting from %s cascades into it, and those rows are lost', p.name),
    format(
      'select * from grace.protect(%L); or, if that is meant so: select * from grace.protect(%L, cascade => false);',
      grace_internal.qualified_name(u), p.name
    ), false
  from protected p
  cross join lateral unnest(p.uncovered) u
  where p.follows_cascades
    and u in (select grace_internal.cascade_children(p.target))
    and not exists (select from protected o where o.target = u)
  union all
  select
    'note', 'dropped', p.target_name,
    'the table was dropped; what is buffered of it stays until it expires',
    format('Nothing to do. It can be read in %s.', format('grace_buffer.%I', p.buffer)), false
  from grace_internal.protected p
  where not exists (select from pg_class c where c.oid = p.target)
  union all
  select
    'note', 'row security', grace_internal.qualified_name(t.relation),
    'FORCE ROW LEVEL SECURITY hides rows from the owner of pg_grace: TRUNCATE is refused',
    format('Nothing to do, or: alter role %I bypassrls;', current_user), false
  from protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.is_there and row_security_active(t.relation)
  union all
  select
    'problem', 'rights', p.name,
    format(
      'role %I, which owns pg_grace, %s: new partitions can''t be covered', current_user,
      case when pg_has_role(c.relowner, 'usage') then 'may no longer create triggers on it' else 'is no member of its owner' end
    ),
    case
      when pg_has_role(c.relowner, 'usage') then format('As its owner: grant trigger on %s to %I;', p.name, current_user)
      when r.rolsuper then format('As superuser: alter table %s owner to %I;', p.name, current_user)
      else format('grant %I to %I;', r.rolname, current_user)
    end, false
  from protected p
  join pg_class c on c.oid = p.target
  join pg_roles r on r.oid = c.relowner
  where not pg_has_role(c.relowner, 'usage') or not has_table_privilege(p.target, 'TRIGGER')
$$;

-- A foreign key without an index on its columns makes PostgreSQL read the whole table for each deleted row.
create or replace function grace_internal.check_indexes()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'foreign key', grace_internal.qualified_name(c.conrelid),
    format(
      'no index begins with the columns of %I, so each row deleted from %s reads all of it', c.conname,
      grace_internal.qualified_name(p.target)
    ),
    format(
      'create index %s on %s (%s);',
      case r.relkind when 'r' then 'concurrently' end, -- PostgreSQL can't for a partitioned table
      grace_internal.qualified_name(c.conrelid),
      (select string_agg(quote_ident(n), ', ') from unnest(grace_internal.column_names(c.conrelid, c.conkey)) n)
    ), false
  from pg_constraint c
  join pg_class r on r.oid = c.conrelid
  join grace_internal.protected p on p.target = coalesce(pg_partition_root(c.confrelid), c.confrelid::regclass) and p.active
  where c.contype = 'f' and c.conparentid = 0
    and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and grace_internal.unindexed_size(c.oid) >= 65536 -- smaller ones are read in no time
$$;

create or replace function grace_internal.check_buffers()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
  v_rows boolean;
begin
  for v_stem in
    select coalesce(grace_internal.qualified_name(p.target), p.target_name) as name, s.stem, c.oid is not null as is_there
    from grace_internal.protected p
    cross join lateral grace_internal.stems(p.id) s
    left join pg_class c on c.oid = p.target
    where p.active
    order by p.id, s.stem
  loop
    if v_stem.is_there and exists (select from grace_internal.missing_partitions(v_stem.stem, 3)) then
      return next row(
        'problem', 'partitions', v_stem.name, 'the buffer lacks a partition for one of the next three days: no purge makes them',
        'See to the purge; deletes go to the default partition meanwhile. To make them now: pg_grace doctor --fix', true
      )::grace.finding;
    end if;
    if exists (
      select from pg_constraint k
      where k.conrelid = to_regclass(format('grace_internal.%I', v_stem.stem || '_default')) and k.conname ~ '^days_'
    ) then
      return next row(
        'problem', 'default partition', v_stem.name,
        'a purge was interrupted while it made a leaf of the default partition; its constraint could come to refuse deletes',
        'pg_grace doctor --fix, or let the next purge do it', true
      )::grace.finding;
      continue;
    end if;
    execute format('select exists (select from grace_internal.%I)', v_stem.stem || '_default') into v_rows;
    if v_rows then
      return next row(
        'problem', 'default partition', v_stem.name,
        'the default partition holds rows, because a day had no partition when they were deleted',
        'Nothing is lost, and they expire there. See that the purge runs every night.', false
      )::grace.finding;
    end if;
  end loop;
  return query
    select
      'problem', 'buffer', coalesce(grace_internal.qualified_name(p.target), p.target_name),
      'its buffer is gone: deletes from it fail, and what was buffered can only come from a backup',
      format('select grace.unprotect(%1$L, ''discard''); then: select * from grace.protect(%1$L);', p.target_name), false
    from grace_internal.protected p
    where p.active and to_regclass(format('grace_buffer.%I', p.buffer)) is null;
  return query
    select
      'problem', 'rights', grace_internal.qualified_name(a.relation),
      format('%s has %s on it', coalesce(r.rolname, 'PUBLIC'), string_agg(distinct a.privilege, ', ' order by a.privilege)),
      format(
        'revoke all on %s%s from %s;', case c.relkind when 'S' then 'sequence ' end,
        grace_internal.qualified_name(a.relation), coalesce(quote_ident(r.rolname), 'public')
      ), false
    from (
      select o.oid, x.grantee, x.privilege_type from pg_class o cross join lateral aclexplode(o.relacl) x
      union all
      select o.attrelid, x.grantee, x.privilege_type from pg_attribute o cross join lateral aclexplode(o.attacl) x
    ) as a (relation, grantee, privilege)
    join pg_class c on c.oid = a.relation
    left join pg_roles r on r.oid = a.grantee
    where (c.relnamespace = 'grace_buffer'::regnamespace or c.relnamespace = 'grace_internal'::regnamespace)
      and a.grantee <> c.relowner
      and not (
        r.rolname is not null and r.rolname = 'grace_operator'
        and (c.relkind = 'S' or (c.relnamespace = 'grace_buffer'::regnamespace and a.privilege = 'SELECT'))
      )
    group by a.relation, c.relkind, r.rolname;
end
$$;

create or replace function grace_internal.check_server()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'event triggers', null, 'the event triggers are missing or disabled: DDL is followed late, DROP TABLE is not refused',
    'pg_grace doctor --fix', true
  from pg_roles r
  where r.rolname = current_user and r.rolsuper and not grace_internal.has_event_triggers()
  union all
  select
    'note', 'event triggers', null,
    format('role %I, which owns pg_grace, is no superuser, so there are no event triggers', current_user),
    'After a new partition, inheritance or cascading foreign key run pg_grace sync; the nightly purge does so as well.', false
  from pg_roles r
  where r.rolname = current_user and not r.rolsuper
  union all
  select
    'problem', 'session_replication_role', coalesce(r.rolname, 'all roles') || coalesce(' in ' || d.datname, ''),
    'set to replica by default: foreign keys don''t cascade there, so children stay behind; deletes are captured all the same',
    format(
      'alter role %s reset session_replication_role;',
      concat(coalesce(quote_ident(r.rolname), 'all'), ' in database ' || quote_ident(d.datname))
    ), false
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
  where exists (select from unnest(s.setconfig) c where lower(c) = 'session_replication_role=replica')
    and (s.setdatabase = 0 or d.datname = current_database())
  union all
  select
    'problem', 'session_replication_role', 'server',
    'the configuration sets it to replica: foreign keys don''t cascade, so children stay behind; deletes are captured all the same',
    'Take it out of postgresql.conf (or: alter system reset session_replication_role;) and reload.', false
  from pg_settings s
  where s.name = 'session_replication_role' and s.reset_val = 'replica' and s.source in ('configuration file', 'command line')
  union all
  select
    'note', 'subscription', p.target_name,
    'a subscription writes to it: what is deleted on the publisher is not captured here, what TRUNCATE removes is',
    'Protect it on the publisher.', false
  from grace_internal.protected p
  where p.active and exists (
    select from pg_subscription_rel s join grace_internal.partition_tree(p.target) as t (relation) on t.relation = s.srrelid
  )
  union all
  select
    'problem', 'publication', b.pubname, 'it publishes the buffers, and a subscriber that has no such tables stops with an error',
    'Publish the application''s tables by name or by schema; FOR ALL TABLES takes in those of pg_grace.', false
  from pg_publication b
  where b.puballtables
    or exists (
      select from pg_publication_namespace n
      where n.pnpubid = b.oid and n.pnnspid in ('grace_buffer'::regnamespace, 'grace_internal'::regnamespace)
    )
$$;

-- Whether pg_cron's job for each of ours is there and works; asked of what was read in the database that pg_cron is in.
create or replace function grace._check_jobs(jobs jsonb)
returns setof grace.finding
language sql stable
security definer -- reads the jobs
set search_path = pg_catalog, pg_temp
as $$
  select 'problem', 'schedule', grace_internal.cron_name(j.name), f.finding, f.hint, f.fixable
  from grace_internal.job j
  left join jsonb_to_recordset(jobs) as c (
    job text, schedule text, command text, login text, active boolean, may_login boolean, last_start timestamptz, last_status text,
    last_message text, failures bigint
  ) on c.job = j.name
  cross join (select grace_internal.job_owner() as owner) as o
  cross join lateral (
    values
      (c.job is null, 'the pg_cron job is missing, or belongs to another database', 'pg_grace doctor --fix', true),
      (
        c.login <> o.owner, format('the job belongs to role %s, not to %I, who owns pg_grace', quote_ident(c.login), o.owner),
        'pg_grace doctor --fix', true
      ),
      (
        c.login = o.owner and not c.may_login, format('the job''s role %I may not log in, so pg_cron can''t run it', o.owner),
        format('alter role %I login; or install pg_grace as a role that may.', o.owner), false
      ),
      (
        not c.active, 'the pg_cron job is switched off',
        format('select cron.alter_job(jobid, active => true) from cron.job where jobname = %L;', grace_internal.cron_name(j.name)),
        false
      ),
      (
        c.schedule <> j.schedule, format('pg_cron runs it at "%s", which was set past pg_grace', c.schedule),
        format('pg_grace doctor --fix sets it to "%s"; or: pg_grace schedule %s "%s"', j.schedule, j.name, c.schedule), true
      ),
      (
        c.command <> grace_internal.job_command(j), format('pg_cron runs something else for it: %s', c.command),
        'pg_grace doctor --fix', true
      ),
      (
        c.last_status = 'failed' and (c.failures > 1 or not exists (
          select from grace_internal.run r
          where r.job = j.name and r.kind = j.name and r.status = 'done' and r.finished_at > c.last_start
        )),
        format(
          case when c.failures > 1 then 'it has failed %1$s times in a row, ' else '' end || 'the last run failed at %2$s: %3$s',
          c.failures, to_char(c.last_start, 'YYYY-MM-DD HH24:MI TZ'), c.last_message
        ),
        format('See the server''s log; run it by hand: call grace.%s()', j.name), false
      )
  ) as f (applies, finding, hint, fixable)
  where f.applies and grace_internal.is_active(j)
$$;
comment on function grace._check_jobs(jsonb) is 'Internal: what is wrong with pg_cron''s jobs, as they were read where pg_cron is.';

create or replace function grace_internal.check_schedule()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
  v_jobs jsonb;
  v_ran boolean;
begin
  return query
    select 'problem', 'purge', null,
      coalesce('the last purge that ended was at ' || to_char(max(r.finished_at), 'YYYY-MM-DD HH24:MI TZ'), 'no purge has ever run'),
      'Call it now: pg_grace purge. ' || coalesce(v_obstacle, 'Then see why the job does not run.'), false
    from grace_internal.run r
    where r.kind = 'purge' and r.status in ('done', 'incomplete', 'failed')
    having coalesce(max(r.finished_at), '-infinity') < clock_timestamp() - interval '2 days'
      and (select min(p.protected_at) from grace_internal.protected p) < clock_timestamp() - interval '2 days';
  return query
    select 'problem', 'purge', 'run ' || r.id,
      case r.status
        when 'failed' then 'the last purge failed in part'
        else 'purges have left something over for more than a day'
      end,
      'Its details say what was locked or failed: select details from grace.runs; the server''s log has the messages.', false
    from (
      select u.* from grace_internal.run u where u.kind = 'purge' and u.status <> 'running' order by u.id desc limit 1
    ) as r
    where r.status = 'failed' or (
      r.status = 'incomplete'
      and not exists (
        select from grace_internal.run d
        where d.kind = 'purge' and d.status = 'done' and d.finished_at > clock_timestamp() - interval '25 hours'
      )
      and exists (
        select from grace_internal.run d
        where d.kind = 'purge' and d.status = 'incomplete' and d.finished_at < clock_timestamp() - interval '23 hours'
      )
    );
  return query
    select 'problem', 'schedule', 'purge',
      format('it runs %s, so that what has expired stays for longer than a day', grace.schedule_in_words(j.schedule)),
      'Let it run every day: pg_grace schedule purge "0 0 * * *"', false
    from grace_internal.job j
    where j.name = 'purge' and grace_internal.is_rare(j.schedule);

  v_ran := exists (
    select from grace_internal.run r
    where r.kind = 'purge' and r.status <> 'aborted' and r.finished_at > clock_timestamp() - interval '2 days'
  );
  if v_obstacle is not null then
    if (select max(j.claimed_at) from grace_internal.job j) > clock_timestamp() - interval '2 days' then
      return; -- ticks do it
    end if;
    return next row(
      case when v_ran then 'note' else 'problem' end, 'schedule', null,
      case
        when coalesce(grace_internal.cron_database() not in ('', current_database()), false)
          then 'pg_cron works from another database, which can''t be seen from here'
        else 'pg_cron runs no job for this database'
      end,
      v_obstacle, false
    )::grace.finding;
    return;
  end if;
  execute format('select coalesce(jsonb_agg(to_jsonb(c)), ''[]'') from (%s) as c', grace_internal.cron_query()) into v_jobs;
  return query select * from grace._check_jobs(v_jobs);
  if pg_has_role('pg_read_all_stats', 'usage') and not exists (
    select from pg_stat_activity a where a.backend_type like 'pg_cron%' or a.application_name like 'pg_cron%'
  ) then
    return next row(
      'problem', 'schedule', 'pg_cron', 'pg_cron''s launcher does not run: no job runs on this server',
      'The server''s log says why it did not start (max_worker_processes?); on a standby that is as it has to be.', false
    )::grace.finding;
  end if;
end
$$;

-- Whether what a capacity allows is enough for the retention.
create or replace function grace_internal.check_capacity()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'capacity', p.target_name,
    format(
      'the buffer was over its capacity: what was deleted up to %s has expired early, after %s of %s',
      to_char(p.evicted_to, 'YYYY-MM-DD HH24:MI TZ'),
      to_char(extract(epoch from clock_timestamp() - p.evicted_to) / 86400, 'FM99990.0') || ' days', p.retention
    ),
    'Raise it or shorten the retention: select grace.set_capacity(…); select grace.set_retention(…);', false
  from grace_internal.protected p
  where p.evicted_to > clock_timestamp() - p.span
    and exists (
      select from grace_internal.run r
      where r.kind = 'capacity' and r.row_count > 0 and r.details ->> 'table' = p.target_name
        and r.started_at > clock_timestamp() - p.span
    )
  union all
  select
    'problem', 'capacity', p.target_name,
    format('what the buffer holds has %s and may have %s', pg_size_pretty(f.size), pg_size_pretty(p.capacity)),
    'The next purge lets its oldest days go early, the day in progress never. To keep the retention, raise the capacity.', false
  from grace_internal.protected p
  cross join lateral (select sum(l.size)::bigint as size from grace_internal.filled_leaves(array[p.id]) l) as f
  where p.capacity is not null and f.size > p.capacity
  union all
  select
    'problem', 'capacity', null,
    format('what the buffers hold has %s and may have %s', pg_size_pretty(f.size), pg_size_pretty(grace_internal.total_capacity())),
    'The next purge lets their oldest days go early, the day in progress never. To keep the retention, raise the capacity.', false
  from (
    select sum(l.size)::bigint as size
    from grace_internal.filled_leaves(
      array(select p.id from grace_internal.protected p where grace_internal.total_capacity() is not null)
    ) l
  ) as f
  where f.size > grace_internal.total_capacity()
$$;

-- Entries that were changed by hand.
create or replace function grace_internal.check_ledger()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'problem', 'ledger', 'entry ' || v.id, v.finding, 'Compare with a backup: select * from grace.verify_ledger();', false
  from grace.verify_ledger() v
$$;

-- Holds that don't find their record any more, and what they keep past its retention.
create or replace function grace_internal.check_holds()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_hold record;
  v_finding text;
begin
  for v_hold in
    select h.id, h.protected_id, h.key_values, h.key, h.is_live, p.target_name as name, grace_internal.hold_names(h.*) as names
    from grace_internal.active_hold h
    join grace_internal.protected p on p.id = h.protected_id
    order by h.id
  loop
    begin
      v_finding := case
        when v_hold.names is null then
          format('hold %s on %s can''t be matched with its rows any more: nothing can be deleted from it', v_hold.id, v_hold.key)
        when v_hold.is_live
          and grace_internal.find_live(v_hold.protected_id, v_hold.names, v_hold.key_values) is distinct from v_hold.key_values
        then format(
          'the record of hold %s, %s, is no longer in the table: its key was changed, its partition detached, or it went past pg_grace',
          v_hold.id, v_hold.key
        )
      end;
    exception when sqlstate 'GR010' then
      v_finding := format('whether the record of hold %s is still there can''t be looked up: %s', v_hold.id, sqlerrm);
    end;
    if v_finding is not null then
      return next row(
        'problem', 'hold', v_hold.name, v_finding,
        format('Hold the record as it is now: select grace.hold(…); then: select grace.release(%s, ''reason'');', v_hold.id), false
      )::grace.finding;
    end if;
  end loop;
  return query
    select
      'note', 'hold', p.target_name, format('holds keep %s rows of it in the buffer past their retention', sum(c.row_count)),
      'As it has to be. To see them: select grace.held_rows(id) from grace.holds where is_active;', false
    from grace_internal.capture c
    join grace_internal.protected p on p.id = c.protected_id
    where c.kept and c.deleted_at <= grace._expired_before(p.id)
    group by p.id;
end
$$;

create or replace function grace.doctor()
returns setof grace.finding
language sql stable
security definer -- reads the registry and other roles' jobs
set jit = off -- takes seconds to compile what takes milliseconds
set search_path = pg_catalog, pg_temp
as $$
  select f.*
  from (
    select * from grace_internal.check_tables()
    union all
    select * from grace_internal.check_buffers()
    union all
    select * from grace_internal.check_schedule()
    union all
    select * from grace_internal.check_capacity()
    union all
    select * from grace_internal.check_ledger()
    union all
    select * from grace_internal.examine_rules()
    union all
    select * from grace_internal.examine_overlaps()
    union all
    select * from grace_internal.examine_neighbours()
    union all
    select * from grace_internal.examine_personal_columns()
    union all
    select * from grace_internal.check_holds()
    union all
    select * from grace_internal.check_server()
    union all
    select * from grace_internal.check_indexes()
  ) as f
  order by f.severity desc, f.subject, f.object
$$;
comment on function grace.doctor() is
'Looks for what keeps pg_grace from doing its work, and says what to do: triggers disabled or missing, columns that have changed, tables that lose rows unprotected, foreign keys without an index, session_replication_role, pg_cron, partitions, rights, publications, holds that don''t find their record; filters and rules that no longer say what was meant, wait for approval, lack an index or contradict each other; columns that look personal and have no rule. Reads the catalog only, and what is held. grace.sync() does what is fixable. Notes are no problems. For rows changed by hand see grace.verify_buffer().';

-- capture/refresh.sql
-- What this version makes otherwise, for tables that are protected already: the generated functions, no statistics on columns of
-- the application's types, and triggers on tables whose links a deletion cuts, where the lock for them is free.
do $$
declare
  v_protected record;
  v_before text := current_setting('lock_timeout');
begin
  for v_protected in
    select p.id, c.oid is not null as is_there
    from grace_internal.protected p
    left join pg_class c on c.oid = p.target
  loop
    if v_protected.is_there then
      perform grace_internal.generate_capture(v_protected.id);
      perform set_config('lock_timeout', '10ms', true);
      perform grace_internal.follow_links(v_protected.id, repair => false);
      perform set_config('lock_timeout', v_before, true);
      perform grace_internal.generate_link(l.id, anew => true)
      from grace_internal.link l
      where l.protected_id = v_protected.id and l.active;
    end if;
    perform grace_internal.no_statistics(r.relation)
    from (
      select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = v_protected.id
      union all
      select format('grace_internal.%I', c.relname)
      from pg_class c
      where c.relnamespace = 'grace_internal'::regnamespace and c.relkind = 'r'
        and c.relname >= format('b%s_', v_protected.id) and c.relname < format('b%s`', v_protected.id)
    ) as r (relation);
  end loop;
end
$$;

-- privileges/privileges.sql
-- Rights in one place, last: nothing for PUBLIC, then each role what it needs. Per-table grants on buffers are given when
-- a table is protected.
revoke all on all tables in schema grace, grace_internal from public;
revoke all on all routines in schema grace, grace_internal from public;
-- PostgreSQL clones these triggers to partitions in the name of whoever makes the partition. Nobody can name them without USAGE on
-- the schema.
grant execute on function grace_internal.keep_files() to public;
grant execute on function grace_internal.capture_leaf() to public;
do $$ begin perform grace_internal.grant_links(); end $$;

grant usage on schema grace to grace_admin, grace_operator, grace_auditor;
grant usage on schema grace_buffer to grace_operator, grace_auditor;

grant select on grace.deletions, grace.protected, grace.runs, grace.expired, grace.ledger, grace.metrics, grace.holds
to grace_operator, grace_auditor;
grant select on grace.alembic_version to grace_operator, grace_auditor;
grant execute on function grace.doctor() to grace_operator, grace_auditor;
grant execute on function grace.verify_buffer(regclass) to grace_auditor;
grant execute on function grace.jobs() to grace_operator, grace_auditor;
grant execute on function grace._check_jobs(jsonb) to grace_operator, grace_auditor;
grant execute on function grace._cron_elsewhere() to grace_operator, grace_auditor;
grant execute on function grace.verify_ledger() to grace_auditor;
grant execute on function grace.capacity() to grace_operator, grace_auditor;
grant execute on function grace.expiring_early() to grace_operator, grace_auditor;
grant execute on function grace.schedule_times(text, integer, timestamptz, text) to grace_admin, grace_operator, grace_auditor;
grant execute on function grace.schedule_in_words(text) to grace_admin, grace_operator, grace_auditor;
grant execute on function grace._protected_state(integer) to grace_operator, grace_auditor;
grant execute on function grace._table_metrics() to grace_operator, grace_auditor;
grant execute on function grace._job_metrics() to grace_operator, grace_auditor;
grant execute on function grace._database_metrics() to grace_operator, grace_auditor;
grant execute on function grace._is_running(integer, timestamptz) to grace_operator, grace_auditor;
grant execute on function grace._expired_before(integer) to grace_operator, grace_auditor;
grant execute on function grace.table_named(text) to grace_operator, grace_auditor;
grant execute on function grace._tables_like(text) to grace_operator, grace_auditor;

grant usage on sequence grace_internal.progress to grace_operator;
grant execute on function grace.buffered(regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint, text, text, text)
to grace_operator;
grant execute on function grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name, text, text)
to grace_operator;
grant execute on function grace._check_predicate(text, text) to grace_operator;
grant execute on function grace.restore(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, text, jsonb, regclass, boolean, text, boolean, boolean, boolean,
  text, text
) to grace_operator;
grant execute on function grace._restore_select(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, text, text, text, boolean, boolean, boolean
) to grace_operator;
grant execute on function grace._restore_options(grace._restore_plan, text, jsonb, regclass, boolean, boolean) to grace_operator;
grant execute on function grace._filter_rows(grace._restore_plan) to grace_operator;
grant execute on function grace._pick_rows(grace._restore_plan, boolean) to grace_operator;
grant execute on function grace._add_related(grace._row_ref []) to grace_operator;
grant execute on function grace._add_parents(grace._restore_plan) to grace_operator;
grant execute on function grace._hold_deletions(grace._restore_plan, boolean) to grace_operator;
grant execute on function grace._buffer_links() to grace_operator;
grant execute on function grace._cut_links(integer, bigint []) to grace_operator;
grant execute on function grace._restore_plan(grace._restore_plan) to grace_operator;
grant execute on function grace._written_columns(grace._restore_plan) to grace_operator;
grant execute on function grace._check_values(grace._restore_plan) to grace_operator;
grant execute on function grace._find_older(grace._restore_plan) to grace_operator;
grant execute on function grace._check_overwriting(grace._restore_plan) to grace_operator;
grant execute on function grace._check_statement(grace._restore_plan, boolean, boolean) to grace_operator;
grant execute on function grace._find_overwritten(grace._restore_plan) to grace_operator;
grant execute on function grace._find_conflicts(grace._restore_plan, boolean) to grace_operator;
grant execute on function grace._cast_error(anyelement, text, boolean) to grace_operator;
grant execute on function grace._leave_out(grace._restore_plan, grace._conflict []) to grace_operator;
grant execute on function grace._conflicts_json(grace._conflict [], integer) to grace_operator;
grant execute on function grace._refuse_restore(grace._restore_plan, grace._conflict []) to grace_operator;
grant execute on function grace._check_snapshot(text, text) to grace_operator;
grant execute on function grace._restore_counts(grace._restore_plan) to grace_operator;
grant execute on function grace._restore_write(grace._restore_plan) to grace_operator;
grant execute on function grace._disable_triggers(regclass []) to grace_operator;
grant execute on function grace._keep_overwritten(grace._restore_plan) to grace_operator;
grant execute on function grace._file_conflict(integer, bigint, timestamptz, oid) to grace_operator;
grant execute on function grace._restore_progress() to grace_operator;
grant execute on function grace._restore_files(grace._restore_plan) to grace_operator;
grant execute on function grace._restore_done(grace._restore_plan, bigint [], bigint) to grace_operator;

grant execute on function grace.protect(regclass, interval, boolean, name [], interval, name []) to grace_admin;
grant execute on function grace.sync(regclass, interval) to grace_admin;
grant execute on function grace._sync_server() to grace_admin;
grant select on grace.file_outbox to grace_admin;
grant execute on function grace.claim_files(integer, interval) to grace_admin;
grant execute on function grace.file_deleted(bigint, text) to grace_admin;
grant execute on function grace.unprotect(regclass, text, interval) to grace_admin;
grant execute on function grace.set_retention(regclass, interval, boolean, boolean) to grace_admin;
grant execute on function grace.set_capacity(text, regclass, boolean) to grace_admin;
grant execute on function grace.hold(regclass, jsonb, text, text, timestamptz, interval) to grace_admin;
grant execute on function grace.release(bigint, text) to grace_admin;
grant execute on function grace.held_rows(bigint) to grace_admin;
grant execute on function grace.set_schedule(text, text) to grace_admin;
grant execute on function grace._tick_claim() to grace_admin;
grant execute on function grace._watch() to grace_admin;
grant execute on procedure grace.tick() to grace_admin;
grant execute on procedure grace.watch() to grace_admin;
grant execute on function grace._purge_begin(regclass) to grace_admin;
grant execute on function grace._purge_work(regclass) to grace_admin;
grant execute on function grace._purge_slice(bigint, grace._purge_item) to grace_admin;
grant execute on function grace._purge_end(bigint) to grace_admin;
grant execute on procedure grace.purge(regclass) to grace_admin;

grant select on grace.filters, grace.rules, grace.exemptions, grace.notices, grace.run_failures to grace_operator, grace_auditor;
grant execute on function grace._filter_problem(integer) to grace_operator, grace_auditor;
grant execute on function grace._rule_problem(integer) to grace_operator, grace_auditor;
grant execute on function grace.planned(regclass, jsonb, interval, text) to grace_operator, grace_auditor;
grant execute on function grace.exempt(text, jsonb, text, timestamptz) to grace_admin, grace_operator;
grant execute on function grace.end_exemption(bigint) to grace_admin, grace_operator;
grant execute on function grace._caller_path() to grace_admin;
grant execute on function grace._not_a_condition(text, text) to grace_operator, grace_admin;
grant execute on function grace._check_predicate(text, text) to grace_admin;
grant execute on function grace._check_target(regclass) to grace_admin;
grant execute on function grace.add_filter(text, regclass, text, name []) to grace_admin;
grant execute on function grace._add_filter(text, regclass, text, name [], text) to grace_admin;
grant execute on function grace._filter_matches(text) to grace_admin;
grant execute on function grace._filter_statement(text) to grace_admin;
grant execute on function grace.drop_filter(text) to grace_admin;
grant execute on function grace.add_rule(
  text, text, text, text, interval, text, name, bigint, numeric, regclass, text, text [], text, boolean, interval, name [], integer,
  interval, interval, boolean, text
) to grace_admin;
grant execute on function grace._save_rule(jsonb, text, text) to grace_admin;
grant execute on function grace._rule_texts(jsonb, text) to grace_admin;
grant execute on function grace.alter_rule(text, jsonb) to grace_admin;
grant execute on function grace._alter_rule(text, jsonb, text) to grace_admin;
grant execute on function grace.drop_rule(text) to grace_admin;
grant execute on function grace.enable_rule(text, boolean) to grace_admin;
grant execute on function grace.announce(text) to grace_admin;
grant execute on function grace._rule_of_job(text) to grace_admin;
grant execute on function grace._run_begin(text, boolean, bigint, text) to grace_admin;
grant execute on function grace._run_batch(bigint, jsonb) to grace_admin;
grant execute on function grace._run_end(bigint) to grace_admin;
grant execute on procedure grace.run(text, boolean, bigint, text) to grace_admin;
grant execute on function grace.preview(text, text, integer, boolean) to grace_admin;
grant execute on function grace._preview_rule(text, integer, boolean) to grace_admin;
grant execute on function grace._preview_filter(text, integer, boolean) to grace_admin;
grant execute on function grace._preview_keys(regclass, jsonb, integer) to grace_admin;
grant execute on function grace.alter_filter(text, text, name [], text) to grace_admin;
grant execute on function grace._alter_filter(text, text, name [], text, text) to grace_admin;
grant execute on function grace._filter_target(text) to grace_admin;

select grace_internal.ensure_jobs() as schedule;

commit;
