-- A record by its key, as its rule sees it: the key as the row has it. Errors: GR008 where there is no such record.
create or replace function grace_internal.record_key(rule grace_internal.rule, key jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
  v_keys jsonb;
begin
  perform set_config('timezone', rule.zone, true);
  begin
    execute format(
      'select jsonb_agg(k.key) from %s',
      grace_internal.as_role(
        rule.run_as, 'read',
        format(
          'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s))',
          v_query.key_object, v_query.source, v_query.keys, v_query.key_list,
          grace_internal.keys_of(rule.target, jsonb_build_array(key)), v_query.key_columns
        ),
        'key jsonb'
      )
    ) into v_keys;
  exception when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or numeric_value_out_of_range then
    raise exception '% is not a key of %', key, rule.target
      using errcode = 'GR008', detail = sqlerrm || '.', hint = 'Give each value as the column''s type reads it.';
  end;
  if v_keys is null then
    raise exception 'there is no record % in %', key, rule.target
      using errcode = 'GR008', detail = format('Role %s sees none with that key.', rule.run_as),
      hint = 'Give the primary key of a row that the rule''s role sees; what it does not see the rule does not delete.';
  end if;
  return v_keys -> 0;
end
$$;

-- Who exempts a record waits for the batch that may be deleting it, and is told if it has.
create or replace function grace_internal.exemption_lock(rule_id integer)
returns bigint
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended('pg_grace: exemptions', exemption_lock.rule_id)
$$;

create or replace function grace.exempt(rule text, key jsonb, reason text, until timestamptz default null)
returns bigint
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_key jsonb;
  v_id bigint;
begin
  if coalesce(btrim(reason), '') = '' then
    raise exception 'an exemption needs a reason'
      using errcode = 'GR031', detail = 'The reason is empty.', hint = 'Say why this record is not to go.';
  end if;
  if until <= clock_timestamp() then
    raise exception 'an exemption that has ended says nothing'
      using errcode = 'GR031', detail = format('until is %s.', until), hint = 'Give a moment that lies ahead, or none.';
  end if;
  perform pg_advisory_xact_lock(grace_internal.exemption_lock(v_rule.id));
  v_key := grace_internal.record_key(v_rule, key);
  perform grace.end_exemption(e.id)
  from grace_internal.exemption e
  where e.rule_id = v_rule.id and e.key = v_key and e.dropped_at is null;
  insert into grace_internal.exemption (rule_id, key, reason, until, created_by, created_login)
  values (v_rule.id, v_key, reason, until, grace_internal.caller(), session_user)
  returning id into v_id;
  return v_id;
end
$$;
comment on function grace.exempt(text, jsonb, text, timestamptz) is
'Takes the planned deletion off a record: this rule does not act on it, for good or until a moment. key: its primary key, as grace.restore takes it. One that was there before is replaced; all of them stay in grace.exemptions. Returns its id. Errors: GR008 no such record, GR027, GR031.';

create or replace function grace.end_exemption(id bigint)
returns void
language plpgsql
security definer -- the exemptions are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
begin
  update grace_internal.exemption e
  set dropped_at = clock_timestamp(), dropped_by = grace_internal.caller(), dropped_login = session_user
  where e.id = end_exemption.id and e.dropped_at is null;
  if not found then
    raise exception 'there is no exemption % to end', coalesce(id::text, 'null')
      using errcode = 'GR027', detail = 'It never was, or was ended.', hint = 'select * from grace.exemptions where is_active;';
  end if;
end
$$;
comment on function grace.end_exemption(bigint) is
'Puts a record back under its rule, which acts on it at its next run if it is due. Who exempted it and why stays in grace.exemptions. Errors: GR027.';

create or replace view grace.exemptions as
select
  e.id,
  r.name as rule,
  r.target,
  e.key,
  e.reason,
  e.until,
  e.dropped_at is null and coalesce(e.until > statement_timestamp(), true) as is_active,
  e.created_at,
  e.created_by,
  e.created_login,
  e.dropped_at,
  e.dropped_by,
  e.dropped_login
from grace_internal.exemption e
join grace_internal.rule r on r.id = e.rule_id;

comment on view grace.exemptions is 'Records that a rule does not act on, now or once: who said so and why.';
