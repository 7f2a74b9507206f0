-- One function per kind of trouble, each a query over the catalog; grace.doctor() puts them together. A severity of "note" says
-- what is as it has to be here, and what that means.
-- Whether the only relations of a table without capture triggers are partitions from which rows are captured one by one.
create or replace function grace_internal.is_guarded(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = is_guarded.protected_id
      and not grace_internal.has_capture_triggers(t.relation, p.id)
      and not t.relation in (select grace_internal.guarded_leaves(p.id))
  )
$$;

create or replace function grace_internal.check_tables()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with protected as (
    select
      p.*, -- what it is called now: without event triggers nobody has noticed yet that it was renamed
      coalesce(grace_internal.qualified_name(p.target), p.target_name) as name,
      exists (select from pg_class c where c.oid = p.target) as is_there
    from grace_internal.protected p
    where p.active
  )
  select
    'problem', 'triggers', p.name,
    case
      when s.state = 'disabled' then 'a capture trigger is disabled or does not fire always: deletes are lost'
      when grace_internal.is_guarded(p.id) then
        'a new partition has no capture triggers yet: its deletes are captured row by row, TRUNCATE of it alone is not captured'
      else 'the table, or a partition of it, has no capture trigger: deletes are lost'
    end,
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral (select grace_internal.trigger_state(p.id) as state) s
  where s.state in ('disabled', 'missing')
  union all
  select
    'problem', 'files', p.name, 'the trigger that keeps large objects is missing or disabled: their content is lost',
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  where p.is_there
    and exists (select from grace_internal.file_columns(p.id, 'large object'))
    and exists (
      select
      from grace_internal.partition_tree(p.target) as t (relation)
      where not grace_internal.has_file_trigger(t.relation, p.id)
    )
  union all
  select
    'problem', 'links', grace_internal.qualified_name(u),
    format('the trigger that remembers links to %s is missing or disabled: what a deletion cuts can''t be tied again', p.name),
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral grace_internal.unlinked(p.id) u
  where p.is_there
  union all
  select
    'note', 'links', p.name, grace_internal.link_warning(p.id),
    'Restored rows come back without them. Where a primary key is missing: add one.', false
  from protected p
  where p.is_there and grace_internal.link_warning(p.id) is not null
  union all
  select
    'problem', 'columns', p.name, 'its columns have changed since its buffer was last brought up to date',
    'The next delete follows them. To do it now: pg_grace doctor --fix', true
  from protected p
  where p.is_there and grace_internal.columns_changed(p.id)
  union all
  select
    'problem', 'cascade', grace_internal.qualified_name(u),
    format('it has come to lose rows with %s, or to inherit from it: deletes from there fail with GR019', p.name),
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral grace_internal.uncovered_tables(p.id) u
  union all
  select
    'problem', 'cascade', grace_internal.qualified_name(u),
    format('deleting from %s cascades into it, and those rows are lost', p.name),
    format(
      'select * from grace.protect(%L); or, if that is meant so: select * from grace.protect(%L, cascade => false);',
      grace_internal.qualified_name(u), p.name
    ), false
  from protected p
  cross join lateral unnest(p.uncovered) u
  where p.follows_cascades
    and u in (select grace_internal.cascade_children(p.target))
    and not exists (select from protected o where o.target = u)
  union all
  select
    'note', 'dropped', p.target_name,
    'the table was dropped; what is buffered of it stays until it expires',
    format('Nothing to do. It can be read in %s.', format('grace_buffer.%I', p.buffer)), false
  from grace_internal.protected p
  where not exists (select from pg_class c where c.oid = p.target)
  union all
  select
    'note', 'row security', grace_internal.qualified_name(t.relation),
    'FORCE ROW LEVEL SECURITY hides rows from the owner of pg_grace: TRUNCATE is refused',
    format('Nothing to do, or: alter role %I bypassrls;', current_user), false
  from protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.is_there and row_security_active(t.relation)
  union all
  select
    'problem', 'rights', p.name,
    format(
      'role %I, which owns pg_grace, %s: new partitions can''t be covered', current_user,
      case when pg_has_role(c.relowner, 'usage') then 'may no longer create triggers on it' else 'is no member of its owner' end
    ),
    case
      when pg_has_role(c.relowner, 'usage') then format('As its owner: grant trigger on %s to %I;', p.name, current_user)
      when r.rolsuper then format('As superuser: alter table %s owner to %I;', p.name, current_user)
      else format('grant %I to %I;', r.rolname, current_user)
    end, false
  from protected p
  join pg_class c on c.oid = p.target
  join pg_roles r on r.oid = c.relowner
  where not pg_has_role(c.relowner, 'usage') or not has_table_privilege(p.target, 'TRIGGER')
