"""A rule does what its role may do, neither more nor less, whoever has it run; and nothing gets out of that role."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.sql.ruling import add_rule, failures, last_run, run


@pytest.fixture
def keeper(conn: Connection, role: Any) -> str:
    """A role with a schema, tables and code of its own, which is what a rule of a superuser's installation runs as."""
    name: str = role("keeper")
    conn.execute(
        f"""
        create schema m authorization {name};
        set role {name};
        create table m.lead (id int primary key, tenant int not null default 1, name text);
        insert into m.lead select n, 1 + n % 2, 'lead ' || n from generate_series(1, 20) n;
        create table m.seen (who name, login name, what text);
        reset role;
        select grace.protect('m.lead');
        """.encode()
    )
    return name


def as_owner(conn: Connection, name: str, statements: str) -> None:
    conn.execute(f"set role {name}; {statements}; reset role".encode())


NOTE = (
    "language plpgsql as $$ begin insert into m.seen values (current_user, session_user, tg_name); return null; end $$"
)


def test_deferred_triggers_run_as_the_role(conn: Connection, keeper: str) -> None:
    as_owner(
        conn,
        keeper,
        f"create function m.note() returns trigger {NOTE};"
        "create constraint trigger late after delete on m.lead deferrable initially deferred"
        " for each row when (old.id < 3) execute function m.note()",
    )
    add_rule(conn, target="m.lead", predicate="id <= 5", run_as=keeper)
    assert run(conn) == ("done", 5)
    assert rows(conn, "select distinct who::text, what from m.seen") == [(keeper, "late")]


def test_what_deferred_triggers_defer_once_more_is_refused(conn: Connection, keeper: str) -> None:
    """It would be done as the transaction ends, with the rights of whoever called."""
    as_owner(
        conn,
        keeper,
        f"""
        create table m.first (id int); create table m.second (id int);
        create function m.one() returns trigger language plpgsql as
        $$ begin insert into m.first values (1); return null; end $$;
        create function m.two() returns trigger language plpgsql as
        $$ begin set constraints all deferred; insert into m.second values (1); return null; end $$;
        create function m.three() returns trigger {NOTE};
        create trigger one after delete on m.lead for each row execute function m.one();
        create constraint trigger two after insert on m.first deferrable initially deferred
        for each row execute function m.two();
        create constraint trigger three after insert on m.second deferrable initially deferred
        for each row execute function m.three()""",
    )
    add_rule(conn, target="m.lead", predicate="id <= 5", run_as=keeper)
    assert run(conn) == ("done", 5)
    assert rows(conn, "select distinct who::text from m.seen") == [(keeper,)]  # once more is still found
    conn.execute("truncate m.seen")
    as_owner(
        conn,
        keeper,
        "create or replace function m.three() returns trigger language plpgsql as $$ begin"
        " insert into m.seen values (current_user, session_user, tg_name);"
        " set constraints all deferred; insert into m.second values (1); return null; end $$",
    )
    conn.execute("select grace.alter_rule('r', '{\"predicate\": \"id <= 7\"}')")
    assert run(conn) == ("incomplete", 0)
    assert failures(conn)[0][1:] == ("42501", "triggers defer to the end of the transaction what they do")
    assert rows(conn, "select * from m.seen") == []


@pytest.mark.parametrize("where", ["trigger", "predicate"])
def test_a_cursor_that_outlives_the_role_is_refused(conn: Connection, keeper: str, where: str) -> None:
    """It would be run as the transaction ends, with the rights of whoever called."""
    as_owner(
        conn,
        keeper,
        """
        create function m.look() returns text language plpgsql as
        $$ begin insert into m.seen values (current_user, session_user, 'cursor'); return ''; end $$;
        create function m.open() returns boolean language plpgsql as
        $$ begin
          if not exists (select from pg_cursors where name = 'late') then
            execute 'declare late cursor with hold for select m.look()';
          end if;
          return true;
        end $$;
        create function m.note() returns trigger language plpgsql as $$ begin perform m.open(); return null; end $$;
        create function m.innocent(n int) returns boolean language plpgsql stable as $$ begin return m.open(); end $$""",
    )
    if where == "trigger":
        as_owner(conn, keeper, "create trigger n after delete on m.lead for each row execute function m.note()")
    add_rule(conn, target="m.lead", predicate="id <= 5" if where == "trigger" else "m.innocent(id)", run_as=keeper)
    assert run(conn)[1] == 0
    assert last_run(conn)[0] in ("failed", "incomplete")
    assert rows(conn, "select * from m.seen") == []
    if where == "predicate":
        for look in ("select * from grace.planned('m.lead')", "select grace.preview('r')"):
            conn.execute(look.encode())  # what reads is taken back, cursors included
    assert rows(conn, "select * from m.seen") == []


