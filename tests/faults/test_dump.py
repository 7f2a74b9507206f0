"""A database dumped and loaded into a new cluster goes on there as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.faults.servers import JOBS, OUR_JOBS, Cluster, buffered, ledger, miscounted, protect, with_cron

TABLES = [
    "public.customer",
    "public.invoice",
    "public.item",
    "archive.memo",
    "public.wide",
    "public.part",
    "public.same_oid",
]

SCHEMA = b"""
    create table customer (id int primary key, gone int, name text);
    create table invoice (
        junk text, id int primary key, customer_id int references customer on delete cascade, total numeric(10, 2)
    );
    create table item (id int primary key, invoice_id int references invoice on delete cascade, what text);
    alter table customer drop column gone;
    alter table invoice drop column junk;
    insert into customer select n, 'customer ' || n from generate_series(1, 9) n;
    insert into invoice select n * 10, n, n * 1.25 from generate_series(1, 9) n;
    insert into item select n * 100 + i, n * 10, 'item ' || i from generate_series(1, 9) n, generate_series(1, 2) i;

    create table note (id int primary key, former int, text text);
    insert into note select n, n, 'note ' || n from generate_series(1, 9) n;

    create table wide (id int primary key, a int, drop1 int, b int, drop2 int, c int, secret text default 's');
    alter table wide drop column drop1;
    insert into wide select n, n + 10, n + 20, n + 30, n + 40 from generate_series(1, 9) n;

    create table same_oid (id int primary key, dropped int, a int, b int);
    alter table same_oid drop column dropped;
    insert into same_oid select n, n + 10, n + 20 from generate_series(1, 2) n;

    create table part (id int, note text, primary key (id)) partition by range (id);
    create table part_low partition of part for values from (0) to (5);
    create table part_high (note text, dropped int, id int not null);
    alter table part_high drop column dropped;
    alter table part attach partition part_high for values from (5) to (100);
    insert into part select n, 'part ' || n from generate_series(1, 9) n;
