"""Explanations of latents with their scores; each label becomes the chosen explanation of its latent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    explanations = op.create_table(
        "explanations",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("method", sa.String(length=100), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("prompt_version", sa.String(length=100), nullable=False),
        sa.Column("run", sa.String(length=80), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("in_file", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", "id", name=op.f("pk_explanations"))
    )
    op.create_index(op.f("ix_explanations_sae_id_latent"), "explanations", ["sae_id", "latent"])
    op.create_table(
        "explanation_scores",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("explanation_id", sa.String(length=40), nullable=False),
        sa.Column("latent", sa.Integer(), nullable=False),
        sa.Column("scorer", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("f1", sa.Double(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", "id", name=op.f("pk_explanation_scores"))
    )
    op.create_index(op.f("ix_explanation_scores_sae_id_latent"), "explanation_scores", ["sae_id", "latent"])
    op.create_table(
        "explanation_files",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("n_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", name=op.f("pk_explanation_files"))
    )
    labels = sa.table(
        "labels", *(sa.column(name) for name in ("sae_id", "latent", "text", "author", "updated")))
    rows = op.get_bind().execute(sa.select(labels).where(labels.c.text != "")).mappings().all()
    if rows:
        op.bulk_insert(explanations, [
            {"sae_id": row["sae_id"], "id": f"label-{row['latent']}", "latent": row["latent"], "text": row["text"],
             "kind": "person", "author": row["author"], "method": "label", "model": "", "prompt_version": "", "run": "",
             "created": row["updated"], "chosen": True, "in_file": False} for row in rows])


def downgrade() -> None:
    op.drop_table("explanation_files")
    op.drop_index(op.f("ix_explanation_scores_sae_id_latent"), table_name="explanation_scores")
    op.drop_table("explanation_scores")
    op.drop_index(op.f("ix_explanations_sae_id_latent"), table_name="explanations")
    op.drop_table("explanations")
