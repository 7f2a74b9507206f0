"""Finding and choosing what comes back: exactly that, and nothing beside it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.restoring import as_planned, conflicts, deleted, last_deletion, planned, refused, restore, script

FAMILY = """create table a (id int primary key, name text);
create table b (id int primary key, a_id int references a on delete cascade, name text);
create table c (id int primary key, b_id int references b on delete cascade, name text);
insert into a select n, 'a' || n from generate_series(1, 4) n;
insert into b select n, (n + 1) / 2, 'b' || n from generate_series(1, 8) n;
insert into c select n, (n + 1) / 2, 'c' || n from generate_series(1, 16) n;
select grace.protect('a')"""


@pytest.fixture
def family(conn: Connection) -> Connection:
    """Each row of a has two in b, each of these two in c."""
    script(conn, FAMILY)
    return conn


def there(conn: Connection) -> dict[str, list[int]]:
    return {table: [row[0] for row in rows(conn, f"select id from {table} order by 1")] for table in ("a", "b", "c")}


def test_related_brings_what_hangs_below_and_what_is_needed_above_and_no_sibling(family: Connection) -> None:
    deletion = deleted(family, "delete from a where id in (1, 2)")
    assert [row[:2] for row in as_planned(family, "'b', keys => '1'")] == [("a", 1), ("b", 1), ("c", 2)]
    assert there(family) == {"a": [1, 3, 4], "b": [1, 5, 6, 7, 8], "c": [1, 2, *range(9, 17)]}
    assert [row[:2] for row in as_planned(family, f"deletion => {deletion}")] == [("a", 1), ("b", 3), ("c", 6)]
    assert there(family) == {"a": [1, 2, 3, 4], "b": list(range(1, 9)), "c": list(range(1, 17))}


def test_related_does_not_bring_what_went_before_or_after(family: Connection) -> None:
    before = deleted(family, "delete from c where id = 1")
    deleted(family, "delete from a where id = 1")
    family.execute(b"insert into a values (1, 'again')")
    family.execute(b"insert into b values (2, 1, 'again')")
    deleted(family, "delete from a where id = 1")
    assert [row[:2] for row in as_planned(family, "'a', keys => '1'")] == [("a", 1), ("b", 1)]
    assert rows(family, "select * from a where id = 1") == [(1, "again")]
    assert rows(family, "select * from b where a_id = 1") == [(2, 1, "again")]
    assert rows(family, "select id from grace_buffer.c order by 1") == [(1,), (2,), (3,), (4,)]
    assert value(family, f"select row_count - restored_count from grace.deletions where id = {before}") == 1


def test_without_related_only_the_chosen_rows(family: Connection) -> None:
    deleted(family, "delete from a where id = 1")
    assert conflicts(family, "'c', keys => '1', related => false") == [
        (
            "c",
            {"id": 1},
            "c_b_id_fkey",
            f"parent (b_id)=(1) is missing in public.b; it went in deletion {last_deletion(family)} and can be brought along",
        )
    ]
    assert as_planned(family, "'a', keys => '1', related => false")[0][:2] == ("a", 1)
    assert there(family)["b"] == [3, 4, 5, 6, 7, 8]


def test_with_parents_brings_parents_of_other_deletions_over_several_levels_in_their_newest_version(
    family: Connection,
) -> None:
    deletion = deleted(family, "delete from c where id = 1")
    deleted(family, "delete from b where id = 1")
    deleted(family, "delete from a where id = 1")
    script(family, "insert into a values (1, 'newest');\ninsert into b values (1, 1, 'newest')")
    deleted(family, "delete from b where id = 1")
    newest = deleted(family, "delete from a where id = 1")
    assert conflicts(family, f"deletion => {deletion}") == [
        (
            "c",
            {"id": 1},
            "c_b_id_fkey",
            f"parent (b_id)=(1) is missing in public.b; it went in deletion {newest - 1} and can be brought along",
        )
    ]
    assert [row[:2] for row in as_planned(family, f"deletion => {deletion}, with_parents => true")] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
    ]
    assert rows(family, "select name from a where id = 1 union all select name from b where id = 1") == [
        ("newest",),
        ("newest",),
    ]
    assert rows(family, "select id, name from grace_buffer.a") == [(1, "a1")]
    assert rows(family, "select id, name from grace_buffer.b order by 1") == [(1, "b1"), (2, "b2")]
    assert rows(family, "select id from grace_buffer.c order by 1") == [(2,), (3,), (4,)]


def test_with_parents_leaves_parents_alone_that_are_there(family: Connection) -> None:
    deletion = deleted(family, "delete from c where id in (1, 5)")
    deleted(family, "delete from b where id = 1")
    assert [row[:2] for row in as_planned(family, f"deletion => {deletion}, with_parents => true")] == [
        ("b", 1),
        ("c", 2),
    ]


def test_with_parents_when_a_deletion_has_no_parent_to_bring(family: Connection) -> None:
    deletion = deleted(family, "delete from c where id = 1")
    assert [row[:2] for row in as_planned(family, f"deletion => {deletion}, with_parents => true")] == [("c", 1)]


def test_with_parents_through_a_self_reference_and_a_composite_key(conn: Connection) -> None:
    script(
        conn,
        "create table t (x int, y int, up_x int, up_y int, primary key (x, y),"
        " foreign key (up_x, up_y) references t on delete cascade);\n"
        "insert into t values (1, 1, null, null), (2, 1, 1, 1), (3, 1, 2, 1), (4, 1, 3, 1);\nselect grace.protect('t')",
    )
    for x in (4, 3, 2, 1):
        deleted(conn, f"delete from t where x = {x}")
    assert [row[:2] for row in as_planned(conn, """'t', keys => '{"x": 4, "y": 1}', with_parents => true""")] == [
        ("t", 4)
    ]
    assert rows(conn, "select x, up_x from t order by 1") == [(1, None), (2, 1), (3, 2), (4, 3)]


def test_parents_are_brought_into_the_right_one_of_two_sessions(db: Database, family: Connection) -> None:
    deletion = deleted(family, "delete from c where id = 1")
    parent = deleted(family, "delete from b where id = 1")
    other = db.connect()
    other.execute(b"set lock_timeout = '200ms'")
    with family.transaction():
        restore(family, f"deletion => {deletion}, with_parents => true")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            restore(other, f"deletion => {parent}")
    assert [row[:2] for row in restore(other, f"deletion => {parent}")] == [("b", 0), ("c", 1)]


def test_of_versions_the_newest_comes_by_default_and_each_by_its_deletion(conn: Connection) -> None:
    script(conn, "create table t (id int primary key, v text);\nselect grace.protect('t')")
    deletions = []
    for version in ("one", "two", "three"):
        conn.execute("insert into t values (1, %s)", (version,))
        deletions.append(deleted(conn, "delete from t"))
    assert rows(conn, "select record ->> 'v', deletion_id from grace.buffered('t', keys => '1')") == [
        ("three", deletions[2]),
        ("two", deletions[1]),
        ("one", deletions[0]),
    ]
    assert as_planned(conn, "'t', keys => '1'")[0][:5] == ("t", 1, 0, 0, 0)
    assert rows(conn, "select v from t") == [("three",)]
    conn.execute(b"delete from t")
    for version, deletion in (("one", deletions[0]), ("two", deletions[1])):
        assert as_planned(conn, f"'t', keys => '1', deletion => {deletion}")[0][:2] == ("t", 1)
        assert rows(conn, "select v from t") == [(version,)]
        conn.execute(b"delete from t")
    assert rows(conn, "select record ->> 'v' from grace.buffered('t')") == [("two",), ("one",), ("three",)]
    assert as_planned(conn, "'t', deleted_to => 'infinity'")[0][:5] == ("t", 1, 0, 0, 2)
    assert rows(conn, "select v from t") == [("two",)]


def test_of_two_versions_in_one_transaction_the_later_comes_back(conn: Connection) -> None:
    script(conn, "create table t (id int primary key, v text);\nselect grace.protect('t')")
    deletion = deleted(
        conn,
        "insert into t values (1, 'one'), (2, 'only')",
        "delete from t",
        "insert into t values (1, 'two')",
        "delete from t",
        "insert into t values (1, 'three')",
        "delete from t",
    )
    for call in (
        f"deletion => {deletion}",
        "'t', keys => '[1, 2]'",
        f"'t', predicate => 'true', deletion => {deletion}",
    ):
        with conn.transaction(force_rollback=True):
            done = restore(conn, call, "restored", "older")
            assert rows(conn, "select id, v from t order by 1") == [(1, "three"), (2, "only")], call
            assert done == [("t", 2, 0 if "keys" in call else 2)]
    as_planned(conn, f"deletion => {deletion}")
    assert rows(conn, "select v from grace_buffer.t order by 1") == [("one",), ("two",)]
    conn.execute(b"delete from t where id = 1")
    assert restore(conn, f"deletion => {deletion}", "restored", "older") == [("t", 1, 1)]
    assert rows(conn, "select v from t where id = 1") == [("two",)]


def test_older_versions_of_a_parent_leave_the_children_of_the_newest(family: Connection) -> None:
    deleted(family, "delete from a where id = 1")
    script(family, "insert into a values (1, 'newer');\ninsert into b values (9, 1, 'b9')")
    deleted(family, "delete from a where id = 1")
    done = as_planned(family, "'a', deleted_to => 'infinity'")
    assert [(table, restored, older) for table, restored, _, _, older, *_ in done] == [
        ("a", 1, 1),
        ("b", 3, 0),
        ("c", 4, 0),
    ]
    assert rows(family, "select name from a where id = 1") == [("newer",)]


def test_runs_are_counted_in_the_log(family: Connection) -> None:
    deletion = deleted(family, "delete from a where id = 1")
    run = rows(family, "select distinct run from grace.restore('b', keys => '1')")
    assert len(run) == 1
    assert rows(
        family, f"select target::text, row_count, restored_count from grace.deletions where id = {deletion} order by 1"
    ) == [("a", 1, 1), ("b", 2, 1), ("c", 4, 2)]
    assert rows(family, "select status, row_count, details from grace.runs where id = %s", *run[0]) == [
        ("done", 4, {"deletions": [deletion]})
    ]


@pytest.fixture
def people(conn: Connection) -> Connection:
    script(
        conn,
        "create table person (id int primary key, company text, born date, score numeric);\n"
        "insert into person values (1, 'Meier GmbH', '1980-01-01', 1.5), (2, 'Huber AG', '1990-01-01', 2.5),"
        " (3, 'Kurz GmbH & Co', null, 3.5), (4, null, '2000-01-01', null);\nselect grace.protect('person');\n"
        "delete from person",
    )
    return conn


@pytest.mark.parametrize(
    ("predicate", "found"),
    [
        ("company ILIKE '%GmbH%'", [1, 3]),
        ("company is null", [4]),
        ("born < '1995-01-01' and score > 2", [2]),
        ("person.id = 1 or id = 4", [1, 4]),
        ("id in (select generate_series(2, 3))", [2, 3]),
        ("to_jsonb(person) ? 'company' and id > 3", [4]),
        ("true -- a comment", [1, 2, 3, 4]),
        ("grace_deleted_at <= now() and id = 2", [2]),
        ("company = $q$Huber AG$q$", [2]),
        ("company = '/* ' or id = 1 /* */", [1]),
    ],
)
def test_a_condition_on_the_columns(people: Connection, predicate: str, found: list[int]) -> None:
    assert rows(
        people, "select (record ->> 'id')::int from grace.buffered('person', predicate => %s) order by 1", predicate
    ) == [(number,) for number in found]
    restored = rows(people, "select restored from grace.restore('person', predicate => %s)", predicate)
    assert restored == [(len(found),)]
    assert rows(people, "select id from person order by 1") == [(number,) for number in found]


@pytest.mark.parametrize(
    "predicate",
    [
        "",
        ";",
        "true;",
        "true; drop table person",
        "true; delete from person returning id",
        "false) union all select 42 where (true",
        "true) returning (1",
        "true) limit (1",
        "true) group by (id",
        "true) order by (id",
        "true) for update of person; select (1",
        "true); commit; select (true",
        "id = 1 -- )\n) or (id = 2) union select (1",
        "/* ",
        "'",
        "$x$",
        "id",
        "id = 1, true",
        "count(*) > 0",
        "row_number() over () = 1",
        "no_such_column = 1",
        "company = 1",
        "id = $1",
        "generate_series(1, 2) > 0",
        "case when true then 1 end",
        "id = 1 as x",
        "id = '",
        "born = 'no date'",
        "score > 1 and",
        "\\",
        "true then 1 end, (select pg_sleep(0)) from person where (true",
        "not a condition",
    ],
)
def test_what_is_not_one_condition_is_refused(people: Connection, predicate: str) -> None:
    refused(people, "GR022", "'person', predicate => %s", predicate)
    with pytest.raises(psycopg.Error) as caught:
        rows(people, "select * from grace.buffered('person', predicate => %s)", predicate)
    assert caught.value.sqlstate == "GR022"


def test_a_condition_that_closes_our_parenthesis_still_selects_only_of_what_is_selected(people: Connection) -> None:
    first = last_deletion(people)
    people.execute(b"insert into person values (5, 'other'); delete from person")
    predicate = "id = 1) or (true"
    restored = rows(
        people, "select restored from grace.restore('person', deletion => %s, predicate => %s)", first, predicate
    )
    assert restored == [(4,)]
    assert rows(people, "select id from person order by 1") == [(1,), (2,), (3,), (4,)]
    assert (
        value(
            people, "select count(*) from grace.buffered('person', deletion => %s, predicate => %s)", first, predicate
        )
        == 0
    )


def test_no_row_meets_the_condition(people: Connection) -> None:
    error = refused(people, "GR007", "'person', predicate => 'id > 100'")
    assert error.diag.message_primary == "not in the buffer: any such row"


def test_a_condition_whose_value_fails_in_a_row_is_told_so(people: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        restore(people, "'person', predicate => '1 / (id - 1) > 0'")
    assert caught.value.sqlstate in ("22012", "GR008", "GR022")


def test_conditions_follow_renamed_retyped_and_dropped_columns(people: Connection) -> None:
    script(
        people,
        "alter table person rename company to firm;\nalter table person alter score type text using score::text;\n"
        "alter table person drop born;\nalter table person add added int default 7",
    )
    for predicate, found in (
        ("firm ilike '%gmbh%'", [1, 3]),
        ("score like '2%'", [2]),
        ("added = 7", [1, 2, 3, 4]),
    ):
        assert rows(
            people, "select (record ->> 'id')::int from grace.buffered('person', predicate => %s) order by 1", predicate
        ) == [(number,) for number in found], predicate
    former = [
        row[0] for row in rows(people, "select jsonb_object_keys(record) from grace.buffered('person', max_rows => 1)")
    ]
    born = next(name for name in former if name.startswith("born"))
    restored = rows(people, "select restored from grace.restore('person', predicate => %s)", f"{born} = '1990-01-01'")
    assert restored == [(1,)]
    assert rows(people, "select id, firm, score, added from person") == [(2, "Huber AG", "2.5", 7)]
    refused(people, "GR022", "'person', predicate => %s", "company is null")


def test_keys_a_window_and_a_condition_together_are_what_all_of_them_select(people: Connection) -> None:
    deletion = last_deletion(people)
    call = f"'person', deletion => {deletion}, keys => '[1, 2, 3]', predicate => 'company ilike ''%gmbh%''' "
    error = refused(people, "GR007", call)
    assert error.diag.message_primary == 'not in the buffer: {"id": 2}'
    assert restore(people, call.replace("[1, 2, 3]", "[1, 3]")) == [("person", 2)]


def test_by_application_and_reason_and_role(db: Database, conn: Connection, role: Any) -> None:
    script(
        conn,
        "create table t (id int primary key);\ninsert into t select generate_series(1, 6);\nselect grace.protect('t')",
    )
    clerk = role("clerk")
    conn.execute(f"grant select, delete on t to {clerk}".encode())
    for number, settings in enumerate(
        (
            {"application_name": "Billing 2.0"},
            {"application_name": "shop"},
            {"options": "-c grace.reason=Ticket\\ 4711"},
        ),
        1,
    ):
        db.connect(**settings).execute("delete from t where id = %s", (number,))
    db.connect(user=clerk).execute(b"delete from t where id = 4")
    assert restore(conn, "'t', application => 'billing'") == [("t", 1)]
    assert restore(conn, "reason => 'ticket'") == [("t", 1)]
    assert restore(conn, f"deleted_by => '{clerk}'") == [("t", 1)]
    assert rows(conn, "select id from t order by 1") == [(1,), (3,), (4,), (5,), (6,)]
    refused(conn, "GR007", "application => 'billing'")
    refused(conn, "GR007", "reason => '%'")


def test_everything_of_a_table_since_a_moment(family: Connection) -> None:
    deleted(family, "delete from c where id = 16")
    moment = value(family, "select clock_timestamp()")
    deleted(family, "delete from c where id = 15")
    deleted(family, "delete from a where id = 1")
    call = f"'c', deleted_from => '{moment.isoformat()}', related => false"
    assert conflicts(family, call)[0][:3] == ("c", {"id": 1}, "c_b_id_fkey")
    done = as_planned(family, f"'c', deleted_from => '{moment.isoformat()}'")
    assert [row[:2] for row in done] == [("a", 1), ("b", 2), ("c", 5)]
    assert there(family)["c"] == list(range(1, 16))


def test_a_partition_as_target_selects_only_its_rows(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int, r int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\ncreate table t_2 partition of t for values in (2) partition by range (id);\n"
        "create table t_2_a partition of t_2 for values from (0) to (10);\n"
        "create table t_2_b partition of t_2 for values from (10) to (20);\n"
        "insert into t values (1, 1), (2, 1), (1, 2), (11, 2);\nselect grace.protect('t')",
    )
    deletion = deleted(conn, "delete from t")
    assert value(conn, "select count(*) from grace.buffered('t_2')") == 2
    assert [row[:2] for row in as_planned(conn, f"'t_2_b', deletion => {deletion}")] == [("t", 1)]
    assert rows(conn, "select id, r from t") == [(11, 2)]
    assert [row[:2] for row in as_planned(conn, "'t_1', deleted_to => 'infinity'")] == [("t", 2)]
    assert [row[:2] for row in as_planned(conn, """'t_2', keys => '{"id": 1, "r": 2}'""")] == [("t", 1)]
    refused(conn, "GR007", f"deletion => {deletion}")


def test_keys_that_are_of_another_partition_are_not_found(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int, r int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\ncreate table t_2 partition of t for values in (2);\n"
        "insert into t values (1, 1), (1, 2);\nselect grace.protect('t');\ndelete from t",
    )
    refused(conn, "GR007", """'t_1', keys => '{"id": 1, "r": 2}'""")


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("predicate => 'true'", "GR016"),
        ("deletion => 1, on_conflict => 'ignore'", "22023"),
        ("deletion => 1, on_conflict => null", "22023"),
        ("'person', deletion => 1, into_table => 'person', on_conflict => 'replace'", "GR016"),
        ("'person', keys => '[]'", "GR008"),
        ("'person', keys => '[[1]]'", "GR008"),
        ("'person', keys => '{\"id\": 1, \"x\": 2}'", "GR008"),
        ("'person', keys => 'null'", "GR008"),
        ("'person', keys => '\"x\"'", "GR008"),
        ("'person', keys => '99999999999'", "GR008"),
        ("'pg_class', deletion => 1", "GR001"),
        ("'person', deleted_from => 'infinity'", "GR007"),
    ],
)
def test_a_wrong_choice_is_refused(people: Connection, call: str, code: str) -> None:
    refused(people, code, call)


def test_options_that_are_null_are_their_defaults_or_refused(people: Connection) -> None:
    call = (
        f"deletion => {last_deletion(people)}, related => null, with_parents => null, relink => null, triggers => null"
    )
    assert planned(people, call)[0][:2] == ("person", 4)
    assert restore(people, f"{call}, dry_run => null") == [("person", 4)]
