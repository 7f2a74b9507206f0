-- The queries that find why selected rows can't be inserted. Each reads the CTE s_<id> of its table (columns as the table that is written
-- to names them, and "grace ref"), and those of the others for parents that come back in the same restore; each gives the id, the row,
-- its key, the constraint and the reason. They evaluate the application's own expressions, so they are run with the caller's rights.
-- kind: parent, the only ones that can find more when rows are left out, or other.
create or replace function grace_internal.conflict_queries(protected_id integer, plan grace._restore_plan, careful boolean)
returns table (kind text, query text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target regclass := (
    select coalesce(plan.into_table, p.target) from grace_internal.protected p where p.id = protected_id
  );
  v_head text := format('select %s, s."grace ref", %s, ', protected_id, grace_internal.key_expression(v_target));
  v_checks text;
  v_any_bad text;
  v_skipped text; -- a row has a parent that is left out for a conflict of its own, even if another row has taken its key since
  v_row record;
begin
  kind := 'other';
  select
    string_agg(format('(coalesce(%s, false), %L, %s)', c.bad, c.constraint_name, c.reason), ', '),
    string_agg(format('coalesce(%s, false)', c.bad), ' or ')
  into v_checks, v_any_bad
  from grace_internal.row_checks(protected_id, v_target, plan, careful) c;
  if v_checks is not null then
    query := format(
      '%s v.name, v.reason from (select s.* from s_%s s where %s) s '
      'cross join lateral (values %s) as v (bad, name, reason) where v.bad',
      v_head, protected_id, v_any_bad, v_checks
    );
    return next;
  end if;

  for v_row in
    select u.*, i.indisprimary and i.indrelid = v_target as is_key, a.applies as fits
    from grace_internal.partition_tree(v_target) as t (relation)
    join pg_index i on i.indrelid = t.relation and (i.indisunique or i.indisexclusion) and i.indisvalid
    cross join lateral (
      select case when i.indrelid <> v_target then coalesce(pg_get_partition_constraintdef(i.indrelid), 'true') end
    ) as a (applies)
    cross join lateral grace_internal.unique_rule(i.indexrelid) u
    where (i.indrelid = v_target or not exists (select from pg_inherits h where h.inhrelid = i.indexrelid))
      and not coalesce(concat(i.indexprs, i.indpred) ~ ':varattno 0 ', false)
  loop
    if v_row.is_key and plan.on_conflict = 'replace' then
      return query -- an UPDATE can't write them
        select
          kind,
          format(
            '%s %L, pg_catalog.concat(%L, s.%I) from s_%s s where exists (select from %s and l.%I is distinct from s.%I)',
            v_head, 'identity',
            format('the row that is there now has another value in column %I, GENERATED ALWAYS AS IDENTITY, than ', c.attname),
            c.attname, protected_id, v_row.live_match, c.attname, c.attname
          )
        from grace_internal.restore_columns(protected_id, plan) c
        where c.identity = 'a' and c.value is not null
          and not exists (
            select from pg_index i where i.indrelid = v_target and i.indisprimary and c.attnum = any (i.indkey)
          );
    else
      query := format(
        '%s %L, pg_catalog.concat(%L, %s, %L) from s_%s s where %s%s and exists (select from %s%s)',
        v_head, v_row.name,
        format('key (%s)=(', v_row.column_names), v_row.key_values,
        case when v_row.excludes then ') conflicts with a row that is there now' else ') is taken by a row that is there now' end,
        protected_id, v_row.applies, coalesce(' and (' || v_row.fits || ')', ''), v_row.live_match,
        case when plan.on_conflict = 'replace' then coalesce(
          (
            select format(' and not (%s)', string_agg(format('l.%1$I is not distinct from s.%1$I', k), ' and '))
            from pg_index i
            cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) k
            where i.indrelid = v_target and i.indisprimary
            having count(*) > 0
          ), ''
        ) else '' end
      );
      return next;
    end if;
    if not v_row.excludes then
      query := format(
        '%s %L, pg_catalog.concat(%L, %s, %L) from ('
        'select s.*, pg_catalog.count(*) over (partition by %s) as "grace count" from s_%s s where %s%s'
        ') s where s."grace count" operator(pg_catalog.>) 1',
        v_head, v_row.name,
        format('key (%s)=(', v_row.column_names), v_row.key_values, ') is selected more than once',
        v_row.key_columns, protected_id, v_row.applies, coalesce(' and (' || v_row.fits || ')', '')
      );
      return next;
    elsif 1 < (
      select count(*)
      from grace_internal.capture c
      where c.deletion = any (plan.deletions) and c.protected_id = conflict_queries.protected_id
    ) then
      query := format(
        '%s %L, pg_catalog.concat(%L, %s, %L) from s_%s s where %s%s and exists (select from %s '
        'and l."grace ref" operator(pg_catalog.<>) s."grace ref")',
        v_head, v_row.name,
        format('key (%s)=(', v_row.column_names), v_row.key_values, ') conflicts with another selected row',
        protected_id, v_row.applies, coalesce(' and (' || v_row.fits || ')', ''),
        format(v_row.selected_match, 's_' || protected_id)
      );
      return next;
    end if;
  end loop;

  for v_row in
    select
      f.conname, r.relname,
      format('%s%s', case r.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(f.conrelid)) as child,
      grace_internal.qualified_name(f.conrelid) as child_name,
      format('%s%s', case t.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(v_target)) as live,
      k.*,
      (
        select string_agg(format('l.%1$I %2$s s.%1$I', a.attname, grace_internal.equality(i.indexrelid, u.n::integer)), ' and ')
        from pg_index i
        cross join lateral unnest(i.indkey::smallint []) with ordinality as u (attnum, n)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum
        where i.indrelid = v_target and i.indisprimary
      ) as same_key
    from pg_constraint f
    join pg_class r on r.oid = f.conrelid
    join pg_class t on t.oid = v_target
    cross join lateral (
      select
        string_agg(format('l.%1$I is distinct from s.%1$I', u.parent), ' or ') as changes,
        string_agg(format('l.%I %s c.%I', u.parent, grace_internal.qualified_operator(u.operator_oid), u.child), ' and ') as refers,
        string_agg(quote_ident(u.parent), ', ') as names,
        string_agg(format('l.%I', u.parent), ', ') as values
      from unnest(
        grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey), f.conpfeqop
      ) as u (parent, child, operator_oid)
    ) as k
    where f.confrelid = v_target and f.contype = 'f' and f.conparentid = 0 and f.confupdtype <> 'c'
      and plan.on_conflict = 'replace'
      and not exists (
        select from pg_index i where i.indrelid = v_target and i.indisprimary and f.confkey <@ i.indkey::smallint []
      )
  loop
    query := format(
      '%s %L, pg_catalog.concat(%L, l.keys, %L) from s_%s s cross join lateral (select pg_catalog.concat_ws('', '', %s) as keys '
      'from %s l where %s and (%s) and exists (select from %s c where %s)) l',
      v_head, v_row.conname, format('%s refers to (%s)=(', v_row.child_name, v_row.names), '), which would change',
      protected_id, v_row.values, v_row.live, v_row.same_key, v_row.changes, v_row.child, v_row.refers
    );
    return next;
  end loop;

  kind := 'parent';
  for v_row in
    select
      f.conname, f.confrelid, case k.relkind when 'p' then '' else 'only ' end as only_text,
      parent.id as parent_id, parent.id = any (plan.protected_ids) and plan.into_table is null as is_selected,
      case when f.conrelid <> v_target then pg_get_partition_constraintdef(f.conrelid) end as fits,
      j.*,
      grace_internal.buffer_values(parent.id, f.confrelid, f.confkey, 'b') as buffered
    from grace_internal.partition_tree(v_target) as t (relation)
    join pg_constraint f on f.conrelid = t.relation and f.contype = 'f'
    join pg_class k on k.oid = f.confrelid
    left join grace_internal.protected parent
      on parent.target = coalesce(pg_partition_root(f.confrelid), f.confrelid::regclass)
    cross join lateral (
      select
        string_agg(format('s.%I is not null', k.child), ' and ') as complete,
        string_agg(format('p.%I %s s.%I', k.parent, grace_internal.qualified_operator(k.operator_oid), k.child), ' and ')
          as matches,
        string_agg(format('p."grace %s" %s s.%I', k.n, grace_internal.qualified_operator(k.operator_oid), k.child), ' and ')
          as buffer_matches,
        string_agg(quote_ident(k.child), ', ') as names,
        string_agg(format('s.%I', k.child), ', ') as values
      from unnest(
        grace_internal.column_names(f.confrelid, f.confkey), grace_internal.column_names(f.conrelid, f.conkey),
        f.conpfeqop
      ) with ordinality as k (parent, child, operator_oid, n)
    ) as j
    where coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
      and not coalesce((to_jsonb(f) ->> 'conperiod')::boolean, false)
      and case
        when f.conrelid = v_target then not exists (
          select from pg_constraint up where up.oid = f.conparentid and up.conrelid = f.conrelid
        )
        else f.conparentid = 0
      end
  loop
    query := format(
      '%s %L, pg_catalog.concat(%L, pg_catalog.concat_ws('', '', %s), %L%s) from (select s.* from s_%s s where %s%s%s offset 0) s%s '
      'where not exists (select from %s%s p where %s)',
      v_head, v_row.conname,
      format('parent (%s)=(', v_row.names), v_row.values,
      format(') is missing in %s', grace_internal.qualified_name(v_row.confrelid)),
      case when v_row.buffered is not null then
        format(
          ', case when p."grace deletion" is not null then pg_catalog.concat(%L, p."grace deletion", %L) end',
          '; it went in deletion ', ' and can be brought along'
        )
      else '' end,
      protected_id, v_row.complete, coalesce(' and (' || v_row.fits || ')', ''),
      -- First and by itself: how many parents the table itself is believed to have must not decide how this is looked for.
      case when v_row.is_selected then
        format(' and not exists (select from s_%s p where %s)', v_row.parent_id, v_row.matches)
      else '' end,
      case when v_row.buffered is not null then format(
        ' left join (select %s, pg_catalog.max(b.grace_deletion) as "grace deletion" from grace_buffer.%I b '
        'where b.grace_deleted_at operator(pg_catalog.>) grace._expired_before(%s) group by %s) p on %s',
        (select string_agg(format('%s as "grace %s"', v, n), ', ') from unnest(v_row.buffered) with ordinality as u (v, n)),
        (select p.buffer from grace_internal.protected p where p.id = v_row.parent_id), v_row.parent_id,
        array_to_string(v_row.buffered, ', '), v_row.buffer_matches
      ) else '' end,
      v_row.only_text, grace_internal.qualified_name(v_row.confrelid), v_row.matches
    );
    if plan.on_conflict = 'skip' and v_row.is_selected and v_row.buffered is not null then
      v_skipped := format(
        'exists (select from (select %s from pg_catalog.unnest($4) n cross join lateral (select b.* from grace_buffer.%I b '
        'where b.tableoid operator(pg_catalog.=) n.leaf and b.ctid operator(pg_catalog.=) n.tid '
        'and b.grace_deleted_at operator(pg_catalog.=) n.deleted_at offset 0) b '
        'where coalesce(n.protected_id operator(pg_catalog.=) %s, false)) p where %s)',
        (select string_agg(format('%s as "grace %s"', v, n), ', ') from unnest(v_row.buffered) with ordinality as u (v, n)),
        (select p.buffer from grace_internal.protected p where p.id = v_row.parent_id), v_row.parent_id, v_row.buffer_matches
      );
      query := format('%s and not %s', query, v_skipped);
      return next;
      query := format(
        '%s %L, pg_catalog.concat(%L, pg_catalog.concat_ws('', '', %s), '') is skipped'') from s_%s s where %s%s and %s',
        v_head, v_row.conname, format('parent (%s)=(', v_row.names), v_row.values, protected_id, v_row.complete,
        coalesce(' and (' || v_row.fits || ')', ''), v_skipped
      );
    end if;
    return next;
  end loop;
