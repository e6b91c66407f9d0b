"""Keep how far apart honest results of two classes may lie."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of tolerances."""
    op.create_table(
        "tolerances",
        sa.Column("application", sa.String(200), nullable=False),
        sa.Column(
            "class_a", sa.String(200), nullable=False, comment="the one of the two that sorts first, by code points"
        ),
        sa.Column("class_b", sa.String(200), nullable=False),
        sa.Column("share", sa.Double(), nullable=False, comment="of all channels, those that may differ, 0 to 1"),
        sa.Column("largest", sa.Double(), nullable=False, comment="difference of a channel, in steps of 255"),
        sa.Column(
            "block", sa.Double(), nullable=False, comment="difference of the means of blocks of 8 x 8 pixels, in steps"
        ),
        sa.Column("measured_at", sa.Double(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False, comment="pairs of pictures it was measured on"),
        sa.Column("margin", sa.Double(), nullable=False, comment="factor on the largest distances that were seen"),
        sa.Column(
            "excepted",
            sa.Text(),
            nullable=False,
            server_default="[]",
            comment="JSON: kinds of frames it does not cover",
        ),
        sa.CheckConstraint("class_a <> class_b", name="ck_tolerances_two_classes"),
        sa.PrimaryKeyConstraint("application", "class_a", "class_b", name="pk_tolerances"),
        comment="How far apart honest results of two classes may lie: xwgrid.tolerances.Tolerance. "
        "None: votes do not mix.",
    )


def downgrade() -> None:
    """Undo it; what was measured is lost."""
    op.drop_table("tolerances")
