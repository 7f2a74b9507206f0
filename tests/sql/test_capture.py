"""What is in the buffer after rows were deleted, however they were deleted and whoever did it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors, sql

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value

MakeRole = Callable[..., str]


def protect(conn: Connection, *tables: str) -> None:
    for table in tables:
        conn.execute("select from grace.protect(%s)", [table])


def records(conn: Connection, table: str) -> list[dict[str, Any]]:
    """Return the buffered records of a table, by their column id if they have one."""
    found = rows(conn, "select record from grace.buffered(%s)", table)
    return sorted((record for (record,) in found), key=lambda record: record.get("id", 0))


def ids(conn: Connection, table: str = "t") -> list[int]:
    return [record["id"] for record in records(conn, table)]


def deletions(conn: Connection) -> list[tuple[str, int]]:
    """Return the table and number of rows of every deletion, the oldest deletion first."""
    return rows(conn, "select target::text, row_count from grace.deletions order by id, target::text")


def grouped(conn: Connection) -> list[list[int]]:
    """Return the ids of the rows of table t that are buffered, a list for each deletion."""
    found = rows(conn, "select array_agg(id order by id) from grace_buffer.t group by grace_deletion order by 1")
    return [together for (together,) in found]


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


def captured_or_refused(conn: Connection, statement: str) -> psycopg.Error | None:
    """Run what may be refused, but then with an error of ours that says what to do; return the error."""
    try:
        conn.execute(statement)
    except psycopg.Error as error:
        refusal = error
    else:
        return None
    assert (refusal.sqlstate or "").startswith("GR"), refusal
    assert refusal.diag.message_hint
    return refusal


def wait_until_blocked(observer: Connection, session: Connection) -> None:
    """Return when a session waits for a lock."""
    deadline = time.monotonic() + 10
    while not value(observer, "select cardinality(pg_blocking_pids(%s))", session.info.backend_pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def app_session(db: Database, role: MakeRole, *grants: str) -> Connection:
    """Open a session of a role that may do what is granted and nothing else."""
    name = role("app")
    admin = db.connect()
    for grant in grants:
        admin.execute(f"grant {grant} to {name}")
    return db.connect(user=name)


@pytest.fixture
def t(conn: Connection) -> Connection:
    """A protected table with nine rows."""
    conn.execute("""
        create table t (id int primary key, name text);
        insert into t select n, 'name ' || n from generate_series(1, 9) n;
    """)
    protect(conn, "t")
    return conn


FAMILY = """
    create table customer (id int primary key);
    create table invoice (id int primary key, customer_id int {0});
    create table item (id int primary key, invoice_id int {1});
    {2}
    insert into customer values (1), (2);
    insert into invoice values (10, 1), (11, 1), (20, 2);
    insert into item values (100, 10), (101, 10), (110, 11), (200, 20);
"""
PARENT_FIRST = FAMILY.format(
    "references customer on delete cascade",
    "references invoice on delete cascade",
    "",
)
CHILD_FIRST = FAMILY.format(
    "",
    "references invoice on delete cascade",
    "alter table invoice add foreign key (customer_id) references customer on delete cascade;",
)

MEASUREMENTS = """
    create table m (id int, region text, note text, primary key (id, region)) partition by list (region);
    create table north partition of m for values in ('north') partition by range (id);
    create table north_low partition of north for values from (0) to (10);
    create table north_high partition of north default;
    create table south (note text, region text not null, extra int, id int not null);
    alter table south drop column extra;
    alter table m attach partition south for values in ('south');
    insert into m values (1, 'north', 'a'), (20, 'north', 'b'), (3, 'south', 'c'), (4, 'south', 'd');
