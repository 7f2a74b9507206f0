-- Foreign keys whose referencing table PostgreSQL reads as a whole for each row that goes when rows of target are deleted, because no
-- index begins with their columns; but for tables that are read in no time. The same that doctor says of protected tables, for all that
-- the cascade reaches.
create or replace function grace_internal.unindexed_cascades(target regclass)
returns table (relation regclass, constraint_name name, columns name [])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select e.referencing::regclass, e.name, e.child_names
  from grace_internal.closure_edges(target) e
  where grace_internal.unindexed_size(e.id) >= 65536
  order by e.referencing::regclass::text, e.name
$$;
