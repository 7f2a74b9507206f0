"""Dropping a protected table, however it is done."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def shop(conn: Connection) -> Connection:
    """A protected table in a schema of its own, a partitioned one and one that is not protected."""
    conn.execute("""
        create schema shop;
        create table shop.offer (id int primary key); insert into shop.offer values (1), (2);
        create table shop.visit (id int, r text) partition by list (r);
        create table shop.visit_a partition of shop.visit for values in ('a');
        create table shop.note (id int);
    """)
    conn.execute("select grace.protect('shop.offer'); select grace.protect('shop.visit')")
    conn.execute("delete from shop.offer where id = 1")
    return conn


REFUSED = [
    "drop table shop.offer",
    "drop table shop.offer cascade",
    "drop table shop.note, shop.offer",
    "drop schema shop cascade",
    "drop table shop.visit",
    "drop table shop.visit_a",
    "do $$ begin execute 'drop table shop.offer'; end $$",
    "set grace.allow_drop = off; drop table shop.offer",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_a_protected_table_is_not_dropped(shop: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        shop.execute(statement.encode())
    assert caught.value.sqlstate == "GR021"
    assert caught.value.diag.message_detail
    assert "grace" in (caught.value.diag.message_hint or "")
    assert value(shop, "select count(*) from shop.offer") == 1
    assert value(shop, "select to_regclass('shop.visit_a') is not null and to_regclass('shop.note') is not null")


@pytest.mark.parametrize("statement", [statement for statement in REFUSED if "allow_drop" not in statement])
def test_an_administrator_can_allow_it(shop: Connection, statement: str) -> None:
    shop.execute("set grace.allow_drop = on")
    shop.execute(statement.encode())
    assert value(shop, "select count(*) from grace_buffer.offer") == 1


def test_the_setting_counts_for_an_administrator_only(shop: Connection, db: Database, role: Any) -> None:
    owner = role("owner")
    shop.execute(f"grant all on schema shop to {owner}; alter table shop.offer owner to {owner}")
    session = db.connect(user=owner)
    session.execute("set grace.allow_drop = on")
    with pytest.raises(psycopg.Error) as caught:
        session.execute("drop table shop.offer")
    assert caught.value.sqlstate == "GR021"
    assert "grace_admin" in (caught.value.diag.message_detail or "")
    shop.execute(f"grant grace_admin to {owner}")
    session.execute("drop table shop.offer")


def test_what_belongs_to_a_role_is_not_dropped_with_it(shop: Connection, role: Any) -> None:
    owner = role("owner")
    shop.execute(f"alter table shop.offer owner to {owner}")
    with pytest.raises(psycopg.Error) as caught:
        shop.execute(f"drop owned by {owner} cascade")
    assert caught.value.sqlstate == "GR021"


def test_after_unprotect_it_can_be_dropped_and_its_rows_stay(shop: Connection) -> None:
    shop.execute("select grace.unprotect('shop.offer'); drop table shop.offer")
    assert rows(shop, "select id from grace_buffer.offer") == [(1,)]
    assert rows(shop, "select target_name, state from grace.protected order by 1") == [
        ("shop.offer", "table dropped"),
        ("shop.visit", "capturing"),
    ]


def test_a_detached_partition_can_be_dropped(shop: Connection) -> None:
    shop.execute("alter table shop.visit detach partition shop.visit_a; drop table shop.visit_a")


@pytest.mark.parametrize(
    "statement",
    [
        "drop table shop.note",
        "create temp table offer (id int); drop table offer",
        "alter table shop.offer drop column id",
        "create view shop.v as select * from shop.offer; drop view shop.v",
        "create index i on shop.offer (id); drop index shop.i",
        "create function shop.f() returns int language sql as 'select 1'; drop function shop.f()",
    ],
)
def test_everything_else_is_dropped_as_ever(shop: Connection, statement: str) -> None:
    shop.execute(statement.encode())


def test_what_was_dropped_all_the_same_is_a_note_of_the_doctor_and_expires(shop: Connection) -> None:
    shop.execute("set grace.allow_drop = on; drop table shop.offer")
    assert rows(shop, "select state from grace.protected order by 1") == [("capturing",), ("table dropped",)]
    shop.execute("select * from grace.sync()")
    shop.execute("call grace.purge()")
    assert rows(shop, "select id from grace_buffer.offer") == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "drop table grace_buffer.offer",
        "drop table grace_buffer.offer cascade",
        "drop schema grace_buffer cascade",
        "drop table grace_internal.b1_default",
    ],
)
def test_a_buffer_is_not_dropped(shop: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        shop.execute(statement.encode())
    assert caught.value.sqlstate == "GR021"
    assert rows(shop, "select id from grace_buffer.offer") == [(1,)]


def test_a_buffer_that_is_lost_all_the_same_is_reported_and_can_be_made_anew(shop: Connection) -> None:
    shop.execute("set grace.allow_drop = on; drop table grace_buffer.offer; reset grace.allow_drop")
    assert rows(shop, "select object from grace.doctor() where subject = 'buffer'") == [("shop.offer",)]
    assert len(rows(shop, "select * from grace.protected")) == 2
    with pytest.raises(psycopg.Error):
        shop.execute("delete from shop.offer")
    shop.execute("select grace.unprotect('shop.offer', 'discard'); select grace.protect('shop.offer')")
    shop.execute("delete from shop.offer")
    assert rows(shop, "select id from grace_buffer.offer") == [(2,)]
    assert rows(shop, "select object from grace.doctor() where subject = 'buffer'") == []


def test_a_capture_function_that_is_lost_is_made_anew(shop: Connection) -> None:
    shop.execute("drop function grace_internal.capture_1() cascade")
    assert rows(shop, "select subject from grace.doctor() where object = 'shop.offer'") == [("triggers",)]
    shop.execute("select * from grace.sync()")
    shop.execute("delete from shop.offer")
    assert rows(shop, "select id from grace_buffer.offer order by 1") == [(1,), (2,)]
