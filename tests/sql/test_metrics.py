"""grace.metrics: true in every situation that an alert is for, for those who may know, and nothing but numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value

DAY = 24 * 3600


@pytest.fixture
def shop(conn: Connection) -> Connection:
    conn.execute(
        b"create table customer (id int primary key, name text);"
        b" create table item (customer_id int references customer on delete cascade, line int,"
        b"   primary key (customer_id, line));"
        b" create table note (id int primary key, text text);"
        b" insert into customer select n, 'secret content' from generate_series(1, 10) n;"
        b" insert into item select n, l from generate_series(1, 10) n, generate_series(1, 3) l;"
        b" insert into note select n, 'secret content' from generate_series(1, 100) n"
    )
    conn.execute("select grace.protect('customer'); select grace.protect('note', '2 days')")
    return conn


def sample(conn: Connection, name: str, **labels: str) -> Any:
    """Return the one value that a metric has for these labels, None when there is no sample."""
    found = rows(
        conn,
        "select value from grace.metrics where name = %s and labels @> %s::jsonb",
        name,
        psycopg.types.json.Jsonb(labels),
    )
    assert len(found) <= 1, (name, labels)
    return found[0][0] if found else None


def of(conn: Connection, table: str) -> dict[str, float]:
    """Return all that is said of a table, but its status, by the metrics' names without what they begin with."""
    return dict(
        rows(
            conn,
            "select substr(name, 10), value from grace.metrics"
            " where labels ->> 'table' = %s and name <> 'pg_grace_table_status'",
            table,
        )
    )


def status(conn: Connection, table: str) -> list[str]:
    return [
        state
        for (state,) in rows(
            conn,
            "select labels ->> 'state' from grace.metrics"
            " where name = 'pg_grace_table_status' and labels ->> 'table' = %s and value = 1",
            table,
        )
    ]


def older(conn: Connection, days: float, where: str = "true") -> None:
    conn.execute(
        f"update grace_internal.capture set deleted_at = deleted_at - make_interval(secs => {days * DAY}) where {where}"
    )


def run(conn: Connection, status: str, job: str = "purge", ago: str = "1 minute") -> None:
    conn.execute(
        "insert into grace_internal.run (kind, job, started_at, finished_at, status, role, login, pid)"
        " select %(job)s, %(job)s, now() - %(ago)s::interval,"
        " case when %(status)s <> 'running' then now() - %(ago)s::interval + interval '5 seconds' end, %(status)s, 'a', 'a', 0",
        {"job": job, "status": status, "ago": ago},
    )


def test_a_table_that_nothing_was_deleted_from(shop: Connection) -> None:
    said = of(shop, "public.note")
    assert said.pop("buffer_bytes") >= 0
    assert said == {
        "buffered_rows": 0,
        "retention_seconds": 2 * DAY,
        "expired_early": 0,
        "expired_rows": 0,
        "purge_overdue_seconds": 0,
        "capturing": 1,
        "drift": 0,
        "default_partition_in_use": 0,
    }
    assert status(shop, "public.note") == ["capturing"]


def test_rows_are_counted_as_in_grace_protected_and_grace_expired(shop: Connection) -> None:
    for gone in ("customer where id <= 3", "customer where id = 4", "note where id <= 20"):
        shop.execute(f"delete from {gone}".encode())
    shop.execute("select grace.restore(deletion => 2)")
    shop.execute("select grace.restore('note', keys => '[1, 2, 3]')")
    shop.execute("delete from note where id between 30 and 39")
    older(shop, 2.5, "protected_id = (select min(protected_id) + 2 from grace_internal.capture) and row_count = 20")
    shop.execute("update grace_internal.restored set deleted_at = deleted_at - interval '2.5 days' where row_count = 3")
    for table, buffered, expired in (("customer", 3, 0), ("item", 9, 0), ("note", 10, 17)):
        said = of(shop, f"public.{table}")
        assert (said["buffered_rows"], said["expired_rows"]) == (buffered, expired)
        ((row_count, size, oldest),) = rows(
            shop,
            "select buffered_rows, buffer_bytes, extract(epoch from oldest)::float8 from grace.protected"
            " where target = %s::regclass",
            table,
        )
        assert (row_count, size, oldest) == (
            buffered,
            said["buffer_bytes"],
            pytest.approx(said["oldest_deletion_timestamp_seconds"]),
        )
        assert rows(shop, "select row_count from grace.expired where target = %s::regclass", table) == (
            [(expired,)] if expired else []
        )
    assert said["purge_overdue_seconds"] == pytest.approx(DAY / 2, abs=60)
    shop.execute("call grace.purge()")
    assert of(shop, "public.note")["purge_overdue_seconds"] == 0


