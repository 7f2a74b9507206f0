"""What stops a row from coming back is found and named, exactly; skip restores the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value
from tests.sql.restoring import as_planned, conflicts, deleted, last_deletion, planned, refused, restore, script

TAKEN = "is taken by a row that is there now"


class Case(NamedTuple):
    setup: str
    delete: str
    obstacle: str
    found: list[tuple[Any, ...]]
    """(table, key, constraint, reason)"""
    skipping: list[tuple[Any, ...]]
    """(table, restored, skipped)"""
    live: str
    left: list[tuple[Any, ...]]
    call: str = "deletion => {}"


CASES = {
    "primary key": Case(
        "create table t (id int primary key, a int);\ninsert into t values (1, 10), (2, 20)",
        "delete from t",
        "insert into t values (1, 11)",
        [("t", {"id": 1}, "t_pkey", f"key (id)=(1) {TAKEN}")],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(1, 11), (2, 20)],
    ),
    "unique": Case(
        "create table t (id int primary key, a int unique);\ninsert into t values (1, 10), (2, 20), (3, null)",
        "delete from t",
        "insert into t values (4, 10), (5, null)",
        [("t", {"id": 1}, "t_a_key", f"key (a)=(10) {TAKEN}")],
        [("t", 2, 1)],
        "select * from t order by 1",
        [(2, 20), (3, None), (4, 10), (5, None)],
    ),
    "partial unique index": Case(
        "create table t (id int primary key, a int, b bool);\n"
        "create unique index t_a on t (a) where b;\n"
        "insert into t values (1, 10, true), (2, 10, false), (3, 20, true)",
        "delete from t",
        "insert into t values (4, 10, true), (5, 20, false)",
        [("t", {"id": 1}, "t_a", f"key (a)=(10) {TAKEN}")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,), (4,), (5,)],
    ),
    "unique index on an expression": Case(
        "create table t (id int primary key, a text);\n"
        "create unique index t_a on t (lower(a));\n"
        "insert into t values (1, 'X'), (2, 'Y')",
        "delete from t",
        "insert into t values (3, 'x')",
        [("t", {"id": 1}, "t_a", f"key (lower(a))=(x) {TAKEN}")],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(2, "Y"), (3, "x")],
    ),
    "nulls not distinct": Case(
        "create table t (id int primary key, a int, b int, unique nulls not distinct (a, b));\n"
        "insert into t values (1, null, 5), (2, 5, null), (3, null, null)",
        "delete from t",
        "insert into t values (4, null, 5), (5, null, null)",
        [
            ("t", {"id": 1}, "t_a_b_key", f"key (a, b)=(null, 5) {TAKEN}"),
            ("t", {"id": 3}, "t_a_b_key", f"key (a, b)=(null, null) {TAKEN}"),
        ],
        [("t", 1, 2)],
        "select id from t order by 1",
        [(2,), (4,), (5,)],
    ),
    "unique index on one partition": Case(
        "create table t (id int, r int, a int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\n"
        "create table t_2 partition of t for values in (2);\n"
        "create unique index t_1_a on t_1 (a);\n"
        "insert into t values (1, 1, 10), (2, 2, 10), (3, 1, 20)",
        "delete from t",
        "insert into t values (4, 1, 10), (5, 2, 20)",
        [("t", {"id": 1, "r": 1}, "t_1_a", f"key (a)=(10) {TAKEN}")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,), (4,), (5,)],
    ),
    "exclusion constraint": Case(
        "create table t (id int primary key, r int4range, constraint apart exclude using gist (r with &&));\n"
        "insert into t values (1, '[1,5)'), (2, '[10,12)'), (3, null)",
        "delete from t",
        "insert into t values (4, '[4,6)'), (5, null)",
        [("t", {"id": 1}, "apart", "key (r)=([1,5)) conflicts with a row that is there now")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,), (4,), (5,)],
    ),
    "exclusion constraint among the selected": Case(
        "create table t (id int primary key, r int4range, constraint apart exclude using gist (r with &&));\n"
        "insert into t values (1, '[1,5)'), (2, '[10,12)')",
        "delete from t",
        "insert into t values (3, '[2,3)');\ndelete from t where id = 3",
        [
            ("t", {"id": 1}, "apart", "key (r)=([1,5)) conflicts with another selected row"),
            ("t", {"id": 3}, "apart", "key (r)=([2,3)) conflicts with another selected row"),
        ],
        [("t", 1, 2)],
        "select id from t order by 1",
        [(2,)],
        "'t', deleted_to => 'infinity'",
    ),
    "unique among the selected": Case(
        "create table t (id int primary key, a int unique);\ninsert into t values (1, 10), (2, 20)",
        "delete from t",
        "insert into t values (3, 10);\ndelete from t where id = 3",
        [
            ("t", {"id": 1}, "t_a_key", "key (a)=(10) is selected more than once"),
            ("t", {"id": 3}, "t_a_key", "key (a)=(10) is selected more than once"),
        ],
        [("t", 1, 2)],
        "select id from t order by 1",
        [(2,)],
        "'t', deleted_to => 'infinity'",
    ),
    "check": Case(
        "create table t (id int primary key, a int);\ninsert into t values (1, 10), (2, 20), (3, null)",
        "delete from t",
        "alter table t add constraint large check (a > 15)",
        [("t", {"id": 1}, "large", "violates check (a > 15)")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "check on one partition": Case(
        "create table t (id int, r int, a int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\n"
        "create table t_2 partition of t for values in (2);\n"
        "insert into t values (1, 1, 10), (2, 2, 10), (3, 1, 20)",
        "delete from t",
        "alter table t_1 add constraint large check (a > 15)",
        [("t", {"id": 1, "r": 1}, "large", "violates check (a > 15)")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "not null on one partition": Case(
        "create table t (id int, r int, a int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\n"
        "create table t_2 partition of t for values in (2);\n"
        "insert into t values (1, 1, null), (2, 2, null), (3, 1, 20)",
        "delete from t",
        "alter table t_1 alter a set not null",
        [("t", {"id": 1, "r": 1}, "not null", "column a is NOT NULL and there is no value for it")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "check of a domain": Case(
        "create domain d as int;\ncreate table t (id int primary key, a d);\ninsert into t values (1, -1), (2, 20)",
        "delete from t",
        "alter domain d add constraint positive check (value > 0)",
        [("t", {"id": 1}, "type", 'column a: value for domain public.d violates check constraint "positive"')],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(2, 20)],
    ),
    "not null of a domain": Case(
        "create domain d as int;\ncreate table t (id int primary key, a d);\ninsert into t values (1, null), (2, 20)",
        "delete from t",
        "alter domain d set not null",
        [("t", {"id": 1}, "type", "column a: domain public.d does not allow null values")],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(2, 20)],
    ),
    "not null": Case(
        "create table t (id int primary key, a int);\ninsert into t values (1, null), (2, 20)",
        "delete from t",
        "alter table t alter a set not null",
        [("t", {"id": 1}, "not null", "column a is NOT NULL and there is no value for it")],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(2, 20)],
    ),
    "varchar made shorter": Case(
        "create table t (id int primary key, a varchar(20));\ninsert into t values (1, 'long text'), (2, 'abc   '), (3, 'ab')",
        "delete from t",
        "alter table t alter a type varchar(3)",
        [("t", {"id": 1}, "type", "does not fit column a character varying(3): long text")],
        [("t", 2, 1)],
        "select * from t order by 1",
        [(2, "abc"), (3, "ab")],
    ),
    "char made shorter": Case(
        "create table t (id int primary key, a char(20));\ninsert into t values (1, 'long'), (2, 'abc')",
        "delete from t",
        "alter table t alter a type char(3)",
        [("t", {"id": 1}, "type", "does not fit column a character(3): long                ")],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(2, "abc")],
    ),
    "bit of another length": Case(
        "create table t (id int primary key, a bit(4), v varbit(4));\ninsert into t values (1, b'1010', null), (2, null, b'101'), (3, null, b'1')",
        "delete from t",
        "alter table t alter a type bit(3), alter v type varbit(2)",
        [
            ("t", {"id": 1}, "type", "does not fit column a bit(3): 1010"),
            ("t", {"id": 2}, "type", "does not fit column v bit varying(2): 101"),
        ],
        [("t", 1, 2)],
        "select id, v::text from t order by 1",
        [(3, "1")],
    ),
    "numeric with fewer digits": Case(
        "create table t (id int primary key, a numeric, b numeric(6, 2));\n"
        "insert into t values (1, 1000, 1), (2, 999.994, 1), (3, 999.995, 1), (4, 'NaN', 1), (5, 1, 99.99), (6, 1, -100)",
        "delete from t",
        "alter table t alter a type numeric(5, 2), alter b type numeric(4, 2)",
        [
            ("t", {"id": 1}, "type", "does not fit column a numeric(5,2): 1000"),
            ("t", {"id": 3}, "type", "does not fit column a numeric(5,2): 999.995"),
            ("t", {"id": 6}, "type", "does not fit column b numeric(4,2): -100.00"),
        ],
        [("t", 3, 3)],
        "select id, a::text from t order by 1",
        [(2, "999.99"), (4, "NaN"), (5, "1.00")],
    ),
    "infinity in a numeric that has digits": Case(
        "create table t (id int primary key, a numeric);\ninsert into t values (1, 'infinity'), (2, 2)",
        "delete from t",
        "alter table t alter a type numeric(5, 2)",
        [("t", {"id": 1}, "type", "does not fit column a numeric(5,2): Infinity")],
        [("t", 1, 1)],
        "select id, a::text from t order by 1",
        [(2, "2.00")],
    ),
    "numeric with a negative scale": Case(
        "create table t (id int primary key, a numeric);\ninsert into t values (1, 99949), (2, 99950)",
        "delete from t",
        "alter table t alter a type numeric(3, -2)",
        [("t", {"id": 2}, "type", "does not fit column a numeric(3,-2): 99950")],
        [("t", 1, 1)],
        "select id, a::text from t order by 1",
        [(1, "99900")],
    ),
    "array of shorter strings": Case(
        "create table t (id int primary key, a varchar(20)[]);\ninsert into t values (1, '{ab,long}'), (2, '{abc}')",
        "delete from t",
        "alter table t alter a type varchar(3)[]",
        [("t", {"id": 1}, "type", "column a: value too long for type character varying(3)")],
        [("t", 1, 1)],
        "select id from t order by 1",
        [(2,)],
    ),
    "domain with a length": Case(
        "create domain short as varchar(3);\ncreate table t (id int primary key, a varchar(20));\n"
        "insert into t values (1, 'long'), (2, 'abc')",
        "delete from t",
        "alter table t alter a type short",
        [("t", {"id": 1}, "type", "column a: value too long for type character varying(3)")],
        [("t", 1, 1)],
        "select id, a from t order by 1",
        [(2, "abc")],
    ),
    "another type, some values can't be cast": Case(
        "create table t (id int primary key, a text);\ninsert into t values (1, 'x'), (2, '7'), (3, null), (4, '99999999999')",
        "delete from t",
        "alter table t alter a type int using a::int",
        [
            ("t", {"id": 1}, "type", 'column a: invalid input syntax for type integer: "x"'),
            ("t", {"id": 4}, "type", 'column a: value "99999999999" is out of range for type integer'),
        ],
        [("t", 2, 2)],
        "select * from t order by 1",
        [(2, 7), (3, None)],
    ),
    "another type to which there is no cast": Case(
        "create table t (id int primary key, a int);\ninsert into t values (1, 1), (2, null)",
        "delete from t",
        "alter table t alter a type date using null",
        [("t", {"id": 1}, "type", "column a: a value of its former type can't be cast to date")],
        [("t", 1, 1)],
        "select * from t order by 1",
        [(2, None)],
    ),
    "match full": Case(
        "create table p (x int, y int, primary key (x, y));\ninsert into p values (1, 1);\n"
        "create table t (id int primary key, x int, y int);\n"
        "insert into t values (1, 1, null), (2, null, null), (3, 1, 1)",
        "delete from t",
        "alter table t add constraint whole foreign key (x, y) references p match full",
        [("t", {"id": 1}, "whole", "the foreign key is MATCH FULL, and only some of its columns are null")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "parent that is not protected": Case(
        "create table p (id int primary key);\ninsert into p values (1), (2);\n"
        "create table t (id int primary key, p_id int references p on delete cascade);\n"
        "insert into t values (1, 1), (2, 2), (3, null)",
        "delete from t",
        "delete from p where id = 1",
        [("t", {"id": 1}, "t_p_id_fkey", "parent (p_id)=(1) is missing in public.p")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "parent in a partitioned table": Case(
        "create table p (id int, r int, primary key (id, r)) partition by list (r);\n"
        "create table p_1 partition of p for values in (1);\ncreate table p_2 partition of p for values in (2);\n"
        "insert into p values (1, 1), (1, 2);\n"
        "create table t (id int primary key, p_id int, r int, foreign key (p_id, r) references p);\n"
        "insert into t values (1, 1, 1), (2, 1, 2), (3, 1, null)",
        "delete from t",
        "delete from p where r = 1",
        [("t", {"id": 1}, "t_p_id_r_fkey", "parent (p_id, r)=(1, 1) is missing in public.p")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "foreign key of one partition": Case(
        "create table p (id int primary key);\n"
        "create table t (id int, r int, p_id int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\ncreate table t_2 partition of t for values in (2);\n"
        "insert into p values (1), (2);\ninsert into t values (1, 1, 1), (2, 1, 2), (3, 2, 1)",
        "delete from t",
        "delete from p where id = 1;\nalter table t_1 add constraint of_leaf foreign key (p_id) references p",
        [("t", {"id": 1, "r": 1}, "of_leaf", "parent (p_id)=(1) is missing in public.p")],
        [("t", 2, 1)],
        "select id from t order by 1",
        [(2,), (3,)],
    ),
    "no range partition": Case(
        "create table t (id int, day date, primary key (id, day)) partition by range (day);\n"
        "create table t_1 partition of t for values from ('2026-01-01') to ('2026-02-01');\n"
        "create table t_2 partition of t for values from ('2026-02-01') to ('2026-03-01');\n"
        "insert into t values (1, '2026-01-05'), (2, '2026-02-05')",
        "delete from t",
        "alter table t detach partition t_1",
        [("t", {"id": 1, "day": "2026-01-05"}, "partition", "public.t has no partition for the row")],
        [("t", 1, 1)],
        "select id from t order by 1",
        [(2,)],
    ),
    "no list partition": Case(
        "create table t (id int, r text) partition by list (r);\n"
        "create table t_1 partition of t for values in ('a', null);\n"
        "create table t_2 partition of t for values in ('b');\n"
        "insert into t values (1, 'a'), (2, 'b'), (3, null)",
        "delete from t",
        "alter table t detach partition t_1",
        [
            ("t", {"id": 3}, "partition", "public.t has no partition for the row"),
            ("t", {"id": 1, "r": "a"}, "partition", "public.t has no partition for the row"),
        ],
        [("t", 1, 2)],
        "select id from t order by 1",
        [(2,)],
    ),
    "no hash partition": Case(
        "create table t (id int primary key) partition by hash (id);\n"
        "create table t_0 partition of t for values with (modulus 2, remainder 0);\n"
        "create table t_1 partition of t for values with (modulus 2, remainder 1);\n"
        "insert into t values (1), (3)",
        "delete from t",
        "alter table t detach partition t_1",
        [("t", {"id": 3}, "partition", "public.t has no partition for the row")],
        [("t", 1, 1)],
        "select id from t order by 1",
        [(1,)],
    ),
    "no partition of a partition": Case(
        "create table t (id int, r int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1) partition by range (id);\n"
        "create table t_1_a partition of t_1 for values from (0) to (10);\n"
        "create table t_1_b partition of t_1 for values from (10) to (20);\n"
        "create table t_2 partition of t for values in (2);\n"
        "insert into t values (1, 1), (11, 1), (1, 2)",
        "delete from t",
        "alter table t_1 detach partition t_1_a",
        [("t", {"id": 1, "r": 1}, "partition", "public.t has no partition for the row")],
        [("t", 2, 1)],
        "select * from t order by 1, 2",
        [(1, 2), (11, 1)],
    ),
    "no partition of a partition, and a default one above": Case(
        "create table t (id int, r int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1) partition by range (id);\n"
        "create table t_1_a partition of t_1 for values from (0) to (10);\n"
        "create table t_1_b partition of t_1 for values from (10) to (20);\n"
        "create table t_2 partition of t default;\n"
        "insert into t values (1, 1), (11, 1), (1, 2)",
        "delete from t",
        "alter table t_1 detach partition t_1_a",
        [("t", {"id": 1, "r": 1}, "partition", "public.t has no partition for the row")],
        [("t", 2, 1)],
        "select * from t order by 1, 2",
        [(1, 2), (11, 1)],
    ),
    "no partitions at all": Case(
        "create table t (id int, r int, primary key (id, r)) partition by list (r);\n"
        "create table t_1 partition of t for values in (1);\ninsert into t values (1, 1)",
        "delete from t",
        "alter table t detach partition t_1",
        [("t", {"id": 1, "r": 1}, "partition", "public.t has no partitions")],
        [("t", 0, 1)],
        "select * from t",
        [],
    ),
    "no primary key": Case(
        "create table t (a int unique, b text);\ninsert into t values (1, 'x'), (2, null), (null, 'y'), (null, 'y')",
        "delete from t",
        "insert into t values (2, 'z')",
        [("t", {"a": 2}, "t_a_key", f"key (a)=(2) {TAKEN}")],
        [("t", 3, 1)],
        "select a, b from t order by a, b",
        [(1, "x"), (2, "z"), (None, "y"), (None, "y")],
    ),
    "names that are our aliases": Case(
        "create table s (s int primary key, b int unique, n int, p int references s on delete cascade, l int, v int,"
        " bad int, name text, reason text, key text, ref text, r int4range, x int,"
        " constraint c check (n > l and bad > v), constraint e exclude using gist (r with &&));\n"
        'create unique index u on s (lower(name), (b + "key"::int)) where "bad" > 0;\n'
        "insert into s values (1, 1, 2, null, 1, 1, 2, 'A', 'r', '1', 'f', '[1,2)', 0),"
        " (2, 2, 3, 1, 1, 1, 2, 'B', 'r', '2', 'f', '[2,3)', 0), (3, 3, 4, 2, 1, 1, 2, 'C', 'r', '3', 'f', '[3,4)', 0)",
        "delete from s",
        "alter table s drop constraint c;\n"
        "insert into s values (9, 2, 1, null, 1, 1, 9, 'a', 'r', '0', 'f', '[3,9)', 0);\n"
        "alter table s add constraint c check (n > l and v > bad) not valid",
        [
            ("s", {"s": 1}, "c", "violates check ((n > l) AND (v > bad))"),
            ("s", {"s": 1}, "u", "key (lower(name), ((b + (key)::integer)))=(a, 2) " + TAKEN),
            ("s", {"s": 2}, "c", "violates check ((n > l) AND (v > bad))"),
            ("s", {"s": 2}, "s_b_key", f"key (b)=(2) {TAKEN}"),
            ("s", {"s": 3}, "c", "violates check ((n > l) AND (v > bad))"),
            ("s", {"s": 3}, "e", "key (r)=([3,4)) conflicts with a row that is there now"),
        ],
        [("s", 0, 3)],
        "select s from s",
        [(9,)],
    ),
    "names with quotes, percents and dollars": Case(
        """create schema "s%s";\ncreate table "s%s"."T ""a'%$1" ("i""d%I" int primary key, "$$ '%L" int unique,"""
        """ "p%s" int, constraint "c%'s" foreign key ("p%s") references "s%s"."T ""a'%$1" on delete cascade);\n"""
        """insert into "s%s"."T ""a'%$1" values (1, 10, null), (2, 20, 1), (3, 30, null)""",
        """delete from "s%s"."T ""a'%$1" """,
        """insert into "s%s"."T ""a'%$1" values (4, 30, null);\n"""
        """alter table "s%s"."T ""a'%$1" add constraint "%I $1 '" check ("$$ '%L" > 10 and 'a%s' <> 'b''%') not valid""",
        [
            (
                """"s%s"."T ""a'%$1\"""",
                {'i"d%I': 1},
                "%I $1 '",
                """violates check (("$$ '%L" > 10) AND ('a%s'::text <> 'b''%'::text))""",
            ),
            (""""s%s"."T ""a'%$1\"""", {'i"d%I': 3}, "T \"a'%$1_$$ '%L_key", f"""key ("$$ '%L")=(30) {TAKEN}"""),
        ],
        [(""""s%s"."T ""a'%$1\"""", 0, 3)],
        """select "i""d%I" from "s%s"."T ""a'%$1" order by 1""",
        [(4,)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_conflict_is_named_and_skip_restores_the_rest(conn: Connection, name: str) -> None:
    case = CASES[name]
    script(conn, case.setup)
    root = case.delete.removeprefix("delete from ").strip()
    conn.execute("select grace.protect(%s::regclass)", (root,))
    call = case.call.format(deleted(conn, case.delete))
    script(conn, case.obstacle)

    assert conflicts(conn, call) == case.found
    error = refused(conn, "GR011", call)
    lines = str(error.diag.message_detail).split("\n")
    assert len(lines) == len(case.found)
    for _, _, constraint, reason in case.found:
        assert any(line.endswith(f": {reason} ({constraint})") for line in lines)

    whole = value(conn, f"select count(*) from grace.buffered({_literal(root)})")
    done = as_planned(conn, f"{call}, on_conflict => 'skip'")
    assert [(table, restored, skipped) for table, restored, _, skipped, *_ in done] == case.skipping
    assert rows(conn, case.live) == case.left
    assert value(conn, f"select count(*) from grace.buffered({_literal(root)})") == whole - case.skipping[0][1]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_a_parent_that_is_skipped_skips_its_children_and_names_it(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key, u int unique);\n"
        "create table b (id int primary key, a_id int references a on delete cascade);\n"
        "create table c (id int primary key, b_id int references b on delete cascade, a_id int references a on delete cascade);\n"
        "insert into a values (1, 1), (2, 2);\ninsert into b values (1, 1), (2, 2), (3, null);\n"
        "insert into c values (1, 1, null), (2, 2, null), (3, 2, 1), (4, 3, null);\nselect grace.protect('a')",
    )
    deletion = deleted(conn, "delete from a", "delete from b", "delete from c")
    conn.execute(b"insert into a values (9, 1)")
    done = as_planned(conn, f"deletion => {deletion}, on_conflict => 'skip'")
    assert [(table, restored, skipped) for table, restored, _, skipped, *_ in done] == [
        ("a", 1, 1),
        ("b", 2, 1),
        ("c", 2, 2),
    ]
    assert [conflict for *_, found in done for conflict in found] == [
        {"key": {"id": 1}, "constraint": "a_u_key", "reason": f"key (u)=(1) {TAKEN}"},
        {"key": {"id": 1}, "constraint": "b_a_id_fkey", "reason": "parent (a_id)=(1) is skipped"},
        {"key": {"id": 3}, "constraint": "c_a_id_fkey", "reason": "parent (a_id)=(1) is skipped"},
        {"key": {"id": 1}, "constraint": "c_b_id_fkey", "reason": "parent (b_id)=(1) is skipped"},
    ]
    assert rows(conn, "select id from a union all select 10 + id from b union all select 20 + id from c order by 1") == [
        (2,), (9,), (12,), (13,), (22,), (24,),
    ]  # fmt: skip
    conn.execute(b"delete from a where id = 9")
    assert restore(conn, f"deletion => {deletion}") == [("a", 1), ("b", 1), ("c", 2)]


