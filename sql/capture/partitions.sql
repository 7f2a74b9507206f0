-- Name of the leaf that holds one day (UTC) of a buffer.
create or replace function grace_internal.leaf_name(protected_id integer, day date)
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('b%s_%s', protected_id, to_char(day, 'YYYYMMDD'))::name
$$;

-- Makes the leaf for one day (UTC) of a buffer. It is attached, not created as a partition: that takes only
-- SHARE UPDATE EXCLUSIVE on the buffer, so captures go on meanwhile.
create or replace function grace_internal.create_partition(protected_id integer, day date)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_buffer name := (select p.buffer from grace_internal.protected p where p.id = protected_id);
  v_leaf name := grace_internal.leaf_name(protected_id, day);
  v_from timestamptz := day::timestamp at time zone 'UTC';
  v_to timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
  execute format(
    'create table grace_internal.%I (like grace_buffer.%I, '
    'constraint day check (grace_deleted_at >= %L and grace_deleted_at < %L))',
    v_leaf, v_buffer, v_from, v_to
  );
  execute format(
    'alter table grace_buffer.%I attach partition grace_internal.%I for values from (%L) to (%L)',
    v_buffer, v_leaf, v_from, v_to
  );
  execute format('alter table grace_internal.%I drop constraint day', v_leaf);
end
$$;

-- Days (UTC) from today on that a buffer has no leaf for yet. A day of which the default partition already holds
-- rows, because no leaf was there in time, is left to it: nothing is moved, the rows expire where they are.
create or replace function grace_internal.missing_partitions(protected_id integer, days_ahead integer default 14)
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
    from grace_internal.%I b where b.grace_deleted_at >= $1 $q$, format('b%s_default', protected_id)
  )
  into v_in_default using v_today::timestamp at time zone 'UTC';
  return query
    select v_today + n
    from generate_series(0, days_ahead) n
    where to_regclass(format('grace_internal.%I', grace_internal.leaf_name(protected_id, v_today + n))) is null
      and not v_today + n = any (coalesce(v_in_default, '{}'));
end
$$;
