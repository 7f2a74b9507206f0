"""What capturing adds to a DELETE: many rows at once, one row at a time, and a cascade."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tempfile
from pathlib import Path

from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect

from benchmarks.measure import Result, Variant, compare, interleaved, no_slower
from benchmarks.tables import create, create_log, execute, fill, protect, vacuum

ROWS = 100_000
TABLE_ROWS = 1_000_000
SINGLES = 5_000
PARENTS = 2_000
BULK_LIMIT, SINGLE_LIMIT, CASCADE_LIMIT = 3.5, 1.8, 3.0
_BY_HAND = "with gone as (delete from {table} %s returning *) insert into {log} select gone.*, now() from gone"


def capture(connection: Connection, rounds: int) -> list[Result]:
    """100,000 rows in one DELETE: a whole table, and a tenth of one by an indexed date."""
    whole = _capture(connection, rounds, "whole", ROWS, "")
    tenth = _capture(
        connection, rounds, "tenth", TABLE_ROWS,
        "where ordered_on >= date '2020-01-01' + 400 and ordered_on < date '2020-01-01' + 500",
    )
    return whole + tenth


def _capture(connection: Connection, rounds: int, name: str, table_rows: int, where: str) -> list[Result]:
    bare, hand, ours = f"{name}_bare", f"{name}_hand", f"{name}_ours"
    log = f"{hand}_log"
    first, last = (1, ROWS) if not where else (400_000, 499_999)
    create(connection, bare, hand, ours)
    create_log(connection, log)
    protect(connection, ours)
    for table in (bare, hand, ours):
        fill(connection, table, 1, table_rows)

    def refill(table: str) -> None:
        vacuum(connection, table)
        row = execute(connection, f"select from {{table}} {where} limit 1", table=table)
        if row == 0:
            fill(connection, table, first, last)

    def delete(query: str, **names: str) -> None:
        deleted = execute(connection, query, **names)
        assert deleted == ROWS, deleted

    medians = interleaved(
        connection,
        [
            Variant("bare", lambda: refill(bare), lambda: delete(f"delete from {{table}} {where}", table=bare)),
            Variant("hand-written", lambda: refill(hand), lambda: delete(_BY_HAND % where, table=hand, log=log)),
            Variant("pg_grace", lambda: refill(ours), lambda: delete(f"delete from {{table}} {where}", table=ours)),
        ],
        rounds,
    )
    title = f"DELETE of 100,000 rows, {'whole table' if not where else '1/10 of a table'}"
    return [
        *compare(title, medians, {"pg_grace": BULK_LIMIT}),
        no_slower(title, medians, "pg_grace", "hand-written"),
    ]


def single(connection: Connection, rounds: int, cluster: Cluster) -> list[Result]:
    """Single-row DELETEs by primary key, each its own transaction, synchronous_commit = off."""
    results = []
    with connect(Target(cluster.conninfo())) as session:
        session.execute("set synchronous_commit = off")
        results += _single(connection, rounds, "psycopg", lambda table, first: _by_psycopg(session, table, first))
    if (cluster.binaries / "pgbench").exists():
        results += _single(connection, rounds, "pgbench", lambda table, first: _by_pgbench(cluster, table, first))
    return results
