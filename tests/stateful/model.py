"""A small database in plain Python: tables, foreign keys, transactions, and what pg_grace promises of what is deleted from them."""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TypeAlias

Value: TypeAlias = int | str | bool | None
Values: TypeAlias = Mapping[int, Value]

SCHEMA = """\
create schema app;
create schema elsewhere;
create table app.parent (
  id int primary key,
  up int references app.parent on delete cascade,
  code text unique,
  amount int not null default 0,
  twice int generated always as (amount * 2) stored,
  note varchar(20)
);
create table app.child (
  parent_id int references app.parent on delete cascade,
  line int,
  tag text,
  listed boolean default true,
  primary key (parent_id, line)
);
create unique index child_tag on app.child (tag) where listed;
create table app.grandchild (
  id int generated always as identity (start with 1000) primary key,
  parent_id int,
  line int,
  note text,
  foreign key (parent_id, line) references app.child on delete cascade
);
create table app.event (
  id int,
  kind text,
  parent_id int references app.parent on delete cascade,
  size int,
  primary key (id, kind)
) partition by list (kind);
create table app.event_a partition of app.event for values in ('a');
create table app.event_b partition of app.event for values in ('b');
create table app.ring_a (id int primary key, b_id int not null, note varchar(20) default 'n');
create table app.ring_b (id int primary key, a_id int references app.ring_a on delete cascade, note text);
alter table app.ring_a add foreign key (b_id) references app.ring_b on delete cascade deferrable initially deferred;
create table app.audit (id int primary key, parent_id int references app.parent, note text);
create table app.link (
  id int primary key,
  parent_id int references app.parent on delete set null,
  child_parent int,
  child_line int,
  foreign key (child_parent, child_line) references app.child on delete cascade
);
"""


class Kind(Enum):
    """What may be done to a column."""

    KEY = auto()  # of a primary or foreign key
    IDENTITY = auto()
    PARTITION = auto()
    SOURCE = auto()  # a generated column is computed from it
    GENERATED = auto()
    PLAIN = auto()


@dataclass(frozen=True)
class Column:
    """A column as the table has it now. missing: what PostgreSQL shows in rows that are older than the column."""

    number: int
    name: str
    type: str
    kind: Kind = Kind.PLAIN
    not_null: bool = False
    default: Value = None
    missing: Value = None


@dataclass(frozen=True)
class Unique:
    """A unique index; where is the number of the boolean column that is its predicate."""

    name: str
    columns: tuple[int, ...]
    where: int | None = None

    def key(self, row: Values) -> tuple[Value, ...] | None:
        """Return the row's key, or None if the index does not apply to it."""
        key = tuple(row.get(column) for column in self.columns)
        if None in key or (self.where is not None and row.get(self.where) is not True):
            return None
        return key


@dataclass(frozen=True)
class ForeignKey:
    """References the parent's primary key."""

    name: str
    child: str
    columns: tuple[int, ...]
    parent: str
    parent_columns: tuple[int, ...]
    on_delete: str
    deferred: bool = False

    def key(self, row: Values) -> tuple[Value, ...] | None:
        key = tuple(row.get(column) for column in self.columns)
        return None if None in key else key


