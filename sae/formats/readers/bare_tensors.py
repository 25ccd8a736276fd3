"""Reader of a tensor file without a config, recognised by names and shapes; missing facts are asked for.

Several formats use the same tensor names with another orientation, so a matrix is transposed by its
shape.  A square matrix is read in the usual orientation, and the check on real activations detects a
wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.readers import dictionary_learning
from sae.formats.untrusted_tensors import Tensors, refuse

if TYPE_CHECKING:
    from torch import Tensor

_K = "how many latents it keeps per token"
_THRESHOLDS = ("threshold", "activation_function.threshold")
_LOG_THRESHOLDS = ("log_threshold", "log_jumprelu_threshold", "jumprelu.log_threshold",
                   "activation_function.log_jumprelu_threshold")
_STATISTICS = frozenset({"k", "threshold", "group_sizes", "num_batches_not_active", "log_feature_sparsity"})
_CENTRED = "yes or no: whether b_dec is subtracted from the input"


def read(found: Found, tensors: Tensors, given: Mapping[str, Any]) -> Foreign:
    """Read the SAE of a bare state dict.  Raises UserError if the tensor names are unknown."""
    tensors = _renamed(tensors)
    names, asks = set(tensors), {}
    if {"encoder.weight", "decoder.weight", "gate_bias", "mag_bias", "r_mag", "decoder_bias"} <= names:
        weights, kind = dictionary_learning.gated(tensors), "a gated dictionary"
    elif {"encoder.weight", "encoder.bias", "decoder.weight", "bias"} <= names:
        weights, kind = dictionary_learning.auto_encoder(tensors), "encoder, decoder and one bias"
    elif {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"} <= names:
        weights, kind = dictionary_learning.auto_encoder_new(tensors), "two linear layers"
        _own_threshold(tensors, weights)
    elif {"encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k"} <= names:
        # TopK and BatchTopK have the same keys but different inference, so this cannot be guessed.
        weights, kind = dictionary_learning.topk(tensors), "TopK or BatchTopK"
        if not given.get("architecture"):
            asks["architecture"] = "topk or batch_topk: the file fits both"
        elif given["architecture"] == "batch_topk":
            weights = dictionary_learning.batch_topk(tensors)
    elif {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} <= names:
        L, D = tensors.matrix("encoder.weight")
        weights, kind = Weights(
            W_enc_LD=tensors.take("encoder.weight", (L, D)), b_enc_L=tensors.take("encoder.bias", (L,)),
            W_dec_LD=tensors.take("W_dec", (L, tensors.matrix("W_dec")[1])),
            b_dec_D=tensors.take("b_dec", tensors.shape("b_dec")), architecture="topk"), "sparsify without its config"
        _ask_k(weights, given, asks)
    elif {"W_enc", "W_dec", "b_dec"} <= names and names & {"b_enc", "b_gate"}:
        weights, kind = _own_names(tensors, given, asks), "W_enc and W_dec"
    else:
        refuse(found.weights, f"its tensors belong to no known kind of SAE: {', '.join(sorted(names)[:10]) or 'none'}")
    out = Foreign(format=f"bare tensors ({kind})", weights=weights, trained_as=weights.architecture, asks=asks,
                  dtype=tensors.dtype)
    if weights.architecture in ("batch_topk", "matryoshka") and weights.threshold is not None:
        out.set_theta(float(weights.threshold))
    unused = sorted(names - tensors.used - _STATISTICS)
    if unused:
        out.notes.append(f"tensors that were not used: {', '.join(unused[:8])}")
    return out


def _renamed(tensors: Tensors) -> Tensors:
    """Remove the prefixes that wrappers add to every name."""
    names = list(tensors)
    for prefix in ("module.", "_orig_mod.", "sae.", "ae.", "autoencoder."):
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    plain = [name.replace("encoder_linear.", "encoder.").replace("decoder_linear.", "decoder.") for name in names]
    return Tensors(dict(zip(plain, tensors.values(), strict=True)), tensors.name, tensors.other)


def _ask_k(weights: Weights, given: Mapping[str, Any], asks: dict[str, str]) -> None:
    L = len(weights.b_enc_L)
    if not given.get("k"):
        asks["k"] = _K
    elif int(given["k"]) > L:
        refuse("k", f"{given['k']} is more than the file's {L} latents")
    else:
        weights.k = int(given["k"])


def _oriented(tensors: Tensors, name: str, rows: int, columns: int) -> Tensor:
    """Return a matrix as [rows, columns], transposed if its shape is [columns, rows]."""
    if tensors.shape(name) == (rows, columns):
        return tensors.take(name, (rows, columns))
    return tensors.take(name, (columns, rows)).T.contiguous()


def _own_names(tensors: Tensors, given: Mapping[str, Any], asks: dict[str, str]) -> Weights:
    gated = "b_gate" in tensors
    bias = "b_gate" if gated else "b_enc"
    L, D = tensors.shape(bias)[0] if tensors.shape(bias) else 0, tensors.shape("b_dec")[-1:]
    sizes = tensors.matrix("W_enc")
    if L not in sizes or not D:
        refuse(tensors.name, f"W_enc has shape {sizes}, which does not fit {bias} with {tensors.shape(bias)}")
    d_in = sizes[0] if sizes[1] == L else sizes[1]
    W_enc_LD = tensors.take("W_enc", (d_in, L)).T.contiguous() if sizes == (d_in, L) \
        else tensors.take("W_enc", (L, d_in))
    w = Weights(W_enc_LD=W_enc_LD, b_enc_L=tensors.take(bias, (L,)), W_dec_LD=_oriented(tensors, "W_dec", L, D[0]),
                b_dec_D=tensors.take("b_dec", D), architecture="relu")
    if gated:
        w.architecture = "gated"
        w.r_mag_L, w.b_mag_L = tensors.take("r_mag", (L,)), tensors.take("b_mag", (L,))
    else:
        _rule(tensors, w, given, asks)
    w.transcoder = "W_skip" in tensors or d_in != D[0]
    if "W_skip" in tensors:  # every known library stores it as [d_out, d_in]
        w.W_skip_DD = tensors.take("W_skip", (D[0], d_in)).T.contiguous()
    if w.transcoder:
        w.centred = False
    elif not given.get("subtract_b_dec"):
        asks["subtract_b_dec"] = _CENTRED
    return w


def _rule(tensors: Tensors, w: Weights, given: Mapping[str, Any], asks: dict[str, str]) -> None:
    """Set the selection rule, from a threshold in the file or from the given settings."""
    asked = str(given.get("architecture") or "")
    if _own_threshold(tensors, w):
        return
    if tensors.number("threshold") is not None and asked != "topk":
        w.architecture = "matryoshka" if "group_sizes" in tensors else "batch_topk"
        w.threshold = w.b_enc_L.new_tensor([tensors.number("threshold") or 0.0])
        stored = tensors.number("k")
        _ask_k(w, given if stored is None else {"k": int(stored)}, asks)
    elif not asked:
        asks["architecture"] = "relu, topk or batch_topk: which latents fire; with the latter two also give k"
    elif asked == "topk":
        w.architecture = "topk"
        stored = tensors.number("k")
        _ask_k(w, given if stored is None or given.get("k") else {"k": int(stored)}, asks)
    elif asked == "batch_topk":  # its θ is given, or calibrated after the import
        w.architecture, w.threshold = "batch_topk", w.b_enc_L.new_tensor([-1.0])
        stored = tensors.number("k")
        _ask_k(w, given if stored is None or given.get("k") else {"k": int(stored)}, asks)
    elif asked != "relu":
        refuse("architecture", f"{asked} needs a threshold, which the file does not have; relu, topk and batch_topk do "
                               "not")


def _own_threshold(tensors: Tensors, w: Weights) -> bool:
    """Make it a JumpReLU if the file has a threshold for each latent; return whether it has."""
    L = len(w.b_enc_L)
    for name in (*_THRESHOLDS, *_LOG_THRESHOLDS):
        if name in tensors and tensors.shape(name) == (L,):
            theta_L = tensors.take(name, (L,))
            w.architecture, w.threshold = "jumprelu", theta_L.exp() if name in _LOG_THRESHOLDS else theta_L
            return True
    return False
