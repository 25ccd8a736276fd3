"""Architectures with attention of their own, or none, are steered by plain forward passes, text by text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.lm.row_model import RowModel
from sae.lm.slow_row_model import SlowRowModel, open_row_model
from sae.steering.generation import Run, TextGenerator, write
from sae.steering.request import Intervention, Sampling, SteeredPositions, SteerRequest

PROMPT = [0, 40, 41, 77, 5, 9, 130]
LENGTH = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, RowModel] = {}

    def get(architecture: str) -> RowModel:
        if architecture not in made:
            folder: Path = tmp_path_factory.mktemp("tiny") / architecture
            write_tiny_model(architecture, folder)
            made[architecture] = open_row_model(LanguageModel.load(str(folder), "cpu"))
        return made[architecture]

    return get


def sae_for(lm: LanguageModel, n_latents: int = 16) -> Autoencoder:
    D = lm.info.d_model
    W_LD = torch.randn(n_latents, D, generator=torch.Generator().manual_seed(5))
    W_LD /= W_LD.norm(dim=1, keepdim=True)
    return Autoencoder(
        {"W_enc": W_LD.clone(), "b_enc": torch.zeros(n_latents), "W_dec": W_LD, "b_dec": torch.zeros(D)},
        {"schema_version": 1, "id": "m/s", "model": {"name": lm.info.name, "id": "m"},
         "site": {"layer": 1, "hook": "blocks.1.hook_resid_post"}, "architecture": "relu", "n_latents": n_latents,
         "d_model": D, "k": 4, "normalize": "none", "weight_processing": "raw",
         "bos": {"prepended": True, "trained_on": True}, "context_length": 64, "threshold": None, "metrics": {},
         "training": {}, "run": "none", "created": 0.0, "saescope_version": "0"})


def request(**sampling: Any) -> SteerRequest:
    one = Intervention(sae="m/s", layer=1, latent=3, mode="add", strength=2.0, max_act=4.0)
    return SteerRequest(
        model="m", prompt="x", interventions=(one,), where=SteeredPositions(positions="from", start=2, special=True),
        sampling=Sampling(length=LENGTH, stop_at_eos=False, **sampling))


def greedy(model: RowModel, sae: Autoencoder, steered: bool) -> list[int]:
    """Token by token by whole forward passes of the plain model, with one hook and nothing of the row models."""
    plain = model.lm.plain()
    blocks = next(m for m in plain.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == model.lm.info.n_layers)

    def add(_module: Any, _args: Any, output: Any) -> Any:
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[:, 2:] += 8.0 * sae.W_dec_LD[3]
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = blocks[1].register_forward_hook(add) if steered else None
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(LENGTH):
            ids.append(int(plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    if handle is not None:
        handle.remove()
    return ids[len(PROMPT):]


@pytest.mark.parametrize("architecture", [
    "GPTJForCausalLM", "GPTNeoForCausalLM", "FalconForCausalLM", "BloomForCausalLM", "MptForCausalLM",
    "GptOssForCausalLM", "MambaForCausalLM", "Qwen3_5ForCausalLM", "RecurrentGemmaForCausalLM"])
def test_a_steered_text_is_that_of_plain_forward_passes(models: Any, architecture: str) -> None:
    model = models(architecture)
    assert isinstance(model, SlowRowModel)
    sae = sae_for(model.lm)
    run = Run.of(request(temperature=0), PROMPT, {"m/s": sae}, [])
    for _ in write(model, run):
        pass
    assert [column.output for column in run.columns] == [greedy(model, sae, steered) for steered in (False, True)]
    assert run.columns[0].output != run.columns[1].output


@pytest.mark.parametrize("cached", [True, False])
def test_runs_written_together_get_what_they_get_alone(
    models: Any, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    model = models("GPTJForCausalLM")
    monkeypatch.setattr(model, "cached", cached)
    sae = sae_for(model.lm)

    def run(seed: int) -> Run:
        asked = request(temperature=1.0, seed=seed).model_copy(update={"samples": 2})
        return Run.of(asked, PROMPT[: 4 + seed], {"m/s": sae}, [])

    alone = [run(seed) for seed in (0, 1)]
    for one in alone:
        for _ in write(model, one):
            pass
    together, generator = [run(seed) for seed in (0, 1)], TextGenerator(model)
    for one in together:
        list(generator.join(one))
        generator.step()
    while generator.n_texts:
        generator.step()
    for a, b in zip(alone, together, strict=True):
        assert [column.output for column in a.columns] == [column.output for column in b.columns]
        assert [column.acts for column in a.columns] == [column.acts for column in b.columns]


def test_without_a_cache_earlier_positions_keep_their_edits(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models("GPTJForCausalLM")

    def edit(x: Tensor) -> Tensor:
        return x * 0.5 + 1

    results = []
    for cached in (True, False):
        monkeypatch.setattr(model, "cached", cached)
        rows = model.new_rows(64)
        out = [model.read(PROMPT, {"blocks.1.hook_attn_out": edit}, rows, 2)]
        for i, hooks in enumerate((["blocks.1.hook_attn_out"], ["blocks.2.hook_resid_post"], [])):
            out.append(model.step(rows, [2], {2: 30 + i}, {2: len(PROMPT) + i}, dict.fromkeys(hooks, edit))[0])
        results.append(torch.stack(out))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_a_common_model_keeps_the_fast_way(demo_lm: LanguageModel) -> None:
    assert type(open_row_model(demo_lm)) is RowModel


def test_a_model_whose_logits_are_not_the_bridges_is_refused(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = models("GPTJForCausalLM").lm
    right = LanguageModel.logits
    monkeypatch.setattr(LanguageModel, "logits", lambda self, *args, **kwargs: right(self, *args, **kwargs) + 1)
    with pytest.raises(UserError, match="other logits") as error:
        SlowRowModel(lm)
    assert error.value.field == "model"
