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
