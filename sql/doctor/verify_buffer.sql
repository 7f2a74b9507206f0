-- A capture writes its rows and its log row in one subtransaction, so that all of them carry the same xmin, which PostgreSQL
-- keeps as it is, frozen or not; so do a restore's run and what it notes in the log. A row that was written or changed by hand
-- has another one; one that was removed is missing in the count. It costs a capture nothing. What a dump has loaded, or a
-- change of type rewritten, has lost that mark: there only the counts tell.
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
  v_once_expired timestamptz;
begin
  for v_protected in
    select p.* from grace_internal.protected p where v_only is null or p.id = v_only order by p.id
  loop
    v_marked_after := case
      when grace_internal.has_moved(v_protected) then 9223372036854775807
      else v_protected.unmarked_to
    end;
    -- What a shorter retention had expired a purge may have begun to remove before the retention was raised.
    select max(r.started_at - make_interval(secs => extract(epoch from (r.details ->> 'before')::interval)::double precision))
    into v_once_expired
    from grace_internal.run r
    where r.kind = 'retention' and r.target = v_protected.target;
    return query execute format(
      $q$
        with logged as (
          select c.deletion, c.xmin::text as mark, min(c.deleted_at) as deleted_at, sum(c.row_count) as row_count
          from grace_internal.capture c
          where c.protected_id = %2$s and c.deleted_at > grace._expired_before(%2$s)
          group by c.deletion, c.xmin::text
        ),
        buffered as (
          select b.grace_deletion as deletion, b.xmin::text as mark, count(*) as row_count
          from grace_buffer.%1$I b
          where b.grace_deleted_at > grace._expired_before(%2$s)
          group by b.grace_deletion, b.xmin::text
        ),
        restored as (
          select r.deletion, sum(r.row_count) as row_count, sum(r.row_count) filter (
            where r.deletion > $2 and not exists (
              select from grace_internal.run u where u.id = r.run_id and u.kind = 'restore' and u.xmin = r.xmin
            )
          ) as by_hand
          from grace_internal.restored r
          where r.protected_id = %2$s and r.deleted_at > grace._expired_before(%2$s)
          group by r.deletion
        ),
        counted as (
          select
            l.deletion, l.row_count - coalesce(r.row_count, 0) as expected, coalesce(b.row_count, 0) as found,
            coalesce(l.deleted_at <= $3, false) as was_expired
          from (select l.deletion, min(l.deleted_at) as deleted_at, sum(l.row_count) as row_count from logged l group by 1) as l
          left join restored r on r.deletion = l.deletion
          left join (select b.deletion, sum(b.row_count) as row_count from buffered b group by 1) as b on b.deletion = l.deletion
        )
        select $1, b.deletion, 'written or changed by hand', sum(b.row_count - coalesce(l.row_count, 0))::bigint
        from buffered b
        left join logged l on l.deletion = b.deletion and l.mark = b.mark
        where b.row_count > coalesce(l.row_count, 0)
          and not exists (
            select from grace_internal.capture k
            where k.protected_id = %2$s and k.deletion = b.deletion and k.kept is not null
          )
          and (b.deletion > $2 or not exists (select from logged o where o.deletion = b.deletion))
        group by b.deletion
        union all
        select $1, c.deletion, case when c.expected > c.found then 'removed by hand' else 'added by hand' end,
          abs(c.expected - c.found)::bigint
        from counted c
        where c.expected < c.found or (c.expected > c.found and not c.was_expired)
        union all
        select $1, c.deletion, 'added to the log by hand', count(*)
        from grace_internal.capture c
        where c.protected_id = %2$s and c.row_count < 1
        group by c.deletion
        union all
        select $1, r.deletion, 'noted as restored by hand', r.by_hand::bigint
        from restored r
        where r.by_hand is not null
        union all
        select $1, r.deletion, 'removed from the log by hand', r.row_count::bigint
        from restored r
        where not exists (select from logged l where l.deletion = r.deletion)
        order by 2, 3
      $q$, v_protected.buffer, v_protected.id
    )
    using v_protected.target, v_marked_after, v_once_expired;
  end loop;
end
$$;
comment on function grace.verify_buffer(regclass) is
'Compares every row in the buffer of one table, or of all, with the log: what was added, changed or removed by hand. Reads all that is buffered. Rows that came by a dump, or were rewritten with a type, can be compared by their number only. Errors: GR001.';
