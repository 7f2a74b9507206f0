"""Roles and hostile sessions, at random from fixed seeds: what is captured is right, is nobody else's, and runs no code of theirs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import errors, sql

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server

MakeRole = Callable[..., str]

_schemas = itertools.count(1)


@pytest.fixture(scope="module")
def house(server: Server, template: str) -> Iterator[Database]:
    """One database for the tests of this file that need none of their own."""
    with _new_database(server, template) as database:
        yield database


@pytest.fixture
def hostile_role(server: Server) -> Iterator[Callable[[str], str]]:
    """Make roles with any name; to be asked for before the database in which they own something."""
    made: list[sql.Identifier] = []
    with psycopg.connect(server.dsn, autocommit=True) as admin:

        def make(name: str) -> str:
            admin.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
            made.append(sql.Identifier(name))
            return name

        yield make
        for name in made:
            admin.execute(sql.SQL("drop role {}").format(name))


def grouped(conn: Connection, table: str) -> list[list[int]]:
    """Return the ids of the rows that are buffered, a list for each deletion."""
    found = rows(conn, f"select array_agg(id order by id) from {table} group by grace_deletion")
    return sorted(together for (together,) in found)


# --- Names ------------------------------------------------------------------------------------------------------------

PIECES = [
    '"', "'", "''", "$$", "$body$", "$generate$", "$1", "%", "%s", "%1$s", "%I", "%%", "\\", "\\'", "\n", "\r\n", "\t", " ",
    ";", "--", "/*", "*/", '"; drop table x; --', "'); delete from t; --", "ü", "表", "🐘", "e\u0301", "{", "}", "[1]", ".",
    "::text", "E'\\n'", ":x", "?", "@", "#", "\u200b", "A", "z", "_former1", ",", "(", ")",
]  # fmt: skip
WORDS = [
    "select", "table", "user", "order", "group", "from", "default", "null", "true", "only", "returning", "new", "old",
    "v_deletion", "v_deleted_at", "v_rows", "v_setting", "v_remembered", "v_unchanged", "tg_op", "tg_relid", "found",
    "sqlstate", "sqlerrm", "row_count", "grace", "b", "g", "record", "pg_catalog", "public", "nextval", "concat", "x_former1",
    "$1", "$2", "表" * 21, "ü" * 31, "x" * 63, "operation", "target", "relation", "row", "t", "Id", "ID", "id ",
]  # fmt: skip
OURS = [
    "grace_gone",
    "grace_deletion",
    "grace_buffer",
    "grace_internal",
    "capture",
    "protected",
    "b1_default",
    "capture_1",
]


def cut(name: str) -> str:
    return name.encode()[:63].decode(errors="ignore")


def hostile_names(chance: random.Random, count: int, more: list[str]) -> list[str]:
    """Return different names that a careless program would trip over."""
    names: dict[str, None] = {}
    while len(names) < count:
        made = "".join(chance.choices(PIECES, k=chance.randint(1, 12))) * chance.choice([1, 1, 5])
        names.setdefault(cut(chance.choice([made, made, chance.choice(WORDS + more)])))
    return list(names)


@pytest.mark.parametrize("seed", range(4))
def test_names_and_values_chosen_to_break_quoting_come_through(
    hostile_role: Callable[[str], str], db: Database, conn: Connection, seed: int
) -> None:
    chance = random.Random(seed)
    who = [hostile_role(name) for name in hostile_names(chance, 2, OURS) if not name.startswith("pg_")]
    schemas = [
        name
        for name in hostile_names(chance, 2, OURS)
        if name not in ("public", "grace_buffer", "grace_internal", "grace")
    ]
    enum_name, domain_name, *column_names = hostile_names(chance, 2 + 14, [])
    schema = sql.Identifier(schemas[0])
    conn.execute(sql.SQL("create schema {}").format(schema))
    labels = hostile_names(chance, 3, [])
    kind, domain = sql.Identifier(schemas[0], enum_name), sql.Identifier(schemas[0], domain_name)
    conn.execute(sql.SQL("create type {} as enum ({})").format(kind, sql.SQL(", ").join(map(sql.Literal, labels))))
    conn.execute(sql.SQL("create domain {} as text").format(domain))
    texts = hostile_names(chance, 6, [])
    types: list[tuple[sql.Composable, list[str]]] = [
        (sql.SQL("text"), texts),
        (sql.SQL("int"), ["1", "-1"]),
        (sql.SQL("jsonb"), ['{"a": "\\"$$%s"}']),
        (sql.SQL("timestamptz"), ["infinity"]),
        (kind, labels),
        (domain, texts),
    ]
    names = hostile_names(chance, 2, OURS)
    tables = [sql.Identifier(schemas[0], name) for name in names]
    key = sql.Identifier(column_names[0])
    for number, table in enumerate(tables):
        columns = [
            (sql.Identifier(name), *chance.choice(types)) for name in column_names[1 + number * 6 : 7 + number * 6]
        ]
        conn.execute(
            sql.SQL("create table {} ({} int primary key{}, {}){}").format(
                table,
                key,
                sql.SQL(" references {} on delete cascade").format(tables[0]) if number else sql.SQL(""),
                sql.SQL(", ").join(sql.SQL("{} {}").format(name, type_name) for name, type_name, _ in columns),
                sql.SQL(" partition by range ({})").format(key) if number else sql.SQL(""),
            )
        )
        if number:
            conn.execute(
                sql.SQL("create table {} partition of {} default").format(
                    sql.Identifier(schemas[0], cut("leaf" + names[1])), table
                )
            )
        for n in range(1, 9):
            chosen = [chance.choice(samples) for _, _, samples in columns]
            conn.execute(
                sql.SQL("insert into {} values ({})").format(
                    table, sql.SQL(", ").join([sql.Literal(n), *(sql.Literal(text) for text in chosen)])
                )
            )
        conn.execute(sql.SQL("select from grace.protect({}, cascade => false)").format(sql.Literal(table.as_string())))
    conn.execute(sql.SQL("grant usage on schema {} to {}").format(schema, sql.Identifier(who[0])))
    conn.execute(sql.SQL("grant all on all tables in schema {} to {}").format(schema, sql.Identifier(who[0])))
    before = [read(conn, table) for table in tables]

    session = db.connect(user=who[0])
    reason = chance.choice(texts)
    session.execute(sql.SQL("set grace.reason = {}").format(sql.Literal(reason)))
    session.execute(sql.SQL("delete from {} where {} < 4").format(tables[0], key))
    conn.execute(
        sql.SQL("alter table {} rename {} to {}").format(
            tables[0], sql.Identifier(column_names[1]), sql.Identifier(cut("new" + column_names[1]))
        )
    )
    conn.execute(
        sql.SQL("alter table {} add {} {} default {}").format(
            tables[0], sql.Identifier(column_names[13]), kind, sql.Literal(labels[0])
        )
    )
    changed = read(conn, tables[0])
    session.execute(sql.SQL("delete from {} where {} = 4").format(tables[0], key))
    session.execute(sql.SQL("truncate {} cascade").format(tables[0]))

    buffers = [
        sql.SQL(buffer) for (buffer,) in rows(conn, "select buffer::text from grace.protected order by protected_at")
    ]
    assert [len(read(conn, table)) for table in tables] == [0, 0]
    shapes = [read(conn, table, of=buffer) for table, buffer in zip(tables, buffers, strict=True)]
    assert shapes[1] == before[1]
    assert [line for line in shapes[0] if line in changed] == changed
    assert rows(conn, "select distinct deleted_by, login, reason from grace.deletions") == [(who[0], who[0], reason)]
    for (deletion,) in rows(conn, "select distinct id from grace.deletions order by 1"):
        conn.execute("select grace.restore(deletion => %s)", [deletion])
    assert read(conn, tables[1]) == before[1]
    assert [line for line in read(conn, tables[0]) if line in changed] == changed
    assert len(read(conn, tables[0])) == 8


def read(conn: Connection, table: sql.Composable, of: sql.Composable | None = None) -> list[str]:
    """Return all rows of a table as text, or those of its buffer with the table's columns."""
    listed = rows(
        conn,
        "select attname from pg_attribute where attrelid = (%s)::regclass and attnum > 0 and not attisdropped order by attnum",
        table.as_string(conn),
    )
    query = sql.SQL("select row({})::text from {} x").format(
        sql.SQL(", ").join(sql.SQL("x.{}").format(sql.Identifier(name)) for (name,) in listed), of or table
    )
    return sorted(row["row"] for row in conn.execute(query).fetchall())


