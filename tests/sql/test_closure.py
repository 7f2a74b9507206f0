"""What a deletion would take with it, and what stands in its way, compared with what really goes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.restoring import script
from tests.sql.test_trust import is_superuser, mallory  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
CRM = [ROOT / "examples/crm/schema.sql", ROOT / "examples/crm/data.sql"]
CHINOOK = [ROOT / "tests/data/chinook.sql"]
REFUSED = ("23503", "23502")


def load(conn: Connection, files: list[Path]) -> None:
    for file in files:
        with psycopg.connect(conn.info.dsn, autocommit=True) as session:
            session.execute(file.read_bytes())


def tables(conn: Connection) -> list[str]:
    return [
        table
        for (table,) in rows(
            conn,
            "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg_|information_schema|grace)'"
            " order by 1",
        )
    ]


def key_of(conn: Connection, table: str) -> list[str]:
    return [
        name
        for (name,) in rows(
            conn,
            "select quote_ident(k) from pg_index i,"
            " unnest(grace_internal.column_names(i.indrelid, i.indkey::smallint[])) k"
            " where i.indrelid = %s::regclass and i.indisprimary",
            table,
        )
    ]


def source_of(conn: Connection, table: str, where: str) -> str:
    return f"(select {', '.join(key_of(conn, table))} from {table} where {where}) as k"


def counts(conn: Connection, table: str, where: str = "true") -> dict[tuple[str, str], int]:
    """What closure_counts says, without tables that nothing happens to; all of it could be read."""
    found = rows(
        conn,
        "select grace_internal.qualified_name(relation), effect, row_count, at_least, reason"
        " from grace_internal.closure_counts(%s::regclass, %s)",
        table,
        source_of(conn, table, where),
    )
    assert [row for row in found if row[3] or row[4]] == []
    return {(relation, effect): count for relation, effect, count, *_ in found if count}


def blockers(conn: Connection, table: str, where: str = "true", more: str = "") -> dict[str, str]:
    found = rows(
        conn,
        f"select key::text, reason from grace_internal.closure_blockers(%s::regclass, %s{more})",
        table,
        source_of(conn, table, where),
    )
    assert len({key for key, _ in found}) == len(found)
    return dict(found)


def closure_rows(conn: Connection, table: str, relation: str, where: str = "true") -> list[tuple[Any, ...]]:
    query = value(
        conn,
        "select grace_internal.closure_rows(%s::regclass, %s, %s::regclass)",
        table,
        source_of(conn, table, where),
        relation,
    )
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog, pg_temp")
        return rows(conn, query + " order by 1, 2")


def delete(conn: Connection, table: str, where: str) -> dict[tuple[str, str], int] | str:
    """What deleting the rows really does, rolled back; or the constraint's error."""
    everything = tables(conn)

    def sizes() -> dict[str, int]:
        return {t: value(conn, f"select count(*) from only {t}") for t in everything if t not in trees} | {
            t: value(conn, f"select count(*) from {t}") for t in trees
        }

    trees = {t for t in everything if value(conn, "select relkind = 'p' from pg_class where oid = %s::regclass", t)}
    before = sizes()
    happened: dict[tuple[str, str], int] = {}
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(f"delete from {table} where {where}".encode())
            conn.execute("set constraints all immediate")
            after = sizes()
            for t in everything:
                happened[t, "deleted"] = before[t] - after[t]
                happened[t, "link cut"] = value(
                    conn,
                    f"select count(*) from {'' if t in trees else 'only '}{t} t"
                    " where t.xmin = pg_current_xact_id()::xid",
                )
    except psycopg.Error as error:
        if error.sqlstate not in REFUSED:
            raise
        return str(error.sqlstate)
    return {what: count for what, count in happened.items() if count}


def records(conn: Connection, table: str) -> list[tuple[str, str]]:
    """Each record: its key as closure_blockers writes it, and a condition that finds it."""
    key = key_of(conn, table)
    names = ", ".join(f"'{name.strip(chr(34))}', {name}" for name in key)
    condition = " || ' and ' || ".join(f"format('%s = %L', '{name}', {name})" for name in key)
    return rows(conn, f"select jsonb_build_object({names})::text, {condition} from {table} order by {', '.join(key)}")


