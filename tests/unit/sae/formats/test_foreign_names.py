"""Names of models and sites that other libraries use."""

from __future__ import annotations

import pytest

from sae.formats.foreign_names import model_name, site


@pytest.mark.parametrize(("name", "reads", "hook"), [
    ("blocks.3.hook_resid_pre", False, "blocks.3.hook_resid_pre"), ("layers.10", False, "blocks.10.hook_resid_post"),
    ("transformer.h.3", False, "blocks.3.hook_resid_post"),
    ("model.layers.7.output", False, "blocks.7.hook_resid_post"),
    ("layers.3.mlp", False, "blocks.3.hook_mlp_out"), ("layers.3.mlp", True, "blocks.3.mlp.hook_in"),
    ("gpt_neox.layers.2.attention", False, "blocks.2.hook_attn_out"),
    ("model.layers.7.self_attn.o_proj.input", False, "blocks.7.attn.hook_z"),
    ("model.layers.7.pre_feedforward_layernorm.output", False, "blocks.7.mlp.hook_in"),
    ("model.layers.7.post_feedforward_layernorm.output", False, "blocks.7.hook_mlp_out"),
    ("resid_post_layer_3", False, "blocks.3.hook_resid_post"), ("mlp_out_layer_4", False, "blocks.4.hook_mlp_out"),
    ("hook_embed", False, "hook_embed"), ("", False, ""), ("layers.x", False, ""), ("../../etc", False, "")])
def test_sites_have_many_names(name: str, reads: bool, hook: str) -> None:
    assert site(name, reads=reads) == hook


@pytest.mark.parametrize(("name", "means"), [
    ("gpt2-small", "openai-community/gpt2"), ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
    ("gemma-2-2b", "google/gemma-2-2b"), ("me/model", "me/model"), ("demo", "demo"), ("", "")])
def test_models_have_many_names(name: str, means: str) -> None:
    assert model_name(name) == means
