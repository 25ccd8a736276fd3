"""Tests of models, SAEs and labels for programs."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae

SAE = "demo/2-res-batchtopk-4k"
LABEL = f"/api/saes/{SAE}/latents/3/label"


@pytest.fixture
def program(admin: TestClient, workspace: Workspace) -> TestClient:
    write_sae(workspace, SAE)
    write_sae(workspace, "other/0-one")
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    return admin


def test_models_have_their_saes(program: TestClient) -> None:
    assert [(one["model"], one["saes"]) for one in program.get("/api/models").json()] == [
        ("demo", [SAE]), ("other", ["other/0-one"])]


def test_an_sae_that_is_not_here_is_404_with_its_neighbours(program: TestClient) -> None:
    assert program.get(f"/api/saes/{SAE}").json()["n_latents"] == 4096
    missing = program.get("/api/saes/demo/none")
    assert (missing.status_code, f"/{SAE}" in missing.json()["nearest"]) == (404, True)
    assert program.get(f"/api/saes/{SAE}/latents/9999/label").status_code == 404


def test_a_label_that_is_not_there_has_version_0(program: TestClient) -> None:
    assert program.get(LABEL).json() == {
        "sae": SAE, "latent": 3, "text": "", "note": "", "tags": [], "starred": False, "author": "", "updated": None,
        "version": 0, "earlier": []}


def test_a_change_leaves_the_rest_and_a_stale_one_stores_nothing(program: TestClient) -> None:
    program.put(LABEL, json={"text": "one", "tags": ["b", "a, c"], "starred": True})
    second = program.put(LABEL, json={"note": "a note", "version": 1}).json()
    assert (second["text"], second["note"], second["tags"], second["starred"], second["version"]) == (
        "one", "a note", ["a", "b", "c"], True, 2)
    stale = program.put(LABEL, json={"text": "two", "version": 1})
    assert (stale.status_code, stale.json()["theirs"]["version"]) == (409, 2)
    assert program.get(LABEL).json()["text"] == "one"
    assert [one["latent"] for one in program.get(f"/api/saes/{SAE}/labels").json()] == [3]


@pytest.mark.parametrize("body", [{"text": "x" * 201}, {"text": 1}, {"version": -1}, {"words": "x"}])
def test_a_fault_names_its_field(program: TestClient, body: dict[str, object]) -> None:
    answer = program.put(LABEL, json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, next(iter(body)))
