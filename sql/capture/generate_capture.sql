-- Writes the trigger function of one protected table: static and typed, so that capturing costs no planning. Its
-- first test is the cheapest that finds an added column or a rewritten table (TRUNCATE and VACUUM FULL are false
-- alarms); then the statement is made anew from the catalog, so that no column's value is ever left out.
create or replace function grace_internal.generate_capture(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_changed text;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;

  if (select c.relkind from pg_class c where c.oid = v_protected.target) = 'p' then
    v_changed := $check$has_column_privilege(tg_relid, tg_argv[0]::smallint, 'select') is not null$check$;
  else
    v_changed := format(
      $check$has_column_privilege(tg_relid, %s::smallint, 'select') is not null
    or pg_relation_filenode(tg_relid) is distinct from %s$check$,
      (select c.relnatts + 1 from pg_class c where c.oid = v_protected.target),
      pg_relation_filenode(v_protected.target)
    );
  end if;

  execute format(
    $create$
create or replace function grace_internal.%I()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on the buffer
set search_path = pg_catalog, pg_temp
as $capture$
declare
  v_deletion grace_internal.deletion_ref := grace_internal.deletion_in_progress();
  v_rows bigint;
begin
  if tg_op = 'TRUNCATE'
    or %s
  then
    execute grace_internal.capture_statement(%s, tg_relid, tg_op) using v_deletion.deletion, v_deletion.deleted_at;
  else
    %s;
  end if;
  get diagnostics v_rows = row_count;

  if v_rows > 0 then
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation,
      role, login, application_name, client_addr, reason
    )
    values (
      v_deletion.deletion, v_deletion.deleted_at, %s, v_rows, tg_op,
      coalesce(nullif(current_setting('role'), 'none'), session_user), session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end if;
  return null;
end
$capture$
    $create$,
    'capture_' || protected_id,
    v_changed,
    protected_id,
    grace_internal.insert_statement(protected_id, 'grace_gone', 'v_deletion.deletion', 'v_deletion.deleted_at'),
    protected_id
  );
  execute format('revoke all on function grace_internal.%I() from public', 'capture_' || protected_id);
  execute format(
    'comment on function grace_internal.%I() is %L',
    'capture_' || protected_id, 'pg_grace: captures what is deleted from ' || v_protected.target_name
  );
end
$$;
