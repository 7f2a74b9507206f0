-- A buffer's partitions are called after its stem: b5_20261121 and b5_default for the rows, f5_… for what their files hold.

-- The default partition, and leaves for today and the days ahead. Rows have no identity but themselves; without one, a
-- publication that takes in all tables would make it an error to delete them.
create or replace function grace_internal.create_partitions(stem text, parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_day date;
begin
  execute format('alter table %s replica identity full', parent);
  perform grace_internal.no_statistics(parent);
  execute format('create table grace_internal.%I partition of %s default', stem || '_default', parent);
  execute format('alter table grace_internal.%I replica identity full', stem || '_default');
  perform grace_internal.no_statistics(format('grace_internal.%I', stem || '_default'));
  for v_day in select m from grace_internal.missing_partitions(stem) m loop
    perform grace_internal.create_partition(stem, parent, v_day);
  end loop;
end
$$;

-- Makes the leaf for one day (UTC). It is attached, not created as a partition: that takes only SHARE UPDATE EXCLUSIVE on
-- the buffer, so captures go on meanwhile.
create or replace function grace_internal.create_partition(stem text, parent text, day date)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_leaf name := stem || to_char(day, '_YYYYMMDD');
  v_from timestamptz := day::timestamp at time zone 'UTC';
  v_to timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
  execute format(
    'create table grace_internal.%I (like %s including indexes including storage, '
    'constraint day check (grace_deleted_at >= %L and grace_deleted_at < %L))',
    v_leaf, parent, v_from, v_to
  );
  execute format('alter table grace_internal.%I replica identity full', v_leaf);
  perform grace_internal.no_statistics(format('grace_internal.%I', v_leaf));
  execute format(
    'alter table %s attach partition grace_internal.%I for values from (%L) to (%L)', parent, v_leaf, v_from, v_to
  );
  execute format('alter table grace_internal.%I drop constraint day', v_leaf);
end
$$;

-- Days (UTC) from today on for which there is no leaf yet. A day of which the default partition already holds rows, because
-- no leaf was there in time, is left to it: nothing is moved, the rows expire where they are.
create or replace function grace_internal.missing_partitions(stem text, days_ahead integer default 14)
returns setof date
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_today date := (clock_timestamp() at time zone 'UTC')::date;
  v_in_default date [];
begin
  execute format(
    $q$select array_agg(distinct (b.grace_deleted_at at time zone 'UTC')::date)
    from grace_internal.%I b where b.grace_deleted_at >= $1 $q$, stem || '_default'
  )
  into v_in_default using v_today::timestamp at time zone 'UTC';
  return query
    select v_today + n
    from generate_series(0, days_ahead) n
    where to_regclass(format('grace_internal.%I', stem || to_char(v_today + n, '_YYYYMMDD'))) is null
      and not v_today + n = any (coalesce(v_in_default, '{}'));
end
$$;

-- The stems of a protected table, each with the partitioned table that it belongs to.
create or replace function grace_internal.stems(protected_id integer)
returns table (stem text, parent text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'b' || p.id, format('grace_buffer.%I', p.buffer)
  from grace_internal.protected p
  where p.id = protected_id and to_regclass(format('grace_internal.%I', 'b' || p.id || '_default')) is not null
  union all
  select 'f' || protected_id, format('grace_internal.%I', 'f' || protected_id)
  where to_regclass(format('grace_internal.%I', 'f' || protected_id)) is not null
$$;

-- Makes one partition that is missing for the days ahead; returns whether it did.
create or replace function grace_internal.prepare_partition(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
  v_day date;
begin
  for v_stem in select s.stem, s.parent from grace_internal.stems(protected_id) s loop
    select min(m) into v_day from grace_internal.missing_partitions(v_stem.stem) m;
    if v_day is not null then
      perform grace_internal.create_partition(v_stem.stem, v_stem.parent, v_day);
      return true;
    end if;
  end loop;
  return false;
end
$$;
