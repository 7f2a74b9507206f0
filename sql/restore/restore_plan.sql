-- Writes the statements that insert what is selected. It is called again whenever rows are left out or
-- are to overwrite others. Errors: GR015, GR016, GR023.
create or replace function grace._restore_plan(selected grace._restore_plan)
returns grace._restore_plan
language plpgsql
security definer -- reads the log and the registry, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan grace._restore_plan := selected;
  v_names text;
  v_progress text := '';
begin
  if v_plan.protected_ids is null then
    select array_agg(distinct n.protected_id order by n.protected_id) into v_plan.protected_ids
    from unnest(v_plan.picks) n;
  end if;
  if v_plan.into_table is not null and cardinality(v_plan.protected_ids) > 1 then
    raise exception 'rows of several tables can''t be written into one'
      using errcode = 'GR016',
      detail = 'More than one table has rows in what is selected.',
      hint = 'Give the table whose rows are meant as target.';
  end if;

  select
    array_agg(coalesce(v_plan.into_table, p.target) order by p.id),
    string_agg(p.target_name, ', ') filter (where c.oid is null)
  into v_plan.targets, v_names
  from grace_internal.protected p
  left join pg_class c on c.oid = p.target
  where p.id = any (v_plan.protected_ids);
  if v_names is not null then
    raise exception 'table % no longer exists', v_names
      using errcode = 'GR015',
      detail = 'Rows of it are selected, and there is no table to put them into.',
      hint = 'Copy them from its table in schema grace_buffer while they last.';
  end if;
  if v_plan.given is not null then
    v_plan.set_values := grace_internal.given_values(v_plan);
    v_plan.given := null;
  end if;

  if current_setting('grace.progress', true) = 'on' then
    v_progress := format(
      ' and pg_catalog.nextval(%s::pg_catalog.oid::pg_catalog.regclass) operator(pg_catalog.>) 0',
      'grace_internal.progress'::regclass::oid
    );
  end if;
  select
    format(
      'with %s select array[%s], array[%s]',
      string_agg(
        format('i_%s as (%s returning 1)', i, grace_internal.insert_select(i, v_plan, v_progress))
        || case when u.statement is null then '' else format(', u_%s as (%s)', i, u.statement) end, ', '
      ),
      string_agg(format('(select pg_catalog.count(*) from i_%s)', i), ', '),
      string_agg(case when u.statement is null then '0' else format('(select pg_catalog.count(*) from u_%s)', i) end, ', ')
    ),
    format('select array[%s]', string_agg(format('(select pg_catalog.count(*) %s)', grace_internal.restore_source(i, v_plan)), ', ')),
    format('select array[%s]', string_agg(coalesce(grace_internal.left_behind(i, v_plan), 'null::pg_catalog.jsonb'), ', '))
  into v_plan.statement, v_plan.counts, v_plan.left_behind
  from unnest(v_plan.protected_ids) i
  cross join lateral (
    select grace_internal.update_from(i, v_plan, v_progress)
    where exists (select from unnest(v_plan.replaced) n where n.protected_id = i)
    union all
    select null
    limit 1
  ) as u (statement);

  v_plan.versions := array(select * from grace_internal.older_versions(v_plan));
  v_plan.overwrites := array(
    select grace_internal.overwritten_rows(i, v_plan) from unnest(v_plan.protected_ids) i where v_plan.on_conflict = 'replace'
  );
  v_plan.has_lost := exists (
    select
    from unnest(v_plan.protected_ids) i
    cross join lateral grace_internal.restore_columns(i, v_plan) c
    where c.lost is not null
  );
  select
    -- Read by way of json, for an explicit cast would cut what is too long.
    'select * from ' || string_agg(
      case
        when a.atttypid in ('json'::regtype, 'jsonb'::regtype)
          then format('(select %L::jsonb) as x_%s_%s', v.value #>> '{}', p.id, a.attnum)
        else format(
          'jsonb_to_record(jsonb_build_object(''v'', %L::text)) as x_%s_%s (v %s)',
          v.value #>> '{}', p.id, a.attnum, format_type(a.atttypid, a.atttypmod)
        )
      end, ', '
    )
  into v_plan.value_test
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = coalesce(v_plan.into_table, p.target)
  cross join lateral (select v_plan.set_values -> p.id::text -> a.attname::text) as v (value)
  where p.id = any (v_plan.protected_ids) and v.value is not null;
  select
    coalesce(array_agg(l.protected_id), '{}'), coalesce(array_agg(l.child), '{}'),
    coalesce(array_agg(l.counting), '{}'), coalesce(array_agg(l.tying), '{}')
  into v_plan.link_ids, v_plan.link_children, v_plan.link_counts, v_plan.link_updates
  from grace_internal.relink_statements(v_plan) l
  where v_plan.relinks;
  v_plan.constraints := grace_internal.deferred_constraints(v_plan.targets || v_plan.link_children);
  return v_plan;
end
$$;
comment on function grace._restore_plan(grace._restore_plan) is
'Internal: the statements of a restore.';

-- Deferred constraints of these tables, as SET CONSTRAINTS knows them: by schema and name only.
create or replace function grace_internal.deferred_constraints(targets regclass [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct format('%I.%I', n.nspname, c.conname), ', ')
  from pg_constraint c
  join pg_namespace n on n.oid = c.connamespace
  where c.conrelid = any (targets)
    and c.condeferred
    and not exists (
      select
      from pg_constraint x
      where x.connamespace = c.connamespace and x.conname = c.conname and not x.condeferrable
    )
$$;

-- The columns that exist no longer, with the number of rows that have a value there and the first ten of them: text of an expression. A
-- value of a former type that a cast to the type of now does not keep is left behind as well.
create or replace function grace_internal.left_behind(protected_id integer, plan grace._restore_plan)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with columns as (
    select c.buffer_column, c.ended_at, format('b.%I is not null', c.buffer_column) as condition
    from grace_internal.protected p
    join grace_internal.column_map c on c.protected_id = p.id
    where p.id = left_behind.protected_id
      and case
        when plan.into_table is null then not exists (
          select from pg_attribute a where a.attrelid = p.target and a.attnum = c.attnum and not a.attisdropped
        )
        else not exists (
          select from pg_attribute a where a.attrelid = plan.into_table and a.attname = c.buffer_column and not a.attisdropped
        )
      end
    union all
    select
      c.buffer_column, c.ended_at,
      format(
        'b.%1$I is not null%2$s and case when grace._cast_error(b.%1$I, %3$L, false) is null '
        'then b.%1$I::%3$s::%4$s::pg_catalog.text operator(pg_catalog.<>) b.%1$I::pg_catalog.text end',
        c.buffer_column,
        (
          select string_agg(format(' and b.%I is null', n.buffer_column), '')
          from grace_internal.value_columns(c.protected_id, c.attnum) n
          where n.place < v.place
        ),
        v.type_name, format_type(c.type, -1)
      )
    from grace_internal.column_map c
    join grace_internal.value_columns(c.protected_id, c.attnum) v
      on v.buffer_column = c.buffer_column and v.is_cast and v.castable and grace_internal.can_cast(v.type, c.type)
    where c.protected_id = left_behind.protected_id and plan.into_table is null
  )
  select format(
    '(select pg_catalog.jsonb_agg(l.item) from (%s) l (item) where l.item is not null)',
    string_agg(
      format(
        'select pg_catalog.jsonb_build_object(''column'', %1$L::pg_catalog.text, ''rows'', x.rows, ''values'', (select pg_catalog.jsonb_agg('
        'pg_catalog.jsonb_build_object(''key'', v.key, ''value'', v.value)) from (select %2$s as key, pg_catalog.to_jsonb(b.%3$I) as value '
        '%4$s and %5$s limit 10) v)) from (select pg_catalog.count(*) as rows %4$s and %5$s) x '
        'where x.rows operator(pg_catalog.>) 0',
        c.buffer_column, grace_internal.buffered_key(protected_id), c.buffer_column,
        grace_internal.restore_source(protected_id, plan), c.condition
      ), ' union all ' order by c.ended_at desc, c.buffer_column
    )
  )
  from columns c
  having count(*) > 0
$$;

-- What the caller gives in place of captured values, by table and column, as text. Errors: GR023 for a column that there is not.
create or replace function grace_internal.given_values(plan grace._restore_plan)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result jsonb := jsonb_build_object();
  v_key text;
  v_value jsonb;
  v_parts text [];
  v_id integer;
  v_column pg_attribute;
  v_why text;
begin
  if jsonb_typeof(plan.given) <> 'object' then
    raise exception 'set_values is no object'
      using errcode = 'GR023', detail = 'It is a jsonb value of another kind.', hint = 'Give it as {"column": value}.';
  end if;
  for v_key, v_value in select * from jsonb_each(plan.given) loop
    v_why := null;
    v_column := null;
    v_id := null;
    begin
      v_parts := parse_ident(v_key);
    exception when invalid_parameter_value then
      v_parts := array[v_key];
    end;
    if cardinality(v_parts) = 1 then
      select p.id into v_id
      from grace_internal.protected p
      where p.id = any (plan.protected_ids) and (p.target = plan.target or cardinality(plan.protected_ids) = 1);
      v_why := 'Rows of several tables are selected, and it does not say which table it is of.';
    else
      select p.id into v_id
      from grace_internal.protected p
      join pg_class c on c.oid = p.target
      where p.id = any (plan.protected_ids)
        and c.relname = v_parts[cardinality(v_parts) - 1]
        and (cardinality(v_parts) = 2 or c.relnamespace::regnamespace::text = quote_ident(v_parts[cardinality(v_parts) - 2]));
      v_why := 'No rows of such a table are selected.';
    end if;
    if v_id is not null then
      select a.* into v_column
      from grace_internal.protected p
      join pg_attribute a on a.attrelid = coalesce(plan.into_table, p.target)
      where p.id = v_id and a.attname = v_parts[cardinality(v_parts)] and a.attnum > 0 and not a.attisdropped;
      v_why := case
        when v_column is null then 'The table has no such column.'
        when v_column.attgenerated <> '' then 'It is a generated column.'
        when plan.on_conflict = 'replace' and exists (
          select from pg_index i where i.indrelid = v_column.attrelid and i.indisprimary and v_column.attnum = any (i.indkey)
        )
          then 'It is in the primary key, by which on_conflict => ''replace'' finds the row to overwrite.'
        when jsonb_typeof(v_value) in ('object', 'array') and v_column.atttypid not in ('json'::regtype, 'jsonb'::regtype)
          then 'Its value is an object or array, and the column is not of type json; give it as a string.'
      end;
    end if;
    if v_why is not null then
      raise exception 'column % can''t be set', v_key
        using errcode = 'GR023', detail = v_why, hint = 'Give a column of the table, or table.column.';
    end if;
    v_result := v_result || jsonb_build_object(
      v_id::text,
      coalesce(v_result -> v_id::text, '{}') || jsonb_build_object(
        v_column.attname,
        case
          when jsonb_typeof(v_value) not in ('string', 'null') and v_column.atttypid in ('json'::regtype, 'jsonb'::regtype)
            then v_value::text
          else v_value #>> '{}'
        end
      )
    );
  end loop;
  return v_result;
end
$$;

-- Every conflict of what is selected: one row (id, row, key, constraint, reason) each. careful: with values that can't be what their
-- columns are looked at one by one, where the query without it fails. Without every only parents that are missing.
create or replace function grace._check_statement(plan grace._restore_plan, careful boolean, every boolean)
returns text
language sql stable
security definer -- reads the registry, which is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.id, grace_internal.restore_source(t.id, plan) as source, c.*
    from unnest(plan.protected_ids) as t (id)
    cross join lateral (
      select
        string_agg(
          format(
            '%s as %I',
            case
              when careful and c.error is not null
                then format('case when %s is null then (%s)::%s end', c.error, v.value, format_type(c.type, -1))
              else format('(%s)::%s', coalesce(v.value, 'null'), format_type(c.type, -1))
            end,
            c.attname
          ), ', ' order by c.attnum
        ) filter (where c.insertable)
        || coalesce(string_agg(format(', (%s) as "grace lost %s"', c.lost, c.attnum), '') filter (where c.lost is not null), '')
        || coalesce(
          string_agg(format(', %s as "grace error %s"', case when careful then c.error else c.cut end, c.attnum), '')
          filter (where careful and c.error is not null or c.cut is not null), ''
        ) as columns,
        string_agg(
          format(', (%s)::%s as %I', pg_get_expr(d.adbin, d.adrelid), c.type_name, c.attname), '' order by c.attnum
        ) filter (where not c.insertable) as generated
      from grace_internal.restore_columns(t.id, plan) c
      join grace_internal.protected p on p.id = t.id
      left join pg_attrdef d on d.adrelid = coalesce(plan.into_table, p.target) and d.adnum = c.attnum and not c.insertable
      cross join lateral (
        select case
          when not coalesce(grace_internal.is_constant(c.default_value), false) then c.value
          when c.value is null then c.default_value
          when c.not_null then format('coalesce(%s, %s)', c.value, c.default_value)
          else c.value
        end
      ) as v (value)
    ) as c
  )
  select format(
    'with %s select c.* from (%s) as c (protected_id, ref, key, constraint_name, reason)',
    string_agg(
      format(
        's_%s as (select r.*%s from (select %s, %s as "grace ref" %s%s) as r)',
        t.id, t.generated, t.columns, grace_internal.ref_expression(t.id), t.source, grace_internal.source_limit(t.id, plan)
      ), ', '
    ),
    coalesce(
      (
        select string_agg(q.query, ' union all ')
        from (
          select c.query
          from unnest(plan.protected_ids) i
          cross join lateral grace_internal.conflict_queries(i, plan, careful) c
          where every or c.kind = 'parent'
          union all
          select grace_internal.file_conflict_query(t.id, t.source) from tables t where every and plan.into_table is null
        ) as q (query)
      ),
      'select null::pg_catalog.int4, null::grace._row_ref, null::pg_catalog.jsonb, null, null where false'
    )
  )
  from tables t
$$;
comment on function grace._check_statement(grace._restore_plan, boolean, boolean) is
'Internal: the query for the conflicts of what is selected.';

create or replace function grace._written_columns(plan grace._restore_plan)
returns table (target regclass, attnum smallint)
language sql stable
security definer -- reads the registry, which is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(plan.into_table, p.target), c.attnum
  from grace_internal.protected p
  cross join lateral grace_internal.restore_columns(p.id, plan) c
  where p.id = any (plan.protected_ids) and c.insertable and c.value is not null
$$;
comment on function grace._written_columns(grace._restore_plan) is 'Internal: the columns that a restore inserts.';
