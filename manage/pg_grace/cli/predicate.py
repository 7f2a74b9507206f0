"""A filter's condition built from parts: what --is, --older and the like say, as the SQL that --where would say."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import click
import psycopg
from psycopg import sql

from pg_grace.cli.options import read_age, split_list
from pg_grace.connection import Connection

_COLUMNS = """
    select a.attname::text as name, t.typcategory = 'S' as is_text
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""


@dataclass(frozen=True)
class Part:
    """One option and what it was given: Part("is", "status=won"), Part("empty", "phone")."""

    option: str
    text: str


def condition(connection: Connection, table: int, parts: Iterable[Part], *, any_of: bool, where: str | None) -> str:
    """Return the parts, all of them or any, and the condition given beside them as one condition.

    Raises click.BadParameter for a part that can't be read and for a column that the table does not have.
    """
    columns = {row["name"]: row["is_text"] for row in connection.execute(_COLUMNS, (table,)).fetchall()}
    parts = list(parts)
    if not any_of:
        _refuse_two_values(parts)
    built = [_condition(connection, columns, part) for part in parts]
    text = sql.SQL(" or " if any_of else " and ").join(built).as_string(connection)
    if where is None or not text:
        return where or text
    _check_alone(connection, table, where)
    return f"({text}) and ({where}\n)"  # a comment at its end ends there


def _refuse_two_values(parts: Iterable[Part]) -> None:
    """Refuse --is status=a --is status=b: all parts must hold, and no row has two values."""
    columns = Counter(part.text.partition("=")[0].strip() for part in parts if part.option == "is")
    for column, count in columns.items():
        if count > 1:
            raise click.BadParameter(
                f"no row has two values of {column}; say --in {column}=A,B, or --any", param_hint="--is"
            )


def _check_alone(connection: Connection, table: int, where: str) -> None:
    """Refuse what would get out of the brackets that it stands in beside the parts: "true) or (true"."""
    check = "select grace._check_predicate(grace._check_target(%s::oid::regclass), %s)"
    connection.execute(check, (table, where))
    try:
        connection.execute(check, (table, f"true = all (array[{where}\n])"))
    except psycopg.Error as error:
        raise click.BadParameter(f"{where!r} is not one condition: see its brackets", param_hint="--where") from error


def _condition(connection: Connection, columns: dict[str, bool], part: Part) -> sql.Composable:
    hint = f"--{part.option}"
    if part.option in ("empty", "filled"):
        name = _known(columns, part.text.strip(), hint)
        return (_empty if part.option == "empty" else _filled)(sql.Identifier(name), is_text=columns[name])
    name, separator, value = part.text.partition("=")
    if not separator or not name.strip():
        raise click.BadParameter(f"{part.text!r} is not COLUMN=VALUE", param_hint=hint)
    column = sql.Identifier(_known(columns, name.strip(), hint))
    if part.option in ("older", "newer"):
        age = sql.Literal(read_age(connection, part.option, value))
        return sql.SQL("{} {} now() - interval {}").format(
            column, sql.SQL("<" if part.option == "older" else ">="), age
        )
    if part.option == "in":
        values = [sql.Literal(element) for element in split_list(value)]
        if not values:
            raise click.BadParameter(f"{part.text!r} names no value", param_hint=hint)
        return sql.SQL("{} in ({})").format(column, sql.SQL(", ").join(values))
    operator = sql.SQL("=" if part.option == "is" else "is distinct from")
    return sql.SQL("{} {} {}").format(column, operator, sql.Literal(value))


def values_not_there(connection: Connection, table: int, parts: Iterable[Part]) -> list[str]:
    """Return, in words, which values that --is and --in ask for no row has, with the ones it may have meant."""
    columns = {row["name"]: row["is_text"] for row in connection.execute(_COLUMNS, (table,)).fetchall()}
    row = connection.execute("select grace._check_target(%s::oid::regclass) as source", (table,)).fetchone()
    assert row is not None
    source = sql.SQL(row["source"])
    said = []
    for part in parts:
        if part.option not in ("is", "in"):
            continue
        name, _, text = part.text.partition("=")
        name = name.strip()
        for value in split_list(text) if part.option == "in" else [text]:
            alone = _condition(connection, columns, Part("is", f"{name}={value}"))
            if connection.execute(sql.SQL("select from {} where {} limit 1").format(source, alone)).fetchone() is None:
                said.append(f"no row has {name} {value}{_near(connection, source, name, value)}")
    return said


def _near(connection: Connection, source: sql.SQL, column: str, value: str) -> str:
    rows = connection.execute(
        sql.SQL("select distinct {0}::text as value from {1} where {0} is not null limit 1000").format(
            sql.Identifier(column), source
        )
    ).fetchall()
    values = {row["value"].casefold(): row["value"] for row in rows}
    near = difflib.get_close_matches(value.casefold(), values, n=3)
    return f"; there is {', '.join(values[match] for match in near)}" if near else ""


def _empty(column: sql.Identifier, *, is_text: bool) -> sql.Composable:
    return sql.SQL("({0} is null or {0} = '')" if is_text else "{0} is null").format(column)


def _filled(column: sql.Identifier, *, is_text: bool) -> sql.Composable:
    return sql.SQL("{0} <> ''" if is_text else "{0} is not null").format(column)


def _known(columns: dict[str, bool], name: str, hint: str) -> str:
    if name in columns:
        return name
    near = difflib.get_close_matches(name, columns, n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise click.BadParameter(
        f"the table has no column {name!r}{meant} Its columns: {', '.join(columns)}", param_hint=hint
    )
