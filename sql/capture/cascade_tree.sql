-- A table, all that inherit from it, and, with foreign_keys, every table that deleting from these cascades into.
create or replace function grace_internal.cascade_tree(target regclass, foreign_keys boolean)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive tree (relation) as (
    select target
    union
    select n.relation
    from tree t
    cross join lateral (
      select * from grace_internal.inheritors(t.relation)
      union
      select * from grace_internal.cascade_children(t.relation) where foreign_keys
    ) as n (relation)
  )
  select t.relation from tree t
$$;
