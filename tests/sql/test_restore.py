"""Restore: all of what is selected or nothing, exactly once, in any foreign-key shape."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pg_grace.connection import Connection
from tests.conftest import Database, checksum, rows, value

SHOP = """
create table company (id int generated always as identity primary key, name text unique);
create table invoice (
  id serial primary key, company_id int not null references company on delete cascade,
  total numeric(10, 2) check (total >= 0)
);
create table item (
  invoice_id int references invoice on delete cascade, line int, label varchar(20) not null,
  twice int generated always as (line * 2) stored, primary key (invoice_id, line)
);
insert into company (name) select 'company ' || n from generate_series(1, 10) n;
insert into invoice (company_id, total) select n % 10 + 1, n from generate_series(1, 40) n;
insert into item select i, l, 'item' from generate_series(1, 40) i, generate_series(1, 3) l;
select grace.protect('company');
"""
TABLES = ("company", "invoice", "item")


@pytest.fixture
def shop(conn: Connection) -> Connection:
    conn.execute(SHOP.encode())
    return conn


def last_deletion(conn: Connection) -> int:
    return int(value(conn, "select max(id) from grace.deletions"))


def state(conn: Connection) -> list[Any]:
    return [checksum(conn, table) for table in (*TABLES, *(f"grace_buffer.{table}" for table in TABLES))]


def refused(conn: Connection, code: str, call: str, *values: Any) -> psycopg.Error:
    """The call fails with this SQLSTATE, says why and what to do, and changes nothing."""
    before = state(conn)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(call, values or None)
    assert caught.value.sqlstate == code, caught.value
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint
    assert state(conn) == before
    return caught.value


def test_a_deletion_comes_back_whole_with_children_and_grandchildren(shop: Connection) -> None:
    before = [checksum(shop, table) for table in TABLES]
    shop.execute("delete from company where id = 3")
    assert rows(
        shop, "select restored_table::text, restored from grace.restore(deletion => %s)", last_deletion(shop)
    ) == [
        ("company", 1),
        ("invoice", 4),
        ("item", 12),
    ]
    assert [checksum(shop, table) for table in TABLES] == before
    assert [value(shop, f"select count(*) from grace_buffer.{table}") for table in TABLES] == [0, 0, 0]
    assert rows(shop, "select distinct row_count = restored_count from grace.deletions") == [(True,)]


def test_what_went_before_stays_deleted(shop: Connection) -> None:
    shop.execute("delete from item where invoice_id = 2 and line = 1")
    shop.execute("delete from invoice where id = 12")
    shop.execute("delete from company where id = 3")
    shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert rows(shop, "select invoice_id, line from grace_buffer.item where line = 1 order by 1") == [(2, 1), (12, 1)]
    assert value(shop, "select count(*) from item where invoice_id = 2") == 2
    assert value(shop, "select count(*) from invoice where id = 12") == 0


def test_one_record_of_a_large_deletion_comes_back_with_what_hangs_on_it(shop: Connection) -> None:
    shop.execute("delete from company")
    assert rows(
        shop, "select restored_table::text, restored from grace.restore('company', keys => '[3, {\"id\": 4}]')"
    ) == [
        ("company", 2),
        ("invoice", 8),
        ("item", 24),
    ]
    assert rows(shop, "select id from company order by id") == [(3,), (4,)]
    assert rows(shop, "select distinct row_count - restored_count from grace.deletions order by 1") == [
        (8,),
        (32,),
        (96,),
    ]


def test_a_child_brings_the_parents_it_needs_but_not_its_siblings(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    key = '{"invoice_id": 2, "line": 1}'
    assert rows(shop, "select restored_table::text, restored from grace.restore('item', keys => %s)", key) == [
        ("company", 1),
        ("invoice", 1),
        ("item", 1),
    ]


def test_alone_restores_only_the_rows_selected(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    shop.execute("select grace.restore('company', keys => '3', related => false)")
    assert value(shop, "select count(*) from company where id = 3") == 1
    assert value(shop, "select count(*) from invoice where company_id = 3") == 0
    shop.execute("select grace.restore('invoice', deletion => %s)", (last_deletion(shop),))
    assert value(shop, "select count(*) from item where invoice_id in (2, 12, 22, 32)") == 12


def test_by_time_window_from_the_first_moment_on_before_the_second(shop: Connection) -> None:
    marks = []
    for company in (1, 2, 3):
        shop.execute("delete from company where id = %s", (company,))
        marks.append(value(shop, "select max(deleted_at) from grace.deletions"))
    shop.execute("select grace.restore(deleted_from => %s, deleted_to => %s)", (marks[1], marks[2]))
    assert rows(shop, "select id from company where id < 4") == [(2,)]
    shop.execute("select grace.restore('company', deleted_from => %s)", (marks[0],))
    assert value(shop, "select count(*) from item") == 120


def test_by_who(shop: Connection, role: Any) -> None:
    clerk = role("clerk", "nologin")
    shop.execute(f"grant select, delete on company to {clerk}")
    shop.execute("delete from company where id = 1")
    with shop.transaction():
        shop.execute(f"set local role {clerk}")
        shop.execute("delete from company where id = 2")
    shop.execute("select grace.restore(deleted_by => %s)", (clerk,))
    assert rows(shop, "select id from company where id < 3") == [(2,)]


def test_the_newest_version_of_a_key_comes_back(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    shop.execute("insert into company (id, name) overriding system value values (3, 'second life')")
    shop.execute("delete from company where id = 3")
    shop.execute("select grace.restore('company', keys => '3')")
    assert rows(shop, "select name from company where id = 3") == [("second life",)]
    assert rows(shop, "select name from grace_buffer.company") == [("company 3",)]


def test_restored_and_deleted_again_is_captured_again(shop: Connection) -> None:
    for _ in range(3):
        shop.execute("delete from company where id = 3")
        shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert value(shop, "select count(*) from item") == 120
    assert value(shop, "select count(distinct id) from grace.deletions") == 3


@pytest.mark.parametrize(
    ("obstacle", "table", "constraint", "reason"),
    [
        (
            "insert into company (id, name) overriding system value values (3, 'new')",
            "company",
            "company_pkey",
            "key (id)=(3) is taken by a row that is there now",
        ),
        (
            "update company set name = 'company 3' where id = 4",
            "company",
            "company_name_key",
            "key (name)=(company 3) is taken by a row that is there now",
        ),
        (
            "alter table invoice add constraint small check (total < 30) not valid",
            "invoice",
            "small",
            "violates check (total < (30)::numeric)",
        ),
        (
            "update company set name = coalesce(name, ''); update grace_buffer.company set name = null;"
            " alter table company alter name set not null",
            "company",
            "not null",
            "column name is NOT NULL and there is no value for it",
        ),
        (
            "delete from item; delete from invoice; alter table invoice add clerk int not null",
            "invoice",
            "not null",
            "column clerk is NOT NULL and there is no value for it",
        ),
        (
            "create unique index invoice_total on invoice ((total::int)) where total > 30;"
            " insert into invoice (company_id, total) values (1, 32)",
            "invoice",
            "invoice_total",
            "key (((total)::integer))=(32) is taken by a row that is there now",
        ),
    ],
)
def test_a_conflict_stops_everything_and_is_listed(
    shop: Connection, obstacle: str, table: str, constraint: str, reason: str
) -> None:
    shop.execute("delete from company where id = 3")
    deletion = last_deletion(shop)
    shop.execute(obstacle.encode())
    error = refused(shop, "GR011", "select grace.restore(deletion => %s)", deletion)
    assert f"{reason} ({constraint})" in str(error.diag.message_detail)
    dry = rows(
        shop,
        "select restored_table::text, c ->> 'reason', c ->> 'constraint'"
        " from grace.restore(deletion => %s, dry_run => true), jsonb_array_elements(conflicts) c",
        deletion,
    )
    assert (table, reason, constraint) in dry
    assert str(error.diag.message_detail).count("\n") + 1 == len(dry)


def test_a_missing_parent_is_named(shop: Connection) -> None:
    shop.execute("delete from invoice where id = 2")
    deletion = last_deletion(shop)
    shop.execute("delete from company where id = 3")
    error = refused(shop, "GR011", "select grace.restore(deletion => %s)", deletion)
    assert error.diag.message_detail == (
        'public.invoice {"id": 2}: parent (company_id)=(3) is missing in public.company; it went in deletion '
        f"{deletion + 1} and can be brought along (invoice_company_id_fkey)"
    )


def test_every_conflicting_key_is_listed(shop: Connection) -> None:
    shop.execute("delete from company")
    shop.execute(
        "insert into company (id, name) overriding system value select n, 'x' || n from generate_series(1, 7) n"
    )
    error = refused(shop, "GR011", "select grace.restore(deletion => %s)", last_deletion(shop))
    lines = str(error.diag.message_detail).split("\n")
    assert [line.split(":")[1].rstrip("}").strip() for line in lines] == [str(n) for n in range(1, 8)]


def test_of_two_versions_of_a_key_in_one_selection_the_newest_comes_back(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    shop.execute("insert into company (id, name) overriding system value values (3, 'second life')")
    shop.execute("delete from company where id = 3")
    done = rows(
        shop,
        "select restored, older from grace.restore('company', deleted_by => 'postgres')"
        " where restored_table = 'company'::regclass",
    )
    assert done == [(1, 1)]
    assert rows(shop, "select name from company where id = 3") == [("second life",)]
    assert rows(shop, "select record ->> 'name' from grace.buffered('company')") == [("company 3",)]


def test_a_violation_that_no_query_foresees_is_shown_as_postgresql_says_it(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    shop.execute(
        b"create function refuse() returns trigger language plpgsql as"
        b" $$ begin raise check_violation using message = 'not on Sundays'; end $$;"
        b"create trigger refuse before insert on company for each row execute function refuse()"
    )
    before = state(shop)
    with pytest.raises(errors.CheckViolation, match="not on Sundays"):
        shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert state(shop) == before


def test_rows_that_a_trigger_suppresses_are_not_lost(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    shop.execute(
        b"create function suppress() returns trigger language plpgsql as $$ begin return null; end $$;"
        b"create trigger suppress before insert on item for each row execute function suppress()"
    )
    refused(shop, "GR012", "select grace.restore(deletion => %s)", last_deletion(shop))


def test_a_dry_run_changes_nothing_even_in_a_read_only_transaction(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    deletion = last_deletion(shop)
    before = (state(shop), value(shop, "select count(*) from grace.runs"))
    with shop.transaction():
        shop.execute("set transaction read only")
        planned = rows(
            shop, "select restored_table::text, restored from grace.restore(deletion => %s, dry_run => true)", deletion
        )
    assert planned == [("company", 1), ("invoice", 4), ("item", 12)]
    assert (state(shop), value(shop, "select count(*) from grace.runs")) == before
    assert planned == rows(shop, "select restored_table::text, restored from grace.restore(deletion => %s)", deletion)


def test_restored_twice_the_second_is_told_by_whom(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    deletion = last_deletion(shop)
    shop.execute("select grace.restore(deletion => %s)", (deletion,))
    error = refused(shop, "GR007", "select grace.restore(deletion => %s)", deletion)
    assert "Restored by postgres at 20" in str(error.diag.message_detail)


@pytest.mark.parametrize("selection", ["deletion => {}", "'company', keys => '3'"])
def test_two_sessions_at_once_one_wins_and_the_other_is_told(db: Database, shop: Connection, selection: str) -> None:
    before = [checksum(shop, table) for table in TABLES]
    shop.execute("delete from company where id = 3")
    call = f"select grace.restore({selection.format(last_deletion(shop))})"
    told: list[psycopg.Error] = []

    def second() -> None:
        with psycopg.connect(db.conninfo, autocommit=True) as other:
            try:
                other.execute(call.encode())
            except psycopg.Error as error:
                told.append(error)

    thread = threading.Thread(target=second)
    with shop.transaction():
        shop.execute(call.encode())
        thread.start()
        while not value(db.connect(), "select count(*) from pg_locks where not granted"):
            time.sleep(0.02)
    thread.join()
    assert [error.sqlstate for error in told] == ["GR007"]
    assert [checksum(shop, table) for table in TABLES] == before


def test_when_the_first_session_rolls_back_the_second_restores(db: Database, shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    call = f"select grace.restore(deletion => {last_deletion(shop)})"
    other = db.connect()
    with shop.transaction(force_rollback=True):
        shop.execute(call.encode())
    other.execute(call.encode())
    assert value(shop, "select count(*) from item") == 120


def test_a_restore_that_is_rolled_back_leaves_no_trace(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    before = (state(shop), rows(shop, "select * from grace.deletions"), value(shop, "select count(*) from grace.runs"))
    with shop.transaction(force_rollback=True):
        shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert before == (
        state(shop),
        rows(shop, "select * from grace.deletions"),
        value(shop, "select count(*) from grace.runs"),
    )


SHAPES = {
    "self-reference": (
        "create table a (id int primary key, up int references a on delete cascade);"
        "insert into a values (1, null), (2, 1), (3, 2), (4, 2)",
        "delete from a where id = 1",
    ),
    "cycle": (
        "create table a (id int primary key, b_id int);"
        "create table b (id int primary key, a_id int not null references a on delete cascade);"
        "alter table a add foreign key (b_id) references b on delete cascade;"
        "insert into a values (1, null), (2, null); insert into b values (1, 1), (2, 2);"
        "update a set b_id = 1 where id = 1",
        "delete from a where id = 1",
    ),
    "deferred cycle": (
        "create table a (id int primary key, b_id int not null);"
        "create table b (id int primary key, a_id int not null references a on delete cascade"
        " deferrable initially deferred);"
        "alter table a add foreign key (b_id) references b on delete cascade deferrable initially deferred;"
        "begin; insert into a values (1, 1); insert into b values (1, 1); commit",
        "delete from a",
    ),
    "composite": (
        "create table a (x int, y text, primary key (x, y));"
        "create table b (id int primary key, y text, x int, foreign key (x, y) references a on delete cascade);"
        "insert into a values (1, 'a'), (1, 'b'); insert into b values (1, 'a', 1), (2, 'b', 1), (3, null, 1)",
        "delete from a where y = 'a'",
    ),
    "diamond": (
        "create table a (id int primary key);"
        "create table b (id int primary key, a_id int references a on delete cascade);"
        "create table c (id int primary key, a_id int references a on delete cascade,"
        " b_id int references b on delete cascade);"
        "insert into a values (1), (2); insert into b values (1, 1), (2, 2);"
        "insert into c values (1, 1, 1), (2, null, 1), (3, 1, null), (4, 2, 2)",
        "delete from a where id = 1",
    ),
    "child's key older than the parent's own": (
        "create table a (id int); create unique index a_id on a (id);"
        "create table b (id int primary key, a_id int references a (id) on delete cascade);"
        "create table r (id int primary key); alter table a add r int references r on delete cascade;"
        "insert into r values (1); insert into a values (1, 1); insert into b values (1, 1)",
        "delete from r",
    ),
    "partitioned": (
        "create table a (id int, day date, primary key (id, day)) partition by range (day);"
        "create table a_1 partition of a for values from ('2026-01-01') to ('2026-02-01');"
        "create table a_2 partition of a for values from ('2026-02-01') to ('2026-03-01');"
        "create table b (id int primary key, a_id int, day date,"
        " foreign key (a_id, day) references a on delete cascade);"
        "insert into a values (1, '2026-01-05'), (1, '2026-02-05'), (2, '2026-02-05');"
        "insert into b values (1, 1, '2026-01-05'), (2, 1, '2026-02-05')",
        "delete from a where id = 1",
    ),
}


@pytest.mark.parametrize("by_key", [False, True], ids=["whole", "by key"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_foreign_key_shape_comes_back(conn: Connection, shape: str, by_key: bool) -> None:
    setup, delete = SHAPES[shape]
    for statement in setup.split(";"):
        conn.execute(statement.encode())
    root = "r" if "from r" in delete else "a"
    conn.execute(f"select grace.protect('{root}')".encode())
    tables = [row[0] for row in rows(conn, "select target::text from grace.protected")]
    before = {table: checksum(conn, table) for table in tables}
    keys = (
        value(conn, f"select jsonb_agg(to_jsonb(k)) from (select {_key(conn, root)} from {root}) k") if by_key else None
    )
    conn.execute(delete.encode())
    gone = {table: checksum(conn, table) for table in tables}
    assert gone != before
    if keys is None:
        conn.execute("select grace.restore(deletion => %s)", (last_deletion(conn),))
    else:
        live = value(
            conn, f"select coalesce(jsonb_agg(to_jsonb(k)), '[]') from (select {_key(conn, root)} from {root}) k"
        )
        wanted = psycopg.types.json.Jsonb([key for key in keys if key not in live])
        conn.execute("select grace.restore(%s::regclass, keys => %s)", (root, wanted))
    assert {table: checksum(conn, table) for table in tables} == before


def _key(conn: Connection, table: str) -> str:
    return str(
        value(
            conn,
            "select string_agg(a.attname, ', ') from pg_index i join pg_attribute a on a.attrelid = i.indrelid"
            " and a.attnum = any (i.indkey) where i.indrelid = %s::regclass and i.indisprimary",
            table,
        )
        or "id"
    )


def test_a_deferred_foreign_key_that_fails_is_a_conflict_now_and_not_at_commit(conn: Connection) -> None:
    conn.execute(
        b"create table a (id int primary key);"
        b"create table b (id int primary key, a_id int references a on delete cascade deferrable initially deferred);"
        b"insert into a values (1); insert into b values (1, 1)"
    )
    conn.execute("select grace.protect('a')")
    conn.execute("delete from b")
    deletion = last_deletion(conn)
    conn.execute("delete from a")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.restore(deletion => %s)", (deletion,))
    assert caught.value.sqlstate == "GR011"
    assert "parent (a_id)=(1) is missing in public.a; it went in deletion" in str(caught.value.diag.message_detail)


def test_generated_and_identity_columns_come_back_and_sequences_stay(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    last = rows(shop, "select last_value from company_id_seq")
    shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert rows(shop, "select last_value from company_id_seq") == last
    assert rows(shop, "select distinct twice = line * 2 from item") == [(True,)]


def test_columns_added_dropped_and_retyped_since(shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    shop.execute(
        b"alter table company add country text not null default 'DE';"
        b"alter table invoice drop constraint invoice_total_check; alter table invoice alter total type text;"
        b"alter table item alter label drop not null, drop label"
    )
    shop.execute("select grace.protect('company')")
    shop.execute("delete from company where id = 4")
    for company in ("3", "4"):
        shop.execute("select grace.restore('company', keys => %s)", (company,))
    assert rows(shop, "select id, name, country from company where id in (3, 4) order by id") == [
        (3, "company 3", "DE"),
        (4, "company 4", "DE"),
    ]
    assert rows(shop, "select string_agg(total, ' ' order by id) from invoice where company_id in (3, 4)") == [
        ("2.00 3.00 12.00 13.00 22.00 23.00 32.00 33.00",)
    ]
    assert value(shop, "select count(*) from item") == 120


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("select grace.restore()", "GR016"),
        ("select grace.restore('company')", "GR016"),
        ("select grace.restore(keys => '3')", "GR016"),
        ("select grace.restore(deletion => 4711)", "GR007"),
        ("select grace.restore('item', keys => '3')", "GR008"),
        ("select grace.restore('company', keys => '[]')", "GR008"),
        ("select grace.restore('company', keys => '{\"name\": 3}')", "GR008"),
        ("select grace.restore('company', keys => '\"three\"')", "GR008"),
        ("select grace.restore('company', keys => '[3, 4711]')", "GR007"),
        ("select grace.restore('company', deleted_to => '2001-01-01')", "GR007"),
        ("select grace.restore('company', deleted_by => 'nobody')", "GR007"),
    ],
)
def test_bad_selections_are_refused(shop: Connection, call: str, code: str) -> None:
    shop.execute("delete from company where id = 3")
    refused(shop, code, call)


def test_a_table_without_primary_key_is_restored_by_deletion_but_not_by_key(conn: Connection) -> None:
    conn.execute(b"create table log (at int, text text); insert into log values (1, 'a'), (1, 'a'), (2, null)")
    before = checksum(conn, "log")
    conn.execute("select grace.protect('log')")
    conn.execute("delete from log")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.restore('log', keys => '1')")
    assert caught.value.sqlstate == "GR009"
    assert caught.value.diag.message_hint
    conn.execute("select grace.restore(deletion => %s)", (last_deletion(conn),))
    assert checksum(conn, "log") == before


def test_a_table_that_is_gone_is_named(shop: Connection) -> None:
    shop.execute("delete from item where invoice_id = 1")
    shop.execute(b"set grace.allow_drop = on; drop table item")
    with pytest.raises(psycopg.Error) as caught:
        shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert caught.value.sqlstate == "GR015"


def test_an_operator_needs_insert_on_the_table_and_nothing_more_than_the_role(
    db: Database, shop: Connection, role: Any
) -> None:
    operator = role("operator")
    shop.execute(f"grant grace_operator to {operator}")
    shop.execute("delete from company where id = 3")
    deletion = last_deletion(shop)
    session = db.connect(user=operator)
    assert value(session, "select count(*) from grace.buffered('company')") == 1
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table"):
        session.execute("select grace.restore(deletion => %s)", (deletion,))
    shop.execute(f"grant insert on company, invoice, item to {operator}")
    session.execute("select grace.restore(deletion => %s)", (deletion,))
    assert rows(shop, "select role::text, login::text from grace.runs where kind = 'restore'") == [(operator, operator)]


def test_triggers_run_as_the_one_who_restores_not_as_the_owner_of_pg_grace(
    db: Database, shop: Connection, role: Any
) -> None:
    operator = role("operator")
    shop.execute(f"grant grace_operator to {operator}; grant insert on company, invoice, item to {operator}".encode())
    shop.execute(
        b"create table seen (who name, path text); grant insert on seen to public;"
        b"create function see() returns trigger language plpgsql as $$ begin"
        b" insert into public.seen values (current_user, current_setting('search_path')); return null; end $$;"
        b"create trigger see after insert on company for each statement execute function see()"
    )
    shop.execute("delete from company where id = 3")
    session = db.connect(user=operator)
    session.execute("set search_path = public, pg_temp")
    session.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
    assert rows(shop, "select who::text, path from seen") == [(operator, "public, pg_temp")]


@pytest.mark.parametrize("who", ["nobody", "auditor"])
def test_others_can_neither_restore_nor_read_the_buffer(db: Database, shop: Connection, role: Any, who: str) -> None:
    name = role(who)
    if who == "auditor":
        shop.execute(f"grant grace_auditor to {name}")
    shop.execute("delete from company where id = 3")
    session = db.connect(user=name)
    for query in (
        "select grace.restore(deletion => 1)",
        "select * from grace.buffered('company')",
        "select * from grace_buffer.company",
        "delete from grace_internal.capture",
        "select grace._restore_done(null, null, null)",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute(query.encode())
    if who == "auditor":
        assert rows(session, "select target::text, row_count from grace.deletions order by 1") == [
            ("company", 1),
            ("invoice", 4),
            ("item", 12),
        ]


def test_a_restore_is_not_fooled_by_functions_and_operators_in_the_search_path(shop: Connection) -> None:
    shop.execute(
        b"create schema evil;"
        b"create function evil.always(int, int) returns boolean language sql as 'select true';"
        b"create operator evil.= (leftarg = int, rightarg = int, function = evil.always);"
        b"create function evil.count(bigint) returns bigint language sql as 'select 0::bigint'"
    )
    shop.execute("delete from company where id = 3")
    shop.execute("set search_path = evil, public, pg_catalog")
    shop.execute("insert into company (id, name) overriding system value values (33, 'other')")
    assert rows(
        shop, "select restored from grace.restore('company', keys => '3', dry_run => true) where conflicts = '[]'"
    )
    shop.execute("select grace.restore('company', keys => '3')")
    shop.execute("reset search_path")
    assert value(shop, "select count(*) from item") == 120


def test_rows_restored_are_counted_for_others_while_the_restore_is_open(db: Database, shop: Connection) -> None:
    shop.execute("delete from company where id = 3")
    other = db.connect()
    start = value(other, "select grace._restore_progress()")
    with shop.transaction():
        shop.execute("set local grace.progress = 'on'")
        shop.execute("select grace.restore(deletion => %s)", (last_deletion(shop),))
        assert value(other, "select grace._restore_progress()") - start in (16, 17)
