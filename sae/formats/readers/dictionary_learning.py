"""Reader of dictionary_learning folders: `ae.pt` + `config.json` (saprmarks/dictionary_learning, checked at 0.1.0).

The class is `trainer.dict_class`, never `trainer_class`.  An interrupted run leaves `ae.pt` with the
keys of its periodic backup, {step, ae, optimizer, config, norm_factor}.  The biases of a backup are still in
normalised units.  θ = −1 means that it was never set; it is then calibrated after the import, as a missing one is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.foreign_names import model_name
from sae.formats.untrusted_tensors import Tensors, read_json, read_tensors, refuse


def read(found: Found, given: Mapping[str, Any]) -> Foreign:
    """Read the dictionary in a trainer's folder.  Raises UserError."""
    assert found.config is not None
    config, tensors = read_json(found.config), read_tensors(found.weights)
    trainer, buffer = _dict(config.get("trainer")), _dict(config.get("buffer"))
    name, notes, scale = str(trainer.get("dict_class") or ""), [], 1.0
    if isinstance(tensors.other.get("ae"), dict):
        factor = tensors.number("norm_factor")
        notes.append(f"read from a backup of an interrupted run, at step {tensors.number('step') or 0:.0f}")
        if factor is not None and factor > 0:
            scale = 1 / factor
            notes.append(f"its biases were in units of norm_factor {factor:.6g}")
        inner = {key: value for key, value in tensors.other["ae"].items() if hasattr(value, "shape")}
        tensors = Tensors(inner, found.weights.name)
    if name not in CLASSES:
        refuse(found.config, f"dict_class {name[:60]!r} cannot be read; supported are {', '.join(CLASSES)}")
    weights = CLASSES[name](tensors)
    for key, size in (("activation_dim", len(weights.b_dec_D)), ("dict_size", len(weights.b_enc_L))):
        if key in trainer and trainer[key] != size:
            refuse(found.config, f"{key} is {trainer[key]!r}, but the tensors have {size}: the file belongs to another "
                                 "dictionary, or is transposed")
    weights.input_scale = scale
    io, named = str(buffer.get("io") or "out"), str(trainer.get("submodule_name") or "")
    out = Foreign(
        format="dictionary_learning", weights=weights, model=model_name(str(trainer.get("lm_name") or "")),
        context_length=buffer["ctx_len"] if isinstance(buffer.get("ctx_len"), int)
        else 0, trained_as=name, dtype=tensors.dtype, notes=notes,
        details={key: trainer[key] for key in ("trainer_class", "lr", "steps", "seed", "layer", "submodule_name")
                 if isinstance(trainer.get(key), str | int | float)})
    weights.transcoder = io == "in_and_out"
    out.name_sites(named, named if weights.transcoder else "", module_reads=io != "out")
    for key in ("k", "target_l0"):
        if isinstance(trainer.get(key), int | float):
            out.claims["l0"] = float(trainer[key])
    if weights.threshold is not None and len(weights.threshold) == 1 and float(weights.threshold) < 0:
        weights.threshold, out.calibrate = weights.threshold.clamp(min=0), True
        out.notes.append("its threshold is missing or was never set (a short run), so it is calibrated until the mean "
                         "L0 is k")
    return out


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _linear(t: Tensors, bias: str) -> dict[str, Any]:
    """Read both weights of two `nn.Linear` layers, and the decoder's bias with the name `bias`."""
    L, D = t.matrix("encoder.weight")
    return {"W_enc_LD": t.take("encoder.weight", (L, D)), "W_dec_LD": t.take("decoder.weight", (D, L)).T.contiguous(),
            "b_dec_D": t.take(bias, (D,))}


def _k(t: Tensors, n_latents: int) -> int:
    k = t.number("k")
    if k is None or not 1 <= k <= n_latents:
        refuse(t.name, f"k is {k!r}, but should be from 1 to {n_latents}")
    return round(k)


def _theta(t: Tensors) -> Any:
    """Return θ, or −1 if the file has none, as the library itself marks a θ that was never set."""
    import torch

    theta = t.number("threshold")
    return torch.tensor([-1.0 if theta is None else theta], dtype=torch.float32)


def auto_encoder(t: Tensors) -> Weights:
    tensors = _linear(t, "bias")
    return Weights(**tensors, b_enc_L=t.take("encoder.bias", (len(tensors["W_enc_LD"]),)), architecture="relu")


def auto_encoder_new(t: Tensors) -> Weights:
    tensors = _linear(t, "decoder.bias")
    return Weights(**tensors, b_enc_L=t.take("encoder.bias", (len(tensors["W_enc_LD"]),)), architecture="relu",
                   centred=False)


def gated(t: Tensors) -> Weights:
    tensors = _linear(t, "decoder_bias")
    L = len(tensors["W_enc_LD"])
    return Weights(**tensors, b_enc_L=t.take("gate_bias", (L,)), r_mag_L=t.take("r_mag", (L,)),
                   b_mag_L=t.take("mag_bias", (L,)), architecture="gated")


def topk(t: Tensors) -> Weights:
    tensors = _linear(t, "b_dec")
    L = len(tensors["W_enc_LD"])
    return Weights(**tensors, b_enc_L=t.take("encoder.bias", (L,)), architecture="topk", k=_k(t, L))


def batch_topk(t: Tensors) -> Weights:
    tensors = _linear(t, "b_dec")
    L = len(tensors["W_enc_LD"])
    return Weights(**tensors, b_enc_L=t.take("encoder.bias", (L,)), architecture="batch_topk", k=_k(t, L),
                   threshold=_theta(t))


def _own_names(t: Tensors, **more: Any) -> Weights:
    D, L = t.matrix("W_enc")
    return Weights(W_enc_LD=t.take("W_enc", (D, L)).T.contiguous(), b_enc_L=t.take("b_enc", (L,)),
                   W_dec_LD=t.take("W_dec", (L, D)), b_dec_D=t.take("b_dec", (D,)), **more)


def matryoshka(t: Tensors) -> Weights:
    return _own_names(t, architecture="matryoshka", k=_k(t, t.matrix("W_enc")[1]), threshold=_theta(t))


def jump_relu(t: Tensors) -> Weights:
    L = t.matrix("W_enc")[1]
    return _own_names(t, architecture="jumprelu", threshold=t.take("threshold", (L,)), centred=False)


CLASSES: dict[str, Callable[[Tensors], Weights]] = {
    "AutoEncoder": auto_encoder, "AutoEncoderNew": auto_encoder_new, "GatedAutoEncoder": gated,
    "AutoEncoderTopK": topk, "BatchTopKSAE": batch_topk, "MatryoshkaBatchTopKSAE": matryoshka,
    "JumpReluAutoEncoder": jump_relu}