end
$$;

-- What row-level security demands of rows s that the caller inserts, as a condition; null where it demands nothing.
create or replace function grace_internal.insert_policies(target regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select format(
    'coalesce(%s, false)%s',
    coalesce(string_agg(x.condition, ' or ') filter (where x.polpermissive), 'false'),
    string_agg(format(' and coalesce(%s, false)', x.condition), '') filter (where not x.polpermissive)
  )
  from pg_class c
  join pg_roles r on r.rolname = grace_internal.caller()
  left join lateral (
    select
      p.polpermissive,
      format('(select (%s) from (select s.*) as %I)', pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid), c.relname)
        as condition
    from pg_policy p
    where p.polrelid = c.oid and p.polcmd in ('*', 'a')
      and exists (select from unnest(p.polroles) m where m = 0 or pg_has_role(r.oid, m, 'usage'))
  ) as x on true
  where c.oid = target and c.relrowsecurity
    and not r.rolsuper and not r.rolbypassrls
    and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'usage'))
  group by c.oid
$$;

-- What can be said of a selected row s by itself: which condition would stop it, and why.
create or replace function grace_internal.row_checks(
  protected_id integer, target regclass, plan grace._restore_plan, careful boolean
)
returns table (bad text, constraint_name text, reason text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with relations as (
    select
      t.relation, r.relkind,
      case when t.relation <> target then coalesce(pg_get_partition_constraintdef(t.relation), 'true') end as fits
    from grace_internal.partition_tree(target) as t (relation)
    join pg_class r on r.oid = t.relation
  ),
  columns as (
    select * from grace_internal.restore_columns(protected_id, plan)
  )
  -- A column that gets no value, or null.
  select
    concat('(' || r.fits || ') and ', format('s.%I is null', a.attname)),
    'not null',
    quote_literal(format('column %s is NOT NULL and there is no value for it', quote_ident(a.attname)))
  from relations r
  join pg_attribute a on a.attrelid = r.relation and a.attnum > 0 and a.attnotnull and not a.attisdropped
  join columns c on c.attname = a.attname and c.insertable and c.default_value is null and c.identity = ''
  where r.relation = target or not c.not_null
  union all
  select
    concat('(' || r.fits || ') and ', format('not (%s)', pg_get_expr(c.conbin, c.conrelid))),
    c.conname,
    quote_literal('violates check ' || pg_get_expr(c.conbin, c.conrelid))
  from relations r
  join pg_constraint c on c.conrelid = r.relation and c.contype = 'c'
  where coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
    and (r.relation = target or c.coninhcount = 0)
    and c.conbin::text !~ ':varattno 0 '
  union all
  -- Where INSERT refuses a value that an explicit cast would cut.
  select
    case
      when t.typname in ('varchar', 'bpchar') then format(
        'pg_catalog.char_length(pg_catalog.rtrim(s.%I::pg_catalog.text, '' '')) operator(pg_catalog.>) %s', c.attname, c.typmod - 4
      )
      when t.typname = 'bit' then format('pg_catalog.length(s.%I) operator(pg_catalog.<>) %s', c.attname, c.typmod)
      when t.typname = 'varbit' then format('pg_catalog.length(s.%I) operator(pg_catalog.>) %s', c.attname, c.typmod)
      else format(
        's.%1$I operator(pg_catalog.<>) ''NaN'' and pg_catalog.abs(pg_catalog.round(s.%1$I, %2$s)) operator(pg_catalog.>=) '
        '(10::pg_catalog.numeric operator(pg_catalog.^) %3$s)',
        c.attname, ((c.typmod - 4) & 2047 # 1024) - 1024, ((c.typmod - 4) >> 16) - (((c.typmod - 4) & 2047 # 1024) - 1024)
      )
    end,
    'type',
    format('pg_catalog.concat(%L, s.%I)', format('does not fit column %s %s: ', quote_ident(c.attname), c.type_name), c.attname)
  from columns c
  join pg_type t on t.oid = c.type and t.typnamespace = 'pg_catalog'::regnamespace
  where c.typmod >= 0 and c.insertable and t.typname in ('varchar', 'bpchar', 'bit', 'varbit', 'numeric')
  union all
  select format('s."grace lost %s"', c.attnum), 'type', quote_literal(format('column %s: %s', quote_ident(c.attname), c.lost_reason))
  from columns c
  where c.lost is not null and c.value is distinct from 'null'
  union all
  select
    format('s."grace error %s" is not null', c.attnum), 'type',
    format('pg_catalog.concat(%L, s."grace error %s")', format('column %s: ', quote_ident(c.attname)), c.attnum)
  from columns c
  where careful and c.error is not null or c.cut is not null
  union all
  select
    format(
      'pg_catalog.num_nulls(%1$s) operator(pg_catalog.>) 0 and pg_catalog.num_nulls(%1$s) operator(pg_catalog.<) %2$s',
      string_agg(format('s.%I', k), ', '), cardinality(f.conkey)
    ),
    f.conname,
    quote_literal('the foreign key is MATCH FULL, and only some of its columns are null')
  from pg_constraint f
  cross join lateral unnest(grace_internal.column_names(f.conrelid, f.conkey)) k
  where f.conrelid = target and f.contype = 'f' and f.confmatchtype = 'f' and cardinality(f.conkey) > 1
  group by f.conname, f.conkey
  union all
  select
    format('not (%s)', string_agg(format('(%s)', r.fits), ' or ')),
    'partition',
    quote_literal(format('%s has no partition for the row', grace_internal.qualified_name(target)))
  from relations r
  where r.relkind <> 'p'
  having count(*) filter (where r.relation <> target) > 0
  union all
  select
    format('not (%s)', pg_get_partition_constraintdef(target)),
    'partition',
    quote_literal(format('the row does not belong into partition %s', grace_internal.qualified_name(target)))
  where pg_get_partition_constraintdef(target) is not null
  union all
  select format('not (%s)', p.allowed), 'row security', quote_literal(format('a policy does not let %I insert it', grace_internal.caller()))
  from grace_internal.insert_policies(target) as p (allowed)
  where p.allowed is not null
  union all
  select 'true', 'partition', quote_literal(format('%s has no partitions', grace_internal.qualified_name(target)))
  from pg_class r
  where r.oid = target and r.relkind = 'p' and not exists (select from pg_inherits i where i.inhparent = target)
$$;

-- A row's primary key as jsonb, or the whole row where there is none.
create or replace function grace_internal.key_expression(target regclass, alias text default 's')
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, %s.%I', k, alias, k), ', '))
      from pg_index i
      cross join lateral unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint [])) k
      where i.indrelid = target and i.indisprimary
      having count(*) > 0
    ),
    format(
      'pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(%s))',
      (
        select string_agg(format('%L, %s.%I', a.attname, alias, a.attname), ', ' order by a.attnum)
        from pg_attribute a
        where a.attrelid = target and a.attnum between 1 and 50 and not a.attisdropped
      )
    )
  )
