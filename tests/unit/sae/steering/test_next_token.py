"""Next-token distributions against plain computations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sae.lm.row_model import RowModel
from sae.lm.sites import resid_post
from sae.steering.interventions import Steering
from sae.steering.next_token import cross_entropy_S, kl_S, next_tokens, perplexity, steered_logits
from sae.steering.request import Intervention, SteeredPositions


def test_next_tokens_come_from_two_forward_passes(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae = tiny_sae("batch_topk", "layer_norm")
    one = [Intervention(sae=sae.config["id"], layer=2, latent=5, strength=2, max_act=4.0)]
    steering = Steering(one, {sae.config["id"]: sae}, SteeredPositions(positions="output"), [0])
    baseline_SV, acts = steered_logits(model, ids, steering, 6, steered=False)
    steered_SV, _ = steered_logits(model, ids, steering, 6, steered=True)
    tokens = torch.tensor([ids])
    torch.testing.assert_close(baseline_SV, model.lm.logits(tokens)[0], rtol=1e-4, atol=1e-4)
    expected_S = sae.activation_of(model.lm.activations(tokens, resid_post(2))[0], torch.tensor([5]))[:, 0]
    torch.testing.assert_close(torch.tensor(acts)[:, 0], expected_S, rtol=1e-4, atol=1e-4)
    kl = kl_S(steered_SV, baseline_SV)
    assert float(kl[:6].max()) == 0.0  # the prompt is left alone
    assert float(kl[6:].min()) > 1e-4
    p_V, q_V = steered_SV[8].double().softmax(0), baseline_SV[8].double().softmax(0)
    assert float(kl[8]) == pytest.approx(float((p_V * (p_V / q_V).log()).sum()), rel=1e-3)
    rows = next_tokens(baseline_SV[8], steered_SV[8], 5)
    assert {int(i) for v in (p_V, q_V) for i in v.topk(5).indices} == {row.id for row in rows}
    larger = [max(row.baseline, row.steered) for row in rows]
    assert larger == sorted(larger, reverse=True)
    assert rows[0].baseline == pytest.approx(float(q_V[rows[0].id]), rel=1e-3)


def test_perplexity_is_of_the_output_alone(model: RowModel, ids: list[int]) -> None:
    logits_SV = model.read(ids, whole=True)
    losses = [-float(logits_SV[i - 1].log_softmax(0)[ids[i]]) for i in range(5, len(ids))]
    assert perplexity(logits_SV, ids, 5) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert perplexity(logits_SV, ids, len(ids)) is None
    assert len(cross_entropy_S(logits_SV, ids)) == len(ids) - 1
