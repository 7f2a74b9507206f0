-- The attribute numbers of the columns that are not to be captured. Errors: GR004 when a restore could not do without.
create or replace function grace_internal.check_excluded(target regclass, exclude_columns name [])
returns smallint []
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name name;
  v_column pg_attribute;
  v_result smallint [] := array[]::smallint [];
begin
  foreach v_name in array coalesce(exclude_columns, '{}') loop
    select a.* into v_column
    from pg_attribute a
    where a.attrelid = target and a.attname = v_name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'column % of % does not exist', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It is named in exclude_columns.',
        hint = format('The table''s columns: %s', (
          select string_agg(quote_ident(l.attname), ', ') from grace_internal.live_columns(target) l
        ));
    end if;
    if exists (
      select from pg_index i where i.indrelid = target and i.indisprimary and v_column.attnum = any (i.indkey)
    ) then
      raise exception 'column % of % can''t be excluded', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It belongs to the primary key, by which restored rows are known.',
        hint = 'Exclude other columns.';
    end if;
    if v_column.attnotnull and not v_column.atthasdef and v_column.attidentity = '' then
      raise exception 'column % of % can''t be excluded', quote_ident(v_name), target
        using errcode = 'GR004',
        detail = 'It is NOT NULL without a default, so no row could be restored without its value.',
        hint = 'Give the column a default, or capture it.';
    end if;
    v_result := v_result || v_column.attnum;
  end loop;
  return v_result;
end
$$;
