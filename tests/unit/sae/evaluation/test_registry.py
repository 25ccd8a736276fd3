"""Tests of the registry: every measure that a run can name exists, and says what its numbers mean."""

from __future__ import annotations

import inspect

import pytest

from sae.evaluation.registry import ENTRIES, load_measure
from sae.specs.evaluate import MEASURES, EvaluateSpec

SETTINGS = EvaluateSpec(sae="a/b", eval_tokens=2_000, ce_tokens=500).model_dump()


def test_runs_can_name_every_measure_in_order() -> None:
    assert list(ENTRIES) == list(MEASURES)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_satisfies_the_contract(name: str) -> None:
    measure, definitions = load_measure(name, SETTINGS)
    assert measure.name == name
    assert list(inspect.signature(measure.refuse).parameters) == ["subject"]
    assert list(inspect.signature(measure.run).parameters) == ["subject", "progress"]
    assert definitions
    assert all(said.endswith(".") and not key.startswith("_") for key, said in definitions.items())
    for argument, setting in ENTRIES[name].sizes.items():
        assert getattr(measure, argument) == SETTINGS[setting]


def test_an_unknown_name_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        load_measure("nothing", SETTINGS)
