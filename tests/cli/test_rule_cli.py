"""rule, exempt and runs on the command line: what they say, ask, refuse, and end with."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pg_grace.cli.preview import plain_key
from tests.cli.test_terminal import finish, terminal
from tests.conftest import Database, rows, value


@pytest.fixture
def shop(db: Database) -> Database:
    """200 notes, the first 30 old; note 7 can't be deleted."""
    db.connect().execute(
        b"create table note (id int primary key, text text, made date not null);"
        b"create table pin (note_id int references note);"
        b"insert into note select n, 'n' || n, now() - case when n <= 30 then interval '2 years' else '1 day' end"
        b" from generate_series(1, 200) n; insert into pin values (7)"
    )
    db.cli("protect", "note")
    return db


def from_json(database: Database, *arguments: str, code: int = 0) -> Any:
    return json.loads(database.cli("--format", "json", *arguments, code=code).stdout)


def rule(database: Database, name: str = "Ältere Notizen", *options: str) -> str:
    database.cli("rule", "add", name, "--table", "note", "--starts", "made", "--period", "12mo", *options)
    return name


def left(database: Database) -> int:
    return int(value(database.connect(), "select count(*) from note"))


# add, alter, list, show


def test_a_rule_says_what_it_will_do(shop: Database) -> None:
    said = shop.cli(
        *("rule", "add", "r", "--table", "note", "--where", "text <> 'keep'", "--starts", "made", "--period", "6mo"),
        *("--schedule", "monthly", "--notice", "14d", "--max-fraction", "50%"),
    )
    assert "r: deletes rows of note where (note.text <> 'keep'::text), 6 months after made" in said.stdout
    assert "at 03:00 on day 1 of every month (GMT), next " in said.stdout
    assert "acts only on what was announced 14 days before" in said.stdout
    assert "30 records are due now." in said.stdout
    (listed,) = from_json(shop, "rule", "list")
    assert (listed["name"], listed["schedule"], listed["period"]) == ("r", "0 3 1 * *", "6 months")
    shown = from_json(shop, "rule", "show", "r")
    assert (shown["max_fraction"], shown["notice"], shown["action"], shown["problem"]) == (
        0.5,
        "14 days",
        "delete",
        None,
    )
    assert shown["next_start"] is not None
    assert "rule-" in from_json(shop, "schedule")[-2]["job"] + from_json(shop, "schedule")[-1]["job"]


def test_a_rule_that_keeps_says_that(shop: Database) -> None:
    said = shop.cli(
        "rule", "add", "law", "--table", "note", "--starts", "end of year of made", "--period", "8y", "--keep-until"
    )
    assert said.stdout.startswith("law: no rule deletes rows of note, nor what would take them along, before 8 years")
    assert "due now" not in said.stdout
    rule(shop, "r")
    found = from_json(shop, "rule", "preview", "r")
    assert (found["row_count"], found["kept"]) == (30, 30)
    assert "SQLSTATE: GR031" in shop.cli("rule", "run", "law", code=4).stderr
    found = from_json(shop, "rule", "preview", "law")
    assert (found["action"], found["row_count"], found["deletes"], found["cascades"]) == ("keep", 200, None, [])
    assert "keeps\t200" in shop.cli("rule", "preview", "law").stdout
    shown = from_json(shop, "rule", "show", "law")
    assert (shown["given_starts"], shown["activities"], shown["predicate"]) == ("end of year of made", [], None)
    for command in ("disable", "drop"):
        assert "Other rules may then delete what" in shop.cli("rule", command, "law", code=4).stderr
        assert from_json(shop, "rule", "show", "law")["enabled"] is True
    shop.cli("rule", "disable", "law", "--yes")
    assert from_json(shop, "rule", "preview", "r")["kept"] == 0
    assert (
        "says --action keep"
        in shop.cli("rule", "add", "x", "--table", "note", "--keep-until", "--action", "delete", code=2).stderr
    )


