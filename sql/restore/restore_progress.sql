-- How many rows restores have inserted so far, those of open transactions included.
create or replace function grace._restore_progress()
returns bigint
language sql
security definer -- the sequence is granted to nobody for reading
set search_path = pg_catalog, pg_temp
as $$
  select last_value from grace_internal.progress
$$;
comment on function grace._restore_progress() is 'Internal: what a progress bar polls.';
