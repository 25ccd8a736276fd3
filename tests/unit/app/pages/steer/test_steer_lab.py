"""The steering lab before a made-up worker: modes, columns, samples, chat, sweeps, read-outs, a worker that dies."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.library import labels
from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from app.worker.protocol import Failed, Loading, Progress, Queued, Started, Text
from sae.lm.model_info import DEMO_PATH
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker

SAE, OTHER = "demo/2-one", "demo/1-other"
HTMX = {"HX-Request": "true"}
JSON = {"Accept": "application/json"}
GONE = Failed(message="The model worker stopped during this request. The next run starts it again.", gone=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two SAEs of the embedded model, and one of a model that chats."""
    settings = Settings(home=tmp_path_factory.mktemp("lab"), demo=False, database_url="")
    chatty = settings.home / "chatty"
    shutil.copytree(DEMO_PATH, chatty, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    (chatty / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    for sae_id, model in ((SAE, "demo"), (OTHER, "demo"), ("chatty/2-one", str(chatty))):
        layer = int(sae_id.partition("/")[2][0])
        write_sae(settings.workspace, sae_id, n_latents=60, model={"name": model, "id": sae_id.partition("/")[0]},
                  site={"layer": layer, "hook": f"blocks.{layer}.hook_resid_post"})
        path = settings.home / "builds" / sae_id / "build-1.duckdb"
        path.parent.mkdir(parents=True)
        make_build(path, sae_id=sae_id, n_latents=60)
    return settings.home


@pytest.fixture(scope="module")
def program(home: Path) -> Iterator[TestClient]:
    app = create_app(Settings(home=home, demo=False, database_url="", steers_per_minute=1e6), supervise=False)
    with TestClient(app, follow_redirects=False) as client:
        yield client


@pytest.fixture
def worker(program: TestClient) -> FakeWorker:
    fake = FakeWorker()
    state = program.app.state  # type: ignore[attr-defined]
    state.steering._worker, state.cached_requests = fake, CachedRequests(fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture
def browser(program: TestClient, worker: FakeWorker) -> TestClient:
    return program


def fields(**changes: Any) -> dict[str, Any]:
    return {"prompt": "def main(", "sae": SAE, "latent": "2", "mode": "add", "strength": "3", "target": "2",
            "factor": "0.5", "length": "8", "seed": "1", **changes}


def made(browser: TestClient, path: str = "/steer", **changes: Any) -> str:
    answer = browser.post(path, data=fields(**changes))
    assert answer.status_code == 303, words_of(answer.text)[-1500:]
    return str(answer.headers["location"])


def finished(browser: TestClient, place: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        run: dict[str, Any] = browser.get(f"{place}.json").json()
        if run["state"] in ("succeeded", "failed", "stopped"):
            return run
        assert time.monotonic() < deadline
        time.sleep(0.01)


def faults(browser: TestClient, path: str = "/steer", **changes: Any) -> dict[str, str]:
    answer: Response = browser.post(path, data=fields(**changes), headers=JSON)
    assert answer.status_code == 422, answer.text
    errors: dict[str, str] = answer.json()["errors"]
    page = browser.post(path, data=fields(**changes))
    assert page.status_code == 422
    fragment = browser.post(path, data=fields(**changes), headers=HTMX)
    assert (fragment.status_code, fragment.headers["HX-Retarget"]) == (422, "#steer-form")
    for name in errors:
        assert f'id="{name}-error"' in page.text, name
        assert f'id="{name}-error"' in fragment.text, name
    return errors


def events_of(browser: TestClient, place: str) -> list[tuple[str, str]]:
    out = []
    for block in browser.get(f"{place}/events").text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if name := next((line[7:] for line in lines if line.startswith("event: ")), None):
            out.append((name, "\n".join(line[6:] for line in lines if line.startswith("data: "))))
    return out


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


# ---- the form


@pytest.mark.parametrize(("mode", "strength"), [
    ("add", 3), ("clamp", 2), ("scale", 0.5), ("ablate", 0), ("remove", 0)])
def test_every_mode_takes_its_own_number(browser: TestClient, mode: str, strength: float) -> None:
    place = made(browser, mode=mode)
    kept = finished(browser, place)["request"]["interventions"][0]
    assert (kept["mode"], kept["strength"]) == (mode, strength)
    form = browser.get(f"/steer?fork={place.removeprefix('/steer/')}").text
    assert f'<option value="{mode}" selected' in form
    for name in ("strength", "target", "factor"):  # three sliders, none of which ever means another thing
        assert form.count(f'data-name="{name}"') == 1


def test_sampling_and_columns_go_into_the_request_and_back_into_the_form(browser: TestClient) -> None:
    place = made(browser, samples="2", control="1", repetition_penalty="1.3", top_k="40", top_p="0.5",
                 stop="\\n\\n\r\nend\\\\", special="1", positions="from", start="3")
    asked = finished(browser, place)["request"]
    assert asked["columns"] == ["baseline", "steered", "control"]
    assert asked["samples"] == 2
    assert asked["sampling"]["stop"] == ["\n\n", "end\\"]
    assert asked["sampling"]["repetition_penalty"] == 1.3
    assert asked["where"] == {"positions": "from", "start": 3, "special": True}
    page = browser.get(place).text
    assert "\\n\\n\nend\\\\</textarea>" in page
    assert re.search(r'name="control" value="1" checked', page)
    again = made(browser, **{**form_fields(page), "seed": "1"})
    assert finished(browser, again)["request"] == asked


def form_fields(page: str) -> dict[str, Any]:
    """What a browser would send of the page's form."""
    form = page[page.index('<form id="steer-form"'):]
    form = form[:form.index("</form>")]
    out: dict[str, Any] = {}
    for tag in re.findall(r"<input[^>]*>", form):
        found = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if found.get("name") and (found.get("type") != "checkbox" or " checked" in tag):
            out.setdefault(found["name"], []).append(unescape(found.get("value", "")))
    for name, options in re.findall(r'<select[^>]*name="(\w+)"[^>]*>(.*?)</select>', form, re.S):
        out.setdefault(name, []).append(re.findall(r'value="([^"]*)" selected', options)[0])
    for name, text in re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>\n(.*?)</textarea>', form, re.S):
        out.setdefault(name, []).append(unescape(text))
    out.pop("add", None)
    return out


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"mode": "clamp", "target": "nan"}, "target-0", "finite number"),
    ({"mode": "clamp", "target": "1e9"}, "target-0", "−100 to 100"),
    ({"mode": "scale", "factor": "x"}, "factor-0", "−100 to 100"),
    ({"strength": "-inf"}, "strength-0", "finite number"),
    ({"samples": "0"}, "samples", "1 to 8"),
    ({"samples": "9"}, "samples", "1 to 8"),
    ({"repetition_penalty": "0.5"}, "repetition_penalty", "1 to 2"),
    ({"stop": "a\nb\nc\nd\ne"}, "stop", "Stop strings must be at most 4; 5 are given"),
    ({"stop": "x" * 65}, "stop", "at most 64 characters"),
    ({"latent": [str(n) for n in range(17)], "mode": ["ablate"] * 17}, "add", "at most 16"),
    ({"chat": "1"}, "chat", "no chat template"),
    ({"length": "-1"}, "length", "1 to 512"),
    ({"prompt": ""}, "prompt", "Type some text"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "prompt", "Type some text"),  # all at once
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "length", "Length must be a whole number from 1"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "strength-0", "Strength must be a number from"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "latent-0", "there is no 99"),
    ({"prompt": "x" * 50_001}, "prompt", "Prompt must be at most 50,000 characters"),
    ({"start": "1000001"}, "start", "From position must be a whole number from 0 to 1,000,000"),
    ({"top_k": "9" * 5000}, "top_k", "Top-k must be a whole number"),
])
def test_a_fault_is_told_at_its_field(
    browser: TestClient, worker: FakeWorker, changes: dict[str, Any], at: str, words: str
) -> None:
    assert words in faults(browser, **changes)[at]
    assert not worker.asked


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"sweep": "1 two"}, "sweep", "Each strength must be a number from −100 to 100"),
    ({"sweep": "1 nan"}, "sweep", "Each strength must be a finite number"),
    ({"sweep": "1 1000"}, "sweep", "Each strength must be a number from −100 to 100"),
    ({"sweep": " ".join(map(str, range(17)))}, "sweep", "Strengths must be at least 1 and at most 16; 17 are given"),
    ({"sweep": "1", "mode": "ablate"}, "sweep_of", "added, clamped or scaled"),
    ({"sweep": "1", "sweep_of": "4"}, "sweep_of", "added, clamped or scaled"),
    ({"sweep": "1", "prompt": " "}, "prompt", "Type some text"),
])
def test_a_fault_of_a_sweep_is_told_at_its_field(
    browser: TestClient, changes: dict[str, Any], at: str, words: str
) -> None:
    assert words in faults(browser, "/steer/sweep", **changes)[at]


