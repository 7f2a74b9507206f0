"""What clients wait for while a purge works on the table that they delete from, and what it leaves to the next one."""

from __future__ import annotations

import multiprocessing
import re
import sys
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from benchmarks.measure import Result
from benchmarks.tables import create, execute, fill, protect, protected_number
from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect

CLIENTS = 8
ROWS = 1_000_000
IN_DEFAULT = 3_000_000
FIRST_DAY, LAST_DAY = 40, 37
BASELINE_SECONDS, OPEN_SECONDS, AFTERWARDS_SECONDS = 20, 60, 40
PAUSE = 2
ATTEMPTS = 3
LIMIT = 100.0
# PostgreSQL logs each wait for a lock that is longer than this: how long it was, who held the lock, who else waited.
LOGGED = 10
_WAITING = re.compile(r"process (?P<waiter>\d+) still waiting for (?P<lock>.+) after")
_QUEUE = re.compile(r"Process(?:es)? holding the lock: (?P<holders>[\d, ]*)\. Wait queue: (?P<queue>[\d, ]*)\.")
_WAITED = re.compile(r"process (?P<waiter>\d+) acquired (?P<lock>.+) after (?P<ms>[\d.]+) ms")


@dataclass
class _Load:
    """What one client did, or all of them: latencies in seconds, and how many rows they deleted."""

    pids: set[int] = field(default_factory=set)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    deleted: int = 0


def load(connection: Connection, cluster: Cluster) -> list[Result]:
    """8 clients delete and insert; one transaction that has deleted stays open for a minute; purges run in turn."""
    source, table = "load_source", "load"
    create(connection, source, table)
    fill(connection, source, 1, ROWS)
    fill(connection, table, 1, 1)
    protect(connection, table)
    past = _make_past(connection, table, source)
    with (
        ProcessPoolExecutor(CLIENTS, mp_context=multiprocessing.get_context("spawn")) as pool,
        connect(Target(cluster.conninfo())) as purger,
        connect(Target(cluster.conninfo())) as holder,
    ):
        for ready in [pool.submit(time.sleep, 1) for _ in range(CLIENTS)]:
            ready.result()
        without = _together(_start(pool, cluster, table, 0, BASELINE_SECONDS))
        clients = _start(pool, cluster, table, 1, OPEN_SECONDS + AFTERWARDS_SECONDS)
        with _transactions(cluster, purger.info.backend_pid) as transactions:
            _purge_beside_an_open_transaction(purger, holder, table)
            attempts = _purge_the_rest(purger, table)
        with_purges = _together(clients)
        waits = sorted(_waits_for(cluster, purger.info.backend_pid, with_purges.pids), reverse=True)

    captured = connection.execute(
        f"select from grace_buffer.{table} where grace_deletion > %s".encode(), [past]
    ).rowcount
    assert captured == without.deleted + with_purges.deleted + 1, (captured, without.deleted, with_purges.deleted)
    for milliseconds, lock in waits[:20]:
        print(f"\n  waited {milliseconds:.1f} ms for {lock}", end="", file=sys.stderr)
    print(file=sys.stderr)
    title = "a purge's locks"
    return [
        *_latencies("statements of 8 clients, no purge", without),
        *_latencies("statements of 8 clients, purges", with_purges),
        Result(
            title, "longest wait for one", waits[0][0] if waits else 0, "ms", limit=LIMIT, limit_text=f"{LIMIT:g} ms"
        ),
        Result(title, f"waits longer than {LOGGED} ms, of {len(with_purges.latencies):,} statements", len(waits), ""),
        Result(title, "longest transaction of a purge", max(transactions), "ms"),
        Result(title, "purges until all was done, once the transaction had ended", attempts, ""),
    ]


