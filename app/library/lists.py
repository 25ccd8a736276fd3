"""Named lists of latents: their members, notes, and files."""

from __future__ import annotations

import csv
import io
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.people_tables import LatentList, ListMember
from app.db.tables import Label
from app.library.label_files import harmless
from sae.errors import UserError

MAX_NAME, MAX_TEXT, MAX_NOTE = 80, 20_000, 2_000
MAX_MEMBERS = 1_000  # of one list, which a page shows whole
COLUMNS = ("sae", "latent", "label", "note", "author", "added")
_WITH = select(LatentList).join(ListMember, ListMember.list_id == LatentList.id).where(
    ListMember.sae_id == bindparam("sae"), ListMember.latent == bindparam("latent")).order_by(LatentList.name)


def every(db: Session) -> list[tuple[LatentList, int]]:
    """Return all lists with the number of their members, the last changed first."""
    counts = select(ListMember.list_id, func.count().label("n")).group_by(ListMember.list_id).subquery()
    rows = db.execute(select(LatentList, func.coalesce(counts.c.n, 0)).outerjoin(
        counts, counts.c.list_id == LatentList.id).order_by(LatentList.updated.desc(), LatentList.id))
    return [(row[0], row[1]) for row in rows]


def with_latent(db: Session, sae_id: str, latent: int) -> list[LatentList]:
    """Return the lists that a latent is in, by name."""
    return list(db.scalars(_WITH, {"sae": sae_id, "latent": latent}))


def find(db: Session, list_id: str) -> LatentList | None:
    """Return a list, or None if there is none with this id."""
    return db.get(LatentList, list_id)


def members(db: Session, list_id: str) -> list[ListMember]:
    """Return the members of a list in the order in which they were added."""
    return list(db.scalars(select(ListMember).where(ListMember.list_id == list_id).order_by(
        ListMember.added, ListMember.sae_id, ListMember.latent)))


def create(db: Session, author: str, name: str, description: str = "", test_text: str = "") -> LatentList:
    """Make an empty list and commit.  Raises UserError that names the field at fault."""
    made = LatentList(id=secrets.token_hex(6), author=author, **_checked(name, description, test_text))
    db.add(made)
    db.commit()
    return made


def change(
    db: Session, one: LatentList, name: str | None = None, description: str | None = None,
    test_text: str | None = None,
) -> None:
    """Change the given values (None: unchanged) and commit.  Raises UserError that names the field at fault."""
    given = {"name": name, "description": description, "test_text": test_text}
    values = {field: getattr(one, field) if value is None else value for field, value in given.items()}
    for field, value in _checked(**values).items():
        setattr(one, field, value)
    one.updated = time.time()
    db.commit()


def remove(db: Session, one: LatentList) -> None:
    """Delete a list with its members and commit."""
    db.execute(delete(ListMember).where(ListMember.list_id == one.id))
    db.execute(delete(LatentList).where(LatentList.id == one.id))
    db.commit()


def put(db: Session, one: LatentList, sae_id: str, latent: int, author: str, note: str | None = None) -> ListMember:
    """Add a latent, or change its note (None: unchanged), and commit.

    Raises UserError (field `note`, or `latent` if the list is full).
    """
    if note is not None and len(note) > MAX_NOTE:
        raise UserError(f"note: it has {len(note):,} characters; the limit is {MAX_NOTE:,}", "note")
    key = (one.id, sae_id, latent)
    member = db.get(ListMember, key)
    if member is None:
        n = db.scalar(select(func.count()).select_from(ListMember).where(ListMember.list_id == one.id)) or 0
        if n >= MAX_MEMBERS:
            raise UserError(f"latent: the list has {n:,} latents, which is the limit", "latent")
        member = ListMember(list_id=one.id, sae_id=sae_id, latent=latent, author=author, note="", added=time.time())
        db.add(member)
    if note is not None:
        member.note = _clean(note)
    one.updated = time.time()
    try:
        db.commit()
    except IntegrityError:  # somebody else added it at the same moment
        db.rollback()
        member = db.get_one(ListMember, key)
    return member


def take_out(db: Session, one: LatentList, sae_id: str, latent: int) -> None:
    """Remove a latent from a list and commit.  One that is not in it is no error."""
    db.execute(delete(ListMember).where(
        ListMember.list_id == one.id, ListMember.sae_id == sae_id, ListMember.latent == latent))
    one.updated = time.time()
    db.commit()


def rows(found: Sequence[ListMember], labels: dict[tuple[str, int], Label]) -> list[dict[str, Any]]:
    """Return the members as rows with the columns `COLUMNS`; `labels` are by SAE and latent."""
    return [{"sae": one.sae_id, "latent": one.latent, "note": one.note, "author": one.author, "added": one.added,
             "label": labels[one.sae_id, one.latent].text if (one.sae_id, one.latent) in labels else ""}
            for one in found]


def as_json(one: LatentList, members: list[dict[str, Any]]) -> str:
    """Return a list as a JSON file."""
    said = {"id": one.id, "name": one.name, "description": one.description, "test_text": one.test_text}
    return json.dumps({**said, "author": one.author, "latents": members}, ensure_ascii=False, indent=1)


def as_csv(members: list[dict[str, Any]]) -> str:
    """Return the members as CSV, with a `'` before cells that a spreadsheet would take for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([[harmless(row[name]) for name in COLUMNS] for row in members])
    return out.getvalue()


def _checked(name: str, description: str, test_text: str) -> dict[str, str]:
    name = " ".join(_clean(name).split())
    if not 1 <= len(name) <= MAX_NAME:
        raise UserError(f"name: use 1 to {MAX_NAME} characters", "name")
    for field, value in (("description", description), ("test_text", test_text)):
        if len(value) > MAX_TEXT:
            raise UserError(f"{field}: it has {len(value):,} characters; the limit is {MAX_TEXT:,}", field)
    return {"name": name, "description": _clean(description).strip(), "test_text": _clean(test_text)}


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\0", " ")
