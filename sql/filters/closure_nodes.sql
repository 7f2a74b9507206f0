-- The tables that a DELETE reaches by ON DELETE CASCADE (the roots of their partition trees), parents before children; component is the
-- same for tables that are in a cycle of foreign keys, else null. columns are those that a part (see closure_parts) has to have: what
-- foreign keys refer to and, with keys, the primary key. reason says why nothing of a table can be found; incomplete that rows may be
-- missing because another one can't be read.
create or replace function grace_internal.closure_nodes(target oid, edges jsonb, keys boolean)
returns table (relation oid, component oid, place bigint, columns name [], reason text, incomplete boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive e as materialized (
    select *
    from jsonb_to_recordset(edges) as e (
      id oid, action text, parent oid, child oid, parent_names name [], reason text
    )
  ),
  starts as materialized (
    select
      s.root as relation,
      coalesce(
        grace_internal.unreadable_reason(s.relation),
        (
          select 'its key is compared by ' || grace_internal.untrusted_comparison(
            array_agg(k.operator_oid), array_agg(k.type), array_agg(k.type)
          )
          from grace_internal.key_operators(target) k
        )
      ) as reason
    from grace_internal.closure_starts(target) s
  ),
  nodes as materialized (
    select n.relation, coalesce(grace_internal.unreadable_reason(n.relation), min(n.reason)) as reason
    from (
      select s.relation, s.reason from starts s
      union all
      select e.child, null from e where e.action = 'c'
    ) as n (relation, reason)
    group by n.relation
  ),
  links as materialized (
    select distinct e.parent, e.child
    from e
    join nodes p on p.relation = e.parent and p.reason is null
    join nodes c on c.relation = e.child and c.reason is null
    where e.action = 'c' and e.reason is null
  ),
  reach (parent, child) as (
    select l.parent, l.child from links l
    union
    select r.parent, l.child from reach r join links l on l.parent = r.child
  ),
  lacking (relation) as (
    select e.child
    from e
    join nodes p on p.relation = e.parent
    where e.action = 'c' and (e.reason is not null or p.reason is not null)
    union
    select e.child from lacking i join e on e.parent = i.relation and e.action = 'c'
  )
  select
    n.relation,
    (
      select min(a.child)
      from reach a
      join reach b on b.parent = a.child and b.child = a.parent
      where a.parent = n.relation
    ),
    (select count(*) from reach r where r.child = n.relation),
    array(
      select u.name from e cross join lateral unnest(e.parent_names) as u (name) where e.parent = n.relation
      union
      select k.attname from grace_internal.key_operators(n.relation) k where keys
      union
      select k.attname
      from grace_internal.key_operators(target) k
      where keys and n.relation in (select s.relation from starts s)
    ),
    coalesce(
      n.reason,
      case when n.relation not in (
        select s.relation from starts s
        union
        select r.child from reach r where r.parent in (select s.relation from starts s)
      ) then coalesce(
        (select min(e.reason) from e where e.child = n.relation and e.action = 'c'),
        'it is reached only through tables that can''t be read'
      ) end
    ),
    n.relation in (select l.relation from lacking l)
  from nodes n
$$;

-- The foreign keys that tie other rows (t) to rows that go: match is the condition where p is a row of the part of its table,
-- table_match the same where it is a row of the table itself; only those of the partitions that leaves has count. indexed is told of
-- those within a cycle.
create or replace function grace_internal.closure_links(nodes jsonb, edges jsonb)
returns table (
  id oid, name name, action text, parent oid, child oid, component oid, child_component oid, referenced oid, referencing oid,
  parent_names name [], child_names name [], place bigint, deferred boolean, indexed boolean, leaves text, match text, table_match text,
  has_part boolean
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    e.id, e.name, e.action, e.parent, e.child, p.component, c.component, e.referenced, e.referencing,
    e.parent_names, e.child_names, e.place, e.deferred, case when c.component = p.component then grace_internal.unindexed_size(e.id) < 65536 end, v.leaves,
    grace_internal.foreign_key_match(
      e.id,
      array(
        select format('p.c%s', array_position(p.columns, u.name)) from unnest(e.parent_names) with ordinality as u (name, n) order by u.n
      ),
      grace_internal.columns_of('t', e.child_names)
    ) || case when e.referenced = e.parent then '' else format(' and p.leaf in (%s)', v.leaves) end,
    grace_internal.foreign_key_match(
      e.id, grace_internal.columns_of('p', e.parent_names), grace_internal.columns_of('t', e.child_names)
    ),
    c.relation is not null and c.reason is null
  from jsonb_to_recordset(edges) as e (
    id oid, name name, action text, parent oid, child oid, referenced oid, referencing oid,
    parent_names name [], child_names name [], place bigint, deferred boolean, reason text
  )
  join jsonb_to_recordset(nodes) as p (relation oid, component oid, columns name [], reason text)
    on p.relation = e.parent and p.reason is null
  left join jsonb_to_recordset(nodes) as c (relation oid, component oid, reason text) on c.relation = e.child
  cross join lateral (
    select string_agg(t.relation::text, ', ') from grace_internal.partition_tree(e.referenced) as t (relation)
  ) as v (leaves)
  where e.reason is null and (e.action <> 'c' or c.reason is null)
$$;

-- A foreign key refers to rows of this table, not of those that inherit from it.
create or replace function grace_internal.only_name(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select concat(case c.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(c.oid))
  from pg_class c
  where c.oid = relation
$$;

-- Errors: GR009 when a table has no primary key.
create or replace function grace_internal.require_key(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.primary_key(target) is null then
    raise exception 'table % has no primary key', target
      using errcode = 'GR009',
      detail = 'Its rows can''t be told apart by a key.',
      hint = format('Add one: alter table %s add primary key (…);', target);
  end if;
end
$$;
