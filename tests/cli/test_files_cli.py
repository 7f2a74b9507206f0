"""protect --file, files list and files sweep: what is deleted, what must never be, and what is said about it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server


@pytest.fixture(scope="module")
def shared(server: Server, template: str) -> Iterator[Database]:
    """One database, with table document, for all tests."""
    with _new_database(server, template) as database:
        database.connect().execute("create table document (id int generated always as identity primary key, path text)")
        database.cli("protect", "document", "--file", "path")
        yield database


@pytest.fixture
def conn(shared: Database) -> Iterator[Connection]:
    connection = shared.connect()
    for table in ("document", "grace_buffer.document", "grace_internal.capture", "grace_internal.outbox"):
        connection.execute(f"delete from {table}".encode())
    yield connection
    connection.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder to sweep; beside it is what must stay."""
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    (tmp_path / "files-too").write_text("precious")
    return folder


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's file system in this process's memory."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists("/bucket"):
        filesystem.rm("/bucket", recursive=True)
    if filesystem.exists("/other"):
        filesystem.rm("/other", recursive=True)


def post(conn: Connection, *files: str) -> None:
    """Let rows with these paths be deleted, expire and be purged."""
    conn.execute("insert into document (path) select unnest(%s::text[])", (list(files),))
    conn.execute("delete from document where path = any (%s)", (list(files),))
    by = timedelta(hours=24 * 31)
    conn.execute("update grace_buffer.document set grace_deleted_at = grace_deleted_at - %s", (by,))
    conn.execute("update grace_internal.capture set deleted_at = deleted_at - %s", (by,))
    conn.execute("call grace.purge()")
    assert set(files) <= set(outbox(conn))


def outbox(conn: Connection) -> dict[str, str | None]:
    """Return the files that are left, each with its error."""
    return dict(rows(conn, "select file, error from grace.file_outbox order by id"))


def sweep(database: Database, root: Path | str, *options: str, code: int = 0) -> dict[str, int]:
    result = database.cli("--format", "json", "files", "sweep", "--root", str(root), "--yes", *options, code=code)
    (summary,) = json.loads(result.stdout)
    counts: dict[str, int] = summary
    return counts


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def done(deleted: int = 0, missing: int = 0, failed: int = 0) -> dict[str, int]:
    return {"deleted": deleted, "missing": missing, "failed": failed}


def test_protect_takes_columns_with_files_and_refuses_others(shared: Database, conn: Connection) -> None:
    conn.execute("create table photo (id int primary key, img oid, path text, size int)")
    result = shared.cli("protect", "photo", "--file", "img", "--file", "size", code=4)
    assert "SQLSTATE: GR020" in result.stderr
    assert "DETAIL:  Its type is integer." in result.stderr
    assert "HINT:" in result.stderr
    shared.cli("protect", "photo", "--file", "img", "--file", "path")
    (loid,) = rows(conn, "insert into photo values (1, lo_from_bytea(0, 'x'), 'a') returning img")[0]
    conn.execute("delete from photo")
    conn.execute("select lo_unlink(%s)", (loid,))
    shared.cli("restore", "photo", "--key", "1")
    assert value(conn, "select lo_get(%s)", loid) == b"x"
    shared.cli("unprotect", "photo", "--discard-buffer", "--yes")


AWKWARD = [
    "with space.txt",
    " begins and ends ",
    "new\nline.txt",
    "tab\tand \\ backslash",
    "100%.txt",
    "a%20b%2F..%2Fc.txt",
    "Übergröße 文件 🗑.txt",
    "-rf",
    "*",
    "[a-z]?",
    "#1;'quoted\".txt",
    "~",
    "~root/x",
    "a:b::c",
    ".hidden",
    "...",
    "deep/er/and/deeper.txt",
]


