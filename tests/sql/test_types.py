"""Every type: what comes back after a deletion is what went, bit for bit by each type's binary send function."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from psycopg import sql

from pg_grace.connection import Connection
from tests.conftest import rows, value

# Samples of every built-in type that a column can have and that reads text. Ranges and multiranges of the built-in
# kinds are here as well; an array of each is made from the same samples.
BUILT_IN: dict[str, list[str]] = {
    "aclitem": ["postgres=arwdDxt/postgres"],
    "bit": ["1", "0"],
    "bool": ["t", "f"],
    "box": ["(1e300,-0),(-1e-300,0.1)"],
    "bpchar": ["ab   ", "", "  "],
    "bytea": ["\\x", "\\x00ff5c2700", "abc\\000\\\\"],
    "char": ["x", "", "\\200", "\\377"],
    "cid": ["4294967295"],
    "cidr": ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"],
    "circle": ["<(0.1,-0),5e-324>"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29"],
    "datemultirange": ["{(,2020-01-01),[2021-01-01,2022-01-01)}", "{}"],
    "daterange": ["[2020-01-01,infinity]", "(,)", "empty", "[-infinity,2020-01-01)"],
    "float4": ["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "0.1"],
    "float8": ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1", "0.30000000000000004"],
    "inet": ["10.1.2.3/8", "::ffff:1.2.3.4", "2001:db8::1/64", "0.0.0.0"],
    "int2": ["-32768", "32767"],
    "int2vector": ["", "1 -2 32767"],
    "int4": ["-2147483648", "2147483647"],
    "int4multirange": ["{[1,3),[5,)}", "{}", "{(,)}"],
    "int4range": ["empty", "(,)", "[-2147483648,2147483647)"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "int8multirange": ["{[1,3),[5,9223372036854775807)}"],
    "int8range": ["[-9223372036854775808,1)"],
    "interval": [
        "1 mon",
        "30 days",
        "720:00:00",
        "-178000000 years -11 mons",
        "2147483647 days -2562047788:00:54.775807",
        "1 year -2 mons 3 days -04:05:06.789",
        "2562047788:00:54.775807",
        "0.000001 s",
    ],
    "json": ['{"a": 1,  "a": 2,\n "b" :[ ]}', " null ", '"\\u0000\\ud83d"', "1.00e+2", '{"":{}}'],
    "jsonb": ['{"a": 1.00, "b": [null, {}, -0.0]}', "null", "123456789012345678901234567890.500", '"\\u00fc"', "[]"],
    "jsonpath": ['$.a[*] ? (@ > 1 && @.b like_regex "x" flag "i")', "strict $"],
    "line": ["{1,-1,0.1}"],
    "lseg": ["[(0,-0),(1e-300,NaN)]"],
    "macaddr": ["08:00:2b:01:02:ff"],
    "macaddr8": ["08:00:2b:01:02:03:04:ff"],
    "money": ["-92233720368547758.08", "92233720368547758.07", "0.01"],
    "name": ["ü" * 31, "", " x "],
    "numeric": [
        "NaN",
        "Infinity",
        "-Infinity",
        "0.000",
        "-0",
        "1e-300",
        "1e300",
        "1.10",
        "123456789012345678901234567890.12345",
        "1e-16383",
    ],
    "nummultirange": ["{[1.0,2.00],(5,)}", "{[NaN,NaN]}"],
    "numrange": ["[1.10,1.100]", "(-Infinity,Infinity]", "[1.0,NaN)"],
    "oid": ["4294967295", "0"],
    "oidvector": ["", "0 4294967295"],
    "path": ["[(0,0),(1,-0)]", "((0,0),(1,1),(NaN,2))"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "pg_snapshot": ["10:20:10,14,15", "1:1:"],
    "point": ["(1e-20,-0)", "(NaN,Infinity)"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "refcursor": ["<unnamed portal 1>", ""],
    "regclass": ["pg_class", "-", "4294967295"],
    "regcollation": ['"C"', "-"],
    "regconfig": ["simple", "english"],
    "regdictionary": ["simple"],
    "regnamespace": ["pg_catalog", "-"],
    "regoper": ["select min(o) from (select oprname::text from pg_operator group by 1 having count(*) = 1) x (o)", "0"],
    "regoperator": ["+(integer,integer)", "-(NONE,bigint)", "0"],
    "regproc": ["now", "-"],
    "regprocedure": ["sum(integer)", "-"],
    "regrole": ["postgres", "-"],
    "regtype": ["integer[]", "interval", "-"],
    "text": ["", " leading and trailing ", "ünïcödé 表 🐘 e\u0301", "a\\b\nc\t\r'\"\x01\x7f", "NULL", "{}"],
    "tid": ["(4294967295,65535)", "(0,1)"],
    "time": ["24:00:00", "00:00:00", "12:34:56.123456"],
    "timestamp": [
        "infinity",
        "-infinity",
        "4713-01-01 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
        "2024-03-31 02:30:00",
    ],
    "timestamptz": [
        "infinity",
        "-infinity",
        "4714-11-24 00:00:00+00 BC",
        "294276-12-31 23:59:59.999999+00",
        "2024-10-27 02:30:00+01",
    ],
    "timetz": ["12:34:56.123456+15:59:59", "24:00:00-15:59"],
    "tsmultirange": ["{[2020-01-01,infinity)}"],
    "tsquery": ["'fat' & ( 'rat' | !'cat':*AB ) <3> 'x'", ""],
    "tsrange": ['[-infinity,"2024-01-01 00:00:00.000001")'],
    "tstzmultirange": ["{[2020-01-01 00:00+00,2020-01-01 00:00:00.000001+00),(2021-01-01 00:00+00,)}"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)', "empty"],
    "tsvector": ["'cat':3A,16383C 'fat':2B,4", "", "'a b' 'ü'"],
    "txid_snapshot": ["10:20:10,14,15"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"],
    "varbit": ["", "0101010101", "1" * 77],
    "varchar": ["", "  x  "],
    "xid": ["4294967295", "0"],
    "xid8": ["18446744073709551615", "0"],
    "xml": ["<a b='c'>d<!-- e --></a>", "text &amp; <b/>", '<?xml version="1.0" standalone="yes"?><a/>'],
}
# Types whose input refuses everything: values of theirs come from the catalog, or there are none at all.
FROM_CATALOG = {
    "pg_node_tree": "select adbin from pg_attrdef order by oid limit 1",
    "pg_ndistinct": "select stxdndistinct from pg_statistic_ext_data where stxdndistinct is not null limit 1",
    "pg_dependencies": "select stxddependencies from pg_statistic_ext_data where stxddependencies is not null limit 1",
    "pg_mcv_list": "select stxdmcv from pg_statistic_ext_data where stxdmcv is not null limit 1",
    "gtsvector": "select null",
    "pg_brin_bloom_summary": "select null",
    "pg_brin_minmax_multi_summary": "select null",
}
WITH_TYPMOD = {
    "bit(7)": ["1010101"],
    "varbit(9)": ["", "01"],
    "char(9)": ["ab", "", "abcdefghi", " a "],
    "varchar(7)": ["seven  ", ""],
    "numeric(8,3)": ["1.500", "NaN", "-0.001"],
    "numeric(3,-2)": ["12300"],
    "time(2)": ["12:34:56.78"],
    "timetz(0)": ["12:34:56+02"],
    "timestamp(1)": ["2024-01-01 00:00:00.1", "infinity"],
    "timestamptz(0)": ["2024-10-27 02:30:00+01"],
    "interval year to month": ["3 years 2 mons"],
    "interval day to second(2)": ["3 days 04:05:06.78"],
    "interval(0)": ["1 year 1 day 00:00:01"],
}
EXTENSIONS = """
    create extension hstore; create extension citext; create extension ltree; create extension cube;
    create extension isn; create extension seg; create extension lo; create extension intarray;
