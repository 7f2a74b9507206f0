"""protect, unprotect and purge as they are typed."""

from __future__ import annotations

import json

import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def shop(db: Database) -> Database:
    conn = db.connect()
    conn.execute("create table customer (id int primary key, secret text)")
    conn.execute("create table item (id int primary key, customer_id int references customer on delete cascade)")
    conn.execute("create table other (id int primary key)")
    conn.execute("insert into customer values (1, 's'), (2, 't'); insert into item values (1, 1), (2, 2)")
    return db


def protected(conn: Connection) -> list[tuple[object, ...]]:
    return rows(conn, "select target::text, state from grace.protected order by 1")


def test_protect_takes_the_tables_it_cascades_into_and_says_so(shop: Database) -> None:
    result = shop.cli("--format", "json", "protect", "customer")
    assert [(row["table"], row["buffer"], row["status"]) for row in json.loads(result.stdout)] == [
        ("customer", "grace_buffer.customer", "protected"),
        ("item", "grace_buffer.item", "protected"),
    ]
    assert protected(shop.connect()) == [("customer", "capturing"), ("item", "capturing")]


def test_protect_several_tables_at_once(shop: Database) -> None:
    shop.cli("protect", "customer", "other")
    assert [name for name, _ in protected(shop.connect())] == ["customer", "item", "other"]


def test_protect_several_tables_names_them_all_first_and_keeps_what_came_before_one_that_is_refused(
    shop: Database,
) -> None:
    shop.cli("protect", "other", "nope", code=1)
    assert protected(shop.connect()) == []
    shop.cli("protect", "other", "pg_class", code=4)
    assert [name for name, _ in protected(shop.connect())] == ["other"]


def test_protect_again_changes_nothing(shop: Database) -> None:
    shop.cli("protect", "customer")
    result = shop.cli("--format", "json", "protect", "customer")
    assert {row["status"] for row in json.loads(result.stdout)} == {"already protected"}
    assert len(protected(shop.connect())) == 2


def test_protect_without_cascade(shop: Database) -> None:
    shop.cli("protect", "customer", "--no-cascade")
    assert [name for name, _ in protected(shop.connect())] == ["customer"]


def test_protect_with_a_retention_of_its_own(shop: Database) -> None:
    shop.cli("protect", "other", "--retention", "1 year 2 days")
    assert value(shop.connect(), "select retention = '1 year 2 days' from grace.protected")


def test_protect_with_a_column_left_out(shop: Database) -> None:
    shop.cli("protect", "customer", "--exclude", "secret")
    conn = shop.connect()
    conn.execute("delete from customer where id = 1")
    assert shop.cli("show", "customer").stdout.splitlines()[0].split("\t") == ["deletion", "deleted_at", "id"]


def test_protect_gives_up_on_a_busy_table_after_the_time_given_and_changes_nothing(shop: Database) -> None:
    busy = shop.connect()
    with busy.transaction():
        busy.execute("update other set id = id")
        result = shop.cli("protect", "other", "--wait", "0.5 seconds", code=4)
    assert "SQLSTATE: GR006" in result.stderr
    assert "NOTICE: waiting for a lock, held by process" in result.stderr
    assert protected(busy) == []


def test_unprotect_stops_capturing_and_keeps_what_is_buffered(shop: Database) -> None:
    shop.cli("protect", "customer")
    conn = shop.connect()
    conn.execute("delete from customer where id = 1")
    shop.cli("unprotect", "customer", "--yes")
    conn.execute("delete from customer where id = 2")
    assert protected(conn) == [("customer", "unprotected"), ("item", "capturing")]
    assert len(shop.cli("show", "customer").stdout.splitlines()) == 2
    shop.cli("restore", "customer", "--key", "1")
    assert rows(conn, "select id from customer") == [(1,)]


def test_unprotect_discards_what_is_buffered_when_told(shop: Database) -> None:
    shop.cli("protect", "other")
    conn = shop.connect()
    conn.execute("insert into other values (1); delete from other")
    shop.cli("unprotect", "other", "--discard-buffer", "--yes")
    assert protected(conn) == []
    assert value(conn, "select to_regclass('grace_buffer.other') is null")
    shop.cli("show", "other", code=4)


def test_a_dry_run_of_unprotect_counts_and_changes_nothing(shop: Database) -> None:
    shop.cli("protect", "customer")
    conn = shop.connect()
    conn.execute("delete from customer")
    result = shop.cli("unprotect", "customer", "--discard-buffer", "--dry-run")
    assert "2 buffered rows would be gone for good" in result.stderr
    assert protected(conn) == [("customer", "capturing"), ("item", "capturing")]
    assert len(shop.cli("show", "customer").stdout.splitlines()) == 3


def test_unprotect_counts_the_rows_of_the_whole_table_when_a_partition_is_named(db: Database) -> None:
    conn = db.connect()
    conn.execute("create table p (id int) partition by list (id); create table p1 partition of p default")
    db.cli("protect", "p")
    conn.execute("insert into p values (1), (2); delete from p")
    assert "2 buffered rows" in db.cli("unprotect", "p1", "--dry-run").stderr


@pytest.mark.parametrize("options", [("--yes",), ("--dry-run",)])
def test_unprotect_a_table_that_is_not_protected_is_refused(shop: Database, options: tuple[str, ...]) -> None:
    assert "SQLSTATE: GR001" in shop.cli("unprotect", "other", *options, code=4).stderr


def test_purge_removes_what_has_expired_and_prints_the_run(shop: Database) -> None:
    shop.cli("protect", "customer", "other")
    conn = shop.connect()
    conn.execute("insert into other values (1); delete from other; delete from customer where id = 1")
    conn.execute("select grace.set_retention('customer', '1 second'); select pg_sleep(1.1)")
    assert json.loads(shop.cli("--format", "json", "purge", "--dry-run").stdout)[0]["row_count"] == 1
    assert value(conn, "select count(*) from grace_buffer.customer") == 1
    (run,) = json.loads(shop.cli("--format", "json", "purge", "--yes").stdout)
    assert (run["status"], run["row_count"]) == ("done", 1)
    assert value(conn, "select count(*) from grace_buffer.customer") == 0
    assert value(conn, "select count(*) from grace_buffer.other") == 1


def test_purge_of_one_table_leaves_the_others(shop: Database) -> None:
    shop.cli("protect", "customer", "other", "--retention", "1 second")
    conn = shop.connect()
    conn.execute("insert into other values (1); delete from other; delete from customer where id = 1")
    conn.execute("select pg_sleep(1.1)")
    shop.cli("purge", "other", "--yes")
    assert value(conn, "select count(*) from grace_buffer.customer") == 1
    assert value(conn, "select count(*) from grace_buffer.other") == 0


def test_a_purge_that_finds_a_lock_taken_says_that_it_is_incomplete(shop: Database) -> None:
    shop.cli("protect", "other", "--retention", "1 second")
    conn = shop.connect()
    conn.execute("insert into other values (1); delete from other; select pg_sleep(1.1)")
    with conn.transaction():
        conn.execute("lock table grace_buffer.other in access exclusive mode")
        result = shop.cli("purge", "--yes", code=1)
    assert "incomplete" in result.stdout
    assert "not everything could be purged" in result.stderr
    assert shop.cli("purge", "--yes").stdout.count("done") == 1
