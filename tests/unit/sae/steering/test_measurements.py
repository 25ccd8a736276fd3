"""Next tokens, inspection, ablation and output scores against plain computations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.row_model import RowModel
from sae.lm.sites import resid_post
from sae.steering.ablation import Ablation, ablate, spread
from sae.steering.inspection import inspect_text, windows
from sae.steering.interventions import Steering
from sae.steering.next_token import cross_entropy_S, kl_S, next_tokens, perplexity, steered_logits
from sae.steering.output_score import output_scores
from sae.steering.request import Intervention, SteeredPositions
from sae.steering.text_measures import concept_share, repetition

TEXT = 'class Reader:\n    def read(self, path: str) -> list[str]:\n        return open(path).read()\n'


@pytest.fixture(scope="module")
def model(demo_lm: LanguageModel) -> RowModel:
    return RowModel(demo_lm)


@pytest.fixture(scope="module")
def ids(demo_lm: LanguageModel) -> list[int]:
    return [demo_lm.bos_id, *demo_lm.encode(TEXT)]


# ---- next tokens


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


def test_shares_and_repetition() -> None:
    assert concept_share([1, 2, 2, 5], {2, 9}) == 0.5
    assert concept_share([], {2}) is None
    assert concept_share([1], ()) is None
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([7] * 12) == pytest.approx(9 / 10)
    assert repetition([1, 2]) is None


# ---- inspection


@pytest.mark.parametrize("architecture", ["batch_topk", "topk"])
def test_inspection_is_the_saes_codes(model: RowModel, ids: list[int], tiny_sae: Any, architecture: str) -> None:
    saes = [tiny_sae(architecture, "layer_norm", 1, 3), tiny_sae("topk", "none", 2, 4)]
    special = [i == 0 for i in ids]
    readings, cuts = inspect_text(model, ids, saes, special, top=3)
    assert cuts == []
    for sae, reading in zip(saes, readings, strict=True):
        x_SD = model.lm.activations(torch.tensor([ids]), sae.hook)[0]
        dense_SL = sae.activation_of(x_SD, torch.arange(sae.n_latents))
        assert reading.l0 == (dense_SL > 0).sum(1).tolist()
        for position in range(len(ids)):
            found = [(latent, act) for p, latent, act in zip(reading.position, reading.latent, reading.act, strict=True)
                     if p == position]
            acts, latents = dense_SL[position].topk(3)
            assert [latent for latent, _ in found] == latents[acts > 0].tolist()
            assert [act for _, act in found] == pytest.approx(acts[acts > 0].tolist(), rel=1e-3)
        counted_SL = dense_SL[~torch.tensor(special)]
        firing = (counted_SL > 0).any(0).nonzero()[:, 0].tolist()
        assert sorted(f.latent for f in reading.ranked) == firing
        assert [f.max for f in reading.ranked] == sorted((f.max for f in reading.ranked), reverse=True)
        for f in reading.ranked:
            assert f.max == pytest.approx(float(counted_SL[:, f.latent].max()), rel=1e-3)
            assert f.sum == pytest.approx(float(counted_SL[:, f.latent].sum()), rel=1e-3)
            assert f.n == int((counted_SL[:, f.latent] > 0).sum())
            assert float(dense_SL[f.peak, f.latent]) == pytest.approx(f.max, rel=1e-3)


def test_a_requested_latent_is_listed_wherever_it_fires(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae = tiny_sae("batch_topk", "layer_norm", 1, 3)
    dense_SL = sae.activation_of(model.lm.activations(torch.tensor([ids]), sae.hook)[0], torch.arange(sae.n_latents))
    latent = int((dense_SL > 0).sum(0).argmax())
    (reading,), _ = inspect_text(model, ids, [sae], [i == 0 for i in ids], top=1, latents=[latent])
    acts = {p: a for p, other, a in zip(reading.position, reading.latent, reading.act, strict=True) if other == latent}
    assert acts == pytest.approx({p: float(a) for p, a in enumerate(dense_SL[:, latent]) if a > 0}, rel=1e-3)
    (plain,), _ = inspect_text(model, ids, [sae], [i == 0 for i in ids], top=1)
    assert plain.latent.count(latent) < len(acts)


def test_a_long_text_is_read_in_windows(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae, long = tiny_sae(), [ids[0], *(ids[1:] * 30)][:600]
    (reading,), cuts = inspect_text(model, long, [sae], [i == 0 for i in long], top=2)
    assert len(reading.l0) == 600
    assert cuts == [256, 511]
    parts = windows(long, 0, 256)
    assert [len(part) for part in parts] == [256, 256, 90]
    assert [token for n, part in enumerate(parts) for token in (part if n == 0 else part[1:])] == long
    second = model.lm.activations(torch.tensor([parts[1]]), sae.hook)[0]
    dense_SL = sae.activation_of(second, torch.arange(sae.n_latents))
    assert reading.l0[256:511] == (dense_SL > 0).sum(1).tolist()[1:]


# ---- ablation


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


# ---- output score


def test_output_scores_by_hand(model: RowModel, tiny_sae: Any) -> None:
    sae, prompts = tiny_sae("batch_topk", "layer_norm"), ["def f(", "import"]
    latents, maxima = [3, 11, 7], [5.0, 0.0, 2.0]
    (found,) = output_scores(model, sae, "x", latents, maxima, prompts, strength=3.0, top=4)
    assert [score.latent for score in found] == latents
    assert found[1].score is None
    for n in (0, 2):
        direction_D = sae.W_dec_LD[latents[n]]
        top = (direction_D @ model.lm.unembedding()).topk(4).indices
        assert found[n].tokens == top.tolist()
        expected = 0.0
        for prompt in prompts:
            tokens = torch.tensor([[0, *model.lm.encode(prompt)]])

            def push(x_1SD: Tensor, n: int = n, direction_D: Tensor = direction_D) -> Tensor:
                change = 3.0 * maxima[n] * sae.scale(x_1SD[0]) * direction_D
                change[0] = 0
                return x_1SD + change

            p_V, q_V = (model.lm.logits(tokens, edits)[0, -1].softmax(0) for edits in (None, {resid_post(2): push}))
            expected += float((q_V[top] - p_V[top]).sum()) / 2
        assert found[n].score == pytest.approx(expected, abs=1e-4)


def test_scores_refuse_missing_latents_and_long_prompts(model: RowModel, tiny_sae: Any) -> None:
    for latents, prompts, field in (([48], ["x"], "latents.0"), ([1], ["x = 1\n" * 300], "prompts")):
        with pytest.raises(UserError) as error:
            list(output_scores(model, tiny_sae(), "x", latents, [1.0], prompts))
        assert error.value.field == field
