"""The curves of several runs over each other."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from app.jobs import queue
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests.unit.app.pages.html import page, text_of
from tests.unit.app.pages.runs.fake_runs import PHASES, run_in


def sweep_in(client: TestClient, workspace: Workspace) -> str:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "sweep", {
            "model": "demo", "architecture": ["topk", "batch_topk"], "n_latents": [64], "k": [8]}, "ada")
    folder = RunFolder(workspace.run(run.id))
    for step in range(2):
        for member in range(2):
            folder.append_progress({"phase": "training", "step": step, "member": member, "tokens": 1000 * step,
                                    "fvu": 0.4 + member, "l0": 8})
    return run.id


def test_runs_and_members_are_lines_of_one_chart(client: TestClient, workspace: Workspace) -> None:
    one, two = (run_in(client, workspace, "succeeded", **PHASES) for _ in range(2))
    sweep = sweep_in(client, workspace)
    html = page(client, f"/runs/curves?line={one}&line={two}&line={sweep}:1")
    fvu = html[html.index("<figcaption>FVU"):].partition("</figure>")[0]
    assert fvu.count("<polyline") == 3
    assert f"batch_topk, L = 64, k = 8 ({sweep})" in fvu
    assert "1.4" in fvu
    assert len(re.findall(r'name="line" value="[^"]*" checked', html)) == 3
    differing = html[html.index("Settings that differ"):].partition("</table>")[0]
    assert "batch_topk" in differing
    assert "x<b>" not in html
    assert f'href="/runs/curves?line={one}"' in page(client, f"/runs/{one}")


def test_a_sweep_without_member_means_its_first(client: TestClient, workspace: Workspace) -> None:
    sweep = sweep_in(client, workspace)
    html = page(client, f"/runs/curves?line={sweep}")
    assert f'value="{sweep}:0" checked' in html
    assert 'href="/runs/curves"' in page(client, "/runs")


def test_what_cannot_be_drawn_is_said(client: TestClient, workspace: Workspace) -> None:
    assert "There is no training run yet." in text_of(page(client, "/runs/curves"))
    runs = [run_in(client, workspace) for _ in range(5)]
    html = page(client, "/runs/curves?" + "&".join(f"line={run}" for run in runs))
    assert "the charts show the first 4 of 5 runs" in text_of(html)
    assert "No curves have been written yet." in html
    assert "None: the runs have the same settings." in html
    assert "line: there is no training run" in text_of(page(client, "/runs/curves?line=nonsense", 422))
