-- Finds what a restore selects; changes nothing. With lock it holds the log of the deletions against every other restore
-- and purge until the transaction ends, so that what it found stays as it is. Where not whole deletions are selected it
-- leaves a query for the rows, to be run with the caller's rights. Errors: GR001, GR007, GR008, GR009, GR016.
create or replace function grace._restore_select(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  related boolean, lock boolean
)
returns grace._restore_plan
language plpgsql
security definer -- reads the log and the registry, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan grace._restore_plan;
  v_id integer;
begin
  if deletion is null and keys is null and deleted_from is null and deleted_to is null and deleted_by is null then
    raise exception 'nothing is selected'
      using errcode = 'GR016',
      detail = 'A restore needs a deletion, keys, a time or a role to go by.',
      hint = 'Look at grace.deletions and give the id: select * from grace.restore(deletion => …);';
  end if;
  if keys is not null and target is null then
    raise exception 'keys without a table'
      using errcode = 'GR016',
      detail = 'A key means something only in a table.',
      hint = 'Give the table as target.';
  end if;
  if target is not null then
    v_id := grace_internal.protected_id(target);
    v_plan.target := coalesce(pg_partition_root(target), target);
  end if;

  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
  end if;
  v_plan.deletions := grace_internal.matching_deletions(
    v_id, deletion, deleted_from, deleted_to, deleted_by, lock
  );

  if keys is null and (
    v_id is null or not related or not exists (
      select from grace_internal.capture c where c.deletion = any (v_plan.deletions) and c.protected_id <> v_id
    )
  ) then
    select array_agg(c.protected_id order by c.protected_id) into v_plan.protected_ids
    from (
      select distinct c.protected_id
      from grace_internal.capture c
      where c.deletion = any (v_plan.deletions) and (v_id is null or c.protected_id = v_id)
    ) as c;
  else
    v_plan.statement := grace_internal.pick_statement(v_id, v_plan.deletions, keys);
  end if;
  return v_plan;
end
$$;
comment on function grace._restore_select(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean) is
'Internal: which deletions a restore selects, and the query for the rows.';

-- Writes the statements that insert and check what is selected. Errors: GR015.
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
  if v_plan.picks is not null then
    select array_agg(distinct n.protected_id order by n.protected_id) into v_plan.protected_ids
    from unnest(v_plan.picks) n;
  end if;

  select array_agg(p.target order by p.id), string_agg(p.target_name, ', ') filter (where c.oid is null)
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

  if current_setting('grace.progress', true) = 'on' then
    v_progress := format(
      ' and pg_catalog.nextval(%s::pg_catalog.oid::pg_catalog.regclass) operator(pg_catalog.>) 0',
      'grace_internal.progress'::regclass::oid
    );
  end if;
  select
    format(
      'with %s select array[%s]',
      string_agg(format('r_%s as (%s returning 1)', i, grace_internal.insert_select(i, s.source || v_progress)), ', '),
      string_agg(format('(select pg_catalog.count(*) from r_%s)', i), ', ')
    ),
    grace_internal.check_statement(v_plan.protected_ids, array_agg(s.source))
  into v_plan.statement, v_plan.check_statement
  from unnest(v_plan.protected_ids) i
  cross join lateral grace_internal.restore_source(i, v_plan.deletions, v_plan.picks is not null) as s (source);

  select string_agg(format('%I.%I', n.nspname, c.conname), ', ') into v_plan.constraints
  from pg_constraint c
  join pg_namespace n on n.oid = c.connamespace
  where c.conrelid = any (v_plan.targets)
    and c.condeferred
    and not exists ( -- SET CONSTRAINTS knows a constraint by its schema and name only
      select
      from pg_constraint x
      where x.connamespace = c.connamespace and x.conname = c.conname and not x.condeferrable
    );

  return v_plan;
end
$$;
comment on function grace._restore_plan(grace._restore_plan) is
'Internal: the statements of a restore.';

-- Deletions that have something left to restore. Errors: GR007 when there is none.
create or replace function grace_internal.matching_deletions(
  only_id integer, deletion bigint, deleted_from timestamptz, deleted_to timestamptz, deleted_by name, lock boolean
)
returns bigint []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletions bigint [];
  v_left bigint [];
