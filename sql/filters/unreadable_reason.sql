-- Why the owner of pg_grace can't read all rows of a table, or not without running code of others; null when it can.
create or replace function grace_internal.unreadable_reason(relation oid)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(
      case
        when not has_schema_privilege(c.relnamespace, 'usage') then format('%I has no right on its schema', current_user)
        when not has_table_privilege(c.oid, 'select') then format('%I has no right to read it', current_user)
        when row_security_active(c.oid) then format('row-level security hides rows of it from %I', current_user)
        when exists (
          select
          from grace_internal.partition_tree(c.oid) as t (relation)
          join pg_class p on p.oid = t.relation
          where p.relkind = 'f'
        ) then 'it is a foreign table or has one as a partition'
      end,
      'its indexes, statistics or partition keys use ' || grace_internal.untrusted_code(c.oid)
    )
    from pg_class c
    where c.oid = relation
  );
end
$$;
