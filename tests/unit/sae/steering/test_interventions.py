"""Steering equals a computation by hand, and strength 0 is the baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.lm.row_model import RowModel, Rows, capacity_of
from sae.steering.batched_edits import RowEdits
from sae.steering.generation import generate
from sae.steering.interventions import Steering, prompt_ids
from sae.steering.request import Intervention, Sampling, SteeredPositions, SteerRequest

PROMPT = 'def read_lines(path):\n    """Return the lines of the file.\n'
MODES = ("add", "clamp", "scale", "ablate", "remove")


@pytest.fixture(scope="module")
def lm(demo_lm: LanguageModel) -> LanguageModel:
    return demo_lm


@pytest.fixture(scope="module")
def plain() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO_PATH, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def rows(lm: LanguageModel) -> RowModel:
    return RowModel(lm)


def tokens_of(lm: LanguageModel) -> Tensor:
    return torch.tensor([[lm.bos_id, *lm.encode(PROMPT)]])


# ---- reference by hand, which uses nothing of sae.autoencoder.artefact or sae.steering.interventions


def activations_by_hand(sae: Any, x_D: Tensor) -> tuple[Tensor, float]:
    """Return all activations of one residual vector by the SAE's rule, and the token's scale."""
    scale = 1.0
    if sae.config["normalize"] == "layer_norm":
        scale = float(x_D.std()) + 1e-5
        x_D = (x_D - x_D.mean()) / scale
    tensors = sae.tensors()
    pre_L = tensors["W_enc"] @ (x_D - tensors["b_dec"]) + tensors["b_enc"]
    if sae.config["architecture"] == "batch_topk":
        return torch.where(pre_L > float(tensors["threshold"]), pre_L, 0.0), scale
    kept = pre_L.topk(sae.config["k"]).indices
    out_L = torch.zeros_like(pre_L)
    out_L[kept] = pre_L[kept].clamp(min=0)
    return out_L, scale


def residual_by_hand(sae: Any, interventions: list[Intervention], x_D: Tensor) -> Tensor:
    acts_L, scale = activations_by_hand(sae, x_D)
    out_D = x_D.clone()
    for i in interventions:
        d_D, a, s, M = sae.tensors()["W_dec"][i.latent], float(acts_L[i.latent]), i.strength, i.max_act
        if i.mode == "add":
            out_D += s * M * scale * d_D
        elif i.mode == "clamp":
            out_D += (s * M - a) * scale * d_D
        elif i.mode == "scale":
            out_D += (s - 1) * a * scale * d_D
        elif i.mode == "ablate":
            out_D -= a * scale * d_D
    removed = [sae.tensors()["W_dec"][i.latent] for i in interventions if i.mode == "remove"]
    if removed:
        rows_RD = torch.stack(removed)
        out_D = out_D - rows_RD.T @ torch.linalg.lstsq(rows_RD.T, out_D).solution
    return out_D


