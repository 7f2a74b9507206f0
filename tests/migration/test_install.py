"""Installing: over a connection or with psql the same database, all of it or nothing, and gone without a trace."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pg_grace import files, migrate
from tests.conftest import Database, rows, value
from tests.migration.conftest import APPLICATION, psql, schema_dump

PROTECT_ALL = ("protect", "shop.customer", 'shop."Order"', "shop.item", "shop.audit")


@pytest.fixture
def application(empty_db: Database) -> Database:
    empty_db.connect().execute(APPLICATION.encode())
    return empty_db


def protected_application(database: Database) -> None:
    database.cli("install")
    database.cli(*PROTECT_ALL)


def test_install_makes_the_newest_revision_and_the_three_schemas(empty_db: Database) -> None:
    result = empty_db.cli("install")
    conn = empty_db.connect()
    assert rows(conn, "select version_num from grace.alembic_version") == [(migrate.newest_revision(),)]
    assert rows(conn, "select nspname::text from pg_namespace where nspname like 'grace%%' order by 1") == [
        ("grace",),
        ("grace_buffer",),
        ("grace_internal",),
    ]
    assert result.stdout == ""
    assert "is installed" in result.stderr


def test_install_twice_changes_nothing(empty_db: Database) -> None:
    empty_db.cli("install")
    once = schema_dump(empty_db)
    result = empty_db.cli("install")
    assert "was installed already" in result.stderr
    assert schema_dump(empty_db) == once
    assert value(empty_db.connect(), "select count(*) from grace.alembic_version") == 1


def test_install_again_keeps_what_is_protected_and_buffered(application: Database) -> None:
    protected_application(application)
    conn = application.connect()
    conn.execute("delete from shop.customer where id = 1")
    application.cli("install")
    assert value(conn, "select count(*) from grace.protected where state = 'capturing'") == 4
    application.cli("restore", "--deletion", "1")
    assert value(conn, "select count(*) from shop.item") == 9


def test_install_again_keeps_the_grants_users_gave(db: Database, role: Callable[[str], str]) -> None:
    name = role("reader")
    conn = db.connect()
    conn.execute(f"grant select on grace.deletions to {name}")
    conn.execute(f"grant execute on procedure grace.purge(regclass) to {name}")
    db.cli("install")
    assert value(conn, "select has_table_privilege(%s, 'grace.deletions', 'select')", name)
    assert value(conn, "select has_function_privilege(%s, 'grace.purge(regclass)', 'execute')", name)


def test_install_that_fails_in_the_middle_leaves_nothing(empty_db: Database) -> None:
    conn = empty_db.connect()
    conn.execute("create schema grace")
    conn.execute("create view grace.deletions as select 1 as something_else")
    before = schema_dump(empty_db)
    result = empty_db.cli("install", code=1)
    assert "SQLSTATE: 42P16" in result.stderr
    assert schema_dump(empty_db) == before


def test_two_installs_at_once_make_one_installation(empty_db: Database) -> None:
    start = threading.Barrier(2)

    def install() -> str:
        with empty_db.connect() as connection:
            start.wait()
            return migrate.install(connection)

    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(install) for _ in range(2)]]
    assert results[0] == results[1]
    assert value(empty_db.connect(), "select count(*) from grace.alembic_version") == 1
    empty_db.cli("status")


def test_two_installs_that_meet_wait_for_each_other(empty_db: Database) -> None:
    first, second = empty_db.connect(), empty_db.connect()
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            script = migrate.script().replace("\\set ON_ERROR_STOP on", "").replace("begin;", "", 1)
            first.execute(script.rpartition("commit;")[0].encode())
            other = pool.submit(migrate.install, second)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.5)
        other.result(timeout=20)
    assert value(first, "select count(*) from grace.alembic_version") == 1


def test_the_printed_script_makes_the_same_database_as_install(
    empty_db: Database, other_empty_db: Database, third_empty_db: Database
) -> None:
    empty_db.cli("install")
    printed = other_empty_db.cli("install", "--sql").stdout
    for database, arguments, stdin in (
        (other_empty_db, ("-v", "ON_ERROR_STOP=1", "-f", "-"), printed),
        (third_empty_db, ("-f", str(files.root() / "sql" / "install.sql")), None),
    ):
        done = psql(database, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert schema_dump(database) == schema_dump(empty_db)
        assert rows(database.connect(), "select * from grace.alembic_version") == [(migrate.newest_revision(),)]


def test_a_database_installed_by_psql_is_one_that_pg_grace_works_with(application: Database) -> None:
    assert psql(application, "-f", str(files.root() / "sql" / "install.sql")).returncode == 0
    application.cli(*PROTECT_ALL)
    conn = application.connect()
    conn.execute("delete from shop.customer where id = 2")
    application.cli("install")
    application.cli("restore", "--deletion", "1")
    assert value(conn, "select count(*) from shop.item") == 9


def test_printing_the_script_changes_nothing(empty_db: Database) -> None:
    before = schema_dump(empty_db)
    empty_db.cli("install", "--sql")
    assert schema_dump(empty_db) == before


def test_install_sql_in_the_repository_is_up_to_date() -> None:
    assert files.sql("install.sql") == migrate.script(), "pg_grace install --sql > sql/install.sql"


def test_install_sql_twice_is_refused_and_changes_nothing(db: Database) -> None:
    before = schema_dump(db)
    done = psql(db, "-v", "VERBOSITY=verbose", "-f", str(files.root() / "sql" / "install.sql"))
    assert done.returncode == 3
    assert "GR018" in done.stderr
    assert "pg_grace upgrade" in done.stderr
    assert schema_dump(db) == before


@pytest.mark.parametrize("arguments", [("install",), ("upgrade",), ("upgrade", "--sql")])
def test_a_database_of_a_newer_pg_grace_is_refused(db: Database, arguments: tuple[str, ...]) -> None:
    db.connect().execute("update grace.alembic_version set version_num = '9999'")
    before = schema_dump(db)
    result = db.cli(*arguments, code=4)
    assert "SQLSTATE: GR018" in result.stderr
    assert "DETAIL:" in result.stderr
    assert "HINT:" in result.stderr
    assert schema_dump(db) == before
    assert rows(db.connect(), "select version_num from grace.alembic_version") == [("9999",)]


def test_upgrade_puts_functions_and_views_back_as_this_version_has_them(db: Database) -> None:
    before = schema_dump(db)
    conn = db.connect()
    conn.execute(
        "create or replace function grace_internal.caller() returns name language sql as $$ select 'x'::name $$"
    )
    conn.execute("comment on view grace.deletions is 'something else'")
    assert schema_dump(db) != before
    db.cli("upgrade")
    assert schema_dump(db) == before


def test_the_upgrade_script_runs_in_psql(db: Database) -> None:
    before = schema_dump(db)
    db.connect().execute("comment on view grace.deletions is 'something else'")
    done = psql(db, "-f", "-", stdin=db.cli("upgrade", "--sql").stdout)
    assert done.returncode == 0, done.stderr
    assert schema_dump(db) == before


def test_the_upgrade_script_is_refused_by_a_database_at_another_revision(db: Database) -> None:
    script = db.cli("upgrade", "--sql").stdout
    db.connect().execute("update grace.alembic_version set version_num = '0000'")
    done = psql(db, "-v", "VERBOSITY=verbose", "-f", "-", stdin=script)
    assert done.returncode == 3
    assert "GR018" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("upgrade",), ("uninstall", "--yes"), ("status",), ("tables",), ("protect", "t")]
)
def test_a_database_without_pg_grace_is_refused_with_what_to_do(empty_db: Database, arguments: tuple[str, ...]) -> None:
    result = empty_db.cli(*arguments, code=4)
    assert "pg_grace is not installed in this database" in result.stderr


def test_uninstall_leaves_the_schema_as_it_was(application: Database) -> None:
    before = schema_dump(application)
    protected_application(application)
    assert schema_dump(application) != before
    application.cli("uninstall", "--yes")
    assert schema_dump(application) == before


def test_uninstall_by_psql_leaves_the_schema_as_it_was(application: Database) -> None:
    before = schema_dump(application)
    protected_application(application)
    script = str(files.root() / "sql" / "uninstall" / "uninstall.sql")
    done = psql(application, "-v", "ON_ERROR_STOP=1", "-f", script)
    assert done.returncode == 0, done.stderr
    assert schema_dump(application) == before


def test_uninstall_leaves_tables_that_work(application: Database) -> None:
    protected_application(application)
    application.cli("uninstall", "--yes")
    conn = application.connect()
    conn.execute("delete from shop.customer")
    conn.execute("truncate shop.customer cascade")


def test_uninstall_is_refused_while_rows_can_be_restored(application: Database) -> None:
    protected_application(application)
    conn = application.connect()
    conn.execute("delete from shop.customer where id = 1")
    installed = schema_dump(application)
    result = application.cli("uninstall", "--yes", code=4)
    assert "SQLSTATE: GR013" in result.stderr
    assert "shop.customer: 1" in result.stderr
    assert schema_dump(application) == installed
    done = psql(application, "-v", "VERBOSITY=verbose", "-f", str(files.root() / "sql" / "uninstall" / "uninstall.sql"))
    assert "GR013" in done.stderr
    assert schema_dump(application) == installed


def test_uninstall_gives_up_the_buffer_when_told(application: Database) -> None:
    before = schema_dump(application)
    protected_application(application)
    application.connect().execute("delete from shop.customer where id = 1")
    application.cli("uninstall", "--yes", "--discard-buffer")
    assert schema_dump(application) == before


def test_uninstall_exports_what_can_be_restored(application: Database, tmp_path: Path) -> None:
    protected_application(application)
    conn = application.connect()
    conn.execute("""insert into shop.customer (name) values (E'Müller, "Söhne"\\n& Co')""")
    conn.execute("delete from shop.customer where id in (1, 10)")
    application.cli("uninstall", "--yes", "--export", str(tmp_path / "new" / "folder"))
    exported = {}
    for file in (tmp_path / "new" / "folder").iterdir():
        with file.open(encoding="utf-8", newline="") as lines:
            exported[file.name] = list(csv.DictReader(lines))
    assert {name: len(content) for name, content in exported.items()} == {
        "customer.csv": 2,
        "Order.csv": 1,
        "item.csv": 1,
    }
    assert sorted(row["name"] for row in exported["customer.csv"]) == ['Müller, "Söhne"\n& Co', "customer 1"]
    assert value(conn, "select to_regnamespace('grace') is null")


def test_uninstall_exports_each_table_to_a_file_of_its_own(db: Database, tmp_path: Path) -> None:
    conn = db.connect()
    conn.execute('create schema a; create table a.b (x int); create table "a.b" (x int); create table "a/b" (x int);')
    conn.execute('create table a_b (x int); insert into a.b values (1); insert into "a.b" values (2);')
    conn.execute('insert into "a/b" values (3); insert into a_b values (4)')
    db.cli("protect", "a.b", '"a.b"', '"a/b"', "a_b")
    conn.execute('delete from a.b; delete from "a.b"; delete from "a/b"; delete from a_b')
    db.cli("uninstall", "--yes", "--export", str(tmp_path))
    found = [row["x"] for file in tmp_path.iterdir() for row in csv.DictReader(file.read_text().splitlines())]
    assert sorted(found) == ["1", "2", "3", "4"]


def test_uninstall_exports_nothing_that_has_expired(db: Database, tmp_path: Path) -> None:
    conn = db.connect()
    conn.execute("create table t (x int); insert into t values (1), (2)")
    db.cli("protect", "t", "--retention", "1 second")
    conn.execute("delete from t where x = 1")
    conn.execute("select pg_sleep(1.1)")
    conn.execute("delete from t where x = 2")
    conn.execute("select grace.set_retention('t', '1 second')")
    db.cli("uninstall", "--yes", "--export", str(tmp_path))
    exported = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["x"] for row in exported] == ["2"]


def test_uninstall_waits_for_a_delete_that_is_under_way_and_is_then_refused(db: Database) -> None:
    conn, deleting = db.connect(), db.connect()
    conn.execute("create table t (x int); insert into t values (1)")
    db.cli("protect", "t")
    with ThreadPoolExecutor(1) as pool:
        with deleting.transaction():
            deleting.execute("delete from t")
            done = pool.submit(db.cli, "uninstall", "--yes", code=4)
            with pytest.raises(TimeoutError):
                done.result(timeout=0.5)
        assert "GR013" in done.result(timeout=20).stderr
    db.cli("restore", "--deletion", "1")


def test_a_dry_run_of_uninstall_says_what_would_be_lost_and_changes_nothing(application: Database) -> None:
    protected_application(application)
    application.connect().execute("delete from shop.customer where id = 1")
    installed = schema_dump(application)
    result = application.cli("uninstall", "--dry-run")
    assert "3 deleted rows of 3 tables" in result.stderr
    assert schema_dump(application) == installed
