create or replace function grace_internal.has_link_trigger(link_id integer, relation oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_trigger t
    join pg_proc f on f.oid = t.tgfoid and f.pronamespace = 'grace_internal'::regnamespace
    where t.tgrelid = relation
      and t.tgname = 'zz_grace_link_' || link_id
      and t.tgenabled = 'A'
      and f.proname = 'link_' || link_id
      and (t.tgtype & 2 = 2) = grace_internal.fires_before(relation)
  )
$$;

-- Tables whose links are to be remembered and that have no trigger for it yet, or one that does not always fire. Where a dump
-- was loaded the columns are compared by name.
create or replace function grace_internal.unlinked(protected_id integer)
returns setof oid
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select distinct w.child
  from grace_internal.wanted_links(protected_id) w
  where w.key_columns is not null and grace_internal.can_have_link(w.child)
    and not exists (
      select
      from grace_internal.link l
      where l.protected_id = unlinked.protected_id and l.active and l.child = w.child
        and l.key_names = grace_internal.column_names(w.child, w.key_columns)
        and l.column_names = grace_internal.column_names(w.child, w.columns)
        and l.set_names = grace_internal.column_names(w.child, w.set_columns)
        and not exists (
          select
          from grace_internal.partition_tree(w.child) as t (relation)
          where not grace_internal.has_link_trigger(l.id, t.relation)
        )
    )
$$;

-- The functions of a protected table's links, or (null) of all.
create or replace function grace_internal.link_functions(only_id integer, also_active boolean)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select f.oid
  from pg_proc f
  left join grace_internal.link l on 'link_' || l.id = f.proname
  where f.pronamespace = 'grace_internal'::regnamespace
    and f.prorettype = 'trigger'::regtype
    and f.proname ~ '^link_[0-9]+$'
    and (only_id is null or l.protected_id = only_id)
    and (also_active or l.active is not true)
$$;

-- Their triggers; not those that PostgreSQL has cloned to partitions.
create or replace function grace_internal.link_triggers(only_id integer, also_active boolean)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.oid
  from pg_trigger t
  where t.tgfoid in (select grace_internal.link_functions(only_id, also_active)) and t.tgparentid = 0
    and grace_internal.can_have_link(t.tgrelid)
$$;

-- Brings the registry of a protected table's links up to date. Where a dump was loaded, numbers are found again by name.
create or replace function grace_internal.register_links(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids integer [];
begin
  update grace_internal.link l
  set child = null, active = false
  where l.protected_id = register_links.protected_id and l.child is not null
    and not exists (select from pg_class c where c.oid = l.child);

  update grace_internal.link l
  set
    child_oid = l.child,
    home = grace_internal.home(),
    key_columns = grace_internal.numbers_of(l.child, m.key_names),
    columns = grace_internal.numbers_of(l.child, m.column_names),
    set_columns = grace_internal.numbers_of(l.child, m.set_names),
    parent_columns = grace_internal.numbers_of(p.target, m.parent_names)
  from grace_internal.link_map m, grace_internal.protected p
  where m.link = l.id and p.id = l.protected_id
    and l.protected_id = register_links.protected_id and grace_internal.link_has_moved(l.*);

  select array_agg(grace_internal.registered_link(
    protected_id, w.child, w.key_columns, w.columns, w.set_columns, w.parent_columns
  ))
  into v_ids
  from grace_internal.wanted_links(protected_id) w
  where w.key_columns is not null and grace_internal.can_have_link(w.child);

  update grace_internal.link l
  set active = l.id = any (coalesce(v_ids, '{}'))
  where l.protected_id = register_links.protected_id
    and l.active <> (l.id = any (coalesce(v_ids, '{}')));

  update grace_internal.link l
  set
    child_name = grace_internal.qualified_name(l.child),
    key_names = m.key_names,
    column_names = m.column_names,
    set_names = m.set_names,
    parent_names = m.parent_names
  from grace_internal.link_map m
  where m.link = l.id and l.protected_id = register_links.protected_id
    and (l.child_name, l.key_names, l.column_names, l.set_names, l.parent_names)
      is distinct from (grace_internal.qualified_name(l.child), m.key_names, m.column_names, m.set_names, m.parent_names);
end
$$;

-- The trigger of one link. It names no column, for PostgreSQL would refuse to drop or retype a column that a trigger names. Its
-- condition is true for what foreign keys and triggers change, and costs an application's own UPDATE next to nothing.
create or replace function grace_internal.create_link_trigger(link_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name := 'zz_grace_link_' || link_id;
  v_child regclass := (select l.child from grace_internal.link l where l.id = link_id);
  v_table text := grace_internal.qualified_name(v_child);
begin
  if not exists (
    select
    from grace_internal.partition_tree(v_child) as t (relation)
    where not grace_internal.has_link_trigger(link_id, t.relation)
  ) or (not repair and exists (
    select from pg_trigger t
    where t.tgrelid = v_child and t.tgname = v_name and (t.tgtype & 2 = 2) = grace_internal.fires_before(v_child)
  )) then
    return;
  end if;
  execute format(
    'create or replace trigger %I %s update on %s for each row when (pg_catalog.pg_trigger_depth() > 0) '
    'execute function grace_internal.%I()',
    v_name, case when grace_internal.fires_before(v_child) then 'before' else 'after' end, v_table, 'link_' || link_id
  );
  execute format('alter table %s enable always trigger %I', v_table, v_name);
end
$$;

-- Brings a protected table's links, their functions and triggers up to date. Without repair nothing is waited for longer than
-- lock_timeout: a table that is locked is left to the next time.
create or replace function grace_internal.follow_links(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before text := coalesce(current_setting('grace.following', true), '');
  v_trigger record;
  v_id integer;
  v_function regprocedure;
begin
  perform set_config('grace.following', grace_internal.signature('following'), true);
  perform grace_internal.register_links(protected_id);
  begin
    for v_trigger in
      select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
      from pg_trigger t
      where t.oid in (select grace_internal.link_triggers(protected_id, false))
    loop
      execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
    end loop;
    for v_function in
      select f
      from grace_internal.link_functions(protected_id, false) f
      where not exists (select from pg_trigger t where t.tgfoid = f)
    loop
      execute format('drop function %s', v_function);
    end loop;
    for v_id in
      select l.id from grace_internal.link l where l.protected_id = follow_links.protected_id and l.active order by l.id
    loop
      perform grace_internal.generate_link(v_id, anew => false);
      perform grace_internal.create_link_trigger(v_id, repair);
    end loop;
  exception when lock_not_available then
    if repair then
      raise;
    end if;
  end;
  perform set_config('grace.following', v_before, true);
end
$$;
