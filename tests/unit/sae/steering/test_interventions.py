"""Steering equals a computation by hand, and strength 0 is the baseline."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.row_model import RowModel
from sae.steering.generation import generate
from sae.steering.interventions import Steering, prompt_ids
from sae.steering.request import Intervention, Sampling, SteeredPositions, SteerRequest
from tests.unit.sae.steering.by_hand import (
    MODES,
    interventions_for,
    logits_by_hand,
    residual_by_hand,
    same,
    tokens_of,
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("architecture", "normalize"), [("batch_topk", "none"), ("topk", "layer_norm")])
@pytest.mark.parametrize("where", [
    SteeredPositions(), SteeredPositions(positions="from", start=5), SteeredPositions(special=True)])
def test_steering_equals_plain_hooks_at_every_position(
    lm: LanguageModel, plain: Any, tiny_sae: Any, mode: str, architecture: str, normalize: str, where: SteeredPositions,
) -> None:
    sae = tiny_sae(architecture, normalize)
    chosen = interventions_for(sae, mode)
    tokens_PS = tokens_of(lm)
    first = where.start if where.positions == "from" else 0
    expected = logits_by_hand(
        plain, tokens_PS, {2: lambda x_D: residual_by_hand(sae, chosen, x_D)},
        lambda position: position >= first and (where.special or position > 0))

    steering = Steering(chosen, {sae.config["id"]: sae}, where, [lm.bos_id])
    whole = lm.logits(tokens_PS, steering.edits(steering.mask(tokens_PS, 0, tokens_PS.shape[1])))
    same(whole, expected)

    cache, parts = None, []
    for start, end in [(0, 3), *((n, n + 1) for n in range(3, tokens_PS.shape[1]))]:
        piece_PS = tokens_PS[:, start:end]
        logits, cache = lm.step(piece_PS, cache, steering.edits(steering.mask(piece_PS, start, 99)))
        parts.append(logits)
    same(torch.cat(parts, dim=1), expected)
    assert (expected - lm.logits(tokens_PS)).abs().max() > 1e-2  # the edit does something here


def test_latents_of_two_saes_at_two_layers_and_mixed_modes(lm: LanguageModel, plain: Any, tiny_sae: Any) -> None:
    low, high = tiny_sae("topk", "none", 1, 5), tiny_sae("batch_topk", "layer_norm", 2, 6)
    below = interventions_for(low, "add")
    above = [i.model_copy(update={"mode": mode})
             for i, mode in zip(interventions_for(high, "add"), ("remove", "clamp", "scale"), strict=True)]
    tokens_PS = tokens_of(lm)
    expected = logits_by_hand(plain, tokens_PS, {
        1: lambda x_D: residual_by_hand(low, below, x_D), 2: lambda x_D: residual_by_hand(high, above, x_D),
    }, lambda position: position > 0)
    steering = Steering([*above, *below], {s.config["id"]: s for s in (low, high)}, SteeredPositions(), [lm.bos_id])
    got = lm.logits(tokens_PS, steering.edits(steering.mask(tokens_PS, 0, 99)))
    same(got, expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_strength_zero_is_the_baseline_token_for_token(
    lm: LanguageModel, model: RowModel, tiny_sae: Any, temperature: float) -> None:
    sae = tiny_sae("batch_topk", "layer_norm")
    for seed in range(3):
        nothing = [Intervention(sae=sae.config["id"], layer=2, latent=9, strength=0, max_act=7.0),
                   Intervention(sae=sae.config["id"], layer=2, latent=11, mode="scale", strength=1, max_act=7.0)]
        sampling = Sampling(temperature=temperature, top_p=0.99, length=50, seed=seed, stop_at_eos=False)
        *_, (baseline, steered) = generate(
            model, tokens_of(lm)[0].tolist(), {sae.config["id"]: sae}, nothing, SteeredPositions(special=True),
            sampling)
        assert baseline.output == steered.output
        assert baseline.acts == steered.acts
        assert len(baseline.output) == 50


def test_a_strong_steer_changes_the_text_and_leaves_the_baseline(
    lm: LanguageModel, model: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae()
    prompt = tokens_of(lm)[0].tolist()
    texts = {}
    for strength in (0.0, 6.0, -6.0):
        chosen = [Intervention(sae=sae.config["id"], layer=2, latent=9, strength=strength, max_act=8.0)]
        *_, (baseline, steered) = generate(
            model, prompt, {sae.config["id"]: sae}, chosen, SteeredPositions(), Sampling(length=25))
        texts[strength] = tuple(steered.output)
        assert tuple(baseline.output) == texts[0.0]
    assert len(set(texts.values())) == 3


def test_greedy_text_and_activations_equal_a_run_without_cache(
    lm: LanguageModel, model: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae("topk")
    sae_id = sae.config["id"]
    chosen = interventions_for(sae, "clamp")
    prompt = tokens_of(lm)[0].tolist()
    where, sampling = SteeredPositions(positions="output"), Sampling(temperature=0, length=12, stop_at_eos=False)
    *_, (baseline, steered) = generate(model, prompt, {sae_id: sae}, chosen, where, sampling)

    steering = Steering(chosen, {sae_id: sae}, where, [lm.bos_id])
    ids, readings = list(prompt), {}
    for _ in range(12):
        tokens_PS = torch.tensor([ids])
        logits = lm.logits(tokens_PS, steering.edits(steering.mask(tokens_PS, 0, len(prompt)), readings))
        ids.append(int(logits[0, -1].argmax()))
    assert steered.output == ids[len(prompt):]
    assert len(steered.acts) == len(prompt) + 12  # the last token is read as well
    by_position = torch.stack([readings[index][0] for index in range(3)], dim=1)
    assert torch.allclose(torch.tensor(steered.acts[:-1]), by_position, atol=1e-4)
    # With "output" the prompt is read unchanged, so the first token is the model's own.
    assert steered.output[0] == baseline.output[0]


def test_the_last_prompt_token_is_not_output(lm: LanguageModel, tiny_sae: Any) -> None:
    sae = tiny_sae()
    where = SteeredPositions(positions="output")
    steering = Steering(interventions_for(sae, "add"), {sae.config["id"]: sae}, where, [0])
    tokens_PS = torch.tensor([[0, 5, 6, 0, 7]])
    assert steering.mask(tokens_PS, 0, 3).tolist() == [[False, False, False, False, True]]
    assert steering.mask(tokens_PS[:, 4:], 4, 5).tolist() == [[False]]


def test_generation_stops_when_closed(
    lm: LanguageModel, model: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae()
    chosen = interventions_for(sae, "add")
    steps = generate(model, [0, 5], {sae.config["id"]: sae}, chosen, SteeredPositions(), Sampling(length=400))
    for wanted in (1, 2, 3):
        columns = next(steps)
        assert [len(c.output) for c in columns] == [wanted, wanted]
    steps.close()
    assert [len(c.output) for c in columns] == [3, 3]


def test_an_unknown_latent_and_a_wrong_layer_are_refused(tiny_sae: Any) -> None:
    sae = tiny_sae()
    sae_id = sae.config["id"]
    with pytest.raises(UserError, match="48 latents, 0 to 47") as latent:
        Steering([Intervention(sae=sae_id, layer=2, latent=48, max_act=1)], {sae_id: sae})
    assert latent.value.field == "latent"
    with pytest.raises(UserError, match="reads block 2, not 1"):
        Steering([Intervention(sae=sae_id, layer=1, latent=4, max_act=1)], {sae_id: sae})


def test_a_prompt_over_the_context_is_refused(lm: LanguageModel) -> None:
    def ids(prompt: str, length: int) -> list[int]:
        one = Intervention(sae="demo/x", layer=2, latent=0, max_act=1)
        return prompt_ids(lm, SteerRequest(
            model="demo", prompt=prompt, interventions=(one,), sampling=Sampling(length=length)))

    assert ids("x", 10) == [lm.bos_id, *lm.encode("x")]
    with pytest.raises(UserError, match="254 at most"):
        ids("x", 255)
    with pytest.raises(UserError, match="shorten it"):
        ids("x = 1\n" * 300, 1)
