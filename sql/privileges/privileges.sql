-- Rights in one place, last: nothing for PUBLIC, then each role what it needs. Per-table grants on buffers are given when
-- a table is protected.
revoke all on all tables in schema grace, grace_internal from public;
revoke all on all routines in schema grace, grace_internal from public;

grant usage on schema grace to grace_admin, grace_operator, grace_auditor;
grant usage on schema grace_buffer to grace_operator;
grant grace_operator, grace_auditor to grace_admin;

grant select on grace.deletions, grace.protected, grace.runs, grace.expired to grace_operator, grace_auditor;
grant execute on function
  grace.jobs(), grace._protected_state(integer), grace._is_running(integer), grace._expired_before(integer)
to grace_operator, grace_auditor;
grant execute on function grace.table_named(text), grace._table_name(oid) to grace_operator, grace_auditor;

grant usage on sequence grace_internal.progress to grace_operator;
grant execute on function
  grace.buffered(regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint),
  grace.restore(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean),
  grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name),
  grace._restore_plan(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean),
  grace._refuse_restore(jsonb),
  grace._restore_progress(),
  grace._restore_done(grace._restore_plan, bigint [])
to grace_operator;

grant execute on function
  grace.protect(regclass, interval, boolean, name [], interval),
  grace.unprotect(regclass, text, interval),
  grace.set_retention(regclass, interval),
  grace._purge_begin(regclass),
  grace._purge_work(regclass),
  grace._purge_slice(bigint, grace._purge_item),
  grace._purge_end(bigint)
to grace_admin;
grant execute on procedure grace.purge(regclass) to grace_admin;
