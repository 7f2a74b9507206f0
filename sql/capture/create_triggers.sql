-- The triggers on every relation of the tree that lacks them; with repair also where they are disabled. ENABLE ALWAYS: a session with
-- session_replication_role = replica deletes for good otherwise. Named to fire last, so that what other
-- BEFORE TRUNCATE triggers still write is captured as well. Of an inheritance tree a third one asks, before any row goes, whether
-- each table that inherits is captured: a statement on the parent fires no statement trigger of theirs.
create or replace function grace_internal.create_triggers(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation record;
  v_name text;
  v_names text [];
begin
  for v_relation in
    select grace_internal.qualified_name(t.relation) as name, p.row_wise
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = protected_id
      and not grace_internal.has_capture_triggers(t.relation, p.id)
      and (
        repair
        or not exists (
          select
          from pg_trigger g
          where g.tgrelid = t.relation and g.tgfoid in (select grace_internal.capture_functions(p.id))
        )
      )
  loop
    execute format(
      'create or replace trigger zz_grace_delete after delete on %s %s execute function grace_internal.%I()',
      v_relation.name,
      case when v_relation.row_wise then 'for each row' else 'referencing old table as grace_gone for each statement' end,
      'capture_' || protected_id
    );
    execute format(
      'create or replace trigger zz_grace_truncate before truncate on %s '
      'for each statement execute function grace_internal.%I()',
      v_relation.name, 'capture_' || protected_id
    );
    v_names := array['zz_grace_delete', 'zz_grace_truncate'];
    if v_relation.row_wise then
      execute format(
        'create or replace trigger zz_grace_cover before delete on %s '
        'for each statement execute function grace_internal.%I()',
        v_relation.name, 'capture_' || protected_id
      );
      v_names := v_names || array['zz_grace_cover'];
    elsif exists (
      select from pg_trigger t where t.tgrelid = v_relation.name::regclass and t.tgname = 'zz_grace_cover'
    ) then
      execute format('drop trigger zz_grace_cover on %s', v_relation.name);
    end if;
    foreach v_name in array v_names loop
      execute format('alter table only %s enable always trigger %I', v_relation.name, v_name);
    end loop;
  end loop;
end
$$;
