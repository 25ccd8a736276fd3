"""Two SAEs compared: the form, what is refused, the page, its JSON, and the way to it from the run."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from app.jobs import queue
from sae.runs.folder import RunFolder, Status
from sae.store.comparison import comparison_path, write_comparison
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, sae_config, write_sae


def compared(workspace: Workspace) -> None:
    """A comparison of the two SAEs: latent i of one is nearest to latent i // 2 of the other, and so on."""
    first, _ = sorted((BATCH, TOP))
    rows = [{"side": side, "latent": i, "fires": 10 + i, "others": [i // 2, 3], "cosines": [0.9 - i / 200, 0.1],
             "mate": i // 2 if i % 3 else -1, "phi": 0.5} for side in (0, 1) for i in range(160)]
    write_comparison(comparison_path(workspace, BATCH, TOP), {
        "a": first, "b": TOP if first == BATCH else BATCH, "model": "demo", "tokens": 1000, "text": "stdlib",
        "mmcs_a": 0.41, "mmcs_b": 0.52, "command": "saescope compare", "run": "r"}, pa.Table.from_pylist(rows))


def test_nothing_to_compare_is_said(client: TestClient) -> None:
    assert "Two SAEs of one language model are needed" in client.get("/compare").text


def test_not_compared_yet(admin: TestClient, browsable: TestClient) -> None:
    address = f"/compare?a={BATCH}&b={TOP}"
    page = browsable.get(address).text
    assert "have not been compared yet" in page
    assert "Compare them now" in page
    assert browsable.get(f"/compare.json?a={BATCH}&b={TOP}").status_code == 404
    answer = admin.post("/compare", data={"a": BATCH, "b": TOP})
    assert answer.headers["location"].startswith("/runs/compare-")
    assert answer.headers["location"] in browsable.get(address).text  # the run that is under way


@pytest.mark.parametrize(("a", "b", "status"), [
    (BATCH, BATCH, 422), (BATCH, "demo/none", 404), (BATCH, "other/wide", 422), (BATCH, "demo/weightless", 409)])
def test_what_cannot_be_compared_starts_no_run(
    admin: TestClient, browsable: TestClient, workspace: Workspace, a: str, b: str, status: int
) -> None:
    write_json(workspace.sae("other/wide") / "sae.json", sae_config("other/wide", d_model=512))
    write_json(workspace.sae("demo/weightless") / "sae.json",
               sae_config("demo/weightless", weights="none", imported={"format": "x", "source": "y"}))
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert admin.post("/compare", data={"a": a, "b": b}).status_code == status
    assert not list(workspace.root.glob("runs/compare-*"))


@pytest.mark.parametrize("view", ["pairs", "alone", "splits"])
@pytest.mark.parametrize(("a", "b", "mmcs"), [(BATCH, TOP, "0.410"), (TOP, BATCH, "0.520")])
def test_a_comparison(browsable: TestClient, workspace: Workspace, view: str, a: str, b: str, mmcs: str) -> None:
    compared(workspace)
    page = browsable.get(f"/compare?a={a}&b={b}&view={view}").text
    figures = page[page.index("MMCS of"):]
    assert figures.index(mmcs) < figures.index("0.520" if mmcs == "0.410" else "0.410")
    for one in (a, b):
        assert f"alive latents of {one.partition('/')[2]}</dt><dd>160 of 160" in figures
    assert f'href="/{a}/' in page
    assert f'href="/{b}/' in page


def test_a_comparison_for_programs_in_pages(browsable: TestClient, workspace: Workspace) -> None:
    compared(workspace)
    rows: list[int] = []
    while True:
        answer = browsable.get(f"/compare.json?a={BATCH}&b={TOP}&limit=50&offset={len(rows)}").json()
        rows += [match["latent"] for match in answer["matches"]]
        if len(answer["matches"]) < 50:
            break
    assert rows == list(range(160))
    assert answer["counts"] == {
        "alive": 160, "living": 160, "alone": sum(0.9 - i / 200 < 0.7 for i in range(160))}
    assert all(match["best_match"] == match["mate"] for match in answer["matches"])
    assert json.dumps(answer["splits"])
    assert browsable.get(f"/compare.json?a={BATCH}&b={TOP}&sort=name").status_code == 422


def chosen(html: str) -> list[str]:
    """The SAEs that the form shows."""
    return re.findall("<option selected>([^<]+)</option>", html)


def test_the_form_starts_with_two_different_saes(browsable: TestClient) -> None:
    assert len(set(chosen(browsable.get("/compare").text))) == 2
    assert chosen(browsable.get(f"/compare?a={TOP}").text) == [TOP, BATCH]


def test_the_same_sae_twice_is_refused_in_place(browsable: TestClient) -> None:
    answer = browsable.get(f"/compare?a={TOP}&b={TOP}")
    assert answer.status_code == 422
    assert "Choose two different SAEs" in answer.text
    assert chosen(answer.text) == [TOP, BATCH], "the form offers another one"
    assert '<form class="row card compare-form" action="/compare"' in answer.text


def test_the_figures_of_both_stand_above_the_comparison(browsable: TestClient, workspace: Workspace) -> None:
    page = browsable.get(f"/compare?a={BATCH}&b={TOP}").text
    assert page.count("0.184") == 2
    assert page.count("1.5 M") == 2
    assert "Trained for different lengths" not in page
    write_sae(workspace, "demo/short", training={"tokens": 200_000})
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert "short on 200 k tokens" in browsable.get(f"/compare?a={BATCH}&b=demo/short").text


def test_mmcs_is_explained(browsable: TestClient, workspace: Workspace) -> None:
    compared(workspace)
    assert "Mean max cosine similarity" in browsable.get(f"/compare?a={BATCH}&b={TOP}").text


@pytest.mark.parametrize("part", ["", "/live", "/card"])
def test_a_finished_run_leads_to_its_comparison(browsable: TestClient, workspace: Workspace, part: str) -> None:
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "compare", {"a": BATCH, "b": TOP}, "ada")
        queue.transition(db, run.id, {"queued"}, state="succeeded", started=1.0)
    result = {"a": BATCH, "b": TOP, "mmcs_a": 0.4123, "mmcs_b": 0.5}
    RunFolder(workspace.run(run.id)).write_status(Status(state="succeeded", result=result))
    page = browsable.get(f"/runs/{run.id}{part}").text
    assert f'href="/compare?a={BATCH}&amp;b={TOP}">Open the comparison</a>' in page
    assert "0.412 of" in page
    assert "no longer in the workspace" not in page
