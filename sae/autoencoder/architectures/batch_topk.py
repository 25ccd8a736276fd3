"""BatchTopK (Bussmann et al. 2024): the k·B largest activations of a batch of B tokens.

At inference the result must not depend on the batch, so a threshold θ replaces the selection (equation 7): θ = mean
over batches of the smallest positive activation kept.  That estimate misses the wanted L0 by some per cent, so
`evaluate.calibrate_threshold` then picks the θ that gives a mean L0 of k on held-out tokens.  Both values are stored
in the artefact.  With `multi_topk` an eighth of the loss at 4k·B is added, as Multi-TopK does for every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae.autoencoder.architectures.base import Learned, Sparsity
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.topk import MULTI, learn_nested
from sae.distributed.select import among_batch_topk
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold
from sae.specs.registry import TrainSpec


class BatchTopK(Sparsity):
    """Selection over the batch in training, `f = pre · 1[pre > θ]` at inference."""

    has_threshold = True
    independent = True
    lengths = frozenset({"threshold"})
    multi = False

    def __init__(self, k: int = 0) -> None:
        super().__init__(k)
        self.minima: list[Tensor] = []  # one per observed batch; read only when θ is needed, because a read waits

    @property
    def threshold(self) -> float | None:
        """Return θ as it was set, or else the mean of the minima observed."""
        if self._threshold is None and self.minima:
            minima = torch.stack(self.minima).cpu().double()
            minima = minima[minima.isfinite()]  # of a batch without any pair it is infinite
            return float(minima.mean()) if len(minima) else None
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._threshold = value

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        self.multi = spec.multi_topk

    def select_training(self, pre_BL: Tensor) -> Codes:
        return self.group.batch_topk(pre_BL, self.k * self.group.tokens(len(pre_BL)))

    def learn(self, batch: Batch) -> Learned:
        if not self.multi:
            return super().learn(batch)
        n_keep = self.k * batch.n_tokens
        codes = self.group.batch_topk(batch.pre_BL, MULTI * n_keep)
        return learn_nested(codes, among_batch_topk(codes, n_keep, self.group), batch)

    @classmethod
    def tensor_shapes(cls, n_latents: int) -> dict[str, set[tuple[int, ...]]]:
        return {"threshold": {(1,)}}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.threshold is None else {"threshold": torch.tensor([self.threshold], dtype=torch.float32)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.threshold = float(tensors["threshold"]) if "threshold" in tensors else None

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return above_threshold(pre_BL, self._known_threshold())

    def threshold_for(self, codes: Codes | None = None) -> Tensor:
        return torch.tensor(max(self._known_threshold(), 0.0))

    def _known_threshold(self) -> float:
        if self.threshold is None:
            raise ValueError("this BatchTopK SAE has no threshold yet: train or calibrate it first")
        return self.threshold

    def observe(self, codes: Codes) -> None:
        """Add this batch's smallest kept activation to the mean.  Batches without any are skipped."""
        if self.group.any(len(codes.value_N) > 0):
            self.minima.append(self.group.min_all(codes.least()))

    def state(self) -> dict[str, Any]:
        return {"minima": torch.stack(self.minima)} if self.minima else {}

    def load_state(self, state: dict[str, Any]) -> None:
        self.minima = list(state["minima"]) if state else []
