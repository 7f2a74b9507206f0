-- What the default partition holds stands in the way of every new leaf: attaching one reads all of it, under a lock for which
-- captures wait. So it becomes a leaf itself, for the days that it holds and all up to the next leaf, and an empty one takes its
-- place. PostgreSQL believes that its rows are in those days if a constraint says so, which it checks without locking anybody out.
-- Each call does one step and returns whether there is another.
create or replace function grace_internal.settle_default(stem text, parent text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_default text := format('grace_internal.%I', stem || '_default');
  v_wanted date [] := grace_internal.days_to_settle(stem);
  v_days date [];
  v_constraint record;
begin
  select k.conname, k.convalidated, regexp_match(k.conname, '^days_([0-9]{8})_([0-9]{8})$') as days into v_constraint
  from pg_constraint k
  where k.conrelid = v_default::regclass and k.conname ~ '^days_';

  if v_constraint.conname is null then
    if v_wanted is null then
      return false;
    end if;
    if pg_relation_size(v_default::regclass) <= 2 * 1024 * 1024 then
      perform grace_internal.swap_default(stem, parent, v_wanted); -- PostgreSQL reads it in milliseconds
      return true;
    end if;
    execute format(
      'alter table %s add constraint %I check (grace_deleted_at >= %L and grace_deleted_at < %L) not valid',
      v_default, to_char(v_wanted[1], '"days_"YYYYMMDD') || to_char(v_wanted[2], '_YYYYMMDD'),
      v_wanted[1]::timestamp at time zone 'UTC', v_wanted[2]::timestamp at time zone 'UTC'
    );
    return true;
  end if;

  v_days := array[to_date(v_constraint.days[1], 'YYYYMMDD'), to_date(v_constraint.days[2], 'YYYYMMDD')];
  -- One that a purge left behind could come to refuse captures where no leaf follows; there is a week before that.
  if v_days is distinct from v_wanted and v_days[2] < current_date + 7 then
    execute format('alter table %s drop constraint %I', v_default, v_constraint.conname);
    return true;
  end if;
  if not v_constraint.convalidated then
    execute format('alter table %s validate constraint %I', v_default, v_constraint.conname);
    return true;
  end if;
  perform grace_internal.swap_default(stem, parent, v_days);
  execute format(
    'alter table grace_internal.%I drop constraint %I',
    grace_internal.leaf_name(stem, v_days[1], v_days[2]), v_constraint.conname
  );
  return true;
end
$$;

-- The default partition becomes the leaf of these days, and an empty one, made before the lock, takes its place.
create or replace function grace_internal.swap_default(stem text, parent text, days date [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_default name := stem || '_default';
  v_empty name := stem || '_empty';
  v_leaf name := grace_internal.leaf_name(stem, days[1], days[2]);
begin
  execute format('create table grace_internal.%I (like %s including indexes including storage)', v_empty, parent);
  execute format('alter table grace_internal.%I replica identity full', v_empty);
  perform grace_internal.no_statistics(format('grace_internal.%I', v_empty));
  perform grace_internal.lock_buffer(parent);
  execute format('alter table %s detach partition grace_internal.%I', parent, v_default);
  execute format('alter table grace_internal.%I rename to %I', v_default, v_leaf);
  execute format(
    'alter table %s attach partition grace_internal.%I for values from (%L) to (%L)',
    parent, v_leaf, days[1]::timestamp at time zone 'UTC', days[2]::timestamp at time zone 'UTC'
  );
  execute format('alter table grace_internal.%I rename to %I', v_empty, v_default);
  execute format('alter table %s attach partition grace_internal.%I default', parent, v_default);
end
$$;

-- The days that the default partition can become a leaf for: from the leaf before its rows up to the one after them; where none
-- follows, two weeks from today. Null where it is empty, or where its rows lie on both sides of a leaf or further ahead (the
-- clock was wrong): those expire where they are.
create or replace function grace_internal.days_to_settle(stem text)
returns date []
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_first timestamptz;
  v_last timestamptz;
  v_from timestamptz;
  v_until timestamptz;
begin
  execute format(
    'select min(d.grace_deleted_at), max(d.grace_deleted_at) from grace_internal.%I d', stem || '_default'
  )
  into v_first, v_last;
  select
    coalesce(max(l.upper_bound) filter (where l.upper_bound <= v_first), date_trunc('day', v_first) - interval '31 days'),
    coalesce(
      min(l.lower_bound) filter (where l.lower_bound > v_first), date_trunc('day', clock_timestamp()) + interval '15 days'
    )
  into v_from, v_until
  from grace_internal.stem_leaves(stem) l;
  return case when v_first is not null and v_last < v_until then array[v_from::date, v_until::date] end;
end
$$;
