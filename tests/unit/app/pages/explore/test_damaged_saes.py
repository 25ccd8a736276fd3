"""Tests that one damaged SAE is listed with the reason, and that everything else goes on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae

ODD: tuple[Any, ...] = (None, "x", [], 10**30, -1)
FIELDS = ("architecture", "n_latents", "k", "d_model", "site", "site.layer", "site.hook", "site.out_hook", "model",
          "model.name", "normalize", "metrics", "metrics.fvu", "metrics.l0", "training", "training.tokens",
          "training.seconds", "threshold", "threshold.trained", "run", "weights", "imported", "created")
TEXTS = {
    b"{": "sae.json is not JSON", b"[]": "sae.json is not a JSON object", b"\xff\xfe{}": "sae.json is not UTF-8 text",
    b"[" * 100_000: "sae.json is nested too deeply", b'{"k": NaN}': "sae.json has the value NaN",
    b'{"run": "\\ud800"}': "sae.json is not UTF-8 text", b"{}": "sae.json: architecture is missing"}


def sync(client: TestClient) -> None:
    client.app.state.catalog.sync()  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", TEXTS, ids=list(TEXTS.values()))
def test_the_server_starts_and_says_what_is_damaged(settings: Settings, text: bytes) -> None:
    write_sae(settings.workspace, "demo/good")
    write_sae(settings.workspace, "demo/torn")
    (settings.workspace.sae("demo/torn") / "sae.json").write_bytes(text)
    with TestClient(create_app(settings, supervise=False)) as client:
        home = client.get("/")
        assert home.status_code == 200
        assert "demo/torn" in home.text
        assert TEXTS[text] in home.text
        assert client.get("/index.json").json()["damaged"].keys() == {"demo/torn"}
        assert [sae["sae"] for sae in client.get("/api/saes").json()] == ["good"]
        assert client.get("/demo/good").status_code == 200
        page = client.get("/demo/torn")
    assert page.status_code == 503
    assert f"demo/torn is damaged: {TEXTS[text]}" in page.text
    assert "saescope delete demo/torn" in page.text


def test_a_number_that_no_database_takes(settings: Settings) -> None:
    write_sae(settings.workspace, "demo/torn", n_latents=10**30)
    with TestClient(create_app(settings, supervise=False)) as client:
        said = client.get("/index.json").json()["damaged"]["demo/torn"]
    assert said == "sae.json: n_latents must be a whole number from 0 to 2,147,483,647"


def test_a_mended_sae_comes_back(browsable: TestClient, workspace: Workspace) -> None:
    path = workspace.sae(BATCH) / "sae.json"
    good = path.read_text(encoding="utf-8")
    path.write_text("{", encoding="utf-8")
    sync(browsable)
    assert browsable.get(f"/{BATCH}/latents").status_code == 503
    assert browsable.get(f"/{TOP}/latents").status_code == 200
    path.write_text(good, encoding="utf-8")
    sync(browsable)
    assert browsable.get(f"/{BATCH}/latents").status_code == 200


def test_odd_values_never_break_the_pages_of_others(browsable: TestClient, workspace: Workspace) -> None:
    path = workspace.sae(BATCH) / "sae.json"
    good = json.loads(path.read_text(encoding="utf-8"))
    addresses = itertools.cycle(("/demo", "/steer", "/", "/index.json"))  # of pages that list SAEs
    for field in FIELDS:
        for value in ODD:
            path.write_text(json.dumps(_with(good, field, value)), encoding="utf-8")
            sync(browsable)
            address = next(addresses)
            assert browsable.get(address).status_code == 200, (field, value, address)
            damaged = BATCH in browsable.app.state.catalog.damaged()  # type: ignore[attr-defined]
            assert browsable.get(f"/{BATCH}").status_code == (503 if damaged else 200), (field, value)


def _with(config: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    outer, _, inner = field.partition(".")
    return {**config, outer: {**config[outer], inner: value} if inner else value}


def test_damaged_weights_can_still_be_browsed(browsable: TestClient, workspace: Workspace) -> None:
    weights = workspace.sae(BATCH) / "sae.safetensors"
    write_weights(weights)
    sync(browsable)
    assert browsable.get("/index.json").json()["damaged"] == {}
    with open(weights, "rb+") as file:
        file.truncate(weights.stat().st_size - 4)
    sync(browsable)
    assert "sae.safetensors is damaged" in browsable.get("/").text
    page = browsable.get(f"/{BATCH}")
    assert page.status_code == 200
    assert "This SAE can only be browsed, because its sae.safetensors is damaged" in page.text
    assert browsable.get(f"/{BATCH}/3").status_code == 200
    said = browsable.post("/inspect", data={"sae": BATCH, "text": "def f"}, follow_redirects=False)
    assert said.status_code == 422
    assert "can only be browsed, because its sae.safetensors is damaged" in said.text


def write_weights(path: Path) -> None:
    """Write a small file with the tensors of an SAE."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"W_enc": np.zeros((4, 2), np.float32), "W_dec": np.zeros((4, 2), np.float32)}, str(path))
