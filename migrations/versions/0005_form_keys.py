"""The form that started a run, so that a form that is sent twice starts one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as table:
        table.add_column(sa.Column("form_key", sa.String(length=80), nullable=True))
        table.create_unique_constraint(op.f("uq_runs_form_key"), ["form_key"])


def downgrade() -> None:
    with op.batch_alter_table("runs") as table:
        table.drop_constraint(op.f("uq_runs_form_key"), type_="unique")
        table.drop_column("form_key")
