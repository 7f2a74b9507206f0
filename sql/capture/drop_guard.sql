-- Where there are no event triggers (only a superuser can create them) a function that depends on the table's row type makes
-- DROP TABLE fail as long as it says no CASCADE; PostgreSQL's error shows the function's name, which says what to do.
create or replace function grace_internal.guard_against_drop(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type regtype := (
    select c.reltype::regtype
    from grace_internal.protected p
    join pg_class c on c.oid = p.target
    where p.id = protected_id and p.active
  );
  v_guarded boolean := exists (
    select from pg_proc f
    where f.proname = grace_internal.guard_name() and f.pronamespace = 'grace_internal'::regnamespace
      and f.proargtypes[0] = v_type
  );
begin
  if not v_guarded and not exists (select from pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
    execute format(
      'create function grace_internal.%I(%s) returns void language sql as ''''',
      grace_internal.guard_name(), grace_internal.qualified_type(v_type)
    );
    execute format(
      'revoke all on function grace_internal.%I(%s) from public',
      grace_internal.guard_name(), grace_internal.qualified_type(v_type)
    );
  end if;
end
$$;

create or replace function grace_internal.guard_name()
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'protected by pg_grace: first select grace.unprotect(…)'::name
$$;

create or replace function grace_internal.qualified_type(type_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, t.typname)
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
  where t.oid = type_oid
$$;

create or replace function grace_internal.drop_guard(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.oid
    from pg_proc f
    join grace_internal.protected p on p.id = protected_id
    join pg_class c on c.oid = p.target and c.reltype = f.proargtypes[0]
    where f.proname = grace_internal.guard_name() and f.pronamespace = 'grace_internal'::regnamespace
  loop
    execute format('drop function %s', v_function);
  end loop;
end
$$;
