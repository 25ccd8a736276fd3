"""Hook points as ends of modules of the plain Hugging Face model: where its forward hooks read and edit.

A place is believed only after the numbers that pass there have been compared with the bridge's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.dataflow import End, alike, columns_of, compared_in, equal_to, proportional, record
from sae.lm.logit_map import probe_tokens
from sae.lm.sites import EMBED, HEADS, kind_of

if TYPE_CHECKING:
    from sae.lm.bridge import Edit, Edits, LanguageModel


@dataclass(frozen=True)
class Place:
    """An end of a module, `hook_in` or `hook_out`.

    The site's activations are `factor` times what passes there, or some columns of it, in their order: a module may
    compute queries, keys and values together.
    """

    module: nn.Module
    end: str
    factor: float = 1.0
    columns: Tensor | None = None


class Places:
    """The places of hook points in `model`.  `run` gives it tokens [1, S] to read."""

    def __init__(self, lm: LanguageModel, model: nn.Module, run: Callable[[Tensor], Any]) -> None:
        self._lm, self._run = lm, run
        self._modules = dict(model.named_modules())
        self._found: dict[str, Place] = {}

    @contextlib.contextmanager
    def hooked(self, edits: Edits, shape: tuple[int, int]) -> Iterator[None]:
        """Edit sites while the model reads tokens of this shape, [P, S].  Raises UserError (field `site`)."""
        # All of them before the first edit, because finding a place reads a text.
        placed = [(self.find(point), part) for point, part in self._lm.edit_points(edits)]
        handles: list[Any] = []
        try:
            handles += [_attach(place, _shaped(part, shape)) for place, part in placed]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def find(self, hook: str) -> Place:
        """Return where a hook point is.  Raises UserError (field `site`) where no module's end has its numbers."""
        if hook not in self._found:
            names, end = self._lm.component(hook)
            module = next((self._modules[name] for name in names if name in self._modules), None)
            tokens = probe_tokens(self._lm)
            (expected,) = self._lm.activations_at(tokens, [hook])
            expected_Tw = expected.flatten(0, 1)
            within = module if hook == EMBED and module is not None else self._block(hook)
            ends = record(within, lambda: self._run(tokens), tokens.numel())
            with compared_in(self._lm.rounding):
                place = self._believed(module, end, ends, expected_Tw) or _searched(ends, expected_Tw)
                if place is None and kind_of(hook) in HEADS:
                    place = _among_columns(ends, expected_Tw)
            if place is None:
                raise UserError(f"site: {self._lm.info.name} cannot be steered at {hook}: no module of it takes in or "
                                "gives out these activations", "site")
            self._found[hook] = place
        return self._found[hook]

    def _block(self, hook: str) -> nn.Module:
        names, _ = self._lm.component(f"blocks.{hook.split('.')[1] if hook != EMBED else 0}.hook_in")
        block: nn.Module = next(self._modules[name] for name in names if name in self._modules)
        return block

    def _believed(self, module: nn.Module | None, end: str, ends: list[End], expected_Tw: Tensor) -> Place | None:
        """Return the place that the bridge names, if its numbers are right."""
        if module is None:
            return None
        values = [found.value_Tw for found in ends if found.module is module and found.side == end]
        return Place(module, end) if values and alike(values[0], expected_Tw) else None


def _searched(ends: list[End], expected_Tw: Tensor) -> Place | None:
    """Return the first module that takes these numbers in, or the last one that gives them out."""
    taken = next(equal_to(ends, expected_Tw, "hook_in"), None)
    if taken is not None:
        return Place(taken.module, "hook_in")
    given = list(equal_to(ends, expected_Tw, "hook_out"))
    if given:
        return Place(given[-1].module, "hook_out")
    multiples = list(proportional(ends, expected_Tw, "hook_out"))
    return Place(multiples[-1][0].module, "hook_out", multiples[-1][1]) if multiples else None


def _among_columns(ends: list[End], expected_Tw: Tensor) -> Place | None:
    """Return the last module that gives these numbers out among others, and where they are among them."""
    for found in reversed(ends):
        if found.side == "hook_out" and (columns := columns_of(found.value_Tw, expected_Tw)) is not None:
            return Place(found.module, "hook_out", columns=columns)
    return None


def of_columns(edit: Edit, columns: Tensor) -> Edit:
    """Return the edit of some columns as one of all."""
    def whole(x: Tensor) -> Tensor:
        out = x.clone()
        out[..., columns] = edit(x[..., columns])
        return out

    return whole


def _shaped(edit: Edit, shape: tuple[int, int]) -> Edit:
    """The edit of a site where some models lay the texts end to end, as [P·S, D]."""
    def shaped(x: Tensor) -> Tensor:
        out = edit(x.float().view(*shape, -1)).reshape(x.shape) if x.dim() == 2 else edit(x.float())
        return out.to(x.dtype)

    return shaped


def _scaled(edit: Edit, factor: float) -> Edit:
    """The edit of a site whose activations are multiples of what passes; what it leaves alone keeps its bits."""
    def scaled(x: Tensor) -> Tensor:
        before = factor * x
        after = edit(before)
        return torch.where(after == before, x, after / factor)

    return scaled


def _attach(place: Place, edit: Edit) -> Any:
    if place.factor != 1:
        edit = _scaled(edit, place.factor)
    if place.columns is not None:
        edit = of_columns(edit, place.columns)
    if place.end == "hook_in":
        return place.module.register_forward_pre_hook(_before(edit), with_kwargs=True)
    return place.module.register_forward_hook(_after(edit))


def _before(edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return hook


def _after(edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return hook
