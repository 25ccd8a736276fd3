"""Reader of OpenAI's GPT-2 files: one `.pt` per layer (openai/sparse_autoencoder).

A TopK file normalises each token of its input (mean, unbiased std + 1e-5), and undoes it with the std
alone.  A ReLU file (v1, v4) reads raw input.  Keys such as `activation.k`, which newer versions of PyTorch
add when a file is saved again, are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.untrusted_tensors import Tensors, refuse

KEYS = frozenset({"pre_bias", "latent_bias", "encoder.weight", "decoder.weight"})
_SITES = {"mlp_post_act": "mlp.hook_post", "resid_delta_attn": "hook_attn_out", "resid_post_attn": "hook_resid_mid",
          "resid_delta_mlp": "hook_mlp_out", "resid_post_mlp": "hook_resid_post"}


def read(found: Found, tensors: Tensors, given: Mapping[str, Any]) -> Foreign:
    """Read the SAE of an OpenAI file.  Raises UserError."""
    L, D = tensors.matrix("encoder.weight")
    activation = str(tensors.other.get("activation", "ReLU"))
    if activation not in ("TopK", "ReLU"):
        refuse(found.weights, f"activation {activation[:40]!r} is not supported; TopK and ReLU are")
    state = tensors.other.get("activation_state_dict")
    k = state.get("k") if isinstance(state, dict) else None
    if activation == "TopK":
        k = getattr(k, "tolist", lambda k=k: k)()  # some files store k as a tensor
        if not isinstance(k, int) or not 1 <= k <= L:
            refuse(found.weights, f"k is {k!r}, but should be from 1 to {L}")
        if state is not None and state.get("postact_fn", "ReLU") not in ("ReLU", "Identity"):
            refuse(found.weights, f"postact_fn {str(state['postact_fn'])[:40]!r} is not supported")
    topk = activation == "TopK"
    weights = Weights(
        W_enc_LD=tensors.take("encoder.weight", (L, D)), b_enc_L=tensors.take("latent_bias", (L,)),
        W_dec_LD=tensors.take("decoder.weight", (D, L)).T.contiguous(), b_dec_D=tensors.take("pre_bias", (D,)),
        architecture="topk" if topk else "relu", k=int(k) if topk and k else 0,
        normalize="layer_norm_std" if topk else "none")
    out = Foreign(format="OpenAI", weights=weights, trained_as="topk" if topk else "relu", dtype=tensors.dtype,
                  bos=False, context_length=64)
    out.notes.append("trained on contexts of 64 tokens without BOS")
    if "latents_activation_frequency" in tensors:
        out.claims["l0"] = float(tensors.take("latents_activation_frequency", (L,)).sum())
    elif topk:
        out.claims["l0"] = float(weights.k)
    _site(f"{found.hint}/{found.weights.name}", D, out)
    return out


def _site(path: str, D: int, out: Foreign) -> None:
    """Set model and site if the path has the published names: …/resid_post_mlp_v5_32k/…/layer_8.pt."""
    kind = next((kind for name, kind in _SITES.items() if name in path), "")
    layer = re.search(r"layer_?(\d+)", path) or re.search(r"/(\d+)(?:/|\.pt)", path)
    if kind and layer:
        out.hook = f"blocks.{layer[1]}.{kind}"
        if D in (768, 3072):
            out.model = "openai-community/gpt2"
