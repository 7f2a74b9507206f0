-- Who deletes: the caller, or the role that a rule runs as, which the session's role does not say. It is signed, as any user can write a
-- setting.
create or replace function grace_internal.deleting_role()
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting text := current_setting('grace.acting_as', true);
begin
  return case
    when right(v_setting, 32) = grace_internal.signature('as ' || left(v_setting, -33)) then left(v_setting, -33)::name
    else grace_internal.caller()
  end;
end
$$;
