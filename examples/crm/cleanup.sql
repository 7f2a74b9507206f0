-- The roles as which the example CRM is cleared up. Run after schema.sql and data.sql.
-- Roles belong to the whole server, so an earlier load may have left them.
begin;

do $$
begin
  if to_regrole('crm_cleanup') is null then
    create role crm_cleanup;
  end if;
  if to_regrole('crm_retention') is null then
    create role crm_retention;
  end if;
end
$$;

comment on role crm_cleanup is 'Clears up for the branch office in Graz, and sees only its leads.';
comment on role crm_retention is 'Deletes what has been kept long enough, in all branch offices.';

grant usage on schema crm to crm_cleanup, crm_retention;
grant select, update, delete on crm.lead, crm.email to crm_cleanup, crm_retention;
grant select on crm.activity, crm.offer, crm.company, crm.lead_status to crm_cleanup, crm_retention;

alter table crm.lead enable row level security;
create policy everybody on crm.lead using (current_user <> 'crm_cleanup');
create policy graz on crm.lead to crm_cleanup using (country = 'AT');

commit;
