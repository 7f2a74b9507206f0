"""The demo: the CRM of examples/crm on a throwaway cluster, told as a person would."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from pg_grace import files
from pg_grace.cluster import Cluster, binaries, binaries_with_pg_cron
from pg_grace.errors import CommandError, Exit
from pg_grace.output import print_rows

_DATABASE = "crm"
_APPLICATION = "crm_app"
_RETENTION = 5
_PG_CRON = {
    "shared_preload_libraries": "'pg_cron'",
    "cron.database_name": f"'{_DATABASE}'",
    "cron.use_background_workers": "on",
}
_MINUTE = 60
_LONGEST_WAIT = 150
_JOB = "select status, command, start_time from cron.job_run_details where command = 'call grace.purge()'"
_CHECKSUM = """
select md5(string_agg(md5(t.row), '' order by md5(t.row))) from (
  select row_to_json(c)::text as row from crm.company c
  union all select row_to_json(i)::text from crm.invoice i
  union all select row_to_json(i)::text from crm.invoice_item i
  union all select row_to_json(f)::text from crm.uploaded_file f
) as t
"""


class Demo:
    """Runs the story's commands as a user would type them, and prints them with what they print."""

    def __init__(self, *, pause: bool) -> None:
        self._pause = pause
        self._environment = dict(os.environ)
        self._conninfo = ""

    def run(self) -> None:
        """Tell the whole story; raises CommandError when a step fails."""
        with_pg_cron = binaries_with_pg_cron()
        self._has_pg_cron = with_pg_cron is not None
        # So that the server is stopped and removed then as well.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self._say("Starting a PostgreSQL server of its own, in a temporary folder, on a free port …")
        with Cluster(_PG_CRON if self._has_pg_cron else {}, with_pg_cron or binaries()) as cluster:
            self.connect_to(
                cluster.conninfo(_DATABASE),
                {
                    "PGHOST": "127.0.0.1",
                    "PGPORT": str(cluster.port),
                    "PGUSER": cluster.superuser,
                    "PGDATABASE": _DATABASE,
                    "PATH": f"{cluster.binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                },
            )
            self._prepare(cluster)
            self._protect()
            self._lose_a_customer()
            self._restore()
            self._purge()
            self._go_on_by_hand(cluster)
        self._say("The server is stopped and its folder removed. Next: README.md, docs/")

    def connect_to(self, conninfo: str, environment: Mapping[str, str]) -> None:
        """Say what database the story plays in, to this program and to those it runs."""
        self._conninfo = conninfo
        self._environment |= environment
        self._has_psql = self._runs("psql", "--version")

    def _prepare(self, cluster: Cluster) -> None:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f"create database {_DATABASE}")
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            for name in ("schema.sql", "data.sql"):
                connection.execute((files.root() / "examples" / "crm" / name).read_bytes())
            if self._has_pg_cron:
                connection.execute("create extension pg_cron")
            connection.execute("create role crm_app login")
            connection.execute("grant usage on schema crm to crm_app")
            connection.execute("grant select, insert, update, delete on all tables in schema crm to crm_app")
        self._say(
            "It holds the small CRM of examples/crm: companies, contacts, leads, offers, orders, invoices, projects,"
            " files. The application works on it as the role crm_app."
        )
        if not self._has_pg_cron:
            self._say(
                "This server has no pg_cron. What pg_cron's jobs do elsewhere, pg_grace tick does here, and any"
                " scheduler can start it."
            )
        if not self._has_psql:
            self._say(
                "psql is not here. What follows the prompt crm=> is sent to the server by this program, which prints"
                " the answers in its own way."
            )

    def _protect(self) -> None:
        self._say("Install pg_grace, and protect the companies with everything that hangs on them:")
        self._type("pg_grace install")
        self._type("pg_grace protect crm.company")

    def _lose_a_customer(self) -> None:
        self._say(
            "Monday, ten o'clock. Somebody wants to delete a test customer and clicks on the wrong one. The application"
            " knows nothing of pg_grace, and its role has no right on the buffer:"
        )
        self._before = self._value(_CHECKSUM)
        self.query(
            "set grace.reason = 'clean-up of test customers'", "delete from crm.company where id = 7", role=_APPLICATION
        )
        self._say("The customer is gone, with contacts, invoices, their items and the uploaded contract:")
        self.query("select count(*) from crm.invoice where company_id = 7")

    def _restore(self) -> None:
        self._say("Ten minutes later the phone rings. What was deleted, by whom?")
        self._type("pg_grace deletions crm.company")
        self._type("pg_grace show crm.company --from '10 minutes ago' --limit 1")
        self._say('"It must have been about ten minutes ago." First what a restore would do, then the restore:')
        self._type("pg_grace restore crm.company --from 'about 10 minutes ago' --dry-run")
        self._type("pg_grace restore crm.company --from 'about 10 minutes ago'")
        if self._value(_CHECKSUM) != self._before:
            raise CommandError("the restored customer is not what it was", Exit.FAILED)
        self._say(
            "Everything is back, to the last byte of the files: the checksums agree. Nothing is left in the buffer."
        )

    def _purge(self) -> None:
        self._say(
            "What nobody asks for within the retention (30 days) goes for good. Nobody wants to wait that long, so"
            " e-mails get a retention of five seconds, and the purge is due every minute instead of every night:"
        )
        self._type("pg_grace retention crm.email '5 seconds' --yes")
        self._type("pg_grace schedule purge '* * * * *'")
        self.query("delete from crm.email where id <= 25", role=_APPLICATION)
        self._type("pg_grace deletions crm.email")
        if self._has_pg_cron:
            self._wait_for_pg_cron()
        else:
            self._tick()
        self._type("pg_grace deletions crm.email")
        self._say("Gone. How things stand:")
        self._type("pg_grace status")

    def _wait_for_pg_cron(self) -> None:
        self._say("Now wait until pg_cron fires, at the next full minute or the one after …")
        deadline = time.monotonic() + _LONGEST_WAIT
        while not self._has_purged() or self._value(f"select exists ({_JOB} and status in ('starting', 'running'))"):
            if time.monotonic() > deadline:
                raise CommandError("pg_cron did not purge in time", Exit.FAILED)
            time.sleep(1)
        self.query("select kind, status, row_count, duration, details from grace.runs where kind = 'purge'")
        self.query(f"{_JOB} order by runid desc limit 1")

    def _tick(self) -> None:
        self._say(
            "pg_grace tick does what is due, once; a crontab, a systemd timer or Kubernetes would start it every"
            " minute. Now wait for the next full minute …"
        )
        deadline = time.monotonic() + _LONGEST_WAIT
        while not self._has_purged():
            if time.monotonic() > deadline:
                raise CommandError("pg_grace tick did not purge in time", Exit.FAILED)
            # A little more than the minute, and than the retention of what was deleted just before it.
            time.sleep(_MINUTE - time.time() % _MINUTE + _RETENTION)
            self._type("pg_grace tick")

    def _has_purged(self) -> bool:
        return bool(
            self._value(
                "select exists (select from grace.runs where kind = 'purge' and row_count > 0 and status <> 'running')"
            )
        )

    def _go_on_by_hand(self, cluster: Cluster) -> None:
        options = f"-h 127.0.0.1 -p {cluster.port} -U {cluster.superuser} -d {_DATABASE}"
        self._say("To go on by hand:")
        if self._has_psql:
            click.echo(f"  {_as_typed('psql', cluster.binaries)} {options}")
        click.echo(f"  {_as_typed('pg_grace', Path(sys.executable).parent)} {options} deletions\n")
        if self._pause:
            click.prompt("Press Enter to stop and remove the server", default="", show_default=False, prompt_suffix=" ")

    def _say(self, text: str) -> None:
        click.echo()
        for line in click.wrap_text(text, width=100).splitlines():
            click.secho(f"# {line}", fg="green")
        click.echo()

    def _type(self, line: str) -> None:
        click.secho(f"$ {line}", bold=True)
        sys.stdout.flush()
        command = shlex.split(line)
        if command[0] == "pg_grace":
            command = [sys.executable, "-m", "pg_grace", *command[1:]]
        else:
            command = [command[0], "-X", *command[1:]]
        done = subprocess.run(command, env=self._environment, check=False)
        if done.returncode != 0:
            raise CommandError(f"{line} ended with exit code {done.returncode}", Exit.FAILED)
        click.echo()

    def _runs(self, *command: str) -> bool:
        try:
            done = subprocess.run(command, env=self._environment, capture_output=True, check=False)
        except FileNotFoundError:
            return False
        return done.returncode == 0

    def query(self, *statements: str, role: str | None = None) -> None:
        """Run statements in one session: as a user would type them for psql, or, where there is none, without it."""
        if self._has_psql:
            as_role = f" -U {role}" if role else ""
            self._type(f"psql{as_role}" + "".join(f' -c "{statement}"' for statement in statements))
            return
        with psycopg.connect(
            make_conninfo(self._conninfo, user=role), autocommit=True, row_factory=dict_row
        ) as connection:
            for statement in statements:
                click.secho(f"{_DATABASE}=> {statement};", bold=True)
                cursor = connection.execute(statement.encode())
                if cursor.description:
                    print_rows(cursor.fetchall(), [column.name for column in cursor.description], "table")
                else:
                    click.echo(cursor.statusmessage)
        click.echo()

    def _value(self, query: str) -> object:
        with psycopg.connect(self._conninfo) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def _as_typed(program: str, folder: Path) -> str:
    """Return what to type for a program in this folder: its name alone, where that is enough."""
    return program if shutil.which(program) else str(folder / program)
