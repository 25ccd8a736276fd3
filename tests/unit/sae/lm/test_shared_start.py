"""Passes that share their first blocks give the logits of whole passes to the last bit, or are not used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae.lm.bridge import LanguageModel
from sae.lm.shared_start import SharedStart
from tests.toys import ToyModel

TOKENS_PS = torch.arange(32).view(2, 16)


def halved(x_PSD: Tensor) -> Tensor:
    return torch.cat([x_PSD[:, :1], x_PSD[:, 1:] / 2], dim=1)


@pytest.mark.parametrize(("hooks", "blocks"), [
    (["blocks.2.hook_resid_post"], 3), (["blocks.3.hook_resid_post"], 3), (["blocks.2.attn.hook_z"], 2),
    (["blocks.3.hook_mlp_in", "blocks.1.hook_resid_post"], 2), (["blocks.1.hook_resid_pre"], 1)])
def test_edited_logits_are_the_same(
    demo_lm: LanguageModel, hooks: list[str], blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, edits = SharedStart(demo_lm, hooks), dict.fromkeys(hooks, halved)
    assert start.works(TOKENS_PS[:1], edits)
    clean_PSV, output = start.clean(TOKENS_PS)
    assert torch.equal(clean_PSV, demo_lm.logits(TOKENS_PS))
    passed: list[Any] = []
    handles = [block.mlp.register_forward_hook(lambda *_: passed.append(1)) for block in demo_lm.bridge.blocks]
    found_PSV = start.edited(TOKENS_PS, edits, output)
    for handle in handles:
        handle.remove()
    assert len(passed) == demo_lm.info.n_layers - blocks
    assert torch.equal(found_PSV, demo_lm.logits(TOKENS_PS, edits))  # the model is whole again
    assert not torch.equal(found_PSV, clean_PSV)


def test_it_does_not_work_without_a_block_before_the_edit_or_if_a_block_gives_more_than_its_output(
    demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = {"blocks.0.hook_mlp_out": halved}
    assert not SharedStart(demo_lm, list(edits)).works(TOKENS_PS, edits)
    assert not SharedStart(ToyModel(), list(edits)).works(TOKENS_PS, edits)  # type: ignore[arg-type]
    edits = {"blocks.2.hook_resid_post": halved}
    start = SharedStart(demo_lm, list(edits))
    plain = start.clean
    monkeypatch.setattr(start, "clean", lambda tokens_PS: (plain(tokens_PS)[0], plain(tokens_PS)[1] * 1.001))
    assert not start.works(TOKENS_PS, edits)
