"""purge."""

from __future__ import annotations

import click

from pg_grace.cli.options import Settings, confirm, connected, dry_run_option, table_named, yes_option
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note, print_rows


@click.command()
@click.argument("table", required=False)
@dry_run_option
@yes_option
@connected
def purge(connection: Connection, settings: Settings, *, table: str | None, dry_run: bool, yes: bool) -> None:
    """Remove for good what is past its retention. pg_cron does it every day."""
    target = None if table is None else table_named(connection, table)
    expired = connection.execute(
        "select coalesce(target::text, target_name) as table, row_count, oldest from grace.expired"
        " where %(target)s::oid is null or target = %(target)s::oid order by 1",
        {"target": target},
    ).fetchall()
    early = [] if target else connection.execute("select * from grace.expiring_early()").fetchall()
    for row in early:
        note(
            f"over capacity: {row['row_count']} rows of {row['target_name']}, deleted up to"
            f" {row['deleted_before'].isoformat(sep=' ', timespec='seconds')}, go before their time"
        )
    if dry_run:
        print_rows(expired, ("table", "row_count", "oldest"), settings.output_format)
        return
    more = f" and {sum(row['row_count'] for row in early)} that go before their time" if early else ""
    confirm(f"Remove {sum(row['row_count'] for row in expired)} expired rows{more} for good?", yes=yes)
    connection.execute("call grace.purge(%s::oid::regclass)", (target,))
    run = connection.execute(
        "select id, status, row_count, duration, details from grace.runs where kind = 'purge' order by id desc limit 1"
    ).fetchone()
    assert run is not None
    print_rows([run], ("id", "status", "row_count", "duration", "details"), settings.output_format)
    if run["status"] != "done":
        what = "was locked, and left to the next run" if run["status"] == "incomplete" else "failed"
        note(f"some of it {what}: see the details above")
        raise CommandError("not everything could be purged", Exit.FAILED)
