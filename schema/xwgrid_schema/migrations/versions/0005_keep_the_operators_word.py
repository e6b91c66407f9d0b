"""Keep why the operator set a host aside, and which result was accepted before one was audited again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    with op.batch_alter_table("tasks") as table:
        table.add_column(
            sa.Column(
                "accepted_before",
                sa.BigInteger(),
                comment="the replica whose result was accepted until it was audited again",
            )
        )
    with op.batch_alter_table("standings") as table:
        table.add_column(
            sa.Column("reason", sa.Text(), nullable=False, server_default="", comment="why the operator set it aside")
        )
        table.add_column(
            sa.Column(
                "edition",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="counts the operator's changes: what was decided before one is not written",
            )
        )


def downgrade() -> None:
    """Undo it; the operator's reasons are lost."""
    with op.batch_alter_table("standings") as table:
        table.drop_column("edition")
        table.drop_column("reason")
    with op.batch_alter_table("tasks") as table:
        table.drop_column("accepted_before")