def test_list_shows_what_can_be_deleted_in_every_format(shared: Database, conn: Connection) -> None:
    post(conn, *AWKWARD)
    columns = ["id", "table", "column", "file", "deleted_at", "purged_at", "attempts", "error"]
    listed: list[dict[str, Any]] = json.loads(shared.cli("--format", "json", "files", "list").stdout)
    assert {row["file"] for row in listed} == set(AWKWARD)
    assert [list(row) for row in listed] == [columns] * len(AWKWARD)
    assert {(row["table"], row["column"], row["attempts"], row["error"]) for row in listed} == {
        ("document", "path", 0, None)
    }
    printed = shared.cli("--format", "csv", "files", "list").stdout
    read = list(csv.DictReader(io.StringIO(printed, newline="")))
    assert {row["file"] for row in read} == set(AWKWARD)
    lines = shared.cli("files", "list").stdout.splitlines()
    assert lines[0] == "\t".join(columns)
    assert len(lines) == len(AWKWARD) + 1
    assert any("\tnew\\nline.txt\t" in line for line in lines)


def test_list_shows_nothing_before_the_purge(shared: Database, conn: Connection) -> None:
    conn.execute("insert into document (path) values ('a'); delete from document")
    assert json.loads(shared.cli("--format", "json", "files", "list").stdout) == []


def test_a_sweep_deletes_the_files_and_no_others(shared: Database, conn: Connection, root: Path) -> None:
    write(root, *AWKWARD, "stays.txt", "deep/er/stays.txt")
    post(conn, *AWKWARD)
    assert sweep(shared, root) == done(deleted=len(AWKWARD))
    assert files_below(root) == {"stays.txt", "deep/er/stays.txt"}
    assert outbox(conn) == {}
    assert sweep(shared, root) == done()


@pytest.mark.parametrize(
    "form",
    [
        "dir/a%20b.txt",
        "./dir/a%20b.txt",
        "dir//a%20b.txt",
        "dir/../dir/./a%20b.txt",
        "/dir/a%20b.txt",
        "{root}/dir/a%20b.txt",
        "{root}/../files/dir/a%20b.txt",
        "file://{root}/dir/a%20b.txt",
        "local://{root}/dir/a%20b.txt",
    ],
)
@pytest.mark.parametrize("given", ["{root}", "{root}/", "file://{root}", "{root}/../link"])
def test_a_path_counts_from_the_root_or_is_absolute_or_a_url(
    shared: Database, conn: Connection, root: Path, form: str, given: str
) -> None:
    """The link leads to the root: a root may be one."""
    (root.parent / "link").symlink_to(root)
    write(root, "dir/a%20b.txt")
    conn.execute(
        "insert into grace_internal.outbox (protected_id, target_name, column_name, file, deleted_at)"
        " values (1, 'document', 'path', %s, now())",
        (form.format(root=root),),
    )
    assert sweep(shared, given.format(root=root)) == done(deleted=1)
    assert files_below(root) == set()


def test_nothing_outside_of_the_root_is_ever_deleted(shared: Database, conn: Connection, root: Path) -> None:
    outside = root.parent / "outside"
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    wrong = [
        "../outside/precious",
        "a/../../outside/precious",
        "../files-too",
        "out/precious",
        "up/outside/precious",
        "up/files-too",
        f"{outside}/precious",
        f"{root}-too",
        f"{root}/../outside/precious",
        f"{root}/out/precious",
        f"file://{outside}/precious",
        f"file://{root}/../outside/precious",
        f"file://{root}-too",
        "..",
        ".",
        "/",
        str(root),
        "memory://precious",
        "s3://bucket/precious",
        "http://localhost/precious",
    ]
    write(root, "good")
    post(conn, *wrong, "good")
    before = files_below(root.parent)
    assert sweep(shared, root, code=1) == done(deleted=1, failed=len(wrong))
    assert files_below(root.parent) == before - {"files/good"}
    left = outbox(conn)
    assert set(left) == set(wrong)
    for error in left.values():
        assert error is not None
        assert error.startswith(("outside of ", "not a file of this store: "))


def test_a_link_is_deleted_and_not_what_it_leads_to(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "target", "dir/inside")
    (root / "to-file").symlink_to("target")
    (root / "to-folder").symlink_to("dir")
    (root / "to-outside").symlink_to(root.parent / "outside" / "precious")
    (root / "to-nothing").symlink_to("nothing")
    post(conn, "to-file", "to-folder", "to-outside", "to-nothing")
    assert sweep(shared, root) == done(deleted=4)
    assert files_below(root) == {"target", "dir/inside"}
    assert (root.parent / "outside" / "precious").exists()


