"""What a capture costs now against another version of pg_grace, in the same run: two databases of one cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from benchmarks import capturing
from benchmarks.measure import Result, Variant, compare, interleaved
from benchmarks.tables import create, execute, fill, protect, vacuum
from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect

LIMIT = 1.1
_Prepare = Callable[[Connection], None]
_Run = Callable[[Connection], object]


def versions(connection: Connection, rounds: int, cluster: Cluster, script: str) -> list[Result]:
    """Compare with the version that a script for psql installs (its sql/install.sql)."""
    connection.execute("create database other_version")
    cluster.run("psql", "-X", "-q", "-d", cluster.conninfo("other_version"), "-f", script)
    with (
        connect(Target(cluster.conninfo("other_version"))) as before,
        connect(Target(cluster.conninfo())) as now,
    ):
        for session in (before, now):
            session.execute("set synchronous_commit = off")
        pair = {"before": before, "now": now}
        return [
            *_bulk(connection, rounds, pair),
            *_singles(connection, rounds, pair),
            *_cascade(connection, rounds, pair),
        ]


def _compare(
    connection: Connection,
    rounds: int,
    title: str,
    pair: dict[str, Connection],
    prepare: _Prepare,
    run: _Run,
    per: int = 1,
) -> list[Result]:
    def variant(name: str, session: Connection) -> Variant:
        def measured() -> None:
            run(session)

        return Variant(name, lambda: prepare(session), measured)

    medians = interleaved(connection, [variant(name, session) for name, session in pair.items()], rounds)
    return compare(title, medians, {"now": LIMIT}, per=per, unit="ms" if per == 1 else "µs")


def _bulk(connection: Connection, rounds: int, pair: dict[str, Connection]) -> list[Result]:
    for session in pair.values():
        create(session, "version_bulk")
        protect(session, "version_bulk")

    def prepare(session: Connection) -> None:
        vacuum(session, "version_bulk")
        fill(session, "version_bulk", 1, capturing.ROWS)

    return _compare(
        connection,
        rounds,
        "DELETE of 100,000 rows, whole table",
        pair,
        prepare,
        lambda session: execute(session, "delete from version_bulk"),
    )


def _singles(connection: Connection, rounds: int, pair: dict[str, Connection]) -> list[Result]:
    starts = {}
    for session in pair.values():
        create(session, "version_single")
        protect(session, "version_single")
        fill(session, "version_single", 1, (rounds + 1) * capturing.SINGLES)
        starts[session] = itertools.count(1, capturing.SINGLES)
    return _compare(
        connection,
        rounds,
        "single-row DELETEs, psycopg",
        pair,
        lambda _: None,
        lambda session: capturing.delete_one_by_one(session, "version_single", next(starts[session])),
        capturing.SINGLES,
    )


def _cascade(connection: Connection, rounds: int, pair: dict[str, Connection]) -> list[Result]:
    for session in pair.values():
        capturing.create_family(session, "version")
        protect(session, "order_version")
    return _compare(
        connection,
        rounds,
        "DELETE of 2,000 parents, 20,000 children",
        pair,
        lambda session: capturing.fill_family(session, "version"),
        lambda session: capturing.delete_family(session, "version"),
    )
