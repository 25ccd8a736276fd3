"""The numbers of measures, one row for each key of an SAE."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "evaluations"
down_revision = "people"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("measure", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=80), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("n", sa.Double(), nullable=True),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("run", sa.String(length=80), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", "measure", "key", name=op.f("pk_evaluations"))
    )


def downgrade() -> None:
    op.drop_table("evaluations")
