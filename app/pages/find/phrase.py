"""A phrase as a model reads it: the latents of the scope that are active on it, for the same ranked list.

A page shows what it finds at once, and asks for the list again with the model's part (`Reading.url`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from app.library.latent_search import Hit, active_on, is_phrase
from app.pages.dependencies import Tools
from app.pages.find.active import ActiveLatent, TextSearch, ask, check_text, chosen_saes, ranked_latents
from app.pages.find.latents import Result, Scope
from app.render.numbers import percent
from app.render.token_text import dotted, visible
from app.worker.cached_requests import PATIENCE_S, fault_answer
from app.worker.protocol import Inspected
from sae.errors import UserError

RANKED = 400  # active latents that the list is made from: more than it shows, for one may fit in other ways, too


@dataclass(frozen=True)
class Read:
    """What the model says of a phrase: hits by SAE, or why it has not answered: `waiting`, or `fault`."""

    active: Mapping[str, Sequence[Hit]] = field(default_factory=dict)
    waiting: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Reading:
    """The model's part of a list: the address that has it ("" for a word, or without a model), and what it said.

    `read` is None where the model was not asked.  `page` is the address of a whole page with the list.
    """

    url: str
    read: Read | None = None
    page: str = ""

    @property
    def due(self) -> bool:
        """Return whether the list is to be loaded again."""
        return bool(self.url) and (self.read is None or bool(self.read.waiting))


@dataclass(frozen=True)
class Found:
    """A list of found latents with the model's part of it."""

    results: list[Result]
    reading: Reading


def reading(scope: Scope, text: str, url: str, read: Read | None = None, page: str = "") -> Reading:
    """Return the model's part of a list, which is at `url`."""
    return Reading(url if scope.reader is not None and is_phrase(text) else "", read, page or url)


async def read_phrase(tools: Tools, scope: Scope, text: str, patience_s: float | None = None) -> Read:
    """Let the model read a text with the SAEs of the scope that can."""
    if scope.reader is None or not text:
        return Read()
    try:
        saes = await run_in_threadpool(
            chosen_saes, tools, scope.reader.model, scope.current.id if scope.current else "")
        asked = TextSearch(text, saes, top=RANKED)
        await run_in_threadpool(check_text, asked)
    except UserError as error:
        return Read(fault=str(error).partition(": ")[2])
    cached = await ask(tools, asked, PATIENCE_S if patience_s is None else patience_s)
    if cached.last is None:
        return Read(waiting=cached.note)
    if not isinstance(cached.last, Inspected):
        return Read(fault=fault_answer(cached)[0])
    active: dict[str, list[Hit]] = {}
    n_tokens = cached.last.texts[0].special.count(False)
    for one in await run_in_threadpool(ranked_latents, tools, asked, cached.last.texts[0]):
        active.setdefault(one.sae, []).append(_hit(one, n_tokens))
    return Read(active)


def _hit(one: ActiveLatent, n_tokens: int) -> Hit:
    often = f"on {one.n} of {n_tokens} tokens"
    value = f"{percent(one.score)} of its maximum, {often}" if one.max_act else often
    return active_on(one.latent, one.score if one.max_act else 0.5, dotted(visible(one.token)), value)
