"""The pages of runs, and what an administrator may do there."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.jobs import queue
from app.pages.runs.run_views import AUTOMATIC
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.runs.fake_runs import PHASES, run_in


def test_a_run_that_goes(client: TestClient, workspace: Workspace) -> None:
    run_id = run_in(client, workspace, "running", **PHASES)
    page = client.get(f"/runs/{run_id}").text
    for shown in (
        '<li class="done">text', '<li aria-current="step">training', "2 k of 10 k tokens", "950 tokens/s",
        "about 3 min 10 s left", "FVU", "L0", "dead latents", "25% in the language model", "training &lt;script&gt;",
        "x&lt;b&gt;",
    ):
        assert shown in page
    assert "reading" not in page  # overwritten by the line's second half, as in a terminal
    assert 'action="/runs' not in page  # signed out: nothing to press
    live = client.get(f"/runs/{run_id}/live")
    assert live.status_code == 200
    assert "<html" not in live.text
    assert f'hx-get="/runs/{run_id}/live"' in live.text
    said = client.get(f"/api/runs/{run_id}").json()
    assert (said["progress"], said["phase"], said["eta_s"]) == (0.3, "training", 190.0)


@pytest.mark.parametrize("part", ["live", "card"])
def test_polling_stops_when_the_run_has_ended(client: TestClient, workspace: Workspace, part: str) -> None:
    run_id = run_in(client, workspace, "succeeded", **PHASES)
    answer = client.get(f"/runs/{run_id}/{part}")
    assert answer.status_code == 286
    assert "hx-get" not in answer.text


def test_a_run_that_succeeded_leads_to_its_sae(admin: TestClient, workspace: Workspace) -> None:
    client = admin
    run_id = run_in(client, workspace, "succeeded", **PHASES)
    write_sae(workspace, "demo/x")
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        queue.transition(db, run_id, {"succeeded"}, sae_id="demo/x")
    page = client.get(f"/runs/{run_id}").text
    assert 'href="/demo/x"' in page
    assert "Build its index" in page


def test_pages_without_a_folder(client: TestClient, workspace: Workspace) -> None:
    import shutil

    for state in ("queued", "running", "failed"):
        run_id = run_in(client, workspace, state)
        shutil.rmtree(workspace.run(run_id))
        for path in ("", "/live", "/card", "/log.txt"):
            assert client.get(f"/runs/{run_id}{path}").status_code in (200, 286)
    assert client.get("/runs").text.count("<tr>") == 4  # and the head


def test_the_list_and_its_moving_part(client: TestClient, workspace: Workspace) -> None:
    assert "No run yet" in client.get("/runs").text
    first, second = run_in(client, workspace), run_in(client, workspace)
    page = client.get("/runs").text
    assert page.index(second) < page.index(first)
    part = client.get("/runs", headers={"HX-Request": "true"}).text
    assert "<html" not in part
    assert 'hx-trigger="every 3s"' in part


def test_cancel_resume_delete(admin: TestClient, workspace: Workspace) -> None:
    run_id = run_in(admin, workspace)
    page = admin.get(f"/runs/{run_id}").text
    assert f'action="/runs/{run_id}/cancel"' in page
    assert admin.post(f"/runs/{run_id}/cancel").headers["location"] == f"/runs/{run_id}"
    assert admin.get(f"/api/runs/{run_id}").json()["state"] == "cancelled"
    assert admin.post(f"/api/runs/{run_id}/cancel").status_code == 409
    assert admin.post(f"/runs/{run_id}/resume").status_code == 303
    assert admin.get(f"/api/runs/{run_id}").json()["state"] == "queued"
    assert admin.post(f"/runs/{run_id}/delete").headers["location"] == f"/runs/{run_id}/delete"
    assert "Keep</a>" in admin.get(f"/runs/{run_id}/delete").text
    assert admin.post(f"/runs/{run_id}/delete", data={"sure": "yes"}).headers["location"] == "/runs"
    assert admin.get(f"/runs/{run_id}").status_code == 404
    assert not workspace.run(run_id).exists()


def test_a_going_run_is_not_deleted_and_an_ended_one_not_resumed(admin: TestClient, workspace: Workspace) -> None:
    going = run_in(admin, workspace, "running", **PHASES)
    assert admin.post(f"/runs/{going}/delete", data={"sure": "yes"}).status_code == 409
    assert admin.post(f"/api/runs/{going}/cancel").json()["cancelling"] is True
    assert RunFolder(workspace.run(going)).cancel_requested()
    assert admin.post(f"/runs/{going}/resume").status_code == 409  # not before it has stopped
    ended = run_in(admin, workspace, "succeeded", **PHASES)
    assert admin.post(f"/runs/{ended}/resume").status_code == 409


def test_a_cancelled_run_is_reopened_for_its_program(admin: TestClient, workspace: Workspace) -> None:
    run_id = run_in(admin, workspace, "cancelled")
    folder = RunFolder(workspace.run(run_id))
    folder.write_status(Status(state="cancelled", overall=0.3))
    folder.request_cancel()
    admin.post(f"/runs/{run_id}/resume")
    status = folder.status()
    assert status is not None
    assert (status.state, status.overall) == ("interrupted", 0.3)
    assert not folder.cancel_requested()


def test_the_list_says_how_long_why_and_where_in_the_queue(client: TestClient, workspace: Workspace) -> None:
    failed, first, second = run_in(client, workspace, "failed"), run_in(client, workspace), run_in(client, workspace)
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        queue.transition(db, failed, {"failed"}, error="k: too large", finished=91.0)
        queue.transition(db, second, {"queued"}, requested_by=AUTOMATIC)
    page = client.get("/runs").text
    for shown in ("k: too large", "1 min 30 s", "queued, 1st", "queued, 2nd", "run-failed", "demo (automatic)"):
        assert shown in page, shown
    assert "/admin/train" not in page  # signed out
    assert first in page


def test_only_administrators_are_offered_to_train(admin: TestClient) -> None:
    assert "/admin/train" in admin.get("/runs").text
    assert "/admin/train" not in TestClient(admin.app).get("/runs").text
