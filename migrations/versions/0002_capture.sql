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