def test_what_was_restored_is_not_overdue(shop: Connection) -> None:
    shop.execute("delete from note where id = 1; select grace.restore('note', keys => '1')")
    older(shop, 5)
    shop.execute("update grace_internal.restored set deleted_at = deleted_at - interval '5 days'")
    said = of(shop, "public.note")
    assert (said["expired_rows"], said["purge_overdue_seconds"]) == (0, 0)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("alter table note disable trigger zz_grace_delete", "disabled"),
        ("alter table note enable replica trigger zz_grace_truncate", "disabled"),
        ("drop trigger zz_grace_delete on note", "missing"),
        ("select grace.unprotect('note')", "unprotected"),
        ("set grace.allow_drop = on; drop table note", "table dropped"),
    ],
)
def test_a_table_that_is_not_capturing(shop: Connection, change: str, state: str) -> None:
    shop.execute("delete from note where id = 1")
    shop.execute(change.encode())
    assert status(shop, "public.note") == [state]
    said = of(shop, "public.note")
    assert (said["capturing"], said["drift"], said["buffered_rows"]) == (0, 0, 1)
    assert of(shop, "public.customer")["capturing"] == 1


def test_drift_that_no_event_trigger_followed(shop: Connection) -> None:
    shop.execute(
        "set session_replication_role = replica; alter table note add more int; reset session_replication_role"
    )
    assert of(shop, "public.note")["drift"] == 1
    assert of(shop, "public.customer")["drift"] == 0
    shop.execute("delete from note where id = 1")
    assert of(shop, "public.note")["drift"] == 0


def test_whoever_installed_it(owner: Connection) -> None:
    owner.execute("create table plain (id int primary key); insert into plain values (1), (2)")
    owner.execute("select grace.protect('plain')")
    owner.execute("alter table plain add more int")
    followed = bool(value(owner, "select rolsuper from pg_roles where rolname = current_user"))
    assert of(owner, "public.plain")["drift"] == (0 if followed else 1)
    owner.execute("delete from plain where id = 1")
    said = of(owner, "public.plain")
    assert (said["drift"], said["capturing"], said["buffered_rows"]) == (0, 1, 1)
    owner.execute("call grace.purge()")
    assert outcome(owner) == ["done"]


def test_two_tables_of_one_name_one_of_them_dropped_are_two(shop: Connection) -> None:
    shop.execute("delete from note where id = 1")
    shop.execute("set grace.allow_drop = on; drop table note")
    shop.execute("create table note (id int primary key); select grace.protect('note')")
    found = rows(
        shop,
        "select labels ->> 'buffer', value from grace.metrics"
        " where name = 'pg_grace_buffered_rows' and labels ->> 'table' = 'public.note'",
    )
    assert sorted(count for _, count in found) == [0, 1]
    assert len({buffer for buffer, _ in found}) == 2
    assert value(shop, "select count(*) - count(distinct (name, labels)) from grace.metrics") == 0


def test_a_capacity_and_what_expired_early_by_it(shop: Connection) -> None:
    shop.execute("delete from note where id <= 5")
    assert sample(shop, "pg_grace_total_capacity_bytes") is None
    shop.execute("select grace.set_capacity('8 MB', 'note'); select grace.set_capacity('1 GB')")
    assert sample(shop, "pg_grace_capacity_bytes") == 8 * 1024 * 1024
    assert sample(shop, "pg_grace_total_capacity_bytes") == 1024**3
    assert of(shop, "public.note")["expired_early"] == 0
    shop.execute("update grace_internal.protected set evicted_to = clock_timestamp() where target = 'note'::regclass")
    said = of(shop, "public.note")
    assert (said["expired_early"], said["buffered_rows"], said["expired_rows"]) == (1, 0, 5)
    assert said["purge_overdue_seconds"] == 0
    shop.execute(
        "update grace_internal.protected set evicted_to = now() - interval '3 days' where target = 'note'::regclass"
    )
    assert of(shop, "public.note")["expired_early"] == 0


def test_the_default_partition_in_use(shop: Connection) -> None:
    for (leaf,) in rows(
        shop,
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'grace_buffer.note'::regclass and c.relname !~ 'default'",
    ):
        shop.execute(f"drop table grace_internal.{leaf}".encode())
    assert of(shop, "public.note")["default_partition_in_use"] == 0
    shop.execute("delete from note where id = 1")
    assert of(shop, "public.note")["default_partition_in_use"] == 1
    assert of(shop, "public.customer")["default_partition_in_use"] == 0


