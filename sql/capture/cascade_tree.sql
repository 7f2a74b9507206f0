-- A table and every table that deleting from it cascades into, as roots of their partition trees.
create or replace function grace_internal.cascade_tree(target regclass)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive tree (relation) as (
    select target::oid
    union
    select coalesce(pg_partition_root(c.conrelid)::oid, c.conrelid)
    from tree t
    join pg_constraint c
      on coalesce(pg_partition_root(c.confrelid)::oid, c.confrelid) = t.relation
    where c.contype = 'f' and c.confdeltype = 'c'
      and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
  )
  select t.relation::regclass from tree t
$$;
