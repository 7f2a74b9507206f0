-- The type under a domain. Buffer columns have no domains: a constraint added to one later would be checked
-- against what was deleted long before, and would stop the application's ALTER DOMAIN.
create or replace function grace_internal.base_type(type_oid oid)
returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := type_oid;
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return v_type;
end
$$;
