create or replace view grace.protected as
select
  p.target,
  to_regclass(format('grace_buffer.%I', p.buffer)) as buffer,
  p.retention,
  s.state,
  s.drift,
  s.buffered_rows,
  s.buffer_bytes,
  s.oldest,
  s.oldest + p.span as next_expiry,
  p.protected_at,
  p.protected_by,
  p.target_name,
  p.capacity,
  p.evicted_to as expired_early_to
from grace_internal.protected p
cross join lateral grace._protected_state(p.id) s;

comment on view grace.protected is 'One row per protected table.';
comment on column grace.protected.state is
'capturing; disabled (a capture trigger does not fire always); missing (a table or partition has no capture trigger); unprotected (what is buffered stays until it expires); table dropped.';
comment on column grace.protected.target is 'The table; null when it was dropped.';
comment on column grace.protected.target_name is 'What it is called, or was when it was dropped.';
comment on column grace.protected.drift is
'The table''s columns have changed since the last capture; the next one follows them.';
comment on column grace.protected.buffered_rows is 'Rows that can be restored now.';
comment on column grace.protected.buffer_bytes is 'Size of the buffer with TOAST, indexes and what is kept of files, expired rows included, in bytes.';
comment on column grace.protected.oldest is 'Time of the oldest deletion that can be restored.';
comment on column grace.protected.next_expiry is 'When that deletion expires; the next purge after it removes it.';
comment on column grace.protected.capacity is 'How big the buffer may become before its oldest days go early, in bytes; null: as big as it gets.';
comment on column grace.protected.expired_early_to is 'What was deleted up to then has expired before its time, because of a capacity.';
