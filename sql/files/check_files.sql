-- What kind of file a column's values refer to: 'large object' (oid, lo), 'path' (text: a path or URL outside the database),
-- null for anything else.
create or replace function grace_internal.file_kind(type_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when t.oid = 'oid'::regtype then 'large object'
    when t.typcategory = 'S' then 'path'
  end
  from pg_type t
  where t.oid = grace_internal.base_type(type_oid)
$$;

-- Errors: GR020 for a column that can't refer to a file.
create or replace function grace_internal.check_files(target regclass, files name [], exclude_columns name [])
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_why text;
begin
  foreach v_name in array coalesce(files, '{}') loop
    select case
      when a.attnum is null then 'It does not exist.'
      when v_name = any (exclude_columns) then 'It is excluded from the capture, so nobody would know which file it is.'
      when grace_internal.file_kind(a.atttypid) is null then format('Its type is %s.', format_type(a.atttypid, a.atttypmod))
    end into v_why
    from (select) as one
    left join pg_attribute a on a.attrelid = target and a.attname = v_name and a.attnum > 0 and not a.attisdropped;
    if v_why is not null then
      raise exception 'column % of % refers to no file', quote_ident(v_name), target
        using errcode = 'GR020', detail = v_why,
        hint = 'Name a captured column of type oid or lo (large objects), or of a text type (paths or URLs).';
    end if;
  end loop;
end
$$;
