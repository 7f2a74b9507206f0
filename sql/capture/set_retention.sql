create or replace function grace.set_retention(target regclass, retention interval)
returns void
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_before interval;
begin
  perform grace_internal.check_retention(retention);
  perform grace_internal.require_table_right(target);
  select p.retention into v_before from grace_internal.protected p where p.id = v_id for update;
  update grace_internal.protected p set retention = set_retention.retention where p.id = v_id;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'retention', target, 'done', clock_timestamp(),
    jsonb_build_object('before', v_before, 'after', retention), grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.set_retention(regclass, interval) is
'Changes how long rows deleted from a protected table can be restored. Applies at once to what is in the buffer already: a shorter retention expires rows, a longer one gives those that are not yet purged more time. Errors: GR001, GR005, 42501.';
