"""Readers beside editors; stars a person, comments, lists of latents, and the log of administrators' actions.

A star of a label becomes a star of the label's author or, if that is no user, of the first administrator.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "people"
down_revision = "run_handles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("is_editor", sa.Boolean(), nullable=False, server_default=sa.true()))
    _create_tables()
    op.execute(
        "INSERT INTO stars (user_id, sae_id, latent, created) SELECT u.id, l.sae_id, l.latent, l.updated"
        " FROM labels l JOIN users u ON u.id = coalesce((SELECT id FROM users WHERE name = l.author),"
        " (SELECT min(id) FROM users WHERE is_admin)) WHERE l.starred")
    op.execute("DELETE FROM labels WHERE starred AND text = '' AND note = '' AND tags = '' AND version = 0")
    op.drop_column("labels", "starred")


def _create_tables() -> None:
    op.create_table(
        "stars",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_stars_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "sae_id", "latent", name=op.f("pk_stars")))
    op.create_index(op.f("ix_stars_sae_id_latent"), "stars", ["sae_id", "latent"])
    op.create_table(
        "comments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=80), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comments")))
    op.create_index(op.f("ix_comments_sae_id_latent"), "comments", ["sae_id", "latent"])
    op.create_table(
        "latent_lists",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("test_text", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=80), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_latent_lists")))
    op.create_table(
        "list_members",
        sa.Column("list_id", sa.String(length=20), nullable=False),
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=80), nullable=False),
        sa.Column("added", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["list_id"], ["latent_lists.id"], name=op.f("fk_list_members_list_id_latent_lists"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("list_id", "sae_id", "latent", name=op.f("pk_list_members")))
    op.create_index(op.f("ix_list_members_sae_id_latent"), "list_members", ["sae_id", "latent"])
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("user", sa.String(length=80), nullable=False),
        sa.Column("action", sa.String(length=200), nullable=False),
        sa.Column("path", sa.String(length=500), nullable=False),
        sa.Column("detail", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")))
    op.create_index(op.f("ix_audit_log_at"), "audit_log", ["at"])


def downgrade() -> None:
    op.add_column("labels", sa.Column("starred", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE labels SET starred = true WHERE EXISTS (SELECT 1 FROM stars WHERE stars.sae_id = labels.sae_id"
        " AND stars.latent = labels.latent)")
    for table in ("audit_log", "list_members", "latent_lists", "comments", "stars"):
        op.drop_table(table)
    op.drop_column("users", "is_editor")