@pytest.mark.parametrize(
    ("words", "schedule"),
    [("daily", "0 3 * * *"), ("Weekly", "0 3 * * 1"), ("monthly", "0 3 1 * *"), ("5 4 * * sun", "5 4 * * sun")],
)
def test_a_schedule_may_be_a_word(shop: Database, words: str, schedule: str) -> None:
    rule(shop, "r", "--schedule", words)
    assert from_json(shop, "rule", "show", "r")["schedule"] == schedule


def test_what_a_rule_can_not_be_is_refused(shop: Database) -> None:
    for options, code, said in (
        (("--table", "note", "--starts", "made", "--period", "6m"), 2, "months or minutes?"),
        (("--table", "note", "--starts", "made", "--period", "12"), 2, "say 12 days"),
        (("--table", "note", "--max-fraction", "much"), 2, "say 10% or 0.1"),
        (("--table", "note", "--max-fraction", "10"), 2, "did you mean 10%?"),
        (("--table", "note", "--period", "1y"), 4, "SQLSTATE: GR031"),
        (("--table", "note", "--schedule", "sometimes"), 2, "say daily, weekly, monthly"),
        (("--table", "note", "--schedule", "61 * * * *"), 4, "SQLSTATE: GR024"),
        (("--table", "note", "--starts", "maed", "--period", "1y"), 4, "a period can't start with maed"),
        (("--table", "note", "--where", "txt = 'x'"), 4, "not a condition: txt = 'x'"),
        (("--table", "note", "--where", "txt = 'x'"), 4, 'Perhaps you meant to reference the column "note.text"'),
        (("--table", "note", "--activity", "pin"), 4, "SQLSTATE: GR031"),
        (("--table", "pin"), 4, "SQLSTATE: GR031"),
        (("--filter", "nope"), 4, "HINT:  pg_grace filter list"),
        ((), 4, "a rule needs a filter or a table"),
        (("--table", "note", "--run-as", "nobody at all"), 1, "there is no role"),
    ):
        assert said in shop.cli("rule", "add", "r", *options, code=code).stderr, options
    assert from_json(shop, "rule", "list") == []
    assert "there are no rules" in shop.cli("rule", "list").stderr


def test_a_dry_run_adds_and_changes_nothing(shop: Database) -> None:
    assert (
        "30 records are due"
        in shop.cli("rule", "add", "r", "--table", "note", "--starts", "made", "--period", "1y", "--dry-run").stdout
    )
    assert from_json(shop, "rule", "list") == []
    rule(shop, "r")
    assert "0 records are due" in shop.cli("rule", "alter", "r", "--period", "3y", "--dry-run").stdout
    assert from_json(shop, "rule", "show", "r")["period"] == "1 year"


def test_altering_changes_what_is_said_and_no_more(shop: Database) -> None:
    rule(shop, "r", "--schedule", "daily", "--notice", "3d", "--max-rows", "5", "--basis", "Art. 17")
    before = from_json(shop, "rule", "show", "r")
    shop.cli("rule", "alter", "r", "--rename", "Über 2 Jahre", "--period", "2y", "--no-schedule", "--no-notice")
    shop.cli("rule", "alter", "Über 2 Jahre", "--no-max-rows", "--no-basis", "--four-eyes", "--columns", "text, made")
    after = from_json(shop, "rule", "show", "Über 2 Jahre")
    changed = {part for part in after if after[part] != before[part]} - {
        "changed_at",
        "in_words",
        "next_start",
        "schedule_zone",
    }
    assert changed == {"name", "period", "schedule", "notice", "max_rows", "basis", "four_eyes", "columns"}
    assert (after["period"], after["schedule"], after["columns"]) == ("2 years", None, ["text", "made"])
    shop.cli("rule", "alter", "Über 2 Jahre", "--action", "keep")
    assert from_json(shop, "rule", "show", "Über 2 Jahre")["action"] == "keep"
    shop.cli("rule", "alter", "Über 2 Jahre", "--action", "delete", "--no-starts", "--no-period")
    assert from_json(shop, "rule", "show", "Über 2 Jahre")["starts"] is None
    assert "SQLSTATE: GR032" in shop.cli("rule", "alter", "Über 2 Jahre", "--no-four-eyes", code=4).stderr
    for options in ((), ("--notice", "3d", "--no-notice")):
        shop.cli("rule", "alter", "Über 2 Jahre", *options, code=2)
    assert "SQLSTATE: GR027" in shop.cli("rule", "alter", "r", "--period", "1y", code=4).stderr


