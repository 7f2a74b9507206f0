"""The demo runs to its end, with pg_cron really firing, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def test_the_demo_runs_and_cleans_up() -> None:
    # A folder that only the demo uses; the server's own system user has to get into it.
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "pg_grace", "demo"],
        env={**os.environ, "TMPDIR": str(folder)},
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
    assert "call grace.purge()" in done.stdout
    assert "succeeded" in done.stdout
    assert "psql -h 127.0.0.1" in done.stdout
    folder.rmdir()  # it is empty
