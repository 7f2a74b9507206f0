-- Each entry has the hash of itself and of the one before it, so that what is changed, removed or put in later is found. Times
-- are hashed as seconds, which no setting changes.
create or replace function grace_internal.ledger_hash(entry grace_internal.ledger)
returns bytea
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select sha256(entry.previous || convert_to(
    jsonb_build_array(
      entry.id, extract(epoch from entry.at), entry.run_id, entry.action, entry.target_name, entry.row_count,
      extract(epoch from entry.deleted_before), entry.role
    )::text,
    'UTF8'
  ))
$$;

create or replace function grace_internal.record(
  run_id bigint, action text, target_name text, row_count bigint, deleted_before timestamptz
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry grace_internal.ledger;
begin
  lock table grace_internal.ledger in share row exclusive mode; -- one after the other
  select l.id + 1, l.hash into v_entry.id, v_entry.previous
  from grace_internal.ledger l
  order by l.id desc
  limit 1;
  v_entry.id := coalesce(v_entry.id, 1);
  v_entry.previous := coalesce(v_entry.previous, '');
  v_entry.at := clock_timestamp();
  v_entry.run_id := run_id;
  v_entry.action := action;
  v_entry.target_name := target_name;
  v_entry.row_count := row_count;
  v_entry.deleted_before := deleted_before;
  v_entry.role := grace_internal.caller();
  v_entry.hash := grace_internal.ledger_hash(v_entry);
  insert into grace_internal.ledger select v_entry.*;
end
$$;

create or replace view grace.ledger as
select
  l.id,
  l.at,
  l.run_id as run,
  l.action,
  l.target_name,
  l.row_count,
  l.deleted_before,
  l.role,
  encode(l.hash, 'hex') as hash
from grace_internal.ledger l;

comment on view grace.ledger is
'What has gone for good: append-only, hash-chained, counts and never content. grace.verify_ledger() finds what was changed.';
comment on column grace.ledger.action is
'purged; expired early, where a capacity let days go before their time: the purge that removed them is an entry of its own.';
comment on column grace.ledger.row_count is 'How many deleted rows.';
comment on column grace.ledger.deleted_before is 'They had been deleted up to then.';
comment on column grace.ledger.hash is 'SHA-256 over the entry and the hash before it. Kept elsewhere, the last one proves all of them.';

create or replace function grace.verify_ledger()
returns table (id bigint, finding text)
language sql stable
security definer -- the ledger's table is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select c.id, f.finding
  from (
    select
      l.id, l.hash <> grace_internal.ledger_hash(l) as is_changed, l.previous,
      lag(l.hash, 1, '') over (order by l.id) as hash_before, l.id - lag(l.id, 1, 0::bigint) over (order by l.id) as step
    from grace_internal.ledger l
  ) as c
  cross join lateral (
    values
      (c.is_changed, 'changed'),
      (c.step <> 1, 'entries before it are missing'),
      (c.step = 1 and c.previous <> c.hash_before, 'the entry before it is another one')
  ) as f (applies, finding)
  where f.applies
  order by c.id, f.finding
$$;
comment on function grace.verify_ledger() is
'Checks every entry of grace.ledger against its hash and the one before it; returns what was changed, removed or put in by hand, nothing when all is as it was written. That the last entries were cut off can only be seen by a hash that was kept elsewhere.';
