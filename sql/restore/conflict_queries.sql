-- The queries that find why selected rows can't be inserted, one for each constraint that can stop them. Each reads
-- the CTE s_<id> of its table (columns as the table names them), and those of the others for parents that come back
-- in the same restore. They evaluate the application's own expressions, so they are run with the caller's rights.
create or replace function grace_internal.conflict_queries(protected_id integer, plan_ids integer [])
returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (select p.target from grace_internal.protected p where p.id = protected_id);
  v_key text := grace_internal.key_expression(v_target);
  v_row record;
begin
  -- A column that gets no value, or null.
  for v_row in
    select a.attname
    from pg_attribute a
    join grace_internal.restore_columns(protected_id) c on c.attnum = a.attnum
    where a.attrelid = v_target and c.not_null and c.insertable and c.default_value is null and a.attidentity = ''
  loop
    return next format(
      'select %s, %s, %L, %L from s_%s s where s.%I is null',
      protected_id, v_key, 'not null',
      format('column %s is NOT NULL and there is no value for it', quote_ident(v_row.attname)),
      protected_id, v_row.attname
    );
  end loop;

  for v_row in
    select c.conname, pg_get_expr(c.conbin, c.conrelid) as expression
    from pg_constraint c
    where c.conrelid = v_target and c.contype = 'c'
      and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
  loop
    return next format(
      'select %s, %s, %L, %L from s_%s s where not (%s)',
      protected_id, v_key, v_row.conname, 'violates check ' || v_row.expression, protected_id, v_row.expression
    );
  end loop;

  for v_row in
    select u.*
    from pg_index i
    cross join lateral grace_internal.unique_rule(i.indexrelid) as u
    where i.indrelid = v_target and i.indisunique and i.indisvalid
  loop
    return next format(
      'select %s, %s, %L, pg_catalog.concat(%L, %s, %L) from s_%s s where %s and exists (select from %s)',
      protected_id, v_key, v_row.name,
      format('key (%s)=(', v_row.column_names), v_row.key_values, ') is taken by a row that is there now',
      protected_id, v_row.applies, v_row.live_match
    );
    return next format(
      'select %s, %s, %L, pg_catalog.concat(%L, %s, %L) from ('
      'select s.*, pg_catalog.count(*) over (partition by %s) as "grace count" from s_%s s where %s'
      ') s where s."grace count" operator(pg_catalog.>) 1',
      protected_id, v_key, v_row.name,
      format('key (%s)=(', v_row.column_names), v_row.key_values, ') is selected more than once',
      v_row.key_columns, protected_id, v_row.applies
    );
  end loop;

  for v_row in
    select
      f.conname, f.confrelid,
      parent.id as parent_id,
      j.*
    from pg_constraint f
    left join grace_internal.protected parent on parent.target = f.confrelid and parent.id = any (plan_ids)
    cross join lateral (
      select
        string_agg(format('s.%I is not null', k.child), ' and ') as complete,
        string_agg(format('p.%I %s s.%I', k.parent, grace_internal.qualified_operator(k.operator_oid), k.child), ' and ')
          as matches,
        string_agg(quote_ident(k.child), ', ') as names,
        string_agg(format('s.%I', k.child), ', ') as values
      from unnest(
        grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey),
        f.conpfeqop
      ) as k (parent, child, operator_oid)
    ) as j
    where f.conrelid = v_target and f.contype = 'f'
      and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
      and not exists (
        select from pg_constraint up
        where up.oid = f.conparentid and up.conrelid = f.conrelid
      )
  loop
    return next format(
      'select %s, %s, %L, pg_catalog.concat(%L, pg_catalog.concat_ws('', '', %s), %L) from s_%s s where %s '
      'and not exists (select from %s p where %s)%s',
      protected_id, v_key, v_row.conname,
      format('parent (%s)=(', v_row.names), v_row.values,
      format(') is missing in %s', grace_internal.qualified_name(v_row.confrelid)),
      protected_id, v_row.complete, grace_internal.qualified_name(v_row.confrelid), v_row.matches,
      case when v_row.parent_id is not null then
        format(' and not exists (select from s_%s p where %s)', v_row.parent_id, v_row.matches)
      else '' end
    );
  end loop;
end
$$;

-- A row's primary key as jsonb, or the whole row where there is none.
create or replace function grace_internal.key_expression(target regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, s.%I', k, k), ', '))
      from pg_index i
      cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) k
      where i.indrelid = target and i.indisprimary
    ),
    'pg_catalog.to_jsonb(s.*)'
  )
$$;

-- What one unique index demands of rows s: which rows it applies to, and how a live row with the same key is found.
-- An index may be partial or on expressions; those are evaluated over one row source at a time, so that the column
-- names in them can mean nothing else.
create or replace function grace_internal.unique_rule(
  index_relation oid,
  out name text, out column_names text, out key_columns text, out key_values text, out applies text, out live_match text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.relname,
    string_agg(k.definition, ', ' order by k.n),
    string_agg(k.value, ', ' order by k.n),
    format('pg_catalog.concat_ws('', '', %s)', string_agg(k.value, ', ' order by k.n)),
    string_agg(k.value || ' is not null', ' and ' order by k.n)
      || case
        when i.predicate is null then ''
        else format(' and (select %s from (select s.*) as "grace row")', i.predicate)
      end,
    format(
      '(select %s from %s where %s) l where %s',
      string_agg(format('%s as "grace %s"', k.definition, k.n), ', ' order by k.n),
      grace_internal.qualified_name(i.indrelid),
      coalesce(i.predicate, 'true'),
      string_agg(format('l."grace %s" %s %s', k.n, k.equals, k.value), ' and ' order by k.n)
    )
  from (
    select x.indexrelid, x.indrelid, x.indnkeyatts, x.indkey, pg_get_expr(x.indpred, x.indrelid) as predicate
    from pg_index x
    where x.indexrelid = index_relation
  ) as i
  join pg_class c on c.oid = i.indexrelid
  cross join lateral (
    select
      n,
      coalesce(quote_ident(a.attname), d.expression) as definition,
      case
        when a.attname is not null then format('s.%I', a.attname)
        else format('(select %s from (select s.*) as "grace row")', d.expression)
      end as value,
      grace_internal.equality(i.indexrelid, n) as equals
    from generate_series(1, i.indnkeyatts) n
    cross join lateral (select pg_get_indexdef(i.indexrelid, n, false)) as d (expression)
    left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[n - 1] and a.attnum > 0
  ) as k
  group by c.relname, i.indrelid, i.predicate
$$;
