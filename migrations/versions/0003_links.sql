create table grace_internal.link (
  id integer generated always as identity primary key,
  protected_id integer not null,
  child regclass,
  child_oid oid not null,
  home text not null,
  child_name text not null,
  key_columns smallint [] not null,
  key_names name [] not null,
  columns smallint [] not null,
  column_names name [] not null,
  set_columns smallint [] not null,
  set_names name [] not null,
  parent_columns smallint [] not null,
  parent_names name [] not null,
  active boolean not null default true
);

create index link_protected_id on grace_internal.link (protected_id);

comment on table grace_internal.link is
'Foreign keys with ON DELETE SET NULL or SET DEFAULT on protected tables. What a row describes never changes but for names: a foreign key that is defined anew, or a new primary key, makes a new row, so that what was cut before stays readable.';
comment on column grace_internal.link.protected_id is 'The table that is referenced.';
comment on column grace_internal.link.child is 'The table that references it; null when it was dropped.';
comment on column grace_internal.link.child_oid is
'Its OID, which pg_dump keeps as a number, so that it no longer equals child where a dump was loaded; there the numbers of columns mean nothing, and their names count.';
comment on column grace_internal.link.home is 'The cluster and database in which numbers mean something.';
comment on column grace_internal.link.key_columns is 'The child''s primary key.';
comment on column grace_internal.link.columns is 'The referencing columns, in the order of the foreign key.';
comment on column grace_internal.link.set_columns is 'Those of them that the deletion sets.';
comment on column grace_internal.link.parent_columns is 'The referenced columns of the protected table, in the same order.';
comment on column grace_internal.link.active is 'Whether the child''s trigger zz_grace_link_<id> belongs there.';

-- Written for every link that is cut, so it has no foreign keys and no more indexes than reading it needs.
create table grace_internal.cut (
  link integer not null,
  deletion bigint not null,
  deleted_at timestamptz not null,
  child_key text [] not null,
  former text [] not null,
  replaced_by text [] not null
);

create index cut_deletion on grace_internal.cut (link, deletion);
alter table grace_internal.link replica identity full;
alter table grace_internal.cut replica identity full;

comment on table grace_internal.cut is
'One row per link that a deletion cut. Values are what the types'' output functions give, with ISO dates and full precision.';
comment on column grace_internal.cut.child_key is 'The child''s primary key, as it is after the cut.';
comment on column grace_internal.cut.former is 'The referencing columns before the cut.';
comment on column grace_internal.cut.replaced_by is 'The same columns right after the cut.';
