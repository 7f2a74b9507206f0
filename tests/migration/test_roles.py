"""Roles and pg_cron belong to the whole server: an ordinary role installs, several databases share, nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pg_grace import migrate
from pg_grace.connection import Target, connect
from pg_grace.cron import _JOBS
from tests.conftest import Database, rows, value
from tests.migration.conftest import new_database, schema_dump
from tests.server import Server

GROUP_ROLES = [("grace_admin",), ("grace_auditor",), ("grace_operator",)]
JOBS = "select jobname, schedule, command, database from cron.job"


def group_roles(server: Server) -> list[tuple[str]]:
    with psycopg.connect(server.dsn) as connection:
        return connection.execute(
            "select rolname::text from pg_roles where rolname like 'grace%%' order by 1"
        ).fetchall()


@pytest.fixture
def two_databases(own_server: Server) -> Iterator[tuple[Database, Database]]:
    pair = new_database(own_server, "one"), new_database(own_server, "two")
    yield pair
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        for database in pair:
            for connection in database.connections:
                connection.close()
            admin.execute(f"drop database {database.name} with (force)")
        admin.execute("drop role if exists grace_admin, grace_operator, grace_auditor")


def test_the_group_roles_go_with_the_last_database_that_uses_them(two_databases: tuple[Database, Database]) -> None:
    one, two = two_databases
    assert group_roles(one.server) == []
    one.cli("install")
    two.cli("install")
    assert group_roles(one.server) == GROUP_ROLES
    one.cli("uninstall", "--yes")
    assert group_roles(one.server) == GROUP_ROLES
    two.connect().execute("create table t (id int primary key)")
    two.cli("protect", "t")
    two.cli("uninstall", "--yes")
    assert group_roles(one.server) == []


def test_roles_of_somebody_else_with_our_names_are_neither_changed_nor_dropped(
    two_databases: tuple[Database, Database],
) -> None:
    one, _ = two_databases
    conn = one.connect()
    conn.execute("create role grace_admin nologin; comment on role grace_admin is 'Grace, from administration'")
    one.cli("install")
    one.cli("uninstall", "--yes")
    assert group_roles(one.server) == [("grace_admin",)]
    assert value(conn, "select shobj_description('grace_admin'::regrole, 'pg_authid')") == "Grace, from administration"


def test_an_install_that_fails_leaves_no_roles(two_databases: tuple[Database, Database]) -> None:
    one, _ = two_databases
    one.connect().execute("create schema grace; create view grace.deletions as select 1 as something_else")
    one.cli("install", code=1)
    assert group_roles(one.server) == []


def test_two_databases_can_be_installed_at_once(two_databases: tuple[Database, Database]) -> None:
    one, two = two_databases
    first = one.connect()
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            script = migrate.script().replace("\\set ON_ERROR_STOP on", "").replace("begin;", "", 1)
            first.execute(script.rpartition("commit;")[0].encode())
            other = pool.submit(two.cli, "install")
            with pytest.raises(TimeoutError):
                other.result(timeout=0.5)
        other.result(timeout=20)
    one.cli("status")
    two.cli("status")


@pytest.fixture
def owned(own_server: Server) -> Iterator[Database]:
    """A database whose owner is an ordinary role with CREATEROLE; the tables are its own as well."""
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        admin.execute("create role keeper login createrole; create role app login")
    database = new_database(own_server, "owned")
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("grant create on database owned to keeper; grant create on schema public to keeper")
    as_keeper = Server("as keeper", f"{own_server.dsn} user=keeper")
    yield Database(as_keeper, "owned", database.connections)
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        admin.execute("drop database owned with (force)")
        admin.execute("drop owned by keeper cascade; drop role keeper, app")
        admin.execute("drop role if exists grace_admin, grace_operator, grace_auditor")


def test_an_ordinary_role_installs_protects_restores_purges_and_uninstalls(owned: Database) -> None:
    conn = owned.connect()
    assert rows(conn, "select current_user::text, usesuper from pg_user where usename = current_user") == [
        ("keeper", False)
    ]
    conn.execute("create table customer (id int primary key, name text)")
    conn.execute("create table invoice (id int primary key, customer_id int references customer on delete cascade)")
    conn.execute("insert into customer values (1, 'a'), (2, 'b'); insert into invoice values (10, 1), (20, 2)")
    conn.execute("grant select, insert, delete on customer, invoice to app")
    before = schema_dump(owned)

    owned.cli("install")
    owned.cli("install")
    owned.cli("protect", "customer")
    app = owned.connect(user="app")
    app.execute("delete from customer where id = 1")
    assert rows(conn, "select target::text, row_count, deleted_by::text from grace.deletions order by 1") == [
        ("customer", 1, "app"),
        ("invoice", 1, "app"),
    ]
    assert "1\ta" in owned.cli("show", "customer", "--key", "1").stdout
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("select * from grace_buffer.customer")

    owned.cli("restore", "--deletion", "1")
    assert rows(conn, "select * from invoice order by 1") == [(10, 1), (20, 2)]

    conn.execute("select grace.set_retention('customer', '1 second')")
    app.execute("delete from invoice where id = 20")
    app.execute("delete from customer where id = 2")
    conn.execute("select pg_sleep(1.1)")
    owned.cli("purge", "--yes")
    assert rows(conn, "select kind, status, row_count from grace.runs order by id desc limit 1") == [
        ("purge", "done", 1)
    ]

    owned.cli("uninstall", "--yes", "--discard-buffer")
    assert schema_dump(owned) == before
    assert group_roles(owned.server) == []


def test_a_role_without_the_rights_is_told_which_ones(owned: Database) -> None:
    before = schema_dump(owned)
    as_app = Database(Server("as app", f"{owned.server.dsn} user=app"), "owned", owned.connections)
    result = as_app.cli("install", code=4)
    assert "SQLSTATE: 42501" in result.stderr
    assert "CREATEROLE" in result.stderr
    assert schema_dump(owned) == before


@pytest.fixture
def cron(cron_server: Server) -> Iterator[Database]:
    """The database where pg_cron runs, with its extension."""
    database = Database(cron_server, "postgres")
    database.connect().execute("create extension if not exists pg_cron")
    yield database
    for connection in database.connections:
        connection.close()


def test_install_creates_the_nightly_job_once_and_uninstall_removes_it(cron: Database) -> None:
    conn = cron.connect()
    conn.execute("select cron.schedule('somebody else''s', '0 3 * * *', 'select 1')")
    other = ("somebody else's", "0 3 * * *", "select 1", "postgres")
    ours = [
        ("pg_grace: purge", "0 0 * * *", "call grace.purge()", "postgres"),
        ("pg_grace: watch", "*/5 * * * *", "call grace.watch()", "postgres"),
    ]
    result = cron.cli("install")
    assert 'pg_cron job "pg_grace: purge" runs every day at 00:00 (GMT)' in result.stderr
    assert sorted(rows(conn, JOBS)) == [*ours, other]
    cron.cli("install")
    assert sorted(rows(conn, JOBS)) == [*ours, other]
    assert "every day at 00:00 (GMT), by pg_cron as postgres; next " in cron.cli("status").stdout
    cron.cli("uninstall", "--yes")
    assert rows(conn, JOBS) == [other]
    conn.execute("drop extension pg_cron")


def test_without_the_extension_install_says_how_to_create_it(cron: Database) -> None:
    cron.connect().execute("drop extension pg_cron")
    result = cron.cli("install")
    assert "create extension pg_cron" in result.stderr
    assert "nothing runs it" in cron.cli("status").stdout
    cron.cli("uninstall", "--yes")


def test_the_jobs_of_another_database_are_made_shown_mended_and_removed_where_pg_cron_is(
    cron_server: Server, cron: Database
) -> None:
    conn = cron.connect()
    ours = f"{JOBS} where jobname like 'pg_grace%%' order by 1"
    purge = ("pg_grace: purge (the shop's)", "0 0 * * *", "call grace.purge()", "the shop's")
    watch = ("pg_grace: watch (the shop's)", "*/5 * * * *", "call grace.watch()", "the shop's")
    other = new_database(cron_server, "the shop's")
    assert 'pg_cron runs the jobs from database "postgres"' in other.cli("install").stderr
    assert rows(conn, ours) == [purge, watch]
    assert 'by pg_cron in database "postgres" as postgres' in other.cli("status").stdout
    assert other.cli("doctor").stderr == "no problem found\n"

    other.cli("schedule", "purge", "30 3 * * *")
    assert rows(conn, ours) == [(purge[0], "30 3 * * *", *purge[2:]), watch]
    conn.execute("select cron.unschedule('pg_grace: purge (the shop''s)')")
    assert "the pg_cron job is missing" in other.cli("doctor", code=5).stdout
    assert "nothing runs it" in other.cli("status").stdout
    assert "the pg_cron job is missing" in other.cli("status").stderr
    other.cli("doctor", "--fix")
    assert rows(conn, ours) == [(purge[0], "30 3 * * *", *purge[2:]), watch]
    assert '"problems": []' in other.cli("--format", "json", "status").stdout

    conn.execute("select cron.schedule('pg_grace: purge (gone)', '0 0 * * *', 'call grace.purge()')")
    conn.execute("update cron.job set database = 'gone' where jobname = 'pg_grace: purge (gone)'")
    conn.execute("update cron.job set command = 'select 1' where jobname like 'pg_grace: watch%%'")
    conn.execute("update cron.job set username = 'gone' where jobname like 'pg_grace: purge (the%%'")
    assert "belongs to role gone, not to postgres" in other.cli("doctor", code=5).stdout
    assert "runs something else for it: select 1" in other.cli("doctor", code=5).stdout
    other.cli("doctor", "--fix")
    assert rows(conn, ours) == [(purge[0], "30 3 * * *", *purge[2:]), watch]
    other.cli("uninstall", "--yes")
    assert rows(conn, ours) == []


def test_jobs_run_as_the_owner_of_pg_grace_also_when_a_superuser_mends_them(
    cron_server: Server, cron: Database
) -> None:
    """What a job calls is the owner's to change: a superuser's job would run it with a superuser's rights."""
    conn = cron.connect()
    other = new_database(cron_server, "kept")
    with psycopg.connect(cron_server.dsn, autocommit=True) as admin:
        admin.execute("create role keeper login createrole")
        for group in ("grace_admin", "grace_operator", "grace_auditor"):
            admin.execute(
                f"do $$ begin create role {group}; exception when duplicate_object then null; end $$".encode()
            )
            admin.execute(f"grant {group} to keeper with admin option".encode())
        admin.execute("grant create on database kept to keeper")
    assert "this role may not read cron.database" in other.cli("-U", "keeper", "install").stderr
    assert rows(conn, f"{JOBS} where database = 'kept'") == []
    conn.execute("grant pg_read_all_settings to keeper")
    other.cli("install")
    assert rows(conn, "select jobname, username, command from cron.job where database = 'kept' order by 1") == [
        ("pg_grace: purge (kept)", "keeper", "call grace.purge()"),
        ("pg_grace: watch (kept)", "keeper", "call grace.watch()"),
    ]
    trap = (
        "create function grace._cron_elsewhere() returns table (database text, job text, cron_job text, schedule text,"
    )
    mine = psycopg.connect(f"{other.conninfo} user=keeper", autocommit=True)
    mine.execute("drop function grace._cron_elsewhere()")
    mine.execute(
        f"{trap} command text) language sql as $$ select 'postgres', 'purge', 'pg_grace: purge (kept)', '0 0 * * *',"
        " 'alter role keeper superuser' $$".encode()
    )
    mine.close()
    other.cli("schedule", "purge", "15 0 * * *")
    assert rows(conn, "select distinct username from cron.job where database = 'kept'") == [("keeper",)]
    other.cli("uninstall", "--yes")
    assert rows(conn, f"{JOBS} where database = 'kept'") == []


