"""The command line: parses, calls SQL, prints."""

from __future__ import annotations

import click

from pg_grace import __version__
from pg_grace.cli import (
    demo,
    doctor,
    exempt,
    files,
    filter,
    hold,
    install,
    look,
    metrics,
    protect,
    purge,
    restore,
    rule,
    runs,
    schedule,
)
from pg_grace.cli.options import Settings
from pg_grace.connection import Target


@click.group(context_settings={"help_option_names": ["--help"]})
@click.option("-d", "--dbname", metavar="NAME", help="Database name, connection string or URI.")
@click.option("-h", "--host", metavar="HOST", help="Server's host or socket folder.")
@click.option("-p", "--port", metavar="PORT", help="Server's port.")
@click.option("-U", "--username", metavar="ROLE", help="Role to connect as.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How results are printed.",
)
@click.version_option(__version__, prog_name="pg_grace")
@click.pass_context
def main(
    context: click.Context,
    dbname: str | None,
    host: str | None,
    port: str | None,
    username: str | None,
    output_format: str,
) -> None:
    """Every DELETE gets a grace period.

    Connects as psql does: PG* variables, services and .pgpass work. Data goes to stdout, everything else to stderr.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no connection, 4 refused, 5 check found something, 130 interrupted.
    """
    context.obj = Settings(Target(dbname, host, port, username), output_format)


for command in (
    install.install,
    install.upgrade,
    install.uninstall,
    doctor.doctor,
    look.status,
    demo.demo,
    protect.protect,
    protect.unprotect,
    protect.sync,
    look.tables,
    look.deletions,
    look.show,
    restore.restore,
    purge.purge,
    filter.filters,
    rule.rules,
    exempt.exempt,
    runs.runs,
    runs.run,
    schedule.tick,
    schedule.schedule,
    schedule.retention,
    schedule.capacity,
    schedule.ledger,
    hold.hold,
    files.files,
    metrics.metrics,
):
    main.add_command(command)
