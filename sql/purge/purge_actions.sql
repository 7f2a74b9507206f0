-- TRUNCATE locks the leaf alone, so nobody who deletes from the table waits. How many rows go is taken from the log, which
-- is trimmed later: counting them would take longer than all the rest.
create or replace function grace_internal.empty_leaf(protected_id integer, leaf oid)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_bounds record;
  v_files_left boolean := false;
  v_rows bigint;
begin
  if pg_relation_size(leaf) = 0 then
    return 0;
  end if;
  v_rows := grace_internal.keep_held(protected_id, leaf);
  if v_rows is not null then
    return v_rows;
  end if;
  execute format('lock table %s in access exclusive mode', v_leaf); -- what is posted is what goes
  -- Asked again in the slice, and once nobody reads the leaf: the retention may have been raised since.
  select l.* into v_bounds from grace_internal.leaves(protected_id) l where l.leaf = empty_leaf.leaf and l.is_expired;
  if not found then
    return 0;
  end if;
  if v_bounds.holds_files then
    execute format('select exists (select from %s f where f.page = 0)', v_leaf) into v_files_left;
    if not v_files_left then
      execute format('truncate %s', v_leaf);
    end if;
    return 0;
  end if;
  perform grace_internal.post_files(protected_id, format('from %s b where true', v_leaf));
  execute format('truncate %s', v_leaf);
  return grace_internal.logged_rows(protected_id, v_bounds.lower_bound, v_bounds.upper_bound);
end
$$;

-- How many rows of a time are in the buffer, by the log.
create or replace function grace_internal.logged_rows(protected_id integer, since timestamptz, until timestamptz)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select sum(c.row_count)
    from grace_internal.capture c
    where c.protected_id = logged_rows.protected_id and c.deleted_at >= since and c.deleted_at < until
  ), 0)::bigint - coalesce((
    select sum(r.row_count)
    from grace_internal.restored r
    where r.protected_id = logged_rows.protected_id and r.deleted_at >= since and r.deleted_at < until
  ), 0)::bigint
$$;

-- The part of a leaf that has expired. What DELETE takes from a table stays in its file until something is written over it, so
-- where little is left, that is written anew and the old file goes; the rest goes with the leaf, at the latest when all of it has
-- expired. Captures wait for a leaf that is in use, so it may be very small only.
create or replace function grace_internal.clear_leaf(
  protected_id integer, leaf oid, max_rows integer, out row_count bigint, out more boolean
)
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
  v_before timestamptz := grace._expired_before(protected_id);
  v_bounds record;
  v_expired text := format('b.grace_deleted_at <= %L', v_before);
  v_kept text := 'grace_internal.kept';
  v_after timestamptz := v_before + interval '1 microsecond';
  v_others bigint;
  v_from tid := grace_internal.purged_up_to(leaf);
