-- Tables that lose rows when rows are deleted from a protected table, and whose rows would not be captured, or not whole.
-- Those that are known and accepted (registry column uncovered) are left out.
create or replace function grace_internal.uncovered_tables(protected_id integer)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select u.relation
  from grace_internal.protected p
  cross join lateral (
    select c, false from grace_internal.cascade_children(p.target) c where p.follows_cascades
    union all
    select i, true from grace_internal.inheritors(p.target) i
    union all
    select p.target, true where grace_internal.in_inheritance_tree(p.target)
  ) as u (relation, row_wise)
  where p.id = uncovered_tables.protected_id
    and not u.relation = any (p.uncovered)
    and not exists (
      select
      from grace_internal.protected o
      where o.target = u.relation and o.active
        and (not u.row_wise or (o.row_wise and grace_internal.has_capture_triggers(o.target, o.id)))
    )
$$;

-- The first of them as a name, else null, as of now: VOLATILE, so that it reads with a snapshot of its own and not with
-- that of the statement that deletes.
create or replace function grace_internal.uncovered_table(protected_id integer)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select min(grace_internal.qualified_name(u)) from grace_internal.uncovered_tables(uncovered_table.protected_id) u
  );
end
$$;
