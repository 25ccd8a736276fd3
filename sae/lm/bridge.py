"""The interface to language models.

A `LanguageModel` wraps one TransformerBridge.  **It must be used by one thread at a time**: hooks are attached to the
shared module tree, so a second thread would silently get the first one's edits.  A second thread uses a copy made by
`share_weights`.  Weights are raw (never folded), so a residual stream here is in the model's own coordinates. Every
SAE artefact records `weight_processing: raw`.

Shapes: P prompts, S positions, D d_model, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.dataflow import compared_in
from sae.lm.device import pick_device
from sae.lm.edit_points import in_order, middle_edit, normalized_edit
from sae.lm.hook_points import as_hook, bridge_name, by_text, component, head_columns, head_edit
from sae.lm.libraries import AttentionInterface, CacheBase, TransformerBridge, transformers_logging
from sae.lm.load_settings import LoadSettings
from sae.lm.loading import load_bridge, load_plain
from sae.lm.logit_map import inner, logit_map, probe_tokens, residual_scale
from sae.lm.model_info import ModelInfo, find_model
from sae.lm.norms import Norm, epsilon_of, measure_norm
from sae.lm.pieces import all_pieces
from sae.lm.shared_weights import original_name, with_weights_of
from sae.lm.sites import split_head
from sae.lm.special_tokens import check_embedded, context_start, end_ids, has_own_bos, special_ids

__all__ = ["Cache", "CacheBase", "Edit", "Edits", "LanguageModel", "pick_device"]

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

# transformers calls this for every layer: (module, query, key, value, mask, **settings) -> (output, None).
AttentionFunction = Callable[..., tuple[Tensor, None]]

# Receives the activations [P, S, D] at a hook point and returns them changed (same shape).
Edit = Callable[[Tensor], Tensor]
Edits = Mapping[str, Edit]  # by the name of the hook point


@dataclass
class Cache:
    """Keys and values of the positions read so far; `length` is their number."""

    state: Any
    length: int


class _Reached(Exception):
    """The forward pass has computed all requested activations."""


class LanguageModel:
    """A causal language model.

    It is evaluated in the number format of its weights, float32 by default, unless `autocast` says otherwise.  What
    leaves and enters it is float32.
    """

    def __init__(
        self, bridge: TransformerBridge, info: ModelInfo, tokenizer: Any = None, settings: LoadSettings | None = None,
    ) -> None:
        self.bridge = bridge
        self.info = info
        self.device = torch.device(bridge.cfg.device or "cpu")
        self.dtype = next(bridge.original_model.parameters()).dtype
        self.settings = settings or LoadSettings(self.dtype_name, LoadSettings.from_environment().remote_code)
        # The format whose rounding its numbers have: 8 bits round the activations, too.
        self.rounding = torch.bfloat16 if self.settings.bits == 8 else self.dtype
        self.tokenizer = tokenizer or bridge.tokenizer
        start = context_start(self.tokenizer, info.d_vocab)
        self.has_bos = start is not None
        self.bos_id = 0 if start is None else start  # without BOS it only pads
        self.special_ids = special_ids(self.tokenizer)
        self.end_ids = end_ids(self.tokenizer, getattr(bridge.original_model, "generation_config", None))
        self.refused: dict[str, str] = {}  # hook points that the conformance check refuses, and the reason
        self.way = ""  # of reading token by token, as the conformance check found it: fast, cached, whole
        self._sites: dict[str, bool] = {}
        self._norms: dict[str, Norm] = {}
        self._scales: dict[str, float | None] = {}

    @classmethod
    def load(cls, name: str, device: str | torch.device = "auto") -> LanguageModel:
        """Load `demo`, a local directory, or a hub name.  Raises UserError (field `model`)."""
        info = find_model(name)
        target = pick_device(device) if isinstance(device, str) else device
        settings = LoadSettings.from_environment()
        bridge, tokenizer = load_bridge(info, target, settings)
        return cls(bridge, info, tokenizer, settings)

    @property
    def dtype_name(self) -> str:
        """Return the number format of the weights: float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def format_name(self) -> str:
        """Return the number format of the weights, and the bits of those of linear layers if they have fewer."""
        return self.dtype_name + (f" in {self.settings.bits} bits" if self.settings.bits else "")

    def share_weights(self) -> LanguageModel:
        """Return a copy with shared weights, for another thread; this model itself where they cannot be shared."""
        if self.settings.placed:
            return self
        shared = [*self.bridge.parameters(), *self.bridge.buffers()]
        other = LanguageModel(copy.deepcopy(self.bridge, {id(tensor): tensor for tensor in shared}), self.info,
                              self.tokenizer, self.settings)
        other.refused, other.way = self.refused, self.way
        return other

    def reads_as(self, other: LanguageModel, hooks: Sequence[str]) -> bool:
        """Return whether this one has the activations of `other` at some hook points.

        In a few architectures the hooks of a copy still belong to the model that it was copied from.
        """
        tokens = probe_tokens(self)
        try:
            found = self.activations_at(tokens, hooks)
        except UserError:
            return False
        return all(torch.allclose(a, b) for a, b in zip(found, other.activations_at(tokens, hooks), strict=True))

    # ---- text

    @property
    def start(self) -> list[int]:
        """Return the tokens with which a text begins: BOS, or none where the tokenizer has no such token."""
        return [self.bos_id] if self.has_bos else []

    def encode(self, text: str, *, markup: bool = False) -> list[int]:
        """Return the token ids of `text` (see `encode_many`)."""
        return self.encode_many([text], markup=markup)[0]

    def encode_many(self, texts: Sequence[str], *, markup: bool = False) -> list[list[int]]:
        """Return the token ids of each text, without BOS.

        Text is data: a special token that is spelled in it is tokenised as plain characters, unless `markup` is set.
        """
        ids = list(self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=not markup, verbose=False)["input_ids"])
        if markup and self.has_bos:
            ids = [row[1:] if row[:1] == [self.bos_id] else row for row in ids]
        if len(self.tokenizer) > self.info.d_vocab:
            check_embedded(ids, self.info.d_vocab, self.info.name)
        return ids

    def vocabulary(self) -> tuple[list[bytes], list[bool]]:
        """Return the bytes of every token id, and whether it is a special token."""
        return self._vocabulary

    @cached_property
    def _vocabulary(self) -> tuple[list[bytes], list[bool]]:
        special = set(self.special_ids)
        return all_pieces(self.tokenizer, self.info.d_vocab), [i in special for i in range(self.info.d_vocab)]

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return BOS and the tokens of a chat up to the start of the answer, formatted by the model's own template.

        Raises UserError (field `chat`) if the tokenizer has no template or its template rejects the messages.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(f"chat: {self.info.name} has no chat template; give it a prompt to continue", "chat")
        try:
            ids = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
        except Exception as error:  # templates are programs and can raise anything
            raise UserError(f"chat: the template of {self.info.name} refuses this: {error}", "chat") from error
        # A stand-in for BOS is no part of a chat.
        if ids[:1] == self.start or not (self.has_bos and has_own_bos(self.tokenizer)):
            return list(ids)
        return [self.bos_id, *ids]

    # ---- the model without its hook points

    def plain(self, attention: AttentionFunction | None = None, *, share: bool = True) -> Any:
        """Return the Hugging Face model itself, with shared weights and with `attention` in place of its own.

        On a CPU the shared weights are laid out input-major, which makes a product of few rows up to twice as fast.
        """
        name = "eager"
        if attention is not None:
            name = f"{attention.__module__}.{attention.__qualname__}"  # unique, so that no other function replaces it
            AttentionInterface.register(name, attention)
        share = share and not self.settings.placed
        if share:
            model = with_weights_of(self.bridge.original_model, dict(self.named_weights()), name)
            if model is not None:
                return model.requires_grad_(False)
        model = load_plain(self.info, self.settings, type(self.bridge.original_model), name, self.device).eval()
        for weight, tensor in self.named_weights() if share else ():
            found = dict(model.named_parameters()).get(weight)
            if found is not None and found.shape == tensor.shape:
                found.data = tensor.data
        return model.requires_grad_(False)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters with the names that they have in the plain Hugging Face model."""
        return ((original_name(name), tensor) for name, tensor in self.bridge.original_model.named_parameters())

    def component(self, hook: str) -> tuple[list[str], str]:
        """Locate a hook point in the Hugging Face model (`sae.lm.hook_points.component`)."""
        return component(self.bridge, self.info.name, hook)

    # ---- forward passes

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        """Return the activations at one hook point, [P, S, D] float32.  The layers after it do not run."""
        return self.activations_at(tokens_PS, [hook], autocast=autocast)[0]

    @torch.no_grad()
    def activations_at(self, tokens_PS: Tensor, hooks: Sequence[str], *, autocast: bool = False) -> list[Tensor]:
        """Return the activations at several hook points of one forward pass, each [P, S, D] float32.

        Heads are concatenated: `attn.hook_z` [P, S, H, d_head] becomes [P, S, H·d_head].  A hook point with a head
        has its d_head coordinates.  The layers after the last hook point do not run.
        """
        kept: dict[str, Tensor] = {}
        whole = [split_head(hook)[0] for hook in hooks]
        for hook in hooks:
            self.check_site(hook)

        def keeping(hook: str) -> Edit:
            def keep(x_PSD: Tensor) -> Tensor:
                kept[hook] = x_PSD
                if len(kept) == len(set(whole)):
                    raise _Reached
                return x_PSD
            return keep

        # `stop_at_layer` stops before a block, so it cannot stop after the last one.
        readers = [(bridge_name(hook), keeping(hook)) for hook in dict.fromkeys(whole)]
        with self._precision(autocast), self._at_points(readers), contextlib.suppress(_Reached):
            self.bridge(tokens_PS, return_type=None)
        for hook in whole:
            if hook not in kept:
                raise UserError(f"site: nothing passes {hook} in {self.info.name}", "site")
            if kept[hook].dim() == 4 and kept[hook].shape[:2] != tokens_PS.shape:
                raise UserError(f"site: {self.info.name} has no {hook} token by token", "site")
        found = (kept[hook].reshape(*tokens_PS.shape, -1).float().to(self.device) for hook in whole)
        return [x_PSD[..., self.head_columns(hook, x_PSD.shape[-1])] for hook, x_PSD in zip(hooks, found, strict=True)]

    def head_columns(self, hook: str, width: int) -> slice:
        """Return the coordinates of a hook point's head among those of all heads; all without a head."""
        return head_columns(self.bridge.cfg, self.info.name, hook, width)

    @torch.no_grad()
    def logits(self, tokens_PS: Tensor, edits: Edits | None = None) -> Tensor:
        """Return next-token logits [P, S, V]; `edits` maps a hook point to the edit of its activations."""
        with self._hooked(edits, tokens_PS):
            out: Tensor = self.bridge(tokens_PS, return_type="logits")
        return out.float().to(self.device)

    @torch.no_grad()
    def step(
        self, tokens_PS: Tensor, cache: Cache | None = None, edits: Edits | None = None
    ) -> tuple[Tensor, Cache]:
        """Read `tokens_PS` after the positions in `cache`; return logits [P, S, V] of the new positions, and the
        cache.

        An edit sees the new positions only; their absolute positions start at `cache.length`. The cache passed in is
        consumed: use the one returned.
        """
        past = {} if cache is None else {"past_key_values": cache.state}
        with self._hooked(edits, tokens_PS):
            out, state = self.bridge(tokens_PS, return_type="logits_and_cache", **past)
        return out.float().to(self.device), Cache(state, (cache.length if cache else 0) + tokens_PS.shape[1])

    @torch.no_grad()
    def unembedding(self, hook: str = "", head_DV: Tensor | None = None) -> Tensor:
        """Return the map from directions to logits, centred over the vocabulary: [D, V].

        A decoder row times this is the direct effect on the logits up to the token's own final
        normalisation scale; centring removes the part that softmax ignores.  The final norm's gain
        is part of it, and its centring where it subtracts the mean.  For a `hook` whose
        activations reach the residual stream by a matrix (the heads, the MLP's hidden activations),
        that matrix comes first, with the norm behind it if there is one, and D is its width.  `head_DV` is the map
        without a hook, for a caller that asks for many.

        Raises UserError (field `site`) where there is no such matrix.
        """
        return logit_map(self, hook, head_DV)

    def has_site(self, hook: str) -> bool:
        """Return whether the model computes activations at a hook point."""
        if hook not in self._sites:
            try:
                self.activations_at(torch.tensor([[self.bos_id]], device=self.device), [hook])
                self._sites[hook] = True
            except UserError:
                self._sites[hook] = False
        return self._sites[hook]

    @contextlib.contextmanager
    def _hooked(self, edits: Edits | None, tokens_PS: Tensor) -> Iterator[None]:
        points = [(name, by_text(edit, tokens_PS)) for name, edit in self.edit_points(edits or {})]
        with self._at_points(points):
            yield

    def edit_points(self, edits: Edits) -> list[tuple[str, Edit]]:
        """Return the hook points at which edits are done, in the order in which they are to be attached.

        Raises UserError (field `site`) for a site that the conformance check refuses.
        """
        for hook in edits:
            self.check_site(hook)
        return in_order({hook: self._edit_points(hook, edit) for hook, edit in edits.items()})

    def _edit_points(self, hook: str, edit: Edit) -> list[tuple[str, Edit]]:
        base, head = split_head(hook)
        if head >= 0:
            return self._edit_points(base, head_edit(edit, lambda width: self.head_columns(hook, width)))
        if hook.endswith(".hook_resid_mid"):
            return middle_edit(hook, edit, self._mlp_scale(hook) if self.has_site(hook) else None)
        if hook.endswith(".hook_normalized") and self.has_site(hook):
            norm = inner(getattr(self.bridge.blocks[int(hook.split(".")[1])], hook.split(".")[2]))
            if hook not in self._norms:
                self._norms[hook] = measure_norm(norm, self.info.d_model, self.device)
            return normalized_edit(hook, edit, self._norms[hook], epsilon_of(norm))
        return [(bridge_name(hook), edit)]

    def _mlp_scale(self, hook: str) -> float | None:
        """Return the factor with which the residual stream takes in the MLP's part, None where it is not known."""
        name = f"{hook.rpartition('.')[0]}.hook_mlp_out"
        if name not in self._scales:
            try:
                with compared_in(self.rounding):
                    self._scales[name] = residual_scale(self, name)
            except UserError:
                self._scales[name] = None
        return self._scales[name]

    def check_site(self, hook: str) -> None:
        """Raise UserError (field `site`) for a hook point that the conformance check refuses."""
        base, head = split_head(hook)
        for name in (base, f"{base}:h")[: 1 + (head >= 0)]:  # the latter stands for the heads of a site
            if name in self.refused:
                raise UserError(f"site: {hook} is not offered for {self.info.name}: {self.refused[name]}", "site")

    @contextlib.contextmanager
    def _at_points(self, pairs: Sequence[tuple[str, Edit]]) -> Iterator[None]:
        """Attach the edits for the block.  Raises UserError (field `site`) for a hook point that the model does not
        have.
        """
        with contextlib.ExitStack() as stack:
            if pairs:
                try:
                    hooks = [(name, as_hook(edit, self.device)) for name, edit in pairs]
                    stack.enter_context(self.bridge.hooks(fwd_hooks=hooks))
                except (KeyError, ValueError) as error:
                    raise UserError(
                        f"site: {self.info.name} lacks one of {', '.join(name for name, _ in pairs)} (a block that "
                        "runs attention and MLP in parallel has no hook_resid_mid, for instance)",
                        "site") from error
            yield

    def _precision(self, autocast: bool) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
