"""protect, unprotect, sync."""

from __future__ import annotations

from typing import Any

import click
import psycopg

from pg_grace.cli.options import (
    Settings,
    confirm,
    connected,
    dry_run_option,
    read_interval,
    table_named,
    wait_option,
    yes_option,
)
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit, describe
from pg_grace.output import note, number_of, print_rows


@click.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option(
    "--retention", default="30 days", show_default=True, metavar="INTERVAL", help="How long rows stay restorable."
)
@click.option("--no-cascade", is_flag=True, help="Not the tables that deleting from it cascades into.")
@click.option("--exclude", "excluded", multiple=True, metavar="COLUMN", help="A column not to capture.")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="COLUMN",
    help="A column that refers to files: large objects (oid, lo), or paths or URLs outside the database (text).",
)
@wait_option
@connected
def protect(
    connection: Connection,
    settings: Settings,
    *,
    tables: tuple[str, ...],
    retention: str,
    no_cascade: bool,
    excluded: tuple[str, ...],
    files: tuple[str, ...],
    wait: str,
) -> None:
    """Start capturing what is deleted from tables, and from those that their deletes cascade into.

    Large objects are kept with their rows; paths and URLs enter the outbox when their row is purged (pg_grace files).
    """
    retention = read_interval(connection, "retention", retention)
    wait = read_interval(connection, "wait", wait)
    # A transaction for each, so that none stays locked while the next one's lock is waited for.
    rows = []
    for table in [table_named(connection, name) for name in tables]:
        rows += connection.execute(
            "select protected_table::text as table, buffer::text, status, coalesce(warning, '') as warning"
            " from grace.protect(%s::oid::regclass, %s::interval, not %s, %s::name[], %s::interval, %s::name[])",
            (table, retention, no_cascade, list(excluded), wait, list(files)),
        ).fetchall()
    print_rows(rows, ("table", "buffer", "status", "warning"), settings.output_format)


@click.command()
@click.argument("table")
@click.option("--discard-buffer", is_flag=True, help="Give up what can still be restored.")
@wait_option
@dry_run_option
@yes_option
@connected
def unprotect(
    connection: Connection,
    settings: Settings,  # noqa: ARG001
    *,
    table: str,
    discard_buffer: bool,
    wait: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Stop capturing what is deleted from a table; what is buffered stays restorable until it expires."""
    wait = read_interval(connection, "wait", wait)
    oid = table_named(connection, table)
    row = connection.execute(
        "select buffered_rows from grace.protected"
        " where target = coalesce(pg_partition_root(%(oid)s::oid::regclass), %(oid)s::oid::regclass)",
        {"oid": oid},
    ).fetchone()
    if row is None:
        raise CommandError(
            f"table {table} is not protected\n"
            "DETAIL:  Its deletes are not captured.\n"
            "HINT:  See what is protected: pg_grace tables\n"
            "SQLSTATE: GR001",
            Exit.REFUSED,
        )
    buffered = row["buffered_rows"]
    fate = "would be gone for good" if discard_buffer else "stay restorable until they expire"
    if dry_run:
        held = connection.execute(
            "select count(*) from grace.holds where is_active"
            " and target = coalesce(pg_partition_root(%(oid)s::oid::regclass), %(oid)s::oid::regclass)",
            {"oid": oid},
        ).fetchone()
        if held is not None and held["count"]:
            raise CommandError(
                f"{number_of(held['count'], 'hold')} would stop it\n"
                "HINT:  See them: pg_grace hold list\nSQLSTATE: GR029",
                Exit.REFUSED,
            )
        note(f"would stop capturing deletes from {table}; {buffered} buffered rows {fate}")
        return
    question = f"Stop capturing deletes from {table}? {buffered} buffered rows {fate}."
    confirm(question, yes=yes)
    connection.execute(
        "select grace.unprotect(%s::oid::regclass, %s, %s::interval)",
        (oid, "discard" if discard_buffer else "keep", wait),
    )
    note(f"deletes from {table} are no longer captured")


@click.command()
@click.argument("table", required=False)
@wait_option
@connected
def sync(connection: Connection, settings: Settings, *, table: str | None, wait: str) -> None:
    """Bring triggers, buffers and what is protected up to date with what has become of the tables.

    Event triggers do this at once; it is for where they are missing, or could not.
    """
    wait = read_interval(connection, "wait", wait)
    rows = sync_all(connection, wait) if table is None else _sync(connection, table_named(connection, table), wait)
    print_rows(rows, ("table", "status", "warning"), settings.output_format)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        raise CommandError(f"{failed} tables could not be brought up to date", Exit.FAILED)


def _sync(connection: Connection, table: int, wait: str) -> list[dict[str, Any]]:
    return connection.execute(
        "select protected_table::text as table, status, coalesce(warning, '') as warning"
        " from grace.sync(%s::oid::regclass, %s::interval)",
        (table, wait),
    ).fetchall()


def sync_all(connection: Connection, wait: str) -> list[dict[str, Any]]:
    """Bring everything up to date, each table in a transaction of its own; what fails is a row with its error."""
    connection.execute("select grace._sync_server()")
    rows: list[dict[str, Any]] = []
    for table in connection.execute(
        "select target::oid as oid, target::text as name from grace.protected"
        " where state not in ('unprotected', 'table dropped') order by target_name"
    ).fetchall():
        try:
            found = _sync(connection, table["oid"], wait)
        except psycopg.Error as error:
            found = [{"table": table["name"], "status": "failed", "warning": describe(error)}]
        known = {row["table"] for row in rows}
        rows += [row for row in found if row["table"] not in known]
    return rows
