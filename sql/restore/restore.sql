-- Runs with the caller's rights: a restore does nothing that the caller could not do by hand, and the application's
-- triggers run as they do on any INSERT of the caller's. So it has no search_path of its own, and every name in it is
-- written out. All rows of all tables go in with one statement, at whose end PostgreSQL checks the foreign keys: their
-- order and cycles among them don't matter.
create or replace function grace.restore(
  target regclass default null,
  deletion bigint default null,
  keys jsonb default null,
  deleted_from timestamptz default null,
  deleted_to timestamptz default null,
  deleted_by name default null,
  related boolean default true,
  on_conflict text default 'error',
  set_values jsonb default null,
  into_table regclass default null,
  dry_run boolean default false,
  predicate text default null,
  with_parents boolean default false,
  relink boolean default true,
  triggers boolean default true,
  application text default null,
  reason text default null
)
returns table (
  run bigint, restored_table regclass, restored bigint, replaced bigint, skipped bigint, older bigint, relinked bigint,
  left_behind jsonb, conflicts jsonb
)
language plpgsql
set jit = off -- compiling takes longer than what it would speed up
as $$
#variable_conflict use_variable
declare
  v_plan grace._restore_plan;
  v_again grace._restore_plan;
  v_older grace._row_ref [];
  v_found grace._conflict [];
  v_conflicts grace._conflict [] := array[]::grace._conflict [];
  v_done grace._restore_result;
  v_attempts integer := 0;
begin
  v_plan := grace._restore_select(
    target, deletion, keys, deleted_from, deleted_to, deleted_by, application, reason, predicate,
    related and into_table is null, coalesce(with_parents, false), not dry_run and into_table is null
  );
  v_plan := grace._restore_options(v_plan, on_conflict, set_values, into_table, relink, triggers);
  if v_plan.filter_source is not null then
    v_plan.picks := grace._filter_rows(v_plan);
  end if;
  if v_plan.statement is not null or v_plan.picks is not null then
    v_plan.picks := grace._pick_rows(v_plan, related and into_table is null);
  end if;
  if with_parents then
    v_plan := grace._hold_deletions(grace._add_parents(v_plan), v_plan.locks);
  end if;
  v_plan := grace._restore_plan(v_plan);
  perform grace._check_values(v_plan);

  v_older := grace._find_older(v_plan);
  if pg_catalog.cardinality(v_older) operator(pg_catalog.>) 0 then
    v_plan.left_out := v_older;
    v_plan := grace._restore_plan(v_plan);
  end if;
  if v_plan.on_conflict operator(pg_catalog.=) 'replace' then
    v_plan := grace._restore_plan(grace._find_overwritten(v_plan));
  end if;

  loop
    v_attempts := v_attempts operator(pg_catalog.+) 1;
    if dry_run or v_plan.has_lost or v_plan.on_conflict operator(pg_catalog.<>) 'error' then
      v_found := grace._find_conflicts(v_plan, true);
      if v_plan.on_conflict operator(pg_catalog.=) 'skip' then
        while pg_catalog.cardinality(v_found) operator(pg_catalog.>) 0 loop
          v_conflicts := v_conflicts operator(pg_catalog.||) v_found;
          v_plan := grace._leave_out(v_plan, v_found);
          v_found := grace._find_conflicts(v_plan, false);
        end loop;
      elsif dry_run then
        v_conflicts := v_found;
      else
        perform grace._refuse_restore(v_plan, v_found);
      end if;
    end if;

    if dry_run then
      v_done := grace._restore_counts(v_plan);
      exit;
    end if;

    begin
      v_done := grace._restore_write(v_plan);
      exit;
    exception when integrity_constraint_violation or data_exception or insufficient_privilege then -- a policy's is the last
      v_found := grace._find_conflicts(v_plan, true);
      if v_plan.on_conflict operator(pg_catalog.<>) 'skip' then
        perform grace._refuse_restore(v_plan, v_found);
      end if;
      if v_plan.on_conflict operator(pg_catalog.=) 'replace' then
        v_again := grace._find_overwritten(v_plan); -- another session may have inserted a key meanwhile
      end if;
      if v_attempts operator(pg_catalog.=) 3 or pg_catalog.cardinality(v_found) operator(pg_catalog.=) 0 and (
        v_again.replaced is null
        or pg_catalog.cardinality(v_again.replaced) operator(pg_catalog.=) pg_catalog.cardinality(v_plan.replaced)
      ) then
        perform grace._check_snapshot(sqlstate, sqlerrm);
        raise; -- a trigger's, or one that nothing here foresees
      end if;
      if v_again.replaced is not null then
        v_plan := grace._restore_plan(v_again);
      end if;
    end;
  end loop;

  return query
    select
      v_done.run, t.target, v_done.restored[t.n], v_done.replaced[t.n],
      (
        select pg_catalog.count(distinct c.ref)
        from pg_catalog.unnest(v_conflicts) c
        where v_plan.on_conflict operator(pg_catalog.=) 'skip' and c.protected_id operator(pg_catalog.=) t.id
      ),
      (select pg_catalog.count(*) from pg_catalog.unnest(v_older) o where o.protected_id operator(pg_catalog.=) t.id),
      v_done.relinked[t.n],
      coalesce(v_done.left_behind[t.n], '[]'),
      grace._conflicts_json(v_conflicts, t.id)
    from rows from (pg_catalog.unnest(v_plan.protected_ids), pg_catalog.unnest(v_plan.targets)) with ordinality as t (id, target, n);
