"""kill -9 of a session or of the whole server: afterwards each row is live or buffered, exactly once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.faults.servers import Cluster, eventually, miscounted, protect

Crash = Callable[[Cluster, int], None]
_numbers = itertools.count(1)


def kill_the_session(cluster: Cluster, backend: int) -> None:
    os.kill(backend, signal.SIGKILL)  # which makes the postmaster end and recover all the others
    eventually(lambda: started_again(cluster, backend))


def kill_the_server(cluster: Cluster, _backend: int) -> None:
    cluster.kill()


def stop_the_server(cluster: Cluster, _backend: int) -> None:
    cluster.crash()


def started_again(cluster: Cluster, backend: int) -> bool:
    try:
        with cluster.connect() as conn:
            return rows(conn, "select from pg_stat_activity where pid = %s", backend) == []
    except psycopg.OperationalError:
        return False


CRASHES = [kill_the_session, kill_the_server, stop_the_server]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server with parents and children in a database that is a template; some of them are deleted already."""
    with Cluster({"fsync": "on", "restart_after_crash": "on", "recovery_init_sync_method": "syncfs"}) as running:
        running.create_database("family_template")
        running.install("family_template")
        with running.connect("family_template") as conn:
            conn.execute(b"""
                create table parent (id int primary key, note text);
                create table child (id int primary key, parent_id int references parent on delete cascade, note text);
                create index on child (parent_id);
                insert into parent select n, 'parent ' || n from generate_series(1, 3000) n;
                insert into child
                select n * 10 + i, n, 'child ' || i from generate_series(1, 3000) n, generate_series(0, 1) i;
            """)
            protect(conn, "parent")
            conn.execute("delete from parent where id <= 10")
        yield running


@pytest.fixture(scope="module")
def family(cluster: Cluster) -> str:
    """The database of the tests that leave no trace in it."""
    with cluster.connect() as admin:
        admin.execute("create database family template family_template")
    return "family"


@pytest.fixture
def own_family(cluster: Cluster) -> str:
    """A database of one test's own.

    A sequence of a new database that was copied page by page (WAL_LOG) can go back in a crash before the first checkpoint.
    """
    name = f"family_{next(_numbers)}"
    with cluster.connect() as admin:
        admin.execute(f"create database {name} template family_template")
        admin.execute("checkpoint")
    return name


def whereabouts(conn: Connection, table: str) -> tuple[set[int], set[int]]:
    """Return the ids of the rows that are live and of those that are buffered; no row is both or twice."""
    live = [found for (found,) in rows(conn, f"select id from {table}")]
    buffered = [found for (found,) in rows(conn, f"select id from grace_buffer.{table}")]
    assert len(set(live + buffered)) == len(live) + len(buffered)
    return set(live), set(buffered)


def assert_only_the_first_ten_are_gone(cluster: Cluster, database: str) -> None:
    with cluster.connect(database) as conn:
        live, buffered = whereabouts(conn, "parent")
        assert (live, buffered) == (set(range(11, 3001)), set(range(1, 11)))
        live, buffered = whereabouts(conn, "child")
        assert (len(live), buffered) == (5980, {n * 10 + i for n in range(1, 11) for i in (0, 1)})
        assert rows(conn, "select target::text, row_count from grace.deletions order by 1") == [
            ("child", 20),
            ("parent", 10),
        ]
        assert miscounted(conn) == []
        with conn.transaction(force_rollback=True):
            conn.execute("delete from parent where id = 11")
            assert value(conn, "select count(distinct grace_deletion) from grace_buffer.child") == 2
            conn.execute("select grace.restore('parent', keys => '[1, 11]')")
            assert whereabouts(conn, "parent")[1] == set(range(2, 11))
            assert miscounted(conn) == []


@contextmanager
def failing(work: Callable[[], Any]) -> Iterator[None]:
    """Do meanwhile what must end with a lost connection."""
    failed: list[psycopg.Error] = []

    def run() -> None:
        try:
            work()
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
    assert not thread.is_alive()
    assert [type(error).__name__ for error in failed] in (["OperationalError"], ["AdminShutdown"], ["CrashShutdown"])


