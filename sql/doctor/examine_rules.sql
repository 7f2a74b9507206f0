-- An activity as its text reads now; no row where that can't be told, because another foreign key has been added since.
create or replace function grace_internal.activity_now(target regclass, activity text, path text)
returns table (source regclass, moment name, link name [])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select a.source, a.moment, a.link from grace_internal.read_activity(target, activity, path) a;
exception when sqlstate 'GR031' or undefined_table then
  return;
end
$$;

create or replace function grace_internal.examine_rules()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select 'problem', 'filter', f.name, p.problem, format('select * from grace.alter_filter(%L, …);', f.name), false
  from grace_internal.filter f
  cross join lateral (select grace_internal.problem_of(f.depends, f.home) as problem) as p
  where p.problem is not null
  union all
  select 'problem', 'rule', r.name, f.finding, f.hint, false
  from grace_internal.rule r
  cross join lateral (select grace_internal.rule_problem(r) as problem) as p
  left join grace_internal.run l on l.id = (
    select max(u.id) from grace_internal.run u where u.rule_id = r.id and u.kind = 'rule' and u.status <> 'running'
  )
  cross join lateral (
    values
      (p.problem is not null, 'it stands still: ' || p.problem, format('select grace.alter_rule(%L, …);', r.name)),
      (
        r.action = 'delete' and r.enabled and not has_table_privilege(r.run_as, r.target, 'DELETE'),
        format('role %s may not delete from %s', r.run_as, r.target), format('grant delete on %s to %s;', r.target, r.run_as)
      ),
      (
        l.status = 'held', format('its run %s waits for approval: %s', l.id, l.details ->> 'held_because'),
        format('Look: pg_grace rule preview %L; then: call grace.run(%L, approve => true);', r.name, r.name)
      ),
      (
        l.status = 'failed' and p.problem is null and l.started_at > r.changed_at,
        format('its last run, %s, failed: %s', l.id, coalesce(l.details ->> 'problem', l.details #>> '{stopped,reason}')),
        format('call grace.run(%L);', r.name)
      )
  ) as f (applies, finding, hint)
  where f.applies and r.enabled
  union all
  select
    'note', 'rule', r.name, format('its last run, %s, left over %s records that could not be deleted', l.id, l.details ->> 'failures'),
    format('select * from grace.run_failures where run = %s;', l.id), false
  from grace_internal.rule r
  join grace_internal.run l on l.id = (
    select max(u.id) from grace_internal.run u where u.rule_id = r.id and u.kind = 'rule' and u.status <> 'running'
  )
  where r.enabled and l.details ? 'failures'
  union all
  select
    'problem', 'rule', r.name,
    format('no index of %s begins with (%s), so the latest %s of a record is not found at once', a.source, k.names, a.moment),
    format('create index concurrently on %s (%s);', grace_internal.qualified_name(a.source), k.names), false
  from grace_internal.rule r
  cross join lateral jsonb_array_elements_text(r.activities) t (activity)
  cross join lateral grace_internal.activity_now(r.target, t.activity, r.path) a
  cross join lateral (
    select string_agg(quote_ident(n), ', ' order by o) as names from unnest(a.link || a.moment) with ordinality as u (n, o)
  ) as k
  where r.enabled and grace_internal.rule_problem(r) is null
    and (select sum(pg_relation_size(l.relation)) from grace_internal.partition_tree(a.source) as l (relation)) >= 65536
    and not exists (
      select
      from pg_index i
      cross join lateral (select grace_internal.column_names(a.source, i.indkey::smallint []) as names) as n
      where i.indrelid = a.source and i.indisvalid and i.indpred is null
        and n.names[:cardinality(a.link)] @> a.link and n.names[cardinality(a.link) + 1] = a.moment
    )
  union all
  select
    'note', 'rule', r.name,
    format('role %s may not lock rows of %s: a contact, or what must be kept, that is added in the very moment of the deletion goes with it', r.run_as, r.target),
    format('grant update on %s to %s;', r.target, r.run_as), false
  from grace_internal.rule r
  where r.enabled and r.action = 'delete' and not has_table_privilege(r.run_as, r.target, 'UPDATE')
    and (r.activities <> '[]' or exists (select from grace_internal.keeping_rules(r)))
$$;

-- Rules that keep nothing while they are disabled, and rules that run as a superuser.
create or replace function grace_internal.examine_neighbours()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'note', 'rule', r.name, format('it is disabled, so rules may delete what it would keep of %s', r.target),
    format('select grace.enable_rule(%L);', r.name), false
  from grace_internal.rule r
  where r.action = 'keep' and not r.enabled
  union all
  select
    'note', 'rule', r.name,
    format('it runs as %s, a superuser: triggers on what it deletes run with all rights, and row security does not apply', r.run_as),
    format('select grace.alter_rule(%L, ''{"run_as": "…"}'');', r.name), false
  from grace_internal.rule r
  join pg_roles o on o.oid = r.run_as and o.rolsuper
  where r.action = 'delete' and r.enabled
$$;

-- Rules that want to delete what other rules keep: the one that keeps wins.
create or replace function grace_internal.examine_overlaps()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case when r.target = k.target then 'problem' else 'note' end, 'rule', r.name,
    case
      when r.target = k.target then format('it would delete after %s what rule %L keeps for %s', r.period, k.name, k.period)
      else format('what it deletes takes rows of %s with it, which rule %L keeps for %s', k.target, k.name, k.period)
    end,
    'Rows stay as long as the rule that keeps says; where both mean the same records, mend one of them.', false
  from grace_internal.rule r
  cross join lateral grace_internal.keeping_rules(r) k
  where r.enabled and r.action = 'delete' and k.period > r.period
$$;

-- Columns whose names say that they hold personal data, in English, German, Dutch and French.
create or replace function grace_internal.personal_columns(relation oid)
returns name []
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select array_agg(l.attname order by l.attnum)
  from grace_internal.live_columns(personal_columns.relation) l
  where l.attname ~* concat(
    '(^|_)(',
    '(first|last|sur|given|family|middle|full|maiden)_?name|e_?mail|phone|mobile|fax|birth_?(day|date)|date_of_birth|street|passport|gender'
    '|salutation|iban|ssn|ip_?addr(ess)?',
    '|vorname|nachname|familienname|geburts(tag|datum|name)|telefon|handy|mobil(nummer)?|stra(ss|ß)e|anschrift|anrede|geschlecht|ausweis',
    '|voornaam|achternaam|tussenvoegsel|geboortedatum|telefoon|gsm|straat|adres|geslacht|bsn',
    '|pr[eé]nom|nom_de_famille|courriel|t[eé]l[eé]phone|portable|date_de_naissance|rue|adresse|sexe',
    ')(_|$)'
  )
$$;

create or replace function grace_internal.examine_personal_columns()
returns setof grace.finding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    'note', 'personal data', grace_internal.qualified_name(c.oid),
    'it looks personal and no rule deletes it: ' || array_to_string(p.columns, ', '),
    'Say when it goes: select grace.add_rule(…);', false
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select grace_internal.personal_columns(c.oid) as columns) as p
  where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p' and p.columns is not null
    and n.nspname not in ('pg_catalog', 'information_schema', 'grace', 'grace_internal', 'grace_buffer', 'cron')
    and exists (select from grace_internal.rule)
    and c.oid not in (
      select t.relation
      from grace_internal.rule r
      cross join lateral grace_internal.cascade_tree(r.target, true) as t (relation)
      where r.action <> 'keep' and r.enabled
    )
$$;
