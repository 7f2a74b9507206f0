-- The time zone of pg_cron's schedules: cron.timezone, which only pg_cron 1.5 and later has. What a session has set by that name elsewhere
-- is in no view, nor is it for a role that may not read it.
create or replace function grace_internal.schedule_zone()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('cron.timezone', true) is null then
    return 'GMT'; -- the view takes its time
  end if;
  return coalesce((select s.setting from pg_settings s where s.name = 'cron.timezone' and s.setting <> ''), 'GMT');
end
$$;