def test_an_address_with_very_many_latents_is_refused_at_once(browser: TestClient) -> None:
    many = [("sae", SAE), *(("latent", str(n % 60)) for n in range(33))]
    for answer in (browser.get("/steer", params=many), browser.get("/steer.json", params=many),
                   browser.post("/steer/form", data=fields(latent=[n for _, n in many[1:]]))):
        assert answer.status_code == 422
        assert "33 latents are given, and at most 32 are possible" in answer.text
        assert "steer-form" not in answer.text
    assert browser.get("/steer", params=many[:-1]).text.count('class="chip"') == 32


def test_opening_the_page_warms_the_worker(browser: TestClient, worker: FakeWorker) -> None:
    assert not worker.asked
    assert "/steer/warm?sae=" in browser.get(f"/steer?sae={SAE}&latent=2").text
    assert browser.get("/steer/warm", params={"sae": SAE}).status_code == 204
    assert [message.type for message in worker.asked] == ["warm"]
    assert browser.get("/steer/warm", params={"sae": "demo/none"}).status_code == 204


def test_the_best_sae_is_the_first_choice_not_the_newest(home: Path) -> None:
    settings = Settings(home=home.parent / "choice", demo=False, database_url="")
    for sae_id, fvu, created in ((SAE, 0.1, 1e9), (OTHER, 0.5, 2e9)):
        write_sae(settings.workspace, sae_id, n_latents=60, metrics={"fvu": fvu}, created=created)
        shutil.copytree(home / "builds" / sae_id, settings.home / "builds" / sae_id)
    with TestClient(create_app(settings, supervise=False)) as program:
        assert program.app.state.catalog.list_saes()[0].id == OTHER  # type: ignore[attr-defined]
        assert program.get("/steer.json").json()["latents"][0]["sae"] == SAE
        assert program.get("/inspect.json").json()["sae"] == SAE


