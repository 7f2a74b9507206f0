-- A planner that takes a function for a thousand rows looks up the children of a million one by one. For many rows the statement gets
-- as much memory as making an index may take, for all its parts together. The caller sets back what this has
-- set. Returns whether they are many.
create or replace function grace_internal.plan_for_rows(target oid, source text, nodes jsonb)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_many bigint := (
    select greatest(10000, sum(c.reltuples) / 20)
    from grace_internal.partition_tree(target) as t (relation)
    join pg_class c on c.oid = t.relation
  );
  v_is_large boolean;
begin
  execute format('select count(*) > %s from (select from %s limit %s) s', v_many, source, v_many + 1) into v_is_large;
  if v_is_large then
    perform
      set_config('enable_nestloop', 'off', true),
      set_config('work_mem', greatest(w.setting::integer, m.setting::integer / jsonb_array_length(nodes))::text, true)
    from pg_settings w
    cross join pg_settings m
    where w.name = 'work_mem' and m.name = 'maintenance_work_mem';
  end if;
  return v_is_large;
end
$$;
