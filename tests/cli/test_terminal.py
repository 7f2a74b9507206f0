"""At a terminal: tables for the eye, questions before anything is destroyed, a bar while it takes long."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any

import pexpect
import pytest

from tests.conftest import Database, value
from tests.migration.conftest import schema_dump

SECONDS = 20
ESCAPE = "\x1b["
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7]|10[0-7])[0-9;]*m")


def take_interrupts() -> None:
    """Where the tests run in the background Ctrl-C is ignored, and what they start would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def terminal(database: Database, *arguments: str, **environment: str) -> Any:
    """Run pg_grace at a terminal of 160 columns."""
    return pexpect.spawn(
        sys.executable,
        ["-m", "pg_grace", "-d", database.conninfo, *arguments],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", **environment},
        dimensions=(40, 160),
        encoding="utf-8",
        timeout=SECONDS,
        preexec_fn=take_interrupts,
    )


def finish(child: Any) -> tuple[int, str]:
    """Return the exit code and all that was printed since the last question."""
    printed = child.read()
    child.close()
    return int(child.exitstatus), printed


@pytest.fixture
def shop(db: Database) -> Database:
    conn = db.connect()
    conn.execute("create table customer (id int primary key, name text)")
    conn.execute("insert into customer values (1, '[bold]one[/bold] :smile: [/x]'), (2, 'two')")
    db.cli("protect", "customer")
    conn.execute("delete from customer where id = 1")
    return db


def test_a_terminal_gets_a_table_with_lines(shop: Database) -> None:
    code, printed = finish(terminal(shop, "tables"))
    assert code == 0
    assert "┏" in printed
    assert "│ customer │ capturing │" in printed
    assert "\t" not in printed


def test_what_looks_like_markup_is_printed_as_it_is(shop: Database) -> None:
    code, printed = finish(terminal(shop, "show", "customer"))
    assert code == 0
    assert "[bold]one[/bold] :smile: [/x]" in printed


def test_a_value_cannot_speak_to_the_terminal(shop: Database) -> None:
    conn = shop.connect()
    conn.execute(
        r"insert into customer values (3, E'\x1b]0;title\x07 \x1b[2J gone'); delete from customer where id = 3"
    )
    _, printed = finish(terminal(shop, "show", "customer", "--key", "3"))
    assert "\x1b[2J" not in printed
    assert "\x1b]0;" not in printed
    assert r"\x1b[2J gone" in printed


def test_no_color_means_no_colours(shop: Database) -> None:
    for command in (("tables",), ("restore", "--deletion", "99")):
        _, printed = finish(terminal(shop, *command, NO_COLOR="1"))
        assert not COLOUR.search(printed), printed


@pytest.mark.parametrize(
    ("command", "question"),
    [
        (("uninstall", "--discard-buffer"), r"will be gone for good\. \[y/N\]"),
        (("unprotect", "customer"), r"Stop capturing deletes from customer\? 1 buffered rows .*\[y/N\]"),
        (("purge",), r"Remove 0 expired rows for good\? \[y/N\]"),
    ],
)
def test_the_answer_no_changes_nothing(shop: Database, command: tuple[str, ...], question: str) -> None:
    before = schema_dump(shop)
    runs = value(shop.connect(), "select count(*) from grace.runs")
    child = terminal(shop, *command)
    child.expect(question)
    child.sendline("n")
    code, printed = finish(child)
    assert code == 4
    assert "nothing was done" in printed
    assert schema_dump(shop) == before
    assert value(shop.connect(), "select count(*) from grace.runs") == runs


@pytest.mark.parametrize(
    ("command", "said", "check"),
    [
        (
            ("uninstall", "--discard-buffer"),
            "pg_grace is uninstalled",
            "select to_regnamespace('grace') is null",
        ),
        (
            ("unprotect", "customer"),
            "no longer captured",
            "select state = 'unprotected' from grace.protected",
        ),
        (("purge",), "done", "select count(*) = 1 from grace.runs where kind = 'purge'"),
    ],
)
def test_yes_does_it(shop: Database, command: tuple[str, ...], said: str, check: str) -> None:
    child = terminal(shop, *command)
    child.expect(r"\[y/N\]")
    child.sendline("y")
    code, printed = finish(child)
    assert (code, said in printed) == (0, True), printed
    assert value(shop.connect(), check)


@pytest.mark.parametrize("command", [("uninstall", "--discard-buffer"), ("unprotect", "customer"), ("purge",)])
def test_without_a_terminal_and_without_yes_it_is_refused(shop: Database, command: tuple[str, ...]) -> None:
    before = schema_dump(shop)
    result = shop.cli(*command, code=4, stdin="y\n")
    assert "HINT:  There is nobody to ask here: say --yes." in result.stderr
    assert schema_dump(shop) == before
    assert value(shop.connect(), "select count(*) from grace.runs where kind <> 'protect'") == 0


def test_enter_means_no_and_control_c_too(shop: Database) -> None:
    for answer in ("\r", "\x03"):
        child = terminal(shop, "uninstall", "--discard-buffer")
        child.expect(r"\[y/N\]")
        child.send(answer)
        code, _ = finish(child)
        assert code != 0
    shop.cli("tables")


@pytest.fixture
def slow(shop: Database) -> Database:
    """A restore of 300 rows takes three seconds, for a trigger of the application takes its time."""
    conn = shop.connect()
    conn.execute("insert into customer select n, 'many' from generate_series(10, 309) n")
    conn.execute("delete from customer where id >= 10")
    conn.execute(
        "create function dawdle() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.01); return new; end $$"
    )
    conn.execute("create trigger dawdle before insert on customer for each row execute function dawdle()")
    return shop


def test_a_restore_that_takes_longer_than_a_second_shows_how_far_it_is(slow: Database) -> None:
    child = terminal(slow, "restore", "--deletion", "2")
    code, printed = finish(child)
    assert code == 0
    seen = [int(number) for number in re.findall(r"(\d+)/300", printed)]
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    assert "restoring" in printed
    assert "300 rows are back" in printed
    assert value(slow.connect(), "select count(*) from customer where id >= 10") == 300


def test_a_quick_restore_shows_no_bar(shop: Database) -> None:
    code, printed = finish(terminal(shop, "restore", "--deletion", "1"))
    assert code == 0
    assert "restoring" not in printed


def test_a_slow_restore_in_a_pipe_shows_no_bar(slow: Database) -> None:
    result = slow.cli("restore", "--deletion", "2")
    assert "restoring" not in result.output
    assert ESCAPE not in result.output
