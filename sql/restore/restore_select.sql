-- Deletions that have something left to restore. Errors: GR007 when there is none.
create or replace function grace_internal.matching_deletions(
  only_id integer, deletion bigint, deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  application text, reason text, wanted text, lock boolean
)
returns bigint []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletions bigint [] := grace_internal.logged_deletions(
    only_id, deletion, deleted_from, deleted_to, deleted_by, application, reason
  );
  v_left bigint [];
  v_is_there boolean;
begin
  if v_deletions is null then
    v_is_there := deletion is not null
      and grace_internal.logged_deletions(only_id, deletion, null, null, null, null, null) is not null;
    raise exception '%', case
        when deletion is null then 'no deletion matches'
        when v_is_there then format('deletion %s does not match', deletion)
        else format('there is no deletion %s', deletion)
      end
      using errcode = 'GR007',
      detail = case
        when v_is_there then 'It is in the log of deletions, but not with all that is asked for.'
        else 'It is not in the log of deletions'
          || case when only_id is not null then ' of this table' else '' end
          || ', or its retention has expired.'
      end,
      hint = 'Look at what there is: select * from grace.deletions order by id desc;';
  end if;
  if lock then
    perform grace_internal.lock_deletions(v_deletions);
  end if;

  select array_agg(d.deletion order by d.deletion) into v_left
  from (
    select c.deletion
    from grace_internal.capture c
    where c.deletion = any (v_deletions) and (only_id is null or c.protected_id = only_id)
    group by c.deletion
    having sum(c.row_count) > coalesce((
      select sum(r.row_count)
      from grace_internal.restored r
      where r.deletion = c.deletion and (only_id is null or r.protected_id = only_id)
    ), 0)
  ) as d;
  if v_left is null then
    raise exception 'nothing is left to restore%',
      coalesce(' of ' || wanted, ' of deletion ' || array_to_string(v_deletions [:20], ', '))
      using errcode = 'GR007',
      detail = (
        select 'Restored ' || string_agg(
          distinct format('by %s at %s', u.role, to_char(u.started_at, 'YYYY-MM-DD HH24:MI:SS TZ')), '; '
        )
        from grace_internal.restored r
        join grace_internal.run u on u.id = r.run_id
        where r.deletion = any (v_deletions [:20])
      ),
      hint = 'Each deleted row can be restored once. Look for the rows in their tables.';
  end if;
  return v_left;
end
$$;

-- The log's deletions, as far as they have not expired. application and reason need only be contained, in any case.
create or replace function grace_internal.logged_deletions(
  only_id integer, deletion bigint, deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  application text, reason text
)
returns bigint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(distinct c.deletion order by c.deletion)
  from grace_internal.capture c
  where (only_id is null or c.protected_id = only_id)
    and (logged_deletions.deletion is null or c.deletion = logged_deletions.deletion)
    and (deleted_from is null or c.deleted_at >= deleted_from)
    and (deleted_to is null or c.deleted_at < deleted_to)
    and (deleted_by is null or deleted_by in (c.role, c.login))
    and (application is null or strpos(lower(c.application_name), lower(application)) > 0)
    and (logged_deletions.reason is null or strpos(lower(c.reason), lower(logged_deletions.reason)) > 0)
    and c.deleted_at > grace._expired_before(c.protected_id)
$$;

