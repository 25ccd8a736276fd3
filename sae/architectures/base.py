"""What an architecture has to say: how it selects while training and how at inference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from sae.kernels.codes import Codes


class Sparsity(ABC):
    """The selection rule of an SAE.  `threshold` is θ where the rule has one, else None."""

    has_threshold: ClassVar[bool] = False

    def __init__(self, k: int) -> None:
        self.k = k
        self.threshold: float | None = None

    @abstractmethod
    def select_training(self, pre_BL: Tensor) -> Codes:
        """The active latents of a training batch."""

    @abstractmethod
    def select(self, pre_BL: Tensor) -> Codes:
        """The active latents at inference; never depends on the other tokens of the batch."""

    def observe(self, codes: Codes) -> None:  # noqa: B027  (a rule without a threshold has nothing to see)
        """See the codes of one of the last training batches (to estimate θ)."""

    def state(self) -> dict[str, Any]:
        """What has to survive a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `state` gave."""
