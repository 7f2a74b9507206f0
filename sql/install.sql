-- pg_grace 0.1.0, revision 0002: psql -f install.sql
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

-- Running upgrade 0001 -> 0002

alter table grace_internal.protected
add column row_wise boolean not null default false,
add column follows_cascades boolean not null default true,
add column uncovered regclass [] not null default '{}',
add column files smallint [] not null default '{}',
add column file_names name [] not null default '{}';

-- What was so in the version before is meant so: cascades into tables that are not protected.
update grace_internal.protected p
set uncovered = array(
  select distinct coalesce(pg_catalog.pg_partition_root(c.conrelid), c.conrelid::pg_catalog.regclass)
  from pg_catalog.pg_constraint c
  where c.contype = 'f' and c.confdeltype = 'c'
    and coalesce(pg_catalog.pg_partition_root(c.confrelid), c.confrelid::pg_catalog.regclass) = p.target
    and not exists (
      select
      from grace_internal.protected o
      where o.active
        and o.target = coalesce(pg_catalog.pg_partition_root(c.conrelid), c.conrelid::pg_catalog.regclass)
    )
);

alter table grace_internal.protected add column home text;
update grace_internal.protected p
set home = pg_catalog.format('%s/%s', s.system_identifier, d.oid)
from pg_catalog.pg_control_system() s, pg_catalog.pg_database d
where d.datname = pg_catalog.current_database();

-- A dump writes the target of a table that is gone as a number, and another table may have that number where it is loaded.
alter table grace_internal.protected alter column target drop not null;
update grace_internal.protected p
set target = null, active = false
where not exists (
  select
  from pg_catalog.pg_class c
  where c.oid = p.target
);

comment on column grace_internal.protected.target is 'Null when the table was dropped.';
comment on column grace_internal.protected.home is
'The cluster and database in which relation and the numbers of columns mean something.';
comment on column grace_internal.protected.row_wise is
'Captured row by row, because the table is part of an inheritance tree.';
comment on column grace_internal.protected.follows_cascades is
'Whether tables that deleting from it cascades into are to be protected with it.';
comment on column grace_internal.protected.uncovered is
'Tables that deleting from it cascades into and that are known not to be captured: refused by protect, or unprotected since.';
comment on column grace_internal.protected.files is
'Columns that refer to files: a large object''s OID, or a path or URL outside the database.';

-- Where a publication takes in all tables, rows without an identity could not be deleted: not by a restore, not by a purge.
alter table grace_internal.capture replica identity full;
alter table grace_internal.restored replica identity full;

alter table grace_internal.run drop constraint run_kind;
alter table grace_internal.run add constraint run_kind
check (kind in ('restore', 'purge', 'protect', 'unprotect', 'retention', 'sync', 'files'));

create table grace_internal.outbox (
  id bigint generated always as identity primary key,
  protected_id integer not null,
  target_name text not null,
  column_name name not null,
  file text not null,
  deleted_at timestamptz not null,
  purged_at timestamptz not null default pg_catalog.clock_timestamp(),
  claimed_until timestamptz,
  attempts integer not null default 0,
  error text
);

comment on table grace_internal.outbox is
'Files outside the database whose rows have been purged: to be deleted by the application or by pg_grace files sweep.';

-- Former buffers get the identity that new ones are created with.
do $$
declare
  v_relation record;
begin
  for v_relation in
    select c.oid::pg_catalog.regclass as name
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p')
      and (
        c.relnamespace = 'grace_buffer'::pg_catalog.regnamespace
        or (c.relnamespace = 'grace_internal'::pg_catalog.regnamespace and c.relispartition)
      )
  loop
    execute pg_catalog.format('alter table %s replica identity full', v_relation.name);
  end loop;
end
$$;

-- Functions whose parameters changed; the repeatable files create them anew.
drop function if exists grace.protect(regclass, interval, boolean, name [], interval);
drop function if exists grace_internal.capture_statement(integer, oid, text);
drop function if exists grace_internal.insert_statement(integer, text, text, text);
drop function if exists grace_internal.cascade_tree(regclass);
drop function if exists grace_internal.create_buffer(regclass, interval, smallint []);
drop function if exists grace_internal.create_triggers(integer, boolean);
drop function if exists grace_internal.leaf_name(integer, date);
drop function if exists grace_internal.create_partition(integer, date);
drop function if exists grace_internal.missing_partitions(integer, integer);
drop function if exists grace_internal.leaves(integer);
drop function if exists grace_internal.check_protectable(regclass, name []);

alter table grace_internal.protected add column unmarked_to bigint not null default 0;

comment on column grace_internal.protected.unmarked_to is
'Rows of deletions up to this one were loaded or rewritten since, so that their xmin no longer is that of their log row.';


UPDATE grace.alembic_version SET version_num='0002' WHERE grace.alembic_version.version_num = '0001';

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

-- common/home.sql
-- Which database of which cluster this is. The numbers of tables and columns that the registry holds mean something only there: a
-- dump that is loaded elsewhere brings them along (regclass by name, the rest as they were).
create or replace function grace_internal.home()
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s/%s', s.system_identifier, d.oid)
  from pg_database d
  cross join pg_control_system() s
  where d.datname = current_database()
$$;

create or replace function grace_internal.has_moved(protected grace_internal.protected)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select protected.relation <> protected.target or protected.home is distinct from grace_internal.home()
$$;

-- The registry's columns with the numbers that they have here: after a move they are found again by their names. A former column
-- of a column that was dropped has number 0 then, which no column has.
create or replace view grace_internal.column_map as
select
  c.protected_id,
  c.buffer_column,
  case
    when not m.has_moved then c.attnum
    else coalesce(a.attnum, case when c.ended_at is null then c.attnum else 0::smallint end)
  end as attnum,
  c.attname,
  c.type,
  c.ended_at
from grace_internal.protected_column c
join grace_internal.protected p on p.id = c.protected_id
cross join lateral grace_internal.has_moved(p.*) as m (has_moved)
left join pg_catalog.pg_attribute a
  on m.has_moved and a.attrelid = p.target and a.attname = c.attname and not a.attisdropped;

comment on view grace_internal.column_map is 'Which buffer column holds which column of the table, here and now.';

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

