"""Several servers on one database: who they are, who supervises the runs, their rate limits, their steering runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "servers"
down_revision = "explanation_versions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "servers",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("host", sa.String(length=80), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_servers"))
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("holder", sa.String(length=80), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases"))
    )
    op.create_table(
        "rate_buckets",
        sa.Column("key", sa.String(length=160), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rate_buckets"))
    )
    op.create_table(
        "relayed_runs",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("server", sa.String(length=80), nullable=False),
        sa.Column("watched", sa.Double(), nullable=False),
        sa.Column("remote", sa.Double(), server_default="0", nullable=False),
        sa.Column("stop", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_relayed_runs"))
    )
    op.create_index(op.f("ix_relayed_runs_server"), "relayed_runs", ["server"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_relayed_runs_server"), table_name="relayed_runs")
    for table in ("relayed_runs", "rate_buckets", "leases", "servers"):
        op.drop_table(table)
