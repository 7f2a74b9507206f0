"""What a deletion would take with it, and what stands in its way, compared with what really goes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server
from tests.sql.restoring import script
from tests.sql.test_trust import is_superuser, mallory  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
CRM = [ROOT / "examples/crm/schema.sql", ROOT / "examples/crm/data.sql"]
CHINOOK = [ROOT / "tests/data/chinook.sql"]
REFUSED = ("23503", "23502")


def load(conn: Connection, files: list[Path]) -> None:
    for file in files:
        with psycopg.connect(conn.info.dsn, autocommit=True) as session:
            session.execute(file.read_bytes())


@pytest.fixture
def other_db(server: Server, template: str) -> Iterator[Database]:
    with _new_database(server, template) as database:
        yield database


def tables(conn: Connection) -> list[str]:
    return [
        table
        for (table,) in rows(
            conn,
            "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg_|information_schema|grace)'"
            " order by 1",
        )
    ]


def key_of(conn: Connection, table: str) -> list[str]:
    return [
        name
        for (name,) in rows(
            conn,
            "select quote_ident(k) from pg_index i,"
            " unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint[])) k"
            " where i.indrelid = %s::regclass and i.indisprimary",
            table,
        )
    ]


def source_of(conn: Connection, table: str, where: str) -> str:
    return f"(select {', '.join(key_of(conn, table))} from {table} where {where}) as k"


def counts(conn: Connection, table: str, where: str = "true") -> dict[tuple[str, str], int]:
    """What closure_counts says, without tables that nothing happens to; all of it could be read."""
    found = rows(
        conn,
        "select grace_internal.qualified_name(relation), effect, row_count, at_least, reason"
        " from grace_internal.closure_counts(%s::regclass, %s)",
        table,
        source_of(conn, table, where),
    )
    assert [row for row in found if row[3] or row[4]] == []
    return {(relation, effect): count for relation, effect, count, *_ in found if count}


def blockers(conn: Connection, table: str, where: str = "true", more: str = "") -> dict[str, str]:
    found = rows(
        conn,
        f"select key::text, reason from grace_internal.closure_blockers(%s::regclass, %s{more})",
        table,
        source_of(conn, table, where),
    )
    assert len({key for key, _ in found}) == len(found)
    return dict(found)


def closure_rows(conn: Connection, table: str, relation: str, where: str = "true") -> list[tuple[Any, ...]]:
    query = value(
        conn,
        "select grace_internal.closure_rows(%s::regclass, %s, %s::regclass)",
        table,
        source_of(conn, table, where),
        relation,
    )
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog, pg_temp")
        return rows(conn, query + " order by 1, 2")


def delete(conn: Connection, table: str, where: str) -> dict[tuple[str, str], int] | str:
    """What deleting the rows really does, rolled back; or the constraint's error."""
    everything = tables(conn)

    def sizes() -> dict[str, int]:
        return {t: value(conn, f"select count(*) from only {t}") for t in everything if t not in trees} | {
            t: value(conn, f"select count(*) from {t}") for t in trees
        }

    trees = {t for t in everything if value(conn, "select relkind = 'p' from pg_class where oid = %s::regclass", t)}
    before = sizes()
    happened: dict[tuple[str, str], int] = {}
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(f"delete from {table} where {where}".encode())
            conn.execute("set constraints all immediate")
            after = sizes()
            for t in everything:
                happened[t, "deleted"] = before[t] - after[t]
                happened[t, "link cut"] = value(
                    conn,
                    f"select count(*) from {'' if t in trees else 'only '}{t} t"
                    " where t.xmin = pg_current_xact_id()::xid",
                )
    except psycopg.Error as error:
        if error.sqlstate not in REFUSED:
            raise
        return str(error.sqlstate)
    return {what: count for what, count in happened.items() if count}


def records(conn: Connection, table: str) -> list[tuple[str, str]]:
    """Each record: its key as closure_blockers writes it, and a condition that finds it."""
    key = key_of(conn, table)
    names = ", ".join(f"'{name.strip(chr(34))}', {name}" for name in key)
    condition = " || ' and ' || ".join(f"format('%s = %L', '{name}', {name})" for name in key)
    return rows(conn, f"select jsonb_build_object({names})::text, {condition} from {table} order by {', '.join(key)}")


