"""Schedules: what pg_cron takes is read as it reads it, the next times and the last one are right, and so are the words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from pg_grace import migrate
from pg_grace.connection import Connection, Target, connect
from tests.conftest import Database, _new_database, rows, value
from tests.server import Server

_EXAMPLES = 500 if os.environ.get("PG_GRACE_HYPOTHESIS", "").startswith("long") else 60
_PROFILE = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def house(server: Server, template: str) -> Iterator[Database]:
    """One database for all tests of this file: nothing is changed in it."""
    with _new_database(server, template) as database:
        yield database


@pytest.fixture(scope="module")
def conn(house: Database) -> Connection:
    connection = house.connect()
    connection.execute("set timezone = 'UTC'")
    return connection


def refused(conn: Connection, schedule: str | None) -> str:
    """Read what must be refused with GR024, a DETAIL and a HINT, by every function alike; return the DETAIL."""
    quoted = value(conn, "select coalesce(quote_literal(%s), 'null')", schedule)
    details = set()
    for call in (
        "grace_internal.read_schedule(%s)",
        "grace.schedule_times(%s)",
        "grace_internal.last_scheduled(%s, now(), now() - interval '1 day')",
        "grace.schedule_in_words(%s)",
    ):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select {call}".encode(), (schedule,))
        diagnostic = caught.value.diag
        assert diagnostic.sqlstate == "GR024", caught.value
        assert diagnostic.message_primary == f"not a schedule: {quoted}"
        assert diagnostic.message_hint
        details.add(diagnostic.message_detail)
    (detail,) = details
    assert detail
    return detail


def times(conn: Connection, schedule: str, after: Any, count: int = 3, zone: str | None = "GMT") -> list[datetime]:
    return [
        moment
        for (moment,) in rows(
            conn, "select grace.schedule_times(%s, %s, %s::timestamptz, %s)", schedule, count, after, zone
        )
    ]


def said(conn: Connection, schedule: str, after: str, count: int = 3, zone: str = "GMT") -> list[str]:
    """Return the next times as the clock of the zone shows them, with its offset."""
    return [
        f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M%z}" for moment in times(conn, schedule, after, count, zone)
    ]


def last(conn: Connection, schedule: str, before: Any, not_before: Any, zone: str | None = "GMT") -> datetime | None:
    found: datetime | None = value(
        conn,
        "select grace_internal.last_scheduled(%s, %s::timestamptz, %s::timestamptz, %s)",
        schedule,
        before,
        not_before,
        zone,
    )
    return found


# --- What is a schedule -----------------------------------------------------------------------------------------------

VALID = [
    "* * * * *", "5 0 * * *", "*/15 * * * *", "1-10/3 * * * *", "0-59/7 0-23/5 1-31/9 1-12/4 0-7/2", "0,30 6,18 1,15 1,7 1,5",
    "*/60 * * * *", "*/100 * * * *", "*,5 * * * *", "5,* * * * *", "5-5 * * * *", "1,1,1 * * * *", "005 00 01 01 0",
    "0 0 * jan-dec/3 SUN", "0 0 * jan,Feb,MAR *", "0 0 * 2-apr *", "0 0 * * mon-fri", "0 0 * * sun-sat", "0 0 * * fri-7",
    "0 0 * * 7", "0 0 * * 0-7", "0 0 * * */7", "0 0 1 * */2", "0 0 */2 * 1", "0 0 13 * 5", "0 0 1-31 * mon",
    "0 0 29 2 *", "0 0 29 2 */7", "0 0 31 1-2 *", "0 0 31 2 1", "0 0 30 2,4 *", " 0 0 * * *", "\t0\t0 *  * *", "0 0 * * * ",
    "\n0 0 * * *", " \n\n 0 0 * * *", "0 0 * * *\n", "0 0 * * *\n\n", "0 0 * * " + "1," * 400 + "1", "0 0 * * *" + " " * 990,
    "@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually", " @daily", "@daily\n",
]  # fmt: skip
INVALID: dict[str, str] = {
    "": "It is empty.",
    "   ": "It is empty.",
    "every day": "It has 2 fields and needs five",
    "0 0 * *": "It has 4 fields and needs five: minute, hour, day of month, month, day of week.",
    "0": "It has 1 field and needs five",
    "0 0\n* * *": "It has 4 fields",
    "60 * * * *": "The minute is '60': 60 is not between 0 and 59.",
    "-5 * * * *": "The minute is '-5': '-5' is no number, range or *.",
    "+5 * * * *": "The minute is '+5'",
    "0x5 * * * *": "The minute is '0x5': '0x5' is no number.",
    "1e1 * * * *": "The minute",
    "99999999999 * * * *": "The minute is '99999999999': 99999999999 is not between 0 and 59.",
    "٣ * * * *": "The minute",
    "ü * * * *": "The minute",
    "5/3 * * * *": "The minute is '5/3': in '5/3' a step follows a single value; it needs a range (5-59/3).",
    "*/0 * * * *": "The minute is '*/0': the step in '*/0' is 0.",
    "*/ * * * *": "The minute",
    "5- * * * *": "The minute",
    "5-10/ * * * *": "The minute",
    "5-10/x * * * *": "The minute",
    "5-70 * * * *": "The minute is '5-70': 70 is not between 0 and 59.",
    "1,,2 * * * *": "The minute is '1,,2': before and behind a comma there must be something.",
    ",1 * * * *": "The minute",
    "1, * * * *": "The minute",
    "1 , 2 * * * *": "It has 7 fields",
    "0 24 * * *": "The hour is '24': 24 is not between 0 and 23.",
    "H H * * *": "The minute",
    "0 0 0 * *": "The day of month is '0': 0 is not between 1 and 31.",
    "0 0 32 * *": "The day of month",
    "0 0 ? * *": "The day of month",
    "0 0 L * *": "The day of month is 'L': 'L' is no number.",
    "0 0 15W * *": "The day of month",
    "0 0 jan * *": "The day of month",
    "0 0 1,$ * *": "The day of month is '1,$': $, the last day of the month, stands alone.",
    "0 0 $/2 * *": "The day of month is '$/2': $, the last day of the month, stands alone.",
    "0 0 * $ *": "The month",
    "0 0 * 0 *": "The month is '0': 0 is not between 1 and 12.",
    "0 0 * 13 *": "The month",
    "0 0 * January *": "The month is 'January': 'January' is neither a number nor one of jan, feb, mar,",
    "0 0 * mon *": "The month",
    "0 0 * * jan": "The day of week",
    "0 0 * * 8": "The day of week is '8': 8 is not between 0 and 7.",
    "0 0 * * monday": "The day of week is 'monday': 'monday' is neither a number nor one of sun, mon, tue,",
    "0 0 * * mon/2": "The day of week",
    "0 0 * * 5L": "The day of week",
    "'0 0 * * *'": "The minute",
    "@": "Of words there are @hourly,",
    "@DAILY": "Of words there are @hourly,",
    "@ daily": "Of words there are @hourly,",
    "@fortnightly": "Of words there are @hourly,",
    "0 0 * * " + "1," * 600 + "1": "It is longer than 999 bytes",
    "0 0 * * *" + " " * 991: "It is longer than 999 bytes",
}
# pg_cron takes these, and ignores what it does not understand, never runs the job, or runs it at other times than everyone would think.
REFUSED_BY_US: dict[str, str] = {
    "@reboot": "Of words there are @hourly,",
    "@restart": "Of words there are @hourly,",
    "@daily at noon": "Of words there are @hourly,",
    "0 0 * * * *": "It has 6 fields",
    "0 0 * * * call": "It has 6 fields",
    "5.5 * * * *": "The minute is '5.5': '5.5' is no number, range or *.",
    "1;2 * * * *": "The minute",
    "*foo * * * *": "The minute",
    "** * * * *": "The minute",
    "*-5 * * * *": "The minute",
    "*ü * * * *": "The minute",
    "1-5-7 * * * *": "The minute",
    "*/15/3 * * * *": "The minute",
    "4294967296 * * * *": "The minute",
    "5-6/99999999999 * * * *": "The minute is '5-6/99999999999': the step in '5-6/99999999999' is too large.",
    "0 0 *$ * *": "The day of month",
    "0 0 * * 1#2": "The day of week",
    "0 0 * * *\r": "The day of week",
    "10-5 * * * *": "The minute is '10-5': '10-5' ends before it begins.",
    "1,10-5 * * * *": "The minute",
    "0 0 * * sat-sun": "The day of week is 'sat-sun': 'sat-sun' ends before it begins.",
    "0 0 31 2 *": "The day of month is '31': it never comes in the month '2'.",
    "0 0 30,31 feb *": "The day of month is '30,31': it never comes in the month 'feb'.",
    "0 0 31 4,6,9,11 *": "The day of month",
}
# Newer versions of pg_cron know these.
BY_VERSION = {"30 seconds": False, "1 second": False, "0 0 $ * *": True, "0 0 $ 2 */2": True, "0 0 $ * mon": True}


@pytest.fixture(scope="module")
def cron(server: Server) -> Iterator[Connection]:
    """A session in the database where pg_cron runs; nothing of what it does is kept."""
    with psycopg.connect(server.conninfo("postgres"), row_factory=dict_row) as connection:
        try:
            connection.execute("create extension if not exists pg_cron")
        except psycopg.Error:
            pytest.skip("pg_cron is not here")
        yield connection
        connection.rollback()


def error_of(conn: Connection, query: str, *values: Any) -> psycopg.Error | None:
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(query.encode(), values)
    except psycopg.Error as error:
        return error
    return None


def pg_cron_takes(cron: Connection, schedule: str) -> bool:
    error = error_of(cron, "select cron.schedule('a test of schedules', %s, 'select 1')", schedule)
    assert error is None or "invalid schedule" in str(error), error
    return error is None


def we_take(conn: Connection, schedule: str) -> bool:
    error = error_of(conn, "select grace_internal.read_schedule(%s)", schedule)
    assert error is None or error.sqlstate == "GR024", error
    return error is None


@pytest.mark.parametrize("schedule", VALID)
def test_what_pg_cron_takes_is_taken(conn: Connection, cron: Connection, schedule: str) -> None:
    assert pg_cron_takes(cron, schedule)
    assert we_take(conn, schedule)


@pytest.mark.parametrize("schedule", INVALID)
def test_what_pg_cron_refuses_is_refused(conn: Connection, cron: Connection, schedule: str) -> None:
    assert not pg_cron_takes(cron, schedule)
    assert refused(conn, schedule).startswith(INVALID[schedule])


@pytest.mark.parametrize("schedule", REFUSED_BY_US)
def test_what_pg_cron_takes_for_something_else_is_refused(conn: Connection, cron: Connection, schedule: str) -> None:
    assert pg_cron_takes(cron, schedule)
    assert refused(conn, schedule).startswith(REFUSED_BY_US[schedule])


@pytest.mark.parametrize("schedule", BY_VERSION)
def test_of_what_newer_versions_take_only_the_last_day_is_taken(conn: Connection, schedule: str) -> None:
    assert we_take(conn, schedule) == BY_VERSION[schedule]


def test_null_is_no_schedule(conn: Connection) -> None:
    assert refused(conn, None) == "It is null."


_pieces = st.sampled_from(
    [
        "*",
        "0",
        "1",
        "5",
        "7",
        "12",
        "23",
        "31",
        "59",
        "60",
        "-",
        "/",
        ",",
        "jan",
        "Sun",
        "x",
        ".",
        "@daily",
        "ü",
        " ",
        "\t",
        "\n",
    ]
)


@_PROFILE
@given(st.one_of(
    st.lists(_pieces, max_size=20).map("".join),
    st.lists(st.lists(_pieces, min_size=1, max_size=4).map("".join), min_size=4, max_size=6).map(" ".join),
))  # fmt: skip
def test_nothing_is_taken_that_pg_cron_refuses(conn: Connection, cron: Connection, schedule: str) -> None:
    assert not we_take(conn, schedule) or pg_cron_takes(cron, schedule)


def read(conn: Connection, schedule: str) -> tuple[Any, ...]:
    (found,) = rows(conn, "select * from grace_internal.read_schedule(%s)", schedule)
    return found


def test_what_is_read(conn: Connection) -> None:
    hours, days, months, weekdays = list(range(24)), list(range(1, 32)), list(range(1, 13)), list(range(7))
    assert read(conn, "*/20 1-10/3 * * *") == ([0, 20, 40], [1, 4, 7, 10], days, False, months, weekdays, False)
    assert read(conn, "5,1,5 * 1-3,2-5 jan,3 7,1") == ([1, 5], hours, [1, 2, 3, 4, 5], False, [1, 3], [0, 1], True)
    assert read(conn, "0 0 $ * 5-7") == ([0], [0], [], True, months, [0, 5, 6], True)
    assert read(conn, "0 0 $ * *")[6] is False
    assert read(conn, "0 0 1-31 * 1")[6] is True
    assert read(conn, "0 0 */2 * 1")[6] is False
    assert read(conn, "0 0 1,* * 1")[6] is True
    assert read(conn, "0 0 2 * *,1")[6] is False
    for word, fields in {
        "@hourly": "0 * * * *",
        "@daily": "0 0 * * *",
        "@midnight": "0 0 * * *",
        "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *",
        "@yearly": "0 0 1 1 *",
        "@annually": "0 0 1 1 *",
    }.items():
        assert read(conn, word) == read(conn, fields)


# --- Times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("5 0 * * *", "2026-11-22 00:05Z", ["2026-11-23 00:05", "2026-11-24 00:05", "2026-11-25 00:05"]),
        ("5 0 * * *", "2026-11-22 00:04:59.999999Z", ["2026-11-22 00:05", "2026-11-23 00:05", "2026-11-24 00:05"]),
        ("*/20 * * * *", "2026-12-31 23:30Z", ["2026-12-31 23:40", "2027-01-01 00:00", "2027-01-01 00:20"]),
        ("0 0 29 2 *", "2096-02-29 00:00Z", ["2104-02-29 00:00", "2108-02-29 00:00", "2112-02-29 00:00"]),
        ("0 0 29 2 */7", "2060-03-01 00:00Z", ["2088-02-29 00:00", "2128-02-29 00:00", "2156-02-29 00:00"]),
        ("0 3 31 * *", "2026-01-31 03:00Z", ["2026-03-31 03:00", "2026-05-31 03:00", "2026-07-31 03:00"]),
        ("0 3 30,31 * *", "2026-01-31 03:00Z", ["2026-03-30 03:00", "2026-03-31 03:00", "2026-04-30 03:00"]),
        ("0 3 $ * *", "2027-12-31 03:00Z", ["2028-01-31 03:00", "2028-02-29 03:00", "2028-03-31 03:00"]),
        ("0 3 $ 2,4 *", "2026-01-01 00:00Z", ["2026-02-28 03:00", "2026-04-30 03:00", "2027-02-28 03:00"]),
        ("0 0 $ * mon", "2026-11-22 00:00Z", ["2026-11-23 00:00", "2026-11-30 00:00", "2026-12-07 00:00"]),
        ("0 0 13 * 5", "2026-11-07 00:00Z", ["2026-11-13 00:00", "2026-11-20 00:00", "2026-11-27 00:00"]),
        ("0 0 14 * 5", "2026-11-07 00:00Z", ["2026-11-13 00:00", "2026-11-14 00:00", "2026-11-20 00:00"]),
        ("0 0 */2 * 5", "2026-11-01 00:00Z", ["2026-11-13 00:00", "2026-11-27 00:00", "2026-12-11 00:00"]),
        ("0 0 31 2 1", "2026-11-22 00:00Z", ["2027-02-01 00:00", "2027-02-08 00:00", "2027-02-15 00:00"]),
        ("@yearly", "2026-11-22 00:00Z", ["2027-01-01 00:00", "2028-01-01 00:00", "2029-01-01 00:00"]),
        ("0 0 * * 7", "2026-11-22 00:00Z", ["2026-11-29 00:00", "2026-12-06 00:00", "2026-12-13 00:00"]),
    ],
)
def test_next_times(conn: Connection, schedule: str, after: str, expected: list[str]) -> None:
    assert said(conn, schedule, after) == [f"{moment}+0000" for moment in expected]


@pytest.mark.parametrize(
    ("zone", "schedule", "after", "expected"),
    [
        # The clock goes from 02:00 to 03:00.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28 00:00Z",
         ["2026-03-28 02:30+0100", "2026-03-29 03:00+0200", "2026-03-30 02:30+0200"]),
        ("Europe/Berlin", "0,30 2,3 * * *", "2026-03-28 12:00Z",
         ["2026-03-29 03:00+0200", "2026-03-29 03:30+0200", "2026-03-30 02:00+0200"]),
        ("Europe/Berlin", "30 * * * *", "2026-03-29 00:00Z",
         ["2026-03-29 01:30+0100", "2026-03-29 03:30+0200", "2026-03-29 04:30+0200"]),
        ("Europe/Berlin", "30 2 29 3 *", "2026-01-01 00:00Z",
         ["2026-03-29 03:00+0200", "2027-03-29 02:30+0200", "2028-03-29 02:30+0200"]),
        ("America/New_York", "30 2 * * *", "2026-03-07 12:00Z",
         ["2026-03-08 03:00-0400", "2026-03-09 02:30-0400", "2026-03-10 02:30-0400"]),
        # The clock goes from 03:00 to 02:00.
        ("Europe/Berlin", "30 2 * * *", "2026-10-24 12:00Z",
         ["2026-10-25 02:30+0200", "2026-10-26 02:30+0100", "2026-10-27 02:30+0100"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25 01:00Z",
         ["2026-10-26 02:30+0100", "2026-10-27 02:30+0100", "2026-10-28 02:30+0100"]),
        ("Europe/Berlin", "30 * * * *", "2026-10-25 00:00Z",
         ["2026-10-25 02:30+0200", "2026-10-25 02:30+0100", "2026-10-25 03:30+0100"]),
        ("America/New_York", "30 1 * * *", "2026-10-31 12:00Z",
         ["2026-11-01 01:30-0400", "2026-11-02 01:30-0500", "2026-11-03 01:30-0500"]),
        ("America/New_York", "*/30 * * * *", "2026-11-01 05:15Z",
         ["2026-11-01 01:30-0400", "2026-11-01 01:00-0500", "2026-11-01 01:30-0500"]),
        # A clock that is changed by half an hour, one that has its change at midnight, and a day that never was.
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03 00:00Z",
         ["2026-10-04 02:30+1100", "2026-10-05 02:15+1100", "2026-10-06 02:15+1100"]),
        ("America/Havana", "0 0 * * *", "2026-03-07 12:00Z",
         ["2026-03-08 01:00-0400", "2026-03-09 00:00-0400", "2026-03-10 00:00-0400"]),
        ("Pacific/Apia", "0 12 * * *", "2011-12-29 00:00Z",
         ["2011-12-29 12:00-1000", "2011-12-31 00:00+1400", "2011-12-31 12:00+1400"]),
    ],
)  # fmt: skip
def test_next_times_when_the_clock_is_changed(
    conn: Connection, zone: str, schedule: str, after: str, expected: list[str]
) -> None:
    assert said(conn, schedule, after, zone=zone) == expected
    moments = times(conn, schedule, after, zone=zone)
    for earlier, later in zip([datetime.fromisoformat(after), *moments], moments, strict=False):
        assert last(conn, schedule, later, earlier, zone) == later
        assert last(conn, schedule, later - timedelta(microseconds=1), earlier, zone) is None


def test_the_zone_is_pg_crons(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        # It is no setting of this server's unless pg_cron, from 1.5 on, has made it one.
        conn.execute("set local \"cron.timezone\" = 'Asia/Tokyo'")
        conn.execute("set local timezone = 'Europe/Berlin'")
        assert value(conn, "select grace_internal.schedule_zone()") == "GMT"
        assert times(conn, "5 0 * * *", "2026-11-22 00:00Z", 1, None) == [datetime(2026, 11, 22, 0, 5, tzinfo=UTC)]
        assert last(conn, "5 0 * * *", "2026-11-22 12:00Z", "-infinity", None) == datetime(
            2026, 11, 22, 0, 5, tzinfo=UTC
        )


def test_without_more_the_next_three_times_from_now(conn: Connection) -> None:
    found = [moment for (moment,) in rows(conn, "select grace.schedule_times('* * * * *')")]
    now = value(conn, "select date_trunc('minute', clock_timestamp())")
    assert found in ([now + MINUTE * n for n in (1, 2, 3)], [now + MINUTE * n for n in (0, 1, 2)])
    assert times(conn, "* * * * *", "2026-11-22 00:00Z", 0) == []


@pytest.mark.parametrize(
    "call",
    [
        "'@daily', count => -1", "'@daily', count => null", "'@daily', after => null", "'@daily', after => 'infinity'",
        "'@daily', after => '-infinity'", "'@daily', zone => 'Nowhere/Land'",
    ],
)  # fmt: skip
def test_what_can_not_be_counted(conn: Connection, call: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(f"select grace.schedule_times({call})".encode())
    assert caught.value.sqlstate == "22023"


def test_the_last_time(conn: Connection) -> None:
    leap = datetime(2096, 2, 29, tzinfo=UTC)
    assert last(conn, "0 0 29 2 *", "2104-02-28 23:59Z", "2001-01-01 00:00Z") == leap
    assert last(conn, "0 0 29 2 *", "2104-02-28 23:59Z", "-infinity") == leap
    assert last(conn, "0 0 29 2 *", leap, "-infinity") == leap
    assert last(conn, "0 0 29 2 *", "2104-02-28 23:59Z", leap) is None
    assert last(conn, "0 0 29 2 *", "2001-01-01 00:00Z", "2104-02-28 23:59Z") is None
    assert last(conn, "@daily", leap, "infinity") is None
    assert last(conn, "@daily", None, leap) is None
    assert last(conn, "@daily", leap, None) is None
    with pytest.raises(psycopg.Error) as caught:
        last(conn, "@daily", "infinity", leap)
    assert caught.value.sqlstate == "22023"


def test_sparse_schedules_and_long_times_take_no_time(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("set local statement_timeout = '2s'")
        assert len(times(conn, "0 0 29 2 */7", "1950-01-01 00:00Z", 20)) == 20
        assert last(conn, "0 0 29 2 */7", "2128-02-28 00:00Z", "1000-01-01 00:00Z") == datetime(2088, 2, 29, tzinfo=UTC)
        assert last(conn, "@hourly", "2126-11-22 00:30Z", "1000-01-01 00:00Z") == datetime(2126, 11, 22, tzinfo=UTC)
        assert len(times(conn, "* * * * *", "2026-11-22 00:00Z", 20_000)) == 20_000


@dataclass(frozen=True)
class Schedule:
    """What a schedule says, known from how it was made up and not by reading it."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    last_day: bool

    def has_day(self, day: date) -> bool:
        by_month = day.day in self.days or (self.last_day and (day + DAY).day == 1)
        by_week = day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (by_month or by_week if self.either_day else by_month and by_week)

    def has_minute(self, clock: datetime) -> bool:
        return clock.minute in self.minutes and clock.hour in self.hours and self.has_day(clock.date())

    def ever_comes(self) -> bool:
        return any(self.has_day(date(2000, 1, 1) + DAY * n) for n in range(366 * 28))


