-- The statement that captures from one relation as its columns are now: $1 is the deletion, $2 its time, $3, row by row, the
-- deleted row (of an inheritance tree, or of a leaf that has no capture trigger yet). The capture
-- function runs it where its own static statement can't serve: for TRUNCATE, and when the table may have changed since
-- the function was generated; then buffer and function are brought up to date first, within the same statement.
create or replace function grace_internal.capture_statement(
  protected_id integer, relation oid, operation text, row_wise boolean
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text;
  v_later text;
begin
  if not exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = protected_id and t.relation = capture_statement.relation
  ) then
    raise exception '% no longer belongs to the table whose capture triggers it has', relation::regclass
      using errcode = 'GR010',
      detail = 'It was detached, so its rows could not be restored from where they would be captured.',
      hint = format('Protect it: select * from grace.protect(%L); or drop its triggers zz_grace_delete and zz_grace_truncate.',
        grace_internal.qualified_name(relation));
  end if;
  if operation = 'TRUNCATE' then
    perform grace_internal.require_trusted_code(
      relation, 'Use DELETE instead of TRUNCATE, or let a superuser own the function: alter function … owner to …;'
    );
    v_later := grace_internal.later_truncate_trigger(relation);
    if v_later is not null then
      raise exception 'TRUNCATE of protected table % could remove rows that are not captured',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = format('BEFORE TRUNCATE %s fires after the capture and may still write rows.', v_later),
        hint = 'Make it an AFTER TRUNCATE trigger, or use DELETE.';
    end if;
    if row_security_active(relation) then
      raise exception 'TRUNCATE of protected table % could remove rows that are not captured',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = 'It has FORCE ROW LEVEL SECURITY, which hides rows from the owner of pg_grace.',
        hint = format('Give role %I BYPASSRLS, or use DELETE.', current_user);
    end if;
    -- Not MVCC-safe: a snapshot taken before the lock does not see every row that TRUNCATE removes.
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'TRUNCATE of protected table % needs isolation level READ COMMITTED',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = format(
          'In a %s transaction rows that others committed meanwhile would be removed without being captured.',
          upper(current_setting('transaction_isolation'))
        ),
        hint = 'Run the TRUNCATE in a READ COMMITTED transaction, or use DELETE.';
    end if;
    select string_agg(grace_internal.qualified_name(t.relation), ', ') into v_uncovered
    from grace_internal.partition_tree(relation) as t (relation)
    where not grace_internal.has_capture_triggers(t.relation, protected_id);
    if v_uncovered is not null then
      raise exception 'TRUNCATE would remove rows that are not captured'
        using errcode = 'GR010',
        detail = format('Without capture triggers: %s', v_uncovered),
        hint = format('Run: select * from grace.protect(%L);', (
          select p.target_name from grace_internal.protected p where p.id = protected_id
        ));
    end if;
    perform grace_internal.keep_all_files(protected_id, relation);
  end if;

  if grace_internal.columns_differ(protected_id) then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;

  return grace_internal.insert_statement(
    protected_id,
    case when row_wise and operation = 'DELETE' then '($3)' else 'g' end,
    case
      when operation = 'TRUNCATE' then format('only %s as g', grace_internal.qualified_name(relation))
      when not row_wise then 'grace_gone as g' || coalesce(
        e'\n    where ' || grace_internal.not_from_guarded_leaves(protected_id), ''
      )
    end,
    '$1', '$2'
  );
end
$$;
