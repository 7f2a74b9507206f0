-- The settings that a role has of its own for what its row security may ask: names with a dot, for this database before the others.
create or replace function grace_internal.role_settings(role oid)
returns text []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(s.setting order by s.setting), '{}')
  from (
    select distinct on (split_part(c, '=', 1)) c as setting
    from pg_db_role_setting d
    cross join lateral unnest(d.setconfig) c
    where d.setrole = role and d.setdatabase in (0, (select b.oid from pg_database b where b.datname = current_database()))
      and split_part(c, '=', 1) ~ '^[A-Za-z_][A-Za-z0-9_$]*([.][A-Za-z_][A-Za-z0-9_$]*)+$'
    order by split_part(c, '=', 1), d.setdatabase desc
  ) as s
$$;

-- Three functions owned by a role, as which they execute a statement: the one sandbox that holds. In a SECURITY DEFINER function no SET
-- ROLE and no setting gets out of the role, by whatever way the call came, and row security is that of the role. One finds out whether
-- a text is one condition, by having it fit where nothing but an expression fits; one reads, in a read-only transaction; one writes, and
-- has what was deferred done at once, in that role's name too. What the end of the transaction does is done by whoever began it, so
-- nothing may be left for that: what deferred triggers defer once more shows in the numbers of rows that tables with such triggers have
-- got. A SET that the role's code executes would outlast the function, in spite of its SET clauses, so what reads is done in a
-- subtransaction that is taken back; whoever calls what writes has to set search_path again. Only the owner of pg_grace may call them.
-- Returns the number that they have in their names.
create or replace function grace_internal.ensure_runner(role regrole)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_runner grace_internal.runner;
  v_settings text [] := grace_internal.role_settings(role);
  v_function record;
  -- Values are written and read the same whoever calls.
  v_formats constant text := e'\nset datestyle = \'ISO, MDY\' set intervalstyle = postgres set extra_float_digits = 1';
begin
  select r.* into v_runner from grace_internal.runner r where r.role = ensure_runner.role;
  if found and v_runner.settings = v_settings and grace_internal.runner_stands(v_runner) then
    return v_runner.id;
  end if;
  insert into grace_internal.runner (role, settings) values (role, v_settings)
  on conflict on constraint runner_role_key do update set settings = excluded.settings
  returning * into v_runner;
  for v_function in
    select
      format('grace_internal.%I', w.way || '_as_' || v_runner.id) as name, w.parameters, w.result, w.setting, w.body,
      (select string_agg(p.type, ', ') from regexp_matches(w.parameters, '[a-z]+ ([a-z]+)', 'g') m, lateral (select m[1]) as p (type)) as types
    from (
      values
        (
          'check', 'source text, predicate text, path text', 'void', e'\nset transaction_read_only = on',
          $body$
declare
  v_cursor pg_catalog.refcursor;
  v_statements text [] := array[
    pg_catalog.format(e'explain select 1 from %s where (%s\n)', source, predicate),
    pg_catalog.format(e'explain select case when (%s\n) then 1 end from %s where false', predicate, source)
  ];
  v_done boolean := false;
begin
  begin
    perform pg_catalog.set_config('search_path', path, true);
    for i in 1 .. 2 loop
      open v_cursor no scroll for execute v_statements[i];
      close v_cursor;
    end loop;
    v_done := true;
    raise exception using errcode = 'GR099';
  exception when sqlstate 'GR099' then
    if not v_done then
      raise;
    end if;
  end;
end$body$
        ),
        (
          'read', 'statement text', 'setof record', v_formats || e'\nset transaction_read_only = on',
          $body$
declare
  v_done boolean := false;
begin
  if pg_my_temp_schema() <> 0 and exists (
    select
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid and c.relnamespace = pg_my_temp_schema()
    where t.tgdeferrable and not t.tgisinternal
  ) then
    raise exception 'a temporary table of this session has a deferrable trigger'
      using errcode = 'insufficient_privilege', detail = 'What it does at the end of the transaction would not be done as the role.',
      hint = 'Drop it, or use another session.';
  end if;
  begin
    return query execute statement;
    v_done := true;
    raise exception using errcode = 'GR099';
  exception when sqlstate 'GR099' then
    if not v_done then
      raise;
    end if;
  end;
end$body$
        ),
        (
          'write', 'statement text', 'setof record', v_formats,
          $body$
declare
  v_before text;
  v_after text;
begin
  return query execute statement;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for v_round in 1 .. 10 loop
    v_before := v_after;
    set constraints all immediate;
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    select coalesce(string_agg(concat_ws(
      ' ', t.relation, pg_stat_get_xact_tuples_inserted(t.relation), pg_stat_get_xact_tuples_updated(t.relation),
      pg_stat_get_xact_tuples_deleted(t.relation)
    ), ',' order by t.relation), '') into v_after
    from (select distinct g.tgrelid as relation from pg_trigger g where g.tgdeferrable and not g.tgisinternal) as t;
    exit when v_after = '' or v_after = v_before and current_setting('track_counts')::boolean;
  end loop;
  if v_after <> '' and (v_after is distinct from v_before or not current_setting('track_counts')::boolean) then
    raise exception 'triggers defer to the end of the transaction what they do'
      using errcode = 'insufficient_privilege', detail = 'It would not be done as the role.',
      hint = 'Don''t let deferred triggers say "set constraints … deferred"; track_counts has to be on.';
  end if;
  -- What a cursor WITH HOLD says is run as the transaction ends, by whoever ends it.
  if exists (select from pg_cursors c where c.is_holdable and c.creation_time >= statement_timestamp()) then
    raise exception 'a cursor would outlive what is done as the role'
      using errcode = 'insufficient_privilege', detail = 'It was declared WITH HOLD.', hint = 'Functions and triggers can''t do that here.';
  end if;
end$body$
        )
    ) as w (way, parameters, result, setting, body)
  loop
    if to_regprocedure(format('%s(%s)', v_function.name, v_function.types)) is not null then
      execute format('drop function %s(%s)', v_function.name, v_function.types);
    end if;
    execute format(
      e'create function %s(%s) returns %s language plpgsql security definer -- as the role of a rule\n'
      'set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set row_security = on set jit = off'
      '%s%s as %L',
      v_function.name, v_function.parameters, v_function.result, v_function.setting,
      (
        select string_agg(
          format(
            ' set "%s" = %L', replace(split_part(s, '=', 1), '.', '"."'), substr(s, strpos(s, '=') + 1)
          ), '' order by s
        )
        from unnest(v_settings) s
      ),
      v_function.body
    );
    v_function.name := format('%s(%s)', v_function.name, v_function.types);
    execute format('comment on function %s is %L', v_function.name, 'pg_grace: what rules do as role ' || role::text);
    execute format('revoke all on function %s from public', v_function.name);
    if role <> quote_ident(current_user)::regrole then
      execute format('grant create on schema grace_internal to %s', role);
      execute format('alter function %s owner to %s', v_function.name, role);
      execute format('revoke create on schema grace_internal from %s', role);
      execute format('grant execute on function %s to %I', v_function.name, current_user);
    end if;
  end loop;
  if not has_schema_privilege(role, 'grace', 'usage') then
    execute format('grant usage on schema grace to %s', role);
    update grace_internal.runner r set granted = true where r.id = v_runner.id;
  end if;
  if not has_table_privilege(role, 'grace._remembered', 'select') then
    execute format('grant select on grace._remembered to %s', role);
  end if;
  return v_runner.id;
