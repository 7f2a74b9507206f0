-- Only a superuser can create event triggers. Without them captures follow added, dropped, renamed and retyped columns all the
-- same; a new partition gets its triggers with the next purge or grace.sync(), and DROP TABLE … CASCADE can't be refused.
create or replace function grace_internal.ensure_event_triggers()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.rolsuper from pg_roles r where r.rolname = current_user) then
    if exists (select from pg_event_trigger e where e.evtname = 'grace_follow_ddl') then
      drop event trigger grace_follow_ddl;
    end if;
    create event trigger grace_follow_ddl on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    execute function grace_internal.follow_ddl();
    if exists (select from pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
      drop event trigger grace_refuse_drop;
    end if;
    create event trigger grace_refuse_drop on sql_drop execute function grace_internal.refuse_drop();
    if exists (select from pg_event_trigger e where e.evtname = 'grace_check_rules') then
      drop event trigger grace_check_rules;
    end if;
    create event trigger grace_check_rules on ddl_command_end
    when tag in (
      'ALTER TABLE', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER FUNCTION',
      'ALTER AGGREGATE', 'ALTER ROUTINE', 'ALTER OPERATOR', 'ALTER COLLATION', 'ALTER SCHEMA', 'ALTER EXTENSION',
      'DROP TABLE', 'DROP VIEW', 'DROP MATERIALIZED VIEW', 'DROP FOREIGN TABLE', 'DROP TYPE', 'DROP DOMAIN', 'DROP FUNCTION',
      'DROP AGGREGATE', 'DROP ROUTINE', 'DROP OPERATOR', 'DROP COLLATION', 'DROP SCHEMA', 'DROP EXTENSION', 'DROP OWNED'
    )
    execute function grace_internal.check_rules();
  end if;
end
$$;

create or replace function grace_internal.has_event_triggers()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = 3
  from pg_event_trigger e
  where e.evtname in ('grace_follow_ddl', 'grace_refuse_drop', 'grace_check_rules') and e.evtenabled in ('O', 'A')
$$;

do $$ begin perform grace_internal.ensure_event_triggers(); end $$;
