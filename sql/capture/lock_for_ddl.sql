-- Locks all of the tables against writers, or none of them: each attempt waits at most 100 ms for a lock, so that
-- nobody queues behind us for longer, and gives back what it has got before it rests. Says about once a second what it
-- waits for. Errors: GR006 when max_wait has passed.
create or replace function grace_internal.lock_for_ddl(tables oid [], mode text, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := clock_timestamp() + coalesce(max_wait, interval '60 seconds');
  v_next_notice timestamptz := clock_timestamp();
  v_before text := current_setting('lock_timeout');
  v_statement text;
  v_holders text;
begin
  select format('lock table %s in %s mode', string_agg(grace_internal.qualified_name(t), ', ' order by t), mode)
  into v_statement
  from unnest(tables) t;

  loop
    begin
      perform set_config('lock_timeout', '100ms', true);
      execute v_statement;
      perform set_config('lock_timeout', v_before, true);
      return;
    exception when lock_not_available then
      v_holders := grace_internal.lock_holders(tables);
    end;
    if clock_timestamp() >= v_until then
      raise exception 'no lock to be had on % within %',
        (select string_agg(grace_internal.qualified_name(t), ', ' order by t) from unnest(tables) t), max_wait
        using errcode = 'GR006',
        detail = coalesce('Held by ' || v_holders, 'The holder was gone at the last look.'),
        hint = 'Nothing has changed. Try again when these transactions have ended, or wait longer.';
    end if;
    if clock_timestamp() >= v_next_notice then
      raise notice 'waiting for a lock%', coalesce(', held by ' || v_holders, '');
      v_next_notice := clock_timestamp() + interval '1 second';
    end if;
    perform pg_sleep(0.1 + random() * 0.2);
  end loop;
end
$$;

create or replace function grace_internal.lock_holders(tables oid [])
returns text
language sql
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      'process %s (%s) on %s', l.pid,
      concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
        'transaction of ' || date_trunc('second', clock_timestamp() - a.xact_start)),
      grace_internal.qualified_name(l.relation)
    ), '; ' order by l.pid
  )
  from (
    select distinct on (l.pid) l.pid, l.relation
    from pg_locks l
    where l.locktype = 'relation'
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation = any (tables)
      and l.granted
      and l.pid <> pg_backend_pid()
      and l.mode not in ('AccessShareLock', 'RowShareLock')
  ) as l
  left join pg_stat_activity a on a.pid = l.pid
$$;
