"""The seam to language models: the only file that imports transformer_lens or transformers.

A `LanguageModel` wraps one TransformerBridge.  **It must be used by one thread at a time**:
hooks live on the shared module tree, and a second thread would silently get the first one's
edits.  Weights are raw (never folded), so a residual stream here is in the model's own
coordinates; every SAE artefact records `weight_processing: raw`.

Shapes: P prompts, S positions, D d_model, V vocabulary.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Before the import: transformer_lens pulls in an experiment tracker that would look for a login.
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging as transformers_logging

from sae.errors import UserError
from sae.models import ModelInfo, find_model, hub_message
from sae.tokens import piece_bytes

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

# Receives the activations [P, S, D] at a hook point and returns them changed (same shape).
Edit = Callable[[Tensor], Tensor]
Edits = Mapping[str, Edit]  # by the name of the hook point


@dataclass
class Cache:
    """Keys and values of the positions read so far; `length` is how many those are."""

    state: Any
    length: int


class _Reached(Exception):
    """The forward pass has come as far as it was wanted."""


def pick_device(name: str = "auto") -> torch.device:
    """The device that `auto`, `cpu` or `cuda[:n]` means here.  Raises UserError (field `device`)."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: {name} was asked for, but this machine has no CUDA device", "device")
    return torch.device(name)


class LanguageModel:
    """A causal language model, evaluated in float32 unless `autocast` says otherwise."""

    def __init__(self, bridge: TransformerBridge, info: ModelInfo) -> None:
        self.bridge = bridge
        self.info = info
        self.device = torch.device(bridge.cfg.device or "cpu")
        self.tokenizer = bridge.tokenizer
        bos = self.tokenizer.bos_token_id
        self.bos_id = int(bos if bos is not None else self.tokenizer.eos_token_id)

    @classmethod
    def load(cls, name: str, device: str | torch.device = "auto") -> LanguageModel:
        """Load `demo`, a local directory, or a hub name.  Raises UserError (field `model`)."""
        info = find_model(name)
        target = pick_device(device) if isinstance(device, str) else device
        try:
            bridge = TransformerBridge.boot_transformers(info.source, device=str(target), dtype=torch.float32)
        except Exception as error:  # whatever the loader raises, the user gave a name that does not load
            message = (f"model: {name} does not load: {type(error).__name__}: {error}"
                       if info.local else hub_message("model", name, error))
            raise UserError(message, "model") from error
        bridge.eval()
        return cls(bridge, info)

    # ---- text

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no BOS added."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of documents, no BOS added.

        Text is data: where it spells a special token, it gets the tokens of those characters,
        so that a BOS in the ids is always one that was put there.
        """
        return list(self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])

    def vocabulary(self) -> tuple[list[bytes], list[bool]]:
        """The bytes of every token id, and whether it is a special token."""
        backend = self.tokenizer.backend_tokenizer
        byte_level = "ByteLevel" in repr(backend.pre_tokenizer) + repr(backend.decoder)
        special_ids = set(self.tokenizer.all_special_ids)
        pieces = self.tokenizer.convert_ids_to_tokens(range(min(len(self.tokenizer), self.info.d_vocab)))
        values = [piece_bytes(piece or "", byte_level) for piece in pieces]
        missing = self.info.d_vocab - len(values)  # rows of the embedding that no token uses
        return values + [b""] * missing, [i in special_ids for i in range(self.info.d_vocab)]

    # ---- forward passes

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        """The activations at one hook point, [P, S, D] float32; what comes after it does not run."""
        return self.activations_at(tokens_PS, [hook], autocast=autocast)[0]

    @torch.no_grad()
    def activations_at(self, tokens_PS: Tensor, hooks: Sequence[str], *, autocast: bool = False) -> list[Tensor]:
        """The activations at several hook points of one forward pass, each [P, S, D] float32.

        Heads are laid side by side: `attn.hook_z` [P, S, H, d_head] comes as [P, S, H·d_head].
        What comes after the last of them does not run.
        """
        kept: dict[str, Tensor] = {}

        def keeping(hook: str) -> Edit:
            def keep(x_PSD: Tensor) -> Tensor:
                kept[hook] = x_PSD
                if len(kept) == len(set(hooks)):
                    raise _Reached
                return x_PSD
            return keep

        # Not by `stop_at_layer`, which stops before a block: after the last one there is none.
        with (self._precision(autocast), self._hooked({hook: keeping(hook) for hook in hooks}),
              contextlib.suppress(_Reached)):
            self.bridge(tokens_PS, return_type=None)
        return [kept[hook].flatten(2).float() for hook in hooks]

    @torch.no_grad()
    def logits(self, tokens_PS: Tensor, edits: Edits | None = None) -> Tensor:
        """Next-token logits [P, S, V]; `edits` maps a hook point to what is done to its activations."""
        with self._hooked(edits):
            out: Tensor = self.bridge(tokens_PS, return_type="logits")
        return out.float()

    @torch.no_grad()
    def step(
        self, tokens_PS: Tensor, cache: Cache | None = None, edits: Edits | None = None
    ) -> tuple[Tensor, Cache]:
        """Read `tokens_PS` after what `cache` holds; logits [P, S, V] of the new positions, and the cache.

        An edit sees the new positions only; their absolute positions start at `cache.length`.
        The cache passed in is consumed: use the one returned.
        """
        past = {} if cache is None else {"past_key_values": cache.state}
        with self._hooked(edits):
            out, state = self.bridge(tokens_PS, return_type="logits_and_cache", **past)
        return out.float(), Cache(state, (cache.length if cache else 0) + tokens_PS.shape[1])

    @torch.no_grad()
    def unembedding(self) -> Tensor:
        """diag(final norm's gain) · W_U, centred over the vocabulary: [D, V].

        A decoder row times this is the direct effect on the logits up to the token's own final
        normalisation scale; centring removes the part that softmax ignores.
        """
        gain = getattr(self.bridge.ln_final, "weight", None)
        W_U_DV: Tensor = self.bridge.W_U.float()
        if gain is not None:
            gain = gain.float()
            # Gemma's RMSNorm multiplies by 1 + weight.
            if "gemma" in type(self.bridge.original_model).__name__.lower():
                gain = 1 + gain
            W_U_DV = gain[:, None] * W_U_DV
        centred_DV: Tensor = W_U_DV - W_U_DV.mean(dim=1, keepdim=True)
        return centred_DV

    @contextlib.contextmanager
    def _hooked(self, edits: Edits | None) -> Iterator[None]:
        hooks = [(name, _as_hook(edit)) for name, edit in (edits or {}).items()]
        with self.bridge.hooks(fwd_hooks=hooks) if hooks else contextlib.nullcontext():
            yield

    def _precision(self, autocast: bool) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if autocast else contextlib.nullcontext()


def _as_hook(edit: Edit) -> Callable[[Tensor, Any], Tensor]:
    def hook_fn(resid_PSD: Tensor, hook: Any) -> Tensor:
        return edit(resid_PSD)

    return hook_fn
