-- A name for a buffer column that makes room: amount -> amount_former1.
create or replace function grace_internal.free_column_name(protected_id integer, wanted name)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_suffix text;
begin
  for n in 1 .. 1600 loop
    v_suffix := '_former' || n;
    v_name := grace_internal.cut_name(wanted::text, 63 - octet_length(v_suffix)) || v_suffix;
    if not exists (
      select from grace_internal.protected_column c
      where c.protected_id = free_column_name.protected_id and c.buffer_column = v_name
    ) then
      return v_name;
    end if;
  end loop;
  raise exception 'no free name left for a former version of buffer column %', wanted
    using errcode = 'GR003',
    detail = 'The buffer holds 1600 former versions of it.',
    hint = 'Purge the buffer, then unprotect and protect the table.';
end
$$;
