"""metrics."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from psycopg import pq

from pg_grace.cli.options import Settings, connected
from pg_grace.connection import Connection, Target
from pg_grace.errors import CommandError, Exit
from pg_grace.output import Row, note, print_rows

_COLUMNS = ("subject", "name", "type", "help", "labels", "value")
_FAMILIES = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


class _Samples(Collector):
    """What was read from grace.metrics, sorted by name, as metrics with their samples."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = rows

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Give each metric with all its samples."""
        for (name, kind, text), rows in itertools.groupby(self.rows, itemgetter("name", "type", "help")):
            family = _FAMILIES[kind](name, text)
            for row in rows:
                family.add_sample(name, row["labels"], row["value"])
            yield family


def exposition(rows: Iterable[Row]) -> bytes:
    """Return rows of grace.metrics, sorted by name, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Samples(rows))
    return generate_latest(registry)


@connected
def _read(connection: Connection, _settings: Settings) -> Sequence[Row]:
    return connection.execute("select * from grace.metrics order by name, labels").fetchall()


def _database_asked_for(target: Target) -> str:
    """Return the name of the database as libpq would have it, without asking a server; "" where it can't tell."""
    values: dict[str, str] = {}
    with contextlib.suppress(CommandError):
        for option in (*pq.Conninfo.get_defaults(), *pq.Conninfo.parse(target.conninfo().encode())):
            if option.val:
                values[option.keyword.decode()] = option.val.decode()
    return values.get("dbname") or values.get("user", "")


def _down(target: Target) -> list[dict[str, Any]]:
    return [
        {
            "name": "pg_grace_up",
            "type": "gauge",
            "help": "Whether the metrics of the database could be read.",
            "labels": {"datname": _database_asked_for(target)},
            "value": 0,
        }
    ]


def _replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another at once, so that nobody reads half of it."""
    # The collector of node_exporter reads *.prom only.
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent, delete=False) as file:
        written = Path(file.name)
        try:
            file.write(content)
            file.flush()
            written.chmod(0o644)
            written.replace(path)
        except OSError:
            written.unlink(missing_ok=True)
            raise


def _write(path: Path, content: bytes) -> None:
    """Write the file. Raises CommandError when that can't be."""
    reason = None
    if path.exists() and not path.is_file():
        reason = "it is no ordinary file"
    else:
        try:
            _replace(path, content)
        except OSError as error:
            reason = error.strerror or str(error)
    if reason is not None:
        raise CommandError(
            f"can't write {path}: {reason}\n"
            "HINT:  It is written beside the old file and renamed, which takes write permission on the folder.",
            Exit.FAILED,
        )


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a file for node_exporter's textfile collector (*.prom), readable by everybody.",
)
@click.pass_obj
def metrics(settings: Settings, *, output: Path | None) -> None:
    """Print what monitoring should know, in Prometheus's text format.

    It takes membership in grace_auditor. With --format json or csv the rows of grace.metrics are printed. --output
    replaces the file at once. When the metrics can't be read, it says pg_grace_up 0 and nothing else, and the exit code
    is what it is without: 3 when there is no connection.
    """
    try:
        rows = _read()
    except CommandError:
        if output is not None:
            try:
                _write(output, exposition(_down(settings.target)))
            except CommandError as error:
                note(f"the old file is still there: {error.format_message()}")
        raise
    if output is not None:
        _write(output, exposition(rows))
    elif settings.output_format == "table":
        click.echo(exposition(rows), nl=False)
    else:
        print_rows(rows, _COLUMNS, settings.output_format)
