"""pg_upgrade to PostgreSQL 18: what pg_grace holds comes through it, and everything goes on working."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest

from pg_grace.cluster import Cluster, packaged_binaries
from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.server import Server

Rows: TypeAlias = list[tuple[Any, ...]]

# The types, the missing value, the dropped columns and the leaf with other column numbers are what an upgrade could mix up.
SHOP = """
create schema shop;
create type shop.tier as enum ('basic', 'gold');
create domain shop.amount as numeric(12, 2) check (value >= 0);
create table shop.customer (id int generated always as identity primary key, fax text, name text not null);
insert into shop.customer (fax, name) select 'fax', 'customer ' || n from generate_series(1, 6) n;
alter table shop.customer drop column fax, add column tier shop.tier not null default 'basic';
create table shop.invoice (
  id int primary key, customer_id int references shop.customer on delete cascade,
  discount numeric, total shop.amount, issued timestamptz, labels text[]
);
insert into shop.invoice
select n, n % 6 + 1, 0.1, n * 1.10, timestamptz '2025-01-01 00:00+00' + n * interval '1.000001 day', array['a', null]
from generate_series(1, 24) n;
create table shop.item (
  invoice_id int references shop.invoice on delete cascade, line int, facts jsonb, price float8,
  primary key (invoice_id, line)
);
insert into shop.item select i, l, jsonb_build_object('line', l), l / 3.0 from generate_series(1, 24) i, generate_series(1, 3) l;
create table shop.event (
  id int, at date, customer_id int references shop.customer on delete cascade, body text, primary key (id, at)
) partition by range (at);
create table shop.event_2025 partition of shop.event for values from ('2025-01-01') to ('2026-01-01');
create table shop.event_2026 (body text, legacy int, at date not null, customer_id int, id int not null);
alter table shop.event_2026 drop column legacy;
alter table shop.event attach partition shop.event_2026 for values from ('2026-01-01') to ('2027-01-01');
insert into shop.event
select n, case n % 2 when 0 then date '2025-06-01' else '2026-06-01' end, n % 6 + 1, 'event ' || n
from generate_series(1, 24) n;
create table shop.attachment (id int primary key, old text, content bytea default '', name text);
alter table shop.attachment drop column old;
insert into shop.attachment select n, '\\xff', 'file ' || n from generate_series(1, 4) n;
"""
PROTECT = """
select grace.protect('shop.customer');
select grace.protect('shop.attachment', retention => '90 days', exclude_columns => '{content}');
"""
FAMILY, LEAF, TRUNCATED, ONE_ITEM, ATTACHMENT = range(1, 6)
DELETIONS = (
    "begin; set local grace.reason = 'by mistake'; delete from shop.customer where id in (1, 2);"
    " delete from shop.invoice where id = 3; commit",
    "delete from shop.event_2026 where id = 3",
    "truncate shop.event_2025",
    "delete from shop.item where invoice_id = 4 and line = 2",
    "delete from shop.attachment where id = 1",
)
CHANGE = "alter table shop.invoice drop column discount"
TABLES = ("shop.attachment", "shop.customer", "shop.event", "shop.invoice", "shop.item")

# Since 15.20 PostgreSQL notes a version with each column, which servers that are older than that (18.6) refuse to take over:
# no pg_upgrade from the one to the other works with any table in it. Databases from before have none, so it can go.
HAS_COLUMN_VERSIONS = "select from pg_attribute where attoptions::text like '{pg_attver=%' limit 1"
FORGET_COLUMN_VERSIONS = "update pg_attribute set attoptions = null where attoptions::text like '{pg_attver=%'"

_copies = itertools.count(1)


def everything_known(conn: Connection) -> dict[str, Rows]:
    """Return what pg_grace says of tables, deletions and runs, and every buffered row."""
    return {
        "protected": rows(
            conn,
            "select target::text, buffer::text, retention, state, drift, buffered_rows, oldest, next_expiry, protected_by"
            " from grace.protected order by 1",
        ),
        "deletions": rows(conn, "select to_jsonb(d) from grace.deletions d order by id, target::text"),
        "runs": rows(conn, "select to_jsonb(r) from grace.runs r order by id"),
        "roles": rows(
            conn,
            "select rolname, shobj_description(oid, 'pg_authid') from pg_roles where rolname like 'grace%%' order by 1",
        ),
        "row security": rows(
            conn, "select tablename, qual from pg_policies where schemaname = 'grace_buffer' order by 1"
        ),
        **{
            table: rows(
                conn, f"select deletion_id, deleted_at, expires_at, record from grace.buffered('{table}') order by 1, 4"
            )
            for table in TABLES
        },
    }


def content(conn: Connection) -> dict[str, Rows]:
    """Return the rows of the application's tables, without what is not captured or dropped since."""
    return {
        table: rows(conn, f"select to_jsonb(t) - 'discount' - 'content' as t from {table} t order by 1")
        for table in TABLES
    }


@dataclass(frozen=True)
class Upgrade:
    """An upgraded server, and what was known before."""

    server: Server
    programs: Path
    known: dict[str, Rows]
    content: dict[str, Rows]
    schema: set[str]


