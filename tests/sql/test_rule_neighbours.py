"""Rules beside each other: what one deletes and the other counts from, what one keeps and the other would delete."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


def test_what_a_contact_that_was_deleted_puts_off_is_announced_for_that_date(lead: Connection) -> None:
    lead.execute("update mail set at = now() - interval '12 months' + interval '5 days' where lead_id = 2")
    add_both(lead)
    run(lead, "mails")
    lead.execute("""select grace.alter_rule('leads', '{"notice": "14 days"}')""")
    lead.execute("select grace.announce('leads')")
    assert rows(lead, "select (key ->> 'id')::int, due > now() from grace.notices order by 1") == [
        (1, False),
        (2, True),
        (4, False),
        (5, False),
    ]


def test_what_counts_from_activities_alone_goes_when_the_last_one_is_deleted_and_its_period_over(
    lead: Connection,
) -> None:
    add_rule(lead, "leads", target="lead", activities=["mail.at via lead_id"], period="12 months")
    add_rule(lead, "mails", target="mail", starts="at", period="6 months")
    due = "select (record_key ->> 'id')::int, due from grace.planned('lead', within => null, rule => 'leads')"
    before = rows(lead, due)
    assert len(before) == 2
    run(lead, "mails")
    assert rows(lead, due) == before
    assert run(lead, "leads") == ("done", 0)
    lead.execute("update grace_internal.last_activity set at = at - interval '6 months' where key = '{\"id\": 2}'")
    assert value(lead, "select deletes from grace.preview('leads')") == 1
    assert run(lead, "leads") == ("done", 1)
    assert value(lead, "select state from grace.planned('lead', '1')") == "no start"


def test_a_rule_that_keeps_counts_what_was_deleted_too(lead: Connection) -> None:
    add_rule(
        lead,
        "keeps",
        target="lead",
        action="keep",
        starts="created_at",
        activities=["mail.at via lead_id"],
        period="2 years",
    )
    add_rule(lead, "mails", target="mail", starts="at", period="6 months")
    add_rule(lead, "leads", target="lead", starts="created_at", period="1 year")
    assert run(lead, "mails") == ("done", 2)
    assert value(lead, "select state from grace.planned('lead', '3')") == "kept"
    assert run(lead, "leads") == ("done", 2)
    assert rows(lead, "select id from lead order by 1") == [(1,), (2,), (3,)]


def test_what_goes_by_a_cascade_or_in_a_partition_is_remembered(lead: Connection) -> None:
    lead.execute(
        "create table thread (id int primary key); insert into thread values (1), (2);"
        "alter table mail add thread_id int references thread on delete cascade; create index on mail (thread_id);"
        "update mail set thread_id = lead_id - 1;"
        "create table call (id int, lead_id int references lead on delete cascade, at timestamptz, primary key (id, at))"
        " partition by range (at);"
        "create table call_old partition of call for values from ('2000-01-01') to ('2100-01-01');"
        "insert into call values (1, 4, now() - interval '7 months');"
        "select grace.protect('lead'), grace.protect('thread')"
    )
    add_rule(
        lead,
        "leads",
        target="lead",
        starts="created_at",
        activities=["mail.at via lead_id", "call.at via lead_id"],
        period="12 months",
    )
    add_rule(lead, "threads", target="thread")
    add_rule(lead, "calls", target="call_old", starts="at", period="6 months")
    due = "select (record_key ->> 'id')::int, due from grace.planned('lead', within => null) order by 1"
    before = rows(lead, due)
    assert run(lead, "threads") == ("done", 2)
    assert run(lead, "calls") == ("done", 1)
    assert rows(lead, "select from mail union all select from call") == []
    assert rows(lead, due) == before
    assert run(lead, "leads") == ("done", 2)
    assert rows(lead, "select id from lead order by 1") == [(2,), (3,), (4,)]


def test_a_role_counts_with_what_it_may_read(lead: Connection, role: Any) -> None:
    cleaner = role("cleaner", "nologin")
    lead.execute(
        f"grant usage on schema public to {cleaner}; grant select, delete on lead to {cleaner};"
        f"grant select (lead_id, at) on mail to {cleaner}"
    )
    with pytest.raises(Exception, match="may not read the keys of") as error:
        add_rule(lead, "leads", target="lead", run_as=cleaner, activities=["mail.at via lead_id"], period="12 months")
    assert error.value.sqlstate == "42501"  # type: ignore[attr-defined]
    lead.execute(f"grant select on mail to {cleaner}")
    add_rule(lead, "leads", target="lead", run_as=cleaner, activities=["mail.at via lead_id"], period="12 months")
    add_rule(lead, "mails", target="mail", starts="at", period="6 months")
    lead.execute(f"revoke all on mail from {cleaner}")
    assert run(lead, "mails") == ("failed", 0)
    assert "what rule 'leads' counts from can't be told" in details(lead)["stopped"]["reason"]
    lead.execute(f"grant select on mail to {cleaner}")
    assert run(lead, "mails") == ("done", 2)
    due = "select due > now() from grace.planned('lead', '2')"
    assert rows(lead, due) == [(True,)]
    lead.execute("alter table mail rename id to mail_no")
    assert "mail_no" in value(lead, "select problem from grace.rules where name = 'leads'")
    lead.execute("select grace.drop_rule('leads')")
    lead.execute("select grace.drop_rule('mails')")
    assert value(lead, "select has_schema_privilege(%s, 'grace', 'usage')", cleaner) is False


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
    reason = 'public.mail {"id": 1} is held: lawsuit (hold 1, case C-7)'
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


def test_rights_that_one_rules_role_has_lost_do_not_stop_another_rules_run(lead: Connection, role: Any) -> None:
    cleaner = role("cleaner", "nologin")
    lead.execute(f"grant usage on schema public to {cleaner}; grant select, delete on lead, mail to {cleaner}")
    add_rule(lead, "leads", target="lead", run_as=cleaner, activities=["mail.at via lead_id"], period="12 months")
    add_rule(lead, "mails", target="mail", starts="at", period="6 months")
    assert run(lead, "mails") == ("done", 2)
    lead.execute(f"revoke all on lead from {cleaner}")
    notices: list[str] = []
    lead.add_notice_handler(lambda notice: notices.append(f"{notice.message_primary} {notice.message_detail}"))
    assert run(lead, "mails") == ("done", 0)
    assert any("rule 'leads'" in notice and "permission denied" in notice for notice in notices)
    assert value(lead, "select count(*) from grace_internal.last_activity") == 2


def test_a_hold_is_found_by_a_key_of_any_type(lead: Connection) -> None:
    lead.execute(
        "create table event (at timestamptz, n numeric, d date, primary key (at, n, d));"
        "insert into event values ('2020-01-02 13:00:00+01', 1.50, '2020-01-02'), ('2020-01-03', 2, '2020-01-02');"
        "select grace.protect('event')"
    )
    add_rule(lead, target="event")
    lead.execute(
        """select grace.hold('event', '[{"at": "2020-01-02 12:00:00+00", "n": 1.5, "d": "2020-01-02"}]', 'tax')"""
    )
    assert rows(lead, "select deletes, held from grace.preview('r')") == [(1, 1)]
    assert run(lead) == ("done", 1)


def test_what_is_kept_is_told_in_the_zones_of_both_rules(lead: Connection) -> None:
    lead.execute(
        "set timezone = 'Pacific/Auckland';"
        "create table t (id int primary key, d date); insert into t values (1, current_date - 365);"
        "select grace.protect('t')"
    )
    add_rule(lead, target="t", starts="d", period="365 days")
    add_rule(lead, "keep", target="t", action="keep", starts="d", period="10 years")
    lead.execute("set timezone = 'UTC'")
    assert rows(lead, "select row_count, deletes, kept from grace.preview('r')") == [(1, 0, 1)]
    assert rows(lead, "select state from grace.planned('t', '1')") == [("kept",)]


def test_what_is_kept_or_exempt_acts_after_that(lead: Connection) -> None:
    add_rule(lead, target="lead", starts="created_at", period="4 years", final_by_due=True, schedule="0 3 1 * *")
    lead.execute("select grace.exempt('r', '5', 'why', '2099-11-22')")
    acts = "select state, acts_at::date::text from grace.planned('lead', '5')"
    assert rows(lead, acts) == [("exempt", "2099-12-01")]
    lead.execute("select grace.enable_rule('r', false)")
    assert rows(lead, acts) == [("exempt", None)]


def test_a_rule_that_keeps_is_previewed_by_what_it_keeps(lead: Connection) -> None:
    add_rule(lead, target="lead", action="keep", starts="created_at", period="30 months", columns=["name"])
    row = rows(lead, "select action, row_count, token, deletes, cascades, sample from grace.preview('r')")[0]
    assert row[:5] == ("keep", 2, None, None, None)
    assert [(one["key"], one["record"]) for one in row[5]] == [
        ({"id": 2}, {"name": "lead 2"}),
        ({"id": 1}, {"name": "lead 1"}),
    ]


def test_who_wrote_the_filter_has_written_the_rule(lead: Connection, db: Database, role: Any) -> None:
    author = role("author", "login superuser")
    theirs = db.connect(user=author)
    theirs.execute("select grace.add_filter('f', 'lead', 'true')")
    add_rule(lead, filter="f", max_rows=0, four_eyes=True)
    assert run(lead) == ("held", 0)
    with pytest.raises(Exception, match="approved by somebody else"):
        theirs.execute("call grace.run('r', approve => true)")
    theirs.close()


def test_two_who_alter_a_filter_at_once_both_have_their_way(lead: Connection, db: Database) -> None:
    lead.execute("select grace.add_filter('f', 'lead', 'id = 1')")
    add_rule(lead, filter="f")
    with ThreadPoolExecutor() as pool, db.connect() as other:
        with lead.transaction():
            lead.execute("select grace.alter_filter('f', 'id = 2')")
            waiting = pool.submit(other.execute, "select grace.alter_filter('f', columns => '{name}')")
            while not value(lead, "select exists (select from pg_locks where not granted)"):
                assert not waiting.done()
        waiting.result()
    assert value(lead, "select condition from grace.filters") == "(lead.id = 2)"
    assert rows(lead, "select condition, columns from grace.rules") == [("(lead.id = 2)", ["name"])]


def test_no_path_of_the_callers_leads_to_code_that_runs_as_the_owner(lead: Connection, db: Database, role: Any) -> None:
    admin = role("admin")
    lead.execute(
        f"grant grace_admin to {admin}; create schema evil authorization {admin};"
        f"create table evil.t (id int primary key, at date); alter table evil.t owner to {admin}; select grace.protect('evil.t')"
    )
    theirs = db.connect(user=admin)
    theirs.execute(
        """create function evil.f(x pg_catalog."char") returns boolean language plpgsql as
           $$ begin raise exception 'it ran as %', current_user; end $$;
           create domain evil."char" as pg_catalog."char" check (evil.f(value));
           create domain evil.text as pg_catalog.text check (evil.f(value::pg_catalog."char"));
           set search_path = evil, pg_catalog"""
    )
    for arguments in ("related_to => 'no_such'", "activities => '{no_such.at via id}', period => '1 day'"):
        with pytest.raises(Exception, match="does not exist") as error:
            theirs.execute(f"select grace.add_rule('x', target => 'evil.t', {arguments})".encode())
        assert error.value.sqlstate == "42P01"  # type: ignore[attr-defined]
    theirs.close()


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
