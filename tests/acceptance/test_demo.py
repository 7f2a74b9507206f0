"""The demo runs to its end, with pg_cron really firing or with tick in its place, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.conftest import Database

from pg_grace.cluster import packaged_binaries
from pg_grace.demo import Demo


def run_demo(**environment: str) -> subprocess.CompletedProcess[str]:
    # A folder that only the demo uses; the server's own system user has to get into it.
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "pg_grace", "demo"],
        env={**os.environ, **environment, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "238 rows are back" in done.stderr
    assert "the checksums agree" in done.stdout
    assert "psql -h 127.0.0.1" in done.stdout
    folder.rmdir()  # it is empty
    return done


def test_the_demo_runs_and_cleans_up() -> None:
    done = run_demo()
    assert "call grace.purge()" in done.stdout
    assert "succeeded" in done.stdout
    assert "no pg_cron" not in done.stdout


def test_the_demo_runs_on_the_wheels_server_with_tick() -> None:
    packaged = packaged_binaries()
    assert packaged is not None
    done = run_demo(PG_GRACE_BINDIR=str(packaged))
    assert "This server has no pg_cron." in done.stdout
    (purged,) = [line for line in done.stdout.splitlines() if line.split("\t")[1:4] == ["purge", "done", "25"]]
    assert "$ pg_grace tick" in done.stdout.partition(purged)[0]


def test_where_there_is_no_psql_the_demos_statements_are_sent_without_it(
    empty_db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Demo(pause=False)
    demo.connect_to(empty_db.conninfo, {"PATH": ""})
    demo.query("create table public.t as select 7 as id, 'seven' as name", "select * from public.t")
    assert capsys.readouterr().out.splitlines() == [
        "crm=> create table public.t as select 7 as id, 'seven' as name;",
        "SELECT 1",
        "crm=> select * from public.t;",
        "id\tname",
        "7\tseven",
        "",
    ]