def dumped_schema(programs: Path, conninfo: str) -> set[str]:
    """Return what pg_dump says of every object; of views only that they are there, for 16 began to write them otherwise."""
    done = subprocess.run(
        [str(programs / "pg_dump"), "--schema-only", "-d", conninfo], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _, *objects = done.stdout.partition("\n\\unrestrict")[0].split("\n-- Name: ")
    return {one.partition("\n")[0] if "; Type: VIEW;" in one else one for one in objects}


def pg_upgrade(old: Cluster, new: Cluster) -> None:
    """Run pg_upgrade between two stopped clusters as their owner, in a folder that it may write to."""
    done = subprocess.run(
        [
            *(new.binaries / "pg_upgrade", "--no-sync", "-U", new.superuser),
            *("-b", old.binaries, "-B", new.binaries, "-d", old.data, "-D", new.data),
        ],
        cwd=new.folder,
        user=new.folder.owner(),
        capture_output=True,
        text=True,
        check=False,
    )
    files = (file for file in (new.data / "pg_upgrade_output.d").rglob("*") if file.suffix in {".log", ".txt"})
    logs = "".join(file.read_text() for file in files)
    assert done.returncode == 0, done.stdout + done.stderr + logs


@pytest.fixture(scope="module")
def upgrade() -> Iterator[Upgrade]:
    packaged = packaged_binaries()
    assert packaged is not None
    new = Cluster({"fsync": "off"}, packaged)
    with new, Cluster({"fsync": "off"}) as old:
        server = Server("before the upgrade", old.conninfo())
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            assert admin.info.server_version < 180000
            for name in ("shop", "plain"):
                admin.execute(f"create database {name}")
        shop, plain = Database(server, "shop"), Database(server, "plain")
        with shop.connect() as conn:
            conn.execute(SHOP.encode())
            contained = content(conn)
            shop.cli("install")
            conn.execute(PROTECT.encode())
            for deletion in DELETIONS:
                conn.execute(deletion.encode())
            shop.cli("restore", "--deletion", str(ONE_ITEM))
            conn.execute(CHANGE.encode())
            known = everything_known(conn)
        with plain.connect() as conn:
            conn.execute(SHOP.encode())
            conn.execute(CHANGE.encode())
        with psycopg.connect(new.conninfo()) as admin:
            new_has_column_versions = admin.execute(HAS_COLUMN_VERSIONS).fetchone() is not None
        if not new_has_column_versions:
            for database in (shop, plain):
                with database.connect() as conn:
                    conn.execute(FORGET_COLUMN_VERSIONS)
        schema = dumped_schema(new.binaries, shop.conninfo)

        old.stop()
        new.stop()
        new.run("pg_checksums", "--disable", "-D", str(new.data))  # the default has changed; both must be the same
        pg_upgrade(old, new)
        new.start()
        upgraded = Server("after the upgrade", new.conninfo())
        assert upgraded.version().startswith("18.")
        yield Upgrade(upgraded, new.binaries, known, contained, schema)


@pytest.fixture
def shop(upgrade: Upgrade) -> Iterator[Database]:
    """A copy of the upgraded database, for one test."""
    copy = Database(upgrade.server, f"copy_{next(_copies)}")
    with psycopg.connect(upgrade.server.dsn, autocommit=True) as admin:
        admin.execute(f"create database {copy.name} template shop")
    yield copy
    for connection in copy.connections:
        connection.close()


@pytest.fixture
def conn(shop: Database) -> Connection:
    return shop.connect()


def test_every_object_of_the_database_is_what_it_was(upgrade: Upgrade) -> None:
    assert dumped_schema(upgrade.programs, upgrade.server.conninfo("shop")) == upgrade.schema
    for made in (
        "CREATE EVENT TRIGGER grace_follow_ddl",
        "ALTER TABLE shop.event_2026 ENABLE ALWAYS TRIGGER zz_grace_delete",
        "CREATE FUNCTION grace_internal.capture_1()",
        "CREATE POLICY grace_unexpired ON grace_buffer.customer",
    ):
        assert any(made in one for one in upgrade.schema), made


def test_deletions_with_their_groups_runs_and_buffered_rows_are_what_they_were(
    upgrade: Upgrade, conn: Connection
) -> None:
    assert everything_known(conn) == upgrade.known
    assert [row[0]["restored_count"] for row in upgrade.known["deletions"] if row[0]["id"] == ONE_ITEM] == [1]
    assert {row[0]["target"] for row in upgrade.known["deletions"] if row[0]["id"] == FAMILY} == {
        "shop.customer",
        "shop.event",
        "shop.invoice",
        "shop.item",
    }


def test_every_table_is_capturing_and_has_not_drifted(conn: Connection) -> None:
    assert rows(conn, "select target::text, state, drift from grace.protected order by 1") == [
        (table, "capturing", False) for table in TABLES
    ]


def test_a_delete_is_captured_with_all_that_it_cascades_into_as_one_new_deletion(conn: Connection) -> None:
    gone = rows(conn, "select to_jsonb(c) from shop.customer c where id = 4")
    items = rows(
        conn,
        "select to_jsonb(i) from shop.item i join shop.invoice v on v.id = invoice_id where customer_id = 4 order by 1",
    )
    assert gone[0][0]["tier"] == "basic"
    assert len(items) == 9
    conn.execute("delete from shop.customer where id = 4")
    assert rows(
        conn, "select id, target::text, row_count from grace.deletions where id > %s order by 2", ATTACHMENT
    ) == [
        (ATTACHMENT + 1, "shop.customer", 1),
        (ATTACHMENT + 1, "shop.event", 3),
        (ATTACHMENT + 1, "shop.invoice", 3),
        (ATTACHMENT + 1, "shop.item", 9),
    ]
    buffered = "select record from grace.buffered(%s, deletion => %s) order by 1"
    assert rows(conn, buffered, "shop.customer", ATTACHMENT + 1) == gone
    assert rows(conn, buffered, "shop.item", ATTACHMENT + 1) == items


@pytest.mark.parametrize("removal", ["delete from shop.event_2026", "truncate shop.event", "truncate shop.event_2026"])
def test_what_is_removed_from_a_partition_is_captured(conn: Connection, removal: str) -> None:
    there = rows(conn, "select to_jsonb(e) from shop.event e order by 1")
    assert there
    conn.execute(removal.encode())
    captured = rows(conn, "select record from grace.buffered('shop.event', deletion => %s) order by 1", ATTACHMENT + 1)
    assert captured == there


def test_an_added_column_is_followed_at_once_and_captured(conn: Connection) -> None:
    conn.execute("alter table shop.customer add column note text default 'none'")
    assert not value(conn, "select drift from grace.protected where target = 'shop.customer'::regclass")
    assert rows(conn, "select id, tier::text, note from grace_buffer.customer order by id") == [
        (1, "basic", "none"),
        (2, "basic", "none"),
    ]
    conn.execute("update shop.customer set note = 'new' where id = 6")
    conn.execute("delete from shop.customer where id = 6")
    assert value(conn, "select record ->> 'note' from grace.buffered('shop.customer', keys => '6')") == "new"


def test_an_added_column_is_captured_by_the_delete_itself_where_there_is_no_event_trigger(conn: Connection) -> None:
    conn.execute("drop event trigger grace_follow_ddl")
    conn.execute("alter table shop.customer add column note text default 'none'")
    assert value(conn, "select drift from grace.protected where target = 'shop.customer'::regclass")
    conn.execute("delete from shop.customer where id = 6")
    assert value(conn, "select record ->> 'note' from grace.buffered('shop.customer', keys => '6')") == "none"


def test_a_new_partition_is_captured(conn: Connection) -> None:
    conn.execute(
        "create table shop.event_2027 partition of shop.event for values from ('2027-01-01') to ('2028-01-01')"
    )
    conn.execute("insert into shop.event values (99, '2027-02-03', null, 'new')")
    conn.execute("delete from shop.event_2027")
    assert rows(conn, "select id, body from grace_buffer.event where grace_deletion > %s", ATTACHMENT) == [(99, "new")]


def test_all_that_was_deleted_before_can_be_restored(upgrade: Upgrade, shop: Database, conn: Connection) -> None:
    for deletion in (FAMILY, LEAF, TRUNCATED, ATTACHMENT):
        shop.cli("restore", "--deletion", str(deletion))
    assert content(conn) == upgrade.content
    assert value(conn, "select sum(buffered_rows) from grace.protected") == 0
    assert "SQLSTATE: GR007" in shop.cli("restore", "--deletion", str(ONE_ITEM), code=4).output


def test_a_purge_removes_what_has_expired_and_nothing_else(upgrade: Upgrade, shop: Database, conn: Connection) -> None:
    expired = value(conn, "select count(*) from grace_buffer.event")
    assert expired == len(upgrade.known["shop.event"]) > 0
    conn.execute("select grace.set_retention('shop.event', '1 second')")
    conn.execute("select pg_sleep(1.1)")
    shop.cli("purge", "--yes")
    assert rows(conn, "select status, row_count from grace.runs where kind = 'purge'") == [("done", expired)]
    assert value(conn, "select count(*) from grace_buffer.event") == 0
    known = everything_known(conn)
    for table in ("shop.attachment", "shop.customer", "shop.invoice", "shop.item"):
        assert known[table] == upgrade.known[table]


def test_uninstalling_leaves_a_database_like_one_that_never_had_it(
    upgrade: Upgrade, shop: Database, conn: Connection
) -> None:
    assert "SQLSTATE: GR013" in shop.cli("uninstall", "--yes", code=4).output
    shop.cli("uninstall", "--discard-buffer", "--yes")
    never = dumped_schema(upgrade.programs, upgrade.server.conninfo("plain"))
    assert dumped_schema(upgrade.programs, shop.conninfo) == never
    granted = (
        "select count(*) from pg_shdepend d join pg_authid a on a.oid = d.refobjid join pg_database b on b.oid = d.dbid"
        " where a.rolname like 'grace%%' and b.datname = %s"
    )
    assert value(conn, granted, "shop") > 0
    assert value(conn, granted, shop.name) == 0
