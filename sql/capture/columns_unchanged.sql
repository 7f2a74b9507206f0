-- Labelled IMMUTABLE so that the planner evaluates it when it plans the capture function's first statement. That statement
-- reads the transition table, so its plan depends on the table itself: any DDL on the table makes every session plan, and so
-- evaluate, anew (of a partition tree: any on the relation that is deleted from; its columns can change only together). Between two
-- changes of the table the answer costs nothing. The planner reads the catalog with the outer
-- statement's snapshot, which may be older than the table's last change: then the answer is false, and the statement is
-- made anew; in an isolation level above READ COMMITTED, where nothing can be read as it is now, it is error 40001.
create or replace function grace_internal.columns_unchanged(protected_id integer)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.require_covered(protected_id);
  if grace_internal.snapshot_is_old(protected_id) then
    if current_setting('transaction_isolation') = 'read committed' then
      return false;
    end if;
    raise exception 'could not serialize access: table % was changed after this transaction began',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'serialization_failure',
      detail = 'What this transaction sees of the catalog no longer matches the table, so a deleted row could not be captured whole.',
      hint = 'Run the transaction again.';
  end if;
  return not grace_internal.columns_differ(protected_id)
    and not exists (select from grace_internal.guarded_leaves(protected_id));
end
$$;

-- What is read with the statement's snapshot is compared to what PostgreSQL's caches say, which are always up to date.
-- STABLE: a volatile function would read with a new snapshot.
create or replace function grace_internal.snapshot_is_old(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    join pg_class c on c.oid = t.relation
    where p.id = protected_id
      and (
        has_column_privilege(c.oid, (c.relnatts + 1)::smallint, 'select') is not null
        or pg_relation_filenode(c.oid) is distinct from nullif(c.relfilenode, 0)
        or exists (
          select
          from pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            and (pg_identify_object('pg_class'::regclass, c.oid, a.attnum)).identity
              is distinct from format('%s.%I', grace_internal.qualified_name(c.oid), a.attname)
        )
      )
  )
$$;
