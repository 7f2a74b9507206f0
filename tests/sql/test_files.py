"""Files: a large object stays with its deleted row and goes with it; a path comes into the outbox when its row is purged."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pg_grace.cluster import binaries
from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.migration.conftest import schema_dump
from tests.server import Server

PAGE = 262144  # bytes of a large object that are kept as one row
OBJECT_TYPES = ["oid", "lo", "picture", "scan"]
PATH_TYPES = ["text", "varchar(100)", "char(20)", "name", "place", "citext"]
EXPIRY = ["a whole day", "the current day", "the default partition"]
DAYS = 31

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared(server: Server, template: str) -> Iterator[Database]:
    """One database for all tests that do with tables of their own."""
    with _new_database(server, template) as database:
        conn = database.connect()
        conn.execute("create extension lo; create extension citext")
        conn.execute("create domain picture as oid; create domain scan as lo; create domain place as text")
        yield database


def new_table(conn: Connection, columns: str = "img oid", suffix: str = "") -> str:
    """Create a table with an id and these columns, and return its name."""
    name = f"photo{next(_numbers)}"
    conn.execute(f"create table {name} (id int, {columns}, primary key (id)) {suffix}".encode())
    return name


def protect(conn: Connection, table: str, *columns: str) -> str:
    conn.execute("select grace.protect(%s::regclass, files => %s::name[])", (table, list(columns or ("img",))))
    return table


def manage(conn: Connection, table: str, column: str = "img") -> str:
    """Let lo_manage unlink what a row that is updated or deleted referred to."""
    conn.execute(
        f"create trigger t_{column} before update or delete on {table}"
        f" for each row execute function lo_manage({column})".encode()
    )
    return table


@pytest.fixture(scope="module")
def tables(shared: Database) -> dict[str, str]:
    """Tables for the tests that change nothing but rows; making one takes longer than most tests."""
    conn = shared.connect()
    return {
        "photo": protect(conn, new_table(conn)),
        "managed": protect(conn, manage(conn, new_table(conn))),
        "document": protect(conn, new_table(conn, "path text"), "path"),
    }


@pytest.fixture
def conn(shared: Database, tables: dict[str, str]) -> Iterator[Connection]:
    connection = shared.connect()
    connection.execute("delete from grace_internal.outbox")
    # Files have one name space, so what earlier tests have left refers to none any more.
    connection.execute(
        "update grace_internal.protected set files = '{}', file_names = '{}' where target <> all (%s::regclass[])",
        (list(tables.values()),),
    )
    yield connection
    connection.close()


def emptied(conn: Connection, table: str) -> str:
    """Return a table that is as new: no rows, nothing buffered or kept, and the usual retention."""
    conn.execute(f"set session_replication_role = replica; delete from {table}; reset session_replication_role")
    table_id = number(conn, table)
    for _, parent in rows(conn, "select stem, parent from grace_internal.stems(%s)", table_id):
        conn.execute(f"delete from {parent}".encode())
    conn.execute("delete from grace_internal.capture where protected_id = %s", (table_id,))
    conn.execute("select grace.set_retention(%s::regclass, '30 days')", (table,))
    return table


@pytest.fixture
def photo(conn: Connection, tables: dict[str, str]) -> str:
    """A table with large objects that nobody unlinks."""
    return emptied(conn, tables["photo"])


@pytest.fixture
def managed(conn: Connection, tables: dict[str, str]) -> str:
    """A table whose large objects lo_manage unlinks on delete."""
    return emptied(conn, tables["managed"])


@pytest.fixture
def document(conn: Connection, tables: dict[str, str]) -> str:
    """A table with paths."""
    return emptied(conn, tables["document"])


def add(conn: Connection, table: str, key: int, content: bytes = b"content", column: str = "img") -> int:
    """Insert a row with a large object; return the object's number."""
    return int(
        value(
            conn,
            f"insert into {table} (id, {column}) values (%s, lo_from_bytea(0, %s)) returning {column}",
            key,
            content,
        )
    )


def content(conn: Connection, loid: int) -> bytes | None:
    """Return what a large object holds, or None where there is none."""
    found = rows(conn, "select lo_get(m.oid) from pg_largeobject_metadata m where m.oid = %s", loid)
    return bytes(found[0][0]) if found else None


def delete(conn: Connection, table: str, where: str = "true") -> int:
    """Delete rows; return the deletion's id."""
    conn.execute(f"delete from {table} where {where}".encode())
    return last_deletion(conn)


def last_deletion(conn: Connection) -> int:
    return int(value(conn, "select max(id) from grace.deletions"))


def restore(conn: Connection, deletion: int) -> None:
    conn.execute("select grace.restore(deletion => %s)", (deletion,))


def number(conn: Connection, table: str) -> int:
    return int(value(conn, "select id from grace_internal.protected where target_name = %s", f"public.{table}"))


def kept(conn: Connection, table: str) -> list[tuple[int, int]]:
    """Return the pieces that are kept: object and page."""
    return rows(conn, f"select loid, page from grace_internal.f{number(conn, table)} order by 1, 2")


def buffered(conn: Connection, table: str) -> int:
    return int(value(conn, f"select count(*) from grace_buffer.{table}"))


def expire(conn: Connection, table: str, how: str = "a whole day") -> None:
    """Make what is buffered of a table older than its retention."""
    table_id = number(conn, table)
    by = timedelta(seconds=10) if how == "the current day" else timedelta(hours=24 * DAYS)
    stems = rows(conn, "select stem, parent from grace_internal.stems(%s)", table_id)
    if how == "a whole day":
        for stem, parent in stems:
            conn.execute(
                "select grace_internal.create_leaf(%s, %s, d.day) from ("
                "select distinct (c.deleted_at at time zone 'UTC')::date - %s as day"
                " from grace_internal.capture c where c.protected_id = %s) d"
                " where to_regclass(format('grace_internal.%%s_%%s', %s::text, to_char(d.day, 'YYYYMMDD'))) is null",
                (stem, parent, DAYS, table_id, stem),
            )
    for _, parent in stems:
        conn.execute(f"update {parent} set grace_deleted_at = grace_deleted_at - %s".encode(), (by,))
    conn.execute(
        "update grace_internal.capture set deleted_at = deleted_at - %s where protected_id = %s", (by, table_id)
    )
    if how == "the current day":
        conn.execute("select grace.set_retention(%s::regclass, '5 seconds')", (table,))


def purge(conn: Connection, table: str) -> str:
    """Purge one table; return the run's status."""
    conn.execute("call grace.purge(%s::regclass)", (table,))
    return str(value(conn, "select status from grace.runs where kind = 'purge' order by id desc limit 1"))


def outbox(conn: Connection) -> list[str]:
    return [file for (file,) in rows(conn, "select file from grace.file_outbox order by file")]


def claim(conn: Connection, arguments: str = "") -> list[str]:
    return [file for (file,) in rows(conn, f"select file from grace.claim_files({arguments})")]


# Large objects: kept and restored


@pytest.mark.parametrize("is_managed", [True, False], ids=["lo_manage", "nobody unlinks"])
def test_an_object_of_any_type_of_column_comes_back_under_its_number(conn: Connection, is_managed: bool) -> None:
    columns = [f"img{n}" for n, _ in enumerate(OBJECT_TYPES)]
    table = new_table(conn, ", ".join(f"{column} {kind}" for column, kind in zip(columns, OBJECT_TYPES, strict=True)))
    for column in columns:
        if is_managed:
            manage(conn, table, column)
    protect(conn, table, *columns)
    loids = [add(conn, table, n, f"picture {n}".encode(), column) for n, column in enumerate(columns)]
    before = rows(conn, f"select * from {table} order by id")
    deletion = delete(conn, table)
    assert [content(conn, loid) is None for loid in loids] == [is_managed] * len(loids)
    assert kept(conn, table) == [(loid, 0) for loid in sorted(loids)]
    restore(conn, deletion)
    assert rows(conn, f"select * from {table} order by id") == before
    assert [content(conn, loid) for loid in loids] == [b"picture 0", b"picture 1", b"picture 2", b"picture 3"]
    assert kept(conn, table) == []


