-- The moments at which a clock shows a time: two in the hour that is repeated when it is put back, none in the one that is skipped
-- when it is put forward. skipped: the moment of that jump.
create or replace function grace_internal.moments(
  local_time timestamp, zone text, out moments timestamptz [], out skipped timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  -- PostgreSQL takes the later of two moments, and counts on from before the jump where there is none.
  v_late constant timestamptz := local_time at time zone zone;
  v_day_before constant timestamptz := v_late - interval '24 hours';
  v_early constant timestamptz := v_late - (
    (v_day_before at time zone zone) - (v_day_before at time zone 'UTC') - ((v_late at time zone zone) - (v_late at time zone 'UTC'))
  );
  v_before timestamptz;
  v_between timestamptz;
begin
  if v_late at time zone zone = local_time then
    moments := array(
      select m.moment from (values (v_early), (v_late)) as m (moment)
      where m.moment <= v_late and m.moment at time zone zone = local_time
      group by m.moment
      order by m.moment
    );
    return;
  end if;
  v_before := v_late - ((v_late at time zone zone) - local_time);
  skipped := v_late;
  while skipped - v_before > interval '1 second' loop
    v_between := v_before + make_interval(secs => floor(extract(epoch from skipped - v_before) / 2));
    if (v_between at time zone zone) - (v_between at time zone 'UTC') = (skipped at time zone zone) - (skipped at time zone 'UTC') then
      skipped := v_between;
    else
      v_before := v_between;
    end if;
  end loop;
end
$$;

-- The moments of a day at which a schedule fires, in order. When the clock is changed, what is scheduled for every hour comes in every
-- hour that passes; else a time that comes twice is meant once, the first time, and one that is skipped is the moment of the jump.
create or replace function grace_internal.scheduled_times(day date, minutes integer [], hours integer [], zone text)
returns timestamptz []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_midnights constant timestamptz [] := array[
    (day - 1)::timestamp at time zone zone, day::timestamp at time zone zone,
    (day + 1)::timestamp at time zone zone, (day + 2)::timestamp at time zone zone
  ];
  v_every_hour constant boolean := cardinality(hours) = 24;
begin
  if interval '24 hours' = all (array[
    v_midnights[2] - v_midnights[1], v_midnights[3] - v_midnights[2], v_midnights[4] - v_midnights[3]
  ]) then
    return array(
      select v_midnights[2] + make_interval(hours => h.n, mins => m.n)
      from unnest(hours) as h (n) cross join unnest(minutes) as m (n)
      order by 1
    );
  end if;
  return array(
    select distinct c.moment
    from unnest(hours) as h (n)
    cross join unnest(minutes) as m (n)
    cross join grace_internal.moments(day + make_interval(hours => h.n, mins => m.n), zone) as t
    cross join unnest(
      case when v_every_hour then t.moments else array[coalesce(t.moments[1], t.skipped)] end
    ) as c (moment)
    order by 1
  );
end
$$;