end
$$;
comment on function grace.restore(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, text, jsonb, regclass, boolean, text, boolean, boolean, boolean,
  text, text
) is
'Puts deleted rows back into their tables, all of what is selected or nothing. deletion: all that one transaction deleted. target: rows of this table. keys: these primary keys, {"id": 7} or an array of them. deleted_from, deleted_to: deletions from the first moment on, before the second. deleted_by: role or login. application, reason: contained in what the deletion''s session had set. predicate: rows for which this condition on the table''s columns holds. Of several versions of a primary key the newest one selected comes back. related: also what went in the same deletion and hangs on the rows through foreign keys, and the parents they need; with_parents: also parents that went in another deletion. on_conflict: error (nothing is restored, all conflicts are listed), skip (what is in conflict, and what depends on it, stays in the buffer) or replace (a live row with the same primary key is overwritten; its former version goes to the buffer as a deletion of this transaction). set_values: {"column": value} or {"table.column": value} in place of what was captured. into_table: writes a copy into this table, columns by name, and leaves the buffer as it is. relink: rows whose reference was set to null or default by the deletion, and still is, refer to the restored rows again. triggers: false disables the application''s triggers meanwhile, which takes the tables'' owner. dry_run: changes nothing and lists what would be restored and every conflict. Returns one row per table: the run, the table, rows restored, how many of these overwrote a live row, rows skipped, older versions left in the buffer, references tied again, values of dropped columns that are left behind as [{"column", "rows", "values"}], conflicts as [{"key", "constraint", "reason"}]. Needs grace_operator and INSERT on the tables (UPDATE for replace and relink); SELECT on them to list conflicts. Errors: GR001, GR007, GR008, GR009, GR010, GR011 (conflicts, listed in DETAIL), GR012, GR015, GR016, GR020, GR022, GR023, 22023.';

-- Errors: 22023, GR016 for options that can't go together, 42501 for a table that the caller may not write to.
create or replace function grace._restore_options(
  plan grace._restore_plan, on_conflict text, set_values jsonb, into_table regclass, relink boolean, triggers boolean
)
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if on_conflict is null or on_conflict not in ('error', 'skip', 'replace') then
    raise exception 'on_conflict can''t be %', coalesce(quote_literal(on_conflict), 'null')
      using errcode = 'invalid_parameter_value',
      detail = 'It says what becomes of rows that can''t be inserted.',
      hint = 'Give ''error'', ''skip'' or ''replace''.';
  end if;
  if into_table is not null and on_conflict = 'replace' then
    raise exception 'a copy can''t replace rows'
      using errcode = 'GR016',
      detail = 'What it overwrote in another table could not be kept.',
      hint = 'Use skip, or remove the rows that stand in the way.';
  end if;
  if into_table is not null and exists (
    select from pg_class c where c.oid = into_table and (c.relkind not in ('r', 'p', 'f', 'v') or c.relnamespace = 'grace_buffer'::regnamespace)
  ) then
    raise exception '% is no table to copy into', into_table
      using errcode = 'wrong_object_type', detail = 'It is not a table of the application''s.', hint = 'Name one.';
  end if;
  plan.on_conflict := on_conflict;
  plan.given := set_values;
  plan.into_table := into_table;
  plan.relinks := relink and into_table is null;
  plan.fires := triggers;
  return plan;
end
$$;
comment on function grace._restore_options(grace._restore_plan, text, jsonb, regclass, boolean, boolean) is
'Internal: how a restore is to be done.';

-- Errors: GR023 for a value that its column can't hold, 42501 for a table that the caller may not insert into.
create or replace function grace._check_values(plan grace._restore_plan)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (
    select min(c.target::oid)
    from grace._written_columns(plan) c
    where not has_column_privilege(c.target, c.attnum, 'INSERT')
  );
