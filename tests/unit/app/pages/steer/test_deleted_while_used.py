"""An SAE that is deleted while a text is written with it, an index of it is made, and its pages are open."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.access import accounts
from app.db.tables import LatentEffect, Run
from app.jobs import queue
from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from app.worker.protocol import Done, Event, LatentScore, Part, Progress, Scored, Started
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import HTMX, SAE, events_of, finished, made

PAGE = {"Accept": "text/html"}
_NUMBERS = itertools.count(1)  # of builds: their paths are never used again
GONE = f"There is no SAE {SAE}"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path_factory.mktemp("gone"), demo=False, database_url="", steers_per_minute=1e6)
    with TestClient(create_app(settings, supervise=False), follow_redirects=False) as client:
        yield client


@pytest.fixture
def worker(program: TestClient) -> FakeWorker:
    fake, state = FakeWorker(), program.app.state  # type: ignore[attr-defined]
    state.steering._worker, state.cached_requests = fake, CachedRequests(fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "build.duckdb"
    make_build(path, sae_id=SAE, n_latents=60)
    return path


@pytest.fixture
def browser(program: TestClient, worker: FakeWorker, built: Path) -> TestClient:
    """An administrator before a program with one SAE, which has a page open."""
    state = program.app.state  # type: ignore[attr-defined]
    write_sae(state.settings.workspace, SAE, n_latents=60)
    path = state.settings.home / "builds" / SAE / f"build-{next(_NUMBERS)}.duckdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(built, path)
    state.catalog.sync()
    with state.sessions() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        program.cookies.set(accounts.COOKIE, accounts.open_session(db, user, state.settings))
    for page in ("", "/latents", "/3", "/tokens"):
        assert program.get(f"/{SAE}{page}").status_code == 200, page
    return program


def _delete(browser: TestClient) -> int:
    return browser.post(f"/admin/saes/{SAE}/delete", data={"sure": "yes"}, headers=PAGE).status_code


def _home(browser: TestClient) -> Path:
    home: Path = browser.app.state.settings.home  # type: ignore[attr-defined]
    return home


def _half_and_whole(worker: FakeWorker) -> list[Event | None]:
    """The events of a run that stands still after half of its text."""
    prompt, half, whole = (worker.text(range(300, 300 + n), 1, kl=[0.1] * n) for n in (3, 4, 8))
    columns = {key: whole.model_copy(update={"finish": "length"}) for key in ("baseline", "steered")}
    return [Started(prompt=prompt), Progress(columns={"baseline": half, "steered": half}), None,
            Done(columns=columns, stopped=False, tokens=16, seconds=1.0)]


def _wait_for_text(browser: TestClient, place: str) -> None:
    deadline = time.monotonic() + 30
    steering = browser.app.state.steering  # type: ignore[attr-defined]
    while not ((run := steering.get(place.removeprefix("/steer/"))) and run.columns):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_index_at_work_keeps_it_and_says_so(browser: TestClient) -> None:
    state = browser.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        run = queue.enqueue(db, state.settings.workspace, "index", {"sae": SAE}, "ada")
        db.get_one(Run, run.id).state = "running"
        db.commit()
        refused = browser.post(f"/admin/saes/{SAE}/delete", data={"sure": "yes"}, headers=PAGE)
        assert refused.status_code == 409
        assert f'href="/runs/{run.id}"' in refused.text
        assert browser.get(f"/{SAE}/3").status_code == 200
        db.get_one(Run, run.id, populate_existing=True).state = "cancelled"
        db.commit()
    assert _delete(browser) == 303
    page = browser.get(f"/runs/{run.id}", headers=PAGE)
    assert page.status_code == 200
    assert f'href="/{SAE}"' not in page.text


def test_a_text_that_is_being_written_ends_well(browser: TestClient, worker: FakeWorker) -> None:
    worker.says = [_half_and_whole(worker)]
    place = made(browser, control="")
    _wait_for_text(browser, place)
    assert _delete(browser) == 303
    assert browser.get(f"{place}.json").json()["state"] == "running"
    for headers in (PAGE, PAGE | HTMX):
        assert browser.get(place, headers=headers).status_code == 200
    browser.portal.call(worker.go.set)  # type: ignore[union-attr]
    assert events_of(browser, place)[-1] == ("done", "done")
    assert finished(browser, place)["state"] == "succeeded"
    page = browser.get(place, headers=PAGE)
    assert page.status_code == 200
    assert f"{SAE} is no longer here" in page.text
    assert f'href="/{SAE}' not in page.text, "a dead link"
    program = browser.get(f"{place}.py", headers=PAGE)
    assert (program.status_code, f"{SAE}, with which this run was steered, is no longer here" in program.text) == (
        404, True)
    again = browser.post("/steer", data={"sae": SAE, "latent": "2", "mode": "add", "strength": "1", "prompt": "x"})
    assert again.status_code == 422
    assert SAE in again.text


def test_a_text_can_be_stopped_after_it(browser: TestClient, worker: FakeWorker) -> None:
    worker.says = [_half_and_whole(worker)[:3]]
    place = made(browser, control="")
    _wait_for_text(browser, place)
    assert _delete(browser) == 303
    assert browser.post(f"{place}/stop", headers=HTMX).status_code == 204


def test_open_pages_get_a_clear_answer_and_nothing_is_left(browser: TestClient, worker: FakeWorker) -> None:
    measured = Scored(scores=[LatentScore(latent=3, score=0.5, tokens=[1])], stopped=False)
    worker.says = [[Part(done=0.5), None, measured], [Part(done=0.5), None]]
    assert "measuring" in browser.post(f"/effects/{SAE}/3", headers=HTMX).text
    assert _delete(browser) == 303
    browser.portal.call(worker.go.set)  # type: ignore[union-attr]
    place = f"/{SAE}/3"
    for path in (place, f"/{SAE}/latents?sort=density", f"/effects{place}", f"/inspect{place}", f"{place}.json"):
        answer = browser.get(path, headers=HTMX | PAGE)
        assert (answer.status_code, GONE in answer.text) == (404, True), path
    for path, data in ((f"{place}/label", {"text": "x"}), (f"{place}/star", {"on": "1"}),
                       (f"{place}/comments", {"text": "x"}), (f"{place}/explanations", {"text": "x"}),
                       (f"/inspect{place}", {"text": "x"}), (f"/effects{place}", {})):
        answer = browser.post(path, data=data, headers=HTMX | PAGE)
        assert (answer.status_code, GONE in answer.text) == (404, True), path
    inspected = browser.post("/inspect", data={"sae": SAE, "text": "x"}, headers=PAGE)
    assert (inspected.status_code, f"there is no SAE &#39;{SAE}&#39; here" in inspected.text) == (422, True)
    name = SAE.partition("/")[2]
    assert [path for path in _home(browser).rglob("*") if name in str(path.relative_to(_home(browser)))] == []
    assert not (_home(browser) / "trash").exists()
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        assert db.query(LatentEffect).count() == 0
