-- A type and the types that its values are made of: of a domain what it is over, of arrays, ranges and composites what is in them.
create or replace function grace_internal.types_in(type oid)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive inside (type) as (
    values (types_in.type)
    union
    select c.type
    from inside i
    join pg_type t on t.oid = i.type
    left join pg_range r on t.oid in (r.rngtypid, r.rngmultitypid)
    cross join lateral (
      select t.typbasetype where t.typtype = 'd'
      union all
      select r.rngsubtype where r.rngsubtype is not null
      union all
      select t.typelem where t.typcategory = 'A' and t.typelem <> 0
      union all
      select a.atttypid from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) as c (type)
  )
  select i.type from inside i
$$;