# --- Code of theirs ---------------------------------------------------------------------------------------------------

# A sequence is not rolled back, so even an attempt within a statement that failed is seen.
ALARM = """
    create schema evil authorization {evil};
    grant all on schema public to {evil};
    set role {evil};
    grant usage on schema evil to public;
    create sequence evil.as_owner; create sequence evil.calls;
    grant all on all sequences in schema evil to public;
    create function evil.alarm(what pg_catalog.text) returns boolean language plpgsql immutable set search_path = pg_catalog as $$ begin
      perform nextval('evil.calls');
      if current_user = 'postgres' then perform nextval('evil.as_owner'); raise warning 'ran as the owner: %', what; end if;
      return true;
    end $$;
    create table evil.shadow_function (name pg_catalog.text, arguments pg_catalog.text, result pg_catalog.text);
    create table evil.shadow_table (name pg_catalog.text);
    reset role;
    insert into evil.shadow_function
      select p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)
      from pg_proc p
      where p.pronamespace = 'pg_catalog'::regnamespace and p.proname in (
        select w[1] from pg_proc f, regexp_matches(f.prosrc, '([a-z_0-9]+)\\(', 'g') w where f.pronamespace::regnamespace::text ~ '^grace');
    insert into evil.shadow_table
      select distinct c.relname from pg_class c where c.relkind in ('r', 'v', 'p') and c.relname in (
        select w[1] from pg_proc f, regexp_matches(f.prosrc, '([a-z_0-9]+)', 'g') w where f.pronamespace::regnamespace::text ~ '^grace');
"""
SHADOWS = """
    do $do$ declare r record; n int := 0; made int := 0; place text; begin
      for r in select * from evil.shadow_function loop
        foreach place in array array['evil', 'public'] loop
          begin
            execute format('create function %s.%I(%s) returns %s language plpgsql as %L', place, r.name, r.arguments, r.result,
              format('begin perform evil.alarm(%L); return null; end', r.name));
            made := made + 1;
          exception when others then null; end;
        end loop;
      end loop;
      if made < 200 then raise 'only % functions are shadowed', made; end if;
      for r in select o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r, o.oprresult::regtype as result
        from pg_operator o where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
          and o.oprname in ('=', '<>', '<', '>', '<=', '>=', '||', '->>', '-', '+', '*', '~', '@>')
          and o.oprleft::regtype::text in ('text', 'name', 'integer', 'bigint', 'smallint', 'oid', 'boolean', '"char"', 'interval',
            'timestamp with time zone', 'jsonb', 'anyarray', 'anycompatiblearray', 'date', 'bit', 'regclass')
      loop
        n := n + 1;
        foreach place in array array['evil', 'public'] loop
          execute format('create function %s.op_%s(%s, %s) returns %s language plpgsql as %L', place, n, r.l, r.r, r.result,
            format('begin perform evil.alarm(%L); return null; end', r.oprname));
          execute format('create operator %s.%s (leftarg = %s, rightarg = %s, function = %s.op_%s)', place, r.oprname, r.l, r.r, place, n);
        end loop;
      end loop;
      for r in select distinct name from evil.shadow_table loop
        execute format('create temporary table %I (id int)', r.name);
      end loop;
      execute 'create temporary table grace_gone (id int)';
      foreach place in array array['text', 'int4', 'int8', 'int2', 'name', 'oid', 'bool', 'interval', 'timestamptz', 'regclass', 'jsonb', 'bit'] loop
        execute format('create domain evil.%I as pg_catalog.%I check (evil.alarm(%L))', place, place, place);
        execute format('create domain pg_temp.%I as pg_catalog.%I check (evil.alarm(%L))', place, place, place);
      end loop;
    end $do$;
"""
# Everything on a table that can run code: defaults, checks, generated columns, indexes, triggers, policies, types, casts.
TRAPS = """
    create type evil.pair as (a pg_catalog.int4, b pg_catalog.text);
    create function evil.to_text(evil.pair) returns pg_catalog.text language plpgsql immutable as $$ begin perform evil.alarm('cast to text'); return 'x'; end $$;
    create function evil.to_json(evil.pair) returns pg_catalog.json language plpgsql immutable as $$ begin perform evil.alarm('cast to json'); return '1'; end $$;
    create function evil.to_int(evil.pair) returns pg_catalog.int8 language plpgsql immutable as $$ begin perform evil.alarm('cast to int'); return 1; end $$;
    create cast (evil.pair as pg_catalog.text) with function evil.to_text(evil.pair) as implicit;
    create cast (evil.pair as pg_catalog.json) with function evil.to_json(evil.pair) as implicit;
    create cast (evil.pair as pg_catalog.int8) with function evil.to_int(evil.pair) as implicit;
    create function evil.pair_eq(evil.pair, evil.pair) returns pg_catalog.bool language plpgsql as $$ begin perform evil.alarm('='); return false; end $$;
    create operator public.= (leftarg = evil.pair, rightarg = evil.pair, function = evil.pair_eq);
    create domain evil.trap as pg_catalog.text check (evil.alarm('domain'));
    create function evil.diff(pg_catalog.float8, pg_catalog.float8) returns pg_catalog.float8 language plpgsql immutable as $$ begin perform evil.alarm('range'); return 1; end $$;
    create type evil.span as range (subtype = float8, subtype_diff = evil.diff);
    create function evil.gen(pg_catalog.int4) returns pg_catalog.text language plpgsql immutable as $$ begin perform evil.alarm('generated'); return 'g'; end $$;
    create table evil.parent (
      id pg_catalog.int4 primary key default (evil.alarm('default')::pg_catalog.int4), p evil.pair, d evil.trap, ds evil.trap[],
      s evil.span, g pg_catalog.text generated always as (evil.gen(1)) stored, t pg_catalog.text,
      check (evil.alarm('check')));
    create table evil.child (
      id pg_catalog.int4 primary key, parent_id pg_catalog.int4 references evil.parent on delete cascade, p evil.pair, d evil.trap
    ) partition by range (id);
    create table evil.leaf partition of evil.child for values from (0) to (100);
    create index on evil.parent (evil.gen(id));
    create function evil.fire() returns trigger language plpgsql set search_path = pg_catalog as $$ begin
      perform evil.alarm('trigger');
      if tg_when = 'BEFORE' and tg_level = 'ROW' and tg_op = 'DELETE' then return old; end if;
      if tg_op <> 'TRUNCATE' then return new; end if;
      return null;
    end $$;
    create trigger zzz_fire before delete or insert on evil.parent for each row execute function evil.fire();
    create trigger zzz_fire2 after delete on evil.parent for each statement execute function evil.fire();
    create trigger zzz_fire3 before truncate on evil.parent for each statement execute function evil.fire();
    alter table evil.parent enable row level security;
    create policy seen on evil.parent using (evil.alarm('policy'));
    insert into evil.parent (id, p, d, ds, s, t) select n, row(n, 'x')::evil.pair, 'd', '{a,b}', '[1,2]', 't' || n from generate_series(1, 20) n;
    insert into evil.child select n, n, row(n, 'y')::evil.pair, 'd' from generate_series(1, 20) n;
    grant all on all tables in schema evil to public;
"""
ATTACKS = [
    "delete from evil.parent where id operator(pg_catalog.=) {n}",
    "delete from evil.child where id operator(pg_catalog.=) {n}; delete from evil.parent where id operator(pg_catalog.=) {n}",
    "delete from evil.leaf where id operator(pg_catalog.=) {n}; delete from evil.parent where id operator(pg_catalog.=) {n}",
    "begin; set local grace.deletion = 'x y z'; delete from evil.parent where id operator(pg_catalog.=) {n}; commit",
    "begin; set local role none; set local session authorization default; delete from evil.parent where id operator(pg_catalog.=) {n}; commit",
    "set datestyle = 'german'; set intervalstyle = 'iso_8601'; delete from evil.parent where id operator(pg_catalog.=) {n}",
    "select evil.forget({n})",
]
DRIFTS = [
    "alter table evil.parent add x{n} evil.trap default 'x'",
    "alter table evil.parent add x{n} evil.trap[] default '{{x}}'",
    "alter table evil.parent add x{n} evil.pair default row(1, 'z')::evil.pair",
    "alter table evil.parent add x{n} evil.span default '[1,2)'",
    "alter table evil.parent add x{n} pg_catalog.text default evil.gen(2)",
    "alter table evil.parent alter t type evil.trap using 'changed'",
    "alter table evil.parent alter t type pg_catalog.varchar using evil.gen(3)",
    "alter table evil.child add y{n} evil.trap default 'y'",
    "create table evil.leaf{n} partition of evil.child for values from ({n}00) to ({n}99)",
]


