-- Writes the trigger function of one protected table: static and typed, so that capturing costs no planning. Where the table
-- is no longer what it was when the function was written, the statement is made anew from the catalog, so that no column's
-- value is ever left out. The body is quoted as a literal: it holds names that somebody else chose.
-- Row by row (inheritance trees), the table's OID as a regclass constant is what makes every session ask anew after any change of
-- the table.
create or replace function grace_internal.generate_capture(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_protected grace_internal.protected;
  v_body text;
  v_kind "char";
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  select c.relkind into v_kind from pg_class c where c.oid = v_protected.target;
  v_body := format(
    $body$
<<grace>> -- qualifies the variables: a column may be called like one
declare
  v_unchanged boolean;
  v_deletion grace_internal.deletion_ref;
  v_rows bigint;
begin
  if tg_op = 'DELETE' then
    %2$s;
    if v_unchanged is null then
      return null;
    end if;%6$s
  end if;

  v_deletion := grace_internal.current_deletion();
  if v_unchanged then
    %3$s;
  else
    execute grace_internal.capture_statement(%1$s, tg_relid, tg_op, %5$L)
    using v_deletion.deletion, v_deletion.deleted_at%4$s;
  end if;
  get diagnostics v_rows = row_count;
%7$s
  if v_rows > 0 then
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation,
      role, login, application_name, client_addr, reason
    )
    values (
      v_deletion.deletion, v_deletion.deleted_at, %1$s, v_rows, tg_op,
      case when current_setting('grace.acting_as', true) <> '' then grace_internal.deleting_role()
        else coalesce(nullif(current_setting('role'), 'none'), session_user) end, session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end if;
  return null;
end
$body$,
    protected_id,
    case when v_protected.row_wise then format(
      'v_unchanged := grace_internal.columns_unchanged(%s) and %L::regclass is not null', protected_id, v_protected.target::oid
    ) else format(
      'select grace_internal.columns_unchanged(%s) into v_unchanged from grace_gone limit 1', protected_id
    ) end,
    grace_internal.insert_statement(
      protected_id,
      case when v_protected.row_wise then 'old' else 'g' end,
      case when not v_protected.row_wise then 'grace_gone as g' end,
      'grace.v_deletion.deletion', 'grace.v_deletion.deleted_at'
    ),
    case when v_protected.row_wise then ', old' else '' end,
    v_protected.row_wise,
    case
      when v_protected.row_wise then format(
        e'\n    if tg_level = ''STATEMENT'' then\n      perform grace_internal.require_covered(%s);\n      return null;\n    end if;',
        protected_id
      )
      when v_kind = 'p' then concat(
        e'\n    v_unchanged := ',
        case when not grace_internal.has_event_triggers() then
          format('grace_internal.tree_is_covered(%s) and ', protected_id)
        end,
        format(
          'v_unchanged and pg_partition_root(tg_relid) is not distinct from %s::regclass;', v_protected.target::oid
        )
      )
    end,
    grace_internal.hold_check(protected_id, v_protected.row_wise)
  );
  execute format(
    'create or replace function grace_internal.%1$I() returns trigger language plpgsql '
    'security definer ' -- the role that deletes needs no right on the buffer
    'set search_path = pg_catalog, pg_temp%3$s as %2$L',
    'capture_' || protected_id, v_body, grace_internal.hold_settings(protected_id)
  );
  execute format('revoke all on function grace_internal.%I() from public', 'capture_' || protected_id);
  execute format(
    'comment on function grace_internal.%I() is %L',
    'capture_' || protected_id, 'pg_grace: captures what is deleted from ' || v_protected.target_name
  );
end
$generate$;
