-- A dump that was loaded elsewhere leaves out dropped columns, so the others have new numbers there: they are found again by
-- name. A former column whose namesake is gone gets number 0, which no column has.
create or replace function grace_internal.renumber_columns(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  update grace_internal.protected_column c
  set attnum = -c.attnum
  where c.protected_id = renumber_columns.protected_id;

  update grace_internal.protected_column c
  set attnum = coalesce((
    select a.attnum
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attname = c.attname and not a.attisdropped
    where p.id = c.protected_id
  ), case when c.ended_at is null then c.attnum else 0 end)
  where c.protected_id = renumber_columns.protected_id;

  perform grace_internal.rename_holds(protected_id, moved => true);

  update grace_internal.protected p
  set
    relation = p.target,
    home = grace_internal.home(),
    unmarked_to = coalesce((select max(c.deletion) from grace_internal.capture c where c.protected_id = p.id), 0),
    excluded = coalesce((
      select array_agg(a.attnum)
      from pg_attribute a
      where a.attrelid = p.target and a.attname = any (p.excluded_names) and not a.attisdropped
    ), '{}'),
    files = grace_internal.file_numbers(p.*)
  where p.id = renumber_columns.protected_id;
end
$$;
