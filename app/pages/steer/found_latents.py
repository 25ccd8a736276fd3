"""Latents that a text may mean, for the field that adds one to the steering form."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.library.latent_names import names_of
from app.library.latent_search import Reason, search_latents
from app.render.token_text import Row, context_row
from sae.store.build import Build

SHOWN = 8


@dataclass(frozen=True)
class FoundLatent:
    """A latent with the best reason for which it was found, its name, and its strongest context."""

    latent: int
    reason: Reason
    label: str
    snippet: Row | None


def found_latents(db: Session, build: Build, sae_id: str, text: str) -> list[FoundLatent]:
    """Return the latents of an SAE that fit the text, best first."""
    found = [one for one in search_latents(db, build, sae_id, text, SHOWN) if one.latent < build.n_latents]
    names = names_of(db, build, sae_id, [one.latent for one in found])
    out = []
    for one in found:
        context = build.snippets([one.latent], one.token).get(one.latent)
        row = context_row(context, build.vocabulary, context.act, "snippet") if context is not None else None
        out.append(FoundLatent(one.latent, one.best[0], names.get(one.latent, ""), row))
    return out
