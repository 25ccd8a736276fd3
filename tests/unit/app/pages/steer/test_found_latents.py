"""Tests of the latents that a text may mean."""

from __future__ import annotations

import re
from html import escape, unescape

from fastapi.testclient import TestClient

from app.library import labels
from tests.unit.app.pages.steer.lab import JSON, SAE, fields


def test_a_latent_is_found_by_label_and_token_and_added(browser: TestClient) -> None:
    on_token = browser.get(f"/{SAE}/2.json").json()
    token = browser.get("/steer", params={"sae": SAE, "latent": 2}).text
    token = unescape(re.findall(r'class="chip-name muted">fires on <span class="tok">([^<]+)', token)[0]).strip("·␣↵ ")
    assert on_token["latent"]["latent"] == 2
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, SAE, 9, "ada", text="opening 100% of <brackets>")
    for words, latent, why in ((token, 2, ""), ("100% of <br", 9, "label")):
        found = browser.get("/steer/latents", params={"add": words, "add_sae": SAE}, headers=JSON).json()
        assert (latent, True) in [(row["latent"], why in row["reason"]) for row in found], found
        fragment = browser.get("/steer/latents", params={"add": words, "add_sae": SAE}).text
        assert f'name="add" value="{latent}"' in fragment
        assert "<html" not in fragment
        assert "<brackets>" not in fragment
        typed = fields(add=words, add_sae=SAE)
        page = browser.post("/steer/form", data=typed).text  # without JavaScript: the page with what was found
        assert f'name="add" value="{latent}"' in page
        assert page.count('class="chip"') == 1
        assert f'value="{escape(words)}"' in page
        refused = browser.post("/steer", data=typed)  # nothing is chosen in the reader's place
        assert refused.status_code == 422
        assert "Choose one of the latents found" in refused.text
        added = browser.post("/steer/form", data={**typed, "latent": "4", "add": [words, str(latent)]}).text
        assert re.findall(r'name="latent" value="(\d+)"', added) == ["4", str(latent)]
    assert browser.get("/steer/latents", params={"add": "qqqzzz", "add_sae": SAE}, headers=JSON).json() == []
    assert "No latent fits" in browser.get("/steer/latents", params={"add": "qqqzzz", "add_sae": SAE}).text
    for unknown in ({"add": "x", "add_sae": "demo/none"}, {"add": "7", "add_sae": SAE}, {"add": " "}, {}):
        assert browser.get("/steer/latents", params=unknown, headers=JSON).json() == []