$$;

-- A foreign key without an index on its columns makes PostgreSQL read the whole table for each deleted row.
create or replace function grace_internal.check_indexes()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'foreign key', grace_internal.qualified_name(c.conrelid),
    format(
      'no index begins with the columns of %I, so each row deleted from %s reads all of it', c.conname,
      grace_internal.qualified_name(p.target)
    ),
    format(
      'create index %s on %s (%s);',
      case r.relkind when 'r' then 'concurrently' end, -- PostgreSQL can't for a partitioned table
      grace_internal.qualified_name(c.conrelid),
      (select string_agg(quote_ident(n), ', ') from unnest(grace_internal.column_names(c.conrelid, c.conkey)) n)
    ), false
  from pg_constraint c
  join pg_class r on r.oid = c.conrelid
  join grace_internal.protected p on p.target = coalesce(pg_partition_root(c.confrelid), c.confrelid::regclass) and p.active
  where c.contype = 'f' and c.conparentid = 0
    and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and grace_internal.unindexed_size(c.oid) >= 65536 -- smaller ones are read in no time
$$;

create or replace function grace_internal.check_buffers()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
  v_rows boolean;
begin
  for v_stem in
    select coalesce(grace_internal.qualified_name(p.target), p.target_name) as name, s.stem, c.oid is not null as is_there
    from grace_internal.protected p
    cross join lateral grace_internal.stems(p.id) s
    left join pg_class c on c.oid = p.target
    where p.active
    order by p.id, s.stem
  loop
    if v_stem.is_there and exists (select from grace_internal.missing_partitions(v_stem.stem, 3)) then
      return next row(
        'problem', 'partitions', v_stem.name, 'the buffer lacks a partition for one of the next three days: no purge makes them',
        'See to the purge; deletes go to the default partition meanwhile. To make them now: pg_grace doctor --fix', true
      )::grace.finding;
    end if;
    if exists (
      select from pg_constraint k
      where k.conrelid = to_regclass(format('grace_internal.%I', v_stem.stem || '_default')) and k.conname ~ '^days_'
    ) then
      return next row(
        'problem', 'default partition', v_stem.name,
        'a purge was interrupted while it made a leaf of the default partition; its constraint could come to refuse deletes',
        'pg_grace doctor --fix, or let the next purge do it', true
      )::grace.finding;
      continue;
    end if;
    execute format('select exists (select from grace_internal.%I)', v_stem.stem || '_default') into v_rows;
    if v_rows then
      return next row(
        'problem', 'default partition', v_stem.name,
        'the default partition holds rows, because a day had no partition when they were deleted',
        'Nothing is lost, and they expire there. See that the purge runs every night.', false
      )::grace.finding;
    end if;
  end loop;
  return query
    select
      'problem', 'buffer', coalesce(grace_internal.qualified_name(p.target), p.target_name),
      'its buffer is gone: deletes from it fail, and what was buffered can only come from a backup',
      format('select grace.unprotect(%1$L, ''discard''); then: select * from grace.protect(%1$L);', p.target_name), false
    from grace_internal.protected p
    where p.active and to_regclass(format('grace_buffer.%I', p.buffer)) is null;
  return query
    select
      'problem', 'rights', grace_internal.qualified_name(a.relation),
      format('%s has %s on it', coalesce(r.rolname, 'PUBLIC'), string_agg(distinct a.privilege, ', ' order by a.privilege)),
      format(
        'revoke all on %s%s from %s;', case c.relkind when 'S' then 'sequence ' end,
        grace_internal.qualified_name(a.relation), coalesce(quote_ident(r.rolname), 'public')
      ), false
    from (
      select o.oid, x.grantee, x.privilege_type from pg_class o cross join lateral aclexplode(o.relacl) x
      union all
      select o.attrelid, x.grantee, x.privilege_type from pg_attribute o cross join lateral aclexplode(o.attacl) x
    ) as a (relation, grantee, privilege)
    join pg_class c on c.oid = a.relation
    left join pg_roles r on r.oid = a.grantee
    where (c.relnamespace = 'grace_buffer'::regnamespace or c.relnamespace = 'grace_internal'::regnamespace)
      and a.grantee <> c.relowner
      and not (
        r.rolname is not null and r.rolname = 'grace_operator'
        and (c.relkind = 'S' or (c.relnamespace = 'grace_buffer'::regnamespace and a.privilege = 'SELECT'))
      )
    group by a.relation, c.relkind, r.rolname;
