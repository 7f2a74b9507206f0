"""Holds: what is held goes on no path, live or buffered, until it is released, and then as anything else does."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors

from pg_grace.cluster import binaries
from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server


def table(conn: Connection, name: str = "t", key: str = "id int primary key") -> None:
    conn.execute(f"create table {name} ({key}, x text)".encode())
    conn.execute("select grace.protect(%s::regclass)", (name,))


@pytest.fixture
def t(conn: Connection) -> Connection:
    """A session with table t of nine protected rows, of which the seventh is held, as hold 1."""
    table(conn)
    conn.execute("insert into t select n, 'x' from generate_series(1, 9) n")
    conn.execute("select grace.hold('t', '7', 'tax audit', '2026/17')")
    return conn


def refused(conn: Connection, statement: str, hold: int = 1) -> psycopg.errors.Diagnostic:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    assert caught.value.sqlstate == "GR029", caught.value
    assert f"(hold {hold}" in str(caught.value.diag.message_primary)
    return caught.value.diag


def error_of(conn: Connection, statement: str) -> str | None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    return caught.value.sqlstate


def source(conn: Connection, number: int = 1) -> Any:
    return rows(conn, f"select prosrc, proconfig from pg_proc where proname = 'capture_{number}'")


def expire(conn: Connection, name: str = "t") -> None:
    """Let everything in the buffer be past its retention."""
    conn.execute(f"select grace.set_retention('{name}', '1 second')".encode())
    conn.execute("select pg_sleep(1.1)")


def age(conn: Connection, days: int = 31, stem: str = "b1", parent: str = "grace_buffer.t") -> None:
    """Make everything in the buffer older: the leaf of today becomes that of an earlier day."""
    today = datetime.now(UTC)
    day = today - timedelta(days=days)
    old, new = f"grace_internal.{stem}_{today:%Y%m%d}", f"{stem}_{day:%Y%m%d}"
    moved = f"grace_deleted_at - interval '{days} days'"
    conn.execute(
        f"""
        alter table {parent} detach partition {old};
        update {old} set grace_deleted_at = {moved};
        alter table {old} rename to {new};
        alter table {parent} attach partition grace_internal.{new}
          for values from ('{day:%Y-%m-%d} 00:00+00') to ('{day + timedelta(days=1):%Y-%m-%d} 00:00+00');
        """.encode()
    )
    if stem[0] == "b":
        conn.execute(
            f"update grace_internal.capture set deleted_at = deleted_at - interval '{days} days'"
            f" where protected_id = {stem[1:]}".encode()
        )


def purge(conn: Connection) -> tuple[str, int]:
    conn.execute("call grace.purge()")
    found = rows(conn, "select status, row_count from grace.runs where kind = 'purge' order by id desc limit 1")
    return found[0][0], found[0][1]


# --- What goes live ---------------------------------------------------------------------------------------------------


def test_the_error_names_record_reason_case_who_and_how_to_release(t: Connection) -> None:
    diag = refused(t, "delete from t where id = 7")
    assert diag.message_primary == 'public.t {"id": 7} is held: tax audit (hold 1, case 2026/17)'
    assert str(diag.message_detail).startswith("Held by postgres since ")
    assert str(diag.message_detail).endswith(", until it is released.")
    assert "select grace.release(1, 'reason');" in str(diag.message_hint)
    t.execute("select grace.hold('t', '[2, {\"id\": 3}]', 'another', until => now() + interval '1 day')")
    diag = refused(t, "delete from t")
    assert diag.message_primary == 'public.t {"id": 7} and 2 more are held: tax audit (hold 1, case 2026/17)'
    assert " until 20" in str(refused(t, "delete from t where id = 3", 3).message_detail)


STATEMENTS = {
    "delete": "delete from t where id = 7",
    "with others": "delete from t",
    "merge": "merge into t using (values (7)) v (i) on t.id = v.i when matched then delete",
    "writable CTE": "with gone as (delete from t returning *) select count(*) from gone",
    "view": "create view v as select * from t; delete from v",
    "copy": "copy (delete from t returning *) to '/dev/null'",
    "truncate": "truncate t",
    "truncate among others": "create table other (); truncate other, t",
    "truncate by cascade": (
        "create table p (id int primary key); alter table t add foreign key (id) references p not valid;"
        " truncate p cascade"
    ),
    "cascade": (
        "create table p (id int primary key); insert into p select id from t;"
        " alter table t add foreign key (id) references p on delete cascade; delete from p where id = 7"
    ),
    "as a replica": "set session_replication_role = replica; delete from t where id = 7",
    "in a function": "do $$ begin perform 1; delete from t where id = 7; end $$",
    "with another time zone and path": (
        "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set search_path = pg_temp, public; delete from public.t"
    ),
    "after a column came": "alter table t add y int; delete from t where id = 7",
    "after the key was renamed": "alter table t rename id to no; delete from t where no = 7",
    "after the key was widened": "alter table t alter id type bigint; delete from t where id = 7",
    "after the key became numeric": "alter table t alter id type numeric(10, 2); delete from t where id = 7",
    "after the primary key was dropped": "alter table t drop constraint t_pkey; delete from t where id = 7",
    "after the table was renamed": "alter table t rename to u; delete from u where id = 7",
    "after the table was moved": "create schema s; alter table t set schema s; delete from s.t where id = 7",
    "drop, though allowed": "set grace.allow_drop = on; drop table t",
}


@pytest.mark.parametrize("way", STATEMENTS)
def test_no_way_leads_past_a_hold(t: Connection, way: str) -> None:
    refused(t, STATEMENTS[way])
    t.execute("reset session_replication_role")
    if not way.startswith("after"):
        assert value(t, "select count(*) from t") == 9
        assert value(t, "select count(*) from grace_buffer.t") == 0
        t.execute("delete from t where id <> 7")
        assert value(t, "select count(*) from t") == 1


def test_an_application_role_without_any_grant_is_told_why(
    t: Connection, db: Database, role: Callable[..., str]
) -> None:
    app = role("app")
    t.execute(f"grant select, delete on t to {app}".encode())
    session = db.connect(user=app)
    refused(session, "delete from t where id = 7")
    session.execute("delete from t where id = 6")
    for call in (
        "select grace.hold('t', '1', 'r')",
        "select grace.release(1, 'r')",
        "select grace.held_rows(1)",
        "select * from grace.holds",
    ):
        assert error_of(session, call) == "42501"
    operator = role("operator")
    t.execute(f"grant grace_operator to {operator}".encode())
    session = db.connect(user=operator)
    assert value(session, "select key from grace.holds") == {"id": 7}
    assert error_of(session, "select grace.release(1, 'r')") == "42501"
    assert error_of(session, "select grace.held_rows(1)") == "42501"
    admin = role("admin")
    t.execute(f"grant grace_admin to {admin}".encode())
    session = db.connect(user=admin)
    session.execute("select grace.release(1, 'r'); select grace.hold('t', '1', 'r')")
    assert rows(session, "select id, held_by, released_by, is_active from grace.holds") == [
        (1, "postgres", admin, False),
        (2, admin, None, True),
    ]


TREE = """
    create table p (id int, k int, x text, primary key (id, k)) partition by range (k);
    create table low partition of p for values from (0) to (10) partition by list (k);
    create table low3 partition of low for values in (3);
    create table low_rest partition of low default;
    create table high (k int not null, y int, x text, id int not null);
    alter table high drop column y;
    alter table p attach partition high for values from (10) to (20);
    insert into p select n, n, 'x' from generate_series(1, 19) n;
