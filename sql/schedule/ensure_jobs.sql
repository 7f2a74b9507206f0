-- Makes pg_cron's jobs what they should be, or says in words why there are none and which setting is missing.
create or replace function grace_internal.ensure_jobs()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
  v_statement text;
begin
  if v_obstacle is not null then
    return v_obstacle;
  end if;
  -- Before 1.6.3 pg_cron leaves a job of this name where it is, in a database that has been renamed since.
  execute
    'select cron.unschedule(j.jobid) from cron.job j '
    'where j.jobname in (select grace_internal.cron_name(n.name) from grace_internal.job n) '
    'and j.username = current_user and j.database <> current_database()';
  for v_statement in select s from grace_internal.cron_statements() s loop
    execute v_statement;
  end loop;
  if not (select r.rolcanlogin from pg_roles r where r.rolname = current_user) then
    return format(
      'role %I may not log in, so pg_cron can''t run its jobs, and nothing is purged by itself: alter role %I login;',
      current_user, current_user
    );
  end if;
  return (
    select string_agg(
      format('pg_cron job "%s" runs %s (%s)', grace_internal.cron_name(j.name),
        grace.schedule_in_words(j.schedule), grace_internal.schedule_zone()),
      '; ' order by j.name
    )
    from grace_internal.job j
    where j.rule_id is null
  );
end
$$;
