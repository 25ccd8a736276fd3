"""Lookups of the inspector: example texts, a latent's card, earlier inspections, the worker's answer as readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Inspection
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.pages.earlier import INSPECTED
from app.pages.explore import latent_views
from app.pages.inspect.view import Counted, Reading
from app.render.token_text import Row, context_row
from app.web.parameters import whole_number
from app.worker.protocol import Inspected, InspectedText, TextLatents
from sae.errors import UserError
from sae.lm.model_info import DEMO
from sae.store.build import Build
from sae.store.records import Latent
from sae.store.schema import TOP_BAND

CARD_CONTEXTS = 4
_EXAMPLE_TOKENS = 64
_DEMO_TEXT = '''def read_config(path):
    """Return the settings in the file, or None if there is no such file."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        return json.load(f)
'''


def context_text(catalog: Catalog, builds: Builds, sae_id: str, latent: str, context: str) -> str:
    """Return the text of a latent's context, named `<band>.<rank>`; "" if there is no such context."""
    sae = catalog.get_sae(sae_id)
    number = whole_number(latent)
    if sae is None or sae.current_build is None or number is None:
        return ""
    with builds.use(sae.id, sae.current_build) as build:
        for found in build.contexts(number):
            if f"{found.band}.{found.rank}" == context:
                return plain_text(build, found.tokens)
    return ""


def example(catalog: Catalog, builds: Builds, sae_id: str) -> str:
    """Return an example: the first tokens of a text that the SAE was indexed on."""
    sae = catalog.get_sae(sae_id)
    if sae is None or sae.current_build is None:
        return ""
    if sae.config["model"]["name"] == DEMO:
        return _DEMO_TEXT
    try:
        with builds.use(sae.id, sae.current_build) as build:
            samples = sorted(build.samples(), key=lambda sample: sample.doc_offset > 0)  # a document's beginning
            return plain_text(build, samples[0].tokens[:_EXAMPLE_TOKENS]) if samples else ""
    except UserError:  # the build is gone; the page says so where it matters
        return ""


@dataclass(frozen=True)
class EarlierInspection:
    """One inspection of this browser: its texts on one line each, and its SAEs."""

    id: str
    created: float
    text: str
    text2: str
    saes: list[str]


def earlier_inspections(db: Session, request: Request) -> list[EarlierInspection]:
    """Return the browser's inspections, newest first, without deleted ones."""
    ids = INSPECTED.read(request)
    if not ids:
        return []
    found = {row.id: row for row in db.scalars(select(Inspection).where(Inspection.id.in_(ids)))}
    return [_earlier(found[one]) for one in ids if one in found]


def _earlier(row: Inspection) -> EarlierInspection:
    first, *second = (" ".join(text.split()) for text in row.request["texts"])
    return EarlierInspection(row.id, row.created, first, "".join(second), list(row.request["saes"]))


def plain_text(build: Build, tokens: Sequence[int]) -> str:
    """Return tokens as text, without special tokens and broken characters."""
    info = build.vocabulary
    return b"".join(info[t].piece for t in tokens if not info[t].special).decode("utf-8", errors="ignore")


@dataclass(frozen=True)
class Card:
    """A latent in short."""

    latent: Latent
    fires_on: list[latent_views.TokenLine]
    adds: list[latent_views.TokenLine]
    rows: list[Row]


def card_of(build: Build, latent: Latent) -> Card:
    """Return the latent's tokens and its strongest contexts."""
    contexts = [c for c in build.contexts(latent.latent) if c.band == TOP_BAND][:CARD_CONTEXTS]
    info = build.vocabulary
    return Card(
        latent, latent_views.firing_lines(build, latent)[0][:3], latent_views.logit_lines(build, latent)[0][:4],
        [context_row(c, info, latent.max_act or 0.0, "snippet") for c in contexts])


def readings(answer: Inspected) -> list[Reading]:
    """Return the worker's answer as one reading for each text under each SAE, the SAEs changing slowest."""
    return [_reading(text, text.saes[place]) for place in range(len(answer.texts[0].saes)) for text in answer.texts]


def _reading(text: InspectedText, found: TextLatents) -> Reading:
    firings: list[list[tuple[int, float]]] = [[] for _ in text.ids]
    for position, latent, act in zip(found.pos, found.lat, found.act, strict=True):
        firings[position].append((latent, act))
    return Reading(
        text.ids, [piece.encode("latin-1") for piece in text.pieces], text.special, found.l0, firings,
        [Counted(row.latent, row.n, row.max, row.peak, row.sum) for row in found.ranked], frozenset(text.windows))
