create or replace function grace._cut_links(link integer, deletions bigint [])
returns table (child_key text [], former text [], replaced_by text [], deletion bigint, place bigint)
language sql stable
security definer -- what was cut is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select c.child_key, c.former, c.replaced_by, c.deletion, row_number() over (order by c.ctid)
  from grace_internal.link l
  join grace_internal.cut c on c.link = l.id
  where l.id = _cut_links.link and c.deletion = any (_cut_links.deletions)
    and c.deleted_at > grace._expired_before(l.protected_id)
$$;
comment on function grace._cut_links(integer, bigint []) is
'Internal: the links that deletions have cut, as text by the types'' output functions with ISO dates and full precision.';

-- Whether equal values of a foreign key and of what it references are written alike.
create or replace function grace_internal.is_written_alike(link_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(
    case
      when y.type = any ('{int2,int4,int8}'::regtype []) then z.type = any ('{int2,int4,int8}'::regtype [])
      when y.type = any ('{text,varchar}'::regtype []) then z.type = any ('{text,varchar}'::regtype []) and coalesce((
        select o.collisdeterministic from pg_collation o where o.oid = a.attcollation
      ), true)
      when y.type = any ('{uuid,oid,bool,date}'::regtype []) then z.type = y.type
      else false
    end
  ), false)
  from grace_internal.link_map m
  join grace_internal.protected p on p.id = m.protected_id
  cross join lateral unnest(m.column_names, m.parent_names) as k (child_column, parent_column)
  join pg_attribute a on a.attrelid = p.target and a.attname = k.parent_column
  join pg_attribute b on b.attrelid = m.child and b.attname = k.child_column
  cross join lateral grace_internal.base_type(a.atttypid) as y (type)
  cross join lateral grace_internal.base_type(b.atttypid) as z (type)
  where m.link = link_id
$$;

-- Forgets what these deletions have cut, as far as no row that was referenced is left in the buffer, nor any of the referencing table that
-- went in the same deletion. Where equal values may be written in two ways (1.0 and 1.00) a cut stays as long as any row of the deletion
-- does.
create or replace function grace_internal.drop_cuts(protected_id integer, deletions bigint [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_link record;
begin
  for v_link in
    select l.id, p.buffer, child.buffer as child_buffer, case when grace_internal.is_written_alike(l.id) then v.values end as values
    from grace_internal.link l
    join grace_internal.protected p on p.id = l.protected_id
    left join grace_internal.protected child on child.target = l.child
    left join grace_internal.link_map m on m.link = l.id
    cross join lateral (
      select string_agg(grace_internal.as_text(u.value), ', ' order by u.position)
      from unnest(grace_internal.buffer_values(p.id, p.target, grace_internal.numbers_of(p.target, m.parent_names), 'b'))
        with ordinality as u (value, position)
      where not exists ( -- a cast may be the application's code
        select
        from unnest(grace_internal.numbers_of(p.target, m.parent_names)) n
        cross join lateral grace_internal.value_columns(p.id, n) c
        where c.is_cast
      )
    ) as v (values)
    where l.protected_id = drop_cuts.protected_id
      and exists (select from grace_internal.cut c where c.link = l.id and c.deletion = any (drop_cuts.deletions))
  loop
    execute format(
      'delete from grace_internal.cut c where c.link = $1 and c.deletion = any ($2) and not exists ('
      'select from grace_buffer.%I b where b.grace_deletion = c.deletion and b.grace_deleted_at = c.deleted_at%s)%s',
      v_link.buffer, ' and c.former = array[' || v_link.values || ']',
      case when v_link.child_buffer is not null then format(
        ' and not exists (select from grace_buffer.%I b where b.grace_deletion = c.deletion and b.grace_deleted_at = c.deleted_at)',
        v_link.child_buffer
      ) end
    )
    using v_link.id, deletions;
  end loop;
end
$$;

-- Cuts and links of a protected table go for good.
create or replace function grace_internal.drop_links(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from grace_internal.cut c
  where c.link in (select l.id from grace_internal.link l where l.protected_id = drop_links.protected_id);
  delete from grace_internal.link l where l.protected_id = drop_links.protected_id;
end
$$;

-- What had been cut by deletions that are expired; returns whether there is more.
create or replace function grace_internal.trim_cuts(protected_id integer, before timestamptz, max_rows integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  delete from grace_internal.cut c
  where c.ctid = any (array(
    select e.ctid
    from grace_internal.cut e
    where e.link in (select l.id from grace_internal.link l where l.protected_id = trim_cuts.protected_id)
      and e.deleted_at <= before
    limit max_rows
    for update skip locked
  ));
  get diagnostics v_rows = row_count;
  if v_rows < max_rows then
    delete from grace_internal.link l
    where l.protected_id = trim_cuts.protected_id and not l.active
      and not exists (select from grace_internal.cut c where c.link = l.id)
      and not exists (select from grace_internal.link_functions(l.protected_id, false) f where f = to_regproc(format('grace_internal.%I', 'link_' || l.id)));
  end if;
  return v_rows = max_rows;
end
$$;
