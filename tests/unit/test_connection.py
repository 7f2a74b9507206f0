"""Connection strings and errors: what is typed is what libpq gets, and what it says is what is shown."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pg_grace.cluster import free_port
from pg_grace.connection import Target, connect
from pg_grace.errors import CommandError, Exit, describe, from_server
from tests.conftest import Database, value


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(), {}),
        (Target("shop"), {"dbname": "shop"}),
        (Target("the shop's"), {"dbname": "the shop's"}),
        (Target("shop", "db1", "5433", "app"), {"dbname": "shop", "host": "db1", "port": "5433", "user": "app"}),
        (Target("dbname=shop host=db1"), {"dbname": "shop", "host": "db1"}),
        (Target("dbname=shop host=db1", host="db2"), {"dbname": "shop", "host": "db2"}),
        (
            Target("postgresql://app@db1:5433/shop?sslmode=require", user="other"),
            {"dbname": "shop", "host": "db1", "port": "5433", "user": "other", "sslmode": "require"},
        ),
        (Target("service=shop"), {"service": "shop"}),
    ],
)
def test_a_target_becomes_a_connection_string(target: Target, expected: dict[str, str]) -> None:
    assert conninfo_to_dict(target.conninfo()) == expected


def test_a_connection_string_that_libpq_cannot_read_is_no_connection() -> None:
    with pytest.raises(CommandError) as caught:
        Target("nonsense=1").conninfo()
    assert caught.value.exit_code == Exit.NO_CONNECTION


def test_sessions_say_who_they_are_unless_told_otherwise(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(Target(db.conninfo)) as connection:
        assert value(connection, "select current_setting('application_name')") == "pg_grace"
    monkeypatch.setenv("PGAPPNAME", "nightly job")
    with connect(Target(db.conninfo)) as connection:
        assert value(connection, "select current_setting('application_name')") == "nightly job"


def test_notices_go_to_stderr(db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    with connect(Target(db.conninfo)) as connection:
        connection.execute("do $$ begin raise warning 'look out'; end $$")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "WARNING: look out\n")


def error(database: Database, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        database.connect().execute(statement.encode())
    return caught.value


def test_an_error_is_described_as_psql_shows_it(db: Database) -> None:
    raised = error(db, "do $$ begin raise 'what' using errcode = 'GR001', detail = 'why', hint = 'what to do'; end $$")
    assert describe(raised) == "what\nDETAIL:  why\nHINT:  what to do\nSQLSTATE: GR001"


def test_an_error_without_detail_and_hint_has_no_empty_lines(db: Database) -> None:
    assert describe(error(db, "select 1 / 0")) == "division by zero\nSQLSTATE: 22012"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("select 1 / 0", Exit.FAILED),
        ("select * from nope", Exit.FAILED),
        ("do $$ begin raise 'what' using errcode = 'GR001'; end $$", Exit.REFUSED),
        ("do $$ begin raise 'what' using errcode = '42501'; end $$", Exit.REFUSED),
    ],
)
def test_an_error_of_the_server_has_its_exit_code(db: Database, statement: str, code: Exit) -> None:
    assert from_server(error(db, statement)).exit_code == code


def test_a_session_that_the_server_ends_is_a_failure_and_not_a_traceback(db: Database) -> None:
    raised = error(db, "select pg_terminate_backend(pg_backend_pid())")
    assert from_server(raised).exit_code in (Exit.FAILED, Exit.NO_CONNECTION)


def test_nobody_listening_is_no_connection() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        connect(Target("shop", "127.0.0.1", str(free_port())))
    assert from_server(caught.value).exit_code == Exit.NO_CONNECTION
