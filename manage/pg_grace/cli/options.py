"""Options that commands share, and what they mean."""

from __future__ import annotations

import csv
import difflib
import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import click
import psycopg

from pg_grace.connection import Connection, Target, connect
from pg_grace.errors import CommandError, Exit, from_server
from pg_grace.output import note

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Settings:
    """What stands before the command's name."""

    target: Target
    output_format: str


def connected(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command an open connection and the settings; show the server's errors as psql does.

    After Ctrl-C the statement that ran is cancelled on the server, too: psycopg does that.
    """

    @click.pass_obj
    @functools.wraps(command)
    def wrapper(settings: Settings, /, *args: Any, **kwargs: Any) -> R:
        try:
            with connect(settings.target) as connection:
                return command(connection, settings, *args, **kwargs)
        except psycopg.Error as error:
            raise from_server(error) from error
        except KeyboardInterrupt as interrupt:
            raise CommandError("interrupted", Exit.INTERRUPTED) from interrupt

    return wrapper


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal and without --yes refuse."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question}\nHINT:  There is nobody to ask here: say --yes.", Exit.REFUSED)
    if not click.confirm(question, err=True):
        raise CommandError("nothing was done", Exit.REFUSED)


def ask_which(question: str, choices: Sequence[str], ways: Sequence[str], default: str) -> int:
    """Ask which of several things is meant, the first one being the default; return its index.

    Raises CommandError where nobody is there to be asked, with the ways to say it.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        lines = "\n".join(f"  {way}  {choice}" for way, choice in zip(ways, choices, strict=True))
        raise CommandError(
            f"{question}\nHINT:  There is nobody to ask here: say which one; {default}.\n{lines}", Exit.REFUSED
        )
    note(question)
    for number, choice in enumerate(choices, start=1):
        note(f"  {number}  {choice}")
    answer: int = click.prompt(
        "Which one?", type=click.IntRange(1, len(choices)), default=1, prompt_suffix=" ", err=True
    )
    return answer - 1


def yes_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add --yes."""
    return click.option("--yes", is_flag=True, help="Don't ask.")(command)


def dry_run_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add --dry-run."""
    return click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")(command)


def wait_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add --wait."""
    return click.option(
        "--wait",
        default="60 seconds",
        show_default=True,
        metavar="INTERVAL",
        help="How long to try for the lock. No try holds up others for more than 100 ms.",
    )(command)


def named(kind: str, name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with this name; raises CommandError, with the names that it may have meant, when there is none."""
    for row in rows:
        if row["name"] == name:
            return row
    folded = {str(row["name"]).casefold(): str(row["name"]) for row in rows}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    meant = f"Did you mean {', '.join(chr(34) + folded[found] + chr(34) for found in near)}? " if near else ""
    raise CommandError(
        f'there is no {kind} "{name}"\nHINT:  {meant}See what there is: pg_grace {kind} list\nSQLSTATE: GR027',
        Exit.REFUSED,
    )


def table_named(connection: Connection, name: str) -> int:
    """Return the OID of the table a person means; an unknown one is the server's error with DETAIL and HINT."""
    row = connection.execute("select grace.table_named(%s)::oid as oid", (name,)).fetchone()
    assert row is not None
    return int(row["oid"])


def read_interval(connection: Connection, option: str, text: str) -> str:
    """Return a duration as the server reads it; raises click.BadParameter when it is none."""
    if text.strip().isdecimal() and int(text):
        raise click.BadParameter(f"{text!r} has no unit; say {text.strip()} days", param_hint=f"--{option}")
    try:
        row = connection.execute("select %s::interval::text as duration", (text,)).fetchone()
    except psycopg.DataError as error:
        raise click.BadParameter(
            f"{text!r} is not a duration; say 30 days, 12 hours or 1 year", param_hint=f"--{option}"
        ) from error
    assert row is not None
    return str(row["duration"])


def read_age(connection: Connection, option: str, text: str) -> str:
    """Return a span of time as the server reads it, months as 6mo, too; raises click.BadParameter when it is none."""
    if re.search(r"^[^P]*\d\s*m\b", text, re.IGNORECASE):
        raise click.BadParameter(f"{text!r}: months or minutes? Say 6mo or 6min", param_hint=f"--{option}")
    read = read_interval(connection, option, re.sub(r"(?<=\d)\s*mo\b", " months", text))
    row = connection.execute("select %s::interval < '0' as negative", (read,)).fetchone()
    assert row is not None
    if row["negative"]:
        raise click.BadParameter(f"{text!r} is negative", param_hint=f"--{option}")
    return read


def split_list(text: str) -> list[str]:
    """Return the elements of a,b or of "Linz, Wels",Graz."""
    return [element.strip() for element in next(csv.reader([text], skipinitialspace=True), [])]


def read_key(text: str | None) -> str | None:
    """Turn one --key into the jsonb that SQL takes."""
    return None if text is None else json.dumps(_read_key(text))


def read_keys(keys: tuple[str, ...]) -> str | None:
    """Turn --key 7, --key id=7,line=2 or --key '{"id": 7}' into the jsonb that SQL takes."""
    return json.dumps([_read_key(key) for key in keys]) if keys else None


def _read_key(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise click.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--key") from error
    parts = [part.partition("=") for part in text.split(",")]
    if all(separator for _, separator, _ in parts):
        return {name.strip(): value for name, _, value in parts}
    return text


def around_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add --around."""
    return click.option("--around", metavar="TIME", help="Deleted within an hour of: last tuesday 22:00.")(command)


content_options = (
    click.option("--application", metavar="TEXT", help="The deleting session's application_name contains this."),
    click.option("--reason", metavar="TEXT", help="What it had said with SET grace.reason contains this."),
    click.option("--where", metavar="CONDITION", help="Rows for which this holds: \"company ilike '%GmbH%'\"."),
)


def with_options(options: Sequence[Callable[..., Any]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add options in this order."""

    def add(command: Callable[P, R]) -> Callable[P, R]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _at_most_one(_context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Refuse an option that is given twice, where click would keep the last one."""
    if len(values) > 1:
        raise click.BadParameter("only one can be given", param=parameter)
    return values[0] if values else None


def selection_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add the options that select deleted rows."""
    return with_options(
        (
            click.option(
                "--deletion",
                type=click.IntRange(1, 2**63 - 1),
                multiple=True,
                callback=_at_most_one,
                metavar="ID",
                help="What this deletion removed.",
            ),
            click.option("--key", "keys", multiple=True, metavar="KEY", help="A primary key: 7, or id=7,line=2."),
            click.option("--from", "deleted_from", metavar="TIME", help="Deleted at or after: yesterday 10:00."),
            click.option("--to", "deleted_to", metavar="TIME", help="Deleted before: 2 hours ago."),
            around_option,
            click.option("--by", "deleted_by", metavar="ROLE", help="Deleted by this role or login."),
            *content_options,
        )
    )(command)