@pytest.mark.parametrize("seed", range(2))
def test_no_code_of_the_application_runs_with_our_rights(
    db: Database, conn: Connection, role: MakeRole, seed: int
) -> None:
    chance = random.Random(seed)
    evil, app, keeper = role("evil"), role("app"), role("keeper")
    conn.execute(ALARM.format(evil=evil))
    owner = db.connect(user=evil)
    owner.execute(TRAPS)
    for session in (owner, app_session := db.connect(user=app)):
        session.execute("select set_config('search_path', 'public', false)")
    conn.execute(
        f"grant create on database {db.name} to {evil}; grant grace_operator to {keeper}; grant {app} to {evil}"
    )
    conn.execute(f"grant create on schema public to {app}")
    owner.execute(SHADOWS)

    # The alarm works: a careless SECURITY DEFINER function of the superuser's sets it off.
    conn.execute(
        "create function careless() returns pg_catalog.text language plpgsql security definer as"
        " $$ begin return format('x'); end $$; grant execute on function careless() to public"
    )
    owner.execute("set search_path = evil, pg_temp, public, pg_catalog; select public.careless()")
    assert value(conn, "select last_value from evil.as_owner where is_called") == 1
    conn.execute("alter sequence evil.as_owner restart")

    conn.execute(
        "set search_path = evil, public, pg_catalog; select from grace.protect('evil.parent'); reset search_path"
    )
    # PostgreSQL lets only a superuser give a function a setting of ours.
    conn.execute(
        "create function evil.forget(n pg_catalog.int4) returns void language plpgsql set grace.deletion = '' as"
        " $$ begin delete from evil.parent where id operator(pg_catalog.=) n; end $$;"
        " grant execute on function evil.forget to public"
    )
    gone: list[str] = []
    for n in range(1, 15):
        if chance.random() < 0.5:
            owner.execute(chance.choice(DRIFTS).format(n=n))
        gone += read_row(conn, n)
        session = chance.choice([owner, app_session])
        session.execute(
            f"set search_path = {chance.choice(['evil, pg_temp, public, pg_catalog', 'pg_temp, evil', 'public, evil', chr(39) * 2])}"
        )
        session.execute(chance.choice(ATTACKS).format(n=n))
        session.execute("reset all")
    owner.execute("set search_path = evil, pg_temp, public, pg_catalog")
    owner.execute("begin; delete from evil.parent where id = 20; rollback")
    with pytest.raises(psycopg.Error, match="can't be read"):  # for the function in its index
        owner.execute("truncate evil.parent cascade")
    owner.execute("drop index evil.parent_gen_idx; drop trigger zzz_fire3 on evil.parent")
    owner.execute("truncate evil.parent cascade")
    calls = value(conn, "select last_value from evil.calls")
    assert calls > 10

    assert sorted(rows(conn, "select id, (p).a, (p).b from grace_buffer.parent")) == [(n, n, "x") for n in range(1, 21)]
    assert sorted(rows(conn, "select id, parent_id, (p).a, (p).b from grace_buffer.child")) == [
        (n, n, n, "y") for n in range(1, 21)
    ]
    assert value(conn, "select count(distinct grace_deletion) from grace_buffer.parent") == 15
    assert (
        value(
            conn,
            "select max(n) from (select count(distinct id) n from grace_buffer.parent where id < 15 group by grace_deletion) g",
        )
        == 1
    )
    found = [line for n in range(1, 15) for line in read_row(conn, n, buffer=True)]
    assert len(found) == len(gone) == 14
    for kept, line in zip(found, gone, strict=True):
        assert set(line.split(" | ")) <= set(kept.split(" | ")), (line, kept)

    conn.execute(f"grant usage on schema evil to {keeper}")
    session = db.connect(user=keeper)
    session.execute("set search_path = evil, public, pg_catalog")
    restore = "select restored_table::pg_catalog.text, restored from grace.restore('evil.parent', keys => '[20]'"
    expected = [("parent", 1), ("child", 1)]
    assert rows(session, f"{restore}, dry_run => true)") == expected
    assert rows(session, f"{restore})") == expected
    conn.execute("select grace.set_retention('evil.parent', '1 second')")
    conn.execute("call grace.purge()")
    assert rows(conn, "select is_called from evil.as_owner") == [(False,)]