end
$$;

create or replace function grace_internal.check_server()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'event triggers', null, 'the event triggers are missing or disabled: DDL is followed late, DROP TABLE is not refused',
    'pg_grace doctor --fix', true
  from pg_roles r
  where r.rolname = current_user and r.rolsuper and not grace_internal.has_event_triggers()
  union all
  select
    'note', 'event triggers', null,
    format('role %I, which owns pg_grace, is no superuser, so there are no event triggers', current_user),
    'After a new partition, inheritance or cascading foreign key run pg_grace sync; the nightly purge does so as well.', false
  from pg_roles r
  where r.rolname = current_user and not r.rolsuper
  union all
  select
    'problem', 'session_replication_role', coalesce(r.rolname, 'all roles') || coalesce(' in ' || d.datname, ''),
    'set to replica by default: foreign keys don''t cascade there, so children stay behind; deletes are captured all the same',
    format(
      'alter role %s reset session_replication_role;',
      concat(coalesce(quote_ident(r.rolname), 'all'), ' in database ' || quote_ident(d.datname))
    ), false
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
  where exists (select from unnest(s.setconfig) c where lower(c) = 'session_replication_role=replica')
    and (s.setdatabase = 0 or d.datname = current_database())
  union all
  select
    'problem', 'session_replication_role', 'server',
    'the configuration sets it to replica: foreign keys don''t cascade, so children stay behind; deletes are captured all the same',
    'Take it out of postgresql.conf (or: alter system reset session_replication_role;) and reload.', false
  from pg_settings s
  where s.name = 'session_replication_role' and s.reset_val = 'replica' and s.source in ('configuration file', 'command line')
  union all
  select
    'note', 'subscription', p.target_name,
    'a subscription writes to it: what is deleted on the publisher is not captured here, what TRUNCATE removes is',
    'Protect it on the publisher.', false
  from grace_internal.protected p
  where p.active and exists (
    select from pg_subscription_rel s join grace_internal.partition_tree(p.target) as t (relation) on t.relation = s.srrelid
  )
  union all
  select
    'problem', 'publication', b.pubname, 'it publishes the buffers, and a subscriber that has no such tables stops with an error',
    'Publish the application''s tables by name or by schema; FOR ALL TABLES takes in those of pg_grace.', false
  from pg_publication b
  where b.puballtables
    or exists (
      select from pg_publication_namespace n
      where n.pnpubid = b.oid and n.pnnspid in ('grace_buffer'::regnamespace, 'grace_internal'::regnamespace)
    )
