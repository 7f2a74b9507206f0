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

-- What capturing takes on the side of pg_grace: only the owner of a table may make its triggers fire always.
create or replace function grace_internal.require_ownership(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner name := (
    select r.rolname
    from pg_class c
    join pg_roles r on r.oid = c.relowner
    where c.oid = target
  );
begin
  if not pg_has_role(v_owner, 'usage') then
    raise exception 'pg_grace has no rights on table %', target
      using errcode = 'insufficient_privilege',
      detail = format('Role %I, which owns pg_grace, is no member of %I, which owns the table.', current_user, v_owner),
      hint = format('grant %I to %I;', v_owner, current_user);
  end if;
end
$$;
