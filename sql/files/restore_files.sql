-- Large objects that rows of the buffer refer to, each with its deletion: text of a query. "source" is the FROM and WHERE of
-- these rows, with alias b; null where the table has none.
create or replace function grace_internal.kept_files(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select distinct b.grace_deletion, b.grace_deleted_at, v.loid from (select b.* %s) b '
    'cross join lateral pg_catalog.unnest(%s) as v (loid) where v.loid is not null',
    source, v
  )
  from grace_internal.file_values(protected_id, 'large object') v
  where v is not null
$$;

-- Why a large object could not come back, null where it can: one of its number is there with another content. Read only.
create or replace function grace._file_conflict(
  protected_id integer, deletion bigint, deleted_at timestamptz, loid oid
)
returns text
language plpgsql stable
security definer -- what is kept is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_differs boolean;
begin
  if not exists (select from pg_largeobject_metadata m where m.oid = loid) then
    return null;
  end if;
  execute format(
    'select coalesce(bool_or(f.data <> lo_get(f.loid, f.page::bigint * 262144, 262144)), false) '
    'or lo_get($3, (max(f.page) + 1)::bigint * 262144, 1) <> ''''::bytea from grace_internal.%I f '
    'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3', 'f' || protected_id
  )
  into v_differs using deletion, deleted_at, loid;
  return case when v_differs then format('large object %s is there now with another content', loid) end;
end
$$;
comment on function grace._file_conflict(integer, bigint, timestamptz, oid) is
'Internal: why a kept large object can''t come back.';

create or replace function grace_internal.file_conflict_query(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select %1$s, null::pg_catalog.jsonb, ''large object''::pg_catalog.text, w.why from (%2$s) as f cross join lateral '
    'grace._file_conflict(%1$s, f.grace_deletion, f.grace_deleted_at, f.loid) as w (why) where w.why is not null',
    protected_id, q
  )
  from grace_internal.kept_files(protected_id, source) q
  where q is not null
$$;

-- Puts the large objects of rows that are being restored back under their numbers, with owner and rights. One that is still
-- there is left alone. Errors: GR011 when another has taken the number.
create or replace function grace_internal.restore_files(protected_id integer, source text, picks grace._row_ref [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion bigint;
  v_deleted_at timestamptz;
  v_loid oid;
  v_page integer;
  v_owner name;
  v_acl text [];
  v_data bytea;
  v_why text;
begin
  for v_deletion, v_deleted_at, v_loid in execute grace_internal.kept_files(protected_id, source) using picks loop
    v_why := grace._file_conflict(protected_id, v_deletion, v_deleted_at, v_loid);
    if v_why is not null then
      raise exception 'nothing was restored: %', v_why
        using errcode = 'GR011',
        detail = 'A restored row refers to it by its number.',
        hint = 'Move what is there: lo_from_bytea(0, lo_get(…)), then lo_unlink(…).';
    end if;
    continue when exists (select from pg_largeobject_metadata m where m.oid = v_loid);
    for v_page, v_owner, v_acl, v_data in execute format(
      'select f.page, f.owner, f.acl, f.data from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3 order by f.page', 'f' || protected_id
    ) using v_deletion, v_deleted_at, v_loid
    loop
      if v_page = 0 then
        perform lo_create(v_loid);
        perform grace_internal.give_large_object(v_loid, v_owner, v_acl);
      end if;
      perform lo_put(v_loid, v_page::bigint * 262144, v_data);
    end loop;
  end loop;
end
$$;

-- Owner and rights as they were, as far as the roles still exist.
create or replace function grace_internal.give_large_object(loid oid, owner name, acl text [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_item text;
  v_grant record;
begin
  foreach v_item in array coalesce(acl, '{}') loop
    begin
      for v_grant in
        select coalesce(quote_ident(r.rolname), 'public') as grantee, a.privilege_type, a.is_grantable
        from aclexplode(array[v_item::aclitem]) a
        left join pg_roles r on r.oid = a.grantee
        where r.rolname is distinct from owner
      loop
        execute format(
          'grant %s on large object %s to %s%s', v_grant.privilege_type, loid, v_grant.grantee,
          case when v_grant.is_grantable then ' with grant option' else '' end
        );
      end loop;
    exception when undefined_object then
      raise warning 'a right on large object % is not given back: its role is gone', loid using detail = v_item;
    end;
  end loop;
  if not exists (select from pg_roles r where r.rolname = owner) then
    raise warning 'large object % belongs to % now: its owner % is gone', loid, current_user, owner;
  elsif owner <> current_user then
    execute format('alter large object %s owner to %I', loid, owner);
  end if;
end
$$;

-- Takes what is kept of large objects away when no row is left in the buffer that refers to it.
create or replace function grace_internal.drop_kept_files(protected_id integer, deletions bigint [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'delete from grace_internal.%I f where f.grace_deletion = any ($1) and not exists ('
    'select from grace_buffer.%I b where b.grace_deletion = f.grace_deletion and b.grace_deleted_at = f.grace_deleted_at '
    'and f.loid = any (%s))',
    'f' || protected_id,
    (select p.buffer from grace_internal.protected p where p.id = protected_id),
    grace_internal.file_values(protected_id, 'large object')
  )
  using deletions;
end
$$;
