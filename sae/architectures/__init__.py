"""The ways to be sparse, one file each.  Adding one is a file here and a line in `REGISTRY`."""

from __future__ import annotations

from sae.architectures.base import Sparsity
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.topk import TopK

REGISTRY: dict[str, type[Sparsity]] = {"batch_topk": BatchTopK, "topk": TopK}


def make(name: str, k: int) -> Sparsity:
    """A fresh sparsity rule.  Raises KeyError for an unknown name (specs refuse it earlier)."""
    return REGISTRY[name](k)
