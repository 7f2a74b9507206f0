"""What the tests of rules share."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from pg_grace.connection import Connection
from tests.conftest import rows


def add_rule(conn: Connection, name: str = "r", /, **arguments: Any) -> None:
    """Call grace.add_rule() with these arguments; without a limit, where none is given."""
    arguments = {"max_fraction": 1, **arguments}
    call = sql.SQL("select grace.add_rule({}, {})").format(
        sql.Literal(name),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(key), sql.Literal(one)) for key, one in arguments.items()
        ),
    )
    conn.execute(call)


def run(conn: Connection, name: str = "r", arguments: str = "") -> tuple[Any, ...]:
    """Run a rule; return status and number of rows of the run."""
    conn.execute(sql.SQL("call grace.run({}{})").format(sql.Literal(name), sql.SQL(arguments)))
    return last_run(conn)


def last_run(conn: Connection) -> tuple[Any, ...]:
    return rows(conn, "select status, row_count from grace.runs where kind = 'rule' order by id desc limit 1")[0]


def details(conn: Connection) -> dict[str, Any]:
    return dict(rows(conn, "select details from grace.runs where kind = 'rule' order by id desc limit 1")[0][0])


def failures(conn: Connection) -> list[tuple[Any, ...]]:
    """Key, SQLSTATE and reason of what the last run left over."""
    return rows(
        conn,
        "select key, sqlstate, reason from grace.run_failures where run = (select max(id) from grace.runs where kind = 'rule')"
        " order by key::text",
    )


def refused(conn: Connection, code: str, statement: str, *values: Any) -> psycopg.Error:
    """The statement fails with this SQLSTATE, and says why and what to do; no rule has come or gone by it."""
    before = rows(conn, "select * from grace.rules order by name")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode(), values or None)
    assert caught.value.sqlstate == code, caught.value
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint
    assert rows(conn, "select * from grace.rules order by name") == before
    return caught.value
