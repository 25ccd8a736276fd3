"""Tests of the choice of a place in forms, in the API, and of what pages show of clusters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.access import accounts
from app.db.tables import Run
from app.jobs.launchers import Cluster, Node
from app.jobs.launchers.local import LocalLauncher
from app.settings import Settings
from sae.workspace.files import write_json


@pytest.fixture
def cluster_admin(settings: Settings, launcher: LocalLauncher) -> Iterator[TestClient]:
    from app.main import create_app

    wide = settings.model_copy(update={"ray_address": "http://127.0.0.1:9", "slurm": True})
    with TestClient(create_app(wide, launcher=launcher, supervise=False), follow_redirects=False) as client:
        with client.app.state.sessions() as db:  # type: ignore[attr-defined]
            user = accounts.set_password(db, "ada", "correct horse")
            client.cookies.set(accounts.COOKIE, accounts.open_session(db, user, settings))
        yield client


def run_of(client: TestClient, run_id: str) -> Run:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        return db.get_one(Run, run_id)  # type: ignore[no-any-return]


def test_a_form_has_no_place_if_there_is_only_this_machine(admin: TestClient) -> None:
    assert 'name="launcher"' not in admin.get("/admin/train").text


def test_a_form_sends_a_run_to_a_cluster(cluster_admin: TestClient) -> None:
    page = cluster_admin.get("/admin/train").text
    assert 'name="launcher"' in page
    assert 'name="nodes"' in page
    sent = cluster_admin.post("/admin/train", data={"launcher": "slurm", "gpus": "8", "nodes": "2", "cpus": ""})
    assert sent.status_code == 303
    run = run_of(cluster_admin, sent.headers["location"].removeprefix("/runs/"))
    assert (run.launcher, run.resources) == ("slurm", {"cpus": 0, "gpus": 8, "nodes": 2})
    assert "on Slurm, 2 nodes, 8 GPUs" in cluster_admin.get(f"/runs/{run.id}").text
    again = cluster_admin.get(f"/admin/train?run={run.id}").text
    assert "<option selected>slurm</option>" in again


def test_a_mistake_is_shown_at_its_field(cluster_admin: TestClient) -> None:
    sent = cluster_admin.post("/admin/train", data={"launcher": "ray", "gpus": "many"})
    assert sent.status_code == 422
    assert 'id="error-gpus"' in sent.text
    assert "is not a whole number" in sent.text
    assert 'name="nodes"' not in cluster_admin.get("/admin/evaluate").text


def test_the_api_takes_a_place(cluster_admin: TestClient) -> None:
    answer = cluster_admin.post("/api/runs", json={"kind": "train", "place": {"launcher": "ray", "gpus": 1}})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["launcher"], answer.json()["waiting_for"]) == ("ray", None)
    refused = cluster_admin.post("/api/runs", json={"kind": "train", "place": {"launcher": "ray", "nodes": 0}})
    assert refused.status_code == 422


def test_the_admin_page_shows_the_clusters(cluster_admin: TestClient) -> None:
    supervisor = cluster_admin.app.state.supervisor  # type: ignore[attr-defined]
    supervisor.clusters = (
        Cluster("ray", "http://head:8265", nodes=(Node("head-1 (head)", "alive", (3.0, 16.0), (1.0, 8.0)),),
                waiting=(("saescope-x-1", "no <free> GPU"),)),
        Cluster("slurm", "sinfo", fault="squeue: Unable to contact slurm controller"))
    page = cluster_admin.get("/admin").text
    for words in ("3 of 16", "1 of 8", "saescope-x-1", "no &lt;free&gt; GPU", "Unable to contact slurm controller"):
        assert words in page


def test_a_run_that_waits_on_the_cluster_says_so(cluster_admin: TestClient) -> None:
    run_id = cluster_admin.post("/api/runs", json={"kind": "train", "place": {"launcher": "slurm"}}).json()["id"]
    with cluster_admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = db.get_one(Run, run_id)
        run.state, run.ref, run.waiting_for = "starting", "7", "a free place on the cluster"
        db.commit()
    page = cluster_admin.get(f"/runs/{run_id}").text
    assert "for a free place on the cluster" in page
    assert "loading torch" not in page


def test_kept_activations_are_listed_and_a_wrong_name_is_refused(admin: TestClient, settings: Settings) -> None:
    def refusal() -> str:
        sent = admin.post("/admin/train", data={"activations": "code-3m", "index": "yes"})
        assert sent.status_code == 422
        return sent.text

    assert "(there are: none yet)" in refusal()
    assert "Kept activations" not in admin.get("/admin").text
    write_json(settings.workspace.activations("code-2m") / "meta.json", {
        "model": "demo", "hooks": ["blocks.1.hook_resid_post"], "widths": [256], "tokens": 2_000_000,
        "context_length": 128})
    write_json(settings.workspace.activations("torn") / "meta.json", {})
    page = admin.get("/admin").text
    for words in ("code-2m", "blocks.1.hook_resid_post", "1 GB"):
        assert words in page
    assert "torn" not in page
    assert "(there are: code-2m)" in refusal()


def test_the_form_of_kept_activations_says_their_size_first(admin: TestClient) -> None:
    page = admin.get("/admin/activations/estimate", params={"layers": "0,1", "tokens": "1,000,000"}).text
    assert "GB on disk, or less" in page
    sent = admin.post("/admin/activations", data={"name": "code", "layers": "0,9"})
    assert sent.status_code == 422
    sent = admin.post("/admin/activations", data={"name": "code", "layers": "0,1", "tokens": "5000"})
    assert sent.status_code == 303
    assert "Keep activations of demo, layers 0, 1" in admin.get(sent.headers["location"]).text
