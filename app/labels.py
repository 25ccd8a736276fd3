"""What people wrote on latents: label, note, star."""

from __future__ import annotations

import time
from collections.abc import Collection

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.models import Label
from sae.errors import UserError

MAX_TEXT, MAX_NOTE = 200, 10_000


def get(db: Session, sae_id: str, latent: int) -> Label | None:
    """The label of one latent, or None where nobody wrote any."""
    return db.get(Label, (sae_id, latent))


def of_latents(db: Session, sae_id: str, latents: Collection[int]) -> dict[int, Label]:
    """The labels of these latents, by number; latents without one are left out."""
    rows = db.scalars(select(Label).where(Label.sae_id == sae_id, Label.latent.in_(latents)))
    return {row.latent: row for row in rows}


def texts(db: Session, sae_id: str) -> dict[int, str]:
    """What is written on the latents of this SAE, by number; those without a text are left out."""
    rows = db.execute(select(Label.latent, Label.text).where(Label.sae_id == sae_id, Label.text != ""))
    return {row.latent: row.text for row in rows}


def starred(db: Session, sae_id: str) -> frozenset[int]:
    """The latents of this SAE that bear a star."""
    return frozenset(db.scalars(select(Label.latent).where(Label.sae_id == sae_id, Label.starred)))


def search(db: Session, text: str, sae_id: str | None = None, limit: int = 1000) -> list[Label]:
    """Labels and notes that hold `text` (case apart), of one SAE or of all, newest first."""
    pattern = _without_nul(text).lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    query = select(Label).where(or_(
        func.lower(Label.text).like(f"%{pattern}%", escape="\\"),
        func.lower(Label.note).like(f"%{pattern}%", escape="\\")))
    if sae_id is not None:
        query = query.where(Label.sae_id == sae_id)
    return list(db.scalars(query.order_by(Label.updated.desc(), Label.latent).limit(limit)))


def save(
    db: Session, sae_id: str, latent: int, author: str, *, text: str | None = None, note: str | None = None,
    star: bool | None = None,
) -> Label:
    """Write what is given (None: as it was) and commit.  Raises UserError where it is too long."""
    for field, value, limit in (("text", text, MAX_TEXT), ("note", note, MAX_NOTE)):
        if value is not None and len(value) > limit:
            raise UserError(f"{field}: {len(value):,} characters; {limit:,} at most", field)
    row = get(db, sae_id, latent)
    if row is None:
        row = Label(sae_id=sae_id, latent=latent, text="", note="", starred=False)
        db.add(row)
    if text is not None:
        row.text = " ".join(_without_nul(text).split())
    if note is not None:
        row.note = _without_nul(note).strip()
    if star is not None:
        row.starred = star
    row.author, row.updated = author, time.time()
    try:
        db.commit()
    except IntegrityError:  # somebody else wrote the first label of this latent a moment ago
        db.rollback()
        return save(db, sae_id, latent, author, text=text, note=note, star=star)
    return row


def _without_nul(text: str) -> str:
    """SQLite takes NUL for the end of a text where it compares, and Postgres takes none at all."""
    return text.replace("\0", " ")