def compare(conn: Connection, dice: random.Random, only: list[str] | None = None, at_most: int = 12) -> None:
    """For rows of each table: who blocks, and what goes with those that don't."""
    conn.execute("analyze")
    for table in only or tables(conn):
        if not key_of(conn, table):
            continue
        found = records(conn, table)
        chosen = dice.sample(found, min(len(found), at_most))
        if not chosen:
            continue
        condition = " or ".join(where for _, where in chosen)
        blocked = blockers(conn, table, condition)
        really = {key: delete(conn, table, where) for key, where in chosen}
        assert {key for key in blocked} == {key for key, result in really.items() if isinstance(result, str)}, (
            table,
            blocked,
            really,
        )
        for key, where in dice.sample(chosen, min(len(chosen), 2)):
            if not isinstance(really[key], str):
                assert counts(conn, table, where) == really[key], (table, key)
        free = [where for key, where in chosen if key not in blocked]
        if free:
            result = delete(conn, table, " or ".join(free))
            if not isinstance(result, str):
                assert counts(conn, table, " or ".join(free)) == result, table


def test_the_crm(conn: Connection) -> None:
    load(conn, CRM)
    compare(conn, random.Random(1))


def with_actions(conn: Connection, dice: random.Random, actions: list[str]) -> None:
    """Give each foreign key another action."""
    for name, table, definition in rows(
        conn,
        "select quote_ident(conname), conrelid::regclass::text, pg_get_constraintdef(oid)"
        " from pg_constraint where contype = 'f' and connamespace::regnamespace::text !~ '^grace' order by conname",
    ):
        plain = definition.split(" ON ")[0]
        conn.execute(
            f"alter table {table} drop constraint {name}, add constraint {name} {plain} {dice.choice(actions)}".encode()
        )


@pytest.mark.parametrize("seed", range(4))
def test_chinook_with_any_actions(conn: Connection, seed: int) -> None:
    load(conn, CHINOOK)
    dice = random.Random(seed)
    if seed:
        with_actions(
            conn, dice, ["on delete cascade", "on delete cascade", "on delete set null", "", "on delete restrict"]
        )
    compare(conn, dice, at_most=6)


ACTIONS = [
    "on delete cascade", "on delete cascade", "on delete cascade", "on delete set null", "on delete set default", "",
    "on delete restrict", "deferrable initially deferred", "deferrable",
]  # fmt: skip


def random_schema(conn: Connection, dice: random.Random, number: int, size: int) -> None:
    """Tables that refer to each other and to themselves in any way, by one column or two."""
    names = [f"s.t{n}" for n in range(number)]
    script(conn, "drop schema if exists s cascade;\ncreate schema s")
    for name in names:
        conn.execute(f"create table {name} (id int primary key, a int not null, b bigint, unique (id, a))".encode())
        conn.execute(
            f"insert into {name} select n, n % 3 from generate_series(1, {size}) n".replace("(1", "(1")
            .replace(f"{name} select", f"{name} (id, a) select")
            .encode()
        )
    for n in range(int(number * 1.7)):
        child, parent = dice.choice(names), dice.choice(names)
        action = dice.choice(ACTIONS)
        kind = dice.choice(["int", "bigint", "smallint"])
        default = f"default {dice.randint(1, size + 2)}" if "default" in action and dice.random() < 0.8 else ""
        conn.execute(f"alter table {child} add f{n} {kind}".encode())
        ids = ", ".join(str(dice.randint(1, size)) for _ in range(size))
        conn.execute(
            f"update {child} set f{n} = case when random() < 0.6 then (array[{ids}])[id] end".encode()
        )
        if default:
            conn.execute(f"alter table {child} alter f{n} set {default}".encode())
        if dice.random() < 0.25:
            conn.execute(f"alter table {child} add g{n} int".encode())
            conn.execute(f"update {child} set g{n} = f{n} % 3".encode())
            conn.execute(
                f"alter table {child} add foreign key (g{n}, f{n}) references {parent} (a, id) {action}".encode()
            )
        else:
            conn.execute(f"alter table {child} add foreign key (f{n}) references {parent} {action}".encode())
        if dice.random() < 0.3:
            conn.execute(f"create index on {child} (f{n})".encode())


@pytest.mark.parametrize("seed", range(int(__import__("os").environ.get("N0", "0")), int(__import__("os").environ.get("N", "25"))))
def test_any_foreign_keys(conn: Connection, seed: int) -> None:
    dice = random.Random(seed)
    conn.execute(f"select setseed({seed / 1000})".encode())
    random_schema(conn, dice, dice.randint(2, 6), 8)
    compare(conn, dice, at_most=8)
