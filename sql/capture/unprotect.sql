create or replace function grace.unprotect(
  target regclass, buffer text default 'keep', wait interval default '60 seconds'
)
returns void
language plpgsql
security definer -- drops triggers, tables and functions that belong to pg_grace
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_root regclass;
  v_parent text;
begin
  if buffer is null or buffer not in ('keep', 'discard') then
    raise exception 'buffer can''t be %', coalesce(quote_literal(buffer), 'null')
      using errcode = 'invalid_parameter_value',
      detail = 'It says what becomes of the rows that can still be restored.',
      hint = 'Give ''keep'' (they stay until they expire) or ''discard'' (they are gone at once).';
  end if;
  if exists (select from pg_class c where c.oid = target and c.relispartition) then
    raise exception '% can''t be unprotected', target
      using errcode = 'GR002',
      detail = format('It is a partition of %s, which is protected as a whole.', pg_partition_root(target)),
      hint = format('Unprotect the whole: select grace.unprotect(%L);', pg_partition_root(target)::text);
  end if;
  perform grace_internal.require_table_right(target);
  select p.target into v_root from grace_internal.protected p where p.id = v_id for update;

  select min(grace_internal.qualified_name(p.target)) into v_parent
  from grace_internal.protected p
  where p.active and v_root in (select grace_internal.inheritors(p.target));
  if v_parent is not null then
    raise exception '% can''t be unprotected', target
      using errcode = 'GR002',
      detail = format('It inherits from %s, which is protected; what is deleted through that would lose its columns.', v_parent),
      hint = format('Unprotect that first: select grace.unprotect(%L);', v_parent);
  end if;

  perform grace_internal.require_no_holds(v_id, target || ' can''t be unprotected');
  perform grace_internal.drop_triggers(v_id, wait);
  perform grace_internal.drop_guard(v_id);
  update grace_internal.protected p set active = false where p.id = v_id;
  perform grace_internal.follow_links(v_id, repair => true);
  perform grace_internal.accept_uncovered(v_root);
  if buffer = 'discard' then
    perform grace_internal.drop_buffer(v_id);
  end if;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'unprotect', v_root, 'done', clock_timestamp(), jsonb_build_object('buffer', buffer),
    grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.unprotect(regclass, text, interval) is
'Stops capturing what is deleted from a table. buffer: ''keep'' leaves what was deleted restorable until it expires, ''discard'' removes it at once and for good. wait: how long to try for the lock. Errors: GR001, GR006, GR029 while records of it are held, 22023, 42501.';

create or replace function grace_internal.drop_buffer(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_buffer text;
  v_loids oid [];
  v_files text [];
begin
  select format('grace_buffer.%I', p.buffer) into v_buffer from grace_internal.protected p where p.id = protected_id;
  if to_regclass(v_buffer) is not null then
    perform grace_internal.post_files(protected_id, format('from %s b where true', v_buffer));
  end if;
  perform set_config('grace.following', grace_internal.signature('following'), true);
  execute format('drop table if exists %s', v_buffer);
  if to_regclass(format('grace_internal.%I', 'f' || protected_id)) is not null then
    execute format('select array_agg(distinct f.loid) from grace_internal.%I f where f.unlink', 'f' || protected_id)
    into v_loids;
    execute format('drop table grace_internal.%I', 'f' || protected_id);
    perform grace_internal.unlink_unreferenced(v_loids);
  end if;
  -- Files that the table still refers to are none of the outbox's: once the registry has forgotten the table nobody would look there.
  delete from grace_internal.protected_column c where c.protected_id = drop_buffer.protected_id;
  select array_agg(o.file) into v_files from grace_internal.outbox o where o.protected_id = drop_buffer.protected_id;
  if v_files is not null then
    delete from grace_internal.outbox o
    where o.protected_id = drop_buffer.protected_id and o.file = any (grace_internal.referenced_files(v_files));
  end if;
  perform set_config('grace.following', '', true);
  execute format('drop function if exists grace_internal.%I()', 'capture_' || protected_id);
  perform grace_internal.drop_links(protected_id);
  delete from grace_internal.restored r where r.protected_id = drop_buffer.protected_id;
  delete from grace_internal.capture c where c.protected_id = drop_buffer.protected_id;
  delete from grace_internal.protected p where p.id = drop_buffer.protected_id;
end
$$;
