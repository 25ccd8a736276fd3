"""The tensors that enter and leave the modules of one block, and questions to them by value.

Which module computes a site is found by comparing numbers, because names and class trees differ by family.

Shapes: T tokens of all texts, w width of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = Literal["hook_in", "hook_out"]


@dataclass(frozen=True)
class End:
    """What enters (`hook_in`) or leaves (`hook_out`) a module: [T, w], as it was when the module ran."""

    name: str
    module: nn.Module
    side: Side
    value_Tw: Tensor


def first_tensor(value: Any) -> Tensor | None:
    """Return the hidden states among a module's arguments or results."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((found for part in value if (found := first_tensor(part)) is not None), None)
    return None


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the hidden states that a module is called with."""
    return first_tensor(args) if args else first_tensor(kwargs.get("hidden_states"))


def record(
    block: nn.Module, run: Callable[[], Any], n_tokens: int, device: torch.device | None = None,
) -> list[End]:
    """Run something and return the ends of all modules of `block`, itself included, in the order in which they ran.

    With a `device`, their values are copied there.

    Tensors that do not divide into `n_tokens` rows are left out, as are modules that run several times.
    """
    ends: list[End] = []
    times: dict[int, int] = {}

    def keep(name: str, module: nn.Module, side: Side, value: Tensor | None) -> None:
        if value is None or not value.is_floating_point() or value.dim() < 2 or not value.numel():
            return
        if value.numel() % n_tokens == 0 and value.shape[-1] <= value.numel() // n_tokens:
            copied = value.detach().reshape(n_tokens, -1).clone()
            ends.append(End(name, module, side, copied.to(device or value.device)))

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            times[id(module)] = times.get(id(module), 0) + 1
            keep(name, module, "hook_in", entering(args, kwargs))
        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            keep(name, module, "hook_out", first_tensor(output))
        return hook

    handles = []
    try:
        for name, module in block.named_modules():
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [end for end in ends if times[id(end.module)] == 1]


# The least tolerance of comparisons in number formats with fewer bits than float32, in units of the rms.
_ROUNDING = {torch.bfloat16: 0.1, torch.float16: 0.02}


def loosened(tolerance: float, dtype: torch.dtype) -> float:
    """Return the tolerance for numbers of a model in this format."""
    return max(tolerance, _ROUNDING.get(dtype, 0.0))


def dtype_of(module: Any) -> torch.dtype:
    """Return the number format in which a module computes; float32 for one without weights."""
    parameters = module.parameters() if isinstance(module, nn.Module) else iter(())
    return next((tensor.dtype for tensor in parameters if tensor.is_floating_point()), torch.float32)


_format: ContextVar[torch.dtype] = ContextVar("format", default=torch.float32)


@contextmanager
def compared_in(dtype: torch.dtype) -> Iterator[None]:
    """Compare the numbers of a model in this format: `same`, `alike` and what uses them become looser."""
    token = _format.set(dtype)
    try:
        yield
    finally:
        _format.reset(token)


def same(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors are equal but for rounding."""
    if a.shape != b.shape:
        return False
    size = float(b.float().square().mean().sqrt())
    return bool((a.float() - b.float()).abs().max() <= loosened(tolerance, _format.get()) * max(size, 1e-12))


def alike(a_Tw: Tensor, b_Tw: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether tensors are equal but for rounding, at all tokens but one in eight.

    Rounding may send a token to another expert of a mixture, which says nothing against the place.
    """
    if a_Tw.shape != b_Tw.shape:
        return False
    size = float(b_Tw.float().square().mean().sqrt())
    off_T = (a_Tw.float() - b_Tw.float()).abs().amax(dim=-1) > loosened(tolerance, _format.get()) * max(size, 1e-12)
    return int(off_T.sum()) <= len(a_Tw) // 8


def equal_to(ends: list[End], value_Tw: Tensor, side: Side) -> Iterator[End]:
    """Yield the ends on one side at which this value passes."""
    return (end for end in ends if end.side == side and alike(end.value_Tw, value_Tw))


def proportional(ends: list[End], value_Tw: Tensor, side: Side) -> Iterator[tuple[End, float]]:
    """Yield the ends at which a multiple of this value passes, and the factor that makes the value of it."""
    for end in ends:
        if end.side == side and end.value_Tw.shape == value_Tw.shape:
            x, y = end.value_Tw.cpu().double(), value_Tw.cpu().double()
            factor = float((x * y).sum() / x.square().sum().clamp(min=1e-30))
            if abs(factor) > 1e-6 and alike(x * factor, y):
                yield end, factor


def columns_of(whole_TW: Tensor, part_Tw: Tensor) -> Tensor | None:
    """Return the columns of a wider tensor that hold these values in their order, [w]; None if there are none."""
    if whole_TW.dim() != 2 or whole_TW.shape[0] != part_Tw.shape[0] or whole_TW.shape[1] <= part_Tw.shape[1]:
        return None
    whole, part = whole_TW.float(), part_Tw.float()
    nearest = torch.cat([torch.cdist(some.T, whole.T).argmin(dim=1) for some in torch.split(part, 1024, dim=1)])
    return nearest if len(set(nearest.tolist())) == len(nearest) and alike(whole[:, nearest], part) else None


def output_of(ends: list[End], module: nn.Module) -> Tensor | None:
    """Return what left a module."""
    return next((end.value_Tw for end in ends if end.module is module and end.side == "hook_out"), None)


def linear_matrix(module: nn.Module, width: int, device: torch.device) -> Tensor:
    """Return the matrix [width, D] of a module that is linear up to its bias.

    Raises ValueError for a module that is not linear.
    """
    with torch.no_grad():
        zero_D = _apply(module, torch.zeros(1, width, device=device))[0]
        probe_Nw = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(device)
        out_ND = _apply(module, probe_Nw) - zero_D
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 2 and weight.device == probe_Nw.device:
            for matrix in (weight.detach().float().T, weight.detach().float()):
                if matrix.shape == (width, out_ND.shape[1]) and same(probe_Nw @ matrix, out_ND):
                    return matrix
        rows = torch.split(torch.eye(width, device=device), 1024)
        matrix = torch.cat([_apply(module, some) for some in rows]) - zero_D
        if same(probe_Nw @ matrix, out_ND):
            return matrix
    raise ValueError(f"{type(module).__name__} is not linear")


def _apply(module: nn.Module, x_Nw: Tensor) -> Tensor:
    out = first_tensor(module(x_Nw[None].to(dtype_of(module))))
    assert out is not None
    return out.float().to(x_Nw.device).reshape(len(x_Nw), -1)
