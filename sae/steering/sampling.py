"""Sampling of the next token.

The token drawn is argmax p / e with e ~ Exp(1) (Gumbel's trick), where the noise e is a function of
(seed, step, token) alone.  Two texts with one seed therefore share the noise of every vocabulary entry
at every step, and differ only where the model's probabilities differ.  Nothing has to be kept between
steps, and a text does not depend on the batch that it is drawn in.  The arrays are numpy's, which cost
less than torch's in many small steps on one row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae.errors import UserError
from sae.kernels.hashing import UInts, counter, counter_int, mix64, mix64_int
from sae.steering.request import MAX_SEED, Sampling

_PROBABLE = 1e-3
_TOGETHER = 1024  # candidates whose noise is computed at once; more would leave the processor's nearest cache


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
    (token,) = draw_each([logits_V], [at])
    if isinstance(token, UserError):
        raise token
    return token


def draw_each(logits_RV: Sequence[NDArray[np.float32]], at_R: Sequence[Draw]) -> list[int | UserError]:
    """Return the next token's id of every text, or the error that `draw` raises for it."""
    found: list[int | UserError] = []
    waiting: list[_Choice] = []
    size = 0
    for logits_V, at in zip(logits_RV, at_R, strict=True):
        candidates = _candidates_or_token(logits_V, at)
        if isinstance(candidates, tuple):
            waiting.append(_Choice(len(found), _state(at.seed, at.step), *candidates))
            size += len(candidates[0])
            candidates = 0  # until its group is chosen
        found.append(candidates)
        if size > _TOGETHER:
            _choose(waiting, found)
            waiting, size = [], 0
    _choose(waiting, found)
    return found


class _Choice(NamedTuple):
    """The candidates of text number `text`, and the state of its noise."""

    text: int
    state: int
    token_K: NDArray[np.int64]
    weight_K: NDArray[np.float32]


def _choose(choices: Sequence[_Choice], found: list[int | UserError]) -> None:
    """Set the tokens of some texts.  Their noise is computed at once: the calls cost more than the work."""
    if not choices:
        return
    sizes = [len(choice.token_K) for choice in choices]
    state_N = np.repeat(np.array([choice.state for choice in choices], dtype=np.uint64), sizes)
    noise_N = _noise(state_N, np.concatenate([choice.token_K for choice in choices]))
    start = 0
    for choice, size in zip(choices, sizes, strict=True):
        best = (choice.weight_K / noise_N[start : start + size]).argmax()
        found[choice.text] = int(choice.token_K[best])
        start += size


def noise(seed: int, step: int, token_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return an Exp(1) number for each token id: a hash of the counter (seed, step, token)."""
    return _noise(np.uint64(_state(seed, step)), token_K)


def _state(seed: int, step: int) -> int:
    return mix64_int(counter_int((seed << 32) | step))


def _noise(state_N: UInts | np.uint64, token_N: NDArray[np.int64]) -> NDArray[np.float64]:
    bits_N = counter(token_N)
    bits_N += state_N  # arrays of numpy wrap, as 64 bits do
    mix64(bits_N)
    bits_N >>= np.uint64(11)
    uniform_N = bits_N.astype(np.float64)
    uniform_N += 0.5
    uniform_N *= 2.0**-53
    exponential_N: NDArray[np.float64] = np.log(uniform_N, out=uniform_N)
    return np.negative(exponential_N, out=exponential_N)


def _candidates_or_token(
    logits_V: NDArray[np.float32], at: Draw
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | int | UserError:
    sampling = at.sampling
    if not np.isfinite(logits_V.max()):  # NaN comes through a maximum
        return UserError("strength: the model's output is no longer a number at this strength; lower it", "strength")
    if sampling.repetition_penalty != 1 and at.seen:
        logits_V = _penalised(logits_V, at.seen, sampling.repetition_penalty)
    return int(logits_V.argmax()) if sampling.temperature == 0 else _candidates(logits_V, sampling)


def _penalised(logits_V: NDArray[np.float32], seen: Collection[int], penalty: float) -> NDArray[np.float32]:
    out_V, tokens = logits_V.copy(), list(seen)
    values = out_V[tokens]
    out_V[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return out_V


def _candidates(logits_V: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the tokens that may be drawn, and their weights, which need not sum to 1."""
    top_k, top_p, V = sampling.top_k, sampling.top_p, len(logits_V)
    scaled_K = logits_V - logits_V.max()
    scaled_K /= np.float32(sampling.temperature)
    token_K: NDArray[np.int64] | None = None  # all tokens
    if 0 < top_k < V:
        kth = np.partition(scaled_K, V - top_k)[V - top_k]
        token_K = np.flatnonzero(scaled_K >= kth)  # ties at the end stay together
        scaled_K = scaled_K[token_K]
    weight_K = np.exp(scaled_K, out=scaled_K)
    if top_p == 1:
        return np.arange(V) if token_K is None else token_K, weight_K
    total = weight_K.sum()
    kept = np.empty(0, dtype=np.int64)
    # The most probable tokens usually hold top_p, and far fewer have to be sorted.  Tokens below the second bound
    # hold less than 1 − top_p together, so the nucleus is among the others.
    for bound in (_PROBABLE, (1 - top_p) / len(weight_K)):
        probable = np.flatnonzero(weight_K >= bound * total)
        order = probable[(-weight_K[probable]).argsort(kind="stable")]
        ranked = weight_K[order].astype(np.float64)
        before = ranked.cumsum() - ranked
        kept = order[before < top_p * total]  # a token stays while those before it hold less
        if len(kept) < len(order):
            break
    return kept if token_K is None else token_K[kept], weight_K[kept]
