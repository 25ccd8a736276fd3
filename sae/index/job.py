"""The work of a build before its scan: the contexts, the tokens that are left out, the first passes and the scales.

All parts of a build in parts use one plan, which the first of them writes.  It fixes everything that another machine
might compute with other last bits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.data.left_out import LeftOut
from sae.data.median_norm import find_left_out
from sae.index.encoders import EncoderPool
from sae.index.forward import ForwardPass
from sae.index.sample_tables import SAMPLES
from sae.index.scales import IndexScales, make_scales
from sae.index.scan import contexts_per_round
from sae.lm.bridge import LanguageModel
from sae.specs.registry import IndexSettings
from sae.store.records import NEAR
from sae.workspace.files import write_json_once

_ORDER_SEED = 0  # every build reads the text in the same order, so that builds can be compared


def contexts_to_read(corpus: Corpus, n_tokens: int) -> np.ndarray:
    """Return contexts with about `n_tokens` counted tokens, drawn from all of the text in a fixed shuffled order."""
    contexts = corpus.contexts("all", _ORDER_SEED)
    counted = np.cumsum(corpus.length[contexts].astype(np.int64) - 1)
    return contexts[: int(np.searchsorted(counted, n_tokens)) + 1]


@dataclass(frozen=True)
class IndexPlan:
    """The scales of a build, its rule for tokens that are left out, and how many contexts a round reads."""

    scales: IndexScales
    hist_low: float
    left_out: LeftOut
    per_round: int

    def write_once(self, path: Path) -> IndexPlan:
        """Write the plan unless another process has written one, and return the plan that is there then."""
        write_json_once(path, {"scales": asdict(self.scales), "hist_low": self.hist_low,
                               "left_out": self.left_out.record(), "per_round": self.per_round})
        plan = self.read(path)
        assert plan is not None
        return plan

    @classmethod
    def read(cls, path: Path) -> IndexPlan | None:
        """Return the plan at `path`, or None if there is none yet."""
        if not path.exists():
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
        scales = value["scales"]
        return cls(IndexScales(**{**scales, "hist_edges": tuple(scales["hist_edges"])}), value["hist_low"],
                   LeftOut.recorded(value["left_out"]), value["per_round"])


@dataclass
class IndexJob:
    """A build's inputs: its contexts, its encoders, the passes over its first contexts, and its plan."""

    lm: LanguageModel
    sae: Autoencoder
    corpus: Corpus
    settings: IndexSettings
    contexts: np.ndarray
    pool: EncoderPool
    read: list[ForwardPass]
    plan: IndexPlan

    @classmethod
    def open(
        cls, lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings, plan: IndexPlan | None = None
    ) -> Self:
        """Read the first contexts; make a plan from them if `plan` is None."""
        contexts = contexts_to_read(corpus, settings.index_tokens)
        left_out = plan.left_out if plan else _left_out(lm, sae, corpus, settings)
        pool = EncoderPool(lm, sae, corpus, NEAR if settings.near_misses else 0.0, left_out)
        read = pool.read(contexts[:SAMPLES], bos=True)
        if plan is None:
            scales, hist_low = make_scales(lm, sae, corpus, [one.counted() for one in read], settings)
            plan = IndexPlan(scales, hist_low, left_out, contexts_per_round(pool, corpus))
        return cls(lm, sae, corpus, settings, contexts, pool, read, plan)

    def tokens(self, first: int = 0, last: int | None = None) -> int:
        """Return the number of counted tokens of the contexts from `first` to before `last`."""
        return int((self.corpus.length[self.contexts[first:last]].astype(np.int64) - 1).sum())

    def bounds(self, n_parts: int) -> list[int]:
        """Return the n_parts + 1 bounds of the parts among the contexts.

        They are bounds of rounds, so that every forward pass reads the contexts that it reads in a build in one part.
        A part of a short text may be empty.
        """
        rounds = [0, *range(max(self.plan.per_round, min(SAMPLES, len(self.contexts))), len(self.contexts),
                            self.plan.per_round), len(self.contexts)]
        return [rounds[(len(rounds) - 1) * part // n_parts] for part in range(n_parts + 1)]


def _left_out(lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings) -> LeftOut:
    """Return which tokens to leave out: as the settings say, or else as in the SAE's training."""
    trained = LeftOut.recorded(sae.config.get("left_out"))
    if not settings.skip_norm and not settings.skip_tokens:
        return trained
    asked = find_left_out(lm, corpus, sae.hook, 0.0, settings.skip_tokens)
    if settings.skip_norm == trained.multiple and asked.tokens == trained.tokens:
        return trained
    return find_left_out(lm, corpus, sae.hook, settings.skip_norm, settings.skip_tokens)

