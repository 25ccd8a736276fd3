"""Earlier labels with author and time, and a version that identifies the label that a form shows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("labels", sa.Column("version", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "label_history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=80), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_history"))
    )
    op.create_index(op.f("ix_label_history_sae_id_latent"), "label_history", ["sae_id", "latent"])


def downgrade() -> None:
    op.drop_index(op.f("ix_label_history_sae_id_latent"), table_name="label_history")
    op.drop_table("label_history")
    op.drop_column("labels", "version")
