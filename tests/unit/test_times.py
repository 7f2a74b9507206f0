"""Times as a person gives them: what they mean at a given now, what they leave open, and what is none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click
import pytest

from pg_grace import times
from pg_grace.connection import Connection, Target, connect
from pg_grace.errors import CommandError, Exit
from pg_grace.times import NotATimeError, Reading, parse, read_time, read_window
from tests.server import Server

FRIDAY = "2026-11-20 15:00+01"
BERLIN = "Europe/Berlin"
POSIX = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Connection]:
    with connect(Target(server.dsn)) as connection:
        yield connection


@pytest.fixture
def conn(session: Connection) -> Connection:
    """A session of which the tests change settings only."""
    session.execute("set timezone = 'UTC'")
    session.execute("set datestyle = 'ISO, MDY'")
    return session


def read(conn: Connection, text: str, now: str = FRIDAY, zone: str = BERLIN) -> Reading:
    conn.execute("select set_config('timezone', %s, false)", (zone,))
    return parse(conn, text, datetime.fromisoformat(now))


def moments(reading: Reading) -> list[str]:
    return [str(moment) for moment in reading.moments]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        # ISO 8601 and what else PostgreSQL reads
        ("2026-11-17 10:00", "2026-11-17 10:00:00+01:00"),
        ("2026-11-17T10:00:00.123456Z", "2026-11-17 11:00:00.123456+01:00"),
        ("2026-11-17 10:00-05:30", "2026-11-17 16:30:00+01:00"),
        ("2026-11-17 10:00 Europe/London", "2026-11-17 11:00:00+01:00"),
        ("2026-11-17 10:00 Europe/Berlin", "2026-11-17 10:00:00+01:00"),
        ("2026-07-17", "2026-07-17 00:00:00+02:00"),
        ("20261117T1015", "2026-11-17 10:15:00+01:00"),
        ("Tue, 17 Nov 2026 10:00:00 +0000", "2026-11-17 11:00:00+01:00"),
        ("nov 17, 2026 10:00 pm", "2026-11-17 22:00:00+01:00"),
        ("epoch", "1970-01-01 01:00:00+01:00"),
        ("now", "2026-11-20 15:00:00+01:00"),
        ("Today", "2026-11-20 00:00:00+01:00"),
        ("yesterday 10:00", "2026-11-19 10:00:00+01:00"),
        ("10:00 yesterday", "2026-11-19 10:00:00+01:00"),
        ("yesterday allballs", "2026-11-19 01:00:00+01:00"),
        ("tomorrow", "2026-11-21 00:00:00+01:00"),
        # ago
        ("2 hours ago", "2026-11-20 13:00:00+01:00"),
        ("2h30m ago", "2026-11-20 12:30:00+01:00"),
        ("1:30 ago", "2026-11-20 13:30:00+01:00"),
        ("1.5 hours ago", "2026-11-20 13:30:00+01:00"),
        ("10min ago", "2026-11-20 14:50:00+01:00"),
        (" about  an Hour ago ", "2026-11-20 14:00:00+01:00"),
        ("around ten minutes ago", "2026-11-20 14:50:00+01:00"),
        ("thirty-five minutes ago", "2026-11-20 14:25:00+01:00"),
        ("twenty five minutes ago", "2026-11-20 14:35:00+01:00"),
        ("sixteen seconds ago", "2026-11-20 14:59:44+01:00"),
        ("half an hour ago", "2026-11-20 14:30:00+01:00"),
        ("an hour and a half ago", "2026-11-20 13:30:00+01:00"),
        ("two and a half hours ago", "2026-11-20 12:30:00+01:00"),
        ("a week ago", "2026-11-13 15:00:00+01:00"),
        ("2 days and 3 hours ago", "2026-11-18 12:00:00+01:00"),
        ("2 days, 3 hours, and 1 minute ago", "2026-11-18 11:59:00+01:00"),
        ("a month ago", "2026-10-20 15:00:00+02:00"),
        ("2 days ago at 10:00", "2026-11-18 10:00:00+01:00"),
        # weekdays
        ("tuesday", "2026-11-17 00:00:00+01:00"),
        ("tuesday 10:00", "2026-11-17 10:00:00+01:00"),
        ("Last Tuesday, 10:00", "2026-11-17 10:00:00+01:00"),
        ("on thurs at 10:00:30.5", "2026-11-19 10:00:30.500000+01:00"),
        ("10:00 on sat", "2026-11-14 10:00:00+01:00"),
        ("last friday", "2026-11-13 00:00:00+01:00"),
        ("last friday 16:00", "2026-11-13 16:00:00+01:00"),
        ("friday 16:00", "2026-11-13 16:00:00+01:00"),  # today's is to come
        ("sunday 10:00 America/New_York", "2026-11-15 16:00:00+01:00"),
        # hours of which there is only one
        ("yesterday 22h", "2026-11-19 22:00:00+01:00"),
        ("yesterday at 15", "2026-11-19 15:00:00+01:00"),
        ("yesterday at 0", "2026-11-19 00:00:00+01:00"),
        ("yesterday around 10pm", "2026-11-19 22:00:00+01:00"),
        ("yesterday at ten p.m.", "2026-11-19 22:00:00+01:00"),
        ("yesterday 12 am", "2026-11-19 00:00:00+01:00"),
        ("yesterday at noon", "2026-11-19 12:00:00+01:00"),
        ("around  on 17 November 2026  10:00", "2026-11-17 10:00:00+01:00"),
        ("2026-11-17 ca. 10:00", "2026-11-17 10:00:00+01:00"),
        ("17 november 2026 around 22:00", "2026-11-17 22:00:00+01:00"),
        # days and months of which there is only one
        ("13/04/2026", "2026-04-13 00:00:00+02:00"),
        ("04/13/2026", "2026-04-13 00:00:00+02:00"),
        ("17.11.2026 10:00", "2026-11-17 10:00:00+01:00"),
        ("04/04/2026", "2026-04-04 00:00:00+02:00"),
        ("03/04/2026 friday", "2026-04-03 00:00:00+02:00"),  # a weekday settles it
    ],
)
@pytest.mark.parametrize("order", ["MDY", "DMY"])
def test_one_moment_and_no_doubt(conn: Connection, typed: str, expected: str, order: str) -> None:
    conn.execute(f"set datestyle = 'ISO, {order}'".encode())
    reading = read(conn, typed)
    assert (moments(reading), reading.doubts) == ([expected], ())


@pytest.mark.parametrize(
    ("typed", "expected", "doubts"),
    [
        ("10:00", ["2026-11-19 10:00:00+01:00", "2026-11-20 10:00:00+01:00"], [times.WHICH_DAY]),
        ("22:36", ["2026-11-19 22:36:00+01:00"], [times.WHICH_DAY]),
        ("ca. 10pm", ["2026-11-19 22:00:00+01:00"], [times.WHICH_DAY]),
        ("10:00 America/New_York", ["2026-11-19 16:00:00+01:00"], [times.WHICH_DAY]),
        ("10:00+01", ["2026-11-19 10:00:00+01:00", "2026-11-20 10:00:00+01:00"], [times.WHICH_DAY]),
        (
            "around ten",
            ["2026-11-19 10:00:00+01:00", "2026-11-19 22:00:00+01:00", "2026-11-20 10:00:00+01:00"],
            [times.WHICH_DAY, times.WHICH_HALF],
        ),
        (
            "last Tuesday around ten",
            ["2026-11-17 10:00:00+01:00", "2026-11-17 22:00:00+01:00"],
            [times.WHICH_HALF],
        ),
        ("ten on tuesday", ["2026-11-17 10:00:00+01:00", "2026-11-17 22:00:00+01:00"], [times.WHICH_HALF]),
        ("yesterday 9", ["2026-11-19 09:00:00+01:00", "2026-11-19 21:00:00+01:00"], [times.WHICH_HALF]),
        ("2026-11-17 at 9", ["2026-11-17 09:00:00+01:00", "2026-11-17 21:00:00+01:00"], [times.WHICH_HALF]),
        ("a week ago at ten o'clock", ["2026-11-13 10:00:00+01:00", "2026-11-13 22:00:00+01:00"], [times.WHICH_HALF]),
        ("today around ten", ["2026-11-20 10:00:00+01:00"], [times.WHICH_HALF]),
        ("tomorrow at 9", ["2026-11-21 09:00:00+01:00", "2026-11-21 21:00:00+01:00"], [times.WHICH_HALF]),
        (
            "yesterday at twelve",
            ["2026-11-19 00:00:00+01:00", "2026-11-19 12:00:00+01:00", "2026-11-20 00:00:00+01:00"],
            [times.WHICH_TWELVE],
        ),
        (
            "tuesday midnight",
            ["2026-11-17 00:00:00+01:00", "2026-11-18 00:00:00+01:00"],
            [times.WHICH_MIDNIGHT],
        ),
        ("friday 10:00", ["2026-11-13 10:00:00+01:00", "2026-11-20 10:00:00+01:00"], [times.WHICH_WEEK]),
        ("friday at 4", ["2026-11-13 04:00:00+01:00", "2026-11-13 16:00:00+01:00", "2026-11-20 04:00:00+01:00"], None),
        ("03/04/2026 10:00", ["2026-03-04 10:00:00+01:00", "2026-04-03 10:00:00+02:00"], [times.WHICH_ORDER]),
        ("3.4.2026", ["2026-03-04 00:00:00+01:00", "2026-04-03 00:00:00+02:00"], [times.WHICH_ORDER]),
        (
            "01-02-03 10:00+01",
            ["2001-02-03 10:00:00+01:00", "2003-01-02 10:00:00+01:00", "2003-02-01 10:00:00+01:00"],
            [times.WHICH_ORDER],
        ),
        ("2026-10-25 02:30", ["2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00"], [times.TWICE]),
        ("2026-10-25 02:30 Europe/Berlin", ["2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00"], [times.TWICE]),
        (
            "2026-11-01 01:30 America/New_York",
            ["2026-11-01 06:30:00+01:00", "2026-11-01 07:30:00+01:00"],
            [times.TWICE],
        ),
        ("2026-03-29 02:30", ["2026-03-29 01:30:00+01:00", "2026-03-29 03:30:00+02:00"], [times.NEVER]),
    ],
)
def test_what_is_left_open_has_every_moment_that_is_not_to_come(
    conn: Connection, typed: str, expected: list[str], doubts: list[str] | None
) -> None:
    reading = read(conn, typed)
    assert moments(reading) == expected
    assert list(reading.doubts) == (doubts or [times.WHICH_WEEK, times.WHICH_HALF])


@pytest.mark.parametrize(
    ("zone", "typed", "expected"),
    [
        (POSIX, "2026-10-25 02:30", ["2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00"]),
        (POSIX, "2026-03-29 02:30", ["2026-03-29 01:30:00+01:00", "2026-03-29 03:30:00+02:00"]),
        (POSIX, "2026-03-29 03:00", ["2026-03-29 03:00:00+02:00"]),
        (POSIX, "2026-10-25 03:00", ["2026-10-25 03:00:00+01:00"]),
        ("CET", "2026-10-25 02:30", ["2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00"]),
        ("America/Sao_Paulo", "2018-11-04 00:30", ["2018-11-03 23:30:00-03:00", "2018-11-04 01:30:00-02:00"]),
        ("America/Sao_Paulo", "2019-02-16 23:30", ["2019-02-16 23:30:00-02:00", "2019-02-16 23:30:00-03:00"]),
        ("America/Sao_Paulo", "2019-02-17", ["2019-02-17 00:00:00-03:00"]),
        ("Australia/Lord_Howe", "2026-04-05 01:45", ["2026-04-05 01:45:00+11:00", "2026-04-05 01:45:00+10:30"]),
        ("Australia/Lord_Howe", "2026-04-05 01:15", ["2026-04-05 01:15:00+11:00"]),
        ("Australia/Lord_Howe", "2026-10-04 02:15", ["2026-10-04 01:45:00+10:30", "2026-10-04 02:45:00+11:00"]),
        ("Pacific/Apia", "2011-12-30 12:00", ["2011-12-29 12:00:00-10:00", "2011-12-31 12:00:00+14:00"]),
        ("Europe/London", "2026-10-25 01:30", ["2026-10-25 01:30:00+01:00", "2026-10-25 01:30:00+00:00"]),
    ],
)
def test_the_clocks_changes_are_the_servers(conn: Connection, zone: str, typed: str, expected: list[str]) -> None:
    assert moments(read(conn, typed, zone=zone)) == expected


@pytest.mark.parametrize(
    ("zone", "typed", "expected"),
    [
        (BERLIN, "2026-10-25 02:30+01", "2026-10-25 02:30:00+01:00"),
        (BERLIN, "2026-10-25 02:30 CEST", "2026-10-25 02:30:00+02:00"),
        ("Europe/London", "2026-10-25 01:30Z", "2026-10-25 01:30:00+00:00"),
        ("Europe/London", "2026-10-25 01:30 GMT", "2026-10-25 01:30:00+00:00"),
        ("Europe/London", "2026-10-25 01:30+01", "2026-10-25 01:30:00+01:00"),
    ],
)
def test_an_offset_leaves_nothing_open(conn: Connection, zone: str, typed: str, expected: str) -> None:
    reading = read(conn, typed, zone=zone)
    assert (moments(reading), reading.doubts) == ([expected], ())


@pytest.mark.parametrize(
    ("now", "typed", "expected"),
    [
        ("2026-11-17 12:00+01", "last tuesday 10:00", ["2026-11-10 10:00:00+01:00"]),
        ("2026-11-17 12:00+01", "tuesday 10:00", ["2026-11-10 10:00:00+01:00", "2026-11-17 10:00:00+01:00"]),
        ("2026-11-17 09:00+01", "tuesday 10:00", ["2026-11-10 10:00:00+01:00"]),
        ("2026-11-18 00:00+01", "last tuesday 23:59", ["2026-11-17 23:59:00+01:00"]),
        ("2026-11-16 23:30+00", "today", ["2026-11-17 00:00:00+01:00"]),
        ("2026-10-25 03:10+01", "2:30", None),
        ("2026-10-25 02:40+02", "02:30", ["2026-10-24 02:30:00+02:00", "2026-10-25 02:30:00+02:00"]),
        ("2026-10-25 12:00+01", "12 hours ago", ["2026-10-25 01:00:00+02:00"]),
        ("2026-10-25 12:00+01", "a day ago", ["2026-10-24 12:00:00+02:00"]),
    ],
)
def test_relative_to_now(conn: Connection, now: str, typed: str, expected: list[str] | None) -> None:
    assert moments(read(conn, typed, now)) == (
        expected or ["2026-10-24 02:30:00+02:00", "2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00"]
    )


NONSENSE = [
    *("", " ", "nonsense", "nonsense ago", "ago", "5 ago", "2 hours 30 ago", "an ago", "half a half hour ago"),
    *("10 minutes", "infinity", "-infinity", "4000 BC", "2026-13-01", "25:00", "yesterday 25:00", "yesterday at 25"),
    *("this morning", "last night", "next tuesday", "last", "last 10:00", "on", "at", "around", "tuesday tuesday"),
    *("tuesday 10:00 wednesday", "monday 2026-11-17", "2026-11-17 monday", "yesterday 10:00 monday", "noon pm"),
    *("yesterday 0 pm", "yesterday 13 pm", "tuesday at ten past", "quarter past ten", "10:00 yesterday please"),
    *("99999999999 days ago", "999999999 days ago at 10:00", "99999999 years ago", "5000-01-01 BC", "a\0b", "\ud800"),
    *("10:00 noon", "now 10:00", "today tomorrow", "2 hours ago at 10:00", "a few hours ago", "10:00 mon tue"),
    *("today 10:00 Nowhere/Town", "x" * 201, "1" * 5000),
]


@pytest.mark.parametrize("typed", NONSENSE)
def test_what_is_not_understood_is_a_usage_error_with_examples(conn: Connection, typed: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        read_time(conn, "from", typed)
    message = caught.value.format_message()
    assert "--from" in message
    assert "yesterday 10:00" in message


def test_garbage_is_never_more_than_a_usage_error_or_a_question(conn: Connection) -> None:
    chance = random.Random(20261117)
    words = [
        *(
            "last",
            "tuesday",
            "sun",
            "around",
            "at",
            "on",
            "ca.",
            "ago",
            "and",
            "a",
            "an",
            "half",
            "ten",
            "twelve",
            "of",
        ),
        *(
            "10",
            "9",
            "0",
            "24",
            "31",
            "10:00",
            "23:59:60",
            "pm",
            "a.m.",
            "22h",
            "noon",
            "midnight",
            "today",
            "yesterday",
        ),
        *(
            "2026-11-17",
            "03/04/2026",
            "1.2.3",
            "nov",
            "2026",
            "+01",
            "-5:30",
            "Europe/Berlin",
            "CET",
            "z",
            "epoch",
            "now",
        ),
        *(
            "hours",
            "day",
            "weeks",
            "minute",
            "half an",
            "o'clock",
            "infinity",
            "BC",
            "T",
            ",",
            "-",
            "/",
            "'",
            "%s",
            "\\",
        ),
        *("\0", "\ud800", "é", "٣", "²", "１０", "\x1b[2J", "9" * 30, "²:00", "{}", "%(text)s", "\n", "\u2028", "--"),
    ]
    conn.execute("set timezone = 'Europe/Berlin'")
    for _ in range(1500):
        parts = chance.choices(words, k=chance.randint(1, 5))
        text = chance.choice((" ", " ", " ", "")).join(parts)
        try:
            moment = read_time(conn, "from", text)
        except click.BadParameter:
            continue
        except CommandError as error:
            assert error.exit_code == Exit.REFUSED  # noqa: PT017
            continue
        assert moment is not None
        assert moment.tzinfo is not None
    assert conn.info.transaction_status.name == "IDLE"
    row = conn.execute("select current_setting('timezone') as zone").fetchone()
    assert row == {"zone": "Europe/Berlin"}


@pytest.mark.parametrize("zone", [BERLIN, POSIX])
def test_the_moment_is_echoed_with_the_offset_of_the_session(
    conn: Connection, capsys: pytest.CaptureFixture[str], zone: str
) -> None:
    conn.execute("select set_config('timezone', %s, false)", (zone,))
    moment = read_time(conn, "from", "2026-11-17 10:00")
    assert moment == datetime(2026, 11, 17, 9, tzinfo=UTC)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"--from is 2026-11-17 10:00:00+01:00 ({zone})\n"


def test_no_time_is_no_selection(conn: Connection) -> None:
    assert read_time(conn, "from", None) is None
    assert read_window(conn, None, None, None) == (None, None)


def test_now_is_the_servers_unless_given(conn: Connection) -> None:
    before = conn.execute("select now() as now").fetchone()
    reading = parse(conn, "10 minutes ago")
    after = conn.execute("select now() as now").fetchone()
    assert before is not None
    assert after is not None
    assert before["now"] <= reading.moments[0] + timedelta(minutes=10) <= after["now"]


def test_nobody_to_ask_is_told_every_way_to_say_it(conn: Connection) -> None:
    conn.execute("set timezone = 'Europe/Berlin'")
    now = datetime.fromisoformat(FRIDAY)
    with pytest.raises(CommandError) as caught:
        read_time(conn, "since", "last tuesday around ten", now)
    assert caught.value.exit_code == Exit.REFUSED
    assert times.WHICH_HALF in caught.value.message
    ways = [line.strip() for line in caught.value.message.splitlines() if line.startswith("  --since ")]
    assert ways == ["--since '2026-11-17 10:00:00+01:00'", "--since '2026-11-17 22:00:00+01:00'"]
    for way in ways:
        assert len(parse(conn, way.split("'")[1], now).moments) == 1


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2026-10-25 00:00", "2026-10-25 03:00", "it is 4 hours long, not 3 hours"),
        ("2026-03-29 00:00", "2026-03-29 03:00", "it is 2 hours long, not 3 hours"),
        ("2026-10-24", "2026-10-26", "it is 2 days 1 hour long, not 2 days"),
        ("2026-10-25 02:30+02", "2026-10-25 02:10+01", "it is 40 minutes long, not -20 minutes"),
        ("2026-11-17 10:00", "2026-11-17 11:00", None),
    ],
)
def test_a_window_over_a_change_of_the_clock_says_how_long_it_is(
    conn: Connection, capsys: pytest.CaptureFixture[str], start: str, end: str, said: str | None
) -> None:
    conn.execute("set timezone = 'Europe/Berlin'")
    read_window(conn, start, end, None)
    notes = capsys.readouterr().err
    assert (f"this window spans a change of the clock: {said}\n" in notes) == (said is not None)
    assert ("spans" in notes) == (said is not None)


@pytest.mark.parametrize("end", ["2026-11-17 10:00", "2026-11-17 09:59"])
def test_a_window_that_ends_before_it_begins_is_refused(conn: Connection, end: str) -> None:
    conn.execute("set timezone = 'Europe/Berlin'")
    with pytest.raises(click.UsageError) as caught:
        read_window(conn, "2026-11-17 10:00", end, None, ("since", "until"))
    assert "--since 2026-11-17 10:00:00+01:00 is not before --until 2026-11-17" in caught.value.message


def test_around_is_an_hour_to_each_side(conn: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    conn.execute("set timezone = 'Europe/Berlin'")
    window = read_window(conn, None, None, "2026-10-25 03:30")
    assert [str(end) for end in window] == ["2026-10-25 02:30:00+01:00", "2026-10-25 04:30:00+01:00"]
    assert capsys.readouterr().err == (
        "--around is 2026-10-25 03:30:00+01:00 (Europe/Berlin)\n"
        "from 2026-10-25 02:30:00+01:00 to 2026-10-25 04:30:00+01:00\n"
    )


@pytest.mark.parametrize("day", ["yesterday", "2026-11-17", "last tuesday", "17 november 2026"])
def test_around_a_whole_day_is_refused(conn: Connection, day: str) -> None:
    with pytest.raises(click.BadParameter, match="is a whole day"):
        read_window(conn, None, None, day)


@pytest.mark.parametrize("window", [("yesterday", None), (None, "yesterday"), ("yesterday", "today")])
def test_around_stands_alone(conn: Connection, window: tuple[str | None, str | None]) -> None:
    with pytest.raises(click.UsageError, match="--around stands for --since and --until"):
        read_window(conn, *window, "yesterday 10:00", ("since", "until"))


def test_around_the_end_of_time_is_a_usage_error(conn: Connection) -> None:
    with pytest.raises(click.BadParameter, match="out of range"):
        read_window(conn, None, None, "0001-01-01 00:10")


def test_a_time_that_is_not_a_moment_raises_with_the_text(conn: Connection) -> None:
    with pytest.raises(NotATimeError, match="nonsense"):
        parse(conn, "nonsense")
