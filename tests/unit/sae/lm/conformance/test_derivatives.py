"""A map to the logits is compared with the real end of the model: the right one agrees, and changed ones do not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sae.lm.bridge import LanguageModel
from sae.lm.conformance.derivatives import agrees
from sae.lm.conformance.truth import Block, Truth
from sae.lm.sites import EMBED, KINDS
from tests.unit.sae.lm.conformance.conftest import Tiny

TOKENS = torch.tensor([[0, 40, 41, 77, 5, 9, 130, 12, 8, 60, 61, 62, 90, 91, 92, 33]])
LISTED = ("attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")


@dataclass
class Case:
    lm: LanguageModel
    truth: Truth
    last: nn.Module
    block: Block

    def agrees(self, kind: str, lists_wV: Tensor) -> bool:
        return agrees(self.truth, self.last, self.block, kind, lists_wV, TOKENS)

    def lists(self, kind: str) -> Tensor:
        return self.lm.unembedding(f"blocks.1.{kind}")


def case_of(lm: LanguageModel) -> Case:
    truth = Truth(lm)
    blocks = truth.blocks(TOKENS)
    block = truth.block(blocks[1], TOKENS)
    kinds = [kind for kind in KINDS if kind != EMBED]  # which is in no block
    values = lm.activations_at(TOKENS, [f"blocks.1.{kind}" for kind in kinds])
    assert block.recognise({kind: value[0] for kind, value in zip(kinds, values, strict=True)}) == {}
    return Case(lm, truth, blocks[-1], block)


# Gemma 2 has norms after attention and MLP, and a soft cap of the logits; GPT-2's norms subtract the mean.
@pytest.fixture(params=["LlamaForCausalLM", "Gemma2ForCausalLM", "GPT2LMHeadModel"])
def case(request: pytest.FixtureRequest, tiny: Tiny) -> Case:
    return case_of(tiny(request.param))


def test_the_programs_maps_agree_and_those_of_the_wrong_order_do_not(case: Case) -> None:
    for kind in LISTED:
        lists = case.lists(kind)
        assert case.agrees(kind, lists), kind
        assert not case.agrees(kind, lists.flip(0)), kind
        assert not case.agrees(kind, torch.randn_like(lists)), kind


def test_a_gain_or_a_mean_that_is_left_out_shows(tiny: Tiny) -> None:
    case = case_of(tiny("GPT2LMHeadModel"))
    lists = case.lists("hook_resid_post")
    gain = torch.linspace(0.9, 1.1, len(lists))[:, None]
    assert not case.agrees("hook_resid_post", lists * gain)
    assert not case.agrees("hook_resid_post", lists * 1.1)
    assert not case.agrees("hook_resid_post", lists + 0.1 * lists.std() * torch.randn(lists.shape[1]))


def test_the_model_is_as_before(tiny: Tiny) -> None:
    case = case_of(tiny("LlamaForCausalLM"))
    before = case.truth.logits(TOKENS)
    for kind in LISTED:
        case.agrees(kind, case.lists(kind))
    assert torch.equal(case.truth.logits(TOKENS), before)
