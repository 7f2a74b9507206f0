-- The registry's id of a table, or of the partition tree it belongs to. Errors: GR001 when it is not protected.
create or replace function grace_internal.protected_id(target regclass)
returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_root regclass := coalesce(pg_partition_root(target), target);
  v_id integer;
begin
  select p.id into v_id from grace_internal.protected p where p.target = v_root;
  if not found then
    raise exception 'table % is not protected', target
      using errcode = 'GR001',
      detail = 'No buffer exists for it, so there is nothing of it to look at, restore or purge.',
      hint = format('Protect it with: select * from grace.protect(%L);', target);
  end if;
  return v_id;
end
$$;
