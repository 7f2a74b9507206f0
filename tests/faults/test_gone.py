"""Gone means gone: after a purge the files of the data directory no longer hold what was deleted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.faults.servers import Cluster

# What docs/operations.md says is not the purge's: the write-ahead log, and the application's own table until VACUUM FULL.
_NOT_OURS = ("pg_wal",)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster({"fsync": "off", "autovacuum": "off"}) as running:
        running.install("postgres")
        yield running


@pytest.fixture
def person(cluster: Cluster) -> Iterator[Connection]:
    with cluster.connect() as conn:
        conn.execute("create table person (id int primary key, name text, papers bytea, more jsonb, photo oid)")
        conn.execute("create index on person (name)")
        conn.execute("alter table person alter papers set storage external")
        conn.execute(
            "insert into person select n, 'marker-name-' || n, convert_to('marker-paper-', 'UTF8') || p.noise,"
            " jsonb_build_object('note', 'marker-json-' || n), lo_from_bytea(0, 'marker-photo')"
            " from generate_series(1, 40) n cross join lateral (select string_agg(sha512(int4send(n * 10000 + i)), '') as noise"
            " from generate_series(1, 600) i) p"
        )
        conn.execute("insert into person select n, 'other' || n, null, null, null from generate_series(1000, 2000) n")
        conn.execute("select grace.protect('person', files => '{photo}')")
        yield conn


def markers(cluster: Cluster, conn: Connection) -> set[str]:
    """Return which markers the files hold, and in which folder."""
    conn.execute("checkpoint")
    found = set()
    for path in cluster.data.rglob("*"):
        place = path.relative_to(cluster.data).parts[0]
        if path.is_file() and place not in _NOT_OURS:
            content = path.read_bytes()
            found |= {
                f"{place} {kind}" for kind in ("name", "paper", "json", "photo") if f"marker-{kind}".encode() in content
            }
    return found


def clean_up_the_application(conn: Connection) -> None:
    """Take away what the application's own tables still hold of rows that it has deleted."""
    conn.execute("vacuum full person")
    conn.execute("vacuum full pg_largeobject")


ALL = {"base name", "base paper", "base json", "base photo"}


def test_a_purge_leaves_nothing_in_the_files(cluster: Cluster, person: Connection) -> None:
    person.execute("delete from person where id <= 40")
    clean_up_the_application(person)
    assert markers(cluster, person) == ALL
    person.execute("select grace.set_retention('person', '1 second')")
    person.execute("select pg_sleep(1.1)")
    person.execute("call grace.purge()")
    clean_up_the_application(person)
    assert markers(cluster, person) == set()


def test_what_has_not_expired_stays_beside_it(cluster: Cluster, person: Connection) -> None:
    """Both lie in the leaf of today."""
    person.execute("update person set papers = null; delete from person where id between 1050 and 2000")
    person.execute("select grace.unprotect('person', 'discard')")
    person.execute("select grace.protect('person', files => '{photo}')")
    person.execute("delete from person where id <= 40")
    person.execute("select grace.set_retention('person', '2 seconds')")
    person.execute("select pg_sleep(2.1)")
    person.execute("delete from person where id >= 1000")
    person.execute("call grace.purge()")
    assert rows(person, "select sum(row_count) from grace.deletions") == [(50,)]
    clean_up_the_application(person)
    assert markers(cluster, person) == set()
    assert value(person, "select count(*) from grace.verify_buffer()") == 0


def test_a_day_that_has_expired_leaves_nothing(cluster: Cluster, person: Connection) -> None:
    person.execute("delete from person")
    day = value(person, "select (now() at time zone 'UTC')::date - 31")
    for stem, parent in rows(person, "select * from grace_internal.stems(1)"):
        person.execute("select grace_internal.create_leaf(%s, %s, %s)", (stem, parent, day))
        person.execute(f"update {parent} set grace_deleted_at = grace_deleted_at - interval '31 days'".encode())
        person.execute(f"vacuum full {parent}".encode())
    person.execute("update grace_internal.capture set deleted_at = deleted_at - interval '31 days'")
    clean_up_the_application(person)
    assert markers(cluster, person) == ALL
    person.execute("call grace.purge()")
    clean_up_the_application(person)
    assert markers(cluster, person) == set()


def test_a_retention_that_is_over_capacity_leaves_nothing_either(cluster: Cluster, person: Connection) -> None:
    """Days that go early go as thoroughly."""
    person.execute("delete from person where id <= 40")
    yesterday = value(person, "select (now() at time zone 'UTC')::date - 1")
    for stem, parent in rows(person, "select * from grace_internal.stems(1)"):
        person.execute("select grace_internal.create_leaf(%s, %s, %s)", (stem, parent, yesterday))
        person.execute(f"update {parent} set grace_deleted_at = grace_deleted_at - interval '1 day'".encode())
        person.execute(f"vacuum full {parent}".encode())
    person.execute("update grace_internal.capture set deleted_at = deleted_at - interval '1 day'")
    person.execute("select from grace.set_capacity('1 MB')")
    assert value(person, "select count(*) from grace.deletions") == 1
    person.execute("call grace.purge()")
    assert value(person, "select count(*) from grace.deletions") == 0
    clean_up_the_application(person)
    assert markers(cluster, person) == set()
