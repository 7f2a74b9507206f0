do $$
begin
  if to_regtype('grace_internal.expression') is null then
    create type grace_internal.expression as (source text, text text, type regtype, depends jsonb);
  end if;
end
$$;

-- What a FROM item for the table is in every statement that holds an expression on it: expressions name the table by its own name.
create or replace function grace_internal.source_of(target regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s as %I', grace_internal.qualified_name(c.oid), c.relname) from pg_class c where c.oid = target
$$;

-- The search_path of whoever calls, to read names in his text as he means them; temporary objects have no place in what is saved.
create or replace function grace._caller_path()
returns text
language sql stable
as $$
  select pg_catalog.array_to_string(
    array(select pg_catalog.quote_ident(s) from pg_catalog.unnest(pg_catalog.current_schemas(false)) s), ', '
  )
$$;
comment on function grace._caller_path() is 'Internal: the caller''s search_path.';

-- An expression on a table's columns as PostgreSQL reads it, every name qualified. It is parsed as a view, which runs nothing of it but the
-- checks of domains within constants ('{a}'::domain[]), and the view is taken back. So that those are not run as the owner of pg_grace, nor
-- what else a text may hold, the view is made by a function of the role that it is read for, in a schema that is taken back with it. What
-- superusers say is read as the owner. That it is one expression has to be known already (grace._check_predicate). The view's own
-- dependencies, with the names that they have now, are what it refers to. path: the search_path that it was written under.
create or replace function grace_internal.read_expression(target regclass, expression text, path text, role regrole)
returns grace_internal.expression
language plpgsql
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on -- what was checked under it is read under it, and written so that it is read again
as $$
declare
  v_result grace_internal.expression;
  v_name text := 'expression_' || md5(random()::text);
  v_is_foreign boolean := role <> quote_ident(current_user)::regrole and not (select r.rolsuper from pg_roles r where r.oid = role);
  v_schema name := case when v_is_foreign then 'grace_' || v_name else 'grace_internal' end;
  v_view text := format(
    e'create view %I.%I as select (%s\n) as %2$I from %4$s cross join (values (1)) as "grace 1" ("grace 1") where (%3$s\n) is not null',
    v_schema, v_name, expression, grace_internal.source_of(target)
  );
  v_definition text;
  v_rule oid;
  v_tree text;
begin
  v_result.source := expression;
  begin
    if v_is_foreign then
      perform grace_internal.execute_as(role, v_schema, v_view, path);
    else
      perform set_config('search_path', path, true);
      execute v_view;
    end if;
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform set_config('datestyle', 'ISO', true); -- constants mean the same in every session
    perform set_config('intervalstyle', 'postgres', true);
    perform set_config('extra_float_digits', '1', true);
    select r.oid, r.ev_action::text, pg_get_viewdef(r.ev_class), a.atttypid
    into v_rule, v_tree, v_definition, v_result.type
    from pg_rewrite r
    join pg_attribute a on a.attrelid = r.ev_class and a.attnum = 1
    where r.ev_class = format('%I.%I', v_schema, v_name)::regclass;
    v_result.text := substr(split_part(v_definition, ' AS ' || v_name, 1), length(' SELECT ') + 1);
    v_result.depends := grace_internal.dependencies(v_rule);
    perform grace_internal.refuse_volatile(v_tree, expression);
    raise exception using errcode = 'GR099', message = 'the view is taken back';
  exception
    when sqlstate 'GR099' then
      null;
    when invalid_table_definition then
      raise exception 'not a condition that can be saved: %', expression
        using errcode = 'GR022', detail = 'It refers to what is temporary.',
        hint = 'Use tables that are there whenever the expression is evaluated.';
  end;
  return v_result;
end
$$;

-- Executes a statement that creates something in a new schema, as a role that owns neither that nor anything else here. The caller takes
-- it all back.
create or replace function grace_internal.execute_as(role regrole, schema name, statement text, path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  execute format('create schema %I', schema);
  execute format(
    'create function %I.run(path text) returns void language plpgsql security definer ' -- as the role
    'set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as %L',
    schema, format('begin perform set_config(''search_path'', path, true); execute %L; end', statement)
  );
  execute format('revoke all on function %I.run(text) from public', schema);
  execute format('grant usage, create on schema %I to %s', schema, role);
  begin
    execute format('alter function %I.run(text) owner to %s', schema, role);
  exception when insufficient_privilege then
    raise exception 'what role % says can''t be read', role
      using errcode = 'insufficient_privilege',
      detail = format('Role %I, which owns pg_grace, may not give a function to it: %s.', current_user, sqlerrm),
      hint = format('grant %s to %I;', role, current_user);
  end;
  execute format('grant execute on function %I.run(text) to %I', schema, current_user);
  execute format('select %I.run($1)', schema) using path;
end
$$;

-- What a view's rule depends on, with the names and types that this has now. Of a column the type counts, of a function its arguments.
create or replace function grace_internal.dependencies(rule oid)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'class', d.refclassid, 'object', d.refobjid, 'sub', d.refobjsubid, 'identity', i.identity, 'type', format_type(t.atttypid, null),
      'kind', a.type, 'names', a.object_names, 'args', a.object_args
    ) order by i.identity
  ), '[]')
  from (
    select distinct n.refclassid, n.refobjid, n.refobjsubid
    from pg_depend n
    join pg_rewrite v on v.oid = n.objid
    where n.classid = 'pg_rewrite'::regclass and n.objid = rule and n.refobjid <> v.ev_class
  ) as d
  cross join lateral pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) i
  cross join lateral pg_identify_object_as_address(d.refclassid, d.refobjid, d.refobjsubid) a
  left join pg_attribute t on d.refclassid = 'pg_class'::regclass and t.attrelid = d.refobjid and t.attnum = d.refobjsubid
