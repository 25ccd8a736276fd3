"""The memory of a training step on a GPU, as a formula, and the largest sizes that fit.  No torch.

    matrices    W_enc, W_dec, their two gradients and four moments in float32; W_enc with its bias in bfloat16
    batch       pre-activations [B, L] in bfloat16, the maxima of their runs, four [B, D] in float32 and one in bfloat16
    pairs       for each selected pair its place, its value, its place by latent, and gradients
    dead        AuxK's dense products over the dead latents, and copies of their rows

The formula holds for one SAE with the Triton kernels.  Without them torch needs one more matrix for the decoder's
gradient, masks of [B, L], and gathered rows.  The language model and the buffer of activations are not part of it.

Nothing of this was measured on a GPU.  In the tests a pretended device counts the bytes of the live tensors, which
leaves out the allocator's rounding and the libraries' own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sae.specs.registry import TrainSpec

_PAIR_BYTES = 100  # of a selected pair, at the moment when most of its columns live
# The share of all entries that are pairs before the first step, for rules without k.
_START_SHARE = {"relu": 0.07, "gated": 0.07, "jumprelu": 0.2}
_DEAD_SHARE = 0.1  # dead latents for which memory is left, of a rule with AuxK
_MARGIN = 1.1  # for the allocator's rounding and for what torch's operations need inside


def step_bytes(spec: TrainSpec, d_in: int, d_out: int | None = None, *, kernels: bool = True,
               dead_share: float = _DEAD_SHARE) -> float:
    """Return the most bytes that live during a step of one SAE.  `d_out` is a transcoder's output width."""
    d_out = d_out or d_in
    L, B = spec.n_latents // spec.shards, spec.batch_tokens
    matrices = 4 * 4 * L * (d_in + d_out) + 2 * L * (d_in + 16)
    pre = 2 * B * L
    batch = B * (4 * 2 * d_in + 2 * (d_in + 16) + 4 * 3 * d_out)
    levels = len(spec.prefixes.split(",")) if spec.architecture == "matryoshka" else 2 if spec.multi_topk else 1
    batch += 4 * 2 * B * d_out * levels if levels > 1 else 4 * B * d_out
    pairs = _pairs(spec)
    maxima = 4 * B * L / 16 if spec.architecture not in _START_SHARE else 12 * B * L / 64
    dead = dead_share * L if spec.aux_alpha and spec.architecture not in ("relu", "gated") else 0
    aux = dead * (2 * 4 * B + 4 * 4 * (d_in + d_out) / 2)
    vectors = 8 * 12 * L
    total = matrices + pre + batch + maxima + _PAIR_BYTES * pairs + aux + vectors
    gathered = 12 * min(pairs * max(d_in, d_out), 2**24)  # the rows of `Codes.sampled_product`
    return total if kernels else total + 4 * L * max(d_in, d_out) + 3 * pre + 60 * pairs + gathered


def _pairs(spec: TrainSpec) -> float:
    """Return the number of pairs of a step: exact with k, and as before the first step without it."""
    if spec.architecture in _START_SHARE:
        return _START_SHARE[spec.architecture] * spec.batch_tokens * spec.n_latents
    return spec.k * spec.batch_tokens * (4 if spec.multi_topk else 1)


def largest(spec: TrainSpec, limit: float, d_in: int, d_out: int | None = None) -> tuple[int, int]:
    """Return the largest L at this batch, and the largest batch at this L, whose step fits into `limit` bytes.

    L is rounded down to a multiple of 64, the batch to one of 16; 0 if none fits.
    """
    def fits(**change: int) -> bool:
        return fitting_bytes([spec.model_copy(update=change)], d_in, d_out) <= limit

    return (_largest(lambda n: fits(n_latents=n), 64, spec.n_latents), _largest(
        lambda n: fits(batch_tokens=n), 16, spec.batch_tokens))


def fitting_bytes(specs: Sequence[TrainSpec], d_in: int, d_out: int | None = None) -> float:
    """Return the memory to have free for some SAEs that are trained together: only one makes its step at a time."""
    own = [step_bytes(spec, d_in, d_out) for spec in specs]
    kept = [4 * 3 * (spec.n_latents // spec.shards) * (d_in + (d_out or d_in)) for spec in specs]  # weights and moments
    return _MARGIN * (sum(kept) + max(one - rest for one, rest in zip(own, kept, strict=True)))


def too_large(specs: Sequence[TrainSpec], free: float, d_in: int, d_out: int | None = None) -> str | None:
    """Return why these SAEs do not fit into `free` bytes of the device, with the sizes that would; None if they do."""
    needed = fitting_bytes(specs, d_in, d_out)
    if needed <= free:
        return None
    spec = max(specs, key=lambda one: one.n_latents)
    text = (f"n_latents: training needs about {needed / 1e9:,.1f} GB on the device, of which {free / 1e9:,.1f} GB are "
            "free")
    if len(specs) > 1:
        return f"{text}; train fewer SAEs together"
    latents, tokens = largest(spec, free, d_in, d_out)
    at_most = [f"{latents:,} latents with batches of {spec.batch_tokens:,} tokens"] * (latents > 0) + [
        f"batches of {tokens:,} tokens with {spec.n_latents:,} latents"] * (tokens > 0)
    return f"{text}; {' or '.join(at_most)} would fit" if at_most else f"{text}; use a smaller SAE or more shards"


def _largest(fits: Callable[[int], bool], unit: int, most: int) -> int:
    """Return the largest multiple of `unit`, at most `most`, that fits; 0 if none does."""
    low, high = 0, most // unit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * unit):
            low = middle
        else:
            high = middle - 1
    return low * unit
