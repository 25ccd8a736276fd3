"""A plain Hugging Face model with the weights of another one, made without a second copy of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def original_name(name: str) -> str:
    """Return the name that a module, a parameter or a buffer of a bridge has in the original model."""
    return name.replace("._original_component", "")


def with_weights_of(bridged: Any, weights: Mapping[str, Tensor], attention: str) -> Any | None:
    """Return a model of the class of `bridged` with its weights, or None if that cannot be made of them.

    `bridged` is the model inside a bridge, `weights` are its parameters by their names in the plain model, and
    `attention` names the attention function.  On a CPU the weights of linear modules are laid out input-major, which
    makes a product of few rows up to twice as fast.
    """
    config = copy.deepcopy(bridged.config)
    dtype = next(iter(weights.values())).dtype
    try:
        with torch.device("meta"):
            model = type(bridged)._from_config(config, dtype=dtype, attn_implementation=attention)
    except Exception:  # some classes compute with their weights when they are made
        return None
    tied = {original_name(name): tensor for name, tensor in bridged.named_parameters(remove_duplicate=False)}
    buffers = {original_name(name): tensor for name, tensor in bridged.named_buffers(remove_duplicate=False)}
    found_weights = {**tied, **weights}
    for name, module in model.named_modules():
        ours = found_weights.get(f"{name}.weight")
        if isinstance(module, nn.Linear) and ours is not None and ours.device.type == "cpu" and ours.dim() == 2:
            ours.data = ours.data.t().contiguous().t()
    made: dict[int, nn.Parameter] = {}
    for module_name, module in model.named_modules():
        for store, found in ((module._parameters, found_weights), (module._buffers, buffers)):
            for leaf, tensor in store.items():
                if tensor is None:
                    continue
                ours = found.get(f"{module_name}.{leaf}" if module_name else leaf)
                if ours is None or ours.shape != tensor.shape:
                    return None
                if store is module._buffers:
                    store[leaf] = ours
                    continue
                if id(ours) not in made:
                    made[id(ours)] = nn.Parameter(ours.data, requires_grad=False)
                store[leaf] = made[id(ours)]
    if any(tensor.is_meta for tensor in _tensors(model)):
        return None
    model.generation_config = bridged.generation_config
    return model.eval()


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))