def logits_by_hand(
    plain: Any, tokens_PS: Tensor, edits: dict[int, Callable[[Tensor], Tensor]], steered: Callable[[int], bool],
) -> Tensor:
    """Run the plain Hugging Face model once, with PyTorch hooks that work on one position at a time."""

    def hook_of(edit: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            changed = hidden.clone()
            for position in range(hidden.shape[1]):
                if steered(position):
                    changed[0, position] = edit(hidden[0, position])
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    handles = [plain.model.layers[layer].register_forward_hook(hook_of(edit)) for layer, edit in edits.items()]
    try:
        with torch.no_grad():
            logits: Tensor = plain(tokens_PS).logits
        return logits
    finally:
        for handle in handles:
            handle.remove()


def interventions_for(sae: Any, mode: str, latents: tuple[int, ...] = (3, 17, 40)) -> list[Intervention]:
    return [Intervention(sae=sae.config["id"], layer=sae.layer, latent=latent, mode=mode,  # type: ignore[arg-type]
                         strength=strength, max_act=4.0)
            for latent, strength in zip(latents, (1.5, -0.75, 0.4), strict=True)]


# ---- tests


def same(got: Tensor, expected: Tensor) -> None:
    """Check equality to 1e-5 of a logit.

    The relative part is float32's own error: without steering, the plain model with and without its cache
    differs by 1.2e-5 in a logit of 10.
    """
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


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


def written_by_rows(
    rows: RowModel, steerings: list[Steering], tokens: list[int], start: int, batched: bool,
) -> list[Tensor]:
    """Return the logits [S, V] of every steering on one text.

    `start` tokens are read as a prompt and the others one by one, with all steerings in one batch or each alone.
    """
    def write(batch: dict[int, Steering]) -> dict[int, Tensor]:
        store, out = Rows(capacity_of(len(tokens))), {}
        for row, steering in batch.items():
            mask = steering.mask(torch.tensor([tokens[:start]]), 0, start)
            out[row] = [rows.read(tokens[:start], steering.edits(mask), store, row, whole=True)]
        order = rows.order(list(batch))
        placed = {i: (batch[row], True) for i, row in enumerate(order) if row in batch}
        edits = RowEdits(placed, len(order), rows.device)
        for n in range(start, len(tokens)):
            changed = [row in batch and batch[row].changes(tokens[n], n, start) for row in order]
            logits = rows.step(store, order, dict.fromkeys(batch, tokens[n]), dict.fromkeys(batch, n),
                               edits.edits(changed)[0])
            for i, row in enumerate(order):
                if row in batch:
                    out[row].append(logits[i : i + 1])
        return {row: torch.cat(parts) for row, parts in out.items()}

    numbered = dict(enumerate(steerings))
    written = write(numbered) if batched else {n: write({n: s})[n] for n, s in numbered.items()}
    return [written[n] for n in numbered]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("where", [
    SteeredPositions(), SteeredPositions(positions="output"),
    SteeredPositions(positions="from", start=9, special=True)])
def test_rows_of_every_mode_equal_plain_hooks(
    lm: LanguageModel, rows: RowModel, plain: Any, tiny_sae: Any, where: SteeredPositions, batched: bool,
) -> None:
    """Compare ten texts, each with another mode and SAE, in one batch and each alone, with the cache."""
    tokens_PS, start = tokens_of(lm), 7
    made = [(tiny_sae(*kind), mode) for kind in (("batch_topk", "layer_norm", 2, 3), ("topk", "none", 1, 4))
            for mode in MODES]
    steerings = [Steering(interventions_for(sae, mode), {sae.config["id"]: sae}, where, [lm.bos_id])
                 for sae, mode in made]
    found = written_by_rows(rows, steerings, tokens_PS[0].tolist(), start, batched)
    first = {"all": 0, "output": start, "from": where.start}[where.positions]
    for (sae, mode), logits in zip(made, found, strict=True):
        chosen = interventions_for(sae, mode)
        expected = logits_by_hand(
            plain, tokens_PS, {sae.layer: lambda x_D, sae=sae, chosen=chosen: residual_by_hand(sae, chosen, x_D)},
            lambda position: position >= first and (where.special or position > 0))
        same(logits, expected[0])


def test_a_transcoder_is_read_at_one_site_and_acts_at_another(
    lm: LanguageModel, rows: RowModel, plain: Any, tiny_sae: Any
) -> None:
    base = tiny_sae("topk", "none", 2, 8)
    config = {**base.config, "id": "demo/transcoder",
              "site": {"layer": 2, "hook": "blocks.2.hook_resid_mid", "out_hook": "blocks.2.hook_mlp_out"}}
    sae = Autoencoder({**base.tensors(), "b_in": base.b_dec_D * 2}, config)
    chosen = [Intervention(sae="demo/transcoder", layer=2, latent=n, mode=mode, strength=1.5, max_act=4.0)
              for n, mode in ((5, "add"), (6, "clamp"), (7, "scale"), (8, "remove"))]  # type: ignore[arg-type]
    tokens_PS, block, kept = tokens_of(lm), plain.model.layers[2], []

    def by_hand(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        out = output.clone()
        for position in range(1, output.shape[1]):
            pre_L = base.W_enc_LD @ (kept[-1][0, position] - base.b_dec_D * 2) + base.b_enc_L
            top = pre_L.topk(12).indices
            a = {n: float(pre_L[n].clamp(min=0)) if n in top else 0.0 for n in (5, 6, 7)}
            d = base.W_dec_LD
            y = output[0, position] + 6 * d[5] + (6 - a[6]) * d[6] + 0.5 * a[7] * d[7]
            out[0, position] = y - (y @ d[8]) * d[8]
        return out

    handles = [block.post_attention_layernorm.register_forward_pre_hook(lambda _m, x: kept.append(x[0])),
               block.mlp.register_forward_hook(by_hand)]
    with torch.no_grad():
        expected = plain(tokens_PS).logits[0]
    for handle in handles:
        handle.remove()
    steering = Steering(chosen, {"demo/transcoder": sae}, SteeredPositions(), [lm.bos_id])
    edits = steering.edits(steering.mask(tokens_PS, 0, 99))
    same(lm.logits(tokens_PS, edits)[0], expected)
    same(written_by_rows(rows, [steering], tokens_PS[0].tolist(), 7, True)[0], expected)


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
    lm: LanguageModel, rows: RowModel, tiny_sae: Any, temperature: float) -> None:
    sae = tiny_sae("batch_topk", "layer_norm")
    for seed in range(3):
        nothing = [Intervention(sae=sae.config["id"], layer=2, latent=9, strength=0, max_act=7.0),
                   Intervention(sae=sae.config["id"], layer=2, latent=11, mode="scale", strength=1, max_act=7.0)]
        sampling = Sampling(temperature=temperature, top_p=0.99, length=50, seed=seed, stop_at_eos=False)
        *_, (baseline, steered) = generate(
            rows, tokens_of(lm)[0].tolist(), {sae.config["id"]: sae}, nothing, SteeredPositions(special=True), sampling)
        assert baseline.output == steered.output
        assert baseline.acts == steered.acts
        assert len(baseline.output) == 50


def test_a_strong_steer_changes_the_text_and_leaves_the_baseline(
    lm: LanguageModel, rows: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae()
    prompt = tokens_of(lm)[0].tolist()
    texts = {}
    for strength in (0.0, 6.0, -6.0):
        chosen = [Intervention(sae=sae.config["id"], layer=2, latent=9, strength=strength, max_act=8.0)]
        *_, (baseline, steered) = generate(
            rows, prompt, {sae.config["id"]: sae}, chosen, SteeredPositions(), Sampling(length=25))
        texts[strength] = tuple(steered.output)
        assert tuple(baseline.output) == texts[0.0]
    assert len(set(texts.values())) == 3


def test_greedy_text_and_activations_equal_a_run_without_cache(
    lm: LanguageModel, rows: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae("topk")
    sae_id = sae.config["id"]
    chosen = interventions_for(sae, "clamp")
    prompt = tokens_of(lm)[0].tolist()
    where, sampling = SteeredPositions(positions="output"), Sampling(temperature=0, length=12, stop_at_eos=False)
    *_, (baseline, steered) = generate(rows, prompt, {sae_id: sae}, chosen, where, sampling)

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
    lm: LanguageModel, rows: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae()
    chosen = interventions_for(sae, "add")
    steps = generate(rows, [0, 5], {sae.config["id"]: sae}, chosen, SteeredPositions(), Sampling(length=400))
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
