-- A row of a partition may be moved to another one by the very update that cuts its link; then no AFTER UPDATE trigger fires.
create or replace function grace_internal.fires_before(child oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.relkind = 'p' or c.relispartition from pg_class c where c.oid = child
$$;

-- All that the function of a link is made of, as of now; null when it is no longer so in the catalog.
create or replace function grace_internal.link_definition(link_id integer)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select concat_ws(
      ' ', l.home, l.child_oid, case when grace_internal.fires_before(l.child) then 'before' else 'after' end,
      cardinality(l.key_columns), (
        select string_agg(format('%I:%s', a.attname, a.atttypid), ' ' order by k.position)
        from unnest(l.key_columns || l.columns || l.set_columns) with ordinality as k (attnum, position)
        join pg_attribute a on a.attrelid = l.child and a.attnum = k.attnum
      )
    )
    from grace_internal.link l
    where l.id = link_id and not grace_internal.link_has_moved(l.*)
      and exists (
        select
        from grace_internal.wanted_links(l.protected_id) w
        where w.child = l.child and w.key_columns = l.key_columns and w.columns = l.columns
          and w.set_columns = l.set_columns and w.parent_columns = l.parent_columns
      )
  );
end
$$;

-- Labelled IMMUTABLE so that the planner evaluates it, again after any change of the child: see columns_unchanged. In an isolation level
-- above READ COMMITTED a column that was renamed after the transaction began can't be read by its new name: error 40001, as there.
create or replace function grace_internal.link_unchanged(link_id integer, definition text)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_link grace_internal.link;
  v_unchanged boolean := definition is not distinct from grace_internal.link_definition(link_id);
begin
  select l.* into v_link from grace_internal.link l where l.id = link_id;
  if current_setting('transaction_isolation') <> 'read committed' and exists (
    select
    from pg_attribute a
    where a.attrelid = v_link.child and not a.attisdropped and a.attnum = any (v_link.key_columns || v_link.columns)
      and (pg_identify_object('pg_class'::regclass, a.attrelid, a.attnum)).identity
        is distinct from format('%s.%I', grace_internal.qualified_name(a.attrelid), a.attname)
  ) then
    raise exception 'could not serialize access: table % was changed after this transaction began', v_link.child_name
      using errcode = 'serialization_failure',
      detail = 'What this transaction sees of the catalog no longer matches the table, so the link that is cut could not be remembered.',
      hint = 'Run the transaction again.';
  end if;
  if not v_unchanged and exists (
    select
    from grace_internal.wanted_links(v_link.protected_id) w
    where w.child = v_link.child and w.key_columns is null
  ) then
    raise warning 'links from % that are cut are not remembered', grace_internal.qualified_name(v_link.child)
      using detail = 'It has no primary key any more.';
  end if;
  return v_unchanged;
end
$$;

-- Settings under which the values of some types would be written in a way that reads as another value elsewhere.
create or replace function grace_internal.output_settings(relation oid, attnums smallint [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when exists (
    select
    from pg_attribute a
    join pg_type t on t.oid = grace_internal.base_type(a.atttypid)
    where a.attrelid = relation and a.attnum = any (attnums)
      and not t.typcategory in ('S', 'B', 'E', 'I')
      and not t.oid = any ('{int2,int4,int8,numeric,oid,uuid}'::regtype [])
  ) then ' set datestyle = ''ISO'' set intervalstyle = ''postgres'' set extra_float_digits = 1 set bytea_output = ''hex''' else '' end
$$;

-- Writes the trigger function of one link: static and typed. The deletion is begun here where it is not yet: in a tree that
-- cascades into itself PostgreSQL fires the capture trigger, which comes at the end of all that, after this one. What
-- the function is called for (see create_link_trigger) are changes that a trigger makes, by a foreign key or of the application's own;
-- a cut of the latter belongs to no deletion that anything was captured of, and goes with the rest when it expires.
create or replace function grace_internal.generate_link(link_id integer, anew boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_link grace_internal.link;
  v_definition text := grace_internal.link_definition(link_id);
  v_function name := 'link_' || link_id;
begin
  select l.* into strict v_link from grace_internal.link l where l.id = link_id;
  if v_definition is null or (not anew and exists (
    select
    from pg_proc f
    where f.pronamespace = 'grace_internal'::regnamespace and f.proname = v_function
      and strpos(f.prosrc, quote_literal(v_definition)) > 0
  )) then
    return;
  end if;
  execute format(
    'create or replace function grace_internal.%I() returns trigger language plpgsql '
    'security definer ' -- whoever deletes needs no right on what is remembered
    'set search_path = pg_catalog, pg_temp%s as %L',
    v_function,
    grace_internal.output_settings(v_link.child, v_link.key_columns || v_link.columns),
    format(
      $body$
declare
  v_deletion grace_internal.deletion_ref;
  v_statement text;
begin
  if grace_internal.link_unchanged(%1$s, %2$L) and %3$L::regclass is not null then
    if %4$s then
      v_deletion := grace_internal.current_deletion();
      %5$s;
    end if;
  else
    v_statement := grace_internal.planned_cut_statement(%1$s, %3$L::regclass);
    if v_statement is null then
      v_statement := grace_internal.cut_statement(%1$s);
    end if;
    if v_statement <> '' then
      v_deletion := grace_internal.current_deletion();
      execute v_statement using old, new, v_deletion.deletion, v_deletion.deleted_at;
    end if;
  end if;
  return %6$s;
end
$body$,
      link_id, v_definition, v_link.child::oid,
      grace_internal.cut_condition(
        'old', 'new', grace_internal.column_names(v_link.child, v_link.columns),
        grace_internal.column_names(v_link.child, v_link.set_columns)
      ),
      grace_internal.cut_insert(
        link_id::text, 'old', 'new', 'v_deletion.deletion', 'v_deletion.deleted_at',
        grace_internal.column_names(v_link.child, v_link.key_columns),
        grace_internal.column_names(v_link.child, v_link.columns)
      ),
      case when grace_internal.fires_before(v_link.child) then 'new' else 'null' end
    )
  );
  execute format('revoke all on function grace_internal.%I() from public', v_function);
  execute format(
    'comment on function grace_internal.%I() is %L', v_function, 'pg_grace: remembers links from ' || v_link.child_name || ' that are cut'
  );
  perform grace_internal.grant_links();
end
$generate$;

-- PostgreSQL clones triggers to partitions in the name of whoever makes the partition.
create or replace function grace_internal.grant_links()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.oid
    from pg_proc f
    join grace_internal.link l on 'link_' || l.id = f.proname
    where f.pronamespace = 'grace_internal'::regnamespace
      and grace_internal.fires_before(l.child)
      and not has_function_privilege('public', f.oid, 'execute')
  loop
    execute format('grant execute on function %s to public', v_function);
  end loop;
end
$$;
