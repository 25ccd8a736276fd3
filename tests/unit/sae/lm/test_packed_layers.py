"""Packed layers compute the same as the layers that they replace, for any number of rows to the same bits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sae.lm import packed_layers
from sae.lm.packed_layers import PackedLinear, pack


def model_of(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).requires_grad_(False).eval()


@pytest.mark.parametrize(("width", "inner", "out"), [(1024, 1000, 1001), (256, 704, 256)])
@torch.no_grad()
def test_numbers_are_the_same_and_bits_do_not_depend_on_the_rows(width: int, inner: int, out: int) -> None:
    torch.manual_seed(0)
    model = model_of(nn.Linear(width, inner, bias=False), Conv1D(out, inner), nn.Linear(out, 7))
    x = torch.randn(16, 1, width)
    expected = model(x)
    assert pack(model) == 4 * (width * inner + inner * out)
    assert [type(layer) for layer in model] == [PackedLinear, PackedLinear, nn.Linear]  # the last is too small
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    many = model[0](x)
    for n in (1, 2, 3, 4, 8):
        assert torch.equal(model[0](x[:n]), many[:n])
    order = torch.randperm(16)
    assert torch.equal(model[0](x[order]), many[order])


def test_the_largest_layers_are_packed_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [1000, 1100, 1300, 1200]
    model = model_of(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    monkeypatch.setattr(packed_layers, "_MOST_BYTES", 4 * 1300 * 1200 + 4 * 1000 * 1100)
    assert pack(model) == 4 * 1300 * 1200 + 4 * 1000 * 1100
    assert [type(layer) for layer in model] == [PackedLinear, nn.Linear, PackedLinear]


def test_other_formats_stay_as_they_are() -> None:
    model = model_of(nn.Linear(1000, 1000, dtype=torch.bfloat16))
    assert pack(model) == 0
    assert type(model[0]) is nn.Linear
