"""Runs of rules: all that is due goes and nothing else, in whatever is in their way; limits hold them; a stop loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.ruling import add_rule, details, failures, last_run, refused, run
from tests.sql.scheduling import at_once, heard, kill, listen, make_older


@pytest.fixture
def note(conn: Connection) -> Connection:
    conn.execute(
        b"create table note (id int primary key, text text, made date default '2020-01-01');"
        b"insert into note select n, 'note ' || n from generate_series(1, 2000) n;"
        b"select grace.protect('note')"
    )
    return conn


def left(conn: Connection, table: str = "note") -> int:
    return int(value(conn, f"select count(*) from {table}"))


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize(("count", "batches"), [(0, 0), (99, 1), (100, 1), (101, 2), (200, 2), (250, 3)])
def test_batches(note: Connection, isolation: str, count: int, batches: int) -> None:
    note.execute(f"set default_transaction_isolation = '{isolation}'".encode())
    add_rule(note, target="note", predicate=f"id <= {count}", batch_size=100)
    assert run(note) == ("done", count)
    assert left(note) == 2000 - count
    assert value(note, "select batches from grace.runs where kind = 'rule'") >= batches
    assert value(note, "select count(*) from grace_buffer.note") == count
    assert run(note) == ("done", 0)


KEYS = {
    "two columns": ("a int, b text, primary key (b, a)", "n %% 7, 'it''s ' || n"),
    "text": ('k text collate "C" primary key', "'Ä ' || n"),
    "character": ("k char(8) primary key", "n::text"),
    "uuid": ("k uuid primary key", "gen_random_uuid()"),
    "timestamptz": ("k timestamptz primary key", "'2020-01-01'::timestamptz + n * interval '1 microsecond'"),
    "timestamp and date": (
        "k timestamp, d date, primary key (d, k)",
        "'2020-01-01'::timestamp + n * interval '1.5 s', '2020-01-01'",
    ),
    "float": ("k float8 primary key", "n / 3.0::float8"),
    "numeric": ("k numeric primary key", "n / 3.0"),
    "bytea": ("k bytea primary key", "decode(lpad(to_hex(n), 8, '0'), 'hex')"),
    "interval": ("k interval primary key", "n * interval '1 day 2 seconds'"),
    "enum and boolean": (
        "k mood, b boolean, n int, primary key (k, b, n)",
        "(array['sad', 'ok']::mood [])[1 + n %% 2], n %% 3 = 0, n",
    ),
    "domain": ("k positive primary key", "n"),
    "array": ("k int [] primary key", "array[n, -n]"),
    "range": ("k int4range primary key", "int4range(n, n + 1)"),
    "inet": ("k inet primary key", "'10.0.0.0'::inet + n"),
    "infinite": (
        "k date primary key",
        "case n when 1 then '-infinity'::date when 2 then 'infinity' else '2020-01-01'::date + n end",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type(conn: Connection, kind: str) -> None:
    columns, values = (one.replace("%%", "%") for one in KEYS[kind])
    conn.execute(b"create type mood as enum ('sad', 'ok'); create domain positive as int check (value > 0)")
    conn.execute(f"create table t ({columns}, x int)".encode())
    conn.execute(f"insert into t select {values}, n from generate_series(1, 30) n".encode())
    conn.execute("select grace.protect('t')")
    conn.execute(
        "set intervalstyle = 'iso_8601'; set datestyle = 'German'; set timezone = 'Asia/Kolkata'; set bytea_output = 'escape'"
    )
    add_rule(conn, target="t", predicate="x > 5", batch_size=7)
    key = value(conn, "select record_key from grace.planned('t') limit 1")
    assert value(conn, "select count(*) from grace.planned('t', %s)", psycopg.types.json.Jsonb(key)) == 1
    conn.execute("select grace.exempt('r', %s, 'why')", (psycopg.types.json.Jsonb(key),))
    assert run(conn) == ("done", 24)
    assert failures(conn) == []
    conn.execute("select grace.end_exemption(1)")
    assert run(conn) == ("done", 1)
    assert left(conn, "t") == 5


def test_partitioned_tables_and_a_leaf(conn: Connection) -> None:
    conn.execute(
        b"create table t (id int, at date, primary key (id, at)) partition by range (at);"
        b"create table t1 partition of t for values from ('2020-01-01') to ('2021-01-01');"
        b"create table t2 partition of t default;"
        b"insert into t select n, date '2020-12-01' + n from generate_series(1, 100) n;"
        b"select grace.protect('t')"
    )
    add_rule(conn, target="t", starts="at", period="1 year", predicate="id % 2 = 0", batch_size=7)
    assert run(conn) == ("done", 50)
    add_rule(conn, "leaf", target="t1", predicate="id < 10")
    assert run(conn, "leaf") == ("done", 5)
    assert value(conn, "select count(*) from grace.planned('t')") == 0


def test_one_that_can_not_go_does_not_stop_the_others(note: Connection) -> None:
    note.execute(
        b"create table line (id int primary key, note_id int references note);"
        b"create table later (id int primary key, note_id int references note deferrable initially deferred);"
        b"insert into line values (1, 7), (2, 8); insert into later values (1, 20);"
        b"create function refuse() returns trigger language plpgsql as $$ begin"
        b" if old.id = 30 then raise exception 'not this one' using errcode = 'P0042'; end if;"
        b" if old.id = 40 then return null; end if; return old; end $$;"
        b"create trigger refuse before delete on note for each row execute function refuse()"
    )
    add_rule(note, target="note", predicate="id <= 100", batch_size=1000)
    assert run(note) == ("incomplete", 95)
    assert [(key["id"], state) for key, state, _ in sorted(failures(note), key=lambda one: one[0]["id"])] == [
        (7, "23503"),
        (8, "23503"),
        (20, "23503"),
        (30, "P0042"),
        (40, "42501"),
    ]
    assert value(note, "select count(*) from grace_buffer.note") == 95
    note.execute("drop trigger refuse on note; delete from line; delete from later")
    assert run(note) == ("done", 5)


def test_limits_hold_a_run_until_it_is_approved(note: Connection, db: Database) -> None:
    listener = listen(db)
    add_rule(note, target="note", predicate="id <= 100", max_fraction=0)
    assert run(note) == ("done", 100)  # that many always may go
    note.execute("select grace.alter_rule('r', '{\"predicate\": \"id <= 201\"}')")
    assert run(note) == ("held", 0)
    assert details(note)["held_because"] == "101 of 1900 rows are more than max_fraction, 0 %"
    assert [one["status"] for one in heard(listener) if one.get("kind") == "rule"] == ["held"]
    note.execute("insert into note select -n, '' from generate_series(1, 5) n")
    assert run(note, arguments=", approve => true") == ("held", 0)  # more than was held
    assert run(note, arguments=", approve => true") == ("done", 106)
    refused(note, "GR032", "call grace.run('r', approve => true)")


def test_max_rows_and_fraction(note: Connection) -> None:
    add_rule(note, target="note", predicate="id <= 150", max_fraction=0.075, max_rows=150)
    assert run(note) == ("done", 150)
    note.execute("select grace.alter_rule('r', '{\"predicate\": \"id <= 400\"}')")
    assert run(note) == ("held", 0)
    note.execute("select grace.alter_rule('r', '{\"max_fraction\": 1, \"max_rows\": 249}')")
    assert run(note) == ("held", 0)
    note.execute("select grace.alter_rule('r', '{\"max_rows\": 250}')")
    assert run(note) == ("done", 250)


def test_an_approval_is_for_the_rule_as_it_was(note: Connection) -> None:
    add_rule(note, target="note", predicate="id <= 500", max_fraction=0.1)
    assert run(note) == ("held", 0)
    note.execute("select grace.alter_rule('r', '{\"predicate\": \"id > 1500\"}')")
    refused(note, "GR032", "call grace.run('r', approve => true)")
    assert left(note) == 2000


def test_four_eyes_are_of_two_people_whatever_role_they_take_on(note: Connection, db: Database, role: Any) -> None:
    author, other = role("author"), role("other")
    note.execute(f"grant grace_admin to {author}, {other}; grant select, delete on note to {author}".encode())
    mine, theirs = db.connect(user=author), db.connect(user=other)
    note.execute(f"grant {author} to {other}".encode())
    add_rule(mine, target="note", predicate="id <= 500", max_fraction=0.1, four_eyes=True, run_as=author)
    assert run(mine) == ("held", 0)
    refused(mine, "GR032", "call grace.run('r', approve => true)")
    mine.execute("set role grace_admin")
    refused(mine, "GR032", "call grace.run('r', approve => true)")
    theirs.execute(f"set role {author}".encode())
    assert run(theirs, arguments=", approve => true") == ("done", 500)


def test_a_run_is_bound_to_its_preview(note: Connection) -> None:
    add_rule(note, target="note", predicate="id <= 5")
    count, token = rows(note, "select row_count, token from grace.preview('r')")[0]
    refused(note, "GR030", "call grace.run('r', expect => 6)")
    note.execute("update note set id = 0 where id = 3")
    refused(note, "GR030", f"call grace.run('r', token => '{token}')")
    refused(note, "GR030", "call grace.run('r', token => 'x')")
    assert run(note, arguments=f", expect => {count}") == ("done", 5)
    token = value(note, "select token from grace.preview('r')")
    assert run(note, arguments=f", token => '{token}', expect => 0") == ("done", 0)


def test_inside_a_transaction_nothing_happens(note: Connection) -> None:
    add_rule(note, target="note", predicate="id <= 5")
    with pytest.raises(psycopg.errors.InvalidTransactionTermination), note.transaction():
        note.execute("call grace.run('r')")
    assert left(note) == 2000


def slow(conn: Connection, seconds: float = 0.02) -> None:
    conn.execute(
        f"create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep({seconds}); return old; end $$;"
        "create trigger slow before delete on note for each row execute function slow()".encode()
    )


@contextmanager
def running(db: Database, conn: Connection) -> Iterator[Connection]:
    """Run rule r in another session; the block begins when some of it is done."""
    session = db.connect()

    def call() -> None:
        with suppress(psycopg.Error):
            session.execute("call grace.run('r')")

    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + 20
    while not value(
        conn, "select coalesce(max(row_count), 0) from grace.runs where kind = 'rule' and status = 'running'"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield session
    finally:
        thread.join()


def test_a_run_that_is_killed_is_gone_on_with(note: Connection, db: Database) -> None:
    slow(note)
    add_rule(note, target="note", predicate="id <= 60", batch_size=5, max_rows=2000)
    with running(db, note) as session:
        refused(note, "GR014", "call grace.run('r')")
        kill(note, session)
    done = 2000 - left(note)
    assert 0 < done < 60
    assert value(note, "select count(*) from grace_buffer.note") == done
    status, deleted = run(note)
    assert (status, deleted) == ("done", 60 - done)
    assert rows(note, "select status, row_count from grace.runs where kind = 'rule' order by id") == [
        ("aborted", done),
        ("done", 60 - done),
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("select grace.enable_rule('r', false)", "the rule was changed or disabled meanwhile"),
        ("select grace.alter_rule('r', '{\"max_rows\": 5000}')", "the rule was changed or disabled meanwhile"),
        ("select grace.drop_rule('r')", "the rule was changed or disabled meanwhile"),
        ("alter table note rename made to born", "SQLSTATE"),
    ],
)
def test_a_rule_that_is_changed_while_it_runs_stops(note: Connection, db: Database, change: str, problem: str) -> None:
    slow(note, 0.05)
    add_rule(note, target="note", predicate="id <= 100 and made < '2021-01-01'", batch_size=5)
    with running(db, note):
        for _ in range(20):
            try:
                note.execute("set lock_timeout = '200ms'")
                note.execute(change.encode())
                break
            except psycopg.errors.LockNotAvailable:
                continue
    status, deleted = last_run(note)
    assert status in ("incomplete", "failed")
    assert 0 < deleted < 100
    assert problem in details(note)["stopped"]["reason"]
    assert value(note, "select count(*) from grace_buffer.note") == deleted == 2000 - left(note)


def test_max_duration_ends_a_run_and_the_next_goes_on(note: Connection) -> None:
    slow(note)
    add_rule(note, target="note", predicate="id <= 40", batch_size=5, max_duration="100 milliseconds")
    status, deleted = run(note)
    assert status == "incomplete"
    assert 0 < deleted < 40
    note.execute("select grace.alter_rule('r', '{\"max_duration\": null}')")
    assert run(note) == ("done", 40 - deleted)


def test_two_sessions_at_once_do_the_work_once(note: Connection, db: Database) -> None:
    add_rule(note, target="note", predicate="id <= 500", batch_size=10)
    errors = at_once([db.connect() for _ in range(4)], "call grace.run('r')")
    assert {error.sqlstate for error in errors} <= {"GR014"}
    assert left(note) == 1500
    assert value(note, "select sum(row_count) from grace.runs where kind = 'rule'") == 500
    assert value(note, "select count(*) from grace_buffer.note") == 500


def test_beside_a_run_a_purge_and_another_rule_do_their_work(note: Connection, db: Database) -> None:
    note.execute("delete from note where id > 1900")
    make_older(note, "note", 40)
    slow(note)
    add_rule(note, target="note", predicate="id <= 60", batch_size=5)
    add_rule(note, "other", target="note", predicate="id between 41 and 100", batch_size=5)
    with running(db, note):
        note.execute("call grace.purge()")
        assert rows(note, "select status, row_count from grace.runs where kind = 'purge'") == [("done", 100)]
        assert run(note, "other")[0] in ("done", "incomplete")  # what the first one has locked is left to it
    for name in ("r", "other"):
        assert run(note, name)[0] == "done"
    assert left(note) == 1800
    assert value(note, "select count(*) from grace_buffer.note") == 100
    assert value(note, "select sum(row_count) from grace.runs where kind = 'rule'") == 100


def test_rows_that_somebody_has_locked_are_left_and_said(note: Connection, db: Database) -> None:
    add_rule(note, target="note", predicate="id <= 50")
    holder = db.connect()
    with holder.transaction():
        holder.execute("select from note where id in (3, 30) for update")
        began = time.monotonic()
        assert run(note) == ("incomplete", 48)
        assert time.monotonic() - began < 5
    assert sorted((key["id"], state) for key, state, _ in failures(note)) == [(3, "55P03"), (30, "55P03")]
    assert run(note) == ("done", 2)


def test_with_the_table_locked_the_run_ends_and_nobody_waits_behind_it(note: Connection, db: Database) -> None:
    add_rule(note, target="note", predicate="id <= 50")
    holder = db.connect()
    with holder.transaction():
        holder.execute("lock table note in share mode")
        began = time.monotonic()
        run(note)
        assert time.monotonic() - began < 3
        assert last_run(note) == ("incomplete", 0)
        assert "55P03" in details(note)["stopped"]["reason"]
        assert failures(note) == []
    assert run(note) == ("done", 50)


def test_many_rows_that_somebody_has_locked_do_not_stop_the_others(note: Connection, db: Database) -> None:
    add_rule(note, target="note", predicate="id <= 50")
    holder = db.connect()
    with holder.transaction():
        holder.execute("update note set text = '' where id between 10 and 29")
        assert run(note) == ("incomplete", 30)
    assert len(failures(note)) == 20


def test_a_statement_that_is_cancelled_leaves_a_rule_that_runs_again(note: Connection) -> None:
    slow(note)
    add_rule(note, target="note", predicate="id <= 20", batch_size=5)
    note.execute("set statement_timeout = '150ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        note.execute("call grace.run('r')")
    note.execute("reset statement_timeout")
    assert run(note)[0] == "done"
    assert left(note) == 1980


@pytest.mark.parametrize("may_lock", [True, False])
def test_a_lead_is_saved_by_what_comes_in_the_moment_it_would_go(
    conn: Connection, db: Database, role: Any, may_lock: bool
) -> None:
    cleaner = role("cleaner")
    conn.execute(
        b"create table lead (id int primary key);"
        b"create table mail (id int primary key, lead_id int references lead on delete cascade, at timestamptz);"
        b"insert into lead select n from generate_series(1, 5) n;"
        b"insert into mail select n, n, '2020-01-01' from generate_series(1, 5) n; select grace.protect('lead')"
    )
    conn.execute(f"grant select, delete on lead, mail to {cleaner}; grant usage on schema public to {cleaner}".encode())
    if may_lock:
        conn.execute(f"grant update on lead to {cleaner}".encode())
    add_rule(conn, target="lead", activities=["mail.at via lead_id"], period="1 year", run_as=cleaner)
    other = db.connect()
    with other.transaction():
        other.execute("insert into mail values (100, 3, now())")
        assert run(conn) == ("incomplete", 4)
        assert [(key["id"], state) for key, state, _ in failures(conn)] == [(3, "55P03")]
    assert run(conn) == ("done", 0)
    assert rows(conn, "select id from lead") == [(3,)]
    assert ("may not lock rows" in str(rows(conn, "select finding from grace.doctor()"))) == (not may_lock)


def test_what_is_picked_is_looked_up_by_the_key_and_not_sorted(note: Connection) -> None:
    note.execute(b"insert into note select n, 'note ' || n from generate_series(2001, 60000) n; analyze note")
    add_rule(note, target="note", predicate="text like 'note %'", max_rows=100000, max_duration="1 s")
    note.execute(
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on"
    )
    plans: list[str] = []
    note.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    note.execute("set client_min_messages = log; set auto_explain.log_analyze = off")
    note.execute("call grace.run('r')")
    batch = next(plan for plan in plans if "with pick as" in plan and "Query Text: with pick" in plan)
    assert "Index Scan using note_pkey" in batch or "Index Only Scan using note_pkey" in batch
    assert "Sort" not in batch
    assert "Seq Scan" not in batch
