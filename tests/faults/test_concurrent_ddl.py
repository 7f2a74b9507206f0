"""Sessions delete while another one changes the tables: no row and no value is lost, with event triggers and without."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.faults.servers import Cluster, eventually, miscounted, protect

SECONDS = 2.0
Record = dict[str, Any]
_numbers = itertools.count(1)

# Each column has values of its own kind, so that one in a wrong place is found; see kind().
TABLES = b"""
    create table single (id int primary key, a text, b int, p text, q text);
    create table parent (id int primary key, a text, b int, p text, q text);
    create table child (
        id int primary key, parent_id int references parent on delete cascade, a text, b int, p text, q text
    );
    create index on child (parent_id);
    insert into single select n, 'a-' || n, 7000000 + n, 'p-' || n, 'q-' || n from generate_series(1, 9000) n;
    insert into parent select n, 'a-' || n, 7000000 + n, 'p-' || n, 'q-' || n from generate_series(1, 9000) n;
    insert into child select n, n % 9000 + 1, 'a-' || n, 7000000 + n, 'p-' || n, 'q-' || n
    from generate_series(0, 17999) n;
"""


@dataclass
class Client:
    """A session that deletes rows of its own and writes down what they were when it saw the commit."""

    conn: Connection
    ids: list[int]
    random: random.Random
    gone: dict[tuple[str, int], Record] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: list[BaseException] = field(default_factory=list)

    def run(self, delete: Callable[[Client, int], list[tuple[str, int, Record]]], until: float) -> None:
        """Delete one row after another; a failed one is tried again later."""
        try:
            while self.ids and time.monotonic() < until:
                number = self.ids.pop()
                try:
                    with self.conn.transaction():
                        seen = delete(self, number)
                except psycopg.Error as error:
                    self.errors[error.sqlstate or "?"] += 1
                    if error.sqlstate not in ("42P01", "3F000"):
                        print("delete", number, error)
                    seen = []
                self.gone.update({(table, found): record for table, found, record in seen})
                if not seen:
                    self.ids.insert(0, number)
        except BaseException as error:
            self.unexpected.append(error)

    def delete(self, table: str, condition: str, *values: Any) -> list[tuple[str, int, Record]]:
        """Delete rows of a table and return them."""
        return [
            (table, record["id"], record)
            for (record,) in rows(
                self.conn, f"delete from {table} where {condition} returning to_jsonb({table}.*)", *values
            )
        ]


@dataclass
class Outcome:
    """What the clients and the session that changes tables have been through."""

    gone: dict[tuple[str, int], Record]
    errors: Counter[str]
    changes: int


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster({"fsync": "off", "deadlock_timeout": "200ms"}) as running:
        running.create_database("grace_template")
        running.install("grace_template")
        yield running


@pytest.fixture(params=["event triggers", "none"])
def events(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "event triggers")


@pytest.fixture
def database(cluster: Cluster, events: bool) -> str:
    name = f"ddl_{next(_numbers)}"
    with cluster.connect() as admin:
        admin.execute(f"create database {name} template grace_template")
    if not events:
        with cluster.connect(name) as conn:
            for (trigger,) in rows(conn, "select quote_ident(evtname) from pg_event_trigger where evtname ~ '^grace_'"):
                conn.execute(f"drop event trigger {trigger}")
    return name


def carry_on(
    cluster: Cluster,
    database: str,
    ids: list[int],
    delete: Callable[[Client, int], list[tuple[str, int, Record]]],
    change: Callable[[Connection, int], None],
) -> Outcome:
    """Delete in three sessions and change in another, for some seconds."""
    seed = random.randrange(1_000_000)
    print("seed", seed)
    until = time.monotonic() + SECONDS
    clients = [
        Client(cluster.connect(database), ids[n::3], random.Random(seed + n), errors=Counter()) for n in range(3)
    ]
    threads = [threading.Thread(target=client.run, args=(delete, until)) for client in clients]
    changes, errors = 0, Counter[str]()
    for thread in threads:
        thread.start()
    try:
        with cluster.connect(database) as changing:
            while time.monotonic() < until:
                try:
                    change(changing, changes)
                except psycopg.Error as error:
                    errors[f"change {error.sqlstate}"] += 1
                    print("change", changes, error)
                changes += 1
    finally:
        for thread in threads:
            thread.join(30)
        for client in clients:
            client.conn.close()
    assert not any(thread.is_alive() for thread in threads)
    assert [client.unexpected for client in clients] == [[], [], []]
    gone: dict[tuple[str, int], Record] = {}
    for client in clients:
        gone |= client.gone
        errors += client.errors
    print("gone", len(gone), "changes", changes, "errors", dict(errors))
    return Outcome(gone, errors, changes)


def kind(content: Any) -> str:
    """Return which column a value is of."""
    text = str(content)
    return text.partition("-")[0] if "-" in text else f"{int(text) // 1_000_000}000000"


def assert_nothing_is_lost(conn: Connection, outcome: Outcome, table: str, live: str, everything: set[int]) -> None:
    """Each row is live or buffered, once; what a client deleted is buffered, with every value it had."""
    remaining = [found for (found,) in rows(conn, f"select id from {live}")]
    found = rows(
        conn, f"select to_jsonb(b.*) - 'grace_deletion' - 'grace_deleted_at' from grace_buffer.{table} b order by id"
    )
    buffered = {record["id"]: record for (record,) in found}
    assert len(found) + len(remaining) == len(everything)
    assert set(buffered) | set(remaining) == everything
    deleted = {number: record for (name, number), record in outcome.gone.items() if name == table}
    assert set(buffered) == set(deleted)
    for number, record in deleted.items():
        had = Counter(str(content) for content in record.values() if content is not None)
        kept = Counter(str(content) for content in buffered[number].values() if content is not None)
        assert not had - kept, (record, buffered[number])
    for column in next(iter(buffered.values())):
        assert len({kind(record[column]) for record in buffered.values() if record[column] is not None}) <= 1, column
    assert miscounted(conn) == []


# --- Columns ----------------------------------------------------------------------------------------------------------


def delete_from_one_or_several(client: Client, number: int) -> list[tuple[str, int, Record]]:
    table = client.random.choice(["single", "single", "parent", "both", "both reversed"])
    if table == "single":
        return client.delete("single", "id = %s", number)
    children = [
        ("child", record["id"], record)
        for (record,) in rows(client.conn, "select to_jsonb(c.*) from child c where parent_id = %s", number)
    ]
    if table == "parent":
        return children + client.delete("parent", "id = %s", number)
    steps = [client.delete(name, "id = %s", number) for name in sorted(["single", "parent"], reverse=table == "both")]
    return children + steps[0] + steps[1]


def change_columns(conn: Connection, count: int) -> None:
    step, table = count // 3 % 8, ["single", "child", "parent"][count % 3]
    turn = count // 24
    kinds = ["bigint", "numeric", "text", "int"]
    statements = [
        [f"add column x{turn} text default 'x{turn}-d', add column y int default {9 + turn}000000"],
        [f"rename column a to a{turn}"],
        [f"alter column b type {kinds[turn % 4]} using b::{kinds[turn % 4]}"],
        [f"drop column x{turn}"],
        ["rename column p to other", "rename column q to p", "rename column other to q"],
        [f"rename column a{turn} to a"],
        ["drop column y", f"add column y int default {109 + turn}000000"],
        ["drop column y"],
    ]
    with conn.transaction():
        for statement in statements[step]:
            conn.execute(f"alter table {table} {statement}")


def test_changing_columns_loses_nothing(cluster: Cluster, database: str, events: bool) -> None:
    with cluster.connect(database) as conn:
        conn.execute(TABLES)
        protect(conn, "single", "parent")
        outcome = carry_on(cluster, database, list(range(1, 9001)), delete_from_one_or_several, change_columns)
        assert outcome.changes > 8
        assert len(outcome.gone) > 30
        for table, numbers in (("single", range(1, 9001)), ("parent", range(1, 9001)), ("child", range(18000))):
            assert_nothing_is_lost(conn, outcome, table, table, set(numbers))
        # Without event triggers two deletes that go through the tables in opposite order may both have to bring buffers up
        # to date, and one of them fails; its rows stay.
        assert set(outcome.errors) <= (set() if events else {"40P01"})
        assert value(conn, "select count(*) from grace.protected where state <> 'capturing'") == 0


# --- Names ------------------------------------------------------------------------------------------------------------


def delete_under_any_name(client: Client, number: int) -> list[tuple[str, int, Record]]:
    name = client.random.choice(["public.single", "public.moved", "other.single", "other.moved", "parent"])
    if name != "parent":
        found = rows(client.conn, f"delete from {name} as t where id = %s returning to_jsonb(t.*)", number)
        return [("single", record["id"], record) for (record,) in found]
    schema = client.random.choice(["public", "other"])
    found = rows(client.conn, f"select to_jsonb(c.*) from {schema}.child c where parent_id = %s", number)
    children = [("child", record["id"], record) for (record,) in found]
    return children + client.delete("parent", "id = %s", number)


def change_names(conn: Connection, count: int) -> None:
    statements = [
        "alter table single rename to moved",
        "alter table child set schema other",
        "alter table moved set schema other",
        "alter table other.child add column x text default 'x-d'",
        "alter table other.moved rename to single",
        "alter table other.child drop column x; alter table other.child set schema public",
        "alter table other.single set schema public",
        "alter schema other rename to another; alter schema another rename to other",
    ]
    conn.execute(statements[count % 8].encode())


def test_changing_names_loses_nothing(cluster: Cluster, database: str) -> None:
    with cluster.connect(database) as conn:
        conn.execute(TABLES)
        conn.execute("create schema other")
        protect(conn, "single", "parent")
        outcome = carry_on(cluster, database, list(range(1, 9001)), delete_under_any_name, change_names)
        assert outcome.changes > 8
        assert len(outcome.gone) > 30
        conn.execute("set search_path = public, other")
        (moved,) = rows(conn, "select target::text from grace.protected where buffer::text = 'grace_buffer.single'")
        for table, live, numbers in (
            ("single", moved[0], range(1, 9001)),
            ("parent", "parent", range(1, 9001)),
            ("child", "child", range(18000)),
        ):
            assert_nothing_is_lost(conn, outcome, table, live, set(numbers))
        assert set(outcome.errors) <= {"42P01", "3F000"}
        assert value(conn, "select count(*) from grace.protected where state <> 'capturing'") == 0


# --- Partitions -------------------------------------------------------------------------------------------------------

PARTITIONS = b"""
    create table tree (id int primary key, a text, b int) partition by range (id);
    create table always partition of tree for values from (0) to (3001);
    create table often partition of tree for values from (3001) to (6001);
    create table sometimes (b int, dropped int, id int not null, a text);
    alter table sometimes drop column dropped;
    alter table tree attach partition sometimes for values from (6001) to (9001);
    insert into tree select n, 'a-' || n, 7000000 + n from generate_series(1, 9000) n;
