"""What becomes of a protected table by DDL: inheritance, new cascades, partitions, types; with event triggers and without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.server import Server


def has_event_triggers(conn: Connection) -> bool:
    return bool(value(conn, "select grace_internal.has_event_triggers()"))


def sync(conn: Connection) -> dict[str, str]:
    return dict(rows(conn, "select protected_table::text, status from grace.sync()"))


def states(conn: Connection) -> dict[str, str]:
    return dict(rows(conn, "select target::text, state from grace.protected order by 1"))


# --- Inheritance ------------------------------------------------------------------------------------------------------


@pytest.fixture
def animals(owner: Connection) -> Connection:
    """Three generations that inherit, with columns of their own, and a row in each."""
    owner.execute("""
        create table animal (id int primary key, name text);
        create table dog (weight numeric) inherits (animal);
        create table husky (races jsonb) inherits (dog);
        insert into animal values (1, 'a');
        insert into dog values (2, 'd', 12.50);
        insert into husky values (3, 'h', 31.0, '{"won": [1, 2]}');
    """)
    assert rows(owner, "select protected_table::text, status from grace.protect('animal') order by 1") == [
        ("animal", "protected"),
        ("dog", "protected"),
        ("husky", "protected"),
    ]
    return owner


def buffered_animals(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(
        conn,
        "select id, name, null, null from grace_buffer.animal union all"
        " select id, name, weight::text, null from grace_buffer.dog union all"
        " select id, name, weight::text, races::text from grace_buffer.husky order by 1",
    )


ANIMALS = [(1, "a", None, None), (2, "d", "12.50", None), (3, "h", "31.0", '{"won": [1, 2]}')]


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("delete from animal", [1, 2, 3]),
        ("delete from only animal", [1]),
        ("delete from dog", [2, 3]),
        ("delete from husky", [3]),
        ("delete from animal where id > 1 returning name", [2, 3]),
        ("with d as (delete from animal where id = 3 returning *) delete from dog where id = 2", [2, 3]),
        ("truncate animal", [1, 2, 3]),
        ("truncate only animal", [1]),
        ("truncate dog", [2, 3]),
        ("delete from animal where id = 99", []),
    ],
)
def test_each_table_of_an_inheritance_tree_keeps_its_own_columns(
    animals: Connection, statement: str, gone: list[int]
) -> None:
    animals.execute(statement.encode())
    assert buffered_animals(animals) == [row for row in ANIMALS if row[0] in gone]
    assert value(animals, "select coalesce(sum(row_count), 0)::int from grace.deletions") == len(gone)
    assert value(animals, "select count(distinct id)::int from grace.deletions") == min(len(gone), 1)


def test_an_inheritance_tree_comes_back_into_the_tables_it_came_from(animals: Connection) -> None:
    before = rows(animals, "select tableoid::regclass::text, id from animal order by 2")
    animals.execute("delete from animal")
    animals.execute("select grace.restore(deletion => (select max(id) from grace.deletions))")
    assert rows(animals, "select tableoid::regclass::text, id from animal order by 2") == before
    assert rows(animals, "select races::text from husky") == [('{"won": [1, 2]}',)]
    assert buffered_animals(animals) == []


def test_a_row_that_a_trigger_of_the_child_saves_is_not_captured(animals: Connection) -> None:
    animals.execute("""
        create function keep() returns trigger language plpgsql as 'begin return null; end';
        create trigger keep before delete on dog for each row execute function keep();
    """)
    animals.execute("delete from animal")
    assert [row[0] for row in buffered_animals(animals)] == [1, 3]


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        ("alter table dog add column coat text default 'rough'", "coat", "rough"),
        ("alter table dog alter column weight type text using 'w' || weight", "weight", "w12.50"),
        ("alter table dog rename column weight to mass", "mass", "12.50"),
        ("alter table dog add column coat text; alter table dog drop column weight", "name", "d"),
        ("alter table dog rename to hound", "weight", "12.50"),
        ("create schema zoo; alter table dog set schema zoo", "weight", "12.50"),
    ],
)
def test_a_change_of_a_child_loses_no_value_in_a_session_that_has_deleted_before(
    animals: Connection, change: str, column: str, expected: str
) -> None:
    animals.execute("insert into dog values (9, 'first', 1)")
    animals.execute("delete from animal where id = 9")
    animals.execute(change.encode())
    animals.execute("delete from animal where id = 2")
    assert value(animals, f"select {column}::text from grace_buffer.dog where id = 2") == expected


def test_a_child_that_comes_later_is_captured_or_the_delete_fails(animals: Connection) -> None:
    animals.execute("create table cat (lives int) inherits (animal); insert into cat values (4, 'c', 9)")
    if not has_event_triggers(animals):
        with pytest.raises(psycopg.Error) as caught:
            animals.execute("delete from animal where id = 4")
        assert caught.value.sqlstate == "GR019"
        assert "sync" in (caught.value.diag.message_hint or "")
        assert sync(animals)["cat"] == "protected"
    animals.execute("delete from animal where id = 4")
    assert rows(animals, "select id, name, lives from grace_buffer.cat") == [(4, "c", 9)]


@pytest.mark.parametrize("protected_before", [True, False])
def test_a_table_that_begins_to_inherit_is_captured_or_the_delete_fails(
    animals: Connection, protected_before: bool
) -> None:
    animals.execute("create table cat (id int not null, name text, lives int); insert into cat values (4, 'c', 9)")
    if protected_before:
        animals.execute("select grace.protect('cat')")
    animals.execute("alter table cat inherit animal")
    if not has_event_triggers(animals):
        with pytest.raises(psycopg.Error) as caught:
            animals.execute("delete from animal where id = 4")
        assert caught.value.sqlstate == "GR019"
        sync(animals)
    animals.execute("delete from animal where id = 4")
    assert rows(animals, "select id, name, lives from grace_buffer.cat") == [(4, "c", 9)]
    assert [row[0] for row in buffered_animals(animals)] == []


def test_a_table_that_no_longer_inherits_is_captured_on(animals: Connection) -> None:
    animals.execute("alter table husky no inherit dog")
    animals.execute("delete from husky; delete from animal")
    assert buffered_animals(animals) == ANIMALS
    sync(animals)
    animals.execute("insert into husky values (5, 'x', 1, null); delete from husky")
    assert [row[0] for row in buffered_animals(animals)] == [1, 2, 3, 5]
    assert set(states(animals).values()) == {"capturing"}


def test_a_child_of_a_protected_table_can_not_be_unprotected_alone(animals: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        animals.execute("select grace.unprotect('dog')")
    assert caught.value.sqlstate == "GR002"
    for table in ("animal", "dog", "husky"):
        animals.execute("select grace.unprotect(%s::text::regclass)", [table])
    animals.execute("delete from animal")
    assert buffered_animals(animals) == []


def test_only_the_child_is_protected_when_only_the_child_is_asked_for(owner: Connection) -> None:
    owner.execute("create table base (id int); create table heir (x int) inherits (base)")
    owner.execute("select grace.protect('heir')")
    owner.execute("insert into base values (1); insert into heir values (2, 2)")
    owner.execute("delete from base")
    assert rows(owner, "select id, x from grace_buffer.heir") == [(2, 2)]
    assert states(owner) == {"heir": "capturing"}


# --- New cascades -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ddl",
    [
        "create table line (id int primary key, bill int references bill on delete cascade)",
        "create table line (id int primary key, bill int);"
        "alter table line add foreign key (bill) references bill on delete cascade",
        "create table line (id int primary key, bill int, foreign key (bill) references bill on delete cascade)"
        " partition by range (id); create table line_1 partition of line default",
    ],
    ids=["created", "added", "partitioned"],
)
def test_a_table_that_comes_to_cascade_is_captured_or_the_delete_fails(owner: Connection, ddl: str) -> None:
    owner.execute("create table bill (id int primary key)")
    owner.execute("select grace.protect('bill', '10 days')")
    owner.execute("insert into bill values (1), (2); delete from bill where id = 2")
    owner.execute(ddl.encode())
    owner.execute("insert into line values (7, 1)")
    if not has_event_triggers(owner):
        with pytest.raises(psycopg.Error) as caught:
            owner.execute("delete from bill where id = 1")
        assert caught.value.sqlstate == "GR019"
        assert "line" in (caught.value.diag.message_detail or "")
        assert sync(owner)["line"] == "protected"
    owner.execute("delete from bill where id = 1")
    assert rows(owner, "select id, bill from grace_buffer.line") == [(7, 1)]
    assert rows(owner, "select distinct retention::text from grace.protected") == [("10 days",)]


def test_a_delete_that_waited_for_such_a_change_sees_it(owner: Connection) -> None:
    owner.execute("create table bill (id int primary key)")
    owner.execute("select grace.protect('bill')")
    owner.execute("insert into bill values (1), (2)")
    with psycopg.connect(owner.info.dsn, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        with owner.transaction():
            owner.execute("alter table bill add column note text")
            owner.execute("create table line (id int primary key, bill int references bill on delete cascade)")
            owner.execute("insert into line values (7, 1)")
            waiting = pool.submit(other.execute, "delete from bill where id = 1")
            while not value(
                owner, "select count(*) from pg_locks where pid = %s and not granted", other.info.backend_pid
            ):
                assert not waiting.done()
        if has_event_triggers(owner):
            waiting.result(20)
            assert rows(owner, "select id, bill from grace_buffer.line") == [(7, 1)]
        else:
            with pytest.raises(psycopg.Error) as caught:
                waiting.result(20)
            assert caught.value.sqlstate == "GR019"
            assert value(owner, "select count(*) from line") == 1


def test_a_grandchild_is_followed_as_well(owner: Connection) -> None:
    owner.execute("create table bill (id int primary key)")
    owner.execute("select grace.protect('bill')")
    owner.execute("""
        create table line (id int primary key, bill int);
        create table part (id int primary key, line int references line on delete cascade);
        alter table line add foreign key (bill) references bill on delete cascade;
        insert into bill values (1); insert into line values (1, 1); insert into part values (1, 1);
    """)
    sync(owner)
    owner.execute("delete from bill")
    assert value(owner, "select count(*) from grace_buffer.part") == 1


def test_without_cascade_nothing_is_followed(owner: Connection) -> None:
    owner.execute("create table bill (id int primary key)")
    owner.execute("select grace.protect('bill', \"cascade\" => false)")
    owner.execute("create table line (id int primary key, bill int references bill on delete cascade)")
    owner.execute("insert into bill values (1); insert into line values (1, 1); delete from bill")
    assert states(owner) == {"bill": "capturing"}


def test_a_child_that_was_unprotected_is_left_so_and_does_not_stop_the_parent(owner: Connection) -> None:
    owner.execute("create table bill (id int primary key)")
    owner.execute("create table line (id int primary key, bill int references bill on delete cascade)")
    owner.execute("select grace.protect('bill'); select grace.unprotect('line')")
    owner.execute("alter table bill add column note text; alter table line add column note text")
    sync(owner)
    owner.execute("insert into bill values (1); insert into line values (1, 1); delete from bill")
    assert states(owner) == {"bill": "capturing", "line": "unprotected"}
    assert value(owner, "select count(*) from grace_buffer.line") == 0
    owner.execute("select grace.protect('line')")
    owner.execute("insert into bill values (1); insert into line values (1, 1); delete from bill")
    assert value(owner, "select count(*) from grace_buffer.line") == 1


def test_a_child_that_can_not_be_protected_is_reported_and_does_not_stop_the_parent(owner: Connection) -> None:
    owner.execute("create table bill (id int primary key)")
    owner.execute("select grace.protect('bill')")
    owner.execute("create table line (grace_x int, bill int references bill on delete cascade)")
    if not has_event_triggers(owner):
        assert sync(owner)["line"] == "not protected"
    owner.execute("insert into bill values (1); insert into line values (1, 1); delete from bill")
    assert rows(owner, "select object, severity from grace.doctor() where subject = 'cascade'") == [
        ("public.line", "problem")
    ]


# --- Partitions -------------------------------------------------------------------------------------------------------

PARTITIONS = [
    "create table east partition of place for values in ('east')",
    "create table east (extra int, region text not null, id int not null); alter table east drop column extra;"
    "alter table place attach partition east for values in ('east')",
    "create table east partition of place default partition by range (id);"
    "create table east_1 partition of east for values from (0) to (100)",
    "create table other partition of place default; alter table place detach partition other;"
    "create table east partition of place for values in ('east')",
]


@pytest.mark.parametrize("ddl", PARTITIONS, ids=["created", "attached", "two levels", "after a detach"])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("statement", ["delete from place", "delete from east", "delete from place where id = 2"])
def test_a_new_partition_is_captured_from_the_first_row_on_and_once(
    owner: Connection, ddl: str, warm: bool, statement: str
) -> None:
    owner.execute("create table place (id int, region text) partition by list (region)")
    owner.execute("create table west partition of place for values in ('west')")
    owner.execute("select grace.protect('place')")
    if warm:
        owner.execute("insert into place values (0, 'west'); delete from place")
    owner.execute(ddl.encode())
    owner.execute("insert into place values (1, 'west'), (2, 'east'), (3, 'east')")
    live = set(rows(owner, "select id from place"))
    owner.execute(statement.encode())
    gone = live - set(rows(owner, "select id from place"))
    assert rows(owner, "select id from grace_buffer.place where id > 0 order by id") == sorted(gone)
    assert rows(owner, "select sum(row_count)::int from grace.deletions") == [(len(gone) + warm,)]

    sync(owner)
    owner.execute("truncate place")
    assert rows(owner, "select id from grace_buffer.place where id > 0 order by id") == sorted(live)
    owner.execute("insert into place values (4, 'east'), (5, 'west'); delete from east; delete from place")
    assert rows(owner, "select id from grace_buffer.place where id > 3 order by id") == [(4,), (5,)]
    assert rows(owner, "select * from grace.verify_buffer()") == []


def test_a_row_that_leaves_a_new_partition_by_update_is_no_deletion_with_event_triggers(conn: Connection) -> None:
    conn.execute("create table place (id int, region text) partition by list (region)")
    conn.execute("select grace.protect('place')")
    conn.execute("create table east partition of place for values in ('east')")
    conn.execute("create table west partition of place for values in ('west')")
    conn.execute("insert into place values (1, 'east'); update place set region = 'west'")
    assert value(conn, "select count(*) from grace_buffer.place") == 0


# --- Owners and types -------------------------------------------------------------------------------------------------


def test_a_new_owner_changes_nothing(conn: Connection, db: Database, role: Any) -> None:
    app = role("app")
    conn.execute("create table thing (id int primary key, v text); insert into thing values (1, 'x'), (2, 'y')")
    conn.execute("select grace.protect('thing')")
    conn.execute(f"grant create on schema public to {app}; alter table thing owner to {app}")
    session = db.connect(user=app)
    session.execute("delete from thing where id = 1")
    session.execute("alter table thing add column late text default 'l'; delete from thing where id = 2")
    assert rows(conn, "select id, v, late from grace_buffer.thing order by 1") == [(1, "x", "l"), (2, "y", "l")]


def test_a_former_column_goes_when_nothing_is_left_that_had_it(conn: Connection) -> None:
    conn.execute(b"create type mood as enum ('sad', 'ok'); create table thing (id int primary key, m mood)")
    conn.execute("select grace.protect('thing')")
    conn.execute("insert into thing values (1, 'ok'); delete from thing")
    conn.execute("alter table thing drop column m")
    conn.execute("call grace.purge()")
    assert rows(conn, "select id, m::text from grace_buffer.thing") == [(1, "ok")]
    conn.execute("select grace.set_retention('thing', '1 second'); select pg_sleep(1.1)")
    for _ in range(2):
        conn.execute("call grace.purge()")
    columns = rows(
        conn,
        "select attname from pg_attribute where attrelid = 'grace_buffer.thing'::regclass and attnum > 0"
        " and not attisdropped",
    )
    assert columns == [("id",), ("grace_deletion",), ("grace_deleted_at",)]


@pytest.fixture
def moody(conn: Connection) -> Connection:
    """A protected table with columns of the application's types, and a row in the buffer."""
    conn.execute(b"""
        create schema feelings; create type feelings.mood as enum ('sad', 'ok'); set search_path = public, feelings;
        create type feelings.pair as (a int, b mood);
        create table thing (id int primary key, m mood, ms mood[], p pair);
    """)
    conn.execute("select grace.protect('thing')")
    conn.execute("insert into thing values (1, 'ok', '{sad}', row(1, 'ok')), (2, 'sad', null, null)")
    conn.execute("delete from thing where id = 1")
    return conn


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table thing drop column m, drop column ms, drop column p; drop schema feelings cascade",
        "alter table thing drop column m, drop column ms, drop column p; drop type pair; drop type mood",
        "alter table thing alter m type text, alter ms type text[] using ms::text[], alter p type text;"
        "drop type pair; drop type mood",
    ],
)
def test_a_type_can_be_dropped_when_the_table_has_it_no_more_and_its_values_stay(moody: Connection, ddl: str) -> None:
    moody.execute(ddl.encode())
    moody.execute("delete from thing where id = 2")
    kept = value(moody, "select record::text from grace.buffered('thing') where record ->> 'id' = '1'")
    assert all(part in kept for part in ('"ok"', '"{sad}"', '"(1,ok)"'))
    assert rows(moody, "select * from grace.verify_buffer()") == []


