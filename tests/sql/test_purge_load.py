"""A purge beside transactions that stay open: it does what needs no lock of theirs, and leaves the rest, in short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def note(conn: Connection) -> Connection:
    conn.execute(
        b"create table note (id int primary key, text text); insert into note select n, 'n' from generate_series(1, 100) n"
    )
    conn.execute("select grace.protect('note')")
    return conn


def leaf(offset: int) -> str:
    return f"grace_internal.b1_{datetime.now(UTC) + timedelta(days=offset):%Y%m%d}"


def midnight(offset: int) -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=offset)


def fill_day(conn: Connection, offset: int, hours: float = 12, count: int = 10) -> None:
    """Make what a DELETE of an earlier day would have left: its leaf, its rows, its line in the log."""
    deleted_at = midnight(offset) + timedelta(hours=hours)
    with conn.transaction():
        if value(conn, f"select to_regclass('{leaf(offset)}')") is None:
            conn.execute("select grace_internal.create_leaf('b1', 'grace_buffer.note', %s)", (midnight(offset).date(),))
        deletion = value(conn, "select nextval('grace_internal.deletion_id')")
        conn.execute(
            "insert into grace_buffer.note select n, 'old', %s, %s from generate_series(1, %s) n",
            (deletion, deleted_at, count),
        )
        conn.execute(
            "insert into grace_internal.capture (deletion, deleted_at, protected_id, row_count, operation, role, login)"
            " values (%s, %s, 1, %s, 'DELETE', user, user)",
            (deletion, deleted_at, count),
        )


def purge(conn: Connection) -> tuple[Any, ...]:
    conn.execute("call grace.purge()")
    return rows(
        conn,
        "select status, row_count, coalesce(details -> 'left_for_next_run', '[]')"
        " from grace.runs where kind = 'purge' order by id desc limit 1",
    )[0]


@contextmanager
def locked(db: Database, statement: str) -> Iterator[Connection]:
    """Another session's transaction that has run a statement and stays open."""
    session = db.connect()
    with session.transaction():
        session.execute(statement.encode())
        yield session


def test_beside_an_open_deletion_an_expired_day_is_emptied_and_its_leaf_left(db: Database, note: Connection) -> None:
    fill_day(note, -31)
    for day in (13, 14):
        note.execute(f"drop table {leaf(day)}".encode())
    client = db.connect()
    with locked(db, "delete from note where id = 1") as holder:
        assert purge(note) == ("incomplete", 10, [f"drop {leaf(-31)} of public.note"])
        assert value(note, f"select pg_relation_size('{leaf(-31)}')") == 0
        assert value(note, f"select to_regclass('{leaf(14)}')") is not None  # to attach one locks nobody out
        client.execute("delete from note where id = 2")
        holder.execute("delete from note where id = 3")
    assert purge(note) == ("done", 0, [])
    assert value(note, f"select to_regclass('{leaf(-31)}')") is None
    assert value(note, "select count(*) from grace_buffer.note") == 3


def test_beside_an_open_deletion_in_the_default_partition_it_is_settled_later(db: Database, note: Connection) -> None:
    for (name,) in rows(note, "select name from grace_internal.leaves(1) where upper_bound > now()"):
        note.execute(f"drop table grace_internal.{name}".encode())
    fill_day(note, -31)
    client = db.connect()
    with locked(db, "delete from note where id = 1"):
        assert purge(note) == (
            "incomplete",
            10,
            [f"drop {leaf(-31)} of public.note", "prepare of public.note"],
        )
        client.execute("delete from note where id = 2")
    assert purge(note) == ("done", 0, [])
    assert value(note, "select count(*) from grace_internal.b1_default") == 0
    assert value(note, "select count(*) from grace_buffer.note") == 2


def test_with_a_whole_buffer_locked_nothing_more_is_waited_for(db: Database, note: Connection) -> None:
    """VACUUM locks the default partition alone: captures would wait for it, too, behind a purge that does."""
    fill_day(note, -31)
    with locked(db, "lock table grace_internal.b1_default in share update exclusive mode"):
        note.execute("set statement_timeout = '10s'")
        with pytest.raises(errors.LockNotAvailable):
            note.execute("select grace_internal.lock_buffer('grace_buffer.note')")
        assert purge(note) == ("incomplete", 10, [f"drop {leaf(-31)} of public.note"])
    assert purge(note) == ("done", 0, [])


@pytest.mark.parametrize("rest", [1, 0])
def test_of_a_big_day_what_has_expired_goes_and_the_rest_stays(note: Connection, rest: int) -> None:
    for hours in (0, 1):
        fill_day(note, -30, hours=hours / 3600, count=170_000)
    if rest:
        fill_day(note, -30, hours=24 - 1 / 3600, count=rest)
    note.execute("select grace.set_retention('note', %s)", (datetime.now(UTC) - midnight(-30) - timedelta(minutes=1),))
    assert value(note, f"select pg_table_size('{leaf(-30)}')") > 16 * 1024 * 1024
    assert purge(note) == ("done", 340_000, [])
    assert value(note, "select count(*) from grace_buffer.note") == rest
    assert (value(note, f"select pg_relation_size('{leaf(-30)}')") > 0) == bool(rest)


def test_rows_that_are_written_by_hand_stay_when_all_that_is_logged_has_expired(note: Connection) -> None:
    fill_day(note, -30, hours=0, count=340_000)
    note.execute("insert into grace_buffer.note values (1, 'mine', 1, %s)", (midnight(-30) + timedelta(hours=23.99),))
    note.execute("select grace.set_retention('note', %s)", (datetime.now(UTC) - midnight(-30) - timedelta(minutes=1),))
    assert purge(note)[0] == "done"
    assert rows(note, "select text from grace_buffer.note") == [("mine",)]
