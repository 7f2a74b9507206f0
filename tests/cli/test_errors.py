"""Errors: each exit code as documented, ERROR with DETAIL, HINT and SQLSTATE, never a password; help for everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner, Result

from pg_grace.cli import main
from tests.conftest import Database, _new_database, value
from tests.server import Server

PASSWORD = "s3cr3t"
NOWHERE = "host=127.0.0.1 port=1"


def run(*arguments: str, **environment: str) -> Result:
    result = CliRunner().invoke(main, arguments, env=environment, prog_name="pg_grace")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = [pytest.param(path, command, id=" ".join(path)) for path, command in commands()]
NEEDS_A_CONNECTION = [
    ("install",),
    ("upgrade",),
    ("uninstall", "--yes"),
    ("status",),
    ("protect", "t"),
    ("unprotect", "t", "--yes"),
    ("tables",),
    ("deletions",),
    ("show", "t"),
    ("restore", "--deletion", "1"),
    ("purge", "--yes"),
    ("sync",),
    ("doctor",),
    ("files", "list"),
    ("files", "sweep", "--root", "/nowhere", "--yes"),
    ("metrics",),
    ("tick",),
    ("schedule",),
    ("retention", "t"),
    ("capacity",),
    ("ledger", "show"),
    ("ledger", "verify"),
    ("filter", "add", "f", "--table", "t", "--where", "true"),
    ("filter", "alter", "f", "--where", "true"),
    ("filter", "list"),
    ("filter", "show", "f"),
    ("filter", "preview", "f"),
    ("filter", "drop", "f", "--yes"),
    ("rule", "add", "r", "--table", "t"),
    ("rule", "alter", "r", "--period", "1 year"),
    ("rule", "list"),
    ("rule", "show", "r"),
    ("rule", "enable", "r"),
    ("rule", "disable", "r"),
    ("rule", "drop", "r", "--yes"),
    ("rule", "preview", "r"),
    ("rule", "run", "r", "--yes"),
    ("rule", "planned"),
    ("rule", "notices"),
    ("rule", "announce", "r"),
    ("exempt", "add", "r", "--key", "1", "--reason", "x"),
    ("exempt", "list"),
    ("exempt", "drop", "1"),
    ("runs",),
    ("run", "show", "1"),
    ("hold", "add", "t", "--key", "1", "--reason", "x"),
    ("hold", "list"),
    ("hold", "release", "1", "--reason", "x", "--yes"),
]


def prepare(database: Database) -> Database:
    conn = database.connect()
    conn.execute("create table t (id int primary key, at date); create table keyless (x int)")
    conn.execute("create table never (id int primary key); create view seen as select * from t")
    database.cli("protect", "t", "keyless")
    conn.execute("insert into t values (1); insert into keyless values (1); delete from t; delete from keyless")
    return database


@pytest.fixture(scope="module")
def table(server: Server, template: str) -> Iterator[Database]:
    """One database for all that is refused: nothing of it changes anything."""
    with _new_database(server, template) as database:
        yield prepare(database)


def test_help_documents_the_exit_codes() -> None:
    printed = " ".join(run("--help").stdout.split())
    assert "0 done, 1 failed, 2 usage, 3 no connection, 4 refused, 5 check found something" in printed


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_every_command_has_help_that_begins_with_a_sentence(path: tuple[str, ...], command: click.Command) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    first = (command.help or "").split("\n\n")[0]
    assert re.match(r"[A-Z].+\.", first, re.DOTALL), first
    assert " ".join(first.split()) in " ".join(result.stdout.split())


@pytest.mark.parametrize(("path", "command"), [*COMMANDS, pytest.param((), main, id="pg_grace")])
def test_every_option_has_a_help_text(path: tuple[str, ...], command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, (path, option.name)
            assert re.search(r"\.( \[.+\])?$", option.help), (path, option.name, option.help)


def test_the_list_of_commands_below_has_every_one_that_connects() -> None:
    leaves = {path for path, command in commands() if not isinstance(command, click.Group)}
    assert {path for path in leaves if not any(path == given[: len(path)] for given in NEEDS_A_CONNECTION)} == {
        ("demo",)
    }


@pytest.mark.parametrize("arguments", NEEDS_A_CONNECTION, ids=" ".join)
def test_without_a_connection_every_command_exits_with_3(arguments: tuple[str, ...]) -> None:
    result = run("-d", f"{NOWHERE} user=app password={PASSWORD}", *arguments)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "no connection" in result.stderr
    assert "127.0.0.1" in result.stderr
    assert PASSWORD not in result.output


@pytest.mark.parametrize(
    "dbname",
    [
        f"{NOWHERE} password={PASSWORD}",
        f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop",
        f"postgresql://app:{PASSWORD}@127.0.0.1:nonsense/shop",
        f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop?nonsense=1",
        f"host=127.0.0.1 nonsense=1 password={PASSWORD}",
        f"host=127.0.0.1 port=nonsense password={PASSWORD}",
        f"host=127.0.0.1 password=my {PASSWORD}",
        f"postgresql://app:{PASSWORD}@[127.0.0.1/shop",
        "service=nonsense",
    ],
)
def test_a_connection_string_that_leads_nowhere_exits_with_3_and_shows_no_password(dbname: str) -> None:
    result = run("-d", dbname, "tables")
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith("Error: no connection: ")
    assert PASSWORD not in result.output


def test_a_password_in_the_environment_is_not_shown() -> None:
    result = run("-d", NOWHERE, "tables", PGPASSWORD=PASSWORD)
    assert result.exit_code == 3
    assert PASSWORD not in result.output


def test_an_unknown_database_or_role_exits_with_3(db: Database) -> None:
    for option, name in (("-d", "no_such_database"), ("-U", "no_such_role")):
        result = db.cli(option, name if option == "-U" else f"{db.conninfo} dbname={name}", "tables", code=3)
        assert name in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command"),
        (("tables", "--nonsense"), "No such option"),
        (("protect",), "Missing argument"),
        (("show",), "Missing argument"),
        (("restore", "--deletion", "one"), "not a valid integer"),
        (("deletions", "--limit", "0"), "0"),
        (("deletions", "--since", "nonsense"), "is not a time"),
        (("deletions", "--until", "nonsense ago"), "is not a time"),
        (("show", "t", "--key", "{nonsense"), "is not JSON"),
        (("protect", "t", "--retention", "nonsense"), "is not a duration"),
        (("protect", "t", "--wait", "nonsense"), "is not a duration"),
        (("--format", "xml", "tables"), "xml"),
    ],
)
def test_what_is_typed_wrongly_exits_with_2(table: Database, arguments: tuple[str, ...], said: str) -> None:
    result = table.cli(*arguments, code=2)
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "code"),
    [
        (("protect", "nope"), "42P01", 1),
        (("show", "nope"), "42P01", 1),
        (("restore", "nope", "--key", "1"), "42P01", 1),
        (("purge", "nope", "--yes"), "42P01", 1),
        (("protect", "seen"), "GR002", 4),
        (("protect", "pg_class"), "GR002", 4),
        (("protect", "grace_internal.run"), "GR002", 4),
        (("protect", "t", "--retention", "0"), "GR005", 4),
        (("protect", "t", "--retention", "-1 day"), "GR005", 4),
        (("protect", "t", "--retention", "101 years"), "GR005", 4),
        (("protect", "t", "--exclude", "nope"), "GR004", 4),
        (("show", "never"), "GR001", 4),
        (("unprotect", "never", "--yes"), "GR001", 4),
        (("restore", "never", "--key", "1"), "GR001", 4),
        (("purge", "never", "--yes"), "GR001", 4),
        (("restore", "--deletion", "999"), "GR007", 4),
        (("restore", "t", "--key", "999"), "GR007", 4),
        (("show", "t", "--key", "abc"), "GR008", 4),
        (("show", "t", "--key", "nope=1"), "GR008", 4),
        (("show", "t", "--key", '{"id": [1]}'), "GR008", 4),
        (("show", "t", "--key", "99999999999999999999"), "GR008", 4),
        (("restore", "t", "--key", "abc"), "GR008", 4),
        (("show", "keyless", "--key", "1"), "GR009", 4),
        (("restore", "keyless", "--key", "1"), "GR009", 4),
        (("restore", "t"), "GR016", 4),
        (("restore",), "GR016", 4),
    ],
)
def test_bad_input_is_an_error_with_detail_hint_and_sqlstate_and_changes_nothing(
    table: Database, arguments: tuple[str, ...], sqlstate: str, code: int
) -> None:
    conn = table.connect()
    before = conn.execute("select target::text, retention, buffered_rows, state from grace.protected").fetchall()
    runs = value(conn, "select count(*) from grace.runs")
    result = table.cli(*arguments, code=code)
    assert re.search(rf"^Error: .+\nDETAIL:  .+\nHINT:  .+\nSQLSTATE: {sqlstate}$", result.stderr, re.MULTILINE), (
        result.stderr
    )
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert (
        conn.execute("select target::text, retention, buffered_rows, state from grace.protected").fetchall() == before
    )
    assert value(conn, "select count(*) from grace.runs") == runs


def test_an_error_of_the_application_in_a_restore_exits_with_1_and_keeps_the_rows(db: Database) -> None:
    conn = prepare(db).connect()
    conn.execute(
        "create function no() returns trigger language plpgsql as"
        " $$ begin raise 'not on a Sunday' using detail = 'It is one.', errcode = 'ZZ001'; end $$;"
        " create trigger no before insert on t for each row execute function no()"
    )
    result = db.cli("restore", "t", "--key", "1", code=1)
    assert result.stderr.startswith("Error: not on a Sunday\nDETAIL:  It is one.\nSQLSTATE: ZZ001")
    assert value(conn, "select count(*) from grace_buffer.t") == 1


def test_an_outsider_is_refused_and_told_which_membership_it_takes(table: Database, role: Callable[[str], str]) -> None:
    outsider = role("outsider")
    for arguments in (("tables",), ("deletions",), ("show", "t"), ("restore", "--deletion", "1"), ("protect", "t")):
        result = table.cli("-U", outsider, *arguments, code=4)
        assert "SQLSTATE: 42501" in result.stderr
        assert "grace_operator" in result.stderr
    assert value(table.connect(), "select count(*) from grace_buffer.t") == 1
