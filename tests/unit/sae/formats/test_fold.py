"""Folding changes no activation and no reconstruction.

The artefact equals the library's formula for every architecture, normalisation, scale, whitening and set of
decoder norms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.formats.fold import fold
from sae.formats.foreign import Foreign, Weights, Whitening
from sae.formats.readers.registry import convert

D, L, B, K = 6, 14, 9, 3


def reference(w: Weights, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Compute dense activations (unit-norm decoder) and x_hat in float64, as `foreign.py` defines them."""
    def double(tensor: Tensor) -> Tensor:
        return tensor.double()

    W_enc_LD, W_dec_LD, b_dec_D, y = double(w.W_enc_LD), double(w.W_dec_LD), double(w.b_dec_D), double(x_BD)
    mean = std = None
    if w.normalize == "layer_norm_std":
        mean, std = y.mean(1, keepdim=True), y.std(1, keepdim=True)
        y = (y - mean) / (std + 1e-5)
    if w.whitening is not None:
        y = (y - double(w.whitening.mean_D)) @ double(w.whitening.matrix_DD)
    y = y * w.input_scale
    z = (y - b_dec_D * w.centred) @ W_enc_LD.T
    pre, norm_L = z + double(w.b_enc_L), W_dec_LD.norm(dim=1)
    seen = pre * norm_L if w.select_by_norm else pre
    if w.architecture == "gated":
        assert w.r_mag_L is not None
        assert w.b_mag_L is not None
        f = (pre > 0) * (z * double(w.r_mag_L).exp() + double(w.b_mag_L)).relu()
    elif w.architecture == "topk":
        f = torch.where(seen >= seen.topk(K).values[:, -1:], pre, 0).relu()
    else:
        f = pre.relu() * (seen > (0 if w.threshold is None else double(w.threshold)))

    def back(row: Tensor) -> Tensor:
        row = row / w.input_scale
        return row if w.whitening is None else row @ double(w.whitening.inverse_DD)

    x_hat = back(f @ W_dec_LD + b_dec_D)
    if w.whitening is not None:
        x_hat = x_hat + double(w.whitening.mean_D)
    if std is not None and mean is not None:
        x_hat = x_hat * std + mean
    return f * back(W_dec_LD).norm(dim=1), x_hat


def random_weights(architecture: str, seed: int, **changes: Any) -> Weights:
    torch.manual_seed(seed)
    gated = architecture == "gated"
    w = Weights(
        W_enc_LD=torch.randn(L, D), b_enc_L=torch.randn(L) / 2, W_dec_LD=torch.randn(L, D) * (torch.rand(L, 1) + 0.2),
        b_dec_D=torch.randn(D), architecture=architecture, k=K if architecture in ("topk", "batch_topk") else 0,
        threshold={"jumprelu": torch.rand(L), "batch_topk": torch.rand(1)}.get(architecture),
        r_mag_L=torch.randn(L) / 3 if gated else None, b_mag_L=torch.randn(L) / 3 if gated else None)
    return replace(w, **changes)


def dense(sae: Autoencoder, x_BD: Tensor) -> Tensor:
    codes = sae.codes(x_BD)
    out_BL = torch.zeros(len(x_BD), sae.n_latents)
    out_BL[codes.token_N, codes.latent_N] = codes.value_N
    return out_BL


def whitening() -> Whitening:
    matrix = torch.randn(D, D, dtype=torch.float64)
    return Whitening(torch.randn(D), matrix.float(), matrix.inverse().float())


@given(architecture=st.sampled_from(["relu", "topk", "batch_topk", "jumprelu", "gated"]), centred=st.booleans(),
       scale=st.sampled_from([1.0, 0.3, 4.0]), normalize=st.sampled_from(["none", "layer_norm_std"]),
       by_norm=st.booleans(), unit=st.booleans(), seed=st.integers(0, 1000))
def test_a_folded_sae_is_the_same_sae(
    architecture: str, centred: bool, scale: float, normalize: str, by_norm: bool, unit: bool, seed: int
) -> None:
    w = random_weights(architecture, seed, centred=centred, input_scale=scale if normalize == "none" else 1.0,
                       normalize=normalize, select_by_norm=by_norm and architecture in ("topk", "batch_topk"))
    if unit:
        w.W_dec_LD = w.W_dec_LD / w.W_dec_LD.norm(dim=1, keepdim=True)
    x_BD = torch.randn(B, D) * 2
    sae = convert(Foreign("test", w, hook="blocks.0.hook_resid_post"))
    codes_BL, x_hat_BD = reference(w, x_BD)
    torch.testing.assert_close(dense(sae, x_BD).double(), codes_BL, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.reconstruct(x_BD).double(), x_hat_BD, rtol=1e-4, atol=1e-4)
    assert float((sae.W_dec_LD.norm(dim=1) - 1).abs().max()) < 1e-4


@pytest.mark.parametrize("architecture", ["relu", "topk", "batch_topk", "jumprelu", "gated"])
@pytest.mark.parametrize("centred", [True, False])
def test_whitening_folds_exactly(architecture: str, centred: bool) -> None:
    w = random_weights(architecture, 5, centred=centred)
    w.whitening = whitening()
    x_BD = torch.randn(B, D)
    sae = convert(Foreign("test", w, hook="blocks.0.hook_resid_post"))
    codes_BL, x_hat_BD = reference(w, x_BD)
    torch.testing.assert_close(dense(sae, x_BD).double(), codes_BL, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sae.reconstruct(x_BD).double(), x_hat_BD, rtol=1e-3, atol=1e-3)


def test_a_topk_whose_norms_differ_keeps_its_selection() -> None:
    tensors, folded, notes = fold(random_weights("topk", 1))
    assert folded.architecture == "topk"
    assert "activation_scale" in tensors
    assert any("selection" in line for line in notes)
    assert "activation_scale" not in fold(random_weights("topk", 1, select_by_norm=True))[0]


def test_one_threshold_stays_one_where_norms_are_alike() -> None:
    w = random_weights("batch_topk", 1)
    assert fold(w)[1].architecture == "jumprelu"
    w.W_dec_LD = 3 * w.W_dec_LD / w.W_dec_LD.norm(dim=1, keepdim=True)
    tensors, folded, _ = fold(w)
    assert folded.architecture == "batch_topk"
    assert w.threshold is not None
    assert float(tensors["threshold"]) == pytest.approx(3 * float(w.threshold))


@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu", "gated"])
def test_a_latent_without_a_decoder_row_never_fires(architecture: str) -> None:
    w = random_weights(architecture, 2)
    w.W_dec_LD[4] = 0
    w.b_enc_L[4] = 50
    sae, x_BD = convert(Foreign("test", w, hook="blocks.0.hook_resid_post")), torch.randn(B, D)
    assert not dense(sae, x_BD)[:, 4].any()
    torch.testing.assert_close(sae.reconstruct(x_BD).double(), reference(w, x_BD)[1], rtol=1e-4, atol=1e-4)
    assert bool(sae.W_dec_LD.isfinite().all())


def test_the_weights_given_are_left_as_they_are() -> None:
    w = random_weights("gated", 3, centred=False, input_scale=2.0)
    before = {name: value.clone() for name, value in vars(w).items() if isinstance(value, Tensor)}
    fold(w)
    assert all(torch.equal(getattr(w, name), value) for name, value in before.items())