FOREIGN_KEYS = (
    ForeignKey("parent_up_fkey", "parent", (2,), "parent", (1,), "cascade"),
    ForeignKey("child_parent_id_fkey", "child", (1,), "parent", (1,), "cascade"),
    ForeignKey("grandchild_parent_id_line_fkey", "grandchild", (2, 3), "child", (1, 2), "cascade"),
    ForeignKey("event_parent_id_fkey", "event", (3,), "parent", (1,), "cascade"),
    ForeignKey("ring_b_a_id_fkey", "ring_b", (2,), "ring_a", (1,), "cascade"),
    ForeignKey("ring_a_b_id_fkey", "ring_a", (2,), "ring_b", (1,), "cascade", deferred=True),
    ForeignKey("audit_parent_id_fkey", "audit", (2,), "parent", (1,), "no action"),
    ForeignKey("link_parent_id_fkey", "link", (2,), "parent", (1,), "set null"),
    ForeignKey("link_child_parent_child_line_fkey", "link", (3, 4), "child", (1, 2), "cascade"),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "parent": (
        Column(1, "id", "int", Kind.KEY, not_null=True),
        Column(2, "up", "int", Kind.KEY),
        Column(3, "code", "text"),
        Column(4, "amount", "int", Kind.SOURCE, not_null=True, default=0),
        Column(5, "twice", "int", Kind.GENERATED),
        Column(6, "note", "varchar"),
    ),
    "child": (
        Column(1, "parent_id", "int", Kind.KEY, not_null=True),
        Column(2, "line", "int", Kind.KEY, not_null=True),
        Column(3, "tag", "text"),
        Column(4, "listed", "boolean", default=True),
    ),
    "grandchild": (
        Column(1, "id", "int", Kind.IDENTITY, not_null=True),
        Column(2, "parent_id", "int", Kind.KEY),
        Column(3, "line", "int", Kind.KEY),
        Column(4, "note", "text"),
    ),
    "event": (
        Column(1, "id", "int", Kind.KEY, not_null=True),
        Column(2, "kind", "text", Kind.PARTITION, not_null=True),
        Column(3, "parent_id", "int", Kind.KEY),
        Column(4, "size", "int"),
    ),
    "ring_a": (
        Column(1, "id", "int", Kind.KEY, not_null=True),
        Column(2, "b_id", "int", Kind.KEY, not_null=True),
        Column(3, "note", "varchar", default="n"),
    ),
    "ring_b": (
        Column(1, "id", "int", Kind.KEY, not_null=True),
        Column(2, "a_id", "int", Kind.KEY),
        Column(3, "note", "text"),
    ),
    "audit": (
        Column(1, "id", "int", Kind.KEY, not_null=True),
        Column(2, "parent_id", "int", Kind.KEY),
        Column(3, "note", "text"),
    ),
    "link": (
        Column(1, "id", "int", Kind.KEY, not_null=True),
        Column(2, "parent_id", "int", Kind.KEY),
        Column(3, "child_parent", "int", Kind.KEY),
        Column(4, "child_line", "int", Kind.KEY),
    ),
}
UNIQUES: dict[str, tuple[Unique, ...]] = {
    "parent": (Unique("parent_pkey", (1,)), Unique("parent_code_key", (3,))),
    "child": (Unique("child_pkey", (1, 2)), Unique("child_tag", (3,), where=4)),
    "grandchild": (Unique("grandchild_pkey", (1,)),),
    "event": (Unique("event_pkey", (1, 2)),),
    "ring_a": (Unique("ring_a_pkey", (1,)),),
    "ring_b": (Unique("ring_b_pkey", (1,)),),
    "audit": (Unique("audit_pkey", (1,)),),
    "link": (Unique("link_pkey", (1,)),),
}
TABLES = tuple(COLUMNS)
LEAVES = {"a": "event_a", "b": "event_b"}

# In the order of the columns, without generated ones.
INITIAL: dict[str, list[tuple[Value, ...]]] = {
    "parent": [(1, None, "a", 1, "one"), (2, 1, "b", 2, None), (3, 2, None, 3, "three"), (4, None, None, 4, "four")],
    "child": [(1, 1, "x", True), (1, 2, "x", False), (2, 1, None, True), (4, 1, "y", True)],
    "grandchild": [(1, 1, 1, "g"), (2, 1, 2, None), (3, 4, 1, "h"), (4, None, None, "i")],
    "event": [(1, "a", 1, 10), (1, "b", 2, 20), (2, "a", 4, None), (3, "b", None, 30)],
    "ring_a": [(1, 1, "p"), (2, 2, None)],
    "ring_b": [(1, 2, "q"), (2, 1, None), (3, 2, "r")],
    "audit": [(1, 4, "z"), (2, None, None)],
    "link": [(1, 1, 4, 1), (2, 4, 1, 1), (3, None, 2, 1), (4, 2, None, None)],
}
RETENTION = 30

_numbers = itertools.count(1)


def tick() -> int:
    """Return the next moment."""
    return next(_numbers)


