"""Filters, rules, exemptions, notices, holds.

Revision ID: 0006
Revises: 0005
"""

from pg_grace.migrate import run_revision_sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of filters and rules."""
    run_revision_sql(__file__)
