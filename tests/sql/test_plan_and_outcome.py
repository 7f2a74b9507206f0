"""On random data a dry run says exactly what the restore then does, and the tables hold exactly that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import rows
from tests.sql.restoring import COLUMNS, planned, restore, script

TABLES = {
    # table: columns that a restore of other rows may change
    "p": (),
    "q": (),
    "c": ("q_id",),
    "g": (),
    "t": ("deputy",),
    "part": ("q_id",),
}
SETUP = """create table p (id int primary key, u int unique, v text);
create table q (id int primary key, name text);
create table c (id int primary key, p_id int references p on delete cascade, q_id int references q on delete set null, n int);
create unique index c_n on c ((n % 50)) where n > 10;
create table g (id int primary key, c_id int references c on delete cascade deferrable initially deferred);
create table t (id int primary key, up int references t on delete cascade, deputy int references t on delete set null, u int unique);
create table part (id int, r int, p_id int references p on delete cascade, q_id int default 0 references q on delete set default,
  primary key (id, r)) partition by list (r);
create table part_1 partition of part for values in (1);
create table part_2 partition of part for values in (2, 3);
create unique index part_1_p on part_1 (p_id, q_id);
insert into q values (0, 'default');
select grace.protect('p'), grace.protect('q'), grace.protect('c'), grace.protect('t'), grace.protect('part')"""
KEYS = 12


def write(conn: Connection, dice: random.Random) -> None:
    """Some statements of one transaction; those that the constraints refuse are left out."""
    key, other = dice.randint(1, KEYS), dice.randint(1, KEYS)
    maybe = dice.choice([str(other), "null"])
    statement = dice.choice(
        [
            f"insert into p values ({key}, {maybe}, md5(random()::text))",
            f"insert into q values ({key}, md5(random()::text))",
            f"insert into c values ({key}, {other}, {maybe}, {dice.randint(1, 80)})",
            f"insert into c values ({key}, {other}, {maybe}, {dice.randint(1, 80)})",
            f"insert into g values ({key}, {maybe})",
            f"insert into g values ({key}, {other})",
            f"insert into t values ({key}, {maybe}, {dice.choice([str(key), 'null', str(other)])}, {dice.randint(1, 30)})",
            f"insert into t values ({key}, {maybe}, {other}, {dice.randint(1, 30)})",
            f"insert into part values ({key}, {dice.randint(1, 3)}, {maybe}, {dice.choice(['0', str(other)])})",
            f"update c set q_id = {maybe} where id = {other}",
            f"update t set up = {maybe} where id = {key}",
            f"delete from {dice.choice(list(TABLES))} where id {dice.choice(['=', '=', '<'])} {key} and id > 0",
            f"delete from {dice.choice(list(TABLES))} where id = {key} and id > 0",
        ]
    )
    try:
        with conn.transaction():
            conn.execute(statement.encode())
    except (psycopg.IntegrityError, psycopg.errors.SyntaxError):  # also values for a column that is dropped
        pass


OBSTACLES = [
    "select 1",
    "select 1",
    "alter table c add constraint n_large check (n > 20) not valid",
    "alter table p alter v type varchar(20) using left(v, 20)",
    "update p set v = coalesce(v, ''); alter table p alter v set not null, add w int default 5",
    "alter table g add extra int; update g set extra = 1; alter table g alter extra set not null",
    "delete from part_2; alter table part detach partition part_2",
    "alter table t rename deputy to deputed; alter table t rename deputed to deputy",
    "alter table c drop n",
    "create unique index q_name on q (left(name, 1)) where id > 6",
]


def call(conn: Connection, dice: random.Random) -> str:
    deletions = [
        row[0] for row in rows(conn, "select distinct id from grace.deletions where row_count > restored_count")
    ]
    table = dice.choice(list(TABLES))
    moments = sorted(row[0] for row in rows(conn, "select deleted_at from grace.deletions"))
    chosen = dice.choice(
        [
            f"deletion => {dice.choice(deletions)}",
            f"deletion => {dice.choice(deletions)}",
            "deleted_to => 'infinity'",
            f"deleted_from => '{dice.choice(moments)}'",
            f"'{table}', deleted_from => '{dice.choice(moments)}'",
            f"'{table}', deleted_to => 'infinity'",
            f"'{table}', predicate => 'id % 3 = {dice.randint(0, 2)}'",
            f"'{dice.choice(['p', 'q', 'c', 'g', 't'])}', keys => '[{dice.randint(1, 6)}, {dice.randint(7, KEYS)}]'",
            "'part_1', predicate => 'id > 3'",
        ]
    )
    for option, choices in {
        "on_conflict": ["'error'", "'skip'", "'skip'", "'replace'", "'replace'"],
        "related": ["true", "true", "false"],
        "with_parents": ["false", "true"],
        "relink": ["true", "true", "false"],
        "triggers": ["true", "true", "false"],
    }.items():
        chosen += f", {option} => {dice.choice(choices)}"
    return chosen


def contents(conn: Connection, place: str) -> dict[str, Counter[str]]:
    """The rows of each table without what other rows' restore may change, and without columns that the buffer has beside."""
    found = {}
    for table, changing in TABLES.items():
        columns = [
            row[0]
            for row in rows(
                conn,
                "select attname::text from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                table,
            )
            if row[0] not in (*changing, "w", "v", "extra")
        ]
        found[table] = Counter(
            row[0] for row in rows(conn, f"select row({', '.join(columns)})::text from {place}{table} x")
        )
    return found


