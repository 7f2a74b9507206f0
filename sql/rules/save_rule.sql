create or replace function grace_internal.rule_named(name text)
returns grace_internal.rule
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
begin
  select r.* into v_rule from grace_internal.rule r where r.name = rule_named.name;
  if not found then
    raise exception 'there is no rule %', coalesce(quote_literal(name), 'null')
      using errcode = 'GR027',
      detail = coalesce(
        'Rules: ' || (select string_agg(quote_literal(r.name), ', ' order by r.name) from grace_internal.rule r),
        'There are no rules.'
      ),
      hint = 'select * from grace.rules;';
  end if;
  return v_rule;
end
$$;

-- Null when it is gone.
create or replace function grace_internal.role_name(role oid)
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.rolname from pg_roles r where r.oid = role
$$;

-- Only who may become a role may have a rule run as that role, or change what such a rule does.
create or replace function grace_internal.require_membership(role name)
returns regrole
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_role oid := (select r.oid from pg_roles r where r.rolname = role);
begin
  if v_role is null then
    raise exception 'there is no role %', coalesce(quote_ident(role), '(none was named)')
      using errcode = 'undefined_object', detail = 'A rule runs as a role of the database.', hint = 'Create it, or name another one.';
  end if;
  if not pg_has_role(grace_internal.caller(), v_role, 'member') then
    raise exception 'a rule of % can''t run as role %', grace_internal.caller(), quote_ident(role)
      using errcode = 'insufficient_privilege',
      detail = format('Role %I is no member of %I.', grace_internal.caller(), role),
      hint = format('As a superuser, or who may grant it: grant %I to %I;', role, grace_internal.caller());
  end if;
  return v_role::regrole;
end
$$;

-- A rule whose role is gone may be mended by anybody who administers.
create or replace function grace_internal.require_membership_of_rule(rule grace_internal.rule)
returns void
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.require_membership(r.rolname) from pg_roles r where r.oid = rule.run_as
$$;

