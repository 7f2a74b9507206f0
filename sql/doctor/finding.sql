do $$
begin
  if to_regtype('grace.finding') is null then
    create type grace.finding as (severity text, subject text, object text, finding text, hint text, fixable boolean);
    comment on type grace.finding is
    'What grace.doctor() has found: severity (problem or note), subject, the object concerned, what is wrong, what to do, and whether grace.sync() does it.';
  end if;
end
$$;
