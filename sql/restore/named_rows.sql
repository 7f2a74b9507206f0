-- Buffered rows as a FROM item that is called like the table, with the columns of the table as they are called now, former columns, and
-- grace_deletion and grace_deleted_at: what a condition is read on. Of a partition only the rows that belong into it.
create or replace function grace_internal.named_rows(protected_id integer, source text, of_partition regclass default null)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    '(select * from (select %s, b.grace_deletion, b.grace_deleted_at, %s as "grace ref" %s offset 0) r where %s offset 0) as %I',
    (
      select string_agg(format('%s as %I', v.expression, v.name), ', ')
      from (
        select
          coalesce(grace_internal.buffer_value(p.id, a.attnum), format('null::%s', format_type(a.atttypid, a.atttypmod)))
            as expression,
          a.attname as name
        from pg_attribute a
        where a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
        union all
        select format('b.%I', m.buffer_column), m.buffer_column
        from grace_internal.column_map m
        where m.protected_id = p.id and m.ended_at is not null
          and not exists (
            select from pg_attribute a
            where a.attrelid = p.target and a.attname = m.buffer_column and not a.attisdropped
          )
      ) as v
    ),
    grace_internal.ref_expression(p.id), source,
    coalesce(pg_get_partition_constraintdef(nullif(of_partition, p.target)), 'true'), c.relname
  )
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  where p.id = protected_id
$$;