def outcome(conn: Connection, job: str = "purge") -> list[str]:
    return [
        status
        for (status,) in rows(
            conn,
            "select labels ->> 'status' from grace.metrics"
            " where name = 'pg_grace_job_last_outcome' and labels ->> 'job_name' = %s and value = 1",
            job,
        )
    ]


def test_a_job_before_it_ever_ran(shop: Connection) -> None:
    assert outcome(shop) == []
    for name in ("last_start_timestamp", "last_success_timestamp", "last_duration"):
        assert sample(shop, f"pg_grace_job_{name}_seconds", job_name="purge") is None
    assert sample(shop, "pg_grace_job_failures_in_a_row", job_name="purge") == 0
    assert sample(shop, "pg_grace_runs_total", kind="purge", status="failed") == 0
    assert sample(shop, "pg_grace_ledger_entries") == 0


def test_a_purge_that_did_its_work(shop: Connection) -> None:
    shop.execute("delete from note where id <= 7")
    for table in ("grace_buffer.note", "grace_internal.capture"):
        column = "grace_deleted_at" if "buffer" in table else "deleted_at"
        shop.execute(f"update {table} set {column} = {column} - interval '3 days'".encode())
    shop.execute("call grace.purge()")
    ((started, finished),) = rows(
        shop,
        "select extract(epoch from started_at)::float8, extract(epoch from finished_at)::float8"
        " from grace.runs where kind = 'purge'",
    )
    assert outcome(shop) == ["done"]
    assert sample(shop, "pg_grace_job_last_start_timestamp_seconds", job_name="purge") == pytest.approx(started)
    assert sample(shop, "pg_grace_job_last_success_timestamp_seconds", job_name="purge") == pytest.approx(finished)
    assert sample(shop, "pg_grace_job_last_duration_seconds", job_name="purge") == pytest.approx(
        finished - started, abs=0.001
    )
    assert sample(shop, "pg_grace_runs_total", kind="purge", status="done") == 1
    assert sample(shop, "pg_grace_run_rows_total", kind="purge") == 7
    assert sample(shop, "pg_grace_ledger_entries") == 1
    assert sample(shop, "pg_grace_purges_running") == 0


def test_failures_in_a_row_end_with_a_run_that_ends_otherwise(shop: Connection) -> None:
    run(shop, "done", ago="5 days")
    for ago, status, expected in (
        ("4 days", "failed", 1),
        ("3 days", "running", 2),  # its process is gone
        ("2 days", "failed", 3),
        ("1 day", "incomplete", 0),
        ("1 hour", "failed", 1),
    ):
        run(shop, status, ago=ago)
        assert sample(shop, "pg_grace_job_failures_in_a_row", job_name="purge") == expected
        assert outcome(shop) == ["aborted" if status == "running" else status]
    succeeded = sample(shop, "pg_grace_job_last_success_timestamp_seconds", job_name="purge")
    assert succeeded == pytest.approx(
        value(shop, "select extract(epoch from now() - interval '5 days')::float8"), abs=60
    )
    for status, count in (("done", 1), ("failed", 3), ("incomplete", 1), ("aborted", 1)):
        assert sample(shop, "pg_grace_runs_total", kind="purge", status=status) == count
    assert sample(shop, "pg_grace_runs_total", kind="purge", status="running") is None


def pg_cron_says(conn: Connection, started: str, status: str, failures: int, scheduler: str = "pg_cron") -> None:
    """Let grace.jobs() return what it does where pg_cron is in the database; no tick takes a turn of watch."""
    conn.execute(
        f"""create or replace function grace.jobs()
        returns table (
          job text, schedule text, in_words text, zone text, next_start timestamptz, scheduler text, login text, active boolean,
          last_start timestamptz, last_status text, last_duration interval, last_message text, failures bigint, ticked_at timestamptz, rule text
        )
        language sql stable security definer set search_path = pg_catalog, pg_temp
        as $$
          select j, '* * * * *', 'w', 'GMT', now(), nullif('{scheduler}', case when j = 'watch' then 'tick' else 'none' end), 'a', true, now() - interval '{started}',
            '{status}', interval '2 seconds', 'secret message', {failures}::bigint, now(), null
          from unnest(array['purge', 'watch']) j
        $$""".encode()
    )


def test_a_run_that_failed_in_part_is_a_failure_though_pg_cron_calls_it_a_success(shop: Connection) -> None:
    pg_cron_says(shop, "61 seconds", "succeeded", 0)
    run(shop, "failed", ago="1 minute")
    assert outcome(shop) == ["failed"]
    assert sample(shop, "pg_grace_job_failures_in_a_row", job_name="purge") == 1
    assert sample(shop, "pg_grace_job_last_success_timestamp_seconds", job_name="purge") is None
    assert outcome(shop, "watch") == ["done"]
    assert sample(shop, "pg_grace_job_last_duration_seconds", job_name="watch") == 2
    assert sample(shop, "pg_grace_job_last_success_timestamp_seconds", job_name="watch") == pytest.approx(
        value(shop, "select extract(epoch from now() - interval '59 seconds')::float8"), abs=5
    )


