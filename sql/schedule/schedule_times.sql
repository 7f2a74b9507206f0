-- Errors: GR024 for what is no schedule, 22023 for times that can't be counted.
create or replace function grace.schedule_times(
  schedule text, count integer default 3, after timestamptz default clock_timestamp(), zone text default null
)
returns setof timestamptz
language plpgsql stable
security definer -- calls what is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule record;
  v_zone constant text := coalesce(zone, grace_internal.schedule_zone());
  v_left integer := count;
  v_last timestamptz := after;
  -- The clock can be put back or forward over midnight.
  v_first_day constant date := (after at time zone v_zone)::date - 1;
  v_month date := date_trunc('month', v_first_day);
  v_day date;
  v_time timestamptz;
begin
  v_schedule := grace_internal.read_schedule(schedule);
  if count is null or count < 0 or after is null or not isfinite(after) then
    raise exception 'these times can''t be counted: % after %', coalesce(count::text, 'null'), coalesce(after::text, 'null')
      using errcode = '22023', detail = 'count must be a number from 0 on, after a moment.',
      hint = 'For the next three times leave both out.';
  end if;
  while v_left > 0 loop
    if extract(month from v_month) = any (v_schedule.months) then
      foreach v_day in array grace_internal.scheduled_days(
        v_month, v_schedule.days, v_schedule.last_day, v_schedule.weekdays, v_schedule.either_day
      ) loop
        continue when v_day < v_first_day;
        foreach v_time in array grace_internal.scheduled_times(v_day, v_schedule.minutes, v_schedule.hours, v_zone) loop
          continue when v_time <= v_last;
          return next v_time;
          v_last := v_time;
          v_left := v_left - 1;
          exit when v_left = 0;
        end loop;
        exit when v_left = 0;
      end loop;
    end if;
    v_month := v_month + interval '1 month';
  end loop;
end
$$;
comment on function grace.schedule_times(text, integer, timestamptz, text) is
'The next times of a schedule (cron syntax, as pg_cron reads it), strictly after a moment, in order. zone: the time zone its hours are meant in, pg_cron''s own '
'unless given. When the clock is changed, a time that is skipped is the moment of the jump, and one that comes twice is meant once, the first time. Errors: GR024, 22023.';
