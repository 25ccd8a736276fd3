"""Linear layers whose weights are packed for products of few rows.

Generating text multiplies a few rows with every weight of the model, which is bound by reading the weights.  oneDNN
keeps a copy in the order in which its kernels read it.  For four rows and the head of a model with 8,192 tokens this
takes a fifth to a third of the time of `torch.mm`; for four rows and a weight [704, 256] seven tenths, for 16 rows and
more half (on two AMD EPYC).  A row's result does not depend on the number of rows either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MOST_BYTES = 512 << 20  # of all copies
_WORTH_IT = 1 << 16  # entries of a weight; below, the call takes longer than the product
_ROWS = 16  # that the order of the copy is chosen for; it serves other numbers as well


class PackedLinear(nn.Module):
    """A linear layer in float32 with a packed copy of its weight [out, in]."""

    def __init__(self, layer: Any, weight_oi: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_oi.contiguous(), _ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """Return x · Wᵀ + b.  It has no gradient."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y


def pack(model: nn.Module) -> int:
    """Exchange the large linear layers of a model on the CPU, and return the bytes of the copies.

    The largest comes first, as far as the memory for copies reaches.
    """
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return 0
    found = [(parent, name, child, weight_oi) for parent in model.modules() for name, child in parent.named_children()
             if (weight_oi := _weight(child)) is not None]
    left = _MOST_BYTES
    for parent, name, child, weight_oi in sorted(found, key=lambda item: -item[3].numel()):
        size = weight_oi.numel() * weight_oi.element_size()
        if size <= left:
            left -= size
            setattr(parent, name, PackedLinear(child, weight_oi))
    return _MOST_BYTES - left


def _weight(layer: Any) -> Tensor | None:
    """Return the weight [out, in] of a layer that can be exchanged and is worth it."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    if weight.numel() < _WORTH_IT:
        return None
    if type(layer) is nn.Linear:
        return weight.detach()
    return weight.detach().t() if type(layer).__name__ == "Conv1D" else None  # that of GPT-2
