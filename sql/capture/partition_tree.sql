-- A table and, when it is partitioned, all its partitions on every level. Not by pg_partition_tree(), which locks each of them: a
-- delete straight from one would wait for a change that has locked another, and the other way round.
create or replace function grace_internal.partition_tree(root oid)
returns setof oid
language plpgsql stable -- whose plan is kept
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  with recursive tree (relation) as (
    select root
    union all
    select i.inhrelid
    from tree t
    join pg_inherits i on i.inhparent = t.relation
    join pg_class c on c.oid = i.inhrelid and c.relispartition
  )
  select t.relation from tree t;
end
$$;
