"""restore."""

from __future__ import annotations

from typing import Any

import click

from pg_grace.cli.options import (
    Settings,
    connected,
    dry_run_option,
    read_keys,
    selection_options,
    table_named,
)
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note, print_rows, to_json
from pg_grace.progress import RestoreProgress
from pg_grace.times import read_window

_CALL = (
    "select run, restored_table::text as table, restored, conflicts"
    " from grace.restore(%(target)s::oid::regclass, %(deletion)s::bigint, %(keys)s::jsonb, %(from)s::timestamptz,"
    " %(to)s::timestamptz, %(by)s::name, %(related)s, %(dry_run)s)"
)


@click.command()
@click.argument("table", required=False)
@selection_options
@click.option("--alone", is_flag=True, help="Only the rows selected, not what went with them.")
@dry_run_option
@connected
def restore(
    connection: Connection,
    settings: Settings,
    *,
    table: str | None,
    deletion: int | None,
    keys: tuple[str, ...],
    deleted_from: str | None,
    deleted_to: str | None,
    around: str | None,
    deleted_by: str | None,
    alone: bool,
    dry_run: bool,
) -> None:
    """Put deleted rows back, with everything that went with them: all of it, or nothing.

    A conflict (a key that is taken, a parent that is missing) stops everything, and every conflict is listed.
    """
    target = None if table is None else table_named(connection, table)
    begins, ends = read_window(connection, deleted_from, deleted_to, around)
    selection: dict[str, Any] = {
        "target": target,
        "deletion": deletion,
        "keys": read_keys(keys),
        "from": begins,
        "to": ends,
        "by": deleted_by,
        "related": not alone,
        "dry_run": dry_run,
    }
    if dry_run:
        rows = connection.execute(_CALL, selection).fetchall()
        conflicts = _conflicts(rows)
        print_rows(
            [{**row, "conflicts": len(row["conflicts"])} for row in rows],
            ("table", "restored", "conflicts"),
            settings.output_format,
        )
        for line in conflicts:
            note(line)
        if conflicts:
            raise CommandError(f"{len(conflicts)} conflicts would stop this restore", Exit.REFUSED)
        return
    connection.execute("select set_config('grace.progress', 'on', false)")
    with RestoreProgress(settings.target, _total(connection, selection)):
        rows = connection.execute(_CALL, selection).fetchall()
    print_rows(rows, ("table", "restored"), settings.output_format)
    note(f"run {rows[0]['run']}: {sum(row['restored'] for row in rows)} rows are back")


def _total(connection: Connection, selection: dict[str, Any]) -> int | None:
    """Return how many rows a whole deletion still has; None for a selection that must be looked for first."""
    if selection["deletion"] is None or selection["target"] is not None:
        return None
    row = connection.execute(
        "select sum(row_count - restored_count)::bigint as total from grace.deletions where id = %(deletion)s",
        selection,
    ).fetchone()
    return None if row is None else row["total"]


def _conflicts(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['table']} {to_json(conflict['key'])}: {conflict['reason']} ({conflict['constraint']})"
        for row in rows
        for conflict in row["conflicts"]
    ]
