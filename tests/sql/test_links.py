"""What a deletion cuts by ON DELETE SET NULL and SET DEFAULT is remembered, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.faults.servers import Cluster, with_cron
from tests.migration.conftest import schema_dump

Cuts = list[tuple[Any, ...]]


def protect(conn: Connection, table: str) -> str | None:
    """Protect a table; return the warning that it comes with."""
    (found,) = rows(conn, "select warning from grace.protect(%s) where protected_table = %s::regclass", table, table)
    warning: str | None = found[0]
    return warning


def cuts(conn: Connection) -> Cuts:
    return rows(
        conn,
        "select coalesce(l.child::text, 'gone'), c.child_key, c.former, c.replaced_by"
        " from grace_internal.cut c join grace_internal.link l on l.id = c.link order by 1, 2, 3",
    )


def links(conn: Connection, active: bool = True) -> list[tuple[Any, ...]]:
    return rows(
        conn,
        "select child::text, key_names::text[], column_names::text[], set_names::text[], parent_names::text[]"
        " from grace_internal.link where active = %s order by id",
        active,
    )


def triggers(conn: Connection, table: str) -> list[str]:
    return [
        name
        for (name,) in rows(
            conn,
            "select tgname::text from pg_trigger where tgrelid = %s::regclass and tgname like 'zz_grace_link%%'"
            " and tgenabled = 'A' order by 1",
            table,
        )
    ]


@pytest.fixture
def shop(owner: Connection) -> Connection:
    """A protected customer, and orders that may be nobody's."""
    owner.execute("""
        create table customer (id int primary key, name text);
        create table orders (id int primary key, customer_id int references customer on delete set null, note text);
        insert into customer values (1, 'a'), (2, 'b'), (3, 'c');
        insert into orders values (10, 1), (11, 1), (12, 2), (13, null);
    """)
    assert protect(owner, "customer") is None
    return owner


CUT = [("orders", ["10"], ["1"], [None]), ("orders", ["11"], ["1"], [None])]


