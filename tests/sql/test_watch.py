"""watch: what was aborted or failed is sent once, to whoever listens, and what a lock has kept is tried again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from pg_grace.cluster import Cluster
from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.server import CRON_SETTINGS, Server
from tests.sql.scheduling import at_once, heard, in_the_middle, kill, leaf, let_pass, listen, make_older, purges

HOLD_LEDGER = "lock table grace_internal.ledger in exclusive mode"
SECRET = "nobody''s business"
RETRY = timedelta(minutes=10)


@pytest.fixture
def note(conn: Connection) -> Connection:
    conn.execute(
        "create table note (id int primary key, text text);"
        f"insert into note select n, '{SECRET}' from generate_series(1, 100) n".encode()
    )
    conn.execute("select grace.protect('note')")
    return conn


def expire(conn: Connection) -> None:
    """Ten rows more have expired, as a whole leaf."""
    conn.execute("delete from note where id in (select id from note order by id limit 10)")
    (newest,) = rows(conn, "select max(deletion) from grace_internal.capture")[0]
    make_older(conn, "note", 31, newest)


def test_a_purge_that_was_aborted_is_sent_once(db: Database, note: Connection) -> None:
    listener = listen(db)
    expire(note)
    with in_the_middle(db, "call grace.purge()", HOLD_LEDGER) as victim:
        kill(note, victim)
    for _ in range(3):
        note.execute("call grace.watch()")
    (sent,) = heard(listener)
    (run, started, finished) = rows(note, "select id, started_at, finished_at from grace.runs where kind = 'purge'")[0]
    assert sent == {
        "run": run,
        "kind": "purge",
        "job": "purge",
        "status": "aborted",
        "table": None,
        "rows": 10,
        "started_at": started.isoformat(),
        "finished_at": finished.isoformat(),
    }


def test_several_that_watch_send_it_once(db: Database, note: Connection) -> None:
    listener = listen(db)
    sessions = [db.connect() for _ in range(4)]
    for _ in range(4):
        expire(note)
        with in_the_middle(db, "call grace.purge()", HOLD_LEDGER) as victim:
            kill(note, victim)
        assert at_once(sessions, "call grace.watch()") == []
        assert [sent["status"] for sent in heard(listener)] == ["aborted"]
        assert rows(note, "select row_count from grace.ledger order by id desc limit 1") == [(10,)]
    assert value(note, "select count(*) from grace.ledger") == 4


def test_a_purge_that_failed_is_sent_once_and_not_tried_again(db: Database, note: Connection) -> None:
    listener = listen(db)
    expire(note)
    note.execute(f"create view looks as select * from {leaf(1, -31)}".encode())
    note.execute("call grace.purge()")
    note.execute("call grace.watch()")
    let_pass(note, 2 * RETRY)
    note.execute("call grace.watch()")
    (sent,) = heard(listener)
    assert (sent["kind"], sent["job"], sent["status"], sent["rows"]) == ("purge", "purge", "failed", 10)
    assert purges(note) == [("purge", "failed")]


def test_a_purge_of_one_table_that_failed_says_which(db: Database, note: Connection) -> None:
    listener = listen(db)
    note.execute('alter table note rename to "No ""te\'\n\\"')
    note.execute("""delete from "No ""te'\n\\" where id <= 10""")
    make_older(note, """ "No ""te'\n\\" """, 31)
    note.execute(f"create view looks as select * from {leaf(1, -31)}".encode())
    note.execute("""call grace.purge('"No ""te''\n\\"')""")
    (sent,) = heard(listener)
    assert (sent["job"], sent["status"], sent["table"]) == (None, "failed", 'public."No ""te\'\n\\"')


def test_the_longest_names_fit_into_what_can_be_sent(db: Database, conn: Connection) -> None:
    listener = listen(db)
    schema, table = '""' * 63, '""' * 63
    conn.execute(f'create schema "{schema}"; create table "{schema}"."{table}" (id int primary key)'.encode())
    conn.execute(f'insert into "{schema}"."{table}" values (1)'.encode())
    conn.execute("select grace.protect(%s::regclass)", (f'"{schema}"."{table}"',))
    conn.execute(f'delete from "{schema}"."{table}"'.encode())
    make_older(conn, f'"{schema}"."{table}"', 31)
    conn.execute(f"create view looks as select * from {leaf(1, -31)}".encode())
    conn.execute("call grace.purge(%s::regclass)", (f'"{schema}"."{table}"',))
    (sent,) = heard(listener)
    assert sent["table"] == f'"{schema}"."{table}"'


def test_nothing_is_sent_of_what_goes_well(db: Database, note: Connection) -> None:
    listener = listen(db)
    expire(note)
    note.execute("call grace.purge()")
    note.execute("call grace.watch()")
    let_pass(note)
    note.execute("call grace.tick()")
    assert heard(listener) == []


def test_what_is_sent_and_recorded_has_nothing_of_the_rows(db: Database, note: Connection) -> None:
    listener = db.connect()
    listener.execute("listen grace")
    expire(note)
    with in_the_middle(db, "call grace.purge()", HOLD_LEDGER) as victim:
        kill(note, victim)
    expire(note)
    note.execute("select grace.set_retention('note', '1 day')")
    note.execute(
        "create function refuse() returns trigger language plpgsql as"
        f" $$ begin raise exception 'SECRET %', (select text from {leaf(1, -31)} limit 1); end $$".encode()
    )
    note.execute(
        f"create trigger refuse before truncate on {leaf(1, -31)} for each statement execute function refuse()".encode()
    )
    note.execute("call grace.purge()")
    assert purges(note) == [("purge", "aborted"), ("purge", "failed")]
    sent = heard(listener)
    assert len(sent) == 2
    recorded = rows(note, "select r::text from grace.runs r union all select l::text from grace.ledger l")
    for text in (json.dumps(sent), str(recorded)):
        assert "business" not in text
        assert "SECRET" not in text


def test_what_a_lock_has_kept_is_tried_again_after_ten_minutes_and_not_before(db: Database, note: Connection) -> None:
    listener = listen(db)
    expire(note)
    reader = db.connect()
    with reader.transaction():
        reader.execute("select * from grace_buffer.note")
        note.execute("call grace.purge()")
        let_pass(note, RETRY - timedelta(seconds=30))
        note.execute("call grace.watch()")
        assert purges(note) == [("purge", "incomplete")]
        let_pass(note, timedelta(seconds=31))
        note.execute("call grace.watch()")
        note.execute("call grace.watch()")
        assert purges(note) == [("purge", "incomplete")] * 2
    note.execute("call grace.watch()")
    assert purges(note) == [("purge", "incomplete")] * 2
    let_pass(note, RETRY)
    note.execute("call grace.watch()")
    assert purges(note) == [("purge", "incomplete"), ("purge", "incomplete"), ("purge", "done")]
    let_pass(note, RETRY)
    note.execute("call grace.watch()")
    assert len(purges(note)) == 3
    assert value(note, "select sum(row_count) from grace.ledger") == 10
    assert heard(listener) == []


def test_of_several_that_watch_one_tries_again(db: Database, note: Connection) -> None:
    expire(note)
    reader = db.connect()
    sessions = [db.connect() for _ in range(4)]
    with reader.transaction():
        reader.execute("select * from grace_buffer.note")
        note.execute("call grace.purge()")
        for number in range(2, 7):
            let_pass(note, RETRY)
            assert at_once(sessions, "call grace.watch()") == []
            assert purges(note) == [("purge", "incomplete")] * number


def test_while_one_table_is_purged_nothing_is_tried(db: Database, note: Connection) -> None:
    expire(note)
    reader = db.connect()
    with reader.transaction():
        reader.execute("select * from grace_buffer.note")
        note.execute("call grace.purge()")
    let_pass(note, RETRY)
    with in_the_middle(db, "call grace.purge('note')", HOLD_LEDGER):
        note.execute("call grace.watch()")
        assert purges(note) == [("purge", "incomplete"), (None, "running")]
    note.execute("call grace.watch()")
    assert purges(note) == [("purge", "incomplete"), (None, "done"), ("purge", "done")]


def test_a_purge_of_one_table_that_a_lock_has_kept_is_not_tried_again(db: Database, note: Connection) -> None:
    expire(note)
    reader = db.connect()
    with reader.transaction():
        reader.execute("select * from grace_buffer.note")
        note.execute("call grace.purge('note')")
    let_pass(note, RETRY)
    note.execute("call grace.watch()")
    assert purges(note) == [(None, "incomplete")]


# pg_cron in the tested database, on a server of these tests' own.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster({"fsync": "off", **CRON_SETTINGS}) as running:
        yield running


@pytest.fixture(scope="module")
def scheduled(cluster: Cluster) -> Iterator[Database]:
    """A superuser's installation in the database where pg_cron runs; its own jobs are off."""
    database = Database(Server("local cluster", cluster.conninfo()), "postgres")
    conn = database.connect()
    conn.execute("create extension pg_cron")
    while (
        time.time() % 300 > 285
    ):  # else pg_cron could start the watch, which comes every five minutes, before it is off
        time.sleep(0.5)
    database.cli("install")
    conn.execute("update cron.job set active = false")
    yield database
    for connection in database.connections:
        connection.close()


