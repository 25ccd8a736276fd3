"""Requests are checked before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import UserError
from sae.lm.model_info import find_model
from sae.lm.prompts import prompt_length
from sae.steering.request import (
    Intervention,
    SteerRequest,
    check_room,
    norm_ratio,
    parse_request,
    typical_scale,
)


def request(**changes: Any) -> dict[str, Any]:
    latent = {"sae": "demo/x", "layer": 2, "latent": 3, "max_act": 4.0, **changes.pop("latent", {})}
    return {"model": "demo", "prompt": "x", "interventions": [latent], **changes}


@pytest.mark.parametrize(("changes", "field"), [
    ({"prompt": ""}, "prompt"),
    ({"latent": {"strength": float("nan")}}, "interventions.0.strength"),
    ({"latent": {"strength": 1e9}}, "interventions.0.strength"),
    ({"latent": {"latent": -1}}, "interventions.0.latent"),
    ({"latent": {"mode": "erase"}}, "interventions.0.mode"),
    ({"latent": {"max_act": float("inf")}}, "interventions.0.max_act"),
    ({"sampling": {"length": 513}}, "sampling.length"),
    ({"sampling": {"top_p": 0}}, "sampling.top_p"),
    ({"where": {"positions": "here"}}, "where.positions"),
    ({"interventions": []}, "interventions"),
    ({"unknown": 1}, "unknown"),
])
def test_a_fault_names_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as error:
        parse_request(request(**changes))
    assert error.value.field == field


def test_a_latent_twice_and_too_many_are_refused() -> None:
    one = request()["interventions"][0]
    with pytest.raises(UserError, match="appears twice"):
        parse_request(request(interventions=[one, one]))
    with pytest.raises(UserError, match="at most 16"):
        parse_request(request(interventions=[{**one, "latent": n} for n in range(17)]))


@given(st.sampled_from(["add", "clamp", "scale", "ablate", "remove"]), st.floats(-100, 100), st.floats(0, 1e4))
def test_requests_survive_json(mode: Any, strength: float, max_act: float) -> None:
    one = Intervention(sae="demo/x", layer=1, latent=0, mode=mode, strength=strength, max_act=max_act)
    made = SteerRequest(model="demo", prompt="é\n", interventions=(one,))
    assert SteerRequest.model_validate_json(made.model_dump_json()) == made
    # The activation after the edit is target + (1 + gain)·a, whatever the mode means.
    a = 2.5
    after = {"add": a + strength * max_act, "clamp": strength * max_act, "scale": strength * a, "ablate": 0.0}
    if mode in after:
        assert one.target + (1 + one.gain) * a == pytest.approx(after[mode])
    else:
        assert (one.target, one.gain) == (0.0, 0.0)


def test_the_norm_ratio_belongs_to_the_added_vector() -> None:
    assert norm_ratio(-6.0, typical_scale("none", 12.0, 256), 12.0) == 0.5
    # Under layer norm a residual of norm 32 in 256 dimensions has components of size 2.
    assert norm_ratio(8.0, typical_scale("layer_norm", 32.0, 256), 32.0) == 0.5
    assert norm_ratio(1.0, 1.0, 0.0) is None


def test_room_in_the_context() -> None:
    check_room(200, 56, 256, "demo")
    with pytest.raises(UserError, match="56 at most"):
        check_room(200, 57, 256, "demo")


def test_prompt_tokens_are_counted_as_the_model_reads_them(demo_lm: Any) -> None:
    for prompt in ("def main(", "é 日本\n\n\tx", "<|endoftext|>", " "):
        assert prompt_length(find_model("demo"), prompt) == 1 + len(demo_lm.encode(prompt))
