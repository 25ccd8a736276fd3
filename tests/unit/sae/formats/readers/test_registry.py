"""Names, folders and facts that are recognised, asked for, or refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from sae.formats.readers.registry import read
from tests.unit.sae.formats.saes import SAES


@pytest.mark.parametrize(("case", "format_", "facts"), [
    ("saelens/jumprelu", "SAELens 6.54.12", {"model": "openai-community/gpt2", "hook": "blocks.5.hook_resid_pre",
                                            "bos": True, "context_length": 128}),
    ("saelens/transcoder", "SAELens 6.54.12", {"out_hook": "blocks.5.hook_mlp_out"}),
    ("saelens/v4_topk", "SAELens before 6 (no version)", {"hook": "blocks.8.hook_resid_pre", "claims": {"l0": 5.0}}),
    ("sparsify/transcoder", "sparsify", {"model": "EleutherAI/pythia-70m", "hook": "blocks.3.mlp.hook_in",
                                         "out_hook": "blocks.3.hook_mlp_out", "bos": False, "context_length": 2048}),
    ("dictionary_learning/jump_relu", "dictionary_learning", {
        "model": "EleutherAI/pythia-70m-deduped", "hook": "blocks.3.hook_resid_post", "bos": None,
        "claims": {"l0": 20.0}, "trained_as": "JumpReluAutoEncoder"}),
    ("gemma_scope/gemma-scope-2b-pt-res", "Gemma Scope", {
        "model": "google/gemma-2-2b", "hook": "blocks.20.hook_resid_post", "claims": {"l0": 12.0}, "bos": True}),
    ("gemma_scope_2/transcoder", "Gemma Scope 2", {
        "model": "google/gemma-3-1b-pt", "hook": "blocks.7.mlp.hook_in", "out_hook": "blocks.7.hook_mlp_out"}),
    ("openai/resid_post_mlp_v5_32k_layer_8.pt", "OpenAI", {"hook": "blocks.8.hook_resid_post", "bos": False,
                                                          "context_length": 64})])
def test_formats_and_what_they_say(case: str, format_: str, facts: dict[str, Any]) -> None:
    foreign = read(SAES / case)
    assert foreign.format == format_
    for name, value in facts.items():
        assert getattr(foreign, name) == value, name


def test_what_is_given_wins() -> None:
    foreign = read(SAES / "saelens" / "jumprelu", {
        "model": "demo", "hook": "blocks.1.hook_resid_post", "bos": "no", "normalize": "centre", "k": 0})
    assert (foreign.model, foreign.hook, foreign.bos) == ("demo", "blocks.1.hook_resid_post", False)
    assert foreign.weights.normalize == "centre"
    assert not foreign.asks
