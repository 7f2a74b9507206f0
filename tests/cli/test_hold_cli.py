"""hold add, hold list, hold release."""

from __future__ import annotations

import csv
import io
import json

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def held(conn: Connection, db: Database) -> Database:
    conn.execute("create schema crm; create table crm.invoice (id int primary key, x text)")
    conn.execute("create table crm.item (invoice int, line int, primary key (invoice, line))")
    conn.execute("insert into crm.invoice values (1), (2), (7); insert into crm.item values (1, 1), (1, 2)")
    db.cli("protect", "crm.invoice", "crm.item")
    db.cli("hold", "add", "crm.invoice", "--key", "7", "--reason", "tax audit", "--case", "2026/17")
    return db


def test_add_holds_all_keys_and_shows_the_holds(held: Database, conn: Connection) -> None:
    result = held.cli(
        *(
            "--format",
            "json",
            "hold",
            "add",
            "crm.item",
            "--key",
            "invoice=1,line=1",
            "--key",
            '{"invoice": 1, "line": 2}',
        ),
        *("--reason", "why", "--until", "2100-01-01 00:00+00"),
    )
    found = json.loads(result.stdout)
    assert [(row["id"], row["table"], row["key"], row["reason"], row["case"]) for row in found] == [
        (2, "crm.item", {"invoice": 1, "line": 1}, "why", None),
        (3, "crm.item", {"invoice": 1, "line": 2}, "why", None),
    ]
    assert all(row["until"].startswith("2100-01-01") for row in found)
    with pytest.raises(psycopg.Error, match="are held"):
        conn.execute("delete from crm.item")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("crm.invoice", "--key", "70", "--reason", "r"), 4, "GR007"),
        (("crm.invoice", "--key", "seven", "--reason", "r"), 4, "GR008"),
        (("crm.invoice", "--key", "1", "--reason", " "), 1, "22023"),
        (("crm.invoice", "--key", "1", "--reason", "r", "--until", "yesterday"), 1, "until is in the past"),
        (("crm.invoice", "--key", "1", "--reason", "r", "--until", "some day"), 2, "is not a time"),
        (("crm.invoice", "--key", "1"), 2, "--reason"),
        (("crm.invoice", "--reason", "r"), 2, "--key"),
        (("nothing", "--key", "1", "--reason", "r"), 1, "42P01"),
    ],
)
def test_what_add_refuses(held: Database, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = held.cli("hold", "add", *arguments, code=code)
    assert message in result.output


def test_list(held: Database) -> None:
    held.cli("hold", "add", "crm.item", "--key", "invoice=1,line=1", "--reason", "why")
    assert "tax audit" in held.cli("hold", "list").stdout
    found = json.loads(held.cli("--format", "json", "hold", "list", "--table", "crm.item").stdout)
    assert [row["id"] for row in found] == [2]
    held.cli("hold", "release", "1", "--reason", "over", "--yes")
    read = list(csv.DictReader(io.StringIO(held.cli("--format", "csv", "hold", "list").stdout)))
    assert [row["id"] for row in read] == ["2"]
    found = json.loads(held.cli("--format", "json", "hold", "list", "--all").stdout)
    assert [(row["id"], row["is_active"], row["release_reason"]) for row in found] == [
        (1, False, "over"),
        (2, True, None),
    ]


def test_release_asks(held: Database, conn: Connection) -> None:
    result = held.cli("hold", "release", "1", "--reason", "over", code=4)
    assert 'Release hold 1 on crm.invoice {"id": 7}: tax audit?' in result.output
    assert "would release hold 1" in held.cli("hold", "release", "1", "--reason", "over", "--dry-run").output
    assert value(conn, "select is_active from grace.holds")
    assert "there is no hold 2" in held.cli("hold", "release", "2", "--reason", "over", "--dry-run", code=4).output
    held.cli("hold", "release", "1", "--reason", "over", "--yes")
    assert rows(conn, "select is_active, release_reason from grace.holds") == [(False, "over")]
    for option in ("--dry-run", "--yes"):
        assert "It was released by" in held.cli("hold", "release", "1", "--reason", "over", option, code=1).output
    conn.execute("delete from crm.invoice")


def test_what_is_held_is_not_unprotected(held: Database) -> None:
    for option in ("--dry-run", "--yes"):
        assert "GR029" in held.cli("unprotect", "crm.invoice", option, code=4).output
