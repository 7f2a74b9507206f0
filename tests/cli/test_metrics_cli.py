"""pg_grace metrics: what Prometheus reads, whatever the tables are called; and a file that never looks fresh when it isn't."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Database, _new_database, rows
from tests.server import Server

HOSTILE = (
    'quotes " and ""',
    "back\\slash\\",
    "line\nbreak",
    "\\n",
    "{}=,# HELP x y",
    "Ünïcode €",
    "tab\tand\rreturn",
    'x"} 1\npg_grace_up{datname="',
)
NOWHERE = "host=127.0.0.1 port=1"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def text_of(file: Path) -> str:
    """Return a file's text with its carriage returns, which end no line in this format."""
    return file.read_bytes().decode()


def expected(database: Database) -> Samples:
    return {
        (name, frozenset(labels.items())): value
        for name, labels, value in rows(database.connect(), "select name, labels, value from grace.metrics")
    }


def without_time(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if key[0] != "pg_grace_purge_overdue_seconds"}


@pytest.fixture(scope="module")
def hostile(server: Server, template: str) -> Iterator[Database]:
    """A database whose tables are called what would break a format."""
    with _new_database(server, template) as database:
        conn = database.connect()
        for name in HOSTILE:
            quoted = '"' + name.replace('"', '""') + '"'
            conn.execute(f"create table {quoted} (id int primary key); insert into {quoted} values (1)".encode())
            conn.execute("select grace.protect(to_regclass(%s))", (quoted,))
            conn.execute(f"delete from {quoted}".encode())
        conn.execute("call grace.purge()")
        yield database


def test_what_is_printed_is_what_grace_metrics_has(hostile: Database) -> None:
    printed = parsed(hostile.cli("metrics").stdout)
    assert without_time(printed) == without_time(expected(hostile))
    tables = {dict(labels)["table"] for name, labels in printed if name == "pg_grace_buffered_rows"}
    quoted = {'public."' + name.replace('"', '""') + '"' for name in HOSTILE}
    assert tables == quoted


def test_each_metric_has_its_help_and_type_once_and_there_are_no_others(hostile: Database) -> None:
    families = list(text_string_to_metric_families(hostile.cli("metrics").stdout))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {family.name + ("_total" if family.type == "counter" else "") for family in families} == {
        name for (name,) in rows(hostile.connect(), "select distinct name from grace.metrics")
    }
    for family in families:
        assert family.documentation.endswith(".")


def test_json_and_csv_give_the_rows(hostile: Database) -> None:
    printed = json.loads(hostile.cli("--format", "json", "metrics").stdout)
    assert list(printed[0]) == ["subject", "name", "type", "help", "labels", "value"]
    assert len(printed) == len(expected(hostile))
    assert hostile.cli("--format", "csv", "metrics").stdout.startswith("subject,name,type,help,labels,value\n")


def test_a_member_of_grace_auditor_is_enough(hostile: Database, role: Callable[[str], str]) -> None:
    auditor = role("auditor")
    hostile.connect().execute(f"grant grace_auditor to {auditor}".encode())
    assert without_time(parsed(hostile.cli("-U", auditor, "metrics").stdout)) == without_time(expected(hostile))


def test_a_file_is_replaced_and_readable_by_everybody(hostile: Database, tmp_path: Path) -> None:
    file = tmp_path / "pg_grace.prom"
    file.write_text("old")
    file.chmod(0o600)
    before = os.umask(0o077)
    try:
        result = hostile.cli("metrics", "--output", str(file))
    finally:
        os.umask(before)
    assert result.stdout == ""
    assert without_time(parsed(text_of(file))) == without_time(expected(hostile))
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["pg_grace.prom"]


def test_whoever_has_the_old_file_open_reads_all_of_it(hostile: Database, tmp_path: Path) -> None:
    file = tmp_path / "pg_grace.prom"
    file.write_text("old" * 100000)
    with file.open() as reader:
        assert reader.read(3) == "old"
        hostile.cli("metrics", "--output", str(file))
        assert reader.read() == "old" * 99999


@pytest.mark.parametrize("format_option", [(), ("--format", "json")])
def test_a_file_is_in_the_text_format_whatever_format_is_asked_for(
    hostile: Database, tmp_path: Path, format_option: tuple[str, ...]
) -> None:
    hostile.cli(*format_option, "metrics", "--output", str(tmp_path / "x.prom"))
    assert "# TYPE pg_grace_up gauge" in text_of(tmp_path / "x.prom")


def test_without_a_connection_the_file_says_so_and_nothing_else(hostile: Database, tmp_path: Path) -> None:
    file = tmp_path / "pg_grace.prom"
    hostile.cli("metrics", "--output", str(file))
    said_up = re.findall(r"^# \w+ pg_grace_up .*$", text_of(file), re.MULTILINE)
    result = hostile.cli("-d", f"{NOWHERE} dbname={hostile.name}", "metrics", "--output", str(file), code=3)
    assert result.stderr.startswith("Error: no connection: ")
    assert parsed(text_of(file)) == {("pg_grace_up", frozenset({("datname", hostile.name)})): 0}
    # The same help and type, or Prometheus would see two metrics.
    assert text_of(file).splitlines()[:2] == said_up


def test_a_connection_string_that_libpq_does_not_take_is_no_connection_either(
    hostile: Database, tmp_path: Path
) -> None:
    file = tmp_path / "pg_grace.prom"
    hostile.cli("-d", "host=127.0.0.1 nonsense=1", "metrics", "--output", str(file), code=3)
    assert [value for (name, _), value in parsed(text_of(file)).items() if name == "pg_grace_up"] == [0]


def test_where_pg_grace_is_missing_or_may_not_be_read_the_file_says_so(
    empty_db: Database, hostile: Database, role: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / "pg_grace.prom"
    empty_db.cli("metrics", "--output", str(file), code=4)
    assert parsed(text_of(file)) == {("pg_grace_up", frozenset({("datname", empty_db.name)})): 0}
    file.unlink()
    result = hostile.cli("-U", role("outsider"), "metrics", "--output", str(file), code=4)
    assert "grace_auditor" in result.stderr
    assert parsed(text_of(file)) == {("pg_grace_up", frozenset({("datname", hostile.name)})): 0}


def test_a_file_that_can_not_be_written_is_an_error_that_says_why(hostile: Database, tmp_path: Path) -> None:
    result = hostile.cli("metrics", "--output", str(tmp_path / "nowhere" / "x.prom"), code=1)
    assert result.stderr.startswith(f"Error: can't write {tmp_path}/nowhere/x.prom: No such file or directory\nHINT:  ")
    hostile.cli("metrics", "--output", str(tmp_path), code=2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result = hostile.cli("metrics", "--output", str(pipe), code=1)
    assert "it is no ordinary file" in result.stderr
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_without_a_connection_and_without_a_file_the_exit_code_is_that_of_the_connection(
    hostile: Database, tmp_path: Path
) -> None:
    result = hostile.cli("-d", NOWHERE, "metrics", "--output", str(tmp_path / "nowhere" / "x.prom"), code=3)
    assert "the old file is still there: can't write" in result.stderr
    assert "Error: no connection" in result.stderr
