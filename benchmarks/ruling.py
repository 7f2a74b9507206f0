"""What rules cost: deleting in batches as a role, counting for a preview, looking up what is planned for a record."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

from benchmarks.measure import Result, Variant, compare, interleaved
from benchmarks.tables import create, execute, fill, protect, vacuum
from pg_grace.connection import Connection

ROWS = 2_000_000
RECORDS, MAILS, CALLS = 1_000_000, 3_000_000, 2_000_000
ROUNDS = 3
RUN_LIMIT, COUNT_LIMIT, LOOKUP_LIMIT = 1.5, 1.2, 2.0
LOOKUPS = 300
# Half of the rows, spread over all pages.
GOING = "status in ('open', 'paid')"
BY_HAND = """
create procedure delete_by_hand() language plpgsql as $$
declare
  v_last bigint := 0;
  v_rows bigint;
begin
  loop
    with pick as (
      select id from rule_plain where id > v_last and status in ('open', 'paid') order by id limit 1000
    ), gone as (
      delete from rule_plain using pick where rule_plain.id = pick.id returning rule_plain.id
    )
    select max(id), count(*) into v_last, v_rows from gone;
    commit;
    exit when v_rows = 0;
  end loop;
end $$
"""


def rules(connection: Connection, rounds: int) -> list[Result]:
    """Run, preview and look up."""
    connection.execute("create role rule_role; grant usage on schema public to rule_role")
    return [*_run(connection, min(rounds, ROUNDS)), *_count(connection, rounds), *_look_up(connection)]


def _run(connection: Connection, rounds: int) -> list[Result]:
    source, plain, ours = "rule_source", "rule_plain", "rule_ours"
    create(connection, source, plain, ours)
    fill(connection, source, 1, ROWS)
    protect(connection, plain)
    protect(connection, ours)
    connection.execute(BY_HAND)
    connection.execute(f"grant select, delete on {ours} to rule_role".encode())
    connection.execute("select * from grace.add_filter('half', 'rule_ours', %s)", [GOING])
    connection.execute("select grace.add_rule('half', 'half', run_as => 'rule_role', max_fraction => 1)")
    growth: list[float] = []

    def ruled() -> None:
        with _Memory(connection) as memory:
            connection.execute("call grace.run('half')")
        growth.append(memory.growth)

    medians = interleaved(
        connection,
        [
            Variant(
                "batches by hand",
                lambda: _refill(connection, plain, source),
                lambda: _call(connection, "delete_by_hand()"),
            ),
            Variant("rule", lambda: _refill(connection, ours, source), ruled),
        ],
        rounds,
    )
    for table in (plain, ours):
        assert execute(connection, "select from {table}", table=f"grace_buffer.{table}") == ROWS // 2
    return [
        *compare("1,000,000 of 2,000,000 rows in batches of 1,000", medians, {"rule": RUN_LIMIT}),
        Result("the same, memory", "what the session takes more at its end than after a quarter", max(growth), "kB"),
    ]


def _call(connection: Connection, procedure: str) -> None:
    connection.execute(f"call {procedure}".encode())


def _refill(connection: Connection, table: str, source: str) -> None:
    execute(connection, "truncate {buffer}", buffer=f"grace_buffer.{table}")
    execute(
        connection,
        "insert into {table} select * from {source} s where not exists (select from {table} t where t.id = s.id)",
        table=table,
        source=source,
    )
    vacuum(connection, table)


class _Memory:
    """How much memory of its own a server process takes, while something runs in it; in kB."""

    def __init__(self, connection: Connection) -> None:
        self._status = Path(f"/proc/{connection.info.backend_pid}/status")
        self._ended = threading.Event()
        self._samples: list[int] = []
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        return max(self._samples) - self._samples[len(self._samples) // 4]

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            line = next(line for line in self._status.read_text().splitlines() if line.startswith("RssAnon"))
            self._samples.append(int(line.split()[1]))


def _count(connection: Connection, rounds: int) -> list[Result]:
    connection.execute("select * from grace.add_filter('count', 'rule_source', %s)", [GOING])
    medians = interleaved(
        connection,
        [
            Variant(
                "SELECT count(*)",
                lambda: None,
                lambda: _call_query(connection, f"select count(*) from rule_source where {GOING}"),
            ),
            Variant(
                "preview",
                lambda: None,
                lambda: _call_query(
                    connection, "select * from grace.preview(filter => 'count', sample => 0, details => false)"
                ),
            ),
        ],
        rounds,
    )
    return compare("counting 1,000,000 of 2,000,000 rows", medians, {"preview": COUNT_LIMIT})


def _call_query(connection: Connection, query: str) -> None:
    connection.execute(query.encode()).fetchall()


def _look_up(connection: Connection) -> list[Result]:
    """Look up when one of 1,000,000 records goes, that has mails and calls."""
    connection.execute(
        f"""
        create table record (
          id bigint primary key, name text, created_at timestamptz not null, converted boolean not null
        );
        create table mail (
          id bigint primary key, record_id bigint references record on delete cascade, sent_at timestamptz
        );
        create table call (
          id bigint primary key, record_id bigint references record on delete cascade, at timestamptz
        );
        insert into record
        select n, 'record ' || n, now() - interval '3 years', n % 10 = 0 from generate_series(1, {RECORDS}) n;
        insert into mail
        select n, 1 + n % {RECORDS}, now() - make_interval(days => n % 900) from generate_series(1, {MAILS}) n;
        insert into call
        select n, 1 + n % {RECORDS}, now() - make_interval(days => n % 700) from generate_series(1, {CALLS}) n;
        grant select, update, delete on record, mail, call to rule_role;
        """.encode()
    )
    protect(connection, "record")
    connection.execute(
        "select grace.add_rule('record', target => 'record', predicate => 'not converted', starts => 'created_at',"
        " activities => '{mail.sent_at via record_id, call.at via record_id}', period => '12 months',"
        " schedule => '0 3 1 * *', run_as => 'rule_role')"
    )
    for wanted in connection.execute("select hint from grace.doctor() where hint like 'create index%'").fetchall():
        connection.execute(wanted["hint"].encode())
    connection.execute("vacuum analyze record, mail, call")
    times = []
    for number in range(LOOKUPS):
        start = time.perf_counter()
        row = connection.execute(
            "select * from grace.planned('record', to_jsonb(%s::bigint))", [1 + number * 3001 % RECORDS], prepare=True
        )
        row.fetchall()
        times.append(time.perf_counter() - start)
    return [
        Result(
            "what is planned for one of 1,000,000 records with 5,000,000 activities",
            "grace.planned()",
            statistics.median(times[20:]) * 1e3,
            "ms",
            limit=LOOKUP_LIMIT,
            limit_text=f"{LOOKUP_LIMIT:g} ms",
        )
    ]