def test_a_disabled_rule_stands_still(shop: Database) -> None:
    name = rule(shop)
    shop.cli("rule", "disable", name)
    assert from_json(shop, "rule", "show", name)["enabled"] is False
    result = shop.cli("rule", "run", name, code=4)
    assert f"HINT:  pg_grace rule enable '{name}'" in result.stderr
    shop.cli("rule", "enable", name)
    assert from_json(shop, "rule", "show", name)["enabled"] is True


def test_jobs_are_carried_to_where_pg_cron_works(elsewhere: Database) -> None:
    elsewhere.connect().execute("create table note (id int primary key, made date)")
    elsewhere.cli("protect", "note")
    with psycopg.connect(elsewhere.server.dsn, autocommit=True, row_factory=dict_row) as there:
        there.execute("create extension if not exists pg_cron")
        jobs = "select jobname, schedule from cron.job where jobname like '%%rule%%'"
        rule(elsewhere, "r", "--schedule", "monthly")
        assert rows(there, jobs) == [("pg_grace: rule-1 (app)", "0 3 1 * *")]
        elsewhere.cli("rule", "alter", "r", "--schedule", "daily")
        assert rows(there, jobs) == [("pg_grace: rule-1 (app)", "0 3 * * *")]
        elsewhere.cli("rule", "alter", "r", "--schedule", "weekly", "--dry-run")
        assert rows(there, jobs) == [("pg_grace: rule-1 (app)", "0 3 * * *")]
        elsewhere.cli("rule", "drop", "r", "--yes")
        assert rows(there, jobs) == []


# preview, run


def test_a_preview_is_whole_in_json_and_readable_in_text(crm: Database) -> None:
    crm.cli(
        "filter", "add", "Kein Interesse", "--table", "crm.lead", "--is", "status=no_interest", "--columns", "last_name"
    )
    crm.cli("rule", "add", "r", "--filter", "Kein Interesse", "--starts", "created_at", "--period", "1mo")
    found = from_json(crm, "rule", "preview", "r", "--sample", "2")
    assert found["row_count"] > 20
    assert found["token"].startswith(f"{found['row_count']}-")
    assert {"condition", "run_as", "takes", "would_be_held", "exempt", "blocked"} <= found.keys()
    text = crm.cli("rule", "preview", "r", "--sample", "2")
    assert "key\tlast_name\tdue" in text.stdout
    assert "what goes, and what goes along" in text.stderr
    assert any(line.startswith("crm.email\t") for line in text.stdout.splitlines())
    assert from_json(crm, "rule", "run", "r", "--dry-run")["token"] == found["token"]
    assert value(crm.connect(), "select count(*) from grace.deletions") == 0


def test_a_run_asks_and_says_what_came_out(shop: Database) -> None:
    name = rule(shop, "Ältere Notizen")
    child = terminal(shop, "rule", "run", name)
    child.expect(r"left out: 1 row that can't be deleted")
    child.expect(r"Delete 30 rows of note\? \[y/N\]")
    child.sendline("n")
    assert finish(child)[0] == 4
    assert left(shop) == 200
    child = terminal(shop, "rule", "run", name)
    child.expect(r"Delete 30 rows of note\? \[y/N\]")
    child.sendline("y")
    code, printed = finish(child)
    assert (code, left(shop)) == (1, 171)
    assert 'not deleted: 7: update or delete on table "note" violates foreign key constraint' in printed
    assert "the run is incomplete" in printed
    shop.connect().execute("delete from pin")
    result = shop.cli("rule", "run", name, "--yes")
    assert "1 row deleted in " in result.stderr
    assert left(shop) == 170
    assert "There is nobody to ask here" in shop.cli("rule", "run", name, code=4, stdin="y\n").stderr


