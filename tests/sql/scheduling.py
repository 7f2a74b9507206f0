"""What the tests of what runs by itself share: time that passes, and what is sent on channel grace."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value

DAY = timedelta(days=1)


def let_pass(conn: Connection, by: timedelta = DAY) -> None:
    """Make all that has been done by jobs so far older; a day has every hour, so a daily job's turn has come since."""
    conn.execute(
        "update grace_internal.job set changed_at = changed_at - %(by)s, claimed_at = claimed_at - %(by)s", {"by": by}
    )
    conn.execute(
        "update grace_internal.run set started_at = started_at - %(by)s, finished_at = finished_at - %(by)s", {"by": by}
    )


def purges(conn: Connection) -> list[tuple[Any, ...]]:
    """Return job and status of every purge, in order."""
    return rows(conn, "select job, status from grace.runs where kind = 'purge' order by id")


def make_older(conn: Connection, table: str, days: float, deletion: int | None = None) -> None:
    """Make what is buffered of a table, all or of one deletion, older; the days get their leaves."""
    number, buffer = rows(
        conn, "select id, quote_ident(buffer) from grace_internal.protected where target = %s::regclass", table
    )[0]
    chosen = {"number": number, "by": timedelta(days=days), "deletion": deletion}
    with conn.transaction():
        for (day,) in rows(
            conn,
            "select distinct ((deleted_at - %s) at time zone 'UTC')::date from grace_internal.capture where protected_id = %s",
            chosen["by"],
            number,
        ):
            if value(conn, "select to_regclass(%s)", f"grace_internal.b{number}_{day:%Y%m%d}") is None:
                conn.execute(
                    "select grace_internal.create_leaf(%s, %s, %s)", (f"b{number}", f"grace_buffer.{buffer}", day)
                )
        conn.execute(
            f"update grace_buffer.{buffer} set grace_deleted_at = grace_deleted_at - %(by)s"
            " where grace_deletion = coalesce(%(deletion)s, grace_deletion)".encode(),
            chosen,
        )
        conn.execute(
            "update grace_internal.capture set deleted_at = deleted_at - %(by)s"
            " where protected_id = %(number)s and deletion = coalesce(%(deletion)s, deletion)",
            chosen,
        )


def leaf(number: int, days: int) -> str:
    """Return the name of a buffer's leaf for a day that is so many days ahead."""
    return f"grace_internal.b{number}_{datetime.now(UTC) + timedelta(days=days):%Y%m%d}"


def listen(db: Database) -> Connection:
    listener = db.connect()
    listener.execute("listen grace")
    return listener


def heard(listener: Connection) -> list[dict[str, Any]]:
    """Return what has been sent since the last call."""
    listener.execute("select 1")
    return [json.loads(notification.payload) for notification in listener.notifies(timeout=0.2)]


def wait_until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.02)


def at_once(sessions: list[Connection], statement: str) -> list[psycopg.Error]:
    """Run a statement in several sessions at the same moment; return the errors."""
    barrier = threading.Barrier(len(sessions))
    errors: list[psycopg.Error] = []

    def call(session: Connection) -> None:
        barrier.wait()
        try:
            session.execute(statement.encode())
        except psycopg.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@contextmanager
def in_the_middle(db: Database, statement: str, lock: str) -> Iterator[Connection]:
    """Let another session run a statement up to a lock; it ends by what the block does to it, or when the block has ended."""
    holder, other = db.connect(), db.connect()
    holder.execute("begin")
    holder.execute(lock.encode())

    def call() -> None:
        with suppress(psycopg.Error):
            other.execute(statement.encode())

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(
        lambda: value(
            holder,
            "select count(*) from pg_locks where pid = %s and not granted",
            other.info.backend_pid,
        )
    )
    try:
        yield other
    finally:
        holder.close()
        thread.join()


def kill(conn: Connection, session: Connection) -> None:
    pid = session.info.backend_pid
    conn.execute("select pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not value(conn, "select count(*) from pg_stat_activity where pid = %s", pid))
