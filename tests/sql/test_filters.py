"""Saved filters: what may be one, what it means later, and what becomes of it when the application changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.scheduling import heard, listen


@pytest.fixture
def leads(conn: Connection) -> Connection:
    conn.execute(
        """
        create schema crm;
        create table crm.lead (
          id int primary key, status text, country char(2), name text, created_at timestamptz not null default now(), one int
        );
        create table crm.mail (id int primary key, lead_id int references crm.lead on delete cascade, sent_at timestamptz);
        insert into crm.lead (id, status, country, name)
        select n, case when n % 3 = 0 then 'no interest' else 'open' end, case when n % 2 = 0 then 'AT' else 'DE' end, 'lead ' || n
        from generate_series(1, 12) n;
        insert into crm.mail select n, n, now() from generate_series(1, 6) n;
        """
    )
    return conn


def add(conn: Connection, predicate: str, name: str = "f", target: str = "crm.lead") -> tuple[Any, ...]:
    return rows(conn, "select * from grace.add_filter(%s, %s::regclass, %s)", name, target, predicate)[0]


def test_a_filter_is_shown_as_postgresql_reads_it_with_its_rows_and_cost(leads: Connection) -> None:
    leads.execute("set search_path = crm")
    condition, count, cost = add(leads, "status = 'no interest' and country in ('AT', 'DE')")
    assert condition == (
        "((lead.status = 'no interest'::text) AND (lead.country = ANY (ARRAY['AT'::bpchar, 'DE'::bpchar])))"
    )
    assert (count, cost > 0) == (4, True)
    assert rows(leads, "select name, target::text, predicate, problem, created_by from grace.filters") == [
        ("f", "lead", "status = 'no interest' and country in ('AT', 'DE')", None, "postgres")
    ]


def test_names_mean_what_they_meant_when_it_was_saved(leads: Connection) -> None:
    leads.execute("create schema other; create table other.mail (lead_id int); set search_path = crm")
    add(leads, "exists (select from mail where mail.lead_id = lead.id)")
    leads.execute("set search_path = other")
    assert value(leads, "select row_count from grace.preview(filter => 'f')") == 6


@pytest.mark.parametrize(
    "predicate",
    [
        "true; delete from crm.lead",
        "true) union all select 1 from crm.lead where (true",
        "false) or id in (delete from crm.lead returning id",
        "id in (with d as (delete from crm.lead returning id) select id from d)",
        "1",
        "",
        "   ",
        "count(*) > 1",
        "row_number() over () > 1",
        "generate_series(1, 2) = 1",
        "nobody = 1",
        "lead.name = 'x' limit 1",
        "$1",
        "true -- ) and",
        "id = 1 /* ",
        "exists (select from crm.lead for update)",
        "random() < 0.5",
        "clock_timestamp() > created_at",
        "nextval('grace_internal.progress') > 0",
        "pg_sleep(0) is null",
        "pg_notify('grace', 'x') is null",
        "pg_advisory_lock(1) is null",
        "set_config('role', 'none', true) = 'none'",
        "query_to_xml('delete from crm.lead', true, true, '') is null",
        "exists (select from crm.volatile_view)",
        "crm.volatile(id)",
    ],
)
def test_what_is_no_condition_or_may_do_something_is_refused(leads: Connection, predicate: str) -> None:
    leads.execute(
        """
        create function crm.volatile(n int) returns boolean language sql volatile as 'select true';
        create view crm.volatile_view as select crm.volatile(1) as x;
        """
    )
    if predicate == "true -- ) and":
        assert add(leads, predicate)[0] == "true"  # the comment ends with its line
        return
    with pytest.raises(psycopg.Error) as error:
        add(leads, predicate)
    assert error.value.sqlstate == "GR022"
    assert error.value.diag.message_detail
    assert error.value.diag.message_hint
    assert value(leads, "select count(*) from crm.lead") == 12
    assert value(leads, "select count(*) from grace.filters") == 0


def test_nothing_is_left_of_reading_it(leads: Connection) -> None:
    before = value(leads, "select count(*) from pg_class")
    add(leads, "id > 3")
    assert value(leads, "select count(*) from pg_class") == before


def test_a_temporary_table_is_refused(leads: Connection) -> None:
    leads.execute("create temporary table chosen (id int)")
    with pytest.raises(psycopg.errors.DatabaseError, match="can be saved"):
        add(leads, "id in (select id from pg_temp.chosen)")


@pytest.mark.parametrize(
    ("target", "ddl"),
    [
        ("crm.keyless", "create table crm.keyless (id int)"),
        ("crm.v", "create view crm.v as select * from crm.lead"),
        ("pg_temp.t", "create temporary table t (id int primary key)"),
    ],
)
def test_a_table_needs_to_stay_and_to_have_a_key(leads: Connection, target: str, ddl: str) -> None:
    leads.execute(ddl.encode())
    with pytest.raises(psycopg.Error) as error:
        add(leads, "true", target=target)
    assert error.value.sqlstate == "GR031"


def test_a_name_is_taken_once(leads: Connection) -> None:
    add(leads, "id > 3", name="Kein Interesse")
    with pytest.raises(psycopg.errors.DuplicateObject):
        add(leads, "id > 4", name="Kein Interesse")
    with pytest.raises(psycopg.Error) as error:
        add(leads, "id > 4", name="")
    assert error.value.sqlstate == "GR031"


@pytest.mark.parametrize(
    ("ddl", "problem"),
    [
        ("alter table crm.lead rename status to state", "crm.lead.status is now crm.lead.state"),
        ("alter table crm.lead drop status", "crm.lead.status is gone"),
        (
            "alter table crm.lead alter status type varchar(20)",
            "crm.lead.status was text and is now character varying",
        ),
        ("alter table crm.lead rename to leads", "crm.lead is now crm.leads"),
        ("alter schema crm rename to crm2", "crm.lead.country is now crm2.lead.country"),
        ("drop table crm.lead cascade", "crm.lead.country is gone"),
        (
            "alter table crm.lead rename status to s; alter table crm.lead rename name to status;"
            "alter table crm.lead rename s to name",
            "crm.lead.status is now crm.lead.name",
        ),
    ],
)
def test_a_change_that_breaks_it_goes_through_and_is_reported_at_once(
    leads: Connection, db: Database, ddl: str, problem: str
) -> None:
    add(leads, "status = 'no interest' and country <> 'CH'")
    listener = listen(db)
    notices: list[str] = []
    leads.add_notice_handler(lambda notice: notices.append(f"{notice.message_primary} {notice.message_detail}"))
    with leads.transaction():
        leads.execute(ddl.encode())
    assert problem in str(value(leads, "select problem from grace.filters")) or "crm.lead" in problem
    assert any("filter 'f' no longer says what was meant" in notice for notice in notices)
    assert any(one.get("kind") == "filter" and one["name"] == "f" for one in heard(listener))
    with pytest.raises(psycopg.Error) as error:
        leads.execute("select grace.preview(filter => 'f')")
    assert error.value.sqlstate == "GR028"
    assert value(leads, "select finding from grace.doctor() where subject = 'filter'")


@pytest.mark.parametrize(
    ("made", "condition", "ddl", "problem"),
    [
        ("create extension pg_trgm", "similarity(name, 'x') >= 0", "drop extension pg_trgm cascade", "similarity"),
        (
            "create materialized view crm.vip as select 1 as lead_id",
            "id in (select lead_id from crm.vip)",
            "drop materialized view crm.vip",
            "crm.vip",
        ),
        (
            "create materialized view crm.vip as select 1 as lead_id",
            "id in (select lead_id from crm.vip)",
            "alter materialized view crm.vip rename to best",
            "crm.best",
        ),
        (
            "create collation crm.mine (provider = icu, locale = 'de')",
            "name < 'z' collate crm.mine",
            "drop collation crm.mine",
            "crm.mine",
        ),
    ],
)
def test_whatever_it_names_is_watched(leads: Connection, made: str, condition: str, ddl: str, problem: str) -> None:
    leads.execute(made.encode())
    add(leads, condition)
    notices: list[str] = []
    leads.add_notice_handler(lambda notice: notices.append(f"{notice.message_primary} {notice.message_detail}"))
    leads.execute(ddl.encode())
    assert any("filter 'f' no longer says what was meant" in notice and problem in notice for notice in notices)


def test_what_was_changed_back_works_again_and_what_can_be_said_anew_as_well(leads: Connection) -> None:
    add(leads, "status = 'no interest'")
    leads.execute("alter table crm.lead rename status to state")
    assert value(leads, "select problem from grace.filters") == "crm.lead.status is now crm.lead.state"
    leads.execute("alter table crm.lead rename state to status")
    assert value(leads, "select row_count from grace.preview(filter => 'f')") == 4
    leads.execute("alter table crm.lead rename status to state")
    assert rows(leads, "select row_count from grace.alter_filter('f', 'state = ''open''')") == [(8,)]
    assert rows(leads, "select problem, predicate from grace.filters") == [(None, "state = 'open'")]


def test_columns_that_it_does_not_name_are_nobodys_business(leads: Connection) -> None:
    add(leads, "status = 'no interest'")
    leads.execute("alter table crm.lead drop name, add note text, alter one type text")
    assert value(leads, "select problem from grace.filters") is None


def test_a_preview_changes_nothing_and_says_what_would(leads: Connection, db: Database) -> None:
    leads.execute("create table crm.call (id int primary key, lead_id int references crm.lead)")
    leads.execute("insert into crm.call values (1, 3)")
    leads.execute("select * from grace.add_filter('f', 'crm.lead', 'status = ''no interest''', '{name,country}')")
    reader = db.connect()
    with reader.transaction():
        reader.execute("set transaction read only")
        row = reader.execute("select * from grace.preview(filter => 'f', sample => 2)").fetchone()
    assert row is not None
    assert (row["row_count"], row["run_as"]) == (4, "postgres")
    assert row["sample"] == [
        {"key": {"id": 3}, "record": {"name": "lead 3", "country": "DE"}},
        {"key": {"id": 6}, "record": {"name": "lead 6", "country": "AT"}},
    ]
    assert [(one["table"], one["rows"], one["effect"]) for one in row["cascades"]] == [
        ("crm.lead", 4, "deleted"),
        ("crm.mail", 2, "deleted"),
    ]
    assert row["blocked"] == [{"key": {"id": 3}, "reason": "crm.call refers to it (call_lead_id_fkey)"}]


@pytest.fixture
def admin(leads: Connection, db: Database, role: Any) -> Iterator[Connection]:
    name = role("dpo")
    leads.execute(
        f"grant grace_admin to {name}; grant usage on schema crm to {name}; grant select on crm.lead to {name}"
    )
    session = db.connect()
    session.execute(f"set session authorization {name}")
    yield session
    session.close()


def test_only_what_the_caller_may_read_and_under_his_row_security(leads: Connection, admin: Connection) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        add(admin, "exists (select from crm.mail where lead_id = lead.id)")
    leads.execute("alter table crm.lead enable row level security; create policy at on crm.lead using (country = 'AT')")
    assert add(admin, "status = 'no interest'")[1] == 2
    assert value(leads, "select row_count from grace.preview(filter => 'f')") == 4


def test_nobody_runs_somebody_elses_code_by_looking_at_a_filter(leads: Connection, admin: Connection) -> None:
    leads.execute(f"grant create on schema crm to {value(admin, 'select current_user')}")
    admin.execute("create function crm.trap(n int) returns boolean language sql stable as 'select true'")
    add(admin, "crm.trap(id)")
    assert value(admin, "select row_count from grace.preview(filter => 'f')") == 12
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="somebody else's code"):
        leads.execute("select grace.preview(filter => 'f')")
    leads.execute("alter function crm.trap owner to postgres")
    assert value(leads, "select row_count from grace.preview(filter => 'f')") == 12


def test_a_filter_in_use_stays(leads: Connection) -> None:
    add(leads, "id > 3")
    leads.execute("select * from grace.protect('crm.lead')")
    leads.execute("select grace.add_rule('r', 'f')")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="in use"):
        leads.execute("select grace.drop_filter('f')")
    leads.execute("select grace.drop_rule('r')")
    leads.execute("select grace.drop_filter('f')")
    assert rows(leads, "select * from grace.filters") == []
    with pytest.raises(psycopg.Error) as error:
        leads.execute("select grace.drop_filter('f')")
    assert error.value.sqlstate == "GR027"
