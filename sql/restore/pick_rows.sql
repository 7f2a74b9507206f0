-- The rows for which a condition holds, with the caller's rights and search_path.
create or replace function grace._filter_rows(plan grace._restore_plan)
returns grace._row_ref []
language plpgsql
as $$
declare
  v_picks grace._row_ref [];
begin
  perform grace._check_predicate(plan.filter_source, plan.predicate);
  execute pg_catalog.format(
    e'select pg_catalog.array_agg("grace ref") from %s where (%s\n)', plan.filter_source, plan.predicate
  ) into v_picks using plan.picks;
  return coalesce(v_picks, array[]::grace._row_ref []);
end
$$;
comment on function grace._filter_rows(grace._restore_plan) is 'Internal: where the rows stand that meet a condition.';

-- Runs the query of a restore for its rows, among those that met a condition, if there was one. Errors: GR007 for keys that are not in
-- the buffer or a condition that no row meets, GR008 for a value of the wrong type.
create or replace function grace._pick_rows(plan grace._restore_plan, related boolean)
returns grace._row_ref []
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_picks grace._row_ref [] := plan.picks;
  v_missing text;
begin
  if plan.statement is not null then
    begin
      execute plan.statement into v_picks, v_missing using plan.picks;
    exception when data_exception then
      raise exception 'not a key of %', plan.target
        using errcode = 'GR008',
        detail = format('A value does not fit its column: %s', sqlerrm),
        hint = 'Give each value as the column''s type reads it.';
    end;
  end if;
  if v_missing is not null or coalesce(cardinality(v_picks), 0) = 0 then
    raise exception 'not in the buffer: %', coalesce(v_missing, 'any such row')
      using errcode = 'GR007',
      detail = 'No such row can be restored: it was not deleted, not as selected, is restored already, or has expired.',
      hint = format('Look at what there is: select * from grace.buffered(%L);', plan.target);
  end if;
  if related then
    v_picks := grace._add_related(v_picks);
  end if;
  return v_picks;
end
$$;
comment on function grace._pick_rows(grace._restore_plan, boolean) is
'Internal: where the rows stand that a restore selects.';