def compare(conn: Connection, dice: random.Random, only: list[str] | None = None, at_most: int = 12) -> None:
    """For rows of each table: who blocks, and what goes with those that don't."""
    conn.execute("analyze")
    for table in only or tables(conn):
        if not key_of(conn, table):
            continue
        found = records(conn, table)
        chosen = dice.sample(found, min(len(found), at_most))
        if not chosen:
            continue
        condition = " or ".join(where for _, where in chosen)
        blocked = blockers(conn, table, condition)
        really = {key: delete(conn, table, where) for key, where in chosen}
        assert set(blocked) == {key for key, result in really.items() if isinstance(result, str)}, (
            table,
            blocked,
            really,
        )
        for key, where in dice.sample(chosen, min(len(chosen), 2)):
            if not isinstance(really[key], str):
                assert counts(conn, table, where) == really[key], (table, key)
        free = [where for key, where in chosen if key not in blocked]
        if free:
            result = delete(conn, table, " or ".join(free))
            if not isinstance(result, str):
                assert counts(conn, table, " or ".join(free)) == result, table


def test_the_crm(conn: Connection) -> None:
    load(conn, CRM)
    compare(conn, random.Random(1))


def with_actions(conn: Connection, dice: random.Random, actions: list[str]) -> None:
    """Give each foreign key another action."""
    for name, table, definition in rows(
        conn,
        "select quote_ident(conname), conrelid::regclass::text, pg_get_constraintdef(oid)"
        " from pg_constraint where contype = 'f' and connamespace::regnamespace::text !~ '^grace' order by conname",
    ):
        plain = definition.split(" ON ")[0]
        conn.execute(
            f"alter table {table} drop constraint {name}, add constraint {name} {plain} {dice.choice(actions)}".encode()
        )


@pytest.mark.parametrize("seed", range(4))
def test_chinook_with_any_actions(conn: Connection, seed: int) -> None:
    load(conn, CHINOOK)
    dice = random.Random(seed)
    if seed:
        with_actions(
            conn, dice, ["on delete cascade", "on delete cascade", "on delete set null", "", "on delete restrict"]
        )
    compare(conn, dice, at_most=6)


ACTIONS = [
    "on delete cascade", "on delete cascade", "on delete cascade", "on delete set null", "on delete set default", "",
    "on delete restrict", "deferrable initially deferred", "deferrable",
]  # fmt: skip


def random_schema(conn: Connection, dice: random.Random, number: int, size: int) -> None:
    """Tables that refer to each other and to themselves in any way, by one column or two."""
    names = [f"s.t{n}" for n in range(number)]
    script(conn, "drop schema if exists s cascade;\ncreate schema s")
    for name in names:
        conn.execute(f"create table {name} (id int primary key, a int not null, b bigint, unique (id, a))".encode())
        conn.execute(f"insert into {name} (id, a) select n, n % 3 from generate_series(1, {size}) n".encode())
    for n in range(int(number * 1.7)):
        child, parent = dice.choice(names), dice.choice(names)
        action = dice.choice(ACTIONS)
        kind = dice.choice(["int", "bigint", "smallint"])
        default = f"default {dice.randint(1, size + 2)}" if "default" in action and dice.random() < 0.8 else ""
        conn.execute(f"alter table {child} add f{n} {kind}".encode())
        ids = ", ".join(str(dice.randint(1, size)) for _ in range(size))
        conn.execute(f"update {child} set f{n} = case when random() < 0.6 then (array[{ids}])[id] end".encode())
        if default:
            conn.execute(f"alter table {child} alter f{n} set {default}".encode())
        if dice.random() < 0.25:
            conn.execute(f"alter table {child} add g{n} int".encode())
            conn.execute(f"update {child} set g{n} = f{n} % 3".encode())
            conn.execute(
                f"alter table {child} add foreign key (g{n}, f{n}) references {parent} (a, id) {action}".encode()
            )
        else:
            conn.execute(f"alter table {child} add foreign key (f{n}) references {parent} {action}".encode())
        if dice.random() < 0.3:
            conn.execute(f"create index on {child} (f{n})".encode())


@pytest.mark.parametrize("seed", range(20))
def test_any_foreign_keys(conn: Connection, seed: int) -> None:
    dice = random.Random(seed)
    conn.execute(f"select setseed({seed / 1000})".encode())
    random_schema(conn, dice, dice.randint(2, 6), 8)
    compare(conn, dice, at_most=8)


