"""Errors as psql shows them, and the exit codes they end in."""

from __future__ import annotations

import enum
import re

import click
import psycopg


class Exit(enum.IntEnum):
    """What a command's exit code means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    REFUSED = 4
    FOUND_SOMETHING = 5
    INTERRUPTED = 130


# What pg_grace itself, or the user's rights, refused; nothing has changed.
_REFUSALS = ("GR", "42501")
# The server's hints speak SQL; these say the same in this command's words.
_HINTS = {
    "GR001": "Protect it: pg_grace protect TABLE",
    "GR007": "Look at what there is: pg_grace deletions, pg_grace show TABLE",
    "GR009": "Select its rows by --deletion, --from and --to, --by or --where.",
    "GR026": "See what there is: pg_grace schedule",
    "GR011": "Remove what stands in the way, select less, or say --on-conflict skip or replace.",
    "GR016": "Look at pg_grace deletions and say --deletion ID, or --key, --from, --by, --where with a table.",
}
# Where a hint names what to call, this command has a way to say it, too.
_CALLS = (
    (r"select \* from grace\.(filter|rule)s;", r"pg_grace \1 list"),
    (r"select \* from grace\.exemptions where is_active;", "pg_grace exempt list"),
    (r"select \* from grace\.preview\(…\);", "pg_grace rule preview NAME"),
    (r"select \* from grace\.planned\(…\);", "pg_grace rule planned"),
    (r"select grace\.enable_rule\((.*)\);", r"pg_grace rule enable \1"),
    (r"call grace\.run\((.*), approve => true\);", r"pg_grace rule run \1 --approve"),
    (r"select grace\.alter_rule\(…, '\{\"notice\".*\);", "pg_grace rule alter NAME --notice '14 days'"),
    (r"select grace\.alter_rule\(('.*'), '.*'\);", r"pg_grace rule alter \1 --starts … --where …"),
    (r"select (?:\* from )?grace\.alter_filter\(('.*'), …\);", r"pg_grace filter alter \1 --where …"),
    (r"select (?:\* from )?grace\.alter_filter\(…\);", "pg_grace filter alter NAME"),
    (r"select grace\.drop_(filter|rule)\(…\);", r"pg_grace \1 drop NAME"),
    (r"\(grace\.(alter|drop)_rule\)", r"(pg_grace rule \1)"),
)
_SQL = re.compile("select |=>")
_JSON_KEY = re.compile(r"\{(.*: .*)\}")
_UNDEFINED = ("3F000", "42P01", "42883")


class CommandError(click.ClickException):
    """An error with an exit code of its own."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc] # click declares a constant of the class


def describe(error: psycopg.Error, *, hint: str | None = None) -> str:
    """Return a server's error as psql shows it: message, DETAIL, HINT (else the one given), SQLSTATE."""
    diagnostics = error.diag
    if diagnostics.message_primary is None:
        return str(error).strip()
    lines = [diagnostics.message_primary]
    if diagnostics.message_detail:
        lines.append(f"DETAIL:  {diagnostics.message_detail}")
    server_hint = diagnostics.message_hint or ""
    for call, command in _CALLS:
        server_hint = re.sub(call, command, server_hint)
    if error.sqlstate in _HINTS and _SQL.search(server_hint):
        server_hint = _HINTS[error.sqlstate]
    if error.sqlstate == "GR008":
        server_hint = _JSON_KEY.sub(_as_typed, server_hint)
    if error.sqlstate == "GR011" and "can be brought along" in (diagnostics.message_detail or ""):
        server_hint = f"Parents come along with --with-parents. {server_hint}"
    hint = server_hint or hint or _hint(error)
    if hint:
        lines.append(f"HINT:  {hint}")
    if error.sqlstate:
        lines.append(f"SQLSTATE: {error.sqlstate}")
    return "\n".join(lines)


def _as_typed(found: re.Match[str]) -> str:
    """Turn {"id": …, "line": …} into what --key takes: id=…,line=…."""
    return re.sub(r'"([^"]*)": ', r"\1=", found[1]).replace(", ", ",")


def _hint(error: psycopg.Error) -> str | None:
    """Return what to do where PostgreSQL itself, refusing a right, says nothing."""
    if error.sqlstate == "42501" and re.search("for schema (?!grace$)", error.diag.message_primary or ""):
        return "The schema's owner can give the right: grant usage on schema … to …;"
    if error.sqlstate == "42501":
        return (
            "Looking takes membership in grace_auditor (what and when) or grace_operator (the rows), restoring in"
            " grace_operator and INSERT on the tables, protecting, purging, filters, rules and holds in grace_admin."
        )
    return None


def _is_not_installed(error: psycopg.Error) -> bool:
    message = error.diag.message_primary or ""
    outermost = error.diag.context is None
    return error.sqlstate in _UNDEFINED and outermost and ("grace." in message or '"grace"' in message)


def from_server(error: psycopg.Error) -> CommandError:
    """Turn an error of the server, or of the connection to it, into one that ends the command."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return CommandError(f"no connection: {str(error).strip()}", Exit.NO_CONNECTION)
    if _is_not_installed(error):
        return CommandError(
            "pg_grace is not installed in this database, or not the version this client needs\n"
            f"DETAIL:  {error.diag.message_primary}\n"
            "HINT:  Install it, or bring it up to date: pg_grace install\n"
            f"SQLSTATE: {error.sqlstate}",
            Exit.REFUSED,
        )
    refused = error.sqlstate is not None and error.sqlstate.startswith(_REFUSALS)
    return CommandError(describe(error), Exit.REFUSED if refused else Exit.FAILED)
