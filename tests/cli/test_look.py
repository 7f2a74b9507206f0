"""Looking: tables, deletions, show and status, for a person's eyes, a pipe, and a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import Database, _new_database, rows, value
from tests.server import Server

AWKWARD = 'tab\there, "quotes", back\\slash, umläut €,\nsecond line\rand \x1b[31mred\x1b[0m'


def from_json(database: Database, *arguments: str) -> Any:
    return json.loads(database.cli("--format", "json", *arguments).stdout, parse_float=Decimal)


def from_csv(database: Database, *arguments: str) -> list[dict[str, str]]:
    printed = database.cli("--format", "csv", *arguments).stdout
    return list(csv.DictReader(io.StringIO(printed, newline="")))


def from_plain(database: Database, *arguments: str) -> list[list[str]]:
    return [line.split("\t") for line in database.cli(*arguments).stdout.splitlines()]


def prepare(db: Database) -> Database:
    """Customer 1 was deleted an hour ago with its two items and a reason; item (2, 1) just now."""
    conn = db.connect()
    conn.execute("create table customer (id int primary key, name text, credit numeric, seen timestamptz, data jsonb)")
    conn.execute(
        "create table item (customer_id int references customer on delete cascade, line int, label text,"
        " primary key (customer_id, line))"
    )
    conn.execute("insert into customer (id, name) values (1, 'one'), (2, 'two')")
    conn.execute("insert into item values (1, 1, 'a'), (1, 2, null), (2, 1, 'c')")
    db.cli("protect", "customer")
    with conn.transaction():
        conn.execute("set local grace.reason = 'asked for it'")
        conn.execute("set local application_name = 'the shop'")
        conn.execute("delete from customer where id = 1")
    conn.execute("update grace_internal.capture set deleted_at = deleted_at - interval '1 hour'")
    conn.execute("update grace_buffer.customer set grace_deleted_at = grace_deleted_at - interval '1 hour'")
    conn.execute("update grace_buffer.item set grace_deleted_at = grace_deleted_at - interval '1 hour'")
    conn.execute("delete from item where customer_id = 2")
    return db


@pytest.fixture(scope="module")
def shop(server: Server, template: str) -> Iterator[Database]:
    """For the tests that only look."""
    with _new_database(server, template) as database:
        yield prepare(database)


@pytest.fixture
def own_shop(db: Database) -> Database:
    """For the tests that change something."""
    return prepare(db)


def test_tables_lists_what_is_protected_and_how_it_stands(shop: Database) -> None:
    customer, item = from_json(shop, "tables")
    assert customer["target"] == "customer"
    assert customer["state"] == "capturing"
    assert customer["drift"] is False
    assert customer["buffered_rows"] == 1
    assert customer["retention"] == 30 * 24 * 3600
    assert customer["size"] > 0
    assert (item["target"], item["buffer"], item["buffered_rows"]) == ("item", "grace_buffer.item", 3)
    left = datetime.fromisoformat(item["next_expiry"]) - datetime.fromisoformat(item["oldest"])
    assert left.total_seconds() == item["retention"]


def test_tables_shows_drift_and_triggers_that_are_off(own_shop: Database) -> None:
    conn = own_shop.connect()
    conn.execute("alter event trigger grace_follow_ddl disable")
    conn.execute("alter table customer add column extra int; alter table item disable trigger zz_grace_delete")
    assert [(table["state"], table["drift"]) for table in from_json(own_shop, "tables")] == [
        ("capturing", True),
        ("disabled", False),
    ]
    assert "item: disabled" in from_json(own_shop, "status")["not capturing"]


def test_tables_of_an_empty_installation_says_what_to_do(db: Database) -> None:
    result = db.cli("tables")
    assert result.stdout.splitlines() == [result.stdout.rstrip("\n")]
    assert "pg_grace protect" in result.stderr
    assert from_json(db, "tables") == []


def test_deletions_are_listed_newest_first_one_line_per_table(shop: Database) -> None:
    found = from_json(shop, "deletions")
    assert [(line["id"], line["target"], line["row_count"]) for line in found] == [
        (2, "item", 1),
        (1, "customer", 1),
        (1, "item", 2),
    ]
    assert (found[1]["reason"], found[1]["application_name"]) == ("asked for it", "the shop")
    assert found[0]["reason"] is None


def test_deletions_of_one_table(shop: Database) -> None:
    assert [line["id"] for line in from_json(shop, "deletions", "customer")] == [1]
    assert [line["id"] for line in from_json(shop, "deletions", "item")] == [2, 1]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--since", "30 minutes ago"), [2]),
        (("--until", "30 minutes ago"), [1]),
        (("--since", "about 2 hours ago", "--until", "30 minutes ago"), [1]),
        (("--since", "tomorrow"), []),
        (("--since", "yesterday 00:00", "--until", "tomorrow"), [2, 1]),
    ],
)
def test_deletions_between_two_times(shop: Database, options: tuple[str, ...], ids: list[int]) -> None:
    assert [line["id"] for line in from_json(shop, "deletions", "item", *options)] == ids


def test_the_time_that_was_understood_is_echoed_exactly_on_stderr(shop: Database) -> None:
    result = shop.cli("deletions", "--since", "2026-01-02 03:04:05.678901+00")
    zone = value(shop.connect(), "select current_setting('TimeZone')")
    assert "--since is 2026-01-02 03:04:05.678901+00:00" in result.stderr
    assert f"({zone})" in result.stderr


def test_deletions_by_a_role_or_login(own_shop: Database, role: Callable[[str], str]) -> None:
    app = role("app")
    conn = own_shop.connect()
    conn.execute(f"grant select, delete on customer to {app}")
    conn.execute(f"set role {app}")
    conn.execute("delete from customer where id = 2")
    assert [line["id"] for line in from_json(own_shop, "deletions", "--by", app)] == [3]
    assert from_json(own_shop, "deletions", "--by", app)[0]["deleted_by"] == app
    assert {line["id"] for line in from_json(own_shop, "deletions", "--by", "postgres")} == {1, 2, 3}
    assert from_json(own_shop, "deletions", "--by", "nobody") == []


def test_a_limit_says_that_there_is_more(shop: Database) -> None:
    result = shop.cli("deletions", "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert "narrow the search" in result.stderr
    assert "narrow the search" not in shop.cli("deletions", "--limit", "3").stderr
    result = shop.cli("show", "item", "--limit", "1")
    assert len(result.stdout.splitlines()) == 2
    assert "narrow the search" in result.stderr


def test_show_has_the_columns_in_the_tables_order(shop: Database) -> None:
    header, row = from_plain(shop, "show", "customer")
    assert header == ["deletion", "deleted_at", "id", "name", "credit", "seen", "data"]
    assert [row[0], *row[2:]] == ["1", "1", "one", "", "", ""]


def test_show_has_a_column_that_was_added_later_last_with_the_value_it_gave_to_older_rows(own_shop: Database) -> None:
    conn = own_shop.connect()
    conn.execute("alter table customer add column extra text default 'x'")
    conn.execute("delete from customer where id = 2")
    header, newest, oldest = from_plain(own_shop, "show", "customer")
    assert header[-1] == "extra"
    assert (newest[2], newest[-1], oldest[2], oldest[-1]) == ("2", "x", "1", "x")


def test_show_keeps_a_tables_own_columns_deletion_and_deleted_at(db: Database) -> None:
    db.connect().execute("create table t (id int primary key, deletion text, deleted_at text)")
    db.cli("protect", "t")
    db.connect().execute("insert into t values (7, 'mine', 'never'); delete from t")
    (row,) = from_csv(db, "show", "t")
    assert list(row) == ["grace_deletion", "grace_deleted_at", "id", "deletion", "deleted_at"]
    assert (row["grace_deletion"], row["deletion"], row["deleted_at"]) == ("1", "mine", "never")


@pytest.mark.parametrize(
    ("table", "keys", "found"),
    [
        ("customer", ["1"], [1]),
        ("customer", ["id=1"], [1]),
        ("customer", ['{"id": 1}'], [1]),
        ("customer", ["2"], []),
        ("item", ["customer_id=1,line=2"], [2]),
        ("item", ["line = 1, customer_id = 2"], [1]),
        ("item", ['{"line": 1, "customer_id": 1}'], [1]),
        ("item", ["customer_id=1,line=1", "customer_id=1,line=2"], [1, 2]),
    ],
)
def test_show_by_key_in_every_form(shop: Database, table: str, keys: list[str], found: list[int]) -> None:
    options = [option for key in keys for option in ("--key", key)]
    shown = from_json(shop, "show", table, *options)
    assert (
        sorted(row["record"].get("line", row["record"]["id"] if table == "customer" else 0) for row in shown) == found
    )


def test_a_key_that_is_text_may_look_like_a_number_or_hold_any_character(db: Database) -> None:
    conn = db.connect()
    conn.execute("create table t (code text primary key)")
    db.cli("protect", "t")
    conn.execute("insert into t values ('007'), ('a=b'), ('a,b'), ('Ä \"x\"'); delete from t")
    for given, code in (
        ("007", "007"),
        ("code=007", "007"),
        ('{"code": "a=b"}', "a=b"),
        ("a,b", "a,b"),
        ('Ä "x"', 'Ä "x"'),
    ):
        assert [row["record"]["code"] for row in from_json(db, "show", "t", "--key", given)] == [code]


def test_show_between_two_times_and_of_one_deletion(shop: Database) -> None:
    assert [row["deletion"] for row in from_json(shop, "show", "item", "--from", "30 minutes ago")] == [2]
    assert [row["deletion"] for row in from_json(shop, "show", "item", "--to", "30 minutes ago")] == [1, 1]
    assert [row["record"]["label"] for row in from_json(shop, "show", "item", "--deletion", "2")] == ["c"]
    assert from_json(shop, "show", "item", "--by", "nobody") == []


def test_json_and_csv_give_back_awkward_values_exactly(own_shop: Database) -> None:
    conn = own_shop.connect()
    conn.execute(
        "insert into customer values (3, %s, 12345678901234567890.10, '2026-02-03 04:05:06.789+00', %s)",
        (AWKWARD, '{"a": [1, 2.50, null], "ä": "x"}'),
    )
    conn.execute("delete from customer where id = 3")
    (row,) = from_json(own_shop, "show", "customer", "--key", "3")
    assert row["record"]["name"] == AWKWARD
    assert str(row["record"]["credit"]) == "12345678901234567890.10"
    assert str(row["record"]["data"]) == "{'a': [1, Decimal('2.50'), None], 'ä': 'x'}"
    (line,) = from_csv(own_shop, "show", "customer", "--key", "3")
    assert line["name"] == AWKWARD
    assert line["credit"] == "12345678901234567890.10"
    assert json.loads(line["data"]) == {"a": [1, 2.5, None], "ä": "x"}


def test_csv_and_plain_show_null_as_nothing(shop: Database) -> None:
    (row,) = from_csv(shop, "show", "item", "--key", "customer_id=1,line=2")
    assert row["label"] == ""
    assert from_plain(shop, "show", "item", "--key", "customer_id=1,line=2")[1][-1] == ""
    assert from_json(shop, "show", "item", "--key", "customer_id=1,line=2")[0]["record"]["label"] is None


def test_plain_output_is_one_line_per_row_and_tab_separated_whatever_is_in_a_value(own_shop: Database) -> None:
    conn = own_shop.connect()
    conn.execute("insert into customer (id, name) values (3, %s)", (AWKWARD,))
    conn.execute("delete from customer where id = 3")
    lines = from_plain(own_shop, "show", "customer")
    assert [len(line) for line in lines] == [7, 7, 7]
    assert lines[1][3] == (r'tab\there, "quotes", back\\slash, umläut €,\nsecond line\rand \x1b[31mred\x1b[0m')


def test_a_boolean_is_printed_as_programs_read_it(db: Database) -> None:
    db.connect().execute("create table t (id int primary key, sent boolean, paid boolean)")
    db.cli("protect", "t")
    db.connect().execute("insert into t values (1, true, false); delete from t")
    (row,) = from_csv(db, "show", "t")
    assert (row["sent"], row["paid"]) == ("true", "false")


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_stdout_holds_data_only(shop: Database, output_format: str) -> None:
    result = shop.cli("--format", output_format, "deletions", "--since", "1 year ago", "--limit", "1")
    assert "since" not in result.stdout
    assert "more" not in result.stdout
    assert "--since is" in result.stderr
    assert "narrow the search" in result.stderr


def test_every_name_of_a_table_is_understood(db: Database) -> None:
    conn = db.connect()
    names = ("Größe", "with space", "select", "MiXed", 'quo"te', "ü" * 31 + "x")
    for name in names:
        quoted = value(conn, "select quote_ident(%s)", name)
        conn.execute(f"create table {quoted} (id int)")
        db.cli("protect", name)
        conn.execute(f"insert into {quoted} values (1); delete from {quoted}")
        assert from_json(db, "show", name)[0]["record"] == {"id": 1}
        assert from_json(db, "show", quoted)[0]["record"] == {"id": 1}
    assert value(conn, "select count(*) from grace.protected") == len(names)


def test_status_says_how_things_stand(own_shop: Database) -> None:
    facts = from_json(own_shop, "status")
    assert facts["tables capturing"] == 2
    assert facts["not capturing"] == "none"
    assert facts["rows restorable"] == 4
    assert facts["expired, to be purged"] == "nothing"
    assert facts["last purge"] is None
    assert own_shop.name in facts["database"]
    own_shop.cli("purge", "--yes")
    assert "done, 0 rows" in from_json(own_shop, "status")["last purge"]
    assert dict(from_plain(own_shop, "status"))["rows restorable"] == "4"
    assert {row["what"]: row["value"] for row in from_csv(own_shop, "status")}["rows restorable"] == "4"


def test_what_has_expired_is_shown_nowhere_but_as_waiting_for_the_purge(own_shop: Database) -> None:
    conn = own_shop.connect()
    conn.execute("select grace.set_retention(t, '30 minutes') from unnest(array['customer', 'item']::regclass[]) t")
    assert from_json(own_shop, "show", "customer") == []
    assert [line["id"] for line in from_json(own_shop, "deletions")] == [2]
    assert from_json(own_shop, "status")["expired, to be purged"] == "customer: 1 rows, item: 2 rows"
    assert [row["buffered_rows"] for row in from_json(own_shop, "tables")] == [0, 1]


@pytest.mark.parametrize("member_of", ["grace_operator", "grace_auditor", "grace_admin"])
def test_each_group_role_can_ask_for_tables_deletions_and_status(
    shop: Database, role: Callable[[str], str], member_of: str
) -> None:
    name = role("person")
    shop.connect().execute(f"grant {member_of} to {name}")
    for command in ("tables", "deletions", "status"):
        assert len(shop.cli("-U", name, command).stdout.splitlines()) > 1


def test_only_operators_see_the_rows(shop: Database, role: Callable[[str], str]) -> None:
    auditor, operator = role("auditor"), role("operator")
    shop.connect().execute(f"grant grace_auditor to {auditor}; grant grace_operator to {operator}")
    assert "one" in shop.cli("-U", operator, "show", "customer").stdout
    result = shop.cli("-U", auditor, "show", "customer", code=4)
    assert "one" not in result.output
    assert "SQLSTATE: 42501" in result.stderr
    assert "grace_operator" in result.stderr


def test_looking_changes_nothing(shop: Database) -> None:
    conn = shop.connect()
    before = rows(conn, "select * from grace_internal.run"), rows(conn, "select * from grace_buffer.item order by 1, 2")
    for command in (
        ("tables",),
        ("deletions",),
        ("show", "item"),
        ("status",),
        ("restore", "--deletion", "1", "--dry-run"),
    ):
        shop.cli(*command)
    assert before == (
        rows(conn, "select * from grace_internal.run"),
        rows(conn, "select * from grace_buffer.item order by 1, 2"),
    )
