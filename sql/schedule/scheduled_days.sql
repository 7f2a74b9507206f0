-- The days of a month on which a schedule fires, in order. In PL/pgSQL, which keeps its plan.
create or replace function grace_internal.scheduled_days(
  month date, days integer [], last_day boolean, weekdays integer [], either_day boolean
)
returns date []
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(array_agg(d.day order by d.day), '{}')
    from (
      select
        n.day,
        extract(day from n.day) = any (scheduled_days.days)
        or scheduled_days.last_day and extract(day from n.day + 1) = 1 as by_month,
        extract(dow from n.day) = any (scheduled_days.weekdays) as by_week
      from (select scheduled_days.month + s.n as day from generate_series(0, 30) as s (n)) as n
      where extract(month from n.day) = extract(month from scheduled_days.month)
    ) as d
    where case when scheduled_days.either_day then d.by_month or d.by_week else d.by_month and d.by_week end
  );
end
$$;
