"""doctor."""

from __future__ import annotations

from typing import Any

import click
import psycopg

from pg_grace import __version__, migrate
from pg_grace.cli.options import Settings, connected, read_interval, wait_option
from pg_grace.cli.protect import sync_all
from pg_grace.connection import Connection
from pg_grace.cron import elsewhere
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note, print_rows, to_json

_COLUMNS = ("severity", "subject", "object", "finding", "hint")


_ELSEWHERE = "pg_cron works from another database, which can't be seen from here"


def findings(connection: Connection, settings: Settings, *, deep: bool = False) -> list[dict[str, Any]]:
    """Return what grace.doctor() finds, and what only the client can see: its version, pg_cron in another database."""
    found = connection.execute("select * from grace.doctor()").fetchall()
    there = elsewhere(connection, settings.target)
    if there is not None:
        try:
            jobs = to_json(there.jobs())
            found = [finding for finding in found if finding["finding"] != _ELSEWHERE]
            found += connection.execute("select * from grace._check_jobs(%s::jsonb)", (jobs,)).fetchall()
        except (psycopg.Error, CommandError) as error:
            for finding in found:
                if finding["finding"] == _ELSEWHERE:
                    reason = str(error).strip().splitlines()[0]
                    finding["finding"] = f'pg_cron in database "{there.database}" can\'t be asked: {reason}'
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
    found = findings(connection, settings, deep=deep)
    if fix and any(finding["fixable"] for finding in found):
        for row in sync_all(connection, wait):
            if row["status"] == "failed":
                note(f"not fixed: {row['table']}: {row['warning']}")
        before = dict.fromkeys((finding["subject"], finding["object"]) for finding in found)
        if any(finding["fixable"] and finding["subject"] == "schedule" for finding in found):
            there = elsewhere(connection, settings.target)
            obstacle = there.ensure_jobs() if there else None
            if there and obstacle:
                note(f'not fixed: pg_cron in database "{there.database}": {obstacle}')
        found = findings(connection, settings, deep=deep)
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
