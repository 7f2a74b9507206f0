create or replace function grace_internal.part_columns(count integer, keys boolean)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    '(leaf, tid%s%s)',
    case when keys then ', root_leaf, root_tid, path' end,
    (select string_agg(format(', c%s', n), '' order by n) from generate_series(1, count) n)
  )
$$;

-- A step on the way from a row to one that goes with it: by which foreign key (its place in closure_edges), to which row of those that
-- this deletes, one after the other as they are stored.
create or replace function grace_internal.path_step(place text, tid text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    '((%1$s::bigint << 48) + ((%2$s::text::point)[0]::bigint << 16) + (%2$s::text::point)[1]::bigint)', place, tid
  )
$$;

-- The queries that find rows of a table, and of the other tables of its cycle, from outside of the cycle: what is asked for, and what
-- hangs on rows of parts that come before. Columns are those of a part.
create or replace function grace_internal.closure_entries(
  target oid, source text, links jsonb, relation oid, columns text, keys boolean
)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select t.tableoid as leaf, t.ctid as tid%s%s from %s t where exists (select from %s where %s)',
    case when keys then ', t.tableoid as root_leaf, t.ctid as root_tid, array[]::bigint[] as path' end,
    columns, grace_internal.only_name(s.relation), source,
    (
      select string_agg(grace_internal.comparison(
        k.operator_oid, format('t.%I', k.attname), k.type, format('k.%I', k.attname), 0 -- cast, whatever the source says it is
      ), ' and ')
      from grace_internal.key_operators(target) k
    )
  )
  from grace_internal.closure_starts(target) s
  where s.root = closure_entries.relation
  union all
  select format(
    'select t.tableoid, t.ctid%s%s from n_%s p join %s t on %s',
    case
      when keys then format(
        ', p.root_leaf, p.root_tid, case when p.path is not null then p.path || %s end',
        grace_internal.path_step(l.place::text, 't.ctid')
      )
    end,
    columns, l.parent, grace_internal.only_name(l.referencing), l.match
  )
  from jsonb_to_recordset(links) as l (
    action text, parent oid, child oid, component oid, child_component oid, referencing oid, place bigint, match text
  )
  where l.child = closure_entries.relation and l.action = 'c'
    and (l.component is null or l.component is distinct from l.child_component)
$$;

-- What tells the rows of a part apart, and, where one is reached in several ways, which of them counts: the first.
create or replace function grace_internal.part_key(alias text, keys boolean)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('%1$s.leaf, %1$s.tid' || case when keys then ', %1$s.root_leaf, %1$s.root_tid' else '' end, alias)
$$;

create or replace function grace_internal.part_order(alias text, keys boolean)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when keys then format(
    ' order by %1$s, cardinality(%2$s.path), %2$s.path',
    grace_internal.part_key(alias, keys), alias
  ) else '' end
$$;

-- How long a way is followed exactly through a cycle of foreign keys: there may be as many ways of a length as ways to choose from
-- these.
create or replace function grace_internal.known_length(links jsonb)
returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select floor(ln(64) / ln(greatest(2, (
    select max(c.keys)
    from (
      select count(*) as keys
      from jsonb_to_recordset(links) as l (action text, component oid, child_component oid)
      where l.action = 'c' and l.component = l.child_component
      group by l.component
    ) as c
  ))))::integer
$$;

-- The rows of all tables of a cycle by their places: along the indexes of the foreign keys, row by row, or, where one lacks its index or
-- the rows are many, over all pairs of rows that are tied together in the cycle.
create or replace function grace_internal.closure_cycle(entries text [], links jsonb, component oid, keys boolean, many boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    case
      when bool_and(l.indexed) and not many then
        'r_%1$s%6$s as (select * from (%2$s) r union select x.leaf, x.tid%3$s from r_%1$s r cross join lateral (%4$s) x)'
      else
        'e_%1$s as materialized (%5$s), '
        'r_%1$s%6$s as (select * from (%2$s) r union select x.leaf, x.tid%3$s from r_%1$s r '
        'join e_%1$s x on x.parent_leaf = r.leaf and x.parent_tid = r.tid)'
    end,
    closure_cycle.component, array_to_string(entries, ' union all '),
    case when keys then format(
      ', r.root_leaf, r.root_tid, case when cardinality(r.path) < %s then r.path || %s end', grace_internal.known_length(links),
      grace_internal.path_step('x.place', 'x.tid')
    ) end,
    string_agg(
      format(
        'select t.leaf, t.tid, %s as place from ('
        'select %s from %s p where r.leaf in (%s) and p.tableoid = r.leaf and p.ctid = r.tid offset 0) p '
        'cross join lateral (select t.tableoid as leaf, t.ctid as tid from %s t where %s offset 0) t',
        l.place, array_to_string(grace_internal.columns_of('p', l.parent_names), ', '), grace_internal.only_name(l.parent), l.leaves,
        grace_internal.only_name(l.referencing), l.table_match
      ), ' union all '
    ),
    string_agg(
      format(
        'select p.tableoid as parent_leaf, p.ctid as parent_tid, t.tableoid as leaf, t.ctid as tid, %s as place from %s p join %s t on %s '
        'where p.tableoid in (%s)',
        l.place, grace_internal.only_name(l.parent), grace_internal.only_name(l.referencing), l.table_match, l.leaves
      ), ' union all '
    ),
    grace_internal.part_columns(0, keys)
  )
  from jsonb_to_recordset(links) as l (
    action text, parent oid, component oid, child_component oid, referencing oid, parent_names name [], place bigint, indexed boolean,
    leaves text, table_match text
  )
  where l.component = closure_cycle.component and l.child_component = l.component and l.action = 'c'
