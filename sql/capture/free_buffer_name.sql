-- The table's own name if no other buffer has it, else schema_name, else with a number; cut to 63 bytes.
create or replace function grace_internal.free_buffer_name(target regclass)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schema text;
  v_table text;
  v_name name;
begin
  select n.nspname, c.relname into strict v_schema, v_table
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = target;

  for n in 0 .. 100000 loop
    v_name := case n
      when 0 then v_table::name
      when 1 then grace_internal.cut_name(v_schema || '_' || v_table, 63)
      else grace_internal.cut_name(v_schema || '_' || v_table, 56) || '_' || n
    end;
    if not exists (select from grace_internal.protected p where p.buffer = v_name)
      and to_regclass(format('grace_buffer.%I', v_name)) is null
    then
      return v_name;
    end if;
  end loop;
  raise exception 'no free buffer name for %', target
    using errcode = 'GR003',
    detail = 'Every name made from the table''s name is taken in schema grace_buffer.',
    hint = 'Unprotect tables of the same name that are no longer needed.';
end
$$;

-- Cuts a name to a number of bytes without splitting a character.
create or replace function grace_internal.cut_name(wanted text, max_bytes integer)
returns name
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := wanted;
begin
  while octet_length(v_name) > max_bytes loop
    v_name := left(v_name, -1);
  end loop;
  return v_name::name;
end
$$;
