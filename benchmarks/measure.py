"""Timing variants of the same work in turn, and what is reported of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pg_grace.connection import Connection

Medians = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """One way to do the work: prepare() is not timed; run() is, and may return seconds that it measured itself."""

    name: str
    prepare: Callable[[], object]
    run: Callable[[], float | None]


@dataclass(frozen=True)
class Result:
    """One line of the report; value is in unit, ratio is to the first variant.

    The limit is what ratio, or where there is none the value, may be at most.
    """

    benchmark: str
    variant: str
    value: float
    unit: str
    ratio: float | None = None
    limit: float | None = None
    limit_text: str = ""

    @property
    def met(self) -> str:
        """Whether the limit is kept, in words; nothing where there is none."""
        if self.limit is None:
            return ""
        return "yes" if (self.value if self.ratio is None else self.ratio) <= self.limit else "no"


def interleaved(connection: Connection, variants: Sequence[Variant], rounds: int) -> Medians:
    """Time every variant once per round, in turn, after one round that does not count; return medians in seconds.

    A checkpoint before each run keeps the writing of one out of the next. It also means that a page is logged whole
    when it is first changed, as it is in life, where deleted rows are older than the last checkpoint.
    """
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for number in range(rounds + 1):
        for variant in variants:
            variant.prepare()
            connection.execute("checkpoint")
            start = time.perf_counter()
            own = variant.run()
            elapsed = time.perf_counter() - start if own is None else own
            if number > 0:
                times[variant.name].append(elapsed)
        print(".", end="", file=sys.stderr, flush=True)
    for name, values in times.items():
        print(f"\n  {name}: {', '.join(f'{value * 1000:.4g}' for value in values)} ms", end="", file=sys.stderr)
    print(file=sys.stderr)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(
    benchmark: str, medians: Medians, limits: Mapping[str, float], *, per: int = 1, unit: str = "ms"
) -> list[Result]:
    """Return a line per variant, with the ratio to the first one; per divides, for times per statement."""
    base = next(iter(medians.values()))
    scale = {"ms": 1e3, "µs": 1e6}[unit] / per
    return [
        Result(
            benchmark,
            name,
            value * scale,
            unit,
            value / base,
            limits.get(name),
            f"{limits[name]:g}" if name in limits else "",
        )
        for name, value in medians.items()
    ]


def no_slower(benchmark: str, medians: Medians, name: str, than: str) -> Result:
    """Return a line that holds one variant against another instead of against the first."""
    ratio = medians[name] / medians[than]
    return Result(benchmark, f"{name} to {than}", medians[name] * 1e3, "ms", ratio, 1.0, "1")
