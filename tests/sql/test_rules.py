"""Rules: what may be one, how they change, what they mean in any session, and what becomes of them when roles go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.ruling import add_rule, failures, last_run, refused, run


@pytest.fixture
def crm(conn: Connection) -> Connection:
    conn.execute(
        rb"""
        create schema crm;
        create table crm.lead (
          id int primary key, status text, created_at timestamptz default now() - interval '2 years', n int, made date
        );
        create table crm.mail (
          id int primary key, lead_id int references crm.lead on delete cascade, other_id int references crm.lead,
          sent_at timestamptz, subject text
        );
        create table crm.call (id int primary key, lead_id int references crm.lead on delete cascade, at timestamptz);
        create table crm.loose (id int primary key);
        create table crm.keyless (id int);
        create schema crm2;
        create table crm2.lead (id int primary key, lead_id int references crm.lead, at timestamptz);
        insert into crm.lead (id, status, n) select i, 'x\y', i from generate_series(1, 10) i;
        select grace.protect('crm.lead');
        """
    )
    return conn


BAD = {
    "name => ''": "GR031",
    "name => null": "GR031",
    "target => null": "GR031",
    "filter => 'nope'": "GR027",
    "target => 'crm.loose'": "GR001",
    "target => 'crm.keyless'": "GR031",
    "action => 'shred'": "GR031",
    "action => null": "GR031",
    "action => 'keep'": "GR031",
    "action => 'keep', starts => 'made', period => '1 year', schedule => '@daily'": "GR031",
    "predicate => 'nope = 1'": "GR022",
    "predicate => ''": "GR022",
    "predicate => 'true; delete from crm.lead'": "GR022",
    "predicate => 'random() < 2'": "GR022",
    "starts => 'made'": "GR031",
    "period => '1 day'": "GR031",
    "starts => 'nope', period => '1 day'": "GR031",
    "starts => 'n', period => '1 day'": "GR031",
    "starts => 'made', period => '-1 day'": "GR031",
    "final_by_due => true": "GR031",
    "final_by_due => null": "GR031",
    "notice => '0'": "GR031",
    "notice => '-1 day'": "GR031",
    "max_rows => -1": "GR031",
    "max_fraction => 2": "GR031",
    "max_fraction => 'NaN'": "GR031",
    "max_fraction => null": "GR031",
    "batch_size => 0": "GR031",
    "batch_size => 2000000000": "GR031",
    "batch_size => null": "GR031",
    "pause => '-1 s'": "GR031",
    "pause => null": "GR031",
    "max_duration => '0'": "GR031",
    "four_eyes => null": "GR031",
    "columns => '{nope}'": "42703",
    "schedule => 'sometimes'": "GR024",
    "schedule => '0 0 30 2 *'": "GR024",
    "run_as => 'nobody who is there'": "42704",
    "related_to => 'crm.nope'": "42P01",
    "related_to => 'crm.lead'": "GR031",
    "related_to => 'crm.mail'": "GR031",
    "related_to => '\"'": "GR031",
    "related_to => ''": "GR031",
    "period => '1 day', activities => '{\"\"}'": "GR031",
    "period => '1 day', activities => '{null}'": "GR031",
    "period => '1 day', activities => '{sent_at}'": "GR031",
    "period => '1 day', activities => '{crm.mail.sent_at}'": "GR031",
    "period => '1 day', activities => '{crm.mail.nope via lead_id}'": "GR031",
    "period => '1 day', activities => '{crm.mail.sent_at via nope}'": "GR031",
    "period => '1 day', activities => '{crm.mail.subject via lead_id}'": "GR031",
    "period => '1 day', activities => '{crm.nope.sent_at via lead_id}'": "42P01",
    "period => '1 day', activities => '{crm2.lead.at via lead_id}'": "GR031",
    "period => '1 day', activities => '{crm.mail.sent_at via lead_id where nope}'": "GR022",
}


def test_what_is_no_rule_is_refused_with_the_reason_before_anything_has_changed(crm: Connection) -> None:
    before = rows(crm, "select count(*) from pg_proc")
    for arguments, code in BAD.items():
        rest = ", ".join(
            default
            for default in ("name => 'r'", "target => 'crm.lead'")
            if default.split()[0] not in arguments.replace("filter", "target").split()
        )
        refused(crm, code, f"select grace.add_rule({', '.join(filter(None, (arguments, rest)))})")
    assert rows(crm, "select count(*) from pg_proc") == before
    assert rows(crm, "select name from grace.rules") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ('{"max_fraction": null}', "GR031"),
        ('{"batch_size": "many"}', "GR031"),
        ('{"action": null}', "GR031"),
        ('{"name": "other"}', "42710"),
        ('{"name": ""}', "GR031"),
        ("[]", "GR031"),
        (None, "GR031"),
        ('{"columns": "name"}', "GR031"),
        ('{"activities": "x"}', "GR031"),
        ('{"run_as": null}', "42704"),
        ('{"period": "long"}', "GR031"),
        ('{"schedule": "sometimes"}', "GR024"),
        ('{"related_to": 5}', "GR031"),
        ('{"zone": "UTC"}', "GR031"),
        ('{"colour": "red"}', "GR031"),
        ('{"period": null}', "GR031"),
    ],
)
def test_a_change_that_makes_no_rule_is_refused(crm: Connection, changes: str | None, code: str) -> None:
    add_rule(crm, "r", target="crm.lead", starts="made", period="1 year", columns=["status"])
    add_rule(crm, "other", target="crm.lead")
    refused(crm, code, "select grace.alter_rule('r', %s)", changes)


def test_what_is_not_changed_stays(crm: Connection) -> None:
    add_rule(
        crm, "r", target="crm.lead", starts="made", period="1 year", schedule="@monthly", max_rows=5, notice="14 days"
    )
    before = rows(crm, "select * from grace.rules")[0]
    crm.execute("""select grace.alter_rule('r', '{"columns": null, "activities": null, "name": "r"}')""")
    after = rows(crm, "select * from grace.rules")[0]
    assert [one for one, other in zip(before, after, strict=True) if one != other] == [before[-3]]  # changed_at
    crm.execute("""select grace.alter_rule('r', '{"name": "R 2", "starts": null, "period": null, "notice": null}')""")
    assert rows(crm, "select name, starts, period, notice, schedule, max_rows from grace.rules") == [
        ("R 2", None, None, None, "@monthly", 5)
    ]
    refused(crm, "GR027", "select grace.alter_rule('r', '{}')")
    refused(crm, "GR027", "select grace.drop_rule('r')")
    refused(crm, "GR027", "select grace.enable_rule('r')")


@pytest.fixture
def strange_role(crm: Connection) -> Iterator[str]:
    name = 'Max Müller\'s "50%" \\ role'
    quoted = value(crm, "select quote_ident(%s)", name)
    crm.execute(f"create role {quoted}".encode())
    yield name
    crm.execute(f"drop owned by {quoted} cascade; drop role {quoted}".encode())


def test_names_may_be_anything(crm: Connection, strange_role: str) -> None:
    odd = "Ä \"b\" 'c' 50% \\d $1"
    quoted = '"' + odd.replace('"', '""') + '"'
    crm.execute(
        f"""
        create schema {quoted};
        create table {quoted}.{quoted} ({quoted} text primary key, "start at" date default now() - interval '3 years', q int);
        create table {quoted}.q (k int primary key, {quoted} text references {quoted}.{quoted} on delete cascade, at date);
        """.encode()
    )
    table = f"{quoted}.{quoted}"
    crm.execute(b"insert into " + table.encode() + b" select E'it''s \\\\ ' || n || '%' from generate_series(1, 5) n")
    crm.execute("select grace.protect(%s)", (table,))
    role = value(crm, "select quote_ident(%s)", strange_role)
    crm.execute(
        f"grant usage on schema {quoted} to {role}; grant select, update, delete on {table}, {quoted}.q to {role}".encode()
    )
    add_rule(
        crm,
        odd,
        target=table,
        predicate=f"{quoted} like 'it''s \\\\ %' and {quoted} <> '%s'",
        starts='"start at"',
        period="1 year",
        activities=[f"{quoted}.q.at via {quoted}"],
        run_as=strange_role,
        columns=[odd, "q"],
        batch_size=2,
    )
    key = {odd: "it's \\ 3%"}
    assert value(crm, "select count(*) from grace.planned(%s)", table) == 5
    assert rows(
        crm, "select record_key from grace.planned(%s, jsonb_build_object(%s::text, %s::text))", table, odd, key[odd]
    ) == [(key,)]
    crm.execute("select grace.exempt(%s, jsonb_build_object(%s::text, %s::text), 'why 100%%')", (odd, odd, key[odd]))
    assert value(crm, "select sample -> 0 -> 'record' ->> %s from grace.preview(%s)", odd, odd) == "it's \\ 1%"
    assert run(crm, odd) == ("done", 4)
    assert failures(crm) == []
    assert rows(crm, f"select {quoted} from {table}") == [(key[odd],)]
    assert {row[0] for row in rows(crm, "select deleted_by::text from grace.deletions")} == {strange_role}
    crm.execute("select grace.alter_rule(%s, jsonb_build_object('name', %s::text))", (odd, odd + "2"))
    crm.execute("select grace.enable_rule(%s, false)", (odd + "2",))
    crm.execute("select grace.drop_rule(%s)", (odd + "2",))


@pytest.mark.parametrize("name", ["q", "k", "pick", "gone", "grace 1", "grace 2"])
def test_a_table_may_be_called_like_what_is_in_our_statements(crm: Connection, name: str) -> None:
    crm.execute(f'create table crm."{name}" (id int primary key, key int, start date, due date)'.encode())
    crm.execute(f"insert into crm.\"{name}\" select n, n, '2020-01-01' from generate_series(1, 5) n".encode())
    crm.execute("select grace.protect(format('crm.%%I', %s::text))", (name,))
    if name.startswith("grace "):
        refused(crm, "GR031", f"select grace.add_rule('r', target => 'crm.\"{name}\"')")
        return
    add_rule(crm, target=f'crm."{name}"', starts="start", period="1 year", predicate="key < 5")
    assert value(crm, "select count(*) from grace.planned()") == 4
    assert run(crm) == ("done", 4)


SESSIONS = [
    "set standard_conforming_strings = off; set backslash_quote = on",
    "set datestyle = 'German'; set timezone = 'Asia/Kolkata'; set intervalstyle = 'sql_standard'",
    "set datestyle = 'SQL, DMY'; set timezone = 'Africa/Lagos'; set intervalstyle = 'iso_8601'; set extra_float_digits = -5",
    "set datestyle = 'Postgres'; set timezone = '<+02>-02'; set intervalstyle = 'postgres_verbose'; set bytea_output = 'escape'",
]


@pytest.mark.parametrize("settings", SESSIONS)
@pytest.mark.parametrize("odd_one", ["author", "runner"])
def test_a_rule_means_the_same_in_every_session(crm: Connection, db: Database, settings: str, odd_one: str) -> None:
    """Written in one and run in another session."""
    crm.execute(
        "update crm.lead set made = date '2020-02-01' + id, created_at = '2019-01-31 12:00+00', status = E'x\\\\''y'"
    )
    odd = db.connect()
    odd.execute(settings.encode())
    author, runner = (odd, crm) if odd_one == "author" else (crm, odd)
    zone = value(author, "select current_setting('timezone')")
    author.execute(
        b"select grace.add_filter('f', 'crm.lead', $$status = 'x\\''y' and made between '2020-02-02' and date '2020-02-08'"
        b" and created_at < timestamptz '2020-02-01 00:00+00' and created_at + interval '1 year 2 days 3:04:05' < now()"
        b" and id * 0.1::float8 <> 0.30000000000000004 and status ~ '^\\w\\\\'$$)"
    )
    add_rule(author, filter="f", starts="end of month of created_at", period="1 year 1 mon", activities=["crm.call.at"])
    assert value(runner, "select row_count from grace.preview('r')") == 6
    assert value(runner, "select row_count from grace.preview(filter => 'f')") == 6
    assert value(runner, "select count(*) from grace.planned('crm.lead')") == 6
    (due,) = {row[0] for row in rows(crm, "select due from grace.planned('crm.lead')")}
    assert due == value(crm, "select timestamp '2020-03-01 00:00' at time zone %s", zone)
    assert value(crm, "select zone from grace.rules") == zone
    runner.execute("call grace.run('r')")
    assert last_run(crm) == ("done", 6)
    assert [row[0] for row in rows(crm, "select id from crm.lead order by 1")] == [3, 8, 9, 10]


def test_the_callers_search_path_is_no_way_in(crm: Connection, db: Database) -> None:
    evil = db.connect()
    evil.execute(
        b"create schema evil;"
        b"create function evil.same(text, text) returns boolean language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.same(jsonb, jsonb) returns boolean language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.same(bigint, bigint) returns boolean language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create operator evil.= (leftarg = text, rightarg = text, function = evil.same);"
        b"create operator evil.= (leftarg = jsonb, rightarg = jsonb, function = evil.same);"
        b"create operator evil.> (leftarg = bigint, rightarg = bigint, function = evil.same);"
        b"create operator evil.<= (leftarg = bigint, rightarg = bigint, function = evil.same);"
        b"create function evil.format(text) returns text language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.count() returns bigint language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.now() returns timestamptz language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.jsonb_build_object(text, int) returns jsonb language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.quote_literal(text) returns text language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create function evil.btrim(text) returns text language plpgsql as $$ begin raise exception 'caught'; end $$;"
        b"create table evil.rule (id int); create table evil.pg_trigger (id int)"
    )
    evil.execute("set search_path = evil, pg_catalog, crm")
    evil.execute("select * from grace.add_filter('f', 'crm.lead', 'id <= 5')")
    add_rule(evil, filter="f", starts="created_at", period="1 month", schedule="@monthly")
    evil.execute("""select grace.alter_rule('r', '{"max_rows": 100}')""")
    evil.execute("select row_count from grace.preview('r')")
    evil.execute("select row_count from grace.preview(filter => 'f')")
    evil.execute("select * from grace.planned('crm.lead', '{\"id\": 1}')")
    evil.execute("select grace.exempt('r', '{\"id\": 1}', 'why')")
    evil.execute("call grace.run('r', expect => 5)")
    evil.execute("select grace.enable_rule('r', false)")
    evil.execute("select grace.drop_rule('r')")
    assert last_run(crm) == ("done", 4)


def test_a_role_that_nothing_runs_as_any_more_can_be_dropped(crm: Connection) -> None:
    crm.execute(
        "create role passing; grant usage on schema crm to passing; grant select, delete on crm.lead to passing"
    )
    add_rule(crm, target="crm.lead", predicate="id = 1", run_as="passing")
    crm.execute("select grace.alter_rule('r', '{\"run_as\": \"postgres\"}')")
    crm.execute("revoke all on schema crm from passing; revoke all on crm.lead from passing; drop role passing")
    crm.execute(
        "create role passing; grant usage on schema crm to passing; grant select, delete on crm.lead to passing"
    )
    add_rule(crm, "s", target="crm.lead", run_as="passing", predicate="id = 2")
    crm.execute("drop owned by passing; drop role passing")
    assert value(crm, "select problem from grace.rules where name = 's'") == "the role that it runs as is gone"
    assert run(crm, "s") == ("failed", 0)
    assert value(crm, "select bool_or(finding ^@ 'it stands still') from grace.doctor() where object = 's'")
    crm.execute("select grace.enable_rule('s', false)")
    crm.execute("select grace.alter_rule('s', '{\"run_as\": \"postgres\"}'); select grace.enable_rule('s')")
    assert run(crm, "s") == ("done", 1)
    assert value(crm, "select count(*) from grace_internal.runner") == 1


def test_another_foreign_key_does_not_upset_the_doctor(crm: Connection) -> None:
    add_rule(crm, target="crm.lead", activities=["crm.call.at"], period="1 year")
    crm.execute("alter table crm.call add other_id int references crm.lead")
    crm.execute("select * from grace.doctor()")
    assert value(crm, "select problem from grace.rules") is None


def test_who_is_no_member_of_a_role_has_nothing_run_as_it(crm: Connection, db: Database, role: Any) -> None:
    admin, other, weak = role("dpo"), role("cleaner"), role("weak")
    crm.execute(f"grant grace_admin to {admin}; grant usage on schema crm to {other}, {admin}, {weak}".encode())
    crm.execute(f"grant select, delete on crm.lead to {other}; grant select on crm.lead to {weak}".encode())
    add_rule(crm, "theirs", target="crm.lead", run_as=other)
    session = db.connect(user=admin)
    call = "select grace.add_rule('r', target => 'crm.lead', run_as => %s)"
    refused(session, "42501", call, other)
    refused(session, "42501", call, "postgres")
    refused(session, "42501", "select grace.alter_rule('theirs', '{\"max_rows\": 1}')")
    refused(session, "42501", f"select grace.alter_rule('theirs', '{{\"run_as\": \"{admin}\"}}')")
    refused(session, "42501", "select grace.drop_rule('theirs')")
    refused(session, "42501", "select grace.enable_rule('theirs')")
    session.execute("select grace.enable_rule('theirs', false)")
    refused(crm, "42501", call, weak)
    crm.execute(f"grant {other} to {admin}".encode())
    session.execute("select grace.alter_rule('theirs', '{\"max_rows\": 1}'); select grace.enable_rule('theirs')")
    session.execute("select grace.drop_rule('theirs')")


@pytest.mark.parametrize("group", ["grace_operator", "grace_auditor", None])
def test_only_administrators_write_and_run_rules(crm: Connection, db: Database, role: Any, group: str | None) -> None:
    other = role("other")
    if group:
        crm.execute(f"grant {group} to {other}".encode())
    add_rule(crm, target="crm.lead", predicate="id = 1")
    session = db.connect(user=other)
    for statement in (
        "select grace.add_rule('s', target => 'crm.lead')",
        "select grace.alter_rule('r', '{}')",
        "select grace.drop_rule('r')",
        "select grace.enable_rule('r', false)",
        "select grace.announce('r')",
        "select grace.preview('r')",
        "call grace.run('r')",
        "select grace._save_rule('{}', '', 'r')",
        "select grace._run_begin('r', true, null, null)",
        "select grace._run_batch(1, null)",
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            session.execute(statement.encode())
        assert caught.value.sqlstate == "42501", caught.value  # type: ignore[attr-defined]
    assert value(crm, "select count(*) from crm.lead") == 10
