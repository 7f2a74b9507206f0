"""Servers of these tests' own, where roles, pg_cron and its settings are what the test is about, and what they compare."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from pg_grace.cluster import Cluster, binaries, has_pg_cron
from pg_grace.errors import CommandError
from tests.conftest import Database, _new_database
from tests.server import CRON_SETTINGS, Server

APPLICATION = """
create extension pgcrypto;
create schema shop;
create table shop.customer (id int generated always as identity primary key, name text not null unique);
create table shop."Order" (
  id int, placed date not null, customer_id int references shop.customer on delete cascade, total numeric(10, 2),
  primary key (id, placed)
) partition by range (placed);
create table shop.order_2025 partition of shop."Order" for values from ('2025-01-01') to ('2026-01-01');
create table shop.order_rest partition of shop."Order" default;
create table shop.item (
  order_id int, placed date, line int, label varchar(20),
  primary key (order_id, placed, line), foreign key (order_id, placed) references shop."Order" on delete cascade
);
create table shop.audit (at timestamptz default now(), what text);
create function shop.note() returns trigger language plpgsql as
$$ begin insert into shop.audit (what) values (tg_op); return null; end $$;
create trigger note after delete on shop.customer for each statement execute function shop.note();
create view shop.names as select id, name from shop.customer;
alter table shop.item enable row level security;
create policy everybody on shop.item using (true);
comment on table shop.customer is 'who pays';
insert into shop.customer (name) select 'customer ' || n from generate_series(1, 9) n;
insert into shop."Order" select n, date '2025-06-01' + n, n, n from generate_series(1, 9) n;
insert into shop.item select id, placed, 1, 'item' from shop."Order";
"""


def psql(database: Database, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run psql as a DBA does: no settings of its own, output and errors kept."""
    return subprocess.run(
        [str(binaries() / "psql"), "-X", "-d", database.conninfo, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def schema_dump(database: Database) -> str:
    """Return pg_dump --schema-only without the lines that are random."""
    done = subprocess.run(
        [str(binaries() / "pg_dump"), "--schema-only", "-d", database.conninfo],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def _need(*, pg_cron: bool) -> None:
    try:
        binaries()
    except CommandError:
        pytest.skip("no PostgreSQL server programs on this machine")
    if pg_cron and not has_pg_cron():
        pytest.skip("no pg_cron on this machine")


def new_database(server: Server, name: str) -> Database:
    """Create a database on a server of these tests' own; it goes with the server."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    return Database(server, name)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server where nobody else uses pg_grace, without pg_cron."""
    _need(pg_cron=False)
    with Cluster({"fsync": "off"}) as cluster:
        yield Server("local cluster", cluster.conninfo())


@pytest.fixture(scope="module")
def cron_server() -> Iterator[Server]:
    """A server whose pg_cron runs in the database postgres."""
    _need(pg_cron=True)
    with Cluster({"fsync": "off", **CRON_SETTINGS}) as cluster:
        yield Server("local cluster", cluster.conninfo())


@pytest.fixture
def other_empty_db(server: Server) -> Iterator[Database]:
    with _new_database(server, None) as database:
        yield database


@pytest.fixture
def third_empty_db(server: Server) -> Iterator[Database]:
    with _new_database(server, None) as database:
        yield database
