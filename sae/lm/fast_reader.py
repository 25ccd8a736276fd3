"""Fast reading of activations at fixed hook points, by the model inside the bridge without the bridge.

A bridge stops at every hook point and keeps attention patterns.  On a CPU, fresh memory costs as much as the
computation in it.  A forward pass without the bridge, with fused attention and oneDNN's products, takes a fifth less
time on two cores of an EPYC.

Shapes: P contexts, S positions, D width.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor, nn

from sae.kernels.device import has_fast_bfloat16
from sae.kernels.threads import torch_threads_divided
from sae.lm.bridge import LanguageModel
from sae.lm.dataflow import loosened
from sae.lm.sites import split_head

Read = Callable[[Tensor], list[Tensor]]
Casts = dict[int, tuple[Tensor, Tensor | None]]  # weights and biases in bfloat16, by the identity of the weight
_MOST_READERS = 4  # further cores are divided among them
_PART_TOKENS = 1024  # per reader, so that what its thread does is longer than what it waits


def reader(lm: LanguageModel, hooks: Sequence[str], *, autocast: bool = False) -> Read:
    """Return a function that computes `lm.activations_at(·, hooks)`, for one thread at a time.

    On a CPU it uses the model without its bridge if the two agree on the first context.  With `autocast` the linear
    layers multiply in bfloat16, which a CPU is asked to do only if its hardware can.
    """
    chosen: list[Read] = []

    def read(tokens_PS: Tensor) -> list[Tensor]:
        if not chosen:
            n = min(torch.get_num_threads(), _MOST_READERS)
            chosen.append(_side_by_side(parallel_readers(lm, hooks, n, tokens_PS, autocast=autocast)))
        return chosen[0](tokens_PS)

    return read


def parallel_readers(
    lm: LanguageModel, hooks: Sequence[str], n: int, tokens_PS: Tensor, *, autocast: bool = False
) -> list[Read]:
    """Return `n` functions that compute `lm.activations_at(·, hooks)`, one for each of as many threads.

    There is a single one, for the caller's thread, if only the bridge agrees with itself on the first context.
    """
    autocast = autocast and (lm.device.type != "cpu" or has_fast_bfloat16())

    def by_bridge(tokens_PS: Tensor) -> list[Tensor]:
        return lm.activations_at(tokens_PS, hooks, autocast=autocast)

    if lm.device.type != "cpu" or lm.settings.placed:
        return [by_bridge]
    casts: Casts = {}
    found = _chosen(lm, hooks, tokens_PS[:1], by_bridge, autocast, casts)
    _say_how(found is not None, autocast)
    if not found:
        return [by_bridge]
    read, attention = found
    others = (_bare_reader(lm, hooks, attention, low=autocast, casts=casts) for _ in range(n - 1))
    return [read, *(other for other in others if other is not None)]


def _side_by_side(readers: Sequence[Read]) -> Read:
    """Return a function that divides the contexts of a pass among readers, which work at the same time.

    Contexts can be divided among cores; the short operations of a small model can hardly be.
    """
    if len(readers) == 1:
        return readers[0]
    pool = ThreadPoolExecutor(len(readers) - 1, thread_name_prefix="reader")

    def read(tokens_PS: Tensor) -> list[Tensor]:
        n = min(len(readers), len(tokens_PS), tokens_PS.numel() // _PART_TOKENS)
        if n < 2:
            return readers[0](tokens_PS)
        first_PS, *parts = tokens_PS.tensor_split(n)
        with torch_threads_divided(n):
            pending = [pool.submit(one, part_PS) for one, part_PS in zip(readers[1:], parts, strict=False)]
            try:
                own = readers[0](first_PS)
            finally:
                wait(pending)
        found = [own, *(part.result() for part in pending)]
        return [torch.cat(site) for site in zip(*found, strict=True)]

    return read


def _chosen(
    lm: LanguageModel, hooks: Sequence[str], tokens_PS: Tensor, by_bridge: Read, autocast: bool, casts: Casts
) -> tuple[Read, str] | None:
    """Return the reader without the bridge that agrees with the bridge on some contexts, if there is one, and its
    attention function.

    Under autocast it must be as near to float32 as the bridge is, up to a factor of two.
    """
    expected = lm.activations_at(tokens_PS, hooks)
    for attention in ("sdpa", "eager"):
        read = _bare_reader(lm, hooks, attention)
        if read is None or not _agree(read, expected, tokens_PS, loosened(1e-4, lm.rounding)):
            continue
        if not autocast:
            return read, attention
        low = _bare_reader(lm, hooks, attention, low=True, casts=casts)
        own, allowed = _distance(low, expected, tokens_PS), _distance(by_bridge, expected, tokens_PS)
        return (low, attention) if low is not None and own <= 2 * allowed else None
    return None


@functools.cache
def _say_how(bare: bool, autocast: bool) -> None:
    """Write to the run's log how activations are read, once for however many threads read."""
    print(f"activations are read {'without' if bare else 'by'} the bridge, in "
          f"{'bfloat16' if autocast else 'float32'}", flush=True)


class _Reached(Exception):
    """The forward pass has computed all requested activations."""


