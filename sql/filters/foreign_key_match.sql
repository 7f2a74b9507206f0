-- Which rows a foreign key ties together, as a condition on the values of the referenced and of the referencing columns: by the foreign
-- key's own operators and, where the collations differ, by the referenced column's, as PostgreSQL itself looks for them.
create or replace function grace_internal.foreign_key_match(constraint_id oid, parent text [], child text [])
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select string_agg(
      grace_internal.comparison(
        k.operator_oid,
        k.parent || case when a.attcollation <> b.attcollation then (
          select format(' collate %I.%I', n.nspname, o.collname)
          from pg_collation o
          join pg_namespace n on n.oid = o.collnamespace
          where o.oid = a.attcollation
        ) else '' end,
        a.atttypid, k.child, b.atttypid
      ),
      ' and ' order by k.n
    )
    from pg_constraint f
    cross join lateral unnest(f.conpfeqop, f.confkey, f.conkey, parent, child)
      with ordinality as k (operator_oid, parent_attnum, child_attnum, parent, child, n)
    join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.parent_attnum
    join pg_attribute b on b.attrelid = f.conrelid and b.attnum = k.child_attnum
    where f.oid = constraint_id
  );
end
$$;

-- Columns as expressions.
create or replace function grace_internal.columns_of(alias text, names name [])
returns text []
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(format('%s.%I', alias, u.name) order by u.n) from unnest(names) with ordinality as u (name, n)
$$;

create or replace function grace_internal.untrusted_foreign_key(constraint_id oid)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select grace_internal.untrusted_comparison(
      f.conpfeqop,
      (
        select array_agg(a.atttypid order by k.n)
        from unnest(f.confkey) with ordinality as k (attnum, n)
        join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum
      ),
      (
        select array_agg(a.atttypid order by k.n)
        from unnest(f.conkey) with ordinality as k (attnum, n)
        join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum
      )
    )
    from pg_constraint f
    where f.oid = constraint_id
  );
end
$$;

-- The operator by which a primary key tells the nth column's values apart.
create or replace function grace_internal.key_operators(relation oid)
returns table (attname name, type oid, operator_oid oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select a.attname, a.atttypid, o.amopopr
  from pg_index i
  cross join lateral unnest(i.indkey::smallint [], i.indclass::oid []) with ordinality as k (attnum, class, n)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  join pg_opclass c on c.oid = k.class
  join pg_amop o
    on o.amopfamily = c.opcfamily
    and o.amoplefttype = c.opcintype
    and o.amoprighttype = c.opcintype
    and o.amopstrategy = 3
  where i.indrelid = relation and i.indisprimary and k.n <= i.indnkeyatts
  order by k.n
$$;
