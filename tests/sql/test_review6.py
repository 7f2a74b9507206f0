"""What a review of filters and rules found: ways to the rights of the owner of pg_grace, and ways to delete too much."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def keeper(role: Any) -> str:
    return str(role("keeper", "login"))


@pytest.fixture
def notes(conn: Connection, keeper: str) -> Connection:
    conn.execute(
        f"""
        create table note (id int primary key, at timestamptz, done boolean not null default true);
        create table witness (who text);
        insert into note select n, now() - n * interval '1 day' from generate_series(1, 50) n;
        create schema {keeper} authorization {keeper};
        grant select, update, delete on note to {keeper};
        grant insert on witness to public;
        grant grace_admin to {keeper};
        select grace.protect('note');
        """
    )
    return conn


def session_of(db: Database, role: str) -> Connection:
    return db.connect(user=role)


def test_reading_a_text_runs_nothing_as_the_owner_of_pg_grace(notes: Connection, db: Database, keeper: str) -> None:
    theirs = session_of(db, keeper)
    theirs.execute(
        f"""
        create function {keeper}.seen(t text) returns boolean language plpgsql
        as $$ begin raise notice 'as %', current_user; return true; end $$;
        create domain {keeper}.watched as text check ({keeper}.seen(value));
        """
    )
    heard: list[str] = []
    theirs.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
    constant = f"'{{a}}'::{keeper}.watched[] is not null"
    theirs.execute("select grace.add_filter('f', 'note', %s)", (constant,))
    theirs.execute(
        "select grace.add_rule('r', target => 'note', predicate => %s, starts => %s, period => '1 day', run_as => %s)",
        (constant, f"case when {constant} then at end", keeper),
    )
    theirs.execute("select grace.alter_filter('f', %s)", (f"not {constant}",))
    assert set(heard) == {f"as {keeper}"}
    assert value(notes, "select count(*) from pg_namespace where nspname ~ '^grace_expression'") == 0


@pytest.mark.parametrize(
    "function", ["_add_filter('x', 'note', %s, '{}', 'public')", "_alter_filter('f', %s, null, null, 'public')"]
)
def test_what_is_no_condition_is_not_run_as_the_owner_of_pg_grace(
    notes: Connection, db: Database, keeper: str, function: str
) -> None:
    notes.execute("select grace.add_filter('f', 'note', 'done')")
    theirs = session_of(db, keeper)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        theirs.execute(
            f"select grace.{function}", ("1); select pg_catalog.pg_read_file('postgresql.conf'); select (1",)
        )


def test_a_superuser_runs_no_domain_of_somebody_else_wherever_it_hides(
    notes: Connection, db: Database, keeper: str
) -> None:
    theirs = session_of(db, keeper)
    theirs.execute(f"create domain {keeper}.watched as text check (value <> '')")
    theirs.execute(f"create type {keeper}.pair as (a int, b {keeper}.watched[])")
    theirs.execute(f"select grace.add_filter('f', 'note', '''(1,{{a}})''::{keeper}.pair is not null')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="somebody else's code"):
        notes.execute("select grace.preview(filter => 'f')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="somebody else's code"):
        notes.execute("select grace.add_rule('r', filter => 'f')")


def test_a_domain_is_no_better_than_the_functions_of_its_checks(notes: Connection, db: Database, keeper: str) -> None:
    session_of(db, keeper).execute(
        f"create function {keeper}.seen(t text) returns boolean language sql as 'select true'"
    )
    notes.execute(f"create domain watched as text check ({keeper}.seen(value))")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="somebody else's code"):
        notes.execute("select grace.add_filter('f', 'note', '''a''::watched is not null')")


@pytest.mark.parametrize("where", ["condition", "trigger"])
def test_a_search_path_that_the_role_sets_does_not_outlast_it(notes: Connection, keeper: str, where: str) -> None:
    notes.execute(
        f"""
        create function {keeper}.aside() returns boolean language plpgsql stable
        as $$ begin perform set_config('search_path', '{keeper}, pg_catalog', false); return true; end $$;
        create function {keeper}.aside_too() returns trigger language plpgsql
        as $$ begin set search_path = {keeper}, pg_catalog; return null; end $$;
        """
    )
    for function, kind, body in (
        ("jsonb_strip_nulls(jsonb)", "jsonb", "$1"),
        ("cardinality(anyarray)", "int", "coalesce(array_length($1, 1), 0)"),
        ("clock_timestamp()", "timestamptz", "now()"),
        ("sign(double precision)", "double precision", "1"),
        ('jsonb_build_object(variadic "any")', "jsonb", "null"),
    ):
        if 'any"' not in function:
            notes.execute(
                f"create function {keeper}.{function} returns {kind} language plpgsql as"
                f" $$ begin insert into public.witness values (current_user); return {body}; end $$"
            )
    if where == "trigger":
        notes.execute(f"create trigger aside after delete on note for each row execute function {keeper}.aside_too()")
    predicate = f"done and {keeper}.aside()" if where == "condition" else "done"
    notes.execute(
        "select grace.add_rule('r', target => 'note', predicate => %s, run_as => %s, batch_size => 20)",
        (predicate, keeper),
    )
    before = value(notes, "show search_path")
    notes.execute("call grace.run('r')")
    assert rows(notes, "select distinct who from witness where who <> %s", keeper) == []
    assert value(notes, "show search_path") == before
    assert value(notes, "select count(*) from note") == 0


def test_a_role_that_breaks_off_a_statement_has_not_ended_it(notes: Connection, keeper: str) -> None:
    notes.execute(
        f"""
        create function {keeper}.off(n int) returns boolean language plpgsql stable
        as $$ begin if n > 20 then raise exception using errcode = 'GR099'; end if; return true; end $$;
        """
    )
    notes.execute(
        f"select grace.add_rule('r', target => 'note', predicate => '{keeper}.off(id)', run_as => '{keeper}')"
    )
    with pytest.raises(psycopg.Error) as caught:
        notes.execute("select grace.preview(rule => 'r')")
    assert caught.value.sqlstate == "GR099"


def test_settings_of_a_role_may_have_any_name(notes: Connection, keeper: str) -> None:
    notes.execute(f"""alter role {keeper} set "user".tenant = 'a''b'""")
    notes.execute(
        "select grace.add_rule('r', target => 'note',"
        " predicate => 'current_setting(''user.tenant'') = ''a''''b''', run_as => %s)",
        (keeper,),
    )
    assert value(notes, "select row_count from grace.preview(rule => 'r')") == 50


def test_a_run_leaves_buffer_and_log_as_any_delete_does(notes: Connection, keeper: str) -> None:
    notes.execute(f"select grace.add_rule('r', target => 'note', predicate => 'id <= 10', run_as => '{keeper}')")
    notes.execute("call grace.run('r')")
    notes.execute("delete from note where id = 11")
    assert rows(notes, "select * from grace.verify_buffer()") == []
    assert rows(notes, "select deleted_by, row_count from grace.deletions order by id") == [
        (keeper, 10),
        ("postgres", 1),
    ]


def test_nobody_signs_with_another_name(notes: Connection, keeper: str) -> None:
    notes.execute(f"set grace.acting_as = '{keeper} 0123456789abcdef0123456789abcdef'")
    notes.execute("delete from note where id = 11")
    assert value(notes, "select deleted_by from grace.deletions") == "postgres"


def test_a_run_deletes_no_more_than_its_limit_whatever_comes_to_match(notes: Connection, keeper: str) -> None:
    notes.execute(
        f"""
        update note set done = id <= 10;
        create function {keeper}.more() returns trigger language plpgsql security definer
        as $$ begin update public.note set done = true; return null; end $$;
        create trigger more after delete on note for each statement execute function {keeper}.more();
        """
    )
    notes.execute(
        f"select grace.add_rule('r', target => 'note', predicate => 'done', run_as => '{keeper}', max_rows => 15, batch_size => 5)"
    )
    notes.execute("call grace.run('r')")
    assert rows(
        notes, "select status, row_count, details #>> '{stopped,reason}' from grace.runs where kind = 'rule'"
    ) == [("incomplete", 15, "more rows have come to match than may be deleted at once")]
    assert value(notes, "select count(*) from note") == 35
    notes.execute("call grace.run('r')")
    assert value(notes, "select last_status from grace.rules") == "held"
    notes.execute("call grace.run('r', approve => true)")
    assert rows(notes, "select last_status, last_rows from grace.rules") == [("done", 35)]


def test_a_change_that_was_made_before_a_run_and_committed_during_it_stops_it(
    notes: Connection, db: Database, keeper: str
) -> None:
    notes.execute(
        "select grace.add_rule('r', target => 'note', predicate => 'id <= 10', run_as => %s, batch_size => 5, pause => '3 s')",
        (keeper,),
    )
    other = db.connect()
    other.execute("begin")
    other.execute("""select grace.alter_rule('r', '{"predicate": "true"}')""")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(notes.execute, "call grace.run('r')")
        while value(other, "select coalesce(max(batches), 0) from grace.runs where kind = 'rule'") == 0:
            assert not run.done()
        other.execute("commit")
        run.result()
    assert rows(notes, "select status, row_count from grace.runs where kind = 'rule'") == [("incomplete", 5)]


def test_final_by_due_takes_no_record_whose_period_is_shorter_than_the_retention(
    notes: Connection, keeper: str
) -> None:
    add = (
        "select grace.add_rule('r', target => 'note', starts => 'at', period => %s, run_as => %s, final_by_due => true)"
    )
    with pytest.raises(psycopg.Error, match="too short") as caught:
        notes.execute(add, ("31 days", keeper))
    assert caught.value.sqlstate == "GR031"
    notes.execute(add, ("40 days", keeper))
    assert value(notes, "select row_count from grace.preview(rule => 'r')") == 42
    notes.execute("select grace.set_retention('note', '60 days')")
    notes.execute("call grace.run('r')")
    assert rows(notes, "select last_status, problem from grace.rules") == [
        ("failed", "what it deletes is in the buffer for 2 mons 1 day, purge included, and its period is 40 days")
    ]
    assert value(notes, "select count(*) from note") == 50


def test_final_by_due_takes_no_record_whose_period_has_not_begun(notes: Connection, keeper: str) -> None:
    notes.execute("insert into note values (100, now() + interval '1 hour'), (101, now() - interval '1 hour')")
    notes.execute(
        "select grace.add_rule('r', target => 'note', starts => 'at', period => '40 days', run_as => %s,"
        " final_by_due => true, schedule => '0 3 1 1 *')",
        (keeper,),
    )
    notes.execute("call grace.run('r')")
    assert rows(notes, "select id from note where id >= 100") == [(100,)]


def test_what_inherits_from_what_is_kept_is_kept(notes: Connection, keeper: str) -> None:
    notes.execute(
        f"""
        create table paper (id int primary key, on_day date);
        create table invoice (primary key (id)) inherits (paper);
        insert into invoice values (1, current_date);
        grant select, delete on paper, invoice to {keeper};
        select grace.protect('paper');
        select grace.add_rule('k', target => 'paper', action => 'keep', starts => 'on_day', period => '8 years');
        select grace.add_rule('r', target => 'invoice', run_as => '{keeper}');
        """
    )
    notes.execute("call grace.run('r')")
    assert value(notes, "select count(*) from invoice") == 1


def test_an_auditor_sees_what_is_planned_but_no_content(
    notes: Connection, db: Database, keeper: str, role: Any
) -> None:
    auditor, operator = role("auditor"), role("operator")
    notes.execute(f"grant grace_auditor to {auditor}; grant grace_operator to {operator}")
    notes.execute(
        f"select grace.add_rule('r', target => 'note', predicate => 'id = 1', run_as => '{keeper}', columns => '{{done}}')"
    )
    planned = "select record_key, record from grace.planned(rule => 'r')"
    assert rows(session_of(db, auditor), planned) == [({"id": 1}, None)]
    assert rows(session_of(db, operator), planned) == [({"id": 1}, {"done": True})]


def test_names_in_texts_that_stay_mean_what_they_meant(notes: Connection, keeper: str) -> None:
    notes.execute(
        f"""
        create schema a; create schema b;
        create table a.mail (note_id int references note on delete cascade, sent_at timestamptz);
        create table b.mail (note_id int references note on delete cascade, sent_at timestamptz);
        create table b.other (note_id int);
        grant usage on schema a, b to {keeper};
        grant select on a.mail, b.mail, b.other to {keeper};
        set search_path = a, public;
        select grace.add_rule(
          'r', target => 'note', activities => '{{mail.sent_at via note_id}}', period => '1 year', run_as => '{keeper}'
        );
        set search_path = b;
        """
    )
    change = "select grace.alter_rule('r', %s)"
    notes.execute(change, ('{"predicate": "not exists (select from other o where o.note_id = note.id)"}',))
    assert rows(notes, "select starts ~ ' a.mail ', condition ~ ' b.other ' from grace.rules") == [(True, True)]
    notes.execute(change, ('{"predicate": null, "activities": ["mail.sent_at via note_id"]}',))
    assert value(notes, "select starts ~ ' b.mail ' from grace.rules") is True


def test_who_exempts_a_record_that_is_just_being_deleted_is_told(notes: Connection, db: Database, keeper: str) -> None:
    notes.execute(
        f"""
        create function {keeper}.slow() returns trigger language plpgsql
        as $$ begin perform pg_sleep(2); return null; end $$;
        create trigger slow after delete on note for each statement execute function {keeper}.slow();
        """
    )
    notes.execute(
        f"select grace.add_rule('r', target => 'note', predicate => 'id <= 2', run_as => '{keeper}', batch_size => 1)"
    )
    other = db.connect()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(notes.execute, "call grace.run('r')")
        while not value(other, "select exists (select from pg_stat_activity where wait_event = 'PgSleep')"):
            assert not run.done()
        with pytest.raises(psycopg.Error) as caught:
            other.execute("select grace.exempt('r', '1', 'too late')")
        other.execute("select grace.exempt('r', '50', 'in time')")
        run.result()
    assert caught.value.sqlstate == "GR008"


def test_what_must_be_kept_saves_its_record_also_when_it_comes_during_a_batch(
    notes: Connection, db: Database, keeper: str
) -> None:
    """The look at what is kept takes a while here; who adds something waits from before it on."""
    notes.execute(
        f"""
        create table paper (id int primary key, note_id int references note on delete cascade, on_day date);
        create index on paper (note_id);
        insert into paper values (1, 1, current_date);
        grant select on paper to {keeper};
        create function slow(d date) returns date language plpgsql stable as $$ begin perform pg_sleep(2); return d; end $$;
        select grace.protect('note');
        select grace.add_rule('k', target => 'paper', action => 'keep', starts => 'slow(on_day)', period => '8 years');
        select grace.add_rule('r', target => 'note', predicate => 'id <= 2', run_as => '{keeper}');
        """
    )
    other = db.connect()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(notes.execute, "call grace.run('r')")
        while not value(
            other,
            "select exists (select from pg_stat_activity where wait_event = 'PgSleep')"
            " and exists (select from grace.runs where status = 'running')",
        ):
            assert not run.done()
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            other.execute("insert into paper values (2, 2, current_date)")
        run.result()
    assert rows(notes, "select id from note where id <= 2") == [(1,)]
