do $$
begin
  if to_regtype('grace._purge_item') is null then
    create type grace._purge_item as (protected_id integer, leaf oid, action text);
    comment on type grace._purge_item is 'Internal: one piece of a purge.';
  end if;
end
$$;

create or replace function grace._purge_begin(target regclass)
returns bigint
language plpgsql
security definer -- writes the run
set search_path = pg_catalog, pg_temp
as $$
declare
  v_other grace_internal.run;
  v_run bigint;
begin
  if target is not null then
    perform grace_internal.protected_id(target);
  end if;
  lock table grace_internal.run in share update exclusive mode; -- against another purge only
  perform grace_internal.note_aborted_runs();
  select r.* into v_other
  from grace_internal.run r
  where r.kind = 'purge' and r.status = 'running' and r.pid <> pg_backend_pid();
  if found then
    raise exception 'another purge is running'
      using errcode = 'GR014',
      detail = format('Run %s, process %s, since %s.', v_other.id, v_other.pid, v_other.started_at),
      hint = 'It does the same work; wait for it.';
  end if;
  insert into grace_internal.run (kind, job, target, role, login)
  values ('purge', case when target is null then 'purge' end, target, grace_internal.caller(), session_user)
  returning id into v_run;
  perform grace_internal.forget_ended_holds();
  if target is null then
    begin
      perform grace_internal.evict();
    exception when lock_not_available then -- even to ask for the size of a leaf takes a lock on it
      update grace_internal.run r set details = '{"left_for_next_run": ["capacity"]}' where r.id = v_run;
    end;
  end if;
  return v_run;
end
$$;
comment on function grace._purge_begin(regclass) is 'Internal: opens the run of a purge.';

-- Rows go first, then large objects to which none refers any more, then their content; emptying comes before dropping, and all
-- that before the partitions of the days ahead; the log goes last.
create or replace function grace._purge_work(target regclass)
returns grace._purge_item []
language sql stable
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(row(w.id, w.leaf, w.action)::grace._purge_item order by w.step, w.id, w.name), '{}')
  from (
    select p.id, l.leaf, l.name, a.step, a.action
    from grace_internal.protected p
    cross join lateral grace_internal.leaves(p.id) l
    cross join lateral (
      values
        (2, 'unlink', l.holds_files and (l.is_expired or l.is_partly_expired)),
        (case when l.holds_files then 3 else 1 end, 'empty', l.is_expired),
        (case when l.holds_files then 3 else 1 end, 'clear', l.is_partly_expired),
        (4, 'drop', l.is_expired)
    ) as a (step, action, applies)
    where a.applies and (_purge_work.target is null or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target))
    union all
    select p.id, null, null, s.step, s.action
    from grace_internal.protected p
    cross join (values (5, 'prepare'), (6, 'log')) as s (step, action)
    where _purge_work.target is null
      or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target)
  ) as w
$$;
comment on function grace._purge_work(regclass) is 'Internal: the pieces of a purge, in order.';

-- Does one slice; returns whether there is more of the same piece.
create or replace function grace._purge_slice(run bigint, item grace._purge_item)
returns boolean
language plpgsql
security definer -- the buffer and the log are granted to nobody for writing
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
  v_run grace_internal.run;
  v_rows bigint := 0;
  v_more boolean := false;
  v_leaf text := grace_internal.qualified_name(item.leaf);
begin
  select r.* into v_run
  from grace_internal.run r
  where r.id = run and r.kind = 'purge' and r.status = 'running';
  if not found then
    raise exception 'run % is no purge that is running', run
      using errcode = 'GR014', detail = 'Slices are done by grace.purge() only.', hint = 'call grace.purge();';
  end if;
  -- TRUNCATE is not MVCC-safe: a snapshot taken before the lock does not show every row that it removes.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a slice of a purge needs isolation level READ COMMITTED'
      using errcode = 'GR014',
      detail = 'In another one rows captured meanwhile would be removed with those that have expired.',
      hint = 'call grace.purge();';
  end if;
  begin
    if item.action in ('empty', 'clear', 'log') then
      lock table grace_internal.hold in share mode; -- what is held now is all that is held
    end if;
    case item.action
      when 'empty' then v_rows := grace_internal.empty_leaf(item.protected_id, item.leaf);
      when 'drop' then perform grace_internal.drop_expired_leaf(item.protected_id, item.leaf);
      when 'clear' then
        select c.row_count, c.more into v_rows, v_more
        from grace_internal.clear_leaf(item.protected_id, item.leaf, 5000) c;
        if v_leaf ~ '^grace_internal[.]f' then
          v_rows := 0; -- pieces of files are no rows of the table
        end if;
      when 'unlink' then v_more := grace_internal.unlink_expired(item.protected_id, item.leaf, 1000);
      when 'prepare' then v_more := grace_internal.prepare_buffer(item.protected_id);
      when 'log' then
        if not v_run.details ? 'left_for_next_run' then
          v_more := grace_internal.trim_log(item.protected_id, v_run.started_at, 5000);
        end if;
    end case;
  exception when others then
    -- One table's trouble must not keep the others past their retention. What it was is in the run, by its SQLSTATE (a
    -- message could hold values), and in the server's log.
    if sqlstate <> '55P03' then
      raise warning '% of % failed', item.action, coalesce(v_leaf, 'buffer ' || item.protected_id)
        using errcode = sqlstate, detail = sqlerrm;
    end if;
    update grace_internal.run r
    set details = jsonb_set(
      r.details, '{left_for_next_run}',
      coalesce(r.details -> 'left_for_next_run', '[]') || to_jsonb(concat_ws(' ', item.action, v_leaf, 'of', (
        select p.target_name from grace_internal.protected p where p.id = item.protected_id
      ), 'SQLSTATE ' || nullif(sqlstate, '55P03')))
    )
    where r.id = run;
    return false;
  end;
  if v_rows > 0 then
    update grace_internal.run r
    set
      row_count = r.row_count + v_rows,
      details = jsonb_set(r.details, '{tables}', coalesce(r.details -> 'tables', '{}') || (
        select jsonb_build_object(
          p.target_name, coalesce((r.details -> 'tables' ->> p.target_name)::bigint, 0) + v_rows
        )
        from grace_internal.protected p
        where p.id = item.protected_id
      ))
    where r.id = run;
  end if;
  return v_more;
end
$$;
comment on function grace._purge_slice(bigint, grace._purge_item) is 'Internal: one slice of a purge.';

-- Closes the run: done; incomplete where a lock was not free, so that another try may do; failed where something is wrong.
create or replace function grace._purge_end(run bigint)
returns void
language plpgsql
security definer -- writes run and ledger
set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
begin
  update grace_internal.run r
  set
    finished_at = clock_timestamp(),
    status = case
      when not r.details ? 'left_for_next_run' then 'done'
      when exists (
        select from jsonb_array_elements_text(r.details -> 'left_for_next_run') l where l like '%SQLSTATE%'
      ) then 'failed'
      else 'incomplete'
    end
  where r.id = run and r.kind = 'purge' and r.status = 'running' and r.pid = pg_backend_pid()
  returning r.status into v_status;
  if not found then
    return;
  end if;
  perform grace_internal.record_purge(run);
  if v_status = 'failed' then
    perform grace_internal.report_run(run);
  end if;
  perform grace_internal.trim_cron_log();
end
$$;
comment on function grace._purge_end(bigint) is 'Internal: closes the run of a purge.';
