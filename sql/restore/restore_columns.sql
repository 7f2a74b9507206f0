-- The columns of the table that a restore writes to, and what a buffered row b gives each: value (null where it gives nothing), the
-- literal that the caller has given instead included. lost is the condition for a value of a former type that can't be cast at all;
-- error, for columns whose value may fail to be one of their type (a cast, a domain), an expression that says why or is null.
create or replace function grace_internal.restore_columns(protected_id integer, plan grace._restore_plan)
returns table (
  attnum smallint, attname name, type_name text, type oid, typmod integer, value text, insertable boolean, not_null boolean,
  default_value text, identity "char", lost text, lost_reason text, error text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod,
    case
      when g.given is not null
        then format('%L::%s', g.given #>> '{}', format_type(a.atttypid, a.atttypmod))
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
    a.attidentity,
    f.lost,
    f.lost_reason,
    case when g.given is null then f.error end
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
      case when bool_or(c.is_cast) or y.typtype = 'd' then format(
        'case %s%s end',
        string_agg(
          format('when b.%1$I is not null then grace._cast_error(b.%1$I, %2$L)', c.buffer_column, format_type(a.atttypid, -1)),
          ' ' order by c.position
        ) filter (where c.castable),
        case when y.typtype = 'd' then format(' else grace._cast_error(null::text, %L)', format_type(a.atttypid, -1)) end
      ) end as error
    from grace_internal.value_columns(p.id, s.attnum) c
    join pg_type y on y.oid = a.atttypid
    group by y.typtype
  ) as f on true
  where p.id = restore_columns.protected_id
  order by a.attnum
$$;

-- Why a value can't be cast to a type, or null. With the caller's rights: casts and domains may be the application's.
create or replace function grace._cast_error(value anyelement, type_name text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('select $1::%s', type_name) using value;
  return null;
exception when data_exception or integrity_constraint_violation then
  return sqlerrm;
end
$$;
comment on function grace._cast_error(anyelement, text) is 'Internal: why a value can''t be cast to a type, or null.';

-- Is a default a plain constant, so that evaluating it changes nothing?
create or replace function grace_internal.is_constant(default_value text)
returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select default_value ~ '^\(?(-?[0-9.]+|true|false|''([^'']|'''')*'')\)?(::("[^"]*"|[a-z0-9_ .(),\[\]])+)?$'
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

-- The statement that overwrites the live rows that have the primary keys of selected ones; where no column but the key is captured there is
-- nothing to write, and it only finds them.
create or replace function grace_internal.update_from(protected_id integer, plan grace._restore_plan, progress text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(v.attname) = 0 then format(
      'select 1 from %s as t, (select %s %s%s) as b where %s', t.name, k.columns, k.source, progress, k.matches
    )
    else format(
      'update %s as t set %s from (select %s, %s %s%s) as b where %s returning 1', t.name,
      string_agg(
        case
          when v.not_null then format('%1$I = coalesce(b.%1$I, t.%1$I)', v.attname)
          else format('%1$I = b.%1$I', v.attname)
        end, ', ' order by v.attnum
      ) filter (where v.attname is not null),
      string_agg(format('%s as %I', v.value, v.attname), ', ' order by v.attnum) filter (where v.attname is not null),
      k.columns, k.source, progress, k.matches
    )
  end
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral (
    select concat(case c.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(p.target))
  ) as t (name)
  cross join lateral (
    select
      string_agg(format('%s as "grace %s"', u.expression, u.position), ', '),
      grace_internal.restore_source(p.id, plan, 'replaced'),
      grace_internal.key_match(p.id, 't', 'b')
    from unnest(grace_internal.key_values(p.id)) with ordinality as u (expression, position)
  ) as k (columns, source, matches)
  left join lateral grace_internal.restore_columns(p.id, plan) v
    on v.insertable and v.value is not null and not v.attnum = any (i.indkey) and v.identity <> 'a'
  where p.id = update_from.protected_id
  group by t.name, k.columns, k.source, k.matches
$$;
