"""Sums of each SAE between two rows of `progress.jsonl`, kept on the device without waiting for it.

Shapes: B tokens, D width, L latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sae.kernels.device import sum_dtype, wide
from sae.training.trainer import SAETrainer, StepResult

_DECILES = torch.arange(1, 10) / 10
_NEVER = 2**62


class Curves:
    """Sums over the steps since the last row, and the first step whose loss was not finite."""

    def __init__(self, trainer: SAETrainer, device: torch.device) -> None:
        self.trainer, self.group = trainer, trainer.group
        self.first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)
        self.device = device
        self.reset()

    def reset(self) -> None:
        n_latents = self.trainer.spec.n_latents
        self.n_steps = self.n_tokens = 0
        dtype = sum_dtype(self.device)
        self.losses_3 = torch.zeros(3, dtype=dtype, device=self.device)  # total, AuxK's, sparsity's
        self.error = torch.zeros((), dtype=dtype, device=self.device)
        self.l0_histogram = torch.zeros(n_latents + 1, dtype=torch.int64, device=self.device)
        self.last: StepResult | None = None

    def add(self, step: int, result: StepResult, error_BD: Tensor) -> None:
        """Add one step; `error_BD` is in units of the raw activations."""
        losses_3 = torch.stack([result.loss, result.aux_loss, result.sparsity_loss]).to(self.losses_3.dtype)
        self.losses_3 += losses_3
        self.first_bad = torch.where(losses_3[0].isfinite(), self.first_bad, self.first_bad.clamp(max=step))
        self.error += error_BD.square().sum()
        l0_B = self.group.sum_latents(result.codes.l0_B())
        self.l0_histogram.index_add_(0, l0_B, torch.ones_like(l0_B))
        self.n_steps, self.last = self.n_steps + 1, result
        self.n_tokens += self.group.tokens(len(error_BD))

    def bad_step(self) -> int | None:
        """Return the first step whose loss was not finite, or None.  Waits for the device."""
        step = int(self.first_bad)
        return None if step == _NEVER else step

    def row(self, variance: float) -> dict[str, Any]:
        """Return the means since the last row; `variance` is the sum of squares to which `error` is compared.

        Waits for the device and for the other processes.
        """
        self.group.sum_tokens(self.error)
        self.group.sum_tokens(self.l0_histogram)
        trainer, spec, coefficient = self.trainer, self.trainer.spec, self.trainer.sparsity.coefficient
        loss, aux_loss, sparsity_loss = (self.losses_3 / self.n_steps).tolist()
        reached = self.l0_histogram.cumsum(0).cpu()
        total = int(reached[-1])
        histogram = wide(self.l0_histogram)
        l0 = float((histogram * torch.arange(spec.n_latents + 1, device=histogram.device)).sum()) / total
        return {
            "loss": loss, "aux_loss": aux_loss, "sparsity_loss": sparsity_loss,
            "fvu": float(self.error) / variance if variance > 0 else None,
            "l0": l0, "l0_deciles": torch.searchsorted(reached, (_DECILES * total).ceil().long()).tolist(),
            "dead": trainer.n_dead / spec.n_latents, "theta": self._theta(),
            "coefficient": None if coefficient is None else coefficient * trainer.warm}

    def _theta(self) -> float | None:
        """Return the mean of the trained thresholds, or else the smallest activation kept in the last batch."""
        trained = self.trainer.sparsity.parameters().get("threshold")
        if trained is not None:
            return float(self.group.sum_latents(trained.detach().sum())) / self.trainer.spec.n_latents
        least = self.last.codes.least() if self.last else torch.full((), math.inf, device=self.device)
        least = self.group.min_all(least)
        return float(least) if least.isfinite() else None
