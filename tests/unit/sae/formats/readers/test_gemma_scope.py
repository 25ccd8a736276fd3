"""Gemma Scope: model and site come from the published path or the config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae.errors import UserError
from sae.formats.readers.registry import read
from tests.unit.sae.formats.readers.tensors import D, L, random


def test_a_cross_layer_transcoder_is_refused(tmp_path: Path) -> None:
    save_file(random(w_enc=(D, L), w_dec=(L, 3, D), b_enc=(L,), b_dec=(D,), threshold=(L,)),
              tmp_path / "params.safetensors")
    with pytest.raises(UserError, match="cross-layer"):
        read(tmp_path)


FIRST = {name: tensor.numpy() for name, tensor in random(
    W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,), threshold=(L,)).items()}


@pytest.mark.parametrize(("path", "model", "hook", "out_hook", "l0"), [
    ("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "google/gemma-2-2b", "blocks.20.hook_resid_post",
     "", {"l0": 71.0}),
    ("google/gemma-scope-9b-it-res/layer_9/width_16k", "google/gemma-2-9b-it", "blocks.9.hook_resid_post", "", {}),
    ("google/gemma-scope-9b-pt-att/layer_3/width_16k", "google/gemma-2-9b", "blocks.3.attn.hook_z", "", {}),
    ("google/gemma-scope-27b-pt-mlp/layer_3/width_16k", "google/gemma-2-27b", "blocks.3.hook_mlp_out", "", {}),
    ("google/gemma-scope-2b-pt-transcoders/layer_4/width_16k", "google/gemma-2-2b", "blocks.4.ln2.hook_normalized",
     "blocks.4.hook_mlp_out", {}),
    ("someone/a-folder", "", "", "", {})])
def test_the_published_path_says_model_and_site(
    tmp_path: Path, path: str, model: str, hook: str, out_hook: str, l0: dict[str, float]
) -> None:
    np.savez(tmp_path / "params.npz", **FIRST)
    foreign = read(tmp_path, hint=path)
    assert (foreign.model, foreign.hook, foreign.out_hook, foreign.claims) == (model, hook, out_hook, l0)
    assert foreign.weights.transcoder == bool(out_hook)
    assert not foreign.weights.centred
    assert torch.equal(foreign.weights.W_enc_LD, torch.from_numpy(FIRST["W_enc"]).T)


def test_an_sae_of_the_embedding_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **FIRST)
    with pytest.raises(UserError, match="Gemma's embedding"):
        read(tmp_path, hint="google/gemma-scope-2b-pt-res/embedding/width_4k")


@pytest.mark.parametrize(("config", "hook", "out_hook"), [
    ({"hf_hook_point_in": "model.layers.7.output", "hf_hook_point_out": "model.layers.7.output"},
     "blocks.7.hook_resid_post", ""),
    ({"hf_hook_point_in": "model.layers.7.pre_feedforward_layernorm.output",
      "hf_hook_point_out": "model.layers.7.post_feedforward_layernorm.output"}, "blocks.7.mlp.hook_in",
     "blocks.7.hook_mlp_out")])
def test_the_config_of_the_second_release_says_model_and_site(
    tmp_path: Path, config: dict[str, Any], hook: str, out_hook: str
) -> None:
    save_file({name.lower(): torch.from_numpy(array) for name, array in FIRST.items()}, tmp_path / "params.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "gemma-v3-1b-pt", **config}))
    foreign = read(tmp_path)
    assert (foreign.model, foreign.hook, foreign.out_hook) == ("google/gemma-3-1b-pt", hook, out_hook)
    assert foreign.weights.transcoder == bool(out_hook)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "topk"}))
    with pytest.raises(UserError, match="'topk' is not jump_relu"):
        read(tmp_path)
