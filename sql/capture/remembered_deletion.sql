do $$
begin
  if to_regtype('grace_internal.deletion_ref') is null then
    create type grace_internal.deletion_ref as (deletion bigint, deleted_at timestamptz);
  end if;
end
$$;

-- The deletion of the current transaction: all its captures, in every table, share one id and one time. The first capture
-- remembers them in the transaction-local setting grace.deletion, which a rollback to savepoint takes back together with
-- what was captured since. The setting is signed, and bound to the transaction, because any user can write a setting: for
-- a forged one the answer is null, so nobody joins another transaction's deletion or changes its time. No table is read,
-- which would make serializable transactions that have nothing to do with each other fail.
-- The setting is "id time signature", the time as PostgreSQL sends it, in hexadecimal digits. Pinned by its caller's callers, as a
-- SET clause would cost more than half of what it does.
create or replace function grace_internal.remembered_deletion(setting text)
returns grace_internal.deletion_ref
language plpgsql
as $$
declare
  v_result grace_internal.deletion_ref;
begin
  if right(setting, 32) = grace_internal.signature(left(setting, -33)) then
    v_result.deletion := split_part(setting, ' ', 1)::bigint;
    v_result.deleted_at := timestamptz '2000-01-01 00:00+00'
      + ('x' || split_part(setting, ' ', 2))::bit (64)::bigint * interval '1 microsecond';
  end if;
  return v_result;
end
$$;

-- Null without the key, which then matches nothing. Inlined into its callers, which pin their search_path.
create or replace function grace_internal.signature(claim text)
returns text
language sql
as $$
  select md5(
    pg_sequence_last_value('grace_internal.signing_key')::text || claim || ' ' || pg_current_xact_id()::text
    || pg_sequence_last_value('grace_internal.signing_key')::text
  )
$$;
