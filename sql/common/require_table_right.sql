-- Changing how a table is protected takes the same right on it as protecting it.
create or replace function grace_internal.require_table_right(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pg_class c where c.oid = target)
    and not has_table_privilege(grace_internal.caller(), target, 'TRIGGER')
  then
    raise exception 'permission denied for table %', target
      using errcode = 'insufficient_privilege',
      detail = format('Role %s does not own the table and has no TRIGGER privilege on it.', grace_internal.caller()),
      hint = format('As its owner: grant trigger on %s to %I;', target, grace_internal.caller());
  end if;
end
$$;