$$;

-- Whether pg_cron's job for each of ours is there and works; asked of what was read in the database that pg_cron is in.
create or replace function grace._check_jobs(jobs jsonb)
returns setof grace.finding
language sql stable
security definer -- reads the jobs
set search_path = pg_catalog, pg_temp
as $$
  select 'problem', 'schedule', grace_internal.cron_name(j.name), f.finding, f.hint, f.fixable
  from grace_internal.job j
  left join jsonb_to_recordset(jobs) as c (
    job text, schedule text, command text, login text, active boolean, may_login boolean, last_start timestamptz, last_status text,
    last_message text, failures bigint
  ) on c.job = j.name
  cross join (select grace_internal.job_owner() as owner) as o
  cross join lateral (
    values
      (c.job is null, 'the pg_cron job is missing, or belongs to another database', 'pg_grace doctor --fix', true),
      (
        c.login <> o.owner, format('the job belongs to role %s, not to %I, who owns pg_grace', quote_ident(c.login), o.owner),
        'pg_grace doctor --fix', true
      ),
      (
        c.login = o.owner and not c.may_login, format('the job''s role %I may not log in, so pg_cron can''t run it', o.owner),
        format('alter role %I login; or install pg_grace as a role that may.', o.owner), false
      ),
      (
        not c.active, 'the pg_cron job is switched off',
        format('select cron.alter_job(jobid, active => true) from cron.job where jobname = %L;', grace_internal.cron_name(j.name)),
        false
      ),
      (
        c.schedule <> j.schedule, format('pg_cron runs it at "%s", which was set past pg_grace', c.schedule),
        format('pg_grace doctor --fix sets it to "%s"; or: pg_grace schedule %s "%s"', j.schedule, j.name, c.schedule), true
      ),
      (
        c.command <> grace_internal.job_command(j), format('pg_cron runs something else for it: %s', c.command),
        'pg_grace doctor --fix', true
      ),
      (
        c.last_status = 'failed' and (c.failures > 1 or not exists (
          select from grace_internal.run r
          where r.job = j.name and r.kind = j.name and r.status = 'done' and r.finished_at > c.last_start
        )),
        format(
          case when c.failures > 1 then 'it has failed %1$s times in a row, ' else '' end || 'the last run failed at %2$s: %3$s',
          c.failures, to_char(c.last_start, 'YYYY-MM-DD HH24:MI TZ'), c.last_message
        ),
        format('See the server''s log; run it by hand: call grace.%s()', j.name), false
      )
  ) as f (applies, finding, hint, fixable)
  where f.applies and grace_internal.is_active(j)
$$;
comment on function grace._check_jobs(jsonb) is 'Internal: what is wrong with pg_cron''s jobs, as they were read where pg_cron is.';

create or replace function grace_internal.check_schedule()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
  v_jobs jsonb;
  v_ran boolean;