-- Holds deletions against every other restore and purge until the transaction ends.
create or replace function grace_internal.lock_deletions(deletions bigint [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from grace_internal.capture c where c.deletion = any (deletions) order by c.deletion, c.ctid for update;
end
$$;

-- Finds what a restore selects; changes nothing. With lock what it found stays as it is until the transaction ends.
-- Where not whole deletions are selected, or with row_by_row, it leaves queries for the rows, to be run with the caller's rights. Errors:
-- GR001, GR007, GR008, GR009, GR016.
create or replace function grace._restore_select(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  application text, reason text, predicate text,
  related boolean, row_by_row boolean, lock boolean
)
returns grace._restore_plan
language plpgsql
security definer -- reads the log and the registry, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan grace._restore_plan;
  v_id integer;
begin
  if num_nonnulls(deletion, keys, deleted_from, deleted_to, deleted_by, application, reason, predicate) = 0 then
    raise exception 'nothing is selected'
      using errcode = 'GR016',
      detail = 'A restore needs a deletion, keys, a time, a role or a condition to go by.',
      hint = 'Look at grace.deletions and give the id: select * from grace.restore(deletion => …);';
  end if;
  if target is null and (keys is not null or predicate is not null) then
    raise exception '% without a table', case when keys is not null then 'keys' else 'a condition' end
      using errcode = 'GR016',
      detail = 'A key or a condition means something only in a table.',
      hint = 'Give the table as target.';
  end if;
  v_plan.locks := lock;
  if target is not null then
    v_id := grace_internal.protected_id(target);
    v_plan.target := coalesce(pg_partition_root(target), target);
  end if;

  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
  end if;
  v_plan.deletions := grace_internal.matching_deletions(
    v_id, deletion, deleted_from, deleted_to, deleted_by, application, reason,
    case when keys is not null then format('%s %s', target, keys) end, lock
  );

  if predicate is not null or target <> v_plan.target then
    v_plan.filter_source := grace_internal.named_rows(v_id, grace_internal.restore_source(v_id, v_plan), target);
    v_plan.predicate := coalesce(predicate, 'true');
    v_plan.picks := '{}';
  end if;
  if keys is not null then
    v_plan.statement := grace_internal.pick_keys(v_id, v_plan, keys);
  elsif v_plan.picks is null then
    select array_agg(c.protected_id order by c.protected_id) into v_plan.protected_ids
    from (
      select distinct c.protected_id
      from grace_internal.capture c
      where c.deletion = any (v_plan.deletions) and (v_id is null or c.protected_id = v_id)
    ) as c;
    if row_by_row or (
      v_id is not null and related and exists (
        select from grace_internal.capture c where c.deletion = any (v_plan.deletions) and c.protected_id <> v_id
      )
    ) then
      select format('select array_agg(x.ref), null::text from (%s) x', string_agg(
        format('select %s as ref %s', grace_internal.ref_expression(i), grace_internal.restore_source(i, v_plan)), ' union all '
      )) into v_plan.statement
      from unnest(v_plan.protected_ids) i;
      v_plan.protected_ids := null;
    end if;
  end if;
  return v_plan;
end
$$;
comment on function grace._restore_select(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, text, text, text, boolean, boolean, boolean
) is
'Internal: which deletions a restore selects, and the queries for the rows.';

-- The query for where the rows of these keys stand: the newest version of each, and the keys of which there is none.
create or replace function grace_internal.pick_keys(protected_id integer, plan grace._restore_plan, keys jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys text := grace_internal.keys_source(protected_id, keys);
  v_versions text := grace_internal.ranked_versions(
    protected_id,
    format(
      '%s and exists (select from %s where %s)',
      grace_internal.restore_source(protected_id, plan), v_keys, grace_internal.keys_condition(protected_id)
    )
  );
begin
  return format(
    'select array_agg(v."grace ref") filter (where v."grace ref" is not null), '
    'string_agg(to_jsonb(k)::text, '', '') filter (where v."grace ref" is null) '
    'from (select distinct k.* from %s) k left join (%s) v on v."grace version" = 1 and %s',
    v_keys, v_versions,
    (
      select string_agg(
        format('v."grace %s" %s k.%I', u.position, grace_internal.equality(i.indexrelid, u.position::integer), a.attname),
        ' and '
      )
      from grace_internal.protected p
      join pg_index i on i.indrelid = p.target and i.indisprimary
      cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
      join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
      where p.id = protected_id
    )
  );
end
$$;
