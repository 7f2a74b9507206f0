"""doctor: each finding appears when, and only when, its cause is there; its hint cures it, and sync() what is fixable."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pg_grace.cluster import Cluster
from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import CRON_SETTINGS, Server

SHOP = """
create table customer (id int primary key, name text);
create table invoice (id int primary key, customer_id int references customer on delete cascade, note text);
create index on invoice (customer_id);
create table event (id int, part int, customer_id int references customer on delete cascade, primary key (id, part))
partition by list (part);
create table event1 partition of event for values in (1);
create table event2 partition of event for values in (2);
create index on event (customer_id);
create table "Odd ""Name" (id int primary key, file oid);
create table other (id int primary key, name text);
insert into customer values (1, 'one'), (2, 'two');
insert into invoice values (10, 1), (20, 2);
insert into event values (1, 1, 1), (2, 2, 2);
"""
PROTECT = """select grace.protect('customer'); select grace.protect('"Odd ""Name"', files => '{file}')"""
ODD = 'public."Odd ""Name"'
FOLLOW_OFF = "alter event trigger grace_follow_ddl disable; "
FOLLOW_ON = "; alter event trigger grace_follow_ddl enable"
TOMORROW = "(clock_timestamp() at time zone 'UTC')::date + "


@dataclass(frozen=True)
class Finding:
    """One row of grace.doctor()."""

    severity: str
    subject: str
    object: str | None
    finding: str
    hint: str
    fixable: bool

    @property
    def where(self) -> tuple[str, str | None]:
        return self.subject, self.object


def findings(conn: Connection) -> list[Finding]:
    return [Finding(*row) for row in rows(conn, "select * from grace.doctor()")]


def problems(conn: Connection) -> list[Finding]:
    return [finding for finding in findings(conn) if finding.severity == "problem"]


def run(conn: Connection, statements: str) -> None:
    conn.execute(statements.encode())


def statements_of(hint: str) -> list[str]:
    """The statements that a hint offers, one as good as the other."""
    return re.findall(r"(?:^|: )((?:select|revoke|create|alter|grant) [^;]*;)", hint)


def prepare(database: Database, protect: str = PROTECT) -> Connection:
    conn = database.connect()
    run(conn, SHOP)
    run(conn, protect)
    conn.execute("call grace.purge()")
    return conn


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[str]:
    """A role without any right on pg_grace; not one per test, for it could not be dropped before what has to be rolled back."""
    name = f"doctors_app_{os.getpid()}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login")
        yield name
        admin.execute(f"drop role {name}")


@pytest.fixture(scope="module")
def healthy(server: Server, template: str, app: str) -> Iterator[Connection]:  # noqa: ARG001 - app outlives it
    """Everything is as it should be; what tests change is rolled back."""
    with _new_database(server, template) as database:
        yield prepare(database)


@pytest.fixture
def sound(healthy: Connection) -> Iterator[Connection]:
    with healthy.transaction(force_rollback=True):
        yield healthy
    assert problems(healthy) == []


@pytest.fixture
def own(db: Database) -> Connection:
    """For what can't run in a transaction."""
    return prepare(db, "select grace.protect('customer')")


def test_a_healthy_installation_has_no_problem(healthy: Connection) -> None:
    (schedule,) = findings(healthy)
    assert (schedule.severity, schedule.subject, schedule.fixable) == ("note", "schedule", False)
    assert 'pg_cron works from database "postgres"' in schedule.hint


def test_an_empty_installation_misses_the_schedule_only(conn: Connection) -> None:
    (schedule,) = findings(conn)
    assert (schedule.severity, schedule.subject) == ("problem", "schedule")
    conn.execute("call grace.purge()")
    assert problems(conn) == []


def test_daily_work_makes_no_problem(sound: Connection) -> None:
    for statement in (
        "delete from customer where id = 1",
        "select grace.restore('customer', keys => '1')",
        "alter table customer add column city text; alter table invoice drop column note",
        "delete from customer where id = 2",
        "create table event3 partition of event for values in (3); alter table event detach partition event2",
        "create table line (id int, invoice_id int references invoice on delete cascade)",
        "alter table customer rename to client; create schema app; alter table client set schema app",
        "select grace.set_retention('invoice', '1 day')",
        "truncate invoice, line",
        "create table vip (level int) inherits (other)",
    ):
        run(sound, statement)
        assert problems(sound) == [], statement


