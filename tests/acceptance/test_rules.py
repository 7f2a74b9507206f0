"""The two vendors' stories, step by step, with pg_cron really firing: ameax's saved filter, 1CRM's deadlines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Database, rows, value
from tests.server import CRON_SETTINGS, Server

from pg_grace.cluster import Cluster
from pg_grace.connection import Connection

CRM = Path(__file__).parents[2] / "examples" / "crm"
EVERY_MINUTE = "* * * * *"
TWO_WAY = (
    "greatest(l.created_at, (select max(sent_at) from crm.email where lead_id = l.id),"
    " (select max(happened_at) from crm.activity where lead_id = l.id))"
)


@pytest.fixture(scope="module")
def crm() -> Iterator[Database]:
    """The CRM in the database that pg_cron works from, as if its data had been entered up to today."""
    with Cluster({"fsync": "off", **CRON_SETTINGS}) as cluster:
        database = Database(Server("local cluster", cluster.conninfo()), "postgres")
        conn = database.connect()
        for name in ("schema.sql", "data.sql", "cleanup.sql"):
            conn.execute((CRM / name).read_text(encoding="utf-8").encode())
        conn.execute(
            """
            update crm.lead set created_at = created_at + age, converted_at = converted_at + age
            from (select now() - '2026-11-01 12:00+01' as age) as a;
            update crm.email set sent_at = sent_at + (now() - '2026-11-01 12:00+01');
            update crm.activity set happened_at = happened_at + (now() - '2026-11-01 12:00+01');
            create extension pg_cron;
            """
        )
        database.cli("install")
        database.cli("protect", "crm.lead")
        yield database
        for connection in database.connections:
            connection.close()


def wait_for_run(conn: Connection, rule: str, after: int) -> dict[str, Any]:
    """Return the first run of a rule that began after another one and has ended; nobody calls it but pg_cron."""
    deadline = time.monotonic() + 130
    while time.monotonic() < deadline:
        found = conn.execute(
            "select * from grace.runs where kind = 'rule' and rule = %s and id > %s and status <> 'running' order by id",
            (rule, after),
        ).fetchone()
        if found is not None:
            return found
        time.sleep(0.3)
    raise AssertionError(rows(conn, "select status, return_message from cron.job_run_details order by runid desc"))


def last_run(conn: Connection) -> int:
    return int(value(conn, "select coalesce(max(id), 0) from grace.runs"))


def keys(conn: Connection, query: str) -> set[int]:
    return {row[0] for row in rows(conn, query)}


def test_kein_interesse_goes_every_month_as_the_branch_offices_role(crm: Database) -> None:
    """ameax: criteria saved under a name, previewed, then run monthly, unattended, as a chosen user."""
    conn = crm.connect()
    no_interest = "select id from crm.lead where status = 'no_interest'"
    in_graz = keys(conn, f"{no_interest} and country = 'AT'")
    elsewhere = keys(conn, f"{no_interest} and country <> 'AT'")
    others = keys(conn, "select id from crm.lead where status <> 'no_interest'")
    assert in_graz
    assert elsewhere

    shown = crm.cli(
        "filter",
        "add",
        "Kein Interesse",
        "--table",
        "crm.lead",
        "--is",
        "status=no_interest",
        "--columns",
        "last_name,town",
    ).output
    assert "lead.status = 'no_interest'" in shown
    assert f"{len(in_graz | elsewhere)}" in shown

    preview = json.loads(crm.cli("--format", "json", "filter", "preview", "Kein Interesse").stdout)
    assert preview["row_count"] == len(in_graz | elsewhere)
    assert {"last_name", "town"} == set(preview["sample"][0]["record"])
    assert "crm.email" in {one["table"] for one in preview["cascades"]}
    assert keys(conn, no_interest) == in_graz | elsewhere

    said = crm.cli(
        "rule", "add", "Kein Interesse", "--filter", "Kein Interesse", "--schedule", "monthly", "--run-as", "crm_cleanup",
        "--max-fraction", "50%",
    ).output  # fmt: skip
    assert "crm_cleanup" in said
    preview = json.loads(crm.cli("--format", "json", "rule", "preview", "Kein Interesse").stdout)
    assert (preview["row_count"], preview["run_as"]) == (len(in_graz), "crm_cleanup")
    assert rows(conn, "select schedule, command, username from cron.job where jobname like 'pg_grace: rule%'") == [
        ("0 3 1 * *", "call grace.run('Kein Interesse')", "postgres")
    ]

    before = last_run(conn)
    crm.cli("rule", "alter", "Kein Interesse", "--schedule", EVERY_MINUTE)
    run = wait_for_run(conn, "Kein Interesse", before)
    assert (run["status"], run["row_count"], run["details"]["as"]) == ("done", len(in_graz), "crm_cleanup")
    crm.cli("rule", "alter", "Kein Interesse", "--schedule", "monthly")

    assert keys(conn, no_interest) == elsewhere
    assert keys(conn, "select id from crm.lead where status <> 'no_interest'") == others
    assert rows(
        conn,
        "select distinct deleted_by, reason from grace.deletions where target = 'crm.lead'::regclass",
    ) == [("crm_cleanup", f"rule 'Kein Interesse', run {run['id']}")]
    shown = crm.cli("run", "show", str(run["id"])).output
    assert "crm_cleanup" in shown
    assert "no_interest" in shown

    deletion = value(conn, "select max(id) from grace.deletions where target = 'crm.lead'::regclass")
    crm.cli("restore", "--deletion", str(deletion), "--yes")
    assert keys(conn, no_interest) == in_graz | elsewhere
    crm.cli("rule", "disable", "Kein Interesse")
    assert rows(conn, "select from cron.job where jobname like 'pg_grace: rule%'") == []


def test_leads_without_contact_for_a_year_go_and_their_mails_before_them(crm: Database) -> None:
    """1CRM: a year without contact in either direction, visible, can be taken off, e-mails earlier, never twice."""
    conn = crm.connect()
    due = f"from crm.lead l where l.converted_at is null and {TWO_WAY} + interval '12 months' <= now()"
    leads = keys(conn, f"select l.id {due}")
    old_mails = "from crm.email where lead_id is not null and sent_at + interval '6 months' <= now()"
    mails = keys(conn, f"select id {old_mails}")
    other_mails = keys(conn, "select id from crm.email where lead_id is null")
    assert len(leads) > 3
    assert mails

    crm.cli(
        "rule", "add", "old leads", "--table", "crm.lead", "--where", "converted_at is null", "--starts", "created_at",
        "--activity", "crm.email.sent_at VIA email.lead_id", "--activity", "crm.activity.happened_at VIA activity.lead_id",
        "--period", "12 months", "--run-as", "crm_retention", "--max-fraction", "60%", "--columns", "last_name,town",
    )  # fmt: skip
    crm.cli(
        "rule", "add", "old lead mails", "--table", "crm.email", "--related-to", "crm.lead", "--starts", "sent_at",
        "--period", "6 months", "--run-as", "crm_retention", "--max-fraction", "1",
    )  # fmt: skip
    crm.cli("rule", "alter", "old leads", "--schedule", "daily")

    planned = json.loads(crm.cli("--format", "json", "rule", "planned", "--rule", "old leads", "--within", "0d").stdout)
    assert {one["key"]["id"] for one in planned} == leads
    assert all(one["acts_at"] for one in planned)

    first, second, *_ = sorted(leads)
    seen = json.loads(crm.cli("--format", "json", "rule", "planned", "--table", "crm.lead", "--key", str(first)).stdout)
    assert [one["state"] for one in seen] == ["planned"]

    crm.cli("exempt", "add", "old leads", "--key", str(first), "--reason", "calls again after the season")
    seen = json.loads(crm.cli("--format", "json", "rule", "planned", "--table", "crm.lead", "--key", str(first)).stdout)
    assert [(one["state"], one["reason"]) for one in seen] == [("exempt", "calls again after the season")]

    conn.execute(
        "insert into crm.email (message_id, direction, lead_id, sender, recipients, subject, body, sent_at)"
        " values ('new@mail', 'incoming', %s, 'a@example.org', '{b@example.org}', 'Angebot?', 'Guten Tag', now())",
        (second,),
    )
    (seen,) = json.loads(
        crm.cli("--format", "json", "rule", "planned", "--table", "crm.lead", "--key", str(second)).stdout
    )
    assert seen["due"] > value(conn, "select to_jsonb(now() + interval '11 months') #>> '{}'")

    before = last_run(conn)
    crm.cli("rule", "alter", "old leads", "--schedule", EVERY_MINUTE)
    crm.cli("rule", "alter", "old lead mails", "--schedule", EVERY_MINUTE)
    for_leads = wait_for_run(conn, "old leads", before)
    for_mails = wait_for_run(conn, "old lead mails", before)
    assert (for_leads["status"], for_mails["status"]) == ("done", "done")

    assert keys(conn, "select id from crm.lead") & leads == {first, second}
    assert keys(conn, f"select id {old_mails}") == set()
    assert keys(conn, "select id from crm.email where lead_id is null") == other_mails
    assert value(conn, "select count(*) from crm.email where lead_id = %s", second) >= 1

    gone = rows(
        conn,
        "select t, id, count(*) from (select 'lead' as t, id from grace_buffer.lead union all"
        " select 'email', id from grace_buffer.email) as b group by 1, 2 having count(*) > 1",
    )
    assert gone == [], "captured twice"
    assert rows(conn, "select from grace.runs where kind = 'rule' and status not in ('done', 'running')") == []

    (exemption,) = json.loads(crm.cli("--format", "json", "exempt", "list").stdout)
    crm.cli("exempt", "drop", str(exemption["id"]), "--yes")
    again = wait_for_run(conn, "old leads", last_run(conn))
    assert (again["status"], again["row_count"]) == ("done", 1), "the one that was exempt, and nothing twice"
    assert keys(conn, "select id from crm.lead") & leads == {second}
    assert rows(conn, "select reason, created_by, dropped_by from grace.exemptions") == [
        ("calls again after the season", "postgres", "postgres")
    ]
