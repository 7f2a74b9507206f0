-- The columns of a protected table that refer to files: as the table calls them, and where the buffer keeps their values, one
-- row for each buffer column (a column that has changed its type has several).
create or replace function grace_internal.file_columns(protected_id integer, wanted_kind text)
returns table (attnum smallint, attname name, buffer_column name)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.attnum, c.attname, c.buffer_column
  from grace_internal.protected p
  join grace_internal.column_map c
    on c.protected_id = p.id
    and case when grace_internal.has_moved(p.*) then c.attname = any (p.file_names) else c.attnum = any (p.files) end
  where p.id = file_columns.protected_id and grace_internal.file_kind(c.type) = wanted_kind
  order by c.attnum, c.buffer_column
$$;

-- Their numbers in the table as it is here.
create or replace function grace_internal.file_numbers(protected grace_internal.protected)
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not grace_internal.has_moved(protected) then protected.files
    else array(
      select a.attnum from pg_attribute a
      where a.attrelid = protected.target and a.attname = any (protected.file_names) and not a.attisdropped
    )
  end
$$;

-- All values of a buffered row in such columns, as an expression of type oid[] or text[]; null without such columns.
create or replace function grace_internal.file_values(protected_id integer, wanted_kind text, alias text default 'b')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'array[%s]::%s[]', string_agg(format('%s.%I', alias, c.buffer_column), ', '),
    case wanted_kind when 'path' then 'pg_catalog.text' else 'pg_catalog.oid' end
  )
  from grace_internal.file_columns(protected_id, wanted_kind) c
  having count(*) > 0
$$;
