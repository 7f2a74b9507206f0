create or replace function grace_internal.columns_changed(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from (
      select l.attnum, l.buffer_column, l.type
      from grace_internal.protected p
      cross join lateral grace_internal.live_columns(p.target) l
      where p.id = columns_changed.protected_id
        and case
          when grace_internal.has_moved(p.*) then not l.attname = any (p.excluded_names)
          else not l.attnum = any (p.excluded)
        end
    ) as l
    full join (
      select c.attnum, c.buffer_column, c.type
      from grace_internal.column_map c
      where c.protected_id = columns_changed.protected_id and c.ended_at is null
    ) as c on c.attnum = l.attnum
    where l.buffer_column is distinct from c.buffer_column or l.type is distinct from c.type
  )
$$;

-- Whether a table's columns are no longer those that its buffer and its capture function know, or the numbers by which they are
-- known mean nothing here.
create or replace function grace_internal.columns_differ(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    where p.id = columns_differ.protected_id and grace_internal.has_moved(p.*)
  ) or grace_internal.columns_changed(protected_id)
$$;