def test_what_is_not_there_any_more_is_done_with(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "file")
    post(conn, "gone", "no/such/folder/gone", "file/gone", "x" * 300, "/gone", f"{root}/gone")
    assert sweep(shared, root) == done(missing=6)
    assert outbox(conn) == {}
    assert files_below(root) == {"file"}


def test_a_folder_stays_with_all_that_is_in_it(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "dir/file", "good")
    (root / "empty").mkdir()
    post(conn, "dir", "empty", "empty/", "good")
    result = shared.cli("files", "sweep", "--root", str(root), "--yes", code=1)
    assert "dir: is a directory" in result.stderr
    assert "3 files could not be deleted; they stay in the outbox" in result.stderr
    assert result.stdout.splitlines() == ["deleted\tmissing\tfailed", "1\t0\t3"]
    assert outbox(conn) == dict.fromkeys(["dir", "empty", "empty/"], "is a directory")
    assert files_below(root) == {"dir/file"}
    assert (root / "empty").is_dir()


def test_what_can_t_be_deleted_stays_with_the_reason_and_each_sweep_counts(
    shared: Database, conn: Connection, root: Path
) -> None:
    """Not even root can unlink a file of /proc."""
    write(root, "version")
    post(conn, "version", "nothing of that name")
    assert sweep(shared, "/proc", code=1) == done(missing=1, failed=1)
    state = "select file, attempts, claimed_until, error from grace.file_outbox"
    ((file, attempts, claimed, error),) = rows(conn, state)
    assert (file, attempts, claimed) == ("version", 1, None)
    assert "/proc/version" in error
    sweep(shared, "/proc", code=1)
    assert rows(conn, state) == [("version", 2, None, error)]
    (listed,) = json.loads(shared.cli("--format", "json", "files", "list").stdout)
    assert (listed["attempts"], listed["error"]) == (2, error)
    assert sweep(shared, root) == done(deleted=1)
    assert outbox(conn) == {}


def test_a_file_that_a_row_still_refers_to_stays(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "live", "buffered", "free")
    post(conn, "live", "buffered", "free")
    conn.execute(
        "insert into document (path) values ('live'), ('buffered'); delete from document where path = 'buffered'"
    )
    assert sweep(shared, root) == done(deleted=1)
    assert files_below(root) == {"live", "buffered"}
    assert outbox(conn) == {}


def test_a_sweep_goes_on_behind_more_files_than_it_claims_at_once(
    shared: Database, conn: Connection, root: Path
) -> None:
    referenced, free = [f"r{n}" for n in range(110)], [f"x{n}" for n in range(110)]
    write(root, *referenced, *free)
    post(conn, *referenced, *free)
    conn.execute("insert into document (path) select unnest(%s::text[])", (referenced,))
    assert sweep(shared, root) == done(deleted=110)
    assert files_below(root) == set(referenced)


def test_a_dry_run_shows_what_would_happen_and_changes_nothing(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "dir/good")
    post(conn, "dir/good", "../outside/precious")
    before = rows(conn, "select * from grace.file_outbox order by id")
    result = shared.cli("--format", "json", "files", "sweep", "--root", str(root), "--dry-run")
    shown = {row["file"]: (row["path"], row["error"]) for row in json.loads(result.stdout)}
    assert shown == {
        "dir/good": (f"{root}/dir/good", None),
        "../outside/precious": (None, f"outside of {root}"),
    }
    assert rows(conn, "select * from grace.file_outbox order by id") == before
    assert files_below(root) == {"dir/good"}


def test_without_a_terminal_and_without_yes_nothing_is_deleted(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "file")
    post(conn, "file")
    result = shared.cli("files", "sweep", "--root", str(root), code=4)
    assert f"Delete 1 files under {root} for good?" in result.stderr
    assert "--yes" in result.stderr
    assert files_below(root) == {"file"}
    assert rows(conn, "select file, attempts from grace.file_outbox") == [("file", 0)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonsense://bucket", "nonsense"),
        ("{root}/mistyped", "is no folder"),
        ("{root}/file", "is no folder"),
        ("file://{root}/mistyped", "is no folder"),
    ],
)
@pytest.mark.parametrize("option", ["--yes", "--dry-run"])
def test_a_root_that_can_t_be_is_an_error_and_no_file_counts_as_missing(
    shared: Database, conn: Connection, root: Path, given: str, said: str, option: str
) -> None:
    write(root, "file")
    post(conn, "file")
    result = shared.cli("files", "sweep", "--root", given.format(root=root), option, code=1)
    assert said in result.stderr
    assert "HINT:" in result.stderr
    assert "Traceback" not in result.output
    assert rows(conn, "select file, attempts from grace.file_outbox") == [("file", 0)]


