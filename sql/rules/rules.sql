create or replace function grace._rule_problem(rule_id integer)
returns text
language sql stable
security definer -- the rules are granted to nobody
set search_path = pg_catalog, pg_temp
as $$
  select grace_internal.rule_problem(r) from grace_internal.rule r where r.id = rule_id
$$;
comment on function grace._rule_problem(integer) is 'Internal: why a rule can''t act.';

create or replace view grace.rules as
select
  r.name,
  f.name as filter,
  r.target,
  r.action,
  r.enabled,
  r.condition,
  r.start_expression as starts,
  case when r.start_expression is not null then r.period end as period,
  r.starts as given_starts,
  array(select jsonb_array_elements_text(r.activities)) as activities,
  r.predicate,
  r.related_to #>> '{}' as related_to,
  r.final_by_due,
  r.notice,
  j.schedule,
  r.run_as,
  r.max_rows,
  r.max_fraction,
  r.batch_size,
  r.pause,
  r.max_duration,
  r.four_eyes,
  r.basis,
  r.columns,
  r.zone,
  grace._rule_problem(r.id) as problem,
  l.run as last_run,
  l.status as last_status,
  l.started_at as last_start,
  l.row_count as last_rows,
  r.created_at,
  r.created_by,
  r.changed_at,
  r.changed_by,
  r.id
from grace_internal.rule r
left join grace_internal.filter f on f.id = r.filter_id
left join grace_internal.job j on j.rule_id = r.id
left join lateral (
  select
    u.id as run,
    u.status,
    u.started_at,
    u.row_count
  from grace_internal.run u
  where u.rule_id = r.id and u.kind = 'rule'
  order by u.id desc
  limit 1
) as l on true;

comment on view grace.rules is 'What happens to which records, and when.';
comment on column grace.rules.condition is 'Which rows, as PostgreSQL reads it: the filter''s condition and the rule''s own.';
comment on column grace.rules.starts is 'From when the period counts, as PostgreSQL reads it; null: due at once.';
comment on column grace.rules.given_starts is 'What the period starts with as it was given; beside it activities, the latest of which counts.';
comment on column grace.rules.predicate is 'The condition beside the filter''s as it was given.';
comment on column grace.rules.related_to is 'Only rows that belong to one of this table, as it was given.';
comment on column grace.rules.problem is
'Why the rule can''t act, and does not, until it is mended: what it refers to was renamed, dropped or retyped, its role is gone, or its table is not protected. Null: it can.';
comment on column grace.rules.zone is 'The time zone in which its dates begin and its months are counted.';

create or replace view grace.run_failures as
select
  f.run_id as run,
  r.details ->> 'rule' as rule,
  r.target,
  f.key,
  f.sqlstate,
  f.reason
from grace_internal.run_failure f
join grace_internal.run r on r.id = f.run_id;

comment on view grace.run_failures is
'Records that a run could not act on, by key, each with its reason; the first 10,000 of a run. They did not stop the others, and are taken up by the next run.';
