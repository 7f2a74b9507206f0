-- pg_grace 0.1.0, revision 0001: psql -f install.sql
-- Generated from sql/ and migrations/ by "pg_grace install --sql"; change those.
\set ON_ERROR_STOP on

begin;

do $$ begin perform pg_catalog.pg_advisory_xact_lock(4708281990); end $$;

set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;

do $$
begin
  if pg_catalog.current_setting('server_version_num')::integer < 150000 then
    raise exception 'PostgreSQL % is too old', pg_catalog.current_setting('server_version')
      using errcode = 'GR017', detail = 'pg_grace needs PostgreSQL 15 or later.',
      hint = 'Upgrade the server with pg_upgrade.';
  end if;
end
$$;

do $$
begin
  if pg_catalog.to_regclass('grace.alembic_version') is not null then
    raise exception 'pg_grace is installed in this database already'
      using errcode = 'GR018', detail = 'This script makes a new installation.',
      hint = 'To bring it up to date: pg_grace upgrade';
  end if;
end
$$;

-- The three group roles that pg_grace grants to. They belong to the cluster, not to one database,
-- so one that is there already (another database uses pg_grace) is left as it is. An administrator is an operator and an
-- auditor as well.
do $$
declare
  wanted record;
begin
  for wanted in
    select *
    from (values
      ('grace_admin', 'pg_grace: protects tables, sets retention, purges'),
      ('grace_operator', 'pg_grace: sees the buffer and restores'),
      ('grace_auditor', 'pg_grace: sees deletions, runs and status, no content')
    ) as r (name, comment)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
      begin
        execute format('create role %I nologin', wanted.name);
        execute format('comment on role %I is %L', wanted.name, wanted.comment);
      exception when duplicate_object or unique_violation then
        null; -- another database was quicker
      end;
    end if;
  end loop;
  -- Asked first: granting again would take ADMIN OPTION, which the role that installs into a second database lacks.
  if not pg_catalog.pg_has_role('grace_admin', 'grace_operator', 'member') then
    grant grace_operator to grace_admin;
  end if;
  if not pg_catalog.pg_has_role('grace_admin', 'grace_auditor', 'member') then
    grant grace_auditor to grace_admin;
  end if;
end
$$;

-- What users call and look at, what was deleted, and what is nobody's business.
create schema if not exists grace;
create schema if not exists grace_buffer;
create schema if not exists grace_internal;

comment on schema grace is 'pg_grace: functions and views to protect, look, restore and purge';
comment on schema grace_buffer is 'pg_grace: deleted rows, one table per protected table';
comment on schema grace_internal is 'pg_grace: internals, granted to nobody';

CREATE TABLE grace.alembic_version (
    version_num VARCHAR(32) NOT NULL, 
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

create sequence grace_internal.deletion_id;

comment on sequence grace_internal.deletion_id is
'Ids of deletions. A sequence of our own, because transaction ids start again in a restored cluster.';

-- The key that signs the setting in which a transaction remembers its deletion: a sequence and not a table,
-- so that reading it is no SQL statement and leaves no predicate lock in a serializable transaction.
create sequence grace_internal.signing_key
as bigint minvalue -9223372036854775808 maxvalue 9223372036854775807 no cycle;

do $$
begin
  perform pg_catalog.setval(
    'grace_internal.signing_key',
    ('x' || pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 1, 12)
      || pg_catalog.right(pg_catalog.gen_random_uuid()::text, 4))::bit (64)::bigint
  );
end
$$;

create table grace_internal.protected (
  id integer generated always as identity primary key,
  target regclass not null unique,
  relation oid not null,
  target_name text not null,
  buffer name not null unique,
  retention interval not null,
  -- The retention as a fixed number of seconds (a day is 24 hours, a month 30 days), so that what is expired depends
  -- neither on the session's time zone nor on daylight saving.
  span interval not null
  generated always as (pg_catalog.make_interval(secs => extract(epoch from retention)::double precision)) stored,
  excluded smallint [] not null default '{}',
  excluded_names name [] not null default '{}',
  active boolean not null default true,
  protected_at timestamptz not null default pg_catalog.now(),
  protected_by name not null,
  constraint retention_is_positive check (extract(epoch from retention) >= 1)
);

comment on table grace_internal.protected is
'One row per protected table, or per whole partition tree. target_name is what the table was called when last seen; relation is its OID, which pg_dump keeps as a number, so that it no longer equals target where a dump was loaded.';

create table grace_internal.protected_column (
  protected_id integer not null references grace_internal.protected on delete cascade,
  buffer_column name not null,
  attnum smallint not null,
  attname name not null,
  type regtype not null,
  ended_at timestamptz,
  primary key (protected_id, buffer_column)
);

create unique index protected_column_attnum
on grace_internal.protected_column (protected_id, attnum) where ended_at is null;

comment on table grace_internal.protected_column is
'Which buffer column holds which column of the table. A column that was dropped or changed its type has ended_at set; its values stay in the buffer.';

-- Written by every capture, so it has no foreign keys and no more indexes than reading it needs.
create table grace_internal.capture (
  deletion bigint not null,
  deleted_at timestamptz not null,
  protected_id integer not null,
  row_count bigint not null,
  operation text not null,
  role name not null,
  login name not null,
  application_name text,
  client_addr inet,
  reason text
);

create index capture_deletion on grace_internal.capture (deletion);
create index capture_deleted_at on grace_internal.capture using brin (deleted_at) with (autosummarize = on);

comment on table grace_internal.capture is
'One row per statement that removed rows from a protected table; all statements of one transaction have the same deletion and the same time.';

create table grace_internal.run (
  id bigint generated always as identity primary key,
  kind text not null,
  target regclass,
  started_at timestamptz not null default pg_catalog.clock_timestamp(),
  finished_at timestamptz,
  status text not null default 'running',
  row_count bigint not null default 0,
  details jsonb not null default '{}',
  role name not null,
  login name not null,
  pid integer not null default pg_catalog.pg_backend_pid(),
  constraint run_kind check (kind in ('restore', 'purge', 'protect', 'unprotect', 'retention')),
  constraint run_status check (status in ('running', 'done', 'incomplete', 'aborted'))
);

comment on table grace_internal.run is 'One row per restore, purge or change of what is protected: counts, never content.';

create table grace_internal.restored (
  run_id bigint not null references grace_internal.run,
  deletion bigint not null,
  deleted_at timestamptz not null,
  protected_id integer not null,
  row_count bigint not null
);

create index restored_deletion on grace_internal.restored (deletion);

comment on table grace_internal.restored is 'How many rows of a deletion and table have left the buffer by being restored.';

create sequence grace_internal.progress;

comment on sequence grace_internal.progress is
'Counts the rows that restores have inserted, visible to other sessions while the restore is still open: what a progress bar polls.';

create type grace._row_ref as (protected_id integer, deleted_at timestamptz, leaf oid, tid tid);

comment on type grace._row_ref is 'Where one buffered row stands; valid within one transaction.';

create type grace._restore_plan as (
  target regclass,
  deletions bigint [],
  protected_ids integer [],
  targets regclass [],
  selected bigint [],
  picks grace._row_ref [],
  statement text,
  check_statement text,
  constraints text
);

comment on type grace._restore_plan is 'What one restore selects, and the statements that insert and check it.';


INSERT INTO grace.alembic_version (version_num) VALUES ('0001') RETURNING grace.alembic_version.version_num;

-- common/caller.sql
-- Who is really calling: inside SECURITY DEFINER current_user is the owner, and in a cascaded trigger of
-- PostgreSQL 18 it is the child table's owner, so the role setting and the login are what counts.
create or replace function grace_internal.caller()
returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('role'), 'none'), session_user)::name
$$;