begin
  row_count := 0;
  more := false;
  select l.* into v_bounds from grace_internal.leaves(protected_id) l where l.leaf = clear_leaf.leaf and l.is_partly_expired;
  if not found then
    return;
  end if;
  if v_bounds.holds_files then
    v_expired := v_expired || ' and b.page <> 0'; -- the first page stands for an object that is yet to be unlinked
  end if;
  v_expired := v_expired || coalesce(' and not ' || grace_internal.held_in_leaf(protected_id, v_bounds.holds_files, 'b'), '');
  if v_from is not null then
    row_count := grace_internal.delete_expired(protected_id, leaf, format('%s and b.ctid > %L', v_expired, v_from), max_rows);
    more := row_count = max_rows;
    return;
  end if;
  execute format('select exists (select from %s b where %s)', v_leaf, v_expired) into more;
  if not more then
    return;
  end if;
  if pg_table_size(leaf) > (case when v_bounds.is_current then 2 else 16 end) * 1024 * 1024
    or (v_bounds.is_current and pg_relation_size(leaf) > 128 * 1024) -- many small rows take longer than their size says
    or (not v_bounds.holds_files and grace_internal.holds_unmarked_rows(protected_id, leaf))
  then
    if v_bounds.upper_bound is not null
      and grace_internal.logged_rows(protected_id, v_after, v_bounds.upper_bound) = 0
    then
      execute format('select count(*) filter (where %2$s), count(*) filter (where (%2$s) is not true) from %1$s b', v_leaf, v_expired)
      into row_count, v_others;
    end if;
    if v_others is distinct from 0 then -- something stays, or may
      row_count := grace_internal.delete_expired(protected_id, leaf, v_expired, max_rows);
      more := row_count = max_rows;
      return;
    end if;
    -- Once captures are locked out, the log says whether one has been quicker. Nobody is kept waiting for anything that takes time:
    -- PostgreSQL removes the file when the lock is released.
    execute format('lock table %s in access exclusive mode', v_leaf);
    if grace._expired_before(protected_id) < v_before then
      row_count := 0; -- the retention was raised meanwhile: once more
      return;
    end if;
    if grace_internal.logged_rows(protected_id, v_after, v_bounds.upper_bound) > 0 then
      row_count := 0;
      more := false;
      return;
    end if;
    if v_bounds.holds_files then
      row_count := 0;
    else
      perform grace_internal.post_files(protected_id, format('from %s b where true', v_leaf));
    end if;
    execute format('truncate %s', v_leaf);
    more := false;
    return;
  end if;

  execute format('lock table %s in access exclusive mode', v_leaf);
  if grace._expired_before(protected_id) < v_before then
    return; -- the retention was raised meanwhile: once more
  end if;
  execute format('create table %s (like %s including storage)', v_kept, v_leaf);
  execute format('insert into %s select * from %s b where (%s) is not true', v_kept, v_leaf, v_expired);
  get diagnostics v_others = row_count;
  if not v_bounds.holds_files then
    perform grace_internal.post_files(protected_id, format('from %s b where %s', v_leaf, v_expired));
  end if;
  execute format('select count(*) from %s b where %s', v_leaf, v_expired) into row_count;
  execute format('truncate %s', v_leaf);
  execute format('insert into %s select * from %s', v_leaf, v_kept);
  if v_others > 0 and not v_bounds.holds_files then
    -- Rows and their log row bear the mark of one transaction (grace.verify_buffer), so they get a new one together.
    execute format(
      'update grace_internal.capture c set row_count = c.row_count '
      'where c.protected_id = $1 and c.deletion in (select k.grace_deletion from %s k)', v_kept
    )
    using protected_id;
  end if;
  execute format('drop table %s', v_kept);
  more := false;
end
$$;

-- Whether a leaf holds rows that were written or changed by hand: to write them anew would cover that up. Where the log has no
-- statistics PostgreSQL believes that it is small enough to be read for every row.
create or replace function grace_internal.holds_unmarked_rows(protected_id integer, leaf oid)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
declare
  v_protected grace_internal.protected;
  v_result boolean;
begin
  select p.* into v_protected from grace_internal.protected p where p.id = protected_id;
  if grace_internal.has_moved(v_protected) then
    return false;
  end if;
  execute format(
    'select exists (select from %s b where b.grace_deletion > $1 and not exists (select from grace_internal.capture c '
    'where c.protected_id = $2 and c.deletion = b.grace_deletion and (c.xmin = b.xmin or c.kept is not null)))', grace_internal.qualified_name(leaf)
  )
  into v_result using v_protected.unmarked_to, protected_id;
  return v_result;
end
$$;

-- Up to where the slice before has deleted from a leaf, so that the next one need not read over it again. Kept by the session: what
-- it can do wrong is to leave rows to the next purge.
create or replace function grace_internal.purged_up_to(leaf oid)
returns tid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (regexp_match(current_setting('grace.purged_up_to', true), format('^%s ([(][0-9]+,[0-9]+[)])$', leaf)))[1]::tid
$$;

