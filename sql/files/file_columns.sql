-- The columns of a protected table that refer to files: as the table calls them, and where the buffer keeps their values, one
-- row for each buffer column (a column that has changed its type has several).
create or replace function grace_internal.file_columns(protected_id integer, wanted_kind text)
returns table (attnum smallint, attname name, buffer_column name)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.attnum, c.attname, c.buffer_column
  from grace_internal.protected p
  join grace_internal.protected_column c on c.protected_id = p.id and c.attnum = any (p.files)
  where p.id = file_columns.protected_id and grace_internal.file_kind(c.type) = wanted_kind
  order by c.attnum, c.buffer_column
$$;

-- All values of a buffered row b in such columns, as an expression of type oid[] or text[]; null without such columns.
create or replace function grace_internal.file_values(protected_id integer, wanted_kind text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'array[%s]::%s[]', string_agg(format('b.%I', c.buffer_column), ', '),
    case wanted_kind when 'path' then 'pg_catalog.text' else 'pg_catalog.oid' end
  )
  from grace_internal.file_columns(protected_id, wanted_kind) c
  having count(*) > 0
$$;
