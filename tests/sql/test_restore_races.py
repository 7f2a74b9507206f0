"""Who may, and what happens when others write at the same time."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.restoring import as_planned, conflicts, last_deletion, refused, restore, script, state

VERSIONS = """create table t (id int primary key, v text, u int unique);
insert into t values (1, 'old', 1), (2, 'gone', 2);
select grace.protect('t');
delete from t;
insert into t values (1, 'new', 3)"""


@pytest.fixture
def versions(conn: Connection) -> Connection:
    """Row 1 is there again, in another version; row 2 is not."""
    script(conn, VERSIONS)
    return conn


@pytest.fixture
def operator(db: Database, versions: Connection, role: Any) -> Connection:
    """An operator's session who may insert into t, and no more."""
    name = role("operator")
    versions.execute(f"grant grace_operator to {name}; grant insert on t to {name}".encode())
    return db.connect(user=name)


class Waiting:
    """A statement of another session, in a thread, that is waiting for a lock when the block begins."""

    def __init__(self, db: Database, *statements: str) -> None:
        self.session = db.connect()
        self.watcher = db.connect()
        self.statements = statements
        self.found: list[tuple[Any, ...]] = []
        self.error: psycopg.Error | None = None
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            for statement in self.statements:
                cursor = self.session.execute(statement.encode())
                if cursor.description:
                    self.found = [tuple(row.values()) for row in cursor.fetchall()]
        except psycopg.Error as error:
            self.error = error

    def start(self) -> None:
        self.thread.start()
        for _ in range(3000):
            if not self.thread.is_alive() or value(
                self.watcher,
                "select exists (select from pg_locks where not granted and pid = %s)",
                self.session.info.backend_pid,
            ):
                return
            time.sleep(0.02)
        raise AssertionError("it does not wait")

    def end(self) -> None:
        self.thread.join(60)
        assert not self.thread.is_alive()


def test_replace_overwrites_and_the_overwritten_version_can_be_restored(versions: Connection) -> None:
    deletion = last_deletion(versions)
    done = as_planned(versions, f"deletion => {deletion}, on_conflict => 'replace'")
    assert done[0][:6] == ("t", 2, 1, 0, 0, 0)
    assert rows(versions, "select * from t order by 1") == [(1, "old", 1), (2, "gone", 2)]
    assert rows(versions, "select id, v, u from grace_buffer.t") == [(1, "new", 3)]
    overwritten = last_deletion(versions)
    assert overwritten > deletion
    assert rows(versions, "select row_count, restored_count from grace.deletions where id = %s", overwritten) == [
        (1, 0)
    ]
    assert (
        value(versions, "select (details ->> 'overwritten')::bigint from grace.runs where kind = 'restore'")
        == overwritten
    )
    assert as_planned(versions, f"deletion => {overwritten}, on_conflict => 'replace'")[0][:3] == ("t", 1, 1)
    assert rows(versions, "select * from t order by 1") == [(1, "new", 3), (2, "gone", 2)]
    assert rows(versions, "select id, v, u from grace_buffer.t") == [(1, "old", 1)]


def test_replace_and_delete_in_one_transaction_are_two_versions(versions: Connection) -> None:
    first = last_deletion(versions)
    with versions.transaction():
        versions.execute(b"delete from t where id = 1")
        versions.execute(b"insert into t values (1, 'between', 4)")
        restore(versions, f"'t', keys => '1', deletion => {first}, on_conflict => 'replace'")
    assert rows(versions, "select v from t") == [("old",)]
    assert rows(versions, "select v from grace_buffer.t where id = 1 order by 1") == [("between",), ("new",)]


def test_replace_does_not_take_the_key_of_another_row(versions: Connection) -> None:
    versions.execute(b"insert into t values (9, 'other', 1)")
    call = f"deletion => {last_deletion(versions)}, on_conflict => 'replace'"
    assert conflicts(versions, call) == [("t", {"id": 1}, "t_u_key", "key (u)=(1) is taken by a row that is there now")]
    refused(versions, "GR011", call)


def test_rows_that_exchange_a_unique_value_are_replaced_together(versions: Connection) -> None:
    versions.execute(b"delete from t; insert into t values (1, 'x', 2), (2, 'y', 1)")
    first = value(versions, "select min(id) from grace.deletions")
    refused_or_done = conflicts(versions, f"deletion => {first}, on_conflict => 'replace'")
    if refused_or_done:
        refused(versions, "GR011", f"deletion => {first}, on_conflict => 'replace'")
    else:
        restore(versions, f"deletion => {first}, on_conflict => 'replace'")


