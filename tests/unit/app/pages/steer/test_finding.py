"""What the steering form finds: the first SAE, latents by a text, earlier runs of the browser."""

from __future__ import annotations

import re
import shutil
from html import escape, unescape
from pathlib import Path

from fastapi.testclient import TestClient

from app.library import labels
from app.main import create_app
from app.settings import Settings
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.steer.lab import JSON, OTHER, SAE, fields, finished, made


def test_the_best_sae_is_the_first_choice_not_the_newest(home: Path) -> None:
    settings = Settings(home=home.parent / "choice", demo=False, database_url="")
    for sae_id, fvu, created in ((SAE, 0.1, 1e9), (OTHER, 0.5, 2e9)):
        write_sae(settings.workspace, sae_id, n_latents=60, metrics={"fvu": fvu}, created=created)
        shutil.copytree(home / "builds" / sae_id, settings.home / "builds" / sae_id)
    with TestClient(create_app(settings, supervise=False)) as program:
        assert program.app.state.catalog.list_saes()[0].id == OTHER  # type: ignore[attr-defined]
        assert program.get("/steer.json").json()["latents"][0]["sae"] == SAE
        assert program.get("/inspect.json").json()["sae"] == SAE


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
    assert "No latent has" in browser.get("/steer/latents", params={"add": "qqqzzz", "add_sae": SAE}).text
    for unknown in ({"add": "x", "add_sae": "demo/none"}, {"add": "7", "add_sae": SAE}, {"add": " "}, {}):
        assert browser.get("/steer/latents", params=unknown, headers=JSON).json() == []


def test_a_browser_finds_its_earlier_runs(browser: TestClient) -> None:
    browser.cookies.clear()
    assert "None yet" in browser.get("/steer/earlier").text
    first, second = made(browser, prompt="first <b>"), made(browser, "/steer/sweep", prompt="second", sweep="1 2")
    finished(browser, second)
    for listed in (browser.get("/steer/earlier").text, browser.get("/steer").text, browser.get(first).text):
        assert listed.index(f'href="{second}"') < listed.index(f'href="{first}"')
        assert "2 at 2 strengths" in listed
        assert "2 +3× max" in listed
        assert "first &lt;b&gt;" in listed
    cookie = browser.cookies.jar._cookies["testserver.local"]["/steer"]["saescope_steered"]  # type: ignore[attr-defined]
    assert cookie.path == "/steer"
    for made_up in ("steer-x.../../etc.%00.steer-none", "x" * 9000):
        assert "None yet" in browser.get("/steer/earlier", headers={"Cookie": f"saescope_steered={made_up}"}).text
    browser.cookies.clear()
    assert "None yet" in browser.get("/steer/earlier").text  # another browser sees none of them
