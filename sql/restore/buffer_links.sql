-- Foreign keys between protected tables, as a join condition over their buffers: c the referencing row, p the
-- referenced one.
create or replace function grace._buffer_links()
returns table (child_id integer, child_buffer name, parent_id integer, parent_buffer name, condition text)
language sql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select
    child.id, child.buffer, parent.id, parent.buffer,
    (
      select string_agg(
        format('p.%I %s c.%I', j.parent_column, grace_internal.qualified_operator(j.operator_oid), j.child_column),
        ' and '
      )
      from unnest(
        grace_internal.buffer_columns(parent.id, f.confrelid, f.confkey),
        grace_internal.buffer_columns(child.id, f.conrelid, f.conkey),
        f.conpfeqop
      ) as j (parent_column, child_column, operator_oid)
    )
  from pg_constraint f
  join grace_internal.protected child on child.target = coalesce(pg_partition_root(f.conrelid), f.conrelid::regclass)
  join grace_internal.protected parent on parent.target = coalesce(pg_partition_root(f.confrelid), f.confrelid::regclass)
  where f.contype = 'f'
    and f.conparentid = 0
    and grace_internal.buffer_columns(parent.id, f.confrelid, f.confkey) is not null
    and grace_internal.buffer_columns(child.id, f.conrelid, f.conkey) is not null
$$;
comment on function grace._buffer_links() is 'Internal: foreign keys between protected tables, as join conditions.';
