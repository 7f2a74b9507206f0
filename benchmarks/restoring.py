"""What a restore costs against putting the rows back from a plain copy."""

from __future__ import annotations

from benchmarks.measure import Result, Variant, compare, interleaved
from benchmarks.tables import create, create_log, execute, fill, protect, vacuum
from pg_grace.connection import Connection

ROWS = 100_000
LIMIT = 2.0


def restore(connection: Connection, rounds: int) -> list[Result]:
    """100,000 rows. By hand they are moved as a restore moves them, so that they can't be restored twice."""
    bare, hand, ours, copy, log = "back_bare", "back_hand", "back_ours", "back_copy", "back_log"
    create(connection, bare, hand, ours, copy)
    create_log(connection, log)
    protect(connection, ours)
    for table in (hand, ours, copy):
        fill(connection, table, 1, ROWS)

    def empty(table: str) -> None:
        execute(connection, "delete from {table}", table=table)
        vacuum(connection, table)

    def log_by_hand() -> None:
        execute(
            connection,
            "with gone as (delete from {table} returning *) insert into {log} select gone.*, now() from gone",
            table=hand,
            log=log,
        )
        vacuum(connection, hand, log)

    def insert_copy() -> None:
        execute(connection, "insert into {table} select * from {copy}", table=bare, copy=copy)

    def move_back() -> None:
        columns = "id, customer_id, product_id, ordered_on, status, reference, note, quantity, unit_price, changed_at"
        execute(
            connection,
            f"with back as (delete from {{log}} returning {columns}) insert into {{table}} select * from back",
            table=hand,
            log=log,
        )

    def restore_last() -> None:
        row = connection.execute(
            "select sum(restored) as restored from grace.restore(deletion => %s)", [_last_deletion(connection, ours)]
        ).fetchone()
        assert row is not None
        assert row["restored"] == ROWS, row

    medians = interleaved(
        connection,
        [
            Variant("bare INSERT … SELECT", lambda: empty(bare), insert_copy),
            Variant("hand-written move", log_by_hand, move_back),
            Variant("pg_grace", lambda: empty(ours), restore_last),
        ],
        rounds,
    )
    return compare("restore of 100,000 rows", medians, {"pg_grace": LIMIT})


def _last_deletion(connection: Connection, table: str) -> int:
    row = connection.execute(
        "select max(id) as id from grace.deletions where target = %s::text::regclass", [table]
    ).fetchone()
    assert row is not None
    return int(row["id"])
