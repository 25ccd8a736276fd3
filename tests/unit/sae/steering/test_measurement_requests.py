"""Requests for measurements are checked before anything is loaded, and a fault names its field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from sae.errors import UserError
from sae.steering.measurement_requests import (
    AblationRequest,
    InspectRequest,
    ReadoutRequest,
    ScoreRequest,
    SweepRequest,
)
from sae.steering.request import SteerRequest, column_key, parse

ONE = {"sae": "demo/x", "layer": 2, "latent": 3, "max_act": 4.0}
STEER = {"model": "demo", "prompt": "x", "interventions": [ONE]}
INSPECT = {"model": "demo", "saes": ["demo/x"]}
ABLATE = {"model": "demo", "sae": "demo/x", "latent": 1}
SCORE = {"model": "demo", "sae": "demo/x"}


@pytest.mark.parametrize(("kind", "values", "field"), [
    (SteerRequest, {**STEER, "prompt": ""}, "prompt"),
    (SteerRequest, {**STEER, "chat": [{"role": "user", "content": "x"}]}, "chat"),
    (SteerRequest, {**STEER, "prompt": "", "chat": [{"role": "assistant", "content": "x"}]}, "chat"),
    (SteerRequest, {**STEER, "prompt": "", "chat": [{"role": "user", "content": ""}]}, "chat.0.content"),
    (SteerRequest, {**STEER, "interventions": [{**ONE, "latent": n} for n in range(50)]}, "interventions"),
    (SteerRequest, {**STEER, "interventions": [ONE, ONE]}, "interventions.1.latent"),
    (SteerRequest, {**STEER, "interventions": [{**ONE, "strength": float("nan")}]}, "interventions.0.strength"),
    (SteerRequest, {**STEER, "sampling": {"length": -1}}, "sampling.length"),
    (SteerRequest, {**STEER, "sampling": {"repetition_penalty": 0}}, "sampling.repetition_penalty"),
    (SteerRequest, {**STEER, "sampling": {"stop": [""]}}, "sampling.stop.0"),
    (SteerRequest, {**STEER, "samples": 9}, "samples"),
    (SteerRequest, {**STEER, "columns": ["steered", "steered"]}, "columns"),
    (SweepRequest, {"request": STEER, "strengths": [1, 1]}, "strengths"),
    (SweepRequest, {"request": STEER, "strengths": [1e9]}, "strengths.0"),
    (SweepRequest, {"request": STEER, "strengths": [1], "place": 1}, "place"),
    (SweepRequest, {"request": {**STEER, "interventions": [{**ONE, "mode": "ablate"}]}, "strengths": [1]}, "place"),
    (SweepRequest, {"request": {**STEER, "prompt": ""}, "strengths": [1]}, "request.prompt"),
    (ReadoutRequest, {"request": STEER, "top": 0}, "top"),
    (InspectRequest, INSPECT, "texts"),
    (InspectRequest, {**INSPECT, "texts": [""]}, "texts.0"),
    (InspectRequest, {**INSPECT, "texts": ["x"], "ids": [[0, 1]]}, "texts"),
    (InspectRequest, {**INSPECT, "texts": ["x"], "saes": ["a", "a"]}, "saes"),
    (InspectRequest, {**INSPECT, "texts": ["x"] * 3}, "texts"),
    (AblationRequest, {**ABLATE, "contexts": []}, "contexts"),
    (AblationRequest, {**ABLATE, "contexts": [[0]]}, "contexts.0"),
    (ScoreRequest, {**SCORE, "latents": [1, 2], "max_acts": [1.0]}, "max_acts"),
    (ScoreRequest, {**SCORE, "latents": [-1], "max_acts": [1.0]}, "latents.0"),
])
def test_a_fault_names_its_field(kind: type[BaseModel], values: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as error:
        parse(kind, values)
    assert error.value.field == field
    assert str(error.value).count("\n") == 0


def test_a_sweep_is_a_request_for_every_cell() -> None:
    two = [ONE, {**ONE, "latent": 7, "strength": 0.5}]
    sweep = parse(SweepRequest, {"request": {**STEER, "interventions": two, "samples": 3}, "strengths": [-1, 2]})
    cells = sweep.cells()
    assert [cell.columns for cell in cells] == [("baseline",), ("steered",), ("steered",)]
    assert [cell.interventions[0].strength for cell in cells] == [1, -1, 2]
    assert {cell.interventions[1].strength for cell in cells} == {0.5}
    assert {cell.samples for cell in cells} == {1}


def test_texts_are_named_by_column_and_sample() -> None:
    request = parse(SteerRequest, {**STEER, "samples": 2})
    assert request.keys() == ["baseline", "steered", "baseline.2", "steered.2"]
    assert column_key("control", 0) == "control"
