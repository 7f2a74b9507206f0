"""doctor and sync on the command line: exit codes, what was fixed, formats, version skew, rights."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pg_grace import __version__, migrate
from tests.conftest import Database, _new_database, value
from tests.server import Server

SHOP = """
create table customer (id int primary key, name text);
create table item (customer_id int references customer on delete cascade, line int, primary key (customer_id, line));
create table other (id int primary key);
insert into customer values (1, 'one'), (2, 'two');
insert into item values (1, 1), (1, 2), (2, 1);
"""
BREAK = "alter table item disable trigger zz_grace_delete"
COLUMNS = ["severity", "subject", "object", "finding", "hint"]


def prepare(database: Database) -> Database:
    conn = database.connect()
    conn.execute(SHOP.encode())
    database.cli("protect", "customer")
    database.cli("purge", "--yes")
    return database


@pytest.fixture
def shop(db: Database) -> Database:
    return prepare(db)


@pytest.fixture(scope="module")
def healthy(server: Server, template: str) -> Iterator[Database]:
    """For the tests that only look."""
    with _new_database(server, template) as database:
        yield prepare(database)


def found(database: Database, *arguments: str, code: int = 5) -> list[dict[str, Any]]:
    printed: list[dict[str, Any]] = json.loads(database.cli("--format", "json", "doctor", *arguments, code=code).stdout)
    return printed


def problems(database: Database, *arguments: str, code: int = 5) -> list[dict[str, Any]]:
    return [finding for finding in found(database, *arguments, code=code) if finding["severity"] == "problem"]


@pytest.mark.parametrize("arguments", [(), ("--deep",), ("--fix",), ("--fix", "--deep")])
def test_without_a_problem_it_ends_with_0_and_says_so(healthy: Database, arguments: tuple[str, ...]) -> None:
    result = healthy.cli("doctor", *arguments)
    assert result.stderr == "no problem found\n"
    header, note = [line.split("\t") for line in result.stdout.splitlines()]
    assert header == COLUMNS
    assert note[:2] == ["note", "schedule"]


def test_with_problems_it_ends_with_5_and_counts_them(shop: Database) -> None:
    shop.connect().execute(BREAK)
    result = shop.cli("doctor", code=5)
    assert result.stderr == "Error: 1 problem found\n"
    shop.connect().execute("alter event trigger grace_follow_ddl disable")
    assert shop.cli("doctor", code=5).stderr == "Error: 2 problems found\n"
    triggers, schedule = found(shop)[1:]
    assert list(triggers) == COLUMNS
    assert (triggers["severity"], triggers["subject"], triggers["object"]) == ("problem", "triggers", "public.item")
    assert "is disabled" in triggers["finding"]
    assert "pg_grace doctor --fix" in triggers["hint"]
    assert schedule["severity"] == "note"


def test_every_format_says_the_same(shop: Database) -> None:
    shop.connect().execute(BREAK)
    as_json = found(shop)
    printed = shop.cli("--format", "csv", "doctor", code=5).stdout
    assert list(csv.DictReader(io.StringIO(printed))) == [
        {name: given or "" for name, given in finding.items()} for finding in as_json
    ]
    lines = [line.split("\t") for line in shop.cli("doctor", code=5).stdout.splitlines()]
    assert lines == [COLUMNS, *([given or "" for given in finding.values()] for finding in as_json)]


def test_looking_fixes_nothing(shop: Database) -> None:
    shop.connect().execute(BREAK)
    before = found(shop)
    assert found(shop, "--deep") == before
    assert value(shop.connect(), "select state from grace.protected where target = 'item'::regclass") == "disabled"


@pytest.mark.parametrize(
    ("cause", "fixed"),
    [
        (BREAK, ["fixed: triggers of public.item"]),
        (
            f"{BREAK}; alter table customer disable trigger zz_grace_truncate; drop event trigger grace_refuse_drop",
            ["fixed: event triggers", "fixed: triggers of public.customer", "fixed: triggers of public.item"],
        ),
        (
            "alter event trigger grace_follow_ddl disable; alter table customer add column city text;"
            " create table line (id int, a int references customer on delete cascade, b int, c int,"
            " foreign key (b, c) references item on delete cascade);"
            " alter event trigger grace_follow_ddl enable",
            ["fixed: cascade of public.line", "fixed: columns of public.customer"],
        ),
        (
            "do $$ begin execute format('drop table grace_internal.%I', 'b2_' ||"
            " to_char((clock_timestamp() at time zone 'UTC')::date + 3, 'YYYYMMDD')); end $$",
            ["fixed: partitions of public.item"],
        ),
    ],
)
def test_fix_does_what_is_safe_and_says_once_what_it_did(shop: Database, cause: str, fixed: list[str]) -> None:
    shop.connect().execute(cause.encode())
    assert len(problems(shop)) >= len(fixed)
    result = shop.cli("doctor", "--fix")
    said = result.stderr.splitlines()
    assert sorted(line for line in said if line.startswith("fixed: ")) == fixed
    assert said[-1] == "no problem found"
    assert problems(shop, code=0) == []


def test_fix_leaves_what_somebody_has_to_decide_and_ends_with_5(shop: Database, role: Callable[[str], str]) -> None:
    app = role("app")
    shop.connect().execute(f"grant select on grace_buffer.customer to {app}")
    shop.connect().execute(BREAK)
    result = shop.cli("doctor", "--fix", code=5)
    assert result.stderr.splitlines() == ["fixed: triggers of public.item", "Error: 1 problem found"]
    assert f"revoke all on grace_buffer.customer from {app};" in result.stdout
    again = shop.cli("doctor", "--fix", code=5)
    assert again.stderr == "Error: 1 problem found\n"
    assert again.stdout == result.stdout


def test_fix_gives_up_when_it_does_not_get_the_lock(shop: Database) -> None:
    shop.connect().execute(BREAK)
    other = shop.connect()
    with other.transaction():
        other.execute("insert into item values (2, 9)")
        result = shop.cli("doctor", "--fix", "--wait", "300 ms", code=5)
        assert "SQLSTATE: GR006" in result.stderr
        assert [finding["object"] for finding in problems(shop)] == ["public.item"]
    shop.cli("doctor", "--fix")


def test_deep_finds_what_was_changed_by_hand(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("delete from customer where id = 1")
    shop.cli("doctor", "--deep")
    conn.execute("update grace_buffer.item set line = line")
    conn.execute("delete from grace_buffer.customer")
    assert problems(shop, code=0) == []
    customer, item = problems(shop, "--deep")
    assert (customer["subject"], customer["object"]) == ("buffer", "customer, deletion 1")
    assert customer["finding"] == "1 row was removed by hand"
    assert (item["object"], item["finding"]) == ("item, deletion 1", "2 rows were written or changed by hand")
    assert all(finding["hint"] for finding in (customer, item))
    assert shop.cli("doctor", "--deep", code=5).stderr == "Error: 2 problems found\n"


def test_deep_looks_into_the_buffer_of_a_table_that_was_dropped(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("delete from item where line = 2")
    conn.execute("set grace.allow_drop = on; drop table item")
    conn.execute("update grace_buffer.item set line = 3")
    (finding,) = problems(shop, "--deep")
    assert finding["object"] == "a table that was dropped, deletion 1"


@pytest.mark.parametrize("revision", ["0001", "9999"])
def test_a_database_of_another_version_is_found(shop: Database, revision: str) -> None:
    shop.connect().execute("update grace.alembic_version set version_num = %s", (revision,))
    (finding,) = problems(shop)
    assert (finding["subject"], finding["object"]) == ("version", None)
    assert f"at revision {revision}, pg_grace {__version__} at {migrate.newest_revision()}" in finding["finding"]
    assert "pg_grace upgrade" in finding["hint"]
    assert problems(shop, "--fix") == [finding]


def test_a_database_without_pg_grace_or_with_a_version_that_knows_no_doctor_is_refused(
    shop: Database, empty_db: Database
) -> None:
    shop.connect().execute("drop function grace.doctor()")
    for database in (empty_db, shop):
        result = database.cli("doctor", code=4)
        assert "pg_grace install" in result.stderr
        assert result.stdout == ""


def test_without_a_connection_it_ends_with_3(healthy: Database) -> None:
    for command in ("doctor", "sync"):
        assert "no connection" in healthy.cli("-d", "host=127.0.0.1 port=1", command, code=3).stderr


def test_auditors_and_operators_look_but_only_administrators_fix(shop: Database, role: Callable[[str], str]) -> None:
    auditor, operator, admin = role("auditor"), role("operator"), role("admin")
    conn = shop.connect()
    conn.execute(f"grant grace_auditor to {auditor}; grant grace_operator to {operator}; grant grace_admin to {admin}")
    for person in (auditor, operator, admin):
        assert "no problem found" in shop.cli("-U", person, "doctor", "--fix").stderr
    conn.execute(BREAK)
    expected = shop.cli("doctor", code=5).stdout
    for person in (auditor, operator):
        assert shop.cli("-U", person, "doctor", code=5).stdout == expected
        for command in (("doctor", "--fix"), ("sync",), ("sync", "item")):
            result = shop.cli("-U", person, *command, code=4)
            assert "permission denied for function" in result.stderr
            assert "grace_admin" in result.stderr
            assert "SQLSTATE: 42501" in result.stderr
            assert result.stdout == ""
    assert shop.cli("-U", auditor, "doctor", "--deep", code=5).stdout == expected
    assert "fixed: triggers of public.item" in shop.cli("-U", admin, "doctor", "--fix", "--deep").stderr


def test_deep_takes_an_auditor(healthy: Database, role: Callable[[str], str]) -> None:
    operator = role("operator")
    healthy.connect().execute(f"grant grace_operator to {operator}")
    result = healthy.cli("-U", operator, "doctor", "--deep", code=4)
    assert "SQLSTATE: 42501" in result.stderr
    assert "grace_auditor" in result.stderr
    healthy.cli("-U", operator, "doctor")


def test_a_role_without_rights_is_refused(healthy: Database, role: Callable[[str], str]) -> None:
    nobody = role("nobody")
    for command in ("doctor", "sync"):
        assert "SQLSTATE: 42501" in healthy.cli("-U", nobody, command, code=4).stderr


def synced(database: Database, *arguments: str) -> list[tuple[str, str, str]]:
    rows = json.loads(database.cli("--format", "json", "sync", *arguments).stdout)
    return [(row["table"], row["status"], row["warning"]) for row in rows]


def test_sync_says_what_it_did_with_each_table(shop: Database) -> None:
    up_to_date = [("customer", "up to date", ""), ("item", "up to date", "")]
    assert synced(shop) == up_to_date
    conn = shop.connect()
    conn.execute("alter event trigger grace_follow_ddl disable")
    conn.execute("alter table customer add column city text; drop trigger zz_grace_delete on item")
    assert synced(shop) == [
        ("customer", "columns followed", ""),
        ("item", "capturing again, it was missing", ""),
    ]
    assert synced(shop) == up_to_date
    assert shop.cli("sync").stdout.splitlines()[0].split("\t") == ["table", "status", "warning"]


def test_sync_of_one_table_leaves_the_others(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("alter table customer disable trigger zz_grace_delete")
    conn.execute(BREAK)
    assert synced(shop, "item") == [("item", "capturing again, it was disabled", "")]
    assert [finding["object"] for finding in problems(shop)] == ["public.customer"]
    assert synced(shop, "public.customer")[0][1] == "capturing again, it was disabled"
    assert problems(shop, code=0) == []


def test_sync_protects_what_has_come_to_lose_rows_and_warns_of_what_it_can_not(shop: Database) -> None:
    conn = shop.connect()
    conn.execute("alter event trigger grace_follow_ddl disable")
    conn.execute("create table line (id int, customer_id int references customer on delete cascade)")
    conn.execute("create table bad (grace_id int, customer_id int references customer on delete cascade)")
    done = {table: (status, warning) for table, status, warning in synced(shop)}
    assert done["line"] == ("protected", "")
    assert done["bad"][0] == "not protected"
    assert "customer cascades into it, and those rows will be lost" in done["bad"][1]
    assert [finding["object"] for finding in problems(shop)] == ["public.bad"]


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "code"),
    [
        (("sync", "nope"), "42P01", 1),
        (("sync", "other"), "GR001", 4),
        (("sync", "item", "--wait", "-1 s"), None, 0),
        (("sync", "item", "--wait", "nonsense"), None, 2),
        (("doctor", "--wait", "nonsense"), None, 2),
        (("doctor", "customer"), None, 2),
        (("sync", "item", "customer"), None, 2),
    ],
)
def test_bad_input_is_refused(healthy: Database, arguments: tuple[str, ...], sqlstate: str | None, code: int) -> None:
    result = healthy.cli(*arguments, code=code)
    if sqlstate is not None:
        for part in ("DETAIL:  ", "HINT:  ", f"SQLSTATE: {sqlstate}"):
            assert part in result.stderr
