"""What an architecture has to say: how it selects while training and how at inference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from sae.kernels.codes import Codes


class Sparsity(ABC):
    """The selection rule of an SAE.  `threshold` is θ where the rule has a single one, else None.

    `k` is 0 for a rule that is not told how many latents to keep.
    """

    has_threshold: ClassVar[bool] = False  # one θ for all latents, calibrated so that the mean L0 is k
    has_k: ClassVar[bool] = True
    independent: ClassVar[bool] = False  # whether a latent's own pre-activation decides alone at inference

    def __init__(self, k: int = 0) -> None:
        self.k = k
        self.threshold: float | None = None

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
    def select_training(self, pre_BL: Tensor) -> Codes:
        """The active latents of a training batch."""

    @abstractmethod
    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        """The active latents at inference; never depends on the other tokens of the batch.

        Where the rule is `independent`, the columns may be those of some `latents` only.
        """

    def observe(self, codes: Codes) -> None:  # noqa: B027  (a rule without a threshold has nothing to see)
        """See the codes of one of the last training batches (to estimate θ)."""

    def state(self) -> dict[str, Any]:
        """What has to survive a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `state` gave."""
