"""Keys and durations as a person types them."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from pg_grace.cli.options import read_interval, read_keys
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


def test_a_duration_is_read_by_the_server(conn: Connection) -> None:
    assert read_interval(conn, "retention", "2 weeks") == "14 days"
    for typed in ("nonsense", "", "5 parsecs"):
        with pytest.raises(click.BadParameter):
            read_interval(conn, "retention", typed)
