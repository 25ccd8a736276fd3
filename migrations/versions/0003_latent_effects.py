"""The measured effects of a latent on the model: output score and ablation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "latent_effects",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("build_id", sa.String(length=120), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("tokens", sa.JSON(), nullable=True),
        sa.Column("ablation", sa.JSON(), nullable=True),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", "build_id", "latent", name=op.f("pk_latent_effects"))
    )


def downgrade() -> None:
    op.drop_table("latent_effects")