def test_an_object_of_any_size_comes_back_to_the_byte(conn: Connection, managed: str) -> None:
    sizes = [0, 1, 2047, 2048, 2049, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 5, 5_000_000]
    before = {add(conn, managed, size, bytes(n % 251 for n in range(size))): size for size in sizes}
    whole = {loid: content(conn, loid) for loid in before}
    deletion = delete(conn, managed)
    assert [content(conn, loid) for loid in before] == [None] * len(sizes)
    pages = {size: sum(loid == one for one, _ in kept(conn, managed)) for loid, size in before.items()}
    assert (pages[0], pages[PAGE], pages[PAGE + 1], pages[5_000_000]) == (1, 1, 2, 20)
    restore(conn, deletion)
    for loid, size in before.items():
        assert content(conn, loid) == whole[loid], size
    assert kept(conn, managed) == []


@pytest.mark.parametrize(
    "holes",
    ["lo_put(%s, 3 * 262144 + 17, 'end')", "lo_put(%s, 524287, 'x')", "lo_truncate64(lo_open(%s, 131072), 524288 + 5)"],
    ids=["in the middle", "up to a border", "at the end"],
)
def test_an_object_with_holes_comes_back_with_its_size(conn: Connection, managed: str, holes: str) -> None:
    loid = add(conn, managed, 1, b"begin")
    conn.execute(f"select {holes}".encode(), (loid,))
    before = content(conn, loid)
    assert before is not None
    assert len(before) > 2 * PAGE - 1
    restore(conn, delete(conn, managed))
    assert content(conn, loid) == before


@pytest.mark.parametrize("when", ["in the same transaction", "later"])
def test_an_object_that_the_application_unlinks_after_the_delete_comes_back(
    conn: Connection, photo: str, when: str
) -> None:
    loid = add(conn, photo, 1)
    if when == "later":
        delete(conn, photo)
        conn.execute("select lo_unlink(%s)", (loid,))
    else:
        with conn.transaction():
            delete(conn, photo)
            conn.execute("select lo_unlink(%s)", (loid,))
    assert content(conn, loid) is None
    restore(conn, last_deletion(conn))
    assert content(conn, loid) == b"content"


def test_an_object_that_is_unlinked_before_the_delete_is_gone_but_the_row_is_not(conn: Connection, photo: str) -> None:
    """What is not there when the row is deleted can't be kept."""
    loid = add(conn, photo, 1)
    with conn.transaction():
        conn.execute("select lo_unlink(%s)", (loid,))
        delete(conn, photo)
    assert kept(conn, photo) == []
    restore(conn, last_deletion(conn))
    assert rows(conn, f"select id, img from {photo}") == [(1, loid)]
    assert content(conn, loid) is None


CONTENTS = [b"changed", b"CONTENT", b"short", b"", b"x" * (PAGE + 3)]


def test_the_last_content_before_the_delete_counts(conn: Connection, managed: str) -> None:
    loids = [add(conn, managed, key) for key, _ in enumerate(CONTENTS)]
    with conn.transaction():
        for loid, last in zip(loids, CONTENTS, strict=True):
            conn.execute("select lo_truncate(lo_open(%s, 131072), 0), lo_put(%s, 0, %s)", (loid, loid, last))
        delete(conn, managed)
    restore(conn, last_deletion(conn))
    assert [content(conn, loid) for loid in loids] == CONTENTS


def test_of_an_object_of_two_rows_the_content_counts_that_it_had_at_the_last_delete(
    conn: Connection, photo: str
) -> None:
    loids = [add(conn, photo, key, b"content" * 50_000) for key, _ in enumerate(CONTENTS)]
    conn.execute(f"insert into {photo} select id + 100, img from {photo}")
    with conn.transaction():
        delete(conn, photo, "id < 100")
        for loid, last in zip(loids, CONTENTS, strict=True):
            conn.execute("select lo_unlink(%s)", (loid,))
            conn.execute("select lo_from_bytea(%s, %s)", (loid, last))
        delete(conn, photo)
        for loid in loids:
            conn.execute("select lo_unlink(%s)", (loid,))
    assert len(kept(conn, photo)) == len(CONTENTS) + 1
    restore(conn, last_deletion(conn))
    assert [content(conn, loid) for loid in loids] == CONTENTS
    assert kept(conn, photo) == []


def test_an_object_is_kept_once_for_all_rows_and_columns_of_a_deletion(conn: Connection) -> None:
    table = protect(conn, new_table(conn, "img oid, thumb lo, note text"), "img", "thumb")
    loid = add(conn, table, 1)
    conn.execute(f"insert into {table} select n, {loid}, {loid} from generate_series(2, 5) n")
    deletion = delete(conn, table)
    assert kept(conn, table) == [(loid, 0)]
    conn.execute("select lo_unlink(%s)", (loid,))
    restore(conn, deletion)
    assert content(conn, loid) == b"content"
    assert value(conn, f"select count(*) from {table}") == 5


def test_an_object_is_kept_as_long_as_one_row_that_refers_to_it_is_buffered(conn: Connection, photo: str) -> None:
    loid = add(conn, photo, 1)
    conn.execute(f"insert into {photo} values (2, {loid}), (3, null)")
    delete(conn, photo)
    conn.execute("select lo_unlink(%s)", (loid,))
    conn.execute("select grace.restore(%s::regclass, keys => '[3, 1]')", (photo,))
    assert content(conn, loid) == b"content"
    assert kept(conn, photo) == [(loid, 0)]
    conn.execute("select lo_unlink(%s)", (loid,))
    conn.execute("select grace.restore(%s::regclass, keys => '2')", (photo,))
    assert content(conn, loid) == b"content"
    assert kept(conn, photo) == []


def test_a_reference_to_nothing_is_restored_as_it_was(conn: Connection, photo: str) -> None:
    conn.execute(f"insert into {photo} values (1, null), (2, 0), (3, 4000000000)")
    before = rows(conn, f"select * from {photo} order by id")
    deletion = delete(conn, photo)
    assert kept(conn, photo) == []
    restore(conn, deletion)
    assert rows(conn, f"select * from {photo} order by id") == before


def test_truncate_keeps_every_object(conn: Connection) -> None:
    table = protect(conn, new_table(conn, "img oid, thumb lo"), "img", "thumb")
    loids = [add(conn, table, 1, b"one"), add(conn, table, 2, b"two"), add(conn, table, 3, b"three", "thumb")]
    conn.execute(f"insert into {table} values (4, {loids[0]}, {loids[1]}), (5, null, 0)")
    conn.execute(f"truncate {table}")
    for loid in loids:
        conn.execute("select lo_unlink(%s)", (loid,))
    restore(conn, last_deletion(conn))
    assert [content(conn, loid) for loid in loids] == [b"one", b"two", b"three"]
    assert value(conn, f"select count(*) from {table}") == 5


def test_objects_of_rows_that_a_cascade_removes_come_back_with_them(conn: Connection) -> None:
    album = new_table(conn, "name text")
    table = manage(conn, new_table(conn, f"img lo, album int references {album} on delete cascade"))
    protect(conn, table)
    conn.execute("select grace.protect(%s::regclass)", (album,))
    conn.execute(f"insert into {album} values (7, 'holidays')")
    loid = add(conn, table, 1)
    conn.execute(f"update {table} set album = 7")
    deletion = delete(conn, album)
    assert content(conn, loid) is None
    restore(conn, deletion)
    assert rows(conn, f"select id, img::oid, album from {table}") == [(1, loid, 7)]
    assert content(conn, loid) == b"content"


