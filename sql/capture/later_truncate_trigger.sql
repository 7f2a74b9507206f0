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
