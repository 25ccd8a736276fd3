"""The first tables: users and their sessions, SAEs, runs, labels, steering runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "labels",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("starred", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=80), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", "latent", name=op.f("pk_labels"))
    )
    op.create_table(
        "login_links",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_links"))
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("launched", sa.Double(), nullable=True),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("finished", sa.Double(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("pid_started", sa.String(length=80), nullable=True),
        sa.Column("cancel_asked", sa.Double(), nullable=True),
        sa.Column("requested_by", sa.String(length=80), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sae_id", sa.String(length=170), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("requeues", sa.Integer(), nullable=False),
        sa.Column("requeue_mark", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs"))
    )
    op.create_index(op.f("ix_runs_state_created"), "runs", ["state", "created"])
    op.create_table(
        "saes",
        sa.Column("id", sa.String(length=170), nullable=False),
        sa.Column("model", sa.String(length=80), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("architecture", sa.String(length=40), nullable=False),
        sa.Column("n_latents", sa.Integer(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=True),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("hook", sa.String(length=120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("current_build", sa.String(length=120), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saes"))
    )
    op.create_table(
        "steer_runs",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("build_id", sa.String(length=120), nullable=True),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steer_runs"))
    )
    op.create_index(op.f("ix_steer_runs_sae_id_created"), "steer_runs", ["sae_id", "created"])
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=True),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name"))
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions"))
    )
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"])



def downgrade() -> None:
    op.drop_index(op.f("ix_sessions_user_id"), "sessions")
    op.drop_table("sessions")
    op.drop_table("users")
    op.drop_index(op.f("ix_steer_runs_sae_id_created"), "steer_runs")
    op.drop_table("steer_runs")
    op.drop_table("saes")
    op.drop_index(op.f("ix_runs_state_created"), "runs")
    op.drop_table("runs")
    op.drop_table("login_links")
    op.drop_table("labels")