def test_a_child_whose_parents_key_was_taken_meanwhile_is_skipped_with_its_parent(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key, t text);\n"
        "create table b (id int primary key, a_id int references a on delete cascade);\n"
        "insert into a values (1, 'old');\ninsert into b values (1, 1);\nselect grace.protect('a')",
    )
    deletion = deleted(conn, "delete from a")
    conn.execute(b"insert into a values (1, 'another')")
    done = as_planned(conn, f"deletion => {deletion}, on_conflict => 'skip'")
    assert [(table, restored, skipped) for table, restored, _, skipped, *_ in done] == [("a", 0, 1), ("b", 0, 1)]
    assert done[1][-1] == [{"key": {"id": 1}, "constraint": "b_a_id_fkey", "reason": "parent (a_id)=(1) is skipped"}]
    assert value(conn, "select count(*) from b") == 0


def test_a_cycle_of_which_one_row_is_skipped_is_skipped(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key, next int, u int unique);\n"
        "insert into a values (1, 2, 1), (2, 3, 2), (3, 1, 3), (4, 4, 4);\n"
        "alter table a add foreign key (next) references a on delete cascade;\nselect grace.protect('a')",
    )
    deletion = deleted(conn, "delete from a")
    conn.execute(b"insert into a values (9, null, 2)")
    done = as_planned(conn, f"deletion => {deletion}, on_conflict => 'skip'")
    assert [(restored, skipped) for _, restored, _, skipped, *_ in done] == [(1, 3)]
    assert rows(conn, "select id from a order by 1") == [(4,), (9,)]