def _bare_reader(
    lm: LanguageModel, hooks: Sequence[str], attention: str, *, low: bool = False, casts: Casts | None = None
) -> Read | None:
    """Return a reader without the bridge, or None for a model or hook point for which this does not work.

    With `low` its linear layers multiply in bfloat16, and everything else is as under autocast.  The readers of one
    model share `casts`.
    """
    try:
        model = _with_fused_gelu(_by_onednn(_bare_model(lm), low, {} if casts is None else casts))
        model.set_attn_implementation(attention)
        modules = dict(model.named_modules())
        kept: dict[str, Tensor] = {}
        whole = [split_head(hook)[0] for hook in hooks]
        for hook in dict.fromkeys(whole):
            names, end = lm.component(hook)
            _listen(next(modules[name] for name in names if name in modules), end, hook, kept, len(set(whole)))
    except Exception:  # an unusual architecture may raise anything
        return None

    @torch.no_grad()
    def read(tokens_PS: Tensor) -> list[Tensor]:
        kept.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=low), contextlib.suppress(_Reached):
            model(input_ids=tokens_PS, use_cache=False)
        found = (kept[hook].flatten(2).float() for hook in whole)
        return [x_PSD[..., lm.head_columns(hook, x_PSD.shape[-1])] for hook, x_PSD in zip(hooks, found, strict=True)]

    return read


def _bare_model(lm: LanguageModel) -> Any:
    """Return the Hugging Face model on the same weights, with the bridge's parts removed."""
    model = lm.bridge.original_model
    replacement: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    for module in reversed(list(model.modules())):  # the innermost first
        inner = module._modules.get("_original_component")
        if inner is not None:
            replacement[id(module)] = copy.deepcopy(inner, replacement)
    return copy.deepcopy(model, replacement)


class _Linear(nn.Module):
    """A linear layer computed by oneDNN, in float32 or bfloat16.

    It multiplies float32 a tenth faster than the library behind `torch.mm`, and faster still on AMD's processors.
    """

    def __init__(self, layer: Any, low: bool, casts: Casts) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._low, self._transposed, self._casts = low, type(layer) is not nn.Linear, casts

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._casts.get(id(self.weight)) or self._weights()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, "none", [], "")
        return y

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        if not self._low:
            return self.weight, self.bias
        weight = self.weight.t() if self._transposed else self.weight
        # Cast at the first use: layers after the hook point are never used.
        cast = weight.to(torch.bfloat16).contiguous(), None if self.bias is None else self.bias.to(torch.bfloat16)
        self._casts[id(self.weight)] = cast
        return cast


def _by_onednn(model: Any, low: bool, casts: Casts) -> Any:
    """Let oneDNN compute the linear layers of the model, if this torch supports it."""
    if torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        for module in list(model.modules()):
            for name, child in module.named_children():
                # Conv1D, a linear layer with a transposed weight, is worth its copy only in bfloat16.
                linear = type(child) is nn.Linear or (low and type(child).__name__ == "Conv1D")
                if linear and child.weight.dtype == torch.float32:
                    setattr(module, name, _Linear(child, low, casts))
    return model


def _with_fused_gelu(model: Any) -> Any:
    """Compute GELU's approximation by tanh in one pass where the model writes it out in eight."""
    x = torch.linspace(-8, 8, 257)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__module__ == "transformers.activations" and torch.allclose(
                    child(x), nn.functional.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def _listen(module: nn.Module, end: str, hook: str, kept: dict[str, Tensor], wanted: int) -> None:
    """Keep the module's input or output; end the forward pass once all wanted hook points are kept."""
    def keep(value: Any) -> None:
        kept[hook] = value[0] if isinstance(value, tuple) else value
        if len(kept) == wanted:
            raise _Reached

    if end == "hook_in":
        module.register_forward_pre_hook(
            lambda _, args, kwargs: keep(args if args else kwargs["hidden_states"]), with_kwargs=True)
    elif end == "hook_out":
        module.register_forward_hook(lambda _, args, output: keep(output))
    else:
        raise ValueError(end)


def _found(read: Read | None, expected: list[Tensor], tokens_PS: Tensor) -> list[Tensor] | None:
    """Return what a reader reads if it works and has the expected shapes."""
    try:
        found = read(tokens_PS) if read else None
    except Exception:  # an unusual architecture may raise anything
        return None
    return found if found and all(a.shape == b.shape for a, b in zip(found, expected, strict=True)) else None


def _agree(read: Read | None, expected: list[Tensor], tokens_PS: Tensor, near: float) -> bool:
    """Return whether a reader gives these activations for some contexts, up to rounding."""
    found = _found(read, expected, tokens_PS)
    return found is not None and all(
        torch.allclose(a, b, rtol=near, atol=near * float(b.std())) for a, b in zip(found, expected, strict=True))


def _distance(read: Read | None, expected: list[Tensor], tokens_PS: Tensor) -> float:
    """Return the largest relative distance of what a reader reads to what is expected, over the hook points."""
    found = _found(read, expected, tokens_PS)
    if found is None:
        return torch.inf
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
