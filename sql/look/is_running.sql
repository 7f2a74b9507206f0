create or replace function grace._is_running(server_process integer)
returns boolean
language sql stable security definer -- other roles' sessions
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_stat_activity a where a.pid = server_process and a.datname = current_database()
  )
$$;
comment on function grace._is_running(integer) is 'Internal: whether a server process works in this database.';
