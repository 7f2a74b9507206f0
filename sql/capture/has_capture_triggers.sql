-- Whether a relation has both triggers, always firing, and of the kind that its table needs.
create or replace function grace_internal.has_capture_triggers(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = 2
  from pg_trigger t
  join pg_proc f on f.oid = t.tgfoid
  join pg_namespace n on n.oid = f.pronamespace
  join grace_internal.protected p on p.id = has_capture_triggers.protected_id
  where t.tgrelid = has_capture_triggers.relation
    and t.tgname in ('zz_grace_delete', 'zz_grace_truncate')
    and t.tgenabled = 'A'
    and n.nspname = 'grace_internal'
    and f.proname = 'capture_' || p.id
    and (t.tgtype & 1 = 1) = (p.row_wise and t.tgname = 'zz_grace_delete')
$$;
