-- The generated functions of tables that are protected already are written anew, as this version writes them.
do $$
declare
  v_id integer;
begin
  for v_id in
    select p.id
    from grace_internal.protected p
    where exists (select from pg_class c where c.oid = p.target)
  loop
    perform grace_internal.generate_capture(v_id);
  end loop;
end
$$;
