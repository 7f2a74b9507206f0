"""The table has changed since: columns, types, names, keys, the rows that had referred to what went."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.restoring import as_planned, conflicts, deleted, last_deletion, refused, restore, script, state


@pytest.fixture
def t(conn: Connection) -> Connection:
    script(
        conn,
        "create table t (id int primary key, a int, b text, c varchar(10));\n"
        "insert into t select n, n * 10, 'b' || n, 'c' || n from generate_series(1, 3) n;\nselect grace.protect('t');\n"
        "delete from t",
    )
    return conn


def test_columns_added_dropped_renamed_retyped_in_a_table_that_was_renamed_and_moved(t: Connection) -> None:
    script(
        t,
        "create schema other;\nalter table t add e int not null default 7;\nalter table t add f text;\n"
        "alter table t drop b;\nalter table t rename c to was_c;\nalter table t alter a type bigint;\n"
        "alter table t rename to u;\nalter table u set schema other",
    )
    done = as_planned(t, "'other.u', keys => '[1, 2]'")
    assert done[0][:2] == ("other.u", 2)
    (left,) = done[0][6]
    assert (left["column"], left["rows"]) == ("b", 2)
    assert sorted(left["values"], key=str) == [{"key": {"id": n}, "value": f"b{n}"} for n in (1, 2)]
    assert rows(t, "select * from other.u order by 1") == [(1, 10, "c1", 7, None), (2, 20, "c2", 7, None)]


def test_a_type_that_was_changed_twice_is_cast_from_what_was_captured(t: Connection) -> None:
    script(t, "alter table t alter a type text;\ninsert into t values (4, 'x', 'b', 'c');\ndelete from t where id = 4")
    script(t, "alter table t alter a type varchar(5);\nalter table t alter a type text")
    assert as_planned(t, "'t', deleted_to => 'infinity'")[0][:2] == ("t", 4)
    assert rows(t, "select id, a from t order by 1") == [(1, "10"), (2, "20"), (3, "30"), (4, "x")]


def test_values_of_many_rows_left_behind_are_counted_and_ten_of_them_shown(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int, a int, b int);\ninsert into t select n, nullif(n, 5), null from generate_series(1, 20) n;\n"
        "select grace.protect('t');\ndelete from t;\nalter table t drop a;\nalter table t drop b",
    )
    (left,) = as_planned(conn, f"deletion => {last_deletion(conn)}")[0][6]
    assert (left["column"], left["rows"], len(left["values"]), left["values"][0]["key"]) == ("a", 19, 10, None)


def test_a_not_null_column_without_default_takes_what_is_given(t: Connection) -> None:
    t.execute(b"alter table t add e text not null, add j jsonb not null, add d date not null")
    call = f"deletion => {last_deletion(t)}"
    assert sorted((found[1:] for found in conflicts(t, call) if found[1] == {"id": 2}), key=str) == [
        ({"id": 2}, "not null", f"column {name} is NOT NULL and there is no value for it") for name in "dej"
    ]
    given = """set_values => '{"e": "given ''s", "j": {"x": [1, null]}, "d": "2026-01-02", "a": null, "t.c": 5}'"""
    assert as_planned(t, f"{call}, {given}")[0][:2] == ("t", 3)
    assert rows(t, "select id, a, b, c, e, j, d::text from t where id = 2") == [
        (2, None, "b2", "5", "given 's", {"x": [1, None]}, "2026-01-02")
    ]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("[1]", "[1]"),
        ("true", "true"),
        ('{"y": null}', '{"y": null}'),
        ('"[1]"', "[1]"),
        (r'"\"x\""', '"x"'),
        ("null", None),
    ],
)
def test_json_is_given_as_it_is_or_as_a_string_that_the_type_reads(
    t: Connection, given: str, stored: str | None
) -> None:
    t.execute(b"alter table t add j json, add k jsonb")
    restore(t, f"""'t', keys => '1', set_values => '{{"j": {given}, "k": {given}}}'""")
    assert rows(t, "select j::text, k::text from t") == [(stored, stored)]


def test_a_string_that_is_no_json_is_refused(t: Connection) -> None:
    t.execute(b"alter table t add j json")
    refused(t, "GR023", """'t', keys => '1', set_values => '{"j": "x"}'""")


@pytest.mark.parametrize(
    "given",
    [
        '{"nope": 1}',
        '{"t.nope": 1}',
        '{"u.a": 1}',
        '{"other.t.a": 1}',
        '{"x.y.t.a": 1}',
        '{"ctid": 1}',
        '{"grace_deletion": 1}',
        '{"g": 1}',
        '{"a": "x"}',
        '{"a": {"x": 1}}',
        '{"a": [1]}',
        '{"a": 99999999999}',
        '{"c": "longer than ten"}',
        '{"dom": -1}',
        '{"short": "long"}',
        '{"list": ["a"]}',
        '{"list": "{long}"}',
        '{"": 1}',
        '{"\\"": 1}',
        "[1]",
        "1",
        '"a"',
    ],
)
def test_values_that_can_not_be_set_are_refused(t: Connection, given: str) -> None:
    script(
        t,
        "create domain positive as int check (value > 0);\ncreate domain short as varchar(3);\n"
        "alter table t add g int generated always as (a * 2) stored, add dom positive, add short short,"
        " add list varchar(3)[]",
    )
    for options in ("", ", dry_run => true", ", on_conflict => 'skip'"):
        refused(t, "GR023", f"'t', keys => '1', set_values => %s{options}", given)


def test_a_given_value_takes_the_place_of_one_that_can_not_be_cast(t: Connection) -> None:
    script(t, "alter table t alter a type date using null;\nalter table t alter b type int using null")
    call = "'t', keys => '1'"
    assert len(conflicts(t, call)) == 2
    assert as_planned(t, f"""{call}, set_values => '{{"a": "2026-01-02", "b": 5}}'""")[0][:2] == ("t", 1)
    assert rows(t, "select a::text, b from t") == [("2026-01-02", 5)]


def test_a_given_value_is_checked_as_any(t: Connection) -> None:
    t.execute(b"alter table t add constraint small check (a < 100)")
    assert [found[2] for found in conflicts(t, "'t', keys => '1', set_values => '{\"a\": 100}'")] == ["small"]
    assert [found[2] for found in conflicts(t, "'t', keys => '[1, 2]', set_values => '{\"id\": 9}'")] == ["t_pkey"] * 2
    assert as_planned(t, "'t', keys => '1', set_values => '{\"id\": 9}'")[0][:2] == ("t", 1)
    assert rows(t, "select id from t") == [(9,)]


def test_values_are_given_by_table_where_there_are_several(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key, n int);\n"
        'create table "B.c" (id int primary key, a_id int references a on delete cascade, "N n" int);\n'
        "insert into a values (1, 1);\ninsert into \"B.c\" values (1, 1, 1);\nselect grace.protect('a');\ndelete from a",
    )
    deletion = last_deletion(conn)
    refused(conn, "GR023", f"""deletion => {deletion}, set_values => '{{"n": 5}}'""")
    assert restore(conn, f"""deletion => {deletion}, set_values => '{{"a.n": 5, "\\"B.c\\".\\"N n\\"": 6}}'""") == [
        ("a", 1),
        ('"B.c"', 1),
    ]
    assert rows(conn, 'select n, "N n" from a, "B.c"') == [(5, 6)]


def test_a_column_name_that_needs_quotes_is_found_as_it_is_written(conn: Connection) -> None:
    script(
        conn,
        'create table t (id int primary key, "Big Name" int, "UPPER" int);\ninsert into t values (1, 1, 1);\n'
        "select grace.protect('t');\ndelete from t",
    )
    assert restore(conn, """'t', keys => '1', set_values => '{"Big Name": 2, "\\"UPPER\\"": 3}'""") == [("t", 1)]
    assert rows(conn, "select * from t") == [(1, 2, 3)]


def test_a_copy_goes_into_a_table_with_fewer_more_renamed_and_former_columns(t: Connection) -> None:
    script(
        t,
        "alter table t drop b;\nalter table t rename c to d;\n"
        "create table copy (d text, b text, x int default 5, id bigint, made int generated always as (id * 2) stored)",
    )
    call = f"'t', deletion => {last_deletion(t)}, into_table => 'copy'"
    done = as_planned(t, call)
    assert done[0][:6] == ("copy", 3, 0, 0, 0, 0)
    assert rows(t, "select id, d, b, x, made from copy order by 1") == [
        (1, "c1", "b1", 5, 2),
        (2, "c2", "b2", 5, 4),
        (3, "c3", "b3", 5, 6),
    ]
    assert value(t, "select count(*) from grace_buffer.t") == 3
    assert value(t, "select sum(restored_count) from grace.deletions") == 0
    assert restore(t, f"{call}, set_values => '{{\"x\": 6}}'") == [("copy", 3)]
    assert restore(t, f"'t', deletion => {last_deletion(t)}") == [("t", 3)]


def test_a_copy_has_the_conflicts_of_the_table_that_it_goes_into(t: Connection) -> None:
    script(t, "create table copy (id int primary key, a int check (a > 10));\ninsert into copy values (2, 11)")
    call = f"'t', deletion => {last_deletion(t)}, into_table => 'copy'"
    assert conflicts(t, call) == [
        ("copy", {"id": 1}, "copy_a_check", "violates check (a > 10)"),
        ("copy", {"id": 2}, "copy_pkey", "key (id)=(2) is taken by a row that is there now"),
    ]
    refused(t, "GR011", call)
    assert [row[:4] for row in as_planned(t, f"{call}, on_conflict => 'skip'")] == [("copy", 1, 0, 2)]
    assert rows(t, "select id from copy order by 1") == [(2,), (3,)]


def test_a_copy_into_one_partition_takes_what_belongs_there(t: Connection) -> None:
    script(
        t,
        "create table copy (id int, a int) partition by range (id);\n"
        "create table copy_1 partition of copy for values from (2) to (9)",
    )
    call = f"'t', deletion => {last_deletion(t)}, into_table => 'copy_1'"
    assert conflicts(t, call) == [
        ("copy_1", {"id": 1, "a": 10}, "partition", "the row does not belong into partition public.copy_1")
    ]
    assert [row[:4] for row in as_planned(t, f"{call}, on_conflict => 'skip'")] == [("copy_1", 2, 0, 1)]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("deletion => {}, into_table => 'copy'", "GR016"),
        ("'a', deletion => {}, into_table => 'copy', on_conflict => 'replace'", "GR016"),
        ("'a', deletion => {}, into_table => 'grace_buffer.a'", "42809"),
        ("'a', deletion => {}, into_table => 'a_pkey'", "42809"),
        ("'a', deletion => {}, into_table => 'a_seq'", "42809"),
    ],
)
def test_what_is_no_place_for_a_copy_is_refused(conn: Connection, call: str, code: str) -> None:
    script(
        conn,
        "create table a (id int primary key);\ncreate table b (id int primary key, a_id int references a on delete cascade);\n"
        "create table copy (id int);\ncreate sequence a_seq;\ninsert into a values (1);\ninsert into b values (1, 1);\nselect grace.protect('a');\ndelete from a",
    )
    refused(conn, code, call.format(last_deletion(conn)))


def test_a_copy_into_the_table_itself_leaves_the_buffer(t: Connection) -> None:
    assert restore(t, f"'t', deletion => {last_deletion(t)}, into_table => 't'") == [("t", 3)]
    assert (value(t, "select count(*) from t"), value(t, "select count(*) from grace_buffer.t")) == (3, 3)


def test_generated_and_identity_columns_and_sequences(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int generated always as identity primary key, d int generated by default as identity,"
        " s serial, a int, twice int generated always as (a * 2) stored);\n"
        "insert into t (a) values (1), (2);\nselect grace.protect('t');\ndelete from t where a = 1;\n"
        "alter table t add more int generated always as (a * 3) stored",
    )
    before = rows(conn, "select sequencename, last_value from pg_sequences where schemaname = 'public' order by 1")
    assert as_planned(conn, "'t', keys => '1'")[0][:2] == ("t", 1)
    assert rows(conn, "select * from t where id = 1") == [(1, 1, 1, 1, 2, 3)]
    assert (
        rows(conn, "select sequencename, last_value from pg_sequences where schemaname = 'public' order by 1") == before
    )
    conn.execute(b"update t set a = 5 where id = 2")
    deleted(conn, "delete from t where id = 2")
    conn.execute(b"insert into t (id, a) overriding system value values (2, 6)")
    assert as_planned(conn, "'t', keys => '2', on_conflict => 'replace'")[0][:3] == ("t", 1, 1)
    assert rows(conn, "select id, a, twice, more from t where id = 2") == [(2, 5, 10, 15)]


TRIGGERS = """create table seen (what text);
create function see() returns trigger language plpgsql as
 $$ begin insert into seen values (tg_name || ' ' || tg_table_name); return coalesce(new, old); end $$;
