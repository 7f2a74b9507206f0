"""What grace.protect, grace.set_retention and grace.unprotect promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import errors, sql

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value

MakeRole = Callable[..., str]

# Nobody may be kept waiting for longer: 100 ms for a lock attempt, the rest for a slow machine.
LONGEST_WAIT = 0.3


class Outcome(NamedTuple):
    """What protect says about one table."""

    buffer: str | None
    status: str
    warning: str | None


def protect(conn: Connection, table: str, **arguments: Any) -> dict[str, Outcome]:
    """Protect a table and return what became of it and of each table it cascades into."""
    named = "".join(f", {sql.Identifier(name).as_string()} => %({name})s" for name in arguments)
    found = conn.execute(
        f"select protected_table::text as t, buffer::text, status, warning from grace.protect(%(table)s{named})",
        {"table": table, **arguments},
    ).fetchall()
    return {row["t"]: Outcome(row["buffer"], row["status"], row["warning"]) for row in found}


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {table: outcome.status for table, outcome in outcomes.items()}


def triggers(conn: Connection) -> dict[str, int]:
    """Return how many capture triggers that always fire each table has."""
    found = rows(
        conn,
        "select tgrelid::regclass::text, count(*) from pg_trigger"
        " where tgname like 'zz_grace_%%' and tgname not like 'zz_grace_link%%' and tgenabled = 'A' and not tgisinternal"
        " group by 1",
    )
    return dict(found)


def buffered(conn: Connection, table: str) -> list[Any]:
    """Return the buffered records of a table, in the order of their first column."""
    found = rows(conn, "select record from grace.buffered(%s)", table)
    return sorted((record for (record,) in found), key=lambda record: str(next(iter(record.values()))))


def fingerprint(conn: Connection) -> list[tuple[Any, ...]]:
    """Return everything that a refused call could have left behind, counted."""
    return rows(
        conn,
        "select (select count(*) from pg_class) as relations, (select count(*) from pg_trigger) as triggers,"
        " (select count(*) from pg_proc) as functions, (select count(*) from pg_policy) as policies,"
        " (select md5(string_agg(p::text, ';' order by id)) from grace_internal.protected p) as protected,"
        " (select md5(string_agg(c::text, ';' order by c::text)) from grace_internal.protected_column c) as columns,"
        " (select count(*) from grace_internal.run) as runs",
    )


def refused(conn: Connection, sqlstate: str, query: str, *values: Any, observer: Connection | None = None) -> str:
    """Run what must fail with an SQLSTATE, a DETAIL and a HINT, and must change nothing; return the DETAIL."""
    observer = observer or conn
    before = fingerprint(observer)
    with pytest.raises(psycopg.Error) as failure:
        conn.execute(query, values or None)
    diagnostic = failure.value.diag
    assert diagnostic.sqlstate == sqlstate, failure.value
    assert diagnostic.message_detail, failure.value
    assert diagnostic.message_hint, failure.value
    assert fingerprint(observer) == before
    return diagnostic.message_detail


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Do something in a thread meanwhile; the list holds its result, or its database error, when the block has ended."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except psycopg.Error as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield result
    finally:
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def longest_wait(connection: Connection, statement: str) -> Iterator[list[float]]:
    """Run a statement over and over meanwhile; the list holds the longest it took, when the block has ended."""
    stop = threading.Event()

    def work() -> float:
        longest = 0.0
        while not stop.is_set():
            begun = time.monotonic()
            connection.execute(statement)
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.01)
        return longest

    with in_background(work) as result:
        try:
            yield result
        finally:
            stop.set()
    assert not isinstance(result[0], psycopg.Error), result[0]


@contextmanager
def busy(db: Database, table: str) -> Iterator[Connection]:
    """Hold ROW EXCLUSIVE on a table in a transaction that is open until the block ends."""
    holder = db.connect(application_name="nightly import")
    with holder.transaction():
        holder.execute(f"lock table {table} in row exclusive mode")
        yield holder


def admin_session(db: Database, role: MakeRole) -> Connection:
    """Open a session of a member of grace_admin that is no superuser."""
    name = role("keeper")
    db.connect().execute(f"grant grace_admin to {name}")
    return db.connect(user=name)


@pytest.fixture
def family(conn: Connection) -> Connection:
    """A parent with children and grandchildren that go with it, and a child that does not."""
    conn.execute("""
        create table parent (id int primary key, name text);
        create table child (id int primary key, parent_id int references parent on delete cascade);
        create table grandchild (id int primary key, child_id int references child on delete cascade);
        create table visit (id int primary key, parent_id int references parent on delete set null);
        create table strict (id int primary key, parent_id int references parent on delete restrict);
        insert into parent select n, 'name ' || n from generate_series(1, 100) n;
        insert into child select n, n from generate_series(1, 100) n;
        insert into grandchild select n, n from generate_series(1, 100) n;
    """)
    return conn


@pytest.fixture
def measurements(conn: Connection) -> Connection:
    """A partitioned table with partitions on three levels."""
    conn.execute("""
        create table measurement (id int, region text, day date, primary key (id, region, day))
          partition by list (region);
        create table north partition of measurement for values in ('north') partition by range (day);
        create table north_2024 partition of north for values from ('2024-01-01') to ('2025-01-01');
        create table north_later partition of north default;
        create table other partition of measurement default;
        insert into measurement values
          (1, 'north', '2024-05-01'), (2, 'north', '2025-05-01'), (3, 'south', '2024-05-01'), (4, 'west', '2024-05-01');
    """)
    return conn


# --- What is protected ------------------------------------------------------------------------------------------------


def test_every_table_that_a_deletion_cascades_into_is_protected_too(family: Connection) -> None:
    outcomes = protect(family, "parent")
    assert outcomes == {
        table: Outcome(f"grace_buffer.{table}", "protected", None) for table in ("parent", "child", "grandchild")
    }
    assert triggers(family) == {"parent": 2, "child": 2, "grandchild": 2}
    family.execute("delete from parent where id = 7")
    assert [len(buffered(family, table)) for table in outcomes] == [1, 1, 1]


def test_the_table_asked_for_is_named_first(family: Connection) -> None:
    assert next(iter(protect(family, "parent"))) == "parent"


def test_without_cascade_only_the_table_itself_is_protected(family: Connection) -> None:
    assert statuses(protect(family, "parent", cascade=False)) == {"parent": "protected"}
    assert triggers(family) == {"parent": 2}


def test_a_table_that_refers_to_itself_is_protected_once(conn: Connection) -> None:
    conn.execute("create table node (id int primary key, parent_id int references node on delete cascade)")
    assert statuses(protect(conn, "node")) == {"node": "protected"}
    assert triggers(conn) == {"node": 2}


@pytest.mark.parametrize("start", ["hen", "egg"])
def test_a_cycle_of_cascades_is_protected_as_a_whole(conn: Connection, start: str) -> None:
    conn.execute("""
        create table hen (id int primary key, egg_id int);
        create table egg (id int primary key, hen_id int references hen on delete cascade);
        alter table hen add foreign key (egg_id) references egg on delete cascade;
    """)
    assert statuses(protect(conn, start)) == {"hen": "protected", "egg": "protected"}


def test_a_cascade_from_a_partition_is_followed_to_the_root(measurements: Connection) -> None:
    measurements.execute("""
        create table note (id int primary key, m_id int, m_region text, m_day date,
          foreign key (m_id, m_region, m_day) references north_2024 (id, region, day) on delete cascade);
    """)
    assert statuses(protect(measurements, "measurement")) == {"measurement": "protected", "note": "protected"}


def test_protecting_again_changes_nothing(family: Connection) -> None:
    protect(family, "parent")
    before = fingerprint(family)
    outcomes = protect(family, "parent")
    assert set(statuses(outcomes).values()) == {"already protected"}
    assert outcomes["child"] == Outcome("grace_buffer.child", "already protected", None)
    assert fingerprint(family) == before


def test_protecting_again_waits_for_no_lock(family: Connection, db: Database) -> None:
    protect(family, "parent")
    with busy(db, "parent"):
        assert statuses(protect(family, "parent", wait="0"))["parent"] == "already protected"


def test_protecting_again_takes_in_a_child_made_since(family: Connection) -> None:
    protect(family, "parent")
    family.execute("drop event trigger grace_follow_ddl")
    family.execute("create table late (id int primary key, parent_id int references parent on delete cascade)")
    assert statuses(protect(family, "parent")) == {
        "parent": "already protected",
        "child": "already protected",
        "grandchild": "already protected",
        "late": "protected",
    }
    assert triggers(family)["late"] == 2


@pytest.mark.parametrize(
    "damage",
    [
        "drop trigger zz_grace_delete on parent",
        "drop trigger zz_grace_truncate on parent",
        "alter table parent disable trigger zz_grace_delete",
        "alter table parent disable trigger all",
        "alter table parent enable trigger zz_grace_delete",
    ],
)
def test_protecting_again_repairs_the_triggers(family: Connection, damage: str) -> None:
    protect(family, "parent")
    family.execute(damage)
    assert value(family, "select state from grace.protected where target = 'parent'::regclass") in (
        "missing",
        "disabled",
    )
    protect(family, "parent")
    assert triggers(family)["parent"] == 2
    assert value(family, "select state from grace.protected where target = 'parent'::regclass") == "capturing"


def test_an_unlogged_table_without_a_primary_key_is_protected(conn: Connection) -> None:
    conn.execute("create unlogged table scratch (x int); insert into scratch values (1), (1)")
    protect(conn, "scratch")
    conn.execute("delete from scratch")
    assert buffered(conn, "scratch") == [{"x": 1}, {"x": 1}]


# --- Partitions -------------------------------------------------------------------------------------------------------


def test_every_relation_of_a_partition_tree_gets_the_triggers(measurements: Connection) -> None:
    assert statuses(protect(measurements, "measurement")) == {"measurement": "protected"}
    assert triggers(measurements) == dict.fromkeys(("measurement", "north", "north_2024", "north_later", "other"), 2)


@pytest.mark.parametrize(
    ("relation", "gone"),
    [("measurement", [1, 2, 3, 4]), ("north", [1, 2]), ("north_2024", [1]), ("other", [3, 4])],
)
@pytest.mark.parametrize("statement", ["delete from", "truncate"])
def test_a_partition_tree_is_captured_once_on_whatever_level(
    measurements: Connection, statement: str, relation: str, gone: list[int]
) -> None:
    protect(measurements, "measurement")
    measurements.execute(f"{statement} {relation}")
    assert [record["id"] for record in buffered(measurements, "measurement")] == gone


def test_a_partition_made_since_is_captured_through_the_root(measurements: Connection) -> None:
    protect(measurements, "measurement")
    measurements.execute("""
        create table east partition of measurement for values in ('east');
        insert into measurement values (5, 'east', '2024-05-01');
    """)
    measurements.execute("delete from measurement where id = 5")
    assert [record["id"] for record in buffered(measurements, "measurement")] == [5]


def test_a_truncate_that_would_miss_a_partition_made_since_is_refused(measurements: Connection) -> None:
    protect(measurements, "measurement")
    measurements.execute("drop event trigger grace_follow_ddl")
    measurements.execute("create table east partition of measurement for values in ('east')")
    assert value(measurements, "select state from grace.protected") == "missing"
    assert "public.east" in refused(measurements, "GR010", "truncate measurement")
    protect(measurements, "measurement")
    measurements.execute("truncate measurement")
    assert len(buffered(measurements, "measurement")) == 4


@pytest.mark.parametrize(
    "made",
    [
        "create table east partition of measurement for values in ('east')",
        "create table east (like measurement including all);"
        "alter table measurement attach partition east for values in ('east')",
    ],
    ids=["created", "attached"],
)
@pytest.mark.parametrize("statement", ["delete from east", "truncate east"])
def test_a_partition_made_since_never_loses_a_row_silently(measurements: Connection, made: str, statement: str) -> None:
    protect(measurements, "measurement")
    measurements.execute(made)
    measurements.execute("insert into measurement values (5, 'east', '2024-05-01')")
    try:
        measurements.execute(statement)
    except psycopg.Error as error:
        refusal = error
    else:
        assert [record["id"] for record in buffered(measurements, "measurement")] == [5]
        return
    assert refusal.diag.message_hint


# --- Warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "child",
    ["create table tag (grace_note text, parent_id int references parent on delete cascade)"],
    ids=["reserved column name"],
)
def test_a_cascade_that_can_not_be_followed_is_warned_of_every_time(family: Connection, child: str) -> None:
    family.execute(child)
    for expected in ("protected", "already protected"):
        outcomes = protect(family, "parent")
        assert statuses(outcomes) == {
            "parent": expected,
            "child": expected,
            "grandchild": expected,
            "tag": "not protected",
        }
        assert outcomes["tag"].buffer is None
        assert "will be lost" in (outcomes["tag"].warning or "")
    assert "tag" not in triggers(family)


def test_a_cascade_into_a_table_that_the_caller_has_no_right_on_is_warned_of(
    family: Connection, db: Database, role: MakeRole
) -> None:
    keeper = admin_session(db, role)
    family.execute(f"grant trigger on parent, child to {keeper.info.user}")
    outcomes = protect(keeper, "parent")
    assert statuses(outcomes) == {"parent": "protected", "child": "protected", "grandchild": "not protected"}
    assert "TRIGGER" in (outcomes["grandchild"].warning or "")
    assert triggers(family) == {"parent": 2, "child": 2}


# --- Retention --------------------------------------------------------------------------------------------------------


def test_the_retention_is_thirty_days_unless_said(family: Connection) -> None:
    protect(family, "parent")
    assert rows(family, "select distinct retention from grace.protected") == [(timedelta(days=30),)]


def test_a_second_call_keeps_the_retention_and_says_so(family: Connection) -> None:
    protect(family, "parent", retention="90 days")
    outcomes = protect(family, "parent", retention="7 days")
    assert "90 days" in (outcomes["parent"].warning or "")
    assert "set_retention" in (outcomes["parent"].warning or "")
    assert rows(family, "select distinct retention from grace.protected") == [(timedelta(days=90),)]


def test_a_changed_retention_applies_to_what_is_buffered_already(family: Connection) -> None:
    protect(family, "grandchild")
    family.execute("delete from grandchild where id = 1")
    family.execute("select grace.set_retention('grandchild', '1 second')")
    time.sleep(1.1)
    assert buffered(family, "grandchild") == []
    assert rows(family, "select * from grace.deletions") == []
    family.execute("select grace.set_retention('grandchild', '1 day')")
    assert len(buffered(family, "grandchild")) == 1
    assert value(family, "select retention from grace.protected") == timedelta(days=1)


BAD_RETENTIONS = ["0", "-1 day", "1 month -31 days", "0.5 seconds", "101 years", "178000000 years", None]


def test_an_impossible_retention_is_refused(family: Connection) -> None:
    protect(family, "child")
    for retention in BAD_RETENTIONS:
        refused(family, "GR005", "select * from grace.protect('parent', %s)", retention)
        refused(family, "GR005", "select grace.set_retention('child', %s)", retention)


@pytest.mark.parametrize("retention", ["1 second", "100 years"])
def test_the_shortest_and_the_longest_retention_work(family: Connection, retention: str) -> None:
    protect(family, "grandchild", retention=retention)
    family.execute("delete from grandchild where id = 1")
    assert len(buffered(family, "grandchild")) == 1


# --- Excluded columns -------------------------------------------------------------------------------------------------


@pytest.fixture
def person(conn: Connection) -> Connection:
    conn.execute("""
        create table person (
          id int primary key, name text not null, photo bytea, "Note" text not null default '',
          n int not null generated always as identity);
        insert into person (id, name, photo, "Note") values (1, 'Ada', '\\xff', 'secret');
    """)
    return conn


def test_excluded_columns_are_not_captured(person: Connection) -> None:
    protect(person, "person", exclude_columns=["photo", "Note", "n"])
    person.execute("delete from person")
    assert buffered(person, "person") == [{"id": 1, "name": "Ada"}]


def test_excluded_columns_stay_excluded_when_the_table_changes(person: Connection) -> None:
    protect(person, "person", exclude_columns=["photo"])
    person.execute("alter table person rename photo to picture; alter table person add extra int default 5")
    person.execute("delete from person")
    assert buffered(person, "person") == [{"id": 1, "name": "Ada", "Note": "secret", "n": 1, "extra": 5}]


@pytest.mark.parametrize(
    ("column", "why"),
    [("nope", "exclude_columns"), ("note", "exclude_columns"), ("name", "NOT NULL"), ("id", "primary key")],
)
def test_a_column_that_a_restore_needs_can_not_be_excluded(person: Connection, column: str, why: str) -> None:
    assert why in refused(
        person, "GR004", "select * from grace.protect('person', exclude_columns => %s)", ["photo", column]
    )


def test_no_excluded_columns_may_be_said_with_null(person: Connection) -> None:
    assert statuses(protect(person, "person", exclude_columns=None)) == {"person": "protected"}


# --- What can't be protected ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "target"),
    [
        ("create view thing as select 1 as id", "thing"),
        ("create materialized view thing as select 1 as id", "thing"),
        (
            "create extension postgres_fdw; create server elsewhere foreign data wrapper postgres_fdw;"
            "create foreign table thing (id int) server elsewhere",
            "thing",
        ),
        (
            "create extension postgres_fdw; create server elsewhere foreign data wrapper postgres_fdw;"
            "create table thing (id int) partition by list (id);"
            "create foreign table away partition of thing for values in (1) server elsewhere",
            "thing",
        ),
        ("create temporary table thing (id int)", "thing"),
        ("create temporary table thing (id int) partition by list (id)", "pg_temp.thing"),
        ("", "pg_catalog.pg_class"),
        ("", "information_schema.sql_features"),
        ("", "grace_internal.protected"),
        ("create table thing (id int); select from grace.protect('thing')", "grace_buffer.thing"),
        ("create table thing (id int) partition by list (id); create table leaf partition of thing default", "leaf"),
        ("create sequence thing", "thing"),
        ("create table thing (id int primary key)", "thing_pkey"),
        ("create type thing as (id int)", "thing"),
    ],
    ids=lambda text: str(text)[:50],
)
def test_what_is_no_table_of_the_application_is_refused(conn: Connection, made: str, target: str) -> None:
    conn.execute(made)
    refused(conn, "GR002", "select * from grace.protect(%s)", target)


@pytest.mark.parametrize("column", ["grace_deletion", "grace_deleted_at", "grace_period", "grace_"])
def test_a_column_named_like_our_own_is_refused(conn: Connection, column: str) -> None:
    conn.execute(f"create table thing (id int, {column} int)")
    assert column in refused(conn, "GR003", "select * from grace.protect('thing')")


def test_a_number_that_is_no_relation_is_refused(conn: Connection) -> None:
    refused(conn, "42P01", "select * from grace.protect(4294967295::oid::regclass)")


def test_no_table_at_all_is_refused(conn: Connection) -> None:
    refused(conn, "22004", "select * from grace.protect(null)")


def test_a_name_that_does_not_exist_is_refused_with_what_it_might_have_meant(conn: Connection) -> None:
    conn.execute('create table "Thing" (id int)')
    with pytest.raises(errors.UndefinedTable) as failure:
        conn.execute("select grace.table_named('thing')")
    assert failure.value.diag.message_detail
    assert 'public."Thing"' in (failure.value.diag.message_hint or "")


@pytest.mark.parametrize("call", ["select grace.set_retention('parent', '1 day')", "select grace.unprotect('parent')"])
def test_a_table_that_is_not_protected_has_nothing_to_change(family: Connection, call: str) -> None:
    refused(family, "GR001", call)


# --- Names ------------------------------------------------------------------------------------------------------------

AWKWARD_NAMES = [
    "Order",
    "my table",
    'quo"te',
    "apos'trophe",
    "back\\slash",
    "a.b",
    "select",
    "user",
    "x" * 63,
    "ü" * 31,
    "Überweisung",
    "表",
    "%I %s %",
    "semi;colon",
    "new\nline",
    "g",
    "found",
    "tg_op",
    "v_rows",
    "v_deletion",
    "$1",
    "$capture$",
    "$create$",
    "$$",
]


def test_schemas_tables_and_columns_of_any_name_are_captured(conn: Connection) -> None:
    for name in AWKWARD_NAMES:
        table = sql.Identifier(name, name)
        target = table.as_string(conn)
        conn.execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("create table {} (id int primary key, {} text)").format(table, sql.Identifier(name)))
        conn.execute(sql.SQL("insert into {} values (1, 'x'), (2, 'y')").format(table))
        (outcome,) = protect(conn, target).values()
        assert outcome.status == "protected"
        assert value(conn, "select buffer from grace_internal.protected") == name
        conn.execute(sql.SQL("delete from {} where id = 1").format(table))
        conn.execute(sql.SQL("truncate {}").format(table))
        assert buffered(conn, target) == [{"id": 1, name: "x"}, {"id": 2, name: "y"}]
        conn.execute("select grace.unprotect(%s, 'discard')", [target])
        assert triggers(conn) == {}


@pytest.mark.parametrize("statement", ["delete from grace_gone", "truncate grace_gone"])
def test_a_table_named_like_the_transition_table_is_captured(conn: Connection, statement: str) -> None:
    conn.execute("create table grace_gone (id int); insert into grace_gone values (1)")
    protect(conn, "grace_gone")
    conn.execute(statement)
    assert buffered(conn, "grace_gone") == [{"id": 1}]


def test_a_column_name_is_never_run_as_code(conn: Connection, db: Database, role: MakeRole) -> None:
    name = role("eve")
    conn.execute(f"create table thing (id int); insert into thing values (1); alter table thing owner to {name}")
    protect(conn, "thing")
    eve = db.connect(user=name)
    eve.execute("set check_function_bodies = off")
    eve.execute(f'alter table thing add "$capture$;alter role {name} superuser;select $capture$" int')
    with suppress(psycopg.Error):
        eve.execute("delete from thing")
    assert value(conn, "select rolsuper from pg_roles where rolname = %s", name) is False


LONG = "ü" * 31 + "x"


@pytest.mark.parametrize(
    "tables",
    [
        [("public", "t"), ("b", "t"), ("public", "b_t"), ("c", "b_t")],
        [("a", LONG), ("b", LONG), ("c", LONG)],
        [("ä" * 31, LONG), ("ä" * 30 + "b", LONG), ("ä" * 30 + "c", LONG)],
        [("a_b", "c"), ("public", "c"), ("a", "b_c"), ("public", "a_b_c"), ("public", "b_c")],
    ],
    ids=["prefixed", "63 bytes", "63 bytes everywhere", "underscores"],
)
def test_tables_whose_buffers_would_have_the_same_name_keep_their_rows_apart(
    conn: Connection, tables: list[tuple[str, str]]
) -> None:
    for number, (schema, name) in enumerate(tables):
        conn.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
        target = sql.Identifier(schema, name)
        conn.execute(sql.SQL("create table {} (id int)").format(target))
        conn.execute(sql.SQL("insert into {} values ({})").format(target, number))
        protect(conn, target.as_string(conn))
        conn.execute(sql.SQL("delete from {}").format(target))
    for number, (schema, name) in enumerate(tables):
        assert buffered(conn, sql.Identifier(schema, name).as_string(conn)) == [{"id": number}]
    assert value(conn, "select count(distinct buffer) from grace.protected") == len(tables)


# --- A busy table -----------------------------------------------------------------------------------------------------


def test_a_busy_table_is_given_up_on_and_nobody_waits_meanwhile(family: Connection, db: Database) -> None:
    keeper, clerk = db.connect(), db.connect()
    with (
        busy(db, "parent") as holder,
        longest_wait(clerk, "delete from parent where id = (select max(id) from parent)") as waited,
    ):
        detail = refused(keeper, "GR006", "select * from grace.protect('parent', wait => '1 second')", observer=family)
    assert f"process {holder.info.backend_pid} " in detail
    assert "nightly import" in detail
    assert triggers(family) == {}
    assert waited[0] < LONGEST_WAIT


@pytest.mark.parametrize("wait", ["0", "-1 second"])
def test_a_wait_that_is_over_tries_once(family: Connection, db: Database, wait: str) -> None:
    with busy(db, "child"):
        refused(family, "GR006", "select * from grace.protect('parent', wait => %s)", wait)
    assert statuses(protect(family, "parent", wait=wait))["child"] == "protected"


def test_a_table_that_becomes_free_in_time_is_protected(family: Connection, db: Database) -> None:
    keeper = db.connect()
    notices: list[str] = []
    keeper.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    with in_background(lambda: protect(keeper, "parent", wait="20 seconds")) as result, busy(db, "child") as holder:
        pid = holder.info.backend_pid
        holder.execute("update child set parent_id = parent_id where id = 3")
        time.sleep(0.5)
    assert statuses(result[0]) == dict.fromkeys(("parent", "child", "grandchild"), "protected")
    family.execute("delete from parent where id = 3")
    assert len(buffered(family, "child")) == 1
    assert all(f"process {pid} " in notice for notice in notices)


def test_while_protect_waits_deletes_from_a_child_protected_before_go_on(family: Connection, db: Database) -> None:
    protect(family, "child")
    family.execute("alter table child add note text default 'n'")
    keeper, clerk = db.connect(), db.connect()
    with busy(db, "parent"), in_background(lambda: protect(keeper, "parent", wait="1 second")) as result:
        time.sleep(0.3)
        begun = time.monotonic()
        clerk.execute("delete from child where id = 1")
        waited = time.monotonic() - begun
    assert isinstance(result[0], psycopg.Error)
    assert result[0].sqlstate == "GR006"
    assert [record["note"] for record in buffered(family, "child")] == ["n"]
    assert waited < LONGEST_WAIT


def test_unprotect_gives_up_on_a_busy_table_too(family: Connection, db: Database) -> None:
    protect(family, "parent")
    keeper, clerk = db.connect(), db.connect()
    with (
        busy(db, "parent") as holder,
        longest_wait(clerk, "delete from grandchild where id = (select max(id) from grandchild)") as waited,
    ):
        detail = refused(keeper, "GR006", "select grace.unprotect('parent', wait => '1 second')", observer=family)
    assert f"process {holder.info.backend_pid} " in detail
    assert triggers(family)["parent"] == 2
    assert waited[0] < LONGEST_WAIT


# --- Who may ----------------------------------------------------------------------------------------------------------


def test_a_member_of_grace_admin_with_the_right_on_the_table_protects_and_unprotects(
    family: Connection, db: Database, role: MakeRole
) -> None:
    keeper = admin_session(db, role)
    family.execute(f"grant trigger on grandchild to {keeper.info.user}")
    assert statuses(protect(keeper, "grandchild")) == {"grandchild": "protected"}
    assert value(family, "select protected_by from grace.protected") == keeper.info.user
    family.execute("delete from grandchild where id = 1")
    keeper.execute("select grace.set_retention('grandchild', '2 days')")
    assert len(buffered(keeper, "grandchild")) == 1
    keeper.execute("select grace.unprotect('grandchild')")
    assert triggers(family) == {}


def test_the_owner_of_the_table_needs_no_other_right_than_grace_admin(
    family: Connection, db: Database, role: MakeRole
) -> None:
    keeper = admin_session(db, role)
    family.execute(f"alter table grandchild owner to {keeper.info.user}")
    assert statuses(protect(keeper, "grandchild")) == {"grandchild": "protected"}


@pytest.mark.parametrize(
    "call",
    [
        "select * from grace.protect('child')",
        "select grace.set_retention('parent', '1 second')",
        "select grace.unprotect('parent', 'discard')",
    ],
)
def test_a_member_of_grace_admin_without_the_right_on_the_table_is_refused(
    family: Connection, db: Database, role: MakeRole, call: str
) -> None:
    protect(family, "parent", cascade=False)
    keeper = admin_session(db, role)
    family.execute(f"grant all on grandchild to {keeper.info.user}; grant select, delete on parent to public")
    assert "TRIGGER" in refused(keeper, "42501", call, observer=family)


@pytest.mark.parametrize("group", [None, "grace_operator", "grace_auditor"])
def test_nobody_else_may_even_if_he_owns_the_tables(
    family: Connection, db: Database, role: MakeRole, group: str | None
) -> None:
    protect(family, "child")
    name = role("app")
    if group:
        family.execute(f"grant {group} to {name}")
    for table in ("parent", "child", "grandchild"):
        family.execute(f"alter table {table} owner to {name}")
    before = fingerprint(family)
    for call in (
        "select * from grace.protect('parent')",
        "select grace.set_retention('child', '1 second')",
        "select grace.unprotect('child', 'discard')",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            db.connect(user=name).execute(call)
    assert fingerprint(family) == before


# --- Unprotect --------------------------------------------------------------------------------------------------------


def test_unprotect_stops_capturing_and_keeps_what_is_buffered(family: Connection) -> None:
    protect(family, "parent")
    family.execute("delete from parent where id = 1")
    family.execute("select grace.unprotect('parent')")
    assert triggers(family) == {"child": 2, "grandchild": 2}
    family.execute("delete from parent where id = 2")
    assert [record["id"] for record in buffered(family, "parent")] == [1]
    assert value(family, "select state from grace.protected where target = 'parent'::regclass") == "unprotected"


def test_protecting_after_unprotect_keeps_the_buffer_and_takes_the_new_retention(family: Connection) -> None:
    protect(family, "grandchild")
    family.execute("delete from grandchild where id = 1")
    family.execute("select grace.unprotect('grandchild')")
    family.execute("alter table grandchild add note text default 'n'")
    outcomes = protect(family, "grandchild", retention="5 days")
    assert outcomes == {"grandchild": Outcome("grace_buffer.grandchild", "protected", None)}
    family.execute("delete from grandchild where id = 2")
    assert buffered(family, "grandchild") == [
        {"id": 1, "child_id": 1, "note": "n"},
        {"id": 2, "child_id": 2, "note": "n"},
    ]
    assert value(family, "select retention from grace.protected") == timedelta(days=5)


def test_unprotect_with_discard_leaves_nothing_of_the_table(family: Connection) -> None:
    protect(family, "child", cascade=False)
    # An unprotected child is on record with its parent.
    protect(family, "grandchild")
    family.execute("select grace.unprotect('grandchild', 'discard')")
    before = fingerprint(family)[0][:6]
    protect(family, "grandchild")
    family.execute("delete from grandchild where id = 1")
    family.execute("select grace.unprotect('grandchild', 'discard')")
    assert fingerprint(family)[0][:6] == before
    assert rows(family, "select * from grace.deletions") == []
    family.execute("delete from grandchild where id = 2")
    assert statuses(protect(family, "grandchild")) == {"grandchild": "protected"}
    assert buffered(family, "grandchild") == []


def test_unprotect_takes_the_triggers_from_every_partition(measurements: Connection) -> None:
    protect(measurements, "measurement")
    measurements.execute("select grace.unprotect('measurement')")
    assert triggers(measurements) == {}


def test_unprotect_refuses_what_it_does_not_understand(family: Connection) -> None:
    protect(family, "parent")
    for buffer in ("drop", "KEEP", "", None):
        refused(family, "22023", "select grace.unprotect('parent', %s)", buffer)
    assert triggers(family)["parent"] == 2


def test_unprotect_may_be_called_twice(family: Connection) -> None:
    protect(family, "grandchild")
    family.execute("delete from grandchild where id = 1")
    family.execute("select grace.unprotect('grandchild'); select grace.unprotect('grandchild')")
    assert len(buffered(family, "grandchild")) == 1


def test_what_protect_and_unprotect_did_is_in_the_runs(family: Connection) -> None:
    protect(family, "grandchild")
    family.execute("select grace.set_retention('grandchild', '3 days'); select grace.unprotect('grandchild')")
    assert rows(family, "select kind, target::text, status, role from grace.runs order by id") == [
        (kind, "grandchild", "done", family.info.user) for kind in ("protect", "retention", "unprotect")
    ]
