"""Purge: invisible from the second of expiry, gone soon after, and never in the way."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def note(conn: Connection) -> Connection:
    conn.execute(
        b"create table note (id int primary key, text text); insert into note select n, 'n' from generate_series(1, 100) n"
    )
    conn.execute("select grace.protect('note')")
    return conn


def age(conn: Connection, days: float) -> None:
    """Make everything in the buffer older: the leaf of today becomes that of an earlier day, rows and log with it."""
    moved = timedelta(days=days)
    for (name,) in rows(conn, "select relname from pg_class where relname ~ '^b1_\\d{8}$'"):
        conn.execute(f"alter table grace_buffer.note detach partition grace_internal.{name}")
        conn.execute(f"alter table grace_internal.{name} rename to old_{name}")
    for (name,) in rows(conn, "select relname from pg_class where relname ~ '^old_b1_\\d{8}$' and relpages >= 0"):
        day = datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC) - timedelta(days=int(days))
        conn.execute(
            f"update grace_internal.{name} set grace_deleted_at = grace_deleted_at - %s", (timedelta(days=int(days)),)
        )
        new = f"b1_{day:%Y%m%d}"
        conn.execute(f"alter table grace_internal.{name} rename to {new}")
        conn.execute(
            f"alter table grace_buffer.note attach partition grace_internal.{new}"
            f" for values from ('{day:%Y-%m-%d} 00:00+00') to ('{day + timedelta(days=1):%Y-%m-%d} 00:00+00')"
        )
    conn.execute("update grace_internal.capture set deleted_at = deleted_at - %s", (moved,))


def leaves(conn: Connection) -> list[str]:
    return [name for (name,) in rows(conn, "select relname from pg_class where relname ~ '^b1_' order by 1")]


def last_run(conn: Connection) -> tuple[Any, ...]:
    return rows(
        conn, "select status, row_count, details from grace.runs where kind = 'purge' order by id desc limit 1"
    )[0]


def today(offset: int = 0) -> str:
    return f"b1_{datetime.now(UTC) + timedelta(days=offset):%Y%m%d}"


def test_expired_rows_are_invisible_from_the_second_they_expire(db: Database, note: Connection, role: Any) -> None:
    operator = role("operator")
    note.execute(f"grant grace_operator to {operator}")
    note.execute("delete from note where id <= 10")
    note.execute("select grace.set_retention('note', '1 second')")
    note.execute("select pg_sleep(1.1)")
    assert value(note, "select count(*) from grace.deletions") == 0
    assert value(note, "select count(*) from grace.buffered('note')") == 0
    assert value(note, "select buffered_rows from grace.protected") == 0
    assert value(db.connect(user=operator), "select count(*) from grace_buffer.note") == 0
    for call in (
        "deletion => 1",
        "'note', keys => '1'",
        "deleted_by => 'postgres'",
        "'note', deletion => 1, dry_run => true",
    ):
        with pytest.raises(psycopg.Error) as caught:
            note.execute(f"select grace.restore({call})".encode())
        assert caught.value.sqlstate == "GR007"
    assert rows(note, "select target::text, row_count from grace.expired") == [("note", 10)]


def test_a_row_is_restorable_up_to_its_last_second(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    note.execute("select grace.set_retention('note', '5 seconds')")
    note.execute("call grace.purge()")
    note.execute("select grace.restore(deletion => 1)")
    assert value(note, "select count(*) from note") == 100


def test_a_day_that_is_over_by_the_retention_is_emptied_and_dropped(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    age(note, 31)
    note.execute("delete from note where id = 11")
    assert today(-31) in leaves(note)
    note.execute("call grace.purge()")
    assert last_run(note) == ("done", 10, {"tables": {"public.note": 10}})
    assert today(-31) not in leaves(note)
    assert value(note, "select count(*) from grace_buffer.note") == 1
    assert rows(note, "select distinct deletion from grace_internal.capture") == [(2,)]


def test_a_day_within_the_retention_stays(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    age(note, 29)
    note.execute("call grace.purge()")
    assert last_run(note) == ("done", 0, {})
    note.execute("select grace.restore(deletion => 1)")
    assert value(note, "select count(*) from note") == 100


def test_rows_of_a_day_that_is_half_over_go_one_by_one(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    note.execute("select grace.set_retention('note', '1 second')")
    note.execute("select pg_sleep(1.1)")
    note.execute("delete from note where id = 11")
    note.execute("call grace.purge()")
    assert last_run(note) == ("done", 10, {"tables": {"public.note": 10}})
    assert today() in leaves(note)


def test_partitions_are_made_for_the_days_ahead(note: Connection) -> None:
    for day in range(3, 15):
        note.execute(f"drop table grace_internal.{today(day)}".encode())
    note.execute("call grace.purge()")
    assert [name for name in leaves(note) if len(name) == len(today())] == [today(day) for day in range(15)]


def test_what_landed_in_the_default_partition_is_settled_restored_and_purged(note: Connection) -> None:
    """The scheduler was down for months: there is no leaf for today, so today's deletes go to the default partition."""
    for name in leaves(note):
        if name != "b1_default":
            note.execute(f"drop table grace_internal.{name}".encode())
    note.execute("delete from note where id <= 10")
    assert value(note, "select count(*) from grace_internal.b1_default") == 10
    note.execute("call grace.purge()")
    assert last_run(note)[0] == "done"
    assert value(note, "select count(*) from grace_internal.b1_default") == 0
    assert rows(
        note, "select l.is_current from grace_internal.leaves(1) l where l.name ~ '_\\d{8}_' order by l.name"
    ) == [(True,), (False,), (False,)]
    note.execute("delete from note where id = 11")
    assert value(note, "select count(*) from grace_internal.b1_default") == 0
    note.execute("select grace.restore('note', keys => '[1, 2]')")
    note.execute("select grace.set_retention('note', '1 second')")
    note.execute("select pg_sleep(1.1)")
    note.execute("call grace.purge()")
    assert last_run(note) == ("done", 9, {"tables": {"public.note": 9}})
    assert value(note, "select count(*) from grace_buffer.note") == 0
    assert value(note, "select count(*) from pg_constraint where conname like 'days_%%'") == 0