create table a (id int primary key);
create table b (id int primary key, a_id int references a on delete set null);
create trigger t_usual after insert on a for each row execute function see();
create trigger t_always after insert on a for each row execute function see();
alter table a enable always trigger t_always;
create trigger t_replica after insert on a for each row execute function see();
alter table a enable replica trigger t_replica;
create trigger t_off after insert on a for each row execute function see();
alter table a disable trigger t_off;
create trigger t_statement after insert on a execute function see();
create trigger t_delete after delete on a for each row execute function see();
create trigger t_update after update on b for each row execute function see();
insert into a values (1), (2);
insert into b values (1, 1);
select grace.protect('a');
delete from a where id = 1;
delete from seen"""


@pytest.fixture
def triggers(conn: Connection) -> Connection:
    script(conn, TRIGGERS)
    return conn


def enabled(conn: Connection) -> list[Any]:
    return rows(conn, "select tgrelid::regclass::text, tgname::text, tgenabled::text from pg_trigger order by 1, 2")


def test_triggers_fire_as_on_any_insert(triggers: Connection) -> None:
    before = enabled(triggers)
    assert as_planned(triggers, "'a', keys => '1'")[0][:6] == ("a", 1, 0, 0, 0, 1)
    assert rows(triggers, "select what from seen order by 1") == [
        ("t_always a",),
        ("t_statement a",),
        ("t_update b",),
        ("t_usual a",),
    ]
    assert enabled(triggers) == before


def test_without_triggers_none_fires_and_all_are_as_before(triggers: Connection) -> None:
    before = enabled(triggers)
    assert as_planned(triggers, "'a', keys => '1', triggers => false")[0][:6] == ("a", 1, 0, 0, 0, 1)
    assert rows(triggers, "select * from seen") == []
    assert rows(triggers, "select a_id from b") == [(1,)]
    assert enabled(triggers) == before
    deleted(triggers, "delete from a where id = 1")
    assert rows(triggers, "select what from seen order by 1") == [("t_delete a",), ("t_update b",)]
    assert value(triggers, "select count(*) from grace_buffer.a") == 1


def test_after_a_failure_the_triggers_are_as_before(triggers: Connection) -> None:
    before = enabled(triggers)
    triggers.execute(b"alter table a add constraint no check (id > 1) not valid")
    refused(triggers, "GR011", "'a', keys => '1', triggers => false")
    assert enabled(triggers) == before
    assert restore(triggers, "'a', keys => '1', triggers => false, on_conflict => 'skip'") == [("a", 0)]
    assert enabled(triggers) == before


def test_without_triggers_of_partitions_too(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key) partition by range (id);\n"
        "create table t_1 partition of t for values from (0) to (10);\ncreate table seen (x int);\n"
        "create function see() returns trigger language plpgsql as 'begin insert into seen values (1); return new; end';\n"
        "create trigger on_root after insert on t for each row execute function see();\n"
        "create trigger on_leaf before insert on t_1 for each row execute function see();\n"
        "alter table t_1 enable always trigger on_root;\n"
        "insert into t values (1);\nselect grace.protect('t');\ndelete from t;\ndelete from seen",
    )
    before = enabled(conn)
    assert restore(conn, "'t', keys => '1', triggers => false") == [("t", 1)]
    assert rows(conn, "select * from seen") == []
    assert enabled(conn) == before


def test_foreign_keys_are_checked_without_triggers_too(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key);\ncreate table b (id int primary key, a_id int references a on delete cascade);\n"
        "insert into a values (1);\ninsert into b values (1, 1);\nselect grace.protect('a');\ndelete from b;\ndelete from a",
    )
    assert refused(conn, "GR011", "'b', keys => '1', triggers => false")


def test_who_does_not_own_the_table_can_not_do_without_its_triggers(
    db: Database, triggers: Connection, role: Any
) -> None:
    operator = role("operator")
    triggers.execute(f"grant grace_operator to {operator}; grant all on a, b, seen to {operator}".encode())
    session = db.connect(user=operator)
    before = state(triggers)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        restore(session, "'a', keys => '1', triggers => false")
    assert state(triggers) == before
    assert restore(session, "'a', keys => '1'") == [("a", 1)]


def test_a_deferred_constraint_that_holds_only_at_the_end_is_kept(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key, a int unique deferrable initially deferred);\n"
        "insert into t values (1, 10), (2, 20);\nselect grace.protect('t');\ndelete from t",
    )
    with conn.transaction():
        conn.execute(b"insert into t values (3, 10)")
        conn.execute(b"update t set a = 30 where id = 3")
        assert restore(conn, "'t', deleted_to => 'infinity'") == [("t", 2)]
        conn.execute(b"insert into t values (4, 10)")
        conn.execute(b"update t set a = 40 where id = 4")
    conn.execute(b"delete from t where id < 3; insert into t values (5, 20)")
    assert [found[2:] for found in conflicts(conn, "'t', deleted_to => 'infinity'")] == [
        ("t_a_key", "key (a)=(20) is taken by a row that is there now")
    ]
    refused(conn, "GR011", "'t', deleted_to => 'infinity'")
    assert restore(conn, "'t', deleted_to => 'infinity', on_conflict => 'skip'") == [("t", 1)]


LINKS = {
    "set null": (
        "create table a (id int primary key);\ncreate table b (id int primary key, a_id int references a on delete set null)",
        "insert into a values (1), (2), (9);\ninsert into b values (1, 1), (2, 1), (3, 2), (4, null)",
        [(1, 1), (2, 1), (3, 2), (4, None)],
        3,
    ),
    "set default": (
        "create table a (id int primary key);\n"
        "create table b (id int primary key, a_id int default 9 references a on delete set default)",
        "insert into a values (1), (2), (9);\ninsert into b values (1, 1), (2, 1), (3, 2), (4, 9)",
        [(1, 1), (2, 1), (3, 2), (4, 9)],
        3,
    ),
    "deferrable": (
        "create table a (id int primary key);\n"
        "create table b (id int primary key, a_id int references a on delete set null deferrable initially deferred)",
        "insert into a values (1), (2), (9);\ninsert into b values (1, 1), (2, 1), (3, 2), (4, null)",
        [(1, 1), (2, 1), (3, 2), (4, None)],
        3,
    ),
    "to a partitioned table": (
        "create table a (id int primary key) partition by list (id);\ncreate table a_1 partition of a for values in (1);\n"
        "create table a_2 partition of a default;\n"
        "create table b (id int primary key, a_id int references a on delete set null)",
        "insert into a values (1), (2), (9);\ninsert into b values (1, 1), (2, 1), (3, 2), (4, null)",
        [(1, 1), (2, 1), (3, 2), (4, None)],
        3,
    ),
    "from a partitioned table": (
        "create table a (id int primary key);\n"
        "create table b (id int primary key, a_id int references a on delete set null) partition by range (id);\n"
        "create table b_1 partition of b for values from (0) to (3);\ncreate table b_2 partition of b default",
        "insert into a values (1), (2), (9);\ninsert into b values (1, 1), (2, 1), (3, 2), (4, null)",
        [(1, 1), (2, 1), (3, 2), (4, None)],
        3,
    ),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_that_were_cut_are_tied_again(conn: Connection, name: str) -> None:
    tables, data, before, count = LINKS[name]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    assert as_planned(conn, f"deletion => {deletion}")[0][:6] == ("a", 2, 0, 0, 0, count)
    assert rows(conn, "select id, a_id from b order by 1") == before
    assert value(conn, "select count(*) from grace_internal.cut") == 0


def test_relink_false_leaves_them_cut(conn: Connection) -> None:
    tables, data, *_ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    assert as_planned(conn, f"deletion => {deletion}, relink => false")[0][:6] == ("a", 2, 0, 0, 0, 0)
    assert rows(conn, "select id, a_id from b order by 1") == [(1, None), (2, None), (3, None), (4, None)]


def test_only_what_leads_to_a_restored_row_is_tied_and_the_rest_later(conn: Connection) -> None:
    tables, data, before, _ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    assert as_planned(conn, "'a', keys => '1'")[0][:6] == ("a", 1, 0, 0, 0, 2)
    assert rows(conn, "select id, a_id from b order by 1") == [(1, 1), (2, 1), (3, None), (4, None)]
    assert as_planned(conn, f"deletion => {deletion}")[0][:6] == ("a", 1, 0, 0, 0, 1)
    assert rows(conn, "select id, a_id from b order by 1") == before


def test_a_row_that_has_moved_on_or_gone_is_left_alone(conn: Connection) -> None:
    tables, data, *_ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    conn.execute(b"update b set a_id = 9 where id = 1; delete from b where id = 2; update b set id = 33 where id = 3")
    assert as_planned(conn, f"deletion => {deletion}")[0][:6] == ("a", 2, 0, 0, 0, 0)
    assert rows(conn, "select id, a_id from b order by 1") == [(1, 9), (4, None), (33, None)]


def test_composite_links_and_set_null_of_some_columns(conn: Connection) -> None:
    script(
        conn,
        "create table a (x int, y text, primary key (x, y));\n"
        "create table b (id int, part text, x int, y text, primary key (id, part),"
        " foreign key (x, y) references a on delete set null (y));\n"
        "insert into a values (1, 'it''s'), (1, '');\n"
        "insert into b values (1, 'p', 1, 'it''s'), (1, 'q', 1, ''), (2, 'p', 1, null);\nselect grace.protect('a')",
    )
    deletion = deleted(conn, "delete from a")
    assert rows(conn, "select * from b order by 1, 2") == [(1, "p", 1, None), (1, "q", 1, None), (2, "p", 1, None)]
    assert as_planned(conn, f"deletion => {deletion}")[0][:6] == ("a", 2, 0, 0, 0, 2)
    assert rows(conn, "select * from b order by 1, 2") == [(1, "p", 1, "it's"), (1, "q", 1, ""), (2, "p", 1, None)]


def test_a_self_reference_whose_child_lives_on(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key, boss int references t on delete set null);\n"
        "insert into t values (1, null), (2, 1), (3, 2), (4, 2);\nselect grace.protect('t')",
    )
    deletion = deleted(conn, "delete from t where id = 2")
    assert as_planned(conn, f"deletion => {deletion}")[0][:6] == ("t", 1, 0, 0, 0, 2)
    assert rows(conn, "select * from t order by 1") == [(1, None), (2, 1), (3, 2), (4, 2)]
    deletion = deleted(conn, "delete from t where id in (2, 3)")
    assert as_planned(conn, f"deletion => {deletion}")[0][1] == 2
    assert rows(conn, "select * from t order by 1") == [(1, None), (2, 1), (3, 2), (4, 2)]


def test_a_child_that_is_restored_too_gets_its_link_back(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key);\ncreate table m (id int primary key, a_id int references a on delete cascade);\n"
        "create table b (id int primary key, a_id int references a on delete set null, m_id int references m on delete cascade);\n"
        "insert into a values (1);\ninsert into m values (1, 1);\ninsert into b values (1, 1, 1), (2, 1, null);\n"
        "select grace.protect('a')",
    )
    deletion = deleted(conn, "delete from a")
    done = as_planned(conn, f"deletion => {deletion}")
    assert [(row[0], row[1]) for row in done] == [("a", 1), ("b", 1), ("m", 1)]
    assert rows(conn, "select * from b order by 1") == [(1, 1, 1), (2, 1, None)]


def test_a_link_that_two_deletions_have_cut_leads_to_what_it_led_to_last(conn: Connection) -> None:
    tables, data, *_ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deleted(conn, "delete from a where id = 1")
    conn.execute(b"update b set a_id = 2 where id = 1")
    deleted(conn, "delete from a where id = 2")
    assert as_planned(conn, "'a', deleted_to => 'infinity'")[0][:2] == ("a", 2)
    assert rows(conn, "select id, a_id from b order by 1") == [(1, 2), (2, 1), (3, 2), (4, None)]


def test_links_follow_renamed_columns_and_a_foreign_key_that_is_gone_ties_nothing(conn: Connection) -> None:
    tables, data, before, _ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    script(conn, "alter table b rename a_id to up;\nalter table b rename to child;\nalter table child rename id to key")
    with conn.transaction(force_rollback=True):
        assert restore(conn, f"deletion => {deletion}", "relinked") == [("a", 3)]
        assert rows(conn, "select key, up from child order by 1") == before
    conn.execute(b"alter table child drop constraint b_a_id_fkey")
    assert as_planned(conn, f"deletion => {deletion}")[0][:6] == ("a", 2, 0, 0, 0, 0)


def test_skipped_rows_get_no_links_and_replaced_rows_do(conn: Connection) -> None:
    tables, data, *_ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nalter table a add v text;\nupdate a set v = 'old';\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    conn.execute(b"insert into a values (1, 'new')")
    with conn.transaction(force_rollback=True):
        assert restore(conn, f"deletion => {deletion}, on_conflict => 'skip'", "restored", "relinked") == [("a", 1, 1)]
        assert rows(conn, "select id, a_id from b order by 1") == [(1, None), (2, None), (3, 2), (4, None)]
    done = as_planned(conn, f"deletion => {deletion}, on_conflict => 'replace'")
    assert done[0][:6] == ("a", 2, 1, 0, 0, 3)
    assert rows(conn, "select id, a_id from b order by 1") == [(1, 1), (2, 1), (3, 2), (4, None)]


def test_tying_again_takes_update_on_the_referencing_table(db: Database, conn: Connection, role: Any) -> None:
    tables, data, *_ = LINKS["set null"]
    script(conn, f"{tables};\n{data};\nselect grace.protect('a')")
    deletion = deleted(conn, "delete from a where id < 9")
    operator = role("operator")
    conn.execute(f"grant grace_operator to {operator}; grant select, insert on a to {operator}".encode())
    session = db.connect(user=operator)
    before = state(conn)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        restore(session, f"deletion => {deletion}")
    assert state(conn) == before
    assert restore(session, f"deletion => {deletion}, relink => false", "relinked") == [("a", 0)]
    assert rows(conn, "select id, a_id from b order by 1") == [(1, None), (2, None), (3, None), (4, None)]
