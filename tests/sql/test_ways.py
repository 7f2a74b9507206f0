"""Every way a row goes: whatever statement, rule, trigger, cascade or protocol removes it, it is in the buffer once."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors

from pg_grace import migrate
from pg_grace.cluster import Cluster
from pg_grace.connection import Connection, Target, connect
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server

_schemas = itertools.count(1)

Rows = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def house(server: Server, template: str) -> Iterator[Database]:
    """One database for all tests of this file: each has a schema of its own in it, which takes much less time."""
    with _new_database(server, template) as database:
        yield database


@pytest.fixture
def way(house: Database) -> Connection:
    """A superuser's session whose search path is an empty schema."""
    session = house.connect()
    schema = f"way_{next(_schemas)}"
    session.execute(f"create schema {schema}")
    session.execute(f"set search_path = {schema}")
    return session


def neighbour(house: Database, way: Connection) -> Connection:
    """Open one more session in a test's schema."""
    session = house.connect()
    session.execute("select set_config('search_path', %s, false)", [value(way, "select current_schema()")])
    return session


def protect(conn: Connection, *tables: str) -> None:
    for table in tables:
        conn.execute("select from grace.protect(%s)", [table])


def live(conn: Connection, table: str) -> Rows:
    return dict(rows(conn, f"select id, to_jsonb(t) from {table} t"))


def buffered(conn: Connection, table: str) -> list[dict[str, Any]]:
    found = rows(conn, "select record from grace.buffered(%s)", table)
    return sorted((record for (record,) in found), key=lambda record: int(record["id"]))


def ids(conn: Connection, table: str = "t") -> list[int]:
    return [record["id"] for record in buffered(conn, table)]


def grouped(conn: Connection, table: str = "t") -> list[list[int]]:
    """Return the ids of the rows that are buffered, a list for each deletion."""
    found = rows(
        conn,
        "select jsonb_agg((record ->> 'id')::int order by (record ->> 'id')::int) from grace.buffered(%s)"
        " group by deletion_id",
        table,
    )
    return sorted(together for (together,) in found)


def count_deletions(conn: Connection, *tables: str) -> tuple[int, int]:
    """Return how many deletions took rows from some of the tables, and how many rows they took by the log."""
    (found,) = rows(
        conn,
        "select count(distinct id), coalesce(sum(row_count), 0)::int from grace.deletions"
        " where target = any (%s::regclass[])",
        list(tables),
    )
    return found[0], found[1]


T = "create table t (id int primary key, name text); insert into t select n, 'name ' || n from generate_series(1, 9) n;"
U = "create table u (id int primary key, name text); insert into u select n, 'u ' || n from generate_series(1, 9) n;"


@dataclass(frozen=True)
class Way:
    """How rows go: what is there before, the statements, the ids of what goes, what is new, what a row
    was when it went, and the ids that rows had before their keys were changed."""

    setup: str
    act: str
    gone: dict[str, list[int]]
    added: dict[str, list[int]] = field(default_factory=dict)
    last: dict[int, dict[str, Any]] = field(default_factory=dict)
    moved: dict[str, list[int]] = field(default_factory=dict)


def check(conn: Connection, case: Way) -> None:
    """Protect all tables of a case, let the rows go, and see that precisely they are buffered, and as one deletion."""
    conn.execute(case.setup)
    protect(conn, *case.gone)
    before = {table: live(conn, table) for table in case.gone}
    conn.execute(case.act)
    for table, gone in case.gone.items():
        expected = [(before[table] | case.last).get(n) or {"id": n} for n in sorted(gone)]
        assert [record["id"] for record in buffered(conn, table)] == sorted(gone), table
        assert buffered(conn, table) == expected
        stayed = set(before[table]) - set(gone) - set(case.moved.get(table, []))
        assert set(live(conn, table)) == stayed | set(case.added.get(table, [])), table
    total = sum(len(gone) for gone in case.gone.values())
    assert count_deletions(conn, *case.gone) == (min(total, 1), total)


# --- Statements -------------------------------------------------------------------------------------------------------

QUEUE = "delete from t where id in (select id from t order by id for update skip locked limit 3) returning id"

