"""Examples on which explanations are scored, all from the scoring half of the documents.  No torch.

Positives are excerpts in which the latent fires, from the top and from all bands.  Negatives are of three sorts:

    random    excerpts of random contexts
    similar   excerpts in which a similar latent fires (by decoder, encoder or co-firing), but not this one
    near      near misses: the latent is silent, but its pre-activation is close to the threshold

The build knows that a latent is silent in its near misses.  For the other two sorts a `Reader` computes the latent's
activations; without one, an excerpt counts as silent if the build lists no firing there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sae.explain.evidence import spread
from sae.explain.excerpts import Excerpt, cut, cut_context, cut_out, document_of, in_scoring_half
from sae.store.build import Build
from sae.store.context_pool import WholeContext, random_contexts, whole_contexts
from sae.store.records import Context, Latent
from sae.store.schema import NEAR_BAND, TOP_BAND

SORTS = ("random", "similar", "near")
ACTIVE = "active"
_POOL = 400  # random contexts that all latents of a run share
_SIMILAR_LATENTS = 6
_TRIES = 4  # candidates for each negative that is wanted

Candidate = tuple[Excerpt, WholeContext]


class Reader(Protocol):
    """The language model with the SAE."""

    def activations(self, latent: int, contexts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return a latent's activations on each token of whole contexts, the first of which is BOS."""


@dataclass(frozen=True)
class Example:
    """An excerpt, whether the latent fires in it (`sort` is active) or why it was chosen, and the tokens marked."""

    excerpt: Excerpt
    sort: str
    marked: frozenset[int]

    @property
    def active(self) -> bool:
        return self.sort == ACTIVE


@dataclass(frozen=True)
class Examples:
    """The scoring examples of a latent.  `verified`: a reader has confirmed that the negatives are silent."""

    positives: list[Example]
    negatives: list[Example]
    verified: bool

    def shuffled(self, seed: int) -> list[Example]:
        """Return all examples in a reproducible order."""
        mixed = [*self.positives, *self.negatives]
        random.Random(seed).shuffle(mixed)
        return mixed


