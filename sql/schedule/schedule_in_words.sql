create or replace function grace_internal.enumeration(items text [])
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(
    ' and ',
    nullif(array_to_string(enumeration.items[:cardinality(enumeration.items) - 1], ', '), ''),
    enumeration.items[cardinality(enumeration.items)]
  )
$$;

-- Numbers that follow each other.
create or replace function grace_internal.runs(elements integer [])
returns table (first integer, last integer)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select min(r.n), max(r.n)
  from (select e.n, e.n - row_number() over (order by e.n) as run from unnest(runs.elements) as e (n)) as r
  group by r.run
  order by 1
$$;

-- 1, 3 and 5 to 7. labels: what to call the numbers from 1 on.
create or replace function grace_internal.numbers_in_words(elements integer [], labels text [] default '{}')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.enumeration(array_agg(i.item order by i.n))
  from grace_internal.runs(numbers_in_words.elements) as r
  cross join lateral (
    select
      s.n,
      coalesce(numbers_in_words.labels[s.n], s.n::text)
      || case when r.last - r.first > 1 then ' to ' || coalesce(numbers_in_words.labels[r.last], r.last::text) else '' end as item
    from generate_series(r.first, case when r.last - r.first > 1 then r.first else r.last end) as s (n)
  ) as i
$$;

-- What a schedule says of the time of day. kind: times of the clock, all the day long, or part of it.
create or replace function grace_internal.hours_in_words(minutes integer [], hours integer [], out words text, out kind text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step constant integer := coalesce(minutes[2], 60) - minutes[1];
  v_every constant text := case
    when minutes <> array(select s.n from generate_series(0, 59, v_step) as s (n)) or 60 % v_step <> 0 or v_step = 60 then null
    when v_step = 1 then 'every minute'
    else format('every %s minutes', v_step)
  end;
  v_at constant text := format(
    'at minute%s %s', case when cardinality(minutes) > 1 then 's' end, grace_internal.numbers_in_words(minutes)
  );
  v_hour_step constant integer := coalesce(hours[2], 24) - hours[1];
begin
  kind := case
    when cardinality(hours) = 24 then 'day'
    when cardinality(hours) * cardinality(minutes) <= 6 then 'clock'
    else 'part'
  end;
  words := case
    when kind = 'day' then coalesce(v_every, v_at || ' of every hour')
    when kind = 'clock' then 'at ' || grace_internal.enumeration(array(
      select to_char(make_time(h.n, m.n, 0), 'HH24:MI')
      from unnest(hours) as h (n) cross join unnest(minutes) as m (n)
      order by 1
    ))
    when v_every is not null then v_every || ' ' || grace_internal.enumeration(array(
      select 'from ' || to_char(make_time(r.first, 0, 0), 'HH24:MI')
        || ' to ' || to_char(make_time(r.last, minutes[cardinality(minutes)], 0), 'HH24:MI')
      from grace_internal.runs(hours) as r
    ))
    when cardinality(minutes) = 1
      and hours = array(select s.n from generate_series(hours[1], hours[cardinality(hours)], v_hour_step) as s (n))
      then format(
        'every %s from %s to %s', case when v_hour_step = 1 then 'hour' else v_hour_step || ' hours' end,
        to_char(make_time(hours[1], minutes[1], 0), 'HH24:MI'), to_char(make_time(hours[cardinality(hours)], minutes[1], 0), 'HH24:MI')
      )
    else format(
      '%s of hour%s %s', v_at, case when cardinality(hours) > 1 then 's' end, grace_internal.numbers_in_words(hours)
    )
  end;
end
$$;

-- What a schedule says of the days; 'every day' where it says nothing.
create or replace function grace_internal.days_in_words(
  days integer [], last_day boolean, months integer [], weekdays integer [], either_day boolean
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_month_names constant text [] := array[
    'January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'
  ];
  -- The week begins on Monday.
  v_weekdays constant integer [] := array(select coalesce(nullif(w.n, 0), 7) from unnest(weekdays) as w (n) order by 1);
  v_weekday_names constant text [] := array['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'];
  v_any_day constant boolean := cardinality(days) = 31;
  v_any_weekday constant boolean := cardinality(weekdays) = 7;
  v_many constant boolean := cardinality(days) > 1;
  v_in text;
  v_on text;
begin
  if cardinality(months) < 12 then
    v_in := case
      when cardinality(months) > 2 and months[cardinality(months)] - months[1] = cardinality(months) - 1
        then format('from %s to %s', v_month_names[months[1]], v_month_names[months[cardinality(months)]])
      else 'in ' || grace_internal.enumeration(array(select v_month_names[m.n] from unnest(months) as m (n) order by m.n))
    end;
  end if;
  if v_any_day and v_any_weekday or either_day and (v_any_day or v_any_weekday) then
    return concat_ws(' ', 'every day', v_in);
  end if;
  if v_any_day then
    return concat_ws(' ', v_in, 'every ' || grace_internal.numbers_in_words(v_weekdays, v_weekday_names));
  end if;
  v_on := case
    when last_day then 'on the last day'
    else format('on day%s %s', case when v_many then 's' end, grace_internal.numbers_in_words(days))
  end || case when v_in is null then ' of every month' else '' end;
  if days[1] > (select min(case when m.n = 2 then 28 when m.n in (4, 6, 9, 11) then 30 else 31 end) from unnest(months) as m (n)) then
    v_on := v_on || case
      when v_many then ' as far as there are such days'
      when v_in is null then ' that has it'
      else ' if there is such a day'
    end;
  end if;
  if either_day then
    v_on := v_on || ' or on any ' || array_to_string(array(select v_weekday_names[w.n] from unnest(v_weekdays) as w (n)), ' or ');
  elsif not v_any_weekday then
    v_on := v_on || ' if it is a ' || array_to_string(array(select v_weekday_names[w.n] from unnest(v_weekdays) as w (n)), ' or ');
  end if;
  return concat_ws(' ', v_in, v_on);
end
$$;

-- Errors: GR024 for what is no schedule.
create or replace function grace.schedule_in_words(schedule text)
returns text
language plpgsql stable
security definer -- calls what is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule record;
  v_time record;
  v_days text;
begin
  v_schedule := grace_internal.read_schedule(schedule);
  v_time := grace_internal.hours_in_words(v_schedule.minutes, v_schedule.hours);
  v_days := grace_internal.days_in_words(
    v_schedule.days, v_schedule.last_day, v_schedule.months, v_schedule.weekdays, v_schedule.either_day
  );
  return case
    when v_time.kind = 'clock' and v_days like 'every day%' then v_days || ' ' || v_time.words
    when v_time.kind = 'clock' then v_time.words || ' ' || v_days
    when v_time.kind = 'day' and v_days = 'every day' then v_time.words
    else v_time.words || ', ' || v_days
  end;
end
$$;
comment on function grace.schedule_in_words(text) is
'A schedule (cron syntax, as pg_cron reads it) in English: "every day at 00:05". Of the time zone it says nothing. Errors: GR024.';