PLANNED = {
    "the condition of an index": "create index on evil.parent (id) where evil.alarm('index')",
    "the expression of an index": "create index on evil.parent ((id + evil.alarm('index')::pg_catalog.int4))",
    "the expression of statistics": "create statistics evil.st on (id + evil.alarm('statistics')::pg_catalog.int4) from evil.parent",
}


@pytest.mark.parametrize("name", PLANNED)
def test_what_the_planner_evaluates_beforehand_does_not_run_with_our_rights(
    db: Database, conn: Connection, role: MakeRole, name: str
) -> None:
    evil = role("evil")
    conn.execute(ALARM.format(evil=evil))
    owner = db.connect(user=evil)
    owner.execute("create table evil.parent (id pg_catalog.int4)")
    owner.execute(PLANNED[name])
    conn.execute("select from grace.protect('evil.parent')")
    owner.execute("insert into evil.parent values (1), (2)")
    for statement in ("delete from evil.parent where id = 1", "truncate evil.parent"):
        session = db.connect(user=evil)  # a new session has planned nothing yet
        refusal: psycopg.Error | None = None
        try:
            session.execute(statement)
        except psycopg.Error as error:  # a refusal would do as well
            refusal = error
        assert rows(conn, "select is_called from evil.as_owner") == [(False,)], statement
        assert refusal is None or refusal.diag.message_hint
    kept = rows(conn, "select id from grace_buffer.parent union all select id from evil.parent")
    assert sorted(kept) == [(1,), (2,)]


