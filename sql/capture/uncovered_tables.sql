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
    select i, true from grace_internal.cascade_tree(p.target, false) i where i <> p.target
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

-- Errors: GR019 when there is one. As of now: VOLATILE, so that it reads with a snapshot of its own and not with that of the
-- statement that deletes.
create or replace function grace_internal.require_covered(protected_id integer)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text := (
    select min(grace_internal.qualified_name(u)) from grace_internal.uncovered_tables(protected_id) u
  );
begin
  if v_uncovered is not null then
    raise exception 'rows deleted from % could not all be captured',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'GR019',
      detail = format('%s has come to lose rows with it, or to inherit from it, and is not captured with it.', v_uncovered),
      hint = 'Run pg_grace sync, or: select * from grace.sync();';
  end if;
end
$$;

-- The same for a partition tree, together with whether its leaves are all captured by statement. The plan of the capture function's
-- first statement depends on the relation deleted from only, so where there are no event triggers this is asked for every statement.
create or replace function grace_internal.tree_is_covered(protected_id integer)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.require_covered(protected_id);
  return not exists (select from grace_internal.guarded_leaves(protected_id));
end
$$;
