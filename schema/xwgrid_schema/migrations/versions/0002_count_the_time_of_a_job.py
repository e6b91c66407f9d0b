"""Count the time of a job's results in the job, so that nobody has to add it up again at every look."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LIVE = sa.text("state = 'leased'")


def upgrade() -> None:
    """Add the counts, fill them from what is there, and find a job's live leases by an index."""
    with op.batch_alter_table("jobs") as table:
        table.add_column(
            sa.Column(
                "timed", sa.Integer(), nullable=False, server_default="0", comment="results that came with their time"
            )
        )
        table.add_column(
            sa.Column("seconds", sa.Double(), nullable=False, server_default="0", comment="the sum of those times")
        )
    op.execute(
        """
        UPDATE jobs SET
            timed = (SELECT COUNT(*) FROM replicas WHERE job_id = jobs.id AND seconds > 0 AND state <> 'failed'),
            seconds = (SELECT COALESCE(SUM(seconds), 0) FROM replicas
                WHERE job_id = jobs.id AND seconds > 0 AND state <> 'failed')
        """
    )
    op.create_index("ix_replicas_live_by_job", "replicas", ["job_id"], sqlite_where=_LIVE, postgresql_where=_LIVE)


def downgrade() -> None:
    """Undo it."""
    op.drop_index("ix_replicas_live_by_job", "replicas")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("seconds")
        table.drop_column("timed")
