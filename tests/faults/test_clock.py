"""What time does: a scheduler that is down for weeks, clocks that are set, summer time."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import rows, value
from tests.faults.servers import TimedCluster, protect

DEFAULT = "select count(*) from grace_internal.b1_default"


@pytest.fixture
def cluster() -> Iterator[TimedCluster]:
    with TimedCluster({"timezone": "'Europe/Berlin'"}) as running:
        yield running


def begin(cluster: TimedCluster, clock: str) -> None:
    cluster.set_clock(clock)
    cluster.install("postgres")
    with cluster.connect() as conn:
        conn.execute("create table note (id int primary key, text text)")
        conn.execute("insert into note select n, 'n' || n from generate_series(1, 1000) n")
        protect(conn, "note")


def delete(cluster: TimedCluster, number: int) -> None:
    with cluster.connect() as conn:
        conn.execute("delete from note where id = %s", (number,))
        assert value(conn, "select count(*) from grace_buffer.note where id = %s", number) == 1


def last_purge(conn: Connection) -> tuple[str, int]:
    ((status, count),) = rows(
        conn, "select status, row_count from grace.runs where kind = 'purge' order by id desc limit 1"
    )
    return status, count


def assert_prepared(conn: Connection) -> None:
    """The next two weeks have a leaf each day, or lie in one that is in use; nothing is in the default partition."""
    assert value(conn, DEFAULT) == 0
    assert rows(conn, "select * from grace_internal.missing_partitions('b1')") == []
    assert rows(conn, "select finding from grace.doctor() where subject in ('partitions', 'default partition')") == []
    gaps = rows(
        conn,
        "select lower_bound from (select lower_bound, upper_bound, lag(upper_bound) over (order by lower_bound) as before"
        " from grace_internal.leaves(1)) l where lower_bound <> before",
    )
    assert gaps == []


@pytest.mark.parametrize("days", [60, 120, 400])
def test_a_scheduler_that_was_down_makes_up_for_it(cluster: TimedCluster, days: int) -> None:
    begin(cluster, f"-{days}d")
    delete(cluster, 1)
    for number, ago in enumerate((days - 1, 33, 29, 3), start=2):
        cluster.set_clock(f"-{ago}d")
        delete(cluster, number)
    cluster.set_clock("+0d")
    delete(cluster, 6)
    with cluster.connect() as conn:
        assert (value(conn, DEFAULT) > 0) == (days > 100)
        assert rows(conn, "select id::int from grace.deletions order by 1") == [(4,), (5,), (6,)]
        conn.execute("call grace.tick()")
        assert last_purge(conn) == ("done", 3)
        assert_prepared(conn)
        assert value(conn, "select array_agg(id order by id) from grace_buffer.note") == [4, 5, 6]
        conn.execute("select grace.restore(deletion => 4)")
        conn.execute("call grace.tick()")
        assert value(conn, "select count(*) from grace.runs where kind = 'purge'") == 1
    delete(cluster, 7)
    cluster.set_clock("+31d")
    with cluster.connect() as conn:
        conn.execute("call grace.tick()")
        assert last_purge(conn) == ("done", 3)
        assert value(conn, "select count(*) from grace_buffer.note") == 0
        assert_prepared(conn)


def test_days_go_by_with_a_tick_a_day(cluster: TimedCluster) -> None:
    begin(cluster, "-50d")
    for ago in range(50, -1, -1):
        cluster.set_clock(f"-{ago}d")
        delete(cluster, 51 - ago)
        with cluster.connect() as conn:
            conn.execute("call grace.tick()")
            assert_prepared(conn)
    with cluster.connect() as conn:
        assert value(conn, "select array_agg(id order by id) from grace_buffer.note") == list(range(22, 52))
        assert value(conn, "select sum(row_count) from grace.runs where kind = 'purge'") == 21
        assert value(conn, "select sum(row_count) from grace.ledger") == 21
        assert rows(conn, "select * from grace.verify_ledger()") == []


@pytest.mark.parametrize("back", ["-2d", "-40d", "-700d"])
def test_a_clock_that_is_set_back_loses_nothing_and_stops_nothing(cluster: TimedCluster, back: str) -> None:
    begin(cluster, "+0d")
    delete(cluster, 1)
    with cluster.connect() as conn:
        conn.execute("call grace.purge()")
    cluster.set_clock(back)
    delete(cluster, 2)
    with cluster.connect() as conn:
        conn.execute("update grace_internal.job set schedule = '* * * * *', changed_at = now() - interval '1 hour'")
        conn.execute("call grace.tick()")
        assert last_purge(conn) == ("done", 0)
        assert_prepared(conn)
        assert value(conn, "select array_agg(id order by id) from grace_buffer.note") == [1, 2]
        conn.execute("select grace.restore(deletion => 2)")
        conn.execute("select grace.restore(deletion => 1)")
    cluster.set_clock("+0d")
    delete(cluster, 3)
    with cluster.connect() as conn:
        conn.execute("call grace.purge()")
        assert_prepared(conn)
        assert value(conn, "select array_agg(id) from grace_buffer.note") == [3]


def test_a_tick_does_not_wait_for_a_time_that_a_wrong_clock_has_noted(cluster: TimedCluster) -> None:
    begin(cluster, "+300d")
    with cluster.connect() as conn:
        conn.execute("update grace_internal.job set schedule = '* * * * *', changed_at = now() - interval '1 hour'")
        conn.execute("call grace.tick()")
    cluster.set_clock("+0d")
    with cluster.connect() as conn:
        conn.execute("update grace_internal.job set changed_at = now() - interval '1 hour'")
        conn.execute("call grace.tick()")
        assert value(conn, "select count(*) from grace.runs where kind = 'purge' and status = 'done'") >= 2


@pytest.mark.parametrize(
    ("zone", "midnight", "other_day"),
    [
        ("Europe/Berlin", "@2026-03-29 00:59:57", "2026-03-29"),
        ("Europe/Berlin", "@2026-10-25 00:59:57", "2026-10-25"),
        ("America/New_York", "@2026-11-01 05:59:57", "2026-11-01"),
        ("Pacific/Auckland", "@2026-09-26 13:59:57", "2026-09-26"),
    ],
)
def test_when_clocks_change_every_leaf_has_its_24_hours(
    cluster: TimedCluster, zone: str, midnight: str, other_day: str
) -> None:
    """Each server is started seconds before its zone's clocks change."""
    begin(cluster, midnight)
    with cluster.connect() as conn:
        conn.execute(f"set timezone = '{zone}'")
        conn.execute("delete from note where id = 1")
        conn.execute("select pg_sleep(4)")
        conn.execute("delete from note where id = 2")
        conn.execute("call grace.purge()")
        assert last_purge(conn) == ("done", 0)
        assert_prepared(conn)
        leaf = f"grace_internal.b1_{other_day.replace('-', '')}"
        assert value(conn, f"select count(*) from {leaf}") == 2
        lengths = value(
            conn,
            "select array_agg(distinct extract(epoch from upper_bound - lower_bound)::int) from grace_internal.leaves(1)"
            " where upper_bound - lower_bound < interval '36 hours'",
        )
        assert lengths == [24 * 60 * 60]
        conn.execute("select grace.set_retention('note', '1 second')")
        conn.execute("select pg_sleep(1.1)")
        conn.execute("call grace.purge()")
        assert last_purge(conn) == ("done", 2)


