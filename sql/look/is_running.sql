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
