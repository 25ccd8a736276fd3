"""Which latents fire on texts, for programs: many texts at once, with sparse activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.db.tables import Sae
from app.library import labels
from app.pages.api.security import BEARER
from app.pages.dependencies import Tools, ToolsDep
from app.pages.inspect.form import InspectForm, InspectionQuery, check
from app.pages.inspect.inspect import keyed_message, saes_of
from app.pages.inspect.lookup import readings
from app.pages.inspect.view import Reading, ranked, text_latents
from app.pages.markup_choice import markup_word
from app.pages.sae_page import open_build
from app.worker.cached_requests import fault_answer
from app.worker.protocol import Inspect, Inspected
from sae.errors import UserError
from sae.steering.measurement_requests import MAX_TOP, InspectRequest

router = APIRouter(prefix="/api/inspect", tags=["inspecting"], dependencies=[BEARER])

MAX_BATCH = 32
_PATIENCE_S = 60.0  # for one text
_SAE = "demo/2-res-batchtopk-4k"


class InspectIn(BaseModel):
    """Texts, and the SAE that reads them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"sae": _SAE, "texts": ["def f(self):", "class A:"], "top": 5},
        {"sae": _SAE, "texts": ["def f(self):"], "latents": [39]}]})

    sae: str
    texts: list[str] = Field(min_length=1, max_length=MAX_BATCH)
    latents: list[int] = Field(
        default=[], max_length=MAX_TOP, description="Only these latents; empty: all that fire, on each token the "
        f"strongest {MAX_TOP}")
    top: int = Field(default=20, ge=0, le=10_000, description="Number of ranked latents for each text")
    rank: Literal["max", "sum", "surprise"] = "max"
    dense: bool = Field(default=False, description="Also rank latents that fire on a tenth of all tokens or more")
    markup: bool | None = Field(
        default=None, description="Whether special tokens that are spelled in the texts are read as these tokens; null "
        "leaves it to the SAE")


class TokenOut(BaseModel):
    """A token of a text.  Special tokens such as BOS do not count in the ranking."""

    id: int
    text: str
    special: bool
    l0: int = Field(description="Number of latents that fire on it")


class TextLatentOut(BaseModel):
    """A latent in a text."""

    latent: int
    label: str
    max: float
    sum: float
    n: int = Field(description="Number of tokens on which it fires")
    peak: int = Field(description="The position of the maximum")
    surprise: float = Field(description="In bits: how much more often it fires here than on the text of its index")
    density: float


class TextOut(BaseModel):
    """A text: its tokens, BOS first, the activations as triplets, and the ranked latents.

    `activations[i]` is the activation of `latents[i]` at `positions[i]`; a pair that is not listed has 0.
    """

    tokens: list[TokenOut]
    positions: list[int]
    latents: list[int]
    activations: list[float]
    ranked: list[TextLatentOut]


class InspectOut(BaseModel):
    """The texts in their order."""

    sae: str
    build: str
    texts: list[TextOut]


@router.post("", summary="The latents that fire on each of some texts (scope read)")
async def inspect(body: InspectIn, tools: ToolsDep) -> InspectOut:
    """Read the texts with the SAE.  They count as one request against the limit."""
    queries = await run_in_threadpool(_queries, body, tools)
    (sae,) = await run_in_threadpool(saes_of, tools, queries[0])
    read = [await _reading(body, query, sae, tools) for query in queries]
    return await run_in_threadpool(_out, body, sae, read, tools)


def _queries(body: InspectIn, tools: Tools) -> list[InspectionQuery]:
    """Check every text as the inspector's form does.  Raises UserError that names the text by its place."""
    out = []
    for place, text in enumerate(body.texts):
        form = InspectForm(text=text.replace("\r\n", "\n"), sae=body.sae, markup=markup_word(body.markup))
        query = check(form, tools.catalog)
        if query is None:
            field, said = next(iter(form.errors.items()))
            field = f"texts.{place}" if field == "text" else field
            raise UserError(f"{field}: {said}", field)
        out.append(query)
    return out


async def _reading(body: InspectIn, query: InspectionQuery, sae: Sae, tools: Tools) -> Reading:
    key, message = keyed_message(tools, query, [sae])
    if body.latents:
        chosen = tuple(dict.fromkeys(body.latents))
        if wrong := [number for number in chosen if not 0 <= number < sae.n_latents]:
            raise UserError(f"latents: {sae.id} has {sae.n_latents:,} latents; there is no {wrong[0]}", "latents")
        key = ("chosen", key, chosen)
        asked = InspectRequest(model=message.request.model, saes=query.saes, texts=query.texts, top=1, latents=chosen,
                               markup=message.request.markup)
        message = Inspect(request=asked, folders=message.folders)
    cached = await tools.cached_requests.ask(key, message, _PATIENCE_S)
    if not isinstance(cached.last, Inspected):
        words, status, headers = fault_answer(cached)
        raise HTTPException(status, words, headers)
    return readings(cached.last)[0]


def _out(body: InspectIn, sae: Sae, read: Sequence[Reading], tools: Tools) -> InspectOut:
    chosen = frozenset(body.latents)
    with open_build(tools.builds, sae) as build:
        texts = labels.texts(tools.db, sae.id)
        out = []
        for reading in read:
            rows = [row for row in text_latents(reading, build) if not chosen or row.latent in chosen]
            best = ranked(rows, body.rank, body.dense or bool(chosen))[: body.top]
            out.append(TextOut(
                tokens=_tokens(reading), **_triplets(reading, chosen),
                ranked=[TextLatentOut(
                    latent=row.latent, label=texts.get(row.latent, ""), max=row.max, sum=row.sum, n=row.n,
                    peak=row.peak, surprise=row.surprise, density=row.density) for row in best]))
        return InspectOut(sae=sae.id, build=build.id, texts=out)


def _tokens(reading: Reading) -> list[TokenOut]:
    return [TokenOut(id=token, text=piece.decode("utf-8", errors="replace"), special=special, l0=l0)
            for token, piece, special, l0 in zip(
                reading.ids, reading.pieces, reading.special, reading.l0, strict=True)]


def _triplets(reading: Reading, chosen: frozenset[int]) -> dict[str, list[Any]]:
    found = [(position, latent, act) for position, row in enumerate(reading.firings) for latent, act in row
             if not chosen or latent in chosen]
    return {"positions": [one[0] for one in found], "latents": [one[1] for one in found],
            "activations": [one[2] for one in found]}