# What sync() does away with.
FIXABLE: dict[str, tuple[str, list[tuple[str, str | None, str]]]] = {
    "a disabled trigger": (
        "alter table customer disable trigger zz_grace_delete",
        [("triggers", "public.customer", "is disabled")],
    ),
    "one that fires at the origin only": (
        "alter table invoice enable trigger zz_grace_truncate",
        [("triggers", "public.invoice", "does not fire always")],
    ),
    "one that fires on replicas only": (
        "alter table invoice enable replica trigger zz_grace_delete",
        [("triggers", "public.invoice", "does not fire always")],
    ),
    "a dropped trigger": (
        "drop trigger zz_grace_delete on invoice",
        [("triggers", "public.invoice", "has no capture trigger: deletes are lost")],
    ),
    "both dropped": (
        "drop trigger zz_grace_delete on invoice; drop trigger zz_grace_truncate on invoice",
        [("triggers", "public.invoice", "has no capture trigger")],
    ),
    "a trigger of another kind": (
        "create or replace trigger zz_grace_delete after delete on customer for each statement"
        " execute function grace_internal.refuse_nothing()",
        [("triggers", "public.customer", "")],
    ),
    "disabled on a partition": (
        "alter table event1 disable trigger zz_grace_delete",
        [("triggers", "public.event", "is disabled")],
    ),
    "dropped from a partition": (
        "drop trigger zz_grace_delete on event2",
        [("triggers", "public.event", "or a partition of it, has no capture trigger")],
    ),
    "disabled on two tables": (
        "alter table customer disable trigger zz_grace_delete; alter table event disable trigger zz_grace_truncate",
        [("triggers", "public.customer", "is disabled"), ("triggers", "public.event", "is disabled")],
    ),
    "all triggers of a table with files": (
        'alter table "Odd ""Name" disable trigger all',
        [("files", ODD, "large objects"), ("triggers", ODD, "is disabled")],
    ),
    "a new partition that was not noticed": (
        FOLLOW_OFF + "create table event3 partition of event for values in (3)" + FOLLOW_ON,
        [("triggers", "public.event", "has no capture trigger")],
    ),
    "new columns that were not noticed": (
        FOLLOW_OFF + "alter table customer add column city text, drop column name" + FOLLOW_ON,
        [("columns", "public.customer", "have changed")],
    ),
    "a changed type that was not noticed": (
        FOLLOW_OFF + "alter table event alter column customer_id type bigint" + FOLLOW_ON,
        [("columns", "public.event", "have changed")],
    ),
    "a new cascade that was not noticed": (
        FOLLOW_OFF + "create table line (id int, invoice_id int references invoice on delete cascade)" + FOLLOW_ON,
        [("cascade", "public.line", "come to lose rows with public.invoice")],
    ),
    "a new inheritance that was not noticed": (
        FOLLOW_OFF + "create table vip () inherits (customer)" + FOLLOW_ON,
        [
            ("cascade", "public.customer", "deletes from there fail with GR019"),
            ("cascade", "public.vip", "to inherit from it"),
        ],
    ),
    "a table with a new name that was not noticed": (
        FOLLOW_OFF
        + "alter table customer rename to client; alter table client disable trigger zz_grace_delete"
        + FOLLOW_ON,
        [("triggers", "public.client", "is disabled")],
    ),
    "an event trigger that is disabled": (
        "alter event trigger grace_follow_ddl disable",
        [("event triggers", None, "missing or disabled")],
    ),
    "an event trigger that was dropped": (
        "drop event trigger grace_refuse_drop",
        [("event triggers", None, "missing or disabled")],
    ),
    "no event trigger at all": (
        "drop event trigger grace_follow_ddl; drop event trigger grace_refuse_drop",
        [("event triggers", None, "missing or disabled")],
    ),
    **{
        f"no partition in {days} days": (
            "do $$ begin execute format('drop table grace_internal.%I',"
            f" 'b1_' || to_char({TOMORROW}{days}, 'YYYYMMDD')); end $$",
            [("partitions", "public.customer", "lacks a partition for one of the next three days")],
        )
        for days in range(4)
    },
    "no partitions at all": (
        "do $$ declare v text; begin for v in select name from grace_internal.leaves(4) where upper_bound is not null"
        " loop execute format('drop table grace_internal.%I', v); end loop; end $$",
        [("partitions", ODD, "lacks a partition"), ("partitions", ODD, "lacks a partition")],
    ),
}