# ---- finding latents, and earlier runs


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


# ---- texts


def test_columns_of_every_sample_stream_by_their_names(browser: TestClient) -> None:
    place = made(browser, samples="2", control="1")
    events = dict(events_of(browser, place))
    columns = ["baseline", "steered", "control", "baseline.2", "steered.2", "control.2"]
    assert [name for name in events if name in columns] == columns
    assert list(events)[-1] == "done"
    assert "48 tokens in all columns" in words_of(events["status"])
    assert "KL to the unsteered model" in events["readout"]
    page = browser.get(place).text
    for name in columns:
        assert f'id="{name}"' in page
    assert "Sample 2" in words_of(page)
    assert "Random control" in words_of(page)


def test_a_finished_text_leads_from_each_token_to_what_might_have_stood_there(
    browser: TestClient, worker: FakeWorker
) -> None:
    place = made(browser)
    run = finished(browser, place)
    links = re.findall(rf'href="({place}/next/steered/\d+)"', browser.get(place).text)
    assert len(links) > 8
    fragment = browser.get(links[-1], headers=HTMX).text
    assert "<html" not in fragment
    assert "In place of" in fragment
    assert "sampled" in words_of(fragment)
    asked = worker.asked[-1].request
    prompt, output = run["result"]["prompt"]["ids"], run["result"]["columns"]["steered"]["ids"]
    assert list(asked.ids) == prompt + output
    assert asked.prompt_tokens == len(prompt)
    last = len(prompt + output) - 1
    assert list(asked.positions) == [last - 1, last]
    assert "<html" in browser.get(links[-1]).text
    rows = browser.get(links[-1] + ".json").json()["tables"][0]["rows"]
    assert {"id", "piece", "baseline", "steered"} == set(rows[0])
    for wrong in ("steered/0", "steered/999", "nothing/3", "7/3"):
        assert browser.get(f"{place}/next/{wrong}").status_code == 404
    assert len([m for m in worker.asked if m.type == "readout"]) == 1
    worker.says = [[Failed(message="steering: no", field="x")]]
    assert "steering: no" in browser.get(links[0], headers=HTMX).text


