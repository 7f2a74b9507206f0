-- A column's value as text, by its type's output function: a cast of the application's type could run its code. null stays null; a
-- composite value is null only when it is so itself.
create or replace function grace_internal.as_text("column" text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('case when num_nulls(%1$s) = 0 then format(''%%s'', %1$s) end', "column")
$$;

create or replace function grace_internal.as_text_array("row" text, names name [])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'array[' || string_agg(grace_internal.as_text(format('%s.%I', "row", k.name)), ', ' order by k.position) || ']'
  from unnest(names) with ordinality as k (name, position)
$$;

-- The link was complete, and one of the columns that a deletion sets has changed.
create or replace function grace_internal.cut_condition(old text, new text, names name [], set_names name [])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'num_nulls(%s) = 0 and (%s)',
    (select string_agg(format('%s.%I', old, n), ', ') from unnest(names) n),
    (
      select string_agg(format('num_nulls(%1$s.%3$I) > 0 or format(''%%s'', %1$s.%3$I) <> format(''%%s'', %2$s.%3$I)', new, old, n), ' or ')
      from unnest(set_names) n
    )
  )
$$;

create or replace function grace_internal.cut_insert(
  link text, old text, new text, deletion text, deleted_at text, key_names name [], names name []
)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    e'insert into grace_internal.cut (link, deletion, deleted_at, child_key, former, replaced_by)\n'
    '    select\n      %s, %s, %s,\n      %s,\n      %s,\n      %s',
    link, deletion, deleted_at,
    grace_internal.as_text_array(new, key_names),
    grace_internal.as_text_array(old, names),
    grace_internal.as_text_array(new, names)
  )
$$;

-- The number of a link with this description; a new one where there is none.
create or replace function grace_internal.registered_link(
  protected_id integer, child oid, key_columns smallint [], columns smallint [], set_columns smallint [], parent_columns smallint []
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := (
    select min(l.id)
    from grace_internal.link l
    where l.protected_id = registered_link.protected_id
      and l.child = registered_link.child
      and not grace_internal.link_has_moved(l.*)
      and l.key_columns = registered_link.key_columns
      and l.columns = registered_link.columns
      and l.set_columns = registered_link.set_columns
      and l.parent_columns = registered_link.parent_columns
  );
begin
  if v_id is null then
    insert into grace_internal.link (
      protected_id, child, child_oid, home, child_name,
      key_columns, key_names, columns, column_names, set_columns, set_names, parent_columns, parent_names
    )
    select
      p.id, registered_link.child, registered_link.child, grace_internal.home(),
      grace_internal.qualified_name(registered_link.child),
      registered_link.key_columns, grace_internal.column_names(registered_link.child, registered_link.key_columns),
      registered_link.columns, grace_internal.column_names(registered_link.child, registered_link.columns),
      registered_link.set_columns, grace_internal.column_names(registered_link.child, registered_link.set_columns),
      registered_link.parent_columns, grace_internal.column_names(p.target, registered_link.parent_columns)
    from grace_internal.protected p
    where p.id = registered_link.protected_id
    returning id into v_id;
  end if;
  return v_id;
end
$$;

-- What the function of a link runs when its static statement can't serve, because the child has changed since: $1 is the row before,
-- $2 after, $3 the deletion, $4 its time. Empty when the foreign key is gone, or the primary key.
create or replace function grace_internal.cut_statement(link_id integer)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_link grace_internal.link;
  v_wanted record;
  v_arguments text;
begin
  select l.* into strict v_link from grace_internal.link l where l.id = link_id;
  select w.* into v_wanted
  from grace_internal.wanted_links(v_link.protected_id) w
  where w.child = v_link.child and w.key_columns is not null
    and w.columns = case
      when grace_internal.link_has_moved(v_link) then grace_internal.numbers_of(v_link.child, v_link.column_names)
      else v_link.columns
    end
  order by w.set_columns = v_link.set_columns desc
  limit 1;
  if not found then
    return '';
  end if;
  v_arguments := format(
    '%s, %s, %L, %L, %L, %L', v_link.protected_id, v_wanted.child, v_wanted.key_columns, v_wanted.columns, v_wanted.set_columns,
    v_wanted.parent_columns
  );
  return concat_ws(
    e'\n',
    grace_internal.cut_insert(
      -- A transaction that is rolled back takes a new link along, but not the plan that has its number.
      format(
        'coalesce((select l.id from grace_internal.link l where l.id = %s), grace_internal.registered_link(%s))',
        grace_internal.registered_link(
          v_link.protected_id, v_wanted.child, v_wanted.key_columns, v_wanted.columns, v_wanted.set_columns,
          v_wanted.parent_columns
        ),
        v_arguments
      ),
      '($1)', '($2)', '$3', '$4',
      grace_internal.column_names(v_wanted.child, v_wanted.key_columns),
      grace_internal.column_names(v_wanted.child, v_wanted.columns)
    ),
    'where ' || grace_internal.cut_condition(
      '($1)', '($2)', grace_internal.column_names(v_wanted.child, v_wanted.columns),
      grace_internal.column_names(v_wanted.child, v_wanted.set_columns)
    )
  );
end
$$;

-- The same, made once after each change of the child: labelled IMMUTABLE like link_unchanged. null where a dump was loaded, as nothing
-- there says when to make it anew.
create or replace function grace_internal.planned_cut_statement(link_id integer, child regclass)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from grace_internal.link l
    where l.id = link_id and not grace_internal.link_has_moved(l.*) and l.child = planned_cut_statement.child
  ) then
    return grace_internal.cut_statement(link_id);
  end if;
  return null;
end
$$;
