"""Known to fail: links of rows that come back later than what they referred to."""

from __future__ import annotations

from pg_grace.connection import Connection
from tests.conftest import rows
from tests.sql.restoring import as_planned, deleted, script


def test_a_link_that_was_cut_before_its_row_went_too_is_tied_when_the_row_comes_back_later(conn: Connection) -> None:
    script(
        conn,
        "create table t (id int primary key, up int references t on delete cascade, deputy int references t on delete set null);\n"
        "insert into t values (1, null, null), (2, 1, null), (3, 2, 1);\nselect grace.protect('t')",
    )
    deletion = deleted(conn, "delete from t where id = 1")
    as_planned(conn, f"'t', keys => '1', related => false, deletion => {deletion}")
    as_planned(conn, f"deletion => {deletion}")
    assert rows(conn, "select * from t order by 1") == [(1, None, None), (2, 1, None), (3, 2, 1)]