class Violation(Exception):  # noqa: N818 - what PostgreSQL calls it
    """What PostgreSQL is expected to refuse, with which SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@dataclass(eq=False)
class Deletion:
    """All that one transaction deletes; its id is read from the database. age: by how many days it was made older."""

    moment: int
    id: int | None = None
    age: int = 0

    @property
    def when(self) -> tuple[int, int]:
        return -self.age, self.moment


@dataclass(frozen=True)
class Cut:
    """A link that a deletion cut by ON DELETE SET NULL; child_key: the referencing row's primary key, as text."""

    deletion: Deletion
    foreign_key: ForeignKey
    child_key: tuple[str, ...]
    former: tuple[Value, ...]


@dataclass(frozen=True)
class BufferColumn:
    """A column of a buffer; ended: since when the table no longer has it like this."""

    key: int
    name: str
    number: int
    type: str
    ended: int | None = None


@dataclass(frozen=True)
class BufferedRow:
    """A deleted row: values by the key of the buffer's column."""

    deletion: Deletion
    values: Values


@dataclass
class Table:
    """A protected table with its buffer and its part of the log."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    uniques: tuple[Unique, ...]
    buffer_columns: tuple[BufferColumn, ...]
    width: int  # how many columns it has ever had
    retention: int = RETENTION
    rows: dict[int, Values] = field(default_factory=dict)
    buffer: dict[int, BufferedRow] = field(default_factory=dict)
    captured: Counter[Deletion] = field(default_factory=Counter)
    restored: Counter[Deletion] = field(default_factory=Counter)

    def copy(self) -> Table:
        return replace(
            self,
            rows=dict(self.rows),
            buffer=dict(self.buffer),
            captured=Counter(self.captured),
            restored=Counter(self.restored),
        )

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def primary(self) -> Unique:
        return self.uniques[0]

    def column(self, number: int) -> Column:
        return next(column for column in self.columns if column.number == number)

    def has(self, number: int) -> bool:
        return any(column.number == number for column in self.columns)

    def names(self, numbers: Iterable[int]) -> list[str]:
        return [self.column(number).name for number in numbers]

    def record(self, row: Values) -> dict[str, Value]:
        """Return a live row as jsonb shows it."""
        return {column.name: row.get(column.number) for column in self.columns}

    def buffered_record(self, row: BufferedRow) -> dict[str, Value]:
        return {column.name: row.values.get(column.key) for column in self.buffer_columns}

    def key(self, row: Values) -> dict[str, Value]:
        return {self.column(number).name: row.get(number) for number in self.primary.columns}

    def expired(self, deletion: Deletion) -> bool:
        return deletion.age >= self.retention

    def current(self, number: int) -> BufferColumn:
        """Return the buffer's column that holds what is deleted of this column now."""
        return next(column for column in self.buffer_columns if column.number == number and column.ended is None)

    def linked(self, row: BufferedRow, numbers: Sequence[int]) -> tuple[Value, ...] | None:
        """Return what rows in the buffer are found by: what they are restored with."""
        values = self.restored_values(row)
        key = tuple(values.get(number) for number in numbers)
        return None if None in key else key

    # --- Columns ------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Let the buffer follow the table's columns."""
        moment = tick()
        live = {column.number: column for column in self.columns}
        self.buffer_columns = tuple(
            replace(c, ended=moment)
            if c.ended is None and (c.number not in live or live[c.number].type != c.type)
            else c
            for c in self.buffer_columns
        )
        for column in self.columns:
            known = [c for c in self.buffer_columns if c.number == column.number]
            current = next((c for c in known if c.ended is None), None)
            if current is not None and current.name == column.name:
                continue
            self._make_room(column.name)
            if current is not None:
                self._replace(current.key, column.name)
                continue
            added = BufferColumn(next(_numbers), column.name, column.number, column.type)
            self.buffer_columns += (added,)
            if not known:  # rows from before have what the column's default gives them; a new type changes no row
                self.buffer = {
                    number: replace(row, values={**row.values, added.key: column.missing})
                    for number, row in self.buffer.items()
                }

    def _replace(self, key: int, name: str) -> None:
        self.buffer_columns = tuple(replace(c, name=name) if c.key == key else c for c in self.buffer_columns)

    def _make_room(self, wanted: str) -> None:
        names = {c.name: c.key for c in self.buffer_columns}
        if wanted in names:
            free = next(f"{wanted}_former{n}" for n in itertools.count(1) if f"{wanted}_former{n}" not in names)
            self._replace(names[wanted], free)

    def restored_values(self, row: BufferedRow) -> Values:
        """Return what a restore inserts: values from before a change of type are cast."""
        result: dict[int, Value] = {}
        for column in self.columns:
            if column.kind is Kind.GENERATED:
                continue
            known = [c for c in self.buffer_columns if c.number == column.number]
            known.sort(key=lambda c: (c.ended is not None, -(c.ended or 0)))
            value = next((row.values[c.key] for c in known if row.values.get(c.key) is not None), None)
            if value is None and column.not_null:
                value = column.default
            result[column.number] = cast(value, column.type)
        return self.complete(result)

    def complete(self, row: Mapping[int, Value]) -> Values:
        """Return the row with its generated columns."""
        result = dict(row)
        for column in self.columns:
            if column.kind is Kind.GENERATED:
                source = next(c for c in self.columns if c.kind is Kind.SOURCE)
                amount = result[source.number]
                assert isinstance(amount, int)
                result[column.number] = amount * 2
        return result


