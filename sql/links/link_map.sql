create or replace function grace_internal.link_has_moved(link grace_internal.link)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select link.child::oid is distinct from link.child_oid or link.home <> grace_internal.home()
$$;

-- The names that columns have now, found by number, or, after a move, by name; null when one of them is gone.
create or replace function grace_internal.names_now(relation oid, attnums smallint [], names name [], by_name boolean)
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(*) = cardinality(attnums) then array_agg(a.attname order by k.position) end
  from unnest(attnums, names) with ordinality as k (attnum, name, position)
  join pg_attribute a
    on a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and case when by_name then a.attname = k.name else a.attnum = k.attnum end
$$;

create or replace function grace_internal.numbers_of(relation oid, names name [])
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(a.attnum order by k.position)
  from unnest(names) with ordinality as k (name, position)
  join pg_attribute a on a.attrelid = relation and a.attname = k.name and a.attnum > 0 and not a.attisdropped
$$;

create or replace view grace_internal.link_map as
select m.*
from (
  select
    l.id as link,
    l.protected_id,
    l.child,
    grace_internal.names_now(l.child, l.key_columns, l.key_names, h.has_moved) as key_names,
    grace_internal.names_now(l.child, l.columns, l.column_names, h.has_moved) as column_names,
    grace_internal.names_now(l.child, l.set_columns, l.set_names, h.has_moved) as set_names,
    grace_internal.names_now(
      p.target, l.parent_columns, l.parent_names, h.has_moved or grace_internal.has_moved(p.*)
    ) as parent_names
  from grace_internal.link l
  join grace_internal.protected p on p.id = l.protected_id
  cross join lateral grace_internal.link_has_moved(l.*) as h (has_moved)
) as m
where m.key_names is not null and m.column_names is not null and m.set_names is not null and m.parent_names is not null;

comment on view grace_internal.link_map is
'Links with the names that their columns have here and now, where all of them are still there; former links as well.';
