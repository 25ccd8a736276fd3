"""Writer of an SAE as a folder of SAELens v6: `cfg.json` and `sae_weights.safetensors`.  No torch.

    SAELens:  y = norm(x) − apply_b_dec_to_input · b_dec,  pre = y · W_enc + b_enc,  W_enc [d, L]

BatchTopK and Matryoshka select at inference by one θ.  They are written as `jumprelu` with a constant
threshold vector, as SAELens itself does, and `metadata.training_architecture` has their own name.  A
property that the format cannot express is folded into the weights if that changes nothing; otherwise
the SAE is refused with the reason.

The codes are equal in SAELens, but three things differ:

- SAELens undoes its layer norm with the standard deviation alone, ours with the deviation + 1e-5.  So
  reconstructions differ by 1e-5 of the normalised vector.
- An SAE of centred activations reconstructs centred ones.
- The activations of a TopK whose decoder norms could not be folded are in the units of its own decoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae.errors import UserError
from sae.formats.writers.archive import Member
from sae.formats.writers.mapped_tensors import mapped, stream

SAELENS_VERSION = "6.54.12"  # the version this was checked against; loaders before 6 drop the metadata
_ARCHITECTURES = {
    "relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "batch_topk": "jumprelu", "matryoshka": "jumprelu",
    "gated": "gated"}
_TRANSCODERS = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}
_TRAINED_AS = {"batch_topk": "batchtopk", "matryoshka": "matryoshka_batchtopk", "relu": "standard"}
_NORMALIZATIONS = {"none": "none", "dataset": "none", "layer_norm": "layer_norm", "layer_norm_std": "layer_norm",
                   "constant_norm": "constant_norm_rescale", "centre": "none"}

Tensors = dict[str, np.ndarray]


def members(folder: Path, config: Mapping[str, Any]) -> Iterator[Member]:
    """Yield the files of the SAELens folder for the artefact in `folder`.

    Raises UserError (field `format`) if SAELens cannot express the SAE.
    """
    cfg, tensors = translate(config, mapped(folder / "sae.safetensors"))
    yield "cfg.json", [json.dumps(cfg, indent=1, allow_nan=False).encode()]
    yield "sae_weights.safetensors", stream(tensors)


def translate(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], Tensors]:
    """Translate to SAELens' config and tensors.  Large tensors stay views of the given ones."""
    cfg = saelens_config(config)
    W_enc_LD, W_dec_LD, b_dec_D = tensors["W_enc"], tensors["W_dec"], tensors["b_dec"]
    scale_L = tensors.get("activation_scale")
    if scale_L is not None:  # restores the decoder with which the SAE selects
        W_dec_LD = W_dec_LD * np.asarray(scale_L)[:, None]
        cfg["metadata"]["activation_units"] = "of the original decoder, whose rows are not of unit norm"
    b_in_D = np.asarray(tensors.get("b_in", b_dec_D))
    is_transcoder, is_centred = "d_out" in cfg, config["normalize"] == "centre"
    if is_transcoder and is_centred:
        raise _refusal(config, "a transcoder of centred activations")
    same_bias = not is_transcoder and not is_centred and np.array_equal(b_in_D, b_dec_D)
    cfg["apply_b_dec_to_input"] = same_bias
    shift_L = np.zeros(len(W_enc_LD), np.float32)
    if not same_bias and b_in_D.any():  # b_enc − W_enc · b_in is equivalent; float64 keeps its precision
        shift_L = _product(W_enc_LD, b_in_D)
    if is_centred:  # W · (x − mean(x)) = (W − its rows' means) · x for any x
        W_enc_LD = W_enc_LD - W_enc_LD.mean(axis=1, keepdims=True)
        cfg["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    biases: Tensors
    b_enc_L = np.asarray(tensors["b_enc"]) - shift_L
    if cfg["architecture"] == "gated":
        r_mag_L = np.asarray(tensors["r_mag"])
        biases = {"b_gate": b_enc_L, "b_mag": np.asarray(tensors["b_mag"]) - np.exp(r_mag_L) * shift_L,
                  "r_mag": r_mag_L}
    else:
        biases = {"b_enc": b_enc_L}
    if "jumprelu" in cfg["architecture"]:
        biases["threshold"] = np.broadcast_to(np.asarray(tensors["threshold"], np.float32), (len(W_enc_LD),))
    if "W_skip" in tensors:
        biases["W_skip"] = tensors["W_skip"].T
        cfg["architecture"] = cfg["architecture"].replace("transcoder", "skip_transcoder")
    return cfg, {"W_enc": W_enc_LD.T, "W_dec": W_dec_LD, "b_dec": b_dec_D, **biases}


def _product(W_LD: np.ndarray, x_D: np.ndarray, rows: int = 4096) -> np.ndarray:
    """Return W · x [L], computed in float64 a few rows at a time."""
    parts = [W_LD[i : i + rows].astype(np.float64) @ x_D.astype(np.float64) for i in range(0, len(W_LD), rows)]
    return np.concatenate(parts).astype(np.float32)


def saelens_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `cfg.json` for an SAE with this `sae.json`.

    Raises UserError (field `format`) if SAELens cannot express the SAE.
    """
    architecture = _ARCHITECTURES.get(config["architecture"])
    normalization = _NORMALIZATIONS.get(config["normalize"])
    site = config["site"]
    if architecture is None or normalization is None:
        reason = f"{config['architecture']} latents" if architecture is None else f"{config['normalize']} normalisation"
        raise _refusal(config, reason)
    cfg: dict[str, Any] = {
        "architecture": architecture, "d_in": config.get("d_in", config["d_model"]), "d_sae": config["n_latents"],
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": normalization,
        "reshape_activations": "hook_z" if site["hook"].endswith("hook_z") else "none",  # one head has no z to reshape
        "metadata": _metadata(config)}
    if architecture == "topk":
        cfg |= {"k": config["k"], "rescale_acts_by_decoder_norm": False}
    if site.get("out_hook"):
        if architecture not in _TRANSCODERS:
            raise _refusal(config, f"a transcoder with {config['architecture']} latents")
        cfg |= {"architecture": _TRANSCODERS[architecture], "d_out": config["d_model"]}
    return cfg


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    site, training, bos = config["site"], config.get("training") or {}, config.get("bos") or {}
    metrics, (hook, _, head) = config.get("metrics") or {}, site["hook"].partition(":h")
    architecture = config["architecture"]
    metadata = {
        "model_name": config["model"]["name"], "hook_name": hook, "hook_head_index": int(head) if head else None,
        "hook_name_out": site.get("out_hook"),
        "prepend_bos": bool(bos.get("prepended", True)), "context_size": config.get("context_length"),
        "dataset_path": training.get("text"), "model_class_name": "HookedTransformer",
        "training_architecture": _TRAINED_AS.get(architecture, architecture), "training_k": config.get("k"),
        "l0": metrics.get("l0"), "sae_lens_version": SAELENS_VERSION,
        "saescope": {key: config.get(key) for key in (
            "id", "architecture", "normalize", "threshold", "bos", "metrics", "training", "created",
            "saescope_version", "weight_processing")}}
    return {key: value for key, value in metadata.items() if value is not None}


def _refusal(config: Mapping[str, Any], feature: str) -> UserError:
    return UserError(
        f"format: SAELens cannot express {feature}; export {config['id']} as saescope's own artefact", "format")
