-- Disables the application's triggers on rows that are inserted into these tables or updated, until the statements that it returns are
-- run, in the same transaction: nobody else ever sees them disabled. Takes SHARE ROW EXCLUSIVE on the tables. With the caller's rights.
-- Errors: 42501 for whoever does not own the tables.
create or replace function grace._disable_triggers(targets regclass [])
returns text []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trigger record;
  v_enable text [] := array[]::text [];
begin
  for v_trigger in
    select format('%I.%I', n.nspname, c.relname) as relation, t.tgname, t.tgenabled
    from unnest(targets) as u (target)
    cross join lateral (
      select u.target as relid
      union
      select p.relid from pg_partition_tree(u.target) p
    ) as r
    join pg_class c on c.oid = r.relid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & (4 | 16) <> 0
    join pg_proc f on f.oid = t.tgfoid and f.pronamespace <> 'grace_internal'::regnamespace
    order by 1, 2
  loop
    execute format('alter table only %s disable trigger %I', v_trigger.relation, v_trigger.tgname);
    v_enable := v_enable || format(
      'alter table only %s enable %s trigger %I', v_trigger.relation,
      case v_trigger.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, v_trigger.tgname
    );
  end loop;
  return v_enable;
end
$$;
comment on function grace._disable_triggers(regclass []) is
'Internal: disables the application''s triggers within the transaction; returns what enables them again.';
