"""Settings of a training that contradict each other.  No torch."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from sae.lm.sites import EMBED, HEADS, precedes

if TYPE_CHECKING:
    from sae.specs.training import TrainSpec

_WITH_K = ("batch_topk", "topk", "matryoshka")  # architectures that keep k latents, exactly or on average
_MAX_ENTRIES = 2**31 - 1  # of a step's pre-activations: torch's nonzero on CUDA counts them in 32 bits
_RESAMPLED = ("relu", "gated")  # their dead latents are below zero everywhere, where AuxK has no gradient


def prefix_sizes(prefixes: str, n_latents: int) -> tuple[int, ...]:
    """Return the sizes of nested dictionaries, from shares ("1/4", "0.25") or numbers of latents.

    Raises ValueError, which names the field, unless they ascend strictly and end at `n_latents`.
    """
    sizes = []
    for word in filter(None, map(str.strip, prefixes.split(","))):
        try:
            number = Fraction(word)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"prefixes: {word!r} is neither a share nor a number of latents") from None
        share = word == "1" or "." in word or "/" in word
        sizes.append(int(number * n_latents) if share else int(number))
    if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)) or sizes[-1] != n_latents:
        raise ValueError(f"prefixes: {', '.join(map(str, sizes)) or 'none'} should ascend and end at n_latents, "
                         f"{n_latents}")
    return tuple(sizes)


def contradictions(spec: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong) for settings that contradict each other."""
    aims_at_k = spec.architecture in _WITH_K or (spec.architecture == "jumprelu" and spec.l0_penalty == "target")
    if aims_at_k and spec.k > spec.n_latents:
        yield "k", f"{spec.k} latents per token, but n_latents is {spec.n_latents}"
    if spec.n_latents % spec.shards:
        yield "shards", f"{spec.shards} do not divide n_latents, {spec.n_latents}"
    if spec.batch_tokens * (spec.n_latents // spec.shards) > _MAX_ENTRIES:
        yield "batch_tokens", (f"{spec.batch_tokens:,} tokens times n_latents, {spec.n_latents:,}, are more than the "
                               f"{_MAX_ENTRIES:,} pre-activations that a step can have")
    widest = spec.k * (4 if spec.multi_topk else 1)
    if aims_at_k and widest * spec.batch_tokens > _MAX_ENTRIES:
        yield "k", f"{widest:,} latents on each of {spec.batch_tokens:,} tokens are more than {_MAX_ENTRIES:,}"
    if spec.multi_topk and spec.architecture not in ("topk", "batch_topk"):
        yield "multi_topk", f"is for topk and batch_topk, not for {spec.architecture}"
    if spec.multi_topk and 4 * spec.k > spec.n_latents:
        yield "multi_topk", f"4k is {4 * spec.k}, but n_latents is {spec.n_latents}"
    if spec.resample_every and spec.architecture not in _RESAMPLED:
        yield "resample_every", (f"is for {' and '.join(_RESAMPLED)}; AuxK revives the dead latents of "
                                 f"{spec.architecture}")
    if spec.architecture == "matryoshka":
        prefix_sizes(spec.prefixes, spec.n_latents)
    if spec.out_site and spec.architecture not in _WITH_K:
        yield "out_site", f"transcoders are for {', '.join(_WITH_K)}, not for {spec.architecture}"
    if spec.out_site and not precedes(spec.site, spec.out_site):
        yield "out_site", f"a block does not compute {spec.out_site} after {spec.site}"
    if spec.head >= 0 and spec.site not in HEADS:
        yield "head", f"{spec.site} has no heads; {', '.join(HEADS)} have"
    if spec.layer and EMBED in (spec.site, spec.out_site):
        yield "layer", f"{EMBED} comes before all blocks; give layer 0"
    if spec.k_aux > spec.n_latents:
        yield "k_aux", f"{spec.k_aux} is more than n_latents, {spec.n_latents}"
    if spec.tokens < spec.batch_tokens:
        yield "tokens", f"{spec.tokens} is less than one batch of {spec.batch_tokens}"
    if spec.buffer_tokens < spec.batch_tokens:
        yield "buffer_tokens", f"{spec.buffer_tokens} is less than batch_tokens, {spec.batch_tokens}"
