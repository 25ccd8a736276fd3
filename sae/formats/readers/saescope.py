"""Reader of our own artefacts, `sae.safetensors` + `sae.json`, from another workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae.autoencoder.artefact import Autoencoder
from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.untrusted_tensors import check_safetensors, read_json


def read(found: Found, given: Mapping[str, Any]) -> Foreign:
    """Read the artefact in a folder, with its settings unchanged.  Raises UserError."""
    read_json(found.folder / "sae.json")
    check_safetensors(found.weights)
    sae = Autoencoder.load(found.folder)
    tensors, config = sae.tensors(), sae.config
    W_dec_LD = sae.W_dec_LD if sae.activation_scale_L is None else sae.W_dec_LD * sae.activation_scale_L[:, None]
    # A transcoder's own input bias is folded into the encoder's bias.
    shifted = sae.is_transcoder and bool(sae.b_in_D.any())
    b_enc_L = sae.b_enc_L - sae.W_enc_LD @ sae.b_in_D if shifted else sae.b_enc_L
    b_mag_L = tensors.get("b_mag")
    if b_mag_L is not None and shifted:
        b_mag_L = b_mag_L - tensors["r_mag"].exp() * (sae.W_enc_LD @ sae.b_in_D)
    weights = Weights(
        W_enc_LD=sae.W_enc_LD, b_enc_L=b_enc_L, W_dec_LD=W_dec_LD, b_dec_D=sae.b_dec_D,
        architecture=config["architecture"], k=config["k"] or 0, threshold=tensors.get("threshold"),
        r_mag_L=tensors.get("r_mag"), b_mag_L=b_mag_L, W_skip_DD=sae.W_skip_DD, centred=not sae.is_transcoder,
        transcoder=sae.is_transcoder, normalize=sae.normalizer.kind)
    model, metrics = config.get("model"), config.get("metrics")
    claims = {name: float(metrics[name]) for name in ("fvu", "l0") if isinstance(metrics, dict)
              and isinstance(metrics.get(name), int | float)}
    bos = config.get("bos")
    return Foreign(
        format=f"saescope {config.get('saescope_version', '')}".strip(), weights=weights,
        model=str(model.get("name") or "") if isinstance(model, dict) else "", hook=sae.hook,
        out_hook=str(config["site"].get("out_hook") or ""),
        bos=bool(bos.get("prepended")) if isinstance(bos, dict) else None,
        context_length=config["context_length"] if isinstance(config.get("context_length"), int) else 0,
        trained_as=config["architecture"], claims=claims, dtype="float32",
        details={"training": config.get("training")})
