-- Labelled IMMUTABLE so that the planner evaluates it when it plans the capture function's first statement. That statement
-- reads the transition table, so its plan depends on the table itself: any DDL on the table makes every session plan, and so
-- evaluate, anew. Between two changes of the table the answer costs nothing. Errors: 40001 when the table has changed behind
-- this transaction's snapshot, with which the catalog can't be read as it is now.
create or replace function grace_internal.columns_unchanged(protected_id integer)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform grace_internal.refuse_old_snapshot(protected_id);
  end if;
  return not grace_internal.columns_differ(protected_id);
end
$$;

-- What is read with the snapshot is compared to what PostgreSQL's caches say, which are always up to date.
create or replace function grace_internal.refuse_old_snapshot(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table regclass := (select p.target from grace_internal.protected p where p.id = protected_id);
begin
  if exists (
    select
    from grace_internal.partition_tree(v_table) as t (relation)
    join pg_class c on c.oid = t.relation
    where has_column_privilege(c.oid, (c.relnatts + 1)::smallint, 'select') is not null
      or pg_relation_filenode(c.oid) is distinct from nullif(c.relfilenode, 0)
      or exists (
        select
        from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and (pg_identify_object('pg_class'::regclass, c.oid, a.attnum)).identity
            is distinct from format('%s.%I', grace_internal.qualified_name(c.oid), a.attname)
      )
  ) then
    raise exception 'could not serialize access: table % was changed after this transaction began', v_table
      using errcode = 'serialization_failure',
      detail = 'What this transaction sees of the catalog no longer matches the table, so a deleted row could not be captured whole.',
      hint = 'Run the transaction again.';
  end if;
end
$$;
