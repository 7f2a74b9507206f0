"""Capacity: a buffer that is too big loses its oldest days before their time, on record, and never the day in progress."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.scheduling import at_once, heard, listen, make_older

# 400 rows are 800 kB.
SHOP = """
create table note (id int primary key, day int, text text);
alter table note alter text set storage external;
insert into note select n, n / 400, repeat('x', 1900) from generate_series(0, 2399) n;
"""
N = "public.note"
DAY_OF_ROWS = 400


def bounds(days_ago: int) -> datetime:
    """Return the last moment of a day, in UTC."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=days_ago - 1) - timedelta(microseconds=1)


def delete_days(conn: Connection, table: str, *days_ago: int) -> None:
    """Delete 400 rows of a table as of each of these days."""
    for number, days in enumerate(days_ago):
        conn.execute(f"delete from {table} where day = {number}".encode())
        if days:
            make_older(conn, table, days, value(conn, "select max(deletion) from grace_internal.capture"))
            conn.execute(f"vacuum (truncate) grace_buffer.{table}".encode())  # the rows were somewhere else before


def set_capacity(conn: Connection, *arguments: Any) -> list[tuple[Any, ...]]:
    placeholders = ", ".join(["%s::text", "%s::regclass", "%s"][: len(arguments)])
    return rows(conn, f"select * from grace.set_capacity({placeholders})", *arguments)


def deletions(conn: Connection, table: str = "note") -> list[int]:
    return [
        row[0] for row in rows(conn, "select id from grace.deletions where target = %s::regclass order by id", table)
    ]