def test_a_cut_link_is_remembered_with_the_deletion_that_cut_it(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1")
    assert cuts(shop) == CUT
    assert rows(shop, "select distinct c.deletion, c.deleted_at from grace_internal.cut c") == rows(
        shop, "select grace_deletion, grace_deleted_at from grace_buffer.customer"
    )
    assert links(shop) == [("orders", ["id"], ["customer_id"], ["customer_id"], ["id"])]


def test_what_was_cut_is_given_out_by_link_and_deletion(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1")
    shop.execute("delete from customer where id = 2")
    first, second = (row[0] for row in rows(shop, "select grace_deletion from grace_buffer.customer order by 1"))
    link = value(shop, "select link from grace_internal.link_map")
    assert rows(
        shop, "select child_key, former, replaced_by from grace._cut_links(%s, %s) order by 1", link, [first]
    ) == [cut[1:] for cut in CUT]
    assert rows(shop, "select former from grace._cut_links(%s, %s)", link, [second]) == [(["2"],)]
    assert value(shop, "select has_function_privilege('grace_operator', 'grace._cut_links(int, bigint[])', 'execute')")
    shop.execute("select grace.set_retention('customer', '1 second'); select pg_sleep(1.1)")
    assert rows(shop, "select * from grace._cut_links(%s, %s)", link, [first, second]) == []


def test_an_update_of_the_applications_own_is_no_cut(shop: Connection) -> None:
    shop.execute("update orders set customer_id = null where id = 10")
    with shop.transaction():
        shop.execute("delete from customer where id = 3")
        shop.execute("update orders set customer_id = null where id = 11")
        shop.execute("update orders set customer_id = 2, note = 'x' where id = 13")
    assert cuts(shop) == []


def test_what_a_trigger_of_the_applications_changes_is_seen_by_no_restore(shop: Connection) -> None:
    shop.execute("""
        create function untie() returns trigger language plpgsql as
          $$ begin update orders set customer_id = null where id = 10; return null; end $$;
        create table log (id int);
        create trigger untie after insert on log for each row execute function untie();
        insert into log values (1);
    """)
    assert value(shop, "select count(*) from grace.deletions") == 0
    assert (
        value(
            shop,
            "select count(*) from grace_internal.cut c join grace_internal.capture k on k.deletion = c.deletion",
        )
        == 0
    )


def test_a_rollback_leaves_nothing(shop: Connection) -> None:
    with shop.transaction(force_rollback=True):
        shop.execute("delete from customer where id = 1")
    with shop.transaction():
        shop.execute("delete from customer where id = 3")
        with shop.transaction(force_rollback=True):
            shop.execute("delete from customer where id = 1")
        shop.execute("delete from customer where id = 2")
    assert cuts(shop) == [("orders", ["12"], ["2"], [None])]
    assert (
        value(shop, "select count(distinct deletion) from grace_internal.cut natural join grace_internal.capture") == 1
    )


def test_two_deletions_of_one_transaction_are_one(shop: Connection) -> None:
    with shop.transaction():
        shop.execute("delete from customer where id = 2")
        shop.execute("delete from customer where id = 1")
    assert value(shop, "select count(distinct deletion) from grace_internal.cut") == 1
    assert len(cuts(shop)) == 3


def test_set_default_keeps_what_replaced_it(owner: Connection) -> None:
    owner.execute("""
        create table p (id int primary key); insert into p values (0), (1);
        create table c (id int primary key, p int default 0 references p on delete set default);
        insert into c values (1, 1), (2, 0);
    """)
    protect(owner, "p")
    owner.execute("delete from p where id = 1")
    assert cuts(owner) == [("c", ["1"], ["1"], ["0"])]


def test_a_column_list_and_composite_keys(owner: Connection) -> None:
    owner.execute("""
        create table p (b text, a int, primary key (a, b));
        create table c (
          x int, y date, tenant int, ref text, primary key (y, x),
          foreign key (tenant, ref) references p (a, b) on delete set null (ref)
        );
        insert into p (a, b) values (1, 'k,"'), (2, 'l');
        insert into c values (1, '2026-02-01', 1, 'k,"'), (2, '2026-02-03', 1, null), (3, '2026-02-03', 2, 'l');
    """)
    protect(owner, "p")
    owner.execute("set datestyle = 'SQL, DMY'; delete from p where a = 1")
    assert cuts(owner) == [("c", ["2026-02-01", "1"], ["1", 'k,"'], ["1", None])]
    assert links(owner) == [("c", ["y", "x"], ["tenant", "ref"], ["ref"], ["a", "b"])]


def test_values_are_exact_whatever_the_session_is_set_to(owner: Connection) -> None:
    owner.execute("""
        create type pair as (a int, b float8);
        create domain day as date;
        create table p (a float8, b timestamptz, c bytea, d pair, e day, f numeric, primary key (a, b, c, d, e, f));
        create table c (
          id interval primary key, a float8, b timestamptz, c bytea, d pair, e day, f numeric,
          foreign key (a, b, c, d, e, f) references p on delete set null
        );
        insert into p values (0.1::float8 + 0.2, '2026-01-02 03:04:05.678901+00', '\\xff', row(null, 1e300), '2026-03-04', 1.50);
        insert into c select '1 mon 2 days 03:04', * from p;
    """)
    before = rows(owner, "select array[a::text, b::text, c::text, d::text, e::text, f::text] from c")
    key = value(owner, "select id::text from c")
    protect(owner, "p")
    owner.execute(
        "set datestyle = 'German'; set intervalstyle = 'iso_8601'; set extra_float_digits = -5; set bytea_output = 'escape'"
    )
    owner.execute("delete from p")
    assert [(cut[1], cut[2]) for cut in cuts(owner)] == [([key], before[0][0])]


def test_a_table_that_references_itself(owner: Connection) -> None:
    owner.execute("""
        create table emp (id int primary key, manager_id int references emp on delete set null);
        insert into emp values (1, null), (2, 1), (3, 2), (4, 3);
    """)
    protect(owner, "emp")
    owner.execute("delete from emp where id in (1, 2)")
    assert cuts(owner) == [("emp", ["3"], ["2"], [None])]


@pytest.mark.parametrize("older", ["prod", "cat"])
def test_a_tree_that_cascades_into_itself_cuts_before_it_is_captured(owner: Connection, older: str) -> None:
    """PostgreSQL puts off the statement trigger until all levels are gone, and cuts links meanwhile."""
    owner.execute("create table cat (id int primary key, parent int)")
    statements = {
        "prod": "create table prod (id int primary key, cat int references cat on delete set null)",
        "cat": "alter table cat add foreign key (parent) references cat on delete cascade",
    }
    for name in (older, *(statements.keys() - {older})):
        owner.execute(statements[name].encode())
    owner.execute("insert into cat values (1, null), (2, 1), (3, 2); insert into prod values (1, 1), (2, 2), (3, 3)")
    protect(owner, "cat")
    owner.execute("delete from cat where id = 1")
    assert [cut[2] for cut in cuts(owner)] == [["1"], ["2"], ["3"]]
    assert (
        value(owner, "select count(distinct deletion) from grace_internal.cut natural join grace_internal.capture") == 1
    )


def test_every_level_of_a_cascade_remembers_what_it_cuts(owner: Connection) -> None:
    owner.execute("""
        create table a (id int primary key);
        create table b (id int primary key, a int references a on delete cascade);
        create table c (id int primary key, b int references b on delete cascade, a int references a on delete cascade);
        create table d (id int primary key, a int references a on delete set null,
          b int references b on delete set null, c int references c on delete set null deferrable initially deferred);
        insert into a values (1), (2); insert into b values (1, 1), (2, 1), (3, 2);
        insert into c values (1, 1, 1), (2, 2, null), (3, 3, 2); insert into d values (1, 1, 2, 2), (2, null, null, 3), (3, null, 1, null);
    """)
    protect(owner, "a")
    with owner.transaction():
        owner.execute("set constraints all deferred; delete from a where id = 1")
    assert sorted(
        (key[0], column, former[0])
        for key, column, former in rows(
            owner,
            "select c.child_key, l.column_names[1], c.former from grace_internal.cut c join grace_internal.link l on l.id = c.link",
        )
    ) == [("1", "a", "1"), ("1", "b", "2"), ("1", "c", "2"), ("3", "b", "1")]


def test_truncate_cuts_nothing(shop: Connection) -> None:
    shop.execute("truncate customer cascade")
    assert cuts(shop) == []


def test_only_the_child_of_a_cascade_is_protected(owner: Connection) -> None:
    owner.execute("""
        create table a (id int primary key); create table b (id int primary key, a int references a on delete cascade);
        create table c (id int primary key, b int references b on delete set null);
        insert into a values (1); insert into b values (1, 1); insert into c values (1, 1);
    """)
    protect(owner, "b")
    owner.execute("delete from a")
    assert cuts(owner) == [("c", ["1"], ["1"], [None])]


@pytest.mark.parametrize("moves", [False, True])
def test_partitioned_child_and_parent(owner: Connection, moves: bool) -> None:
    """Also when the row moves to another partition by being cut, and when one was made later by somebody else."""
    owner.execute(
        """
        create table p (junk int, id int primary key) partition by range (id);
        create table p_1 (id int not null, junk int);
        alter table p attach partition p_1 for values from (0) to (100);
        create table p_2 partition of p for values from (100) to (200);
        create table c (id int, p int default 0 references p on delete set default, kind int, primary key (id, p, kind))
          partition by list (KEY);
        create table c_0 partition of c for values in (0);
        create table c_1 (kind int not null, p int default 0 not null, id int not null);
        alter table c attach partition c_1 for values in (1);
        insert into p (id) values (0), (1), (101);
    """.replace("KEY", "p" if moves else "kind").encode()
    )
    protect(owner, "p")
    owner.execute("create table c_2 partition of c default")
    owner.execute("insert into c values (1, 1, 1), (2, 101, 2), (3, 0, 0)")
    owner.execute("delete from p where id = 101")
    owner.execute("delete from p_1 where id = 1")
    assert cuts(owner) == [
        ("c", ["1", "0", "1"], ["1"], ["0"]),
        ("c", ["2", "0", "2"], ["101"], ["0"]),
    ]
    owner.execute("update c set p = 101 where false; update c set p = 0")
    assert len(cuts(owner)) == 2


def test_a_foreign_key_on_a_partition_to_a_partition(owner: Connection) -> None:
    owner.execute("""
        create table p (junk int, id int primary key) partition by range (id);
        create table p_1 (id int primary key, junk int);
        alter table p attach partition p_1 for values from (0) to (100);
        create table c (id int primary key, p int) partition by range (id);
        create table c_1 (p int, id int primary key);
        alter table c attach partition c_1 for values from (0) to (100);
        alter table c_1 add foreign key (p) references p_1 on delete set null;
        insert into p (id) values (1); insert into c values (1, 1);
    """)
    protect(owner, "p")
    owner.execute("delete from p")
    assert cuts(owner) == [("c_1", ["1"], ["1"], [None])]
    assert value(owner, "select parent_columns from grace_internal.link") == [2]


def test_each_table_of_an_inheritance_tree_by_itself(owner: Connection) -> None:
    owner.execute("""
        create table p (id int primary key); create table q (primary key (id)) inherits (p);
        create table c (id int primary key, p int references p on delete set null, q int references q on delete set null);
        create table heir () inherits (c);
        insert into p values (1); insert into q values (2); insert into c values (1, 1, 2); insert into heir values (2, 1, 2);
    """)
    protect(owner, "p")
    owner.execute("delete from p")
    assert [cut[1:3] for cut in cuts(owner)] == [(["1"], ["1"]), (["1"], ["2"])]


def test_a_child_without_a_primary_key_is_named_and_deletes_go_on(owner: Connection) -> None:
    owner.execute("""
        create table p (id int primary key); create table c (id int unique, p int references p on delete set null);
        insert into p values (1); insert into c values (1, 1);
    """)
    assert protect(owner, "p") == "Links that a deletion cuts are not remembered: public.c has no primary key"
    owner.execute("delete from p")
    assert rows(owner, "select p from c") == [(None,)]
    assert cuts(owner) == []
    notes = rows(owner, "select finding from grace.doctor() where subject = 'links' and severity = 'note'")
    assert notes == [("Links that a deletion cuts are not remembered: public.c has no primary key",)]


def test_a_child_of_somebody_else(conn: Connection, db: Database, role: Callable[[str], str]) -> None:
    """Who deletes has no right on anything of ours."""
    app = role("app")
    conn.execute(f"grant create on schema public to {app}")
    session = db.connect(user=app)
    conn.execute("create table p (id int primary key); insert into p values (1), (2)")
    conn.execute(f"grant references, select, delete on p to {app}")
    session.execute("create table c (id int primary key, p int references p on delete set null)")
    session.execute("insert into c values (1, 1)")
    protect(conn, "p")
    session.execute("delete from p where id = 1")
    assert cuts(conn) == [("c", ["1"], ["1"], [None])]


@pytest.mark.parametrize("owner", ["no superuser"], indirect=True)
def test_a_child_whose_owner_we_are_no_member_of_is_named(owner: Connection) -> None:
    admin = psycopg.connect(owner.info.dsn.replace(f"user={owner.info.user}", "user=postgres"), autocommit=True)
    with admin:
        owner.execute("create table p (id int primary key); insert into p values (1)")
        admin.execute("create table c (id int primary key, p int references p on delete set null)")
        admin.execute("insert into c values (1, 1)")
        assert "is no member" in (protect(owner, "p") or "")
        owner.execute("delete from p")
        assert cuts(owner) == []
        assert rows(owner, "select status from grace.sync()") == [("up to date",)]
        owner.execute("select grace.unprotect('p', 'discard')")


def test_replica_role_cuts_nothing_and_remembers_nothing(conn: Connection) -> None:
    conn.execute(
        "create table p (id int primary key); create table c (id int primary key, p int references p on delete set null)"
    )
    conn.execute("insert into p values (1); insert into c values (1, 1)")
    protect(conn, "p")
    conn.execute("set session_replication_role = replica; delete from p; reset session_replication_role")
    assert cuts(conn) == []
    assert rows(conn, "select p from c") == [(1,)]


def test_a_forged_deletion_is_not_believed(shop: Connection) -> None:
    shop.execute("delete from customer where id = 3")
    forged = value(shop, "select max(id) from grace.deletions")
    with shop.transaction():
        shop.execute("select set_config('grace.deletion', %s, true)", [f"{forged} 0002 {'0' * 32}"])
        shop.execute("delete from customer where id = 1")
    assert forged not in [row[0] for row in rows(shop, "select deletion from grace_internal.cut")]


# --- Drift ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("alter table orders rename column customer_id to buyer", "11"),
        ("alter table orders rename column id to number", "11"),
        ("alter table orders rename to purchase", "11"),
        ("create schema s; alter table orders set schema s", "11"),
        ("alter table orders alter column customer_id type bigint", "11"),
        ("alter table orders alter column id type text", "11"),
        ("alter table orders alter column id type numeric(10, 2)", "11.00"),
        ("alter table orders drop column note", "11"),
        (
            "alter table orders drop constraint orders_pkey; alter table orders add constraint k primary key (note)",
            "n11",
        ),
        (
            "alter table orders drop constraint orders_pkey; alter table orders add constraint k primary key (note, id)",
            "n11",
        ),
    ],
)
@pytest.mark.parametrize("other_session", [True, False])
def test_a_changed_child_is_followed(shop: Connection, change: str, key: str, other_session: bool) -> None:
    shop.execute("update orders set note = 'n' || id")
    shop.execute("insert into orders values (14, 3, 'n14'), (15, 2, 'n15'); delete from customer where id = 3")
    with psycopg.connect(shop.info.dsn, autocommit=True) as other:
        (other if other_session else shop).execute(change.encode())
    for _ in range(2):
        shop.execute("delete from customer where id = 1")
        found = [cut[1][0] for cut in cuts(shop) if cut[2] == ["1"]]
        assert key in found
        assert len(found) == 2
        shop.execute("select * from grace.sync()")
    shop.execute("delete from customer where id = 2")
    assert len(cuts(shop)) == 5
    assert rows(shop, "select count(*) from grace_internal.link where active") == [(1,)]
    assert rows(shop, "select count(*) from grace.doctor() where subject = 'links'") == [(0,)]


