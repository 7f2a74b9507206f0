-- Of records those that were announced long enough ago. A notice for another due date than the one now believed is made anew as a
-- run begins.
create or replace function grace_internal.announced_keys(rule grace_internal.rule, keys jsonb [])
returns jsonb []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array(
    select k.key
    from unnest(keys) with ordinality as k (key, position)
    join grace_internal.notice n on n.rule_id = rule.id and n.key = k.key
    where n.announced_at <= clock_timestamp() - rule.notice
    order by k.position
  )
$$;

-- Announces what a rule with notice will act on: what is due within the notice, and half a day, so that the notice has passed when it is
-- due, although this is done every six hours only. What has got another due date, or is not due any more, is
-- no longer announced as it was. Returns how many are new.
create or replace function grace_internal.announce(rule grace_internal.rule)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_query grace_internal.rule_query := grace_internal.rule_query(rule);
  v_now timestamptz := clock_timestamp();
  v_planned text;
  v_new bigint;
begin
  perform set_config('timezone', rule.zone, true);
  v_planned := grace_internal.as_role(
    rule.run_as, 'read',
    format(
      'select %s, %s from %s where %s', v_query.key_object, v_query.due, v_query.source,
      grace_internal.is_due(v_query, grace_internal.horizon(rule, v_now + rule.notice + interval '12 hours'))
    ),
    'key jsonb, due timestamptz'
  );
  execute format(
    $q$with planned as materialized (
      select k.key, k.due from %s
    ), past as (
      delete from grace_internal.notice n
      where n.rule_id = $1 and not exists (select from planned p where p.key = n.key)
    ), announced as (
      insert into grace_internal.notice as n (rule_id, key, due, announced_at)
      select $1, p.key, p.due, $2
      from planned p
      where not exists (
        select
        from grace_internal.exemption e
        where e.rule_id = $1 and e.key = p.key and e.dropped_at is null and coalesce(e.until > $2, true)
      )
      on conflict (rule_id, key) do update set due = excluded.due, announced_at = excluded.announced_at
      where n.due <> excluded.due
      returning 1
    )
    select count(*) from announced$q$,
    v_planned
  )
  into v_new
  using rule.id, v_now;
  update grace_internal.rule r set announced_at = v_now where r.id = rule.id;
  if v_new > 0 then
    perform pg_notify('grace', jsonb_build_object(
      'kind', 'notice', 'rule', rule.name, 'table', grace_internal.qualified_name(rule.target), 'rows', v_new, 'acts_after', v_now + rule.notice
    )::text);
  end if;
  return v_new;
end
$$;

-- Announces for every rule that wants it, once in six hours each; one rule's trouble is not another's.
create or replace function grace_internal.announce_all()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule;
begin
  for v_rule in
    select r.*
    from grace_internal.rule r
    where r.enabled and r.notice is not null
      and coalesce(r.announced_at < clock_timestamp() - interval '6 hours' or r.announced_at < r.changed_at, true)
    order by r.id
    for update skip locked
  loop
    if grace_internal.rule_problem(v_rule) is null then
      begin
        perform grace_internal.announce(v_rule);
      exception when others then
        raise warning 'what rule % plans could not be announced', quote_literal(v_rule.name)
          using errcode = sqlstate, detail = sqlerrm;
      end;
    end if;
  end loop;
end
$$;

create or replace function grace.announce(rule text)
returns bigint
language plpgsql
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule grace_internal.rule := grace_internal.rule_named(rule);
  v_problem text := grace_internal.rule_problem(v_rule);
begin
  if v_problem is not null or v_rule.notice is null then
    raise exception 'rule % announces nothing', quote_literal(rule)
      using errcode = 'GR031', detail = coalesce(v_problem || '.', 'It has no notice.'),
      hint = 'select grace.alter_rule(…, ''{"notice": "14 days"}'');';
  end if;
  return grace_internal.announce(v_rule);
end
$$;
comment on function grace.announce(text) is
'Announces what a rule with notice is going to act on, now; grace.watch() does so by itself every six hours. Each record is a row in grace.notices, and how many are new goes out as JSON on channel grace (LISTEN grace). Returns how many are new. Errors: GR027, GR031.';

create or replace view grace.notices as
select
  r.name as rule,
  r.target,
  n.key,
  n.due,
  n.announced_at,
  n.announced_at + r.notice as acts_after
from grace_internal.notice n
join grace_internal.rule r on r.id = n.rule_id;

comment on view grace.notices is
'What rules with notice have announced: the record, when it is due, and from when on the rule may act on it.';
