"""How single values are printed."""

from __future__ import annotations

import csv
import datetime
import io
import ipaddress
import json
from decimal import Decimal
from typing import Any

import pytest

from pg_grace.output import interval, print_rows, size, to_json

UTC = datetime.UTC


def printed(capsys: pytest.CaptureFixture[str], value: Any, output_format: str) -> str:
    print_rows([{"value": value, "left out": 1}], ("value",), output_format)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (datetime.timedelta(0), "0:00:00"),
        (datetime.timedelta(days=1), "1 day"),
        (datetime.timedelta(days=30), "30 days"),
        (datetime.timedelta(hours=2), "2:00:00"),
        (datetime.timedelta(days=1, seconds=61), "1 day 0:01:01"),
        (datetime.timedelta(seconds=1, microseconds=999), "1.001 s"),
        (datetime.timedelta(seconds=5), "0:00:05"),
    ],
)
def test_a_duration_reads_as_a_person_says_it(duration: datetime.timedelta, words: str) -> None:
    assert interval(duration) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 kB"),
        (1536 * 1024, "2 MB"),
        (5 * 1024**3, "5 GB"),
        (7 * 1024**4, "7 TB"),
        (9000 * 1024**4, "9000 TB"),
    ],
)
def test_a_size_has_the_unit_that_fits(number: int, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(
    ("value", "plain", "as_csv", "as_json"),
    [
        (None, "", "", None),
        (True, "yes", "true", True),
        (7, "7", "7", 7),
        (Decimal("1.10"), "1.10", "1.10", Decimal("1.10")),
        (Decimal("1E-10"), "0.0000000001", "0.0000000001", Decimal("0.0000000001")),
        ("a\tb\\n\n", "a\\tb\\\\n\\n", "a\tb\\n\n", "a\tb\\n\n"),
        ("\x1b[31m\x00", "\\x1b[31m\\x00", "\x1b[31m\x00", "\x1b[31m\x00"),
        ({"ä": [1, None]}, '{"ä": [1, null]}', '{"ä": [1, null]}', {"ä": [1, None]}),
        (ipaddress.ip_address("::1"), "::1", "::1", "::1"),
        (datetime.timedelta(hours=1), "1:00:00", "1:00:00", 3600),
        (
            datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            "2026-01-02 03:04:05.678+00:00",
            "2026-01-02T03:04:05.678901+00:00",
            "2026-01-02T03:04:05.678901+00:00",
        ),
    ],
)
def test_a_value_in_each_format(
    capsys: pytest.CaptureFixture[str], value: Any, plain: str, as_csv: str, as_json: Any
) -> None:
    assert printed(capsys, value, "table") == f"value\n{plain}\n"
    assert list(csv.reader(io.StringIO(printed(capsys, value, "csv"), newline="")))[1:] in ([[as_csv]], [[]])
    assert json.loads(printed(capsys, value, "json"), parse_float=Decimal) == [{"value": as_json}]


def test_a_number_in_json_has_all_its_digits_and_is_no_string() -> None:
    assert to_json({"n": Decimal("12345678901234567890.10")}) == '{"n": 12345678901234567890.10}'


def test_text_that_looks_like_an_escape_stays_text() -> None:
    awkward = {"t": '\\u00001\\u0000"', "n": Decimal(1)}
    assert json.loads(to_json(awkward)) == {"t": '\\u00001\\u0000"', "n": 1}


def test_no_rows_are_an_empty_list_or_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    for output_format, expected in (("json", "[]\n"), ("csv", "a,b\n"), ("table", "a\tb\n")):
        print_rows([], ("a", "b"), output_format)
        assert capsys.readouterr().out == expected


def test_a_value_of_a_kind_that_json_has_not_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(TypeError):
        to_json(object())
