-- What a column that was added with a default has in rows from before, which PostgreSQL did not rewrite for it. The same
-- goes for rows that had been deleted by then. Only for PostgreSQL's own types and arrays of them: reading a value of
-- another type can run code of the application's (a domain's check), which must not happen with our rights.
create or replace function grace_internal.missing_value(relation oid, column_number smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (a.attmissingval::text::text [])[1]
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
  where a.attrelid = relation and a.attnum = column_number and a.atthasmissing
    and 'pg_catalog'::regnamespace in (t.typnamespace, e.typnamespace)
$$;
