"""tick: what is due is done once, by one of all who ask, whatever was missed, failed or was killed before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.scheduling import (
    DAY,
    at_once,
    heard,
    in_the_middle,
    kill,
    leaf,
    let_pass,
    listen,
    make_older,
    purges,
)

TURN = ("purge", "done")
HOLD_RUNS = "lock table grace_internal.run in share update exclusive mode"
HOLD_LEDGER = "lock table grace_internal.ledger in exclusive mode"


@pytest.fixture
def note(conn: Connection) -> Connection:
    conn.execute(
        b"create table note (id int primary key, text text); insert into note select n, 'n' from generate_series(1, 100) n"
    )
    conn.execute("select grace.protect('note')")
    return conn


def test_nothing_is_due_right_after_the_installation_or_a_turn(note: Connection) -> None:
    note.execute("call grace.tick()")
    assert purges(note) == []
    let_pass(note)
    note.execute("call grace.tick()")
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_what_was_missed_is_made_up_for_once(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 40)
    let_pass(note, timedelta(days=40))
    note.execute("call grace.tick()")
    note.execute("call grace.tick()")
    assert rows(note, "select job, status, row_count from grace.runs where kind = 'purge'") == [("purge", "done", 10)]


def test_a_turn_comes_with_its_time_and_not_before(note: Connection) -> None:
    """Its hour is the one before this, so that its time has come since half an hour ago at the latest, and an hour ago at the earliest."""
    hour = value(note, "select extract(hour from clock_timestamp() at time zone 'GMT')::int")
    note.execute("select grace.set_schedule('purge', %s)", (f"0 {hour} * * *",))
    note.execute("update grace_internal.job set changed_at = date_trunc('hour', clock_timestamp(), 'GMT')")
    note.execute("call grace.tick()")
    assert purges(note) == []  # changed at that moment: its time has been
    note.execute("update grace_internal.job set changed_at = changed_at - interval '1 microsecond'")
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_a_turn_of_long_ago_is_not_forgotten_by_a_rare_schedule(note: Connection) -> None:
    note.execute("select grace.set_schedule('purge', '0 0 1 1 *')")
    let_pass(note, timedelta(days=366))
    note.execute("call grace.tick()")
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_a_purge_by_hand_is_the_turn(note: Connection) -> None:
    let_pass(note)
    note.execute("call grace.purge()")
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_a_purge_of_one_table_is_not(note: Connection) -> None:
    let_pass(note)
    note.execute("call grace.purge('note')")
    note.execute("call grace.tick()")
    assert purges(note) == [(None, "done"), TURN]


def test_several_sessions_at_the_same_moment_take_a_turn_once(db: Database, note: Connection) -> None:
    sessions = [db.connect() for _ in range(4)]
    for number in range(1, 9):
        let_pass(note)
        assert at_once(sessions, "call grace.tick()") == []
        assert purges(note) == [TURN] * number


def test_several_sessions_of_whatever_isolation_take_a_turn_once(db: Database, note: Connection) -> None:
    sessions = [db.connect() for _ in range(4)]
    for session in sessions:
        session.execute("set default_transaction_isolation = serializable")
    for number in range(1, 9):
        let_pass(note)
        assert at_once(sessions, "call grace.tick()") == []
        assert purges(note) == [TURN] * number


def test_while_the_purge_runs_elsewhere_nothing_is_due(db: Database, note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 31)
    let_pass(note)
    with in_the_middle(db, "call grace.purge()", HOLD_LEDGER):
        note.execute("call grace.tick()")
        assert purges(note) == [("purge", "running")]
    assert purges(note) == [TURN]
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_a_purge_of_one_table_that_runs_does_not_cost_the_turn(db: Database, note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 31)
    let_pass(note)
    with in_the_middle(db, "call grace.purge('note')", HOLD_LEDGER):
        note.execute("call grace.tick()")
        assert purges(note) == [(None, "running")]
    note.execute("call grace.tick()")
    assert purges(note) == [(None, "done"), TURN]


def test_a_purge_that_fails_has_had_its_turn(note: Connection) -> None:
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 31)
    note.execute(f"create view looks as select * from {leaf(1, -31)}".encode())
    for turns in (1, 2):
        let_pass(note)
        for _ in range(3):
            note.execute("call grace.tick()")
        assert purges(note) == [("purge", "failed")] * turns
    note.execute("drop view looks")
    let_pass(note)
    note.execute("call grace.tick()")
    assert purges(note)[-1] == TURN


def test_a_tick_that_is_killed_in_the_middle_is_reported_and_taken_up(db: Database, note: Connection) -> None:
    listener = listen(db)
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 31)
    let_pass(note)
    with in_the_middle(db, "call grace.tick()", HOLD_LEDGER) as victim:
        kill(note, victim)
        assert rows(note, "select status, row_count from grace.runs where kind = 'purge'") == [("aborted", 10)]
    assert heard(listener) == []
    note.execute("call grace.tick()")
    (notification,) = heard(listener)
    assert (notification["job"], notification["status"], notification["rows"]) == ("purge", "aborted", 10)
    assert purges(note) == [("purge", "aborted")]
    assert rows(note, "select action, row_count from grace.ledger") == [("purged", 10)]
    let_pass(note, timedelta(minutes=11))
    note.execute("call grace.tick()")
    assert purges(note) == [("purge", "aborted"), TURN]
    assert heard(listener) == []


def test_a_tick_that_is_killed_before_its_purge_has_begun_does_not_cost_the_turn(
    db: Database, note: Connection
) -> None:
    let_pass(note)
    with in_the_middle(db, "call grace.tick()", HOLD_RUNS) as victim:
        kill(note, victim)
    assert purges(note) == []
    note.execute("call grace.tick()")
    assert purges(note) == []  # it might be on its way
    let_pass(note, timedelta(minutes=11))
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_a_tick_that_is_cancelled_leaves_a_turn_that_is_taken_up(db: Database, note: Connection) -> None:
    let_pass(note)
    with in_the_middle(db, "call grace.tick()", HOLD_RUNS) as victim:
        note.execute("select pg_cancel_backend(%s)", (victim.info.backend_pid,))
    let_pass(note, timedelta(minutes=11))
    victim.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_inside_a_transaction_nothing_changes(note: Connection) -> None:
    let_pass(note)
    for procedure in ("tick", "watch"):
        with pytest.raises(errors.InvalidTransactionTermination), note.transaction():
            note.execute(f"call grace.{procedure}()".encode())
    assert purges(note) == []
    assert rows(note, "select claimed_at from grace_internal.job where name = 'purge'") == [(None,)]
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


@pytest.mark.parametrize("group", ["grace_operator", "grace_auditor", None])
@pytest.mark.parametrize("procedure", ["tick", "watch"])
def test_others_than_administrators_may_not(
    db: Database, note: Connection, role: Any, procedure: str, group: str | None
) -> None:
    other = role("other")
    if group:
        note.execute(f"grant {group} to {other}".encode())
    let_pass(note)
    with pytest.raises(errors.InsufficientPrivilege):
        db.connect(user=other).execute(f"call grace.{procedure}()".encode())
    for name in ("_tick_claim", "_watch"):
        with pytest.raises(errors.InsufficientPrivilege):
            db.connect(user=other).execute(f"select grace.{name}()".encode())
    assert purges(note) == []


def test_an_administrator_without_any_right_on_tables_does_it(db: Database, note: Connection, role: Any) -> None:
    admin = role("admin")
    note.execute(f"grant grace_admin to {admin}".encode())
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 31)
    let_pass(note)
    db.connect(user=admin).execute("call grace.tick()")
    assert rows(note, "select role::text, row_count from grace.runs where kind = 'purge'") == [(admin, 10)]
    assert rows(note, "select role::text, row_count from grace.ledger") == [(admin, 10)]


@pytest.mark.parametrize(
    "zone",
    ["Pacific/Kiritimati", "Etc/GMT+12", "America/Havana", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo"],
)
def test_the_sessions_time_zone_says_nothing_about_what_is_due(db: Database, note: Connection, zone: str) -> None:
    session = db.connect()
    session.execute("select set_config('timezone', %s, false)", (zone,))
    session.execute("set datestyle = 'German, DMY'")
    hour = value(note, "select extract(hour from clock_timestamp() at time zone 'GMT')::int")
    session.execute("select grace.set_schedule('purge', %s)", (f"0 {hour} * * *",))
    session.execute("update grace_internal.job set changed_at = date_trunc('hour', clock_timestamp(), 'GMT')")
    session.execute("call grace.tick()")
    assert purges(note) == []
    note.execute("update grace_internal.job set changed_at = changed_at - interval '1 microsecond'")
    session.execute("call grace.tick()")
    assert purges(note) == [TURN]


@pytest.mark.parametrize(
    ("zone", "schedule", "last", "now", "is_due"),
    [
        # The clock goes from 2:00 to 3:00 on 2026-03-29, and from 3:00 back to 2:00 on 2026-10-25.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28 02:31+01", "2026-03-29 00:59:59+00", False),
        ("Europe/Berlin", "30 2 * * *", "2026-03-28 02:31+01", "2026-03-29 01:00+00", True),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25 02:30:01+02", "2026-10-25 02:59+01", False),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24 02:31+02", "2026-10-25 02:30+02", True),
        ("GMT", "0 0 * * *", "2026-03-28 00:01+00", "2026-03-29 00:00+00", True),
        ("GMT", "0 0 * * *", "2026-03-29 00:00:01+00", "2026-03-29 23:59:59+00", False),
        # Midnight itself is skipped.
        ("America/Havana", "0 0 * * *", "2026-03-07 00:01-05", "2026-03-08 04:59:59+00", False),
        ("America/Havana", "0 0 * * *", "2026-03-07 00:01-05", "2026-03-08 05:00+00", True),
    ],
)
@pytest.mark.parametrize("session_zone", ["UTC", "America/Havana", "Pacific/Kiritimati"])
def test_where_the_clock_changes_each_turn_is_due_once(
    conn: Connection, session_zone: str, zone: str, schedule: str, last: str, now: str, is_due: bool
) -> None:
    conn.execute("select set_config('timezone', %s, false)", (session_zone,))
    assert (
        value(conn, "select grace_internal.last_scheduled(%s, %s, %s, %s) is not null", schedule, now, last, zone)
        == is_due
    )


def test_the_settings_of_the_session_do_not_get_into_it(db: Database, note: Connection) -> None:
    session = db.connect()
    session.execute(
        b"create schema evil;"
        b"create function evil.same(text, text) returns boolean language plpgsql as"
        b" $$ begin raise exception 'caught'; end $$;"
        b"create operator evil.= (leftarg = text, rightarg = text, function = evil.same);"
        b"create table evil.run (id int); create table evil.job (name text)"
    )
    session.execute("set search_path = evil, pg_catalog")
    let_pass(note)
    session.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_where_only_tick_works_the_jobs_say_so(note: Connection) -> None:
    assert [row[0] for row in rows(note, "select distinct scheduler from grace.jobs()")] != ["tick"]
    let_pass(note)
    note.execute("call grace.tick()")
    assert rows(note, "select job, scheduler from grace.jobs()") == [("purge", "tick"), ("watch", "tick")]


def test_a_schedule_that_is_set_begins_with_its_next_time(note: Connection) -> None:
    let_pass(note, 3 * DAY)
    note.execute("select grace.set_schedule('purge', '30 3 * * *')")
    note.execute("call grace.tick()")
    assert purges(note) == []
    let_pass(note)
    note.execute("call grace.tick()")
    assert purges(note) == [TURN]


def test_a_server_that_was_restarted_goes_on_where_it_was(db: Database, note: Connection) -> None:
    """All sessions are gone, those that ticked too."""
    note.execute("delete from note where id <= 10")
    make_older(note, "note", 31)
    let_pass(note)
    with in_the_middle(db, "call grace.tick()", HOLD_LEDGER):
        with psycopg.connect(db.server.dsn, autocommit=True) as admin:
            for which in ("and query = 'call grace.tick()'", ""):  # first the one that waits, or it goes on
                found = f"from pg_stat_activity where datname = %s {which}"
                admin.execute(f"select pg_terminate_backend(pid) {found}".encode(), (db.name,))
                while admin.execute(f"select {found}".encode(), (db.name,)).fetchone():
                    admin.execute("select pg_sleep(0.02)")
        again = db.connect()
        again.execute("call grace.watch()")
        assert purges(again) == [("purge", "aborted")]
        assert value(again, "select count(*) from grace_buffer.note") == 0
