"""The architectures, one file each.  A new one needs a file here and an entry in `REGISTRY`."""

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
    """Return a new rule of an architecture.  Raises KeyError for an unknown name (specs reject it earlier)."""
    return REGISTRY[name](k)
