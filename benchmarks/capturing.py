"""What capturing adds to a DELETE: many rows at once, one row at a time, and a cascade."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Result, Variant, compare, interleaved, no_slower
from benchmarks.tables import create, create_log, execute, fill, protect, vacuum
from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect

_Delete = Callable[[str, int], float | None]

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
        connection,
        rounds,
        "tenth",
        TABLE_ROWS,
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
        results += _single(connection, rounds, "psycopg", lambda table, first: delete_one_by_one(session, table, first))
    if (cluster.binaries / "pgbench").exists():
        results += _single(connection, rounds, "pgbench", lambda table, first: _by_pgbench(cluster, table, first))
    return results


def _single(connection: Connection, rounds: int, client: str, delete: _Delete) -> list[Result]:
    bare, ours = f"single_bare_{client}", f"single_ours_{client}"
    create(connection, bare, ours)
    protect(connection, ours)
    for table in (bare, ours):
        fill(connection, table, 1, (rounds + 1) * SINGLES)

    def variant(name: str, table: str) -> Variant:
        starts = itertools.count(1, SINGLES)
        return Variant(name, lambda: None, lambda: delete(table, next(starts)))

    medians = interleaved(connection, [variant("bare", bare), variant("pg_grace", ours)], rounds)
    for table in (bare, ours):
        assert execute(connection, "select from {table}", table=table) == 0
    title = f"single-row DELETEs, {client}"
    added = (medians["pg_grace"] - medians["bare"]) / SINGLES * 1e6
    return [
        *compare(title, medians, {"pg_grace": SINGLE_LIMIT}, per=SINGLES, unit="µs"),
        Result(title, "added by pg_grace", added, "µs"),
    ]


def delete_one_by_one(session: Connection, table: str, first: int) -> None:
    """Delete one round's rows by primary key, each in a transaction of its own."""
    cursor = session.cursor()
    for number in range(first, first + SINGLES):
        cursor.execute(f"delete from {table} where id = %s".encode(), [number], prepare=True)


def _by_pgbench(cluster: Cluster, table: str, first: int) -> float:
    """Return the seconds that pgbench measured, without its connecting."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "delete.sql"
        script.write_text(f"\\set n :n + 1\ndelete from {table} where id = :n;\n", encoding="utf-8")
        done = subprocess.run(
            [
                str(cluster.binaries / "pgbench"),
                "--no-vacuum",
                "--protocol=prepared",
                "--client=1",
                f"--transactions={SINGLES}",
                f"--define=n={first - 1}",
                f"--file={script}",
                "--host=127.0.0.1",
                f"--port={cluster.port}",
                f"--username={cluster.superuser}",
                "postgres",
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PGOPTIONS": "-c synchronous_commit=off"},
        )
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert rate is not None, done.stdout
    return SINGLES / float(rate[1])


def cascade(connection: Connection, rounds: int) -> list[Result]:
    """2,000 parents with 10 children each, which go by ON DELETE CASCADE."""
    for name in ("bare", "hand", "ours"):
        create_family(connection, name)
    execute(
        connection, "create table order_log (id bigint, customer_id integer, ordered_on date, deleted_at timestamptz)"
    )
    execute(
        connection,
        "create table item_log (id bigint, order_id bigint, product text, quantity integer, price numeric(10, 2), "
        "deleted_at timestamptz)",
    )
    protect(connection, "order_ours")
    medians = interleaved(
        connection,
        [
            Variant("bare", lambda: fill_family(connection, "bare"), lambda: delete_family(connection, "bare")),
            Variant("hand-written", lambda: fill_family(connection, "hand"), lambda: _log_family(connection)),
            Variant("pg_grace", lambda: fill_family(connection, "ours"), lambda: delete_family(connection, "ours")),
        ],
        rounds,
    )
    title = "DELETE of 2,000 parents, 20,000 children"
    return [
        *compare(title, medians, {"pg_grace": CASCADE_LIMIT}),
        no_slower(title, medians, "pg_grace", "hand-written"),
    ]


def create_family(connection: Connection, name: str) -> None:
    """Create a table of orders and one of items that go with their order."""
    parent, child = f"order_{name}", f"item_{name}"
    execute(
        connection, "create table {parent} (id bigint primary key, customer_id integer, ordered_on date)", parent=parent
    )
    execute(
        connection,
        "create table {child} (id bigint primary key, order_id bigint not null references {parent} on delete cascade, "
        "product text not null, quantity integer not null, price numeric(10, 2) not null)",
        parent=parent,
        child=child,
    )
    execute(connection, "create index on {child} (order_id)", child=child)


def fill_family(connection: Connection, name: str) -> None:
    """Fill both again, and leave them as autovacuum would."""
    parent, child = f"order_{name}", f"item_{name}"
    vacuum(connection, child, parent)
    execute(
        connection,
        f"insert into {{parent}} select n, n % 97, date '2026-01-01' + n % 365 from generate_series(1, {PARENTS}) n",
        parent=parent,
    )
    execute(
        connection,
        "insert into {child} select n, 1 + (n - 1) / 10, 'product ' || n % 500, n % 7, n % 997 "
        f"from generate_series(1, {PARENTS} * 10) n",
        child=child,
    )
    vacuum(connection, parent, child)


def delete_family(connection: Connection, name: str) -> None:
    """Delete the orders, and by the cascade their items."""
    execute(connection, "delete from {parent}", parent=f"order_{name}")


def _log_family(connection: Connection) -> None:
    """Children first, then parents: what someone writes who wants both."""
    with connection.transaction():
        execute(connection, _BY_HAND % "", table="item_hand", log="item_log")
        execute(connection, _BY_HAND % "", table="order_hand", log="order_log")
