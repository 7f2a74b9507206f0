-- "row" is what the columns are columns of: an alias of source, or a record (then source is null).
create or replace function grace_internal.insert_statement(
  protected_id integer, "row" text, source text, deletion text, deleted_at text
)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    e'insert into grace_buffer.%I (\n      %s,\n      grace_deletion, grace_deleted_at\n    )\n'
    '    select\n      %s,\n      %s, %s%s',
    p.buffer,
    string_agg(format('%I', c.buffer_column), ', ' order by c.attnum),
    string_agg(format('%s.%I', "row", a.attname), ', ' order by c.attnum),
    deletion, deleted_at, e'\n    from ' || source
  )
  from grace_internal.protected p
  join grace_internal.protected_column c on c.protected_id = p.id and c.ended_at is null
  join pg_attribute a on a.attrelid = p.target and a.attnum = c.attnum
  where p.id = insert_statement.protected_id
  group by p.buffer
$$;