def test_a_chain_of_a_thousand_rows_is_skipped_to_its_end(conn: Connection) -> None:
    script(
        conn,
        "create table a (id int primary key, up int references a on delete cascade);\n"
        "insert into a select n, nullif(n - 1, 0) from generate_series(1, 40) n;\nselect grace.protect('a')",
    )
    deletion = deleted(conn, "delete from a")
    conn.execute(b"insert into a values (21)")
    done = restore(conn, f"deletion => {deletion}, on_conflict => 'skip'", "restored", "skipped")
    assert done == [("a", 20, 20)]


def test_a_row_that_fits_a_default_partition_goes_there(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key) partition by range (id);\n"
        "create table t_1 partition of t for values from (0) to (10);\ncreate table t_d partition of t default;\n"
        "insert into t values (1), (11);\nselect grace.protect('t')",
    )
    deletion = deleted(conn, "delete from t")
    conn.execute(b"alter table t detach partition t_1")
    assert [row[1:3] for row in as_planned(conn, f"deletion => {deletion}")] == [(2, 0)]
    assert rows(conn, "select tableoid::regclass::text, id from t order by 2") == [("t_d", 1), ("t_d", 11)]


def test_inheriting_tables_have_their_own_keys(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key, a int);\ncreate table t_child (b int, primary key (id)) inherits (t);\n"
        "insert into t values (1, 1);\ninsert into t_child values (1, 1, 1), (2, 2, 2);\nselect grace.protect('t')",
    )
    deletion = deleted(conn, "delete from t")
    conn.execute(b"insert into t_child values (2, 9, 9)")
    assert conflicts(conn, f"deletion => {deletion}") == [
        ("t_child", {"id": 2}, "t_child_pkey", f"key (id)=(2) {TAKEN}"),
    ]
    done = as_planned(conn, f"deletion => {deletion}, on_conflict => 'replace'")
    assert [row[:4] for row in done] == [("t", 1, 0, 0), ("t_child", 2, 1, 0)]
    assert rows(conn, "select tableoid::regclass::text, id, a from t order by 1, 2") == [
        ("t", 1, 1),
        ("t_child", 1, 1),
        ("t_child", 2, 2),
    ]


