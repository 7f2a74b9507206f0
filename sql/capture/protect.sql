-- Everything that takes time (checking, buffers, functions) comes before the lock; under the lock only the triggers
-- are created.
create or replace function grace.protect(
  target regclass,
  retention interval default '30 days',
  "cascade" boolean default true,
  exclude_columns name [] default '{}',
  wait interval default '60 seconds'
)
returns table (protected_table regclass, buffer regclass, status text, warning text)
language plpgsql
security definer -- makes tables and functions in schemas that are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table regclass;
  v_ids integer [] := array[]::integer [];
  v_id integer;
  v_active boolean;
  v_retention interval;
  v_relations oid [];
  v_denied text;
begin
  if target is null then
    raise exception 'no table given'
      using errcode = 'null_value_not_allowed', detail = 'target is null.', hint = 'Give the table''s name.';
  end if;
  perform grace_internal.check_retention(retention);
  perform grace_internal.check_protectable(target, exclude_columns);

  for v_table in
    select t from grace_internal.cascade_tree(target) t where "cascade" or t = target order by t <> target, t::text
  loop
    protected_table := v_table;
    warning := null;
    begin
      if v_table <> target then
        perform grace_internal.check_protectable(v_table, '{}');
      end if;
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      get stacked diagnostics v_denied = pg_exception_detail;
      buffer := null;
      status := 'not protected';
      warning := format('Deleting from %s cascades into it, and those rows will be lost: %s', target, v_denied);
      return next;
      continue;
    end;

    select p.id, p.active, p.retention into v_id, v_active, v_retention
    from grace_internal.protected p
    where p.target = v_table;
    if not found then
      v_id := grace_internal.create_buffer(
        v_table, retention, grace_internal.check_excluded(v_table, case v_table when target then exclude_columns end)
      );
      status := 'protected';
    elsif v_active and (v_table <> target or v_retention = retention) then
      status := 'already protected';
      if v_table = target and cardinality(exclude_columns) > 0 then
        warning := 'What is captured of it stays as it is; to exclude columns, unprotect it with buffer => discard first.';
      end if;
    elsif v_active then
      status := 'already protected';
      warning := format(
        'Its retention stays %s; to change it: select grace.set_retention(%L, %L);', v_retention, v_table, retention
      );
    else
      update grace_internal.protected p set active = true, retention = protect.retention where p.id = v_id;
      status := 'protected';
    end if;
    if status = 'protected' then
      perform grace_internal.sync_columns(v_id);
      perform grace_internal.generate_capture(v_id);
    end if;
    buffer := (select format('grace_buffer.%I', p.buffer)::regclass from grace_internal.protected p where p.id = v_id);
    v_ids := v_ids || v_id;
    return next;
  end loop;

  select array_agg(t.relation) into v_relations
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = any (v_ids) and not grace_internal.has_capture_triggers(t.relation, p.id);

  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'share row exclusive', wait);
  end if;
  foreach v_id in array v_ids loop
    perform grace_internal.follow_table(v_id, repair => true);
  end loop;
  if v_relations is not null then
    insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
    values (
      'protect', target, 'done', clock_timestamp(), jsonb_build_object('retention', retention),
      grace_internal.caller(), session_user
    );
  end if;
end
$$;
comment on function grace.protect(regclass, interval, boolean, name [], interval) is
'Starts capturing what is deleted from a table and, with cascade, from every table that its deletion cascades into. Idempotent. retention: how long a deleted row can be restored. exclude_columns: columns of the table itself that are not captured; a restore gives them their default. wait: how long to try for the lock before giving up; no attempt holds up others for more than 100 ms. Returns one row per table, with a warning for each cascade it could not follow. Errors: GR002, GR003, GR004, GR005, GR006, 42501.';
