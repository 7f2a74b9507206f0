-- One field of a schedule: its elements in order, or in words what is wrong with it. A name is its place in the list of names.
create or replace function grace_internal.read_schedule_field(
  field text, lowest integer, highest integer, names text [], out elements integer [], out problem text
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_item text;
  v_parts text [];
  v_word text;
  v_number numeric;
  v_bounds integer [];
begin
  -- What stands in most fields, and is read for each record that is looked up.
  if field = '*' then
    elements := array(select s.n from generate_series(lowest, highest) as s (n));
    return;
  elsif field ~ '^[0-9]{1,2}$' and field::integer between lowest and highest then
    elements := array[field::integer];
    return;
  end if;
  elements := '{}';
  foreach v_item in array string_to_array(field, ',') loop
    -- pg_cron ignores what stands behind something valid (5.5 is 5 to it). That is a mistake, and is refused.
    v_parts := regexp_match(v_item, '^(?:([*])|([0-9a-zA-Z]+)(?:-([0-9a-zA-Z]+))?)(?:/([0-9]+))?$');
    problem := case
      when v_item = '' then 'before and behind a comma there must be something'
      when v_parts is null then format('%L is no number, range or *', v_item)
      when v_parts[2] is not null and v_parts[3] is null and v_parts[4] is not null
        then format('in %L a step follows a single value; it needs a range (%s-%s/%s)', v_item, v_parts[2], highest, v_parts[4])
      when v_parts[4] ~ '^0+$' then format('the step in %L is 0', v_item)
      -- There pg_cron's integers overflow.
      when length(ltrim(v_parts[4], '0')) > 9 then format('the step in %L is too large', v_item)
    end;
    exit when problem is not null;
    v_bounds := case when v_parts[1] is null then '{}' else array[lowest, highest] end;
    foreach v_word in array array_remove(v_parts[2:3], null) loop
      v_number := case
        when v_word ~ '^[0-9]+$' then v_word::numeric
        else array_position(names, lower(v_word collate "C")) + lowest - 1
      end;
      problem := case
        when v_number is null and names is null then format('%L is no number', v_word)
        when v_number is null then format('%L is neither a number nor one of %s', v_word, array_to_string(names, ', '))
        when v_number not between lowest and highest then format('%s is not between %s and %s', v_word, lowest, highest)
      end;
      exit when problem is not null;
      v_bounds := v_bounds || v_number::integer;
    end loop;
    if problem is null and v_bounds[1] > v_bounds[2] then
      problem := format('%L ends before it begins', v_item);
    end if;
    exit when problem is not null;
    elements := elements || array(
      select s.n from generate_series(v_bounds[1], coalesce(v_bounds[2], v_bounds[1]), coalesce(v_parts[4], '1')::integer) as s (n)
    );
  end loop;
  elements := array(select distinct e.n from unnest(elements) as e (n) order by e.n);
end
$$;

-- A schedule as pg_cron reads it, without @reboot and intervals of seconds. weekdays: 0 is Sunday. either_day: day of month or day of
-- week, else both; it is so unless one of the two fields begins with a star, whatever follows the star.
-- Errors: GR024 for what is no schedule, or never comes.
create or replace function grace_internal.read_schedule(
  schedule text,
  out minutes integer [], out hours integer [], out days integer [], out last_day boolean,
  out months integer [], out weekdays integer [], out either_day boolean
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := ltrim(rtrim(schedule, e' \t\n'), e' \t\n');
  v_fields text [] := regexp_split_to_array(
    case v_text
      when '@hourly' then '0 * * * *'
      when '@daily' then '0 0 * * *'
      when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0'
      when '@monthly' then '0 0 1 * *'
      when '@yearly' then '0 0 1 1 *'
      when '@annually' then '0 0 1 1 *'
      else v_text
    end, e'[ \t]+'
  );
  v_names constant text [] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
  v_elements integer [];
  v_problem text;
begin
  v_problem := case
    when schedule is null then 'It is null.'
    when v_text = '' then 'It is empty.'
    when octet_length(schedule) >= 1000 then 'It is longer than 999 bytes, which pg_cron does not take.'
    when v_fields[1] like '@%' then 'Of words there are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.'
    when cardinality(v_fields) <> 5 then format(
      'It has %s field%s and needs five: %s.',
      cardinality(v_fields), case when cardinality(v_fields) > 1 then 's' end, array_to_string(v_names, ', ')
    )
  end;
  last_day := coalesce(v_fields[3] = '$', false);
  either_day := coalesce(v_fields[3] not like '*%' and v_fields[5] not like '*%', false);
  for v_number in 1..5 loop
    exit when v_problem is not null;
    if v_number = 3 and v_fields[3] like '%$%' then
      v_elements := '{}';
      v_problem := case when not last_day then '$, the last day of the month, stands alone' end;
    else
      select f.elements, f.problem into v_elements, v_problem
      from grace_internal.read_schedule_field(
        v_fields[v_number], (array[0, 0, 1, 1, 0])[v_number], (array[59, 23, 31, 12, 7])[v_number],
        case v_number
          when 4 then array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
          when 5 then array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
        end
      ) as f;
    end if;
    v_problem := format('The %s is %L: ', v_names[v_number], v_fields[v_number]) || v_problem || '.';
    case v_number
      when 1 then minutes := v_elements;
      when 2 then hours := v_elements;
      when 3 then days := v_elements;
      when 4 then months := v_elements;
      when 5 then weekdays := array(select distinct e.n % 7 from unnest(v_elements) as e (n) order by 1);
    end case;
  end loop;
  if v_problem is null and not either_day and not last_day
    and days[1] > (select max(case when m.n = 2 then 29 when m.n in (4, 6, 9, 11) then 30 else 31 end) from unnest(months) as m (n))
  then
    v_problem := format('The day of month is %L: it never comes in the month %L.', v_fields[3], v_fields[4]);
  end if;
  if v_problem is not null then
    raise exception 'not a schedule: %', coalesce(quote_literal(schedule), 'null')
      using errcode = 'GR024', detail = v_problem,
      hint = 'Give minute, hour, day of month, month and day of week as pg_cron takes them: ''5 0 * * *'' is every day at 00:05, '
      '''0 3 * * mon'' every Monday at 03:00; or @daily, @weekly, @monthly.';
  end if;
end
$$;
