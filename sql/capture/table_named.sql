-- Invoker's rights and search_path: the name is meant as the caller would write it in a query.
create or replace function grace.table_named(name text)
returns regclass
language plpgsql stable
as $$
declare
  v_found pg_catalog.regclass := null;
  v_like text;
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
    select pg_catalog.string_agg(s.name, ', ') into v_like
    from (
      select grace._table_name(c.oid) as name
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
      where c.relkind operator(pg_catalog.=) any (array ['r', 'p']::"char" [])
        and n.nspname operator(pg_catalog.<>) all (array ['grace', 'grace_internal', 'grace_buffer'])
        and pg_catalog.lower(c.relname) operator(pg_catalog.=) pg_catalog.lower(
          pg_catalog.reverse(pg_catalog.split_part(pg_catalog.reverse(pg_catalog.replace(name, '"', '')), '.', 1))
        )
      order by 1
      limit 5
    ) as s;
    raise exception 'table "%" does not exist', name
      using errcode = 'undefined_table',
      detail = pg_catalog.format('The search path is %s.', pg_catalog.current_setting('search_path')),
      hint = coalesce(
        'Did you mean ' operator(pg_catalog.||) v_like operator(pg_catalog.||) '?',
        'Give it as schema.table; quote capitals: "Schema"."Table".'
      );
  end if;
  return v_found;
end
$$;
comment on function grace.table_named(text) is
'Finds a table by its name as SQL reads it, or, where that finds none, by the name exactly as given (capitals, spaces). Errors: 42P01 with the tables it might have meant.';

create or replace function grace._table_name(relation oid)
returns text
language sql stable security definer -- calls an internal helper
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.qualified_name(relation)
$$;
comment on function grace._table_name(oid) is 'Internal: schema.table, quoted where needed.';
