"""The gated rule: one product decides and measures, and the gate's loss leaves the decoder alone."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.autoencoder.architectures.gated import Gated
from tests.unit.sae.autoencoder.architectures.batches import L, batch_of, dense, rule_for


def made(seed: int, **settings_: float) -> Gated:
    rule = rule_for("gated", **settings_)
    assert isinstance(rule, Gated)
    generator = torch.Generator().manual_seed(seed)
    for parameter in rule.parameters().values():
        parameter.data = torch.randn(L, generator=generator)
    return rule


@torch.no_grad()
@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_sign_of_the_gate_selects_and_the_other_path_measures(seed: int) -> None:
    rule, batch = made(seed), batch_of(seed + 1)
    rule.load_tensors({**rule.tensors(), "b_enc": batch.b_enc_L})
    z_BL = batch.pre_BL - batch.b_enc_L
    expected_BL = (batch.pre_BL > 0) * (rule.r_mag_L.exp() * z_BL + rule.b_mag_L).relu()
    codes = rule.select(batch.pre_BL)
    assert (codes.value_N > 0).all()
    torch.testing.assert_close(dense(codes), expected_BL)
    torch.testing.assert_close(dense(made(seed).learn(batch).codes), expected_BL)


@torch.no_grad()
@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_only_encoder_and_gate_learn_from_the_gates_loss(seed: int) -> None:
    batch = batch_of(seed)
    light, heavy = (made(seed, gate_weight=weight, l1_coefficient=0.5).learn(batch) for weight in (0.01, 5.0))
    assert torch.equal(light.grad_W_dec_LD, heavy.grad_W_dec_LD)
    assert torch.equal(light.grad_b_dec_D, heavy.grad_b_dec_D)
    assert torch.equal(light.error_BD, heavy.error_BD)
    assert heavy.loss > light.loss
    assert not torch.equal(light.grad_pre.value_N, heavy.grad_pre.value_N)


def test_latents_that_are_reset_measure_what_the_gate_reads_again() -> None:
    rule = made(0)
    before = {name: tensor.detach().clone() for name, tensor in rule.tensors().items()}
    rule.reset(torch.tensor([2, 5]))
    for name, tensor in rule.tensors().items():
        assert tensor[[2, 5]].tolist() == [0, 0]
        others = [i for i in range(L) if i not in (2, 5)]
        assert torch.equal(tensor[others], before[name][others])
