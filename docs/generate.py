"""Writes the two references: of SQL from COMMENT ON, of the command line from --help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from pg_grace import migrate
from pg_grace.cli import main
from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect

FOLDER = Path(__file__).parent
_ROUTINES = """
select p.proname as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
  obj_description(p.oid, 'pg_proc') as comment, p.prokind::text as kind
from pg_proc p
where p.pronamespace = 'grace'::regnamespace and p.proname !~ '^_'
order by p.proname
"""
_VIEWS = """
select c.oid, c.relname as name, obj_description(c.oid, 'pg_class') as comment
from pg_class c
where c.relnamespace = 'grace'::regnamespace and c.relkind = 'v' and c.relname !~ '^_'
order by c.relname
"""
_COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
  coalesce(col_description(a.attrelid, a.attnum), '') as comment
from pg_attribute a
where a.attrelid = %s and a.attnum > 0
order by a.attnum
"""


def sql_reference(connection: Connection) -> str:
    """Return the reference of all public functions, procedures and views."""
    lines = [
        "# SQL reference",
        "",
        "Generated from the comments on the objects; `\\df+ grace.*` in psql shows the same.",
        "",
    ]
    for routine in connection.execute(_ROUTINES.encode()).fetchall():
        call = "call " if routine["kind"] == "p" else ""
        result = f" → {routine['result']}" if routine["result"] else ""
        signature = f"{call}grace.{routine['name']}({routine['arguments']}){result}"
        lines += [f"## {routine['name']}", "", "```", signature, "```", "", routine["comment"], ""]
    for view in connection.execute(_VIEWS.encode()).fetchall():
        lines += [f"## {view['name']} (view)", "", view["comment"], "", "| Column | Type | |", "|---|---|---|"]
        for column in connection.execute(_COLUMNS, (view["oid"],)).fetchall():
            lines.append(f"| `{column['name']}` | {column['type']} | {column['comment']} |")
        lines.append("")
    return "\n".join(lines)


def cli_reference() -> str:
    """Return the help of the command and of all its subcommands."""
    lines = ["# Command-line reference", "", "Generated from `--help`.", ""]
    for name, command in _commands("pg_grace", main):
        context = click.Context(command, info_name=name, terminal_width=100)
        lines += [f"## {name}", "", "```", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for own, subcommand in command.commands.items():
            yield from _commands(f"{name} {own}", subcommand)


def documents(connection: Connection) -> dict[str, str]:
    """Return both references by file name."""
    return {"sql-reference.md": sql_reference(connection), "cli-reference.md": cli_reference()}


if __name__ == "__main__":
    with Cluster() as cluster, connect(Target(cluster.conninfo())) as session:
        migrate.install(session)
        for file_name, text in documents(session).items():
            (FOLDER / file_name).write_text(text, encoding="utf-8")
