"""Logical replication: what is captured on the publisher and on the subscriber, and what a publication must not break."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.faults.servers import Cluster, eventually, miscounted, protect

SCHEMA = b"""
    create table parent (id int primary key, note text);
    create table child (id int primary key, parent_id int references parent on delete cascade);
"""
ROWS = b"""
    insert into parent select n, 'parent ' || n from generate_series(1, 9) n;
    insert into child select n * 10, n from generate_series(1, 9) n;
"""
SETTINGS = {
    "fsync": "off",
    "wal_level": "logical",
    "wal_retrieve_retry_interval": "100ms",
    "max_worker_processes": "20",
    "max_logical_replication_workers": "10",
}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def publisher() -> Iterator[Cluster]:
    with Cluster(SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def subscriber() -> Iterator[Cluster]:
    with Cluster(SETTINGS) as cluster:
        yield cluster


class Pair:
    """A database on the publisher and one of the same name on the subscriber."""

    def __init__(self, publisher: Cluster, subscriber: Cluster, name: str) -> None:
        self.name = name
        self.publisher, self.subscriber = publisher, subscriber
        for cluster in (publisher, subscriber):
            cluster.create_database(name)
        self.there = publisher.connect(name)
        self.here = subscriber.connect(name)

    @contextmanager
    def subscribed(self, publication: str) -> Iterator[None]:
        self.there.execute(f"create publication p {publication}")
        self.here.execute(
            f"create subscription {self.name} connection '{self.publisher.conninfo(self.name)}' publication p"
        )
        try:
            eventually(lambda: not rows(self.here, "select from pg_subscription_rel where srsubstate <> 'r'"))
            yield
        finally:
            self.here.execute(f"drop subscription {self.name}")

    def copy_schema(self) -> None:
        """Make the publisher's tables, with ours, on the subscriber."""
        file = str(self.publisher.folder / f"{self.name}.sql")
        self.publisher.run("pg_dump", "-s", "--no-privileges", "-d", self.publisher.conninfo(self.name), "-f", file)
        self.subscriber.run("psql", "-X", "-q", "-d", self.subscriber.conninfo(self.name), "-f", file)

    def failures(self) -> int:
        return int(value(self.here, "select apply_error_count from pg_stat_subscription_stats"))

    def catch_up(self) -> None:
        """Return when the subscriber has applied all that was written; fail when it can't."""
        written = value(self.there, "select pg_current_wal_lsn()")
        before = self.failures()
        eventually(
            lambda: (
                self.failures() > before
                or value(
                    self.there,
                    "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s",
                    written,
                    self.name,
                )
            )
        )
        assert self.failures() == before, "the apply worker fails"


@pytest.fixture
def pair(publisher: Cluster, subscriber: Cluster) -> Iterator[Pair]:
    made = Pair(publisher, subscriber, f"pair_{next(_numbers)}")
    with made.there, made.here:
        yield made


def ids(conn: Connection, source: str) -> list[int]:
    return [found for (found,) in rows(conn, f"select id from {source} order by id")]


def go_through_a_life(conn: Connection) -> None:
    """Delete, restore, truncate, change the table and purge."""
    conn.execute("delete from parent where id = 1")
    conn.execute("delete from parent where id in (2, 3)")
    last = value(conn, "select max(id) from grace.deletions")
    conn.execute("select grace.restore(deletion => %s)", [last])
    conn.execute("alter table child add column note text default 'n'")
    conn.execute("delete from parent where id = 4")
    conn.execute("select grace.restore('parent', keys => '4')")
    conn.execute("truncate child")
    conn.execute("select grace.restore('child', keys => '[50, 60]')")
    conn.execute("select grace.set_retention('parent', '1 second')")
    conn.execute("select grace.set_retention('child', '1 second')")
    conn.execute("select pg_sleep(1.05)")
    conn.execute("call grace.purge()")
    assert rows(conn, "select status, details ? 'left_for_next_run' from grace.runs where kind = 'purge'") == [
        ("done", False)
    ]
    assert value(conn, "select count(*) from grace_internal.capture") == 0
    assert value(conn, "select count(*) from grace_internal.restored") == 0
    assert ids(conn, "parent") == [2, 3, 4, 5, 6, 7, 8, 9]
    assert ids(conn, "child") == [50, 60]
    conn.execute("select grace.unprotect('parent', buffer => 'discard')")
    conn.execute("select grace.unprotect('child')")
    conn.execute("call grace.purge()")
    assert value(conn, "select count(*) from grace.protected") == 0


