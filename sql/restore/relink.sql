-- Links that the deletions had cut (ON DELETE SET NULL or SET DEFAULT) and that lead to rows that are selected, from rows that still have
-- what they were set to: for each foreign key the query that counts them, and the statement that ties them again and counts those that
-- do not come back themselves. Of several cuts of one row the last one counts. A foreign key that is gone has none. A row that was
-- cut and then deleted, too, and comes back without what it referred to is tied to that if it is there again.
create or replace function grace_internal.relink_statements(plan grace._restore_plan)
returns table (protected_id integer, child regclass, counting text, tying text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_link record;
  v_key record;
  v_columns record;
  v_relation text;
  v_cuts text;
  v_matches text;
  v_own text; -- the rows of the referencing table that come back themselves
begin
  for v_link in
    select l.*, c.relkind, i.indexrelid, f.conpfeqop, own.id as own, w.by_child, p.target as parent, t.relkind as parent_kind
    from grace_internal.link_map l
    join pg_class c on c.oid = l.child
    join pg_index i
      on i.indrelid = l.child and i.indisprimary
      and grace_internal.column_names(i.indrelid, i.indkey::smallint []) = l.key_names
    join lateral (
      select f.conpfeqop
      from pg_constraint f
      where f.contype = 'f' and f.conrelid = l.child
        and grace_internal.column_names(f.conrelid, f.conkey) = l.column_names
        and grace_internal.column_names(f.confrelid, f.confkey) = l.parent_names
      limit 1
    ) as f on true
    join grace_internal.protected p on p.id = l.protected_id
    join pg_class t on t.oid = p.target
    left join grace_internal.protected own on own.target = l.child and own.id = any (plan.protected_ids)
    cross join (values (false), (true)) as w (by_child)
    where case when w.by_child then own.id is not null else l.protected_id = any (plan.protected_ids) end
      and exists (select from grace_internal.cut u where u.link = l.link and u.deletion = any (plan.deletions))
  loop
    select
      string_agg(format('y.child_key[%s]::%s', u.n, t.type_name), ', ' order by u.n) as values,
      string_agg(format('y.child_key[%s]::%s as "grace key %1$s"', u.n, t.type_name), ', ' order by u.n) as named,
      string_agg(
        format('c.%I %s x."grace key %s"', u.name, grace_internal.equality(v_link.indexrelid, u.n::integer), u.n), ' and '
      ) as matches,
      string_agg(
        format(
          's."grace %1$s" %2$s y.child_key[%1$s]::%3$s', u.n, grace_internal.equality(v_link.indexrelid, u.n::integer), t.type_name
        ), ' and '
      ) as selected,
      string_agg(format('c.%I', u.name), ', ') as columns
    into v_key
    from unnest(v_link.key_names) with ordinality as u (name, n)
    join pg_attribute a on a.attrelid = v_link.child and a.attname = u.name
    cross join lateral (select format_type(a.atttypid, a.atttypmod)) as t (type_name);

    select
      string_agg(
        format('y.former[%1$s]::%2$s as "grace former %1$s", y.replaced_by[%1$s]::%2$s as "grace now %1$s"', u.n, t.type_name), ', '
      ) as named,
      string_agg(format('c.%I is not distinct from x."grace now %s"', u.name, u.n), ' and ') as unchanged,
      string_agg(format('%I = x."grace former %s"', u.name, u.n), ', ') filter (where u.name = any (v_link.set_names)) as assignments,
      string_agg(format('p."grace %s" %s y.former[%1$s]::%3$s', u.n, o.operator, t.type_name), ' and ') as leads_to,
      string_agg(format('%s as "grace %s"', u.expression, u.n), ', ') as parent,
      string_agg(format('p.%I as "grace %s"', u.parent_name, u.n), ', ') as live
    into v_columns
    from unnest(
      v_link.column_names, v_link.parent_names, v_link.conpfeqop,
      grace_internal.buffer_values(
        v_link.protected_id, (select p.target from grace_internal.protected p where p.id = v_link.protected_id),
        array(
          select a.attnum
          from grace_internal.protected p
          cross join lateral unnest(v_link.parent_names) with ordinality as n (name, n)
          join pg_attribute a on a.attrelid = p.target and a.attname = n.name
          where p.id = v_link.protected_id
          order by n.n
        ), 'b'
      )
    ) with ordinality as u (name, parent_name, operator_oid, expression, n)
    join pg_attribute a on a.attrelid = v_link.child and a.attname = u.name
    cross join lateral (select format_type(a.atttypid, a.atttypmod)) as t (type_name)
    cross join lateral (select grace_internal.qualified_operator(u.operator_oid)) as o (operator);

    if v_link.own is not null then
      v_own := format(
        '(select %s %s) s',
        (
          select string_agg(format('%s as "grace %s"', k.expression, k.n), ', ')
          from unnest(grace_internal.key_values(v_link.own)) with ordinality as k (expression, n)
        ),
        grace_internal.restore_source(v_link.own, plan)
      );
    end if;
    v_cuts := format(
      '(select distinct on (%1$s) %2$s, %3$s from grace._cut_links(%4$s, %5$L::pg_catalog.int8[]) y '
      'where exists (select from (select %6$s) p where %7$s)%8$s order by %1$s, y.deletion desc, y.place desc) x',
      v_key.values, v_key.named, v_columns.named, v_link.link, plan.deletions,
      case
        when v_link.by_child then format(
          '%s from %s%s p', v_columns.live, case v_link.parent_kind when 'p' then '' else 'only ' end,
          grace_internal.qualified_name(v_link.parent)
        )
        else concat(v_columns.parent, ' ', grace_internal.restore_source(v_link.protected_id, plan))
      end,
      v_columns.leads_to,
      case when v_link.by_child then format(' and exists (select from %s where %s)', v_own, v_key.selected) end
    );
    v_matches := v_key.matches || ' and ' || v_columns.unchanged;
    v_relation := case v_link.relkind when 'p' then '' else 'only ' end || grace_internal.qualified_name(v_link.child);

    protected_id := case when v_link.by_child then v_link.own else v_link.protected_id end;
    child := v_link.child;
    counting := case
      when v_link.by_child then 'select 0'
      else format('select pg_catalog.count(*) from %s c join %s on %s', v_relation, v_cuts, v_matches)
    end;
    tying := format(
      'with u as (update %s c set %s from %s where %s returning %s) select pg_catalog.count(*) from u%s',
      v_relation, v_columns.assignments, v_cuts, v_matches, v_key.columns,
      case when v_link.own is not null then
        format(' where not exists (select from %s where %s)', v_own, grace_internal.key_match(v_link.own, 'u', 's'))
      end
    );
    return next;
  end loop;
end
$$;
