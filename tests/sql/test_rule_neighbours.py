"""Rules beside each other: what one deletes and the other counts from, what one keeps and the other would delete."""

from __future__ import annotations

import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.ruling import add_rule, details, failures, run


@pytest.fixture
def lead(conn: Connection) -> Connection:
    """Leads 1 to 5, created so many years ago; 2 and 3 have a mail of seven months ago, 3 a call as well."""
    conn.execute(
        b"create table lead (id int primary key, name text, created_at timestamptz);"
        b"create table mail (id int generated always as identity primary key, lead_id int references lead on delete cascade,"
        b" at timestamptz, incoming boolean default true);"
        b"create index on mail (lead_id, at);"
        b"insert into lead select n, 'lead ' || n, now() - n * interval '1 year' from generate_series(1, 5) n;"
        b"insert into mail (lead_id, at) select n, now() - interval '7 months' from generate_series(2, 3) n;"
        b"select grace.protect('lead')"
    )
    return conn


def add_both(conn: Connection, activity: str = "mail.at via lead_id") -> None:
    add_rule(conn, "leads", target="lead", starts="created_at", activities=[activity], period="12 months")
    add_rule(conn, "mails", target="mail", starts="at", related_to="lead", period="6 months")


def test_a_mail_that_a_rule_has_deleted_goes_on_counting(lead: Connection) -> None:
    add_both(lead)
    due = "select (record_key ->> 'id')::int, due from grace.planned('lead', within => null) order by 1"
    before = rows(lead, due)
    assert run(lead, "mails") == ("done", 2)
    assert rows(lead, "select * from mail") == []
    assert rows(lead, due) == before
    assert value(lead, "select deletes from grace.preview('leads')") == 3
    assert run(lead, "leads") == ("done", 3)
    assert details(lead)["left_out"] == {"recent contact": 2}
    assert rows(lead, "select id from lead order by 1") == [(2,), (3,)]
    lead.execute("update grace_internal.last_activity set at = at - interval '6 months'")
    assert run(lead, "leads") == ("done", 2)
    assert rows(lead, "select * from grace_internal.last_activity") == [], (
        "nothing is remembered for longer than needed"
    )


def test_only_what_the_activity_means_is_remembered(lead: Connection) -> None:
    lead.execute("update mail set incoming = false where lead_id = 2")
    add_both(lead, "mail.at via lead_id where incoming")
    assert run(lead, "mails") == ("done", 2)
    assert rows(lead, "select key from grace_internal.last_activity") == [({"id": 3},)]
    assert run(lead, "leads") == ("done", 4)


def test_a_mail_that_somebody_deletes_does_not_count_any_more(lead: Connection) -> None:
    add_both(lead)
    lead.execute("delete from mail")
    assert run(lead, "leads") == ("done", 5)


def test_one_record_whose_contact_was_deleted_is_not_announced(lead: Connection) -> None:
    add_both(lead)
    run(lead, "mails")
    lead.execute("""select grace.alter_rule('leads', '{"notice": "14 days"}')""")
    lead.execute("select grace.announce('leads')")
    assert rows(lead, "select (key ->> 'id')::int from grace.notices order by 1") == [(1,), (4,), (5,)]


def test_limits_count_what_would_go(lead: Connection) -> None:
    add_rule(lead, target="lead", starts="created_at", period="1 year", max_rows=2)
    assert value(lead, "select would_be_held from grace.preview('r')") == "5 rows are more than max_rows, 2"
    for number in (1, 2, 3):
        lead.execute("select grace.exempt('r', to_jsonb(%s::int), 'not yet')", (number,))
    row = rows(lead, "select row_count, deletes, exempt, would_be_held, cascades from grace.preview('r')")[0]
    assert row[:4] == (5, 2, 3, None)
    assert [(one["table"], one["rows"]) for one in row[4]] == [("public.lead", 2)]
    assert run(lead) == ("done", 2)


