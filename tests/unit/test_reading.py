"""Keys, times and durations as a person types them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from pg_grace.cli.options import read_interval, read_keys, read_time
from pg_grace.connection import Connection


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("7",), ["7"]),
        (("7", "8"), ["7", "8"]),
        (("id=7",), [{"id": "7"}]),
        (("id=7,line=2",), [{"id": "7", "line": "2"}]),
        ((" id = 7 , line = 2 ",), [{"id": "7", "line": "2"}]),
        (('{"id": 7}',), [{"id": 7}]),
        ((' {"id": 7, "at": "2026-01-01"}',), [{"id": 7, "at": "2026-01-01"}]),
        (("a,b",), ["a,b"]),
        (("007",), ["007"]),
        (("",), [""]),
        (("id=",), [{"id": ""}]),
        (("code=a=b",), [{"code": "a=b"}]),
    ],
)
def test_keys_in_every_form(typed: tuple[str, ...], expected: list[Any]) -> None:
    read = read_keys(typed)
    assert read is not None
    parsed = json.loads(read)
    assert [
        {name: value.strip() if isinstance(value, str) else value for name, value in key.items()}
        if isinstance(key, dict)
        else key
        for key in parsed
    ] == expected


def test_no_keys_are_no_selection() -> None:
    assert read_keys(()) is None


def test_a_key_that_begins_like_json_must_be_json() -> None:
    with pytest.raises(click.BadParameter):
        read_keys(('{"id": 7',))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("2026-11-17 10:00+00", datetime(2026, 11, 17, 10, tzinfo=UTC)),
        ("2026-11-17T10:00:00.123456Z", datetime(2026, 11, 17, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-17 10:00", datetime(2026, 11, 17, 9, tzinfo=UTC)),
        ("2026-07-17", datetime(2026, 7, 16, 22, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_the_sessions_time_zone_and_echoed_exactly(
    conn: Connection, capsys: pytest.CaptureFixture[str], typed: str, expected: datetime
) -> None:
    conn.execute("set timezone = 'Europe/Vienna'")
    moment = read_time(conn, "from", typed)
    assert moment == expected
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"--from is {moment.isoformat(sep=' ')} (Europe/Vienna)\n"


@pytest.mark.parametrize("typed", ["10 minutes ago", "about 10 minutes ago", " around 10 minutes ago "])
def test_ago_is_counted_from_now(conn: Connection, typed: str) -> None:
    moment = read_time(conn, "from", typed)
    assert moment is not None
    assert timedelta(minutes=9) < datetime.now(UTC) - moment < timedelta(minutes=11)


def test_yesterday_is_a_day_in_the_sessions_time_zone(conn: Connection) -> None:
    conn.execute("set timezone = 'Pacific/Auckland'")
    moment = read_time(conn, "from", "yesterday 10:00")
    row = conn.execute("select current_date - 1 + time '10:00' as at").fetchone()
    assert moment is not None
    assert row is not None
    assert moment.replace(tzinfo=None) == row["at"]


def test_no_time_is_no_selection(conn: Connection) -> None:
    assert read_time(conn, "from", None) is None


@pytest.mark.parametrize("typed", ["nonsense", "nonsense ago", "", "2026-13-01", "25:00", "10 minutes", "infinity"])
def test_what_is_no_time_is_a_usage_error_that_names_the_option(conn: Connection, typed: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        read_time(conn, "from", typed)
    assert "--from" in caught.value.format_message()


def test_a_duration_is_read_by_the_server(conn: Connection) -> None:
    assert read_interval(conn, "retention", "2 weeks") == "14 days"
    for typed in ("nonsense", "", "5 parsecs"):
        with pytest.raises(click.BadParameter):
            read_interval(conn, "retention", typed)
