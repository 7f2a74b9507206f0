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
  v_links jsonb := (select coalesce(jsonb_agg(to_jsonb(l)), '[]') from grace._buffer_links() l);
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
        from jsonb_to_recordset(v_links) as l (
          child_id integer, child_buffer name, parent_id integer, parent_buffer name, condition text
        )
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
              cross join lateral (
                select k.*
                from grace_buffer.%1$I k
                where k.tableoid = n.leaf and k.ctid = n.tid and k.grace_deleted_at = n.deleted_at
                  and k.grace_deleted_at between $4 and $5
                offset 0 -- one row is expected of each then, and not hardly any of all, and the other buffer is hashed
              ) as %2$s
              join grace_buffer.%5$I %4$s
                on %4$s.grace_deletion = %2$s.grace_deletion and %4$s.grace_deleted_at = %2$s.grace_deleted_at
                and %6$s
              where coalesce(n.protected_id = %7$s, false) and %4$s.grace_deleted_at between $4 and $5
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
