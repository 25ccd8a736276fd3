"""The latents that fire on a text.

Shapes: S positions, D width, L latents, N active pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.kernels.codes import Codes
from sae.lm.bridge import Edit
from sae.lm.row_model import RowModel


@dataclass(frozen=True)
class Firing:
    """Firings of one latent over one text, without special tokens."""

    latent: int
    max: float
    sum: float
    peak: int  # position of the maximum
    n: int  # number of tokens on which it fires


@dataclass(frozen=True)
class Reading:
    """Codes of one SAE on one text.

    `position`, `latent` and `act` are triplets: the strongest latents of every position, and the requested ones.
    `ranked` holds all latents that fire, by their maximum.
    """

    l0: list[int]  # by position
    position: list[int]
    latent: list[int]
    act: list[float]
    ranked: list[Firing]


def windows(ids: Sequence[int], bos_id: int, n_ctx: int) -> list[list[int]]:
    """Split a text that begins with BOS into contexts that the model can read, each with a BOS of its own."""
    if len(ids) <= n_ctx:
        return [list(ids)]
    body = list(ids[1:])
    return [[bos_id, *body[i : i + n_ctx - 1]] for i in range(0, len(body), n_ctx - 1)]


def inspect_text(
    model: RowModel, ids: Sequence[int], saes: Sequence[Autoencoder], special: Sequence[bool], top: int,
    latents: Sequence[int] = (),
) -> tuple[list[Reading], list[int]]:
    """Return one reading per SAE, and the positions at which the text was split (see `windows`).

    `special` says which tokens of `ids` are special, such as BOS.  `latents` are listed wherever they fire.  An SAE
    whose contexts do not begin with BOS reads the text without it: it has no latents at a BOS of `ids`, and its ranking
    leaves out the text's first token, which its index does not count.
    """
    n_ctx, bos_id = model.lm.info.n_ctx, model.lm.bos_id
    begins = model.lm.has_bos and ids[0] == bos_id
    split = windows(ids, bos_id, n_ctx) if begins else [list(ids[i : i + n_ctx]) for i in range(0, len(ids), n_ctx)]
    sizes = [len(window) - (1 if begins and number else 0) for number, window in enumerate(split)]
    readings: list[Reading] = []
    sites: dict[tuple[str, bool], Tensor] = {}
    for sae in saes:
        skip = 1 if begins and not sae.reads_bos else 0
        if (sae.hook, bool(skip)) not in sites:
            hooks = list(dict.fromkeys(other.hook for other in saes if other.reads_bos == sae.reads_bos))
            for hook, x_SD in _read_all(model, [window[skip:] for window in split], sizes, hooks).items():
                sites[hook, bool(skip)] = x_SD
        codes = sae.codes(sites[sae.hook, bool(skip)])
        uncounted = list(special)
        if not sae.reads_bos and skip < len(ids):
            codes = Codes(codes.token_N + skip, codes.latent_N, codes.value_N, codes.n_tokens + skip, codes.n_latents)
            uncounted[skip] = True
        readings.append(_reading(codes, uncounted, top, latents))
    return readings, [sum(sizes[:number]) for number in range(1, len(sizes))]


def _read_all(
    model: RowModel, split: Sequence[Sequence[int]], sizes: Sequence[int], hooks: Sequence[str]
) -> dict[str, Tensor]:
    """Return the activations at the hook points, without the BOS that begins a later window: each [S, D]."""
    found = [_read(model, window, hooks) for window in split]
    return {hook: torch.cat([part[hook][-size:] for part, size in zip(found, sizes, strict=True)]) for hook in hooks}


def _read(model: RowModel, ids: Sequence[int], hooks: Sequence[str]) -> dict[str, Tensor]:
    """Return the activations [S, D] at the hook points, float32."""
    kept: dict[str, Tensor] = {}

    def keeping(hook: str) -> Edit:
        def keep(x_1SD: Tensor) -> Tensor:
            kept[hook] = x_1SD[0].reshape(x_1SD.shape[1], -1).float()
            return x_1SD

        return keep

    model.read(ids, {hook: keeping(hook) for hook in hooks})
    return kept


def _reading(codes: Codes, special: Sequence[bool], top: int, latents: Sequence[int]) -> Reading:
    token_N, latent_N, value_N = codes.token_N.cpu(), codes.latent_N.cpu(), codes.value_N.float().cpu()
    l0_S = torch.bincount(token_N, minlength=codes.n_tokens)
    # Sort by position, then by strength; the rank within the position selects the top.
    order = value_N.argsort(descending=True, stable=True)
    order = order[token_N[order].argsort(stable=True)]
    start_S = l0_S.cumsum(0) - l0_S
    rank_N = torch.arange(len(order)) - start_S[token_N[order]]
    shown = order[(rank_N < top) | torch.isin(latent_N[order], torch.tensor(latents, dtype=torch.int64))]
    return Reading(
        l0_S.tolist(), token_N[shown].tolist(), latent_N[shown].tolist(), value_N[shown].tolist(),
        _ranked(token_N, latent_N, value_N, codes.n_latents, torch.tensor(list(special))))


def _ranked(token_N: Tensor, latent_N: Tensor, value_N: Tensor, n_latents: int, special_S: Tensor) -> list[Firing]:
    counted = ~special_S[token_N]
    token_N, latent_N, value_N = token_N[counted], latent_N[counted], value_N[counted]
    order = value_N.argsort(descending=True, stable=True)  # a latent's first pair is then its peak
    token_N, latent_N, value_N = token_N[order], latent_N[order], value_N[order]
    n_L = torch.bincount(latent_N, minlength=n_latents)
    sum_L = torch.bincount(latent_N, weights=value_N.double(), minlength=n_latents)
    first_L = torch.full((n_latents,), len(latent_N)).scatter_reduce_(
        0, latent_N, torch.arange(len(latent_N)), "amin")
    latents = first_L[n_L > 0].sort().values  # strongest peak first
    return [
        Firing(int(latent_N[i]), float(value_N[i]), float(sum_L[latent_N[i]]), int(token_N[i]), int(n_L[latent_N[i]]))
        for i in latents.tolist()]
