-- The rules that may keep what a rule deletes, or what goes with it.
create or replace function grace_internal.keeping_rules(rule grace_internal.rule)
returns setof grace_internal.rule
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select k.*
  from grace_internal.rule k
  where k.action = 'keep' and k.enabled and exists (
    select
    from grace_internal.cascade_tree(rule.target, true) as t (relation)
    where coalesce(pg_partition_root(t.relation), t.relation) = coalesce(pg_partition_root(k.target), k.target)
      or t.relation in (select grace_internal.cascade_tree(k.target, false)) -- inherits from what is kept
  )
  order by k.id
$$;

-- Whether row security hides rows of a table from a role.
create or replace function grace_internal.is_hidden_from(role regrole, target regclass)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_answer boolean;
begin
  execute 'select * from ' || grace_internal.as_role(role, 'read', format('select row_security_active(%s::oid)', target::oid), 'answer boolean')
  into v_answer;
  return v_answer;
end
$$;

-- Records that a rule may not delete because another one says that they, or what would go with them, must be kept: the later date wins.
-- Where that can't be told, all of them are kept. records: a FROM item that yields their keys. The rows that go along are found with the
-- rights of the owner of pg_grace, whether they are kept is asked as the role of the rule that keeps.
create or replace function grace_internal.kept_records(rule grace_internal.rule, records text)
returns table (key jsonb, reason text, until timestamptz)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
set timezone = 'UTC'
as $$
declare
  v_keep grace_internal.rule;
  v_query grace_internal.rule_query;
  v_rows text;
  v_problem text;
  v_pairs jsonb;
begin
  for v_keep in select k.* from grace_internal.keeping_rules(rule) k loop
    v_rows := grace_internal.closure_rows(rule.target, records, coalesce(pg_partition_root(v_keep.target), v_keep.target));
    v_problem := coalesce(
      grace_internal.rule_problem(v_keep),
      case when v_rows is null then format('%s can''t be read', v_keep.target) end
    );
    if v_problem is not null then
      raise exception 'what rule % keeps can''t be told', quote_literal(v_keep.name)
        using errcode = 'GR028', detail = v_problem || '.', hint = 'Nothing goes until that is mended, or the rule is dropped.';
    end if;
    perform set_config('timezone', rule.zone, true);
    execute format(
      'select jsonb_agg(jsonb_build_object(''record'', c.record, ''key'', c.key)) from (%s) c', v_rows
    ) into v_pairs;
    if grace_internal.is_hidden_from(v_keep.run_as, v_keep.target) then
      raise exception 'what rule % keeps can''t be told', quote_literal(v_keep.name)
        using errcode = 'GR028', detail = format('Row security hides rows of %s from role %s.', v_keep.target, v_keep.run_as),
        hint = 'Nothing goes until that is mended, or the rule is dropped.';
    end if;
    v_query := grace_internal.rule_query(v_keep);
    perform set_config('timezone', v_keep.zone, true);
    return query execute format(
      $q$select
        p.record,
        case
          when bool_or(k.until is null) then format('%%s %%s is kept by rule %%s, whose period has not begun', %1$L, k.key, %2$L)
          else format('%%s %%s is kept until %%s by rule %%s', %1$L, k.key, coalesce(nullif(to_char(min(k.until), 'YYYY-MM-DD'), ''), 'infinity'), %2$L)
        end,
        case when not bool_or(k.until is null) then min(k.until) else 'infinity' end
      from jsonb_to_recordset(%3$L) as p (record jsonb, key jsonb)
      join %4$s on k.key = p.key
      group by p.record, k.key$q$,
      v_keep.target, quote_literal(v_keep.name), coalesce(v_pairs, '[]'),
      grace_internal.as_role(
        v_keep.run_as, 'read',
        format(
          'select %s, %s from %s where (%s) in (select %s from jsonb_to_recordset(%L) as k (%s)) and %s and coalesce(%s > now(), true)',
          v_query.key_object, v_query.due, v_query.source, v_query.keys, v_query.key_list,
          (select jsonb_agg(p -> 'key') from jsonb_array_elements(v_pairs) p), v_query.key_columns, v_query.condition, v_query.due
        ),
        'key jsonb, until timestamptz'
      )
    );
  end loop;
end
$$;

-- Of these records those that are kept, each with what keeps it longest.
create or replace function grace_internal.kept_keys(rule grace_internal.rule, keys jsonb [])
returns table (key jsonb, reason text, until timestamptz)
language sql
set search_path = pg_catalog, pg_temp
as $$
  select distinct on (k.key) k.key, k.reason, k.until
  from grace_internal.kept_records(rule, grace_internal.key_rows(rule.target, to_jsonb(keys))) k
  where cardinality(keys) > 0
  order by k.key, k.until desc, k.reason
$$;

-- Records that a hold keeps, their own or one on a row that would go with them, in words. A delete asks the holds themselves: this is for
-- what is only shown. records: a FROM item that yields their keys.
create or replace function grace_internal.held_records(target regclass, records text)
returns table (key jsonb, reason text)
language plpgsql
set search_path = pg_catalog, pg_temp
set constraint_exclusion = off -- it evaluates the tables' checks while planning
as $$
declare
  v_root constant regclass := coalesce(pg_partition_root(held_records.target), held_records.target);
  v_protected record;
  v_rows text;
begin
  for v_protected in
    select p.id, p.target, k.key_json, k.columns
    from grace_internal.protected p
    cross join lateral (
      select
        grace_internal.key_json(array_agg(format('k.%I', a.attname)), array_agg(a.attname), array_agg(a.atttypid)) as key_json,
        string_agg(format('%I %s', a.attname, format_type(grace_internal.base_type(a.atttypid), null)), ', ') as columns
      from unnest(grace_internal.primary_key(p.target)) as u (attnum)
      join pg_attribute a on a.attrelid = p.target and a.attnum = u.attnum
    ) as k
    where p.target in (
        select coalesce(pg_partition_root(t.relation), t.relation)
        from grace_internal.cascade_tree(held_records.target, true) as t (relation)
      )
      and exists (select from grace_internal.held_keys(p.id))
    order by p.target <> v_root, p.target::text
  loop
    v_rows := grace_internal.closure_rows(held_records.target, records, v_protected.target);
    if v_rows is not null then
      return query execute format(
        $q$with held as materialized (
          select k.hold_id, k.key from grace_internal.held_keys(%s) k where k.names is not null
        )
        select c.record, concat(%L::text || c.key::text || ' is held: ', h.reason, ' (hold ', h.id, ', case ' || h.case_number, ')')
        from held
        cross join lateral (select %s as key from jsonb_to_record(held.key) as k (%s)) as k
        join (%s) c on c.key = k.key
        join grace_internal.hold h on h.id = held.hold_id$q$,
        v_protected.id,
        case when v_protected.target <> v_root then grace_internal.qualified_name(v_protected.target) || ' ' end,
        v_protected.key_json, v_protected.columns, v_rows
      );
    end if;
  end loop;
end
$$;
