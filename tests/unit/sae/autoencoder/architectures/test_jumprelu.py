"""The JumpReLU rule: raw thresholds, and the gradient that stands in for that of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.autoencoder.architectures.jumprelu import JumpReLU
from tests.unit.sae.autoencoder.architectures.batches import B, L, batch_of, dense, fvu, rule_for


def made(seed: int = 0, **changes: Any) -> JumpReLU:
    rule = rule_for("jumprelu", **changes)
    assert isinstance(rule, JumpReLU)
    rule.theta_L.data = torch.rand(L, generator=torch.Generator().manual_seed(seed))
    return rule


def test_a_latent_fires_strictly_above_its_own_threshold() -> None:
    rule = made()
    rule.load_tensors({"threshold": torch.linspace(0, 1.75, L)})
    pre_BL = torch.stack([rule.theta_L, rule.theta_L + 2**-20, rule.theta_L - 2**-20])
    assert rule.select(pre_BL).token_N.tolist() == [1] * L
    assert torch.equal(rule.select(pre_BL).value_N, pre_BL[1])


@pytest.mark.parametrize("kind", ["target", "linear"])
@pytest.mark.parametrize("l0", [0.5, 3.0, 7.0])
def test_the_slope_of_the_penalty_is_its_derivative(kind: str, l0: float) -> None:
    rule = made(l0_penalty=kind, l0_coefficient=0.7)
    at = torch.tensor(l0, requires_grad=True)
    penalty, slope = rule.penalty(at)
    penalty.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(at.grad, slope.detach())
    assert float(penalty.detach()) == pytest.approx(0.7 * ((l0 / 3 - 1) ** 2 if kind == "target" else l0))


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.2, 1.0]))
def test_thresholds_learn_from_a_window_on_both_sides(seed: int, warm: float, bandwidth: float) -> None:
    """Compare with equations 11 and 12 on the dense matrix."""
    rule, batch = made(seed, bandwidth=bandwidth, l0_coefficient=0.5, input_scale=1.5), batch_of(seed + 1, warm)
    assert rule.epsilon == pytest.approx(1.5 * bandwidth)
    theta_L, pre_BL = rule.theta_L.detach(), batch.pre_BL
    codes_BL = (pre_BL * (pre_BL > theta_L)).requires_grad_()
    loss = fvu(codes_BL, batch, batch.W_dec_LD, batch.b_dec_D)
    loss.backward()  # type: ignore[no-untyped-call]
    assert codes_BL.grad is not None
    window_BL = (pre_BL - theta_L).abs() < rule.epsilon / 2
    l0 = (pre_BL > theta_L).sum() / B
    slope = 2 * 0.5 / 3 * (l0 / 3 - 1)
    expected_L = (window_BL * (-theta_L / rule.epsilon * codes_BL.grad
                               - warm * slope / B / rule.epsilon)).sum(dim=0)
    learned = rule.learn(batch)
    assert rule.theta_L.grad is not None
    torch.testing.assert_close(rule.theta_L.grad, expected_L, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(learned.loss, (loss + warm * 0.5 * (l0 / 3 - 1) ** 2).detach())
    torch.testing.assert_close(dense(learned.grad_pre), codes_BL.grad * (pre_BL > theta_L), rtol=1e-4, atol=1e-6)
    assert torch.equal(dense(learned.codes), codes_BL.detach())


def test_thresholds_stay_at_0_or_above() -> None:
    rule = made()
    rule.theta_L.data[:2] = torch.tensor([-0.5, -1e-9])
    rest = rule.theta_L.detach()[2:].clone()
    rule.project()
    assert rule.theta_L[:2].tolist() == [0, 0]
    assert torch.equal(rule.theta_L[2:], rest)
