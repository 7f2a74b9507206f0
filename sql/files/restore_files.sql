-- Large objects that rows of the buffer refer to, each with the deletion that kept it last and why it could not come back ('' if
-- it can): text of a query. "source" is the FROM and WHERE of these rows, with alias b; null where the table has none.
create or replace function grace_internal.kept_files(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select distinct on (f.loid) f.grace_deletion, f.grace_deleted_at, f.loid, w.why from ('
    'select distinct b.grace_deletion, b.grace_deleted_at, v.loid from (select b.* %s) b '
    'cross join lateral pg_catalog.unnest(%s) as v (loid) where v.loid is not null) as f '
    'cross join lateral grace._file_conflict(%s, f.grace_deletion, f.grace_deleted_at, f.loid) as w (why) '
    'where w.why is not null order by f.loid, f.grace_deleted_at desc, f.grace_deletion desc',
    source, v, protected_id
  )
  from grace_internal.file_values(protected_id, 'large object') v
  where v is not null
$$;

-- Why a large object could not come back, '' where it can, null where nothing is kept of it. Read only.
create or replace function grace._file_conflict(
  protected_id integer, deletion bigint, deleted_at timestamptz, loid oid
)
returns text
language plpgsql stable
security definer -- what is kept is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_last_page integer;
  v_differs boolean;
begin
  execute format(
    'select max(f.page) from grace_internal.%I f '
    'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3', 'f' || protected_id
  )
  into v_last_page using deletion, deleted_at, loid;
  if v_last_page is null then
    return null;
  elsif not exists (select from pg_largeobject_metadata m where m.oid = loid) then
    return '';
  end if;
  begin
    execute format(
      'select bool_or(f.data <> lo_get(f.loid, f.page::bigint * 262144, 262144)) '
      'or lo_get($3, ($4 + 1)::bigint * 262144, 1) <> ''''::bytea from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3', 'f' || protected_id
    )
    into v_differs using deletion, deleted_at, loid, v_last_page;
  exception when insufficient_privilege then
    return format('large object %s is there now, and role %I, which owns pg_grace, may not read it', loid, current_user);
  end;
  return case when v_differs then format('large object %s is there now with another content', loid) else '' end;
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
    'select %s, x.ref, x.key, ''large object''::pg_catalog.text, f.why from (select %s as ref, %s as key, %s as loids %s) x '
    'cross join lateral pg_catalog.unnest(x.loids) as v (loid) join (%s) f on f.loid operator(pg_catalog.=) v.loid '
    'where f.why operator(pg_catalog.<>) ''''',
    protected_id, grace_internal.ref_expression(protected_id), grace_internal.buffered_key(protected_id),
    grace_internal.file_values(protected_id, 'large object'), source, q
  )
  from grace_internal.kept_files(protected_id, source) q
  where q is not null
$$;

-- Puts the large objects of rows that are being restored back under their numbers, with owner and rights. One that is still
-- there is left alone. Errors: 23000 when another has taken the number, GR020 when it can't be given to its owner.
create or replace function grace_internal.restore_files(protected_id integer, plan grace._restore_plan)
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
  for v_deletion, v_deleted_at, v_loid, v_why in
    execute grace_internal.kept_files(protected_id, grace_internal.restore_source(protected_id, plan)) using plan.picks, plan.left_out
  loop
    if v_why <> '' then
      raise exception 'nothing was restored: %', v_why -- the caller lists all conflicts
        using errcode = 'integrity_constraint_violation',
        detail = 'A restored row refers to it by its number.',
        hint = 'Move what is there: lo_from_bytea(0, lo_get(…)), then lo_unlink(…).';
    end if;
    continue when exists (select from pg_largeobject_metadata m where m.oid = v_loid);
    perform lo_create(v_loid);
    for v_page, v_data in execute format(
      'select f.page, f.data from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3 order by f.page', 'f' || protected_id
    ) using v_deletion, v_deleted_at, v_loid
    loop
      perform lo_put(v_loid, v_page::bigint * 262144, v_data);
    end loop;
    execute format(
      'select f.owner, f.acl from grace_internal.%I f '
      'where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3 and f.page = 0', 'f' || protected_id
    ) into v_owner, v_acl using v_deletion, v_deleted_at, v_loid;
    perform grace_internal.give_large_object(v_loid, v_owner, v_acl);
  end loop;
end
$$;

-- Owner and rights as they were, as far as the roles still exist. A right of the owner's is given to whoever owns the object
-- now, and passes with it to the new one; so one of the role that owns pg_grace comes last, as it would pass, too.
create or replace function grace_internal.give_large_object(loid oid, owner name, acl text [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_gone boolean := not exists (select from pg_roles r where r.rolname = owner);
begin
  if acl is not null and not v_is_gone then
    execute format('revoke all on large object %s from %I', loid, current_user);
  end if;
  perform grace_internal.grant_large_object(loid, owner, acl, false);
  if v_is_gone then
    raise warning 'large object % belongs to % now: its owner % is gone', loid, current_user, owner;
  elsif owner <> current_user then
    begin
      execute format('alter large object %s owner to %I', loid, owner);
    exception when insufficient_privilege then
      raise exception 'nothing was restored: large object % can''t be given back to its owner %', loid, quote_ident(owner)
        using errcode = 'GR020',
        detail = format('Role %I, which owns pg_grace, is no member of it.', current_user),
        hint = format('grant %I to %I;', owner, current_user);
    end;
    perform grace_internal.grant_large_object(loid, owner, acl, true);
  end if;
end
$$;

-- The rights of the role that owns pg_grace, if it was not the object's owner, or those of all others.
create or replace function grace_internal.grant_large_object(loid oid, owner name, acl text [], to_self boolean)
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
        select
          case when r.rolname = owner then quote_ident(current_user) else coalesce(quote_ident(r.rolname), 'public') end
            as grantee,
          a.privilege_type,
          a.is_grantable and r.rolname <> owner as is_grantable
        -- Whoever granted it may be gone: it is granted anew.
        from aclexplode(array[regexp_replace(v_item, '/("([^"]|"")*"|[^/"]+)$', '/' || quote_ident(current_user))::aclitem]) a
        left join pg_roles r on r.oid = a.grantee
        where (r.rolname is not distinct from current_user and owner <> current_user) = to_self
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
