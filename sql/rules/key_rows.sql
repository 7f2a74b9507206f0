-- Keys as a FROM item with typed columns. Of domains the type below: reading a value runs no check of the application's.
create or replace function grace_internal.key_rows(target regclass, keys jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'jsonb_to_recordset(%L) as k (%s)', coalesce(keys, '[]'),
    string_agg(format('%I %s', a.attname, format_type(grace_internal.base_type(a.atttypid), null)), ', ' order by k.position)
  )
  from unnest(grace_internal.primary_key(target)) with ordinality as k (attnum, position)
  join pg_attribute a on a.attrelid = target and a.attnum = k.attnum
$$;