def ran(conn: Connection, status: str, ago: str = "0", job: str = "pg_grace: purge") -> None:
    """pg_cron has run a job, with an error that quotes a row."""
    conn.execute(
        "insert into cron.job_run_details (jobid, runid, database, username, command, status, return_message, start_time, end_time)"
        " select j.jobid, nextval('cron.runid_seq'), j.database, j.username, j.command, %s, %s, now() - %s::interval,"
        " now() - %s::interval from cron.job j where j.jobname = %s",
        (status, "Key (mail)=(SECRET) exists", ago, ago, job),
    )


@pytest.fixture
def cron(scheduled: Database) -> Iterator[Connection]:
    conn = scheduled.connect()
    yield conn
    conn.execute("delete from cron.job_run_details")
    conn.execute("delete from grace_internal.run")


def test_a_job_of_pg_cron_that_failed_is_sent_once(scheduled: Database, cron: Connection) -> None:
    listener = listen(scheduled)
    ran(cron, "failed")
    ran(cron, "failed", job="pg_grace: watch")
    ran(cron, "succeeded")
    for _ in range(3):
        cron.execute("call grace.watch()")
    sent = heard(listener)
    assert sorted((one["kind"], one["job"], one["status"]) for one in sent) == [
        ("job", "purge", "failed"),
        ("job", "watch", "failed"),
    ]
    assert sorted(rows(cron, "select kind, job, status from grace.runs")) == [
        ("job", "purge", "failed"),
        ("job", "watch", "failed"),
    ]
    for text in (json.dumps(sent), str(rows(cron, "select r::text from grace.runs r"))):
        assert "SECRET" not in text
    ran(cron, "failed")
    cron.execute("call grace.watch()")
    assert [one["job"] for one in heard(listener)] == ["purge"]


