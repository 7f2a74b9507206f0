"""schedule, tick, retention, capacity, ledger: what runs by itself, what it removes, and the evidence."""

from __future__ import annotations

from typing import Any

import click
import psycopg

from pg_grace.cli.options import Settings, confirm, connected, dry_run_option, read_interval, table_named, yes_option
from pg_grace.connection import Connection
from pg_grace.cron import elsewhere, merged_jobs
from pg_grace.errors import CommandError, Exit, describe
from pg_grace.output import note, number_of, print_rows

JOB_COLUMNS = (
    "job",
    "rule",
    "schedule",
    "in_words",
    "zone",
    "next_start",
    "scheduler",
    "login",
    "active",
    "last_start",
    "last_status",
    "last_duration",
    "last_message",
    "failures",
)
JOBS_ON_TERMINAL = {
    "job": "job",
    "rule": "rule",
    "schedule": "schedule",
    "in_words": "in words",
    "zone": "time zone",
    "next_start": "next start",
    "scheduler": "by",
    "last_start": "last start",
    "last_status": "last status",
}


@click.command()
@click.argument("job", required=False)
@click.argument("schedule", required=False)
@dry_run_option
@connected
def schedule(
    connection: Connection, settings: Settings, *, job: str | None, schedule: str | None, dry_run: bool
) -> None:
    """Show what runs by itself, or set when: pg_grace schedule purge "0 3 * * *".

    SCHEDULE is what cron reads: minute, hour, day of month, month, day of week.
    """
    if job is None or schedule is None:
        jobs = [row for row in merged_jobs(connection, settings.target) if job in (None, row["job"])]
        if job is not None and not jobs:
            raise click.UsageError(f"there is no job {job}")
        print_rows(jobs, JOB_COLUMNS, settings.output_format, JOBS_ON_TERMINAL)
        return
    with connection.transaction(force_rollback=dry_run):
        row = connection.execute("select * from grace.set_schedule(%s, %s)", (job, schedule)).fetchone()
    if not dry_run:
        tell_pg_cron(connection, settings)
    assert row is not None
    if settings.output_format != "table":
        print_rows([{"job": job, **row}], ("job", "in_words", "zone", "next_times"), settings.output_format)
        return
    times = ", ".join(time.isoformat(sep=" ", timespec="minutes") for time in row["next_times"])
    click.echo(f"{job} {'would run' if dry_run else 'runs'} {row['in_words']} ({row['zone']}); next: {times}")
    if all(known["scheduler"] is None for known in merged_jobs(connection, settings.target)):
        note("nothing runs it yet: neither pg_cron nor pg_grace tick")


def tell_pg_cron(connection: Connection, settings: Settings) -> None:
    """Carry the jobs to where pg_cron works from another database; SQL does it where it works from this one."""
    there = elsewhere(connection, settings.target)
    obstacle = there.ensure_jobs() if there else None
    if there and obstacle:
        note(f'pg_cron in database "{there.database}" could not be told: {obstacle}')


@click.command()
@connected
def tick(connection: Connection, settings: Settings) -> None:
    """Run what is due, once: from cron, systemd or Kubernetes, at any interval, from any number of hosts.

    For where pg_cron can't be had; beside pg_cron it makes up for what that has missed.
    """
    before = connection.execute("select coalesce(max(id), 0) as id from grace.runs").fetchone()
    assert before is not None
    failures = 0
    while True:
        claimed = _claims(connection)
        try:
            connection.execute("call grace.tick()")
        except psycopg.Error as error:
            if connection.closed or _claims(connection) == claimed:
                raise  # no job's error
            failures += 1
            note(f"Error: {describe(error)}")
            continue  # the job that failed has had its turn; the others have theirs
        break
    runs = connection.execute(
        "select id as run, coalesce(job, kind) as job, status, row_count, duration from grace.runs"
        " where id > %s and kind in ('purge', 'capacity', 'job') order by id",
        (before["id"],),
    ).fetchall()
    if runs or settings.output_format != "table":
        print_rows(runs, ("run", "job", "status", "row_count", "duration"), settings.output_format)
    elif not failures:
        click.echo("nothing is due")
    if failures or any(run["status"] in {"failed", "aborted"} for run in runs):
        raise CommandError("not everything that was due is done", Exit.FAILED)


def _claims(connection: Connection) -> list[Any]:
    return connection.execute("select job, ticked_at from grace.jobs() where job <> 'watch' order by job").fetchall()


