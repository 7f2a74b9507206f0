"""Printing: a rich table on a terminal, plain tab-separated text in a pipe, JSON or CSV when asked for."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import ipaddress
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


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
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def interval(value: datetime.timedelta) -> str:
    """Return a duration as a person reads it: "30 days", "2:00:00"."""
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
    if isinstance(value, decimal.Decimal | ipaddress.IPv4Address | ipaddress.IPv6Address):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def console() -> Console:
    """Return a console for stdout; without colour when NO_COLOR says so."""
    return Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)


def print_rows(rows: Iterable[Row], columns: Sequence[str], output_format: str, *, title: str | None = None) -> None:
    """Print rows: their columns in the order given, and no others."""
    chosen = [{column: row[column] for column in columns} for row in rows]
    if output_format == "json":
        click.echo(json.dumps(chosen, ensure_ascii=False, indent=2, default=_json_value))
    elif output_format == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _csv_value(value) for column, value in row.items()} for row in chosen)
        click.echo(buffer.getvalue(), nl=False)
    elif sys.stdout.isatty():
        _print_table(chosen, columns, title)
    else:
        click.echo("\t".join(columns))
        for row in chosen:
            click.echo("\t".join(_plain(row[column]) for column in columns))


def _csv_value(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, int | str) else _text(value)


def _plain(value: Any) -> str:
    return _text(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _print_table(rows: list[dict[str, Any]], columns: Sequence[str], title: str | None) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        numbers = any(isinstance(row[column], int) and not isinstance(row[column], bool) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    console().print(table)


def note(message: str) -> None:
    """Say something to the person at the terminal: on stderr, so that stdout holds data only."""
    click.echo(message, err=True)
