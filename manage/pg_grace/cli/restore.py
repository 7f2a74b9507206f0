"""restore."""

from __future__ import annotations

import json
from typing import Any

import click

from pg_grace.cli.options import (
    Settings,
    ask_which,
    confirm,
    connected,
    dry_run_option,
    read_keys,
    selection_options,
    table_named,
    yes_option,
)
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import escaped, note, number_of, print_rows, to_json
from pg_grace.progress import RestoreProgress
from pg_grace.times import read_window

_CALL = (
    "select run, restored_table::text as table, restored, replaced, skipped, older, relinked, left_behind, conflicts"
    " from grace.restore(%(target)s::oid::regclass, %(deletion)s::bigint, %(keys)s::jsonb, %(from)s::timestamptz,"
    " %(to)s::timestamptz, %(by)s::name, related => %(related)s, on_conflict => %(on_conflict)s,"
    " set_values => %(set_values)s::jsonb, into_table => %(into)s::oid::regclass, dry_run => %(dry_run)s,"
    " predicate => %(where)s, with_parents => %(with_parents)s, relink => %(relink)s, triggers => %(triggers)s,"
    " application => %(application)s, reason => %(reason)s)"
)
_COLUMNS = ("table", "restored", "replaced", "skipped", "older", "relinked", "left_behind", "conflicts")
_CONFLICTS_SHOWN = 100
_DELETIONS_SHOWN = 10


