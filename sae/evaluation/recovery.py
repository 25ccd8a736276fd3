"""Refinement of activations and progressive recovery of a trained SAE (Gao et al. 2024, sections 5.1 and 5.3).

**Refinement** keeps the active latents of every token and finds the values that reconstruct it best.  If
training shrank activations (L1 penalty), the refined values are larger.  If it did not (TopK), they
scatter around the SAE's own values.

**Progressive recovery** measures the reconstruction with k' latents per token for an SAE trained with k.
The activation function is replaced by TopK(k'), or by one threshold that gives a mean L0 of k'.

Both work for every architecture, on raw activations.

Shapes: N tokens, L latents, D width, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae.autoencoder.architectures.gated import Gated
from sae.autoencoder.artefact import Autoencoder
from sae.kernels.codes import Codes
from sae.kernels.device import wide
from sae.kernels.select import above_threshold, batch_topk

Rule = Literal["topk", "threshold"]
_TOLERANCE = 1e-5  # relative change of a token's values at which refinement stops
_MARGIN = 1.05  # factor over the eigenvalue that power iteration finds, which is a lower bound


@dataclass
class Refinement:
    """The SAE's own activations of some tokens, and the best ones for the same latents."""

    before: Codes
    after: Codes
    fvu_before: float
    fvu_after: float

    @property
    def bias(self) -> float:
        """Return Σ(f* − f) / Σ f, the mean shortfall of activations; it is about 0 without shrinkage."""
        return float(wide(self.after.value_N - self.before.value_N).sum() / wide(self.before.value_N).sum())

    @property
    def size(self) -> float:
        """Return Σ|f* − f| / Σ f, the mean distance by which refinement moves activations."""
        moved_P = (self.after.value_N - self.before.value_N).abs()
        return float(wide(moved_P).sum() / wide(self.before.value_N).sum())

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return quantiles of (f* − f), in units of the mean activation."""
        moved_P = wide(self.after.value_N - self.before.value_N) / wide(self.before.value_N).mean()
        ordered_P = moved_P.sort().values
        return [float(ordered_P[round(share * (len(ordered_P) - 1))]) for share in shares]


def refine(sae: Autoencoder, x_ND: Tensor, target_ND: Tensor | None = None, iterations: int = 500) -> Refinement:
    """Find the non-negative least-squares activations of each token's active latents.

    `target_ND` is a transcoder's target.  The method is accelerated projected gradient descent on the
    selected pairs, restarted per token when momentum leads uphill (O'Donoghue & Candès 2015).
    """
    target_ND = x_ND if target_ND is None else target_ND
    before = sae.codes(x_ND)
    nothing = before.where(torch.zeros_like(before.token_N, dtype=torch.bool))
    wanted_ND = (target_ND - sae.decode(nothing, x_ND)) / sae.scale(x_ND)  # what Σ f·W_dec should be
    W_LD, token_P = sae.W_dec_LD, before.token_N

    def gradient(value_P: Tensor) -> Tensor:
        """Return ½ ∂‖wanted − Σ f·W_dec‖² / ∂f."""
        return before.sampled_product(before.with_values(value_P).decode(W_LD) - wanted_ND, W_LD)

    def per_token(value_P: Tensor) -> Tensor:
        return torch.zeros(len(x_ND), device=x_ND.device).index_add_(0, token_P, value_P)

    rate_P = (1 / (_MARGIN * _largest_eigenvalue(before, W_LD)))[token_P]
    value_P = ahead_P = before.value_N
    momentum_N = torch.ones(len(x_ND), device=x_ND.device)
    for _ in range(iterations):
        new_P = (ahead_P - rate_P * gradient(ahead_P)).clamp(min=0)
        moved_P = new_P - value_P
        uphill_N = per_token((ahead_P - new_P) * moved_P) > 0
        momentum_N = torch.where(uphill_N, 1.0, momentum_N)
        next_N = (1 + (1 + 4 * momentum_N.square()).sqrt()) / 2
        ahead_P = new_P + torch.where(uphill_N, 0.0, (momentum_N - 1) / next_N)[token_P] * moved_P
        value_P, momentum_N = new_P, next_N
        if bool((moved_P.abs().amax() if len(moved_P) else moved_P.sum()) < _TOLERANCE * value_P.mean()):
            break
    after = before.with_values(value_P)
    fvus = [_fvu(target_ND, sae.decode(codes, x_ND)) for codes in (before, after)]
    return Refinement(before, after, fvus[0], fvus[1])


def _largest_eigenvalue(codes: Codes, W_LD: Tensor, iterations: int = 30) -> Tensor:
    """Return the largest eigenvalue of the Gram matrix of each token's active decoder rows, [N].

    Power iteration starts from a random vector, because a constant one can be an eigenvector of a smaller
    eigenvalue (two opposed rows).
    """
    generator = torch.Generator().manual_seed(0)
    value_P = torch.randn(len(codes.value_N), generator=generator).to(W_LD.device)
    norm_N = torch.ones(codes.n_tokens, device=W_LD.device)
    for _ in range(iterations):
        value_P = codes.sampled_product(codes.with_values(value_P).decode(W_LD), W_LD)
        norm_N = torch.zeros_like(norm_N).index_add_(0, codes.token_N, value_P.square()).sqrt().clamp(min=1e-12)
        value_P = value_P / norm_N[codes.token_N]
    return norm_N


def progressive_recovery(
    sae: Autoencoder, x_ND: Tensor, ks: Iterable[int], rule: Rule = "topk", target_ND: Tensor | None = None
) -> dict[int, float]:
    """Return the FVU at k' latents per token, for every k' in `ks`.

    `topk` keeps exactly the strongest k' of each token.  `threshold` keeps those above the one threshold at
    which these tokens have k' on average.  Only positive activations are kept, so a large k' may keep fewer.
    Raises ValueError unless 1 ≤ k' ≤ L.
    """
    wanted = sorted(set(ks))
    if not wanted or wanted[0] < 1 or wanted[-1] > sae.n_latents:
        raise ValueError(f"ks: {wanted} should be between 1 and {sae.n_latents}, the number of latents")
    target_ND = x_ND if target_ND is None else target_ND
    thetas = _thresholds(sae, x_ND, wanted) if rule == "threshold" else []
    outputs: dict[int, list[Tensor]] = {k: [] for k in wanted}
    for part_BD in sae.pieces(x_ND):
        acts_BL = _activations(sae, part_BD)
        levels = (above_threshold(acts_BL, theta) for theta in thetas) if thetas else _topk_levels(acts_BL, wanted)
        for k, codes in zip(wanted, levels, strict=True):
            outputs[k].append(sae.decode(_scaled(sae, codes), part_BD))
    return {k: _fvu(target_ND, torch.cat(parts)) for k, parts in outputs.items()}


def _activations(sae: Autoencoder, x_BD: Tensor) -> Tensor:
    """Return every latent's activation if no positive one were cut, in the units of the selection: [B, L]."""
    pre_BL = sae.pre_activations(x_BD)
    if not isinstance(sae.sparsity, Gated):
        return pre_BL.relu_()
    codes = sae.sparsity.select(pre_BL)
    pre_BL.zero_()[codes.token_N, codes.latent_N] = codes.value_N
    return pre_BL


def _scaled(sae: Autoencoder, codes: Codes) -> Codes:
    scale_L = sae.activation_scale_L
    return codes if scale_L is None else codes.with_values(codes.value_N * scale_L[codes.latent_N])


def _topk_levels(acts_BL: Tensor, ks: list[int]) -> Iterator[Codes]:
    """Yield the codes of TopK(k') for ascending k', from one selection."""
    value_BK, latent_BK = acts_BL.topk(ks[-1], dim=1, sorted=True)
    token_BK = torch.arange(len(acts_BL), device=acts_BL.device)[:, None].expand_as(latent_BK)
    for k in ks:
        keep_BK = value_BK[:, :k] > 0
        yield Codes(token_BK[:, :k][keep_BK], latent_BK[:, :k][keep_BK], value_BK[:, :k][keep_BK], *acts_BL.shape)


def _thresholds(sae: Autoencoder, x_ND: Tensor, ks: list[int]) -> list[float]:
    """Return for every k' the θ above which there are k'·N activations, or 0 if there are fewer in total.

    Each piece contributes its strongest activations, four times its share.  The result is exact unless a
    piece holds more than the set of the strongest activations overall.
    """
    pool = []
    for part_BD in sae.pieces(x_ND):
        acts_BL = _activations(sae, part_BD)
        pool.append(batch_topk(acts_BL, min(4 * ks[-1] * len(part_BD), acts_BL.numel())).value_N)
    ordered = torch.cat(pool).sort(descending=True).values
    return [float(ordered[k * len(x_ND)]) if k * len(x_ND) < len(ordered) else 0.0 for k in ks]


def _fvu(target_ND: Tensor, output_ND: Tensor) -> float:
    """Return Σ‖t − t̂‖² / Σ‖t − t̄‖² in float64."""
    error = wide(target_ND - output_ND).square().sum()
    return float(error / (wide(target_ND) - wide(target_ND).mean(dim=0)).square().sum())