def test_replace_in_a_table_without_primary_key_replaces_nothing(conn: Connection) -> None:
    script(
        conn,
        "create table t (a int unique, b int);\ninsert into t values (1, 1), (2, 2);\nselect grace.protect('t');\n"
        "delete from t;\ninsert into t values (1, 5)",
    )
    call = f"deletion => {last_deletion(conn)}, on_conflict => 'replace'"
    assert conflicts(conn, call) == [
        ("t", {"a": 1, "b": 1}, "t_a_key", "key (a)=(1) is taken by a row that is there now")
    ]
    refused(conn, "GR011", call)
    conn.execute(b"delete from t where b = 5")
    assert restore(conn, call) == [("t", 2)]


def test_replace_leaves_live_children_where_they_are(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key, v text);\ncreate table b (id int primary key, a_id int references a on delete cascade);\n"
        "insert into a values (1, 'old');\ninsert into b values (1, 1);\nselect grace.protect('a');\ndelete from a;\n"
        "insert into a values (1, 'new');\ninsert into b values (2, 1)",
    )
    done = as_planned(conn, f"deletion => {last_deletion(conn)}, on_conflict => 'replace'")
    assert [row[:3] for row in done] == [("a", 1, 1), ("b", 1, 0)]
    assert rows(conn, "select a.v, b.id from a join b on b.a_id = a.id order by 2") == [("old", 1), ("old", 2)]


def test_replace_moves_a_row_to_the_partition_it_was_in(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int, r int, v int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1) partition by range (id);\n"
        "create table t_1_a partition of t_1 for values from (0) to (10);\ncreate table t_2 partition of t for values in (2);\n"
        "insert into t values (1, 1, 1), (1, 2, 2);\nselect grace.protect('t');\ndelete from t;\n"
        "insert into t values (1, 1, 11), (1, 2, 12)",
    )
    done = as_planned(conn, f"deletion => {last_deletion(conn)}, on_conflict => 'replace'")
    assert done[0][:3] == ("t", 2, 2)
    assert rows(conn, "select tableoid::regclass::text, v from t order by 2") == [("t_1_a", 1), ("t_2", 2)]
    assert rows(conn, "select v from grace_buffer.t order by 1") == [(11,), (12,)]


def test_replace_where_the_partition_is_chosen_by_another_column_than_the_key(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int, r int, v int) partition by list (r);\ncreate table t_1 partition of t for values in (1);\n"
        "create table t_2 partition of t for values in (2);\nalter table t add primary key (id, r);\n"
        "insert into t values (1, 1, 1);\nselect grace.protect('t');\ndelete from t;\ninsert into t values (1, 1, 5)",
    )
    conn.execute(b"update t set r = 2")
    assert as_planned(conn, "'t', keys => '{\"id\": 1, \"r\": 1}', on_conflict => 'replace'")[0][:3] == ("t", 1, 0)
    assert rows(conn, "select r, v from t order by 1") == [(1, 1), (2, 5)]


def test_replace_of_a_row_whose_every_column_is_its_key(conn: Connection) -> None:
    script(
        conn,
        "create table t (a int, b int, primary key (a, b));\ninsert into t values (1, 1), (2, 2);\nselect grace.protect('t');\n"
        "delete from t;\ninsert into t values (1, 1)",
    )
    call = f"deletion => {last_deletion(conn)}, on_conflict => 'replace'"
    assert as_planned(conn, call)[0][:3] == ("t", 2, 1)
    assert rows(conn, "select * from t order by 1") == [(1, 1), (2, 2)]


def test_replace_sets_a_given_value_and_null(versions: Connection) -> None:
    versions.execute(b"alter table t add w int; update t set w = 5")
    call = f"'t', keys => '1', on_conflict => 'replace', deletion => {last_deletion(versions)}"
    assert as_planned(versions, f'{call}, set_values => \'{{"v": "given"}}\'')[0][:3] == ("t", 1, 1)
    assert rows(versions, "select * from t where id = 1") == [(1, "given", 1, None)]


