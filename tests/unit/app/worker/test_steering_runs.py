"""Tests of active steering runs: their states with made-up events, and whole runs with a real worker process."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.engine import SessionFactory
from app.db.tables import SteerRun
from app.main import create_app
from app.settings import Settings
from app.worker.protocol import (
    Busy,
    Cell,
    Done,
    Event,
    Failed,
    Generate,
    Loading,
    Progress,
    Queued,
    Started,
    Swept,
    Text,
)
from app.worker.steering_runs import LiveRun, SteeringRuns
from sae.steering.request import Intervention, SteerRequest
from sae.store.build import Build
from tests.builds import make_build
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import HTMX, OTHER, SAE, events_of, fields, finished, made, words_of


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


def test_without_javascript_a_run_is_made_shown_and_kept(browser: TestClient, home: Path) -> None:
    place = made(browser)
    run = finished(browser, place)
    assert run["state"] == "succeeded"
    assert run["text"]["baseline"] != run["text"]["steered"]
    steered = run["request"]["interventions"][0]
    assert (steered["max_act"], steered["strength"]) == (maximum(home, 2), 3)
    page = browser.get(place).text
    assert "sse-connect" not in page
    assert run["text"]["steered"].strip()[:6] in words_of(page)
    assert browser.get(place).text == page
    assert 'value="2"' in page  # the form is filled with the request


def test_htmx_gets_the_stream_and_the_stream_ends_with_done(browser: TestClient) -> None:
    answer = browser.post("/steer", data=fields(), headers=HTMX)
    assert answer.status_code == 200
    place = answer.headers["HX-Push-Url"]
    assert f'sse-connect="{place}/events"' in answer.text
    events = events_of(browser, place)
    assert {name for name, _ in events} == {"baseline", "steered", "readout", "status", "done"}
    assert events[-1][0] == "done"
    last = dict(events)
    run = finished(browser, place)
    for name in ("baseline", "steered"):
        text = words_of(last[name]).replace("↵\n", "\n")
        assert text == "def main(" + run["text"][name]
        assert re.search(r'class="t a\d', last[name]) or name == "baseline"
    assert "16 tokens in both columns" in last["status"]
    again = events_of(browser, place)
    assert [(n, d) for n, d in again if n != "status"] == [
        (n, last[n]) for n in ("baseline", "steered", "readout", "done")]


def test_strength_zero_writes_the_baseline(browser: TestClient) -> None:
    run = finished(browser, made(browser, strength="0", length="30", temperature="1"))
    columns = run["result"]["columns"]
    assert columns["steered"] | {"kl": []} == columns["baseline"]
    assert set(columns["steered"]["kl"]) == {0}
    assert "token for token" in browser.get(f"/steer/{run['id']}").text


def test_latents_of_two_saes_with_modes_of_their_own(browser: TestClient) -> None:
    run = finished(browser, made(
        browser, sae=[SAE, OTHER, OTHER], latent=["2", "4", "6"], mode=["clamp", "remove", "scale"],
        target=["2", "1", "1"], factor=["0", "0", "-1"]))
    assert run["state"] == "succeeded"
    kept = [(i["layer"], i["latent"], i["mode"], i["strength"]) for i in run["request"]["interventions"]]
    assert kept == [(2, 2, "clamp", 2), (1, 4, "remove", 0), (1, 6, "scale", -1)]


def test_stop_keeps_what_was_written(browser: TestClient) -> None:
    place = made(browser, length="240")
    assert browser.post(f"{place}/stop").status_code == 303
    assert finished(browser, place)["state"] in ("stopped", "succeeded")


def test_killing_the_worker_is_told_and_the_next_run_works(browser: TestClient) -> None:
    worker = browser.app.state.worker  # type: ignore[attr-defined]
    finished(browser, made(browser))
    assert worker.pid is not None
    place = made(browser, length="240")
    os.kill(worker.pid, signal.SIGKILL)
    events = events_of(browser, place)
    assert events[-1] == ("done", "done")
    assert "model worker stopped" in dict(events)["status"]
    assert finished(browser, place)["state"] == "succeeded"  # started over in the next worker
    assert "model worker stopped" in browser.get(place).text
    assert finished(browser, made(browser))["state"] == "succeeded"


def test_too_many_runs_are_told_to_come_back_and_lose_nothing(browser: TestClient) -> None:
    answers = [browser.post("/steer", data=fields(length="200", prompt="def kept("), headers=HTMX) for _ in range(5)]
    refused = [a for a in answers if a.status_code == 503]
    assert len(refused) >= 1
    assert refused[0].headers["Retry-After"]
    assert "def kept(" in refused[0].text
    for answer in answers:
        if answer.status_code == 200:
            browser.post(f"{answer.headers['HX-Push-Url']}/stop")
            finished(browser, answer.headers["HX-Push-Url"])


def test_a_run_that_nobody_watches_is_stopped(home: Path, tmp_path: Path) -> None:
    for part in ("saes", "builds"):
        shutil.copytree(home / part, tmp_path / part)
    settings = Settings(home=tmp_path, demo=False, database_url="", worker_threads=1, steer_grace_s=0.05)
    with TestClient(create_app(settings, supervise=False), follow_redirects=False) as browser:
        place = made(browser, length="240")
        deadline = time.monotonic() + 60
        while browser.app.state.steering._live:  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert browser.get(f"{place}.json").json()["state"] == "stopped"


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
        assert events_of(browser, "/steer/steer-x")[-1][0] == "done"


# ---- without a page: states and events


GONE = Failed(message="The model worker stopped.", gone=True)
SOME = {"steered": Text(ids=[7], pieces=["a"])}


def test_events_move_a_run_on() -> None:
    live = LiveRun("steer-1")
    assert (live.state, live.final, live.result) == ("queued", False, None)
    for event, note in ((Queued(position=1), "next in line"), (Queued(position=3), "waiting: 2 before this one"),
                        (Loading(what="loading demo"), "loading demo")):
        live.take(event)
        assert (live.state, live.note) == ("queued", note)
    live.take(Started(prompt=Text(ids=[0], pieces=["<|bos|>"])))
    live.take(Progress(columns=SOME))
    assert (live.state, live.columns, live.final) == ("running", SOME, False)
    live.take(Done(columns=SOME, stopped=False, tokens=1, seconds=0.5))
    assert (live.state, live.final) == ("succeeded", True)
    assert live.result is not None
    assert live.result["prompt"]["ids"] == [0]
    assert live.result["columns"]["steered"]["ids"] == [7]
    assert (live.result["tokens"], live.result["seconds"], live.result["stopped"]) == (1, 0.5, False)


def test_a_stopped_run_and_a_sweep_keep_their_texts() -> None:
    live = LiveRun("steer-1")
    live.take(Done(columns=SOME, stopped=True, tokens=1, seconds=0.5))
    assert live.state == "stopped"
    swept = LiveRun("steer-2")
    swept.take(Progress(columns={"0": SOME["steered"]}))
    cell = Cell(strength=None, text=SOME["steered"], concept=None, repetition=None, perplexity=None)
    swept.take(Swept(cells=[cell], stopped=False, tokens=1, seconds=0.5))
    assert swept.result is not None
    assert (swept.state, swept.result["columns"], len(swept.result["cells"])) == ("succeeded", {}, 1)


def test_a_worker_that_dies_is_forgiven_once() -> None:
    live = LiveRun("steer-1")
    live.take(Progress(columns=SOME))
    live.take(GONE)
    assert (live.state, live.restarted, live.columns, live.final) == ("queued", GONE.message, {}, False)
    live.take(Progress(columns=SOME))
    live.take(GONE)
    assert (live.state, live.error) == ("failed", GONE.message)
    assert live.result is not None, "the text so far is kept"
    assert (live.result["stopped"], live.result["restarted"]) == (True, GONE.message)


def test_a_refused_run_says_why_and_has_no_text() -> None:
    live = LiveRun("steer-1")
    live.take(Busy(retry_after_s=4))
    assert (live.state, live.result) == ("failed", None)
    assert live.error == "The model worker is busy; try again in 4 s."
    wrong = LiveRun("steer-2")
    wrong.take(Failed(message="prompt: too long", field="prompt"))
    assert (wrong.error, wrong.error_field) == ("prompt: too long", "prompt")


def test_every_watcher_sees_the_end() -> None:
    async def watch(live: LiveRun) -> list[str]:
        return [seen.state async for seen in live.watch()]

    async def both() -> list[list[str]]:
        live = LiveRun("steer-1")
        early = [asyncio.create_task(watch(live)) for _ in range(2)]
        await asyncio.sleep(0)
        assert live.viewers == 2
        for event in (Started(prompt=Text()), Done(columns={}, stopped=False, tokens=0, seconds=0)):
            live.take(event)
            live.settled = live.final  # as when its result is stored
            live.notify()
            await asyncio.sleep(0.001)
        late = await watch(live)
        assert live.viewers == 0
        return [*await asyncio.gather(*early), late]

    assert asyncio.run(both()) == [["queued", "running", "succeeded"]] * 2 + [["succeeded"]]


REQUEST = SteerRequest(model="demo", prompt="x", interventions=(Intervention(sae=SAE, layer=2, latent=1, max_act=1),))


def run_with(
    sessions: SessionFactory, says: list[list[Event | None]],
    use: Callable[[SteeringRuns, FakeWorker], Awaitable[None]], grace_s: float = 60.0,
) -> SteerRun:
    """Start a run before a made-up worker, call `use` while it is active, and return its row at the end."""
    with sessions() as db:
        db.add(SteerRun(id="steer-1", sae_id=SAE, request={}))
        db.commit()

    async def go() -> None:
        worker = FakeWorker()
        worker.says = says
        runs = SteeringRuns(sessions, worker, max_live=1, grace_s=grace_s)  # type: ignore[arg-type]
        live = runs.start("steer-1", Generate(request=REQUEST, folders={}))
        await use(runs, worker)
        async with asyncio.timeout(30):
            while runs.get("steer-1") is not None and not live.final:
                await asyncio.sleep(0.002)
        await runs.close()

    asyncio.run(go())
    with sessions() as db:
        return db.get_one(SteerRun, "steer-1")


async def nothing(runs: SteeringRuns, worker: FakeWorker) -> None:
    assert runs.full


def test_a_finished_run_is_stored_and_makes_room(sessions: SessionFactory) -> None:
    async def until_the_end(runs: SteeringRuns, worker: FakeWorker) -> None:
        assert runs.full
        live = runs.get("steer-1")
        assert live is not None
        async for _ in live.watch():
            pass
        assert runs.get("steer-1") is None
        assert not runs.full
        runs.stop("steer-1")  # nothing to stop

    row = run_with(sessions, [], until_the_end)
    assert (row.state, row.error) == ("succeeded", None)
    assert row.result is not None
    assert set(row.result["columns"]) == {"baseline", "steered"}


def test_a_fault_of_the_server_ends_the_run(sessions: SessionFactory, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(runs: SteeringRuns, worker: FakeWorker) -> None:
        def ask(*_: Any) -> None:
            raise RuntimeError("a bug")

        worker.ask = ask  # type: ignore[method-assign, assignment]

    row = run_with(sessions, [], broken)
    assert (row.state, row.error) == ("failed", "The server failed: RuntimeError: a bug")
    assert "steer-1" in caplog.text


def test_nobody_watching_stops_a_run(sessions: SessionFactory) -> None:
    stopped = Done(columns=SOME, stopped=True, tokens=1, seconds=0.1)
    row = run_with(sessions, [[Started(prompt=Text()), None, stopped]], nothing, grace_s=-1.0)
    assert row.state == "stopped"


def test_runs_that_the_last_server_left_are_failed(sessions: SessionFactory) -> None:
    with sessions() as db:
        states = ("queued", "running", "succeeded", "stopped")
        db.add_all([SteerRun(id=state, sae_id=SAE, request={}, state=state) for state in states])
        db.commit()
    SteeringRuns(sessions, FakeWorker(), max_live=1, grace_s=1).recover()  # type: ignore[arg-type]
    with sessions() as db:
        assert {row.id: row.state for row in db.query(SteerRun)} == {
            "queued": "failed", "running": "failed", "succeeded": "succeeded", "stopped": "stopped"}
