-- The columns that a table has now, and what a buffered row b holds for each (null where it holds nothing). A column
-- whose type has changed since takes the former value, cast.
create or replace function grace_internal.restore_columns(protected_id integer)
returns table (
  attnum smallint, attname name, type_name text, value text, insertable boolean, not_null boolean, default_value text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
    case
      when c.buffer_column is not null and f.former_values is not null
        then format('coalesce(b.%I, %s)', c.buffer_column, f.former_values)
      when c.buffer_column is not null then format('b.%I', c.buffer_column)
    end,
    a.attgenerated = '',
    a.attnotnull,
    case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
  left join grace_internal.column_map c
    on c.protected_id = p.id and c.attnum = a.attnum and c.ended_at is null
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (
    select string_agg(
      format('b.%I::%s', f.buffer_column, format_type(grace_internal.base_type(a.atttypid), -1)), ', '
      order by f.ended_at desc
    ) as former_values
    from grace_internal.column_map f
    where f.protected_id = p.id and f.attnum = a.attnum and f.ended_at is not null
  ) as f on true
  where p.id = restore_columns.protected_id
  order by a.attnum
$$;

-- INSERT … SELECT of one table's selected rows. A NOT NULL column that was added with a volatile default is null in
-- what was captured before: it takes the default.
create or replace function grace_internal.insert_select(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'insert into %s (%s) overriding system value select %s %s',
    grace_internal.qualified_name(p.target),
    string_agg(format('%I', c.attname), ', ' order by c.attnum),
    string_agg(
      case
        when c.not_null and c.default_value is not null then format('coalesce(%s, (%s)::%s)', c.value, c.default_value, c.type_name)
        else c.value
      end, ', ' order by c.attnum
    ),
    source
  )
  from grace_internal.protected p
  cross join lateral grace_internal.restore_columns(p.id) c
  where p.id = insert_select.protected_id and c.insertable and c.value is not null
  group by p.target
$$;
