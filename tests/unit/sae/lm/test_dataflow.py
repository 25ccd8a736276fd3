"""What enters and leaves modules, recorded on small ones, and the questions to it by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sae.lm.dataflow import (
    End,
    alike,
    entering,
    equal_to,
    first_tensor,
    linear_matrix,
    output_of,
    proportional,
    record,
    same,
)

T, D = 8, 4


class Small(nn.Module):
    """A block with a module that runs twice, and one that gives out other rows than tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.pooled = nn.Linear(D, D), nn.Tanh(), nn.AdaptiveAvgPool1d(2)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        self.pooled(torch.zeros(3, D))  # 6 numbers are not of 8 tokens
        return self.twice(self.twice(self.once(hidden_states))), None


def recorded() -> tuple[Small, Tensor, list[End]]:
    torch.manual_seed(0)
    block, x = Small(), torch.randn(2, T // 2, D)
    return block, x, record(block, lambda: block(hidden_states=x), T)


def test_the_ends_are_recorded_in_the_order_in_which_modules_run() -> None:
    block, x, ends = recorded()
    assert [(end.name, end.side) for end in ends] == [
        ("", "hook_in"), ("once", "hook_in"), ("once", "hook_out"), ("", "hook_out")]
    assert all(end.value_Tw.shape == (T, D) for end in ends)
    assert torch.equal(ends[0].value_Tw, x.reshape(T, D))
    assert torch.equal(ends[-1].value_Tw, block(x)[0].reshape(T, D))


def test_what_was_recorded_does_not_change_later() -> None:
    block, x = nn.Sequential(nn.Linear(D, D), nn.ReLU(inplace=True)), torch.randn(T, D)
    with torch.no_grad():
        ends = record(block, lambda: block(x), T)
        assert torch.equal(next(end.value_Tw for end in ends if end.name == "0" and end.side == "hook_out"),
                           block[0](x))


def test_no_hook_stays_after_a_failure() -> None:
    block = nn.Linear(D, D)
    with pytest.raises(ZeroDivisionError):
        record(block, lambda: 1 / 0, T)
    assert not block._forward_hooks
    assert not block._forward_pre_hooks


def test_the_hidden_states_are_found_among_arguments_and_results() -> None:
    x = torch.ones(2)
    assert first_tensor(x) is x
    assert first_tensor((None, [3, (x, torch.zeros(1))])) is x
    assert first_tensor({"x": x}) is None
    assert entering((x,), {"hidden_states": torch.zeros(1)}) is x
    assert entering((), {"hidden_states": x, "mask": torch.zeros(1)}) is x
    assert entering((), {}) is None


def test_tensors_are_the_same_but_for_rounding() -> None:
    x = torch.randn(T, D)
    off = x.clone()
    off[0] += 1
    assert same(x, x * (1 + 1e-6))
    assert not same(x, off)
    assert not same(x, x[:1])
    assert alike(x, off), "one token in eight may be off"
    off[1] += 1
    assert not alike(x, off)
    assert not alike(x, x[:, :2])


def test_places_are_found_by_value_and_side() -> None:
    block, x, ends = recorded()
    value = block.once(x).detach().reshape(T, D)
    assert [(end.name, end.side) for end in equal_to(ends, value, "hook_out")] == [("once", "hook_out")]
    assert list(equal_to(ends, value, "hook_in")) == []
    [(end, factor)] = proportional(ends, 3 * value, "hook_out")
    assert (end.name, factor) == ("once", pytest.approx(3))
    assert list(proportional(ends, value.flip(0), "hook_out")) == []
    found = output_of(ends, block.once)
    assert found is not None
    assert torch.equal(found, value)
    assert output_of(ends, block.twice) is None


def test_the_matrix_of_a_linear_module_does_not_depend_on_how_it_is_stored() -> None:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    linear, conv = nn.Linear(D, 6), Conv1D(6, D)
    assert torch.equal(linear_matrix(linear, D, cpu), linear.weight.T)
    assert torch.equal(linear_matrix(conv, D, cpu), conv.weight)
    two = nn.Sequential(nn.Linear(D, 5), nn.Linear(5, 6))
    expected = two[0].weight.T @ two[1].weight.T
    torch.testing.assert_close(linear_matrix(two, D, cpu), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="GELU is not linear"):
        linear_matrix(nn.GELU(), D, cpu)
