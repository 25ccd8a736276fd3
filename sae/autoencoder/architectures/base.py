"""Interface of an architecture: selection and loss in training, selection at inference.

Shapes: B tokens, L latents, D width, N pairs (token, latent).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.losses import ReconstructionLoss, reconstruction_loss
from sae.distributed import ALONE
from sae.kernels.codes import Codes
from sae.specs.registry import TrainSpec


@dataclass
class Learned:
    """The result of a rule on a batch: the codes, the loss, and its gradients down to the pre-activations.

    With several processes, each has the pairs of its own tokens and latents; losses and gradients are its tokens'
    part.
    """

    codes: Codes  # the active latents
    error_BD: Tensor
    loss: Tensor  # reconstruction and sparsity
    sparsity_loss: Tensor  # the part of it that is not reconstruction
    grad_pre: Codes  # ∂loss/∂pre, on the pairs that have one
    grad_W_dec_LD: Tensor
    grad_b_dec_D: Tensor
    grad_b_enc_L: Tensor | None = None  # None: the sum of grad_pre over tokens


class Sparsity(ABC):
    """The rule by which an SAE selects its active latents.  `k` is 0 for a rule without a number of latents to keep."""

    has_threshold: ClassVar[bool] = False  # one θ for all latents, calibrated so that the mean L0 is k
    has_k: ClassVar[bool] = True
    independent: ClassVar[bool] = False  # whether a latent's own pre-activation alone decides at inference
    has_auxk: ClassVar[bool] = True  # whether a dead latent may have a positive pre-activation from which it learns
    start_bias: ClassVar[float] = 0.0  # b_enc before the first step, in units of `DataStatistics.input_scale`
    lengths: ClassVar[frozenset[str]] = frozenset()  # own tensors that are measured in units of the activations

    coefficient: float | None = None  # the weight of the rule's penalty, if it has one

    def __init__(self, k: int = 0) -> None:
        self.k = k
        self.group = ALONE
        self._threshold: float | None = None

    @property
    def threshold(self) -> float | None:
        """Return θ if the rule has a single one for all latents and it is known."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._threshold = value

    # ---- in an artefact

    @classmethod
    def tensor_shapes(cls, n_latents: int) -> dict[str, set[tuple[int, ...]]]:
        """Return the rule's own tensors in an artefact, each with its possible shapes."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the rule's own tensors, by the names in `tensor_shapes`."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Load the rule's own tensors from an artefact's tensors (which include `b_enc`)."""

    @abstractmethod
    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        """Return the active latents at inference, which never depend on the other tokens of the batch.

        If the rule is `independent`, the columns of `pre_BL` may belong to some `latents` only.
        """

    def threshold_for(self, codes: Codes | None = None) -> Tensor:
        """Return the value that a pre-activation must exceed (or reach) to be active: one number, [L] or [B, 1].

        `codes` are the active pairs; a rule that is `independent` does not need them.
        """
        return torch.zeros(())

    def select_from_pairs(self, codes: Codes) -> tuple[Codes, Tensor]:
        """Select from pairs with their pre-activations: return the active pairs with their values, and which they are,
        [N].

        For a rule that is `independent`.  The result equals the result of `select` if `codes` contains all pairs above
        the threshold.
        """
        threshold = self.threshold_for().to(codes.value_N.device)
        active_N = codes.value_N > (threshold if threshold.ndim == 0 else threshold[codes.latent_N])
        return codes.where(active_N), active_N

    # ---- in training

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:  # noqa: B027
        """Read the rule's settings from `spec`, and make its own parameters."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the rule's own trained tensors, by their names in an artefact."""
        return {}

    def select_training(self, pre_BL: Tensor) -> Codes:
        """Return the active latents of a training batch: as at inference, unless the rule depends on the batch."""
        return self.select(pre_BL)

    def learn(self, batch: Batch) -> Learned:
        """Select, reconstruct, and derive all gradients down to the pre-activations.

        The gradients of the rule's own parameters are left in their `.grad`.
        """
        codes = self.select_training(batch.pre_BL)
        return learned_from(codes, reconstruction_loss(codes, batch))

    def project(self) -> None:  # noqa: B027
        """Bring the rule's own parameters back to valid values after an optimiser step."""

    def reset(self, latents: Tensor) -> None:  # noqa: B027
        """Reset the rule's own parameters of some latents to their start values (when they are resampled)."""

    def observe(self, codes: Codes) -> None:  # noqa: B027  (a rule without a threshold has nothing to estimate)
        """Update the estimate of θ with the codes of one of the last training batches."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must contain in addition to parameters and optimiser."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore the state that `state` returned."""


def learned_from(codes: Codes, result: ReconstructionLoss) -> Learned:
    """Return the result of a rule whose loss is the reconstruction loss and whose values are the pre-activations."""
    # Selected pre-activations are positive, so the gradient of ReLU is 1 on all of them.
    return Learned(codes, result.error_BD, result.loss, torch.zeros_like(result.loss),
                   codes.with_values(result.grad_value_N), result.grad_W_dec_LD, result.grad_b_dec_D)