"""
EXTENDED = {
    "hstore": ['a=>1, "b c"=>NULL, ""=>"ü"', ""],
    "citext": ["MiXeD ", ""],
    "ltree": ["Top.Science", ""],
    "lquery": ["*.Sci*{1,2}.!x|y"],
    "ltxtquery": ["Europe & Russia*@"],
    "cube": ["(1,-0),(3,4e-300)", "()"],
    "isbn13": ["978-0-393-04002-9"],
    "seg": ["6.50 .. 7.000", "<1e-3"],
    "lo": ["4294967295"],
    "query_int": ["1&(2|!3)"],
}
MADE = """
    create schema other;
    create type other."Odd ""Type" as enum ('a', '', 'ünï', 'it''s');
    create domain positive as int check (value > 0);
    create domain small as positive check (value < 100);
    create domain tiny as small default 5;
    create domain code as char(5);
    create domain list as text[] check (cardinality(value) < 5);
    create domain lists as list;
    create domain tinies as tiny[];
    create domain span as int4range;
    create type point3 as (x float8, y float4, z numeric);
    create domain place as point3;
    create type stop as (at point3, names text[], mood other."Odd ""Type", size tiny, code code, doc json);
    create type route as (stops stop[], bounds int4range, via place, spans int4multirange);
    create table stock (a int, gone int, b text, c route, d char(3) default 'x');
    alter table stock drop gone;
    create type textrange as range (subtype = text, collation = "C");
    create type places as range (subtype = point3);
