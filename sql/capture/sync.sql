create or replace function grace._sync_server()
returns void
language plpgsql
security definer -- event triggers and jobs belong to the owner
set search_path = pg_catalog, pg_temp
as $$
begin
  if not grace_internal.has_event_triggers() then
    perform grace_internal.ensure_event_triggers();
  end if;
  perform grace_internal.ensure_jobs();
end
$$;
comment on function grace._sync_server() is 'Internal: what grace.sync() does besides the tables.';

create or replace function grace.sync(target regclass default null, wait interval default '60 seconds')
returns table (protected_table regclass, status text, warning text)
language plpgsql
security definer -- creates triggers and changes buffers, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_only integer := case when target is not null then grace_internal.protected_id(target) end;
  v_ids integer [];
  v_id integer;
begin
  perform grace_internal.forget_dropped();
  select coalesce(array_agg(p.id order by p.id), '{}') into v_ids
  from grace_internal.protected p
  where p.active and (v_only is null or p.id = v_only)
    and exists (select from pg_class c where c.oid = p.target);

  for protected_table, status, warning in
    select p.target,
      case
        when s.state <> 'capturing' then 'capturing again, it was ' || s.state
        when s.drift then 'columns followed'
        when exists (select from grace_internal.unlinked(p.id)) then 'links followed'
        when p.row_wise <> grace_internal.in_inheritance_tree(p.target) then 'inheritance followed'
        else 'up to date'
      end,
      null
    from grace_internal.protected p
    cross join lateral grace._protected_state(p.id) s
    where p.id = any (v_ids)
    order by p.id
  loop
    return next;
  end loop;
  if grace_internal.follow_tables(v_ids, wait) then
    insert into grace_internal.run (kind, target, status, finished_at, role, login)
    values ('sync', target, 'done', clock_timestamp(), grace_internal.caller(), session_user);
  end if;
  foreach v_id in array v_ids loop
    return query select * from grace_internal.cover(v_id);
    while grace_internal.prepare_partitions(v_id) loop
      null; -- one at a time, until none is missing
    end loop;
  end loop;
  if v_only is null then
    perform grace._sync_server();
  end if;
end
$$;
comment on function grace.sync(regclass, interval) is
'Brings one protected table, or all, up to date with what has become of it: capture triggers that are missing or disabled, changed columns, new partitions, tables that have come to lose rows with it, and the buffer''s partitions for the days ahead; without a table also the event triggers and the pg_cron job. What event triggers do at once where a superuser has installed pg_grace. wait: how long to try for the locks. Returns one row per table, and a warning for what could not be protected. Errors: GR001, GR006.';
