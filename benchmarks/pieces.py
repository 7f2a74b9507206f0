"""Where the time of a capture goes: the same DELETE with one piece after the other, up to the whole."""

from __future__ import annotations

from benchmarks.measure import Result, Variant, compare, interleaved
from benchmarks.tables import create, execute, fill, protect, vacuum
from pg_grace.connection import Connection

ROWS = 100_000
_TRANSITION = "referencing old table as gone"
_INSERT = "insert into {log} select *, 1, now() from gone;"
# Name, whether there is a transition table, and what the trigger function does.
_PIECES = (
    ("no trigger", None, None),
    ("empty trigger", "", ""),
    ("transition table", _TRANSITION, ""),
    ("+ INSERT into a plain table", _TRANSITION, _INSERT),
    ("+ INSERT into a partitioned table", _TRANSITION, _INSERT),
)


def pieces(connection: Connection, rounds: int) -> list[Result]:
    """100,000 rows in one DELETE, as captured; and the INSERT alone, without any DELETE."""
    variants = []
    for number, (name, referencing, body) in enumerate(_PIECES):
        table, log = f"piece_{number}", f"piece_{number}_log"
        create(connection, table)
        _create_log(connection, log, partitioned="partitioned" in name)
        if referencing is not None:
            assert body is not None
            execute(
                connection,
                "create function {function}() returns trigger language plpgsql security definer "
                f"set search_path = public, pg_temp as $$begin {body} return null; end$$",
                function=f"piece_{number}",
                log=log,
            )
            execute(
                connection,
                f"create trigger piece after delete on {{table}} {referencing} for each statement "
                "execute function {function}()",
                table=table,
                function=f"piece_{number}",
            )
        variants.append(_variant(connection, name, table))
    create(connection, "piece_ours", "piece_source")
    protect(connection, "piece_ours")
    variants.append(_variant(connection, "pg_grace", "piece_ours"))
    _create_log(connection, "piece_alone", partitioned=False)
    fill(connection, "piece_source", 1, ROWS)
    variants.append(Variant("INSERT … SELECT alone", lambda: None, lambda: _insert_alone(connection)))
    return compare("pieces of a capture of 100,000 rows", interleaved(connection, variants, rounds), {})


def _create_log(connection: Connection, name: str, *, partitioned: bool) -> None:
    columns = (
        "id bigint, customer_id integer, product_id integer, ordered_on date, status text, reference text, note text, "
        "quantity numeric, unit_price numeric, changed_at timestamptz, deletion bigint, deleted_at timestamptz"
    )
    by_time = "partition by range (deleted_at)" if partitioned else ""
    execute(connection, f"create table {{log}} ({columns}) {by_time}", log=name)
    if partitioned:
        execute(
            connection,
            "create table {leaf} partition of {log} for values from (minvalue) to (maxvalue)",
            leaf=f"{name}_leaf",
            log=name,
        )


def _variant(connection: Connection, name: str, table: str) -> Variant:
    def refill() -> None:
        vacuum(connection, table)
        fill(connection, table, 1, ROWS)

    def delete() -> None:
        execute(connection, "delete from {table}", table=table)

    return Variant(name, refill, delete)


def _insert_alone(connection: Connection) -> None:
    execute(connection, "insert into {log} select *, 1, now() from {source}", log="piece_alone", source="piece_source")
