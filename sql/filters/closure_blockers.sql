-- What a column of a row gets by ON DELETE SET DEFAULT, as an expression; null when that is not a plain constant of a type of
-- PostgreSQL's own, for evaluating it could run code of others.
create or replace function grace_internal.constant_default(relation oid, attnum smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when d.oid is null then format('null::%s', format_type(b.type, -1))
    when t.typnamespace = 'pg_catalog'::regnamespace and (
      d.adbin::text ~ '^\{CONST '
      or d.adbin::text ~ '^\{FUNCEXPR [^{]*:funcformat 2 [^{]*:args \(\{CONST [^{]*$' and exists (
        select
        from pg_cast c
        where c.castfunc = substring(d.adbin::text from ':funcid (\d+)')::oid and c.castfunc < 10000
      )
    ) then format('(%s)::%s', pg_get_expr(d.adbin, d.adrelid), format_type(b.type, -1))
  end
  from pg_attribute a
  cross join lateral grace_internal.base_type(a.atttypid) as b (type)
  join pg_type t on t.oid = b.type
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = relation and a.attnum = constant_default.attnum
$$;

-- How the links that a foreign key with ON DELETE SET NULL or SET DEFAULT cuts stand in the way of the deletion: a condition on a row t
-- that refers to one that goes, and why; is_gone is whether the row q goes as well. No row where they don't, or where it can't be said
-- beforehand.
create or replace function grace_internal.cut_blocks(constraint_id oid, is_gone text)
returns table (condition text, reason text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with set_columns as (
    select
      f.oid, k.n, a.attname, s.attnum is not null as is_set, a.attnotnull,
      case
        when s.attnum is null then format('t.%I', a.attname)
        when f.confdeltype = 'n' then 'null'
        else grace_internal.constant_default(f.conrelid, k.attnum)
      end as value
    from pg_constraint f
    cross join lateral unnest(f.conkey) with ordinality as k (attnum, n)
    join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum
    left join unnest(coalesce(nullif(f.confdelsetcols, '{}'), f.conkey)) as s (attnum) on s.attnum = k.attnum
    where f.oid = constraint_id and f.confdeltype in ('n', 'd')
  )
  select 'true', format('its column %I can''t be null', min(s.attname))
  from set_columns s
  where s.is_set and s.attnotnull and s.value ~ '^null(::|$)'
  having count(*) > 0
  union all
  select
    format(
      'num_nulls(%s) = 0 and not exists (select from %s q where %s and not (%s))',
      string_agg(s.value, ', '), grace_internal.only_name(f.confrelid),
      grace_internal.foreign_key_match(
        f.oid, grace_internal.columns_of('q', grace_internal.column_names(f.confrelid, f.confkey)), array_agg(s.value order by s.n)
      ),
      is_gone
    ),
    'what its link would be set to is not there'
  from pg_constraint f
  join set_columns s on s.oid = f.oid
  where f.confdeltype = 'd'
  group by f.oid, f.confrelid, f.confkey
  having bool_and(s.value is not null) and not bool_or(s.is_set and s.attnotnull and s.value ~ '^null(::|$)')
$$;

-- The records (primary keys as jsonb) of those that source yields whose deletion a foreign key would refuse, each with the reasons: a
-- row that goes is referred to, by NO ACTION or RESTRICT, by a row that is there still. PostgreSQL looks for such rows for each deleted
-- row, in the order of its triggers (what cascades from a row, and what must not refer to it, in the order in which the foreign keys
-- were made), before it deletes what cascades from the rows that it has just deleted; NO ACTION that is not INITIALLY DEFERRED is no
-- different from RESTRICT in that. So a referencing row that the cascade reaches later blocks as well. After a long way through a cycle
-- of foreign keys the order is not known: then a row that goes at all does not block. With together all records are deleted at once,
-- and what goes with any of them does not block. A row without a key says what can't be known. What SET NULL and SET DEFAULT would run
-- into is found as well; a default only where it is a constant. See closure_counts for source. Errors: GR009 when the table has no
-- primary key.
create or replace function grace_internal.closure_blockers(
  target regclass, source text, max_rows integer default null, together boolean default false
)
returns table (key jsonb, reason text)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set jit = off
set enable_nestloop = on -- until it ends: it may change meanwhile
set extra_float_digits = 1
set intervalstyle = 'postgres'
as $$
declare
  v_edges jsonb := grace_internal.closure_edges_json(target, '{c,a,r,n,d}');
  v_nodes jsonb := grace_internal.closure_nodes_json(target, v_edges, true);
  v_links jsonb := grace_internal.closure_links_json(v_nodes, v_edges);
  v_blocked text;
  v_work_mem text := current_setting('work_mem');
begin
  perform grace_internal.require_key(target);
  return query
    select
      null::jsonb,
      format('whether rows of %s stand in the way can''t be told: %s', u.relation::regclass, string_agg(distinct u.reason, '; '))
    from (
      select e.child, e.reason from jsonb_to_recordset(v_edges) as e (child oid, reason text)
      union all
      select n.relation, n.reason from jsonb_to_recordset(v_nodes) as n (relation oid, reason text)
    ) as u (relation, reason)
    where u.reason is not null
    group by u.relation;
  select string_agg(
    format(
      'select p.root_leaf, p.root_tid, case when p.leaf = p.root_leaf and p.tid = p.root_tid then %L else %L end '
      'from n_%s p join %s t on %s where %s%s',
      concat_ws(', and ', format('%s refers to it (%I)', r.child, l.name), b.reason),
      concat_ws(', and ', format('its %s is referred to by %s (%I)', r.parent, r.child, l.name), b.reason),
      l.parent, grace_internal.only_name(l.referencing), l.match, b.condition,
      case when l.has_part then format(
        ' and not exists (select from n_%s d where d.leaf = t.tableoid and d.tid = t.ctid%s%s)',
        l.child, r.same_record,
        case when not together and not (l.action = 'a' and l.deferred) then format(
          ' and (p.path is null or d.path is null and cardinality(p.path) >= %s or cardinality(d.path) <= cardinality(p.path) or '
          'cardinality(d.path) = cardinality(p.path) + 1 and d.path < p.path || (%s::bigint << 48))',
          grace_internal.known_length(v_links), l.place
        ) end
      ) end
    ), ' union all '
  )
  into v_blocked
  from jsonb_to_recordset(v_links) as l (
    id oid, name name, action text, parent oid, child oid, referencing oid, place bigint, deferred boolean, match text, has_part boolean
  )
  cross join lateral (
    select
      grace_internal.qualified_name(l.parent) as parent, grace_internal.qualified_name(l.child) as child,
      case when not together then ' and d.root_leaf = p.root_leaf and d.root_tid = p.root_tid' end as same_record
  ) as r
  cross join lateral (
    select 'true' as condition, null as reason where l.action in ('a', 'r')
    union all
    select * from grace_internal.cut_blocks(
      l.id,
      format('exists (select from n_%s d where d.leaf = q.tableoid and d.tid = q.ctid%s)', l.parent, r.same_record)
    )
  ) as b
  where l.action <> 'c';
  if v_blocked is null then
    return;
  end if;
  return query execute format(
    'with recursive %s, records (leaf, tid, key) as (%s), blocked (leaf, tid, reason) as (%s) '
    'select k.key, b.reason from (select b.leaf, b.tid, string_agg(distinct b.reason, ''; '') as reason from blocked b '
    'group by b.leaf, b.tid order by b.leaf, b.tid limit $1) b join records k using (leaf, tid) order by b.leaf, b.tid',
    grace_internal.closure_parts(
      target, source, v_nodes, v_links, true, grace_internal.plan_for_rows(target, source, v_nodes)
    ),
    grace_internal.closure_records(target, v_nodes), v_blocked
  )
  using max_rows;
  perform set_config('work_mem', v_work_mem, true);
end
$$;
