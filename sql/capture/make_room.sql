-- Renames whatever buffer column stands where a column of the table is to go (a former one, or one of two that
-- swapped their names).
create or replace function grace_internal.make_room(protected_id integer, wanted name)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from grace_internal.protected_column c
    where c.protected_id = make_room.protected_id and c.buffer_column = wanted
  ) then
    perform grace_internal.rename_buffer_column(
      protected_id, wanted, grace_internal.free_column_name(protected_id, wanted)
    );
  end if;
end
$$;
