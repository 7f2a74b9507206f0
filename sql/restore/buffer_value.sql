-- Can a value of one type be cast to the other at all? By a cast, through text, or element by element.
create or replace function grace_internal.can_cast(source oid, target oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select s.oid = t.oid
    or 'S' in (s.typcategory, t.typcategory)
    or exists (select from pg_cast c where c.castsource = s.oid and c.casttarget = t.oid)
    or (
      s.typcategory = 'A' and t.typcategory = 'A'
      and grace_internal.can_cast(grace_internal.base_type(s.typelem), grace_internal.base_type(t.typelem))
    )
  from pg_type s, pg_type t
  where s.oid = can_cast.source and t.oid = can_cast.target
$$;

-- Where a buffer holds the values of one column of its table: the column of now first, then former ones (whose type was another),
-- newest first. In PL/pgSQL, which keeps its plan: a restore asks for each column many times.
create or replace function grace_internal.value_columns(protected_id integer, attnum smallint)
returns table (buffer_column name, type oid, type_name text, is_cast boolean, castable boolean, place bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select
      c.buffer_column,
      t.type,
      format_type(t.type, -1),
      c.type <> t.type,
      c.type = t.type or grace_internal.can_cast(c.type, t.type),
      row_number() over (order by c.ended_at desc nulls first)
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attnum = value_columns.attnum and not a.attisdropped
    cross join lateral grace_internal.base_type(a.atttypid) as t (type)
    join grace_internal.column_map c on c.protected_id = p.id and c.attnum = a.attnum
    where p.id = value_columns.protected_id;
end
$$;

-- The value of a table's column in a buffered row, as an expression of the column's type (without typmod, without domain); null when
-- it is not captured.
create or replace function grace_internal.buffer_value(protected_id integer, attnum smallint, alias text default 'b')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(*) = 1 then min(v.expression) else format('coalesce(%s)', string_agg(v.expression, ', ' order by v.place)) end
  from (
    select
      format('%s.%I%s', alias, c.buffer_column, case when c.is_cast then '::' || c.type_name else '' end) as expression,
      c.place
    from grace_internal.value_columns(protected_id, attnum) c
    where c.castable
  ) as v
  having count(*) > 0
$$;

-- The values of these columns of a table (or of one of its partitions, whose numbers may differ); null when one of them is not captured.
create or replace function grace_internal.buffer_values(protected_id integer, relation oid, attnums smallint [], alias text)
returns text []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(v.expression) = cardinality(attnums) then array_agg(v.expression order by k.position)
  end
  from unnest(attnums) with ordinality as k (attnum, position)
  join grace_internal.protected p on p.id = buffer_values.protected_id
  join pg_attribute a on a.attrelid = buffer_values.relation and a.attnum = k.attnum
  join pg_attribute r on r.attrelid = p.target and r.attname = a.attname
  cross join lateral (select grace_internal.buffer_value(p.id, r.attnum, alias)) as v (expression)
$$;

-- The primary key of a table in a buffered row b, as expressions; null without one.
create or replace function grace_internal.key_values(protected_id integer)
returns text []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.buffer_values(p.id, p.target, i.indkey::smallint [], 'b')
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  where p.id = key_values.protected_id
$$;

-- The primary key of a buffered row b as jsonb; null without one.
create or replace function grace_internal.buffered_key(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when count(*) > 0 then format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, %s', a.attname, v.expression), ', '))
    else 'null::pg_catalog.jsonb'
  end
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint [], grace_internal.key_values(p.id)) as v (attnum, expression)
  join pg_attribute a on a.attrelid = p.target and a.attnum = v.attnum
  where p.id = buffered_key.protected_id
$$;
