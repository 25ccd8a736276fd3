"""Sampling of the next token.

The token drawn is argmax p / e with e ~ Exp(1) (Gumbel's trick), where the noise e is a function of
(seed, step, token) alone.  Two texts with one seed therefore share the noise of every vocabulary entry
at every step, and differ only where the model's probabilities differ.  Nothing has to be kept between
steps, and a text does not depend on the batch that it is drawn in.  The arrays are numpy's, which cost
less than torch's in many small steps on one row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae.errors import UserError
from sae.kernels.hashing import counter, counter_int, mix64, mix64_int
from sae.steering.request import MAX_SEED, Sampling

_PROBABLE = 1e-3


@dataclass(frozen=True)
class Draw:
    """The state of one text: `step` tokens were drawn before, and `seen` holds the ids of prompt and output."""

    sampling: Sampling
    seed: int
    step: int
    seen: Collection[int] = ()


def seed_of(sampling: Sampling, sample: int) -> int:
    """Return the seed of a run's sample number `sample`, counted from 0."""
    return (sampling.seed + sample) % (MAX_SEED + 1)


def draw(logits_V: NDArray[np.float32], at: Draw) -> int:
    """Return the next token's id.  Raises UserError (field `strength`) if the logits are not finite."""
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
    """Return an Exp(1) number for each token id: a hash of the counter (seed, step, token)."""
    bits_K = mix64(counter(token_K, mix64_int(counter_int((seed << 32) | step))))
    exponential: NDArray[np.float64] = -np.log(((bits_K >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
    return exponential


def _penalised(logits_V: NDArray[np.float32], seen: Collection[int], penalty: float) -> NDArray[np.float32]:
    out_V, tokens = logits_V.copy(), list(seen)
    values = out_V[tokens]
    out_V[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return out_V


def _candidates(logits_V: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the tokens that may be drawn, and their weights, which need not sum to 1."""
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
    # The most probable tokens usually hold top_p, and far fewer have to be sorted.  Tokens below the second bound
    # hold less than 1 − top_p together, so the nucleus is among the others.
    for bound in (_PROBABLE, (1 - top_p) / len(weight_K)):
        probable = (weight_K >= bound * total).nonzero()[0]
        order = probable[(-weight_K[probable]).argsort(kind="stable")]
        ranked = weight_K[order].astype(np.float64)
        before = ranked.cumsum() - ranked
        kept = order[before < top_p * total]  # a token stays while those before it hold less
        if len(kept) < len(order):
            break
    return token_K[kept], weight_K[kept]