def partitioned(conn: Connection) -> str:
    """Return a partitioned table with a partition of another column order, protected, and lo_manage in place."""
    table = new_table(conn, "img lo", "partition by list (id)")
    conn.execute(f"create table {table}_a partition of {table} for values in (1)")
    conn.execute(f"create table {table}_b (junk text, img lo, id int not null); alter table {table}_b drop column junk")
    conn.execute(f"alter table {table} attach partition {table}_b for values in (2)")
    return protect(conn, manage(conn, table))


@pytest.mark.parametrize("through", ["the root", "the leaf", "truncate of the root", "truncate of the leaf"])
def test_objects_of_partitions_come_back(conn: Connection, through: str) -> None:
    """Partition c was created, d attached, after the table was protected."""
    table = partitioned(conn)
    conn.execute(f"create table {table}_c partition of {table} for values in (3)")
    conn.execute(f"create table {table}_d (img lo, id int not null)")
    conn.execute(f"alter table {table} attach partition {table}_d for values in (4)")
    loids = [add(conn, table, key, b"%d" % key) for key in (1, 2, 3, 4)]
    relations = [f"{table}_{leaf}" for leaf in "abcd"] if "leaf" in through else [table]
    with conn.transaction():
        for relation in relations:
            conn.execute(f"{'truncate' if through.startswith('truncate') else 'delete from'} {relation}")
    if through.startswith("truncate"):
        conn.execute("select lo_unlink(v) from unnest(%s::oid[]) v", (loids,))
    assert [content(conn, loid) for loid in loids] == [None] * 4
    restore(conn, last_deletion(conn))
    assert rows(conn, f"select id, img::oid from {table} order by 1") == list(enumerate(loids, start=1))
    assert [content(conn, loid) for loid in loids] == [b"1", b"2", b"3", b"4"]


def test_a_detached_partition_is_deleted_from_without_a_trace(conn: Connection) -> None:
    table = partitioned(conn)
    loid = add(conn, table, 1)
    conn.execute(f"alter table {table} detach partition {table}_a")
    conn.execute(f"delete from {table}_a")
    assert content(conn, loid) == b"content"
    assert kept(conn, table) == []
    conn.execute(f"alter table {table} attach partition {table}_a for values in (1)")
    loid = add(conn, table, 1)
    restore(conn, delete(conn, table))
    assert content(conn, loid) == b"content"


def test_an_update_keeps_nothing(conn: Connection, managed: str) -> None:
    loid = add(conn, managed, 1)
    before = last_deletion(conn) if rows(conn, "select from grace.deletions") else 0
    conn.execute(f"update {managed} set img = lo_from_bytea(0, 'new')")
    assert content(conn, loid) is None
    assert kept(conn, managed) == []
    assert not rows(conn, "select from grace.deletions where id > %s", before)


def test_a_row_that_moves_to_another_partition_keeps_its_object_also_when_purged(conn: Connection) -> None:
    table = new_table(conn, "img oid", "partition by list (id)")
    conn.execute(f"create table {table}_a partition of {table} for values in (1)")
    conn.execute(f"create table {table}_b partition of {table} for values in (2)")
    protect(conn, table)
    loid = add(conn, table, 1)
    conn.execute(f"update {table} set id = 2")
    assert not rows(conn, "select from grace.deletions where target = %s::regclass", table)
    conn.execute(
        f"update grace_internal.f{number(conn, table)} set grace_deleted_at = grace_deleted_at - '31 days'::interval"
    )
    assert purge(conn, table) == "done"
    assert kept(conn, table) == []
    assert content(conn, loid) == b"content"


def test_a_rollback_leaves_nothing_behind(conn: Connection, managed: str) -> None:
    loid, other = add(conn, managed, 1), add(conn, managed, 2, b"other")
    with conn.transaction(force_rollback=True):
        delete(conn, managed)
    assert kept(conn, managed) == []
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            delete(conn, managed, "id = 1")
        delete(conn, managed, "id = 2")
    assert kept(conn, managed) == [(other, 0)]
    assert content(conn, loid) == b"content"
    restore(conn, last_deletion(conn))
    assert content(conn, other) == b"other"


def test_a_row_that_a_trigger_saves_keeps_its_object_also_when_purged(conn: Connection) -> None:
    photo = protect(conn, new_table(conn))
    conn.execute(
        f"create function {photo}_save() returns trigger language plpgsql as"
        " $$ begin if old.id = 1 then return null; end if; return old; end $$;"
        f"create trigger save before delete on {photo} for each row execute function {photo}_save()"
    )
    saved, deleted = add(conn, photo, 1), add(conn, photo, 2, b"deleted")
    deletion = delete(conn, photo)
    assert rows(conn, "select row_count from grace.deletions where id = %s", deletion) == [(1,)]
    assert rows(conn, f"select id from {photo}") == [(1,)]
    expire(conn, photo)
    assert purge(conn, photo) == "done"
    assert kept(conn, photo) == []
    assert (content(conn, saved), content(conn, deleted)) == (b"content", None)


def test_a_saved_rows_object_is_kept_anew_when_the_row_goes_after_all(conn: Connection) -> None:
    photo = protect(conn, new_table(conn))
    conn.execute(
        f"create function {photo}_save() returns trigger language plpgsql as"
        " $$ begin if current_setting('app.save', true) = 'on' then return null; end if; return old; end $$;"
        f"create trigger save before delete on {photo} for each row execute function {photo}_save()"
    )
    loid = add(conn, photo, 1)
    with conn.transaction():
        conn.execute("set local app.save = 'on'")
        conn.execute(f"delete from {photo}")
        conn.execute("set local app.save = 'off'")
        conn.execute("select lo_put(%s, 0, 'CHANGED')", (loid,))
        delete(conn, photo)
        conn.execute("select lo_unlink(%s)", (loid,))
    restore(conn, last_deletion(conn))
    assert content(conn, loid) == b"CHANGED"


def test_session_replication_role_gets_past_neither_row_nor_object(conn: Connection, photo: str) -> None:
    loid = add(conn, photo, 1)
    conn.execute("set session_replication_role = replica")
    deletion = delete(conn, photo)
    conn.execute("reset session_replication_role")
    conn.execute("select lo_unlink(%s)", (loid,))
    restore(conn, deletion)
    assert content(conn, loid) == b"content"


@pytest.mark.parametrize("relation", ["", "_a"], ids=["the root", "a partition"])
def test_a_trigger_that_somebody_has_disabled_is_enabled_by_sync(conn: Connection, relation: str) -> None:
    table = partitioned(conn)
    (number,) = rows(conn, "select id from grace_internal.protected where target = %s::regclass", table)[0]
    conn.execute(f'alter table {table}{relation} disable trigger " grace_files_{number}"')
    conn.execute("select grace.sync(%s::regclass)", (table,))
    loid = add(conn, table, 1)
    restore(conn, delete(conn, table))
    assert content(conn, loid) == b"content"


# Roles


def test_a_role_without_any_right_on_pg_grace_deletes_and_owner_and_rights_come_back(
    shared: Database, conn: Connection, managed: str, role: Callable[..., str]
) -> None:
    app, reader, operator = role("app"), role("reader"), role("operator")
    conn.execute(f"grant select, insert, delete on {managed} to {app}")
    conn.execute(f"grant grace_operator to {operator}; grant insert, select on {managed} to {operator}")
    own = shared.connect(user=app)
    loid, plain, bare = (add(own, managed, key, b"mine") for key in (1, 2, 3))
    own.execute(f"grant select on large object {loid} to public")
    own.execute(f"grant select, update on large object {loid} to {reader} with grant option")
    own.execute(f"grant select on large object {loid} to {operator}")
    own.execute(f"revoke all on large object {bare} from {app}")
    own.execute(f"revoke update on large object {loid} from {app}")
    rights = (
        "select m.oid, pg_get_userbyid(m.lomowner), a.grantee, a.privilege_type, a.is_grantable from pg_largeobject_metadata m"
        f" left join lateral aclexplode(m.lomacl) a on true where m.oid in ({loid}, {plain}, {bare}) order by 1, 3, 4"
    )
    before = rows(conn, rights)
    assert {owner for _, owner, *_ in before} == {app}
    own.execute(f"delete from {managed}")
    for forbidden in ("grace_internal.f1", "grace_buffer." + managed, "grace.file_outbox"):
        with pytest.raises(errors.InsufficientPrivilege):
            own.execute(f"select * from {forbidden}".encode())
    shared.connect(user=operator).execute("select grace.restore(deletion => %s)", (last_deletion(conn),))
    assert rows(conn, rights) == before
    assert own.execute("select lo_get(%s)", (plain,)).fetchone() == {"lo_get": b"mine"}
    own.execute(f"grant select on large object {bare} to {app}")
    own.execute("select lo_unlink(%s)", (bare,))


