-- Which rows of a buffer's leaves (an alias) are held, or which pieces of files belong to one, as a condition; null where nothing is. All
-- are, where a hold's record can't be told from others any more. Read under grace_internal.key_settings().
create or replace function grace_internal.held_in_leaf(protected_id integer, holds_files boolean, alias text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows text := case when holds_files then 'r' else alias end;
  v_condition text;
begin
  select case
    when count(k.expression) = count(*) and count(*) > 0 then format(
      'exists (select from grace_internal.active_hold h where (%s))',
      string_agg(
        format('h.protected_id = %s and h.columns = %L::smallint[] and h.key_values = %s', k.protected_id, k.columns, k.expression), ' or '
      )
    )
    when count(*) > 0 then 'true'
  end
  into v_condition
  from (
    select a.protected_id, a.columns, grace_internal.buffered_key_text(p.id, a.here, v_rows) as expression
    from grace_internal.protected p
    cross join lateral (
      select distinct
        h.protected_id, h.columns,
        case
          when h.protected_id = p.id then h.columns
          else coalesce(grace_internal.numbers_of(p.target, grace_internal.hold_names(h.*)), '{-1}')
        end as here
      from grace_internal.active_hold h
      where h.protected_id = any (grace_internal.held_under(p.id))
    ) as a
    where p.id = held_in_leaf.protected_id
  ) as k;
  if holds_files and v_condition is not null then
    v_condition := (
      select format(
        'exists (select from grace_buffer.%1$I r where r.grace_deletion = %2$s.grace_deletion '
        'and r.grace_deleted_at = %2$s.grace_deleted_at and %2$s.loid = any (%3$s) and %4$s)',
        p.buffer, alias, grace_internal.file_values(p.id, 'large object', v_rows), v_condition
      )
      from grace_internal.protected p
      where p.id = held_in_leaf.protected_id and grace_internal.file_values(p.id, 'large object', v_rows) is not null
    );
  end if;
  return v_condition;
end
$$;

-- Of a leaf that has expired all goes but what is held; returns how many rows went, null when nothing of it is held. The leaf is read
-- before it is locked: nothing is written to it any more.
create or replace function grace_internal.keep_held(protected_id integer, leaf oid)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_bounds record;
  v_held text;
  v_kept text := 'grace_internal.kept';
  v_tids tid [];
  v_has_held boolean;
  v_others bigint;
  v_rows bigint;
begin
  select l.* into v_bounds from grace_internal.leaves(protected_id) l where l.leaf = keep_held.leaf and l.is_expired;
  v_held := grace_internal.held_in_leaf(protected_id, v_bounds.holds_files, 'b');
  if v_held is null then
    return null;
  end if;
  execute format(
    'select bool_or(b.held), array_agg(b.ctid) filter (where b.held or b.waits), count(*) filter (where not (b.held or b.waits)) '
    'from (select b.ctid, %s as held, %s as waits from %s b) b',
    v_held,
    case when v_bounds.holds_files then 'b.page = 0' else 'false' end, -- the first page stands for an object that is yet to be unlinked
    v_leaf
  )
  into v_has_held, v_tids, v_others;
  if v_has_held is not true then
    return null;
  end if;
  if v_others = 0 then
    return 0;
  end if;
  execute format('lock table %s in access exclusive mode', v_leaf);
  if not exists (select from grace_internal.leaves(protected_id) l where l.leaf = keep_held.leaf and l.is_expired) then
    return 0; -- the retention was raised meanwhile
  end if;
  execute format('create table %s (like %s including storage)', v_kept, v_leaf);
  execute format('insert into %s select * from %s b where b.ctid = any ($1)', v_kept, v_leaf) using v_tids;
  get diagnostics v_rows = row_count;
  if v_rows <> cardinality(v_tids) then
    execute format('drop table %s', v_kept); -- once more
    return 0;
  end if;
  if not v_bounds.holds_files then
    perform grace_internal.post_files(protected_id, format('from %s b where b.ctid <> all (%L::tid[])', v_leaf, v_tids));
  end if;
  execute format('truncate %s', v_leaf);
  execute format('insert into %s select * from %s', v_leaf, v_kept);
  execute format('drop table %s', v_kept);
  return case when v_bounds.holds_files then 0 else v_others end;
end
$$;

-- What is past its retention and still there when a purge has removed the rest is kept for a hold: then the log says so, and how much it
-- is. Returns these deletions. Looks only where there ever was a hold.
create or replace function grace_internal.settle_kept(protected_id integer, before timestamptz)
returns bigint []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion bigint;
  v_rows bigint;
  v_result bigint [] := array[]::bigint [];
begin
  if not exists (
    select from grace_internal.hold h where h.protected_id = any (grace_internal.held_under(settle_kept.protected_id))
  ) then
    return v_result;
  end if;
  for v_deletion, v_rows in execute format(
    'select b.grace_deletion, count(*) from grace_buffer.%I b where b.grace_deleted_at <= $1 group by 1',
    (select p.buffer from grace_internal.protected p where p.id = settle_kept.protected_id)
  ) using before
  loop
    v_result := v_result || v_deletion;
    if (
      select count(*) filter (where c.kept) = 1 and count(*) = 1 and min(c.row_count) = v_rows
      from grace_internal.capture c
      where c.protected_id = settle_kept.protected_id and c.deletion = v_deletion
    ) then
      continue;
    end if;
    delete from grace_internal.capture c
    where c.protected_id = settle_kept.protected_id and c.deletion = v_deletion and c.ctid > (
      select min(o.ctid)
      from grace_internal.capture o
      where o.protected_id = settle_kept.protected_id and o.deletion = v_deletion
    );
    update grace_internal.capture c
    set row_count = v_rows, kept = true
    where c.protected_id = settle_kept.protected_id and c.deletion = v_deletion;
  end loop;
  return v_result;
end
$$;