def as_text(table: Table, row: Values) -> tuple[str, ...]:
    """Return a row's primary key as text."""
    return tuple(str(row.get(number)) for number in table.primary.columns)


def cast(value: Value, type_name: str) -> Value:
    return str(value) if value is not None and type_name in ("text", "varchar") else value


# --- The database -----------------------------------------------------------------------------------------------------


@dataclass
class State:
    """All that a transaction sees. deletion: that of the transaction, from its first capture on."""

    tables: dict[str, Table]
    deletion: Deletion | None = None
    cuts: list[Cut] = field(default_factory=list)

    @classmethod
    def initial(cls) -> State:
        state = cls({})
        for name, columns in COLUMNS.items():
            table = Table(
                "app",
                name,
                columns,
                UNIQUES[name],
                tuple(BufferColumn(next(_numbers), c.name, c.number, c.type) for c in columns),
                len(columns),
            )
            insertable = [c.number for c in columns if c.kind is not Kind.GENERATED]
            for values in INITIAL[name]:
                table.rows[tick()] = table.complete(dict(zip(insertable, values, strict=True)))
            state.tables[name] = table
        return state

    def copy(self) -> State:
        return State({name: table.copy() for name, table in self.tables.items()}, self.deletion, list(self.cuts))

    def deletions(self) -> list[Deletion]:
        """Return all deletions in the log, oldest first."""
        found = {deletion for table in self.tables.values() for deletion in table.captured}
        return sorted(found, key=lambda deletion: deletion.when)

    def tables_with(self, deletion: Deletion) -> list[str]:
        """Return the tables of which the deletion still has rows that can be restored."""
        return [
            name
            for name, table in self.tables.items()
            if not table.expired(deletion) and any(row.deletion is deletion for row in table.buffer.values())
        ]

    def newest(self, table: Table) -> list[int]:
        """Return the buffered rows that have not expired, newest first."""
        alive = [number for number, row in table.buffer.items() if not table.expired(row.deletion)]
        return sorted(alive, key=lambda number: (table.buffer[number].deletion.when, number), reverse=True)

    # --- Statements ---------------------------------------------------------------------------------------------------

    def insert(self, name: str, given: Values) -> None:
        """Insert a row; columns that are not given take their defaults."""
        table = self.tables[name]
        number = tick()
        row = table.complete(
            {
                column.number: cast(given.get(column.number, column.default), column.type)
                for column in table.columns
                if column.kind is not Kind.GENERATED
            }
        )
        self._check_row(table, row, without=None)
        table.rows[number] = row
        self._check_parents(name, [row])

    def update(self, name: str, number: int, changes: Values) -> None:
        table = self.tables[name]
        row = table.complete({**table.rows[number], **changes})
        self._check_row(table, row, without=number)
        table.rows[number] = row
        self._check_parents(name, [row])

    def _check_row(self, table: Table, row: Values, without: int | None) -> None:
        if any(column.not_null and row.get(column.number) is None for column in table.columns):
            raise Violation("23502")
        for unique in table.uniques:
            key = unique.key(row)
            if key is not None and any(
                unique.key(other) == key for number, other in table.rows.items() if number != without
            ):
                raise Violation("23505")

    def _check_parents(self, name: str, rows: Iterable[Values]) -> None:
        for foreign_key in FOREIGN_KEYS:
            if (
                foreign_key.child == name
                and not foreign_key.deferred
                and any(self.lacks_parent(foreign_key, row) for row in rows)
            ):
                raise Violation("23503")

    def lacks_parent(self, foreign_key: ForeignKey, row: Values) -> bool:
        key = foreign_key.key(row)
        parent = self.tables[foreign_key.parent]
        return key is not None and not any(parent.primary.key(other) == key for other in parent.rows.values())

    def dangling(self) -> bool:
        """Whether a deferred foreign key is violated now."""
        return any(
            self.lacks_parent(foreign_key, row)
            for foreign_key in FOREIGN_KEYS
            if foreign_key.deferred
            for row in self.tables[foreign_key.child].rows.values()
        )

    def delete(
        self, name: str, numbers: Sequence[int], order: Sequence[str], pick: Callable[[list[int]], None]
    ) -> None:
        """Delete rows and what cascades. order: of the foreign keys' triggers; pick: puts rows in the order of a scan."""
        queue: deque[tuple[str, Values]] = deque()

        def take(table: str, gone: list[int]) -> None:
            pick(gone)
            for number in gone:
                row = self.tables[table].rows.pop(number)
                self._capture(table, row)
                queue.append((table, row))

        take(name, list(numbers))
        by_name = {foreign_key.name: foreign_key for foreign_key in FOREIGN_KEYS}
        while queue:
            parent, row = queue.popleft()
            for foreign_key in (by_name[key] for key in order if by_name[key].parent == parent):
                key = tuple(row.get(column) for column in foreign_key.parent_columns)
                child = self.tables[foreign_key.child]
                found = [number for number, other in child.rows.items() if foreign_key.key(other) == key]
                match foreign_key.on_delete:
                    case "cascade":
                        take(foreign_key.child, found)
                    case "set null":
                        for number in found:
                            cut = {**child.rows[number], **dict.fromkeys(foreign_key.columns)}
                            child.rows[number] = cut
                            self.cuts.append(Cut(self._begin_deletion(), foreign_key, as_text(child, cut), key))
                    case "no action" if found:
                        raise Violation("23503")

    def truncate(self, names: Iterable[str], kind: str | None) -> None:
        """Empty tables, or one leaf of the partitioned one. It begins a deletion even if there are no rows."""
        self._begin_deletion()
        for name in names:
            table = self.tables[name]
            for number, row in list(table.rows.items()):
                if kind is None or row[2] == kind:
                    del table.rows[number]
                    self._capture(name, row)

    def _begin_deletion(self) -> Deletion:
        if self.deletion is None:
            self.deletion = Deletion(tick())
        return self.deletion

    def _capture(self, name: str, row: Values) -> None:
        table = self.tables[name]
        deletion = self._begin_deletion()
        values = {table.current(column.number).key: row.get(column.number) for column in table.columns}
        table.buffer[tick()] = BufferedRow(deletion, values)
        table.captured[deletion] += 1

    # --- Changes of the schema ----------------------------------------------------------------------------------------

    def add_column(self, name: str, added: Column) -> None:
        table = self.tables[name]
        table.width += 1
        added = replace(added, number=table.width, missing=added.default)
        if added.not_null and added.default is None and table.rows:
            raise Violation("23502")
        table.columns += (added,)
        table.rows = {number: {**row, added.number: added.default} for number, row in table.rows.items()}
        table.sync()

    def drop_column(self, name: str, number: int) -> None:
        table = self.tables[name]
        table.columns = tuple(column for column in table.columns if column.number != number)
        table.uniques = tuple(u for u in table.uniques if number not in (*u.columns, u.where))
        table.sync()

    def change_column(self, name: str, changed: Column) -> None:
        """Rename it, change its default, or whether it may be null."""
        table = self.tables[name]
        if changed.not_null and any(row.get(changed.number) is None for row in table.rows.values()):
            raise Violation("23502")
        table.columns = tuple(changed if column.number == changed.number else column for column in table.columns)
        table.sync()

    def retype_column(self, name: str, number: int, type_name: str, *, rewrites: bool) -> None:
        table = self.tables[name]
        column = table.column(number)
        if rewrites:
            table.columns = tuple(replace(column, missing=None) for column in table.columns)
        table.rows = {n: {**row, number: cast(row.get(number), type_name)} for n, row in table.rows.items()}
        self.change_column(name, replace(table.column(number), type=type_name, default=cast(column.default, type_name)))

    # --- Restore ------------------------------------------------------------------------------------------------------

    def predict(self, selection: Selection) -> Prediction:
        """Say what a restore does."""
        names = [selection.target] if selection.target else list(self.tables)
        found = {
            deletion
            for name in names
            for deletion in self.tables[name].captured
            if not self.tables[name].expired(deletion) and selection.covers(deletion)
        }
        found = {
            deletion
            for deletion in found
            if sum(self.tables[name].captured[deletion] for name in names)
            > sum(self.tables[name].restored[deletion] for name in names)
        }
        if not found:
            return Prediction(found=False)
        concerned = {name for name, table in self.tables.items() if any(table.captured[deletion] for deletion in found)}
        if selection.keys is None and (
            selection.target is None or not selection.related or concerned == {selection.target}
        ):
            concerned &= set(names)
            return self._prediction({name: self._rows_of(name, found) for name in concerned}, found)

        assert selection.target is not None
        if selection.keys is None:
            picked = set(self._rows_of(selection.target, found))
        else:
            chosen = [self._newest_of(selection.target, found, key) for key in selection.keys]
            picked = {number for number in chosen if number is not None}
            if len(picked) < len(chosen):
                return Prediction(found=False)
        if not picked:
            return Prediction(found=False)
        rows = {(selection.target, number) for number in picked}
        if selection.related:
            rows = self._related(rows)
        plan: dict[str, list[int]] = {}
        for name, number in sorted(rows):
            plan.setdefault(name, []).append(number)
        return self._prediction(plan, found)

    def _rows_of(self, name: str, deletions: set[Deletion]) -> list[int]:
        return [n for n in self.newest(self.tables[name]) if self.tables[name].buffer[n].deletion in deletions]

    def _newest_of(self, name: str, deletions: set[Deletion], key: tuple[Value, ...]) -> int | None:
        table = self.tables[name]
        return next(
            (
                number
                for number in self._rows_of(name, deletions)
                if table.linked(table.buffer[number], table.primary.columns) == key
            ),
            None,
        )

    def _related(self, picked: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """Add what went in the same deletion and hangs on the rows, then the parents that all these need."""
        result = set(picked)
        for down in (True, False):
            new = set(result)
            while new:
                new = {row for known in new for row in self._neighbours(known, down=down)} - result
                result |= new
        return result

    def _neighbours(self, known: tuple[str, int], *, down: bool) -> Iterator[tuple[str, int]]:
        name, number = known
        table = self.tables[name]
        row = table.buffer[number]
        for foreign_key in FOREIGN_KEYS:
            mine, other, other_name = (
                (foreign_key.parent_columns, foreign_key.columns, foreign_key.child)
                if down
                else (foreign_key.columns, foreign_key.parent_columns, foreign_key.parent)
            )
            if name != (foreign_key.parent if down else foreign_key.child):
                continue
            key = table.linked(row, mine)
            sought = self.tables[other_name]
            for found, candidate in sought.buffer.items():
                if (
                    key is not None
                    and candidate.deletion is row.deletion
                    and not sought.expired(candidate.deletion)
                    and sought.linked(candidate, other) == key
                ):
                    yield other_name, found

    def _prediction(self, plan: Mapping[str, list[int]], deletions: set[Deletion]) -> Prediction:
        """Of several versions of a key only the newest comes back."""
        selected: dict[str, dict[int, Values]] = {}
        for name, numbers in plan.items():
            table = self.tables[name]
            by_key: dict[tuple[Value, ...] | None, int] = {}
            for number in self.newest(table):
                if number in numbers:
                    by_key.setdefault(table.linked(table.buffer[number], table.primary.columns), number)
            selected[name] = {number: table.restored_values(table.buffer[number]) for number in by_key.values()}
        conflicts: set[Conflict] = set()
        for name, rows in selected.items():
            table = self.tables[name]
            for row in rows.values():
                for constraint in self._conflicts_of(name, row, selected):
                    conflicts.add((name, json.dumps(table.key(row), sort_keys=True), constraint))
        return Prediction(found=True, plan=selected, conflicts=conflicts, deletions=deletions)

    def _conflicts_of(self, name: str, row: Values, selected: Mapping[str, Mapping[int, Values]]) -> Iterator[str]:
        table = self.tables[name]
        for column in table.columns:
            if column.not_null and row.get(column.number) is None and column.kind is not Kind.GENERATED:
                yield "not null"
        for unique in table.uniques:
            key = unique.key(row)
            if key is None:
                continue
            taken = any(unique.key(other) == key for other in table.rows.values())
            if taken or self.meets_itself(unique, key, selected[name].values()):
                yield unique.name
        for foreign_key in FOREIGN_KEYS:
            if foreign_key.child == name and self.lacks_parent(foreign_key, row):
                parent = self.tables[foreign_key.parent]
                coming = selected.get(foreign_key.parent, {}).values()
                if not any(parent.primary.key(other) == foreign_key.key(row) for other in coming):
                    yield foreign_key.name

    def meets_itself(self, unique: Unique, key: tuple[Value, ...], rows: Iterable[Values]) -> bool:
        """Two selected rows with the same key are a conflict."""
        return sum(unique.key(other) == key for other in rows) > 1

    def restore(self, prediction: Prediction, *, relink: bool) -> None:
        """Do what was predicted, without asking again."""
        for name, rows in prediction.plan.items():
            table = self.tables[name]
            for number, row in rows.items():
                table.rows[number] = row
                table.restored[table.buffer.pop(number).deletion] += 1
        if relink:
            self.tie_again(prediction)

    def tie_again(self, prediction: Prediction) -> None:
        """Tie links that the deletions had cut to rows that are back, and those of rows that are back to what is there.

        Of several cuts of one row the last one counts; one that has another parent since is left alone.
        """
        for cut in reversed(self.cuts):
            foreign_key = cut.foreign_key
            parent, child = self.tables[foreign_key.parent], self.tables[foreign_key.child]
            if cut.deletion not in prediction.deletions or parent.expired(cut.deletion):
                continue
            back = prediction.plan.get(foreign_key.child, {})
            is_back = any(as_text(child, row) == cut.child_key for row in back.values())
            parents = parent.rows if is_back else prediction.plan.get(foreign_key.parent, {})
            former = tuple(str(value) for value in cut.former)
            found = [parent.primary.key(row) for row in parents.values()]
            key = next((key for key in found if key is not None and tuple(str(value) for value in key) == former), None)
            for number, row in child.rows.items():
                tied = any(row.get(column) is not None for column in foreign_key.columns)
                if key is not None and not tied and as_text(child, row) == cut.child_key:
                    child.rows[number] = {**row, **dict(zip(foreign_key.columns, key, strict=True))}

    def blocks_deferred(self, prediction: Prediction) -> bool:
        """Whether the restore, which asks deferred foreign keys of its tables at once, is stopped by other rows."""
        return any(fk.deferred and fk.child in prediction.plan for fk in FOREIGN_KEYS) and self.dangling()

    # --- Time ---------------------------------------------------------------------------------------------------------

    def grow_older(self, days: int) -> None:
        for deletion in self.deletions():
            deletion.age += days

    def purge(self) -> int:
        """Remove what has expired; return how many rows."""
        removed = 0
        for table in self.tables.values():
            table.buffer_columns = tuple(
                column
                for column in table.buffer_columns
                if column.ended is None or any(deletion.moment < column.ended for deletion in table.captured)
            )
            gone = [number for number, row in table.buffer.items() if table.expired(row.deletion)]
            removed += len(gone)
            for number in gone:
                del table.buffer[number]
            for log in (table.captured, table.restored):
                for deletion in [deletion for deletion in log if table.expired(deletion)]:
                    del log[deletion]
        return removed


Conflict: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Selection:
    """What is asked of a restore. A deletion can be one that is not there; after, before: from a deletion's time on, and before it."""

    target: str | None = None
    deletion: Deletion | None = None
    keys: tuple[tuple[Value, ...], ...] | None = None
    after: Deletion | None = None
    before: Deletion | None = None
    related: bool = True

    def covers(self, deletion: Deletion) -> bool:
        return (
            (self.deletion is None or self.deletion is deletion)
            and (self.after is None or deletion.when >= self.after.when)
            and (self.before is None or deletion.when < self.before.when)
        )


@dataclass(frozen=True)
class Prediction:
    """What a restore does: found is false for GR007; with conflicts it is refused."""

    found: bool
    plan: Mapping[str, Mapping[int, Values]] = field(default_factory=dict)
    conflicts: set[Conflict] = field(default_factory=set)
    deletions: set[Deletion] = field(default_factory=set)

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.plan.items() if rows}


