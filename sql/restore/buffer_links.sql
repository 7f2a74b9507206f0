-- Foreign keys between protected tables, as join conditions over their buffers: c the referencing row, p the referenced one; live_match
-- finds the row that c refers to in the table itself.
create or replace function grace._buffer_links()
returns table (
  child_id integer, child_buffer name, parent_id integer, parent_buffer name, condition text, live_match text, parent_key text
)
language sql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select
    child.id, child.buffer, parent.id, parent.buffer, j.condition,
    format('%s%s l where %s', case k.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(k.oid), j.live),
    j.parent_key
  from pg_constraint f
  join grace_internal.protected child on child.target = coalesce(pg_partition_root(f.conrelid), f.conrelid::regclass)
  join grace_internal.protected parent on parent.target = coalesce(pg_partition_root(f.confrelid), f.confrelid::regclass)
  join pg_class k on k.oid = f.confrelid
  cross join lateral (
    select
      string_agg(format('%s %s %s', v.parent, o.operator, v.child), ' and ') as condition,
      string_agg(format('l.%I %s %s', v.parent_name, o.operator, v.child), ' and ') as live,
      string_agg(v.parent, ', ') as parent_key
    from unnest(
      grace_internal.buffer_values(parent.id, f.confrelid, f.confkey, 'p'),
      grace_internal.buffer_values(child.id, f.conrelid, f.conkey, 'c'),
      grace_internal.column_names(f.confrelid, f.confkey),
      f.conpfeqop
    ) as v (parent, child, parent_name, operator_oid)
    cross join lateral (select grace_internal.qualified_operator(v.operator_oid)) as o (operator)
  ) as j
  where f.contype = 'f'
    and f.conparentid = 0
    and grace_internal.buffer_values(parent.id, f.confrelid, f.confkey, 'p') is not null
    and grace_internal.buffer_values(child.id, f.conrelid, f.conkey, 'c') is not null
    and not coalesce((to_jsonb(f) ->> 'conperiod')::boolean, false)
$$;
comment on function grace._buffer_links() is 'Internal: foreign keys between protected tables, as join conditions.';