def capacity_problems(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(conn, "select object, finding from grace.doctor() where subject = 'capacity' and severity = 'problem'")


@pytest.fixture
def note(conn: Connection) -> Connection:
    conn.execute(SHOP.encode())
    conn.execute("select grace.protect('note')")
    return conn


def test_without_a_capacity_nothing_goes_early(note: Connection) -> None:
    delete_days(note, "note", 20, 10, 1, 0)
    note.execute("call grace.purge()")
    assert deletions(note) == [1, 2, 3, 4]
    assert rows(note, "select capacity, expired_early_to from grace.protected") == [(None, None)]
    assert value(note, "select grace.capacity()") is None


@pytest.mark.parametrize("table", ["note", None], ids=["of the table", "of all together"])
def test_the_oldest_days_go_first_and_no_more_than_have_to(db: Database, note: Connection, table: str | None) -> None:
    listener = listen(db)
    delete_days(note, "note", 20, 10, 1, 0)
    early = [(N, 2 * DAY_OF_ROWS, bounds(10))]
    assert set_capacity(note, "2 MB", table) == early
    assert deletions(note) == [1, 2, 3, 4]  # the next purge does it
    note.execute("call grace.purge()")
    assert deletions(note) == [3, 4]
    assert value(note, "select count(*) from grace_buffer.note") == 2 * DAY_OF_ROWS
    assert rows(
        note, "select kind, job, target::text, status, row_count, details from grace.runs where id > 1 order by id"
    ) == [
        (
            "capacity",
            None,
            table,
            "done",
            0,
            {"before": None, "after": 2 * 1024 * 1024},
        ),
        ("purge", "purge", None, "done", 800, {"tables": {N: 800}}),
        (
            "capacity",
            None,
            "note",
            "done",
            800,
            {
                "table": N,
                "capacity": 2 * 1024 * 1024,
                "expired_early_to": value(note, "select to_jsonb(expired_early_to) from grace.protected"),
            },
        ),
    ]
    assert rows(note, "select action, target_name, row_count, deleted_before from grace.ledger order by id") == [
        ("expired early", N, 800, bounds(10)),
        ("purged", N, 800, bounds(10)),
    ]
    (sent,) = heard(listener)
    assert (sent["kind"], sent["status"], sent["table"], sent["rows"]) == ("capacity", "done", N, 800)
    assert rows(note, "select expired_early_to from grace.protected") == [(bounds(10),)]
    note.execute("call grace.purge()")
    assert deletions(note) == [3, 4]
    assert value(note, "select count(*) from grace.runs where kind = 'capacity'") == 2
    assert heard(listener) == []
    assert rows(note, "select from grace.verify_buffer()") == []
    assert rows(note, "select from grace.verify_ledger()") == []
    note.execute("select grace.restore(deletion => 3)")
    assert value(note, "select count(*) from note where day = 2") == DAY_OF_ROWS


def test_the_day_in_progress_never_goes(note: Connection) -> None:
    delete_days(note, "note", 10, 0, 0, 0)
    assert set_capacity(note, "1 MB", "note") == [(N, DAY_OF_ROWS, bounds(10))]
    note.execute("call grace.purge()")
    assert deletions(note) == [2, 3, 4]
    assert set_capacity(note, "1 MB", "note", True) == []
    note.execute("call grace.purge()")
    assert deletions(note) == [2, 3, 4]
    note.execute("select grace.restore(deletion => 2)")


def test_what_is_in_the_default_partition_stays(note: Connection) -> None:
    for (name,) in rows(note, "select relname from pg_class where relname ~ '^b1_\\d'"):
        note.execute(f"drop table grace_internal.{name}".encode())
    delete_days(note, "note", 0, 0, 0)
    assert set_capacity(note, "1 MB", "note") == []
    note.execute("call grace.purge()")
    assert deletions(note) == [1, 2, 3]


def test_a_purge_of_one_table_lets_nothing_go_early(note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    note.execute("call grace.purge('note')")
    assert deletions(note) == [1, 2]


def test_what_has_expired_anyway_makes_room_first(note: Connection) -> None:
    delete_days(note, "note", 40, 10)
    assert set_capacity(note, "1 MB", "note") == []
    note.execute("call grace.purge()")
    assert deletions(note) == [2]
    assert rows(note, "select action from grace.ledger") == [("purged",)]


def test_a_dry_run_tells_the_same_and_changes_nothing(note: Connection) -> None:
    delete_days(note, "note", 20, 10, 1)
    before = rows(note, "select count(*), max(id) from grace.runs")
    for table in ("note", None):
        told = set_capacity(note, "1 MB", table, True)
        assert told == [(N, 2 * DAY_OF_ROWS, bounds(10))]
        assert rows(note, "select count(*), max(id) from grace.runs") == before
        assert rows(note, "select capacity from grace.protected") == [(None,)]
        assert value(note, "select grace.capacity()") is None
    note.execute("call grace.purge()")
    assert deletions(note) == [1, 2, 3]
    assert set_capacity(note, "1 MB") == told
    with note.transaction(force_rollback=True):
        set_capacity(note, None)
    note.execute("call grace.purge()")
    assert rows(note, "select row_count, deleted_before from grace.ledger where action = 'expired early'") == [
        row[1:] for row in told
    ]


def test_null_takes_it_away(note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    set_capacity(note, "1 MB")
    assert value(note, "select grace.capacity()") == 1024 * 1024
    assert set_capacity(note, None, "note") == [(N, DAY_OF_ROWS, bounds(10))]  # the other one is still there
    assert set_capacity(note, None) == []
    assert value(note, "select grace.capacity()") is None
    note.execute("call grace.purge()")
    assert deletions(note) == [1, 2]


def test_what_was_restored_is_not_counted(note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    note.execute("select grace.restore('note', keys => '[0, 1, 2]')")
    assert set_capacity(note, "1 MB", "note") == [(N, DAY_OF_ROWS - 3, bounds(10))]
    note.execute("call grace.purge()")
    assert rows(note, "select action, row_count from grace.ledger order by id") == [
        ("expired early", 397),
        ("purged", 397),
    ]


def test_raising_it_or_the_retention_later_brings_nothing_back(db: Database, note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    reader = db.connect()
    with reader.transaction():
        reader.execute("select from grace_buffer.note")
        note.execute("call grace.purge()")  # the rows are still there
    assert value(note, "select count(*) from grace_buffer.note") == 2 * DAY_OF_ROWS
    set_capacity(note, None, "note")
    note.execute("select grace.set_retention('note', '60 days')")
    assert deletions(note) == [2]
    with pytest.raises(psycopg.Error) as caught:
        note.execute("select grace.restore(deletion => 1)")
    assert caught.value.sqlstate == "GR007"
    note.execute("call grace.purge()")
    assert value(note, "select count(*) from grace_buffer.note") == DAY_OF_ROWS
    note.execute("select grace.restore(deletion => 2)")


def test_what_has_gone_early_is_neither_seen_nor_restored_though_a_lock_keeps_it(
    db: Database, note: Connection, role: Any
) -> None:
    operator = role("operator")
    note.execute(f"grant grace_operator to {operator}; grant select, insert on note to {operator}".encode())
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    reader, session = db.connect(), db.connect(user=operator)
    assert value(session, "select count(*) from grace_buffer.note") == 2 * DAY_OF_ROWS
    with reader.transaction():
        reader.execute("select from grace_buffer.note")
        note.execute("call grace.purge()")
        assert value(note, "select status from grace.runs where kind = 'purge'") == "incomplete"
        assert value(note, "select count(*) from grace_buffer.note") == 2 * DAY_OF_ROWS
        assert value(session, "select count(*) from grace_buffer.note") == DAY_OF_ROWS
        assert deletions(session) == [2]
        assert value(session, "select count(*) from grace.buffered('note')") == DAY_OF_ROWS
        assert value(session, "select buffered_rows from grace.protected") == DAY_OF_ROWS
        assert rows(session, "select target::text, row_count from grace.expired") == [("note", DAY_OF_ROWS)]
        for call in (
            "deletion => 1",
            "'note', keys => '1'",
            "'note', deletion => 1, dry_run => true",
            "'note', deletion => 1, into_table => 'note'",
        ):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(f"select grace.restore({call})".encode())
            assert caught.value.sqlstate == "GR007"
        assert rows(note, "select from grace.verify_buffer()") == []
    note.execute("call grace.purge()")
    assert value(note, "select count(*) from grace_buffer.note") == DAY_OF_ROWS
    assert rows(note, "select action, row_count from grace.ledger order by id") == [
        ("expired early", DAY_OF_ROWS),
        ("purged", DAY_OF_ROWS),
    ]


FAMILY = """
create table parent (id int primary key, day int, text text);
alter table parent alter text set storage external;
create table child (parent_id int references parent on delete cascade, line int, primary key (parent_id, line));
insert into parent select n, n / 400, repeat('x', 1900) from generate_series(0, 1599) n;
insert into child select id, 1 from parent;
"""


def test_what_was_deleted_together_goes_together(conn: Connection) -> None:
    conn.execute(FAMILY.encode())
    conn.execute("select grace.protect('parent')")
    for number, days in enumerate((20, 10, 0)):
        conn.execute("delete from parent where day = %s", (number,))
        for table in ("parent", "child"):
            if days:
                make_older(conn, table, days, number + 1)
        conn.execute("vacuum (truncate) grace_buffer.parent, grace_buffer.child")
    assert set_capacity(conn, "2 MB") == [
        ("public.parent", DAY_OF_ROWS, bounds(20)),
        ("public.child", DAY_OF_ROWS, bounds(20)),
    ]
    conn.execute("call grace.purge()")
    for table in ("parent", "child"):
        assert deletions(conn, table) == [2, 3]
    assert rows(conn, "select action, target_name, row_count from grace.ledger order by id") == [
        ("expired early", "public.parent", 400),
        ("expired early", "public.child", 400),
        ("purged", "public.child", 400),
        ("purged", "public.parent", 400),
    ]
    conn.execute("select grace.restore(deletion => 2)")
    assert value(conn, "select count(*) from child where parent_id between 400 and 799") == DAY_OF_ROWS


def test_a_capacity_of_one_table_leaves_the_others(note: Connection) -> None:
    note.execute(SHOP.replace("note", "other").encode())
    note.execute("select grace.protect('other')")
    for table in ("note", "other"):
        delete_days(note, table, 10, 5)
    assert set_capacity(note, "1 MB", "other") == [("public.other", DAY_OF_ROWS, bounds(10))]
    note.execute("call grace.purge()")
    assert deletions(note) == [1, 2]
    assert deletions(note, "other") == [4]


def test_doctor_and_status_say_for_which_tables_the_retention_is_not_kept(db: Database, note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    ((table, finding),) = capacity_problems(note)
    assert table == N
    assert "may have 1024 kB" in finding
    note.execute("call grace.purge()")
    ((table, finding),) = capacity_problems(note)
    assert table == N
    assert "has expired early" in finding
    assert "of 30 days" in finding
    printed = db.cli("status")
    assert "note: what was deleted up to" in printed.stdout
    assert "has expired early" in printed.stderr
    note.execute("select grace.set_retention('note', '1 day')")
    assert capacity_problems(note) == []


@pytest.mark.parametrize(
    "capacity",
    ["abc", "-1", "1 kB", "", "99999 PB", "1023 kB", "0", "NaN", "1 MB; drop table note", "-1 GB", "1e99999"],
)
@pytest.mark.parametrize("table", ["note", None])
def test_what_is_no_capacity_is_refused(note: Connection, capacity: str, table: str | None) -> None:
    for dry_run in (True, False):
        with pytest.raises(psycopg.Error) as caught:
            set_capacity(note, capacity, table, dry_run)
        assert caught.value.sqlstate == "GR025"
        assert caught.value.diag.message_detail
        assert caught.value.diag.message_hint
    assert value(note, "select count(*) from grace.runs where kind = 'capacity'") == 0


@pytest.mark.parametrize(
    ("capacity", "size"),
    [("1 MB", 2**20), ("1024 kB", 2**20), ("1.5 GB", 3 * 2**29), (" 2097152 ", 2**21), ("1mb", 2**20)],
)
def test_what_is_one_is_read_as_postgresql_does(note: Connection, capacity: str, size: int) -> None:
    set_capacity(note, capacity)
    assert value(note, "select grace.capacity()") == size


def test_a_table_that_is_not_protected_has_none(note: Connection) -> None:
    note.execute("create table other (id int primary key)")
    with pytest.raises(psycopg.Error) as caught:
        set_capacity(note, "1 GB", "other")
    assert caught.value.sqlstate == "GR001"


def test_it_takes_the_right_on_the_table_and_for_all_together_on_each(
    db: Database, note: Connection, role: Any
) -> None:
    admin, operator = role("admin"), role("operator")
    note.execute("create table other (id int primary key); select grace.protect('other')")
    note.execute(f"grant grace_admin to {admin}; grant grace_operator to {operator}".encode())
    note.execute(f"grant trigger on other to {admin}".encode())
    session = db.connect(user=admin)
    set_capacity(session, "1 GB", "other")
    for dry_run in (True, False):
        for table in ("note", None):
            with pytest.raises(errors.InsufficientPrivilege):
                set_capacity(session, "1 GB", table, dry_run)
    with pytest.raises(errors.InsufficientPrivilege):
        set_capacity(db.connect(user=operator), None)
    note.execute(f"grant trigger on note to {admin}".encode())
    set_capacity(session, "1 GB")
    assert value(db.connect(user=operator), "select grace.capacity()") == 2**30


def test_what_is_kept_of_a_table_that_is_no_longer_protected_takes_the_right_as_well(
    db: Database, note: Connection, role: Any
) -> None:
    admin = role("admin")
    note.execute(f"grant grace_admin to {admin}".encode())
    delete_days(note, "note", 10, 5)
    note.execute("select grace.unprotect('note')")
    session = db.connect(user=admin)
    for table in ("note", None):
        with pytest.raises(errors.InsufficientPrivilege):
            set_capacity(session, "1 MB", table)
    assert set_capacity(note, "1 MB", "note") == [(N, DAY_OF_ROWS, bounds(10))]
    note.execute("call grace.purge()")
    assert value(note, "select count(*) from grace_buffer.note") == DAY_OF_ROWS


def test_what_is_kept_of_a_table_that_was_dropped_goes_early_too(note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    note.execute("set grace.allow_drop = on; drop table note")
    assert set_capacity(note, "1 MB") == [(N, DAY_OF_ROWS, bounds(10))]
    note.execute("call grace.purge()")
    assert value(note, "select count(*) from grace_buffer.note") == DAY_OF_ROWS
    assert rows(note, "select action, target_name, row_count from grace.ledger order by id") == [
        ("expired early", N, 400),
        ("purged", N, 400),
    ]


def test_a_partition_means_its_root(note: Connection) -> None:
    note.execute(
        b"create table p (id int primary key) partition by range (id); create table p_1 partition of p for values from (0) to (10)"
    )
    note.execute("select grace.protect('p')")
    set_capacity(note, "1 GB", "p_1")
    assert rows(note, "select capacity from grace.protected where target = 'p'::regclass") == [(2**30,)]


def test_files_count_and_go_with_their_rows(conn: Connection) -> None:
    conn.execute("create table scan (id int primary key, image oid)")
    conn.execute("select grace.protect('scan', files => '{image}')")
    conn.execute(
        b"insert into scan select n, lo_from_bytea(0, decode(repeat(md5(n::text), 30000), 'hex')) from generate_series(1, 4) n"
    )
    kept = value(conn, "select count(*) from pg_largeobject_metadata")
    assert kept == 4
    # Random bytes, so that nothing is compressed.
    conn.execute(
        b"do $$ declare s record; begin for s in select image from scan loop"
        b" perform lo_put(s.image, 0, (select string_agg(sha512((random() * n)::text::bytea), '') from generate_series(1, 12000) n));"
        b" end loop; end $$"
    )
    for number, days in ((1, 10), (2, 5)):
        conn.execute("delete from scan where id = %s", (number,))
        make_older(conn, "scan", days, number)
        conn.execute(
            "select grace_internal.create_leaf('f1', 'grace_internal.f1', (now() at time zone 'UTC')::date - %s)",
            (days,),
        )
        conn.execute(
            "update grace_internal.f1 set grace_deleted_at = grace_deleted_at - make_interval(days => %s)"
            " where grace_deletion = %s",
            (days, number),
        )
    conn.execute("vacuum (truncate) grace_internal.f1, grace_buffer.scan")
    assert value(conn, "select buffer_bytes from grace.protected") > 1.4 * 2**20
    assert set_capacity(conn, "1 MB", "scan") == [("public.scan", 1, bounds(10))]
    conn.execute("call grace.purge()")
    assert rows(conn, "select id from grace_buffer.scan") == [(2,)]
    assert value(conn, "select count(distinct grace_deletion) from grace_internal.f1") == 1
    assert value(conn, "select count(*) from pg_largeobject_metadata") == 3
    conn.execute("select grace.restore(deletion => 2)")
    assert value(conn, "select sum(length(lo_get(image))) from scan where id = 2") == 768000


def test_whoever_holds_the_settings_of_a_table_does_not_stop_the_purge(db: Database, note: Connection) -> None:
    note.execute("create table other (id int primary key); insert into other values (1); select grace.protect('other')")
    note.execute("delete from other")
    make_older(note, "other", 31)
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    undecided = db.connect()
    note.execute("set statement_timeout = '10s'")
    with undecided.transaction(force_rollback=True):
        undecided.execute("select grace.set_retention('note', '60 days')")
        note.execute("call grace.purge()")
        assert value(note, "select count(*) from grace_buffer.other") == 0
        assert deletions(note) == [2, 3]
    note.execute("call grace.purge()")
    assert deletions(note) == [3]


def test_two_purges_at_once_put_it_on_record_once(db: Database, note: Connection) -> None:
    delete_days(note, "note", 10, 5)
    set_capacity(note, "1 MB", "note")
    failed = at_once([db.connect() for _ in range(3)], "call grace.purge()")
    assert {error.sqlstate for error in failed} <= {"GR014"}
    assert rows(note, "select action, row_count from grace.ledger order by id") == [
        ("expired early", DAY_OF_ROWS),
        ("purged", DAY_OF_ROWS),
    ]


def test_a_purge_does_not_wait_for_a_leaf_whose_size_it_wants(db: Database, conn: Connection) -> None:
    conn.execute("create table note (id int primary key)")
    conn.execute("insert into note values (1)")
    conn.execute("select grace.protect('note')")
    conn.execute("delete from note")
    conn.execute("select from grace.set_capacity('1 MB')")
    other = db.connect()
    with other.transaction():
        other.execute("lock table grace_buffer.note in access exclusive mode")
        conn.execute("set statement_timeout = '10s'")
        conn.execute("call grace.purge()")
    ((status, details),) = rows(conn, "select status, details from grace.runs where kind = 'purge'")
    assert status == "incomplete"
    assert details["left_for_next_run"][0] == "capacity"
