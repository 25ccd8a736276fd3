"""The steering pages before a real worker process: form, runs, events, permalinks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.db.tables import SteerRun
from app.main import create_app
from app.settings import Settings
from sae.store.build import Build
from tests.builds import make_build

SAE = "demo/2-tiny"
OTHER = "demo/1-other"
HTMX = {"HX-Request": "true"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_sae: Any) -> Path:
    """A workspace with two small random SAEs of the embedded model and a synthetic build of each."""
    home = tmp_path_factory.mktemp("steer") / "data"
    for sae_id, layer, n_latents in ((SAE, 2, 60), (OTHER, 1, 40)):
        tiny_sae(folder=home / "saes" / sae_id, layer=layer, n_latents=n_latents, seed=layer, normalize="layer_norm")
        build = home / "builds" / sae_id / "build-1.duckdb"
        build.parent.mkdir(parents=True)
        make_build(build, sae_id=sae_id, n_latents=n_latents, seed=layer)
    return home


@pytest.fixture(scope="module")
def browser(home: Path) -> Iterator[TestClient]:
    settings = Settings(home=home, demo=False, database_url="", worker_threads=1, worker_places=2, worker_queue=2,
                        steers_per_minute=1e6)
    with TestClient(create_app(settings, supervise=False), follow_redirects=False) as client:
        yield client


def maximum(home: Path, latent: int) -> float:
    build = Build.open(home / "builds" / SAE / "build-1.duckdb")
    found = build.latent(latent)
    build.close()
    assert found is not None
    return found.max_act


def fields(**changes: Any) -> dict[str, Any]:
    return {"prompt": "def main(", "sae": SAE, "latent": "2", "mode": "add", "strength": "3", "factor": "0",
            "length": "8", "temperature": "0.7", "seed": "1", **changes}


def post(browser: TestClient, headers: dict[str, str] | None = None, **changes: Any) -> Response:
    return browser.post("/steer", data=fields(**changes), headers=headers or {})


def finished(browser: TestClient, run_id: str) -> dict[str, Any]:
    """The run's JSON once it is final."""
    deadline = time.monotonic() + 60
    while True:
        run: dict[str, Any] = browser.get(f"/steer/{run_id}.json").json()
        if run["state"] in ("succeeded", "failed", "stopped"):
            return run
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run_of(answer: Response) -> str:
    assert answer.status_code == 303, answer.text[-2000:]
    return str(answer.headers["location"].removeprefix("/steer/"))


def events_of(text: str) -> list[tuple[str, str]]:
    """(event, data) of a server-sent stream."""
    out = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        name = next((line[7:] for line in lines if line.startswith("event: ")), None)
        if name:
            out.append((name, "\n".join(line[6:] for line in lines if line.startswith("data: "))))
    return out


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def test_the_first_visit_is_filled_in(browser: TestClient) -> None:
    page = browser.get("/steer").text
    shown = browser.get("/steer.json").json()
    assert shown["prompt"]
    assert len(shown["latents"]) == 1
    latent = shown["latents"][0]
    assert latent["strength"] != 0
    assert latent["max_act"] > 0
    assert f'name="latent" value="{latent["latent"]}"' in page
    assert "onclick" not in page
    assert "style=" not in page


def test_the_address_chooses_latents_and_their_strengths(browser: TestClient) -> None:
    shown = browser.get("/steer.json", params={"sae": SAE, "latent": [3, 8], "strength": ["-2", "0.5"]}).json()
    assert [(c["latent"], c["strength"]) for c in shown["latents"]] == [(3, -2.0), (8, 0.5)]
    assert {c["sae"] for c in shown["latents"]} == {SAE}


