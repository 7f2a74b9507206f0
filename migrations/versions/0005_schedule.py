"""Schedules: jobs, capacity, the ledger, failed runs.

Revision ID: 0005
Revises: 0004
"""

from pg_grace.migrate import run_revision_sql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the schedule and the ledger."""
    run_revision_sql(__file__)
