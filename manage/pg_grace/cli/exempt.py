"""exempt add, list, drop."""

from __future__ import annotations

import click

from pg_grace.cli.options import Settings, confirm, connected, read_key, yes_option
from pg_grace.cli.preview import plain_key
from pg_grace.cli.rule import rule_named
from pg_grace.connection import Connection
from pg_grace.output import escaped, note, print_record, print_rows
from pg_grace.times import read_time

_COLUMNS = (
    "id",
    "rule",
    "table",
    "key",
    "reason",
    "until",
    "is_active",
    "created_at",
    "created_by",
    "dropped_at",
    "dropped_by",
)
_ON_TERMINAL = {
    "id": "id",
    "rule": "rule",
    "table": "table",
    "key": "key",
    "reason": "reason",
    "until": "until",
    "is_active": "active",
    "created_at": "since",
    "created_by": "by",
    "dropped_at": "dropped at",
    "dropped_by": "dropped by",
}


@click.group()
def exempt() -> None:
    """Take the planned deletion off single records, and put it back."""


@exempt.command("add")
@click.argument("rule")
@click.option("--key", required=True, metavar="KEY", help="The record's primary key: 7, or id=7,line=2.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is kept.")
@click.option("--until", metavar="TIME", help="Only until then: 2027-03-31. Otherwise for good.")
@connected
def add(connection: Connection, settings: Settings, *, rule: str, key: str, reason: str, until: str | None) -> None:
    """Take a record off a rule; in place of an exemption that it may have had."""
    ends = read_time(connection, "until", until)
    former = connection.execute(
        "select e.id, e.reason from grace.exemptions e where e.rule = %s and e.is_active and e.key = any ("
        " select p.record_key from grace.planned(key => %s::jsonb, rule => %s) p)",
        (rule, read_key(key), rule),
    ).fetchone()
    made = connection.execute(
        "select grace.exempt(%s, %s::jsonb, %s, %s) as id", (rule, read_key(key), reason, ends)
    ).fetchone()
    assert made is not None
    row = connection.execute(
        "select id, rule, target::text as table, key, reason, until from grace.exemptions where id = %s", (made["id"],)
    ).fetchone()
    assert row is not None
    if settings.output_format != "table":
        print_record(row, settings.output_format)
        return
    note(f'exemption {row["id"]}: "{rule}" does not act on {row["table"]} {plain_key(row["key"])}')
    if former:
        note(f"in place of exemption {former['id']}: {escaped(former['reason'])}")


@exempt.command("list")
@click.argument("rule", required=False)
@click.option("--all", "everything", is_flag=True, help="Also those that have ended.")
@connected
def list_exemptions(connection: Connection, settings: Settings, *, rule: str | None, everything: bool) -> None:
    """List the exemptions: which record, who said so, and why."""
    if rule is not None:
        rule_named(connection, rule)
    rows = connection.execute(
        "select *, target::text as table from grace.exemptions"
        " where (%(rule)s::text is null or rule = %(rule)s) and (%(everything)s or is_active) order by id",
        {"rule": rule, "everything": everything},
    ).fetchall()
    if settings.output_format == "table":
        rows = [{**row, "key": plain_key(row["key"])} for row in rows]
    print_rows(rows, _COLUMNS, settings.output_format, _ON_TERMINAL)
    if not rows:
        note("no record is exempt" if not everything else "no record was ever exempt")


@exempt.command("drop")
@click.argument("number", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@yes_option
@connected
def drop(connection: Connection, settings: Settings, *, number: int, yes: bool) -> None:  # noqa: ARG001
    """Put a record back under its rule; who had exempted it, and why, is kept."""
    row = connection.execute(
        "select rule, target::text as table, key, reason from grace.exemptions where id = %s and is_active", (number,)
    ).fetchone()
    if row is not None:  # else the server says what is wrong
        record = f"{row['table']} {plain_key(row['key'])}"
        confirm(
            escaped(f'Rule "{row["rule"]}" then acts on {record} (exempt: {row["reason"]}). End the exemption?'),
            yes=yes,
        )
    connection.execute("select grace.end_exemption(%s)", (number,))
    note(f"exemption {number} has ended: the rule acts on the record again when it is due")
