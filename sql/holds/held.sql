-- What finds held rows of a table among those that go, which is what the capture function is given while there are holds: FROM and WHERE;
-- k is the key. "row" is an alias in source, or a record (then source is null). For few rows each is looked for by the index, for many the
-- holds are hashed: "offset 0" and "is true" leave no choice to PostgreSQL, which has no statistics on either side.
create or replace function grace_internal.held_among(protected_id integer, "row" text, source text, is_bulk boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    case
      when is_bulk then 'from %s where ((k.key, k.columns) in (select h.key_values, h.columns '
        'from grace_internal.active_hold h where h.protected_id = any (%L::integer[]))) is true'
      else 'from %s where exists (select from grace_internal.active_hold h '
        'where h.protected_id = any (%L::integer[]) and h.key_values = k.key and h.columns = k.columns offset 0)'
    end,
    concat_ws(' cross join lateral ', source, format(
      '(values %s) as k (key, columns)',
      string_agg(format('(%s, %L::smallint[])', grace_internal.live_key("row", p.target, k.names), k.columns), ', ')
    )),
    grace_internal.held_under(p.id)
  )
  from grace_internal.protected p
  cross join lateral (
    select distinct h.columns, grace_internal.hold_names(h.*) as names
    from grace_internal.active_hold h
    where h.protected_id = any (grace_internal.held_under(p.id))
  ) as k
  where p.id = held_among.protected_id
  group by p.id
$$;

