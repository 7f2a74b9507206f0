-- Rows of a source with their keys ("grace 1", "grace 2", …) and how many newer versions of the same key are among them, plus one.
-- Within one deletion the order is that in which the commands captured them, as long as no restore has touched one of them (its command
-- number would be lost), else that in which they stand.
create or replace function grace_internal.ranked_versions(protected_id integer, source text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select u.*, pg_catalog.row_number() over (partition by %1$s order by u.grace_deleted_at desc, u.grace_deletion desc, '
    'case when u."grace untouched" then u."grace command" end desc, u."grace tid" desc) as "grace version" '
    'from (select t.*, pg_catalog.bool_and(t."grace xmax" operator(pg_catalog.=) ''0'') '
    'over (partition by %1$s, t.grace_deletion) as "grace untouched" '
    'from (select %2$s, %3$s as "grace ref", b.grace_deleted_at, b.grace_deletion, b.ctid as "grace tid", '
    'b.cmin::pg_catalog.text::pg_catalog.int8 as "grace command", b.xmax::pg_catalog.text as "grace xmax" %4$s) t) u',
    string_agg(format('"grace %s"', k.position), ', ' order by k.position),
    string_agg(format('%s as "grace %s"', k.expression, k.position), ', ' order by k.position),
    grace_internal.ref_expression(protected_id),
    source
  )
  from unnest(grace_internal.key_values(protected_id)) with ordinality as k (expression, position)
  having count(*) > 0
$$;

-- For each table of which a restore may select several versions of a key: the query for all but the newest.
create or replace function grace_internal.older_versions(plan grace._restore_plan)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format('select v."grace ref" from (%s) v where v."grace version" operator(pg_catalog.>) 1', q.query)
  from unnest(plan.protected_ids) i
  cross join lateral grace_internal.ranked_versions(i, grace_internal.restore_source(i, plan)) as q (query)
  where q.query is not null
    and (
      select count(*) > 1
      from grace_internal.capture c
      where c.deletion = any (plan.deletions) and c.protected_id = i
    )
$$;
