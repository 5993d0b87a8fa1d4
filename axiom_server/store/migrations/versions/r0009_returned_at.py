"""Record when an account last gave back, lost or failed a task."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; an account without a time does not wait."""
    op.get_bind().exec_driver_sql("ALTER TABLE users ADD returned_at timestamptz")
