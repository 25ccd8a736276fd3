"""Hook points of a transformer_lens bridge: their modules in the Hugging Face model, their heads, edits at them.

Shapes: P prompts, S positions, D width of a hook point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.shared_weights import original_name
from sae.lm.sites import EMBED, kind_of, split_head

Edit = Callable[[Tensor], Tensor]


def component(bridge: Any, model: str, hook: str) -> tuple[list[str], str]:
    """Locate a hook point in the Hugging Face model: the module's possible names, and its end (`hook_in`, …).

    A component may appear twice in the bridge's tree, so there are several names; the model has one of them.
    Raises UserError (field `hook`) if the model has no such hook point.
    """
    part, path = (bridge, EMBED) if hook == EMBED else (bridge.blocks[int(hook.split(".")[1])], kind_of(hook))
    while True:
        aliases = getattr(part, "hook_aliases", {})
        head, _, rest = path.partition(".")
        if path in aliases:
            given = [aliases[path]] if isinstance(aliases[path], str) else list(aliases[path])
            path = next((name for name in given if hasattr(part, name.partition(".")[0])), given[0])
        elif not rest:
            break
        elif (inner := getattr(part, head, None)) is not None:
            part, path = inner, rest
        else:
            break
    names = [name for name, module in bridge.original_model.named_modules(remove_duplicate=False)
             if module is getattr(part, "original_component", None)]
    if "." in path or not hasattr(part, path) or not names:
        raise UserError(f"hook: {model} has no hook point {hook}", "hook")
    return [original_name(name) for name in names], path


def bridge_name(hook: str) -> str:
    """Return the bridge's name of a hook point: it has the MLP's input before its norm under another name."""
    return hook.replace("hook_mlp_in", "ln2.hook_in")


def n_heads(cfg: Any, kind: str) -> int:
    """Return the number of heads of a site: keys and values may have fewer than queries and outputs."""
    shared = getattr(cfg, "n_key_value_heads", None) if kind in ("attn.hook_k", "attn.hook_v") else None
    return int(shared or cfg.n_heads)


def head_columns(cfg: Any, model: str, hook: str, width: int) -> slice:
    """Return the coordinates of a hook point's head among the `width` of all heads; all without a head.

    Raises UserError (field `site`) if there is no such head.
    """
    base, head = split_head(hook)
    if head < 0:
        return slice(None)
    n = n_heads(cfg, kind_of(base))
    if head >= n or width % n:
        raise UserError(f"site: {base} of {model} has {n} heads, 0 to {n - 1}; there is no head {head}", "site")
    return slice(head * width // n, (head + 1) * width // n)


def head_edit(edit: Edit, columns: Callable[[int], slice]) -> Edit:
    """Return the edit of one head as one of all heads, [P, S, H, d_head] or [P, S, H·d_head]."""
    def of_all(x: Tensor) -> Tensor:
        out_PSD = x.reshape(*x.shape[:2], -1).clone()
        own = columns(out_PSD.shape[-1])
        out_PSD[..., own] = edit(out_PSD[..., own]).to(out_PSD.dtype)
        return out_PSD.view(x.shape)

    return of_all


def by_text(edit: Edit, tokens_PS: Tensor) -> Edit:
    """Return the edit of a site where some models lay the texts end to end, as [P·S, D]."""
    def texts(x: Tensor) -> Tensor:
        return edit(x.view(*tokens_PS.shape, -1)).reshape(x.shape) if x.dim() == 2 else edit(x)

    return texts


def as_hook(edit: Edit, device: torch.device) -> Callable[[Tensor, Any], Tensor]:
    """Return an edit of float32 activations on a device as a hook of transformer_lens."""
    def hook_fn(resid_PSD: Tensor, hook: Any) -> Tensor:
        return edit(resid_PSD.float().to(device)).to(resid_PSD)

    return hook_fn