def test_a_failed_job_is_no_turn_of_it(cron: Connection) -> None:
    let_pass(cron)
    ran(cron, "failed")
    cron.execute("call grace.watch()")
    cron.execute("call grace.tick()")
    assert purges(cron) == [("purge", "done")]


def test_jobs_of_others_and_of_long_ago_are_not_ours(scheduled: Database, cron: Connection) -> None:
    listener = listen(scheduled)
    cron.execute("select cron.schedule('theirs', '0 0 * * *', 'select 1 / 0')")
    cron.execute(
        "select cron.schedule_in_database('pg_grace: purge (x)', '0 0 * * *', 'call grace.purge()', 'template1')"
    )
    ran(cron, "failed", job="theirs")
    ran(cron, "failed", job="pg_grace: purge (x)")
    ran(cron, "failed", ago="3 days")
    cron.execute("call grace.watch()")
    assert heard(listener) == []
    assert rows(cron, "select from grace.runs") == []
    cron.execute("select cron.unschedule('theirs')")
    cron.execute("select cron.unschedule('pg_grace: purge (x)')")


def test_what_pg_cron_keeps_of_our_jobs_goes_after_a_month(cron: Connection) -> None:
    cron.execute("select cron.schedule('theirs', '0 0 * * *', 'select 1')")
    for job in ("pg_grace: purge", "theirs"):
        for ago in ("29 days", "31 days"):
            ran(cron, "succeeded", ago, job)
    cron.execute("call grace.purge()")
    assert rows(
        cron,
        "select j.jobname, count(*) from cron.job_run_details d join cron.job j using (jobid) group by 1 order by 1",
    ) == [("pg_grace: purge", 1), ("theirs", 2)]
    cron.execute("select cron.unschedule('theirs')")


