"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from pg_grace.migrate import run_revision_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL file beside this one."""
    run_revision_sql(__file__)
