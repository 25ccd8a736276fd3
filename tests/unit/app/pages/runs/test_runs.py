"""The pages of runs, and what an administrator may do there."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Sae
from app.jobs import queue
from app.pages.explore.sae_views import training_rows
from app.pages.runs.run_views import AUTOMATIC, ordinal, rate_split
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae


def _run(client: TestClient, workspace: Workspace, state: str = "queued", **status: object) -> str:
    """A run in `state`, whose program (not really there) has said `status`."""
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "train", {"model": "demo", "layer": 2, "name": "x<b>"}, "ada")
        if state != "queued":
            queue.transition(db, run.id, {"queued"}, state=state, started=1.0)
    if status:
        folder = RunFolder(workspace.run(run.id))
        folder.write_status(Status(**{"state": "running", **status}))  # type: ignore[arg-type]
        for step in range(3):
            folder.append_progress({
                "phase": "training", "tokens": 1000 * step, "fvu": 0.5 - 0.1 * step, "l0": 32, "dead": 0.1,
                "tokens_per_s": 900, "lm_share": 0.25})
        folder.log.write_text("reading\rtraining <script>\n")
    return run.id


PHASES = {"phases": ["text", "training", "index"], "phase": "training", "done": 2000, "total": 10_000, "overall": 0.3,
          "rate": 950.0, "eta_s": 190.0}


def test_a_run_that_goes(client: TestClient, workspace: Workspace) -> None:
    run_id = _run(client, workspace, "running", **PHASES)
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


def test_every_metric_of_a_row_has_its_curve(client: TestClient, workspace: Workspace) -> None:
    run_id = _run(client, workspace, "running", **PHASES)
    RunFolder(workspace.run(run_id)).append_progress({
        "phase": "training", "tokens": 4000, "fvu": 0.2, "l0": 30.5, "l0_deciles": [9, 12, 15, 20, 25, 31, 37, 44, 61],
        "dead": 0.1, "loss": 0.4, "sparsity_loss": 0.1, "lr": 1e-3, "theta": 0.25, "coefficient": 0.5,
        "tokens_per_s": 900, "lm_tokens_per_s": 4000, "sae_tokens_per_s": 1200, "lm_share": 0.25})
    page = client.get(f"/runs/{run_id}/live").text
    for shown in ("1st decile", "9th decile", "its sparsity part", "language model alone", "SAE alone", "learning rate",
                  "θ", "sparsity coefficient", "61"):
        assert shown in page


def test_a_sweep_shows_its_saes_as_they_train_and_as_they_were_measured(
    client: TestClient, workspace: Workspace
) -> None:
    spec = {"architecture": ["topk", "relu"], "n_latents": [64, 128], "k": [4, 8], "l1_coefficient": [0.5]}
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "sweep", spec, "ada")
        queue.transition(db, run.id, {"queued"}, state="running", started=1.0)
    folder = RunFolder(workspace.run(run.id))
    for step in (1, 2):
        for member in range(6):
            folder.append_progress({
                "phase": "training", "step": step, "member": member, "tokens": 1000 * step,
                "fvu": 0.5 - 0.03125 * member, "l0": 4.0 + member, "dead": 0.125, "tokens_per_s": 900,
                "lm_share": 0.25})
    folder.append_progress({"phase": "training", "step": 3, "member": 5, "error": "lr: no longer a number"})
    folder.write_status(Status(**{"state": "running", **PHASES}))  # type: ignore[arg-type]
    page = client.get(f"/runs/{run.id}").text
    for shown in ("6 SAEs", "k = 4", "λ = 0.5", "0.4688", "no longer a number", "training batches", "L = 128",
                  "25% in the language model", "topk, relu; L = 64, 128"):
        assert shown in page, shown
    members = [{"name": f"demo/m{i}", "sae": f"demo/m{i}", "metrics": {
        "fvu": 0.25, "l0": 7.5, "delta_ce": 0.0625, "dead": 3, "dead_fraction": 0.046875}} for i in range(6)]
    folder.write_status(Status(**{**PHASES, "state": "running", "result": {"members": members}}))  # type: ignore[arg-type]
    write_sae(workspace, "demo/m3")
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    page = client.get(f"/runs/{run.id}/live").text
    assert 'href="/demo/m4"' not in page  # no longer there
    for shown in ('href="/demo/m3"', "0.2500", "0.062", "4.7%", "held-out text"):
        assert shown in page, shown
    one = Sae(id="demo/m3", config={"run": run.id})
    assert [row["fvu"] for row in training_rows(one, workspace)] == [0.5 - 3 * 0.03125] * 2  # its own rows alone


@pytest.mark.parametrize("part", ["live", "card"])
def test_polling_stops_when_the_run_has_ended(client: TestClient, workspace: Workspace, part: str) -> None:
    run_id = _run(client, workspace, "succeeded", **PHASES)
    answer = client.get(f"/runs/{run_id}/{part}")
    assert answer.status_code == 286
    assert "hx-get" not in answer.text


def test_a_run_that_succeeded_leads_to_its_sae(admin: TestClient, workspace: Workspace) -> None:
    client = admin
    run_id = _run(client, workspace, "succeeded", **PHASES)
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
        run_id = _run(client, workspace, state)
        shutil.rmtree(workspace.run(run_id))
        for path in ("", "/live", "/card", "/log.txt"):
            assert client.get(f"/runs/{run_id}{path}").status_code in (200, 286)
    assert client.get("/runs").text.count("<tr>") == 4  # and the head


def test_the_list_and_its_moving_part(client: TestClient, workspace: Workspace) -> None:
    assert "No run yet" in client.get("/runs").text
    first, second = _run(client, workspace), _run(client, workspace)
    page = client.get("/runs").text
    assert page.index(second) < page.index(first)
    part = client.get("/runs", headers={"HX-Request": "true"}).text
    assert "<html" not in part
    assert 'hx-trigger="every 3s"' in part


def test_cancel_resume_delete(admin: TestClient, workspace: Workspace) -> None:
    run_id = _run(admin, workspace)
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
    going = _run(admin, workspace, "running", **PHASES)
    assert admin.post(f"/runs/{going}/delete", data={"sure": "yes"}).status_code == 409
    assert admin.post(f"/api/runs/{going}/cancel").json()["cancelling"] is True
    assert RunFolder(workspace.run(going)).cancel_requested()
    assert admin.post(f"/runs/{going}/resume").status_code == 409  # not before it has stopped
    ended = _run(admin, workspace, "succeeded", **PHASES)
    assert admin.post(f"/runs/{ended}/resume").status_code == 409


def test_a_cancelled_run_is_reopened_for_its_program(admin: TestClient, workspace: Workspace) -> None:
    run_id = _run(admin, workspace, "cancelled")
    folder = RunFolder(workspace.run(run_id))
    folder.write_status(Status(state="cancelled", overall=0.3))
    folder.request_cancel()
    admin.post(f"/runs/{run_id}/resume")
    status = folder.status()
    assert status is not None
    assert (status.state, status.overall) == ("interrupted", 0.3)
    assert not folder.cancel_requested()


def test_a_failed_run_offers_what_helps(admin: TestClient, workspace: Workspace) -> None:
    """A wrong setting: its form, at the field.  Anything else: again, from the checkpoint where there is one."""
    run_id = _run(admin, workspace, "failed")
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        queue.transition(db, run_id, {"failed"}, error="text: /no/where is not a file")
    page = admin.get(f"/runs/{run_id}").text
    assert 'id="resume"' not in page
    assert f'href="/admin/train?run={run_id}#f-text"' in page
    form = admin.get(f"/admin/train?run={run_id}").text
    assert "/no/where is not a file" in form
    assert 'name="name" aria-describedby="help-name" value="x&lt;b&gt;"' in form
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        queue.transition(db, run_id, {"failed"}, error="MemoryError: 5")
    assert "Try again</button>" in admin.get(f"/runs/{run_id}").text
    folder = RunFolder(workspace.run(run_id))
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.checkpoints / "train.pt").touch()
    assert "Resumes from the last checkpoint." in admin.get(f"/runs/{run_id}").text
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        queue.transition(db, run_id, {"failed"}, error="text: the hub cannot be reached")
    assert ">Resume</button>" in admin.get(f"/runs/{run_id}").text  # the work up to there is not lost


@pytest.mark.parametrize(("kind", "spec", "address"), [
    ("train", {"k": 7, "name": "x"}, "/admin/train?run="), ("sweep", {"k": [7, 9]}, "/admin/sweep?run="),
    ("index", {"sae": "demo/x", "index_tokens": 7777}, "/admin/index?run="),
    ("evaluate", {"sae": "demo/x", "eval_tokens": 7777}, "/admin/evaluate?run="),
    ("import", {"source": "/a/7777"}, "/admin/import?run="),
    ("compare", {"a": "demo/x", "b": "demo/7777"}, "/compare?a=demo%2Fx&amp;b=demo%2F7777")])
def test_every_finished_run_can_be_started_again_with_changes(
    admin: TestClient, workspace: Workspace, kind: str, spec: dict[str, object], address: str
) -> None:
    write_sae(workspace, "demo/x")
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, kind, spec, "ada")  # type: ignore[arg-type]
        queue.transition(db, run.id, {"queued"}, state="succeeded", sae_id="demo/x")
    page = admin.get(f"/runs/{run.id}").text
    assert "Run again with changes" in page
    assert f'href="{address}' in page
    if kind != "compare":
        form = admin.get(f"{address}{run.id}").text
        assert re.search(r'value="[^"]*7[^"]*"', form)
        assert 'value="x"' not in form  # the name is taken by what it made


def test_a_starting_run_says_so(client: TestClient, workspace: Workspace) -> None:
    for status in ({}, {"phases": ["text", "training"], "phase": "text", "message": "loading demo"}):
        page = client.get(f"/runs/{_run(client, workspace, 'running', **status)}").text
        assert "<strong>starting</strong>" in page
        assert "loading torch" in page


def test_the_list_says_how_long_why_and_where_in_the_queue(client: TestClient, workspace: Workspace) -> None:
    failed, first, second = _run(client, workspace, "failed"), _run(client, workspace), _run(client, workspace)
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


def test_the_time_before_the_first_step_counts_as_the_language_models() -> None:
    rows = [{"tokens": 1000 * (i + 1), "tokens_per_s": 100.0, "lm_share": 0.0} for i in range(300)]
    assert rate_split(rows) == (0.0, 1.0)
    rows[0]["lm_fill_s"] = 1000.0
    split = rate_split(rows)
    assert split is not None
    assert split[0] == pytest.approx(0.25)


@pytest.mark.parametrize(("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (11, "11th"), (22, "22nd")])
def test_places_are_ordinals(number: int, text: str) -> None:
    assert ordinal(number) == text