-- The first hold of those on what was found, and on how many records there are any; "of" is what held_among() says.
create or replace function grace_internal.first_held(protected_id integer, into_variables text, of text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select min((select min(h.id) from grace_internal.active_hold h '
    'where h.protected_id = any (%L::integer[]) and h.key_values = k.key)), count(distinct k.key)%s %s',
    grace_internal.held_under(first_held.protected_id), ' into ' || into_variables, of
  )
$$;

-- The same where the table may have changed since the capture function was written: for a statement (the leaf's rows when it is
-- TRUNCATE) or, row by row, for $1. Errors: GR029 when a hold's record can no longer be told from others, for it may be any of them.
create or replace function grace_internal.held_query(protected_id integer, relation oid, operation text, row_wise boolean)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold record;
begin
  select h.id, p.target_name into v_hold
  from grace_internal.active_hold h
  join grace_internal.protected p on p.id = h.protected_id
  where h.protected_id = any (grace_internal.held_under(held_query.protected_id)) and grace_internal.hold_names(h.*) is null
  order by h.id
  limit 1;
  if found then
    raise exception 'nothing can be deleted from %: hold % can''t be matched with its rows any more', v_hold.target_name, v_hold.id
      using errcode = 'GR029',
      detail = 'A column of the primary key that it names was dropped or has changed its type, or an enum lacks the value.',
      hint = format(
        'Hold the record again as it is now: select grace.hold(…); then: select grace.release(%s, ''reason'');', v_hold.id
      );
  end if;
  return coalesce(
    grace_internal.first_held(protected_id, null, grace_internal.held_among(
      protected_id,
      case when row_wise and operation = 'DELETE' then '($1)' else 'g' end,
      case
        when operation = 'TRUNCATE' then format('only %s as g', grace_internal.qualified_name(relation))
        when not row_wise then 'grace_gone as g'
      end,
      operation = 'TRUNCATE' or not row_wise
    )),
    'select null::bigint, 0::bigint'
  );
end
$$;

-- The newest hold that a table's capture function knows of: a function is always called as it is now, whatever the snapshot.
create or replace function grace_internal.newest_hold(protected_id integer)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (regexp_match(
    pg_get_functiondef(to_regproc(format('grace_internal.%I', 'capture_' || protected_id))), 'require_current_holds[(]([0-9]+)[)]'
  ))[1]::bigint
$$;

-- Above READ COMMITTED a hold that was placed after the transaction began can't be seen.
create or replace function grace_internal.require_current_holds(newest_hold bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed'
    and not exists (select from grace_internal.hold h where h.id = newest_hold)
  then
    raise exception 'could not serialize access: hold % was placed after this transaction began', newest_hold
      using errcode = 'serialization_failure',
      detail = 'Whether what is deleted is held can''t be told from what this transaction sees.',
      hint = 'Run the transaction again.';
  end if;
end
$$;

-- Errors: GR029, always.
create or replace function grace_internal.refuse_held(hold_id bigint, records bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hold grace_internal.hold;
begin
  select h.* into strict v_hold from grace_internal.hold h where h.id = hold_id;
  raise exception '% % %: % (hold %)',
    coalesce((select p.target_name from grace_internal.protected p where p.id = v_hold.protected_id), v_hold.target_name), v_hold.key,
    case when records > 1 then format('and %s more are held', records - 1) else 'is held' end, v_hold.reason,
    concat_ws(', case ', v_hold.id, v_hold.case_number)
    using errcode = 'GR029',
    detail = format(
      'Held by %s since %s, until %s.', v_hold.held_by, to_char(v_hold.held_at, 'YYYY-MM-DD HH24:MI TZ'),
      coalesce(to_char(v_hold.until, 'YYYY-MM-DD HH24:MI TZ'), 'it is released')
    ),
    hint = format('Leave it out. Or, as a member of grace_admin: select grace.release(%s, ''reason'');', v_hold.id);
end
$$;

-- What the capture function of a table with holds does besides, once it has captured something; empty without any. It looks at the holds
-- themselves, so that nothing has to be written anew when one ends. Where many rows go, or a value of an enum may have been renamed, the
-- statement is made each time.
create or replace function grace_internal.hold_check(protected_id integer, row_wise boolean)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_newest bigint := grace_internal.newest_hold(protected_id);
  v_is_static boolean;
begin
  if v_newest is not null then
    perform grace_internal.require_current_holds(v_newest);
  end if;
  select
    max(h.id),
    bool_and(
      grace_internal.hold_names(h.*) is not null
      and not exists (select from unnest(h.types) t join pg_type e on e.oid = t and e.typtype = 'e')
    )
  into v_newest, v_is_static
  from grace_internal.active_hold h
  where h.protected_id = any (grace_internal.held_under(hold_check.protected_id));
  if v_newest is null then
    return '';
  end if;
  return format(
    $body$
  if v_rows > 0 then
    declare
      v_hold bigint;
      v_records bigint;
    begin
      perform grace_internal.require_current_holds(%1$s);
      if %2$s then
        %3$s;
      else
        execute grace_internal.held_query(%4$s, tg_relid, tg_op, %5$L) into v_hold, v_records%6$s;
      end if;
      if v_records > 0 then
        perform grace_internal.refuse_held(v_hold, v_records);
      end if;
    end;
  end if;
$body$,
    v_newest,
    case when v_is_static then 'v_unchanged and v_rows < 100' else 'false' end,
    case
      when v_is_static then grace_internal.first_held(protected_id, 'v_hold, v_records', grace_internal.held_among(
        protected_id, case when row_wise then 'old' else 'g' end, case when not row_wise then 'grace_gone as g' end, false
      ))
      else 'null'
    end,
    protected_id, row_wise, case when row_wise then ' using old' else '' end
  );
end
$generate$;

-- SET clauses that the capture function of a table with holds needs.
create or replace function grace_internal.hold_settings(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select grace_internal.key_settings()
    from grace_internal.active_hold h
    join grace_internal.protected p on p.id = hold_settings.protected_id
    where h.protected_id = any (grace_internal.held_under(p.id))
      and grace_internal.output_settings(
        p.target, grace_internal.numbers_of(p.target, coalesce(grace_internal.hold_names(h.*), h.names))
      ) <> ''
    limit 1
  ), '')
$$;

-- Rows that go otherwise than by a statement that the capture function sees whole. Errors: GR029.
create or replace function grace_internal.require_unheld_row(protected_id integer, "row" record)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_newest bigint := grace_internal.newest_hold(protected_id);
  v_hold bigint;
  v_records bigint;
begin
  if v_newest is not null then
    perform grace_internal.require_current_holds(v_newest);
    execute grace_internal.held_query(protected_id, null, 'DELETE', true) into v_hold, v_records using "row";
    if v_records > 0 then
      perform grace_internal.refuse_held(v_hold, v_records);
    end if;
  end if;
end
$$;

create or replace function grace_internal.require_unheld_rows(protected_id integer, leaf oid, tids tid [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_newest bigint := grace_internal.newest_hold(protected_id);
  v_hold bigint;
  v_records bigint;
begin
  if v_newest is not null then
    perform grace_internal.require_current_holds(v_newest);
    execute grace_internal.held_query(protected_id, leaf, 'TRUNCATE', false) || ' and g.ctid = any ($1)' into v_hold, v_records using tids;
    if v_records > 0 then
      perform grace_internal.refuse_held(v_hold, v_records);
    end if;
  end if;
end
$$;

-- Capture functions that look for holds although none is left: those of a hold's time that has passed. Whoever changes such a function has
-- the table's row in the registry first.
create or replace function grace_internal.forget_ended_holds()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  for v_id in
    select p.id
    from grace_internal.protected p
    join pg_proc f on f.pronamespace = 'grace_internal'::regnamespace and f.proname = 'capture_' || p.id
    join pg_class c on c.oid = p.target
    where f.prosrc like '%require_current_holds%'
      and not exists (select from grace_internal.active_hold h where h.protected_id = any (grace_internal.held_under(p.id)))
  loop
    perform from grace_internal.protected p where p.id = v_id for no key update skip locked;
    if found and not exists (
      select from grace_internal.active_hold h where h.protected_id = any (grace_internal.held_under(v_id))
    ) then
      perform grace_internal.generate_capture(v_id);
      update grace_internal.capture c set kept = false where c.protected_id = v_id and c.kept;
    end if;
  end loop;
end
$$;
