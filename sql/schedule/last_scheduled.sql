-- The latest time of a schedule that is after one moment and not after another; null when there is none.
-- Errors: GR024 for what is no schedule.
create or replace function grace_internal.last_scheduled(
  schedule text, before timestamptz, not_before timestamptz, zone text default null
)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule record;
  v_zone constant text := coalesce(zone, grace_internal.schedule_zone());
  -- The clock can be put back or forward over midnight.
  v_last_day constant date := (before at time zone v_zone)::date + 1;
  v_first_day constant date := (not_before at time zone v_zone)::date - 1;
  v_month date := date_trunc('month', v_last_day);
  v_days date [];
  v_time timestamptz;
begin
  v_schedule := grace_internal.read_schedule(schedule);
  if not isfinite(before) then
    raise exception 'before is %, which is no moment', before
      using errcode = '22023', detail = 'There is no latest time before it.', hint = 'Give a moment.';
  end if;
  while v_month >= date_trunc('month', v_first_day) loop
    if extract(month from v_month) = any (v_schedule.months) then
      v_days := grace_internal.scheduled_days(
        v_month, v_schedule.days, v_schedule.last_day, v_schedule.weekdays, v_schedule.either_day
      );
      for v_number in reverse cardinality(v_days)..1 loop
        continue when v_days[v_number] > v_last_day;
        v_time := (
          select max(t.moment)
          from unnest(
            grace_internal.scheduled_times(v_days[v_number], v_schedule.minutes, v_schedule.hours, v_zone)
          ) as t (moment)
          where t.moment <= before
        );
        if v_time is not null then
          return case when v_time > not_before then v_time end;
        end if;
      end loop;
    end if;
    v_month := v_month - interval '1 month';
  end loop;
  return null;
end
$$;
