"""Add the time at which a host was released from quarantine; earlier mismatches do not count."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    op.add_column("hosts", sa.Column("released_at", sa.DateTime(timezone=True)))
