-- Whether a relation has all its triggers, always firing, and of the kind that its table needs.
create or replace function grace_internal.has_capture_triggers(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = case when bool_or(p.row_wise) then 3 else 2 end
  from pg_trigger t
  join pg_proc f on f.oid = t.tgfoid
  join pg_namespace n on n.oid = f.pronamespace
  join grace_internal.protected p on p.id = has_capture_triggers.protected_id
  where t.tgrelid = has_capture_triggers.relation
    and t.tgname in ('zz_grace_delete', 'zz_grace_truncate', 'zz_grace_cover')
    and t.tgenabled = 'A'
    and n.nspname = 'grace_internal'
    and f.proname = 'capture_' || p.id
    and (p.row_wise or t.tgname <> 'zz_grace_cover')
    and (t.tgtype & 1 = 1) = (p.row_wise and t.tgname = 'zz_grace_delete')
$$;
