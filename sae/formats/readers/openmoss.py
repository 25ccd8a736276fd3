"""Reader of OpenMOSS' Language-Model-SAEs: Llama Scope, and its newer folders.

    hyperparams.json + checkpoints/final.safetensors   two linear layers `encoder` and `decoder` (Llama Scope)
    config.json + sae_weights.safetensors              W_E [d_in, L], b_E, W_D [L, D], b_D, or the same linear layers

The input is scaled to a mean norm of √d_in and the output to one of √D; the average norms are in the config or among
the tensors.  θ compares with scaled pre-activations, times the decoder norm for `sparsity_include_decoder_norm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.foreign_names import model_name
from sae.formats.untrusted_tensors import Tensors, read_json, read_tensors, refuse

_LOG_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
_RULES = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk", "batchtopk": "batch_topk"}
_KINDS = ("", "sae", "transcoder")  # the others read or write several sites
_LLAMA_SCOPE = re.compile(r"Llama3_1-8B-Base-L\d+|Llama-Scope-R1", re.IGNORECASE)


def read(found: Found, given: Mapping[str, Any]) -> Foreign:
    """Read the SAE or transcoder.  Raises UserError."""
    assert found.config is not None
    config, tensors = read_json(found.config), read_tensors(found.weights)
    kind = str(config.get("sae_type") or "")
    if kind not in _KINDS:
        refuse(found.config, f"sae_type {kind[:40]!r} cannot be expressed here; sae and transcoder can")
    if config.get("use_glu_encoder"):
        refuse(found.config, "use_glu_encoder: an encoder with a gate of its own cannot be expressed here")
    weights = _linear(tensors)
    L, d_in = weights.W_enc_LD.shape
    for key, size in (("d_model", d_in), ("d_sae", L)):
        if config.get(key) not in (None, size):
            refuse(found.config, f"{key} is {config[key]!r}, but the tensors have {size}: the file belongs to another "
                                 "SAE, or is transposed")
    reads, writes = str(config.get("hook_point_in") or ""), str(config.get("hook_point_out") or "")
    weights.transcoder = bool(writes) and writes != reads
    weights.centred = bool(config.get("apply_decoder_bias_to_pre_encoder")) and not weights.transcoder
    weights.select_by_norm = bool(config.get("sparsity_include_decoder_norm"))
    out = Foreign(format="OpenMOSS", weights=weights, dtype=tensors.dtype, trained_as=str(config.get("act_fn") or ""))
    out.name_sites(reads, writes if weights.transcoder else "")
    _rule(found, config, tensors, given, out)
    _scale(found, config, tensors, given, out)
    name = str(config.get("model_name") or "")
    if not name and _LLAMA_SCOPE.search(f"{found.hint}/{found.folder}"):
        name, out.bos, out.context_length = "meta-llama/Llama-3.1-8B", True, 1024
        out.format = "Llama Scope"
        out.notes.append("Llama Scope was trained on contexts of 1,024 tokens that begin with BOS")
    out.model = model_name(name)
    return out


def _linear(t: Tensors) -> Weights:
    """Return the weights by either family of names; without a decoder bias, b_dec is 0."""
    if "W_E" in t:
        d_in, L = t.matrix("W_E")
        D = t.matrix("W_D")[1]
        W_enc_LD, W_dec_LD = t.take("W_E", (d_in, L)).T.contiguous(), t.take("W_D", (L, D))
        bias, out_bias = "b_E", "b_D"
    else:
        L, d_in = t.matrix("encoder.weight")
        D = t.matrix("decoder.weight")[0]
        W_enc_LD, W_dec_LD = t.take("encoder.weight", (L, d_in)), t.take("decoder.weight", (D, L)).T.contiguous()
        bias, out_bias = "encoder.bias", "decoder.bias"
    b_dec_D = t.take(out_bias, (D,)) if out_bias in t else W_dec_LD.new_zeros(D)
    return Weights(W_enc_LD=W_enc_LD, b_enc_L=t.take(bias, (L,)), W_dec_LD=W_dec_LD, b_dec_D=b_dec_D,
                   architecture="relu")


def _rule(found: Found, config: dict[str, Any], t: Tensors, given: Mapping[str, Any], out: Foreign) -> None:
    """Set the selection rule, k and θ."""
    w, L = out.weights, len(out.weights.b_enc_L)
    log = next((name for name in _LOG_THRESHOLDS if name in t), "")
    act = str(config.get("act_fn") or ("jumprelu" if log else "")).lower()
    if act not in _RULES:
        refuse(found.config or "", f"act_fn {act[:40]!r} is not supported; supported are {', '.join(_RULES)}")
    w.architecture, k, theta = _RULES[act], config.get("top_k"), config.get("jump_relu_threshold")
    stated = float(theta) if isinstance(theta, int | float) and theta > 0 else None
    if act in ("topk", "batchtopk"):
        k = given.get("k") or k
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= L:
            refuse(found.config or "", f"top_k is {k!r}, but should be from 1 to {L}; give --k")
        w.k, out.claims = k, {"l0": float(k)}
    if act == "jumprelu":
        if log:
            w.threshold = t.take(log, (L,)).exp()
        elif stated is not None:
            w.threshold = w.b_enc_L.new_full((L,), stated)
        else:
            refuse(found.config or "", "act_fn is jumprelu, but there is neither a jump_relu_threshold in the config "
                                       f"nor a tensor {_LOG_THRESHOLDS[0]}")
    if act == "batchtopk":
        out.set_theta(stated)


def _scale(found: Found, config: dict[str, Any], t: Tensors, given: Mapping[str, Any], out: Foreign) -> None:
    """Set the scales of input and output, or ask for the input's."""
    w, kind = out.weights, str(config.get("norm_activation") or "")
    if kind == "token-wise" and not w.transcoder:
        w.normalize = "constant_norm"
        return
    if kind not in ("", "dataset-wise", "inference"):
        refuse(found.config or "", f"norm_activation {kind[:40]!r} cannot be expressed here; dataset-wise and "
                                   "inference can, and token-wise without a transcoder")
    if kind == "inference":
        return
    norms = config.get("dataset_average_activation_norm")
    norms = norms if isinstance(norms, dict) else {}

    def average(end: str) -> float | None:
        hook = str(config.get(f"hook_point_{end}") or "")
        for value in (norms.get(end), norms.get(hook), t.number(f"dataset_average_activation_norm.{hook}"),
                      t.number(f"dataset_average_activation_norm.{end}")):
            if isinstance(value, int | float) and value > 0:
                return float(value)
        return None

    norm_in, norm_out = average("in"), average("out")
    if norm_in is not None:
        w.input_scale = w.W_enc_LD.shape[1] ** 0.5 / norm_in
    elif given.get("input_scale") is None:
        out.asks["input_scale"] = "√d_in divided by the average norm of its activations, 1 if it is folded already"
    if w.transcoder:
        if norm_out is None and kind == "dataset-wise":
            refuse(found.config or "", "is a transcoder without the average norm of its output, "
                                       "dataset_average_activation_norm, which the scale of its output follows from")
        w.output_scale = len(w.b_dec_D) ** 0.5 / norm_out if norm_out else None