def _make_past(connection: Connection, table: str, source: str) -> int:
    """Make days of 1,000,000 rows that expire one after another, and a default partition that all since then went to.

    Nobody can delete in the past, so a superuser writes where only captures do. Returns the id of the deletion that all
    that is part of; what clients delete has higher ones.
    """
    number = protected_number(connection, table)
    for name in _column(
        connection, f"select l.name from grace_internal.leaves({number}) l where l.upper_bound > now()"
    ):
        execute(connection, "drop table {leaf}", leaf=f"grace_internal.{name}")
    past = int(_column(connection, "select nextval('grace_internal.deletion_id')")[0])
    today = _today()
    for day in range(FIRST_DAY, LAST_DAY - 1, -1):
        begin = today - timedelta(days=day)
        connection.execute(
            "select grace_internal.create_leaf('b' || %s, %s, %s)", [number, f"grace_buffer.{table}", begin.date()]
        )
        _write(connection, table, source, past, begin, timedelta(days=1))
    part = timedelta(days=LAST_DAY - 1) * ROWS / IN_DEFAULT
    for index in range(IN_DEFAULT // ROWS):
        _write(connection, table, source, past, today - timedelta(days=LAST_DAY - 1) + index * part, part)
    connection.execute("vacuum (analyze) grace_internal.capture")
    _expire(connection, table, FIRST_DAY + 1)
    return past


def _write(connection: Connection, table: str, source: str, past: int, begin: datetime, span: timedelta) -> None:
    """Write 1,000,000 rows, evenly over a time, and 1,000 lines of the log."""
    with connection.transaction():
        connection.execute(
            f"insert into grace_buffer.{table} "
            f"select s.*, %s, %s::timestamptz + (s.id - 1) * %s::interval from {source} s".encode(),
            [past, begin, span / ROWS],
        )
        connection.execute(
            "insert into grace_internal.capture "
            "(deletion, deleted_at, protected_id, row_count, operation, role, login) "
            "select %s, %s::timestamptz + n * %s::interval, %s, %s, 'DELETE', user, user "
            "from generate_series(0, 999) n",
            [past, begin, span / 1000, protected_number(connection, table), ROWS // 1000],
        )


def _expire(connection: Connection, table: str, day: int) -> None:
    """Set the retention so that all before a day expires, and the first three hours of that day."""
    until = _today() - timedelta(days=day) + timedelta(hours=3)
    connection.execute("select grace.set_retention(%s::text::regclass, %s)", [table, datetime.now(UTC) - until])


def _purge_beside_an_open_transaction(purger: Connection, holder: Connection, table: str) -> None:
    """Purge for a minute, with another day that expires each time; what needs no lock on the buffer is done at once."""
    number = protected_number(purger, table)
    days = iter(range(FIRST_DAY - 1, LAST_DAY - 1, -1))
    with holder.transaction():
        assert holder.execute(f"delete from {table} where id = 1".encode()).rowcount == 1
        ends = time.monotonic() + OPEN_SECONDS
        while time.monotonic() < ends:
            day = next(days, None)
            if day is not None:
                _expire(purger, table, day)
            started = time.monotonic()
            purger.execute("call grace.purge()")
            run = _last_run(purger)
            print(f"\n  {run}, {time.monotonic() - started:.1f} s", end="", file=sys.stderr, flush=True)
            assert run["status"] == "incomplete", run
            assert not _column(
                purger,
                f"select l.name from grace_internal.leaves({number}) l "
                "where l.is_expired and pg_relation_size(l.leaf) > 0",
            )
            purger.execute("call grace.watch()")
            time.sleep(min(PAUSE, max(ends - time.monotonic(), 0)))


def _purge_the_rest(purger: Connection, table: str) -> int:
    """Return how many purges it took.

    In one of them a lock may be taken, by a client that the machine has no time for.
    """
    number = protected_number(purger, table)
    _expire(purger, table, LAST_DAY - 1)
    attempts = 0
    while attempts < ATTEMPTS:
        attempts += 1
        started = time.monotonic()
        purger.execute("call grace.purge()")
        run = _last_run(purger)
        print(f"\n  {run}, {time.monotonic() - started:.1f} s", end="", file=sys.stderr, flush=True)
        if run["status"] == "done":
            break
    assert run["status"] == "done", run
    assert not _column(purger, f"select l.name from grace_internal.leaves({number}) l where l.is_expired")
    assert not _column(purger, f"select true from grace_internal.b{number}_default")
    assert not _column(purger, f"select m from grace_internal.missing_partitions('b{number}') m")
    assert not _column(purger, "select e.row_count from grace.expired e where e.row_count > 0")
    return attempts


def _last_run(connection: Connection) -> dict[str, Any]:
    row = connection.execute(
        "select status, row_count, details -> 'left_for_next_run' as left_for_next_run "
        "from grace.runs where kind = 'purge' order by id desc limit 1"
    ).fetchone()
    assert row is not None
    return row


@contextmanager
def _transactions(cluster: Cluster, pid: int) -> Iterator[list[float]]:
    """Look every few ms how old the transaction of a session is; gives the ages, in ms."""
    ages = [0.0]
    stop = threading.Event()

    def look() -> None:
        with connect(Target(cluster.conninfo())) as session:
            while not stop.wait(0.005):
                ages.extend(
                    _column(
                        session,
                        "select extract(epoch from clock_timestamp() - a.xact_start)::float8 * 1000 "
                        "from pg_stat_activity a "
                        f"where a.pid = {pid} and a.state = 'active' and a.query ~ '^call grace.purge'",
                    )
                )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield ages
    finally:
        stop.set()
        thread.join()


def _start(pool: ProcessPoolExecutor, cluster: Cluster, table: str, phase: int, seconds: float) -> list[Future[_Load]]:
    """Start clients, each a process: threads would wait for one another."""
    return [
        pool.submit(delete_and_insert, cluster.conninfo(), table, (phase * CLIENTS + client + 1) * 10**8, seconds)
        for client in range(CLIENTS)
    ]


def _together(clients: Sequence[Future[_Load]]) -> _Load:
    """Wait for the clients; an error of any is one of the benchmark's."""
    result = _Load()
    for client in clients:
        load = client.result()
        result.pids |= load.pids
        result.latencies.extend(load.latencies)
        result.deleted += load.deleted
    return result


def delete_and_insert(conninfo: str, table: str, first: int, seconds: float) -> _Load:
    """Be one client: insert a row, delete it, each statement a transaction, for some seconds."""
    insert = f"insert into {table} (id, customer_id, ordered_on, status) values (%s, 1, '2026-01-01', 'open')".encode()
    delete = f"delete from {table} where id = %s".encode()
    options = f"-c log_lock_waits=on -c deadlock_timeout={LOGGED}ms"
    with psycopg.connect(conninfo, autocommit=True, options=options) as session:
        result = _Load({session.info.backend_pid})
        ends = time.perf_counter() + seconds
        number = first
        now = time.perf_counter()
        while now < ends:
            number += 1
            for statement in (insert, delete):
                before = now
                cursor = session.execute(statement, [number], prepare=True)
                now = time.perf_counter()
                result.latencies.append(now - before)
            result.deleted += cursor.rowcount
        assert result.deleted == number - first
    return result


def _waits_for(cluster: Cluster, holder: int, waiters: set[int]) -> Iterator[tuple[float, str]]:
    """Yield the waits of some sessions for locks that another one held, or stood before them in the queue for."""
    lines = iter(cluster.log.read_text(encoding="utf-8").splitlines())
    behind: dict[int, bool] = {}
    for line in lines:
        if (waiting := _WAITING.search(line)) is not None:
            queue = _QUEUE.search(next(lines))
            assert queue is not None
            waiter = int(waiting["waiter"])
            before = f"{queue['holders']}, {queue['queue']}".replace(" ", "").split(",")
            behind[waiter] = str(holder) in before
        elif (waited := _WAITED.search(line)) is not None:
            waiter = int(waited["waiter"])
            if behind.pop(waiter, False) and waiter in waiters:
                yield float(waited["ms"]), waited["lock"]


def _latencies(title: str, load: _Load) -> list[Result]:
    ordered = sorted(load.latencies)
    return [
        Result(title, name, ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, "ms")
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0))
    ]


def _today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _column(connection: Connection, query: str) -> list[Any]:
    return [next(iter(row.values())) for row in connection.execute(query.encode()).fetchall()]
