"""The plain model's own sites and edits, and what is said of sites that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.truth import Block, Truth
from sae.lm.sites import BLOCK_KINDS, NO_LOGITS
from tests.unit.sae.lm.conformance.conftest import Tiny

KINDS = [kind for kind in BLOCK_KINDS if kind not in NO_LOGITS]  # the others are recognised by `Attention`
TOKENS = torch.tensor([[0, 40, 41, 77, 5, 9, 130, 12, 8, 60, 61, 62, 90, 91, 92, 33]])


@pytest.fixture
def lm(tiny: Tiny) -> LanguageModel:
    return tiny("LlamaForCausalLM")


@pytest.fixture
def truth(lm: LanguageModel) -> Truth:
    return Truth(lm)


@pytest.fixture
def block(truth: Truth) -> Block:
    return truth.block(truth.blocks(TOKENS)[1], TOKENS)


def sites(lm: LanguageModel, layer: int = 1) -> dict[str, Tensor]:
    """Return the sites of a block as the program has them."""
    values = lm.activations_at(TOKENS, [f"blocks.{layer}.{kind}" for kind in KINDS])
    return {kind: value[0] for kind, value in zip(KINDS, values, strict=True)}


def test_the_plain_model_is_another_one_with_the_same_logits(lm: LanguageModel, truth: Truth) -> None:
    assert truth.model is not lm.plain()
    torch.testing.assert_close(truth.logits(TOKENS), lm.logits(TOKENS)[0], rtol=1e-4, atol=1e-4)


def test_the_blocks_are_those_that_feed_each_other(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    assert truth.blocks(TOKENS) == list(truth.model.model.layers)
    monkeypatch.setattr(truth.model.model, "layers", nn.ModuleList(list(truth.model.model.layers)[:-1]))
    with pytest.raises(UserError, match="does not run its blocks once") as error:
        truth.blocks(TOKENS)
    assert error.value.field == "model"


def test_every_site_of_a_common_block_is_recognised(lm: LanguageModel, block: Block) -> None:
    assert block.recognise(sites(lm)) == {}
    assert set(block.places) == set(KINDS)
    assert block.factors == {"hook_attn_out": pytest.approx(1, abs=1e-3), "hook_mlp_out": pytest.approx(1, abs=1e-3)}
    torch.testing.assert_close(block.entering, sites(lm)["hook_resid_pre"])
    torch.testing.assert_close(block.leaving, sites(lm)["hook_resid_post"])


@pytest.mark.parametrize("kind", KINDS)
def test_other_numbers_at_a_site_are_refused_with_the_reason(lm: LanguageModel, block: Block, kind: str) -> None:
    found = sites(lm)
    found[kind] = found[kind].flip(0)
    reasons = block.recognise(found)
    assert reasons[kind]
    assert kind not in block.places


def test_the_sites_of_another_block_do_not_fit(lm: LanguageModel, block: Block) -> None:
    reasons = block.recognise(sites(lm, layer=2))
    assert set(reasons) == set(KINDS)
    assert block.places == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_the_plain_model_is_the_programs_and_leaves_no_hook(
    lm: LanguageModel, truth: Truth, block: Block, kind: str
) -> None:
    block.recognise(sites(lm))
    before = truth.logits(TOKENS)
    edit: Callable[[Tensor], Tensor] = lambda x: 0.7 * x + 0.1  # noqa: E731
    edited = block.edited_logits(kind, edit, TOKENS)
    assert not torch.allclose(edited, before, atol=1e-3)
    torch.testing.assert_close(edited, lm.logits(TOKENS, {f"blocks.1.{kind}": edit})[0], rtol=1e-3, atol=1e-3)
    assert torch.equal(truth.logits(TOKENS), before)
