create or replace function grace._not_a_condition(predicate text, problem text)
returns void
language plpgsql
as $$
begin
  raise exception 'not a condition: %', predicate
    using errcode = 'GR022',
    detail = problem,
    hint = 'Give one condition on the columns of the table, as behind WHERE: amount > 100 and company ilike ''%GmbH%''.';
end
$$;
comment on function grace._not_a_condition(text, text) is 'Internal: refuses a text.';

-- One boolean expression over the columns of a FROM item, and nothing else: it has to fit twice where only an expression fits. Run with
-- the caller's rights and search_path. The text never stands beside a condition of ours, for it may hold an OR.
create or replace function grace._check_predicate(source text, predicate text)
returns void
language plpgsql
as $$
declare
  v_cursor pg_catalog.refcursor;
  v_perhaps text;
begin
  open v_cursor no scroll for execute pg_catalog.format(
    e'explain select 1 from %s where (%s\n)', source, predicate
  );
  close v_cursor;
  open v_cursor no scroll for execute pg_catalog.format(
    e'explain select case when (%s\n) then 1 end from %s where false', predicate, source
  );
  close v_cursor;
exception when syntax_error_or_access_rule_violation or invalid_cursor_definition or data_exception or feature_not_supported then
  if sqlstate operator(pg_catalog.=) '42501' then
    raise;
  end if;
  get stacked diagnostics v_perhaps = pg_exception_hint;
  perform grace._not_a_condition(predicate, pg_catalog.concat_ws(
    '. ', sqlerrm, case when v_perhaps operator(pg_catalog.<>) '' then v_perhaps end
  ));
end
$$;
comment on function grace._check_predicate(text, text) is 'Internal: refuses what is not one condition.';
