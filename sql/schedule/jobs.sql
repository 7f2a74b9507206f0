-- What runs by itself, and how it last went: as pg_cron says it where pg_cron is in this database, else as the runs do.
create or replace function grace.jobs()
returns table (
  job text, schedule text, in_words text, zone text, next_start timestamptz, scheduler text, login text, active boolean,
  last_start timestamptz, last_status text, last_duration interval, last_message text, failures bigint, ticked_at timestamptz, rule text
)
language plpgsql stable
security definer -- row security in pg_cron shows each role its own jobs only
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_cron text := 'select null::text as job, null::text as schedule, null::text as login, null::boolean as active, '
    'null::timestamptz as last_start, null::text as last_status, null::interval as last_duration, null::text as last_message, '
    'null::bigint as failures where false';
  v_elsewhere boolean := coalesce(grace_internal.cron_database() not in ('', current_database()), false);
begin
  if grace_internal.has_cron() and not v_elsewhere then
    v_cron := grace_internal.cron_query();
  end if;
  return query execute format(
    $q$select
      j.name, coalesce(c.schedule, j.schedule),
      case when c.schedule is null or c.schedule = j.schedule then grace.schedule_in_words(j.schedule) end,
      grace_internal.schedule_zone(), case when c.job is null or c.active then t.next_start end,
      case
        when c.job is not null then 'pg_cron'
        when (select max(a.claimed_at) from grace_internal.job a) > clock_timestamp() - interval '2 days' then 'tick'
        when $1 then 'pg_cron elsewhere'
      end,
      c.login, c.active,
      case when c.job is null then coalesce(r.started_at, case j.name when 'watch' then j.claimed_at end) else c.last_start end,
      case when c.job is null then r.status else c.last_status end,
      case when c.job is null then r.finished_at - r.started_at else c.last_duration end,
      c.last_message, coalesce(c.failures, 0), j.claimed_at,
      (select l.name from grace_internal.rule l where l.id = j.rule_id)
    from grace_internal.job j
    left join (%s) as c on c.job = j.name
    left join lateral (
      select u.started_at, u.finished_at, u.status
      from grace.runs u
      where u.job = j.name and u.kind in (j.name, 'rule')
      order by u.id desc
      limit 1
    ) as r on true
    left join lateral (
      select min(n) as next_start from grace.schedule_times(j.schedule, 1) n where c.schedule is null or c.schedule = j.schedule
    ) as t on true
    where grace_internal.is_active(j)
    order by j.name$q$,
    v_cron
  )
  using v_elsewhere;
end
$$;
comment on function grace.jobs() is
'What runs by itself: schedule, in words, next start; which scheduler runs it (pg_cron; tick; pg_cron elsewhere: in another database of the cluster, which pg_grace status looks into; null: none), as whom, how it last went, how often in a row it has failed, when a tick last took it, and the rule that it runs.';
