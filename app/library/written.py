"""The kinds of things that are stored about a latent, asked in one query: about most latents nothing is."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import Session

from app.db.people_tables import Comment, ListMember
from app.db.tables import EarlierLabel, ExplanationScore, Label, LatentExplanation

_ABOUT = select(*(
    exists().where(table.sae_id == bindparam("sae"), table.latent == bindparam("latent"))
    for table in (Label, EarlierLabel, LatentExplanation, ExplanationScore, Comment, ListMember)),
    exists().where(LatentExplanation.sae_id == bindparam("sae")))


class Written(NamedTuple):
    """Whether a latent has a label, earlier labels, explanations, scores, comments, and a place in a list.

    `any_explained` is about all latents of its SAE.
    """

    label: bool
    earlier: bool
    explanations: bool
    scores: bool
    comments: bool
    listed: bool
    any_explained: bool


def about(db: Session, sae_id: str, latent: int) -> Written:
    """Return what is stored about a latent."""
    return Written(*map(bool, db.execute(_ABOUT, {"sae": sae_id, "latent": latent}).one()))
