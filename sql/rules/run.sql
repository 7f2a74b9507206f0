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
