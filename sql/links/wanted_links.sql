create or replace function grace_internal.primary_key(relation oid)
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(k.attnum order by k.position)
  from pg_index i
  cross join lateral unnest(i.indkey::smallint []) with ordinality as k (attnum, position)
  where i.indrelid = relation and i.indisprimary and k.position <= i.indnkeyatts
$$;

-- The foreign keys that deleting from a protected table cuts; of partition trees the one that was declared, not those that PostgreSQL
-- has made of it. key_columns is null where the child has no primary key. As of now: VOLATILE, so that it reads with a snapshot of
-- its own and not with that of the statement that deletes.
create or replace function grace_internal.wanted_links(protected_id integer)
returns table (
  child oid, key_columns smallint [], columns smallint [], set_columns smallint [], parent_columns smallint []
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select distinct
      f.conrelid,
      grace_internal.primary_key(f.conrelid),
      f.conkey,
      coalesce(nullif(f.confdelsetcols, '{}'), f.conkey),
      (
        select array_agg(r.attnum order by k.position)
        from unnest(f.confkey) with ordinality as k (attnum, position)
        join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum
        join pg_attribute r on r.attrelid = p.target and r.attname = a.attname
      )
    from grace_internal.protected p
    join pg_constraint f on f.confrelid in (select grace_internal.partition_tree(p.target))
    where p.id = wanted_links.protected_id and p.active
      and f.contype = 'f' and f.confdeltype in ('n', 'd') and f.conparentid = 0
      and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true);
end
$$;

-- Only the owner of a table may make its triggers fire always.
create or replace function grace_internal.can_have_link(child oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(c.relowner, 'usage') from pg_class c where c.oid = child
$$;

-- Which links of a protected table can't be remembered, and why; null when all can.
create or replace function grace_internal.link_warning(protected_id integer)
returns text
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select 'Links that a deletion cuts are not remembered: ' || string_agg(distinct format(
    '%s %s', grace_internal.qualified_name(w.child),
    case
      when w.key_columns is null then 'has no primary key'
      else format('belongs to a role of which %I is no member', current_user)
    end
  ), ', ')
  from grace_internal.wanted_links(protected_id) w
  where w.key_columns is null or not grace_internal.can_have_link(w.child)
$$;
