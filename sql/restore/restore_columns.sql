-- Could a cast to this type cut a value that an assignment refuses? Arrays and domains of types with a length; plain columns of them are
-- looked at by row_checks.
create or replace function grace_internal.cuts_values(type oid, typmod integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when t.typtype = 'd' then t.typtypmod >= 0 or grace_internal.cuts_values(t.typbasetype, -1)
    when t.typcategory = 'A' and t.typelem <> 0 then typmod >= 0 or grace_internal.cuts_values(t.typelem, -1)
    else false
  end
  from pg_type t
  where t.oid = cuts_values.type
$$;

-- The columns of the table that a restore writes to, and what a buffered row b gives each: value (null where it gives nothing), the
-- literal that the caller has given instead included. lost is the condition for a value of a former type that can't be cast at all;
-- error, for columns whose value may fail to be one of their type (a cast, a domain), an expression that says why or is null; cut the same
-- for columns where a cast could cut what INSERT refuses, for values that the cast does change.
create or replace function grace_internal.restore_columns(protected_id integer, plan grace._restore_plan)
returns table (
  attnum smallint, attname name, type_name text, type oid, typmod integer, value text, insertable boolean, not_null boolean,
  default_value text, identity text, lost text, lost_reason text, error text, cut text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod,
    case
      when g.given is not null
        then format('%L::%s', g.given #>> '{}', format_type(a.atttypid, -1))
      when plan.into_table is null or s.attnum is not null then grace_internal.buffer_value(p.id, s.attnum)
      else (
        select format('b.%I', m.buffer_column)
        from grace_internal.column_map m
        where m.protected_id = p.id and m.ended_at is not null and m.buffer_column = a.attname
      )
    end,
    a.attgenerated = '',
    a.attnotnull,
    case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
    a.attidentity::text,
    case when g.given is null then f.lost end,
    f.lost_reason,
    case when g.given is null then f.error end,
    case when g.given is null then f.cut end
  from grace_internal.protected p
  join pg_attribute a
    on a.attrelid = coalesce(plan.into_table, p.target) and a.attnum > 0 and not a.attisdropped
  left join pg_attribute s
    on s.attrelid = p.target and s.attname = a.attname and not s.attisdropped
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (
    select plan.set_values -> p.id::text -> a.attname::text where plan.set_values -> p.id::text ? a.attname::text
  ) as g (given) on true
  left join lateral (
    select
      string_agg(format('b.%I is not null', c.buffer_column), ' or ') filter (where not c.castable) as lost,
      min(format('a value of its former type can''t be cast to %s', c.type_name)) filter (where not c.castable) as lost_reason,
      case when bool_or(c.is_cast) or y.typtype = 'd' or x.cuts then format(
        'case %s%s end',
        string_agg(
          format(
            'when b.%1$I is not null then grace._cast_error(b.%1$I, %2$L, %3$L)',
            c.buffer_column, format_type(a.atttypid, a.atttypmod), x.cuts
          ), ' ' order by c.place
        ) filter (where c.castable),
        case when y.typtype = 'd' then format(' else grace._cast_error(null::text, %L, false)', format_type(a.atttypid, -1)) end
      ) end as error,
      case when x.cuts then format(
        'case %s end',
        string_agg(
          format(
            'when b.%1$I::text operator(pg_catalog.<>) b.%1$I::%2$s::text then grace._cast_error(b.%1$I, %2$L, true)',
            c.buffer_column, format_type(a.atttypid, a.atttypmod)
          ), ' ' order by c.place
        ) filter (where c.castable)
      ) end as cut
    from grace_internal.value_columns(p.id, s.attnum) c
    join pg_type y on y.oid = a.atttypid
    cross join lateral grace_internal.cuts_values(a.atttypid, a.atttypmod) as x (cuts)
    group by y.typtype, x.cuts
  ) as f on true
  where p.id = restore_columns.protected_id
  order by a.attnum
$$;

-- Why a value can't be cast to a type, or assigned to a column of it, or null. With the caller's rights: casts and domains may be the
-- application's.
create or replace function grace._cast_error(value anyelement, type_name text, assigned boolean)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('select $1::%s', type_name) using value;
  if assigned then -- the types' input functions refuse what an explicit cast would cut
    execute format('select x.v from jsonb_to_record(jsonb_build_object(''v'', $1)) as x (v %s)', type_name) using value;
  end if;
  return null;
exception when data_exception or integrity_constraint_violation then
  return sqlerrm;
end
$$;
comment on function grace._cast_error(anyelement, text, boolean) is 'Internal: why a value can''t be cast to a type, or null.';

-- Is a default a plain constant, so that evaluating it changes nothing?
create or replace function grace_internal.is_constant(default_value text)
returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select default_value ~ '^[(]?(-?[0-9.]+|true|false|''([^'']|'''')*'')[)]?(::("[^"]*"|[][a-z0-9_ .(),])+)?$'
$$;

-- The statement that inserts one table's selected rows. A NOT NULL column that was added with a volatile default is null in
-- what was captured before: it takes the default.
create or replace function grace_internal.insert_select(protected_id integer, plan grace._restore_plan, progress text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'insert into %s (%s) overriding system value select %s %s%s',
    grace_internal.qualified_name(coalesce(plan.into_table, p.target)),
    string_agg(format('%I', c.attname), ', ' order by c.attnum),
    string_agg(
      case
        when c.not_null and c.default_value is not null then format('coalesce(%s, (%s)::%s)', c.value, c.default_value, c.type_name)
        else c.value
      end, ', ' order by c.attnum
    ),
    grace_internal.restore_source(p.id, plan, 'inserted'), progress
  )
  from grace_internal.protected p
  cross join lateral grace_internal.restore_columns(p.id, plan) c
  where p.id = insert_select.protected_id and c.insertable and c.value is not null
  group by p.id
$$;

-- The statement that overwrites the live rows that have the primary keys of selected ones and gives one row each; where no column but
-- the key is captured there is nothing to overwrite.
create or replace function grace_internal.update_from(protected_id integer, plan grace._restore_plan, progress text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(max(u.statement), format('select 1 %s', grace_internal.restore_source(protected_id, plan, 'replaced')))
  from (
    select format(
      'update %s%s as t set %s from (select %s, %s %s%s) as b where %s returning 1',
      case k.relkind when 'p' then '' else 'only ' end,
      grace_internal.qualified_name(p.target),
      string_agg(
        case
          when c.not_null then format('%1$I = coalesce(b.%1$I, t.%1$I)', c.attname)
          else format('%1$I = b.%1$I', c.attname)
        end, ', ' order by c.attnum
      ),
      string_agg(format('%s as %I', c.value, c.attname), ', ' order by c.attnum),
      (
        select string_agg(format('%s as "grace %s"', v.expression, v.position), ', ')
        from unnest(grace_internal.key_values(p.id)) with ordinality as v (expression, position)
      ),
      grace_internal.restore_source(p.id, plan, 'replaced'), progress,
      grace_internal.key_match(p.id, 't', 'b')
    )
    from grace_internal.protected p
    join pg_class k on k.oid = p.target
    join pg_index i on i.indrelid = p.target and i.indisprimary
    cross join lateral grace_internal.restore_columns(p.id, plan) c
    where p.id = update_from.protected_id and c.insertable and c.value is not null
      and not c.attnum = any (i.indkey) and c.identity <> 'a'
    group by p.id, k.relkind
  ) as u (statement)
$$;
