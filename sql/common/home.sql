-- Which database of which cluster this is. The numbers of tables and columns that the registry holds mean something only there: a
-- dump that is loaded elsewhere brings them along (regclass by name, the rest as they were). In PL/pgSQL, which keeps its plan: a restore
-- asks this some hundred times.
create or replace function grace_internal.home()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return format('%s/%s', s.system_identifier, d.oid)
  from pg_database d
  cross join pg_control_system() s
  where d.datname = current_database();
end
$$;

create or replace function grace_internal.has_moved(protected grace_internal.protected)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return protected.relation <> protected.target or protected.home is distinct from grace_internal.home();
end
$$;

-- The registry's columns with the numbers that they have here: after a move they are found again by their names. A former column
-- of a column that was dropped has number 0 then, which no column has.
create or replace view grace_internal.column_map as
select
  c.protected_id,
  c.buffer_column,
  case
    when not m.has_moved then c.attnum
    else coalesce(a.attnum, case when c.ended_at is null then c.attnum else 0::smallint end)
  end as attnum,
  c.attname,
  c.type,
  c.ended_at
from grace_internal.protected_column c
join grace_internal.protected p on p.id = c.protected_id
cross join lateral grace_internal.has_moved(p.*) as m (has_moved)
left join pg_catalog.pg_attribute a
  on m.has_moved and a.attrelid = p.target and a.attname = c.attname and not a.attisdropped;

comment on view grace_internal.column_map is 'Which buffer column holds which column of the table, here and now.';
