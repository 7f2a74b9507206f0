-- Columns of an index or constraint as they are named in the table, in the key's order. In PL/pgSQL, which keeps its plan.
create or replace function grace_internal.column_names(relation oid, attnums smallint [])
returns name []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(a.attname order by k.position)
    from unnest(attnums) with ordinality as k (attnum, position)
    join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
  );
end
$$;
