"""filter add, alter, list, show, preview, drop."""

from __future__ import annotations

from typing import Any

import click

from pg_grace.cli.options import (
    Settings,
    confirm,
    connected,
    dry_run_option,
    named,
    split_list,
    table_named,
    with_options,
    yes_option,
)
from pg_grace.cli.predicate import Part, condition, values_not_there
from pg_grace.cli.preview import print_preview, sample_option
from pg_grace.connection import Connection
from pg_grace.output import note, number_of, print_record, print_rows

_COLUMNS = ("name", "table", "condition", "rules", "problem", "created_by", "created_at")
_ON_TERMINAL = {"name": "name", "table": "table", "condition": "condition", "rules": "rules", "problem": "problem"}
_PARTS = {
    "is": ("COLUMN=VALUE", "Equals this value."),
    "not": ("COLUMN=VALUE", "Is something else, or empty."),
    "in": ("COLUMN=A,B", 'Equals one of these; one with a comma in quotes: town=Graz,"Linz, Wels".'),
    "older": ("COLUMN=AGE", "Lies longer back: created_at=2y (y, mo, w, d, h, min, or an interval)."),
    "newer": ("COLUMN=AGE", "Lies no longer back."),
    "empty": ("COLUMN", "Has no value."),
    "filled": ("COLUMN", "Has a value."),
}


_PART_OPTIONS = (
    *(
        click.option(f"--{part}", f"part_{part}", multiple=True, metavar=metavar, help=text)
        for part, (metavar, text) in _PARTS.items()
    ),
    click.option("--any", "any_of", is_flag=True, help="One of the parts is enough; otherwise all must hold."),
)
_WHICH_ROWS = f"say which rows: --where CONDITION, or parts: --{', --'.join(_PARTS)}"


@click.group("filter")
def filters() -> None:
    """Save criteria on a table under a name, see what they match, and let rules use them."""


@filters.command("add")
@click.argument("name")
@click.option("--table", required=True, metavar="TABLE", help="The table whose rows it selects.")
@click.option("--where", metavar="CONDITION", help="A condition as behind WHERE; beside parts, both must hold.")
@with_options(_PART_OPTIONS)
@click.option("--columns", metavar="A,B", help="What users know the records by, for previews.")
@dry_run_option
@connected
def add(
    connection: Connection,
    settings: Settings,
    *,
    name: str,
    table: str,
    where: str | None,
    any_of: bool,
    columns: str | None,
    dry_run: bool,
    **given: tuple[str, ...],
) -> None:
    """Save a filter: pg_grace filter add "No interest" --table lead --is status=lost --older created_at=2y.

    Shows the condition as PostgreSQL reads it, how many rows it matches now, and the plan's cost. All parts may be
    given several times.
    """
    target = table_named(connection, table)
    parts = _parts(given)
    if not parts and where is None:
        raise click.UsageError(_WHICH_ROWS)
    predicate = condition(connection, target, parts, any_of=any_of, where=where)
    with connection.transaction(force_rollback=dry_run):
        row = connection.execute(
            "select %(name)s as name, %(target)s::oid::regclass::text as table, condition, row_count, cost"
            " from grace.add_filter(%(name)s, %(target)s::oid::regclass, %(predicate)s, %(columns)s::name[])",
            {"name": name, "target": target, "predicate": predicate, "columns": split_list(columns or "")},
        ).fetchone()
    assert row is not None
    print_record(row, settings.output_format)
    _say_how_many(connection, name, row["row_count"], target, parts, dry_run=dry_run)


def _parts(given: dict[str, tuple[str, ...]]) -> list[Part]:
    return [Part(part, text) for part in _PARTS for text in given[f"part_{part}"]]


def _say_how_many(
    connection: Connection, name: str, count: int, target: int, parts: list[Part], *, dry_run: bool
) -> None:
    would = "would match" if dry_run else "matches"
    note(f'filter "{name}" {would} {number_of(count, "row")} now')
    if not count:
        for unknown in values_not_there(connection, target, parts):
            note(unknown)


@filters.command("alter")
@click.argument("name")
@click.option("--rename", metavar="NAME", help="Its new name.")
@click.option("--where", metavar="CONDITION", help="A condition as behind WHERE; beside parts, both must hold.")
@with_options(_PART_OPTIONS)
@click.option("--columns", metavar="A,B", help="What users know the records by, for previews.")
@dry_run_option
@connected
def alter(
    connection: Connection,
    settings: Settings,
    *,
    name: str,
    rename: str | None,
    where: str | None,
    any_of: bool,
    columns: str | None,
    dry_run: bool,
    **given: tuple[str, ...],
) -> None:
    """Give a filter another condition, name or columns: pg_grace filter alter "No interest" --is status=lost.

    Conditions replace the one that was there, in all rules that use the filter.
    """
    target = int(_named(connection, name)["oid"])
    parts = _parts(given)
    if not parts and where is None and columns is None and rename is None:
        raise click.UsageError(f"say what to change: --rename, --columns, or {_WHICH_ROWS}")
    values = {
        "name": name,
        "predicate": condition(connection, target, parts, any_of=any_of, where=where)
        if parts or where is not None
        else None,
        "columns": None if columns is None else split_list(columns),
        "rename": rename,
    }
    with connection.transaction(force_rollback=dry_run):
        row = connection.execute(
            "select coalesce(%(rename)s, %(name)s) as name, condition, row_count, cost"
            " from grace.alter_filter(%(name)s, %(predicate)s, %(columns)s::name[], %(rename)s)",
            values,
        ).fetchone()
    assert row is not None
    print_record(row, settings.output_format)
    _say_how_many(connection, row["name"], row["row_count"], target, parts, dry_run=dry_run)


def _named(connection: Connection, name: str) -> dict[str, Any]:
    rows = connection.execute(
        "select *, target::text as table, target::oid as oid from grace.filters order by name"
    ).fetchall()
    return named("filter", name, rows)


@filters.command("list")
@connected
def list_filters(connection: Connection, settings: Settings) -> None:
    """List the filters."""
    rows = connection.execute("select *, target::text as table from grace.filters order by name").fetchall()
    if settings.output_format != "json":
        rows = [{**row, "rules": ", ".join(row["rules"] or ())} for row in rows]
    print_rows(rows, _COLUMNS, settings.output_format, _ON_TERMINAL)
    if not rows:
        note("there are no filters; pg_grace filter add")


@filters.command("show")
@click.argument("name")
@connected
def show(connection: Connection, settings: Settings, *, name: str) -> None:
    """Show a filter: the condition as it was given and as PostgreSQL reads it, and the rules that use it."""
    row = _named(connection, name)
    shown = ("name", "table", "predicate", "condition", "columns", "rules", "problem", "created_by", "created_at")
    print_record({part: row[part] for part in shown}, settings.output_format)


@filters.command("preview")
@click.argument("name")
@sample_option
@connected
def preview(connection: Connection, settings: Settings, *, name: str, sample: int) -> None:
    """Show what deleting all that a filter matches would do: rows, what goes along, what stands in the way.

    Nothing is changed. With your rights and row security; a rule's preview has those of the rule's role.
    """
    print_preview(connection, settings, "filter", name, sample)


@filters.command("drop")
@click.argument("name")
@yes_option
@connected
def drop(connection: Connection, settings: Settings, *, name: str, yes: bool) -> None:  # noqa: ARG001
    """Forget a filter that no rule uses."""
    _named(connection, name)
    confirm(f'Forget filter "{name}"?', yes=yes)
    connection.execute("select grace.drop_filter(%s)", (name,))
    note(f'filter "{name}" is forgotten')
