"""The ledger: what has gone for good is in it, by counts; whatever is changed in it afterwards is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server
from tests.sql.scheduling import at_once, in_the_middle, kill, make_older

SHOP = """
create table customer (id int primary key, mail text);
create table item (customer_id int references customer on delete cascade, line int, primary key (customer_id, line));
insert into customer select n, 'secret ' || n from generate_series(1, 20) n;
insert into item select id, line from customer, generate_series(1, 3) line;
"""
C, I = "public.customer", "public.item"  # noqa: E741
CHANGED, MISSING, ANOTHER = "changed", "entries before it are missing", "the entry before it is another one"
HOLD_LEDGER = "lock table grace_internal.ledger in exclusive mode"


def entries(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(conn, "select action, target_name, row_count from grace.ledger order by id")


def verified(conn: Connection) -> list[tuple[int, str]]:
    return rows(conn, "select id, finding from grace.verify_ledger()")


@pytest.fixture
def shop(conn: Connection) -> Connection:
    conn.execute(SHOP.encode())
    conn.execute("select grace.protect('customer')")
    return conn


def expire(conn: Connection, customer: int) -> None:
    conn.execute("delete from customer where id = %s", (customer,))
    newest = value(conn, "select max(deletion) from grace_internal.capture")
    for table in ("customer", "item"):
        make_older(conn, table, 31, newest)


def test_a_purge_leaves_an_entry_per_table_with_counts(shop: Connection) -> None:
    for customer in (1, 2):
        expire(shop, customer)
    shop.execute("delete from customer where id = 3")
    shop.execute("call grace.purge()")
    assert entries(shop) == [("purged", C, 2), ("purged", I, 6)]
    (run,) = rows(shop, "select id from grace.runs where kind = 'purge'")[0]
    assert rows(
        shop,
        "select distinct l.run, l.role, l.deleted_before = r.started_at - interval '30 days', l.at >= r.started_at"
        " from grace.ledger l join grace.runs r on r.id = l.run",
    ) == [(run, "postgres", True, True)]
    shop.execute("call grace.purge()")
    assert len(entries(shop)) == 2  # nothing has gone, so there is nothing to say
    assert verified(shop) == []


def test_what_was_restored_does_not_count(shop: Connection) -> None:
    shop.execute("delete from customer where id in (1, 2)")
    shop.execute("select grace.restore('customer', keys => '1')")
    shop.execute("update grace_internal.restored set deleted_at = deleted_at - interval '31 days'")
    for table in ("customer", "item"):
        make_older(shop, table, 31)
    shop.execute("call grace.purge()")
    assert entries(shop) == [("purged", C, 1), ("purged", I, 3)]


def test_what_a_rollback_has_undone_is_not_in_it(shop: Connection) -> None:
    with shop.transaction(force_rollback=True):
        shop.execute("delete from customer where id = 1")
    shop.execute("select grace.set_retention('customer', '1 second')")
    shop.execute("select grace.set_retention('item', '1 second')")
    shop.execute("select pg_sleep(1.1)")
    shop.execute("call grace.purge()")
    assert entries(shop) == []


def test_what_a_purge_had_removed_before_it_was_aborted_is_in_it(db: Database, shop: Connection) -> None:
    expire(shop, 1)
    with in_the_middle(db, "call grace.purge()", HOLD_LEDGER) as victim:
        kill(shop, victim)
    assert entries(shop) == []
    expire(shop, 2)
    shop.execute("call grace.purge()")
    assert entries(shop) == [("purged", C, 1), ("purged", I, 3)] * 2
    assert rows(shop, "select r.status from grace.ledger l join grace.runs r on r.id = l.run order by l.id") == [
        ("aborted",),
        ("aborted",),
        ("done",),
        ("done",),
    ]
    assert verified(shop) == []


def test_names_are_kept_as_they_are(shop: Connection) -> None:
    shop.execute("""alter table customer rename to "Odd ""N'ame\n, é" """)
    shop.execute("""delete from "Odd ""N'ame\n, é" where id = 1""")
    make_older(shop, """ "Odd ""N'ame\n, é" """, 31)
    shop.execute("call grace.purge()")
    assert entries(shop) == [("purged", 'public."Odd ""N\'ame\n, é"', 1)]
    assert verified(shop) == []


SETTINGS = [
    "set timezone = 'Asia/Kathmandu'",
    "set datestyle = 'German, DMY'",
    "set extra_float_digits = -15",
    "set bytea_output = 'escape'",
    "set intervalstyle = 'sql_standard'",
    "set client_encoding = 'LATIN1'",
    "set default_transaction_isolation = 'serializable'",
    "set search_path = ''",
    "set lc_numeric = 'C'",
]


def test_whatever_a_session_has_set_it_writes_and_reads_the_same(db: Database, shop: Connection) -> None:
    shop.execute('alter table item rename to "ítem"')
    sessions = []
    for number, setting in enumerate(SETTINGS, start=1):
        session = db.connect()
        session.execute(setting.encode())
        shop.execute("delete from customer where id = %s", (number,))
        newest = value(shop, "select max(deletion) from grace_internal.capture")
        for table in ("customer", '"ítem"'):
            make_older(shop, table, 31, newest)
        session.execute("call grace.purge()")
        sessions.append(session)
    assert entries(shop) == [("purged", 'public."ítem"', 3), ("purged", C, 1)] * len(SETTINGS)
    hashes = rows(shop, "select id, hash from grace.ledger order by id")
    for session in sessions:
        assert verified(session) == []
        assert rows(session, "select id, hash from grace.ledger order by id") == hashes


def test_several_sessions_that_write_at_once_make_one_chain(db: Database, shop: Connection) -> None:
    sessions = [db.connect() for _ in range(6)]
    for _ in range(5):
        assert at_once(sessions, "select grace_internal.record(1, 'purged', 'public.customer', 1, now())") == []
    assert value(shop, "select count(*) from grace.ledger") == 30
    assert verified(shop) == []


def test_an_entry_that_is_rolled_back_leaves_no_gap(shop: Connection) -> None:
    write = "select grace_internal.record(1, 'purged', 'public.customer', 1, null)"
    shop.execute(write)
    with shop.transaction(force_rollback=True):
        shop.execute(write)
    shop.execute(write)
    assert rows(shop, "select id from grace.ledger order by id") == [(1,), (2,)]
    assert verified(shop) == []


@pytest.fixture(scope="module")
def written(server: Server, template: str) -> Iterator[Connection]:
    """Six entries, for the tests that tamper, each in a transaction that is rolled back."""
    with _new_database(server, template) as database:
        conn = database.connect()
        conn.execute(SHOP.encode())
        conn.execute("select grace.protect('customer')")
        for customer in (1, 2, 3):
            expire(conn, customer)
            conn.execute("call grace.purge()")
        assert len(entries(conn)) == 6
        assert verified(conn) == []
        yield conn


L = "grace_internal.ledger"
REHASH = f"update {L} l set hash = grace_internal.ledger_hash(l)"
TAMPERED: dict[str, tuple[str, list[tuple[int, str]]]] = {
    "count": (f"update {L} set row_count = row_count + 1 where id = 2", [(2, CHANGED)]),
    "time": (f"update {L} set at = at + interval '1 microsecond' where id = 2", [(2, CHANGED)]),
    "deleted before": (f"update {L} set deleted_before = null where id = 2", [(2, CHANGED)]),
    "table": (f"update {L} set target_name = 'public.other' where id = 2", [(2, CHANGED)]),
    "action": (f"update {L} set action = 'expired early' where id = 2", [(2, CHANGED)]),
    "run": (f"update {L} set run_id = 0 where id = 2", [(2, CHANGED)]),
    "role": (f"update {L} set role = 'nobody' where id = 6", [(6, CHANGED)]),
    "hash": (f"update {L} set hash = sha256('x') where id = 2", [(2, CHANGED), (3, ANOTHER)]),
    "previous hash": (f"update {L} set previous = sha256('x') where id = 2", [(2, CHANGED), (2, ANOTHER)]),
    "all counts": (f"update {L} set row_count = 0", [(number, CHANGED) for number in range(1, 7)]),
    "removed in the middle": (f"delete from {L} where id = 3", [(4, MISSING)]),
    "removed at the beginning": (f"delete from {L} where id = 1", [(2, MISSING)]),
    "removed several": (f"delete from {L} where id in (2, 3, 5)", [(4, MISSING), (6, MISSING)]),
    "removed and numbered anew": (
        f"delete from {L} where id = 3; update {L} set id = id - 1 where id > 3",
        [(3, CHANGED), (3, ANOTHER), (4, CHANGED), (5, CHANGED)],
    ),
    "removed at the beginning and numbered anew": (
        f"delete from {L} where id = 1; update {L} set id = id - 1",
        [(1, CHANGED), (1, ANOTHER), *((number, CHANGED) for number in range(2, 6))],
    ),
    "inserted": (
        f"update {L} set id = -id where id > 2; update {L} set id = 1 - id where id < 0;"
        f" insert into {L} select 3, at, run_id, action, target_name, row_count, deleted_before, role, hash, sha256('x')"
        f" from {L} where id = 2",
        [(3, CHANGED), (4, CHANGED), (4, ANOTHER), (5, CHANGED), (6, CHANGED), (7, CHANGED)],
    ),
    "inserted with its own hash": (
        f"update {L} set id = -id where id > 2; update {L} set id = 1 - id where id < 0;"
        f" insert into {L} select 3, at, run_id, action, target_name, row_count, deleted_before, role, hash, ''"
        f" from {L} where id = 2; {REHASH} where id = 3",
        [(4, CHANGED), (4, ANOTHER), (5, CHANGED), (6, CHANGED), (7, CHANGED)],
    ),
    "put before the first": (
        f"insert into {L} select 0, at, run_id, action, target_name, row_count, deleted_before, role, '', sha256('x')"
        f" from {L} where id = 1",
        [(0, CHANGED), (0, MISSING), (1, ANOTHER)],
    ),
    "swapped": (
        f"update {L} set id = case id when 2 then 4 when 4 then 2 end where id in (2, 4)",
        [(2, CHANGED), (2, ANOTHER), (3, ANOTHER), (4, CHANGED), (4, ANOTHER), (5, ANOTHER)],
    ),
    "content swapped": (
        f"update {L} l set row_count = o.row_count, target_name = o.target_name from {L} o"
        " where (l.id, o.id) in ((1, 2), (2, 1))",
        [(1, CHANGED), (2, CHANGED)],
    ),
    "hash made anew": (
        f"update {L} set row_count = 0 where id = 2; {REHASH} where id = 2",
        [(3, ANOTHER)],
    ),
    "hash and the next one's made anew": (
        f"update {L} set row_count = 0 where id = 2; {REHASH} where id = 2;"
        f" update {L} set previous = (select hash from {L} where id = 2) where id = 3; {REHASH} where id = 3",
        [(4, ANOTHER)],
    ),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_what_was_changed_by_hand_is_found(written: Connection, change: str) -> None:
    statements, expected = TAMPERED[change]
    with written.transaction(force_rollback=True):
        if "numbered anew" in change or change in ("swapped", "inserted", "inserted with its own hash"):
            written.execute(f"alter table {L} drop constraint ledger_pkey".encode())
        written.execute(statements.encode())
        assert verified(written) == expected
        assert sorted(rows(written, "select object, finding from grace.doctor() where subject = 'ledger'")) == sorted(
            (f"entry {number}", finding) for number, finding in expected
        )
    assert verified(written) == []


@pytest.mark.parametrize(
    "change",
    [
        f"delete from {L} where id > 4",
        f"update {L} set row_count = 0 where id = 6; {REHASH} where id = 6",
        f"truncate {L}",
    ],
)
def test_what_only_a_hash_that_was_kept_elsewhere_tells(written: Connection, change: str) -> None:
    kept = value(written, "select hash from grace.ledger where id = 6")
    with written.transaction(force_rollback=True):
        written.execute(change.encode())
        assert verified(written) == []
        assert value(written, "select count(*) from grace.ledger where hash = %s", kept) == 0


def test_who_may_read_it_and_that_nobody_may_write_it(db: Database, shop: Connection, role: Any) -> None:
    expire(shop, 1)
    shop.execute("call grace.purge()")
    readers = {}
    for group in ("grace_auditor", "grace_operator", "grace_admin"):
        readers[group] = role("reader")
        shop.execute(f"grant {group} to {readers[group]}".encode())
    stranger = role("stranger")
    for group, name in readers.items():
        session = db.connect(user=name)
        assert entries(session) == [("purged", C, 1), ("purged", I, 3)]
        if group != "grace_operator":
            assert verified(session) == []
    for name in (*readers.values(), stranger):
        session = db.connect(user=name)
        for statement in (
            "update grace.ledger set row_count = 0",
            "delete from grace.ledger",
            "insert into grace.ledger (id) values (9)",
            "truncate grace_internal.ledger",
            "select * from grace_internal.ledger",
            "select grace_internal.record(1, 'purged', 'x', 1, null)",
            "select grace_internal.record_purge(1)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(statement.encode())
    for statement in ("select from grace.ledger", "select from grace.verify_ledger()"):
        with pytest.raises(errors.InsufficientPrivilege):
            db.connect(user=stranger).execute(statement.encode())
    with pytest.raises(errors.InsufficientPrivilege):
        verified(db.connect(user=readers["grace_operator"]))


def test_it_has_nothing_of_the_rows(shop: Connection) -> None:
    expire(shop, 1)
    shop.execute("call grace.purge()")
    assert "secret" not in str(rows(shop, "select l::text from grace_internal.ledger l"))


def test_a_dump_takes_it_along(server: Server, db: Database, shop: Connection, tmp_path: Any) -> None:
    import subprocess  # noqa: PLC0415

    from pg_grace.cluster import binaries  # noqa: PLC0415

    expire(shop, 1)
    shop.execute("call grace.purge()")
    dump = tmp_path / "dump"
    subprocess.run([binaries() / "pg_dump", "-Fc", "-f", dump, db.conninfo], check=True)
    with _new_database(server, None) as copy:
        subprocess.run([binaries() / "pg_restore", "-d", copy.conninfo, dump], check=True)
        conn = copy.connect()
        assert entries(conn) == entries(shop)
        assert verified(conn) == []
        conn.execute("delete from customer where id = 2")
        for table in ("customer", "item"):
            make_older(conn, table, 31)
        conn.execute("call grace.purge()")
        assert entries(conn) == [("purged", C, 1), ("purged", I, 3)] * 2
        assert verified(conn) == []
