"""Folding of the input's scale, and of a transcoder's two, leaves an SAE's outputs unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.architectures import REGISTRY
from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.folding import fold_scale

B, L, D = 12, 20, 6


def weights(architecture: str, d_in: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights in the units of normalised activations; a transcoder's if `d_in` is given."""
    W_dec_LD = torch.randn(L, D, generator=generator)
    tensors = {"W_enc": torch.randn(L, d_in or D, generator=generator), "b_enc": torch.randn(L, generator=generator),
               "W_dec": W_dec_LD / W_dec_LD.norm(dim=1, keepdim=True), "b_dec": torch.randn(D, generator=generator)}
    if d_in:
        tensors |= {"b_in": torch.randn(d_in, generator=generator), "W_skip": torch.randn(d_in, D, generator=generator)}
    for name, shapes in REGISTRY[architecture].tensor_shapes(L).items():
        tensors[name] = torch.rand(*shapes.pop(), generator=generator)
    return tensors


@pytest.mark.parametrize("architecture", REGISTRY)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), s=st.floats(0.01, 50), s_out=st.floats(0.01, 50), d_in=st.sampled_from([0, 5]))
def test_outputs_do_not_change(architecture: str, seed: int, s: float, s_out: float, d_in: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = weights(architecture, d_in, generator)
    config: dict[str, Any] = {"architecture": architecture, "k": 4, "normalize": "none", "site": {"hook": "a"}}
    if d_in:
        config["site"] = {"hook": "a", "out_hook": "b"}
    else:
        s_out = s
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    folded = Autoencoder(fold_scale(tensors, architecture, s, s_out if d_in else None), config)
    trained = Autoencoder(tensors, config)
    y_BD = torch.randn(B, d_in or D, generator=generator)
    raw, scaled = folded.codes(y_BD / s), trained.codes(y_BD)
    out = torch.zeros(2, B, L)
    out[0, raw.token_N, raw.latent_N] = raw.value_N * s_out
    out[1, scaled.token_N, scaled.latent_N] = scaled.value_N
    torch.testing.assert_close(out[0], out[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded.reconstruct(y_BD / s) * s_out, trained.reconstruct(y_BD), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert all(folded.tensors()[name].data_ptr() != tensor.data_ptr() for name, tensor in tensors.items())