exception when insufficient_privilege then
  raise exception 'no rule can run as role %', role
    using errcode = 'insufficient_privilege',
    detail = format('Role %I, which owns pg_grace, may not give a function to it: %s.', current_user, sqlerrm),
    hint = format('grant %s to %I;', role, current_user);
end
$$;

-- Roles that no rule runs as any more own nothing here, and can be dropped.
create or replace function grace_internal.drop_idle_runners()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function record;
  v_runner grace_internal.runner;
begin
  for v_runner in
    select r.* from grace_internal.runner r join pg_roles o on o.oid = r.role where r.role not in (select l.run_as from grace_internal.rule l)
  loop
    execute format('revoke select on grace._remembered from %s', v_runner.role);
    if v_runner.granted then
      execute format('revoke usage on schema grace from %s', v_runner.role);
    end if;
  end loop;
  for v_function in
    select p.oid::regprocedure as name
    from grace_internal.runner r
    join pg_proc p on p.pronamespace = 'grace_internal'::regnamespace and p.proname in ('check_as_' || r.id, 'read_as_' || r.id, 'write_as_' || r.id)
    where r.role not in (select l.run_as from grace_internal.rule l)
  loop
    execute format('drop function %s', v_function.name);
  end loop;
  delete from grace_internal.runner r where r.role not in (select l.run_as from grace_internal.rule l);
end
$$;

create or replace function grace_internal.runner_stands(runner grace_internal.runner)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select count(*) = 3
    from pg_proc p
    where p.pronamespace = 'grace_internal'::regnamespace and p.proowner = runner.role and p.prosecdef
      and p.proname in ('check_as_' || runner.id, 'read_as_' || runner.id, 'write_as_' || runner.id)
  )
  and has_schema_privilege(runner.role, 'grace', 'usage') and has_table_privilege(runner.role, 'grace._remembered', 'select');
end
$$;

-- Those of an older version are made anew when a rule runs.
update grace_internal.runner set settings = array['of an older version'];

-- The FROM item of a statement that is executed as a role. columns: what it returns, with types.
create or replace function grace_internal.as_role(role regrole, way text, statement text, columns text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return format(
    'grace_internal.%I(%L) as k (%s)', way || '_as_' || (select r.id from grace_internal.runner r where r.role = as_role.role),
    statement, columns
  );
end
$$;

-- What is checked is a condition; what was given is shown: the condition itself, or what a period starts with. Errors: GR022 when it is not
-- one that the role may evaluate; GR031 for a start; 42501 as PostgreSQL says it.
create or replace function grace_internal.check_as(
  role regrole, source text, predicate text, path text, given text default null, is_start boolean default false
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_perhaps text;
begin
  execute format(
    'select grace_internal.%I($1, $2, $3)', 'check_as_' || (select r.id from grace_internal.runner r where r.role = check_as.role)
  ) using source, predicate, path;
exception when syntax_error_or_access_rule_violation or invalid_cursor_definition or data_exception or feature_not_supported then
  if sqlstate = '42501' then
    raise exception 'role % may not evaluate %', role, coalesce(given, predicate)
      using errcode = 'insufficient_privilege', detail = sqlerrm || '.', hint = 'Grant it what it needs, or run the rule as another role.';
  end if;
  get stacked diagnostics v_perhaps = pg_exception_hint;
  if is_start then
    raise exception 'a period can''t start with %', given
      using errcode = 'GR031', detail = concat_ws('. ', sqlerrm, nullif(v_perhaps, '')),
      hint = 'Give a column or expression of type date or timestamp, or "end of year of COLUMN"; activities as TABLE.COLUMN via COLUMN.';
  end if;
  perform grace._not_a_condition(coalesce(given, predicate), concat_ws('. ', sqlerrm, nullif(v_perhaps, '')));
end
$$;