def test_partitions_on_both_sides(conn: Connection) -> None:
    script(
        conn,
        """create table p (id int primary key, x text) partition by range (id);
        create table p_1 partition of p for values from (0) to (10);
        create table p_2 partition of p for values from (10) to (100) partition by range (id);
        create table p_21 partition of p_2 default;
        create table c (id int, p int references p on delete cascade, primary key (id)) partition by hash (id);
        create table c_0 partition of c for values with (modulus 2, remainder 0);
        create table c_1 partition of c for values with (modulus 2, remainder 1);
        create table of_leaf (id int primary key, p int references p_21 on delete cascade, c int references c on delete set null);
        create table leaf_only (id int primary key, p int);
        alter table c_1 add column y int;
        create table stays (id int primary key, c int references c);
        insert into p select n, n::text from generate_series(1, 30) n;
        insert into c select n, 1 + n % 30 from generate_series(1, 90) n;
        insert into of_leaf select n, 10 + n % 20, 1 + n % 90 from generate_series(1, 50) n;
        insert into stays values (1, 7), (2, 8)""".replace("\n        alter table c_1 add column y int;", ""),
    )
    compare(conn, random.Random(1), at_most=20)
    everything = "id in (9, 10, 11)"
    assert counts(conn, "public.p_21", everything) == delete(conn, "public.p_21", everything)
    assert counts(conn, "public.p_2", "true")["public.p", "deleted"] == 21
    assert blockers(conn, "public.p_1", "id in (8, 9)") == {
        '{"id": 8}': "its public.c is referred to by public.stays (stays_c_fkey)",
        '{"id": 9}': "its public.c is referred to by public.stays (stays_c_fkey)",
    }


def test_a_foreign_key_of_one_partition(conn: Connection) -> None:
    script(
        conn,
        """create table p (id int primary key);
        create table c (id int primary key, p int) partition by range (id);
        create table c_1 partition of c for values from (0) to (10);
        create table c_2 partition of c for values from (10) to (100);
        alter table c_1 add foreign key (p) references p on delete cascade;
        alter table c_2 add foreign key (p) references p on delete set null;
        create table d (id int primary key, c int references c on delete cascade);
        insert into p select n from generate_series(1, 5) n;
        insert into c select n, 1 + n % 5 from generate_series(1, 30) n;
        insert into d select n, n from generate_series(1, 30) n""",
    )
    compare(conn, random.Random(1), ["public.p", "public.c"])


def test_inheritance(conn: Connection) -> None:
    script(
        conn,
        """create table p (id int primary key, x text);
        create table heir (y int, primary key (id)) inherits (p);
        create table heirs_heir (z int) inherits (heir);
        create table c (id int primary key, p int references p on delete cascade);
        create table ch (id int primary key, h int references heir on delete cascade);
        create table c_heir (w int) inherits (c);
        insert into p values (1), (2), (3);
        insert into heir values (1), (4), (5);
        insert into heirs_heir values (2), (4), (6);
        insert into c values (1, 1), (2, 2), (3, 3);
        insert into ch values (1, 1), (2, 4);
        insert into c_heir values (4, 1)""",
    )
    for n in range(1, 7):
        assert counts(conn, "public.p", f"id = {n}") == delete(conn, "public.p", f"id = {n}")
        assert counts(conn, "public.heir", f"id = {n}") == delete(conn, "public.heir", f"id = {n}")
    assert counts(conn, "public.p") == delete(conn, "public.p", "true")
    assert blockers(conn, "public.p") == {}


def test_keys_of_any_type(conn: Connection) -> None:
    script(
        conn,
        """create collation german (provider = icu, locale = 'de-u-ks-level2', deterministic = false);
        create type mood as enum ('sad', 'well');
        create domain short as varchar(5) check (value <> 'bad');
        create extension citext;
        create table p (
          id int primary key, n numeric unique, t text collate german unique, v short unique, m mood unique, c citext unique,
          ch char(4) unique, at timestamptz unique, u uuid unique, a int[] unique, r int4range unique
        );
        create table k (
          n int references p (n) on delete cascade, t text references p (t) on delete cascade,
          v text references p (v) on delete cascade, m mood references p (m) on delete set null,
          c citext references p (c) on delete cascade, ch char(6) references p (ch) on delete cascade,
          at timestamptz references p (at) on delete cascade, u uuid references p (u), a int[] references p (a) on delete cascade,
          r int4range references p (r) on delete cascade
        );
        insert into p values
          (1, 1.0, 'Straße', 'a', 'sad', 'One', 'x', '2026-01-01', gen_random_uuid(), '{1}', '[1,2)'),
          (2, 2.0, 'b', 'b', 'well', 'Two', 'y', '2026-01-02', gen_random_uuid(), '{2}', '[2,3)'),
          (3, 3.00, 'c', 'c', null, 'Three', 'z', '2026-01-03', gen_random_uuid(), '{3}', '[3,4)');
        insert into k (n) values (1), (3);
        insert into k (t) values ('STRAßE'), ('B');
        insert into k (v) values ('a'), ('b');
        insert into k (m) values ('sad');
        insert into k (c) values ('oNE'), ('two');
        insert into k (ch) values ('x'), ('z');
        insert into k (at) values ('2026-01-01'), ('2026-01-03');
        insert into k (u) select u from p where id = 2;
        insert into k (a) values ('{1}'), ('{3}');
        insert into k (r) values ('[1,2)'), ('[3,4)')""",
    )
    compare(conn, random.Random(1))


