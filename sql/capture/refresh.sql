-- What this version makes otherwise, for tables that are protected already: the generated functions, no statistics on columns of
-- the application's types, and triggers on tables whose links a deletion cuts, where the lock for them is free.
do $$
declare
  v_protected record;
  v_before text := current_setting('lock_timeout');
begin
  for v_protected in
    select p.id, c.oid is not null as is_there
    from grace_internal.protected p
    left join pg_class c on c.oid = p.target
  loop
    if v_protected.is_there then
      perform grace_internal.generate_capture(v_protected.id);
      perform set_config('lock_timeout', '10ms', true);
      perform grace_internal.follow_links(v_protected.id, repair => false);
      perform set_config('lock_timeout', v_before, true);
      perform grace_internal.generate_link(l.id, anew => true)
      from grace_internal.link l
      where l.protected_id = v_protected.id and l.active;
    end if;
    perform grace_internal.no_statistics(r.relation)
    from (
      select format('grace_buffer.%I', p.buffer) from grace_internal.protected p where p.id = v_protected.id
      union all
      select format('grace_internal.%I', c.relname)
      from pg_class c
      where c.relnamespace = 'grace_internal'::regnamespace and c.relkind = 'r'
        and c.relname >= format('b%s_', v_protected.id) and c.relname < format('b%s`', v_protected.id)
    ) as r (relation);
  end loop;
end
$$;
