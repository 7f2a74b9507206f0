"""restore and show with all that says what is meant: content, versions, conflicts, values, copies."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_terminal import finish, terminal
from tests.conftest import Database, rows, value


@pytest.fixture
def crm(db: Database) -> Database:
    """Three customers; of these Ada (1) and Bob (2) are deleted, with their offers; Eve (3) advised Bob."""
    conn = db.connect(application_name="crm")
    conn.execute(
        b"create table customer (id int primary key, name text unique, fax text);"
        b"create table offer (id int primary key, customer_id int not null references customer on delete cascade);"
        b"create table note (id int primary key, customer_id int references customer on delete set null);"
        b"insert into customer values (1, 'Ada GmbH', '111'), (2, 'Bob AG', null), (3, 'Eve', null);"
        b"insert into offer values (10, 1), (11, 1), (20, 2), (30, 3); insert into note values (5, 1), (6, 3)"
    )
    db.cli("protect", "customer")
    conn.execute("set grace.reason = 'Clean up 2026'")
    conn.execute("delete from customer where id in (1, 2)")
    return db


def table(result: str) -> list[list[str]]:
    return [line.split("\t") for line in result.splitlines()]


def test_a_condition_finds_deletions_rows_and_what_to_restore(crm: Database) -> None:
    crm.connect().execute("delete from customer where id = 3")
    where = ("--where", "name ilike '%gmbh%' and fax is not null")
    assert [line[0] for line in table(crm.cli("deletions", "customer", *where).stdout)[1:]] == ["1"]
    assert [line[2:4] for line in table(crm.cli("show", "customer", *where).stdout)[1:]] == [["1", "Ada GmbH"]]
    crm.cli("restore", "customer", *where)
    assert rows(crm.connect(), "select id from customer") == [(1,)]
    assert rows(crm.connect(), "select id from offer order by id") == [(10,), (11,)]


@pytest.mark.parametrize("text", ["true; delete from offer", "true) union select (1", "no_column = 1", "id", ""])
def test_what_is_no_condition_is_refused(crm: Database, text: str) -> None:
    for command in (("deletions", "customer"), ("show", "customer"), ("restore", "customer")):
        assert "SQLSTATE: GR022" in crm.cli(*command, "--where", text, code=4).stderr
    assert value(crm.connect(), "select count(*) from offer") == 1


def test_a_condition_needs_a_table(crm: Database) -> None:
    assert "--where needs a TABLE" in crm.cli("deletions", "--where", "true", code=2).stderr
    assert "SQLSTATE: GR016" in crm.cli("restore", "--where", "true", code=4).stderr


def test_a_condition_that_writes_is_refused_where_nothing_is_restored(crm: Database) -> None:
    crm.connect().execute(
        "create function spill() returns boolean language plpgsql as $$ begin delete from offer; return true; end $$"
    )
    for command in (("deletions",), ("show",), ("restore", "--dry-run")):
        arguments = (command[0], "customer", *command[1:], "--where", "spill()")
        assert "SQLSTATE: 25006" in crm.cli(*arguments, code=1).stderr
    assert value(crm.connect(), "select count(*) from offer") == 1


def test_application_and_reason_need_only_be_contained(crm: Database) -> None:
    crm.connect(application_name="psql").execute("delete from customer where id = 3")
    for option in (("--application", "CR"), ("--reason", "clean UP")):
        assert {line[0] for line in table(crm.cli("deletions", *option).stdout)[1:]} == {"1"}
        assert len(table(crm.cli("show", "customer", *option).stdout)) == 3
    crm.cli("restore", "--application", "psql")
    assert rows(crm.connect(), "select id from customer") == [(3,)]


def test_counts_by_deletion(crm: Database) -> None:
    crm.connect().execute("delete from customer where id = 3")
    counted = table(crm.cli("show", "offer", "--count").stdout)
    assert counted[0] == ["deletion", "deleted_at", "rows"]
    assert [(line[0], line[2]) for line in counted[1:]] == [("2", "1"), ("1", "3")]


@pytest.fixture
def versions(crm: Database) -> Database:
    """Customer 1 was deleted twice, the second time as "Ada again"."""
    conn = crm.connect()
    conn.execute("insert into customer values (1, 'Ada again', null); delete from customer where id = 1")
    return crm


def test_several_versions_are_refused_where_nobody_can_be_asked(versions: Database) -> None:
    error = versions.cli("restore", "customer", "--key", "1", code=4).stderr
    assert "customer was deleted more than once with such a key" in error
    assert [line.split()[:2] for line in error.splitlines()[2:]] == [["--deletion", "2"], ["--deletion", "1"]]
    assert value(versions.connect(), "select count(*) from customer where id = 1") == 0
    versions.cli("restore", "customer", "--key", "1", "--newest")
    assert value(versions.connect(), "select name from customer where id = 1") == "Ada again"


def test_each_version_can_be_restored(versions: Database) -> None:
    versions.cli("restore", "customer", "--key", "1", "--deletion", "1")
    assert value(versions.connect(), "select name from customer where id = 1") == "Ada GmbH"


@pytest.mark.parametrize(("answer", "name"), [("", "Ada again"), ("2", "Ada GmbH")])
def test_at_a_terminal_one_is_asked_which_version_is_meant(versions: Database, answer: str, name: str) -> None:
    child = terminal(versions, "restore", "customer", "--key", "1")
    child.expect(r"1  deletion 2, .*Ada again")
    child.expect(r"2  deletion 1, .*Ada GmbH")
    child.expect(r"Which one\? \[1\] ")
    child.sendline(answer)
    assert finish(child)[0] == 0
    assert value(versions.connect(), "select name from customer where id = 1") == name


def test_of_versions_in_one_selection_the_newest_comes_back_and_one_is_told(versions: Database) -> None:
    result = versions.cli("restore", "customer", "--from", "1 hour ago")
    assert "1 older version of the same keys stay restorable" in result.stderr
    assert value(versions.connect(), "select name from customer where id = 1") == "Ada again"


def test_a_parent_of_another_deletion_comes_along_on_request(crm: Database) -> None:
    conn = crm.connect()
    conn.execute("delete from offer where id = 30")
    conn.execute("delete from customer where id = 3")
    refused = crm.cli("restore", "offer", "--key", "30", code=4).stderr
    assert "is missing in public.customer; it went in deletion 3 and can be brought along" in refused
    crm.cli("restore", "offer", "--key", "30", "--with-parents")
    assert rows(conn, "select id from customer") == [(3,)]


@pytest.fixture
def taken(crm: Database) -> Database:
    """Somebody else is customer 1 now."""
    crm.connect().execute("insert into customer values (1, 'Zoe', null)")
    return crm


def test_skip_restores_the_rest_and_tells_what_not(taken: Database) -> None:
    plan = taken.cli("restore", "--deletion", "1", "--on-conflict", "skip", "--dry-run")
    done = taken.cli("restore", "--deletion", "1", "--on-conflict", "skip")
    assert plan.stdout == done.stdout
    assert table(done.stdout)[0] == ["table", "restored", "skipped", "conflicts"]
    assert table(done.stdout)[1:] == [["customer", "1", "1", "1"], ["offer", "1", "2", "2"]]
    assert 'customer {"id": 1}: key (id)=(1) is taken by a row that is there now' in done.stderr
    assert "3 rows skipped; they stay restorable" in done.stderr
    assert rows(taken.connect(), "select id, name from customer order by 1") == [(1, "Zoe"), (2, "Bob AG"), (3, "Eve")]
    assert rows(taken.connect(), "select id from offer order by 1") == [(20,), (30,)]


def test_replace_asks_and_what_it_overwrote_can_be_restored(taken: Database) -> None:
    refused = taken.cli("restore", "--deletion", "1", "--on-conflict", "replace", code=4).stderr
    assert "customer: 2 rows, 1 of them in place of rows that are there now" in refused
    assert value(taken.connect(), "select name from customer where id = 1") == "Zoe"
    done = taken.cli("restore", "--deletion", "1", "--on-conflict", "replace", "--yes")
    assert value(taken.connect(), "select name from customer where id = 1") == "Ada GmbH"
    overwritten = done.stderr.split("what was overwritten is deletion ")[1].strip()
    taken.cli("restore", "--deletion", overwritten, "--on-conflict", "replace", "--yes")
    assert value(taken.connect(), "select name from customer where id = 1") == "Zoe"


def test_a_dry_run_in_json_holds_every_conflict(taken: Database) -> None:
    result = taken.cli("--format", "json", "restore", "--deletion", "1", "--dry-run", code=4)
    assert json.loads(result.stdout)[0]["conflicts"] == [
        {
            "key": {"id": 1},
            "constraint": "customer_pkey",
            "reason": "key (id)=(1) is taken by a row that is there now",
        }
    ]
    assert "1 conflict would stop this restore" in result.stderr


def test_values_given_take_the_place_of_what_was_captured(crm: Database) -> None:
    conn = crm.connect()
    conn.execute("alter table customer add region text")
    conn.execute("update customer set region = 'y'")
    conn.execute("alter table customer alter region set not null")
    assert "column region is NOT NULL" in crm.cli("restore", "--deletion", "1", "--dry-run", code=4).stderr
    crm.cli("restore", "--deletion", "1", "--set", "customer.region=EU=1", "--set-null", "customer.fax")
    assert rows(conn, "select id, region, fax from customer order by 1") == [
        (1, "EU=1", None),
        (2, "EU=1", None),
        (3, "y", None),
    ]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--set", "region"), 2, "is not COLUMN=VALUE"),
        (("--set", "fax=1", "--set-null", "fax"), 2, "a column is given twice"),
        (("--set", "nope=1"), 4, "SQLSTATE: GR023"),
        (("--set", "id=one"), 4, "SQLSTATE: GR023"),
    ],
)
def test_values_that_can_not_be_set_are_refused(crm: Database, options: tuple[str, ...], code: int, said: str) -> None:
    assert said in crm.cli("restore", "customer", "--deletion", "1", "--alone", *options, code=code).stderr
    assert value(crm.connect(), "select count(*) from customer") == 1


def test_a_copy_leaves_everything_as_it_is(crm: Database) -> None:
    conn = crm.connect()
    conn.execute("create table look (name text, fax text, seen boolean default true)")
    done = crm.cli("restore", "customer", "--deletion", "1", "--into", "look")
    assert "2 rows copied into look; the deletions stay restorable" in done.stderr
    assert rows(conn, "select * from look order by 1") == [("Ada GmbH", "111", True), ("Bob AG", None, True)]
    assert value(conn, "select count(*) from customer") == 1
    crm.cli("restore", "--deletion", "1")


def test_links_are_tied_again_or_left(crm: Database) -> None:
    conn = crm.connect()
    assert "1 reference tied again" in crm.cli("restore", "--deletion", "1").stderr
    assert rows(conn, "select id, customer_id from note order by 1") == [(5, 1), (6, 3)]
    conn.execute("delete from customer where id = 1")
    crm.cli("restore", "--deletion", "2", "--no-relink")
    assert rows(conn, "select id, customer_id from note order by 1") == [(5, None), (6, 3)]


def test_values_of_dropped_columns_are_told(crm: Database) -> None:
    crm.connect().execute("alter table customer drop fax")
    for options in (("--dry-run",), ()):
        said = crm.cli("restore", "--deletion", "1", *options).stderr
        assert "customer: 1 value of former column fax left behind, which leaves the buffer with its row" in said
        assert '{"id": 1} "111"' in said


def test_without_the_applications_triggers(crm: Database) -> None:
    conn = crm.connect()
    conn.execute(
        b"create function shout() returns trigger language plpgsql as"
        b" $$ begin new.name := upper(new.name); return new; end $$;"
        b"create trigger shout before insert on customer for each row execute function shout()"
    )
    crm.cli("restore", "customer", "--key", "1", "--no-triggers")
    crm.cli("restore", "customer", "--key", "2")
    assert rows(conn, "select name from customer order by id") == [("Ada GmbH",), ("BOB AG",), ("Eve",)]


def test_a_window_around_a_moment_is_confirmed(crm: Database) -> None:
    around = ("--around", "10 minutes ago")
    refused = crm.cli("restore", *around, code=4).stderr
    assert "customer: 2 rows" in refused
    assert "Restore 5 rows?" in refused
    child = terminal(crm, "restore", *around)
    child.expect(r"Restore 5 rows\? \[y/N\]")
    child.sendline("y")
    assert finish(child)[0] == 0
    assert value(crm.connect(), "select count(*) from customer") == 3


def test_one_deletion_at_a_time(crm: Database) -> None:
    assert "only one can be given" in crm.cli("restore", "--deletion", "1", "--deletion", "2", code=2).stderr


def test_the_restore_is_known_afterwards(crm: Database) -> None:
    crm.cli("restore", "customer", "--key", "1")
    deletions = json.loads(crm.cli("--format", "json", "deletions", "customer").stdout)
    run = value(crm.connect(), "select id from grace.runs where kind = 'restore'")
    assert [(row["restored_count"], row["runs"]) for row in deletions] == [(1, [run])]
