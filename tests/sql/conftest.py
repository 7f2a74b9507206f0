"""Fixtures of the core's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database
from tests.server import Server


@pytest.fixture(params=["event triggers", "no superuser"])
def owner(request: pytest.FixtureRequest, server: Server, db: Database, role: Any) -> Iterator[Connection]:
    """The session of the role that has installed pg_grace: a superuser, who has event triggers, or the owner of the tables."""
    if request.param == "event triggers":
        yield db.connect()
        return
    keeper = role("keeper", "login createrole")
    with _new_database(server, None) as database:
        admin = database.connect()
        admin.execute(f"grant grace_admin, grace_operator, grace_auditor to {keeper} with admin option")
        admin.execute(
            f"grant create on database {database.name} to {keeper}; grant create on schema public to {keeper}"
        )
        mine = Database(Server("as keeper", f"{server.dsn} user={keeper}"), database.name, database.connections)
        mine.cli("install")
        yield mine.connect()
        for connection in database.connections:
            connection.close()
