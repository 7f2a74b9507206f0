"""files list, files sweep."""

from __future__ import annotations

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
        self.root = self._real(path).rstrip("/")

    def _real(self, path: str) -> str:
        # A link in a folder may lead out of the root.
        if self.local:
            folder, name = posixpath.split(path.rstrip("/"))
            return posixpath.join(posixpath.realpath(folder), name)
        return posixpath.normpath(path)

    def path(self, file: str) -> str:
        """Return where a file is that a column refers to: under the root, by its URL, or by its absolute path.

        Raises OutsideOfRootError for one that would be elsewhere.
        """
        protocol = file.split("://", 1)[0] if "://" in file else None
        if protocol is not None:
            if protocol not in _protocols(self.filesystem):
                raise OutsideOfRootError(f"not a file of this store: {protocol}://")
            path = str(self.filesystem._strip_protocol(file))
        elif file.startswith("/") and self.local and self._real(file).startswith(self.root + "/"):
            path = file
        else:
            path = f"{self.root}/{file.lstrip('/')}"
        path = self._real(posixpath.normpath(path))
        if not path.startswith(self.root + "/"):
            raise OutsideOfRootError(f"outside of {self.root}")
        return path

    def delete(self, file: str) -> bool:
        """Delete a file; return whether it was there. Raises OSError when it can't be deleted."""
        path = self.path(file)
        try:
            if not self.filesystem.lexists(path):
                return False
            if self.filesystem.isdir(path):
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
    deleted = missing = failed = 0
    tried: set[int] = set()
    while True:
        claimed = connection.execute("select id, file from grace.claim_files(%s)", (_BATCH,)).fetchall()
        fresh = [row for row in claimed if row["id"] not in tried]
        for row in fresh:
            tried.add(row["id"])
            try:
                if store.delete(row["file"]):
                    deleted += 1
                else:
                    missing += 1
                connection.execute("select grace.file_deleted(%s)", (row["id"],))
            except (OSError, OutsideOfRootError) as error:
                failed += 1
                note(f"{row['file']}: {error}")
                connection.execute("select grace.file_deleted(%s, %s)", (row["id"], str(error)))
        if not fresh:
            break
    summary = {"deleted": deleted, "missing": missing, "failed": failed}
    print_rows([summary], ("deleted", "missing", "failed"), settings.output_format)
    if failed:
        raise CommandError(f"{failed} files could not be deleted; they stay in the outbox", Exit.FAILED)