def read_row(conn: Connection, n: int, buffer: bool = False) -> list[str]:
    """Return one row of evil.parent, value by value, as what the types' output functions say; not those of our own columns."""
    relation = "grace_buffer.parent" if buffer else "evil.parent"
    names = [
        name
        for (name,) in rows(
            conn,
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            relation,
        )
        if not name.startswith("grace_")
    ]
    listed = ", ".join(f"format('%s', x.{name})" for name in names)
    return [line for (line,) in rows(conn, f"select concat_ws(' | ', {listed}) from {relation} x where id = {n}")]


# --- Transactions at random -------------------------------------------------------------------------------------------


class Actor:
    """A session that does something at random in transactions, and what it must have removed by the end."""

    def __init__(self, session: Connection, chance: random.Random, group: str) -> None:
        self.session, self.chance, self.group = session, chance, group
        self.open = False
        self.forged = False
        self.gone: list[int] = []
        self.marks: list[int] = []
        self.committed: list[tuple[list[int], bool]] = []

    def delete(self, ids: list[int]) -> None:
        self.session.execute("delete from t where id = any (%s)", [ids])
        if self.open:
            self.gone += ids
        else:
            self.committed.append((ids, False))

    def begin(self) -> None:
        self.session.execute("begin")
        self.open, self.forged, self.gone, self.marks = True, False, [], []

    def end(self) -> None:
        commit = self.chance.random() < 0.7
        self.session.execute("commit" if commit else "rollback")
        if commit and self.gone:
            self.committed.append((self.gone, self.forged))
        self.open = False

    def savepoint(self) -> None:
        self.session.execute(f"savepoint s{len(self.marks)}")
        self.marks.append(len(self.gone))

    def leave_savepoint(self) -> None:
        mark = self.chance.randrange(len(self.marks))
        if self.chance.random() < 0.6:
            self.session.execute(f"rollback to s{mark}; release s{mark}")
            self.gone = self.gone[: self.marks[mark]]
        else:
            self.session.execute(f"release s{mark}")
        self.marks = self.marks[:mark]

    def change_role(self) -> None:
        self.session.execute(
            self.chance.choice([f"set role {self.group}", "reset role", f"set local role {self.group}"])
        )

    def forge(self, seen: list[str]) -> None:
        forged = self.chance.choice([*seen, "", "1 0 x"])
        self.session.execute("select set_config('grace.deletion', %s, %s)", [forged, self.chance.random() < 0.5])
        self.forged = True

    def step(self, ids: list[int], seen: list[str]) -> None:
        if not self.open:
            self.chance.choice([self.begin, self.begin, lambda: self.delete(ids), self.change_role])()
            return
        whats: list[Callable[[], None]] = [lambda: self.delete(ids)] * 3
        whats += [self.savepoint, self.change_role, self.end, lambda: self.delete([])]
        whats += [self.leave_savepoint] * (2 if self.marks else 0)
        whats += [lambda: self.forge(seen)] if self.chance.random() < 0.3 else []
        self.chance.choice(whats)()
        setting = value(self.session, "select current_setting('grace.deletion', true)")
        if setting:
            seen.append(setting)


