"""Ctrl-C in the middle of a large restore: it leaves no trace, and the bar had said how it was going."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pexpect
import pytest

from tests.cli.test_terminal import take_interrupts
from tests.conftest import Database, rows, value
from tests.faults.servers import eventually

CUSTOMERS, LINES = 10_000, 90_000
SECONDS = 60
BAR = re.compile(r"(\d+)/100000\S* rows +\S*?[\d,]+ rows/s\S* +\S*\d:\d\d:\d\d\S* +\S*\d:\d\d:\d\d")


@pytest.fixture
def shop(db: Database) -> Database:
    """100,000 rows in two tables, deleted at once; restoring them takes some seconds, and waits for a lock near the end."""
    conn = db.connect()
    conn.execute("create table customer (id int primary key, name text)")
    conn.execute("create table line (id int primary key, customer_id int references customer on delete cascade)")
    conn.execute("create index on line (customer_id)")
    conn.execute(f"insert into customer select n, 'many' from generate_series(1, {CUSTOMERS}) n")
    conn.execute(f"insert into line select n, 1 + n % {CUSTOMERS} from generate_series(1, {LINES}) n")
    db.cli("protect", "customer")
    conn.execute("delete from customer")
    conn.execute(
        "create function wait() returns trigger language plpgsql as $$ begin"
        " if new.id % 1000 = 0 then perform pg_sleep(0.02); end if;"
        f" if new.id = {CUSTOMERS * 9 // 10} then perform pg_advisory_xact_lock(7); end if; return new; end $$"
    )
    conn.execute("create trigger wait before insert on line for each row execute function wait()")
    conn.execute("select pg_advisory_lock(7)")
    return db


def restore(database: Database) -> Any:
    return pexpect.spawn(
        sys.executable,
        ["-m", "pg_grace", "-d", database.conninfo, "restore", "--deletion", "1"],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160"},
        dimensions=(40, 160),
        encoding="utf-8",
        codec_errors="replace",  # Ctrl-C may cut a character in two
        timeout=SECONDS,
        preexec_fn=take_interrupts,
    )


def state(database: Database) -> tuple[object, ...]:
    conn = database.connect()
    tables = ("customer", "line", "grace_buffer.customer", "grace_buffer.line", "grace.runs", "grace.deletions")
    return tuple(tuple(rows(conn, f"select count(*), sum(hashtext(t::text)) from {table} t")[0]) for table in tables)


def test_control_c_in_the_middle_leaves_no_trace(shop: Database) -> None:
    conn = shop.connect()
    before = state(shop)
    child = restore(shop)
    child.expect(BAR)  # rows, rate, time left
    eventually(lambda: value(conn, "select count(*) from pg_locks where locktype = 'advisory' and not granted") == 1)
    child.sendintr()
    printed = child.read()
    child.close()
    assert child.exitstatus == 130, printed
    assert "interrupted: nothing was restored" in printed
    assert "Traceback" not in printed

    assert state(shop) == before
    eventually(lambda: value(conn, "select count(*) from pg_stat_activity where application_name = 'pg_grace'") == 0)
    assert value(conn, "select count(*) from grace.runs where kind = 'restore'") == 0

    shop.connections[0].execute("select pg_advisory_unlock(7)")
    assert "100000 rows are back" in shop.cli("restore", "--deletion", "1").output
    assert value(conn, "select count(*) from line") == LINES