# --- Publisher --------------------------------------------------------------------------------------------------------


def test_a_published_table_is_captured_and_its_deletes_arrive(pair: Pair) -> None:
    pair.there.execute(SCHEMA + ROWS)
    pair.here.execute(SCHEMA)
    pair.publisher.install(pair.name)
    protect(pair.there, "parent")
    with pair.subscribed("for table parent, child"):
        assert len(ids(pair.here, "child")) == 9
        pair.there.execute("delete from parent where id <= 3")
        pair.catch_up()
        assert ids(pair.here, "parent") == ids(pair.there, "parent") == [4, 5, 6, 7, 8, 9]
        assert ids(pair.here, "child") == [40, 50, 60, 70, 80, 90]
        assert ids(pair.there, "grace_buffer.parent") == [1, 2, 3]
        pair.there.execute("select grace.restore('parent', keys => '[1, 2]')")
        pair.catch_up()
        assert ids(pair.here, "parent") == ids(pair.there, "parent") == [1, 2, 4, 5, 6, 7, 8, 9]
        assert ids(pair.here, "child") == [10, 20, 40, 50, 60, 70, 80, 90]


PUBLICATIONS = [
    "for all tables",
    "for all tables with (publish_via_partition_root = true)",
    "for tables in schema public, grace_buffer, grace_internal, grace",
]


@pytest.mark.parametrize("publication", PUBLICATIONS)
def test_a_publication_of_everything_stops_nothing_on_the_publisher(pair: Pair, publication: str) -> None:
    pair.there.execute(SCHEMA + ROWS)
    pair.publisher.install(pair.name)
    protect(pair.there, "parent")
    pair.there.execute(f"create publication p {publication}")
    go_through_a_life(pair.there)


def test_what_is_protected_under_a_publication_of_everything_goes_on(pair: Pair) -> None:
    pair.there.execute(SCHEMA + ROWS)
    pair.publisher.install(pair.name)
    pair.there.execute("create publication p for all tables")
    protect(pair.there, "parent")
    go_through_a_life(pair.there)


def test_a_schemas_publication_does_not_touch_the_subscriber(pair: Pair) -> None:
    pair.there.execute(SCHEMA + ROWS)
    pair.here.execute(SCHEMA)
    pair.publisher.install(pair.name)
    protect(pair.there, "parent")
    with pair.subscribed("for tables in schema public"):
        pair.there.execute("delete from parent where id <= 3")
        pair.there.execute("select grace.restore('parent', keys => '1')")
        pair.there.execute("call grace.purge()")
        pair.catch_up()
        assert ids(pair.here, "parent") == ids(pair.there, "parent") == [1, 4, 5, 6, 7, 8, 9]


def test_a_publication_of_all_tables_has_ours_in_it(pair: Pair) -> None:
    """So a subscriber that lacks them can't subscribe; FOR TABLES IN SCHEMA leaves them out."""
    pair.there.execute(SCHEMA + ROWS)
    pair.here.execute(SCHEMA)
    pair.publisher.install(pair.name)
    protect(pair.there, "parent")
    with pytest.raises(errors.InvalidSchemaName), pair.subscribed("for all tables"):
        pass


def todays_leaf(conn: Connection) -> str:
    (leaf,) = rows(
        conn,
        "select name::text from grace_internal.leaves((select id from grace_internal.protected where buffer = 'parent'))"
        " where now() >= lower_bound and now() < upper_bound",
    )
    return f"grace_internal.{leaf[0]}"


def make_leaf(conn: Connection, leaf: str) -> None:
    """Make the leaf into which the next capture goes, as a purge makes that of a later day."""
    today = datetime.now(UTC).date()
    conn.execute(
        f"create table {leaf} partition of grace_buffer.parent"
        f" for values from ('{today} 00:00+00') to ('{today + timedelta(days=1)} 00:00+00')"
    )
    conn.execute(f"alter table {leaf} replica identity full")