def test_records_by_keys_that_read_the_same_everywhere(conn: Connection) -> None:
    script(
        conn,
        """create table p (at timestamptz, d date, b bytea, n numeric, t text, primary key (at, d, b, n, t));
        create table c (id int primary key, at timestamptz, d date, b bytea, n numeric, t text,
          foreign key (at, d, b, n, t) references p);
        insert into p values ('2026-01-01 00:00:00+01', '2026-02-03', '\\x00ff', 1.50, 'a"b'), ('infinity', 'infinity', '', 2, '');
        insert into c select row_number() over (), p.* from p""",
    )
    found = {
        '{"b": "\\\\x", "d": "infinity", "n": 2, "t": "", "at": "infinity"}',
        '{"b": "\\\\x00ff", "d": "2026-02-03", "n": 1.50, "t": "a\\"b", "at": "2025-12-31T23:00:00+00:00"}',
    }
    assert set(blockers(conn, "public.p")) == found
    conn.execute("set timezone = 'Asia/Tokyo'; set datestyle = 'german, dmy'; set bytea_output = 'escape'")
    assert set(blockers(conn, "public.p")) == found
    keys = "(select * from jsonb_populate_recordset(null::p, (select jsonb_agg(k.key) from grace_internal.closure_blockers('p', 'public.p as k') k)))"
    assert value(conn, f"select count(*) from p natural join {keys} as k") == 2


def test_names(conn: Connection) -> None:
    script(
        conn,
        """create schema "S %s $1";
        create table "S %s $1"."T""able %I" ("id""x" int, "leaf" int, "ctid x" int, primary key ("id""x", "leaf"));
        create table "S %s $1"."child's {}" ("tid" int primary key, "a%" int, "b'" bigint, "c1" int,
          constraint "fk '%s" foreign key ("a%", "b'") references "S %s $1"."T""able %I" on delete cascade);
        create table "S %s $1"."select" ("root_leaf" int references "S %s $1"."child's {}" on delete set null,
          "path" int references "S %s $1"."child's {}");
        insert into "S %s $1"."T""able %I" values (1, 1), (2, 2);
        insert into "S %s $1"."child's {}" values (1, 1, 1), (2, 1, 1), (3, 2, 2);
        insert into "S %s $1"."select" values (1, null), (3, null), (null, 3)""",
    )
    table, child = '"S %s $1"."T""able %I"', '"S %s $1"."child\'s {}"'
    assert counts(conn, table, "leaf = 1") == {
        (table, "deleted"): 1,
        (child, "deleted"): 2,
        ('"S %s $1"."select"', "link cut"): 1,
    }
    assert blockers(conn, table) == {
        '{"id\\"x": 2, "leaf": 2}': f'its {child} is referred to by "S %s $1"."select" (select_path_fkey)'
    }
    assert closure_rows(conn, table, child, "leaf = 1") == [
        ({"leaf": 1, 'id"x': 1}, {"tid": 1}),
        ({"leaf": 1, 'id"x': 1}, {"tid": 2}),
    ]


def test_rows_of_each_record(conn: Connection) -> None:
    load(conn, CRM)
    expected = rows(
        conn,
        "select jsonb_build_object('id', i.company_id), jsonb_build_object('invoice_id', t.invoice_id, 'position', t.position)"
        " from crm.invoice i join crm.invoice_item t on t.invoice_id = i.id where i.company_id < 20 order by 1, 2",
    )
    assert closure_rows(conn, "crm.company", "crm.invoice_item", "id < 20") == expected
    assert closure_rows(conn, "crm.company", "crm.company", "id < 3") == [({"id": n}, {"id": n}) for n in (1, 2)]
    assert value(conn, "select grace_internal.closure_rows('crm.company', 'crm.company as k', 'crm.product')") is None


