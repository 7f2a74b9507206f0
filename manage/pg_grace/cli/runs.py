"""runs, run show."""

from __future__ import annotations

from typing import Any

import click

from pg_grace.cli.options import Settings, connected, named
from pg_grace.cli.preview import plain_key
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note, print_record, print_rows
from pg_grace.times import read_time

FAILURES_SHOWN = 10
_COLUMNS = (
    "id",
    "kind",
    "rule",
    "table",
    "started_at",
    "finished_at",
    "duration",
    "status",
    "row_count",
    "failures",
    "role",
    "login",
    "job",
)
_ON_TERMINAL = {
    "id": "id",
    "kind": "kind",
    "rule": "rule",
    "table": "table",
    "started_at": "started at",
    "duration": "duration",
    "status": "status",
    "row_count": "rows",
    "failures": "failures",
    "role": "by",
}
_KINDS = (
    "rule",
    "change",
    "hold",
    "restore",
    "purge",
    "capacity",
    "job",
    "schedule",
    "retention",
    "protect",
    "unprotect",
    "sync",
    "files",
)
_STATES = ("running", "done", "held", "incomplete", "failed", "aborted")
_RUNS = """
    select r.*, r.target::text as table, (r.details ->> 'failures')::bigint as failures
    from grace.runs r
"""


@click.command()
@click.option("--kind", type=click.Choice(_KINDS), metavar="KIND", help=f"Only these: {', '.join(_KINDS)}.")
@click.option("--rule", metavar="NAME", help="Only those of this rule.")
@click.option("--status", type=click.Choice(_STATES), metavar="STATUS", help=f"Only these: {', '.join(_STATES)}.")
@click.option("--since", metavar="TIME", help="Begun at or after: yesterday 10:00.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@connected
def runs(
    connection: Connection,
    settings: Settings,
    *,
    kind: str | None,
    rule: str | None,
    status: str | None,
    since: str | None,
    limit: int,
) -> None:
    """List what was run, restored, purged and changed, newest first."""
    values = {
        "kind": kind,
        "rule": rule,
        "status": status,
        "since": read_time(connection, "since", since),
        "limit": limit + 1,
    }
    rows = connection.execute(
        f"{_RUNS} where (%(kind)s::text is null or kind = %(kind)s) and (%(rule)s::text is null or rule = %(rule)s)"
        " and (%(status)s::text is null or status = %(status)s)"
        " and (%(since)s::timestamptz is null or started_at >= %(since)s) order by id desc limit %(limit)s".encode(),
        values,
    ).fetchall()
    nothing = "" if rows else "there is no such run" if rule is None else _why_none(connection, rule)
    columns = (*_COLUMNS, "details") if settings.output_format == "json" else _COLUMNS
    print_rows(rows[:limit], columns, settings.output_format, _ON_TERMINAL)
    if nothing:
        note(nothing)
    if len(rows) > limit:
        note(f"there are more than these {limit}; narrow the search, or say --limit")


def _why_none(connection: Connection, rule: str) -> str:
    known = connection.execute("select name from grace.rules order by name").fetchall()
    if not connection.execute("select from grace.runs where rule = %s limit 1", (rule,)).fetchall():
        named("rule", rule, known)
    return f'there is no such run of rule "{rule}"'


@click.group()
def run() -> None:
    """Look at one run."""


def failures_of(connection: Connection, number: int, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the records that a run could not act on."""
    return connection.execute(
        "select key, sqlstate, reason from grace.run_failures where run = %s order by key limit %s", (number, limit)
    ).fetchall()


def _what_it_deleted(connection: Connection, number: int) -> dict[str, Any]:
    """Return which deletions a rule's run has made, as far as they can be restored, and until when."""
    row = connection.execute(
        "select min(d.id) as first, max(d.id) as last, min(d.expires_at) as restorable_until"
        " from grace.runs r join grace.deletions d on d.target = coalesce(pg_partition_root(r.target), r.target)"
        " and d.deleted_at between r.started_at and coalesce(r.finished_at, now())"
        " and d.reason = format('rule %%L, run %%s', r.rule, r.id)"
        " where r.id = %s",
        (number,),
    ).fetchone()
    assert row is not None
    which = str(row["first"]) if row["first"] == row["last"] else f"{row['first']} to {row['last']}"
    return {
        "deletions": None if row["first"] is None else which,
        "restorable_until": row["restorable_until"],
    }


@run.command("show")
@click.argument("number", metavar="RUN", type=click.IntRange(1, 2**63 - 1))
@connected
def show(connection: Connection, settings: Settings, *, number: int) -> None:
    """Show a run: when, by whom, how many rows, what failed, its condition as it was then, and the plan.

    A terminal gets the first failures, --format json all of them (up to 10,000).
    """
    found = connection.execute(f"{_RUNS} where r.id = %s".encode(), (number,)).fetchone()
    if found is None:
        raise CommandError(f"there is no run {number}\nHINT:  See what there is: pg_grace runs", Exit.REFUSED)
    details = dict(found["details"])
    plan = details.pop("plan", None)
    facts = {name: found[name] for name in (*_COLUMNS[:-4], "batches", "failures", *_COLUMNS[-3:])}
    shown = {name: value for name, value in details.items() if name not in ("rule", "batches", "failures")}
    if found["kind"] == "rule":
        facts |= _what_it_deleted(connection, number)
    failures = failures_of(connection, number)
    if settings.output_format == "json":
        print_record({**facts, "details": shown, "plan": plan, "failed": failures}, "json")
        return
    print_record({**facts, **shown, "plan": plan and "\n".join(plan)}, settings.output_format)
    if failures and settings.output_format == "table":
        note("\nnot acted on:")
        print_rows(
            [{**row, "key": plain_key(row["key"])} for row in failures[:FAILURES_SHOWN]],
            ("key", "sqlstate", "reason"),
            settings.output_format,
        )
        if len(failures) > FAILURES_SHOWN:
            note(f"and {len(failures) - FAILURES_SHOWN} more; --format json lists them")
