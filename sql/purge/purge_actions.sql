-- Is a leaf, and all of it, past the retention? Asked again in the slice: the retention may have been raised since.
create or replace function grace_internal.leaf_is_expired(protected_id integer, leaf oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(l.upper_bound <= grace._expired_before(protected_id)), false)
  from grace_internal.leaves(protected_id) l
  where l.leaf = leaf_is_expired.leaf
$$;

-- TRUNCATE locks the leaf alone, so nobody who deletes from the table waits. How many rows go is taken from the log, which
-- is trimmed later: counting them would take longer than all the rest.
create or replace function grace_internal.empty_leaf(protected_id integer, leaf oid)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint := 0;
  v_leaf text := grace_internal.qualified_name(leaf);
  v_files_left boolean := false;
  v_holds_files boolean := (
    select l.holds_files from grace_internal.leaves(protected_id) l where l.leaf = empty_leaf.leaf
  );
begin
  if grace_internal.leaf_is_expired(protected_id, leaf) and pg_relation_size(leaf) > 0 then
    if v_holds_files then
      execute format('select exists (select from %s f where f.page = 0)', v_leaf) into v_files_left;
      if not v_files_left then
        execute format('truncate %s', v_leaf);
      end if;
      return 0;
    end if;
    execute format('lock table %s in access exclusive mode', v_leaf); -- what is posted is what goes
    perform grace_internal.post_files(protected_id, format('from %s b where true', v_leaf));
    execute format('truncate %s', v_leaf);
    select
      coalesce((
        select sum(c.row_count)
        from grace_internal.capture c
        where c.protected_id = empty_leaf.protected_id
          and c.deleted_at >= l.lower_bound and c.deleted_at < l.upper_bound
      ), 0) - coalesce((
        select sum(r.row_count)
        from grace_internal.restored r
        where r.protected_id = empty_leaf.protected_id
          and r.deleted_at >= l.lower_bound and r.deleted_at < l.upper_bound
      ), 0)
    into v_rows
    from grace_internal.leaves(protected_id) l
    where l.leaf = empty_leaf.leaf;
  end if;
  return v_rows;
end
$$;

-- Locks the whole buffer for the moment that dropping takes; does so only with an empty leaf.
create or replace function grace_internal.drop_leaf(protected_id integer, leaf oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.leaf_is_expired(protected_id, leaf) and pg_relation_size(leaf) = 0 then
    perform set_config('grace.following', grace_internal.signature('following'), true);
    execute format('drop table %s', grace_internal.qualified_name(leaf));
    perform set_config('grace.following', '', true);
  end if;
end
$$;

-- For the default partition, which is never dropped, and for the day in which the retention ends now.
create or replace function grace_internal.delete_expired(protected_id integer, leaf oid, max_rows integer)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_leaf text := grace_internal.qualified_name(leaf);
  v_before timestamptz := grace._expired_before(protected_id);
  v_tids tid [];
begin
  execute format(
    'select array_agg(e.ctid) from (select e.ctid from %s e where e.grace_deleted_at <= $1%s limit $2 for update) e',
    v_leaf,
    case when v_leaf ~ '^grace_internal\.f' then ' and e.page > 0' else '' end
  )
  into v_tids using v_before, max_rows;
  if v_tids is null then
    return 0;
  end if;
  if v_leaf ~ '^grace_internal\.b' then
    perform grace_internal.post_files(protected_id, format('from %s b where b.ctid = any (%L::tid[])', v_leaf, v_tids));
  end if;
  execute format('delete from %s b where b.ctid = any ($1)', v_leaf) using v_tids;
  return cardinality(v_tids);
end
$$;

-- One missing partition, or one column that nothing buffered has any more, or triggers on partitions that lack them, at a
-- time; returns whether there is more to do. A buffer that is unprotected and empty goes.
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
    if not exists (select from grace_internal.capture c where c.protected_id = prepare_buffer.protected_id) then
      perform grace_internal.drop_buffer(protected_id);
    end if;
    return false;
  end if;

  if grace_internal.prepare_partition(protected_id) or grace_internal.drop_former_column(protected_id) then
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
  v_rows bigint;
begin
  v_before := least(
    grace._expired_before(protected_id),
    as_of - (select p.span from grace_internal.protected p where p.id = protected_id)
  );
  delete from grace_internal.capture c
  where c.ctid = any (array(
    select e.ctid
    from grace_internal.capture e
    where e.protected_id = trim_log.protected_id
      and e.deleted_at <= v_before
    limit max_rows
    for update skip locked
  ));
  get diagnostics v_rows = row_count;
  delete from grace_internal.restored r
  where r.protected_id = trim_log.protected_id
    and r.deleted_at <= v_before;
  return grace_internal.trim_cuts(protected_id, v_before, max_rows) or v_rows = max_rows;
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
    execute format(
      'alter table grace_buffer.%I drop column %I',
      (select p.buffer from grace_internal.protected p where p.id = protected_id), v_column
    );
    delete from grace_internal.protected_column c
    where c.protected_id = drop_former_column.protected_id and c.buffer_column = v_column;
  end if;
  return v_column is not null;
end
$$;