def test_old_cuts_stay_readable_when_the_key_changes(shop: Connection) -> None:
    shop.execute("update orders set note = id")
    shop.execute("delete from customer where id = 1")
    shop.execute("alter table orders drop constraint orders_pkey; alter table orders add primary key (note)")
    shop.execute("delete from customer where id = 2")
    shop.execute("select * from grace.sync()")
    shop.execute("alter table orders rename column id to number")
    assert rows(
        shop,
        "select m.key_names::text[], array_agg(c.child_key[1] order by 1) from grace_internal.cut c"
        " join grace_internal.link_map m on m.link = c.link group by 1 order by 1",
    ) == [(["note"], ["12"]), (["number"], ["10", "11"])]


def test_a_rollback_of_the_first_cut_after_a_change_leaves_no_number_behind(shop: Connection) -> None:
    shop.execute("update orders set note = id; delete from customer where id = 3")
    shop.execute("alter table orders drop constraint orders_pkey; alter table orders add primary key (note)")
    with shop.transaction(force_rollback=True):
        shop.execute("delete from customer where id = 2")
    shop.execute("delete from customer where id = 1")
    assert [cut[:2] for cut in cuts(shop)] == [("orders", ["10"]), ("orders", ["11"])]
    assert rows(
        shop, "select distinct key_names::text[] from grace_internal.link_map m join grace_internal.cut c using (link)"
    ) == [(["note"],)]


