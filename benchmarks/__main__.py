"""Run the benchmarks: python -m benchmarks [capture|single|cascade|restore|million|picks|…|all] [--rounds 7]."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.capturing import capture, cascade, single
from benchmarks.loading import load
from benchmarks.measure import Result
from benchmarks.picking import million, picks
from benchmarks.pieces import pieces
from benchmarks.purging import purge
from benchmarks.restoring import restore
from benchmarks.ruling import rules
from benchmarks.versions import versions
from pg_grace import migrate
from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect

# All else is PostgreSQL's default. No vacuum or checkpoint comes in between of its own accord: each is called where
# nothing is timed.
SETTINGS = {"autovacuum": "off", "checkpoint_timeout": "'1h'", "max_wal_size": "'8GB'"}
FEWEST_ROUNDS = 5
_Benchmark = Callable[[Connection, int, Cluster], list[Result]]
BENCHMARKS: dict[str, _Benchmark] = {
    "capture": lambda connection, rounds, _: capture(connection, rounds),
    "single": single,
    "cascade": lambda connection, rounds, _: cascade(connection, rounds),
    "restore": lambda connection, rounds, _: restore(connection, rounds),
    "million": lambda connection, rounds, _: million(connection, rounds),
    "picks": lambda connection, rounds, _: picks(connection, rounds),
    "purge": lambda connection, rounds, _: purge(connection, rounds),
    "load": lambda connection, _, cluster: load(connection, cluster),
    "rules": lambda connection, rounds, _: rules(connection, rounds),
    "pieces": lambda connection, rounds, _: pieces(connection, rounds),
}


def main() -> None:
    """Parse, start a cluster, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", nargs="?", choices=[*BENCHMARKS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=7, help=f"at least {FEWEST_ROUNDS}; medians are reported")
    parser.add_argument(
        "--before", metavar="FILE", help="compare the captures with another version: its sql/install.sql"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="a setting of the server"
    )
    arguments = parser.parse_args()
    if arguments.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}")
    settings = SETTINGS | dict(setting.split("=", 1) for setting in arguments.settings)
    chosen = BENCHMARKS if arguments.benchmark == "all" else {arguments.benchmark: BENCHMARKS[arguments.benchmark]}

    with Cluster(settings) as cluster, connect(Target(cluster.conninfo())) as connection:
        migrate.install(connection)
        print(_conditions(connection, settings, arguments.rounds))
        results = []
        if arguments.before:
            results += versions(connection, arguments.rounds, cluster, str(Path(arguments.before).resolve()))
            chosen = {}
        for name, benchmark in chosen.items():
            print(f"{name} ", end="", file=sys.stderr, flush=True)
            results += benchmark(connection, arguments.rounds, cluster)
    print(_table(results))


def _conditions(connection: Connection, settings: dict[str, str], rounds: int) -> str:
    row = connection.execute("select version(), current_setting('shared_buffers') as shared_buffers").fetchone()
    assert row is not None
    return (
        f"{row['version']}\n{_machine()}\n"
        f"{', '.join(f'{name} = {value}' for name, value in settings.items())}; else defaults "
        f"(shared_buffers = {row['shared_buffers']})\n"
        f"medians of {rounds} rounds, variants in turn, after one not counted\n"
    )


def _machine() -> str:
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    load = Path("/proc/loadavg").read_text(encoding="utf-8").split()[0]
    return f"{len(cpus)} x {cpus[0]}, {platform.system()} {platform.release()}, load {load} before"


def _table(results: Sequence[Result]) -> str:
    lines = ["| benchmark | variant | median | ratio | limit | met |", "|---|---|---:|---:|---:|---|"]
    previous = ""
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:.3g}"
        lines.append(
            f"| {result.benchmark if result.benchmark != previous else ''} | {result.variant} "
            f"| {result.value:,.1f} {result.unit} | {ratio} | {result.limit_text} | {result.met} |"
        )
        previous = result.benchmark
    return "\n".join(lines)


if __name__ == "__main__":
    main()