begin
  if v_target is not null then
    raise exception 'permission denied for table %', v_target
      using errcode = 'insufficient_privilege',
      detail = 'A restore does nothing that its caller could not do by hand.',
      hint = format('grant insert on %s to %I;', v_target, current_user);
  end if;
  if plan.value_test is not null then
    execute plan.value_test;
  end if;
exception when data_exception or integrity_constraint_violation then
  raise exception 'a value that is to be set does not fit its column'
    using errcode = 'GR023', detail = sqlerrm, hint = 'Give it as the column''s type reads it.';
end
$$;
comment on function grace._check_values(grace._restore_plan) is 'Internal: refuses values that no column could hold.';

create or replace function grace._find_older(plan grace._restore_plan)
returns grace._row_ref []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_query text;
  v_refs grace._row_ref [];
  v_all grace._row_ref [] := array[]::grace._row_ref [];
begin
  foreach v_query in array plan.versions loop
    execute format('select array_agg(o."grace ref") from (%s) o', v_query) into v_refs using plan.picks, plan.left_out;
    v_all := v_all || coalesce(v_refs, '{}');
  end loop;
  return v_all;
end
$$;
comment on function grace._find_older(grace._restore_plan) is
'Internal: selected rows of which a newer version is selected, too.';

-- All conflicts, or those of missing parents only; with the caller's rights and search_path, as the application's checks run.
create or replace function grace._find_conflicts(plan grace._restore_plan, every boolean)
returns grace._conflict []
language plpgsql
as $$
declare
  v_found grace._conflict [];
  v_query text :=
    'select pg_catalog.array_agg(row(q.protected_id, q.ref, q.key, q.constraint_name, q.reason)::grace._conflict) from (%s) q';
begin
  begin
    execute pg_catalog.format(v_query, grace._check_statement(plan, false, every))
    into v_found using plan.picks, plan.left_out, plan.replaced, plan.skipped;
  exception when data_exception or integrity_constraint_violation then
    execute pg_catalog.format(v_query, grace._check_statement(plan, true, true))
    into v_found using plan.picks, plan.left_out, plan.replaced, plan.skipped;
  end;
  return coalesce(v_found, '{}');
end
$$;
comment on function grace._find_conflicts(grace._restore_plan, boolean) is 'Internal: why selected rows can''t be inserted.';

create or replace function grace._leave_out(plan grace._restore_plan, conflicts grace._conflict [])
returns grace._restore_plan
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_refs grace._row_ref [] := array(select distinct c.ref from unnest(conflicts) c);
  v_is_first boolean := coalesce(cardinality(plan.left_out), 0) = 0; -- the statements are the same for any rows that are left out
begin
  plan.left_out := plan.left_out || v_refs;
  plan.skipped := plan.skipped || v_refs;
  return case when v_is_first then grace._restore_plan(plan) else plan end;
end
$$;
comment on function grace._leave_out(grace._restore_plan, grace._conflict []) is 'Internal: the plan without rows in conflict.';

create or replace function grace._conflicts_json(conflicts grace._conflict [], protected_id integer)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object('key', c.key, 'constraint', c.constraint_name, 'reason', c.reason)
      order by c.constraint_name, c.key, c.reason
    ), '[]'
  )
  from unnest(conflicts) c
  where c.protected_id = _conflicts_json.protected_id
$$;
comment on function grace._conflicts_json(grace._conflict [], integer) is 'Internal: the conflicts of one table.';

