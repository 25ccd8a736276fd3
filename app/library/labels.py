"""What people wrote on latents: label, note, tags, star."""

from __future__ import annotations

import time
from collections.abc import Collection

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.tables import Label
from sae.errors import UserError

MAX_TEXT, MAX_NOTE = 200, 10_000
# Put together once: every page of a latent asks it, and to build a statement takes longer than to run it.
_OF_LATENTS = select(Label).where(
    Label.sae_id == bindparam("sae"), Label.latent.in_(bindparam("latents", expanding=True)))


def get(db: Session, sae_id: str, latent: int) -> Label | None:
    """The label of one latent, or None where nobody wrote any."""
    return db.get(Label, (sae_id, latent))


def of_latents(db: Session, sae_id: str, latents: Collection[int]) -> dict[int, Label]:
    """The labels of these latents, by number; latents without one are left out."""
    return {row.latent: row for row in db.scalars(_OF_LATENTS, {"sae": sae_id, "latents": list(latents)})}


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


def everything(db: Session, sae_id: str) -> list[Label]:
    """All that is written on the latents of this SAE, by number."""
    return list(db.scalars(select(Label).where(Label.sae_id == sae_id).order_by(Label.latent)))


def tagged(db: Session, sae_id: str) -> dict[str, frozenset[int]]:
    """The latents of every tag, the tags in the order of the alphabet."""
    found: dict[str, set[int]] = {}
    for row in db.execute(select(Label.latent, Label.tags).where(Label.sae_id == sae_id, Label.tags != "")):
        for tag in row.tags.split(", "):
            found.setdefault(tag, set()).add(row.latent)
    return {tag: frozenset(found[tag]) for tag in sorted(found)}


def save(
    db: Session, sae_id: str, latent: int, author: str, *, text: str | None = None, note: str | None = None,
    tags: str | None = None, star: bool | None = None,
) -> Label:
    """Write what is given (None: as it was) and commit.  Raises UserError where it is too long."""
    row = put(db, sae_id, latent, author, text=text, note=note, tags=tags, star=star)
    try:
        db.commit()
    except IntegrityError:  # somebody else wrote the first label of this latent a moment ago
        db.rollback()
        return save(db, sae_id, latent, author, text=text, note=note, tags=tags, star=star)
    return row


def put(
    db: Session, sae_id: str, latent: int, author: str, *, text: str | None = None, note: str | None = None,
    tags: str | None = None, star: bool | None = None,
) -> Label:
    """As `save`, without the commit."""
    for field, value, limit in (("text", text, MAX_TEXT), ("note", note, MAX_NOTE), ("tags", tags, MAX_TEXT)):
        if value is not None and len(value) > limit:
            raise UserError(f"{field}: {len(value):,} characters; {limit:,} at most", field)
    row = get(db, sae_id, latent)
    if row is None:
        row = Label(sae_id=sae_id, latent=latent, text="", note="", tags="", starred=False)
        db.add(row)
    if text is not None:
        row.text = " ".join(_without_nul(text).split())
    if note is not None:
        row.note = _without_nul(note).strip()
    if tags is not None:
        row.tags = ", ".join(sorted({" ".join(tag.split()) for tag in _without_nul(tags).split(",")} - {""}))
    if star is not None:
        row.starred = star
    row.author, row.updated = author, time.time()
    return row


def _without_nul(text: str) -> str:
    """SQLite takes NUL for the end of a text where it compares, and Postgres takes none at all."""
    return text.replace("\0", " ")