$$;

-- Functions of a parsed expression and of the views in it. The tree holds the numbers of functions and operators in plain sight, those of
-- PostgreSQL's own too, on which nothing is recorded as depending.
create or replace function grace_internal.functions_in(tree text)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
set jit = off -- takes half a second to compile what takes a millisecond
as $$
  with recursive trees (tree) as (
    select functions_in.tree collate "C"
    union
    select r.ev_action::text
    from trees t
    cross join lateral regexp_matches(t.tree, ':relid ([0-9]+)', 'g') m
    join pg_rewrite r on r.ev_class = m[1]::oid and r.ev_type = '1'
  )
  select distinct coalesce(nullif(o.oprcode, 0::oid), m.number)
  from trees t
  cross join lateral (
    select x[1] as name, x[2]::oid as number
    from regexp_matches(t.tree, ':(funcid|opfuncid|aggfnoid|winfnoid|opno|hashfuncid) ([0-9]+)', 'g') x
    union all
    select 'opno', n::oid
    from regexp_matches(t.tree, ':opnos \(o ([0-9 ]+)\)', 'g') y
    cross join lateral regexp_split_to_table(y[1], ' ') n
  ) as m
  left join pg_operator o on m.name = 'opno' and o.oid = m.number
  where m.number <> 0
$$;

