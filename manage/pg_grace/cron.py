"""pg_cron where it works from another database of the cluster: SQL doesn't reach there, so the client does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from pg_grace.connection import Connection, Target, connect
from pg_grace.errors import CommandError


@dataclass(frozen=True)
class Elsewhere:
    """The database that pg_cron works from, and what to run there."""

    target: Target
    database: str
    ensure: list[str]
    remove: str
    query: str

    def ensure_jobs(self) -> str | None:
        """Make the jobs what they should be; return why that can't be done, None when it is."""
        return self._run(self.ensure)

    def remove_jobs(self) -> str | None:
        """Remove the jobs; return why that can't be done, None when it is."""
        return self._run([self.remove])

    def jobs(self) -> list[dict[str, Any]]:
        """Return pg_cron's jobs for this database and how they have run.

        Raises psycopg.Error or CommandError where they can't be read.
        """
        with connect(self.target, self.database) as there:
            return there.execute(self.query.encode()).fetchall()

    def _run(self, statements: list[str]) -> str | None:
        try:
            with connect(self.target, self.database) as there, there.transaction():
                for statement in statements:
                    there.execute(statement.encode())
        except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable):
            return f'the extension is missing there; in database "{self.database}": create extension pg_cron;'
        except psycopg.errors.InsufficientPrivilege as error:
            return (
                f"{error.diag.message_primary}; as superuser in that database: grant usage on schema cron to the role,"
                " and execute on function cron.schedule_in_database"
            )
        except (psycopg.Error, CommandError) as error:
            return str(error).strip()
        return None


def elsewhere(connection: Connection, target: Target) -> Elsewhere | None:
    """Return where pg_cron works from when that is another database than the connection's, else None."""
    row = connection.execute("select * from grace._cron_elsewhere()").fetchone()
    return None if row is None else Elsewhere(target, row["database"], row["ensure"], row["remove"], row["query"])


def merged_jobs(connection: Connection, target: Target) -> list[dict[str, Any]]:
    """Return grace.jobs(), completed by what pg_cron says where it works from another database."""
    jobs = connection.execute("select * from grace.jobs()").fetchall()
    there = elsewhere(connection, target)
    if there is None:
        return jobs
    try:
        found = {job["job"]: job for job in there.jobs()}
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable):
        return [job if job["scheduler"] == "tick" else {**job, "scheduler": None} for job in jobs]
    except (psycopg.Error, CommandError):
        return jobs
    taken = ("schedule", "login", "active", "last_start", "last_status", "last_duration", "last_message", "failures")
    return [
        {
            **job,
            **({} if found[job["job"]]["schedule"] == job["schedule"] else {"in_words": None, "next_start": None}),
            **{name: found[job["job"]][name] for name in taken},
            "scheduler": f'pg_cron in database "{there.database}"',
        }
        if job["job"] in found
        else {**job, "scheduler": job["scheduler"] if job["scheduler"] == "tick" else None}
        for job in jobs
    ]
