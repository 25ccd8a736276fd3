"""What the weights alone say of a latent: its direct effect on the logits, and its neighbours.

Work is cut into runs of latents, so that nothing of size L x V or L x L is kept.

Shapes: L latents, D width, V vocabulary, R latents of a run, K listed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_RUN_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 23}  # on a CPU what stays in its cache
_UMAP_NEIGHBOURS = 15


@dataclass
class LogitEffects:
    """Of each decoder direction on the logits, centred over the vocabulary."""

    top_LK: Tensor
    top_value_LK: Tensor
    bottom_LK: Tensor
    bottom_value_LK: Tensor
    hist_LK: Tensor
    edges: Tensor  # of the histogram; the outer bins are open
    std_L: Tensor
    skew_L: Tensor
    kurtosis_L: Tensor  # excess: 0 for a normal distribution


def logit_effects(
    W_dec_LD: Tensor, unembedding_DV: Tensor, n_listed: int, n_bins: int, check: Callable[[], None] = lambda: None
) -> LogitEffects:
    """Top and bottom tokens, histogram and moments of W_dec · `unembedding_DV` for every latent.

    `unembedding_DV` has the final norm's gain folded in and is centred (`LanguageModel.unembedding`).
    """
    n_listed = min(n_listed, unembedding_DV.shape[1])
    # The standard deviation over all latents and tokens at once, from the Gram matrix.
    spread = float(((W_dec_LD.T @ W_dec_LD) * (unembedding_DV @ unembedding_DV.T)).sum()
                   / (len(W_dec_LD) * unembedding_DV.shape[1])) ** 0.5
    edges = torch.linspace(-6 * spread, 6 * spread, n_bins + 1)
    per_unit = n_bins / (12 * spread) if spread else 0.0
    columns: list[tuple[Tensor, ...]] = []
    for W_RD in torch.split(W_dec_LD, _run(W_dec_LD, unembedding_DV.shape[1])):
        check()
        logits_RV = W_RD @ unembedding_DV
        most, least = logits_RV.topk(n_listed, dim=1), logits_RV.topk(n_listed, dim=1, largest=False)
        bin_RV = (logits_RV * per_unit + n_bins / 2).floor_().clamp_(0, n_bins - 1).long()
        row_R1 = torch.arange(len(W_RD), device=W_RD.device)[:, None] * n_bins
        hist_RK = torch.bincount((bin_RV + row_R1).reshape(-1), minlength=len(W_RD) * n_bins).view(len(W_RD), -1)
        std_R1 = logits_RV.square().mean(dim=1, keepdim=True).sqrt()
        z_RV = logits_RV / std_R1.clamp(min=1e-12)
        z2_RV = z_RV.square()
        columns.append((most.indices, most.values, least.indices, least.values, hist_RK, std_R1[:, 0],
                        (z2_RV * z_RV).mean(dim=1), z2_RV.square().mean(dim=1) - 3))
    top, value, bottom, bottom_value, hist, std, skew, kurtosis = (
        torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return LogitEffects(top, value, bottom, bottom_value, hist, edges, std, skew, kurtosis)


def planar_map(W_LD: Tensor, living_L: Tensor) -> tuple[Tensor, str]:
    """A place in the plane for every living latent's direction, [L, 2], NaN for dead ones; and how it was made.

    UMAP of the cosine distances where umap-learn is installed, else the two first principal components.
    """
    out_L2 = torch.full((len(W_LD), 2), torch.nan)
    unit_MD = torch.nn.functional.normalize(W_LD[living_L.to(W_LD.device)].float().cpu(), dim=1)
    if len(unit_MD) < 3:
        return out_L2, "none"
    if importlib.util.find_spec("umap") and len(unit_MD) > _UMAP_NEIGHBOURS:
        import umap  # type: ignore[import-not-found, unused-ignore]

        reducer = umap.UMAP(metric="cosine", n_neighbors=_UMAP_NEIGHBOURS, random_state=0, n_jobs=1)
        out_L2[living_L] = torch.from_numpy(reducer.fit_transform(unit_MD.numpy())).float()
        return out_L2, "UMAP"
    centred_MD = unit_MD - unit_MD.mean(dim=0)
    _, axes_DD = torch.linalg.eigh(centred_MD.T @ centred_MD)  # rising
    axes_D2 = axes_DD[:, -2:].flip(1)
    largest_2 = axes_D2.gather(0, axes_D2.abs().argmax(dim=0, keepdim=True))
    out_L2[living_L] = centred_MD @ (axes_D2 * largest_2.sign())  # else a direction's sign would be arbitrary
    return out_L2, "PCA"


def nearest(
    W_LD: Tensor, living_L: Tensor, n_listed: int, check: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """The living latents whose direction is nearest by cosine: (ids, cosines) [L, K].

    A latent is no neighbour of its own: where it is listed for want of others, its cosine is NaN.
    """
    unit_LD = W_LD / W_LD.norm(dim=1, keepdim=True).clamp(min=1e-12)
    living_M = living_L.nonzero().squeeze(1).to(W_LD.device)
    n_listed = min(n_listed, len(living_M))
    ids, cosines = [], []
    unit_MD, rows = unit_LD[living_M], _run(W_LD, len(living_M))
    for start in range(0, len(unit_LD), rows):
        check()
        run_RD = unit_LD[start : start + rows]
        cosine_RM = run_RD @ unit_MD.T
        itself = living_M == torch.arange(start, start + len(run_RD), device=W_LD.device)[:, None]
        best = cosine_RM.masked_fill_(itself, -2.0).topk(n_listed, dim=1)
        ids.append(living_M[best.indices])
        cosines.append(torch.where(best.values < -1.5, torch.nan, best.values))
    return torch.cat(ids).cpu(), torch.cat(cosines).cpu()


def _run(W_LD: Tensor, width: int) -> int:
    """How many latents to take at once, each with `width` entries."""
    return max(1, _RUN_ENTRIES.get(W_LD.device.type, 1 << 23) // max(1, width))
