"""Conversion of a library's conventions to the artefact's: everything possible is folded into the weights.

The artefact reads raw inputs, and its activations are in units of a unit-norm decoder.  The steps, in order:

1. Fold the decoder norms of an SAE that selects by them.
2. Fold the scale or the whitening of the input.
3. Fold the decoder norms of all other SAEs, or keep them as `activation_scale` if folding would change
   which latents a TopK selects.
4. Fold a b_dec that the library does not subtract from the input into b_enc.

Biases are computed in float64.  A latent whose decoder row is 0 never fires in these units, but a TopK may still
select it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sae.autoencoder.architectures import REGISTRY
from sae.formats.foreign import Weights

_UNIT = 1e-5  # rows whose norms differ from 1 by less are left as they are
_UNIFORM = 2e-6  # relative spread of norms below which they count as one number


def fold(weights: Weights) -> tuple[dict[str, Tensor], Weights, list[str]]:
    """Return the artefact's tensors, the folded weights, and notes on what was folded.

    `weights` is not changed.
    """
    w, done = replace(weights), []
    if w.select_by_norm:
        norm_L = _norms(w.W_dec_LD)
        w = replace(_scale_decoder(w, norm_L), W_enc_LD=w.W_enc_LD * norm_L[:, None], b_enc_L=w.b_enc_L * norm_L,
                    select_by_norm=False)
        done.append("decoder norms into the encoder (it selects by them)")
    if w.whitening is not None:
        w = _unwhiten(w)
        done.append("whitening of the input into the weights")
    if w.input_scale != 1.0 or w.output_scale is not None:
        s, out = w.input_scale, w.input_scale if w.output_scale is None else w.output_scale
        w = replace(w, W_enc_LD=w.W_enc_LD * s, W_dec_LD=w.W_dec_LD / out, b_dec_D=w.b_dec_D / out,
                    W_skip_DD=None if w.W_skip_DD is None else w.W_skip_DD * (s / out), input_scale=1.0,
                    output_scale=None)
        done.append(f"input scale {s:.6g}" + (f" and output scale {out:.6g}" if out != s else "") + " into the weights")
    w, scale_L, notes = _fold_norms(w)
    done += notes
    if not w.centred and not w.transcoder and bool(w.b_dec_D.any()):
        w = _centre(w)
        done.append("b_dec into the encoder's bias (it does not subtract b_dec from the input)")
    return _tensors(w, scale_L), w, done


def _norms(W_LD: Tensor) -> Tensor:
    norm_L: Tensor = W_LD.double().norm(dim=1).float()
    return norm_L


def _scale_decoder(w: Weights, norm_L: Tensor) -> Weights:
    """Divide the decoder rows by their norms; a zero row becomes an arbitrary unit vector."""
    W_dec_LD = w.W_dec_LD / norm_L.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    W_dec_LD[norm_L == 0, 0] = 1.0
    return replace(w, W_dec_LD=W_dec_LD)


def _fold_norms(w: Weights) -> tuple[Weights, Tensor | None, list[str]]:
    norm_L = _norms(w.W_dec_LD)
    if float((norm_L - 1).abs().max()) < _UNIT:
        return w, None, []
    w = _scale_decoder(w, norm_L)
    uniform = float(norm_L.max() - norm_L.min()) < _UNIFORM * float(norm_L.mean())
    dead = int((norm_L == 0).sum())
    notes = [f"{dead} latents have no decoder row: their activation is 0"] if dead else []
    if not REGISTRY[w.architecture].independent and not uniform:
        return w, norm_L, [*notes, "decoder norms kept as activation_scale: folding would change the selection"]
    if uniform:  # one factor for all keeps the selection, and a single θ stays single
        norm_L = norm_L.mean().expand_as(norm_L)
    threshold = w.threshold
    if threshold is not None:
        threshold = threshold * (norm_L[:1] if uniform and len(threshold) == 1 else norm_L)
    architecture = "jumprelu" if threshold is not None and len(threshold) > 1 else w.architecture
    folded = replace(
        w, W_enc_LD=w.W_enc_LD * norm_L[:, None], b_enc_L=w.b_enc_L * norm_L, threshold=threshold,
        b_mag_L=None if w.b_mag_L is None else w.b_mag_L * norm_L, architecture=architecture)
    return folded, None, [*notes, "decoder norms into the encoder"]


def _unwhiten(w: Weights) -> Weights:
    assert w.whitening is not None
    mean_D, matrix_DD, inverse_DD = (t.double() for t in
                                     (w.whitening.mean_D, w.whitening.matrix_DD, w.whitening.inverse_DD))
    W_enc_LD = (w.W_enc_LD.double() @ matrix_DD.T).float()
    b_dec_D = w.b_dec_D.double() @ inverse_DD + mean_D
    out = replace(w, W_enc_LD=W_enc_LD, W_dec_LD=(w.W_dec_LD.double() @ inverse_DD).float(), b_dec_D=b_dec_D.float(),
                  whitening=None)
    return out if w.centred else _shift(out, -mean_D)


def _centre(w: Weights) -> Weights:
    """Return the same SAE in the form that subtracts b_dec from its input."""
    return replace(_shift(w, w.b_dec_D.double()), centred=True)


def _shift(w: Weights, by_D: Tensor) -> Weights:
    """Adapt the biases to an input from which `by_D` was subtracted."""
    shift_L = (w.W_enc_LD.double() @ by_D.double()).float()
    b_mag_L = w.b_mag_L
    if b_mag_L is not None and w.r_mag_L is not None:
        b_mag_L = b_mag_L + shift_L * w.r_mag_L.exp()
    return replace(w, b_enc_L=w.b_enc_L + shift_L, b_mag_L=b_mag_L)


def _tensors(w: Weights, scale_L: Tensor | None) -> dict[str, Tensor]:
    found = {"W_enc": w.W_enc_LD, "b_enc": w.b_enc_L, "W_dec": w.W_dec_LD, "b_dec": w.b_dec_D,
             "threshold": w.threshold, "r_mag": w.r_mag_L, "b_mag": w.b_mag_L, "W_skip": w.W_skip_DD,
             "activation_scale": scale_L}
    if w.transcoder:
        found["b_in"] = w.b_dec_D.clone() if w.centred else torch.zeros(w.W_enc_LD.shape[1])
    return {name: tensor.contiguous() for name, tensor in found.items() if tensor is not None}
