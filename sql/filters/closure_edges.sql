-- The tables whose rows one DELETE on a table removes itself: the table and what inherits from it.
create or replace function grace_internal.closure_starts(target oid)
returns table (relation oid, root oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.relation, coalesce(pg_partition_root(t.relation), t.relation)
  from grace_internal.cascade_tree(target, false) as t (relation)
$$;

-- The foreign keys that reference any table that a DELETE reaches by ON DELETE CASCADE, as they were declared (not what PostgreSQL
-- makes of them for partitions). parent and child are roots of partition trees, referenced and referencing what the foreign key is
-- declared on; place is in which order PostgreSQL's triggers for them fire for a row; reason is why it can't be followed. A temporal
-- foreign key (PERIOD) can't cascade, and what it refuses is not foreseen.
create or replace function grace_internal.closure_edges(target oid)
returns table (
  id oid, name name, action text, parent oid, child oid, referenced oid, referencing oid,
  parent_names name [], child_names name [], place bigint, deferred boolean, reason text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive foreign_keys as materialized (
    select
      f.*,
      coalesce(pg_partition_root(f.confrelid), f.confrelid)::oid as parent,
      coalesce(pg_partition_root(f.conrelid), f.conrelid)::oid as child
    from pg_constraint f
    where f.contype = 'f' and f.conparentid = 0
      and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
      and not coalesce((to_jsonb(f) ->> 'conperiod')::boolean, false)
  ),
  nodes (relation) as (
    select s.root from grace_internal.closure_starts(target) s
    union
    select f.child
    from nodes n
    join foreign_keys f on f.parent = n.relation and f.confdeltype = 'c'
  ),
  readable as materialized (
    select c.conrelid as relation, grace_internal.unreadable_reason(c.conrelid) as reason
    from (
      select distinct f.conrelid from nodes n join foreign_keys f on f.parent = n.relation
    ) as c
  )
  select
    f.oid, f.conname, f.confdeltype::text, f.parent, f.child, f.confrelid, f.conrelid,
    grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey),
    row_number() over (partition by f.parent order by (
      select min(t.tgname::text collate "C")
      from pg_trigger t
      where t.tgconstraint = f.oid and t.tgrelid = f.confrelid and t.tgtype & 8 <> 0 -- DELETE
    ), f.oid),
    f.condeferred,
    coalesce('it is compared by ' || grace_internal.untrusted_foreign_key(f.oid), r.reason)
  from nodes n
  join foreign_keys f on f.parent = n.relation
  join readable r on r.relation = f.conrelid
$$;
