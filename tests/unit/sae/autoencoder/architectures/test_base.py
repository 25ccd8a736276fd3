"""What every architecture promises about selection at inference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.architectures import REGISTRY, make
from sae.autoencoder.architectures.base import Sparsity
from sae.kernels.codes import Codes

B, L, K = 7, 12, 3
every = pytest.mark.parametrize("architecture", sorted(REGISTRY))
independent = pytest.mark.parametrize("architecture", sorted(n for n, rule in REGISTRY.items() if rule.independent))


def rule_of(architecture: str, seed: int) -> tuple[Sparsity, Tensor]:
    """Return a rule with random tensors of its own, and pre-activations of which many are equal."""
    generator = torch.Generator().manual_seed(seed)
    rule = make(architecture, K)
    own = {name: torch.randn(min(shapes), generator=generator) / 2 for name, shapes in
           type(rule).tensor_shapes(L).items()}
    rule.load_tensors({**own, "b_enc": torch.randn(L, generator=generator)})
    return rule, torch.randint(-6, 7, (B, L), generator=generator) / 4


def dense(codes: Codes, n_latents: int = L) -> Tensor:
    out_BL = torch.zeros(codes.n_tokens, n_latents)
    out_BL[codes.token_N, codes.latent_N] = codes.value_N
    return out_BL


def pairs_of(pre_BL: Tensor, kept_BL: Tensor) -> Codes:
    return Codes.from_flat(kept_BL.flatten().nonzero()[:, 0], pre_BL[kept_BL], *pre_BL.shape)


@every
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_a_token_is_selected_from_as_it_is_alone(architecture: str, seed: int) -> None:
    rule, pre_BL = rule_of(architecture, seed)
    if architecture == "topk":  # equal entries may be settled in either way
        pre_BL = pre_BL + torch.linspace(0, 0.1, L)
    whole_BL = dense(rule.select(pre_BL))
    assert (whole_BL >= 0).all()
    for b in range(B):
        assert torch.equal(dense(rule.select(pre_BL[b : b + 1]))[0], whole_BL[b])


@independent
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_a_latent_is_selected_as_it_is_alone(architecture: str, seed: int, data: st.DataObject) -> None:
    rule, pre_BL = rule_of(architecture, seed)
    latents = torch.tensor(data.draw(st.lists(st.integers(0, L - 1), min_size=1, max_size=5)))
    some = dense(rule.select(pre_BL[:, latents], latents), len(latents))
    assert torch.equal(some, dense(rule.select(pre_BL))[:, latents])


@independent
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_pairs_above_the_threshold_suffice(architecture: str, seed: int) -> None:
    """Compare with the whole matrix: from all positive pairs, and from the least that suffice."""
    rule, pre_BL = rule_of(architecture, seed)
    expected_BL = dense(rule.select(pre_BL))
    for kept_BL in (pre_BL > rule.threshold_for(), pre_BL > 0):
        codes, active_N = rule.select_from_pairs(pairs_of(pre_BL, kept_BL))
        assert torch.equal(dense(codes), expected_BL)
        assert int(active_N.sum()) == len(codes.value_N)


@every
def test_own_tensors_have_the_shapes_that_are_declared(architecture: str) -> None:
    rule, _ = rule_of(architecture, 0)
    shapes = type(rule).tensor_shapes(L)
    tensors = rule.tensors()
    assert set(tensors) == set(shapes)
    assert all(tuple(tensor.shape) in shapes[name] for name, tensor in tensors.items())
    again = make(architecture, K)
    again.load_tensors({**tensors, "b_enc": torch.zeros(L)})
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.tensors().items())
    assert rule.lengths <= set(shapes)