def test_the_retention_does_not_depend_on_the_sessions_time_zone(cluster: TimedCluster) -> None:
    begin(cluster, "@2026-03-01 12:00:00")
    delete(cluster, 1)
    cluster.set_clock("@2026-03-31 11:59:00")
    for zone in ("UTC", "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        with psycopg.connect(cluster.conninfo(), autocommit=True) as conn:
            conn.execute(f"set timezone = '{zone}'")
            conn.execute("call grace.purge()")
            row = conn.execute("select count(*) from grace.deletions").fetchone()
            assert row == (1,)
    cluster.set_clock("@2026-03-31 12:00:30")
    with cluster.connect() as conn:
        conn.execute("set timezone = 'Pacific/Pago_Pago'")
        assert value(conn, "select count(*) from grace.deletions") == 0
        conn.execute("call grace.purge()")
        assert value(conn, "select count(*) from grace_internal.capture") == 0


@pytest.mark.parametrize("ahead", ["+110d", "+300d"])
def test_leaves_that_a_wrong_clock_has_made_do_not_call_for_hundreds_more(cluster: TimedCluster, ahead: str) -> None:
    begin(cluster, ahead)
    delete(cluster, 1)
    cluster.set_clock("+0d")
    delete(cluster, 2)
    with cluster.connect() as conn:
        conn.execute("call grace.purge()")
        assert last_purge(conn) == ("done", 0)
        assert value(conn, DEFAULT) == 0
        assert value(conn, "select count(*) from grace_internal.leaves(1)") < 60
        assert value(conn, "select array_agg(id order by id) from grace_buffer.note") == [1, 2]
    cluster.set_clock("+1d")
    with cluster.connect() as conn:
        conn.execute("call grace.purge()")
        assert last_purge(conn) == ("done", 0)
    delete(cluster, 3)