"""


# --- Ways to delete ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("delete from t where id = 1", [1]),
        ("delete from t", list(range(1, 10))),
        ("delete from t using generate_series(2, 4) n where t.id = n", [2, 3, 4]),
        ("delete from t using t other where other.id = t.id + 8", [1]),
        ("delete from t where id in (select id from t order by id desc limit 2)", [8, 9]),
        ("delete from only t as x where x.name = 'name 5'", [5]),
        ("with gone as (delete from t where id < 3 returning *) select count(*) from gone", [1, 2]),
        (
            "with a as (delete from t where id = 1 returning id), b as (delete from t where id = 2 returning id)"
            " delete from t where id = 3",
            [1, 2, 3],
        ),
        ("with gone as (delete from t where id = 1 returning *) insert into t select 1, 'again' from gone", []),
        (
            "merge into t using generate_series(1, 12) n on t.id = n"
            " when matched and n < 3 then delete"
            " when matched and n = 3 then update set name = 'changed'"
            " when not matched then insert values (n, 'new')",
            [1, 2],
        ),
        ("create view v as select id, name as label from t where id > 5; delete from v where id < 8", [6, 7]),
        ("prepare gone as delete from t where id = $1; execute gone(4); execute gone(5)", [4, 5]),
        (
            "do $$ begin for n in 1..3 loop delete from t where id = n; end loop; end $$",
            [1, 2, 3],
        ),
        (
            "do $$ declare r record; begin for r in select id from t where id > 7 loop"
            " execute 'delete from t where id = $1' using r.id; end loop; end $$",
            [8, 9],
        ),
        ("copy (delete from t where id = 6 returning id) to '/dev/null'", [6]),
        ("truncate t", list(range(1, 10))),
        ("truncate only t restart identity", list(range(1, 10))),
    ],
    ids=lambda text: str(text)[:60],
)
def test_every_way_to_delete_is_captured(t: Connection, statement: str, gone: list[int]) -> None:
    expected = gone or [1]
    t.execute(statement)
    assert records(t, "t") == [{"id": n, "name": f"name {n}"} for n in expected]


def test_delete_returning_returns_what_it_always_did(t: Connection) -> None:
    assert rows(t, "delete from t where id < 3 returning id, name") == [(1, "name 1"), (2, "name 2")]
    assert ids(t) == [1, 2]


@pytest.mark.parametrize("fetched", [1, 3])
def test_delete_where_current_of_is_captured(t: Connection, fetched: int) -> None:
    with t.transaction():
        t.execute("declare c cursor for select * from t order by id for update")
        t.execute(f"move {fetched} in c")
        t.execute("delete from t where current of c")
    assert ids(t) == [fetched]


def test_a_statement_prepared_by_the_driver_is_captured_every_time(t: Connection) -> None:
    for n in range(1, 10):
        t.execute("delete from t where id = %s", [n], prepare=True)
    assert grouped(t) == [[n] for n in range(1, 10)]


def test_a_delete_that_finds_no_row_writes_nothing(t: Connection) -> None:
    t.execute("delete from t where id = 99; truncate t")
    t.execute("delete from t; truncate t")
    assert deletions(t) == [("t", 9)]
    assert value(t, "select count(*) from grace_internal.capture") == 1


def test_a_row_that_a_trigger_saves_is_not_captured(t: Connection) -> None:
    t.execute("""
        create function keep() returns trigger language plpgsql as
          $$ begin if old.id = 1 then return null; end if; return old; end $$;
        create trigger keep before delete on t for each row execute function keep();
    """)
    t.execute("delete from t where id < 4")
    assert ids(t) == [2, 3]
    assert value(t, "select count(*) from t where id = 1") == 1


def test_a_row_that_another_session_changed_meanwhile_is_captured_as_it_was_deleted(
    t: Connection, db: Database
) -> None:
    other = db.connect()
    with t.transaction():
        t.execute("update t set name = 'changed' where id = 1")
        with in_background(lambda: other.execute("delete from t where id = 1")):
            wait_until_blocked(db.connect(), other)
            t.execute("commit")
    assert records(t, "t") == [{"id": 1, "name": "changed"}]


def test_row_security_hides_nothing_from_the_capture(t: Connection, db: Database, role: MakeRole) -> None:
    t.execute("""
        alter table t enable row level security;
        create policy small on t using (id < 4);
        create table part (id int primary key, t_id int references t on delete cascade);
        alter table part enable row level security;
        insert into part values (1, 1), (2, 9);
    """)
    protect(t, "t")
    app = app_session(db, role, "select, delete on t")
    app.execute("delete from t")
    assert ids(t) == [1, 2, 3]
    assert ids(t, "part") == [1]


# --- Cascades ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [PARENT_FIRST, CHILD_FIRST], ids=["parent first", "child first"])
def test_a_cascade_over_three_tables_is_captured_as_one_deletion(conn: Connection, schema: str) -> None:
    conn.execute(schema)
    protect(conn, "customer")
    conn.execute("delete from customer where id = 1")
    assert [ids(conn, table) for table in ("customer", "invoice", "item")] == [[1], [10, 11], [100, 101, 110]]
    assert deletions(conn) == [("customer", 1), ("invoice", 2), ("item", 3)]
    assert value(conn, "select count(distinct id) from grace.deletions") == 1


def test_a_table_reached_on_two_ways_is_captured_once(conn: Connection) -> None:
    conn.execute("""
        create table customer (id int primary key);
        create table invoice (id int primary key, customer_id int references customer on delete cascade);
        create table item (id int primary key, invoice_id int references invoice on delete cascade,
          customer_id int references customer on delete cascade);
        insert into customer values (1);
        insert into invoice values (1, 1);
        insert into item values (1, 1, 1), (2, 1, null), (3, null, 1);
    """)
    protect(conn, "customer")
    conn.execute("delete from customer")
    assert ids(conn, "item") == [1, 2, 3]
    assert deletions(conn) == [("customer", 1), ("invoice", 1), ("item", 3)]


def test_a_tree_in_one_table_is_captured_once(conn: Connection) -> None:
    conn.execute("""
        create table node (id int primary key, parent_id int references node on delete cascade);
        insert into node values (1, null), (2, 1), (3, 2), (4, 3), (5, null);
    """)
    protect(conn, "node")
    conn.execute("delete from node where id = 1")
    assert ids(conn, "node") == [1, 2, 3, 4]
    assert deletions(conn) == [("node", 4)]


def test_a_cycle_of_cascades_is_captured_once(conn: Connection) -> None:
    conn.execute("""
        create table hen (id int primary key, egg_id int);
        create table egg (id int primary key, hen_id int references hen on delete cascade);
        alter table hen add foreign key (egg_id) references egg on delete cascade deferrable initially deferred;
        begin;
        insert into hen values (1, 2), (2, 1);
        insert into egg values (1, 1), (2, 2);
        commit;
    """)
    protect(conn, "hen")
    conn.execute("delete from hen where id = 1")
    assert (ids(conn, "hen"), ids(conn, "egg")) == ([1, 2], [1, 2])


# --- TRUNCATE ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("truncate item", [0, 0, 4]),
        ("truncate invoice cascade", [0, 3, 4]),
        ("truncate customer restart identity cascade", [2, 3, 4]),
        ("truncate item, invoice", [0, 3, 4]),
        ("truncate item, customer, invoice", [2, 3, 4]),
        ("truncate only item, only invoice", [0, 3, 4]),
    ],
)
def test_truncate_is_captured(conn: Connection, statement: str, gone: list[int]) -> None:
    conn.execute(PARENT_FIRST)
    protect(conn, "customer")
    conn.execute(statement)
    assert [len(ids(conn, table)) for table in ("customer", "invoice", "item")] == gone
    assert value(conn, "select count(distinct id) from grace.deletions") == 1
    assert rows(conn, "select distinct operation from grace.deletions") == [("TRUNCATE",)]


def test_truncate_captures_what_another_session_committed_while_it_waited(t: Connection, db: Database) -> None:
    other = db.connect()
    with other.transaction():
        other.execute("insert into t values (10, 'late')")
        with in_background(lambda: t.execute("truncate t")) as result:
            wait_until_blocked(db.connect(), t)
            other.execute("commit")
    assert not isinstance(result[0], psycopg.Error), result[0]
    assert ids(t) == list(range(1, 11))


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_truncate_that_could_miss_rows_is_refused(t: Connection, level: IsolationLevel) -> None:
    t.isolation_level = level
    with pytest.raises(psycopg.Error) as failure, t.transaction():
        t.execute("truncate t")
    assert failure.value.sqlstate == "GR010"
    assert failure.value.diag.message_detail
    assert failure.value.diag.message_hint
    assert value(t, "select count(*) from t") == 9
    assert deletions(t) == []


def test_delete_and_truncate_in_one_transaction_are_one_deletion(t: Connection) -> None:
    with t.transaction():
        t.execute("delete from t where id = 1")
        t.execute("update t set name = 'last' where id = 2")
        t.execute("truncate t")
    assert rows(t, "select row_count, operation from grace.deletions") == [(9, "DELETE, TRUNCATE")]
    assert records(t, "t")[1] == {"id": 2, "name": "last"}


# --- Partitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("delete from m", [1, 3, 4, 20]),
        ("delete from m where region = 'south'", [3, 4]),
        ("delete from north", [1, 20]),
        ("delete from south where id = 3", [3]),
        ("delete from only m", []),
        ("truncate m", [1, 3, 4, 20]),
        ("truncate north", [1, 20]),
        ("truncate north_high", [20]),
        ("truncate north_high, south", [3, 4, 20]),
        ("truncate m, south, north_low", [1, 3, 4, 20]),
        ("merge into m using (values (1), (3)) v (id) on m.id = v.id when matched then delete", [1, 3]),
    ],
)
def test_a_partitioned_table_is_captured_once_on_every_level(conn: Connection, statement: str, gone: list[int]) -> None:
    conn.execute(MEASUREMENTS)
    protect(conn, "m")
    originals = {row["id"]: row for row in conn.execute("select id, region, note from m").fetchall()}
    conn.execute(statement)
    assert records(conn, "m") == [originals[n] for n in gone]
    assert sum(count for _, count in deletions(conn)) == len(gone)


@pytest.mark.parametrize(
    "statement",
    [
        "update m set region = 'south' where id = 1",
        "update m set id = id + 40 where region = 'north'",
        "merge into m using (values (1)) v (id) on m.id = v.id when matched then update set region = 'south'",
    ],
)
def test_a_row_that_moves_to_another_partition_is_not_deleted(conn: Connection, statement: str) -> None:
    conn.execute(MEASUREMENTS)
    protect(conn, "m")
    conn.execute(statement)
    assert records(conn, "m") == []
    assert deletions(conn) == []
    assert value(conn, "select count(*) from m") == 4


# --- Deletions: what one transaction removed --------------------------------------------------------------------------


def test_a_rollback_leaves_no_trace(t: Connection) -> None:
    with t.transaction(force_rollback=True):
        t.execute("delete from t where id = 1")
        t.execute("truncate t")
    assert (ids(t), deletions(t)) == ([], [])
    assert value(t, "select count(*) from t") == 9


def test_a_rollback_to_a_savepoint_leaves_no_trace_of_what_came_after_it(t: Connection) -> None:
    with t.transaction():
        t.execute("delete from t where id = 1")
        with t.transaction(force_rollback=True):
            t.execute("delete from t where id = 2")
        t.execute("delete from t where id = 3")
    assert grouped(t) == [[1, 3]]
    assert deletions(t) == [("t", 2)]


def test_a_deletion_that_begins_after_a_rollback_to_a_savepoint_is_one(t: Connection) -> None:
    with t.transaction():
        with t.transaction(force_rollback=True):
            t.execute("delete from t where id = 1")
        t.execute("delete from t where id = 2")
        t.execute("delete from t where id = 3")
    assert grouped(t) == [[2, 3]]


def test_an_error_that_a_block_catches_takes_its_deletion_back(t: Connection) -> None:
    t.execute("""
        do $$ begin
          begin delete from t where id = 1; perform 1 / 0; exception when division_by_zero then null; end;
          delete from t where id = 2;
        end $$
    """)
    assert grouped(t) == [[2]]


def test_all_statements_of_a_transaction_are_one_deletion_with_one_time(t: Connection, role: MakeRole) -> None:
    name = role("other")
    t.execute(f"grant select, delete on t to {name}")
    with t.transaction():
        t.execute("delete from t where id = 1")
        time.sleep(0.01)
        with t.transaction():
            t.execute("delete from t where id = 2")
        t.execute(f"set local role {name}")
        t.execute("delete from t where id = 3")
        t.execute("set local timezone = 'Pacific/Auckland'; set local search_path = ''")
        t.execute("delete from public.t where id = 4")
        t.execute("reset role")
        t.execute("truncate public.t")
    assert grouped(t) == [list(range(1, 10))]
    assert value(t, "select count(distinct grace_deleted_at) from grace_buffer.t") == 1
    assert rows(t, "select deleted_at from grace.deletions") == rows(
        t, "select distinct grace_deleted_at from grace_buffer.t"
    )


def test_two_transactions_are_two_deletions(t: Connection, db: Database) -> None:
    other = db.connect()
    with t.transaction(), other.transaction():
        t.execute("delete from t where id = 1")
        other.execute("delete from t where id = 2")
        t.execute("delete from t where id = 3")
        other.execute("delete from t where id = 4")
    t.execute("delete from t where id = 5")
    t.execute("delete from t where id = 6")
    assert grouped(t) == [[1, 3], [2, 4], [5], [6]]


def test_several_statements_sent_at_once_are_the_one_transaction_they_are(t: Connection) -> None:
    t.execute("delete from t where id = 1; delete from t where id = 2")
    t.execute("begin; delete from t where id = 3; commit; delete from t where id = 4")
    assert grouped(t) == [[1, 2], [3], [4]]


def test_a_procedure_that_commits_makes_a_deletion_per_transaction(t: Connection) -> None:
    t.execute("""
        create procedure clean() language plpgsql as
          $$ begin for n in 1..3 loop delete from t where id = n; commit; end loop; end $$;
    """)
    t.execute("call clean()")
    assert grouped(t) == [[1], [2], [3]]


def test_the_time_is_when_the_transaction_first_deleted(t: Connection) -> None:
    with t.transaction():
        t.execute("select 1")
        time.sleep(0.05)
        before = value(t, "select clock_timestamp()")
        t.execute("delete from t where id = 1")
        after = value(t, "select clock_timestamp()")
        t.execute("delete from t where id = 2")
    assert before <= value(t, "select deleted_at from grace.deletions") <= after


def test_the_last_values_of_a_row_are_kept(t: Connection) -> None:
    with t.transaction():
        t.execute("update t set name = 'one' where id = 1")
        t.execute("update t set name = 'two', id = 100 where id = 1")
        t.execute("insert into t values (101, 'new')")
        t.execute("delete from t where id > 99")
    assert records(t, "t") == [{"id": 100, "name": "two"}, {"id": 101, "name": "new"}]


def test_serializable_transactions_that_delete_different_rows_do_not_fail(t: Connection, db: Database) -> None:
    t.execute("insert into t select n, 'more' from generate_series(10, 5000) n; analyze t")
    sessions = [db.connect() for _ in range(2)]
    for session in sessions:
        session.isolation_level = IsolationLevel.SERIALIZABLE
        session.execute("set enable_seqscan = off")
    for n in range(5):
        with sessions[0].transaction(), sessions[1].transaction():
            for session in sessions:
                session.execute("select 1 from pg_class limit 1")
            sessions[0].execute("delete from t where id = %s", [10 + n])
            sessions[1].execute("delete from t where id = %s", [4000 + n])
            sessions[0].execute("delete from t where id = %s", [20 + n])
    assert grouped(t) == sorted([[10 + n, 20 + n] for n in range(5)] + [[4000 + n] for n in range(5)])


# --- Who and why ------------------------------------------------------------------------------------------------------


def test_an_application_needs_no_right_of_ours(t: Connection, db: Database, role: MakeRole) -> None:
    app = app_session(db, role, "select, delete, truncate on t")
    app.execute("delete from t where id = 1")
    app.execute("truncate t")
    assert ids(t) == list(range(1, 10))
    assert rows(t, "select distinct deleted_by, login from grace.deletions") == [(app.info.user, app.info.user)]


def test_the_role_in_effect_and_the_login_are_recorded(t: Connection, db: Database, role: MakeRole) -> None:
    group = role("team", "nologin")
    t.execute(f"grant select, delete on t to {group}")
    app = app_session(db, role, group)
    app.execute(f"set role {group}")
    app.execute("delete from t where id = 1")
    assert rows(t, "select deleted_by, login from grace.deletions") == [(group, app.info.user)]


@pytest.mark.parametrize("security", ["security definer", "security definer set search_path = public"])
def test_a_function_with_its_owners_rights_deletes_in_the_name_of_its_caller(
    t: Connection, db: Database, role: MakeRole, security: str
) -> None:
    t.execute(f"""
        create function clean() returns void language plpgsql {security} as $$ begin delete from t; end $$;
    """)
    app = app_session(db, role)
    app.execute("select clean()")
    assert rows(t, "select deleted_by, login, row_count from grace.deletions") == [(app.info.user, app.info.user, 9)]


def test_a_cascade_is_recorded_in_the_name_of_who_began_it(conn: Connection, db: Database, role: MakeRole) -> None:
    conn.execute(PARENT_FIRST)
    protect(conn, "customer")
    app = app_session(db, role, "select, delete on customer")
    app.execute("delete from customer where id = 1")
    assert rows(conn, "select target::text, deleted_by from grace.deletions order by 1") == [
        (table, app.info.user) for table in ("customer", "invoice", "item")
    ]


def test_reason_application_and_address_are_recorded(t: Connection, db: Database) -> None:
    session = db.connect(application_name="sweeper; drop table t")
    with session.transaction():
        session.execute("set local grace.reason = 'ticket 4711, ''quoted'''")
        session.execute("delete from t where id = 1")
    session.execute("delete from t where id = 2")
    session.execute("set grace.reason = 'for the session'")
    session.execute("delete from t where id = 3")
    assert rows(t, "select reason from grace.deletions order by id") == [
        ("ticket 4711, 'quoted'",),
        (None,),
        ("for the session",),
    ]
    assert rows(t, "select distinct application_name, client_addr from grace.deletions") == rows(
        session, "select 'sweeper; drop table t', inet_client_addr() as a"
    )


def test_a_replicating_session_is_captured(t: Connection) -> None:
    t.execute("set session_replication_role = replica")
    t.execute("delete from t where id = 1")
    t.execute("truncate t")
    assert ids(t) == list(range(1, 10))


FORBIDDEN = [
    "select * from grace_buffer.t",
    "delete from grace_buffer.t",
    "insert into grace_buffer.t (id) values (1)",
    "select * from grace_internal.protected",
    "select * from grace_internal.capture",
    "select * from grace.deletions",
    "select * from grace.buffered('t')",
    "select grace_internal.deletion_in_progress()",
    "select grace_internal.capture_statement(1, 't'::regclass, 'DELETE')",
    "select last_value from grace_internal.signing_key",
    "create function grace_internal.f() returns int language sql as 'select 1'",
    "create table grace_buffer.mine (id int)",
]


@pytest.mark.usefixtures("t")
def test_an_application_gets_at_nothing_of_ours(db: Database, role: MakeRole) -> None:
    app = app_session(db, role, "all on t", "all on schema public")
    app.execute("delete from t where id = 1")
    for query in FORBIDDEN:
        with pytest.raises(errors.InsufficientPrivilege):
            app.execute(query)


@pytest.mark.usefixtures("t")
def test_an_application_does_not_get_at_the_signing_key_by_its_number(
    conn: Connection, db: Database, role: MakeRole
) -> None:
    app = app_session(db, role)
    number = value(conn, "select 'grace_internal.signing_key'::regclass::oid")
    with contextlib.suppress(errors.InsufficientPrivilege):  # PostgreSQL 18 answers null instead
        assert value(app, "select pg_sequence_last_value(%s)", number) is None
    assert rows(app, "select last_value from pg_sequences where sequencename = 'signing_key'") == [(None,)]


@pytest.mark.usefixtures("t")
def test_the_capture_function_serves_no_table_of_somebody_else(db: Database, role: MakeRole) -> None:
    app = app_session(db, role, "all on schema public")
    app.execute("create table mine (id int, name text)")
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(
            "create trigger x after delete on mine referencing old table as grace_gone"
            " for each statement execute function grace_internal.capture_1()"
        )


# --- Hostile sessions -------------------------------------------------------------------------------------------------

HOSTILE = """
    create schema evil;
    create function evil.now() returns timestamptz language sql as $$ select '2000-01-01'::timestamptz $$;
    create function evil.clock_timestamp() returns timestamptz language sql as $$ select '2000-01-01'::timestamptz $$;
    create function evil.current_setting(text) returns text language sql as $$ select 'evil' $$;
    create function evil.current_setting(text, boolean) returns text language sql as $$ select 'evil' $$;
    create function evil.set_config(text, text, boolean) returns text language sql as $$ select 'evil' $$;
    create function evil.md5(text) returns text language sql as $$ select 'evil' $$;
    create function evil.has_column_privilege(oid, smallint, text) returns boolean language sql as $$ select false $$;
    create function evil.nextval(regclass) returns bigint language sql as $$ select 666::bigint $$;
    create function evil.never(text, text) returns boolean language sql as $$ select false $$;
    create function evil.glue(text, text) returns text language sql as $$ select 'evil' $$;
    create operator evil.= (leftarg = text, rightarg = text, function = evil.never);
    create operator evil.<> (leftarg = text, rightarg = text, function = evil.never);
    create operator evil.|| (leftarg = text, rightarg = text, function = evil.glue);
    create table evil.pg_class as select * from pg_class where false;
    create table evil.protected (id int);
    create table evil.capture (id int);
    grant usage on schema evil to public;
    create temporary table grace_gone (id int, name text);
    create temporary table capture (id int);
    create temporary table protected (id int);
    create temporary table t (id int, name text);
    create temporary table pg_attribute (id int);
    insert into grace_gone values (666, 'evil');
    insert into t values (666, 'evil');
