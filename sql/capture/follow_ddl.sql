-- Event trigger: what the application's DDL does to a protected table is followed in the same transaction. It must never be
-- what makes that DDL fail or wait: where a lock is not free at once, the next capture or purge does it.
create or replace function grace_internal.follow_ddl()
returns event_trigger
language plpgsql
security definer -- whoever changes a table need have no right on its buffer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_id integer;
  v_followed integer [] := array[]::integer [];
  v_covered record;
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  for v_id in
    select distinct p.id
    from pg_event_trigger_ddl_commands() d
    cross join lateral (
      select coalesce(pg_partition_root(d.objid), d.objid::regclass)
      union
      select t::regclass from grace_internal.partition_tree(d.objid) t
      union
      select f.confrelid::regclass from pg_constraint f
      where f.conrelid = d.objid and f.contype = 'f' and f.confdeltype = 'c'
      union
      select i.inhparent::regclass from pg_inherits i where i.inhrelid = d.objid
    ) as t (relation)
    join grace_internal.protected p on p.target in (t.relation, pg_partition_root(t.relation))
    where d.classid = 'pg_class'::regclass and p.active
  loop
    begin
      perform grace_internal.follow_table(v_id, repair => false);
      perform grace_internal.free_former_columns(v_id);
      for v_covered in select * from grace_internal.cover(v_id) c where c.warning is not null loop
        raise warning '% is not protected', v_covered.protected_table using detail = v_covered.warning;
      end loop;
    exception when others then -- whatever it is, the application's DDL comes first; the next capture says it again
      raise warning 'the buffer of % could not be brought up to date now; the next capture does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
    v_followed := v_followed || v_id;
  end loop;

  -- The tables that deletes cut links of: new foreign keys, and those that are known.
  for v_id in
    select p.id
    from pg_event_trigger_ddl_commands() d
    join pg_constraint f on f.conrelid = d.objid and f.contype = 'f' and f.confdeltype in ('n', 'd')
    join grace_internal.protected p on p.target in (f.confrelid, pg_partition_root(f.confrelid))
    where d.classid = 'pg_class'::regclass and p.active
    union
    select l.protected_id
    from pg_event_trigger_ddl_commands() d
    join grace_internal.link l on l.child in (d.objid, pg_partition_root(d.objid)) and l.active
    where d.classid = 'pg_class'::regclass
    except
    select unnest(v_followed)
  loop
    begin
      perform grace_internal.follow_links(v_id, repair => false);
    exception when others then
      raise warning 'links to % could not be followed now; pg_grace sync does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
  end loop;
end
$$;
