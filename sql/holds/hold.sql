create or replace function grace_internal.check_hold(reason text, until timestamptz)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(btrim(reason) = '', true) then
    raise exception 'no reason given'
      using errcode = 'invalid_parameter_value',
      detail = 'Whoever is refused a delete, or asks years later, is told it.',
      hint = 'Give it as reason => ''tax audit 2025''.';
  end if;
  if until <= clock_timestamp() then
    raise exception 'until is in the past'
      using errcode = 'invalid_parameter_value',
      detail = format('It is %s.', to_char(until, 'YYYY-MM-DD HH24:MI:SS TZ')),
      hint = 'Give a moment that is to come, or leave until out: then the hold lasts until it is released.';
  end if;
end
$$;

-- The table against those who write to it, and then how it is protected, for which nobody may be kept waiting long.
create or replace function grace_internal.lock_for_hold(protected_id integer, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (select p.target from grace_internal.protected p where p.id = protected_id);
  v_before text := current_setting('lock_timeout');
begin
  perform grace_internal.lock_for_ddl(array[v_target], 'share row exclusive', max_wait);
  begin
    perform set_config('lock_timeout', '100ms', true);
    perform from grace_internal.protected p where p.id = protected_id for no key update;
    perform set_config('lock_timeout', v_before, true);
  exception when lock_not_available then
    raise exception 'how % is protected is being changed', v_target
      using errcode = 'GR006',
      detail = 'Another transaction that does so has not ended yet.',
      hint = 'Nothing was held. Try again when it has ended.';
  end;
end
$$;

-- Every delete that began before this has ended, and every later one is checked: it waits for the table's writers, as making triggers
-- does. Before that nothing is locked but the holds, against a purge.
create or replace function grace.hold(
  target regclass, key jsonb, reason text, case_number text default null, until timestamptz default null,
  wait interval default '60 seconds'
)
returns setof bigint
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_protected grace_internal.protected;
  v_key jsonb;
  v_names name [];
  v_values text [];
  v_live text [];
  v_found jsonb := jsonb_build_array();
  v_holds bigint [];
  v_others text;
begin
  perform grace_internal.check_hold(reason, until);
  select p.* into v_protected from grace_internal.protected p where p.id = v_id;
  if not v_protected.active then
    raise exception 'table % is not protected', target
      using errcode = 'GR001',
      detail = 'It was unprotected, so nothing stops its deletes.',
      hint = format('Protect it with: select * from grace.protect(%L);', target);
  end if;
  lock table grace_internal.hold in row exclusive mode; -- a purge has what it looks at to itself
  if grace_internal.columns_differ(v_id) then
    perform grace_internal.lock_for_hold(v_id, wait);
    perform grace_internal.sync_columns(v_id);
    perform grace_internal.generate_capture(v_id);
  end if;
  select grace_internal.column_names(i.indrelid, i.indkey::smallint []) into v_names
  from pg_index i
  where i.indrelid = v_protected.target and i.indisprimary;
  for v_key in select k from jsonb_array_elements(grace_internal.normal_keys(v_id, key)) k loop
    select array_agg(v_key ->> n.name order by n.position) into v_values from unnest(v_names) with ordinality as n (name, position);
    begin
      v_live := grace_internal.find_live(v_id, v_names, v_values);
      v_values := coalesce(v_live, grace_internal.find_buffered(v_id, v_names, v_values));
    exception when data_exception then
      raise exception 'key % can''t be read', v_key
        using errcode = 'GR008', detail = sqlerrm, hint = 'Give each value as the column''s type reads it.';
    end;
    if v_values is null then
      raise exception '% % can''t be held', target, v_key
        using errcode = 'GR007',
        detail = 'There is no such record, neither in the table nor, restorable, in its buffer.',
        hint = 'Nothing was held. Rows of tables that inherit from it are held as theirs.';
    end if;
    v_found := v_found || jsonb_build_object('key_values', v_values, 'is_live', v_live is not null);
  end loop;

  perform grace_internal.lock_for_hold(v_id, wait);
  with held as (
    insert into grace_internal.hold (
      protected_id, target_name, key, columns, names, types, key_values, is_live, reason, case_number, until, held_by, held_login
    )
    select
      v_id, grace_internal.qualified_name(v_protected.target), grace_internal.shown_key(v_names, y.types, w.key_values), y.columns,
      v_names, y.types, w.key_values, w.is_live, hold.reason, nullif(hold.case_number, ''), hold.until, grace_internal.caller(), session_user
    from jsonb_to_recordset(v_found) as w (key_values text [], is_live boolean)
    cross join lateral (
      select
        array_agg(a.attnum order by n.position) as columns,
        array_agg(grace_internal.base_type(a.atttypid)::regtype order by n.position) as types
      from unnest(v_names) with ordinality as n (name, position)
      join pg_attribute a on a.attrelid = v_protected.target and a.attname = n.name
    ) as y
    returning id
  )
  select array_agg(h.id order by h.id) into v_holds from held h;
  select string_agg(format('%s by hold %s', o.key, o.id), ', ' order by o.id) into v_others
  from grace_internal.active_hold o
  where o.protected_id = v_id and o.id <> all (v_holds)
    and o.key_values in (select h.key_values from grace_internal.hold h where h.id = any (v_holds));
  if v_others is not null then
    raise notice 'held already: %', v_others;
  end if;
  perform grace_internal.generate_capture(v_id);
  insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
  values (
    'hold', v_protected.target, 'done', clock_timestamp(), cardinality(v_holds),
    jsonb_build_object('action', 'hold', 'holds', v_holds), grace_internal.caller(), session_user
  );
  return query select unnest(v_holds);
end
$$;
comment on function grace.hold(regclass, jsonb, text, text, timestamptz, interval) is
'Holds a record of a protected table: until it is released, or until the time given, nothing deletes it, by whatever statement, nothing overwrites it, TRUNCATE is refused, and what is buffered of it is not purged. key: its primary key, {"id": 7} or, for a one-column key, 7; or an array of keys, for a hold on each: all of them, or none. reason, case_number: what whoever is refused is told. wait: how long to try for the lock that makes sure that no delete is under way; it lasts until the transaction ends. What hangs on the record is held only if it is named, too. Returns the holds'' ids. Errors: GR001, GR006, GR007 when there is no such record, GR008, GR009, GR010, 22023.';

create or replace function grace.release(hold bigint, reason text)
returns void
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold grace_internal.hold;
  v_others text;
begin
  perform grace_internal.check_hold(reason, null);
  select h.* into v_hold from grace_internal.hold h where h.id = hold for update;
  if not found or v_hold.released_at is not null then
    raise exception 'there is no hold % to be released', coalesce(hold::text, 'null')
      using errcode = 'invalid_parameter_value',
      detail = case
        when v_hold.id is null then 'No hold has this number.'
        else format('It was released by %s at %s.', v_hold.released_by, to_char(v_hold.released_at, 'YYYY-MM-DD HH24:MI TZ'))
      end,
      hint = 'Look at what is held: select * from grace.holds where is_active;';
  end if;
  update grace_internal.hold h
  set
    released_at = clock_timestamp(), released_by = grace_internal.caller(), released_login = session_user,
    release_reason = release.reason
  where h.id = v_hold.id;
  perform from grace_internal.protected p where p.id = v_hold.protected_id for no key update;
  -- What is kept and no longer held is due with the next purge.
  update grace_internal.capture c set kept = false where c.protected_id = v_hold.protected_id and c.kept;
  perform grace_internal.forget_ended_holds();
  select string_agg(format('hold %s', o.id), ', ' order by o.id) into v_others
  from grace_internal.active_hold o
  where o.protected_id = v_hold.protected_id and o.key_values = v_hold.key_values and o.columns = v_hold.columns;
  if v_others is not null then
    raise notice 'the record is still held: %', v_others;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
  values (
    'hold', (select p.target from grace_internal.protected p where p.id = v_hold.protected_id), 'done', clock_timestamp(), 1,
    jsonb_build_object('action', 'release', 'holds', array[v_hold.id]), grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.release(bigint, text) is
'Ends a hold. The record can be deleted again, and what is buffered of it and past its retention goes with the next purge, unless another hold is on it. The hold stays on record. Errors: 22023 when there is no such hold, or it has been released, or no reason is given.';

-- Errors: GR029 when a table has active holds (null: any table).
create or replace function grace_internal.require_no_holds(only_id integer, what text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold record;
begin
  select h.id, p.target_name, h.key, count(*) over () as holds into v_hold
  from grace_internal.active_hold h
  join grace_internal.protected p on p.id = h.protected_id
  where only_id is null or h.protected_id = any (grace_internal.held_under(only_id))
  order by h.id
  limit 1;
  if found then
    raise exception '%: records are held', what
      using errcode = 'GR029',
      detail = format(
        'Hold %s is on %s %s%s.', v_hold.id, v_hold.target_name, v_hold.key,
        case when v_hold.holds > 1 then format('; %s more', v_hold.holds - 1) end
      ),
      hint = 'See select * from grace.holds where is_active; and release them: select grace.release(…, ''reason'');';
  end if;
end
$$;
