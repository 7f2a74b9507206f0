"""Links that a deletion cuts: which foreign keys are watched, and what was cut.

Revision ID: 0003
Revises: 0002
"""

from pg_grace.migrate import run_revision_sql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables that hold links and cuts."""
    run_revision_sql(__file__)