$$;

-- What one unique index or exclusion constraint demands of rows s: which rows it applies to, and how a live row, or another selected
-- one (from %s, to be filled in), in conflict with it is found. An index may be partial or on expressions; those are evaluated over one
-- row source at a time, so that the column names in them can mean nothing else.
create or replace function grace_internal.unique_rule(
  index_relation oid,
  out name text, out excludes boolean, out column_names text, out key_columns text, out key_values text, out applies text,
  out live_match text, out selected_match text
)
returns setof record
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select
    c.relname,
    i.operators is not null,
    string_agg(k.definition, ', ' order by k.n),
    string_agg(k.value, ', ' order by k.n),
    format('pg_catalog.concat_ws('', '', %s)', string_agg(
      format('case when pg_catalog.num_nulls(%1$s) operator(pg_catalog.>) 0 then ''null'' else pg_catalog.concat(%1$s) end', k.value),
      ', ' order by k.n
    )),
    concat(
      case n.nulls
        when 'none' then string_agg(k.value || ' is not null', ' and ' order by k.n)
        when 'some' then format('(%s)', string_agg(k.value || ' is null', ' or ' order by k.n))
      end,
      ' and (select ' || i.predicate || ' from (select s.*) as "grace row")'
    ),
    format(
      '(select %s, r.* from %s%s r where %s) l where %s',
      string_agg(format('%s as "grace %s"', k.definition, k.n), ', ' order by k.n),
      case t.relkind when 'p' then '' else 'only ' end, grace_internal.qualified_name(i.indrelid),
      coalesce(i.predicate, 'true'), string_agg(e.equal, ' and ' order by k.n)
    ),
    format(
      '(select %s, r.* from %%s r where %s) l where %s',
      replace(string_agg(format('%s as "grace %s"', k.definition, k.n), ', ' order by k.n), '%', '%%'),
      replace(coalesce(i.predicate, 'true'), '%', '%%'),
      replace(string_agg(e.equal, ' and ' order by k.n), '%', '%%')
    )
  from (
    select
      x.indexrelid, x.indrelid, x.indnkeyatts, x.indkey, pg_get_expr(x.indpred, x.indrelid) as predicate,
      x.indnullsnotdistinct,
      (select o.conexclop from pg_constraint o where o.conindid = x.indexrelid and o.conexclop is not null limit 1) as operators
    from pg_index x
    where x.indexrelid = index_relation
  ) as i
  join pg_class c on c.oid = i.indexrelid
  join pg_class t on t.oid = i.indrelid
  cross join lateral (values ('none'), ('some')) as n (nulls)
  cross join lateral (
    select
      n,
      coalesce(quote_ident(a.attname), d.expression) as definition,
      case
        when a.attname is not null then format('s.%I', a.attname)
        else format('(select %s from (select s.*) as "grace row")', d.expression)
      end as value,
      coalesce(grace_internal.qualified_operator(i.operators[n]), grace_internal.equality(i.indexrelid, n)) as equals
    from generate_series(1, i.indnkeyatts) n
    cross join lateral (select pg_get_indexdef(i.indexrelid, n, false)) as d (expression)
    left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[n - 1] and a.attnum > 0
  ) as k
  cross join lateral (
    select case n.nulls
      when 'none' then format('l."grace %s" %s %s', k.n, k.equals, k.value)
      else format('(l."grace %1$s" %2$s %3$s or pg_catalog.num_nulls(l."grace %1$s", %3$s) operator(pg_catalog.=) 2)', k.n, k.equals, k.value)
    end
  ) as e (equal)
  where n.nulls = 'none' or i.indnullsnotdistinct
  group by c.relname, i.operators, i.indrelid, i.predicate, n.nulls, t.relkind
$$;