def test_a_job_that_really_fails_is_noticed_by_the_job_that_watches(scheduled: Database, cron: Connection) -> None:
    listener = listen(scheduled)
    cron.execute("select grace.set_schedule('purge', '* * * * *')")
    cron.execute("select grace.set_schedule('watch', '* * * * *')")
    cron.execute(
        "select cron.alter_job(jobid, command => 'select 1 / 0', active => true) from cron.job where jobname = 'pg_grace: purge'"
    )
    cron.execute("select cron.alter_job(jobid, active => true) from cron.job where jobname = 'pg_grace: watch'")
    try:
        sent: list[dict[str, Any]] = []
        deadline = time.monotonic() + 130
        while not sent and time.monotonic() < deadline:
            sent = heard(listener)
        assert [(one["kind"], one["job"], one["status"]) for one in sent] == [("job", "purge", "failed")]
    finally:
        cron.execute("update cron.job set active = false")
        cron.execute("select grace.set_schedule('purge', '0 0 * * *')")
        cron.execute("select grace.set_schedule('watch', '*/5 * * * *')")
        cron.execute("update cron.job set active = false")


@pytest.fixture
def unprivileged(cluster: Cluster, scheduled: Database) -> Iterator[Database]:
    """Installed by an ordinary role that may not use pg_cron, in the database where pg_cron runs."""
    admin = scheduled.connect()
    scheduled.cli("uninstall", "--yes")
    admin.execute("create role keeper login createrole")
    admin.execute("grant create on database postgres to keeper; grant create on schema public to keeper")
    database = Database(Server("as keeper", cluster.conninfo() + " user=keeper"), "postgres")
    database.cli("install")
    yield database
    for connection in database.connections:
        connection.close()


def test_a_turn_that_nobody_took_is_reported_once(db: Database) -> None:
    """pg_cron works from another database: how its jobs end can't be read from here."""
    conn = db.connect()
    let_pass(conn)
    listener = listen(db)
    conn.execute("call grace.watch()")
    (said,) = heard(listener)
    assert (said["kind"], said["job"], said["status"]) == ("job", "purge", "failed")
    conn.execute("call grace.watch()")
    assert heard(listener) == []
    conn.execute("call grace.tick()")
    assert [row[1] for row in purges(conn)] == ["done"]
    assert heard(listener) == []


def test_without_the_right_to_pg_cron_everything_goes_on(unprivileged: Database) -> None:
    """Runs last, for it installs anew."""
    conn = unprivileged.connect()
    conn.execute("create table note (id int primary key)")
    conn.execute("select grace.protect('note')")
    assert [row[0] for row in rows(conn, "select scheduler from grace.jobs()")] == [None, None]
    assert "may not use pg_cron" in str(rows(conn, "select hint from grace.doctor()"))
    conn.execute("call grace.purge()")
    conn.execute("call grace.watch()")
    let_pass(conn)
    conn.execute("call grace.tick()")
    assert purges(conn) == [("purge", "done")] * 2
    assert [row[0] for row in rows(conn, "select scheduler from grace.jobs()")] == ["tick", "tick"]
    unprivileged.cli("uninstall", "--yes")
    assert value(conn, "select to_regnamespace('grace')") is None
