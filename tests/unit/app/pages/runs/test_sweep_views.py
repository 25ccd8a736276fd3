"""Tests of a sweep on its run's page: its SAEs and the trade-off of FVU and L0."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from app.db.tables import Sae
from app.jobs import parts, queue
from app.jobs.places import Place
from app.pages.explore.sae_views import training_rows
from app.pages.runs.sweep_views import members, trade_offs
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.runs.fake_runs import PHASES


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
    made = [{"name": f"demo/m{i}", "sae": f"demo/m{i}", "metrics": {
        "fvu": 0.25, "l0": 7.5, "delta_ce": 0.0625, "dead": 3, "dead_fraction": 0.046875}} for i in range(6)]
    folder.write_status(Status(**{**PHASES, "state": "running", "result": {"members": made}}))  # type: ignore[arg-type]
    write_sae(workspace, "demo/m3")
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    page = client.get(f"/runs/{run.id}/live").text
    assert 'href="/demo/m4"' not in page  # no longer there
    for shown in ('href="/demo/m3"', "0.2500", "0.062", "4.7%", "held-out text"):
        assert shown in page, shown
    one = Sae(id="demo/m3", config={"run": run.id})
    assert [row["fvu"] for row in training_rows(one, workspace)] == [0.5 - 3 * 0.03125] * 2  # its own rows alone


def test_a_sweep_in_parts_shows_them_and_their_curves(client: TestClient, workspace: Workspace) -> None:
    spec = {"architecture": ["topk"], "n_latents": [64, 128], "k": [4], "parts": 2}
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "sweep", spec, "ada", place=Place("ray")).id
        one, other = parts.ids_of(db, run)
        queue.transition(db, one, {"queued"}, state="succeeded", started=1.0, finished=61.0)
        queue.transition(db, other, {"queued"}, state="running", started=1.0, progress=0.5)
    RunFolder(workspace.run(one)).create("sweep-part", {"run": run, "part": 1})
    RunFolder(workspace.run(one)).append_progress(
        {"phase": "training", "step": 1, "member": 0, "tokens": 1000, "fvu": 0.3125, "l0": 4.0, "dead": 0.0})
    page = client.get(f"/runs/{run}").text
    for shown in ("1 of 2 parts done", "2 parts", f'href="/runs/{other}"', "0.3125", "Progress of part 2",
                  '<progress class="bar" max="1" value="0.7500"', "when its parts have ended"):
        assert shown in page, shown
    assert "Train a grid, part 2" in client.get(f"/runs/{other}").text


# ---- without a page


SPEC = {"architecture": ["topk", "relu"], "n_latents": [64, 128], "k": [4], "l1_coefficient": [0.5]}
ROWS: list[dict[str, Any]] = [{"member": 0, "tokens": 1, "fvu": 0.5, "l0": 4.0, "dead": 0.25},
        {"member": 0, "tokens": 2, "fvu": 0.25, "l0": 4.5},
        {"member": 1, "tokens": 1, "error": "lr: no longer a number"}]


def test_members_are_in_the_order_of_the_settings() -> None:
    found = members("sweep", SPEC, ROWS, None)
    assert [(m.architecture, m.n_latents, m.knob) for m in found] == [
        ("topk", 64, "k = 4"), ("topk", 128, "k = 4"), ("relu", 64, "λ = 0.5"), ("relu", 128, "λ = 0.5")]
    assert (found[0].fvu, found[0].l0, found[0].measured, found[0].sae) == (0.25, 4.5, False, None)
    assert "polyline" in found[0].curve
    assert found[1].error == "lr: no longer a number"
    assert (found[2].fvu, found[2].curve) == (None, "")
    assert members("train", SPEC, ROWS, None) == []


def test_measures_replace_what_training_said() -> None:
    status = Status(state="running", result={"members": [
        {"sae": "demo/a", "metrics": {"fvu": 0.125, "l0": 5.0, "dead_fraction": 0.5, "delta_ce": 0.25}},
        {"error": "too many dead"}]})
    first, second, third, _ = members("sweep", SPEC, ROWS, status)
    assert (first.sae, first.fvu, first.dead, first.delta_ce, first.measured) == ("demo/a", 0.125, 0.5, 0.25, True)
    assert second.error == "too many dead"
    assert (third.sae, third.error) == (None, None)


def test_long_curves_are_thinned() -> None:
    rows = [{"member": 0, "tokens": i, "fvu": 1 / (i + 1)} for i in range(1000)]
    curve = members("sweep", SPEC, rows, None)[0].curve
    assert 20 <= curve.count(",") <= 40


def test_each_size_has_a_chart_with_a_line_for_each_architecture() -> None:
    rows = [{"member": i, "tokens": 1, "fvu": 0.5, "l0": 4.0} for i in range(3)]
    charts = trade_offs(members("sweep", SPEC, rows, None))
    assert ["L = 64" in chart for chart in charts] == [True, False]
    assert [chart.count("<polyline") for chart in charts] == [2, 1], "what is not measured is left out"
