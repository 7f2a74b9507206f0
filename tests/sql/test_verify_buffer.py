"""verify_buffer: whatever is changed by hand in buffer or log is found, and nothing that pg_grace or PostgreSQL does is taken for it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import psycopg
import pytest

from pg_grace.cluster import binaries
from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server

Finding: TypeAlias = tuple[str, int, str, int]

SHOP = """
create table customer (id int primary key, name text);
create table item (customer_id int references customer on delete cascade, line int, label text, primary key (customer_id, line));
insert into customer select n, 'customer ' || n from generate_series(1, 20) n;
insert into item select id, line, 'item' from customer, generate_series(1, 2) line;
"""
WRITTEN = "written or changed by hand"
ADDED = "added by hand"
REMOVED = "removed by hand"
ADDED_TO_LOG = "added to the log by hand"
REMOVED_FROM_LOG = "removed from the log by hand"
RESTORED = "noted as restored by hand"


def found(conn: Connection, target: str | None = None) -> list[Finding]:
    return rows(
        conn, "select buffer_of::text, deletion, finding, row_count from grace.verify_buffer(%s::regclass)", target
    )


def buffered(conn: Connection) -> dict[str, int]:
    """How many rows each buffer holds that have not expired."""
    return {
        target: value(
            conn, f"select count(*) from grace_buffer.{buffer} where grace_deleted_at > grace._expired_before({number})"
        )
        for number, target, buffer in rows(
            conn, "select id, target::text, quote_ident(buffer) from grace_internal.protected"
        )
    }


def assert_nothing_is_found_but_would_be(conn: Connection) -> None:
    """No finding; and yet one for every single row, were it only touched by hand."""
    assert found(conn) == []
    kept = {target: count for target, count in buffered(conn).items() if count}
    assert kept, "nothing is buffered, so nothing could be found"
    with conn.transaction(force_rollback=True):
        for (buffer,) in rows(conn, "select buffer::text from grace.protected"):
            conn.execute(f"update {buffer} set grace_deletion = grace_deletion".encode())
        touched: dict[str, int] = {}
        for target, _, finding, count in found(conn):
            assert finding == WRITTEN
            touched[target] = touched.get(target, 0) + count
        assert touched == kept


def move_into_the_past(conn: Connection, table: str, days: int) -> None:
    """Make everything in a buffer older, rows and log in one transaction, so that they go on bearing one mark."""
    (number, buffer) = rows(conn, "select id, buffer from grace_internal.protected where target = %s::regclass", table)[
        0
    ]
    moved = timedelta(days=days)
    day = (datetime.now(UTC) - moved).date()
    with conn.transaction():
        conn.execute("select grace_internal.create_leaf(%s, %s, %s)", (f"b{number}", f"grace_buffer.{buffer}", day))
        conn.execute(f"update grace_buffer.{buffer} set grace_deleted_at = grace_deleted_at - %s".encode(), (moved,))
        conn.execute(
            "update grace_internal.capture set deleted_at = deleted_at - %s where protected_id = %s", (moved, number)
        )


@pytest.fixture
def shop(conn: Connection) -> Connection:
    conn.execute(SHOP.encode())
    conn.execute("select grace.protect('customer')")
    return conn


@pytest.fixture(scope="module")
def ledger(server: Server, template: str) -> Iterator[Connection]:
    """For the tests that tamper, each in a transaction that is rolled back.

    Deletion 1: two customers with four items. 2: two statements of one transaction. 3: two customers, of which one is
    restored with its items. 4: one customer, restored with its items. 5: lies in the default partition.
    """
    with _new_database(server, template) as database:
        conn = database.connect()
        conn.execute(SHOP.encode())
        conn.execute("select grace.protect('customer')")
        conn.execute("delete from customer where id in (1, 2)")
        with conn.transaction():
            conn.execute("delete from customer where id = 3")
            conn.execute("delete from customer where id = 4")
        conn.execute("delete from customer where id in (5, 6)")
        conn.execute("select grace.restore('customer', keys => '5')")
        conn.execute("delete from customer where id = 7")
        conn.execute("select grace.restore(deletion => 4)")
        day = f"{datetime.now(UTC):_%Y%m%d}"
        for number, buffer in rows(conn, "select id, buffer from grace_internal.protected"):
            conn.execute(f"alter table grace_buffer.{buffer} detach partition grace_internal.b{number}{day}")
        conn.execute("delete from customer where id = 8")
        for number, buffer in rows(conn, "select id, buffer from grace_internal.protected"):
            # Attached again for what is there already; what is in the default partition stays outside its bounds.
            at = value(conn, f"select max(grace_deleted_at) from grace_internal.b{number}{day}")
            conn.execute(
                f"alter table grace_buffer.{buffer} attach partition grace_internal.b{number}{day}"
                f" for values from ('{datetime.now(UTC):%Y-%m-%d} 00:00+00') to ('{at + timedelta(microseconds=1)}')"
            )
        conn.execute("select set_config('test.leaf', %s, false)", (f"grace_internal.b1{day}",))
        assert value(conn, "select count(*) from grace_internal.b1_default") == 1
        assert_nothing_is_found_but_would_be(conn)
        yield conn


C, I = "customer", "item"  # noqa: E741
CAPTURE = "grace_internal.capture (deletion, deleted_at, protected_id, row_count, operation, role, login)"
TAMPERED: list[tuple[str, list[Finding]]] = [
    # The buffer: through its root, straight in the leaf, in the default partition.
    ("update grace_buffer.customer set name = 'x' where id = 1", [(C, 1, WRITTEN, 1)]),
    ("update grace_buffer.customer set name = name where id in (2, 3)", [(C, 1, WRITTEN, 1), (C, 2, WRITTEN, 1)]),
    (
        "update grace_buffer.item set label = 'x'",
        [(I, 1, WRITTEN, 4), (I, 2, WRITTEN, 4), (I, 3, WRITTEN, 2), (I, 5, WRITTEN, 2)],
    ),
    ("update {leaf} set name = 'x' where id = 6", [(C, 3, WRITTEN, 1)]),
    ("update grace_internal.b1_default set name = 'x'", [(C, 5, WRITTEN, 1)]),
    (
        "update grace_buffer.customer set grace_deletion = 2 where id = 1",
        [(C, 1, REMOVED, 1), (C, 2, ADDED, 1), (C, 2, WRITTEN, 1)],
    ),
    ("update grace_buffer.customer set grace_deletion = 99 where id = 1", [(C, 1, REMOVED, 1), (C, 99, WRITTEN, 1)]),
    (
        "update grace_buffer.customer set grace_deleted_at = now() - interval '1 year' where id = 1",
        [(C, 1, REMOVED, 1)],
    ),
    (
        "update grace_buffer.customer set grace_deleted_at = grace_deleted_at + interval '1 day' where id = 1",
        [(C, 1, WRITTEN, 1)],
    ),
    (
        "insert into grace_buffer.customer select * from grace_buffer.customer where id = 1",
        [(C, 1, ADDED, 1), (C, 1, WRITTEN, 1)],
    ),
    ("insert into grace_buffer.customer values (77, 'x', 99, now())", [(C, 99, WRITTEN, 1)]),
    ("insert into grace_buffer.customer values (77, 'x', 4, now())", [(C, 4, ADDED, 1), (C, 4, WRITTEN, 1)]),
    ("insert into {leaf} select * from {leaf} where id = 6", [(C, 3, ADDED, 1), (C, 3, WRITTEN, 1)]),
    (
        "insert into grace_internal.b1_default select * from grace_internal.b1_default",
        [(C, 5, ADDED, 1), (C, 5, WRITTEN, 1)],
    ),
    ("delete from grace_buffer.customer where id = 1", [(C, 1, REMOVED, 1)]),
    ("delete from grace_buffer.item where customer_id = 6", [(I, 3, REMOVED, 2)]),
    ("delete from {leaf} where id in (1, 2, 3)", [(C, 1, REMOVED, 2), (C, 2, REMOVED, 1)]),
    ("delete from grace_internal.b1_default", [(C, 5, REMOVED, 1)]),
    ("truncate {leaf}", [(C, 1, REMOVED, 2), (C, 2, REMOVED, 2), (C, 3, REMOVED, 1)]),
    ("truncate grace_internal.b1_default", [(C, 5, REMOVED, 1)]),
    (
        "delete from {leaf} where id = 1; insert into {leaf} select 1, 'x', 1, max(grace_deleted_at) from {leaf}",
        [(C, 1, WRITTEN, 1)],
    ),
    # The log.
    ("update grace_internal.capture set role = 'x' where deletion = 1 and protected_id = 1", [(C, 1, WRITTEN, 2)]),
    ("update grace_internal.capture set role = role where deletion = 1 and protected_id = 2", [(I, 1, WRITTEN, 4)]),
    ("update grace_internal.capture set reason = 'x' where deletion = 3 and protected_id = 1", [(C, 3, WRITTEN, 1)]),
    (
        "update grace_internal.capture set role = 'x' where ctid = (select min(ctid) from grace_internal.capture where deletion = 2 and protected_id = 1)",
        [(C, 2, WRITTEN, 1)],
    ),
    (
        "update grace_internal.capture set row_count = 3 where deletion = 1 and protected_id = 1",
        [(C, 1, REMOVED, 1), (C, 1, WRITTEN, 2)],
    ),
    (
        "update grace_internal.capture set row_count = 1 where deletion = 1 and protected_id = 1",
        [(C, 1, ADDED, 1), (C, 1, WRITTEN, 2)],
    ),
    (
        "update grace_internal.capture set row_count = row_count + 1 where deletion = 4 and protected_id = 1",
        [(C, 4, REMOVED, 1)],
    ),
    (
        "update grace_internal.capture set deletion = 99 where deletion = 1 and protected_id = 1",
        [(C, 1, WRITTEN, 2), (C, 99, REMOVED, 2)],
    ),
    (
        "update grace_internal.capture set protected_id = 2 where deletion = 1 and protected_id = 1",
        [(C, 1, WRITTEN, 2), (I, 1, REMOVED, 2)],
    ),
    (
        "update grace_internal.capture set deleted_at = now() - interval '1 year' where deletion = 1 and protected_id = 1",
        [(C, 1, WRITTEN, 2)],
    ),
    (
        "update grace_internal.capture set deleted_at = deleted_at - interval '1 second' where deletion = 1 and protected_id = 1",
        [(C, 1, WRITTEN, 2)],
    ),
    (
        f"insert into {CAPTURE} select deletion, deleted_at, 1, 1, 'DELETE', 'x', 'x' from grace_internal.capture where deletion = 1 limit 1",
        [(C, 1, REMOVED, 1)],
    ),
    (f"insert into {CAPTURE} values (99, now(), 2, 5, 'DELETE', 'x', 'x')", [(I, 99, REMOVED, 5)]),
    (
        f"insert into {CAPTURE} select deletion, deleted_at, 1, 0, 'DELETE', 'x', 'x' from grace_internal.capture where deletion = 1 limit 1",
        [(C, 1, ADDED_TO_LOG, 1)],
    ),
    ("delete from grace_internal.capture where deletion = 1 and protected_id = 1", [(C, 1, WRITTEN, 2)]),
    ("delete from grace_internal.capture where deletion = 4 and protected_id = 2", [(I, 4, REMOVED_FROM_LOG, 2)]),
    (
        "delete from grace_internal.capture where ctid = (select min(ctid) from grace_internal.capture where deletion = 2 and protected_id = 1)",
        [(C, 2, ADDED, 1), (C, 2, WRITTEN, 1)],
    ),
    # What is noted of restores.
    (
        "update grace_internal.restored set row_count = row_count + 1 where deletion = 3 and protected_id = 1",
        [(C, 3, ADDED, 1), (C, 3, RESTORED, 2)],
    ),
    (
        "update grace_internal.restored set row_count = row_count - 1 where deletion = 4 and protected_id = 2",
        [(I, 4, REMOVED, 1), (I, 4, RESTORED, 1)],
    ),
    (
        "update grace_internal.restored set run_id = (select min(id) from grace_internal.run) where deletion = 4 and protected_id = 1",
        [(C, 4, RESTORED, 1)],
    ),
    (
        "update grace_internal.restored set deletion = 1 where deletion = 4 and protected_id = 1",
        [(C, 1, ADDED, 1), (C, 1, RESTORED, 1), (C, 4, REMOVED, 1)],
    ),
    (
        "update grace_internal.restored set deleted_at = now() - interval '1 year' where deletion = 4 and protected_id = 1",
        [(C, 4, REMOVED, 1)],
    ),
    ("delete from grace_internal.restored where deletion = 4 and protected_id = 1", [(C, 4, REMOVED, 1)]),
    (
        "delete from grace_internal.restored",
        [(C, 3, REMOVED, 1), (C, 4, REMOVED, 1), (I, 3, REMOVED, 2), (I, 4, REMOVED, 2)],
    ),
    (
        "delete from grace_buffer.customer where id = 1;"
        " insert into grace_internal.restored select max(run_id), 1, max(deleted_at), 1, 1 from grace_internal.restored",
        [(C, 1, RESTORED, 1)],
    ),
    (
        "update grace_internal.run set role = 'x' where kind = 'restore'",
        [(C, 3, RESTORED, 1), (C, 4, RESTORED, 1), (I, 3, RESTORED, 2), (I, 4, RESTORED, 2)],
    ),
]


@pytest.mark.parametrize(("statement", "expected"), TAMPERED, ids=[statement[:110] for statement, _ in TAMPERED])
def test_what_a_superuser_changes_by_hand_is_found(ledger: Connection, statement: str, expected: list[Finding]) -> None:
    leaf = value(ledger, "select current_setting('test.leaf')")
    with ledger.transaction(force_rollback=True):
        for part in statement.format(leaf=leaf).split(";"):
            ledger.execute(part.encode())
        assert sorted(found(ledger)) == sorted(expected)
        for table in ("customer", "item"):
            assert sorted(found(ledger, table)) == sorted(finding for finding in expected if finding[0] == table)
    assert found(ledger) == []


@pytest.mark.parametrize("afterwards", ["vacuum (freeze)", "vacuum (full, freeze)", "reindex table"])
def test_a_change_by_hand_is_still_found_when_rows_have_been_frozen_or_rewritten(
    shop: Connection, afterwards: str
) -> None:
    shop.execute("delete from customer where id <= 5")
    shop.execute("update grace_buffer.customer set name = 'x' where id = 2")
    for table in ("grace_buffer.customer", "grace_internal.capture"):
        shop.execute(f"{afterwards} {table}".encode())
    assert found(shop) == [("customer", 1, WRITTEN, 1)]


def test_a_change_by_hand_in_one_deletion_is_not_laid_to_another(shop: Connection) -> None:
    for number in range(1, 6):
        shop.execute("delete from customer where id = %s", (number,))
    shop.execute("update grace_buffer.customer set name = 'x' where id = 3")
    shop.execute("delete from grace_buffer.item where customer_id = 5 and line = 1")
    assert found(shop) == [("customer", 3, WRITTEN, 1), ("item", 5, REMOVED, 1)]


def test_only_a_protected_table_can_be_verified(shop: Connection) -> None:
    shop.execute("create table other (id int)")
    with pytest.raises(psycopg.Error) as caught:
        found(shop, "other")
    assert caught.value.sqlstate == "GR001"


def test_a_partition_stands_for_its_whole_table(conn: Connection) -> None:
    conn.execute(
        "create table p (id int) partition by range (id); create table p1 partition of p for values from (1) to (10)"
    )
    conn.execute("select grace.protect('p'); insert into p values (1); delete from p")
    conn.execute("update grace_buffer.p set id = 2")
    assert found(conn, "p1") == found(conn, "p") == [("p", 1, WRITTEN, 1)]


def test_an_auditor_may_verify_and_sees_counts_only(db: Database, shop: Connection, role: Any) -> None:
    auditor = role("auditor")
    shop.execute(f"grant grace_auditor to {auditor}")
    shop.execute("delete from customer where id = 1")
    shop.execute("update grace_buffer.customer set name = 'secret'")
    session = db.connect(user=auditor)
    assert found(session) == [("customer", 1, WRITTEN, 1)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("select * from grace_buffer.customer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.connect(user=role("nobody")).execute("select * from grace.verify_buffer()")


# What leaves no finding: each scenario begins with a protected customer and item and leaves something in a buffer.


def several_deletes(conn: Connection) -> None:
    for number in range(1, 4):
        conn.execute("delete from item where customer_id = %s and line = 1", (number,))
        conn.execute("delete from customer where id = %s", (number,))


def other_ways_to_delete(conn: Connection) -> None:
    conn.execute("with gone as (delete from item where line = 1 returning *) delete from customer where id = 9")
    conn.execute("merge into customer c using (values (1), (2)) v (id) on v.id = c.id when matched then delete")
    conn.execute("create view seen as select * from item; delete from seen where line = 2 and customer_id > 15")
    conn.execute(
        "create function go(n int) returns void language sql as 'delete from customer where id = n'; select go(11)"
    )
    conn.execute("prepare one (int) as delete from customer where id = $1")
    for number in range(12, 19):
        conn.execute(f"execute one ({number})")


def several_statements_of_one_transaction(conn: Connection) -> None:
    with conn.transaction():
        for number in range(1, 6):
            conn.execute("delete from customer where id = %s", (number,))
        conn.execute("insert into customer values (1, 'again'); delete from customer where id = 1")


def savepoints(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("delete from customer where id = 1")
        with conn.transaction():
            conn.execute("delete from customer where id = 2")
            with conn.transaction(force_rollback=True):
                conn.execute("delete from customer where id = 3")
            with conn.transaction():
                conn.execute("delete from item where customer_id = 4")
        with conn.transaction(force_rollback=True):
            conn.execute("delete from customer where id in (4, 5)")
        conn.execute("delete from customer where id = 6")


def the_first_capture_rolled_back_to_a_savepoint(conn: Connection) -> None:
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            conn.execute("delete from customer where id = 1")
        conn.execute("delete from customer where id = 1")
        conn.execute("delete from item where customer_id = 2")


def exception_blocks(conn: Connection) -> None:
    conn.execute(
        """
        do $$
        begin
          for n in 1..9 loop
            begin
              delete from customer where id = n;
              if n % 3 = 0 then
                raise division_by_zero;
              end if;
            exception when division_by_zero then
              delete from item where customer_id = n;
            end;
          end loop;
          begin
            delete from item;
            perform 1 / 0;
          exception when others then
            null;
          end;
        end $$
        """
    )


def procedures_that_commit(conn: Connection) -> None:
    conn.execute(
        """
        create procedure go() language plpgsql as $$
        begin
          for n in 1..4 loop
            delete from customer where id = n;
            if n % 2 = 0 then commit; else rollback; end if;
          end loop;
        end $$
        """
    )
    conn.execute("call go()")


def truncates(conn: Connection) -> None:
    conn.execute("delete from item where line = 1")
    conn.execute("truncate item")
    conn.execute("insert into item values (1, 1, 'x')")
    conn.execute("truncate customer cascade")
    with conn.transaction(force_rollback=True):
        conn.execute("insert into customer values (1, 'x')")
        conn.execute("truncate customer cascade")


def partitioned_tables(conn: Connection) -> None:
    conn.execute(
        "create table p (id int, part int, primary key (id, part)) partition by list (part);"
        "create table p1 partition of p for values in (1);"
        "create table p2 partition of p for values in (2, 3) partition by list (part);"
        "create table p2a partition of p2 for values in (2); create table p_rest partition of p default;"
        "select grace.protect('p'); insert into p select n, n % 3 from generate_series(1, 30) n where n % 3 <> 3"
    )
    conn.execute("delete from p where id <= 6")
    conn.execute("delete from p1 where id <= 12; delete from p2a where id <= 12")
    conn.execute("update p set part = 2 where part = 1 and id < 20; delete from p2 where id < 20")
    conn.execute("truncate p_rest")
    conn.execute("create table p2b partition of p2 for values in (3); insert into p values (100, 3)")
    conn.execute("delete from p2b; truncate p")


def inheritance_trees(conn: Connection) -> None:
    conn.execute(
        "create table parent (id int, name text); create table child (extra text) inherits (parent);"
        "select grace.protect('parent');"
        "insert into parent select n, 'p' from generate_series(1, 10) n;"
        "insert into child select n, 'c', 'more' from generate_series(11, 20) n"
    )
    conn.execute("delete from parent where id in (1, 2, 11, 12)")
    conn.execute("delete from only parent where id > 5; delete from child where id > 15")
    conn.execute(
        "create table grandchild (even text) inherits (child); insert into grandchild values (30, 'g', 'm', 'e')"
    )
    with conn.transaction():
        conn.execute("delete from parent where id = 3")
        with conn.transaction():
            conn.execute("delete from parent where id in (4, 13)")
        with conn.transaction(force_rollback=True):
            conn.execute("delete from parent")
    conn.execute("truncate child")
    conn.execute("delete from parent")


def self_references(conn: Connection) -> None:
    conn.execute(
        "create table node (id int primary key, up int references node on delete cascade);"
        "select grace.protect('node');"
        "insert into node select n, nullif(n / 2, 0) from generate_series(1, 63) n"
    )
    conn.execute("delete from node where id in (8, 2, 40)")


def restores_of_every_kind(conn: Connection) -> None:
    conn.execute("delete from customer where id <= 8")
    conn.execute("delete from customer where id = 9")
    conn.execute("delete from item where customer_id = 10")
    conn.execute("select grace.restore(deletion => 1, dry_run => true)")
    conn.execute("""select grace.restore('customer', keys => '[1, {"id": 2}]')""")
    conn.execute("""select grace.restore('item', keys => '{"customer_id": 10, "line": 2}')""")
    conn.execute("select grace.restore('customer', keys => '3', related => false)")
    conn.execute("""select grace.restore('item', keys => '{"customer_id": 4, "line": 1}')""")
    conn.execute("select grace.restore(deletion => 2)")
    with conn.transaction(force_rollback=True):
        conn.execute("select grace.restore(deletion => 1)")
    with pytest.raises(psycopg.Error):
        conn.execute("select grace.restore(deletion => 2)")
    with conn.transaction():
        conn.execute("delete from customer where id = 11")
        with conn.transaction():
            conn.execute("select grace.restore('customer', keys => '5')")
        with conn.transaction(force_rollback=True):
            conn.execute("select grace.restore('customer', keys => '6')")
        conn.execute("select grace.restore('customer', keys => '11')")
        conn.execute("delete from customer where id in (11, 5)")
    conn.execute("select grace.restore('item', deleted_from => '-infinity', deleted_by => current_user)")
    conn.execute("delete from customer where id in (12, 13); delete from item where customer_id = 14")
    conn.execute("select grace.restore('customer', keys => '12')")


def restores_refused_for_a_conflict(conn: Connection) -> None:
    conn.execute("delete from customer where id <= 3; insert into customer values (2, 'new')")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.restore('customer', deletion => 1)")
    assert caught.value.sqlstate == "GR011"


def a_restore_of_several_deletions_at_once(conn: Connection) -> None:
    for number in range(1, 9):
        conn.execute("delete from customer where id = %s", (number,))
    conn.execute("select grace.restore('customer', keys => '[1, 3, 5]')")
    conn.execute("select grace.restore(deleted_from => '-infinity')")
    conn.execute("delete from customer where id < 4")


def vacuums_and_rewrites(conn: Connection) -> None:
    conn.execute("delete from customer where id <= 8")
    conn.execute("select grace.restore('customer', keys => '[1, 2]')")
    conn.execute("delete from customer where id <= 2")
    tables = (
        "grace_buffer.customer",
        "grace_buffer.item",
        "grace_internal.capture",
        "grace_internal.restored",
        "grace_internal.run",
    )
    for command in ("vacuum (freeze, analyze)", "vacuum full", "vacuum (full, freeze)"):
        for table in tables:
            conn.execute(f"{command} {table}".encode())
        conn.execute("delete from item where customer_id = (select max(customer_id) from item)")
    conn.execute("cluster grace_internal.capture using capture_deletion")
    conn.execute("cluster grace_internal.restored using restored_deletion")
    (leaf,) = rows(
        conn, "select name from grace_internal.leaves(1) where leaf in (select tableoid from grace_buffer.customer)"
    )
    conn.execute(f"create index on grace_internal.{leaf[0]} (id)".encode())
    conn.execute(f"cluster grace_internal.{leaf[0]} using {leaf[0]}_id_idx".encode())


def columns_that_come_and_go(conn: Connection) -> None:
    for statement in (
        "alter table customer add column city text",
        "alter table customer add column rank int not null default 7",
        "alter table customer add column token uuid default gen_random_uuid()",
        "alter table customer drop column city",
        "alter table customer rename column name to title",
        "alter table customer alter column rank type numeric",
        "alter table customer add column name text default 'x'",
        "alter table customer rename to client; alter table client rename to customer",
        "alter table item alter column label type varchar(99), add column note text",
    ):
        conn.execute("delete from customer where id = (select min(id) from customer)")
        conn.execute(statement.encode())
        conn.execute("delete from customer where id = (select min(id) from customer)")
    conn.execute("select grace.restore(deletion => 3)")


def columns_followed_by_the_capture_itself(conn: Connection) -> None:
    conn.execute("alter event trigger grace_follow_ddl disable")
    columns_that_come_and_go(conn)


def a_shorter_and_a_longer_retention(conn: Connection) -> None:
    conn.execute("delete from customer where id <= 3")
    conn.execute("select pg_sleep(1.1); delete from customer where id = 4")
    conn.execute("select grace.set_retention(t, '1 second') from unnest(array['customer', 'item']::regclass[]) t")
    assert found(conn) == []
    conn.execute("select grace.set_retention(t, '1 day') from unnest(array['customer', 'item']::regclass[]) t")


def a_purge_row_by_row(conn: Connection) -> None:
    conn.execute("delete from customer where id <= 3")
    conn.execute("select grace.restore('customer', keys => '1')")
    conn.execute("select grace.set_retention(t, '1 second') from unnest(array['customer', 'item']::regclass[]) t")
    conn.execute("select pg_sleep(1.1)")
    conn.execute("delete from customer where id = 4")
    conn.execute("call grace.purge()")
    assert value(conn, "select max(row_count) from grace.runs where kind = 'purge'") == 6
    conn.execute("select grace.set_retention(t, '1 day') from unnest(array['customer', 'item']::regclass[]) t")


def a_purge_of_whole_days(conn: Connection) -> None:
    conn.execute("delete from customer where id <= 3")
    conn.execute("select grace.restore('customer', keys => '1')")
    conn.execute("delete from customer where id = 5")
    for table in ("customer", "item"):
        move_into_the_past(conn, table, 40)
    conn.execute("update grace_internal.restored set deleted_at = deleted_at - interval '40 days'")
    assert found(conn) == []
    conn.execute("delete from customer where id = 4")
    conn.execute("call grace.purge()")
    assert value(conn, "select row_count from grace.runs where kind = 'purge'") == 9
    conn.execute("select grace.set_retention(t, '90 days') from unnest(array['customer', 'item']::regclass[]) t")


def unprotected_and_protected_again(conn: Connection) -> None:
    conn.execute("delete from customer where id = 1")
    conn.execute("select grace.unprotect('item'); select grace.unprotect('customer')")
    assert found(conn) == []
    conn.execute("delete from customer where id = 2; alter table customer add column extra int")
    conn.execute("select grace.protect('customer')")
    conn.execute("delete from customer where id = 3")


def a_table_that_was_dropped(conn: Connection) -> None:
    conn.execute("delete from customer where id = 1; delete from item where line = 1")
    conn.execute("set grace.allow_drop = on; drop table item; reset grace.allow_drop")


def a_capture_in_every_isolation_level(conn: Connection) -> None:
    for number, level in enumerate(("read committed", "repeatable read", "serializable"), start=1):
        conn.execute(f"begin isolation level {level}; delete from customer where id = {number}; commit".encode())


def upgrades(conn: Connection) -> None:
    conn.execute("delete from customer where id = 1")
    conn.execute("select grace_internal.generate_capture(id) from grace_internal.protected")
    conn.execute("select grace.sync()")
    conn.execute("delete from customer where id = 2")


SCENARIOS: list[Callable[[Connection], None]] = [
    several_deletes,
    other_ways_to_delete,
    several_statements_of_one_transaction,
    savepoints,
    the_first_capture_rolled_back_to_a_savepoint,
    exception_blocks,
    procedures_that_commit,
    truncates,
    partitioned_tables,
    inheritance_trees,
    self_references,
    restores_of_every_kind,
    restores_refused_for_a_conflict,
    a_restore_of_several_deletions_at_once,
    vacuums_and_rewrites,
    columns_that_come_and_go,
    columns_followed_by_the_capture_itself,
    a_shorter_and_a_longer_retention,
    a_purge_row_by_row,
    a_purge_of_whole_days,
    unprotected_and_protected_again,
    a_table_that_was_dropped,
    a_capture_in_every_isolation_level,
    upgrades,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.__name__))
def test_nothing_is_found_after(shop: Connection, scenario: Callable[[Connection], None]) -> None:
    scenario(shop)
    assert_nothing_is_found_but_would_be(shop)


def test_nothing_is_found_while_other_sessions_delete_restore_and_roll_back(db: Database, shop: Connection) -> None:
    shop.execute("delete from customer where id in (1, 2)")
    one, two = db.connect(), db.connect()
    with one.transaction():
        one.execute("delete from customer where id = 3")
        with two.transaction():
            two.execute("delete from customer where id = 4")
            assert found(shop) == []
            one.execute("delete from customer where id = 5")
            two.execute("delete from item where customer_id = 6")
            assert found(one) == found(two) == []
        assert found(shop) == []
        one.execute("select grace.restore('customer', keys => '1')")
        assert found(shop) == found(one) == []
    assert found(shop) == []
    with contextlib.suppress(psycopg.Rollback), two.transaction():
        two.execute("delete from customer where id > 10")
        raise psycopg.Rollback
    assert_nothing_is_found_but_would_be(shop)


def test_one_snapshot_serves_rows_and_log(db: Database, shop: Connection) -> None:
    shop.execute("delete from customer where id = 1")
    session = db.connect()
    with session.transaction():
        session.execute("set transaction isolation level repeatable read")
        session.execute("select 1")
        shop.execute("delete from customer where id = 2")
        shop.execute("select grace.restore(deletion => 1)")
        assert found(session) == []
        session.execute("update grace_buffer.customer set name = 'x' where false")
    assert_nothing_is_found_but_would_be(shop)


@pytest.mark.parametrize("blocked", ["grace_internal.capture", "grace_buffer.item"])
def test_rows_of_a_purge_that_left_something_are_not_missed_when_the_retention_is_raised(
    db: Database, shop: Connection, blocked: str
) -> None:
    shop.execute("delete from customer where id <= 3")
    shop.execute("select grace.set_retention(t, '1 second') from unnest(array['customer', 'item']::regclass[]) t")
    shop.execute("select pg_sleep(1.1)")
    other = db.connect()
    with other.transaction():
        other.execute(f"lock table {blocked} in share mode".encode())
        shop.execute("call grace.purge()")
    assert value(shop, "select status from grace.runs where kind = 'purge'") == "incomplete"
    assert value(shop, "select count(*) from grace_buffer.customer") == 0
    shop.execute("select grace.set_retention(t, '1 day') from unnest(array['customer', 'item']::regclass[]) t")
    shop.execute("delete from customer where id = 4")
    assert [finding for finding in found(shop) if finding[2] != WRITTEN] == []
    shop.execute("delete from grace_buffer.customer where id = 4")
    assert found(shop, "customer") == [("customer", 2, REMOVED, 1)]


TYPES = """
create type mood as enum ('glad', 'sad');
create domain code as text check (value <> '');
create table person (id int primary key, mood mood, code code, moods mood[]);
insert into person select n, 'glad', 'c', '{sad}' from generate_series(1, 10) n;
select grace.protect('person');
"""


def test_rows_rewritten_with_a_type_that_was_dropped_are_compared_by_number_and_later_ones_in_full(
    conn: Connection,
) -> None:
    conn.execute(TYPES.encode())
    conn.execute("delete from person where id <= 3")
    conn.execute("alter table person drop column mood, drop column moods; drop type mood")
    assert found(conn) == []
    conn.execute("delete from person where id in (4, 5)")
    assert found(conn) == []
    conn.execute("delete from grace_buffer.person where id = 1")
    assert found(conn) == [("person", 1, REMOVED, 1)]
    conn.execute("update grace_buffer.person set code = 'x' where id = 5")
    assert found(conn) == [("person", 1, REMOVED, 1), ("person", 2, WRITTEN, 1)]
    conn.execute("insert into grace_buffer.person (id, grace_deletion, grace_deleted_at) values (9, 99, now())")
    assert found(conn)[2:] == [("person", 99, WRITTEN, 1)]


def load_elsewhere(db: Database, elsewhere: Database, *options: str) -> Connection:
    dump = subprocess.run([binaries() / "pg_dump", "-d", db.conninfo, *options], capture_output=True, check=True).stdout
    subprocess.run(
        [binaries() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", elsewhere.conninfo],
        input=dump,
        capture_output=True,
        check=True,
    )
    return elsewhere.connect()


@pytest.fixture
def elsewhere(server: Server) -> Iterator[Database]:
    with _new_database(server, None) as database:
        yield database


def before_the_dump(conn: Connection) -> None:
    conn.execute("alter table customer add column gone int; alter table customer drop column gone")
    conn.execute("delete from customer where id <= 4")
    conn.execute("select grace.restore('customer', keys => '1')")
    conn.execute("delete from customer where id = 5")
    conn.execute("select grace.restore(deletion => 2)")


def test_a_dump_loaded_elsewhere_gives_no_false_alarm_and_only_numbers_can_betray_a_change(
    db: Database, shop: Connection, elsewhere: Database
) -> None:
    before_the_dump(shop)
    there = load_elsewhere(db, elsewhere)
    assert found(there) == []
    there.execute("delete from grace_buffer.customer where id = 2")
    assert found(there) == [("customer", 1, REMOVED, 1)]
    there.execute("insert into grace_buffer.customer (id, grace_deletion, grace_deleted_at) values (9, 99, now())")
    assert found(there) == [("customer", 1, REMOVED, 1), ("customer", 99, WRITTEN, 1)]


@pytest.mark.parametrize("first", ["a delete", "sync", "ddl", "a restore", "a purge"])
def test_in_a_loaded_dump_later_captures_are_verified_in_full_again(
    db: Database, shop: Connection, elsewhere: Database, first: str
) -> None:
    before_the_dump(shop)
    there = load_elsewhere(db, elsewhere)
    if first == "sync":
        there.execute("select grace.sync()")
    elif first == "ddl":
        there.execute("alter table customer add column extra int; alter table item add column extra int")
    elif first == "a restore":
        there.execute("select grace.restore('customer', keys => '2')")
    elif first == "a purge":
        there.execute("call grace.purge()")
    assert found(there) == []
    there.execute("delete from customer where id in (10, 11)")
    there.execute("select grace.restore('customer', keys => '10')")
    assert found(there) == []
    with there.transaction(force_rollback=True):
        there.execute("update grace_buffer.customer set name = name")
        assert found(there) == [("customer", 3, WRITTEN, 1)]
    there.execute("update grace_internal.restored set run_id = run_id where deletion = 3 and protected_id = 1")
    assert found(there) == [("customer", 3, RESTORED, 1)]


def test_a_copy_of_the_database_gives_no_false_alarm_and_later_captures_are_verified_in_full(
    db: Database, shop: Connection, server: Server
) -> None:
    before_the_dump(shop)
    shop.close()
    with _new_database(server, db.name) as copy:
        there = copy.connect()
        assert found(there) == []
        there.execute("delete from customer where id = 10")
        assert found(there) == []
        there.execute("update grace_buffer.customer set name = 'x' where id = 10")
        assert found(there) == [("customer", 3, WRITTEN, 1)]


def test_thousands_of_rows_captured_one_by_one_are_verified_in_a_moment(conn: Connection) -> None:
    conn.execute(
        "create table parent (id int); create table child () inherits (parent); select grace.protect('parent');"
        "insert into parent select generate_series(1, 3000)"
    )
    conn.execute(
        "do $$ begin for n in 1..3000 loop begin delete from parent where id = n;"
        " exception when division_by_zero then null; end; end loop; end $$"
    )
    assert value(conn, "select count(distinct xmin::text) from grace_internal.capture") == 3000
    conn.execute("set statement_timeout = '1s'")
    assert found(conn) == []
    conn.execute("update grace_buffer.parent set id = 0 where id in (1, 3000)")
    assert found(conn) == [("parent", 1, WRITTEN, 2)]