class ExampleSource:
    """The scoring examples of a build's latents."""

    def __init__(
        self, build: Build, reader: Reader | None = None, *, n_positives: int = 10, n_negatives: int = 5, seed: int = 0,
    ) -> None:
        """Prepare the random contexts; `n_negatives` are wanted of each sort."""
        self._build, self._reader, self._seed = build, reader, seed
        self._n_positives, self._n_negatives = n_positives, n_negatives
        pool = random_contexts(build, _POOL, seed)
        self._pool = [c for c in pool if in_scoring_half(c.document or f"context {c.ctx}") and len(c.tokens) > 2]

    def of(self, found: Latent, seen: Sequence[Excerpt]) -> Examples:
        """Return the examples of a latent, without those whose text is among `seen`, the explaining excerpts."""
        rng = random.Random(f"{self._seed} {found.latent}")
        info = self._build.vocabulary
        contexts = [c for c in self._build.contexts(found.latent) if in_scoring_half(document_of(c))]
        firing = [c for c in contexts if c.band != NEAR_BAND]
        top = [c for c in firing if c.band == TOP_BAND]
        # A half of the positives are from the top, the rest from the bands, which hold most firings.
        chosen = top[: max(1, self._n_positives // 2)] if len(firing) > len(top) else top[: self._n_positives]
        chosen += spread([c for c in firing if c.band != TOP_BAND], self._n_positives - len(chosen))
        positives = [Example(e, ACTIVE, e.active)
                     for e in _distinct(cut_out([cut_context(c, info) for c in chosen], seen)) if e.active]
        n_marked = max(1, round(sum(len(p.marked) for p in positives) / max(1, len(positives))))
        others = [*seen, *(p.excerpt for p in positives)]
        known = _known_firings(contexts)
        negatives: list[Example] = []
        for sort, candidates in (("random", self._random(rng)), ("similar", self._similar(found))):
            silent = self._silent(found.latent, candidates, known, others)[: self._n_negatives]
            others += silent
            negatives += [Example(e, sort, _marks(e, n_marked, rng)) for e in silent]
        near = [cut_context(replace(c, acts=[0.0] * len(c.acts)), info) for c in contexts if c.band == NEAR_BAND]
        negatives += [Example(e, "near", _marks(e, n_marked, rng, at_centre=True))
                      for e in _distinct(cut_out(near, others))[: self._n_negatives]]
        return Examples(positives, negatives, self._reader is not None)

    def _random(self, rng: random.Random) -> list[Candidate]:
        chosen = rng.sample(self._pool, min(len(self._pool), self._n_negatives * _TRIES))
        return [self._cut(c, rng.randrange(1, len(c.tokens))) for c in chosen]

    def _similar(self, found: Latent) -> list[Candidate]:
        """Return excerpts around the strongest firings of similar latents, one latent after the other."""
        ranked = [latent for pair in zip(
            [n for n, _ in found.neighbours] + [-1] * 99, [n for n, _ in found.encoder_neighbours] + [-1] * 99,
            [c.latent for c in found.together] + [-1] * 99, strict=False) for latent in pair if latent >= 0]
        similar = list(dict.fromkeys(ranked))[:_SIMILAR_LATENTS]
        by_latent: dict[int, list[Candidate]] = {latent: [] for latent in similar}
        for latent, peak, context in whole_contexts(self._build, similar, TOP_BAND):
            if in_scoring_half(context.document or f"context {context.ctx}"):
                by_latent[latent].append(self._cut(context, peak))
        longest = max(map(len, by_latent.values()), default=0)
        return [rows[i] for i in range(longest) for rows in by_latent.values() if i < len(rows)]

    def _cut(self, context: WholeContext, centre: int) -> Candidate:
        document = context.document or f"context {context.ctx}"
        return cut(context.tokens, [0.0] * len(context.tokens), centre, self._build.vocabulary, document, context.ctx,
                   context.start), context

    def _silent(
        self, latent: int, candidates: Sequence[Candidate], known: set[tuple[int, int]], others: Sequence[Excerpt],
    ) -> list[Excerpt]:
        """Return some of the candidates, in which the latent does not fire, without those that are in `others`."""
        whole = dict(candidates)
        fresh = [e for e in _distinct(cut_out(list(whole), others))
                 if not any((e.ctx, (e.start or 0) + i) in known for i in range(len(e.tokens)))]
        fresh = fresh[: self._n_negatives * _TRIES]
        if self._reader is None or not fresh:
            return fresh
        acts = self._reader.activations(latent, [whole[e].tokens for e in fresh])
        first = [(e.start or 0) - (whole[e].start or 0) for e in fresh]
        return [e for e, at, row in zip(fresh, first, acts, strict=True) if max(row[at : at + len(e.tokens)]) <= 0]


def _known_firings(contexts: Sequence[Context]) -> set[tuple[int, int]]:
    """Return (context, position) of every firing that the build lists."""
    return {(c.ctx, (c.start or 0) + i) for c in contexts if c.band != NEAR_BAND
            for i, act in enumerate(c.acts) if act > 0}


def _distinct(excerpts: Sequence[Excerpt]) -> list[Excerpt]:
    return list({excerpt.tokens: excerpt for excerpt in excerpts}.values())


def _marks(excerpt: Excerpt, n: int, rng: random.Random, *, at_centre: bool = False) -> frozenset[int]:
    """Return as many tokens to mark as positives have: of a near miss the token that nearly fires, else random ones."""
    others = [i for i in range(len(excerpt.tokens)) if not (at_centre and i == excerpt.centre)]
    fixed = {excerpt.centre} if at_centre else set()
    return frozenset(fixed | set(rng.sample(others, min(len(others), n - len(fixed)))))
