"""status, tables, deletions, show."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from pg_grace import __version__, migrate
from pg_grace.cli.doctor import findings
from pg_grace.cli.options import (
    Settings,
    around_option,
    connected,
    content_options,
    read_keys,
    selection_options,
    table_named,
    with_options,
)
from pg_grace.connection import Connection
from pg_grace.cron import merged_jobs
from pg_grace.errors import CommandError, Exit
from pg_grace.output import escaped, interval, note, print_rows, size
from pg_grace.times import read_window

TABLE_COLUMNS = ("target", "state", "drift", "retention", "buffered_rows", "size", "oldest", "next_expiry", "buffer")
DELETION_COLUMNS = (
    "id",
    "deleted_at",
    "target",
    "row_count",
    "restored_count",
    "deleted_by",
    "login",
    "application_name",
    "client_addr",
    "reason",
    "expires_at",
    "runs",
)


TABLES_ON_TERMINAL = {
    "target": "table",
    "state": "state",
    "retention": "retention",
    "buffered_rows": "rows",
    "size": "size",
    "oldest": "oldest",
    "next_expiry": "next expiry",
}
DELETIONS_ON_TERMINAL = {
    "id": "id",
    "deleted_at": "deleted at",
    "target": "table",
    "row_count": "rows",
    "restored_count": "restored",
    "runs": "runs",
    "deleted_by": "by",
    "application_name": "application",
    "reason": "reason",
}


@click.command()
@connected
def tables(connection: Connection, settings: Settings) -> None:
    """List what is protected."""
    rows = connection.execute(
        "select *, coalesce(target::text, target_name) as target, buffer::text as buffer, buffer_bytes as size"
        " from grace.protected order by target_name"
    ).fetchall()
    if settings.output_format == "table":
        rows = [{**row, "size": size(row["buffer_bytes"])} for row in rows]
    print_rows(rows, TABLE_COLUMNS, settings.output_format, TABLES_ON_TERMINAL)
    if not rows:
        note("nothing is protected; pg_grace protect TABLE")


@click.command()
@click.argument("table", required=False)
@click.option("--since", metavar="TIME", help="Deleted at or after: yesterday 10:00.")
@click.option("--until", metavar="TIME", help="Deleted before: 2 hours ago.")
@around_option
@click.option("--by", "deleted_by", metavar="ROLE", help="Deleted by this role or login.")
@with_options(content_options)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many rows.")
@connected
def deletions(
    connection: Connection,
    settings: Settings,
    *,
    table: str | None,
    since: str | None,
    until: str | None,
    around: str | None,
    deleted_by: str | None,
    application: str | None,
    reason: str | None,
    where: str | None,
    limit: int,
) -> None:
    """List deletions, newest first: one line per deletion and table.

    --where takes a TABLE: deletions of which a row that it holds for can still be restored.
    """
    if where is not None and table is None:
        raise click.UsageError("--where needs a TABLE, for its columns")
    target = None if table is None else table_named(connection, table)
    begins, ends = read_window(connection, since, until, around, names=("since", "until"))
    values = {
        "target": target,
        "since": begins,
        "until": ends,
        "by": deleted_by,
        "application": application,
        "reason": reason,
        "where": where,
    }
    holding = (
        " and d.id in (select b.deletion_id from grace.buffered(%(target)s::oid::regclass, null, null, %(since)s,"
        " %(until)s, %(by)s, null, %(where)s, %(application)s, %(reason)s) b)"
    )
    with connection.transaction():
        connection.execute("set transaction read only")
        rows = connection.execute(
            "select d.*, coalesce(d.target::text, d.target_name) as target from grace.deletions d"
            " where (%(target)s::oid is null"
            " or d.target = coalesce(pg_partition_root(%(target)s::oid::regclass), %(target)s::oid::regclass))"
            " and (%(since)s::timestamptz is null or d.deleted_at >= %(since)s)"
            " and (%(until)s::timestamptz is null or d.deleted_at < %(until)s)"
            " and (%(by)s::name is null or %(by)s::name in (d.deleted_by, d.login))"
            " and (%(application)s::text is null or strpos(lower(d.application_name), lower(%(application)s)) > 0)"
            " and (%(reason)s::text is null or strpos(lower(d.reason), lower(%(reason)s)) > 0)"
            f"{'' if where is None else holding} order by d.id desc, d.target_name",
            values,
        ).fetchall()
    print_rows(rows[:limit], DELETION_COLUMNS, settings.output_format, DELETIONS_ON_TERMINAL)
    if not rows:
        note("no deletion matches")
    if len(rows) > limit:
        note(f"these are {limit} of {len(rows)}; narrow the search, or say --limit")


@click.command()
@click.argument("table")
@selection_options
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many rows.")
@click.option("--count", "counts", is_flag=True, help="Only how many there are, by deletion.")
@connected
def show(
    connection: Connection,
    settings: Settings,
    *,
    table: str,
    deletion: int | None,
    keys: tuple[str, ...],
    deleted_from: str | None,
    deleted_to: str | None,
    around: str | None,
    deleted_by: str | None,
    application: str | None,
    reason: str | None,
    where: str | None,
    limit: int,
    counts: bool,
) -> None:
    """Show the deleted rows of a table that can be restored, newest first."""
    oid = table_named(connection, table)
    begins, ends = read_window(connection, deleted_from, deleted_to, around)
    values = {
        "target": oid,
        "deletion": deletion,
        "keys": read_keys(keys),
        "from": begins,
        "to": ends,
        "by": deleted_by,
        "limit": None if counts else limit + 1,
        "where": where,
        "application": application,
        "reason": reason,
    }
    source = (
        "grace.buffered(%(target)s::oid::regclass, %(deletion)s, %(keys)s::jsonb, %(from)s, %(to)s, %(by)s, %(limit)s,"
        " %(where)s, %(application)s, %(reason)s)"
    )
    with connection.transaction():
        connection.execute("set transaction read only")
        if counts:
            rows = connection.execute(
                f"select deletion_id as deletion, deleted_at, count(*) as rows from {source}"
                " group by deletion_id, deleted_at order by deleted_at desc, deletion_id desc",
                values,
            ).fetchall()
            print_rows(rows, ("deletion", "deleted_at", "rows"), settings.output_format)
            return
        rows = connection.execute(
            f"select deletion_id as deletion, deleted_at, expires_at, record from {source}",
            values,
        ).fetchall()
    if settings.output_format == "json":
        print_rows(rows[:limit], ("deletion", "deleted_at", "expires_at", "record"), settings.output_format)
    else:
        columns = _columns(connection, oid)
        own = {name: f"grace_{name}" if name in columns else name for name in ("deletion", "deleted_at")}
        flat = [{**row["record"], **{own[name]: row[name] for name in own}} for row in rows[:limit]]
        print_rows(flat, [*own.values(), *columns], settings.output_format)
    if not rows:
        note("no row that can be restored matches")
    if len(rows) > limit:
        note(f"there are more than these {limit}; narrow the search, or say --limit; --count counts them")


def _columns(connection: Connection, oid: int) -> list[str]:
    """Return the columns of a table's buffer but the buffer's own, in their order."""
    rows = connection.execute(
        "select a.attname as name from grace.protected p join pg_attribute a on a.attrelid = p.buffer"
        " where p.target = coalesce(pg_partition_root(%(oid)s::oid::regclass), %(oid)s::oid::regclass)"
        " and a.attnum > 0 and not a.attisdropped and a.attname not in ('grace_deletion', 'grace_deleted_at')"
        " order by a.attnum",
        {"oid": oid},
    ).fetchall()
    return [row["name"] for row in rows]


@click.command()
@connected
def status(connection: Connection, settings: Settings) -> None:
    """Say in a few lines how things stand."""
    revision = migrate.installed_revision(connection)
    if revision is None:
        raise CommandError(
            "pg_grace is not installed in this database\nHINT:  Install it: pg_grace install", Exit.REFUSED
        )
    summary = connection.execute(
        "select current_database() as database, current_setting('server_version') as server,"
        " (select count(*) from grace.protected where state = 'capturing') as capturing,"
        " (select coalesce(string_agg(coalesce(target::text, target_name) || ': ' || state, ', '), '')"
        "  from grace.protected where state not in ('capturing', 'unprotected')) as not_capturing,"
        " (select coalesce(sum(buffered_rows), 0)::bigint from grace.protected) as buffered_rows,"
        " (select coalesce(sum(buffer_bytes), 0)::bigint from grace.protected) as buffer_bytes,"
        " (select string_agg(format('%s: %s rows', coalesce(target::text, target_name), row_count), ', '"
        "   order by target_name) from grace.expired where row_count > 0) as expired,"
        " (select string_agg(format('%s: what was deleted up to %s', coalesce(target::text, target_name),"
        "   to_char(expired_early_to, 'YYYY-MM-DD HH24:MI TZ')), ', ' order by target_name)"
        "  from grace.protected where expired_early_to > now() - retention) as early,"
        " (select min(next_expiry) from grace.protected) as next_expiry"
    ).fetchone()
    assert summary is not None
    purge = connection.execute(
        "select started_at, status, row_count from grace.runs where kind = 'purge' order by id desc limit 1"
    ).fetchone()
    problems = [
        " ".join(finding[part] for part in ("subject", "object") if finding[part]) + f": {finding['finding']}"
        for finding in findings(connection, settings)
        if finding["severity"] == "problem"
    ]
    facts: dict[str, Any] = {
        "database": f"{summary['database']} (PostgreSQL {summary['server']})",
        "version": f"{__version__} (revision {revision})",
        "tables capturing": summary["capturing"],
        "not capturing": summary["not_capturing"] or "none",
        "rows restorable": summary["buffered_rows"],
        "buffer size": size(summary["buffer_bytes"]),
        "next expiry": summary["next_expiry"],
        "expired, to be purged": summary["expired"] or "nothing",
        "expired early": summary["early"] or "nothing",
        "last purge": None
        if purge is None
        else f"{purge['started_at'].isoformat(sep=' ', timespec='seconds')}, {purge['status']},"
        f" {purge['row_count']} rows",
        **{_job_name(job): _job(job) for job in merged_jobs(connection, settings.target)},
        "problems": len(problems),
    }
    if settings.output_format == "json":
        facts |= {"next expiry": str(facts["next expiry"] or ""), "problems": problems}
        click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    print_rows(
        [{"what": what, "value": "-" if value is None else value} for what, value in facts.items()],
        ("what", "value"),
        settings.output_format,
    )
    for problem in problems:
        click.secho(escaped(problem), fg=None if os.environ.get("NO_COLOR") else "red", err=True)
    if problems:
        note("what to do about it: pg_grace doctor")


def _job_name(job: dict[str, Any]) -> str:
    return f"job {job['job']}" if job["rule"] is None else f'rule "{job["rule"]}"'


def _job(job: dict[str, Any]) -> str:
    """Say in one line when a job runs, by what, and how it last went."""
    words = job["in_words"] or job["schedule"]
    if job["scheduler"] is None:
        return f"{words} ({job['zone']}), but nothing runs it: neither pg_cron nor pg_grace tick"
    parts = [f"{words} ({job['zone']}), by {job['scheduler']}{' as ' + job['login'] if job['login'] else ''}"]
    if job["active"] is False:
        parts.append("switched off")
    elif job["next_start"]:
        parts.append(f"next {job['next_start'].isoformat(sep=' ', timespec='minutes')}")
    if job["last_start"]:
        duration = "" if job["last_duration"] is None else f" in {interval(job['last_duration'])}"
        parts.append(f"last {job['last_start'].isoformat(sep=' ', timespec='seconds')}: {job['last_status']}{duration}")
    else:
        parts.append("not yet run")
    if job["failures"]:
        parts.append(f"failed {job['failures']} times in a row" if job["failures"] > 1 else "failed")
    return "; ".join(parts)
