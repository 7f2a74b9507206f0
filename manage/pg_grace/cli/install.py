"""install, upgrade, uninstall."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click
import psycopg
from psycopg import sql

from pg_grace import __version__, files, migrate
from pg_grace.cli.options import Settings, confirm, connected, yes_option
from pg_grace.connection import Connection, connect
from pg_grace.cron import elsewhere
from pg_grace.errors import CommandError, Exit, describe, from_server
from pg_grace.output import note

_RIGHTS = (
    "Install as a superuser, or as the tables' owner with CREATEROLE and CREATE on the database. Whoever has"
    " installed it brings it up to date."
)


def _install(settings: Settings) -> None:
    try:
        with connect(settings.target) as connection:
            before = migrate.installed_revision(connection)
            words = migrate.install(connection)
            there = elsewhere(connection, settings.target)
    except psycopg.errors.InsufficientPrivilege as error:
        raise CommandError(describe(error, hint=_RIGHTS), Exit.REFUSED) from error
    except psycopg.Error as error:
        raise from_server(error) from error
    revision = migrate.newest_revision()
    if before is None:
        note(f"pg_grace {__version__} (revision {revision}) is installed")
    elif before == revision:
        note(f"pg_grace {__version__} was installed already (revision {revision}); functions and views are up to date")
    else:
        note(f"pg_grace is upgraded from revision {before} to {revision}")
    if there is not None:
        obstacle = there.ensure_jobs()
        if obstacle is None:
            words = f'pg_cron runs the jobs from database "{there.database}": pg_grace schedule shows them'
        else:
            note(f'pg_cron in database "{there.database}" could not be told: {obstacle}')
    note(f"schedule: {words}")


@click.command()
@click.option("--sql", "as_script", is_flag=True, help="Print the script that would run, for psql; change nothing.")
@click.pass_obj
def install(settings: Settings, *, as_script: bool) -> None:
    """Install pg_grace into a database, or bring an installation up to date.

    Everything happens in one transaction. Run it as a superuser, or as the role that owns the tables to be protected
    and has CREATEROLE and CREATE on the database.
    """
    if as_script:
        click.echo(migrate.script(), nl=False)
    else:
        _install(settings)


@click.command()
@click.option("--sql", "as_script", is_flag=True, help="Print the script that would run, for psql; change nothing.")
@connected
def upgrade(connection: Connection, settings: Settings, *, as_script: bool) -> None:
    """Bring an installation up to date with this version of pg_grace."""
    revision = migrate.installed_revision(connection)
    if revision is None:
        raise CommandError(
            "pg_grace is not installed in this database\nHINT:  Install it: pg_grace install", Exit.REFUSED
        )
    if as_script:
        migrate.refuse_newer(connection)
        click.echo(migrate.script(since=revision), nl=False)
    else:
        connection.close()
        _install(settings)


@click.command()
@click.option("--discard-buffer", is_flag=True, help="Give up what can still be restored.")
@click.option(
    "--export",
    "export_to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="First write what can still be restored to CSV files in this folder.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@yes_option
@connected
def uninstall(
    connection: Connection,
    settings: Settings,
    *,
    discard_buffer: bool,
    export_to: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Take pg_grace out of a database and leave it as it was."""
    if migrate.installed_revision(connection) is None:
        raise CommandError("pg_grace is not installed in this database", Exit.REFUSED)
    if dry_run:
        rows = _buffered(connection)
        total = sum(row["buffered_rows"] for row in rows)
        fate = (
            f"would be written to {export_to}"
            if export_to
            else "would be gone for good"
            if discard_buffer
            else "can still be restored, so it would refuse without --export or --discard-buffer"
            if total
            else "can still be restored"
        )
        if _has_holds(connection):
            raise CommandError(
                "records are held, so it would refuse\nHINT:  See them: pg_grace hold list\nSQLSTATE: GR029",
                Exit.REFUSED,
            )
        note(f"would remove pg_grace; {total} deleted rows of {len(rows)} tables {fate}")
        return
    total = sum(row["buffered_rows"] for row in _buffered(connection))
    fate = f" {total} rows that can still be restored will be gone for good." if discard_buffer and total else ""
    confirm(f"Remove pg_grace from this database?{fate}", yes=yes)
    there = elsewhere(connection, settings.target)
    with connection.transaction():
        if export_to is not None:
            _make_folder(export_to)
            connection.execute("select grace_internal.drop_triggers(null, interval '60 seconds')")
            for row in _buffered(connection):
                try:
                    _export(connection, row["buffer"], row["oldest"], export_to)
                    _export_files(connection, row["buffer"], row["oldest"], export_to)
                except OSError as error:
                    raise CommandError(f"can't write to {export_to}: {error.strerror}", Exit.FAILED) from error
            if connection.execute("select from grace.file_outbox limit 1").fetchone() is not None:
                _copy(connection, sql.SQL("select * from grace.file_outbox order by id"), export_to / "file_outbox.csv")
        if discard_buffer or export_to is not None:
            connection.execute("select set_config('grace.discard_buffer', 'on', true)")
        connection.execute(files.sql("uninstall/uninstall.sql").encode())
    obstacle = there.remove_jobs() if there else None
    if there and obstacle:
        note(f'pg_cron\'s jobs in database "{there.database}" could not be removed: {obstacle}')
        note(f"remove those of database {there.purged} whose names begin with pg_grace: there")
    note("pg_grace is uninstalled")