def test_what_is_held_is_asked_about_once(shop: Database) -> None:
    shop.connect().execute("delete from pin; select grace.hold('note', '3', 'tax')")
    name = rule(shop, "r")
    child = terminal(shop, "rule", "run", name)
    child.expect(r"Delete 29 rows of note\? \[y/N\]")
    assert "left out: 1 row held" in child.before
    assert "can't be deleted" not in child.before
    child.sendline("y")
    code, printed = finish(child)
    assert (code, left(shop)) == (0, 171)
    assert "left out: 1 row held" in printed


def test_a_run_is_bound_to_what_was_asked_about(shop: Database) -> None:
    rule(shop, "r")
    child = terminal(shop, "rule", "run", "r")
    child.expect(r"\[y/N\]")
    shop.connect().execute("update note set made = '2020-01-01' where id = 100")
    child.sendline("y")
    code, printed = finish(child)
    assert (code, left(shop)) == (4, 200)
    assert "matches something else now" in printed
    assert "Preview it again: pg_grace rule preview NAME" in printed
    token = from_json(shop, "rule", "preview", "r")["token"]
    for option in (("--expect", "30"), ("--token", "31-0")):
        assert "SQLSTATE: GR030" in shop.cli("rule", "run", "r", "--yes", *option, code=4).stderr
    shop.cli("rule", "run", "r", "--yes", "--expect", "31", "--token", token, code=1)
    assert left(shop) == 170


def test_a_run_past_a_limit_is_held_until_it_is_approved(shop: Database) -> None:
    name = rule(shop, "r")
    said = shop.cli("rule", "alter", name, "--max-rows", "10").stderr
    assert "a run now would wait for approval: 30 rows are more than max_rows, 10" in said
    shop.connect().execute("delete from pin")
    result = shop.cli("rule", "run", name, "--yes", code=4)
    assert "DETAIL:  30 rows are more than max_rows, 10." in result.stderr
    assert "pg_grace rule run r --approve" in result.stderr
    assert left(shop) == 200
    child = terminal(shop, "rule", "run", name)
    child.expect("it would delete nothing, and wait for approval: 30 rows are more than max_rows, 10")
    child.expect(r"\[y/N\]")
    child.sendline("n")
    finish(child)
    assert from_json(shop, "rule", "run", name, "--yes", "--approve")[0]["row_count"] == 30
    assert "waits for approval" in shop.cli("rule", "run", name, "--yes", "--approve", code=4).stderr


def test_a_rule_that_can_not_act_fails(shop: Database) -> None:
    rule(shop, "r")
    conn = shop.connect()
    conn.execute("alter table note rename made to made_on")
    result = shop.cli("rule", "run", "r", "--yes", code=1)
    assert "the run is failed\nDETAIL:  public.note.made is now public.note.made_on" in result.stderr
    assert "HINT:  Mend it: pg_grace rule show r says what it needs" in result.stderr
    assert "made" in shop.cli("rule", "list").stdout.splitlines()[1].split("\t")[-1]
    assert "SQLSTATE: GR028" in shop.cli("rule", "preview", "r", code=4).stderr


def test_a_long_run_shows_how_far_it_is_and_ctrl_c_says_what_is_done(shop: Database) -> None:
    shop.connect().execute("delete from pin")
    rule(shop, "r", "--batch-size", "1", "--pause", "0.3s")
    child = terminal(shop, "rule", "run", "r", "--yes")
    child.expect(r"deleting .*\d+/30")
    child.expect(r"rows/s")
    child.kill(signal.SIGINT)
    code, printed = finish(child)
    assert code == 130
    assert "interrupted: run " in printed
    assert 170 < left(shop) < 200
    shop.cli("rule", "alter", "r", "--batch-size", "100", "--pause", "0s")
    shop.cli("rule", "run", "r", "--yes")
    assert left(shop) == 170
    (run,) = from_json(shop, "runs", "--rule", "r", "--kind", "rule", "--status", "aborted")
    assert run["row_count"] >= 1


