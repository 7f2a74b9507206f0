"""What PostgreSQL and plpgsql_check can say of all our functions at once."""

from __future__ import annotations

from pg_grace.connection import Connection
from tests.conftest import rows

SCHEMAS = "('grace'::regnamespace, 'grace_internal'::regnamespace)"


def test_plpgsql_check_finds_nothing(conn: Connection) -> None:
    conn.execute("create extension plpgsql_check")
    conn.execute("create table t (id int primary key)")
    conn.execute("select grace.protect('t')")
    found = rows(
        conn,
        "select p.oid::regprocedure::text, c.lineno, c.message"
        " from pg_proc p"
        " join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'"
        " cross join lateral (select p.prorettype = 'trigger'::regtype as trigger) t"
        " cross join lateral plpgsql_check_function_tb("
        "   p.oid, case when t.trigger then 't'::regclass else 0 end,"
        "   oldtable => case when t.trigger then 'grace_gone' end) c"
        f" where p.pronamespace in {SCHEMAS}"
        " and c.message not like 'OUT variable % is maybe unmodified'"
        # IMMUTABLE is what makes the planner evaluate it once.
        " and not (p.proname = 'columns_unchanged' and c.message like 'routine is marked as IMMUTABLE%')"
        " and c.message !~ '\\mcron\\M'",
    )
    assert found == []


def test_every_definer_function_pins_its_search_path(conn: Connection) -> None:
    conn.execute("create table t (id int primary key)")
    conn.execute("select grace.protect('t')")
    unpinned = rows(
        conn,
        "select p.oid::regprocedure::text from pg_proc p"
        f" where p.pronamespace in {SCHEMAS} and p.prosecdef"
        " and not coalesce(p.proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']",
    )
    assert unpinned == []


def test_public_has_no_right_on_anything(conn: Connection) -> None:
    conn.execute("create table t (id int primary key)")
    conn.execute("select grace.protect('t')")
    granted = rows(
        conn,
        "select p.oid::regprocedure::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        f" where p.pronamespace in {SCHEMAS} and a.grantee = 0"
        # Cloned to partitions in the name of whoever makes them; without USAGE on the schema nobody else gets at them.
        " and p.oid not in ('grace_internal.keep_files()'::regprocedure, 'grace_internal.capture_leaf()'::regprocedure)"
        " union all"
        " select c.oid::regclass::text from pg_class c, aclexplode(c.relacl) a"
        f" where c.relnamespace in ('grace_buffer'::regnamespace, {SCHEMAS[1:-1]}) and a.grantee = 0"
        " union all"
        " select n.nspname from pg_namespace n, aclexplode(n.nspacl) a"
        f" where n.oid in ('grace_buffer'::regnamespace, {SCHEMAS[1:-1]}) and a.grantee = 0",
    )
    assert granted == []
