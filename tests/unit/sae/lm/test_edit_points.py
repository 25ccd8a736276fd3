"""Edits that are done at other hook points than their own, on numbers that stand for a block's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sae.lm.edit_points import Edit, in_order, middle_edit, normalized_edit
from sae.lm.norms import measure_norm, normalized

MID = "blocks.1.hook_resid_mid"


def through_block(edit: Edit, scale: float | None, middle: Tensor) -> Tensor:
    """Return what leaves a block that adds 2 · tanh of the stream, with an edit between attention and MLP."""
    points = dict(middle_edit(MID, edit, scale))
    mlp = torch.tanh(points[MID](middle))
    mlp = points.get("blocks.1.hook_mlp_out", lambda x: x)(mlp)
    return points["blocks.1.hook_resid_post"](middle + 2 * mlp)


def test_an_edit_between_attention_and_mlp_reaches_the_stream_and_the_mlp() -> None:
    middle = torch.randn(2, 3, 4)
    out = through_block(lambda x: 3 * x, 2.0, middle)
    torch.testing.assert_close(out, 3 * middle + 2 * torch.tanh(3 * middle))
    assert float(through_block(torch.zeros_like, 2.0, middle).abs().max()) == 0
    without = through_block(lambda x: 3 * x, None, middle)
    torch.testing.assert_close(without, 3 * middle + 2 * torch.tanh(3 * middle), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [2.0, None])
def test_what_an_edit_leaves_alone_keeps_its_bits(scale: float | None) -> None:
    middle = torch.randn(2, 3, 4)

    def first_text(x: Tensor) -> Tensor:
        out = x.clone()
        out[0] = 7
        return out

    out = through_block(first_text, scale, middle)
    assert torch.equal(out[1], (middle + 2 * torch.tanh(middle))[1])
    torch.testing.assert_close(out[0], (7 + 2 * torch.tanh(torch.tensor(7.0))).expand(3, 4))


def test_texts_that_some_models_lay_end_to_end_are_given_their_shape() -> None:
    points = dict(middle_edit(MID, lambda x: x + 1, 2.0))
    middle, mlp = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    points[MID](middle.reshape(6, 4))
    points["blocks.1.hook_mlp_out"](mlp.reshape(6, 4))
    torch.testing.assert_close(points["blocks.1.hook_resid_post"](middle + 2 * mlp), middle + 1 + 2 * mlp)


@torch.no_grad()
def test_an_edit_of_the_normalised_stream_passes_the_norms_gain() -> None:
    module = nn.LayerNorm(4, eps=1e-3)
    module.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    module.bias.fill_(0.3)
    x = torch.randn(2, 3, 4)
    points = dict(normalized_edit("blocks.1.ln2.hook_normalized", lambda n: 5 * n + 1,
                                  measure_norm(module, 4, x.device), 1e-3))
    kept = points["blocks.1.ln2.hook_in"](x)
    assert torch.equal(kept, x)
    out = points["blocks.1.ln2.hook_out"](module(kept))
    expected = (5 * normalized(x, centred=True, epsilon=1e-3) + 1) * module.weight + module.bias
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_hooks_at_one_place_are_attached_in_the_order_of_the_sites() -> None:
    """The middle's stream is kept after edits of the MLP's output, and completed before those of the block's."""
    def own(x: Tensor) -> Tensor:
        return x

    plain = {f"blocks.1.{kind}": [(f"blocks.1.{kind}", own)]
             for kind in ("hook_resid_post", "hook_mlp_out", "hook_mlp_in", "hook_attn_out")}
    middle = {MID: middle_edit(MID, torch.zeros_like, 1.0)}
    norm = measure_norm(nn.LayerNorm(4), 4, torch.device("cpu"))
    name = "blocks.1.ln2.hook_normalized"
    normal = {name: normalized_edit(name, torch.zeros_like, norm, 1e-5)}
    found = [(point.removeprefix("blocks.1."), edit is own) for point, edit in in_order(plain | middle | normal)]
    assert found == [
        ("hook_attn_out", True), ("hook_resid_mid", False), ("hook_mlp_in", True), ("ln2.hook_in", False),
        ("ln2.hook_out", False), ("hook_mlp_out", True), ("hook_mlp_out", False), ("hook_resid_post", False),
        ("hook_resid_post", True)]
    again = in_order(normal | middle | dict(reversed(plain.items())))
    assert [point.removeprefix("blocks.1.") for point, _ in again] == [point for point, _ in found]
