create or replace function grace.set_capacity(capacity text, target regclass default null)
returns bigint
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
  where p.active and (v_id is null or p.id = v_id);
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
  return v_bytes;
end
$$;
comment on function grace.set_capacity(text, regclass) is
'How big the buffer of a table, or without one all buffers together, may become (''20 GB''; null: as big as it gets, the default). A purge that finds it bigger lets the oldest days go before their time, first in, first out, the day in progress never. Each time is a run and an entry in the ledger, and grace.doctor() says for which tables the retention isn''t kept. Returns bytes. Errors: GR001, GR025, 42501.';

create or replace function grace_internal.total_capacity()
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select s.value::bigint from grace_internal.setting s where s.name = 'capacity'
$$;

-- Up to which moment the oldest days have to go so that what is left is no bigger than the capacity; null when nothing has to.
-- Never the leaf in use, nor anything in the default partition.
create or replace function grace_internal.eviction(protected_ids integer [], capacity bigint)
returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with leaf as (
    select l.lower_bound, l.upper_bound, l.is_current, pg_total_relation_size(l.leaf) as size
    from unnest(protected_ids) p (id)
    cross join lateral grace_internal.leaves(p.id) l
    where not l.is_expired and pg_relation_size(l.leaf) > 0
  ),
  remaining as (
    select c.upper_bound, (select sum(l.size) from leaf l where l.upper_bound is null or l.upper_bound > c.upper_bound) as size
    from (select distinct f.upper_bound from leaf f where not f.is_current) as c
  )
  -- The least that is enough; where nothing is, all that may go.
  select coalesce(
    min(r.upper_bound) filter (where coalesce(r.size, 0) <= eviction.capacity), max(r.upper_bound)
  ) - interval '1 microsecond'
  from remaining r
  where (select sum(l.size) from leaf l) > eviction.capacity
$$;

-- Expires what has to go early; the purge that follows removes it. All tables together lose the same days, so that what was
-- deleted together goes together.
create or replace function grace_internal.evict()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_total bigint := grace_internal.total_capacity();
  v_total_upto timestamptz;
  v_table record;
  v_upto timestamptz;
begin
  if v_total is not null then
    v_total_upto := grace_internal.eviction(array(select p.id from grace_internal.protected p), v_total);
  end if;
  for v_table in select p.id, p.capacity from grace_internal.protected p order by p.id loop
    v_upto := greatest(
      v_total_upto,
      case when v_table.capacity is not null then grace_internal.eviction(array[v_table.id], v_table.capacity) end
    );
    if v_upto > grace._expired_before(v_table.id) then
      perform grace_internal.evict_table(
        v_table.id, v_upto, case when v_upto = v_total_upto then v_total else v_table.capacity end
      );
    end if;
  end loop;
end
$$;

create or replace function grace_internal.evict_table(protected_id integer, upto timestamptz, capacity bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint := grace_internal.logged_rows(
    protected_id, grace._expired_before(protected_id) + interval '1 microsecond', upto + interval '1 microsecond'
  );
  v_protected grace_internal.protected;
  v_run bigint;
begin
  update grace_internal.protected p set evicted_to = upto where p.id = protected_id returning p.* into v_protected;
  if v_rows = 0 then
    return;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
  values (
    'capacity', v_protected.target, 'done', clock_timestamp(), v_rows,
    jsonb_build_object('table', v_protected.target_name, 'capacity', capacity, 'expired_early_to', upto),
    grace_internal.caller(), session_user
  )
  returning id into v_run;
  perform grace_internal.record(v_run, 'expired early', v_protected.target_name, v_rows, upto);
  perform grace_internal.report_run(v_run);
end
$$;
