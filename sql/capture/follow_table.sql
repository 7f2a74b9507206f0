-- Brings buffer, capture function and triggers up to date with a table; takes the triggers off partitions that have left.
-- A trigger that somebody has disabled is only enabled again with repair.
create or replace function grace_internal.follow_table(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before text := coalesce(current_setting('grace.following', true), '');
  v_relation text;
  v_other_kind boolean;
begin
  -- Signed and for this transaction only, as nobody else may keep DDL from being followed.
  perform set_config('grace.following', grace_internal.signature('following'), true);
  if exists (
    select
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relispartition
    where p.id = protected_id
  ) then
    perform grace_internal.absorb_partition(protected_id);
    perform set_config('grace.following', v_before, true);
    return;
  end if;
  for v_relation in
    select grace_internal.qualified_name(t.tgrelid)
    from pg_trigger t
    where t.tgname = 'zz_grace_delete'
      and t.tgfoid in (select grace_internal.capture_functions(follow_table.protected_id))
      and not t.tgrelid in (
        select grace_internal.partition_tree(p.target)
        from grace_internal.protected p
        where p.id = follow_table.protected_id
      )
  loop
    execute format('drop trigger zz_grace_delete on %s', v_relation);
    execute format('drop trigger if exists zz_grace_truncate on %s', v_relation);
  end loop;
  update grace_internal.protected p
  set row_wise = not p.row_wise
  where p.id = protected_id and p.row_wise <> grace_internal.in_inheritance_tree(p.target);
  v_other_kind := found;
  if v_other_kind
    or grace_internal.columns_differ(protected_id)
    or not exists (select from grace_internal.capture_functions(protected_id))
  then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  perform grace_internal.create_triggers(protected_id, repair or v_other_kind);
  perform grace_internal.guard_leaves(protected_id);
  perform grace_internal.create_file_trigger(protected_id, repair);
  perform grace_internal.guard_against_drop(protected_id);
  perform grace_internal.follow_links(protected_id, repair);
  update grace_internal.protected p
  set target_name = grace_internal.qualified_name(p.target)
  where p.id = protected_id and p.target_name <> grace_internal.qualified_name(p.target);
  perform set_config('grace.following', v_before, true);
end
$$;