@pytest.mark.parametrize("cause", FIXABLE)
def test_what_is_fixable_is_found_and_goes_by_sync(sound: Connection, cause: str) -> None:
    statements, expected = FIXABLE[cause]
    if "refuse_nothing" in statements:
        run(
            sound,
            "create function grace_internal.refuse_nothing() returns trigger language plpgsql as"
            " $$ begin return null; end $$",
        )
    run(sound, statements)
    found = problems(sound)
    assert sorted(finding.where for finding in found) == sorted(
        ((subject, concerned) for subject, concerned, _ in expected), key=lambda where: (where[0], where[1] or "")
    )
    for finding in found:
        assert finding.fixable
        assert "doctor --fix" in finding.hint
        assert any(
            words in finding.finding for subject, concerned, words in expected if finding.where == (subject, concerned)
        )
    sound.execute("select grace.sync()")
    assert problems(sound) == []


@pytest.mark.parametrize(
    "cause", [cause for cause, (_, expected) in FIXABLE.items() if expected[0][0] in ("triggers", "files", "cascade")]
)
def test_the_hint_alone_cures_a_table(sound: Connection, cause: str) -> None:
    statements, _ = FIXABLE[cause]
    if "refuse_nothing" in statements:
        statements = "drop trigger zz_grace_delete on customer"
    run(sound, statements)
    found = problems(sound)
    assert found
    for finding in found:
        (statement,) = [part for part in statements_of(finding.hint) if "grace.sync" in part]
        run(sound, statement)
    assert problems(sound) == []


def test_what_was_cured_captures_again(sound: Connection) -> None:
    run(
        sound,
        "alter table event1 disable trigger zz_grace_delete; alter table customer disable trigger zz_grace_delete",
    )
    sound.execute("select grace.sync()")
    sound.execute("delete from event1")
    sound.execute("delete from customer where id = 2")
    assert rows(sound, "select target::text, row_count from grace.deletions order by 1") == [
        ("customer", 1),
        ("event", 2),
        ("invoice", 1),
    ]


# What somebody has to decide: the hint's statements, each of them a cure.
DECIDE: dict[str, tuple[str, list[tuple[str, str | None, str]]]] = {
    "a cascade into a table that was unprotected": (
        "select grace.unprotect('invoice')",
        [("cascade", "public.invoice", "cascades into it, and those rows are lost")],
    ),
    "reading the buffer": (
        "grant select on grace_buffer.customer to {app}",
        [("rights", "grace_buffer.customer", "{app} has SELECT on it")],
    ),
    "changing the buffer": (
        "grant insert, update, delete on grace_buffer.customer to {app}",
        [("rights", "grace_buffer.customer", "{app} has DELETE, INSERT, UPDATE on it")],
    ),
    "changing the buffer as an operator": (
        "grant delete on grace_buffer.customer to grace_operator",
        [("rights", "grace_buffer.customer", "grace_operator has DELETE on it")],
    ),
    "changing one column": (
        "grant update (name), select (id) on grace_buffer.customer to {app}",
        [("rights", "grace_buffer.customer", "{app} has SELECT, UPDATE on it")],
    ),
    "everybody": (
        "grant insert on grace_internal.capture to public",
        [("rights", "grace_internal.capture", "PUBLIC has INSERT on it")],
    ),
    "the default partition": (
        "grant all on grace_internal.b1_default to {app}",
        [("rights", "grace_internal.b1_default", "{app} has DELETE, INSERT")],
    ),
    "the signing key": (
        "grant select on sequence grace_internal.signing_key to {app}",
        [("rights", "grace_internal.signing_key", "{app} has SELECT on it")],
    ),
    "a role with an odd name": (
        'create role "Odd ""Role"; grant select on grace_buffer.customer to "Odd ""Role"',
        [("rights", "grace_buffer.customer", 'Odd "Role has SELECT')],
    ),
    "two roles": (
        "grant select on grace_buffer.customer to {app}, public",
        [
            ("rights", "grace_buffer.customer", "{app} has SELECT"),
            ("rights", "grace_buffer.customer", "PUBLIC has SELECT"),
        ],
    ),
    "a role's setting": (
        "alter role {app} set session_replication_role = replica",
        [("session_replication_role", "{app}", "foreign keys don't cascade")],
    ),
    "a role's setting in capitals": (
        "alter role {app} set session_replication_role = 'REPLICA'",
        [("session_replication_role", "{app}", "foreign keys don't cascade")],
    ),
    "a role's setting in this database": (
        "alter role {app} in database {here} set session_replication_role = replica",
        [("session_replication_role", "{app} in {here}", "foreign keys don't cascade")],
    ),
    "a database's setting": (
        "alter database {here} set session_replication_role = replica",
        [("session_replication_role", "all roles in {here}", "foreign keys don't cascade")],
    ),
    "a setting for all": (
        "alter role all set session_replication_role = replica",
        [("session_replication_role", "all roles", "foreign keys don't cascade")],
    ),
    "a foreign key without an index": (
        "drop index invoice_customer_id_idx; insert into invoice select n, 1, 'n' from generate_series(100, 3000) n",
        [("foreign key", "public.invoice", "each row deleted from public.customer reads all of it")],
    ),
    "a partitioned table's foreign key": (
        "drop index event_customer_id_idx; insert into event select n, 1 + n % 2, 1 from generate_series(100, 4000) n",
        [("foreign key", "public.event", "no index begins with the columns of event_customer_id_fkey")],
    ),
    "one partition without an index": (
        "drop index event_customer_id_idx; create index on event1 (customer_id);"
        " insert into event select n, 1 + n % 2, 1 from generate_series(100, 4000) n",
        [("foreign key", "public.event", "reads all of it")],
    ),
    "a foreign key that is restrictive": (
        "create table booking (id int, at int, customer_id int references customer);"
        "create index on booking (id, customer_id); create index on booking (customer_id) where id > 7;"
        "create index on booking using brin (customer_id);"
        "insert into booking select n, n, 1 from generate_series(1, 3000) n",
        [("foreign key", "public.booking", "booking_customer_id_fkey")],
    ),
    "a foreign key of two columns": (
        "create table seat (event_id int, part int, x text, foreign key (event_id, part) references event);"
        "create index on seat (part, x);"
        "insert into seat select 1, 1, 'x' from generate_series(1, 3000) n",
        [("foreign key", "public.seat", "seat_event_id_part_fkey")],
    ),
}


