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
