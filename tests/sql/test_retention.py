"""set_retention: how many rows expire by it, at once, and who gets more time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.scheduling import make_older

SHOP = """
create table customer (id int primary key);
create table item (customer_id int references customer on delete cascade, line int, primary key (customer_id, line));
insert into customer select generate_series(1, 20);
insert into item select id, line from customer, generate_series(1, 3) line;
create table event (id int primary key) partition by range (id);
create table event_1 partition of event for values from (0) to (10) partition by range (id);
create table event_11 partition of event_1 for values from (0) to (10);
insert into event values (1), (2), (3);
"""


@pytest.fixture
def shop(conn: Connection) -> Connection:
    conn.execute(SHOP.encode())
    conn.execute("select grace.protect('customer'), grace.protect('event')")
    return conn


def set_retention(conn: Connection, table: str, retention: str | None, dry_run: bool = False) -> int:
    return int(value(conn, "select grace.set_retention(%s::regclass, %s::interval, %s)", table, retention, dry_run))


def delete(conn: Connection, customer: int, days_ago: float) -> None:
    conn.execute("delete from customer where id = %s", (customer,))
    newest = value(conn, "select max(deletion) from grace_internal.capture")
    for table in ("customer", "item"):
        make_older(conn, table, days_ago, newest)


def deletions(conn: Connection, table: str) -> list[int]:
    return [
        row[0] for row in rows(conn, "select id from grace.deletions where target = %s::regclass order by id", table)
    ]


def test_it_says_how_many_rows_expire_and_expires_them_at_once(shop: Connection) -> None:
    for customer, days in enumerate((25, 15, 5, 0), start=1):
        delete(shop, customer, days)
    assert set_retention(shop, "item", "20 days") == 3
    assert deletions(shop, "item") == [2, 3, 4]
    assert set_retention(shop, "item", "20 days") == 0
    assert set_retention(shop, "item", "1 day") == 6
    assert deletions(shop, "item") == [4]
    assert deletions(shop, "customer") == [1, 2, 3, 4]  # each table has its own
    assert rows(shop, "select target::text, row_count from grace.expired") == [("item", 9)]
    assert rows(
        shop, "select target::text, status, row_count, details from grace.runs where kind = 'retention' order by id"
    ) == [
        ("item", "done", 3, {"before": "30 days", "after": "20 days"}),
        ("item", "done", 0, {"before": "20 days", "after": "20 days"}),
        ("item", "done", 6, {"before": "20 days", "after": "1 day"}),
    ]
    shop.execute("call grace.purge()")
    assert rows(shop, "select target_name, row_count from grace.ledger") == [("public.item", 9)]
    assert value(shop, "select count(*) from grace_buffer.item") == 3
    assert value(shop, "select count(*) from grace_buffer.customer") == 4
    assert rows(shop, "select from grace.verify_buffer()") == []


def test_what_was_restored_is_not_counted(shop: Connection) -> None:
    delete(shop, 1, 10)
    shop.execute("select grace.restore('item', keys => '{\"customer_id\": 1, \"line\": 1}', with_parents => true)")
    assert set_retention(shop, "item", "5 days", dry_run=True) == 2
    assert set_retention(shop, "customer", "5 days", dry_run=True) == 0


def test_a_dry_run_tells_the_same_and_changes_nothing(shop: Connection) -> None:
    delete(shop, 1, 10)
    runs = value(shop, "select count(*) from grace.runs")
    assert set_retention(shop, "item", "5 days", dry_run=True) == 3
    assert value(shop, "select retention from grace.protected where target = 'item'::regclass") == timedelta(days=30)
    assert deletions(shop, "item") == [1]
    assert value(shop, "select count(*) from grace.runs") == runs
    with shop.transaction():
        shop.execute("set transaction isolation level serializable")
        assert set_retention(shop, "item", "5 days") == 3


def test_a_rollback_takes_it_back(shop: Connection) -> None:
    delete(shop, 1, 10)
    with shop.transaction(force_rollback=True):
        assert set_retention(shop, "item", "5 days") == 3
        assert deletions(shop, "item") == []
    assert deletions(shop, "item") == [1]
    shop.execute("call grace.purge()")
    shop.execute("select grace.restore(deletion => 1)")
    assert value(shop, "select count(*) from item where customer_id = 1") == 3


def test_a_longer_one_gives_more_time_to_what_is_not_yet_purged(shop: Connection) -> None:
    delete(shop, 1, 40)
    delete(shop, 2, 10)
    assert deletions(shop, "item") == [2]
    for table in ("item", "customer"):
        assert set_retention(shop, table, "60 days") == 0
        assert deletions(shop, table) == [1, 2]
    shop.execute("call grace.purge()")
    assert rows(shop, "select from grace.ledger") == []
    shop.execute("select grace.restore(deletion => 1)")
    assert value(shop, "select count(*) from item where customer_id = 1") == 3


def test_what_is_purged_does_not_come_back(shop: Connection) -> None:
    delete(shop, 1, 10)
    for table in ("item", "customer"):
        set_retention(shop, table, "5 days")
    shop.execute("call grace.purge()")
    for table in ("item", "customer"):
        assert set_retention(shop, table, "60 days") == 0
        assert deletions(shop, table) == []
    with pytest.raises(psycopg.Error) as caught:
        shop.execute("select grace.restore(deletion => 1)")
    assert caught.value.sqlstate == "GR007"
    assert rows(shop, "select from grace.verify_buffer()") == []


def test_up_to_the_moment(shop: Connection) -> None:
    """Of two deletions of one day one expires; the purge leaves the other."""
    delete(shop, 1, 10.01)
    delete(shop, 2, 9.99)
    assert set_retention(shop, "item", "10 days") == 3
    shop.execute("call grace.purge()")
    assert deletions(shop, "item") == [2]
    assert rows(shop, "select distinct customer_id from grace_buffer.item") == [(2,)]


@pytest.mark.parametrize("named", ["event", "event_1", "event_11"])
def test_a_partition_means_its_root(shop: Connection, named: str) -> None:
    shop.execute("delete from event_11 where id = 1; delete from event where id = 2")
    make_older(shop, "event", 10)
    assert set_retention(shop, named, "5 days") == 2
    assert rows(shop, "select retention from grace.protected where target = 'event'::regclass") == [
        (timedelta(days=5),)
    ]


def test_of_what_is_no_longer_protected(shop: Connection) -> None:
    delete(shop, 1, 10)
    shop.execute("select grace.unprotect('customer')")
    assert set_retention(shop, "item", "5 days") == 3
    shop.execute("call grace.purge()")
    assert rows(shop, "select target_name, row_count from grace.ledger") == [("public.item", 3)]


@pytest.mark.parametrize(
    ("retention", "sqlstate"),
    [
        ("0", "GR005"),
        ("-1 day", "GR005"),
        ("999 milliseconds", "GR005"),
        ("101 years", "GR005"),
        (None, "GR005"),
        ("1 month -30 days", "GR005"),
        ("soon", "22007"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_no_retention_is_refused(shop: Connection, retention: str | None, sqlstate: str, dry_run: bool) -> None:
    with pytest.raises(psycopg.Error) as caught:
        set_retention(shop, "item", retention, dry_run)
    assert caught.value.sqlstate == sqlstate
    assert value(shop, "select count(*) from grace.runs where kind = 'retention'") == 0


@pytest.mark.parametrize("retention", ["1 second", "100 years", "1 month", "1 year 2 months", "36:00:00"])
def test_what_is_one_is_kept_as_it_was_said(shop: Connection, retention: str) -> None:
    set_retention(shop, "item", retention)
    assert value(
        shop,
        "select retention::text = %s::interval::text from grace.protected where target = 'item'::regclass",
        retention,
    )


def test_a_table_that_is_not_protected_has_none(shop: Connection) -> None:
    shop.execute("create table other (id int primary key)")
    with pytest.raises(psycopg.Error) as caught:
        set_retention(shop, "other", "5 days")
    assert caught.value.sqlstate == "GR001"


@pytest.mark.parametrize("dry_run", [True, False])
def test_it_takes_the_right_on_the_table(db: Database, shop: Connection, role: Any, dry_run: bool) -> None:
    admin, operator, owner = role("admin"), role("operator"), role("owner")
    shop.execute(f"grant grace_admin to {admin}; grant grace_operator to {operator}".encode())
    shop.execute(f"alter table item owner to {owner}; grant {owner} to postgres".encode())
    for name in (admin, operator, owner):
        with pytest.raises(errors.InsufficientPrivilege):
            set_retention(db.connect(user=name), "item", "5 days", dry_run)
    shop.execute(f"grant trigger on item to {admin}".encode())
    set_retention(db.connect(user=admin), "item", "5 days", dry_run)


def test_the_right_on_a_partition_is_none_on_the_tree(db: Database, shop: Connection, role: Any) -> None:
    admin = role("admin")
    shop.execute(f"grant grace_admin to {admin}; grant trigger on event_11 to {admin}".encode())
    shop.execute("delete from event")
    make_older(shop, "event", 10)
    with pytest.raises(errors.InsufficientPrivilege):
        set_retention(db.connect(user=admin), "event_11", "5 days")
    assert deletions(shop, "event") == [1]


def test_a_restore_that_has_the_rows_gets_them(db: Database, shop: Connection) -> None:
    delete(shop, 1, 10)
    other = db.connect()
    with shop.transaction():
        shop.execute("select grace.restore(deletion => 1)")
        for table in ("customer", "item"):
            set_retention(other, table, "5 days")
        other.execute("call grace.purge()")
    assert value(shop, "select count(*) from item where customer_id = 1") == 3
    other.execute("call grace.purge()")
    assert value(shop, "select count(*) from grace_buffer.item") == 0
    assert rows(shop, "select from grace.ledger") == []
    assert rows(shop, "select from grace.verify_buffer()") == []