@click.command()
@click.argument("table")
@click.argument("duration", required=False, metavar="[INTERVAL]")
@click.option("--cascade", is_flag=True, help="Also for all protected tables that lose rows with it.")
@dry_run_option
@yes_option
@connected
def retention(
    connection: Connection,
    settings: Settings,
    *,
    table: str,
    duration: str | None,
    cascade: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Show, or set, for how long rows deleted from a table stay restorable: pg_grace retention crm.email "14 days".

    Applies at once to what is buffered already, so a shorter one asks.
    """
    oid = table_named(connection, table)
    now = connection.execute(
        "select coalesce(target::text, target_name) as table, retention, retention::text as words, buffered_rows,"
        " oldest, next_expiry from grace.protected"
        " where target = coalesce(pg_partition_root(%(oid)s::oid::regclass), %(oid)s::oid::regclass)",
        {"oid": oid},
    ).fetchone()
    if now is None:
        raise CommandError(
            f"table {table} is not protected\nHINT:  Protect it: pg_grace protect TABLE\nSQLSTATE: GR001",
            Exit.REFUSED,
        )
    if duration is None:
        print_rows([now], ("table", "retention", "oldest", "next_expiry"), settings.output_format)
        return
    try:
        wanted = read_interval(connection, "retention", duration)
    except click.BadParameter as error:
        raise click.UsageError(error.message) from error
    which = f"{table} and of what loses rows with it" if cascade else table
    expires = _set_retention(connection, oid, wanted, cascade=cascade, dry_run=True)
    if dry_run:
        note(f"{number_of(expires, 'row')} of {which} would expire at once")
        return
    shorter = connection.execute("select %s::interval < %s::interval as is", (wanted, now["words"])).fetchone()
    assert shorter is not None
    if expires or (shorter["is"] and now["buffered_rows"]):
        confirm(
            f"{number_of(expires, 'row')} of {which} that can be restored now would expire at once, and the next purge"
            " removes them for good; the rest expires sooner."
            f" Set the retention to {wanted} instead of {now['words']}?",
            yes=yes,
        )
    connection.execute("set client_min_messages = warning")  # the notice has been shown
    expires = _set_retention(connection, oid, wanted, cascade=cascade, dry_run=False)
    note(
        f"retention of {which}: {wanted}" if cascade else f"what is deleted from {table} stays restorable for {wanted}"
    )
    if expires:
        purge = next(job for job in merged_jobs(connection, settings.target) if job["job"] == "purge")
        note(f"{number_of(expires, 'row')} expired; next purge: {_when(purge)}")


def _set_retention(connection: Connection, oid: int, wanted: str, *, cascade: bool, dry_run: bool) -> int:
    row = connection.execute(
        "select grace.set_retention(%s::oid::regclass, %s::interval, %s, %s) as expires",
        (oid, wanted, dry_run, cascade),
    ).fetchone()
    assert row is not None
    return int(row["expires"])


def _when(job: dict[str, Any]) -> str:
    if job["scheduler"] is None or job["next_start"] is None:
        return "none is scheduled; pg_grace purge"
    return str(job["next_start"].isoformat(sep=" ", timespec="minutes"))


@click.command()
@click.argument("size", required=False)
@click.argument("table", required=False)
@dry_run_option
@yes_option
@connected
def capacity(
    connection: Connection, settings: Settings, *, size: str | None, table: str | None, dry_run: bool, yes: bool
) -> None:
    """Show, or set, how big buffers may become before their oldest days go early: pg_grace capacity "20 GB" crm.email.

    Without a table for all buffers together. SIZE "off" takes it away, which is the default.
    """
    if size is None:
        rows = connection.execute(
            "select coalesce(target::text, target_name) as table, capacity, buffer_bytes, oldest, expired_early_to"
            " from grace.protected union all"
            " select null, grace.capacity(), sum(buffer_bytes)::bigint, min(oldest), null"
            " from grace.protected order by 1"
        ).fetchall()
        columns = ("table", "capacity", "buffer_bytes", "oldest", "expired_early_to")
        print_rows(rows, columns, settings.output_format)
        return
    wanted = None if size == "off" else size
    oid = None if table is None else table_named(connection, table)
    early = _set_capacity(connection, wanted, oid, dry_run=True)
    lines = [
        f"{row['target_name']}: {number_of(row['row_count'], 'row')}, deleted up to"
        f" {row['deleted_before'].isoformat(sep=' ', timespec='seconds')}"
        for row in early
    ]
    if dry_run:
        note("the next purge would let go early:" if lines else "nothing would go early")
        for line in lines:
            note(f"  {line}")
        return
    if lines:
        for line in lines:
            note(line)
        confirm("The next purge removes these for good before their time. Set this capacity?", yes=yes)
    _set_capacity(connection, wanted, oid, dry_run=False)
    whose = "all buffers together" if table is None else f"the buffer of {table}"
    note(f"{whose} may become {'as big as they get' if wanted is None else size}")


def _set_capacity(connection: Connection, size: str | None, oid: int | None, *, dry_run: bool) -> list[dict[str, Any]]:
    return connection.execute(
        "select * from grace.set_capacity(%s, %s::oid::regclass, %s)", (size, oid, dry_run)
    ).fetchall()


@click.group()
def ledger() -> None:
    """Show and check the record of what has gone for good."""


@ledger.command("show")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many entries.")
@connected
def show_ledger(connection: Connection, settings: Settings, *, limit: int) -> None:
    """List the entries, newest first."""
    rows = connection.execute("select * from grace.ledger order by id desc limit %s", (limit,)).fetchall()
    columns = ("id", "at", "run", "action", "target_name", "row_count", "deleted_before", "role", "hash")
    headings = {name: name.replace("_", " ") for name in columns if name != "hash"} | {"target_name": "table"}
    print_rows(rows, columns, settings.output_format, headings)


@ledger.command("verify")
@connected
def verify_ledger(connection: Connection, settings: Settings) -> None:
    """Check that no entry was changed, removed or put in by hand; exit code 5 when one was."""
    found = connection.execute("select * from grace.verify_ledger()").fetchall()
    last = connection.execute("select id, hash from grace.ledger order by id desc limit 1").fetchone()
    if found or settings.output_format != "table":
        print_rows(found, ("id", "finding"), settings.output_format)
    if found:
        raise CommandError(f"{number_of(len(found), 'finding')} in the ledger", Exit.FOUND_SOMETHING)
    if last is None:
        note("the ledger is empty")
    else:
        note(f"as it was written, up to entry {last['id']}, hash {last['hash']}")
