"""The stored measurements of latents' effects on the model."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import LatentEffect, Sae


def stored(db: Session, sae: Sae, latent: int) -> LatentEffect | None:
    """Return a latent's stored effects in the SAE's current build, or None."""
    return db.get(LatentEffect, (sae.id, sae.current_build, latent))


def scores(db: Session, sae_id: str, build_id: str) -> dict[int, float]:
    """Return the measured output scores by latent."""
    rows = db.execute(select(LatentEffect.latent, LatentEffect.score).where(
        LatentEffect.sae_id == sae_id, LatentEffect.build_id == build_id, LatentEffect.score.is_not(None)))
    return {row.latent: float(row.score) for row in rows}
