-- Primary keys given as jsonb ({"id": 7}, 7, or an array of either) as an array of objects. Errors: GR008 for what is
-- no key of this table, GR009 for a table without a primary key.
create or replace function grace_internal.keys_of(target regclass, keys jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_names name [];
  v_key jsonb;
  v_result jsonb := jsonb_build_array();
begin
  select grace_internal.column_names(i.indrelid, i.indkey::smallint []) into v_names
  from pg_index i
  where i.indrelid = target and i.indisprimary;
  if not found then
    raise exception 'table % has no primary key', target
      using errcode = 'GR009',
      detail = 'Its rows can''t be told apart by a key.',
      hint = 'Select them by deletion, time or role instead.';
  end if;

  for v_key in
    select k from jsonb_array_elements(case jsonb_typeof(keys) when 'array' then keys else jsonb_build_array(keys) end) k
  loop
    if jsonb_typeof(v_key) in ('number', 'string', 'boolean') and cardinality(v_names) = 1 then
      v_key := jsonb_build_object(v_names[1], v_key);
    end if;
    if jsonb_typeof(v_key) <> 'object'
      or (select array_agg(k order by k) from jsonb_object_keys(v_key) k)
        is distinct from (select array_agg(n::text order by n::text) from unnest(v_names) n)
    then
      raise exception '% is not a key of %', v_key, target
        using errcode = 'GR008',
        detail = format('The primary key is (%s).', (select string_agg(quote_ident(n), ', ') from unnest(v_names) n)),
        hint = format('Give it as %s.', (
          select '{' || string_agg(format('"%s": …', n), ', ') || '}' from unnest(v_names) n
        ));
    end if;
    v_result := v_result || v_key;
  end loop;
  if v_result = '[]' then
    raise exception 'no key given'
      using errcode = 'GR008', detail = 'keys is an empty array.', hint = 'Give at least one key, or leave keys out.';
  end if;
  return v_result;
end
$$;

create or replace function grace_internal.normal_keys(protected_id integer, keys jsonb)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.keys_of((select p.target from grace_internal.protected p where p.id = protected_id), keys)
$$;

-- FROM item "k" with the keys as typed columns. It is text, to be run with the caller's rights: reading a value can run code
-- of the application's, a domain's check for example.
create or replace function grace_internal.keys_source(protected_id integer, keys jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'pg_catalog.jsonb_to_recordset(%L) as k (%s)',
    grace_internal.normal_keys(p.id, keys),
    string_agg(format('%I %s', l.attname, l.type_name), ', ')
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral grace_internal.live_columns(p.target) l
  where p.id = protected_id and l.attnum = any (i.indkey)
  group by p.id
$$;

-- b (a buffered row) has the key k.
create or replace function grace_internal.keys_condition(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      '%s %s k.%I',
      (grace_internal.key_values(p.id))[u.position], grace_internal.equality(i.indexrelid, u.position::integer), a.attname
    ),
    ' and '
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
  join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
  where p.id = keys_condition.protected_id
$$;

-- A live row (one alias) has the primary key of a selected one (the other, columns "grace 1", "grace 2", …).
create or replace function grace_internal.key_match(protected_id integer, live text, selected text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format('%s.%I %s %s."grace %s"', live, a.attname, grace_internal.equality(i.indexrelid, u.position::integer), selected, u.position),
    ' and '
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
  join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
  where p.id = key_match.protected_id
$$;
