"""Tests of a run as it is shown: titles, states, curves, times."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from app.jobs import queue
from app.pages.runs.run_views import ordinal, rate_split
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.runs.fake_runs import PHASES, run_in


def test_every_metric_of_a_row_has_its_curve(client: TestClient, workspace: Workspace) -> None:
    run_id = run_in(client, workspace, "running", **PHASES)
    RunFolder(workspace.run(run_id)).append_progress({
        "phase": "training", "tokens": 4000, "fvu": 0.2, "l0": 30.5, "l0_deciles": [9, 12, 15, 20, 25, 31, 37, 44, 61],
        "dead": 0.1, "loss": 0.4, "sparsity_loss": 0.1, "lr": 1e-3, "theta": 0.25, "coefficient": 0.5,
        "tokens_per_s": 900, "lm_tokens_per_s": 4000, "sae_tokens_per_s": 1200, "lm_share": 0.25})
    page = client.get(f"/runs/{run_id}/live").text
    for shown in ("1st decile", "9th decile", "its sparsity part", "language model alone", "SAE alone", "learning rate",
                  "θ", "sparsity coefficient", "61"):
        assert shown in page


def test_a_failed_run_offers_what_helps(admin: TestClient, workspace: Workspace) -> None:
    """A wrong setting: its form, at the field.  Anything else: again, from the checkpoint where there is one."""
    run_id = run_in(admin, workspace, "failed")
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
        page = client.get(f"/runs/{run_in(client, workspace, 'running', **status)}").text
        assert "<strong>starting</strong>" in page
        assert "loading torch" in page


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
