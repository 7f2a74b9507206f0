"""Times on the command line: what is left open is asked at a terminal and refused elsewhere, with what to say instead."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_terminal import finish, terminal
from tests.conftest import Database, value

COMMANDS = (("deletions",), ("show", "customer"), ("restore", "customer"))


@pytest.fixture
def shop(db: Database) -> Database:
    """Customer 1 was deleted yesterday at ten in the morning, customer 2 at ten in the evening, 3 just now."""
    conn = db.connect()
    conn.execute(f"alter database {db.name} set timezone = 'Europe/Berlin'".encode())
    conn.execute("create table customer (id int primary key)")
    conn.execute("insert into customer select generate_series(1, 3)")
    db.cli("protect", "customer")
    for number in range(1, 4):
        conn.execute("delete from customer where id = %s", (number,))
    for number, hour in ((1, "10:20"), (2, "22:20")):
        at = value(db.connect(), f"select current_date - 1 + time '{hour}'")
        conn.execute("set timezone = 'Europe/Berlin'")
        conn.execute("update grace_internal.capture set deleted_at = %s where deletion = %s", (at, number))
        conn.execute("update grace_buffer.customer set grace_deleted_at = %s where id = %s", (at, number))
    return db


def found(database: Database, *options: str) -> list[int]:
    return [line["id"] for line in json.loads(database.cli("--format", "json", "deletions", *options).stdout)]


def test_around_selects_an_hour_to_each_side(shop: Database) -> None:
    assert found(shop, "--around", "yesterday 10:00") == [1]
    assert found(shop, "--around", "yesterday around 10pm") == [2]
    assert found(shop, "--around", "now") == [3]
    shown = json.loads(shop.cli("--format", "json", "show", "customer", "--around", "yesterday 22:00").stdout)
    assert [row["deletion"] for row in shown] == [2]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_terminal_what_is_open_is_refused_with_what_to_say(shop: Database, command: tuple[str, ...]) -> None:
    result = shop.cli(*command, "--around", "yesterday around ten", code=4, stdin="1\n")
    assert "--around 'yesterday around ten' is not one moment: it does not say before noon or after" in result.stderr
    assert "HINT:  There is nobody to ask here: say one of these." in result.stderr
    ways = [line.strip() for line in result.stderr.splitlines() if line.startswith("  --around ")]
    assert [found(shop, "--around", way.split("'")[1]) for way in ways] == [[1], [2]]
    assert value(shop.connect(), "select count(*) from customer") == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_time_and_a_window_said_twice_are_usage_errors(shop: Database, command: tuple[str, ...]) -> None:
    first = "--since" if command == ("deletions",) else "--from"
    assert "is not a time" in shop.cli(*command, first, "nonsense", code=2).stderr
    assert "stands for" in shop.cli(*command, first, "yesterday", "--around", "yesterday 10:00", code=2).stderr


def test_a_window_backwards_is_a_usage_error(shop: Database) -> None:
    result = shop.cli("deletions", "--since", "1 hour ago", "--until", "2 hours ago", code=2)
    assert "is not before --until" in result.stderr


def test_at_a_terminal_it_is_asked(shop: Database) -> None:
    child = terminal(shop, "--format", "csv", "deletions", "--around", "yesterday around ten")
    child.expect("before noon or after")
    child.expect(r"1  \d{4}-\d\d-\d\d 10:00:00\+0\d:00, \w+day")
    child.expect(r"2  \d{4}-\d\d-\d\d 22:00:00\+0\d:00, \w+day")
    child.expect(r"Which one\? ")
    child.sendline("3")
    child.expect("not in the range")
    child.expect(r"Which one\? ")
    child.sendline("2")
    code, printed = finish(child)
    assert code == 0
    assert "22:00:00+0" in printed
    assert "\n2," in printed
    assert "\n1," not in printed


def test_one_moment_that_is_left_is_offered_and_enter_takes_it(shop: Database) -> None:
    child = terminal(shop, "deletions", "--since", "23:59:59.999999")
    child.expect("does not say which day")
    child.expect(r"This one\? \[1\] ")
    child.sendline("")
    code, printed = finish(child)
    assert code == 0
    assert "--since is" in printed


def test_no_answer_does_nothing(shop: Database) -> None:
    child = terminal(shop, "restore", "customer", "--around", "yesterday around ten")
    child.expect(r"Which one\? ")
    child.send("\x03")
    code, _ = finish(child)
    assert code == 1
    assert value(shop.connect(), "select count(*) from customer") == 0


def test_an_hour_that_came_twice_is_asked_about(shop: Database) -> None:
    child = terminal(shop, "deletions", "--since", "2025-10-26 02:30")
    child.expect("set back and showed this time twice")
    child.expect(r"1  2025-10-26 02:30:00\+02:00, Sunday")
    child.expect(r"2  2025-10-26 02:30:00\+01:00, Sunday")
    child.sendline("1")
    code, printed = finish(child)
    assert code == 0
    assert "--since is 2025-10-26 02:30:00+02:00 (Europe/Berlin)" in printed
