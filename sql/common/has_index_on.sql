-- Whether the columns, in any order, are the first ones of an index that can look up single values.
create or replace function grace_internal.has_index_on(relation oid, columns name [])
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_am m on m.oid = c.relam and m.amname in ('btree', 'hash')
    where i.indrelid = relation and i.indisvalid
      and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', columns[1]))
      and grace_internal.column_names(relation, (i.indkey::smallint [])[0:cardinality(columns) - 1]) @> columns
  )
$$;
