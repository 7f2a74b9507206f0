-- A capture writes its rows and its log row in one subtransaction, so that all of them carry the same xmin, which PostgreSQL
-- keeps as it is, frozen or not. A row that was written or changed by hand has another one; one that was removed is missing in the
-- count. It costs a capture nothing. What a dump has loaded, or a change of type rewritten, has lost that mark: there only
-- the counts tell.
create or replace function grace.verify_buffer(target regclass default null)
returns table (buffer_of regclass, deletion bigint, finding text, row_count bigint)
language plpgsql stable
security definer -- reads buffers and log; gives away counts only
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_only integer := case when target is not null then grace_internal.protected_id(target) end;
  v_protected grace_internal.protected;
  v_marked_after bigint;
begin
  for v_protected in
    select p.* from grace_internal.protected p where v_only is null or p.id = v_only order by p.id
  loop
    v_marked_after := case
      when v_protected.relation <> v_protected.target then 9223372036854775807
      else v_protected.unmarked_to
    end;
    return query execute format(
      $q$
        with logged as (
          select c.deletion, array_agg(c.xmin::text) as marks, sum(c.row_count) - coalesce((
            select sum(r.row_count) from grace_internal.restored r
            where r.deletion = c.deletion and r.protected_id = %2$s
          ), 0) as row_count
          from grace_internal.capture c
          where c.protected_id = %2$s
          group by c.deletion
        ),
        buffered as (
          select b.grace_deletion as deletion, b.xmin::text as mark, count(*) as row_count
          from grace_buffer.%1$I b
          where b.grace_deleted_at > grace._expired_before(%2$s)
          group by b.grace_deletion, b.xmin::text
        )
        select $1, b.deletion, 'written or changed by hand', sum(b.row_count)::bigint
        from buffered b
        left join logged l on l.deletion = b.deletion
        where l.deletion is null or (b.deletion > $2 and not b.mark = any (l.marks))
        group by b.deletion
        union all
        select $1, l.deletion, case when l.row_count > coalesce(b.row_count, 0) then 'removed by hand' else 'added by hand' end,
          abs(l.row_count - coalesce(b.row_count, 0))::bigint
        from logged l
        left join (select b.deletion, sum(b.row_count) as row_count from buffered b group by b.deletion) b
          on b.deletion = l.deletion
        where l.row_count <> coalesce(b.row_count, 0)
          and exists (
            select from grace_internal.capture c
            where c.deletion = l.deletion and c.deleted_at > grace._expired_before(%2$s)
          )
        order by 2, 3
      $q$, v_protected.buffer, v_protected.id
    )
    using v_protected.target, v_marked_after;
  end loop;
end
$$;
comment on function grace.verify_buffer(regclass) is
'Compares every row in the buffer of one table, or of all, with the log: what was added, changed or removed by hand. Reads all that is buffered. Rows that came by a dump, or were rewritten with a type, can be compared by their number only. Errors: GR001.';