@st.composite
def fields(draw: Any, low: int, high: int, names: tuple[str, ...] = ()) -> tuple[str, frozenset[int]]:
    """Make up a field, with the numbers that it stands for."""

    def number(n: int) -> str:
        spellings = [str(n), f"0{n}"]
        if n - low < len(names):
            spellings += [names[n - low], names[n - low].upper()]
        return str(draw(st.sampled_from(spellings)))

    items, numbers = [], set()
    for kind in draw(st.lists(st.sampled_from(["star", "star", "one", "one", "one", "range"]), min_size=1, max_size=3)):
        first, end = low, high
        if kind != "star":
            first, end = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
        if kind == "one":
            items.append(number(first))
            numbers.add(first)
            continue
        # Beside the last number of the week sun is 0.
        text = "*" if kind == "star" else f"{number(first)}-{end}"
        step = draw(st.sampled_from([1, 1, 2, 3, 7, 25]))
        items.append(text if step == 1 else f"{text}/{step}")
        numbers.update(range(first, end + 1, step))
    return ",".join(items), frozenset(numbers)


_months = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_weekdays = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@st.composite
def schedules(draw: Any) -> Schedule:
    minute, minutes = draw(fields(0, 59))
    hour, hours = draw(fields(0, 23))
    day, days = draw(
        st.one_of(fields(1, 31), fields(1, 31), st.just(("*", frozenset(range(1, 32)))), st.just(("$", frozenset())))
    )
    month, months = draw(st.one_of(fields(1, 12, _months), st.just(("*", frozenset(range(1, 13))))))
    weekday, weekdays = draw(st.one_of(fields(0, 7, _weekdays), st.just(("*", frozenset(range(8))))))
    return Schedule(
        " ".join((minute, hour, day, month, weekday)), minutes, hours, days, months, frozenset(n % 7 for n in weekdays),
        not day.startswith("*") and not weekday.startswith("*"), day == "$",
    )  # fmt: skip


