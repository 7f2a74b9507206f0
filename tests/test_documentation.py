"""What the documents show is what happens."""

from __future__ import annotations

import re

import pytest
from docs.generate import documents

from pg_grace.connection import Connection
from tests.documentation import ROOT, replay, without_variables


def test_the_readme_shows_real_output() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert without_variables(replay(text)) == without_variables(text)


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_references_are_up_to_date(conn: Connection) -> None:
    for name, text in documents(conn).items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"{name}: make docs"


def test_every_error_code_is_listed() -> None:
    sources = [*(ROOT / "sql").rglob("*.sql"), *(ROOT / "manage").rglob("*.py")]
    used = {code for path in sources for code in re.findall(r"\bGR0\d\d\b", path.read_text(encoding="utf-8"))}
    listed = set(
        re.findall(r"^\| (GR0\d\d) \|", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert used == listed


def test_every_public_object_has_a_comment(conn: Connection) -> None:
    uncommented = conn.execute(
        "select p.oid::regprocedure::text as name from pg_proc p"
        " where p.pronamespace = 'grace'::regnamespace and obj_description(p.oid, 'pg_proc') is null"
        " union all select c.oid::regclass::text from pg_class c"
        " where c.relnamespace = 'grace'::regnamespace and c.relkind = 'v' and obj_description(c.oid, 'pg_class') is null"
    ).fetchall()
    assert uncommented == []
