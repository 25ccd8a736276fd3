"""What the weights alone say of a latent: its direct effect on the logits, and its neighbours.

Work is cut into runs of latents, so that nothing of size L x V or L x L is kept.

Shapes: L latents, D width, V vocabulary, R latents of a run, K listed, M living latents or any columns.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_PRODUCT_ROWS = 256  # latents of a product, at least: with fewer the other factor is read too often
_PRODUCT_ENTRIES = {"cpu": 1, "cuda": 1 << 23}  # of a product, if those rows have fewer
_RUN_ENTRIES = 1 << 19  # looked at together: on a CPU what stays in its cache
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
    runs = (logits_RV for _, product_RV in _products(W_dec_LD, unembedding_DV, check)
            for logits_RV in torch.split(product_RV, _run(product_RV)))
    columns = [_of_logits(logits_RV, n_listed, n_bins, per_unit) for logits_RV in runs]
    top, value, bottom, bottom_value, hist, std, skew, kurtosis = (
        torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return LogitEffects(top, value, bottom, bottom_value, hist, edges, std, skew, kurtosis)


def _of_logits(logits_RV: Tensor, n_listed: int, n_bins: int, per_unit: float) -> tuple[Tensor, ...]:
    """What `LogitEffects` says of some latents but the edges, in its order."""
    most, least = logits_RV.topk(n_listed, dim=1), logits_RV.topk(n_listed, dim=1, largest=False)
    R, first_R1 = len(logits_RV), torch.arange(len(logits_RV), device=logits_RV.device)[:, None] * n_bins
    bin_RV = (logits_RV * per_unit).add_(n_bins / 2).clamp_(0, n_bins - 1).int().add_(first_R1)
    hist_RK = torch.bincount(bin_RV.reshape(-1), minlength=R * n_bins).view(R, -1)
    std_R1 = logits_RV.square().mean(dim=1, keepdim=True).sqrt()
    z_RV = logits_RV / std_R1.clamp(min=1e-12)
    z2_RV = z_RV.square()
    return (most.indices, most.values, least.indices, least.values, hist_RK, std_R1[:, 0],
            (z2_RV * z_RV).mean(dim=1), z2_RV.square().mean(dim=1) - 3)


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
    column_L = torch.full((len(W_LD),), -1, device=W_LD.device)
    column_L[living_M] = torch.arange(len(living_M), device=W_LD.device)
    ids, cosines = [], []
    for start, cosine_RM in _products(unit_LD, unit_LD[living_M].T, check):
        own_R = column_L[start : start + len(cosine_RM)]
        cosine_RM[own_R >= 0, own_R[own_R >= 0]] = -2.0
        best = cosine_RM.topk(n_listed, dim=1)
        ids.append(living_M[best.indices])
        cosines.append(torch.where(best.values < -1.5, torch.nan, best.values))
    return torch.cat(ids).cpu(), torch.cat(cosines).cpu()


def _products(W_LD: Tensor, other_DM: Tensor, check: Callable[[], None]) -> Iterator[tuple[int, Tensor]]:
    """W · other for some latents after others: the first one's number, and [R, M], which the next overwrites."""
    width = max(1, other_DM.shape[1])
    rows = max(_PRODUCT_ROWS, _PRODUCT_ENTRIES.get(W_LD.device.type, 1) // width)
    product_RM = W_LD.new_empty(min(rows, len(W_LD)), other_DM.shape[1])
    for start in range(0, len(W_LD), rows):
        check()
        some_RD = W_LD[start : start + rows]
        yield start, torch.mm(some_RD, other_DM, out=product_RM[: len(some_RD)])


def _run(matrix_RM: Tensor) -> int:
    """How many rows of a matrix to look at together."""
    return max(1, _RUN_ENTRIES // max(1, matrix_RM.shape[1])) if matrix_RM.device.type == "cpu" else len(matrix_RM)
