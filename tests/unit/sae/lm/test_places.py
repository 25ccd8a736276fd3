"""Hook points as ends of the plain model's modules: read and edited there as on the bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.dataflow import record
from sae.lm.places import Place, Places, _attach, _searched
from sae.lm.sites import BLOCK_KINDS

TOKENS = torch.tensor([[0, 17, 300, 42, 9]])


@pytest.fixture(scope="module")
def plain(demo_lm: LanguageModel) -> Any:
    return demo_lm.plain()


@pytest.fixture(scope="module")
def places(demo_lm: LanguageModel, plain: Any) -> Places:
    return Places(demo_lm, plain, lambda tokens: plain(input_ids=tokens, use_cache=False))


@pytest.mark.parametrize("kind", BLOCK_KINDS)
@torch.no_grad()
def test_a_site_is_read_and_edited_as_on_the_bridge(
    demo_lm: LanguageModel, plain: Any, places: Places, kind: str
) -> None:
    hook, seen = f"blocks.1.{kind}", []
    before = plain(input_ids=TOKENS).logits

    def edit(x: Tensor) -> Tensor:
        seen.append(x.reshape(TOKENS.numel(), -1).clone())
        return x * 0.7 + 0.1

    with places.hooked({hook: edit}, (1, TOKENS.numel())):
        found = plain(input_ids=TOKENS).logits
    (expected,) = demo_lm.activations_at(TOKENS, [hook])
    torch.testing.assert_close(seen[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, demo_lm.logits(TOKENS, {hook: edit}), rtol=1e-4, atol=1e-3)
    assert torch.equal(plain(input_ids=TOKENS).logits, before), "no hook stays"


def test_a_place_is_looked_for_once(demo_lm: LanguageModel, plain: Any) -> None:
    times: list[int] = []

    def run(tokens: Tensor) -> Any:
        times.append(tokens.numel())
        return plain(input_ids=tokens, use_cache=False)

    fresh = Places(demo_lm, plain, run)
    assert fresh.find("blocks.0.hook_mlp_out") is fresh.find("blocks.0.hook_mlp_out")
    assert len(times) == 1


def test_a_site_whose_numbers_no_module_has_is_refused(demo_lm: LanguageModel, plain: Any) -> None:
    with pytest.raises(UserError, match=r"cannot be steered at blocks\.1\.hook_mlp_out") as error:
        Places(demo_lm, plain, lambda tokens: plain(input_ids=tokens + 1, use_cache=False)).find(
            "blocks.1.hook_mlp_out")
    assert error.value.field == "site"


def test_the_first_module_that_takes_a_value_in_comes_before_the_last_that_gives_it_out() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Tanh())
    x = torch.randn(8, 4)
    ends = record(block, lambda: block(x), 8)
    middle, last = block[0](x).detach(), block(x).detach()
    assert _searched(ends, middle) == Place(block[1], "hook_in")
    assert _searched(ends, last) == Place(block, "hook_out")
    found = _searched(ends, 3 * last)
    assert found is not None
    assert (found.module, found.end, found.factor) == (block, "hook_out", pytest.approx(3))
    assert _searched(ends, last.flip(0)) is None


class Block(nn.Module):
    def forward(self, hidden_states: Tensor) -> tuple[Tensor, str]:
        return hidden_states, "cache"


@pytest.mark.parametrize(("end", "factor"), [("hook_in", 1.0), ("hook_out", 1.0), ("hook_in", 4.0), ("hook_out", 4.0)])
@pytest.mark.parametrize("call", [lambda block, x: block(x), lambda block, x: block(hidden_states=x)])
def test_an_edit_sees_the_sites_numbers_and_leaves_the_rest(
    end: str, factor: float, call: Callable[[nn.Module, Tensor], Any]
) -> None:
    block, x = Block(), torch.randn(2, 3)

    def zero_first(values: Tensor) -> Tensor:
        assert torch.equal(values, factor * x)
        out = values.clone()
        out[0] = 8
        return out

    handle = _attach(Place(block, end, factor), zero_first)
    out, cache = call(block, x)
    handle.remove()
    assert cache == "cache"
    assert torch.equal(out[0], torch.full((3,), 8 / factor))
    assert torch.equal(out[1], x[1])