def _has_holds(connection: Connection) -> bool:
    row = connection.execute("select to_regclass('grace.holds') is not null as found").fetchone()
    if row is None or not row["found"]:
        return False
    return connection.execute("select from grace.holds where is_active limit 1").fetchone() is not None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"can't write to {folder}: {error.strerror}", Exit.FAILED) from error


def _buffered(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute(
        "select buffer::oid as buffer, buffered_rows, oldest from grace.protected"
        " where buffered_rows > 0 order by target_name"
    ).fetchall()


def _export(connection: Connection, buffer: int, oldest: datetime, folder: Path) -> None:
    """Write the rows of a buffer that can still be restored to a file named after it, for its name is unique."""
    row = connection.execute("select relname as name from pg_class where oid = %s", (buffer,)).fetchone()
    assert row is not None
    path = folder / f"{row['name'].replace('%', '%25').replace('/', '%2F')}.csv"
    query = sql.SQL("select * from {} where grace_deleted_at >= {} order by grace_deleted_at, grace_deletion")
    _copy(connection, query.format(sql.Identifier("grace_buffer", row["name"]), sql.Literal(oldest)), path)


def _copy(connection: Connection, query: sql.Composable, path: Path) -> None:
    copying = sql.SQL("copy ({}) to stdout with (format csv, header, encoding 'UTF8')").format(query)
    with path.open("wb") as file, connection.cursor().copy(copying) as copy:
        for block in copy:
            file.write(block)
    note(f"wrote {path}")


def _export_files(connection: Connection, buffer: int, oldest: datetime, folder: Path) -> None:
    """Write what is kept of the rows' large objects, each to a file named after its deletion and number."""
    row = connection.execute(
        "select relname as name, 'f' || p.id as kept, to_regclass('grace_internal.f' || p.id) is not null as has_files"
        " from grace_internal.protected p join pg_class c on c.oid = %s and c.relname = p.buffer"
        " where c.relnamespace = 'grace_buffer'::regnamespace",
        (buffer,),
    ).fetchone()
    assert row is not None
    if not row["has_files"]:
        return
    files_folder = folder / f"{row['name'].replace('%', '%25').replace('/', '%2F')}.files"
    files_folder.mkdir(exist_ok=True)
    pages = sql.SQL(
        "select grace_deletion, loid, page, data from {} where grace_deleted_at >= %s"
        " order by grace_deletion, loid, page"
    ).format(sql.Identifier("grace_internal", row["kept"]))
    with connection.cursor(name="pages") as cursor:
        cursor.itersize = 20
        for page in cursor.execute(pages, (oldest,)):
            path = files_folder / f"{page['grace_deletion']}-{page['loid']}"
            with path.open("wb" if page["page"] == 0 else "ab") as file:
                file.write(page["data"])
    note(f"wrote {files_folder}")