def test_a_job_that_pg_cron_could_not_start_has_failed_though_its_last_run_had_not(shop: Connection) -> None:
    run(shop, "done", ago="1 day")
    pg_cron_says(shop, "1 minute", "failed", 4)
    assert outcome(shop) == ["failed"]
    assert sample(shop, "pg_grace_job_failures_in_a_row", job_name="purge") == 4
    assert sample(shop, "pg_grace_job_last_success_timestamp_seconds", job_name="purge") is not None


def test_a_job_that_nothing_runs(shop: Connection) -> None:
    pg_cron_says(shop, "1 minute", "succeeded", 0, scheduler="none")
    assert sample(shop, "pg_grace_job_scheduled", job_name="purge", scheduler="none") == 0
    pg_cron_says(shop, "1 minute", "succeeded", 0)
    assert sample(shop, "pg_grace_job_scheduled", job_name="purge", scheduler="pg_cron") == 1


def test_a_tick_is_a_scheduler_of_all_jobs(shop: Connection) -> None:
    pg_cron_says(shop, "1 minute", "succeeded", 0, scheduler="tick")
    for job in ("purge", "watch"):
        assert sample(shop, "pg_grace_job_scheduled", job_name=job, scheduler="tick") == 1


def test_restores_are_counted(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1; select grace.restore(deletion => 1)")
    assert sample(shop, "pg_grace_runs_total", kind="restore", status="done") == 1
    assert sample(shop, "pg_grace_run_rows_total", kind="restore") == 4


def test_files_in_the_outbox(shop: Connection) -> None:
    assert sample(shop, "pg_grace_outbox_files") == 0
    shop.execute(
        "insert into grace_internal.outbox (protected_id, target_name, column_name, file, deleted_at, error)"
        " select 1, 'public.customer', 'path', f, now(), nullif(f, 'b') from unnest(array['a', 'b', 'c']) f"
    )
    assert sample(shop, "pg_grace_outbox_files") == 3
    assert sample(shop, "pg_grace_outbox_failed_files") == 2


@pytest.mark.parametrize("group", ["grace_auditor", "grace_operator"])
def test_who_may_look_sees_all_of_it_and_no_content(
    db: Database, shop: Connection, role: Callable[[str], str], group: str
) -> None:
    viewer = role("viewer")
    shop.execute(f"grant {group} to {viewer}")
    shop.execute(
        "set grace.reason = 'secret reason'; delete from customer; delete from note where id < 50; reset grace.reason"
    )
    run(shop, "failed")
    query = "select subject, name, type, help, labels, value from grace.metrics order by name, labels"
    its_session = db.connect(user=viewer)
    its_session.execute(b"set search_path = public")
    seen = rows(its_session, query)
    volatile = ("pg_grace_purge_overdue_seconds",)
    assert [row for row in seen if row[1] not in volatile] == [
        row for row in rows(shop, query) if row[1] not in volatile
    ]
    assert "secret" not in str(seen)


def test_nobody_else_may_look(db: Database, role: Callable[[str], str]) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.connect(user=role("outsider")).execute("select * from grace.metrics")


def test_every_sample_is_one_that_prometheus_takes(shop: Connection) -> None:
    shop.execute("delete from note")
    shop.execute("call grace.purge()")
    found = rows(shop, "select subject, name, type, help, labels, value from grace.metrics")
    assert {subject for subject, *_ in found} == {"table", "job", "database"}
    database = value(shop, "select current_database()")
    for _, name, kind, text, labels, number in found:
        assert re.fullmatch(r"pg_grace_[a-z_]+", name)
        assert kind == ("counter" if name.endswith("_total") else "gauge")
        assert re.fullmatch(r"[A-Z1].*\.", text)
        assert labels["datname"] == database
        # Prometheus has these labels of its own.
        assert not {"job", "instance"} & set(labels)
        assert all(isinstance(label, str) and label for label in labels.values())
        assert number is not None
    assert value(shop, "select count(*) - count(distinct (name, labels)) from grace.metrics") == 0
    assert value(shop, "select count(distinct (name, type, help)) - count(distinct name) from grace.metrics") == 0


def test_where_nothing_is_protected(conn: Connection) -> None:
    assert sample(conn, "pg_grace_up") == 1
    assert rows(conn, "select name from grace.metrics where subject = 'table'") == []
