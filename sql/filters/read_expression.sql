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

-- An expression on a table's columns as PostgreSQL reads it, every name qualified. It is parsed as a view, which runs nothing of it, and
-- the view is taken back. That it is one expression has to be known already (grace._check_predicate). The view's own dependencies, with
-- the names that they have now, are what it refers to. path: the search_path that it was written under.
create or replace function grace_internal.read_expression(target regclass, expression text, path text)
returns grace_internal.expression
language plpgsql
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on -- what was checked under it is read under it, and written so that it is read again
as $$
declare
  v_result grace_internal.expression;
  v_name text := 'expression_' || md5(random()::text);
  v_view text := format(
    e'create view grace_internal.%I as select (%s\n) as %I from %s cross join (values (1)) as "grace 1" ("grace 1") where (%s\n) is not null',
    v_name, expression, v_name, grace_internal.source_of(target), expression
  );
  v_definition text;
  v_rule oid;
  v_tree text;
begin
  v_result.source := expression;
  begin
    perform set_config('search_path', path, true);
    execute v_view;
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform set_config('datestyle', 'ISO', true); -- constants mean the same in every session
    perform set_config('intervalstyle', 'postgres', true);
    perform set_config('extra_float_digits', '1', true);
    select r.oid, r.ev_action::text, pg_get_viewdef(r.ev_class), a.atttypid
    into v_rule, v_tree, v_definition, v_result.type
    from pg_rewrite r
    join pg_attribute a on a.attrelid = r.ev_class and a.attnum = 1
    where r.ev_class = format('grace_internal.%I', v_name)::regclass;
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
-- table's owner, who could have it run by row security all the same. Returns the first such part, as text, else null.
create or replace function grace_internal.strange_code(target regclass, depends jsonb, role oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select min(format('%s of role %I', d.identity, o.rolname))
  from jsonb_to_recordset(depends) as d (class oid, object oid, identity text)
  left join pg_proc f on d.class = 'pg_proc'::regclass and f.oid = d.object
  left join pg_type t on d.class = 'pg_type'::regclass and t.oid = d.object and t.typtype = 'd'
  left join pg_class c on d.class = 'pg_class'::regclass and c.oid = d.object and c.relkind = 'v'
  left join pg_operator p on d.class = 'pg_operator'::regclass and p.oid = d.object
  left join pg_proc q on q.oid = p.oprcode
  join pg_roles o on o.oid = coalesce(f.proowner, t.typowner, c.relowner, q.proowner)
  join pg_roles r on r.oid = strange_code.role
  where not o.rolsuper and o.oid <> r.oid
    and (r.rolsuper or o.oid is distinct from (select k.relowner from pg_class k where k.oid = target))
$$;
