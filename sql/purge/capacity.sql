create or replace function grace.set_capacity(capacity text, target regclass default null, dry_run boolean default false)
returns table (target_name text, row_count bigint, deleted_before timestamptz)
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := case when target is not null then grace_internal.protected_id(target) end;
  v_bytes bigint;
  v_before bigint;
begin
  begin
    v_bytes := pg_size_bytes(capacity);
  exception when invalid_parameter_value or numeric_value_out_of_range then
    v_bytes := 0;
  end;
  if v_bytes < 1024 * 1024 then
    raise exception '% is no capacity', quote_literal(capacity)
      using errcode = 'GR025',
      detail = 'It says how big a buffer may become before its oldest days go early: at least 1 MB.',
      hint = 'Give it as pg_size_pretty() does, for example ''20 GB''; null takes it away.';
  end if;
  perform grace_internal.require_table_right(p.target)
  from grace_internal.protected p
  where v_id is null or p.id = v_id;
  return query
    select p.target_name, grace_internal.evicted_rows(p.id, e.upto), e.upto
    from grace_internal.evictions(
      case when v_id is null then v_bytes else grace_internal.total_capacity() end, v_id, v_bytes
    ) e
    join grace_internal.protected p on p.id = e.protected_id
    order by p.id;
  if dry_run then
    return;
  end if;
  if v_id is not null then
    select p.capacity into v_before from grace_internal.protected p where p.id = v_id for update;
    update grace_internal.protected p set capacity = v_bytes where p.id = v_id;
  else
    v_before := grace_internal.total_capacity();
    delete from grace_internal.setting s where s.name = 'capacity';
    insert into grace_internal.setting (name, value) select 'capacity', v_bytes where v_bytes is not null;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'capacity', target, 'done', clock_timestamp(), jsonb_build_object('before', v_before, 'after', v_bytes),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.set_capacity(text, regclass, boolean) is
'How big the buffer of a table, or without one all buffers together, may become (''20 GB''; null: as big as it gets, the default). A purge that finds it bigger lets the oldest days go before their time, first in, first out, the day in progress never. Each time is a run, a notification on channel grace and an entry in the ledger, and grace.doctor() says for which tables the retention isn''t kept. Returns what the next purge would let go: per table, how many rows, deleted up to when; with dry_run only that. Errors: GR001, GR025, 42501.';

create or replace function grace_internal.total_capacity()
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select s.value::bigint from grace_internal.setting s where s.name = 'capacity'
$$;

create or replace function grace.capacity()
returns bigint
language sql stable
security definer -- the settings are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.total_capacity()
$$;
comment on function grace.capacity() is
'How big all buffers together may become before their oldest days go early, in bytes; null: as big as they get.';

-- What counts: leaves that hold something that has not expired. Empty ones have a size, too, but nothing goes by dropping them.
create or replace function grace_internal.filled_leaves(protected_ids integer [])
returns table (upper_bound timestamptz, size bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select l.upper_bound, pg_total_relation_size(l.leaf)
  from unnest(protected_ids) p (id)
  cross join lateral grace_internal.leaves(p.id) l
  where not l.is_expired and pg_relation_size(l.leaf) > 0
$$;

-- Up to which moment the oldest days have to go so that what is left is no bigger than the capacity; null when nothing has to.
-- Never the leaf in use, nor anything in the default partition, nor what lies ahead because the clock was set back: all that is
-- deleted until then would have expired as well.
create or replace function grace_internal.eviction(protected_ids integer [], capacity bigint)
returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with leaf as (
    select l.upper_bound, l.size from grace_internal.filled_leaves(protected_ids) l
  ),
  remaining as (
    select c.upper_bound, (select sum(l.size) from leaf l where l.upper_bound is null or l.upper_bound > c.upper_bound) as size
    from (select distinct f.upper_bound from leaf f where f.upper_bound <= clock_timestamp()) as c
  )
  -- The least that is enough; where nothing is, all that may go.
  select coalesce(
    min(r.upper_bound) filter (where coalesce(r.size, 0) <= eviction.capacity), max(r.upper_bound)
  ) - interval '1 microsecond'
  from remaining r
  where (select sum(l.size) from leaf l) > eviction.capacity
$$;

-- What has to go early, with the capacities as they are, or with another one for a table. All tables together lose the same days,
-- so that what was deleted together goes together.
create or replace function grace_internal.evictions(
  total bigint, changed_id integer default null, changed_capacity bigint default null
)
returns table (protected_id integer, upto timestamptz, capacity bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table record;
  v_total_upto timestamptz;
begin
  if total is not null then
    v_total_upto := grace_internal.eviction(array(select p.id from grace_internal.protected p), total);
  end if;
  for v_table in
    select p.id, case when p.id = changed_id then changed_capacity else p.capacity end as capacity
    from grace_internal.protected p
    order by p.id
  loop
    protected_id := v_table.id;
    upto := greatest(
      v_total_upto,
      case when v_table.capacity is not null then grace_internal.eviction(array[v_table.id], v_table.capacity) end
    );
    capacity := case when upto = v_total_upto then total else v_table.capacity end;
    if upto > grace._expired_before(v_table.id) then
      return next;
    end if;
  end loop;
end
$$;

create or replace function grace_internal.evicted_rows(protected_id integer, upto timestamptz)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.logged_rows(
    protected_id, grace._expired_before(protected_id) + interval '1 microsecond', upto + interval '1 microsecond'
  )
$$;

-- Expires what has to go early; the purge that follows removes it.
create or replace function grace_internal.evict()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
  v_eviction record;
  v_rows bigint;
  v_protected grace_internal.protected;
  v_run bigint;
begin
  for v_eviction in select e.* from grace_internal.evictions(grace_internal.total_capacity()) e loop
    -- Whoever is about to change how the table is protected may take their time; then it goes with the next purge.
    perform from grace_internal.protected p where p.id = v_eviction.protected_id for update skip locked;
    continue when not found;
    v_rows := grace_internal.evicted_rows(v_eviction.protected_id, v_eviction.upto);
    update grace_internal.protected p
    set evicted_to = v_eviction.upto
    where p.id = v_eviction.protected_id
    returning p.* into v_protected;
    if v_rows > 0 then
      insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
      values (
        'capacity', v_protected.target, 'done', clock_timestamp(), v_rows,
        jsonb_build_object(
          'table', v_protected.target_name, 'capacity', v_eviction.capacity, 'expired_early_to', v_eviction.upto
        ),
        grace_internal.caller(), session_user
      )
      returning id into v_run;
      perform grace_internal.record(v_run, 'expired early', v_protected.target_name, v_rows, v_eviction.upto);
      perform grace_internal.report_run(v_run);
    end if;
  end loop;
end
$$;

create or replace function grace.expiring_early()
returns table (target_name text, row_count bigint, deleted_before timestamptz)
language sql stable
security definer -- reads registry and log
set search_path = pg_catalog, pg_temp
as $$
  select p.target_name, grace_internal.evicted_rows(p.id, e.upto), e.upto
  from grace_internal.evictions(grace_internal.total_capacity()) e
  join grace_internal.protected p on p.id = e.protected_id
  where grace_internal.evicted_rows(p.id, e.upto) > 0
  order by p.target_name
$$;
comment on function grace.expiring_early() is
'What the next purge lets go before its time, because buffers are over their capacity: per table, how many rows, deleted up to when.';
