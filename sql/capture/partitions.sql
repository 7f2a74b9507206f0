-- A buffer's partitions are called after its stem: b5_20261121 for a day, b5_20261221_20270118 for several, b5_default; f5_…
-- for what its files hold. Every day of the next two weeks has a leaf of its own, and the twelve weeks after it two longer
-- ones: while no purge runs, what is deleted goes there, not to the default partition, where it would stand in the way of
-- each new leaf. A longer leaf is cut into days as they come near, unless its time has begun; then it stays what it is.

-- Their names say which days they hold. To ask PostgreSQL for the bounds would take a lock on each leaf.
create or replace function grace_internal.stem_leaves(stem text)
returns table (leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz)
language plpgsql stable -- whose plan is kept
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  select
    c.oid, c.relname, to_date(d.days[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
    coalesce(to_date(d.days[2], 'YYYYMMDD'), to_date(d.days[1], 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'
  from pg_class c
  cross join lateral (select regexp_match(c.relname, '_([0-9]{8})(?:_([0-9]{8}))?$')) as d (days)
  where c.relnamespace = 'grace_internal'::regnamespace
    and c.relkind = 'r'
    and c.relispartition
    and c.relname >= stem || '_' and c.relname < stem || '`'; -- all that begin so, by the index
end
$$;

create or replace function grace_internal.create_default(stem text, parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('create table grace_internal.%I partition of %s default', stem || '_default', parent);
  execute format('alter table grace_internal.%I replica identity full', stem || '_default');
  perform grace_internal.no_statistics(format('grace_internal.%I', stem || '_default'));
end
$$;

-- The default partition, and leaves for the time ahead. Rows have no identity but themselves; without one, a publication that
-- takes in all tables would make it an error to delete them.
create or replace function grace_internal.create_partitions(stem text, parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('alter table %s replica identity full', parent);
  perform grace_internal.no_statistics(parent);
  perform grace_internal.create_default(stem, parent);
  while grace_internal.prepare_leaf(stem, parent) loop
    null; -- one at a time, until none is missing
  end loop;
end
$$;

-- Makes the leaf for one day (UTC), or for days from the first up to, not including, the last. It is attached, not created as a partition:
-- that takes only SHARE UPDATE EXCLUSIVE on the buffer, so captures go on meanwhile.
create or replace function grace_internal.create_leaf(stem text, parent text, first date, until date default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_until date := coalesce(until, first + 1);
  v_leaf name := grace_internal.leaf_name(stem, first, v_until);
  v_from timestamptz := first::timestamp at time zone 'UTC';
  v_to timestamptz := v_until::timestamp at time zone 'UTC';
  v_before text := coalesce(current_setting('grace.following', true), '');
begin
  perform set_config('grace.following', grace_internal.signature('following'), true); -- the event triggers have nothing to do
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
  perform set_config('grace.following', v_before, true);
end
$$;

create or replace function grace_internal.leaf_name(stem text, first date, until date)
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (stem || to_char(first, '_YYYYMMDD') || case when until > first + 1 then to_char(until, '_YYYYMMDD') else '' end)::name
$$;

-- A longer leaf that is empty and whose time has not come.
create or replace function grace_internal.reserve_leaves(stem text)
returns table (leaf oid, first date, until date)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select l.leaf, (l.lower_bound at time zone 'UTC')::date, (l.upper_bound at time zone 'UTC')::date
  from grace_internal.stem_leaves(stem) l
  where l.lower_bound > clock_timestamp()
    and l.upper_bound - l.lower_bound > interval '24 hours'
    and pg_relation_size(l.leaf) = 0
$$;

-- Days (UTC) from today on that have no leaf of their own and lie in none that is in use. A day of which the default partition
-- holds rows, because no leaf was there in time, can't have one until they are settled.
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
    where not v_today + n = any (coalesce(v_in_default, '{}'))
      and not exists (
        select
        from grace_internal.stem_leaves(stem) l
        where l.lower_bound < (v_today + n + 1)::timestamp at time zone 'UTC'
          and l.upper_bound > (v_today + n)::timestamp at time zone 'UTC'
          and l.leaf not in (select r.leaf from grace_internal.reserve_leaves(stem) r)
      );
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

-- Makes one leaf that is missing for the time ahead; returns whether it did. To cut up a longer leaf takes the lock that
-- dropping takes, for a moment, with an empty leaf, every two weeks.
create or replace function grace_internal.prepare_leaf(stem text, parent text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_today date := (clock_timestamp() at time zone 'UTC')::date;
  v_day date;
  v_until date;
  v_reserve record;
begin
  -- All days up to the first longer leaf, or else there would be a gap before it. One that is further ahead was made while the
  -- clock was wrong.
  select r.* into v_reserve from grace_internal.reserve_leaves(stem) r where r.first <= v_today + 60 order by r.first limit 1;
  select min(m) into v_day
  from grace_internal.missing_partitions(stem, greatest(14, v_reserve.first - v_today - 1)) m;
  if v_day is not null and v_day >= v_reserve.first then
    perform grace_internal.drop_leaf(parent, v_reserve.leaf);
    if v_reserve.until > v_reserve.first + 14 then
      perform grace_internal.create_leaf(stem, parent, v_reserve.first + 14, v_reserve.until);
    end if;
    return true;
  end if;
  if v_day is not null then
    perform grace_internal.create_leaf(stem, parent, v_day);
    return true;
  end if;

  select greatest(max((l.upper_bound at time zone 'UTC')::date), v_today + 15) into v_until
  from grace_internal.stem_leaves(stem) l
  where l.lower_bound < (v_today + 15 + 84)::timestamp at time zone 'UTC';
  if v_until < v_today + 15 + 84 then
    perform grace_internal.create_leaf(
      stem, parent, v_until, least(v_until + case when v_until < v_today + 43 then 28 else 56 end, (
        select min((l.lower_bound at time zone 'UTC')::date)
        from grace_internal.stem_leaves(stem) l
        where l.lower_bound >= v_until::timestamp at time zone 'UTC'
      ))
    );
    return true;
  end if;
  return false;
end
$$;

-- Locks a whole buffer. Captures wait from then on, so nothing more is waited for: each wait would be added to theirs. Who
-- captures or reads has the lock on the buffer first; one on the default partition alone is VACUUM's, for example.
create or replace function grace_internal.lock_buffer(parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('lock table only %s in access exclusive mode', parent);
  execute (
    select format('lock table %s in access exclusive mode nowait', grace_internal.qualified_name(t.partdefid))
    from pg_partitioned_table t
    where t.partrelid = parent::regclass
  );
end
$$;

-- Drops an empty leaf: locks the whole buffer for the moment that it takes.
create or replace function grace_internal.drop_leaf(parent text, leaf oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('lock table %s in access exclusive mode', grace_internal.qualified_name(leaf));
  perform grace_internal.lock_buffer(parent);
  if pg_relation_size(leaf) = 0 then
    perform set_config('grace.following', grace_internal.signature('following'), true);
    execute format('drop table %s', grace_internal.qualified_name(leaf));
    perform set_config('grace.following', '', true);
  end if;
end
$$;

-- Does one step towards a buffer whose default partition is empty and whose leaves reach far enough; returns whether there may
-- be another.
create or replace function grace_internal.prepare_partitions(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
begin
  for v_stem in select s.stem, s.parent from grace_internal.stems(protected_id) s loop
    if grace_internal.settle_default(v_stem.stem, v_stem.parent) or grace_internal.prepare_leaf(v_stem.stem, v_stem.parent) then
      return true;
    end if;
  end loop;
  return false;
end
$$;
