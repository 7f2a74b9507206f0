-- The buffer columns that hold these columns of a table (or of one of its partitions, whose numbers may differ);
-- null when one of them is not captured.
create or replace function grace_internal.buffer_columns(protected_id integer, relation oid, attnums smallint [])
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(c.buffer_column) = cardinality(attnums) then array_agg(c.buffer_column order by k.position) end
  from unnest(attnums) with ordinality as k (attnum, position)
  join grace_internal.protected p on p.id = buffer_columns.protected_id
  join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
  join pg_attribute r on r.attrelid = p.target and r.attname = a.attname
  left join grace_internal.column_map c
    on c.protected_id = p.id and c.attnum = r.attnum and c.ended_at is null
$$;
