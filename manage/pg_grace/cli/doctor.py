"""doctor."""

from __future__ import annotations

from typing import Any

import click

from pg_grace import __version__, migrate
from pg_grace.cli.options import Settings, connected, read_interval, wait_option
from pg_grace.cli.protect import sync_all
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note, print_rows

_COLUMNS = ("severity", "subject", "object", "finding", "hint")


def _findings(connection: Connection, *, deep: bool) -> list[dict[str, Any]]:
    found = connection.execute("select * from grace.doctor()").fetchall()
    revision = migrate.installed_revision(connection)
    if revision != migrate.newest_revision():
        found.append(
            {
                "severity": "problem",
                "subject": "version",
                "object": None,
                "finding": f"the database is at revision {revision}, pg_grace {__version__} at"
                f" {migrate.newest_revision()}",
                "hint": "Bring the older one up to date: pg_grace upgrade, or pip install --upgrade pg-grace",
                "fixable": False,
            }
        )
    if deep:
        found += [
            {
                "severity": "problem",
                "subject": "buffer",
                "object": f"{row['buffer']}, deletion {row['deletion']}",
                "finding": f"{row['row_count']} row{' was' if row['row_count'] == 1 else 's were'} {row['finding']}",
                "hint": "Find out who may write to the buffer, and compare with a backup.",
                "fixable": False,
            }
            for row in connection.execute(
                "select coalesce(buffer_of::text, 'a table that was dropped') as buffer, deletion, finding, row_count"
                " from grace.verify_buffer()"
            ).fetchall()
        ]
    return found


@click.command()
@click.option("--fix", is_flag=True, help="Do what is safe to do, and say what is left.")
@click.option("--deep", is_flag=True, help="Also compare every row in the buffer with the log; reads all of it.")
@wait_option
@connected
def doctor(connection: Connection, settings: Settings, *, fix: bool, deep: bool, wait: str) -> None:
    """Look for what keeps pg_grace from doing its work, and say what to do.

    Ends with exit code 5 when there is a problem; notes are none.
    """
    wait = read_interval(connection, "wait", wait)
    found = _findings(connection, deep=deep)
    if fix and any(finding["fixable"] for finding in found):
        for row in sync_all(connection, wait):
            if row["status"] == "failed":
                note(f"not fixed: {row['table']}: {row['warning']}")
        before = dict.fromkeys((finding["subject"], finding["object"]) for finding in found)
        found = _findings(connection, deep=deep)
        left = {(finding["subject"], finding["object"]) for finding in found}
        for subject, concerned in before:
            if (subject, concerned) not in left:
                note(f"fixed: {subject}{'' if concerned is None else f' of {concerned}'}")
    if found or settings.output_format != "table":
        print_rows(found, _COLUMNS, settings.output_format)
    problems = sum(finding["severity"] == "problem" for finding in found)
    if problems:
        raise CommandError(f"{problems} problem{'s' if problems > 1 else ''} found", Exit.FOUND_SOMETHING)
    note("no problem found")
