"""files list, files sweep."""

from __future__ import annotations

import os.path
import posixpath
from typing import Any

import click
import fsspec

from pg_grace.cli.options import Settings, confirm, connected, dry_run_option, yes_option
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note, print_rows

_BATCH = 100


@click.group()
def files() -> None:
    """Delete files outside the database whose rows have been purged."""


@files.command("list")
@connected
def list_files(connection: Connection, settings: Settings) -> None:
    """List the files that can be deleted now."""
    rows = connection.execute(
        "select id, target as table, column_name as column, file, deleted_at, purged_at, attempts, error"
        " from grace.file_outbox order by id"
    ).fetchall()
    print_rows(
        rows,
        ("id", "table", "column", "file", "deleted_at", "purged_at", "attempts", "error"),
        settings.output_format,
    )


class OutsideOfRootError(ValueError):
    """A path that does not lie under the root it was to be deleted from."""


class Store:
    """Where the files are: a folder, or a bucket with a prefix, as fsspec knows it."""

    def __init__(self, root: str) -> None:
        try:
            self.filesystem, path = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise CommandError(
                f"can't reach {root}: {error}\nHINT:  Install what fsspec needs for it, for example: pip install s3fs",
                Exit.FAILED,
            ) from error
        self.local = "file" in _protocols(self.filesystem)
        self.root = (posixpath.realpath(path) if self.local else path).rstrip("/")
        if self.local and not self.filesystem.isdir(path):
            raise CommandError(
                f"{path} is no folder\n"
                "DETAIL:  Every file would be taken for one that is deleted already.\n"
                "HINT:  Give the folder that the paths in the columns start from.",
                Exit.FAILED,
            )

    def _real(self, path: str) -> str:
        # A link in a folder may lead out of the root. Elsewhere names are just names, and other than they look at most.
        if self.local:
            folder, name = posixpath.split(posixpath.normpath(path))
            return posixpath.join(posixpath.realpath(folder), name)
        return path

    def path(self, file: str) -> str:
        """Return where a file is that a column refers to: under the root, by its URL, or by its absolute path.

        Raises OutsideOfRootError for one that would be elsewhere.
        """
        protocol = file.split("://", 1)[0] if "://" in file else None
        if protocol is not None:
            if protocol not in _protocols(self.filesystem):
                raise OutsideOfRootError(f"not a file of this store: {protocol}://")
            path = str(self.filesystem._strip_protocol(file))
        elif self.local and file.startswith("/") and (self._is_below(self._real(file)) or os.path.lexists(file)):
            path = file
        else:
            path = f"{self.root}/{file.lstrip('/')}"
        path = self._real(path)
        if not self._is_below(path):
            raise OutsideOfRootError(f"outside of {self.root}")
        return path

    def _is_below(self, path: str) -> bool:
        return path.startswith(self.root + "/") and ".." not in path.split("/")

    def delete(self, file: str) -> bool:
        """Delete a file; return whether it was there. Raises OSError when it can't be deleted."""
        path = self.path(file)
        try:
            if not self.filesystem.lexists(path):
                return False
            if self.filesystem.isdir(path) and not (self.local and self.filesystem.islink(path)):
                raise IsADirectoryError("is a directory")
            self.filesystem.rm_file(path)
        except FileNotFoundError:
            return False
        return True


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@files.command()
@click.option(
    "--root",
    required=True,
    metavar="DIR|URL",
    help="Where the files are: a folder, or s3://bucket/prefix and whatever else fsspec knows. Nothing outside of it"
    " is ever deleted.",
)
@dry_run_option
@yes_option
@connected
def sweep(connection: Connection, settings: Settings, *, root: str, dry_run: bool, yes: bool) -> None:
    """Delete the files in the outbox from where they are kept.

    A file that a row still refers to, live or restorable, stays. One that can't be deleted stays in the outbox with the
    reason, for the next sweep. Two sweeps at once share the work.
    """
    store = Store(root)
    waiting = connection.execute("select id, file from grace.file_outbox order by id").fetchall()
    if dry_run:
        rows = []
        for row in waiting:
            try:
                rows.append({**row, "path": store.path(row["file"]), "error": None})
            except OutsideOfRootError as error:
                rows.append({**row, "path": None, "error": str(error)})
        print_rows(rows, ("id", "file", "path", "error"), settings.output_format)
        return
    confirm(f"Delete {len(waiting)} files under {root} for good?", yes=yes)
    deleted = missing = 0
    failed: dict[int, str] = {}  # reported at the end: until then they stay claimed, or they would come again
    while claimed := connection.execute("select id, file from grace.claim_files(%s)", (_BATCH,)).fetchall():
        for row in claimed:
            try:
                if store.delete(row["file"]):
                    deleted += 1
                else:
                    missing += 1
            except (OSError, OutsideOfRootError) as error:
                failed[row["id"]] = str(error)
                note(f"{row['file']}: {error}")
            else:
                connection.execute("select grace.file_deleted(%s)", (row["id"],))
    for number, error_text in failed.items():
        connection.execute("select grace.file_deleted(%s, %s)", (number, error_text))
    summary = {"deleted": deleted, "missing": missing, "failed": len(failed)}
    print_rows([summary], ("deleted", "missing", "failed"), settings.output_format)
    if failed:
        raise CommandError(f"{len(failed)} files could not be deleted; they stay in the outbox", Exit.FAILED)
