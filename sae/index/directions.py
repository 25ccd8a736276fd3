"""Properties of a latent that follow from the weights: its direct effect on the logits, and its neighbours.

Work is split into runs of latents, so that nothing of size L x V or L x L is kept.

Shapes: L latents, D width, V vocabulary, R latents of a run, K listed, M alive latents or any columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_PRODUCT_ROWS = 256  # least number of latents in a product; with fewer, the other factor is read too often
_PRODUCT_ENTRIES = {"cpu": 1, "cuda": 1 << 23}  # a product gets more rows until it has this many entries
_RUN_ENTRIES = 1 << 19  # entries that fit into a CPU's cache
_UMAP_NEIGHBOURS = 15


@dataclass
class LogitEffects:
    """Effects of each decoder direction on the logits, centred over the vocabulary."""

    top_LK: Tensor
    top_value_LK: Tensor
    bottom_LK: Tensor
    bottom_value_LK: Tensor
    hist_LK: Tensor
    edges: Tensor  # edges of the histogram, whose outer bins are open
    std_L: Tensor
    skew_L: Tensor
    kurtosis_L: Tensor  # excess: 0 for a normal distribution


def logit_effects(
    W_dec_LD: Tensor, unembedding_DV: Tensor, n_listed: int, n_bins: int, check: Callable[[], None] = lambda: None
) -> LogitEffects:
    """Compute top and bottom tokens, histogram and moments of W_dec · `unembedding_DV` for every latent.

    `unembedding_DV` has the final norm's gain folded in and is centred (`LanguageModel.unembedding`).
    """
    n_listed = min(n_listed, unembedding_DV.shape[1])
    # The Gram matrices give the standard deviation over all latents and tokens without the product.
    spread = float(((W_dec_LD.T @ W_dec_LD) * (unembedding_DV @ unembedding_DV.T)).sum()
                   / (len(W_dec_LD) * unembedding_DV.shape[1])) ** 0.5
    edges = torch.linspace(-6 * spread, 6 * spread, n_bins + 1)
    per_unit = n_bins / (12 * spread) if spread else 0.0
    runs = (logits_RV for _, product_RV in _products(W_dec_LD, unembedding_DV, check)
            for logits_RV in torch.split(product_RV, _run(product_RV)))
    columns = [_effects(logits_RV, n_listed, n_bins, per_unit) for logits_RV in runs]
    top, value, bottom, bottom_value, hist, std, skew, kurtosis = (
        torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return LogitEffects(top, value, bottom, bottom_value, hist, edges, std, skew, kurtosis)


def _effects(logits_RV: Tensor, n_listed: int, n_bins: int, per_unit: float) -> tuple[Tensor, ...]:
    """Return the fields of `LogitEffects` for some latents, in order and without the edges."""
    most, least = logits_RV.topk(n_listed, dim=1), logits_RV.topk(n_listed, dim=1, largest=False)
    R, first_R1 = len(logits_RV), torch.arange(len(logits_RV), device=logits_RV.device)[:, None] * n_bins
    bin_RV = (logits_RV * per_unit).add_(n_bins / 2).clamp_(0, n_bins - 1).int().add_(first_R1)
    hist_RK = torch.bincount(bin_RV.reshape(-1), minlength=R * n_bins).view(R, -1)
    std_R1 = logits_RV.square().mean(dim=1, keepdim=True).sqrt()
    z_RV = logits_RV / std_R1.clamp(min=1e-12)
    z2_RV = z_RV.square()
    return (most.indices, most.values, least.indices, least.values, hist_RK, std_R1[:, 0],
            (z2_RV * z_RV).mean(dim=1), z2_RV.square().mean(dim=1) - 3)


def planar_map(W_LD: Tensor, alive_L: Tensor, kind: Literal["pca", "umap"] = "pca") -> tuple[Tensor, str]:
    """Return a point in the plane for every decoder row, [L, 2], NaN for dead latents, and the map's kind.

    "pca" takes the two first principal components of the unit rows, "umap" a UMAP of their cosine distances.  With
    too few latents alive there is no map ("none"), or a PCA instead of UMAP.
    """
    out_L2 = torch.full((len(W_LD), 2), torch.nan)
    unit_MD = torch.nn.functional.normalize(W_LD[alive_L.to(W_LD.device)].float().cpu(), dim=1)
    if len(unit_MD) < 3:
        return out_L2, "none"
    if kind == "umap" and len(unit_MD) > _UMAP_NEIGHBOURS:
        out_L2[alive_L] = _umap(unit_MD)
        return out_L2, "UMAP"
    centred_MD = unit_MD - unit_MD.mean(dim=0)
    _, axes_DD = torch.linalg.eigh(centred_MD.T @ centred_MD)  # eigenvalues in rising order
    axes_D2 = axes_DD[:, -2:].flip(1)
    largest_2 = axes_D2.gather(0, axes_D2.abs().argmax(dim=0, keepdim=True))
    out_L2[alive_L] = centred_MD @ (axes_D2 * largest_2.sign())  # fixes the sign of the axes
    return out_L2, "PCA"


def _umap(unit_MD: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # its parametric version, unused here, wants TensorFlow
        import umap

    reducer = umap.UMAP(metric="cosine", n_neighbors=_UMAP_NEIGHBOURS, random_state=0, n_jobs=1)
    return torch.from_numpy(reducer.fit_transform(unit_MD.numpy())).float()


def nearest(
    W_LD: Tensor, alive_L: Tensor, n_listed: int, check: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Return the alive latents whose directions are nearest by cosine: (ids, cosines) [L, K].

    A latent is not its own neighbour.  Where it fills up a list that would be too short, its cosine is NaN.
    """
    unit_LD = W_LD / W_LD.norm(dim=1, keepdim=True).clamp(min=1e-12)
    alive_M = alive_L.nonzero().squeeze(1).to(W_LD.device)
    n_listed = min(n_listed, len(alive_M))
    column_L = torch.full((len(W_LD),), -1, device=W_LD.device)
    column_L[alive_M] = torch.arange(len(alive_M), device=W_LD.device)
    ids, cosines = [], []
    for start, cosine_RM in _products(unit_LD, unit_LD[alive_M].T, check):
        own_R = column_L[start : start + len(cosine_RM)]
        cosine_RM[own_R >= 0, own_R[own_R >= 0]] = -2.0
        best = cosine_RM.topk(n_listed, dim=1)
        ids.append(alive_M[best.indices])
        cosines.append(torch.where(best.values < -1.5, torch.nan, best.values))
    return torch.cat(ids).cpu(), torch.cat(cosines).cpu()


def _products(W_LD: Tensor, other_DM: Tensor, check: Callable[[], None]) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of the first latent of each run, and the product W · other [R, M] of the run.

    The next product overwrites the memory of the last one.
    """
    width = max(1, other_DM.shape[1])
    rows = max(_PRODUCT_ROWS, _PRODUCT_ENTRIES.get(W_LD.device.type, 1) // width)
    product_RM = W_LD.new_empty(min(rows, len(W_LD)), other_DM.shape[1])
    for start in range(0, len(W_LD), rows):
        check()
        some_RD = W_LD[start : start + rows]
        yield start, torch.mm(some_RD, other_DM, out=product_RM[: len(some_RD)])


def _run(matrix_RM: Tensor) -> int:
    """Return how many rows of a matrix to process together."""
    return max(1, _RUN_ENTRIES // max(1, matrix_RM.shape[1])) if matrix_RM.device.type == "cpu" else len(matrix_RM)
