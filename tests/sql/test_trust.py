"""Code that belongs to the application never runs with the rights of the owner of pg_grace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def mallory(conn: Connection, db: Database, role: Callable[[str], str]) -> Connection:
    """A role that owns a schema, and functions in it that try to make it a superuser."""
    name = role("mallory")
    conn.execute(f"create schema mal authorization {name}")
    session = db.connect(user=name)
    session.execute(
        f"""
        create function mal.go() returns void language plpgsql volatile as $$ begin
          if (select rolsuper from pg_roles where rolname = current_user) then
            alter role {name} superuser;
          end if;
        end $$;
        create function mal.evil(i int) returns boolean language plpgsql immutable as
          $$ begin perform mal.go(); return true; end $$;
        create function mal.difference(float8, float8) returns float8 language plpgsql immutable as
          $$ begin perform mal.go(); return $1 - $2; end $$;
        create type mal.span as range (subtype = float8, subtype_diff = mal.difference);
        create type mal.mood as enum ('sad');
        create function mal.spell(mal.mood) returns text language plpgsql as
          $$ begin perform mal.go(); return 'x'; end $$;
        create cast (mal.mood as text) with function mal.spell(mal.mood);
        """.encode()
    )
    return session


def is_superuser(session: Connection) -> Any:
    return value(session, "select rolsuper from pg_roles where rolname = session_user")


def run_or_be_refused(session: Connection, statement: bytes) -> None:
    """Run a statement; that it is refused for the sake of security is as good."""
    try:
        session.execute(statement)
    except psycopg.Error as error:
        if error.sqlstate != "GR010":
            raise


def test_the_attack_would_work(conn: Connection, mallory: Connection) -> None:
    mallory.execute("create table mal.t (id int)")
    mallory.execute("create index on mal.t ((mal.evil(1)))")
    conn.execute("select from mal.t where id = 1")
    assert is_superuser(mallory)


@pytest.mark.parametrize("made", ["before", "after"])
def test_analyzing_a_buffer_runs_nothing_of_a_range_type(conn: Connection, mallory: Connection, made: str) -> None:
    mallory.execute(f"create table mal.t (id int{', r mal.span, rs mal.span[]' if made == 'before' else ''})".encode())
    conn.execute("select grace.protect('mal.t')")
    if made == "after":
        mallory.execute("alter table mal.t add r mal.span, add rs mal.span[]")
    mallory.execute(
        "insert into mal.t select n, mal.span(n, n + 1), array[mal.span(n, n + 1)] from generate_series(1, 200) n"
    )
    mallory.execute("delete from mal.t")
    conn.execute("analyze grace_buffer.t")
    for (leaf,) in rows(conn, "select relid::text from pg_partition_tree('grace_buffer.t') where isleaf"):
        conn.execute(f"analyze {leaf}".encode())
    assert not is_superuser(mallory)


@pytest.mark.parametrize("exclusion", ["on", "partition"])
@pytest.mark.parametrize(
    "trap",
    [
        "alter table mal.t add constraint c check (mal.evil(1))",
        "create index on mal.t ((mal.evil(id)))",
        "create index on mal.t (id) where mal.evil(1)",
        "create index on mal.t_1 ((mal.evil(1)))",
        "alter table mal.t_1 add constraint c check (mal.evil(1))",
        "create statistics mal.s on (mal.evil(1)), id from mal.t_1",
    ],
)
def test_reading_a_table_runs_nothing_of_its_owner(
    conn: Connection, mallory: Connection, trap: str, exclusion: str
) -> None:
    mallory.execute("create table mal.t (id int, image oid, path text) partition by range (id)")
    mallory.execute("create table mal.t_1 partition of mal.t default")
    conn.execute("select grace.protect('mal.t', files => '{image, path}')")
    mallory.execute(trap.encode())
    for number in (1, 2):
        mallory.execute("insert into mal.t values (%s, lo_from_bytea(0, 'x'), 'p' || %s)", (number, number))
    mallory.execute(f"set constraint_exclusion = {exclusion}".encode())
    mallory.execute("delete from mal.t where id = 1")
    for statement in (b"truncate mal.t", b"truncate mal.t_1"):
        run_or_be_refused(mallory, statement)
    assert not is_superuser(mallory)

    mallory.execute("insert into mal.t values (3, 3, 'p3')")
    conn.execute(f"set constraint_exclusion = {exclusion}".encode())
    conn.execute("select grace.set_retention('mal.t', '1 second'); select pg_sleep(1.1)")
    conn.execute("call grace.purge()")
    run_or_be_refused(conn, b"select * from grace.claim_files()")
    conn.execute("select * from grace.doctor(); select * from grace.sync()")
    assert not is_superuser(mallory)
    assert value(conn, "select status from grace.runs where kind = 'purge' order by id desc limit 1") == "done"


def test_claiming_files_runs_nothing_of_who_inherits(conn: Connection, mallory: Connection) -> None:
    mallory.execute("create table mal.t (id int, path text); create table mal.heir () inherits (mal.t)")
    conn.execute("select grace.protect('mal.t', files => '{path}')")
    mallory.execute("create index on mal.heir ((mal.evil(1))); insert into mal.t values (1, 'p'), (2, 'q')")
    mallory.execute("delete from mal.t where id = 1")
    conn.execute("select grace.set_retention('mal.t', '1 second'); select pg_sleep(1.1)")
    conn.execute("call grace.purge()")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select * from grace.claim_files()")
    assert caught.value.sqlstate == "GR010"
    assert not is_superuser(mallory)


def test_a_former_column_is_made_text_without_the_applications_cast(conn: Connection, mallory: Connection) -> None:
    mallory.execute("create table mal.t (id int, m mal.mood)")
    conn.execute("select grace.protect('mal.t')")
    mallory.execute("insert into mal.t values (1, 'sad'); delete from mal.t; alter table mal.t drop column m")
    assert rows(conn, "select id, m from grace_buffer.t") == [(1, "sad")]
    assert not is_superuser(mallory)
