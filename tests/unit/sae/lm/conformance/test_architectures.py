"""Every causal architecture that both libraries know is either right or refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.lm.conformance.architectures import check_tiny
from sae.lm.conformance.tiny_models import causal_architectures
from sae.lm.sites import KINDS

# Architectures whose blocks are of several kinds, or run slowly: each of them takes some seconds.
_HEAVY = {
    "AfmoeForCausalLM", "BambaForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM",
    "Ernie4_5_MoeForCausalLM", "Gemma3ForConditionalGeneration", "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedForConditionalGeneration", "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM",
    "JambaForCausalLM", "LagunaForCausalLM", "Lfm2MoeForCausalLM", "Llama4ForCausalLM", "OlmoHybridForCausalLM",
    "Qwen3NextForCausalLM", "Qwen3_5MoeForCausalLM", "YoutuForCausalLM", "Zamba2ForCausalLM"}
# What each of these has to offer, so that a check that refuses everything does not pass.
_WHOLE = {"ApertusForCausalLM", "GPT2LMHeadModel", "GPTBigCodeForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
          "GemmaForCausalLM", "GraniteForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "NemotronForCausalLM",
          "OPTForCausalLM", "OlmoForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
          "StableLmForCausalLM", "Starcoder2ForCausalLM", "BloomForCausalLM", "GPTNeoForCausalLM", "MptForCausalLM",
          "XGLMForCausalLM"}
_RESIDUAL = {"FalconForCausalLM", "FalconMambaForCausalLM", "GPTJForCausalLM", "GptOssForCausalLM", "Mamba2ForCausalLM",
             "MambaForCausalLM", "Qwen3_5ForCausalLM", "RecurrentGemmaForCausalLM", "PhiForCausalLM",
             "MixtralForCausalLM", "Qwen3NextForCausalLM", "JambaForCausalLM", "Zamba2ForCausalLM"}


def test_there_are_many_architectures() -> None:
    assert len(causal_architectures()) > 80


@pytest.mark.parametrize("architecture", [
    pytest.param(name, marks=[pytest.mark.heavy] if name in _HEAVY else []) for name in causal_architectures()])
def test_conformant_or_refused_with_one_line(architecture: str, tmp_path: Path) -> None:
    try:
        report = check_tiny(architecture, tmp_path / "model")
    except ImportError as error:  # the architecture asks for a library that this program does not
        pytest.skip(str(error).strip().splitlines()[0])
    if report.error:
        assert report.error.startswith("model: ")
        assert "\n" not in report.error
        assert architecture not in _WHOLE | _RESIDUAL
        return
    assert report.way in ("fast", "cached", "whole")
    status = {row.subject: row.status for row in report.rows}
    assert status["logits"] == "holds"
    assert set(KINDS) < set(status)
    for row in report.rows:
        assert "\n" not in row.detail
        assert row.status == "holds" or row.detail
    if architecture in _WHOLE:
        # In the bridge, the embedding of Granite is multiplied already.
        own = {"hook_embed"} if architecture == "GraniteForCausalLM" else set()
        assert {kind for kind in KINDS if status[kind] != "holds"} == own
    if architecture in _RESIDUAL:
        assert status["hook_resid_pre"] == status["hook_resid_post"] == "holds"
