"""Tests of a run as it is shown: titles, states, curves, times."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Run
from app.jobs import queue
from app.pages.runs.run_views import STALE_S, RunView, curves, ordinal, rate_split
from sae.runs.folder import RunFolder, Status
from sae.runs.import_sae import UPLOAD
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


# ---- without a page


def shown(kind: str = "train", state: str = "running", status: Status | None = None, **changes: Any) -> RunView:
    values = {"id": "r-1", "kind": kind, "state": state, "spec": {}, "progress": 0.25, "requested_by": "ada",
              "started": None, "finished": None, "cancel_asked": None, "error": None, "sae_id": None, "created": 1.0}
    more = {name: changes.pop(name) for name in ("place", "checkpoint", "now") if name in changes}
    return RunView(Run(**{**values, **changes}), status, **more)


@pytest.mark.parametrize(("kind", "spec", "title"), [
    ("train", {"name": "x", "model": "demo", "layer": 2}, "Train x on demo, layer 2"),
    ("train", {"architecture": "topk", "n_latents": 64, "k": 4, "model": "demo", "layer": 1},
     "Train topk, L = 64, k = 4 on demo, layer 1"),
    ("sweep", {"architecture": ["topk", "relu"], "n_latents": [64, 128], "k": [4], "model": "demo", "layer": 1},
     "Train a grid (topk, relu; L = 64, 128; k = 4) on demo, layer 1"),
    ("compare", {"a": "demo/x", "b": "demo/y"}, "Compare demo/x with demo/y"),
    ("import", {"source": "/a/b/some-sae"}, "Import some-sae"), ("import", {"source": "/a/upload"}, "Import an upload"),
    ("import", {"source": "/a", "name": "n"}, "Import n"), ("bake", {}, "bake")])
def test_titles_say_what_a_run_does(kind: str, spec: dict[str, Any], title: str) -> None:
    if title == "Import an upload":
        spec = {"source": f"/a/{UPLOAD}"}
    assert shown(kind, spec=spec).title == title
    assert shown(kind, spec=spec, sae_id="demo/z").title.endswith("demo/z")


@pytest.mark.parametrize(("state", "more", "word"), [
    ("queued", {"place": 2}, "queued, 2nd"), ("queued", {}, "queued"), ("running", {}, "starting"),
    ("running", {"status": Status(state="running", done=5)}, "running"),
    ("running", {"status": Status(state="running", phase="a", phases=["a", "b"])}, "starting"),
    ("running", {"status": Status(state="running", phase="b", phases=["a", "b"])}, "running"),
    ("running", {"cancel_asked": 1.0}, "stopping"), ("failed", {"cancel_asked": 1.0}, "failed")])
def test_a_state_in_a_word(state: str, more: dict[str, Any], word: str) -> None:
    assert shown(state=state, **more).word == word


@pytest.mark.parametrize(("state", "cancel", "resume", "delete"), [
    ("queued", True, False, True), ("running", True, False, False), ("succeeded", False, False, True),
    ("failed", False, True, True), ("lost", False, True, True)])
def test_what_can_be_done_with_a_run(state: str, cancel: bool, resume: bool, delete: bool) -> None:
    run = shown(state=state)
    assert (run.can_cancel, run.can_resume, run.can_delete) == (cancel, resume, delete)
    assert not shown(state=state, cancel_asked=1.0).can_cancel


def test_a_setting_at_fault_is_not_helped_by_resuming_alone() -> None:
    run = shown(state="failed", error="k: too large")
    assert (run.fault, run.can_resume) == ("k", False)
    assert shown(state="failed", error="k: too large", checkpoint=True).can_resume
    assert shown(state="failed", error="MemoryError: 5").fault == ""
    assert shown(state="running", error="k: too large").fault == ""


def test_the_share_is_the_programs_while_it_runs() -> None:
    status = Status(state="running", overall=0.5)
    assert [shown(state=state, status=status).share for state in ("running", "failed", "succeeded")] == [0.5, 0.25, 1.0]


def test_phases_are_done_now_or_next() -> None:
    status = Status(state="running", phase="b", phases=["a", "b", "c"])
    assert shown(status=status).phases == [("a", "done"), ("b", "now"), ("c", "next")]
    assert {state for _, state in shown(state="succeeded", status=status).phases} == {"done"}
    assert shown().phases == []


def test_times_are_wall_clock_and_silence_is_mentioned() -> None:
    assert shown().seconds is None
    assert shown(started=10.0, now=25.0).seconds == 15.0
    assert shown(started=10.0, finished=12.0, now=25.0).seconds == 2.0
    status = Status(state="running", heartbeat=100.0)
    assert shown(status=status, now=100.0 + STALE_S).silent_s is None
    assert shown(status=status, now=101.0 + STALE_S).silent_s == 1.0 + STALE_S
    assert shown(state="failed", status=status, now=1e9).silent_s is None


def test_an_evaluation_says_what_it_could_not_measure() -> None:
    result = {"refused": {"absorption": "this model cannot spell"}}
    assert shown("evaluate", "succeeded", Status(state="succeeded", result=result)).refused == result["refused"]
    assert shown("train", "succeeded", Status(state="succeeded", result=result)).refused == {}
    assert shown("evaluate", "failed", Status(state="failed", result={"refused": 3})).refused == {}


def test_a_comparison_is_shown_once_it_is_whole() -> None:
    whole = {"a": "x", "b": "y", "mmcs_a": 0.5, "mmcs_b": 0.25}
    assert shown("compare", "succeeded", Status(state="succeeded", result=whole)).comparison == whole
    assert shown("compare", "running", Status(state="running", result=whole)).comparison is None
    assert shown("compare", "succeeded", Status(state="succeeded", result={"a": "x"})).comparison is None
    assert shown("train", "succeeded", Status(state="succeeded", result=whole)).comparison is None


def test_curves_leave_out_what_has_no_values() -> None:
    rows: list[dict[str, Any]] = [
        {"tokens": 10, "fvu": 0.5, "loss": 0.4, "sparsity_loss": 0.0, "l0_deciles": [1]}, {"tokens": None, "fvu": 0.1},
        {"tokens": 20, "fvu": 0.25, "loss": None}]
    found = [str(chart) for chart in curves(rows)]
    assert [name in chart for name, chart in zip(("FVU", "L0", "loss"), found, strict=True)] == [True] * 3
    assert "its sparsity part" not in found[2], "it is zero throughout"
    assert "9th decile" not in found[1]
    assert len(curves(rows, first=1)) == 1
    assert "<table" not in curves(rows, table=False)[0]
    assert curves([]) == []


def test_one_member_of_a_sweep_has_the_times_of_all() -> None:
    rows = [{"tokens": 1000 * (i // 2 + 1), "member": i % 2, "tokens_per_s": 100.0, "lm_share": 0.25} for i in range(6)]
    assert rate_split(rows) == pytest.approx((0.25, 0.75))
    assert rate_split([{"tokens": 5}, {}]) is None
