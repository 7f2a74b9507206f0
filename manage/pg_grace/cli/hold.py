"""hold add, hold list, hold release."""

from __future__ import annotations

import click

from pg_grace.cli.options import (
    Settings,
    confirm,
    connected,
    dry_run_option,
    read_interval,
    read_keys,
    table_named,
    wait_option,
    yes_option,
)
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import escaped, note, print_rows, to_json
from pg_grace.times import read_time

_LIST = """
select h.id, coalesce(h.target::text, h.target_name) as table, h.key, h.reason, h.case_number as case, h.until,
  h.held_at, h.held_by, h.released_at, h.released_by, h.release_reason, h.is_active
from grace.holds h
where (%(all)s or h.is_active)
  and (%(table)s::oid is null or h.target = coalesce(pg_partition_root(%(table)s::oid::regclass), %(table)s::oid))
  and (%(ids)s::bigint[] is null or h.id = any (%(ids)s::bigint[]))
order by h.id
"""
_COLUMNS = ("id", "table", "key", "reason", "case", "until", "held_at", "held_by")
_RELEASED = ("is_active", "released_at", "released_by", "release_reason")


@click.group()
def hold() -> None:
    """Hold records: nothing deletes, overwrites or purges them until they are released."""


@hold.command("add")
@click.argument("table")
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY", help="A primary key: 7, or id=7,line=2.")
@click.option("--reason", required=True, metavar="TEXT", help="Why: whoever is refused a delete is told.")
@click.option("--case", "case_number", metavar="TEXT", help="A case number, told with it.")
@click.option("--until", metavar="TIME", help="From then on it no longer holds; without, until it is released.")
@wait_option
@connected
def add_hold(
    connection: Connection,
    settings: Settings,
    *,
    table: str,
    keys: tuple[str, ...],
    reason: str,
    case_number: str | None,
    until: str | None,
    wait: str,
) -> None:
    """Hold records of a protected table, live or deleted: all that are named, or none.

    What hangs on a record is held only if it is named, too.
    """
    wait = read_interval(connection, "wait", wait)
    oid = table_named(connection, table)
    ends = read_time(connection, "until", until)
    held = connection.execute(
        "select hold from grace.hold(%s::oid::regclass, %s::jsonb, %s, %s, %s::timestamptz, %s::interval) as hold",
        (oid, read_keys(keys), reason, case_number, ends, wait),
    ).fetchall()
    ids = [row["hold"] for row in held]
    rows = connection.execute(_LIST.encode(), {"all": True, "table": None, "ids": ids}).fetchall()
    print_rows(rows, _COLUMNS, settings.output_format)
    note("what hangs on a record is held only if it is named, too")


@hold.command("list")
@click.option("--table", metavar="TABLE", help="Only of this table.")
@click.option("--all", "with_ended", is_flag=True, help="Also those that were released or whose time has passed.")
@connected
def list_holds(connection: Connection, settings: Settings, *, table: str | None, with_ended: bool) -> None:
    """List what is held."""
    oid = None if table is None else table_named(connection, table)
    rows = connection.execute(_LIST.encode(), {"all": with_ended, "table": oid, "ids": None}).fetchall()
    print_rows(rows, (*_COLUMNS, *_RELEASED) if with_ended else _COLUMNS, settings.output_format)


@hold.command("release")
@click.argument("hold_id", type=click.IntRange(1, 2**63 - 1), metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why it is released.")
@dry_run_option
@yes_option
@connected
def release_hold(
    connection: Connection,
    settings: Settings,  # noqa: ARG001
    *,
    hold_id: int,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Release a hold: its record can be deleted again, and what is overdue of it goes with the next purge."""
    row = connection.execute(_LIST.encode(), {"all": True, "table": None, "ids": [hold_id]}).fetchone()
    if row is None:
        raise CommandError(
            f"there is no hold {hold_id}\nHINT:  See what is held: pg_grace hold list\nSQLSTATE: 22023", Exit.REFUSED
        )
    record = f"{row['table']} {escaped(to_json(row['key']))}: {escaped(row['reason'])}"
    if dry_run:
        with connection.transaction(force_rollback=True):
            connection.execute("select grace.release(%s, %s)", (hold_id, reason))
        note(f"would release hold {hold_id} on {record}")
        return
    confirm(f"Release hold {hold_id} on {record}?", yes=yes)
    connection.execute("select grace.release(%s, %s)", (hold_id, reason))
    note(f"hold {hold_id} is released")
