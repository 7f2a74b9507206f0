-- The registry forgets the numbers of tables that are gone, for another table may get them. What is buffered stays.
create or replace function grace_internal.forget_dropped()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.protected p
  set target = null, active = false
  where p.target is not null and not exists (select from pg_class c where c.oid = p.target);

  update grace_internal.protected p
  set uncovered = array(select u from unnest(p.uncovered) u join pg_class c on c.oid = u)
  where exists (select from unnest(p.uncovered) u where not exists (select from pg_class c where c.oid = u));

  update grace_internal.link l
  set child = null, active = false
  where l.child is not null and not exists (select from pg_class c where c.oid = l.child);
$$;

-- What is held is not dropped even so. Errors: GR029.
create or replace function grace_internal.refuse_drop_of_held()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_hold record;
begin
  for v_hold in
    select
      h.id, h.protected_id, h.key_values, grace_internal.hold_names(h.*) as names,
      bool_or(d.objid = p.target or (d.schema_name = 'grace_buffer' and d.object_name = p.buffer)) as is_whole,
      h.is_live and c.relkind = 'p' as may_be_gone
    from pg_event_trigger_dropped_objects() d
    cross join grace_internal.active_hold h
    join grace_internal.protected p on p.id = h.protected_id
    left join pg_class c on c.oid = p.target
    where d.object_type = 'table'
    group by h.id, h.protected_id, h.key_values, h.is_live, c.relkind, grace_internal.hold_names(h.*)
  loop
    if v_hold.is_whole or (
      v_hold.may_be_gone and v_hold.names is not null
      and grace_internal.find_live(v_hold.protected_id, v_hold.names, v_hold.key_values) is null
    ) then
      perform grace_internal.refuse_held(v_hold.id, 1);
    end if;
  end loop;
end
$$;

-- Event trigger: a protected table, or a partition of one, is not dropped by mistake, for nothing captures the rows that go
-- with it; nor is a buffer, nor does DROP TYPE … CASCADE take columns out of one. Errors: GR021, unless a member of grace_admin has set
-- grace.allow_drop.
create or replace function grace_internal.refuse_drop()
returns event_trigger
language plpgsql
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table record;
  v_allowed text := current_setting('grace.allow_drop', true);
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  select t.identity, t.kind into v_table
  from (
    select d.object_identity, 'table'
    from pg_event_trigger_dropped_objects() d
    join grace_internal.protected p on p.target = d.objid and p.active
    where d.classid = 'pg_class'::regclass and d.objsubid = 0
    union all
    select d.object_identity, 'partition'
    from pg_event_trigger_dropped_objects() d
    join pg_event_trigger_dropped_objects() t on t.address_names = d.address_names || 'zz_grace_delete'::text
    where d.object_type = 'table' and t.object_type = 'trigger'
    union all
    select d.object_identity, 'column'
    from pg_event_trigger_dropped_objects() d
    join grace_internal.protected p on p.buffer = d.address_names[2]
    join grace_internal.protected_column c on c.protected_id = p.id and c.buffer_column = d.address_names[3]
    where d.object_type = 'table column' and d.schema_name = 'grace_buffer' and not d.original
    union all
    select d.object_identity, 'buffer'
    from pg_event_trigger_dropped_objects() d
    where d.object_type = 'table' and (
      (d.schema_name = 'grace_buffer' and exists (
        select from grace_internal.protected p where p.buffer = d.address_names[2]
      ))
      or (d.schema_name = 'grace_internal' and d.address_names[2] ~ '^[bf][0-9]+_default$')
    )
  ) as t (identity, kind)
  order by t.kind desc, t.identity
  limit 1;
  if not found or (
    v_allowed in ('on', 'true', 'yes', '1') and pg_has_role(grace_internal.caller(), 'grace_admin', 'member')
  ) then
    perform grace_internal.refuse_drop_of_held();
    perform grace_internal.forget_dropped();
    return;
  end if;
  if v_table.kind = 'buffer' then
    raise exception '% holds deleted rows and was not dropped', v_table.identity
      using errcode = 'GR021',
      detail = 'Deletes of its table would fail without it.',
      hint = 'select grace.unprotect(…, ''discard''); or, as a member of grace_admin: set grace.allow_drop = on;';
  end if;
  if v_table.kind = 'column' then
    raise exception '% was not dropped with its type', v_table.identity
      using errcode = 'GR021',
      detail = 'What is buffered in it would be lost.',
      hint = 'Drop the table''s column first, then the type; or, as a member of grace_admin: set grace.allow_drop = on;';
  end if;
  raise exception '% is protected and was not dropped', v_table.identity
    using errcode = 'GR021',
    detail = concat(
      'DROP captures no rows: what is in the table would be lost.',
      case when v_allowed <> '' then ' grace.allow_drop counts only for a member of grace_admin, and set to on.' end
    ),
    hint = case
      when v_table.kind = 'partition' then 'Detach the partition first. Or, as a member of grace_admin: set grace.allow_drop = on;'
      else format('As a member of grace_admin: select grace.unprotect(%L); then drop it. Or: set grace.allow_drop = on;',
        v_table.identity)
    end;
end
$$;
