-- The three group roles that pg_grace grants to. They belong to the cluster, not to one database,
-- so one that is there already (another database uses pg_grace) is left as it is.
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
      execute format('create role %I nologin', wanted.name);
      execute format('comment on role %I is %L', wanted.name, wanted.comment);
    end if;
  end loop;
end
$$;