def test_together(conn: Connection) -> None:
    script(
        conn,
        """create table t (id int primary key, corrects int references t);
        insert into t values (1, null), (2, 1), (3, 2)""",
    )
    assert set(blockers(conn, "public.t")) == {'{"id": 1}', '{"id": 2}'}
    assert set(blockers(conn, "public.t", more=", together => true")) == set()
    assert set(blockers(conn, "public.t", "id < 3", more=", together => true")) == {'{"id": 2}'}
    assert len(blockers(conn, "public.t", more=", 1")) == 1


def test_many_rows(conn: Connection) -> None:
    script(
        conn,
        """create table p (id int primary key, up int references p on delete cascade);
        create table c (id int primary key, p bigint references p on delete cascade, up int);
        create index on p (up);
        create index on c (p);
        insert into p select n, case when n % 10 > 1 then n - 1 end from generate_series(1, 30000) n;
        insert into c select n, 1 + n % 30000, n from generate_series(1, 60000) n;
        create table d (id int primary key, c int references c);
        insert into d values (1, 29999)""",
    )
    conn.execute("analyze")
    assert counts(conn, "public.p", "id < 20000") == {("public.p", "deleted"): 19999, ("public.c", "deleted"): 39998}
    assert counts(conn, "public.p", "id = 15001") == {("public.p", "deleted"): 9, ("public.c", "deleted"): 18}
    assert set(blockers(conn, "public.p", "id > 10000")) == {'{"id": 30000}'}
    assert value(conn, "show work_mem") == "4MB"
    assert value(conn, "show enable_nestloop") == "on"


def test_a_source_may_yield_what_is_not_there_and_twice(conn: Connection) -> None:
    script(conn, "create table t (id int primary key);\ninsert into t values (1), (2)")
    found = rows(
        conn,
        "select row_count from grace_internal.closure_counts('t', 'unnest(array[1, 1, 7, null]) as k (id)')",
    )
    assert found == [(1,)]


def test_it_only_reads(conn: Connection, db: Database) -> None:
    load(conn, CRM)
    other = db.connect()
    with conn.transaction():
        conn.execute("set transaction read only")
        counts(conn, "crm.company")
        blockers(conn, "crm.company")
        closure_rows(conn, "crm.company", "crm.invoice")
        locks = rows(
            other,
            "select distinct mode from pg_locks where pid = %s and locktype = 'relation'",
            conn.info.backend_pid,
        )
    assert locks == [("AccessShareLock",)]
    assert value(conn, "show work_mem") == "4MB"
    assert value(conn, "show enable_nestloop") == "on"


def test_a_table_without_a_key(conn: Connection) -> None:
    conn.execute("create table t (id int)")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select * from grace_internal.closure_counts('t', 't as k')")
    assert caught.value.sqlstate == "GR009"
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint


@pytest.mark.parametrize(
    "trap",
    [
        "create index on mal.c ((mal.evil(id)))",
        "create index on mal.c (id) where mal.evil(1)",
        "create statistics mal.s on (mal.evil(1)), id from mal.c",
    ],
)
def test_nothing_of_others_is_run(conn: Connection, mallory: Connection, trap: str) -> None:  # noqa: F811
    script(
        mallory,
        """create table mal.p (id int primary key);
        create table mal.c (id int primary key, p int references mal.p on delete cascade);
        create table mal.d (id int primary key, c int references mal.c on delete cascade, p int references mal.p on delete cascade);
        create table mal.e (id int primary key, d int references mal.d on delete set null, c int references mal.c);
        insert into mal.p values (1), (2);
        insert into mal.c values (1, 1);
        insert into mal.d values (1, 1, null), (2, null, 1);
        insert into mal.e values (1, 2)""",
    )
    mallory.execute(trap.encode())
    found = rows(
        conn,
        "select relation::text, effect, row_count, at_least, reason like '%%mal.evil%%'"
        " from grace_internal.closure_counts('mal.p', 'mal.p as k') where %s <> ''",
        "x",
    )
    assert found == [
        ("mal.p", "deleted", 2, False, None),
        ("mal.c", "deleted", None, False, True),
        ("mal.d", "deleted", 1, True, None),
        ("mal.e", "link cut", 1, True, None),
    ]
    unknown = rows(conn, "select key, reason from grace_internal.closure_blockers('mal.p', 'mal.p as k')")
    assert [key for key, _ in unknown] == [None]
    assert "mal.c" in unknown[0][1]
    found = rows(
        conn,
        "select relation::text, row_count, reason is null from grace_internal.closure_counts('mal.c', 'mal.c as k')",
    )
    assert found == [("mal.c", None, False), ("mal.d", None, False), ("mal.e", None, False)]
    assert not is_superuser(mallory)


