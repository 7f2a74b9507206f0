"""filter on the command line: conditions built from parts, what they match, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.cli.test_terminal import finish, terminal
from tests.conftest import Database, rows, value

LEAD = ("--table", "crm.lead")


def from_json(database: Database, *arguments: str, code: int = 0) -> Any:
    return json.loads(database.cli("--format", "json", *arguments, code=code).stdout)


PARTS = [
    (("--is", "status=no_interest"), "status = 'no_interest'"),
    (("--is", "status=no_interest", "--is", "country=DE"), "status = 'no_interest' and country = 'DE'"),
    (("--is", "status=no_interest", "--is", "country=DE", "--any"), "status = 'no_interest' or country = 'DE'"),
    (("--not", "country=DE"), "country is distinct from 'DE'"),
    (("--not", "company_name=nobody"), "true"),
    (("--in", "country=DE, AT"), "country in ('DE', 'AT')"),
    (("--older", "created_at=1y"), "created_at < now() - interval '1 year'"),
    (("--older", "created_at=6mo"), "created_at < now() - interval '6 months'"),
    (("--older", "created_at=1y 6mo"), "created_at < now() - interval '18 months'"),
    (("--newer", "created_at=400 days"), "created_at >= now() - interval '400 days'"),
    (("--empty", "company_name"), "company_name is null"),
    (("--filled", "company_name"), "company_name is not null"),
    (("--empty", "owner_id", "--filled", "created_at"), "owner_id is null"),
    (("--is", "consent=yes"), "consent"),
    (("--is", "status=new", "--where", "id > 50 -- not the old ones"), "status = 'new' and id > 50"),
    (
        ("--is", "status=new", "--is", "country=NL", "--any", "--where", "id > 50"),
        "(status = 'new' or country = 'NL') and id > 50",
    ),
    (("--where", "id > 50"), "id > 50"),
]


def test_parts_mean_what_they_say(crm: Database) -> None:
    for number, (parts, condition) in enumerate(PARTS):
        found = from_json(crm, "filter", "add", f"f {number}", *LEAD, *parts)
        assert found["row_count"] == value(crm.connect(), f"select count(*) from crm.lead where {condition}"), parts
        assert found["condition"] == value(
            crm.connect(), "select condition from grace.filters where name = %s", f"f {number}"
        )
        assert found["cost"] > 0


def test_empty_is_a_text_without_characters_too(crm: Database) -> None:
    conn = crm.connect()
    conn.execute("update crm.lead set town = '' where id = 7; update crm.lead set town = null where id = 8")
    empty = from_json(crm, "filter", "add", "empty", *LEAD, "--empty", "town")
    filled = from_json(crm, "filter", "add", "filled", *LEAD, "--filled", "town")
    assert empty["row_count"] + filled["row_count"] == value(conn, "select count(*) from crm.lead")
    assert empty["row_count"] >= 2


def test_names_and_values_are_quoted(db: Database) -> None:
    conn = db.connect()
    conn.execute("""create table "Büro ""Ost"" 1" ("id no" int primary key, "Straße = Weg" text, "a,b" text)""")
    conn.execute("""insert into "Büro ""Ost"" 1" values (1, 'O''Neill\\x', 'Linz, Wels'), (2, ''' or true --', 'x')""")
    table = ("--table", '"Büro ""Ost"" 1"')
    for number, (parts, count) in enumerate(
        [
            (("--is", "a,b=Linz, Wels"), 1),
            (("--in", 'a,b="Linz, Wels",x'), 2),
            (("--is", "id no=2"), 1),
            (("--not", "a,b=' or true --"), 2),
        ]
    ):
        assert from_json(db, "filter", "add", f"Prüfung '{number}'", *table, *parts)["row_count"] == count
    result = db.cli("filter", "add", "f", *table, "--is", "Straße = Weg=x", code=2)
    assert "has no column 'Straße'" in result.stderr
    assert from_json(db, "filter", "show", "Prüfung '1'")["columns"] == []
    db.cli("filter", "drop", "Prüfung '1'", "--yes")


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("--is", "stauts=x"), 2, "has no column 'stauts'; did you mean status? Its columns: id, status"),
    (("--empty", "xyz"), 2, "has no column 'xyz'. Its columns: id, status"),
    (("--is", "status"), 2, "'status' is not COLUMN=VALUE"),
    (("--in", "status="), 2, "names no value"),
    (("--older", "created_at=6m"), 2, "months or minutes?"),
    (("--older", "created_at=6"), 2, "has no unit; say 6 days"),
    (("--older", "created_at=ages"), 2, "is not a duration"),
    (("--older", "created_at=-2y"), 2, "is negative"),
    (("--is", "status=a", "--is", "status=b"), 2, "say --in status=A,B, or --any"),
    ((), 2, "say which rows"),
    (("--older", "status=2y"), 4, "SQLSTATE: GR022"),
    (("--is", "estimated_value=much"), 4, 'invalid input syntax for type numeric: "much"'),
    (("--is", "status=new", "--where", "true) or (true"), 2, "is not one condition: see its brackets"),
    (("--is", "status=new", "--where", "true, true"), 4, "SQLSTATE: GR022"),
    (("--where", "random() > 0.5"), 4, "SQLSTATE: GR022"),
    (("--is", "status=new", "--columns", "nope"), 1, "has no such column: nope"),
]


def test_what_can_not_be_meant_is_refused(crm: Database) -> None:
    for parts, code, said in REFUSED:
        assert said in crm.cli("filter", "add", "f", *LEAD, *parts, code=code).stderr, parts
    assert value(crm.connect(), "select count(*) from grace.filters") == 0


def test_a_dry_run_saves_nothing(crm: Database) -> None:
    result = crm.cli("filter", "add", "f", *LEAD, "--is", "status=new", "--dry-run")
    assert "would match 8 rows now" in result.stderr
    assert value(crm.connect(), "select count(*) from grace.filters") == 0


def test_filters_are_listed_and_shown(crm: Database) -> None:
    assert "there are no filters" in crm.cli("filter", "list").stderr
    crm.cli("filter", "add", "Kein Interesse", *LEAD, "--is", "status=no_interest", "--columns", "company_name, town")
    crm.cli("rule", "add", "r", "--filter", "Kein Interesse")
    (listed,) = from_json(crm, "filter", "list")
    assert (listed["name"], listed["table"], listed["rules"]) == ("Kein Interesse", "crm.lead", ["r"])
    shown = from_json(crm, "filter", "show", "Kein Interesse")
    assert shown["predicate"] == "\"status\" = 'no_interest'"
    assert shown["columns"] == ["company_name", "town"]
    assert "Kein Interesse\tcrm.lead\t" in crm.cli("filter", "list").stdout
    missing = crm.cli("filter", "show", "kein interesse", code=4).stderr
    assert 'Did you mean "Kein Interesse"?' in missing
    assert "SQLSTATE: GR027" in missing


def test_altering_reaches_the_rules(crm: Database) -> None:
    crm.cli("filter", "add", "f", *LEAD, "--is", "status=new", "--columns", "town")
    crm.cli("rule", "add", "r", "--filter", "f")
    crm.cli("rule", "add", "own", "--filter", "f", "--columns", "company_name")
    changed = crm.cli("filter", "alter", "f", "--rename", "Kein Interesse", "--is", "status=no_interest")
    assert 'filter "Kein Interesse" matches 30 rows now' in changed.stderr
    crm.cli("filter", "alter", "Kein Interesse", "--columns", "last_name,town")
    for name, columns in (("r", ["last_name", "town"]), ("own", ["company_name"])):
        rule = from_json(crm, "rule", "show", name)
        assert "no_interest" in rule["condition"]
        assert (rule["filter"], rule["columns"]) == ("Kein Interesse", columns)
    before = from_json(crm, "filter", "show", "Kein Interesse")
    crm.cli("filter", "alter", "Kein Interesse", "--where", "true", "--dry-run")
    crm.cli("filter", "alter", "Kein Interesse", code=2)
    assert "SQLSTATE: GR022" in crm.cli("filter", "alter", "Kein Interesse", "--where", "", code=4).stderr
    crm.cli("filter", "add", "g", *LEAD, "--is", "status=new")
    assert "SQLSTATE: 42710" in crm.cli("filter", "alter", "Kein Interesse", "--rename", "g", code=1).stderr
    assert "SQLSTATE: GR022" in crm.cli("filter", "alter", "Kein Interesse", "--where", "random() > 0", code=4).stderr
    assert from_json(crm, "filter", "show", "Kein Interesse") == before


def test_values_that_no_row_has_are_named(crm: Database) -> None:
    said = crm.cli("filter", "add", "f", *LEAD, "--is", "status=No_Intrest", "--in", "country=DE,XX").stderr
    assert "no row has status No_Intrest; there is no_interest" in said
    assert "no row has country XX" in said
    assert "country DE" not in said


def test_a_filter_that_a_change_broke_says_so(crm: Database) -> None:
    crm.cli("filter", "add", "f", *LEAD, "--is", "status=new")
    crm.connect().execute("alter table crm.lead rename status to state")
    assert "state" in from_json(crm, "filter", "list")[0]["problem"]
    assert "SQLSTATE: GR028" in crm.cli("filter", "preview", "f", code=4).stderr


def test_a_preview_shows_rows_and_what_goes_along(crm: Database) -> None:
    conn = crm.connect()
    crm.cli("filter", "add", "f", *LEAD, "--is", "status=no_interest", "--columns", "last_name,company_name")
    found = from_json(crm, "filter", "preview", "f", "--sample", "3")
    assert found["row_count"] == value(conn, "select count(*) from crm.lead where status = 'no_interest'")
    assert len(found["sample"]) == 3
    assert {part["table"] for part in found["cascades"]} >= {"crm.lead", "crm.email", "crm.activity"}
    text = crm.cli("filter", "preview", "f", "--sample", "3").stdout.splitlines()
    assert "key\tlast_name\tcompany_name" in text
    assert any(line.startswith("crm.email\t") for line in text)
    (_, line) = crm.cli("--format", "csv", "filter", "preview", "f").stdout.splitlines()
    assert line.startswith("crm.lead,")
    assert value(conn, "select count(*) from grace.deletions") == 0


def test_dropping_asks_and_a_rule_holds_it(crm: Database) -> None:
    crm.cli("filter", "add", "f", *LEAD, "--is", "status=new")
    assert "There is nobody to ask here" in crm.cli("filter", "drop", "f", code=4, stdin="y\n").stderr
    child = terminal(crm, "filter", "drop", "f")
    child.expect(r'Forget filter "f"\? \[y/N\]')
    child.sendline("n")
    assert finish(child)[0] == 4
    crm.cli("rule", "add", "r", "--filter", "f")
    result = crm.cli("filter", "drop", "f", "--yes", code=1)
    assert "pg_grace filter alter NAME" in result.stderr
    crm.cli("rule", "drop", "r", "--yes")
    crm.cli("filter", "drop", "f", "--yes")
    assert rows(crm.connect(), "select name from grace.filters") == []


def test_only_administrators_save_filters(crm: Database, role: Callable[[str], str]) -> None:
    auditor = role("auditor")
    crm.connect().execute(f"grant grace_auditor to {auditor}; grant usage on schema crm to {auditor}")
    assert from_json(crm, "-U", auditor, "filter", "list") == []
    assert "SQLSTATE: 42501" in crm.cli("-U", auditor, "filter", "add", "f", *LEAD, "--where", "true", code=4).stderr