@pytest.fixture
def fleeting(conn: Connection) -> Iterator[Callable[[str], str]]:
    """Make roles that the test itself drops."""
    made: list[str] = []

    def make(name: str) -> str:
        made.append(f"{name}_fleeting_{next(_numbers)}")
        conn.execute(f"create role {made[-1]} login".encode())
        return made[-1]

    yield make
    for name in made:
        conn.execute(f"drop role if exists {name}".encode())


def test_rights_of_a_role_that_is_gone_are_left_out_with_a_warning(
    conn: Connection, managed: str, role: Callable[..., str], fleeting: Callable[[str], str]
) -> None:
    reader, gone = role("reader"), fleeting("gone")
    loid = add(conn, managed, 1)
    conn.execute(f"grant select on large object {loid} to {gone}; grant update on large object {loid} to {reader}")
    deletion = delete(conn, managed)
    conn.execute(f"drop role {gone}")
    said: list[str | None] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_primary))
    restore(conn, deletion)
    assert said == [f"a right on large object {loid} is not given back: its role is gone"]
    assert content(conn, loid) == b"content"
    assert rows(conn, "select lomacl::text from pg_largeobject_metadata where oid = %s", loid) == [
        (f"{{postgres=rw/postgres,{reader}=w/postgres}}",)
    ]


def test_an_object_whose_owner_is_gone_comes_back_with_the_rights_it_gave(
    shared: Database, conn: Connection, managed: str, role: Callable[..., str], fleeting: Callable[[str], str]
) -> None:
    reader, gone = role("reader"), fleeting("gone")
    conn.execute(f"grant select, insert, delete on {managed} to {gone}")
    own = shared.connect(user=gone)
    loid = add(own, managed, 1)
    own.execute(f"grant select on large object {loid} to {reader}")
    own.execute(f"delete from {managed}")
    own.close()
    conn.execute(f"drop owned by {gone}; drop role {gone}")
    said: list[str | None] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_primary))
    restore(conn, last_deletion(conn))
    assert f"large object {loid} belongs to postgres now: its owner {gone} is gone" in said
    assert content(conn, loid) == b"content"
    assert value(shared.connect(user=reader), f"select lo_get({loid})") == b"content"


# Restores that can't be, or that need do nothing


def test_nothing_is_restored_twice(conn: Connection, managed: str) -> None:
    loid = add(conn, managed, 1)
    deletion = delete(conn, managed)
    restore(conn, deletion)
    conn.execute("select lo_put(%s, 0, 'CHANGED')", (loid,))
    with pytest.raises(psycopg.Error) as caught:
        restore(conn, deletion)
    assert caught.value.sqlstate == "GR007"
    assert content(conn, loid) == b"CHANGED"


TAKEN = [
    (b"content", b"another"),
    (b"content", b"content and more"),
    (b"content", b"con"),
    (b"content", b""),
    (b"", b"content"),
    (b"x" * PAGE, b"x" * (PAGE + 1)),
    (b"x" * (PAGE + 1), b"x" * PAGE),
]


def test_a_number_that_is_taken_by_another_content_stops_the_restore(conn: Connection, managed: str) -> None:
    loids = [add(conn, managed, key, was) for key, (was, _) in enumerate(TAKEN)]
    free, same = add(conn, managed, 100, b"free"), add(conn, managed, 101, b"same")
    deletion = delete(conn, managed)
    for loid, (_, is_now) in zip(loids, TAKEN, strict=True):
        conn.execute("select lo_from_bytea(%s, %s)", (loid, is_now))
    conn.execute("select lo_from_bytea(%s, 'same')", (same,))
    reasons = [f"large object {loid} is there now with another content" for loid in loids]
    ((conflicts,),) = rows(conn, "select conflicts from grace.restore(deletion => %s, dry_run => true)", deletion)
    assert sorted(conflict["reason"] for conflict in conflicts) == sorted(reasons)
    assert {conflict["constraint"] for conflict in conflicts} == {"large object"}
    with pytest.raises(psycopg.Error) as caught:
        restore(conn, deletion)
    assert caught.value.sqlstate == "GR011"
    assert all(reason in (caught.value.diag.message_detail or "") for reason in reasons)
    assert caught.value.diag.message_hint
    assert value(conn, f"select count(*) from {managed}") == 0
    assert buffered(conn, managed) == len(TAKEN) + 2
    assert [content(conn, loid) for loid in loids] == [is_now for _, is_now in TAKEN]
    assert content(conn, free) is None
    conn.execute("select lo_unlink(v) from unnest(%s::oid[]) v", (loids,))
    restore(conn, deletion)
    assert [content(conn, loid) for loid in loids] == [was for was, _ in TAKEN]
    assert (content(conn, free), content(conn, same)) == (b"free", b"same")


def test_a_taken_number_is_listed_together_with_other_conflicts(conn: Connection, managed: str) -> None:
    loid = add(conn, managed, 1)
    deletion = delete(conn, managed)
    conn.execute("select lo_from_bytea(%s, 'another')", (loid,))
    conn.execute(f"insert into {managed} values (1, null)")
    with pytest.raises(psycopg.Error) as caught:
        restore(conn, deletion)
    assert caught.value.sqlstate == "GR011"
    detail = caught.value.diag.message_detail or ""
    assert "is taken by a row that is there now" in detail
    assert f"large object {loid} is there now with another content" in detail


def test_an_object_that_was_never_unlinked_is_left_alone(conn: Connection, photo: str) -> None:
    loid = add(conn, photo, 1)
    deletion = delete(conn, photo)
    version = rows(conn, "select xmin::text from pg_largeobject where loid = %s", loid)
    restore(conn, deletion)
    assert rows(conn, "select xmin::text from pg_largeobject where loid = %s", loid) == version
    assert kept(conn, photo) == []


def test_delete_restore_and_delete_again_each_time_with_what_it_is_then(conn: Connection, managed: str) -> None:
    loid = add(conn, managed, 1, b"one")
    restore(conn, delete(conn, managed))
    conn.execute("select lo_put(%s, 0, 'two')", (loid,))
    restore(conn, delete(conn, managed))
    assert content(conn, loid) == b"two"
    with conn.transaction():
        deletion = delete(conn, managed)
        restore(conn, deletion)
        conn.execute("select lo_put(%s, 0, 'six')", (loid,))
        conn.execute(f"delete from {managed}")
    assert content(conn, loid) is None
    assert kept(conn, managed) == [(loid, 0)]
    restore(conn, last_deletion(conn))
    assert content(conn, loid) == b"six"


def test_of_several_deletions_that_are_restored_at_once_the_last_content_comes_back(
    conn: Connection, photo: str
) -> None:
    loid = add(conn, photo, 1, b"first")
    conn.execute(f"insert into {photo} values (2, {loid}), (3, {loid})")
    delete(conn, photo, "id = 1")
    conn.execute("select lo_put(%s, 0, 'LATER')", (loid,))
    delete(conn, photo, "id = 2")
    conn.execute("select lo_unlink(%s)", (loid,))
    delete(conn, photo, "id = 3")
    call = f"grace.restore('{photo}', deleted_from => '-infinity'"
    assert rows(conn, f"select restored, conflicts from {call}, dry_run => true)") == [(3, [])]
    conn.execute(f"select {call})".encode())
    assert content(conn, loid) == b"LATER"
    assert kept(conn, photo) == []


