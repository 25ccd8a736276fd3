"""The JSON interface."""

from __future__ import annotations

import html
import json
import re

import pytest
from fastapi.testclient import TestClient

from app.pages.runs.api import EXAMPLES
from sae.runs.folder import RunFolder
from sae.specs.registry import SPECS, PartSpec, TrainSpec
from sae.workspace.paths import Workspace
from tests import FIXTURES
from tests.unit.app.conftest import write_sae


def test_saes(client: TestClient, workspace: Workspace) -> None:
    assert client.get("/api/saes").json() == []
    write_sae(workspace, metrics={"fvu": 0.2})
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert client.get("/api/saes").json() == [{
        "model": "demo", "sae": "2-res-batchtopk-4k", "architecture": "batch_topk", "n_latents": 4096, "k": 32,
        "layer": 2, "hook": "blocks.2.hook_resid_post", "url": "/demo/2-res-batchtopk-4k", "build": None,
        "metrics": {"fvu": 0.2}, "note": "", "hidden": False}]


def test_create_and_read_a_run(admin: TestClient, workspace: Workspace) -> None:
    created = admin.post("/api/runs", json={"kind": "train", "spec": {"k": 16}})
    assert created.status_code == 201
    run = created.json()
    assert (run["state"], run["progress"], run["url"]) == ("queued", 0.0, f"/runs/{run['id']}")
    assert RunFolder(workspace.run(run["id"])).spec() == ("train", TrainSpec(k=16).model_dump())
    assert [one["id"] for one in admin.get("/api/runs").json()] == [run["id"]]
    RunFolder(workspace.run(run["id"])).append_progress({"phase": "training", "tokens": 1})
    assert admin.get(f"/api/runs/{run['id']}/curves").json() == [{"phase": "training", "tokens": 1}]
    assert admin.post(f"/api/runs/{run['id']}/cancel").json()["state"] == "cancelled"


def test_bad_runs_name_the_field_and_store_nothing(admin: TestClient) -> None:
    for body, field in (
        ({"kind": "bake"}, "kind"), ({"kind": "train", "spec": {"k": 0}}, "k"),
        ({"kind": "train", "spec": {"layer": 77}}, "layer"), ({"kind": "train", "spec": {"colour": 1}}, "colour"),
        ({"kind": "index", "spec": {"sae": "demo/none"}}, "sae"),
    ):
        answer = admin.post("/api/runs", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert admin.get("/api/runs").json() == []


def test_every_kind_of_run_is_started_and_described(admin: TestClient, workspace: Workspace) -> None:
    for sae_id in ("demo/2-res-batchtopk-4k", "demo/2-res-topk-4k"):
        write_sae(workspace, sae_id)
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    page = html.unescape(admin.get("/api/docs").text).partition('id="settings"')[2]
    assert set(EXAMPLES) == {kind for kind in SPECS if SPECS[kind] is not PartSpec}, "parts are queued with their run"
    folder = FIXTURES / "saes" / "saelens" / "jumprelu"
    for kind, body in EXAMPLES.items():
        assert json.loads(re.findall(r"<pre[^>]*>(\{.*\})</pre>", page)[list(EXAMPLES).index(kind)]) == body
        for name in SPECS[kind].model_fields:
            assert f"<code>{name}</code>" in page
        if kind == "import":
            facts = {"model": "demo", "hook": "blocks.2.hook_resid_post", "source": str(folder)}
            body = {"kind": kind, "spec": facts}
        answer = admin.post("/api/runs", json=body)
        assert answer.status_code == 201, answer.text
        assert RunFolder(workspace.run(answer.json()["id"])).spec()[0] == kind


@pytest.mark.parametrize(("body", "field"), [
    ({"kind": "import", "spec": {"source": "/nowhere"}}, "source"), ({"kind": "import"}, "source"),
    ({"kind": "compare", "spec": {"a": "demo/x", "b": "demo/y"}}, "a"),
    ({"kind": "compare", "spec": {"a": "demo/x", "b": "demo/x"}}, "b"),
    ({"kind": "sweep", "spec": {"k": [9000]}}, "k"), ({"kind": "train", "spec": {"text": "/nowhere.txt"}}, "text"),
    ({"kind": "train", "spec": {"text": "\ud800"}}, "text")])
def test_what_cannot_run_is_refused(admin: TestClient, body: dict[str, object], field: str) -> None:
    answer = admin.post("/api/runs", content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert admin.get("/api/runs").json() == []


def test_the_interface_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]
    assert {"/api/saes", "/api/runs", "/api/runs/{run_id}", "/api/runs/{run_id}/cancel"} <= described.keys()
    page = client.get("/api/docs")
    assert page.status_code == 200
    assert "POST /api/runs/{run_id}/cancel" in page.text