def test_latents_are_added_and_removed_and_nothing_typed_is_lost(browser: TestClient) -> None:
    typed = fields(prompt="x = <b>&", strength="1.25", seed="77", add="5", add_sae=OTHER)
    form = browser.post("/steer/form", data=typed, headers=HTMX).text
    assert "<html" not in form
    assert re.findall(r'name="latent" value="(\d+)"', form) == ["2", "5"]
    assert re.findall(r'name="sae" value="([^"]+)"', form) == [SAE, OTHER]
    assert "x = &lt;b&gt;&amp;" in form
    assert 'value="1.25"' in form
    assert 'value="77"' in form
    del typed["add"]
    fewer = browser.post("/steer/form", data={**typed, "latent": ["2", "9"], "drop": "0"}, headers=HTMX).text
    assert re.findall(r'name="latent" value="(\d+)"', fewer) == ["9"]


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"prompt": "  "}, "prompt", "Type some text"),
    ({"prompt": "x = 1\n" * 300}, "prompt", "shorten it"),
    ({"length": "0"}, "length", "1 to 512"),
    ({"length": "-3"}, "length", "1 to 512"),
    ({"length": "513"}, "length", "1 to 512"),
    ({"length": "400"}, "length", "at most"),
    ({"temperature": "hot"}, "temperature", "0 to 5"),
    ({"top_p": "0"}, "top_p", "above 0 and at most 1"),
    ({"top_k": "1.5"}, "top_k", "whole number"),
    ({"seed": "-1"}, "seed", "whole number"),
    ({"positions": "nowhere"}, "positions", "one of"),
    ({"strength": "nan"}, "strength-0", "finite number"),
    ({"strength": "1e9"}, "strength-0", "−100 to 100"),
    ({"strength": ""}, "strength-0", "−100 to 100"),
    ({"mode": "scale", "factor": "inf"}, "factor-0", "finite number"),
    ({"mode": "delete"}, "mode-0", "one of"),
    ({"latent": "60"}, "latent-0", "0 to 59"),
    ({"latent": "minus one"}, "latent-0", "there is no minus one"),
    ({"latent": ["2", "2"], "strength": ["1", "2"]}, "latent-1", "twice"),
    ({"latent": [str(n) for n in range(17)], "strength": ["1"] * 17}, "add", "at most 16"),
    ({"latent": []}, "add", "Choose a latent"),
    ({"sae": "demo/none"}, "latent-0", "there is no SAE"),
    ({"latent": "7"}, "latent-0", "never fired"),
])
def test_a_fault_is_told_at_its_field_and_nothing_is_stored(
    browser: TestClient, changes: dict[str, Any], at: str, words: str,
) -> None:
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        before = db.query(SteerRun).count()
    answer = post(browser, {"Accept": "application/json"}, **changes)
    assert answer.status_code == 422
    assert words in answer.json()["errors"][at]
    page = post(browser, **changes)
    assert page.status_code == 422
    assert words in unescape(page.text)
    assert f'id="{at}-error"' in page.text
    fragment = post(browser, HTMX, **changes)
    assert fragment.status_code == 422
    assert fragment.headers["HX-Retarget"] == "#steer-form"
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        assert db.query(SteerRun).count() == before


def test_a_dead_latent_may_be_ablated(browser: TestClient) -> None:
    assert finished(browser, run_of(post(browser, latent="7", mode="ablate")))["state"] == "succeeded"


def test_without_javascript_a_run_is_made_shown_and_kept(browser: TestClient, home: Path) -> None:
    run_id = run_of(post(browser))
    run = finished(browser, run_id)
    assert run["state"] == "succeeded"
    assert run["text"]["baseline"] != run["text"]["steered"]
    made = run["request"]["interventions"][0]
    assert made["max_act"] == maximum(home, 2)
    assert made["strength"] == 3
    page = browser.get(f"/steer/{run_id}").text
    assert "sse-connect" not in page
    assert run["text"]["steered"].strip()[:6] in words_of(page)
    assert browser.get(f"/steer/{run_id}").text == page
    assert 'value="2"' in page  # the form is filled with the request


def test_htmx_gets_the_stream_and_the_stream_ends_with_done(browser: TestClient) -> None:
    answer = post(browser, HTMX)
    assert answer.status_code == 200
    run_id = answer.headers["HX-Push-Url"].removeprefix("/steer/")
    assert f'sse-connect="/steer/{run_id}/events"' in answer.text
    events = events_of(browser.get(f"/steer/{run_id}/events").text)
    assert {name for name, _ in events} == {"baseline", "steered", "readout", "status", "done"}
    assert events[-1][0] == "done"
    last = dict(events)
    run = finished(browser, run_id)
    for name in ("baseline", "steered"):
        text = words_of(last[name]).replace("↵\n", "\n")
        assert text == "def main(" + run["text"][name]
        assert re.search(r'class="t a\d', last[name]) or name == "baseline"
    assert "16 tokens in both columns" in last["status"]
    again = events_of(browser.get(f"/steer/{run_id}/events").text)
    assert [(n, d) for n, d in again if n != "status"] == [
        (n, last[n]) for n in ("baseline", "steered", "readout", "done")]


def test_strength_zero_writes_the_baseline(browser: TestClient) -> None:
    run = finished(browser, run_of(post(browser, strength="0", length="30", temperature="1")))
    columns = run["result"]["columns"]
    assert columns["steered"] | {"kl": []} == columns["baseline"]
    assert set(columns["steered"]["kl"]) == {0}
    assert "token for token" in browser.get(f"/steer/{run['id']}").text


def test_latents_of_two_saes_with_modes_of_their_own(browser: TestClient) -> None:
    run = finished(browser, run_of(post(
        browser, sae=[SAE, OTHER, OTHER], latent=["2", "4", "6"], mode=["clamp", "remove", "scale"],
        target=["2", "1", "1"], factor=["0", "0", "-1"])))
    assert run["state"] == "succeeded"
    kept = [(i["layer"], i["latent"], i["mode"], i["strength"]) for i in run["request"]["interventions"]]
    assert kept == [(2, 2, "clamp", 2), (1, 4, "remove", 0), (1, 6, "scale", -1)]


