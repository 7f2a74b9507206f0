"""What reviewers found and made fail: each stays as a plain test."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

import psycopg
import pytest

from pg_grace.cluster import binaries
from pg_grace.connection import Connection
from tests.conftest import Database, rows, value

EVIL = """
create schema app authorization {owner};
set role {owner};
create function app.evil(text) returns boolean language plpgsql as $$
begin
  execute 'alter role {owner} superuser';
  return true;
exception when insufficient_privilege then
  return true;
end $$;
create domain app.trap as text check (app.evil(value));
"""


def is_superuser(conn: Connection, name: str) -> bool:
    return bool(value(conn, "select rolsuper from pg_roles where rolname = %s", name))


def test_a_default_of_a_trapped_type_does_not_run_with_our_rights(db: Database, conn: Connection, role: Any) -> None:
    owner = role("owner")
    conn.execute(EVIL.format(owner=owner).encode())
    conn.execute("create table app.s (id int primary key)")
    conn.execute("reset role")
    conn.execute("select grace.protect('app.s')")
    session = db.connect(user=owner)
    session.execute("alter table app.s add column x app.trap[] default '{a}'")
    session.execute("insert into app.s (id) values (1)")
    session.execute("delete from app.s")
    assert not is_superuser(conn, owner)
    assert rows(conn, "select id, x::text from grace_buffer.s") == [(1, "{a}")]


@pytest.mark.parametrize("related", [True, False])
def test_keys_of_a_trapped_type_are_read_with_the_callers_rights(
    db: Database, conn: Connection, role: Any, related: bool
) -> None:
    owner, operator = role("owner"), role("operator")
    conn.execute(EVIL.format(owner=owner).encode())
    conn.execute(b"create table app.k (id app.trap[] primary key); insert into app.k values ('{a}')")
    conn.execute("reset role")
    conn.execute(
        f"grant grace_operator to {operator}; grant usage on schema app to {operator};"
        f" grant select, insert on app.k to {operator}".encode()
    )
    conn.execute("select grace.protect('app.k')")
    db.connect(user=owner).execute("delete from app.k")
    session = db.connect(user=operator)
    for call in (
        "restore('app.k', keys => '[{\"id\": [\"a\"]}]', related => %s)",
        "buffered('app.k', keys => '[{\"id\": [\"a\"]}]')",
    ):
        session.execute(f"select * from grace.{call}".encode(), (related,) if "%s" in call else None)
    assert not is_superuser(conn, owner)


def test_a_cast_in_a_foreign_key_runs_with_the_callers_rights(db: Database, conn: Connection, role: Any) -> None:
    owner, operator = role("owner"), role("operator")
    conn.execute(EVIL.format(owner=owner).encode())
    conn.execute(
        b"create type app.ct as (v int);"
        b"create function app.number(app.ct) returns int language plpgsql as"
        b" $$ begin perform app.evil(''); return ($1).v; end $$;"
        b"create cast (app.ct as int) with function app.number(app.ct) as implicit;"
        b"create table app.fp (id int primary key);"
        b"create table app.fc (id int primary key, p app.ct references app.fp on delete cascade);"
        b"insert into app.fp values (1); insert into app.fc values (1, row(1))"
    )
    conn.execute("reset role")
    conn.execute(
        f"grant grace_operator to {operator}; grant usage on schema app to {operator};"
        f" grant select, insert on all tables in schema app to {operator}".encode()
    )
    conn.execute("select grace.protect('app.fp')")
    db.connect(user=owner).execute("delete from app.fp")
    session = db.connect(user=operator)
    assert rows(session, "select restored from grace.restore('app.fp', keys => '1', dry_run => true)") == [(1,), (1,)]
    assert not is_superuser(conn, owner)


def test_a_dump_loaded_elsewhere_knows_which_column_is_which(db: Database, conn: Connection) -> None:
    conn.execute(
        b"create table dt (id int primary key, gone int, a int, b int, c text, secret text default 's');"
        b"alter table dt drop column gone"
    )
    conn.execute("select grace.protect('dt', exclude_columns => '{secret}')")
    conn.execute(b"insert into dt values (1, 100, 200, 'one', 'x'), (2, 101, 201, 'two', 'x')")
    conn.execute("delete from dt where id = 1")
    dump = subprocess.run([binaries() / "pg_dump", "-d", db.conninfo], capture_output=True, check=True).stdout
    conn.execute("create database loaded_elsewhere template template0")
    loaded = psycopg.conninfo.make_conninfo(db.conninfo, dbname="loaded_elsewhere")
    try:
        subprocess.run(
            ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", loaded], input=dump, capture_output=True, check=True
        )
        with psycopg.connect(loaded, autocommit=True) as there:
            there.execute("delete from dt where id = 2")
            there.execute("select grace.restore('dt', keys => '[1, 2]')")
            assert there.execute("select * from dt order by id").fetchall() == [
                (1, 100, 200, "one", "s"),
                (2, 101, 201, "two", "s"),
            ]
    finally:
        conn.execute("drop database loaded_elsewhere with (force)")


def test_a_delete_that_waited_while_the_table_changed_captures_the_new_column(db: Database, conn: Connection) -> None:
    conn.execute(
        b"create table sp (id int primary key);"
        b"create table sc (id int primary key, p int references sp on delete cascade);"
        b"insert into sp values (1); insert into sc values (1, 1)"
    )
    conn.execute("select grace.protect('sp')")
    conn.execute("drop event trigger grace_follow_ddl")
    holder, waiting = db.connect(), db.connect()
    with holder.transaction():
        holder.execute("select from sp where id = 1 for update")
        thread = threading.Thread(target=waiting.execute, args=("delete from sp where id = 1",))
        thread.start()
        while not value(conn, "select count(*) from pg_locks where not granted"):
            time.sleep(0.02)
        conn.execute("alter table sc add column secret text")
        conn.execute("update sc set secret = 's'")
    thread.join()
    assert rows(conn, "select id, p, secret from grace_buffer.sc") == [(1, 1, "s")]


def test_a_child_that_inherits_since_makes_the_delete_fail(conn: Connection) -> None:
    conn.execute("drop event trigger grace_follow_ddl")
    conn.execute("create table inh (id int primary key)")
    conn.execute("select grace.protect('inh')")
    conn.execute(b"create table child (extra text) inherits (inh); insert into child values (1, 'precious')")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("delete from inh")
    assert caught.value.sqlstate == "GR019"
    assert "grace.sync" in (caught.value.diag.message_hint or "")
    assert value(conn, "select count(*) from child") == 1
    conn.execute("select grace.sync()")
    conn.execute("delete from inh")
    assert rows(conn, "select id, extra from grace_buffer.child") == [(1, "precious")]


def test_a_partition_that_moves_to_another_tree_is_captured_there(conn: Connection) -> None:
    for name in ("hot", "arch"):
        conn.execute(f"create table {name} (id int, r text, v text) partition by list (r)".encode())
    conn.execute("create table one partition of hot for values in ('a')")
    conn.execute("select grace.protect(t) from unnest('{hot, arch}'::regclass[]) t")
    conn.execute("alter table hot detach partition one")
    assert value(conn, "select count(*) from pg_trigger where tgrelid = 'one'::regclass") == 0
    conn.execute("alter table arch attach partition one for values in ('a')")
    conn.execute("insert into arch values (1, 'a', 'x')")
    conn.execute("delete from one")
    assert value(conn, "select count(*) from grace_buffer.arch") == 1
    assert value(conn, "select count(*) from grace_buffer.hot") == 0


def test_an_open_restore_a_purge_and_a_protect_do_not_block_the_application(db: Database, conn: Connection) -> None:
    conn.execute(b"create table lk (id int primary key); insert into lk values (1); create table other (id int)")
    conn.execute("select grace.protect('lk')")
    conn.execute("delete from lk")
    restoring, purging = db.connect(), db.connect()
    with restoring.transaction(force_rollback=True):
        restoring.execute("select grace.restore(deletion => 1)")
        purging.execute("set statement_timeout = '10s'")
        purging.execute("call grace.purge()")
        conn.execute("set statement_timeout = '10s'")
        conn.execute("select grace.protect('other')")
        conn.execute("insert into other values (1)")


def test_a_type_that_was_dropped_with_its_columns_does_not_stop_the_next_one(conn: Connection) -> None:
    conn.execute(b"create type mood as enum ('x', 'y'); create table tm (id int primary key, m mood)")
    conn.execute("select grace.protect('tm')")
    conn.execute(b"insert into tm values (1, 'x'), (2, 'y')")
    conn.execute("delete from tm where id = 1")
    conn.execute(b"set grace.allow_drop = on; drop type mood cascade")
    conn.execute(b"create type mood as enum ('x', 'y')")
    conn.execute("alter table tm add column m mood default 'y'")
    conn.execute("delete from tm where id = 2")
    assert rows(conn, "select id, m::text from grace_buffer.tm order by id") == [(1, None), (2, "y")]


def test_a_constraint_of_the_same_name_elsewhere_does_not_stop_a_restore(conn: Connection) -> None:
    conn.execute(
        b"create table par (id int primary key); insert into par values (1);"
        b"create table ca (id int, p int, constraint fk1 foreign key (p) references par deferrable initially deferred);"
        b"create table cb (id int, p int, constraint fk1 foreign key (p) references par); insert into ca values (1, 1)"
    )
    conn.execute("select grace.protect('ca')")
    conn.execute("delete from ca")
    conn.execute("select grace.restore(deletion => 1)")
    assert rows(conn, "select * from ca") == [(1, 1)]


def test_a_conflict_on_a_generated_column_that_was_added_since_is_foreseen(conn: Connection) -> None:
    conn.execute(b"create table g (id int primary key, a int); insert into g values (1, 5), (2, 6)")
    conn.execute("select grace.protect('g')")
    conn.execute("delete from g where id = 1")
    conn.execute("alter table g add column b int generated always as (a * 2) stored check (b > 10)")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.restore(deletion => 1)")
    assert caught.value.sqlstate == "GR011"
    assert "violates check (b > 10)" in str(caught.value.diag.message_detail)


def test_rows_do_not_outlive_their_expiry_in_an_open_transaction(conn: Connection) -> None:
    conn.execute(b"create table t (id int primary key); insert into t values (1)")
    conn.execute("select grace.protect('t', '2 seconds')")
    conn.execute("delete from t")
    with conn.transaction():
        assert value(conn, "select count(*) from grace.deletions") == 1
        time.sleep(2.1)
        assert value(conn, "select count(*) from grace.deletions") == 0
        assert value(conn, "select count(*) from grace.buffered('t')") == 0


def test_a_partition_can_not_be_unprotected_alone(conn: Connection) -> None:
    conn.execute(b"create table p (id int) partition by range (id); create table p1 partition of p default")
    conn.execute("select grace.protect('p')")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.unprotect('p1')")
    assert caught.value.sqlstate == "GR002"
    assert value(conn, "select state from grace.protected") == "capturing"
