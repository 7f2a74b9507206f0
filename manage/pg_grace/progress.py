"""A progress bar for restores and runs that take longer than a second, and what Ctrl-C makes of them."""

from __future__ import annotations

import abc
import sys
import threading
import time
from types import TracebackType
from typing import Any, ClassVar, Self

import psycopg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pg_grace.connection import Connection, Target, connect
from pg_grace.errors import CommandError, Exit

_SECONDS_BEFORE_SHOWN = 1.0
_SECONDS_BETWEEN_LOOKS = 0.3


class _RateColumn(ProgressColumn):
    """Rows per second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")


class _Progress(abc.ABC):
    """Show on stderr how many rows are done, while something is in this context; on a terminal only."""

    doing: ClassVar[str]

    def __init__(self, target: Target, total: int | None = None) -> None:
        self._target = target
        self._total = total
        self._done = threading.Event()
        self._start = time.monotonic()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start watching."""
        self._start = time.monotonic()
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop watching and take the bar away; raises CommandError with what was done up to a Ctrl-C."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if isinstance(error, KeyboardInterrupt):
            raise CommandError(self._outcome(), Exit.INTERRUPTED) from error

    def _watch(self) -> None:
        with connect(self._target) as connection:
            start = self._count(connection)
            if self._done.wait(_SECONDS_BEFORE_SHOWN):
                return
            with Progress(
                TextColumn(self.doing),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rows"),
                _RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            ) as bar:
                task = bar.add_task(self.doing, total=self._total)
                while not self._done.wait(_SECONDS_BETWEEN_LOOKS):
                    completed = self._count(connection) - start
                    bar.update(task, completed=completed, total=self._total)

    @abc.abstractmethod
    def _count(self, connection: Connection) -> int:
        """Return how many rows are done, counted from anywhere."""

    @abc.abstractmethod
    def _outcome(self) -> str:
        """Say what was done: the statement is cancelled by now, or it was faster than that."""


class RestoreProgress(_Progress):
    """The progress of a restore.

    The rows of an open transaction can't be seen from outside, but the restore counts them with a sequence, and a
    sequence can. Its total is shared by all restores that run at the same time.
    """

    doing = "restoring"

    def _count(self, connection: Connection) -> int:
        row = connection.execute("select grace._restore_progress() as count").fetchone()
        assert row is not None
        return int(row["count"])

    def _outcome(self) -> str:
        elapsed = time.monotonic() - self._start
        try:
            with connect(self._target) as connection:
                row = connection.execute(
                    "select max(id) as run from grace.runs where kind = 'restore' and login = session_user"
                    " and started_at > pg_catalog.clock_timestamp() - %s * interval '1 second'",
                    (elapsed,),
                ).fetchone()
        except psycopg.Error:
            return "interrupted; whether the restore was done meanwhile can't be told"
        if row is None or row["run"] is None:
            return "interrupted: nothing was restored"
        return f"interrupted, but run {row['run']} was done meanwhile"


class RunProgress(_Progress):
    """The progress of a rule's run, the first one after the run of that number: it writes down each batch."""

    doing = "deleting"

    def __init__(self, target: Target, after: int, rule: str) -> None:
        super().__init__(target)
        self._which = (after, rule)

    def _run(self, connection: Connection) -> dict[str, Any] | None:
        return connection.execute(
            "select id, status, row_count, (details ->> 'acting')::bigint as wanted from grace.runs"
            " where id > %s and kind = 'rule' and rule = %s order by id limit 1",
            self._which,
        ).fetchone()

    def _count(self, connection: Connection) -> int:
        row = self._run(connection)
        if row is None:
            return 0
        self._total = row["wanted"]
        return int(row["row_count"])

    def _outcome(self) -> str:
        try:
            with connect(self._target) as connection:
                row = self._run(connection)
        except psycopg.Error:
            return "interrupted; how far the run has come is in pg_grace runs"
        if row is None:
            return "interrupted: nothing was deleted"
        return f"interrupted: run {row['id']} had deleted {row['row_count']} of {row['wanted']} rows; the next goes on"
