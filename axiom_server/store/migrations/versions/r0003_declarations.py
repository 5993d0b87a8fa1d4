"""Add the record of a version's declaration, as it is signed with the bundle."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; versions published before have no record."""
    op.add_column("versions", sa.Column("declaration", JSONB))