def decide(sound: Connection, cause: str, app: str) -> list[Finding]:
    """Bring about a cause and check what is found of it."""
    names = {"app": app, "here": sound.info.dbname}
    statements, expected = DECIDE[cause]
    run(sound, statements.format(**names))
    found = problems(sound)
    assert [finding.where for finding in found] == [
        (subject, concerned and concerned.format(**names)) for subject, concerned, _ in expected
    ]
    for finding in found:
        assert not finding.fixable
        assert any(words.format(**names) in finding.finding for _, _, words in expected)
    return found


@pytest.mark.parametrize("cause", DECIDE)
def test_the_hints_of_what_somebody_has_to_decide_cure_it(sound: Connection, app: str, cause: str) -> None:
    hints = [statements_of(finding.hint) for finding in decide(sound, cause, app)]
    for number in range(len(hints[0])):
        with sound.transaction(force_rollback=True):
            for hint in hints:
                run(sound, hint[number].replace("index concurrently", "index"))
            assert problems(sound) == []


def test_a_cascade_into_a_table_that_cannot_be_protected_can_be_accepted(sound: Connection) -> None:
    run(sound, "create table bad (grace_id int, customer_id int references customer on delete cascade)")
    (finding,) = problems(sound)
    assert finding.where == ("cascade", "public.bad")
    assert not finding.fixable
    assert "those rows are lost" in finding.finding
    sound.execute("select grace.sync()")
    assert problems(sound) == [finding]
    protect, accept = statements_of(finding.hint)
    with pytest.raises(psycopg.Error) as caught, sound.transaction():
        run(sound, protect)
    assert caught.value.sqlstate == "GR003"
    run(sound, accept)
    assert problems(sound) == []


@pytest.mark.parametrize(
    "cause",
    [
        "alter table other disable trigger all",
        "create table line (id int primary key, invoice_id int references invoice on delete set null)",
        "create table line (id int, other_id int references other on delete cascade)",
        "grant all on grace.deletions to {app}; grant usage on schema grace_buffer to {app}",
        "grant select on customer to {app}",
        "alter role {app} set session_replication_role = local",
        "alter role {app} in database postgres set session_replication_role = replica",
        "alter role {app} set search_path = public",
        "create table small (id int, customer_id int references customer); insert into small values (1, 1)",
        "drop index event_customer_id_idx; insert into event select n, 1 + n % 2, 1 from generate_series(100, 4000) n;"
        " create index on event1 (customer_id); create index on event2 using hash (customer_id)",
        "create table seat (event_id int, part int, foreign key (event_id, part) references event);"
        " create index on seat (part, event_id); insert into seat select 1, 1 from generate_series(1, 3000) n",
        "create table big (id int, other_id int references other);"
        " insert into big select n from generate_series(1, 4000) n",
        "create publication p for table customer; create publication q for tables in schema public",
        "select grace.unprotect('invoice'); alter table invoice drop constraint invoice_customer_id_fkey",
        "select grace.unprotect('customer'); alter table customer disable trigger all; alter table customer add x int",
    ],
)
def test_what_is_no_trouble_is_no_finding(sound: Connection, app: str, cause: str) -> None:
    before = findings(sound)
    sound.execute("set local client_min_messages = error")
    run(sound, cause.format(app=app))
    assert findings(sound) == before


