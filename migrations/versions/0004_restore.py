"""Restore: conflicts that are skipped or replaced, versions, links, copies.

Revision ID: 0004
Revises: 0003
"""

from pg_grace.migrate import run_revision_sql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the types of a restore anew."""
    run_revision_sql(__file__)