"""


@dataclass
class Dump:
    """Two files, and what the database looked like when they were written."""

    roles: Path
    database: Path
    xid: int
    newest: int
    oid_of_the_dropped: int
    ledger: list[tuple[Any, ...]]
    buffered: dict[str, list[tuple[Any, ...]]]


@dataclass
class Loaded:
    """Where the dump was loaded, and what the database looked like then."""

    cluster: Cluster
    conn: Connection
    dump: Dump
    xid: int
    ledger: list[tuple[Any, ...]]
    buffered: dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def dump() -> Iterator[Dump]:
    with Cluster({"fsync": "off", **with_cron("shop")}) as cluster:
        cluster.create_database("shop")
        cluster.install("shop", pg_cron=True)
        with cluster.connect("shop") as conn:
            conn.execute("do $$ begin for i in 1..3000 loop perform pg_current_xact_id(); commit; end loop; end $$")
            conn.execute(SCHEMA)
            protect(conn, "customer", "note", "part", "same_oid")
            conn.execute("select grace.protect('wide', exclude_columns => '{secret}')")
            conn.execute("set grace.reason = 'before the dump'")
            conn.execute("delete from customer where id = 1")
            conn.execute("delete from note where id = 1")
            conn.execute(
                b"create schema archive; alter table note set schema archive; alter table archive.note rename to memo"
            )
            conn.execute("delete from archive.memo where id = 2")
            conn.execute("alter table archive.memo drop column former")
            conn.execute("delete from archive.memo where id = 3")
            conn.execute("delete from wide where id = 1")
            conn.execute("delete from same_oid where id = 1")
            conn.execute("alter table wide drop column drop2")
            conn.execute("delete from wide where id = 2")
            conn.execute("delete from part where id in (1, 5)")
            conn.execute("delete from part_high where id = 6")
            conn.execute("delete from wide where id = 3")
            conn.execute("select grace.restore('wide', keys => '3')")
            conn.execute("select lo_unlink(lo_create(0)) from generate_series(1, 4000)")  # numbers that are free there
            conn.execute("create table dropped as select 1 as id, 'secret' as note")
            protect(conn, "dropped")
            conn.execute("delete from dropped")
            oid = value(conn, "select 'dropped'::regclass::oid::bigint")
            conn.execute("select grace.unprotect('dropped')")
            conn.execute("drop table dropped")
            roles, database = cluster.folder / "roles.sql", cluster.folder / "shop.dump"
            dumped = Dump(
                roles,
                database,
                xid=value(conn, "select pg_current_xact_id()::text::bigint"),
                newest=value(conn, "select max(id) from grace.deletions"),
                oid_of_the_dropped=oid,
                ledger=ledger(conn),
                buffered={table: buffered(conn, table) for table in TABLES},
            )
        cluster.run("pg_dumpall", "--globals-only", "-d", cluster.conninfo(), "-f", str(roles))
        cluster.run("pg_dump", "-Fc", "-d", cluster.conninfo("shop"), "-f", str(database))
        yield dumped


@pytest.fixture(scope="module", params=["shop", "other_name"])
def loaded(dump: Dump, request: pytest.FixtureRequest) -> Iterator[Loaded]:
    name = str(request.param)
    with Cluster({"fsync": "off", **with_cron(name)}) as cluster:
        cluster.create_database(name)
        cluster.run("psql", "-X", "-q", "-d", cluster.conninfo(), "-f", str(dump.roles))  # role postgres is there
        cluster.run("pg_restore", "--exit-on-error", "-d", cluster.conninfo(name), str(dump.database))
        with cluster.connect(name) as conn:
            yield Loaded(
                cluster,
                conn,
                dump,
                xid=value(conn, "select pg_current_xact_id()::text::bigint"),
                ledger=ledger(conn),
                buffered={table: buffered(conn, table) for table in TABLES},
            )


def test_deletions_and_buffered_rows_are_as_they_were(loaded: Loaded) -> None:
    assert loaded.ledger == loaded.dump.ledger
    assert loaded.buffered == loaded.dump.buffered
    assert [len(found) for found in loaded.buffered.values()] == [1, 1, 2, 3, 2, 3, 1]


def test_every_table_is_capturing(loaded: Loaded) -> None:
    found = rows(loaded.conn, "select target::text, state from grace.protected where state <> 'table dropped'")
    assert sorted(found) == sorted((table.removeprefix("public."), "capturing") for table in TABLES)


def test_a_cascades_group_of_before_comes_back_as_a_whole(loaded: Loaded) -> None:
    (deletion,) = {found[0] for found in loaded.buffered["public.invoice"]}
    assert sorted(
        rows(
            loaded.conn,
            "select restored_table::text, restored from grace.restore(deletion => %s)",
            deletion,
        )
    ) == [("customer", 1), ("invoice", 1), ("item", 2)]
    assert rows(
        loaded.conn,
        "select c.name, i.total::text, array_agg(p.what order by p.id) from customer c"
        " join invoice i on i.customer_id = c.id join item p on p.invoice_id = i.id where c.id = 1 group by 1, 2",
    ) == [("customer 1", "1.25", ["item 1", "item 2"])]


def test_what_is_deleted_there_gets_ids_of_its_own(loaded: Loaded) -> None:
    conn = loaded.conn
    assert loaded.xid < loaded.dump.xid
    conn.execute("delete from customer where id = 2")
    conn.execute("delete from customer where id = 3")
    found = rows(
        conn,
        "select id, array_agg(target::text order by target::text) from grace.deletions"
        " where id > %s and target = any (%s::regclass[]) group by id order by id",
        loaded.dump.newest,
        ["customer", "invoice", "item"],
    )
    assert [tables for _, tables in found] == [["customer", "invoice", "item"]] * 2
    restored = rows(conn, "select restored_table::text, restored from grace.restore(deletion => %s)", found[0][0])
    assert sorted(restored) == [("customer", 1), ("invoice", 1), ("item", 2)]
    assert value(conn, "select array_agg(id order by id) from customer where id in (2, 3)") == [2]
    assert miscounted(conn) == []


def test_dropped_columns_in_between_lose_no_value_of_before(loaded: Loaded) -> None:
    """The first thing done to the table there is the restore."""
    conn = loaded.conn
    conn.execute("select grace.restore('wide', keys => '1')")
    assert rows(conn, "select id, a, b, c, secret from wide where id = 1") == [(1, 11, 21, 41, "s")]


def test_dropped_columns_in_between_lose_no_value_of_since(loaded: Loaded) -> None:
    conn = loaded.conn
    conn.execute("delete from wide where id = 4")
    conn.execute("select grace.restore('wide', keys => '[2, 4]')")
    assert rows(conn, "select id, a, b, c from wide where id in (2, 4) order by id") == [
        (2, 12, 22, 42),
        (4, 14, 24, 44),
    ]


def test_a_table_that_was_renamed_and_moved_goes_on(loaded: Loaded) -> None:
    conn = loaded.conn
    conn.execute("delete from archive.memo where id = 4")
    assert value(
        conn, "select array_agg((record ->> 'id')::int order by deletion_id) from grace.buffered('archive.memo')"
    ) == [
        1,
        2,
        3,
        4,
    ]
    conn.execute("select grace.restore('archive.memo', keys => '[1, 2, 3, 4]')")
    assert rows(conn, "select id, text from archive.memo where id < 5 order by id") == [
        (n, f"note {n}") for n in range(1, 5)
    ]


def test_partitions_go_on(loaded: Loaded) -> None:
    conn = loaded.conn
    conn.execute("delete from part where id in (2, 7)")
    conn.execute("delete from part_high where id = 8")
    conn.execute("select grace.restore('part', keys => '[1, 2, 5, 6, 7, 8]')")
    assert rows(conn, "select id, note from part order by id") == [(n, f"part {n}") for n in range(1, 10)]


def test_what_has_expired_is_purged_there(loaded: Loaded) -> None:
    conn = loaded.conn
    conn.execute(b"create table short (id int primary key); insert into short values (1), (2)")
    conn.execute("select grace.protect('short')")
    conn.execute("delete from short")
    conn.execute("select grace.set_retention('short', '1 second')")
    before = sum(value(conn, f"select count(*) from grace.buffered('{table}')") for table in TABLES)
    conn.execute("select pg_sleep(1.05)")
    conn.execute("call grace.purge('short')")
    assert rows(conn, "select status, row_count from grace.runs where kind = 'purge'") == [("done", 2)]
    assert value(conn, "select count(*) from grace_buffer.short") == 0
    assert sum(value(conn, f"select count(*) from grace.buffered('{table}')") for table in TABLES) == before


def test_nobody_can_forge_a_deletion_there(loaded: Loaded) -> None:
    """The key that signs a transaction's deletion came along."""
    conn = loaded.conn
    conn.execute("delete from wide where id = 8")
    forged = value(conn, "select max(id) from grace.deletions")
    with conn.transaction():
        conn.execute("select set_config('grace.deletion', %s, true)", [f"{forged} 0002 {'0' * 32}"])
        conn.execute("delete from wide where id = 9")
    assert value(conn, "select count(distinct grace_deletion) from grace_buffer.wide where id in (8, 9)") == 2


