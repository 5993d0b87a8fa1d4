"""Sums, drawings and modes for pages; what was credited before is summed up once."""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the tables and fill them."""
    for name in ("page_sums.sql", "page_sums_filled.sql"):
        op.get_bind().exec_driver_sql(Path(__file__).with_name(name).read_text())