def test_casts_checks_and_operators_of_others_are_not_run(conn: Connection, mallory: Connection) -> None:  # noqa: F811
    script(
        mallory,
        """create domain mal.checked as int check (mal.evil(1));
        create table mal.p (id mal.mood primary key, u text unique, n mal.checked unique);
        create table mal.c (m mal.mood references mal.p on delete cascade, n mal.checked references mal.p (n) on delete cascade);
        create table mal.e (m mal.mood references mal.p);
        alter table mal.c add constraint c check (mal.evil(1))""",
    )
    conn.execute("create cast (mal.mood as jsonb) with inout")
    mallory.execute(
        "insert into mal.p values ('sad', 'x'); insert into mal.c values ('sad'); insert into mal.e values ('sad')"
    )
    for statement in (
        "select * from grace_internal.closure_counts('mal.p', 'mal.p as k')",
        "select * from grace_internal.closure_blockers('mal.p', 'mal.p as k')",
    ):
        conn.execute(statement.encode())
    assert blockers(conn, "mal.p") == {'{"id": "sad"}': "mal.e refers to it (e_m_fkey)"}
    assert counts(conn, "mal.p") == {("mal.p", "deleted"): 1, ("mal.c", "deleted"): 1}
    assert not is_superuser(mallory)


def test_an_operator_that_fits_better_is_not_taken(conn: Connection, mallory: Connection) -> None:  # noqa: F811
    conn.execute("create extension citext schema mal")
    script(
        mallory,
        """create domain mal.word as mal.citext;
        create function mal.equal(mal.citext, mal.word) returns boolean language plpgsql immutable as
          $$ begin perform mal.go(); return true; end $$;
        create operator mal.= (leftarg = mal.citext, rightarg = mal.word, function = mal.equal);
        create table mal.p (id mal.citext primary key);
        create table mal.c (p mal.word references mal.p on delete cascade);
        insert into mal.p values ('a'), ('b');
        insert into mal.c values ('A')""",
    )
    assert counts(conn, "mal.p") == {("mal.p", "deleted"): 2, ("mal.c", "deleted"): 1}
    rows(conn, "select * from grace_internal.closure_counts('mal.p', '(values (''a''::mal.word)) as k (id)')")
    assert not is_superuser(mallory)
    conn.execute("select from mal.p join mal.c on p.id operator(mal.=) c.p")
    assert is_superuser(mallory)


def test_a_cast_that_a_foreign_key_uses(conn: Connection, mallory: Connection) -> None:  # noqa: F811
    script(
        mallory,
        """create function mal.spell_out(mal.mood) returns text language plpgsql immutable as
          $$ begin perform mal.go(); return 'x'; end $$;
        drop cast (mal.mood as text);
        create cast (mal.mood as text) with function mal.spell_out(mal.mood) as implicit;
        create table mal.p (id text primary key);
        create table mal.c (p mal.mood references mal.p on delete cascade);
        insert into mal.p values ('x');
        insert into mal.c values ('sad')""",
    )
    found = rows(
        conn, "select relation::text, row_count, reason from grace_internal.closure_counts('mal.p', 'mal.p as k')"
    )
    assert [(relation, count) for relation, count, _ in found] == [("mal.p", 1), ("mal.c", None)]
    assert "mal.spell_out" in found[1][2]
    assert not is_superuser(mallory)


def test_what_the_owner_of_pg_grace_may_not_read(owner: Connection) -> None:
    is_super = value(owner, "select rolsuper from pg_roles where rolname = current_user")
    script(
        owner,
        """create table p (id int primary key);
        create table c (id int primary key, p int references p on delete cascade);
        create table d (id int primary key, c int references c on delete cascade);
        insert into p values (1);
        insert into c values (1, 1);
        insert into d values (1, 1);
        alter table c enable row level security;
        alter table c force row level security""",
    )
    found = rows(
        owner,
        "select relation::text, row_count, reason is null from grace_internal.closure_counts('p', 'public.p as k')",
    )
    if is_super:
        assert found == [("p", 1, True), ("c", 1, True), ("d", 1, True)]
    else:
        assert found == [("p", 1, True), ("c", None, False), ("d", None, False)]
