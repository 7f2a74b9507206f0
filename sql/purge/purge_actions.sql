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
begin
  if grace_internal.leaf_is_expired(protected_id, leaf) and pg_relation_size(leaf) > 0 then
    execute format('truncate %s', grace_internal.qualified_name(leaf));
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
    execute format('drop table %s', grace_internal.qualified_name(leaf));
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
  v_rows bigint;
begin
  execute format(
    'delete from %1$s b where b.ctid = any (array('
    'select e.ctid from %1$s e where e.grace_deleted_at <= $1 limit $2))',
    grace_internal.qualified_name(leaf)
  )
  using grace._expired_before(protected_id), max_rows;
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- One missing partition, or triggers on partitions of the table that lack them, at a time; returns whether there is
-- more to do. A buffer that is unprotected and empty goes.
create or replace function grace_internal.prepare_buffer(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_active boolean;
  v_target regclass;
  v_day date;
begin
  select p.active, p.target into v_active, v_target
  from grace_internal.protected p
  where p.id = protected_id
  for update skip locked;
  if not found then
    return false;
  end if;
  if not v_active then
    if not exists (select from grace_internal.capture c where c.protected_id = prepare_buffer.protected_id) then
      perform grace_internal.drop_buffer(protected_id);
    end if;
    return false;
  end if;

  select min(m) into v_day from grace_internal.missing_partitions(protected_id) m;
  if v_day is not null then
    perform grace_internal.create_partition(protected_id, v_day);
    return true;
  end if;
  if exists (select from pg_class c where c.oid = v_target) then
    perform grace_internal.follow_table(protected_id, repair => false);
  end if;
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
  return v_rows = max_rows;
end
$$;
