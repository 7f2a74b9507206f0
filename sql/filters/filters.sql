create or replace function grace_internal.alias_of(relation regclass)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select c.relname from pg_class c where c.oid = relation
  );
end
$$;

-- The table that a filter or rule is about: one that PostgreSQL can delete from, with a primary key to tell its rows by.
create or replace function grace_internal.check_target(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind "char" := (select c.relkind from pg_class c where c.oid = target and c.relpersistence <> 't');
begin
  if v_kind is null or v_kind not in ('r', 'p') or grace_internal.primary_key(target) is null then
    raise exception '% can''t have filters and rules', coalesce(target::text, 'null')
      using errcode = 'GR031',
      detail = case when v_kind in ('r', 'p') then 'It has no primary key.' else 'It is not there, or not a table that stays.' end,
      hint = 'Give a table with a primary key.';
  end if;
  if grace_internal.alias_of(target) ^@ 'grace ' then
    raise exception '% can''t have filters and rules', target
      using errcode = 'GR031', detail = 'Names that begin with "grace " are kept for pg_grace''s own.', hint = 'Rename the table.';
  end if;
end
$$;

-- Which columns a user knows the records by; the primary key where none were named.
create or replace function grace_internal.check_columns(target regclass, columns name [])
returns name []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_missing text := (
    select string_agg(quote_ident(c), ', ')
    from unnest(columns) c
    where c not in (select l.attname from grace_internal.live_columns(target) l)
  );
begin
  if v_missing is not null then
    raise exception '% has no such column: %', target, v_missing
      using errcode = 'undefined_column',
      detail = 'Its columns: ' || (select string_agg(quote_ident(l.attname), ', ') from grace_internal.live_columns(target) l),
      hint = 'Give the columns by which users know the records.';
  end if;
  return coalesce(columns, '{}');
end
$$;

-- What users know a record by, as an expression on its row.
create or replace function grace_internal.record_object(target regclass, columns name [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when cardinality(columns) = 0 then 'null::pg_catalog.jsonb'
    else (
      select format('pg_catalog.jsonb_build_object(%s)', string_agg(
        format('%L, %I.%I', c.name, grace_internal.alias_of(target), c.name), ', ' order by c.position
      ))
      from unnest(columns) with ordinality as c (name, position)
    )
  end
$$;

create or replace function grace_internal.filter_named(name text)
returns grace_internal.filter
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter;
begin
  select f.* into v_filter from grace_internal.filter f where f.name = filter_named.name;
  if not found then
    raise exception 'there is no filter %', coalesce(quote_literal(name), 'null')
      using errcode = 'GR027',
      detail = coalesce(
        'Filters: ' || (select string_agg(quote_literal(f.name), ', ' order by f.name) from grace_internal.filter f),
        'No filter has been saved.'
      ),
      hint = 'select * from grace.filters;';
  end if;
  return v_filter;
end
$$;

create or replace function grace_internal.check_filter_name(name text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(name, '') = '' then
    raise exception 'a filter needs a name'
      using errcode = 'GR031', detail = 'The name is empty.', hint = 'Give a name, as users would call the selection.';
  end if;
  if exists (select from grace_internal.filter f where f.name = check_filter_name.name) then
    raise exception 'there is a filter % already', quote_literal(name)
      using errcode = 'duplicate_object', detail = 'Names of filters are unique.',
      hint = 'Give another name, or change it: select grace.alter_filter(…);';
  end if;
end
$$;

create or replace function grace._add_filter(name text, target regclass, predicate text, columns name [], path text)
returns integer
language plpgsql
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_expression grace_internal.expression;
  v_id integer;
begin
  perform grace_internal.check_filter_name(name);
  v_expression := grace_internal.read_expression(target, predicate, path, quote_ident(grace_internal.caller())::regrole);
  insert into grace_internal.filter (
    name, target, predicate, condition, columns, depends, home, created_by, created_login
  )
  values (
    name, target, predicate, v_expression.text, grace_internal.check_columns(target, columns), v_expression.depends,
    grace_internal.home(), grace_internal.caller(), session_user
  )
  returning id into v_id;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', target, 'done', clock_timestamp(), jsonb_build_object('filter', name, 'filter_id', v_id, 'condition', v_expression.text),
    grace_internal.caller(), session_user
  );
  return v_id;
end
$$;
comment on function grace._add_filter(text, regclass, text, name [], text) is 'Internal: saves a filter that was checked.';

-- Whether a table can be named in a filter or rule; asked with the owner's rights, before anything of the caller's text is read.
create or replace function grace._check_target(target regclass)
returns text
language plpgsql stable
security definer -- the catalog helpers are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.check_target(target);
  return grace_internal.source_of(target);
end
$$;
comment on function grace._check_target(regclass) is 'Internal: refuses what can''t have filters; returns the FROM item.';

-- With the caller's rights up to where it is saved: the text may refer only to what the caller may read.
create or replace function grace.add_filter(name text, target regclass, predicate text, columns name [] default '{}')
returns table (condition text, row_count bigint, cost double precision)
language plpgsql
set standard_conforming_strings = on
as $$
declare
  v_source text := grace._check_target(target);
begin
  if pg_catalog.btrim(coalesce(predicate, '')) operator(pg_catalog.=) '' then
    raise exception 'a filter needs a condition'
      using errcode = 'GR022', detail = 'The predicate is empty.', hint = 'Give a condition, as behind WHERE; true for all rows.';
  end if;
  perform grace._check_predicate(v_source, predicate);
  perform grace._add_filter(name, target, predicate, columns, grace._caller_path());
  return query select m.condition, m.row_count, m.cost from grace._filter_matches(name) m;
end
$$;
comment on function grace.add_filter(text, regclass, text, name []) is
'Saves criteria on a table under a name. predicate: one condition on its columns, as behind WHERE; names in it are read under the caller''s search_path and kept qualified. columns: what users know the records by, for previews. Returns the condition as PostgreSQL reads it, how many rows match now and the estimated cost of finding them. The caller needs SELECT on what it refers to. Errors: GR022 not one condition, or one that calls a volatile function; GR031; 42501; 42710 a name that is taken.';

-- With the caller's rights and row security. Whose code the condition runs was checked.
create or replace function grace._filter_matches(name text)
returns table (condition text, row_count bigint, cost double precision)
language plpgsql
set standard_conforming_strings = on
as $$
declare
  v_statement text;
  v_plan json;
begin
  select r.condition, r.statement into _filter_matches.condition, v_statement from grace._filter_statement(name) r;
  execute 'select pg_catalog.count(*) ' operator(pg_catalog.||) v_statement into row_count;
  execute 'explain (format json) select 1 ' operator(pg_catalog.||) v_statement into v_plan;
  cost := (v_plan operator(pg_catalog.#>>) '{0,Plan,Total Cost}')::pg_catalog.float8;
  return next;
end
$$;
comment on function grace._filter_matches(text) is 'Internal: how many rows a filter matches, and at what cost.';

-- What may be run with the rights of whoever calls: refused where it has changed its meaning, or would run somebody else's code.
create or replace function grace._filter_statement(name text)
returns table (target regclass, condition text, statement text, keys text, key_object text, record text)
language plpgsql stable
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter := grace_internal.filter_named(name);
  v_code text;
begin
  perform grace_internal.require_valid('filter', v_filter.name, v_filter.depends, v_filter.home);
  v_code := grace_internal.strange_code(v_filter.target, v_filter.depends, quote_ident(grace_internal.caller())::regrole);
  if v_code is not null then
    raise exception 'filter % would run somebody else''s code', quote_literal(name)
      using errcode = 'insufficient_privilege',
      detail = format('%s would run with the rights of role %I.', v_code, grace_internal.caller()),
      hint = 'Preview a rule instead, which runs as a role of its own; or let a superuser own the function.';
  end if;
  return query
    select
      v_filter.target, v_filter.condition,
      format('from %s where (%s)', grace_internal.source_of(v_filter.target), v_filter.condition),
      string_agg(format('%I.%I', t.relname, a.attname), ', ' order by k.position),
      format('pg_catalog.jsonb_build_object(%s)', string_agg(
        format('%L, %I.%I', a.attname, t.relname, a.attname), ', ' order by k.position
      )),
      grace_internal.record_object(v_filter.target, v_filter.columns)
    from pg_class t
    cross join lateral unnest(grace_internal.primary_key(t.oid)) with ordinality as k (attnum, position)
    join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
    where t.oid = v_filter.target
    group by t.oid;
end
$$;
comment on function grace._filter_statement(text) is 'Internal: what to run for a filter.';

create or replace function grace_internal.require_valid(kind text, name text, depends jsonb, home text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := grace_internal.problem_of(depends, home);
begin
  if v_problem is not null then
    raise exception '% % no longer says what was meant', kind, quote_literal(name)
      using errcode = 'GR028', detail = v_problem || '.',
      hint = case kind
        when 'filter' then format('Say anew what is meant: select grace.alter_filter(%L, …);', name)
        else format('Define it anew: select grace.alter_rule(%L, ''{"starts": …, "predicate": …}'');', name)
      end;
  end if;
end
$$;

create or replace function grace._alter_filter(name text, predicate text, columns name [], rename text, path text)
returns void
language plpgsql
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter := grace_internal.filter_named(name);
  v_new grace_internal.filter;
  v_expression grace_internal.expression;
  v_rule grace_internal.rule;
begin
  select f.* into v_filter from grace_internal.filter f where f.id = v_filter.id for update; -- as somebody else has changed it meanwhile
  v_new := v_filter;
  if predicate is null then
    perform grace_internal.require_valid('filter', name, v_filter.depends, v_filter.home);
  end if;
  if rename is not null and rename <> name then
    perform grace_internal.check_filter_name(rename);
    v_new.name := rename;
  end if;
  if predicate is not null then
    v_expression := grace_internal.read_expression(v_filter.target, predicate, path, quote_ident(grace_internal.caller())::regrole);
    v_new.predicate := predicate;
    v_new.condition := v_expression.text;
    v_new.depends := v_expression.depends;
    v_new.home := grace_internal.home();
    v_new.reported := null;
  end if;
  v_new.columns := grace_internal.check_columns(v_filter.target, coalesce(columns, v_filter.columns));
  update grace_internal.filter f
  set
    name = v_new.name, predicate = v_new.predicate, condition = v_new.condition, depends = v_new.depends, columns = v_new.columns,
    home = v_new.home, reported = v_new.reported
  where f.id = v_filter.id;
  if predicate is not null or columns is not null then
    for v_rule in select r.* from grace_internal.rule r where r.filter_id = v_filter.id order by r.id loop
      perform grace._save_rule(
        grace_internal.definition_of(v_rule) || case when v_rule.columns = v_filter.columns then '{"columns": []}' else '{}' end::jsonb,
        v_rule.path, v_rule.name
      );
    end loop;
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', v_filter.target, 'done', clock_timestamp(),
    jsonb_build_object('filter', v_new.name, 'filter_id', v_new.id, 'condition', v_new.condition) || case when v_new.name <> name then jsonb_build_object('was', name) else '{}' end,
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace._alter_filter(text, text, name [], text, text) is 'Internal: changes a filter that was checked.';

create or replace function grace._filter_target(name text)
returns regclass
language sql stable
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select (grace_internal.filter_named(name)).target
$$;
comment on function grace._filter_target(text) is 'Internal: the table that a filter is on.';

create or replace function grace.alter_filter(
  name text, predicate text default null, columns name [] default null, rename text default null
)
returns table (condition text, row_count bigint, cost double precision)
language plpgsql
set standard_conforming_strings = on
as $$
begin
  if predicate is not null then
    perform grace._check_predicate(grace._check_target(grace._filter_target(name)), predicate);
  end if;
  perform grace._alter_filter(name, predicate, columns, rename, grace._caller_path());
  return query select m.condition, m.row_count, m.cost from grace._filter_matches(coalesce(rename, name)) m;
end
$$;
comment on function grace.alter_filter(text, text, name [], text) is
'Gives a filter another condition, other columns or another name, and with them every rule that uses it, for which the caller has to be a member of the roles that these run as; null leaves what is there. Returns what grace.add_filter does. Errors: those of grace.add_filter, GR027, GR028 where it is broken and gets no other condition.';

create or replace function grace.drop_filter(name text)
returns void
language plpgsql
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter grace_internal.filter := grace_internal.filter_named(name);
  v_rules text := (
    select string_agg(quote_literal(r.name), ', ' order by r.name) from grace_internal.rule r where r.filter_id = v_filter.id
  );
begin
  if v_rules is not null then
    raise exception 'filter % is in use', quote_literal(name)
      using errcode = 'dependent_objects_still_exist', detail = 'Rules: ' || v_rules,
      hint = 'Drop these first, or change what the filter says: select grace.alter_filter(…);';
  end if;
  delete from grace_internal.filter f where f.id = v_filter.id;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'change', v_filter.target, 'done', clock_timestamp(), jsonb_build_object('filter', name, 'dropped', true),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.drop_filter(text) is
'Forgets a filter. Errors: GR027 when there is none of that name, 2BP01 while rules use it.';

create or replace function grace._filter_problem(filter_id integer)
returns text
language sql stable
security definer -- the filters are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.problem_of(f.depends, f.home) from grace_internal.filter f where f.id = filter_id
$$;
comment on function grace._filter_problem(integer) is 'Internal: why a filter no longer says what was meant.';

create or replace view grace.filters as
select
  f.name,
  f.target,
  f.condition,
  f.predicate,
  f.columns,
  array(
    select r.name
    from grace_internal.rule r
    where r.filter_id = f.id
    order by r.name
  ) as rules,
  grace._filter_problem(f.id) as problem,
  f.created_at,
  f.created_by
from grace_internal.filter f;

comment on view grace.filters is 'Saved criteria.';
comment on column grace.filters.condition is 'The condition as PostgreSQL reads it.';
comment on column grace.filters.predicate is 'The condition as it was given.';
comment on column grace.filters.columns is 'What a user knows the records by.';
comment on column grace.filters.problem is
'Why it no longer says what was meant, because what it refers to was renamed, dropped or given another type; its rules stand still. Null: it is as it was saved.';
