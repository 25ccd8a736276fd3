"""A number for each SAE that grows when its notes, tags or comments change, so that processes can keep them in memory.

Triggers count, as for explanations: labels and comments are written in several places.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "note_versions"
down_revision = "servers"
branch_labels = None
depends_on = None

_COUNT = ("INSERT INTO note_versions (sae_id, version) VALUES ({row}.sae_id, 1)"
          " ON CONFLICT (sae_id) DO UPDATE SET version = note_versions.version + 1; ")
_EVENTS = {"INSERT": ("NEW",), "UPDATE": ("OLD", "NEW"), "DELETE": ("OLD",)}
_TABLES = {"labels": "sae_id, latent, note, tags", "comments": "sae_id, latent, text"}


def upgrade() -> None:
    op.create_table(
        "note_versions",
        sa.Column("sae_id", sa.String(length=170), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", name=op.f("pk_note_versions")))
    op.execute("INSERT INTO note_versions (sae_id, version)"
               " SELECT sae_id, 1 FROM labels UNION SELECT sae_id, 1 FROM comments")
    sqlite = op.get_bind().dialect.name == "sqlite"
    for event, rows in _EVENTS.items():
        if not sqlite:  # one count for each statement, which may write thousands of rows
            changed = " UNION ".join(f"SELECT sae_id FROM {row.lower()}_rows" for row in rows)
            op.execute(
                f"CREATE FUNCTION count_notes_{event.lower()}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"INSERT INTO note_versions (sae_id, version) SELECT sae_id, 1 FROM ({changed}) changed "
                "GROUP BY sae_id ORDER BY sae_id "
                "ON CONFLICT (sae_id) DO UPDATE SET version = note_versions.version + 1; RETURN NULL; END $$")
        for table, columns in _TABLES.items():
            if sqlite:
                of = f" OF {columns}" if event == "UPDATE" else ""
                op.execute(f"CREATE TRIGGER {table}_notes_{event.lower()} AFTER {event}{of} ON {table} BEGIN "
                           f"{''.join(_COUNT.format(row=row) for row in rows)}END")
                continue
            transition = " ".join(f"{row} TABLE AS {row.lower()}_rows" for row in rows)
            op.execute(f"CREATE TRIGGER {table}_notes_{event.lower()} AFTER {event} ON {table} REFERENCING {transition}"
                       f" FOR EACH STATEMENT EXECUTE FUNCTION count_notes_{event.lower()}()")


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for event in _EVENTS:
        for table in _TABLES:
            op.execute(f"DROP TRIGGER {table}_notes_{event.lower()}" + ("" if sqlite else f" ON {table}"))
        if not sqlite:
            op.execute(f"DROP FUNCTION count_notes_{event.lower()}()")
    op.drop_table("note_versions")
