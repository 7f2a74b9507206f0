-- One value as jsonb, the same in every session: to_jsonb() runs casts to json that the application has made, and writes a time with
-- time zone in the session's. All but numbers, booleans and times is text by the type's output function.
create or replace function grace_internal.value_json("column" text, type oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when b.type = 'timestamptz'::regtype then format(
      'to_jsonb(concat(to_jsonb(timezone(''UTC'', %1$s)) #>> ''{}'', case when isfinite(%1$s) then ''+00:00'' end))', "column"
    )
    when b.type = any ('{bool,int2,int4,int8,numeric,float4,float8,date,timestamp}'::regtype []) then format('to_jsonb(%s)', "column")
    when b.type = 'bytea'::regtype then format('to_jsonb(''\x'' || encode(%s, ''hex''))', "column")
    else format('to_jsonb(%s)', grace_internal.as_text("column"))
  end
  from grace_internal.base_type(type) as b (type)
$$;

create or replace function grace_internal.key_json(expressions text [], names name [], types oid [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('jsonb_build_object(%s)', string_agg(
    format('%L, %s', u.name, grace_internal.value_json(u.expression, u.type)), ', ' order by u.n
  ))
  from unnest(expressions, names, types) with ordinality as u (expression, name, type, n)
$$;