"""


def delete_from_a_tree(client: Client, number: int) -> list[tuple[str, int, Record]]:
    if client.random.random() < 0.5:
        return client.delete("tree", "id = %s", number)
    leaf = ["always", "often", "sometimes"][(number - 1) // 3000]
    client.conn.execute(f"lock table {leaf} in row exclusive mode")
    if not value(client.conn, "select relispartition from pg_class where oid = %s::regclass", leaf):
        return []
    found = rows(client.conn, f"delete from {leaf} as t where id = %s returning to_jsonb(t.*)", number)
    return [("tree", record["id"], record) for (record,) in found]


def change_partitions(conn: Connection, count: int) -> None:
    new = f"new_{count // 9}"
    first = 10000 + 10 * (count // 9)
    statements = [
        "alter table tree detach partition often",
        f"create table {new} partition of tree for values from ({first}) to ({first + 10})",
        "alter table tree attach partition often for values from (3001) to (6001)",
        "alter table tree detach partition sometimes concurrently",
        "alter table tree add column if not exists x text default 'x-d'",
        "alter table sometimes add column if not exists x text default 'x-d'",
        "alter table tree attach partition sometimes for values from (6001) to (9001)",
        "alter table tree drop column if exists x",
        f"alter table tree detach partition {new}; drop table {new}",
    ]
    conn.execute(statements[count % 9].encode())


def test_changing_partitions_loses_nothing(cluster: Cluster, database: str, events: bool) -> None:
    with cluster.connect(database) as conn:
        conn.execute(PARTITIONS)
        protect(conn, "tree")
        outcome = carry_on(cluster, database, list(range(1, 9001)), delete_from_a_tree, change_partitions)
        assert outcome.changes > 8
        assert len(outcome.gone) > 30
        detached = rows(
            conn, "select relname::text from pg_class where relname in ('often', 'sometimes') and not relispartition"
        )
        live = "(select id from tree " + "".join(f" union all select id from {name}" for (name,) in detached) + ") l"
        assert_nothing_is_lost(conn, outcome, "tree", live, set(range(1, 9001)))
        assert outcome.errors == {}
        if not events:
            conn.execute("call grace.purge()")
        assert value(conn, "select state from grace.protected") == "capturing"


def test_a_delete_straight_from_a_partition_waits_for_no_other_one(cluster: Cluster, database: str) -> None:
    """Who changes the whole tree has locked the others and waits for this one."""
    with (
        cluster.connect(database) as conn,
        cluster.connect(database) as deleting,
        cluster.connect(database) as changing,
    ):
        conn.execute(PARTITIONS)
        protect(conn, "tree")
        failed: list[psycopg.Error] = []

        def change() -> None:
            try:
                changing.execute("alter table tree add column x text default 'x-d'")
            except psycopg.Error as error:
                failed.append(error)

        thread = threading.Thread(target=change)
        with deleting.transaction():
            deleting.execute("lock table sometimes in row exclusive mode")
            thread.start()
            eventually(lambda: value(conn, "select cardinality(pg_blocking_pids(%s))", changing.info.backend_pid))
            deleting.execute("delete from sometimes where id = 9000")
        thread.join(30)
        assert not thread.is_alive()
        assert failed == []
        conn.execute("delete from sometimes where id = 8999")
        assert rows(conn, "select id, a, b from grace_buffer.tree order by id") == [
            (8999, "a-8999", 7008999),
            (9000, "a-9000", 7009000),
        ]
        assert value(conn, "select x from grace_buffer.tree where id = 8999") == "x-d"
