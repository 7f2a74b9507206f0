-- What the log says is left in a buffer: no scan of the buffer itself.
create or replace function grace_internal.buffered_rows(protected_id integer)
returns table (row_count bigint, oldest timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(d.row_count), 0)::bigint, min(d.deleted_at)
  from (
    select c.deleted_at, c.row_count - coalesce(r.row_count, 0) as row_count
    from (
      select k.deletion, min(k.deleted_at) as deleted_at, sum(k.row_count) as row_count
      from grace_internal.capture k
      where k.protected_id = buffered_rows.protected_id
        and k.deleted_at > (select grace._expired_before(buffered_rows.protected_id)) -- asked once, not for every row
      group by k.deletion
    ) as c
    left join (
      select s.deletion, sum(s.row_count) as row_count
      from grace_internal.restored s
      where s.protected_id = buffered_rows.protected_id
      group by s.deletion
    ) as r on r.deletion = c.deletion
  ) as d
  where d.row_count > 0
$$;

create or replace function grace_internal.buffer_size(protected_id integer)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint
  from grace_internal.protected p
  cross join lateral pg_partition_tree(to_regclass(format('grace_buffer.%I', p.buffer))) t
  where p.id = protected_id
$$;

create or replace function grace_internal.trigger_state(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not exists (select from pg_class c where c.oid = p.target) then 'table dropped'
    when not p.active then 'unprotected'
    when bool_and(grace_internal.has_capture_triggers(t.relation, p.id)) then 'capturing'
    when bool_or(exists (
      select from pg_trigger g
      where g.tgrelid = t.relation and g.tgname in ('zz_grace_delete', 'zz_grace_truncate', 'zz_grace_cover') and g.tgenabled <> 'A'
    )) then 'disabled'
    else 'missing'
  end
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = protected_id
  group by p.id
$$;

-- SECURITY DEFINER, for a view's functions run with the rights of whoever reads the view.
create or replace function grace._protected_state(
  protected_id integer,
  out state text, out drift boolean, out buffered_rows bigint, out buffer_bytes bigint, out oldest timestamptz
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select
    grace_internal.trigger_state(p.id),
    p.active and grace_internal.columns_changed(p.id),
    b.row_count,
    grace_internal.buffer_size(p.id),
    b.oldest
  from grace_internal.protected p
  cross join lateral grace_internal.buffered_rows(p.id) b
  where p.id = protected_id
$$;
comment on function grace._protected_state(integer) is 'Internal: the live state behind one row of grace.protected.';
