-- Protects the tables that a protected table has come to take rows from: by a new foreign key with ON DELETE CASCADE, or
-- a new inheritance. They get its retention. A cascade into one that can't be protected is noted in the registry, so that
-- deletes go on; a table that inherits and can't be protected makes them fail, for its columns would be lost.
create or replace function grace_internal.cover(protected_id integer)
returns table (protected_table regclass, status text, warning text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_done regclass [] := array[]::regclass [];
  v_id integer;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  loop
    select u into protected_table
    from grace_internal.protected p
    cross join lateral grace_internal.uncovered_tables(p.id) u
    where p.active and not u = any (v_done)
      and not exists (select from grace_internal.protected o where o.target = u and o.active)
      and (p.id = cover.protected_id or p.target = any (v_done))
    order by u::text
    limit 1;
    exit when not found;
    v_done := v_done || protected_table;
    begin
      select t.protected_id, t.status, null into v_id, status, warning
      from grace_internal.protect_table(
        protected_table, v_protected.retention, '{}',
        coalesce((
          select p.file_names
          from grace_internal.protected p
          where p.active and protected_table in (select grace_internal.inheritors(p.target))
          limit 1
        ), '{}'), true
      ) t;
      perform grace_internal.follow_table(v_id, repair => true);
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      get stacked diagnostics warning = pg_exception_detail;
      status := 'not protected';
      if sqlstate <> '42501' then
        perform grace_internal.accept_uncovered(protected_table);
      end if;
      warning := case
        when exists (
          select from grace_internal.protected p where protected_table = any (p.uncovered)
        ) then format('Deleting from %s cascades into it, and those rows will be lost: %s', v_protected.target, warning)
        else format('Deleting from %s fails until it can be protected: %s', v_protected.target, warning)
      end;
    end;
    return next;
  end loop;
end
$$;

-- From now on it is known that what cascades into this table is not captured.
create or replace function grace_internal.accept_uncovered(relation regclass)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.protected p
  set uncovered = p.uncovered || accept_uncovered.relation
  where not accept_uncovered.relation = any (p.uncovered)
    and accept_uncovered.relation in (select grace_internal.cascade_children(p.target))
$$;
