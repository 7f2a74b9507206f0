"""What tests/stateful has found, each as a few statements."""

from __future__ import annotations

from pg_grace.connection import Connection
from tests.conftest import rows


def test_a_type_change_that_rewrites_nothing_leaves_buffered_values_alone(conn: Connection) -> None:
    """varchar to text: rows from before the column was added have its default, deleted rows have what they had."""
    conn.execute("create table t (id int primary key); insert into t values (1), (2)")
    conn.execute("alter table t add v varchar(10) default 'd'; update t set v = 'mine' where id = 1")
    conn.execute("select grace.protect('t')")
    conn.execute("delete from t")
    conn.execute("alter table t alter v type text")
    conn.execute("select grace.restore(deletion => 1)")
    assert rows(conn, "select id, v from t order by id") == [(1, "mine"), (2, "d")]


def test_a_restore_right_after_a_load_knows_values_from_before_a_type_change(conn: Connection) -> None:
    conn.execute("create table t (id int primary key, n int); insert into t values (1, 7)")
    conn.execute("select grace.protect('t')")
    conn.execute("delete from t")
    conn.execute("alter table t alter n type text")
    conn.execute("update grace_internal.protected set home = 'another cluster'")  # as a dump that was loaded is
    conn.execute("select grace.restore(deletion => 1)")
    assert rows(conn, "select id, n from t") == [(1, "7")]


def test_after_a_load_a_column_does_not_get_what_a_dropped_namesake_had(conn: Connection) -> None:
    conn.execute(
        "create table t (id int primary key, n text, m int); insert into t values (1, 'gone', 5), (2, 'gone', 6)"
    )
    conn.execute("select grace.protect('t')")
    conn.execute("delete from t where id = 1")
    conn.execute(
        "alter table t drop n; alter table t alter m type bigint; alter table t rename m to k; alter table t add n int"
    )
    conn.execute("update grace_internal.protected set home = 'another cluster'")
    conn.execute("delete from t where id = 2")  # the numbers are found again
    conn.execute("select grace.restore(deletion => 1)")
    conn.execute("select grace.restore(deletion => 2)")
    assert rows(conn, "select id, n, k from t order by id") == [(1, None, 5), (2, None, 6)]


def test_what_has_expired_does_not_come_back_with_what_has_not(conn: Connection) -> None:
    """A table's retention can be shorter than that of what hangs on its rows; a superuser's session sees it all."""
    conn.execute("""
        create table p (id int primary key);
        create table c (id int primary key, p_id int references p on delete cascade);
        create table e (id int primary key, p_id int references p on delete cascade);
        insert into p values (1); insert into c values (1, 1); insert into e values (1, 1);
    """)
    conn.execute("select grace.protect('p')")
    conn.execute("delete from p")
    conn.execute("select grace.set_retention('c', '1 second')")
    conn.execute("select pg_sleep(1.1)")
    assert rows(conn, "select restored_table::text, restored from grace.restore('p', keys => '1')") == [
        ("p", 1),
        ("e", 1),
    ]
    assert rows(conn, "select count(*) from c") == [(0,)]
