-- A table and, when it is partitioned, all its partitions on every level.
create or replace function grace_internal.partition_tree(root oid)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select root
  union
  select t.relid::oid from pg_partition_tree(root) t
$$;