def test_temporary_tables_with_deferred_triggers_are_no_way_out(conn: Connection, keeper: str) -> None:
    """Reading lets functions write to temporary tables."""
    as_owner(
        conn,
        keeper,
        f"""
        create function m.late() returns trigger {NOTE};
        create function m.prepare() returns trigger language plpgsql as $$
        begin
          create temporary table if not exists trap (id int);
          drop trigger if exists late on trap;
          create constraint trigger late after insert on trap deferrable initially deferred for each row execute function m.late();
          return null;
        end $$;
        create function m.spring() returns void language plpgsql as
        $$ begin if to_regclass('pg_temp.trap') is not null then insert into pg_temp.trap values (1); end if; end $$;
        create function m.innocent(n int) returns boolean language plpgsql stable as
        $$ begin perform m.spring(); return n <= 5; end $$;
        create trigger prepare after delete on m.lead for each statement execute function m.prepare()""",
    )
    add_rule(conn, target="m.lead", predicate="m.innocent(id)", run_as=keeper, batch_size=2)
    for _ in range(2):
        run(conn)
        with pytest.raises(psycopg.Error, match="temporary table of this session has a deferrable trigger"):
            conn.execute("select * from grace.planned('m.lead')")
        assert rows(conn, "select who::text from m.seen where who::text <> %s", keeper) == []


ESCAPES = {
    "role": "perform set_config('role', 'none', true)",
    "role by SQL": "execute 'set role none'",
    "role for good": "perform set_config('role', 'postgres', false)",
    "reset role": "execute 'reset role'",
    "login": "execute 'set session authorization default'",
    "superuser": "execute 'alter role ' || quote_ident(current_user) || ' superuser'",
    "registry": "perform 1 from grace_internal.rule",
}


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("while_", ["reading", "deleting"])
def test_no_function_gets_out_of_the_role(conn: Connection, keeper: str, escape: str, while_: str) -> None:
    body = f"begin {ESCAPES[escape]}; insert into m.seen values (current_user, session_user, 'out'); "
    as_owner(
        conn,
        keeper,
        f"""
        create function m.out() returns boolean language plpgsql as $$ {body} return true; end $$;
        create function m.innocent(n int) returns boolean language plpgsql stable as $$ begin return m.out(); end $$;
        create function m.note() returns trigger language plpgsql as $$ {body} return null; end $$""",
    )
    if while_ == "reading":
        add_rule(conn, target="m.lead", predicate="m.innocent(id)", run_as=keeper)
    else:
        as_owner(conn, keeper, "create trigger n after delete on m.lead for each row execute function m.note()")
        add_rule(conn, target="m.lead", predicate="id <= 3", run_as=keeper)
    status, deleted = run(conn)
    assert (status in ("failed", "incomplete"), deleted) == (True, 0)
    assert rows(conn, "select * from m.seen") == []
    assert value(conn, "select current_user::text") == "postgres"
    assert value(conn, "select rolsuper from pg_roles where rolname = %s", keeper) is False


@pytest.mark.parametrize(
    "statement",
    [
        "insert into m.seen values (current_user, session_user, 'x')",
        "delete from m.lead",
        "perform set_config('transaction_read_only', 'off', true); delete from m.lead",
        "perform set_config('transaction_read_only', 'off', false); delete from m.lead",
        "execute 'set transaction read write'; delete from m.lead",
        "create table m.made (id int)",
        "perform nextval('m.number')",
        "perform 1 from m.lead for update",
    ],
)
def test_while_it_reads_nothing_is_written_whatever_a_function_says_of_itself(
    conn: Connection, keeper: str, statement: str
) -> None:
    as_owner(
        conn,
        keeper,
        f"""
        create sequence m.number;
        create function m.act() returns void language plpgsql as $$ begin {statement}; end $$;
        create function m.innocent(n int) returns boolean language plpgsql stable as
        $$ begin perform m.act(); return true; end $$""",
    )
    add_rule(conn, target="m.lead", predicate="m.innocent(id)", run_as=keeper)
    for look in ("select * from grace.planned('m.lead')", "select * from grace.preview('r')"):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(look.encode())
        assert caught.value.sqlstate in ("25006", "25001", "42501"), caught.value
    assert run(conn) == ("failed", 0)
    assert value(conn, "select count(*) from m.lead") == 20
    assert value(conn, "select count(*) from m.seen") == 0
