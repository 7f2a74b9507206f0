"""Random transactions, changes of the schema, restores and purges: after each step the database is what the model says.

PG_GRACE_HYPOTHESIS=long runs much longer, with sequences that nobody has chosen; =long:500 that many examples.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows
from tests.server import Server
from tests.stateful.model import (
    COLUMNS,
    FOREIGN_KEYS,
    INITIAL,
    LEAVES,
    RETENTION,
    SCHEMA,
    TABLES,
    Column,
    Conflict,
    Deletion,
    ForeignKey,
    Kind,
    Model,
    Prediction,
    Selection,
    State,
    Table,
    Value,
    Values,
    Violation,
)

_COMMON = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
)


def profile() -> settings:
    name, _, examples = os.environ.get("PG_GRACE_HYPOTHESIS", "").partition(":")
    if name == "long":
        return settings(_COMMON, max_examples=int(examples or 300), stateful_step_count=60)
    return settings(_COMMON, max_examples=40, stateful_step_count=35, derandomize=True)


# --- SQL --------------------------------------------------------------------------------------------------------------


def literal(value: Value) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
    return "'" + value.replace("'", "''") + "'"


def listed(values: Iterable[Value]) -> str:
    return ", ".join(literal(value) for value in values)


def insert_statement(table: Table, row: Values, kind: str = "") -> str:
    names = ", ".join(table.column(number).name for number in row)
    return f"insert into {table.qualified} ({names}) {kind}values ({listed(row.values())})"


def condition(table: Table, numbers: Iterable[int]) -> str:
    """Return what selects these live rows by their keys."""
    names = ", ".join(table.names(table.primary.columns))
    keys = ", ".join(f"({listed(table.key(table.rows[number]).values())})" for number in numbers)
    return f"({names}) in ({keys})"


def moment(deletion: Deletion) -> str:
    return f"(select min(deleted_at) from grace.deletions where id = {deletion.id})"


# A database with few leaves is copied, and its buffers are read, several times as fast.
FEW_LEAVES = """\
do $do$ begin execute replace(replace(
  pg_get_functiondef('grace_internal.prepare_leaf'::regproc), 'greatest(14', 'greatest(1'), '15 + 84', '1'
); end $do$;"""


def set_up(conn: Connection) -> str:
    """Make the tables, fill and protect them; return it as SQL."""
    state = State.initial()
    script = [FEW_LEAVES, SCHEMA, "begin;"]
    for name, table in state.tables.items():
        columns = [column for column in table.columns if column.kind is not Kind.GENERATED]
        names = ", ".join(column.name for column in columns)
        values = ", ".join(f"({listed(row)})" for row in INITIAL[name])
        script.append(f"insert into {table.qualified} ({names}) overriding system value values {values};")
    script.append("commit;")
    script += [f"select from grace.protect('{table.qualified}');" for table in state.tables.values()]
    whole = "\n".join(script)
    conn.execute(whole)
    assert rows(conn, "select count(*)::int from pg_class where relname ~ '^b1_'") == [(3,)]
    return whole


ORDER = """
    select c.conname from pg_trigger t join pg_constraint c on c.oid = t.tgconstraint and c.confrelid = t.tgrelid
    join pg_proc p on p.oid = t.tgfoid
    where c.conparentid = 0 and p.proname ~ '_del$' and c.connamespace <> 'grace_buffer'::regnamespace
    order by t.tgname