@click.command()
@click.argument("table", required=False)
@selection_options
@click.option("--newest", is_flag=True, help="Of several versions of a key the newest; don't ask which.")
@click.option("--alone", is_flag=True, help="Only the rows selected, not what went with them.")
@click.option("--with-parents", is_flag=True, help="Also parents that went in another deletion.")
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="Stop; restore the rest; or overwrite rows with the same key.",
)
@click.option("--set", "given", multiple=True, metavar="COLUMN=VALUE", help="In place of what was captured.")
@click.option("--set-null", "nulls", multiple=True, metavar="COLUMN", help="NULL in place of what was captured.")
@click.option("--into", metavar="TABLE", help="Write a copy into this table; the buffer stays as it is.")
@click.option("--no-relink", is_flag=True, help="Leave references that the deletion set to null or default.")
@click.option("--no-triggers", is_flag=True, help="Without the application's triggers; takes the tables' owner.")
@dry_run_option
@yes_option
@connected
def restore(
    connection: Connection,
    settings: Settings,
    *,
    table: str | None,
    deletion: int | None,
    keys: tuple[str, ...],
    deleted_from: str | None,
    deleted_to: str | None,
    around: str | None,
    deleted_by: str | None,
    application: str | None,
    reason: str | None,
    where: str | None,
    newest: bool,
    alone: bool,
    with_parents: bool,
    on_conflict: str,
    given: tuple[str, ...],
    nulls: tuple[str, ...],
    into: str | None,
    no_relink: bool,
    no_triggers: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Put deleted rows back, with what hung on them and the parents that they need: all of it, or nothing.

    Only what went in the same deletion comes along; of a parent not its other children. --deletion ID alone restores
    a whole deletion.

    A conflict (a key that is taken, a parent that is missing) stops everything, and every conflict is listed;
    --on-conflict says otherwise. --set and --set-null take COLUMN of TABLE, or TABLE.COLUMN.
    """
    target = None if table is None else table_named(connection, table)
    begins, ends = read_window(connection, deleted_from, deleted_to, around)
    selection: dict[str, Any] = {
        "target": target,
        "deletion": deletion,
        "keys": read_keys(keys),
        "from": begins,
        "to": ends,
        "by": deleted_by,
        "application": application,
        "reason": reason,
        "where": where,
        "related": not alone,
        "with_parents": with_parents,
        "on_conflict": on_conflict,
        "set_values": _set_values(given, nulls),
        "into": None if into is None else table_named(connection, into),
        "relink": not no_relink,
        "triggers": not no_triggers,
        "dry_run": dry_run,
    }
    if keys and deletion is None and not newest:
        selection["deletion"] = _version(connection, selection, table)
    if dry_run:
        with connection.transaction():
            connection.execute("set transaction read only")
            rows = connection.execute(_CALL, selection).fetchall()
        _print(rows, settings.output_format, ("table", "restored", "conflicts"), copied=into is not None)
        stopping = 0 if on_conflict == "skip" else sum(len(row["conflicts"]) for row in rows)
        if stopping:
            raise CommandError(f"{number_of(stopping, 'conflict')} would stop this restore", Exit.REFUSED)
        return
    if around is not None or on_conflict == "replace":
        _confirm(connection, selection, yes=yes)
    connection.execute("select set_config('grace.progress', 'on', false)")
    with RestoreProgress(settings.target, _total(connection, selection)):
        rows = connection.execute(_CALL, selection).fetchall()
    _print(rows, settings.output_format, ("table", "restored"), copied=into is not None)
    _say_what_was_done(connection, rows, into)


def _set_values(given: tuple[str, ...], nulls: tuple[str, ...]) -> str | None:
    values: dict[str, str | None] = {}
    for text in given:
        column, separator, value = text.partition("=")
        if not separator or not column.strip():
            raise click.BadParameter(f"{text!r} is not COLUMN=VALUE", param_hint="--set")
        values[column.strip()] = value
    values |= dict.fromkeys(nulls)
    if len(values) < len(given) + len(nulls):
        raise click.BadParameter("a column is given twice", param_hint="--set")
    return json.dumps(values) if values else None


def _version(connection: Connection, selection: dict[str, Any], table: str | None) -> int | None:
    """Return the deletion that is meant where keys have several versions: one asks, and never guesses.

    Raises CommandError where nobody is there to be asked.
    """
    versions = connection.execute(
        "select b.deletion_id, b.deleted_at, b.record from grace.buffered(%(target)s::oid::regclass, null,"
        " %(keys)s::jsonb, %(from)s, %(to)s, %(by)s, null, %(where)s, %(application)s, %(reason)s) b",
        selection,
    ).fetchall()
    wanted = {json.dumps(key, sort_keys=True) for key in json.loads(selection["keys"])}
    if len(versions) <= len(wanted):
        return None
    lines = [
        f"deletion {row['deletion_id']}, {row['deleted_at'].isoformat(sep=' ', timespec='seconds')}:"
        f" {escaped(to_json(row['record']))}"
        for row in versions
    ]
    if len(wanted) > 1:
        ask_which(
            f"{table} was deleted more than once with some of these keys:\n" + "\n".join(lines),
            ["the newest of each"],
            ["--newest"],
            "or restore them one by one, with --deletion",
        )
        return None
    chosen = ask_which(
        f"{table} was deleted more than once with such a key",
        lines,
        [f"--deletion {row['deletion_id']}" for row in versions],
        "--newest takes the newest of each",
    )
    return int(versions[chosen]["deletion_id"])


def _confirm(connection: Connection, selection: dict[str, Any], *, yes: bool) -> None:
    """Say what would be done, and ask."""
    with connection.transaction():
        connection.execute("set transaction read only")
        planned = connection.execute(_CALL, {**selection, "dry_run": True}).fetchall()
    for row in planned:
        what = number_of(row["restored"], "row")
        if row["replaced"]:
            what += f", {row['replaced']} of them in place of rows that are there now"
        note(f"{row['table']}: {what}")
    confirm(f"Restore {number_of(sum(row['restored'] for row in planned), 'row')}?", yes=yes)


def _total(connection: Connection, selection: dict[str, Any]) -> int | None:
    """Return how many rows there are at most; None for a selection that must be looked for first."""
    if selection["keys"] is not None or selection["where"] is not None or selection["with_parents"]:
        return None
    row = connection.execute(
        "select sum(d.row_count - d.restored_count)::bigint as total from grace.deletions d"
        " where (%(deletion)s::bigint is null or d.id = %(deletion)s)"
        " and (%(from)s::timestamptz is null or d.deleted_at >= %(from)s)"
        " and (%(to)s::timestamptz is null or d.deleted_at < %(to)s)"
        " and (%(by)s::name is null or %(by)s in (d.deleted_by, d.login))"
        " and (%(related)s or %(target)s::oid is null or d.target = %(target)s::oid)",
        selection,
    ).fetchone()
    return None if row is None else row["total"]


def _print(rows: list[dict[str, Any]], output_format: str, always: tuple[str, ...], *, copied: bool) -> None:
    what = (
        "not copied"
        if copied
        else "left behind, which leaves the buffer with its row (--into a table that has it keeps it)"
    )
    if output_format == "json":
        print_rows(rows, _COLUMNS, output_format)
    else:
        counted = [{**row, "conflicts": len(row["conflicts"]), "left_behind": len(row["left_behind"])} for row in rows]
        columns = [
            name for name in _COLUMNS if output_format == "csv" or name in always or any(row[name] for row in counted)
        ]
        print_rows(counted, columns, output_format)
    lines = [
        f"{row['table']} {to_json(conflict['key'])}: {conflict['reason']} ({conflict['constraint']})"
        for row in rows
        for conflict in row["conflicts"]
    ]
    for line in lines[:_CONFLICTS_SHOWN]:
        note(escaped(line))
    if len(lines) > _CONFLICTS_SHOWN:
        note(f"and {len(lines) - _CONFLICTS_SHOWN} more; --format json lists them all")
    for row in rows:
        for column in row["left_behind"]:
            values = "; ".join(f"{to_json(item['key'])} {to_json(item['value'])}" for item in column["values"])
            more = ", …" if column["rows"] > len(column["values"]) else ""
            note(
                escaped(
                    f"{row['table']}: {number_of(column['rows'], 'value')} of former column {column['column']}"
                    f" {what}: {values}{more}"
                )
            )


def _say_what_was_done(connection: Connection, rows: list[dict[str, Any]], into: str | None) -> None:
    run = rows[0]["run"]
    restored = sum(row["restored"] for row in rows)
    if into is not None:
        note(f"run {run}: {number_of(restored, 'row')} copied into {into}; the deletions stay restorable")
        return
    note(f"run {run}: {number_of(restored, 'row')} {'is' if restored == 1 else 'are'} back")
    skipped = sum(row["skipped"] for row in rows)
    if skipped:
        note(f"{number_of(skipped, 'row')} skipped; they stay restorable")
    relinked = sum(row["relinked"] for row in rows)
    if relinked:
        note(f"{number_of(relinked, 'reference')} tied again")
    older = sum(row["older"] for row in rows)
    if older:
        note(f"{number_of(older, 'older version')} of the same keys stay restorable, by deletion")
    left = connection.execute(
        "select id, string_agg(row_count - restored_count || ' of ' || coalesce(target::text, target_name), ', '"
        " order by target_name) as what from grace.deletions where row_count > restored_count"
        " and id in (select id from grace.deletions where %s = any (runs)) group by id order by id limit %s",
        (run, _DELETIONS_SHOWN + 1),
    ).fetchall()
    for row in left[:_DELETIONS_SHOWN]:
        note(f"still deleted of deletion {row['id']}: {row['what']}")
    if len(left) > _DELETIONS_SHOWN:
        note("and of more: pg_grace deletions")
    again = connection.execute(
        "select r.name, r.target::text as table from grace.rules r"
        " where r.enabled and r.action = 'delete' and r.target in ("
        "   select d.target from grace.deletions d"
        "   where %s = any (d.runs) and starts_with(d.reason, format('rule %%L, run ', r.name))"
        " ) order by r.name",
        (run,),
    ).fetchall()
    for rule in again:
        note(
            f'what is due of it by rule "{rule["name"]}" goes again at its next run: pg_grace rule planned --table'
            f" {rule['table']}; pg_grace exempt add takes a record off"
        )
    overwritten = connection.execute(
        "select details ->> 'overwritten' as deletion from grace.runs where id = %s and details ? 'overwritten'", (run,)
    ).fetchone()
    if overwritten is not None:
        note(f"what was overwritten is deletion {overwritten['deletion']}")