def test_an_index_that_failed_to_build_does_not_count(sound: Connection) -> None:
    run(sound, "insert into invoice select n, 1, 'n' from generate_series(100, 3000) n")
    assert problems(sound) == []
    run(sound, "update pg_index set indisvalid = false where indexrelid = 'invoice_customer_id_idx'::regclass")
    assert [finding.where for finding in problems(sound)] == [("foreign key", "public.invoice")]


def test_the_index_of_the_hint_is_made_without_locking_the_table(own: Connection) -> None:
    run(own, DECIDE["a foreign key without an index"][0])
    (finding,) = problems(own)
    assert finding.hint == "create index concurrently on public.invoice (customer_id);"
    run(own, finding.hint)
    assert problems(own) == []


@pytest.mark.parametrize(
    "published", ["all tables", "tables in schema grace_buffer", "tables in schema grace_internal"]
)
def test_a_publication_that_takes_in_the_buffers_is_found(sound: Connection, published: str) -> None:
    sound.execute("set local client_min_messages = error")
    run(sound, f'create publication "A b" for {published}')
    (finding,) = problems(sound)
    assert finding.where == ("publication", "A b")
    run(sound, 'drop publication "A b"')
    assert problems(sound) == []


def test_rows_in_the_default_partition_are_found_until_they_are_gone(own: Connection) -> None:
    run(own, FIXABLE["no partition in 0 days"][0])
    own.execute("delete from customer where id = 1")
    (finding,) = problems(own)
    assert finding.where == ("default partition", "public.customer")
    assert not finding.fixable
    own.execute("select grace.sync()")
    assert problems(own) == []
    assert value(own, "select count(*) from grace_internal.b1_default") == 0
    own.execute("select grace.restore('customer', keys => '1')")


def test_a_dropped_table_is_a_note(sound: Connection) -> None:
    number = value(sound, "select id from grace_internal.protected where target = 'invoice'::regclass")
    sound.execute("delete from customer where id = 1")
    sound.execute("set local grace.allow_drop = on")
    sound.execute("drop table invoice")
    (note,) = [finding for finding in findings(sound) if finding.subject == "dropped"]
    assert (note.severity, note.object, note.fixable) == ("note", "public.invoice", False)
    assert "grace_buffer.invoice" in note.hint
    assert value(sound, "select count(*) from grace_buffer.invoice") == 1
    run(sound, FIXABLE["no partitions at all"][0].replace("leaves(4)", f"leaves({number})"))
    assert problems(sound) == []


def test_a_table_that_was_dropped_unnoticed_is_a_note(sound: Connection) -> None:
    run(sound, "drop event trigger grace_refuse_drop; drop table invoice")
    assert [finding.where for finding in problems(sound)] == [("event triggers", None)]
    sound.execute("select grace.sync()")
    assert problems(sound) == []
    assert ("dropped", "public.invoice") in [finding.where for finding in findings(sound)]


def test_a_subscription_to_a_protected_table_is_a_note(db: Database, own: Connection) -> None:
    own.execute("set client_min_messages = error")
    own.execute("create publication shop for table other, event1")
    with _new_database(db.server, db.name.replace(db.name, "template0")) as elsewhere:
        publisher = elsewhere.connect()
        run(
            publisher,
            "create table public.event1 (id int, part int, customer_id int); create table public.other (id int)",
        )
        publisher.execute("create publication shop for table other, event1")
        own.execute(
            "create subscription sub connection "
            + f"'{elsewhere.conninfo}'"
            + " publication shop with (create_slot = false, enabled = false, copy_data = false, slot_name = none)"
        )
        notes = [finding for finding in findings(own) if finding.subject == "subscription"]
        own.execute("drop subscription sub")
    assert [(note.severity, note.object) for note in notes] == [("note", "public.event")]
    assert [finding for finding in findings(own) if finding.subject == "subscription"] == []