begin
  select array_agg(distinct c.deletion order by c.deletion) into v_deletions
  from grace_internal.capture c
  where (only_id is null or c.protected_id = only_id)
    and (matching_deletions.deletion is null or c.deletion = matching_deletions.deletion)
    and (deleted_from is null or c.deleted_at >= deleted_from)
    and (deleted_to is null or c.deleted_at < deleted_to)
    and (deleted_by is null or deleted_by in (c.role, c.login))
    and c.deleted_at > grace._expired_before(c.protected_id);
  if v_deletions is null then
    raise exception '%', coalesce('there is no deletion ' || deletion, 'no deletion matches')
      using errcode = 'GR007',
      detail = 'It is not in the log of deletions'
        || case when only_id is not null then ' of this table' else '' end
        || ', or its retention has expired.',
      hint = 'Look at what there is: select * from grace.deletions order by id desc;';
  end if;
  if lock then
    perform from grace_internal.capture c where c.deletion = any (v_deletions) order by c.deletion, c.ctid for update;
  end if;

  select array_agg(d.deletion order by d.deletion) into v_left
  from (
    select c.deletion
    from grace_internal.capture c
    where c.deletion = any (v_deletions) and (only_id is null or c.protected_id = only_id)
    group by c.deletion
    having sum(c.row_count) > coalesce((
      select sum(r.row_count)
      from grace_internal.restored r
      where r.deletion = c.deletion and (only_id is null or r.protected_id = only_id)
    ), 0)
  ) as d;
  if v_left is null then
    raise exception 'nothing is left to restore of deletion %', array_to_string(v_deletions, ', ')
      using errcode = 'GR007',
      detail = (
        select 'Restored ' || string_agg(
          distinct format('by %s at %s', u.role, to_char(u.started_at, 'YYYY-MM-DD HH24:MI:SS TZ')), '; '
        )
        from grace_internal.restored r
        join grace_internal.run u on u.id = r.run_id
        where r.deletion = any (v_deletions)
      ),
      hint = 'Each deleted row can be restored once. Look for the rows in their tables.';
  end if;
  return v_left;
end
$$;

-- The query for where the chosen rows of one table stand: the newest version of each key (and the keys of which there is
-- none), or all its rows in the deletions.
create or replace function grace_internal.pick_statement(protected_id integer, deletions bigint [], keys jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key_columns text;
begin
  if keys is null then
    return format(
      'select array_agg(row(%s, b.grace_deleted_at, b.tableoid, b.ctid)::grace._row_ref), null::text %s',
      protected_id, grace_internal.restore_source(protected_id, deletions, false)
    );
  end if;

  select string_agg(format('k.%I', n), ', ') into v_key_columns
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) n
  where p.id = protected_id;
  return format(
    'select array_agg(row(%s, f.grace_deleted_at, f.tableoid, f.ctid)::grace._row_ref) filter (where f.ctid is not null), '
    'string_agg(to_jsonb(f.grace_key)::text, '', '') filter (where f.ctid is null) '
    'from (select distinct on (%s) k as grace_key, b.* from %s left join ('
    'select b.*, b.tableoid, b.ctid %s) as b on %s '
    'order by %s, b.grace_deleted_at desc, b.grace_deletion desc, b.ctid desc) as f',
    protected_id, v_key_columns, grace_internal.keys_source(protected_id, keys),
    grace_internal.restore_source(protected_id, deletions, false), grace_internal.keys_condition(protected_id),
    v_key_columns
  );
end
$$;

-- One row per table: id, number of rows selected, and every conflict with key, constraint and reason.
create or replace function grace_internal.check_statement(protected_ids integer [], sources text [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.id, t.position, t.source, c.columns, c.generated
    from unnest(protected_ids, sources) with ordinality as t (id, source, position)
    cross join lateral (
      select
        string_agg(
          format('%s as %I', coalesce(c.value, 'null') || '::' || c.type_name, c.attname), ', ' order by c.attnum
        ) filter (where c.insertable) as columns,
        string_agg(
          format(', (%s)::%s as %I', pg_get_expr(d.adbin, d.adrelid), c.type_name, c.attname), '' order by c.attnum
        ) filter (where not c.insertable) as generated
      from grace_internal.restore_columns(t.id) c
      join grace_internal.protected p on p.id = t.id
      left join pg_attrdef d on d.adrelid = p.target and d.adnum = c.attnum and not c.insertable
    ) as c
  )
  select format(
    'with %s, conflict (id, key, constraint_name, reason) as (%s) '
    'select t.id, t.selected, coalesce((select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('
    '''key'', c.key, ''constraint'', c.constraint_name, ''reason'', c.reason) order by c.constraint_name, c.key) '
    'from conflict c where c.id operator(pg_catalog.=) t.id), ''[]''::pg_catalog.jsonb) from (%s) as t (id, selected)',
    string_agg(
      format('s_%s as (select r.*%s from (select %s %s) as r)', t.id, t.generated, t.columns, t.source), ', '
    ),
    coalesce(
      (
        select string_agg(q.query, ' union all ')
        from (
          select c
          from unnest(protected_ids) i
          cross join lateral grace_internal.conflict_queries(i, protected_ids) c
          union all
          select grace_internal.file_conflict_query(t.id, t.source) from tables t
        ) as q (query)
      ),
      'select null::pg_catalog.int4, null::pg_catalog.jsonb, null, null where false'
    ),
    string_agg(format('select %s, (select pg_catalog.count(*) from s_%s)', t.id, t.id), ' union all ')
  )
  from tables t
$$;