def test_a_primary_key_that_is_gone_costs_a_warning_only(shop: Connection) -> None:
    shop.execute("delete from customer where id = 2")
    shop.execute("alter table orders drop constraint orders_pkey")
    shop.execute("delete from customer where id = 1")
    assert len(cuts(shop)) == 1
    shop.execute("select * from grace.sync()")
    assert triggers(shop, "orders") == []
    assert rows(shop, "select count(*) from grace.doctor() where subject = 'links' and severity = 'note'") == [(1,)]


def test_a_column_renamed_since_the_transaction_began(shop: Connection) -> None:
    shop.execute("delete from customer where id = 2")
    with psycopg.connect(shop.info.dsn) as other:
        other.isolation_level = IsolationLevel.REPEATABLE_READ
        other.execute("select 1 from customer")
        shop.execute("alter table orders rename column customer_id to buyer")
        with pytest.raises(errors.SerializationFailure):
            other.execute("delete from customer where id = 1")
        other.rollback()
        other.execute("delete from customer where id = 1")
        other.commit()
    assert len(cuts(shop)) == 3


def test_nothing_of_ours_is_in_the_way_of_the_applications_ddl(shop: Connection) -> None:
    shop.execute("alter table orders alter column customer_id type bigint")
    shop.execute("alter table orders drop column customer_id")
    shop.execute("drop table orders")
    shop.execute("delete from customer; select * from grace.sync()")
    assert rows(shop, "select child, active from grace_internal.link") == [(None, False)]


