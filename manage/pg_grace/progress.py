"""A progress bar for restores that take longer than a second."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pg_grace.connection import Connection, Target, connect

_SECONDS_BEFORE_SHOWN = 1.0
_SECONDS_BETWEEN_LOOKS = 0.3


class RestoreProgress:
    """Show on stderr how many rows a restore has inserted, while it is in this context; on a terminal only.

    The rows of an open transaction can't be seen from outside, but the restore counts them with a sequence, and a
    sequence can. Its total is shared by all restores that run at the same time.
    """

    def __init__(self, target: Target, total: int | None) -> None:
        self._target = target
        self._total = total
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RestoreProgress:
        """Start watching."""
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop watching and take the bar away."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with connect(self._target) as connection:
            start = _count(connection)
            if self._done.wait(_SECONDS_BEFORE_SHOWN):
                return
            with Progress(
                TextColumn("restoring"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rows"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            ) as bar:
                task = bar.add_task("restoring", total=self._total)
                while not self._done.wait(_SECONDS_BETWEEN_LOOKS):
                    bar.update(task, completed=_count(connection) - start)


def _count(connection: Connection) -> int:
    row = connection.execute("select grace._restore_progress() as count").fetchone()
    assert row is not None
    return int(row["count"])