"""


@pytest.mark.parametrize("drift", ["", "alter table public.t add extra int default 7"], ids=["as it was", "changed"])
@pytest.mark.parametrize("statement", ["delete from public.t", "truncate public.t"])
def test_search_path_and_temporary_objects_change_nothing(t: Connection, statement: str, drift: str) -> None:
    t.execute(HOSTILE)
    t.execute("set search_path = pg_temp, evil, pg_catalog, public")
    t.execute(drift)
    t.execute(statement)
    t.execute("reset search_path; drop table pg_temp.t, pg_temp.capture, pg_temp.protected, pg_temp.pg_attribute")
    extra = {"extra": 7} if drift else {}
    assert records(t, "t") == [{"id": n, "name": f"name {n}"} | extra for n in range(1, 10)]
    assert rows(t, "select target::text, row_count from grace.deletions") == [("t", 9)]
    assert value(t, "select clock_timestamp() - deleted_at < '1 minute' from grace.deletions")


SETTINGS = [
    "set timezone = 'Pacific/Kiritimati'; set datestyle = 'German'; set intervalstyle = 'sql_standard'",
    "set extra_float_digits = -15; set bytea_output = 'escape'; set standard_conforming_strings = off",
    "set quote_all_identifiers = on; set check_function_bodies = off; set default_table_access_method = heap",
    "set row_security = off; set default_tablespace = ''; set array_nulls = off",
    "set plpgsql.variable_conflict = use_column; set plpgsql.extra_errors = 'all'",
    "set xmloption = document; set transform_null_equals = on; set client_min_messages = error",
    "set default_transaction_isolation = 'serializable'",
    "set work_mem = 64; set enable_seqscan = off; set jit = on; set jit_above_cost = 0",
]


@pytest.mark.parametrize("changed", [False, True])
def test_the_settings_of_a_session_change_nothing(t: Connection, changed: bool) -> None:
    t.execute("alter table t add f float8 default 0.1, add d timestamptz default '2024-01-01 00:00Z'")
    t.execute("delete from t where id = 9")
    for n, settings in enumerate(SETTINGS, start=1):
        if changed:
            t.execute(f"alter table t add extra{n} int default {n}")
        expected = value(t, "select to_jsonb(t) from t where id = %s", n)
        t.execute(settings)
        t.execute("delete from t where id = %s", [n])
        t.execute("reset all")
        found = value(t, "select record from grace.buffered('t', keys => %s::jsonb)", str(n))
        assert found == expected, settings
    assert value(t, "select bool_and(clock_timestamp() - deleted_at < '1 minute') from grace.deletions")


FORGED = [
    "",
    "x",
    "/",
    " /",
    "1 0/",
    "1 0/d41d8cd98f00b204e9800998ecf8427e",
    "-1 -1/x",
    "9" * 40 + " 9/x",
    "1/1 0/x",
    "ü",
    "x" * 9999,
]


@pytest.mark.parametrize("local", [True, False])
def test_a_forged_setting_joins_no_deletion(t: Connection, local: bool) -> None:
    t.execute("insert into t select n, 'more' from generate_series(10, 99) n")
    expected = []
    for n, forged in enumerate(FORGED, start=1):
        with t.transaction():
            t.execute("select set_config('grace.deletion', %s, %s)", [forged, local])
            t.execute("delete from t where id = %s", [n])
            t.execute("delete from t where id = %s", [n + 50])
        expected.append([n, n + 50])
    assert grouped(t) == expected


@pytest.mark.parametrize("local", [True, False])
def test_a_setting_copied_from_an_earlier_transaction_joins_no_deletion(t: Connection, local: bool) -> None:
    with t.transaction():
        t.execute("delete from t where id = 1")
        copied = value(t, "select current_setting('grace.deletion')")
    for n in (2, 3):
        with t.transaction():
            t.execute("select set_config('grace.deletion', %s, %s)", [copied, local])
            t.execute("delete from t where id = %s", [n])
    t.execute("delete from t where id = 4")
    assert grouped(t) == [[1], [2], [3], [4]]


def test_a_setting_copied_from_a_transaction_that_is_open_joins_no_deletion(t: Connection, db: Database) -> None:
    other = db.connect()
    with t.transaction(), other.transaction():
        t.execute("delete from t where id = 1")
        copied = value(t, "select current_setting('grace.deletion')")
        other.execute("select set_config('grace.deletion', %s, true)", [copied])
        other.execute("delete from t where id = 2")
    assert grouped(t) == [[1], [2]]


@pytest.mark.parametrize("reset", ["reset grace.deletion", "set local grace.deletion = ''", "reset all"])
def test_resetting_the_setting_loses_nothing_and_joins_nobody(t: Connection, reset: str) -> None:
    t.execute("delete from t where id = 1")
    with t.transaction():
        t.execute("delete from t where id = 2")
        t.execute(reset)
        t.execute("delete from t where id = 3")
    assert ids(t) == [1, 2, 3]
    assert [1] in grouped(t)


# --- Values -----------------------------------------------------------------------------------------------------------

VALUES = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "numeric": ["NaN", "Infinity", "-Infinity", "0.000", "1e-300", "123456789012345678901234567890.12345"],
    "numeric(8,3)": ["1.500"],
    "real": ["NaN", "-Infinity", "-0", "0.1", "1.17549435e-38"],
    "double precision": ["NaN", "Infinity", "-0", "0.1", "2.2250738585072014e-308", "5e-324"],
    "money": ["-12.34"],
    "text": ["", " leading and trailing ", "ünïcödé 表 🐘", "a\\b\nc\t'\"", "NULL"],
    "varchar(7)": ["", "seven  "],
    "char(5)": ["ab", "", "abcde"],
    "bpchar": ["ab  "],
    '"char"': ["x", ""],
    "name": ["x" * 63],
    "bytea": ["\\x", "\\x00ff5c27"],
    "bit(3)": ["101"],
    "bit": ["1"],
    "bit varying": ["", "0101010101"],
    "bit varying(5)": ["01"],
    "date": ["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"],
    "time(3)": ["24:00:00", "12:34:56.789"],
    "timetz": ["12:34:56.123456+05:30"],
    "timestamp": ["infinity", "0044-03-15 12:00:00 BC", "2024-03-31 02:30:00.123456"],
    "timestamptz(0)": ["2024-10-27 02:30:00+01"],
    "timestamptz": ["-infinity", "1900-01-01 00:00:00.000001+00"],
    "interval": ["1 year -2 mons 3 days -04:05:06.789", "0", "-178000000 years"],
    "interval day to second(2)": ["3 days 04:05:06.78"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "json": ['{"a": 1,  "a": 2, "b":[ ]}', "null", '"\\u0000"'],
    "jsonb": ['{"a": 1.00, "b": [null, {}]}', "null", "123456789012345678901234567890.5"],
    "jsonpath": ["$.a[*] ? (@ > 1)"],
    "xml": ["<a b='c'>d</a>", "text &amp; <b/>"],
    "inet": ["10.1.2.3/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1e-20,-0)"],
    "box": ["(1,2),(0,0)"],
    "path": ["[(0,0),(1,1)]"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "tsvector": ["'cat':3A 'fat':2B,4C"],
    "tsquery": ["'fat' & ( 'rat' | !'cat':* )"],
    "pg_lsn": ["16/B374D848"],
    "regclass": ["pg_class", "-"],
    "oid": ["4294967295"],
    "xid8": ["18446744073709551615"],
    "int[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[2:3]={5,6}"],
    "text[]": ['{"NULL",NULL,"",a\\"b,"{}"}'],
    "char(3)[]": ["{a,bcd}"],
    "int4range": ["empty", "(,5)", "[1,10)"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)'],
    "nummultirange": ["{[1.0,2.00],(5,)}"],
    "mood": ["", "so so", "GREAT"],
    "mood[]": ['{"so so",GREAT}'],
    "positive": ["7"],
    "postcode": ["D-12345 "],
    "positive[]": ["{1,2}"],
    "address": ['("a ""street""",,D-1)', "(,,)"],
    "address[]": ['{"(a,1,b)",NULL}'],
    "moodrange": ["[x,y)"],
    'other."Odd Type"': ["a"],
}
TYPES = """
    create type mood as enum ('', 'so so', 'GREAT');
    create domain positive as int check (value > 0);
    create domain base_code as varchar(9);
    create domain postcode as base_code not null;
    create type address as (street text, number positive, code char(5));
    create type moodrange as range (subtype = text);
    create schema other;
    create type other."Odd Type" as enum ('a');
"""