def test_a_table_that_has_the_same_oid_by_chance_still_finds_its_columns(loaded: Loaded) -> None:
    conn = loaded.conn
    with conn.transaction(force_rollback=True):
        conn.execute("update grace_internal.protected set relation = target where target = 'same_oid'::regclass")
        conn.execute("delete from same_oid where id = 2")
        assert rows(conn, "select id, a, b from grace_buffer.same_oid order by id") == [(1, 11, 21), (2, 12, 22)]


def test_a_table_that_gets_the_oid_of_one_dropped_before_is_another_table(loaded: Loaded) -> None:
    conn, oid = loaded.conn, loaded.dump.oid_of_the_dropped
    conn.execute(
        f"do $$ declare used oid; begin loop used := lo_create(0); perform lo_unlink(used);"
        f" exit when used >= {oid - 1}; end loop; end $$"
    )
    conn.execute("create table newcomer (id int, note text)")
    assert value(conn, "select 'newcomer'::regclass::oid::bigint") == oid
    assert rows(conn, "select state from grace.protected where target = 'newcomer'::regclass") == []
    protect(conn, "newcomer")
    assert value(conn, "select count(*) from grace.buffered('newcomer')") == 0
    conn.execute("insert into newcomer values (2, 'new')")
    conn.execute("delete from newcomer")
    assert rows(conn, "select record from grace.buffered('newcomer')") == [({"id": 2, "note": "new"},)]


def test_the_loaded_database_refuses_what_the_old_one_refused(loaded: Loaded) -> None:
    restored = [found for found in loaded.ledger if found[4] == 1]
    assert len(restored) == 1
    with pytest.raises(psycopg.Error) as caught:
        loaded.conn.execute("select grace.restore(deletion => %s)", [restored[0][0]])
    assert caught.value.sqlstate == "GR007"


def test_the_purge_is_scheduled_once_pg_grace_is_installed_again(loaded: Loaded) -> None:
    """pg_cron keeps the database's name with a job, so under another name it has none before."""
    name = loaded.conn.info.dbname
    assert rows(loaded.conn, JOBS) == (OUR_JOBS if name == "shop" else [])
    loaded.cluster.install(name)
    assert rows(loaded.conn, JOBS) == OUR_JOBS
