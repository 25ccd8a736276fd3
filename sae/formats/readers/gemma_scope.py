"""Reader of Gemma Scope (`params.npz`) and Gemma Scope 2 (`params.safetensors`), JumpReLU without centring.

Model and site come from the published path, such as `google/gemma-scope-2b-pt-res/layer_20/…`, or from
the config of Gemma Scope 2.  BOS was prepended but not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.foreign_names import model_name
from sae.formats.untrusted_tensors import Tensors, read_json, refuse

KEYS = frozenset({"w_enc", "w_dec", "b_enc", "b_dec", "threshold"})
_RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
_MODELS = {"2b": "google/gemma-2-2b", "9b": "google/gemma-2-9b", "27b": "google/gemma-2-27b"}
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def matches(tensors: Tensors) -> bool:
    """Return whether a file has the five tensors of these formats; their names may be in either case."""
    return {name.lower() for name in tensors} >= KEYS


def read(found: Found, tensors: Tensors, given: Mapping[str, Any]) -> Foreign:
    """Read the SAE or transcoder.  Raises UserError, also for a cross-layer transcoder."""
    own = {name.lower(): name for name in tensors}
    if len(tensors.shape(own["w_dec"])) == 3:
        refuse(found.weights, "is a cross-layer transcoder, which writes to several layers; no artefact here does")
    d_in, L = tensors.matrix(own["w_enc"])
    D = tensors.matrix(own["w_dec"])[1]
    weights = Weights(
        W_enc_LD=tensors.take(own["w_enc"], (d_in, L)).T.contiguous(), b_enc_L=tensors.take(own["b_enc"], (L,)),
        W_dec_LD=tensors.take(own["w_dec"], (L, D)), b_dec_D=tensors.take(own["b_dec"], (D,)),
        threshold=tensors.take(own["threshold"], (L,)), architecture="jumprelu", centred=False)
    config = read_json(found.config) if found.config else {}
    second = found.weights.suffix == ".safetensors"
    out = Foreign(format="Gemma Scope 2" if second else "Gemma Scope", weights=weights, bos=True, trained_as="jumprelu",
                  dtype=tensors.dtype, notes=["BOS was prepended and left out of the training"])
    if config.get("architecture", "jump_relu") != "jump_relu":
        refuse(found.config or "config.json", f"architecture {str(config['architecture'])[:40]!r} is not jump_relu")
    path = f"{found.hint}/{found.weights.parent}"
    if match := re.search(r"average_l0_(\d+)", path):
        out.claims["l0"] = float(match[1])
    if second:
        _second(config, path, out)
        if "affine_skip_connection" in own or config.get("affine_connection"):
            weights.W_skip_DD = tensors.take(
                own.get("affine_skip_connection", "affine_skip_connection"), (d_in, D))
    else:
        _first(path, out)
    weights.transcoder = weights.transcoder or d_in != D or weights.W_skip_DD is not None
    return out


def _first(path: str, out: Foreign) -> None:
    layer, release = re.search(r"layer_(\d+)", path), _RELEASE.search(path)
    if "embedding" in path:
        refuse("source", "is an SAE of Gemma's embedding, a site that is not supported here")
    if not release:
        return
    out.model = _MODELS[release[1]] + ("-it" if release[2] == "it" else "")
    out.weights.transcoder = release[3] == "transcoders"
    if layer and out.weights.transcoder:
        out.hook, out.out_hook = f"blocks.{layer[1]}.ln2.hook_normalized", f"blocks.{layer[1]}.hook_mlp_out"
    elif layer:
        out.hook = f"blocks.{layer[1]}.{_SITES[release[3]]}"


def _second(config: dict[str, Any], path: str, out: Foreign) -> None:
    name = model_name(str(config.get("model_name") or "").replace("-v3", "-3"))
    out.model = name.replace("270m-pt", "270m")
    points = [str(config.get(f"hf_hook_point_{end}") or "") for end in ("in", "out")]
    out.weights.transcoder = bool(points[1]) and points[1] != points[0]
    out.name_sites(points[0], points[1] if out.weights.transcoder else "")
    if not config and (layer := re.search(r"layer_(\d+)", path)):
        kind = next((kind for word, kind in (("resid_post", "hook_resid_post"), ("attn_out", "attn.hook_z"),
                                             ("mlp_out", "hook_mlp_out")) if word in path), "")
        out.hook = f"blocks.{layer[1]}.{kind}" if kind else ""