$$;

-- The parts, as queries of a WITH RECURSIVE, of a statement that finds all that goes with rows of a table: n_<oid> for each of
-- closure_nodes that can be read, with the places of the rows (leaf, tid: they tell rows apart within one snapshot) and their columns
-- (c1, c2, …). With keys also for which row of the target a row goes (root_leaf, root_tid), and path: the way from there, which says
-- when PostgreSQL deletes it: first by length, then step by step; null where a way through a cycle is longer than known_length. The
-- source is read under the name that it gives itself, k. To be run by the owner of pg_grace with search_path = pg_catalog, pg_temp and
-- constraint_exclusion = off, so that nothing of the application's is executed.
create or replace function grace_internal.closure_parts(target oid, source text, nodes jsonb, links jsonb, keys boolean, many boolean)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_node record;
  v_component oid;
  v_entries text [];
  v_columns text;
  v_parts text [] := array[]::text [];
begin
  for v_node in
    select n.*
    from jsonb_to_recordset(nodes) as n (relation oid, component oid, place bigint, columns name [], reason text)
    where n.reason is null
    order by n.place, n.component, n.relation
  loop
    v_columns := coalesce((
      select string_agg(format(', t.%I as c%s', u.name, u.n), '' order by u.n)
      from unnest(v_node.columns) with ordinality as u (name, n)
    ), '');
    if v_node.component is null then
      v_entries := array(
        select grace_internal.closure_entries(target, source, links, v_node.relation, v_columns, keys)
      );
      v_parts := v_parts || format(
        case
          when cardinality(v_entries) = 1 then 'n_%1$s%2$s as (%3$s)'
          else 'n_%1$s%2$s as (select distinct on (%4$s) u.* from (%3$s) u%2$s%5$s)'
        end,
        v_node.relation, grace_internal.part_columns(cardinality(v_node.columns), keys), array_to_string(v_entries, ' union all '),
        grace_internal.part_key('u', keys), grace_internal.part_order('u', keys)
      );
    else
      if v_node.component is distinct from v_component then
        v_component := v_node.component;
        v_parts := v_parts || grace_internal.closure_cycle(
          array(
            select grace_internal.closure_entries(target, source, links, n.relation, '', keys)
            from jsonb_to_recordset(nodes) as n (relation oid, component oid, reason text)
            where n.component = v_component and n.reason is null
          ),
          links, v_component, keys, many
        );
      end if;
      v_parts := v_parts || format(
        'n_%1$s%2$s as (select r.*%3$s from (select %4$s * from r_%5$s u%6$s) r '
        'join %7$s t on t.tableoid = r.leaf and t.ctid = r.tid)',
        v_node.relation, grace_internal.part_columns(cardinality(v_node.columns), keys), v_columns,
        case when keys then format('distinct on (%s)', grace_internal.part_key('u', keys)) end,
        v_component, grace_internal.part_order('u', keys), grace_internal.only_name(v_node.relation)
      );
    end if;
  end loop;
  return array_to_string(v_parts, ', ');
end
$$;

-- The primary key of a table as jsonb, from the columns of a part; null where the table has none.
create or replace function grace_internal.part_key_json(relation oid, alias text, columns name [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(*) > 0 then grace_internal.key_json(
    array_agg(format('%s.c%s', alias, array_position(columns, k.attname))), array_agg(k.attname), array_agg(k.type)
  ) else 'null::jsonb' end
  from grace_internal.key_operators(relation) k
$$;

-- What was asked for, with its keys, as a query on the parts.
create or replace function grace_internal.closure_records(target oid, nodes jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      'select r.leaf, r.tid, %s from n_%s r where r.leaf = r.root_leaf and r.tid = r.root_tid',
      grace_internal.part_key_json(target, 'r', n.columns), n.relation
    ), ' union all '
  )
  from jsonb_to_recordset(nodes) as n (relation oid, columns name [], reason text)
  where n.reason is null and n.relation in (select s.root from grace_internal.closure_starts(target) s)
$$;
