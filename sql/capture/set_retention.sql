create or replace function grace.set_retention(
  target regclass, retention interval, dry_run boolean default false, cascade boolean default false
)
returns bigint
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_root regclass := coalesce(pg_partition_root(target), target); -- the retention is that of the whole tree
  v_span interval;
  v_longer text;
  v_table grace_internal.protected;
  v_expires bigint;
  v_total bigint := 0;
begin
  perform grace_internal.check_retention(retention);
  v_span := make_interval(secs => extract(epoch from retention)::double precision);
  select string_agg(p.target_name, ', ' order by p.target_name) into v_longer
  from grace_internal.protected p
  where p.id <> v_id and p.span > v_span and p.target in (select grace_internal.cascade_tree(v_root, true));
  if v_longer is not null and not cascade then
    raise notice 'these lose rows with it, can''t be restored without them, and keep a longer retention: %', v_longer
      using hint = 'cascade => true (pg_grace retention --cascade) sets it for them as well.';
  end if;

  for v_table in
    select p.*
    from grace_internal.protected p
    where p.id = v_id or (cascade and p.target in (select grace_internal.cascade_tree(v_root, true)))
    order by p.id
    for update
  loop
    perform grace_internal.require_table_right(v_table.target);
    v_expires := grace_internal.logged_rows(
      v_table.id, grace._expired_before(v_table.id) + interval '1 microsecond',
      statement_timestamp() - v_span + interval '1 microsecond'
    );
    v_total := v_total + v_expires;
    if not dry_run then
      update grace_internal.protected p set retention = set_retention.retention where p.id = v_table.id;
      insert into grace_internal.run (kind, target, status, finished_at, row_count, details, role, login)
      values (
        'retention', v_table.target, 'done', clock_timestamp(), v_expires,
        jsonb_build_object('before', v_table.retention, 'after', retention), grace_internal.caller(), session_user
      );
    end if;
  end loop;
  return v_total;
end
$$;
comment on function grace.set_retention(regclass, interval, boolean, boolean) is
'Changes how long rows deleted from a protected table can be restored, with cascade also for all protected tables that lose rows with it. Applies at once to what is in the buffer already: a shorter retention expires rows, which the next purge removes, a longer one gives those that are not yet purged more time. Returns how many rows expire by it; with dry_run only that. Errors: GR001, GR005, 42501.';