# Purge


@pytest.mark.parametrize("how", EXPIRY)
def test_a_purge_removes_what_is_kept_and_the_object_that_the_application_has_left(
    conn: Connection, photo: str, how: str
) -> None:
    loid, gone = add(conn, photo, 1, b"x" * (2 * PAGE + 1)), add(conn, photo, 2)
    deletion = delete(conn, photo)
    conn.execute("select lo_unlink(%s)", (gone,))
    expire(conn, photo, how)
    stays = add(conn, photo, 3, b"deleted just now")
    later = delete(conn, photo)
    assert purge(conn, photo) == "done"
    assert buffered(conn, photo) == 1
    assert kept(conn, photo) == [(stays, 0)]
    assert (content(conn, loid), content(conn, gone)) == (None, None)
    with pytest.raises(psycopg.Error) as caught:
        restore(conn, deletion)
    assert caught.value.sqlstate == "GR007"
    conn.execute("select lo_unlink(%s)", (stays,))
    restore(conn, later)
    assert content(conn, stays) == b"deleted just now"


def test_the_leaf_of_a_purged_day_is_dropped(conn: Connection, photo: str) -> None:
    add(conn, photo, 1)
    delete(conn, photo)
    expire(conn, photo)
    leaves = f"select count(*) from pg_class where relname ~ '^[bf]{number(conn, photo)}_\\d{{8}}$' and relkind = 'r'"
    before = value(conn, leaves)
    purge(conn, photo)
    assert value(conn, leaves) == before - 2


REFERENCES = [
    "insert into {photo} values (7, {loid})",
    "create table {photo}_other (cover lo); insert into {photo}_other values ({loid})",
    "create table {photo}_root (cover scan) partition by list (cover);"
    "create table {photo}_leaf partition of {photo}_root default; insert into {photo}_root values ({loid})",
    "create materialized view {photo}_view as select {loid}::oid as cover",
    "insert into {photo} values (8, {loid}); delete from {photo} where id = 8",
    "create table {photo}_more (id int primary key, cover oid); select grace.protect('{photo}_more');"
    "insert into {photo}_more values (7, {loid}); delete from {photo}_more",
]


@pytest.mark.parametrize("how", EXPIRY)
def test_a_purge_unlinks_nothing_to_which_something_still_refers(conn: Connection, how: str) -> None:
    photo = protect(conn, new_table(conn))
    loids = [add(conn, photo, 10 + key) for key, _ in enumerate(REFERENCES)]
    alone = add(conn, photo, 9)
    delete(conn, photo)
    expire(conn, photo, how)
    for loid, reference in zip(loids, REFERENCES, strict=True):
        conn.execute(reference.format(photo=photo, loid=loid).encode())
    assert purge(conn, photo) == "done"
    assert [content(conn, loid) for loid in loids] == [b"content"] * len(loids)
    assert content(conn, alone) is None
    assert kept(conn, photo) == [(loids[4], 0)]


def test_a_purge_unlinks_nothing_that_the_deleter_could_not(
    shared: Database, conn: Connection, photo: str, role: Callable[..., str]
) -> None:
    app = role("app")
    conn.execute(f"grant select, insert, delete on {photo} to {app}")
    own = shared.connect(user=app)
    foreign, mine = add(conn, photo, 1), add(own, photo, 2)
    own.execute(f"delete from {photo}")
    expire(conn, photo)
    assert purge(conn, photo) == "done"
    assert (content(conn, foreign), content(conn, mine)) == (b"content", None)
    assert kept(conn, photo) == []


def test_thousands_of_objects_go_in_one_purge(conn: Connection, photo: str) -> None:
    conn.execute(f"insert into {photo} select n, lo_from_bytea(0, 'x') from generate_series(1, 1100) n")
    loids = [loid for (loid,) in rows(conn, f"select img from {photo}")]
    delete(conn, photo)
    expire(conn, photo)
    conn.execute("set statement_timeout = '20s'")  # looking for references once for each object would take minutes
    assert purge(conn, photo) == "done"
    assert kept(conn, photo) == []
    assert value(conn, "select count(*) from pg_largeobject_metadata where oid = any (%s::oid[])", loids) == 0


def test_an_object_whose_row_a_lock_keeps_in_the_buffer_goes_with_the_next_purge(
    shared: Database, conn: Connection, photo: str
) -> None:
    loid = add(conn, photo, 1)
    delete(conn, photo)
    expire(conn, photo)
    reader = shared.connect()
    with reader.transaction():
        reader.execute(f"select from grace_buffer.{photo}".encode())
        assert purge(conn, photo) == "incomplete"
        assert content(conn, loid) == b"content"
    assert purge(conn, photo) == "done"
    assert content(conn, loid) is None
    assert kept(conn, photo) == []


def test_vacuumlo_removes_nothing_that_is_buffered(db: Database) -> None:
    conn = db.connect()
    conn.execute("create table photo (id int primary key, img oid); select grace.protect('photo', files => '{img}')")
    loid, orphan = add(conn, "photo", 1), value(conn, "select lo_from_bytea(0, 'nobody')")
    deletion = delete(conn, "photo")
    subprocess.run([str(binaries() / "vacuumlo"), *connection_options(db)], check=True, capture_output=True)
    assert (content(conn, loid), content(conn, orphan)) == (b"content", None)
    restore(conn, deletion)
    assert content(conn, loid) == b"content"


def connection_options(database: Database) -> list[str]:
    given = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    return ["-h", str(given["host"]), "-p", str(given["port"]), "-U", str(given["user"]), database.name]


# Declarations, and what becomes of the columns


@pytest.mark.parametrize(
    ("column", "exclude", "why"),
    [
        ("missing", "", "does not exist"),
        ("img", "img", "excluded"),
        ("size", "", "integer"),
        ("raw", "", "bytea"),
        ("tags", "", "text[]"),
        ("numbers", "", "oid[]"),
        ("ctid", "", "does not exist"),
        ("gone", "", "does not exist"),
    ],
)
def test_a_column_that_refers_to_no_file_is_refused(conn: Connection, column: str, exclude: str, why: str) -> None:
    table = new_table(conn, "img oid, size int, raw bytea, tags text[], numbers oid[], gone oid")
    conn.execute(f"alter table {table} drop column gone")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            "select grace.protect(%s::regclass, files => %s::name[], exclude_columns => %s::name[])",
            (table, [column], [exclude] if exclude else []),
        )
    assert caught.value.sqlstate == "GR020"
    assert why in str(caught.value.diag.message_detail)
    assert caught.value.diag.message_hint
    assert not rows(conn, "select from grace.protected where target = %s::regclass", table)


def test_a_column_that_is_declared_later_is_declared_in_addition(conn: Connection) -> None:
    table = protect(conn, new_table(conn, "img oid, thumb oid, path text, note text"))
    first = add(conn, table, 1)
    deletion = delete(conn, table)
    protect(conn, table, "thumb", "path")
    protect(conn, table, "thumb")
    conn.execute("select lo_unlink(%s)", (first,))
    restore(conn, deletion)
    assert content(conn, first) == b"content"
    second = add(conn, table, 2, b"small", "thumb")
    deletion = delete(conn, table)
    conn.execute("select lo_unlink(%s), lo_unlink(%s)", (first, second))
    restore(conn, deletion)
    assert (content(conn, first), content(conn, second)) == (b"content", b"small")
    conn.execute(f"update {table} set path = 'a.png', note = 'b.png'")
    delete(conn, table)
    expire(conn, table)
    purge(conn, table)
    assert outbox(conn) == ["a.png"]


