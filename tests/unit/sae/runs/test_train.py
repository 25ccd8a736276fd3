"""Tests of sweeps, transcoders and trained θ as real runs: after SIGKILL they end with the same weights."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sae.autoencoder.artefact import Autoencoder
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, EXIT_USER
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests.runs import begin, end_of, wait_for
from tests.unit.sae.runs.test_execute import text

__all__ = ["text"]  # a fixture

COMMON: dict[str, Any] = {
    "context_length": 32, "tokens": 24_000, "batch_tokens": 256, "buffer_tokens": 4096, "eval_tokens": 1000,
    "ce_tokens": 256, "index_tokens": 2_000, "top_contexts": 4, "device": "cpu", "index": False}

# name: kind, settings, endings of the resulting SAEs' names
KINDS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "sweep": ("sweep", {"architecture": "batch_topk,jumprelu", "n_latents": "128,256", "k": "8", "index": True},
              [f"{kind}-{size}-k8" for kind in ("batchtopk", "jumprelu") for size in (128, 256)]),
    "transcoder": ("train", {"site": "ln2.hook_normalized", "out_site": "hook_mlp_out", "normalize": "dataset",
                             "n_latents": 256, "k": 8, "reuse": 2}, ["mlp_norm-mlp-batchtopk-256"]),
    "jumprelu": ("train", {"architecture": "jumprelu", "n_latents": 256, "k": 8, "buffer_dtype": "float32",
                           "train_on_bos": False}, ["res-jumprelu-256"]),
    "gated heads": ("train", {"architecture": "gated", "site": "attn.hook_z", "n_latents": 256, "resample_every": 30,
                              "dead_after_tokens": 2000}, ["z-gated-256"]),
}


def new_run(root: Path, text: Path, name: str) -> tuple[Workspace, RunFolder]:
    kind, values, _ = KINDS[name]
    workspace = Workspace(root)
    return workspace, start(kind, {"text": str(text), **COMMON, **values}, workspace)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.heavy) if name in ("sweep", "gated heads") else name for name in KINDS])
def test_killed_without_warning_it_ends_with_the_same_weights(tmp_path: Path, text: Path, name: str) -> None:
    whole, folder = new_run(tmp_path / "whole", text, name)
    undisturbed = begin(folder.path)
    resumed, other = new_run(tmp_path / "resumed", text, name)
    checkpoint = other.checkpoints / "train.pt"
    for times in range(2):
        process = begin(other.path)
        before = checkpoint.stat().st_mtime_ns if times else 0
        wait_for(process, lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > before)  # noqa: B023
        process.kill()
        assert end_of(process) == -signal.SIGKILL
        assert resumed.sae_ids() == []
    assert end_of(begin(other.path)) == EXIT_OK, other.log.read_text()
    assert end_of(undisturbed) == EXIT_OK, folder.log.read_text()

    assert len(whole.sae_ids()) == len(KINDS[name][2])
    assert whole.sae_ids() == resumed.sae_ids()
    for sae_id, suffix in zip(whole.sae_ids(), sorted(KINDS[name][2]), strict=True):
        assert sae_id.endswith(suffix)
        one, again = (load_file(home.sae(sae_id) / "sae.safetensors") for home in (whole, resumed))
        assert one.keys() == again.keys()
        for tensor in one:
            assert one[tensor].equal(again[tensor]), (sae_id, tensor)
        metrics = [json.loads((home.sae(sae_id) / "sae.json").read_text())["metrics"] for home in (whole, resumed)]
        assert metrics[0] == metrics[1]
        assert not (whole.sae(sae_id) / "claim.json").exists()
        check(Autoencoder.load(whole.sae(sae_id)), name)
    steps = [(row["step"], row.get("member", 0)) for row in other.progress() if "loss" in row]
    assert steps == sorted(set(steps))
    assert steps[-1][0] == COMMON["tokens"] // COMMON["batch_tokens"]
    if name == "sweep":
        status = folder.status()
        assert status is not None
        assert sorted(member["sae"] for member in status.result["members"]) == whole.sae_ids()
        assert all(len(whole.build_ids(sae_id)) == 1 for sae_id in whole.sae_ids())
        assert [row["member"] for row in folder.progress() if row["phase"] == "evaluation"] == [0, 1, 2, 3]


def check(sae: Autoencoder, name: str) -> None:
    """Check the SAE's `sae.json`, and that the SAE reconstructs."""
    config = sae.config
    assert config["bos"]["trained_on"] == (name != "jumprelu")
    assert 0 < config["metrics"]["fvu"] < 1
    assert config["metrics"]["delta_ce"] < config["metrics"]["ce_zero"] - config["metrics"]["ce_clean"]
    assert (config["k"] is None) == (config["architecture"] in ("jumprelu", "gated"))
    assert (config["threshold"] is None) == (config["architecture"] in ("jumprelu", "gated"))
    if config["threshold"]:
        assert config["threshold"]["l0_calibrated"] <= 8
    if name == "transcoder":
        assert (sae.hook, sae.out_hook) == ("blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out")
        assert (config["d_in"], config["d_model"]) == (256, 256)


def test_a_site_that_no_block_has_fails_before_the_text_is_read(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from sae.lm.model_info import DEMO_PATH

    tokenizer = AutoTokenizer.from_pretrained(DEMO_PATH)
    GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=60,
        max_position_embeddings=64)).save_pretrained(tmp_path / "neox")
    tokenizer.save_pretrained(tmp_path / "neox")
    workspace = Workspace(tmp_path / "home")
    folder = start("train", {**COMMON, "model": str(tmp_path / "neox"), "layer": 1, "site": "hook_resid_mid",
                             "text": str(tmp_path / "no-text-here.txt")}, workspace)
    assert end_of(begin(folder.path)) == EXIT_USER
    status = folder.status()
    assert status is not None
    assert status.error is not None
    assert status.error.startswith("site: ")
    assert "Traceback" not in folder.log.read_text()