def attempt(what: Callable[[], list[tuple[Any, ...]]]) -> tuple[list[tuple[Any, ...]], psycopg.Error | None]:
    try:
        return what(), None
    except psycopg.Error as error:
        return [], error


def in_savepoint(conn: Connection, chosen: str) -> list[tuple[Any, ...]]:
    with conn.transaction():
        return restore(conn, chosen, *COLUMNS)


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_the_outcome(conn: Connection, seed: int) -> None:
    dice = random.Random(seed)
    script(conn, SETUP)
    for _ in range(160):
        write(conn, dice)
    conn.execute(dice.choice(OBSTACLES).encode())
    for _ in range(20):
        write(conn, dice)
    outcomes: Counter[str] = Counter()
    for _ in range(10):
        chosen = call(conn, dice)
        plan, refusal = attempt(partial(planned, conn, chosen))
        live, buffer, links = contents(conn, ""), contents(conn, "grace_buffer."), link_values(conn)
        with conn.transaction(force_rollback=True):
            done, error = attempt(partial(in_savepoint, conn, chosen))
            if refusal is not None:
                assert (refusal.sqlstate, error and error.sqlstate) == ("GR007", "GR007"), (chosen, refusal, error)
                outcomes["nothing"] += 1
            elif error is not None:
                assert error.sqlstate == "GR011", (chosen, error)
                found = sum(len(row[-1]) for row in plan)
                assert found == len(str(error.diag.message_detail).split("\n")), (chosen, plan, error)
                outcomes["refused"] += 1
            else:
                assert done == plan, chosen
                assert "'skip'" in chosen or all(row[-1] == [] for row in done), (chosen, done)
                check_tables(conn, chosen, done, live, buffer, links)
                outcomes["restored" if any(row[1] for row in done) else "empty"] += 1
    assert outcomes["restored"] > 0, outcomes


def link_values(conn: Connection) -> dict[str, set[tuple[Any, ...]]]:
    return {
        table: set(rows(conn, f"select {', '.join(('id', *links))} from {table}"))
        for table, links in TABLES.items()
        if links
    }


def check_tables(
    conn: Connection,
    chosen: str,
    done: list[tuple[Any, ...]],
    live: Any,
    buffer: Any,
    links: dict[str, set[tuple[Any, ...]]],
) -> None:
    live_now, buffer_now = contents(conn, ""), contents(conn, "grace_buffer.")
    found = {row[0]: row[1:] for row in done}
    for table in TABLES:
        restored, replaced = found.get(table, (0, 0))[:2]
        assert sum(live_now[table].values()) == sum(live[table].values()) + restored - replaced, (chosen, table)
        assert sum(buffer_now[table].values()) == sum(buffer[table].values()) - restored + replaced, (chosen, table)
        assert live_now[table] + buffer_now[table] == live[table] + buffer[table], (chosen, table)
    if "'replace'" not in chosen:
        changed = sum(
            len({row[0] for row in links[table]} & {row[0] for row in link_values(conn)[table] - links[table]})
            for table in links
            if table != "part"
        )
        part = link_values(conn)["part"] - links["part"]
        if "part" not in found:
            assert changed + len(part) == sum(row[5] for row in done), (chosen, done)