def test_a_renamed_column_and_table_are_followed(conn: Connection) -> None:
    table = protect(conn, new_table(conn, "junk int, img oid, path text"), "img", "path")
    early = add(conn, table, 1)
    first = delete(conn, table)
    conn.execute(f"alter table {table} rename img to picture; alter table {table} rename path to place")
    conn.execute(f"alter table {table} drop column junk; alter table {table} rename to {table}x")
    table += "x"
    late = add(conn, table, 2, b"late", "picture")
    second = delete(conn, table)
    conn.execute("select lo_unlink(%s), lo_unlink(%s)", (early, late))
    restore(conn, first)
    restore(conn, second)
    assert (content(conn, early), content(conn, late)) == (b"content", b"late")
    conn.execute(f"update {table} set place = 'a.png' where id = 1")
    buffer = value(conn, "select buffer::text from grace_internal.protected where target = %s::regclass", table)
    delete(conn, table)
    conn.execute(f"update grace_buffer.{buffer} set grace_deleted_at = grace_deleted_at - interval '31 days'".encode())
    purge(conn, table)
    assert rows(conn, "select target, column_name, file from grace.file_outbox") == [(table, "place", "a.png")]


def test_a_dropped_column_ends_the_keeping_and_what_is_kept_still_comes_back_and_expires(conn: Connection) -> None:
    table = protect(conn, new_table(conn, "img oid, path text"), "img", "path")
    one, two = add(conn, table, 1, b"one"), add(conn, table, 2, b"two")
    conn.execute(f"update {table} set path = id || '.png'")
    first = delete(conn, table, "id = 1")
    delete(conn, table, "id = 2")
    conn.execute("select lo_unlink(%s), lo_unlink(%s)", (one, two))
    conn.execute(f"alter table {table} drop column img, drop column path, add column img text")
    conn.execute(f"insert into {table} values (3, 'no object')")
    delete(conn, table)
    restore(conn, first)
    assert content(conn, one) == b"one"
    expire(conn, table)
    assert purge(conn, table) == "done"
    assert kept(conn, table) == []
    assert outbox(conn) == ["2.png"]
    conn.execute(f"insert into {table} values (4, 'no object')")
    restore(conn, delete(conn, table, "id = 4"))
    assert purge(conn, table) == "done"


@pytest.mark.parametrize("new_type", ["bigint", "lo", "scan", "text"])
def test_a_column_that_changes_its_type_brings_back_what_was_kept_before(conn: Connection, new_type: str) -> None:
    table = protect(conn, new_table(conn))
    loid = add(conn, table, 1)
    deletion = delete(conn, table)
    conn.execute("select lo_unlink(%s)", (loid,))
    conn.execute(f"alter table {table} alter column img type {new_type}")
    restore(conn, deletion)
    assert rows(conn, f"select id, img::text::oid from {table}") == [(1, loid)]
    assert content(conn, loid) == b"content"
    restore(conn, delete(conn, table))
    assert rows(conn, f"select id, img::text::oid from {table}") == [(1, loid)]


def test_a_column_that_becomes_one_of_objects_keeps_them_from_then_on(conn: Connection) -> None:
    table = new_table(conn, "img bigint, cover oid")
    protect(conn, table, "cover")
    loid = value(conn, f"insert into {table} values (1, lo_from_bytea(0, 'x')::bigint, null) returning img")
    conn.execute(f"alter table {table} alter column img type oid using img::oid")
    protect(conn, table, "img")
    deletion = delete(conn, table)
    conn.execute("select lo_unlink(%s::oid)", (loid,))
    restore(conn, deletion)
    assert content(conn, loid) == b"x"


# Unprotect, uninstall, dump


def test_unprotect_with_discard_leaves_neither_what_was_kept_nor_orphans(conn: Connection) -> None:
    table = protect(conn, new_table(conn, "img oid, path text"), "img", "path")
    gone, shared_one, live = add(conn, table, 1), add(conn, table, 2), add(conn, table, 3)
    conn.execute(f"insert into {table} values (4, {shared_one}, 'live.png')")
    conn.execute(f"update {table} set path = id || '.png' where id < 4")
    delete(conn, table, "id < 3")
    table_id = number(conn, table)
    conn.execute("select grace.unprotect(%s::regclass, 'discard')", (table,))
    assert rows(conn, f"select relname from pg_class where relname ~ '^[bf]{table_id}(_|$)'") == []
    assert [content(conn, loid) for loid in (gone, shared_one, live)] == [None, b"content", b"content"]
    assert outbox(conn) == ["1.png", "2.png"]
    conn.execute(f"delete from {table}")
    assert content(conn, live) == b"content"


def test_unprotect_with_keep_leaves_what_was_kept_until_it_expires(conn: Connection) -> None:
    managed = protect(conn, manage(conn, new_table(conn)))
    first = add(conn, managed, 1)
    deletion = delete(conn, managed)
    second = add(conn, managed, 2, b"second")
    delete(conn, managed)
    third = add(conn, managed, 3)
    table_id = number(conn, managed)
    conn.execute("select grace.unprotect(%s::regclass)", (managed,))
    conn.execute(f"delete from {managed}")
    assert content(conn, third) is None
    restore(conn, deletion)
    assert content(conn, first) == b"content"
    expire(conn, managed)
    purge(conn, managed)
    purge(conn, managed)
    assert content(conn, second) is None
    assert rows(conn, f"select relname from pg_class where relname ~ '^[bf]{table_id}(_|$)'") == []


def test_protecting_again_keeps_objects_as_before(conn: Connection) -> None:
    managed = protect(conn, manage(conn, new_table(conn)))
    conn.execute("select grace.unprotect(%s::regclass)", (managed,))
    conn.execute("select grace.protect(%s::regclass)", (managed,))
    loid = add(conn, managed, 1)
    restore(conn, delete(conn, managed))
    assert content(conn, loid) == b"content"


def test_uninstall_leaves_nothing_behind_and_every_live_object_in_place(empty_db: Database) -> None:
    conn = empty_db.connect()
    conn.execute("create extension lo; create table photo (id int, img lo, path text) partition by list (id)")
    conn.execute("create table photo_1 partition of photo for values in (1, 2, 3)")
    manage(conn, "photo")
    before = schema_dump(empty_db)
    empty_db.cli("install")
    empty_db.cli("protect", "photo", "--file", "img", "--file", "path")
    gone, live = add(conn, "photo", 1), add(conn, "photo", 2)
    conn.execute("delete from photo where id = 1")
    empty_db.cli("uninstall", "--yes", "--discard-buffer")
    assert schema_dump(empty_db) == before
    assert (content(conn, gone), content(conn, live)) == (None, b"content")
    conn.execute("delete from photo")
    assert content(conn, live) is None