@pytest.mark.parametrize("path", ["''", "pg_temp", "evil, pg_catalog, public", "grace_buffer, grace_internal"])
def test_conflicts_do_not_depend_on_the_search_path(conn: Connection, path: str) -> None:
    script(
        conn,
        "create schema evil;\ncreate function evil.never(int, int) returns bool language sql as 'select false';\n"
        "create operator evil.= (leftarg = int, rightarg = int, function = evil.never);\n"
        "create function evil.count(bigint) returns bigint language sql as 'select 0::bigint';\n"
        "create function public.is_even(int) returns bool language sql immutable as 'select $1 % 2 operator(pg_catalog.=) 0';\n"
        "create table public.t (id int primary key, a int unique, b int);\n"
        "insert into public.t select n, n, n from generate_series(1, 6) n;\nselect grace.protect('public.t')",
    )
    deletion = deleted(conn, "delete from public.t")
    conn.execute(b"insert into public.t values (1, 101, 2), (102, 2, 2)")
    conn.execute(b"alter table public.t add check (public.is_even(b)), add check (b operator(pg_catalog.>) 1)")
    with conn.transaction():
        conn.execute(f"set local search_path = {path}".encode())
        found = value(
            conn,
            "select pg_catalog.jsonb_path_query_array(conflicts, '$[*].constraint')::text"
            f" from grace.restore(deletion => {deletion}, dry_run => true)",
        )
        done = rows(conn, f"select restored, skipped from grace.restore(deletion => {deletion}, on_conflict => 'skip')")
    assert found == '["t_a_key", "t_b_check", "t_b_check", "t_b_check", "t_b_check1", "t_pkey"]'
    assert done == [(2, 4)]
    assert rows(conn, "select id from public.t order by 1") == [(1,), (4,), (6,), (102,)]