@pytest.mark.parametrize("seed", range(4))
def test_transactions_at_random_never_share_a_deletion(house: Database, role: MakeRole, seed: int) -> None:
    chance = random.Random(seed)
    admin = house.connect()
    schema = f"random_{next(_schemas)}"
    group = role("team", "nologin")
    admin.execute(f"create schema {schema}; grant usage on schema {schema} to {group}; set search_path = {schema}")
    admin.execute(
        "create table t (id int primary key, v text) partition by range (id); create table t1 partition of t for values from (0) to (300);"
        "create table t2 partition of t default; insert into t select n, 'v' || n from generate_series(1, 1000) n;"
        f"grant select, delete on t to {group}"
    )
    admin.execute("select from grace.protect('t')")
    buffer = value(admin, "select buffer::text from grace.protected where target = 't'::regclass")
    actors = []
    for _ in range(4):
        login = role("app")
        admin.execute(f"grant {group} to {login}")
        session = house.connect(user=login)
        session.execute(f"set search_path = {schema}")
        actors.append(Actor(session, chance, group))
    free = list(range(1, 1001))
    chance.shuffle(free)
    seen: list[str] = []
    for _ in range(350):
        chance.choice(actors).step([free.pop() for _ in range(chance.choice([1, 1, 2]))], seen)
    for actor in actors:
        if actor.open:
            actor.end()

    groups = grouped(admin, buffer)
    honest = sorted(sorted(ids) for actor in actors for ids, forged in actor.committed if not forged)
    forged = [set(ids) for actor in actors for ids, is_forged in actor.committed if is_forged]
    assert len(honest) > 10
    assert forged
    assert [group for group in honest if group not in groups] == []
    for together in (found for found in groups if found not in honest):
        assert any(set(together) <= ids for ids in forged), together
    assert sorted(n for found in groups for n in found) == sorted(
        n for actor in actors for ids, _ in actor.committed for n in ids
    )
    assert value(admin, f"select count(*) from t where exists (select from {buffer} b where b.id = t.id)") == 0
    assert rows(admin, f"select 1 as n from {buffer} where v is distinct from 'v' || id") == []


