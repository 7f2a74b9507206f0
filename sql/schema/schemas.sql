-- What users call and look at, what was deleted, and what is nobody's business.
create schema if not exists grace;
create schema if not exists grace_buffer;
create schema if not exists grace_internal;

comment on schema grace is 'pg_grace: functions and views to protect, look, restore and purge';
comment on schema grace_buffer is 'pg_grace: deleted rows, one table per protected table';
comment on schema grace_internal is 'pg_grace: internals, granted to nobody';