def test_a_purge_that_is_overdue_is_found_and_goes_by_purging(own: Connection) -> None:
    own.execute("update grace_internal.protected set protected_at = now() - interval '3 days'")
    assert problems(own) == []
    own.execute("update grace_internal.run set finished_at = finished_at - interval '49 hours'")
    found = problems(own)
    assert [finding.where for finding in found] == [("purge", None), ("schedule", None)]
    assert "the last purge that ended was at 20" in found[0].finding
    assert "pg_grace purge" in found[0].hint
    own.execute("delete from grace_internal.run")
    assert "no purge has ever run" in problems(own)[0].finding
    own.execute("call grace.purge()")
    assert problems(own) == []


def test_purges_that_have_left_something_for_a_day_are_found(db: Database, own: Connection) -> None:
    own.execute("delete from customer where id = 1")
    run(own, "select grace.set_retention('customer', '1 second')")
    own.execute("select pg_sleep(1.1)")
    own.execute("update grace_internal.run set finished_at = finished_at - interval '26 hours' where kind = 'purge'")
    other = db.connect()
    with other.transaction():
        other.execute("lock table grace_buffer.customer in share mode")
        own.execute("call grace.purge()")
        assert problems(own) == []
        own.execute(
            "update grace_internal.run set finished_at = finished_at - interval '24 hours' where kind = 'purge'"
        )
        own.execute("call grace.purge()")
    number = value(own, "select max(id) from grace.runs")
    (finding,) = problems(own)
    assert finding.where == ("purge", f"run {number}")
    assert "more than a day" in finding.finding
    own.execute("call grace.purge()")
    assert problems(own) == []