-- Errors: GR011 with the conflicts in DETAIL, up to a thousand; returns when there is none.
create or replace function grace._refuse_restore(plan grace._restore_plan, conflicts grace._conflict [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := cardinality(conflicts);
  v_lines text;
begin
  if v_count = 0 then
    return;
  end if;
  select string_agg(format('%s %s: %s (%s)', s.target, s.key, s.reason, s.constraint_name), e'\n' order by s.target, s.constraint_name, s.key)
  into v_lines
  from (
    select plan.targets[array_position(plan.protected_ids, c.protected_id)]::text as target, c.key, c.constraint_name, c.reason
    from unnest(conflicts) c
    limit 1000
  ) as s;
  raise exception 'nothing was restored: % %', v_count, case v_count when 1 then 'conflict' else 'conflicts' end
    using errcode = 'GR011',
    detail = v_lines || case when v_count > 1000 then format(e'\nand %s more', v_count - 1000) else '' end,
    hint = 'Remove what stands in the way, select less, or say on_conflict => ''skip'' or ''replace''. With dry_run => true conflicts are listed as rows.';
end
$$;
comment on function grace._refuse_restore(grace._restore_plan, grace._conflict []) is
'Internal: turns the conflicts found into an error.';

-- A row that stands in the way and that no query here sees was written after the transaction's snapshot. Errors: 40001.
create or replace function grace._check_snapshot(state text, message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') and state in ('23503', '23505', '23P01') then
    raise exception 'rows have changed since the transaction began'
      using errcode = 'serialization_failure', detail = message, hint = 'Run the transaction again.';
  end if;
end
$$;
comment on function grace._check_snapshot(text, text) is 'Internal: tells a conflict with what the snapshot does not show.';

-- What a restore would do, in numbers.
create or replace function grace._restore_counts(plan grace._restore_plan)
returns grace._restore_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result grace._restore_result;
  v_count bigint;
begin
  execute plan.counts into v_result.restored using plan.picks, plan.left_out;
  execute plan.left_behind into v_result.left_behind using plan.picks, plan.left_out;
  for i in 1 .. cardinality(plan.protected_ids) loop
    v_result.replaced[i] := (select count(*) from unnest(plan.replaced) r where r.protected_id = plan.protected_ids[i]);
    v_result.relinked[i] := 0;
  end loop;
  for i in 1 .. cardinality(plan.link_counts) loop
    execute plan.link_counts[i] into v_count using plan.picks, plan.left_out;
    if v_count > 0 and not has_any_column_privilege(plan.link_children[i], 'UPDATE') then
      raise exception 'permission denied for table %', plan.link_children[i]
        using errcode = 'insufficient_privilege',
        detail = 'Its rows refer to what is restored, and the deletion had cut that.',
        hint = format('grant update on %s to %I; or leave the references as they are: relink => false.', plan.link_children[i], current_user);
    end if;
    v_result.relinked[array_position(plan.protected_ids, plan.link_ids[i])] :=
      v_result.relinked[array_position(plan.protected_ids, plan.link_ids[i])] + v_count;
  end loop;
  return v_result;
end
$$;
comment on function grace._restore_counts(grace._restore_plan) is 'Internal: what a restore would do, in numbers.';

-- Writes, with the caller's rights and search_path. Errors: whatever the tables say, GR012.
create or replace function grace._restore_write(plan grace._restore_plan)
returns grace._restore_result
language plpgsql
as $$
declare
  v_result grace._restore_result;
  v_inserted bigint [];
  v_overwritten bigint;
  v_enable text [] := array[]::text [];
  v_statement text;
  v_count bigint;
  v_at integer;
begin
  if not plan.fires then
    v_enable := grace._disable_triggers(plan.targets operator(pg_catalog.||) plan.link_children);
  end if;
  execute plan.left_behind into v_result.left_behind using plan.picks, plan.left_out;
  if plan.into_table is null then
    perform grace._restore_files(plan); -- first, for the application's triggers may look at them
    if pg_catalog.cardinality(plan.replaced) operator(pg_catalog.>) 0 then
      v_overwritten := grace._keep_overwritten(plan);
    end if;
  end if;
  execute plan.statement into v_inserted, v_result.replaced using plan.picks, plan.left_out, plan.replaced;

  for i in 1 .. pg_catalog.cardinality(plan.protected_ids) loop
    v_result.restored[i] := v_inserted[i] operator(pg_catalog.+) v_result.replaced[i];
    v_result.relinked[i] := 0;
  end loop;
  for i in 1 .. pg_catalog.cardinality(plan.link_updates) loop
    execute plan.link_updates[i] into v_count using plan.picks, plan.left_out;
    v_at := pg_catalog.array_position(plan.protected_ids, plan.link_ids[i]);
    v_result.relinked[v_at] := v_result.relinked[v_at] operator(pg_catalog.+) v_count;
  end loop;
  if plan.constraints is not null then
    execute 'set constraints ' operator(pg_catalog.||) plan.constraints operator(pg_catalog.||) ' immediate';
    execute 'set constraints ' operator(pg_catalog.||) plan.constraints operator(pg_catalog.||) ' deferred';
  end if;
  foreach v_statement in array v_enable loop
    execute v_statement;
  end loop;
  v_result.run := grace._restore_done(plan, v_result.restored, v_overwritten);
  return v_result;
end
$$;
comment on function grace._restore_write(grace._restore_plan) is 'Internal: inserts, overwrites, ties links again.';

create or replace function grace._restore_files(plan grace._restore_plan)
returns void
language plpgsql
security definer -- what is kept is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  foreach v_id in array plan.protected_ids loop
    if grace_internal.file_values(v_id, 'large object') is not null then
      perform grace_internal.restore_files(v_id, plan);
    end if;
  end loop;
end
$$;
comment on function grace._restore_files(grace._restore_plan) is
'Internal: brings the large objects of the selected rows back.';

-- Takes the rows that were written out of the buffer and keeps the account; returns the run. It trusts nothing in the plan but which
-- rows are meant; whoever calls it by hand is on record in grace.runs. Errors: GR012 when a table took fewer rows.
create or replace function grace._restore_done(plan grace._restore_plan, restored bigint [], overwritten bigint)
returns bigint
language plpgsql
security definer -- the buffer and the log are granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
  v_id integer;
  v_source text;
  v_taken bigint;
  v_total bigint := 0;
begin
  perform grace_internal.require_same_tables(plan);
  insert into grace_internal.run (kind, target, role, login)
  values ('restore', coalesce(plan.into_table, plan.target), grace_internal.caller(), session_user)
  returning id into v_run;

  for i in 1 .. cardinality(plan.protected_ids) loop
    v_id := plan.protected_ids[i];
    v_source := grace_internal.restore_source(v_id, plan, is_delete => true);
    if plan.into_table is not null then
      v_taken := restored[i];
    elsif plan.picks is null and cardinality(plan.deletions) = 1 then
      execute 'delete ' || v_source using plan.picks, plan.left_out;
      get diagnostics v_taken = row_count;
      insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count)
      select v_run, c.deletion, c.deleted_at, v_id, v_taken
      from grace_internal.capture c
      where c.deletion = plan.deletions[1] and v_taken > 0
      limit 1;
    else
      execute format(
        'with taken as (delete %s returning b.grace_deletion, b.grace_deleted_at), '
        'noted as (insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count) '
        'select $3, t.grace_deletion, min(t.grace_deleted_at), $4, count(*) from taken t group by t.grace_deletion '
        'returning row_count) select coalesce(sum(n.row_count), 0) from noted n', v_source
      )
      into v_taken using plan.picks, plan.left_out, v_run, v_id;
    end if;
    if v_taken is distinct from restored[i] then
      raise exception 'nothing was restored: % took % of % rows', plan.targets[i], restored[i], v_taken
        using errcode = 'GR012',
        detail = 'A trigger or rule on the table suppressed rows, and they would have been lost.',
        hint = 'Disable the trigger for the restore (triggers => false), or restore the rows by hand from grace_buffer.';
    end if;
    if plan.into_table is null then
      if grace_internal.file_values(v_id, 'large object') is not null then
        perform grace_internal.drop_kept_files(v_id, plan.deletions);
      end if;
      perform grace_internal.drop_cuts(v_id, plan.deletions);
    end if;
    v_total := v_total + v_taken;
  end loop;

  update grace_internal.run u
  set
    status = 'done',
    finished_at = clock_timestamp(),
    row_count = v_total,
    details = jsonb_strip_nulls(jsonb_build_object(
      'deletions', (select jsonb_agg(distinct r.deletion) from grace_internal.restored r where r.run_id = v_run),
      'overwritten', overwritten,
      'copied', case when plan.into_table is not null then to_jsonb(plan.deletions) end
    ))
  where u.id = v_run;
  return v_run;
end
$$;
comment on function grace._restore_done(grace._restore_plan, bigint [], bigint) is
'Internal: takes restored rows out of the buffer and records the restore.';

-- The plan is made of names before the statements lock tables and buffers. A change of a table that was open then, or that the
-- transaction's snapshot does not show, gives the names another meaning: values would be missing, without an error. Errors: 40001.
create or replace function grace_internal.require_same_tables(plan grace._restore_plan)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_again grace._restore_plan;
  v_changed text;
begin
  if current_setting('transaction_isolation') = 'read committed' then
    v_again := grace._restore_plan(plan);
    if (v_again.statement, v_again.left_behind) is not distinct from (plan.statement, plan.left_behind) then
      return;
    end if;
    v_changed := array_to_string(plan.targets, ', ');
  else
    select string_agg(p.target_name, ', ') into v_changed
    from grace_internal.protected p
    join pg_class b on b.oid = format('grace_buffer.%I', p.buffer)::regclass
    where p.id = any (plan.protected_ids)
      and (
        grace_internal.snapshot_is_old(p.id)
        or has_column_privilege(b.oid, (b.relnatts + 1)::smallint, 'select') is not null
      );
  end if;
  if v_changed is not null then
    raise exception 'could not serialize access: table % was changed while rows of it were restored', v_changed
      using errcode = 'serialization_failure',
      detail = 'Its columns are not those that the restore was planned for.',
      hint = 'Run the transaction again.';
  end if;
end
$$;