-- common/qualified_name.sql
-- schema.table, each part quoted where it must be, whatever search_path says; null for a table that is gone.
create or replace function grace_internal.qualified_name(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = relation
$$;

-- common/qualified_operator.sql
-- operator(schema.=), to be used in generated statements that run under somebody else's search_path.
create or replace function grace_internal.qualified_operator(operator_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('operator(%I.%s)', n.nspname, o.oprname)
  from pg_operator o
  join pg_namespace n on n.oid = o.oprnamespace
  where o.oid = operator_oid
$$;

-- common/base_type.sql
-- The type under a domain. Buffer columns have no domains: a constraint added to one later would be checked
-- against what was deleted long before, and would stop the application's ALTER DOMAIN.
create or replace function grace_internal.base_type(type_oid oid)
returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := type_oid;
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return v_type;
end
$$;

-- common/column_names.sql
-- Columns of an index or constraint as they are named in the table, in the key's order.
create or replace function grace_internal.column_names(relation oid, attnums smallint [])
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(a.attname order by k.position)
  from unnest(attnums) with ordinality as k (attnum, position)
  join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
$$;

-- common/equality.sql
-- The operator by which a unique index tells its nth column's values apart.
create or replace function grace_internal.equality(index_relation oid, column_number integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.qualified_operator(o.amopopr)
  from pg_index i
  join pg_opclass c on c.oid = i.indclass[column_number - 1]
  join pg_amop o
    on o.amopfamily = c.opcfamily
    and o.amoplefttype = c.opcintype
    and o.amoprighttype = c.opcintype
    and o.amopstrategy = 3
  where i.indexrelid = index_relation
$$;

-- common/expired_before.sql
-- What was deleted at or before this moment is expired for a protected table. Used by the row-security policy of
-- every buffer table, so whoever reads a buffer may call it; it gives away nothing but the retention.
create or replace function grace._expired_before(protected_id integer)
returns timestamptz
language sql stable security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select statement_timestamp() - p.span
  from grace_internal.protected p
  where p.id = $1
$$;
comment on function grace._expired_before(integer) is
'Internal: the moment up to which deletions from a protected table have expired.';

-- common/protected_id.sql
-- The registry's id of a table, or of the partition tree it belongs to. Errors: GR001 when it is not protected.
create or replace function grace_internal.protected_id(target regclass)
returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_root regclass := coalesce(pg_partition_root(target), target);
  v_id integer;
begin
  select p.id into v_id from grace_internal.protected p where p.target = v_root;
  if not found then
    raise exception 'table % is not protected', target
      using errcode = 'GR001',
      detail = 'No buffer exists for it, so there is nothing of it to look at, restore or purge.',
      hint = format('Protect it with: select * from grace.protect(%L);', target);
  end if;
  return v_id;
end
$$;

-- common/require_table_right.sql
-- Changing how a table is protected takes the same right on it as protecting it.
create or replace function grace_internal.require_table_right(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pg_class c where c.oid = target)
    and not has_table_privilege(grace_internal.caller(), target, 'TRIGGER')
  then
    raise exception 'permission denied for table %', target
      using errcode = 'insufficient_privilege',
      detail = format('Role %s does not own the table and has no TRIGGER privilege on it.', grace_internal.caller()),
      hint = format('As its owner: grant trigger on %s to %I;', target, grace_internal.caller());
  end if;
end
$$;

-- capture/live_columns.sql
-- The columns of a table that a buffer mirrors, with the names they have there: all but dropped ones and virtual generated
-- ones, which hold no value.
create or replace function grace_internal.live_columns(relation oid)
returns table (attnum smallint, attname name, buffer_column name, type oid, type_name text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum,
    a.attname,
    case when a.attname in ('grace_deletion', 'grace_deleted_at') then a.attname || '_column' else a.attname end,
    b.type,
    format_type(b.type, -1)
  from pg_attribute a
  cross join lateral grace_internal.base_type(a.atttypid) as b (type)
  where a.attrelid = relation
    and a.attnum > 0
    and not a.attisdropped
    and a.attgenerated <> 'v'
  order by a.attnum
$$;

-- capture/partition_tree.sql
-- A table and, when it is partitioned, all its partitions on every level.
create or replace function grace_internal.partition_tree(root oid)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select root
  union
  select t.relid::oid from pg_partition_tree(root) t
$$;

-- capture/remembered_deletion.sql
do $$
begin
  if to_regtype('grace_internal.deletion_ref') is null then
    create type grace_internal.deletion_ref as (deletion bigint, deleted_at timestamptz);
  end if;
end
$$;

-- The deletion of the current transaction: all its captures, in every table, share one id and one time. The first capture
-- remembers them in the transaction-local setting grace.deletion, which a rollback to savepoint takes back together with
-- what was captured since. The setting is signed, and bound to the transaction, because any user can write a setting: for
-- a forged one the answer is null, so nobody joins another transaction's deletion or changes its time. No table is read,
-- which would make serializable transactions that have nothing to do with each other fail.
-- The setting is "id time signature", the time as PostgreSQL sends it, in hexadecimal digits.
create or replace function grace_internal.remembered_deletion(setting text)
returns grace_internal.deletion_ref
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim text := split_part(setting, ' ', 1) || ' ' || split_part(setting, ' ', 2);
  v_result grace_internal.deletion_ref;
begin
  if setting = v_claim || ' ' || grace_internal.signature(v_claim) then
    v_result.deletion := split_part(setting, ' ', 1)::bigint;
    v_result.deleted_at := timestamptz '2000-01-01 00:00+00'
      + ('x' || split_part(setting, ' ', 2))::bit (64)::bigint * interval '1 microsecond';
  end if;
  return v_result;
end
$$;

-- Null without the key, which then matches nothing. Inlined into its callers, which pin their search_path.
create or replace function grace_internal.signature(claim text)
returns text
language sql
as $$
  select md5(
    pg_sequence_last_value('grace_internal.signing_key')::text || claim || ' ' || pg_current_xact_id()::text
    || pg_sequence_last_value('grace_internal.signing_key')::text
  )
$$;

-- capture/has_capture_triggers.sql
create or replace function grace_internal.has_capture_triggers(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = 2
  from pg_trigger t
  join pg_proc f on f.oid = t.tgfoid
  join pg_namespace n on n.oid = f.pronamespace
  where t.tgrelid = relation
    and t.tgname in ('zz_grace_delete', 'zz_grace_truncate')
    and t.tgenabled = 'A'
    and n.nspname = 'grace_internal'
    and f.proname = 'capture_' || protected_id
$$;

-- capture/columns_differ.sql
-- Whether a table's columns are no longer those that its buffer and its capture function know.
create or replace function grace_internal.columns_differ(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    where p.id = columns_differ.protected_id and p.relation <> p.target
  ) or exists (
    select
    from (
      select l.attnum, l.buffer_column, l.type
      from grace_internal.protected p
      cross join lateral grace_internal.live_columns(p.target) l
      where p.id = columns_differ.protected_id and not l.attnum = any (p.excluded)
    ) as l
    full join (
      select c.attnum, c.buffer_column, c.type
      from grace_internal.protected_column c
      where c.protected_id = columns_differ.protected_id and c.ended_at is null
    ) as c on c.attnum = l.attnum
    where l.buffer_column is distinct from c.buffer_column or l.type is distinct from c.type
  )
$$;

-- capture/columns_unchanged.sql
-- Labelled IMMUTABLE so that the planner evaluates it when it plans the capture function's first statement. That statement
-- reads the transition table, so its plan depends on the table itself: any DDL on the table makes every session plan, and so
-- evaluate, anew. Between two changes of the table the answer costs nothing. The planner reads the catalog with the outer
-- statement's snapshot, which may be older than the table's last change: then the answer is false, and the statement is
-- made anew; in an isolation level above READ COMMITTED, where nothing can be read as it is now, it is error 40001.
create or replace function grace_internal.columns_unchanged(protected_id integer)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.snapshot_is_old(protected_id) then
    if current_setting('transaction_isolation') = 'read committed' then
      return false;
    end if;
    raise exception 'could not serialize access: table % was changed after this transaction began',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'serialization_failure',
      detail = 'What this transaction sees of the catalog no longer matches the table, so a deleted row could not be captured whole.',
      hint = 'Run the transaction again.';
  end if;
  if exists (
    select
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relkind = 'r'
    join pg_inherits i on i.inhparent = c.oid
    where p.id = protected_id
  ) then
    raise exception 'rows deleted from % could not be captured whole',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'GR002',
      detail = 'Another table inherits from it now; rows deleted through the parent would lose the child''s columns.',
      hint = 'End the inheritance (alter table … no inherit …), or unprotect the table.';
  end if;
  return not grace_internal.columns_differ(protected_id);
end
$$;

-- What is read with the statement's snapshot is compared to what PostgreSQL's caches say, which are always up to date.
-- STABLE: a volatile function would read with a new snapshot.
create or replace function grace_internal.snapshot_is_old(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    join pg_class c on c.oid = t.relation
    where p.id = protected_id
      and (
        has_column_privilege(c.oid, (c.relnatts + 1)::smallint, 'select') is not null
        or pg_relation_filenode(c.oid) is distinct from nullif(c.relfilenode, 0)
        or exists (
          select
          from pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            and (pg_identify_object('pg_class'::regclass, c.oid, a.attnum)).identity
              is distinct from format('%s.%I', grace_internal.qualified_name(c.oid), a.attname)
        )
      )
  )
$$;

-- capture/insert_statement.sql
create or replace function grace_internal.insert_statement(
  protected_id integer, source text, deletion text, deleted_at text
)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    e'insert into grace_buffer.%I (\n      %s,\n      grace_deletion, grace_deleted_at\n    )\n'
    '    select\n      %s,\n      %s, %s\n    from %s as g',
    p.buffer,
    string_agg(format('%I', c.buffer_column), ', ' order by c.attnum),
    string_agg(format('g.%I', a.attname), ', ' order by c.attnum),
    deletion, deleted_at, source
  )
  from grace_internal.protected p
  join grace_internal.protected_column c on c.protected_id = p.id and c.ended_at is null
  join pg_attribute a on a.attrelid = p.target and a.attnum = c.attnum
  where p.id = insert_statement.protected_id
  group by p.buffer
$$;

-- capture/generate_capture.sql
-- Writes the trigger function of one protected table: static and typed, so that capturing costs no planning. Where the table
-- is no longer what it was when the function was written, the statement is made anew from the catalog, so that no column's
-- value is ever left out. The body is quoted as a literal: it holds names that somebody else chose.
create or replace function grace_internal.generate_capture(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_body text;
begin
  v_body := format(
    $body$
<<grace>> -- qualifies the variables: a column may be called like one
declare
  v_unchanged boolean;
  v_setting text := current_setting('grace.deletion', true);
  v_remembered grace_internal.deletion_ref;
  v_deletion bigint;
  v_deleted_at timestamptz;
  v_rows bigint;
begin
  if tg_op = 'DELETE' then
    select grace_internal.columns_unchanged(%1$s) into v_unchanged from grace_gone limit 1;
    if v_unchanged is null then
      return null;
    end if;
  end if;

  if v_setting <> '' then
    v_remembered := grace_internal.remembered_deletion(v_setting);
    v_deletion := v_remembered.deletion;
    v_deleted_at := v_remembered.deleted_at;
  end if;
  if v_deletion is null then
    v_deletion := nextval('grace_internal.deletion_id');
    v_deleted_at := clock_timestamp();
    v_setting := concat(v_deletion, ' ', encode(timestamptz_send(v_deleted_at), 'hex'));
    v_setting := set_config('grace.deletion', v_setting || ' ' || grace_internal.signature(v_setting), true);
  end if;

  if v_unchanged then
    %2$s;
  else
    execute grace_internal.capture_statement(%1$s, tg_relid, tg_op) using v_deletion, v_deleted_at;
  end if;
  get diagnostics v_rows = row_count;

  if v_rows > 0 then
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation,
      role, login, application_name, client_addr, reason
    )
    values (
      v_deletion, v_deleted_at, %1$s, v_rows, tg_op,
      coalesce(nullif(current_setting('role'), 'none'), session_user), session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end if;
  return null;
end
$body$,
    protected_id,
    grace_internal.insert_statement(protected_id, 'grace_gone', 'grace.v_deletion', 'grace.v_deleted_at')
  );
  execute format(
    'create or replace function grace_internal.%1$I() returns trigger language plpgsql '
    'security definer ' -- the role that deletes needs no right on the buffer
    'set search_path = pg_catalog, pg_temp as %2$L',
    'capture_' || protected_id, v_body
  );
  execute format('revoke all on function grace_internal.%I() from public', 'capture_' || protected_id);
  execute format(
    'comment on function grace_internal.%I() is %L',
    'capture_' || protected_id,
    'pg_grace: captures what is deleted from ' || (
      select p.target_name from grace_internal.protected p where p.id = protected_id
    )
  );
end
$generate$;

-- capture/free_column_name.sql
-- A name for a buffer column that makes room: amount -> amount_former1.
create or replace function grace_internal.free_column_name(protected_id integer, wanted name)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_suffix text;
begin
  for n in 1 .. 1600 loop
    v_suffix := '_former' || n;
    v_name := grace_internal.cut_name(wanted::text, 63 - octet_length(v_suffix)) || v_suffix;
    if not exists (
      select from grace_internal.protected_column c
      where c.protected_id = free_column_name.protected_id and c.buffer_column = v_name
    ) then
      return v_name;
    end if;
  end loop;
  raise exception 'no free name left for a former version of buffer column %', wanted
    using errcode = 'GR003',
    detail = 'The buffer holds 1600 former versions of it.',
    hint = 'Purge the buffer, then unprotect and protect the table.';
end
$$;

-- capture/rename_buffer_column.sql
create or replace function grace_internal.rename_buffer_column(protected_id integer, old_name name, new_name name)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'alter table grace_buffer.%I rename column %I to %I',
    (select p.buffer from grace_internal.protected p where p.id = protected_id), old_name, new_name
  );
  update grace_internal.protected_column c
  set buffer_column = new_name
  where c.protected_id = rename_buffer_column.protected_id and c.buffer_column = old_name;
end
$$;

-- capture/make_room.sql
-- Renames whatever buffer column stands where a column of the table is to go (a former one, or one of two that
-- swapped their names).
create or replace function grace_internal.make_room(protected_id integer, wanted name)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from grace_internal.protected_column c
    where c.protected_id = make_room.protected_id and c.buffer_column = wanted
  ) then
    perform grace_internal.rename_buffer_column(
      protected_id, wanted, grace_internal.free_column_name(protected_id, wanted)
    );
  end if;
end
$$;

-- capture/missing_value.sql
-- What a column that was added with a default has in rows from before, which PostgreSQL did not rewrite for it. The same
-- goes for rows that had been deleted by then. Only for PostgreSQL's own types and arrays of them: reading a value of
-- another type can run code of the application's (a domain's check), which must not happen with our rights.
create or replace function grace_internal.missing_value(relation oid, column_number smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (a.attmissingval::text::text [])[1]
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
  where a.attrelid = relation and a.attnum = column_number and a.atthasmissing
    and 'pg_catalog'::regnamespace in (t.typnamespace, e.typnamespace)
$$;

-- capture/renumber_columns.sql
-- A dump that was loaded elsewhere leaves out dropped columns, so the others have new numbers there: they are found again by
-- name. A former column whose namesake is gone gets number 0, which no column has.
create or replace function grace_internal.renumber_columns(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  update grace_internal.protected_column c
  set attnum = -c.attnum
  where c.protected_id = renumber_columns.protected_id;

  update grace_internal.protected_column c
  set attnum = coalesce((
    select a.attnum
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attname = c.attname and not a.attisdropped
    where p.id = c.protected_id
  ), case when c.ended_at is null then c.attnum else 0 end)
  where c.protected_id = renumber_columns.protected_id;

  update grace_internal.protected p
  set
    relation = p.target,
    excluded = coalesce((
      select array_agg(a.attnum)
      from pg_attribute a
      where a.attrelid = p.target and a.attname = any (p.excluded_names) and not a.attisdropped
    ), '{}')
  where p.id = renumber_columns.protected_id;
end
$$;

-- capture/sync_columns.sql
-- Makes the buffer table follow the columns of its table; returns whether it had to change. Added columns are added,
-- renamed ones renamed. A column that was dropped or changed its type keeps its values in the buffer; one that has to
-- make room for a namesake is renamed to name_former1. Nothing is rewritten, so it is quick at any size.
create or replace function grace_internal.sync_columns(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_buffer text;
  v_column record;
  v_changed boolean := false;
  v_changed_numbers boolean := false;
begin
  select p.* into strict v_protected
  from grace_internal.protected p
  where p.id = protected_id
  for update;
  v_buffer := format('grace_buffer.%I', v_protected.buffer);
  if v_protected.relation <> v_protected.target then
    perform grace_internal.renumber_columns(v_protected.id);
    select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
    v_changed_numbers := true;
  end if;

  -- DROP TYPE … CASCADE takes columns out of the buffer as well.
  delete from grace_internal.protected_column c
  where c.protected_id = v_protected.id
    and not exists (
      select
      from pg_attribute a
      where a.attrelid = v_buffer::regclass and a.attname = c.buffer_column and not a.attisdropped
    );

  with ended as (
    update grace_internal.protected_column c
    set ended_at = clock_timestamp()
    where c.protected_id = v_protected.id
      and c.ended_at is null
      and not exists (
        select from grace_internal.live_columns(v_protected.target) l
        where l.attnum = c.attnum and l.type = c.type
      )
    returning 1
  )
  select exists (select from ended) into v_changed;

  for v_column in
    select l.buffer_column as wanted, l.attname, l.attnum, l.type, l.type_name, c.buffer_column
    from grace_internal.live_columns(v_protected.target) l
    left join grace_internal.protected_column c
      on c.protected_id = v_protected.id and c.attnum = l.attnum and c.ended_at is null
    where not l.attnum = any (v_protected.excluded)
      and c.buffer_column is distinct from l.buffer_column
    order by l.attnum
  loop
    v_changed := true;
    perform grace_internal.make_room(v_protected.id, v_column.wanted);
    if v_column.buffer_column is null then
      execute format(
        'alter table %s add column %I %s default %L', v_buffer, v_column.wanted, v_column.type_name,
        grace_internal.missing_value(v_protected.target, v_column.attnum)
      );
      execute format('alter table %s alter column %I drop default', v_buffer, v_column.wanted);
      insert into grace_internal.protected_column (protected_id, buffer_column, attnum, attname, type)
      values (v_protected.id, v_column.wanted, v_column.attnum, v_column.attname, v_column.type);
    else
      perform grace_internal.rename_buffer_column(
        v_protected.id,
        (select c.buffer_column from grace_internal.protected_column c
         where c.protected_id = v_protected.id and c.attnum = v_column.attnum and c.ended_at is null),
        v_column.wanted
      );
    end if;
  end loop;

  update grace_internal.protected_column c
  set attname = a.attname
  from pg_attribute a
  where c.protected_id = v_protected.id and c.ended_at is null
    and a.attrelid = v_protected.target and a.attnum = c.attnum and a.attname <> c.attname;
  update grace_internal.protected p
  set
    target_name = grace_internal.qualified_name(p.target),
    excluded_names = coalesce(grace_internal.column_names(p.target, p.excluded), '{}')
  where p.id = v_protected.id;

  return v_changed or v_changed_numbers;
end
$$;

-- capture/capture_statement.sql
-- The statement that captures from one relation as its columns are now: $1 is the deletion, $2 its time. The capture
-- function runs it where its own static statement can't serve: for TRUNCATE, and when the table may have changed since
-- the function was generated; then buffer and function are brought up to date first, within the same statement.
create or replace function grace_internal.capture_statement(protected_id integer, relation oid, operation text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text;
begin
  if not exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = protected_id and t.relation = capture_statement.relation
  ) then
    raise exception '% no longer belongs to the table whose capture triggers it has', relation::regclass
      using errcode = 'GR010',
      detail = 'It was detached, so its rows could not be restored from where they would be captured.',
      hint = format('Protect it: select * from grace.protect(%L); or drop its triggers zz_grace_delete and zz_grace_truncate.',
        grace_internal.qualified_name(relation));
  end if;
  if operation = 'TRUNCATE' then
    if row_security_active(relation) then
      raise exception 'TRUNCATE of protected table % could remove rows that are not captured',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = 'It has FORCE ROW LEVEL SECURITY, which hides rows from the owner of pg_grace.',
        hint = format('Give role %I BYPASSRLS, or use DELETE.', current_user);
    end if;
    -- Not MVCC-safe: a snapshot taken before the lock does not see every row that TRUNCATE removes.
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'TRUNCATE of protected table % needs isolation level READ COMMITTED',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = format(
          'In a %s transaction rows that others committed meanwhile would be removed without being captured.',
          upper(current_setting('transaction_isolation'))
        ),
        hint = 'Run the TRUNCATE in a READ COMMITTED transaction, or use DELETE.';
    end if;
    select string_agg(grace_internal.qualified_name(t.relation), ', ') into v_uncovered
    from grace_internal.partition_tree(relation) as t (relation)
    where not grace_internal.has_capture_triggers(t.relation, protected_id);
    if v_uncovered is not null then
      raise exception 'TRUNCATE would remove rows that are not captured'
        using errcode = 'GR010',
        detail = format('Without capture triggers: %s', v_uncovered),
        hint = format('Run: select * from grace.protect(%L);', (
          select p.target_name from grace_internal.protected p where p.id = protected_id
        ));
    end if;
  end if;

  if grace_internal.columns_differ(protected_id) then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;

  return grace_internal.insert_statement(
    protected_id,
    case operation when 'TRUNCATE' then 'only ' || grace_internal.qualified_name(relation) else 'grace_gone' end,
    '$1', '$2'
  );
end
$$;

-- capture/partitions.sql
-- Name of the leaf that holds one day (UTC) of a buffer.
create or replace function grace_internal.leaf_name(protected_id integer, day date)
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('b%s_%s', protected_id, to_char(day, 'YYYYMMDD'))::name
$$;

-- Makes the leaf for one day (UTC) of a buffer. It is attached, not created as a partition: that takes only
-- SHARE UPDATE EXCLUSIVE on the buffer, so captures go on meanwhile.
create or replace function grace_internal.create_partition(protected_id integer, day date)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_buffer name := (select p.buffer from grace_internal.protected p where p.id = protected_id);
  v_leaf name := grace_internal.leaf_name(protected_id, day);
  v_from timestamptz := day::timestamp at time zone 'UTC';
  v_to timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
  execute format(
    'create table grace_internal.%I (like grace_buffer.%I, '
    'constraint day check (grace_deleted_at >= %L and grace_deleted_at < %L))',
    v_leaf, v_buffer, v_from, v_to
  );
  execute format(
    'alter table grace_buffer.%I attach partition grace_internal.%I for values from (%L) to (%L)',
    v_buffer, v_leaf, v_from, v_to
  );
  execute format('alter table grace_internal.%I drop constraint day', v_leaf);
end
$$;

-- Days (UTC) from today on that a buffer has no leaf for yet. A day of which the default partition already holds
-- rows, because no leaf was there in time, is left to it: nothing is moved, the rows expire where they are.
create or replace function grace_internal.missing_partitions(protected_id integer, days_ahead integer default 14)
returns setof date
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_today date := (clock_timestamp() at time zone 'UTC')::date;
  v_in_default date [];
begin
  execute format(
    $q$select array_agg(distinct (b.grace_deleted_at at time zone 'UTC')::date)
    from grace_internal.%I b where b.grace_deleted_at >= $1 $q$, format('b%s_default', protected_id)
  )
  into v_in_default using v_today::timestamp at time zone 'UTC';
  return query
    select v_today + n
    from generate_series(0, days_ahead) n
    where to_regclass(format('grace_internal.%I', grace_internal.leaf_name(protected_id, v_today + n))) is null
      and not v_today + n = any (coalesce(v_in_default, '{}'));
end
$$;

-- capture/free_buffer_name.sql
-- The table's own name if no other buffer has it, else schema_name, else with a number; cut to 63 bytes.
create or replace function grace_internal.free_buffer_name(target regclass)
returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schema text;
  v_table text;
  v_name name;
begin
  select n.nspname, c.relname into strict v_schema, v_table
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = target;

  for n in 0 .. 100000 loop
    v_name := case n
      when 0 then v_table::name
      when 1 then grace_internal.cut_name(v_schema || '_' || v_table, 63)
      else grace_internal.cut_name(v_schema || '_' || v_table, 56) || '_' || n
    end;
    if not exists (select from grace_internal.protected p where p.buffer = v_name)
      and to_regclass(format('grace_buffer.%I', v_name)) is null
    then
      return v_name;
    end if;
  end loop;
  raise exception 'no free buffer name for %', target
    using errcode = 'GR003',
    detail = 'Every name made from the table''s name is taken in schema grace_buffer.',
    hint = 'Unprotect tables of the same name that are no longer needed.';
end
$$;

-- Cuts a name to a number of bytes without splitting a character.
create or replace function grace_internal.cut_name(wanted text, max_bytes integer)
returns name
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := wanted;
begin
  while octet_length(v_name) > max_bytes loop
    v_name := left(v_name, -1);
  end loop;
  return v_name::name;
end
$$;

-- capture/create_buffer.sql
-- Registers a table and creates its buffer, with leaves for today and the days ahead.
create or replace function grace_internal.create_buffer(
  target regclass, retention interval, excluded smallint []
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
  v_buffer name := grace_internal.free_buffer_name(target);
  v_day date;
begin
  insert into grace_internal.protected (
    target, relation, target_name, buffer, retention, excluded, excluded_names, protected_by
  )
  values (
    target, target, grace_internal.qualified_name(target), v_buffer, retention, excluded,
    coalesce(grace_internal.column_names(target, excluded), '{}'), grace_internal.caller()
  )
  returning id into v_id;

  insert into grace_internal.protected_column (protected_id, buffer_column, attnum, attname, type)
  select v_id, l.buffer_column, l.attnum, l.attname, l.type
  from grace_internal.live_columns(target) l
  where not l.attnum = any (excluded);

  execute format(
    'create table grace_buffer.%I (%s grace_deletion bigint not null, grace_deleted_at timestamptz not null) '
    'partition by range (grace_deleted_at)',
    v_buffer,
    (
      select string_agg(format('%I %s, ', l.buffer_column, l.type_name), '' order by l.attnum)
      from grace_internal.live_columns(target) l
      where not l.attnum = any (excluded)
    )
  );
  execute format(
    'create table grace_internal.%I partition of grace_buffer.%I default', format('b%s_default', v_id), v_buffer
  );
  for v_day in select m from grace_internal.missing_partitions(v_id) m loop
    perform grace_internal.create_partition(v_id, v_day);
  end loop;

  execute format('alter table grace_buffer.%I enable row level security', v_buffer);
  execute format(
    'create policy grace_unexpired on grace_buffer.%I for select using (grace_deleted_at > (select grace._expired_before(%s)))',
    v_buffer, v_id
  );
  execute format('grant select on grace_buffer.%I to grace_operator', v_buffer);
  execute format(
    'comment on table grace_buffer.%I is %L',
    v_buffer, 'pg_grace: what was deleted from ' || grace_internal.qualified_name(target)
  );
  return v_id;
end
$$;

-- capture/check_excluded.sql
-- The attribute numbers of the columns that are not to be captured. Errors: GR004 when a restore could not do without.
create or replace function grace_internal.check_excluded(target regclass, exclude_columns name [])
returns smallint []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_column pg_attribute;
  v_result smallint [] := array[]::smallint [];
begin
  foreach v_name in array coalesce(exclude_columns, '{}') loop
    select a.* into v_column
    from pg_attribute a
    where a.attrelid = target and a.attname = v_name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'column % of % does not exist', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It is named in exclude_columns.',
        hint = format('The table''s columns: %s', (
          select string_agg(quote_ident(l.attname), ', ') from grace_internal.live_columns(target) l
        ));
    end if;
    if exists (
      select from pg_index i where i.indrelid = target and i.indisprimary and v_column.attnum = any (i.indkey)
    ) then
      raise exception 'column % of % can''t be excluded', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It belongs to the primary key, by which restored rows are known.',
        hint = 'Exclude other columns.';
    end if;
    if v_column.attnotnull and not v_column.atthasdef and v_column.attidentity = '' then
      raise exception 'column % of % can''t be excluded', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It is NOT NULL without a default, so no row could be restored without its value.',
        hint = 'Give the column a default, or capture it.';
    end if;
    v_result := v_result || v_column.attnum;
  end loop;
  return v_result;
end
$$;

-- capture/check_retention.sql
-- Errors: GR005 for a retention that is not between one second and 100 years.
create or replace function grace_internal.check_retention(retention interval)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if retention is null
    or extract(epoch from retention) < 1
    or extract(epoch from retention) > extract(epoch from interval '100 years')
  then
    raise exception 'retention % is not possible', coalesce(quote_literal(retention), 'null')
      using errcode = 'GR005',
      detail = 'It says for how long a deleted row can be restored: at least one second, at most 100 years.',
      hint = 'Give it as an interval, for example ''30 days''.';
  end if;
end
$$;

-- capture/check_protectable.sql
-- Refuses what can't be captured completely, before anything has changed. Errors: GR002 kind of relation, GR003 column
-- names, GR004 excluded columns, 42501 rights.
create or replace function grace_internal.check_protectable(target regclass, exclude_columns name [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_class pg_class;
  v_schema name;
  v_why text;
  v_hint text;
  v_column text;
begin
  select c.* into v_class from pg_class c where c.oid = target;
  if not found then
    raise exception 'relation with OID % does not exist', target::oid
      using errcode = 'undefined_table',
      detail = 'It was given as a number, and no relation has it.',
      hint = 'Give the table''s name.';
  end if;
  select n.nspname into v_schema from pg_namespace n where n.oid = v_class.relnamespace;

  case
    when v_schema in ('grace', 'grace_buffer', 'grace_internal') then
      v_why := 'It belongs to pg_grace itself.';
      v_hint := 'Name a table of your application.';
    when v_schema in ('pg_catalog', 'information_schema', 'pg_toast') then
      v_why := 'It is a system catalog, on which PostgreSQL allows no triggers.';
      v_hint := 'Name a table of your application.';
    when v_class.relpersistence = 't' then
      v_why := 'It is a temporary table and ends with its session.';
      v_hint := 'Name a permanent table.';
    when v_class.relkind in ('v', 'm') then
      v_why := 'It is a view; what is deleted through a view is deleted from its tables.';
      v_hint := 'Protect the tables that the view reads.';
    when v_class.relkind = 'f' then
      v_why := 'It is a foreign table; its rows are in another server.';
      v_hint := 'Install pg_grace on the server that holds the table and protect it there.';
    when v_class.relispartition then
      v_why := format('It is a partition of %s.', grace_internal.qualified_name(pg_partition_root(target)));
      v_hint := format(
        'Protect the whole: select * from grace.protect(%L);', grace_internal.qualified_name(pg_partition_root(target))
      );
    when v_class.relkind not in ('r', 'p') then
      v_why := 'It is not a table.';
      v_hint := 'Name a table of your application.';
    when exists (
      select from pg_partition_tree(target) t join pg_class c on c.oid = t.relid where c.relkind = 'f'
    ) then
      v_why := 'One of its partitions is a foreign table, from which PostgreSQL can''t collect deleted rows.';
      v_hint := 'Detach the foreign partition.';
    when v_class.relkind = 'r' and exists (
      select from pg_inherits i where target in (i.inhparent, i.inhrelid)
    ) then
      v_why := 'It is part of an inheritance tree; rows deleted through the parent would lose the child''s columns.';
      v_hint := 'Turn the tree into a partitioned table.';
    else
      v_why := null;
  end case;
  if v_why is not null then
    raise exception '% can''t be protected', target using errcode = 'GR002', detail = v_why, hint = v_hint;
  end if;

  select string_agg(quote_ident(a.attname), ', ') into v_column
  from pg_attribute a
  where a.attrelid = target and a.attnum > 0 and not a.attisdropped and left(a.attname, 6) = 'grace_';
  if v_column is not null then
    raise exception '% can''t be protected', target
      using errcode = 'GR003',
      detail = format('Column names that begin with grace_ are kept for the buffer''s own columns: %s', v_column),
      hint = format('Rename the column: alter table %s rename …', target);
  end if;

  perform grace_internal.require_table_right(target);
  perform grace_internal.check_excluded(target, exclude_columns);
end
$$;

-- capture/cascade_tree.sql
-- A table and every table that deleting from it cascades into, as roots of their partition trees.
create or replace function grace_internal.cascade_tree(target regclass)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive tree (relation) as (
    select target::oid
    union
    select coalesce(pg_partition_root(c.conrelid)::oid, c.conrelid)
    from tree t
    join pg_constraint c
      on coalesce(pg_partition_root(c.confrelid)::oid, c.confrelid) = t.relation
    where c.contype = 'f' and c.confdeltype = 'c'
      and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
  )
  select t.relation::regclass from tree t
$$;

-- capture/lock_for_ddl.sql
-- Locks all of the tables against writers, or none of them: each attempt waits at most 100 ms for a lock, so that
-- nobody queues behind us for longer, and gives back what it has got before it rests. Says about once a second what it
-- waits for. Errors: GR006 when max_wait has passed.
create or replace function grace_internal.lock_for_ddl(tables oid [], mode text, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := clock_timestamp() + coalesce(max_wait, interval '60 seconds');
  v_next_notice timestamptz := clock_timestamp();
  v_before text := current_setting('lock_timeout');
  v_statement text;
  v_holders text;
begin
  select format('lock table %s in %s mode', string_agg(grace_internal.qualified_name(t), ', ' order by t), mode)
  into v_statement
  from unnest(tables) t;

  loop
    begin
      perform set_config('lock_timeout', '100ms', true);
      execute v_statement;
      perform set_config('lock_timeout', v_before, true);
      return;
    exception when lock_not_available then
      v_holders := grace_internal.lock_holders(tables);
    end;
    if clock_timestamp() >= v_until then
      raise exception 'no lock to be had on % within %',
        (select string_agg(grace_internal.qualified_name(t), ', ' order by t) from unnest(tables) t), max_wait
        using errcode = 'GR006',
        detail = coalesce('Held by ' || v_holders, 'The holder was gone at the last look.'),
        hint = 'Nothing has changed. Try again when these transactions have ended, or wait longer.';
    end if;
    if clock_timestamp() >= v_next_notice then
      raise notice 'waiting for a lock%', coalesce(', held by ' || v_holders, '');
      v_next_notice := clock_timestamp() + interval '1 second';
    end if;
    perform pg_sleep(0.1 + random() * 0.2);
  end loop;
end
$$;

create or replace function grace_internal.lock_holders(tables oid [])
returns text
language sql
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format(
      'process %s (%s) on %s', l.pid,
      concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
        'transaction of ' || date_trunc('second', clock_timestamp() - a.xact_start)),
      grace_internal.qualified_name(l.relation)
    ), '; ' order by l.pid
  )
  from (
    select distinct on (l.pid) l.pid, l.relation
    from pg_locks l
    where l.locktype = 'relation'
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation = any (tables)
      and l.granted
      and l.pid <> pg_backend_pid()
      and l.mode not in ('AccessShareLock', 'RowShareLock')
  ) as l
  left join pg_stat_activity a on a.pid = l.pid
$$;

-- capture/create_triggers.sql
-- The two triggers on every relation of the tree that lacks them; with repair also where they are disabled. ENABLE ALWAYS: a session with
-- session_replication_role = replica deletes for good otherwise. Named to fire last, so that what other
-- BEFORE TRUNCATE triggers still write is captured as well.
create or replace function grace_internal.create_triggers(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation record;
  v_name text;
begin
  for v_relation in
    select grace_internal.qualified_name(t.relation) as name
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = protected_id
      and not grace_internal.has_capture_triggers(t.relation, p.id)
      and (
        repair
        or not exists (
          select
          from pg_trigger g
          where g.tgrelid = t.relation and g.tgfoid in (select grace_internal.capture_functions(p.id))
        )
      )
  loop
    execute format(
      'create or replace trigger zz_grace_delete after delete on %s referencing old table as grace_gone '
      'for each statement execute function grace_internal.%I()',
      v_relation.name, 'capture_' || protected_id
    );
    execute format(
      'create or replace trigger zz_grace_truncate before truncate on %s '
      'for each statement execute function grace_internal.%I()',
      v_relation.name, 'capture_' || protected_id
    );
    foreach v_name in array array ['zz_grace_delete', 'zz_grace_truncate'] loop
      execute format('alter table only %s enable always trigger %I', v_relation.name, v_name);
    end loop;
  end loop;
end
$$;

-- capture/drop_triggers.sql
-- Stops capturing, on one protected table or (null) on all. Waits for the deletes that are under way.
create or replace function grace_internal.drop_triggers(only_id integer, max_wait interval)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relations oid [];
  v_trigger record;
begin
  select array_agg(distinct t.tgrelid) into v_relations
  from pg_trigger t
  where t.tgfoid in (select grace_internal.capture_functions(only_id));
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'access exclusive', max_wait);
    for v_trigger in
      select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
      from pg_trigger t
      where t.tgfoid in (select grace_internal.capture_functions(only_id))
    loop
      execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
    end loop;
  end if;
end
$$;

create or replace function grace_internal.capture_functions(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select f.oid
  from pg_proc f
  where f.pronamespace = 'grace_internal'::regnamespace
    and f.prorettype = 'trigger'::regtype
    and (only_id is null or f.proname = 'capture_' || only_id)
$$;

-- capture/follow_table.sql
-- Brings buffer, capture function and triggers up to date with a table; takes the triggers off partitions that have left.
-- A trigger that somebody has disabled is only enabled again with repair.
create or replace function grace_internal.follow_table(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation text;
begin
  for v_relation in
    select grace_internal.qualified_name(t.tgrelid)
    from pg_trigger t
    where t.tgname = 'zz_grace_delete'
      and t.tgfoid in (select grace_internal.capture_functions(follow_table.protected_id))
      and not t.tgrelid in (
        select grace_internal.partition_tree(p.target)
        from grace_internal.protected p
        where p.id = follow_table.protected_id
      )
  loop
    execute format('drop trigger zz_grace_delete on %s', v_relation);
    execute format('drop trigger if exists zz_grace_truncate on %s', v_relation);
  end loop;
  if grace_internal.columns_differ(protected_id) then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  perform grace_internal.create_triggers(protected_id, repair);
end
$$;

-- capture/follow_ddl.sql
-- Event trigger: what the application's DDL does to a protected table is followed in the same transaction. It must never be
-- what makes that DDL fail or wait: where a lock is not free at once, the next capture or purge does it.
create or replace function grace_internal.follow_ddl()
returns event_trigger
language plpgsql
security definer -- whoever changes a table need have no right on its buffer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_id integer;
begin
  for v_id in
    select distinct p.id
    from pg_event_trigger_ddl_commands() d
    join grace_internal.protected p on p.target = coalesce(pg_partition_root(d.objid), d.objid::regclass)
    where d.classid = 'pg_class'::regclass and p.active
  loop
    begin
      perform grace_internal.follow_table(v_id, repair => false);
    exception when others then -- whatever it is, the application's DDL comes first; the next capture says it again
      raise warning 'the buffer of % could not be brought up to date now; the next capture does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
  end loop;
end
$$;

-- Only a superuser can create event triggers. Without them captures follow added, dropped, renamed and retyped columns all
-- the same; a new partition gets its triggers with the next purge.
do $$
begin
  if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user) then
    drop event trigger if exists grace_follow_ddl;
    create event trigger grace_follow_ddl on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    execute function grace_internal.follow_ddl();
  end if;
end
$$;

-- capture/protect.sql
-- Everything that takes time (checking, buffers, functions) comes before the lock; under the lock only the triggers
-- are created.
create or replace function grace.protect(
  target regclass,
  retention interval default '30 days',
  "cascade" boolean default true,
  exclude_columns name [] default '{}',
  wait interval default '60 seconds'
)
returns table (protected_table regclass, buffer regclass, status text, warning text)
language plpgsql
security definer -- makes tables and functions in schemas that are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table regclass;
  v_ids integer [] := array[]::integer [];
  v_id integer;
  v_active boolean;
  v_retention interval;
  v_relations oid [];
  v_denied text;
begin
  if target is null then
    raise exception 'no table given'
      using errcode = 'null_value_not_allowed', detail = 'target is null.', hint = 'Give the table''s name.';
  end if;
  perform grace_internal.check_retention(retention);
  perform grace_internal.check_protectable(target, exclude_columns);

  for v_table in
    select t from grace_internal.cascade_tree(target) t where "cascade" or t = target order by t <> target, t::text
  loop
    protected_table := v_table;
    warning := null;
    begin
      if v_table <> target then
        perform grace_internal.check_protectable(v_table, '{}');
      end if;
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      get stacked diagnostics v_denied = pg_exception_detail;
      buffer := null;
      status := 'not protected';
      warning := format('Deleting from %s cascades into it, and those rows will be lost: %s', target, v_denied);
      return next;
      continue;
    end;

    select p.id, p.active, p.retention into v_id, v_active, v_retention
    from grace_internal.protected p
    where p.target = v_table;
    if not found then
      v_id := grace_internal.create_buffer(
        v_table, retention, grace_internal.check_excluded(v_table, case v_table when target then exclude_columns end)
      );
      status := 'protected';
    elsif v_active and (v_table <> target or v_retention = retention) then
      status := 'already protected';
      if v_table = target and cardinality(exclude_columns) > 0 then
        warning := 'What is captured of it stays as it is; to exclude columns, unprotect it with buffer => discard first.';
      end if;
    elsif v_active then
      status := 'already protected';
      warning := format(
        'Its retention stays %s; to change it: select grace.set_retention(%L, %L);', v_retention, v_table, retention
      );
    else
      update grace_internal.protected p set active = true, retention = protect.retention where p.id = v_id;
      status := 'protected';
    end if;
    if status = 'protected' then
      perform grace_internal.sync_columns(v_id);
      perform grace_internal.generate_capture(v_id);
    end if;
    buffer := (select format('grace_buffer.%I', p.buffer)::regclass from grace_internal.protected p where p.id = v_id);
    v_ids := v_ids || v_id;
    return next;
  end loop;

  select array_agg(t.relation) into v_relations
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = any (v_ids) and not grace_internal.has_capture_triggers(t.relation, p.id);

  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'share row exclusive', wait);
  end if;
  foreach v_id in array v_ids loop
    perform grace_internal.follow_table(v_id, repair => true);
  end loop;
  if v_relations is not null then
    insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
    values (
      'protect', target, 'done', clock_timestamp(), jsonb_build_object('retention', retention),
      grace_internal.caller(), session_user
    );
  end if;
end
$$;
comment on function grace.protect(regclass, interval, boolean, name [], interval) is
'Starts capturing what is deleted from a table and, with cascade, from every table that its deletion cascades into. Idempotent. retention: how long a deleted row can be restored. exclude_columns: columns of the table itself that are not captured; a restore gives them their default. wait: how long to try for the lock before giving up; no attempt holds up others for more than 100 ms. Returns one row per table, with a warning for each cascade it could not follow. Errors: GR002, GR003, GR004, GR005, GR006, 42501.';

-- capture/set_retention.sql
create or replace function grace.set_retention(target regclass, retention interval)
returns void
language plpgsql
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_before interval;
begin
  perform grace_internal.check_retention(retention);
  perform grace_internal.require_table_right(target);
  select p.retention into v_before from grace_internal.protected p where p.id = v_id for update;
  update grace_internal.protected p set retention = set_retention.retention where p.id = v_id;
  insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
  values (
    'retention', target, 'done', clock_timestamp(),
    jsonb_build_object('before', v_before, 'after', retention), grace_internal.caller(), session_user
  );
end
$$;
comment on function grace.set_retention(regclass, interval) is
'Changes how long rows deleted from a protected table can be restored. Applies at once to what is in the buffer already: a shorter retention expires rows, a longer one gives those that are not yet purged more time. Errors: GR001, GR005, 42501.';

-- capture/unprotect.sql
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

  perform grace_internal.drop_triggers(v_id, wait);
  update grace_internal.protected p set active = false where p.id = v_id;
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
'Stops capturing what is deleted from a table. buffer: ''keep'' leaves what was deleted restorable until it expires, ''discard'' removes it at once and for good. wait: how long to try for the lock. Errors: GR001, GR006, 22023, 42501.';

create or replace function grace_internal.drop_buffer(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  execute format(
    'drop table grace_buffer.%I', (select p.buffer from grace_internal.protected p where p.id = protected_id)
  );
  execute format('drop function if exists grace_internal.%I()', 'capture_' || protected_id);
  delete from grace_internal.restored r where r.protected_id = drop_buffer.protected_id;
  delete from grace_internal.capture c where c.protected_id = drop_buffer.protected_id;
  delete from grace_internal.protected p where p.id = drop_buffer.protected_id;
end
$$;

-- capture/table_named.sql
-- Invoker's rights and search_path: the name is meant as the caller would write it in a query.
create or replace function grace.table_named(name text)
returns regclass
language plpgsql stable
as $$
declare
  v_found pg_catalog.regclass := null;
  v_like text;
begin
  begin
    v_found := pg_catalog.to_regclass(name);
  exception when syntax_error or invalid_name then
    v_found := null;
  end;
  if v_found is null and pg_catalog.octet_length(name) operator(pg_catalog.<=) 63 then
    v_found := pg_catalog.to_regclass(pg_catalog.quote_ident(name));
  end if;
  if v_found is null then
    select pg_catalog.string_agg(s.name, ', ') into v_like
    from (
      select grace._table_name(c.oid) as name
      from pg_catalog.pg_class c
      where c.relkind operator(pg_catalog.=) any (array ['r', 'p']::"char" [])
        and pg_catalog.lower(c.relname) operator(pg_catalog.=) pg_catalog.lower(
          pg_catalog.reverse(pg_catalog.split_part(pg_catalog.reverse(pg_catalog.replace(name, '"', '')), '.', 1))
        )
      order by 1
      limit 5
    ) as s;
    raise exception 'table "%" does not exist', name
      using errcode = 'undefined_table',
      detail = pg_catalog.format('The search path is %s.', pg_catalog.current_setting('search_path')),
      hint = coalesce(
        'Did you mean ' operator(pg_catalog.||) v_like operator(pg_catalog.||) '?',
        'Give it as schema.table; quote capitals: "Schema"."Table".'
      );
  end if;
  return v_found;
end
$$;
comment on function grace.table_named(text) is
'Finds a table by its name as SQL reads it, or, where that finds none, by the name exactly as given (capitals, spaces). Errors: 42P01 with the tables it might have meant.';

create or replace function grace._table_name(relation oid)
returns text
language sql stable security definer -- calls an internal helper
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.qualified_name(relation)
$$;
comment on function grace._table_name(oid) is 'Internal: schema.table, quoted where needed.';

-- look/is_running.sql
-- Whether the call that began a run is still going on: the same statement of the same session. Where pg_stat_activity hides
-- that from the owner of pg_grace, the session's process has to do.
create or replace function grace._is_running(server_process integer, since timestamptz)
returns boolean
language sql stable security definer -- other roles' sessions
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_stat_activity a
    where a.pid = server_process
      and a.datname = current_database()
      and coalesce(a.state <> 'idle' and a.query_start <= since, true)
  )
$$;
comment on function grace._is_running(integer, timestamptz) is
'Internal: whether the call that began a run is still going on.';

-- look/protected_state.sql
-- What the log says is left in a buffer: no scan of the buffer itself.
create or replace function grace_internal.buffered_rows(protected_id integer)
returns table (row_count bigint, oldest timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(d.row_count), 0)::bigint, min(d.deleted_at)
  from (
    select min(c.deleted_at) as deleted_at, sum(c.row_count) - coalesce((
      select sum(r.row_count)
      from grace_internal.restored r
      where r.deletion = c.deletion and r.protected_id = c.protected_id
    ), 0) as row_count
    from grace_internal.capture c
    where c.protected_id = buffered_rows.protected_id
      and c.deleted_at > grace._expired_before(c.protected_id)
    group by c.deletion, c.protected_id
  ) as d
  where d.row_count > 0
$$;

create or replace function grace_internal.buffer_size(protected_id integer)
returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint
  from grace_internal.protected p
  cross join lateral pg_partition_tree(format('grace_buffer.%I', p.buffer)::regclass) t
  where p.id = protected_id
$$;

create or replace function grace_internal.trigger_state(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not p.active then 'unprotected'
    when not exists (select from pg_class c where c.oid = p.target) then 'table dropped'
    when bool_and(grace_internal.has_capture_triggers(t.relation, p.id)) then 'capturing'
    when bool_or(exists (
      select from pg_trigger g
      where g.tgrelid = t.relation and g.tgname in ('zz_grace_delete', 'zz_grace_truncate') and g.tgenabled <> 'A'
    )) then 'disabled'
    else 'missing'
  end
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = protected_id
  group by p.id
$$;

-- SECURITY DEFINER, for a view's functions run with the rights of whoever reads the view.
create or replace function grace._protected_state(
  protected_id integer,
  out state text, out drift boolean, out buffered_rows bigint, out buffer_bytes bigint, out oldest timestamptz
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select
    grace_internal.trigger_state(p.id),
    p.active and grace_internal.columns_differ(p.id),
    b.row_count,
    grace_internal.buffer_size(p.id),
    b.oldest
  from grace_internal.protected p
  cross join lateral grace_internal.buffered_rows(p.id) b
  where p.id = protected_id
$$;
comment on function grace._protected_state(integer) is 'Internal: the live state behind one row of grace.protected.';

-- look/deletions.sql
create or replace view grace.deletions as
select
  c.deletion as id,
  min(c.deleted_at) as deleted_at,
  p.target,
  sum(c.row_count)::bigint as row_count,
  coalesce(r.row_count, 0)::bigint as restored_count,
  string_agg(distinct c.operation, ', ') as operation,
  (array_agg(c.role))[1] as deleted_by,
  (array_agg(c.login))[1] as login,
  (array_agg(c.application_name))[1] as application_name,
  (array_agg(c.client_addr))[1] as client_addr,
  (array_agg(c.reason) filter (where c.reason is not null))[1] as reason,
  min(c.deleted_at) + p.span as expires_at
from grace_internal.capture c
join grace_internal.protected p on p.id = c.protected_id
left join lateral (
  select sum(r.row_count) as row_count
  from grace_internal.restored r
  where r.deletion = c.deletion and r.protected_id = c.protected_id
) as r on true
where c.deleted_at > statement_timestamp() - p.span
group by c.deletion, p.id, r.row_count;

comment on view grace.deletions is
'One row per deletion (all that one transaction removed) and table, until it expires.';
comment on column grace.deletions.id is 'The deletion; what restore takes.';
comment on column grace.deletions.deleted_at is 'When the transaction deleted its first row from a protected table.';
comment on column grace.deletions.target is 'The table the rows were deleted from.';
comment on column grace.deletions.row_count is 'Rows captured.';
comment on column grace.deletions.restored_count is 'How many of them have been restored since.';
comment on column grace.deletions.operation is 'DELETE (a MERGE or cascade is one, too), TRUNCATE or both.';
comment on column grace.deletions.deleted_by is 'The role in effect (SET ROLE), else the login.';
comment on column grace.deletions.login is 'The role that logged in.';
comment on column grace.deletions.application_name is 'application_name of the session.';
comment on column grace.deletions.client_addr is 'Where the session came from; null for a local socket.';
comment on column grace.deletions.reason is 'What the session had said with SET grace.reason = ''…''.';
comment on column grace.deletions.expires_at is 'From this moment on it can no longer be restored.';

-- look/protected.sql
create or replace view grace.protected as
select
  p.target,
  format('grace_buffer.%I', p.buffer)::regclass as buffer,
  p.retention,
  s.state,
  s.drift,
  s.buffered_rows,
  s.buffer_bytes,
  s.oldest,
  s.oldest + p.span as next_expiry,
  p.protected_at,
  p.protected_by
from grace_internal.protected p
cross join lateral grace._protected_state(p.id) s;

comment on view grace.protected is 'One row per protected table.';
comment on column grace.protected.state is
'capturing; disabled (a capture trigger does not fire always); missing (a table or partition has no capture trigger); unprotected (what is buffered stays until it expires); table dropped.';
comment on column grace.protected.drift is
'The table''s columns have changed since the last capture; the next one follows them.';
comment on column grace.protected.buffered_rows is 'Rows that can be restored now.';
comment on column grace.protected.buffer_bytes is 'Size of the buffer with TOAST and indexes, expired rows included, in bytes.';
comment on column grace.protected.oldest is 'Time of the oldest deletion that can be restored.';
comment on column grace.protected.next_expiry is 'When that deletion expires; the next purge after it removes it.';

-- look/runs.sql
create or replace view grace.runs as
select
  r.id,
  r.kind,
  r.target,
  r.started_at,
  r.finished_at,
  r.finished_at - r.started_at as duration,
  case
    when r.status = 'running' and not grace._is_running(r.pid, r.started_at) then 'aborted'
    else r.status
  end as status,
  r.row_count,
  r.details,
  r.role,
  r.login
from grace_internal.run r;

comment on view grace.runs is 'Every restore, purge and change of protection: when, by whom, how many rows. Never content.';
comment on column grace.runs.status is
'running, done, incomplete (locks were not free, or a piece failed: see details; the next run takes up the rest) or aborted (its session is gone).';
comment on column grace.runs.row_count is 'Rows restored or purged.';

-- restore/keys.sql
-- Primary keys given as jsonb ({"id": 7}, 7, or an array of either) as an array of objects. Errors: GR008 for what is
-- no key of this table, GR009 for a table without a primary key.
create or replace function grace_internal.normal_keys(protected_id integer, keys jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (select p.target from grace_internal.protected p where p.id = protected_id);
  v_names name [];
  v_key jsonb;
  v_result jsonb := jsonb_build_array();
begin
  select grace_internal.column_names(i.indrelid, i.indkey::smallint []) into v_names
  from pg_index i
  where i.indrelid = v_target and i.indisprimary;
  if not found then
    raise exception 'table % has no primary key', v_target
      using errcode = 'GR009',
      detail = 'Its rows can''t be told apart by a key.',
      hint = 'Select them by deletion, time or role instead.';
  end if;

  for v_key in
    select k from jsonb_array_elements(case jsonb_typeof(keys) when 'array' then keys else jsonb_build_array(keys) end) k
  loop
    if jsonb_typeof(v_key) in ('number', 'string', 'boolean') and cardinality(v_names) = 1 then
      v_key := jsonb_build_object(v_names[1], v_key);
    end if;
    if jsonb_typeof(v_key) <> 'object'
      or (select array_agg(k order by k) from jsonb_object_keys(v_key) k)
        is distinct from (select array_agg(n::text order by n::text) from unnest(v_names) n)
    then
      raise exception '% is not a key of %', v_key, v_target
        using errcode = 'GR008',
        detail = format('The primary key is (%s).', (select string_agg(quote_ident(n), ', ') from unnest(v_names) n)),
        hint = format('Give it as %s.', (
          select '{' || string_agg(format('"%s": …', n), ', ') || '}' from unnest(v_names) n
        ));
    end if;
    v_result := v_result || v_key;
  end loop;
  if v_result = '[]' then
    raise exception 'no key given'
      using errcode = 'GR008', detail = 'keys is an empty array.', hint = 'Give at least one key, or leave keys out.';
  end if;
  return v_result;
end
$$;

-- FROM item "k" with the keys as typed columns. It is text, to be run with the caller's rights: reading a value can run code
-- of the application's, a domain's check for example.
create or replace function grace_internal.keys_source(protected_id integer, keys jsonb)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'pg_catalog.jsonb_to_recordset(%L) as k (%s)',
    grace_internal.normal_keys(p.id, keys),
    string_agg(format('%I %s', l.attname, l.type_name), ', ')
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral grace_internal.live_columns(p.target) l
  where p.id = protected_id and l.attnum = any (i.indkey)
  group by p.id
$$;

-- b (a buffered row) has the key k.
create or replace function grace_internal.keys_condition(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    format('b.%I %s k.%I', c.buffer_column, grace_internal.equality(i.indexrelid, u.position::integer), a.attname),
    ' and '
  )
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, position)
  join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
  join grace_internal.protected_column c on c.protected_id = p.id and c.attnum = u.attnum and c.ended_at is null
  where p.id = keys_condition.protected_id
$$;

-- look/buffered.sql
-- Where a buffer is and which of its rows are meant; the reading itself is done with the caller's rights.
create or replace function grace._buffer_condition(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  out source text, out condition text, out retention interval
)
language plpgsql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_id integer := grace_internal.protected_id(target);
  v_deletions bigint [];
begin
  select format('grace_buffer.%I', p.buffer), p.span
  into source, retention
  from grace_internal.protected p
  where p.id = v_id;
  condition := format('b.grace_deleted_at operator(pg_catalog.>) %L', statement_timestamp() - retention);
  if deletion is not null then
    condition := condition || format(' and b.grace_deletion operator(pg_catalog.=) %L::pg_catalog.int8', deletion);
  end if;
  if deleted_from is not null then
    condition := condition || format(' and b.grace_deleted_at operator(pg_catalog.>=) %L', deleted_from);
  end if;
  if deleted_to is not null then
    condition := condition || format(' and b.grace_deleted_at operator(pg_catalog.<) %L', deleted_to);
  end if;
  if deleted_by is not null then
    select array_agg(distinct c.deletion) into v_deletions
    from grace_internal.capture c
    where c.protected_id = v_id and deleted_by in (c.role, c.login);
    condition := condition || format(
      ' and b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[])', coalesce(v_deletions, '{}')
    );
  end if;
  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
    condition := condition || format(
      ' and exists (select from %s where %s)',
      grace_internal.keys_source(v_id, keys), grace_internal.keys_condition(v_id)
    );
  end if;
end
$$;
comment on function grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name) is
'Internal: the buffer of a table and the condition that selects rows in it.';

create or replace function grace.buffered(
  target regclass,
  deletion bigint default null,
  keys jsonb default null,
  deleted_from timestamptz default null,
  deleted_to timestamptz default null,
  deleted_by name default null,
  max_rows bigint default null
)
returns table (deletion_id bigint, deleted_at timestamptz, expires_at timestamptz, record jsonb)
language plpgsql stable
as $$
declare
  v_where record;
begin
  select w.* into v_where
  from grace._buffer_condition(target, deletion, keys, deleted_from, deleted_to, deleted_by) w;
  begin
    return query execute pg_catalog.format(
      'select b.grace_deletion, b.grace_deleted_at, b.grace_deleted_at operator(pg_catalog.+) %L::pg_catalog.interval, '
      'pg_catalog.to_jsonb(b.*) operator(pg_catalog.-) ''grace_deletion''::pg_catalog.text '
      'operator(pg_catalog.-) ''grace_deleted_at''::pg_catalog.text '
      'from %s b where %s order by b.grace_deleted_at desc, b.grace_deletion desc limit %L::pg_catalog.int8',
      v_where.retention, v_where.source, v_where.condition, max_rows
    );
  exception when data_exception then
    raise exception 'a selected row or key can''t be read'
      using errcode = 'GR008',
      detail = sqlerrm,
      hint = 'Give each key''s value as the column''s type reads it.';
  end;
end
$$;
comment on function grace.buffered(regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint) is
'The rows of a table that can be restored, newest first, each as one jsonb record. deletion: of this deletion only. keys: a primary key or an array of them, {"id": 7} or, for a one-column key, 7. deleted_from, deleted_to: from the first moment on, before the second. deleted_by: role or login. max_rows: no more than these. Errors: GR001, GR008, GR009, 42501.';

-- restore/restore_source.sql
-- FROM and WHERE of the buffered rows (alias b) of one table that a restore selects: all that is left of the deletions,
-- or, when only some rows are picked, those in $1. Behind DELETE the picks are joined with "using".
create or replace function grace_internal.restore_source(
  protected_id integer, deletions bigint [], picked boolean, joined_with text default ','
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_buffer text := (
    select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = protected_id
  );
  v_first timestamptz;
  v_last timestamptz;
begin
  if picked then
    return format(
      'from %s b %s pg_catalog.unnest($1) n where b.tableoid operator(pg_catalog.=) n.leaf '
      'and b.ctid operator(pg_catalog.=) n.tid and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at '
      'and n.protected_id operator(pg_catalog.=) %s',
      v_buffer, joined_with, protected_id
    );
  end if;
  select min(c.deleted_at), max(c.deleted_at) into v_first, v_last
  from grace_internal.capture c
  where c.deletion = any (deletions) and c.protected_id = restore_source.protected_id;
  return format(
    'from %s b where b.grace_deletion operator(pg_catalog.=) any (%L::pg_catalog.int8[]) '
    'and b.grace_deleted_at operator(pg_catalog.>=) %L and b.grace_deleted_at operator(pg_catalog.<=) %L '
    'and b.grace_deleted_at operator(pg_catalog.>) %L',
    v_buffer, deletions, v_first, v_last, grace._expired_before(protected_id)
  );
end
$$;

-- restore/buffer_columns.sql
-- The buffer columns that hold these columns of a table (or of one of its partitions, whose numbers may differ);
-- null when one of them is not captured.
create or replace function grace_internal.buffer_columns(protected_id integer, relation oid, attnums smallint [])
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when count(c.buffer_column) = cardinality(attnums) then array_agg(c.buffer_column order by k.position) end
  from unnest(attnums) with ordinality as k (attnum, position)
  join grace_internal.protected p on p.id = buffer_columns.protected_id
  join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
  join pg_attribute r on r.attrelid = p.target and r.attname = a.attname
  left join grace_internal.protected_column c
    on c.protected_id = p.id and c.attnum = r.attnum and c.ended_at is null
$$;

-- restore/buffer_links.sql
-- Foreign keys between protected tables, as a join condition over their buffers: c the referencing row, p the
-- referenced one.
create or replace function grace._buffer_links()
returns table (child_id integer, child_buffer name, parent_id integer, parent_buffer name, condition text)
language sql stable
security definer -- the registry is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select
    child.id, child.buffer, parent.id, parent.buffer,
    (
      select string_agg(
        format('p.%I %s c.%I', j.parent_column, grace_internal.qualified_operator(j.operator_oid), j.child_column),
        ' and '
      )
      from unnest(
        grace_internal.buffer_columns(parent.id, f.confrelid, f.confkey),
        grace_internal.buffer_columns(child.id, f.conrelid, f.conkey),
        f.conpfeqop
      ) as j (parent_column, child_column, operator_oid)
    )
  from pg_constraint f
  join grace_internal.protected child on child.target = coalesce(pg_partition_root(f.conrelid), f.conrelid::regclass)
  join grace_internal.protected parent on parent.target = coalesce(pg_partition_root(f.confrelid), f.confrelid::regclass)
  where f.contype = 'f'
    and f.conparentid = 0
    and grace_internal.buffer_columns(parent.id, f.confrelid, f.confkey) is not null
    and grace_internal.buffer_columns(child.id, f.conrelid, f.conkey) is not null
$$;
comment on function grace._buffer_links() is 'Internal: foreign keys between protected tables, as join conditions.';

-- restore/add_related.sql
-- Adds to the picked rows what went with them in the same deletion: everything that hangs on them through foreign
-- keys, and then every row that these need above them. The siblings of a picked row are left alone. Runs with the caller's
-- rights, for comparing keys can run casts and operators of the application's.
create or replace function grace._add_related(picks grace._row_ref [])
returns grace._row_ref []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_all grace._row_ref [] := picks;
  v_new grace._row_ref [];
  v_found grace._row_ref [];
  v_link record;
  v_direction text;
  v_first timestamptz;
  v_last timestamptz;
begin
  select min(n.deleted_at), max(n.deleted_at) into v_first, v_last from unnest(picks) n;
  foreach v_direction in array array ['down', 'up'] loop
    v_new := v_all;
    while cardinality(v_new) > 0 loop
      v_found := '{}';
      for v_link in
        select
          l.condition,
          d.known, d.known_id, d.known_buffer,
          d.sought, d.sought_id, d.sought_buffer
        from grace._buffer_links() l
        cross join lateral (
          select 'p', l.parent_id, l.parent_buffer, 'c', l.child_id, l.child_buffer where v_direction = 'down'
          union all
          select 'c', l.child_id, l.child_buffer, 'p', l.parent_id, l.parent_buffer where v_direction = 'up'
        ) as d (known, known_id, known_buffer, sought, sought_id, sought_buffer)
        where exists (select from unnest(v_new) n where n.protected_id = d.known_id)
      loop
        execute format(
          $q$
            select $2 || coalesce(array_agg(row(f.*)::grace._row_ref), '{}')
            from (
              select %3$s, %4$s.grace_deleted_at, %4$s.tableoid, %4$s.ctid
              from unnest($1) n
              join grace_buffer.%1$I %2$s
                on %2$s.tableoid = n.leaf and %2$s.ctid = n.tid and %2$s.grace_deleted_at = n.deleted_at
              join grace_buffer.%5$I %4$s
                on %4$s.grace_deletion = %2$s.grace_deletion and %4$s.grace_deleted_at = %2$s.grace_deleted_at
                and %6$s
              where n.protected_id = %7$s and %4$s.grace_deleted_at between $4 and $5
              except
              select a.* from unnest($3 || $2) a
            ) as f
          $q$,
          v_link.known_buffer, v_link.known, v_link.sought_id, v_link.sought, v_link.sought_buffer,
          v_link.condition, v_link.known_id
        )
        into v_found using v_new, v_found, v_all, v_first, v_last;
      end loop;
      v_all := v_all || v_found;
      v_new := v_found;
    end loop;
  end loop;
  return v_all;
end
$$;
comment on function grace._add_related(grace._row_ref []) is
'Internal: adds to the picked rows what went with them and hangs on them.';

-- Runs the query of a restore for its rows. Errors: GR007 for keys that are not in the buffer, GR008 for a value of the wrong
-- type.
create or replace function grace._pick_rows(plan grace._restore_plan, related boolean)
returns grace._row_ref []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_picks grace._row_ref [];
  v_missing text;
begin
  begin
    execute plan.statement into v_picks, v_missing;
  exception when data_exception then
    raise exception 'not a key of %', plan.target
      using errcode = 'GR008',
      detail = format('A value does not fit its column: %s', sqlerrm),
      hint = 'Give each value as the column''s type reads it.';
  end;
  if v_missing is not null or v_picks is null then
    raise exception 'not in the buffer: %', coalesce(v_missing, 'any such row')
      using errcode = 'GR007',
      detail = 'No such row can be restored: it was not deleted, not as selected, is restored already, or has expired.',
      hint = format('Look at what there is: select * from grace.buffered(%L);', plan.target);
  end if;
  if related then
    v_picks := grace._add_related(v_picks);
  end if;
  return v_picks;
end
$$;
comment on function grace._pick_rows(grace._restore_plan, boolean) is
'Internal: where the rows stand that a restore selects.';

-- restore/insert_select.sql
-- The columns that a table has now, and what a buffered row b holds for each (null where it holds nothing). A column
-- whose type has changed since takes the former value, cast.
create or replace function grace_internal.restore_columns(protected_id integer)
returns table (
  attnum smallint, attname name, type_name text, value text, insertable boolean, not_null boolean, default_value text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
    case
      when c.buffer_column is not null and f.former_values is not null
        then format('coalesce(b.%I, %s)', c.buffer_column, f.former_values)
      when c.buffer_column is not null then format('b.%I', c.buffer_column)
    end,
    a.attgenerated = '',
    a.attnotnull,
    case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
  left join grace_internal.protected_column c
    on c.protected_id = p.id and c.attnum = a.attnum and c.ended_at is null
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (
    select string_agg(
      format('b.%I::%s', f.buffer_column, format_type(grace_internal.base_type(a.atttypid), -1)), ', '
      order by f.ended_at desc
    ) as former_values
    from grace_internal.protected_column f
    where f.protected_id = p.id and f.attnum = a.attnum and f.ended_at is not null
  ) as f on true
  where p.id = restore_columns.protected_id
  order by a.attnum
$$;

-- INSERT … SELECT of one table's selected rows. A NOT NULL column that was added with a volatile default is null in
-- what was captured before: it takes the default.
create or replace function grace_internal.insert_select(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'insert into %s (%s) overriding system value select %s %s',
    grace_internal.qualified_name(p.target),
    string_agg(format('%I', c.attname), ', ' order by c.attnum),
    string_agg(
      case
        when c.not_null and c.default_value is not null then format('coalesce(%s, %s)', c.value, c.default_value)
        else c.value
      end, ', ' order by c.attnum
    ),
    source
  )
  from grace_internal.protected p
  cross join lateral grace_internal.restore_columns(p.id) c
  where p.id = insert_select.protected_id and c.insertable and c.value is not null
  group by p.target
$$;

-- restore/conflict_queries.sql
-- The queries that find why selected rows can't be inserted, one for each constraint that can stop them. Each reads
-- the CTE s_<id> of its table (columns as the table names them), and those of the others for parents that come back
-- in the same restore. They evaluate the application's own expressions, so they are run with the caller's rights.
create or replace function grace_internal.conflict_queries(protected_id integer, plan_ids integer [])
returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (select p.target from grace_internal.protected p where p.id = protected_id);
  v_key text := grace_internal.key_expression(v_target);
  v_row record;
begin
  -- A column that gets no value, or null.
  for v_row in
    select a.attname
    from pg_attribute a
    join grace_internal.restore_columns(protected_id) c on c.attnum = a.attnum
    where a.attrelid = v_target and c.not_null and c.insertable and c.default_value is null and a.attidentity = ''
  loop
    return next format(
      'select %s, %s, %L, %L from s_%s s where s.%I is null',
      protected_id, v_key, 'not null',
      format('column %s is NOT NULL and there is no value for it', quote_ident(v_row.attname)),
      protected_id, v_row.attname
    );
  end loop;

  for v_row in
    select c.conname, pg_get_expr(c.conbin, c.conrelid) as expression
    from pg_constraint c
    where c.conrelid = v_target and c.contype = 'c'
      and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
  loop
    return next format(
      'select %s, %s, %L, %L from s_%s s where not (%s)',
      protected_id, v_key, v_row.conname, 'violates check ' || v_row.expression, protected_id, v_row.expression
    );
  end loop;

  for v_row in
    select u.*
    from pg_index i
    cross join lateral grace_internal.unique_rule(i.indexrelid) as u
    where i.indrelid = v_target and i.indisunique and i.indisvalid
  loop
    return next format(
      'select %s, %s, %L, pg_catalog.concat(%L, %s, %L) from s_%s s where %s and exists (select from %s)',
      protected_id, v_key, v_row.name,
      format('key (%s)=(', v_row.column_names), v_row.key_values, ') is taken by a row that is there now',
      protected_id, v_row.applies, v_row.live_match
    );
    return next format(
      'select %s, %s, %L, pg_catalog.concat(%L, %s, %L) from ('
      'select s.*, pg_catalog.count(*) over (partition by %s) as "grace count" from s_%s s where %s'
      ') s where s."grace count" operator(pg_catalog.>) 1',
      protected_id, v_key, v_row.name,
      format('key (%s)=(', v_row.column_names), v_row.key_values, ') is selected more than once',
      v_row.key_columns, protected_id, v_row.applies
    );
  end loop;

  for v_row in
    select
      f.conname, f.confrelid,
      parent.id as parent_id,
      j.*
    from pg_constraint f
    left join grace_internal.protected parent on parent.target = f.confrelid and parent.id = any (plan_ids)
    cross join lateral (
      select
        string_agg(format('s.%I is not null', k.child), ' and ') as complete,
        string_agg(format('p.%I %s s.%I', k.parent, grace_internal.qualified_operator(k.operator_oid), k.child), ' and ')
          as matches,
        string_agg(quote_ident(k.child), ', ') as names,
        string_agg(format('s.%I', k.child), ', ') as values
      from unnest(
        grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey),
        f.conpfeqop
      ) as k (parent, child, operator_oid)
    ) as j
    where f.conrelid = v_target and f.contype = 'f'
      and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
      and not exists (
        select from pg_constraint up
        where up.oid = f.conparentid and up.conrelid = f.conrelid
      )
  loop
    return next format(
      'select %s, %s, %L, pg_catalog.concat(%L, pg_catalog.concat_ws('', '', %s), %L) from s_%s s where %s '
      'and not exists (select from %s p where %s)%s',
      protected_id, v_key, v_row.conname,
      format('parent (%s)=(', v_row.names), v_row.values,
      format(') is missing in %s', grace_internal.qualified_name(v_row.confrelid)),
      protected_id, v_row.complete, grace_internal.qualified_name(v_row.confrelid), v_row.matches,
      case when v_row.parent_id is not null then
        format(' and not exists (select from s_%s p where %s)', v_row.parent_id, v_row.matches)
      else '' end
    );
  end loop;
end
$$;

-- A row's primary key as jsonb, or the whole row where there is none.
create or replace function grace_internal.key_expression(target regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, s.%I', k, k), ', '))
      from pg_index i
      cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) k
      where i.indrelid = target and i.indisprimary
    ),
    'pg_catalog.to_jsonb(s.*)'
  )
$$;

-- What one unique index demands of rows s: which rows it applies to, and how a live row with the same key is found.
-- An index may be partial or on expressions; those are evaluated over one row source at a time, so that the column
-- names in them can mean nothing else.
create or replace function grace_internal.unique_rule(
  index_relation oid,
  out name text, out column_names text, out key_columns text, out key_values text, out applies text, out live_match text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.relname,
    string_agg(k.definition, ', ' order by k.n),
    string_agg(k.value, ', ' order by k.n),
    format('pg_catalog.concat_ws('', '', %s)', string_agg(k.value, ', ' order by k.n)),
    string_agg(k.value || ' is not null', ' and ' order by k.n)
      || case
        when i.predicate is null then ''
        else format(' and (select %s from (select s.*) as "grace row")', i.predicate)
      end,
    format(
      '(select %s from %s where %s) l where %s',
      string_agg(format('%s as "grace %s"', k.definition, k.n), ', ' order by k.n),
      grace_internal.qualified_name(i.indrelid),
      coalesce(i.predicate, 'true'),
      string_agg(format('l."grace %s" %s %s', k.n, k.equals, k.value), ' and ' order by k.n)
    )
  from (
    select x.indexrelid, x.indrelid, x.indnkeyatts, x.indkey, pg_get_expr(x.indpred, x.indrelid) as predicate
    from pg_index x
    where x.indexrelid = index_relation
  ) as i
  join pg_class c on c.oid = i.indexrelid
  cross join lateral (
    select
      n,
      coalesce(quote_ident(a.attname), d.expression) as definition,
      case
        when a.attname is not null then format('s.%I', a.attname)
        else format('(select %s from (select s.*) as "grace row")', d.expression)
      end as value,
      grace_internal.equality(i.indexrelid, n) as equals
    from generate_series(1, i.indnkeyatts) n
    cross join lateral (select pg_get_indexdef(i.indexrelid, n, false)) as d (expression)
    left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[n - 1] and a.attnum > 0
  ) as k
  group by c.relname, i.indrelid, i.predicate
$$;

-- restore/restore_plan.sql
-- Finds what a restore selects; changes nothing. With lock it holds the log of the deletions against every other restore
-- and purge until the transaction ends, so that what it found stays as it is. Where not whole deletions are selected it
-- leaves a query for the rows, to be run with the caller's rights. Errors: GR001, GR007, GR008, GR009, GR016.
create or replace function grace._restore_select(
  target regclass, deletion bigint, keys jsonb,
  deleted_from timestamptz, deleted_to timestamptz, deleted_by name,
  related boolean, lock boolean
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
  if deletion is null and keys is null and deleted_from is null and deleted_to is null and deleted_by is null then
    raise exception 'nothing is selected'
      using errcode = 'GR016',
      detail = 'A restore needs a deletion, keys, a time or a role to go by.',
      hint = 'Look at grace.deletions and give the id: select * from grace.restore(deletion => …);';
  end if;
  if keys is not null and target is null then
    raise exception 'keys without a table'
      using errcode = 'GR016',
      detail = 'A key means something only in a table.',
      hint = 'Give the table as target.';
  end if;
  if target is not null then
    v_id := grace_internal.protected_id(target);
    v_plan.target := coalesce(pg_partition_root(target), target);
  end if;

  if keys is not null then
    perform grace_internal.normal_keys(v_id, keys);
  end if;
  v_plan.deletions := grace_internal.matching_deletions(
    v_id, deletion, deleted_from, deleted_to, deleted_by, lock
  );

  if keys is null and (
    v_id is null or not related or not exists (
      select from grace_internal.capture c where c.deletion = any (v_plan.deletions) and c.protected_id <> v_id
    )
  ) then
    select array_agg(c.protected_id order by c.protected_id) into v_plan.protected_ids
    from (
      select distinct c.protected_id
      from grace_internal.capture c
      where c.deletion = any (v_plan.deletions) and (v_id is null or c.protected_id = v_id)
    ) as c;
  else
    v_plan.statement := grace_internal.pick_statement(v_id, v_plan.deletions, keys);
  end if;
  return v_plan;
end
$$;
comment on function grace._restore_select(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean) is
'Internal: which deletions a restore selects, and the query for the rows.';

-- Writes the statements that insert and check what is selected. Errors: GR015.
create or replace function grace._restore_plan(selected grace._restore_plan)
returns grace._restore_plan
language plpgsql
security definer -- reads the log and the registry, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan grace._restore_plan := selected;
  v_names text;
  v_progress text := '';
begin
  if v_plan.picks is not null then
    select array_agg(distinct n.protected_id order by n.protected_id) into v_plan.protected_ids
    from unnest(v_plan.picks) n;
  end if;

  select array_agg(p.target order by p.id), string_agg(p.target_name, ', ') filter (where c.oid is null)
  into v_plan.targets, v_names
  from grace_internal.protected p
  left join pg_class c on c.oid = p.target
  where p.id = any (v_plan.protected_ids);
  if v_names is not null then
    raise exception 'table % no longer exists', v_names
      using errcode = 'GR015',
      detail = 'Rows of it are selected, and there is no table to put them into.',
      hint = 'Copy them from its table in schema grace_buffer while they last.';
  end if;

  if current_setting('grace.progress', true) = 'on' then
    v_progress := format(
      ' and pg_catalog.nextval(%s::pg_catalog.oid::pg_catalog.regclass) operator(pg_catalog.>) 0',
      'grace_internal.progress'::regclass::oid
    );
  end if;
  select
    format(
      'with %s select array[%s]',
      string_agg(format('r_%s as (%s returning 1)', i, grace_internal.insert_select(i, s.source || v_progress)), ', '),
      string_agg(format('(select pg_catalog.count(*) from r_%s)', i), ', ')
    ),
    grace_internal.check_statement(v_plan.protected_ids, array_agg(s.source))
  into v_plan.statement, v_plan.check_statement
  from unnest(v_plan.protected_ids) i
  cross join lateral grace_internal.restore_source(i, v_plan.deletions, v_plan.picks is not null) as s (source);

  select string_agg(format('%I.%I', n.nspname, c.conname), ', ') into v_plan.constraints
  from pg_constraint c
  join pg_namespace n on n.oid = c.connamespace
  where c.conrelid = any (v_plan.targets)
    and c.condeferred
    and not exists ( -- SET CONSTRAINTS knows a constraint by its schema and name only
      select
      from pg_constraint x
      where x.connamespace = c.connamespace and x.conname = c.conname and not x.condeferrable
    );

  return v_plan;
end
$$;
comment on function grace._restore_plan(grace._restore_plan) is
'Internal: the statements of a restore.';

-- Deletions that have something left to restore. Errors: GR007 when there is none.
create or replace function grace_internal.matching_deletions(
  only_id integer, deletion bigint, deleted_from timestamptz, deleted_to timestamptz, deleted_by name, lock boolean
)
returns bigint []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletions bigint [];
  v_left bigint [];
begin
  select array_agg(distinct c.deletion order by c.deletion) into v_deletions
  from grace_internal.capture c
  where (only_id is null or c.protected_id = only_id)
    and (matching_deletions.deletion is null or c.deletion = matching_deletions.deletion)
    and (deleted_from is null or c.deleted_at >= deleted_from)
    and (deleted_to is null or c.deleted_at < deleted_to)
    and (deleted_by is null or deleted_by in (c.role, c.login))
    and c.deleted_at > grace._expired_before(c.protected_id);
  if v_deletions is null then
    raise exception '%', coalesce('there is no deletion ' || deletion, 'no deletion matches')
      using errcode = 'GR007',
      detail = 'It is not in the log of deletions'
        || case when only_id is not null then ' of this table' else '' end
        || ', or its retention has expired.',
      hint = 'Look at what there is: select * from grace.deletions order by id desc;';
  end if;
  if lock then
    perform from grace_internal.capture c where c.deletion = any (v_deletions) order by c.deletion, c.ctid for update;
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
    raise exception 'nothing is left to restore of deletion %', array_to_string(v_deletions, ', ')
      using errcode = 'GR007',
      detail = (
        select 'Restored ' || string_agg(
          distinct format('by %s at %s', u.role, to_char(u.started_at, 'YYYY-MM-DD HH24:MI:SS TZ')), '; '
        )
        from grace_internal.restored r
        join grace_internal.run u on u.id = r.run_id
        where r.deletion = any (v_deletions)
      ),
      hint = 'Each deleted row can be restored once. Look for the rows in their tables.';
  end if;
  return v_left;
end
$$;

-- The query for where the chosen rows of one table stand: the newest version of each key (and the keys of which there is
-- none), or all its rows in the deletions.
create or replace function grace_internal.pick_statement(protected_id integer, deletions bigint [], keys jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key_columns text;
begin
  if keys is null then
    return format(
      'select array_agg(row(%s, b.grace_deleted_at, b.tableoid, b.ctid)::grace._row_ref), null::text %s',
      protected_id, grace_internal.restore_source(protected_id, deletions, false)
    );
  end if;

  select string_agg(format('k.%I', n), ', ') into v_key_columns
  from grace_internal.protected p
  join pg_index i on i.indrelid = p.target and i.indisprimary
  cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) n
  where p.id = protected_id;
  return format(
    'select array_agg(row(%s, f.grace_deleted_at, f.tableoid, f.ctid)::grace._row_ref) filter (where f.ctid is not null), '
    'string_agg(to_jsonb(f.grace_key)::text, '', '') filter (where f.ctid is null) '
    'from (select distinct on (%s) k as grace_key, b.* from %s left join ('
    'select b.*, b.tableoid, b.ctid %s) as b on %s '
    'order by %s, b.grace_deleted_at desc, b.grace_deletion desc, b.ctid desc) as f',
    protected_id, v_key_columns, grace_internal.keys_source(protected_id, keys),
    grace_internal.restore_source(protected_id, deletions, false), grace_internal.keys_condition(protected_id),
    v_key_columns
  );
end
$$;

-- One row per table: id, number of rows selected, and every conflict with key, constraint and reason.
create or replace function grace_internal.check_statement(protected_ids integer [], sources text [])
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.id, t.position, t.source, c.columns, c.generated
    from unnest(protected_ids, sources) with ordinality as t (id, source, position)
    cross join lateral (
      select
        string_agg(
          format('%s as %I', coalesce(c.value, 'null') || '::' || c.type_name, c.attname), ', ' order by c.attnum
        ) filter (where c.insertable) as columns,
        string_agg(
          format(', (%s)::%s as %I', pg_get_expr(d.adbin, d.adrelid), c.type_name, c.attname), '' order by c.attnum
        ) filter (where not c.insertable) as generated
      from grace_internal.restore_columns(t.id) c
      join grace_internal.protected p on p.id = t.id
      left join pg_attrdef d on d.adrelid = p.target and d.adnum = c.attnum and not c.insertable
    ) as c
  )
  select format(
    'with %s, conflict (id, key, constraint_name, reason) as (%s) '
    'select t.id, t.selected, coalesce((select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('
    '''key'', c.key, ''constraint'', c.constraint_name, ''reason'', c.reason) order by c.constraint_name, c.key) '
    'from conflict c where c.id operator(pg_catalog.=) t.id), ''[]''::pg_catalog.jsonb) from (%s) as t (id, selected)',
    string_agg(
      format('s_%s as (select r.*%s from (select %s %s) as r)', t.id, t.generated, t.columns, t.source), ', '
    ),
    coalesce(
      (
        select string_agg(q, ' union all ')
        from unnest(protected_ids) i
        cross join lateral grace_internal.conflict_queries(i, protected_ids) q
      ),
      'select null::pg_catalog.int4, null::pg_catalog.jsonb, null, null where false'
    ),
    string_agg(format('select %s, (select pg_catalog.count(*) from s_%s)', t.id, t.id), ' union all ')
  )
  from tables t
$$;

-- restore/restore.sql
-- Runs with the caller's rights: a restore does nothing that the caller could not do by hand, and the application's
-- triggers run as they do on any INSERT of the caller's. So it has no search_path of its own, and every name in it is
-- written out. All rows of all tables go in with one statement, at whose end PostgreSQL checks the foreign keys: their
-- order and cycles among them don't matter.
create or replace function grace.restore(
  target regclass default null,
  deletion bigint default null,
  keys jsonb default null,
  deleted_from timestamptz default null,
  deleted_to timestamptz default null,
  deleted_by name default null,
  related boolean default true,
  dry_run boolean default false
)
returns table (run bigint, restored_table regclass, restored bigint, conflicts jsonb)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_plan grace._restore_plan;
  v_inserted bigint [];
  v_conflicts jsonb;
begin
  v_plan := grace._restore_select(
    target, deletion, keys, deleted_from, deleted_to, deleted_by, related, not dry_run
  );
  if v_plan.statement is not null then
    v_plan.picks := grace._pick_rows(v_plan, related);
  end if;
  v_plan := grace._restore_plan(v_plan);

  if dry_run then
    return query execute pg_catalog.format(
      'select null::pg_catalog.int8, ($2)[pg_catalog.array_position($3, c.id)], c.selected, c.conflicts '
      'from (%s) as c (id, selected, conflicts)', v_plan.check_statement
    ) using v_plan.picks, v_plan.targets, v_plan.protected_ids;
    return;
  end if;

  begin
    execute v_plan.statement into v_inserted using v_plan.picks;
    if v_plan.constraints is not null then
      execute 'set constraints ' operator(pg_catalog.||) v_plan.constraints operator(pg_catalog.||) ' immediate';
      execute 'set constraints ' operator(pg_catalog.||) v_plan.constraints operator(pg_catalog.||) ' deferred';
    end if;
  exception when integrity_constraint_violation then
    execute pg_catalog.format(
      'select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('
      '''table'', ($2)[pg_catalog.array_position($3, c.id)], ''conflicts'', c.conflicts)) '
      'from (%s) as c (id, selected, conflicts)', v_plan.check_statement
    ) into v_conflicts using v_plan.picks, v_plan.targets, v_plan.protected_ids;
    perform grace._refuse_restore(v_conflicts);
    raise;
  end;

  return query
    select d.run, d.restored_table, d.restored, '[]'::pg_catalog.jsonb
    from grace._restore_done(v_plan, v_inserted) d;
end
$$;
comment on function grace.restore(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean) is
'Puts deleted rows back into their tables, all of what is selected or nothing. deletion: all that one transaction deleted. target: rows of this table. keys: these primary keys, {"id": 7} or an array of them, the newest version of each. deleted_from, deleted_to: deletions from the first moment on, before the second. deleted_by: role or login. related: also what went in the same deletion and hangs on the rows through foreign keys, and the parents they need. dry_run: changes nothing and lists what would be restored and every conflict. Returns one row per table: the run, the table, the number of rows, conflicts as [{"key", "constraint", "reason"}]. Needs grace_operator and INSERT on the tables; SELECT on them to list conflicts. Errors: GR001, GR007, GR008, GR009, GR011 (conflicts, listed in DETAIL), GR012, GR015, GR016.';

-- Errors: GR011 with every conflict in DETAIL; returns when there is none.
create or replace function grace._refuse_restore(tables jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
  v_lines text;
begin
  select
    count(*),
    string_agg(format('%s %s: %s (%s)', t ->> 'table', c ->> 'key', c ->> 'reason', c ->> 'constraint'), e'\n')
  into v_count, v_lines
  from jsonb_array_elements(tables) t
  cross join lateral jsonb_array_elements(t -> 'conflicts') c;
  if v_count > 0 then
    raise exception 'nothing was restored: % %', v_count, case v_count when 1 then 'conflict' else 'conflicts' end
      using errcode = 'GR011', detail = v_lines,
      hint = 'Remove what stands in the way, or select less. With dry_run => true conflicts are listed as rows.';
  end if;
end
$$;
comment on function grace._refuse_restore(jsonb) is 'Internal: turns the conflicts found into an error.';

-- Takes the rows that were inserted out of the buffer and keeps the account. It trusts nothing in the plan but which
-- rows are meant; whoever calls it by hand is on record in grace.runs. Errors: GR012 when the table took fewer rows.
create or replace function grace._restore_done(plan grace._restore_plan, inserted bigint [])
returns table (run bigint, restored_table regclass, restored bigint)
language plpgsql
security definer -- the buffer and the log are granted to nobody for writing
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run bigint;
  v_id integer;
  v_source text;
  v_taken bigint;
  v_total bigint := 0;
begin
  insert into grace_internal.run (kind, target, role, login)
  values ('restore', plan.target, grace_internal.caller(), session_user)
  returning id into v_run;

  for i in 1 .. cardinality(plan.protected_ids) loop
    v_id := plan.protected_ids[i];
    v_source := grace_internal.restore_source(v_id, plan.deletions, plan.picks is not null, 'using');
    if plan.picks is null and cardinality(plan.deletions) = 1 then
      execute 'delete ' || v_source;
      get diagnostics v_taken = row_count;
      insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count)
      select v_run, c.deletion, c.deleted_at, v_id, v_taken
      from grace_internal.capture c
      where c.deletion = plan.deletions[1]
      limit 1;
    else
      execute format(
        'with taken as (delete %s returning b.grace_deletion, b.grace_deleted_at), '
        'noted as (insert into grace_internal.restored (run_id, deletion, deleted_at, protected_id, row_count) '
        'select $2, t.grace_deletion, min(t.grace_deleted_at), $3, count(*) from taken t group by t.grace_deletion '
        'returning row_count) select coalesce(sum(n.row_count), 0) from noted n', v_source
      )
      into v_taken using plan.picks, v_run, v_id;
    end if;
    if v_taken is distinct from inserted[i] then
      raise exception 'nothing was restored: % took % of % rows', plan.targets[i], inserted[i], v_taken
        using errcode = 'GR012',
        detail = 'A trigger or rule on the table suppressed rows, and they would have been lost.',
        hint = 'Disable the trigger for the restore, or restore the rows by hand from grace_buffer.';
    end if;
    v_total := v_total + v_taken;
    run := v_run;
    restored_table := plan.targets[i];
    restored := v_taken;
    return next;
  end loop;

  update grace_internal.run u
  set
    status = 'done',
    finished_at = clock_timestamp(),
    row_count = v_total,
    details = (
      select jsonb_build_object('deletions', jsonb_agg(distinct r.deletion))
      from grace_internal.restored r
      where r.run_id = v_run
    )
  where u.id = v_run;
end
$$;
comment on function grace._restore_done(grace._restore_plan, bigint []) is
'Internal: takes restored rows out of the buffer and records the restore.';

-- restore/restore_progress.sql
-- How many rows restores have inserted so far, those of open transactions included.
create or replace function grace._restore_progress()
returns bigint
language sql
security definer -- the sequence is granted to nobody for reading
set search_path = pg_catalog, pg_temp
as $$
  select last_value from grace_internal.progress
$$;
comment on function grace._restore_progress() is 'Internal: what a progress bar polls.';

-- purge/leaves.sql
-- The leaves of a buffer with the time they cover, both null for the default partition.
create or replace function grace_internal.leaves(protected_id integer)
returns table (leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.oid, c.relname, d.day::timestamp at time zone 'UTC', (d.day + 1)::timestamp at time zone 'UTC'
  from pg_class c
  cross join lateral (
    select case
      when c.relname <> format('b%s_default', protected_id) then to_date(right(c.relname, 8), 'YYYYMMDD')
    end
  ) as d (day)
  where c.relnamespace = 'grace_internal'::regnamespace
    and c.relkind = 'r'
    and c.relispartition
    and c.relname ~ format('^b%s_(default|\d{8})$', protected_id)
$$;

-- purge/purge_actions.sql
-- Is a leaf, and all of it, past the retention? Asked again in the slice: the retention may have been raised since.
create or replace function grace_internal.leaf_is_expired(protected_id integer, leaf oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(l.upper_bound <= grace._expired_before(protected_id)), false)
  from grace_internal.leaves(protected_id) l
  where l.leaf = leaf_is_expired.leaf
$$;

-- TRUNCATE locks the leaf alone, so nobody who deletes from the table waits. How many rows go is taken from the log, which
-- is trimmed later: counting them would take longer than all the rest.
create or replace function grace_internal.empty_leaf(protected_id integer, leaf oid)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint := 0;
begin
  if grace_internal.leaf_is_expired(protected_id, leaf) and pg_relation_size(leaf) > 0 then
    execute format('truncate %s', grace_internal.qualified_name(leaf));
    select
      coalesce((
        select sum(c.row_count)
        from grace_internal.capture c
        where c.protected_id = empty_leaf.protected_id
          and c.deleted_at >= l.lower_bound and c.deleted_at < l.upper_bound
      ), 0) - coalesce((
        select sum(r.row_count)
        from grace_internal.restored r
        where r.protected_id = empty_leaf.protected_id
          and r.deleted_at >= l.lower_bound and r.deleted_at < l.upper_bound
      ), 0)
    into v_rows
    from grace_internal.leaves(protected_id) l
    where l.leaf = empty_leaf.leaf;
  end if;
  return v_rows;
end
$$;

-- Locks the whole buffer for the moment that dropping takes; does so only with an empty leaf.
create or replace function grace_internal.drop_leaf(protected_id integer, leaf oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if grace_internal.leaf_is_expired(protected_id, leaf) and pg_relation_size(leaf) = 0 then
    execute format('drop table %s', grace_internal.qualified_name(leaf));
  end if;
end
$$;

-- For the default partition, which is never dropped, and for the day in which the retention ends now.
create or replace function grace_internal.delete_expired(protected_id integer, leaf oid, max_rows integer)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  execute format(
    'delete from %1$s b where b.ctid = any (array('
    'select e.ctid from %1$s e where e.grace_deleted_at <= $1 limit $2))',
    grace_internal.qualified_name(leaf)
  )
  using grace._expired_before(protected_id), max_rows;
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- One missing partition, or triggers on partitions of the table that lack them, at a time; returns whether there is
-- more to do. A buffer that is unprotected and empty goes.
create or replace function grace_internal.prepare_buffer(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_active boolean;
  v_target regclass;
  v_day date;
begin
  select p.active, p.target into v_active, v_target
  from grace_internal.protected p
  where p.id = protected_id
  for update skip locked;
  if not found then
    return false;
  end if;
  if not v_active then
    if not exists (select from grace_internal.capture c where c.protected_id = prepare_buffer.protected_id) then
      perform grace_internal.drop_buffer(protected_id);
    end if;
    return false;
  end if;

  select min(m) into v_day from grace_internal.missing_partitions(protected_id) m;
  if v_day is not null then
    perform grace_internal.create_partition(protected_id, v_day);
    return true;
  end if;
  if exists (select from pg_class c where c.oid = v_target) then
    perform grace_internal.follow_table(protected_id, repair => false);
  end if;
  return false;
end
$$;

-- What had expired when the run began and so is out of the buffer by now.
create or replace function grace_internal.trim_log(protected_id integer, as_of timestamptz, max_rows integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz;
  v_rows bigint;
begin
  v_before := least(
    grace._expired_before(protected_id),
    as_of - (select p.span from grace_internal.protected p where p.id = protected_id)
  );
  delete from grace_internal.capture c
  where c.ctid = any (array(
    select e.ctid
    from grace_internal.capture e
    where e.protected_id = trim_log.protected_id
      and e.deleted_at <= v_before
    limit max_rows
    for update skip locked
  ));
  get diagnostics v_rows = row_count;
  delete from grace_internal.restored r
  where r.protected_id = trim_log.protected_id
    and r.deleted_at <= v_before;
  return v_rows = max_rows;
end
$$;

-- purge/purge_steps.sql
do $$
begin
  if to_regtype('grace._purge_item') is null then
    create type grace._purge_item as (protected_id integer, leaf oid, action text);
    comment on type grace._purge_item is 'Internal: one piece of a purge.';
  end if;
end
$$;

create or replace function grace._purge_begin(target regclass)
returns bigint
language plpgsql
security definer -- writes the run
set search_path = pg_catalog, pg_temp
as $$
declare
  v_other grace_internal.run;
  v_run bigint;
begin
  if target is not null then
    perform grace_internal.protected_id(target);
  end if;
  lock table grace_internal.run in share update exclusive mode; -- against another purge only
  update grace_internal.run r
  set status = 'aborted', finished_at = clock_timestamp()
  where r.kind = 'purge' and r.status = 'running' and not grace._is_running(r.pid, r.started_at);
  select r.* into v_other
  from grace_internal.run r
  where r.kind = 'purge' and r.status = 'running' and r.pid <> pg_backend_pid();
  if found then
    raise exception 'another purge is running'
      using errcode = 'GR014',
      detail = format('Run %s, process %s, since %s.', v_other.id, v_other.pid, v_other.started_at),
      hint = 'It does the same work; wait for it.';
  end if;
  insert into grace_internal.run (kind, target, role, login)
  values ('purge', target, grace_internal.caller(), session_user)
  returning id into v_run;
  return v_run;
end
$$;
comment on function grace._purge_begin(regclass) is 'Internal: opens the run of a purge.';

-- Emptying comes before dropping, and both before the partitions of the days ahead; the log goes last.
create or replace function grace._purge_work(target regclass)
returns grace._purge_item []
language sql stable
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(row(w.id, w.leaf, w.action)::grace._purge_item order by w.step, w.id, w.name)
  from (
    select p.id, l.leaf, l.name, a.step, a.action
    from grace_internal.protected p
    cross join lateral grace_internal.leaves(p.id) l
    cross join lateral (
      values
        (1, 'empty', l.upper_bound <= grace._expired_before(p.id)),
        (2, 'drop', l.upper_bound <= grace._expired_before(p.id)),
        (1, 'delete', l.upper_bound is null or (
          l.lower_bound <= grace._expired_before(p.id) and l.upper_bound > grace._expired_before(p.id)
        ))
    ) as a (step, action, applies)
    where a.applies and (_purge_work.target is null or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target))
    union all
    select p.id, null, null, s.step, s.action
    from grace_internal.protected p
    cross join (values (3, 'prepare'), (4, 'log')) as s (step, action)
    where _purge_work.target is null
      or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target)
  ) as w
$$;
comment on function grace._purge_work(regclass) is 'Internal: the pieces of a purge, in order.';

-- Does one slice; returns whether there is more of the same piece.
create or replace function grace._purge_slice(run bigint, item grace._purge_item)
returns boolean
language plpgsql
security definer -- the buffer and the log are granted to nobody for writing
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
  v_run grace_internal.run;
  v_rows bigint := 0;
  v_more boolean := false;
  v_leaf text := grace_internal.qualified_name(item.leaf);
begin
  select r.* into v_run
  from grace_internal.run r
  where r.id = run and r.kind = 'purge' and r.status = 'running';
  if not found then
    raise exception 'run % is no purge that is running', run
      using errcode = 'GR014', detail = 'Slices are done by grace.purge() only.', hint = 'call grace.purge();';
  end if;
  begin
    case item.action
      when 'empty' then v_rows := grace_internal.empty_leaf(item.protected_id, item.leaf);
      when 'drop' then perform grace_internal.drop_leaf(item.protected_id, item.leaf);
      when 'delete' then
        v_rows := grace_internal.delete_expired(item.protected_id, item.leaf, 5000);
        v_more := v_rows = 5000;
      when 'prepare' then v_more := grace_internal.prepare_buffer(item.protected_id);
      when 'log' then
        if not v_run.details ? 'left_for_next_run' then
          v_more := grace_internal.trim_log(item.protected_id, v_run.started_at, 5000);
        end if;
    end case;
  exception when others then
    -- One table's trouble must not keep the others past their retention. What it was is in the run, by its SQLSTATE (a
    -- message could hold values), and in the server's log.
    if sqlstate <> '55P03' then
      raise warning '% of % failed', item.action, coalesce(v_leaf, 'buffer ' || item.protected_id)
        using errcode = sqlstate, detail = sqlerrm;
    end if;
    update grace_internal.run r
    set details = jsonb_set(
      r.details, '{left_for_next_run}',
      coalesce(r.details -> 'left_for_next_run', '[]') || to_jsonb(concat_ws(' ', item.action, v_leaf, 'of', (
        select p.target_name from grace_internal.protected p where p.id = item.protected_id
      ), 'SQLSTATE ' || nullif(sqlstate, '55P03')))
    )
    where r.id = run;
    return false;
  end;
  if v_rows > 0 then
    update grace_internal.run r
    set
      row_count = r.row_count + v_rows,
      details = jsonb_set(r.details, '{tables}', coalesce(r.details -> 'tables', '{}') || (
        select jsonb_build_object(
          p.target_name, coalesce((r.details -> 'tables' ->> p.target_name)::bigint, 0) + v_rows
        )
        from grace_internal.protected p
        where p.id = item.protected_id
      ))
    where r.id = run;
  end if;
  return v_more;
end
$$;
comment on function grace._purge_slice(bigint, grace._purge_item) is 'Internal: one slice of a purge.';

create or replace function grace._purge_end(run bigint)
returns void
language sql
security definer -- writes the run
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.run r
  set
    finished_at = clock_timestamp(),
    status = case when r.details ? 'left_for_next_run' then 'incomplete' else 'done' end
  where r.id = run and r.kind = 'purge' and r.status = 'running' and r.pid = pg_backend_pid()
$$;
comment on function grace._purge_end(bigint) is 'Internal: closes the run of a purge.';

-- purge/purge.sql
-- What pg_cron calls every night. It commits between slices, so that no lock is held for longer than one of them takes;
-- each slice waits at most 50 ms for a lock and leaves what it can't get to the next run. A procedure that commits can
-- be neither SECURITY DEFINER nor have a SET clause: the slices are functions that are both.
create or replace procedure grace.purge(target regclass default null)
language plpgsql
as $$
declare
  v_run bigint;
  v_work grace._purge_item [];
  v_more boolean;
begin
  v_run := grace._purge_begin(target);
  v_work := grace._purge_work(target);
  commit;
  for i in 1 .. pg_catalog.cardinality(v_work) loop
    loop
      v_more := grace._purge_slice(v_run, v_work[i]);
      commit;
      exit when not v_more;
    end loop;
  end loop;
  perform grace._purge_end(v_run);
  commit;
end
$$;
comment on procedure grace.purge(regclass) is
'Removes for good what is past its retention, of one table or of all, and makes the partitions of the days ahead. Commits as it goes, so it can''t run inside a transaction block. Each call is a row in grace.runs; status incomplete means that a lock was not free and the next run goes on. Errors: GR001, GR014 when another purge is running.';

-- purge/expired.sql
create or replace view grace.expired as
select
  p.target,
  sum(c.row_count)::bigint - coalesce((
    select sum(r.row_count)
    from grace_internal.restored r
    where r.protected_id = p.id and r.deleted_at <= grace._expired_before(p.id)
  ), 0)::bigint as row_count,
  min(c.deleted_at) as oldest
from grace_internal.protected p
join grace_internal.capture c on c.protected_id = p.id and c.deleted_at <= grace._expired_before(p.id)
group by p.id, p.target;

comment on view grace.expired is
'Per table: rows that are past their retention and that the next purge removes. They can be neither seen nor restored.';

-- schedule/ensure_jobs.sql
-- Creates the pg_cron job that purges every night, or says in words why there is none and which setting is missing.
-- 00:05 in pg_cron's time zone (GMT unless cron.timezone says otherwise): a buffer's day ends at 00:00 UTC, so that
-- almost all that is due can be truncated.
create or replace function grace_internal.ensure_jobs()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text;
begin
  begin
    v_database := current_setting('cron.database_name', true);
  exception when insufficient_privilege then
    v_database := '?';
  end;
  if exists (select from pg_extension where extname = 'pg_cron') then
    begin
      execute 'select cron.schedule($1, $2, $3)'
      using 'pg_grace: purge', '5 0 * * *', 'call grace.purge()';
    exception when insufficient_privilege then
      return format(
        'role %I may not use pg_cron, so nothing is purged by itself. As superuser: grant usage on schema cron to %I; '
        'then install again. Until then call grace.purge() yourself.', current_user, current_user
      );
    end;
    return 'pg_cron job "pg_grace: purge" runs every night at 00:05';
  end if;
  if not exists (select from pg_available_extensions where name = 'pg_cron') then
    return 'pg_cron is not installed on the server, so nothing is purged by itself. Install the package '
      'postgresql-' || current_setting('server_version_num')::integer / 10000 || '-cron, set '
      'shared_preload_libraries = ''pg_cron'' and cron.database_name = ''' || current_database()
      || ''', restart, "create extension pg_cron", then install again. Until then call grace.purge() yourself.';
  end if;
  if v_database is null then
    return 'pg_cron is not preloaded, so nothing is purged by itself. Set shared_preload_libraries = ''pg_cron'' and '
      'cron.database_name = ''' || current_database() || ''' in postgresql.conf, restart, "create extension pg_cron", '
      'then install again. Until then call grace.purge() yourself.';
  end if;
  if v_database = '?' then
    return format(
      'pg_cron is preloaded, but this role may not read cron.database_name, so nothing is purged by itself. If it is %L, '
      'as superuser: create extension pg_cron; grant usage on schema cron to %I; then install again.',
      current_database(), current_user
    );
  end if;
  if v_database <> current_database() then
    return format(
      'pg_cron runs in database "%s" (cron.database_name), not here, so nothing is purged by itself. There, run: '
      'select cron.schedule_in_database(%L, ''5 0 * * *'', ''call grace.purge()'', %L); '
      'or set cron.database_name = %L, restart and install again.',
      v_database, 'pg_grace: purge ' || current_database(), current_database(), current_database()
    );
  end if;
  return 'pg_cron is preloaded, but its extension is missing in this database, so nothing is purged by itself. '
    'As superuser: create extension pg_cron; then install again.';
end
$$;

-- schedule/jobs.sql
-- The pg_cron jobs of pg_grace; none where pg_cron is not in this database.
create or replace function grace.jobs()
returns table (
  job text, schedule text, login name, active boolean,
  last_start timestamptz, last_status text, last_message text
)
language plpgsql stable
security definer -- row security in pg_cron shows each role its own jobs only
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('cron.job') is not null then
    return query execute
      'select j.jobname::text, j.schedule, j.username::name, j.active, d.start_time, d.status, d.return_message
      from cron.job j
      left join lateral (
        select r.start_time, r.status, r.return_message from cron.job_run_details r
        where r.jobid = j.jobid order by r.runid desc limit 1
      ) as d on true
      where j.jobname like ''pg_grace: %'' and j.database = current_database()
      order by j.jobname';
  end if;
end
$$;
comment on function grace.jobs() is 'The pg_cron jobs of pg_grace in this database, with how they last ran.';

-- privileges/privileges.sql
-- Rights in one place, last: nothing for PUBLIC, then each role what it needs. Per-table grants on buffers are given when
-- a table is protected.
revoke all on all tables in schema grace, grace_internal from public;
revoke all on all routines in schema grace, grace_internal from public;

grant usage on schema grace to grace_admin, grace_operator, grace_auditor;
grant usage on schema grace_buffer to grace_operator, grace_auditor;

grant select on grace.deletions, grace.protected, grace.runs, grace.expired to grace_operator, grace_auditor;
grant select on grace.alembic_version to grace_operator, grace_auditor;
grant execute on function grace.jobs() to grace_operator, grace_auditor;
grant execute on function grace._protected_state(integer) to grace_operator, grace_auditor;
grant execute on function grace._is_running(integer, timestamptz) to grace_operator, grace_auditor;
grant execute on function grace._expired_before(integer) to grace_operator, grace_auditor;
grant execute on function grace.table_named(text) to grace_operator, grace_auditor;
grant execute on function grace._table_name(oid) to grace_operator, grace_auditor;

grant usage on sequence grace_internal.progress to grace_operator;
grant execute on function grace.buffered(regclass, bigint, jsonb, timestamptz, timestamptz, name, bigint) to grace_operator;
grant execute on function grace.restore(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean) to grace_operator;
grant execute on function grace._buffer_condition(regclass, bigint, jsonb, timestamptz, timestamptz, name) to grace_operator;
grant execute on function grace._restore_select(regclass, bigint, jsonb, timestamptz, timestamptz, name, boolean, boolean)
to grace_operator;
grant execute on function grace._pick_rows(grace._restore_plan, boolean) to grace_operator;
grant execute on function grace._add_related(grace._row_ref []) to grace_operator;
grant execute on function grace._buffer_links() to grace_operator;
grant execute on function grace._restore_plan(grace._restore_plan) to grace_operator;
grant execute on function grace._refuse_restore(jsonb) to grace_operator;
grant execute on function grace._restore_progress() to grace_operator;
grant execute on function grace._restore_done(grace._restore_plan, bigint []) to grace_operator;

grant execute on function grace.protect(regclass, interval, boolean, name [], interval) to grace_admin;
grant execute on function grace.unprotect(regclass, text, interval) to grace_admin;
grant execute on function grace.set_retention(regclass, interval) to grace_admin;
grant execute on function grace._purge_begin(regclass) to grace_admin;
grant execute on function grace._purge_work(regclass) to grace_admin;
grant execute on function grace._purge_slice(bigint, grace._purge_item) to grace_admin;
grant execute on function grace._purge_end(bigint) to grace_admin;
grant execute on procedure grace.purge(regclass) to grace_admin;

select grace_internal.ensure_jobs() as schedule;

commit;
