"""What a review of restoring found and made fail: each stays as a plain test."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value

ALL = "deleted_from => now() - interval '1 hour'"


def protected(conn: Connection, *statements: str) -> None:
    """Run statements; what is deleted by the last one can be restored."""
    for statement in statements:
        conn.execute(statement.encode())


@pytest.mark.parametrize("change", ["type text", "type integer using a::integer"])
def test_a_snapshot_from_before_a_change_of_type_loses_no_value(db: Database, conn: Connection, change: str) -> None:
    protected(
        conn,
        "create table t (id int primary key, a varchar(10))",
        "select grace.protect('t')",
        "insert into t values (1, '7')",
        "delete from t",
    )
    session = db.connect()
    session.execute("begin isolation level repeatable read")
    session.execute("select 1")
    conn.execute(f"alter table t alter a {change}".encode())
    with pytest.raises(psycopg.errors.SerializationFailure, match="was changed while rows of it were restored"):
        session.execute(f"select grace.restore('t', {ALL})".encode())
    session.execute("rollback")
    assert value(session, f"select restored from grace.restore('t', {ALL})") == 1
    assert value(conn, "select a::text from t") == "7"


@pytest.mark.parametrize("change", ["alter table t alter a type integer using 0", "alter table t drop a, add a text"])
def test_a_change_that_is_open_while_a_restore_is_planned_loses_no_value(
    db: Database, conn: Connection, change: str
) -> None:
    protected(
        conn,
        "create table t (id int primary key, a text)",
        "select grace.protect('t')",
        "insert into t values (1, '7')",
        "delete from t",
    )
    changing, restoring = db.connect(), db.connect()
    changing.execute("begin")
    changing.execute(change.encode())
    errors: list[Any] = []

    def restore() -> None:
        try:
            restoring.execute(f"select grace.restore('t', {ALL})".encode())
        except psycopg.Error as error:
            errors.append(error.sqlstate)

    thread = threading.Thread(target=restore)
    thread.start()
    while not value(
        conn, "select exists (select from pg_locks where not granted and pid = %s)", restoring.info.backend_pid
    ):
        thread.join(0.05)
    changing.execute("commit")
    thread.join()
    assert errors == ["40001"]
    assert value(conn, "select count(*) from grace_buffer.t") == 1


def test_an_exclusion_constraint_on_a_column_whose_name_holds_the_name_of_a_source(conn: Connection) -> None:
    protected(
        conn,
        'create table t (id int primary key, slots_at int4range, "100%s_" int, exclude using gist (slots_at with &&))',
        "select grace.protect('t')",
        "insert into t values (1, '[1,5)'), (2, '[6,9)')",
        "delete from t where id = 1",
        "delete from t where id = 2",
    )
    assert rows(conn, f"select restored, conflicts from grace.restore('t', {ALL}, dry_run => true)") == [(2, [])]


def test_a_copy_goes_into_a_table_that_has_more_columns(conn: Connection) -> None:
    protected(
        conn,
        "create table t (id int primary key)",
        "create table copied (id int, noted text default 'here', number int generated always as identity)",
        "select grace.protect('t')",
        "insert into t values (7)",
        "delete from t",
    )
    conn.execute("select grace.restore('t', keys => '7', into_table => 'copied')")
    assert rows(conn, "select * from copied") == [(7, "here", 1)]


def test_replacing_is_refused_where_an_identity_can_not_be_written(conn: Connection) -> None:
    protected(
        conn,
        "create table t (id int primary key, number int generated always as identity)",
        "select grace.protect('t')",
        "insert into t values (1)",
        "delete from t",
        "insert into t values (1)",
    )
    with pytest.raises(psycopg.Error) as error:
        conn.execute("select grace.restore('t', keys => '1', on_conflict => 'replace')")
    assert error.value.sqlstate == "GR011"
    assert rows(conn, "select number from grace_buffer.t") == [(1,)]


def test_rows_that_are_nothing_but_a_key_are_replaced(conn: Connection) -> None:
    protected(
        conn,
        "create table t (a int, b int, primary key (a, b))",
        "select grace.protect('t')",
        "insert into t values (1, 1), (1, 2)",
        "delete from t",
        "insert into t values (1, 1)",
    )
    assert rows(conn, f"select restored, replaced from grace.restore('t', {ALL}, on_conflict => 'replace')") == [(2, 1)]
    assert rows(conn, "select * from t order by b") == [(1, 1), (1, 2)]


def test_a_key_that_is_given_does_not_go_with_replace(conn: Connection) -> None:
    protected(
        conn,
        "create table t (id int primary key, v text)",
        "select grace.protect('t')",
        "insert into t values (1, 'old')",
        "delete from t",
        "insert into t values (1, 'live')",
    )
    with pytest.raises(psycopg.Error) as error:
        conn.execute("select grace.restore('t', keys => '1', on_conflict => 'replace', set_values => '{\"id\": 2}')")
    assert error.value.sqlstate == "GR023"
    assert rows(conn, "select v from t") == [("live",)]


@pytest.mark.parametrize("condition", ["id = 99", "null"])
def test_a_condition_that_no_row_meets_is_said_to_be_one(conn: Connection, condition: str) -> None:
    protected(
        conn,
        "create table t (id int primary key)",
        "select grace.protect('t')",
        "insert into t values (1)",
        "delete from t",
    )
    with pytest.raises(psycopg.Error) as error:
        conn.execute(f"select grace.restore('t', predicate => '{condition}', dry_run => true)".encode())
    assert error.value.sqlstate == "GR007"


def test_values_that_a_cast_does_not_keep_are_listed_as_left_behind(conn: Connection) -> None:
    protected(
        conn,
        "create table t (id int primary key, n numeric)",
        "select grace.protect('t')",
        "insert into t values (1, 2.7), (2, 3), (3, null)",
        "delete from t",
        "alter table t alter n type int using 0",
    )
    done = rows(conn, f"select left_behind from grace.restore('t', {ALL})")
    assert done == [([{"rows": 1, "column": "n_former1", "values": [{"key": {"id": 1}, "value": 2.7}]}],)]
    assert rows(conn, "select n from t order by id") == [(3,), (3,), (None,)]


@pytest.mark.parametrize("action", ["set null", "no action deferrable initially deferred"])
def test_replacing_changes_no_key_that_others_refer_to(conn: Connection, action: str) -> None:
    protected(
        conn,
        "create table t (id int primary key, code text unique)",
        f"create table c (id int primary key, code text references t (code) on update {action})",
        "select grace.protect('t')",
        "insert into t values (1, 'old')",
        "delete from t",
        "insert into t values (1, 'new')",
        "insert into c values (1, 'new')",
    )
    with pytest.raises(psycopg.Error) as error:
        conn.execute("select grace.restore('t', keys => '1', on_conflict => 'replace')")
    assert error.value.sqlstate == "GR011"
    assert "public.c refers to (code)=(new), which would change" in str(error.value.diag.message_detail)
    assert rows(conn, "select code from c") == [("new",)]


def test_a_right_on_some_columns_is_not_enough_and_the_dry_run_knows(conn: Connection, role: Any, db: Database) -> None:
    operator = role("operator", "login in role grace_operator")
    protected(
        conn,
        "create table t (id int primary key, v text)",
        f"grant insert (id), select on t to {operator}",
        "select grace.protect('t')",
        "insert into t values (1, 'x')",
        "delete from t",
    )
    session = db.connect(user=operator)
    for options in ("", ", dry_run => true"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(f"select grace.restore('t', keys => '1'{options})".encode())
    assert value(conn, "select count(*) from grace_buffer.t") == 1
