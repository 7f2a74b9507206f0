"""A throwaway PostgreSQL cluster in a temporary folder, on a free port: for the demo and for tests.

It never touches a server that is there. PostgreSQL refuses to run as root, so root starts it as the system user
postgres.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pg_grace.errors import CommandError, Exit

_DEBIAN_BINARIES = Path("/usr/lib/postgresql")
_TESTED_VERSIONS = range(18, 14, -1)


def binaries() -> Path:
    """Return the folder of initdb and pg_ctl: $PG_GRACE_BINDIR, Debian's newest, or where initdb is on the path."""
    given = os.environ.get("PG_GRACE_BINDIR")
    if given:
        return Path(given)
    for version in _TESTED_VERSIONS:
        folder = _DEBIAN_BINARIES / str(version) / "bin"
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    if found is None:
        raise CommandError(
            "PostgreSQL's server programs are not here\nHINT:  apt-get install postgresql postgresql-15-cron",
            Exit.FAILED,
        )
    return Path(found).resolve().parent


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """initdb, start, and at the end stop and remove: a context manager."""

    superuser = "postgres"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pg_grace-"))
        self.binaries = binaries()
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "log"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the cluster's owner; raises CommandError with what it said."""
        done = subprocess.run(
            [*self._as_user, str(self.binaries / program), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            log = self.log.read_text() if self.log.exists() else ""
            raise CommandError(f"{program} failed\n{done.stdout}{done.stderr}{log}", Exit.FAILED)

    def create(self) -> None:
        """Make the data directory and its configuration."""
        if self._as_user:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self.run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            self.superuser,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": f"'{self.folder}'",
            **self.settings,
        }
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.run("pg_ctl", "-D", str(self.data), "-l", str(self.log), "-w", "-s", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; mode "immediate" is a crash."""
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-s", "stop")

    def conninfo(self, dbname: str = "postgres") -> str:
        """Return a connection string for the superuser."""
        return f"host=127.0.0.1 port={self.port} user={self.superuser} dbname={dbname}"

    def __enter__(self) -> Cluster:
        """Create and start."""
        try:
            self.create()
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop and remove."""
        try:
            if (self.data / "postmaster.pid").exists():
                self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def has_pg_cron() -> bool:
    """Whether pg_cron's library is installed beside these server programs."""
    done = subprocess.run([str(binaries() / "pg_config"), "--pkglibdir"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and (Path(done.stdout.strip()) / "pg_cron.so").exists()