@pytest.mark.parametrize("statement", ["delete from many", "truncate many"])
def test_values_of_every_type_are_kept_exactly(conn: Connection, statement: str) -> None:
    conn.execute(TYPES)
    columns = [f"c{number}" for number in range(len(VALUES))]
    conn.execute("create table many (id int)")
    for column, (type_name, texts) in zip(columns, VALUES.items(), strict=True):
        default = "default 'x'" if type_name == "postcode" else ""  # it may not be null
        conn.execute(f"alter table many add {column} {type_name} {default}")
        for text in texts:
            conn.execute(sql.SQL("insert into many (id, {}) values (1, {})").format(sql.Identifier(column), text))
    conn.execute("update many set id = num from (select ctid c, row_number() over () num from many) n where n.c = ctid")
    protect(conn, "many")
    listed = f"select row(id, {', '.join(columns)})::text as r from"
    before = rows(conn, f"{listed} many order by id")
    assert len(before) == sum(len(texts) for texts in VALUES.values())
    conn.execute(statement)
    assert rows(conn, f"{listed} grace_buffer.many order by id") == before


def test_a_null_in_every_column_is_kept(t: Connection) -> None:
    t.execute("create table empty (a int, b text, c jsonb); insert into empty values (null, null, null)")
    protect(t, "empty")
    t.execute("delete from empty")
    assert records(t, "empty") == [{"a": None, "b": None, "c": None}]


