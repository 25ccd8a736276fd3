"""The ways to be sparse, one file each.  Adding one is a file here and a line in `REGISTRY`."""

from __future__ import annotations

from sae.autoencoder.architectures.base import Sparsity
from sae.autoencoder.architectures.batch_topk import BatchTopK
from sae.autoencoder.architectures.gated import Gated
from sae.autoencoder.architectures.jumprelu import JumpReLU
from sae.autoencoder.architectures.matryoshka import Matryoshka
from sae.autoencoder.architectures.relu import ReLU
from sae.autoencoder.architectures.topk import TopK

REGISTRY: dict[str, type[Sparsity]] = {
    "batch_topk": BatchTopK, "gated": Gated, "jumprelu": JumpReLU, "matryoshka": Matryoshka, "relu": ReLU,
    "topk": TopK}


def make(name: str, k: int = 0) -> Sparsity:
    """A fresh sparsity rule.  Raises KeyError for an unknown name (specs refuse it earlier)."""
    return REGISTRY[name](k)
