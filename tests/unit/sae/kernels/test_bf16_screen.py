"""A screen in bfloat16 with exact values in float32 misses no pair above the bound and reports none below it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder import artefact
from sae.autoencoder.artefact import Autoencoder
from sae.kernels.bf16_screen import Screen
from sae.kernels.codes import Codes


def exact(y_BD: Tensor, W_LD: Tensor, b_L: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs are above the bound by more than float32's rounding, and which are below it by more."""
    pre_BL = y_BD.double() @ W_LD.double().T + b_L.double()
    slack = 1e-5 * (y_BD.norm(dim=1)[:, None] * W_LD.norm(dim=1) + b_L.abs())
    return pre_BL > bound + slack, pre_BL < bound - slack


def check(y_BD: Tensor, W_LD: Tensor, b_L: Tensor, bound: Tensor) -> Codes | None:
    found = Screen(W_LD, b_L).above(y_BD, bound)
    if found is None:
        return None
    above_BL, below_BL = exact(y_BD, W_LD, b_L, bound)
    told_BL = torch.zeros_like(above_BL)
    told_BL[found.token_N, found.latent_N] = True
    assert not (above_BL & ~told_BL).any()
    assert not (below_BL & told_BL).any()
    flat_N = found.token_N * len(W_LD) + found.latent_N
    assert (flat_N.diff() > 0).all()
    assert (found.n_tokens, found.n_latents) == told_BL.shape
    pre_BL = y_BD @ W_LD.T + b_L
    torch.testing.assert_close(found.value_N, pre_BL[found.token_N, found.latent_N], rtol=1e-4, atol=1e-4)
    return found


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31), B=st.integers(64, 150), L=st.sampled_from([96, 400]), D=st.sampled_from([8, 100]),
    far=st.integers(0, 3), bound=st.sampled_from(["one", "each", "low"]), scale=st.sampled_from([0.01, 1.0, 300.0]))
def test_the_pairs_above_a_bound(seed: int, B: int, L: int, D: int, far: int, bound: str, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    y_BD = torch.randn(B, D, generator=draw) * scale
    y_BD[torch.randint(0, B, (far,), generator=draw)] *= 40
    W_LD = torch.randn(L, D, generator=draw) * torch.rand(L, 1, generator=draw)
    b_L = torch.randn(L, generator=draw) * scale
    pre_BL = y_BD @ W_LD.T + b_L
    at = {"one": pre_BL.flatten().kthvalue(int(0.99 * B * L)).values, "each": pre_BL.quantile(0.99, dim=0),
          "low": -pre_BL.abs().amax() * torch.rand(L, generator=draw)}[bound]
    found = check(y_BD, W_LD, b_L, at)
    assert found is None or bound != "low"


def test_rounding_that_all_goes_one_way_hides_nothing() -> None:
    """Use factors just below the midpoint of two bfloat16 numbers, so that all are rounded down."""
    down = 1 + 2.0**-8 * 0.999
    y_BD, W_LD = torch.full((64, 128), down), torch.zeros(400, 128)
    W_LD[7] = down
    W_LD[9] = -down
    b_L = torch.zeros(400)
    value = float((y_BD.double() @ W_LD.double().T)[0, 7])
    found = check(y_BD, W_LD, b_L, torch.tensor(value * (1 - 1e-6)))
    assert found is not None
    assert found.latent_N.tolist() == [7] * 64
    found = check(y_BD, W_LD, b_L, torch.tensor(value * (1 + 1e-6)))
    assert found is not None
    assert len(found.latent_N) == 0


def test_it_declines_where_it_does_not_pay() -> None:
    screen = Screen(torch.eye(128), torch.zeros(128))
    assert screen.above(torch.ones(63, 128), torch.tensor(2.0)) is None
    assert screen.above(torch.ones(64, 128), torch.tensor(0.5)) is None  # all pairs
    nothing = screen.above(torch.ones(64, 128), torch.tensor(2.0))
    assert nothing is not None
    assert len(nothing.value_N) == 0


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu", "gated", "relu"])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_an_sae_says_the_same_with_it_and_without(
    monkeypatch: pytest.MonkeyPatch, architecture: str, share: float,
) -> None:
    draw = torch.Generator().manual_seed(3)
    L, D = 600, 32
    own = {"batch_topk": {"threshold": torch.tensor([2.0])},
           "jumprelu": {"threshold": 2 + torch.rand(L, generator=draw)},
           "gated": {"r_mag": torch.randn(L, generator=draw), "b_mag": torch.randn(L, generator=draw) - 2}}
    W_LD = torch.nn.functional.normalize(torch.randn(L, D, generator=draw), dim=1)
    shift = 0.0 if architecture == "batch_topk" else 2.0
    tensors = {"W_enc": W_LD, "b_enc": torch.randn(L, generator=draw) / 4 - shift,
               "W_dec": W_LD, "b_dec": torch.randn(D, generator=draw), **own.get(architecture, {})}
    config = {"architecture": architecture, "k": 8, "normalize": "none"}
    x_BD = torch.randn(200, D, generator=draw)
    results = []
    for fast in (True, False):
        monkeypatch.setattr(artefact, "has_fast_bfloat16", lambda fast=fast: fast)
        results.append(Autoencoder(tensors, config).codes_and_misses(x_BD, share))
    for mine, theirs in zip(*results, strict=True):
        assert len(theirs.value_N) > 20 or (theirs is results[1][1] and not share)
        assert torch.equal(mine.token_N, theirs.token_N)
        assert torch.equal(mine.latent_N, theirs.latent_N)
        torch.testing.assert_close(mine.value_N, theirs.value_N, rtol=1e-4, atol=1e-5)
