-- Reports, once each, filters and rules that no longer say what was meant, as a warning to whoever has just changed what they refer to, and
-- on channel grace.
create or replace function grace_internal.report_broken()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_broken record;
begin
  for v_broken in
    select *
    from (
      select 'filter' as kind, f.id, f.name, f.target, f.reported, grace_internal.problem_of(f.depends, f.home) as problem
      from grace_internal.filter f
      union all
      select 'rule', r.id, r.name, r.target, r.reported, grace_internal.problem_of(r.depends, r.home)
      from grace_internal.rule r
    ) as p
    where p.problem is distinct from p.reported
    order by p.kind, p.name
  loop
    if v_broken.kind = 'filter' then
      update grace_internal.filter f set reported = v_broken.problem where f.id = v_broken.id;
    else
      update grace_internal.rule r set reported = v_broken.problem where r.id = v_broken.id;
    end if;
    if v_broken.problem is not null then
      raise warning '% % no longer says what was meant', v_broken.kind, quote_literal(v_broken.name)
        using errcode = 'GR028', detail = v_broken.problem || '.',
        hint = case v_broken.kind when 'rule' then 'It stands still until it is defined anew (grace.alter_rule).' else 'Its rules stand still.' end;
      perform pg_notify('grace', jsonb_build_object('kind', v_broken.kind, 'name', v_broken.name, 'problem', v_broken.problem)::text);
    end if;
  end loop;
end
$$;

-- Event trigger. It must never be what makes the application's DDL fail or wait: whatever it is, grace.doctor() says it again.
create or replace function grace_internal.check_rules()
returns event_trigger
language plpgsql
security definer -- whoever changes a table need have no right on the rules
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
begin
  if current_setting('grace.following', true) = grace_internal.signature('following') then
    return; -- it is our own
  end if;
  if exists (select from grace_internal.filter) or exists (select from grace_internal.rule) then
    perform grace_internal.report_broken();
  end if;
exception when others then
  raise warning 'whether filters and rules still say what was meant could not be told'
    using errcode = sqlstate, detail = sqlerrm, hint = 'select * from grace.doctor();';
end
$$;