def test_a_child_that_is_dropped_leaves_its_cuts(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1; drop table orders")
    shop.execute("select * from grace.sync()")
    assert len(cuts(shop)) == 2
    assert rows(shop, "select child from grace_internal.link") == [(None,)]
    assert rows(shop, "select * from grace_internal.link_map") == []
    assert rows(shop, "select * from grace_internal.link_functions(null, true)") == []


# --- Life cycle -------------------------------------------------------------------------------------------------------


def test_a_foreign_key_that_comes_later_is_followed(shop: Connection) -> None:
    shop.execute("create table visit (id int primary key, customer_id int references customer on delete set null)")
    shop.execute(
        "create table call (id int primary key, customer_id int); alter table call add foreign key (customer_id) references customer on delete set default"
    )
    if not value(shop, "select grace_internal.has_event_triggers()"):
        assert value(shop, "select count(*) from grace.doctor() where subject = 'links' and fixable") == 2
        assert rows(shop, "select status from grace.sync()") == [("links followed",)]
    shop.execute("insert into visit values (1, 1); insert into call values (1, 1); delete from customer where id = 1")
    assert [cut[0] for cut in cuts(shop)] == ["call", "orders", "orders", "visit"]


def test_a_foreign_key_that_is_dropped_ends_the_link_and_keeps_the_cuts(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1")
    shop.execute("alter table orders drop constraint orders_customer_id_fkey")
    shop.execute("select * from grace.sync()")
    assert triggers(shop, "orders") == []
    assert links(shop) == []
    assert cuts(shop) == CUT
    shop.execute("alter table orders add foreign key (customer_id) references customer on delete set null")
    shop.execute("select * from grace.sync()")
    assert rows(shop, "select id, active from grace_internal.link") == [(1, True)]


def test_another_action_ends_or_renews_the_link(shop: Connection) -> None:
    shop.execute(
        "alter table orders drop constraint orders_customer_id_fkey, add foreign key (customer_id) references customer on delete set default"
    )
    shop.execute("select * from grace.sync(); delete from customer where id = 1")
    assert cuts(shop) == CUT
    assert triggers(shop, "orders") == ["zz_grace_link_1"]


def test_a_disabled_trigger_is_reported_and_repaired(shop: Connection) -> None:
    shop.execute("alter table orders disable trigger user")
    assert value(shop, "select count(*) from grace.doctor() where subject = 'links' and fixable") == 1
    shop.execute("alter table customer add column more int")
    assert triggers(shop, "orders") == []
    shop.execute("select * from grace.sync()")
    assert triggers(shop, "orders") == ["zz_grace_link_1"]
    assert value(shop, "select count(*) from grace.doctor() where subject = 'links'") == 0
    shop.execute("drop function grace_internal.link_1() cascade")
    assert value(shop, "select count(*) from grace.doctor() where subject = 'links' and fixable") == 1
    shop.execute("select * from grace.sync('customer')")
    shop.execute("delete from customer where id = 1")
    assert cuts(shop) == CUT


@pytest.mark.parametrize("buffer", ["keep", "discard"])
def test_unprotect_takes_the_triggers_off(shop: Connection, buffer: str) -> None:
    shop.execute("delete from customer where id = 1")
    shop.execute("select grace.unprotect('customer', %s)", [buffer])
    assert triggers(shop, "orders") == []
    assert rows(shop, "select * from grace_internal.link_functions(null, true)") == []
    shop.execute("delete from customer where id = 2")
    assert cuts(shop) == (CUT if buffer == "keep" else [])
    assert value(shop, "select count(*) from grace_internal.link") == (1 if buffer == "keep" else 0)
    protect(shop, "customer")
    assert len(triggers(shop, "orders")) == 1


def test_unprotecting_the_child_leaves_what_is_remembered_for_the_parent(shop: Connection) -> None:
    protect(shop, "orders")
    shop.execute("select grace.unprotect('orders', 'discard')")
    shop.execute("delete from customer where id = 1")
    assert cuts(shop) == CUT


def test_uninstall_leaves_nothing_on_the_child(empty_db: Database) -> None:
    conn = empty_db.connect()
    conn.execute(
        "create table p (id int primary key); create table c (id int primary key, p int references p on delete set null)"
    )
    conn.execute(
        "create table d (id int, p int references p on delete set null, primary key (id)) partition by range (id)"
    )
    conn.execute("create table d_1 partition of d default")
    before = schema_dump(empty_db)
    empty_db.cli("install")
    empty_db.cli("protect", "p")
    assert schema_dump(empty_db) != before
    empty_db.cli("uninstall", "--yes")
    assert schema_dump(empty_db) == before


def test_installing_again_makes_what_is_missing_unless_it_is_busy(db: Database) -> None:
    conn = db.connect()
    conn.execute(
        "create table p (id int primary key); create table c (id int primary key, p int references p on delete set null)"
    )
    protect(conn, "p")
    before = schema_dump(db)
    for busy in (True, False):
        conn.execute("drop function grace_internal.link_1() cascade; truncate grace_internal.link restart identity")
        with psycopg.connect(db.conninfo) as other:
            if busy:
                other.execute("insert into c values (99)")
            db.cli("install")
            assert (len(triggers(conn, "c")) == 0) == busy
    assert schema_dump(db) == before


def test_an_upgrade_makes_the_links_of_what_is_protected(db: Database) -> None:
    conn = db.connect()
    conn.execute("""
        create table p (id int primary key); create table c (id int primary key, p int references p on delete set null);
        insert into p values (1); insert into c values (1, 1);
    """)
    protect(conn, "p")
    before = schema_dump(db)
    conn.execute("""
        drop event trigger grace_refuse_drop;
        alter table grace_internal.run drop column rule_id cascade, drop column batches cascade;
        alter table grace_internal.capture drop column kept cascade;
        drop table grace_internal.run_failure, grace_internal.hold, grace_internal.last_activity, grace_internal.notice,
          grace_internal.exemption, grace_internal.runner, grace_internal.rule, grace_internal.filter cascade;
        drop table grace_internal.job, grace_internal.setting, grace_internal.ledger cascade;
        alter table grace_internal.protected drop column capacity cascade, drop column evicted_to cascade;
        alter table grace_internal.run drop column job cascade;
        drop index grace_internal.run_kind_id;
        drop function grace_internal.link_1() cascade;
        drop table grace_internal.link, grace_internal.cut cascade;
        drop type grace._restore_result, grace._conflict cascade;
        update grace.alembic_version set version_num = '0002';
    """)
    db.cli("upgrade")
    assert schema_dump(db) == before
    conn.execute("delete from p")
    assert cuts(conn) == [("c", ["1"], ["1"], [None])]


def test_a_busy_child_holds_up_nobodys_ddl(conn: Connection, db: Database) -> None:
    conn.execute(
        "create table p (id int primary key); create table c (id int primary key, p int references p on delete set null)"
    )
    protect(conn, "p")
    conn.execute("drop function grace_internal.link_1() cascade")
    with psycopg.connect(db.conninfo) as other:
        other.execute("insert into c values (1)")
        conn.execute("set statement_timeout = '2s'; alter table p add column x int")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(db.cli, "sync", "p", "--wait", "1 second", code=4).result()
    db.cli("sync", "p")
    assert len(triggers(conn, "c")) == 1


def test_what_has_expired_is_purged_with_the_log(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1")
    shop.execute("alter table orders drop constraint orders_customer_id_fkey; select * from grace.sync()")
    shop.execute("call grace.purge()")
    assert len(cuts(shop)) == 2
    shop.execute("select grace.set_retention('customer', '1 second'); select pg_sleep(1.1)")
    shop.execute("call grace.purge()")
    assert rows(shop, "select status from grace.runs where kind = 'purge'") == [("done",), ("done",)]
    assert cuts(shop) == []
    assert rows(shop, "select * from grace_internal.link") == []


def test_an_unprotected_and_empty_table_takes_its_links_along(shop: Connection) -> None:
    shop.execute("delete from customer where id = 1")
    shop.execute(
        "select grace.set_retention('customer', '1 second'); select grace.unprotect('customer'); select pg_sleep(1.1)"
    )
    shop.execute("call grace.purge()")
    shop.execute("call grace.purge()")
    assert rows(shop, "select * from grace.protected") == []
    assert (
        value(shop, "select (select count(*) from grace_internal.cut) + (select count(*) from grace_internal.link)")
        == 0
    )


def test_cuts_are_dropped_for_parents_that_have_left_the_buffer(shop: Connection) -> None:
    shop.execute("delete from customer where id < 3")
    assert len(cuts(shop)) == 3
    deletion = value(shop, "select max(id) from grace.deletions")
    shop.execute("select grace_internal.drop_cuts(1, %s)", [[deletion]])
    assert len(cuts(shop)) == 3
    shop.execute("select grace.restore('customer', keys => '1')")
    shop.execute("select grace_internal.drop_cuts(1, %s)", [[deletion]])
    assert [cut[2] for cut in cuts(shop)] == [["2"]]
    shop.execute("select grace.restore('customer', keys => '2')")
    shop.execute("select grace_internal.drop_cuts(1, %s)", [[deletion]])
    assert cuts(shop) == []


def test_cuts_stay_where_equal_values_may_be_written_in_two_ways(owner: Connection) -> None:
    owner.execute("""
        create table p (id numeric primary key); create table c (id int primary key, p numeric references p on delete set null);
        insert into p values (1.0), (2); insert into c values (1, 1.00), (2, 2);
    """)
    protect(owner, "p")
    owner.execute("delete from p")
    owner.execute("select grace.restore('p', keys => '2')")
    owner.execute("select grace_internal.drop_cuts(1, array(select id from grace.deletions))")
    assert len(cuts(owner)) == 2
    owner.execute("select grace.restore('p', keys => '1')")
    owner.execute("select grace_internal.drop_cuts(1, array(select id from grace.deletions))")
    assert cuts(owner) == []


def test_a_partition_made_by_somebody_else_gets_its_trigger(
    conn: Connection, db: Database, role: Callable[[str], str]
) -> None:
    app = role("app")
    conn.execute("create table p (id int primary key)")
    conn.execute(f"grant references, delete, select on p to {app}; grant create on schema public to {app}")
    session = db.connect(user=app)
    session.execute(
        "create table c (id int, p int references p on delete set null, primary key (id)) partition by range (id)"
    )
    protect(conn, "p")
    db.cli("install")
    session.execute("create table c_1 partition of c default")
    conn.execute("insert into p values (1)")
    session.execute("insert into c values (1, 1); delete from p")
    assert cuts(conn) == [("c", ["1"], ["1"], [None])]


def test_a_child_that_becomes_a_partition(owner: Connection) -> None:
    owner.execute("""
        create table p (id int primary key); insert into p values (1), (2);
        create table c (id int, p int references p on delete set null, primary key (id));
        create table root (id int, p int references p on delete set null, primary key (id)) partition by range (id);
        insert into c values (1, 1), (2, 2);
    """)
    protect(owner, "p")
    owner.execute("alter table root attach partition c default")
    owner.execute("delete from p where id = 1")
    owner.execute("select * from grace.sync(); delete from p where id = 2")
    assert sorted(cut[1:] for cut in cuts(owner) if cut[0] == "root") == [
        (["1"], ["1"], [None]),
        (["2"], ["2"], [None]),
    ]
    assert triggers(owner, "c") == triggers(owner, "root")


def test_a_parent_that_becomes_a_partition(owner: Connection) -> None:
    owner.execute("""
        create table p (id int primary key); insert into p values (1), (2);
        create table c (id int primary key, p int references p on delete set null);
        create table root (id int primary key) partition by range (id);
        insert into c values (1, 1), (2, 2);
    """)
    protect(owner, "p")
    owner.execute("alter table root attach partition p default")
    owner.execute("select * from grace.sync()")
    owner.execute("delete from root where id = 1")
    assert cuts(owner)[0] == ("c", ["1"], ["1"], [None])
    assert len(triggers(owner, "c")) == 1


def test_hostile_names(owner: Connection) -> None:
    owner.execute(b"""
        create table "P'q" ("I""d" int primary key);
        create table "C%s$1" ("old" int primary key, "v_deletion" int references "P'q" on delete set null, link int);
        insert into "P'q" values (1); insert into "C%s$1" values (1, 1, 1);
    """)
    protect(owner, '"P\'q"')
    owner.execute('delete from "P\'q"')
    assert [cut[1:] for cut in cuts(owner)] == [(["1"], ["1"], [None])]


def test_plpgsql_check_finds_nothing_in_a_links_function(conn: Connection) -> None:
    conn.execute("create extension plpgsql_check")
    conn.execute(
        "create table p (id int primary key); create table c (id int primary key, p int references p on delete set null)"
    )
    protect(conn, "p")
    assert rows(conn, "select message from plpgsql_check_function_tb('grace_internal.link_1()', 'c')") == []


def test_a_dump_that_is_loaded_elsewhere_goes_on() -> None:
    with Cluster({"fsync": "off", **with_cron("shop")}) as cluster:
        cluster.create_database("shop")
        cluster.install("shop")
        with cluster.connect("shop") as conn:
            conn.execute("create table p (junk int, id int primary key); alter table p drop column junk")
            conn.execute("create table c (junk int, id int primary key, p int references p on delete set null)")
            conn.execute("alter table c drop column junk")
            conn.execute("insert into p values (1), (2), (3); insert into c values (1, 1), (2, 2), (3, 3)")
            protect(conn, "p")
            conn.execute("delete from p where id = 1")
        roles, database = cluster.folder / "roles.sql", cluster.folder / "shop.dump"
        cluster.run("pg_dumpall", "--globals-only", "-d", cluster.conninfo(), "-f", str(roles))
        cluster.run("pg_dump", "-Fc", "-d", cluster.conninfo("shop"), "-f", str(database))
        with Cluster({"fsync": "off"}) as there:
            there.create_database("other")
            there.run("psql", "-X", "-q", "-d", there.conninfo(), "-f", str(roles))
            there.run("pg_restore", "--exit-on-error", "-d", there.conninfo("other"), str(database))
            with there.connect("other") as conn:
                named = "select m.key_names::text[], m.column_names::text[], m.parent_names::text[] from grace_internal.link_map m where link = 1"
                assert rows(conn, named) == [(["id"], ["p"], ["id"])]
                conn.execute("delete from p where id = 2")
                assert [cut[1:] for cut in cuts(conn)] == [(["1"], ["1"], [None]), (["2"], ["2"], [None])]
                conn.execute("select * from grace.sync()")
                assert len(triggers(conn, "c")) == 1
                conn.execute("alter table c rename column p to q; delete from p where id = 3")
                assert rows(
                    conn, "select distinct m.column_names::text[], m.key_names::text[] from grace_internal.link_map m"
                ) == [(["q"], ["id"])]
                assert [cut[1:] for cut in cuts(conn)][2] == (["3"], ["3"], [None])
                assert rows(conn, "select count(*) from grace_internal.link where active") == [(1,)]
                assert rows(conn, "select count(*) from grace.doctor() where subject = 'links'") == [(0,)]


def test_a_link_that_was_cut_before_its_row_went_too_is_tied_when_the_row_comes_back_later(conn: Connection) -> None:
    conn.execute(
        b"create table t (id int primary key, up int references t on delete cascade, deputy int references t on delete set null);"
        b"insert into t values (1, null, null), (2, 1, null), (3, 2, 1)"
    )
    conn.execute("select grace.protect('t')")
    conn.execute("delete from t where id = 1")
    for what in ("'t', keys => '1', related => false", "deletion => 1"):
        conn.execute(f"select grace.restore({what})".encode())
    assert rows(conn, "select * from t order by 1") == [(1, None, None), (2, 1, None), (3, 2, 1)]