def test_a_sweep_needs_a_root(shared: Database) -> None:
    assert "--root" in shared.cli("files", "sweep", "--yes", code=2).stderr


@pytest.mark.parametrize("given", ["memory://bucket", "memory://bucket/", "memory:///bucket", "memory://"])
def test_a_bucket_is_swept_by_key_and_by_url(
    shared: Database, conn: Connection, memory: fsspec.AbstractFileSystem, given: str
) -> None:
    prefix = "" if given.endswith("bucket/") or given.endswith("bucket") else "bucket/"
    keys = ["a.txt", "dir/b c.txt", "100%.txt", "文件", "url.txt"]
    for key in [*keys, "dir/stays"]:
        memory.pipe(f"/bucket/{key}", b"x")
    files = [f"{prefix}{key}" for key in keys[:-1]]
    post(conn, *files, "memory://bucket/url.txt", f"{prefix}missing")
    assert sweep(shared, given) == done(deleted=5, missing=1)
    assert memory.find("/bucket") == ["/bucket/dir/stays"]
    assert outbox(conn) == {}


def test_nothing_outside_of_the_prefix_of_a_bucket_is_deleted(
    shared: Database, conn: Connection, memory: fsspec.AbstractFileSystem
) -> None:
    wrong = ["../other/precious", "memory://other/precious", "memory://bucket/../other/precious", "memory://bucket"]
    wrong += ["file:///etc/hostname", "memory://bucket-too/precious", "dir"]
    for path in ("/other/precious", "/bucket/good", "/bucket/dir/inside"):
        memory.pipe(path, b"x")
    post(conn, *wrong, "good")
    assert sweep(shared, "memory://bucket", code=1) == done(deleted=1, failed=len(wrong))
    assert memory.exists("/other/precious")
    assert memory.find("/bucket") == ["/bucket/dir/inside"]
    assert set(outbox(conn)) == set(wrong)


def test_a_key_of_a_bucket_is_a_name_and_not_a_path_to_tidy_up(
    shared: Database, conn: Connection, memory: fsspec.AbstractFileSystem
) -> None:
    memory.pipe("/bucket/dir/file", b"another file")
    post(conn, "dir//file", "dir/./file")
    assert sweep(shared, "memory://bucket") == done(missing=2)
    assert memory.exists("/bucket/dir/file")


def test_two_sweeps_at_once_share_the_files(shared: Database, conn: Connection, root: Path) -> None:
    names = [f"f{n}" for n in range(450)]
    write(root, *names)
    post(conn, *names)
    command = [sys.executable, "-c", "from pg_grace.cli import main; main()", "-d", shared.conninfo, "--format", "json"]
    command += ["files", "sweep", "--root", str(root), "--yes"]

    def run(_: int) -> dict[str, int]:
        finished = subprocess.run(command, check=True, capture_output=True, text=True)
        counts: dict[str, int] = json.loads(finished.stdout)[0]
        return counts

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(run, range(2)))
    assert sum(count["deleted"] for count in counts) == len(names)
    assert [(count["missing"], count["failed"]) for count in counts] == [(0, 0)] * 2
    assert files_below(root) == set()
    assert outbox(conn) == {}


def test_a_file_that_another_sweep_has_claimed_is_left_to_it(shared: Database, conn: Connection, root: Path) -> None:
    write(root, "theirs", "ours")
    post(conn, "theirs", "ours")
    claimed = value(conn, "select file from grace.claim_files(1)")
    assert sweep(shared, root) == done(deleted=1)
    assert files_below(root) == {claimed}
    assert list(outbox(conn)) == [claimed]
