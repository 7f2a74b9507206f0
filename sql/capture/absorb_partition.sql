-- A protected table has become a partition: from now on its whole tree is protected, with its retention, and what is deleted goes into
-- the tree's buffer. Its own buffer stays until what is in it expires; it comes back into the same table.
create or replace function grace_internal.absorb_partition(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_partition grace_internal.protected;
  v_root regclass;
  v_root_id integer;
  v_trigger record;
begin
  select p.* into strict v_partition from grace_internal.protected p where p.id = protected_id;
  v_root := pg_partition_root(v_partition.target);
  for v_trigger in
    select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
    from pg_trigger t
    where t.oid in (select grace_internal.capture_triggers(v_partition.id))
  loop
    execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
  end loop;
  perform grace_internal.drop_guard(v_partition.id);
  update grace_internal.protected p set active = false where p.id = v_partition.id;
  perform grace_internal.follow_links(v_partition.id, repair => false);

  select p.id into v_root_id from grace_internal.protected p where p.target = v_root and p.active;
  if v_root_id is null then
    select t.protected_id into v_root_id
    from grace_internal.protect_table(
      v_root, v_partition.retention, '{}', v_partition.file_names, v_partition.follows_cascades
    ) t;
  end if;
  perform grace_internal.follow_table(v_root_id, repair => true);
  perform grace_internal.generate_capture(v_root_id); -- what was held stays held
end
$$;