@pytest.mark.parametrize("storage", ["extended", "external"])
@pytest.mark.parametrize("statement", ["delete from big", "truncate big"])
def test_megabytes_out_of_line_are_kept(conn: Connection, storage: str, statement: str) -> None:
    conn.execute(f"""
        create table big (id int, doc text, raw bytea);
        alter table big alter doc set storage {storage}, alter raw set storage {storage};
        insert into big
          select n, string_agg(md5(i::text || n), ''), string_agg(sha256(i::text::bytea), '')
          from generate_series(1, 2) n, generate_series(1, 40000) i group by n;
    """)
    protect(conn, "big")
    before = rows(conn, "select id, md5(doc) d, md5(raw) r, length(doc) l from big order by id")
    assert before[0][3] > 1_000_000
    conn.execute(statement)
    conn.execute("vacuum full big")
    assert rows(conn, "select id, md5(doc) d, md5(raw) r, length(doc) l from grace_buffer.big order by id") == before


def test_generated_identity_and_dropped_columns_are_no_obstacle(conn: Connection) -> None:
    conn.execute("""
        create table g (
          gone1 int, id int generated always as identity, a int, gone2 text, double int generated always as (a * 2) stored,
          s serial, last text collate "C" default 'z');
        alter table g drop column gone1, drop column gone2;
        insert into g (a) values (21), (4);
    """)
    protect(conn, "g")
    conn.execute("delete from g where a = 21")
    conn.execute("truncate g restart identity")
    assert records(conn, "g") == [
        {"id": 1, "a": 21, "double": 42, "s": 1, "last": "z"},
        {"id": 2, "a": 4, "double": 8, "s": 2, "last": "z"},
    ]


