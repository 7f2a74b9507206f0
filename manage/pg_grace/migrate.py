"""Installing and upgrading: Alembic's revisions own what holds data, the files under sql/ are applied again as a whole.

The same pieces, in the same order, make the installation over a connection and the script for psql.
"""

from __future__ import annotations

import io
from pathlib import Path

import sqlalchemy
from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.rows import dict_row, tuple_row
from sqlalchemy.pool import StaticPool

from pg_grace import __version__, files
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit

# One installation or upgrade at a time per database; the number has no meaning.
_LOCK = "do $$ begin perform pg_catalog.pg_advisory_xact_lock(4708281990); end $$"
_QUIET = "set local client_min_messages = warning"
_SEARCH_PATH = "set local search_path = pg_catalog, pg_temp"
_GUARD = """do $$
begin
  if pg_catalog.current_setting('server_version_num')::integer < 150000 then
    raise exception 'PostgreSQL % is too old', pg_catalog.current_setting('server_version')
      using errcode = 'GR017', detail = 'pg_grace needs PostgreSQL 15 or later.',
      hint = 'Upgrade the server with pg_upgrade.';
  end if;
end
$$;
"""
_GUARD_NEW = """do $$
begin
  if pg_catalog.to_regclass('grace.alembic_version') is not null then
    raise exception 'pg_grace is installed in this database already'
      using errcode = 'GR018', detail = 'This script makes a new installation.',
      hint = 'To bring it up to date: pg_grace upgrade';
  end if;
end
$$;
"""
_GUARD_REVISION = """do $$
begin
  if (select version_num from grace.alembic_version) is distinct from '{since}' then
    raise exception 'this script upgrades revision {since}, and the database is at another'
      using errcode = 'GR018', detail = 'It was made for a database at revision {since}.',
      hint = 'Make it anew: pg_grace upgrade --sql';
  end if;
end
$$;
"""
_BEFORE_MIGRATIONS = ("schema/roles.sql", "schema/schemas.sql")
_JOBS = "select grace_internal.ensure_jobs() as schedule;"


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(files.root() / "migrations"))
    return config


def newest_revision() -> str:
    """Return the revision that this version of pg_grace brings a database to."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def run_revision_sql(revision_file: str) -> None:
    """Run the SQL file beside a revision byte for byte: no parameters, no colons or per cent signs read in it."""
    text = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    if context.is_offline_mode():
        context.get_context().impl.static_output(text)
    else:
        op.get_bind().execution_options(no_parameters=True).exec_driver_sql(text)


def installed_revision(connection: Connection) -> str | None:
    """Return the revision a database is at, None when pg_grace is not installed in it."""
    row = connection.execute("select to_regclass('grace.alembic_version') is not null as found").fetchone()
    if row is None or not row["found"]:
        return None
    row = connection.execute("select version_num from grace.alembic_version").fetchone()
    return None if row is None else str(row["version_num"])


def install(connection: Connection) -> str:
    """Install, or bring up to date, in one transaction; return what became of the schedule, in words."""
    refuse_newer(connection)
    connection.autocommit = False
    connection.row_factory = tuple_row  # type: ignore[assignment]
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    config = _config()
    try:
        with engine.begin() as shared:
            for statement in (_LOCK, _QUIET, _SEARCH_PATH, _GUARD, *map(files.sql, _BEFORE_MIGRATIONS)):
                connection.execute(statement.encode())
            config.attributes["connection"] = shared
            command.upgrade(config, "head")
            for name in files.repeatable_sql():
                connection.execute(files.sql(name).encode())
            return str(shared.exec_driver_sql(_JOBS).scalar_one())
    except sqlalchemy.exc.DBAPIError as error:
        raise error.orig or error from error
    finally:
        connection.row_factory = dict_row
        connection.autocommit = True


def refuse_newer(connection: Connection) -> None:
    """Raise CommandError when a newer pg_grace has been at the database."""
    revision = installed_revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise CommandError(
            f"the database is at revision {revision}, which pg_grace {__version__} does not know\n"
            "DETAIL:  It was upgraded by a newer pg_grace.\n"
            "HINT:  Update this client: pip install --upgrade pg-grace\n"
            "SQLSTATE: GR018",
            Exit.REFUSED,
        )


def script(since: str | None = None) -> str:
    """Return the installation, or the upgrade from a revision, as one script for psql."""
    output = io.StringIO()
    command.upgrade(_config(output), "head" if since is None else f"{since}:head", sql=True)
    parts = [
        f"-- pg_grace {__version__}, revision {newest_revision()}: psql -f install.sql\n"
        '-- Generated from sql/ and migrations/ by "pg_grace install --sql"; change those.\n'
        "\\set ON_ERROR_STOP on\n",
        "begin;\n",
        f"{_LOCK};\n",
        f"{_QUIET};\n{_SEARCH_PATH};\n",
        _GUARD,
        _GUARD_NEW if since is None else _GUARD_REVISION.format(since=since),
        *map(files.sql, _BEFORE_MIGRATIONS),
        output.getvalue().strip() + "\n",
        *(f"-- {name}\n{files.sql(name)}" for name in files.repeatable_sql()),
        f"{_JOBS}\n",
        "commit;\n",
    ]
    return "\n".join(parts)
