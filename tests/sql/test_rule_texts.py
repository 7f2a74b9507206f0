"""The texts that a rule is given: what stands beside other conditions stays in its brackets, a period starts with a moment."""

from __future__ import annotations

import psycopg
import pytest

from pg_grace.connection import Connection
from tests.conftest import Database, rows, value


@pytest.fixture
def notes(db: Database) -> Connection:
    """20 notes, each with an old mail; note 1 has a new draft."""
    conn = db.connect()
    conn.execute(
        b"create table note (id int primary key, text text, made date);"
        b"create table mail (id int primary key, note_id int references note on delete cascade, sent_at timestamptz,"
        b" subject text, draft boolean not null default false);"
        b"insert into note select n, 'secret ' || n, now() - interval '3 years' from generate_series(1, 20) n;"
        b"insert into mail select n, n, now() - interval '3 years', 'secret ' || n from generate_series(1, 20) n;"
        b"insert into mail values (100, 1, now(), 'draft', true);"
        b"select grace.protect('note'); select grace.add_filter('few', 'note', 'id <= 5')"
    )
    return conn


def due(conn: Connection, arguments: str) -> int:
    conn.execute(f"select grace.add_rule('r', 'few', {arguments})".encode())
    return int(value(conn, "select row_count from grace.preview('r', details => false)"))


@pytest.mark.parametrize(
    "arguments",
    [
        "predicate => 'id = 1) or (true'",
        "predicate => 'id = 1]) or true = all (array[true'",
        "predicate => 'true, true'",
        "period => '1 year', activities => array['mail.sent_at via note_id where true) or (true']",
    ],
)
def test_a_condition_does_not_get_out_of_its_brackets(notes: Connection, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        due(notes, arguments)
    assert caught.value.sqlstate == "GR022"
    assert rows(notes, "select name from grace.rules") == []


def test_an_or_holds_together_beside_the_filter(notes: Connection) -> None:
    assert due(notes, "predicate => 'id = 1 or id > 4 -- and no more'") == 2


def test_an_activity_may_have_a_condition(notes: Connection) -> None:
    assert due(notes, "period => '1 year', activities => array['mail.sent_at via note_id']") == 4
    notes.execute("select grace.drop_rule('r')")
    assert due(notes, "period => '1 year', activities => array['mail.sent_at via note_id where not draft']") == 5
    notes.execute("select grace.drop_rule('r')")
    assert due(notes, "period => '1 year', activities => array['mail.sent_at WHERE not draft or false']") == 5


@pytest.mark.parametrize(
    "arguments",
    [
        "starts => 'text'",
        "starts => 'id'",
        "starts => 'end of year of text'",
        "activities => array['mail.subject via note_id']",
    ],
)
def test_a_period_starts_with_a_moment(notes: Connection, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        due(notes, f"period => '1 year', {arguments}")
    assert caught.value.sqlstate == "GR031"


@pytest.mark.parametrize("starts", ["made", "made + 1", "end of the calendar year of made", "made::timestamp"])
def test_dates_and_times_are_moments(notes: Connection, starts: str) -> None:
    assert due(notes, f"period => '1 year', starts => '{starts}'") == 5
