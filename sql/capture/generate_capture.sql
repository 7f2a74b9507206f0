-- Writes the trigger function of one protected table: static and typed, so that capturing costs no planning. Where the table
-- is no longer what it was when the function was written, the statement is made anew from the catalog, so that no column's
-- value is ever left out. The body is quoted as a literal: it holds names that somebody else chose.
create or replace function grace_internal.generate_capture(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_body text;
begin
  v_body := format(
    $body$
<<grace>> -- qualifies the variables: a column may be called like one
declare
  v_unchanged boolean;
  v_setting text := current_setting('grace.deletion', true);
  v_remembered grace_internal.deletion_ref;
  v_deletion bigint;
  v_deleted_at timestamptz;
  v_rows bigint;
begin
  if tg_op = 'DELETE' then
    select grace_internal.columns_unchanged(%1$s) into v_unchanged from grace_gone limit 1;
    if v_unchanged is null then
      return null;
    end if;
  end if;

  if v_setting <> '' then
    v_remembered := grace_internal.remembered_deletion(v_setting);
    v_deletion := v_remembered.deletion;
    v_deleted_at := v_remembered.deleted_at;
  end if;
  if v_deletion is null then
    v_deletion := nextval('grace_internal.deletion_id');
    v_deleted_at := clock_timestamp();
    v_setting := concat(v_deletion, ' ', encode(timestamptz_send(v_deleted_at), 'hex'));
    v_setting := set_config('grace.deletion', v_setting || ' ' || grace_internal.signature(v_setting), true);
  end if;

  if v_unchanged then
    %2$s;
  else
    execute grace_internal.capture_statement(%1$s, tg_relid, tg_op) using v_deletion, v_deleted_at;
  end if;
  get diagnostics v_rows = row_count;

  if v_rows > 0 then
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation,
      role, login, application_name, client_addr, reason
    )
    values (
      v_deletion, v_deleted_at, %1$s, v_rows, tg_op,
      coalesce(nullif(current_setting('role'), 'none'), session_user), session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end if;
  return null;
end
$body$,
    protected_id,
    grace_internal.insert_statement(protected_id, 'grace_gone', 'grace.v_deletion', 'grace.v_deleted_at')
  );
  execute format(
    'create or replace function grace_internal.%1$I() returns trigger language plpgsql '
    'security definer ' -- the role that deletes needs no right on the buffer
    'set search_path = pg_catalog, pg_temp as %2$L',
    'capture_' || protected_id, v_body
  );
  execute format('revoke all on function grace_internal.%I() from public', 'capture_' || protected_id);
  execute format(
    'comment on function grace_internal.%I() is %L',
    'capture_' || protected_id,
    'pg_grace: captures what is deleted from ' || (
      select p.target_name from grace_internal.protected p where p.id = protected_id
    )
  );
end
$generate$;