def test_a_table_with_a_thousand_columns_is_captured(conn: Connection) -> None:
    conn.execute(f"create table wide ({', '.join(f'c{n} int default {n}' for n in range(1000))})")
    conn.execute("insert into wide default values")
    protect(conn, "wide")
    conn.execute("delete from wide")
    assert records(conn, "wide") == [{f"c{n}": n for n in range(1000)}]


# --- Tables that change -----------------------------------------------------------------------------------------------

DRIFTS = {
    "add": "alter table d add note text; update d set note = 'n' || id",
    "add with default": "alter table d add note text default 'n'",
    "add not null with default": "alter table d add at timestamptz not null default now()",
    "add two": "alter table d add x int default 1; alter table d add y int default 2",
    "add an enum": "create type mood as enum ('sad', 'ok'); alter table d add mood mood default 'ok'",
    "add a generated one": "alter table d add twice int generated always as (id * 2) stored",
    "add one with a reserved word": 'alter table d add "select" int default 3',
    "drop": "alter table d drop b",
    "drop the last": "alter table d drop c",
    "drop and add the same": "alter table d drop b; alter table d add b text default 'new'",
    "drop and add the same with another type": "alter table d drop b; alter table d add b int default 4",
    "drop one and add another": "alter table d drop b; alter table d add z text default 'z'",
    "rename": "alter table d rename b to label",
    "rename and add the old name": "alter table d rename b to label; alter table d add b text default 'new b'",
    "swap two names": "alter table d rename a to x; alter table d rename c to a; alter table d rename x to c",
    "turn three names": """
        alter table d rename a to x; alter table d rename b to a;
        alter table d rename c to b; alter table d rename x to c""",
    "int to numeric": "alter table d alter a type numeric; update d set a = a + 0.7",
    "int to text": "alter table d alter a type text using a || ' pieces'",
    "int to bigint": "alter table d alter a type bigint; update d set a = a + 5000000000",
    "text to int": "alter table d alter b type int using length(b)",
    "varchar(9) to text": "alter table d alter v type text; update d set v = repeat('long', 9)",
    "varchar(9) to varchar(90)": "alter table d alter v type varchar(90); update d set v = repeat('long', 9)",
    "numeric(4,1) to numeric(9,5)": "alter table d alter p type numeric(9,5); update d set p = 1.23456",
    "numeric(4,1) to numeric": "alter table d alter p type numeric; update d set p = 1.23456789",
    "to a domain": "create domain dom as text check (value <> ''); alter table d alter b type dom",
    "cidr to inet": "alter table d alter net type inet; update d set net = '10.1.2.3/8'",
    "timestamp to timestamptz": "set timezone = 'UTC'; alter table d alter ts type timestamptz; set timezone = 'Asia/Tokyo'",
    "rewritten": "vacuum full d",
    "clustered": "alter table d add primary key (id); cluster d using d_pkey",
    "another schema": "create schema other; alter table d set schema other; set search_path = public, other",
}
# A partitioned table is neither clustered nor moved by VACUUM FULL; its partition d1 is.
DRIFTS_OF_A_PARTITION = {name: ddl for name, ddl in DRIFTS.items() if name not in ("clustered", "another schema")}
D = """
    create table d (id int, a int, b text, c int, v varchar(9), p numeric(4,1), net cidr, ts timestamp) {0};
    {1}
    insert into d select n, n * 10, 'b' || n, n * 100, 'v' || n, n + 0.5, '10.0.0.0/8', '2024-01-01 00:00'
    from generate_series(1, 4) n;
"""


