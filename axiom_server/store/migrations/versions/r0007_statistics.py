"""Add sums for pages and exports, computed once for the credit so far."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the tables and fill them from the ledger."""
    op.get_bind().exec_driver_sql(Path(__file__).with_name("statistics.sql").read_text())