-- What capturing takes on the side of pg_grace: only the owner of a table may make its triggers fire always.
create or replace function grace_internal.require_ownership(target regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner name := (
    select r.rolname
    from pg_class c
    join pg_roles r on r.oid = c.relowner
    where c.oid = target
  );
begin
  if not pg_has_role(v_owner, 'usage') then
    raise exception 'pg_grace has no rights on table %', target
      using errcode = 'insufficient_privilege',
      detail = format('Role %I, which owns pg_grace, is no member of %I, which owns the table.', current_user, v_owner),
      hint = format('grant %I to %I;', v_owner, current_user);
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
-- A table and, when it is partitioned, all its partitions on every level. Not by pg_partition_tree(), which locks each of them: a
-- delete straight from one would wait for a change that has locked another, and the other way round.
create or replace function grace_internal.partition_tree(root oid)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive tree (relation) as (
    select root
    union all
    select i.inhrelid
    from tree t
    join pg_inherits i on i.inhparent = t.relation
    join pg_class c on c.oid = i.inhrelid and c.relispartition
  )
  select t.relation from tree t
$$;

-- common/untrusted_code.sql
-- Code that planning a query on a table would run with the rights of whoever plans: the planner evaluates calls of functions that
-- are labelled IMMUTABLE in index expressions and predicates, in extended statistics and in partition keys, and the label may be
-- false. Functions of superusers and of the current role are trusted. Returns the first one that is not, as text, else null.
create or replace function grace_internal.untrusted_code(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.relation from grace_internal.partition_tree(relation) as t (relation)
  ),
  objects (class_id, id) as (
    select 'pg_class'::regclass, t.relation from tables t
    union all
    select 'pg_class'::regclass, i.indexrelid from tables t join pg_index i on i.indrelid = t.relation
    union all
    select 'pg_statistic_ext'::regclass, s.oid from tables t join pg_statistic_ext s on s.stxrelid = t.relation
  )
  select min(format('function %s of role %I', f.oid::regprocedure, r.rolname))
  from objects o
  join pg_depend d on d.classid = o.class_id and d.objid = o.id and d.objsubid = 0
  left join pg_operator p on d.refclassid = 'pg_operator'::regclass and p.oid = d.refobjid
  join pg_proc f on f.oid = case d.refclassid when 'pg_proc'::regclass then d.refobjid else p.oprcode end
  join pg_roles r on r.oid = f.proowner
  where not r.rolsuper and r.rolname <> current_user
$$;

-- Errors: GR010 when a table can't be read without running such code.
create or replace function grace_internal.require_trusted_code(relation oid, instead text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text := grace_internal.untrusted_code(relation);
begin
  if v_code is not null then
    raise exception '% can''t be read by pg_grace', grace_internal.qualified_name(relation)
      using errcode = 'GR010',
      detail = format('Its indexes, statistics or partition keys use %s, which would run with the rights of %I.', v_code, current_user),
      hint = instead;
  end if;
end
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

-- capture/current_deletion.sql
-- The deletion that this transaction's captures belong to; the first one begins it. Inlined into nothing and pinned by its
-- callers: a SET clause would cost more than all it does.
create or replace function grace_internal.current_deletion()
returns grace_internal.deletion_ref
language plpgsql
as $$
declare
  v_setting text := current_setting('grace.deletion', true);
  v_result grace_internal.deletion_ref;
begin
  if v_setting <> '' then
    v_result := grace_internal.remembered_deletion(v_setting);
  end if;
  if v_result.deletion is null then
    v_result.deletion := nextval('grace_internal.deletion_id');
    v_result.deleted_at := clock_timestamp();
    v_setting := concat(v_result.deletion, ' ', encode(timestamptz_send(v_result.deleted_at), 'hex'));
    v_setting := set_config('grace.deletion', v_setting || ' ' || grace_internal.signature(v_setting), true);
  end if;
  return v_result;
end
$$;

-- capture/deleted_with.sql
-- The tables (roots of their partition trees) that lose rows when rows are deleted from one: those that reference it by a
-- foreign key with ON DELETE CASCADE, and those that inherit from it.
create or replace function grace_internal.cascade_children(target oid)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct coalesce(pg_partition_root(c.conrelid), c.conrelid::regclass)
  from grace_internal.partition_tree(target) as t (relation)
  join pg_constraint c on c.confrelid = t.relation
  where c.contype = 'f' and c.confdeltype = 'c'
    and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and coalesce(pg_partition_root(c.conrelid), c.conrelid::regclass) <> target
$$;

create or replace function grace_internal.inheritors(target oid)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select i.inhrelid::regclass
  from pg_inherits i
  join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
  where i.inhparent = target
$$;

create or replace function grace_internal.in_inheritance_tree(target oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_inherits i
    join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
    where target in (i.inhparent, i.inhrelid)
  )
$$;

-- capture/cascade_tree.sql
-- A table, all that inherit from it, and, with foreign_keys, every table that deleting from these cascades into.
create or replace function grace_internal.cascade_tree(target regclass, foreign_keys boolean)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive tree (relation) as (
    select target
    union
    select n.relation
    from tree t
    cross join lateral (
      select * from grace_internal.inheritors(t.relation)
      union
      select * from grace_internal.cascade_children(t.relation) where foreign_keys
    ) as n (relation)
  )
  select t.relation from tree t
$$;

-- capture/has_capture_triggers.sql
-- Whether a relation has all its triggers, always firing, and of the kind that its table needs.
create or replace function grace_internal.has_capture_triggers(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = case when bool_or(p.row_wise) then 3 else 2 end
  from pg_trigger t
  join pg_proc f on f.oid = t.tgfoid
  join pg_namespace n on n.oid = f.pronamespace
  join grace_internal.protected p on p.id = has_capture_triggers.protected_id
  where t.tgrelid = has_capture_triggers.relation
    and t.tgname in ('zz_grace_delete', 'zz_grace_truncate', 'zz_grace_cover')
    and t.tgenabled = 'A'
    and n.nspname = 'grace_internal'
    and f.proname = 'capture_' || p.id
    and (p.row_wise or t.tgname <> 'zz_grace_cover')
    and (t.tgtype & 1 = 1) = (p.row_wise and t.tgname = 'zz_grace_delete')
$$;

-- capture/uncovered_tables.sql
-- Tables that lose rows when rows are deleted from a protected table, and whose rows would not be captured, or not whole.
-- Those that are known and accepted (registry column uncovered) are left out.
create or replace function grace_internal.uncovered_tables(protected_id integer)
returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select u.relation
  from grace_internal.protected p
  cross join lateral (
    select c, false from grace_internal.cascade_children(p.target) c where p.follows_cascades
    union all
    select i, true from grace_internal.cascade_tree(p.target, false) i where i <> p.target
    union all
    select p.target, true where grace_internal.in_inheritance_tree(p.target)
  ) as u (relation, row_wise)
  where p.id = uncovered_tables.protected_id
    and not u.relation = any (p.uncovered)
    and not exists (
      select
      from grace_internal.protected o
      where o.target = u.relation and o.active
        and (not u.row_wise or (o.row_wise and grace_internal.has_capture_triggers(o.target, o.id)))
    )
$$;

-- Errors: GR019 when there is one. As of now: VOLATILE, so that it reads with a snapshot of its own and not with that of the
-- statement that deletes.
create or replace function grace_internal.require_covered(protected_id integer)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text := (
    select min(grace_internal.qualified_name(u)) from grace_internal.uncovered_tables(protected_id) u
  );
begin
  if v_uncovered is not null then
    raise exception 'rows deleted from % could not all be captured',
      (select p.target_name from grace_internal.protected p where p.id = protected_id)
      using errcode = 'GR019',
      detail = format('%s has come to lose rows with it, or to inherit from it, and is not captured with it.', v_uncovered),
      hint = 'Run pg_grace sync, or: select * from grace.sync();';
  end if;
end
$$;

-- The same for a partition tree, together with whether its leaves are all captured by statement. The plan of the capture function's
-- first statement depends on the relation deleted from only, so where there are no event triggers this is asked for every statement.
create or replace function grace_internal.tree_is_covered(protected_id integer)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.require_covered(protected_id);
  return not exists (select from grace_internal.guarded_leaves(protected_id));
end
$$;

-- capture/columns_differ.sql
create or replace function grace_internal.columns_changed(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from (
      select l.attnum, l.buffer_column, l.type
      from grace_internal.protected p
      cross join lateral grace_internal.live_columns(p.target) l
      where p.id = columns_changed.protected_id
        and case
          when grace_internal.has_moved(p.*) then not l.attname = any (p.excluded_names)
          else not l.attnum = any (p.excluded)
        end
    ) as l
    full join (
      select c.attnum, c.buffer_column, c.type
      from grace_internal.column_map c
      where c.protected_id = columns_changed.protected_id and c.ended_at is null
    ) as c on c.attnum = l.attnum
    where l.buffer_column is distinct from c.buffer_column or l.type is distinct from c.type
  )
$$;

-- Whether a table's columns are no longer those that its buffer and its capture function know, or the numbers by which they are
-- known mean nothing here.
create or replace function grace_internal.columns_differ(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from grace_internal.protected p
    where p.id = columns_differ.protected_id and grace_internal.has_moved(p.*)
  ) or grace_internal.columns_changed(protected_id)
$$;

-- capture/columns_unchanged.sql
-- Labelled IMMUTABLE so that the planner evaluates it when it plans the capture function's first statement. That statement
-- reads the transition table, so its plan depends on the table itself: any DDL on the table makes every session plan, and so
-- evaluate, anew (of a partition tree: any on the relation that is deleted from; its columns can change only together). Between two
-- changes of the table the answer costs nothing. The planner reads the catalog with the outer
-- statement's snapshot, which may be older than the table's last change: then the answer is false, and the statement is
-- made anew; in an isolation level above READ COMMITTED, where nothing can be read as it is now, it is error 40001.
create or replace function grace_internal.columns_unchanged(protected_id integer)
returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform grace_internal.require_covered(protected_id);
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
  return not grace_internal.columns_differ(protected_id)
    and not exists (select from grace_internal.guarded_leaves(protected_id));
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
-- "row" is what the columns are columns of: an alias of source, or a record (then source is null).
create or replace function grace_internal.insert_statement(
  protected_id integer, "row" text, source text, deletion text, deleted_at text
)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    e'insert into grace_buffer.%I (\n      %s,\n      grace_deletion, grace_deleted_at\n    )\n'
    '    select\n      %s,\n      %s, %s%s',
    p.buffer,
    string_agg(format('%I', c.buffer_column), ', ' order by c.attnum),
    string_agg(format('%s.%I', "row", a.attname), ', ' order by c.attnum),
    deletion, deleted_at, e'\n    from ' || source
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
-- Row by row (inheritance trees), the table's OID as a regclass constant is what makes every session ask anew after any change of
-- the table.
create or replace function grace_internal.generate_capture(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $generate$
declare
  v_protected grace_internal.protected;
  v_body text;
  v_kind "char";
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  select c.relkind into v_kind from pg_class c where c.oid = v_protected.target;
  v_body := format(
    $body$
<<grace>> -- qualifies the variables: a column may be called like one
declare
  v_unchanged boolean;
  v_deletion grace_internal.deletion_ref;
  v_rows bigint;
begin
  if tg_op = 'DELETE' then
    %2$s;
    if v_unchanged is null then
      return null;
    end if;%6$s
  end if;

  v_deletion := grace_internal.current_deletion();
  if v_unchanged then
    %3$s;
  else
    execute grace_internal.capture_statement(%1$s, tg_relid, tg_op, %5$L)
    using v_deletion.deletion, v_deletion.deleted_at%4$s;
  end if;
  get diagnostics v_rows = row_count;

  if v_rows > 0 then
    insert into grace_internal.capture (
      deletion, deleted_at, protected_id, row_count, operation,
      role, login, application_name, client_addr, reason
    )
    values (
      v_deletion.deletion, v_deletion.deleted_at, %1$s, v_rows, tg_op,
      coalesce(nullif(current_setting('role'), 'none'), session_user), session_user,
      current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
    );
  end if;
  return null;
end
$body$,
    protected_id,
    case when v_protected.row_wise then format(
      'v_unchanged := grace_internal.columns_unchanged(%s) and %L::regclass is not null', protected_id, v_protected.target::oid
    ) else format(
      'select grace_internal.columns_unchanged(%s) into v_unchanged from grace_gone limit 1', protected_id
    ) end,
    grace_internal.insert_statement(
      protected_id,
      case when v_protected.row_wise then 'old' else 'g' end,
      case when not v_protected.row_wise then 'grace_gone as g' end,
      'grace.v_deletion.deletion', 'grace.v_deletion.deleted_at'
    ),
    case when v_protected.row_wise then ', old' else '' end,
    v_protected.row_wise,
    case
      when v_protected.row_wise then format(
        e'\n    if tg_level = ''STATEMENT'' then\n      perform grace_internal.require_covered(%s);\n      return null;\n    end if;',
        protected_id
      )
      when v_kind = 'p' then concat(
        e'\n    v_unchanged := ',
        case when not grace_internal.has_event_triggers() then
          format('grace_internal.tree_is_covered(%s) and ', protected_id)
        end,
        format(
          'v_unchanged and pg_partition_root(tg_relid) is not distinct from %s::regclass;', v_protected.target::oid
        )
      )
    end
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
    'capture_' || protected_id, 'pg_grace: captures what is deleted from ' || v_protected.target_name
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
  from pg_attribute r
  cross join lateral grace_internal.partition_tree(r.attrelid) as t (relation)
  join pg_attribute a on a.attrelid = t.relation and a.attname = r.attname
  join pg_type y on y.oid = a.atttypid
  left join pg_type e on e.oid = y.typelem and y.typcategory = 'A'
  where r.attrelid = missing_value.relation and r.attnum = column_number and a.atthasmissing
    and 'pg_catalog'::regnamespace in (y.typnamespace, e.typnamespace)
  limit 1
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
    home = grace_internal.home(),
    unmarked_to = coalesce((select max(c.deletion) from grace_internal.capture c where c.protected_id = p.id), 0),
    excluded = coalesce((
      select array_agg(a.attnum)
      from pg_attribute a
      where a.attrelid = p.target and a.attname = any (p.excluded_names) and not a.attisdropped
    ), '{}'),
    files = grace_internal.file_numbers(p.*)
  where p.id = renumber_columns.protected_id;
end
$$;

-- capture/sync_columns.sql
-- Makes the buffer table follow the columns of its table; returns whether it had to change. Added columns are added,
-- renamed ones renamed. A column that was dropped or changed its type keeps its values in the buffer; one that has to
-- make room for a namesake is renamed to name_former1. Nothing is rewritten, so it is quick at any size. What rows from before
-- a column was added have in it they also have in the buffer; a new type adds no values, for theirs are in the former column.
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
  if grace_internal.has_moved(v_protected) then
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
    select
      l.buffer_column as wanted, l.attname, l.attnum, l.type, l.type_name, c.buffer_column,
      not exists (
        select
        from grace_internal.protected_column f
        where f.protected_id = v_protected.id and f.attnum = l.attnum
      ) as is_new
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
        case when v_column.is_new then grace_internal.missing_value(v_protected.target, v_column.attnum) end
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

  perform grace_internal.no_statistics(v_buffer); -- reaches the partitions as well

  -- Former ones as well, by which they are found after a move; a dropped one has the name PostgreSQL has given it since, so that
  -- it is not taken for a namesake.
  update grace_internal.protected_column c
  set attname = a.attname
  from pg_attribute a
  where c.protected_id = v_protected.id
    and a.attrelid = v_protected.target and a.attnum = c.attnum and a.attname <> c.attname;
  update grace_internal.protected p
  set
    target_name = grace_internal.qualified_name(p.target),
    excluded_names = coalesce(grace_internal.column_names(p.target, p.excluded), '{}'),
    file_names = coalesce(grace_internal.column_names(p.target, p.files), '{}')
  where p.id = v_protected.id;

  return v_changed or v_changed_numbers;
end
$$;

-- capture/capture_statement.sql
-- The statement that captures from one relation as its columns are now: $1 is the deletion, $2 its time, $3, row by row, the
-- deleted row (of an inheritance tree, or of a leaf that has no capture trigger yet). The capture
-- function runs it where its own static statement can't serve: for TRUNCATE, and when the table may have changed since
-- the function was generated; then buffer and function are brought up to date first, within the same statement.
create or replace function grace_internal.capture_statement(
  protected_id integer, relation oid, operation text, row_wise boolean
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_uncovered text;
  v_later text;
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
    perform grace_internal.require_trusted_code(
      relation, 'Use DELETE instead of TRUNCATE, or let a superuser own the function: alter function … owner to …;'
    );
    v_later := grace_internal.later_truncate_trigger(relation);
    if v_later is not null then
      raise exception 'TRUNCATE of protected table % could remove rows that are not captured',
        grace_internal.qualified_name(relation)
        using errcode = 'GR010',
        detail = format('BEFORE TRUNCATE %s fires after the capture and may still write rows.', v_later),
        hint = 'Make it an AFTER TRUNCATE trigger, or use DELETE.';
    end if;
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
    perform grace_internal.keep_all_files(protected_id, relation);
  end if;

  if grace_internal.columns_differ(protected_id) then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;

  return grace_internal.insert_statement(
    protected_id,
    case when row_wise and operation = 'DELETE' then '($3)' else 'g' end,
    case
      when operation = 'TRUNCATE' then format('only %s as g', grace_internal.qualified_name(relation))
      when not row_wise then 'grace_gone as g' || coalesce(
        e'\n    where ' || grace_internal.not_from_guarded_leaves(protected_id), ''
      )
    end,
    '$1', '$2'
  );
end
$$;

-- capture/no_statistics.sql
-- ANALYZE, autovacuum's too, computes statistics with the rights of a table's owner, and for a range type calls a function that
-- whoever made the type has chosen. So buffers have none on columns of the application's types.
create or replace function grace_internal.no_statistics(relation text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns text;
begin
  select string_agg(format('alter column %I set statistics 0', a.attname), ', ') into v_columns
  from pg_attribute a
  where a.attrelid = relation::regclass and a.attnum > 0 and not a.attisdropped
    and grace_internal.belongs_to_application(a.atttypid)
    and a.attstattarget is distinct from 0;
  if v_columns is not null then
    execute format('alter table %s %s', relation, v_columns);
  end if;
end
$$;

-- A type, or array of a type, that is not PostgreSQL's own.
create or replace function grace_internal.belongs_to_application(type_oid oid)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.typnamespace <> 'pg_catalog'::regnamespace
  from pg_type t
  where t.oid = type_oid
$$;

-- capture/partitions.sql
-- A buffer's partitions are called after its stem: b5_20261121 and b5_default for the rows, f5_… for what their files hold.

-- The default partition, and leaves for today and the days ahead. Rows have no identity but themselves; without one, a
-- publication that takes in all tables would make it an error to delete them.
create or replace function grace_internal.create_partitions(stem text, parent text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_day date;
begin
  execute format('alter table %s replica identity full', parent);
  perform grace_internal.no_statistics(parent);
  execute format('create table grace_internal.%I partition of %s default', stem || '_default', parent);
  execute format('alter table grace_internal.%I replica identity full', stem || '_default');
  perform grace_internal.no_statistics(format('grace_internal.%I', stem || '_default'));
  for v_day in select m from grace_internal.missing_partitions(stem) m loop
    perform grace_internal.create_partition(stem, parent, v_day);
  end loop;
end
$$;

-- Makes the leaf for one day (UTC). It is attached, not created as a partition: that takes only SHARE UPDATE EXCLUSIVE on
-- the buffer, so captures go on meanwhile.
create or replace function grace_internal.create_partition(stem text, parent text, day date)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
declare
  v_leaf name := stem || to_char(day, '_YYYYMMDD');
  v_from timestamptz := day::timestamp at time zone 'UTC';
  v_to timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
  execute format(
    'create table grace_internal.%I (like %s including indexes including storage, '
    'constraint day check (grace_deleted_at >= %L and grace_deleted_at < %L))',
    v_leaf, parent, v_from, v_to
  );
  execute format('alter table grace_internal.%I replica identity full', v_leaf);
  perform grace_internal.no_statistics(format('grace_internal.%I', v_leaf));
  execute format(
    'alter table %s attach partition grace_internal.%I for values from (%L) to (%L)', parent, v_leaf, v_from, v_to
  );
  execute format('alter table grace_internal.%I drop constraint day', v_leaf);
end
$$;

-- Days (UTC) from today on for which there is no leaf yet. A day of which the default partition already holds rows, because
-- no leaf was there in time, is left to it: nothing is moved, the rows expire where they are.
create or replace function grace_internal.missing_partitions(stem text, days_ahead integer default 14)
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
    from grace_internal.%I b where b.grace_deleted_at >= $1 $q$, stem || '_default'
  )
  into v_in_default using v_today::timestamp at time zone 'UTC';
  return query
    select v_today + n
    from generate_series(0, days_ahead) n
    where to_regclass(format('grace_internal.%I', stem || to_char(v_today + n, '_YYYYMMDD'))) is null
      and not v_today + n = any (coalesce(v_in_default, '{}'));
end
$$;

-- The stems of a protected table, each with the partitioned table that it belongs to.
create or replace function grace_internal.stems(protected_id integer)
returns table (stem text, parent text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'b' || p.id, format('grace_buffer.%I', p.buffer)
  from grace_internal.protected p
  where p.id = protected_id and to_regclass(format('grace_internal.%I', 'b' || p.id || '_default')) is not null
  union all
  select 'f' || protected_id, format('grace_internal.%I', 'f' || protected_id)
  where to_regclass(format('grace_internal.%I', 'f' || protected_id)) is not null
$$;

-- Makes one partition that is missing for the days ahead; returns whether it did.
create or replace function grace_internal.prepare_partition(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
  v_day date;
begin
  for v_stem in select s.stem, s.parent from grace_internal.stems(protected_id) s loop
    select min(m) into v_day from grace_internal.missing_partitions(v_stem.stem) m;
    if v_day is not null then
      perform grace_internal.create_partition(v_stem.stem, v_stem.parent, v_day);
      return true;
    end if;
  end loop;
  return false;
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
  target regclass, retention interval, excluded smallint [], follows_cascades boolean
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
  v_buffer name := grace_internal.free_buffer_name(target);
begin
  insert into grace_internal.protected (
    target, relation, target_name, buffer, retention, excluded, excluded_names, follows_cascades, row_wise, home, protected_by
  )
  values (
    target, target, grace_internal.qualified_name(target), v_buffer, retention, excluded,
    coalesce(grace_internal.column_names(target, excluded), '{}'), follows_cascades,
    grace_internal.in_inheritance_tree(target), grace_internal.home(), grace_internal.caller()
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
  perform grace_internal.create_partitions('b' || v_id, format('grace_buffer.%I', v_buffer));

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

-- files/check_files.sql
-- What kind of file a column's values refer to: 'large object' (oid, lo), 'path' (text: a path or URL outside the database),
-- null for anything else.
create or replace function grace_internal.file_kind(type_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when t.oid = 'oid'::regtype then 'large object'
    when t.typcategory = 'S' then 'path'
  end
  from pg_type t
  where t.oid = grace_internal.base_type(type_oid)
$$;

-- Errors: GR020 for a column that can't refer to a file.
create or replace function grace_internal.check_files(target regclass, files name [], exclude_columns name [])
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_why text;
begin
  foreach v_name in array coalesce(files, '{}') loop
    select case
      when a.attnum is null then 'It does not exist.'
      when v_name = any (exclude_columns) then 'It is excluded from the capture, so nobody would know which file it is.'
      when grace_internal.file_kind(a.atttypid) is null then format('Its type is %s.', format_type(a.atttypid, a.atttypmod))
    end into v_why
    from (select) as one
    left join pg_attribute a on a.attrelid = target and a.attname = v_name and a.attnum > 0 and not a.attisdropped;
    if v_why is not null then
      raise exception 'column % of % refers to no file', quote_ident(v_name), target
        using errcode = 'GR020', detail = v_why,
        hint = 'Name a captured column of type oid or lo (large objects), or of a text type (paths or URLs).';
    end if;
  end loop;
end
$$;

-- files/file_columns.sql
-- The columns of a protected table that refer to files: as the table calls them, and where the buffer keeps their values, one
-- row for each buffer column (a column that has changed its type has several).
create or replace function grace_internal.file_columns(protected_id integer, wanted_kind text)
returns table (attnum smallint, attname name, buffer_column name)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.attnum, c.attname, c.buffer_column
  from grace_internal.protected p
  join grace_internal.column_map c
    on c.protected_id = p.id
    and case when grace_internal.has_moved(p.*) then c.attname = any (p.file_names) else c.attnum = any (p.files) end
  where p.id = file_columns.protected_id and grace_internal.file_kind(c.type) = wanted_kind
  order by c.attnum, c.buffer_column
$$;

-- Their numbers in the table as it is here.
create or replace function grace_internal.file_numbers(protected grace_internal.protected)
returns smallint []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not grace_internal.has_moved(protected) then protected.files
    else array(
      select a.attnum from pg_attribute a
      where a.attrelid = protected.target and a.attname = any (protected.file_names) and not a.attisdropped
    )
  end
$$;

-- All values of a buffered row b in such columns, as an expression of type oid[] or text[]; null without such columns.
create or replace function grace_internal.file_values(protected_id integer, wanted_kind text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'array[%s]::%s[]', string_agg(format('b.%I', c.buffer_column), ', '),
    case wanted_kind when 'path' then 'pg_catalog.text' else 'pg_catalog.oid' end
  )
  from grace_internal.file_columns(protected_id, wanted_kind) c
  having count(*) > 0
$$;

-- files/keep_files.sql
-- BEFORE DELETE, row by row: what is behind the row's large objects is copied while it is still there. The content goes into
-- the table's f partitions in pieces of 256 kB, so memory stays flat at any size.
create or replace function grace_internal.keep_files()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on what is kept
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := tg_argv[0]::integer;
  v_values text;
  v_loid oid;
begin
  select string_agg(format('($1).%I::oid', a.attname), ', ') into v_values
  from grace_internal.protected p
  join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
  where p.id = v_id and grace_internal.file_kind(a.atttypid) = 'large object';
  if v_values is not null then
    for v_loid in execute format('select distinct v from unnest(array[%s]) v where v is not null', v_values) using old loop
      perform grace_internal.keep_large_object(v_id, v_loid);
    end loop;
  end if;
  return old;
end
$$;

-- Copies one large object into what is kept of this transaction's deletion. One that does not exist leaves nothing to keep;
-- one that has changed since it was copied (for another row) is copied again: the last content counts.
-- Whether whoever deletes could unlink it is noted: the purge unlinks nothing that its deleter could not.
-- Errors: GR020 when its content can't be read.
create or replace function grace_internal.keep_large_object(protected_id integer, loid oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_deletion grace_internal.deletion_ref;
  v_changed text;
  v_descriptor integer;
  v_size bigint;
begin
  if not exists (select from pg_largeobject_metadata m where m.oid = loid) then
    return;
  end if;
  v_deletion := grace_internal.current_deletion();
  v_changed := grace._file_conflict(protected_id, v_deletion.deletion, v_deletion.deleted_at, loid);
  if v_changed = '' then
    return;
  elsif v_changed <> '' then
    execute format(
      'delete from grace_internal.%I f where f.grace_deletion = $1 and f.grace_deleted_at = $2 and f.loid = $3',
      'f' || protected_id
    )
    using v_deletion.deletion, v_deletion.deleted_at, loid;
  end if;
  begin
    v_descriptor := lo_open(loid, 262144); -- INV_READ
    v_size := lo_lseek64(v_descriptor, 0, 2); -- SEEK_END
    perform lo_close(v_descriptor);
    execute format(
      'insert into grace_internal.%I (grace_deletion, grace_deleted_at, loid, page, owner, acl, unlink, data) '
      'select $1, $2, m.oid, n.page, case n.page when 0 then pg_get_userbyid(m.lomowner) end, '
      'case n.page when 0 then m.lomacl::text[] end, '
      'case n.page when 0 then pg_has_role(grace_internal.caller(), m.lomowner, ''usage'') end, lo_get(m.oid, n.page::bigint * 262144, 262144) '
      'from pg_largeobject_metadata m '
      'cross join generate_series(0, greatest(0, ($4 - 1) / 262144)::integer) as n (page) where m.oid = $3',
      'f' || protected_id
    )
    using v_deletion.deletion, v_deletion.deleted_at, loid, v_size;
  exception when insufficient_privilege then
    raise exception 'the content of large object % can''t be kept', loid
      using errcode = 'GR020',
      detail = format('Role %I, which owns pg_grace, may not read it, so the row could not be restored whole.', current_user),
      hint = format('As its owner: grant select on large object %s to %I;', loid, current_user);
  end;
end
$$;

-- TRUNCATE fires no row triggers.
create or replace function grace_internal.keep_all_files(protected_id integer, relation oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the table's checks while planning
as $$
declare
  v_column name;
  v_loid oid;
begin
  for v_column in
    select a.attname
    from grace_internal.protected p
    join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
    where p.id = protected_id and grace_internal.file_kind(a.atttypid) = 'large object'
  loop
    for v_loid in execute format(
      'select distinct %1$I::oid from only %2$s where %1$I is not null', v_column, grace_internal.qualified_name(relation)
    ) loop
      perform grace_internal.keep_large_object(protected_id, v_loid);
    end loop;
  end loop;
end
$$;

-- files/declare_files.sql
-- From now on these columns of a protected table, too, are known to refer to files. Large objects need a table for their content
-- and a trigger that comes before one that unlinks them (lo_manage).
create or replace function grace_internal.declare_files(protected_id integer, files name [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass;
  v_stem text := 'f' || protected_id;
begin
  update grace_internal.protected p
  set
    files = array(
      select unnest(p.files)
      union
      select a.attnum from pg_attribute a
      where a.attrelid = p.target and a.attname = any (declare_files.files) and not a.attisdropped
      order by 1
    ),
    file_names = array(
      select a.attname from pg_attribute a
      where a.attrelid = p.target and a.attnum > 0 and not a.attisdropped
        and (a.attnum = any (p.files) or a.attname = any (declare_files.files))
      order by a.attnum
    )
  where p.id = protected_id
  returning p.target into v_target;

  if exists (select from grace_internal.file_columns(protected_id, 'large object'))
    and to_regclass(format('grace_internal.%I', v_stem)) is null
  then
    execute format(
      'create table grace_internal.%I ('
      'grace_deletion bigint not null, grace_deleted_at timestamptz not null, loid oid not null, page integer not null, '
      'owner name, acl text [], unlink boolean, data bytea not null) partition by range (grace_deleted_at)', v_stem
    );
    execute format('create index on grace_internal.%I (grace_deletion, loid)', v_stem);
    execute format(
      'comment on table grace_internal.%I is %L', v_stem, 'pg_grace: large objects of rows deleted from ' || v_target
    );
    perform grace_internal.create_partitions(v_stem, format('grace_internal.%I', v_stem));
  end if;
end
$$;

-- Triggers fire in the order of their names, and a space sorts before every letter, digit and sign. With the number, so that the
-- table can become a partition of another one that has such a trigger.
create or replace function grace_internal.file_trigger(protected_id integer)
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select (' grace_files_' || protected_id)::name
$$;

-- The trigger, on the table itself (on a partitioned one PostgreSQL makes it on every partition, also on those to come).
create or replace function grace_internal.create_file_trigger(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation text;
begin
  select grace_internal.qualified_name(p.target) into v_relation
  from grace_internal.protected p
  where p.id = protected_id and p.active
    and exists (select from grace_internal.file_columns(p.id, 'large object'))
    and exists (
      select from grace_internal.partition_tree(p.target) as t (relation)
      where not grace_internal.has_file_trigger(t.relation, p.id)
    )
    and (repair or not exists (
      select from pg_trigger t where t.tgrelid = p.target and t.tgname = grace_internal.file_trigger(p.id)
    ));
  if found then
    execute format(
      'create or replace trigger %I before delete on %s for each row '
      'execute function grace_internal.keep_files(%s)', grace_internal.file_trigger(protected_id), v_relation, protected_id
    );
    execute format(
      'alter table %s enable always trigger %I', v_relation, grace_internal.file_trigger(protected_id)
    );
  end if;
end
$$;

create or replace function grace_internal.has_file_trigger(relation oid, protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_trigger t
    where t.tgrelid = relation
      and t.tgname = grace_internal.file_trigger(protected_id)
      and t.tgenabled = 'A'
      and t.tgfoid = 'grace_internal.keep_files'::regproc
      and t.tgargs = convert_to(protected_id::text, 'UTF8') || '\x00'::bytea
  )
$$;

-- files/restore_files.sql
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
    'select %s, null::pg_catalog.jsonb, ''large object''::pg_catalog.text, f.why from (%s) as f '
    'where f.why operator(pg_catalog.<>) ''''',
    protected_id, q
  )
  from grace_internal.kept_files(protected_id, source) q
  where q is not null
$$;

-- Puts the large objects of rows that are being restored back under their numbers, with owner and rights. One that is still
-- there is left alone. Errors: 23000 when another has taken the number, GR020 when it can't be given to its owner.
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
  for v_deletion, v_deleted_at, v_loid, v_why in execute grace_internal.kept_files(protected_id, source) using picks loop
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

-- files/purge_files.sql
-- Which of these large objects something still refers to: any column of type oid or lo of any table, buffers included, as
-- vacuumlo looks at it. A table that can't be read as a whole is an error, and then nothing is unlinked.
create or replace function grace_internal.referenced_large_objects(loids oid [])
returns oid []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_column record;
  v_found oid [];
  v_result oid [] := array[]::oid [];
begin
  for v_column in
    select c.oid, grace_internal.qualified_name(c.oid) as relation, a.attname
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'm')
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and (n.nspname <> 'grace_internal' or c.relname ~ '^b\d+_')
      and grace_internal.base_type(a.atttypid) = 'oid'::regtype
      and pg_relation_size(c.oid) > 0 -- most leaves of most buffers are empty
  loop
    perform grace_internal.require_trusted_code(
      v_column.oid, 'Let a superuser own the function; until then no large object is unlinked.'
    );
    execute format(
      'select array_agg(distinct t.%1$I::oid) from only %2$s t where t.%1$I::oid = any ($1)',
      v_column.attname, v_column.relation
    )
    into v_found using loids;
    v_result := v_result || coalesce(v_found, '{}');
  end loop;
  return v_result;
end
$$;

-- Unlinks the large objects of expired rows where the application has left that to us; returns whether there may be more.
-- The first page stands for the object: it goes when that is done. An object whose rows a lock has kept in the buffer waits.
create or replace function grace_internal.unlink_expired(protected_id integer, leaf oid, max_objects integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz := grace._expired_before(protected_id);
  v_leaf text := grace_internal.qualified_name(leaf);
  v_tids tid [];
  v_unlinkable oid [];
begin
  execute format(
    'select array_agg(f.ctid), array_agg(distinct f.loid) filter (where f.unlink and exists ('
    -- A row that an UPDATE moved to another partition was copied for nothing: its deletion has no log.
    'select from grace_internal.capture c where c.deletion = f.grace_deletion and c.protected_id = $3)) from ('
    'select f.ctid, f.loid, f.unlink, f.grace_deletion from %s f where f.page = 0 and f.grace_deleted_at <= $1 and not exists ('
    'select from grace_buffer.%I b where b.grace_deletion = f.grace_deletion and b.grace_deleted_at = f.grace_deleted_at '
    'and b.grace_deleted_at <= $1 and f.loid = any (%s)) limit $2) f',
    v_leaf,
    (select p.buffer from grace_internal.protected p where p.id = protected_id),
    coalesce(grace_internal.file_values(protected_id, 'large object'), 'array[]::oid[]')
  )
  into v_tids, v_unlinkable using v_before, max_objects, protected_id;
  if v_tids is null then
    return false;
  end if;
  perform grace_internal.unlink_unreferenced(v_unlinkable);
  execute format('delete from %s f where f.ctid = any ($1)', v_leaf) using v_tids;
  return true;
end
$$;

-- Those that are there, that nothing refers to, and that the owner of pg_grace may unlink; it warns of the others.
create or replace function grace_internal.unlink_unreferenced(loids oid [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_loids oid [];
  v_referenced oid [];
  v_owners text;
begin
  select array_agg(m.oid) into v_loids from pg_largeobject_metadata m where m.oid = any (loids);
  if v_loids is null then
    return;
  end if;
  begin
    v_referenced := grace_internal.referenced_large_objects(v_loids);
  exception when insufficient_privilege or sqlstate 'GR010' then
    raise warning 'large objects of purged rows stay: it can''t be seen whether something still refers to them'
      using detail = sqlerrm, hint = 'Unlink them with vacuumlo.';
    return;
  end;

  perform lo_unlink(m.oid)
  from pg_largeobject_metadata m
  where m.oid = any (v_loids) and m.oid <> all (v_referenced) and pg_has_role(m.lomowner, 'usage');

  select string_agg(distinct pg_get_userbyid(m.lomowner), ', ') into v_owners
  from pg_largeobject_metadata m
  where m.oid = any (v_loids) and m.oid <> all (v_referenced);
  if v_owners is not null then
    raise warning 'large objects to which nothing refers any more stay'
      using detail = format('Role %I, which owns pg_grace, may not unlink those of %s.', current_user, v_owners),
      hint = format('Unlink them with vacuumlo. For those to come: grant … to %I;', current_user);
  end if;
end
$$;

-- Files outside the database whose rows are about to be removed for good go into the outbox, each once. "rows" is the FROM and
-- WHERE of these rows, with alias b.
create or replace function grace_internal.post_files(protected_id integer, rows text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
begin
  for v_column in select c.attname, c.buffer_column from grace_internal.file_columns(protected_id, 'path') c loop
    execute format(
      'insert into grace_internal.outbox (protected_id, target_name, column_name, file, deleted_at) '
      'select $1, p.target_name, $2, f.file, f.deleted_at from grace_internal.protected p, ('
      'select b.%1$I::text as file, max(b.grace_deleted_at) as deleted_at %2$s and b.%1$I::text <> '''' group by b.%1$I::text'
      ') f where p.id = $1 and not exists ('
      'select from grace_internal.outbox o where o.protected_id = $1 and o.column_name = $2 and o.file = f.file) '
      'order by f.deleted_at, f.file',
      v_column.buffer_column, rows
    )
    using protected_id, v_column.attname;
  end loop;
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
-- names, GR004 excluded columns, GR020 columns with files, 42501 rights.
create or replace function grace_internal.check_protectable(
  target regclass, exclude_columns name [], files name []
)
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
  perform grace_internal.require_ownership(target);
  perform grace_internal.check_excluded(target, exclude_columns);
  perform grace_internal.check_files(target, files, exclude_columns);
end
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
-- The triggers on every relation of the tree that lacks them; with repair also where they are disabled. ENABLE ALWAYS: a session with
-- session_replication_role = replica deletes for good otherwise. Named to fire last, so that what other
-- BEFORE TRUNCATE triggers still write is captured as well. Of an inheritance tree a third one asks, before any row goes, whether
-- each table that inherits is captured: a statement on the parent fires no statement trigger of theirs.
create or replace function grace_internal.create_triggers(protected_id integer, repair boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation record;
  v_name text;
  v_names text [];
begin
  for v_relation in
    select grace_internal.qualified_name(t.relation) as name, p.row_wise
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
      'create or replace trigger zz_grace_delete after delete on %s %s execute function grace_internal.%I()',
      v_relation.name,
      case when v_relation.row_wise then 'for each row' else 'referencing old table as grace_gone for each statement' end,
      'capture_' || protected_id
    );
    execute format(
      'create or replace trigger zz_grace_truncate before truncate on %s '
      'for each statement execute function grace_internal.%I()',
      v_relation.name, 'capture_' || protected_id
    );
    v_names := array['zz_grace_delete', 'zz_grace_truncate'];
    if v_relation.row_wise then
      execute format(
        'create or replace trigger zz_grace_cover before delete on %s '
        'for each statement execute function grace_internal.%I()',
        v_relation.name, 'capture_' || protected_id
      );
      v_names := v_names || array['zz_grace_cover'];
    elsif exists (
      select from pg_trigger t where t.tgrelid = v_relation.name::regclass and t.tgname = 'zz_grace_cover'
    ) then
      execute format('drop trigger zz_grace_cover on %s', v_relation.name);
    end if;
    foreach v_name in array v_names loop
      execute format('alter table only %s enable always trigger %I', v_relation.name, v_name);
    end loop;
  end loop;
end
$$;

-- capture/guard_leaves.sql
-- Where there are no event triggers, a partition that is made or attached has no capture trigger until the next grace.sync() or
-- purge. A row trigger on the root, which PostgreSQL itself puts on every new partition, captures what is deleted
-- from it meanwhile, row by row. On partitions that have their own capture trigger it is disabled.
create or replace function grace_internal.guard_leaves(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name := 'zz_grace_leaf_' || protected_id; -- a root can become a partition of another one that has such a trigger
  v_root text := (
    select grace_internal.qualified_name(p.target)
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relkind = 'p'
    where p.id = protected_id and p.active
  );
  v_guarded boolean := exists (
    select from pg_trigger t where t.tgrelid = v_root::regclass and t.tgname = v_name
  );
  v_leaf text;
begin
  if v_root is null then
    return;
  end if;
  if grace_internal.has_event_triggers() or grace_internal.owner_is_superuser() then
    if v_guarded then
      execute format('drop trigger %I on %s', v_name, v_root);
    end if;
    return;
  end if;
  if not v_guarded then
    execute format(
      'create trigger %I after delete on %s for each row execute function grace_internal.capture_leaf(%s)',
      v_name, v_root, protected_id
    );
    execute format('alter table %s enable always trigger %I', v_root, v_name);
  end if;
  for v_leaf in
    select grace_internal.qualified_name(l)
    from grace_internal.guarded_leaves(protected_id) l
    where grace_internal.has_capture_triggers(l, protected_id)
  loop
    execute format('alter table only %s disable trigger %I', v_leaf, v_name);
    -- Sessions that know the root with a guarded leaf ask anew.
    execute format('alter table only %s enable always trigger zz_grace_delete', v_root);
  end loop;
end
$$;

-- The leaves from which rows are captured one by one, as of now: VOLATILE, for a snapshot of its own.
create or replace function grace_internal.guarded_leaves(protected_id integer)
returns setof oid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.tgrelid
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid and c.relkind = 'r'
    where t.tgfoid = 'grace_internal.capture_leaf'::regproc and t.tgenabled <> 'D'
      and t.tgargs = convert_to(protected_id::text, 'UTF8') || '\x00'::bytea;
end
$$;

-- What tells rows of guarded leaves from the others in a statement on their root, as a condition; null where there are none. It is
-- made of the application's partition keys, which may call functions of its own: that must not happen with a superuser's rights,
-- who has event triggers instead.
create or replace function grace_internal.not_from_guarded_leaves(protected_id integer)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_result text;
begin
  select string_agg(format('not coalesce(%s, false)', pg_get_partition_constraintdef(l)), ' and ') into v_result
  from grace_internal.guarded_leaves(protected_id) l;
  if v_result is not null then
    perform grace_internal.require_trusted_code(
      (select p.target from grace_internal.protected p where p.id = protected_id), 'Run pg_grace sync, or: select * from grace.sync();'
    );
  end if;
  return v_result;
end
$$;

create or replace function grace_internal.owner_is_superuser()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select r.rolsuper
  from pg_namespace n
  join pg_roles r on r.oid = n.nspowner
  where n.nspname = 'grace_internal'
$$;

create or replace function grace_internal.capture_leaf()
returns trigger
language plpgsql
security definer -- the role that deletes needs no right on the buffer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer := tg_argv[0]::integer;
  v_deletion grace_internal.deletion_ref := grace_internal.current_deletion();
begin
  execute grace_internal.capture_statement(v_id, tg_relid, tg_op, true)
  using v_deletion.deletion, v_deletion.deleted_at, old;
  insert into grace_internal.capture (
    deletion, deleted_at, protected_id, row_count, operation,
    role, login, application_name, client_addr, reason
  )
  values (
    v_deletion.deletion, v_deletion.deleted_at, v_id, 1, tg_op,
    grace_internal.caller(), session_user,
    current_setting('application_name'), inet_client_addr(), nullif(current_setting('grace.reason', true), '')
  );
  return null;
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
  where t.oid in (select grace_internal.capture_triggers(only_id));
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'access exclusive', max_wait);
    for v_trigger in
      select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
      from pg_trigger t
      where t.oid in (select grace_internal.capture_triggers(only_id))
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
    and case when only_id is null then f.proname ~ '^capture_\d+$' else f.proname = 'capture_' || only_id end
$$;

-- Triggers that a protected table (or, null, all) has from us; not those that PostgreSQL has cloned to partitions.
create or replace function grace_internal.capture_triggers(only_id integer)
returns setof oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.oid
  from pg_trigger t
  where t.tgfoid in (select grace_internal.capture_functions(only_id))
  union all
  select t.oid
  from pg_trigger t
  where t.tgfoid in ('grace_internal.keep_files'::regproc, 'grace_internal.capture_leaf'::regproc) and t.tgparentid = 0
    and (only_id is null or t.tgargs = convert_to(only_id::text, 'UTF8') || '\x00'::bytea)
$$;

-- capture/later_truncate_trigger.sql
-- A BEFORE TRUNCATE trigger that fires after ours in the same statement: of the same table by its name, or of another table that
-- is being truncated with it (all of them are locked by then, and which comes first is not known).
create or replace function grace_internal.later_truncate_trigger(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select min(format('trigger %I on %s', t.tgname, grace_internal.qualified_name(t.tgrelid)))
  from pg_trigger t
  where not t.tgisinternal and t.tgenabled <> 'D'
    and t.tgtype & 34 = 34 -- BEFORE TRUNCATE
    and not t.tgfoid in (select grace_internal.capture_functions(null))
    and case
      when t.tgrelid = later_truncate_trigger.relation then t.tgname::text collate "C" > 'zz_grace_truncate'
      else exists (
        select
        from pg_locks l
        where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
          and l.relation = t.tgrelid
      )
    end
$$;

-- capture/absorb_partition.sql
-- A protected table has become a partition: from now on its whole tree is protected, with its retention, and what is deleted goes into
-- the tree's buffer. Its own buffer stays until what is in it expires; it comes back into the same table.
create or replace function grace_internal.absorb_partition(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_partition grace_internal.protected;
  v_root regclass;
  v_root_id integer;
  v_trigger record;
begin
  select p.* into strict v_partition from grace_internal.protected p where p.id = protected_id;
  v_root := pg_partition_root(v_partition.target);
  for v_trigger in
    select t.tgname as name, grace_internal.qualified_name(t.tgrelid) as relation
    from pg_trigger t
    where t.oid in (select grace_internal.capture_triggers(v_partition.id))
  loop
    execute format('drop trigger %I on %s', v_trigger.name, v_trigger.relation);
  end loop;
  perform grace_internal.drop_guard(v_partition.id);
  update grace_internal.protected p set active = false where p.id = v_partition.id;

  select p.id into v_root_id from grace_internal.protected p where p.target = v_root and p.active;
  if v_root_id is null then
    select t.protected_id into v_root_id
    from grace_internal.protect_table(
      v_root, v_partition.retention, '{}', v_partition.file_names, v_partition.follows_cascades
    ) t;
  end if;
  perform grace_internal.follow_table(v_root_id, repair => true);
end
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
  v_before text := coalesce(current_setting('grace.following', true), '');
  v_relation text;
  v_other_kind boolean;
begin
  -- Signed and for this transaction only, as nobody else may keep DDL from being followed.
  perform set_config('grace.following', grace_internal.signature('following'), true);
  if exists (
    select
    from grace_internal.protected p
    join pg_class c on c.oid = p.target and c.relispartition
    where p.id = protected_id
  ) then
    perform grace_internal.absorb_partition(protected_id);
    perform set_config('grace.following', v_before, true);
    return;
  end if;
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
  update grace_internal.protected p
  set row_wise = not p.row_wise
  where p.id = protected_id and p.row_wise <> grace_internal.in_inheritance_tree(p.target);
  v_other_kind := found;
  if v_other_kind
    or grace_internal.columns_differ(protected_id)
    or not exists (select from grace_internal.capture_functions(protected_id))
  then
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  perform grace_internal.create_triggers(protected_id, repair or v_other_kind);
  perform grace_internal.guard_leaves(protected_id);
  perform grace_internal.create_file_trigger(protected_id, repair);
  perform grace_internal.guard_against_drop(protected_id);
  update grace_internal.protected p
  set target_name = grace_internal.qualified_name(p.target)
  where p.id = protected_id and p.target_name <> grace_internal.qualified_name(p.target);
  perform set_config('grace.following', v_before, true);
end
$$;

-- capture/protect_table.sql
-- Registers one table and makes its buffer and function, or takes up again what is there; the triggers come later, under a
-- lock. Returns its id and what has become of it. Errors: those of check_protectable.
create or replace function grace_internal.protect_table(
  target regclass, retention interval, exclude_columns name [], files name [], follows_cascades boolean,
  out protected_id integer, out status text, out warning text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
begin
  perform grace_internal.check_protectable(target, exclude_columns, files);
  select p.* into v_protected from grace_internal.protected p where p.target = protect_table.target;
  protected_id := v_protected.id;
  if protected_id is null then
    protected_id := grace_internal.create_buffer(
      target, retention, grace_internal.check_excluded(target, exclude_columns), follows_cascades
    );
    status := 'protected';
  elsif v_protected.active then
    status := 'already protected';
    if cardinality(exclude_columns) > 0 then
      warning := 'What is captured of it stays as it is; to exclude columns, unprotect it with buffer => discard first.';
    elsif retention <> v_protected.retention then
      warning := format(
        'Its retention stays %s; to change it: select grace.set_retention(%L, %L);',
        v_protected.retention, target, retention
      );
    end if;
  else
    update grace_internal.protected p
    set active = true, retention = protect_table.retention, follows_cascades = protect_table.follows_cascades
    where p.id = protected_id;
    status := 'protected';
  end if;
  if status = 'protected' then
    update grace_internal.protected p
    set uncovered = array_remove(p.uncovered, protect_table.target)
    where protect_table.target = any (p.uncovered);
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  if cardinality(files) > 0 then
    perform grace_internal.declare_files(protected_id, files);
  end if;
end
$$;

-- capture/cover.sql
-- Protects the tables that a protected table has come to take rows from: by a new foreign key with ON DELETE CASCADE, or
-- a new inheritance. They get its retention. A cascade into one that can't be protected is noted in the registry, so that
-- deletes go on; a table that inherits and can't be protected makes them fail, for its columns would be lost.
create or replace function grace_internal.cover(protected_id integer)
returns table (protected_table regclass, status text, warning text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_done regclass [] := array[]::regclass [];
  v_id integer;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  loop
    select u into protected_table
    from grace_internal.protected p
    cross join lateral grace_internal.uncovered_tables(p.id) u
    where p.active and not u = any (v_done)
      and not exists (select from grace_internal.protected o where o.target = u and o.active)
      and (p.id = cover.protected_id or p.target = any (v_done))
    order by u::text
    limit 1;
    exit when not found;
    v_done := v_done || protected_table;
    begin
      select t.protected_id, t.status, null into v_id, status, warning
      from grace_internal.protect_table(
        protected_table, v_protected.retention, '{}',
        coalesce((
          select p.file_names
          from grace_internal.protected p
          where p.active and protected_table in (select grace_internal.inheritors(p.target))
          limit 1
        ), '{}'), true
      ) t;
      perform grace_internal.follow_table(v_id, repair => true);
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      get stacked diagnostics warning = pg_exception_detail;
      status := 'not protected';
      if sqlstate <> '42501' then
        perform grace_internal.accept_uncovered(protected_table);
      end if;
      warning := case
        when exists (
          select from grace_internal.protected p where protected_table = any (p.uncovered)
        ) then format('Deleting from %s cascades into it, and those rows will be lost: %s', v_protected.target, warning)
        else format('Deleting from %s fails until it can be protected: %s', v_protected.target, warning)
      end;
    end;
    return next;
  end loop;
end
$$;

-- From now on it is known that what cascades into this table is not captured.
create or replace function grace_internal.accept_uncovered(relation regclass)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.protected p
  set uncovered = p.uncovered || accept_uncovered.relation
  where not accept_uncovered.relation = any (p.uncovered)
    and accept_uncovered.relation in (select grace_internal.cascade_children(p.target))
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
  v_covered record;
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  for v_id in
    select distinct p.id
    from pg_event_trigger_ddl_commands() d
    cross join lateral (
      select coalesce(pg_partition_root(d.objid), d.objid::regclass)
      union
      select t::regclass from grace_internal.partition_tree(d.objid) t
      union
      select f.confrelid::regclass from pg_constraint f
      where f.conrelid = d.objid and f.contype = 'f' and f.confdeltype = 'c'
      union
      select i.inhparent::regclass from pg_inherits i where i.inhrelid = d.objid
    ) as t (relation)
    join grace_internal.protected p on p.target in (t.relation, pg_partition_root(t.relation))
    where d.classid = 'pg_class'::regclass and p.active
  loop
    begin
      perform grace_internal.follow_table(v_id, repair => false);
      perform grace_internal.free_former_columns(v_id);
      for v_covered in select * from grace_internal.cover(v_id) c where c.warning is not null loop
        raise warning '% is not protected', v_covered.protected_table using detail = v_covered.warning;
      end loop;
    exception when others then -- whatever it is, the application's DDL comes first; the next capture says it again
      raise warning 'the buffer of % could not be brought up to date now; the next capture does it',
        (select p.target_name from grace_internal.protected p where p.id = v_id)
        using detail = format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
    end;
  end loop;
end
$$;

-- capture/refuse_drop.sql
-- The registry forgets the numbers of tables that are gone, for another table may get them. What is buffered stays.
create or replace function grace_internal.forget_dropped()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update grace_internal.protected p
  set target = null, active = false
  where p.target is not null and not exists (select from pg_class c where c.oid = p.target);

  update grace_internal.protected p
  set uncovered = array(select u from unnest(p.uncovered) u join pg_class c on c.oid = u)
  where exists (select from unnest(p.uncovered) u where not exists (select from pg_class c where c.oid = u));
$$;

-- Event trigger: a protected table, or a partition of one, is not dropped by mistake, for nothing captures the rows that go
-- with it; nor is a buffer, nor does DROP TYPE … CASCADE take columns out of one. Errors: GR021, unless a member of grace_admin has set
-- grace.allow_drop.
create or replace function grace_internal.refuse_drop()
returns event_trigger
language plpgsql
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
declare
  v_table record;
  v_allowed text := current_setting('grace.allow_drop', true);
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  select t.identity, t.kind into v_table
  from (
    select d.object_identity, 'table'
    from pg_event_trigger_dropped_objects() d
    join grace_internal.protected p on p.target = d.objid and p.active
    where d.classid = 'pg_class'::regclass and d.objsubid = 0
    union all
    select d.object_identity, 'partition'
    from pg_event_trigger_dropped_objects() d
    join pg_event_trigger_dropped_objects() t on t.address_names = d.address_names || 'zz_grace_delete'::text
    where d.object_type = 'table' and t.object_type = 'trigger'
    union all
    select d.object_identity, 'column'
    from pg_event_trigger_dropped_objects() d
    join grace_internal.protected p on p.buffer = d.address_names[2]
    join grace_internal.protected_column c on c.protected_id = p.id and c.buffer_column = d.address_names[3]
    where d.object_type = 'table column' and d.schema_name = 'grace_buffer' and not d.original
    union all
    select d.object_identity, 'buffer'
    from pg_event_trigger_dropped_objects() d
    where d.object_type = 'table' and (
      (d.schema_name = 'grace_buffer' and exists (
        select from grace_internal.protected p where p.buffer = d.address_names[2]
      ))
      or (d.schema_name = 'grace_internal' and d.address_names[2] ~ '^[bf]\d+_default$')
    )
  ) as t (identity, kind)
  order by t.kind desc, t.identity
  limit 1;
  if not found or (
    v_allowed in ('on', 'true', 'yes', '1') and pg_has_role(grace_internal.caller(), 'grace_admin', 'member')
  ) then
    perform grace_internal.forget_dropped();
    return;
  end if;
  if v_table.kind = 'buffer' then
    raise exception '% holds deleted rows and was not dropped', v_table.identity
      using errcode = 'GR021',
      detail = 'Deletes of its table would fail without it.',
      hint = 'select grace.unprotect(…, ''discard''); or, as a member of grace_admin: set grace.allow_drop = on;';
  end if;
  if v_table.kind = 'column' then
    raise exception '% was not dropped with its type', v_table.identity
      using errcode = 'GR021',
      detail = 'What is buffered in it would be lost.',
      hint = 'Drop the table''s column first, then the type; or, as a member of grace_admin: set grace.allow_drop = on;';
  end if;
  raise exception '% is protected and was not dropped', v_table.identity
    using errcode = 'GR021',
    detail = concat(
      'DROP captures no rows: what is in the table would be lost.',
      case when v_allowed <> '' then ' grace.allow_drop counts only for a member of grace_admin, and set to on.' end
    ),
    hint = case
      when v_table.kind = 'partition' then 'Detach the partition first. Or, as a member of grace_admin: set grace.allow_drop = on;'
      else format('As a member of grace_admin: select grace.unprotect(%L); then drop it. Or: set grace.allow_drop = on;',
        v_table.identity)
    end;
end
$$;

-- capture/free_former_columns.sql
-- A former column of a type of the application's keeps its values as text, so that it does not hold the type fast. It is done within
-- the DDL that ended the column, and only if nobody has written to the buffer by hand, for rewritten rows can no longer tell.
-- By the types' output functions, not by casts, which may be the application's own.
create or replace function grace_internal.free_former_columns(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
  v_changes text;
begin
  select p.* into strict v_protected from grace_internal.protected p where p.id = protected_id;
  select string_agg(format(
    'alter column %1$I type text using case when num_nulls(%1$I) = 0 then format(''%%s'', %1$I) end', c.buffer_column
  ), ', ') into v_changes
  from grace_internal.protected_column c
  where c.protected_id = free_former_columns.protected_id
    and c.ended_at is not null and grace_internal.belongs_to_application(c.type);
  if v_changes is null then
    return;
  end if;
  if exists (select from grace.verify_buffer(v_protected.target)) then
    raise warning 'former columns of buffer % keep their types', v_protected.buffer
      using detail = 'Somebody has written to the buffer by hand, and rewriting it would hide that.',
      hint = 'Look at it: select * from grace.verify_buffer();';
    return;
  end if;
  execute format('alter table grace_buffer.%I %s', v_protected.buffer, v_changes);
  update grace_internal.protected_column c
  set type = 'text'::regtype
  where c.protected_id = free_former_columns.protected_id
    and c.ended_at is not null and grace_internal.belongs_to_application(c.type);
  update grace_internal.protected p
  set unmarked_to = coalesce(pg_sequence_last_value('grace_internal.deletion_id'), 0)
  where p.id = protected_id;
end
$$;

-- capture/drop_guard.sql
-- Where there are no event triggers (only a superuser can create them) a function that depends on the table's row type makes
-- DROP TABLE fail as long as it says no CASCADE; PostgreSQL's error shows the function's name, which says what to do.
create or replace function grace_internal.guard_against_drop(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type regtype := (
    select c.reltype::regtype
    from grace_internal.protected p
    join pg_class c on c.oid = p.target
    where p.id = protected_id and p.active
  );
  v_guarded boolean := exists (
    select from pg_proc f
    where f.proname = grace_internal.guard_name() and f.pronamespace = 'grace_internal'::regnamespace
      and f.proargtypes[0] = v_type
  );
begin
  if not v_guarded and not exists (select from pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
    execute format(
      'create function grace_internal.%I(%s) returns void language sql as ''''',
      grace_internal.guard_name(), grace_internal.qualified_type(v_type)
    );
    execute format(
      'revoke all on function grace_internal.%I(%s) from public',
      grace_internal.guard_name(), grace_internal.qualified_type(v_type)
    );
  end if;
end
$$;

create or replace function grace_internal.guard_name()
returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select 'protected by pg_grace: first select grace.unprotect(…)'::name
$$;

create or replace function grace_internal.qualified_type(type_oid oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, t.typname)
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
  where t.oid = type_oid
$$;

create or replace function grace_internal.drop_guard(protected_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.oid
    from pg_proc f
    join grace_internal.protected p on p.id = protected_id
    join pg_class c on c.oid = p.target and c.reltype = f.proargtypes[0]
    where f.proname = grace_internal.guard_name() and f.pronamespace = 'grace_internal'::regnamespace
  loop
    execute format('drop function %s', v_function);
  end loop;
end
$$;

-- capture/event_triggers.sql
-- Only a superuser can create event triggers. Without them captures follow added, dropped, renamed and retyped columns all the
-- same; a new partition gets its triggers with the next purge or grace.sync(), and DROP TABLE … CASCADE can't be refused.
create or replace function grace_internal.ensure_event_triggers()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.rolsuper from pg_roles r where r.rolname = current_user) then
    if exists (select from pg_event_trigger e where e.evtname = 'grace_follow_ddl') then
      drop event trigger grace_follow_ddl;
    end if;
    create event trigger grace_follow_ddl on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    execute function grace_internal.follow_ddl();
    if exists (select from pg_event_trigger e where e.evtname = 'grace_refuse_drop') then
      drop event trigger grace_refuse_drop;
    end if;
    create event trigger grace_refuse_drop on sql_drop execute function grace_internal.refuse_drop();
  end if;
end
$$;

create or replace function grace_internal.has_event_triggers()
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select count(*) = 2
  from pg_event_trigger e
  where e.evtname in ('grace_follow_ddl', 'grace_refuse_drop') and e.evtenabled in ('O', 'A')
$$;

do $$ begin perform grace_internal.ensure_event_triggers(); end $$;

-- capture/protect.sql
-- Everything that takes time (checking, buffers, functions) comes before the lock; under the lock only the triggers
-- are created.
create or replace function grace.protect(
  target regclass,
  retention interval default '30 days',
  "cascade" boolean default true,
  exclude_columns name [] default '{}',
  wait interval default '60 seconds',
  files name [] default '{}'
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
  v_changed boolean;
begin
  if target is null then
    raise exception 'no table given'
      using errcode = 'null_value_not_allowed', detail = 'target is null.', hint = 'Give the table''s name.';
  end if;
  perform grace_internal.check_retention(retention);
  perform grace_internal.check_protectable(target, exclude_columns, files);

  for v_table in
    select t from grace_internal.cascade_tree(target, "cascade") t order by t <> target, t::text
  loop
    protected_table := v_table;
    begin
      select t.protected_id, t.status, t.warning into v_id, status, warning
      from grace_internal.protect_table(
        v_table, retention,
        case v_table when target then coalesce(exclude_columns, '{}') else '{}' end,
        case
          when v_table in (select grace_internal.cascade_tree(target, false)) then coalesce(files, '{}')
          else '{}'
        end,
        v_table <> target or "cascade"
      ) t;
    exception when sqlstate 'GR002' or sqlstate 'GR003' or insufficient_privilege then
      if v_table in (select grace_internal.cascade_tree(target, false)) then
        raise;
      end if;
      get stacked diagnostics warning = pg_exception_detail;
      buffer := null;
      status := 'not protected';
      warning := format('Deleting from %s cascades into it, and those rows will be lost: %s', target, warning);
      perform grace_internal.accept_uncovered(v_table);
      return next;
      continue;
    end;
    if v_table <> target then
      warning := null;
    end if;
    select format('grace_buffer.%I', p.buffer)::regclass into buffer
    from grace_internal.protected p
    where p.id = v_id;
    v_ids := v_ids || v_id;
    return next;
  end loop;
  if not "cascade" then
    update grace_internal.protected p set follows_cascades = false where p.target = protect.target;
  end if;

  v_changed := grace_internal.follow_tables(v_ids, wait);
  if v_changed then
    insert into grace_internal.run (kind, target, status, finished_at, details, role, login)
    values (
      'protect', target, 'done', clock_timestamp(), jsonb_build_object('retention', retention),
      grace_internal.caller(), session_user
    );
  end if;
end
$$;
comment on function grace.protect(regclass, interval, boolean, name [], interval, name []) is
'Starts capturing what is deleted from a table, from all that inherit from it and, with cascade, from every table that its deletion cascades into, now or later. Idempotent. retention: how long a deleted row can be restored. exclude_columns: columns of the table itself that are not captured; a restore gives them their default. wait: how long to try for the lock before giving up; no attempt holds up others for more than 100 ms. files: columns of the table itself that refer to files: a large object (oid or lo), whose content is kept with the row, or a path or URL (text), which enters grace.file_outbox when the row is purged. Returns one row per table, with a warning for each cascade it could not follow. Errors: GR002, GR003, GR004, GR005, GR006, 42501.';

-- Brings tables up to date, triggers included, after one wait for the locks on all that lack triggers; returns whether any
-- did.
create or replace function grace_internal.follow_tables(ids integer [], wait interval)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relations oid [];
  v_id integer;
begin
  select array_agg(t.relation) into v_relations
  from grace_internal.protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.id = any (ids)
    and (
      not grace_internal.has_capture_triggers(t.relation, p.id)
      or (
        exists (select from grace_internal.file_columns(p.id, 'large object'))
        and not grace_internal.has_file_trigger(t.relation, p.id)
      )
      or p.row_wise <> grace_internal.in_inheritance_tree(p.target)
    );
  if v_relations is not null then
    perform grace_internal.lock_for_ddl(v_relations, 'share row exclusive', wait);
  end if;
  foreach v_id in array ids loop
    perform grace_internal.follow_table(v_id, repair => true);
  end loop;
  return v_relations is not null;
end
$$;

-- capture/sync.sql
create or replace function grace._sync_server()
returns void
language plpgsql
security definer -- event triggers and jobs belong to the owner
set search_path = pg_catalog, pg_temp
as $$
begin
  if not grace_internal.has_event_triggers() then
    perform grace_internal.ensure_event_triggers();
  end if;
  perform grace_internal.ensure_jobs();
end
$$;
comment on function grace._sync_server() is 'Internal: what grace.sync() does besides the tables.';

create or replace function grace.sync(target regclass default null, wait interval default '60 seconds')
returns table (protected_table regclass, status text, warning text)
language plpgsql
security definer -- creates triggers and changes buffers, which are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_only integer := case when target is not null then grace_internal.protected_id(target) end;
  v_ids integer [];
  v_id integer;
begin
  perform grace_internal.forget_dropped();
  select coalesce(array_agg(p.id order by p.id), '{}') into v_ids
  from grace_internal.protected p
  where p.active and (v_only is null or p.id = v_only)
    and exists (select from pg_class c where c.oid = p.target);

  for protected_table, status, warning in
    select p.target,
      case
        when s.state <> 'capturing' then 'capturing again, it was ' || s.state
        when s.drift then 'columns followed'
        when p.row_wise <> grace_internal.in_inheritance_tree(p.target) then 'inheritance followed'
        else 'up to date'
      end,
      null
    from grace_internal.protected p
    cross join lateral grace._protected_state(p.id) s
    where p.id = any (v_ids)
    order by p.id
  loop
    return next;
  end loop;
  if grace_internal.follow_tables(v_ids, wait) then
    insert into grace_internal.run (kind, target, status, finished_at, role, login)
    values ('sync', target, 'done', clock_timestamp(), grace_internal.caller(), session_user);
  end if;
  foreach v_id in array v_ids loop
    return query select * from grace_internal.cover(v_id);
    while grace_internal.prepare_partition(v_id) loop
      null; -- one at a time, until none is missing
    end loop;
  end loop;
  if v_only is null then
    perform grace._sync_server();
  end if;
end
$$;
comment on function grace.sync(regclass, interval) is
'Brings one protected table, or all, up to date with what has become of it: capture triggers that are missing or disabled, changed columns, new partitions, tables that have come to lose rows with it, and the buffer''s partitions for the days ahead; without a table also the event triggers and the pg_cron job. What event triggers do at once where a superuser has installed pg_grace. wait: how long to try for the locks. Returns one row per table, and a warning for what could not be protected. Errors: GR001, GR006.';

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

  perform grace_internal.drop_triggers(v_id, wait);
  perform grace_internal.drop_guard(v_id);
  update grace_internal.protected p set active = false where p.id = v_id;
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
'Stops capturing what is deleted from a table. buffer: ''keep'' leaves what was deleted restorable until it expires, ''discard'' removes it at once and for good. wait: how long to try for the lock. Errors: GR001, GR006, 22023, 42501.';

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
  cross join lateral pg_partition_tree(to_regclass(format('grace_buffer.%I', p.buffer))) t
  where p.id = protected_id
$$;

create or replace function grace_internal.trigger_state(protected_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not exists (select from pg_class c where c.oid = p.target) then 'table dropped'
    when not p.active then 'unprotected'
    when bool_and(grace_internal.has_capture_triggers(t.relation, p.id)) then 'capturing'
    when bool_or(exists (
      select from pg_trigger g
      where g.tgrelid = t.relation and g.tgname in ('zz_grace_delete', 'zz_grace_truncate', 'zz_grace_cover') and g.tgenabled <> 'A'
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
    p.active and grace_internal.columns_changed(p.id),
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
  min(c.deleted_at) + p.span as expires_at,
  p.target_name
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
comment on column grace.deletions.target is 'The table the rows were deleted from; null when it was dropped.';
comment on column grace.deletions.row_count is 'Rows captured.';
comment on column grace.deletions.restored_count is 'How many of them have been restored since.';
comment on column grace.deletions.operation is 'DELETE (a MERGE or cascade is one, too), TRUNCATE or both.';
comment on column grace.deletions.deleted_by is 'The role in effect (SET ROLE), else the login.';
comment on column grace.deletions.login is 'The role that logged in.';
comment on column grace.deletions.application_name is 'application_name of the session.';
comment on column grace.deletions.client_addr is 'Where the session came from; null for a local socket.';
comment on column grace.deletions.reason is 'What the session had said with SET grace.reason = ''…''.';
comment on column grace.deletions.target_name is 'What it is called, or was when it was dropped.';
comment on column grace.deletions.expires_at is 'From this moment on it can no longer be restored.';

-- look/protected.sql
create or replace view grace.protected as
select
  p.target,
  to_regclass(format('grace_buffer.%I', p.buffer)) as buffer,
  p.retention,
  s.state,
  s.drift,
  s.buffered_rows,
  s.buffer_bytes,
  s.oldest,
  s.oldest + p.span as next_expiry,
  p.protected_at,
  p.protected_by,
  p.target_name
from grace_internal.protected p
cross join lateral grace._protected_state(p.id) s;

comment on view grace.protected is 'One row per protected table.';
comment on column grace.protected.state is
'capturing; disabled (a capture trigger does not fire always); missing (a table or partition has no capture trigger); unprotected (what is buffered stays until it expires); table dropped.';
comment on column grace.protected.target is 'The table; null when it was dropped.';
comment on column grace.protected.target_name is 'What it is called, or was when it was dropped.';
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

-- files/file_outbox.sql
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

-- Which of these files a row of any protected table still refers to, live or restorable.
create or replace function grace_internal.referenced_files(files text [])
returns text []
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_source record;
  v_found text [];
  v_result text [] := array[]::text [];
begin
  for v_source in
    select 'only ' || grace_internal.qualified_name(c.oid) as relation, a.attname as column_name, null::timestamptz as since, c.oid
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    join pg_class c on c.oid = t.relation and c.relkind = 'r'
    join pg_attribute a on a.attrelid = p.target and a.attnum = any (grace_internal.file_numbers(p.*)) and not a.attisdropped
    where grace_internal.file_kind(a.atttypid) = 'path'
    union all
    select format('grace_buffer.%I', p.buffer), c.buffer_column, grace._expired_before(p.id), null
    from grace_internal.protected p
    cross join lateral grace_internal.file_columns(p.id, 'path') c
  loop
    if v_source.oid is not null then
      perform grace_internal.require_trusted_code(
        v_source.oid, 'Let a superuser own the function; until then no file is handed out.'
      );
    end if;
    execute format(
      'select array_agg(distinct t.%1$I::text) from %2$s t where t.%1$I::text = any ($1)%3$s',
      v_source.column_name, v_source.relation,
      case when v_source.since is not null then ' and t.grace_deleted_at > $2' else '' end
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
'Takes files out of grace.file_outbox to be deleted by the caller, those that were tried least first; nobody else gets them before the lease is over. A file that a row still refers to, live or restorable, is taken off the list instead. Report each with grace.file_deleted. Errors: 22023.';

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
  join grace_internal.column_map c on c.protected_id = p.id and c.attnum = u.attnum and c.ended_at is null
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
  left join grace_internal.column_map c
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
                and %4$s.grace_deleted_at > (select grace._expired_before(%3$s))
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
  left join grace_internal.column_map c
    on c.protected_id = p.id and c.attnum = a.attnum and c.ended_at is null
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (
    select string_agg(
      format('b.%I::%s', f.buffer_column, format_type(grace_internal.base_type(a.atttypid), -1)), ', '
      order by f.ended_at desc
    ) as former_values
    from grace_internal.column_map f
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
        when c.not_null and c.default_value is not null then format('coalesce(%s, (%s)::%s)', c.value, c.default_value, c.type_name)
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
        select string_agg(q.query, ' union all ')
        from (
          select c
          from unnest(protected_ids) i
          cross join lateral grace_internal.conflict_queries(i, protected_ids) c
          union all
          select grace_internal.file_conflict_query(t.id, t.source) from tables t
        ) as q (query)
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
    perform grace._restore_files(v_plan); -- first, for the application's triggers may look at them
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
'Puts deleted rows back into their tables, all of what is selected or nothing. deletion: all that one transaction deleted. target: rows of this table. keys: these primary keys, {"id": 7} or an array of them, the newest version of each. deleted_from, deleted_to: deletions from the first moment on, before the second. deleted_by: role or login. related: also what went in the same deletion and hangs on the rows through foreign keys, and the parents they need. dry_run: changes nothing and lists what would be restored and every conflict. Returns one row per table: the run, the table, the number of rows, conflicts as [{"key", "constraint", "reason"}]. Needs grace_operator and INSERT on the tables; SELECT on them to list conflicts. Errors: GR001, GR007, GR008, GR009, GR011 (conflicts, listed in DETAIL), GR012, GR015, GR016, GR020.';

create or replace function grace._restore_files(plan grace._restore_plan)
returns void
language plpgsql
security definer -- what is kept is granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  foreach v_id in array plan.protected_ids loop
    if grace_internal.file_values(v_id, 'large object') is not null then
      perform grace_internal.restore_files(
        v_id, grace_internal.restore_source(v_id, plan.deletions, plan.picks is not null), plan.picks
      );
    end if;
  end loop;
end
$$;
comment on function grace._restore_files(grace._restore_plan) is
'Internal: brings the large objects of the selected rows back.';

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
    if grace_internal.file_values(v_id, 'large object') is not null then
      perform grace_internal.drop_kept_files(v_id, plan.deletions);
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
-- The leaves of a buffer, and of what is kept of its files, with the time they cover: both null for a default partition.
create or replace function grace_internal.leaves(protected_id integer)
returns table (leaf oid, name name, lower_bound timestamptz, upper_bound timestamptz, holds_files boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.oid, c.relname, d.day::timestamp at time zone 'UTC', (d.day + 1)::timestamp at time zone 'UTC',
    left(c.relname, 1) = 'f'
  from pg_class c
  cross join lateral (
    select case
      when c.relname !~ '_default$' then to_date(right(c.relname, 8), 'YYYYMMDD')
    end
  ) as d (day)
  where c.relnamespace = 'grace_internal'::regnamespace
    and c.relkind = 'r'
    and c.relispartition
    and c.relname ~ format('^[bf]%s_(default|\d{8})$', protected_id)
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
  v_leaf text := grace_internal.qualified_name(leaf);
  v_files_left boolean := false;
  v_holds_files boolean := (
    select l.holds_files from grace_internal.leaves(protected_id) l where l.leaf = empty_leaf.leaf
  );
begin
  if grace_internal.leaf_is_expired(protected_id, leaf) and pg_relation_size(leaf) > 0 then
    if v_holds_files then
      execute format('select exists (select from %s f where f.page = 0)', v_leaf) into v_files_left;
      if not v_files_left then
        execute format('truncate %s', v_leaf);
      end if;
      return 0;
    end if;
    execute format('lock table %s in access exclusive mode', v_leaf); -- what is posted is what goes
    perform grace_internal.post_files(protected_id, format('from %s b where true', v_leaf));
    execute format('truncate %s', v_leaf);
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
    perform set_config('grace.following', grace_internal.signature('following'), true);
    execute format('drop table %s', grace_internal.qualified_name(leaf));
    perform set_config('grace.following', '', true);
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
  v_leaf text := grace_internal.qualified_name(leaf);
  v_before timestamptz := grace._expired_before(protected_id);
  v_tids tid [];
begin
  execute format(
    'select array_agg(e.ctid) from (select e.ctid from %s e where e.grace_deleted_at <= $1%s limit $2 for update) e',
    v_leaf,
    case when v_leaf ~ '^grace_internal\.f' then ' and e.page > 0' else '' end
  )
  into v_tids using v_before, max_rows;
  if v_tids is null then
    return 0;
  end if;
  if v_leaf ~ '^grace_internal\.b' then
    perform grace_internal.post_files(protected_id, format('from %s b where b.ctid = any (%L::tid[])', v_leaf, v_tids));
  end if;
  execute format('delete from %s b where b.ctid = any ($1)', v_leaf) using v_tids;
  return cardinality(v_tids);
end
$$;

-- One missing partition, or one column that nothing buffered has any more, or triggers on partitions that lack them, at a
-- time; returns whether there is more to do. A buffer that is unprotected and empty goes.
create or replace function grace_internal.prepare_buffer(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_active boolean;
  v_target regclass;
begin
  select p.active, p.target into v_active, v_target
  from grace_internal.protected p
  where p.id = protected_id
  for update skip locked;
  if not found then
    return false;
  end if;
  if v_target is not null and not exists (select from pg_class c where c.oid = v_target) then
    perform grace_internal.forget_dropped();
    return false;
  end if;
  if not v_active then
    if not exists (select from grace_internal.capture c where c.protected_id = prepare_buffer.protected_id) then
      perform grace_internal.drop_buffer(protected_id);
    end if;
    return false;
  end if;

  if grace_internal.prepare_partition(protected_id) or grace_internal.drop_former_column(protected_id) then
    return true;
  end if;
  perform grace_internal.follow_table(protected_id, repair => false);
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

-- A column that the table no longer has goes from the buffer when nothing is left that was captured with it.
create or replace function grace_internal.drop_former_column(protected_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column name;
begin
  select c.buffer_column into v_column
  from grace_internal.protected_column c
  where c.protected_id = drop_former_column.protected_id
    and not exists (
      select from grace_internal.capture k
      where k.protected_id = c.protected_id and k.deleted_at <= c.ended_at
    )
    and c.ended_at < clock_timestamp()
  limit 1;
  if found then
    execute format(
      'alter table grace_buffer.%I drop column %I',
      (select p.buffer from grace_internal.protected p where p.id = protected_id), v_column
    );
    delete from grace_internal.protected_column c
    where c.protected_id = drop_former_column.protected_id and c.buffer_column = v_column;
  end if;
  return v_column is not null;
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

-- Rows go first, then large objects to which none refers any more, then their content; emptying comes before dropping, and all
-- that before the partitions of the days ahead; the log goes last.
create or replace function grace._purge_work(target regclass)
returns grace._purge_item []
language sql stable
security definer -- reads the registry
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(row(w.id, w.leaf, w.action)::grace._purge_item order by w.step, w.id, w.name), '{}')
  from (
    select p.id, l.leaf, l.name, a.step, a.action
    from grace_internal.protected p
    cross join lateral grace_internal.leaves(p.id) l
    cross join lateral (
      values
        (2, 'unlink', l.holds_files and coalesce(l.lower_bound <= grace._expired_before(p.id), true)),
        (case when l.holds_files then 3 else 1 end, 'empty', l.upper_bound <= grace._expired_before(p.id)),
        (4, 'drop', l.upper_bound <= grace._expired_before(p.id)),
        (case when l.holds_files then 3 else 1 end, 'delete', l.upper_bound is null or (
          l.lower_bound <= grace._expired_before(p.id) and l.upper_bound > grace._expired_before(p.id)
        ))
    ) as a (step, action, applies)
    where a.applies and (_purge_work.target is null or p.target = coalesce(pg_partition_root(_purge_work.target), _purge_work.target))
    union all
    select p.id, null, null, s.step, s.action
    from grace_internal.protected p
    cross join (values (5, 'prepare'), (6, 'log')) as s (step, action)
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
        if v_leaf ~ '^grace_internal\.f' then
          v_rows := 0; -- pieces of files are no rows of the table
        end if;
      when 'unlink' then v_more := grace_internal.unlink_expired(item.protected_id, item.leaf, 1000);
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
  min(c.deleted_at) as oldest,
  p.target_name
from grace_internal.protected p
join grace_internal.capture c on c.protected_id = p.id and c.deleted_at <= grace._expired_before(p.id)
group by p.id, p.target;

comment on view grace.expired is
'Per table: rows that are past their retention and that the next purge removes. They can be neither seen nor restored.';

-- schedule/ensure_jobs.sql
-- Why pg_cron can't run jobs for this database, in words, and which setting is missing; null when it can.
create or replace function grace_internal.schedule_obstacle()
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_database text;
begin
  begin
    -- Without pg_cron's library it can still be set in postgresql.conf; then it is in no view.
    if current_setting('cron.database_name', true) is not null then
      select s.setting into v_database from pg_settings s where s.name = 'cron.database_name';
    end if;
  exception when insufficient_privilege then
    v_database := '?';
  end;
  if not exists (select from pg_extension where extname = 'pg_cron')
    and not exists (select from pg_available_extensions where name = 'pg_cron')
  then
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
  if v_database not in ('?', current_database()) then
    return format(
      'pg_cron runs in database "%s" (cron.database_name), not here, so nothing is purged by itself. There, run: '
      'select cron.schedule_in_database(%L, ''5 0 * * *'', ''call grace.purge()'', %L); '
      'or set cron.database_name = %L, restart and install again.',
      v_database, 'pg_grace: purge ' || current_database(), current_database(), current_database()
    );
  end if;
  if exists (select from pg_extension where extname = 'pg_cron') then
    return case when not has_schema_privilege('cron', 'usage') then format(
      'role %I may not use pg_cron, so nothing is purged by itself. As superuser: grant usage on schema cron to %I; '
      'then install again. Until then call grace.purge() yourself.', current_user, current_user
    ) end;
  end if;
  if v_database = '?' then
    return format(
      'pg_cron is preloaded, but this role may not read cron.database_name, so nothing is purged by itself. If it is %L, '
      'as superuser: create extension pg_cron; grant usage on schema cron to %I; then install again.',
      current_database(), current_user
    );
  end if;
  return 'pg_cron is preloaded, but its extension is missing in this database, so nothing is purged by itself. '
    'As superuser: create extension pg_cron; then install again.';
end
$$;

-- Creates the pg_cron job that purges every night, or says in words why there is none and which setting is missing.
-- 00:05 in pg_cron's time zone (GMT unless cron.timezone says otherwise): a buffer's day ends at 00:00 UTC, so that
-- almost all that is due can be truncated.
create or replace function grace_internal.ensure_jobs()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
begin
  if v_obstacle is not null then
    return v_obstacle;
  end if;
  -- Before 1.6.3 pg_cron leaves a job of this name where it is, in a database that has been renamed since.
  execute
    'select cron.unschedule(j.jobid) from cron.job j '
    'where j.jobname = $1 and j.username = current_user and j.database <> current_database()'
  using 'pg_grace: purge';
  execute 'select cron.schedule($1, $2, $3)' using 'pg_grace: purge', '5 0 * * *', 'call grace.purge()';
  return 'pg_cron job "pg_grace: purge" runs every night at 00:05';
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

-- doctor/verify_buffer.sql
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

-- doctor/doctor.sql
-- One function per kind of trouble, each a query over the catalog; grace.doctor() puts them together. A severity of "note" says
-- what is as it has to be here, and what that means.
do $$
begin
  if to_regtype('grace.finding') is null then
    create type grace.finding as (severity text, subject text, object text, finding text, hint text, fixable boolean);
    comment on type grace.finding is
    'What grace.doctor() has found: severity (problem or note), subject, the object concerned, what is wrong, what to do, and whether grace.sync() does it.';
  end if;
end
$$;

-- Whether the only relations of a table without capture triggers are partitions from which rows are captured one by one.
create or replace function grace_internal.is_guarded(protected_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select
    from grace_internal.protected p
    cross join lateral grace_internal.partition_tree(p.target) as t (relation)
    where p.id = is_guarded.protected_id
      and not grace_internal.has_capture_triggers(t.relation, p.id)
      and not t.relation in (select grace_internal.guarded_leaves(p.id))
  )
$$;

create or replace function grace_internal.check_tables()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with protected as (
    select
      p.*, -- what it is called now: without event triggers nobody has noticed yet that it was renamed
      coalesce(grace_internal.qualified_name(p.target), p.target_name) as name,
      exists (select from pg_class c where c.oid = p.target) as is_there
    from grace_internal.protected p
    where p.active
  )
  select
    'problem', 'triggers', p.name,
    case
      when s.state = 'disabled' then 'a capture trigger is disabled or does not fire always: deletes are lost'
      when grace_internal.is_guarded(p.id) then
        'a new partition has no capture triggers yet: its deletes are captured row by row, TRUNCATE of it alone is not captured'
      else 'the table, or a partition of it, has no capture trigger: deletes are lost'
    end,
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral (select grace_internal.trigger_state(p.id) as state) s
  where s.state in ('disabled', 'missing')
  union all
  select
    'problem', 'files', p.name, 'the trigger that keeps large objects is missing or disabled: their content is lost',
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  where p.is_there
    and exists (select from grace_internal.file_columns(p.id, 'large object'))
    and exists (
      select
      from grace_internal.partition_tree(p.target) as t (relation)
      where not grace_internal.has_file_trigger(t.relation, p.id)
    )
  union all
  select
    'problem', 'columns', p.name, 'its columns have changed since its buffer was last brought up to date',
    'The next delete follows them. To do it now: pg_grace doctor --fix', true
  from protected p
  where p.is_there and grace_internal.columns_changed(p.id)
  union all
  select
    'problem', 'cascade', grace_internal.qualified_name(u),
    format('it has come to lose rows with %s, or to inherit from it: deletes from there fail with GR019', p.name),
    format('pg_grace doctor --fix, or: select * from grace.sync(%L);', p.name), true
  from protected p
  cross join lateral grace_internal.uncovered_tables(p.id) u
  union all
  select
    'problem', 'cascade', grace_internal.qualified_name(u),
    format('deleting from %s cascades into it, and those rows are lost', p.name),
    format(
      'select * from grace.protect(%L); or, if that is meant so: select * from grace.protect(%L, cascade => false);',
      grace_internal.qualified_name(u), p.name
    ), false
  from protected p
  cross join lateral unnest(p.uncovered) u
  where p.follows_cascades
    and u in (select grace_internal.cascade_children(p.target))
    and not exists (select from protected o where o.target = u)
  union all
  select
    'note', 'dropped', p.target_name,
    'the table was dropped; what is buffered of it stays until it expires',
    format('Nothing to do. It can be read in %s.', format('grace_buffer.%I', p.buffer)), false
  from grace_internal.protected p
  where not exists (select from pg_class c where c.oid = p.target)
  union all
  select
    'note', 'row security', grace_internal.qualified_name(t.relation),
    'FORCE ROW LEVEL SECURITY hides rows from the owner of pg_grace: TRUNCATE is refused',
    format('Nothing to do, or: alter role %I bypassrls;', current_user), false
  from protected p
  cross join lateral grace_internal.partition_tree(p.target) as t (relation)
  where p.is_there and row_security_active(t.relation)
  union all
  select
    'problem', 'rights', p.name,
    format(
      'role %I, which owns pg_grace, %s: new partitions can''t be covered', current_user,
      case when pg_has_role(c.relowner, 'usage') then 'may no longer create triggers on it' else 'is no member of its owner' end
    ),
    case
      when pg_has_role(c.relowner, 'usage') then format('As its owner: grant trigger on %s to %I;', p.name, current_user)
      when r.rolsuper then format('As superuser: alter table %s owner to %I;', p.name, current_user)
      else format('grant %I to %I;', r.rolname, current_user)
    end, false
  from protected p
  join pg_class c on c.oid = p.target
  join pg_roles r on r.oid = c.relowner
  where not pg_has_role(c.relowner, 'usage') or not has_table_privilege(p.target, 'TRIGGER')
$$;

-- Whether the columns, in any order, are the first ones of an index that can look up single values.
create or replace function grace_internal.has_index_on(relation oid, columns name [])
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_am m on m.oid = c.relam and m.amname in ('btree', 'hash')
    where i.indrelid = relation and i.indisvalid
      and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', columns[1]))
      and grace_internal.column_names(relation, (i.indkey::smallint [])[0:cardinality(columns) - 1]) @> columns
  )
$$;

-- A foreign key without an index on its columns makes PostgreSQL read the whole table for each deleted row.
create or replace function grace_internal.check_indexes()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'foreign key', grace_internal.qualified_name(c.conrelid),
    format(
      'no index begins with the columns of %I, so each row deleted from %s reads all of it', c.conname,
      grace_internal.qualified_name(p.target)
    ),
    format(
      'create index %s on %s (%s);',
      case r.relkind when 'r' then 'concurrently' end, -- PostgreSQL can't for a partitioned table
      grace_internal.qualified_name(c.conrelid),
      (select string_agg(quote_ident(n), ', ') from unnest(grace_internal.column_names(c.conrelid, c.conkey)) n)
    ), false
  from pg_constraint c
  join pg_class r on r.oid = c.conrelid
  join grace_internal.protected p on p.target = coalesce(pg_partition_root(c.confrelid), c.confrelid::regclass) and p.active
  where c.contype = 'f' and c.conparentid = 0
    and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and (
      select sum(pg_relation_size(t.relation))
      from grace_internal.partition_tree(c.conrelid) as t (relation)
      where not grace_internal.has_index_on(t.relation, grace_internal.column_names(c.conrelid, c.conkey))
    ) >= 65536 -- smaller ones are read in no time
$$;

create or replace function grace_internal.check_buffers()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stem record;
  v_rows boolean;
begin
  for v_stem in
    select coalesce(grace_internal.qualified_name(p.target), p.target_name) as name, s.stem, c.oid is not null as is_there
    from grace_internal.protected p
    cross join lateral grace_internal.stems(p.id) s
    left join pg_class c on c.oid = p.target
    where p.active
    order by p.id, s.stem
  loop
    if v_stem.is_there and exists (select from grace_internal.missing_partitions(v_stem.stem, 3)) then
      return next row(
        'problem', 'partitions', v_stem.name, 'the buffer lacks a partition for one of the next three days: no purge makes them',
        'See to the purge; deletes go to the default partition meanwhile. To make them now: pg_grace doctor --fix', true
      )::grace.finding;
    end if;
    execute format('select exists (select from grace_internal.%I)', v_stem.stem || '_default') into v_rows;
    if v_rows then
      return next row(
        'problem', 'default partition', v_stem.name,
        'the default partition holds rows, because a day had no partition when they were deleted',
        'Nothing is lost, and they expire there. See that the purge runs every night.', false
      )::grace.finding;
    end if;
  end loop;
  return query
    select
      'problem', 'buffer', coalesce(grace_internal.qualified_name(p.target), p.target_name),
      'its buffer is gone: deletes from it fail, and what was buffered can only come from a backup',
      format('select grace.unprotect(%1$L, ''discard''); then: select * from grace.protect(%1$L);', p.target_name), false
    from grace_internal.protected p
    where p.active and to_regclass(format('grace_buffer.%I', p.buffer)) is null;
  return query
    select
      'problem', 'rights', grace_internal.qualified_name(a.relation),
      format('%s has %s on it', coalesce(r.rolname, 'PUBLIC'), string_agg(distinct a.privilege, ', ' order by a.privilege)),
      format(
        'revoke all on %s%s from %s;', case c.relkind when 'S' then 'sequence ' end,
        grace_internal.qualified_name(a.relation), coalesce(quote_ident(r.rolname), 'public')
      ), false
    from (
      select o.oid, x.grantee, x.privilege_type from pg_class o cross join lateral aclexplode(o.relacl) x
      union all
      select o.attrelid, x.grantee, x.privilege_type from pg_attribute o cross join lateral aclexplode(o.attacl) x
    ) as a (relation, grantee, privilege)
    join pg_class c on c.oid = a.relation
    left join pg_roles r on r.oid = a.grantee
    where (c.relnamespace = 'grace_buffer'::regnamespace or c.relnamespace = 'grace_internal'::regnamespace)
      and a.grantee <> c.relowner
      and not (
        r.rolname is not null and r.rolname = 'grace_operator'
        and (c.relkind = 'S' or (c.relnamespace = 'grace_buffer'::regnamespace and a.privilege = 'SELECT'))
      )
    group by a.relation, c.relkind, r.rolname;
end
$$;

create or replace function grace_internal.check_server()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'problem', 'event triggers', null, 'the event triggers are missing or disabled: DDL is followed late, DROP TABLE is not refused',
    'pg_grace doctor --fix', true
  from pg_roles r
  where r.rolname = current_user and r.rolsuper and not grace_internal.has_event_triggers()
  union all
  select
    'note', 'event triggers', null,
    format('role %I, which owns pg_grace, is no superuser, so there are no event triggers', current_user),
    'After a new partition, inheritance or cascading foreign key run pg_grace sync; the nightly purge does so as well.', false
  from pg_roles r
  where r.rolname = current_user and not r.rolsuper
  union all
  select
    'problem', 'session_replication_role', coalesce(r.rolname, 'all roles') || coalesce(' in ' || d.datname, ''),
    'set to replica by default: foreign keys don''t cascade there, so children stay behind; deletes are captured all the same',
    format(
      'alter role %s reset session_replication_role;',
      concat(coalesce(quote_ident(r.rolname), 'all'), ' in database ' || quote_ident(d.datname))
    ), false
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
  where exists (select from unnest(s.setconfig) c where lower(c) = 'session_replication_role=replica')
    and (s.setdatabase = 0 or d.datname = current_database())
  union all
  select
    'problem', 'session_replication_role', 'server',
    'the configuration sets it to replica: foreign keys don''t cascade, so children stay behind; deletes are captured all the same',
    'Take it out of postgresql.conf (or: alter system reset session_replication_role;) and reload.', false
  from pg_settings s
  where s.name = 'session_replication_role' and s.reset_val = 'replica' and s.source in ('configuration file', 'command line')
  union all
  select
    'note', 'subscription', p.target_name,
    'a subscription writes to it: what is deleted on the publisher is not captured here, what TRUNCATE removes is',
    'Protect it on the publisher.', false
  from grace_internal.protected p
  where p.active and exists (
    select from pg_subscription_rel s join grace_internal.partition_tree(p.target) as t (relation) on t.relation = s.srrelid
  )
  union all
  select
    'problem', 'publication', b.pubname, 'it publishes the buffers, and a subscriber that has no such tables stops with an error',
    'Publish the application''s tables by name or by schema; FOR ALL TABLES takes in those of pg_grace.', false
  from pg_publication b
  where b.puballtables
    or exists (
      select from pg_publication_namespace n
      where n.pnpubid = b.oid and n.pnnspid in ('grace_buffer'::regnamespace, 'grace_internal'::regnamespace)
    )
$$;

create or replace function grace_internal.check_schedule()
returns setof grace.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_obstacle text := grace_internal.schedule_obstacle();
  v_job record;
  v_login boolean;
begin
  return query
    select 'problem', 'purge', null,
      coalesce('the last purge that ended was at ' || to_char(max(r.finished_at), 'YYYY-MM-DD HH24:MI TZ'), 'no purge has ever run'),
      'Call it now: pg_grace purge. ' || coalesce(v_obstacle, 'Then see why the job does not run.'), false
    from grace_internal.run r
    where r.kind = 'purge' and r.status in ('done', 'incomplete')
    having coalesce(max(r.finished_at), '-infinity') < clock_timestamp() - interval '2 days'
      and (select min(p.protected_at) from grace_internal.protected p) < clock_timestamp() - interval '2 days';
  return query
    select 'problem', 'purge', 'run ' || r.id, 'the last purge left something over, twice in a row',
      'Its details say what was locked or failed: select details from grace.runs; the server''s log has the messages.', false
    from (
      select l.id, count(*) filter (where l.status = 'incomplete') over () as incomplete, row_number() over (order by l.id desc)
      from (
        select r.id, r.status from grace_internal.run r where r.kind = 'purge' and r.status <> 'running' order by r.id desc limit 2
      ) as l
    ) as r
    where r.incomplete = 2 and r.row_number = 1;

  if v_obstacle is not null then
    return next row(
      case when exists (
        select from grace_internal.run r where r.kind = 'purge' and r.finished_at > clock_timestamp() - interval '2 days'
      ) then 'note' else 'problem' end,
      'schedule', null, 'pg_cron runs no job for this database', v_obstacle, false
    )::grace.finding;
    return;
  end if;
  select j.* into v_job from grace.jobs() j where j.job = 'pg_grace: purge';
  if not found then
    return next row(
      'problem', 'schedule', 'pg_grace: purge', 'the pg_cron job is missing, or belongs to another database',
      'pg_grace doctor --fix', true
    )::grace.finding;
    return;
  end if;
  select r.rolcanlogin into v_login from pg_roles r where r.rolname = v_job.login;
  if not coalesce(v_login, false) then
    return next row(
      'problem', 'schedule', 'pg_grace: purge', format('the job''s role %I may not log in, so pg_cron can''t run it', v_job.login),
      format('alter role %I login; or install pg_grace as a role that may.', v_job.login), false
    )::grace.finding;
  end if;
  if not v_job.active then
    return next row(
      'problem', 'schedule', 'pg_grace: purge', 'the pg_cron job is switched off',
      'select cron.alter_job(jobid, active => true) from cron.job where jobname = ''pg_grace: purge'';', false
    )::grace.finding;
  end if;
  if v_job.last_status = 'failed' then
    return next row(
      'problem', 'schedule', 'pg_grace: purge',
      format('the last run failed at %s: %s', to_char(v_job.last_start, 'YYYY-MM-DD HH24:MI TZ'), v_job.last_message),
      'See the server''s log; run it by hand: pg_grace purge', false
    )::grace.finding;
  end if;
  if pg_has_role('pg_read_all_stats', 'usage') and not exists (
    select from pg_stat_activity a where a.backend_type like 'pg_cron%' or a.application_name like 'pg_cron%'
  ) then
    return next row(
      'problem', 'schedule', 'pg_cron', 'pg_cron''s launcher does not run: no job runs on this server',
      'The server''s log says why it did not start (max_worker_processes?); on a standby that is as it has to be.', false
    )::grace.finding;
  end if;
end
$$;

create or replace function grace.doctor()
returns setof grace.finding
language sql stable
security definer -- reads the registry and other roles' jobs
set search_path = pg_catalog, pg_temp
as $$
  select f.*
  from (
    select * from grace_internal.check_tables()
    union all
    select * from grace_internal.check_buffers()
    union all
    select * from grace_internal.check_schedule()
    union all
    select * from grace_internal.check_server()
    union all
    select * from grace_internal.check_indexes()
  ) as f
  order by f.severity desc, f.subject, f.object
$$;
comment on function grace.doctor() is
'Looks for what keeps pg_grace from doing its work, and says what to do: triggers disabled or missing, columns that have changed, tables that lose rows unprotected, foreign keys without an index, session_replication_role, pg_cron, partitions, rights, publications. Reads the catalog only. grace.sync() does what is fixable. Notes are no problems. For rows changed by hand see grace.verify_buffer().';

-- capture/refresh.sql
-- What this version makes otherwise, for tables that are protected already: the generated functions, and no statistics on columns of
-- the application's types.
do $$
declare
  v_protected record;
begin
  for v_protected in
    select p.id, c.oid is not null as is_there
    from grace_internal.protected p
    left join pg_class c on c.oid = p.target
  loop
    if v_protected.is_there then
      perform grace_internal.generate_capture(v_protected.id);
    end if;
    perform grace_internal.no_statistics(r.relation)
    from (
      select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = v_protected.id
      union all
      select format('grace_internal.%I', c.relname)
      from pg_class c
      where c.relnamespace = 'grace_internal'::regnamespace and c.relkind = 'r'
        and c.relname ~ format('^b%s_(default|\d{8})$', v_protected.id)
    ) as r (relation);
  end loop;
end
$$;

-- privileges/privileges.sql
-- Rights in one place, last: nothing for PUBLIC, then each role what it needs. Per-table grants on buffers are given when
-- a table is protected.
revoke all on all tables in schema grace, grace_internal from public;
revoke all on all routines in schema grace, grace_internal from public;
-- PostgreSQL clones these triggers to partitions in the name of whoever makes the partition. Nobody can name them without USAGE on
-- the schema.
grant execute on function grace_internal.keep_files() to public;
grant execute on function grace_internal.capture_leaf() to public;

grant usage on schema grace to grace_admin, grace_operator, grace_auditor;
grant usage on schema grace_buffer to grace_operator, grace_auditor;

grant select on grace.deletions, grace.protected, grace.runs, grace.expired to grace_operator, grace_auditor;
grant select on grace.alembic_version to grace_operator, grace_auditor;
grant execute on function grace.doctor() to grace_operator, grace_auditor;
grant execute on function grace.verify_buffer(regclass) to grace_auditor;
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
grant execute on function grace._file_conflict(integer, bigint, timestamptz, oid) to grace_operator;
grant execute on function grace._restore_progress() to grace_operator;
grant execute on function grace._restore_files(grace._restore_plan) to grace_operator;
grant execute on function grace._restore_done(grace._restore_plan, bigint []) to grace_operator;

grant execute on function grace.protect(regclass, interval, boolean, name [], interval, name []) to grace_admin;
grant execute on function grace.sync(regclass, interval) to grace_admin;
grant execute on function grace._sync_server() to grace_admin;
grant select on grace.file_outbox to grace_admin;
grant execute on function grace.claim_files(integer, interval) to grace_admin;
grant execute on function grace.file_deleted(bigint, text) to grace_admin;
grant execute on function grace.unprotect(regclass, text, interval) to grace_admin;
grant execute on function grace.set_retention(regclass, interval) to grace_admin;
grant execute on function grace._purge_begin(regclass) to grace_admin;
grant execute on function grace._purge_work(regclass) to grace_admin;
grant execute on function grace._purge_slice(bigint, grace._purge_item) to grace_admin;
grant execute on function grace._purge_end(bigint) to grace_admin;
grant execute on procedure grace.purge(regclass) to grace_admin;

select grace_internal.ensure_jobs() as schedule;

commit;
