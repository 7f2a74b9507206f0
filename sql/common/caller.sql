-- Who is really calling: inside SECURITY DEFINER current_user is the owner, and in a cascaded trigger of
-- PostgreSQL 18 it is the child table's owner, so the role setting and the login are what counts.
create or replace function grace_internal.caller()
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('role'), 'none'), session_user)::name
$$;
