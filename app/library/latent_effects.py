"""What was measured of latents' effects on the model, as it is stored."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import LatentEffect, Sae


def stored(db: Session, sae: Sae, latent: int) -> LatentEffect | None:
    """What was measured of a latent in the SAE's present build."""
    return db.get(LatentEffect, (sae.id, sae.current_build, latent))


def scores(db: Session, sae_id: str, build_id: str) -> dict[int, float]:
    """The output scores that were measured, by latent."""
    rows = db.execute(select(LatentEffect.latent, LatentEffect.score).where(
        LatentEffect.sae_id == sae_id, LatentEffect.build_id == build_id, LatentEffect.score.is_not(None)))
    return {row.latent: float(row.score) for row in rows}
