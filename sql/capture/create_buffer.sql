-- Registers a table and creates its buffer, with leaves for today and the days ahead.
create or replace function grace_internal.create_buffer(
  target regclass, retention interval, excluded smallint [], follows_cascades boolean
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
  v_buffer name := grace_internal.free_buffer_name(target);
begin
  insert into grace_internal.protected (
    target, relation, target_name, buffer, retention, excluded, excluded_names, follows_cascades, row_wise, home, protected_by
  )
  values (
    target, target, grace_internal.qualified_name(target), v_buffer, retention, excluded,
    coalesce(grace_internal.column_names(target, excluded), '{}'), follows_cascades,
    grace_internal.in_inheritance_tree(target), grace_internal.home(), grace_internal.caller()
  )
  returning id into v_id;

  insert into grace_internal.protected_column (protected_id, buffer_column, attnum, attname, type)
  select v_id, l.buffer_column, l.attnum, l.attname, l.type
  from grace_internal.live_columns(target) l
  where not l.attnum = any (excluded);

  execute format(
    'create table grace_buffer.%I (%s grace_deletion bigint not null, grace_deleted_at timestamptz not null) '
    'partition by range (grace_deleted_at)',
    v_buffer,
    (
      select string_agg(format('%I %s, ', l.buffer_column, l.type_name), '' order by l.attnum)
      from grace_internal.live_columns(target) l
      where not l.attnum = any (excluded)
    )
  );
  perform grace_internal.create_partitions('b' || v_id, format('grace_buffer.%I', v_buffer));

  execute format('alter table grace_buffer.%I enable row level security', v_buffer);
  execute format(
    'create policy grace_unexpired on grace_buffer.%I for select using (grace_deleted_at > (select grace._expired_before(%s)))',
    v_buffer, v_id
  );
  execute format('grant select on grace_buffer.%I to grace_operator', v_buffer);
  execute format(
    'comment on table grace_buffer.%I is %L',
    v_buffer, 'pg_grace: what was deleted from ' || grace_internal.qualified_name(target)
  );
  return v_id;
end
$$;
