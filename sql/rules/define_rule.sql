-- TABLE.COLUMN via COLUMN [where CONDITION]: names are read under the caller's search_path. The columns named via refer to the rule's
-- table; left out, they are those of the only foreign key there is.
create or replace function grace_internal.read_activity(
  target regclass, activity text, path text, out source regclass, out moment name, out link name [], out expression text, out condition text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_head text := regexp_replace(activity, '\s+where\s.*$', '', 'i');
  v_parts text [] := regexp_match(v_head, '^\s*(.+?)(?:\s+via\s+(.+?))?\s*$', 'i');
  v_names text [];
  v_condition text;
begin
  condition := nullif(regexp_replace(substr(activity, length(v_head) + 1), '^\s+where\s+', '', 'i'), '');
  v_names := parse_ident(v_parts[1]);
  moment := v_names[cardinality(v_names)];
  source := grace_internal.table_under(path, v_names[:cardinality(v_names) - 1]);
  if not exists (
    select
    from pg_attribute a
    where a.attrelid = source and a.attname = moment and a.attnum > 0 and not a.attisdropped
      and grace_internal.is_moment(a.atttypid)
  ) then
    raise exception '% has no column % that says when%', source, quote_ident(moment), (
      select '; these do: ' || string_agg(quote_ident(a.attname), ', ' order by a.attnum)
      from pg_attribute a
      where a.attrelid = source and a.attnum > 0 and not a.attisdropped and grace_internal.is_moment(a.atttypid)
    ) using errcode = 'invalid_parameter_value';
  end if;
  select l.columns, l.condition into link, v_condition
  from grace_internal.link_between(source, target, v_parts[2]) l;
  expression := format(
    '(select max(%I.%I) from %s where %s%s)',
    grace_internal.alias_of(source), moment, grace_internal.source_of(source), v_condition, ' and (' || condition || e'\n)'
  );
exception when invalid_parameter_value then
  raise exception 'not an activity: %', activity
    using errcode = 'GR031', detail = sqlerrm || '.',
    hint = 'Give it as TABLE.COLUMN via COLUMN, for example email.sent_at via lead_id, and where CONDITION, if need be.';
end
$$;

create or replace function grace_internal.table_under(path text, names text [])
returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := (select string_agg(quote_ident(n), '.' order by o) from unnest(names) with ordinality as u (n, o));
  v_table regclass;
begin
  if v_name is null then
    raise exception 'no table is named' using errcode = 'invalid_parameter_value';
  end if;
  perform set_config('search_path', path, true); -- nothing but pg_catalog's own is called under it
  v_table := pg_catalog.to_regclass(v_name);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if v_table is null then
    raise exception 'table % does not exist', v_name
      using errcode = 'undefined_table', detail = format('The search path is %s.', path),
      hint = coalesce('Did you mean ' || grace._tables_like(v_name) || '?', 'Give it as schema.table.');
  end if;
  return v_table;
end
$$;

-- How rows of one table belong to rows of another: by the columns named, or by the only foreign key. Where no foreign key says what they
-- refer to it is the primary key.
create or replace function grace_internal.link_between(source regclass, target regclass, via text, out condition text, out columns name [])
language plpgsql stable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_columns name [] := (
    select array_agg((parse_ident(c))[cardinality(parse_ident(c))]::name order by o)
    from regexp_split_to_table(via, '\s*,\s*') with ordinality as u (c, o)
  );
  v_keys name [];
  v_count integer;
begin
  if grace_internal.alias_of(source) = grace_internal.alias_of(target) then
    raise exception '% and % have the same name', source, target
      using errcode = 'invalid_parameter_value', detail = 'Their columns could not be told apart.', hint = 'Write an expression.';
  end if;
  select
    count(*) over (), grace_internal.column_names(f.conrelid, f.conkey), grace_internal.column_names(f.confrelid, f.confkey)
  into v_count, columns, v_keys
  from pg_constraint f
  where f.contype = 'f' and f.conrelid = source and f.confrelid = target
    and (via is null or grace_internal.column_names(f.conrelid, f.conkey) = v_columns)
  limit 1;
  v_count := coalesce(v_count, 0);
  if v_count = 0 and via is not null then
    columns := v_columns;
    v_keys := grace_internal.column_names(target, grace_internal.primary_key(target));
  elsif v_count <> 1 and via is null then
    raise exception '% has % foreign keys to %', source, v_count, target
      using errcode = 'invalid_parameter_value', detail = 'Which columns belong to it can''t be told.', hint = 'Name them: via COLUMN.';
  end if;
  if cardinality(columns) is distinct from cardinality(v_keys) or exists (
    select from unnest(columns) c where c not in (select l.attname from grace_internal.live_columns(source) l)
  ) then
    raise exception '%.% does not refer to %', source, array_to_string(columns, ', '), target
      using errcode = 'invalid_parameter_value', detail = 'There is no such column, or the key has more of them.', hint = 'Name the columns.';
  end if;
  condition := (
    select string_agg(
      format('%I.%I = %I.%I', grace_internal.alias_of(source), u.c, grace_internal.alias_of(target), u.k), ' and ' order by u.o
    )
    from unnest(columns, v_keys) with ordinality as u (c, k, o)
  );
end
$$;

create or replace function grace_internal.is_moment(type oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.base_type(is_moment.type) in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
$$;

-- What a period starts with, without the words before it; what it is becomes a moment by a cast, and a text would, too.
create or replace function grace_internal.start_without_words(starts text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select regexp_replace(starts, '^\s*end\s+of\s+(?:the\s+)?(?:calendar\s+)?(?:year|quarter|month)\s+of\s+', '', 'i')
$$;

-- From when the period counts, as text: "end of year of COLUMN" in words, else an expression.
create or replace function grace_internal.start_in_words(starts text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
  select coalesce(
    (
      select format(e'(pg_catalog.date_trunc(%L, (%s\n)::timestamp) + interval %L)', lower(m[1]), m[2], 
        case lower(m[1]) when 'quarter' then '3 months' else '1 ' || lower(m[1]) end)
      from regexp_match(starts, '^\s*end\s+of\s+(?:the\s+)?(?:calendar\s+)?(year|quarter|month)\s+of\s+(.+)$', 'i') m
      where m is not null
    ),
    starts
  )
$$;

-- The start of the period from what a rule was given: the latest of a column or expression and of activities. Null: none was given.
create or replace function grace_internal.start_text(target regclass, starts text, activities jsonb, path text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case count(*) when 0 then null when 1 then min(p.part) else 'greatest(' || string_agg(p.part, ', ' order by p.position) || ')' end
  from (
    select 0 as position, format(e'(%s\n)::timestamptz', grace_internal.start_in_words(starts)) as part where starts is not null
    union all
    select a.position, (grace_internal.read_activity(target, a.activity, path)).expression || '::timestamptz'
    from jsonb_array_elements_text(activities) with ordinality as a (activity, position)
  ) as p
$$;

-- The conditions that come to stand beside others, each as a condition of the table's that holds it between brackets of another kind: what
-- would get out of its parentheses, as "true) or (true" does, does not fit there.
create or replace function grace_internal.lone_conditions(target regclass, definition jsonb, path text)
returns table (condition text, given text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(e'true = all (array[%s\n])', definition ->> 'predicate'), definition ->> 'predicate'
  where definition ->> 'predicate' is not null
  union all
  select format(e'exists (select from %s where true = all (array[%s\n]))', grace_internal.source_of(r.source), r.condition), r.condition
  from jsonb_array_elements_text(definition -> 'activities') a (activity)
  cross join lateral grace_internal.read_activity(target, a.activity, path) r
  where r.condition is not null
$$;

-- The expressions of a rule, still as text, to be checked with the caller's rights before they are read and kept.
create or replace function grace._rule_texts(definition jsonb, path text)
returns table (source text, condition text, starts text)
language plpgsql stable
security definer -- the catalog helpers are granted to nobody
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_filter grace_internal.filter;
  v_target regclass := (definition ->> 'target')::oid::regclass;
  v_related text [];
  v_parent regclass;
  v_parent_condition text;
begin
  if definition ->> 'filter' is not null then
    v_filter := grace_internal.filter_named(definition ->> 'filter');
    perform grace_internal.require_valid('filter', v_filter.name, v_filter.depends, v_filter.home);
    if v_target is not null and v_target <> v_filter.target then
      raise exception 'filter % is on %, not on %', quote_literal(v_filter.name), v_filter.target, v_target
        using errcode = 'GR031', detail = 'A rule is about one table.', hint = 'Leave the table out.';
    end if;
    v_target := v_filter.target;
  elsif v_target is null then
    raise exception 'a rule needs a filter or a table'
      using errcode = 'GR031', detail = 'Neither was given.', hint = 'Name a filter, or the table for all its rows.';
  end if;
  perform grace_internal.check_target(v_target);
  source := grace_internal.source_of(v_target);
  if definition ->> 'related_to' is not null then
    v_related := regexp_match(definition ->> 'related_to', '^\s*(.+?)(?:\s+via\s+(.+?))?\s*$', 'i');
    begin
      v_parent := grace_internal.table_under(path, parse_ident(v_related[1]));
      v_parent_condition := (grace_internal.link_between(v_target, v_parent, v_related[2])).condition;
    exception when invalid_parameter_value then
      raise exception 'not a table that % belongs to: %', v_target, definition ->> 'related_to'
        using errcode = 'GR031', detail = sqlerrm || '.', hint = 'Give it as TABLE, or as TABLE via COLUMN.';
    end;
    if v_parent = v_target then
      raise exception '% can''t be related to itself', v_target
        using errcode = 'GR031', detail = 'The tables are the same.', hint = 'Write the condition as predicate.';
    end if;
  end if;
  condition := concat_ws(
    ' and ',
    '(' || v_filter.condition || ')',
    '(' || (definition ->> 'predicate') || e'\n)',
    case when v_parent is not null then
      format('exists (select from %s where %s)', grace_internal.source_of(v_parent), v_parent_condition)
    end
  );
  condition := coalesce(nullif(condition, ''), 'true');
  if jsonb_typeof(definition -> 'activities') not in ('array', 'null') then
    raise exception 'activities are a list'
      using errcode = 'GR031', detail = format('Given was %s.', definition -> 'activities'), hint = 'Give them as ["email.sent_at via lead_id"].';
  end if;
  starts := grace_internal.start_text(v_target, definition ->> 'starts', nullif(definition -> 'activities', 'null'), path);
  return next;
end
$$;
comment on function grace._rule_texts(jsonb, text) is 'Internal: the expressions of a rule, to be checked as the caller.';
