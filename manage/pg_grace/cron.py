"""pg_cron where it works from another database of the cluster: SQL doesn't reach there, so the client does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from pg_grace.connection import Connection, Target, connect
from pg_grace.errors import CommandError

# What runs in the database that pg_cron works from is written here, never taken from the database that is purged:
# whoever connects may be a superuser, and that database's functions may be somebody else's.
_JOBS = """
    select
      substring(j.jobname from '^pg_grace: ([^ ]+)') as job, j.jobname as cron_job, j.schedule, j.command,
      j.username::text as login, j.active,
      coalesce((select r.rolcanlogin from pg_catalog.pg_roles r where r.rolname = j.username), false) as may_login,
      d.start_time as last_start, d.status as last_status, d.end_time - d.start_time as last_duration,
      d.return_message as last_message,
      (
        select count(*)
        from cron.job_run_details f
        where f.jobid = j.jobid and f.status = 'failed' and f.runid > coalesce((
          select max(s.runid) from cron.job_run_details s where s.jobid = j.jobid and s.status = 'succeeded'
        ), 0)
      ) as failures
    from cron.job j
    left join lateral (
      select r.start_time, r.end_time, r.status, r.return_message
      from cron.job_run_details r
      where r.jobid = j.jobid
      order by r.runid desc
      limit 1
    ) as d on true
    where starts_with(j.jobname, 'pg_grace: ') and j.database = %(database)s
    order by j.jobname
"""
_REMOVE_ORPHANS = """
    select cron.unschedule(j.jobid) from cron.job j
    where starts_with(j.jobname, 'pg_grace: ')
      and not exists (select from pg_catalog.pg_database d where d.datname = j.database)
"""
_REMOVE = """
    select cron.unschedule(j.jobid) from cron.job j
    where starts_with(j.jobname, 'pg_grace: ') and j.database = %(database)s
"""
_REMOVE_OLD = _REMOVE + " and starts_with(j.jobname, 'pg_grace: rule-') and j.jobname <> all (%(wanted)s)"
_REMOVE_OTHERS = _REMOVE + " and j.jobname = %(cron_job)s and j.username <> %(owner)s"
_IS_RIGHT = """
    select from cron.job j
    where j.jobname = %(cron_job)s and j.database = %(database)s and j.schedule = %(schedule)s
      and j.command = %(command)s and j.username = %(owner)s
"""
_SCHEDULE = "select cron.schedule_in_database(%(cron_job)s, %(schedule)s, %(command)s, %(database)s{as_owner})"
_OWNER = """
    select pg_catalog.current_database() as database, pg_catalog.pg_get_userbyid(n.nspowner)::text as owner
    from pg_catalog.pg_namespace n
    where n.nspname = 'grace'
"""


@dataclass(frozen=True)
class Elsewhere:
    """The database that pg_cron works from, and the jobs that should be there."""

    target: Target
    database: str
    purged: str
    owner: str
    wanted: list[dict[str, Any]]

    def ensure_jobs(self) -> str | None:
        """Make the jobs what they should be, each run as the owner of pg_grace; return why that can't be done."""
        return self._run(self._ensure)

    def remove_jobs(self) -> str | None:
        """Remove the jobs; return why that can't be done, None when it is."""
        return self._run(self._remove)

    def jobs(self) -> list[dict[str, Any]]:
        """Return pg_cron's jobs for the database that is purged and how they have run.

        Raises psycopg.Error or CommandError where they can't be read.
        """
        with connect(self.target, self.database) as there:
            return there.execute(_JOBS, {"database": self.purged}).fetchall()

    def _ensure(self, there: Connection) -> None:
        me = there.execute("select current_user::text as name").fetchone()
        assert me is not None
        as_owner = "" if me["name"] == self.owner else ", %(owner)s"
        there.execute(_REMOVE_ORPHANS)
        there.execute(_REMOVE_OLD, {"database": self.purged, "wanted": [job["cron_job"] for job in self.wanted]})
        for job in self.wanted:
            values = {**job, "database": self.purged, "owner": self.owner}
            there.execute(_REMOVE_OTHERS, values)
            if there.execute(_IS_RIGHT, values).fetchone() is None:
                there.execute(_SCHEDULE.format(as_owner=as_owner), values)

    def _remove(self, there: Connection) -> None:
        there.execute(_REMOVE, {"database": self.purged})
        there.execute(_REMOVE_ORPHANS)

    def _run(self, work: Callable[[Connection], None]) -> str | None:
        try:
            with connect(self.target, self.database) as there, there.transaction():
                work(there)
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
    wanted = connection.execute("select * from grace._cron_elsewhere()").fetchall()
    here = connection.execute(_OWNER).fetchone()
    if not wanted or here is None:
        return None
    return Elsewhere(target, wanted[0]["database"], here["database"], here["owner"], wanted)


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
