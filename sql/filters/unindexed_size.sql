-- How much PostgreSQL has to read for each row that is deleted from the referenced table, for want of an index that begins with the
-- foreign key's columns.
create or replace function grace_internal.unindexed_size(constraint_id oid)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(pg_relation_size(t.relation)), 0)::bigint
  from pg_constraint f
  cross join lateral grace_internal.partition_tree(f.conrelid) as t (relation)
  where f.oid = constraint_id
    and not grace_internal.has_index_on(t.relation, grace_internal.column_names(f.conrelid, f.conkey))
$$;