def test_kept_objects_survive_a_dump_into_another_database(db: Database, empty_db: Database) -> None:
    conn = db.connect()
    conn.execute("create extension lo; create table photo (junk int, id int primary key, old lo, path text)")
    protect(conn, "photo", "old", "path")
    conn.execute("alter table photo drop column junk; alter table photo rename old to img")
    manage(conn, "photo")
    loid, live = add(conn, "photo", 1, b"x" * (PAGE + 7)), add(conn, "photo", 2, b"live")
    deletion = delete(conn, "photo", "id = 1")
    dump = subprocess.run(
        [str(binaries() / "pg_dump"), *connection_options(db)], check=True, capture_output=True, text=True
    ).stdout
    subprocess.run(
        [str(binaries() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *connection_options(empty_db)],
        check=True,
        capture_output=True,
        text=True,
        input=dump,
    )
    loaded = empty_db.connect()
    assert content(loaded, live) == b"live"
    assert content(loaded, loid) is None
    restore(loaded, deletion)
    assert content(loaded, loid) == b"x" * (PAGE + 7)
    loaded.execute("update photo set path = id || '.png'")
    deletion = delete(loaded, "photo")
    assert (content(loaded, loid), content(loaded, live)) == (None, None)
    loaded.execute("select grace.restore(deletion => %s, target => 'photo', keys => '2')", (deletion,))
    assert content(loaded, live) == b"live"
    expire(loaded, "photo")
    assert purge(loaded, "photo") == "done"
    assert kept(loaded, "photo") == []
    assert outbox(loaded) == ["1.png"]


# An ordinary role owns pg_grace


@pytest.fixture
def keeper(server: Server, empty_db: Database, role: Callable[..., str]) -> Iterator[Database]:
    """A database in which an ordinary role has installed pg_grace; it owns table photo, from which app may delete."""
    name, app = role("keeper", "login createrole"), role("app")
    with psycopg.connect(empty_db.conninfo, autocommit=True) as admin:
        admin.execute(f"create extension lo; grant create on database {empty_db.name} to {name}".encode())
        admin.execute(f"grant create on schema public to {name}")
        database = Database(Server(app, f"{server.dsn} user={name}"), empty_db.name)
        database.cli("install")
        owner = database.connect()
        owner.execute(
            "create table photo (id int primary key, img lo); select grace.protect('photo', files => '{img}')"
        )
        owner.execute(f"grant select, insert, delete on photo to {app}".encode())
        manage(owner, "photo")
        yield database
        for connection in database.connections:
            connection.close()
        admin.execute(f"drop owned by {name} cascade")


def test_an_ordinary_role_keeps_restores_and_purges_its_own_objects(keeper: Database) -> None:
    conn, app = keeper.connect(), keeper.connect(user=keeper.server.kind)
    mine, left = add(conn, "photo", 1), add(conn, "photo", 2, b"left")
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("delete from photo where id = 1")  # lo_manage refuses what is not app's
    conn.execute("drop trigger t_img on photo")
    app.execute("delete from photo where id = 1")
    conn.execute("delete from photo where id = 2")
    conn.execute("select lo_unlink(%s)", (mine,))
    conn.execute("select grace.restore('photo', keys => '1')")
    assert content(conn, mine) == b"content"
    expire(conn, "photo")
    assert purge(conn, "photo") == "done"
    assert content(conn, left) is None
    assert kept(conn, "photo") == []


def test_an_object_that_the_owner_of_pg_grace_may_not_read_stops_the_delete_with_a_hint_that_helps(
    keeper: Database,
) -> None:
    conn, app = keeper.connect(), keeper.connect(user=keeper.server.kind)
    loid = add(app, "photo", 1, b"mine")
    with pytest.raises(psycopg.Error) as caught:
        app.execute("delete from photo")
    assert caught.value.sqlstate == "GR020"
    assert value(conn, "select count(*) from photo") == 1
    assert content(app, loid) == b"mine"
    assert rows(conn, "select from grace.deletions") == []
    app.execute((caught.value.diag.message_hint or "").partition(": ")[2].encode())
    app.execute("delete from photo")
    assert content(app, loid) is None


def give_rights(keeper: Database, app: Connection, loid: int) -> None:
    name = value(keeper.connect(), "select current_user::text")
    app.execute(f"grant select on large object {loid} to {name}".encode())


def test_an_object_that_can_t_be_given_back_to_its_owner_stops_the_restore_with_a_hint_that_helps(
    keeper: Database, empty_db: Database
) -> None:
    conn, app = keeper.connect(), keeper.connect(user=keeper.server.kind)
    loid = add(app, "photo", 1, b"mine")
    give_rights(keeper, app, loid)
    rights = "select pg_get_userbyid(lomowner), lomacl::text from pg_largeobject_metadata where oid = %s"
    before = rows(conn, rights, loid)
    app.execute("delete from photo")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.restore('photo', keys => '1')")
    assert caught.value.sqlstate == "GR020"
    assert value(conn, "select count(*) from photo") == 0
    assert content(conn, loid) is None
    empty_db.connect().execute((caught.value.diag.message_hint or "").encode())
    conn.execute("select grace.restore('photo', keys => '1')")
    assert rows(conn, rights, loid) == before
    assert content(app, loid) == b"mine"
    app.execute("delete from photo")
    assert content(app, loid) is None
    conn.execute("select grace.restore('photo', keys => '1')")
    assert rows(conn, rights, loid) == before


def test_a_taken_number_that_can_t_be_read_is_a_conflict(keeper: Database) -> None:
    conn, app = keeper.connect(), keeper.connect(user=keeper.server.kind)
    loid = add(conn, "photo", 1)
    conn.execute("delete from photo")
    app.execute("select lo_from_bytea(%s, 'mine')", (loid,))
    ((found,),) = rows(conn, "select conflicts from grace.restore('photo', keys => '1', dry_run => true)")
    assert "may not read it" in found[0]["reason"]
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select grace.restore('photo', keys => '1')")
    assert caught.value.sqlstate == "GR011"


def test_an_object_that_the_owner_of_pg_grace_may_not_unlink_stays_with_a_warning(keeper: Database) -> None:
    conn, app = keeper.connect(), keeper.connect(user=keeper.server.kind)
    conn.execute("drop trigger t_img on photo")
    theirs, ours = add(app, "photo", 1, b"theirs"), add(conn, "photo", 2)
    give_rights(keeper, app, theirs)
    app.execute("delete from photo where id = 1")
    conn.execute("delete from photo")
    expire(conn, "photo")
    said: list[str | None] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_detail))
    assert purge(conn, "photo") == "done"
    assert any(keeper.server.kind in (detail or "") for detail in said)
    assert (content(app, theirs), content(conn, ours)) == (b"theirs", None)
    assert kept(conn, "photo") == []


# Files outside the database


@pytest.mark.parametrize("how", EXPIRY)
def test_a_path_comes_into_the_outbox_when_its_row_is_purged_once_and_not_before(
    conn: Connection, document: str, how: str
) -> None:
    conn.execute(f"insert into {document} values (1, 'a.pdf'), (2, 'b.pdf'), (3, 'a.pdf'), (4, null), (5, '')")
    delete(conn, document, "id < 3")
    delete(conn, document)
    assert outbox(conn) == []
    assert purge(conn, document) == "done"
    assert outbox(conn) == []
    deleted = rows(conn, "select max(deleted_at) from grace.deletions where target = %s::regclass", document)
    expire(conn, document, how)
    assert purge(conn, document) == "done"
    assert outbox(conn) == ["a.pdf", "b.pdf"]
    ((target, column, attempts, error, at, purged),) = rows(
        conn,
        "select target, column_name, attempts, error, deleted_at, purged_at from grace.file_outbox where file = 'a.pdf'",
    )
    assert (target, column, attempts, error) == (document, "path", 0, None)
    assert at < deleted[0][0] <= purged


def test_a_path_of_rows_in_several_slices_comes_once(conn: Connection, document: str) -> None:
    conn.execute(f"insert into {document} select n, 'logo.png' from generate_series(1, 5001) n")
    delete(conn, document)
    expire(conn, document, "the default partition")
    purge(conn, document)
    assert buffered(conn, document) == 0
    assert outbox(conn) == ["logo.png"]


def test_a_path_may_be_of_any_text_type(conn: Connection) -> None:
    columns = [f"path{n}" for n, _ in enumerate(PATH_TYPES)]
    definition = ", ".join(f"{column} {kind}" for column, kind in zip(columns, PATH_TYPES, strict=True))
    table = protect(conn, new_table(conn, definition), *columns)
    for n, column in enumerate(columns):
        conn.execute(f"insert into {table} (id, {column}) values ({n}, 'a b/%c{n}.pdf'), ({n} + 10, 'live{n}.pdf')")
    delete(conn, table)
    expire(conn, table)
    purge(conn, table)
    for n, column in enumerate(columns):
        conn.execute(f"insert into {table} (id, {column}) values ({n}, 'live{n}.pdf')")
    assert len(outbox(conn)) == 2 * len(PATH_TYPES)
    assert claim(conn) == [f"a b/%c{n}.pdf" for n, _ in enumerate(PATH_TYPES)]


