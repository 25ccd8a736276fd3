"""Exports from pages, Neuronpedia's address, and the pages of a dashboard that came from elsewhere."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file

from app.library.exports import Downloads
from sae.formats.dashboards.import_dashboard import import_dashboard
from sae.formats.writers import neuronpedia
from sae.formats.writers.archive import write_folder
from sae.formats.writers.dashboard_rows import Exporter
from sae.store.build import Build
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests import FIXTURES
from tests.builds import make_build
from tests.unit.app.conftest import sae_config
from tests.unit.app.pages.html import page, text_of

SAE, REAL = "demo/2-res-batchtopk-4k", FIXTURES / "dashboards" / "saedashboard"
L, D = 60, 8
CONFIG = sae_config(SAE, n_latents=L, d_model=D, k=12, bos={"prepended": True}, context_length=128)
W_DEC = np.random.default_rng(0).standard_normal((L, D)).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an SAE with weights and build; the same as a dashboard; and one by SAEDashboard."""
    workspace = Workspace(tmp_path_factory.mktemp("home"))
    path = workspace.build(SAE, "index-1")
    make_build(path, n_latents=L, n_contexts=30, sae_id=SAE)
    workspace.sae(SAE).mkdir(parents=True)
    save_file({"W_enc": W_DEC, "W_dec": W_DEC, "b_enc": np.zeros(L, np.float32), "b_dec": np.zeros(D, np.float32),
               "threshold": np.ones(1, np.float32)}, workspace.sae(SAE) / "sae.safetensors")
    write_json(workspace.sae(SAE) / "sae.json", CONFIG)
    build = Build.open(path)
    write_folder(neuronpedia.members(Exporter(build, CONFIG)), workspace.root / "tree")
    build.close()
    import_dashboard(workspace.root / "tree", workspace, name="again")
    import_dashboard(REAL, workspace)
    return workspace.root


@pytest.fixture
def browser(home: Path, client: TestClient, workspace: Workspace) -> TestClient:
    for part in ("saes", "builds"):
        shutil.copytree(home / part, workspace.root / part)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    return client


def contexts_of(html: str) -> str:
    """The words of the contexts and the lists beside them, but for what needs weights or names the SAE."""
    main = html[html.index('class="latent-page"') :].replace("⌕", "").replace("again", "2-res-batchtopk-4k")
    for part in ("effects-card", "try"):
        main = re.sub(rf'<(section|details)[^>]*id="{part}".*?</\1>', "", main, flags=re.S)
    return re.sub(r"\s+", " ", text_of(main))


@pytest.mark.parametrize("latent", [0, 3, 7, 9, 13, 17])
def test_the_same_page_after_export_and_import(browser: TestClient, latent: int) -> None:
    ours, theirs = page(browser, f"/{SAE}/{latent}"), page(browser, f"/demo/again/{latent}")
    ours, theirs = contexts_of(ours), contexts_of(theirs)
    assert theirs == ours
    heat = [re.findall(r'class="t ?([^"]*)"', html) for html in (ours, theirs)]
    assert heat[0] == heat[1]


def test_pages_of_a_dashboard_say_what_is_missing(browser: TestClient) -> None:
    sae = page(browser, "/tiny/0-res-tiny")
    for said in ("computed elsewhere", "SAEDashboard", "no weights here", "The file does not say",
                 "steering needs the SAE"):
        assert said in sae
    latent = page(browser, "/tiny/0-res-tiny/0")
    assert "10.75" not in latent
    assert re.search(r'<span class="button" aria-disabled="true"[^>]*>Steer</span>', latent)
    assert 'href="/steer?sae=tiny/0-res-tiny&amp;latent' not in latent.replace("%2F", "/")
    assert ">None" not in latent
    assert ">nan" not in latent
    assert "position 11" in latent, "position 0 was left out by the file, which is known"
    assert " id " not in "".join(re.findall(r'title="([^"]*)"', latent)), "the file has no token ids"
    assert "does not say how many latents each token needs" in page(browser, "/tiny/0-res-tiny/tokens")
    assert "The file shows no firing" in page(browser, "/tiny/0-res-tiny/5")
    home = page(browser, "/")
    assert "A dashboard computed elsewhere (SAEDashboard), without weights" in home
    for address in ("/latents", "/latents?sort=kurtosis", "/latents?token=self", "/latents?flag=dead"):
        assert ">None" not in page(browser, "/tiny/0-res-tiny" + address)
    assert "tiny/0-res-tiny" in page(browser, "/search?q=tokens")


def test_steering_a_dashboard_is_refused_with_the_reason(browser: TestClient) -> None:
    html = browser.get("/steer?sae=tiny/0-res-tiny&latent=0").text
    assert "without weights, so it cannot steer" in html