create or replace function grace_internal.refuse_rule(problem text, detail text, hint text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '%', problem using errcode = 'GR031', detail = detail, hint = hint;
end
$$;

-- What can be seen from the definition alone.
create or replace function grace_internal.check_definition(d jsonb, new_rule grace_internal.rule)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_has_start constant boolean := new_rule.start_expression is not null;
begin
  if new_rule.name = '' then
    perform grace_internal.refuse_rule('a rule needs a name', 'The name is empty.', 'Give a name that says what goes.');
  end if;
  if new_rule.action = 'anonymize' then
    raise exception 'rules can''t anonymize yet'
      using errcode = 'feature_not_supported', detail = 'There are no masks that say what becomes of a column.',
      hint = 'Use delete, or keep.';
  end if;
  if new_rule.action not in ('delete', 'keep') or new_rule.action is null then
    perform grace_internal.refuse_rule(
      format('there is no action %s', coalesce(quote_literal(new_rule.action), 'null')), 'Actions: delete, keep.',
      'delete moves records into the buffer; keep says that no rule may delete them before they are due.'
    );
  end if;
  if v_has_start and d ->> 'period' is null then
    perform grace_internal.refuse_rule(
      'a rule that has a start needs a period', 'What the start is for can''t be told.', 'Give a period, for example 12 months; 0 for none.'
    );
  end if;
  if not v_has_start and (d ->> 'period')::interval <> interval '0' then
    perform grace_internal.refuse_rule(
      'a period needs a start', format('From when %s counts is not said.', d ->> 'period'),
      'Give a column or expression as starts, or activities.'
    );
  end if;
  if new_rule.period < interval '0' or new_rule.notice <= interval '0' or new_rule.max_duration <= interval '0'
    or new_rule.pause < interval '0'
  then
    perform grace_internal.refuse_rule(
      'an interval of a rule is negative', 'period, notice, pause and max_duration are lengths of time.', 'Give positive intervals.'
    );
  end if;
  if num_nulls(new_rule.max_fraction, new_rule.batch_size, new_rule.pause, new_rule.four_eyes, new_rule.final_by_due) > 0 then
    perform grace_internal.refuse_rule(
      'something that a rule can''t be without is null', 'max_fraction, batch_size, pause, four_eyes and final_by_due have to be given.',
      'max_fraction 1 means no limit, pause 0 none.'
    );
  end if;
  if new_rule.max_rows < 0 or new_rule.max_fraction not between 0 and 1 or new_rule.batch_size not between 1 and 100000 then
    perform grace_internal.refuse_rule(
      'a limit of the rule is out of range', 'max_rows is at least 0, max_fraction between 0 and 1, batch_size between 1 and 100000.',
      'max_fraction 0.1 means a tenth of the table, 1 no limit.'
    );
  end if;
  if new_rule.action = 'keep' and (not v_has_start or d ->> 'schedule' is not null or new_rule.final_by_due or new_rule.notice is not null) then
    perform grace_internal.refuse_rule(
      'a rule that keeps has a start and a period, and nothing to run', 'It has no schedule, no notice and no final_by_due.',
      'Give starts and period, for example end of year of invoiced_on and 8 years.'
    );
  end if;
  if new_rule.final_by_due and not v_has_start then
    perform grace_internal.refuse_rule(
      'final_by_due needs a start and a period', 'What is due at once can''t be gone by then.', 'Give starts and period.'
    );
  end if;
  if new_rule.final_by_due and new_rule.period <= grace_internal.ahead(new_rule) then
    perform grace_internal.refuse_rule(
      format('the period is too short for final_by_due: %s', new_rule.period),
      format('What is deleted stays in the buffer, with a day for the purge, for %s.', justify_interval(grace_internal.ahead(new_rule))),
      'Shorten the retention (grace.set_retention), or leave final_by_due out.'
    );
  end if;
end
$$;

-- A superuser does not run what others may change.
create or replace function grace_internal.refuse_strange_code(role regrole, target regclass, depends jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text := grace_internal.strange_code(target, depends, role);
begin
  if v_code is not null and (select r.rolsuper from pg_roles r where r.oid = role) then
    raise exception 'the rule would run somebody else''s code as a superuser'
      using errcode = 'insufficient_privilege',
      detail = format('%s would run with the rights of role %s.', v_code, role),
      hint = 'Let it run as a role that is no superuser, or let a superuser own the code.';
  end if;
end
$$;

-- Makes a rule of a definition, or an existing one anew. Names in texts are read under path; what a rule has kept from before under its
-- own.
create or replace function grace._save_rule(definition jsonb, path text, existing text default null)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set timezone = 'UTC'
as $$
declare
  v_old grace_internal.rule;
  v_new grace_internal.rule;
  v_filter grace_internal.filter;
  v_texts record;
  v_condition grace_internal.expression;
  v_bare text;
  v_start grace_internal.expression;
  v_query grace_internal.rule_query;
begin
  if existing is not null then
    v_old := grace_internal.rule_named(existing);
    perform grace_internal.require_membership_of_rule(v_old);
  end if;
  if exists (select from grace_internal.rule r where r.name = definition ->> 'name' and r.id is distinct from v_old.id) then
    raise exception 'there is a rule % already', quote_literal(definition ->> 'name')
      using errcode = 'duplicate_object', detail = 'Names of rules are unique.',
      hint = 'Give another name, change it (grace.alter_rule), or drop it first (grace.drop_rule).';
  end if;
  select t.* into v_texts from grace._rule_texts(definition, path) t;
  if definition ->> 'filter' is not null then
    v_filter := grace_internal.filter_named(definition ->> 'filter');
  end if;

  begin
    v_new.name := coalesce(definition ->> 'name', '');
    v_new.filter_id := v_filter.id;
    v_new.target := coalesce(v_filter.target, (definition ->> 'target')::oid::regclass);
    v_new.action := definition ->> 'action';
    v_new.predicate := definition ->> 'predicate';
    v_new.starts := definition ->> 'starts';
    v_new.activities := coalesce(nullif(definition -> 'activities', 'null'), '[]');
    v_new.related_to := definition -> 'related_to';
    v_new.period := coalesce((definition ->> 'period')::interval, '0');
    v_new.zone := coalesce(v_old.zone, definition ->> 'zone');
    v_new.final_by_due := (definition ->> 'final_by_due')::boolean;
    v_new.notice := (definition ->> 'notice')::interval;
    v_new.run_as := grace_internal.require_membership(definition ->> 'run_as');
    v_new.columns := grace_internal.check_columns(
      v_new.target, coalesce(
        nullif(array(select jsonb_array_elements_text(definition -> 'columns')), '{}')::name [], v_filter.columns, '{}'
      )
    );
    v_new.max_rows := (definition ->> 'max_rows')::bigint;
    v_new.max_fraction := (definition ->> 'max_fraction')::numeric;
    v_new.batch_size := (definition ->> 'batch_size')::integer;
    v_new.pause := (definition ->> 'pause')::interval;
    v_new.max_duration := (definition ->> 'max_duration')::interval;
    v_new.four_eyes := (definition ->> 'four_eyes')::boolean;
    v_new.basis := definition ->> 'basis';
    v_new.path := path;
  exception when data_exception then
    perform grace_internal.refuse_rule(
      'not what a rule can be told', sqlerrm || '.', 'Give intervals as ''6 months'', numbers as numbers, lists as arrays.'
    );
  end;
  perform set_config('timezone', v_new.zone, true);

  if v_filter.id is not null then
    perform grace_internal.refuse_strange_code(v_new.run_as, v_new.target, v_filter.depends); -- before it is read again
  end if;
  perform grace_internal.ensure_runner(v_new.run_as);
  perform grace_internal.check_as(v_new.run_as, v_texts.source, c.condition, path, c.given)
  from grace_internal.lone_conditions(v_new.target, definition, path) c;
  perform grace_internal.check_as(v_new.run_as, v_texts.source, v_texts.condition, path);
  v_condition := grace_internal.read_expression(v_new.target, v_texts.condition, path, v_new.run_as);
  if v_new.starts is not null then
    v_bare := grace_internal.start_without_words(v_new.starts);
    perform grace_internal.check_as(v_new.run_as, v_texts.source, format(e'(%s\n) is null', v_bare), path, v_new.starts, true);
    v_start := grace_internal.read_expression(v_new.target, v_bare, path, v_new.run_as);
    if not grace_internal.is_moment(v_start.type) then
      perform grace_internal.refuse_rule(
        format('a period can''t start with %s', v_new.starts), format('It is of type %s.', v_start.type),
        'Give a column or expression of type date, timestamp or timestamp with time zone.'
      );
    end if;
  end if;
  if v_texts.starts is not null then
    perform grace_internal.check_as(v_new.run_as, v_texts.source, format(e'(%s\n) is null', v_texts.starts), path, (
      select string_agg(t.part, ', ')
      from (select v_new.starts as part union all select jsonb_array_elements_text(v_new.activities)) t
    ), true);
    v_start := grace_internal.read_expression(v_new.target, v_texts.starts, path, v_new.run_as);
  end if;
  v_new.condition := v_condition.text;
  v_new.start_expression := v_start.text;
  perform grace_internal.check_definition(definition, v_new);
  v_query := grace_internal.make_query(v_new);
  v_new.query := to_jsonb(v_query);
  v_new.sources := grace_internal.activity_sources(v_new.target, v_new.activities, path, v_new.run_as);
  perform grace_internal.check_sources(v_new);
  v_new.depends := v_condition.depends || grace_internal.sources_depend(v_new.sources, v_new.run_as) || coalesce(v_start.depends, '[]') || (
    grace_internal.read_expression(
      v_new.target, format('(%s, %s) is null', v_query.keys, coalesce(nullif(v_query.record, ''), 'null')), 'pg_catalog', v_new.run_as
    )
  ).depends;
  v_new.home := grace_internal.home();
  perform grace_internal.refuse_strange_code(v_new.run_as, v_new.target, v_new.depends);
  if v_new.action = 'delete' then
    perform grace_internal.protected_id(v_new.target);
    if not has_table_privilege(v_new.run_as, v_new.target, 'DELETE') then
      raise exception 'role % may not delete from %', v_new.run_as, v_new.target
        using errcode = 'insufficient_privilege',
        detail = 'It has no DELETE privilege on the table.', hint = format('grant delete on %s to %s;', v_new.target, v_new.run_as);
    end if;
  else
    if grace_internal.is_hidden_from(v_new.run_as, v_new.target) then
      raise exception 'role % does not see all of %', v_new.run_as, v_new.target
        using errcode = 'GR031',
        detail = 'Row security hides rows from it, which would not be kept then.',
        hint = 'Let the rule run as a role that sees all rows: the table''s owner, or one with BYPASSRLS.';
    end if;
  end if;

  if v_old.four_eyes and grace_internal.has_written(session_user, v_old.id) and (
    not v_new.four_eyes or coalesce(v_new.max_rows, 'infinity'::numeric) > coalesce(v_old.max_rows, 'infinity'::numeric)
    or v_new.max_fraction > v_old.max_fraction
  ) then
    raise exception 'the limits of rule % have to be loosened by somebody else', quote_literal(v_old.name)
      using errcode = 'GR032', detail = format('%s wrote the rule, which says four_eyes.', session_user),
      hint = 'Let another administrator do it.';
  end if;
  if existing is null then
    insert into grace_internal.rule (
      name, target, action, condition, zone, run_as, columns, max_fraction, batch_size, pause, four_eyes, depends, home, path, query,
      created_by, created_login, changed_by, changed_login
    )
    values (
      v_new.name, v_new.target, v_new.action, v_new.condition, v_new.zone, v_new.run_as, v_new.columns, v_new.max_fraction,
      v_new.batch_size, v_new.pause, v_new.four_eyes, v_new.depends, v_new.home, v_new.path, v_new.query,
      grace_internal.caller(), session_user, grace_internal.caller(), session_user
    )
    returning id into v_new.id;
  else
    v_new.id := v_old.id;
  end if;
  update grace_internal.rule r
  set
    name = v_new.name, filter_id = v_new.filter_id, target = v_new.target, action = v_new.action, predicate = v_new.predicate,
    condition = v_new.condition, starts = v_new.starts, start_expression = v_new.start_expression, activities = v_new.activities,
    related_to = v_new.related_to, period = v_new.period, final_by_due = v_new.final_by_due, notice = v_new.notice,
    run_as = v_new.run_as, columns = v_new.columns, max_rows = v_new.max_rows, max_fraction = v_new.max_fraction,
    batch_size = v_new.batch_size, pause = v_new.pause, max_duration = v_new.max_duration, four_eyes = v_new.four_eyes,
    basis = v_new.basis, depends = v_new.depends, home = v_new.home, path = v_new.path, query = v_new.query, sources = v_new.sources, reported = null,
    changed_at = clock_timestamp(),
    changed_by = grace_internal.caller(), changed_login = session_user
  where r.id = v_new.id;
  if v_new.sources = '[]' then
    delete from grace_internal.last_activity m where m.rule_id = v_new.id;
  end if;
  perform grace_internal.drop_idle_runners();
  perform grace_internal.schedule_rule(v_new.id, definition ->> 'schedule');
  insert into grace_internal.run (kind, rule_id, target, status, finished_at, details, role, login)
  values (
    'change', v_new.id, v_new.target, 'done', clock_timestamp(), jsonb_build_object('rule', v_new.name, 'definition', definition),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace._save_rule(jsonb, text, text) is 'Internal: makes a rule of its definition.';

-- The job of a rule: there while the rule is enabled and has a schedule.
create or replace function grace_internal.schedule_rule(rule_id integer, schedule text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if schedule is null then
    delete from grace_internal.job j where j.rule_id = schedule_rule.rule_id;
  else
    perform grace.schedule_in_words(schedule); -- GR024
    insert into grace_internal.job as j (name, schedule, rule_id)
    values ('rule-' || schedule_rule.rule_id, schedule_rule.schedule, schedule_rule.rule_id)
    on conflict on constraint job_pkey do update
    set schedule = excluded.schedule, changed_at = clock_timestamp()
    where j.schedule <> excluded.schedule;
  end if;
  if grace_internal.schedule_obstacle() is null then
    perform grace_internal.ensure_jobs();
  end if;
end
$$;

create or replace function grace.add_rule(
  name text,
  filter text default null,
  action text default 'delete',
  starts text default null,
  period interval default null,
  schedule text default null,
  run_as name default null,
  max_rows bigint default null,
  max_fraction numeric default 0.1,
  target regclass default null,
  predicate text default null,
  activities text [] default '{}',
  related_to text default null,
  final_by_due boolean default false,
  notice interval default null,
  columns name [] default '{}',
  batch_size integer default 1000,
  pause interval default '0',
  max_duration interval default null,
  four_eyes boolean default false,
  basis text default null
)
returns void
language plpgsql
as $$
begin
  perform grace._save_rule(
    pg_catalog.jsonb_build_object(
      'name', name, 'filter', filter, 'action', action, 'starts', starts, 'period', period, 'schedule', schedule,
      'run_as', coalesce(
        run_as, case when pg_catalog.current_setting('role') operator(pg_catalog.<>) 'none' then pg_catalog.current_setting('role') end,
        session_user
      ),
      'max_rows', max_rows,
      'max_fraction', max_fraction, 'target', target::oid, 'predicate', predicate, 'activities', coalesce(activities, '{}'),
      'related_to', related_to, 'final_by_due', final_by_due, 'notice', notice, 'columns', columns, 'batch_size', batch_size,
      'pause', pause, 'max_duration', max_duration, 'four_eyes', four_eyes, 'basis', basis,
      'zone', pg_catalog.current_setting('TimeZone')
    ),
    grace._caller_path()
  );
end
$$;
comment on function grace.add_rule(
  text, text, text, text, interval, text, name, bigint, numeric, regclass, text, text [], text, boolean, interval, name [], integer,
  interval, interval, boolean, text
) is
'Adds a rule: what happens to the rows that a filter matches (or all of target), once a period has passed since a start. action: delete, into the buffer as any delete; keep, no rule may delete it before it is due. starts: a column or expression of type date or timestamp, or "end of year of COLUMN" (quarter, month); null with no activities: due at once; a row without a start is not due. activities: TABLE.COLUMN via COLUMN [where CONDITION]: the period starts with the latest of them and starts. predicate: a condition beside the filter. related_to: TABLE [via COLUMN]: only rows that belong to a row of it. schedule: as cron writes it; null: only by hand. run_as: the role with whose rights and row security it runs; default: who adds it; only a member of a role may name it. max_rows, max_fraction: a run that would delete more rows (more than the fraction of the table, and more than 100) deletes none, and waits for approval. final_by_due: it acts so early that the buffer has run out by the due date (DIN 66398). notice: it acts only on what was announced that long before. columns: what users know the records by. batch_size: rows per transaction; pause between them; max_duration: then it stops and goes on next time. four_eyes: who approves, or loosens a limit, must not have had a part in what the rule says. basis: the law or contract. Errors: GR001, GR009, GR022, GR024, GR027, GR031, GR032, 42501, 42710, 42P01.';

create or replace function grace_internal.definition_of(rule grace_internal.rule)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'name', rule.name, 'filter', (select f.name from grace_internal.filter f where f.id = rule.filter_id), 'action', rule.action,
    'starts', rule.starts, 'period', case when rule.start_expression is not null then rule.period end,
    'schedule', (select j.schedule from grace_internal.job j where j.rule_id = rule.id), 'run_as', grace_internal.role_name(rule.run_as),
    'max_rows', rule.max_rows, 'max_fraction', rule.max_fraction,
    'target', case when rule.filter_id is null then rule.target::oid end, 'predicate', rule.predicate,
    'activities', rule.activities, 'related_to', rule.related_to #>> '{}', 'final_by_due', rule.final_by_due, 'notice', rule.notice,
    'columns', rule.columns, 'batch_size', rule.batch_size, 'pause', rule.pause, 'max_duration', rule.max_duration,
    'four_eyes', rule.four_eyes, 'basis', rule.basis, 'zone', rule.zone
  )
$$;

create or replace function grace._alter_rule(name text, changes jsonb, path text)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(name);
  v_definition jsonb;
  v_unknown text;
  v_texts constant text [] := array['predicate', 'starts', 'activities', 'related_to'];
begin
  select r.* into v_rule from grace_internal.rule r where r.id = v_rule.id for no key update; -- as somebody else has changed it meanwhile
  v_definition := grace_internal.definition_of(v_rule);
  if jsonb_typeof(changes) is distinct from 'object' then
    raise exception 'changes of a rule are an object'
      using errcode = 'GR031', detail = format('Given was %s.', coalesce(changes::text, 'null')), hint = 'Give them as {"period": "6 months"}.';
  end if;
  v_unknown := (
    select string_agg(k, ', ' order by k) from jsonb_object_keys(changes) k where not v_definition ? k or k in ('target', 'zone')
  );
  if v_unknown is not null then
    raise exception 'a rule has nothing of the name %', v_unknown
      using errcode = 'GR031',
      detail = 'It has: ' || (select string_agg(k, ', ' order by k) from jsonb_object_keys(v_definition) k where k not in ('target', 'zone')),
      hint = 'Give changes as {"period": "6 months"}.';
  end if;
  v_definition := v_definition || changes;
  if v_definition -> 'activities' = 'null' then
    v_definition := v_definition || '{"activities": []}';
  end if;
  if v_definition -> 'columns' = 'null' then
    v_definition := v_definition || '{"columns": []}';
  end if;
  perform grace._save_rule(
    v_definition,
    case
      when not changes ?| v_texts then v_rule.path
      when exists (
        select from jsonb_each(v_definition) d where d.key = any (v_texts) and d.value not in ('null', '[]') and not changes ? d.key
      ) then concat_ws(', ', nullif(v_rule.path, ''), nullif(path, '')) -- the names in what stays mean what they meant
      else path
    end,
    name
  );
end
$$;
comment on function grace._alter_rule(text, jsonb, text) is 'Internal: changes a rule.';

create or replace function grace.alter_rule(name text, changes jsonb)
returns void
language plpgsql
as $$
begin
  perform grace._alter_rule(name, changes, grace._caller_path());
end
$$;
comment on function grace.alter_rule(text, jsonb) is
'Changes what a rule says: an object with the arguments of grace.add_rule to change, {"period": "6 months", "notice": null}; the rest stays. Names in new texts are looked for where those of the texts that stay were, then under the caller''s search_path. Everything is checked as if it were added. The caller has to be a member of the role that it runs as. Errors: those of grace.add_rule, GR027.';

create or replace function grace.drop_rule(name text)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(name);
  v_definition jsonb;
begin
  perform grace_internal.require_membership_of_rule(v_rule);
  v_definition := grace_internal.definition_of(v_rule);
  delete from grace_internal.rule r where r.id = v_rule.id;
  perform grace_internal.drop_idle_runners();
  perform grace_internal.schedule_rule(v_rule.id, null);
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', v_rule.target, 'done', clock_timestamp(),
    jsonb_build_object('rule', name, 'dropped', true, 'definition', v_definition),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.drop_rule(text) is
'Forgets a rule, with its exemptions and notices; what it has done stays in grace.runs. Errors: GR027, 42501 who is no member of its role.';

create or replace function grace.enable_rule(name text, enabled boolean default true)
returns void
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(name);
begin
  if enabled or v_rule.action = 'keep' then
    perform grace_internal.require_membership_of_rule(v_rule);
  end if;
  update grace_internal.rule r set enabled = enable_rule.enabled where r.id = v_rule.id;
  update grace_internal.job j set changed_at = clock_timestamp() where j.rule_id = v_rule.id; -- turns that passed are not made up for
  if grace_internal.schedule_obstacle() is null then
    perform grace_internal.ensure_jobs();
  end if;
  insert into grace_internal.run (kind, rule_id, target, status, finished_at, details, role, login)
  values (
    'change', v_rule.id, v_rule.target, 'done', clock_timestamp(), jsonb_build_object('rule', name, 'enabled', enabled),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.enable_rule(text, boolean) is
'Lets a rule act, or stops it: a run that is under way ends after its batch. While it is disabled its turns pass. Errors: GR027; 42501 who is no member of its role (to stop one that deletes anybody may who administers).';