# --- Who did it -------------------------------------------------------------------------------------------------------

CHAINS = {
    "two definers": ("set role {middle}; select inner_and_outer(1)", "{middle}", "{login}"),
    "definers without a role": ("select inner_and_outer(1)", "{login}", "{login}"),
    "session authorization": (
        "reset session authorization; set session authorization {login}; select inner_and_outer(1)",
        "{login}",
        "{login}",
    ),
    "session authorization and a role": (
        "set session authorization {login}; set role {middle}; delete from t where id = 1",
        "{middle}",
        "{login}",
    ),
    "a role of a function": ("select as_middle(1)", "{middle}", "{login}"),
    "a role of the transaction, at commit": (
        "begin; set local role {middle}; insert into mark values (1); commit",
        "{middle}",
        "{login}",
    ),
    "a role that is reset": ("set role {middle}; reset role; delete from t where id = 1", "{login}", "{login}"),
    "a role for one transaction": (
        "begin; set local role {middle}; commit; delete from t where id = 1",
        "{login}",
        "{login}",
    ),
    "a rolled back role": (
        "begin; savepoint a; set local role {middle}; rollback to a; delete from t where id = 1; commit",
        "{login}",
        "{login}",
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_through_any_chain_of_roles_it_is_known_who_did_it(
    hostile_role: Callable[[str], str], house: Database, name: str
) -> None:
    conn = house.connect()
    number = next(_schemas)
    login, middle = (hostile_role(f'{who} "%s" $$ {number}') for who in ("login", "none"))
    outer, inner = (hostile_role(f"{who} {number}") for who in ("Outer", "Inner"))
    quoted = {key: sql.Identifier(text).as_string() for key, text in (("login", login), ("middle", middle))}
    schema = f"chain_{number}"
    conn.execute(
        f"""create schema {schema}; grant all on schema {schema} to public; set search_path = {schema};
        create table t (id int primary key); insert into t values (1), (2); create table mark (id int);
        grant delete, select on t to "{inner}", {quoted["middle"]}, {quoted["login"]}; grant insert on mark to {quoted["middle"]};
        grant {quoted["middle"]} to {quoted["login"]};
        create function inner_one(n int) returns void language plpgsql security definer set search_path = {schema} as
          $$ begin delete from t where id = n; end $$;
        create function inner_and_outer(n int) returns void language plpgsql security definer set search_path = {schema} as
          $$ begin perform inner_one(n); end $$;
        create function as_middle(n int) returns void language plpgsql set role = {quoted["middle"]} as
          $$ begin delete from t where id = n; end $$;
        create function late() returns trigger language plpgsql as $$ begin delete from t where id = new.id; return null; end $$;
        create constraint trigger late after insert on mark deferrable initially deferred for each row execute function late();
        alter function inner_one owner to "{inner}"; alter function inner_and_outer owner to "{outer}";"""
    )
    conn.execute("select from grace.protect('t')")
    statement, deleted_by, expected_login = CHAINS[name]
    session = house.connect() if "session" in name else house.connect(user=login)
    session.execute(f"set search_path = {schema}")
    session.execute(statement.format(**quoted))
    session.execute("reset all")
    names = {"login": login, "middle": middle}
    assert rows(conn, "select deleted_by, login from grace.deletions where target = 't'::regclass") == [
        (deleted_by.format(**names), expected_login.format(**names))
    ]
    for name_of_role in (inner, outer, login, middle):
        conn.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(name_of_role)))


ROLE_SETTINGS = [
    "grace.deletion = '1 0 d41d8cd98f00b204e9800998ecf8427e'",
    "grace.deletion = '/'",
    "grace.reason = 'by %s $$ \"role\"'",
    "grace.progress = 'on'",
    "grace.anything = 'x'",
    "search_path = pg_temp, evil, pg_catalog",
    "search_path = ''",
    "session_replication_role = replica",
    "default_transaction_isolation = serializable",
    "datestyle = 'SQL, DMY'; alter role {0} set timezone = 'Asia/Kathmandu'; alter role {0} set intervalstyle = sql_standard",
    "plan_cache_mode = force_generic_plan; alter role {0} set enable_indexscan = off; alter role {0} set enable_seqscan = off",
    "xmlbinary = hex; alter role {0} set bytea_output = 'escape'; alter role {0} set default_toast_compression = lz4",
    "role = {0}; alter role {0} set row_security = off; alter role {0} set client_encoding = 'SQL_ASCII'",
]


