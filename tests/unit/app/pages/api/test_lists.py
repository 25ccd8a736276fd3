"""Tests of lists for programs."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.worker.cached_requests import CachedRequests
from tests.unit.app.conftest import BATCH
from tests.unit.app.fake_worker import FakeWorker


@pytest.fixture
def program(admin: TestClient, browsable: TestClient) -> TestClient:
    state = browsable.app.state  # type: ignore[attr-defined]
    state.worker = FakeWorker()
    state.cached_requests = CachedRequests(state.worker)
    return admin


def test_a_list_from_first_to_last(program: TestClient) -> None:
    made: Any = program.post("/api/lists", json={"name": "one", "test_text": "def f"}).json()
    place = f"/api/lists/{made['id']}"
    member = f"{place}/latents/{BATCH}/3"
    program.put(member, json={"note": "first"})
    assert program.put(member, json={}).json()["latents"][0]["note"] == "first"
    assert program.patch(place, json={"name": "two"}).json()["name"] == "two"
    assert [(row["name"], row["n"]) for row in program.get("/api/lists").json()] == [("two", 1)]
    (row,) = program.get(f"{place}/text").json()
    assert (row["latent"], "".join(row["tokens"][1:]), len(row["acts"])) == (3, "def f", len(row["tokens"]))
    assert row["n"] == sum(act > 0 for act in row["acts"][1:])
    assert program.get(f"{place}/text?text=other").json()[0]["tokens"][1:] != row["tokens"][1:]
    assert program.delete(f"{place}/latents/demo/gone/7").json()["n"] == 1  # not in it: no error
    assert program.delete(member).json()["latents"] == []
    assert program.delete(place).status_code == 204
    assert program.get(place).status_code == 404


@pytest.mark.parametrize(("body", "field"), [({"name": ""}, "name"), ({"name": "a", "x": 1}, "x")])
def test_a_fault_names_its_field(program: TestClient, body: dict[str, Any], field: str) -> None:
    answer = program.post("/api/lists", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_writing_needs_an_editor(program: TestClient) -> None:
    made = program.post("/api/lists", json={"name": "one"}).json()
    visitor = TestClient(program.app)
    assert visitor.get(f"/api/lists/{made['id']}").status_code == 200
    assert visitor.post("/api/lists", json={"name": "two"}).status_code == 401
    assert visitor.delete(f"/api/lists/{made['id']}").status_code == 401
