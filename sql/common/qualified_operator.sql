-- operator(schema.=), to be used in generated statements that run under somebody else's search_path.
create or replace function grace_internal.qualified_operator(operator_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('operator(%I.%s)', n.nspname, o.oprname)
  from pg_operator o
  join pg_namespace n on n.oid = o.oprnamespace
  where o.oid = operator_oid
$$;
