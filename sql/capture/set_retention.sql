create or replace function grace.set_retention(target regclass, retention interval, dry_run boolean default false)
returns bigint
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_before interval;
  v_expired_before timestamptz := grace._expired_before(v_id);
  v_expires bigint;
begin
  perform grace_internal.check_retention(retention);
  perform grace_internal.require_table_right(coalesce(pg_partition_root(target), target)); -- it is that of the whole tree
  select p.retention into v_before from grace_internal.protected p where p.id = v_id for update;
  v_expires := grace_internal.logged_rows(
    v_id, v_expired_before + interval '1 microsecond',
    statement_timestamp() - make_interval(secs => extract(epoch from retention)::double precision) + interval '1 microsecond'
  );
  if not dry_run then
    update grace_internal.protected p set retention = set_retention.retention where p.id = v_id;
    insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
    values (
      'retention', target, 'done', clock_timestamp(), v_expires,
      jsonb_build_object('before', v_before, 'after', retention), grace_internal.caller(), session_user
    );
  end if;
  return v_expires;
end
$$;
comment on function grace.set_retention(regclass, interval, boolean) is
'Changes how long rows deleted from a protected table can be restored. Applies at once to what is in the buffer already: a shorter retention expires rows, which the next purge removes, a longer one gives those that are not yet purged more time. Returns how many rows expire by it; with dry_run only that. Errors: GR001, GR005, 42501.';
