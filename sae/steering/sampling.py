"""Drawing the next token.

Gumbel's trick with noise that is a function of (seed, step, token) alone: the token drawn is
argmax p / e with e ~ Exp(1).  So two texts with one seed share the noise of every vocabulary entry
at every step and part only where the model's probabilities do; nothing has to be kept between
steps; and a text is drawn alike alone and among others.  numpy, since many small steps on one row
cost less there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae.errors import UserError
from sae.steering.request import MAX_SEED, Sampling

_GAMMA, _MIX, _MASK = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), 2**64 - 1
_LIKELY = 1e-3


@dataclass(frozen=True)
class Draw:
    """Where a text stands: `step` tokens were drawn before; `seen` are those of prompt and output."""

    sampling: Sampling
    seed: int
    step: int
    seen: Collection[int] = ()


def seed_of(sampling: Sampling, sample: int) -> int:
    """The seed of a run's sample number `sample`, from 0."""
    return (sampling.seed + sample) % (MAX_SEED + 1)


def draw(logits_V: NDArray[np.float32], at: Draw) -> int:
    """The next token.  Raises UserError (field `strength`) where the model computed no numbers."""
    sampling = at.sampling
    if not np.isfinite(logits_V.max()):  # NaN comes through a maximum
        raise UserError("strength: the model's output is no longer a number at this strength; lower it", "strength")
    if sampling.repetition_penalty != 1 and at.seen:
        logits_V = _penalised(logits_V, at.seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    token_K, probability_K = _candidates(logits_V, sampling)
    return int(token_K[(probability_K / noise(at.seed, at.step, token_K)).argmax()])


def noise(seed: int, step: int, token_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exp(1) numbers of these tokens: the counter (seed, step, token) through splitmix64's finaliser, twice."""
    start = _mixed_int((((seed << 32) | step) + 1) * _GAMMA & _MASK)
    x = token_K.astype(np.uint64)  # products and sums of arrays are modulo 2^64
    x += np.uint64(1)
    x *= np.uint64(_GAMMA)
    x += np.uint64(start)
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    exponential: NDArray[np.float64] = -np.log(((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
    return exponential


def _mixed_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MIX[0]) & _MASK
    x = ((x ^ (x >> 27)) * _MIX[1]) & _MASK
    return x ^ (x >> 31)


def _penalised(logits_V: NDArray[np.float32], seen: Collection[int], penalty: float) -> NDArray[np.float32]:
    out_V, tokens = logits_V.copy(), list(seen)
    values = out_V[tokens]
    out_V[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return out_V


def _candidates(logits_V: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The tokens that may be drawn, and their weights (which need not sum to 1)."""
    top_k, top_p, V = sampling.top_k, sampling.top_p, len(logits_V)
    scaled_V = (logits_V - logits_V.max()) / np.float32(sampling.temperature)
    token_K = np.arange(V)
    if 0 < top_k < V:
        kth = np.partition(scaled_V, V - top_k)[V - top_k]
        token_K = np.flatnonzero(scaled_V >= kth)  # ties at the end stay together
        scaled_V = scaled_V[token_K]
    weight_K = np.exp(scaled_V)
    if top_p == 1:
        return token_K, weight_K
    total = weight_K.sum()
    kept = token_K[:0]
    # The likeliest tokens first: mostly they hold top_p, and far fewer have to be sorted.  Tokens below the second
    # bound hold less than 1 − top_p together, so the nucleus lies among the others.
    for bound in (_LIKELY, (1 - top_p) / len(weight_K)):
        likely = (weight_K >= bound * total).nonzero()[0]
        order = likely[(-weight_K[likely]).argsort(kind="stable")]
        ranked = weight_K[order].astype(np.float64)
        before = ranked.cumsum() - ranked
        kept = order[before < top_p * total]  # a token stays while those before it hold less
        if len(kept) < len(order):
            break
    return token_K[kept], weight_K[kept]
