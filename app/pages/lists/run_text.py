"""A text run through all members of a list: each member's activation on every token.

The SAEs of one model read the text in one pass; members of several models take one pass each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from app.db.people_tables import ListMember
from app.db.tables import Sae
from app.pages.dependencies import Tools
from app.pages.inspect.form import InspectForm, check
from app.render.token_text import Piece, text_pieces
from app.worker.cached_requests import CachedRequest, fault_answer
from app.worker.protocol import Inspect, Inspected, InspectedText, TextLatents
from sae.errors import UserError
from sae.steering.measurement_requests import MAX_SAES, MAX_TOP, InspectRequest
from sae.store.records import Token

MAX_TESTED = MAX_TOP  # members


@dataclass(frozen=True)
class LatentRun:
    """A member on the text: its tokens and activations, BOS first, its maximum and firings without special tokens."""

    sae: str
    latent: int
    tokens: list[str]
    acts: list[float]
    max: float
    n: int
    share: float | None  # of the latent's own maximum in the text of its index
    pieces: list[Piece]


@dataclass
class TextRun:
    """The members on the text; `waiting` and `fault` say why some are missing."""

    rows: list[LatentRun] = field(default_factory=list)
    waiting: str = ""
    fault: str = ""
    status: int = 200
    silent: int = 0  # members without weights, which cannot read a text


async def run_text(tools: Tools, members: Sequence[ListMember], text: str, patience_s: float) -> TextRun:
    """Run a text through the first `MAX_TESTED` members.  Raises UserError (field `text`) if it cannot be read."""
    by_model, out = await run_in_threadpool(_readers, tools, members[:MAX_TESTED]), TextRun()
    out.silent = len(members[:MAX_TESTED]) - sum(len(one.members) for one in by_model)
    for readers in by_model:
        await run_in_threadpool(_check_text, tools, readers.saes[0], text)
        cached = await _ask(tools, readers, text, patience_s)
        if isinstance(cached.last, Inspected):
            out.rows += await run_in_threadpool(_tested, tools, readers, cached.last.texts[0])
        elif cached.last is None:
            out.waiting = cached.note
        else:
            out.fault, out.status, _ = fault_answer(cached)
    return out


@dataclass(frozen=True)
class _Readers:
    """The SAEs of one model, and the members that are their latents."""

    saes: tuple[Sae, ...]
    members: list[ListMember]


def _readers(tools: Tools, members: Sequence[ListMember]) -> list[_Readers]:
    by_model: dict[str, dict[str, Sae]] = {}
    for sae_id in dict.fromkeys(one.sae_id for one in members):
        sae = tools.catalog.get_sae(sae_id)
        if sae is not None and sae.current_build is not None and not sae.weightless:
            by_model.setdefault(str(sae.config["model"]["name"]), {})[sae_id] = sae
    return [_Readers(tuple(saes.values())[:MAX_SAES], [one for one in members if one.sae_id in list(saes)[:MAX_SAES]])
            for saes in by_model.values()]


def _check_text(tools: Tools, sae: Sae, text: str) -> None:
    form = InspectForm(text=text, sae=sae.id)
    if check(form, tools.catalog) is None:
        name, said = next(iter(form.errors.items()))
        raise UserError(f"{name}: {said}", name)


async def _ask(tools: Tools, readers: _Readers, text: str, patience_s: float) -> CachedRequest:
    ids = tuple(sae.id for sae in readers.saes)
    latents = tuple(sorted({one.latent for one in readers.members}))
    request = InspectRequest(
        model=str(readers.saes[0].config["model"]["name"]), saes=ids, texts=(text,), top=1, latents=latents)
    message = Inspect(request=request, folders={one: str(tools.workspace.sae(one)) for one in ids})
    marks = tuple((sae.id, sae.current_build, sae.created) for sae in readers.saes)
    return await tools.cached_requests.ask(("list", text, latents, marks), message, patience_s)


def _tested(tools: Tools, readers: _Readers, text: InspectedText) -> list[LatentRun]:
    pieces = [piece.encode("latin-1") for piece in text.pieces]
    info = {i: Token(i, piece, special, 0) for i, piece, special in zip(text.ids, pieces, text.special, strict=True)}
    tokens = [piece.decode("utf-8", errors="replace") for piece in pieces]
    out = []
    for sae, read in zip(readers.saes, text.saes, strict=True):
        with tools.builds.use(sae.id, sae.current_build or "") as build:
            for one in (member for member in readers.members if member.sae_id == sae.id):
                acts = _activations(read, one.latent, len(text.ids))
                counted = [act for act, special in zip(acts, text.special, strict=True) if not special]
                most, top = max(counted, default=0.0), build.facts(one.latent, "max_act").get("max_act") or 0.0
                out.append(LatentRun(
                    sae.id, one.latent, tokens, acts, most, sum(act > 0 for act in counted),
                    most / top if top else None, text_pieces(text.ids, info, acts, max(top, most))))
    return out


def _activations(read: TextLatents, latent: int, n: int) -> list[float]:
    acts = [0.0] * n
    for position, number, act in zip(read.pos, read.lat, read.act, strict=True):
        if number == latent:
            acts[position] = act
    return acts
