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
