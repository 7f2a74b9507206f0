-- Brings buffer, capture function and triggers up to date with a table. A trigger that somebody has disabled is only
-- enabled again with repair.
create or replace function grace_internal.follow_table(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.columns_differ(protected_id) then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  perform grace_internal.create_triggers(protected_id, repair);
end
$$;