create or replace function grace_internal.refuse_volatile(tree text, expression text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_functions text := (
    select string_agg(distinct f.oid::regprocedure::text, ', ')
    from grace_internal.functions_in(refuse_volatile.tree) as u (id)
    join pg_proc f on f.oid = u.id
    where f.provolatile = 'v'
  );
begin
  if tree like '%:hasForUpdate true%' then
    v_functions := concat_ws(', ', v_functions, 'for update');
  end if;
  if v_functions is not null then
    raise exception 'not a condition that can be saved: %', expression
      using errcode = 'GR022',
      detail = format('In it is what may change the database, lock rows or answer otherwise each time: %s.', v_functions),
      hint = 'Use functions that are IMMUTABLE or STABLE: now() instead of clock_timestamp().';
  end if;
end
$$;

-- Why what depends on all this no longer says what was meant; null when it does. Where the database has moved, object ids mean nothing, and
-- things are found by their names.
create or replace function grace_internal.problem_of(depends jsonb, home text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select
      case
        when n.identity is null then d.identity || ' is gone'
        when n.identity <> d.identity then format('%s is now %s', d.identity, n.identity)
        else format('%s was %s and is now %s', d.identity, d.type, n.type)
      end
    from jsonb_to_recordset(
      case when home = grace_internal.home() then depends else grace_internal.found_by_name(depends) end
    ) as d (class oid, object oid, sub integer, identity text, type text)
    left join pg_attribute a on d.sub > 0 and d.class = 'pg_class'::regclass and a.attrelid = d.object and a.attnum = d.sub
    cross join lateral (
      select
        case when not coalesce(a.attisdropped, false) then (pg_identify_object(d.class, d.object, d.sub)).identity end as identity,
        format_type(a.atttypid, null) as type
    ) as n
    where n.identity is distinct from d.identity or n.type <> d.type
    limit 1
  );
end
$$;

-- The same with the object ids that these names have here; 0 for what is not there.
create or replace function grace_internal.found_by_name(depends jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_part record;
  v_address record;
  v_result jsonb := jsonb_build_array();
begin
  for v_part in
    select d.part, r.kind, r.names, r.args
    from jsonb_array_elements(depends) as d (part)
    cross join lateral jsonb_to_record(d.part) as r (kind text, names text [], args text [])
  loop
    begin
      select a.objid, a.objsubid into v_address from pg_get_object_address(v_part.kind, v_part.names, v_part.args) a;
    exception when syntax_error_or_access_rule_violation or invalid_parameter_value then
      select 0::oid, (v_part.part ->> 'sub')::integer into v_address.objid, v_address.objsubid;
    end;
    v_result := v_result || (v_part.part || jsonb_build_object('object', v_address.objid, 'sub', v_address.objsubid));
  end loop;
  return v_result;
end
$$;

-- Whose code an expression would run with somebody's rights, unless it is a superuser's, his own, or, where he is no superuser, that of the
-- table's owner, who could have it run by row security all the same. Domains run their checks also where they are inside of other types.
-- Returns the first such part, as text, else null.
create or replace function grace_internal.strange_code(target regclass, depends jsonb, role oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with used as (
    select d.class, d.object, d.identity
    from jsonb_to_recordset(depends) as d (class oid, object oid, identity text)
  ),
  domains as (
    select u.identity, t.oid, t.typowner
    from used u
    cross join lateral grace_internal.types_in(u.object) i (type)
    join pg_type t on t.oid = i.type and t.typtype = 'd'
    where u.class = 'pg_type'::regclass
  )
  select min(format('%s of role %I', c.identity, o.rolname))
  from (
    select u.identity, coalesce(f.proowner, v.relowner, q.proowner) as owner
    from used u
    left join pg_proc f on u.class = 'pg_proc'::regclass and f.oid = u.object
    left join pg_class v on u.class = 'pg_class'::regclass and v.oid = u.object and v.relkind = 'v'
    left join pg_operator p on u.class = 'pg_operator'::regclass and p.oid = u.object
    left join pg_proc q on q.oid = p.oprcode
    union all
    select d.identity, d.typowner from domains d
    union all
    select d.identity, f.proowner
    from domains d
    join pg_constraint k on k.contypid = d.oid
    join pg_depend n on n.classid = 'pg_constraint'::regclass and n.objid = k.oid and n.refclassid = 'pg_proc'::regclass
    join pg_proc f on f.oid = n.refobjid
  ) as c
  join pg_roles o on o.oid = c.owner
  join pg_roles r on r.oid = strange_code.role
  where not o.rolsuper and o.oid <> r.oid
    and (r.rolsuper or o.oid is distinct from (select k.relowner from pg_class k where k.oid = target))
$$;
