-- A condition by one operator, given by number. Arguments of another type than the operator's are cast, as foreign keys do it: where
-- they are not, PostgreSQL may find a better fitting operator of that name in its schema, which may be anybody's.
create or replace function grace_internal.comparison(
  operator_oid oid, "left" text, left_type oid, "right" text, right_type oid
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      case
        when a.type = a.input or t.typtype = 'p' then a.expression
        else format('(%s)::%s', a.expression, format_type(a.input, -1))
      end,
      format(' %s ', grace_internal.qualified_operator(o.oid)) order by a.n
    )
    from pg_operator o
    cross join lateral (
      values (1, "left", left_type, o.oprleft), (2, "right", right_type, o.oprright)
    ) as a (n, expression, type, input)
    join pg_type t on t.oid = a.input
    where o.oid = operator_oid
  );
end
$$;

-- Code that comparing values of these types by these operators would run with the rights of whoever compares: the operators, what their
-- families have for hashing and sorting, casts to their arguments' types, and the comparison of what is inside arrays, composites and
-- ranges. What PostgreSQL brings along is trusted, and functions of superusers and of the current role, as in untrusted_code. Returns
-- the first one that is not, else null.
create or replace function grace_internal.untrusted_comparison(operators oid [], left_types oid [], right_types oid [])
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if 16384 > all (operators || left_types || right_types) then -- numbers of what initdb makes
    return null;
  end if;
  return (
    with arguments (type, input) as (
      select grace_internal.base_type(a.type), a.input
      from unnest(operators, left_types, right_types) as u (operator_oid, left_type, right_type)
      join pg_operator o on o.oid = u.operator_oid
      cross join lateral (values (u.left_type, o.oprleft), (u.right_type, o.oprright)) as a (type, input)
    ),
    functions (id) as (
      select o.oprcode::oid from pg_operator o where o.oid = any (operators)
      union
      select o.oprcode::oid
      from pg_amop m
      join pg_amop s on s.amopfamily = m.amopfamily
      join pg_operator o on o.oid = s.amopopr
      where m.amopopr = any (operators)
      union
      select s.amproc::oid
      from pg_amop m
      join pg_amproc s on s.amprocfamily = m.amopfamily
      where m.amopopr = any (operators)
      union
      select c.castfunc
      from arguments a
      join pg_cast c on c.castsource = a.type and c.casttarget = a.input
      where a.type <> a.input
    )
    select min(u.code)
    from (
      select format('function %s of role %I', p.oid::regprocedure, r.rolname)
      from functions f
      join pg_proc p on p.oid = f.id
      join pg_roles r on r.oid = p.proowner
      where not r.rolsuper and r.rolname <> current_user
      union all
      select format('type %s', format_type(t.oid, null))
      from arguments a
      cross join lateral grace_internal.types_in(a.type) i (type)
      join pg_type t on t.oid = i.type
      where i.type <> a.type and t.typtype = 'b' and t.typcategory <> 'A' and t.typnamespace <> 'pg_catalog'::regnamespace
    ) as u (code)
  );
end
$$;