def test_one_latents_activation_may_colour_the_text(browser: TestClient) -> None:
    place = made(browser, latent=["2", "4"], strength=["1", "1"], mode=["add", "add"], target=["1", "1"],
                 factor=["1", "1"])
    finished(browser, place)
    assert "the steered latents fire" in words_of(browser.get(place).text)
    fragment = browser.get(f"{place}?by=1", headers=HTMX).text
    assert "latent 4 fires" in words_of(fragment)
    assert "<html" not in fragment


def test_a_chat_is_asked_by_the_template_and_goes_on(browser: TestClient) -> None:
    sae = "chatty/2-one"
    assert 'name="chat"' in browser.get(f"/steer?sae={sae}&latent=2").text
    assert 'name="chat"' not in browser.get(f"/steer?sae={SAE}&latent=2").text
    place = made(browser, sae=sae, chat="1", system="Be brief.", prompt="Hello?")
    run = finished(browser, place)
    assert run["request"]["prompt"] == ""
    assert run["request"]["chat"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    page = browser.get(place).text
    assert "Be brief.</textarea>" in page
    reply = f"/steer?fork={run['id']}&reply=steered"
    assert unescape(reply) in unescape(page)
    form = form_fields(browser.get(reply).text)
    assert form["role"] == ["user", "assistant"]
    assert form["content"] == ["Hello?", run["text"]["steered"]]
    second = made(browser, **{**form, "prompt": "And then?"})
    said = [message["role"] for message in finished(browser, second)["request"]["chat"]]
    assert said == ["system", "user", "assistant", "user"]
    forgotten = browser.post("/steer/form", data={**form, "forget": "1"}, headers=HTMX).text
    assert 'name="role"' not in forgotten


def test_a_run_is_also_a_program(browser: TestClient) -> None:
    place = made(browser, prompt='say("hi")')
    finished(browser, place)
    program = browser.get(f"{place}.py")
    compile(program.text, "run.py", "exec")
    assert "transformer_lens" in program.text
    assert program.headers["content-type"].startswith("text/x-python")


# ---- sweeps


def test_a_sweep_is_a_run_with_a_grid_whose_cells_open(browser: TestClient, worker: FakeWorker) -> None:
    place = made(browser, "/steer/sweep", sweep="4, 1 −1 0.5 2 1")
    run = finished(browser, place)
    assert run["sweep"]["strengths"] == [-1, 0.5, 1, 2, 4]
    assert worker.asked[0].request.concept
    page = browser.get(place).text
    said = words_of(page)
    assert page.count("<details class=\"sweep-row") == 6
    assert "Perplexity under the unsteered model" in said
    # 4·(1 + s) is at most three times 4 up to s = 2, and s / 12 at most 0.2 above 0: usable are ±1, 0.5 and 2
    assert page.count('class="sweep-row usable"') == 4
    link = unescape(re.findall(r'href="(/steer\?fork=[^"]+strength=2[^"]*)"', page)[0])
    assert browser.get(link.replace("/steer?", "/steer?")).status_code == 200
    assert 'name="strength" value="2"' in browser.get(link).text
    token = re.findall(rf'href="({place}/next/5/\d+)"', page)[0]
    assert "In place of" in browser.get(token, headers=HTMX).text
    assert worker.asked[-1].request.request.interventions[0].strength == 4
    events = dict(events_of(browser, place))
    assert set(events) == {"sweep", "status", "done"}
    assert "texts" in words_of(events["status"])


def test_a_sweep_without_strengths_takes_those_that_suit_the_latent(browser: TestClient) -> None:
    form = browser.get(f"/steer?sae={SAE}&latent=2").text
    shown = unescape(re.findall(r'name="sweep"[^>]*value="" placeholder="([^"]+)"', form)[0])
    place = made(browser, "/steer/sweep")
    strengths = finished(browser, place)["sweep"]["strengths"]
    assert strengths == [float(word.replace("−", "-")) for word in shown.split()]
    assert browser.get(f"/steer.json?sae={SAE}&latent=2").json()["sweep"] == shown
    breaks = float(re.findall(r"breaks? (?:past|beyond) ±([\d.]+)", words_of(form))[0])
    assert max(strengths) == pytest.approx(1.5 * breaks, rel=0.1)
    assert min(strengths) == -max(strengths)
    flags = words_of(re.findall(r'<span class="flag">(.*?)</span>', browser.get(place).text, re.S)[-1])
    assert flags == f"add 2 at {len(strengths)} strengths", "the strength of the form is not that of the sweep"


def test_a_sweep_says_first_which_strengths_are_usable_or_where_to_look(browser: TestClient) -> None:
    place = made(browser, "/steer/sweep", sweep="0.5 1 2 4")
    finished(browser, place)
    page = browser.get(place).text
    assert "Usable: +0.5 to +2 × max" in " ".join(words_of(page).split())
    assert page.index("Usable:") < page.index("Perplexity under the unsteered model")
    place = made(browser, "/steer/sweep", sweep="4 8")
    finished(browser, place)
    page = browser.get(place).text
    assert "None of these is usable (all are too strong: no text still reads well); try +0.4 to +4." in " ".join(
        words_of(page).split())
    button = re.findall(r'<button[^>]*formaction="/steer/sweep" name="sweep" value="([^"]+)">Sweep there', page)
    there = made(browser, "/steer/sweep", sweep=["4 8", button[0]])  # as a browser sends field and button
    assert finished(browser, there)["sweep"]["strengths"] == [float(word) for word in button[0].split()]
    assert "Usable: +" in words_of(browser.get(there).text)


def test_a_clamp_and_a_factor_are_swept_in_their_own_units(browser: TestClient) -> None:
    for mode, unit in (("clamp", "strength, × max"), ("scale", "factor")):
        place = made(browser, "/steer/sweep", sweep="0 1 2", mode=mode)
        finished(browser, place)
        assert unit in words_of(browser.get(place).text)
        page = browser.get(place).text
        assert page.count("<details class=\"sweep-row") == 4


# ---- what goes wrong


def test_a_worker_that_dies_is_told_of_and_the_run_begins_anew(browser: TestClient, worker: FakeWorker) -> None:
    some = worker.text([300, 301], 1)
    started = Started(prompt=worker.text([0, 400], 1))
    worker.says = [[started, Progress(columns={"steered": some}), GONE]]
    place = made(browser)
    run = finished(browser, place)
    assert run["state"] == "succeeded"
    assert len(worker.asked) == 2
    assert worker.asked[0] == worker.asked[1]
    said = words_of(browser.get(place).text)
    assert "The model worker stopped" in said
    assert "started over" in said
    worker.says = [[started, GONE], [Loading(what="x"), GONE]]
    twice = made(browser)
    assert finished(browser, twice)["state"] == "failed"
    assert "Try again" in browser.get(twice).text
    assert finished(browser, made(browser))["state"] == "succeeded"


def test_the_place_in_the_queue_is_shown(browser: TestClient, worker: FakeWorker) -> None:
    worker.says = [[Queued(position=3), None]]
    place = made(browser)
    deadline = time.monotonic() + 30
    while "waiting: 2 before this one" not in browser.get(place).text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "sse-connect" in browser.get(place).text
    browser.post(f"{place}/stop")
    worker.says = []
    assert finished(browser, place)["state"] in ("stopped", "succeeded")


def test_a_run_of_an_older_program_is_still_shown(browser: TestClient) -> None:
    from app.db.tables import SteerRun

    asked = {"model": "demo", "prompt": "x", "interventions": [{"sae": SAE, "layer": 2, "latent": 1, "max_act": 1}]}
    text = {"ids": [300], "pieces": ["a"], "acts": [[0.5]], "finish": "length"}
    result = {"prompt": Text().model_dump(), "columns": {"baseline": text, "steered": text}, "tokens": 2, "seconds": 1}
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        db.add(SteerRun(id="steer-old", sae_id=SAE, state="succeeded", result=json.loads(json.dumps(result)),
                        request={"steer": asked, "saes": {}}))
        db.commit()
    assert "token for token" in browser.get("/steer/steer-old").text