@pytest.mark.parametrize(
    "ddl",
    [
        "drop type mood cascade",
        "drop schema feelings cascade",
        "do $$ begin execute 'drop type mo' || 'od cascade'; end $$",
    ],
)
def test_a_type_does_not_take_what_is_buffered_with_it(moody: Connection, ddl: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        moody.execute(ddl.encode())
    assert caught.value.sqlstate == "GR021"
    assert "column first" in (caught.value.diag.message_hint or "")
    assert rows(moody, "select id, m::text from grace_buffer.thing") == [(1, "ok")]
    moody.execute("set grace.allow_drop = on")
    moody.execute(ddl.encode())
    moody.execute("delete from thing where id = 2")
    assert rows(moody, "select id from grace_buffer.thing order by 1") == [(1,), (2,)]


def test_rewriting_a_column_does_not_hide_what_was_changed_by_hand(moody: Connection) -> None:
    moody.execute("update grace_buffer.thing set m = 'sad'")
    moody.execute("alter table thing drop column m")
    assert rows(moody, "select finding, row_count from grace.verify_buffer()") == [("written or changed by hand", 1)]


def test_a_table_with_many_partitions_is_protected_without_recursion(conn: Connection) -> None:
    conn.execute("create table place (id int) partition by range (id)")
    for number in range(60):
        conn.execute(f"create table place_{number} partition of place for values from ({number}) to ({number + 1})")
    conn.execute("set statement_timeout = '60s'")
    conn.execute("select grace.protect('place')")
    assert value(conn, "select state from grace.protected") == "capturing"
    assert value(conn, "select current_setting('grace.following', true)") in (None, "")


def test_what_happens_deep_in_a_tree_is_seen_by_a_session_that_knows_its_root(owner: Connection) -> None:
    owner.execute("""
        create table animal (id int primary key, name text); create table dog (weight int) inherits (animal);
        create table place (id int, region text) partition by list (region);
        create table west partition of place for values in ('west') partition by range (id);
        create table west_1 partition of west for values from (0) to (10);
        alter table west_1 add unique (id);
    """)
    owner.execute("select grace.protect('animal'); select grace.protect('place')")
    owner.execute("insert into animal values (0, 'x'); insert into place values (0, 'west'); delete from animal")
    owner.execute("delete from place")
    owner.execute("create table husky (races int) inherits (dog); insert into husky values (1, 'h', 2, 3)")
    owner.execute("create table west_2 partition of west for values from (10) to (20)")
    owner.execute("insert into place values (1, 'west'), (11, 'west')")
    if not has_event_triggers(owner):
        with pytest.raises(psycopg.Error) as caught:
            owner.execute("delete from animal where id = 1")
        assert caught.value.sqlstate == "GR019"
        owner.execute("select grace.sync('dog')")
    owner.execute("delete from animal where id = 1")
    owner.execute("delete from place where id = 11")
    assert rows(owner, "select id, races from grace_buffer.husky") == [(1, 3)]
    assert rows(owner, "select id from grace_buffer.place where id > 0") == [(11,)]

    owner.execute("create table visit (place int references west_1 (id) on delete cascade)")
    owner.execute("insert into visit values (1)")
    if not has_event_triggers(owner):
        with pytest.raises(psycopg.Error) as caught:
            owner.execute("delete from place where id = 1")
        assert caught.value.sqlstate == "GR019"
        sync(owner)
    owner.execute("delete from place where id = 1")
    assert rows(owner, "select place from grace_buffer.visit") == [(1,)]


def test_a_partition_can_be_made_by_a_role_without_any_right_of_ours(
    owner: Connection, server: Server, role: Any
) -> None:
    app = role("app")
    owner.execute("create table place (id int, region text, image oid) partition by list (region)")
    owner.execute("select grace.protect('place', files => '{image}')")
    with psycopg.connect(server.conninfo(owner.info.dbname), autocommit=True) as admin:
        admin.execute(f"grant create on schema public to {app}; alter table place owner to {app}".encode())
    with psycopg.connect(server.conninfo(owner.info.dbname), user=app, autocommit=True) as session:
        session.execute("create table west partition of place for values in ('west')")
        session.execute("insert into place values (1, 'west'); delete from west")
    assert rows(owner, "select id from grace_buffer.place") == [(1,)]


def test_a_protected_table_that_becomes_a_partition_is_protected_with_its_tree(owner: Connection) -> None:
    owner.execute("create table west (id int, region text not null)")
    owner.execute("select grace.protect('west', '9 days')")
    owner.execute("insert into west values (1, 'west'), (2, 'west'); delete from west where id = 1")
    owner.execute("create table place (id int, region text not null) partition by list (region)")
    owner.execute("alter table place attach partition west for values in ('west')")
    sync(owner)
    owner.execute("delete from place where id = 2")
    assert states(owner) == {"place": "capturing", "west": "unprotected"}
    assert rows(owner, "select distinct retention::text from grace.protected") == [("9 days",)]
    for (deletion,) in rows(owner, "select id from grace.deletions order by 1"):
        owner.execute("select grace.restore(deletion => %s)", (deletion,))
    assert rows(owner, "select id from place order by 1") == [(1,), (2,)]
