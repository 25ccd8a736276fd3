"""Tests of the estimate of a run that measures an SAE."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.library.catalog import Catalog
from app.pages.runs.evaluate_cost import evaluate_cost, machine_speed
from sae.evaluation.registry import ENTRIES
from sae.evaluation.results import StoredResult, write_result
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, write_sae


@pytest.fixture
def known(workspace: Workspace, catalog: Catalog, engine: Engine) -> Catalog:
    write_sae(workspace, BATCH)
    catalog.sync()
    return catalog


def seconds(said: str | None) -> list[float]:
    """Return both ends of the estimate."""
    units = {"s": 1, "min": 60, "h": 3600}
    spans = re.match("About (.+) to (.+), and", said or "")
    assert spans is not None, said
    return [sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) (s|min|h)", span))
            for span in spans.groups()]


def test_more_measures_seeds_and_tokens_take_longer(known: Catalog) -> None:
    def of(**values: object) -> float:
        return seconds(evaluate_cost({"sae": BATCH, **values}, known))[1]

    assert of() < of(seeds=3) < of(measures="all", seeds=3)
    assert of(eval_tokens=1000) < of()
    assert of(measures="probing") < of(measures="probing", labels="sae-probes")
    assert "GB of memory" in (evaluate_cost({"sae": BATCH}, known) or "")


def test_measures_made_here_tell_the_speed(known: Catalog, workspace: Workspace) -> None:
    before = seconds(evaluate_cost({"sae": BATCH}, known))
    write_result(workspace.sae(BATCH), StoredResult("core", seconds=20 * ENTRIES["core"].seconds, seeds=(0, 1)))
    said = evaluate_cost({"sae": BATCH}, known)
    assert "from the measures made in this workspace" in (said or "")
    assert machine_speed(known) == (pytest.approx(10), True)
    assert seconds(said)[0] > before[1]


def test_no_estimate(known: Catalog, workspace: Workspace) -> None:
    assert evaluate_cost({"sae": "demo/none"}, known) is None
    assert evaluate_cost({"sae": BATCH, "measures": "x"}, known) is not None
    write_sae(workspace, "gpt/one", model={"name": "openai/none", "id": "gpt"})
    known.sync()
    assert "not on this machine" in (evaluate_cost({"sae": "gpt/one"}, known) or "")


def test_the_form_shows_it(admin: TestClient, workspace: Workspace) -> None:
    write_sae(workspace, BATCH)
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    html = admin.get("/admin/evaluate", params={"sae": BATCH}).text
    assert "Estimated cost" in html
    assert "About " in html
    assert f"saescope evaluate --sae {BATCH}" in html