def originals(conn: Connection) -> dict[int, dict[str, Any]]:
    return {row["id"]: row["j"] for row in conn.execute("select id, to_jsonb(d) as j from d").fetchall()}


def follow_a_change(conn: Connection, ddl: str) -> None:
    """Delete row 1, change the table, delete rows 2 and 3 each on its own and truncate the rest; nothing may be lost."""
    protect(conn, "d")
    expected = {1: originals(conn)[1]}
    conn.execute("delete from d where id = 1")
    conn.execute(ddl)
    expected |= originals(conn)
    assert len(expected) == 4
    conn.execute("delete from d where id = 2")
    conn.execute("delete from d where id = 3")
    conn.execute("truncate d")
    if ddl.startswith("set timezone"):
        conn.execute("set timezone = 'Asia/Tokyo'")
    found = {record["id"]: record for record in records(conn, "d")}
    assert sorted(found) == [1, 2, 3, 4]
    for n in (2, 3, 4):
        assert {name: found[n].get(name) for name in expected[n]} == expected[n]
    kept = [str(item) for item in found[1].values()]
    assert [item for item in expected[1].values() if str(item) not in kept] == []


@pytest.mark.parametrize("change", DRIFTS)
def test_no_value_is_lost_when_the_table_changes(conn: Connection, change: str) -> None:
    conn.execute(D.format("", ""))
    follow_a_change(conn, DRIFTS[change])


@pytest.mark.parametrize("change", DRIFTS_OF_A_PARTITION)
def test_no_value_is_lost_when_a_partitioned_table_changes(conn: Connection, change: str) -> None:
    conn.execute(D.format("partition by range (id)", "create table d1 partition of d for values from (0) to (99);"))
    follow_a_change(conn, DRIFTS_OF_A_PARTITION[change])


@pytest.mark.parametrize(
    "change", ["add with default", "drop", "rename", "swap two names", "int to numeric", "int to text"]
)
def test_no_value_is_lost_when_a_leaf_is_deleted_from_after_a_change(conn: Connection, change: str) -> None:
    conn.execute(D.format("partition by range (id)", "create table d1 partition of d for values from (0) to (99);"))
    protect(conn, "d")
    conn.execute(DRIFTS[change])
    expected = originals(conn)
    conn.execute("delete from d1 where id = 2")
    (record,) = records(conn, "d")
    assert {name: record[name] for name in expected[2]} == expected[2]


@pytest.mark.parametrize("change", ["swap two names", "turn three names"])
def test_what_was_deleted_before_names_were_swapped_still_knows_which_is_which(conn: Connection, change: str) -> None:
    conn.execute(D.format("", ""))
    protect(conn, "d")
    conn.execute("delete from d where id = 1")
    conn.execute(DRIFTS[change])
    conn.execute("delete from d where id = 2")
    conn.execute("alter table d add more int default 0")
    conn.execute("delete from d where id = 3")
    ratio = {
        "swap two names": {"a": 100, "c": 10},
        "turn three names": {"b": 100, "c": 10},
    }[change]
    for record in records(conn, "d"):
        for name, factor in ratio.items():
            assert record[name] == record["id"] * factor, record


def test_a_type_changed_twice_keeps_every_version(conn: Connection) -> None:
    conn.execute("create table d (id int, a int); insert into d select n, n from generate_series(1, 5) n")
    protect(conn, "d")
    for n, ddl in enumerate(["numeric using a + 0.5", "text using 'text ' || a", "int using 7", "text"], start=1):
        conn.execute("delete from d where id = %s", [n])
        conn.execute(f"alter table d alter a type {ddl}")
    conn.execute("delete from d where id = 5")
    everything = [str(list(record.values())) for record in records(conn, "d")]
    for found, kept in zip(everything, ["1", "2.5", "text 3.5", "7", "'7'"], strict=True):
        assert kept in found


