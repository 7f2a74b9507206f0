-- Adds to the picked rows what went with them in the same deletion: everything that hangs on them through foreign
-- keys, and then every row that these need above them. The siblings of a picked row are left alone. Runs with the caller's
-- rights, for comparing keys can run casts and operators of the application's.
create or replace function grace._add_related(picks grace._row_ref [])
returns grace._row_ref []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_all grace._row_ref [] := picks;
  v_new grace._row_ref [];
  v_found grace._row_ref [];
  v_link record;
  v_direction text;
  v_first timestamptz;
  v_last timestamptz;
begin
  select min(n.deleted_at), max(n.deleted_at) into v_first, v_last from unnest(picks) n;
  foreach v_direction in array array ['down', 'up'] loop
    v_new := v_all;
    while cardinality(v_new) > 0 loop
      v_found := '{}';
      for v_link in
        select
          l.condition,
          d.known, d.known_id, d.known_buffer,
          d.sought, d.sought_id, d.sought_buffer
        from grace._buffer_links() l
        cross join lateral (
          select 'p', l.parent_id, l.parent_buffer, 'c', l.child_id, l.child_buffer where v_direction = 'down'
          union all
          select 'c', l.child_id, l.child_buffer, 'p', l.parent_id, l.parent_buffer where v_direction = 'up'
        ) as d (known, known_id, known_buffer, sought, sought_id, sought_buffer)
        where exists (select from unnest(v_new) n where n.protected_id = d.known_id)
      loop
        execute format(
          $q$
            select $2 || coalesce(array_agg(row(f.*)::grace._row_ref), '{}')
            from (
              select %3$s, %4$s.grace_deleted_at, %4$s.tableoid, %4$s.ctid
              from unnest($1) n
              join grace_buffer.%1$I %2$s
                on %2$s.tableoid = n.leaf and %2$s.ctid = n.tid and %2$s.grace_deleted_at = n.deleted_at
              join grace_buffer.%5$I %4$s
                on %4$s.grace_deletion = %2$s.grace_deletion and %4$s.grace_deleted_at = %2$s.grace_deleted_at
                and %6$s
              where n.protected_id = %7$s and %4$s.grace_deleted_at between $4 and $5
                and %4$s.grace_deleted_at > (select grace._expired_before(%3$s))
              except
              select a.* from unnest($3 || $2) a
            ) as f
          $q$,
          v_link.known_buffer, v_link.known, v_link.sought_id, v_link.sought, v_link.sought_buffer,
          v_link.condition, v_link.known_id
        )
        into v_found using v_new, v_found, v_all, v_first, v_last;
      end loop;
      v_all := v_all || v_found;
      v_new := v_found;
    end loop;
  end loop;
  return v_all;
end
$$;
comment on function grace._add_related(grace._row_ref []) is
'Internal: adds to the picked rows what went with them and hangs on them.';

-- Runs the query of a restore for its rows. Errors: GR007 for keys that are not in the buffer, GR008 for a value of the wrong
-- type.
create or replace function grace._pick_rows(plan grace._restore_plan, related boolean)
returns grace._row_ref []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_picks grace._row_ref [];
  v_missing text;
begin
  begin
    execute plan.statement into v_picks, v_missing;
  exception when data_exception then
    raise exception 'not a key of %', plan.target
      using errcode = 'GR008',
      detail = format('A value does not fit its column: %s', sqlerrm),
      hint = 'Give each value as the column''s type reads it.';
  end;
  if v_missing is not null or v_picks is null then
    raise exception 'not in the buffer: %', coalesce(v_missing, 'any such row')
      using errcode = 'GR007',
      detail = 'No such row can be restored: it was not deleted, not as selected, is restored already, or has expired.',
      hint = format('Look at what there is: select * from grace.buffered(%L);', plan.target);
  end if;
  if related then
    v_picks := grace._add_related(v_picks);
  end if;
  return v_picks;
end
$$;
comment on function grace._pick_rows(grace._restore_plan, boolean) is
'Internal: where the rows stand that a restore selects.';
