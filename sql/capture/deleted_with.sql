-- The tables (roots of their partition trees) that lose rows when rows are deleted from one: those that reference it by a
-- foreign key with ON DELETE CASCADE, and those that inherit from it.
create or replace function grace_internal.cascade_children(target oid)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct coalesce(pg_partition_root(c.conrelid), c.conrelid::regclass)
  from grace_internal.partition_tree(target) as t (relation)
  join pg_constraint c on c.confrelid = t.relation
  where c.contype = 'f' and c.confdeltype = 'c'
    and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and coalesce(pg_partition_root(c.conrelid), c.conrelid::regclass) <> target
$$;

create or replace function grace_internal.inheritors(target oid)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select i.inhrelid::regclass
  from pg_inherits i
  join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
  where i.inhparent = target
$$;

create or replace function grace_internal.in_inheritance_tree(target oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_inherits i
    join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
    where target in (i.inhparent, i.inhrelid)
  )
$$;