def test_what_is_kept_says_until_when_and_what_can_go_after_it(lead: Connection) -> None:
    lead.execute(
        "create table invoice (id int primary key, lead_id int references lead on delete cascade, on_day date);"
        "insert into invoice values (1, 4, '2020-05-05'), (2, 4, '2024-05-05'), (3, 5, null);"
        "select grace.protect('lead')"
    )
    add_rule(
        lead,
        "invoices",
        target="invoice",
        action="keep",
        starts="end of year of on_day",
        period="40 years",
        basis="law",
    )
    add_rule(lead, target="lead", starts="created_at", period="1 year", schedule="0 3 * * *")
    state = "select state, acts_at::date::text, reason from grace.planned('lead', %s)"
    assert rows(lead, state, "4") == [
        ("kept", "2065-01-01", "public.invoice {\"id\": 2} is kept until 2065-01-01 by rule 'invoices'")
    ]
    assert rows(lead, state, "5")[0][:2] == ("kept", None)
    assert rows(lead, "select action, due::date::text, state, reason from grace.planned('invoice', '1')") == [
        ("keep", "2061-01-01", "kept", "law")
    ]
    row = rows(lead, "select deletes, kept, blocked from grace.preview('r')")[0]
    assert row[:2] == (3, 2)
    assert [one["key"]["id"] for one in row[2]] == [4, 5]
    lead.execute("select grace.enable_rule('invoices', false)")
    assert "it is disabled" in value(lead, "select finding from grace.doctor() where object = 'invoices'")


def test_what_a_hold_on_a_child_keeps_is_seen_on_the_parent(lead: Connection) -> None:
    add_rule(lead, target="lead", starts="created_at", period="1 year")
    mail = value(lead, "select id from mail where lead_id = 2")
    lead.execute("select grace.hold('mail', %s::jsonb, 'lawsuit', 'C-7')", (f'[{{"id": {mail}}}]',))
    lead.execute("""select grace.hold('lead', '[{"id": 4}]', 'tax')""")
    reason = "what would go with it of public.mail: lawsuit (hold 1, case C-7)"
    state = "select state, reason from grace.planned('lead', %s)"
    assert rows(lead, state, "2") == [("held", reason)]
    assert rows(lead, state, "4") == [("held", "tax (hold 2)")]
    assert rows(lead, state, "3") == [("planned", None)]
    row = rows(lead, "select row_count, deletes, held, blocked from grace.preview('r')")[0]
    assert row[:3] == (5, 3, 2)
    assert row[3] == [{"key": {"id": 2}, "reason": reason}, {"key": {"id": 4}, "reason": "tax (hold 2)"}]
    assert run(lead) == ("done", 3)
    assert details(lead)["left_out"] == {"held": 2}
    assert [(key["id"], code) for key, code, _ in failures(lead)] == [(2, "GR029"), (4, "GR029")]


def test_a_rule_that_keeps_is_previewed_by_what_it_keeps(lead: Connection) -> None:
    add_rule(lead, target="lead", action="keep", starts="created_at", period="30 months", columns=["name"])
    row = rows(lead, "select action, row_count, token, deletes, cascades, sample from grace.preview('r')")[0]
    assert row[:5] == ("keep", 2, None, None, None)
    assert [(one["key"], one["record"]) for one in row[5]] == [
        ({"id": 2}, {"name": "lead 2"}),
        ({"id": 1}, {"name": "lead 1"}),
    ]


def test_the_author_does_not_loosen_limits_that_take_four_eyes(lead: Connection, db: Database) -> None:
    add_rule(lead, target="lead", max_rows=2, four_eyes=True)
    for changes in ('{"four_eyes": false}', '{"max_rows": 3}', '{"max_rows": null}'):
        with pytest.raises(Exception, match="loosened by somebody else") as error:
            lead.execute("select grace.alter_rule('r', %s)", (changes,))
        assert error.value.sqlstate == "GR032"  # type: ignore[attr-defined]
    lead.execute("""select grace.alter_rule('r', '{"max_rows": 1}')""")
    lead.execute("create role another login superuser")
    try:
        other = db.connect(user="another")
        other.execute("""select grace.alter_rule('r', '{"max_rows": 3}')""")
        lead.execute("""select grace.alter_rule('r', '{"basis": "law"}')""")
        assert value(lead, "select max_rows from grace.rules") == 3
        assert run(lead) == ("held", 0)
        for conn in (lead, other):  # both had a part in what the rule says
            with pytest.raises(Exception, match="approved by somebody else"):
                conn.execute("call grace.run('r', approve => true)")
        other.close()
    finally:
        lead.execute("drop role another")