"""


# --- Restore ----------------------------------------------------------------------------------------------------------


class Restore:
    """The one place that calls grace.restore and reads what it says."""

    def __init__(self, state: State, selection: Selection, *, relink: bool) -> None:
        self.state, self.selection, self.relink = state, selection, relink

    def sql(self, *, dry_run: bool) -> str:
        chosen = self.selection
        arguments = []
        if chosen.target:
            arguments.append(f"target => '{self.state.tables[chosen.target].qualified}'")
        if chosen.deletion:
            arguments.append(f"deletion => {chosen.deletion.id}")
        if chosen.keys:
            assert chosen.target
            table = self.state.tables[chosen.target]
            names = table.names(table.primary.columns)
            keys = [dict(zip(names, key, strict=True)) for key in chosen.keys]
            arguments.append(f"keys => '{json.dumps(keys)}'")
        if chosen.after:
            arguments.append(f"deleted_from => {moment(chosen.after)}")
        if chosen.before:
            arguments.append(f"deleted_to => {moment(chosen.before)}")
        if not chosen.related:
            arguments.append("related => false")
        if not self.relink:
            arguments.append("relink => false")
        if dry_run:
            arguments.append("dry_run => true")
        return f"select restored_table::text, restored, conflicts from grace.restore({', '.join(arguments)})"

    def name(self, qualified: str) -> str:
        return next(name for name, table in self.state.tables.items() if table.qualified == qualified)

    def counts(self, answer: list[tuple[Any, ...]]) -> dict[str, int]:
        return {self.name(table): count for table, count, _ in answer if count}

    def conflicts(self, answer: list[tuple[Any, ...]]) -> set[Conflict]:
        return {
            (self.name(table), json.dumps(conflict["key"], sort_keys=True), conflict["constraint"])
            for table, _, conflicts in answer
            for conflict in conflicts
        }

    def listed_conflicts(self, error: psycopg.Error) -> set[Conflict]:
        """Return what the DETAIL of GR011 lists."""
        found = set()
        for line in str(error.diag.message_detail).split("\n"):
            match = re.fullmatch(r"(\S+) (\{.*?\}): .* \(([^()]+)\)", line)
            assert match, line
            found.add((self.name(match[1]), json.dumps(json.loads(match[2]), sort_keys=True), match[3]))
        return found


# --- The machine ------------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """first is the client whose transactions the model follows; second sees what is committed."""

    server: Server
    template: str
    script: str

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        database: Database = self.stack.enter_context(_new_database(self.server, self.template))
        self.model = Model()
        self.first = self.connect(database)
        self.second = self.connect(database)
        self.tables: dict[str, int] = {}
        self.backdated = False
        # A copy of a database counts as moved; to what is done in it that would make a difference.
        self.first.execute("update grace_internal.protected set home = grace_internal.home()")
        note(self.script)

    def connect(self, database: Database) -> Connection:
        connection = database.connect()
        connection.execute("set search_path = pg_catalog")
        connection.execute("set lock_timeout = '5s'")
        return connection

    @initialize(data=st.data(), names=st.lists(st.sampled_from(TABLES), max_size=4))
    def start(self, data: st.DataObject, names: list[str]) -> None:
        """Begin with some deletions, so that there is something to restore."""
        self.read_order()
        self.tables = {
            name: rows(self.first, f"select '{table.qualified}'::regclass::oid::int8")[0][0]
            for name, table in self.model.committed.tables.items()
        }
        for name in names:
            self._delete(data, name, guarded=False)
            self.agrees()

    def teardown(self) -> None:
        try:
            if self.tables:
                self.finish()
        finally:
            self.stack.close()

    def finish(self) -> None:
        if self.model.open:
            self.execute("rollback")
            self.model.rollback()
            self.agrees()
        states = rows(self.second, "select state, drift, buffered_rows from grace.protected order by buffer::text")
        state = self.model.committed
        unexpired = [len(state.newest(state.tables[name])) for name in sorted(state.tables)]
        assert states == [("capturing", False, count) for count in unexpired]
        if not self.backdated:
            assert rows(self.second, "select * from grace.verify_buffer()") == []

    # --- Running what is chosen ---------------------------------------------------------------------------------------

    def execute(self, statement: str, client: int = 1) -> list[tuple[Any, ...]]:
        note(f"/* {client} */ {statement};")
        connection = self.first if client == 1 else self.second
        cursor = connection.cursor(row_factory=psycopg.rows.tuple_row).execute(statement)
        return cursor.fetchall() if cursor.description else []

    def attempt(
        self, statement: str, expected: str | None, client: int = 1
    ) -> tuple[list[tuple[Any, ...]], psycopg.Error | None]:
        """Execute a statement that is expected to fail with an SQLSTATE, or not to fail."""
        try:
            answer = self.execute(statement, client)
        except psycopg.Error as error:
            note(f"-- {error.sqlstate}: {error}")
            if error.sqlstate != expected:
                pytest.fail(f"{error.sqlstate}, not {expected}: {error}")
            return [], error
        assert expected is None, f"done, and not refused with {expected}"
        return answer, None

    def expect(
        self, statement: str, change: Callable[[State], None], *, guarded: bool = False
    ) -> tuple[list[tuple[Any, ...]], psycopg.Error | None]:
        """Execute a statement of the first client's: within a savepoint of its own if guarded and in a transaction."""
        guarded = guarded and self.model.open
        if guarded:
            self.execute("savepoint guard")
            self.model.savepoint("guard")
        result = self.attempt(statement, self.model.run(change))
        if guarded:
            if self.model.aborted:
                self.execute("rollback to savepoint guard")
                self.model.rollback_to("guard")
            self.execute("release savepoint guard")
            self.model.release("guard")
        return result

    def read_order(self) -> None:
        known = {foreign_key.name for foreign_key in FOREIGN_KEYS}
        self.model.order = [name for (name,) in rows(self.first, ORDER) if name in known]
        assert len(self.model.order) == len(known)

    @property
    def state(self) -> State:
        return self.model.working

    # --- Comparing ----------------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        if not self.tables:
            return
        if not self.model.aborted:
            self.learn()
            self.compare(self.first, self.model.working)
        if self.model.open and not self.model.exclusive:
            self.compare(self.second, self.model.committed)

    def learn(self) -> None:
        """Read the id of the deletion that the model has begun."""
        known = {deletion.id for deletion in self.state.deletions()}
        if None in known:
            found = {number for (number,) in rows(self.first, "select id from grace.deletions")} - known
            assert len(found) == 1, f"deletions that the model doesn't know: {found}"
            (new,) = (deletion for deletion in self.state.deletions() if deletion.id is None)
            new.id = found.pop()

    def compare(self, conn: Connection, state: State) -> None:
        live, buffered = [], []
        expected: list[tuple[Any, ...]] = []
        for name, table in state.tables.items():
            live.append(f"select '{name}', 'live', null::int8, to_jsonb(t.*) from {table.qualified} t")
            buffered.append(
                f"select '{name}', 'buffer', deletion_id, record from grace.buffered('{table.qualified}')"
                f" union all select '{name}', 'rows in the buffer', null, to_jsonb(count(*)) from grace_buffer.{name}"
            )
            expected += [(name, "live", None, table.record(row)) for row in table.rows.values()]
            expected += [
                (name, "buffer", row.deletion.id, table.buffered_record(row))
                for row in table.buffer.values()
                if not table.expired(row.deletion)
            ]
            expected.append((name, "rows in the buffer", None, len(table.buffer)))
            expected += [
                (name, "log", deletion.id, [count, table.restored[deletion]])
                for deletion, count in table.captured.items()
                if not table.expired(deletion)
            ]
            expired = sum(
                count - table.restored[deletion]
                for deletion, count in table.captured.items()
                if table.expired(deletion)
            )
            if expired:
                expected.append((name, "expired", None, expired))
        log = [
            "select target::oid::int8::text, 'log', id, jsonb_build_array(row_count, restored_count) from grace.deletions",
            "select target::oid::int8::text, 'expired', null, to_jsonb(row_count) from grace.expired where row_count <> 0",
        ]
        names = {str(number): name for name, number in self.tables.items()}
        actual = [
            (names.get(name, name), *rest) for name, *rest in rows(conn, " union all ".join(live + buffered + log))
        ]
        self.assert_same(actual, expected)

    @staticmethod
    def assert_same(actual: Iterable[tuple[Any, ...]], expected: Iterable[tuple[Any, ...]]) -> None:
        found, wanted = (Counter(json.dumps(entry, sort_keys=True) for entry in side) for side in (actual, expected))
        if found != wanted:
            lines = [f"only in the database: {entry}" for entry in (found - wanted).elements()]
            lines += [f"only in the model: {entry}" for entry in (wanted - found).elements()]
            pytest.fail("\n".join(lines))

    # --- Rows ---------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(TABLES), guarded=st.booleans())
    @precondition(lambda self: not self.model.aborted)
    def insert(self, data: st.DataObject, name: str, guarded: bool) -> None:
        self._insert(name, self._row(data, name), guarded)

    @rule(data=st.data(), name=st.sampled_from(TABLES), guarded=st.booleans())
    @precondition(lambda self: not self.model.aborted)
    def insert_again(self, data: st.DataObject, name: str, guarded: bool) -> None:
        """Take the key, or another unique value, of a row that is in the buffer."""
        table = self.state.tables[name]
        if not table.buffer:
            return
        gone = table.restored_values(data.draw(st.sampled_from([table.buffer[n] for n in sorted(table.buffer)])))
        unique = data.draw(st.sampled_from(table.uniques))
        taken = {number: gone[number] for number in unique.columns if gone[number] is not None}
        self._insert(name, {**self._row(data, name), **taken}, guarded)

    @rule()
    @precondition(lambda self: not self.model.aborted and self.few())
    def fill(self) -> None:
        """Insert what there was at first, as far as it can be."""
        alone = not self.model.open
        if alone:
            self.begin()
        for name in TABLES:
            table = self.state.tables[name]
            insertable = [column.number for column in COLUMNS[name] if column.kind is not Kind.GENERATED]
            for values in INITIAL[name]:
                row = {n: value for n, value in zip(insertable, values, strict=True) if table.has(n)}
                if Model.outcome(partial(State.insert, name=name, given=row), self.state.copy()) is None:
                    self._insert(name, row, guarded=False)
        if alone:
            self.commit()

    def few(self) -> bool:
        return sum(len(table.rows) for table in self.state.tables.values()) < 12

    def _insert(self, name: str, row: Values, guarded: bool) -> None:
        table = self.state.tables[name]
        identity = any(column.kind is Kind.IDENTITY for column in table.columns)
        self.expect(
            insert_statement(table, row, "overriding system value " if identity else ""),
            partial(State.insert, name=name, given=row),
            guarded=guarded,
        )

    def _row(self, data: st.DataObject, name: str) -> dict[int, Value]:
        table = self.state.tables[name]
        row = {
            column.number: self._value(data, column) for column in table.columns if column.kind is not Kind.GENERATED
        }
        for foreign_key in FOREIGN_KEYS:
            if foreign_key.child == name:
                row.update(self._reference(data, table, foreign_key))
        left_out = [column for column in table.columns if column.kind is Kind.PLAIN and column.default is not None]
        for column in left_out:
            if data.draw(st.booleans()):
                del row[column.number]
        return row

    def _value(self, data: st.DataObject, column: Column) -> Value:
        if column.kind in (Kind.KEY, Kind.IDENTITY):
            return data.draw(st.integers(1, 9))
        if column.kind is Kind.PARTITION:
            return data.draw(st.sampled_from(sorted(LEAVES)))
        if column.kind is Kind.SOURCE:
            return data.draw(st.integers(0, 9))
        values: st.SearchStrategy[Value] = {
            "boolean": st.booleans(),
            "int": st.integers(0, 9),
            "bigint": st.integers(0, 9),
        }.get(column.type, st.sampled_from(["a", "b", "c", "d'e"]))
        return data.draw(values if column.not_null else st.none() | values)

    def _reference(self, data: st.DataObject, table: Table, foreign_key: ForeignKey) -> dict[int, Value]:
        """Return a parent's key: mostly of one that is there."""
        parents = [tuple(key.values()) for key in map(self._key_of(foreign_key.parent), self._live(foreign_key.parent))]
        nullable = not any(table.column(number).not_null for number in foreign_key.columns)
        choice = data.draw(st.sampled_from(["there"] * 4 * bool(parents) + ["null"] * nullable + ["any"]))
        if choice == "null":
            return dict.fromkeys(foreign_key.columns)
        key = (
            data.draw(st.sampled_from(parents))
            if choice == "there"
            else tuple(data.draw(st.integers(1, 6)) for _ in foreign_key.columns)
        )
        return dict(zip(foreign_key.columns, key, strict=True))

    def _live(self, name: str) -> list[int]:
        return sorted(self.state.tables[name].rows)

    def _key_of(self, name: str) -> Callable[[int], dict[str, Value]]:
        table = self.state.tables[name]
        return lambda number: table.key(table.rows[number])

    @rule(data=st.data(), name=st.sampled_from(TABLES), guarded=st.booleans())
    @precondition(lambda self: not self.model.aborted)
    def update(self, data: st.DataObject, name: str, guarded: bool) -> None:
        table = self.state.tables[name]
        if not table.rows:
            return
        number = data.draw(st.sampled_from(self._live(name)))
        links = [fk for fk in FOREIGN_KEYS if fk.child == name and not set(fk.columns) & set(table.primary.columns)]
        plain = [column for column in table.columns if column.kind in (Kind.PLAIN, Kind.SOURCE, Kind.PARTITION)]
        candidates: list[Column | ForeignKey] = [*links, *plain]
        changed = data.draw(st.sampled_from(candidates))
        if isinstance(changed, Column):
            changes = {changed.number: self._value(data, changed)}
        else:
            changes = self._reference(data, table, changed)
        assigned = ", ".join(f"{table.column(n).name} = {literal(value)}" for n, value in changes.items())
        self.expect(
            f"update {table.qualified} set {assigned} where {condition(table, [number])}",
            lambda state: state.update(name, number, changes),
            guarded=guarded,
        )

    @rule(data=st.data(), name=st.sampled_from(TABLES), guarded=st.booleans())
    @precondition(lambda self: not self.model.aborted)
    def delete(self, data: st.DataObject, name: str, guarded: bool) -> None:
        self._delete(data, name, guarded)

    @rule(data=st.data(), name=st.sampled_from(["parent", "child", "ring_a", "ring_b"]), guarded=st.booleans())
    @precondition(lambda self: not self.model.aborted)
    def delete_parent(self, data: st.DataObject, name: str, guarded: bool) -> None:
        self._delete(data, name, guarded)

    def _delete(self, data: st.DataObject, name: str, guarded: bool) -> None:
        table = self.state.tables[name]
        if not table.rows:
            return
        numbers = data.draw(st.lists(st.sampled_from(self._live(name)), min_size=1, max_size=3, unique=True))
        source = table.qualified
        if name == "event" and len(numbers) == 1 and data.draw(st.booleans()):
            source = f"app.{LEAVES[str(table.rows[numbers[0]][2])]}"
        if not self._same_in_any_order(name, numbers):
            numbers = numbers[:1]
            if not self._same_in_any_order(name, numbers):
                return
        self.expect(
            f"delete from {source} where {condition(table, numbers)}",
            lambda state: state.delete(name, numbers, self.model.order, list.sort),
            guarded=guarded,
        )

    @rule(data=st.data(), name=st.sampled_from(TABLES[::-1]), truncate=st.booleans())
    @precondition(lambda self: not self.model.aborted)
    def empty(self, data: st.DataObject, name: str, truncate: bool) -> None:
        numbers = self._live(name)
        if truncate:
            self._truncate(data, name)
        elif self._same_in_any_order(name, numbers):
            self.expect(
                f"delete from {self.state.tables[name].qualified}",
                lambda state: state.delete(name, numbers, self.model.order, list.sort),
                guarded=True,
            )

    def _same_in_any_order(self, name: str, numbers: list[int]) -> bool:
        """Whether it makes no difference in which order PostgreSQL finds the rows: a link can be cut before its row goes, or not."""
        outcomes = set()
        chance = random.Random(len(numbers))
        for pick in (list.sort, list.reverse, chance.shuffle, chance.shuffle):
            state = self.state.copy()
            try:
                state.delete(name, numbers, self.model.order, pick)
            except Violation:
                outcomes.add("refused")
                continue
            outcomes.add(
                json.dumps(
                    [
                        sorted(
                            json.dumps(table.buffered_record(row), sort_keys=True)
                            for row in table.buffer.values()
                            if row.deletion is state.deletion
                        )
                        for table in state.tables.values()
                    ]
                )
            )
        return len(outcomes) == 1

    def _truncate(self, data: st.DataObject, name: str) -> None:
        names = {name}
        while more := {fk.child for fk in FOREIGN_KEYS if fk.parent in names} - names:
            names |= more
        if names & self.model.pending:
            return  # PostgreSQL refuses it until their checks are done
        kind = data.draw(st.sampled_from([None, *LEAVES])) if name == "event" else None
        target = f"app.{LEAVES[kind]}" if kind else self.state.tables[name].qualified
        self.expect(
            f"truncate {target}" + (" cascade" if len(names) > 1 else ""),
            lambda state: state.truncate(names, kind),
            guarded=True,
        )
        self.model.exclusive = True

    # --- Transactions -------------------------------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: not self.model.open)
    def begin(self) -> None:
        self.execute("begin")
        self.model.begin()

    @rule(name=st.sampled_from(["a", "b"]))
    @precondition(lambda self: self.model.open and not self.model.aborted and len(self.model.savepoints) < 4)
    def savepoint(self, name: str) -> None:
        self.execute(f"savepoint {name}")
        self.model.savepoint(name)

    @rule(data=st.data())
    @precondition(lambda self: self.model.savepoints)
    def rollback_to(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, _ in self.model.savepoints]))
        self.execute(f"rollback to savepoint {name}")
        self.model.rollback_to(name)

    @rule(data=st.data())
    @precondition(lambda self: self.model.savepoints and not self.model.aborted)
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, _ in self.model.savepoints]))
        self.execute(f"release savepoint {name}")
        self.model.release(name)

    @rule()
    @precondition(lambda self: self.model.open)
    def commit(self) -> None:
        self.attempt("commit", self.model.commit())

    @rule()
    @precondition(lambda self: self.model.open)
    def rollback(self) -> None:
        self.execute("rollback")
        self.model.rollback()

    # --- Restore ------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def restore_deletion(self, data: st.DataObject) -> None:
        client, state = self._restorer(data)
        deletions = state.deletions()
        left = [deletion for deletion in deletions if state.tables_with(deletion)]
        if deletions:
            deletion = data.draw(st.sampled_from([*left * 4, *deletions]))
            target = data.draw(st.none() | st.sampled_from(state.tables_with(deletion) or TABLES))
            self._restore(data, client, Selection(target, deletion, related=data.draw(st.booleans())))

    @rule(data=st.data())
    def restore_newest(self, data: st.DataObject) -> None:
        client, state = self._restorer(data)
        left = [deletion for deletion in state.deletions() if state.tables_with(deletion)]
        if left:
            self._restore(data, client, Selection(deletion=left[-1]))

    @rule(data=st.data(), related=st.booleans())
    def restore_keys(self, data: st.DataObject, related: bool) -> None:
        client, state = self._restorer(data)
        filled = [name for name, table in state.tables.items() if table.buffer]
        if not filled:
            return
        name = data.draw(st.sampled_from(filled))
        table = state.tables[name]
        alive = sorted(state.newest(table))
        numbers = st.sampled_from([*alive * 4, *sorted(table.buffer)])
        chosen = data.draw(st.lists(numbers, min_size=1, max_size=3, unique=True))
        keys = {}
        for number in chosen:
            row = table.restored_values(table.buffer[number])
            keys[tuple(row[column] for column in table.primary.columns)] = table.buffer[number].deletion
        deletion = data.draw(st.sampled_from([None, None, None, *keys.values()]))
        self._restore(data, client, Selection(name, deletion, tuple(keys), related=related))

    @rule(data=st.data(), related=st.booleans())
    def restore_window(self, data: st.DataObject, related: bool) -> None:
        client, state = self._restorer(data)
        deletions = [
            deletion
            for deletion in state.deletions()
            if any(t.captured[deletion] and not t.expired(deletion) for t in state.tables.values())
        ]
        if not deletions:
            return
        after, before = data.draw(
            st.tuples(st.none() | st.sampled_from(deletions), st.none() | st.sampled_from(deletions)).filter(any)
        )
        selection = Selection(after=after, before=before, related=related)
        concerned = sorted(
            {name for deletion in deletions if selection.covers(deletion) for name in state.tables_with(deletion)}
        )
        target = data.draw(st.none() | st.sampled_from(concerned or TABLES))
        self._restore(data, client, replace(selection, target=target))

    def _restorer(self, data: st.DataObject) -> tuple[int, State]:
        """Choose a client and say what it sees."""
        beside = not (self.model.open and (self.model.exclusive or self.model.has_restored))
        mine = not self.model.aborted
        if not (mine or beside):
            return 0, State({})
        client = data.draw(st.sampled_from([1] * mine + [2] * beside))
        return client, self.model.working if client == 1 else self.model.committed

    def _restore(self, data: st.DataObject, client: int, selection: Selection) -> None:
        """Predict it, run it dry and then, unless that is all that is wanted, for good."""
        state = self.model.working if client == 1 else self.model.committed
        predicted = state.predict(selection)
        if client == 2 and self.model.open and self.model.would_wait(predicted):
            return
        restore = Restore(state, selection, relink=client == 1)  # another's would wait for rows of the first
        only_dry = data.draw(st.sampled_from([False, False, False, True]))
        if predicted.found:
            answer = self.execute(restore.sql(dry_run=True), client)
            assert restore.counts(answer) == predicted.counts, "the dry run selects other rows"
            self.assert_same(restore.conflicts(answer), predicted.conflicts)
            if only_dry:
                return
        self._restore_for_good(restore, predicted, client, guarded=data.draw(st.booleans()))

    def _restore_for_good(self, restore: Restore, predicted: Prediction, client: int, *, guarded: bool) -> None:
        def change(state: State) -> None:
            if not predicted.found:
                raise Violation("GR007")
            if predicted.conflicts:
                raise Violation("GR011")
            state.restore(predicted, relink=restore.relink)
            if state.blocks_deferred(predicted):
                raise Violation("23503")

        statement = restore.sql(dry_run=False)
        if client == 1:
            self.model.has_restored = self.model.has_restored or self.model.open
            answer, error = self.expect(statement, change, guarded=guarded)
        else:
            expected = Model.outcome(change, self.model.committed.copy())
            answer, error = self.attempt(statement, expected, 2)
            if error is None:
                self.model.restore_beside(predicted)
        if error is None:
            assert restore.counts(answer) == predicted.counts
        elif error.sqlstate == "GR011":
            self.assert_same(restore.listed_conflicts(error), predicted.conflicts)

    # --- Changes of the schema ----------------------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(TABLES))
    @precondition(lambda self: not self.model.aborted)
    def alter(self, data: st.DataObject, name: str) -> None:
        if name in self._kept_from_ddl():
            return
        table = self.state.tables[name]
        plain = [column for column in table.columns if column.kind is Kind.PLAIN]
        retyped = [
            (column, new)
            for column in table.columns
            for new in NEW_TYPES.get((column.type, column.kind is Kind.PLAIN), [])
            if column.kind in (Kind.KEY, Kind.IDENTITY, Kind.PLAIN)
        ]
        ways = ["rename column", *["retype"] * 3 * bool(retyped), *["null", "default", "drop"] * bool(plain)]
        ways += ["add"] * 3 * (table.width < 12) + ["rename", "move"]
        match data.draw(st.sampled_from(ways)):
            case "add":
                change = self._add_column(data, name)
            case "rename column":
                change = self._rename_column(data, name, data.draw(st.sampled_from(table.columns)))
            case "retype":
                change = self._retype_column(name, *data.draw(st.sampled_from(retyped)))
            case "null":
                change = self._change_null(name, data.draw(st.sampled_from(plain)))
            case "default":
                change = self._change_default(data, name, data.draw(st.sampled_from(plain)))
            case "drop":
                change = self._drop_column(name, data.draw(st.sampled_from(plain)))
            case way:
                change = self._rename_table(name, move=way == "move")
        self.expect(*change, guarded=True)
        self.model.exclusive = True
        self.read_order()

    def _kept_from_ddl(self) -> set[str]:
        """Tables that PostgreSQL lets nobody alter until the transaction's checks are done."""
        return {"ring_a", "ring_b"} if self.model.pending else set()

    def _add_column(self, data: st.DataObject, name: str) -> tuple[str, Callable[[State], None]]:
        table = self.state.tables[name]
        taken = {column.name for column in table.columns}
        free = sorted({"extra", "note", "code", "size", "id_former1", "note_former1"} - taken)
        column = Column(0, data.draw(st.sampled_from(free)), data.draw(st.sampled_from(["int", "text", "varchar"])))
        if data.draw(st.booleans()):
            column = replace(column, default=self._value(data, replace(column, not_null=True)))
            column = replace(column, not_null=data.draw(st.booleans()))
        written = f"alter table {table.qualified} add column {column.name} {type_name(column.type)}"
        if column.default is not None:
            written += f" default {literal(column.default)}"
        if column.not_null:
            written += " not null"
        return written, lambda state: state.add_column(name, column)

    def _rename_column(self, data: st.DataObject, name: str, column: Column) -> tuple[str, Callable[[State], None]]:
        table = self.state.tables[name]
        taken = {column.name for column in table.columns}
        free = sorted({f"{name}_{column.number}", "extra", "note", "other", "note_former1"} - taken)
        new = data.draw(st.sampled_from(free))
        return (
            f"alter table {table.qualified} rename {column.name} to {new}",
            lambda state: state.change_column(name, replace(column, name=new)),
        )

    def _retype_column(self, name: str, column: Column, new: str) -> tuple[str, Callable[[State], None]]:
        return (
            f"alter table {self.state.tables[name].qualified} alter {column.name} type {new}",
            lambda state: state.retype_column(name, column.number, new, rewrites=column.type != "varchar"),
        )

    def _drop_column(self, name: str, column: Column) -> tuple[str, Callable[[State], None]]:
        return (
            f"alter table {self.state.tables[name].qualified} drop column {column.name}",
            lambda state: state.drop_column(name, column.number),
        )

    def _change_null(self, name: str, column: Column) -> tuple[str, Callable[[State], None]]:
        verb = "drop" if column.not_null else "set"
        return (
            f"alter table {self.state.tables[name].qualified} alter {column.name} {verb} not null",
            lambda state: state.change_column(name, replace(column, not_null=not column.not_null)),
        )

    def _change_default(self, data: st.DataObject, name: str, column: Column) -> tuple[str, Callable[[State], None]]:
        new = None if column.default is not None else self._value(data, replace(column, not_null=True))
        done = "drop default" if new is None else f"set default {literal(new)}"
        return (
            f"alter table {self.state.tables[name].qualified} alter {column.name} {done}",
            lambda state: state.change_column(name, replace(column, default=new)),
        )

    def _rename_table(self, name: str, *, move: bool) -> tuple[str, Callable[[State], None]]:
        table = self.state.tables[name]
        new_schema = {"app": "elsewhere", "elsewhere": "app"}[table.schema] if move else table.schema
        new_name = table.name if move else {name: f"{name}_2"}.get(table.name, name)

        def change(state: State) -> None:
            state.tables[name] = replace(state.tables[name], schema=new_schema, name=new_name)

        done = f"set schema {new_schema}" if move else f"rename to {new_name}"
        return f"alter table {table.qualified} {done}", change

    # --- Time ---------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), what=st.sampled_from(["older", "older", "retention", "purge"]))
    @precondition(lambda self: not self.model.open and self.model.committed.deletions())
    def let_time_pass(self, data: st.DataObject, what: str) -> None:
        match what:
            case "older":
                self._grow_older(data.draw(st.sampled_from([1, 5, 10, 20])), leaves=data.draw(st.booleans()))
            case "retention":
                name = data.draw(st.sampled_from(TABLES))
                days = data.draw(st.sampled_from([10, RETENTION, 60]))
                table = self.model.committed.tables[name]
                self.execute(f"select grace.set_retention('{table.qualified}', '{days} days')", 2)
                table.retention = days
            case "purge":
                self._purge()

    def _grow_older(self, days: int, *, leaves: bool) -> None:
        """Make all that is buffered older, as if nothing had happened for some days; leaves: there were leaves for these days."""
        self.backdated = True
        state = self.model.committed
        span = f"interval '{24 * days} hours'"
        self.execute("begin", 2)
        for name, table in state.tables.items():
            if not table.buffer:
                continue
            for age in sorted({row.deletion.age + days for row in table.buffer.values()}) if leaves else ():
                self.execute(LEAF.format(name=name, age=age), 2)
            self.execute(f"update grace_buffer.{name} set grace_deleted_at = grace_deleted_at - {span}", 2)
        for log, column in (("capture", "deleted_at"), ("restored", "deleted_at"), ("protected_column", "ended_at")):
            self.execute(f"update grace_internal.{log} set {column} = {column} - {span}", 2)
        self.execute("commit", 2)
        state.grow_older(days)

    def _purge(self) -> None:
        removed = self.model.committed.purge()
        self.execute("call grace.purge()", 2)
        run = self.execute("select status, row_count from grace.runs where kind = 'purge' order by id desc limit 1", 2)
        assert run == [("done", removed)]


# By former type, and whether the column is neither a key nor refers to one.
NEW_TYPES = {
    ("int", False): ["bigint"],
    ("int", True): ["bigint", "text"],
    ("bigint", True): ["text"],
    ("varchar", True): ["text"],
}


def type_name(name: str) -> str:
    return {"varchar": "varchar(20)"}.get(name, name)


# A leaf for the day on which what is buffered will have been deleted, if there is none.
LEAF = """\
select grace_internal.create_leaf('b' || p.id, 'grace_buffer.{name}', d.day)
from (select (clock_timestamp() at time zone 'UTC')::date - {age} as day) d, grace_internal.protected p
where p.buffer = '{name}' and not exists (
  select from grace_buffer.{name} b where (b.grace_deleted_at at time zone 'UTC')::date = d.day
) and to_regclass('grace_internal.b' || p.id || to_char(d.day, '_YYYYMMDD')) is null"""


@pytest.fixture
def machine(server: Server, template: str) -> Iterator[type[Machine]]:
    with _new_database(server, template) as database:
        conn = database.connect()
        script = set_up(conn)
        conn.close()
        yield type("Steps", (Machine,), {"server": server, "template": database.name, "script": script})


def test_the_database_is_always_what_the_model_says(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=profile())