@pytest.fixture
def tenants(db: Database, conn: Connection, role: Any) -> Connection:
    """The session of an operator who may insert rows of tenant 1 only."""
    script(
        conn,
        "create table t (id int primary key, tenant int);\ninsert into t values (1, 1), (2, 2);\n"
        "select grace.protect('t');\ndelete from t;\nalter table t enable row level security",
    )
    operator = role("operator")
    conn.execute(f"grant grace_operator to {operator}; grant select, insert on t to {operator}".encode())
    conn.execute(f"create policy mine on t to {operator} using (tenant = 1)".encode())
    return db.connect(user=operator)


def test_a_row_that_a_policy_does_not_let_in_is_a_conflict(conn: Connection, tenants: Connection) -> None:
    deletion = last_deletion(conn)
    name = tenants.info.user
    plan = restore(tenants, f"deletion => {deletion}, dry_run => true", "conflicts")
    assert plan == [
        ("t", [{"key": {"id": 2}, "constraint": "row security", "reason": f"a policy does not let {name} insert it"}])
    ]
    assert restore(tenants, f"deletion => {deletion}, on_conflict => 'skip'", "restored", "skipped") == [("t", 1, 1)]
    assert rows(conn, "select * from t") == [(1, 1)]


def test_a_policy_is_an_error_that_lists_the_rows(conn: Connection, tenants: Connection) -> None:
    with pytest.raises(Exception, match="nothing was restored") as caught:
        restore(tenants, f"deletion => {last_deletion(conn)}")
    assert caught.value.sqlstate == "GR011"  # type: ignore[attr-defined]
    assert rows(conn, "select * from t") == []