def test_each_group_role_sees_the_same_findings_and_administrators_sync(
    db: Database, own: Connection, role: Any
) -> None:
    run(own, "alter table customer disable trigger zz_grace_delete")
    sessions = {}
    for member_of in ("grace_auditor", "grace_operator", "grace_admin"):
        person = role("person")
        own.execute(f"grant {member_of} to {person}")
        sessions[member_of] = db.connect(user=person)
        assert findings(sessions[member_of]) == findings(own)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        findings(db.connect(user=role("nobody")))
    for member_of in ("grace_auditor", "grace_operator"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sessions[member_of].execute("select grace.sync()")
    assert len(problems(own)) == 1
    sessions["grace_admin"].execute("select grace.sync()")
    assert problems(own) == []


def test_looking_takes_no_lock_that_others_wait_for(db: Database, own: Connection) -> None:
    other = db.connect()
    with other.transaction():
        findings(other)
        own.execute("set lock_timeout = '1s'")
        run(own, "delete from customer; truncate event; create index on invoice (note)")
    with other.transaction():
        other.execute("lock table customer, invoice in access exclusive mode")
        own.execute("set statement_timeout = '5s'")
        findings(own)


# A server of these tests' own: pg_cron in the tested database, settings, an installation without a superuser.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster({"fsync": "off", **CRON_SETTINGS}) as running:
        yield running


def session(cluster: Cluster, dbname: str = "postgres", user: str = "postgres") -> Connection:
    return psycopg.connect(f"{cluster.conninfo(dbname)} user={user}", autocommit=True, row_factory=dict_row)


@pytest.fixture(scope="module")
def scheduled(cluster: Cluster) -> Iterator[Database]:
    """A superuser's installation in the database where pg_cron runs."""
    database = Database(Server("local cluster", cluster.conninfo()), "postgres")
    database.connect().execute("create extension pg_cron")
    database.cli("install")
    prepare(database)
    yield database
    for connection in database.connections:
        connection.close()


@pytest.fixture
def cron(scheduled: Database) -> Iterator[Connection]:
    conn = scheduled.connect()
    with conn.transaction(force_rollback=True):
        yield conn
    assert findings(conn) == []
    conn.close()


JOB = "jobname = 'pg_grace: purge'"
RUN = (
    "insert into cron.job_run_details (jobid, runid, database, username, command, status, return_message, start_time)"
    f" select jobid, 1000000 + {{runid}}, database, username, command, '{{status}}', 'it went so', now() from cron.job where {JOB}"
)
SCHEDULE: dict[str, tuple[str, str]] = {
    "missing": (f"delete from cron.job where {JOB}", "is missing"),
    "unscheduled": ("select cron.unschedule('pg_grace: purge')", "is missing"),
    "in another database": (f"update cron.job set database = 'template1' where {JOB}", "belongs to another database"),
    "another command": (
        f"update cron.job set command = 'select 1' where {JOB}",
        "runs something else for it: select 1",
    ),
    "inactive": (f"update cron.job set active = false where {JOB}", "is switched off"),
    "of a role that may not log in": ("alter role postgres nologin", "role postgres may not log in"),
    "of another role": (f"update cron.job set username = 'gone' where {JOB}", "belongs to role gone, not to postgres"),
    "failed": (RUN.format(runid=1, status="failed"), "the last run failed at 20"),
    "failed after a success": (
        RUN.format(runid=1, status="succeeded") + ";" + RUN.format(runid=2, status="failed"),
        "it went so",
    ),
}


def test_with_pg_cron_in_the_database_there_is_nothing_to_find(scheduled: Database) -> None:
    conn = scheduled.connect()
    assert findings(conn) == []
    assert rows(conn, f"select database, username, active from cron.job where {JOB}") == [
        ("postgres", "postgres", True)
    ]


@pytest.mark.parametrize("cause", SCHEDULE)
def test_a_job_that_does_not_purge_is_found(cron: Connection, cause: str) -> None:
    statements, words = SCHEDULE[cause]
    run(cron, statements)
    (finding,) = [found for found in findings(cron) if found.where != ("schedule", "pg_grace: watch")]
    assert (finding.severity, *finding.where) == ("problem", "schedule", "pg_grace: purge")
    assert words in finding.finding
    assert finding.fixable == (
        cause in ("missing", "unscheduled", "in another database", "another command", "of another role")
    )
    if finding.fixable:
        cron.execute("select grace.sync()")
        assert findings(cron) == []
        assert rows(cron, f"select jobname, schedule, command, database from cron.job where {JOB}") == [
            ("pg_grace: purge", "0 0 * * *", "call grace.purge()", "postgres")
        ]
    elif cause in ("inactive", "of a role that may not log in"):
        run(cron, statements_of(finding.hint)[0])
        assert findings(cron) == []


@pytest.mark.parametrize("status", ["starting", "running", "succeeded"])
def test_a_job_that_failed_once_and_runs_again_is_no_problem(cron: Connection, status: str) -> None:
    run(cron, RUN.format(runid=1, status="failed"))
    assert len(problems(cron)) == 1
    run(cron, RUN.format(runid=2, status=status))
    assert findings(cron) == []


def test_a_job_that_really_fails_is_found(scheduled: Database) -> None:
    conn = scheduled.connect()
    conn.execute("select grace.set_schedule('purge', '* * * * *')")
    conn.execute("alter procedure grace.purge(regclass) rename to gone")
    try:
        deadline = time.monotonic() + 70
        while not problems(conn) and time.monotonic() < deadline:
            time.sleep(0.2)
        (finding,) = problems(conn)
        assert finding.where == ("schedule", "pg_grace: purge")
        assert "does not exist" in finding.finding
    finally:
        conn.execute("alter procedure grace.gone(regclass) rename to purge")
        conn.execute("delete from cron.job")
        conn.execute("delete from cron.job_run_details")
        conn.execute("select grace.set_schedule('purge', '0 0 * * *')")
    assert findings(conn) == []


def test_the_servers_own_session_replication_role_is_found(scheduled: Database) -> None:
    conn = scheduled.connect()
    conn.execute("alter system set session_replication_role = replica")
    conn.execute("select pg_reload_conf()")
    try:
        (finding,) = wait_for_problem(scheduled)
        assert finding.where == ("session_replication_role", "server")
    finally:
        run(conn, *statements_of(finding.hint))
        conn.execute("select pg_reload_conf()")
    deadline = time.monotonic() + 10
    while findings(scheduled.connect()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert findings(scheduled.connect()) == []


def wait_for_problem(database: Database) -> list[Finding]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = problems(database.connect())
        if found:
            return found
        time.sleep(0.05)
    return []


@pytest.fixture
def kept(cluster: Cluster) -> Iterator[Database]:
    """A database for an ordinary role; the tables belong to a role that it is a member of."""
    with session(cluster) as admin:
        admin.execute("create role app login; create role keeper login createrole in role app")
        admin.execute("create database kept template template0")
    with session(cluster, "kept") as admin:
        admin.execute("grant create on database kept to keeper; grant create on schema public to keeper, app")
    with session(cluster, "kept", "app") as owner:
        run(owner, SHOP)
    database = Database(Server("as keeper", cluster.conninfo() + " user=keeper"), "kept")
    yield database
    for connection in database.connections:
        connection.close()
    with session(cluster) as admin:
        admin.execute("drop database kept with (force)")
        admin.execute("drop owned by keeper, app cascade; drop role keeper, app")


@pytest.fixture
def keeper(kept: Database) -> Connection:
    kept.cli("install")
    conn = kept.connect()
    conn.execute("select grace.protect('customer')")
    conn.execute("call grace.purge()")
    return conn


def test_without_a_superuser_a_healthy_installation_has_notes_only(keeper: Connection) -> None:
    assert sorted((finding.severity, finding.subject) for finding in findings(keeper)) == [
        ("note", "event triggers"),
        ("note", "schedule"),
    ]
    assert not any(finding.fixable for finding in findings(keeper))


@pytest.mark.parametrize(
    ("cause", "where"),
    [
        ("create table event3 partition of event for values in (3)", ("triggers", "public.event")),
        ("alter table customer add column city text", ("columns", "public.customer")),
        (
            "create table line (id int, invoice_id int references invoice on delete cascade)",
            ("cascade", "public.line"),
        ),
        (
            "alter table customer rename to client; alter table client disable trigger zz_grace_delete",
            ("triggers", "public.client"),
        ),
    ],
)
def test_without_event_triggers_what_ddl_has_done_is_found_and_goes_by_sync(
    kept: Database, keeper: Connection, cause: str, where: tuple[str, str]
) -> None:
    run(kept.connect(user="app"), cause)
    (finding,) = problems(keeper)
    assert finding.where == where
    assert finding.fixable
    keeper.execute("select grace.sync()")
    assert problems(keeper) == []


@pytest.mark.parametrize(
    "cause",
    [
        "revoke app from keeper",
        "revoke trigger on customer, invoice, event from app",
        "alter table customer owner to postgres",
    ],
)
def test_a_right_that_was_taken_back_is_found_and_can_be_given_again(
    cluster: Cluster, keeper: Connection, cause: str
) -> None:
    with session(cluster, "kept") as admin:
        run(admin, cause)
        found = problems(keeper)
        assert {finding.subject for finding in found} == {"rights"}
        assert "public.customer" in [finding.object for finding in found]
        for finding in found:
            (statement,) = statements_of(finding.hint)
            run(admin, statement)
    assert problems(keeper) == []


def test_row_security_that_hides_rows_from_the_owner_of_pg_grace_is_a_note(
    cluster: Cluster, kept: Database, keeper: Connection
) -> None:
    run(kept.connect(user="app"), "alter table event1 enable row level security, force row level security")
    (note,) = [finding for finding in findings(keeper) if finding.subject == "row security"]
    assert (note.severity, note.object) == ("note", "public.event1")
    (statement,) = statements_of(note.hint)
    with session(cluster) as admin:
        run(admin, statement)
    assert [finding for finding in findings(keeper) if finding.subject == "row security"] == []


def test_the_settings_that_pg_cron_needs_are_named_and_sync_does_the_rest(
    cluster: Cluster, scheduled: Database
) -> None:
    """Runs last, for it restarts the server."""
    for connection in scheduled.connections:
        connection.close()
    configuration = cluster.data / "postgresql.conf"
    before = configuration.read_text()
    preload, name = "shared_preload_libraries = 'pg_cron'", "cron.database_name = 'postgres'"
    for after, words, hint in (
        (before + "max_worker_processes = 0\n", "launcher does not run", "max_worker_processes"),
        (before.replace(preload, ""), "runs no job for this database", "shared_preload_libraries = 'pg_cron'"),
        (
            before.replace(preload, "").replace(name, ""),
            "runs no job for this database",
            "cron.database_name = 'postgres'",
        ),
        (
            before.replace(name, "cron.database_name = 'template1'"),
            "works from another database",
            'database "template1"',
        ),
    ):
        assert after != before
        cluster.stop()
        configuration.write_text(after)
        cluster.start()
        with session(cluster) as conn:
            (finding,) = findings(conn)
            assert finding.subject == "schedule"
            assert words in finding.finding
            assert hint in finding.hint
            conn.execute("alter table customer disable trigger zz_grace_delete")
            conn.execute("select grace.sync()")
            assert findings(conn) == [finding]
            conn.execute(
                "update grace_internal.run set finished_at = finished_at - interval '3 days' where kind = 'purge'"
            )
            assert [problem.subject for problem in problems(conn)] == ["schedule"]
            conn.execute("call grace.purge()")
    cluster.stop()
    configuration.write_text(before)
    cluster.start()
    deadline = time.monotonic() + 10
    with session(cluster) as conn:
        while findings(conn) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert findings(conn) == []
