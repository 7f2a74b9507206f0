-- Where a buffer is and which of its rows are meant; the reading itself is done with the caller's rights.
create or replace function grace._buffer_condition(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name, application text, reason text,
  out source text, out named text, out retention interval
)
language plpgsql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_id integer := grace_internal.protected_id(target);
begin
  select
    format('from grace_buffer.%I b where b.grace_deleted_at operator(pg_catalog.>) %L', p.buffer, grace._expired_before(p.id)),
    p.span
  into source, retention
  from grace_internal.protected p
  where p.id = v_id;
  if deletion is not null then
    source := source || format(' and b.grace_deletion operator(pg_catalog.=) %L::pg_catalog.int8', deletion);
  end if;
  if deleted_from is not null then
    source := source || format(' and b.grace_deleted_at operator(pg_catalog.>=) %L', deleted_from);
  end if;
  if deleted_to is not null then
    source := source || format(' and b.grace_deleted_at operator(pg_catalog.<) %L', deleted_to);
  end if;
  if num_nonnulls(deleted_by, application, reason) > 0 then
    source := source || format(
      ' and b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[])',
      coalesce(
        grace_internal.logged_deletions(v_id, deletion, deleted_from, deleted_to, deleted_by, application, reason), '{}'
      )
    );
  end if;
  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
    source := source || format(
      ' and exists (select from %s where %s)',
      grace_internal.keys_source(v_id, keys), grace_internal.keys_condition(v_id)
    );
  end if;
  named := grace_internal.named_rows(v_id, source, target);
end
$$;
comment on function grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name, text, text) is
'Internal: the buffer of a table and the condition that selects rows in it.';

create or replace function grace.buffered(
  target regclass,
  deletion bigint default null,
  keys jsonb default null,
  deleted_from timestamptz default null,
  deleted_to timestamptz default null,
  deleted_by name default null,
  max_rows bigint default null,
  predicate text default null,
  application text default null,
  reason text default null
)
returns table (deletion_id bigint, deleted_at timestamptz, expires_at timestamptz, record jsonb)
language plpgsql stable
as $$
declare
  v_where record;
begin
  select w.* into v_where
  from grace._buffer_condition(target, deletion, keys, deleted_from, deleted_to, deleted_by, application, reason) w;
  if predicate is not null then
    perform grace._check_predicate(v_where.named, predicate);
  end if;
  begin
    return query execute pg_catalog.format(
      'select b.grace_deletion, b.grace_deleted_at, b.grace_deleted_at operator(pg_catalog.+) %L::pg_catalog.interval, '
      'pg_catalog.to_jsonb(b.*) operator(pg_catalog.-) ''grace_deletion''::pg_catalog.text '
      'operator(pg_catalog.-) ''grace_deleted_at''::pg_catalog.text '
      '%s%s order by b.grace_deleted_at desc, b.grace_deletion desc limit %L::pg_catalog.int8',
      v_where.retention, v_where.source,
      case when predicate is not null or (select c.relispartition from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) target)
        then pg_catalog.format(
          e' and (b.tableoid, b.ctid) in (select ("grace ref").leaf, ("grace ref").tid from %s where (%s\n))',
          v_where.named, coalesce(predicate, 'true')
        )
        else ''
      end,
      max_rows
    );
  exception when data_exception then
    raise exception 'a selected row or key can''t be read'
      using errcode = 'GR008',
      detail = sqlerrm,
      hint = 'Give each key''s value as the column''s type reads it.';
  end;
end
$$;
comment on function grace.buffered(
  regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint, text, text, text
) is
'The rows of a table (or of one partition) that can be restored, newest first, each as one jsonb record. deletion: of this deletion only. keys: a primary key or an array of them, {"id": 7} or, for a one-column key, 7. deleted_from, deleted_to: from the first moment on, before the second. deleted_by: role or login. max_rows: no more than these. predicate: for which this condition on the table''s columns holds. application, reason: contained in what the deletion''s session had set. Errors: GR001, GR008, GR009, GR022, 42501.';
