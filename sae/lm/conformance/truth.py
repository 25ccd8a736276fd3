"""The plain Hugging Face model, made once more, with sites and edits of its own.

Its weights are the bridge's where these are what the model's files hold; else it is loaded a second time.  Nothing else
here asks the bridge.  The residual stream is what enters and leaves a block; the other sites have to fit between them
by arithmetic.  Edits are forward hooks at the modules where the site's numbers pass.

Shapes: T tokens of a text, w width of a site, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.dataflow import End, entering, equal_to, linear_matrix, output_of, proportional, record, same
from sae.lm.logit_map import fit
from sae.lm.norms import measure_norm, normalized
from sae.lm.sites import EMBED
from sae.lm.weight_files import equal_to_files

Edit = Callable[[Tensor], Tensor]  # of [1, T, w]


class Truth:
    """The plain model."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        shared = not lm.settings.placed and equal_to_files(lm.info, lm.named_weights())
        self.model = lm.plain(share=shared)
        ours = {} if shared or lm.settings.placed else dict(lm.named_weights())
        for name, tensor in self.model.named_parameters():
            if name in ours and torch.equal(ours[name], tensor):  # what is equal need not be there twice
                tensor.data = ours[name].data
        self.width = lm.info.d_model

    @torch.no_grad()
    def logits(self, tokens_1T: Tensor) -> Tensor:
        """Return the logits [T, V] of one text, read without a cache."""
        out: Tensor = self.model(input_ids=tokens_1T, use_cache=False).logits
        return out[0].float().to(self.lm.device)

    def blocks(self, tokens_1T: Tensor) -> list[nn.Module]:
        """Return the list of as many modules as the model has blocks, each of which feeds the next."""
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.lm.info.n_layers:
                order: list[nn.Module] = []
                with ExitStack() as stack:
                    for block in module:
                        handle = block.register_forward_hook(lambda ran, _args, _out, order=order: order.append(ran))
                        stack.callback(handle.remove)
                    self.logits(tokens_1T)
                if order == list(module):
                    return order
        raise UserError(f"model: {self.lm.info.name} does not run its blocks once, one after the other", "model")

    def embedding(self, value_TD: Tensor, tokens_1T: Tensor) -> Block | None:
        """Return the token embedding, or a norm next to it, as a block of its own; None if neither gives these numbers
        out."""
        try:
            table: nn.Module = self.model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            return None
        owner = next((module for module in self.model.modules() if table in module.children()), None)
        near = [] if owner is None else [module for module in owner.children() if not any(
            isinstance(part, nn.ModuleList) for part in module.modules())]
        for module in (table, *near):
            found = self.block(module, tokens_1T)
            for end in found.ends:
                if end.module is module and end.side == "hook_out" and same(end.value_Tw, value_TD):
                    found.places[EMBED] = end
                    return found
        return None

    def block(self, module: nn.Module, tokens_1T: Tensor) -> Block:
        """Record one block while it reads a text."""
        return Block(self, module, record(module, lambda: self.logits(tokens_1T), tokens_1T.numel(), self.lm.device))


