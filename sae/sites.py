"""Where in the language model an SAE reads and writes.  Names are transformer_lens' hook points.  No torch.

An SAE reconstructs the activations that it reads.  A transcoder reads one site and
reconstructs another (`out_hook`).
"""

from __future__ import annotations

import re

from sae.errors import UserError
from sae.models import ModelInfo

# The kinds of site, with their names in an SAE's own name, e.g. `2-res-batchtopk-4k`.
KINDS = {
    "hook_resid_pre": "res_pre", "hook_resid_mid": "res_mid", "hook_resid_post": "res", "hook_attn_out": "att",
    "attn.hook_z": "z", "hook_mlp_in": "mlp_in", "ln2.hook_normalized": "mlp_norm", "mlp.hook_post": "mlp_act",
    "hook_mlp_out": "mlp"}

_PATTERN = re.compile(r"blocks\.(\d+)\.(" + "|".join(re.escape(kind) for kind in KINDS) + r")")


def resid_post(layer: int) -> str:
    """The residual stream leaving a block."""
    return f"blocks.{layer}.hook_resid_post"


def parse_site(hook: str, field: str = "hook") -> tuple[int, str]:
    """(layer, kind) of a hook point.  Raises UserError for one that is not known."""
    match = _PATTERN.fullmatch(hook)
    if not match:
        raise UserError(f"{field}: {hook!r} is no known site; known are blocks.<layer>. and one of {', '.join(KINDS)}",
                        field)
    return int(match[1]), match[2]


def check_site(info: ModelInfo, hook: str, field: str = "hook") -> int:
    """The layer of a hook point.  Raises UserError where the model has no such block."""
    layer, _ = parse_site(hook, field)
    if layer >= info.n_layers:
        raise UserError(f"{field}: {info.name} has {info.n_layers} blocks, 0 to {info.n_layers - 1}; there is no "
                        f"block {layer}", field)
    return layer
