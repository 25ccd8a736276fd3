"""Handles of runs that any launcher understands, what a run asks of a cluster, and runs in parts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "run_handles"
down_revision = "api_tokens"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as table:
        table.add_column(sa.Column("launcher", sa.String(length=20), nullable=False, server_default="local"))
        table.add_column(sa.Column("resources", sa.JSON(), nullable=True))
        table.add_column(sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("ref", sa.String(length=160), nullable=True))
        table.add_column(sa.Column("ref_mark", sa.String(length=80), nullable=True))
        table.add_column(sa.Column("waiting_for", sa.String(length=200), nullable=True))
        table.add_column(sa.Column("parent", sa.String(length=80), nullable=True))
        table.create_index(op.f("ix_runs_parent"), ["parent"])
    op.execute("UPDATE runs SET ref = CAST(pid AS VARCHAR(20)), ref_mark = pid_started WHERE pid IS NOT NULL")
    with op.batch_alter_table("runs") as table:
        table.drop_column("pid")
        table.drop_column("pid_started")


def downgrade() -> None:
    with op.batch_alter_table("runs") as table:
        table.add_column(sa.Column("pid", sa.Integer(), nullable=True))
        table.add_column(sa.Column("pid_started", sa.String(length=80), nullable=True))
    op.execute("UPDATE runs SET pid = CAST(ref AS INTEGER), pid_started = ref_mark "
               "WHERE ref IS NOT NULL AND launcher = 'local'")
    with op.batch_alter_table("runs") as table:
        table.drop_index(op.f("ix_runs_parent"))
        for column in ("parent", "waiting_for", "ref_mark", "ref", "attempt", "resources", "launcher"):
            table.drop_column(column)
