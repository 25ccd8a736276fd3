"""Tags of labels: words that group latents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("labels", sa.Column("tags", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("labels", "tags")
