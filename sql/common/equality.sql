-- The operator by which a unique index tells its nth column's values apart.
create or replace function grace_internal.equality(index_relation oid, column_number integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.qualified_operator(o.amopopr)
  from pg_index i
  join pg_opclass c on c.oid = i.indclass[column_number - 1]
  join pg_amop o
    on o.amopfamily = c.opcfamily
    and o.amoplefttype = c.opcintype
    and o.amoprighttype = c.opcintype
    and o.amopstrategy = 3
  where i.indexrelid = index_relation
$$;
