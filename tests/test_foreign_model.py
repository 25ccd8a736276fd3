"""Tests of the commands with another language model and text, so that nothing depends on the embedded model.

The model is a small Llama with a SentencePiece vocabulary, the text a file of stories.  Neither belongs
to this project: the test looks for them in the folder that `SAESCOPE_TEST_DATA` names.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from sae.autoencoder.config import read_config
from sae.store.build import Build
from sae.workspace.paths import Workspace

DATA = Path(os.environ.get("SAESCOPE_TEST_DATA") or "no folder is named")
MODEL, TEXT = DATA / "stories260k", DATA / "tinystories" / "tinystories_1.5MB.txt"
SAE = "stories260k/1-res-batchtopk-256"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODEL.is_dir() and TEXT.is_file()),
        reason="no foreign model and text: set SAESCOPE_TEST_DATA to a folder with stories260k/ and tinystories/")]


@dataclass(frozen=True)
class Made:
    """The result of the train command."""

    workspace: Workspace
    stories: str

    def command(self, *words: str) -> str:
        environment = {**os.environ, "SAESCOPE_HOME": str(self.workspace.root), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-m", "sae", *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def build(self) -> Build:
        return Build.open(self.workspace.build(SAE, self.workspace.build_ids(SAE)[-1]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("foreign")
    text = folder / "stories.txt"
    text.write_text(TEXT.read_text(encoding="utf-8")[:400_000], encoding="utf-8")
    made = Made(Workspace(folder / "home"), text.read_text(encoding="utf-8"))
    made.command(
        "train", "--model", str(MODEL), "--text", str(text), "--layer", "1", "--n-latents", "256", "--k", "8",
        "--tokens", "60000", "--batch-tokens", "1024", "--buffer-tokens", "16384", "--eval-tokens", "4000",
        "--ce-tokens", "2000", "--index-tokens", "20000")
    return made


def test_the_metrics_show_a_trained_sae(made: Made) -> None:
    config = read_config(made.workspace.sae(SAE))
    metrics = config["metrics"]
    assert config["model"] == {"name": os.path.abspath(MODEL), "id": "stories260k"}
    assert config["site"] == {"layer": 1, "hook": "blocks.1.hook_resid_post"}
    assert config["threshold"]["l0_calibrated"] == pytest.approx(8, rel=0.02)
    assert metrics["l0"] == pytest.approx(8, rel=0.1)
    assert 0 < metrics["fvu"] < 0.5
    # In nats; a uniform guess over 512 tokens costs 6.2.
    assert 1 < metrics["ce_clean"] < 2.2
    assert metrics["ce_clean"] < metrics["ce_sae"] < metrics["ce_mean"]


def test_the_text_of_every_context_is_in_the_stories(made: Made) -> None:
    build = made.build()
    rows = [context.tokens for latent in range(0, 256, 8) for context in build.contexts(latent)]
    rows += [sample.tokens for sample in build.samples()]
    assert len(rows) > 100
    for tokens in rows:
        info = build.vocabulary
        assert [info[t].special for t in tokens] == [True] + [False] * (len(tokens) - 1)
        text = b"".join(info[t].piece for t in tokens[1:]).decode(errors="ignore")
        # SentencePiece writes a space before a text that has none.
        assert text in made.stories or text.removeprefix(" ") in made.stories
    build.close()


def test_the_pages_and_their_json_show_text_and_no_pieces(made: Made) -> None:
    settings = Settings.load(home=made.workspace.root, demo=False, database_url="")
    with TestClient(create_app(settings, supervise=False)) as browser:
        number = browser.get(f"/{SAE}/latents.json?sort=density&flag=alive").json()["latents"][20]["latent"]
        pages = {path: browser.get(path) for path in (
            "/", f"/{SAE}", f"/{SAE}/latents", f"/{SAE}/{number}", f"/{SAE}/{number}?nl=1&window=full",
            f"/{SAE}/tokens", f"/steer?sae={SAE}&latent={number}", "/search?q=girl")}
        as_json = browser.get(f"/{SAE}/{number}.json").json()
    for path, answer in pages.items():
        assert answer.status_code == 200, path
        assert not re.search("▁|<0x|&lt;0x", answer.text), path
    shown = html.unescape(re.sub(r"<[^>]+>", "", pages[f"/{SAE}/{number}?nl=1&window=full"].text))
    strongest = as_json["contexts"][0]
    text = "".join(as_json["tokens"][str(token)] for token in strongest["tokens"])
    assert text.replace("\n", "↵\n") in shown.replace("\n\n", "\n")
    build = made.build()
    latent = build.latent(number)
    build.close()
    assert latent is not None
    assert as_json["latent"]["max_act"] == latent.max_act == strongest["act"]
    assert as_json["latent"]["n_tokens"] == sum(latent.hist)


def test_steering_keeps_spaces_and_changes_the_text(made: Made) -> None:
    build = made.build()
    latent = build.latents("density", True).rows[30].latent
    build.close()

    output = made.command(
        "steer", "--sae", SAE, "--latent", str(latent), "--prompt", "Once upon a time, there was a", "--strength", "8",
        "--length", "12", "--temperature", "0")
    baseline, steered = (cell.strip() for cell in re.findall(r"│(.*)│(.*)│", output)[0])
    assert re.match(r"Once upon a time, there was a [a-z]+ ", baseline)
    assert steered.startswith("Once upon a time, there was a")
    assert steered != baseline


def test_it_is_evaluated_and_indexed_again(made: Made) -> None:
    made.command("evaluate", "--sae", SAE, "--eval-tokens", "3000", "--ce-tokens", "1000")
    assert 3000 <= read_config(made.workspace.sae(SAE))["metrics"]["tokens"] < 4000
    before = made.workspace.build_ids(SAE)
    made.command("index", "--sae", SAE, "--index-tokens", "5000", "--top-contexts", "3")
    assert len(made.workspace.build_ids(SAE)) == len(before) + 1
    build = made.build()
    assert build.meta["command"] == f"saescope index --index-tokens 5000 --top-contexts 3 --sae {SAE}"
    assert json.dumps(build.meta["model"]).count("stories260k") == 2
    build.close()
