"""Faults in plain words, with limits that the pydantic models state."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sae.faults import faults, takes
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import Intervention, Sampling, SteeredPositions, SteerRequest

LATENT = {"sae": "demo/x", "layer": 2, "latent": 3, "max_act": 4.0}


@pytest.mark.parametrize(("path", "words"), [
    (("samples",), "a whole number from 1 to 8"),
    (("sampling", "temperature"), "a number from 0 to 5"),
    (("sampling", "top_p"), "a number above 0 and at most 1"),
    (("sampling", "stop"), "at most 4"),
    (("sampling", "stop", 0), "at least 1 and at most 64 characters"),
    (("interventions", 2, "strength"), "a number from −100 to 100"),
    (("interventions", 2, "latent"), "a whole number of 0 or more"),
    (("interventions", 2, "mode"), "one of: add, clamp, scale, ablate, remove"),
    (("where", "positions"), "one of: all, output, from"),
    (("prompt",), "at most 50,000 characters"),
    (("interventions",), "at least 1 and at most 16"),
    (("where", "special"), ""),
    (("nothing", "here"), ""),
    ((), ""),
])
def test_a_field_takes_what_its_model_says(path: tuple[str | int, ...], words: str) -> None:
    assert takes(SteerRequest, path) == words


def test_every_fault_is_named_with_its_path() -> None:
    values: dict[str, Any] = {
        "model": "demo", "prompt": "x", "interventions": [LATENT, {**LATENT, "latent": 4, "strength": "much"}],
        "sampling": {"top_p": "0", "length": "1.5", "top_k": "9" * 5000, "stop": ["a"] * 5}, "samples": 9, "odd": 1}
    with pytest.raises(ValidationError) as caught:
        SteerRequest.model_validate(values)
    assert {fault.field: fault.words for fault in faults(caught.value, SteerRequest)} == {
        "interventions.1.strength": "must be a number from −100 to 100",
        "sampling.top_p": "must be a number above 0 and at most 1",
        "sampling.length": "must be a whole number from 1 to 512",
        "sampling.top_k": "must be a whole number from 0 to 1,000,000",
        "sampling.stop": "must be at most 4; 5 are given",
        "samples": "must be a whole number from 1 to 8",
        "odd": "is not a known setting"}
    assert faults(caught.value, SteerRequest)[1].about("Top-p") == "Top-p must be a number above 0 and at most 1"
    assert faults(caught.value)[0].about("strength") == "strength must be a number"  # without a model, no limits


def test_a_rule_about_several_fields_names_the_one_at_fault() -> None:
    twice = {"model": "demo", "prompt": "x", "interventions": [LATENT, LATENT]}
    with pytest.raises(ValidationError) as caught:
        SteerRequest.model_validate(twice)
    (fault,) = faults(caught.value, SteerRequest)
    assert fault.path == ("interventions", 1, "latent")
    assert fault.about("Latent").startswith("latent 3 of demo/x appears twice")
    with pytest.raises(ValidationError) as caught:
        SweepRequest.model_validate({"request": {**twice, "interventions": [LATENT]}, "strengths": [1, 1]})
    (fault,) = faults(caught.value, SweepRequest)
    assert (fault.field, fault.words) == ("strengths", "give each strength once")


def test_a_missing_value_is_said_to_be_missing() -> None:
    with pytest.raises(ValidationError) as caught:
        Intervention.model_validate({"sae": "demo/x", "layer": 0, "max_act": 1})
    assert [(f.field, f.words) for f in faults(caught.value, Intervention)] == [("latent", "is missing")]


def test_the_limits_are_those_that_the_models_enforce() -> None:
    Sampling(top_p=0.001, temperature=5, length=512)
    SteeredPositions(positions="from", start=1_000_000)
    for wrong in ({"top_p": 0}, {"temperature": 5.1}, {"length": 513}):
        with pytest.raises(ValidationError):
            Sampling.model_validate(wrong)
