"""Errors as psql shows them, and the exit codes they end in."""

from __future__ import annotations

import enum

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


# What pg_grace itself, or the user's rights, refused; nothing has changed.
_REFUSALS = ("GR", "42501")


class CommandError(click.ClickException):
    """An error with an exit code of its own."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit_code = int(code)


def describe(error: psycopg.Error) -> str:
    """Return a server's error as psql shows it: message, DETAIL, HINT, SQLSTATE."""
    diagnostics = error.diag
    if diagnostics.message_primary is None:
        return str(error).strip()
    lines = [diagnostics.message_primary]
    if diagnostics.message_detail:
        lines.append(f"DETAIL:  {diagnostics.message_detail}")
    if diagnostics.message_hint:
        lines.append(f"HINT:  {diagnostics.message_hint}")
    if error.sqlstate:
        lines.append(f"SQLSTATE: {error.sqlstate}")
    return "\n".join(lines)


def from_server(error: psycopg.Error) -> CommandError:
    """Turn an error of the server, or of the connection to it, into one that ends the command."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return CommandError(f"no connection: {str(error).strip()}", Exit.NO_CONNECTION)
    refused = error.sqlstate is not None and error.sqlstate.startswith(_REFUSALS)
    return CommandError(describe(error), Exit.REFUSED if refused else Exit.FAILED)
