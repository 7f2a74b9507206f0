-- A row's key as text, read where the row stands (alias r), under settings that are always the same. STABLE: with the snapshot in which
-- it was found.
create or replace function grace_internal.written_key(relation oid, tid tid, expression text)
returns text []
language plpgsql stable
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the table's checks while planning
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_result text [];
begin
  execute format('select %s from only %s r where r.ctid = $1', expression, grace_internal.qualified_name(relation))
  into v_result using tid;
  return v_result;
end
$$;

-- The live row that has this key, as text: its key as it is written there, or null. What can be read from text safely is looked up as the
-- index does it, the rest as text. Errors: GR010 when the table can't be read.
create or replace function grace_internal.find_live(protected_id integer, names name [], key_values text [])
returns text []
language plpgsql stable
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off
as $$
declare
  v_target regclass;
  v_is_tree boolean;
  v_condition text;
  v_result text [];
begin
  select p.target, c.relkind = 'p' into v_target, v_is_tree
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  where p.id = protected_id;
  if not found then
    return null;
  end if;
  perform grace_internal.require_trusted_code(v_target, 'Let a superuser own the function: alter function … owner to …;');
  if row_security_active(v_target) then
    raise exception 'records of % can''t be looked up', v_target
      using errcode = 'GR010',
      detail = 'It has FORCE ROW LEVEL SECURITY, which hides rows from the owner of pg_grace.',
      hint = format('Give role %I BYPASSRLS.', current_user);
  end if;
  select string_agg(
    case
      when e.operator is not null and grace_internal.is_safe_to_read(a.atttypid) then format(
        't.%I %s %L::%s', a.attname, e.operator, k.value, format_type(grace_internal.base_type(a.atttypid), -1)
      )
      else format('%s = %L', grace_internal.key_text(format('t.%I', a.attname), a.atttypid), k.value)
    end,
    ' and '
  )
  into v_condition
  from unnest(names, key_values) as k (name, value)
  join pg_attribute a on a.attrelid = v_target and a.attname = k.name
  left join lateral (
    select grace_internal.equality(i.indexrelid, u.position::integer) as operator
    from pg_index i
    cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
    where i.indrelid = v_target and i.indisprimary and u.attnum = a.attnum
  ) as e on true;
  execute format(
    'select grace_internal.written_key(t.tableoid, t.ctid, %L) from %s%s t where %s limit 1',
    grace_internal.live_key('r', v_target, names), case when v_is_tree then '' else 'only ' end,
    grace_internal.qualified_name(v_target), v_condition
  )
  into v_result;
  return v_result;
end
$$;

-- The same for the rows of the buffer that can be restored, the newest first.
create or replace function grace_internal.find_buffered(protected_id integer, names name [], key_values text [])
returns text []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns smallint [];
  v_condition text;
  v_result text [];
begin
  select
    array_agg(k.attnum order by k.position),
    string_agg('(' || (
      select string_agg(
        case
          when c.ended_at is null and grace_internal.is_safe_to_read(c.type) then format(
            'b.%I %s %L::%s', c.buffer_column, grace_internal.equality(i.indexrelid, k.position::integer), k.value, format_type(c.type, -1)
          )
          else format('%s = %L', grace_internal.key_text(format('b.%I', c.buffer_column), c.type), k.value)
        end,
        ' or '
      )
      from grace_internal.protected_column c
      cross join lateral grace_internal.base_type(c.type) as y (type)
      where c.protected_id = p.id and c.attname = k.name
    ) || ')', ' and ')
  into v_columns, v_condition
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral (
    select c.attnum, a.attname as name, u.position, (key_values)[array_position(names, a.attname)] as value
    from unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
    join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
    join grace_internal.protected_column c on c.protected_id = p.id and c.attname = a.attname and c.ended_at is null
  ) as k
  where p.id = protected_id;
  execute format(
    'select grace_internal.written_key(b.tableoid, b.ctid, %L) from grace_buffer.%I b '
    'where b.grace_deleted_at > grace._expired_before(%s) and %s order by b.grace_deleted_at desc limit 1',
    grace_internal.buffered_key_text(protected_id, v_columns, 'r'),
    (select p.buffer from grace_internal.protected p where p.id = protected_id), protected_id, v_condition
  )
  into v_result;
  return v_result;
end
$$;
