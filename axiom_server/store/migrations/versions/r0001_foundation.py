"""The first schema."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    op.get_bind().exec_driver_sql(Path(__file__).with_name("foundation.sql").read_text())