@dataclass
class Block:
    """What passes in one block, and the sites that have been recognised in it."""

    truth: Truth
    module: nn.Module
    ends: list[End]
    places: dict[str, End] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)  # with which the stream takes in what they add
    scales: dict[str, float] = field(default_factory=dict)  # of sites that are multiples of what passes at the place
    columns: dict[str, Tensor] = field(default_factory=dict)  # of sites that are some columns of what passes there

    @property
    def entering(self) -> Tensor:
        return next(end.value_Tw for end in self.ends if end.module is self.module and end.side == "hook_in")

    @property
    def leaving(self) -> Tensor:
        return next(end.value_Tw for end in self.ends if end.module is self.module and end.side == "hook_out")

    def recognise(self, found: Mapping[str, Tensor]) -> dict[str, str]:
        """Compare sites as the program has them, [T, w] by kind, with this block.  Returns a reason for each that
        does not fit, and remembers the places of the others."""
        reasons: dict[str, str] = {}
        for kind, side in (("hook_resid_pre", "hook_in"), ("hook_resid_post", "hook_out")):
            if kind in found:
                own = next(end for end in self.ends if end.module is self.module and end.side == side)
                if same(found[kind], own.value_Tw):
                    self.places[kind] = own
                else:
                    reasons[kind] = "other numbers than those that pass the block's end in the plain model"
        reasons |= self._sums(found)
        for kind, out in (("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out")):
            if kind in found:
                place = self._before_matrix(found[kind], found.get(out)) if out in self.places else None
                if place is None:
                    reasons[kind] = "no matrix takes these activations to what the block adds to the residual stream"
                else:
                    self.places[kind] = place
        for kind, leads_to in (("mlp.hook_in", "hook_mlp_out"), ("hook_mlp_in", "mlp.hook_in")):
            if kind in found:
                place = self._taken_in(found[kind], found.get(leads_to))
                if place is None or (kind == "hook_mlp_in" and not self._is_stream(found[kind])):
                    reasons[kind] = "no module of the block takes in these numbers"
                else:
                    self.places[kind] = place
        if (normal := found.get("ln2.hook_normalized")) is not None:
            place = self._norm(normal, found)
            if place is None:
                reasons["ln2.hook_normalized"] = "no norm of the block normalises its input to these numbers"
            else:
                self.places["ln2.hook_normalized"] = place
        return reasons

    def _sums(self, found: Mapping[str, Tensor]) -> dict[str, str]:
        """Recognise what attention and MLP add, and the residual stream between them."""
        reasons: dict[str, str] = {}
        middle = found.get("hook_resid_mid")
        halves = {"hook_attn_out": (self.entering, middle), "hook_mlp_out": (middle, self.leaving)}
        together = fit(self.leaving - self.entering, [found[kind] for kind in halves if kind in found])
        for number, kind in enumerate(kind for kind in halves if kind in found):
            before, after = halves[kind]
            factors = together
            if before is not None and after is not None:
                factors = fit(after - before, [found[kind]])
                number = 0
            given = list(equal_to(self.ends, found[kind], "hook_out"))
            multiples = [] if given else list(proportional(self.ends, found[kind], "hook_out"))
            if factors is None or abs(factors[number]) < 1e-6:
                reasons[kind] = "does not add up to what the block adds to the residual stream"
            elif not given and not multiples:
                reasons[kind] = "no module of the block gives out these numbers"
            else:
                self.places[kind], self.scales[kind] = (given[-1], 1.0) if given else multiples[-1]
                self.factors[kind] = factors[number]
        if middle is not None:
            taken = next(equal_to(self.ends, middle, "hook_in"), None)
            known = [kind for kind in halves if kind in found]
            if taken is None or not known or any(kind in reasons for kind in known) or "hook_mlp_out" not in known:
                reasons["hook_resid_mid"] = "is not the residual stream between attention and MLP"
            else:
                self.places["hook_resid_mid"] = taken
        return reasons

    def _taken_in(self, value_TD: Tensor, leads_to: Tensor | None) -> End | None:
        """The module that takes these numbers in: the one that gives out what they lead to, or else the first."""
        takers = [end for end in equal_to(self.ends, value_TD, "hook_in") if end.module is not self.module]
        for end in takers:
            out = output_of(self.ends, end.module)
            if out is None or leads_to is None:
                continue
            if any(_multiple(x, leads_to) for x in [out, *self._normed(out)]):
                return end
        return takers[0] if takers else None

    def _normed(self, value_TD: Tensor) -> list[Tensor]:
        outs = (output_of(self.ends, end.module) for end in equal_to(self.ends, value_TD, "hook_in"))
        return [out for out in outs if out is not None]

    def _is_stream(self, value_TD: Tensor) -> bool:
        middle = self.places.get("hook_resid_mid")
        return same(value_TD, self.entering) or (middle is not None and same(value_TD, middle.value_Tw))

    def _before_matrix(self, x_Tw: Tensor, out_TD: Tensor | None) -> End | None:
        """The end at which activations enter a linear module whose product, perhaps normed, is `out_TD`."""
        for end in equal_to(self.ends, x_Tw, "hook_in"):
            product = output_of(self.ends, end.module)
            if product is None or out_TD is None or product.shape != out_TD.shape or same(product, x_Tw):
                continue
            normed = (output_of(self.ends, other.module) for other in equal_to(self.ends, product, "hook_in"))
            if not any(y is not None and _multiple(y, out_TD) for y in (product, *normed)):
                continue
            try:
                linear_matrix(end.module, x_Tw.shape[1], x_Tw.device)
            except (ValueError, RuntimeError, TypeError):
                continue
            return end
        return None

    def _norm(self, normal_TD: Tensor, found: Mapping[str, Tensor]) -> End | None:
        for end in self.ends:
            if end.side != "hook_in" or end.value_Tw.shape != normal_TD.shape:
                continue
            if not any(same(normalized(end.value_Tw, centred, 1e-9), normal_TD, 1e-2) for centred in (False, True)):
                continue
            after = output_of(self.ends, end.module)
            taken = found.get("mlp.hook_in")
            if after is not None and (taken is None or same(after, taken)):
                return end
        return None

    @torch.no_grad()
    def edited_logits(self, kind: str, edit: Edit, tokens_1T: Tensor) -> Tensor:
        """Return the logits [T, V] with an edit at a recognised site."""
        place, shape, scale = self.places[kind], (1, tokens_1T.numel()), self.scales.get(kind, 1.0)

        own = self.columns.get(kind, slice(None))

        def shaped(x: Tensor) -> Tensor:
            out = x.float().reshape(*shape, -1).clone().to(self.truth.lm.device)
            out[..., own] = edit(scale * out[..., own]) / scale
            return out.reshape(x.shape).to(x)

        handles = []
        try:
            if kind == "hook_resid_mid":
                handles += self._edit_middle(place.module, shaped)
            elif kind.endswith(".hook_normalized"):
                edited = _edit_normal(shaped, self.truth.width)
                handles.append(place.module.register_forward_hook(edited, with_kwargs=True))
            elif place.side == "hook_in":
                handles.append(place.module.register_forward_pre_hook(_pre(shaped), with_kwargs=True))
            else:
                handles.append(place.module.register_forward_hook(_post(shaped)))
            return self.truth.logits(tokens_1T)
        finally:
            for handle in handles:
                handle.remove()

    def _edit_middle(self, norm: nn.Module, edit: Edit) -> list[Any]:
        """The MLP takes in the edited stream, and what leaves the block is made of it anew."""
        kept: dict[str, Tensor] = {}
        factor = self.factors["hook_mlp_out"] * self.scales["hook_mlp_out"]

        def take(x: Tensor) -> Tensor:
            kept["middle"] = edit(x)
            return kept["middle"]

        def keep(x: Tensor) -> Tensor:
            kept["mlp"] = x
            return x

        def put(x: Tensor) -> Tensor:
            return kept["middle"].reshape(x.shape) + factor * kept["mlp"].reshape(x.shape)

        return [norm.register_forward_pre_hook(_pre(take), with_kwargs=True),
                self.places["hook_mlp_out"].module.register_forward_hook(_post(keep)),
                self.module.register_forward_hook(_post(put))]


def _multiple(x: Tensor, y: Tensor) -> bool:
    """Whether one is a multiple of the other, but for rounding."""
    if x.shape != y.shape:
        return False
    factor = float((x.double() * y.double()).sum() / x.double().square().sum().clamp(min=1e-30))
    return abs(factor) > 1e-6 and same(x * factor, y)


def _pre(edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return hook


def _post(edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return hook


def _edit_normal(edit: Edit, width: int) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        if getattr(module, "_measuring", False):
            return output
        x = entering(args, kwargs)
        assert x is not None
        module._measuring = True  # type: ignore[assignment]
        try:
            norm = measure_norm(module, width, x.device)
        finally:
            module._measuring = False  # type: ignore[assignment]
        normal = (output.float() - norm.bias_D) / norm.gain_D
        out: Tensor = norm.bias_D + norm.gain_D * edit(normal)
        return out.to(output.dtype)

    return hook