def test_neuronpedias_address(browser: TestClient) -> None:
    row = browser.get(f"/api/feature/{SAE}/9").json()
    assert (row["modelId"], row["layer"], row["index"]) == ("demo", "2-res-batchtopk-4k", "9")
    assert row["activations"][0]["maxValue"] == row["maxActApprox"]
    first = row["activations"][0]
    assert len(first["tokens"]) == len(first["values"])
    assert first["values"][first["maxValueTokenIndex"]] == first["maxValue"]
    assert row["source"]["hfRepoId"] is None
    assert row["explanations"] == []
    assert browser.get("/api/feature/demo/2-again/9").json()["pos_str"] == row["pos_str"]
    for address in (f"/{SAE}/600", "/demo/none/1", f"/{SAE}/x", f"/{SAE}/" + "9" * 5000):
        answer = browser.get(f"/api/feature{address}")
        assert answer.status_code == 404
        assert "error" in answer.json()


def test_labels_are_explanations(browser: TestClient, admin: TestClient) -> None:
    admin.post(f"/{SAE}/9/label", data={"text": "a dot"}, headers={"Sec-Fetch-Site": "same-origin"})
    assert browser.get(f"/api/feature/{SAE}/9").json()["explanations"][0]["description"] == "a dot"
    archive = zip_of(browser, "neuronpedia")
    assert any("/explanations/" in name for name in archive.namelist())


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_neuronpedias_classes_read_a_latent(browser: TestClient, admin: TestClient) -> None:
    """The classes are of the package `neuronpedia`, which is no dependency of ours.

    They refuse the share of −1 that Neuronpedia's own top activations have, so the contexts of the bands are read.
    """
    theirs = pytest.importorskip("neuronpedia")
    admin.post(f"/{SAE}/8/label", data={"text": "a comma"}, headers={"Sec-Fetch-Site": "same-origin"})
    row = browser.get(f"/api/feature/{SAE}/8").json()
    [one] = [theirs.np_explanation.Explanation.from_np_db_json(found) for found in row["explanations"]]
    assert (one.text, one.source, one.index) == ("a comma", "2-res-batchtopk-4k", 8)
    bands = [found for found in row["activations"] if found["binContains"] >= 0]
    read = [theirs.np_activation.Activation.from_np_db_json(found) for found in bands]
    assert [(a.tokens, a.values, a.quantileMax) for a in read] == [
        (a["tokens"], a["values"], a["binMax"]) for a in bands]
    assert read


def test_a_decoder_vector(browser: TestClient) -> None:
    answer = browser.get(f"/{SAE}/9.npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), W_DEC[9])
    missing = browser.get("/demo/again/9.npy")
    assert missing.status_code == 404
    assert "no weights" in missing.text


def test_circuit_tracer(browser: TestClient) -> None:
    answer = browser.get(f"/{SAE}/9.circuit-tracer.json")
    assert answer.json()["index"] == 9
    again = browser.get(f"/{SAE}/9.circuit-tracer.json", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def zip_of(browser: TestClient, kind: str, sae: str = SAE) -> zipfile.ZipFile:
    answer = browser.get(f"/{sae}/export/{kind}.zip")
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    return archive


@pytest.mark.parametrize("kind", ["saelens", "saescope", "parquet", "neuronpedia", "saedashboard"])
def test_downloads(browser: TestClient, kind: str) -> None:
    names = {name.partition("/")[2] for name in zip_of(browser, kind).namelist()}
    wanted = {
        "saelens": "cfg.json", "saescope": "sae.json", "parquet": "latent.parquet", "saedashboard": "batch-0.json",
        "neuronpedia": "v1/demo/2-res-batchtopk-4k/features/batch-0.jsonl.gz"}[kind]
    assert wanted in names
    assert f'href="/{SAE}/export/{kind}.zip"' in page(browser, f"/{SAE}")


def test_saelens_of_a_download_is_whole(browser: TestClient) -> None:
    archive = zip_of(browser, "saelens")
    cfg = json.loads(archive.read("2-res-batchtopk-4k-saelens/cfg.json"))
    assert (cfg["architecture"], cfg["d_in"], cfg["d_sae"]) == ("jumprelu", D, L)


def test_what_cannot_be_had_is_not_offered(browser: TestClient) -> None:
    html = page(browser, "/demo/again")
    assert "export/saelens" not in html
    assert "export/parquet.zip" in html
    for address in ("/demo/again/export/saelens.zip", f"/{SAE}/export/npz.zip", "/demo/none/export/parquet.zip"):
        assert browser.get(address).status_code == 404


def test_few_at_a_time_and_not_too_large(browser: TestClient) -> None:
    state = browser.app.state  # type: ignore[attr-defined]
    state.downloads = Downloads(1, 10**9)
    for _ in range(3):  # the place is given back every time
        zip_of(browser, "saescope")
    state.downloads._slots.acquire()
    busy = browser.get(f"/{SAE}/export/parquet.zip")
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "30")
    state.downloads = Downloads(1, 1000)
    large = browser.get(f"/{SAE}/export/parquet.zip")
    assert large.status_code == 413
    assert "SAESCOPE_MAX_EXPORT_BYTES" in large.text
    assert f"saescope export --sae {SAE} --format parquet" in large.text
