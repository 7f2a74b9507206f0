-- Refuses what can't be captured completely, before anything has changed. Errors: GR002 kind of relation, GR003 column
-- names, GR004 excluded columns, GR020 columns with files, 42501 rights.
create or replace function grace_internal.check_protectable(
  target regclass, exclude_columns name [], files name []
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_class pg_class;
  v_schema name;
  v_why text;
  v_hint text;
  v_column text;
begin
  select c.* into v_class from pg_class c where c.oid = target;
  if not found then
    raise exception 'relation with OID % does not exist', target::oid
      using errcode = 'undefined_table',
      detail = 'It was given as a number, and no relation has it.',
      hint = 'Give the table''s name.';
  end if;
  select n.nspname into v_schema from pg_namespace n where n.oid = v_class.relnamespace;

  case
    when v_schema in ('grace', 'grace_buffer', 'grace_internal') then
      v_why := 'It belongs to pg_grace itself.';
      v_hint := 'Name a table of your application.';
    when v_schema in ('pg_catalog', 'information_schema', 'pg_toast') then
      v_why := 'It is a system catalog, on which PostgreSQL allows no triggers.';
      v_hint := 'Name a table of your application.';
    when v_class.relpersistence = 't' then
      v_why := 'It is a temporary table and ends with its session.';
      v_hint := 'Name a permanent table.';
    when v_class.relkind in ('v', 'm') then
      v_why := 'It is a view; what is deleted through a view is deleted from its tables.';
      v_hint := 'Protect the tables that the view reads.';
    when v_class.relkind = 'f' then
      v_why := 'It is a foreign table; its rows are in another server.';
      v_hint := 'Install pg_grace on the server that holds the table and protect it there.';
    when v_class.relispartition then
      v_why := format('It is a partition of %s.', grace_internal.qualified_name(pg_partition_root(target)));
      v_hint := format(
        'Protect the whole: select * from grace.protect(%L);', grace_internal.qualified_name(pg_partition_root(target))
      );
    when v_class.relkind not in ('r', 'p') then
      v_why := 'It is not a table.';
      v_hint := 'Name a table of your application.';
    when exists (
      select from pg_partition_tree(target) t join pg_class c on c.oid = t.relid where c.relkind = 'f'
    ) then
      v_why := 'One of its partitions is a foreign table, from which PostgreSQL can''t collect deleted rows.';
      v_hint := 'Detach the foreign partition.';
    else
      v_why := null;
  end case;
  if v_why is not null then
    raise exception '% can''t be protected', target using errcode = 'GR002', detail = v_why, hint = v_hint;
  end if;

  select string_agg(quote_ident(a.attname), ', ') into v_column
  from pg_attribute a
  where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attname ~ '^grace[_ ]';
  if v_column is not null then
    raise exception '% can''t be protected', target
      using errcode = 'GR003',
      detail = format('Column names that begin with grace_ or "grace " are kept for pg_grace''s own: %s', v_column),
      hint = format('Rename the column: alter table %s rename …', target);
  end if;

  perform grace_internal.require_table_right(target);
  perform grace_internal.require_ownership(target);
  perform grace_internal.check_excluded(target, exclude_columns);
  perform grace_internal.check_files(target, files, exclude_columns);
end
$$;
