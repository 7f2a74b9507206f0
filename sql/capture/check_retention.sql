-- Errors: GR005 for a retention that is not between one second and 100 years.
create or replace function grace_internal.check_retention(retention interval)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if retention is null
    or extract(epoch from retention) < 1
    or extract(epoch from retention) > extract(epoch from interval '100 years')
  then
    raise exception 'retention % is not possible', coalesce(quote_literal(retention), 'null')
      using errcode = 'GR005',
      detail = 'It says for how long a deleted row can be restored: at least one second, at most 100 years.',
      hint = 'Give it as an interval, for example ''30 days''.';
  end if;
end
$$;
