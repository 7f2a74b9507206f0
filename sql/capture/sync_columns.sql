-- Makes the buffer table follow the columns of its table; returns whether it had to change. Added columns are added,
-- renamed ones renamed. A column that was dropped or changed its type keeps its values in the buffer; one that has to
-- make room for a namesake is renamed to name_former1. Nothing is rewritten, so it is quick at any size. What rows from before
-- a column was added have in it they also have in the buffer; a new type adds no values, for theirs are in the former column.
create or replace function grace_internal.sync_columns(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_buffer text;
  v_column record;
  v_changed boolean := false;
  v_changed_numbers boolean := false;
begin
  select p.* into strict v_protected
  from grace_internal.protected p
  where p.id = protected_id
  for update;
  v_buffer := format('grace_buffer.%I', v_protected.buffer);
  if grace_internal.has_moved(v_protected) then
    perform grace_internal.renumber_columns(v_protected.id);
    select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
    v_changed_numbers := true;
  end if;

  -- DROP TYPE … CASCADE takes columns out of the buffer as well.
  delete from grace_internal.protected_column c
  where c.protected_id = v_protected.id
    and not exists (
      select
      from pg_attribute a
      where a.attrelid = v_buffer::regclass and a.attname = c.buffer_column and not a.attisdropped
    );

  with ended as (
    update grace_internal.protected_column c
    set ended_at = clock_timestamp()
    where c.protected_id = v_protected.id
      and c.ended_at is null
      and not exists (
        select from grace_internal.live_columns(v_protected.target) l
        where l.attnum = c.attnum and l.type = c.type
      )
    returning 1
  )
  select exists (select from ended) into v_changed;

  for v_column in
    select
      l.buffer_column as wanted, l.attname, l.attnum, l.type, l.type_name, c.buffer_column,
      not exists (
        select
        from grace_internal.protected_column f
        where f.protected_id = v_protected.id and f.attnum = l.attnum
      ) as is_new
    from grace_internal.live_columns(v_protected.target) l
    left join grace_internal.protected_column c
      on c.protected_id = v_protected.id and c.attnum = l.attnum and c.ended_at is null
    where not l.attnum = any (v_protected.excluded)
      and c.buffer_column is distinct from l.buffer_column
    order by l.attnum
  loop
    v_changed := true;
    perform grace_internal.make_room(v_protected.id, v_column.wanted);
    if v_column.buffer_column is null then
      execute format(
        'alter table %s add column %I %s default %L', v_buffer, v_column.wanted, v_column.type_name,
        case when v_column.is_new then grace_internal.missing_value(v_protected.target, v_column.attnum) end
      );
      execute format('alter table %s alter column %I drop default', v_buffer, v_column.wanted);
      insert into grace_internal.protected_column (protected_id, buffer_column, attnum, attname, type)
      values (v_protected.id, v_column.wanted, v_column.attnum, v_column.attname, v_column.type);
    else
      perform grace_internal.rename_buffer_column(
        v_protected.id,
        (select c.buffer_column from grace_internal.protected_column c
         where c.protected_id = v_protected.id and c.attnum = v_column.attnum and c.ended_at is null),
        v_column.wanted
      );
    end if;
  end loop;

  perform grace_internal.no_statistics(v_buffer); -- reaches the partitions as well

  -- Former ones as well, by which they are found after a move; a dropped one has the name PostgreSQL has given it since, so that
  -- it is not taken for a namesake.
  update grace_internal.protected_column c
  set attname = a.attname
  from pg_attribute a
  where c.protected_id = v_protected.id
    and a.attrelid = v_protected.target and a.attnum = c.attnum and a.attname <> c.attname;
  perform grace_internal.rename_holds(v_protected.id, moved => false);
  update grace_internal.protected p
  set
    target_name = grace_internal.qualified_name(p.target),
    excluded_names = coalesce(grace_internal.column_names(p.target, p.excluded), '{}'),
    file_names = coalesce(grace_internal.column_names(p.target, p.files), '{}')
  where p.id = v_protected.id;

  return v_changed or v_changed_numbers;
end
$$;
