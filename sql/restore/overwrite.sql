-- The query for the live rows that have the primary keys of selected ones: which selected ones, and where the live ones stand. They are
-- locked when the restore is meant.
create or replace function grace_internal.overwritten_rows(protected_id integer, plan grace._restore_plan)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select pg_catalog.array_agg(x.ref), pg_catalog.array_agg(x.leaf), pg_catalog.array_agg(x.tid) from ('
    'select s.ref, t.tableoid as leaf, t.ctid as tid from %s%s t join (select %s as ref, %s %s) s on %s%s) x',
    case c.relkind when 'p' then '' else 'only ' end,
    grace_internal.qualified_name(p.target),
    grace_internal.ref_expression(p.id),
    string_agg(format('%s as "grace %s"', k.expression, k.position), ', '),
    grace_internal.restore_source(p.id, plan),
    grace_internal.key_match(p.id, 't', 's'),
    case when plan.locks then ' for update of t' else '' end
  )
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  cross join lateral unnest(grace_internal.key_values(p.id)) with ordinality as k (expression, position)
  where p.id = overwritten_rows.protected_id
  group by p.id, c.relkind
$$;

-- May the caller have these rows overwritten? Capturing them reads the table as the owner of pg_grace, so it demands what reading and
-- overwriting by hand would; what is held nobody may. Errors: GR010, GR029, 42501.
create or replace function grace._check_overwriting(plan grace._restore_plan)
returns void
language plpgsql stable
security definer -- asks what the owner of pg_grace may do, too
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller name := grace_internal.caller();
  v_live record;
begin
  for v_live in
    select distinct
      l.leaf, l.leaf::regclass as relation, t.root,
      c.relrowsecurity and not r.rolsuper and not r.rolbypassrls as is_filtered
    from unnest(plan.live_leaves) as l (leaf)
    cross join lateral (select coalesce(pg_partition_root(l.leaf), l.leaf::regclass)) as t (root)
    join pg_class c on c.oid = t.root
    join pg_roles r on r.rolname = v_caller
  loop
    if not has_table_privilege(v_caller, v_live.root, 'SELECT')
      or not has_table_privilege(v_caller, v_live.root, 'UPDATE')
    then
      raise exception 'permission denied for table %', v_live.relation
        using errcode = 'insufficient_privilege',
        detail = 'Overwriting rows takes SELECT and UPDATE on the whole table.',
        hint = format('grant select, update on %s to %I;', grace_internal.qualified_name(v_live.leaf), v_caller);
    end if;
    if v_live.is_filtered or row_security_active(v_live.leaf) then
      raise exception 'rows of % can''t be overwritten', v_live.relation
        using errcode = 'GR010',
        detail = 'It has row-level security, which hides rows from the role that restores or from the owner of pg_grace.',
        hint = 'Let a role with BYPASSRLS restore, or delete the rows that stand in the way first.';
    end if;
    perform grace_internal.require_trusted_code(
      v_live.leaf, 'Delete the rows that stand in the way first; that is captured as any delete.'
    );
    perform grace_internal.require_unheld_rows(grace_internal.protected_id(v_live.root), v_live.leaf, array(
      select l.tid from unnest(plan.live_leaves, plan.live_tids) as l (leaf, tid) where l.leaf = v_live.leaf
    ));
  end loop;
end
$$;
comment on function grace._check_overwriting(grace._restore_plan) is
'Internal: refuses what the caller may not overwrite.';

-- Finds the rows that a restore would overwrite.
create or replace function grace._find_overwritten(plan grace._restore_plan)
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query text;
  v_refs grace._row_ref [];
  v_leaves oid [];
  v_tids tid [];
begin
  plan.replaced := '{}';
  plan.live_leaves := '{}';
  plan.live_tids := '{}';
  foreach v_query in array plan.overwrites loop
    continue when v_query is null;
    execute v_query into v_refs, v_leaves, v_tids using plan.picks, plan.left_out;
    continue when v_refs is null;
    plan.replaced := plan.replaced || v_refs;
    plan.live_leaves := plan.live_leaves || v_leaves;
    plan.live_tids := plan.live_tids || v_tids;
  end loop;
  perform grace._check_overwriting(plan);
  return plan;
end
$$;
comment on function grace._find_overwritten(grace._restore_plan) is 'Internal: the live rows that a restore would overwrite.';

-- Captures the live rows that a restore is about to overwrite, as if they were deleted, so that this can be undone, too.
-- Errors: GR010, GR029, 42501.
create or replace function grace._keep_overwritten(plan grace._restore_plan)
returns bigint
language plpgsql
security definer -- writes to buffers, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller name := grace_internal.caller();
  v_deletion grace_internal.deletion_ref;
  v_live record;
  v_rows bigint;
begin
  perform grace._check_overwriting(plan);
  for v_live in
    select
      grace_internal.protected_id(l.leaf::regclass) as id, l.leaf, l.leaf::regclass as relation, array_agg(l.tid) as tids
    from unnest(plan.live_leaves, plan.live_tids) as l (leaf, tid)
    group by l.leaf
  loop
    if grace_internal.columns_differ(v_live.id) then
      perform grace_internal.sync_columns(v_live.id);
      perform grace_internal.generate_capture(v_live.id);
    end if;
    v_deletion := grace_internal.current_deletion();
    execute grace_internal.insert_statement(
      v_live.id, 'g', format('only %s as g where g.ctid = any ($3)', grace_internal.qualified_name(v_live.leaf)), '$1', '$2'
    ) using v_deletion.deletion, v_deletion.deleted_at, v_live.tids;
    get diagnostics v_rows = row_count;
    if v_rows <> cardinality(v_live.tids) then
      raise exception 'rows of % have changed meanwhile', v_live.relation
        using errcode = 'serialization_failure',
        detail = 'They are no longer where they were when they were locked.',
        hint = 'Run the restore again.';
    end if;
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation, role, login, application_name, client_addr, reason
    )
    values (
      v_deletion.deletion, v_deletion.deleted_at, v_live.id, v_rows, 'REPLACE', v_caller, session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end loop;
  return v_deletion.deletion;
end
$$;
comment on function grace._keep_overwritten(grace._restore_plan) is
'Internal: captures the rows that a restore overwrites; returns the deletion they are in.';