begin
  return query
    select 'problem', 'purge', null,
      coalesce('the last purge that ended was at ' || to_char(max(r.finished_at), 'YYYY-MM-DD HH24:MI TZ'), 'no purge has ever run'),
      'Call it now: pg_grace purge. ' || coalesce(v_obstacle, 'Then see why the job does not run.'), false
    from grace_internal.run r
    where r.kind = 'purge' and r.status in ('done', 'incomplete', 'failed')
    having coalesce(max(r.finished_at), '-infinity') < clock_timestamp() - interval '2 days'
      and (select min(p.protected_at) from grace_internal.protected p) < clock_timestamp() - interval '2 days';
  return query
    select 'problem', 'purge', 'run ' || r.id,
      case r.status
        when 'failed' then 'the last purge failed in part'
        else 'purges have left something over for more than a day'
      end,
      'Its details say what was locked or failed: select details from grace.runs; the server''s log has the messages.', false
    from (
      select u.* from grace_internal.run u where u.kind = 'purge' and u.status <> 'running' order by u.id desc limit 1
    ) as r
    where r.status = 'failed' or (
      r.status = 'incomplete'
      and not exists (
        select from grace_internal.run d
        where d.kind = 'purge' and d.status = 'done' and d.finished_at > clock_timestamp() - interval '25 hours'
      )
      and exists (
        select from grace_internal.run d
        where d.kind = 'purge' and d.status = 'incomplete' and d.finished_at < clock_timestamp() - interval '23 hours'
      )
    );
  return query
    select 'problem', 'schedule', 'purge',
      format('it runs %s, so that what has expired stays for longer than a day', grace.schedule_in_words(j.schedule)),
      'Let it run every day: pg_grace schedule purge "0 0 * * *"', false
    from grace_internal.job j
    where j.name = 'purge' and grace_internal.is_rare(j.schedule);

  v_ran := exists (
    select from grace_internal.run r
    where r.kind = 'purge' and r.status <> 'aborted' and r.finished_at > clock_timestamp() - interval '2 days'
  );
  if v_obstacle is not null then
    if (select max(j.claimed_at) from grace_internal.job j) > clock_timestamp() - interval '2 days' then
      return; -- ticks do it
    end if;
    return next row(
      case when v_ran then 'note' else 'problem' end, 'schedule', null,
      case
        when coalesce(grace_internal.cron_database() not in ('', current_database()), false)
          then 'pg_cron works from another database, which can''t be seen from here'
        else 'pg_cron runs no job for this database'
      end,
      v_obstacle, false
    )::grace.finding;
    return;
  end if;
  execute format('select coalesce(jsonb_agg(to_jsonb(c)), ''[]'') from (%s) as c', grace_internal.cron_query()) into v_jobs;
  return query select * from grace._check_jobs(v_jobs);
  if pg_has_role('pg_read_all_stats', 'usage') and not exists (
    select from pg_stat_activity a where a.backend_type like 'pg_cron%' or a.application_name like 'pg_cron%'
  ) then
    return next row(
      'problem', 'schedule', 'pg_cron', 'pg_cron''s launcher does not run: no job runs on this server',
      'The server''s log says why it did not start (max_worker_processes?); on a standby that is as it has to be.', false
    )::grace.finding;
  end if;
end
$$;

-- Whether what a capacity allows is enough for the retention.
create or replace function grace_internal.check_capacity()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'capacity', p.target_name,
    format(
      'the buffer was over its capacity: what was deleted up to %s has expired early, after %s of %s',
      to_char(p.evicted_to, 'YYYY-MM-DD HH24:MI TZ'),
      to_char(extract(epoch from clock_timestamp() - p.evicted_to) / 86400, 'FM99990.0') || ' days', p.retention
    ),
    'Raise it or shorten the retention: select grace.set_capacity(…); select grace.set_retention(…);', false
  from grace_internal.protected p
  where p.evicted_to > clock_timestamp() - p.span
    and exists (
      select from grace_internal.run r
      where r.kind = 'capacity' and r.row_count > 0 and r.details ->> 'table' = p.target_name
        and r.started_at > clock_timestamp() - p.span
    )
  union all
  select
    'problem', 'capacity', p.target_name,
    format('what the buffer holds has %s and may have %s', pg_size_pretty(f.size), pg_size_pretty(p.capacity)),
    'The next purge lets its oldest days go early, the day in progress never. To keep the retention, raise the capacity.', false
  from grace_internal.protected p
  cross join lateral (select sum(l.size)::bigint as size from grace_internal.filled_leaves(array[p.id]) l) as f
  where p.capacity is not null and f.size > p.capacity
  union all
  select
    'problem', 'capacity', null,
    format('what the buffers hold has %s and may have %s', pg_size_pretty(f.size), pg_size_pretty(grace_internal.total_capacity())),
    'The next purge lets their oldest days go early, the day in progress never. To keep the retention, raise the capacity.', false
  from (
    select sum(l.size)::bigint as size
    from grace_internal.filled_leaves(
      array(select p.id from grace_internal.protected p where grace_internal.total_capacity() is not null)
    ) l
  ) as f
  where f.size > grace_internal.total_capacity()
