-- The tables that may be meant by a name that no table has: those called so in any schema, however it is written.
create or replace function grace._tables_like(name text)
returns text
language sql stable security definer -- calls an internal helper
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(s.name, ', ' order by s.name)
  from (
    select grace_internal.qualified_name(c.oid) as name
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname not in ('grace', 'grace_internal', 'grace_buffer')
      and lower(c.relname) = lower(reverse(split_part(reverse(replace(_tables_like.name, '"', '')), '.', 1)))
    order by 1
    limit 5
  ) as s
$$;
comment on function grace._tables_like(text) is 'Internal: the tables that may be meant by a name.';

-- Invoker's rights and search_path: the name is meant as the caller would write it in a query.
create or replace function grace.table_named(name text)
returns regclass
language plpgsql stable
as $$
declare
  v_found pg_catalog.regclass := null;
begin
  begin
    v_found := pg_catalog.to_regclass(name);
  exception when syntax_error or invalid_name then
    v_found := null;
  end;
  if v_found is null and pg_catalog.octet_length(name) operator(pg_catalog.<=) 63 then
    v_found := pg_catalog.to_regclass(pg_catalog.quote_ident(name));
  end if;
  if v_found is null then
    raise exception 'table "%" does not exist', name
      using errcode = 'undefined_table',
      detail = pg_catalog.format('The search path is %s.', pg_catalog.current_setting('search_path')),
      hint = coalesce(
        'Did you mean ' operator(pg_catalog.||) grace._tables_like(name) operator(pg_catalog.||) '?',
        'Give it as schema.table; quote capitals: "Schema"."Table".'
      );
  end if;
  return v_found;
end
$$;
comment on function grace.table_named(text) is
'Finds a table by its name as SQL reads it, or, where that finds none, by the name exactly as given (capitals, spaces). Errors: 42P01 with the tables it might have meant.';
