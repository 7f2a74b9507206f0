"""Fixtures: one server per run, one database per test, made from a template in which pg_grace is installed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.rows import dict_row, tuple_row

from pg_grace import migrate
from pg_grace.cli import main
from pg_grace.connection import Connection, Target, connect
from tests.server import Server, running_server

_numbers = itertools.count(1)

_LONGEST = (
    "test_clock",
    "acceptance/test_rules",
    "acceptance",
    "stateful",
    "test_documentation",
    "test_watch",
    "faults",
)

# Several workers of pytest-xdist may share one server.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
_TEMPLATE = f"grace_template_{_WORKER}"


@dataclass
class Database:
    """A database of one test's own."""

    server: Server
    name: str
    connections: list[Connection] = field(default_factory=list)

    @property
    def conninfo(self) -> str:
        return self.server.conninfo(self.name)

    def connect(self, **settings: Any) -> Connection:
        """Open one more autocommit session; it is closed at the test's end."""
        connection = psycopg.connect(self.conninfo, autocommit=True, row_factory=dict_row, **settings)
        self.connections.append(connection)
        return connection

    def cli(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Result:
        """Run pg_grace against this database; the exit code must be the one expected."""
        result = CliRunner().invoke(main, ["-d", self.conninfo, *arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest: workers take whole files, in this order, and none ends alone."""
    items.sort(key=lambda item: next((n for n, name in enumerate(_LONGEST) if name in item.nodeid), len(_LONGEST)))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the one that prints which server it used."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["pg_grace_server"] = getattr(session.config, "pg_grace_server", None)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.pg_grace_server = node.workeroutput.get("pg_grace_server") or getattr(
        node.config, "pg_grace_server", None
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    described = getattr(terminalreporter.config, "pg_grace_server", None)
    if described:
        terminalreporter.write_line(f"PostgreSQL: {described}")


@contextmanager
def _new_database(server: Server, template: str | None) -> Iterator[Database]:
    name = f"test_{_WORKER}_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"drop database if exists {name} with (force)")
        admin.execute(f"create database {name} template {template or 'template0'}")
        database = Database(server, name)
        try:
            yield database
        finally:
            for connection in database.connections:
                connection.close()
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def template(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    request.config.pg_grace_server = f"{server.version()}, {server.kind}"  # type: ignore[attr-defined]
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"drop database if exists {_TEMPLATE}")
        admin.execute(f"create database {_TEMPLATE}")
        with connect(Target(server.conninfo(_TEMPLATE))) as connection:
            migrate.install(connection)
        yield _TEMPLATE
        admin.execute(f"drop database {_TEMPLATE}")


@pytest.fixture
def db(server: Server, template: str) -> Iterator[Database]:
    """A database with pg_grace installed."""
    with _new_database(server, template) as database:
        yield database


@pytest.fixture
def empty_db(server: Server) -> Iterator[Database]:
    """A database without pg_grace."""
    with _new_database(server, None) as database:
        yield database


@pytest.fixture
def conn(db: Database) -> Connection:
    """A superuser's session in a database with pg_grace installed."""
    return db.connect()


def _drop_owned(conninfo: str, role: str) -> None:
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        if "does not exist" in str(error):  # another worker's database, dropped meanwhile
            return
        raise
    with connection:
        connection.execute("set grace.allow_drop = on")
        connection.execute(f"drop owned by {role} cascade")


@pytest.fixture
def role(server: Server) -> Iterator[Any]:
    """Make roles that are dropped at the test's end: role("app") returns the name."""
    made: list[str] = []

    def make(name: str, options: str = "login") -> str:
        full = f"{name}_{_WORKER}_{next(_numbers)}"
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute(f"create role {full} {options}")
        made.append(full)
        return full

    yield make
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        for name in made:
            for row in admin.execute("select datname from pg_database where datallowconn").fetchall():
                _drop_owned(server.conninfo(row[0]), name)
            admin.execute(f"drop role {name}")


def rows(connection: Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return a query's rows as tuples."""
    return connection.cursor(row_factory=tuple_row).execute(query.encode(), values or None).fetchall()


def value(connection: Connection, query: str, *values: Any) -> Any:
    """Return the one value of a query's one row."""
    (row,) = rows(connection, query, *values)
    (only,) = row
    return only


def checksum(connection: Connection, table: str) -> Any:
    """Return a checksum over all rows of a table, whatever their order, and their number."""
    return rows(
        connection,
        f"select count(*), md5(coalesce(string_agg(md5(t::text), '' order by md5(t::text)), '')) from {table} t",
    )
