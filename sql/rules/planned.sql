-- What a rule plans, one row a record: from the live rows, so that a new contact moves the date by itself. within: how far ahead, null for
-- all; key: of one record only, whatever its date.
create or replace function grace_internal.planned_by(rule grace_internal.rule, key jsonb, within interval)
returns table (record_key jsonb, start timestamptz, due timestamptz, record jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule, of_one => planned_by.key is not null);
  v_until text := grace_internal.instant(case
    when planned_by.key is null then coalesce(grace_internal.horizon(rule, clock_timestamp()) + planned_by.within, 'infinity')
    else 'infinity'
  end);
begin
  perform set_config('timezone', rule.zone, true);
  return query execute 'select * from ' || grace_internal.as_role(
    rule.run_as, 'read',
    format(
      'select %s, "grace 2".start, %s, %s from %s cross join lateral (select %s as start offset 0) as "grace 2" where %s%s',
      v_query.key_object,
      case when rule.start_expression is null then '''-infinity''::timestamptz' else format('"grace 2".start + interval %L', rule.period) end,
      v_query.record, v_query.source, v_query.start, v_query.condition,
      case
        when planned_by.key is not null then format(
          ' and (%s) in (select %s from jsonb_to_recordset(%L) as k (%s) limit 1)', v_query.keys, v_query.key_list,
          grace_internal.keys_of(rule.target, planned_by.key), v_query.key_columns
        )
        when rule.start_expression is null then ''
        else format(' and "grace 2".start + interval %L <= %L::timestamptz', rule.period, v_until)
      end
    ),
    'key jsonb, start timestamptz, due timestamptz, record jsonb'
  );
exception when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or numeric_value_out_of_range then
  if planned_by.key is null then
    raise;
  end if;
  raise exception '% is not a key of %', planned_by.key, rule.target
    using errcode = 'GR008', detail = sqlerrm || '.', hint = 'Give each value as the column''s type reads it.';
end
$$;

-- When the rule will act on something due then: at its first turn from now on that is not before it or, with final_by_due, its last one
-- before the buffer could not run out in time; and not before its notice has passed. Null where it has no schedule.
create or replace function grace_internal.acts_at(rule grace_internal.rule, due timestamptz, key jsonb)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_announced timestamptz;
  v_from timestamptz := greatest(
    case when isfinite(due) then due - grace_internal.ahead(rule) else '-infinity' end - interval '1 microsecond', v_now
  );
  v_turn timestamptz;
begin
  if not isfinite(v_from) then
    return null;
  end if;
  v_turn := grace_internal.next_turn(rule, v_from);
  if rule.final_by_due then
    v_turn := coalesce(
      grace_internal.last_scheduled(
        (select j.schedule from grace_internal.job j where j.rule_id = rule.id), v_from,
        greatest(v_now, due - rule.period - interval '1 microsecond') -- not before the period has begun
      ), v_turn
    );
  end if;
  if rule.notice is not null then
    v_announced := coalesce(
      (select n.announced_at from grace_internal.notice n where n.rule_id = rule.id and n.key = acts_at.key), v_now
    ) + rule.notice;
  end if;
  if v_announced > v_turn then
    v_turn := grace_internal.next_turn(rule, v_announced);
  end if;
  return v_turn;
end
$$;

create or replace function grace.planned(
  target regclass default null, key jsonb default null, within interval default '30 days', rule text default null
)
returns table (
  target_table regclass, record_key jsonb, by_rule text, action text, start timestamptz, due timestamptz, acts_at timestamptz,
  state text, reason text, record jsonb
)
language plpgsql stable
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
begin
  if key is not null and target is null and rule is null then
    raise exception 'a key needs a table' using errcode = 'GR008', detail = 'Which table it is the key of was not said.', hint = 'Give target.';
  end if;
  if rule is not null then
    v_rule := grace_internal.rule_named(rule);
    if grace_internal.rule_problem(v_rule) is not null then
      perform grace_internal.require_valid('rule', v_rule.name, v_rule.depends, v_rule.home);
    end if;
  end if;
  return query
    select distinct on (t.target, t.key)
      t.target, t.key, t.name, t.action, t.start, nullif(t.due, '-infinity'), t.acts_at, t.state, t.reason,
      case when pg_has_role(grace_internal.caller(), 'grace_operator', 'member') then t.record end
    from (
      select
        r.target, p.record_key as key, r.name, r.action, p.start, p.due, p.record, s.state, s.reason,
        case
          when s.state in ('planned', 'not announced') then grace_internal.acts_at(r, p.due, p.record_key)
          when isfinite(s.until) and r.enabled then grace_internal.next_turn(r, greatest(s.until, nullif(p.due, '-infinity') - grace_internal.ahead(r)))
        end as acts_at
      from grace_internal.rule r
      cross join lateral grace_internal.planned_by(r, planned.key, planned.within) p
      cross join lateral grace_internal.planned_state(r, p.record_key, p.due) s
      where coalesce(planned.target = r.target, true) and coalesce(planned.rule = r.name, true)
        and (planned.key is not null or r.action <> 'keep' or coalesce(p.due > statement_timestamp(), true))
        and grace_internal.rule_problem(r) is null
    ) as t
    order by t.target, t.key, t.action = 'keep', t.state not in ('planned', 'not announced'), t.due, t.acts_at, t.name;
end
$$;
comment on function grace.planned(regclass, jsonb, interval, text) is
'When which rule will act on which record, worked out from the rows as they are now: nothing is stored, so a new contact moves the date by itself. One row a record, that of the rule that acts first. within: how far ahead, null for all dates; key: one record, whatever its date. start: from when the period counts; due: when it ends, null for at once; acts_at: the turn at which the rule will act (of what another rule keeps, the first one after that), null where it has no schedule or nothing lets it act. A rule that keeps has its date in due. state: planned, not announced (it waits for its notice), exempt, held, kept, disabled, no start (the period has not begun); reason says why. record: for members of grace_operator. Rows that a rule''s role does not see are not planned by it. Errors: GR008, GR027, GR028.';

-- What stands between a planned deletion and its record.
create or replace function grace_internal.planned_state(
  rule grace_internal.rule, key jsonb, due timestamptz, out state text, out reason text, out until timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if rule.action = 'keep' then
    state := case
      when not rule.enabled then 'disabled' when due <= statement_timestamp() then 'kept until then' else 'kept'
    end;
    reason := rule.basis;
    return;
  elsif due is null then
    state := 'no start';
    return;
  end if;
  select 'exempt', e.reason, e.until into state, reason, until
  from grace_internal.exemption e
  where e.rule_id = rule.id and e.key = planned_state.key and e.dropped_at is null and coalesce(e.until > statement_timestamp(), true);
  if found then
    return;
  end if;
  if exists (select from grace_internal.active_hold) then
    select 'held', h.reason into state, reason
    from grace_internal.held_records(rule.target, grace_internal.key_rows(rule.target, jsonb_build_array(key))) h
    limit 1;
    if found then
      return;
    end if;
  end if;
  if exists (select from grace_internal.rule k where k.action = 'keep' and k.enabled) then
    select 'kept', k.reason, k.until into state, reason, until from grace_internal.kept_keys(rule, array[key]) k;
    if found then
      return;
    end if;
  end if;
  if not rule.enabled then
    state := 'disabled';
  elsif rule.notice is null then
    state := 'planned';
  else
    state := case
      when exists (select from grace_internal.notice n where n.rule_id = rule.id and n.key = planned_state.key) then 'planned'
      else 'not announced'
    end;
  end if;
end
$$;
