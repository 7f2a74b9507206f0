"""The tables that are deleted from: ten columns, about 100 bytes a row, as many times as there are variants."""

from __future__ import annotations

from psycopg import sql

from pg_grace.connection import Connection

COLUMNS = sql.SQL(
    "id bigint, customer_id integer, product_id integer, ordered_on date, status text, reference text, note text, "
    "quantity numeric(8, 2), unit_price numeric(10, 2), changed_at timestamptz"
)
_ROWS = sql.SQL(
    "select n, n % 20011, n % 4999, date '2020-01-01' + n / 1000, "
    "(array['open', 'paid', 'shipped', 'cancelled'])[1 + n % 4], 'ORD-' || lpad(n::text, 9, '0'), "
    "'deliver to gate ' || n % 97, n % 50 + 0.5, n % 9973 + 0.99, "
    "timestamptz '2020-01-01 08:00:00+00' + n * interval '90 seconds' "
    "from generate_series({first}, {last}) n"
)


def execute(connection: Connection, query: str, **names: str) -> int:
    """Run one statement with {names} in it quoted as identifiers; return the number of rows."""
    identifiers = {key: sql.Identifier(*name.split(".")) for key, name in names.items()}
    return connection.execute(sql.SQL(query).format(**identifiers)).rowcount


def create(connection: Connection, *names: str) -> None:
    """Create empty tables with a primary key and an index on the date."""
    for name in names:
        connection.execute(sql.SQL("create table {} ({}, primary key (id))").format(sql.Identifier(name), COLUMNS))
        execute(connection, "create index on {table} (ordered_on)", table=name)


def create_log(connection: Connection, name: str) -> None:
    """Create what a hand-written solution copies into: the same columns and the time, no index."""
    connection.execute(sql.SQL("create table {} ({}, deleted_at timestamptz)").format(sql.Identifier(name), COLUMNS))


def fill(connection: Connection, name: str, first: int, last: int) -> None:
    """Insert rows first to last and leave the table as autovacuum would: vacuumed, analyzed."""
    rows = _ROWS.format(first=first, last=last)
    connection.execute(sql.SQL("insert into {} {}").format(sql.Identifier(name), rows))
    vacuum(connection, name)


def vacuum(connection: Connection, *names: str) -> None:
    """Remove what was deleted, so that every round begins alike."""
    for name in names:
        execute(connection, "vacuum (analyze) {table}", table=name)


def protect(connection: Connection, name: str) -> None:
    """Protect a table, and what its deletion cascades into."""
    connection.execute("select * from grace.protect(%s::text::regclass)", [name])


def protected_number(connection: Connection, name: str) -> int:
    """Return the number by which pg_grace knows a protected table."""
    row = connection.execute(
        "select id from grace_internal.protected where target = %s::text::regclass", [name]
    ).fetchone()
    assert row is not None
    return int(row["id"])
