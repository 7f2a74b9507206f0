"""Foundation: registry of protected tables, log of captures, runs.

Revision ID: 0001
Revises:
"""

from pg_grace.migrate import run_revision_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, sequences and types of the foundation."""
    run_revision_sql(__file__)
