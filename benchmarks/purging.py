"""What a purge costs against the batched DELETE that people schedule."""

from __future__ import annotations

from psycopg import sql

from benchmarks.measure import Result, Variant, compare, interleaved
from benchmarks.tables import COLUMNS, create, execute, fill, protect, protected_number
from pg_grace.connection import Connection

ROWS = 1_000_000
BATCH = 10_000
LIMIT = 0.1


def purge(connection: Connection, rounds: int) -> list[Result]:
    """One expired day of 1,000,000 rows: time and write-ahead log."""
    source, plain, ours = "purge_source", "purge_plain", "purge_ours"
    create(connection, source, ours)
    fill(connection, source, 1, ROWS)
    connection.execute(
        sql.SQL("create table {} ({}, grace_deletion bigint not null, grace_deleted_at timestamptz not null)").format(
            sql.Identifier(plain), COLUMNS
        )
    )
    protect(connection, ours)
    written: dict[str, list[int]] = {"batched DELETE": [], "pg_grace": []}

    def measured(name: str, work: str) -> None:
        before = _position(connection)
        if work == "purge":
            connection.execute("call grace.purge()")
        else:
            _delete_in_batches(connection, plain)
        written[name].append(_position(connection) - before)

    medians = interleaved(
        connection,
        [
            Variant(
                "batched DELETE",
                lambda: _fill_plain(connection, plain, source),
                lambda: measured("batched DELETE", "delete"),
            ),
            Variant(
                "pg_grace", lambda: _fill_expired_day(connection, ours, source), lambda: measured("pg_grace", "purge")
            ),
        ],
        rounds,
    )
    assert execute(connection, "select from grace_buffer.{table}", table=ours) == 0
    log = {name: sorted(values[1:])[len(values[1:]) // 2] for name, values in written.items()}
    return [
        *compare("purge of a day of 1,000,000 rows", medians, {"pg_grace": LIMIT}),
        *(
            Result("the same, write-ahead log", name, value / 1024, "kB", value / log["batched DELETE"])
            for name, value in log.items()
        ),
    ]


def _position(connection: Connection) -> int:
    row = connection.execute(
        "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as position"
    ).fetchone()
    assert row is not None
    return int(row["position"])


def _fill_plain(connection: Connection, plain: str, source: str) -> None:
    execute(connection, "truncate {plain}", plain=plain)
    execute(
        connection,
        "insert into {plain} select s.*, 1, now() - interval '40 days' from {source} s",
        plain=plain,
        source=source,
    )
    execute(connection, "vacuum (analyze) {plain}", plain=plain)


def _fill_expired_day(connection: Connection, table: str, source: str) -> None:
    """Make what a DELETE of 40 days ago would have left: its leaf, its rows, its line in the log.

    Nobody can delete in the past, and a leaf's day is its name; so a superuser writes where only captures do.
    """
    number = protected_number(connection, table)
    connection.execute(
        "select grace_internal.create_leaf('b' || %s, %s, (now() at time zone 'UTC')::date - 40)",
        [number, f"grace_buffer.{table}"],
    )
    rows = execute(
        connection,
        "insert into {buffer} select s.*, 1, date_trunc('day', now(), 'UTC') - interval '39 days 12 hours' "
        "from {source} s",
        buffer=f"grace_buffer.{table}",
        source=source,
    )
    connection.execute(
        "insert into grace_internal.capture (deletion, deleted_at, protected_id, row_count, operation, role, login) "
        "values (1, date_trunc('day', now(), 'UTC') - interval '39 days 12 hours', %s, %s, 'DELETE', user, user)",
        [number, rows],
    )
    connection.execute("vacuum (analyze) grace_internal.capture")
    execute(connection, "vacuum (analyze) {buffer}", buffer=f"grace_buffer.{table}")


def _delete_in_batches(connection: Connection, plain: str) -> None:
    """Delete stretches of pages of about 10,000 rows each: no index to look in or to maintain, nothing read twice."""
    row = connection.execute(
        "select relpages, relpages * %s::bigint / reltuples::bigint as step "
        "from pg_class where oid = %s::text::regclass",
        [BATCH, plain],
    ).fetchone()
    assert row is not None
    for page in range(0, row["relpages"], row["step"]):
        connection.execute(
            sql.SQL(
                "delete from {} where ctid >= {}::tid and ctid < {}::tid "
                "and grace_deleted_at < now() - interval '30 days'"
            ).format(sql.Identifier(plain), f"({page},0)", f"({page + row['step']},0)")
        )
