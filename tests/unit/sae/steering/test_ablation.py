"""Ablation against plain computations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.row_model import RowModel
from sae.lm.sites import resid_post
from sae.steering.ablation import Ablation, ablate, spread
from sae.steering.next_token import cross_entropy_S, kl_S


def test_ablation_by_hand(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae = tiny_sae("batch_topk", "layer_norm")
    tokens = torch.tensor([ids])
    x_SD = model.lm.activations(tokens, resid_post(2))[0]
    dense_SL = sae.activation_of(x_SD, torch.arange(48)) * sae.scale(x_SD)
    dense_SL[0] = 0  # BOS is left alone
    latent = int((dense_SL[:-1] > 0).sum(0).clamp(max=5).argmax())
    quiet = [0, ids[1]]
    result = [*ablate(model, sae, "x", latent, [ids, quiet], n_random=2, seed=1)][-1]
    assert isinstance(result, Ablation)
    fires = (dense_SL[:-1, latent] > 0).nonzero()[:, 0]
    assert result.firings[0] == len(fires)

    def without(x_1SD: Tensor) -> Tensor:
        return x_1SD - dense_SL[:, latent, None] * sae.W_dec_LD[latent]

    base_SV, changed_SV = model.lm.logits(tokens)[0], model.lm.logits(tokens, {resid_post(2): without})[0]
    ce_S = cross_entropy_S(changed_SV, ids) - cross_entropy_S(base_SV, ids)
    assert result.effect.ce_at[0] == pytest.approx(float(ce_S[fires].mean()), abs=1e-4)
    assert result.effect.ce_after[0] == pytest.approx(float(ce_S[fires[0]:].mean()), abs=1e-4)
    assert result.effect.kl_at[0] == pytest.approx(float(kl_S(base_SV, changed_SV)[fires].mean()), abs=1e-4)
    peak = int(fires[dense_SL[fires, latent].argmax()])
    if result.firings[1] == 0:
        assert result.sparsity == pytest.approx(spread(changed_SV[peak] - base_SV[peak]), rel=1e-2)
        moved = (changed_SV[peak].softmax(0) - base_SV[peak].softmax(0)).abs()
        assert result.tokens[0].id == int(moved.argmax())
    assert len(result.random) == 2
    assert all(len(effect.ce_at) == len(result.effect.ce_at) for effect in result.random)
    again = [*ablate(model, sae, "x", latent, [ids, quiet], n_random=2, seed=1)][-1]
    assert again == result


def test_a_latent_that_never_fires_has_no_effect(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae = tiny_sae()
    sae.b_enc_L[4] = -1e6
    result = [*ablate(model, sae, "x", 4, [ids])][-1]
    assert isinstance(result, Ablation)
    assert (result.firings, result.effect.ce_at, result.sparsity, result.tokens) == ([0], [], None, [])
    sae.b_enc_L[4] = 0.0
    for latent, contexts, field in (
            (48, [ids], "latent"), (4, [[0] * 300], "contexts.0"), (4, [ids, [0, 9000]], "contexts.1")):
        with pytest.raises(UserError) as error:
            list(ablate(model, sae, "x", latent, contexts))
        assert error.value.field == field


def test_spread_counts_the_logits_that_move() -> None:
    one, half = torch.zeros(100), torch.zeros(100)
    one[3], half[:50] = 1.0, 1.0
    assert spread(half) == pytest.approx(1.0)  # after centring, all logits move equally
    assert spread(one) == pytest.approx(4 * 0.99 / 100, rel=0.02)
    assert spread(torch.ones(100)) == 1 / 100  # a shift of all logits
    assert spread(torch.randn(5000, generator=torch.Generator().manual_seed(0))) == pytest.approx(2 / math.pi, abs=0.02)
