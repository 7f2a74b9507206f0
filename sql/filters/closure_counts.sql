-- The rows of closure_counts but for the counts.
create or replace function grace_internal.closure_tables(nodes jsonb, edges jsonb)
returns table (relation oid, effect text, place bigint, through text, at_least boolean, reason text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with e as (
    select e.*, coalesce(e.reason, p.reason) as lacks, p.incomplete
    from jsonb_to_recordset(edges) as e (name name, action text, parent oid, child oid, reason text)
    join jsonb_to_recordset(nodes) as p (relation oid, reason text, incomplete boolean) on p.relation = e.parent
  )
  select
    n.relation, 'deleted', n.place,
    (select string_agg(distinct e.name, ', ') from e where e.child = n.relation and e.action = 'c'),
    n.incomplete and n.reason is null, n.reason
  from jsonb_to_recordset(nodes) as n (relation oid, place bigint, reason text, incomplete boolean)
  union all
  select
    e.child, 'link cut', 0, string_agg(distinct e.name, ', '),
    bool_or(e.incomplete or e.lacks is not null) and not bool_and(e.lacks is not null),
    case when bool_and(e.lacks is not null) then
      coalesce(min(e.reason), 'it is reached only through tables that can''t be read')
    end
  from e
  where e.action in ('n', 'd')
  group by e.child
$$;

-- What deleting rows of a table takes with it: per table how many rows go (deleted), and of how many others a foreign key with ON
-- DELETE SET NULL or SET DEFAULT would cut the link (link cut). source is a FROM item called k with the primary key columns of the
-- rows, named and typed as in the table. Where a table can't be read row_count is null, reason says why, and what might be reached
-- through it is at_least. through are the foreign keys. What the application's triggers would do is not foreseen. Reads only, with
-- ACCESS SHARE. Errors: GR009 when the table has no primary key.
create or replace function grace_internal.closure_counts(target regclass, source text)
returns table (
  relation regclass, effect text, row_count bigint, through text, is_protected boolean, at_least boolean, reason text
)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set jit = off
set enable_nestloop = on -- until it ends: it may change meanwhile
as $$
declare
  v_edges jsonb := grace_internal.closure_edges_json(target, '{c,n,d}');
  v_nodes jsonb := grace_internal.closure_nodes_json(target, v_edges, false);
  v_links jsonb := grace_internal.closure_links_json(v_nodes, v_edges);
  v_parts text;
  v_counts text;
  v_work_mem text := current_setting('work_mem');
begin
  perform grace_internal.require_key(target);
  if exists (select from jsonb_to_recordset(v_nodes) as n (reason text) where n.reason is null) then
    v_parts := grace_internal.closure_parts(
      target, source, v_nodes, v_links, false, grace_internal.plan_for_rows(target, source, v_nodes)
    ) || ',';
  end if;
  select string_agg(format(' union all select %s, %L, count(*) from %s', c.relation, c.effect, c.source), '') into v_counts
  from (
    select n.relation, 'deleted', format('n_%s', n.relation)
    from jsonb_to_recordset(v_nodes) as n (relation oid, reason text)
    where n.reason is null
    union all
    select
      l.child, 'link cut',
      format(
        '(%s) t%s',
        string_agg(
          format(
            'select t.tableoid as leaf, t.ctid as tid from n_%s p join %s t on %s',
            l.parent, grace_internal.only_name(l.referencing), l.match
          ), ' union '
        ),
        case when l.has_part then
          format(' where not exists (select from n_%s d where d.leaf = t.leaf and d.tid = t.tid)', l.child)
        end
      )
    from jsonb_to_recordset(v_links) as l (
      action text, parent oid, child oid, referencing oid, match text, has_part boolean
    )
    where l.action in ('n', 'd')
    group by l.child, l.has_part
  ) as c (relation, effect, source);
  return query execute format(
    $q$
      with recursive %s counts (relation, effect, row_count) as (select 0::oid, '', 0::bigint where false%s)
      select
        d.relation::regclass, d.effect, c.row_count, d.through,
        exists (select from grace_internal.protected p where p.target = d.relation and p.active),
        d.at_least, d.reason
      from grace_internal.closure_tables($1, $2) d
      left join counts c using (relation, effect)
      order by d.effect, d.place, d.relation
    $q$,
    v_parts, v_counts
  )
  using v_nodes, v_edges;
  perform set_config('work_mem', v_work_mem, true);
end
$$;
