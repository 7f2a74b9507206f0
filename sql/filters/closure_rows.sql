-- The text of a query of two columns, record and key: the rows of one table (named by the root of its partition tree) that go with each
-- record that source yields, by their primary keys, as jsonb; a null key where the table has no primary key. null when nothing of the
-- table goes, or nothing of it can be read. It is made for the owner of pg_grace: to be run as closure_parts says, and in the same
-- transaction, for it names partitions by their numbers. See closure_counts for source. Errors: GR009.
create or replace function grace_internal.closure_rows(target regclass, source text, relation regclass)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_edges jsonb := grace_internal.closure_edges_json(target, '{c}');
  v_nodes jsonb := grace_internal.closure_nodes_json(target, v_edges, true);
begin
  perform grace_internal.require_key(target);
  return (
    select format(
      'with recursive %s, records (leaf, tid, key) as (%s) '
      'select k.key as record, %s as key from n_%s n join records k on k.leaf = n.root_leaf and k.tid = n.root_tid',
      grace_internal.closure_parts(target, source, v_nodes, grace_internal.closure_links_json(v_nodes, v_edges), true, false),
      grace_internal.closure_records(target, v_nodes),
      grace_internal.part_key_json(n.relation, 'n', n.columns), n.relation
    )
    from jsonb_to_recordset(v_nodes) as n (relation oid, columns name [], reason text)
    where n.relation = closure_rows.relation and n.reason is null
  );
end
$$;
