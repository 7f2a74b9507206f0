create or replace view grace.holds as
select
  h.id,
  p.target,
  h.key,
  h.reason,
  h.case_number,
  h.until,
  h.held_at,
  h.held_by,
  h.released_at,
  h.released_by,
  h.release_reason,
  h.released_at is null and coalesce(h.until > statement_timestamp(), true) as is_active,
  coalesce(p.target_name, h.target_name) as target_name
from grace_internal.hold h
left join grace_internal.protected p on p.id = h.protected_id;

comment on view grace.holds is
'Every hold, also those that were released or whose time has passed: which record, why, by whom, until when.';
comment on column grace.holds.target is 'Null when the table, or its protection, is gone.';
comment on column grace.holds.key is 'The record''s primary key.';
comment on column grace.holds.until is 'From then on it no longer holds; null: until it is released.';
comment on column grace.holds.is_active is 'It holds now.';

create or replace function grace.held_rows(hold bigint)
returns setof jsonb
language plpgsql stable
security definer -- what has expired is shown to nobody otherwise
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_hold grace_internal.active_hold;
  v_key text;
begin
  select h.* into v_hold from grace_internal.active_hold h where h.id = hold;
  if not found then
    raise exception 'no hold % is active', coalesce(hold::text, 'null')
      using errcode = 'invalid_parameter_value',
      detail = 'There is none with this number, or it was released, or its time has passed.',
      hint = 'Look at what is held: select * from grace.holds where is_active;';
  end if;
  v_key := grace_internal.buffered_key_text(v_hold.protected_id, v_hold.columns, 'b');
  if v_key is null then
    return; -- all of the buffer is kept, and which row it is can't be told
  end if;
  -- to_jsonb() of a value of the application's type could run its code.
  return query execute (
    select format(
      'select to_jsonb(r.*) from (select %s from grace_buffer.%I b where %s = $1 order by b.grace_deleted_at desc, b.grace_deletion desc) r',
      string_agg(
        case
          when grace_internal.belongs_to_application(a.atttypid) then
            format('%s as %I', grace_internal.as_text(format('b.%I', c.buffer_column)), c.buffer_column)
          else format('b.%I', c.buffer_column)
        end,
        ', ' order by a.attnum
      ),
      p.buffer, v_key
    )
    from grace_internal.protected p
    join grace_internal.protected_column c on c.protected_id = p.id
    join pg_attribute a on a.attrelid = format('grace_buffer.%I', p.buffer)::regclass and a.attname = c.buffer_column
    where p.id = v_hold.protected_id
    group by p.buffer
  )
  using v_hold.key_values;
end
$$;
comment on function grace.held_rows(bigint) is
'What the buffer holds of a held record, also past its retention, when nothing else shows it any more: each version as jsonb, the newest first. Nothing while the record has never been deleted. Errors: 22023 when the hold is not active.';

-- For what decides by itself which records go: the holds on a table's records, their keys as text and by which columns (as they are called
-- now; null when they are gone or have changed). A row's own is what grace_internal.live_key() says, under grace_internal.key_settings().
create or replace function grace_internal.held_keys(protected_id integer)
returns table (hold_id bigint, key jsonb, names name [], key_values text [])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select h.id, h.key, grace_internal.hold_names(h.*), h.key_values
  from grace_internal.active_hold h
  where h.protected_id = any (grace_internal.held_under(held_keys.protected_id))
$$;
