"""What restoring costs in three related tables of a million rows: all of them, some, one."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.measure import Result, Variant, compare, interleaved
from benchmarks.tables import execute, protect, vacuum
from pg_grace.connection import Connection

ROWS = 1_000_000
LIMIT = 1.7
PICKED = 10_000
MOST_ROUNDS = 3
_CUSTOMERS, _PURCHASES, _LINES = ROWS // 20, ROWS // 4, ROWS * 7 // 10
_TABLES = ("customer", "purchase", "line")
_COLUMNS = (
    "create table {customer} (id bigint, name text not null, email text not null, since date not null, note text)",
    "create table {purchase} (id bigint, customer_id bigint not null, ordered_on date not null,"
    " status text not null check (status in ('open', 'paid', 'shipped')), total numeric(12, 2) not null)",
    "create table {line} (id bigint, purchase_id bigint not null, product_id integer not null,"
    " quantity numeric(8, 2) not null check (quantity > 0), price numeric(10, 2) not null, note text)",
)
_FILL = (
    "insert into {customer} select n, 'customer ' || n, 'c' || n || '@example.org', date '2020-01-01' + n % 1500,"
    f" 'note ' || n % 97 from generate_series(1, {_CUSTOMERS}) n",
    "insert into {purchase} select n, 1 + (n - 1) / 5, date '2020-01-01' + n % 1500,"
    f" (array['open', 'paid', 'shipped'])[1 + n % 3], n % 9973 + 0.99 from generate_series(1, {_PURCHASES}) n",
    "insert into {line} select n, 1 + (n - 1) * 5 / 14, n % 4999, n % 50 + 0.5, n % 997 + 0.99,"
    f" 'deliver to gate ' || n % 97 from generate_series(1, {_LINES}) n",
)
_INDEXES = (
    "alter table {customer} add primary key (id)",
    "alter table {purchase} add primary key (id)",
    "alter table {line} add primary key (id)",
    "create index on {purchase} (customer_id)",
    "create index on {line} (purchase_id)",
)
_MORE = (
    "alter table {customer} add unique (email)",
    "create index on {purchase} (ordered_on)",
    "create index on {line} (product_id)",
    "alter table {purchase} add foreign key (customer_id) references {customer} on delete cascade",
    "alter table {line} add foreign key (purchase_id) references {purchase} on delete cascade",
)


def million(connection: Connection, rounds: int) -> list[Result]:
    """50,000 customers with 250,000 purchases and 700,000 lines, just deleted, into the emptied tables."""
    _create(connection)

    def bare() -> None:
        with connection.transaction():
            for table in _TABLES:
                execute(
                    connection, "insert into {bare} select * from {copy}", bare=f"bare_{table}", copy=f"copy_{table}"
                )

    def delete() -> None:
        _delete_all(connection)

    def delete_and_stand_in_the_way() -> None:
        _delete_all(connection)
        execute(
            connection,
            "insert into {customer} select * from {copy} where id % 100 = 0",
            customer="ours_customer",
            copy="copy_customer",
        )

    medians = interleaved(
        connection,
        [
            Variant("bare INSERT … SELECT", lambda: _truncate(connection, "bare"), bare),
            Variant("pg_grace", delete, lambda: _restore_last(connection)),
            Variant(
                "on_conflict => 'skip', no conflict", delete, lambda: _restore_last(connection, on_conflict="skip")
            ),
            Variant(
                "on_conflict => 'skip', 1% in conflict",
                delete_and_stand_in_the_way,
                lambda: _restore_last(connection, on_conflict="skip"),
            ),
            Variant("dry run", delete, lambda: _restore_last(connection, dry_run=True)),
        ],
        min(rounds, MOST_ROUNDS),
    )
    return compare("restore of 1,000,000 rows in 3 related tables (one deletion)", medians, {"pg_grace": LIMIT})


def picks(connection: Connection, rounds: int) -> list[Result]:
    """Some of a million deleted rows, with what hangs on them; bare they are looked up in plain, indexed tables."""
    _create(connection)
    _truncate(connection, "bare")
    _delete_all(connection)
    return [
        *_pick(
            connection, rounds, PICKED * _CUSTOMERS // ROWS, f"restore of {PICKED:,} rows of 1,000,000, by predicate"
        ),
        *_pick(connection, rounds, 1, "restore of one record with 19 children, of 1,000,000 rows"),
    ]


def _pick(connection: Connection, rounds: int, customers: int, title: str) -> list[Result]:
    names = {table: f"bare_{table}" for table in _TABLES} | {f"{table}_copy": f"copy_{table}" for table in _TABLES}

    def bare() -> None:
        with connection.transaction():
            for query in (
                f"insert into {{customer}} select * from {{customer_copy}} where id <= {customers}",
                "insert into {purchase} select p.* from {purchase_copy} p join {customer_copy} c"
                f" on c.id = p.customer_id where c.id <= {customers}",
                "insert into {line} select l.* from {line_copy} l join {purchase_copy} p on p.id = l.purchase_id"
                f" join {{customer_copy}} c on c.id = p.customer_id where c.id <= {customers}",
            ):
                execute(connection, query, **names)

    def away(prefix: str) -> Callable[[], None]:
        def remove() -> None:
            execute(connection, f"delete from {{customer}} where id <= {customers}", customer=f"{prefix}_customer")
            _vacuum(connection, prefix)

        return remove

    def ours(*, dry_run: bool) -> Callable[[], None]:
        def restore() -> None:
            _restore(
                connection,
                customers * ROWS // _CUSTOMERS,
                target="ours_customer",
                keys="1" if customers == 1 else None,
                predicate=None if customers == 1 else f"id <= {customers}",
                dry_run=dry_run,
            )

        return restore

    medians = interleaved(
        connection,
        [
            Variant("bare INSERT … SELECT", away("bare"), bare),
            Variant("pg_grace", away("ours"), ours(dry_run=False)),
            Variant("dry run", away("ours"), ours(dry_run=True)),
        ],
        rounds,
    )
    return compare(title, medians, {})


def _create(connection: Connection) -> None:
    if connection.execute("select to_regclass('ours_line') is not null as there").fetchone() == {"there": True}:
        return
    for prefix, statements in (
        ("copy", (*_COLUMNS, *_FILL, *_INDEXES)),
        ("bare", (*_COLUMNS, *_INDEXES, *_MORE)),
        ("ours", (*_COLUMNS, *_FILL, *_INDEXES, *_MORE)),
    ):
        names = {table: f"{prefix}_{table}" for table in _TABLES}
        for statement in statements:
            execute(connection, statement, **names)
        vacuum(connection, *names.values())
    protect(connection, "ours_customer")


def _truncate(connection: Connection, prefix: str) -> None:
    execute(connection, "truncate {customer}, {purchase}, {line}", **{table: f"{prefix}_{table}" for table in _TABLES})


def _delete_all(connection: Connection) -> None:
    """Delete all rows in one deletion, unless they are; what the round before has skipped is put back first."""
    if connection.execute("select from ours_line limit 1").fetchone() is None and _last_deletion(connection):
        return
    execute(
        connection,
        "delete from {customer} c where not exists (select from {purchase} p where p.customer_id = c.id)",
        customer="ours_customer",
        purchase="ours_purchase",
    )
    left = connection.execute(
        "select from grace.deletions where id = %s and restored_count < row_count", [_last_deletion(connection)]
    ).fetchone()
    if left is not None:
        connection.execute("select * from grace.restore(deletion => %s)", [_last_deletion(connection)])
    _truncate(connection, "ours")
    _vacuum(connection, "ours")


def _vacuum(connection: Connection, prefix: str) -> None:
    """As autovacuum would; the buffers are not analyzed, for what was deleted just now has no statistics yet."""
    vacuum(connection, *(f"{prefix}_{table}" for table in _TABLES))
    if prefix == "ours":
        for table in _TABLES:
            execute(connection, "vacuum {buffer}", buffer=f"grace_buffer.ours_{table}")


def _last_deletion(connection: Connection) -> int | None:
    """Return the last deletion of lines."""
    row = connection.execute(
        "select max(id) as id from grace.deletions where target = 'ours_line'::regclass"
    ).fetchone()
    assert row is not None
    return None if row["id"] is None else int(row["id"])


def _restore_last(connection: Connection, *, on_conflict: str = "error", dry_run: bool = False) -> None:
    _restore(connection, ROWS, deletion=_last_deletion(connection), on_conflict=on_conflict, dry_run=dry_run)


def _restore(connection: Connection, expected: int, **arguments: object) -> None:
    given = {"target": None, "deletion": None, "keys": None, "predicate": None, "on_conflict": "error"} | arguments
    row = connection.execute(
        "select sum(restored + skipped) as rows from grace.restore(%(target)s::text::regclass, %(deletion)s,"
        " %(keys)s::jsonb, predicate => %(predicate)s, on_conflict => %(on_conflict)s, dry_run => %(dry_run)s)",
        given,
    ).fetchone()
    assert row is not None
    assert row["rows"] == expected, row
