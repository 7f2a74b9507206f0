"""restore as it is typed: every way to select, the plan, and conflicts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.conftest import Database, checksum, rows

TABLES = ("customer", "item")


@pytest.fixture
def shop(db: Database) -> Database:
    conn = db.connect()
    conn.execute("create table customer (id int primary key, email text unique)")
    conn.execute(
        "create table item (customer_id int references customer on delete cascade, line int,"
        " primary key (customer_id, line))"
    )
    conn.execute("insert into customer select n, n || '@example.com' from generate_series(1, 4) n")
    conn.execute("insert into item select c, l from generate_series(1, 4) c, generate_series(1, 2) l")
    db.cli("protect", "customer")
    return db


def content(database: Database) -> list[object]:
    conn = database.connect()
    return [checksum(conn, table) for table in TABLES]


@pytest.mark.parametrize(
    "selection",
    [
        ("--deletion", "1"),
        ("customer", "--key", "1", "--key", "2"),
        ("customer", "--key", "id=1", "--key", '{"id": 2}'),
        ("--from", "1 hour ago"),
        ("customer", "--from", "about 1 hour ago", "--to", "tomorrow"),
        ("--by", "postgres"),
    ],
)
def test_what_is_selected_comes_back_with_what_went_with_it(shop: Database, selection: tuple[str, ...]) -> None:
    before = content(shop)
    shop.connect().execute("delete from customer where id in (1, 2)")
    result = shop.cli("--format", "json", "restore", *selection)
    assert {row["table"]: row["restored"] for row in json.loads(result.stdout)} == {"customer": 2, "item": 4}
    assert "6 rows are back" in result.stderr
    assert content(shop) == before


def test_a_key_of_several_columns_brings_its_parent(shop: Database) -> None:
    shop.connect().execute("delete from customer where id = 1")
    shop.cli("restore", "item", "--key", "customer_id=1,line=2")
    assert rows(shop.connect(), "select * from item where customer_id = 1") == [(1, 2)]
    assert rows(shop.connect(), "select id from customer where id = 1") == [(1,)]


def test_alone_restores_only_the_rows_selected(shop: Database) -> None:
    shop.connect().execute("delete from customer where id = 1")
    result = shop.cli("restore", "customer", "--key", "1", "--alone")
    assert result.stdout.splitlines() == ["table\trestored", "customer\t1"]
    assert rows(shop.connect(), "select count(*) from item where customer_id = 1") == [(0,)]


def test_a_time_window_restores_only_what_was_deleted_in_it(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("delete from customer where id = 1")
    between = conn.execute("select clock_timestamp()::text as now").fetchone()
    assert between is not None
    conn.execute("delete from customer where id = 2")
    shop.cli("restore", "--from", between["now"])
    assert rows(conn, "select id from customer order by 1") == [(2,), (3,), (4,)]
    shop.cli("restore", "--to", between["now"])
    assert rows(conn, "select id from customer order by 1") == [(1,), (2,), (3,), (4,)]


def test_by_a_role_restores_only_what_it_deleted(shop: Database, role: Callable[[str], str]) -> None:
    app = role("app")
    conn = shop.connect()
    conn.execute(f"grant select, delete on customer to {app}")
    conn.execute("delete from customer where id = 1")
    conn.execute(f"set role {app}; delete from customer where id = 2; reset role")
    shop.cli("restore", "--by", app)
    assert rows(conn, "select id from customer order by 1") == [(2,), (3,), (4,)]


def test_a_dry_run_shows_the_plan_and_changes_nothing(shop: Database) -> None:
    shop.connect().execute("delete from customer where id = 1")
    before = content(shop)
    result = shop.cli("restore", "--deletion", "1", "--dry-run")
    assert sorted(result.stdout.splitlines()[1:]) == ["customer\t1\t0", "item\t2\t0"]
    assert content(shop) == before
    shop.cli("restore", "--deletion", "1")


def test_every_conflict_is_listed_and_nothing_changed(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("delete from customer where id in (1, 2)")
    conn.execute("insert into customer values (1, 'new'), (5, '2@example.com')")
    before = content(shop)
    for options, stream in (((), "nothing was restored"), (("--dry-run",), "would stop this restore")):
        result = shop.cli("restore", "--deletion", "1", *options, code=4)
        assert stream in result.stderr
        assert '{"id": 1}' in result.stderr
        assert '{"id": 2}' in result.stderr
        assert "customer_pkey" in result.stderr
        assert "customer_email_key" in result.stderr
        assert content(shop) == before


def test_a_second_restore_of_the_same_is_refused(shop: Database) -> None:
    shop.connect().execute("delete from customer where id = 1")
    before = shop.cli("restore", "--deletion", "1") and content(shop)
    shop.cli("restore", "--deletion", "1", code=4)
    assert content(shop) == before
