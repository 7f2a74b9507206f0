-- What a column that was added with a default has in rows from before, which PostgreSQL did not rewrite for it. The same
-- goes for rows that had been deleted by then. Only for PostgreSQL's own types and arrays of them: reading a value of
-- another type can run code of the application's (a domain's check), which must not happen with our rights.
create or replace function grace_internal.missing_value(relation oid, column_number smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (a.attmissingval::text::text [])[1]
  from pg_attribute r
  cross join lateral grace_internal.partition_tree(r.attrelid) as t (relation)
  join pg_attribute a on a.attrelid = t.relation and a.attname = r.attname
  join pg_type y on y.oid = a.atttypid
  left join pg_type e on e.oid = y.typelem and y.typcategory = 'A'
  where r.attrelid = missing_value.relation and r.attnum = column_number and a.atthasmissing
    and 'pg_catalog'::regnamespace in (y.typnamespace, e.typnamespace)
  limit 1
$$;
