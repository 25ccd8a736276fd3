"""The table's filters and labels, the map, a latent in a frame, documents."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app.library import labels
from app.render import plane
from sae.store.latent_query import SORTS, TOKEN_SORTS
from sae.store.records import Sample
from sae.store.schema import NEAR_BAND
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.builds import Synthetic
from tests.unit.app.conftest import sae_config
from tests.unit.app.pages.conftest import BATCH, TOP


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


def test_the_table_by_label(admin: TestClient, browsable: TestClient) -> None:
    assert browsable.get(f"/{BATCH}/latents.json?sort=label").json()["sort"] == "latent"  # there is none yet
    for latent, text in ((90, "beta"), (4, "Alpha"), (12, "gamma")):
        admin.post(f"/{BATCH}/{latent}/label", data={"text": text})

    def first(query: str) -> list[int]:
        rows = browsable.get(f"/{BATCH}/latents.json?sort=label{query}").json()["latents"]
        return [row["latent"] for row in rows[:4]]

    assert first("") == [4, 90, 12, 0]
    assert first("&dir=desc") == [12, 90, 4, 0]  # those without a label come last either way
    page = browsable.get(f"/{BATCH}/latents?sort=label").text
    assert 'aria-sort="ascending"' in page
    assert ">output score<" not in page
    after = browsable.get(f"/{BATCH}/90?sort=label").text
    assert f'rel="prev" href="/{BATCH}/4?' in after
    assert f'rel="next" href="/{BATCH}/12?' in after


def test_latents_by_the_logits_they_raise(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    latent = browsable.get(f"/{BATCH}/9.json").json()["latent"]
    token = latent["logit_pos"][0][0]
    found = browsable.get(f"/{BATCH}/latents.json?logit=%23{token}&limit=1000").json()["latents"]
    assert 9 in [row["latent"] for row in found]
    assert all(token in row["logit_pos"] for row in found)
    assert "No token contains" in browsable.get(f"/{BATCH}/latents?logit=no-such-token-at-all").text


def test_labels_out_and_in(admin: TestClient, browsable: TestClient) -> None:
    admin.post(f"/{BATCH}/3/label", data={"text": "=first", "note": "n", "tags": "t", "star": "1"})
    as_json, as_csv = (browsable.get(f"/{BATCH}/labels.{kind}") for kind in ("json", "csv"))
    assert as_json.json()["labels"][0] | {"updated": 0} == {
        "latent": 3, "text": "=first", "tags": "t", "note": "n", "starred": True, "author": "ada", "updated": 0}
    assert "attachment" in as_csv.headers["content-disposition"]
    for name, content in (("l.json", as_json.content), ("l.csv", as_csv.content)):
        answer = admin.post(f"/{TOP}/labels", files={"file": (name, content)})
        first = name == "l.json"
        assert (answer.status_code, answer.headers["location"]) == (
            303, f"/{TOP}/latents?labelled=1&imported={'1-0-0' if first else '0-0-1'}")
        said = "1 new, 0 replaced, 0 unchanged" if first else "0 new, 0 replaced, 1 unchanged"
        assert said in browsable.get(answer.headers["location"]).text
        with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
            row = labels.get(db, TOP, 3)
            assert row is not None
            assert (row.text, row.tags, row.starred) == ("=first", "t", True)
    bad = admin.post(f"/{TOP}/labels", files={"file": ("l.csv", b"latent\n9999\n")})
    assert (bad.status_code, "0 to 159" in bad.text) == (422, True)


def test_the_map(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "This build has no map" in browsable.get(f"/{BATCH}/map").text  # the synthetic one has no places
    places = [(i, i % 7, i % 5, 10.0 ** -(i % 5)) for i in range(60)]
    monkeypatch.setattr("sae.store.build.Build.map_points", lambda _: places)
    points = browsable.get(f"/{BATCH}/map").text
    assert points.count("<circle") == 60
    assert f'href="/{BATCH}/59"' in points
    assert len(browsable.get(f"/{BATCH}/map.json").json()["points"]) == 60
    monkeypatch.setattr(plane, "POINTS", 10)
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


@pytest.mark.parametrize(("part", "path"), [("acts", "/9"), ("logits", "/9"), ("l0", "/tokens")])
def test_a_stretch_of_a_chart(browsable: TestClient, part: str, path: str) -> None:
    whole = browsable.get(f"/{BATCH}{path}?window=long").text
    figure = whole[whole.index(f'id="{part}"'):]
    low, high = (float(re.findall(rf'data-{end}="([^"]+)"', figure)[0]) for end in ("low", "high"))
    middle = low + (high - low) / 2
    asked = f"/{BATCH}{path}?window=long&{part}={low}&{part}={middle}"
    chart = browsable.get(asked, headers={"HX-Request": "true", "HX-Target": part}).text
    assert chart.startswith("<figure")
    found = float(re.findall(r'data-high="([^"]+)"', chart)[0])
    assert middle <= found < high
    assert 0 < chart.count("<rect class=\"c-bar") < figure[: figure.index("</figure>")].count("<rect class=\"c-bar")
    assert '<input type="hidden" name="window" value="long">' in chart, "what else the address says is kept"
    assert chart[:200] in browsable.get(asked).text, "the whole page shows it, too"
    for nonsense in (f"{part}=x&{part}=1", f"{part}=1", f"{part}=nan&{part}=2", f"{part}=3&{part}=3"):
        page = browsable.get(f"/{BATCH}{path}?{nonsense}").text
        assert f'data-high="{high:.6g}"' in page


def test_several_saes_over_one(browsable: TestClient, workspace: Workspace, made: dict[str, Synthetic]) -> None:
    names = [f"demo/2-other-{i}" for i in range(5)]
    for name in names:
        write_json(workspace.sae(name) / "sae.json", sae_config(name))
        workspace.build(name, "index-2").parent.mkdir(parents=True)
        shutil.copy(made[TOP].path, workspace.build(name, "index-2"))
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]

    def outlines(query: str) -> int:
        return browsable.get(f"/{BATCH}/tokens{query}").text.count("<polyline class=\"c-outline")

    assert outlines("") == 1  # one of another architecture
    assert outlines("?with=") == 0
    assert outlines(f"?with=&with={names[0]}&with={names[3]}") == 2
    assert outlines("?" + "&".join(f"with={name}" for name in names)) == 3  # more cannot be told apart
    told = browsable.get(f"/{BATCH}/tokens.json?with={names[0]}&with={TOP}").json()
    assert set(told["others"]) == {names[0], TOP}
    assert told["others"][TOP]["hist"]


def test_contexts_with_fewest_and_most_latents(browsable: TestClient) -> None:
    samples = [
        Sample(i, kind, i, f"{kind}-{i}.py", 0, [0, 5, 6], [8, i, i + 2])
        for i, kind in enumerate(["any", "fewest", "most"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.store.build.Build.samples", lambda _: samples)
        page = browsable.get(f"/{BATCH}/tokens").text
    most, fewest = page.index("Contexts with the most latents"), page.index("Contexts with the fewest latents")
    assert page.index("any-0.py") < most < page.index("most-2.py") < fewest < page.index("fewest-1.py")
    assert '<b class="mono">3.0</b> on average' in page[most:], "BOS apart"


def test_near_misses_have_a_band_of_their_own(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    with browsable.app.state.builds.use(BATCH, made[BATCH].path.stem) as build:  # type: ignore[attr-defined]
        some = build.contexts(9)[0]
    context = replace(some, band=NEAR_BAND, act=0.125, acts=[0.0] * len(some.tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.store.build.Build.windows", lambda *_: [context])
        patch.setitem(build.meta, "near", 0.1)
        page = browsable.get(f"/{BATCH}/9").text
    band = page[page.index("Near misses"):].partition("</ol>")[0]
    assert "within 10% of the threshold" in band
    assert "0.12" in band
    assert band.count(' peak"') == 1


def test_runs_home_and_documents_for_programs(browsable: TestClient) -> None:
    home = browsable.get("/index.json").json()
    assert [f"{sae['model']}/{sae['sae']}" for sae in home["saes"]] == [
        f"{sae['model']}/{sae['sae']}" for sae in browsable.get("/api/saes").json()]
    assert browsable.get("/runs.json").json() == browsable.get("/api/runs").json() == []
    assert browsable.get("/runs/none.json").status_code == 404
    assert browsable.get(f"/{BATCH}/9/source/0.json").status_code == 404  # the text is not kept here
    assert sorted(browsable.get("/search.json?q=9").json()["numbers"]) == sorted([f"/{TOP}/9", f"/{BATCH}/9"])


def test_a_document_that_is_not_here(browsable: TestClient) -> None:
    page = browsable.get(f"/{BATCH}/9/source/0")
    assert page.status_code == 404
    assert "no longer has the tokens" in page.text


def test_search_for_programs(admin: TestClient, browsable: TestClient) -> None:
    admin.post(f"/{BATCH}/3/label", data={"text": "a docstring"})
    found = browsable.get("/search.json?q=docstring").json()
    assert [(row["sae"], row["latent"]) for row in found["labels"]] == [(BATCH, 3)]
    assert set(found["tokens"]) == {BATCH, TOP}


def test_the_description_names_every_twin(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/{model}/{name}/latents.json", "/{model}/{name}/{number}.json", "/compare.json", "/search.json",
            "/{model}/{name}/map.json", "/{model}/{name}/tokens/{sample}/{position}.json", "/index.json", "/runs.json",
            "/runs/{run_id}.json", "/{model}/{name}/{number}/source/{ctx}.json",
            "/inspect/{model}/{name}/{number}.json"} <= set(paths)
    assert "/{model}/{name}/latents" not in paths