def test_a_subscriber_of_all_tables_has_a_copy_of_the_buffer(pair: Pair) -> None:
    pair.there.execute(SCHEMA + ROWS)
    pair.publisher.install(pair.name)
    protect(pair.there, "parent")
    pair.copy_schema()
    with pair.subscribed("for all tables with (publish_via_partition_root = true)"):
        leaf = todays_leaf(pair.there)
        for conn in (pair.there, pair.here):
            conn.execute(f"drop table {leaf}")
        make_leaf(pair.there, leaf)
        pair.there.execute("delete from parent where id <= 3")
        pair.catch_up()
        assert ids(pair.here, "parent") == [4, 5, 6, 7, 8, 9]
        assert ids(pair.here, "grace_buffer.parent") == [1, 2, 3]
        assert rows(pair.here, "select id, target::text, row_count from grace.deletions order by 2") == [
            (1, "child", 3),
            (1, "parent", 3),
        ]
        pair.there.execute("select grace.restore('parent', keys => '[1, 2]')")
        pair.catch_up()
        assert ids(pair.here, "grace_buffer.parent") == [3]
        assert miscounted(pair.here) == []


def test_without_the_partition_root_a_new_leaf_stops_the_subscriber_until_it_is_made_there(pair: Pair) -> None:
    pair.there.execute(SCHEMA + ROWS)
    pair.publisher.install(pair.name)
    protect(pair.there, "parent")
    pair.copy_schema()
    with pair.subscribed("for all tables"):
        leaf = todays_leaf(pair.there)
        for conn in (pair.there, pair.here):
            conn.execute(f"drop table {leaf}")
        make_leaf(pair.there, leaf)
        pair.there.execute("delete from parent where id <= 3")
        eventually(pair.failures)
        assert len(ids(pair.here, "parent")) == 9
        make_leaf(pair.here, leaf)
        eventually(lambda: ids(pair.here, "parent") == [4, 5, 6, 7, 8, 9])


# --- Subscriber -------------------------------------------------------------------------------------------------------


@contextmanager
def protected_subscriber(pair: Pair) -> Iterator[None]:
    pair.there.execute(SCHEMA + ROWS)
    pair.here.execute(SCHEMA)
    pair.subscriber.install(pair.name)
    protect(pair.here, "parent")
    with pair.subscribed("for table parent, child"):
        yield


def test_what_the_apply_worker_deletes_is_not_captured(pair: Pair) -> None:
    """PostgreSQL fires no statement triggers there; the publisher is where to protect."""
    with protected_subscriber(pair):
        pair.there.execute("delete from parent where id <= 3")
        pair.catch_up()
        assert ids(pair.here, "parent") == [4, 5, 6, 7, 8, 9]
        assert ids(pair.here, "child") == [40, 50, 60, 70, 80, 90]
        assert ids(pair.here, "grace_buffer.parent") == []
        assert rows(pair.here, "select id from grace.deletions") == []


def test_what_is_deleted_on_the_subscriber_itself_is_captured(pair: Pair) -> None:
    with protected_subscriber(pair):
        pair.here.execute("delete from parent where id <= 3")
        assert ids(pair.here, "grace_buffer.parent") == [1, 2, 3]
        assert ids(pair.here, "grace_buffer.child") == [10, 20, 30]
        pair.here.execute("select grace.restore('parent', keys => '[1, 2]')")
        pair.there.execute("delete from parent where id = 1")
        pair.catch_up()
        assert ids(pair.here, "parent") == [2, 4, 5, 6, 7, 8, 9]
        assert miscounted(pair.here) == []


def test_a_replicated_truncate_is_captured(pair: Pair) -> None:
    with protected_subscriber(pair):
        pair.there.execute("truncate parent, child")
        pair.catch_up()
        assert ids(pair.here, "parent") == []
        assert ids(pair.here, "grace_buffer.parent") == list(range(1, 10))
        assert ids(pair.here, "grace_buffer.child") == list(range(10, 100, 10))
        assert rows(
            pair.here, "select target::text, row_count, operation, deleted_by from grace.deletions order by 1"
        ) == [("child", 9, "TRUNCATE", "postgres"), ("parent", 9, "TRUNCATE", "postgres")]
        assert value(pair.here, "select count(distinct id) from grace.deletions") == 1
        pair.here.execute("select grace.restore('parent', deletion => (select max(id) from grace.deletions))")
        assert ids(pair.here, "child") == list(range(10, 100, 10))
