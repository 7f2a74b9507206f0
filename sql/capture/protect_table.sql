-- Registers one table and makes its buffer and function, or takes up again what is there; the triggers come later, under a
-- lock. Returns its id and what has become of it. Errors: those of check_protectable.
create or replace function grace_internal.protect_table(
  target regclass, retention interval, exclude_columns name [], files name [], follows_cascades boolean,
  out protected_id integer, out status text, out warning text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_protected grace_internal.protected;
begin
  perform grace_internal.check_protectable(target, exclude_columns, files);
  select p.* into v_protected from grace_internal.protected p where p.target = protect_table.target;
  protected_id := v_protected.id;
  if protected_id is null then
    protected_id := grace_internal.create_buffer(
      target, retention, grace_internal.check_excluded(target, exclude_columns), follows_cascades
    );
    status := 'protected';
  elsif v_protected.active then
    status := 'already protected';
    if cardinality(exclude_columns) > 0 then
      warning := 'What is captured of it stays as it is; to exclude columns, unprotect it with buffer => discard first.';
    elsif retention <> v_protected.retention then
      warning := format(
        'Its retention stays %s; to change it: select grace.set_retention(%L, %L);',
        v_protected.retention, target, retention
      );
    end if;
  else
    update grace_internal.protected p
    set active = true, retention = protect_table.retention, follows_cascades = protect_table.follows_cascades
    where p.id = protected_id;
    status := 'protected';
  end if;
  if status = 'protected' then
    update grace_internal.protected p
    set uncovered = array_remove(p.uncovered, protect_table.target)
    where protect_table.target = any (p.uncovered);
    perform grace_internal.sync_columns(protected_id);
    perform grace_internal.generate_capture(protected_id);
  end if;
  if cardinality(files) > 0 then
    perform grace_internal.declare_files(protected_id, files);
  end if;
end
$$;