"""


def test_a_partition_tree(conn: Connection) -> None:
    conn.execute(TREE)
    conn.execute("select grace.protect('p')")
    conn.execute('select grace.hold(\'low\', \'[{"id": 3, "k": 3}, {"id": 12, "k": "12"}]\', \'r\')')
    for statement, hold in (
        ("delete from p", 1),
        ("delete from low", 1),
        ("delete from low3", 1),
        ("delete from high where id = 12", 2),
        ("truncate low", 1),
        ("truncate low3", 1),
        ("truncate high", 2),
        ("merge into p using (values (12)) v (i) on p.id = v.i when matched then delete", 2),
    ):
        refused(conn, statement, hold)
    conn.execute("delete from p where id not in (3, 12); truncate low_rest")
    conn.execute("update p set k = 13 where id = 3")  # moved, not deleted
    assert [f for (f,) in rows(conn, "select finding from grace.doctor() where subject = 'hold'")] == [
        'the record of hold 1, {"k": 3, "id": 3}, is no longer in the table: its key was changed, its partition'
        " detached, or it went past pg_grace"
    ]
    conn.execute("update p set k = 3 where id = 3")
    assert rows(conn, "select from grace.doctor() where subject = 'hold'") == []
    refused(conn, "set grace.allow_drop = on; drop table low3")
    refused(conn, "delete from p")


def test_an_inheritance_tree(conn: Connection) -> None:
    conn.execute("create table a (id int primary key, x text); create table b (primary key (id), y text) inherits (a)")
    conn.execute("select grace.protect('a')")
    conn.execute("insert into a values (1), (2); insert into b (id) values (3), (4)")
    assert error_of(conn, "select grace.hold('a', '3', 'r')") == "GR007"
    conn.execute("select grace.hold('a', '1', 'r'), grace.hold('b', '3', 'r')")
    refused(conn, "delete from a")
    refused(conn, "delete from only a")
    refused(conn, "delete from a where id = 3", 2)
    refused(conn, "delete from b", 2)
    refused(conn, "truncate b", 2)
    conn.execute("delete from a where id in (2, 4)")
    conn.execute("select grace.release(1, 'r'), grace.release(2, 'r'); delete from a")
    assert value(conn, "select count(*) from a") == 0


def test_without_event_triggers_and_on_partitions_that_have_no_capture_trigger_yet(owner: Connection) -> None:
    owner.execute("create schema s; set search_path = s")
    owner.execute(TREE.split("create table high", maxsplit=1)[0].encode())
    owner.execute("create table rest partition of p for values from (10) to (20)")
    owner.execute("insert into p select n, n, 'x' from generate_series(1, 19) n")
    owner.execute("select grace.protect('s.p')")
    owner.execute("create table late partition of p for values from (20) to (30)")
    owner.execute("insert into p select n, n, 'x' from generate_series(20, 24) n")
    owner.execute('select grace.hold(\'s.p\', \'[{"id": 3, "k": 3}, {"id": 21, "k": 21}]\', \'r\')')
    refused(owner, "delete from late", 2)
    refused(owner, "delete from p where id > 20", 2)
    refused(owner, "delete from low")
    owner.execute("delete from late where id = 22; delete from p where id = 23")
    owner.execute("alter table p rename column id to no")
    refused(owner, "delete from p where no = 3")
    refused(owner, "delete from late", 2)
    owner.execute("select from grace.sync('s.p')")
    refused(owner, "delete from p where no = 3")
    owner.execute("select grace.release(h.id, 'r') from grace.holds h; delete from p")
    assert value(owner, "select count(*) from p") == 0


def test_a_partition_that_was_held_before_it_became_one(conn: Connection) -> None:
    table(conn, "leaf")
    conn.execute("insert into leaf values (1), (2); delete from leaf where id = 2")
    conn.execute("select grace.hold('leaf', '[1, 2]', 'r')")
    conn.execute("create table root (x text, id int primary key) partition by range (id)")
    conn.execute("alter table root attach partition leaf for values from (0) to (100)")
    refused(conn, "delete from root")
    refused(conn, "delete from leaf")
    assert error_of(conn, "select grace.unprotect('root')") == "GR029"
    expire(conn, "root")
    conn.execute("update grace_internal.protected set retention = '1 second'")
    purge(conn)
    assert rows(conn, "select * from grace.held_rows(2)") == [({"id": 2, "x": None},)]
    conn.execute("select grace.release(h.id, 'r') from grace.holds h; delete from root")
    purge(conn)
    assert value(conn, "select count(*) from root") == 0


KEYS = {
    "composite": ("a int, b text, primary key (b, a)", "(1, 'x,\"y')", {"a": 1, "b": 'x,"y'}),
    "text": ('"odd ""name" text primary key', "('it''s \\ ä\"')", {'odd "name': "it's \\ ä\""}),
    "char": ("id char(5) primary key", "('ab')", {"id": "ab"}),
    "enum": ("id mood primary key", "('so \"so\"')", {"id": 'so "so"'}),
    "domain": ("id positive primary key", "(7)", {"id": 7}),
    "timestamptz": ("id timestamptz primary key", "('2026-03-04 05:06:07.5+02')", {"id": "2026-03-04 03:06:07.5+00"}),
    "date": ("id date primary key", "('2026-03-04')", {"id": "2026-03-04"}),
    "interval": ("id interval primary key", "('1 day 02:00')", {"id": "1 day 02:00:00"}),
    "numeric": ("id numeric(10, 2) primary key", "(7.50)", {"id": 7.500}),
    "float": ("id float8 primary key", "(0.1)", {"id": "0.1"}),
    "bytea": ("id bytea primary key", "('\\x00ff')", {"id": "\\x00ff"}),
    "uuid": (
        "id uuid primary key",
        "('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11')",
        {"id": "A0EEBC999C0B4EF8BB6D6BB9BD380A11"},
    ),
    "citext": ("id citext primary key", "('AbC')", {"id": "aBc"}),
    "array": ("id int[] primary key", "('{1,2}')", {"id": "{1,2}"}),
    "composite type": ("id pair primary key", "(row(1, 'x y'))", {"id": '(1,"x y")'}),
    "range": ("id int4range primary key", "('[1,5)')", {"id": "[1,5)"}),
    "money": ("id money primary key", "('12.5')", {"id": "12.50"}),
    "boolean": ("id boolean primary key", "(true)", {"id": "t"}),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type(conn: Connection, kind: str) -> None:
    columns, row, key = KEYS[kind]
    conn.execute("create extension citext; create type mood as enum ('so \"so\"', 'else')")
    conn.execute("create domain positive as int check (value > 0); create type pair as (a positive, b text)")
    conn.execute('create schema "my ""S"')
    conn.execute(f'create table "my ""S"."t 1" (x text, {columns})'.encode())
    conn.execute('select grace.protect(\'"my ""S"."t 1"\')')
    conn.execute(f'insert into "my ""S"."t 1" values (null, {row[1:]}'.encode())
    hold = psycopg.types.json.Jsonb(key)
    conn.execute("set timezone = 'UTC'")
    assert value(conn, 'select grace.hold(\'"my ""S"."t 1"\', %s, \'r\')', hold) == 1
    for setting in (
        "datestyle = 'German'",
        "timezone = 'America/Lima'",
        "intervalstyle = 'iso_8601'",
        "extra_float_digits = -5",
        "bytea_output = 'escape'",
    ):
        conn.execute(f"set {setting}".encode())
        refused(conn, 'delete from "my ""S"."t 1"')
    conn.execute("reset all")
    refused(conn, 'truncate "my ""S"."t 1"')
    assert rows(conn, "select from grace.doctor() where subject = 'hold'") == []
    conn.execute('select grace.release(1, \'r\'); delete from "my ""S"."t 1"')
    conn.execute("set timezone = 'UTC'")
    assert value(conn, 'select grace.hold(\'"my ""S"."t 1"\', %s, \'r\')', hold) == 2
    conn.execute("set timezone = 'America/Lima'; set datestyle = 'German'")
    conn.execute('select grace.set_retention(\'"my ""S"."t 1"\', \'1 second\')')
    conn.execute("select pg_sleep(1.1)")
    assert purge(conn)[0] == "done"
    assert value(conn, "select count(*) from grace.held_rows(2)") == 1


def test_a_key_that_can_no_longer_be_told_stops_all_deletes(t: Connection) -> None:
    t.execute("alter table t alter id type text")
    with pytest.raises(psycopg.Error, match="hold 1 can't be matched with its rows any more") as caught:
        t.execute("delete from t where id = '1'")
    assert caught.value.sqlstate == "GR029"
    assert error_of(t, "truncate t") == "GR029"
    assert "can't be matched" in value(t, "select finding from grace.doctor() where subject = 'hold'")
    t.execute("select grace.hold('t', '\"7\"', 'r'); select grace.release(1, 'r')")
    t.execute("delete from t where id = '1'")
    refused(t, "delete from t", 2)
    t.execute("alter table t drop column id")
    assert error_of(t, "delete from t") == "GR029"


def test_an_enum_whose_value_was_renamed_stops_all_deletes(conn: Connection) -> None:
    conn.execute("create type mood as enum ('good', 'bad')")
    table(conn, key="id mood primary key")
    conn.execute("insert into t values ('good'), ('bad'); select grace.hold('t', '\"bad\"', 'r')")
    refused(conn, "delete from t")
    conn.execute("alter type mood rename value 'bad' to 'sad'")
    assert error_of(conn, "delete from t where id = 'good'") == "GR029"
    conn.execute("alter type mood rename value 'sad' to 'bad'; delete from t where id = 'good'")
    refused(conn, "delete from t")


# --- What is held, and for how long -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("grace.hold('t', '7', '')", "22023"),
        ("grace.hold('t', '7', ' ')", "22023"),
        ("grace.hold('t', '7', null)", "22023"),
        ("grace.hold('t', '7', 'r', until => now() - interval '1 second')", "22023"),
        ("grace.hold('t', '70', 'r')", "GR007"),
        ("grace.hold('t', '[7, 70]', 'r')", "GR007"),
        ("grace.hold('t', '\"seven\"', 'r')", "GR008"),
        ("grace.hold('t', '{\"no\": 7}', 'r')", "GR008"),
        ("grace.hold('t', '[]', 'r')", "GR008"),
        ("grace.hold('t', null, 'r')", "GR008"),
        ("grace.hold('pg_class', '7', 'r')", "GR001"),
        ("grace.hold('keyless', '7', 'r')", "GR009"),
        ("grace.release(2, 'r')", "22023"),
        ("grace.release(null, 'r')", "22023"),
        ("grace.release(1, '')", "22023"),
        ("grace.held_rows(2)", "22023"),
    ],
)
def test_what_is_refused(t: Connection, call: str, sqlstate: str) -> None:
    t.execute("create table keyless (id int)")
    t.execute("select grace.protect('keyless')")
    before = source(t)
    assert error_of(t, f"select {call}") == sqlstate
    assert value(t, "select count(*) from grace.holds") == 1
    assert source(t) == before


def test_without_a_hold_the_capture_function_is_what_it_was(conn: Connection, db: Database) -> None:
    table(conn)
    conn.execute("insert into t values (1), (2), (3)")
    before = source(conn)
    assert "hold" not in before[0][0]
    conn.execute("select grace.hold('t', '[1, 2]', 'r')")
    assert source(conn) != before
    conn.execute("select grace.release(1, 'r')")
    refused(conn, "delete from t", 2)
    conn.execute("select grace.release(2, 'r')")
    assert source(conn) == before
    conn.execute("select grace.hold('t', '3', 'r', until => clock_timestamp() + interval '1 second')")
    refused(conn, "delete from t", 3)
    conn.execute("select pg_sleep(1.1)")
    assert source(conn) != before
    conn.execute("delete from t where id = 3")  # its time has passed
    other = db.connect()
    other.execute("call grace.watch()")
    assert source(conn) == before
    conn.execute("select grace.hold('t', '3', 'r', until => clock_timestamp() + interval '1 second')")
    conn.execute("select pg_sleep(1.1)")
    purge(conn)
    assert source(conn) == before


def test_holds_and_releases_are_on_record(t: Connection) -> None:
    t.execute("select grace.hold('t', '[7, 8]', 'again', until => '2100-01-01 00:00+00')")
    t.execute("select grace.release(1, 'over')")
    assert rows(
        t,
        "select id, target::text, key, reason, case_number, until is null, held_by, release_reason, is_active"
        " from grace.holds order by id",
    ) == [
        (1, "t", {"id": 7}, "tax audit", "2026/17", True, "postgres", "over", False),
        (2, "t", {"id": 7}, "again", None, False, "postgres", None, True),
        (3, "t", {"id": 8}, "again", None, False, "postgres", None, True),
    ]
    assert rows(
        t, "select target::text, status, row_count, details from grace.runs where kind = 'hold' order by id"
    ) == [
        ("t", "done", 1, {"action": "hold", "holds": [1]}),
        ("t", "done", 2, {"action": "hold", "holds": [2, 3]}),
        ("t", "done", 1, {"action": "release", "holds": [1]}),
    ]
    assert error_of(t, "select grace.release(1, 'twice')") == "22023"
    refused(t, "delete from t where id = 7", 2)  # another one is on it
    assert rows(t, "select key, names, key_values from grace_internal.held_keys(1) order by hold_id") == [
        ({"id": 7}, ["id"], ["7"]),
        ({"id": 8}, ["id"], ["8"]),
    ]


def test_a_rollback_takes_a_hold_back(conn: Connection) -> None:
    table(conn)
    conn.execute("insert into t values (1)")
    before = source(conn)
    with conn.transaction(force_rollback=True):
        conn.execute("select grace.hold('t', '1', 'r')")
        with pytest.raises(psycopg.Error), conn.transaction():
            conn.execute("delete from t")
    assert source(conn) == before
    conn.execute("delete from t")


def test_what_is_held_stays_protected(t: Connection) -> None:
    assert error_of(t, "select grace.unprotect('t')") == "GR029"
    assert error_of(t, "select grace.unprotect('t', 'discard')") == "GR029"
    t.execute("select grace.release(1, 'r')")
    t.execute("select grace.unprotect('t', 'discard')")
    assert rows(t, "select id, target, key, target_name from grace.holds") == [(1, None, {"id": 7}, "public.t")]
    t.execute("select grace.protect('t')")
    assert value(t, "select grace.hold('t', '7', 'r')") == 2
    t.execute("create table u (id int primary key); select grace.protect('u')")
    t.execute("select grace.unprotect('u')")
    assert error_of(t, "select grace.hold('u', '7', 'r')") == "GR001"


def test_uninstall_is_refused_while_something_is_held(t: Connection, db: Database) -> None:
    result = db.cli("uninstall", "--discard-buffer", "--yes", code=4)
    assert "GR029" in result.output
    assert "GR029" in db.cli("uninstall", "--dry-run", code=4).output
    refused(t, "delete from t")
    t.execute("select grace.release(1, 'r')")
    db.cli("uninstall", "--discard-buffer", "--yes")


def test_a_restore_does_not_overwrite_what_is_held(t: Connection) -> None:
    t.execute("delete from t where id = 8; insert into t values (8, 'new')")
    t.execute("select grace.hold('t', '8', 'r')")
    for dry_run in ("true", "false"):
        refused(t, f"select grace.restore('t', keys => '8', on_conflict => 'replace', dry_run => {dry_run})", 2)
    assert value(t, "select x from t where id = 8") == "new"
    t.execute("select grace.restore('t', keys => '8', on_conflict => 'skip')")
    t.execute("delete from t where id = 9; insert into t values (9, 'new')")
    t.execute("select grace.restore('t', keys => '9', on_conflict => 'replace')")
    assert value(t, "select x from t where id = 9") == "x"


def test_what_is_held_and_buffered_can_be_restored_and_is_held_then(t: Connection) -> None:
    t.execute("delete from t where id = 8")
    t.execute("select grace.hold('t', '8', 'r')")
    t.execute("select grace.restore('t', keys => '8')")
    refused(t, "delete from t where id = 8", 2)


# --- Two sessions -----------------------------------------------------------------------------------------------------


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except psycopg.Error as error:
            outcome.append(error.sqlstate)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_a_delete_that_waits_for_the_hold_is_refused(t: Connection, db: Database) -> None:
    """Also where the session has the statement prepared and the function in its cache."""
    other = db.connect(prepare_threshold=0)
    other.execute("delete from t where id = %s", (1,))
    other.execute("delete from t where id = %s", (2,))
    with t.transaction():
        t.execute("select grace.hold('t', '8', 'r')")
        thread, outcome = in_background(lambda: other.execute("delete from t where id = %s", (8,)))
        time.sleep(0.5)
        assert outcome == []
    thread.join()
    assert outcome == ["GR029"]


def test_the_first_hold_waits_for_deletes_under_way_without_holding_up_others(conn: Connection, db: Database) -> None:
    table(conn)
    conn.execute("insert into t select n from generate_series(1, 100) n")
    deleting, other = db.connect(), db.connect()
    with deleting.transaction():
        deleting.execute("delete from t where id = 1")
        thread, outcome = in_background(lambda: conn.execute("select grace.hold('t', '[1, 2]', 'r')").fetchall())
        waits = []
        for number in range(10, 30):
            started = time.monotonic()
            other.execute("delete from t where id = %s", (number,))
            waits.append(time.monotonic() - started)
            time.sleep(0.05)
        assert max(waits) < 0.3
        assert outcome == []
    thread.join()
    assert outcome == [[{"hold": 1}, {"hold": 2}]]
    # Deleted meanwhile, it is held in the buffer.
    expire(conn)
    purge(conn)
    assert value(conn, "select array_agg(id) from grace_buffer.t") == [1]
    refused(conn, "delete from t where id = 2", 2)


def test_a_hold_gives_up_when_a_delete_does_not_end(t: Connection, db: Database) -> None:
    deleting = db.connect()
    with deleting.transaction():
        deleting.execute("delete from t where id = 1")
        assert error_of(t, "select grace.hold('t', '2', 'r', wait => '0')") == "GR006"
    assert value(t, "select count(*) from grace.holds") == 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("drifted", [False, True])
def test_a_transaction_whose_snapshot_is_older_than_the_hold(
    conn: Connection, db: Database, level: str, drifted: bool
) -> None:
    table(conn)
    conn.execute("insert into t values (1), (2)")
    other = db.connect()
    other.execute(f"set default_transaction_isolation = '{level}'".encode())
    other.execute("begin; select 1 from pg_class limit 1")
    conn.execute("select grace.hold('t', '1', 'r')")
    if drifted:
        conn.execute("alter table t add y int")
    with pytest.raises(errors.SerializationFailure):
        other.execute("delete from t where id = 1")
    other.execute("rollback")
    refused(other, "delete from t where id = 1")
    other.execute("delete from t where id = 2")


def test_a_change_of_the_table_by_an_older_snapshot_does_not_lose_the_hold(conn: Connection, db: Database) -> None:
    table(conn)
    conn.execute("insert into t values (1)")
    other = db.connect()
    other.isolation_level = IsolationLevel.REPEATABLE_READ
    with other.transaction():
        other.execute("select 1 from pg_class limit 1")
        conn.execute("select grace.hold('t', '1', 'r')")
        other.execute("alter table t add y int")
    refused(conn, "delete from t")


def test_several_hold_at_once(conn: Connection, db: Database) -> None:
    table(conn)
    conn.execute("insert into t select n from generate_series(1, 20) n")
    sessions = [db.connect() for _ in range(4)]

    def work(number: int) -> None:
        for key in range(number, 21, 4):
            sessions[number - 1].execute("select grace.hold('t', to_jsonb(%s::int), 'r')", (key,))

    started = [in_background(partial(work, number)) for number in range(1, 5)]
    for thread, outcome in started:
        thread.join()
        assert outcome == [None]
    with pytest.raises(psycopg.Error, match="and 19 more are held"):
        conn.execute("delete from t")
    conn.execute("select grace.release(h.id, 'r') from grace.holds h")
    conn.execute("delete from t")


# --- What is buffered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["a whole day", "a whole day, big", "the current day", "the default partition"])
def test_a_purge_keeps_what_is_held_and_nothing_else(conn: Connection, where: str) -> None:
    table(conn)
    number = 30000 if where.endswith("big") else 50
    conn.execute(f"insert into t select n, 'number ' || n from generate_series(1, {number}) n".encode())
    if where == "the default partition":
        for (leaf,) in rows(conn, "select relname from pg_class where relname ~ '^b1_[0-9]' and relkind = 'r'"):
            conn.execute(f"drop table grace_internal.{leaf}".encode())
    conn.execute("delete from t where id <= 10")
    conn.execute(f"delete from t where id <= {number - 10}".encode())
    conn.execute("insert into t values (5, 'again'); delete from t where id = 5")  # two versions
    conn.execute("select grace.hold('t', '[5, 40]', 'r')")
    if where.startswith("a whole day"):
        age(conn)
    else:
        expire(conn)
    gone = number - 10 + 1 - 3
    assert value(conn, "select row_count from grace.expired") == gone + 3
    assert purge(conn) == ("done", gone)
    assert value(conn, "select array_agg(x order by x) from grace_buffer.t") == ["again", "number 40", "number 5"]
    # Nothing shows them, and they are nobody's fault.
    assert value(conn, "select count(*) from grace.buffered('t')") == 0
    assert value(conn, "select count(*) from grace.deletions") == 0
    assert error_of(conn, "select grace.restore('t', keys => '5')") == "GR007"
    assert rows(conn, "select * from grace.expired") == []
    assert rows(conn, "select * from grace.verify_buffer()") == []
    assert rows(conn, "select severity, finding from grace.doctor() where subject = 'hold'") == [
        ("note", "holds keep 3 rows of it in the buffer past their retention")
    ]
    assert value(conn, "select value from grace.metrics where name = 'pg_grace_expired_rows'") == 0
    assert rows(conn, "select * from grace.held_rows(1)") == [({"id": 5, "x": "again"},), ({"id": 5, "x": "number 5"},)]
    assert rows(conn, "select * from grace.held_rows(2)") == [({"id": 40, "x": "number 40"},)]
    assert purge(conn) == ("done", 0)
    # With a longer retention they are there again, and as they were.
    conn.execute("select grace.set_retention('t', '60 days')")
    assert value(conn, "select count(*) from grace.buffered('t')") == 3
    assert rows(conn, "select * from grace.verify_buffer()") == []
    conn.execute("select grace.set_retention('t', '1 second')")
    conn.execute("select grace.release(1, 'over')")
    assert error_of(conn, "select grace.held_rows(1)") == "22023"
    assert purge(conn) == ("done", 2)
    assert value(conn, "select array_agg(id) from grace_buffer.t") == [40]
    conn.execute("update grace_internal.hold set until = clock_timestamp()")
    assert purge(conn) == ("done", 1)
    assert value(conn, "select count(*) from grace_buffer.t") == 0
    assert value(conn, "select count(*) from grace_internal.capture") == 0
    assert value(conn, "select sum(row_count)::int from grace.ledger") == gone + 3
    assert rows(conn, "select * from grace.verify_ledger()") == []


def test_what_others_held_has_left_no_bytes(conn: Connection) -> None:
    table(conn)
    conn.execute("insert into t select n, 'secret' || n from generate_series(1, 500) n; delete from t")
    conn.execute("select grace.hold('t', '5', 'r')")
    age(conn)
    purge(conn)
    leaf = value(conn, "select max(tableoid::regclass::text) from grace_buffer.t")
    content = value(conn, "select pg_read_binary_file(pg_relation_filepath(%s::regclass))", leaf)
    conn.execute("checkpoint")
    content = value(conn, "select pg_read_binary_file(pg_relation_filepath(%s::regclass))", leaf)
    assert bytes(content).count(b"secret") == 1


def test_what_a_capacity_lets_go_early_is_kept_too(conn: Connection) -> None:
    table(conn)
    conn.execute("insert into t select n, repeat('x', 1000) from generate_series(1, 3000) n; delete from t")
    conn.execute("select grace.hold('t', '5', 'r')")
    age(conn, days=3)
    conn.execute("select grace.set_capacity('1 MB', 't')")
    assert purge(conn) == ("done", 2999)
    assert value(conn, "select array_agg(id) from grace_buffer.t") == [5]
    assert purge(conn) == ("done", 0)


def test_a_key_that_changed_its_name_and_type_is_found_in_the_buffer(conn: Connection) -> None:
    table(conn)
    conn.execute("insert into t select n, 'x' from generate_series(1, 9) n; delete from t where id < 5")
    conn.execute("select grace.hold('t', '3', 'r')")
    conn.execute("alter table t rename id to no; alter table t alter no type bigint")
    conn.execute("insert into t values (3, 'later'); select grace.release(1, 'r'); delete from t where no = 3")
    conn.execute("select grace.hold('t', '3', 'r')")
    expire(conn)
    assert purge(conn) == ("done", 3)
    assert value(conn, "select array_agg(x order by x) from grace_buffer.t") == ["later", "x"]


def test_a_purge_leaves_to_the_next_what_somebody_is_about_to_hold(conn: Connection, db: Database) -> None:
    table(conn)
    conn.execute("insert into t values (1, 'x'), (2, 'x'); delete from t")
    conn.execute("select grace.set_retention('t', '2 seconds')")
    other = db.connect()
    with other.transaction():
        other.execute("select grace.hold('t', '1', 'r')")
        conn.execute("select pg_sleep(2.1)")
        assert purge(conn) == ("incomplete", 0)
    assert purge(conn) == ("done", 1)
    assert value(conn, "select array_agg(id) from grace_buffer.t") == [1]


def test_large_objects_of_held_rows_stay_with_all_their_pages(conn: Connection) -> None:
    conn.execute("create table photo (id int primary key, img oid)")
    conn.execute("select grace.protect('photo', files => '{img}')")
    conn.execute(
        "insert into photo select n, lo_from_bytea(0, decode(repeat(lpad(n::text, 2, '0'), 600000), 'hex'))"
        " from generate_series(1, 3) n"
    )
    held = value(conn, "select img from photo where id = 2")
    conn.execute("delete from photo; select grace.hold('photo', '2', 'r')")
    age(conn, parent="grace_buffer.photo")
    age(conn, stem="f1", parent="grace_internal.f1")
    assert purge(conn) == ("done", 2)
    assert rows(conn, "select distinct loid from grace_internal.f1") == [(held,)]
    assert value(conn, "select count(*) from grace_internal.f1") == 3
    assert rows(conn, "select oid from pg_largeobject_metadata") == [(held,)]
    assert purge(conn) == ("done", 0)
    conn.execute("select grace.release(1, 'r')")
    assert purge(conn) == ("done", 1)
    assert value(conn, "select count(*) from grace_internal.f1") == 0
    assert value(conn, "select count(*) from pg_largeobject_metadata") == 0


@pytest.mark.parametrize("days", [0, 31])
def test_paths_of_held_rows_do_not_come_into_the_outbox(conn: Connection, days: int) -> None:
    conn.execute("create table doc (id int primary key, path text)")
    conn.execute("select grace.protect('doc', files => '{path}')")
    conn.execute("insert into doc values (1, 'one'), (2, 'both'), (3, 'both'); delete from doc")
    conn.execute("select grace.hold('doc', '2', 'r')")
    if days:
        age(conn, days, parent="grace_buffer.doc")
    else:
        expire(conn, "doc")
    assert purge(conn) == ("done", 2)
    assert rows(conn, "select file from grace.claim_files()") == [("one",)]
    conn.execute("select grace.release(1, 'r')")
    assert purge(conn) == ("done", 1)
    assert rows(conn, "select file from grace.claim_files()") == [("both",)]


# --- Others -----------------------------------------------------------------------------------------------------------


def test_nothing_of_the_application_runs_as_the_owner(conn: Connection, db: Database, role: Callable[..., str]) -> None:
    mallory = role("mallory")
    conn.execute(f"create schema mal authorization {mallory}".encode())
    session = db.connect(user=mallory)
    session.execute(
        f"""
        create function mal.go() returns void language plpgsql as $$ begin
          if (select rolsuper from pg_roles where rolname = current_user) then alter role {mallory} superuser; end if;
        end $$;
        create function mal.check(int) returns boolean language plpgsql immutable as
          $$ begin perform mal.go(); return true; end $$;
        create domain mal.number as int check (mal.check(value));
        create type mal.mood as enum ('sad');
        create function mal.spell(mal.mood) returns text language plpgsql as
          $$ begin perform mal.go(); return 'x'; end $$;
        create cast (mal.mood as text) with function mal.spell(mal.mood);
        create function mal.as_json(mal.mood) returns json language plpgsql as
          $$ begin perform mal.go(); return '1'; end $$;
        create cast (mal.mood as json) with function mal.as_json(mal.mood);
        create type mal.pair as (a mal.number, b mal.mood);
        create table mal.t (id mal.number, m mal.mood, p mal.pair, content mal.mood, primary key (id, m, p));
        insert into mal.t values (1, 'sad', row(1, 'sad'), 'sad'), (2, 'sad', row(1, 'sad'), 'sad');
        create table mal.indexed (id int primary key);
        insert into mal.indexed values (1);
        create index on mal.indexed (id) where mal.check(id);
        """.encode()
    )
    conn.execute("select grace.protect('mal.t')")
    for number in (2, 1):
        key = f'{{"id": {number}, "m": "sad", "p": "(1,sad)"}}'
        conn.execute("select grace.hold('mal.t', %s, 'r')", (key,))
    refused(session, "delete from mal.t")
    refused(conn, "truncate mal.t")
    conn.execute("select grace.doctor(); select grace.release(2, 'r')")
    session.execute("delete from mal.t where id = 1")
    conn.execute("select grace.hold('mal.t', %s, 'r')", (key,))
    assert value(conn, "select grace.held_rows(3)") == {"id": 1, "m": "sad", "p": "(1,sad)", "content": "sad"}
    expire(conn, "mal.t")
    assert purge(conn) == ("done", 0)
    conn.execute("select grace.protect('mal.indexed')")
    assert error_of(conn, "select grace.hold('mal.indexed', '1', 'r')") == "GR010"
    assert not value(conn, "select rolsuper from pg_roles where rolname = %s", mallory)
    conn.execute("select grace.release(h.id, 'the table goes with its owner') from grace.holds h where h.is_active")


def test_a_hostile_search_path_changes_nothing(t: Connection) -> None:
    t.execute(
        "create schema evil; create function evil.format(text, int) returns text language sql as $$ select 'x' $$;"
        " create function evil.eq(text[], text[]) returns boolean language sql as 'select false';"
        " create operator evil.= (function = evil.eq, leftarg = text[], rightarg = text[]);"
        " create table evil.active_hold (id int); create temp table hold (id int)"
    )
    t.execute("set search_path = evil, pg_temp, pg_catalog, public")
    refused(t, "delete from public.t")
    t.execute("select grace.hold('public.t', '8', 'r'); select grace.release(1, 'r')")
    refused(t, "delete from public.t", 2)


def test_a_dump_holds_in_another_database(t: Connection, db: Database, server: Server) -> None:
    t.execute("create table gone (id int); drop table gone; alter table t drop column x")
    t.execute("insert into t values (10), (11); delete from t where id > 9; select grace.hold('t', '10', 'r')")
    t.execute("alter table t rename id to no")
    dumped = subprocess.run([binaries() / "pg_dump", "-d", db.conninfo], check=True, capture_output=True).stdout
    with _new_database(server, None) as copy:
        subprocess.run(
            [binaries() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", copy.conninfo],
            input=dumped,
            check=True,
            capture_output=True,
        )
        loaded = copy.connect()
        refused(loaded, "truncate t")
        expire(loaded)
        assert purge(loaded) == ("done", 1)
        assert rows(loaded, "select * from grace.held_rows(2)") == [({"no": 10},)]
        assert rows(loaded, "select * from grace.doctor() where subject = 'hold' and severity = 'problem'") == []
        refused(loaded, "delete from t where no = 7")
        loaded.execute("alter table t rename no to again; delete from t where again = 1")
        refused(loaded, "delete from t where again = 7")
        loaded.execute("select grace.release(1, 'r'); delete from t where again = 7")
        assert rows(loaded, "select from grace.doctor() where subject = 'hold' and severity = 'problem'") == []


def test_an_upgrade_keeps_what_is_held(t: Connection, db: Database) -> None:
    db.cli("upgrade")
    refused(t, "delete from t")
