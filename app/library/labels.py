"""Labels, notes and tags that people give to latents, and the earlier ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from app.db.tables import EarlierLabel, Label
from app.library import explanations
from app.library.explanation_texts import LABEL, NOTE, labels_of, notes_of
from sae.errors import UserError

MAX_TEXT, MAX_NOTE = 200, 10_000
_TRIES = 5  # a label that five others change while it is being written
T = TypeVar("T")
# These statements are built once: every page of a latent asks them, and building one takes longer than running it.
_OF_LATENTS = select(Label).where(
    Label.sae_id == bindparam("sae"), Label.latent.in_(bindparam("latents", expanding=True)))
_EARLIER = select(EarlierLabel).where(
    EarlierLabel.sae_id == bindparam("sae"), EarlierLabel.latent == bindparam("latent")).order_by(
    EarlierLabel.id.desc())


class LabelConflict(Exception):
    """A label that somebody else changed after it was read; `theirs` is what is stored now."""

    def __init__(self, theirs: Label) -> None:
        super().__init__(f"{theirs.author} changed this label in the meantime")
        self.theirs = theirs


def get(db: Session, sae_id: str, latent: int) -> Label | None:
    """Return the label of one latent, or None if it has none."""
    return db.get(Label, (sae_id, latent))


def of_latents(db: Session, sae_id: str, latents: Collection[int]) -> dict[int, Label]:
    """Return the labels of these latents by number; latents without one are left out."""
    return {row.latent: row for row in db.scalars(_OF_LATENTS, {"sae": sae_id, "latents": list(latents)})}


def of_saes(db: Session, latents: Mapping[str, Collection[int]]) -> dict[tuple[str, int], Label]:
    """Return the labels of latents of several SAEs, by SAE and number."""
    numbers = {number for some in latents.values() for number in some}
    rows = db.scalars(select(Label).where(Label.sae_id.in_(latents), Label.latent.in_(numbers)))
    return {(row.sae_id, row.latent): row for row in rows if row.latent in latents[row.sae_id]}


def texts(db: Session, sae_id: str) -> dict[int, str]:
    """Return the label texts of this SAE by latent; latents without a text are left out."""
    rows = db.execute(select(Label.latent, Label.text).where(Label.sae_id == sae_id, Label.text != ""))
    return {row.latent: row.text for row in rows}


def search(db: Session, text: str, sae_ids: Collection[str] | None = None, limit: int = 1000) -> list[Label]:
    """Return the labels of these SAEs, or of all, whose text or note contains the words of `text`, newest first."""
    if sae_ids is None:
        sae_ids = db.scalars(select(Label.sae_id).distinct()).all()
    found: dict[str, set[int]] = {}
    for texts_of in (labels_of, notes_of):
        for sae_id, texts in texts_of(db, sae_ids).items():
            found.setdefault(sae_id, set()).update(
                one.latent for one in texts.search(text, 10**9) if one.method in (LABEL, NOTE))
    rows = of_saes(db, found).values()
    return sorted(rows, key=lambda row: (-row.updated, row.latent))[:limit]


def everything(db: Session, sae_id: str) -> list[Label]:
    """Return every label of this SAE by latent."""
    return list(db.scalars(select(Label).where(Label.sae_id == sae_id).order_by(Label.latent)))


def tagged(db: Session, sae_id: str) -> dict[str, frozenset[int]]:
    """Return the latents of every tag, the tags in alphabetical order."""
    found: dict[str, set[int]] = {}
    for row in db.execute(select(Label.latent, Label.tags).where(Label.sae_id == sae_id, Label.tags != "")):
        for tag in row.tags.split(", "):
            found.setdefault(tag, set()).add(row.latent)
    return {tag: frozenset(found[tag]) for tag in sorted(found)}


def earlier(db: Session, sae_id: str, latent: int) -> list[EarlierLabel]:
    """Return the replaced labels of one latent, newest first."""
    return list(db.scalars(_EARLIER, {"sae": sae_id, "latent": latent}))


def save(
    db: Session, sae_id: str, latent: int, author: str, *, text: str | None = None, note: str | None = None,
    tags: str | None = None, seen: int | None = None,
) -> Label:
    """Write the given values (None: unchanged) and commit.  Raises as `put` does."""
    return commit(db, lambda: put(
        db, sae_id, latent, author, text=text, note=note, tags=tags, seen=seen))


def commit(db: Session, write: Callable[[], T]) -> T:
    """Call `write` and commit; repeat both if somebody else wrote one of its labels at the same moment."""
    for left in reversed(range(_TRIES)):
        try:
            made = write()
            db.commit()
            return made
        except (IntegrityError, StaleDataError):
            db.rollback()
            if not left:
                raise
    raise AssertionError


def put(
    db: Session, sae_id: str, latent: int, author: str, *, text: str | None = None, note: str | None = None,
    tags: str | None = None, seen: int | None = None,
) -> Label:
    """Write the given values (None: unchanged) without a commit; the label that they replace goes into the history.

    `seen` is the version that the author had before them (0: no label).  Raises LabelConflict where that was
    replaced by something else, and UserError for a value that is too long.
    """
    values = _cleaned(text=text, note=note, tags=tags)
    row = get(db, sae_id, latent)
    unseen = row is not None and seen is not None and seen != row.version
    if row is None:
        row = Label(sae_id=sae_id, latent=latent, text="", note="", tags="", author=author,
                    updated=time.time(), version=0)
        db.add(row)
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    if changed:
        if unseen:
            raise LabelConflict(row)
        if row.text or row.note or row.tags:
            db.add(EarlierLabel(sae_id=sae_id, latent=latent, text=row.text, note=row.note, tags=row.tags,
                                author=row.author, updated=row.updated))
        for name, value in changed.items():
            setattr(row, name, value)
        row.author, row.updated, row.version = author, time.time(), row.version + 1
        if "text" in changed:
            explanations.follow_label(db, row)
    return row


def _cleaned(**given: str | None) -> dict[str, str]:
    """Return the given values in the form in which they are stored.  Raises UserError if one is too long."""
    clean: dict[str, Callable[[str], str]] = {"text": _one_line, "note": str.strip, "tags": _tag_list}
    out = {}
    for field, value in given.items():
        limit = MAX_NOTE if field == "note" else MAX_TEXT
        if value is not None and len(value) > limit:
            raise UserError(f"{field}: it has {len(value):,} characters; the limit is {limit:,}", field)
        if value is not None:
            out[field] = clean[field](_without_nul(value))
    return out


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tag_list(text: str) -> str:
    """Return the tags sorted, each once, with commas between."""
    return ", ".join(sorted({_one_line(tag) for tag in text.split(",")} - {""}))


def _without_nul(text: str) -> str:
    """Replace NUL: SQLite ends a text there when it compares, and Postgres accepts none."""
    return text.replace("\0", " ")
