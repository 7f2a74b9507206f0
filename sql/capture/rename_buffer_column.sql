create or replace function grace_internal.rename_buffer_column(protected_id integer, old_name name, new_name name)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'alter table grace_buffer.%I rename column %I to %I',
    (select p.buffer from grace_internal.protected p where p.id = protected_id), old_name, new_name
  );
  update grace_internal.protected_column c
  set buffer_column = new_name
  where c.protected_id = rename_buffer_column.protected_id and c.buffer_column = old_name;
end
$$;
