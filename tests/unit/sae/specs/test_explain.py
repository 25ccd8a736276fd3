"""The settings of explanations: who is asked, what is scored, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from sae.errors import UserError
from sae.specs.explain import ExplainSpec
from sae.specs.registry import parse_spec


def spec(**values: Any) -> ExplainSpec:
    parsed = parse_spec("explain", {"sae": "demo/one", **values})
    assert isinstance(parsed, ExplainSpec)
    return parsed


def test_a_rule_asks_no_model_unless_a_scorer_does() -> None:
    assert (spec().scored_by, spec().asks_model) == ((), False)
    assert not spec(scorers="output").asks_model
    assert not spec(scorers="embedding", embedding_model="folder").asks_model
    for scorer in ("detection", "fuzzing", "simulation", "intruder"):
        assert spec(scorers=scorer).asks_model


def test_a_model_is_scored_by_detection_and_fuzzing_unless_others_are_named() -> None:
    assert spec(explainer="endpoint").scored_by == ("detection", "fuzzing")
    assert spec(explainer="endpoint").asks_model
    assert spec(explainer="endpoint", scorers="intruder, output,intruder").scored_by == ("intruder", "output")


@pytest.mark.parametrize(("values", "field"), [
    ({"explainer": "local"}, "model"),
    ({"budget_money": 1}, "budget_money"),
    ({"scorers": "guessing"}, "scorers"), ({"explainer": "oracle"}, "explainer"), ({"positives": 2}, "positives"),
    ({"sae": "no-slash"}, "sae"), ({"answer_tokens": 15}, "answer_tokens"), ({"latents": ""}, "latents")])
def test_what_contradicts_itself_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as refused:
        spec(**values)
    assert str(refused.value.field).startswith(field)


def test_a_limit_in_money_needs_one_price() -> None:
    assert spec(budget_money=1, price_out=2).budget_money == 1
    assert spec(budget_money=1, price_in=2).price_in == 2