$$;

-- Entries that were changed by hand.
create or replace function grace_internal.check_ledger()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'problem', 'ledger', 'entry ' || v.id, v.finding, 'Compare with a backup: select * from grace.verify_ledger();', false
  from grace.verify_ledger() v
$$;

-- Holds that don't find their record any more, and what they keep past its retention.
create or replace function grace_internal.check_holds()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_hold record;
  v_finding text;
begin
  for v_hold in
    select h.id, h.protected_id, h.key_values, h.key, h.is_live, p.target_name as name, grace_internal.hold_names(h.*) as names
    from grace_internal.active_hold h
    join grace_internal.protected p on p.id = h.protected_id
    order by h.id
  loop
    begin
      v_finding := case
        when v_hold.names is null then
          format('hold %s on %s can''t be matched with its rows any more: nothing can be deleted from it', v_hold.id, v_hold.key)
        when v_hold.is_live
          and grace_internal.find_live(v_hold.protected_id, v_hold.names, v_hold.key_values) is distinct from v_hold.key_values
        then format(
          'the record of hold %s, %s, is no longer in the table: its key was changed, its partition detached, or it went past pg_grace',
          v_hold.id, v_hold.key
        )
      end;
    exception when sqlstate 'GR010' then
      v_finding := format('whether the record of hold %s is still there can''t be looked up: %s', v_hold.id, sqlerrm);
    end;
    if v_finding is not null then
      return next row(
        'problem', 'hold', v_hold.name, v_finding,
        format('Hold the record as it is now: select grace.hold(…); then: select grace.release(%s, ''reason'');', v_hold.id), false
      )::grace.finding;
    end if;
  end loop;
  return query
    select
      'note', 'hold', p.target_name, format('holds keep %s rows of it in the buffer past their retention', sum(c.row_count)),
      'As it has to be. To see them: select grace.held_rows(id) from grace.holds where is_active;', false
    from grace_internal.capture c
    join grace_internal.protected p on p.id = c.protected_id
    where c.kept and c.deleted_at <= grace._expired_before(p.id)
    group by p.id;
end
$$;

create or replace function grace.doctor()
returns setof grace.finding
language sql stable
security definer -- reads the registry and other roles' jobs
set jit = off -- takes seconds to compile what takes milliseconds
set search_path = pg_catalog, pg_temp
as $$
  select f.*
  from (
    select * from grace_internal.check_tables()
    union all
    select * from grace_internal.check_buffers()
    union all
    select * from grace_internal.check_schedule()
    union all
    select * from grace_internal.check_capacity()
    union all
    select * from grace_internal.check_ledger()
    union all
    select * from grace_internal.examine_rules()
    union all
    select * from grace_internal.examine_overlaps()
    union all
    select * from grace_internal.examine_neighbours()
    union all
    select * from grace_internal.examine_personal_columns()
    union all
    select * from grace_internal.check_holds()
    union all
    select * from grace_internal.check_server()
    union all
    select * from grace_internal.check_indexes()
  ) as f
  order by f.severity desc, f.subject, f.object
$$;
comment on function grace.doctor() is
'Looks for what keeps pg_grace from doing its work, and says what to do: triggers disabled or missing, columns that have changed, tables that lose rows unprotected, foreign keys without an index, session_replication_role, pg_cron, partitions, rights, publications, holds that don''t find their record; filters and rules that no longer say what was meant, wait for approval, lack an index or contradict each other; columns that look personal and have no rule. Reads the catalog only, and what is held. grace.sync() does what is fixable. Notes are no problems. For rows changed by hand see grace.verify_buffer().';
