"""Runs from training to steering with tiny random models of families that have little in common with the embedded one.

A recurrent model, a mixture of experts with attention sinks, linear attention, alibi positions, parallel blocks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.autoencoder.artefact import Autoencoder
from sae.lm.conformance.opening import open_model
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.lm.slow_row_model import open_row_model
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, execute
from sae.steering.generation import Run, write
from sae.steering.interventions import prompt_ids
from sae.steering.request import parse_request
from sae.store.build import Build
from sae.workspace.paths import Workspace

FAMILIES = ["MambaForCausalLM", "GptOssForCausalLM", "Qwen3_5ForCausalLM", "BloomForCausalLM", "FalconForCausalLM"]


@pytest.mark.heavy
@pytest.mark.parametrize("architecture", FAMILIES)
def test_training_leads_to_an_index_and_to_steered_text(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "home")
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))
    write_tiny_model(architecture, tmp_path / "tiny")
    text = tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"{i} little text of {i * i} words and more" for i in range(600)))

    folder = start("train", {
        "model": str(tmp_path / "tiny"), "text": str(text), "layer": 1, "context_length": 32, "n_latents": 64, "k": 8,
        "tokens": 6000, "batch_tokens": 256, "buffer_tokens": 2048, "eval_tokens": 1000, "ce_tokens": 256,
        "index_tokens": 3000, "device": "cpu"}, workspace)
    code = execute(folder, workspace)
    assert code == EXIT_OK, folder.status()

    sae_id = "tiny/1-res-batchtopk-64"
    sae = Autoencoder.load(workspace.sae(sae_id))
    assert 0 < sae.config["metrics"]["fvu"] < 1
    build = Build.open(workspace.build(sae_id, workspace.build_ids(sae_id)[-1]))
    latents = [found for number in range(64) if (found := build.latent(number)) is not None and not found.dead]
    strongest = max(latents, key=lambda latent: latent.density or 0)
    assert strongest.logit_pos
    build.close()

    request = parse_request({
        "model": str(tmp_path / "tiny"), "prompt": "little", "sampling": {"length": 8, "temperature": 0},
        "interventions": [{"sae": sae_id, "layer": 1, "latent": strongest.latent, "mode": "add", "strength": 8,
                           "max_act": strongest.max_act}]})
    lm = open_model(str(tmp_path / "tiny"), "cpu", workspace)
    run = Run.of(request, prompt_ids(lm, request), {sae_id: sae}, lm.special_ids)
    *_, columns = write(open_row_model(lm), run)
    baseline, steered = (column.output for column in columns)
    assert len(baseline) == 8
    assert baseline != steered