def test_stop_keeps_what_was_written(browser: TestClient) -> None:
    run_id = run_of(post(browser, length="240"))
    stopped = browser.post(f"/steer/{run_id}/stop")
    assert stopped.status_code == 303
    assert finished(browser, run_id)["state"] in ("stopped", "succeeded")


def test_a_fork_fills_the_form(browser: TestClient) -> None:
    run_id = run_of(post(browser, seed="4321", prompt="import os, <sys>\n", positions="output"))
    finished(browser, run_id)
    page = browser.get("/steer", params={"fork": run_id}).text
    assert 'value="4321"' in page
    assert "import os, &lt;sys&gt;" in page
    assert '<option value="output" selected>' in page


def test_hostile_text_is_shown_not_run(browser: TestClient) -> None:
    prompt = "<script>alert(1)</script> \"'"
    run_id = run_of(post(browser, prompt=prompt))
    finished(browser, run_id)
    page = browser.get(f"/steer/{run_id}").text
    assert "<script>alert" not in page
    assert prompt in words_of(page)
    stream = browser.get(f"/steer/{run_id}/events").text
    assert "<script>" not in stream


def test_an_unknown_run_is_not_found(browser: TestClient) -> None:
    for address in ("/steer/steer-1", "/steer/steer-1.json", "/steer/steer-1/events"):
        assert browser.get(address).status_code == 404
    assert browser.post("/steer/steer-1/stop").status_code == 404


def test_killing_the_worker_is_told_and_the_next_run_works(browser: TestClient) -> None:
    worker = browser.app.state.worker  # type: ignore[attr-defined]
    finished(browser, run_of(post(browser)))
    assert worker.pid is not None
    run_id = run_of(post(browser, length="240"))
    os.kill(worker.pid, signal.SIGKILL)
    events = events_of(browser.get(f"/steer/{run_id}/events").text)
    assert events[-1] == ("done", "done")
    assert "model worker stopped" in dict(events)["status"]
    assert finished(browser, run_id)["state"] == "succeeded"  # started over in the next worker
    assert "model worker stopped" in browser.get(f"/steer/{run_id}").text
    assert finished(browser, run_of(post(browser)))["state"] == "succeeded"


def test_too_many_runs_are_told_to_come_back_and_lose_nothing(browser: TestClient) -> None:
    answers = [post(browser, HTMX, length="200", prompt="def kept(") for _ in range(5)]
    refused = [a for a in answers if a.status_code == 503]
    assert len(refused) >= 1
    assert refused[0].headers["Retry-After"]
    assert "def kept(" in refused[0].text
    for answer in answers:
        if answer.status_code == 200:
            run_id = answer.headers["HX-Push-Url"].removeprefix("/steer/")
            browser.post(f"/steer/{run_id}/stop")
            finished(browser, run_id)


def test_a_run_that_nobody_watches_is_stopped(home: Path, tmp_path: Path) -> None:
    for part in ("saes", "builds"):
        shutil.copytree(home / part, tmp_path / part)
    settings = Settings(home=tmp_path, demo=False, database_url="", worker_threads=1, steer_grace_s=0.05)
    with TestClient(create_app(settings, supervise=False), follow_redirects=False) as browser:
        run_id = run_of(post(browser, length="240"))
        deadline = time.monotonic() + 60
        while browser.app.state.steering._live:  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert browser.get(f"/steer/{run_id}.json").json()["state"] == "stopped"


def test_a_restart_says_what_became_of_a_run(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "data", demo=False, database_url="")
    asked = {"model": "demo", "prompt": "x", "interventions": [{"sae": SAE, "layer": 2, "latent": 1, "max_act": 1}]}
    app = create_app(settings, supervise=False)
    with TestClient(app), app.state.sessions() as db:
        db.add(SteerRun(id="steer-x", sae_id=SAE, state="running", request={"steer": asked, "saes": {}}))
        db.commit()
    with TestClient(create_app(settings, supervise=False)) as browser:
        run = browser.get("/steer/steer-x.json").json()
        assert run["state"] == "failed"
        assert "run it again" in run["error"]
        assert "run it again" in browser.get("/steer/steer-x").text
        assert events_of(browser.get("/steer/steer-x/events").text)[-1][0] == "done"


def test_an_empty_workspace_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path / "d", demo=False, database_url=""), supervise=False)) as browser:
        assert "Nothing to steer with yet" in browser.get("/steer").text
        assert browser.post("/steer", data=fields()).status_code == 422
