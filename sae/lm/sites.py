"""Sites of the language model where an SAE reads and writes, named after transformer_lens' hook points.  No torch.

An SAE reconstructs the activations that it reads.  A transcoder reads one site and reconstructs another (`out_hook`).
"""

from __future__ import annotations

import re
from typing import Literal

from sae.errors import UserError
from sae.lm.model_info import ModelInfo

# The kinds of site, in the order in which a model computes them.  All but the first belong to a block.
#     hook_embed            the output of the token embedding, before positions and blocks; it has no block in its name
#     hook_resid_pre        the residual stream entering the block
#     ln1.hook_normalized   the normalised input of the attention, before the norm's gain
#     attn.hook_q           the queries of all heads as their matrix gives them, before norms and rotations of their own
#     attn.hook_k           the keys, likewise; where several heads share keys and values, there are fewer of them
#     attn.hook_v           the values, likewise
#     attn.hook_z           the heads' concatenated outputs before the output matrix, H·d_head wide
#     hook_attn_out         the attention's output, which is added to the residual stream
#     hook_resid_mid        the residual stream between attention and MLP; a block that runs both in parallel has none
#     hook_mlp_in           the input of the MLP's norm, with equal values; an edit changes the MLP alone
#     ln2.hook_normalized   the normalised input of the MLP, before the norm's gain
#     mlp.hook_in           the MLP's actual input, with the norm's gain and bias
#     mlp.hook_post         the MLP's hidden activations (times their gate, if it has one), d_mlp wide
#     hook_mlp_out          the MLP's output, which is added to the residual stream
#     hook_resid_post       the residual stream leaving the block
#
# One head of queries, keys, values or outputs is named with its number behind the site: blocks.3.attn.hook_z:h5.
Kind = Literal["hook_embed", "hook_resid_pre", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v",
               "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_in",
               "ln2.hook_normalized", "mlp.hook_in", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"]
# The sites' short names in an SAE's name, e.g. `2-res-batchtopk-4k`.
KINDS: dict[str, str] = {
    "hook_embed": "embed", "hook_resid_pre": "res_pre", "ln1.hook_normalized": "att_norm", "attn.hook_q": "q",
    "attn.hook_k": "k", "attn.hook_v": "v", "attn.hook_z": "z", "hook_attn_out": "att", "hook_resid_mid": "res_mid",
    "hook_mlp_in": "mlp_in", "ln2.hook_normalized": "mlp_norm", "mlp.hook_in": "mlp_ln", "mlp.hook_post": "mlp_act",
    "hook_mlp_out": "mlp", "hook_resid_post": "res"}

EMBED = "hook_embed"
BLOCK_KINDS = [kind for kind in KINDS if kind != EMBED]
HEADS = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")  # sites that are made of heads
OWN_WIDTH = (*HEADS, "mlp.hook_post")  # sites whose width need not be d_model
# Sites whose directions no matrix takes to the logits, with what stands between.
NO_LOGITS = {**dict.fromkeys(("ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
                             "attention mixes them"),
             **dict.fromkeys(("hook_mlp_in", "ln2.hook_normalized", "mlp.hook_in"),
                             "they enter the MLP alone, which is not linear")}

_PATTERN = re.compile(rf"(?:{EMBED}|blocks\.(\d+)\.(" + "|".join(re.escape(kind) for kind in BLOCK_KINDS)
                      + r"))(?::h(\d+))?")


def resid_post(layer: int) -> str:
    """Return the hook point of the residual stream leaving a block."""
    return f"blocks.{layer}.hook_resid_post"


def site_hook(layer: int, kind: str, head: int = -1) -> str:
    """Return the hook point of a site: of all heads, or of one."""
    base = kind if kind == EMBED else f"blocks.{layer}.{kind}"
    return base if head < 0 else f"{base}:h{head}"


def split_head(hook: str) -> tuple[str, int]:
    """Return a hook point without its head, and the head's number, -1 where it names none."""
    base, _, head = hook.partition(":h")
    return base, int(head) if head else -1


def kind_of(hook: str) -> str:
    """Return the kind of a site, or what follows the block in the name of another hook point."""
    base = split_head(hook)[0]
    return base.split(".", 2)[2] if base.startswith("blocks.") else base


def parse_site(hook: str, field: str = "hook") -> tuple[int, str]:
    """Return (layer, kind) of a hook point, whose head is not looked at; the layer of the embedding is 0.

    Raises UserError (field `field`) for an unknown one.
    """
    match = _PATTERN.fullmatch(hook)
    if not match:
        raise UserError(f"{field}: {hook!r} is no known site; known are {EMBED}, and blocks.<layer>. with one of "
                        f"{', '.join(BLOCK_KINDS)}", field)
    kind = match[2] or EMBED
    if match[3] is not None and kind not in HEADS:
        raise UserError(f"{field}: {hook!r} names a head, but {kind} has none; {', '.join(HEADS)} have", field)
    return int(match[1] or 0), kind


def precedes(kind: str, other: str) -> bool:
    """Return whether a block computes one kind of site before another."""
    order = list(KINDS)
    return order.index(kind) < order.index(other)


def check_site(info: ModelInfo, hook: str, field: str = "hook") -> int:
    """Return the layer of a hook point.  Raises UserError (field `field`) if the model has no such block."""
    layer, _ = parse_site(hook, field)
    if layer >= info.n_layers:
        raise UserError(f"{field}: {info.name} has {info.n_layers} blocks, 0 to {info.n_layers - 1}; there is no "
                        f"block {layer}", field)
    return layer