def test_an_operator_with_insert_only_restores_and_is_told_what_else_takes_a_right(
    versions: Connection, operator: Connection
) -> None:
    deletion = last_deletion(versions)
    assert restore(operator, f"'t', keys => '2', deletion => {deletion}") == [("t", 1)]
    before = state(versions)
    for options in ("on_conflict => 'replace'", "on_conflict => 'skip'", "dry_run => true"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table t"):
            restore(operator, f"deletion => {deletion}, {options}")
    assert state(versions) == before
    versions.execute(f"grant select on t to {operator.info.user}".encode())
    assert restore(operator, f"deletion => {deletion}, on_conflict => 'skip'") == [("t", 0)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table t"):
        restore(operator, f"deletion => {deletion}, on_conflict => 'replace'")
    versions.execute(f"grant update on t to {operator.info.user}".encode())
    assert restore(operator, f"deletion => {deletion}, on_conflict => 'replace'", "replaced") == [("t", 1)]


def test_rows_that_a_policy_hides_are_not_overwritten(versions: Connection, operator: Connection) -> None:
    name = operator.info.user
    versions.execute(
        f"grant select, update on t to {name}; alter table t enable row level security;"
        f" create policy all_of_it on t to {name} using (v <> 'new') with check (true)".encode()
    )
    before = state(versions)
    with pytest.raises(psycopg.Error):
        restore(operator, f"deletion => {last_deletion(versions)}, on_conflict => 'replace'")
    assert state(versions) == before


PLAN = "jsonb_populate_record(null::grace._restore_plan, %s)"


def test_helpers_called_by_hand_show_nothing_of_tables_that_may_not_be_read(
    versions: Connection, operator: Connection
) -> None:
    script(versions, "create table secret (id int primary key, v text);\ninsert into secret values (1, 'hidden')")
    versions.execute(b"select grace.protect('secret')")
    before = state(versions)
    forged = (
        '{"live_leaves": ['
        + str(value(versions, "select 'secret'::regclass::oid"))
        + '], "live_tids": ["(0,1)"], "protected_ids": [2]}'
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(operator, f"select grace._keep_overwritten({PLAN})", forged)
    unprotected = (
        '{"live_leaves": [' + str(value(versions, "select 'pg_authid'::regclass::oid")) + '], "live_tids": ["(0,1)"]}'
    )
    with pytest.raises(psycopg.Error) as caught:
        rows(operator, f"select grace._keep_overwritten({PLAN})", unprotected)
    assert caught.value.sqlstate in ("42501", "GR001")
    assert rows(operator, "select * from grace._cut_links(1, '{1, 2, 3}')") == []
    # The statements that it writes do what its caller may; they do not run in it.
    statement = value(
        operator,
        f"select grace._check_statement({PLAN}, false, true)",
        '{"protected_ids": [2], "deletions": [1], "on_conflict": "error"}',
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        operator.execute(
            "do $$ declare r record; begin execute "
            + "$q$" + statement + "$q$"
            + " into r using null::grace._row_ref[], null::grace._row_ref[], null::grace._row_ref[], null::grace._row_ref[];"
            " raise exception 'read: %', r; end $$"
            if "public.secret" in statement
            else "select * from secret"
        )  # fmt: skip
    assert state(versions) == before


def test_a_restore_that_is_said_to_be_done_takes_only_as_many_rows_as_are_said(
    versions: Connection, operator: Connection
) -> None:
    before = state(versions)
    plan = '{"protected_ids": [1], "deletions": [1], "targets": ["t"]}'
    for restored in ("{0}", "{1}", "{3}", "{null}", "{}", None):
        with pytest.raises(psycopg.Error):
            rows(operator, f"select grace._restore_done({PLAN}, %s::bigint[], null)", plan, restored)
    assert state(versions) == before


@pytest.mark.parametrize("mode", ["error", "skip", "replace"])
@pytest.mark.parametrize("selection", ["deletion => {}", "'t', keys => '[1, 2]'", "'t', predicate => 'id > 0'"])
def test_of_two_sessions_one_restores_and_the_other_is_told(
    db: Database, conn: Connection, mode: str, selection: str
) -> None:
    script(
        conn,
        "create table t (id int primary key);\ninsert into t values (1), (2);\nselect grace.protect('t');\ndelete from t",
    )
    call = f"{selection.format(last_deletion(conn))}, on_conflict => '{mode}'"
    second = Waiting(db, f"select restored from grace.restore({call})")
    with conn.transaction():
        assert restore(conn, call) == [("t", 2)]
        second.start()
    second.end()
    assert second.error is not None
    assert second.error.sqlstate == "GR007", second.error
    assert rows(conn, "select count(*), count(distinct id) from t") == [(2, 2)]
    assert value(conn, "select count(*) from grace_buffer.t") == 0


@pytest.mark.parametrize("mode", ["error", "skip", "replace"])
def test_a_key_that_another_session_is_just_inserting(db: Database, versions: Connection, mode: str) -> None:
    deletion = last_deletion(versions)
    waiting = Waiting(
        db,
        f"select restored, replaced, skipped from grace.restore('t', keys => '2', deletion => {deletion}, on_conflict => '{mode}')",
    )
    with versions.transaction():
        versions.execute(b"insert into t values (2, 'just now', 9)")
        waiting.start()
    waiting.end()
    assert rows(versions, "select v from t where id = 2") == [("just now",)] or mode == "replace"
    if mode == "error":
        assert waiting.error is not None
        assert waiting.error.sqlstate == "GR011"
        assert "key (id)=(2) is taken" in str(waiting.error.diag.message_detail)
    elif mode == "skip":
        assert (waiting.error, waiting.found) == (None, [(0, 0, 1)])
    else:
        assert waiting.error is not None or waiting.found == [(1, 1, 0)], waiting.error
        if waiting.error is not None:
            assert waiting.error.sqlstate in ("GR011", "40001"), waiting.error
    assert value(versions, "select count(*) from t where id = 2") == 1


@pytest.mark.parametrize("change", ["update t set v = 'changed' where id = 1", "delete from t where id = 1"])
def test_replace_of_a_row_that_another_session_is_changing(db: Database, versions: Connection, change: str) -> None:
    deletion = last_deletion(versions)
    waiting = Waiting(
        db, f"select restored, replaced from grace.restore(deletion => {deletion}, on_conflict => 'replace')"
    )
    with versions.transaction():
        versions.execute(change.encode())
        waiting.start()
    waiting.end()
    assert waiting.error is None, waiting.error
    if change.startswith("update"):
        assert waiting.found == [(2, 1)]
        assert rows(versions, "select v from grace_buffer.t") == [("changed",)]
    else:
        assert waiting.found == [(2, 0)]
        assert rows(versions, "select v from grace_buffer.t") == [("new",)]
    assert rows(versions, "select v from t order by id") == [("old",), ("gone",)]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("mode", ["error", "skip", "replace"])
def test_a_snapshot_that_is_older_than_a_restore_gets_a_serialization_failure(
    db: Database, conn: Connection, level: str, mode: str
) -> None:
    script(
        conn,
        "create table t (id int primary key);\ninsert into t values (1), (2);\nselect grace.protect('t');\ndelete from t",
    )
    call = f"deletion => {last_deletion(conn)}, on_conflict => '{mode}'"
    other = db.connect()
    other.execute(f"begin isolation level {level}".encode())
    other.execute(b"select count(*) from t")
    assert restore(conn, call) == [("t", 2)]
    with pytest.raises(psycopg.errors.SerializationFailure):
        restore(other, call)
    other.execute(b"rollback")
    assert rows(conn, "select id from t order by 1") == [(1,), (2,)]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_in_any_isolation_level_a_restore_is_the_same(conn: Connection, level: str) -> None:
    script(conn, VERSIONS)
    with conn.transaction():
        conn.execute(f"set transaction isolation level {level}".encode())
        assert restore(
            conn, f"deletion => {last_deletion(conn)}, on_conflict => 'replace'", "restored", "replaced"
        ) == [("t", 2, 1)]
    assert rows(conn, "select v from t order by id") == [("old",), ("gone",)]


@pytest.mark.parametrize("mode", ["error", "skip", "replace"])
def test_a_restore_that_is_cancelled_has_changed_nothing(db: Database, conn: Connection, mode: str) -> None:
    script(
        conn,
        "create table a (id int primary key);\ncreate table b (id int primary key, a_id int references a on delete cascade);\n"
        "insert into a values (1), (2);\ninsert into b values (1, 1), (2, 2);\nselect grace.protect('a');\ndelete from a;\n"
        "create function wait() returns trigger language plpgsql as 'begin perform pg_sleep(60); return new; end';\n"
        "create trigger wait after insert on b for each row execute function wait()",
    )
    before = state(conn)
    waiting = Waiting(db, f"select grace.restore(deletion => {last_deletion(conn)}, on_conflict => '{mode}')")
    waiting.thread.start()
    while not value(
        conn, "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", waiting.session.info.backend_pid
    ):
        time.sleep(0.02)
    waiting.session.cancel()
    waiting.end()
    assert isinstance(waiting.error, psycopg.errors.QueryCanceled)
    assert state(conn) == before
    conn.execute(b"drop trigger wait on b")
    assert restore(conn, f"deletion => {last_deletion(conn)}, on_conflict => '{mode}'") == [("a", 2), ("b", 2)]