@pytest.mark.parametrize("column", ["grace_deletion", "grace_deleted_at", "grace_other"])
def test_a_column_added_later_with_a_name_of_ours_loses_nothing_silently(t: Connection, column: str) -> None:
    t.execute(f"alter table t add {column} int default 5")
    if not captured_or_refused(t, "delete from t where id = 1"):
        assert 5 in rows(t, "select to_jsonb(b) as record from grace_buffer.t b")[0][0].values()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_sessions_that_delete_right_after_a_change_both_succeed(t: Connection, db: Database, end: str) -> None:
    other = db.connect()
    t.execute("alter table t add note text default 'n'")
    with t.transaction():
        t.execute("delete from t where id = 1")
        with in_background(lambda: other.execute("delete from t where id = 2")) as result:
            time.sleep(0.3)
            t.execute(end)
    assert not isinstance(result[0], psycopg.Error), result[0]
    t.execute("delete from t where id = 3")
    gone = [1, 2, 3] if end == "commit" else [2, 3]
    assert records(t, "t") == [{"id": n, "name": f"name {n}", "note": "n"} for n in gone]


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_an_old_snapshot_is_no_obstacle_after_a_change(t: Connection, db: Database, level: IsolationLevel) -> None:
    t.execute("alter table t add note text default 'n'")
    other = db.connect()
    other.isolation_level = level
    try:
        with other.transaction():
            assert value(other, "select count(*) from t") == 9
            t.execute("delete from t where id = 1")
            other.execute("delete from t where id = 2")
    except errors.SerializationFailure:
        gone = [1]
    else:
        gone = [1, 2]
    assert records(t, "t") == [{"id": n, "name": f"name {n}", "note": "n"} for n in gone]


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table t add note text default 'n'",
        "alter table t rename name to label",
        "alter table t alter name type text",
        "alter table t add x text default 'x'; alter table t rename name to y; alter table t rename x to name",
    ],
)
@pytest.mark.parametrize("warm", [True, False])
def test_a_change_made_behind_an_old_snapshot_loses_nothing(t: Connection, db: Database, ddl: str, warm: bool) -> None:
    other = db.connect()
    if warm:
        for n in range(3, 10):
            other.execute("delete from t where id = %s", [n])
    other.isolation_level = IsolationLevel.REPEATABLE_READ
    with other.transaction():
        other.execute("select 1 from pg_class limit 1")
        t.execute(ddl)
        expected = value(t, "select to_jsonb(t) from t where id = 1")
        try:
            other.execute("delete from t where id = 1")
        except errors.SerializationFailure:
            return
    found = value(t, "select to_jsonb(b) from grace_buffer.t b where id = 1")
    assert {name: found.get(name) for name in expected} == expected


def test_a_change_and_a_delete_in_one_transaction(t: Connection) -> None:
    with t.transaction():
        t.execute("delete from t where id = 1")
        t.execute("alter table t add note text default 'n'")
        t.execute("delete from t where id = 2")
        t.execute("alter table t rename name to label")
        t.execute("delete from t where id = 3")
    with t.transaction(force_rollback=True):
        t.execute("alter table t add more int default 1")
        t.execute("delete from t where id = 4")
    t.execute("delete from t where id = 5")
    assert records(t, "t") == [{"id": n, "label": f"name {n}", "note": "n"} for n in (1, 2, 3, 5)]


@pytest.mark.parametrize("limit", ["owner", "delete only"])
def test_an_application_without_rights_deletes_after_a_change(
    t: Connection, db: Database, role: MakeRole, limit: str
) -> None:
    app = app_session(db, role, "select, delete on t")
    if limit == "owner":
        t.execute(f"alter table t owner to {app.info.user}")
    t.execute("alter table t add note text default 'n'")
    app.execute("delete from t where id = 1")
    assert records(t, "t") == [{"id": 1, "name": "name 1", "note": "n"}]


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table t drop column name",
        "alter type mood add value 'great'",
        "alter type mood rename value 'ok' to 'fine'",
        "alter domain positive add check (value < 5)",
        "alter type address add attribute zip text",
        "alter table t rename to renamed",
        "alter table t drop column mood; drop type mood",
        "alter table t alter mood type text; drop type mood",
    ],
)
def test_nothing_of_ours_blocks_the_applications_changes(conn: Connection, ddl: str) -> None:
    conn.execute("""
        create type mood as enum ('sad', 'ok'); create domain positive as int; create type address as (street text);
        create table t (id int, name text, mood mood, p positive, a address);
        insert into t values (1, 'x', 'ok', 7, '(here)'), (2, 'x', 'ok', 2, '(there)');
    """)
    protect(conn, "t")
    conn.execute("delete from t where id = 1")
    conn.execute(ddl)


@pytest.mark.parametrize("statement", ["vacuum full t", "cluster t using t_pkey", "truncate t"])
def test_deletes_go_on_after_the_table_was_rewritten(t: Connection, statement: str) -> None:
    t.execute(statement)
    t.execute("insert into t values (10, 'ten')")
    t.execute("delete from t where id = 10")
    assert records(t, "t")[-1] == {"id": 10, "name": "ten"}


# --- Where it lands ---------------------------------------------------------------------------------------------------


def landed(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(conn, "select tableoid::regclass::text, count(*) from grace_buffer.t group by 1")


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12"])
@pytest.mark.parametrize("statement", ["delete from t", "truncate t"])
def test_a_deletion_lands_in_the_leaf_of_its_day_in_utc(t: Connection, zone: str, statement: str) -> None:
    t.execute(f"set timezone = '{zone}'")
    t.execute(statement)
    day = value(t, "select to_char(deleted_at at time zone 'UTC', 'YYYYMMDD') from grace.deletions")
    assert landed(t) == [(f"grace_internal.b1_{day}", 9)]


def test_there_are_leaves_for_a_fortnight_and_twelve_weeks_ahead(t: Connection) -> None:
    days = rows(
        t,
        "select pg_get_expr(c.relpartbound, c.oid) from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'grace_buffer.t'::regclass",
    )
    assert len(days) == 15 + 2 + 1  # a day each, two longer ones, the default
    assert ("DEFAULT",) in days


@pytest.mark.parametrize("statement", ["delete from t", "truncate t"])
def test_a_deletion_lands_in_the_default_leaf_when_that_of_its_day_is_missing(t: Connection, statement: str) -> None:
    for (leaf,) in rows(t, "select relname from pg_class where relname ~ '^b1_[0-9]+$'"):
        t.execute(f"drop table grace_internal.{leaf}")
    t.execute(statement)
    assert landed(t) == [("grace_internal.b1_default", 9)]
    assert ids(t) == list(range(1, 10))


def test_sessions_that_read_backslashes_in_strings_are_captured_and_purged(conn: Connection) -> None:
    conn.execute("create table p (id int primary key, t text) partition by range (id)")
    conn.execute("create table p_1 partition of p for values from (0) to (100)")
    conn.execute("insert into p select n, 'x' from generate_series(1, 9) n")
    conn.execute("select grace.protect('p')")
    conn.execute("set standard_conforming_strings = off; set escape_string_warning = off")
    conn.execute("delete from p where id <= 3")
    conn.execute("create table p_2 partition of p for values from (100) to (200)")
    conn.execute("delete from p where id = 4")
    conn.execute("select grace.restore('p', keys => '1')")
    conn.execute("select grace.set_retention('p', '1 second')")
    conn.execute("select pg_sleep(1.1)")
    conn.execute("call grace.purge()")
    assert rows(conn, "select status, row_count from grace.runs where kind = 'purge'") == [("done", 3)]
    assert rows(conn, "select * from grace.doctor() where severity = 'problem'") == []
