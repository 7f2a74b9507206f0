"""For the tests of the command line: the CRM of the examples, and a server whose pg_cron works elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from pg_grace import files
from pg_grace.cluster import Cluster
from tests.conftest import Database, _new_database
from tests.server import CRON_SETTINGS, Server

_CRM = f"crm_template_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


@pytest.fixture(scope="session")
def crm_template(server: Server, template: str) -> Iterator[str]:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"drop database if exists {_CRM}")
        admin.execute(f"create database {_CRM} template {template}")
        with psycopg.connect(server.conninfo(_CRM), autocommit=True) as connection:
            for name in ("schema.sql", "data.sql"):
                connection.execute((files.root() / "examples" / "crm" / name).read_bytes())
        Database(server, _CRM).cli("protect", "crm.lead", "crm.invoice")
        yield _CRM
        admin.execute(f"drop database {_CRM}")


@pytest.fixture
def crm(server: Server, crm_template: str) -> Iterator[Database]:
    """The CRM; leads and invoices, and what goes with them, are protected."""
    with _new_database(server, crm_template) as database:
        yield database


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Database]:
    """pg_cron works from database postgres, pg_grace is in another one."""
    with Cluster({"fsync": "off", **CRON_SETTINGS}) as cluster:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as admin:
            admin.execute("create database app")
        database = Database(Server("local cluster", cluster.conninfo()), "app")
        database.cli("install")
        yield database
        for connection in database.connections:
            connection.close()
