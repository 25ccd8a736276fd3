"""The ways to be sparse, one file each.  Adding one is a file here and a line in `REGISTRY`."""

from __future__ import annotations

from sae.architectures.base import Sparsity
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.gated import Gated
from sae.architectures.jumprelu import JumpReLU
from sae.architectures.matryoshka import Matryoshka
from sae.architectures.relu import ReLU
from sae.architectures.topk import TopK

REGISTRY: dict[str, type[Sparsity]] = {
    "batch_topk": BatchTopK, "gated": Gated, "jumprelu": JumpReLU, "matryoshka": Matryoshka, "relu": ReLU,
    "topk": TopK}


def make(name: str, k: int = 0) -> Sparsity:
    """A fresh sparsity rule.  Raises KeyError for an unknown name (specs refuse it earlier)."""
    return REGISTRY[name](k)
