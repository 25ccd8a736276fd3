"""The stars of signed-in users.  `app.pages.stars` keeps those of other visitors in their browsers."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from app.db.people_tables import Star
from app.db.tables import User

# Built once, because every page of a latent asks it.
_OF_USER = select(Star.latent).where(Star.user_id == bindparam("user"), Star.sae_id == bindparam("sae"))


def of_user(db: Session, user: User, sae_id: str) -> frozenset[int]:
    """Return the latents of an SAE that the user has starred."""
    return frozenset(db.scalars(_OF_USER, {"user": user.id, "sae": sae_id}))


def of_saes(db: Session, user: User, sae_ids: Collection[str]) -> frozenset[tuple[str, int]]:
    """Return (SAE, latent) of the user's stars in some SAEs."""
    rows = db.execute(select(Star.sae_id, Star.latent).where(Star.user_id == user.id, Star.sae_id.in_(sae_ids)))
    return frozenset((row.sae_id, row.latent) for row in rows)


def of_anyone(db: Session, sae_id: str) -> frozenset[int]:
    """Return the latents of an SAE that some user has starred."""
    return frozenset(db.scalars(select(Star.latent).where(Star.sae_id == sae_id).distinct()))


def put(db: Session, user: User, sae_id: str, latent: int, *, on: bool) -> None:
    """Star a latent or remove its star, without a commit.  Doing either twice is no error."""
    here = Star.user_id == user.id, Star.sae_id == sae_id, Star.latent == latent
    if not on:
        db.execute(delete(Star).where(*here))
    elif db.scalar(select(Star.latent).where(*here)) is None:
        db.add(Star(user_id=user.id, sae_id=sae_id, latent=latent))
