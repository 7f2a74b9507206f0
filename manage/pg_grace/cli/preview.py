"""What a preview of a rule or filter looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from pg_grace.cli.options import Settings
from pg_grace.connection import Connection
from pg_grace.output import note, number_of, print_record, print_rows, to_json

P = ParamSpec("P")
R = TypeVar("R")

_CALL = (
    "select target::text as table, action, condition, run_as, row_count, deletes, token, would_be_held, exempt, held,"
    " kept, not_announced, takes, cost, sample, cascades, blocked"
    " from grace.preview({kind} => %s, sample => %s, details => %s)"
)
BLOCKED_SHOWN = 100  # grace.preview() names no more of them
_LISTS = ("sample", "cascades", "blocked")


def sample_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add --sample."""
    return click.option(
        "--sample", type=click.IntRange(min=0), default=10, show_default=True, help="Show so many of the records."
    )(command)


def preview(connection: Connection, kind: str, name: str, sample: int = 0, *, details: bool = True) -> dict[str, Any]:
    """Return what a run of a rule, or deleting what a filter matches, would do now; kind is rule or filter."""
    row = connection.execute(_CALL.format(kind=kind).encode(), (name, sample, details)).fetchone()
    assert row is not None
    return {**row, **{part: row[part] or [] for part in _LISTS}}


def goes_along(found: dict[str, Any]) -> list[str]:
    """Return what a deletion does to other tables than its own: "70 rows of crm.email"."""
    return [
        f"{'at least ' if part['at_least'] else ''}"
        f"{'an unknown number of rows' if part['rows'] is None else number_of(part['rows'], 'row')} of {part['table']}"
        f"{'' if part['effect'] == 'deleted' else ' (link cut)'}"
        for part in found["cascades"]
        if part["through"] is not None
    ]


def print_preview(connection: Connection, settings: Settings, kind: str, name: str, sample: int) -> None:
    """Print a preview: what there is to say of all rows, a sample, what goes along, and what stands in the way."""
    found = preview(connection, kind, name, sample)
    if settings.output_format == "csv":
        print_rows([found], list(found), "csv")
        return
    if settings.output_format == "json":
        print_record(found, "json")
        return
    facts = {part: value for part, value in found.items() if part not in _LISTS}
    if found["action"] == "keep":
        facts["keeps"] = facts.pop("row_count")
    print_record(facts, settings.output_format)
    if found["sample"]:
        note(f"\nthe first {number_of(len(found['sample']), 'record')} of {found['row_count']}:")
        named = connection.execute(f"select columns from grace.{kind}s where name = %s".encode(), (name,)).fetchone()
        columns = named["columns"] if named else []
        heading = {column: f"record's {column}" if column in ("key", "due") else column for column in columns}
        rows = [
            {
                "key": plain_key(row["key"]),
                **{heading[column]: row["record"][column] for column in columns},
                **({"due": row["due"]} if "due" in row else {}),
            }
            for row in found["sample"]
        ]
        print_rows(rows, list(rows[0]), settings.output_format)
    if found["cascades"]:
        note("\nwhat goes, and what goes along:")
        always = ("table", "rows", "effect", "protected")
        columns = [
            part
            for part in ("table", "rows", "at_least", "effect", "through", "protected", "reason")
            if part in always or any(row[part] for row in found["cascades"])
        ]
        print_rows(found["cascades"], columns, settings.output_format)
    if found["blocked"]:
        note("\nwhat stands in the way (such records stay; they don't stop the others):")
        print_rows(
            [{**record, "key": plain_key(record["key"])} for record in found["blocked"]],
            ("key", "reason"),
            settings.output_format,
        )


def plain_key(key: Any) -> Any:
    """Return a key as --key takes it: 7, or order_id=7,line=2; as JSON where that would be read as something else."""
    if not isinstance(key, dict):
        return key
    values = list(key.values())
    if any(value is None or (isinstance(value, str) and set(value) & set("=,{")) for value in values):
        return to_json(key)
    return values[0] if len(values) == 1 else ",".join(f"{name}={value}" for name, value in key.items())
