"""Opening connections: libpq does it, so PG* variables, services, .pgpass and URIs just work."""

from __future__ import annotations

import decimal
import functools
import json
import re
import sys
from dataclasses import dataclass
from typing import TypeAlias

import psycopg
from psycopg import conninfo
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from pg_grace.errors import CommandError, Exit

Connection: TypeAlias = psycopg.Connection[DictRow]
OLDEST_SERVER = 150000
_exact_json = functools.partial(json.loads, parse_float=decimal.Decimal)


@dataclass(frozen=True)
class Target:
    """Where to connect to; what is None is left to libpq."""

    dbname: str | None = None
    host: str | None = None
    port: str | None = None
    user: str | None = None

    def conninfo(self, dbname: str | None = None) -> str:
        """Return a connection string; dbname may itself be a name, a connection string or a URI.

        A dbname that is given here is the name of another database to connect to instead.

        Raises CommandError when libpq can't read it, without what libpq quotes of it where that may be a password.
        """
        given = {"host": self.host, "port": self.port, "user": self.user}
        base = ""
        if self.dbname is not None:
            if "=" in self.dbname or "://" in self.dbname:
                base = self.dbname
            else:
                given["dbname"] = self.dbname
        if dbname is not None:
            given["dbname"] = dbname
        try:
            return conninfo.make_conninfo(base, **{name: value for name, value in given.items() if value is not None})
        except psycopg.ProgrammingError as error:
            message = str(error).strip()
            if "password" in base or "@" in base:
                message = re.sub('".*"', '"…"', message)
            raise CommandError(f"no connection: {message}", Exit.NO_CONNECTION) from error


def _show_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
    print(f"{diagnostic.severity}: {diagnostic.message_primary}", file=sys.stderr)


def connect(target: Target, dbname: str | None = None) -> Connection:
    """Open an autocommit connection, to another database than the target's if one is named; notices go to stderr.

    Raises psycopg.OperationalError without an SQLSTATE when there is no connection to be had, and CommandError when the
    server is older than PostgreSQL 15.
    """
    connection = psycopg.connect(
        target.conninfo(dbname), autocommit=True, row_factory=dict_row, fallback_application_name="pg_grace"
    )
    if connection.info.server_version < OLDEST_SERVER:
        version = connection.info.parameter_status("server_version")
        connection.close()
        raise CommandError(
            f"PostgreSQL {version} is too old\n"
            "DETAIL:  pg_grace needs PostgreSQL 15 or later.\n"
            "HINT:  Upgrade the server with pg_upgrade.\n"
            "SQLSTATE: GR017",
            Exit.REFUSED,
        )
    set_json_loads(_exact_json, connection)
    # psycopg reads times and intervals in these styles only; the order of day and month stays as it is set.
    connection.execute("set datestyle = 'ISO'")
    connection.execute("set intervalstyle = 'postgres'")
    connection.add_notice_handler(_show_notice)
    return connection
