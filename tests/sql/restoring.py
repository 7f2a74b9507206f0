"""What the tests of restore share."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_grace.connection import Connection
from tests.conftest import checksum, rows, value


def last_deletion(conn: Connection) -> int:
    return int(value(conn, "select max(id) from grace.deletions"))


def deleted(conn: Connection, *statements: str) -> int:
    """Run statements in one transaction; the deletion that they are."""
    with conn.transaction():
        for statement in statements:
            conn.execute(statement.encode())
    return last_deletion(conn)


def tables(conn: Connection) -> list[str]:
    return [
        row[0]
        for row in rows(
            conn,
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg_|information_schema|grace$)'"
            " and (n.nspname <> 'grace_internal' or c.relname in ('capture', 'restored', 'run', 'cut')) order by 1",
        )
    ]


def state(conn: Connection) -> dict[str, Any]:
    """Everything that a restore could change: tables, buffers, the log, sequences, triggers."""
    found = {table: checksum(conn, table) for table in tables(conn)}
    found["sequences"] = rows(
        conn,
        "select schemaname, sequencename, last_value from pg_sequences where schemaname !~ '^grace' order by 1, 2",
    )
    found["triggers"] = rows(conn, "select tgrelid, tgname, tgenabled from pg_trigger order by 1, 2")
    return found


def restore(conn: Connection, call: str, *columns: str) -> list[tuple[Any, ...]]:
    """Columns of grace.restore(call), one row per table."""
    return rows(conn, f"select restored_table::text, {', '.join(columns or ('restored',))} from grace.restore({call})")


COLUMNS = ("restored", "replaced", "skipped", "older", "relinked", "left_behind", "conflicts")


def planned(conn: Connection, call: str) -> list[tuple[Any, ...]]:
    """The dry run, in a transaction that is read only; it changes nothing."""
    before = state(conn)
    with conn.transaction():
        conn.execute(b"set transaction read only")
        plan = restore(conn, f"{call}, dry_run => true", *COLUMNS)
    assert state(conn) == before
    return plan


def as_planned(conn: Connection, call: str) -> list[tuple[Any, ...]]:
    """The restore gives what the dry run has said."""
    plan = planned(conn, call)
    done = restore(conn, call, *COLUMNS)
    assert done == plan
    return done


def conflicts(conn: Connection, call: str) -> list[tuple[Any, ...]]:
    """(table, key, constraint, reason) of a dry run."""
    return sorted(
        (
            (table, conflict["key"], conflict["constraint"], conflict["reason"])
            for table, *_, found in planned(conn, call)
            for conflict in found
        ),
        key=str,
    )


def refused(conn: Connection, code: str, call: str, *values: Any) -> psycopg.Error:
    """The restore fails with this SQLSTATE, says why and what to do, and changes nothing."""
    before = state(conn)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(f"select grace.restore({call})".encode(), values or None)
    assert caught.value.sqlstate == code, caught.value
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint
    assert state(conn) == before
    return caught.value


def script(conn: Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            conn.execute(statement.encode())


def json(found: object) -> Jsonb:
    return Jsonb(found)
