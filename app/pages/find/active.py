"""Latents that are active on a text, over all SAEs of a model: one forward pass, one ranked list.

SAEs of different layers and normalisations have activations on different scales.  So `max` and `sum` are in units of
each latent's own maximum in the text of its index.  Surprise is a number of bits and needs no unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import nsmallest

from app.db.tables import Sae
from app.pages.dependencies import Tools
from app.pages.sae_choice import computable_saes
from app.worker.cached_requests import CachedRequest
from app.worker.protocol import Inspect, InspectedText, TextLatents
from sae.errors import UserError
from sae.lm.model_info import find_model
from sae.lm.prompts import prompt_length
from sae.steering.measurement_requests import MAX_SAES, MAX_TEXT_CHARACTERS, MAX_TEXT_TOKENS, InspectRequest
from sae.store.build import Build
from sae.store.records import DENSE_DENSITY

LISTED = 50
PATIENCE_OF_PROGRAMS_S = 60.0


@dataclass(frozen=True)
class TextSearch:
    """A text, the SAEs that read it (all of one model), and the ranking of the latents."""

    text: str
    saes: tuple[Sae, ...]
    rank: str = "max"
    dense: bool = False
    top: int = LISTED


@dataclass(frozen=True)
class ActiveLatent:
    """A latent that is active on the text: its score, and in activation units its maximum at `peak` and its sum."""

    sae: str
    latent: int
    score: float
    max: float
    sum: float
    n: int
    peak: int
    token: str
    surprise: float
    density: float
    max_act: float


def chosen_saes(tools: Tools, model: str, sae_id: str) -> tuple[Sae, ...]:
    """Return the SAE with this id, or the SAEs of this model, or those of the model with the best SAE.

    SAEs without weights or index are left out.  Raises UserError (field `sae` or `model`) if none remains.
    """
    every, sae_id = computable_saes(tools.catalog), tools.catalog.present_id(sae_id)
    if sae_id:
        found = [sae for sae in every if sae.id == sae_id]
        said = f"sae: there is no SAE {sae_id} here that can read a text"
    else:
        name = model or next((sae.model for sae in every), "")
        found = [sae for sae in every if sae.model == name and not sae.hidden]
        said = f"model: there is no SAE{f' of {name}' if name else ''} here that can read a text"
    if not found:
        raise UserError(said, "sae" if sae_id else "model")
    return tuple(found[:MAX_SAES])


def text_fault(text: str, sae: Sae | None) -> str:
    """Return why the SAE's model cannot read this text; "" where it can.  Without an SAE, tokens are not counted.

    Raises UserError if the model is not available.
    """
    if not text.strip():
        return "type or paste some text"
    if len(text) > MAX_TEXT_CHARACTERS:
        return f"{len(text):,} characters; {MAX_TEXT_CHARACTERS:,} at most"
    tokens = prompt_length(find_model(str(sae.config["model"]["name"])), text) if sae is not None else None
    too_many = tokens is not None and tokens > MAX_TEXT_TOKENS
    return f"{tokens:,} tokens with BOS; {MAX_TEXT_TOKENS:,} at most" if too_many else ""


def check_text(asked: TextSearch) -> None:
    """Raise UserError for an empty or too long text (field `text`), or if the model is not available."""
    if said := text_fault(asked.text, asked.saes[0]):
        raise UserError(f"text: {said}", "text")


async def ask(tools: Tools, asked: TextSearch, patience_s: float) -> CachedRequest:
    """Let the model worker read the text with all SAEs.  Other rankings of the same text use the same answer."""
    ids = tuple(sae.id for sae in asked.saes)
    request = InspectRequest(
        model=str(asked.saes[0].config["model"]["name"]), saes=ids, texts=(asked.text,), top=1)
    message = Inspect(request=request, folders={one: str(tools.workspace.sae(one)) for one in ids})
    key = ("search", asked.text, *((sae.id, sae.current_build, sae.created) for sae in asked.saes))
    return await tools.cached_requests.ask(key, message, patience_s)


def surprise(n: int, total: int, density: float) -> float:
    """Return T·KL(n/T ‖ p) in bits for `n` of `total` tokens at `density`; 0 where that is no more than usual."""
    share = n / total if total else 0.0
    if share <= density or density <= 0:
        return 0.0
    bits = n * math.log2(share / density)
    if share < 1:
        bits += (total - n) * math.log2((1 - share) / (1 - density))
    return bits


def ranked_latents(tools: Tools, asked: TextSearch, text: InspectedText) -> list[ActiveLatent]:
    """Return the latents of all SAEs in one list, best first.  Always-on latents are left out unless asked for."""
    found: list[ActiveLatent] = []
    for sae, read in zip(asked.saes, text.saes, strict=True):
        with tools.builds.use(sae.id, sae.current_build or "") as build:
            found += _of_sae(asked, text, read, build)
    return nsmallest(asked.top, found, key=lambda one: (-one.score, one.sae, one.latent))


def _of_sae(asked: TextSearch, text: InspectedText, read: TextLatents, build: Build) -> list[ActiveLatent]:
    total, least = text.special.count(False), 0.5 / max(float(build.meta["tokens"]), 1.0)
    rates = build.firing_rates
    out = []
    for row in read.ranked:
        density, top = rates.get(row.latent, (0.0, 0.0))
        if density > DENSE_DENSITY and not asked.dense:
            continue
        bits = surprise(row.n, total, max(density, least))
        unit = top or row.max or 1.0  # a latent that never fired in its index has no unit but this text
        score = {"max": row.max / unit, "sum": row.sum / unit, "surprise": bits}[asked.rank]
        out.append(ActiveLatent(
            read.sae, row.latent, score, row.max, row.sum, row.n, row.peak, "", bits, density, top))
    best = nsmallest(asked.top, out, key=lambda one: (-one.score, one.latent))
    return [ActiveLatent(**vars(one) | {"token": piece(text, one.peak)}) for one in best]


def piece(text: InspectedText, position: int) -> str:
    """Return the token at a position."""
    return text.pieces[position].encode("latin-1").decode("utf-8", errors="replace")
