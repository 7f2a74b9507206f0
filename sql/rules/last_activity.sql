-- The pieces of the statements that find, for rows of an activity's table, the latest of each record that they belong to.
create or replace function grace_internal.activity_sources(target regclass, activities jsonb, path text, role regrole)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'source', a.source::oid,
    'moment', format('%I.%I', grace_internal.alias_of(a.source), a.moment),
    'from', format('%s cross join %s', grace_internal.source_of(a.source), grace_internal.source_of(target)),
    'condition', format(
      '%s and (%s)', l.condition,
      (grace_internal.read_expression(a.source, coalesce(a.condition, 'true'), path, role)).text
    ),
    'keys', k.keys, 'list', k.list, 'columns', k.columns
  )), '[]')
  from jsonb_array_elements_text(activities) t (activity)
  cross join lateral grace_internal.read_activity(target, t.activity, path) a
  cross join lateral grace_internal.link_between(a.source, target, array_to_string(array(select quote_ident(n) from unnest(a.link) n), ', ')) l
  cross join lateral (
    select
      string_agg(format('%I.%I', grace_internal.alias_of(a.source), n.attname), ', ' order by p.position) as keys,
      string_agg(format('k.%I', n.attname), ', ' order by p.position) as list,
      string_agg(format('%I %s', n.attname, format_type(n.atttypid, n.atttypmod)), ', ' order by p.position) as columns
    from unnest(grace_internal.primary_key(a.source)) with ordinality as p (attnum, position)
    join pg_attribute n on n.attrelid = a.source and n.attnum = p.attnum
  ) as k
  where k.keys is not null
$$;

-- Whether another rule counts from rows of the table that a rule deletes from.
create or replace function grace_internal.is_counted_from(target regclass)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from grace_internal.rule k
    where k.sources @> jsonb_build_array(jsonb_build_object('source', is_counted_from.target::oid))
  );
end
$$;

-- Before a rule deletes rows from which another one counts, the latest of them is remembered for each record that they belong to: else its
-- period would start earlier, and the record go before its time.
create or replace function grace_internal.remember_activities(rule grace_internal.rule, keys jsonb [])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_counts record;
  v_query grace_internal.rule_query;
begin
  for v_counts in
    select k as counting, s.*
    from grace_internal.rule k
    cross join lateral jsonb_to_recordset(k.sources) as s (
      source oid, moment text, "from" text, condition text, keys text, list text, columns text
    )
    where s.source = rule.target and k.id <> rule.id and grace_internal.rule_problem(k) is null
    order by k.id
  loop
    v_query := grace_internal.rule_query(v_counts.counting);
    perform set_config('timezone', (v_counts.counting).zone, true);
    execute format(
      'insert into grace_internal.last_activity as m (rule_id, key, at) select $1, k.key, k.at from %s '
      'where k.at is not null order by k.key on conflict (rule_id, key) do update set at = greatest(m.at, excluded.at)',
      grace_internal.as_role(
        (v_counts.counting).run_as, 'read',
        format(
          'select %s, max((%s)::timestamptz) from %s where %s and (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) group by %s',
          v_query.key_object, v_counts.moment, v_counts."from", v_counts.condition, v_counts.keys, v_counts.list, to_jsonb(keys),
          v_counts.columns, v_query.keys
        ),
        'key jsonb, at timestamptz'
      )
    ) using (v_counts.counting).id;
  end loop;
end
$$;

-- What was remembered and no longer says anything, because the period is over.
create or replace function grace_internal.forget_activities(rule grace_internal.rule)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  delete from grace_internal.last_activity m where m.rule_id = (rule).id and m.at + (rule).period < clock_timestamp() - interval '1 day'
$$;