# --- Transactions -----------------------------------------------------------------------------------------------------


class Model:
    """The database with one client whose transactions have savepoints, and others who see what is committed.

    touched: keys that the open transaction has written, which others would wait for; exclusive: it holds locks that keep others
    off whole tables; pending: tables with checks to come at its end.
    """

    def __init__(self) -> None:
        self.committed = self.working = State.initial()
        self.order = [foreign_key.name for foreign_key in FOREIGN_KEYS]
        self.open = self.aborted = False
        self.savepoints: list[tuple[str, State]] = []
        self._clear()

    def _clear(self) -> None:
        self.touched: set[tuple[str, str, tuple[Value, ...]]] = set()
        self.exclusive = self.has_restored = False
        self.pending: set[str] = set()

    @staticmethod
    def outcome(change: Callable[[State], None], state: State) -> str | None:
        """Do a statement; return the SQLSTATE with which it is refused."""
        try:
            change(state)
        except Violation as violation:
            return violation.sqlstate
        return None

    def run(self, change: Callable[[State], None]) -> str | None:
        """Do a statement, in the transaction or in one of its own; return the SQLSTATE with which it is refused."""
        state = self.working.copy()
        if not self.open:
            state.deletion = None
        sqlstate = self.outcome(change, state)
        if sqlstate is None and not self.open and state.dangling():
            sqlstate = "23503"
        if sqlstate is not None:
            self.aborted = self.open
            return sqlstate
        if self.open:
            self._touch(state)
        else:
            self.committed = state
        self.working = state
        return None

    def _touch(self, state: State) -> None:
        for name, table in state.tables.items():
            before = self.working.tables[name].rows
            for number in before.keys() | table.rows.keys():
                old, new = before.get(number), table.rows.get(number)
                if old is new:
                    continue
                if new is not None and any(fk.deferred and fk.child == name for fk in FOREIGN_KEYS):
                    self.pending.add(name)
                for unique in table.uniques:
                    keys = (unique.key(row) for row in (old, new) if row is not None)
                    self.touched |= {(name, unique.name, key) for key in keys if key is not None}

    def would_wait(self, prediction: Prediction) -> bool:
        """Whether a restore by another client would wait for the open transaction."""
        for name, rows in prediction.plan.items():
            for row in rows.values():
                keys = [(name, unique.name, unique.key(row)) for unique in self.committed.tables[name].uniques]
                keys += [
                    (fk.parent, self.committed.tables[fk.parent].primary.name, fk.key(row))
                    for fk in FOREIGN_KEYS
                    if fk.child == name
                ]
                if any(key in self.touched for key in keys):
                    return True
        return False

    def restore_beside(self, prediction: Prediction) -> None:
        """Another client restores while a transaction is open: everybody sees it from now on."""
        states = {id(state): state for state in (self.committed, self.working, *(s for _, s in self.savepoints))}
        for state in states.values():
            state.restore(prediction, relink=False)

    def begin(self) -> None:
        self.open = True
        self.working = replace(self.committed.copy(), deletion=None)
        self._clear()

    def savepoint(self, name: str) -> None:
        self.savepoints.append((name, self.working))
        self.working = self.working.copy()

    def rollback_to(self, name: str) -> None:
        while self.savepoints[-1][0] != name:
            self.savepoints.pop()
        self.working = self.savepoints[-1][1].copy()
        self.aborted = False

    def release(self, name: str) -> None:
        while self.savepoints.pop()[0] != name:
            pass

    def commit(self) -> str | None:
        """Return the SQLSTATE with which it is refused, everything being rolled back; so is an aborted transaction, silently."""
        failed = not self.aborted and self.working.dangling()
        if not self.aborted and not failed:
            self.committed = replace(self.working, deletion=None)
        self.rollback()
        return "23503" if failed else None

    def rollback(self) -> None:
        self.open = self.aborted = False
        self.savepoints = []
        self.working = self.committed
        self._clear()