STATEMENTS = {
    "limit by ctid": Way(
        T, "delete from t where ctid = any (array(select ctid from t order by id limit 3))", {"t": [1, 2, 3]}
    ),
    "a tid range": Way(T, "delete from t where ctid < '(0,4)'", {"t": [1, 2, 3]}),
    "the same table three times": Way(
        T,
        "delete from t using t a join t b on b.id = a.id + 1 where t.id = b.id and a.id in (1, 5)",
        {"t": [2, 6]},
    ),
    "a join that finds each row many times": Way(
        T, "delete from t using generate_series(1, 50) n where t.id < 3", {"t": [1, 2]}
    ),
    "returning nothing of a semi-join": Way(
        T + U, "delete from t where exists (select from u where u.id = t.id and u.id > 7)", {"t": [8, 9]}
    ),
    "moved to an archive": Way(
        T + "create table archive (like t);",
        "with gone as (delete from t where id < 4 returning *) insert into archive select * from gone",
        {"t": [1, 2, 3]},
    ),
    "moved there and back between two tables": Way(
        T + U,
        "with a as (delete from t where id = 1 returning *), b as (delete from u where id = 2 returning *),"
        " c as (insert into u select id + 100, name from a) insert into t select id + 200, name from b",
        {"t": [1], "u": [2]},
        {"t": [202], "u": [101]},
    ),
    "deleted and updated by one statement": Way(
        T,
        "with a as (delete from t where id = 1), b as (update t set name = 'new' where id = 2) delete from t where id = 3",
        {"t": [1, 3]},
    ),
    "deleted in one statement, inserted again, deleted again": Way(
        T,
        "delete from t where id = 1; insert into t values (1, 'name 1'); delete from t where id = 1",
        {"t": [1, 1]},
    ),
    "updated to another key and deleted": Way(
        T,
        "begin; update t set id = id + 100; update t set name = 'last' where id = 101; delete from t where id < 103; commit",
        {"t": [101, 102]},
        {"t": list(range(103, 110))},
        {101: {"id": 101, "name": "last"}, 102: {"id": 102, "name": "name 2"}},
        moved={"t": list(range(1, 10))},
    ),
    "locked, changed in a savepoint that is rolled back, deleted": Way(
        T,
        "begin; select from t for update; savepoint a; update t set name = 'x'; rollback to a; delete from t where id = 1; commit",
        {"t": [1]},
    ),
    "inserted and deleted in one transaction": Way(
        T,
        "begin; insert into t values (10, 'ten'); delete from t where id > 9; commit",
        {"t": [10]},
        {},
        {10: {"id": 10, "name": "ten"}},
    ),
    "in seventy nested savepoints": Way(
        T,
        "begin; delete from t where id = 1; "
        + "".join(f"savepoint s{n}; " for n in range(70))
        + "delete from t where id = 2; release s0; delete from t where id = 3; commit",
        {"t": [1, 2, 3]},
    ),
    "upserts delete nothing": Way(
        T,
        "insert into t select n, 'up' from generate_series(1, 12) n on conflict (id) do update set name = 'up'",
        {"t": []},
        {"t": [10, 11, 12]},
    ),
    "a function of SQL": Way(
        T + "create function f(n int) returns setof t language sql as 'delete from t where id = n returning *';",
        "select f(id) from generate_series(1, 3) id",
        {"t": [1, 2, 3]},
    ),
    "a function of SQL with a body": Way(
        T + "create function f(n int) returns void language sql begin atomic delete from t where id = n; end;",
        "select f(4); select f(5)",
        {"t": [4, 5]},
    ),
    "a function in a scan of the table itself": Way(
        T + "create function f(n int) returns int language sql as 'delete from t where id = n returning id';",
        "select count(f(id)) from t where id < 4",
        {"t": [1, 2, 3]},
    ),
    "a function in the condition of an update": Way(
        T + U + "create function f(n int) returns int language sql as 'delete from u where id = n returning id';",
        "update t set name = 'x' where f(id) = 2 and id < 4",
        {"u": [1, 2, 3]},
    ),
    "a function with settings of its own, called twice": Way(
        T
        + "create function f(n int) returns void language plpgsql set search_path from current set work_mem = '64kB' as"
        " $$ begin delete from t where id = n; end $$;",
        "begin; select f(1); select f(2); delete from t where id = 3; commit",
        {"t": [1, 2, 3]},
    ),
    "EXPLAIN ANALYZE": Way(T, "explain analyze delete from t where id = 1", {"t": [1]}),
    "EXPLAIN alone": Way(T, "explain delete from t where id = 1", {"t": []}),
    "EXPLAIN ANALYZE EXECUTE": Way(
        T, "prepare p1 as delete from t where id = $1; explain analyze execute p1(3); deallocate p1", {"t": [3]}
    ),
    "a loop with a block for errors": Way(
        T,
        """do $$ declare r record; begin
          for r in select id from t order by id loop
            begin
              delete from t where id = r.id;
              if r.id % 3 = 0 then raise exception 'no'; end if;
            exception when raise_exception then null;
            end;
          end loop;
        end $$""",
        {"t": [1, 2, 4, 5, 7, 8]},
    ),
    "blocks for errors within each other": Way(
        T,
        """do $$ begin
          begin
            delete from t where id = 1;
            begin delete from t where id = 2; perform 1 / 0; exception when others then delete from t where id = 3; end;
            delete from t where id = 4;
            begin delete from t where id = 5; begin delete from t where id = 6; end; raise 'x'; exception when others then null; end;
          end;
          delete from t where id = 7;
        end $$""",
        {"t": [1, 3, 4, 7]},
    ),
    "an error that takes the first deletion back": Way(
        T,
        """do $$ begin
          begin delete from t where id < 4; raise 'x'; exception when others then delete from t where id = 4; end;
          begin delete from t where id = 5; raise 'x'; exception when others then null; end;
          delete from t where id = 6;
        end $$""",
        {"t": [4, 6]},
    ),
    "a cursor in a loop": Way(
        T,
        """do $$ declare c cursor for select * from t where id > 5 for update; begin
          for r in c loop
            if r.id <> 7 then delete from t where current of c; end if;
          end loop;
        end $$""",
        {"t": [6, 8, 9]},
    ),
    "a cursor that goes back": Way(
        T,
        "begin; declare c scroll cursor for select * from t order by id; move last in c; move backward 2 in c;"
        " delete from t where current of c; move prior in c; delete from t where current of c; commit",
        {"t": [6, 7]},
    ),
    "a foreign table that is this table": Way(
        T
        + """create extension if not exists postgres_fdw schema public;
        do $$ begin
          execute format('create server way foreign data wrapper postgres_fdw options (host %L, port %L, dbname %L)',
            '127.0.0.1', current_setting('port'), current_database());
          execute format('create foreign table away (id int, name text) server way options (schema_name %L, table_name %L)',
            current_schema(), 't');
        end $$;
        create user mapping for current_user server way options (user 'postgres', password_required 'false');""",
        "begin; delete from away where id = 1; delete from away where length(name) + random() > 0 and id < 4; commit;"
        " drop server way cascade",
        {"t": [1, 2, 3]},
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_a_statement_removes_is_captured_once(way: Connection, name: str) -> None:
    check(way, STATEMENTS[name])


RULES = {
    "also a log": Way(
        T + "create table log (id int); create rule r as on delete to t do also insert into log values (old.id);",
        "delete from t where id < 3",
        {"t": [1, 2]},
    ),
    "also a delete elsewhere": Way(
        T + U + "create rule r as on delete to t do also delete from u where u.id = old.id;",
        "delete from t where id < 3",
        {"t": [1, 2], "u": [1, 2]},
    ),
    "instead a delete elsewhere": Way(
        T + U + "create rule r as on delete to t do instead delete from u where u.id = old.id;",
        "delete from t where id < 3",
        {"t": [], "u": [1, 2]},
    ),
    "instead a mark": Way(
        T + "create rule r as on delete to t do instead update t set name = null where id = old.id;",
        "delete from t where id < 3",
        {"t": []},
    ),
    "instead nothing, for some": Way(
        T + "create rule r as on delete to t where old.id > 2 do instead nothing;", "delete from t", {"t": [1, 2]}
    ),
    "a delete instead of an update": Way(
        T + "create rule r as on update to t do instead delete from t where id = old.id;",
        "update t set name = 'x' where id < 3",
        {"t": [1, 2]},
    ),
    "a ring that an insert keeps short": Way(
        T + "create rule r as on insert to t do also delete from t where id = new.id - 9;",
        "insert into t values (10, 'ten'), (11, 'eleven')",
        {"t": [1, 2]},
        {"t": [10, 11]},
    ),
    "a view of two tables": Way(
        T
        + U
        + """create view v as select t.id, t.name, u.name as other from t join u using (id);
        create rule r1 as on delete to v do instead (delete from t where id = old.id; delete from u where id = old.id + 1);""",
        # the second action looks at the view again, from which the first has taken the row
        "delete from v where id < 3",
        {"t": [1, 2], "u": []},
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_removes_is_captured_once(way: Connection, name: str) -> None:
    check(way, RULES[name])


INSTEAD_OF = """
    create view v as select t.id, t.name, u.name as other from t join u using (id);
    create function away() returns trigger language plpgsql as $$ begin
      delete from t where id = old.id;
      if old.id = 1 then return null; end if;
      delete from u where id = old.id;
      return old;
    end $$;
    create trigger away instead of delete on v for each row execute function away();
"""
VIEWS = {
    "of a view of a view, with check options": Way(
        T + "create view a as select id as number, name from t where id > 2 with cascaded check option;"
        "create view b as select number as n from a where number < 8 with local check option;"
        "create view c with (security_barrier) as select n from b where n <> 5 with cascaded check option;",
        "delete from c",
        {"t": [3, 4, 6, 7]},
    ),
    "with a security barrier": Way(
        T + "create view v with (security_barrier, security_invoker) as select * from t where id < 4;",
        "delete from v where name <> 'name 2'",
        {"t": [1, 3]},
    ),
    "with a trigger instead": Way(T + U + INSTEAD_OF, "delete from v where id < 4", {"t": [1, 2, 3], "u": [2, 3]}),
    "used in the delete of another table": Way(
        T + U + "create view v as select * from t where id < 4;",
        "with gone as (delete from v returning id) delete from u using gone where u.id = gone.id",
        {"t": [1, 2, 3], "u": [1, 2, 3]},
    ),
    "of a partitioned table": Way(
        "create table t (id int primary key, name text) partition by range (id);"
        "create table t1 partition of t for values from (0) to (5); create table t2 partition of t default;"
        "insert into t select n, 'name ' || n from generate_series(1, 9) n; create view v as select * from t where id > 3;",
        "delete from v where id < 7",
        {"t": [4, 5, 6]},
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_goes_through_a_view_is_captured_once(way: Connection, name: str) -> None:
    check(way, VIEWS[name])


PART = """
    create table t (id int, name text, kind text, primary key (id, kind)) partition by list (kind);
    create table t_a partition of t for values in ('a');
    create table t_b (kind text not null, gone int, name text, id int not null);
    alter table t_b drop column gone; alter table t attach partition t_b for values in ('b');
    create table t_c partition of t default partition by range (id);
    create table t_c1 partition of t_c for values from (0) to (7);
    create table t_c2 partition of t_c default;
    insert into t select n, 'name ' || n, substr('aaabbbccc', n, 1) from generate_series(1, 9) n;
"""

MERGES = {
    "all that match": Way(T, "merge into t using u on t.id = u.id when matched then delete", {"t": [1, 2]}),
    "two conditions, updates and inserts": Way(
        T,
        "merge into t using u on t.id = u.id when matched and u.id = 1 then delete when matched and t.name = 'name 2' then"
        " delete when matched then update set name = 'no'",
        {"t": [1, 2]},
    ),
    "nothing done": Way(T, "merge into t using u on t.id = u.id when matched then do nothing", {"t": []}),
    "itself": Way(
        T,
        "merge into t using t as o on t.id = o.id + 7 when matched then delete when not matched then do nothing",
        {"t": [8, 9]},
    ),
    "a partitioned table": Way(
        PART,
        "merge into t using (select * from generate_series(1, 12) n) s on t.id = s.n when matched and t.id % 3 = 1 then delete"
        " when matched and t.id % 3 = 2 then update set name = 'kept'"
        " when not matched then insert values (s.n, 'new', 'z')",
        {"t": [1, 4, 7]},
        {"t": [10, 11, 12]},
    ),
    "a middle partition": Way(PART, "merge into t_c using u on t_c.id = u.id + 5 when matched then delete", {"t": [7]}),
    "a leaf with its columns in another order": Way(
        PART, "merge into t_b using u on t_b.id = u.id + 2 when matched then delete", {"t": [4]}
    ),
    "prepared": Way(
        T,
        "prepare p2 as merge into t using u on t.id = u.id + $1 when matched then delete; execute p2(1); execute p2(3);"
        " deallocate p2",
        {"t": [2, 3, 4, 5]},
    ),
    "with a cascade": Way(
        T
        + "create table c (id int, t_id int references t on delete cascade); insert into c values (10, 1), (11, 1), (30, 3);",
        "merge into t using u on t.id = u.id when matched then delete",
        {"t": [1, 2], "c": [10, 11]},
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_what_a_merge_removes_is_captured_once(way: Connection, name: str) -> None:
    case = MERGES[name]
    check(way, replace(case, setup=f"{case.setup} create table u (id int); insert into u values (1), (2);"))


# --- Protocols --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", ["delete from t where id < 4 returning *", QUEUE])
def test_what_is_copied_out_while_it_is_deleted_is_captured(way: Connection, copied: str) -> None:
    way.execute(T)
    protect(way, "t")
    with way.cursor().copy(f"copy ({copied}) to stdout") as copy:
        assert [row[0] for row in copy.rows()] == ["1", "2", "3"]
    assert ids(way) == [1, 2, 3]
    assert count_deletions(way, "t") == (1, 3)


def test_a_copy_that_the_client_breaks_off_leaves_no_trace(way: Connection) -> None:
    way.execute(T + "insert into t select n, repeat('x', 5000) from generate_series(10, 3000) n")
    protect(way, "t")

    def break_off() -> None:
        with way.cursor().copy("copy (delete from t returning *) to stdout") as copy:
            copy.read()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert (buffered(way, "t"), len(live(way, "t"))) == ([], 3000)


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_a_prepared_delete_is_captured_however_it_is_planned_and_through_changes(
    house: Database, way: Connection, mode: str
) -> None:
    other = neighbour(house, way)
    way.execute(
        "create table t (id int primary key, name text); insert into t select n, 'x' from generate_series(1, 40) n"
    )
    protect(way, "t")
    way.execute(f"set plan_cache_mode = {mode}; prepare gone (int) as delete from t where id = $1 and name is not null")
    for n in range(1, 25):
        if n == 8:
            other.execute("alter table t add extra int default 8")
        if n == 16:
            other.execute("alter table t rename extra to more; update t set more = id")
        way.execute(f"execute gone ({n})")
    if mode != "force_custom_plan":
        assert value(way, "select generic_plans > 0 from pg_prepared_statements where name = 'gone'")
    assert buffered(way, "t") == [{"id": n, "name": "x", "more": n if n >= 16 else 8} for n in range(1, 25)]
    assert grouped(way) == [[n] for n in range(1, 25)]


def test_a_pipeline_of_deletes_is_one_deletion_for_each_transaction(way: Connection) -> None:
    way.execute(T)
    protect(way, "t")
    with way.pipeline() as pipeline:
        way.execute("delete from t where id = %s", [1])
        way.execute("delete from t where id = %s", [2])
        pipeline.sync()
        way.execute("delete from t where id = %s", [3])
        pipeline.sync()
        with way.transaction():
            way.execute("delete from t where id = %s", [4])
            with way.transaction(force_rollback=True):
                way.execute("delete from t where id = %s", [5])
            way.execute("truncate t")
    assert grouped(way) == [[1, 2], [3], [4, 5, 6, 7, 8, 9]]


def test_a_pipeline_that_fails_leaves_no_trace_of_what_failed_with_it(way: Connection) -> None:
    way.execute(T)
    protect(way, "t")

    def send() -> None:
        with way.pipeline() as pipeline:
            way.execute("delete from t where id = 1")
            pipeline.sync()
            way.execute("delete from t where id = 2")
            way.execute("select 1 / 0")
            way.execute("delete from t where id = 3")

    with pytest.raises(errors.DivisionByZero):
        send()
    assert grouped(way) == [[1]]
    assert set(live(way, "t")) == set(range(2, 10))


def test_many_executions_at_once_are_captured(way: Connection) -> None:
    way.execute(T)
    protect(way, "t")
    way.cursor().executemany("delete from t where id = %s", [(n,) for n in range(1, 8)])
    assert ids(way) == list(range(1, 8))


def test_consumers_of_a_queue_each_have_a_deletion_of_what_they_took(house: Database, way: Connection) -> None:
    way.execute(T)
    protect(way, "t")
    other = neighbour(house, way)
    with way.transaction(), other.transaction():
        first = [row[0] for row in rows(way, QUEUE)]
        second = [row[0] for row in rows(other, QUEUE)]
        first += [row[0] for row in rows(way, QUEUE)]
    assert sorted(first + second) == list(range(1, 10))
    assert grouped(way) == sorted([sorted(first), sorted(second)])


def test_a_delete_that_is_cancelled_leaves_no_trace(way: Connection) -> None:
    way.execute(T)
    protect(way, "t")
    way.execute("set statement_timeout = '300ms'")
    with pytest.raises(errors.QueryCanceled):
        way.execute("delete from t where id < 9; select pg_sleep(5)")
    way.execute("set statement_timeout = 0; delete from t where id = 9")
    assert grouped(way) == [[9]]


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_delete_that_loses_a_race_leaves_no_trace(house: Database, way: Connection, level: IsolationLevel) -> None:
    way.execute(T)
    protect(way, "t")
    other = neighbour(house, way)
    other.isolation_level = level

    def race() -> None:
        with other.transaction():
            other.execute("delete from t where id = 1")
            way.execute("delete from t where id = 2")
            other.execute("delete from t where id in (2, 3)")

    with pytest.raises(errors.SerializationFailure):
        race()
    assert grouped(way) == [[2]]


def test_a_row_that_moves_away_while_its_delete_waits_is_not_captured(house: Database, way: Connection) -> None:
    way.execute(PART)
    protect(way, "t")
    other = neighbour(house, way)
    outcome: list[Any] = []

    def delete() -> None:
        try:
            other.execute("delete from t where id = 1")
        except psycopg.Error as error:
            outcome.append(error)

    with way.transaction():
        way.execute("update t set kind = 'b' where id = 1")
        thread = threading.Thread(target=delete)
        thread.start()
        deadline = time.monotonic() + 10
        while not value(way, "select cardinality(pg_blocking_pids(%s))", other.info.backend_pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    thread.join(10)
    assert isinstance(outcome[0], errors.SerializationFailure)
    assert (ids(way), len(live(way, "t"))) == ([], 9)


# --- Triggers ---------------------------------------------------------------------------------------------------------


def trigger(when: str, body: str, level: str = "row") -> str:
    """Return the statements that make a trigger with its function."""
    name = f"g{next(_schemas)}"
    return (
        f"create function {name}() returns trigger language plpgsql as $f$ begin {body} end $f$;"
        f"create trigger {name} {when} for each {level} execute function {name}();"
    )


CONSTRAINT_TRIGGER = (
    "create function late() returns trigger language plpgsql as $f$ begin {0} end $f$;"
    "create constraint trigger late after {1} on t deferrable initially deferred for each row execute function late();"
)

TRIGGERS = {
    "before, that deletes the children": Way(
        T + U + trigger("before delete on t", "delete from u where id = old.id; return old;"),
        "delete from t where id < 4",
        {"t": [1, 2, 3], "u": [1, 2, 3]},
    ),
    "before, that changes OLD": Way(
        T + trigger("before delete on t", "old.name := 'forged'; old.id := old.id + 50; return old;"),
        "delete from t where id < 3",
        {"t": [1, 2]},
    ),
    "before, that answers with another row": Way(
        T + trigger("before delete on t", "return (select t from t where id = 9);"),
        "delete from t where id < 3",
        {"t": [1, 2]},
    ),
    "before, that deletes a child that cascades as well": Way(
        T
        + "create table c (id int, t_id int references t on delete cascade); insert into c values (10, 1), (11, 1), (20, 2);"
        + trigger("before delete on t", "delete from c where id = 10; return old;"),
        "delete from t where id < 3",
        {"t": [1, 2], "c": [10, 11, 20]},
    ),
    "before, that keeps some and deletes others": Way(
        T
        + trigger(
            "before delete on t",
            "if old.id < 3 then delete from t where id = old.id + 5; return null; end if; return old;",
        ),
        "delete from t where id in (1, 2, 3)",
        {"t": [3, 6, 7]},
    ),
    "before the statement, that deletes from the same table": Way(
        T
        + trigger(
            "before delete on t",
            "if pg_trigger_depth() = 1 then delete from t where id = 9; end if; return null;",
            "statement",
        ),
        "delete from t where id = 1",
        {"t": [1, 9]},
    ),
    "after, that deletes the next of the same table": Way(
        T + trigger("after delete on t", "delete from t where id = old.id + 2; return null;"),
        "delete from t where id = 1",
        {"t": [1, 3, 5, 7, 9]},
    ),
    "after, to and fro between two tables": Way(
        T
        + U
        + trigger("after delete on t", "delete from u where id = old.id + 1; return null;")
        + trigger("after delete on u", "delete from t where id = old.id + 1; return null;"),
        "delete from t where id = 1",
        {"t": [1, 3, 5, 7, 9], "u": [2, 4, 6, 8]},
    ),
    "after the statement, named before and after ours": Way(
        T + U + "create function f() returns trigger language plpgsql as $f$ begin"
        "  if tg_name = 'aaa' then delete from u where id = 1; else delete from u where id = 2; end if; return null; end $f$;"
        "create trigger aaa after delete on t for each statement execute function f();"
        "create trigger zzz after delete on t for each statement execute function f();",
        "delete from t where id = 1",
        {"t": [1], "u": [1, 2]},
    ),
    "after, with a transition table of the same name": Way(
        T + U + "create function f() returns trigger language plpgsql as $f$ begin"
        "  delete from u using grace_gone where u.id = grace_gone.id; return null; end $f$;"
        "create trigger f after delete on t referencing old table as grace_gone for each statement execute function f();",
        "delete from t where id < 3",
        {"t": [1, 2], "u": [1, 2]},
    ),
    "after, that puts the row back": Way(
        T + trigger("after delete on t", "insert into t values (old.id, 'again'); return null;"),
        "delete from t where id = 1",
        {"t": [1]},
        {"t": [1]},
    ),
    "after an insert, that deletes what was inserted": Way(
        T + trigger("after insert on t", "delete from t where id = new.id; return null;"),
        "insert into t values (10, 'ten'), (11, 'eleven')",
        {"t": [10, 11]},
        {},
        {10: {"id": 10, "name": "ten"}, 11: {"id": 11, "name": "eleven"}},
    ),
    "after an update, that deletes what is marked": Way(
        T
        + trigger(
            "after update on t", "if new.name is null then delete from t where id = new.id; end if; return null;"
        ),
        "update t set name = null where id < 3",
        {"t": [1, 2]},
        {},
        {1: {"id": 1, "name": None}, 2: {"id": 2, "name": None}},
    ),
    "before an update, that deletes another row": Way(
        T + trigger("before update on t", "delete from t where id = old.id + 4; return new;"),
        "update t set name = 'new' where id < 3",
        {"t": [5, 6]},
    ),
    "after, that catches an error of its own delete": Way(
        T
        + U
        + trigger(
            "after delete on t",
            "begin delete from u where id = old.id; raise 'x'; exception when others then delete from u where id = old.id + 5; end;"
            " return null;",
        ),
        "delete from t where id < 3",
        {"t": [1, 2], "u": [6, 7]},
    ),
    "before a truncate, that writes and deletes first": Way(
        T
        + trigger(
            "before truncate on t",
            "insert into t values (10, 'late'); delete from t where id < 3; update t set name = 'last' where id = 3; return null;",
            "statement",
        ),
        "truncate t",
        {"t": list(range(1, 11))},
        {},
        {3: {"id": 3, "name": "last"}, 10: {"id": 10, "name": "late"}},
    ),
    "after a truncate, that truncates another": Way(
        T + U + trigger("after truncate on t", "truncate u; return null;", "statement"),
        "truncate t",
        {"t": list(range(1, 10)), "u": list(range(1, 10))},
    ),
    "at commit, after an insert": Way(
        T + U + CONSTRAINT_TRIGGER.format("delete from u where id = new.id - 9; return null;", "insert"),
        "begin; insert into t values (10, 'ten'); insert into t values (11, 'eleven'); commit",
        {"t": [], "u": [1, 2]},
        {"t": [10, 11]},
    ),
    "at commit, after a delete": Way(
        T + U + CONSTRAINT_TRIGGER.format("delete from u where id = old.id; return null;", "delete"),
        "begin; delete from t where id = 1; set constraints all immediate; set constraints all deferred;"
        " delete from t where id = 2; commit",
        {"t": [1, 2], "u": [1, 2]},
    ),
    "at commit, of the row itself, on and on": Way(
        T + CONSTRAINT_TRIGGER.format("delete from t where id = old.id + 3; return null;", "delete"),
        "begin; delete from t where id = 1; commit",
        {"t": [1, 4, 7]},
    ),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_what_a_trigger_removes_is_captured_once(way: Connection, name: str) -> None:
    check(way, TRIGGERS[name])


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(
            T
            + trigger("before truncate on t", "insert into t values (10, 'late'); return null;", "statement")
            + "do $$ begin execute format('alter trigger %I on t rename to zzz_late', "
            "(select tgname from pg_trigger where tgrelid = 't'::regclass)); end $$;",
            id="by a trigger that fires after ours",
        ),
        pytest.param(
            T + U + trigger("before truncate on u", "insert into t values (10, 'late'); return null;", "statement"),
            id="by the trigger of another table of the same statement",
        ),
    ],
)
def test_a_row_that_is_written_in_the_middle_of_a_truncate_is_not_lost(way: Connection, written: str) -> None:
    way.execute(written)
    protect(way, "t")
    statement = "truncate t, u" if " u " in written else "truncate t"
    try:
        way.execute(statement)
    except psycopg.Error as error:
        refusal = error
    else:
        assert ids(way) == list(range(1, 11))
        return
    assert refusal.diag.message_hint
    assert len(live(way, "t")) == 9


def test_a_delete_that_a_deferred_constraint_refuses_at_commit_leaves_no_trace(way: Connection) -> None:
    way.execute(
        T
        + "create table c (id int, t_id int references t deferrable initially deferred); insert into c values (1, 1), (2, 2)"
    )
    protect(way, "t", "c")
    way.execute("begin; delete from t where id = 1; delete from c where id = 1; commit")
    with pytest.raises(errors.ForeignKeyViolation):
        way.execute("begin; delete from t where id = 2; commit")
    way.execute("delete from t where id = 3")
    assert (grouped(way), grouped(way, "c")) == ([[1], [3]], [[1]])


# --- Foreign keys -----------------------------------------------------------------------------------------------------

SIX_LEVELS = "create table l0 (id int primary key); insert into l0 values (0), (1);" + "".join(
    f"create table l{n} (id int primary key, up int references l{n - 1} on delete cascade);"
    f"insert into l{n} select id * 2 + b, id from l{n - 1}, generate_series(0, 1) b;"
    for n in range(1, 7)
)
CHAIN = (
    "create table t (id int primary key, up int references t on delete cascade, pad text);"
    "insert into t select n, nullif(n - 1, 0), 'pad ' || n from generate_series(1, 300) n;"
)
RING = """
    create table a (id int primary key, next int);
    create table b (id int primary key, next int references a on delete cascade deferrable initially deferred);
    create table c (id int primary key, next int references b on delete cascade deferrable initially deferred);
    alter table a add foreign key (next) references c on delete cascade deferrable initially deferred;
    begin;
    insert into a values (1, 1), (2, 2), (3, null); insert into b values (1, 2), (2, 1); insert into c values (1, 1), (2, 2);
    commit;
"""
# Of t's children c goes, n loses its link, d falls back to 9, p moves to the partition of those without a link.
ALONGSIDE = """
    create table n (id int, t_id int, also int, foreign key (t_id) references t on delete set null (t_id));
    create table d (id int, t_id int default 9 references t on delete set default);
    create table c (id int, t_id int references t on delete cascade);
    create table p (id int, t_id int references t on delete set null) partition by list (t_id);
    create table p_null partition of p for values in (null); create table p_rest partition of p default;
    insert into n values (1, 1), (2, 2), (3, 3); insert into d values (1, 1), (2, 2); insert into p values (1, 1), (2, 2);
    insert into c values (1, 1), (2, 2), (3, 1);
"""
FOREIGN_KEYS = {
    "six levels": Way(
        SIX_LEVELS, "delete from l0 where id = 1", {f"l{n}": list(range(2**n, 2 ** (n + 1))) for n in range(7)}
    ),
    "a chain of three hundred in one table": Way(CHAIN, "delete from t where id = 1", {"t": list(range(1, 301))}),
    "a chain from two ends": Way(CHAIN, "delete from t where id in (101, 290)", {"t": list(range(101, 301))}),
    "a ring of three tables": Way(RING, "delete from b where id = 1", {"a": [1, 2], "b": [1, 2], "c": [1, 2]}),
    "a row that is its own parent": Way(
        "create table t (id int primary key, up int references t on delete cascade); insert into t values (1, 1), (2, 1), (3, 3);",
        "delete from t where id = 1",
        {"t": [1, 2]},
    ),
    "set null and set default beside": Way(
        T + ALONGSIDE, "delete from t where id < 3", {"t": [1, 2], "c": [1, 2, 3], "n": [], "d": [], "p": []}
    ),
    "set default to a row that goes as well": Way(
        T
        + "create table d (id int, t_id int default 9 references t on delete set default); insert into d values (1, 1);"
        "create table c (id int, t_id int references t on delete cascade); insert into c values (1, 9);",
        "delete from t where id = 1; update d set t_id = null; delete from t where id = 9",
        {"t": [1, 9], "d": [], "c": [1]},
    ),
    "set null, and deleted by hand afterwards": Way(
        T + "create table n (id int, t_id int references t on delete set null); insert into n values (1, 1), (2, 2);",
        "begin; delete from t where id = 1; delete from n where t_id is null; commit",
        {"n": [1]},
        last={1: {"id": 1, "t_id": None}},
    ),
    "an update of a key that cascades to another partition": Way(
        "create table k (id int primary key); insert into k values (1), (2);"
        "create table t (id int, k_id int references k on update cascade) partition by list (k_id);"
        "create table t_1 partition of t for values in (1); create table t_rest partition of t default;"
        "insert into t values (10, 1), (11, 1), (20, 2);",
        "update k set id = id + 10 where id = 1",
        {"t": []},
    ),
}


@pytest.mark.parametrize("name", FOREIGN_KEYS)
def test_what_a_foreign_key_takes_along_is_captured_once(way: Connection, name: str) -> None:
    check(way, FOREIGN_KEYS[name])


# --- TRUNCATE ---------------------------------------------------------------------------------------------------------

TRUNCATES = {
    "inserted in the same transaction": Way(
        T,
        "begin; insert into t values (10, 'ten'); truncate t; insert into t values (11, 'eleven'); truncate t; commit",
        {"t": list(range(1, 12))},
        {},
        {10: {"id": 10, "name": "ten"}, 11: {"id": 11, "name": "eleven"}},
    ),
    "a savepoint that is rolled back": Way(
        T,
        "begin; savepoint a; truncate t; rollback to a; delete from t where id = 1; truncate t; commit",
        {"t": list(range(1, 10))},
    ),
    "a function": Way(
        T
        + "create function f() returns void language plpgsql as $$ begin truncate t; exception when others then raise; end $$;",
        "select f()",
        {"t": list(range(1, 10))},
    ),
    "two tables and one that is not protected": Way(
        T + U + "create table bare (id int); insert into bare values (1);",
        "truncate t, bare, u",
        {"t": list(range(1, 10)), "u": list(range(1, 10))},
    ),
    "the same table twice": Way(T, "truncate t, t, only t", {"t": list(range(1, 10))}),
    "a chain in one table": Way(CHAIN, "truncate t", {"t": list(range(1, 301))}),
    "a ring of three tables": Way(RING, "truncate c cascade", {"a": [1, 2, 3], "b": [1, 2], "c": [1, 2]}),
}


@pytest.mark.parametrize("name", TRUNCATES)
def test_what_a_truncate_removes_is_captured_once(way: Connection, name: str) -> None:
    check(way, TRUNCATES[name])


def test_a_sequence_that_restarts_with_a_truncate_starts_again_also_after_a_rollback(way: Connection) -> None:
    way.execute("create table t (id int generated always as identity, n serial); insert into t default values")
    protect(way, "t")
    with way.transaction(force_rollback=True):
        way.execute("truncate t restart identity; insert into t default values")
    way.execute("insert into t default values; truncate t continue identity; insert into t default values")
    way.execute("truncate t restart identity; insert into t default values; truncate t")
    assert ids(way) == [1, 1, 2, 3]
    assert [record["n"] for record in buffered(way, "t")] == [1, 1, 2, 3]


# --- Partition trees of four levels -----------------------------------------------------------------------------------

# Each level has its columns in another order than its parent, and dropped ones in between.
TREE = """
    create table t (id int, a text, b text, c int) partition by list (a);
    create table t_x (x0 int, c int, b text, a text, id int) partition by list (b);
    alter table t_x drop x0; alter table t attach partition t_x for values in ('x');
    create table t_xy (b text, id int, y0 text, a text, c int) partition by range (c);
    alter table t_xy drop y0; alter table t_x attach partition t_xy for values in ('y');
    create table t_xy_low (a text, b text, z0 point, z1 int, c int, id int);
    alter table t_xy_low drop z0, drop z1; alter table t_xy attach partition t_xy_low for values from (0) to (10);
    create table t_xy_high partition of t_xy default;
    create table t_x_rest partition of t_x default;
    create table t_rest (c int, id int, a text, b text); alter table t attach partition t_rest default;
    insert into t values (1, 'x', 'y', 1), (2, 'x', 'y', 20), (3, 'x', 'n', 3), (4, 'n', 'y', 4), (5, 'x', 'y', 5);
"""
LEVELS = {"t": [1, 2, 3, 4, 5], "t_x": [1, 2, 3, 5], "t_xy": [1, 2, 5], "t_xy_low": [1, 5], "t_rest": [4]}
TREE_STATEMENTS = {
    "delete": "delete from {0}",
    "delete with a join": "delete from {0} using {0} o where o.id = {0}.id",
    "truncate": "truncate {0}",
    "truncate restart": "truncate {0} restart identity cascade",
    "merge": "merge into {0} using generate_series(1, 9) n on {0}.id = n when matched then delete",
    "current of": "do $$ declare c cursor for select * from {0} for update; begin"
    " for r in c loop delete from {0} where current of c; end loop; end $$",
    "prepared": "prepare tree as delete from {0} where id < $1; execute tree(99); deallocate tree",
    "changed and deleted": "update {0} set id = -id; update {0} set id = -id; delete from {0}",
}


@pytest.fixture(scope="module")
def tree(house: Database) -> Connection:
    """A session in whose schema the tree is protected; every test rolls back what it does."""
    session = house.connect()
    session.execute("create schema tree; set search_path = tree")
    session.execute(TREE)
    protect(session, "t")
    return session


@pytest.mark.parametrize("relation", LEVELS)
@pytest.mark.parametrize("name", TREE_STATEMENTS)
def test_a_tree_of_four_levels_is_captured_once_on_each(tree: Connection, name: str, relation: str) -> None:
    before, gone = live(tree, "t"), LEVELS[relation]
    with tree.transaction(force_rollback=True):
        tree.execute(TREE_STATEMENTS[name].format(relation))
        assert buffered(tree, "t") == [before[n] for n in gone]
        assert set(live(tree, "t")) == set(before) - set(gone)
        assert count_deletions(tree, "t") == (1, len(gone))


MOVES = {
    "update": "update t set a = 'n', c = 7 where id = 1",
    "update from the middle": "update t_xy set c = c + 10 where id = 1",
    "update beside a delete of others": "with u as (update t set a = 'n' where id = 1) delete from t where id = 99",
    "merge without a delete": "merge into t using (values (1)) v (n) on t.id = v.n when matched then update set a = 'n'",
    "update in a trigger": trigger(
        "after update on t",
        "if pg_trigger_depth() = 1 then update t set a = 'n' where id = 1; end if; return null;",
        "statement",
    )
    + "update t set b = 'z' where id = 3",
    "update while others go": "with u as (update t set a = 'n' where id in (1, 2)) delete from t where id in (3, 4)",
}


@pytest.mark.parametrize("name", MOVES)
def test_a_row_that_moves_is_not_captured_until_it_goes(tree: Connection, name: str) -> None:
    others = [3, 4] if "others go" in name else []
    before = live(tree, "t")
    with tree.transaction(force_rollback=True):
        tree.execute(MOVES[name])
        assert buffered(tree, "t") == [before[n] for n in others]
        moved = live(tree, "t")
        assert set(moved) == set(before) - set(others)
        assert moved[1] != before[1]
        tree.execute("delete from t where id = 1")
        assert buffered(tree, "t") == [moved[1], *(before[n] for n in others)]


# --- Partitioned tables with partitioned children ---------------------------------------------------------------------

PARTITIONED_FAMILY = """
    create table t (id int, kind text, primary key (id, kind)) partition by list (kind);
    create table t_a partition of t for values in ('a');
    create table t_c partition of t default partition by range (id);
    create table t_c1 partition of t_c for values from (0) to (7);
    create table t_c2 partition of t_c default;
    create table c (day int, id int, t_id int, kind text, foreign key (t_id, kind) references t on delete cascade)
      partition by range (day);
    create table c_1 partition of c for values from (0) to (1) partition by hash (id);
    create table c_11 partition of c_1 for values with (modulus 2, remainder 0);
    create table c_12 partition of c_1 for values with (modulus 2, remainder 1);
    create table c_2 partition of c default;
    create table e (id int, t_id int, kind text, foreign key (t_id, kind) references t_c2 (id, kind) on delete cascade);
    insert into t values (1, 'a'), (2, 'a'), (5, 'c'), (8, 'c');
    insert into c select n % 3, n, (array[1, 2, 5, 8])[n % 4 + 1], (array['a', 'a', 'c', 'c'])[n % 4 + 1]
    from generate_series(1, 16) n;
    insert into e values (1, 8, 'c'), (2, 8, 'c');
"""


FAMILY_STATEMENTS = {
    "delete from t where id in (1, 8)": {"t": [1, 8], "c": [3, 4, 7, 8, 11, 12, 15, 16], "e": [1, 2]},
    "delete from t_c": {"t": [5, 8], "c": [2, 3, 6, 7, 10, 11, 14, 15], "e": [1, 2]},
    "delete from t_c1": {"t": [5], "c": [2, 6, 10, 14], "e": []},
    "merge into t_c using t on t.id = t_c.id when matched and t.id < 7 then delete": {
        "t": [5],
        "c": [2, 6, 10, 14],
        "e": [],
    },
    "truncate t cascade": {"t": [1, 2, 5, 8], "c": list(range(1, 17)), "e": [1, 2]},
    "truncate t_c1 cascade": {"t": [5], "c": list(range(1, 17)), "e": []},
    "truncate c_1, c_12": {"t": [], "c": [3, 6, 9, 12, 15], "e": []},
}


@pytest.fixture(scope="module")
def family(house: Database) -> Connection:
    """A session in whose schema the family is protected; every test rolls back what it does."""
    session = house.connect()
    session.execute("create schema family; set search_path = family")
    session.execute(PARTITIONED_FAMILY)
    protect(session, "t")
    return session


@pytest.mark.parametrize("statement", FAMILY_STATEMENTS)
def test_partitioned_children_go_with_their_partitioned_parent(family: Connection, statement: str) -> None:
    with family.transaction(force_rollback=True):
        before = {table: live(family, table) for table in ("t", "c", "e")}
        family.execute(statement)
        for table, gone in FAMILY_STATEMENTS[statement].items():
            assert buffered(family, table) == [before[table][n] for n in gone]
            assert set(live(family, table)) == set(before[table]) - set(gone)
        assert count_deletions(family, "t", "c", "e")[0] == 1


# --- Large ------------------------------------------------------------------------------------------------------------


def test_a_delete_that_exceeds_work_mem_is_captured_whole(way: Connection) -> None:
    way.execute("create table t (id int primary key, pad text, up int)")
    way.execute("insert into t select n, md5(n::text) || repeat('x', 60), n % 1000 from generate_series(1, 60000) n")
    way.execute(
        "create table c (id int primary key, t_id int references t on delete cascade); create index on c (t_id)"
    )
    way.execute("insert into c select n, n from generate_series(1, 20000) n")
    protect(way, "t")
    total = "select count(*), sum(hashtextextended(x::text, 0)) from (select {1} from {0}) x"
    before = rows(way, total.format("t", "id, pad, up")) + rows(way, total.format("c", "id, t_id"))
    way.execute("set work_mem = '64kB'; set temp_buffers = 100")
    setting = "debug_parallel_query" if way.info.server_version >= 160000 else "force_parallel_mode"
    way.execute(f"set {setting} = on; set parallel_setup_cost = 0; set parallel_tuple_cost = 0")
    way.execute("delete from t")
    buffers = dict(
        rows(
            way,
            "select target::regclass::text, buffer::text from grace.protected where target = any('{t,c}'::regclass[])",
        )
    )
    assert (
        rows(way, total.format(buffers["t"], "id, pad, up")) + rows(way, total.format(buffers["c"], "id, t_id"))
        == before
    )
    assert count_deletions(way, "t", "c") == (1, 80000)
    assert Counter(
        dict(rows(way, "select target::text, row_count from grace.deletions where target = any('{t,c}'::regclass[])"))
    ) == {
        "t": 60000,
        "c": 20000,
    }


# --- Two-phase commit -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_phase() -> Iterator[Cluster]:
    """A cluster that allows prepared transactions, with a protected table; it may be crashed."""
    with Cluster({"max_prepared_transactions": "10", "fsync": "off"}) as cluster:
        with connect(Target(cluster.conninfo())) as connection:
            migrate.install(connection)
            connection.execute(T)
            protect(connection, "t")
        yield cluster


def test_a_prepared_transaction_is_a_deletion_once_it_is_committed(two_phase: Cluster) -> None:
    with connect(Target(two_phase.conninfo())) as session:
        session.execute(
            "begin; delete from t where id = 1; savepoint a; delete from t where id = 2; prepare transaction 'one'"
        )
        session.execute("begin; delete from t where id = 3; prepare transaction 'two'")
        session.execute("begin; delete from t where id = 4; delete from t where id = 5; prepare transaction 'three'")
        session.execute("delete from t where id = 6")
        assert grouped(session) == [[6]]
        session.execute("commit prepared 'three'")
        session.execute("rollback prepared 'two'")
        assert grouped(session) == [[4, 5], [6]]
    two_phase.stop("immediate")
    two_phase.start()
    with connect(Target(two_phase.conninfo())) as session:
        assert grouped(session) == [[4, 5], [6]]
        session.execute("commit prepared 'one'")
        session.execute("begin; delete from t where id = 3; truncate t; prepare transaction 'four'")
        session.execute("commit prepared 'four'")
        assert grouped(session) == [[1, 2], [3, 7, 8, 9], [4, 5], [6]]
        assert count_deletions(session, "t") == (4, 9)
