-- Event trigger, before a type is dropped: a buffer must neither hold the application's type fast nor lose values with it. Former
-- columns of such a type keep their values as text; so do columns of a type that the command names (or whose schema or extension
-- it names), for CASCADE would take them along. If the table keeps its column after all, the next capture begins a new one. By the
-- types' output functions, not by casts, which may be the application's own.
create or replace function grace_internal.free_types()
returns event_trigger
language plpgsql
security definer -- whoever drops a type need have no right on a buffer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_column record;
begin
  for v_column in
    select p.id, p.buffer, c.buffer_column
    from grace_internal.protected_column c
    join grace_internal.protected p on p.id = c.protected_id
    where grace_internal.belongs_to_application(c.type)
      and (c.ended_at is not null or grace_internal.is_named(c.type, current_query()))
  loop
    begin
      execute format(
        'alter table grace_buffer.%1$I alter column %2$I type text '
        'using case when num_nulls(%2$I) = 0 then format(''%%s'', %2$I) end', v_column.buffer, v_column.buffer_column
      );
      update grace_internal.protected_column c
      set type = 'text'::regtype
      where c.protected_id = v_column.id and c.buffer_column = v_column.buffer_column;
      update grace_internal.protected p
      set unmarked_to = coalesce(pg_sequence_last_value('grace_internal.deletion_id'), 0)
      where p.id = v_column.id;
    exception when lock_not_available then -- PostgreSQL says next what depends on the type
      raise warning 'column % of buffer % could not be freed of its type now', v_column.buffer_column, v_column.buffer;
    end;
  end loop;
end
$$;

-- A type, or array of a type, that is not PostgreSQL's own.
create or replace function grace_internal.belongs_to_application(type_oid oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.typnamespace <> 'pg_catalog'::regnamespace
  from pg_type t
  where t.oid = type_oid
$$;

-- Whether a command's text has the name of a type (or of what it is an array of), of its schema or of its extension in it.
create or replace function grace_internal.is_named(type_oid oid, command text)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_type t
    join pg_type e on e.oid = case when t.typcategory = 'A' then t.typelem else t.oid end
    join pg_namespace n on n.oid = e.typnamespace
    left join pg_depend d
      on d.classid = 'pg_type'::regclass and d.objid = e.oid and d.deptype = 'e'
      and d.refclassid = 'pg_extension'::regclass
    left join pg_extension x on x.oid = d.refobjid
    cross join lateral unnest(array[e.typname, n.nspname, x.extname]::text []) as w (word)
    where t.oid = type_oid and strpos(lower(command), lower(w.word)) > 0
  )
$$;
