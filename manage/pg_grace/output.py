"""Printing: a rich table on a terminal, plain tab-separated text in a pipe, JSON or CSV when asked for."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import ipaddress
import json
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

# A table that needs more than this many times the terminal's width is printed record by record.
_WIDEST_FOLDED = 1.7


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, datetime.timedelta):
        return interval(value)
    if isinstance(value, dict | list):
        return to_json(value)
    return f"{value:f}" if isinstance(value, decimal.Decimal) else str(value)


def interval(value: datetime.timedelta) -> str:
    """Return a duration as a person reads it: "30 days", "2:00:00", "0.025 s"."""
    if value.microseconds and value < datetime.timedelta(minutes=1):
        return f"{value.total_seconds():.3f} s"
    days, rest = value.days, datetime.timedelta(seconds=value.seconds)
    words = f"{days} day{'' if days == 1 else 's'}" if days else ""
    return f"{words} {rest}".strip() if rest or not days else words


def size(number: int) -> str:
    """Return a number of bytes as a person reads it."""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:  # noqa: PLR2004
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.0f} TB"


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return f"\0{value:f}\0"
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON in which a Decimal is a number with all its digits.

    Python's encoder knows no such numbers, so they go through it between NULs, which no PostgreSQL text contains.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_json_value)
    return re.sub(r'"\\u0000([^"]*)\\u0000"', r"\1", text)


def console() -> Console:
    """Return a console for stdout; without colour when NO_COLOR says so."""
    return Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False, markup=False, emoji=False)


def print_rows(
    rows: Iterable[Row], columns: Sequence[str], output_format: str, on_terminal: Mapping[str, str] | None = None
) -> None:
    """Print rows: their columns in the order given, and no others.

    on_terminal names the columns that a table on a terminal has room for, with their headings.
    """
    chosen = [{column: row[column] for column in columns} for row in rows]
    if output_format == "json":
        click.echo(to_json(chosen, indent=2))
    elif output_format == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_value(row[column]) for column in columns] for row in chosen)
        click.echo(buffer.getvalue(), nl=False, color=True)  # or click takes escape sequences out of values
    elif sys.stdout.isatty():
        if on_terminal:
            chosen = [{heading: row[column] for column, heading in on_terminal.items()} for row in chosen]
            columns = list(on_terminal.values())
        _print_table(chosen, columns)
    else:
        click.echo("\t".join(columns))
        for row in chosen:
            click.echo("\t".join(_plain(row[column]) for column in columns))


def print_record(record: Row, output_format: str) -> None:
    """Print one thing: a line for each of its parts that has a value, as JSON an object with all of them."""
    if output_format == "json":
        click.echo(to_json(dict(record), indent=2))
        return
    rows = [
        {"what": what.replace("_", " "), "value": _text(value) if isinstance(value, int) else value}
        for what, value in record.items()
        if value not in (None, [])
    ]
    if output_format == "table" and sys.stdout.isatty():
        _print_folded(console(), rows, ("what", "value"))
    else:
        print_rows(rows, ("what", "value"), output_format)


def _csv_value(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, int | str) else _text(value)


def _plain(value: Any) -> str:
    return escaped(_text(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n"))


def escaped(text: str) -> str:
    """Return text in which control characters are spelled out, for they would speak to the terminal."""
    text = text.replace("\r", "\\r")
    return "".join(
        f"\\x{ord(char):02x}" if unicodedata.category(char) == "Cc" and char not in "\t\n" else char for char in text
    )


def _terminal_text(value: Any) -> str:
    text = value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime.datetime) else _text(value)
    return escaped(text)


def _print_table(rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    columns = [column for column in columns if not rows or any(row[column] not in (None, "") for row in rows)]
    widths = (max(len(column), *(len(_terminal_text(row[column])) for row in rows), 0) + 3 for column in columns)
    out = console()
    if rows and sum(widths) > _WIDEST_FOLDED * out.width:
        _print_records(out, rows, columns)
    else:
        _print_folded(out, rows, columns)


def _print_folded(out: Console, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    table = Table(header_style="bold")
    for column in columns:
        numbers = any(isinstance(row[column], int) and not isinstance(row[column], bool) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_terminal_text(row[column])) for column in columns))
    out.print(table)


def _print_records(out: Console, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print each row as a block of its own, as psql's expanded display does, when a table would be too wide."""
    for number, row in enumerate(rows, start=1):
        table = Table(title=f"{number} of {len(rows)}", title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for column in columns:
            if row[column] is not None:
                table.add_row(column, Text(_terminal_text(row[column])))
        out.print(table)


def quoted(name: str) -> str:
    """Return a name as a shell takes it."""
    return shlex.quote(name)


def number_of(count: int, thing: str) -> str:
    """Return "1 row", "2 rows"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def note(message: str) -> None:
    """Say something to the person at the terminal: on stderr, so that stdout holds data only."""
    click.echo(message, err=True)
