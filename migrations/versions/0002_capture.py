"""Capture: inheritance trees, cascades that are known to be lost, files, replica identities.

Revision ID: 0002
Revises: 0001
"""

from pg_grace.migrate import run_revision_sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what the registry has to know, and the tables that files need."""
    run_revision_sql(__file__)
