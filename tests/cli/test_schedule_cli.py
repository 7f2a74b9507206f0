"""schedule, tick, retention, capacity and ledger on the command line: what they print, ask, refuse, and end with."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cli.test_terminal import COLOUR, finish, terminal
from tests.conftest import Database, rows, value
from tests.sql.scheduling import in_the_middle, leaf, let_pass, make_older, purges

HOLD_LEDGER = "lock table grace_internal.ledger in exclusive mode"


@pytest.fixture
def shop(db: Database) -> Database:
    """400 notes were deleted 20 days ago, 400 10 days ago, 400 just now; each time 800 kB."""
    conn = db.connect()
    conn.execute("create table note (id int primary key, text text)")
    conn.execute("insert into note select n, repeat('x', 1900) from generate_series(1, 1600) n")
    db.cli("protect", "note")
    for number, days in enumerate((20, 10, 0)):
        conn.execute("delete from note where id between %s and %s", (number * 400 + 1, number * 400 + 400))
        if days:
            make_older(conn, "note", days, number + 1)
            conn.execute("vacuum (truncate) grace_buffer.note")
    return db


def from_json(database: Database, *arguments: str, code: int = 0) -> Any:
    return json.loads(database.cli("--format", "json", *arguments, code=code).stdout)


def schedules(database: Database) -> dict[str, str]:
    return dict(rows(database.connect(), "select name, schedule from grace_internal.job"))


# schedule


def test_schedule_lists_what_runs_by_itself(shop: Database) -> None:
    purge, watch = from_json(shop, "schedule")
    assert (purge["job"], purge["schedule"], purge["zone"]) == ("purge", "0 0 * * *", "GMT")
    assert purge["in_words"] == value(shop.connect(), "select grace.schedule_in_words('0 0 * * *')")
    assert (watch["job"], watch["schedule"]) == ("watch", "*/5 * * * *")
    assert from_json(shop, "schedule", "watch")[0]["job"] == "watch"
    assert len(shop.cli("schedule").stdout.splitlines()) == 3


def test_a_schedule_is_set_and_comes_back_in_words_with_its_next_times(shop: Database) -> None:
    (row,) = from_json(shop, "schedule", "purge", "30 3 * * *")
    assert (row["job"], row["zone"]) == ("purge", "GMT")
    assert "03:30" in row["in_words"]
    assert len(row["next_times"]) == 3
    assert schedules(shop)["purge"] == "30 3 * * *"
    assert rows(shop.connect(), "select job, details from grace.runs where kind = 'schedule'") == [
        ("purge", {"schedule": "30 3 * * *"})
    ]


def test_its_dry_run_says_the_same_and_changes_nothing(shop: Database) -> None:
    said = from_json(shop, "schedule", "purge", "30 3 * * *", "--dry-run")
    assert schedules(shop)["purge"] == "0 0 * * *"
    assert value(shop.connect(), "select count(*) from grace.runs where kind = 'schedule'") == 0
    assert from_json(shop, "schedule", "purge", "30 3 * * *") == said


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("schedule", ["nonsense", "0 25 * * *", "0 0 31 2 *", "", "@reboot", "'; drop table note"])
def test_what_is_no_schedule_is_refused(shop: Database, schedule: str, dry_run: tuple[str, ...]) -> None:
    result = shop.cli("schedule", "purge", schedule, *dry_run, code=4)
    assert "SQLSTATE: GR024" in result.stderr
    assert "DETAIL:" in result.stderr
    assert schedules(shop)["purge"] == "0 0 * * *"


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_job_that_is_not_there_is_refused(shop: Database, dry_run: tuple[str, ...]) -> None:
    result = shop.cli("schedule", "sweep", "0 3 * * *", *dry_run, code=4)
    assert "SQLSTATE: GR026" in result.stderr
    assert "purge, watch" in result.stderr
    assert "there is no job sweep" in shop.cli("schedule", "sweep", code=2).stderr


def test_only_an_administrator_sets_it_and_others_look(shop: Database, role: Callable[[str], str]) -> None:
    auditor = role("auditor")
    shop.connect().execute(f"grant grace_auditor to {auditor}")
    assert len(from_json(shop, "-U", auditor, "schedule")) == 2
    assert "SQLSTATE: 42501" in shop.cli("-U", auditor, "schedule", "purge", "0 3 * * *", code=4).stderr
    assert schedules(shop)["purge"] == "0 0 * * *"


def test_a_schedule_is_carried_to_where_pg_cron_works(elsewhere: Database) -> None:
    result = elsewhere.cli("schedule", "purge", "30 3 * * *")
    assert 'pg_cron in database "postgres" could not be told: the extension is missing there' in result.stderr
    assert schedules(elsewhere)["purge"] == "30 3 * * *"
    with psycopg.connect(elsewhere.server.dsn, autocommit=True, row_factory=dict_row) as there:
        there.execute("create extension pg_cron")
        assert elsewhere.cli("schedule", "purge", "45 4 * * *").stderr == ""
        assert rows(there, "select jobname, schedule, command, database from cron.job order by jobname") == [
            ("pg_grace: purge (app)", "45 4 * * *", "call grace.purge()", "app"),
            ("pg_grace: watch (app)", "*/5 * * * *", "call grace.watch()", "app"),
        ]
        elsewhere.cli("schedule", "purge", "45 4 * * *")
        assert value(there, "select count(*) from cron.job") == 2
        elsewhere.cli("schedule", "purge", "nonsense", code=4)
        elsewhere.cli("schedule", "purge", "0 0 * * *", "--dry-run")
        assert value(there, "select schedule from cron.job where jobname ~ 'purge'") == "45 4 * * *"
        assert {job["scheduler"] for job in from_json(elsewhere, "schedule")} == {'pg_cron in database "postgres"'}


# tick


def test_tick_says_when_nothing_is_due(shop: Database) -> None:
    result = shop.cli("tick")
    assert (result.stdout, result.stderr) == ("nothing is due\n", "")
    assert from_json(shop, "tick") == []


def test_tick_does_what_is_due_and_shows_it_once(shop: Database) -> None:
    conn = shop.connect()
    make_older(conn, "note", 31, 1)
    let_pass(conn)
    (run,) = from_json(shop, "tick")
    assert (run["job"], run["status"], run["row_count"]) == ("purge", "done", 400)
    assert shop.cli("tick").stdout == "nothing is due\n"
    let_pass(conn)
    assert "done" in shop.cli("tick").stdout


def test_a_job_that_failed_ends_it_with_1_and_is_over(shop: Database) -> None:
    conn = shop.connect()
    make_older(conn, "note", 31, 1)
    conn.execute(f"create view looks as select * from {leaf(1, -51)}".encode())
    let_pass(conn)
    result = shop.cli("tick", code=1)
    assert "failed" in result.stdout
    assert "not everything that was due is done" in result.stderr
    assert shop.cli("tick").stdout == "nothing is due\n"


def test_an_error_of_a_job_ends_it_with_1_and_does_not_go_round_in_circles(shop: Database) -> None:
    conn = shop.connect()
    let_pass(conn)
    conn.execute("set check_function_bodies = off")
    conn.execute(
        "create or replace function grace_internal.evict() returns void language plpgsql as"
        " $$ begin raise exception 'the disk is full' using errcode = '53100'; end $$"
    )
    result = shop.cli("tick", code=1)
    assert result.stderr.count("the disk is full") == 1
    assert "SQLSTATE: 53100" in result.stderr
    assert purges(conn) == []
    assert shop.cli("tick").stdout == "nothing is due\n"
    let_pass(conn, timedelta(minutes=11))
    assert shop.cli("tick", code=1).stderr.count("the disk is full") == 1


def test_while_another_purges_tick_has_nothing_to_do(shop: Database) -> None:
    conn = shop.connect()
    make_older(conn, "note", 31, 1)
    let_pass(conn)
    with in_the_middle(shop, "call grace.purge()", HOLD_LEDGER):
        assert shop.cli("tick").stdout == "nothing is due\n"
    assert purges(conn) == [("purge", "done")]


@pytest.mark.parametrize("group", ["grace_operator", "grace_auditor", None])
def test_others_than_administrators_may_not_tick(shop: Database, role: Callable[[str], str], group: str | None) -> None:
    name = role("person")
    conn = shop.connect()
    if group:
        conn.execute(f"grant {group} to {name}".encode())
    let_pass(conn)
    assert "SQLSTATE: 42501" in shop.cli("-U", name, "tick", code=4).stderr
    assert purges(conn) == []


# retention


def test_retention_shows_and_sets(shop: Database) -> None:
    (row,) = from_json(shop, "retention", "note")
    assert row["table"] == "note"
    assert row["retention"] == from_json(shop, "tables")[0]["retention"]
    result = shop.cli("retention", "note", "60 days")
    assert "stays restorable for 60 days" in result.stderr
    assert value(shop.connect(), "select retention from grace.protected") == timedelta(days=60)


def test_a_shorter_one_is_refused_without_a_terminal_and_without_yes(shop: Database) -> None:
    result = shop.cli("retention", "note", "15 days", code=4, stdin="y\n")
    assert "400 rows of note that can be restored now would expire at once" in result.stderr
    assert "say --yes" in result.stderr
    assert value(shop.connect(), "select retention from grace.protected") == timedelta(days=30)
    result = shop.cli("retention", "note", "15 days", "--yes")
    assert "400 rows expired; next purge: " in result.stderr
    assert value(shop.connect(), "select retention from grace.protected") == timedelta(days=15)


def test_a_shorter_one_by_which_nothing_expires_yet_is_asked_all_the_same(shop: Database) -> None:
    assert "the rest expires sooner" in shop.cli("retention", "note", "25 days", code=4).stderr
    shop.cli("retention", "note", "25 days", "--yes")
    assert value(shop.connect(), "select retention from grace.protected") == timedelta(days=25)
    shop.cli("retention", "note", "26 days")
    assert value(shop.connect(), "select retention from grace.protected") == timedelta(days=26)


def test_what_loses_rows_with_it_is_named_and_goes_along_on_request(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("create table line (id int primary key, note int references note on delete cascade)")
    conn.execute("select grace.protect('line')")
    assert "keep a longer retention: public.line" in shop.cli("retention", "note", "20 days", "--yes").stderr
    assert value(conn, "select retention from grace.protected where target_name = 'public.line'") == timedelta(days=30)
    shop.cli("retention", "note", "10 days", "--cascade", "--yes")
    assert rows(conn, "select distinct retention from grace.protected") == [(timedelta(days=10),)]


def test_a_purge_that_would_run_too_rarely_is_warned_of(shop: Database) -> None:
    result = shop.cli("schedule", "purge", "0 3 1 * *")
    assert "WARNING: what has expired will stay for longer than a day" in result.stderr
    assert "at 03:00 on day 1 of every month" in result.stdout


def test_a_purge_over_capacity_says_what_goes_early_before_it_asks(shop: Database) -> None:
    shop.cli("capacity", "1 MB", "--yes")
    assert "over capacity: 800 rows of public.note" in shop.cli("purge", "--dry-run").stderr
    assert "Remove 0 expired rows and 800 that go before their time for good?" in shop.cli("purge", code=4).stderr


def test_its_dry_run_counts_and_changes_nothing(shop: Database) -> None:
    assert "800 rows of note would expire at once" in shop.cli("retention", "note", "1 day", "--dry-run").stderr
    assert value(shop.connect(), "select retention from grace.protected") == timedelta(days=30)
    assert value(shop.connect(), "select count(*) from grace.runs where kind = 'retention'") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("note", "soon"), 2, "is not a duration"),
        (("note", "30"), 2, "say 30 days"),
        (("note", "0"), 4, "SQLSTATE: GR005"),
        (("note", "200 years"), 4, "SQLSTATE: GR005"),
        (("other", "30 days"), 4, "SQLSTATE: GR001"),
        (("other",), 4, "SQLSTATE: GR001"),
        (("nowhere", "30 days"), 1, "SQLSTATE: 42P01"),
    ],
)
def test_what_is_wrong_with_a_retention_is_said(
    shop: Database, arguments: tuple[str, ...], code: int, said: str
) -> None:
    shop.connect().execute("create table other (id int primary key)")
    assert said in shop.cli("retention", *arguments, code=code).stderr


# capacity


def test_capacity_shows_each_table_and_all_together(shop: Database) -> None:
    note, total = from_json(shop, "capacity")
    assert (note["table"], note["capacity"], note["expired_early_to"]) == ("note", None, None)
    assert (total["table"], total["capacity"]) == (None, None)
    assert note["buffer_bytes"] == total["buffer_bytes"] > 2 * 2**20


@pytest.mark.parametrize("table", [("note",), ()])
def test_what_would_go_early_is_asked_before(shop: Database, table: tuple[str, ...]) -> None:
    told = shop.cli("capacity", "1700 kB", *table, "--dry-run").stderr
    assert "the next purge would let go early:" in told
    assert "public.note: 400 rows, deleted up to" in told
    result = shop.cli("capacity", "1700 kB", *table, code=4, stdin="y\n")
    assert "public.note: 400 rows, deleted up to" in result.stderr
    assert "say --yes" in result.stderr
    assert {row["capacity"] for row in from_json(shop, "capacity")} == {None}
    assert value(shop.connect(), "select count(*) from grace.runs where kind = 'capacity'") == 0
    assert "may become 1700 kB" in shop.cli("capacity", "1700 kB", *table, "--yes").stderr
    assert {row["capacity"] for row in from_json(shop, "capacity")} == {None, 1700 * 1024}
    shop.cli("purge", "--yes")
    assert [row["id"] for row in from_json(shop, "deletions")] == [3, 2]
    assert from_json(shop, "ledger", "show")[-1]["action"] == "expired early"


def test_what_lets_nothing_go_is_not_asked_and_off_takes_it_away(shop: Database) -> None:
    assert "nothing would go early" in shop.cli("capacity", "1 GB", "--dry-run").stderr
    shop.cli("capacity", "1 GB")
    shop.cli("capacity", "2 GB", "note")
    assert [row["capacity"] for row in from_json(shop, "capacity")] == [2**31, 2**30]
    assert "as big as they get" in shop.cli("capacity", "off").stderr
    shop.cli("capacity", "off", "note")
    assert [row["capacity"] for row in from_json(shop, "capacity")] == [None, None]


@pytest.mark.parametrize("size", ["abc", "1 kB", "", "0", "99999 PB", "on"])
def test_what_is_no_capacity_is_refused(shop: Database, size: str) -> None:
    for dry_run in ((), ("--dry-run",)):
        assert "SQLSTATE: GR025" in shop.cli("capacity", size, *dry_run, code=4).stderr


# ledger


def test_the_ledger_is_shown_newest_first_and_verified(shop: Database) -> None:
    conn = shop.connect()
    assert "the ledger is empty" in shop.cli("ledger", "verify").stderr
    for deletion in (1, 2):
        make_older(conn, "note", 31, deletion)
        shop.cli("purge", "--yes")
    newest, oldest = from_json(shop, "ledger", "show")
    assert (newest["id"], oldest["id"]) == (2, 1)
    assert (oldest["action"], oldest["target_name"], oldest["row_count"]) == ("purged", "public.note", 400)
    assert from_json(shop, "ledger", "show", "--limit", "1") == [newest]
    result = shop.cli("ledger", "verify")
    assert result.stderr == f"as it was written, up to entry 2, hash {newest['hash']}\n"
    assert from_json(shop, "ledger", "verify") == []


def test_what_was_changed_in_it_ends_with_5(shop: Database) -> None:
    conn = shop.connect()
    make_older(conn, "note", 31, 1)
    shop.cli("purge", "--yes")
    conn.execute("update grace_internal.ledger set row_count = 9")
    assert from_json(shop, "ledger", "verify", code=5) == [{"id": 1, "finding": "changed"}]
    result = shop.cli("ledger", "verify", code=5)
    assert "changed" in result.stdout
    assert "1 finding in the ledger" in result.stderr
    assert "as it was written" not in result.stderr


# At a terminal


@pytest.mark.parametrize(
    ("command", "question", "changed"),
    [
        (
            ("retention", "note", "15 days"),
            r"15 days instead of 30 days\? \[y/N\]",
            "select retention = '15 days' from grace.protected",
        ),
        (("capacity", "1700 kB"), r"Set this capacity\? \[y/N\]", "select grace.capacity() is not null"),
    ],
)
def test_at_a_terminal_it_is_asked(shop: Database, command: tuple[str, ...], question: str, changed: str) -> None:
    for answer, code in (("n", 4), ("", 4), ("y", 0)):
        assert not value(shop.connect(), changed)
        child = terminal(shop, *command)
        child.expect(question)
        child.sendline(answer)
        assert finish(child)[0] == code
    assert value(shop.connect(), changed)


def test_status_shows_problems_in_red_and_json_has_them(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("call grace.purge()")
    assert from_json(shop, "status")["problems"] == []
    assert not COLOUR.search(finish(terminal(shop, "status"))[1])
    conn.execute('alter table note rename to "no\x1b[2Jte"')
    conn.execute('alter table "no\x1b[2Jte" disable trigger zz_grace_delete')
    facts = from_json(shop, "status")
    (problem,) = facts["problems"]
    assert "deletes are lost" in problem
    printed = finish(terminal(shop, "status"))[1]
    (red,) = [line for line in printed.splitlines() if "\x1b[31m" in line]
    assert "deletes are lost" in red
    assert "\x1b[2J" not in printed
    assert not COLOUR.search(finish(terminal(shop, "status", NO_COLOR="1"))[1])
    piped = shop.cli("status")
    assert "deletes are lost" in piped.stderr
    assert "pg_grace doctor" in piped.stderr
    assert "deletes are lost" not in piped.stdout


def test_status_says_when_the_jobs_run_and_by_what(shop: Database) -> None:
    facts = from_json(shop, "status")
    assert "but nothing runs it" in facts["job purge"]
    let_pass(shop.connect())
    shop.cli("tick")
    facts = from_json(shop, "status")
    assert ", by tick; next " in facts["job purge"]
    assert ", by tick; next " in facts["job watch"]
    assert ": done in " in facts["job purge"]
