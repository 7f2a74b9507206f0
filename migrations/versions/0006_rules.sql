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
