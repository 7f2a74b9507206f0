-- A record is known by its primary key, as text: comparing it, or reading it from text, as the values that it is made of could run code of
-- the application's (a domain's check, a cast) with the rights of the owner of pg_grace.

create or replace view grace_internal.active_hold as
select
  h.id,
  h.protected_id,
  h.key,
  h.columns,
  h.names,
  h.types,
  h.key_values,
  h.is_live
from grace_internal.hold h
where h.released_at is null and coalesce(h.until > statement_timestamp(), true);

comment on view grace_internal.active_hold is 'Holds that hold: neither released nor past their time.';

-- Under which numbers holds on records of a table may stand: its own, those of partitions that were protected before they became its, and,
-- for the buffer that is left of such a partition, that of the whole.
create or replace function grace_internal.held_under(protected_id integer)
returns integer []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(o.id order by o.id)
  from grace_internal.protected p
  join grace_internal.protected o
    on o.id = p.id or pg_partition_root(o.target) = p.target or pg_partition_root(p.target) = o.target
  where p.id = protected_id
$$;

-- A key column's value as text, by the type's output function. Of a number without zeroes at its end and of a char(n) without blanks, which
-- a new precision or length would add.
create or replace function grace_internal.key_text("column" text, type oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case grace_internal.base_type(type)
    when 'numeric'::regtype then format('trim_scale(%s)::text', "column")
    when 'bpchar'::regtype then format('%s::text', "column")
    else grace_internal.as_text("column")
  end
$$;

-- The SET clauses under which the same value is always written alike.
create or replace function grace_internal.key_settings()
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select ' set datestyle = ''ISO'' set intervalstyle = ''postgres'' set extra_float_digits = 1 set bytea_output = ''hex'''
    ' set timezone = ''UTC'' set lc_monetary = ''C'''
$$;

-- Whether text can be read as a value of this type without running anything but PostgreSQL's own and superusers' code.
create or replace function grace_internal.is_safe_to_read(type oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.typtype = 'e' or (t.typtype = 'b' and (t.typcategory <> 'A' or t.typnamespace = 'pg_catalog'::regnamespace))
  from pg_type t
  where t.oid = grace_internal.base_type(type)
$$;

-- Whether values are written alike after one type has become the other.
create or replace function grace_internal.reads_alike(former oid, type oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select former = type
    or (former = any (n.numbers) and type = any (n.numbers))
    or (former = any (n.texts) and type = any (n.texts))
  from (select '{int2,int4,int8,numeric}'::regtype [] as numbers, '{text,varchar}'::regtype [] as texts) as n
$$;

-- A hold's columns as the table calls them now; null when its record can no longer be told from others: a column is gone, or has another
-- type, or what the key says is no longer one of an enum's values.
create or replace function grace_internal.hold_names(hold grace_internal.active_hold)
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select n.names
  from grace_internal.protected p
  cross join lateral (
    select grace_internal.names_now(p.target, hold.columns, hold.names, grace_internal.has_moved(p.*)) as names
  ) as n
  where p.id = hold.protected_id and not exists (
    select
    from unnest(n.names, hold.types, hold.key_values) as k (name, type, value)
    join pg_attribute a on a.attrelid = p.target and a.attname = k.name
    join pg_type t on t.oid = grace_internal.base_type(a.atttypid)
    where not grace_internal.reads_alike(k.type, t.oid)
      or (t.typtype = 'e' and not exists (select from pg_enum e where e.enumtypid = t.oid and e.enumlabel = k.value))
  )
$$;

-- The key of a row of the table (an alias, or a record in parentheses) as it is compared with a hold's key_values.
create or replace function grace_internal.live_key("row" text, target regclass, names name [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'array[%s]', string_agg(grace_internal.key_text(format('%s.%I', "row", a.attname), a.atttypid), ', ' order by k.position)
  )
  from unnest(names) with ordinality as k (name, position)
  join pg_attribute a on a.attrelid = target and a.attname = k.name
$$;

-- The key of a row of the buffer, in whichever columns it has been; null when one of them is in none.
create or replace function grace_internal.buffered_key_text(protected_id integer, columns smallint [], alias text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(v.expression) = cardinality(columns) then
    format('array[%s]', string_agg(v.expression, ', ' order by k.position))
  end
  from unnest(columns) with ordinality as k (attnum, position)
  cross join lateral (
    select 'coalesce(' || string_agg(
      grace_internal.key_text(format('%s.%I', alias, c.buffer_column), c.type), ', ' order by c.ended_at desc nulls first
    ) || ')' as expression
    from grace_internal.protected_column c
    where c.protected_id = buffered_key_text.protected_id and c.attnum = k.attnum
  ) as v
$$;

-- A key as it is shown: numbers as numbers.
create or replace function grace_internal.shown_key(names name [], types regtype [], key_values text [])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_object_agg(
    k.name,
    case
      when k.type = any ('{int2,int4,int8,numeric,oid}'::regtype []) and k.value ~ '^-?[0-9]+([.][0-9]+)?$' then k.value::jsonb
      else to_jsonb(k.value)
    end
  )
  from unnest(names, types, key_values) as k (name, type, value)
$$;

-- What holds call the columns of a table after those were renamed, or have other numbers because a dump was loaded.
create or replace function grace_internal.rename_holds(protected_id integer, moved boolean)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.hold h
  set columns = n.columns, names = n.names, key = grace_internal.shown_key(n.names, h.types, h.key_values)
  from grace_internal.protected p
  cross join lateral (select h0.* from grace_internal.hold h0 where h0.protected_id = p.id and h0.released_at is null) as o
  cross join lateral (
    select
      array_agg(case when moved then coalesce(a.attnum, -1::smallint) else k.attnum end order by k.position) as columns,
      array_agg(coalesce(a.attname, k.name) order by k.position) as names
    from unnest(o.columns, o.names) with ordinality as k (attnum, name, position)
    left join pg_attribute a
      on a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
      and case when moved then a.attname = k.name else a.attnum = k.attnum end
  ) as n
  where p.id = rename_holds.protected_id and h.id = o.id and (n.columns <> h.columns or n.names <> h.names)
$$;
