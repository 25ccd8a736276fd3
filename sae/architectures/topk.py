"""TopK (Gao et al. 2024, section 2.3): the k largest latents of every token.

Multi-TopK (section 5.3.1) adds an eighth of the loss at 4k to the loss at k.  The k are among the
4k, so both are one nested reconstruction.  Which latents count as active is decided by k alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.architectures.base import Batch, Learned, Sparsity, of_fit
from sae.kernels.codes import Codes
from sae.kernels.select import row_topk
from sae.losses import nested_fit
from sae.specs import TrainSpec
from sae.start import Start

MULTI = 4  # Multi-TopK reads k and MULTI·k latents …
WEIGHTS = (1.0, 1 / 8)  # … with these weights


class TopK(Sparsity):
    """`f = TopK_k(ReLU(pre))`, the same while training and at inference."""

    multi = False

    def begin(self, spec: TrainSpec, start: Start, device: torch.device) -> None:
        self.multi = spec.multi_topk

    def select_training(self, pre_BL: Tensor) -> Codes:
        return row_topk(pre_BL, self.k)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return row_topk(pre_BL, self.k)

    def learn(self, batch: Batch) -> Learned:
        if not self.multi:
            return super().learn(batch)
        codes = row_topk(batch.pre_BL, MULTI * self.k)
        return learn_nested(codes, rank_in_token(codes) < self.k, batch)


def learn_nested(codes: Codes, among_k_N: Tensor, batch: Batch) -> Learned:
    """Multi-TopK from the MULTI·k codes, of which `among_k_N` are the k strongest."""
    result = nested_fit(codes, (~among_k_N).long(), WEIGHTS, batch)
    learned = of_fit(codes, result)
    learned.codes, learned.error_BD = codes.where(among_k_N), result.error_GBD[0]
    return learned


def rank_in_token(codes: Codes) -> Tensor:
    """[N]: 0 for a token's strongest latent, 1 for the next, …; ties go to the one that comes first."""
    order_N = codes.value_N.argsort(descending=True, stable=True)
    order_N = order_N[codes.token_N[order_N].argsort(stable=True)]
    rank_N = torch.empty_like(order_N)
    rank_N[order_N] = torch.arange(len(order_N), device=order_N.device) - codes.offset_B[codes.token_N]
    return rank_N