"""
MADE_TYPES = {
    'other."Odd ""Type"': ["a", "", "ünï", "it's"],
    "positive": ["7"],
    "tiny": ["99"],
    "code": ["a", "abcde", ""],
    "list": ['{a,NULL,"NULL",""}', "{}", "[3:4]={x,y}"],
    "lists": ["{{a},{b}}"],
    "tinies": ["{1,99,NULL}"],
    "span": ["[1,5)", "empty"],
    "point3": ["(NaN,-0,1.10)", "(,,)", "(1e-300,1e-45,Infinity)"],
    "place": ["(1,2,3.000)"],
    "stop": ['("(1,-0,2.0)","{a,NULL}",ünï,3,"ab","{""a"": 1,  ""a"":2}")', "(,,,,,)"],
    "route": [
        "select row(array[row(row(1, '-0', 3.0), '{x}', 'it''s', 4, 'ab', '[ ]')::stop, null], '[1,9)', row(null, null, 1.10),"
        " '{[1,2)}')::route::text",
        "(,,,)",
    ],
    "stock": ['(1,"b ","({},empty,,)",ab)', "(,,,)"],
    "textrange": ["[a,ü)", "(,)", "[,]"],
    "textmultirange": ["{[a,b),[c,]}"],
    "places": ['["(1,2,3.0)","(1,2,3.00)"]'],
}


def send(conn: Connection, table: str, of: str | None = None) -> dict[str, list[Any]]:
    """Return, for each column of a table, all values as their types send them, in the rows' order.

    The columns and their types may be those of another table.
    """
    names = rows(
        conn,
        "select a.attname from pg_attribute a join pg_type t on t.oid = a.atttypid"
        " left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'"
        " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped"
        " and t.typsend <> 0 and coalesce(e.typsend, t.typsend) <> 0",
        of or table,
    )
    # A record sends its one column with that type's own function, after the number of columns and the type's OID.
    listed = ", ".join(f"substring(record_send(row({name})) from 9)" for (name,) in names)
    lines = rows(conn, f"select {listed} from {table} order by n")
    return {name: [line[position] for line in lines] for position, (name,) in enumerate(names)}


def array_of(text: str, separator: str) -> str:
    """Return an array literal of two dimensions, with lower bounds of its own and a null, that holds a text three times."""
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"[0:1][5:6]={{{{{quoted}{separator}NULL}}{separator}{{{quoted}{separator}{quoted}}}}}"


def fill(conn: Connection, table: str, samples: dict[str, list[str]]) -> None:
    """Make a table with a column and one of arrays for each type, a row for each sample, and dropped columns between."""
    columns = [f"c{position}" for position in range(len(samples))]
    parts = ["n int primary key"]
    for column, type_name in zip(columns, samples, strict=True):
        parts += [f"{column} {type_name}", f"gone_{column} int default 7", f"a_{column} {type_name}[]"]
    conn.execute(f"create table {table} ({', '.join(parts)})")
    conn.execute(f"alter table {table} {', '.join(f'drop gone_{column}' for column in columns)}")
    for line in range(max(len(texts) for texts in samples.values())):
        names, literals = ["n"], [str(line)]
        for column, (type_name, texts) in zip(columns, samples.items(), strict=True):
            if line < len(texts):
                text = value(conn, texts[line]) if texts[line].startswith("select") else texts[line]
                array = array_of(text, ";" if "box" in type_name else ",")
                names += [column, f"a_{column}"]
                literals += [sql.Literal(text).as_string(), sql.Literal(array).as_string()]
        conn.execute(f"insert into {table} ({', '.join(names)}) values ({', '.join(literals)})")


def there_and_back(conn: Connection, table: str, statement: str) -> None:
    """Protect a table, let its rows go, compare the buffer, restore, and compare the table: always to the bit."""
    conn.execute("select from grace.protect(%s)", [table])
    before, text = send(conn, table), rows(conn, f"select x::text from {table} x order by n")
    assert text
    conn.execute(statement)
    assert value(conn, f"select count(*) from {table}") == 0
    buffer = value(conn, "select buffer::text from grace.protected where target = %s::regclass", table)
    assert send(conn, buffer, of=table) == before
    deletion = value(conn, "select max(id) from grace.deletions")
    assert value(conn, "select sum(restored) from grace.restore(deletion => %s)", deletion) == len(text)
    assert send(conn, table) == before
    assert rows(conn, f"select x::text from {table} x order by n") == text


FAMILIES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "built in": ("", {f'pg_catalog."{name}"': texts for name, texts in BUILT_IN.items()}),
    "with a modifier": ("", WITH_TYPMOD),
    "made": (MADE, MADE_TYPES),
    "of extensions": (EXTENSIONS, EXTENDED),
}


def test_every_built_in_type_has_a_sample(conn: Connection) -> None:
    found = rows(
        conn,
        "select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm')"
        " and not (typcategory = 'A' and typname like '\\_%')",
    )
    assert {name for (name,) in found} <= set(BUILT_IN) | set(FROM_CATALOG)
    assert not set(BUILT_IN) & set(FROM_CATALOG)


@pytest.mark.parametrize("statement", ["delete from many", "truncate many"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_every_type_and_of_arrays_of_it_come_back_bit_for_bit(
    conn: Connection, family: str, statement: str
) -> None:
    setup, samples = FAMILIES[family]
    conn.execute(setup)
    fill(conn, "many", samples)
    there_and_back(conn, "many", statement)


def test_values_that_only_the_catalog_makes_come_back_bit_for_bit(conn: Connection) -> None:
    conn.execute(
        "create table s (a int, b int default 7); insert into s select n % 9, n % 9 from generate_series(1, 99) n"
    )
    conn.execute("create statistics st on a, b from s; analyze s")
    listed = ", ".join(f"({query})::{name} as {name}" for name, query in FROM_CATALOG.items())
    conn.execute(f"create table many as select 1 as n, {listed}")
    assert value(
        conn, "select pg_node_tree is not null and pg_mcv_list is not null and pg_ndistinct is not null from many"
    )
    there_and_back(conn, "many", "delete from many")


def test_bits_that_no_text_can_say_come_back(conn: Connection) -> None:
    conn.execute("create table f (n int primary key, d float8, r float4, p point, i timetz)")
    doubles = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001, 0x8000000000000000, 0x000FFFFFFFFFFFFF]
    singles = [0x7FC00001, 0xFFC00000, 0x7F800001, 0x80000000, 0x007FFFFF]
    data = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
    for n, (double, single) in enumerate(zip(doubles, singles, strict=True)):
        fields = [
            struct.pack("!i", n),
            struct.pack("!Q", double),
            struct.pack("!I", single),
            struct.pack("!QQ", double, doubles[0]),
            struct.pack("!qi", 86400000000 - n, 57599 - n),
        ]
        data += struct.pack("!h", len(fields)) + b"".join(struct.pack("!i", len(part)) + part for part in fields)
    with conn.cursor().copy("copy f from stdin (format binary)") as copy:
        copy.write(data + struct.pack("!h", -1))
    assert value(conn, "select float8send(d) from f where n = 2") == struct.pack("!Q", doubles[2])
    there_and_back(conn, "f", "delete from f")


LARGE = {
    "text": "string_agg(md5(i::text || n), '')",
    "bytea": "string_agg(sha256((i + n)::text::bytea), '')",
    "jsonb": "jsonb_object_agg(md5(i::text), repeat(n::text, 9))",
    "json": "('[' || string_agg(i::text, ',  ') || ']')::json",
    "xml": "xmlagg(xmlelement(name a, md5(i::text)))",
    "tsvector": "array_to_tsvector(array_agg(md5(i::text)))",
    "numeric": "left('0.' || string_agg(i::text, ''), 16000)::numeric",
    "int[]": "array_agg(i)",
    "text[]": "array_agg(md5(i::text) order by i desc)",
    "int4multirange": "range_agg(int4range(i * 3, i * 3 + 1))",
    "hstore": "hstore(array_agg(md5(i::text)), array_agg(null::text))",
    "big": "row(string_agg(md5(i::text), ''), array_agg(i))::big",
    "big[]": "array[row(string_agg(md5(i::text), ''), array_agg(i))::big]",
    "longrange": "longrange(string_agg('a', ''), string_agg('b' || i, ''))",
}


@pytest.mark.parametrize("size", [12, 1500])
def test_large_values_come_back_with_every_storage_and_compression(conn: Connection, size: int) -> None:
    conn.execute(
        "create extension hstore; create type big as (doc text, list int[]); create type longrange as range (subtype = text)"
    )
    ways = [
        (storage, method)
        for storage in ("plain", "main", "external", "extended")
        for method in ("pglz", "lz4")
        if size < 100 or storage != "plain"
    ]
    columns = {
        f"{storage}_{method}_{position}": (type_name, storage, method, made)
        for storage, method in ways
        for position, (type_name, made) in enumerate(LARGE.items())
        if size > 100 or position < 3
    }
    conn.execute(
        "create table big_table (n int primary key, "
        + ", ".join(f"{name} {kind} compression {method}" for name, (kind, _, method, _) in columns.items())
        + ")"
    )
    conn.execute(
        "alter table big_table "
        + ", ".join(f"alter {name} set storage {storage}" for name, (_, storage, _, _) in columns.items())
    )
    conn.execute(
        f"insert into big_table select n, {', '.join(made for _, _, _, made in columns.values())}"
        f" from generate_series(1, 1) n, generate_series(1, {size}) i group by n"
    )
    if size > 100:
        assert rows(
            conn,
            "select pg_column_compression(extended_lz4_2), pg_column_compression(extended_pglz_2),"
            " pg_column_compression(external_lz4_0) from big_table where n = 1",
        ) == [("lz4", "pglz", None)]
    conn.execute("update big_table set n = n + 10")  # the new rows share what is out of line
    there_and_back(conn, "big_table", "delete from big_table")
    conn.execute("vacuum full big_table")


def test_generated_and_identity_columns_of_many_types_come_back_bit_for_bit(conn: Connection) -> None:
    conn.execute("""
        create table g (
          n int generated always as identity (start 5 increment 3) primary key,
          other bigint generated by default as identity,
          t text, g1 text generated always as (t || e'\n' || t) stored, gone int,
          f float8, g2 float8[] generated always as (array[-f, 'NaN', f * 0]) stored,
          j jsonb, g3 jsonb generated always as (j -> 'a') stored,
          g4 point generated always as (point(f, -f)) stored, s serial, last char(4) default 'x');
        alter table g drop gone;
        insert into g (t, f, j) values ('x ', 1.5, '{"a": [1.00]}'), (null, null, null), ('', '-Infinity', '{"a": null}');
        insert into g (n, other, t) overriding system value values (-1, -1, 'by hand');
    """)
    there_and_back(conn, "g", "delete from g where n <> 0")
    conn.execute("update g set t = t || '!'")
    assert value(conn, "select count(*) from g where g1 = t || e'\n' || t") == 3
    assert value(conn, "insert into g default values returning n") == 14


def test_rows_of_a_type_that_has_grown_since_come_back_bit_for_bit(conn: Connection) -> None:
    conn.execute("""
        create type address as (street text, gone int);
        create table a (n int primary key, one address, many address[]);
        insert into a values (1, '(here,1)', '{"(x,1)",NULL}');
        alter type address add attribute zip char(5), drop attribute gone;
        insert into a values (2, '(there,12345)', '{"(y,)"}');
    """)
    there_and_back(conn, "a", "delete from a")
    conn.execute("delete from a where n = 1; alter type address add attribute country text; delete from a where n = 2")
    conn.execute("select grace.restore('a', keys => '[1, 2]')")
    assert rows(conn, "select n, one::text, many::text from a order by n") == [
        (1, "(here,,)", '{"(x,,)",NULL}'),
        (2, "(there,12345,)", '{"(y,,)"}'),
    ]