def test_a_restored_row_never_comes_into_the_outbox(conn: Connection, document: str) -> None:
    conn.execute(f"insert into {document} values (1, 'a.pdf'), (2, 'b.pdf')")
    delete(conn, document)
    conn.execute("select grace.restore(%s::regclass, keys => '1')", (document,))
    expire(conn, document)
    purge(conn, document)
    assert outbox(conn) == ["b.pdf"]


FILE_REFERENCES = [
    "insert into {table} values (10, 'f0')",
    "insert into {table} values (11, 'f1'); delete from {table} where id = 11",
    "insert into {other} values (10, null, 'f2')",
    "insert into {other} values (11, 'f3', null); delete from {other} where id = 11",
]


def test_a_file_that_another_row_has_is_taken_off_when_claimed_and_comes_again_with_that_row(
    conn: Connection, document: str
) -> None:
    other = protect(conn, new_table(conn, "scan varchar, path text"), "scan", "path")
    conn.execute(f"insert into {document} select n, 'f' || n from generate_series(0, 4) n")
    delete(conn, document)
    expire(conn, document)
    purge(conn, document)
    for reference in FILE_REFERENCES:
        conn.execute(reference.format(table=document, other=other).encode())
    assert claim(conn) == ["f4"]
    assert outbox(conn) == ["f4"]
    conn.execute("select grace.file_deleted(id) from grace.file_outbox")
    for table in (document, other):
        conn.execute(f"delete from {table}".encode())
        expire(conn, table)
        purge(conn, table)
    assert sorted(claim(conn)) == ["f0", "f1", "f2", "f3"]


def test_a_row_that_has_expired_no_longer_holds_its_file(conn: Connection, document: str) -> None:
    conn.execute(f"insert into {document} values (1, 'a.pdf'), (2, 'a.pdf')")
    delete(conn, document, "id = 1")
    expire(conn, document)
    purge(conn, document)
    delete(conn, document, "id = 2")
    expire(conn, document)
    assert claim(conn) == ["a.pdf"]


def post(conn: Connection, table: str, count: int = 6) -> str:
    """Put files f1, f2 and so on into the outbox."""
    conn.execute(f"insert into {table} select n, 'f' || n from generate_series(1, %s) n", (count,))
    delete(conn, table)
    expire(conn, table)
    purge(conn, table)
    return table


@pytest.fixture
def posted(conn: Connection, document: str) -> str:
    """A table of which f1 to f6 are in the outbox."""
    return post(conn, document)


def test_files_that_are_still_referred_to_hide_no_others(conn: Connection, posted: str) -> None:
    conn.execute(f"insert into {posted} select n, 'f' || n from generate_series(1, 5) n")
    assert claim(conn, "2") == ["f6"]
    assert outbox(conn) == ["f6"]
    assert claim(conn, "2") == []


def test_two_sessions_never_claim_the_same_file(shared: Database, conn: Connection, posted: str) -> None:
    assert posted
    other = shared.connect()
    with conn.transaction(), other.transaction():
        assert claim(conn, "4") == ["f1", "f2", "f3", "f4"]
        assert claim(other, "4") == ["f5", "f6"]
    assert claim(conn) == claim(other) == []


def test_sessions_that_claim_at_once_share_the_files(shared: Database, conn: Connection, document: str) -> None:
    post(conn, document, 60)

    def work(connection: Connection) -> list[str]:
        return [file for _ in range(20) for file in claim(connection, "3")]

    with ThreadPoolExecutor(4) as pool:
        claimed = [file for files in pool.map(work, [shared.connect() for _ in range(4)]) for file in files]
    assert sorted(claimed) == sorted(f"f{n}" for n in range(1, 61))


def test_a_claim_ends_with_its_lease_and_the_least_tried_come_first(conn: Connection, posted: str) -> None:
    assert posted
    assert claim(conn, "2, '100 milliseconds'") == ["f1", "f2"]
    assert claim(conn, "1") == ["f3"]
    conn.execute("select pg_sleep(0.12)")
    assert claim(conn, "5") == ["f1", "f2", "f4", "f5", "f6"]
    assert rows(conn, "select file, attempts from grace.file_outbox order by id") == [
        ("f1", 2),
        ("f2", 2),
        ("f3", 1),
        ("f4", 1),
        ("f5", 1),
        ("f6", 1),
    ]


def test_an_error_is_kept_and_the_file_can_be_tried_again(conn: Connection, posted: str) -> None:
    assert posted
    first, second = (row["id"] for row in conn.execute("select id from grace.claim_files(2)").fetchall())
    conn.execute("select grace.file_deleted(%s), grace.file_deleted(%s, 'busy')", (first, second))
    assert rows(conn, "select file, attempts, error, claimed_until from grace.file_outbox where attempts > 0") == [
        ("f2", 1, "busy", None)
    ]
    assert claim(conn) == ["f2", "f3", "f4", "f5", "f6"]
    conn.execute("select grace.file_deleted(%s)", (second,))
    assert outbox(conn) == ["f3", "f4", "f5", "f6"]


@pytest.mark.parametrize("error", ["null", "'busy'"])
def test_a_file_that_is_not_in_the_outbox_is_an_error(conn: Connection, error: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(f"select grace.file_deleted(-1, {error})".encode())
    assert caught.value.sqlstate == "GR020"
    assert "-1" in str(caught.value.diag.message_primary)


@pytest.mark.parametrize("arguments", ["0", "-1", "1, '0'", "1, '-1 hour'", "null", "1, null"])
def test_a_claim_of_nothing_is_an_error(conn: Connection, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        claim(conn, arguments)
    assert caught.value.sqlstate == "22023"
    assert caught.value.diag.message_detail


def test_only_an_administrator_works_on_the_outbox(
    shared: Database, conn: Connection, posted: str, role: Callable[..., str]
) -> None:
    assert posted
    admin, operator, auditor, nobody = (role(name) for name in ("admin", "operator", "auditor", "nobody"))
    conn.execute(f"grant grace_admin to {admin}; grant grace_operator to {operator}; grant grace_auditor to {auditor}")
    calls: list[Any] = [
        "table grace.file_outbox",
        "select grace.claim_files()",
        "select grace.file_deleted(1)",
        "delete from grace_internal.outbox",
    ]
    for somebody in (operator, auditor, nobody):
        theirs = shared.connect(user=somebody)
        for call in calls:
            with pytest.raises(errors.InsufficientPrivilege):
                theirs.execute(call)
    ours = shared.connect(user=admin)
    assert len(outbox(ours)) == 6
    assert len(claim(ours, "6")) == 6
    ours.execute("select grace.file_deleted(id) from grace.file_outbox")
    assert outbox(ours) == []


def test_the_outbox_outlives_the_table(conn: Connection) -> None:
    posted = protect(conn, new_table(conn, "path text"), "path")
    post(conn, posted)
    conn.execute("select grace.unprotect(%s::regclass, 'discard')", (posted,))
    conn.execute(f"drop table {posted}")
    assert {target for (target,) in rows(conn, "select target from grace.file_outbox")} == {f"public.{posted}"}
    assert claim(conn) == [f"f{n}" for n in range(1, 7)]


def test_a_discarded_buffer_hands_out_no_file_that_the_table_still_has(conn: Connection) -> None:
    conn.execute("create table contract (id int primary key, path text)")
    conn.execute("select grace.protect('contract', files => '{path}')")
    conn.execute("insert into contract values (1, 'shared.pdf'), (2, 'shared.pdf'), (3, 'gone.pdf')")
    conn.execute("delete from contract where id in (1, 3)")
    conn.execute("select grace.unprotect('contract', 'discard')")
    assert rows(conn, "select file from grace.claim_files()") == [("gone.pdf",)]
