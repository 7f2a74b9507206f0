-- What the functions that make the statement need to know, found once.
create or replace function grace_internal.closure_edges_json(target oid, actions text [])
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(to_jsonb(e)), '[]') from grace_internal.closure_edges(target) e where e.action = any (actions)
$$;

create or replace function grace_internal.closure_nodes_json(target oid, edges jsonb, keys boolean)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(to_jsonb(n)) from grace_internal.closure_nodes(target, edges, keys) n
$$;

create or replace function grace_internal.closure_links_json(nodes jsonb, edges jsonb)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(to_jsonb(l)), '[]') from grace_internal.closure_links(nodes, edges) l
$$;
