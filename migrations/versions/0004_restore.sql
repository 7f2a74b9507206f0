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
