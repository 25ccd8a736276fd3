"""A latent's effects before a made-up worker: asked for, shown, kept with the build; scores of many latents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app.db.tables import LatentEffect
from app.library import latent_effects
from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from app.worker.protocol import Busy, Part
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker

SAE = "demo/2-one"
HTMX = {"HX-Request": "true"}
DEAD = 7


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path_factory.mktemp("effects"), demo=False, database_url="", steers_per_minute=1e6)
    write_sae(settings.workspace, SAE, n_latents=60)
    path = settings.home / "builds" / SAE / "build-1.duckdb"
    path.parent.mkdir(parents=True)
    make_build(path, sae_id=SAE, n_latents=60)
    with TestClient(create_app(settings, supervise=False), follow_redirects=False) as client:
        yield client


@pytest.fixture
def worker(program: TestClient) -> FakeWorker:
    fake = FakeWorker()
    program.app.state.cached_requests = CachedRequests(fake)  # type: ignore[attr-defined, arg-type]
    return fake


@pytest.fixture
def browser(program: TestClient, worker: FakeWorker) -> TestClient:
    with program.app.state.sessions() as db:  # type: ignore[attr-defined]
        db.query(LatentEffect).delete()
        db.commit()
    return program


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html))


def test_effects_are_measured_on_request_and_kept(browser: TestClient, worker: FakeWorker) -> None:
    place = f"/effects/{SAE}/2"
    assert "Measure" in browser.get(place).text
    assert browser.get(place + ".json").json()["score"] is None
    assert not worker.asked
    answer = browser.post(place)
    assert (answer.status_code, answer.headers["location"]) == (303, place)
    page = browser.get(place).text
    assert "Measure" not in page
    said = words_of(page)
    assert "+0.0200" in said  # made up: 0.01 × latent
    assert "ΔCE where it fires" in said
    assert "0.200" in said
    kept = browser.get(place + ".json").json()
    assert kept["score"] == pytest.approx(0.02)
    assert kept["ablation"]["effect"]["ce_at"][0] == 0.2
    assert {m.type for m in worker.asked} == {"score", "ablate"}
    fragment = browser.post(place, headers=HTMX).text
    assert "<html" not in fragment
    assert len(worker.asked) == 2  # nothing is measured twice


def test_what_goes_on_and_what_went_wrong_is_told(browser: TestClient, worker: FakeWorker) -> None:
    place = f"/effects/{SAE}/3"
    worker.says = [[Part(done=0.5), None], [Busy(retry_after_s=5)]]
    going = browser.post(place, headers=HTMX).text
    assert "went" not in going
    assert "model worker is busy" in going
    assert "measuring" in words_of(browser.get(place, headers=HTMX).text)
    assert browser.get(f"/effects/{SAE}/60").status_code == 404
    assert browser.get("/effects/demo/none/1").status_code == 404


def test_scores_of_many_latents(browser: TestClient, worker: FakeWorker) -> None:
    many = f"/effects/{SAE}/scores"
    answer = browser.post(many, data={"latent": ["4", "5", str(DEAD)]}, headers={"Accept": "application/json"})
    assert answer.json()["scores"] == {"4": pytest.approx(0.04), "5": pytest.approx(0.05), str(DEAD): None}
    more = browser.post(many, data={"latent": ["5", "6"]})
    assert more.status_code == 303
    assert worker.asked[1].request.latents == (6,)
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        assert sorted(latent_effects.scores(db, SAE, "build-1")) == [4, 5, 6]
    for wrong in (["60"], ["x"], []):
        assert browser.post(many, data={"latent": wrong}).status_code == 422
    worker.says = [[Busy(retry_after_s=7)]]
    busy = browser.post(many, data={"latent": ["9"]})
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "7")


def test_measured_scores_are_a_sortable_column(browser: TestClient) -> None:
    table = f"/{SAE}/latents"
    assert "sort=score" not in browser.get(table).text
    assert browser.get(table + "?sort=score&dir=desc").status_code == 200  # none is known: by number
    assert "Measure output scores" in words_of(browser.get(table).text)
    browser.post(f"/effects/{SAE}/scores", data={"latent": ["4", "9", "6"]})
    page = browser.get(table + "?sort=score&dir=desc")
    assert "output score ↓" in words_of(page.text)
    shown = browser.get(table + ".json?sort=score&dir=desc&limit=5").json()
    assert [row["latent"] for row in shown["latents"]] == [9, 6, 4, 0, 1]
    assert shown["output_scores"] == {"4": pytest.approx(0.04), "6": pytest.approx(0.06), "9": pytest.approx(0.09)}
    rest = browser.get(table + ".json", params={"sort": "score", "dir": "desc", "cursor": shown["next"], "limit": 100})
    assert {row["latent"] for row in rest.json()["latents"]} == set(range(60)) - {9, 6, 4, 0, 1}
    assert '6" rel="next"' not in browser.get(f"/{SAE}/6?sort=score&dir=desc").text
    assert f'rel="next" href="/{SAE}/4?' in browser.get(f"/{SAE}/6?sort=score&dir=desc").text
    filtered = browser.get(table + ".json?sort=score&dir=desc&flag=alive&density=1e-2").json()
    assert all(row["density"] < 0.01 for row in filtered["latents"])


def test_a_program_measures_effects_and_scores(browser: TestClient, worker: FakeWorker) -> None:
    place = f"/api/effects/{SAE}"
    found = browser.post(f"{place}/2").json()
    assert found["score"] == pytest.approx(0.02)
    assert found == browser.get(f"/effects/{SAE}/2.json").json()
    assert browser.post(f"{place}/scores", json={"latents": [2, 4, DEAD]}).json()["scores"] == {
        "2": pytest.approx(0.02), "4": pytest.approx(0.04), str(DEAD): None}
    assert browser.post(f"{place}/scores", json={"latents": [60]}).json()["field"] == "latent"
    worker.says = [[Busy(retry_after_s=7)]]
    busy = browser.post(f"{place}/scores", json={"latents": [9]})
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "7")
