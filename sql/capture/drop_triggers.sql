-- Stops capturing, on one protected table or (null) on all. Waits for the deletes that are under way.
create or replace function grace_internal.drop_triggers(only_id integer, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relations oid [];
  v_trigger record;
begin
  select array_agg(distinct t.tgrelid) into v_relations
  from pg_trigger t
  where t.oid in (select grace_internal.all_triggers(only_id));
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'access exclusive', max_wait);
    for v_trigger in
      select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
      from pg_trigger t
      where t.oid in (select grace_internal.all_triggers(only_id))
    loop
      execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
    end loop;
  end if;
end
$$;

create or replace function grace_internal.capture_functions(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select f.oid
  from pg_proc f
  where f.pronamespace = 'grace_internal'::regnamespace
    and f.prorettype = 'trigger'::regtype
    and case when only_id is null then f.proname ~ '^capture_[0-9]+$' else f.proname = 'capture_' || only_id end
$$;

-- Triggers that a protected table (or, null, all) has from us; not those that PostgreSQL has cloned to partitions.
create or replace function grace_internal.capture_triggers(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.oid
  from pg_trigger t
  where t.tgfoid in (select grace_internal.capture_functions(only_id))
  union all
  select t.oid
  from pg_trigger t
  where t.tgfoid in ('grace_internal.keep_files'::regproc, 'grace_internal.capture_leaf'::regproc) and t.tgparentid = 0
    and (only_id is null or t.tgargs = convert_to(only_id::text, 'UTF8') || e'\\x00'::bytea)
$$;

-- Together with those of the links that its deletes cut.
create or replace function grace_internal.all_triggers(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.capture_triggers(only_id)
  union all
  select grace_internal.link_triggers(only_id, true)
$$;
