-- The leaves of a buffer, and of what is kept of its files, with the time they cover: both null for a default partition. All or
-- part of that time may be past the retention.
create or replace function grace_internal.leaves(protected_id integer)
returns table (
  leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz, holds_files boolean,
  is_expired boolean, is_partly_expired boolean, is_current boolean
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    l.leaf, l.name, l.lower_bound, l.upper_bound, s.kind = 'f',
    l.upper_bound is not null and l.upper_bound - interval '1 microsecond' <= e.expired_before,
    coalesce(
      l.lower_bound <= e.expired_before and l.upper_bound - interval '1 microsecond' > e.expired_before, true
    ),
    coalesce(l.lower_bound <= clock_timestamp() and l.upper_bound > clock_timestamp(), true)
  from (select grace._expired_before(leaves.protected_id) as expired_before) e
  cross join (values ('b'), ('f')) as s (kind)
  cross join lateral grace_internal.stem_leaves(s.kind || leaves.protected_id) l
$$;
