"""A number for each SAE that grows when its explanations change, so that processes can keep them in memory.

Triggers count, because explanations are written in several places, and the number must never be forgotten.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "explanation_versions"
down_revision = "evaluations"
branch_labels = None
depends_on = None

_COUNT = ("INSERT INTO explanation_versions (sae_id, version) VALUES ({row}.sae_id, 1)"
          " ON CONFLICT (sae_id) DO UPDATE SET version = explanation_versions.version + 1; ")
_EVENTS = {"INSERT": ("NEW",), "UPDATE": ("OLD", "NEW"), "DELETE": ("OLD",)}


def upgrade() -> None:
    op.create_table(
        "explanation_versions",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", name=op.f("pk_explanation_versions")))
    op.execute("INSERT INTO explanation_versions (sae_id, version) SELECT DISTINCT sae_id, 1 FROM explanations")
    if op.get_bind().dialect.name == "sqlite":
        for event, rows in _EVENTS.items():
            of = " OF sae_id, latent, text, method" if event == "UPDATE" else ""
            op.execute(f"CREATE TRIGGER explanations_{event.lower()} AFTER {event}{of} ON explanations BEGIN "
                       f"{''.join(_COUNT.format(row=row) for row in rows)}END")
        return
    for event, rows in _EVENTS.items():  # one count for each statement, which may write thousands of rows
        changed = " UNION ".join(f"SELECT sae_id FROM {row.lower()}_rows" for row in rows)
        op.execute(
            f"CREATE FUNCTION count_explanations_{event.lower()}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"INSERT INTO explanation_versions (sae_id, version) SELECT sae_id, 1 FROM ({changed}) changed "
            "GROUP BY sae_id ORDER BY sae_id "
            "ON CONFLICT (sae_id) DO UPDATE SET version = explanation_versions.version + 1; RETURN NULL; END $$")
        tables = " ".join(f"{row} TABLE AS {row.lower()}_rows" for row in rows)
        op.execute(f"CREATE TRIGGER explanations_{event.lower()} AFTER {event} ON explanations "
                   f"REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION count_explanations_{event.lower()}()")


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for event in _EVENTS:
        op.execute(f"DROP TRIGGER explanations_{event.lower()}" + ("" if sqlite else " ON explanations"))
        if not sqlite:
            op.execute(f"DROP FUNCTION count_explanations_{event.lower()}()")
    op.drop_table("explanation_versions")
