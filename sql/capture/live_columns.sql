-- The columns of a table that a buffer mirrors, with the names they have there: all but dropped ones and virtual generated
-- ones, which hold no value.
create or replace function grace_internal.live_columns(relation oid)
returns table (attnum smallint, attname name, buffer_column name, type oid, type_name text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum,
    a.attname,
    case when a.attname in ('grace_deletion', 'grace_deleted_at') then a.attname || '_column' else a.attname end,
    b.type,
    format_type(b.type, -1)
  from pg_attribute a
  cross join lateral grace_internal.base_type(a.atttypid) as b (type)
  where a.attrelid = relation
    and a.attnum > 0
    and not a.attisdropped
    and a.attgenerated <> 'v'
  order by a.attnum
$$;
