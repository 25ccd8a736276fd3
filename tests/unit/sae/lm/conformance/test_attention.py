"""The check of the attention's sites finds names that do not say what a site does, and heads that are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae.lm.bridge import LanguageModel
from sae.lm.conformance import attention
from sae.lm.conformance.attention import Attention
from sae.lm.conformance.truth import Truth
from sae.lm.reach import sample_text
from sae.lm.sites import BLOCK_KINDS, HEADS
from tests.unit.sae.lm.conformance.conftest import Tiny


def recognised(lm: LanguageModel, swap: dict[str, str] | None = None) -> tuple[dict[str, str], dict[str, str]]:
    tokens = torch.tensor([sample_text(lm, 24)])
    found: dict[str, Tensor] = {kind: lm.activations(tokens, f"blocks.1.{kind}")[0] for kind in BLOCK_KINDS}
    found |= {kind: found[other] for kind, other in (swap or {}).items()}
    truth = Truth(lm)
    block = truth.block(truth.blocks(tokens)[1], tokens)
    block.recognise({kind: x for kind, x in found.items() if kind not in HEADS[:3]})
    return Attention(block, lm.bridge.cfg).recognise(found, tokens)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_the_sites_of_common_families_hold(tiny: Tiny, architecture: str) -> None:
    assert recognised(tiny(architecture)) == ({}, {})


def test_queries_under_the_name_of_values_are_found(tiny: Tiny) -> None:
    reasons, _ = recognised(tiny("GPT2LMHeadModel"), {"attn.hook_v": "attn.hook_q", "attn.hook_q": "attn.hook_k"})
    assert set(reasons) == {"attn.hook_q", "attn.hook_v"}
    assert all("as its name says" in reason for reason in reasons.values())


def test_another_place_is_found(tiny: Tiny) -> None:
    reasons, _ = recognised(tiny("LlamaForCausalLM"), {"ln1.hook_normalized": "ln2.hook_normalized",
                                                       "attn.hook_k": "hook_resid_pre"})
    assert set(reasons) == {"ln1.hook_normalized", "attn.hook_k"}


def test_a_wrong_number_of_heads_costs_single_heads(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.n_heads

    def wrong(cfg: Any, kind: str) -> int:
        return right(cfg, kind) // 4 if kind == "attn.hook_z" else right(cfg, kind)

    monkeypatch.setattr(attention, "n_heads", wrong)
    reasons, heads = recognised(tiny("GPT2LMHeadModel"))
    assert reasons == {}
    assert set(heads) == set(HEADS)
