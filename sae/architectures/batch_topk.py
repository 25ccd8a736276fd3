"""BatchTopK (Bussmann et al. 2024): the k·B largest activations of a batch of B tokens.

At inference the batch must not matter, so a threshold θ takes its place (equation 7):
θ = mean over batches of the smallest positive activation kept.  That estimate misses the
wanted L0 by some per cent, so `evaluate.calibrate_threshold` then picks the θ that gives a
mean L0 of k on held-out tokens.  Both are kept in the artefact.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sae.architectures.base import Sparsity
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold, batch_topk


class BatchTopK(Sparsity):
    """Selection over the batch while training, `f = pre · 1[pre > θ]` at inference."""

    has_threshold = True

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.minima_sum = 0.0  # Python floats are float64
        self.minima_count = 0

    def select_training(self, pre_BL: Tensor) -> Codes:
        return batch_topk(pre_BL, self.k * len(pre_BL))

    def select(self, pre_BL: Tensor) -> Codes:
        if self.threshold is None:
            raise ValueError("this BatchTopK SAE has no threshold yet: train or calibrate it first")
        return above_threshold(pre_BL, self.threshold)

    def observe(self, codes: Codes) -> None:
        """Add this batch's smallest kept activation to the mean; batches with none are passed over."""
        if len(codes.value_N):
            self.minima_sum += float(codes.value_N.min())
            self.minima_count += 1
            self.threshold = self.minima_sum / self.minima_count

    def state(self) -> dict[str, Any]:
        return {"minima_sum": self.minima_sum, "minima_count": self.minima_count}

    def load_state(self, state: dict[str, Any]) -> None:
        self.minima_sum, self.minima_count = state["minima_sum"], state["minima_count"]
        self.threshold = self.minima_sum / self.minima_count if self.minima_count else None