# planned, exempt, notices


def test_what_is_planned_can_be_seen_and_taken_off(shop: Database) -> None:
    name = rule(shop, "Ältere Notizen", "--columns", "text", "--schedule", "daily")
    planned = from_json(shop, "rule", "planned", "--table", "note")
    assert len(planned) == 30
    assert {row["rule"] for row in planned} == {name}
    assert all(row["due"] and row["acts_at"] for row in planned)
    assert len(from_json(shop, "rule", "planned", "--within", "all", "--rule", name, "--limit", "500")) == 200
    assert len(from_json(shop, "rule", "planned", "--within", "3y", "--limit", "40")) == 40
    (one,) = from_json(shop, "rule", "planned", "--table", "note", "--key", "150")
    assert (one["key"], one["state"], one["record"]) == ({"id": 150}, "planned", {"text": "n150"})
    shop.cli("exempt", "add", name, "--key", "5", "--reason", "Rechtsstreit")
    shop.cli("exempt", "add", name, "--key", "id=6", "--reason", "Prüfung", "--until", "2099-01-01")
    (one,) = from_json(shop, "rule", "planned", "--table", "note", "--key", "5")
    assert (one["state"], one["reason"]) == ("exempt", "Rechtsstreit")
    listed = from_json(shop, "exempt", "list", name)
    assert [(row["key"], row["reason"]) for row in listed] == [({"id": 5}, "Rechtsstreit"), ({"id": 6}, "Prüfung")]
    assert "left out: 2 rows exempt" in shop.cli("rule", "run", name, "--yes", code=1).stderr
    again = shop.cli("exempt", "add", name, "--key", "6", "--reason", "Prüfung 2", "--until", "2099-01-01")
    assert f"in place of exemption {listed[1]['id']}: Prüfung" in again.stderr
    child = terminal(shop, "exempt", "drop", str(listed[0]["id"]))
    child.expect(r'Rule "Ältere Notizen" then acts on note 5 \(exempt: Rechtsstreit\)\. End the exemption\? \[y/N\]')
    child.sendline("n")
    assert finish(child)[0] == 4
    shop.cli("exempt", "drop", str(listed[0]["id"]), "--yes")
    assert len(from_json(shop, "exempt", "list")) == 1
    assert [row["is_active"] for row in from_json(shop, "exempt", "list", "--all")] == [False, False, True]
    assert "HINT:  pg_grace exempt list" in shop.cli("exempt", "drop", "999", "--yes", code=4).stderr
    for key in ("999", "abc", "a=1,b=2"):
        assert "SQLSTATE: GR008" in shop.cli("exempt", "add", name, "--key", key, "--reason", "x", code=4).stderr
    for key in ("abc", "a=1,b=2"):
        assert "SQLSTATE: GR008" in shop.cli("rule", "planned", "--table", "note", "--key", key, code=4).stderr
    for command in (("exempt", "list", "nope"), ("rule", "notices", "nope"), ("rule", "planned", "--rule", "nope")):
        assert "SQLSTATE: GR027" in shop.cli(*command, code=4).stderr
    shop.cli("rule", "planned", "--key", "5", code=2)
    child = terminal(shop, "rule", "drop", name)
    child.expect(r'Forget rule "Ältere Notizen", and 1 exemption with it\? \[y/N\]')
    child.sendline("y")
    assert finish(child)[0] == 0
    assert from_json(shop, "exempt", "list", "--all") == []


