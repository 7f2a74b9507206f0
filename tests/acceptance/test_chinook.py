"""A public sample database, that nobody here wrote: protect all of it, lose a customer, lose everything, get it back."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from tests.conftest import Database, checksum, rows, value

CHINOOK = Path(__file__).parents[1] / "data" / "chinook.sql"


@pytest.fixture
def chinook(db: Database) -> Database:
    with psycopg.connect(db.conninfo, autocommit=True) as connection:
        connection.execute(CHINOOK.read_text(encoding="utf-8").encode())
    return db


def _tables(database: Database) -> list[str]:
    with psycopg.connect(database.conninfo) as connection:
        found = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'public' order by 1"
        ).fetchall()
    return [row[0] for row in found]


def test_chinook_a_customer_and_then_everything_is_deleted_and_restored(chinook: Database) -> None:
    conn = chinook.connect()
    tables = _tables(chinook)
    assert len(tables) >= 11
    before = {table: checksum(conn, table) for table in tables}
    assert sum(before[table][0][0] for table in tables) > 15000

    chinook.cli("protect", *tables)
    assert value(conn, "select count(*) from grace.protected where state = 'capturing'") == len(tables)

    with conn.transaction():
        conn.execute("set local grace.reason = 'customer 17 by mistake'")
        conn.execute(
            "delete from invoice_line where invoice_id in (select invoice_id from invoice where customer_id = 17)"
        )
        conn.execute("delete from invoice where customer_id = 17")
        conn.execute("delete from customer where customer_id = 17")
    customer = value(conn, "select max(id) from grace.deletions")
    assert rows(
        conn, "select target::text, row_count, reason from grace.deletions where id = %s order by 1", customer
    ) == [
        ("customer", 1, "customer 17 by mistake"),
        ("invoice", 7, "customer 17 by mistake"),
        ("invoice_line", 38, "customer 17 by mistake"),
    ]

    with conn.transaction():
        conn.execute("update employee set reports_to = null")
        employees = checksum(conn, "employee")
        conn.execute(f"truncate {', '.join(tables)}")
    assert all(checksum(conn, table)[0][0] == 0 for table in tables)
    everything = value(conn, "select max(id) from grace.deletions")

    chinook.cli("restore", "--deletion", str(everything))
    chinook.cli("restore", "--deletion", str(customer))

    for table in tables:
        assert checksum(conn, table) == (employees if table == "public.employee" else before[table]), table
    assert value(conn, "select sum(buffered_rows) from grace.protected") == 0
