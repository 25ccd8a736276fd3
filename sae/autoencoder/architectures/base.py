"""What an architecture has to say: how it selects and what it learns from while training, how it selects at inference.

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
    """What a rule makes of a batch: the codes, the loss, and its gradients down to the pre-activations.

    Of several processes each has the pairs of its own tokens and latents; losses and gradients are its tokens' part.
    """

    codes: Codes  # the active latents
    error_BD: Tensor
    loss: Tensor  # reconstruction and sparsity
    sparsity_loss: Tensor  # the part of it that is not reconstruction
    grad_pre: Codes  # ∂loss/∂pre, on the pairs that have one
    grad_W_dec_LD: Tensor
    grad_b_dec_D: Tensor
    grad_b_enc_L: Tensor | None = None  # where b_enc is not simply what is added to pre


class Sparsity(ABC):
    """The rule of an SAE.  `k` is 0 for a rule that is not told how many latents to keep."""

    has_threshold: ClassVar[bool] = False  # one θ for all latents, calibrated so that the mean L0 is k
    has_k: ClassVar[bool] = True
    independent: ClassVar[bool] = False  # whether a latent's own pre-activation decides alone at inference
    has_auxk: ClassVar[bool] = True  # whether a dead latent may still have a positive pre-activation to learn by
    start_bias: ClassVar[float] = 0.0  # b_enc before the first step, in units of `DataStatistics.input_scale`
    lengths: ClassVar[frozenset[str]] = frozenset()  # own tensors that are measured in units of the activations

    coefficient: float | None = None  # the weight of the rule's penalty, where it has one

    def __init__(self, k: int = 0) -> None:
        self.k = k
        self.group = ALONE
        self._threshold: float | None = None

    @property
    def threshold(self) -> float | None:
        """θ, where the rule has a single one for all latents and it is known."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._threshold = value

    # ---- in an artefact

    @classmethod
    def tensor_shapes(cls, n_latents: int) -> dict[str, set[tuple[int, ...]]]:
        """The rule's own tensors in an artefact, each with the shapes that it may have."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The rule's own tensors, as `tensor_shapes` names them."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take the rule's own tensors from those of an artefact (which hold `b_enc` too)."""

    @abstractmethod
    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        """The active latents at inference; never depends on the other tokens of the batch.

        Where the rule is `independent`, the columns may be those of some `latents` only.
        """

    def threshold_for(self, codes: Codes | None = None) -> Tensor:
        """What a pre-activation has to exceed (or reach) to be active, where `codes` are those that are: one number,
        one a latent [L] or one a token [B, 1].  A rule that is `independent` need not know the codes."""
        return torch.zeros(())

    def select_from_pairs(self, codes: Codes) -> tuple[Codes, Tensor]:
        """Of pairs with their pre-activations: those that are active, with their values, and which they are, [N].

        For a rule that is `independent`: what `select` finds, if all pairs above the border are among these.
        """
        border = self.threshold_for().to(codes.value_N.device)
        active_N = codes.value_N > (border if border.ndim == 0 else border[codes.latent_N])
        return codes.where(active_N), active_N

    # ---- in training

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:  # noqa: B027
        """Take what the rule needs of the settings, and make its own parameters."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The rule's own trained tensors, by their names in an artefact."""
        return {}

    def select_training(self, pre_BL: Tensor) -> Codes:
        """The active latents of a training batch: as at inference, unless other tokens have a say."""
        return self.select(pre_BL)

    def learn(self, batch: Batch) -> Learned:
        """Select, reconstruct, and derive all gradients down to the pre-activations.

        The gradients of the rule's own parameters are left in their `.grad`.
        """
        codes = self.select_training(batch.pre_BL)
        return of_fit(codes, reconstruction_loss(codes, batch))

    def project(self) -> None:  # noqa: B027
        """After an optimiser step: bring the rule's own parameters back to where they have a meaning."""

    def reset(self, latents: Tensor) -> None:  # noqa: B027
        """Give some latents the rule's own parameters as at the beginning (when they are resampled)."""

    def observe(self, codes: Codes) -> None:  # noqa: B027  (a rule without a threshold has nothing to see)
        """See the codes of one of the last training batches (to estimate θ)."""

    def state(self) -> dict[str, Any]:
        """What has to survive a checkpoint beside parameters and optimiser."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `state` gave."""


def of_fit(codes: Codes, result: ReconstructionLoss) -> Learned:
    """What is learned where the fit is the whole loss and every pair's value is its pre-activation."""
    # Selected pre-activations are positive, so the gradient of ReLU is 1 on all of them.
    return Learned(codes, result.error_BD, result.loss, torch.zeros_like(result.loss),
                   codes.with_values(result.grad_value_N), result.grad_W_dec_LD, result.grad_b_dec_D)
