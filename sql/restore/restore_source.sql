-- FROM and WHERE of the buffered rows (alias b) of one table that a restore is about: all that is left of the deletions, or, when only
-- some rows are picked, those in $1; without those in $2, which are left out. Part: all; inserted (without those in $3); replaced (those
-- in $3, which overwrite a row that is there). A DELETE takes the buffer itself.
-- It is written so that PostgreSQL expects many rows: a leaf that was written just now has no statistics yet, and for equalities or a
-- range without any it expects hardly a row, and joins what comes of it in nested loops. A picked row is read where it stands, in a
-- subquery of its own, of which at least one row is expected; <= any (array[…]) is no range to the planner, but prunes as well.
create or replace function grace_internal.restore_source(
  protected_id integer, plan grace._restore_plan, part text default 'all', is_delete boolean default false
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_buffer text := (
    select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = protected_id
  );
  v_source text;
  v_first timestamptz;
  v_last timestamptz;
begin
  select min(c.deleted_at), max(c.deleted_at) into v_first, v_last
  from grace_internal.capture c
  where c.deletion = any (plan.deletions) and c.protected_id = restore_source.protected_id;
  if plan.picks is not null or part = 'replaced' then
    v_source := case
      when is_delete then
        'from %1$s b using pg_catalog.unnest(%2$s) n where b.tableoid operator(pg_catalog.=) n.leaf '
        'and b.ctid operator(pg_catalog.=) n.tid and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at '
        'and coalesce(n.protected_id operator(pg_catalog.=) %3$s, false) '
        'and b.grace_deleted_at operator(pg_catalog.>=) %4$L '
        'and b.grace_deleted_at operator(pg_catalog.<=) any (array[%5$L::pg_catalog.timestamptz])'
      else
        'from pg_catalog.unnest(%2$s) n cross join lateral (select b.*, b.tableoid, b.ctid, b.cmin, b.xmax from %1$s b '
        'where b.tableoid operator(pg_catalog.=) n.leaf and b.ctid operator(pg_catalog.=) n.tid '
        'and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at '
        'and b.grace_deleted_at operator(pg_catalog.>=) %4$L and b.grace_deleted_at operator(pg_catalog.<=) %5$L offset 0) b '
        'where coalesce(n.protected_id operator(pg_catalog.=) %3$s, false)'
    end;
    v_source := format(
      v_source, v_buffer, case part when 'replaced' then '$3' else '$1' end, protected_id, v_first, v_last
    );
  else
    v_source := format(
      'from %s b where coalesce(b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[]), false) '
      'and b.grace_deleted_at operator(pg_catalog.>=) %L '
      'and b.grace_deleted_at operator(pg_catalog.<=) any (array[%L::pg_catalog.timestamptz]) '
      'and b.grace_deleted_at operator(pg_catalog.>) %L',
      v_buffer, plan.deletions, v_first, v_last, grace._expired_before(protected_id)
    );
  end if;
  if cardinality(plan.left_out) > 0 and part <> 'replaced' then
    v_source := v_source || grace_internal.not_among('$2');
  end if;
  if cardinality(plan.replaced) > 0 and part = 'inserted' then
    v_source := v_source || grace_internal.not_among('$3');
  end if;
  return v_source;
end
$$;

-- How many rows of one table there are at most in whole deletions, as a LIMIT that cuts nothing: PostgreSQL plans with it.
create or replace function grace_internal.source_limit(protected_id integer, plan grace._restore_plan)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(' limit %s', 2 * sum(c.row_count) + 100)
  from grace_internal.capture c
  where c.deletion = any (plan.deletions) and c.protected_id = source_limit.protected_id and plan.picks is null
  having count(*) > 0
$$;

create or replace function grace_internal.not_among(refs text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    ' and not exists (select from pg_catalog.unnest(%s) x where x.leaf operator(pg_catalog.=) b.tableoid '
    'and x.tid operator(pg_catalog.=) b.ctid and x.deleted_at operator(pg_catalog.=) b.grace_deleted_at)', refs
  )
$$;

-- Where a buffered row b stands.
create or replace function grace_internal.ref_expression(protected_id integer)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('row(%s, b.grace_deleted_at, b.tableoid, b.ctid)::grace._row_ref', protected_id)
$$;
