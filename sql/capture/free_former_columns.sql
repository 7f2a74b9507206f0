-- A former column of a type of the application's keeps its values as text, so that it does not hold the type fast. It is done within
-- the DDL that ended the column, and only if nobody has written to the buffer by hand, for rewritten rows can no longer tell.
-- By the types' output functions, not by casts, which may be the application's own.
create or replace function grace_internal.free_former_columns(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_changes text;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  select string_agg(format(
    'alter column %1$I type text using case when num_nulls(%1$I) = 0 then format(''%%s'', %1$I) end', c.buffer_column
  ), ', ') into v_changes
  from grace_internal.protected_column c
  where c.protected_id = free_former_columns.protected_id
    and c.ended_at is not null and grace_internal.belongs_to_application(c.type);
  if v_changes is null then
    return;
  end if;
  if exists (select from grace.verify_buffer(v_protected.target)) then
    raise warning 'former columns of buffer % keep their types', v_protected.buffer
      using detail = 'Somebody has written to the buffer by hand, and rewriting it would hide that.',
      hint = 'Look at it: select * from grace.verify_buffer();';
    return;
  end if;
  execute format('alter table grace_buffer.%I %s', v_protected.buffer, v_changes);
  update grace_internal.protected_column c
  set type = 'text'::regtype
  where c.protected_id = free_former_columns.protected_id
    and c.ended_at is not null and grace_internal.belongs_to_application(c.type);
  update grace_internal.protected p
  set unmarked_to = coalesce(pg_sequence_last_value('grace_internal.deletion_id'), 0)
  where p.id = protected_id;
end
$$;