def test_restrictive_policies_count_too_and_without_one_nothing_comes_in(conn: Connection, tenants: Connection) -> None:
    deletion = last_deletion(conn)
    conn.execute(b"create policy never on t as restrictive for insert with check (id > 1)")
    plan = restore(tenants, f"deletion => {deletion}, dry_run => true", "jsonb_array_length(conflicts)")
    assert plan == [("t", 2)]
    conn.execute(b"drop policy never on t; drop policy mine on t")
    plan = restore(tenants, f"deletion => {deletion}, dry_run => true", "jsonb_array_length(conflicts)")
    assert plan == [("t", 2)]


def test_a_conflict_with_a_row_that_a_policy_hides_is_no_silent_loss(conn: Connection, tenants: Connection) -> None:
    conn.execute(b"insert into t values (1, 2)")
    with pytest.raises(Exception, match="t_pkey"):
        restore(tenants, f"'t', keys => '1', deletion => {last_deletion(conn)}")
    assert value(conn, "select count(*) from grace_buffer.t") == 2


def test_a_thousand_conflicts_are_listed_and_the_rest_counted(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key);\ninsert into t select generate_series(1, 1003);\nselect grace.protect('t')",
    )
    deletion = deleted(conn, "delete from t")
    conn.execute(b"insert into t select generate_series(1, 1003)")
    error = refused(conn, "GR011", f"deletion => {deletion}")
    lines = str(error.diag.message_detail).split("\n")
    assert (len(lines), lines[-1], error.diag.message_primary) == (
        1001,
        "and 3 more",
        "nothing was restored: 1003 conflicts",
    )
    assert len(planned(conn, f"deletion => {deletion}")[0][-1]) == 1003


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("s_1", "b l p"),
        ("b", "n x v"),
        ("l", "s t r"),
        ("p", "key reason ref"),
        ("n", "leaf tid deleted_at"),
        ("x", "c y u"),
        ("c", "keys target deletion"),
        ("t", "r s t"),
    ],
)
def test_tables_and_columns_that_are_called_like_our_aliases(conn: Connection, table: str, columns: str) -> None:
    key, up, other = columns.split()
    script(
        conn,
        f"create table {table} ({key} int primary key, {up} int references {table} on delete cascade,"
        f" {other} int references {table} on delete set null, check ({key} > 0));\n"
        f"create unique index on {table} (({key} + {other})) where {up} > 100;\n"
        f"insert into {table} values (1, null, null), (2, 1, 1), (3, 2, 1), (4, null, 1);\nselect grace.protect('{table}')",
    )
    before = rows(conn, f"select * from {table} order by 1")
    deletion = deleted(conn, f"delete from {table} where {key} = 1")
    keys = f"keys => '{{\"{key}\": 3}}'"
    for call in (
        f"'{table}', {keys}, related => false, with_parents => true",
        f"'{table}', predicate => '{table}.{key} in (1, 2, 3) and {key} + {key} > 1'",
        f"deletion => {deletion}, on_conflict => 'replace'",
    ):
        with conn.transaction(force_rollback=True):
            done = as_planned(conn, f"{call}, set_values => '{{\"{table}.{up}\": null}}'")
            assert [row[1] for row in done] == [3], call
        with conn.transaction(force_rollback=True):
            done = as_planned(conn, call)
            assert [(row[1], row[5]) for row in done] == [(3, 1)], call
            assert rows(conn, f"select * from {table} order by 1") == before, call
    conn.execute(f"insert into {table} values (2, null, null)".encode())
    done = as_planned(conn, f"deletion => {deletion}, on_conflict => 'skip'")
    assert [(row[1], row[3]) for row in done] == [(1, 2)]
