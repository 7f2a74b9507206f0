-- Adds to what is selected the rows that it needs above it and that went in another deletion, each in its newest version, as far as they
-- are not there now; then those that these need. Runs with the caller's rights, as add_related does.
create or replace function grace._add_parents(plan grace._restore_plan)
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_nestloop = on -- until it ends: it changes meanwhile
as $$
declare
  v_new grace._row_ref [] := plan.picks;
  v_orphans grace._row_ref [];
  v_found grace._row_ref [];
  v_link record;
begin
  while cardinality(v_new) > 0 loop
    v_found := '{}';
    for v_link in
      select l.*
      from grace._buffer_links() l
      where exists (select from unnest(v_new) n where n.protected_id = l.child_id)
    loop
      perform set_config('enable_nestloop', 'on', true);
      execute format(
        $q$
          select array_agg(row(n.*)::grace._row_ref)
          from unnest($1) n
          cross join lateral (
            select k.*
            from grace_buffer.%1$I k
            where k.tableoid = n.leaf and k.ctid = n.tid and k.grace_deleted_at = n.deleted_at
            offset 0
          ) as c
          where coalesce(n.protected_id = %2$s, false) and not exists (select from %3$s)
        $q$,
        v_link.child_buffer, v_link.child_id, v_link.live_match
      )
      into v_orphans using v_new;
      continue when v_orphans is null;

      -- A buffer has no index, so that it is read once at best, and once for each row in a nested loop.
      perform set_config('enable_nestloop', 'off', true);
      execute format(
        $q$
          select $2 || coalesce(array_agg(f.ref), '{}')
          from (
            select distinct on (%1$s) row(%2$s, p.grace_deleted_at, p.tableoid, p.ctid)::grace._row_ref as ref
            from unnest($1) n
            cross join lateral (
              select k.*
              from grace_buffer.%3$I k
              where k.tableoid = n.leaf and k.ctid = n.tid and k.grace_deleted_at = n.deleted_at
              offset 0
            ) as c
            join grace_buffer.%4$I p on %5$s
            where p.grace_deleted_at > (select grace._expired_before(%2$s))
              and not exists (
                select
                from unnest($3 || $2) a
                cross join lateral (
                  select k.*
                  from grace_buffer.%4$I k
                  where k.tableoid = a.leaf and k.ctid = a.tid and k.grace_deleted_at = a.deleted_at
                  offset 0
                ) as p
                where coalesce(a.protected_id = %2$s, false) and %5$s
              )
            order by %1$s, p.grace_deleted_at desc, p.grace_deletion desc, p.ctid desc
          ) f
        $q$,
        v_link.parent_key, v_link.parent_id, v_link.child_buffer, v_link.parent_buffer, v_link.condition
      )
      into v_found using v_orphans, v_found, plan.picks;
    end loop;
    plan.picks := plan.picks || v_found;
    v_new := v_found;
  end loop;
  return plan;
end
$$;
comment on function grace._add_parents(grace._restore_plan) is
'Internal: adds the parents that went in another deletion.';

-- The deletions that picked rows come from, held against other restores. The rows themselves say which deletion they belong to.
create or replace function grace._hold_deletions(plan grace._restore_plan, lock boolean)
returns grace._restore_plan
language plpgsql
security definer -- the log is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_buffer record;
  v_deletions bigint [];
begin
  for v_buffer in
    select p.id, p.buffer
    from grace_internal.protected p
    where exists (select from unnest(plan.picks) n where n.protected_id = p.id)
  loop
    execute format(
      'select array_agg(distinct b.grace_deletion) from unnest($1) n join grace_buffer.%I b '
      'on b.tableoid = n.leaf and b.ctid = n.tid and b.grace_deleted_at = n.deleted_at '
      'where n.protected_id = %s and b.grace_deletion <> all ($2)', v_buffer.buffer, v_buffer.id
    ) into v_deletions using plan.picks, plan.deletions;
    plan.deletions := plan.deletions || coalesce(v_deletions, '{}');
  end loop;
  if lock then
    perform grace_internal.lock_deletions(plan.deletions);
  end if;
  return plan;
end
$$;
comment on function grace._hold_deletions(grace._restore_plan, boolean) is
'Internal: the deletions of picked rows, locked.';