@pytest.mark.parametrize("crash", CRASHES)
def test_an_open_transaction_leaves_no_trace(cluster: Cluster, family: str, crash: Crash) -> None:
    with cluster.connect(family) as session:
        session.autocommit = False
        session.execute("delete from parent where id between 11 and 1500")
        session.execute("delete from parent where id = 2000")
        assert value(session, "select count(*) from grace_buffer.child") == 20 + 2 * 1491
        crash(cluster, session.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert_only_the_first_ten_are_gone(cluster, family)


# What holds up the statement: in the rows themselves, in the cascade, before the buffer is written, before the log is.
STANDSTILLS = {
    "deleting": "select from parent where id = 1500 for update",
    "cascading": "select from child where id = 15001 for update",
    "capturing": "lock table grace_buffer.parent in share mode",
    "logging": "lock table grace_internal.capture in share mode",
}


@pytest.mark.parametrize("standstill", STANDSTILLS)
@pytest.mark.parametrize("crash", [kill_the_session, kill_the_server])
def test_a_statement_in_its_middle_leaves_no_trace(
    cluster: Cluster, family: str, crash: Crash, standstill: str
) -> None:
    with cluster.connect(family) as holder, cluster.connect(family) as session:
        holder.autocommit = False
        holder.execute(STANDSTILLS[standstill].encode())
        with failing(lambda: session.execute("delete from parent where id > 10")):
            backend = session.info.backend_pid
            eventually(lambda: value(holder, "select cardinality(pg_blocking_pids(%s))", backend))
            crash(cluster, backend)
        holder.close()
    assert_only_the_first_ten_are_gone(cluster, family)


@pytest.mark.parametrize("crash", [kill_the_session, kill_the_server])
def test_a_big_delete_that_is_killed_while_it_writes_leaves_no_trace(
    cluster: Cluster, own_family: str, crash: Crash
) -> None:
    with cluster.connect(own_family) as observer, cluster.connect(own_family) as session:
        observer.execute("insert into parent select n, repeat('x', 200) from generate_series(10001, 60000) n")
        leaf = value(
            observer,
            "select l.leaf from grace_internal.protected p, grace_internal.leaves(p.id) l"
            " where p.buffer = 'parent' and clock_timestamp() >= l.lower_bound and clock_timestamp() < l.upper_bound",
        )
        with failing(lambda: session.execute("delete from parent where id > 10000")):
            eventually(lambda: value(observer, "select pg_relation_size(%s::oid::regclass)", leaf) > 1_000_000)
            crash(cluster, session.info.backend_pid)
    with cluster.connect(own_family) as conn:
        assert value(conn, "select count(*) from parent where id > 10000") == 50_000
        assert value(conn, "select count(*) from grace_buffer.parent") == 10
        conn.execute("delete from parent where id > 10000")
        last = value(conn, "select max(id) from grace.deletions")
        assert rows(conn, "select restored from grace.restore(deletion => %s)", last) == [(50_000,)]
        assert miscounted(conn) == []


class Deleter(threading.Thread):
    """A client that deletes its own rows, one or a few per transaction, until its server is gone."""

    def __init__(self, conninfo: str, numbers: list[int], seed: int) -> None:
        super().__init__()
        self.conninfo = conninfo
        self.numbers = numbers
        self.random = random.Random(seed)
        self.tried: list[set[int]] = []
        self.committed = 0
        self.ended_by: psycopg.Error | None = None

    def run(self) -> None:
        left = list(self.numbers)
        try:
            with psycopg.connect(self.conninfo, autocommit=True) as conn:
                while left:
                    group = [left.pop() for _ in range(min(self.random.choice([1, 1, 1, 3]), len(left)))]
                    self.tried.append(set(group))
                    if len(group) == 1:
                        conn.execute("delete from parent where id = %s", group)
                    else:
                        with conn.transaction():
                            for number in group:
                                conn.execute("delete from parent where id = %s", [number])
                    self.committed += 1
        except psycopg.OperationalError as error:
            self.ended_by = error


def test_what_a_client_saw_committed_is_buffered_whenever_the_server_is_killed(
    cluster: Cluster, own_family: str
) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    chance = random.Random(seed)
    committed: list[set[int]] = []
    unknown: list[set[int]] = []
    with cluster.connect(own_family) as conn:
        conn.execute(b"""
            insert into parent select n from generate_series(3001, 12000) n;
            insert into child select n * 10 + i, n from generate_series(3001, 12000) n, generate_series(0, 1) i;
        """)
    remaining = set(range(11, 12001))
    for _ in range(4):
        shares = sorted(remaining)
        clients = [Deleter(cluster.conninfo(own_family), shares[n::3], chance.randrange(1_000_000)) for n in range(3)]
        for client in clients:
            client.start()
        try:
            eventually(lambda clients=clients: all(client.committed for client in clients))  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.3))
            chance.choice([cluster.kill, cluster.crash])()
        finally:
            for client in clients:
                client.join(30)
        for client in clients:
            assert not client.is_alive()
            assert client.ended_by is not None
            committed += client.tried[: client.committed]
            unknown += client.tried[client.committed :]
        with cluster.connect(own_family) as conn:
            live, buffered = whereabouts(conn, "parent")
            children_live, children_buffered = whereabouts(conn, "child")
            groups = {
                frozenset(found)
                for (found,) in rows(
                    conn, "select array_agg(id) from grace_buffer.parent where id > 10 group by grace_deletion"
                )
            }
            assert miscounted(conn) == []
        assert live | buffered == set(range(1, 12001))
        assert {n // 10 for n in children_buffered} == buffered
        assert {n // 10 for n in children_live} == live
        assert set(map(frozenset, committed)) <= groups <= set(map(frozenset, committed + unknown))
        remaining = live


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("careful", [False, True], ids=["one statement a batch", "by keys"])
def test_a_rule_that_is_killed_loses_nothing_and_the_next_run_goes_on(
    cluster: Cluster, own_family: str, crash: Crash, careful: bool
) -> None:
    with cluster.connect(own_family) as observer, cluster.connect(own_family) as session:
        observer.execute(
            b"select grace.add_rule('r', target => 'parent', max_fraction => 1, batch_size => 50, pause => '10 ms')"
        )
        if careful:
            observer.execute(b"select grace.exempt('r', '3000', 'why')")
        with failing(lambda: session.execute("call grace.run('r')")):
            eventually(lambda: (value(observer, "select max(batches) from grace.runs") or 0) >= 3)
            crash(cluster, session.info.backend_pid)
    everybody = set(range(1, 3001))
    with cluster.connect(own_family) as conn:
        live, buffered = whereabouts(conn, "parent")
        assert live | buffered == everybody
        assert 10 < len(buffered) < 3000
        counted = value(conn, "select row_count from grace.runs where kind = 'rule'")
        assert counted == len(buffered) - 10
        assert len(whereabouts(conn, "child")[1]) == 2 * len(buffered)
        assert miscounted(conn) == []
        conn.execute("call grace.run('r')")
        assert rows(conn, "select status, row_count from grace.runs where kind = 'rule' order by id") == [
            ("aborted", counted),
            ("done", 2990 - counted - careful),
        ]
        assert whereabouts(conn, "parent")[0] == ({3000} if careful else set())
        assert miscounted(conn) == []