def test_more_expired_rows_than_a_slice_holds_all_go(note: Connection) -> None:
    note.execute("insert into note select n, 'n' from generate_series(101, 12000) n")
    note.execute("delete from note")
    note.execute("select grace.set_retention('note', '1 second')")
    note.execute("select pg_sleep(1.1)")
    note.execute("call grace.purge()")
    assert last_run(note)[:2] == ("done", 12000)
    assert value(note, "select count(*) from grace_buffer.note") == 0


def test_a_lock_that_is_not_free_is_left_to_the_next_run_and_nobody_waits(db: Database, note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    age(note, 31)
    reader, writer = db.connect(), db.connect()
    with reader.transaction():
        reader.execute("select * from grace_buffer.note")
        waits: list[float] = []
        stop = threading.Event()

        def delete() -> None:
            number = 11
            while not stop.is_set():
                started = datetime.now(UTC)
                writer.execute("delete from note where id = %s", (number,))
                waits.append((datetime.now(UTC) - started).total_seconds())
                number += 1

        thread = threading.Thread(target=delete)
        thread.start()
        note.execute("call grace.purge()")
        stop.set()
        thread.join()
        status, _, details = last_run(note)
        assert status == "incomplete"
        assert any(f"grace_internal.{today(-31)}" in left for left in details["left_for_next_run"])
        assert max(waits) < 0.3
    note.execute("call grace.purge()")
    assert last_run(note)[:2] == ("done", 10)
    assert today(-31) not in leaves(note)


def test_two_purges_at_once_one_works_and_the_other_says_so(db: Database, note: Connection) -> None:
    other = db.connect()

    def purge_slowly() -> None:
        with contextlib.suppress(errors.QueryCanceled):
            other.execute("do $$ begin perform grace._purge_begin(null); commit; perform pg_sleep(60); end $$")

    thread = threading.Thread(target=purge_slowly)
    thread.start()
    while not value(note, "select count(*) from grace.runs where kind = 'purge'"):
        time.sleep(0.02)
    with pytest.raises(psycopg.Error) as caught:
        note.execute("call grace.purge()")
    assert caught.value.sqlstate == "GR014"
    assert caught.value.diag.message_detail
    assert rows(note, "select status from grace.runs where kind = 'purge'") == [("running",)]

    note.execute("select pg_cancel_backend(%s)", (other.info.backend_pid,))
    thread.join()
    note.execute("call grace.purge()")
    assert rows(note, "select status from grace.runs where kind = 'purge' order by id") == [("aborted",), ("done",)]


def test_a_purge_of_one_table_leaves_the_others(note: Connection) -> None:
    note.execute(b"create table other (id int primary key); insert into other values (1)")
    note.execute("select grace.protect('other')")
    note.execute(b"delete from note where id = 1; delete from other")
    for table in ("note", "other"):
        note.execute(f"select grace.set_retention('{table}', '1 second')".encode())
    note.execute("select pg_sleep(1.1)")
    note.execute("call grace.purge('other')")
    assert last_run(note)[:2] == ("done", 1)
    assert rows(note, "select target::text from grace.expired") == [("note",)]


def test_a_longer_retention_gives_more_time_to_what_is_not_yet_purged(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    age(note, 31)
    note.execute("select grace.set_retention('note', '60 days')")
    note.execute("call grace.purge()")
    note.execute("select grace.restore(deletion => 1)")
    assert value(note, "select count(*) from note") == 100


def test_a_buffer_that_is_unprotected_goes_when_its_last_row_has_expired(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    note.execute("select grace.unprotect('note')")
    note.execute("call grace.purge()")
    assert value(note, "select state from grace.protected") == "unprotected"
    note.execute("select grace.set_retention('note', '1 second')")
    note.execute("select pg_sleep(1.1)")
    note.execute("call grace.purge()")
    note.execute("call grace.purge()")
    assert value(note, "select to_regclass('grace_buffer.note')") is None
    assert value(note, "select count(*) from grace.protected") == 0


def test_without_event_triggers_a_partition_that_came_later_gets_its_triggers_with_the_purge(conn: Connection) -> None:
    conn.execute(
        b"create table p (id int primary key) partition by range (id); create table p_1 partition of p for values from (0) to (10)"
    )
    conn.execute("select grace.protect('p')")
    conn.execute("drop event trigger grace_follow_ddl")
    conn.execute("create table p_2 partition of p for values from (10) to (20)")
    assert value(conn, "select state from grace.protected") == "missing"
    conn.execute("call grace.purge()")
    assert value(conn, "select state from grace.protected") == "capturing"
    conn.execute("insert into p values (11)")
    conn.execute("delete from p_2")
    assert value(conn, "select count(*) from grace_buffer.p") == 1


def test_only_an_administrator_may_purge(db: Database, note: Connection, role: Any) -> None:
    admin, operator = role("admin"), role("operator")
    note.execute(f"grant grace_admin to {admin}; grant grace_operator to {operator}".encode())
    db.connect(user=admin).execute("call grace.purge()")
    assert rows(note, "select role::text from grace.runs where kind = 'purge'") == [(admin,)]
    with pytest.raises(errors.InsufficientPrivilege):
        db.connect(user=operator).execute("call grace.purge()")
    with pytest.raises(psycopg.Error) as caught:
        db.connect(user=admin).execute("select grace._purge_slice(1, row(1, null, 'log')::grace._purge_item)")
    assert caught.value.sqlstate == "GR014"


def test_a_server_that_crashed_during_a_purge_goes_on_with_the_next(db: Database, note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    age(note, 31)
    victim = db.connect()
    victim.execute("select grace._purge_begin(null)")
    victim.execute("select grace._purge_slice(2, w) from unnest(grace._purge_work(null)) w where w.action = 'empty'")
    note.execute("select pg_terminate_backend(%s)", (victim.info.backend_pid,))
    while value(note, "select count(*) from pg_stat_activity where pid = %s", victim.info.backend_pid):
        time.sleep(0.02)
    note.execute("call grace.purge()")
    assert rows(note, "select status, row_count from grace.runs where kind = 'purge' order by id") == [
        ("aborted", 10),
        ("done", 0),
    ]
    assert today(-31) not in leaves(note)


def test_one_table_in_trouble_does_not_keep_the_others_past_their_retention(note: Connection) -> None:
    note.execute(b"create table other (id int primary key); insert into other values (1)")
    note.execute("select grace.protect('other')")
    note.execute(b"delete from note where id <= 10")
    note.execute("delete from other")
    age(note, 31)
    note.execute(f"create view public.looks as select * from grace_internal.{today(-31)}".encode())
    note.execute("select grace.set_retention('other', '1 second')")
    note.execute("select pg_sleep(1.1)")
    note.execute("call grace.purge()")
    status, row_count, details = last_run(note)
    assert (status, row_count) == ("failed", 11)
    assert details["left_for_next_run"] == [f"drop grace_internal.{today(-31)} of public.note SQLSTATE 2BP01"]
    note.execute("drop view public.looks")
    note.execute("call grace.purge()")
    assert last_run(note)[0] == "done"
    assert today(-31) not in leaves(note)


def test_what_is_captured_while_a_purge_waits_stays_whatever_the_isolation_level(
    db: Database, note: Connection
) -> None:
    note.execute("select grace.set_retention('note', '2 seconds')")
    note.execute("delete from note where id <= 3")
    note.execute("select pg_sleep(2.1)")
    other, watcher = db.connect(), db.connect()
    note.execute("set default_transaction_isolation = 'repeatable read'")
    thread = threading.Thread(target=note.execute, args=("call grace.purge()",))
    other.execute("begin")
    other.execute("delete from note where id = 50")
    thread.start()
    while thread.is_alive() and not value(watcher, "select exists (select from pg_locks where not granted)"):
        pass
    other.execute("commit")
    thread.join()
    other.execute("select grace.restore(target => 'note', keys => '50')")
    assert value(other, "select count(*) from note where id = 50") == 1

    run = value(other, "select grace._purge_begin(null)")
    with pytest.raises(psycopg.Error) as caught:
        note.execute("select grace._purge_slice(%s, row(1, null, 'prepare')::grace._purge_item)", (run,))
    assert caught.value.sqlstate == "GR014"


def test_many_small_rows_in_the_leaf_in_use_are_not_written_anew(note: Connection) -> None:
    note.execute("insert into note select n, 'n' from generate_series(1000, 6000) n")
    note.execute("select grace.set_retention('note', '2 seconds')")
    note.execute("delete from note where id = 1")
    note.execute("select pg_sleep(2.1)")
    note.execute("delete from note where id >= 1000")
    before = value(note, f"select pg_relation_filenode('grace_internal.{today()}')")
    note.execute("call grace.purge()")
    assert last_run(note)[:2] == ("done", 1)
    assert value(note, f"select pg_relation_filenode('grace_internal.{today()}')") == before


def test_a_capacity_does_not_reach_ahead_of_the_clock(note: Connection) -> None:
    note.execute("insert into note select n, repeat('n', 100) from generate_series(1000, 20000) n")
    note.execute("delete from note where id <= 3")
    note.execute("update grace_buffer.note set grace_deleted_at = grace_deleted_at + interval '4 days'")
    note.execute("update grace_internal.capture set deleted_at = deleted_at + interval '4 days'")
    note.execute("delete from note where id >= 1000")
    assert rows(note, "select * from grace.set_capacity('1 MB', 'note')") == []
    note.execute("call grace.purge()")
    note.execute("delete from note where id = 50")
    assert value(note, "select count(*) from grace.buffered('note', keys => '50')") == 1


def test_a_retention_that_is_raised_while_a_purge_waits_holds(db: Database, note: Connection) -> None:
    note.execute("select grace.set_retention('note', '2 seconds')")
    note.execute("delete from note where id <= 3")
    note.execute("select pg_sleep(2.1)")
    reader, admin = db.connect(), db.connect()
    reader.execute("begin")
    reader.execute("select count(*) from grace_buffer.note")
    thread = threading.Thread(target=note.execute, args=("call grace.purge()",))
    thread.start()
    while thread.is_alive() and not value(admin, "select exists (select from pg_locks where not granted)"):
        pass
    admin.execute("select grace.set_retention('note', '1 day')")
    reader.execute("commit")
    thread.join()
    assert value(admin, "select count(*) from grace.buffered('note')") == 3
