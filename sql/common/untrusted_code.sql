-- Code that planning a query on a table would run with the rights of whoever plans: the planner evaluates calls of functions that
-- are labelled IMMUTABLE in index expressions and predicates, in extended statistics and in partition keys, and the label may be
-- false. Functions of superusers and of the current role are trusted. Returns the first one that is not, as text, else null.
create or replace function grace_internal.untrusted_code(relation oid)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select t.relation from grace_internal.partition_tree(relation) as t (relation)
  ),
  objects (class_id, id) as (
    select 'pg_class'::regclass, t.relation from tables t
    union all
    select 'pg_class'::regclass, i.indexrelid from tables t join pg_index i on i.indrelid = t.relation
    union all
    select 'pg_statistic_ext'::regclass, s.oid from tables t join pg_statistic_ext s on s.stxrelid = t.relation
  )
  select min(format('function %s of role %I', f.oid::regprocedure, r.rolname))
  from objects o
  join pg_depend d on d.classid = o.class_id and d.objid = o.id and d.objsubid = 0
  left join pg_operator p on d.refclassid = 'pg_operator'::regclass and p.oid = d.refobjid
  join pg_proc f on f.oid = case d.refclassid when 'pg_proc'::regclass then d.refobjid else p.oprcode end
  join pg_roles r on r.oid = f.proowner
  where not r.rolsuper and r.rolname <> current_user
$$;

-- Errors: GR010 when a table can't be read without running such code.
create or replace function grace_internal.require_trusted_code(relation oid, instead text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text := grace_internal.untrusted_code(relation);
begin
  if v_code is not null then
    raise exception '% can''t be read by pg_grace', grace_internal.qualified_name(relation)
      using errcode = 'GR010',
      detail = format('Its indexes, statistics or partition keys use %s, which would run with the rights of %I.', v_code, current_user),
      hint = instead;
  end if;
end
$$;
