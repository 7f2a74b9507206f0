-- The deletion that this transaction's captures belong to; the first one begins it. Inlined into nothing and pinned by its
-- callers: a SET clause would cost more than all it does.
create or replace function grace_internal.current_deletion()
returns grace_internal.deletion_ref
language plpgsql
as $$
declare
  v_setting text := current_setting('grace.deletion', true);
  v_result grace_internal.deletion_ref;
begin
  if v_setting <> '' then
    v_result := grace_internal.remembered_deletion(v_setting);
  end if;
  if v_result.deletion is null then
    v_result.deletion := nextval('grace_internal.deletion_id');
    v_result.deleted_at := clock_timestamp();
    v_setting := concat(v_result.deletion, ' ', encode(timestamptz_send(v_result.deleted_at), 'hex'));
    v_setting := set_config('grace.deletion', v_setting || ' ' || grace_internal.signature(v_setting), true);
  end if;
  return v_result;
end
$$;
