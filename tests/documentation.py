"""Runs the console blocks of a document on a terminal and puts what they print in.

`python -m tests.documentation README.md` writes the file anew.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pexpect

from pg_grace.cluster import Cluster

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_VARIABLE = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d(\.\d+)?)?([+-]\d\d(:\d\d)?)?( \([\w/]+\))?"), "TIME"),
    (re.compile(r"\b\d+\.\d{3} s\b"), "DURATION"),
)


class Shell:
    """One shell on a terminal of its own, as a reader of the document has it."""

    def __init__(self, cluster: Cluster) -> None:
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("PG")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(cluster.port),
            "PGUSER": cluster.superuser,
            "PSQL_PAGER": "cat",
            "PSQLRC": "/dev/null",
            "TERM": "xterm",
            "NO_COLOR": "1",
            "PS1": "",
            "TZ": "UTC",
        }
        self._bash = pexpect.spawn(
            "bash", ["--norc", "--noprofile"], cwd=str(ROOT), env=environment, encoding="utf-8", dimensions=(50, 118)
        )
        self._bash.setecho(False)
        self.run("bind 'set enable-bracketed-paste off' 2>/dev/null; PS1=; stty -echo")

    def run(self, command: str) -> str:
        """Run one command line; return what it printed."""
        self._bash.sendline(f"{command}\necho '<'do'ne>'")
        self._bash.expect_exact("<done>", timeout=120)
        printed = _ESCAPE.sub("", str(self._bash.before)).replace("\r", "").strip("\n")
        return "\n".join(line.rstrip() for line in printed.split("\n"))


def replay(text: str) -> str:
    """Return a document with the output of all its console blocks as it is now."""
    with Cluster(
        {"shared_preload_libraries": "'pg_cron'", "cron.database_name": "'crm'", "cron.use_background_workers": "on"}
    ) as cluster:
        shell = Shell(cluster)

        def block(match: re.Match[str]) -> str:
            printed = []
            for line in match.group(1).split("\n"):
                if line.startswith("$ "):
                    output = shell.run(line[2:])
                    printed.append(line + ("\n" + output if output else ""))
            return "```console\n" + "\n".join(printed) + "\n```\n"

        return _BLOCK.sub(block, text)


def without_variables(text: str) -> str:
    """Return a document with times and durations made alike."""
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = ROOT / name
        path.write_text(replay(path.read_text(encoding="utf-8")), encoding="utf-8")
