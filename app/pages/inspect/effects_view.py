"""A latent's effects on the model: output score and ablation, asked of the model worker and kept.

They belong to a build, whose maximum activations are the unit and whose strongest contexts are read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy.orm import Session

from app.db.tables import LatentEffect, Sae
from app.library.latent_effects import stored
from app.render.token_text import signed_class, token_label
from app.worker.protocol import Ablate, Ablated, Effect, LatentScore, Score
from sae.steering.measurement_requests import AblationRequest, ScoreRequest
from sae.store.build import Build
from sae.store.records import Latent, Token
from sae.store.schema import TOP_BAND
from sae.workspace.paths import Workspace

CONTEXTS = 16
STRENGTH = ScoreRequest.model_fields["strength"].default
PROMPTS = len(ScoreRequest.model_fields["prompts"].default)


def score_message(sae: Sae, build: Build, latents: Sequence[int], workspace: Workspace) -> Score:
    """Return the request for output scores; a latent that never fired has no maximum, and so no score."""
    rates = build.firing_rates
    request = ScoreRequest(
        model=str(sae.config["model"]["name"]), sae=sae.id, latents=tuple(latents),
        max_acts=tuple(rates.get(latent, (0.0, 0.0))[1] for latent in latents))
    return Score(request=request, folders={sae.id: str(workspace.sae(sae.id))})


def ablation_message(sae: Sae, build: Build, latent: Latent, workspace: Workspace) -> Ablate | None:
    """Return the request for ablation effects on the latent's strongest contexts; None if it has none."""
    bos = build.meta["bos_token"]  # None: contexts do not begin with BOS
    rows = [c.tokens for c in build.contexts(latent.latent) if c.band == TOP_BAND][:CONTEXTS]
    contexts = tuple(tuple(ids if bos in (None, ids[0]) else [bos, *ids]) for ids in rows if len(ids) > 1)
    if not contexts:
        return None
    request = AblationRequest(
        model=str(sae.config["model"]["name"]), sae=sae.id, latent=latent.latent, contexts=contexts)
    return Ablate(request=request, folders={sae.id: str(workspace.sae(sae.id))})


# ---- kept


def store_scores(db: Session, sae: Sae, found: Sequence[LatentScore]) -> None:
    """Store output scores."""
    for one in found:
        row = _row(db, sae, one.latent)
        row.score, row.tokens = one.score, {"ids": one.tokens}
    db.commit()


def store_ablation(db: Session, sae: Sae, found: Ablated) -> None:
    """Store the effects of ablating a latent."""
    _row(db, sae, found.latent).ablation = found.model_dump(exclude={"type"})
    db.commit()


def _row(db: Session, sae: Sae, latent: int) -> LatentEffect:
    row = stored(db, sae, latent)
    if row is None:
        row = LatentEffect(sae_id=sae.id, build_id=str(sae.current_build), latent=latent)
        db.add(row)
    row.updated = time.time()
    return row


# ---- shown


@dataclass(frozen=True)
class EffectLine:
    """One measure of an ablation, for the latent and for random directions (mean and maximum)."""

    name: str
    latent: float
    random: float
    random_most: float


@dataclass(frozen=True)
class MovedToken:
    """A token whose probability ablation moves."""

    label: str
    before: float
    after: float
    css: str


@dataclass(frozen=True)
class EffectView:
    """The effects as the page shows them; parts that were not measured are empty."""

    score: float | None
    score_tokens: list[str]
    measured: bool
    lines: list[EffectLine]
    contexts: int
    firings: int
    sparsity: float | None
    random_sparsity: float | None
    moved: list[MovedToken]


_MEASURES = (("ce_at", "ΔCE where it fires"), ("kl_at", "KL where it fires"), ("ce_after", "ΔCE on later tokens"),
             ("kl_after", "KL on later tokens"))


def effect_view(row: LatentEffect, build: Build) -> EffectView:
    """Return the stored effects of a latent as the page shows them."""
    ids = (row.tokens or {}).get("ids", [])
    info = build.vocabulary
    labels = [token_label(info[i]) for i in ids]
    if row.ablation is None:
        return EffectView(row.score, labels, row.tokens is not None, [], 0, 0, None, None, [])
    found = Ablated.model_validate(row.ablation)
    return EffectView(
        row.score, labels, row.tokens is not None, [_line(found, key, name) for key, name in _MEASURES],
        len(found.firings), sum(found.firings), found.sparsity, found.random_sparsity, [
            MovedToken(token_label(Token(t.id, t.piece.encode("latin-1"), False, 0)), t.baseline, t.steered,
                       signed_class(t.steered - t.baseline, 1.0)) for t in found.tokens])


def _line(found: Ablated, key: str, name: str) -> EffectLine:
    """Return the means over the contexts in which the latent fires."""
    kept = [place for place, n in enumerate(found.firings) if n]

    def mean(effect: Effect) -> float:
        values = getattr(effect, key)
        return fmean(values[place] for place in kept) if kept else 0.0

    others = [mean(effect) for effect in found.random]
    return EffectLine(name, mean(found.effect), fmean(others) if others else 0.0, max(others, default=0.0))
