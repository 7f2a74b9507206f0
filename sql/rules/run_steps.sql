-- A run that could not even begin is on record all the same.
create or replace function grace_internal.record_failed_run(rule grace_internal.rule, problem text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
begin
  insert into grace_internal.run (kind, rule_id, job, target, status, finished_at, details, role, login)
  values (
    'rule', rule.id, (select j.name from grace_internal.job j where j.rule_id = rule.id), rule.target, 'failed', clock_timestamp(),
    jsonb_build_object('rule', rule.name, 'problem', problem), grace_internal.caller(), session_user
  )
  returning id into v_run;
  perform grace_internal.report_run(v_run);
  raise warning 'rule % can''t run', quote_literal(rule.name)
    using errcode = 'GR028', detail = problem || '.', hint = 'Nothing was deleted. select * from grace.rules; says what is wrong.';
end
$$;

-- The run that waits for approval: the last one of its rule, if it was held, and the rule still says what it said then.
create or replace function grace_internal.held_run(rule_id integer)
returns grace_internal.run
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.*
  from grace_internal.run r
  where r.id = (select max(l.id) from grace_internal.run l where l.rule_id = held_run.rule_id and l.kind = 'rule')
    and r.status = 'held'
    and r.started_at > (select l.changed_at from grace_internal.rule l where l.id = held_run.rule_id)
$$;

-- Whether a login has had a part in what a rule, or its filter, says, ever.
create or replace function grace_internal.has_written(login name, rule_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.run r
    where r.rule_id = has_written.rule_id and r.kind = 'change' and r.login = has_written.login and r.details ? 'definition'
  ) or exists (
    select
    from grace_internal.rule l
    join grace_internal.run r on r.kind = 'change' and r.details @> jsonb_build_object('filter_id', l.filter_id)
    where l.id = has_written.rule_id and r.login = has_written.login
  )
$$;

create or replace function grace_internal.require_approver(rule grace_internal.rule)
returns grace_internal.run
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_held grace_internal.run := grace_internal.held_run(rule.id);
begin
  if v_held.id is null then
    raise exception 'nothing of rule % waits for approval', quote_literal(rule.name)
      using errcode = 'GR032', detail = 'Its last run was not held, or the rule was changed since.', hint = 'Run it without approval.';
  end if;
  if rule.four_eyes and grace_internal.has_written(session_user, rule.id) then
    raise exception 'a run of rule % has to be approved by somebody else', quote_literal(rule.name)
      using errcode = 'GR032', detail = format('%s wrote the rule, which says four_eyes.', session_user),
      hint = 'Let another administrator approve it.';
  end if;
  return v_held;
end
$$;

-- How many rows of a rule's table meet a condition, and the token that says which: the keys' hashes taken together, in no order.
create or replace function grace_internal.count_due(
  rule grace_internal.rule, due text, with_token boolean, out rows bigint, out token text
)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
begin
  perform set_config('timezone', rule.zone, true);
  execute 'select * from ' || grace_internal.as_role(
    rule.run_as, 'read',
    format(
      'select count(*), %s from %s where %s',
      case when with_token then format('bit_xor(hashtextextended(%s::text, 0))', v_query.key_object) else 'null::bigint' end,
      v_query.source, due
    ),
    'rows bigint, hash bigint'
  ) into rows, token;
  token := case when with_token then format('%s-%s', rows, to_hex(coalesce(token::bigint, 0))) end;
end
$$;

create or replace function grace_internal.count_table(rule grace_internal.rule)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  execute 'select * from ' || grace_internal.as_role(
    rule.run_as, 'read', format('select count(*) from %s', grace_internal.source_of(rule.target)), 'rows bigint'
  ) into v_rows;
  return v_rows;
end
$$;

-- The limit that this many rows pass, in words, null when they pass none; and how many rows a run may delete, null for any number.
create or replace function grace_internal.limit_passed(rule grace_internal.rule, rows bigint, out reason text, out most bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_total bigint;
begin
  if rows > rule.max_rows then
    reason := format('%s rows are more than max_rows, %s', rows, rule.max_rows);
    most := rule.max_rows;
    return;
  end if;
  if rule.max_fraction < 1 then
    if rows > 100 then
      v_total := grace_internal.count_table(rule);
    end if;
    most := greatest(100, floor(rule.max_fraction * v_total));
    if rows > most then
      reason := format(
        '%s of %s rows are more than max_fraction, %s %%', rows, v_total, to_char(100 * rule.max_fraction, 'FM990.###')
      );
    end if;
  end if;
  most := least(rule.max_rows, most);
end
$$;

-- Opens a run; null when there is nothing to go on with, because the rule can't act or its run is held.
create or replace function grace._run_begin(rule text, approve boolean, expect bigint, token text)
returns bigint
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_now timestamptz := clock_timestamp();
  v_horizon timestamptz;
  v_due text;
  v_held grace_internal.run;
  v_other grace_internal.run;
  v_alone boolean;
  v_aborted bigint;
  v_rows bigint;
  v_acting bigint;
  v_token text;
  v_limit text;
  v_most bigint;
  v_problem text;
  v_run bigint;
begin
  if v_rule.action = 'keep' then
    raise exception 'rule % keeps, and has nothing to run', quote_literal(rule)
      using errcode = 'GR031', detail = 'Other rules go by it.', hint = 'select * from grace.planned(…);';
  end if;
  if not v_rule.enabled then
    raise exception 'rule % is disabled', quote_literal(rule)
      using errcode = 'GR031', detail = 'It does nothing.', hint = format('select grace.enable_rule(%L);', rule);
  end if;
  -- Of two runs of a rule one is refused, whether the other has begun or is still counting.
  v_alone := pg_try_advisory_xact_lock(hashtextextended('pg_grace: run', v_rule.id));
  select r.* into v_other
  from grace_internal.run r
  where r.rule_id = v_rule.id and r.kind = 'rule' and r.status = 'running' and r.pid <> pg_backend_pid()
    and grace._is_running(r.pid, r.started_at);
  if found or not v_alone then
    raise exception 'rule % is running', quote_literal(rule)
      using errcode = 'GR014',
      detail = case
        when v_other.id is null then 'It is beginning in another session.'
        else format('Run %s, process %s, since %s.', v_other.id, v_other.pid, v_other.started_at)
      end,
      hint = 'It does the same work; wait for it.';
  end if;
  for v_aborted in
    update grace_internal.run r
    set status = 'aborted', finished_at = clock_timestamp()
    where r.rule_id = v_rule.id and r.kind = 'rule' and r.status = 'running'
    returning r.id
  loop
    perform grace_internal.report_run(v_aborted);
  end loop;
  if approve then
    v_held := grace_internal.require_approver(v_rule);
  end if;
  v_problem := grace_internal.rule_problem(v_rule);
  if v_problem is not null then
    perform grace_internal.record_failed_run(v_rule, v_problem);
    return null;
  end if;
  v_horizon := grace_internal.horizon(v_rule, v_now);
  v_due := grace_internal.is_due(grace_internal.rule_query(v_rule), v_horizon);
  begin
    perform grace_internal.ensure_runner(v_rule.run_as);
    if v_rule.notice is not null then
      perform grace_internal.announce(v_rule);
    end if;
    select c.rows, c.token into v_rows, v_token from grace_internal.count_due(v_rule, v_due, token is not null) c;
    v_acting := v_rows - (select count(*) from grace_internal.left_out_of(v_rule, v_due));
    select l.reason, l.most into v_limit, v_most from grace_internal.limit_passed(v_rule, v_acting) l;
  exception when others then
    perform grace_internal.record_failed_run(v_rule, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
    return null;
  end;
  if v_rows <> expect or v_token <> token then
    raise exception 'rule % matches something else now', quote_literal(rule)
      using errcode = 'GR030',
      detail = concat_ws(
        '; ', format('%s rows are due now', v_rows) || ', ' || expect || ' were expected', 'the preview''s token was ' || token || ', it is ' || v_token
      ) || '.',
      hint = 'Nothing was deleted. Preview it again: select * from grace.preview(…);';
  end if;
  if v_acting <= (v_held.details ->> 'acting')::bigint then
    v_limit := null;
    v_most := greatest(v_most, (v_held.details ->> 'acting')::bigint);
  end if;
  insert into grace_internal.run (kind, rule_id, job, target, status, finished_at, details, role, login)
  values (
    'rule', v_rule.id, (select j.name from grace_internal.job j where j.rule_id = v_rule.id), v_rule.target,
    case when v_limit is null then 'running' else 'held' end, case when v_limit is not null then clock_timestamp() end,
    jsonb_strip_nulls(jsonb_build_object(
      'rule', v_rule.name, 'as', grace_internal.role_name(v_rule.run_as), 'as_of', v_now, 'due_by', v_horizon,
      'matched', v_rows, 'acting', v_acting,
      'condition', v_rule.condition, 'start', v_rule.start_expression, 'period', v_rule.period,
      'plan', grace_internal.run_plan(v_rule, v_horizon), 'held_because', v_limit, 'approves', v_held.id,
      'most', v_most, 'changed_at', v_rule.changed_at
    )),
    grace_internal.caller(), session_user
  )
  returning id into v_run;
  if v_limit is not null then
    perform grace_internal.report_run(v_run);
    raise warning 'rule % waits for approval', quote_literal(rule)
      using errcode = 'GR030', detail = v_limit || '.', hint = format('Nothing was deleted. call grace.run(%L, approve => true);', rule);
    return null;
  end if;
  return v_run;
end
$$;
comment on function grace._run_begin(text, boolean, bigint, text) is 'Internal: opens the run of a rule.';

create or replace function grace_internal.run_plan(rule grace_internal.rule, horizon timestamptz)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
  v_plan jsonb;
begin
  perform set_config('timezone', rule.zone, true);
  execute 'select jsonb_agg(k.line) from ' || grace_internal.as_role(
    rule.run_as, 'read',
    format('explain select %s from %s where %s', v_query.keys, v_query.source, grace_internal.is_due(v_query, horizon)), 'line text'
  ) into v_plan;
  return v_plan;
end
$$;

-- Where other tables, or rules that keep, say whether a row goes, it is locked first, if the role may: who adds a contact or an invoice
-- meanwhile waits, and what was added before is seen by what looks after that.
create or replace function grace_internal.locks_rows(rule grace_internal.rule)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  return (rule.condition || coalesce(rule.start_expression, '') ~* '\mselect\M' or exists (select from grace_internal.keeping_rules(rule)))
    and has_table_privilege(rule.run_as, rule.target, 'UPDATE');
end
$$;

-- The condition that a row comes after the last one of the batch before, in the key's order.
create or replace function grace_internal.comes_after(rule grace_internal.rule, query grace_internal.rule_query, after jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when after is null then 'true' else format('(%s) > (%s)', query.keys, (
    select string_agg(format('%L::%s', after ->> a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by k.position)
    from unnest(grace_internal.primary_key(rule.target)) with ordinality as k (attnum, position)
    join pg_attribute a on a.attrelid = rule.target and a.attnum = k.attnum
  )) end;
end
$$;

-- The next rows of a run, found and deleted by one statement: where nothing but the rule's own condition says which go. The condition
-- stands in both parts: a row that somebody changes meanwhile is looked at again. Returns how many were found and how many are gone.
create or replace function grace_internal.delete_next(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, after jsonb, size integer,
  out picked integer, out deleted integer, out last jsonb
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'select * from %s',
    grace_internal.as_role(
      rule.run_as, 'write',
      format(
        'with pick as materialized (select %1$s from %2$s where %3$s and %4$s order by %1$s limit %5$s), '
        'gone as (delete from %2$s where (%1$s) in (select * from pick) and %3$s returning 1) '
        'select (select count(*) from pick), (select count(*) from gone), '
        '(select %6$s from (select * from pick offset %7$s limit 1) %8$I)',
        query.keys, query.source, grace_internal.is_due(query, horizon), grace_internal.comes_after(rule, query, after), size,
        query.key_object, size - 1, grace_internal.alias_of(rule.target)
      ),
      'picked bigint, deleted bigint, last jsonb'
    )
  ) into picked, deleted, last;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
end
$$;

-- The next rows of a run by their keys, in the key's order.
create or replace function grace_internal.pick_keys(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, after jsonb, size integer
)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [];
begin
  execute format(
    'select array_agg(k.key) from %s',
    grace_internal.as_role(
      rule.run_as, 'read',
      format(
        'select %s from %s where %s and %s order by %s limit %s',
        query.key_object, query.source, grace_internal.is_due(query, horizon), grace_internal.comes_after(rule, query, after), query.keys,
        size
      ),
      'key jsonb'
    )
  ) into v_keys;
  return coalesce(v_keys, '{}');
end
$$;

-- Which of these records still are what the rule is about.
create or replace function grace_internal.still_due(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, keys jsonb []
)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [];
begin
  execute format(
    'select array_agg(k.key) from %s',
    grace_internal.as_role(
      rule.run_as, 'read',
      format(
        'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) and %s',
        query.key_object, query.source, query.keys, query.key_list, to_jsonb(keys), query.key_columns,
        grace_internal.is_due(query, horizon)
      ),
      'key jsonb'
    )
  ) into v_keys;
  return coalesce(v_keys, '{}');
end
$$;

-- Locks records; returns those that nobody else has locked.
create or replace function grace_internal.lock_keys(
  rule grace_internal.rule, query grace_internal.rule_query, keys jsonb []
)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [];
begin
  execute format(
    'select array_agg(k.key) from %s',
    grace_internal.as_role(
      rule.run_as, 'write',
      format(
        'select %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) for update of %I skip locked',
        query.key_object, query.source, query.keys, query.key_list, to_jsonb(keys), query.key_columns,
        grace_internal.alias_of(rule.target)
      ),
      'key jsonb'
    )
  ) into v_keys;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
  return coalesce(v_keys, '{}');
end
$$;

create or replace function grace_internal.delete_keys(
  rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, keys jsonb []
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  execute format(
    'select * from %s',
    grace_internal.as_role(
      rule.run_as, 'write',
      format(
        'with gone as (delete from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) and %s returning 1) '
        'select count(*) from gone',
        query.source, query.keys, query.key_list, to_jsonb(keys), query.key_columns, grace_internal.is_due(query, horizon)
      ),
      'rows bigint'
    )
  ) into v_rows;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
  return v_rows;
end
$$;

-- What a hold or another rule keeps is named as well, but nothing has failed.
create or replace function grace_internal.record_failure(run bigint, key jsonb, code text, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if code = 'GR029' then
    update grace_internal.run r
    set details = r.details || jsonb_build_object('left_out', coalesce(r.details -> 'left_out', '{}') || jsonb_build_object(
      'held', coalesce((r.details #>> '{left_out,held}')::bigint, 0) + 1
    ))
    where r.id = run;
  elsif code <> 'GR033' then
    update grace_internal.run r
    set details = jsonb_set(r.details, '{failures}', to_jsonb(coalesce((r.details ->> 'failures')::bigint, 0) + 1))
    where r.id = run;
  end if;
  insert into grace_internal.run_failure (run_id, key, sqlstate, reason)
  select record_failure.run, record_failure.key, record_failure.code, record_failure.reason
  where (select count(*) from grace_internal.run_failure f where f.run_id = record_failure.run) < 10000;
end
$$;

-- Whether somebody else has locked a table, or one that deletes from it cascade into, against all deletes.
create or replace function grace_internal.is_locked(target regclass)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_locks l
    where l.granted and l.pid <> pg_backend_pid() and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      and l.locktype = 'relation' and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation in (
        select p.relation
        from grace_internal.cascade_tree(is_locked.target, true) as c (relation)
        cross join lateral grace_internal.partition_tree(c.relation) as p (relation)
      )
  )
$$;

-- Deletes records, all at once where that goes, else in ever smaller parts, until those that can't be deleted stand alone; what each of
-- them says is on record. Stops after a while, for what is deleted stays locked until the batch ends. Returns how many are gone, and the
-- last record that it came to. Errors: 55P03 when a whole table is locked: so would be all the rest.
create or replace function grace_internal.delete_each(
  run bigint, rule grace_internal.rule, query grace_internal.rule_query, horizon timestamptz, keys jsonb [],
  out deleted bigint, out last jsonb
)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5ms'
as $$
declare
  v_began timestamptz := clock_timestamp();
  v_count integer := cardinality(keys);
  v_next integer := 1;
  v_size integer := cardinality(keys);
  v_part jsonb [];
  v_locks boolean := grace_internal.locks_rows(rule);
  v_free jsonb [];
  v_rows bigint;
  v_left jsonb;
begin
  deleted := 0;
  while v_next <= v_count and (last is null or clock_timestamp() < v_began + interval '60 milliseconds') loop
    v_part := keys[v_next:least(v_next + v_size - 1, v_count)];
    begin
      v_free := case when v_locks then grace_internal.lock_keys(rule, query, v_part) else v_part end;
      perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
      v_rows := grace_internal.delete_keys(rule, query, horizon, v_free);
      perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      if v_rows < cardinality(v_part) then
        foreach v_left in array grace_internal.still_due(rule, query, horizon, v_part) loop
          if v_left = any (v_free) then
            perform grace_internal.record_failure(
              run, v_left, '42501', format('role %s may not delete it: row security or a trigger kept it', rule.run_as)
            );
          else
            perform grace_internal.record_failure(run, v_left, '55P03', 'another session is changing it');
          end if;
        end loop;
      end if;
      deleted := deleted + v_rows;
      v_next := v_next + cardinality(v_part);
      last := keys[v_next - 1];
      v_size := least(v_size * 2, v_count);
    exception when others then
      if cardinality(v_part) > 1 then
        v_size := (cardinality(v_part) + 1) / 2;
      else
        if sqlstate = '55P03' and grace_internal.is_locked(rule.target) then
          raise;
        end if;
        perform grace_internal.record_failure(run, v_part[1], sqlstate, left(sqlerrm, 500));
        last := v_part[1];
        v_next := v_next + 1;
        v_size := 1;
      end if;
    end;
  end loop;
end
$$;

-- Ends a run before its time, with the reason; what is left is for the next one.
create or replace function grace_internal.stop_run(run bigint, status text, reason text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.run r
  set details = r.details || jsonb_build_object('stopped', jsonb_build_object('status', stop_run.status, 'reason', stop_run.reason))
  where r.id = stop_run.run
$$;

-- Whether something beside a rule's condition says which of its rows go: then they are looked at by their keys before they are deleted.
create or replace function grace_internal.needs_care(rule grace_internal.rule)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select
      rule.notice is not null
      or grace_internal.locks_rows(rule)
      or exists (select from grace_internal.exemption e where e.rule_id = rule.id and e.dropped_at is null)
      or exists (select from grace_internal.counted_from(rule))
      or exists (select from grace_internal.rule k where k.action = 'keep' and k.enabled)
      and exists (select from grace_internal.keeping_rules(rule))
  );
end
$$;

-- Of the records that a run could not have because others had locked them the next ones, in the order of their keys; they are no failures
-- any more.
create or replace function grace_internal.take_locked(run bigint, after jsonb, size integer)
returns jsonb []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys jsonb [] := array(
    select f.key
    from grace_internal.run_failure f
    where f.run_id = take_locked.run and f.sqlstate = '55P03' and coalesce(f.key > take_locked.after, true)
    order by f.key
    limit take_locked.size
  );
begin
  delete from grace_internal.run_failure f where f.run_id = take_locked.run and f.sqlstate = '55P03' and f.key = any (v_keys);
  update grace_internal.run r
  set details = case
    when (r.details ->> 'failures')::bigint > cardinality(v_keys) then
      jsonb_set(r.details, '{failures}', to_jsonb((r.details ->> 'failures')::bigint - cardinality(v_keys)))
    else r.details - 'failures'
  end
  where r.id = take_locked.run and cardinality(v_keys) > 0;
  return v_keys;
end
$$;

-- One batch after another, each a transaction. position says how far the run is, null to begin; returns where to go on, null at the end.
-- What others have locked is tried again, up to three times: whole batches at once, single records when all the others are done.
-- What one statement can't delete is gone through by keys. A batch is made smaller while deleting its rows takes longer than others
-- should have to wait for them; what it takes to look at what rules keep does not depend on how many rows it has.
create or replace function grace._run_batch(run bigint, "position" jsonb)
returns jsonb
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
set timezone = 'UTC'
as $$
declare
  v_began timestamptz := clock_timestamp();
  v_run grace_internal.run;
  v_rule grace_internal.rule;
  v_query grace_internal.rule_query;
  v_horizon timestamptz;
  v_keys jsonb [];
  v_size integer;
  v_picked integer;
  v_rows bigint;
  v_after jsonb := nullif("position" -> 'after', 'null');
  v_round integer := coalesce(("position" ->> 'round')::integer, 0);
  v_tries integer := coalesce(("position" ->> 'tries')::integer, 0);
  v_last jsonb;
  v_wanted jsonb [];
  v_left_out grace_internal.left_out [];
  v_stopped jsonb;
  v_most bigint;
  v_careful boolean;
  v_role text;
  v_deleting_since timestamptz;
begin
  select r.* into v_run
  from grace_internal.run r
  where r.id = run and r.kind = 'rule' and r.status = 'running' and r.pid = pg_backend_pid();
  if not found then
    raise exception 'run % is no run of a rule in this session', run
      using errcode = 'GR014', detail = 'Batches are done by grace.run() only.', hint = 'call grace.run(…);';
  end if;
  select r.* into v_rule from grace_internal.rule r where r.id = v_run.rule_id;
  if not found or not v_rule.enabled or v_rule.changed_at <> (v_run.details ->> 'changed_at')::timestamptz then
    perform grace_internal.stop_run(run, 'incomplete', 'the rule was changed or disabled meanwhile');
    return null;
  elsif v_rule.max_duration < v_began - v_run.started_at then
    perform grace_internal.stop_run(run, 'incomplete', 'max_duration has passed');
    return null;
  end if;
  v_horizon := (v_run.details ->> 'due_by')::timestamptz;
  v_size := coalesce(("position" ->> 'size')::integer, v_rule.batch_size);
  v_query := grace_internal.rule_query(v_rule);
  v_most := (v_run.details ->> 'most')::bigint - v_run.row_count;
  begin
    perform pg_advisory_xact_lock_shared(grace_internal.exemption_lock(v_rule.id));
    v_careful := grace_internal.needs_care(v_rule);
    perform grace_internal.require_valid('rule', v_rule.name, v_rule.depends, v_rule.home);
    perform set_config('timezone', v_rule.zone, true);
    if v_most <= 0 then
      if cardinality(grace_internal.pick_keys(v_rule, v_query, v_horizon, v_after, 1)) > 0 then
        perform grace_internal.stop_run(run, 'incomplete', 'more rows have come to match than may be deleted at once');
      end if;
      return null;
    end if;
    v_size := least(v_size, v_most);
    v_role := grace_internal.role_name(v_rule.run_as);
    perform set_config('grace.acting_as', v_role || ' ' || grace_internal.signature('as ' || v_role), true);
    perform set_config('grace.reason', format('rule %s, run %s', quote_literal(v_rule.name), run), true);
    v_deleting_since := clock_timestamp();
    v_careful := v_careful or v_round > 0;
    if not v_careful then
      begin
        select d.picked, d.deleted, d.last into v_picked, v_rows, v_last
        from grace_internal.delete_next(v_rule, v_query, v_horizon, v_after, v_size) d;
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); -- triggers may have set it
      exception when others then
        v_careful := true;
      end;
    end if;
    if v_careful or v_picked > v_rows then
      v_keys := case
        when v_round > 0 then grace_internal.take_locked(run, v_after, v_size)
        else grace_internal.pick_keys(v_rule, v_query, v_horizon, v_after, v_size)
      end;
      v_picked := cardinality(v_keys);
      v_last := v_keys[v_size];
      if grace_internal.locks_rows(v_rule) then
        perform grace_internal.lock_keys(v_rule, v_query, v_keys);
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      end if;
      v_left_out := grace_internal.leave_out(v_rule, v_keys);
      v_wanted := grace_internal.without(v_keys, v_left_out);
      v_deleting_since := clock_timestamp();
      perform grace_internal.remember_activities(v_rule, v_wanted);
      select coalesce(v_rows, 0) + d.deleted, d.last into v_rows, v_stopped
      from grace_internal.delete_each(run, v_rule, v_query, v_horizon, v_wanted) d;
      perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
      if v_stopped <> v_wanted[cardinality(v_wanted)] then
        v_last := v_stopped;
        if v_round > 0 then
          perform grace_internal.record_failure(run, k, '55P03', 'another session is changing it')
          from unnest(v_keys[array_position(v_keys, v_stopped) + 1:]) k;
        end if;
        v_keys := v_keys[:array_position(v_keys, v_stopped)];
      end if;
      perform grace_internal.record_left_out(run, v_left_out, v_keys);
    end if;
  exception when others then
    if sqlstate = '55P03' and v_tries < 3 then
      return jsonb_build_object('after', v_after, 'size', v_size, 'round', v_round, 'tries', v_tries + 1, 'pause', 0.5);
    end if;
    perform grace_internal.stop_run(
      run, case sqlstate when '55P03' then 'incomplete' else 'failed' end, format('%s (SQLSTATE %s)', sqlerrm, sqlstate)
    );
    return null;
  end;
  update grace_internal.run r
  set row_count = r.row_count + v_rows, batches = r.batches + sign(v_picked)
  where r.id = run;
  if v_last is null then
    return (
      select jsonb_build_object('round', v_round + 1, 'pause', greatest(0.5, extract(epoch from v_rule.pause)))
      where v_round < 3 and exists (
        select from grace_internal.run_failure f where f.run_id = run and f.sqlstate = '55P03'
      )
    );
  end if;
  return jsonb_build_object(
    'after', v_last,
    'round', v_round,
    'size', case
      when clock_timestamp() - v_deleting_since > interval '80 milliseconds' then greatest(1, v_size / 2)
      else least(v_rule.batch_size, v_size * 2)
    end,
    'pause', extract(epoch from v_rule.pause)
  );
end
$$;
comment on function grace._run_batch(bigint, jsonb) is 'Internal: one batch of a run.';

create or replace function grace._run_end(run bigint)
returns void
language plpgsql
security definer -- writes the run
set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
  v_rule grace_internal.rule;
begin
  -- What is gone is no longer announced: restored, it has to be announced anew.
  select l.* into v_rule
  from grace_internal.run r
  join grace_internal.rule l on l.id = r.rule_id and l.notice is not null and l.enabled
  where r.id = run and r.row_count > 0 and r.pid = pg_backend_pid() and r.status = 'running';
  if found and grace_internal.rule_problem(v_rule) is null then
    begin
      perform grace_internal.announce(v_rule);
    exception when others then
      raise warning 'what rule % plans could not be announced', quote_literal(v_rule.name) using errcode = sqlstate, detail = sqlerrm;
    end;
  end if;
  update grace_internal.run r
  set
    finished_at = clock_timestamp(),
    status = coalesce(r.details #>> '{stopped,status}', case when r.details ? 'failures' then 'incomplete' else 'done' end)
  where r.id = run and r.kind = 'rule' and r.status = 'running' and r.pid = pg_backend_pid()
  returning r.status into v_status;
  perform grace_internal.forget_activities();
  if v_status <> 'done' then
    perform grace_internal.report_run(run);
  end if;
end
$$;
comment on function grace._run_end(bigint) is 'Internal: closes the run of a rule.';
