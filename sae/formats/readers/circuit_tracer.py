"""Reader of circuit-tracer's transcoder sets: `config.yaml` + `layer_{L}.safetensors` (safety-research/circuit-tracer).

The config is for the whole set: model, hook points, and for TopK the k.  W_enc is [L, d_in].  W_dec is [L, D], or
[D, L] in older files.  A transcoder reads raw inputs; W_skip [D, d_in] adds x · W_skipᵀ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.foreign_names import model_name
from sae.formats.untrusted_tensors import read_tensors, read_yaml, refuse

_THRESHOLDS = ("activation_function.threshold", "threshold")


def read(found: Found, given: Mapping[str, Any]) -> Foreign:
    """Read one transcoder of a set.  Raises UserError."""
    assert found.config is not None
    config, t = read_yaml(found.config), read_tensors(found.weights)
    kind = str(config.get("model_kind") or "transcoder_set")
    if kind != "transcoder_set":
        refuse(found.config, f"model_kind {kind[:40]!r} writes to several layers, which no artefact here can")
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        if name not in t:
            refuse(found.weights, f"has no tensor {name}: it is no transcoder of circuit-tracer")
    L, D = *t.shape("b_enc"), *t.shape("b_dec")
    W_enc_LD = t.take("W_enc", (L, t.matrix("W_enc")[1]))
    transposed = t.shape("W_dec") != (L, D)
    W_dec_LD = t.take("W_dec", (D, L)).T.contiguous() if transposed else t.take("W_dec", (L, D))
    w = Weights(W_enc_LD=W_enc_LD, b_enc_L=t.take("b_enc", (L,)), W_dec_LD=W_dec_LD, b_dec_D=t.take("b_dec", (D,)),
                architecture="relu", centred=False, transcoder=True)
    if "W_skip" in t:
        w.W_skip_DD = t.take("W_skip", (D, W_enc_LD.shape[1])).T.contiguous()
    out = Foreign(format="circuit-tracer", weights=w, dtype=t.dtype,
                  model=model_name(str(config.get("model_name") or "")))
    _rule(found, config, t, given, out)
    layer = _layer(found.weights, config)
    out.name_sites(*(f"blocks.{layer}.{config[key]}" if config.get(key) else ""
                     for key in ("feature_input_hook", "feature_output_hook")))
    return out


def _rule(found: Found, config: dict[str, Any], t: Any, given: Mapping[str, Any], out: Foreign) -> None:
    """Set the activation: a threshold or k in the file decides, else the config, else ReLU."""
    w, L = out.weights, len(out.weights.b_enc_L)
    name = str(config.get("activation") or "").lower()
    theta = next((key for key in _THRESHOLDS if key in t), "")
    stored = t.number("k")
    k = given.get("k") or (stored if stored is not None else config.get("k"))
    if theta:
        one = t.number(theta) if t.shape(theta) in ((), (1,)) else None
        w.architecture = "jumprelu"
        w.threshold = t.take(theta, (L,)) if one is None else w.b_enc_L.new_full((L,), one)
    elif name == "topk" or stored is not None:
        if not isinstance(k, int | float) or not 1 <= k <= L:
            refuse(found.config or "", f"k is {k!r}, but should be from 1 to {L}; give --k")
        w.architecture, w.k, out.claims = "topk", round(k), {"l0": float(k)}
    elif name not in ("", "relu"):
        refuse(found.config or "", f"activation {name[:40]!r} is not supported; relu, jumprelu with its thresholds in "
                                   "the file, and topk are")
    out.trained_as = w.architecture


def _layer(weights: Path, config: dict[str, Any]) -> int:
    """Return the block of a file: its place in the config's list of transcoders, or the number in its name."""
    listed = config.get("transcoders")
    for number, item in enumerate(listed if isinstance(listed, list) else []):
        entry = item if isinstance(item, dict) else {"layer": number, "filepath": item}
        if str(entry.get("filepath") or "").partition("?")[0].endswith(f"/{weights.name}") \
                or str(entry.get("filepath")) == weights.name:
            layer = entry.get("layer", number)
            return layer if isinstance(layer, int) and layer >= 0 else number
    match = re.search(r"layer_(\d+)", weights.name)
    if not match:
        refuse(weights, "its name does not say its layer; name it layer_<number>.safetensors, as circuit-tracer does")
    return int(match[1])
