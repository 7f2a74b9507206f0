-- The leaves of a buffer, and of what is kept of its files, with the time they cover: both null for a default partition.
create or replace function grace_internal.leaves(protected_id integer)
returns table (leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz, holds_files boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.oid, c.relname, d.day::timestamp at time zone 'UTC', (d.day + 1)::timestamp at time zone 'UTC',
    left(c.relname, 1) = 'f'
  from pg_class c
  cross join lateral (
    select case
      when c.relname !~ '_default$' then to_date(right(c.relname, 8), 'YYYYMMDD')
    end
  ) as d (day)
  where c.relnamespace = 'grace_internal'::regnamespace
    and c.relkind = 'r'
    and c.relispartition
    and c.relname ~ format('^[bf]%s_(default|\d{8})$', protected_id)
$$;
