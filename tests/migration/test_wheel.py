"""The wheel, installed outside the checkout, is the whole product."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from pg_grace import __version__, files, migrate
from tests.conftest import Database, rows
from tests.migration.conftest import schema_dump

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of: nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("manage", "sql", "migrations", "examples"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source / name)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=source, check=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it; its dependencies are borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps", "-q", wheel],
        check=True,
    )
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.suffix != ".pth" and not (packages / package.name).exists():
            (packages / package.name).symlink_to(package)
    return folder


def run(environment: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(environment / "bin" / "pg_grace"), *arguments],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_carries_sql_migrations_and_examples(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"pg_grace/_files/{path.relative_to(CHECKOUT)}"
        for folder in ("sql", "migrations", "examples/crm")
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(expected) > 40
    assert expected <= inside


def test_the_wheel_has_no_tests_and_no_caches(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in inside if "__pycache__" in name or name.startswith("tests")]


def test_the_installed_command_runs_from_the_wheel_and_not_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "--version")
    assert done.stdout.strip() == f"pg_grace, version {__version__}", done.stderr
    where = subprocess.run(
        [str(environment / "bin" / "python"), "-I", "-c", "import pg_grace.files as f; print(f.root())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip().startswith(str(environment))
    assert where.stdout.strip() != str(files.root())


def test_the_installed_command_prints_the_same_script(environment: Path, tmp_path: Path) -> None:
    assert run(environment, tmp_path, "install", "--sql").stdout == migrate.script()


def test_the_installed_command_installs_and_uninstalls(environment: Path, tmp_path: Path, empty_db: Database) -> None:
    before = schema_dump(empty_db)
    done = run(environment, tmp_path, "-d", empty_db.conninfo, "install")
    assert done.returncode == 0, done.stderr
    assert rows(empty_db.connect(), "select version_num from grace.alembic_version") == [(migrate.newest_revision(),)]
    done = run(environment, tmp_path, "-d", empty_db.conninfo, "uninstall", "--yes")
    assert done.returncode == 0, done.stderr
    assert schema_dump(empty_db) == before