def test_settings_that_come_with_a_role_change_nothing(house: Database, role: MakeRole) -> None:
    conn = house.connect()
    app = role("app")
    conn.execute(
        f"create schema settings; grant all on schema settings to {app}; set search_path = settings;"
        "create table t (id int primary key, b bytea default '\\xff', i interval default '1 day -02:03:04', at timestamptz default '2024-01-02 03:04Z');"
        "insert into t select n from generate_series(1, 100) n;"
        f"grant select, delete on t to {app}; grant set on parameter session_replication_role to {app}"
    )
    conn.execute("select from grace.protect('t')")
    buffer = value(conn, "select buffer::text from grace.protected where target = 't'::regclass")
    expected = []
    for n, setting in enumerate(ROLE_SETTINGS):
        conn.execute(f"alter role {app} reset all; alter role {app} set {setting.format(app)}")
        session = house.connect(user=app)
        for first in (n * 5 + 1, n * 5 + 3):
            with session.transaction():
                session.execute(f"delete from settings.t where id = {first}")
                session.execute(f"delete from settings.t where id = {first + 1}")
            expected.append([first, first + 1])
        session.close()
    started = house.connect(user=app, options="-c grace.deletion=1 -c search_path=pg_temp")
    started.execute("delete from settings.t where id = 99")
    assert grouped(conn, buffer) == [*expected, [99]]
    assert rows(conn, f"select distinct b, i::text, at from {buffer}") == rows(
        conn, "select distinct b, i::text, at from t"
    )
    assert rows(conn, "select distinct reason from grace.deletions where target = 't'::regclass order by 1") == [
        ('by %s $$ "role"',),
        (None,),
    ]
    assert value(
        conn, f"select bool_and(clock_timestamp() - grace_deleted_at between '0' and '1 minute') from {buffer}"
    )


# --- Who may do what --------------------------------------------------------------------------------------------------

TABLES = {
    "buffer": "grace_buffer.t",
    "leaf": "grace_internal.b1_{day}",
    "default leaf": "grace_internal.b1_default",
    "log": "grace_internal.capture",
    "restored": "grace_internal.restored",
    "runs": "grace_internal.run",
    "registry": "grace_internal.protected",
    "columns": "grace_internal.protected_column",
}
STATEMENTS = {
    "select": "select * from {0}",
    "insert": "insert into {0} default values",
    "update": "update {0} set {1} = {1}",
    "delete": "delete from {0}",
    "truncate": "truncate {0}",
    "lock": "lock table {0} in row exclusive mode",
    "copy": "copy {0} to stdout",
}


@pytest.mark.parametrize("who", ["owner", "app", "grace_auditor", "grace_operator", "grace_admin", "public"])
def test_nobody_gets_at_what_is_kept_but_to_read_the_buffer(
    db: Database, conn: Connection, role: MakeRole, who: str
) -> None:
    name = role("somebody")
    conn.execute(
        "create table t (id int primary key); insert into t values (1), (2), (3); create table u (id int primary key)"
    )
    conn.execute("select from grace.protect('t')")
    match who:
        case "owner":
            conn.execute(f"alter table t owner to {name}")
        case "app":
            conn.execute(f"grant all on t to {name}; grant all on schema public to {name}")
        case "grace_auditor" | "grace_operator" | "grace_admin":
            conn.execute(f"grant {who} to {name}")
    conn.execute("delete from t where id = 1; select grace.restore(deletion => 1); delete from t where id = 2")
    session = db.connect(user=name)
    day = value(conn, "select to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')")
    allowed = set()
    for table, pattern in TABLES.items():
        relation = pattern.format(day=day)
        column = value(conn, "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", relation)
        for verb, statement in STATEMENTS.items():
            try:
                with session.transaction(force_rollback=True):
                    if verb == "copy":
                        with session.cursor().copy(statement.format(relation)) as copy:
                            list(copy)
                    else:
                        session.execute(statement.format(relation, column))
            except errors.InsufficientPrivilege:
                continue
            except psycopg.Error as error:
                pytest.fail(f"{who} got as far as this with {verb} on {table}: {error}")
            allowed.add((table, verb))
    reads = who in ("grace_operator", "grace_admin")
    assert allowed == ({("buffer", "select"), ("buffer", "copy")} if reads else set())
    for call in (
        "select setval('grace_internal.deletion_id', 1)",
        "select nextval('grace_internal.deletion_id')",
        "select last_value from grace_internal.signing_key",
        "alter table grace_buffer.t disable row level security",
        "drop table grace_buffer.t",
        "create trigger x after insert on grace_buffer.t for each row execute function suppress_redundant_updates_trigger()",
        "create policy everything on grace_buffer.t using (true)",
        "set role postgres",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute(call)
    assert rows(conn, "select id from grace_buffer.t") == [(2,)]
