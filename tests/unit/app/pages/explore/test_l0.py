"""Tests of the page of latents per token."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient

from sae.store.build import Build
from sae.store.records import Sample
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH, TOP, sae_config, write_sae
from tests.unit.app.pages.html import json_of, page


def test_latents_per_token(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/tokens")
    assert "k = 12" in html
    assert "BOS: 8 latents (it is always the same, so few suffice)." in html
    assert 'class="c-outline c-o0"' in html, "the TopK SAE as an outline"
    assert "exactly 12" in html
    assert "L0, held-out text: <b class=\"mono\">12.01</b> on average over 100,000 tokens." in html
    assert "L0, index: " in html
    assert 'class="pair"' in html
    body = json_of(browsable, f"/{BATCH}/tokens.json")
    assert "100% ↑" in html, "the TopK SAE's bar is cut, and says so"
    assert "100% ↑" in page(browsable, f"/{TOP}/tokens?with={BATCH}"), "also the other way round"
    assert sum(row["n"] for row in body["hist"]) == body["provenance"]["tokens"]
    topk = json_of(browsable, f"/{TOP}/tokens.json")
    assert [row["l0"] for row in topk["hist"] if row["n"]] == [12]


def test_overlaid_saes_of_different_training_carry_a_warning(
    browsable: TestClient, workspace: Workspace, made: dict[str, Synthetic]
) -> None:
    assert "Trained for different lengths" not in page(browsable, f"/{BATCH}/tokens?with={TOP}")
    write_sae(workspace, "demo/short", n_latents=160, training={"tokens": 200_000})
    workspace.build("demo/short", "index-9").parent.mkdir(parents=True)
    shutil.copy(made[TOP].path, workspace.build("demo/short", "index-9"))
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert "short on 200 k tokens" in page(browsable, f"/{BATCH}/tokens?with=demo/short")


def test_the_latents_of_a_token(browsable: TestClient) -> None:
    sample = json_of(browsable, f"/{BATCH}/tokens.json")["samples"][1]
    position = int(np.argmax(sample["l0"][1:])) + 1
    url = f"/{BATCH}/tokens/{sample['sample']}/{position}"
    assert f'href="{url}"' in page(browsable, f"/{BATCH}/tokens")
    html = page(browsable, url)
    assert html.count("data-row") == sample["l0"][position]
    fragment = page(browsable, url, **{"HX-Request": "true"})
    assert "<html" not in fragment
    page(browsable, f"/{BATCH}/tokens/{sample['sample']}/999", 404)
    page(browsable, f"/{BATCH}/tokens/77/0", 404)


@pytest.mark.parametrize("place", ["999/1", "0/99999", "0/-1", f"{10**40}/1"])
def test_page_and_twin_agree_on_what_is_not_there(browsable: TestClient, place: str) -> None:
    assert browsable.get(f"/{BATCH}/tokens/{place}").status_code == 404
    assert browsable.get(f"/{BATCH}/tokens/{place}.json").status_code == 404


def test_the_samples_are_read_once_a_page(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], Build.samples
    monkeypatch.setattr(Build, "samples", lambda self: reads.append(self.id) or read(self))
    assert browsable.get(f"/{BATCH}/tokens").status_code == 200
    assert len(reads) == len(set(reads)) == 2  # the build and the one laid over it


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
    assert outlines("?" + "&".join(f"with={name}" for name in names)) == 3  # more cannot be shown apart
    shown = browsable.get(f"/{BATCH}/tokens.json?with={names[0]}&with={TOP}").json()
    assert set(shown["others"]) == {names[0], TOP}
    assert shown["others"][TOP]["hist"]


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