def test_notices_are_announced_and_listed(shop: Database) -> None:
    rule(shop, "r", "--notice", "14d", "--schedule", "daily")
    assert "nothing is announced" in shop.cli("rule", "notices").stderr
    assert "30 records newly announced" in shop.cli("rule", "announce", "r").stderr
    assert from_json(shop, "rule", "announce", "r") == {"rule": "r", "new": 0}
    assert {row["rule"] for row in from_json(shop, "rule", "notices", "r")} == {"r"}
    acts_after = {row["acts_after"] for row in from_json(shop, "rule", "notices")}
    assert all(row["acts_at"] > max(acts_after) for row in from_json(shop, "rule", "planned", "--rule", "r"))
    assert "these 5" in shop.cli("rule", "notices", "--limit", "5").stderr
    result = shop.cli("rule", "run", "r", "--yes")
    assert "left out: 30 rows not announced" in result.stderr
    shop.cli("rule", "alter", "r", "--no-notice")
    assert "pg_grace rule alter NAME --notice '14 days'" in shop.cli("rule", "announce", "r", code=4).stderr


# runs


def test_runs_are_listed_and_shown(shop: Database) -> None:
    name = rule(shop)
    shop.cli("rule", "run", name, "--yes", code=1)
    (run,) = from_json(shop, "runs", "--kind", "rule", "--since", "1 hour ago")
    assert (run["rule"], run["status"], run["row_count"], run["failures"]) == (name, "incomplete", 29, 1)
    shown = from_json(shop, "run", "show", str(run["id"]))
    assert shown["details"]["start"].startswith("(note.made)")
    assert shown["details"]["period"] == "1 year"
    assert any("note" in line for line in shown["plan"])
    assert [(failure["key"], failure["sqlstate"]) for failure in shown["failed"]] == [({"id": 7}, "23503")]
    assert "there is no such run of rule" in shop.cli("runs", "--rule", name, "--status", "held").stderr
    assert 'Did you mean "Ältere Notizen"?' in shop.cli("runs", "--rule", "ältere notizen", code=4).stderr
    for option in (("--kind", "rules"), ("--status", "finished")):
        shop.cli("runs", *option, code=2)
    text = shop.cli("run", "show", str(run["id"]))
    deletion, *_ = rows(shop.connect(), "select id::text, expires_at::text from grace.deletions order by id")
    assert f"deletions\t{deletion[0]}" in text.stdout
    assert f"restorable until\t{deletion[1][:10]}" in text.stdout
    restored = shop.cli("restore", "--deletion", deletion[0])
    assert "goes again at its next run: pg_grace rule planned --table note" in restored.stderr
    assert "condition\ttrue" in text.stdout
    assert "7\t23503\t" in text.stdout
    assert from_json(shop, "runs", "--rule", name, "--status", "held") == []
    assert len(from_json(shop, "runs", "--limit", "1")) == 1
    assert "there is no run 999" in shop.cli("run", "show", "999", code=4).stderr


def test_an_auditor_looks_and_may_not_run(shop: Database, role: Callable[[str], str]) -> None:
    auditor = role("auditor")
    shop.connect().execute(f"grant grace_auditor to {auditor}")
    rule(shop, "r")
    for looks in (("rule", "list"), ("rule", "show", "r"), ("rule", "planned"), ("runs",), ("exempt", "list")):
        from_json(shop, "-U", auditor, *looks)
    assert from_json(shop, "-U", auditor, "rule", "planned", "--table", "note", "--key", "999") == []
    for acts in (("rule", "run", "r", "--yes"), ("rule", "drop", "r", "--yes"), ("rule", "disable", "r")):
        assert "SQLSTATE: 42501" in shop.cli("-U", auditor, *acts, code=4).stderr
    assert left(shop) == 200


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"id": 7}, 7),
        ({"id": 7, "line": "b"}, "id=7,line=b"),
        ({"code": "a=b"}, '{"code": "a=b"}'),
        ({"code": "a,b", "line": 1}, '{"code": "a,b", "line": 1}'),
        (None, None),
    ],
)
def test_a_key_is_shown_as_it_can_be_given(key: Any, said: Any) -> None:
    assert plain_key(key) == said
