"""A streaming standby shows what is buffered, and takes over where the primary stopped."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from tests.conftest import rows, value
from tests.faults.servers import JOBS, OUR_JOBS, Cluster, Standby, buffered, ledger, miscounted, protect, with_cron


@pytest.fixture(scope="module")
def primary() -> Iterator[Cluster]:
    with Cluster({"fsync": "off", **with_cron("postgres")}) as cluster:
        cluster.install("postgres", pg_cron=True)
        with cluster.connect() as conn:
            conn.execute(b"""
                create table parent (id int primary key, note text);
                create table child (id int primary key, parent_id int references parent on delete cascade);
                insert into parent select n, 'parent ' || n from generate_series(1, 100) n;
                insert into child select n * 10, n from generate_series(1, 100) n;
                create table short (id int primary key);
                insert into short values (1), (2), (3);
            """)
            protect(conn, "parent", "short")
            conn.execute("delete from parent where id = 1")
        yield cluster


@pytest.fixture(scope="module")
def standby(primary: Cluster) -> Iterator[Standby]:
    with Standby(primary) as running:
        yield running


def test_what_is_deleted_on_the_primary_can_be_read_on_the_standby(primary: Cluster, standby: Standby) -> None:
    with primary.connect() as there, standby.connect() as here:
        there.execute("delete from parent where id in (2, 3)")
        standby.catch_up()
        assert value(here, "select pg_is_in_recovery()")
        assert ledger(here) == ledger(there)
        for table in ("parent", "child"):
            assert buffered(here, table) == buffered(there, table)
            assert [record["id"] for _, _, record in buffered(here, table)][-2:] in ([2, 3], [20, 30])
        states = "select target::text, state, buffered_rows from grace.protected order by 1"
        assert rows(here, states) == rows(there, states)
        assert rows(here, JOBS) == rows(there, JOBS) == OUR_JOBS
        assert rows(here, "select target from grace.expired") == []


def test_a_dry_run_on_the_standby_shows_what_a_restore_would_do(primary: Cluster, standby: Standby) -> None:
    with primary.connect() as there, standby.connect() as here:
        there.execute("delete from parent where id in (4, 5)")
        there.execute("insert into parent values (5, 'in the way')")
        standby.catch_up()
        last = value(here, "select max(id) from grace.deletions")
        for selected in (f"deletion => {last}", "'parent', keys => '[4, 5]'"):
            assert rows(
                here,
                "select restored_table::text, restored, conflicts -> 0 ->> 'constraint'"
                f" from grace.restore({selected}, dry_run => true) order by 1",
            ) == [("child", 2, None), ("parent", 2, "parent_pkey")]
        there.execute("delete from parent where id = 5")
        there.execute("select grace.restore(deletion => %s)", [last])


@pytest.mark.parametrize(
    "statement",
    ["delete from parent where id = 50", "select grace.restore(deletion => 1)", "call grace.purge()"],
)
def test_the_standby_changes_nothing(standby: Standby, statement: str) -> None:
    with standby.connect() as here:
        with pytest.raises(errors.ReadOnlySqlTransaction):
            here.execute(statement.encode())
        assert value(here, "select count(*) from parent where id = 50") == 1


def test_a_promoted_standby_goes_on(primary: Cluster) -> None:
    with Standby(primary) as standby:
        promote_and_go_on(primary, standby)


def promote_and_go_on(primary: Cluster, standby: Standby) -> None:
    with primary.connect() as there, primary.connect() as unfinished:
        there.execute("delete from parent where id in (10, 11)")
        there.execute("delete from short where id = 1")
        with unfinished.transaction(force_rollback=True):
            unfinished.execute("delete from parent where id = 12")
            before = ledger(there)
            standby.catch_up()
            standby.promote()

    with standby.connect() as here:
        assert ledger(here) == before
        assert value(here, "select count(*) from parent where id = 12") == 1
        assert value(here, "select count(*) from grace_buffer.parent where id = 12") == 0
        here.execute("delete from parent where id in (13, 14)")
        here.execute("delete from parent where id = 15")
        here.execute("delete from short where id = 2")
        since = ledger(here)[len(before) :]
        assert [(table, count) for _, _, table, count, *_ in since] == [
            ("child", 2),
            ("parent", 2),
            ("child", 1),
            ("parent", 1),
            ("short", 1),
        ]
        assert min(found[0] for found in since) > max(found[0] for found in before)

        (old,) = {deletion for deletion, _, record in buffered(here, "parent") if record["id"] == 10}
        restored = "select restored_table::text, restored from grace.restore(deletion => %s) order by 1"
        assert rows(here, restored, old) == [("child", 2), ("parent", 2)]
        assert rows(here, restored, since[0][0]) == [("child", 2), ("parent", 2)]
        assert rows(here, "select note from parent where id in (10, 11, 13, 14) order by id") == [
            ("parent 10",),
            ("parent 11",),
            ("parent 13",),
            ("parent 14",),
        ]
        with pytest.raises(psycopg.Error) as caught:
            here.execute("select grace.restore(deletion => %s)", [old])
        assert caught.value.sqlstate == "GR007"

        here.execute("select grace.set_retention('short', '1 second')")
        here.execute("select pg_sleep(1.05)")
        here.execute("call grace.purge()")
        assert rows(here, "select status, row_count from grace.runs where kind = 'purge'") == [("done", 2)]
        assert rows(here, JOBS) == OUR_JOBS
        assert miscounted(here) == []


def test_a_purge_that_the_primary_did_is_done_on_the_standby(primary: Cluster, standby: Standby) -> None:
    with primary.connect() as there, standby.connect() as here:
        there.execute(b"create table brief (id int primary key); insert into brief select generate_series(1, 9)")
        protect(there, "brief")
        there.execute("delete from brief")
        standby.catch_up()
        assert value(here, "select count(*) from grace_buffer.brief") == 9
        there.execute("select grace.set_retention('brief', '1 second')")
        there.execute("select pg_sleep(1.05)")
        there.execute("call grace.purge('brief')")
        standby.catch_up()
        assert value(here, "select count(*) from grace_buffer.brief") == 0
        assert rows(here, "select status, row_count from grace.runs where kind = 'purge'") == [("done", 9)]
