"""Sites of the language model where an SAE reads and writes, named after transformer_lens' hook points.  No torch.

An SAE reconstructs the activations that it reads.  A transcoder reads one site and reconstructs another (`out_hook`).
"""

from __future__ import annotations

import re
from typing import Literal

from sae.errors import UserError
from sae.lm.model_info import ModelInfo

# The kinds of site, in the order in which a block computes them:
#     hook_resid_pre        the residual stream entering the block
#     attn.hook_z           the heads' concatenated outputs before the output matrix, H·d_head wide
#     hook_attn_out         the attention's output, which is added to the residual stream
#     hook_resid_mid        the residual stream between attention and MLP; a block that runs both in parallel has none
#     hook_mlp_in           the input of the MLP's norm, with equal values; an edit changes the MLP alone
#     ln2.hook_normalized   the normalised input of the MLP, before the norm's gain
#     mlp.hook_in           the MLP's actual input, with the norm's gain and bias
#     mlp.hook_post         the MLP's hidden activations (times their gate, if it has one), d_mlp wide
#     hook_mlp_out          the MLP's output, which is added to the residual stream
#     hook_resid_post       the residual stream leaving the block
Kind = Literal["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_in",
               "ln2.hook_normalized", "mlp.hook_in", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"]
# The sites' short names in an SAE's name, e.g. `2-res-batchtopk-4k`.
KINDS: dict[str, str] = {
    "hook_resid_pre": "res_pre", "attn.hook_z": "z", "hook_attn_out": "att", "hook_resid_mid": "res_mid",
    "hook_mlp_in": "mlp_in", "ln2.hook_normalized": "mlp_norm", "mlp.hook_in": "mlp_ln", "mlp.hook_post": "mlp_act",
    "hook_mlp_out": "mlp", "hook_resid_post": "res"}

_PATTERN = re.compile(r"blocks\.(\d+)\.(" + "|".join(re.escape(kind) for kind in KINDS) + r")")


def resid_post(layer: int) -> str:
    """Return the hook point of the residual stream leaving a block."""
    return f"blocks.{layer}.hook_resid_post"


def parse_site(hook: str, field: str = "hook") -> tuple[int, str]:
    """Return (layer, kind) of a hook point.  Raises UserError (field `field`) for an unknown one."""
    match = _PATTERN.fullmatch(hook)
    if not match:
        raise UserError(f"{field}: {hook!r} is no known site; known are blocks.<layer>. and one of {', '.join(KINDS)}",
                        field)
    return int(match[1]), match[2]


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
