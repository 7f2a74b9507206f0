"""What is planned: when which rule acts on which record, what stands in its way, and that the runs do just that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.ruling import add_rule, failures, refused, run
from tests.sql.scheduling import heard, listen


@pytest.fixture
def lead(conn: Connection) -> Connection:
    """Leads 1 to 5, created so many years ago."""
    conn.execute(
        b"create table lead (id int primary key, name text, created_at timestamptz);"
        b"create table mail (id int generated always as identity primary key, lead_id int references lead on delete cascade, at timestamptz);"
        b"create index on mail (lead_id, at);"
        b"insert into lead select n, 'lead ' || n, now() - n * interval '1 year' from generate_series(1, 5) n;"
        b"select grace.protect('lead')"
    )
    return conn


def planned(conn: Connection, what: str, arguments: str = "within => null") -> list[tuple[Any, ...]]:
    return rows(conn, f"select {what} from grace.planned('lead', {arguments}) order by record_key")


def test_a_new_contact_moves_the_date_by_itself(lead: Connection) -> None:
    add_rule(
        lead,
        target="lead",
        starts="created_at",
        activities=["mail.at via lead_id"],
        period="30 months",
        columns=["name"],
    )
    assert [row[0] for row in planned(lead, "record_key ->> 'id', record ->> 'name'")] == ["1", "2", "3", "4", "5"]
    assert [row[0] for row in planned(lead, "record_key ->> 'id'", "within => '1 year'")] == ["2", "3", "4", "5"]
    assert [row[0] for row in planned(lead, "record_key ->> 'id'", "within => '0'")] == ["3", "4", "5"]
    assert planned(lead, "state, due > now()", "key => '4'") == [("planned", False)]
    lead.execute("insert into mail (lead_id, at) values (4, now())")
    assert planned(lead, "state, due > now()", "key => '4'") == [("planned", True)]
    lead.execute("insert into mail (lead_id, at) select 4, now() - n * interval '1 month' from generate_series(1, 5) n")
    assert run(lead) == ("done", 2)
    assert rows(lead, "select id from lead order by 1") == [(1,), (2,), (4,)]


def test_what_stands_in_the_way_is_said(lead: Connection) -> None:
    lead.execute("insert into lead values (6, 'never', null)")
    add_rule(lead, target="lead", starts="created_at", period="1 year")
    lead.execute("select grace.exempt('r', '3', 'they sued')")
    lead.execute("select grace.exempt('r', '4', 'for now', now() + interval '1 s')")
    states = dict(planned(lead, "(record_key ->> 'id')::int, state"))
    assert states == {1: "planned", 2: "planned", 3: "exempt", 4: "exempt", 5: "planned"}
    assert planned(lead, "state, due", "key => '6'") == [("no start", None)]
    assert planned(lead, "reason", "key => '3'") == [("they sued",)]
    assert planned(lead, "state", "key => '99'") == []
    assert planned(lead, "state", "key => '[1, 2]'") == [("planned",)]
    refused(lead, "GR008", "select * from grace.planned(key => '1')")
    refused(lead, "GR008", "select * from grace.planned('lead', '{\"nope\": 1}')")
    refused(lead, "GR027", "select * from grace.planned(rule => 'nope')")
    refused(lead, "GR008", "select grace.exempt('r', '99', 'why')")
    refused(lead, "GR031", "select grace.exempt('r', '2', ' ')")
    refused(lead, "GR031", "select grace.exempt('r', '2', 'why', now() - interval '1 s')")
    lead.execute("select pg_sleep(1)")
    assert planned(lead, "state", "key => '4'") == [("planned",)]
    lead.execute("select grace.exempt('r', '3', 'they sued again')")
    assert rows(lead, "select reason, is_active from grace.exemptions order by id") == [
        ("they sued", False),
        ("for now", False),
        ("they sued again", True),
    ]
    assert run(lead) == ("done", 4)
    lead.execute("select grace.end_exemption(3)")
    refused(lead, "GR027", "select grace.end_exemption(3)")
    lead.execute("select grace.enable_rule('r', false)")
    assert planned(lead, "state", "key => '3'") == [("disabled",)]
    refused(lead, "GR031", "call grace.run('r')")
    lead.execute("select grace.enable_rule('r')")
    assert run(lead) == ("done", 1)
    assert rows(lead, "select id from lead") == [(6,)]


def test_nobody_is_planned_twice(lead: Connection) -> None:
    add_rule(lead, "late", target="lead", starts="created_at", period="10 years")
    add_rule(lead, "soon", target="lead", starts="created_at", period="6 years")
    add_rule(lead, "off", target="lead")
    lead.execute("select grace.enable_rule('off', false)")
    assert planned(lead, "(record_key ->> 'id')::int, by_rule") == [(n, "soon") for n in range(1, 6)]
    lead.execute("select grace.exempt('soon', '2', 'why')")
    assert planned(lead, "by_rule, state", "key => '2'") == [("late", "planned")]


def test_months_end_when_they_end_and_in_the_rules_zone(conn: Connection, db: Database) -> None:
    conn.execute(
        b"create table t (id int primary key, at timestamptz, d date);"
        b"insert into t values (1, '2024-01-31 12:00+01', '2024-01-31'), (2, '2024-12-31 23:30+00', '2024-02-29');"
        b"select grace.protect('t')"
    )
    conn.execute("set timezone = 'Europe/Berlin'")
    add_rule(conn, "month", target="t", starts="at", period="1 month")
    add_rule(conn, "day", target="t", starts="d", period="1 year")
    add_rule(conn, "year", target="t", starts="end of the year of at", period="8 years")
    other = db.connect()
    for session in (conn, other):
        session.execute("set datestyle = 'ISO'")
        due = "select (due at time zone 'Europe/Berlin')::text from grace.planned(within => null, rule => %s) order by record_key"
        assert [row[0] for row in rows(session, due, "month")] == ["2024-02-29 12:00:00", "2025-02-01 00:30:00"]
        assert [row[0] for row in rows(session, due, "day")] == ["2025-01-31 00:00:00", "2025-02-28 00:00:00"]
        assert [row[0] for row in rows(session, due, "year")] == ["2033-01-01 00:00:00", "2034-01-01 00:00:00"]
        session.execute("set timezone = 'Pacific/Kiritimati'")


@pytest.mark.parametrize("schedule", ["@monthly", "0 3 * * *", "30 4 1,15 * *"])
@pytest.mark.parametrize("final", [False, True])
def test_it_acts_at_the_turn_that_was_foretold(lead: Connection, schedule: str, final: bool) -> None:
    """Of what is due at odd moments, and at turns themselves, each run at a turn would do what planned() says."""
    period = "100 days" if final else "1 day"
    add_rule(lead, target="lead", starts="created_at", period=period, schedule=schedule, final_by_due=final)
    lead.execute("delete from lead")
    turns = [row[0] for row in rows(lead, "select grace.schedule_times(%s, 40)", schedule)]
    ahead = value(lead, "select grace_internal.ahead(r) from grace_internal.rule r")
    assert ahead == (timedelta(days=31) if final else timedelta())
    lead.execute(
        "insert into lead select n, '', %s::timestamptz - %s::interval + n * interval '31 hours' from generate_series(1, 40) n",
        (turns[1], period),
    )
    for number, turn in enumerate(turns[:6]):
        lead.execute(
            "insert into lead values (%s, '', %s::timestamptz + %s - %s::interval)", (100 + number, turn, ahead, period)
        )
    acts = dict(rows(lead, "select (record_key ->> 'id')::int, acts_at from grace.planned('lead', within => null)"))
    assert len(acts) == 46
    seen: dict[int, Any] = {}
    for turn in turns[:-2]:
        due = value(
            lead,
            "select array_agg(l.id) from lead l, grace_internal.rule r"
            " where l.created_at + %s::interval <= grace_internal.horizon(r, %s)",
            period,
            turn,
        )
        for one in due or []:
            seen.setdefault(one, turn)
    assert {key: acts[key] for key in seen} == seen
    if final:
        for one, at in seen.items():
            last = value(lead, "select created_at + %s::interval from lead where id = %s", period, one)
            assert at + ahead <= last or at == turns[0]


def test_with_notice_it_acts_on_what_was_announced_and_not_before(lead: Connection, db: Database) -> None:
    listener = listen(db)
    add_rule(lead, target="lead", starts="created_at", period="2 years", notice="14 days", schedule="@daily")
    assert planned(lead, "state, acts_at > now() + interval '14 days'", "key => '3'") == [("not announced", True)]
    assert run(lead) == ("done", 0)  # what a run has found is announced by it
    assert [one["rows"] for one in heard(listener) if one["kind"] == "notice"] == [4]
    assert [row[0] for row in rows(lead, "select (key ->> 'id')::int from grace.notices order by 1")] == [2, 3, 4, 5]
    assert run(lead) == ("done", 0)
    lead.execute("call grace.watch()")
    assert [one for one in heard(listener) if one["kind"] == "notice"] == []
    assert planned(lead, "state, acts_at > now() + interval '13 days'", "key => '3'") == [("planned", True)]
    lead.execute(
        "update grace_internal.notice set announced_at = announced_at - interval '15 days' where key <> '{\"id\": 5}'"
    )
    assert planned(lead, "acts_at < now() + interval '2 days'", "key => '3'") == [(True,)]
    lead.execute("update lead set created_at = now() where id = 4")  # withdrawn
    lead.execute("update lead set created_at = created_at + interval '1 day' where id = 3")  # another date, anew
    assert run(lead) == ("done", 1)
    assert rows(lead, "select id from lead order by 1") == [(1,), (3,), (4,), (5,)]
    assert [row[0] for row in rows(lead, "select (key ->> 'id')::int from grace.notices order by 1")] == [3, 5]


def test_watch_announces_early_enough_for_the_turn(lead: Connection, db: Database) -> None:
    """It comes by every six hours only."""
    lead.execute("update lead set created_at = now() - interval '1 year' + interval '14 days 6 hours' where id = 1")
    lead.execute("update lead set created_at = now() - interval '1 year' + interval '16 days' where id > 1")
    add_rule(lead, target="lead", starts="created_at", period="1 year", notice="14 days")
    listener = listen(db)
    lead.execute("call grace.watch()")
    assert [one["rows"] for one in heard(listener) if one["kind"] == "notice"] == [1]
    assert rows(lead, "select acts_after < due from grace.notices") == [(True,)]
    refused(lead, "GR027", "select grace.announce('nope')")


@pytest.fixture
def invoice(lead: Connection) -> Connection:
    lead.execute(
        b"create table invoice (id int primary key, lead_id int references lead on delete cascade, paid_on date);"
        b"insert into invoice values (10, 1, '2015-01-01'), (20, 2, now() - interval '1 year'), (30, 3, null)"
    )
    return lead


def test_what_a_rule_keeps_no_rule_deletes_through_a_cascade_either(invoice: Connection) -> None:
    add_rule(invoice, target="lead")
    add_rule(invoice, "keep", target="invoice", action="keep", starts="end of year of paid_on", period="8 years")
    year = value(invoice, "select extract(year from now() - interval '1 year')::int + 9")
    assert planned(invoice, "state, reason", "key => '2'") == [
        ("kept", f"public.invoice {{\"id\": 20}} is kept until {year}-01-01 by rule 'keep'")
    ]
    assert planned(invoice, "state, reason", "key => '3'") == [
        ("kept", "public.invoice {\"id\": 30} is kept by rule 'keep', whose period has not begun")
    ]
    assert value(invoice, "select kept from grace.preview('r')") == 2
    assert run(invoice) == ("done", 3)
    assert [(key["id"], code) for key, code, _ in failures(invoice)] == [(2, "GR033"), (3, "GR033")]
    refused(invoice, "GR031", "call grace.run('keep')")
    invoice.execute("alter table invoice rename paid_on to paid")
    assert run(invoice)[0] == "failed"
    assert rows(invoice, "select id from lead order by 1") == [(2,), (3,)]
    assert value(invoice, "select count(*) from grace.doctor() where object = 'keep'") >= 1
    with pytest.raises(psycopg.Error) as caught:
        invoice.execute("select * from grace.planned('lead')")
    assert caught.value.sqlstate == "GR028"


def test_a_rule_that_keeps_sees_all_rows_or_nothing_goes(invoice: Connection, role: Any) -> None:
    clerk = role("clerk")
    invoice.execute(
        f"grant usage on schema public to {clerk}; grant select, delete on invoice, lead to {clerk}".encode()
    )
    arguments = {"target": "invoice", "action": "keep", "starts": "paid_on", "period": "8 years", "run_as": clerk}
    add_rule(invoice, "keep", **arguments)
    add_rule(invoice, target="lead", predicate="id <= 2")
    invoice.execute("alter table invoice enable row level security")
    assert run(invoice) == ("failed", 0)
    assert value(invoice, "select count(*) from lead") == 5
    refused(
        invoice,
        "GR031",
        f"select grace.add_rule('k', target => 'invoice', action => 'keep', starts => 'paid_on', period => '1 year', run_as => '{clerk}')",
    )
    invoice.execute("alter table invoice disable row level security")
    assert run(invoice) == ("done", 1)
