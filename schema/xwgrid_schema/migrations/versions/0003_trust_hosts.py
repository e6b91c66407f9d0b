"""Keep how far each host is trusted, what its work was worth, and who looked at whose result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEEPS_OUT = "state IN ('leased', 'reading', 'voting', 'agreed', 'outvoted')"
_OLD = sa.text(_KEEPS_OUT)
_FULL = sa.text(f"{_KEEPS_OUT} AND audits IS NULL")
_AUDIT = sa.text(f"{_KEEPS_OUT} AND audits IS NOT NULL")
_VOTE = ["job_id", "task", "voter"]


def upgrade() -> None:
    """Add the columns of audits, and the tables of standing, credit and climate."""
    with op.batch_alter_table("tasks") as table:
        table.alter_column("reason", existing_type=sa.Text(), comment="why it failed, or waits")
        table.add_column(
            sa.Column(
                "audits",
                sa.Text(),
                nullable=False,
                server_default="[]",
                comment="JSON of AuditOrder: wanted, and not taken",
            )
        )
        table.add_column(
            sa.Column(
                "undrawn",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="checks that went to whoever asked",
            )
        )
    op.drop_index("uq_replicas_one_vote_per_voter", "replicas")
    with op.batch_alter_table("replicas") as table:
        table.add_column(
            sa.Column("audits", sa.BigInteger(), comment="the replica whose result it looks at; NULL: it is a full one")
        )
        table.add_column(sa.Column("strips", sa.Text(), comment="of an audit: the rows it looks at, such as 12+2,90+2"))
        table.add_column(
            sa.Column("differences", sa.Text(), comment="JSON: replica it was compared with, share of rows that differ")
        )
        table.add_column(
            sa.Column("credit", sa.Double(), nullable=False, server_default="0", comment="device-seconds given for it")
        )
        table.add_column(
            sa.Column(
                "is_test",
                sa.Boolean(),
                nullable=False,
                server_default=sa.text("false"),
                comment="of a task decided before",
            )
        )
    op.create_index(
        "uq_replicas_one_vote_per_voter", "replicas", _VOTE, unique=True, sqlite_where=_FULL, postgresql_where=_FULL
    )
    op.create_index(
        "uq_replicas_one_audit_per_voter", "replicas", _VOTE, unique=True, sqlite_where=_AUDIT, postgresql_where=_AUDIT
    )
    _create_tables()


def _create_tables() -> None:
    op.create_table(
        "standings",
        sa.Column("host_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("earned", sa.Text(), nullable=False, server_default="{}", comment="JSON: requester, units counted"),
        sa.Column("proven", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("valid", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("wrong", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("streak", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("on_record", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("since_wrong", sa.Double(), nullable=False, server_default="0"),
        sa.Column("suspected_until", sa.Double()),
        sa.Column("quarantined_until", sa.Double()),
        sa.Column("quarantines", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("vouched", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("tested", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("audit_again", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_standings_host_id_hosts"),
        sa.PrimaryKeyConstraint("host_id", name="pk_standings"),
        comment="How far a host is trusted: xwgrid.trust.Standing. A new host has no row.",
    )
    op.create_table(
        "credits",
        sa.Column("host_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("application", sa.String(200), nullable=False),
        sa.Column(
            "seconds",
            sa.Double(),
            nullable=False,
            server_default="0",
            comment="device-seconds of an average host",
        ),
        sa.Column("results", sa.Integer(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_credits_host_id_hosts"),
        sa.PrimaryKeyConstraint("host_id", "application", name="pk_credits"),
        comment="What a host's validated results of one application were worth. A user's credit is that of its hosts.",
    )
    op.create_table(
        "climate",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="1: there is one row, or none"),
        sa.Column("results", sa.Double(), nullable=False),
        sa.Column("wrong", sa.Double(), nullable=False),
        sa.Column("lies", sa.Double(), nullable=False),
        sa.Column("liars", sa.Double(), nullable=False),
        sa.CheckConstraint("id = 1", name="ck_climate_one"),
        sa.PrimaryKeyConstraint("id", name="pk_climate"),
        comment="What the grid has met lately: xwgrid.trust.Climate.",
    )


def downgrade() -> None:
    """Undo it; what was known of hosts is lost."""
    op.drop_table("climate")
    op.drop_table("credits")
    op.drop_table("standings")
    op.drop_index("uq_replicas_one_audit_per_voter", "replicas")
    op.drop_index("uq_replicas_one_vote_per_voter", "replicas")
    op.execute("DELETE FROM replicas WHERE audits IS NOT NULL OR is_test")
    with op.batch_alter_table("replicas") as table:
        for name in ("is_test", "credit", "differences", "strips", "audits"):
            table.drop_column(name)
    op.create_index(
        "uq_replicas_one_vote_per_voter", "replicas", _VOTE, unique=True, sqlite_where=_OLD, postgresql_where=_OLD
    )
    with op.batch_alter_table("tasks") as table:
        table.alter_column("reason", existing_type=sa.Text(), comment="why it failed")
        table.drop_column("undrawn")
        table.drop_column("audits")