def minutes_from(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    """Give all minutes of a schedule in GMT from start on and before the end."""
    minute = start
    while minute < end:
        if not schedule.has_day(minute.date()):
            minute = minute.replace(hour=0, minute=0) + DAY
            continue
        if schedule.has_minute(minute):
            yield minute
        minute += MINUTE


_starts = st.integers(0, 60 * 24 * 366 * 12).map(lambda n: datetime(2023, 1, 1, tzinfo=UTC) + MINUTE * n)


@_PROFILE
@given(schedule=schedules(), start=_starts, days=st.integers(1, 400))
@example(
    Schedule(
        "0 0 29 2 *", frozenset([0]), frozenset([0]), frozenset([29]), frozenset([2]), frozenset(range(7)), False, False
    ),
    datetime(2027, 3, 1, tzinfo=UTC),
    400,
)
def test_all_times_are_those_of_a_loop_over_minutes(
    conn: Connection, schedule: Schedule, start: datetime, days: int
) -> None:
    if not schedule.ever_comes():
        assert not we_take(conn, schedule.text)
        return
    assert rows(conn, "select either_day, last_day from grace_internal.read_schedule(%s)", schedule.text) == [
        (schedule.either_day, schedule.last_day)
    ]
    end = start + DAY * days
    every = list(minutes_from(schedule, start + MINUTE, end + MINUTE))
    expected = every[:50]
    found = times(conn, schedule.text, start, len(expected) + 1)
    assert found[:-1] == expected
    assert found[-1] == every[50] if len(every) > 50 else found[-1] > end
    for earlier, later in zip([start, *expected], expected, strict=False):
        assert last(conn, schedule.text, later, earlier) == later
        assert last(conn, schedule.text, later - timedelta(microseconds=1), earlier) is None
    assert last(conn, schedule.text, end, start) == (every[-1] if every else None)


_CHANGES = [
    ("Europe/Berlin", "2026-03-29"), ("Europe/Berlin", "2026-10-25"), ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"), ("Australia/Lord_Howe", "2026-04-05"), ("Australia/Lord_Howe", "2026-10-04"),
    ("America/Havana", "2026-03-08"), ("America/Havana", "2026-11-01"), ("Asia/Beirut", "2026-03-29"),
    ("Pacific/Apia", "2011-12-30"), ("Asia/Kathmandu", "1986-01-01"),
]  # fmt: skip


@_PROFILE
@given(schedule=schedules(), change=st.sampled_from(_CHANGES))
def test_all_times_around_a_change_of_the_clock_are_those_of_a_loop_over_minutes(
    conn: Connection, schedule: Schedule, change: tuple[str, str]
) -> None:
    assume(schedule.ever_comes())
    zone = ZoneInfo(change[0])
    noon = datetime.fromisoformat(f"{change[1]} 12:00Z")
    # What the clock shows at each minute that passes.
    passing = [noon + MINUTE * n for n in range(-3 * 1440, 3 * 1440)]
    shown = [(minute, minute.astimezone(zone).replace(tzinfo=None)) for minute in passing]
    start, end = noon - DAY * 2, noon + DAY * 2
    if len(schedule.hours) == 24:
        expected = {minute for minute, clock in shown if schedule.has_minute(clock)}
    else:
        expected, reached = set(), None
        for minute, clock in shown:
            # All that the clock comes to now and had not come to before, be it in one jump.
            while reached is not None and reached < clock:
                reached += MINUTE
                if schedule.has_minute(reached):
                    expected.add(minute)
            reached = max(reached or clock, clock)
    expected = {minute for minute in expected if start < minute <= end}
    found = times(conn, schedule.text, start, len(expected) + 1, change[0])
    assert found[:-1] == sorted(expected)
    assert found[-1] > end
    for before in (start + DAY, noon, end):
        assert last(conn, schedule.text, before, start, change[0]) == max(
            (m for m in expected if m <= before), default=None
        )


# --- Words ------------------------------------------------------------------------------------------------------------

WORDS = {
    "* * * * *": "every minute",
    "*/15 * * * *": "every 15 minutes",
    "0,30 * * * *": "every 30 minutes",
    "5 * * * *": "at minute 5 of every hour",
    "*/60 * * * *": "at minute 0 of every hour",
    "*/25 * * * *": "at minutes 0, 25 and 50 of every hour",
    "1-5,30 * * * *": "at minutes 1 to 5 and 30 of every hour",
    "5-59/15 * * * *": "at minutes 5, 20, 35 and 50 of every hour",
    "5 0 * * *": "every day at 00:05",
    "0 6,18 * * *": "every day at 06:00 and 18:00",
    "0 */6 * * *": "every day at 00:00, 06:00, 12:00 and 18:00",
    "0,30 6,18 * * *": "every day at 06:00, 06:30, 18:00 and 18:30",
    "0 */2 * * *": "every 2 hours from 00:00 to 22:00, every day",
    "15 9-17 * * 1-5": "every hour from 09:15 to 17:15, every Monday to Friday",
    "*/15 9-17 * * 1-5": "every 15 minutes from 09:00 to 17:45, every Monday to Friday",
    "* 2,4 * * *": "every minute from 02:00 to 02:59 and from 04:00 to 04:59, every day",
    "5,35 9-12,20 * * *": "at minutes 5 and 35 of hours 9 to 12 and 20, every day",
    "1-40 3 * * *": "at minutes 1 to 40 of hour 3, every day",
    "0 1,2,4,8,16,20,23 * * *": "at minute 0 of hours 1, 2, 4, 8, 16, 20 and 23, every day",
    "30 2 * * mon,fri": "at 02:30 every Monday and Friday",
    "0 0 * * 0,6": "at 00:00 every Saturday and Sunday",
    "0 0 * * 5-7": "at 00:00 every Friday to Sunday",
    "0 0 * * 0-6": "every day at 00:00",
    "0 3 1 * *": "at 03:00 on day 1 of every month",
    "0 3 1,15 * *": "at 03:00 on days 1 and 15 of every month",
    "0 3 1-7 * *": "at 03:00 on days 1 to 7 of every month",
    "0 3 31 * *": "at 03:00 on day 31 of every month that has it",
    "0 3 30,31 * *": "at 03:00 on days 30 and 31 of every month as far as there are such days",
    "0 3 $ * *": "at 03:00 on the last day of every month",
    "0 3 $ 2 *": "at 03:00 in February on the last day",
    "0 0 29 2 *": "at 00:00 in February on day 29 if there is such a day",
    "0 0 31 1,3 *": "at 00:00 in January and March on day 31",
    "0 6,18 1 1,7 *": "at 06:00 and 18:00 in January and July on day 1",
    "0 0 * 6-8 *": "every day from June to August at 00:00",
    "0 0 * 1,2 *": "every day in January and February at 00:00",
    "0 12 * jan sun": "at 12:00 in January every Sunday",
    "*/15 * * 1 *": "every 15 minutes, every day in January",
    "*/15 * 1 * *": "every 15 minutes, on day 1 of every month",
    "0 0 13 * 5": "at 00:00 on day 13 of every month or on any Friday",
    "0 0 1,15 3 1,3": "at 00:00 in March on days 1 and 15 or on any Monday or Wednesday",
    "0 0 $ * 5": "at 00:00 on the last day of every month or on any Friday",
    "0 0 1-31 * 1": "every day at 00:00",
    "0 0 2 * 0-6": "every day at 00:00",
    "0 0 */10 * 1": "at 00:00 on days 1, 11, 21 and 31 of every month if it is a Monday",
    "0 0 $ * */5": "at 00:00 on the last day of every month if it is a Friday or Sunday",
    "@hourly": "at minute 0 of every hour",
    "@daily": "every day at 00:00",
    "@weekly": "at 00:00 every Sunday",
    "@monthly": "at 00:00 on day 1 of every month",
    "@yearly": "at 00:00 in January on day 1",
}


@pytest.mark.parametrize("schedule", WORDS)
def test_words(conn: Connection, schedule: str) -> None:
    assert value(conn, "select grace.schedule_in_words(%s)", schedule) == WORDS[schedule]


@_PROFILE
@given(schedules(), schedules())
def test_the_same_words_are_the_same_times(conn: Connection, one: Schedule, other: Schedule) -> None:
    """Two schedules of the same words differ in no minute of some years."""
    assume(one.ever_comes() and other.ever_comes())
    words = [value(conn, "select grace.schedule_in_words(%s)", schedule.text) for schedule in (one, other)]
    assert all(words)
    same = (one.minutes, one.hours) == (other.minutes, other.hours) and all(
        one.has_day(day) == other.has_day(day) for day in (date(2000, 1, 1) + DAY * n for n in range(366 * 28))
    )
    assert same or words[0] != words[1]


@pytest.mark.parametrize("member_of", ["grace_admin", "grace_operator", "grace_auditor"])
def test_each_role_may_ask(house: Database, role: Any, member_of: str) -> None:
    name = role("reader")
    admin = house.connect()
    admin.execute(f"grant {member_of} to {name}".encode())
    reader = house.connect(user=name)
    assert value(reader, "select grace.schedule_in_words('@daily')") == "every day at 00:00"
    assert len(times(reader, "@daily", "2026-11-22 00:00Z", zone=None)) == 3
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select grace_internal.read_schedule('@daily')")
    reader.close()
    admin.close()


def test_a_database_may_have_any_name(server: Server) -> None:
    name = 'o\'k "per%s" we%ird'
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        try:
            with connect(Target(make_conninfo(server.dsn, dbname=name))) as connection:
                migrate.install(connection)
                for (statement,) in rows(
                    connection, "select s from grace_internal.cron_statements() s where s !~ 'pg_database'"
                ):
                    assert name.replace("'", "''") in statement
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
