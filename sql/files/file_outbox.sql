create or replace view grace.file_outbox as
select
  o.id,
  coalesce(t.name, o.target_name) as target,
  o.column_name,
  o.file,
  o.deleted_at,
  o.purged_at,
  o.claimed_until,
  o.attempts,
  o.error
from grace_internal.outbox o
left join lateral (
  select p.target::text as name
  from grace_internal.protected p
  join pg_class c on c.oid = p.target
  where p.id = o.protected_id
) as t on true;

comment on view grace.file_outbox is
'Files outside the database whose rows have been purged: they can be deleted now. Work on it with grace.claim_files and grace.file_deleted, or with pg_grace files sweep.';
comment on column grace.file_outbox.target is 'The table that the row was in.';
comment on column grace.file_outbox.column_name is 'The column that referred to the file.';
comment on column grace.file_outbox.file is 'The path or URL, as it stood in the column.';
comment on column grace.file_outbox.claimed_until is 'Somebody is deleting it; from this moment on another one may.';
comment on column grace.file_outbox.attempts is 'How often it has been claimed.';
comment on column grace.file_outbox.error is 'Why it could not be deleted the last time.';

-- Which of these files a row of any protected table still refers to, live, restorable or held.
create or replace function grace_internal.referenced_files(files text [])
returns text []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set datestyle = 'ISO' -- as held keys are written
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set timezone = 'UTC'
set lc_monetary = 'C'
as $$
declare
  v_source record;
  v_found text [];
  v_result text [] := array[]::text [];
begin
  for v_source in
    select 'only ' || grace_internal.qualified_name(c.oid) as relation, a.attname as column_name, null::timestamptz as since, c.oid,
      null as held
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    join pg_class c on c.oid = t.relation and c.relkind = 'r'
    join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
    where grace_internal.file_kind(a.atttypid) = 'path'
    union all
    select format('grace_buffer.%I', p.buffer), c.buffer_column, grace._expired_before(p.id), null, h.held
    from grace_internal.protected p
    cross join lateral grace_internal.file_columns(p.id, 'path') c
    cross join lateral (select grace_internal.held_in_leaf(p.id, false, 't') as held) as h
  loop
    if v_source.oid is not null then
      perform grace_internal.require_trusted_code(
        v_source.oid, 'Let a superuser own the function; until then no file is handed out.'
      );
    end if;
    execute format(
      'select array_agg(distinct t.%1$I::text) from %2$s t where t.%1$I::text = any ($1)%3$s',
      v_source.column_name, v_source.relation,
      case
        when v_source.since is not null then format(' and (t.grace_deleted_at > $2 or %s)', coalesce(v_source.held, 'false'))
        else ''
      end
    )
    into v_found using files, v_source.since;
    v_result := v_result || coalesce(v_found, '{}');
  end loop;
  return v_result;
end
$$;

create or replace function grace.claim_files(max_files integer default 100, lease interval default '10 minutes')
returns table (id bigint, target text, column_name name, file text)
language plpgsql
security definer -- the outbox is granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_ids bigint [];
  v_files text [];
  v_dropped integer;
begin
  if coalesce(max_files < 1 or lease <= interval '0', true) then
    raise exception 'nothing would be claimed'
      using errcode = 'invalid_parameter_value', detail = format('max_files is %s, lease is %s.', coalesce(max_files::text, 'null'), coalesce(lease::text, 'null')),
      hint = 'Give positive values.';
  end if;
  loop
    with claimed as (
      update grace_internal.outbox o
      set claimed_until = clock_timestamp() + lease, attempts = o.attempts + 1
      where o.id = any (array(
        select c.id from grace_internal.outbox c
        where coalesce(c.claimed_until <= clock_timestamp(), true)
        order by c.attempts, c.id limit max_files for update skip locked
      ))
      returning o.id, o.file
    )
    select array_agg(c.id), array_agg(c.file) into v_ids, v_files from claimed c;
    exit when v_ids is null;
    -- Another row has it, too: it comes here again when that one is purged.
    v_files := grace_internal.referenced_files(v_files);
    delete from grace_internal.outbox o where o.id = any (v_ids) and o.file = any (v_files);
    get diagnostics v_dropped = row_count;
    exit when v_dropped < cardinality(v_ids); -- or the answer would be that there is none
  end loop;
  return query
    select f.id, f.target, f.column_name, f.file
    from grace.file_outbox f
    where f.id = any (v_ids)
    order by f.id;
end
$$;
comment on function grace.claim_files(integer, interval) is
'Takes files out of grace.file_outbox to be deleted by the caller, those that were tried least first; nobody else gets them before the lease is over. A file that a row still refers to, live, restorable or held, is taken off the list instead. Report each with grace.file_deleted. Errors: 22023.';

create or replace function grace.file_deleted(id bigint, error text default null)
returns void
language plpgsql
security definer -- the outbox is granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
begin
  if error is null then
    delete from grace_internal.outbox o where o.id = file_deleted.id;
  else
    update grace_internal.outbox o
    set claimed_until = null, error = file_deleted.error
    where o.id = file_deleted.id;
  end if;
  if not found then
    raise exception 'file % is not in the outbox', id
      using errcode = 'GR020', detail = 'It was deleted already, or never entered.',
      hint = 'Look at what there is: select * from grace.file_outbox;';
  end if;
end
$$;
comment on function grace.file_deleted(bigint, text) is
'Says that a claimed file is deleted (or was not there any more), which takes it off grace.file_outbox; or, with error, why it could not be deleted, which leaves it there for the next attempt. Errors: GR020.';
