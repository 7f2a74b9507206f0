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
  dry_run boolean default false
)
returns table (run bigint, restored_table regclass, restored bigint, conflicts jsonb)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_plan grace._restore_plan;
  v_inserted bigint [];
  v_conflicts jsonb;
begin
  v_plan := grace._restore_select(
    target, deletion, keys, deleted_from, deleted_to, deleted_by, related, not dry_run
  );
  if v_plan.statement is not null then
    v_plan.picks := grace._pick_rows(v_plan, related);
  end if;
  v_plan := grace._restore_plan(v_plan);

  if dry_run then
    return query execute pg_catalog.format(
      'select null::pg_catalog.int8, ($2)[pg_catalog.array_position($3, c.id)], c.selected, c.conflicts '
      'from (%s) as c (id, selected, conflicts)', v_plan.check_statement
    ) using v_plan.picks, v_plan.targets, v_plan.protected_ids;
    return;
  end if;

  begin
    perform grace._restore_files(v_plan); -- first, for the application's triggers may look at them
    execute v_plan.statement into v_inserted using v_plan.picks;
    if v_plan.constraints is not null then
      execute 'set constraints ' operator(pg_catalog.||) v_plan.constraints operator(pg_catalog.||) ' immediate';
      execute 'set constraints ' operator(pg_catalog.||) v_plan.constraints operator(pg_catalog.||) ' deferred';
    end if;
  exception when integrity_constraint_violation then
    execute pg_catalog.format(
      'select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('
      '''table'', ($2)[pg_catalog.array_position($3, c.id)], ''conflicts'', c.conflicts)) '
      'from (%s) as c (id, selected, conflicts)', v_plan.check_statement
    ) into v_conflicts using v_plan.picks, v_plan.targets, v_plan.protected_ids;
    perform grace._refuse_restore(v_conflicts);
    raise;
  end;

  return query
    select d.run, d.restored_table, d.restored, '[]'::pg_catalog.jsonb
    from grace._restore_done(v_plan, v_inserted) d;
end
$$;
comment on function grace.restore(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean) is
'Puts deleted rows back into their tables, all of what is selected or nothing. deletion: all that one transaction deleted. target: rows of this table. keys: these primary keys, {"id": 7} or an array of them, the newest version of each. deleted_from, deleted_to: deletions from the first moment on, before the second. deleted_by: role or login. related: also what went in the same deletion and hangs on the rows through foreign keys, and the parents they need. dry_run: changes nothing and lists what would be restored and every conflict. Returns one row per table: the run, the table, the number of rows, conflicts as [{"key", "constraint", "reason"}]. Needs grace_operator and INSERT on the tables; SELECT on them to list conflicts. Errors: GR001, GR007, GR008, GR009, GR011 (conflicts, listed in DETAIL), GR012, GR015, GR016, GR020.';

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
      perform grace_internal.restore_files(
        v_id, grace_internal.restore_source(v_id, plan.deletions, plan.picks is not null), plan.picks
      );
    end if;
  end loop;
end
$$;
comment on function grace._restore_files(grace._restore_plan) is
'Internal: brings the large objects of the selected rows back.';

-- Errors: GR011 with every conflict in DETAIL; returns when there is none.
create or replace function grace._refuse_restore(tables jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
  v_lines text;
begin
  select
    count(*),
    string_agg(format('%s %s: %s (%s)', t ->> 'table', c ->> 'key', c ->> 'reason', c ->> 'constraint'), e'\n')
  into v_count, v_lines
  from jsonb_array_elements(tables) t
  cross join lateral jsonb_array_elements(t -> 'conflicts') c;
  if v_count > 0 then
    raise exception 'nothing was restored: % %', v_count, case v_count when 1 then 'conflict' else 'conflicts' end
      using errcode = 'GR011', detail = v_lines,
      hint = 'Remove what stands in the way, or select less. With dry_run => true conflicts are listed as rows.';
  end if;
end
$$;
comment on function grace._refuse_restore(jsonb) is 'Internal: turns the conflicts found into an error.';

-- Takes the rows that were inserted out of the buffer and keeps the account. It trusts nothing in the plan but which
-- rows are meant; whoever calls it by hand is on record in grace.runs. Errors: GR012 when the table took fewer rows.
create or replace function grace._restore_done(plan grace._restore_plan, inserted bigint [])
returns table (run bigint, restored_table regclass, restored bigint)
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
  insert into grace_internal.run (kind, target, role, login)
  values ('restore', plan.target, grace_internal.caller(), session_user)
  returning id into v_run;

  for i in 1 .. cardinality(plan.protected_ids) loop
    v_id := plan.protected_ids[i];
    v_source := grace_internal.restore_source(v_id, plan.deletions, plan.picks is not null, 'using');
    if plan.picks is null and cardinality(plan.deletions) = 1 then
      execute 'delete ' || v_source;
      get diagnostics v_taken = row_count;
      insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count)
      select v_run, c.deletion, c.deleted_at, v_id, v_taken
      from grace_internal.capture c
      where c.deletion = plan.deletions[1]
      limit 1;
    else
      execute format(
        'with taken as (delete %s returning b.grace_deletion, b.grace_deleted_at), '
        'noted as (insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count) '
        'select $2, t.grace_deletion, min(t.grace_deleted_at), $3, count(*) from taken t group by t.grace_deletion '
        'returning row_count) select coalesce(sum(n.row_count), 0) from noted n', v_source
      )
      into v_taken using plan.picks, v_run, v_id;
    end if;
    if v_taken is distinct from inserted[i] then
      raise exception 'nothing was restored: % took % of % rows', plan.targets[i], inserted[i], v_taken
        using errcode = 'GR012',
        detail = 'A trigger or rule on the table suppressed rows, and they would have been lost.',
        hint = 'Disable the trigger for the restore, or restore the rows by hand from grace_buffer.';
    end if;
    if grace_internal.file_values(v_id, 'large object') is not null then
      perform grace_internal.drop_kept_files(v_id, plan.deletions);
    end if;
    v_total := v_total + v_taken;
    run := v_run;
    restored_table := plan.targets[i];
    restored := v_taken;
    return next;
  end loop;

  update grace_internal.run u
  set
    status = 'done',
    finished_at = clock_timestamp(),
    row_count = v_total,
    details = (
      select jsonb_build_object('deletions', jsonb_agg(distinct r.deletion))
      from grace_internal.restored r
      where r.run_id = v_run
    )
  where u.id = v_run;
end
$$;
comment on function grace._restore_done(grace._restore_plan, bigint []) is
'Internal: takes restored rows out of the buffer and records the restore.';
