"""An SAE of vectors of anything: trained, measured, indexed and browsed, without a language model."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from app.main import create_app
from app.settings import Settings
from sae.autoencoder.config import read_config
from sae.errors import UserError
from sae.lm.conformance.opening import open_model
from sae.lm.item_files import item_files
from sae.lm.item_model import ItemModel
from sae.lm.model_info import find_model
from sae.lm.slow_row_model import open_row_model
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, execute
from sae.store.build import Build
from sae.workspace.paths import Workspace

# A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
D, SAE = 12, "vectors/0-res-batchtopk-32"


def vectors(n: int, seed: int) -> np.ndarray:
    """Sparse sums of 24 directions, as an SAE should find them."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((n, 24)) < 0.1) * rng.uniform(1, 3, (n, 24))
    return (codes @ np.random.default_rng(9).normal(size=(24, D))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("items") / "vectors"
    folder.mkdir()
    np.save(folder / "a.npy", vectors(1500, 0).astype(np.float16))
    (folder / "a.jsonl").write_text("\n".join(
        json.dumps({"text": f"item {i}", "image": "cat.png"} if i % 2 else {"url": f"https://example.org/{i}"})
        for i in range(1500)))
    (folder / "cat.png").write_bytes(PNG)
    save_file({"x": torch.from_numpy(vectors(2500, 1)).bfloat16()}, folder / "b.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("home"))
    run = start("train", {
        "model": str(folder), "context_length": 16, "n_latents": 32, "k": 3, "tokens": 40_000, "batch_tokens": 256,
        "buffer_tokens": 2048, "eval_tokens": 1000, "index_tokens": 4000, "device": "cpu"}, workspace)
    assert execute(run, workspace) == EXIT_OK, run.status()
    return workspace


def test_items_are_the_tokens(folder: Path) -> None:
    info = find_model(str(folder))
    assert (info.d_model, info.d_vocab, info.n_layers, info.items) == (D, 4001, 1, True)
    model = ItemModel(info, torch.device("cpu"))
    tokens = torch.tensor([[0, 1, 1500, 1501, 4000]])
    x_SD = model.activations(tokens, "blocks.0.hook_resid_post")[0]
    a, b = np.load(folder / "a.npy").astype(np.float32), torch.from_numpy(vectors(2500, 1)).bfloat16().float()
    assert x_SD[0].abs().max() == 0
    for row, expected in zip(x_SD[1:], (a[0], a[-1], b[0], b[-1]), strict=True):
        assert torch.equal(row, torch.as_tensor(expected))
    pieces, special = model.vocabulary()
    assert [pieces[i].decode() for i in (1, 2, 1501)] == ["https://example.org/0\n", "item 1\n", "b#0\n"]
    assert special.count(True) == 1


def test_an_sae_of_items_is_trained_measured_and_indexed(made: Workspace, folder: Path) -> None:
    config = read_config(made.sae(SAE))
    assert config["metrics"]["fvu"] < 0.4
    assert "delta_ce" not in config["metrics"]
    assert config["training"]["text"] == str(folder)
    build = Build.open(made.build(SAE, made.build_ids(SAE)[-1]))
    assert build.meta["tokens"] > 3500
    alive = [latent for n in range(32) if (latent := build.latent(n)) is not None and not latent.dead]
    assert len(alive) > 16
    strongest = build.contexts(alive[0].latent)[0]
    assert build.vocabulary[strongest.tokens[strongest.peak]].piece.endswith(b"\n")
    assert alive[0].logit_pos == []
    build.close()


def test_pages_show_items_and_steering_says_why_not(made: Workspace) -> None:
    build = Build.open(made.build(SAE, made.build_ids(SAE)[-1]))
    number = next(n for n in range(32) if (latent := build.latent(n)) is not None and not latent.dead)
    build.close()
    settings = Settings.load(home=made.root, demo=False, database_url="")
    with TestClient(create_app(settings, supervise=False)) as browser:
        for path in ("/", "/vectors", f"/{SAE}", f"/{SAE}/latents", f"/{SAE}/tokens", f"/{SAE}/{number}.json"):
            assert browser.get(path).status_code == 200, path
        page = browser.get(f"/{SAE}/{number}")
        assert page.status_code == 200
        assert "item " in page.text or "b#" in page.text
        assert "Top logits" not in page.text
    with pytest.raises(UserError, match="holds vectors and no language model"):
        open_row_model(open_model(str(read_config(made.sae(SAE))["model"]["name"]), "cpu", made))


def test_widths_lines_and_numbers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 4), np.nan, np.float32))
    (tmp_path / "x.txt").write_text("one\ntwo\n")
    model = ItemModel(find_model(str(tmp_path)), torch.device("cpu"))
    with pytest.raises(UserError, match="has 2 lines, and "):
        model.vocabulary()
    with pytest.raises(UserError, match=r"item 1 of .* not finite"):
        model.activations(torch.tensor([[0, 2]]), "")
    np.save(tmp_path / "y.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(UserError, match="widths 4, 5"):
        item_files(tmp_path)


def test_latents_show_their_items_as_images_and_links(made: Workspace, folder: Path) -> None:
    with TestClient(create_app(Settings(home=made.root))) as client:
        pages = "".join(client.get(f"/{SAE}/{number}").text for number in range(32))
        images = sorted(set(re.findall(rf'<img src="(/{SAE}/item/\d+)" alt="item \d+"', pages)))
        assert images
        assert re.search(r'<a href="https://example\.org/\d+" rel="noopener noreferrer nofollow"', pages)
        answer = client.get(images[0])
        assert answer.content == PNG
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        for token in (0, 1, 1502, 10**9):  # no item, a link, an item that nothing is said of
            assert client.get(f"/{SAE}/item/{token}").status_code == 404
        (folder / "cat.png").write_bytes(b"<script>")
        assert client.get(images[0]).status_code == 404
        (folder / "cat.png").write_bytes(PNG)
