"""The table's filters and labels, the map, a latent in a frame, documents, two SAEs compared."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from app import labels, mapviews
from sae.comparisons import comparison_path, write_comparison
from sae.listing import SORTS, TOKEN_SORTS
from sae.rundir import write_json
from sae.workspace import Workspace
from tests.builds import Synthetic
from tests.unit.app.conftest import sae_config
from tests.unit.app.routes.conftest import BATCH, TOP


def compared(workspace: Workspace) -> None:
    """A comparison of the two SAEs: latent i of one is nearest to latent i // 2 of the other, and so on."""
    first, _ = sorted((BATCH, TOP))
    rows = [{"side": side, "latent": i, "fires": 10 + i, "others": [i // 2, 3], "cosines": [0.9 - i / 200, 0.1],
             "mate": i // 2 if i % 3 else -1, "phi": 0.5} for side in (0, 1) for i in range(160)]
    write_comparison(comparison_path(workspace, BATCH, TOP), {
        "a": first, "b": TOP if first == BATCH else BATCH, "model": "demo", "tokens": 1000, "text": "stdlib",
        "mmcs_a": 0.41, "mmcs_b": 0.52, "command": "saescope compare", "run": "r"}, pa.Table.from_pylist(rows))


@pytest.mark.parametrize("sort", sorted(set(SORTS) - TOKEN_SORTS))
def test_every_sort_of_the_table(browsable: TestClient, sort: str) -> None:
    for way in ("asc", "desc"):
        assert browsable.get(f"/{BATCH}/latents?sort={sort}&dir={way}").status_code == 200


def test_filters_by_what_people_wrote(admin: TestClient, browsable: TestClient) -> None:
    path = f"/{BATCH}/latents.json"
    kept = browsable.get(f"{path}?tag=bracket").headers.get("etag", "")
    assert browsable.get(f"{path}?labelled=1").json()["total"] == 0
    assert admin.post(f"/{BATCH}/7/label", data={"text": "closes", "tags": "Bracket, code , code"}).status_code == 303
    assert [row["latent"] for row in browsable.get(f"{path}?labelled=1").json()["latents"]] == [7]
    again = browsable.get(f"{path}?tag=code", headers={"If-None-Match": kept})  # not the build's alone: never 304
    assert [row["latent"] for row in again.json()["latents"]] == [7]
    page = browsable.get(f"/{BATCH}/latents").text
    assert "tag=Bracket" in page
    assert "tag=code" in page


def test_latents_by_the_logits_they_raise(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    latent = browsable.get(f"/{BATCH}/9.json").json()["latent"]
    token = latent["logit_pos"][0][0]
    found = browsable.get(f"/{BATCH}/latents.json?logit=%23{token}&limit=1000").json()["latents"]
    assert 9 in [row["latent"] for row in found]
    assert all(token in row["logit_pos"] for row in found)
    assert "No token of the vocabulary holds" in browsable.get(f"/{BATCH}/latents?logit=no-such-token-at-all").text


def test_labels_out_and_in(admin: TestClient, browsable: TestClient) -> None:
    admin.post(f"/{BATCH}/3/label", data={"text": "=first", "note": "n", "tags": "t", "star": "1"})
    as_json, as_csv = (browsable.get(f"/{BATCH}/labels.{kind}") for kind in ("json", "csv"))
    assert as_json.json()["labels"][0] | {"updated": 0} == {
        "latent": 3, "text": "=first", "tags": "t", "note": "n", "starred": True, "author": "ada", "updated": 0}
    assert "attachment" in as_csv.headers["content-disposition"]
    for name, content in (("l.json", as_json.content), ("l.csv", as_csv.content)):
        answer = admin.post(f"/{TOP}/labels", files={"file": (name, content)})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/{TOP}/latents?labelled=1")
        with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
            row = labels.get(db, TOP, 3)
            assert row is not None
            assert (row.text, row.tags, row.starred) == ("=first", "t", True)
    bad = admin.post(f"/{TOP}/labels", files={"file": ("l.csv", b"latent\n9999\n")})
    assert (bad.status_code, "0 to 159" in bad.text) == (422, True)


def test_the_map(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "This build has no map" in browsable.get(f"/{BATCH}/map").text  # the synthetic one has no places
    places = [(i, i % 7, i % 5, 10.0 ** -(i % 5)) for i in range(60)]
    monkeypatch.setattr("sae.store.Build.map_points", lambda _: places)
    points = browsable.get(f"/{BATCH}/map").text
    assert points.count("<circle") == 60
    assert f'href="/{BATCH}/59"' in points
    assert len(browsable.get(f"/{BATCH}/map.json").json()["points"]) == 60
    monkeypatch.setattr(mapviews, "POINTS", 10)
    cells = browsable.get(f"/{BATCH}/map").text
    assert "<circle" not in cells
    assert cells.count('class="cell') == 35


def test_a_latent_in_a_frame_has_nothing_that_acts(browsable: TestClient) -> None:
    page = browsable.get(f"/{BATCH}/9?embed=1")
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors *" in policy
    assert "form-action 'none'" in policy
    assert "<form" not in page.text
    assert "<script" not in page.text
    assert "frame-ancestors 'none'" in browsable.get(f"/{BATCH}/9").headers["content-security-policy"]


def test_a_document_that_is_not_here(browsable: TestClient) -> None:
    page = browsable.get(f"/{BATCH}/9/source/0")
    assert page.status_code == 404
    assert "not kept in this workspace" in page.text


def test_search_for_programs(admin: TestClient, browsable: TestClient) -> None:
    admin.post(f"/{BATCH}/3/label", data={"text": "a docstring"})
    found = browsable.get("/search.json?q=docstring").json()
    assert [(row["sae"], row["latent"]) for row in found["labels"]] == [(BATCH, 3)]
    assert set(found["tokens"]) == {BATCH, TOP}


def test_the_description_names_every_twin(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/{model}/{name}/latents.json", "/{model}/{name}/{number}.json", "/compare.json", "/search.json",
            "/{model}/{name}/map.json", "/{model}/{name}/tokens/{sample}/{position}.json"} <= set(paths)
    assert "/{model}/{name}/latents" not in paths


# ---- two SAEs compared


def test_nothing_to_compare_is_said(client: TestClient) -> None:
    assert "no two SAEs of one language model" in client.get("/compare").text


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
    assert answer["counts"] == {"living": 160, "alone": sum(0.9 - i / 200 < 0.7 for i in range(160))}
    assert json.dumps(answer["splits"])
    assert browsable.get(f"/compare.json?a={BATCH}&b={TOP}&sort=name").status_code == 422