create or replace function grace_internal.delete_expired(protected_id integer, leaf oid, expired text, max_rows integer)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set synchronize_seqscans = off -- in the order of the file
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_tids tid [];
begin
  execute format(
    'select array_agg(e.ctid) from (select b.ctid from %s b where %s limit %s for update) e', v_leaf, expired, max_rows
  )
  into v_tids;
  perform set_config(
    'grace.purged_up_to',
    case when cardinality(v_tids) = max_rows then leaf || ' ' || (select max(t) from unnest(v_tids) t) else '' end, false
  );
  if v_leaf ~ '^grace_internal[.]b' then
    perform grace_internal.post_files(protected_id, format('from %s b where b.ctid = any (%L::tid[])', v_leaf, v_tids));
  end if;
  execute format('delete from %s b where b.ctid = any ($1)', v_leaf) using v_tids;
  return coalesce(cardinality(v_tids), 0);
end
$$;

create or replace function grace_internal.drop_expired_leaf(protected_id integer, leaf oid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.drop_leaf(s.parent, l.leaf)
  from grace_internal.leaves(protected_id) l
  join grace_internal.stems(protected_id) s on s.stem ^@ case when l.holds_files then 'f' else 'b' end
  where l.leaf = drop_expired_leaf.leaf and l.is_expired and pg_relation_size(l.leaf) = 0
$$;

-- Rows of the default partition to be settled, a leaf that is missing, or a column that nothing buffered has any more, or
-- triggers on partitions that lack them, one at a time; returns whether there is more to do. A buffer that is unprotected and empty goes.
create or replace function grace_internal.prepare_buffer(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_active boolean;
  v_target regclass;
begin
  select p.active, p.target into v_active, v_target
  from grace_internal.protected p
  where p.id = protected_id
  for update skip locked;
  if not found then
    return false;
  end if;
  if v_target is not null and not exists (select from pg_class c where c.oid = v_target) then
    perform grace_internal.forget_dropped();
    return false;
  end if;
  if not v_active then
    perform grace_internal.follow_links(protected_id, repair => false);
    if not exists (select from grace_internal.capture c where c.protected_id = prepare_buffer.protected_id)
      and not exists (select from grace_internal.active_hold h where h.protected_id = prepare_buffer.protected_id)
    then
      perform grace_internal.drop_buffer(protected_id);
    end if;
    return false;
  end if;

  if grace_internal.prepare_partitions(protected_id) or grace_internal.drop_former_column(protected_id) then
    return true;
  end if;
  perform grace_internal.follow_table(protected_id, repair => false);
  return false;
end
$$;

-- What had expired when the run began and so is out of the buffer by now.
create or replace function grace_internal.trim_log(protected_id integer, as_of timestamptz, max_rows integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz;
  v_kept bigint [];
  v_rows bigint;
begin
  select least(grace._expired_before(p.id), greatest(as_of - p.span, p.evicted_to)) into v_before
  from grace_internal.protected p
  where p.id = protected_id;
  v_kept := grace_internal.settle_kept(protected_id, v_before);
  delete from grace_internal.capture c
  where c.ctid = any (array(
    select e.ctid
    from grace_internal.capture e
    where e.protected_id = trim_log.protected_id
      and e.deleted_at <= v_before
      and e.deletion <> all (v_kept)
    limit max_rows
    for update skip locked
  ));
  get diagnostics v_rows = row_count;
  if v_rows = max_rows then
    return true;
  end if;
  delete from grace_internal.restored r
  where r.protected_id = trim_log.protected_id
    and r.deleted_at <= v_before;
  return grace_internal.trim_cuts(protected_id, v_before, max_rows);
end
$$;

-- A column that the table no longer has goes from the buffer when nothing is left that was captured with it.
create or replace function grace_internal.drop_former_column(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column name;
  v_buffer text := (select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = protected_id);
begin
  select c.buffer_column into v_column
  from grace_internal.protected_column c
  where c.protected_id = drop_former_column.protected_id
    and not exists (
      select from grace_internal.capture k
      where k.protected_id = c.protected_id and k.deleted_at <= c.ended_at
    )
    and c.ended_at < clock_timestamp()
  limit 1;
  if found then
    perform grace_internal.lock_buffer(v_buffer);
    execute format('lock table %s in access exclusive mode nowait', v_buffer); -- its leaves
    execute format('alter table %s drop column %I', v_buffer, v_column);
    delete from grace_internal.protected_column c
    where c.protected_id = drop_former_column.protected_id and c.buffer_column = v_column;
  end if;
  return v_column is not null;
end
$$;
