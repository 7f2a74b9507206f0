-- Everything that takes time (checking, buffers, functions) comes before the lock; under the lock only the triggers
-- are created.
create or replace function grace.protect(
  target regclass,
  retention interval default '30 days',
  "cascade" boolean default true,
  exclude_columns name [] default '{}',
  wait interval default '60 seconds',
  files name [] default '{}'
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
  v_changed boolean;
begin
  if target is null then
    raise exception 'no table given'
      using errcode = 'null_value_not_allowed', detail = 'target is null.', hint = 'Give the table''s name.';
  end if;
  perform grace_internal.check_retention(retention);
  perform grace_internal.check_protectable(target, exclude_columns, files);

  for v_table in
    select t from grace_internal.cascade_tree(target, "cascade") t order by t <> target, t::text
  loop
    protected_table := v_table;
    begin
      select t.protected_id, t.status, t.warning into v_id, status, warning
      from grace_internal.protect_table(
        v_table, retention,
        case v_table when target then coalesce(exclude_columns, '{}') else '{}' end,
        case
          when v_table in (select grace_internal.cascade_tree(target, false)) then coalesce(files, '{}')
          else '{}'
        end,
        v_table <> target or "cascade"
      ) t;
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      if v_table in (select grace_internal.cascade_tree(target, false)) then
        raise;
      end if;
      get stacked diagnostics warning = pg_exception_detail;
      buffer := null;
      status := 'not protected';
      warning := format('Deleting from %s cascades into it, and those rows will be lost: %s', target, warning);
      perform grace_internal.accept_uncovered(v_table);
      return next;
      continue;
    end;
    if v_table <> target then
      warning := null;
    end if;
    warning := nullif(concat_ws(' ', warning, grace_internal.link_warning(v_id)), '');
    select format('grace_buffer.%I', p.buffer)::regclass into buffer
    from grace_internal.protected p
    where p.id = v_id;
    v_ids := v_ids || v_id;
    return next;
  end loop;
  if not "cascade" then
    update grace_internal.protected p set follows_cascades = false where p.target = protect.target;
  end if;

  v_changed := grace_internal.follow_tables(v_ids, wait);
  if v_changed then
    insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
    values (
      'protect', target, 'done', clock_timestamp(), jsonb_build_object('retention', retention),
      grace_internal.caller(), session_user
    );
  end if;
end
$$;
comment on function grace.protect(regclass, interval, boolean, name [], interval, name []) is
'Starts capturing what is deleted from a table, from all that inherit from it and, with cascade, from every table that its deletion cascades into, now or later. Idempotent. retention: how long a deleted row can be restored. exclude_columns: columns of the table itself that are not captured; a restore gives them their default. wait: how long to try for the lock before giving up; no attempt holds up others for more than 100 ms. files: columns of the table itself that refer to files: a large object (oid or lo), whose content is kept with the row, or a path or URL (text), which enters grace.file_outbox when the row is purged. Returns one row per table, with a warning for each cascade it could not follow. Errors: GR002, GR003, GR004, GR005, GR006, 42501.';

-- Brings tables up to date, triggers included, after one wait for the locks on all that lack triggers; returns whether any
-- did.
create or replace function grace_internal.follow_tables(ids integer [], wait interval)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relations oid [];
  v_former oid [];
  v_id integer;
begin
  foreach v_id in array ids loop
    perform grace_internal.register_links(v_id);
  end loop;
  select array_agg(t.relation) into v_relations
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = any (ids)
    and (
      not grace_internal.has_capture_triggers(t.relation, p.id)
      or (
        exists (select from grace_internal.file_columns(p.id, 'large object'))
        and not grace_internal.has_file_trigger(t.relation, p.id)
      )
      or p.row_wise <> grace_internal.in_inheritance_tree(p.target)
    );
  select array_agg(distinct r.relation) into v_relations
  from (
    select unnest(v_relations)
    union all
    select t.relation
    from unnest(ids) as p (id)
    cross join lateral grace_internal.unlinked(p.id) as u (child)
    cross join lateral grace_internal.partition_tree(u.child) as t (relation)
  ) as r (relation);
  select array_agg(distinct t.tgrelid) into v_former
  from unnest(ids) as p (id)
  cross join lateral grace_internal.link_triggers(p.id, false) as l (trigger_oid)
  join pg_trigger t on t.oid = l.trigger_oid;
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'share row exclusive', wait);
  end if;
  if v_former is not null then
    perform grace_internal.lock_for_ddl(v_former, 'access exclusive', wait);
  end if;
  foreach v_id in array ids loop
    perform grace_internal.follow_table(v_id, repair => true);
  end loop;
  return v_relations is not null or v_former is not null;
end
$$;
