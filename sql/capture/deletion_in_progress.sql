do $$
begin
  if to_regtype('grace_internal.deletion_ref') is null then
    create type grace_internal.deletion_ref as (deletion bigint, deleted_at timestamptz);
  end if;
end
$$;

-- The deletion of the current transaction: all its captures, in every table, share one id and one time.
-- It is remembered in a transaction-local setting, which a rollback to savepoint takes back together with what was
-- captured since. The setting is signed, and bound to the transaction, because any user can write a setting: a forged
-- one is ignored, so nobody joins another transaction's deletion. No table is read, which would make serializable
-- transactions that have nothing to do with each other fail.
create or replace function grace_internal.deletion_in_progress()
returns grace_internal.deletion_ref
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_remembered text := current_setting('grace.deletion', true);
  v_key text := pg_sequence_last_value('grace_internal.signing_key')::text || pg_current_xact_id()::text;
  v_claim text;
  v_result grace_internal.deletion_ref;
begin
  if v_remembered <> '' then
    v_claim := split_part(v_remembered, '/', 1);
    if v_remembered = v_claim || '/' || md5(v_key || v_claim || v_key) then
      v_result.deletion := split_part(v_claim, ' ', 1)::bigint;
      v_result.deleted_at := 'epoch'::timestamptz + split_part(v_claim, ' ', 2)::bigint * interval '1 microsecond';
      return v_result;
    end if;
  end if;

  v_result.deletion := nextval('grace_internal.deletion_id');
  v_result.deleted_at := clock_timestamp();
  v_claim := v_result.deletion || ' ' || (extract(epoch from v_result.deleted_at) * 1000000)::bigint;
  perform set_config('grace.deletion', v_claim || '/' || md5(v_key || v_claim || v_key), true);
  return v_result;
end
$$;
