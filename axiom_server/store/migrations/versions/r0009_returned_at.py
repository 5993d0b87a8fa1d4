"""When an account last gave back, lost or failed a task."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add what is new; who has given back nothing since waits for nothing."""
    op.get_bind().exec_driver_sql("ALTER TABLE users ADD returned_at timestamptz")
