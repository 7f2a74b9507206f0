"""Servers that these tests may crash, copy and replicate: never the one that the other tests share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from pg_grace import cluster, migrate
from pg_grace.connection import Connection, Target
from pg_grace.connection import connect as connect_as_pg_grace
from tests.conftest import rows, value

JOBS = "select job, schedule, active from grace.jobs() where active order by job"
OUR_JOBS = [("purge", "0 0 * * *", True), ("watch", "*/5 * * * *", True)]


class Cluster(cluster.Cluster):
    """A cluster with what these tests do to it."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__({"log_min_messages": "warning", **(settings or {})})

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def connect(self, dbname: str = "postgres", **settings: Any) -> Connection:
        """Open an autocommit session, to be closed by a with statement."""
        return psycopg.connect(self.conninfo(dbname), autocommit=True, row_factory=dict_row, **settings)

    def create_database(self, dbname: str) -> None:
        with self.connect() as admin:
            admin.execute(f"create database {dbname}")

    def install(self, dbname: str, *, pg_cron: bool = False) -> None:
        if pg_cron:
            with self.connect(dbname) as admin:
                admin.execute("create extension pg_cron")
        with connect_as_pg_grace(Target(self.conninfo(dbname))) as connection:
            migrate.install(connection)

    def kill(self) -> None:
        """End the server and all its processes as kill -9 does, then start it again."""
        pid_file = self.data / "postmaster.pid"
        postmaster = int(pid_file.read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # so that it starts no more processes
        family = [*_children(postmaster), postmaster]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(_is_alive(pid) for pid in family))
        # Where no init process reaps the dead ones, PostgreSQL takes them for alive.
        for lock in (pid_file, *self.folder.glob(".s.PGSQL.*.lock")):
            lock.unlink()
        self.start()

    def crash(self) -> None:
        """Stop without a checkpoint, then start again."""
        self.stop("immediate")
        self.start()


class Standby(Cluster):
    """A streaming standby, made from a base backup of a running cluster."""

    def __init__(self, primary: Cluster) -> None:
        super().__init__()
        self.primary = primary

    def create(self) -> None:
        self.hand_over()
        self.run("pg_basebackup", "-d", self.primary.conninfo(), "-D", str(self.data), "-R", "-c", "fast", "--no-sync")
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")

    def promote(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "-s", "promote")

    def catch_up(self) -> None:
        with self.primary.connect() as there, self.connect() as here:
            written = value(there, "select pg_current_wal_lsn()")
            eventually(lambda: value(here, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", written))


def eventually(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Return when a condition holds; fail when it doesn't within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def with_cron(dbname: str) -> dict[str, str]:
    """Return the settings for pg_cron in one database."""
    return {
        "shared_preload_libraries": "'pg_cron'",
        "cron.database_name": f"'{dbname}'",
        "cron.use_background_workers": "on",
    }


def protect(conn: Connection, *tables: str) -> None:
    for table in tables:
        conn.execute("select from grace.protect(%s)", [table])


def ledger(conn: Connection) -> list[tuple[Any, ...]]:
    """Return what is on record of every deletion."""
    return rows(
        conn,
        "select id, deleted_at, target::text, row_count, restored_count, operation, deleted_by, login, reason"
        " from grace.deletions order by id, target::text",
    )


def buffered(conn: Connection, table: str) -> list[tuple[Any, ...]]:
    """Return the buffered rows of a table with the deletions they belong to."""
    return rows(
        conn,
        "select deletion_id, deleted_at, record from grace.buffered(%s) order by deletion_id, record::text",
        table,
    )


def miscounted(conn: Connection) -> list[tuple[Any, ...]]:
    """Return the deletions and tables whose log doesn't say as many rows as are in the buffer."""
    counts = " union all ".join(
        f"select {number}, grace_deletion, 1 from grace_buffer.{buffer}"
        for number, buffer in rows(conn, "select id, quote_ident(buffer) from grace_internal.protected")
    )
    return rows(
        conn,
        "select protected_id, deletion, sum(n) from ("
        "select protected_id, deletion, row_count as n from grace_internal.capture"
        " union all select protected_id, deletion, -row_count from grace_internal.restored"
        f" union all select c.protected_id, c.deletion, -c.n from ({counts}) as c (protected_id, deletion, n)"
        ") as counted group by 1, 2 having sum(n) <> 0",
    )


def _children(pid: int) -> list[int]:
    others = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [other for other in others if _stat(other)[1:2] == [str(pid)]]


def _stat(pid: int) -> list[str]:
    """Return a process's state, parent and so on; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"])


class TimedCluster(Cluster):
    """A cluster whose clock can be set: libfaketime answers the server when it asks for the time."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__({"fsync": "off", **(settings or {})})
        self._clock = ""

    def set_clock(self, clock: str) -> None:
        """Restart the server with a clock that is off: "-60d" from now, or goes on from a moment: "@2026-03-29 00:59:00"."""
        self.stop()
        self._clock = clock
        self.start()

    def start(self) -> None:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        before = dict(os.environ)
        if self._clock:
            os.environ.update(LD_PRELOAD=str(library), FAKETIME=self._clock, FAKETIME_DONT_FAKE_MONOTONIC="1", TZ="UTC")
        try:
            super().start()
        finally:
            os.environ.clear()
            os.environ.update(before)