def test_the_command_asks_pg_cron_what_sql_asks(cron: Database) -> None:
    conn = cron.connect()
    conn.execute("create extension if not exists pg_cron")
    cron.cli("install")
    (query,) = rows(conn, "select grace_internal.cron_query()")[0]
    with connect(Target(conn.info.dsn)) as connection:
        assert (
            connection.execute(query.encode()).fetchall()
            == connection.execute(_JOBS, {"database": conn.info.dbname}).fetchall()
        )
    cron.cli("uninstall", "--yes")


def test_what_install_says_to_run_where_pg_cron_is_makes_the_jobs(cron_server: Server, cron: Database) -> None:
    other = new_database(cron_server, "by psql")
    there = other.connect()
    with connect(Target(there.info.dsn)) as connection:
        words = migrate.install(connection)
    assert 'pg_cron works from database "postgres"' in words
    conn = cron.connect()
    conn.execute(words.partition("run there: ")[2].encode())
    assert value(conn, "select count(*) from cron.job where database = 'by psql'") == 2
    assert other.cli("doctor").stderr == "no problem found\n"
    other.cli("uninstall", "--yes")


def test_not_preloaded_install_says_which_settings_to_change(two_databases: tuple[Database, Database]) -> None:
    one, _ = two_databases
    result = one.cli("install")
    assert "shared_preload_libraries = 'pg_cron'" in result.stderr
    assert "cron.database_name = 'one'" in result.stderr
