"""The search box finds latents: by label, rule, token and logit, in one ranked list."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from app.library import labels
from sae.store.build import Build
from sae.store.records import Rule
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.html import json_of, page, text_of


def found(client: TestClient, query: str) -> list[tuple[str, int]]:
    html = page(client, f"/search?{query}")
    return [(sae, int(latent)) for sae, latent in re.findall(r'<tr data-row data-href="/(demo/[^/]+)/(\d+)"', html)]


def test_a_token_finds_the_latents_that_fire_on_it(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    build = Build.open(made[BATCH].path)
    token = build.find_tokens("self")[0].token
    rows = build.latents("lift", True, token=token, limit=1000).rows
    build.close()
    results = found(browsable, f"q=self&sae={BATCH}")
    assert len(results) > 5
    assert {sae for sae, _ in results} == {BATCH}
    firing = {row.latent for row in rows}
    assert (BATCH, rows[0].latent) in results
    top = json_of(browsable, f"/search.json?q=self&sae={BATCH}")["latents"]
    assert [(row["sae"], row["latent"]) for row in top] == results
    assert [row["score"] for row in top] == sorted([row["score"] for row in top], reverse=True)
    assert sum(row["latent"] in firing for row in top) > len(top) // 2
    words = text_of(page(browsable, f"/search?q=self&sae={BATCH}"))
    assert re.search(r"fires on self lift [\d,.]+×, [\d.]+% of its firings", words)
    assert "raises the logit of self" in words
    assert {sae for sae, _ in found(browsable, "q=self")} == {BATCH, TOP}


def test_labels_come_before_tokens(browsable: TestClient) -> None:
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, BATCH, 11, "ada", text="a call of <self>")
        labels.save(db, BATCH, 12, "ada", text="self")
        labels.save(db, BATCH, 17, "ada", note="not self")
        labels.save(db, TOP, 13, "ada", text="self")
    assert found(browsable, f"q=self&sae={BATCH}")[:2] == [(BATCH, 12), (BATCH, 11)]
    assert (BATCH, 17) in found(browsable, f"q=self&sae={BATCH}")
    html = page(browsable, "/search?q=call%20of")
    assert f'data-href="/{BATCH}/11"' in html
    assert "a call of &lt;self&gt;" in html


def test_a_rule_finds_its_latent(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [(5, Rule("class", [], "comment", 0.9, 0.8, 0.85))]
    monkeypatch.setattr("app.library.latent_search.with_rule",
                        lambda build, tokens, classes, min_f1: rules if "comment" in classes else [])
    assert (BATCH, 5) in found(browsable, f"q=end%20of%20its%20line&sae={BATCH}")
    assert "precision 90%, recall 80%" in page(browsable, f"/search?q=end%20of%20its%20line&sae={BATCH}")


def test_a_phrase_is_read_by_the_model(browsable: TestClient) -> None:
    html = page(browsable, f"/search?q=return+self&sae={BATCH}")
    link = re.search(r'href="(/search/text\?[^"]+)">Latents active on this text', html)
    assert link is not None
    assert "q=return+self" in link[1]
    assert len(found(browsable, f"q=return+self&sae={BATCH}")) > 5  # and its words are looked up as tokens
    assert "Latents active on this text" in page(browsable, "/search?q=zzzz+nowhere")


def test_empty_groups_are_left_out(browsable: TestClient) -> None:
    html = page(browsable, f"/search?q=zzzznowhere&sae={BATCH}")
    assert "<table" not in html
    assert html.count('class="notice"') == 1
    assert "Latents of demo/2-res-batchtopk-4k are 0 to 159." in page(browsable, f"/search?q=160&sae={BATCH}")


def test_an_sae_without_an_index_is_no_empty_card(browsable: TestClient, made: dict[str, Synthetic]) -> None:

    write_sae(browsable.app.state.settings.workspace, "demo/no-index")  # type: ignore[attr-defined]
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    html = page(browsable, "/search?q=self")
    assert "1 SAE has no index yet" in html
    assert "demo/no-index" not in re.sub(r'<ul class="plain" id="sae-list">.*?</ul>', "", html, flags=re.DOTALL)
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, "demo/gone", 1, "ada", text="self")
    assert ("demo/gone", 1) not in found(browsable, "q=self")


def test_search(browsable: TestClient) -> None:
    assert browsable.get(f"/search?q=12&sae={BATCH}").headers["location"] == f"/{BATCH}/12"
    html = page(browsable, "/search?q=12")
    assert f'href="/{BATCH}/12"' in html
    assert f'href="/{TOP}/12"' in html
    assert "token=%23" in page(browsable, "/search?q=return")
    assert "no token of the text read does" in page(browsable, "/search?q=zzzznowhere")
    page(browsable, "/search")
    page(browsable, "/search?q=%3Cscript%3E")


def test_search_for_programs(admin: TestClient, browsable: TestClient) -> None:
    admin.post(f"/{BATCH}/3/label", data={"text": "a docstring"})
    found = browsable.get("/search.json?q=docstring").json()
    assert [(row["sae"], row["latent"]) for row in found["labels"]] == [(BATCH, 3)]
    assert set(found["tokens"]) == {BATCH, TOP}
